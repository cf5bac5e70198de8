"""The table of metrics. A new one is one row here.

A metric is a function of targets, outputs and weights. One of *classes* gets the class of each row instead: the label
or the largest of its targets, and the largest of its outputs; with one output, or `binary_cross_entropy`, whether each
is above one half (logits, and where the targets are -1 and 1: above 0). Rows of weight w count w times.

- ``accuracy``: share of right answers.
- ``balanced_accuracy``: mean over the classes that occur of the share of their rows that are right.
- ``top_k``, as ``top_5``: share of rows whose class is among the k largest outputs.
- ``r2``: 1 - (squared errors) / (squared distances from the mean), mean over outputs; as scikit-learn.
- ``mae``, ``rmse``: mean absolute error, root of the mean squared error, over rows and outputs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastbp.checks import first_where, takes
from fastbp.data.classes import are_signs, classes_of, independent
from fastbp.errors import unknown_name
from fastbp.rows import Domain, Loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

Function: TypeAlias = "Callable[[NDArray[Any], NDArray[Any], NDArray[Any] | None], float]"


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes
    ----------
    name : str
    function : callable
        (targets, outputs, weight or None) -> float.
    better : {"max", "min"} or None
        Which values are better; None: unknown, of a caller's own.
    of : {"classes", "scores", "values", "all"}
        What the function gets: classes and classes; classes and outputs; targets and outputs, of a loss with two
        outputs for each target the first of them; targets and all outputs.
    """

    name: str
    function: Function
    better: str | None
    of: str


# `fit` measures once an epoch, when the code of NumPy has left the caches: what counts is how few of its functions a
# metric calls, and that they are C: `np.add.reduce` and not `sum`.


def _mean(values: NDArray[Any], weight: NDArray[Any] | None) -> float:
    """Over rows (weighted) and outputs."""
    if values.dtype.kind == "b" and weight is None:
        return np.count_nonzero(values) / values.size
    rows = values if values.ndim == 1 else values.mean(axis=1, dtype=np.float64)
    return float(np.average(rows, weights=weight))


def _accuracy(t: NDArray[Any], a: NDArray[Any], weight: NDArray[Any] | None) -> float:
    return _mean(t == a, weight)


def _balanced_accuracy(t: NDArray[Any], a: NDArray[Any], weight: NDArray[Any] | None) -> float:
    weight = np.ones(len(t)) if weight is None else weight
    _, kind = np.unique(t, return_inverse=True)
    total = np.bincount(kind, weight)
    right = np.bincount(kind, weight * (t == a))
    return float((right[total > 0] / total[total > 0]).mean())


def _top(k: int) -> Function:
    def top(t: NDArray[Any], a: NDArray[Any], weight: NDArray[Any] | None) -> float:
        rows, outputs = a.shape
        own = a.take(np.arange(0, rows * outputs, outputs) + t.astype(np.int64))
        # one of several equal ones is the last of them, and NaN is below all; by columns, for rows are short
        below = np.add.reduce((a.T.copy() < own).view(np.uint8), axis=0, dtype=np.min_scalar_type(outputs))
        return _mean(below >= outputs - k, weight)

    return top


def _r2(t: NDArray[Any], a: NDArray[Any], weight: NDArray[Any] | None) -> float:
    t = t.astype(np.float64)
    error = np.average((t - a) ** 2, axis=0, weights=weight)
    spread = np.average((t - np.average(t, axis=0, weights=weight)) ** 2, axis=0, weights=weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = 1 - error / spread
    return float(np.where(spread > 0, score, np.where(error > 0, 0.0, 1.0)).mean())  # of a constant, as scikit-learn


def _mae(t: NDArray[Any], a: NDArray[Any], weight: NDArray[Any] | None) -> float:
    return _mean(abs(t - a.astype(np.float64)), weight)


def _rmse(t: NDArray[Any], a: NDArray[Any], weight: NDArray[Any] | None) -> float:
    return float(_mean((t - a.astype(np.float64)) ** 2, weight) ** 0.5)


TABLE: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric("accuracy", _accuracy, "max", "classes"),
        Metric("balanced_accuracy", _balanced_accuracy, "max", "classes"),
        Metric("r2", _r2, "max", "values"),
        Metric("mae", _mae, "min", "values"),
        Metric("rmse", _rmse, "min", "values"),
    )
}


OTHERS: dict[str, tuple[str, ...]] = {  # what other libraries call them: see `fastbp.errors`
    "accuracy": ("acc", "accuracy_score", "binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy"),
    "balanced_accuracy": ("balanced_accuracy_score",),
    "top_5": ("top_k", "top_k_accuracy", "top_k_categorical_accuracy", "top5"),
    "r2": ("r2_score", "r_squared"),
    "mae": ("l1", "mean_absolute_error", "neg_mean_absolute_error"),
    "rmse": ("mse", "mean_squared_error", "neg_mean_squared_error", "root_mean_squared_error"),
    "a function (y_true, y_pred) that gives a number will do": (
        "f1", "f1_score", "precision", "recall", "auc", "roc_auc", "roc_auc_score", "average_precision", "log_loss",
    ),
}  # fmt: skip


def find(value: Any, loss: Loss, y: NDArray[Any], out_features: int) -> Metric:
    """The row that an item of ``metrics=`` asks for.

    Parameters
    ----------
    value : str or callable
        A name, ``"top_5"`` and the like, or a function ``(y_true, y_pred) -> float``.
    loss : Loss
    y : ndarray, (n,) labels or (n, out_features)
        The targets that it will see.
    out_features : int

    Raises
    ------
    TypeError, ValueError
        There is no such metric, or it does not suit the loss or the targets.
    """
    if callable(value):
        return _own(value)
    top = re.fullmatch(r"top_([1-9]\d*)", value) if isinstance(value, str) else None
    if top is not None:
        metric = Metric(value, _top(int(top[1])), "max", "scores")
        if int(top[1]) >= out_features:
            raise ValueError(f"metrics: {value!r} needs more than {top[1]} outputs, this network has {out_features}")
    elif isinstance(value, str) and value in TABLE:
        metric = TABLE[value]
    else:
        kind = ValueError if isinstance(value, str) else TypeError
        raise unknown_name("metrics", value, [*TABLE, "top_5"], kind, OTHERS)
    if metric.of == "values" and y.ndim == 1:
        raise ValueError(f"metrics: {value!r} compares outputs with targets, and y holds labels")
    if metric.of != "values" and loss.grad_s:
        raise ValueError(f"metrics: {value!r} compares classes, and {loss.name!r} has none")
    if metric.of != "values" and y.ndim == 2 and y.shape[1] == 1 and not loss.labels:
        known = Domain(-1, 1, "{}") if are_signs(y, loss) else Domain(0, 1)
        at = first_where(y, lambda block: ~known.holds(block))
        if at is not None:
            raise ValueError(f"metrics: {value!r} compares classes, and y[{at[0]}] = {y[at]} names none: "
                             "from 0 to 1, or -1 or 1, are wanted")  # fmt: skip
    if metric.of != "values" and value != "accuracy" and independent(loss) and out_features > 1:
        raise ValueError(f"metrics: {value!r} needs one class for each row, {loss.name!r} has {out_features} labels")
    return metric


def _own(function: Callable[[NDArray[Any], NDArray[Any]], float]) -> Metric:
    name = getattr(function, "__name__", type(function).__name__)
    takes(f"metrics: {name}", function, "y_true", "y_pred")

    def call(t: NDArray[Any], a: NDArray[Any], weight: NDArray[Any] | None) -> float:
        try:
            value = function(t, a)
        except Exception as error:
            error.add_note(f"in the metric {name!r}")
            raise
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(f"metrics: {name} must give a number, got {value!r}") from None

    return Metric(name, call, None, "all")


def find_all(value: Any, loss: Loss, y: NDArray[Any], out_features: int) -> tuple[Metric, ...]:
    """The rows that ``metrics=`` asks for, sure to suit the targets y that they will see.

    Parameters
    ----------
    value : sequence
    loss, y, out_features
        As for `find`.

    Raises
    ------
    TypeError, ValueError
        As `find`; or two would have one name.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"metrics must be a sequence of names and callables such as ('accuracy',), got {value!r}")
    found = tuple(find(item, loss, y, out_features) for item in value)
    names = [metric.name for metric in found]
    for name in names:
        if name in ("loss", "lr", "step", "epoch") or names.count(name) > 1:
            raise ValueError(f"metrics: two things would be called {name!r} in the history")
    return found


# What the functions of each `Metric.of` get of targets and outputs.
_ARGUMENTS: dict[str, Callable[[NDArray[Any], NDArray[Any], Loss], tuple[NDArray[Any], NDArray[Any]]]] = {
    "classes": lambda y, outputs, loss: (classes_of(y, loss), classes_of(y, loss, outputs)),
    "scores": lambda y, outputs, loss: (classes_of(y, loss), outputs),
    "values": lambda y, outputs, loss: (y, outputs[:, : loss.targets(outputs.shape[1])]),
    "all": lambda y, outputs, loss: (y, outputs),
}


def measure(
    metrics: Sequence[Metric], y: NDArray[Any], outputs: NDArray[Any], weight: NDArray[Any] | None, loss: Loss
) -> dict[str, float]:
    """Each metric by name.

    Parameters
    ----------
    metrics : sequence of Metric
    y : ndarray, (n,) labels or (n, out_features)
    outputs : ndarray, (n, out_features)
        As `MLP.predict` gives them.
    weight : ndarray, (n,), or None
    loss : Loss
        Says whether outputs are logits, and of what.
    """
    arguments = {of: _ARGUMENTS[of](y, outputs, loss) for of in {metric.of for metric in metrics}}
    return {metric.name: metric.function(*arguments[metric.of], weight) for metric in metrics}
