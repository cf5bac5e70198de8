"""Networks of one kind that are trained side by side, a network per lane: cohorts of some hundred.

A cohort goes on in calls of about 50 ms of `fastbp.backends.protocol.Many`, which end for each network where something
waits for it, as `fastbp.training.run.Run` does for one: validation, metrics, early stopping. What is done here for each
network costs as much as thousands of its steps, so it is done once, or for all networks of the cohort by arrays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp.backends.plan import many, serves_lanes
from fastbp.backends.protocol import DONE, PARAMS_NOT_FINITE, Member, Update, total_weight
from fastbp.callbacks import EarlyStopping
from fastbp.data.examples import Examples
from fastbp.errors import NonFiniteError
from fastbp.many.told import Block, kept, status_of
from fastbp.metrics import measure
from fastbp.optimizers import LBFGS, scalars_of_each
from fastbp.schedules import ReduceOnPlateau
from fastbp.spec import aligned_rows
from fastbp.training.run import culprit, diverged, next_chunk, was_not_finite
from fastbp.training.state import EachUnlessNoStep
from fastbp.training.watch import Part, refuse_non_finite

if TYPE_CHECKING:
    from fastbp.backends.protocol import Many
    from fastbp.many.crew import Crew
    from fastbp.many.members import Asked
    from fastbp.many.members import Member as Wanted
    from fastbp.mlp import MLP

_MOST = 256  # networks of a cohort
_GROUP = 16  # networks that go into the lanes together, at most
_FIRST_SECONDS = 0.005  # of the first call, by a guess of 1e9 multiplications a second and network
_EPOCHS = 4096  # at most that `Many` has room for: then the cohort goes on with a new one
_PIECE_BYTES = 1 << 14  # of the memory that slots of several networks lie in, which lasts as long as any of them
_OUTPUTS_BYTES = 1 << 26  # of networks that are measured in one go
_ENDED = "nonfinite", "failed"  # by an error
_ENTRIES = 1 << 19  # of the histories of a cohort that there is room for from the beginning
_SCALARS = 1 << 18  # of a call, where they differ from step to step: they are tables


def sorted_out(asked: Asked, members: list[Wanted], lanes: Any) -> tuple[dict[Any, list[int]], list[int]]:
    """Numbers of the members that go into lanes, by kind, and of those that do not."""
    kinds: dict[Any, list[int]] = {}
    alone: list[int] = []
    for k, member in enumerate(members):
        work = member.work
        if work.kind is None:
            work.kind = _kind_of(asked, member, lanes)
        (kinds.setdefault(work.kind, []) if work.kind else alone).append(k)
    return kinds, alone


def _kind_of(asked: Asked, member: Wanted, lanes: Any) -> Any:
    """What a network has in common with those that it may be in a cohort with; False where it is trained alone."""
    work, net = member.work, member.net
    rule = work.rule
    if not lanes or isinstance(rule, LBFGS) or isinstance(rule.lr, ReduceOnPlateau) or not rule.is_foreseeable:
        return False
    if type(work.early) not in (EarlyStopping, type(None)) or not work.is_plain or not work.n_steps:
        return False
    plan = work.plan
    if id(plan) not in asked.served:
        asked.served[id(plan)] = serves_lanes(plan, work.batch, lanes)
    if not asked.served[id(plan)]:
        return False
    return net._spec, net.backend, work.loss, rule.row, rule.skips_zero_gradient, work.batch_size


def cut(numbers: list[int], members: list[Wanted], n_threads: int) -> list[list[int]]:
    """The members of one kind as cohorts: those that are alike side by side, and some work for each thread."""

    def likeness(k: int) -> Any:
        member = members[k]
        return -member.work.n_steps, -member.work.n_rows, id(member.work.source), member.seed

    numbers = sorted(numbers, key=likeness)
    size = min(_MOST, -(-len(numbers) // (n_threads * _GROUP)) * _GROUP)
    return [numbers[at : at + size] for at in range(0, len(numbers), size)]


class Cohort:
    """Members of one kind, from their first steps to their last ones. Arrays have an entry for each."""

    def __init__(self, asked: Asked, members: list[Wanted], numbers: list[int], crew: Crew) -> None:
        self.asked, self.crew, self.numbers = asked, crew, numbers
        self.members = [members[k] for k in numbers]
        n = len(numbers)
        self.status: list[str | None] = [None] * n  # of those that have ended
        self.errors: dict[int, Exception] = {}
        self.active = np.ones(n, bool)
        self.begin, self.step, self.done = (np.zeros(n, np.int64) for _ in range(3))  # done: of the epoch begun
        self.per_epoch = np.array([-(-member.work.n_rows // member.work.batch) for member in self.members])
        self.updates = np.zeros(n, np.int64)  # made with the slots, less `step`
        self.partial = np.zeros((n, 2))
        self.slots: list[list[np.ndarray]] = [[] for _ in range(n)]
        self.rows: list[tuple[Any, ...]] = [()] * n  # X, y, weight, numbers of rows
        self.parts: list[list[Part]] = [[] for _ in range(n)]
        self.examples: list[Examples | None] = [None] * n
        self.entries = Entries(n)
        self.states = [member.net._state for member in self.members]
        self.before: EachUnlessNoStep | None = None
        self._zeroed: list[np.ndarray] = []  # for slots
        self._known: dict[int, Any] = {}  # of members that share their rows, by what was asked for them
        self.batch = max(member.work.batch for member in self.members)
        self.early = Stops(asked, self.members, self.slots, self.step, self.entries)

    # -------------------------------------------------------------- one network

    def _sound(self) -> list[int]:
        """Those that have not failed."""
        return [j for j, status in enumerate(self.status) if status not in _ENDED]

    def _each(self, which: Iterable[int], do: Callable[[int], None]) -> None:
        """What is done for each of some members; one for which it fails ends."""
        for j in which:
            try:
                do(j)
            except Exception as error:
                self._fail(j, error)

    def _fail(self, j: int, error: Exception) -> None:
        nonfinite = isinstance(error, NonFiniteError)
        self.status[j] = "nonfinite" if nonfinite else "failed"
        self.errors[self.numbers[j]] = kept(error, traced=not nonfinite)
        self.active[j] = False

    def _enter(self) -> None:
        """The networks begin, as in `MLP._fit_checked` and `Run.go`."""
        self.before = EachUnlessNoStep(self.states)
        self._each(range(len(self.members)), self._begin)
        self.begin[:] = self.step[:] = self.before.step
        batches = [member.work.batch for member in self.members]
        self.done[:] = np.array([state.place[1] for state in self.states]) // batches
        self.updates[:] = [state.updates - state.since for state in self.states]
        self.end = self.begin + [member.work.n_steps for member in self.members]
        self.waits = self.early.there | [bool(parts) or bool(self.asked.eval_every) for parts in self.parts]

    def _begin(self, j: int) -> None:
        """A network does."""
        member, state = self.members[j], self.states[j]
        work = member.work
        state.settle()
        state.seed = member.seed
        state.trains_with(work.loss)
        self.slots[j] = state.prepare(member.rule, member.net._params, made=self._zeros)
        state.enter(work.n_rows, work.batch)
        found = self._known.get(id(work))
        if found is None:
            found = self.asked.lane_rows(member)
            if work.is_simple or work.shared is not None:
                self._known[id(work)] = found
        rows, self.examples[j], self.parts[j] = found
        self.rows[j] = (*rows[:-1], member.rows) if work.is_simple else rows

    def _zeros(self, n: int, size: int, dtype: np.dtype) -> list[np.ndarray]:
        """`aligned_rows`, of small ones for several networks at once."""
        left = self._zeroed
        if len(left) < n:
            self._zeroed = left = aligned_rows(max(n, _PIECE_BYTES // (size * dtype.itemsize)), size, dtype)
        taken = left[-n:]
        del left[-n:]
        return taken

    def _leave(self) -> None:
        """The networks end, as there."""
        if self.before is not None:
            self.before.leave()
            for j in self._sound():
                self.states[j].seed = self.members[j].seed  # also of no steps

    # -------------------------------------------------------------- the run

    def train(self) -> Block:
        """All steps of all members, or as many as there is time for."""
        try:
            self._enter()
            stopped = self._go()
            for j in np.flatnonzero(self.active).tolist():
                self.status[j] = status_of(None if self.step[j] == self.end[j] else stopped, self.crew)
            if not self.asked.eval_every:
                self._finish_epochs()
            self._each(self._sound(), self.early.restore)
        except Exception as error:  # such as a lack of memory
            for j in self._sound():
                self.step[j] = self.members[j].net.step
                self.status[j] = "failed"
                self.errors[self.numbers[j]] = error
            kept(error, traced=True)
        finally:
            self._leave()
        return Block(
            np.array(self.numbers), "lanes", *self.entries.told(), np.array(self.status), self.step - self.begin,
            self.early.best, self.early.best_step, self.errors,
        )  # fmt: skip

    def _go(self) -> str | None:
        """Steps until all are done, or why not."""
        work = max(1.0, 3.0 * self.batch * self.members[0].net._spec.n_params * len(self.members))
        chunk = max(1, int(_FIRST_SECONDS * 1e9 / work))
        every = self.asked.eval_every
        if not self.early.there.any():
            epochs = -(-(self.end - self.step + self.done) // self.per_epoch)
            to_come = self.end // every - self.step // every if every else epochs
            self.entries.room(min(int(to_come.max()), _ENTRIES // len(self.members)))
        losses = np.zeros((0, 0))
        while True:
            going = np.flatnonzero(self.active & (self.step < self.end))
            if not len(going):
                return None
            room = int(min(_EPOCHS, max(((self.end - self.step + self.done) // self.per_epoch)[going]) + 1))
            if losses.shape[1] < room:
                losses = np.empty((len(self.members), room))
            used = np.zeros(len(self.members), np.int64)
            lanes = self._many(going, losses)
            lane_of = np.full(len(self.members), -1)
            lane_of[going] = np.arange(len(going))
            while True:
                stopped = self.crew.why_stop()
                if stopped is not None:
                    return stopped
                going = np.flatnonzero(self.active & (self.step < self.end))
                if not len(going) or (used[going] == room).any():
                    break
                # to the next step at which something waits, or to the end of the room for losses
                step, done, per_epoch = self.step[going], self.done[going], self.per_epoch[going]
                wanted = np.minimum(chunk, self.end[going] - step)
                wanted = np.minimum(wanted, (room - used[going]) * per_epoch - done)
                ahead = every - step % every if every else per_epoch - done
                wanted = np.where(self.waits[going], np.minimum(wanted, ahead), wanted)
                updates = self._updates(going, wanted)
                if len(updates) < len(going):
                    continue  # some have failed
                clock = time.perf_counter()
                status, epochs = lanes.train(lane_of[going], wanted, updates)
                speed = int(wanted.max()) / max(time.perf_counter() - clock, 1e-9)
                chunk = min(next_chunk(speed, max(chunk, int(wanted.max()))), self._most)
                self._arrive(lanes, lane_of, going, wanted, status, epochs, losses, used)

    def _many(self, which: np.ndarray, losses: np.ndarray) -> Many:
        each = list(zip(self.members, self.states, self.partial, losses, self.rows))
        members = []
        for member, state, partly, means, rows in map(each.__getitem__, which.tolist()):
            members.append(Member(member.net._params, state.count, state.place, partly, means, *rows, member.seed))
        first = self.members[0]
        plan = first.net._plan(self.batch, loss=first.work.loss, rule=first.work.rule, n_threads=1)
        return many(
            plan, members, batch_size=self.batch, shuffle=self.asked.shuffle, stop_on_non_finite=self.asked.stop
        )

    def _updates(self, which: np.ndarray, wanted: np.ndarray) -> list[Update]:
        """What each makes its next steps with; equal rules at equal steps share their numbers."""
        alike: dict[Any, list[int]] = {}
        at = wanted.tolist(), self.step[which].tolist(), self.updates[which].tolist()
        for j, *what in zip(which.tolist(), *at):
            member = self.members[j]
            alike.setdefault((member.work.alike, *what), []).append(j)
        made, tables = {}, 0
        for (_, steps, step, offset), members in alike.items():
            rules: list[Any] = [self.members[j].rule for j in members]
            try:
                each = scalars_of_each(rules, step, steps, updates=step + offset, dtype=self.members[0].net.dtype)
            except Exception as error:  # of a schedule
                for j in members:
                    self._fail(j, error)
                continue
            if any(scalar.strides[0] for scalar in each[0]):
                tables += len({*map(id, each)})
            row, l1, skips = rules[0].row, [0.0], rules[0].skips_zero_gradient
            for j, scalars in zip(members, each):
                made[j] = Update(row, self.slots[j], [scalars], l1, skips)
        self._most = max(64, _SCALARS // tables) if tables else 1 << 30
        return [made[j] for j in which.tolist() if j in made]

    def _arrive(
        self, lanes: Many, lane_of: np.ndarray, which: np.ndarray, wanted: np.ndarray, status: np.ndarray,
        epochs: np.ndarray, losses: np.ndarray, used: np.ndarray,
    ) -> None:  # fmt: skip
        """Steps were made: entries of the history, what waits, and those that have ended."""
        every = self.asked.eval_every
        if not every and epochs.any():
            first = self.step[which] + self.per_epoch[which] - self.done[which]  # where the first of them ended
            self.entries.add_epochs(which, epochs, losses, used[which], first, self.per_epoch[which])
        used[which] += epochs
        fine = status == DONE
        moved = which[fine]
        self.step[moved] += wanted[fine]
        self.done[moved] = (self.done[moved] + wanted[fine]) % self.per_epoch[moved]
        for j, how in zip(which[~fine].tolist(), status[~fine].tolist()):
            self.step[j] = self.members[j].net.step
            self._fail(j, self._error(j, how))
        at = self.step[moved] % every == 0 if every else self.waits[moved] & (self.done[moved] == 0)
        if at.any():
            arrived = moved[at]
            if every:
                self.entries.add(arrived, np.full(len(arrived), np.nan), self.step[arrived])
            self._measure(lanes, lane_of, arrived)
            arrived = arrived[self.active[arrived]]
            for j in arrived[self.early.see(arrived)].tolist():
                self.active[j] = False
                self.status[j] = "done" if self.step[j] == self.end[j] else "stopped"

    def _error(self, j: int, status: int) -> NonFiniteError:
        member = self.members[j]
        net = member.net
        if not all(np.isfinite(view).all() for view in net._spec.views(net._params)):
            return was_not_finite(net._state)
        X, _, _, rows = self.rows[j]
        examples = self.examples[j]
        if examples is None:
            told = culprit(X if rows is None else X[rows], net._params, net._spec, member.work.source.named(rows))
        else:
            given = examples.rows[0] if examples.given is None else examples.given
            told = culprit(given, net._params, net._spec, examples.inside)
        return diverged(net._state, status == PARAMS_NOT_FINITE, told)

    def _finish_epochs(self) -> None:
        """The entry of an epoch that has begun and will not end."""
        which = np.array([j for j in self._sound() if self.partial[j, 1]], np.int64)
        if not len(which):
            return
        self.entries.add(which, self.partial[which, 0] / self.partial[which, 1], self.step[which])
        waiting = which[self.waits[which]]
        if len(waiting):
            lanes = self._many(waiting, np.zeros((len(self.members), 0)))
            lane_of = np.full(len(self.members), -1)
            lane_of[waiting] = np.arange(len(waiting))
            self._measure(lanes, lane_of, waiting)
            self.early.see(np.intersect1d(waiting, self._sound()))

    # -------------------------------------------------------------- what is measured

    def _measure(self, lanes: Many, lane_of: np.ndarray, which: np.ndarray) -> None:
        """Losses and metrics of these members, into their last entries."""
        together: dict[Any, tuple[Part, list[int]]] = {}  # by the rows that they are measured on
        for j in which.tolist():
            for part in self.parts[j]:
                together.setdefault((id(part.rows), part.prefix, id(part.metrics)), (part, []))[1].append(j)
        for part, members in together.values():
            out_features = self.members[0].net._spec.out_features
            row_bytes = max(1, len(part.rows.X) * out_features * self.members[0].net.dtype.itemsize)
            size = max(1, _OUTPUTS_BYTES // row_bytes) if part.metrics else len(members)
            for at in range(0, len(members), size):
                self._measure_on(lanes, lane_of, part, np.array(members[at : at + size]))
        self.entries.drop([j for j in which.tolist() if self.status[j] in _ENDED])  # not measured to the end

    def _measure_on(self, lanes: Many, lane_of: np.ndarray, part: Part, which: np.ndarray) -> None:
        rows, loss, net = part.rows, self.members[which[0]].work.loss, self.members[which[0]].net
        if part.prefix or self.asked.eval_every:
            values = lanes.evaluate(lane_of[which], rows.X, rows.y, rows.weight, total_weight(rows.weight, len(rows.X)))
            self.entries.put(f"{part.prefix}loss", which, values)
            if part.prefix and self.asked.stop and not np.isfinite(values).all():
                self._each(which[~np.isfinite(values)].tolist(), partial(self._refuse, rows.X))
        if not part.metrics:
            return
        out = np.empty((len(which), len(rows.X), net._spec.out_features), net.dtype)
        lanes.forward(lane_of[which], rows.X, out)
        outputs = dict(zip(which.tolist(), out))

        def measured(j: int) -> None:
            for name, number in measure(part.metrics, rows.y, outputs[j], rows.weight, loss).items():
                self.entries.put(part.prefix + name, j, number)

        self._each(outputs, measured)

    def _refuse(self, X: Any, j: int) -> None:
        """Where the validation loss is not finite: an error if its rows are not."""
        net, examples = self.members[j].net, self.examples[j]
        refuse_non_finite(X, net.dtype, None if examples is None else examples.outside, net.step, net.epoch)


class Entries:
    """The entries of the histories of n networks, which grow."""

    def __init__(self, n: int) -> None:
        self.count = np.zeros(n, np.int64)
        self.step = np.full((n, 0), -1, np.int64)
        self.columns = {"loss": np.full((n, 0), np.nan)}

    def room(self, width: int) -> None:
        """Make sure that there is room for so many entries of each."""
        n, old = self.step.shape
        if width > old:
            width = max(width, 2 * old)
            self.step = np.hstack([self.step, np.full((n, width - old), -1, np.int64)])
            for name, column in self.columns.items():
                self.columns[name] = np.hstack([column, np.full((n, width - old), np.nan)])

    def add(self, which: np.ndarray, loss: np.ndarray, step: np.ndarray) -> None:
        """An entry for each of `which`."""
        at = self.count[which]
        self.room(int(at.max()) + 1)
        self.columns["loss"][which, at], self.step[which, at] = loss, step
        self.count[which] += 1

    def add_epochs(
        self, which: np.ndarray, epochs: np.ndarray, losses: np.ndarray, used: np.ndarray, first: np.ndarray,
        apart: np.ndarray,
    ) -> None:  # fmt: skip
        """Entries for so many epochs of each, whose losses stand in `losses` from `used` on."""
        n, begin, at = epochs[0], used[0], self.count[which[0]]
        if (epochs == n).all() and (used == begin).all() and (self.count[which] == at).all():  # in a tenth of the time
            self.room(at + n)
            self.columns["loss"][which, at : at + n] = losses[which, begin : begin + n]
            self.step[which, at : at + n] = first[:, None] + np.arange(n) * apart[:, None]
            self.count[which] += n
            return
        number = np.repeat(np.arange(len(which)), epochs)
        of = np.arange(len(number)) - np.repeat(np.cumsum(epochs) - epochs, epochs)  # 0, 1, ... of each
        rows, at = which[number], self.count[which][number] + of
        self.room(int(at.max()) + 1)
        self.columns["loss"][rows, at] = losses[rows, used[number] + of]
        self.step[rows, at] = first[number] + of * apart[number]
        self.count[which] += epochs

    def drop(self, which: list[int]) -> None:
        """Forget the last entries of `which`."""
        self.count[which] -= 1
        at = self.count[which]
        self.step[which, at] = -1
        for column in self.columns.values():
            column[which, at] = np.nan

    def put(self, name: str, which: Any, values: Any) -> None:
        """Values of the last entries of `which`."""
        if name not in self.columns:
            self.columns[name] = np.full(self.step.shape, np.nan)
        self.columns[name][which, self.count[which] - 1] = values

    def last(self, name: str, which: np.ndarray) -> np.ndarray:
        return self.columns[name][which, self.count[which] - 1]

    def told(self) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Losses, steps and all other columns."""
        width = int(self.count.max(initial=0))
        columns = {name: column[:, :width] for name, column in self.columns.items()}
        return columns.pop("loss"), self.step[:, :width], columns


class Stops:
    """Early stopping of a cohort: `EarlyStopping` for each, which is only read."""

    def __init__(
        self, asked: Asked, members: list[Wanted], slots: list[list[np.ndarray]], step: np.ndarray, entries: Entries
    ) -> None:
        self.members, self.slots, self.step, self.entries = members, slots, step, entries  # those of the cohort
        n = len(members)
        rules = [member.work.early for member in members]
        self.there = np.array([rule is not None for rule in rules])
        self.best, self.best_step = np.full(n, np.nan), np.full(n, -1, np.int64)
        self.waited = np.zeros(n, np.int64)
        self.sign, self.patience, self.delta = np.ones(n), np.zeros(n, np.int64), np.zeros(n)
        self.keeps = np.zeros(n, bool)
        self.monitor = np.full(n, "", object)
        self.copies: list[list[np.ndarray] | None] = [None] * n
        for j, rule in enumerate(rules):
            if rule is not None:
                self.sign[j] = asked.sign_of[rule.monitor, rule.mode]
                self.patience[j], self.delta[j] = rule.patience, rule.min_delta
                self.keeps[j], self.monitor[j] = rule.restore_best, rule.monitor

    def see(self, which: np.ndarray) -> np.ndarray:
        """Look at the last entries of `which`: which of them are to stop."""
        stop = np.zeros(len(which), bool)
        for name in set(self.monitor[which[self.there[which]]].tolist()):
            at = np.flatnonzero(self.monitor[which] == name)
            these = which[at]
            value, best = self.entries.last(name, these), self.best[these]
            first = np.isnan(best) & ~np.isnan(value)
            with np.errstate(invalid="ignore"):
                better = first | (self.sign[these] * (value - best) > self.delta[these])
            improved = these[better]
            self.best[improved], self.best_step[improved] = value[better], self.step[improved]
            self.waited[improved] = 0
            self.waited[these[~better]] += 1
            stop[at] = ~better & (self.waited[these] >= self.patience[these])
            for j in improved[self.keeps[improved]].tolist():
                self._keep(j)
        return stop

    def _arrays(self, j: int) -> list[np.ndarray]:
        net: MLP = self.members[j].net
        return [net._params, *self.slots[j], net._state.count, net._state.place]

    def _keep(self, j: int) -> None:
        arrays, copies = self._arrays(j), self.copies[j]
        if copies is None:
            self.copies[j] = [array.copy() for array in arrays]
        else:
            for copy, array in zip(copies, arrays):
                copy[...] = array

    def restore(self, j: int) -> None:
        """Take a network back to its best entry."""
        copies = self.copies[j]
        if copies is not None:
            for array, copy in zip(self._arrays(j), copies):
                array[...] = copy


def jobs(
    asked: Asked, kinds: dict[Any, list[int]], members: list[Wanted], crew: Crew, n_threads: int
) -> list[tuple[float, Callable[[], Block]]]:
    """What is to be done for the members of these kinds, with its cost."""
    made = []
    for numbers in kinds.values():
        for cohort in cut(numbers, members, n_threads):
            cost = sum(members[k].work.cost for k in cohort) / _GROUP
            made.append((cost, partial(_train, asked, members, cohort, crew)))
    return made


def _train(asked: Asked, members: list[Wanted], numbers: list[int], crew: Crew) -> Block:
    return Cohort(asked, members, numbers, crew).train()

