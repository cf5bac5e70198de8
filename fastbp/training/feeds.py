"""Runs whose rows are no array: made dense block by block, or batches that an iterator gives; loaded on first use.

Each is a `Run` that makes its steps in pieces; chunks, snapshots, replays and what waits are those of `Run`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastbp import backends
from fastbp.backends.protocol import DONE, Plan, Program, Trained
from fastbp.data.batches import END, PASS_ENDED, Prefetch
from fastbp.data.examples import Examples
from fastbp.data.samples import Lazy, Samples
from fastbp.errors import StopTraining
from fastbp.training.run import CHUNK_SECONDS, Run, culprit

_BLOCK_BYTES = 1 << 22  # of rows made dense in one go
_KEPT_BYTES = 1 << 26  # of batches kept for a replay
# ------------------------------------------------------------------ rows made dense


class GatheredRun(Run):
    """A run over rows that are made dense: blocks of whole batches, gathered in the epoch's order, then trained on.

    X or y is `fastbp.data.samples.Lazy`. The engine sees each block as data of its own that are in order already.
    """

    def _train(self, steps: int, losses: np.ndarray, *, stop_on_params: bool) -> Trained:
        goal, epochs, state = self.state.step + steps, 0, self.state
        row_bytes = self.X.shape[1] * self.X.dtype.itemsize
        block_bytes = (self.X.block_bytes if isinstance(self.X, Lazy) else None) or _BLOCK_BYTES
        block = max(1, block_bytes // (row_bytes * self.batch_size)) * self.batch_size
        while True:
            epoch, start = map(int, state.place)
            stop = min(start + block, start + (goal - state.step) * self.batch_size, len(self.X))
            rows = self._rows(epoch, start, stop)
            local = np.zeros(2, np.int64)
            try:
                done = self._train_on(
                    self.X[rows], self.y[rows], None if self.weight is None else self.weight[rows], local,
                    self._partial, -(-(stop - start) // self.batch_size), losses[epochs:], shuffle=False,
                    batch_size=self.batch_size, stop_on_params=stop_on_params,
                )  # fmt: skip
            finally:  # no call in here: signals are served after calls, and would part place and parameters
                state.place[0] = epoch + local[0]
                state.place[1] = (1 - local[0]) * (start + local[1])
            epochs += done.epochs
            if done.status != DONE or state.step == goal:
                return Trained(steps - (goal - state.step), done.status, epochs, done.loss)

    def _rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Numbers of the rows of a block, and one more where the epoch goes on: so it does for the engine too."""
        n = len(self.X)
        if not self.shuffle:
            return np.arange(start, min(stop + 1, n))
        if self._order_of != (self.state.seed, epoch):
            self._order = backends.epoch_order(self.state.seed, epoch, n)
            self._order_of = self.state.seed, epoch
        return self._order[start : min(stop + 1, n)]

    _order_of: tuple[int, int] | None = None


# ------------------------------------------------------------------ batches


@dataclass
class _RunOfBatches(Run):
    """A run over `fastbp.data.batches.Batches`: an epoch is a pass, and `place` counts batches in it."""

    lend: Callable[[Plan], Program] = field(kw_only=True)  # a program for a plan, until the run ends

    def __post_init__(self) -> None:
        self.state.data_shape = None  # a run begins a pass

    def _train_batch(self, batch: Samples, *, stop_on_params: bool) -> Trained:
        rows, plan = len(batch.X), self.program.plan
        if rows > plan.batch:
            self.program = self.lend(plan._replace(batch=1 << (rows - 1).bit_length()))
        state, before = self.state, self.state.step
        try:
            done = self._train_on(
                *batch, np.zeros(2, np.int64), np.zeros(2), 1, np.empty(1), shuffle=False, batch_size=rows,
                stop_on_params=stop_on_params,
            )  # fmt: skip
        finally:  # no call in here: signals are served after calls
            state.place[1] += state.count[0] - before
        if done.steps:
            self._partial += done.loss * rows, rows
        return done

    def _end_of_pass(self, begin: int, losses: np.ndarray, loss: float) -> Trained:
        losses[0] = self.mean_loss
        self._partial[:] = 0
        self.state.place[:] = self.state.place[0] + 1, 0
        return Trained(self.state.step - begin, DONE, 1, loss)


@dataclass
class ListedRun(_RunOfBatches):
    """A run over a list of batches. Those that are plain arrays take a short way, many in one call."""

    shorten: Callable[[Plan, Any], Callable[..., int] | None] = field(kw_only=True)  # for a plan and a rule

    def __post_init__(self) -> None:
        super().__post_init__()
        self._end: int | None = None  # the epoch that is not trained any more; known when the first has begun
        self._short_of: tuple[Any, Any, Any] = None, None, None  # program, rule, and the short way for these

    def _train(self, steps: int, losses: np.ndarray, *, stop_on_params: bool) -> Trained:
        state, begin, until = self.state, self.state.step, time.perf_counter() + CHUNK_SECONDS
        batches, loss = self.X.source, float("nan")
        if self._end is None and self.X.passes is not None:
            self._end = state.epoch + self.X.passes
        if state.epoch == self._end:
            raise StopTraining(None)
        if not batches:
            raise ValueError("X gives no batches")
        while True:
            place = int(state.place[1])
            if not stop_on_params:
                self._train_plain(batches, place + begin + steps - state.step)
            if state.step < begin + steps and state.place[1] < len(batches):
                place = int(state.place[1])
                done = self._train_batch(self.X.checked(batches[place], place), stop_on_params=stop_on_params)
                if done.status != DONE:
                    return Trained(state.step - begin, done.status, 0, done.loss)
            if state.place[1] >= len(batches):
                return self._end_of_pass(begin, losses, loss)
            if state.step == begin + steps or time.perf_counter() > until:
                return Trained(state.step - begin, DONE, 0, loss)

    def _train_plain(self, batches: Any, stop: int) -> None:
        """Train on the batches up to `stop` as far as they take the short way."""
        program, rule, short = self._short_of
        if program is not self.program or rule is not self.optimizer:
            short = self.shorten(self.program.plan, self.optimizer) if self.X.as_they_are else None
            self._short_of = self.program, self.optimizer, short
        if short is not None:
            short(self.program, batches, stop, self.stop_on_non_finite, self.state.place, self._partial)

    def _culprit(self) -> str:
        place = int(self.state.place[1])
        return culprit(self.X.checked(self.X.source[place], place).X, self.params, self.state.spec)


@dataclass
class BatchesRun(_RunOfBatches):
    """A run over the batches of an iterator, which a thread fetches.

    Batches are kept since the last snapshot, for a replay.
    """

    prefetch: Prefetch = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._next: Any = None  # what was fetched to see whether a pass has ended
        self._forget()

    def _train(self, steps: int, losses: np.ndarray, *, stop_on_params: bool) -> Trained:
        state, begin, until = self.state, self.state.step, time.perf_counter() + CHUNK_SECONDS
        if not self.stop_on_non_finite:
            self._forget()
        while True:
            done = self._train_batch(self._batch_at(state.step), stop_on_params=stop_on_params)
            if done.status != DONE:
                return Trained(state.step - begin, done.status, 0, done.loss)
            if self._ends_pass(state.step):
                return self._end_of_pass(begin, losses, done.loss)
            if state.step == begin + steps or self._is_full or time.perf_counter() > until:
                return Trained(state.step - begin, DONE, 0, done.loss)

    def _batch_at(self, step: int) -> Samples:
        """The batch of a step: of the next, or in a replay of one before."""
        if step == self._first + len(self._kept):
            batch, self._next = self.prefetch.get() if self._next is None else self._next, None
            if batch is END:
                self._next = END
                wanted = self.X.steps
                raise StopTraining(None if wanted is None else f"X gave fewer batches than the {wanted} of steps=")
            self._kept.append(batch)
            self._kept_bytes += sum(part.nbytes for part in batch if part is not None)
        return self._kept[step - self._first]

    def _ends_pass(self, step: int) -> bool:
        """Whether a pass ends after so many steps, which only the next item tells."""
        if step == self._first + len(self._kept) and self._next is None and step not in self._ends:
            self._next = self.prefetch.get()
            if self._next is PASS_ENDED:
                self._next = None
                self._ends.add(step)
        return step in self._ends

    @property
    def _is_full(self) -> bool:
        return self._kept_bytes > _KEPT_BYTES

    def _is_old(self) -> bool:
        return super()._is_old() or self._is_full

    def _renew_snapshot(self) -> None:
        super()._renew_snapshot()
        self._forget()

    def _forget(self) -> None:
        self._first, self._kept, self._kept_bytes = self.state.step, [], 0  # batches of the steps from `_first` on
        self._ends: set[int] = set()  # steps after which a pass ended

    def _culprit(self) -> str:
        return culprit(self._batch_at(self.state.step).X, self.params, self.state.spec)


def run_on(
    examples: Examples, stack: ExitStack, lend: Callable[[Plan], Program],
    shorten: Callable[[Plan, Any], Callable[..., int] | None], *arguments: Any,
) -> Run:  # fmt: skip
    """The `Run`, made of these `arguments`, over rows that are no array.

    `stack` ends with the run; `lend` gives a program for a plan until then, `shorten` what trains on plain batches.
    """
    if isinstance(examples.source, Samples):
        return GatheredRun(*arguments, given=examples.given, row_numbers=examples.inside)
    if examples.source.is_listed:
        return ListedRun(*arguments, lend=lend, shorten=shorten)
    return BatchesRun(*arguments, prefetch=stack.enter_context(Prefetch(examples.source)), lend=lend)
