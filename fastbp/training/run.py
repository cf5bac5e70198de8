"""The run seen from Python: chunks of steps, replays, the history, and what happens when numbers overflow.

One call of `Program.train` runs many steps with the GIL released. Python comes back about every `CHUNK_SECONDS`, so
that signals are served, and at steps where something waits. Between calls everything is consistent: the program moves
`TrainingState` on with each step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fastbp.backends.again import most_steps
from fastbp.backends.protocol import DONE, PARAMS_NOT_FINITE, Program, Trained, Update
from fastbp.checks import largest, where_non_finite
from fastbp.errors import NonFiniteError, StopTraining
from fastbp.history import History
from fastbp.schedules import ReduceOnPlateau, rates_at
from fastbp.training.state import Snapshot, TrainingState

if TYPE_CHECKING:
    from fastbp import optimizers
    from fastbp.spec import Spec
    from fastbp.training.watch import Watch

CHUNK_SECONDS = 0.05
SNAPSHOT_SECONDS = 0.5  # a snapshot copies all parameters: rarely enough to cost nothing
_GROWTH = 8
_MOST_VARYING = 1 << 16  # steps of a chunk where scalars differ from step to step: they are tables


_GROWN = 1000.0  # parameters of this size are those of a run that diverges


def next_chunk(speed: float, wanted: int) -> int:
    """Steps of the next call, at so many steps a second, after one for which so many were wanted."""
    return max(1, min(int(speed * CHUNK_SECONDS), wanted * _GROWTH))


def culprit(X: Any, params: np.ndarray, spec: Spec, row_numbers: np.ndarray | None = None) -> str:
    """The end of a NonFiniteError's message: what X holds, as `where_non_finite` says it, or else how large all is."""
    found = where_non_finite(X, spec.dtype, row_numbers)
    if found is None:
        size = max(largest(view) for view in spec.views(params))
        found = f"X is finite, at most {largest(X):.3g} in size, and parameters are at most {size:.3g}"
        if size >= _GROWN:
            found += ": a smaller learning rate may keep them small"
    return f"; {found}"


def diverged(state: TrainingState, overflow: bool, culprit: str) -> NonFiniteError:
    """The error of a run that stands at its last finite step; `overflow`: of a parameter, not of the loss."""
    what = "a parameter" if overflow else "the loss"
    return NonFiniteError(
        f"{what} became non-finite in the step after net.step == {state.step} (epoch {state.epoch}); "
        f"the network holds the parameters of that step{culprit}",
        state.step,
        state.epoch,
    )


def was_not_finite(state: TrainingState) -> NonFiniteError:
    """The error of a run that began with parameters that are not finite."""
    message = f"a parameter is not finite at net.step == {state.step}, and no step of this run made it so"
    return NonFiniteError(message, state.step, state.epoch)


def _joined(pieces: list[np.ndarray], dtype: type = np.float64) -> np.ndarray:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else np.empty(0, dtype)


@dataclass
class Run:
    """One call of `fit`, its arguments checked."""

    program: Program
    params: np.ndarray
    state: TrainingState
    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    batch_size: int
    optimizer: optimizers.Rule
    shuffle: bool
    stop_on_non_finite: bool
    watch: Watch | None  # None: nothing waits
    given: Any = field(default=None, kw_only=True)  # what X is a copy of, where it is one
    row_numbers: np.ndarray | None = field(default=None, kw_only=True)  # in the caller's X, where X holds some of it
    why_stop: Callable[[], str | None] | None = field(default=None, kw_only=True)  # asked after each chunk

    def go(self, steps: int) -> History:
        """Train for `steps` steps, or until something stops the run.

        Raises
        ------
        NonFiniteError
            With the parameters of the last finite step in place.
        """
        self._snapshot: Snapshot | None = None
        try:
            return self._go(steps)
        finally:
            self._forget_snapshot()

    def _go(self, steps: int) -> History:
        self._began, state = time.perf_counter(), self.state
        self._begin, end, chunk = state.step, state.step + steps, self._first_chunk()
        self._loss: list[np.ndarray] = []  # of `History`, in pieces
        self._step: list[np.ndarray] = []
        self._lr: list[np.ndarray] = []
        self._partial = np.zeros(2)
        self._varies = False  # of the updates made so far
        self._goes_on = False  # nobody has touched parameters or rows since the last call
        state.prepare(self.optimizer, self.params, self.optimizer.accumulate)  # buffers, which snapshots hold
        state.enter(len(self.X), self.batch_size)
        watch, epochs_are_entries = self.watch, self.watch is None or not self.watch.eval_every
        stopped = None
        try:
            if watch is not None:
                watch.begin(self, steps)
            while state.step < end:
                if self.stop_on_non_finite and self._is_old():
                    self._renew_snapshot()
                wanted = min(chunk, end - state.step)
                if watch is not None:
                    wanted = min(wanted, watch.steps_ahead())
                if isinstance(self.optimizer.lr, ReduceOnPlateau):
                    wanted = min(wanted, self.steps_to_epoch_end)
                clock, before = time.perf_counter(), state.step
                losses = np.empty(wanted // self.steps_per_epoch + 1)
                self._reduction = state.reduction_of(self.optimizer)  # of all steps of this chunk
                self._watch_plateau(losses)
                done = self._train(wanted, losses, stop_on_params=False)
                if done.status != DONE:
                    self._fail()
                speed = (state.step - before) / max(time.perf_counter() - clock, 1e-9)
                most = _MOST_VARYING if self._varies else 1 << 30
                chunk = min(next_chunk(speed, wanted), most)
                self.program.piece = self.batch_size, min(chunk, _MOST_VARYING)
                losses = losses[: done.epochs]
                if self._snapshot is not None and state.reduction_of(self.optimizer) != self._reduction:
                    self._renew_snapshot()  # a replay has one rate
                if epochs_are_entries and done.epochs:
                    last = state.step - int(state.place[1]) // self.batch_size
                    self.record(losses, last - self.steps_per_epoch * np.arange(done.epochs - 1, -1, -1))
                self._goes_on = watch is None or not watch.calls_others
                if watch is not None and watch.arrived(losses):
                    if self._snapshot is not None and watch.looks and not self.program.finite():
                        self._fail()
                    optimizer = self.optimizer
                    if watch.may_write:
                        self._forget_snapshot()  # of a run that may go another way now
                    watch.tell()
                    if self.optimizer is not optimizer:
                        self._forget_snapshot()  # a replay has one rate
                if self.why_stop is not None and (reason := self.why_stop()) is not None:
                    raise StopTraining(reason)
        except StopTraining as stop:
            stopped = stop.reason if state.step < end else None
        if self._snapshot is not None and not self.program.finite():
            self._fail()
        unfinished = epochs_are_entries and bool(self._partial[1])
        if unfinished:
            self.record(self.mean_loss, state.step)
        n_steps = state.step - self._begin
        if watch is not None:
            watch.finish(unfinished)
        return self._told(n_steps, stopped)

    def broken(self) -> History:
        """What is known of a run that failed: the entries up to the step that the network holds."""
        told = self._told(self.state.step - self._begin, None)
        n = min(int(np.count_nonzero(told.step <= self.state.step)), *map(len, told.columns.values()))
        columns = {name: column[:n] for name, column in told.columns.items()}
        return replace(told, loss=told.loss[:n], step=told.step[:n], columns=columns)

    def _told(self, n_steps: int, stopped: str | None) -> History:
        columns = {"lr": _joined(self._lr)}
        if self.watch is not None:
            columns |= {name: np.array(column, np.float64) for name, column in self.watch.columns.items()}
        loss, step = _joined(self._loss), _joined(self._step, np.int64)
        return History(loss, step, time.perf_counter() - self._began, n_steps, columns, stopped)

    # -------------------------------------------------------------- what `Watch` asks

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.X) // self.batch_size)

    @property
    def steps_to_epoch_end(self) -> int:
        return self.steps_per_epoch - int(self.state.place[1]) // self.batch_size

    @property
    def mean_loss(self) -> float:
        """Of this call's batches of the epoch begun, weighted by rows; NaN where it has none."""
        total, rows = self._partial
        return total / rows if rows else float("nan")

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.rate(self.state.step) * self.state.reduction_of(self.optimizer)

    @lr.setter
    def lr(self, value: float) -> None:
        self.optimizer = replace(self.optimizer, lr=value)

    def record(self, loss: Any, step: Any) -> None:
        """Add entries to the history, of steps of the last chunk."""
        self._loss.append(np.array(loss, np.float64, ndmin=1))
        self._step.append(np.array(step, np.int64, ndmin=1))
        self._lr.append(rates_at(self.optimizer.lr, self._step[-1] - 1.0) * self._reduction)

    def snapshot(self) -> Snapshot:
        """What the network and its training are at this step."""
        return Snapshot(self.state, self.params, self._partial)

    # -------------------------------------------------------------- within

    def _train(self, steps: int, losses: np.ndarray, *, stop_on_params: bool) -> Trained:
        """Make `steps` steps. What takes its rows from elsewhere does it in pieces."""
        return self._train_on(self.X, self.y, self.weight, self.state.place, self._partial, steps, losses,
                              shuffle=self.shuffle, batch_size=self.batch_size,
                              stop_on_params=stop_on_params, goes_on=self._goes_on)  # fmt: skip

    def _train_on(
        self, X: np.ndarray, y: np.ndarray, weight: np.ndarray | None, place: np.ndarray, partial: np.ndarray,
        steps: int, losses: np.ndarray, *, shuffle: bool, batch_size: int, stop_on_params: bool, goes_on: bool = False,
    ) -> Trained:  # fmt: skip
        state = self.state
        return self.program.train(
            X, y, weight, batch_size=batch_size, steps=steps, seed=state.seed, shuffle=shuffle,
            count=state.count, place=place, partial=partial, losses=losses, update=self._update(steps),
            stop_on_loss=self.stop_on_non_finite, stop_on_params=stop_on_params, goes_on=goes_on,
        )  # fmt: skip

    def _update(self, steps: int) -> Update:
        update = self.state.update(self.optimizer, steps, self.params, accumulate=self.optimizer.accumulate)
        self._varies = any(scalar.strides[0] for group in update.scalars for scalar in group)
        return update

    def _watch_plateau(self, losses: np.ndarray) -> None:
        """`ReduceOnPlateau` is to be told of the mean losses that the program is about to write."""
        if isinstance(self.optimizer.lr, ReduceOnPlateau):
            self.state.tell(self.optimizer.lr, losses)

    def _is_old(self) -> bool:
        return self._snapshot is None or self._snapshot.time + SNAPSHOT_SECONDS < time.perf_counter()

    def _first_chunk(self) -> int:
        rows, steps = self.program.piece
        return max(self._few_steps(), steps if rows == self.batch_size else 1)

    def _few_steps(self) -> int:
        return most_steps(self.batch_size, self.state.spec.n_params)

    def _renew_snapshot(self) -> None:
        """Of parameters that are finite, where the one before was; the first may hold anything."""
        if self._snapshot is not None and not self.program.finite():
            self._fail()
        self._forget_snapshot()
        self._snapshot = self.snapshot()

    def _forget_snapshot(self) -> None:
        if self._snapshot is not None:
            self._snapshot.drop()
            self._snapshot = None

    def _fail(self) -> NoReturn:
        """Go back to the last step whose parameters are finite, and say what happened there."""
        state, snapshot, self._goes_on = self.state, self._snapshot, False
        if not self.program.finite():
            failed, overflow = state.step, True
            snapshot.restore()
            if not self.program.finite():
                raise was_not_finite(state)
            # Where the data were changed meanwhile the replay may end otherwise, after a finite step too.
            if self._replay(failed - snapshot.step, stop_on_params=True) == PARAMS_NOT_FINITE:
                bad = state.step
                snapshot.restore()
                self._replay(bad - 1 - snapshot.step, stop_on_params=False)
        else:
            overflow = False
        raise diverged(state, overflow, self._culprit())

    def _culprit(self) -> str:
        return culprit(self.X if self.given is None else self.given, self.params, self.state.spec, self.row_numbers)

    def _replay(self, steps: int, *, stop_on_params: bool) -> int:
        """Run `steps` steps again, in chunks, up to the first that fails; the status of the last."""
        end = self.state.step + steps
        chunk = self._few_steps()
        while self.state.step < end:
            losses = np.empty(chunk + 1)
            self._watch_plateau(losses)
            done = self._train(min(chunk, end - self.state.step), losses, stop_on_params=stop_on_params)
            if done.status != DONE:
                return done.status
        return DONE
