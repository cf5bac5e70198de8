"""The Numba backend: kernels generated for the network at hand, compiled when they are first needed.

A program lays out its work arrays and hands them to the functions of a module that `generate` has written.
Everything is serial, and runs without the GIL.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
from numba.core.registry import cpu_target

from fastbp.backends import reference
from fastbp.backends.numba import cache, generate, kernels
from fastbp.backends.numba.lanes import VECTOR_BYTES
from fastbp.backends.protocol import DONE, Course, Family, LayerPlan, Trained, weight_parts
from fastbp.spec import aligned_zeros, padded

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastbp.backends.protocol import Plan, Update
    from fastbp.rows import Words

# Numba knows what it is to compile: that takes a third of a second once, and belongs to the import.
for _context in (cpu_target.typing_context, cpu_target.target_context):
    _context.refresh()
_ORDER = "def fill(seed, epoch, n, order):\n    fill_order(seed, epoch, n, order)\n"
_STAGED_ELEMENTS = 1 << 20  # data that kernels cannot read as they lie are copied, so many elements at a time
FAMILIES = {
    "columns": Family("columns", f"no layer wider than {generate.SMALL_WIDTH}: a sample per lane, sizes in the code"),
    "tiles": Family("tiles", "any network: register tiles, sizes read when it runs"),
    "numpy": Family("numpy", "dropout, frozen parameters or more than the plain rule: steps of the reference backend"),
}


class Work(NamedTuple):
    """What kernels work in; matrices are flat."""

    shape: tuple[tuple[int, ...], ...]  # of each layer: n_in, n_out, ldw, weight, bias, transposed, ld
    ldx: int
    x: np.ndarray  # (batch, ldx)
    grad_input: np.ndarray  # in the same shape
    t: np.ndarray  # (batch, ld of the output); twice that once there are weights of each target, which come behind
    share: np.ndarray  # float64, (batch,): each row's part of the loss
    setting: np.ndarray  # of the loss: `fastbp.rows.Loss.numbers`
    output_weight: np.ndarray  # of it, where it has such
    panel: np.ndarray  # a weight transposed, or some rows of a gradient
    grads: np.ndarray  # as the parameters, where the plan is not fused
    scalars: np.ndarray  # of the rule, for one step
    known: np.ndarray  # uint64: epoch, seed and number of rows that the order was made for
    z: tuple[np.ndarray, ...]  # of each layer, (batch, ld); a where z is not kept
    a: tuple[np.ndarray, ...]
    delta: tuple[np.ndarray, ...]


class Columns(NamedTuple):
    """What `columns` works in; the rest is that of `Work`."""

    memory: np.ndarray  # see `generate._Columns`
    share: np.ndarray
    setting: np.ndarray
    output_weight: np.ndarray
    scalars: np.ndarray
    known: np.ndarray


@functools.lru_cache(maxsize=256)
def _module(text: str, words: Words) -> ModuleType:
    return cache.module(text, words, kernels)


@functools.lru_cache(maxsize=512)
def _function(text: str, words: Words, name: str, kinds: tuple) -> Callable:
    return cache.function(_module(text, words), name, kinds)


class Data(NamedTuple):
    """Rows as kernels read them."""

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    first: int  # their place in the epoch
    shuffled: int  # still to be taken in order
    steps: int  # that they suffice for


def _frozen(array: np.ndarray) -> np.ndarray:
    """A view that is read alone: for Numba all such are of one type, the caller's may be writable or not."""
    view = array.view()
    view.flags.writeable = False
    return view


def _reads(array: np.ndarray, dtype: np.dtype) -> bool:
    return array.dtype == dtype and array.ndim == 2 and array.flags.c_contiguous and array.flags.aligned


def scalar_table(scalars: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """The scalars of each step, (scalars, steps), and 1; or (scalars, 1) and 0 where they stay as they are."""
    moving = any(scalar.strides[0] for scalar in scalars)
    rows = [np.asarray(scalar, np.float64) if moving else scalar[:1] for scalar in scalars]
    return np.array(rows, np.float64) if rows else np.zeros((0, 1)), int(moving)


_quiet = np.errstate(all="ignore")  # casts may overflow


class Program:
    """See `fastbp.backends.protocol.Program`."""

    piece = 0, 0

    def __init__(self, plan: Plan, params: np.ndarray) -> None:
        self.plan, self.params = plan, params
        self.dtype = plan.spec.dtype
        self.widest = VECTOR_BYTES // self.dtype.itemsize
        self.words = generate.words(plan)
        self.work = self._tiles_work()
        self.order = np.zeros(0, np.int64)  # of the epoch's rows
        self.rows = 0
        self._functions: dict[tuple[str, str], Callable] = {}
        self._texts: dict[tuple[Callable, bool, bool], str] = {}

    # -------------------------------------------------------------- memory

    def _zeros(self, n: int) -> np.ndarray:
        return aligned_zeros(n + self.widest, self.dtype)

    def _tiles_work(self) -> Work:
        plan, spec = self.plan, self.plan.spec
        size = self.dtype.itemsize
        lds = [padded(layer.out_features, size) for layer in spec.layers]
        shape = tuple(
            (layer.in_features, layer.out_features, layer.ldw, layer.weight, -1 if layer.bias is None else layer.bias,
             int(layer.transposed), ld)
            for layer, ld in zip(spec.layers, lds)
        )  # fmt: skip
        ldx = padded(spec.in_features, size)
        widest_in = max(ldx, *lds)
        panel = max(max(padded(layer.out_features, size) * widest_in for layer in spec.layers),
                    8 * max(layer.ldw for layer in spec.layers))  # fmt: skip
        rows = generate.slot_of(plan.batch, self.widest) if generate.is_small(plan) else plan.batch  # taken by vectors
        a = tuple(self._zeros(rows * ld) for ld in lds)
        z = tuple(
            self._zeros(plan.batch * ld) if layer.activation.keeps_z else kept
            for layer, ld, kept in zip(spec.layers, lds, a)
        )
        return Work(
            shape, ldx, self._zeros(rows * ldx), self._zeros(plan.batch * ldx), self._zeros(plan.batch * lds[-1]),
            np.zeros(plan.batch), *self._of_loss(), self._zeros(panel),
            self._zeros(0 if plan.fused else spec.buffer_size),
            np.zeros(len(plan.optimizer.scalars) if plan.optimizer else 0, self.dtype),
            np.full(3, 2**64 - 1, np.uint64), z, a, tuple(self._zeros(plan.batch * ld) for ld in lds),
        )  # fmt: skip

    def _of_loss(self) -> tuple[np.ndarray, np.ndarray]:
        loss, spec = self.plan.loss, self.plan.spec
        numbers = loss.numbers(loss.targets(spec.out_features)) if loss else []
        weights = (loss and loss.chosen["output_weights"]) or ()
        padded_weights = self._zeros(padded(len(weights), spec.dtype.itemsize))
        padded_weights[: len(weights)] = weights
        return np.array(numbers, self.dtype), padded_weights

    @functools.cached_property
    def _column_work(self) -> Columns:
        memory, share = generate.column_sizes(self.plan, self.widest)
        work = self.work
        return Columns(
            self._zeros(memory), np.zeros(share), work.setting, work.output_weight, work.scalars, work.known
        )

    # -------------------------------------------------------------- compiled functions

    @functools.cached_property
    def _tiles(self) -> str:
        return self._text(generate.tiles, None)

    def _text(self, family: Callable, weight: np.ndarray | None, course: bool = False) -> str:
        """What `generate` has of a family of kernels: another text for weights of each target, and room for these.

        And for a `Course`, so that who has none compiles nothing for it.
        """
        each = weight is not None and weight.ndim == 2
        if each and len(self.work.t) < 2 * self._targets:
            self.work = self.work._replace(t=self._zeros(2 * self._targets))
        if (family, each, course) not in self._texts:
            self._texts[family, each, course] = family(self.plan, self.widest, each, course)
        return self._texts[family, each, course]

    @property
    def _targets(self) -> int:
        """Elements of the targets of a batch."""
        return self.plan.batch * padded(self.plan.spec.out_features, self.dtype.itemsize)

    @functools.cached_property
    def _column_outputs(self) -> str:
        return generate.column_outputs(self.plan, self.widest)

    def _call(self, text: str, name: str, *arguments: Any) -> Any:
        """A function of the text; a program calls each with arguments of the same types."""
        function = self._functions.get((name, text))
        if function is None:
            kinds = tuple(map(numba.typeof, arguments)) if cache.compiles else ()
            function = self._functions[name, text] = _function(text, self.words, name, kinds)
        return function(*arguments)

    # -------------------------------------------------------------- what kernels do not serve

    def _serves(self, update: Update) -> bool:
        """Whether kernels here know all of a step: a rule by itself, nothing frozen, no dropout."""
        return self.plan.bare and update.is_plain

    @functools.cached_property
    def _reference(self) -> reference.Program:
        """It makes the other steps, on the same parameters."""
        return reference.Program(self.plan, self.params)

    # -------------------------------------------------------------- many steps

    def train(
        self, X, y, weight, *, batch_size, steps, seed, shuffle, count, place, partial, losses, update, stop_on_loss,
        stop_on_params, course=None, goes_on=False,
    ) -> Trained:  # fmt: skip
        if not self._serves(update):
            return self._reference.train(
                X, y, weight, batch_size=batch_size, steps=steps, seed=seed, shuffle=shuffle, count=count, place=place,
                partial=partial, losses=losses, update=update, stop_on_loss=stop_on_loss, stop_on_params=stop_on_params,
                course=course,
            )  # fmt: skip
        in_columns = generate.suits_columns(self.plan)
        text = self._text(generate.columns if in_columns else generate.tiles, weight, course is not None)
        work = self._column_work if in_columns else self.work
        orders = course and course.orders
        if (shuffle or orders is not None) and len(self.order) != len(X):
            self.order = np.zeros(len(X), np.int64)
            work.known[:] = 2**64 - 1
        table, moving = scalar_table(update.scalars[0])
        slots = tuple(update.slots) or (self.params,)
        labels, done, epochs, value, seed, first = y.ndim == 1, 0, 0, 0.0, np.uint64(seed), int(place[0])
        while done < steps:
            order = None if orders is None else orders[int(place[0]) - first]
            data = self._data(X, y, weight, work, batch_size, seed, shuffle, order, place)
            some = min(steps - done, data.steps)
            run = kernels.Run(
                some, batch_size, len(X), data.first, data.shuffled, labels, len(data.weight) // len(data.X),
                stop_on_loss, stop_on_params, moving,
            )  # fmt: skip
            run = kernels.Run(*map(int, run))
            more, status, finished, value = self._call(
                text, "train", self.params, slots, data.X, data.y, data.weight, self.order, work, run, seed, count,
                place, partial, losses[epochs:], table[:, done * moving :].copy(),
                *(() if course is None else self._course(course, done, data.shuffled)),
            )  # fmt: skip
            done, epochs = done + more, epochs + finished
            if status != DONE:
                break
        else:
            status = DONE
        return Trained(done, status, epochs, value)

    @staticmethod
    def _course(course: Course, done: int, shuffled: int) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
        """What kernels take of it after `done` steps; nothing is of length 0."""
        orders, factor, l2, stall = course
        nothing = np.zeros(0)
        return (
            _frozen(np.zeros(0, np.int64) if orders is None or not shuffled else orders.reshape(-1)), float(factor),
            _frozen(nothing if l2 is None else l2[done:]), nothing if stall is None else stall,
        )  # fmt: skip

    def _data(self, X, y, weight, work, batch_size, seed, shuffle, order, place) -> Data:
        """The data as kernels read them, or in that form the rows of the coming batches; `order`: one given."""
        every = np.zeros(0) if weight is None else weight.reshape(-1)
        if all(_reads(array, self.dtype) or array.size <= _STAGED_ELEMENTS for array in (X, y)):
            return Data(self._cast(X), self._cast(y), _frozen(every), 0, int(shuffle or order is not None), 1 << 62)
        epoch, start = map(int, place)
        batches = max(1, _STAGED_ELEMENTS // (batch_size * X.shape[1]))
        rows: Any = slice(start, min(len(X), start + batches * batch_size))
        count = -(-(rows.stop - start) // batch_size)
        if order is not None:
            rows = order[rows]
        elif shuffle:
            if work.known.tolist() != [epoch, int(seed), len(X)]:
                work.known[:] = 2**64 - 1  # a signal may come between the two lines below
                self._call(_ORDER, "fill", seed, epoch, len(X), self.order)
                work.known[:] = epoch, seed, len(X)
            rows = self.order[rows]
        some = every if weight is None else weight[rows].reshape(-1)
        return Data(self._cast(X[rows]), self._cast(y[rows]), _frozen(some), start, 0, count)

    def _cast(self, array: np.ndarray) -> np.ndarray:
        """(rows, columns) of the network's dtype, labels in one column."""
        with np.errstate(all="ignore"):
            array = np.ascontiguousarray(array if array.ndim == 2 else array[:, None], dtype=self.dtype)
        return _frozen(array if array.flags.aligned else array.copy())

    # -------------------------------------------------------------- one verb at a time

    def _matrix(self, flat: np.ndarray, columns: int) -> np.ndarray:
        """The real part of the rows at hand of a work array."""
        ld = padded(columns, self.dtype.itemsize)
        return flat[: self.rows * ld].reshape(self.rows, ld)[:, :columns]

    @_quiet
    def forward(self, x, out, *, keep=False) -> None:
        self.rows = len(x)
        self._matrix(self.work.x, self.plan.spec.in_features)[...] = x
        if self.plan.loss is None and not keep and generate.is_small(self.plan):  # outputs alone are asked for
            memory, x, a = self._column_work.memory, self.work.x, self.work.a[-1]
            self._call(self._column_outputs, "outputs", self.params, memory, x, a, self.rows)
        else:
            self._call(self._tiles, "forward", self.params, self.work, self.rows)
        if out is not None:
            out[...] = self._matrix(self.work.a[-1], self.plan.spec.out_features)

    @_quiet
    def restore(self, x, a, z) -> None:
        spec, self.rows = self.plan.spec, len(x)
        self._matrix(self.work.x, spec.in_features)[...] = x
        if z is not None:
            self._matrix(self.work.z[-1], spec.out_features)[...] = z
        self._matrix(self.work.a[-1], spec.out_features)[...] = a

    @_quiet
    def loss(self, y, weight, total, *, gradient) -> float:
        spec, labels, text = self.plan.spec, y.ndim == 1, self._text(generate.tiles, weight)
        given = y[:, None] if labels else y
        self._matrix(self.work.t, spec.out_features)[:, : given.shape[1]] = given
        scale = self.plan.loss.scale(spec.out_features) / total if total else 0.0
        if weight is not None and weight.ndim == 2:
            weight, parts = weight_parts(weight)
            self._matrix(self.work.t[self._targets :], spec.out_features)[...] = parts
        self.work.share[: self.rows] = scale if weight is None else weight * scale
        return self._call(text, "loss", self.work, self.rows, int(labels))

    @_quiet
    def backward(self, grads, *, grad_output=None, grad_input=None, accumulate=False) -> None:
        spec = self.plan.spec
        if grad_output is not None:
            self._matrix(self.work.delta[-1], spec.out_features)[...] = grad_output
        wanted = int(grads is not None), int(grad_input is not None)
        to = self.work.grads if grads is None else grads
        if accumulate:
            to = self._zeros(spec.buffer_size)[: spec.buffer_size]
        self._call(self._tiles, "backward", self.params, self.work, to, self.rows, *wanted)
        if accumulate:
            for view, gradient in zip(spec.views(grads), spec.views(to)):
                view += gradient
        if grad_input is not None:
            grad_input[...] = self._matrix(self.work.grad_input, spec.in_features)

    def update(self, grads, update, count) -> None:
        if not self._serves(update):
            return self._reference.update(grads, update, count)
        text = generate.update_alone(update.row, self.widest)
        now = np.array([scalar[0] for scalar in update.scalars[0]], self.dtype)
        every = tuple(update.slots) or (self.params,)
        return self._call(text, "update", self.params, every, now, grads, self.work.shape, count)

    def backward_update(self, grad_output, grad_input, update, count) -> None:
        grads = self._zeros(self.plan.spec.buffer_size)
        self.backward(grads, grad_output=grad_output, grad_input=grad_input)
        self.update(grads, update, count)

    def finite(self) -> bool:
        return all(np.isfinite(view).all() for view in self.plan.spec.views(self.params))

    # -------------------------------------------------------------- what it is

    def describe(self, rows: int) -> list[LayerPlan]:
        family = "columns" if generate.suits_columns(self.plan) else "tiles" if self.plan.bare else "numpy"
        family = FAMILIES[family]
        return [LayerPlan(family)] * len(self.plan.spec.layers)

    @property
    def workspace_bytes(self) -> int:
        works = [self.work, self._column_work] if generate.suits_columns(self.plan) else [self.work]
        arrays = {id(a): a.nbytes for work in works for part in work for a in (part if type(part) is tuple else [part])
                  if isinstance(a, np.ndarray)}  # fmt: skip
        return sum(arrays.values())

    sharing = "1: kernels are serial"
