"""What a network is (frozen), where its parameters lie, and every argument check.

Checks come before any work; each message names the argument, what came and what is wanted. Kinds that cannot be used
are TypeErrors, values that cannot be used are ValueErrors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fastbp import activations, data, initializers, losses, optimizers
from fastbp.checks import boolean, integer, number
from fastbp.errors import instance_hint, unknown_name
from fastbp.rows import ANY, Activation, Loss, Optimizer

NARROW_OUTPUTS = 4  # an output layer of at most this many is kept transposed; src/engine.hpp says the same
LINE = 64  # bytes of a cache line: rows of owned matrices fill whole lines
_HUGE_PAGE = 1 << 21  # bytes
_CACHE_SETS_STRIDE = 1024  # bytes: rows a multiple of this apart meet in the same cache sets


def padded(n: int, itemsize: int) -> int:
    """Elements of a row of `n`: whole cache lines, and one line more where rows would meet in the same cache sets."""
    per_line = max(1, LINE // itemsize)
    row = -(-n // per_line) * per_line
    return row + per_line if row * itemsize % _CACHE_SETS_STRIDE == 0 else row


@dataclass(frozen=True)
class Layer:
    """One dense layer and where it lies in the parameter buffer (offsets and `ld` in elements)."""

    in_features: int
    out_features: int
    activation: Activation
    transposed: bool  # few outputs: the weight is kept as (out_features, ldw), its rows are the outputs'
    ldw: int  # leading dimension of the weight
    weight: int  # offset of the weight, (in_features, ldw) where it is not transposed
    bias: int | None  # offset of the bias
    dropout: float  # share of its inputs that training sets to 0

    def weight_in(self, buffer: np.ndarray) -> np.ndarray:
        """The (in_features, out_features) view of `buffer`."""
        rows, cols = self.in_features, self.out_features
        if self.transposed:
            rows, cols = cols, rows
        weight = buffer[self.weight : self.weight + rows * self.ldw].reshape(rows, self.ldw)[:, :cols]
        return weight.T if self.transposed else weight

    def bias_in(self, buffer: np.ndarray) -> np.ndarray | None:
        """The (out_features,) view of `buffer`, or None for a layer without bias."""
        return None if self.bias is None else buffer[self.bias : self.bias + self.out_features]


@dataclass(frozen=True)
class Spec:
    """A network: sizes, activations (one per layer, the output's last), bias, dtype. Hashable."""

    sizes: tuple[int, ...]
    activations: tuple[Activation, ...]
    bias: bool
    dtype: np.dtype
    dropout: tuple[float, ...] = ()  # of the inputs of each layer; none is the same as zeros

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        layers, offset, itemsize = [], 0, self.dtype.itemsize
        for k, activation in enumerate(self.activations):
            n_in, n_out = self.sizes[k], self.sizes[k + 1]
            transposed = k == len(self.activations) - 1 and n_out <= NARROW_OUTPUTS
            rows, cols = (n_out, n_in) if transposed else (n_in, n_out)
            ldw = padded(cols, itemsize)
            weight, offset = offset, offset + rows * ldw
            bias = None
            if self.bias:
                bias, offset = offset, offset + padded(n_out, itemsize)
            dropout = self.dropout[k] if self.dropout else 0.0
            layers.append(Layer(n_in, n_out, activation, transposed, ldw, weight, bias, dropout))
        return tuple(layers)

    @cached_property
    def buffer_size(self) -> int:
        """Elements of the padded parameter buffer."""
        last = self.layers[-1]
        if last.bias is not None:
            return last.bias + padded(last.out_features, self.dtype.itemsize)
        return last.weight + (last.out_features if last.transposed else last.in_features) * last.ldw

    @cached_property
    def n_params(self) -> int:
        return sum((n_in + self.bias) * n_out for n_in, n_out in zip(self.sizes, self.sizes[1:]))

    @property
    def in_features(self) -> int:
        return self.sizes[0]

    @property
    def out_features(self) -> int:
        return self.sizes[-1]

    def views(self, buffer: np.ndarray) -> list[np.ndarray]:
        """The real parameters of `buffer` as views, layer by layer, weight then bias."""
        views = []
        for layer in self.layers:
            views.append(layer.weight_in(buffer))
            if layer.bias is not None:
                views.append(layer.bias_in(buffer))
        return views

    def mask(self, of_layers: Iterable[tuple[bool, bool]]) -> np.ndarray:
        """A buffer with 1 in each weight and each bias that is chosen, layer by layer, and 0 elsewhere."""
        buffer = aligned_zeros(self.buffer_size, self.dtype)
        for layer, (weight, bias) in zip(self.layers, of_layers):
            layer.weight_in(buffer)[...] = weight
            if layer.bias is not None:
                layer.bias_in(buffer)[...] = bias
        return buffer

    def flatten(self, buffer: np.ndarray) -> np.ndarray:
        """The dense vector, (n_params,), of a padded buffer."""
        return np.concatenate([view.ravel() for view in self.views(buffer)])

    def padded(self, vector: np.ndarray) -> np.ndarray:
        """A padded buffer that holds a dense vector, (n_params,)."""
        buffer = aligned_zeros(self.buffer_size, self.dtype)
        self.unflatten_into(buffer, vector)
        return buffer

    def unflatten_into(self, buffer: np.ndarray, vector: np.ndarray) -> None:
        """Write a dense vector, (n_params,), into a padded buffer; padding is left alone."""
        ends = np.cumsum([view.size for view in self.views(buffer)])
        with np.errstate(all="ignore"):  # a cast may overflow or underflow
            for view, part in zip(self.views(buffer), np.split(vector, ends[:-1])):
                view[...] = part.reshape(view.shape)


def aligned_zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """A zeroed 1-D array that starts on a cache line; a large one on a huge page, which NumPy asks the system for."""
    n_bytes = size * dtype.itemsize
    alignment = _HUGE_PAGE if n_bytes >= _HUGE_PAGE else LINE
    raw = np.zeros(n_bytes + alignment, dtype=np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + n_bytes].view(dtype)


# ------------------------------------------------------------------ plain arguments


def optional_integer(argument: str, value: Any, low: int) -> int | None:
    return None if value is None else integer(argument, value, low)


def choice(argument: str, value: Any, known: Iterable[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise unknown_name(argument, value, known, TypeError if not isinstance(value, str) else ValueError)
    return value


def seed(value: Any) -> int:
    """A seed of 64 bits; None draws one from the operating system."""
    if value is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    return integer("seed", value, 0, 2**64 - 1)


def run_length(epochs: Any, steps: Any, steps_per_epoch: int) -> int:
    """The number of steps that exactly one of `epochs` and `steps` asks for."""
    if (epochs is None) == (steps is None):
        raise ValueError(f"give exactly one of epochs and steps, got epochs={epochs!r} and steps={steps!r}")
    if steps is not None:
        return integer("steps", steps, 0)
    return integer("epochs", epochs, 0) * steps_per_epoch


def _find(argument: str, value: Any, kind: type, table: Mapping[str, Any], aliases: Mapping[str, str]) -> Any:
    """A row by itself, by name or by alias."""
    if isinstance(value, kind):
        return value
    if callable(value):
        makes = f"@fastbp.{kind.__name__.lower()} makes a row of a function"
        raise TypeError(f"{argument} must be a name or a row, got {value!r}; {makes}")
    name = choice(argument, value, (*table, *aliases))
    return table[aliases.get(name, name)]


def activation(argument: str, value: Any) -> Activation:
    return _find(argument, value, Activation, activations.TABLE, activations.ALIASES)


def loss(value: Any, spec: Spec) -> Loss:
    """The row of a loss, once it is sure that it suits the network's output."""
    row = _find("loss", value, Loss, losses.TABLE, losses.ALIASES)
    if row.from_logits and not spec.activations[-1].is_identity:
        raise ValueError(
            f"loss {row.name!r} is computed from logits (or logarithms) and needs output_activation='identity'; "
            f"this network has {spec.activations[-1].name!r}"
        )
    if row.grad_s and spec.out_features % 2:
        raise ValueError(
            f"loss {row.name!r} takes two outputs for each target: K means, then K log-variances; "
            f"this network has {spec.out_features} output(s)"
        )
    weights, n_targets = row.chosen["output_weights"], row.targets(spec.out_features)
    if weights is not None and len(weights) != n_targets:
        raise ValueError(f"loss {row.name!r}: {len(weights)} output_weights given for {n_targets} target(s) of a row")
    return row


def optimizer(value: Any, spec: Spec, n_rows: int | None = None, batch_size: int | None = None) -> optimizers.Rule:
    """An optimizer by itself or by name, once it is sure that it suits the network and, in `fit`, the batches."""
    if isinstance(value, str):
        value = optimizers.BY_NAME[choice("optimizer", value, optimizers.BY_NAME)]()
    if isinstance(value, Optimizer):
        raise TypeError(f"optimizer {value.name!r} is a rule without its numbers: call it, as in {value.name}(lr=0.01)")
    kinds = (optimizers.Rule, optimizers.LBFGS)
    if not isinstance(value, kinds):
        known = ", ".join(kind.__name__ for kind in optimizers.BY_NAME.values())
        raise TypeError(f"optimizer must be a name or one of {known}, got {value!r}{instance_hint(value, kinds)}")
    if isinstance(value, optimizers.LBFGS):
        if n_rows is None:
            raise ValueError("optimizer: LBFGS chooses its own steps on all rows: only `fit`, with X and y, takes it")
        return value
    name = type(value).__name__
    for scale in ("lr_scale", "decay_scale"):
        given = getattr(value, scale)
        if given is not None and len(given) != len(spec.layers):
            raise ValueError(f"{name}: {scale} holds {len(given)} factors for {len(spec.layers)} layer(s)")
    if value.full_batch and n_rows is not None and batch_size < n_rows:
        raise ValueError(f"{name} needs all rows in a batch: batch_size={n_rows} at least, got {batch_size}")
    return value


# ------------------------------------------------------------------ the network


def make_spec(
    sizes: Any, hidden: Any, output: Any, bias: Any, dtype: Any, dropout: Any = 0.0, input_dropout: Any = 0.0
) -> Spec:
    """Check the arguments of `fastbp.MLP` that say what the network is."""
    if isinstance(sizes, (str, bytes)) or not isinstance(sizes, (Sequence, np.ndarray)) or np.ndim(sizes) != 1:
        raise TypeError(f"sizes must be a sequence of integers such as (2, 3, 1), got {sizes!r}")
    sizes = tuple(integer(f"sizes[{k}]", size, 1) for k, size in enumerate(sizes))
    if len(sizes) < 2:
        raise ValueError(f"sizes needs at least the input's and the output's size, got {sizes!r}")
    n_hidden = len(sizes) - 2
    if isinstance(hidden, (str, Activation)) or callable(hidden):
        rows = (activation("activation", hidden),) * n_hidden
    elif isinstance(hidden, Sequence):
        if len(hidden) != n_hidden:
            raise ValueError(f"activation: {len(hidden)} given for {n_hidden} hidden layer(s)")
        rows = tuple(activation(f"activation[{k}]", value) for k, value in enumerate(hidden))
    else:
        raise TypeError(f"activation must be a name, a row, or one per hidden layer, got {hidden!r}")
    rows += (activation("output_activation", output),)
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be a floating-point dtype, got {dtype!r}") from None
    if dtype.kind != "f" or not dtype.isnative:
        raise ValueError(f"dtype must be a native floating-point dtype such as float32, got {dtype}")
    spec = Spec(sizes, rows, boolean("bias", bias), dtype, dropout_rates(dropout, input_dropout, n_hidden))
    n_bytes = spec.buffer_size * dtype.itemsize
    if n_bytes > sys.maxsize // 4:
        raise ValueError(f"sizes {sizes!r} need {n_bytes:.3g} bytes of parameters")
    return spec


_ALL_DROPPED = 1 - 2**-17  # what is rounded to 1, in steps of 2**-16: nothing would be left to scale up


def dropout_rates(dropout: Any, input_dropout: Any, n_hidden: int) -> tuple[float, ...]:
    """The share of its inputs that each layer drops, or () where none does; below 1."""
    one = isinstance(dropout, (str, bytes)) or getattr(dropout, "ndim", 1) == 0
    if isinstance(dropout, (Sequence, np.ndarray)) and not one:
        if len(dropout) != n_hidden:
            raise ValueError(f"dropout: {len(dropout)} given for {n_hidden} hidden layer(s)")
        hidden = [number(f"dropout[{k}]", rate, 0, _ALL_DROPPED, ends="[)") for k, rate in enumerate(dropout)]
    else:
        hidden = [number("dropout", dropout, 0, _ALL_DROPPED, ends="[)")] * n_hidden
    rates = (number("input_dropout", input_dropout, 0, _ALL_DROPPED, ends="[)"), *hidden)
    return rates if any(rates) else ()


def initial_arrays(spec: Spec, init: Any, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """A (weight, bias or None) pair per layer, as `init` says: a name, a callable, or a sequence of arrays or pairs."""
    if isinstance(init, str):
        init = initializers.TABLE[choice("init", init, initializers.TABLE)]
    if callable(init):
        given = [init(rng, layer.in_features, layer.out_features) for layer in spec.layers]
        name = "init({2}, {0}, {1})"
    elif isinstance(init, Sequence) or isinstance(init, np.ndarray):
        given = list(init)
        name = "init[{3}]"
        if len(given) != len(spec.layers):
            raise ValueError(f"init: {len(given)} arrays given for {len(spec.layers)} layer(s)")
    else:
        raise TypeError(f"init must be a name, a callable or a sequence of arrays, got {init!r}")
    pairs = []
    for k, (layer, item) in enumerate(zip(spec.layers, given)):
        what = name.format(layer.in_features, layer.out_features, "rng", k)
        bias = None
        # of two items: (weight, bias), unless the first is a row: then these are the two rows of a weight
        if isinstance(item, tuple) and len(item) == 2 and real_array(what, item[0]).ndim != 1:
            if layer.bias is None:
                raise ValueError(f"{what}: a bias is given, but the network has bias=False")
            item, bias = item[0], _parameters(f"{what} bias", item[1], (layer.out_features,))
        pairs.append((_parameters(what, item, (layer.in_features, layer.out_features)), bias))
    return pairs


def _parameters(what: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = real_array(what, value)
    if array.shape != shape:
        raise ValueError(f"{what} must have shape {shape}, got {array.shape}")
    return array


def dense_vector(argument: str, value: Any, spec: Spec) -> np.ndarray:
    """`value` as a dense vector of all parameters."""
    return _parameters(argument, value, (spec.n_params,))


# ------------------------------------------------------------------ data


def real_array(argument: str, value: Any) -> np.ndarray:
    """`value` as an array of real numbers of any layout; nothing is copied that is an array already."""
    masked = sys.modules.get("numpy.ma")  # not loaded: there is no masked array
    if masked is not None and isinstance(value, masked.MaskedArray):
        raise ValueError(f"{argument} is a masked array; fill it first, for example with {argument}.filled(0)")
    if data.is_sparse(value):
        raise TypeError(f"{argument} is sparse; a dense array is wanted, for example {argument}.toarray()")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{argument} is not an array: {error}") from None
    if array.dtype.kind == "O":
        try:
            if any(item is None or isinstance(item, (str, bytes)) for item in array.flat):
                raise TypeError  # NumPy would read numerals, and take None for NaN
            array = array.astype(np.float64)
        except (TypeError, ValueError):
            raise TypeError(f"{argument} holds objects that are not numbers") from None
    if array.dtype.kind == "c":
        raise ValueError(f"{argument} is complex; real numbers are wanted")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{argument} must hold numbers, got dtype {array.dtype}")
    return array


def matrix(argument: str, value: Any, n_columns: int, n_rows: int | None = None) -> np.ndarray:
    """`value` as a 2-D array of real numbers with `n_columns` columns."""
    array = real_array(argument, value)
    if array.ndim == 1:
        hint = f"{argument}[:, None]" if n_columns == 1 else f"{argument}[None, :]"
        raise ValueError(f"{argument} must be 2-D, got shape {array.shape}; for a single column or row: {hint}")
    if array.ndim != 2:
        raise ValueError(f"{argument} must be 2-D, got shape {array.shape}")
    if array.shape[1] != n_columns:
        raise ValueError(f"{argument} has {array.shape[1]} column(s), the network has {n_columns}")
    if n_rows is not None and len(array) != n_rows:
        raise ValueError(f"{argument} has {len(array)} rows, {n_rows} are wanted")
    return array


def features(value: Any, spec: Spec, *, empty: bool = False, sparse: bool = False) -> np.ndarray:
    """X as a 2-D array, (n_samples, in_features); with `sparse` a CSR matrix will do, and looks like one."""
    if sparse and data.is_sparse(value):
        X = data.Sparse("X", value)
        if X.shape[1] != spec.in_features:
            raise ValueError(f"X has {X.shape[1]} column(s), the network has {spec.in_features}")
    else:
        X = matrix("X", value, spec.in_features)
    if len(X) == 0 and not empty:
        raise ValueError("X has no rows")
    return X


_BLOCK = 1 << 16  # elements looked at in one go, so that memory does not grow with the data


def _row_blocks(array: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    rows = max(1, _BLOCK // max(1, array.size // max(1, len(array))))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def first_where(array: np.ndarray, test: Callable[[np.ndarray], np.ndarray]) -> tuple[int, ...] | None:
    """The index of the first element that `test` holds for, in row order."""
    for start, block in _row_blocks(array):
        found = test(block)
        if found.any():
            first = np.unravel_index(np.argmax(found), found.shape)
            return (start + int(first[0]), *map(int, first[1:]))
    return None


def non_finite(block: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Where `block`, cast to `dtype`, is NaN or infinite."""
    with np.errstate(all="ignore"):
        return ~np.isfinite(block.astype(dtype))


def where_non_finite(X: Any, dtype: np.dtype, numbers: np.ndarray | None = None) -> str | None:
    """What X holds that is not finite in the network's dtype; `numbers`: of its rows, for those who gave them."""
    at = first_where(X, lambda block: non_finite(block, dtype))
    if at is None:
        return None
    row = at[0] if numbers is None else numbers[at[0]]
    large = f" (too large for {dtype})" if np.isfinite(X[at]) else ""
    return f"X holds {X[at]}{large} at row {row}, column {at[1]}"


def _refuse(argument: str, array: np.ndarray, test: Callable[[np.ndarray], np.ndarray], wanted: str) -> None:
    at = first_where(array, test)
    if at is not None:
        place = ", ".join(map(str, at))
        raise ValueError(f"{argument} must be {wanted}, got {argument}[{place}] = {array[at]}")


def targets(value: Any, loss: Loss, X: np.ndarray, spec: Spec) -> np.ndarray:
    """y as integer labels (n,) or as (n, targets of a row), checked against the loss's domain."""
    n, k = len(X), loss.targets(spec.out_features)
    y = real_array("y", value)
    if y.ndim == 0 or len(y) != n:
        raise ValueError(f"X and y are inconsistent: X has {n} rows, y has shape {y.shape}")
    if loss.labels and y.ndim == 1 and not (k == 1 and y.dtype.kind == "f"):
        if y.dtype.kind == "f":
            raise ValueError(
                f"y: {loss.name} takes integer labels or rows of probabilities (n, {k}); "
                f"got shape {y.shape} of {y.dtype}, perhaps y.astype(int) is meant"
            )
        one = "0, the one class of a network with one output (for two take two outputs, or binary_cross_entropy)"
        labels = f"class labels from 0 to {k - 1}" if k > 1 else one
        _refuse("y", y, lambda block: (block < 0) | (block >= k), labels)
        return y.view(np.uint8) if y.dtype.kind == "b" else y
    if y.ndim == 1 and k == 1:
        y = y[:, None]
    if y.shape != (n, k):
        also = ", or integer labels (n,)" if loss.labels else ", or (n,)" if k == 1 else ""
        raise ValueError(f"y must have shape ({n}, {k}){also}; got {y.shape}")
    _refuse("y", y, lambda block: non_finite(block, spec.dtype), f"finite as {spec.dtype}")
    if loss.domain != ANY:  # of the numbers that the kernels see
        outside = lambda block: ~loss.domain.holds(block.astype(spec.dtype))  # noqa: E731
        _refuse("y", y, outside, f"{loss.domain} for {loss.name}")
    if loss.labels:
        tolerance = 1e-6 + 8 * k * float(np.finfo(spec.dtype if y.dtype.kind != "f" else y.dtype).eps)
        sums = lambda block: abs(block.sum(axis=1, dtype=np.float64) - 1) > tolerance  # noqa: E731
        at = first_where(y, sums)
        if at is not None:
            raise ValueError(f"y must hold rows of probabilities for {loss.name}; row {at[0]} sums to {y[at].sum():g}")
    return y


def sample_weights(value: Any, n: int, *, all_zero: bool = False) -> np.ndarray | None:
    """Contiguous float64 weights, (n,): finite, at least 0, not all 0 unless told."""
    if value is None:
        return None
    weight = real_array("sample_weight", value)
    if weight.shape != (n,):
        raise ValueError(f"sample_weight must have shape ({n},), got {weight.shape}")
    weight = np.ascontiguousarray(weight, dtype=np.float64)
    _refuse("sample_weight", weight, lambda block: ~((block >= 0) & np.isfinite(block)), "finite and at least 0")
    if not all_zero and not weight.any():
        raise ValueError("sample_weight is zero for every sample")
    with np.errstate(over="ignore"):
        if not np.isfinite(weight.sum()):
            raise ValueError("sample_weight: the sum of the weights overflows; scale them down")
    return weight


def validation(value: Any, loss: Loss, spec: Spec) -> data.Rows:
    """``validation_data``: (X, y) or (X, y, sample_weight), checked as those of `fit`."""
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise TypeError(f"validation_data must be a tuple (X, y) or (X, y, sample_weight), got {_kind(value)}")
    return _rows("validation_data", value, loss, spec)


def _rows(argument: str, value: Sequence[Any], loss: Loss, spec: Spec, *, all_zero: bool = False) -> data.Rows:
    """(X, y) or (X, y, sample_weight) that came in one `argument`, checked; errors name it."""
    try:
        X = features(value[0], spec, sparse=True)
        y = targets(value[1], loss, X, spec)
        weight = sample_weights(value[2] if len(value) == 3 else None, len(X), all_zero=all_zero)
        return data.Rows(X, y, weight)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{argument}: {error}") from None


def batch(value: Any, loss: Loss, spec: Spec) -> data.Rows:
    """What an iterator of batches gave, checked."""
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise TypeError(f"X gives batches without y=, each a tuple (X, y) or (X, y, sample_weight); got {_kind(value)}")
    return _rows("a batch", value, loss, spec, all_zero=True)


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
        if name == -1:
            raise ValueError("class_weight: of targets -1 and 1 these are classes 0 and 1, got a weight for -1")
        label = integer("class_weight: a class", name, 0, n_classes - 1)
        found[label] = number(f"class_weight: the weight of class {label}", weight, 0)
    return found
