"""A dense layer, its losses and updates on plain arrays, for loops of your own.

Arrays are used where they lie: float32 or float64, in native byte order, rows one behind the other (also of a larger
array, as `packed` and ``net.weights[k]`` have them). Whatever else stands for numbers is copied first.

The dtype is the weight's, float32 or float64; inputs of other dtypes are cast. What is written in place must be
writable, native, aligned and free of overlap, or nothing is written at all. Results never depend on overlap: an
`out` that shares memory with an input gets what a copy would have got.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import optimizers, spec
from fastbp.arrays import real_array
from fastbp.backends import layer as layers
from fastbp.backends import reference
from fastbp.backends.again import LONG_WAY, LongWay
from fastbp.backends.plan import make_plan
from fastbp.backends.protocol import Update
from fastbp.checks import integer
from fastbp.data import arguments
from fastbp.optimizers import SGD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp._engine import Ops
    from fastbp.optimizers import Rule
    from fastbp.rows import Activation
    from fastbp.typing import ActivationLike, Array, LossLike, OptimizerName

    _Gradients = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]

_WORK = 1000  # how hard `numpy.shares_memory` looks; beyond it two arrays count as overlapping


# What takes plain arrays at once. It gives None for others, which get the checks below and come back as plain copies.
_short: Ops | LongWay = LONG_WAY


def _compiled() -> Ops | None:
    """The compiled functions, where they are asked for at present; for this call, whatever others do meanwhile."""
    global _short
    found = layers.compiled()
    if found is None:
        return None
    _short = found
    return found.for_one_call()


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


def _shaped(argument: str, value: Any, shape: tuple[int, ...], whose: str) -> NDArray[Any]:
    array = real_array(argument, value)
    if array.shape != shape:
        raise ValueError(f"{argument} must have {whose}'s shape {shape}, got {array.shape}")
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


def _own(array: NDArray[Any]) -> NDArray[Any]:
    """A plain array of the same numbers, for what is written in place; with `_back` after."""
    return np.array(array, array.dtype.newbyteorder("="), order="C", subok=False)


def _plain(array: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A plain array of the same numbers, for what is read."""
    with np.errstate(all="ignore"):  # a cast may overflow
        return np.require(array, dtype, ["C", "A"]).view(np.ndarray)


# ------------------------------------------------------------------ weights


def packed(weight: Array) -> NDArray[Any]:
    """A copy of a weight as the kernels like it best, for weights that are used again and again.

    Parameters
    ----------
    weight : array_like, (in_features, out_features)
        Float64 unless it is float32.

    Returns
    -------
    ndarray, (in_features, out_features)
        A writable view of memory that begins on a cache line and whose rows are padded to whole lines, as
        ``net.weights[k]``; a weight of at most 4 outputs is kept transposed, as a network's output layer is. Every
        function of this module takes such an array as it takes others.
    """
    array = real_array("weight", weight)
    dtype = array.dtype.newbyteorder("=") if array.dtype in (np.float32, np.float64) else np.dtype(np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"weight must have shape (in_features, out_features), at least 1 each; got {array.shape}")
    alone = _layer_of((array.shape[0], array.shape[1]), dtype)
    view = alone.views(spec.aligned_zeros(alone.buffer_size, dtype))[0]
    view[...] = array
    return view


def _layer_of(shape: tuple[int, int], dtype: np.dtype[Any]) -> spec.Spec:
    return spec.Spec(shape, (spec.activation("activation", "identity"),), False, dtype)


def _zeros_like(array: NDArray[Any]) -> NDArray[Any]:
    """Zeros that lie as `array` does, where its rows, or its columns, lie one behind the other."""
    dtype = array.dtype.newbyteorder("=")
    for turned in (array, array.T):
        if turned.ndim == 2 and turned.strides[1] == dtype.itemsize and turned.strides[0] % dtype.itemsize == 0:
            ld = max(turned.strides[0] // dtype.itemsize, turned.shape[1])
            buffer = spec.aligned_zeros(turned.shape[0] * ld, dtype).reshape(-1, ld)[:, : turned.shape[1]]
            return buffer if turned is array else buffer.T
    return np.zeros(array.shape, dtype)


# ------------------------------------------------------------------ a layer


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
    done: NDArray[Any] | None = _short.linear(x, weight, bias, activation, out, out_z)
    if done is not None:
        return done
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
    compiled = None if layers.is_own(row) else _compiled()
    if len(x) == 0:
        pass
    elif compiled is not None:
        vector = None if bias is None else _plain(bias, dtype)
        compiled.linear(_plain(x, dtype), _plain(weight, dtype), vector, row, a, None if out_z is None else z)
    else:
        for wanted, function in ((z, _IDENTITY), (a, row)) if out_z is not None else ((a, row),):
            with layers.lent(weight, bias, function, len(x)) as layer:
                layer.program.forward(x, wanted)
    if out_z is not None:
        out_z[...] = z
    if out is None:
        return a
    out[...] = a
    return out


_IDENTITY = spec.activation("activation", "identity")


def _backward_arguments(grad_output: Any, a: Any, x: Any, weight: Any, activation: Any, z: Any) -> tuple[Any, ...]:
    weight = _weight("weight", weight)
    n_in, n_out = weight.shape
    x = arguments.matrix("x", x, n_in)
    if len(x) == 0:
        raise ValueError("x has no rows")
    row = spec.activation("activation", activation)
    _need_z(row, z)
    a = arguments.matrix("a", a, n_out, len(x))
    z = None if z is None else arguments.matrix("z", z, n_out, len(x))
    return arguments.matrix("grad_output", grad_output, n_out, len(x)), a, x, weight, row, z


def _need_z(row: Activation, z: Any) -> None:
    if row.keeps_z and z is None:
        raise ValueError(f"activation {row.name!r} needs z, the pre-activation, for its derivative")


def linear_backward(
    grad_output: Array, a: Array, x: Array, weight: NDArray[Any], activation: ActivationLike = "identity", *,
    z: Array | None = None, out: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None = None,
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
    out : (ndarray, ndarray, ndarray), optional
        Where the three gradients go. A large new array costs more than the product that fills it.

    Returns
    -------
    grad_input, grad_weight, grad_bias : ndarray
        (n, in_features), (in_features, out_features), (out_features,); `out` where it is given.
    """
    done: _Gradients | None = _short.linear_backward(grad_output, a, x, weight, activation, z, out)
    if done is not None:
        return done
    g, output, rows, weight, row, kept = _backward_arguments(grad_output, a, x, weight, activation, z)
    dtype = weight.dtype.newbyteorder("=")
    if out is not None:
        if not isinstance(out, tuple | list) or len(out) != 3:
            raise ValueError("out must be three arrays, for the gradients of input, weight and bias")
        for k, shape in enumerate(((len(rows), weight.shape[0]), weight.shape, weight.shape[1:])):
            _writable(f"out[{k}]", out[k], shape, dtype)
        _refuse_overlap({f"out[{k}]": array for k, array in enumerate(out)}, {})
    compiled = None if layers.is_own(row) else _compiled()
    if compiled is not None:
        g, output, rows, weight = (_plain(array, dtype) for array in (g, output, rows, weight))
        kept = _plain(kept, dtype) if row.keeps_z else None
        found: _Gradients = compiled.linear_backward(g, output, rows, weight, row, kept, None)
    else:
        with layers.lent(weight, 0, row, len(rows)) as layer:
            grad_input = np.empty((len(rows), weight.shape[0]), dtype)
            layer.program.restore(rows, output, kept)
            layer.program.backward(layer.grads, grad_output=g, grad_input=grad_input)
            grad_weight, grad_bias = (view.copy() for view in layer.spec.views(layer.grads))
        found = grad_input, grad_weight, grad_bias
    if out is None:
        return found
    for target, made in zip(out, found):
        target[...] = made
    return out


# ------------------------------------------------------------------ updates


def _rule(optimizer: Any) -> Rule:
    """A float is the rate of SGD."""
    if isinstance(optimizer, int | float | np.number) and not isinstance(optimizer, bool):
        return SGD(lr=optimizer)  # type: ignore[arg-type]
    rule: Rule = spec.optimizer(optimizer, _layer_of((1, 1), np.dtype(np.float32)))
    return rule


def _slot_names(rule: Rule) -> tuple[str, ...]:
    """What an optimizer keeps beside each parameter."""
    more = (("average", rule.average is not None), ("accumulated", rule.accumulate > 1))
    return (*rule.row.state, *(name for name, kept in more if kept))


def slots(
    optimizer: float | OptimizerName | Rule, weight: NDArray[Any], bias: NDArray[Any] | None = None
) -> dict[str, tuple[NDArray[Any], NDArray[Any] | None]]:
    """What an optimizer keeps beside a weight and a bias, at its start; `linear_backward_update` changes it in place.

    Parameters
    ----------
    optimizer : float, str or optimizer
        As for `linear_backward_update`.
    weight : ndarray, (in_features, out_features)
    bias : ndarray, (out_features,), optional

    Returns
    -------
    dict
        By name ("velocity", "mean", "square", ...), a pair: an array that lies as the weight does, and one for the
        bias, or None. Empty for plain SGD.
    """
    rule, weight = _rule(optimizer), _weight("weight", weight)
    dtype = weight.dtype.newbyteorder("=")
    if bias is not None:
        bias = _plain(_vector("bias", bias, weight.shape[1]), dtype)
    made: dict[str, tuple[NDArray[Any], NDArray[Any] | None]] = {}
    for name in _slot_names(rule):
        made[name] = _zeros_like(weight), None if bias is None else np.zeros_like(bias)
        if name == "average":  # which begins with what the parameters are
            for slot, param in zip(made[name], (weight, bias)):
                if slot is not None:
                    slot[...] = param
    return made


def linear_backward_update(
    grad_output: Array,
    a: Array,
    x: Array,
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    optimizer: float | OptimizerName | Rule,
    activation: ActivationLike = "identity",
    *,
    z: Array | None = None,
    slots: dict[str, tuple[NDArray[Any], NDArray[Any] | None]] | None = None,
    step: int = 0,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """`linear_backward` fused with an optimizer's update: weight, bias and slots change in place.

    Parameters
    ----------
    grad_output, a, x, activation, z
        As for `linear_backward`.
    weight : ndarray, (in_features, out_features)
    bias : ndarray, (out_features,), or None
    optimizer : float, str or optimizer
        A float is the learning rate of plain SGD; else an optimizer of fastbp, or its name. Keep one object for all
        steps: an object that is met again is not looked at again.
    slots : dict, optional
        What `slots` made; needed where the optimizer keeps anything (momentum, Adam). Changed in place.
    step : int, default 0
        How many updates came before, for schedules and for the bias corrections of Adam and its kin.
    out : ndarray, (n, in_features), optional
        Where the result goes.

    Returns
    -------
    ndarray, (n, in_features)
        dL/dx, from the weight before the update; `out` where it is given.
    """
    done: NDArray[Any] | None = _short.linear_backward_update(
        grad_output, a, x, weight, bias, optimizer, activation, z, slots, step, out
    )
    if done is not None:
        return done
    g, output, rows, weight, row, kept = _backward_arguments(grad_output, a, x, weight, activation, z)
    rule, step = _rule(optimizer), integer("step", step, 0, _MOST_STEPS)
    dtype = weight.dtype.newbyteorder("=")
    params = [_writable("weight", weight, weight.shape, dtype)]
    if bias is not None:
        params.append(_writable("bias", bias, weight.shape[1:], dtype))
    kept_of = _checked_slots(rule, slots, params)
    written = dict(zip(("weight", "bias"), params))
    for name, arrays in kept_of.items():
        written |= {f"slots[{name!r}][{k}]": array for k, array in enumerate(arrays)}
    read = {"x": rows, "a": output, "grad_output": g} | ({} if kept is None else {"z": kept})
    if out is not None:
        _refuse_overlap({"out": _writable("out", out, (len(rows), weight.shape[0]), dtype)}, written)
    _refuse_overlap(written, read)

    compiled = None if layers.is_own(row) or not rule.is_plain else _compiled()
    grad_input: NDArray[Any]
    if compiled is None:
        grad_input = _update_by_program(g, output, rows, params, kept, row, rule, kept_of, step)
    else:
        values = _remember(compiled, optimizer, rule, step, dtype)
        own = {name: _own(array) for name, array in written.items()}
        own_slots = {name: (own[f"slots[{name!r}][0]"], own.get(f"slots[{name!r}][1]")) for name in kept_of}
        g, output, rows = (_plain(array, dtype) for array in (g, output, rows))
        kept = _plain(kept, dtype) if row.keeps_z else None
        grad_input = compiled.linear_backward_update(
            g, output, rows, own["weight"], own.get("bias"), values, row, kept, own_slots, step, None
        )
        for name, array in written.items():
            array[...] = own[name]
    if out is None:
        return grad_input
    out[...] = grad_input
    return out


_MOST_STEPS = 2**62
_FORESEEN = 256  # steps whose scalars are made at once


def _remember(compiled: Ops, optimizer: Any, rule: Rule, step: int, dtype: np.dtype[Any]) -> Any:
    """Have the compiled functions know an optimizer's scalars from this step on; gives what they know it by.

    Those of this call do, and those of the calls to come, which another thread may have know another one.
    """
    known, first, end = optimizer, step, step + _FORESEEN
    if type(rule) not in optimizers.BY_NAME.values() or not rule.is_foreseeable:
        known, end = object(), step + 1  # it may answer otherwise the next time
    elif rule.is_steady:
        first, end = 0, _MOST_STEPS + 1
    scalars = rule.scalars(step, min(end - first, _FORESEEN), dtype=dtype)
    what = known, rule.row.name, rule.row.state, dtype.itemsize, scalars, first, end
    compiled.remember(*what)
    if known is optimizer and isinstance(_short, type(compiled)):
        _short.remember(*what)
    return known


def _checked_slots(rule: Rule, given: Any, params: list[NDArray[Any]]) -> dict[str, list[NDArray[Any]]]:
    """The arrays of each slot, for weight and bias, sure to take what will be written into them."""
    names = _slot_names(rule)
    if not names:
        return {}
    if given is None:
        wanted = ", ".join(names)
        raise ValueError(
            f"slots: {type(rule).__name__} keeps {wanted}; make them once, by ops.slots(optimizer, weight, bias)"
        )
    if not isinstance(given, dict) or not set(names) <= given.keys():
        got = sorted(given, key=str) if isinstance(given, dict) else type(given).__name__
        wanted = f"what ops.slots(optimizer, weight, bias) made, with {', '.join(names)}"
        raise ValueError(f"slots must be {wanted}; got {got}")
    found = {}
    for name in names:
        pair = given[name]
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            wanted = "a pair, of the weight's and the bias's"
            raise ValueError(f"slots[{name!r}] must be {wanted}; got {type(pair).__name__}")
        both = enumerate(zip(pair, params))
        found[name] = [_writable(f"slots[{name!r}][{k}]", slot, p.shape, p.dtype) for k, (slot, p) in both]
    return found


def _update_by_program(
    g: Any, output: Any, rows: Any, params: list[NDArray[Any]], z: Any, row: Activation, rule: Rule,
    kept: dict[str, list[NDArray[Any]]], step: int,
) -> NDArray[Any]:  # fmt: skip
    weight, bias = params[0], params[1] if len(params) > 1 else None
    dtype, names = weight.dtype, list(kept)
    grad_input = np.empty((len(rows), weight.shape[0]), dtype)
    with layers.lent(weight, bias, row, len(rows)) as layer:
        buffers = {name: layer.filled(arrays) for name, arrays in kept.items()}
        update = _update(rule, buffers, step, dtype)
        layer.program.restore(rows, output, z)
        if rule.needs_whole_gradient:
            layer.program.backward(layer.grads, grad_output=g, grad_input=grad_input)
            if rule.accumulate > 1:
                sums = buffers["accumulated"]
                sums[...] = sums + layer.grads if update.phase else layer.grads
                layer.grads[...] = sums / dtype.type(rule.accumulate)
            if update.phase + 1 == rule.accumulate:
                layer.program.update(layer.grads, update, layers.UNUSED_COUNT)
        else:
            layer.program.backward_update(g, grad_input, update, layers.UNUSED_COUNT)
        layer.copy_back([layer.params, *buffers.values()], [params, *(kept[name] for name in names)])
    return grad_input


def _update(rule: Rule, buffers: dict[str, NDArray[Any]], step: int, dtype: np.dtype[Any]) -> Update:
    updates, phase = divmod(step, rule.accumulate)
    scales = rule.scales(1)
    clip_value, clip_norm, max_norm = (
        np.inf if bound is None else bound for bound in (rule.clip_around, rule.clip_norm, rule.max_norm)
    )
    return Update(
        rule.row,
        [buffers[name] for name in rule.row.state],
        [
            rule.scalars(step, 1, updates=updates, phase=phase, lr_scale=lr, decay_scale=decay, dtype=dtype)
            for lr, decay in scales
        ],
        [rule.l1 * decay for _, decay in scales],
        clip_value=clip_value,
        clip_norm=clip_norm,
        max_norm=max_norm,
        average=buffers.get("average"),
        decay=rule.average or 0.0,
        phase=phase,
    )


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
    plain = not (momentum or nesterov or weight_decay)
    if plain and _short.sgd_update(param, grad, lr, velocity) is not None:
        return
    if not isinstance(param, np.ndarray) or param.dtype not in (np.float32, np.float64):
        raise ValueError("param must be a float32 or float64 array")
    rule = SGD(lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    dtype = param.dtype.newbyteorder("=")
    params = [_writable("param", param, param.shape, dtype)]
    grad = _shaped("grad", grad, param.shape, "param")
    velocities = []
    if rule.row.state:
        if velocity is None:
            raise ValueError("velocity: momentum needs an array shaped as what is updated")
        velocities.append(_writable("velocity", velocity, param.shape, dtype))
    _refuse_overlap(dict(zip(("param", "velocity"), (param, *velocities))), {"grad": grad})
    if param.size == 0:
        return
    compiled = _compiled()
    if compiled is not None and not rule.row.state and not weight_decay:
        own = _own(param)
        compiled.sgd_update(own, _plain(grad, dtype), float(rule.rate(0)), None)
        param[...] = own
        return
    flat = param.reshape(1, -1)
    with layers.lent(flat, None, _IDENTITY, 1) as layer:
        buffers = {name: layer.filled([array]) for name, array in zip(rule.row.state, velocities)}
        layer.program.update(layer.filled([grad]), _update(rule, buffers, 0, dtype), layers.UNUSED_COUNT)
        layer.copy_back([layer.params, *buffers.values()], [params, velocities])


# ------------------------------------------------------------------ by themselves


def _float_dtype(array: NDArray[Any]) -> np.dtype[Any]:
    """Float32 stays; whatever else there is, is computed in float64."""
    return np.dtype(np.float32 if array.dtype == np.float32 else np.float64)


def activation(z: Array, name: ActivationLike, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """An activation, element by element.

    Parameters
    ----------
    z : array_like
        Of any shape; float64 unless it is float32.
    name : str or row
        A row of your own is computed by NumPy.
    out : ndarray, optional
        Where the result goes, in z's shape and dtype; it may be `z` itself.

    Returns
    -------
    ndarray
        In z's shape; `out` where it is given.
    """
    done: NDArray[Any] | None = _short.activation(z, name, out)
    if done is not None:
        return done
    array, row = real_array("z", z), spec.activation("name", name)
    dtype = _float_dtype(array)
    if out is not None:
        _writable("out", out, array.shape, dtype)
    compiled = None if layers.is_own(row) else _compiled()
    plain = _plain(array, dtype)
    found: NDArray[Any] = (
        reference.activation(row, plain) if compiled is None else compiled.activation(plain, row, None)
    )
    if out is None:
        return found
    out[...] = found
    return out


def activation_backward(
    grad: Array, a: Array, name: ActivationLike, *, z: Array | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """The way back through `activation`.

    Parameters
    ----------
    grad : array_like
        dL/da, in a's shape.
    a : array_like
        What `activation` gave; float64 unless it is float32.
    name : str or row
        As for `activation`.
    z : array_like, optional
        What it was given; needed where the derivative names it (gelu, silu).
    out : ndarray, optional
        Where the result goes, in a's shape and dtype; it may be `grad` itself.

    Returns
    -------
    ndarray
        dL/dz, in a's shape; `out` where it is given.
    """
    done: NDArray[Any] | None = _short.activation_backward(grad, a, name, z, out)
    if done is not None:
        return done
    array, row = real_array("a", a), spec.activation("name", name)
    _need_z(row, z)
    dtype = _float_dtype(array)
    g = _plain(_shaped("grad", grad, array.shape, "a"), dtype)
    pre = None if z is None else _plain(_shaped("z", z, array.shape, "a"), dtype)
    if out is not None:
        _writable("out", out, array.shape, dtype)
    compiled = None if layers.is_own(row) else _compiled()
    plain = _plain(array, dtype)
    found: NDArray[Any]
    if compiled is None:
        found = reference.activation_backward(row, g, plain, pre)
    else:
        found = compiled.activation_backward(g, plain, row, pre if row.keeps_z else None, None)
    if out is None:
        return found
    out[...] = found
    return out


def loss(
    loss: LossLike, z: Array, y: Array, sample_weight: Array | None = None, *, out: NDArray[Any] | None = None
) -> tuple[float, NDArray[Any]]:
    """A loss of outputs and targets, and its derivative by the outputs.

    Parameters
    ----------
    loss : str or row
        As for `MLP.fit`. A row of your own is computed by NumPy.
    z : array_like, (n, out_features)
        Outputs: logits where the loss is computed from logits. Float64 unless they are float32.
    y : array_like
        Targets, (n, out_features) or integer labels (n,): as for `MLP.fit`.
    sample_weight : array_like, (n,), optional
    out : ndarray, (n, out_features), optional
        Where the derivative goes, in z's dtype; it may be `z` itself.

    Returns
    -------
    value : float
        sum(w l) / sum(w) over rows.
    grad_z : ndarray, (n, out_features)
        Its derivative; `out` where it is given.
    """
    array = real_array("z", z)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"z must have shape (n, out_features), at least 1 each; got {array.shape}")
    dtype = _float_dtype(array)
    n, n_out = array.shape
    network = _layer_of((1, n_out), dtype)
    row = spec.loss(loss, network)
    targets = real_array("y", y)
    if targets.ndim == 0 or len(targets) != n:
        raise ValueError(f"z and y are inconsistent: z has {n} rows, y has shape {targets.shape}")
    targets = arguments.targets(targets, row, array, network)
    weight = arguments.sample_weights(sample_weight, n)
    if out is not None:
        _writable("out", out, array.shape, dtype)
    total = float(n if weight is None else weight.sum())
    plain = _plain(array, dtype)
    compiled = None if layers.is_own(row) else _compiled()
    if compiled is None:
        program = reference.Program(make_plan(network, n, backend="reference", loss=row), np.empty(0, dtype))
        program.kept = [(None, plain)]
        value, grad = program.loss(targets, weight, total, gradient=True), program.grad_output
    else:
        share = np.zeros(n + 16)
        share[:n] = row.scale(n_out) / total if weight is None else weight * (row.scale(n_out) / total)
        grad = np.empty(array.shape, dtype)
        value = compiled.loss(
            layers.LOSSES[row.plain], row.numbers(row.targets(n_out)), list(row.chosen["output_weights"] or ()), plain,
            targets.astype(np.int32) if targets.ndim == 1 else _plain(targets, dtype), share, grad,
        )  # fmt: skip
    if out is None:
        return value, grad
    out[...] = grad
    return value, out
