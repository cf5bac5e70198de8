"""`MLPEnsembleClassifier` and `MLPEnsembleRegressor`: networks that learn the same rows, and answer together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted, validate_data

from fastbp import checks
from fastbp.many.ensemble import Ensemble
from fastbp.mlp import MLP
from fastbp.sklearn import parameters
from fastbp.sklearn.together import OTHER_ARGUMENTS, SEEDS, Together

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

    from fastbp.optimizers import Rule
    from fastbp.rows import Loss
    from fastbp.typing import ActivationLike, ExecutorLike

    _ClassifierMixin: TypeAlias = Any  # they have no types
    _RegressorMixin: TypeAlias = Any
else:
    from sklearn.base import ClassifierMixin as _ClassifierMixin
    from sklearn.base import RegressorMixin as _RegressorMixin


class _Members(Together):
    """What both ensembles have in common."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Together._parameter_constraints,
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "bootstrap": ["boolean"],
        "oob_score": ["boolean"],
    }

    n_estimators: int
    bootstrap: bool
    oob_score: bool
    estimators_: list[MLP]

    __metadata_request__fit: ClassVar[dict[str, str]] = {"executor": UNUSED}

    @checks.names_arguments(OTHER_ARGUMENTS)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, executor: ExecutorLike | None = None) -> Self:
        """Train all members, together.

        Parameters
        ----------
        X : array_like, (n, features)
        y : array_like, (n,), or of a regressor (n, outputs)
            Labels, or numbers.
        sample_weight : array_like, (n,), optional
            Weights of the rows in the loss. What a bootstrap draws does not depend on them.
        executor : optional
            Who trains the members, as for `fastbp.fit_many`: a pool of processes, a cluster. The result is the same.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            A parameter, X or y is none that can be used; or a member diverged, which is named.

        Warns
        -----
        ConvergenceWarning
            Networks reached `max_iter` before they converged: one warning, which says how many did.
        """
        self._validate_params()
        if self.oob_score and not self.bootstrap:
            raise ValueError("oob_score=True needs bootstrap=True: without it no row is left out")
        numbers = {} if self._classifies else {"multi_output": True, "y_numeric": True}
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), **numbers)
        targets = self._targets(y)
        weight = self._weight(sample_weight, X, y)
        draws = check_random_state(self.random_state)
        self._n_rows, self._held = len(X), None
        if self.early_stopping:
            _, self._held = train_test_split(
                np.arange(len(X)), test_size=self.validation_fraction, random_state=draws,
                stratify=targets if self._classifies else None,
            )  # fmt: skip
        self._seeds = draws.randint(0, SEEDS, size=self.n_estimators).tolist()
        nets = self._networks(X.shape[1], self._seeds, self._dtype_for(X))
        rows = self.estimators_samples_ if self.bootstrap else None
        called = [f"estimators_[{k}]" for k in range(len(nets))]
        history = self._train(nets, X, targets, weight, rows, self._held, called, executor)
        for k in history.errors:
            raise ValueError(f"{called[k]} diverged: {history.errors[k]}; scaled features help as well")  # fmt: skip
        self.estimators_ = nets
        if self.oob_score:
            self._measure_oob(X, y)
        return self

    @property
    def estimators_samples_(self) -> list[NDArray[np.int64]]:
        """The numbers of the rows that each member was trained on, drawn anew from its seed."""
        pool = np.arange(self._n_rows)
        if self._held is not None:
            pool = np.delete(pool, self._held)
        if not self.bootstrap:
            return [pool] * len(self._seeds)
        return [pool[np.random.RandomState(seed).randint(0, len(pool), len(pool))] for seed in self._seeds]

    def _outputs(self, X: Any) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Predictions of all members, (n_estimators, rows of a block, outputs), block by block."""
        ensemble, start = Ensemble(self.estimators_), 0
        for out in ensemble._outputs(X, self.n_threads):
            stop = start + out.shape[1]
            with np.errstate(over="ignore"):
                yield slice(start, stop), np.stack([self._linked(one) for one in out])
            start = stop

    def _mean(self, X: Any, *, std: bool = False) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """The mean of the members' predictions and, where asked for, their standard deviation, (n, outputs)."""
        check_is_fitted(self, "estimators_")
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        means, stds = [], []
        for _, out in self._outputs(X):
            means.append(out.mean(axis=0, dtype=np.float64).astype(out.dtype))
            if std:
                stds.append(out.std(axis=0, dtype=np.float64).astype(out.dtype))
        return np.concatenate(means), np.concatenate(stds) if std else None

    def _measure_oob(self, X: Any, y: Any) -> None:
        """Predictions of each row by the members that did not see it; NaN where there is none."""
        unseen = np.ones((len(self.estimators_), len(X)), bool)
        wanted = np.ones(len(X), bool)
        if self._held is not None:  # which chose among the steps of all members
            unseen[:, self._held] = wanted[self._held] = False
        for k, rows in enumerate(self.estimators_samples_):
            unseen[k, rows] = False
        found = []
        for block, out in self._outputs(X):
            voices = unseen[:, block, None]
            with np.errstate(invalid="ignore"):
                found.append((out * voices).sum(axis=0, dtype=np.float64) / voices.sum(axis=0))
        mean, answered = np.concatenate(found), np.asarray(unseen.any(axis=0))
        if not answered.any():
            raise ValueError(f"oob_score=True: there is no row that a member has not drawn (n_samples={len(X)}); more "
                             "estimators, or more rows, leave some")  # fmt: skip
        if not answered[wanted].all():
            warnings.warn("Some rows were drawn by all members, so they have no out-of-bag prediction, and are NaN; "
                          "more estimators leave none", UserWarning, stacklevel=4)  # fmt: skip
        self._keep_oob(mean, answered, y)

    def _keep_oob(self, mean: NDArray[Any], answered: NDArray[np.bool_], y: Any) -> None:
        raise NotImplementedError


class MLPEnsembleClassifier(_ClassifierMixin, _Members):
    """A classifier of several networks that are trained together, by one call of `fastbp.fit_many`.

    Its probabilities are the mean of the members'. They are surer of themselves among rows like those that they have
    seen than far away from them. Parameters that `MLPClassifier` has by the same name mean the same, but the random
    numbers and the stopping rule are fastbp's own, and there is no L2 penalty but that of an `optimizer`, such as
    ``fastbp.AdamW(weight_decay=0.01)``.

    Parameters
    ----------
    n_estimators : int, default 10
        Members. The first ones are the same however many there are.
    bootstrap : bool, default False
        Whether each member learns as many rows as there are, drawn with repetitions. False: each learns all rows, and
        they differ by their initial weights and the order of the rows alone, which serves most networks better.
    oob_score : bool, default False
        Whether to measure on each row the members that have not drawn it; needs ``bootstrap=True``.
    hidden_layer_sizes : int or sequence of int, default (100,)
    activation : str, row, or sequence of them, default "relu"
        Of the hidden layers: any of `fastbp.activations` or a row of your own; one for all or one for each.
    dropout : float or sequence of float, default 0
        The share of each hidden layer's outputs that a training step sets to 0.
    loss : str or row, default "log_loss"
        Any of fastbp's losses of probabilities of classes, such as "focal".
    class_weight : dict, "balanced" or None, default None
        Weights of classes, by which those of the rows are multiplied.
    optimizer : str or optimizer, default "adam"
        A name, or one of fastbp's with its settings and schedule.
    learning_rate_init : float or None, default None
        The rate of an optimizer given by name; None is that optimizer's default (Adam: 0.001). An optimizer that is no
        name has its own.
    batch_size : int or "auto", default "auto"
        Rows of a step; "auto" is 200, or all where there are fewer.
    max_iter : int, default 200
        Epochs, at most. No warning says that they were used up.
    shuffle : bool, default True
        Whether each epoch takes the rows in a new order, one of each member's own.
    early_stopping : bool, default False
        Whether to hold back rows (stratified by class, the same ones of all members), and to stop each member once its
        loss on them gets no better. It keeps the parameters of its best epoch.
    validation_fraction : float, default 0.1
        The share of rows held back.
    tol : float, default 1e-4
    n_iter_no_change : int or inf, default 10
        A member stops when its loss has not improved by more than `tol` for this many epochs: that of the rows held
        back, or without `early_stopping` that of the rows trained on. ``numpy.inf`` trains all `max_iter` epochs, which
        is the fastest way of doing so many.
    random_state : int, RandomState or None, default None
        Draws the rows held back and a seed for each member.
    dtype : {"float32", "float64"} or None, default None
        What is computed in. None: float32 where X is, else float64. float32 takes about half the time.
    n_threads : int or None, default None
        Threads that share the members. Results do not depend on it by a bit.
    lanes : {"auto", True, False}, default "auto"
        Whether small members are trained side by side in the vectors of a CPU: see `fastbp.fit_many`.

    Attributes
    ----------
    estimators_ : list of fastbp.MLP
        The members. They are networks, not estimators: what their `predict` gives are logits, (n, 1) for two classes
        and else (n, n_classes). ``fastbp.Ensemble(model.estimators_)`` has quantiles, and writes a file.
    estimators_samples_ : list of ndarray of int
        The numbers of the rows that each member was trained on.
    classes_ : ndarray, (n_classes,)
    oob_score_ : float
        Accuracy on rows by the members that have not drawn them.
    oob_decision_function_ : ndarray, (n, n_classes)
        Probabilities from these; NaN for rows that all members drew, and for those held back.
    history_ : fastbp.ManyHistory
        Losses, steps and ends of all members.
    n_iter_ : int
        Epochs of the member with the most.
    n_features_in_, feature_names_in_ : as in scikit-learn

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastbp.sklearn import MLPEnsembleClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPEnsembleClassifier(5, hidden_layer_sizes=(16,), learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> len(model.estimators_), bool(model.score(X, y) > 0.95), model.predict_proba(X[:2]).shape
    (5, True, (2, 3))
    """

    __module__ = "fastbp.sklearn"

    _classifies = True
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_Members._parameter_constraints,
        **{name: parameters.OF_CLASSIFIERS[name] for name in ("loss", "class_weight")},
    }

    oob_score_: float
    oob_decision_function_: NDArray[Any]

    def __init__(
        self, n_estimators: int = 10, *, bootstrap: bool = False, oob_score: bool = False,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: ActivationLike | Sequence[ActivationLike] = "relu", dropout: float | Sequence[float] = 0,
        loss: str | Loss = "log_loss", class_weight: Any = None, optimizer: str | Rule = "adam",
        learning_rate_init: float | None = None, batch_size: int | str = "auto", max_iter: int = 200,
        shuffle: bool = True, early_stopping: bool = False, validation_fraction: float = 0.1, tol: float = 1e-4,
        n_iter_no_change: float = 10, random_state: Any = None, dtype: str | type | None = None,
        n_threads: int | None = None, lanes: Literal["auto"] | bool = "auto",
    ) -> None:  # fmt: skip
        self._take(locals())

    def predict(self, X: Any) -> NDArray[Any]:
        """Labels of rows: of each the class with the largest mean probability.

        Parameters
        ----------
        X : array_like, (n, features)

        Returns
        -------
        ndarray, (n,)
        """
        likeliest = self.predict_proba(X).argmax(axis=1)
        return self.classes_[likeliest]

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """The mean of the members' probabilities.

        Parameters
        ----------
        X : array_like, (n, features)

        Returns
        -------
        ndarray, (n, n_classes)
            In the order of `classes_`.
        """
        return self._mean(X)[0]

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Natural logarithms of the mean probabilities.

        Parameters
        ----------
        X : array_like, (n, features)

        Returns
        -------
        ndarray, (n, n_classes)
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def _keep_oob(self, mean: NDArray[Any], answered: NDArray[np.bool_], y: Any) -> None:
        self.oob_decision_function_ = mean
        found = self.classes_[mean[answered].argmax(axis=1)]
        self.oob_score_ = float(accuracy_score(np.asarray(y)[answered], found))


class MLPEnsembleRegressor(_RegressorMixin, _Members):
    """A regressor of several networks that are trained together, by one call of `fastbp.fit_many`.

    Its prediction is the mean of the members', and ``predict(X, return_std=True)`` says how far they lie apart: little
    where they have learnt what is right, more where they have seen no rows. That is no noise of the targets.

    Parameters
    ----------
    n_estimators, bootstrap, oob_score, hidden_layer_sizes, activation : as in `MLPEnsembleClassifier`
    dropout, optimizer, learning_rate_init, batch_size, max_iter, shuffle : as in `MLPEnsembleClassifier`
    early_stopping, validation_fraction, tol, n_iter_no_change : as in `MLPEnsembleClassifier`
    random_state, dtype, n_threads, lanes : as in `MLPEnsembleClassifier`
        Rows that are held back are not stratified.
    loss : str or row, default "squared_error"
        "squared_error", "poisson" or another of fastbp's losses of numbers, such as "mae", "huber" and
        ``fastbp.losses.quantile(quantile=0.9)``. As for `MLPRegressor`, "squared_error" is half of it, and the losses
        of counts learn the logarithm of what they predict.

    Attributes
    ----------
    estimators_ : list of fastbp.MLP
        The members. They are networks, not estimators: their `predict` gives (n, outputs), and logarithms after a loss
        of counts. ``fastbp.Ensemble(model.estimators_)`` has quantiles, and writes a file.
    estimators_samples_ : list of ndarray of int
        The numbers of the rows that each member was trained on.
    oob_score_ : float
        R^2 on rows by the members that have not drawn them.
    oob_prediction_ : ndarray, (n,) or (n, outputs)
        Predictions of these; NaN for rows that all members drew, and for those held back.
    history_, n_iter_, n_features_in_, feature_names_in_ : as in `MLPEnsembleClassifier`
    n_outputs_ : int

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from fastbp.sklearn import MLPEnsembleRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MLPEnsembleRegressor(25, bootstrap=True, oob_score=True, hidden_layer_sizes=8, random_state=0)
    >>> model = model.fit(scale(X), scale(y))
    >>> mean, std = model.predict(scale(X), return_std=True)
    >>> mean.shape, std.shape, bool(model.oob_score_ > 0.3)
    ((442,), (442,), True)
    """

    __module__ = "fastbp.sklearn"

    _classifies = False
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_Members._parameter_constraints, "loss": parameters.OF_REGRESSORS["loss"]
    }  # fmt: skip

    oob_score_: float
    oob_prediction_: NDArray[Any]

    def __init__(
        self, n_estimators: int = 10, *, bootstrap: bool = False, oob_score: bool = False,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: ActivationLike | Sequence[ActivationLike] = "relu", dropout: float | Sequence[float] = 0,
        loss: str | Loss = "squared_error", optimizer: str | Rule = "adam", learning_rate_init: float | None = None,
        batch_size: int | str = "auto", max_iter: int = 200, shuffle: bool = True, early_stopping: bool = False,
        validation_fraction: float = 0.1, tol: float = 1e-4, n_iter_no_change: float = 10, random_state: Any = None,
        dtype: str | type | None = None, n_threads: int | None = None, lanes: Literal["auto"] | bool = "auto",
    ) -> None:  # fmt: skip
        self._take(locals())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The mean of the members' predictions, and how far they lie apart.

        Parameters
        ----------
        X : array_like, (n, features)
        return_std : bool, default False
            Give the standard deviation of the members' predictions too: the root of the mean square of their distances
            from the mean, 0 for one member.

        Returns
        -------
        mean : ndarray, (n,) or (n, outputs)
        std : ndarray, of the same shape
            With ``return_std=True``.
        """
        mean, std = self._mean(X, std=return_std)
        return self._shaped(mean) if std is None else (self._shaped(mean), self._shaped(std))

    def _keep_oob(self, mean: NDArray[Any], answered: NDArray[np.bool_], y: Any) -> None:
        self.oob_prediction_ = self._shaped(mean)
        self.oob_score_ = float(r2_score(y[answered], mean[answered]))
