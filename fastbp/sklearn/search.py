"""`MLPSearchCV`: scikit-learn's search for parameters, with threads instead of processes, and with rungs that go on."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from joblib import parallel_config
from joblib.parallel import ParallelBackendBase
from sklearn import config_context, get_config
from sklearn.base import clone, is_classifier
from sklearn.model_selection import ParameterGrid, ParameterSampler, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from fastbp.backends import threads
from fastbp.errors import unknown_name
from fastbp.search.trials import rungs
from fastbp.sklearn.estimator import Compiled

if TYPE_CHECKING:
    from typing import Self

    _BaseSearchCV: TypeAlias = Any  # which has no types
else:
    from sklearn.model_selection._search import BaseSearchCV as _BaseSearchCV

_BEYOND_SCIKIT = ("n_jobs", "pre_dispatch")  # which say how processes are fed


class MLPSearchCV(_BaseSearchCV):
    """Cross-validated search for the parameters of an estimator, with threads: a fit of fastbp's releases the GIL.

    It is scikit-learn's `GridSearchCV`, or with `n_candidates` its `RandomizedSearchCV`: the same fits, splits, scores
    bit by bit, `cv_results_` and attributes. No process is started, and nothing is copied into one. With `halving` only
    the best candidates are trained to the end.

    Parameters
    ----------
    estimator : estimator
        Such as a `fastbp.sklearn.MLPClassifier`, or a pipeline with one. Any other will do, but has to release the GIL
        to gain from threads.
    space : dict of str to list or distribution, or a list of such dicts
        Values to try, by the name of a parameter, as ``param_grid`` and ``param_distributions`` of scikit-learn's.
        Distributions, which have a method ``rvs``, need `n_candidates`.
    n_candidates : int or None, default None
        How many are drawn, as ``n_iter`` of `RandomizedSearchCV`; None: all combinations.
    halving : float or None, default None
        Successive halving, with epochs as what is spent: all candidates are trained for a part of the estimator's
        `max_iter` epochs, the best ``1 / halving`` of them go on from where they are until they have ``halving`` times
        as many, and so on up to `max_iter`. Of equals the first go on. The estimator is an `MLPClassifier` or
        `MLPRegressor` of fastbp, alone or at the end of a pipeline. In the last rung its scores are those of a whole
        fit, bit by bit unless it has dropout.
    scoring : str, callable, list, tuple or dict, default None
        As in scikit-learn. With `halving` and several metrics `refit` names the one that decides.
    refit : bool, str or callable, default True
        As in scikit-learn.
    cv : int, splitter or iterable, default None
        As in scikit-learn.
    error_score : "raise" or float, default NaN
        As in scikit-learn.
    return_train_score : bool, default False
        As in scikit-learn.
    verbose : int, default 0
        As in scikit-learn.
    random_state : int, RandomState or None, default None
        Of the draws with `n_candidates`.
    n_threads : int or None, default None
        Fits at once, each on one thread. None is ``FASTBP_NUM_THREADS``, ``OMP_NUM_THREADS`` or the CPUs.
    executor : executor, callable, "joblib" or None, default None
        What runs the fits instead of threads of this process: an object with ``submit`` as those of
        `concurrent.futures`, or a function that makes one, which is shut down at the end; a ``distributed.Client``; or
        "joblib", which does as scikit-learn does under the ``joblib.parallel_config`` that is active. A clone has the
        same one; a pickle has none.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_ : as in scikit-learn
    refit_time_, multimetric_, classes_, n_features_in_, feature_names_in_ : as in scikit-learn
    n_candidates_, n_resources_ : list of int
        With `halving`, of each rung: how many candidates are in it, and their epochs at its end. `cv_results_` then has
        a row for each candidate of each rung, with ``"iter"``, the number of the rung, and ``"n_resources"``.
    n_iterations_ : int
        The number of rungs.

    Raises
    ------
    ValueError
        What scikit-learn refuses; a key of `space` that is no parameter; a distribution without `n_candidates`; with
        `halving` an estimator that cannot go on, ``early_stopping=True``, or an executor.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastbp.sklearn import MLPClassifier, MLPSearchCV
    >>> X, y = load_iris(return_X_y=True)
    >>> net = MLPClassifier((20,), max_iter=100, tol=0, random_state=0)
    >>> space = {"learning_rate_init": [0.0001, 0.003, 0.03], "alpha": [0.0, 0.01]}
    >>> search = MLPSearchCV(net, space, cv=3, halving=2).fit(X, y)
    >>> search.n_candidates_, search.n_resources_, search.best_params_["learning_rate_init"]
    ([6, 3, 2, 1], [12, 25, 50, 100], 0.03)
    """

    __module__ = "fastbp.sklearn"

    n_jobs = None  # of scikit-learn's class; here n_threads
    pre_dispatch = "all"
    n_candidates_: list[int]
    n_resources_: list[int]
    n_iterations_: int
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{name: kinds for name, kinds in _BaseSearchCV._parameter_constraints.items() if name not in _BEYOND_SCIKIT},
        "space": [dict, list, tuple],
        "n_candidates": [Interval(Integral, 1, None, closed="left"), None],
        "halving": [Interval(Real, 1, None, closed="neither"), None],
        "random_state": ["random_state"],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
        "executor": "no_validation",
    }

    def __init__(
        self, estimator: Any, space: Any, *, n_candidates: int | None = None, halving: float | None = None,
        scoring: Any = None, refit: Any = True, cv: Any = None, error_score: Any = np.nan,
        return_train_score: bool = False, verbose: int = 0, random_state: Any = None, n_threads: int | None = None,
        executor: Any = None,
    ) -> None:  # fmt: skip
        self.estimator = estimator
        self.space = space
        self.n_candidates = n_candidates
        self.halving = halving
        self.scoring = scoring
        self.refit = refit
        self.cv = cv
        self.error_score = error_score
        self.return_train_score = return_train_score
        self.verbose = verbose
        self.random_state = random_state
        self.n_threads = n_threads
        self.executor = executor

    def __sklearn_clone__(self) -> Self:
        without = copy.copy(self)  # an executor, see below
        made: Self = super(MLPSearchCV, without).__sklearn_clone__()
        made.executor = self.executor
        return made

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if not isinstance(self.executor, (str, type(None))):
            state["executor"] = None  # an engine is of this process
        return state

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Search, and fit the best estimator to all rows.

        Parameters
        ----------
        X : array_like or sparse matrix, (n, features)
        y : array_like, (n,) or (n, outputs), optional
        **params : dict
            As in scikit-learn: of the estimator's `fit` such as `sample_weight`, of the scorer, and ``groups``.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            What scikit-learn refuses, and see the class.
        """
        self._validate_params()
        n_threads = threads.requested(self.n_threads)
        self._check_space()
        with _engine(self.executor, n_threads):
            if self.halving is None:
                super().fit(X, y, **params)
                return self
            self._check_halving()
            within = copy.copy(self)  # whose estimator hands out those that go on
            within.cv = _Once(check_cv(self.cv, y, classifier=is_classifier(self.estimator)))
            within._going = _Going(clone(self.estimator), within.cv)
            within.estimator = within._going.base
            super(MLPSearchCV, within).fit(X, y, **params)
        own = {*self.get_params(deep=False), "_going"}
        for name, value in vars(within).items():
            if name not in own:
                setattr(self, name, value)
        return self

    # -------------------------------------------------------------- what is tried

    def _check_space(self) -> None:
        spaces = [self.space] if isinstance(self.space, Mapping) else self.space
        known = {name.partition("__")[0] for name in self.estimator.get_params()}
        for space in spaces:
            if not isinstance(space, Mapping):
                raise TypeError("space must be a dict from a parameter to its values, or a list of such, got "
                                f"{space!r}")  # fmt: skip
            for name, values in space.items():
                if str(name).partition("__")[0] not in known:
                    kind = type(self.estimator).__name__
                    raise unknown_name(f"key of space, a parameter of {kind}", name, self.estimator.get_params())
                if hasattr(values, "rvs") and self.n_candidates is None:
                    raise ValueError(f"space[{name!r}] is a distribution: say how many to draw, as in n_candidates=32")

    def _candidates(self) -> list[dict[str, Any]]:
        if self.n_candidates is None:
            return list(ParameterGrid(self.space))
        return list(ParameterSampler(self.space, self.n_candidates, random_state=self.random_state))

    def _run_search(self, evaluate_candidates: Callable[..., dict[str, Any]]) -> None:
        candidates = self._candidates()
        if self.halving is None:
            evaluate_candidates(candidates)
            return
        for name in _SAID_BY_HALVING:
            if any(key.rpartition("__")[2] == name for candidate in candidates for key in candidate):
                raise ValueError(f"space: {name} is what halving says; leave it out of space")
        plan = rungs(len(candidates), int(_network_of(self.estimator).max_iter), float(self.halving))
        alive, before = list(range(len(candidates))), 0
        results: dict[str, Any] = {}
        self.n_candidates_, self.n_resources_ = [count for count, _ in plan], [end for _, end in plan]
        self.n_iterations_ = len(plan)
        for number, (count, end) in enumerate(plan):
            if number:
                score = self._deciding(results)[-len(alive) :]
                worth = np.where(np.isnan(score), np.inf, -score)
                alive = sorted(alive[k] for k in np.argsort(worth, kind="stable")[:count])
            self._going.begin(alive, end - before)
            told = {"iter": [number] * count, "n_resources": [end] * count}
            results = evaluate_candidates([candidates[k] for k in alive], more_results=told)
            before = end

    # -------------------------------------------------------------- halving

    def _check_halving(self) -> None:
        if self.executor is not None:
            raise ValueError("halving goes on with estimators, which stay in this process, and takes no executor: give "
                             "one of the two. fastbp.sweep(..., halving=, executor=) has both")  # fmt: skip
        if isinstance(self.scoring, (list, tuple, set, dict)) and not isinstance(self.refit, str):
            raise ValueError("halving: of several metrics refit= must name the one that decides, got "
                             f"refit={self.refit!r}")  # fmt: skip
        _network_of(self.estimator)

    def _deciding(self, results: dict[str, Any]) -> Any:
        name = self.refit if f"mean_test_{self.refit}" in results else "score"
        if f"mean_test_{name}" not in results:
            raise ValueError(f"halving: of several metrics refit= must name the one that decides, got refit={name!r}")
        return results[f"mean_test_{name}"]

    @staticmethod
    def _select_best_index(refit: Any, refit_metric: str, results: dict[str, Any]) -> int:
        """Of the last rung."""
        if callable(refit) or "iter" not in results:
            return int(_BaseSearchCV._select_best_index(refit, refit_metric, results))
        last = np.flatnonzero(results["iter"] == max(results["iter"]))
        score = results[f"mean_test_{refit_metric}"][last]
        return int(last[np.where(np.isnan(score), -np.inf, score).argmax()])


_SAID_BY_HALVING = ("max_iter", "warm_start", "keep_optimizer_state")


class _Once:
    """A splitter that always gives the same splits."""

    def __init__(self, cv: Any) -> None:
        self.cv = cv
        self.splits: list[Any] | None = None

    def split(self, *arguments: Any, **named: Any) -> Any:
        if self.splits is None:
            self.splits = list(self.cv.split(*arguments, **named))
        return self.splits

    def __getattr__(self, name: str) -> Any:
        if name == "cv":  # of an empty copy
            raise AttributeError(name)
        return getattr(self.cv, name)


def _network_of(estimator: Any) -> Any:
    """The perceptron that an estimator is, or that a pipeline ends in; one that can go on."""
    last = estimator
    while isinstance(last, Pipeline):
        last = last.steps[-1][1]
    if not isinstance(last, Compiled):
        raise ValueError("halving goes on with an MLPClassifier or MLPRegressor of fastbp.sklearn, alone or at the end "
                         f"of a pipeline; got {estimator!r}")  # fmt: skip
    if last.early_stopping:
        raise ValueError("halving: early_stopping=True holds back other rows in each rung; leave it to halving to stop")
    if last.solver == "lbfgs" and last.optimizer is None:
        raise ValueError("halving: solver='lbfgs' begins anew in each fit, and cannot go on")
    return last


class _Going:
    """Estimators of all candidates and splits, which go on from rung to rung.

    scikit-learn's search makes the estimator of each fit as a clone of one, candidate by candidate and split by split;
    `base` gives, as its clones, those of the coming rung. They are called as any other: set_params, fit, by scorers.
    """

    def __init__(self, base: Any, splits: _Once) -> None:
        self.base, self.splits = base, splits
        self.kept: dict[tuple[int, int], _One] = {}
        self._candidates: Sequence[int] | None = None  # of the coming rung
        self._given = self._epochs = 0
        base.__sklearn_clone__ = self._next

    def begin(self, candidates: Sequence[int], epochs: int) -> None:
        """The coming rung, of so many more epochs."""
        self._candidates, self._given, self._epochs = candidates, 0, epochs
        self.kept = {key: one for key, one in self.kept.items() if key[0] in candidates}

    def _next(self) -> Any:
        if self._candidates is None:
            return self.base  # which scikit-learn takes clones of
        number, split = divmod(self._given, len(self.splits.splits or ()))  # it has asked for them by now
        new = type(self.base).__sklearn_clone__
        if number >= len(self._candidates):
            return new(self.base)  # for the refit
        self._given += 1
        key = self._candidates[number], split
        one = self.kept[key] = self.kept.get(key) or _One(new(self.base))
        one.epochs = self._epochs
        return one.estimator


class _One:
    """An estimator that goes on: its first `fit` is as any, a later one is by warm start for `epochs` more."""

    def __init__(self, estimator: Any) -> None:
        self.estimator, self.epochs = estimator, 0
        self._set_params, self._fit = estimator.set_params, estimator.fit
        self._network: Any = None
        estimator.set_params, estimator.fit = self.set_params, self.fit

    def set_params(self, **params: Any) -> Any:
        if self._network is None:
            self._set_params(**params)
            network = self._network = _network_of(self.estimator)
            network.warm_start = network.keep_optimizer_state = network._memory().goes_on = True
            if isinstance(network.random_state, (int, np.integer)):  # whose draws go on
                network.random_state = check_random_state(int(network.random_state))
        return self.estimator

    def fit(self, *arguments: Any, **named: Any) -> Any:
        network = self._network
        known = vars(network)
        if "n_iter_" in known and (
            known["n_iter_"] < network.max_iter or network._no_improvement_count > network.n_iter_no_change
        ):
            return self.estimator  # it has ended by itself
        network.max_iter = self.epochs
        return self._fit(*arguments, **named)


# ------------------------------------------------------------------ what runs the fits


class _Submitting(ParallelBackendBase):
    """joblib's way to an executor."""

    supports_retrieve_callback = True
    supports_sharedmem = uses_threads = True

    def __init__(self, executor: Any, n_workers: int) -> None:
        super().__init__(nesting_level=0)
        self.executor, self.n_workers = executor, n_workers
        self.futures: list[Any] = []

    def effective_n_jobs(self, n_jobs: Any) -> int:
        return self.n_workers

    def submit(self, func: Callable[[], Any], callback: Any = None) -> Any:
        future = self._submitted(func)
        self.futures.append(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # as joblib before 1.5 calls it

    def _submitted(self, func: Callable[[], Any]) -> Any:
        return self.executor.submit(func)

    def retrieve_result_callback(self, out: Any) -> Any:
        return out.result()

    def stop_call(self) -> None:
        self.futures.clear()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        for future in self.futures:
            future.cancel()


class _InThreads(_Submitting):
    """The same for threads: what belongs to the calling thread holds in each, and the process's filters of warnings are
    left alone, which scikit-learn would set anew in each call and which all threads share."""

    def __init__(self, executor: Any, n_workers: int) -> None:
        super().__init__(executor, n_workers)
        self.config, self.context = get_config(), copy_context()
        self.context.run(threads.share.set, 1)

    def _submitted(self, func: Any) -> Any:
        calls = getattr(func, "items", None)
        if isinstance(calls, list):
            func.items = [(getattr(call, "function", call), *arguments) for call, *arguments in calls]
        return self.executor.submit(self.context.copy().run, self._run, func)

    def _run(self, func: Callable[[], Any]) -> Any:
        with config_context(**self.config):
            return func()


@contextmanager
def _engine(given: Any, n_threads: int) -> Iterator[None]:
    """While fits are run by what `executor=` says."""
    if isinstance(given, str):
        if given != "joblib":
            raise ValueError(f"executor must be an executor, 'joblib' or None, got {given!r}")
        yield
        return
    # scikit-learn's checks change filters of warnings for a moment, which threads may give back in the wrong order.
    with warnings.catch_warnings(), ExitStack() as stack:
        if given is None:
            pool: Any = ThreadPoolExecutor(n_threads, "fastbp-search")
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        elif hasattr(given, "get_executor"):
            pool = given.get_executor()
        elif hasattr(given, "submit"):
            pool = given
        elif callable(given):
            pool = given()
            if not callable(getattr(pool, "submit", None)):
                raise TypeError(f"executor: the function gave {pool!r}, which has no `submit`")
            if hasattr(pool, "shutdown"):
                stack.callback(pool.shutdown)
        else:
            raise TypeError(f"executor must have a method submit, or be a function that makes such, got {given!r}")
        n_workers = n_threads if given is None else max(2, int(getattr(pool, "_max_workers", 0) or n_threads))
        kind = _InThreads if isinstance(pool, ThreadPoolExecutor) else _Submitting
        stack.enter_context(parallel_config(backend=kind(pool, n_workers), n_jobs=n_workers))
        yield
