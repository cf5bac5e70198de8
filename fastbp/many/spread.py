"""The driver: hands chunks of networks to an engine, sends again what is lost, and lays what comes back.

    members -> Queue: chunks of some seconds -> engine.submit(answer, packed chunk) -> Block, networks -> store

It runs in the thread of `fastbp.many.crew.Crew`, where no signal comes in. A chunk that fails is sent three times, then
halved, down to a network that no worker can train, which is "failed". Engines report through one queue; nothing waits
for a task that does not come back.
"""

from __future__ import annotations

import os
import pickle
import queue
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import checks
from fastbp.backends import threads
from fastbp.many import chunks, cohorts
from fastbp.many.executors import Dask, Engine, Here, engine_of, is_lost
from fastbp.many.members import Asked, Member
from fastbp.many.told import Block

if TYPE_CHECKING:
    from fastbp.many.crew import Crew
    from fastbp.many.store import Store

_TRIES = 3
_SECONDS = 4.0  # of a chunk's work, where there is enough of it
_LEAST_SECONDS = 0.2
_A_WORKER = 4  # chunks at least, of what is left
_BYTES = 1 << 23  # of a chunk, without what all of them need
_SPEED = 1e9, 4e9  # multiplications a second, one by one and in lanes, until it is measured
_ENTERS = 1e5  # what a network costs beside its steps, in multiplications
_LOOK_SECONDS = 0.1  # between two looks at the crew
_TRIAL_SECONDS = 60.0  # for a task that does nothing
_GRACE_SECONDS = 10.0  # for tasks to end after the time limit


@dataclass(eq=False)
class Chunk:
    """Networks that a worker trains in one go."""

    numbers: np.ndarray
    cost: float = 0.0
    in_lanes: bool = False
    tries: int = 0
    as_they_are: bool = False  # arrays are sent in it
    done: bool = False

    def halves(self) -> list[Chunk]:
        middle = len(self.numbers) // 2
        return [Chunk(part, self.cost / 2, self.in_lanes, as_they_are=self.as_they_are)
                for part in (self.numbers[:middle], self.numbers[middle:])]  # fmt: skip


class Queue:
    """What is left to send: networks in an order in which they are cut into chunks, and chunks that come again."""

    def __init__(self, asked: Asked, members: list[Member], left: np.ndarray, lanes: Any) -> None:
        wanted = [members[k] for k in left.tolist()]
        kinds, alone = cohorts.sorted_out(asked, wanted, lanes)
        number: dict[int, int] = {}
        works = np.array([number.setdefault(id(member.work), len(number)) for member in wanted])
        first = np.unique(works, return_index=True)[1].tolist()  # of each work
        facts = np.array([_facts(wanted[j]) for j in first])[works]
        seeds = np.array([member.seed for member in wanted], np.uint64)
        order = []
        for numbers in map(np.array, (alone, *kinds.values())):  # the longest first, side by side those that are alike
            if len(numbers):
                cost, steps, rows, _ = -facts[numbers].T
                order.append(numbers[np.lexsort((seeds[numbers], rows, steps, cost))])
        order = np.concatenate(order)
        self._numbers, self._n_alone = left[order], len(alone)  # these come first
        self._cost = np.concatenate([[0.0], np.cumsum(facts[order, 0])])
        self._bytes = np.concatenate([[0.0], np.cumsum(facts[order, 3])])
        self._at = 0
        self._again: deque[Chunk] = deque()
        self._seconds, self._done = [0.0, 0.0], [0.0, 0.0]  # of work, and multiplications, alone and in lanes

    def __bool__(self) -> bool:
        return bool(self._again) or self._at < len(self._numbers)

    def again(self, *made: Chunk) -> None:
        self._again.extendleft(reversed(made))

    def learn(self, chunk: Chunk, seconds: float) -> None:
        """A chunk took so long."""
        self._seconds[chunk.in_lanes] += seconds
        self._done[chunk.in_lanes] += chunk.cost

    def _speed(self, in_lanes: bool) -> float:
        seconds = self._seconds[in_lanes]
        return self._done[in_lanes] / seconds if seconds else _SPEED[in_lanes]

    def next(self, n_workers: int) -> Chunk:
        if self._again:
            return self._again.popleft()
        at, middle, end = self._at, self._n_alone, len(self._numbers)
        in_lanes, cost = at >= middle, self._cost
        speed = self._speed(in_lanes)
        seconds = _LEAST_SECONDS
        if self._seconds[in_lanes]:
            left = (cost[end] - cost[max(at, middle)]) / self._speed(True)
            left += 0.0 if in_lanes else (cost[middle] - cost[at]) / self._speed(False)
            seconds = min(max(_LEAST_SECONDS, left / (_A_WORKER * n_workers)), _SECONDS)
        stop = min(
            int(np.searchsorted(cost, cost[at] + seconds * speed, "right")) - 1,
            int(np.searchsorted(self._bytes, self._bytes[at] + _BYTES, "right")) - 1,
            end if in_lanes else middle,
        )
        stop = max(stop, at + 1)
        self._at = stop
        return Chunk(self._numbers[at:stop], float(cost[stop] - cost[at]), in_lanes)


def _facts(member: Member) -> tuple[float, float, float, float]:
    """Cost, steps and rows of a network, and the bytes on its way there and back.

    These are of parameters, slots, entries of the history, and rows that are its own.
    """
    work, spec = member.work, member.net._spec
    entries = 1 + work.n_steps * work.batch // work.n_rows
    row = 8 * (spec.in_features + spec.out_features + 1)
    own = 0 if member.rows is None and work.source.is_for_all else work.n_rows * row
    n_bytes = 4 * spec.n_params * spec.dtype.itemsize + 24 * entries + own + 200
    return work.cost + _ENTERS, work.n_steps, work.n_rows, n_bytes


@dataclass(eq=False)
class _Sent:
    """A chunk on its way."""

    chunk: Chunk
    future: Future[Any]
    since: float


class Spread:
    """Members of a call trained by an engine.

    Parameters
    ----------
    train : callable
        What trains members in a worker, a function at the top of a module.
    n_workers, task_timeout, store : as for `fit_many`
    """

    def __init__(
        self, engine: Engine, train: Callable[..., Any], asked: Asked, members: list[Member], lanes: Any,
        n_threads: int | None, n_workers: int | None, task_timeout: float | None, store: Store | None,
        called: dict[int, Any],
    ) -> None:  # fmt: skip
        self.engine, self._train, self._n_threads, self._n_workers = engine, train, n_threads, n_workers
        self._asked, self._members, self._lanes = asked, members, lanes
        self._timeout, self._store, self._called = task_timeout, store, called
        self._folder: str | None = None
        self._written: list[str] = []
        self._flying: dict[int, _Sent] = {}
        self._ghosts: dict[int, _Sent] = {}  # given up; they may still hold a worker
        self._came: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()
        self._n_sent = 0
        self._width: int | None = None  # tasks at once, after a pool broke
        self._broken = 0  # pools in a row, without an answer in between
        self._error: BaseException | None = None
        self._closed = False

    # -------------------------------------------------------------- the run

    def train(self, crew: Crew, blocks: list[Block]) -> BaseException | None:
        """Fill `blocks`, and the networks; gives what ended it early, if anything did."""
        self._blocks, self._crew, members = blocks, crew, self._members
        n_threads = self.engine.n_threads if self._n_threads is None else self._n_threads
        train = partial(self._train, None)
        if self.engine.in_process:  # at the time limit a chunk ends by itself, as elsewhere
            train = partial(self._train, lambda: crew.reasons[0] if crew.interrupted or self._closed else None)
        self._task = partial(chunks.answer, train)
        try:
            left = np.arange(len(members))
            if self._store is not None:
                left = self._found(self._store, left)
            if len(left):
                shared = chunks.Shared(self._share)
                for work in {id(member.work): member.work for member in members}.values():
                    for samples in work.source.known():
                        if id(work.source) in self._called:
                            shared.add(samples.X, self._called[id(work.source)])
                self._packer = chunks.Packer(self._asked, members, self._lanes, n_threads, shared)
                self._packer.keep() if isinstance(self.engine, Here) else self._packer.check()
                self._queue = Queue(self._asked, members, left, self._lanes)
                self._go()
        except Exception as error:
            self._error = error
        finally:
            self._end()
        return self._error

    def _found(self, store: Store, left: np.ndarray) -> np.ndarray:
        """What does not lie in the store already."""
        missing = np.ones(len(left), bool)
        for block in store.found(self._members):
            self._blocks.append(block)
            missing[block.numbers] = False
        return left[missing]

    def _go(self) -> None:
        while self._error is None:
            why = self._crew.why_stop()
            if why is not None:
                if why != self._crew.reasons[0]:
                    self._wait_for_the_last()
                return
            if self.engine.is_ready():
                self._send_all()
            if not self._flying and not self._queue:
                return
            self._take(_LOOK_SECONDS)
            self._look_at_the_clock()

    def _wait_for_the_last(self) -> None:
        """The time limit is over: tasks that run end by themselves, at a finished step."""
        until = time.monotonic() + _GRACE_SECONDS
        for number, sent in list(self._flying.items()):
            if not sent.future.running() and not isinstance(self.engine, Dask) and sent.future.cancel():
                del self._flying[number]
        while self._flying and self._error is None and not self._crew.interrupted and time.monotonic() < until:
            self._take(_LOOK_SECONDS)

    def _end(self) -> None:
        """Take what has come, let go of the rest."""
        try:
            for sent in (*self._flying.values(), *self._ghosts.values()):
                sent.future.cancel()
            self._drain_quietly()
        except Exception as error:
            self._error = self._error or error
        finally:
            hung = any(not sent.future.done() for sent in (*self._flying.values(), *self._ghosts.values()))
            self.close(hung)

    def close(self, hung: bool = False) -> None:
        """Let go of the engine, of files and of the store, once."""
        if self._closed:
            return
        self._closed = True
        try:
            self.engine.close(hung)
        finally:
            if self._folder is not None and self._store is None:
                shutil.rmtree(self._folder, ignore_errors=True)
            for path in self._written:
                try:
                    os.unlink(path)
                except OSError:
                    pass
            if self._store is not None:
                self._store.close()

    # -------------------------------------------------------------- sending

    def _room(self) -> int:
        """Tasks that may be under way."""
        if self._width is not None:
            return self._width
        n = self._workers()
        return n - len(self._ghosts) if self._timeout is not None else n * self.engine.ahead

    def _workers(self) -> int:
        return self._n_workers or self.engine.n_workers()

    def _send_all(self) -> None:
        room = self._room()
        if room < 1 and not self._flying and self._queue:
            self._stuck()
            room = self._room()
        while self._queue and len(self._flying) < room and self._error is None:
            self._send(self._queue.next(self._workers()))

    def _send(self, chunk: Chunk) -> None:
        rest = self._crew.rest()
        packed = self._packer.pack(chunk.numbers, None if rest is None else time.time() + rest)
        shared = self._packer.shared
        number, self._n_sent = self._n_sent, self._n_sent + 1
        handles = shared.arrays if chunk.as_they_are else shared.handles()
        try:
            future = self.engine.submit(self._task, packed, *handles)
        except Exception as error:  # it is broken, or was shut down
            self._queue.again(chunk)
            self._lost(error)
            return
        self._flying[number] = _Sent(chunk, future, time.monotonic())
        future.add_done_callback(lambda future: self._came.put((number, future)))

    def _share(self, array: np.ndarray) -> Any:
        """An array that all chunks need, as something to submit: a file's name, or what the engine makes of it."""
        if isinstance(self.engine, Here):
            return array
        if self.engine.sends_by_itself:
            return self.engine.share(array)
        mapped = _of_map(array)
        if mapped is not None:
            return mapped
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="fastbp-") if self._store is None else self._store.path
        path = os.path.join(self._folder, f"shared-{os.urandom(8).hex()}.npy")
        self._written.append(path)
        with open(path, "wb") as file:
            np.save(file, array, allow_pickle=False)
        again = np.load(path, mmap_mode="r")
        return chunks.Kept.of(path, again.offset, again)

    # -------------------------------------------------------------- what comes

    def _take(self, seconds: float) -> None:
        try:
            first = self._came.get(timeout=seconds)
        except queue.Empty:
            return
        self._arrive(*first)
        self._drain()

    def _drain(self) -> None:
        while True:
            try:
                came = self._came.get_nowait()
            except queue.Empty:
                return
            self._arrive(*came)

    def _arrive(self, number: int, future: Future[Any]) -> None:
        sent = self._flying.pop(number, None) or self._ghosts.pop(number, None)
        if sent is None or sent.chunk.done:
            return
        chunk = sent.chunk
        try:
            answer: chunks.Answer = future.result()
        except CancelledError as error:
            if self._crew.why_stop() is None:
                self._failed(chunk, RuntimeError(f"its task was cancelled by {self.engine.name}"), error)
            return
        except Exception as error:
            if is_lost(error):
                alone = not self._flying
                if alone and self.engine.can_renew:
                    self._failed(chunk, error)
                else:
                    self._queue.again(chunk)
                self._lost(error)
            else:
                self._failed(chunk, error)
            return
        except BaseException as error:  # a worker was interrupted
            if self.engine.in_process:  # so was this process
                self._error = self._error or error
                return
            self._failed(chunk, RuntimeError(f"its worker was ended by {type(error).__name__}"), error)
            return
        if not isinstance(answer, chunks.Answer):
            told = f"executor: a task of {self.engine.name} gave {answer!r}, not its result"
            self._error = self._error or TypeError(told)
        elif answer.differs is not None:
            self._error = self._error or RuntimeError(
                f"a worker of {self.engine.name} would not make the same bits. Here: {self._packer.build}. "
                f"There: {answer.differs}. Install the same fastbp on both; isa= chooses instructions that both have"
            )
        elif answer.unread is not None:
            chunk.as_they_are = True
            self._queue.again(chunk)
        elif answer.error is not None:
            self._failed(chunk, answer.error)
        else:
            self._arrived(chunk, answer)

    def _arrived(self, chunk: Chunk, answer: chunks.Answer) -> None:
        chunk.done = True
        self._broken = 0
        block = chunks.lay(answer, chunk.numbers, self._members)
        self._blocks.append(block)
        self._queue.learn(chunk, answer.seconds)
        if self._width is not None:
            self._width = self._width * 2 if self._width < self._workers() else None
        if self._store is not None and not answer.cut:
            try:
                self._store.add(block, answer.stack, self._members)
            except OSError as error:
                n = sum(len(block.numbers) for block in self._blocks)
                self._error = OSError(
                    error.errno, f"store: {error.strerror or error}; {n} of {len(self._members)} networks are trained, "
                    "and those before this chunk are in the store. Make room there and call again: it goes on from "
                    "what is stored", self._store.path,
                )  # fmt: skip

    def _failed(self, chunk: Chunk, error: BaseException, cause: BaseException | None = None) -> None:
        """A chunk did not come back, or cannot."""
        chunk.tries += 1
        if chunk.tries < _TRIES:
            if not isinstance(error, TimeoutError):
                chunk.as_they_are = True  # perhaps a worker that held an array is gone
            self._queue.again(chunk)
        elif len(chunk.numbers) > 1:
            chunk.done = True
            self._queue.again(*chunk.halves())
        else:
            chunk.done = True
            said = error if isinstance(error, Exception) else RuntimeError(repr(error))
            self._blocks.append(chunks.failed(chunk.numbers, said))

    # -------------------------------------------------------------- what goes wrong

    def _lost(self, error: BaseException) -> None:
        """The executor takes no more tasks."""
        if not self.engine.can_renew:
            n = len(self._members)
            self._drain_quietly()
            done = sum(len(block.numbers) for block in self._blocks)
            made = RuntimeError(
                f"{self.engine.name} broke ({error}); {done} of {n} networks had come back and are kept, see `history` "
                "of this error. Give a function that makes the executor, as executor=lambda: ProcessPoolExecutor(8), "
                "and fit_many makes it anew. Where it broke at once: processes import the file of the program, so what "
                "calls fit_many stands below `if __name__ == '__main__':`"
            )
            made.__cause__ = error
            self._error = self._error or made
            return
        lost = {number: sent for number, sent in self._flying.items() if not _has_answered(sent.future)}
        self._flying = {number: sent for number, sent in self._flying.items() if number not in lost}
        self._ghosts.clear()
        self._queue.again(*(sent.chunk for sent in lost.values() if not sent.chunk.done))
        self._width = max(1, (len(lost) + 1) // 2)  # so that a chunk that breaks pools is alone before long
        self._broken += 1
        try:
            self.engine.renew()
            if self._broken >= _TRIES:
                self._try_it()
        except Exception as failure:
            self._error = self._error or failure

    def _try_it(self) -> None:
        """See whether an executor that breaks again and again does so with a task that cannot break it, too."""
        until = time.monotonic() + _TRIAL_SECONDS
        try:
            future = self.engine.submit(chunks.build)
            while not self._crew.interrupted:
                try:
                    future.result(timeout=_LOOK_SECONDS)
                    return
                except TimeoutError:
                    if time.monotonic() > until:
                        raise
                except Exception as error:
                    if is_lost(error):
                        raise
                    return  # a worker has run it
        except Exception as error:
            raise RuntimeError(
                f"{self.engine.name} broke {self._broken} times in a row, and then with a task that does nothing "
                f"({error or type(error).__name__}). Processes import the file of the program: what calls fit_many "
                "stands below `if __name__ == '__main__':`. The function given as executor= makes a new executor "
                "at each call"
            ) from error

    def _drain_quietly(self) -> None:
        """Take answers that had come before, and nothing that is lost."""
        while True:
            try:
                number, future = self._came.get_nowait()
            except queue.Empty:
                return
            if _has_answered(future):
                self._arrive(number, future)
            else:
                self._flying.pop(number, None)

    def _look_at_the_clock(self) -> None:
        if self._timeout is None:
            return
        now = time.monotonic()
        for number, sent in list(self._flying.items()):
            if now - sent.since > self._timeout:
                del self._flying[number]
                if isinstance(self.engine, Dask) or not sent.future.cancel():  # Dask would send more to that worker
                    self._ghosts[number] = sent
                self._failed(sent.chunk, TimeoutError(f"no answer within task_timeout={self._timeout:g} seconds"))

    def _stuck(self) -> None:
        """All workers hold tasks that were given up."""
        if self.engine.can_renew:
            self._ghosts.clear()
            try:
                self.engine.renew()
            except Exception as error:
                self._error = error
        else:
            self._error = TimeoutError(
                f"none of the {self._workers()} workers of {self.engine.name} has answered within "
                f"task_timeout={self._timeout} seconds; what came back before is kept, see `history` of this error"
            )


def _has_answered(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _of_map(array: np.ndarray) -> chunks.Kept | None:
    """The file that an array is a memory map of, where it lies there as it is."""
    base: Any = array
    while isinstance(base, np.ndarray) and not (isinstance(base, np.memmap) and not isinstance(base.base, np.ndarray)):
        base = base.base
    if not isinstance(base, np.memmap) or base.filename is None or base.mode == "c":
        return None
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        return None
    if base.mode != "r":
        base.flush()
    at = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return chunks.Kept.of(os.fspath(base.filename), base.offset + at, array)


def spread(
    train: Callable[..., Any], asked: Asked, members: list[Member], executor: Any, n_threads: Any, n_workers: Any,
    task_timeout: Any, store: Any, lanes: Any, function: Callable[[], Any] | None,
) -> Spread:  # fmt: skip
    """What trains the members of a call by an executor, with a store, or both: see `fit_many`.

    `function` is what gave X.
    """
    n_workers = checks.optional_integer("n_workers", n_workers, 1)
    if task_timeout is not None:
        task_timeout = checks.number("task_timeout", task_timeout, 0, ends="(]")
    engine = engine_of(executor, threads.requested(n_threads))
    try:
        if isinstance(engine, Here) and (n_workers is not None or task_timeout is not None):
            raise ValueError("n_workers and task_timeout are about the workers of an executor; give executor=")
        called = {}
        if function is not None and not isinstance(engine, Here):
            try:
                pickled = pickle.dumps(function, protocol=5)
            except Exception as error:
                raise TypeError(f"X: the function cannot be sent to workers ({error}); define it at the top of a "
                                "module") from None  # fmt: skip
            source = members[0].work.source
            shape = next(iter(source.known())).X.shape
            called[id(source)] = chunks.Called(pickled, os.urandom(8), shape)
        kept = None
        if store is not None:
            from fastbp.many.store import Store

            kept = Store(store, asked, members, lanes)
    except BaseException:
        engine.close(False)
        raise
    return Spread(engine, train, asked, members, lanes, n_threads, n_workers, task_timeout, kept, called)
