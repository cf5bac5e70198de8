"""What training adds to a network's parameters, and snapshots of it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbp.backends.protocol import Update, assign
from fastbp.checks import integer, number
from fastbp.losses import LINKS
from fastbp.schedules import ReduceOnPlateau
from fastbp.spec import Spec, aligned_rows, aligned_zeros, give_back, room_for

if TYPE_CHECKING:
    from fastbp import optimizers
    from fastbp.rows import Loss, Optimizer


_NO_PLATEAU = {"scale": 1.0, "best": math.inf, "bad": 0, "wait": 0}  # nobody changes it
_OF_A_RUN = (  # attributes of a state that a run may set; arrays of the state it moves on as they are
    "seed", "data_shape", "loss", "link", "family", "slots", "updates", "since", "accumulate", "accumulated", "average",
    "_plateau", "_untold",
)  # fmt: skip
_attributes_of = attrgetter(*_OF_A_RUN)  # to ask an object for its `__dict__` makes one, which stays


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
        self.seed = self.initial_seed
        self.count[:] = 0
        self.place[:] = 0
        self.data_shape: tuple[int, int] | None = None  # (rows, batch size) that `place` counts in
        self.loss: Loss | None = None  # last trained with in this process; not in `to_dict`, as it may be anybody's
        self.link: str | None = None  # of the loss last trained with, see `fastbp.rows.Loss`
        self.family: str | None = None  # of the optimizer whose slots these are
        self.slots: dict[str, np.ndarray] = {}
        self.updates = 0  # made with these slots up to step `since`; from there on one for each `accumulate` steps
        self.since = 0
        self.accumulate = 1
        self.accumulated: np.ndarray | None = None  # sum of the gradients since the last update
        self.average: np.ndarray | None = None  # moving average of the parameters
        self._plateau: dict[str, float] = _NO_PLATEAU
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

    def settle(self) -> None:
        """A run is about to begin: what an earlier one has told is over."""
        if self._untold is not None:
            self._settle()
            self._untold = None

    def recall(self, seen: dict[str, float]) -> None:
        """Let it remember this, and nothing of a run before."""
        self._plateau, self._untold = dict(seen) if seen != _NO_PLATEAU else _NO_PLATEAU, None

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

    def unless_no_step(self) -> _UnlessNoStep:
        """For `with`: a call that makes no step leaves nothing, of slots, loss, seed and place."""
        return _UnlessNoStep(self)

    def trains_with(self, loss: Loss) -> None:
        """The loss of the steps to come, which `evaluate` and `predict_proba` go by."""
        self.loss, self.link = loss, loss.link

    def enter_family(self, family: str) -> None:
        """An optimizer is about to train; slots and updates of another family are dropped."""
        if self.family != family:
            self.family, self.slots, self.updates, self.since = family, {}, 0, self.step

    def slots_of(self, row: Optimizer, made: Callable[..., list[np.ndarray]] = aligned_rows) -> list[np.ndarray]:
        """The row's slots, padded as the parameters; another family's are dropped, missing ones start at zero.

        `made` gives so many zeroed arrays, as `fastbp.spec.aligned_rows` does.
        """
        self.enter_family(row.family)
        missing = [name for name in row.state if name not in self.slots]
        if missing:
            new = dict(zip(missing, made(len(missing), self.spec.buffer_size, self.spec.dtype)))
            self.slots = self.slots | new if self.slots else new
        return [self.slots[name] for name in row.state]

    def prepare(
        self, optimizer: optimizers.Rule, params: np.ndarray, accumulate: int = 1,
        made: Callable[..., list[np.ndarray]] = aligned_rows,
    ) -> list[np.ndarray]:  # fmt: skip
        """Enter the optimizer's family: its slots. There is everything then that steps change, for snapshots."""
        if callable(optimizer.lr) or not optimizer.is_foreseeable:
            optimizer.rate(self.step)  # may raise, before anything has changed
        slots = self.slots_of(optimizer.row, made)
        if accumulate != self.accumulate:  # gradients that wait for an update wait in vain
            self.updates += (self.step - self.since) // self.accumulate
            self.since, self.accumulate, self.accumulated = self.step, accumulate, None
        if accumulate > 1 and self.accumulated is None:
            self.accumulated = aligned_zeros(self.spec.buffer_size, self.spec.dtype)
        if optimizer.average is not None and self.average is None:
            self.average = params.copy()
        return slots

    def update(self, optimizer: optimizers.Rule, steps: int, params: np.ndarray, *, accumulate: int = 1) -> Update:
        """What the next `steps` steps are made with; `accumulate` of them go into an update."""
        slots, step = self.prepare(optimizer, params, accumulate), self.step
        updates, phase = divmod(step - self.since, accumulate)
        scales = optimizer.scales(len(self.spec.layers))
        reduced = self.reduction_of(optimizer)
        return Update(
            optimizer.row,
            slots,
            [
                optimizer.scalars(
                    step, steps, updates=self.updates + updates, phase=phase,
                    lr_scale=lr_scale * reduced, decay_scale=decay_scale, dtype=self.spec.dtype,
                )
                for lr_scale, decay_scale in scales
            ],
            [optimizer.l1 * decay_scale for _, decay_scale in scales],
            optimizer.skips_zero_gradient,
            *[math.inf if x is None else x for x in (optimizer.clip_around, optimizer.clip_norm, optimizer.max_norm)],
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
        state.recall(saved["plateau"])
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


class _UnlessNoStep:  # a generator takes several times as long
    __slots__ = ("before", "place", "state", "step")

    def __init__(self, state: TrainingState) -> None:
        self.state = state

    def __enter__(self) -> None:
        state = self.state
        state.settle()
        self.before, self.place, self.step = _attributes_of(state), state.place.copy(), state.step

    def __exit__(self, *error: object) -> None:
        state = self.state
        if state.count[0] == self.step:
            state.place[:] = self.place
            _put_back(state, self.before)


def _put_back(state: TrainingState, attributes: tuple[Any, ...]) -> None:
    deque(map(setattr, repeat(state), _OF_A_RUN, attributes), maxlen=0)  # in C: no signal comes in between


class EachUnlessNoStep:
    """`TrainingState.unless_no_step` of many states, for whoever is met by no signal.

    Attributes
    ----------
    step : ndarray of int64, (states,)
        ``net.step`` of each as it was.
    """

    def __init__(self, states: list[TrainingState]) -> None:
        self._states, self._before = states, list(map(_attributes_of, states))
        self._place, self.step = np.array([state.place for state in states]), self._steps()

    def _steps(self) -> np.ndarray:
        return np.concatenate([state.count for state in self._states])

    def leave(self) -> None:
        """Each that has made no step is what it was."""
        for j in np.flatnonzero(self._steps() == self.step).tolist():
            self._states[j].place[:] = self._place[j]
            _put_back(self._states[j], self._before[j])


class Snapshot:
    """Parameters and training state at one step, to go back to."""

    def __init__(self, state: TrainingState, params: np.ndarray, partial: np.ndarray) -> None:
        self.arrays = [params, *state.slots.values(), state.count, state.place, partial]
        self.arrays += [buffer for buffer in (state.accumulated, state.average) if buffer is not None]
        self.copies = room_for(self.arrays)
        for copy, array in zip(self.copies, self.arrays):
            copy[...] = array
        self.state, self.step, self.plateau = state, state.step, state.plateau
        self.time = time.perf_counter()

    def restore(self) -> None:
        assign(self.arrays, self.copies, self.state, _plateau=self.plateau, _untold=None)

    def drop(self) -> None:
        """Nobody goes back to it any more: the next one may lie in its memory."""
        copies, self.arrays, self.copies = self.copies, [], []
        give_back(copies)
