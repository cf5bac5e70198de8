"""Chunks of networks: cut, packed for a worker, trained there, and laid into the caller's networks.

A task is `answer` with a `Packed` chunk. The driver has checked and decided everything; a worker gets the same `Member`
objects, but for rows that its networks do not need, and trains them as `fit_many` does. What travels is two pickles of
protocol 5, what was asked for and the numbers of networks, with large arrays beside them. The first one is made once
for chunks that ask for the same. Large arrays that all chunks need do not travel with them: each is handed to a
task as a `Kept` file, as an object of the engine, or, for a worker that cannot read that, as it is.
"""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbp import backends
from fastbp.arrays import is_sparse, is_stored, real_array
from fastbp.backends import config, threads
from fastbp.data.samples import Sparse, Stored
from fastbp.many.executors import threads_here
from fastbp.many.given import Networks
from fastbp.many.members import Asked, Member, Work
from fastbp.many.stacked import Stack
from fastbp.many.told import Block, kept

if TYPE_CHECKING:
    from fastbp.history import ManyHistory
    from fastbp.rows import Loss
    from fastbp.spec import Spec

SHARED_BYTES = 1 << 20  # of arrays that are sent apart
_INSIDE_BYTES = 1 << 16  # of an array that lies in its pickle: by itself it would take longer
_SAMPLED = 16  # places of a file, 4 kB each, that tell it from another


# ------------------------------------------------------------------ who works


class Build(NamedTuple):
    """What decides about bits: two processes that are equal in it make the same ones."""

    version: str
    engine: str  # digest of the compiled module, "none" without
    isa: str

    def __str__(self) -> str:
        return f"fastbp {self.version}, compiled module {self.engine[:12]}, instruction set {self.isa}"


@cache
def _digest_of_engine() -> str:
    engine = backends.engine()
    if engine is None or engine.__file__ is None:
        return "none"
    with open(engine.__file__, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build() -> Build:
    """This process's, with the instruction set that is forced at present."""
    engine = backends.engine()
    isa = "none" if engine is None else engine.choose_isa(config.requested_isa())
    return Build(config.version(), _digest_of_engine(), isa)


def _refusal(wanted: Build) -> str | None:
    """What this process is, where it cannot make the same bits."""
    engine = backends.engine()
    isas = [] if engine is None else engine.isas_found()
    mine = Build(config.version(), _digest_of_engine(), ", ".join(isas) or "none")
    same = wanted[:2] == mine[:2] and (wanted.isa in isas or wanted.isa == mine.isa)
    return None if same else str(mine)


# ------------------------------------------------------------------ arrays that all chunks need


class Unreadable(OSError):
    """A worker cannot read an array of the driver's."""


@dataclass(frozen=True)
class Kept:
    """An array in a file: its path, and what tells it from another file of that name."""

    path: str
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    order: str
    sample: bytes

    @classmethod
    def of(cls, path: str, offset: int, array: np.ndarray) -> Kept:
        order = "C" if array.flags.c_contiguous else "F"
        return cls(path, offset, array.dtype, array.shape, order, _sample(path, offset, array.nbytes))

    def open(self) -> np.ndarray:
        try:
            n_bytes = self.dtype.itemsize * int(np.prod(self.shape))
            if _sample(self.path, self.offset, n_bytes) != self.sample:
                raise Unreadable(f"{self.path} holds something else here")
            found = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)
        except (OSError, ValueError) as error:
            raise Unreadable(str(error)) from None
        return np.asarray(found)


def _sample(path: str, offset: int, n_bytes: int) -> bytes:
    """The digest of an array's size and of some places of it in a file."""
    digest = hashlib.sha256(str(n_bytes).encode())
    with open(path, "rb") as file:
        for k in range(_SAMPLED):
            file.seek(offset + max(0, n_bytes - 4096) * k // (_SAMPLED - 1))
            digest.update(file.read(4096))
    return digest.digest()


@dataclass(frozen=True)
class Called:
    """An X that a function of the caller's gives: in each process it is called once for all tasks of a call."""

    function: bytes  # its pickle
    call: bytes  # of `fit_many`
    shape: tuple[int, ...]

    def open(self) -> Any:
        if _called[0] != (self.function, self.call):
            _called[:] = (self.function, self.call), rows_of(pickle.loads(self.function)())
        found = _called[1]
        if found.shape != self.shape:
            raise ValueError(f"X: the function gave an array of shape {found.shape} in this worker, and of shape "
                             f"{self.shape} where fit_many was called")  # fmt: skip
        return found


_called: list[Any] = [None, None]  # the last one, and what it gave


def rows_of(X: Any) -> Any:
    """An array, or rows that are made when they are asked for, as a `Source` has them."""
    return Sparse("X", X) if is_sparse(X) else Stored("X", X) if is_stored(X) else real_array("X", X)


class Shared:
    """The arrays that all chunks need, by their ids."""

    def __init__(self, share: Callable[[np.ndarray], Any]) -> None:
        self._share, self._number = share, dict[int, int]()
        self._alive: list[Any] = []  # whose ids these are
        self.arrays: list[Any] = []  # as they are
        self._handles: list[Any] = []

    def add(self, value: Any, handle: Any = None) -> None:
        """An array, or the arrays that lazy rows are made of, where they are large; or anything by its handle."""
        if handle is None and isinstance(value, Sparse):
            for part in (value.indptr, value.indices, value.data):
                self.add(part)
        elif id(value) not in self._number and (
            handle is not None or isinstance(value, np.ndarray) and value.nbytes > SHARED_BYTES
        ):
            self._number[id(value)] = len(self.arrays)
            self.arrays.append(value if handle is None else handle)
            self._alive.append(value)
            self._handles.append(handle)

    def handles(self) -> list[Any]:
        """What is submitted; made when the first task is."""
        self._handles = [self._share(value) if handle is None else handle
                         for value, handle in zip(self.arrays, self._handles)]  # fmt: skip
        return self._handles

    def number(self, value: Any) -> int | None:
        return self._number.get(id(value))


# ------------------------------------------------------------------ what travels


class Pickled(NamedTuple):
    """Something as it is sent."""

    data: bytes
    buffers: list[np.ndarray]  # large arrays, out of band

    @classmethod
    def of(cls, value: Any, shared: Shared | None = None) -> Pickled:
        """`shared`: the arrays that are sent apart."""
        buffers = list[np.ndarray]()

        def lies_inside(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes >= _INSIDE_BYTES:
                buffers.append(np.frombuffer(raw, np.uint8))
            return raw.nbytes < _INSIDE_BYTES

        file = io.BytesIO()
        kind = pickle.Pickler if shared is None else partial(_Pickler, shared)
        kind(file, 5, buffer_callback=lies_inside).dump(value)
        return cls(file.getvalue(), buffers)

    def load(self, shared: Sequence[Any] = ()) -> Any:
        return _Unpickler(shared, io.BytesIO(self.data), buffers=self.buffers).load()


# What is sent apart goes by its number. By methods: in CPython 3.13.0 these names are read-only on an object.


class _Pickler(pickle.Pickler):
    def __init__(self, shared: Shared, *file: Any, **options: Any) -> None:
        super().__init__(*file, **options)
        self._shared = shared

    def persistent_id(self, value: Any) -> int | None:
        return self._shared.number(value)


class _Unpickler(pickle.Unpickler):
    def __init__(self, shared: Sequence[Any], *file: Any, **options: Any) -> None:
        super().__init__(*file, **options)
        self._shared = shared

    def persistent_load(self, number: int) -> Any:
        return self._shared[number]


class Packed(NamedTuple):
    """A chunk as it is sent."""

    build: Build
    asked: Pickled
    networks: Pickled


class Answer(NamedTuple):
    """What comes back; or why not, as a value: `differs` is what the worker is, `unread` what it cannot read."""

    stack: Any = None  # a `Stack`, where all went well
    told: Any = None  # dict: fields of a `Block`, but for the numbers
    seconds: float = 0.0
    cut: bool = False  # by the time limit
    error: Exception | None = None
    differs: str | None = None
    unread: str | None = None


class Packer:
    """Packs members of one call."""

    def __init__(self, asked: Asked, members: list[Member], lanes: Any, n_threads: int | None, shared: Shared) -> None:
        self.asked, self.members, self.shared = asked, members, shared
        self._settings = asked.settings()
        self._more = {"lanes": lanes, "n_threads": n_threads, "backend": config.requested_backend("auto")}
        self.build = build()
        self._parted = asked.parted(members)  # rows travel with their networks
        self._last: tuple[Any, Pickled] | None = None  # what the last chunk asked for, and how it was sent
        for source in {id(source): source for work in self._works() for source in (work.source, work.validation)
                       if source is not None and source.is_for_all and not (self._parted and source is work.source)
                       }.values():  # fmt: skip
            for samples in source.known():
                for part in samples:
                    shared.add(part)

    def _works(self) -> Iterable[Work]:
        return {id(member.work): member.work for member in self.members}.values()

    def pack(self, numbers: np.ndarray, deadline: float | None) -> Packed:
        """These members; `deadline` by the clock that all machines have."""
        members = [self.members[k] for k in numbers.tolist()]
        works = {id(member.work): member.work for member in members}
        rules = {id(member.rule): member.rule for member in members}
        rows = {id(member.rows): member.rows for member in members if member.rows is not None}
        of_work, of_rule, of_rows = ({key: k for k, key in enumerate(one)} for one in (works, rules, rows))
        of_rows[id(None)] = -1
        which = [[of_work[id(one.work)] for one in members], [of_rows[id(one.rows)] for one in members],
                 [of_rule[id(one.rule)] for one in members]]  # fmt: skip
        joined = np.concatenate([*rows.values()]) if rows else np.empty(0, np.int64)
        stack = Stack.of([member.net for member in members])
        what = *works, None, *rules, None, *stack.kinds
        if self._parted or self._last is None or self._last[0] != what:
            sent_works = [copy.copy(work) for work in works.values()]
            for work in sent_works:
                work.kind = work.shared = None
            if self._parted:
                joined = _part(sent_works, joined, {(member.work.loss, member.net._spec) for member in members})
            self._last = what, Pickled.of(
                {**self._more, "settings": self._settings, "works": sent_works, "rules": [*rules.values()],
                 "kinds": stack.kinds}, self.shared,
            )  # fmt: skip
        networks = {
            "which": np.array(which, np.int64),  # (3, n): work, rows (-1: all) and rule of each
            "ends": np.cumsum([len(one) for one in rows.values()]), "rows": joined,
            "seeds": np.array([member.seed for member in members], np.uint64), "deadline": deadline,
            "of_kind": stack.of_kind, "arrays": stack.arrays,
        }  # fmt: skip
        return Packed(self.build, self._last[1], Pickled.of(networks))

    def _objects(self) -> Iterable[tuple[str, Any]]:
        """What is not numbers, by the argument that it came in."""
        works = list(self._works())
        for work in works:
            yield from (("loss", work.loss), ("optimizer", work.rule), ("early_stopping", work.early))
        yield from (("optimizer", rule) for rule in {id(one.rule): one.rule for one in self.members}.values())
        yield from (("metrics", self.asked.metrics), ("class_weight", self.asked.class_weight))
        yield from (("nets: an activation", spec) for spec in {member.net._spec for member in self.members})

    def keep(self) -> None:
        """Hand it on as it is, to this process."""
        for _, value in self._objects():
            if value is not None:
                self.shared.add(value, value)

    def check(self) -> None:
        """Make sure that it can be sent.

        Raises
        ------
        TypeError
            It cannot; the message names the argument.
        """
        for work in self._works():
            for source in (work.source, work.validation):
                for samples in () if source is None else source.known():
                    if isinstance(samples.X, Stored) and self.shared.number(samples.X) is None:
                        _check_dataset(samples.X.dataset)
        for name, value in {id(value): (name, value) for name, value in self._objects()}.values():
            try:
                pickle.dumps(value, protocol=5)
            except Exception as error:
                raise TypeError(
                    f"{name} cannot be sent to workers ({error}); functions and classes of yours must stand at the top "
                    "of a module, not within a function"
                ) from None


def _check_dataset(dataset: Any) -> None:
    try:
        pickle.dumps(dataset, protocol=5)
    except Exception as error:
        raise TypeError(f"X is a dataset that cannot be sent to workers ({error}); give a function that opens it, "
                        "fit_many(nets, X=open_my_rows, ...), which each worker calls") from None  # fmt: skip


def _part(works: list[Work], rows: np.ndarray, kinds: Iterable[tuple[Loss, Spec]]) -> np.ndarray:
    """Give copies of works, which have one source, their own rows of it alone: the new numbers of `rows`.

    Rows to measure on, which are each work's own, come behind those that are trained on.
    """
    held = [work.held for work in works if work.held is not None]
    numbers = np.concatenate([rows, *held])
    source = works[0].source.part(numbers, kinds)
    at = len(rows)
    for work in works:
        work.source = source
        if work.held is not None:
            work.held = np.arange(at, at + len(work.held))
            at += len(work.held)
    return np.arange(len(rows))


# ------------------------------------------------------------------ a worker


def answer(train: Callable[..., Any], packed: Packed, *shared: Any) -> Answer:
    """Train a chunk in this process. `train` is handed members and trains them; see `fastbp.many.fit`.

    Errors are values, but for those that end a process.
    """
    began = time.perf_counter()
    differs = _refusal(packed.build)
    if differs is not None:
        return Answer(differs=differs)
    try:
        arrays = [one.open() if isinstance(one, (Kept, Called)) else one for one in shared]
    except Unreadable as error:
        return Answer(unread=str(error))
    except Exception as error:
        return Answer(error=_portable(error))
    try:
        sent = packed.asked.load(arrays) | packed.networks.load()
        with config.isa(None if packed.build.isa == "none" else packed.build.isa), _backend(sent["backend"]):
            return _trained(train, sent)._replace(seconds=time.perf_counter() - began)
    except Exception as error:
        return Answer(error=_portable(error))


def _backend(name: str) -> Any:
    return nullcontext() if name == "auto" else config.backend(name)  # type: ignore[arg-type]


def _trained(train: Callable[..., Any], sent: dict[str, Any]) -> Answer:
    nets = Stack(sent["kinds"], sent["of_kind"], sent["arrays"]).networks()
    works, rows, ends = sent["works"], sent["rows"], sent["ends"].tolist()
    parts = [rows[a:b] for a, b in zip((0, *ends), ends)]
    rules = sent["rules"]
    members = [
        Member(net, None if part < 0 else parts[part], seed, rules[rule], works[work])
        for net, seed, (work, part, rule) in zip(nets, sent["seeds"].tolist(), zip(*sent["which"].tolist()))
    ]
    asked = Asked.of_settings(Networks(nets), sent["settings"])
    deadline = sent["deadline"]
    rest = None if deadline is None else max(0.0, deadline - time.time())
    n_threads = sent["n_threads"] or threads_here() or threads.requested()
    history: ManyHistory = train(asked, members, n_threads, sent["lanes"], rest)
    for error in history.errors.values():
        if isinstance(error, MemoryError):  # of the worker, not of the network
            raise error
    told = {name: getattr(history, name) for name in _TOLD}
    told["errors"] = {k: _portable(error) for k, error in history.errors.items()}
    cut = deadline is not None and time.time() >= deadline
    return Answer(Stack.of(nets), told, cut=cut)


_TOLD = "kernel", "loss", "step", "columns", "status", "n_steps", "best_value", "best_step"


def _portable(error: Exception) -> Exception:
    """The same error, or one that says the same, which another process can read."""
    error = kept(error, traced=error.__traceback__ is not None)
    try:
        pickle.loads(pickle.dumps(error, protocol=5))
        return error
    except Exception:
        told = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            told.add_note(note)
        return told


# ------------------------------------------------------------------ back


def lay(answered: Answer, numbers: np.ndarray, members: list[Member]) -> Block:
    """Give the caller's networks what a worker has made of them."""
    told = dict(answered.told)
    lay_into(answered.stack, members, numbers, told["n_steps"])
    told["errors"] = {int(numbers[j]): error for j, error in told["errors"].items()}
    return Block(numbers=numbers, **told)


def lay_into(stack: Stack, members: list[Member], numbers: np.ndarray, n_steps: np.ndarray) -> None:
    """Give networks of the caller these parameters and this state; they made so many steps."""
    chosen = [members[k] for k in numbers.tolist()]
    stack.lay_into([member.net for member in chosen])
    for j in np.flatnonzero(n_steps).tolist():
        chosen[j].net._state.loss = chosen[j].work.loss  # which is neither sent nor stored


def failed(numbers: np.ndarray, error: Exception) -> Block:
    """Of networks that no worker could train."""
    n = len(numbers)
    return Block(
        numbers, "one by one", np.empty((n, 0)), np.empty((n, 0), np.int64), {}, np.full(n, "failed"),
        np.zeros(n, np.int64), np.full(n, np.nan), np.full(n, -1), {k: error for k in numbers.tolist()},
    )  # fmt: skip
