"""Networks that are trained one by one, by the code of `MLP.fit`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from fastbp.errors import NonFiniteError
from fastbp.many.told import Block, kept, status_of
from fastbp.optimizers import LBFGS

if TYPE_CHECKING:
    from fastbp.many.crew import Crew
    from fastbp.many.members import Asked, Member
    from fastbp.training.run import Run


def train(asked: Asked, k: int, member: Member, crew: Crew, n_threads: int) -> Block:
    """Train member k, and tell of it."""
    net, work, before = member.net, member.work, member.net.step
    plans = net._programs.plans
    runs: list[Run] = []
    early, by_lbfgs = copy.copy(work.early), isinstance(member.rule, LBFGS)
    error = None
    try:
        examples = asked.examples_of(member)
        watch = None if by_lbfgs else asked.watch(member, examples, early, n_threads)
        history = net._fit_checked(
            examples, work.loss, member.rule, asked.shuffle, asked.stop, member.seed, n_threads, watch,
            eval_every=asked.eval_every, plan=work.plan if n_threads == 1 else None, why_stop=crew.why_stop, runs=runs,
        )  # fmt: skip
    except Exception as raised:
        nonfinite = isinstance(raised, NonFiniteError)
        history, n_steps = runs[0].broken() if runs else None, net.step - before
        status = "nonfinite" if nonfinite else "failed"
        error = kept(raised, traced=not nonfinite)
    else:
        stopped, n_steps = history.stopped, history.n_steps
        if by_lbfgs and stopped not in crew.reasons:  # SciPy has found the minimum
            stopped = None
        status = status_of(stopped, crew)
    finally:
        runs.clear()  # no circle that keeps the rows
        net._programs.drop_all_but(plans)  # there may be many networks
    best = None if early is None or early.best_step is None else (early.best, early.best_step)
    block = Block.of_one(k, history, status, n_steps, best)
    if error is not None:
        block.errors[k] = error
    return block
