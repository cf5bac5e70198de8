"""What a network is, what a plan chose and what a training step costs, for `MLP.summary` and `MLP.explain`.

How each layer is computed comes from the program itself: the rules stand in the backends and are not told again here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastbp.backends.protocol import LayerPlan, Plan, Program

Trains = Sequence[tuple[bool, bool]]  # of `Plan`: weight and bias of each layer


def _below(trains: Trains) -> list[bool]:
    """Whether something below each layer trains: only then there is a grad_input."""
    return [any(map(any, trains[:k])) for k in range(len(trains))]


def flops(sizes: Sequence[int], batch: int, trains: Trains | None = None) -> list[int]:
    """Multiplications and additions of a step's matrix products, for each layer.

    Parameters
    ----------
    sizes : sequence of int
        As of `MLP`.
    batch : int
        Rows.
    trains : sequence of (bool, bool), optional
        Of each layer, whether weight and bias train; all do unless told.

    Returns
    -------
    list of int
        2 * batch * in_features * out_features for each of forward, grad_weight where the weight trains, and grad_input
        where something below does.
    """
    trains = trains or ((True, True),) * (len(sizes) - 1)
    layers = zip(sizes, sizes[1:], trains, _below(trains))
    return [2 * batch * n_in * n_out * (1 + weight + below) for n_in, n_out, (weight, _), below in layers]


def moved(plan: Plan) -> list[int]:
    """Bytes that a step reads and writes, for each layer, if no cache keeps anything from one use to the next.

    The table of what counts how often is in the docstring of `MLP.summary`. What a family saves is left out: with one
    row, for example, grad_input and the update read the weight together.
    """
    slots = len(plan.optimizer.state) if plan.optimizer else 0
    elements = []
    for layer, (weight, bias), below in zip(plan.spec.layers, plan.trains, _below(plan.trains)):
        n_in, n_out, bias = layer.in_features, layer.out_features, bias and plan.spec.bias
        back = weight or bias or below  # there is a delta
        parameters, trained = (n_in + plan.spec.bias) * n_out, (n_in * weight + bias) * n_out
        row = (1 + weight) * n_in + (1 + back) * (layer.activation.keeps_z + 1) * n_out
        row += (1 + (weight or bias) + below) * back * n_out
        elements.append(parameters + (2 + 2 * slots) * trained + below * n_in * n_out + plan.batch * row)
    return [count * plan.spec.dtype.itemsize for count in elements]


@dataclass(frozen=True)
class LayerCost:
    """A layer of an `Explanation`: how it is computed, and its part of a step."""

    in_features: int
    out_features: int
    activation: str
    how: LayerPlan
    flops: int
    n_bytes: int

    def cells(self) -> tuple[str, ...]:
        shape = f"{self.in_features} -> {self.out_features}"
        family, *threads = self.how
        return (shape, self.activation, f"{self.flops:,}", f"{self.n_bytes:,}", "{} / {}".format(*threads), *family)


_COLUMNS = {"layer": "<", "activation": "<", "FLOP": ">", "bytes": ">", "threads": "<", "family": "<", "why": "<"}


@dataclass(frozen=True)
class Explanation:
    """A plan, and what a step of a full batch costs. As a string it is what `MLP.explain` prints."""

    plan: Plan
    layers: tuple[LayerCost, ...]
    sharing: str  # of `fastbp.backends.protocol.Program`
    workspace_bytes: int  # beside parameters and slots; 0 where each step allocates its own

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    @property
    def n_bytes(self) -> int:
        return sum(layer.n_bytes for layer in self.layers)

    def __str__(self) -> str:
        plan = self.plan
        facts = _what(plan) | {
            "backend": plan.backend,
            "isa": plan.isa or {"numba": "this CPU's, by LLVM"}.get(plan.backend, "NumPy's own"),
            "threads": self.sharing,
            "workspace": f"{self.workspace_bytes:,} bytes" if self.workspace_bytes else "allocated by each step",
            "arithmetic": f"{self.flops:,} FLOP a step",
            "memory": f"{self.n_bytes:,} bytes a step, or {self.flops / self.n_bytes:.2g} FLOP per byte",
        }
        return _page(facts, _COLUMNS, (layer.cells() for layer in self.layers))


def explain(program: Program) -> Explanation:
    """The explanation of the plan that a program was made from."""
    plan = program.plan
    work = flops(plan.spec.sizes, plan.batch, plan.trains)
    costs = zip(plan.spec.layers, program.describe(plan.batch), work, moved(plan))
    layers = (LayerCost(layer.in_features, layer.out_features, layer.activation.name, *cost) for layer, *cost in costs)
    return Explanation(plan, tuple(layers), program.sharing, program.workspace_bytes)


_SUMMARY = {"layer": ">", "weight": ">", "bias": ">", "activation": "<", "parameters": ">", "FLOP": ">", "bytes": ">"}


def summary(plan: Plan) -> str:
    """The network and a step in numbers, layer by layer and in all: what `MLP.summary` prints."""
    spec = plan.spec
    counts = [(layer.in_features + spec.bias) * layer.out_features for layer in spec.layers]
    costs = list(zip(counts, flops(spec.sizes, plan.batch, plan.trains), moved(plan)))
    rows = []
    for k, (layer, cost) in enumerate(zip(spec.layers, costs)):
        shape = f"{layer.in_features} x {layer.out_features}", f"{layer.out_features}" if spec.bias else "-"
        rows.append((f"{k}", *shape, layer.activation.name, *(f"{number:,}" for number in cost)))
    rows.append(("all", "", "", "", *(f"{sum(column):,}" for column in zip(*costs))))
    return _page(_what(plan), _SUMMARY, rows)


def _what(plan: Plan) -> dict[str, str]:
    """The network and its step, as facts of a `_page`."""
    spec = plan.spec
    facts = {
        "network": f"{'-'.join(map(str, spec.sizes))}, {spec.dtype}, {spec.n_params:,} parameters",
        "step": ", ".join([f"{plan.batch:,} rows", *(row.name for row in (plan.loss, plan.optimizer) if row)]),
    }
    if plan.rounds:
        facts["products"] = "of numbers rounded to bfloat16, summed in float32"
    of = ["inputs", *(f"outputs of layer {k}" for k in range(len(spec.layers) - 1))]
    dropped = [f"{rate:g} of the {what}" for rate, what in zip(spec.dropout, of) if rate]
    kinds = {(False, True): "the weight of layer {}", (True, False): "the bias of layer {}", (False, False): "layer {}"}
    frozen = [kinds[trains].format(k) for k, trains in enumerate(plan.trains) if trains in kinds]
    return facts | {name: ", ".join(what) for name, what in (("dropout", dropped), ("frozen", frozen)) if what}


def _page(facts: Mapping[str, str], columns: Mapping[str, str], rows: Iterable[tuple[str, ...]]) -> str:
    """Facts, one a line, and a table below; `columns` gives each its alignment."""
    table = [tuple(columns), *rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    form = "  ".join(f"{{:{align}{width}}}" for align, width in zip(columns.values(), widths))
    lines = [f"{name:<12}{fact}" for name, fact in facts.items()]
    return "\n".join([*lines, "", *(form.format(*cells).rstrip() for cells in table)])
