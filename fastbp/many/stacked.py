"""Networks as arrays with a row for each: how they travel to workers and back, and how they lie in a store.

The arrays are those of a file of `fastbp.save_many`, made for all networks of a kind at once: a small network costs
less than a microsecond an array, where `MLP.__getstate__` takes ten for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastbp import files
from fastbp.mlp import MLP
from fastbp.spec import Spec, aligned_zeros
from fastbp.training.state import TrainingState


class Kind(NamedTuple):
    """What networks have in common that are alike but for their numbers."""

    spec: Spec
    backend: str
    trains: tuple[tuple[bool, bool], ...]
    has_shape: bool
    link: str | None
    family: str | None
    slots: tuple[str, ...]
    sums: tuple[str, ...]

    @property
    def vectors(self) -> tuple[str, ...]:
        """The names of the arrays that are laid out as the parameters are."""
        return ("params", *(f"slots.{name}" for name in self.slots), *(f"sums.{name}" for name in self.sums))


_SUMS = "accumulated", "average"


_PLATEAU = {"scale": np.float64, "best": np.float64, "bad": np.uint64, "wait": np.uint64}
_NUMBERS = "seeds", "count", "place", "data_shape", "counted", *(f"plateau.{name}" for name in _PLATEAU)


def _kind_of(net: MLP) -> tuple[Any, ...]:
    """The fields of a `Kind`."""
    state = net._state
    has_sums = state.accumulated is not None or state.average is not None
    sums = tuple(name for name in _SUMS if getattr(state, name) is not None) if has_sums else ()
    return (net._spec, net._backend, net._trains, state.data_shape is not None, state.link, state.family,
            (*state.slots,), sums)  # fmt: skip


def _numbers(states: list[TrainingState], has_shape: bool) -> dict[str, np.ndarray]:
    """What the states hold beside arrays, as `TrainingState.to_dict` names it."""
    n = len(states)
    found = {
        "seeds": np.array([(state.initial_seed, state.seed) for state in states], np.uint64),
        "count": np.concatenate([state.count for state in states]).reshape(n, 1).astype(np.uint64),
        "place": np.concatenate([state.place for state in states]).reshape(n, 2).astype(np.uint64),
        "counted": np.array([(state.updates, state.since, state.accumulate) for state in states], np.uint64),
    }
    if has_shape:
        found["data_shape"] = np.array([state.data_shape for state in states], np.uint64)
    seen = [state.plateau for state in states]
    if all(one is seen[0] for one in seen):  # as a rule nothing has been seen
        return found | {f"plateau.{name}": np.full(n, seen[0][name], dtype) for name, dtype in _PLATEAU.items()}
    return found | {f"plateau.{name}": np.array([one[name] for one in seen], dtype)
                    for name, dtype in _PLATEAU.items()}  # fmt: skip


@dataclass(slots=True)
class Stack:
    """Networks, parameters and training state, by kind."""

    kinds: list[Kind]
    of_kind: np.ndarray  # (n,), int64: the kind of each network
    arrays: list[dict[str, np.ndarray]]  # of each kind, by the names that a file has; a row for each network

    @classmethod
    def of(cls, nets: Sequence[MLP]) -> Stack:
        number: dict[tuple[Any, ...], int] = {}
        members: list[list[MLP]] = []
        of_kind = np.empty(len(nets), np.int64)
        for k, net in enumerate(nets):
            at = number.setdefault(_kind_of(net), len(number))
            if at == len(members):
                members.append([])
            members[at].append(net)
            of_kind[k] = at
        kinds = [Kind(*kind) for kind in number]
        return cls(kinds, of_kind, [_arrays(kind, alike) for kind, alike in zip(kinds, members)])

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for arrays in self.arrays for array in arrays.values())

    def _by_kind(self, nets: Sequence[Any]) -> Iterable[tuple[Kind, list[Any], dict[str, np.ndarray]]]:
        for k, (kind, arrays) in enumerate(zip(self.kinds, self.arrays)):
            yield kind, [nets[j] for j in np.flatnonzero(self.of_kind == k).tolist()], arrays

    def networks(self) -> list[MLP]:
        """New networks, which have all this."""
        made: list[Any] = []
        for k in self.of_kind.tolist():
            kind, net = self.kinds[k], MLP.__new__(MLP)
            net._spec, net._backend, net._trains = kind.spec, kind.backend, kind.trains
            net._bind(TrainingState(kind.spec, 0))
            made.append(net)
        self.lay_into(made)
        return made

    def lay_into(self, nets: Sequence[MLP]) -> None:
        """Give networks of these specs, one for each, these parameters and this training state.

        Their slots are views of one array, as those of one network are.
        """
        for kind, alike, arrays in self._by_kind(nets):
            spec, n = kind.spec, len(alike)
            params = np.zeros((n, spec.buffer_size), spec.dtype)
            _pad(spec, arrays["params"], params)
            _, *others = kind.vectors
            room = aligned_zeros(len(others) * n * spec.buffer_size, spec.dtype).reshape(-1, n, spec.buffer_size)
            for name, buffers in zip(others, room):
                _pad(spec, arrays[name], buffers)
            slots, sums = room[: len(kind.slots)], dict(zip(kind.sums, room[len(kind.slots) :]))
            slots_of = zip(*slots) if len(slots) else [()] * n
            # columns, not rows: lists of numbers are nothing that the garbage collector would look through
            seeds, count, place, counted = (arrays[name].T.tolist() for name in ("seeds", "count", "place", "counted"))
            shapes = zip(*arrays["data_shape"].T.tolist()) if kind.has_shape else [None] * n
            seen = [arrays[f"plateau.{name}"].tolist() for name in _PLATEAU]
            for j, (net, own, of_net, shape, initial_seed, seed, steps, epoch, row, updates, since, accumulate, *plateau
                    ) in enumerate(zip(alike, params, slots_of, shapes, *seeds, *count, *place, *counted, *seen)):
                net._params[...] = own
                net._again.forget()
                state = net._state
                state.initial_seed, state.seed = initial_seed, seed
                state.count[0], state.place[0], state.place[1] = steps, epoch, row
                state.data_shape, state.link, state.family = shape, kind.link, kind.family
                state.updates, state.since, state.accumulate = updates, since, accumulate
                state.recall(dict(zip(_PLATEAU, plateau)))
                state.slots = dict(zip(kind.slots, of_net))
                state.accumulated, state.average = [sums[name][j] if name in sums else None for name in _SUMS]

    def save(self, path: str, nets: Sequence[MLP], keys: list[Any]) -> None:
        """Write a file of `fastbp.save_many`; `nets` are networks that have all this."""
        kinds = [(alike[0].__getstate__(), arrays) for _, alike, arrays in self._by_kind(nets)]
        files.save_columns(path, kinds, self.of_kind, keys)


def _arrays(kind: Kind, nets: list[MLP]) -> dict[str, np.ndarray]:
    states = [net._state for net in nets]
    found = _numbers(states, kind.has_shape)
    found["params"] = _dense(kind.spec, [net._params for net in nets])
    for name in kind.slots:
        found[f"slots.{name}"] = _dense(kind.spec, [state.slots[name] for state in states])
    for name in kind.sums:
        found[f"sums.{name}"] = _dense(kind.spec, [getattr(state, name) for state in states])
    return found


def _dense(spec: Spec, buffers: list[np.ndarray]) -> np.ndarray:
    """Padded buffers as dense vectors, (n, n_params)."""
    if spec._places is None:
        return np.stack([spec.flatten(buffer) for buffer in buffers])
    return np.stack(buffers)[:, spec._places]


def _pad(spec: Spec, dense: np.ndarray, padded: np.ndarray) -> None:
    """The inverse, into (n, buffer_size)."""
    if spec._places is not None:
        padded[:, spec._places] = dense
        return
    for vector, buffer in zip(dense, padded):
        spec.unflatten_into(buffer, vector)
