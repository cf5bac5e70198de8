"""The table of metrics. A new one is one row here.

A metric is a function of targets, outputs and weights. One of *classes* gets the class of each row instead: the label
or the largest of its targets, and the largest of its outputs; with one output, or `binary_cross_entropy`, whether each
is above one half (logits, and where the targets are -1 and 1: above 0). Rows of weight w count w times, and so do
targets where each has a weight; what is missing has the weight 0. Then a metric of classes is refused unless each
output is a label of its own.

- ``accuracy``: share of right answers.
- ``balanced_accuracy``: mean over the classes that occur of the share of their rows that are right.
- ``top_k``, as ``top_5``: share of rows whose class is among the k largest outputs.
- ``r2``: 1 - (squared errors) / (squared distances from the mean), mean over outputs; as scikit-learn.
- ``mae``, ``rmse``: mean absolute error, root of the mean squared error, over rows and outputs.

Each is a function too, for predictions that are there already: ``fastbp.metrics.accuracy(y_true, y_pred)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fastbp.arrays import real_array
from fastbp.checks import first_where, integer, refuse, takes
from fastbp.data.arguments import sample_weights
from fastbp.data.classes import are_signs, classes_of, independent
from fastbp.errors import unknown_name
from fastbp.rows import Domain, Loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.typing import Array

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
    """Over rows and outputs, weighted by rows or by targets."""
    if values.dtype.kind == "b" and weight is None:
        return float(np.count_nonzero(values) / values.size)
    if weight is not None and weight.ndim == 2:
        return float(np.average(values, weights=weight))
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
    if weight is not None and weight.ndim == 2:
        there = weight.any(axis=0)  # outputs that have targets
        t, a, weight = t[:, there], a[:, there], weight[:, there]
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


# ------------------------------------------------------------------ the rows as functions


def _rows(argument: str, value: Any) -> NDArray[Any]:
    """(n,) or (n, columns), of one column (n,)."""
    array = real_array(argument, value)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{argument} must have shape (n,) or (n, outputs), with rows and outputs; got {array.shape}")
    return array[:, 0] if array.shape[1:] == (1,) else array


def _pair(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    t, a = _rows("y_true", y_true), _rows("y_pred", y_pred)
    if len(t) != len(a):
        raise ValueError(f"y_true and y_pred are inconsistent: {len(t)} and {len(a)} rows")
    refuse("y_true", t, np.isnan, "a number")
    return t, a, sample_weights(sample_weight, len(t))


def _class_pair(
    y_true: Any, y_pred: Any, sample_weight: Any, *, scores: bool = False
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Classes and classes; with `scores`, classes and outputs."""
    t, a, weight = _pair(y_true, y_pred, sample_weight)
    n_classes = a.shape[1] if a.ndim == 2 else None
    if n_classes is not None and t.ndim == 2 and t.shape != a.shape:
        raise ValueError(f"y_true holds rows of {t.shape[1]} classes, y_pred of {n_classes}")
    if scores and n_classes is None:
        raise ValueError(f"y_pred must be outputs, (n, classes), got shape {a.shape}")
    t = _classes("y_true", t)
    if n_classes is not None:
        refuse("y_true", t, lambda block: (block < 0) | (block >= n_classes), f"classes from 0 to {n_classes - 1}")
    return t, a if scores else _classes("y_pred", a), weight


def _classes(argument: str, array: NDArray[Any]) -> NDArray[Any]:
    """(n,): of rows the largest, -1 where one is NaN; else the classes themselves."""
    if array.ndim == 2:
        return np.where(np.isnan(array).any(axis=1), -1, array.argmax(axis=1))
    at = first_where(array, lambda block: block != np.floor(block)) if array.dtype.kind == "f" else None
    if at is not None:
        raise ValueError(
            f"{argument} must hold classes, whole numbers, or a row of outputs for each class; got {argument}[{at[0]}] "
            f"= {array[at]}. Of one output say where yes begins, as in net.predict(X)[:, 0] > 0 for logits"
        )
    return array


def _same_shape(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    t, a, weight = _pair(y_true, y_pred, sample_weight)
    if t.shape != a.shape:
        raise ValueError(f"y_true and y_pred must have one shape, got {t.shape} and {a.shape}")
    return t.astype(np.float64), a, weight


def accuracy(y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> float:
    """The share of right answers.

    Parameters
    ----------
    y_true : array_like, (n,) or (n, classes)
        Classes, which are whole numbers or truth values; or rows whose largest is the class.
    y_pred : array_like, (n,) or (n, classes)
        The same; `MLP.predict` and `MLP.predict_proba` give such rows. With rows, classes are from 0. A row that holds
        NaN is wrong.
    sample_weight : array_like, (n,), optional
        Rows of weight w count w times.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    TypeError, ValueError
        An argument holds no such numbers, or lengths differ.

    Examples
    --------
    >>> from fastbp import metrics
    >>> metrics.accuracy([0, 2, 1], [[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])
    0.6666666666666666
    """
    return _accuracy(*_class_pair(y_true, y_pred, sample_weight))


def balanced_accuracy(y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> float:
    """The mean, over the classes that occur in `y_true`, of the share of their rows that are right.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `accuracy`.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    TypeError, ValueError
        As for `accuracy`.
    """
    return _balanced_accuracy(*_class_pair(y_true, y_pred, sample_weight))


def top_k(y_true: Array, y_pred: Array, sample_weight: Array | None = None, *, k: int = 5) -> float:
    """The share of rows whose class is among the `k` largest outputs. Of equal ones a class counts as the last.

    Parameters
    ----------
    y_true : array_like, (n,) or (n, classes)
        As for `accuracy`.
    y_pred : array_like, (n, classes)
        More than `k` outputs for each row.
    sample_weight : array_like, (n,), optional
        Rows of weight w count w times.
    k : int, default 5

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    TypeError, ValueError
        As for `accuracy`.
    """
    t, a, weight = _class_pair(y_true, y_pred, sample_weight, scores=True)
    return _top(integer("k", k, 1, a.shape[1] - 1))(t, a, weight)


def r2(y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> float:
    """1 - (squared errors) / (squared distances from the mean), mean over outputs; as scikit-learn's `r2_score`.

    Parameters
    ----------
    y_true : array_like, (n,) or (n, outputs)
        Numbers. Where an output's are all equal, it counts as 1 if all are right, else as 0.
    y_pred : array_like, of the same shape
    sample_weight : array_like, (n,), optional
        Rows of weight w count w times.

    Returns
    -------
    float
        At most 1.

    Raises
    ------
    TypeError, ValueError
        An argument holds no such numbers, or shapes differ. (n, 1) and (n,) are the same.
    """
    return _r2(*_same_shape(y_true, y_pred, sample_weight))


def mae(y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> float:
    """The mean absolute error, over rows and outputs.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `r2`.

    Returns
    -------
    float
        In the unit of `y_true`.

    Raises
    ------
    TypeError, ValueError
        As for `r2`.
    """
    return _mae(*_same_shape(y_true, y_pred, sample_weight))


def rmse(y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> float:
    """The root of the mean squared error, over rows and outputs.

    (scikit-learn's `root_mean_squared_error` of several outputs is the mean of a root for each.)

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `r2`.

    Returns
    -------
    float
        In the unit of `y_true`.

    Raises
    ------
    TypeError, ValueError
        As for `r2`.
    """
    return _rmse(*_same_shape(y_true, y_pred, sample_weight))


# ------------------------------------------------------------------ rows as `fit` and `evaluate` ask for them


def find(
    value: Any, loss: Loss, y: NDArray[Any], out_features: int, weight: NDArray[Any] | None = None
) -> Metric:
    """The row that an item of ``metrics=`` asks for.

    Parameters
    ----------
    value : str or callable
        A name, ``"top_5"`` and the like, or a function ``(y_true, y_pred) -> float``.
    loss : Loss
    y : ndarray, (n,) labels or (n, out_features)
        The targets that it will see.
    out_features : int
    weight : ndarray, (n,) or (n, out_features), or None
        The weights that it will see.

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
        at = first_where(y, lambda block: ~(known.holds(block) | np.isnan(block)))
        if at is not None:
            raise ValueError(f"metrics: {value!r} compares classes, and y[{at[0]}] = {y[at]} names none: "
                             "from 0 to 1, or -1 or 1, are wanted")  # fmt: skip
    if metric.of != "values" and value != "accuracy" and independent(loss) and out_features > 1:
        raise ValueError(f"metrics: {value!r} needs one class for each row, {loss.name!r} has {out_features} labels")
    if metric.of != "values" and weight is not None and weight.ndim == 2 and not independent(loss):
        raise ValueError(f"metrics: {value!r} compares the class of whole rows, and targets of one row have different "
                         "weights or are missing")  # fmt: skip
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


def find_all(
    value: Any, loss: Loss, y: NDArray[Any], out_features: int, weight: NDArray[Any] | None = None
) -> tuple[Metric, ...]:
    """The rows that ``metrics=`` asks for, sure to suit the targets y that they will see.

    Parameters
    ----------
    value : sequence
    loss, y, out_features, weight
        As for `find`.

    Raises
    ------
    TypeError, ValueError
        As `find`; or two would have one name.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"metrics must be a sequence of names and callables such as ('accuracy',), got {value!r}")
    found = tuple(find(item, loss, y, out_features, weight) for item in value)
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
    weight : ndarray, (n,) or (n, out_features), or None
    loss : Loss
        Says whether outputs are logits, and of what.
    """
    # a missing target has the weight 0, and NaN times 0 is NaN; a caller's own function sees it as it is
    known = y if weight is None or y.dtype.kind != "f" else np.where(np.isnan(y), 0, y)
    arguments = {of: _ARGUMENTS[of](y if of == "all" else known, outputs, loss) for of in {one.of for one in metrics}}
    return {metric.name: metric.function(*arguments[metric.of], weight) for metric in metrics}
