"""The plan: spec + batch + rows -> backend, ISA, path. The only place that chooses, and it chooses before the loop."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastbp import activations, backends, losses, optimizers
from fastbp.backends import config, threads
from fastbp.backends.protocol import Many, Member, Plan, Program
from fastbp.optimizers import Rule
from fastbp.rows import Activation, Loss, Optimizer
from fastbp.spec import Spec

_OF_TABLES = {row for table in (activations.TABLE, losses.TABLE, optimizers.TABLE) for row in table.values()}
_IDS = {id(row) for row in _OF_TABLES}  # found in a tenth of the time; copies of rows are equal to them all the same


def own_rows(rows: Iterable[Activation | Loss | Optimizer]) -> list[str]:
    """Names of the rows that the tables do not hold."""
    return [row.name for row in rows if id(row) not in _IDS and not _is_of_tables(row)]


def _is_of_tables(row: Activation | Loss | Optimizer) -> bool:
    return (row.plain if isinstance(row, Loss) else row) in _OF_TABLES  # kernels serve all settings of a loss


class Asked(NamedTuple):
    """What is asked for at the moment, by the network, from outside and by the machine."""

    backend: str  # or "auto"
    isa: str | None
    n_threads: int
    gated: bool


def asked(backend: str, n_threads: int | None = None) -> Asked:
    """`backend` is the network's own, `n_threads` the call's; what else may force one is in `backends.config`."""
    said = backends.environment()
    return Asked(
        config.requested_backend(backend, said),
        config.requested_isa(said),
        threads.requested(n_threads, said),
        not threads.forced(said),
    )


def make_plan(
    spec: Spec,
    batch: int,
    *,
    backend: str = "auto",
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    rule: Rule | None = None,
    trains: tuple[tuple[bool, bool], ...] | None = None,
    fused: bool = True,
    n_threads: int | None = None,
    wanted: Asked | None = None,
) -> Plan:
    """Choose by what is `wanted`: what is `asked` now, unless told.

    `rule` stands for the optimizer's row, and for what is around it.

    Raises
    ------
    RuntimeError
        A forced backend or ISA is not there, or cannot multiply in bfloat16 as the network's training asks for.
    """
    trains = trains or spec.all_train
    plain = trains == spec.all_train
    if rule is not None:
        optimizer, plain, fused = rule.row, plain and rule.is_plain, fused and not rule.needs_whole_gradient
    requested, isa, most_threads, gated = wanted or asked(backend, n_threads)
    own = own_rows([*spec.activations, *[row for row in (loss, optimizer) if row is not None]])
    choose = _choose if own or requested not in ("auto", "cython") else _choose_once
    name, isa = choose(backends.engine(), requested, isa, spec.dtype, *own)
    plan = Plan(spec, batch, name, isa, loss, optimizer, trains, plain, fused, most_threads, gated)
    if plan.rounds and (reason := backends.lacks_bfloat16(name, isa)):
        emulated = 'backend="reference" emulates it, slowly, for tests'
        raise RuntimeError(f"matmul_precision='bfloat16': {reason}; {emulated}")
    return plan


def _choose(
    engine: ModuleType | None, requested: str, isa: str | None, dtype: np.dtype, *own: str
) -> tuple[str, str | None]:
    """The backend that serves what is requested, and the ISA of its kernels."""
    name = backends.resolve(requested, dtype, [*own])
    if name == "reference" and requested == "auto" and backends.lacks_engine(dtype, [*own]):
        from fastbp.backends.absent import warn_once

        warn_once()
    return name, engine.choose_isa(isa) if engine is not None and name == "cython" else None


_choose_once = lru_cache(maxsize=64)(_choose)  # what rows of the tables need is there, or will not come


BLOCK_ROWS = 256  # predict, evaluate and loss_and_grad go through X in blocks: memory does not grow with n


def room(n: int) -> int:
    """Rows that a program for a batch of n is made for: up to a block a power of two, so that few are made."""
    return n if n > BLOCK_ROWS else 1 << max(n - 1, 0).bit_length()


def program(plan: Plan, params: np.ndarray, like: Program | None = None) -> Program:
    """A program for the plan, bound to a parameter buffer.

    `like`, of the compiled backend, is another one of the same buffer that never works at the same time: the two share
    their workspace where its parts have one size.
    """
    make = backends.program(plan.backend)
    return make(plan, params) if like is None else make(plan, params, like)


def many(plan: Plan, members: list[Member], **more: Any) -> Many:
    """Networks of this plan that train side by side: see `fastbp.backends.protocol.Many`."""
    from fastbp.backends.cython import Many

    return Many(plan, members, **more)


# Where a full group of lanes gains at least 4 times in float32, for batches of at most 8 rows and of more; what is not
# here gains less: docs/internals.md. The most inputs where one kernel makes the whole step of a lane, by ISA and hidden
# units. And for deeper networks by SGD on AVX-512, in batches of at most 8, the most multiplications of a row forward.
_MOST_INPUTS = {
    "avx512": {1: (16, 16), 2: (16, 16), 3: (8, 4)},
    "avx2": {1: (4, 4), 2: (4, 4), 3: (4, 0)},
}
_MOST_PRODUCTS = 64
_LANE_ISAS = ("avx2", "avx512")  # whose vectors hold a network per lane


def serves_lanes(plan: Plan, batch_size: int, lanes: str | bool) -> bool:
    """Whether networks of this plan train side by side, a network per lane; `lanes` is "auto", True or False.

    "auto" takes lanes where a full group gains at least four times over one by one on the rows of one order: a network
    that is alone in its group pays for all of it. How many networks there are has no say: bits depend on this.
    Weights of single targets are not served, whoever asks knows whether there are some.
    """
    if not lanes or plan.backend != "cython" or plan.isa not in _LANE_ISAS or not plan.bare or plan.rounds:
        return False
    if plan.loss is None or plan.optimizer is None or own_rows([*plan.spec.activations, plan.loss, plan.optimizer]):
        return False
    return lanes is True or _gains_by_lanes(plan, batch_size)


def _gains_by_lanes(plan: Plan, batch_size: int) -> bool:
    layers, rule = plan.spec.layers, plan.optimizer
    if plan.spec.dtype != np.float32:
        return False
    if len(layers) == 2:  # one by one has a unit per lane
        hidden = layers[0].activation.name in ("identity", "relu", "tanh") and layers[-1].activation.is_identity
        at_once = hidden and plan.spec.out_features == 1 and rule.name in ("sgd", "adam")
        most = _MOST_INPUTS[plan.isa].get(layers[0].out_features, (0, 0)) if at_once else (0, 0)
        return plan.spec.in_features <= most[batch_size > 8]
    products = sum(layer.in_features * layer.out_features for layer in layers)
    return plan.isa == "avx512" and rule.name == "sgd" and batch_size <= 8 and products <= _MOST_PRODUCTS


class Programs:
    """The programs of one parameter buffer, made when first needed and kept for the next call.

    A program is out of the pool while it works, so threads that ask for one plan at once get one each.
    """

    __slots__ = ("_idle", "_trainer", "params")
    _KEPT = 16  # plans; the one not used for longest is dropped

    def __init__(self, params: np.ndarray) -> None:
        self.params = params
        self._idle: OrderedDict[Plan, list[Program]] = OrderedDict()
        self._trainer: Program | None = None  # the last one made that trains

    def idle(self, plan: Plan) -> list[Program]:
        return self._idle.setdefault(plan, [])

    def ready(self, plan: Plan) -> list[Program]:
        """The idle programs of a plan, one at least: it is made where there is none."""
        idle = self.idle(plan)
        if not idle:
            self.give_back(self._made(plan))
        return idle

    def take(self, plan: Plan) -> Program:
        try:
            return self._idle[plan].pop()
        except (KeyError, IndexError):
            return self._made(plan)

    def _made(self, plan: Plan) -> Program:
        """A new one. Those that train hold the network's lock, so they share a workspace: fresh memory costs a step."""
        if plan.optimizer is None or plan.backend != "cython":
            return program(plan, self.params)
        like = self._trainer if self._trainer is not None and self._trainer.plan.batch == plan.batch else None
        self._trainer = program(plan, self.params, like)
        return self._trainer

    def give_back(self, program: Program) -> None:
        self.idle(program.plan).append(program)
        try:
            self._idle.move_to_end(program.plan)
            if len(self._idle) > self._KEPT:
                self._idle.popitem(last=False)
        except KeyError:  # another thread dropped it meanwhile
            pass

    def drop_all_but(self, plans: set[Plan]) -> None:
        """Forget the idle programs of other plans than these."""
        for plan in [plan for plan in list(self._idle) if plan not in plans]:
            self._idle.pop(plan, None)
        self._trainer = None

    @property
    def plans(self) -> set[Plan]:
        """Those whose programs are kept."""
        return set(self._idle)

    def lent(self, plan: Plan) -> _Lent:
        """For `with`: a program of the plan."""
        return _Lent(self, plan)


class _Lent:  # a generator takes several times as long
    __slots__ = ("plan", "program", "programs")
    program: Program

    def __init__(self, programs: Programs, plan: Plan) -> None:
        self.programs, self.plan = programs, plan

    def __enter__(self) -> Program:
        self.program = self.programs.take(self.plan)
        return self.program

    def __exit__(self, *error: object) -> None:
        self.programs.give_back(self.program)
