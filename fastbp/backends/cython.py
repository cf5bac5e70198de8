"""The Cython backend: a plan laid out for the C++ engine (``src/program.hpp``)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import _engine, activations, losses, optimizers
from fastbp.backends.protocol import Family, LayerPlan, Trained
from fastbp.rows import digest

if TYPE_CHECKING:
    from fastbp.backends.protocol import Member, Plan
    from fastbp.rows import Loss
    from fastbp.spec import Spec

# Kernels are found by a row's place in its table, and read what the rows of their own tables name.
if getattr(_engine, "ROWS", None) != digest(*(table.TABLE.values() for table in (activations, losses, optimizers))):
    raise ImportError(f"{_engine.__file__} was built from other tables of rows than these: build fastbp again")
_ACTIVATION = {row: index for index, row in enumerate(activations.TABLE.values())}
_LOSS = {row: index for index, row in enumerate(losses.TABLE.values())}
_OPTIMIZER = {row: index for index, row in enumerate(optimizers.TABLE.values())}

# In the order of `Family` in src/kernels.hpp; the numbers are those of the rules in src/train.cpp and src/tiny.cpp.
FAMILIES = (
    Family("direct", "none of the special cases: register tiles"),
    Family("narrow", "an output layer of at most 4: kept transposed"),
    Family("few", "at most 24 rows, outputs beyond 4 vectors: back in one pass"),
    Family("single", "one row: one pass each way, inputs of 0 skipped where they may be"),
    Family("tiny", "one hidden layer of at most 16, or none wider than 8; outputs at most 4: all layers at once"),
    Family("bfloat16", "matmul_precision='bfloat16': tiles of products of pairs, summed in float32"),
)


class _OwnRows:
    """Functions of rows that the tables do not hold, compiled by Numba; they live as long as this does.

    Their vectors are as wide as those of the kernels that call them, which leave no room for wider ones.
    """

    def __init__(self, dtype: np.dtype, isa: str) -> None:
        self.dtype, self.isa = dtype, isa
        self.kept: dict[object, tuple] = {}

    def addresses(self, row) -> list[int]:
        if row not in self.kept:
            from fastbp.backends.numba.own_rows import row_functions

            self.kept.setdefault(row, row_functions(row, self.dtype, _engine.vector_bytes(self.isa)))
        return [function.address for function in self.kept[row]]

    def update(self, row) -> int:
        return self.addresses(row)[0]


@lru_cache(maxsize=64)
def _layers(spec: Spec, trains: tuple[tuple[bool, bool], ...], isa: str) -> tuple[_OwnRows, list[tuple[Any, ...]]]:
    """The layers as `LayerShape` in src/program.hpp has them, and what keeps the addresses in them."""
    own = _OwnRows(spec.dtype, isa)
    return own, [
        (
            layer.in_features,
            layer.out_features,
            layer.ldw,
            layer.transposed,
            layer.weight,
            -1 if layer.bias is None else layer.bias,
            -1 if layer.activation.is_identity else _ACTIVATION.get(layer.activation, -1),
            *([0, 0] if layer.activation in _ACTIVATION else own.addresses(layer.activation)),
            layer.activation.keeps_z,
            below is None or below.activation.dead_at_zero,
            *trained,
            layer.dropout,
        )
        for below, layer, trained in zip((None, *spec.layers), spec.layers, trains)
    ]


@lru_cache(maxsize=64)
def _numbers(loss: Loss, out_features: int) -> tuple[float, list[float], list[float]]:
    """The scale of a loss, its settings, and the weights of its outputs."""
    return loss.scale(out_features), loss.numbers(loss.targets(out_features)), list(loss.chosen["output_weights"] or ())


class Program(_engine.Program):
    """See `fastbp.backends.protocol.Program`."""

    def __new__(cls, plan: Plan, params: np.ndarray, like: Program | None = None) -> Program:
        spec, loss = plan.spec, plan.loss
        row = loss and loss.plain
        own, layers = _layers(spec, plan.trains, plan.isa)
        own_loss = 0, False, False
        if row and row not in _LOSS:
            own_loss = (*own.addresses(row), row.statistic == "lse", row.grad_s is not None)
        return super().__new__(
            cls,
            plan,
            params,
            plan.isa,
            layers,
            _LOSS.get(row, -1),
            *((1.0, [], []) if loss is None else _numbers(loss, spec.out_features)),
            _OPTIMIZER,
            own,
            own_loss,
            like,
        )

    def __init__(self, plan: Plan, params: np.ndarray, like: Program | None = None) -> None:
        pass

    def train(self, *args, **kwargs) -> Trained:
        return Trained(*super().train(*args, **kwargs))

    @property
    def sharing(self) -> str:
        if not self.plan.gated:
            return f"{self.plan.n_threads} in each phase, forced"
        return f"at most {self.plan.n_threads}; one for each {_engine.FLOPS_OF_A_THREAD:,} FLOP of a phase"

    def describe(self, rows: int) -> list[LayerPlan]:
        return [LayerPlan(FAMILIES[index], *threads) for index, *threads in self.described(rows)]


class Many(_engine.Many):
    """See `fastbp.backends.protocol.Many`."""

    def __new__(
        cls, plan: Plan, members: list[Member], *, batch_size: int, shuffle: bool, stop_on_non_finite: bool
    ) -> Many:
        _, layers = _layers(plan.spec, plan.trains, plan.isa)
        return super().__new__(
            cls,
            plan,
            members,
            plan.isa,
            layers,
            _LOSS[plan.loss.plain],
            *_numbers(plan.loss, plan.spec.out_features),
            _OPTIMIZER,
            batch_size=batch_size,
            shuffle=shuffle,
            stop_on_non_finite=stop_on_non_finite,
        )

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass
