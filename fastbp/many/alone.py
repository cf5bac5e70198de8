"""Networks that are trained one by one, by the code of `MLP.fit`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastbp.callbacks import Clock
from fastbp.errors import NonFiniteError, StopTraining
from fastbp.many.told import Block, kept, status_of
from fastbp.optimizers import LBFGS

if TYPE_CHECKING:
    from fastbp.many.crew import Crew
    from fastbp.many.members import Asked, Member
    from fastbp.mlp import MLP
    from fastbp.training.run import Run


class _Stop(Clock):
    """Looks between chunks whether the call is to end."""

    writes = False
    looks = False

    def __init__(self, why: Callable[[], str | None]) -> None:
        self._why = why
        self.reason: str | None = None
        self.run: Run | None = None

    def on_train_begin(self, net: MLP) -> None:
        self.run = net._running()

    def due(self, step: int) -> bool:
        self.reason = self._why()
        return self.reason is not None

    def act(self, net: MLP) -> None:
        raise StopTraining(self.reason)


def train(asked: Asked, k: int, member: Member, crew: Crew, n_threads: int) -> Block:
    """Train member k, and tell of it."""
    net, work, before = member.net, member.work, member.net.step
    plans = net._programs.plans
    early, clock, by_lbfgs = copy.copy(work.early), _Stop(crew.why_stop), isinstance(member.rule, LBFGS)
    try:
        examples = asked.examples_of(member)
        watch = None if by_lbfgs else asked.watch(member, examples, early, clock, n_threads=n_threads)
        history = net._fit_checked(
            examples, work.loss, member.rule, asked.shuffle, asked.stop, member.seed, n_threads, watch,
            eval_every=asked.eval_every, why_stop=crew.why_stop,
        )  # fmt: skip
    except Exception as error:
        nonfinite = isinstance(error, NonFiniteError)
        history = None if clock.run is None else clock.run.broken()
        block = Block.of_one(k, history, "nonfinite" if nonfinite else "failed", net.step - before)
        block.errors[k] = kept(error, traced=not nonfinite)
    else:
        stopped = history.stopped
        if by_lbfgs and stopped not in crew.reasons:  # SciPy has found the minimum
            stopped = None
        block = Block.of_one(k, history, status_of(stopped, crew), history.n_steps)
    finally:
        clock.run = None  # no circle that keeps the rows
        net._programs.drop_all_but(plans)  # there may be many networks
    if early is not None and early.best_step is not None:
        block.best_value[0], block.best_step[0] = early.best, early.best_step
    return block
