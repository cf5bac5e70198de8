"""The run seen from Python: training state, chunks of steps, snapshots, and what happens when numbers overflow.

One call of `Program.train` runs many steps with the GIL released. Python comes back about every `CHUNK_SECONDS`, so
that signals are served, and at steps where something waits. Between calls everything is consistent: the program moves
`TrainingState` on with each step.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbp.backends import DONE, PARAMS_NOT_FINITE, Program, Rule, Trained, assign
from fastbp.checks import integer, number
from fastbp.errors import NonFiniteError, StopTraining
from fastbp.history import History
from fastbp.losses import LINKS
from fastbp.rows import Optimizer
from fastbp.schedules import ReduceOnPlateau, rates_at
from fastbp.spec import Spec, aligned_zeros, where_non_finite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastbp import optimizers
    from fastbp.callbacks import Watch

CHUNK_SECONDS = 0.05
SNAPSHOT_SECONDS = 0.5  # a snapshot copies all parameters: rarely enough to cost nothing
_FIRST_CHUNK_FLOPS = 5e7  # the first chunk, before anything is measured: 50 ms of a slow machine
_FIRST_CHUNK_STEPS = 500
_GROWTH = 8
_MOST_VARYING = 1 << 16  # steps of a chunk where scalars differ from step to step: they are tables
_NO_PLATEAU = {"scale": 1.0, "best": math.inf, "bad": 0, "wait": 0}


class _Untold(NamedTuple):
    """Epochs that `ReduceOnPlateau` may not have been told of."""

    schedule: ReduceOnPlateau
    losses: np.ndarray  # mean losses of epochs
    epoch: int  # the first of them


class TrainingState:
    """What training adds to a network's parameters: slots and their count, step, epoch, position, seed.

    What grows as the parameters do is an array of their layout: see `buffers`.
    """

    def __init__(self, spec: Spec, seed: int) -> None:
        self.spec = spec
        self.initial_seed = seed
        self.count = np.zeros(1, np.int64)  # steps done
        self.place = np.zeros(2, np.int64)  # epoch, and the first row of its next batch
        self.reset()

    def reset(self) -> None:
        plateau = dict(_NO_PLATEAU)  # first: a signal may come after a call, and there is none below
        self.seed = self.initial_seed
        self.count[:] = 0
        self.place[:] = 0
        self.data_shape: tuple[int, int] | None = None  # (rows, batch size) that `place` counts in
        self.link: str | None = None  # of the loss last trained with, see `fastbp.rows.Loss`
        self.family: str | None = None  # of the optimizer whose slots these are
        self.slots: dict[str, np.ndarray] = {}
        self.updates = 0  # made with these slots up to step `since`; from there on one for each `accumulate` steps
        self.since = 0
        self.accumulate = 1
        self.accumulated: np.ndarray | None = None  # sum of the gradients since the last update
        self.average: np.ndarray | None = None  # moving average of the parameters
        self._plateau: dict[str, float] = plateau
        self._untold: _Untold | None = None

    @property
    def step(self) -> int:
        return int(self.count[0])

    @property
    def epoch(self) -> int:
        return int(self.place[0])

    @property
    def plateau(self) -> dict[str, float]:
        """What `fastbp.schedules.ReduceOnPlateau` remembers of the epochs that have ended."""
        self._settle()
        return self._plateau

    def _settle(self) -> None:
        untold, seen = self._untold, self._plateau
        if untold is None:
            return
        epoch = self.epoch
        rest = _Untold(untold.schedule, untold.losses[epoch - untold.epoch :], epoch)
        try:
            for loss in untold.losses[: epoch - untold.epoch].tolist():
                seen = untold.schedule.after_epoch(seen, loss, self.step)
        except Exception:  # of the caller's own rate: what raises once may raise for ever
            self._untold = rest
            raise
        self._plateau, self._untold = seen, rest

    def tell(self, schedule: ReduceOnPlateau, losses: np.ndarray) -> None:
        """The program is about to write the mean losses of epochs that end into `losses`.

        They are told of when they are asked for, so that a signal right after the epoch's last step loses none.
        """
        self._settle()
        self._untold = _Untold(schedule, losses, self.epoch)

    def enter(self, n_rows: int, batch_size: int) -> None:
        """Go on in the epoch begun, or begin a new one where rows or batch size have changed."""
        if self.data_shape != (n_rows, batch_size):
            if self.place[1]:
                self.place[:] = self.place[0] + 1, 0
            self.data_shape = (n_rows, batch_size)

    @contextmanager
    def unless_no_step(self) -> Iterator[None]:
        """A call that makes no step leaves nothing: another optimizer's slots, link, seed and place are as before."""
        self._settle()
        self._untold = None  # of a run that is over
        before, place, step = self.__dict__.copy(), self.place.copy(), self.step
        try:
            yield
        finally:
            if self.count[0] == step:
                self.place[:] = place
                self.__dict__.update(before)

    def enter_family(self, family: str) -> None:
        """An optimizer is about to train; slots and updates of another family are dropped."""
        if self.family != family:
            self.family, self.slots, self.updates, self.since = family, {}, 0, self.step

    def slots_of(self, row: Optimizer) -> list[np.ndarray]:
        """The row's slots, padded as the parameters; another family's are dropped, missing ones start at zero."""
        self.enter_family(row.family)
        missing = [name for name in row.state if name not in self.slots]
        if missing:
            zeros = {name: aligned_zeros(self.spec.buffer_size, self.spec.dtype) for name in missing}
            self.slots = self.slots | zeros
        return [self.slots[name] for name in row.state]

    def rule(self, optimizer: optimizers.Rule, steps: int, params: np.ndarray, *, accumulate: int = 1) -> Rule:
        """What the next `steps` steps are made with; `accumulate` of them go into an update."""
        if callable(optimizer.lr) or not optimizer.is_foreseeable:
            optimizer.rate(self.step)  # may raise, before anything has changed
        slots = self.slots_of(optimizer.row)
        if accumulate != self.accumulate:  # gradients that wait for an update wait in vain
            self.updates += (self.step - self.since) // self.accumulate
            self.since, self.accumulate, self.accumulated = self.step, accumulate, None
        if accumulate > 1 and self.accumulated is None:
            self.accumulated = aligned_zeros(self.spec.buffer_size, self.spec.dtype)
        if optimizer.average is not None and self.average is None:
            self.average = params.copy()
        updates, phase = divmod(self.step - self.since, accumulate)
        scales = optimizer.scales(len(self.spec.layers))
        reduced = self.reduction_of(optimizer)
        return Rule(
            optimizer.row,
            slots,
            [
                optimizer.scalars(
                    self.step, steps, updates=self.updates + updates, phase=phase,
                    lr_scale=lr_scale * reduced, decay_scale=decay_scale,
                )
                for lr_scale, decay_scale in scales
            ],
            [optimizer.l1 * decay_scale for _, decay_scale in scales],
            optimizer.skips_zero_gradient,
            *(math.inf if x is None else x for x in (optimizer.clip_around, optimizer.clip_norm, optimizer.max_norm)),
            None if optimizer.average is None else self.average,
            optimizer.average or 0.0,
            accumulate,
            phase,
            self.accumulated if accumulate > 1 else None,
        )  # fmt: skip

    def reduction_of(self, optimizer: optimizers.Rule) -> float:
        """The factor that `ReduceOnPlateau` has brought an optimizer's rate down by."""
        return self.plateau["scale"] if isinstance(optimizer.lr, ReduceOnPlateau) else 1.0

    @property
    def buffers(self) -> dict[str, np.ndarray]:
        """The arrays that are laid out as the parameters are, by name."""
        named = {f"slots.{name}": slot for name, slot in self.slots.items()}
        more = {"accumulated": self.accumulated, "average": self.average}
        return named | {name: buffer for name, buffer in more.items() if buffer is not None}

    def to_dict(self) -> dict[str, object]:
        """The state without padding, for pickle and copies."""
        return {
            "seeds": (self.initial_seed, self.seed),
            "count": self.count.tolist(),
            "place": self.place.tolist(),
            "data_shape": self.data_shape,
            "link": self.link,
            "family": self.family,
            "counted": (self.updates, self.since, self.accumulate),
            "plateau": dict(self.plateau),
            "slots": {name: self.spec.flatten(slot) for name, slot in self.slots.items()},
            "sums": {
                name: self.spec.flatten(buffer)
                for name, buffer in (("accumulated", self.accumulated), ("average", self.average))
                if buffer is not None
            },
        }

    @classmethod
    def from_dict(cls, spec: Spec, saved: dict) -> TrainingState:
        state = cls(spec, saved["seeds"][0])
        state.seed = saved["seeds"][1]
        state.count[:] = saved["count"]
        state.place[:] = saved["place"]
        state.data_shape = saved["data_shape"]
        state.link = saved.get("link")  # older pickles have none
        state.family = saved["family"]
        state.updates, state.since, state.accumulate = saved["counted"]
        state._plateau = dict(saved["plateau"])
        state.slots = {name: spec.padded(vector) for name, vector in saved["slots"].items()}
        sums = {name: spec.padded(vector) for name, vector in saved["sums"].items()}
        state.accumulated, state.average = sums.get("accumulated"), sums.get("average")
        state.check()
        return state

    def check(self) -> None:
        """Refuse what no run leaves behind: the engine trusts these numbers, and they may come from a file.

        Raises
        ------
        TypeError, ValueError
        """
        for seed in (self.initial_seed, self.seed):
            integer("seed", seed, 0, 2**64 - 1)
        integer("step", self.step, 0, 2**62)
        integer("epoch", self.epoch, 0, 2**62)
        integer("updates", self.updates, 0, 2**62)
        integer("since", self.since, 0, self.step)
        integer("accumulate", self.accumulate, 1, 2**62)
        n_rows, batch_size = (1, 1) if self.data_shape is None else self.data_shape
        integer("rows", n_rows, 1)
        integer("batch_size", batch_size, 1, n_rows)
        row = integer("the first row of the next batch", int(self.place[1]), 0, n_rows - 1)
        if row % batch_size:
            raise ValueError(f"batches of {batch_size} rows do not begin at row {row}")
        if not isinstance(self.family, (str, type(None))):
            raise TypeError(f"the optimizer's family must be a name or None, got {self.family!r}")
        if self.link not in (None, *LINKS):
            raise ValueError(f"there is no link {self.link!r}")
        if self.plateau.keys() != _NO_PLATEAU.keys() or type(self.plateau["best"]) is not float:
            raise ValueError(f"the state of a plateau is not {self.plateau!r}")
        number("scale", self.plateau["scale"], 0)
        integer("bad", self.plateau["bad"], 0, 2**62)
        integer("wait", self.plateau["wait"], 0, 2**62)


def culprit(X: Any, dtype: np.dtype, numbers: np.ndarray | None = None) -> str:
    """The end of a NonFiniteError's message: what X holds, as `where_non_finite` says it, or else a hint."""
    return f"; {where_non_finite(X, dtype, numbers) or 'a smaller learning rate may help'}"


class Snapshot:
    """Parameters and training state at one step, to go back to."""

    def __init__(self, state: TrainingState, params: np.ndarray, partial: np.ndarray) -> None:
        self.arrays = [params, *state.buffers.values(), state.count, state.place, partial]
        self.copies = [array.copy() for array in self.arrays]
        self.state, self.step, self.plateau = state, state.step, state.plateau
        self.time = time.perf_counter()

    def restore(self) -> None:
        assign(self.arrays, self.copies, self.state, _plateau=self.plateau, _untold=None)


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
    numbers: np.ndarray | None = field(default=None, kw_only=True)  # of the caller's rows, where X holds some of them

    def go(self, steps: int) -> History:
        """Train for `steps` steps, or until something stops the run.

        Raises
        ------
        NonFiniteError
            With the parameters of the last finite step in place.
        """
        began, state = time.perf_counter(), self.state
        self._rule(1)  # so that there are buffers, which snapshots hold
        state.enter(len(self.X), self.batch_size)
        self._partial = np.zeros(2)
        self._loss: list[np.ndarray] = []  # of `History`, in pieces
        self._step: list[np.ndarray] = []
        self._lr: list[np.ndarray] = []
        watch, epochs_are_entries = self.watch, self.watch is None or not self.watch.eval_every
        begin, end, chunk = state.step, state.step + steps, self._first_chunk()
        snapshot, stopped = None, None
        try:
            if watch is not None:
                watch.begin(self, steps)
            while state.step < end:
                if self.stop_on_non_finite and self._is_old(snapshot):
                    snapshot = self._checked_snapshot(snapshot)
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
                    self._fail(snapshot)
                speed = (state.step - before) / max(time.perf_counter() - clock, 1e-9)
                most = _MOST_VARYING if self._varies else 1 << 30
                chunk = max(1, min(int(speed * CHUNK_SECONDS), wanted * _GROWTH, most))
                losses = losses[: done.epochs]
                if snapshot is not None and state.reduction_of(self.optimizer) != self._reduction:
                    snapshot = self._checked_snapshot(snapshot)  # a replay has one rate
                if epochs_are_entries and done.epochs:
                    last = state.step - int(state.place[1]) // self.batch_size
                    self.record(losses, last - self.steps_per_epoch * np.arange(done.epochs - 1, -1, -1))
                if watch is not None and watch.arrived(losses):
                    if snapshot is not None and watch.looks and not self.program.finite():
                        self._fail(snapshot)
                    if watch.may_write:
                        snapshot = None  # of a run that may go another way now
                    watch.tell()
        except StopTraining as stop:
            stopped = stop.reason if state.step < end else None
        if snapshot is not None and not self.program.finite():
            self._fail(snapshot)
        unfinished = epochs_are_entries and bool(self._partial[1])
        if unfinished:
            self.record(self.mean_loss, state.step)
        n_steps = state.step - begin
        if watch is not None:
            watch.finish(unfinished)
        columns = {"lr": np.concatenate([np.empty(0), *self._lr])}
        if watch is not None:
            columns |= {name: np.array(column, np.float64) for name, column in watch.columns.items()}
        loss = np.concatenate([np.empty(0), *self._loss])
        step = np.concatenate([np.empty(0, np.int64), *self._step])
        return History(loss, step, time.perf_counter() - began, n_steps, columns, stopped)

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
        self._loss.append(np.atleast_1d(loss))
        self._step.append(np.atleast_1d(step))
        self._lr.append(rates_at(self.optimizer.lr, self._step[-1] - 1.0) * self._reduction)

    def snapshot(self) -> Snapshot:
        """What the network and its training are at this step."""
        return Snapshot(self.state, self.params, self._partial)

    # -------------------------------------------------------------- within

    def _train(self, steps: int, losses: np.ndarray, *, stop_on_params: bool) -> Trained:
        """Make `steps` steps. What takes its rows from elsewhere does it in pieces."""
        return self._train_on(self.X, self.y, self.weight, self.state.place, self._partial, steps, losses,
                              shuffle=self.shuffle, batch_size=self.batch_size,
                              stop_on_params=stop_on_params)  # fmt: skip

    def _train_on(
        self, X: np.ndarray, y: np.ndarray, weight: np.ndarray | None, place: np.ndarray, partial: np.ndarray,
        steps: int, losses: np.ndarray, *, shuffle: bool, batch_size: int, stop_on_params: bool,
    ) -> Trained:  # fmt: skip
        state = self.state
        return self.program.train(
            X, y, weight, batch_size=batch_size, steps=steps, seed=state.seed, shuffle=shuffle,
            count=state.count, place=place, partial=partial, losses=losses, rule=self._rule(steps),
            stop_on_loss=self.stop_on_non_finite, stop_on_params=stop_on_params,
        )  # fmt: skip

    def _rule(self, steps: int) -> Rule:
        rule = self.state.rule(self.optimizer, steps, self.params, accumulate=self.optimizer.accumulate)
        self._varies = any(scalar.strides[0] for group in rule.scalars for scalar in group)
        return rule

    def _watch_plateau(self, losses: np.ndarray) -> None:
        """`ReduceOnPlateau` is to be told of the mean losses that the program is about to write."""
        if isinstance(self.optimizer.lr, ReduceOnPlateau):
            self.state.tell(self.optimizer.lr, losses)

    def _is_old(self, snapshot: Snapshot | None) -> bool:
        return snapshot is None or snapshot.time + SNAPSHOT_SECONDS < time.perf_counter()

    def _first_chunk(self) -> int:
        flops = 6 * self.batch_size * self.state.spec.n_params
        return max(1, min(_FIRST_CHUNK_STEPS, int(_FIRST_CHUNK_FLOPS / flops)))

    def _checked_snapshot(self, previous: Snapshot | None) -> Snapshot:
        if previous is not None and not self.program.finite():
            self._fail(previous)
        return self.snapshot()

    def _fail(self, snapshot: Snapshot) -> None:
        """Go back to the last step whose parameters are finite, and say what happened there."""
        state = self.state
        if not self.program.finite():
            failed, overflow = state.step, True
            snapshot.restore()
            if not self.program.finite():
                message = f"a parameter is not finite at net.step == {state.step}, and no step of this run made it so"
                raise NonFiniteError(message, state.step, state.epoch)
            # Where the data were changed meanwhile the replay may end otherwise, after a finite step too.
            if self._replay(failed - snapshot.step, stop_on_params=True) == PARAMS_NOT_FINITE:
                bad = state.step
                snapshot.restore()
                self._replay(bad - 1 - snapshot.step, stop_on_params=False)
        else:
            overflow = False
        what = "a parameter" if overflow else "the loss"
        raise NonFiniteError(
            f"{what} became non-finite in the step after net.step == {state.step} (epoch {state.epoch}); "
            f"the network holds the parameters of that step{self._culprit()}",
            state.step,
            state.epoch,
        )

    def _culprit(self) -> str:
        return culprit(self.X, self.state.spec.dtype, self.numbers)

    def _replay(self, steps: int, *, stop_on_params: bool) -> int:
        """Run `steps` steps again, in chunks, up to the first that fails; the status of the last."""
        end = self.state.step + steps
        chunk = self._first_chunk()
        while self.state.step < end:
            losses = np.empty(chunk + 1)
            self._watch_plateau(losses)
            done = self._train(min(chunk, end - self.state.step), losses, stop_on_params=stop_on_params)
            if done.status != DONE:
                return done.status
        return DONE
