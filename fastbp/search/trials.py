"""sweep: candidates tried on folds, all at once, in rungs; what came out becomes a `Sweep`."""

from __future__ import annotations

import math
import os
import re
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from fastbp import checks, metrics
from fastbp.arrays import is_sparse, is_stored, real_array
from fastbp.errors import unknown_name
from fastbp.many.fit import fit_many
from fastbp.many.given import folder_of, indices
from fastbp.optimizers import LBFGS
from fastbp.search import space as spaces
from fastbp.search.found import Sweep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.history import ManyHistory
    from fastbp.mlp import MLP
    from fastbp.search.space import Candidate, Method
    from fastbp.typing import Array, Examples, Folds, Rows, Space

_VALIDATION = ("validation_split", "validation_rows")  # of fit_many; `validation_data` and `cv` are sweep's own


def rungs(n_candidates: int, epochs: int, factor: float) -> list[tuple[int, int]]:
    """Successive halving: of each rung how many candidates are in it, and the epochs that they have at its end.

    The last rung has all `epochs`, each one before it a part of `factor` of the next. One candidate is left at last,
    or a few where there are not epochs enough for more rungs.
    """
    counts, ends = [n_candidates], [epochs]
    while counts[-1] > 1:
        end = min(ends[-1] - 1, int(epochs / factor ** len(ends)))
        if end < 1:
            break
        counts.append(min(counts[-1] - 1, math.ceil(counts[-1] / factor)))
        ends.append(end)
    return list(zip(counts, reversed(ends), strict=True))


def sweep(
    space: Space,
    X: Rows,
    y: Array,
    *,
    n: int | None = None,
    method: Method = "grid",
    cv: int | Folds | None = None,
    validation_data: Examples | None = None,
    metric: str = "val_loss",
    mode: Literal["auto", "min", "max"] = "auto",
    halving: float | None = None,
    refit: bool = True,
    seed: int | np.random.Generator | np.random.SeedSequence | None = 0,
    executor: Any = None,
    store: str | os.PathLike[str] | None = None,
    **fixed: Any,
) -> Sweep:
    """Try hyper-parameters: train a network for each candidate and fold, all at once, and see which is best.

    The networks are trained by `fit_many`, in one call, or with `halving` in one for each rung. A candidate's network
    is that of ``fit`` with the same arguments.

    Parameters
    ----------
    space : dict of str to list or distribution
        What to try, by the name of an argument of `MLP`, of `fit_many` (`loss`, `optimizer`, `batch_size`, `epochs`,
        `steps`, `early_stopping`), or of an optimizer (`lr` and the others); or ``"hidden"``, tuples of the widths of
        hidden layers. A distribution is anything with a method ``ppf``, as of ``scipy.stats``; of a discrete one, which
        has ``pmf``, integers are drawn.
    X : array_like or CSR matrix, (n_rows, features)
    y : array_like, (n_rows,) or (n_rows, targets)
        As for `MLP.fit`; how many outputs a network has is read off y and the loss. Whole numbers (n_rows,) may be
        classes, so that a sweep of them without `loss` warns and says how to ask for either.
    n : int, optional
        How many candidates are drawn, for "random" and "sobol".
    method : {"grid", "random", "sobol"}
        All combinations, the last key running fastest; independent draws, none twice where there are lists alone; or
        the points of a scrambled Sobol sequence, which are spread more evenly (needs SciPy).
    cv : int, splitter or list of (rows, held rows), optional
        Folds. A number: of equal size, at random, with each class's share of rows where y has labels. A splitter has
        ``split(X, y)``, as scikit-learn's.
    validation_data : tuple (X, y) or (X, y, sample_weight), optional
        Rows to measure on instead; ``validation_split=0.2`` or ``validation_rows=`` of `fit_many` will do, too.
    metric : str, default "val_loss"
        What decides, by its name in the history: "val_loss", "loss", "val_accuracy", ... The mean over folds of what a
        network has at its last entry; or at its best one, where early stopping took it back there.
    mode : {"auto", "min", "max"}
        Which values are better; "auto" knows it of losses and of the metrics of `fastbp.metrics`.
    halving : float, optional
        Successive halving: all candidates get a part of the epochs, the best ``1 / halving`` of them go on from where
        they are for as many more that it makes ``halving`` times as much, and so on up to ``epochs=``. Of equals the
        first go on.
    refit : bool, default True
        Train the best candidate anew on all rows of X, where its networks had less. A candidate that `early_stopping`
        watched on held rows gets the median of its folds' epochs.
    seed : int, numpy.random.Generator, numpy.random.SeedSequence or None, default 0
        Of draws and folds, and of every network unless "seed" is a key of `space`.
    executor, store : optional
        As for `fit_many`; each rung has a folder of its own in `store`.
    **fixed
        Values for all candidates, by the same names; other arguments of `fit_many`, such as `metrics`, `n_threads`,
        `progress`. `time_limit` is that of all rungs together. Without `hidden` there is one hidden layer of 100 units.

    Returns
    -------
    Sweep

    Raises
    ------
    TypeError, ValueError
        An argument, or a value of `space`, cannot be used. Nothing was trained; the message names the key or the
        candidate.
    ImportError
        ``method="sobol"`` without SciPy.
    KeyboardInterrupt
        Ctrl-C: what is known of the candidates is the exception's ``sweep``, without `best_net`.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> X = np.linspace(-1, 1, 60)[:, None]
    >>> found = fastbp.sweep({"lr": [0.001, 0.03], "hidden": [(4,), (16,)]}, X, np.sin(3 * X), cv=3, epochs=50)
    >>> found.best["lr"], found.fold_values.shape, found.best_net.sizes[0]
    (0.03, (4, 3), 1)
    """
    began = time.perf_counter()
    with checks.undrawn(seed):
        method = checks.choice("method", method, ("grid", "random", "sobol"))
        spaces.check_fixed(fixed, sweep.__kwdefaults__ or ())
        space = spaces.checked(space, fixed, method)
        refit = checks.boolean("refit", refit)
        seed = checks.seed(seed)
        if X is None or y is None or hasattr(X, "__next__"):
            raise TypeError("sweep trains on arrays X and y, got an iterator or None")
        X = X if is_sparse(X) or is_stored(X) else real_array("X", X)
        y = real_array("y", y)
        folds = _folds(cv, X, y, seed, {*space, *fixed})
        held = [name for name in _VALIDATION if fixed.get(name) is not None]
        held += ["validation_data"] if validation_data is not None else []
        held += ["cv"] if folds is not None else []
        if len(held) > 1:
            raise ValueError(f"give at most one of {' and '.join(held)}: each says which rows are measured on")
        judge = _judge(metric, mode, space, fixed, bool(held))
        params = spaces.candidates(space, n, method, seed)
        trials = _Trials(X, y, params, fixed, folds, validation_data, judge, seed, executor, store)
        plan = trials.plan(halving)
        if "loss" not in {*space, *fixed} and y.ndim == 1 and y.dtype.kind in "biu":
            warnings.warn("y holds whole numbers, and without loss= networks learn them as numbers, by loss='mse'. If "
                          "they are classes, give loss='softmax_cross_entropy'; if they are not, say loss='mse'",
                          UserWarning, stacklevel=2)  # fmt: skip
        try:
            trials.go(plan, began)
        except KeyboardInterrupt as error:
            error.sweep = trials.found(None, time.perf_counter() - began)  # type: ignore[attr-defined]
            raise
        best = trials.refitted(refit, held)
        return trials.found(best, time.perf_counter() - began)


# ------------------------------------------------------------------ arguments


def _folds(cv: Any, X: Any, y: NDArray[Any], seed: int, named: set[str]) -> list[tuple[Any, Any]] | None:
    """Numbers of the rows that are trained on, and of those measured on, (n_folds, 2); None without."""
    if cv is None:
        return None
    n = len(y)
    if isinstance(cv, (int, np.integer)) and not isinstance(cv, bool):
        k = checks.integer("cv", cv, 2)
        if k > n:
            raise ValueError(f"cv: {k} folds of {n} rows; there can be no more folds than rows")
        order = np.random.default_rng(seed).permutation(n)
        if y.ndim == 1 and y.dtype.kind in "biu":  # dealt out class by class
            order = order[np.argsort(y[order], kind="stable")]
        fold = np.empty(n, np.int64)
        fold[order] = np.arange(n) % k
        return [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(k)]
    pairs = cv.split(X, y) if callable(getattr(cv, "split", None)) and not isinstance(cv, str) else cv
    if isinstance(pairs, (str, Mapping)) or not isinstance(pairs, Iterable):
        raise TypeError(f"cv must be a number of folds, a splitter, or a list of (rows, held rows), got {cv!r}")
    found = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"cv: fold {number} must be a pair (rows, held rows), got {pair!r}")
        rows, held = (indices(f"cv: {what} of fold {number}", one, n) for what, one in zip(("rows", "held rows"), pair))
        found.append((rows, held))
    if not found:
        raise ValueError("cv holds no fold")
    return found


class _Judge(NamedTuple):
    """What decides."""

    metric: str
    sign: int  # 1 where more is better
    metrics: tuple[Any, ...]  # that fit_many measures


def _judge(metric: Any, mode: Any, space: Candidate, fixed: Mapping[str, Any], held: bool) -> _Judge:
    mode = checks.choice("mode", mode, ("auto", "min", "max"))
    if not isinstance(metric, str):
        raise TypeError(f"metric must be a name such as 'val_loss' or 'val_accuracy', got {metric!r}")
    given = fixed.get("metrics", ())
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise TypeError(f"metrics must be a sequence of names and callables such as ('accuracy',), got {given!r}")
    name = metric.removeprefix("val_")
    if name != metric and not held:
        raise ValueError(f"metric: {metric!r} needs rows to measure on; give cv=5, validation_data=(X, y) or "
                         "validation_split=0.2")  # fmt: skip
    if name == metric and name != "loss" and held:
        raise ValueError(f"metric: {metric!r} is measured on the held rows, and is called 'val_{name}'")
    if name == "loss" and "loss" in space and len(space["loss"]) > 1:
        raise ValueError(f"metric: {metric!r} of different losses, of space['loss'], cannot be compared; give a "
                         "metric, as in metric='val_accuracy'")  # fmt: skip
    names = [one if isinstance(one, str) else getattr(one, "__name__", type(one).__name__) for one in given]
    better = "min" if name == "loss" else None
    if name != "loss":
        if name in metrics.TABLE or re.fullmatch(r"top_[1-9]\d*", name):
            better = "max" if name not in metrics.TABLE else metrics.TABLE[name].better
        elif name not in names:
            raise unknown_name("metric", metric, [*(f"val_{one}" for one in (*metrics.TABLE, "top_5", *names)), "loss",
                                                  "val_loss"])  # fmt: skip
        if name not in names:
            given = (*given, name)
    if mode != "auto":
        better = mode
    if better is None:
        raise ValueError(f"mode must be 'min' or 'max' for metric={metric!r}, which is one of your own")
    return _Judge(metric, 1 if better == "max" else -1, tuple(given))


# ------------------------------------------------------------------ the trials


class _Trials:
    """Networks of all candidates and folds, and what is known of them."""

    def __init__(
        self, X: Any, y: NDArray[Any], params: list[Candidate], fixed: dict[str, Any],
        folds: list[tuple[Any, Any]] | None, validation: Any, judge: _Judge, seed: int, executor: Any, store: Any,
    ) -> None:  # fmt: skip
        self.X, self.y, self.params, self.folds, self.judge, self.seed = X, y, params, folds, judge, seed
        self.values = [{**fixed, **candidate} for candidate in params]
        self.shared = {name: fixed[name] for name in spaces.OF_ALL if name in fixed} | {"metrics": judge.metrics}
        self.limit = self.shared.pop("time_limit", None)
        if self.limit is not None:
            self.limit = checks.number("time_limit", self.limit, 0)
        if validation is not None:
            self.shared["validation_data"] = validation
        self.more = {} if executor is None else {"executor": executor}  # arguments that have to do with where it runs
        self.store = None if store is None else folder_of(store)
        n_folds = 1 if folds is None else len(folds)
        self.nets, self.arguments = [], []
        for number, values in enumerate(self.values):
            try:
                self.nets.append([self._network(number) for _ in range(n_folds)])
                self.arguments.append({name: values[name] for name in spaces.OF_EACH if name in values}
                                      | {"optimizer": spaces.optimizer(values)})  # fmt: skip
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"{self._name(number)}: {error}") from None
        shape = len(params), n_folds
        self.value = np.full(shape, np.nan)
        self.status = np.full(shape, "", "U11")
        self.rung = np.zeros(len(params), np.int64)
        self.alive = list(range(len(params)))
        self.histories: list[ManyHistory] = []

    def _network(self, number: int) -> MLP:
        """A new one of a candidate; those of its folds begin alike."""
        values = self.values[number]
        n_features = self.X.shape[1] if len(self.X.shape) > 1 else 1
        return spaces.network(values, n_features, spaces.outputs_of(self.y, values.get("loss", "mse")), self.seed)

    def _name(self, number: int) -> str:
        params = self.params[number]
        return f"candidate {number} of space ({spaces.shown(params)})" if params else "the candidate"

    # -------------------------------------------------------------- rungs

    def plan(self, halving: Any) -> list[tuple[int, int | None]]:
        """Of each rung how many candidates are in it, and the epochs at its end; None: each its own."""
        if halving is None:
            return [(len(self.params), None)]
        factor = checks.number("halving", halving, 1, ends="(]")
        for name in ("epochs", "steps"):
            if any(name in candidate for candidate in self.params):
                raise ValueError(f"halving: {name} is a key of space, and halving says who gets how many; leave it "
                                 "out, and give the epochs of the best as epochs=")  # fmt: skip
        one = self.values[0]
        if one.get("steps") is not None or one.get("epochs") is None:
            raise ValueError("halving counts epochs: give those of the best candidates as epochs=")
        for number, arguments in enumerate(self.arguments):
            if arguments["optimizer"] == "lbfgs" or isinstance(arguments["optimizer"], LBFGS):
                raise ValueError(f"halving: {self._name(number)}: L-BFGS begins anew in each call, and cannot go on")
        return list(rungs(len(self.params), checks.integer("epochs", one["epochs"], 1), factor))

    def go(self, plan: list[tuple[int, int | None]], began: float) -> None:
        """Train; each rung goes on with the best of the one before."""
        before = 0
        for number, (count, end) in enumerate(plan):
            self.alive = sorted(self.order(self.alive)[:count])
            left = None if self.limit is None else max(0.0, self.limit - (time.perf_counter() - began))
            if number and left == 0:
                break
            self.rung[self.alive] = number
            going = [(c, f) for c in self.alive for f in range(len(self.nets[c])) if self.status[c, f] in ("", "done")]
            if going:
                self._train(going, None if end is None else end - before, left, f"rung_{number}")
            before = end or 0

    def order(self, among: Sequence[int]) -> list[int]:
        """Numbers of candidates, the best first; those of a later rung come before, and of equals the first."""
        with np.errstate(invalid="ignore"):
            worth = -self.judge.sign * self.value.mean(axis=1)
        worth = np.where(np.isnan(worth), np.inf, worth)
        return sorted(among, key=lambda c: (-self.rung[c], worth[c], c))

    def _train(self, going: list[tuple[int, int]], epochs: int | None, limit: float | None, place: str) -> None:
        keys = going if self.folds is not None else [c for c, _ in going]
        nets = {key: self.nets[c][f] for key, (c, f) in zip(keys, going)}
        named: dict[str, Any] = {}
        for name in spaces.OF_EACH:
            each = {key: self.arguments[c].get(name) for key, (c, _) in zip(keys, going)}
            if any(name in self.arguments[c] for c, _ in going):
                named[name] = each
        if epochs is not None:
            named["epochs"] = epochs
        if self.folds is not None:
            named["rows"], named["validation_rows"] = (
                {key: self.folds[f][part] for key, (_, f) in zip(keys, going)} for part in (0, 1)
            )
        try:
            history = self._fit(nets, place, time_limit=limit, **named)
        except KeyboardInterrupt as error:
            if hasattr(error, "history"):
                self._take(going, error.history)
            raise
        except (TypeError, ValueError) as error:
            told = re.sub(r"nets\[\(?(\d+)(?:, (\d+)\))?\]", self._of_a_network, str(error))
            raise (TypeError if isinstance(error, TypeError) else ValueError)(told) from None
        self._take(going, history)

    def _of_a_network(self, found: re.Match[str]) -> str:
        return self._name(int(found[1])) + ("" if found[2] is None else f", fold {found[2]}")

    def _fit(self, nets: Any, place: str, **named: Any) -> ManyHistory:
        more = dict(self.more)
        if self.store is not None:
            os.makedirs(self.store, exist_ok=True)
            more["store"] = os.path.join(self.store, place)
        return fit_many(nets, self.X, self.y, **(self.shared | named | more))

    def _take(self, going: list[tuple[int, int]], history: ManyHistory) -> None:
        """What has become of networks: their values are those of what they are now."""
        column = history.loss if self.judge.metric == "loss" else history.columns.get(self.judge.metric)
        n = history.n_entries
        for k, (c, f) in enumerate(going):
            self.status[c, f] = history.status[k]
            early = self.arguments[c].get("early_stopping")
            at = np.flatnonzero(history.step[k] == history.best_step[k])
            last = int(at[-1]) if early is not None and early.restore_best and len(at) else int(n[k]) - 1
            if history.status[k] in ("nonfinite", "failed"):
                self.value[c, f] = np.nan
            elif column is not None and last >= 0:  # else it is as it was: there was no time, or no epoch is over
                self.value[c, f] = column[k, last]
        self.histories.append(history)

    # -------------------------------------------------------------- the best

    def refitted(self, refit: bool, held: list[str]) -> MLP | None:
        """The best candidate's network, trained on all rows; without `refit` only where it was, else None."""
        best = self.order(range(len(self.params)))[0]
        if np.isnan(self.value[best]).any():
            return None
        if held in ([], ["validation_data"]):
            return self.nets[best][0]
        if not refit:
            return None
        arguments = dict(self.arguments[best])
        early = arguments.get("early_stopping")
        if early is not None and early.monitor != "loss":  # there are no held rows to watch
            for name in ("early_stopping", "steps"):
                arguments.pop(name, None)
            arguments["epochs"] = max(1, round(float(np.median([net.epoch for net in self.nets[best]]))))
        net = self._network(best)
        self._fit([net], "refit", **dict.fromkeys(_VALIDATION), **arguments, metrics=())
        return net

    def found(self, best_net: MLP | None, seconds: float) -> Sweep:
        ranks = np.empty(len(self.params), np.int64)
        ranks[self.order(range(len(self.params)))] = np.arange(1, len(self.params) + 1)
        made = Sweep(
            self.params, self.judge.metric, self.value, ranks, self.rung, self.status,
            np.array([[net.epoch for net in nets] for nets in self.nets]), [tuple(nets) for nets in self.nets],
            tuple(self.histories), self.seed, seconds,
        )  # fmt: skip
        object.__setattr__(made, "_best_net", best_net)
        return made
