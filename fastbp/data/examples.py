"""What `fit` trains on: the arguments that say so, checked together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbp import checks
from fastbp.arrays import is_sparse
from fastbp.data import arguments
from fastbp.data.classes import class_weights, kinds_of, validation_rows
from fastbp.data.samples import Lazy, Samples, together
from fastbp.rows import Loss
from fastbp.spec import Spec

if TYPE_CHECKING:
    from fastbp.data.batches import Batches


class Examples(NamedTuple):
    """The arguments of `fit` that say what to train on, checked."""

    source: Samples | Batches
    validation: Samples | None
    batch_size: int  # of a `Batches`: 1, since it counts batches where others count rows
    steps: int
    copy: Any = None  # of the X trained on, or a reader of it, with its rows whole: see `together`
    inside: np.ndarray | None = None  # numbers of the caller's rows: those trained on,
    outside: np.ndarray | None = None  # and those of `validation`, where validation_split parts them

    @property
    def training(self) -> Samples | None:
        """The rows, where they are there beforehand."""
        return self.source if isinstance(self.source, Samples) else None

    @property
    def is_array(self) -> bool:
        """Whether X and y are arrays, which a program takes as they are."""
        return isinstance(self.source, Samples) and not Samples(*self.rows).is_lazy

    @property
    def given(self) -> Any:
        """The X that `copy` was made of, if there is one."""
        return None if self.copy is None else self.source.X

    @property
    def n_rows(self) -> int | None:
        """Of all rows; None where nobody knows."""
        return len(self.source.X) if isinstance(self.source, Samples) else None

    @property
    def rows(self) -> tuple[Any, Any, Any]:
        """X, y and weight of a `Run`."""
        if not isinstance(self.source, Samples):
            return self.source, None, None
        return self.source if self.copy is None else self.source._replace(X=self.copy)


def examples(
    network: Spec, loss: Loss, X: Any, y: Any, sample_weight: Any, class_weight: Any, validation_data: Any,
    validation_split: Any, *, batch_size: Any, epochs: Any, steps: Any, shuffle: bool, seed: int, missing: str,
    apart: Callable[[Any], Any],
) -> Examples:  # fmt: skip
    """Check these arguments of `fit`. `apart`: copies what lies in the parameters."""
    validation = None if validation_data is None else arguments.validation(validation_data, loss, network, missing)
    batch_size = checks.integer("batch_size", batch_size, 1)
    if y is None:
        return _batches(
            network, loss, X, sample_weight, class_weight, validation, validation_split, epochs, steps, missing
        )
    X = arguments.features(X, network, lazy=True)
    rows = Samples(*map(apart, arguments.samples(X, y, sample_weight, loss, network, missing=missing)))
    return examples_of(
        network, loss, rows, class_weight, validation, validation_split,
        batch_size=batch_size, epochs=epochs, steps=steps, shuffle=shuffle, seed=seed,
    )  # fmt: skip


def examples_of(
    network: Spec, loss: Loss, rows: Samples, class_weight: Any, validation: Samples | None, validation_split: Any, *,
    batch_size: int, epochs: Any, steps: Any, shuffle: bool, seed: int,
) -> Examples:  # fmt: skip
    """The same from rows, and rows for validation, that are checked already."""
    n_classes = max(network.out_features, 2)
    kinds = inside = outside = None
    if class_weight is not None or validation_split is not None:
        kinds = kinds_of(rows.y, loss)
    if class_weight is not None:
        class_weight = arguments.class_weight(class_weight, n_classes)
        if kinds is None:
            raise ValueError("class_weight: y names no classes; labels, or one column of two values, are wanted")
    if validation_split is not None:
        share = arguments.validation_share(validation_split, len(rows.X))
        if validation is not None:
            raise ValueError("give at most one of validation_data and validation_split")
        kept = validation_rows(len(rows.X), share, kinds, seed)
        inside, outside = np.flatnonzero(~kept), np.flatnonzero(kept)
        kinds = None if kinds is None else kinds[inside]
        rows, validation = rows.picked(inside), rows.picked(outside)
        for part, what in ((rows, "trained on"), (validation, "kept for validation")):
            if part.weight is not None and not part.weight.any():
                raise ValueError(f"validation_split: sample_weight is zero for every row that is {what}")
    if class_weight is not None:
        rows = _weighed(rows, class_weights(class_weight, kinds, n_classes))
    n = len(rows.X)
    if shuffle and n >= 2**32:
        raise ValueError(f"shuffle=True takes at most 2**32 - 1 rows, X has {n}")
    batch_size = min(batch_size, n)
    steps_per_epoch = -(-n // batch_size)
    n_steps = checks.run_length(epochs, steps, steps_per_epoch)
    # what takes as long as half an epoch of scattered reads pays from one epoch on
    copy = together(rows.X, network.dtype) if shuffle and n_steps >= steps_per_epoch else None
    return Examples(rows, validation, batch_size, n_steps, copy, inside, outside)


def _weighed(rows: Samples, of_class: np.ndarray, *, all_zero: bool = False) -> Samples:
    """The rows, their weights times those of their classes."""
    weight = of_class if rows.weight is None else arguments.product(of_class, rows.weight)
    try:
        return rows._replace(weight=arguments.sample_weights(weight, len(weight), all_zero=all_zero))
    except ValueError as error:
        raise ValueError(f"class_weight: {error}") from None


def _batches(
    network: Spec, loss: Loss, X: Any, sample_weight: Any, class_weight: Any, validation: Samples | None,
    validation_split: Any, epochs: Any, steps: Any, missing: str,
) -> Examples:  # fmt: skip
    """X gives batches."""
    if hasattr(X, "__array__") or is_sparse(X) or not isinstance(X, Iterable) or isinstance(X, (str, bytes, dict)):
        raise TypeError("y must hold numbers, got None; only an iterable X of batches (X, y) goes without, "
                        f"got X of type {type(X).__name__}")  # fmt: skip
    if sample_weight is not None:
        raise ValueError("sample_weight: where X gives batches, each may bring its own: (X, y, sample_weight)")
    if validation_split is not None:
        raise ValueError("validation_split: X gives batches, whose rows cannot be kept apart; give validation_data")
    weights = None if class_weight is None else arguments.class_weight(class_weight, max(network.out_features, 2))
    if weights == "balanced":
        raise ValueError("class_weight='balanced' needs all labels beforehand; where X gives batches give a dict")
    n_steps = checks.run_length(epochs, steps, sys.maxsize)
    arguments.may_be_missing(loss, missing)  # before the first batch

    def check(value: Any) -> Samples:
        rows = arguments.batch(value, loss, network, missing)
        if weights is not None:
            kinds = kinds_of(rows.y, loss)
            if kinds is None:
                raise ValueError("class_weight: the y of a batch names no classes")
            rows = _weighed(rows, class_weights(weights, kinds, max(network.out_features, 2)), all_zero=True)
        X = rows.X[:] if isinstance(rows.X, Lazy) else rows.X.copy()
        return Samples(X, rows.y.copy(), None if rows.weight is None else rows.weight.copy())

    from fastbp.data.batches import Batches

    return Examples(Batches(X, check, steps, epochs, weights is None), validation, 1, n_steps)
