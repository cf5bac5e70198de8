"""Calls like earlier ones: Python's half of the short way.

The checks of a small call take ten times as long as its arithmetic. A call that was checked in full is remembered by
what the caller named in it, and one like it goes straight to the compiled module (`Calls` in src/again.pyx), which
looks at what may have changed in between and gives None where it is not sure. The long way stays the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fastbp import backends, spec
from fastbp.backends import config

if TYPE_CHECKING:
    from fastbp.backends.plan import Programs
    from fastbp.backends.protocol import Plan
    from fastbp.optimizers import Rule
    from fastbp.rows import Loss


def _nothing(*arguments: Any) -> None:
    return None


class LongWay:
    """Stands for compiled calls where there are none: whatever is asked for gives None, and so goes the long way."""

    def __getattr__(self, call: str) -> Any:
        return _nothing


LONG_WAY = LongWay()


class Memory:
    """What a network remembers of its calls, which are made again by `calls`."""

    __slots__ = ("_network", "backend", "calls")

    def __init__(
        self, network: spec.Spec, programs: Programs, state: Any, lock: Any, pending: list[Any], backend: str
    ) -> None:
        self.backend = backend  # the network's own choice
        self._network = network, programs, programs.params, state, lock, pending
        self.calls: Any = LONG_WAY

    def forget(self) -> None:
        """Something has changed that no call looks at."""
        self.calls = LONG_WAY

    def _calls_of(self, plan: Plan) -> Any:
        """Where calls that this plan serves are remembered; None where they are not."""
        if plan.backend != "cython":
            return None
        if self.calls is LONG_WAY or not self.calls.is_current():
            engine: Any = backends.engine()
            forced = engine.Forced(*config.FORCED)
            asked = config.requested_backend(self.backend), config.requested_isa()
            if asked[0] not in ("auto", "cython") or asked[1] not in (None, plan.isa):
                return None  # another thread has forced something since the plan was made
            network, *rest = self._network
            make_buffer = partial(spec.aligned_zeros, network.buffer_size, network.dtype)
            self.calls = engine.Calls(forced, network, *rest, make_buffer)
        return self.calls

    # Each is told of what the caller named, what that came to, and the programs that served it: those of the plan.

    def predict(self, plan: Plan, hidden: int | None = None) -> None:
        if calls := self._calls_of(plan):
            calls.remember_ahead(plan.batch, self._idle(plan), hidden)

    def forward(self, plan: Plan) -> None:
        if calls := self._calls_of(plan):
            calls.remember_kept(plan, self._idle(plan))

    def evaluate(self, plan: Plan, loss: Any, row: Loss) -> None:
        if calls := self._calls_of(plan):
            calls.remember_loss(loss, self._targets_of(row), plan.batch, self._idle(plan))

    def train_step(self, plan: Plan, loss: Any, row: Loss, optimizer: Any, rule: Rule) -> None:
        if _is_foreseen(rule) and (calls := self._calls_of(plan)):
            known = calls.remember_loss(loss, self._targets_of(row))
            calls.remember_step(known, optimizer, _kind_of(rule, rule.accumulate), plan.batch, self._idle(plan))

    def update(self, plan: Plan, optimizer: Any, rule: Rule) -> None:
        if _is_foreseen(rule) and (calls := self._calls_of(plan)):
            calls.remember_update(optimizer, _kind_of(rule, 1), self._idle(plan))

    def batches(self, row: Loss, plan: Plan, rule: Rule) -> Callable[..., int] | None:
        """`Calls.train_batches` for a loss and a rule, without these arguments; None where it cannot be foreseen."""
        calls = self._calls_of(plan) if _is_foreseen(rule) else None
        if calls is None:
            return None
        known = calls.remember_loss(row, self._targets_of(row)), calls.rule(rule, _kind_of(rule, rule.accumulate))
        return lambda program, *arguments: calls.train_batches(program, *known, *arguments)

    def _idle(self, plan: Plan) -> list[Any]:
        idle: list[Any] = self._network[1].idle(plan)
        return idle

    def _targets_of(self, row: Loss) -> tuple[Any, ...]:
        """What targets may be, as `KnownLoss` takes it."""
        network = self._network[0]
        low, high = row.domain.closed(network.dtype)
        return row, row.labels, row.targets(network.out_features), low, high, row.domain.ends == "{}"


def _is_foreseen(rule: Rule) -> bool:
    """Whether the numbers of steps to come are known: not of a class of the user's, which may answer as it likes."""
    return rule.is_foreseeable and type(rule).__module__ in ("fastbp.optimizers", "fastbp.own")


def _kind_of(rule: Rule, accumulate: int) -> tuple[Any, ...]:
    """What `KnownRule` wants to know of a rule."""
    return rule, accumulate, rule.is_steady, rule.has_schedule
