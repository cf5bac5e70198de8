"""The fused kernels on plain arrays, for loops of your own.

The dtype is the weight's, float32 or float64; inputs of other dtypes are cast. What is written in place must be
writable, native, aligned and free of overlap, or nothing is written at all. Results never depend on overlap: an
`out` that shares memory with an input gets what a copy would have got.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import spec
from fastbp.arrays import real_array
from fastbp.backends import config
from fastbp.backends.plan import make_plan
from fastbp.backends.plan import program as make_program
from fastbp.backends.protocol import Update
from fastbp.data import arguments
from fastbp.optimizers import SGD
from fastbp.rows import Activation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.typing import ActivationLike, Array

_WORK = 1000  # how hard `numpy.shares_memory` looks; beyond it two arrays count as overlapping


def _weight(argument: str, value: Any) -> NDArray[Any]:
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype not in (np.float32, np.float64):
        raise ValueError(f"{argument} must be a float32 or float64 array of shape (in_features, out_features)")
    if 0 in value.shape:
        raise ValueError(f"{argument} must have at least one row and one column, got shape {value.shape}")
    return value


def _vector(argument: str, value: Any, size: int) -> NDArray[Any]:
    array = real_array(argument, value)
    if array.shape != (size,):
        raise ValueError(f"{argument} must have shape ({size},), got {array.shape}")
    return array


def _writable(argument: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """`array`, sure to take what will be written into it."""
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{argument} must be an array of {dtype} with shape {shape}, got {got}")
    flags = array.flags
    for flaw, word in (
        (not flags.writeable, "writable"),
        (not array.dtype.isnative, "in native byte order"),
        (not flags.aligned, "aligned"),
        (_overlaps_itself(array), "free of overlap with itself"),
    ):
        if flaw:
            raise ValueError(f"{argument} is written in place and must be {word}")
    return array


def _overlaps_itself(array: NDArray[Any]) -> bool:
    """Whether elements may share memory: not where each stride passes over all that the smaller ones reach."""
    reach = array.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(array.strides, array.shape) if n > 1):
        if stride < reach and array.size:
            return True
        reach += (n - 1) * stride
    return False


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> bool:
    try:
        return np.shares_memory(a, b, max_work=_WORK)  # type: ignore[arg-type]  # NumPy's stub knows 0 and -1 only
    except np.exceptions.TooHardError:
        return True


def _refuse_overlap(written: dict[str, NDArray[Any]], read: dict[str, NDArray[Any]]) -> None:
    names = list(written)
    for k, name in enumerate(names):
        for other, array in [*((n, written[n]) for n in names[k + 1 :]), *read.items()]:
            if _overlap(written[name], array):
                raise ValueError(f"{name} is written in place and overlaps {other}")


class _Layer:
    """A network of one layer, and a program on its own parameters: plain arrays are copied in, and back."""

    def __init__(
        self, shape: tuple[int, int], bias: bool, dtype: np.dtype[Any], activation: Activation, rows: int
    ) -> None:
        self.spec = spec.Spec(shape, (activation,), bias, dtype)
        self.params = self.new_buffer()
        self.views = self.spec.views(self.params)
        self.program = make_program(make_plan(self.spec, rows), self.params)

    def new_buffer(self) -> NDArray[Any]:
        return spec.aligned_zeros(self.spec.buffer_size, self.spec.dtype)

    @cached_property
    def grads(self) -> NDArray[Any]:
        return self.new_buffer()

    def filled(self, arrays: list[NDArray[Any]]) -> NDArray[Any]:
        """A padded buffer that holds copies of the arrays."""
        buffer = self.new_buffer()
        for view, array in zip(self.spec.views(buffer), arrays):
            view[...] = array.reshape(view.shape)
        return buffer

    def copy_back(self, buffers: list[NDArray[Any]], targets: list[list[NDArray[Any]]]) -> None:
        for buffer, arrays in zip(buffers, targets):
            for view, array in zip(self.spec.views(buffer), arrays):
                array[...] = view.reshape(array.shape)


_UNUSED_COUNT = np.zeros(1, np.int64)  # of steps, which nobody reads
_KEPT = 32  # kinds of layers; the one met first is dropped
_KEPT_OF_A_KIND = 4  # for threads that call at once
_LARGEST = 1 << 20  # bytes: beyond, making a layer is little beside its work
_idle: dict[tuple[Any, ...], list[_Layer]] = {}
_pool = threading.Lock()


@contextmanager
def _layer(weight: NDArray[Any], bias: Any, activation: Activation, rows: int) -> Iterator[_Layer]:
    """A layer with these parameters. It is kept for the next call that asks for its like, out of reach of others."""
    dtype = weight.dtype.newbyteorder("=")
    forced = config.requested_backend("auto"), config.requested_isa()
    key = (weight.shape, bias is None, dtype.char, id(activation), rows, forced)
    with _pool:
        layer = _idle[key].pop() if _idle.get(key) else None
    if layer is None:
        layer = _Layer(weight.shape, bias is not None, dtype, activation, rows)
    for view, given in zip(layer.views, (weight, bias)):
        view[...] = given
    yield layer
    if 3 * layer.params.nbytes + layer.program.workspace_bytes <= _LARGEST:
        with _pool:
            kind = _idle.setdefault(key, [])
            if len(kind) < _KEPT_OF_A_KIND:
                kind.append(layer)
            while len(_idle) > _KEPT:
                _idle.pop(next(iter(_idle)))


def linear(
    x: Array,
    weight: NDArray[Any],
    bias: Array | None = None,
    activation: ActivationLike = "identity",
    *,
    out: NDArray[Any] | None = None,
    out_z: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """``activation(x @ weight + bias)``.

    Parameters
    ----------
    x : array_like, (n, in_features)
    weight : ndarray, (in_features, out_features)
    bias : array_like, (out_features,), optional
    activation : str or row
    out, out_z : ndarray, (n, out_features), optional
        Where the result and the pre-activation go.

    Returns
    -------
    ndarray, (n, out_features)
        `out` where it is given.
    """
    weight = _weight("weight", weight)
    x = arguments.matrix("x", x, weight.shape[0])
    row = spec.activation("activation", activation)
    if bias is not None:
        bias = _vector("bias", bias, weight.shape[1])
    shape, dtype = (len(x), weight.shape[1]), weight.dtype.newbyteorder("=")
    targets = {name: _writable(name, a, shape, dtype) for name, a in (("out", out), ("out_z", out_z)) if a is not None}
    _refuse_overlap(targets, {})
    z = np.empty(shape, dtype)
    a = np.empty(shape, dtype)
    if len(x):
        for wanted, function in ((z, "identity"), (a, row)) if out_z is not None else ((a, row),):
            with _layer(weight, bias, spec.activation("activation", function), len(x)) as layer:
                layer.program.forward(x, wanted)
    if out_z is not None:
        out_z[...] = z
    if out is None:
        return a
    out[...] = a
    return out


def _backward_arguments(grad_output: Any, a: Any, x: Any, weight: Any, activation: Any, z: Any) -> tuple[Any, ...]:
    weight = _weight("weight", weight)
    n_in, n_out = weight.shape
    x = arguments.matrix("x", x, n_in)
    if len(x) == 0:
        raise ValueError("x has no rows")
    row = spec.activation("activation", activation)
    if row.keeps_z and z is None:
        raise ValueError(f"activation {row.name!r} needs z, the pre-activation, for its derivative")
    a = arguments.matrix("a", a, n_out, len(x))
    z = None if z is None else arguments.matrix("z", z, n_out, len(x))
    return arguments.matrix("grad_output", grad_output, n_out, len(x)), a, x, weight, row, z


def linear_backward(
    grad_output: Array, a: Array, x: Array, weight: NDArray[Any], activation: ActivationLike = "identity", *,
    z: Array | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:  # fmt: skip
    """The way back through `linear`.

    Parameters
    ----------
    grad_output : array_like, (n, out_features)
        dL/da; nothing is averaged.
    a, x, weight, activation
        The result and the arguments of `linear`.
    z : array_like, (n, out_features), optional
        The pre-activation; needed where the activation's derivative names it (gelu, silu).

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray
        (n, in_features), (in_features, out_features), (out_features,)
    """
    g, output, rows, weight, row, kept = _backward_arguments(grad_output, a, x, weight, activation, z)
    with _layer(weight, 0, row, len(rows)) as layer:
        grad_input = np.empty((len(rows), weight.shape[0]), layer.spec.dtype)
        layer.program.restore(rows, output, kept)
        layer.program.backward(layer.grads, grad_output=g, grad_input=grad_input)
        grad_weight, grad_bias = (view.copy() for view in layer.spec.views(layer.grads))
    return grad_input, grad_weight, grad_bias


def linear_backward_update(
    grad_output: Array,
    a: Array,
    x: Array,
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    lr: float,
    activation: ActivationLike = "identity",
    *,
    z: Array | None = None,
    momentum: float = 0.0,
    velocity: NDArray[Any] | Sequence[NDArray[Any]] | None = None,
    weight_decay: float = 0.0,
) -> NDArray[Any]:
    """`linear_backward` fused with the update of `fastbp.SGD`: weight, bias and velocity change in place.

    Parameters
    ----------
    grad_output, a, x, activation, z
        As for `linear_backward`.
    weight : ndarray, (in_features, out_features)
    bias : ndarray, (out_features,), or None
    lr, momentum, weight_decay : float
        As for `fastbp.SGD`.
    velocity : ndarray or (ndarray, ndarray)
        Of the weight, or of weight and bias; needed with momentum.

    Returns
    -------
    ndarray, (n, in_features)
        dL/dx, from the weight before the update.
    """
    g, output, rows, weight, row, kept = _backward_arguments(grad_output, a, x, weight, activation, z)
    rule = SGD(lr=lr, momentum=momentum, weight_decay=weight_decay)
    dtype = weight.dtype.newbyteorder("=")
    params = [_writable("weight", weight, weight.shape, dtype)]
    if bias is not None:
        params.append(_writable("bias", bias, weight.shape[1:], dtype))
    velocities = _velocities(rule, velocity, params)
    written = dict(zip(("weight", "bias"), params)) | {f"velocity[{k}]": v for k, v in enumerate(velocities)}
    read = {"x": rows, "a": output, "grad_output": g} | ({} if kept is None else {"z": kept})
    _refuse_overlap(written, read)

    grad_input = np.empty((len(rows), weight.shape[0]), dtype)
    with _layer(weight, bias, row, len(rows)) as layer:
        slots = [layer.filled(velocities)] if velocities else []
        layer.program.restore(rows, output, kept)
        layer.program.backward_update(g, grad_input, _update(rule, slots), _UNUSED_COUNT)
        layer.copy_back([layer.params, *slots], [params, velocities])
    return grad_input


def sgd_update(
    param: NDArray[Any],
    grad: Array,
    lr: float,
    *,
    momentum: float = 0.0,
    velocity: NDArray[Any] | None = None,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """One step of `fastbp.SGD` on an array of any shape.

    Parameters
    ----------
    param : ndarray
        Float32 or float64; changed in place.
    grad : array_like
        In param's shape.
    lr, momentum, nesterov, weight_decay
        As for `fastbp.SGD`.
    velocity : ndarray, optional
        As `param`, changed in place; needed with momentum.
    """
    if not isinstance(param, np.ndarray) or param.dtype not in (np.float32, np.float64):
        raise ValueError("param must be a float32 or float64 array")
    rule = SGD(lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    dtype = param.dtype.newbyteorder("=")
    params = [_writable("param", param, param.shape, dtype)]
    grad = real_array("grad", grad)
    if grad.shape != param.shape:
        raise ValueError(f"grad must have param's shape {param.shape}, got {grad.shape}")
    velocities = _velocities(rule, velocity, params)
    _refuse_overlap(dict(zip(("param", "velocity"), (param, *velocities))), {"grad": grad})
    if param.size == 0:
        return
    flat = param.reshape(1, -1)
    with _layer(flat, None, spec.activation("activation", "identity"), 1) as layer:
        slots = [layer.filled(velocities)] if velocities else []
        layer.program.update(layer.filled([grad]), _update(rule, slots), _UNUSED_COUNT)
        layer.copy_back([layer.params, *slots], [params, velocities])


def _update(rule: SGD, slots: list[NDArray[Any]]) -> Update:
    return Update(rule.row, slots, [rule.scalars(0, 1)], [0.0])


def _velocities(rule: SGD, velocity: Any, params: list[NDArray[Any]]) -> list[NDArray[Any]]:
    if not rule.row.state:
        return []
    given = list(velocity) if isinstance(velocity, tuple | list) else [velocity]
    if velocity is None or len(given) != len(params):
        raise ValueError(f"velocity: momentum needs {len(params)} array(s) shaped as what is updated")
    return [_writable("velocity", v, p.shape, p.dtype) for v, p in zip(given, params)]
