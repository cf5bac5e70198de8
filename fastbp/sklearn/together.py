"""What estimators of many networks have in common: their parameters, and one call of `fastbp.fit_many`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import compute_sample_weight
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d

from fastbp import losses, optimizers
from fastbp.callbacks import EarlyStopping
from fastbp.errors import NonFiniteError
from fastbp.many.fit import fit_many
from fastbp.mlp import MLP
from fastbp.sklearn import parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.history import ManyHistory
    from fastbp.optimizers import Rule
    from fastbp.rows import Loss
    from fastbp.typing import ActivationLike, ExecutorLike

    _BaseEstimator: TypeAlias = Any  # which has no types
else:
    from sklearn.base import BaseEstimator as _BaseEstimator

_MOST_OF_A_BATCH = 200  # of batch_size="auto", as in scikit-learn
OTHER_ARGUMENTS: dict[str, tuple[str, ...]] = {  # of `fit`: see `fastbp.errors`
    "fastbp.fit_many(nets, X, y, store='folder') keeps what is finished": ("store",),
    "n_threads is a parameter of the estimator": ("n_workers", "n_jobs", "n_threads"),
}  # fmt: skip
SEEDS = 1 << 31  # random numbers that networks may be seeded with


class Together(_BaseEstimator):
    """Stands before a mixin of scikit-learn's: networks of one kind, and how they are trained together."""

    _classifies: ClassVar[bool]
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither"), None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "lanes": ["boolean", StrOptions({"auto"})],
        **{name: parameters.CONSTRAINTS[name] for name in ("activation", "dropout", "dtype", "n_threads")},
        "optimizer": [StrOptions({*optimizers.BY_NAME} - {"lbfgs"}), optimizers.Rule],
    }

    hidden_layer_sizes: int | Sequence[int]
    activation: ActivationLike | Sequence[ActivationLike]
    dropout: float | Sequence[float]
    loss: str | Loss
    class_weight: Any = None  # of classifiers
    optimizer: str | Rule
    learning_rate_init: float | None
    batch_size: int | str
    max_iter: int
    shuffle: bool
    early_stopping: bool
    validation_fraction: float
    tol: float
    n_iter_no_change: float
    random_state: Any
    dtype: str | type | None
    n_threads: int | None
    lanes: Any

    classes_: NDArray[Any]
    history_: ManyHistory
    n_iter_: int
    n_outputs_: int
    _head: parameters.Head

    def _validate_params(self) -> None:
        super()._validate_params()
        for name, kinds in self._parameter_constraints.items():
            value = getattr(self, name)
            if isinstance(value, (bool, np.bool_)) and any(isinstance(kind, Interval) for kind in kinds):
                raise ValueError(f"The {name!r} parameter of {type(self).__name__} must be a number, got {value!r}")

    def _take(self, named: dict[str, Any]) -> None:
        """Keep the parameters, which are the local variables of an `__init__`."""
        for name, value in named.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    # -------------------------------------------------------------- rows

    def _dtype_for(self, X: Any) -> type[np.floating[Any]] | np.dtype[Any]:
        """What is computed in: `dtype`, else float32 where X is, else float64."""
        if self.dtype is not None:
            return np.dtype(self.dtype)
        return np.dtype(np.float32 if getattr(X, "dtype", None) == np.float32 else np.float64)

    def _targets(self, y: Any) -> NDArray[Any]:
        """y, checked by scikit-learn, as numbers of classes (n,), or as (n, outputs); sets `classes_`, `n_outputs_`."""
        if not self._classifies:
            y = y.astype(np.float64, copy=False).reshape(len(y), -1)
            self.n_outputs_ = y.shape[1]
            return y
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        self.classes_, of_row = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only, {self.classes_.tolist()[0]!r}; a classifier needs two at least")
        self.n_outputs_ = 1
        return of_row

    def _weight(self, sample_weight: Any, X: Any, y: Any) -> NDArray[Any] | None:
        """`sample_weight` times that of each row's class; None where all weigh the same."""
        if sample_weight is None and self.class_weight is None:
            return None
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if self.class_weight is not None:
            weight = weight * compute_sample_weight(self.class_weight, y)
        if not weight.any():
            raise ValueError("sample_weight: all weights are zero")
        return weight

    # -------------------------------------------------------------- networks

    def _networks(self, n_features: int, seeds: Sequence[int], dtype: Any) -> list[MLP]:
        """New networks, which begin as scikit-learn's do; sets `_head`."""
        classes = len(self.classes_) if self._classifies else 0
        last = (1 if classes == 2 else classes) if classes else self.n_outputs_
        sizes = (n_features, *np.atleast_1d(self.hidden_layer_sizes).tolist(), last)
        nets = [MLP(sizes, activation=self.activation, dropout=self.dropout, init="sklearn", dtype=dtype, seed=seed)
                for seed in seeds]  # fmt: skip
        if self.loss == "squared_error":
            self._head = parameters.Head(losses.TABLE["half_squared_error"], "identity")
        else:
            kind = None if not classes else "binary" if classes == 2 else "multiclass"
            name = self.loss
            if name == "log_loss":
                name = "binary_cross_entropy" if classes == 2 else "softmax_cross_entropy"
            self._head = parameters.own_head(name, nets[0]._spec, kind)
            if self._classifies and self._head.loss.link is None:
                raise ValueError(f"loss: {self._head.loss.name!r} is not one of probabilities, which are averaged")
        return nets

    def _train(
        self, nets: Any, X: NDArray[Any], y: NDArray[Any], weight: Any, rows: Any, held: Any, called: Sequence[Any],
        executor: ExecutorLike | None,
    ) -> ManyHistory:  # fmt: skip
        """Train the networks together; `called` is what warnings and errors call each."""
        if self._classifies and self._head.link != "softmax":
            y = y[:, None] == (1 if len(self.classes_) == 2 else np.arange(len(self.classes_)))
        rule: Any = self.optimizer
        if isinstance(rule, str):
            given = {} if self.learning_rate_init is None else {"lr": self.learning_rate_init}
            rule = optimizers.BY_NAME[rule](**given)
        early = None
        if self.n_iter_no_change != np.inf:
            early = EarlyStopping(
                "loss" if held is None else "val_loss", patience=int(self.n_iter_no_change), min_delta=self.tol,
                restore_best=held is not None,
            )  # fmt: skip
        try:
            history = fit_many(
                nets, X, y, rows=rows, loss=self._head.loss, optimizer=rule, epochs=self.max_iter, shuffle=self.shuffle,
                batch_size=_MOST_OF_A_BATCH if self.batch_size == "auto" else self.batch_size,  # type: ignore[arg-type]
                sample_weight=weight, validation_rows=held, early_stopping=early, n_threads=self.n_threads,
                lanes=self.lanes, executor=executor,
            )  # fmt: skip
        except ValueError as refusal:
            told = re.sub(r"nets\[(\d+)\]", lambda found: called[int(found[1])], str(refusal))
            raise ValueError(told) from None
        for k, error in history.errors.items():
            if not isinstance(error, NonFiniteError):
                raise RuntimeError(f"{called[k]}: {error}") from error
        self.history_, self.n_iter_ = history, history.loss.shape[1]
        late = np.flatnonzero(history.status == "done")
        if early is not None and len(late):
            warnings.warn(f"Maximum iterations ({self.max_iter}) reached, and {len(late)} of {len(nets)} networks have "
                          f"not converged yet, {called[late[0]]} first; a larger max_iter lets them",
                          ConvergenceWarning, stacklevel=4)  # fmt: skip
        return history

    def _linked(self, out: NDArray[Any], seen: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Predictions, or probabilities of classes, from outputs (n, outputs); those not `seen` (n, classes) are 0."""
        link = self._head.link
        if not self._classifies:
            return np.exp(out) if link == "exp" else out
        out = out.astype(np.float64)
        if link == "softmax":
            return losses.LINKS["softmax"](out if seen is None else np.where(seen, out, -np.inf))
        found = losses.LINKS["sigmoid"](out)
        if len(self.classes_) == 2:
            return np.hstack([1 - found, found])
        found = found if seen is None else np.where(seen, found, 0)
        total = found.sum(axis=1, keepdims=True)  # of a loss that looks at each class by itself
        even = 1 / found.shape[1] if seen is None else seen / seen.sum(axis=1, keepdims=True)
        return np.where(total > 0, found / np.where(total > 0, total, 1), even)

    def _shaped(self, out: NDArray[Any]) -> NDArray[Any]:
        """Predictions of a regressor as y was: (n,) where there is one output."""
        return out[:, 0] if out.shape[1] == 1 else out
