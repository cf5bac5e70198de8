"""One dense layer on plain arrays, for `fastbp.ops` and the C API: the compiled functions for it.

On the other backends, and for rows of the user's own, a program of a network of one layer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import activations, backends, losses, optimizers, spec
from fastbp.backends import config, threads
from fastbp.backends.plan import make_plan, own_rows
from fastbp.backends.plan import program as make_program
from fastbp.checks import integer

if TYPE_CHECKING:
    from fastbp._engine import Bound, Forced, Ops
    from fastbp.rows import Activation, Loss

LOSSES = {row: index for index, row in enumerate(losses.TABLE.values())}


def compiled() -> Ops | None:
    """The compiled functions, of the ISA that is asked for at present, if the compiled backend is.

    Raises
    ------
    RuntimeError
        A forced backend or ISA is not there.
    """
    global _last
    engine: Any = backends.engine()
    forced: Any = None if engine is None else engine.Forced(*config.FORCED)  # first: another thread may force something
    if backends.resolve(config.requested_backend("auto"), np.dtype(np.float32), []) != "cython":
        return None
    last = _last
    if last is None or not last.still():
        last = _last = _make(engine, forced)
    return last


def _make(engine: Any, forced: Forced) -> Ops:
    backends.program("cython")  # sure to be built from these tables
    rows = list(activations.TABLE.values())
    index = {row.name: -1 if row.is_identity else k for k, row in enumerate(rows)}
    named = index | {alias: index[name] for alias, name in activations.ALIASES.items()}
    return engine.Ops(
        forced,
        engine.choose_isa(config.requested_isa()),
        named | {id(row): index[row.name] for row in rows},
        [*(row.keeps_z for row in rows), False],
        {row.name: k for k, row in enumerate(optimizers.TABLE.values())},
        threads.requested,
        not threads.forced(),
    )


_last: Ops | None = None


def is_own(row: Activation | Loss) -> bool:
    """Whether the tables do not hold a row."""
    return bool(own_rows([row]))


# ------------------------------------------------------------------ by a program


class Layer:
    """A network of one layer, and a program on its own parameters: plain arrays are copied in, and back."""

    def __init__(
        self, shape: tuple[int, int], bias: bool, dtype: np.dtype[Any], activation: Activation, rows: int
    ) -> None:
        self.spec = spec.Spec(shape, (activation,), bias, dtype)
        self.params = self.new_buffer()
        self.views = self.spec.views(self.params)
        self.program = make_program(make_plan(self.spec, rows), self.params)

    def new_buffer(self) -> np.ndarray:
        return spec.aligned_zeros(self.spec.buffer_size, self.spec.dtype)

    @cached_property
    def grads(self) -> np.ndarray:
        return self.new_buffer()

    def filled(self, arrays: list[np.ndarray]) -> np.ndarray:
        """A padded buffer that holds copies of the arrays."""
        buffer = self.new_buffer()
        for view, array in zip(self.spec.views(buffer), arrays):
            view[...] = array.reshape(view.shape)
        return buffer

    def copy_back(self, buffers: list[np.ndarray], targets: list[list[np.ndarray]]) -> None:
        for buffer, arrays in zip(buffers, targets):
            for view, array in zip(self.spec.views(buffer), arrays):
                array[...] = view.reshape(array.shape)


UNUSED_COUNT = np.zeros(1, np.int64)  # of steps, which nobody reads
_KEPT = 32  # kinds of layers; the one met first is dropped
_KEPT_OF_A_KIND = 4  # for threads that call at once
_LARGEST = 1 << 20  # bytes: beyond, making a layer is little beside its work
_idle: dict[tuple[Any, ...], list[Layer]] = {}
_pool = threading.Lock()


@contextmanager
def lent(weight: np.ndarray, bias: Any, activation: Activation, rows: int) -> Iterator[Layer]:
    """A layer with these parameters. It is kept for the next call that asks for its like, out of reach of others."""
    dtype = weight.dtype.newbyteorder("=")
    forced = config.requested_backend("auto"), config.requested_isa()
    key = (weight.shape, bias is None, dtype.char, id(activation), rows, forced)
    with _pool:
        layer = _idle[key].pop() if _idle.get(key) else None
    if layer is None:
        layer = Layer(weight.shape, bias is not None, dtype, activation, rows)
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


# ------------------------------------------------------------------ for the C API


def bound(net: Any, rows: int) -> Bound:
    """A compiled program of a network's, for at most so many rows, on one thread: what `bind` of the C API gives."""
    network, params = getattr(net, "_spec", None), getattr(net, "_params", None)
    if not isinstance(network, spec.Spec) or not isinstance(params, np.ndarray):
        raise TypeError(f"bind: a fastbp.MLP is wanted, got {net!r}")
    plan = make_plan(network, integer("bind: rows", rows, 1), backend="cython", n_threads=1)
    engine: Any = backends.engine()
    return engine.Bound(make_program(plan, params))
