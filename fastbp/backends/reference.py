"""The reference backend: back-propagation in plain NumPy, any floating-point dtype. The oracle of every test.

It shares the rows' expressions with the compiled kernels, and nothing else: layers are ``@`` and sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastbp.backends import DONE, LOSS_NOT_FINITE, PARAMS_NOT_FINITE, Family, LayerPlan, Trained, assign
from fastbp.order import epoch_order
from fastbp.rows import function

if TYPE_CHECKING:
    from fastbp.plan import Plan


def _forward(row, z):
    return function(row.forward_text, ("z",), row.words)(z)


def _backward(row, g, a, z):
    # WHERE with a constant on one side may widen the dtype
    return function(row.backward_text, ("g", "a", "z"), row.words)(g, a, z).astype(g.dtype, copy=False)


def _loss_terms(row, z, t):
    """Per element, the loss and its derivative. Softmax is blind to a shift of z: the row maximum is taken out."""
    if row.statistic == "lse":
        z = z - z.max(axis=1, keepdims=True)
        lse = np.log(np.exp(z).sum(axis=1, keepdims=True))
        arguments = (z, t, lse)
    else:
        arguments = (z, t)
    return tuple(function(text, row.names, row.words)(*arguments) for text in (row.value_text, row.grad_text))


_quiet = np.errstate(all="ignore")  # overflow is looked for, not warned about


class Program:
    """See `fastbp.backends.Program`."""

    def __init__(self, plan: Plan, params: np.ndarray) -> None:
        self.plan = plan
        self.params = params

    @_quiet
    def train(
        self, X, y, weight, *, batch_size, steps, seed, shuffle, count, place, partial, losses, scalars, slots,
        skip_zeros, stop_on_loss, stop_on_params,
    ) -> Trained:  # fmt: skip
        n, loss, epochs = len(X), 0.0, 0
        order, order_epoch = None, None
        for k in range(steps):
            epoch, start = map(int, place)
            stop = min(start + batch_size, n)
            rows: slice | np.ndarray = slice(start, stop)
            if shuffle:
                if order_epoch != epoch:
                    order, order_epoch = epoch_order(seed, epoch, n), epoch
                rows = order[rows]
            w = None if weight is None else weight[rows]
            self.forward(X[rows], None)
            loss = self.loss(y[rows], w, float(stop - start if w is None else w.sum()), gradient=True)
            if stop_on_loss and not np.isfinite(loss):
                return Trained(k, LOSS_NOT_FINITE, epochs, loss)
            moved = self._stepped(self._gradients(), self.plan.optimizer, slots, [scalar[k] for scalar in scalars])
            begun, coming = partial + (loss * (stop - start), stop - start), (epoch, stop)
            if stop == n:
                losses[epochs] = begun[0] / begun[1]
                begun, coming, epochs = (0, 0), (epoch + 1, 0), epochs + 1
            assign([self.params, *slots, count, place, partial], [*moved, count + 1, coming, begun])
            if stop_on_params and not self.finite():
                return Trained(k + 1, PARAMS_NOT_FINITE, epochs, loss)
        return Trained(steps, DONE, epochs, loss)

    @_quiet
    def forward(self, x, out, *, keep=False) -> None:
        # Always a copy: the caller may change x before `backward`.
        a = np.array(x, dtype=self.plan.spec.dtype, order="C")
        self.kept = [(None, a)]  # (z, a) of the input and of each layer
        for layer in self.plan.spec.layers:
            z = a @ layer.weight_in(self.params)
            if layer.bias is not None:
                z = z + layer.bias_in(self.params)
            a = _forward(layer.activation, z)
            self.kept.append((z, a))
        if out is not None:
            out[...] = a

    @_quiet
    def restore(self, x, a, z) -> None:
        dtype = self.plan.spec.dtype
        self.kept = [(None, x.astype(dtype)), (None if z is None else z.astype(dtype), a.astype(dtype))]

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
        share = np.full((len(a), 1), scale) if weight is None else weight[:, None] * scale
        value, grad = _loss_terms(row, a, t)
        if gradient:
            self.grad_output = grad * share.astype(spec.dtype)
        per_row = value.sum(axis=1, dtype=np.float64, keepdims=True)
        return float(np.where(share != 0, per_row * share, 0.0).sum())

    @_quiet
    def backward(self, grads, *, grad_output=None, grad_input=None, accumulate=False) -> None:
        if grad_output is not None:
            self.grad_output = grad_output.astype(self.plan.spec.dtype)
        for view, gradient in zip(self.plan.spec.views(grads), self._gradients(grad_input)):
            view[...] = view + gradient if accumulate else gradient

    @_quiet
    def update(self, grads, row, slots, scalars, count) -> None:
        moved = self._stepped(self.plan.spec.views(grads), row, slots, [scalar[0] for scalar in scalars])
        assign([self.params, *slots, count], [*moved, count + 1])

    @_quiet
    def backward_update(self, grad_output, grad_input, row, slots, scalars, count) -> None:
        self.grad_output = grad_output.astype(self.plan.spec.dtype)
        moved = self._stepped(self._gradients(grad_input), row, slots, [scalar[0] for scalar in scalars])
        assign([self.params, *slots, count], [*moved, count + 1])

    def finite(self) -> bool:
        return all(np.isfinite(view).all() for view in self.plan.spec.views(self.params))

    def describe(self, rows) -> list[LayerPlan]:
        plan = LayerPlan(Family("numpy", "the reference: `@`, and every array a new one"))
        return [plan] * len(self.plan.spec.layers)

    workspace_bytes = 0
    sharing = "1, but for what NumPy does by itself"

    def train_step_again(self, x, y, loss, optimizer, state, lock, forced) -> None:
        return None

    def predict_again(self, idle, forced) -> None:
        return None

    def _gradients(self, grad_input=None) -> list[np.ndarray]:
        """Gradients in the order of `Spec.views`. Every delta is made from weights before the update."""
        gradients: list[np.ndarray] = []
        g = self.grad_output
        layers = self.plan.spec.layers
        for k in reversed(range(len(layers))):
            layer, (z, a), x = layers[k], self.kept[k + 1], self.kept[k][1]
            delta = _backward(layer.activation, g, a, z)
            if layer.bias is not None:
                gradients.append(delta.sum(axis=0))
            gradients.append(x.T @ delta)
            if k > 0 or grad_input is not None:
                g = delta @ layer.weight_in(self.params).T
        if grad_input is not None:
            grad_input[...] = g
        return gradients[::-1]

    def _stepped(self, gradients, row, slots, scalars) -> list[np.ndarray]:
        """Parameters and slots as the optimizer's assignments make them, in new buffers: for `assign`."""
        spec = self.plan.spec
        names = ("p", "g", *row.state, *row.scalars)
        new = [buffer.copy() for buffer in (self.params, *slots)]
        views = [spec.views(buffer) for buffer in new]
        for k, g in enumerate(gradients):
            values = dict(zip(names, (views[0][k], g, *(view[k] for view in views[1:]), *map(float, scalars))))
            for target, text in row.update_text:
                values[target] = function(text, names)(**{name: values[name] for name in names})
            for name, view in zip(("p", *row.state), views):
                view[k][...] = values[name]
        return new
