"""What a network is (frozen), where its parameters lie, and the arguments that say so, checked.

Checks come before any work; each message names the argument, what came and what is wanted. Kinds that cannot be used
are TypeErrors, values that cannot be used are ValueErrors.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from fastbp import activations, initializers, losses, optimizers, order
from fastbp.arrays import real_array, real_number, shown
from fastbp.checks import boolean, choice, integer, number
from fastbp.errors import elsewhere, instance_hint
from fastbp.rows import Activation, Loss, Optimizer

MATMUL_PRECISIONS = ("float32", "bfloat16")  # of the products of a training step
OTHER_PRECISIONS = {"networks of another dtype are made by dtype=": ("float64", "double", "float16", "half")}
NARROW_OUTPUTS = 4  # an output layer of at most this many is kept transposed; src/kernels.hpp says the same
LINE = 64  # bytes of a cache line: rows of owned matrices fill whole lines
_FEW_PARAMS = 1000  # up to so many a copy element by element is the quicker one
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
    whole: bool = True  # not the first layers of a larger network, of which the last lies as hidden layers do
    matmul_precision: str = MATMUL_PRECISIONS[0]  # of a training step; in bfloat16 every layer lies as hidden layers do

    def __hash__(self) -> int:
        """Of the sizes: few networks that are alike in them are different."""
        return hash(self.sizes)

    def __deepcopy__(self, memo: dict[int, Any]) -> Spec:
        return self  # it holds nothing that changes

    def __reduce__(self) -> tuple[Any, ...]:
        """Without what follows from it: a pickle is the same whatever has been asked for. What it gives is shared."""
        return _shared, tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        layers, offset, itemsize = [], 0, self.dtype.itemsize
        may_be_narrow = self.whole and self.matmul_precision == "float32"
        for k, activation in enumerate(self.activations):
            n_in, n_out = self.sizes[k], self.sizes[k + 1]
            transposed = may_be_narrow and k == len(self.activations) - 1 and n_out <= NARROW_OUTPUTS
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
    def beginnings(self) -> tuple[Spec, ...]:
        """For each hidden layer the network that ends with it; its parameters are the first ones of this buffer."""
        return tuple(
            Spec(self.sizes[: n + 1], self.activations[:n], self.bias, self.dtype, self.dropout[:n], whole=False)
            for n in range(1, len(self.activations))
        )

    @cached_property
    def buffer_size(self) -> int:
        """Elements of the padded parameter buffer."""
        last = self.layers[-1]
        if last.bias is not None:
            return last.bias + padded(last.out_features, self.dtype.itemsize)
        return last.weight + (last.out_features if last.transposed else last.in_features) * last.ldw

    @cached_property
    def all_train(self) -> tuple[tuple[bool, bool], ...]:
        """For each layer whether its weight and its bias train, where nothing is frozen."""
        return ((True, True),) * len(self.layers)

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

    @cached_property
    def _places(self) -> np.ndarray | None:
        """Where the elements of a dense vector lie in a padded buffer; of large ones views are faster, and smaller."""
        if self.n_params > _FEW_PARAMS:
            return None
        return np.concatenate([view.ravel() for view in self.views(np.arange(self.buffer_size))])

    def flatten(self, buffer: np.ndarray) -> np.ndarray:
        """The dense vector, (n_params,), of a padded buffer."""
        if self._places is not None:
            return buffer[self._places]
        return np.concatenate([view.ravel() for view in self.views(buffer)])

    def padded(self, vector: np.ndarray) -> np.ndarray:
        """A padded buffer that holds a dense vector, (n_params,)."""
        buffer = aligned_zeros(self.buffer_size, self.dtype)
        self.unflatten_into(buffer, vector)
        return buffer

    def unflatten_into(self, buffer: np.ndarray, vector: np.ndarray) -> None:
        """Write a dense vector, (n_params,), into a padded buffer; padding is left alone."""
        if vector.shape != (self.n_params,):
            raise ValueError(f"{self.n_params} parameters are wanted, got an array of shape {vector.shape}")
        with np.errstate(all="ignore"):  # a cast may overflow or underflow
            if self._places is not None:
                buffer[self._places] = vector
                return
            ends = np.cumsum([view.size for view in self.views(buffer)])
            for view, part in zip(self.views(buffer), np.split(vector, ends[:-1])):
                view[...] = part.reshape(view.shape)


_living: WeakValueDictionary[tuple[Any, ...], Spec] = WeakValueDictionary()


@lru_cache(maxsize=64)
def _shared(*what: Any) -> Spec:
    """Networks of one kind have one spec as long as any of them lives: what follows from it is found once."""
    return _living.setdefault(what, Spec(*what))



def aligned_zeros(size: int, dtype: np.dtype) -> np.ndarray:
    """A zeroed 1-D array that starts on a cache line; a large one on a huge page, which NumPy asks the system for."""
    n_bytes = size * dtype.itemsize
    alignment = _HUGE_PAGE if n_bytes >= _HUGE_PAGE else LINE
    raw = np.zeros(n_bytes + alignment, dtype=np.uint8)
    start = -raw.__array_interface__["data"][0] % alignment  # ctypes' `from_buffer` would leave 100 bytes in the array
    return raw[start : start + n_bytes].view(dtype)


def aligned_rows(n: int, size: int, dtype: np.dtype) -> list[np.ndarray]:
    """n zeroed arrays of whole cache lines, as by `aligned_zeros`, in one piece of memory: it lasts as long as any."""
    return list(aligned_zeros(n * size, dtype).reshape(n, size))


_LARGE = 1 << 15  # bytes of an array; fresh memory for a smaller one costs little
_MOST_SPARE = 1 << 26  # bytes
_spare: list[np.ndarray] = []  # large arrays that nobody looks at any more


def room_for(arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Arrays like these, whatever they hold, for copies.

    Of large ones those that were given back: fresh pages take longer than what is copied into them.
    """
    return [np.empty_like(array) if array.nbytes < _LARGE else _spare_or_new(array) for array in arrays]


def _spare_or_new(array: np.ndarray) -> np.ndarray:
    while _spare:
        try:
            room = _spare.pop()
        except IndexError:  # another thread was faster
            break
        if room.shape == array.shape and room.dtype == array.dtype:  # else of a network trained before
            return room
    return np.empty_like(array)


def give_back(arrays: Iterable[np.ndarray]) -> None:
    """Nobody looks at these any more, which `room_for` made."""
    _spare.extend(array for array in arrays if array.nbytes >= _LARGE)
    while sum(array.nbytes for array in _spare[:]) > _MOST_SPARE:
        del _spare[:1]  # the oldest; no error where another thread has taken it


# ------------------------------------------------------------------ activations, losses, optimizers


def _find(argument: str, value: Any, kind: type, rows: Any) -> Any:
    """A row by itself, by name or by alias; `rows` is the module of the table."""
    if isinstance(value, kind):
        return value
    if type(value) is str and value in rows.TABLE:
        return rows.TABLE[value]
    names = (*rows.TABLE, *rows.ALIASES)
    if callable(value):  # a function, or another library's class or object: `torch.nn.ReLU()`
        makes = f"@fastbp.{kind.__name__.lower()} makes a row of a function"
        makes = elsewhere(_name_of(value), names, rows.OTHERS).rstrip("; ") or makes
        raise TypeError(f"{argument} must be a name or a row, got {shown(value)}; {makes}")
    name = choice(argument, value, names, rows.OTHERS)
    return rows.TABLE[rows.ALIASES.get(name, name)]


def _name_of(value: Any) -> str:
    """That of a function or a class, or of the class of anything else."""
    name = getattr(value, "__name__", None)
    return name if isinstance(name, str) else type(value).__name__


def activation(argument: str, value: Any) -> Activation:
    if value is None:
        raise TypeError(f"{argument} must be a name or a row, got None; 'identity' changes nothing")
    return _find(argument, value, Activation, activations)


def loss_row(value: Any) -> Loss:
    return _find("loss", value, Loss, losses)  # type: ignore[no-any-return]


def loss(value: Any, spec: Spec) -> Loss:
    """The row of a loss, once it is sure that it suits the network's output."""
    row = loss_row(value)
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


def optimizer(value: Any, spec: Spec, n_rows: int | None = None, batch_size: int | None = None) -> Any:
    """A `Rule` or an `LBFGS`, by itself or by name, sure to suit the network and, in `fit`, the batches."""
    if isinstance(value, str):
        value = optimizers.BY_NAME[choice("optimizer", value, optimizers.BY_NAME, optimizers.OTHERS)]()
    if isinstance(value, Optimizer):
        raise TypeError(f"optimizer {value.name!r} is a rule without its numbers: call it, as in {value.name}(lr=0.01)")
    kinds = (optimizers.Rule, optimizers.LBFGS)
    if not isinstance(value, kinds):
        names = [kind.__name__ for kind in optimizers.BY_NAME.values()]
        hint = instance_hint(value, kinds)
        if real_number(value) is not None:
            hint = f"; a learning rate belongs to one, as in fastbp.Adam(lr={value!r})"
        elif not hint and _name_of(value) in names:
            hint = f"; fastbp.{_name_of(value)}(lr=...) is the one to give"
        raise TypeError(f"optimizer must be a name or one of {', '.join(names)}, got {shown(value)}{hint}")
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
    sizes: Any, hidden: Any, output: Any, bias: Any, dtype: Any, dropout: Any = 0.0, input_dropout: Any = 0.0,
    matmul_precision: Any = MATMUL_PRECISIONS[0],
) -> Spec:  # fmt: skip
    """Check the arguments of `fastbp.MLP` that say what the network is: plain ones, that may come again, once."""
    more = hidden, output, bias, dropout, input_dropout, matmul_precision
    if type(sizes) in (tuple, list) and (dtype is np.float32 or type(dtype) is str):
        if {*map(type, sizes), *map(type, more)} <= _PLAIN:
            return _plain_spec(dtype, *more, *sizes)
    return _checked_spec(sizes, dtype, *more)


_PLAIN = {bool, float, int, str}


@lru_cache(maxsize=64, typed=True)  # each size is an argument: 4 is one, 4.0 and True are none
def _plain_spec(dtype: Any, *given: Any) -> Spec:
    return _checked_spec(given[6:], dtype, *given[:6])


def _checked_spec(
    sizes: Any, dtype: Any, hidden: Any, output: Any, bias: Any, dropout: Any, of_input: Any, precision: Any
) -> Spec:
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
    what = sizes, rows, boolean("bias", bias), dtype, dropout_rates(dropout, of_input, n_hidden)
    precision = choice("matmul_precision", precision, MATMUL_PRECISIONS, OTHER_PRECISIONS)
    if precision != "float32" and dtype != np.float32:
        raise ValueError(f"matmul_precision={precision!r} is for networks of dtype float32, got dtype={dtype}")
    spec = _shared(*what) if precision == "float32" else _shared(*what, True, precision)
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


def initial_arrays(spec: Spec, init: Any, bias_init: Any, seed: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """A (weight, bias or None) pair per layer; None: the bias starts at 0, or there is none.

    `init` is a name, a callable, or a sequence of arrays or pairs; `bias_init` a name, a callable, a number, or None:
    what `init` says. Biases have a generator of their own, so that what they draw changes no weight.
    """
    if isinstance(init, str):
        init = initializers.TABLE[choice("init", init, initializers.TABLE, initializers.OTHERS)]
    draws_bias = [None if bias_init is None else _bias_initializer(bias_init, init, spec)] * len(spec.layers)
    if callable(init):
        draws = [init] * len(spec.layers)
        if isinstance(init, initializers.Scheme):
            draws = [init.behind(hidden) for hidden in _hidden_activations(spec)]
            if bias_init is None and spec.bias:
                draws_bias = [scheme.bias for scheme in draws]
        rng = np.random.Generator(order.philox(seed, 0, order.INIT))
        given = [draw(rng, layer.in_features, layer.out_features) for draw, layer in zip(draws, spec.layers)]
        name = "init({2}, {0}, {1})"
    elif isinstance(init, Sequence) or isinstance(init, np.ndarray):
        given = list(init)
        name = "init[{3}]"
        if len(given) != len(spec.layers):
            raise ValueError(f"init: {len(given)} arrays given for {len(spec.layers)} layer(s)")
    else:
        raise TypeError(f"init must be a name, a callable or a sequence of arrays, got {init!r}")
    pairs = []
    bias_rng = None
    for k, (layer, item, draw) in enumerate(zip(spec.layers, given, draws_bias)):
        shape = layer.in_features, layer.out_features
        if draw is None and type(item) is np.ndarray and item.dtype == np.float64 and item.shape == shape:
            pairs.append((item, None))
            continue
        what = name.format(*shape, "rng", k)
        bias = None
        # of two items: (weight, bias), unless the first is a row: then these are the two rows of a weight
        if isinstance(item, tuple) and len(item) == 2 and real_array(what, item[0]).ndim != 1:
            if layer.bias is None:
                raise ValueError(f"{what}: a bias is given, but the network has bias=False")
            item, bias = item[0], _parameters(f"{what} bias", item[1], shape[1:])
        weight = _parameters(what, item, shape)
        if draw is not None:
            bias_rng = bias_rng or np.random.Generator(order.philox(seed, 0, order.BIAS_INIT))
            bias = _parameters("bias_init(rng, {}, {})".format(*shape), draw(bias_rng, *shape), shape[1:])
        pairs.append((weight, bias))
    return pairs


def _bias_initializer(value: Any, init: Any, spec: Spec) -> initializers.Initializer:
    """What ``bias_init=`` asks for, as a callable ``(rng, in_features, out_features) -> array (out_features,)``."""
    if not spec.bias:
        raise ValueError(f"bias_init={value!r} is given, but the network has bias=False")
    if not isinstance(init, str) and not callable(init):
        raise ValueError("give either bias_init or arrays in init: a (weight, bias) pair for each layer says both")
    if isinstance(value, str):
        return initializers.BIASES[choice("bias_init", value, initializers.BIASES)]
    constant = None if callable(value) else real_number(value)
    if constant is not None:
        if not math.isfinite(constant):
            raise ValueError(f"bias_init must be finite, got {value!r}")
        return lambda rng, in_features, out_features: np.full(out_features, constant)
    if not callable(value):
        names = ", ".join(map(repr, initializers.BIASES))
        raise TypeError(f"bias_init must be one of {names}, a number or a callable, got {value!r}")
    return value


def _hidden_activations(spec: Spec) -> tuple[Activation | None, ...]:
    """Of each layer; of the output layer that of the last hidden one."""
    hidden = spec.activations[:-1]
    return (*hidden, hidden[-1] if hidden else None)


def _parameters(what: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = real_array(what, value)
    if array.shape != shape:
        raise ValueError(f"{what} must have shape {shape}, got {array.shape}")
    return array


def dense_vector(argument: str, value: Any, spec: Spec) -> np.ndarray:
    """`value` as a dense vector of all parameters."""
    return _parameters(argument, value, (spec.n_params,))
