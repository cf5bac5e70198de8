"""X, y, weights and validation rows as the caller gave them, checked against the network and the loss.

Checks come before any work; each message names the argument, what came and what is wanted. Kinds that cannot be used
are TypeErrors, values that cannot be used are ValueErrors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from fastbp.arrays import is_sparse, is_stored, real_array
from fastbp.checks import choice, first_where, integer, non_finite, number, refuse
from fastbp.data.samples import Samples, Sparse, Stored
from fastbp.rows import ANY, Domain, Loss
from fastbp.spec import Spec


def matrix(argument: str, value: Any, n_columns: int, n_rows: int | None = None) -> np.ndarray:
    """`value` as a 2-D array of real numbers with `n_columns` columns."""
    return _two_dimensional(argument, real_array(argument, value), n_columns, n_rows)


def _two_dimensional(argument: str, array: Any, n_columns: int, n_rows: int | None = None) -> Any:
    """An array or lazy rows, sure to be 2-D with `n_columns` columns."""
    if len(array.shape) == 1:
        one = f"one feature: {argument}[:, None]" if n_columns == 1 else f"one sample: {argument}[None, :]"
        raise ValueError(f"{argument} must be 2-D, got shape {array.shape}; for {one}")
    if len(array.shape) != 2:
        raise ValueError(f"{argument} must be 2-D, got shape {array.shape}")
    if array.shape[1] != n_columns:
        raise ValueError(f"{argument} has {array.shape[1]} column(s), the network has {n_columns}")
    if n_rows is not None and len(array) != n_rows:
        raise ValueError(f"{argument} has {len(array)} rows, {n_rows} are wanted")
    return array


def features(value: Any, spec: Spec, *, empty: bool = False, lazy: bool = False) -> Any:
    """X as a 2-D array, (n_samples, in_features); with `lazy` a CSR matrix or a dataset will do, and looks like one."""
    if lazy and is_sparse(value):
        X = _two_dimensional("X", Sparse("X", value), spec.in_features)
    elif lazy and is_stored(value):
        X = _two_dimensional("X", Stored("X", value), spec.in_features)
    else:
        X = matrix("X", value, spec.in_features)
    if len(X) == 0 and not empty:
        raise ValueError("X has no rows")
    return X


def chosen_outputs(value: Any, X: np.ndarray, spec: Spec) -> np.ndarray:
    """``output``: the number of an output for all rows of X, or one for each; None: the only one. Indices, (n,)."""
    n, k = len(X), spec.out_features
    if value is None:
        if k > 1:
            raise ValueError(
                f"output must be given, as the network has {k} outputs: one for all rows, as in output=0, or one for "
                "each row, as in output=net.predict(X).argmax(axis=1)"
            )
        value = 0
    if getattr(value, "ndim", None) == 0 or not hasattr(value, "__len__"):
        return np.broadcast_to(integer("output", value, -k, k - 1), n)
    chosen = real_array("output", value)
    if chosen.dtype.kind == "f":
        raise TypeError(f"output must hold integers, got {chosen.dtype}; perhaps output.astype(int) is meant")
    if chosen.shape != (n,):
        raise ValueError(f"output must be an integer or have shape ({n},), one for each row; got shape {chosen.shape}")
    refuse("output", chosen, lambda block: (block < 0) | (block >= k), f"from 0 to {k - 1}")
    return chosen.view(np.uint8) if chosen.dtype.kind == "b" else chosen


def targets(value: Any, loss: Loss, X: np.ndarray, spec: Spec, missing: str | None = None) -> np.ndarray:
    """y as integer labels (n,) or as (n, targets of a row), checked against the loss's domain.

    `missing` is the argument of that name, or None where the caller has none: with "ignore" NaN may be among them.
    """
    may_miss = may_be_missing(loss, missing)
    n, k = len(X), loss.targets(spec.out_features)
    y = real_array("y", value)
    if y.ndim == 0 or len(y) != n:
        raise ValueError(f"X and y are inconsistent: X has {n} rows, y has shape {y.shape}")
    if loss.labels and y.ndim == 1 and not (k == 1 and y.dtype.kind == "f"):
        if y.dtype.kind == "f":
            missing = first_where(y, np.isnan)
            cure = "perhaps y.astype(int) is meant"
            if missing is not None:
                cure = f"and a missing value, NaN, at row {missing[0]}: leave such rows out"
            raise ValueError(
                f"y: {loss.name} takes integer labels or rows of probabilities (n, {k}); "
                f"got floats of shape {y.shape}, {cure}"
            )
        one = "0, the one class of a network with one output (for two take two outputs, or binary_cross_entropy)"
        labels = f"class labels from 0 to {k - 1}" if k > 1 else one
        outside = lambda block: (block < 0) | (block >= k)  # noqa: E731
        refuse("y", y, outside, labels, cure=lambda _: _numbered(y, k) if k > 1 else "")
        return y.view(np.uint8) if y.dtype.kind == "b" else y
    if y.ndim == 1 and k == 1:
        y = y[:, None]
    if y.shape != (n, k):
        also = ", or integer labels (n,)" if loss.labels else ", or (n,)" if k == 1 else ""
        wanted = f"({n}, {k}){also}, for loss {loss.name!r}"
        raise ValueError(f"y must have shape {wanted}; got {y.shape}{_meant(y, k, loss)}")
    beyond = lambda block: non_finite(block, spec.dtype)  # noqa: E731
    outside = lambda block: ~loss.domain.holds(block.astype(spec.dtype))  # noqa: E731
    if may_miss:
        beyond, outside = (lambda block, test=test: test(block) & ~np.isnan(block) for test in (beyond, outside))
    hint = "; missing='ignore' leaves out targets that are NaN" if missing and loss.is_pointwise else ""
    refuse("y", y, beyond, "finite as {}", spec.dtype, cure=lambda found: hint if np.isnan(found) else "")
    if loss.domain != ANY:  # of the numbers that the kernels see
        refuse("y", y, outside, "{} for {}", loss.domain, loss.name, cure=lambda _: _moved(y, loss))
    if loss.labels:
        tolerance = 1e-6 + 8 * k * float(np.finfo(spec.dtype if y.dtype.kind != "f" else y.dtype).eps)
        sums = lambda block: abs(block.sum(axis=1, dtype=np.float64) - 1) > tolerance  # noqa: E731
        at = first_where(y, sums)
        if at is not None:
            raise ValueError(f"y must hold rows of probabilities for {loss.name}; row {at[0]} sums to {y[at].sum():g}")
    return y


_SIGNS, _SHARES = Domain(-1, 1, "{}"), Domain(0, 1)

# What y was meant to be, where it cannot be used: the commonest of first mistakes. docs/which_loss.md says more.


def _classes(y: np.ndarray) -> np.ndarray | None:
    """The different numbers of y, where all are whole."""
    return np.unique(y) if (y.dtype.kind != "f" or (np.isfinite(y) & (y == np.floor(y))).all()) else None


def _numbered(y: np.ndarray, k: int) -> str:
    """How labels become those of k classes."""
    found = len(np.unique(y))
    if found > k:
        return f"; y holds {found} classes, and the network has an output for each of {k}"
    return "; classes, y = np.unique(y, return_inverse=True) numbers the classes from 0"


def _meant(y: np.ndarray, k: int, loss: Loss) -> str:
    """Of y in a wrong shape, for k targets of a row."""
    if k == 1 and y.ndim == 2 and y.shape[1] > 1:
        one_hot = ((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()
        classes = ", and one-hot rows of classes take loss='softmax_cross_entropy'" if one_hot else ""
        return f"; such rows need a network with {y.shape[1] * (2 if loss.grad_s else 1)} outputs{classes}"
    if y.shape[1:] not in ((), (1,)):
        return ""
    classes = _classes(y)
    if classes is None or len(classes) > k or loss.grad_s:
        return f"; one target for each row needs a network with {'two outputs' if loss.grad_s else 'one output'}"
    if loss.labels:
        return "; y.ravel() makes labels of the column"
    if classes.tolist() in ([-1, 1], [0, 1]) and k == 2:
        two = f"one output and loss={'hinge' if classes[0] else 'binary_cross_entropy'!r}, or "
    else:
        two = ""
    ready = classes[0] >= 0 and classes[-1] < k
    cast = ".astype(int)" if y.dtype.kind == "f" else ""
    made = f"y{'.ravel()' if y.ndim == 2 else ''}{cast}" if ready else "np.unique(y, return_inverse=True)[1]"
    given = f" with {made}" if made != "y" else ""
    return f"; for labels of classes take {two}loss='softmax_cross_entropy'{given} (see docs/which_loss.md)"


def _moved(y: np.ndarray, loss: Loss) -> str:
    """Of y outside of the loss's domain: how labels of two classes come into it."""
    classes = _classes(y)
    if classes is None or y.shape[1] > 1 or loss.domain not in (_SIGNS, _SHARES):
        return ""
    if len(classes) > 2:
        return "; more than two classes need an output for each and loss='softmax_cross_entropy'"
    if loss.domain == _SIGNS:
        return "; 2 * y - 1 makes -1 and 1 of 0 and 1" if classes.tolist() == [0, 1] else ""
    if classes.tolist() == [-1, 1]:
        return "; (y + 1) / 2 makes 0 and 1 of -1 and 1"
    return "; np.unique(y, return_inverse=True)[1] makes 0 and 1 of the labels of two classes"


def may_be_missing(loss: Loss, missing: str | None) -> bool:
    """Whether targets may be NaN: `missing` says so, and the loss is one of those that can do without some."""
    if missing == "ignore" and not loss.is_pointwise:
        raise ValueError(f"missing='ignore' is for losses of each target by itself, {_why_whole(loss)}: "
                         "leave out rows whose targets are missing")  # fmt: skip
    return missing == "ignore"


def _why_whole(loss: Loss) -> str:
    """Why a row of a loss cannot be taken apart."""
    what = "a mean and a variance for each" if loss.grad_s else "one of all outputs of a row"
    return f"and {loss.name} has {what}"


_LEAST_WEIGHT = 2.0**-900  # sums of such weights have a quotient with room above it


def product(*weights: np.ndarray) -> np.ndarray:
    """The product of weights; times a power of two where some are so small that they, or quotients of sums, were lost.

    A loss is sum(w l) / sum(w): a factor of all weights changes nothing, and a power of two no bit of it.
    """
    with np.errstate(over="ignore", under="ignore"):
        made = reduce(np.multiply, weights)
    small = made < _LEAST_WEIGHT
    if not small.any():
        return made
    counts = np.logical_and.reduce([part > 0 for part in weights])
    if not (small & counts).any():
        return made
    mantissas, exponents = zip(*map(np.frexp, weights))
    exponent = sum(exponents)
    least, most = int(exponent[counts].min()), int(exponent[counts].max())
    # the least to 1 where that leaves room for products with errors; else what can be done
    shift = max(min(-least, 500 - most), min(-900 - least, 960 - most), 0)
    return np.ldexp(reduce(np.multiply, mantissas), exponent + shift)


def samples(
    X: Any, y: Any, sample_weight: Any, loss: Loss, spec: Spec, *, missing: str | None = None, all_zero: bool = False
) -> Samples:
    """X, which is checked already, with its targets and weights, of which not all may be 0 unless told.

    A missing target weighs 0 from here on: nothing else tells it from others.
    """
    y = targets(y, loss, X, spec, missing)
    weight = sample_weights(sample_weight, len(X), loss, spec, all_zero=all_zero)
    if missing != "ignore" or y.dtype.kind != "f":
        return Samples(X, y, weight)
    known = ~np.isnan(y)
    if known.all():
        return Samples(X, y, weight)
    if not known.any() and not all_zero:
        raise ValueError("y holds no targets: every one of them is missing (NaN)")
    weight = np.ones(y.shape) if weight is None else weight if weight.ndim == 2 else weight[:, None]
    weight = np.ascontiguousarray(np.where(known, weight, 0.0))  # `where` lays out its result as y
    if not weight.any() and not all_zero:
        raise ValueError("sample_weight is zero for every target that is not missing")
    return Samples(X, y, _by_rows(weight))


def _by_rows(weight: np.ndarray) -> np.ndarray:
    """Weights (n, targets) as (n,) where all of a row are the same: the kernels do less, and bits are those of (n,)."""
    return np.ascontiguousarray(weight[:, 0]) if (weight == weight[:, :1]).all() else weight


def sample_weights(
    value: Any, n: int, loss: Loss | None = None, spec: Spec | None = None, *, all_zero: bool = False
) -> np.ndarray | None:
    """Contiguous float64 weights: finite, at least 0, not all 0 unless told; as `product` has them.

    They are (n,), or (n, targets of a row) where a loss allows these and some row has several weights.
    """
    if value is None:
        return None
    weight = real_array("sample_weight", value)
    k = loss.targets(spec.out_features) if loss and spec else 0
    by_target = loss is not None and loss.is_pointwise
    if weight.shape != (n,) and (weight.shape != (n, k) or not by_target):
        also, why = f" or ({n}, {k})" if by_target else "", ""
        if loss and weight.shape == (n, k):
            why = f"; weights of each target are for losses of each by itself, {_why_whole(loss)}"
        raise ValueError(f"sample_weight must have shape ({n},){also}, got {weight.shape}{why}")
    weight = np.ascontiguousarray(weight, dtype=np.float64)
    refuse("sample_weight", weight, lambda block: ~((block >= 0) & np.isfinite(block)), "finite and at least 0")
    weight = product(weight)
    if not all_zero and not weight.any():
        raise ValueError("sample_weight is zero for every sample")
    with np.errstate(over="ignore"):
        if not np.isfinite(weight.sum()):
            raise ValueError("sample_weight: the sum of the weights overflows; scale them down")
    return weight if weight.ndim == 1 else _by_rows(weight)


def validation(value: Any, loss: Loss, spec: Spec, missing: str) -> Samples:
    """``validation_data``: (X, y) or (X, y, sample_weight), checked as those of `fit`."""
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise TypeError(f"validation_data must be a tuple (X, y) or (X, y, sample_weight), got {_kind(value)}")
    return _rows("validation_data", value, loss, spec, missing)


def _rows(
    argument: str, value: Sequence[Any], loss: Loss, spec: Spec, missing: str, *, all_zero: bool = False
) -> Samples:
    """(X, y) or (X, y, sample_weight) that came in one `argument`, checked; errors name it."""
    try:
        X = features(value[0], spec, lazy=True)
        weight = value[2] if len(value) == 3 else None
        return samples(X, value[1], weight, loss, spec, missing=missing, all_zero=all_zero)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{argument}: {error}") from None


def batch(value: Any, loss: Loss, spec: Spec, missing: str) -> Samples:
    """What an iterator of batches gave, checked."""
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise TypeError(f"X gives batches without y=, each a tuple (X, y) or (X, y, sample_weight); got {_kind(value)}")
    return _rows("a batch", value, loss, spec, missing, all_zero=True)


def _kind(value: Any) -> str:
    return f"{len(value)} items" if isinstance(value, (tuple, list)) else f"a {type(value).__name__}"


def validation_share(value: Any, n: int) -> float:
    """``validation_split``: a share of n rows that leaves some on both sides."""
    share = number("fit: validation_split", value, 0, 1, ends="()")
    if n < 2:
        raise ValueError(f"validation_split needs at least 2 rows, X has {n}")
    return share


def class_weight(value: Any, n_classes: int) -> Mapping[int, float] | str:
    """``class_weight``: "balanced", or weights by class, finite and at least 0."""
    if isinstance(value, str):
        return choice("class_weight", value, ("balanced",))
    if not isinstance(value, Mapping):
        raise TypeError(f"class_weight must be a dict of weights by class or 'balanced', got {value!r}")
    found = {}
    for name, weight in value.items():
        if isinstance(name, (int, float, np.number)) and name == -1:
            raise ValueError("class_weight: of targets -1 and 1 these are classes 0 and 1, got a weight for -1")
        is_truth = isinstance(name, (bool, np.bool_))  # as labels may be
        label = number("class_weight: a class", int(name) if is_truth else name, 0, n_classes - 1)
        if not label.is_integer():
            raise ValueError(f"class_weight: a class must be a whole number, got {name!r}")
        found[int(label)] = number(f"class_weight: the weight of class {int(label)}", weight, 0)
    return found
