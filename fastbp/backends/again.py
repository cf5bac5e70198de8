"""Calls like earlier ones: Python's half of the short way.

The checks of a small call take ten times as long as its arithmetic. A call that was checked in full is remembered by
what the caller named in it, and one like it goes straight to the compiled module (`Calls` in src/again.pyx), which
looks at what may have changed in between and gives None where it is not sure. A training step of a new kind is
remembered before it is made, where its loss and its optimizer are in order. The long way stays the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbp import backends, spec
from fastbp.backends import config
from fastbp.backends.plan import Asked, asked, room
from fastbp.backends.protocol import Plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.backends.plan import Programs
    from fastbp.optimizers import Rule
    from fastbp.rows import Loss


def _nothing(*arguments: Any) -> None:
    return None


class LongWay:
    """Stands for compiled calls where there are none: whatever is asked for gives None, and so goes the long way."""

    def __getattr__(self, call: str) -> Any:
        return _nothing


LONG_WAY = LongWay()


_PIECE_FLOPS, _PIECE_STEPS = 5e7, 500  # 50 ms of a slow machine


def most_steps(batch_size: int, n_params: int) -> int:
    """Steps that are made in one piece before anything is measured: signals are served after each.

    What was measured is a program's `piece`.
    """
    return max(1, min(_PIECE_STEPS, int(_PIECE_FLOPS / (6 * batch_size * n_params))))


class Kind(NamedTuple):
    """What a kind of steps comes to, the same for all networks of a spec."""

    plan: Plan
    targets: tuple[Any, ...]  # as `KnownLoss` takes them
    rule: tuple[Any, ...]  # as `KnownRule` takes it


@lru_cache(maxsize=256)
def _kind_of_step(
    make_plan: Callable[..., Plan], network: spec.Spec, rows: int, trains: tuple[tuple[bool, bool], ...], loss: Any,
    optimizer: Any, wanted: Asked,
) -> Kind | None:  # fmt: skip
    """None where its steps cannot be made again. An error, of whatever argument, is raised anew each time."""
    row, rule = spec.loss(loss, network), spec.optimizer(optimizer, network)
    plan = make_plan(network, rows, loss=row, rule=rule, trains=trains, wanted=wanted)
    if plan.backend != "cython" or not _is_foreseen(rule):
        return None
    return Kind(plan, _targets_of(row, network), _kind_of(rule, rule.accumulate))


class Memory:
    """What a network remembers of its calls, which are made again by `calls`."""

    __slots__ = ("_asked", "_n_params", "_network", "backend", "calls")
    _asked: Asked  # when the first of these calls was made

    def __init__(
        self, network: spec.Spec, programs: Programs, state: Any, lock: Any, pending: list[Any], backend: str
    ) -> None:
        self.backend = backend  # the network's own choice
        self._network = network, programs, programs.params, state, lock, pending
        self._n_params = network.n_params
        self.calls: Any = LONG_WAY

    def forget(self) -> None:
        """Something has changed that no call looks at."""
        self.calls = LONG_WAY

    def _calls_of(self, plan: Plan) -> Any:
        """Where calls that this plan serves are remembered; None where they are not."""
        if plan.backend != "cython":
            return None
        if self._is_old():
            forced, wanted = self._forced()
            if wanted.backend not in ("auto", "cython") or wanted.isa not in (None, plan.isa):
                return None  # another thread has forced something since the plan was made
            self._begin(forced, wanted)
        return self.calls

    def _is_old(self) -> bool:
        """Whether something is forced that was not when the first of these calls was made, or there was none."""
        return self.calls is LONG_WAY or not self.calls.is_current()

    def _forced(self) -> tuple[Any, Asked]:
        """What is forced at present, and what that comes to, in this order."""
        engine: Any = backends.engine()
        return engine.Forced(*config.FORCED), asked(self.backend)

    def _begin(self, forced: Any, wanted: Asked) -> None:
        engine: Any = backends.engine()
        network, *rest = self._network
        make_buffer = partial(spec.aligned_zeros, network.buffer_size, network.dtype)
        self._asked = wanted  # before the calls that go by it, as other threads may look
        self.calls = engine.Calls(forced, network, *rest, make_buffer, spec.room_for, spec.give_back)

    # Each is told of what the caller named, what that came to, and the programs that served it: those of the plan.

    def predict(self, plan: Plan, hidden: int | None = None) -> None:
        if calls := self._calls_of(plan):
            calls.remember_ahead(plan.batch, self._idle(plan), hidden)

    def forward(self, plan: Plan) -> None:
        if calls := self._calls_of(plan):
            calls.remember_kept(plan, self._idle(plan))

    def evaluate(self, plan: Plan, loss: Any, row: Loss) -> None:
        if calls := self._calls_of(plan):
            calls.remember_loss(loss, _targets_of(row, self._network[0]), plan.batch, self._idle(plan))

    def fit(
        self, make_plan: Callable[..., Plan], trains: tuple[tuple[bool, bool], ...], X: Any, y: Any, loss: Any,
        optimizer: Any, batch_size: Any, epochs: Any, steps: Any, shuffle: Any,
    ) -> tuple[NDArray[Any], NDArray[Any], int, Rule] | None:  # fmt: skip
        """A run of one piece on arrays: losses, `net.step` at each, steps made, by which rule.

        None where it goes the long way.
        """
        number = epochs if steps is None else steps
        if type(X) is not np.ndarray or (epochs is None) == (steps is None) or type(number) is not int or number < 1:
            return None
        if type(batch_size) is not int or batch_size < 1 or type(shuffle) is not bool or not X.size:
            return None
        if shuffle and not X.flags.c_contiguous:
            return None  # rows that lie apart may be put together first
        batch_size = min(batch_size, len(X))
        number *= 1 if steps is not None else -(-len(X) // batch_size)
        given = X, y, loss, optimizer, batch_size, number, shuffle, most_steps(batch_size, self._n_params)
        made: tuple[NDArray[Any], NDArray[Any], int, Rule] | None = self.calls.fit(*given)
        if made is None and self.expects_step(make_plan, trains, X, loss, optimizer, batch_size):
            made = self.calls.fit(*given)
        return made

    def expects_step(
        self, make_plan: Callable[..., Plan], trains: tuple[tuple[bool, bool], ...], x: Any, loss: Any, optimizer: Any,
        rows: int | None = None,
    ) -> bool:  # fmt: skip
        """Remember a step of a new kind before it is made: the short way looks at its arrays in less time, too.

        Of all rows of x and perhaps some more, unless told: of `rows`. True where that may help. What is wrong with an
        argument the long way says, in its order.
        """
        if type(x) is not np.ndarray and type(x) is not list:
            return False
        try:
            rows = room(len(x)) if rows is None else rows
            is_old = self._is_old()
            if not is_old and self.calls.knows_step(rows, loss, optimizer):
                return False
            forced, wanted = self._forced() if is_old else (None, self._asked)
            network, programs = self._network[:2]
            kind = _kind_of_step(make_plan, network, rows, trains, loss, optimizer, wanted)
            if kind is None:
                return False
            idle = programs.ready(kind.plan)
        except Exception:
            return False
        if forced is not None:
            self._begin(forced, wanted)
        known = self.calls.remember_loss(loss, kind.targets)
        self.calls.remember_step(known, optimizer, kind.rule, kind.plan.batch, idle)
        return True

    def update(self, plan: Plan, optimizer: Any, rule: Rule) -> None:
        if _is_foreseen(rule) and (calls := self._calls_of(plan)):
            calls.remember_update(optimizer, _kind_of(rule, 1), self._idle(plan))

    def batches(self, row: Loss, plan: Plan, rule: Rule) -> Callable[..., int] | None:
        """`Calls.train_batches` for a loss and a rule, without these arguments; None where it cannot be foreseen."""
        calls = self._calls_of(plan) if _is_foreseen(rule) else None
        if calls is None:
            return None
        known_loss = calls.remember_loss(row, _targets_of(row, self._network[0]))
        known_rule = calls.rule(rule, _kind_of(rule, rule.accumulate))
        return lambda program, *arguments: calls.train_batches(program, known_loss, known_rule, *arguments)

    def _idle(self, plan: Plan) -> list[Any]:
        idle: list[Any] = self._network[1].idle(plan)
        return idle


def _targets_of(row: Loss, network: spec.Spec) -> tuple[Any, ...]:
    """What targets may be, as `KnownLoss` takes it."""
    low, high = row.domain.closed(network.dtype)
    return row, row.labels, row.targets(network.out_features), low, high, row.domain.ends == "{}"


def _is_foreseen(rule: Rule) -> bool:
    """Whether the numbers of steps to come are known: not of a class of the user's, which may answer as it likes."""
    return rule.is_foreseeable and type(rule).__module__ in ("fastbp.optimizers", "fastbp.own")


def _kind_of(rule: Rule, accumulate: int) -> tuple[Any, ...]:
    """What `KnownRule` wants to know of a rule."""
    return rule, accumulate, rule.is_steady, rule.has_schedule
