"""The class that a target names; which rows are kept for validation; what a class weighs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastbp.checks import first_where
from fastbp.order import VALIDATION, philox
from fastbp.rows import Loss


def names_classes(y: np.ndarray, labels: bool) -> bool:
    """Whether targets name a class for each row: labels (n,), rows of probabilities, or one column of two values.

    Parameters
    ----------
    y : ndarray, (n,) or (n, out_features)
    labels : bool
        Whether the loss is one of classes.
    """
    if y.ndim == 1 or labels:
        return True
    if y.shape[1] != 1:
        return False
    known = (y == 1) | (y != y)  # or missing
    return bool((known | (y == 0)).all() or (known | (y == -1)).all())


def independent(loss: Loss) -> bool:
    """Whether each output is a yes or no of its own."""
    return loss.from_logits and not loss.labels


def are_signs(y: np.ndarray, loss: Loss) -> bool:
    """Whether the two classes that one column names are -1 and 1, and not 0 and 1."""
    return loss.domain.low == -1 or first_where(y, lambda block: block < 0) is not None


def classes_of(y: np.ndarray, loss: Loss, outputs: np.ndarray | None = None) -> np.ndarray:
    """The class of each row of targets, or of `outputs` where they are given.

    Parameters
    ----------
    y : ndarray, (n,) labels or (n, out_features)
        Targets. They also say what the classes of one column are: 0 and 1, or -1 and 1.
    loss : Loss
    outputs : ndarray, (n, out_features), optional

    Returns
    -------
    ndarray, (n,)
        Or (n, out_features), where each output is a label of its own.
    """
    values = y if outputs is None else outputs
    if values.ndim == 1:
        return values
    if independent(loss) or (values.shape[1] == 1 and not loss.labels):
        above = values > (0 if (values is outputs and loss.from_logits) or are_signs(y, loss) else 0.5)
        return above[:, 0] if values.shape[1] == 1 else above
    largest = values.argmax(axis=1)
    if np.count_nonzero(values != values):  # NaN
        largest[np.isnan(values).any(axis=1)] = -1  # no class at all
    return largest


def kinds_of(y: np.ndarray, loss: Loss) -> np.ndarray | None:
    """The class of each row of targets, (n,) int64, -1 where it is missing; None where they name no classes."""
    if not names_classes(y, loss.labels):
        return None
    kinds = classes_of(y, loss).astype(np.int64)
    if y.ndim == 2 and not loss.labels:
        kinds[np.isnan(y[:, 0])] = -1
    return kinds


def validation_rows(n: int, share: float, kinds: np.ndarray | None, seed: int) -> np.ndarray:
    """Which rows are kept for validation, (n,) of bool: a function of the seed, n and the classes alone.

    Rows are put in a random order, class by class, and kept at even distances: each class gives its share, to one row.
    """
    words = philox(seed, 0, VALIDATION).random_raw(n)
    order = np.argsort(words, kind="stable") if kinds is None else np.lexsort((words, kinds))
    n_kept = min(max(round(n * share), 1), n - 1)
    kept = np.zeros(n, bool)
    kept[order[((np.arange(n_kept) + 0.5) * (n / n_kept)).astype(np.int64)]] = True
    return kept


def class_weights(value: Any, kinds: np.ndarray, n_classes: int) -> np.ndarray:
    """What each row weighs, (n,) float64, by its class.

    Parameters
    ----------
    value : dict or "balanced"
        Weights by class, 1 for those not named; or n / (classes that occur * rows of the class).
    kinds : ndarray of int, (n,)
        -1, of a missing target, is any class: its row weighs nothing.
    n_classes : int
    """
    weights = np.ones(n_classes)
    if isinstance(value, str):
        known = kinds[kinds >= 0]
        counts = np.bincount(known, minlength=n_classes)
        there = counts > 0
        weights[there] = len(known) / (there.sum() * counts[there])
    else:
        for name, weight in value.items():
            weights[name] = weight
    return weights[kinds]
