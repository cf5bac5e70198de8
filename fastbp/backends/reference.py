"""The reference backend: back-propagation in plain NumPy, any floating-point dtype. The oracle of every test.

It shares the rows' expressions with the compiled kernels, and nothing else: layers are ``@`` and sums. Products in
bfloat16 are emulated: what they multiply is rounded, and the way back through an activation reads what it gave as the
next layer got it, but for dropout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastbp.backends.protocol import (
    DONE,
    LOSS_NOT_FINITE,
    PARAMS_NOT_FINITE,
    STALLED,
    Course,
    Family,
    LayerPlan,
    Trained,
    assign,
    stalled,
    total_weight,
    weight_parts,
)
from fastbp.order import dropout_scales, epoch_order
from fastbp.rows import function

if TYPE_CHECKING:
    from fastbp.backends.protocol import Plan
    from fastbp.rows import Activation


def _like(value, array):
    """A row's value as an array: a constant one is a number, WHERE with a constant on one side may widen the dtype."""
    if np.shape(value) != array.shape:
        return np.full_like(array, value)
    return value.astype(array.dtype, copy=False)


def _forward(row, z):
    return _like(function(row.forward_text, ("z",), row.words)(z), z)


def _backward(row, g, a, z):
    return _like(function(row.backward_text, ("g", "a", "z"), row.words)(g, a, z), g)


def _loss_terms(row, a, t):
    """The loss of each target, and its derivative by each output."""
    z, third, dtype = a, 0.0, a.dtype
    if row.statistic == "lse":  # softmax is blind to a shift of z: the row maximum is taken out
        z = a - a.max(axis=1, keepdims=True)
        third = np.log(np.exp(z).sum(axis=1, keepdims=True))
    elif row.grad_s:
        z, third = np.split(a, 2, axis=1)
    arguments = (z, t, third, *row.numbers(t.shape[1]))
    value, *grads = (
        _like(function(text, row.names, row.words)(*arguments), z)
        for text in (row.value_text, row.grad_text, row.grad_s_text)
        if text
    )
    weights = row.chosen["output_weights"]
    if weights is not None:  # a weight of 0 leaves the output out, whose loss may be infinite
        weights = np.array(weights, dtype)
        value, *grads = (np.where(weights != 0, part * weights, 0.0).astype(dtype) for part in (value, *grads))
    return value, np.concatenate(grads, axis=1)


def _rounded(array):
    """To bfloat16, to nearest with ties to even: the upper half of a float32, as AVX512-BF16 rounds it.

    Subnormal numbers are 0, and a NaN stays one.
    """
    bits = array.astype(np.float32).view(np.uint32)
    upper = (bits + (0x7FFF + (bits >> 16 & 1))) & 0xFFFF0000
    upper = np.where(bits & 0x7F800000, upper, bits & 0x80000000)
    return np.where(array != array, array, upper.astype(np.uint32).view(np.float32)).astype(array.dtype)


def _as_it_is(array):
    return array


_quiet = np.errstate(all="ignore")  # overflow is looked for, not warned about


@_quiet
def activation(row: Activation, z: np.ndarray) -> np.ndarray:
    """An activation of an array of any shape."""
    return np.asarray(_forward(row, z))


@_quiet
def activation_backward(row: Activation, g: np.ndarray, a: np.ndarray, z: np.ndarray | None) -> np.ndarray:
    """The way back through it."""
    return np.asarray(_backward(row, g, a, z))


class Program:
    """See `fastbp.backends.protocol.Program`."""

    piece = 0, 0

    def __init__(self, plan: Plan, params: np.ndarray) -> None:
        self.plan = plan
        self.params = params

    @_quiet
    def train(
        self, X, y, weight, *, batch_size, steps, seed, shuffle, count, place, partial, losses, update, stop_on_loss,
        stop_on_params, course=None, goes_on=False,
    ) -> Trained:  # fmt: skip
        n, loss, epochs, phase, course = len(X), 0.0, 0, update.phase, course or Course()
        order, order_epoch = None, None
        for k in range(steps):
            epoch, start = map(int, place)
            stop = min(start + batch_size, n)
            rows: slice | np.ndarray = slice(start, stop)
            if course.orders is not None:
                rows = course.orders[epochs, rows]
            elif shuffle:
                if order_epoch != epoch:
                    order, order_epoch = epoch_order(seed, epoch, n), epoch
                rows = order[rows]
            w = None if weight is None else weight[rows]
            self._forward(X[rows], (seed, int(count[0])))
            loss = self.loss(y[rows], w, total_weight(w, stop - start), gradient=True)
            if stop_on_loss and not np.isfinite(loss):
                return Trained(k, LOSS_NOT_FINITE, epochs, loss)
            loss *= course.factor
            if course.l2 is not None:
                loss += float(course.l2[k]) * self._weight_squares()
            gradients = self._gradients()
            if update.accumulate > 1:
                sums = self.plan.spec.views(update.accumulated)
                gradients = [g + before if phase else g for g, before in zip(gradients, sums)]
            phase = (phase + 1) % update.accumulate
            moved = self._waited(gradients, update) if phase else self._stepped(gradients, update, k)
            begun, coming = partial + (loss * (stop - start), stop - start), (epoch, stop)
            buffers, ends = [self.params, *update.buffers, count, place, partial], False
            if stop == n:
                losses[epochs] = begun[0] / begun[1]
                if course.stall is not None:
                    ends, stall = stalled(losses[epochs], course.stall)
                    buffers, moved = [course.stall, *buffers], [stall, *moved]
                begun, coming, epochs = (0, 0), (epoch + 1, 0), epochs + 1
            assign(buffers, [*moved, count + 1, coming, begun])
            if stop_on_params and not self.finite():
                return Trained(k + 1, PARAMS_NOT_FINITE, epochs, loss)
            if ends:
                return Trained(k + 1, STALLED, epochs, loss)
        return Trained(steps, DONE, epochs, loss)

    @_quiet
    def forward(self, x, out, *, keep=False) -> None:
        self._forward(x, None)
        if out is not None:
            out[...] = self.kept[-1][1]

    def _forward(self, x, training) -> None:
        """`training` is (seed, step) where dropout is on."""
        # Always a copy: the caller may change x before `backward`.
        a = np.array(x, dtype=self.plan.spec.dtype, order="C")
        self.kept = [(None, a)]  # (z, a) of the input and of each layer
        self.inputs = []  # of each layer, and what dropout has multiplied them with
        self._round = _rounded if training and self.plan.rounds else _as_it_is  # what products multiply
        for k, layer in enumerate(self.plan.spec.layers):
            scales = None
            if training and layer.dropout:
                seed, step = training
                scales = dropout_scales(seed, step, k, *a.shape, layer.dropout).astype(a.dtype)
                a = np.where(scales, a * scales, a.dtype.type(0))
            x = self._round(a)
            self.inputs.append((x, scales))
            z = x @ self._round(layer.weight_in(self.params))
            if layer.bias is not None:
                z = z + layer.bias_in(self.params)
            a = _forward(layer.activation, z)
            self.kept.append((z, a if k + 1 == len(self.plan.spec.layers) else self._round(a)))

    @_quiet
    def restore(self, x, a, z) -> None:
        dtype = self.plan.spec.dtype
        self.kept = [(None, x.astype(dtype)), (None if z is None else z.astype(dtype), a.astype(dtype))]
        self.inputs, self._round = [(self.kept[0][1], None)], _as_it_is

    @_quiet
    def loss(self, y, weight, total, *, gradient) -> float:
        spec, row = self.plan.spec, self.plan.loss
        a = self.kept[-1][1]
        if y.ndim == 1:
            t = np.zeros_like(a)
            t[np.arange(len(a)), y.astype(np.int64)] = 1
        else:
            t = y.astype(spec.dtype)
        scale = row.scale(spec.out_features) / total if total else 0.0
        value, grad = _loss_terms(row, a, t)
        if weight is not None and weight.ndim == 2:  # a target of weight 0 is left out, which may be NaN
            weight, parts = weight_parts(weight)
            parts = parts.astype(spec.dtype)
            value, grad = (np.where(parts != 0, part * parts, spec.dtype.type(0)) for part in (value, grad))
        share = np.full((len(a), 1), scale) if weight is None else weight[:, None] * scale
        if gradient:  # a row of weight 0 is left out, whose loss may be infinite
            self.grad_output = np.where(share != 0, grad * share.astype(spec.dtype), spec.dtype.type(0))
        per_row = value.sum(axis=1, dtype=np.float64, keepdims=True)
        return float(np.where(share != 0, per_row * share, 0.0).sum())

    @_quiet
    def backward(self, grads, *, grad_output=None, grad_input=None, accumulate=False) -> None:
        if grad_output is not None:
            self.grad_output = grad_output.astype(self.plan.spec.dtype)
        gradients = self._gradients(grad_input)
        if grads is None:
            return
        for view, gradient in zip(self.plan.spec.views(grads), gradients):
            view[...] = view + gradient if accumulate else gradient

    @_quiet
    def update(self, grads, update, count) -> None:
        moved = self._stepped(self.plan.spec.views(grads), update, 0)
        assign([self.params, *update.buffers, count], [*moved, count + 1])

    @_quiet
    def backward_update(self, grad_output, grad_input, update, count) -> None:
        self.grad_output = grad_output.astype(self.plan.spec.dtype)
        moved = self._stepped(self._gradients(grad_input), update, 0)
        assign([self.params, *update.buffers, count], [*moved, count + 1])

    def finite(self) -> bool:
        return all(np.isfinite(view).all() for view in self.plan.spec.views(self.params))

    def describe(self, rows) -> list[LayerPlan]:
        plan = LayerPlan(Family("numpy", "the reference: `@`, and every array a new one"))
        return [plan] * len(self.plan.spec.layers)

    workspace_bytes = 0
    sharing = "1, but for what NumPy does by itself"

    def _weight_squares(self) -> float:
        weights = (layer.weight_in(self.params) for layer in self.plan.spec.layers)
        return sum(float(np.square(weight, dtype=np.result_type(weight, np.float64)).sum()) for weight in weights)

    def _gradients(self, grad_input=None) -> list[np.ndarray]:
        """Gradients in the order of `Spec.views`. Every delta is made from weights before the update."""
        gradients: list[np.ndarray] = []
        self.sent_back: list[tuple[np.ndarray, np.ndarray]] = []  # (g, delta) of each layer, the last one's first
        g = self.grad_output
        layers = self.plan.spec.layers
        for k in reversed(range(len(layers))):
            layer, (z, a), x = layers[k], self.kept[k + 1], self.inputs[k][0]
            delta = _backward(layer.activation, g, a, z)
            scales = self.inputs[k + 1][1] if k + 1 < len(layers) else None
            if scales is not None:  # last: what is dropped counts for nothing, though its derivative may be infinite
                delta = np.where(scales, delta * scales, delta.dtype.type(0))
            self.sent_back.append((g, delta))
            delta = self._round(delta)
            if layer.bias is not None:
                gradients.append(delta.sum(axis=0))
            gradients.append(x.T @ delta)
            if k > 0 or grad_input is not None:
                g = delta @ self._round(layer.weight_in(self.params)).T
        if grad_input is not None:
            grad_input[...] = g
        return gradients[::-1]

    def _waited(self, gradients, update) -> list[np.ndarray]:
        """Parameters and the rule's buffers after a batch whose gradients are only kept: for `assign`."""
        sums = update.accumulated.copy()
        for view, g in zip(self.plan.spec.views(sums), gradients):
            view[...] = g
        buffers = (sums if buffer is update.accumulated else buffer.copy() for buffer in update.buffers)
        return [self.params.copy(), *buffers]

    def _stepped(self, gradients, update, k) -> list[np.ndarray]:
        """Parameters and the rule's buffers as the optimizer makes them in step k, in new arrays: for `assign`."""
        spec, row = self.plan.spec, update.row
        names = ("p", "g", *row.state)
        new = [buffer.copy() for buffer in (self.params, *update.buffers)]
        views = [spec.views(buffer) for buffer in new]
        of_layer = [(2 * n + b, trains[b]) for n, trains in enumerate(self.plan.trains) for b in range(1 + spec.bias)]
        scale = spec.dtype.type(self._clipping(gradients, [trained for _, trained in of_layer], update))
        for i, (g, (group, trained)) in enumerate(zip(gradients, of_layer)):
            if not trained:
                continue
            group = 0 if len(update.l1) == 1 else group
            p = views[0][i]
            g = np.maximum(np.minimum(g * scale, update.clip_value), -update.clip_value)
            if update.l1[group]:
                g = g + spec.dtype.type(update.l1[group]) * np.sign(p)
            values = dict(zip(names, (p, g, *(view[i] for view in views[1:]))))
            values |= {name: float(scalar[k]) for name, scalar in zip(row.scalars, update.scalars[group])}
            for target, text in row.update_text:
                values[target] = function(text, tuple(values))(**values)
            for name, view in zip(("p", *row.state), views):
                view[i][...] = values[name]
            if p.ndim == 2 and np.isfinite(update.max_norm):
                norm = np.sqrt((p * p).sum(axis=0))
                bound = update.max_norm + (norm - norm)  # NaN where the norm overflows: 0 would pass for a right answer
                p *= np.where(norm > update.max_norm, bound / norm, 1).astype(p.dtype)
            if update.average is not None:
                mean = views[1 + len(row.state)][i]
                mean += spec.dtype.type(1 - spec.dtype.type(update.decay)) * (p - mean)
        return new

    def _clipping(self, gradients, trained, update) -> float:
        """What the gradients are multiplied with: the mean over batches, and torch's ``clip_grad_norm_``."""
        scale = 1 / update.accumulate
        if np.isinf(update.clip_norm):
            return scale
        norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g, one in zip(gradients, trained) if one))
        return scale * min(update.clip_norm / (scale * norm + 1e-6), 1.0) if norm == norm else norm
