"""Batches that an iterable gives: checked one by one, fetched ahead by a thread."""

from __future__ import annotations

import _thread
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from fastbp.data.samples import Samples

AHEAD = 2  # batches that wait in the queue


PASS_ENDED = object()  # after the last batch of a pass
END = object()  # after the last of all


class Batches:
    """What an iterable gives, pass by pass, checked batch by batch.

    Parameters
    ----------
    source : iterable
        Of tuples (X, y) or (X, y, sample_weight).
    check : callable
        tuple -> Samples, which are the run's own: the iterator may use its arrays again
    steps : int or None
        Batches wanted. From an iterator that can be gone through only once no more are taken.
    epochs : int or None
        Passes wanted.
    as_they_are : bool
        Whether `check` takes arrays of real numbers as they are.
    """

    def __init__(
        self, source: Iterable[Any], check: Callable[[Any], Samples], steps: int | None, epochs: int | None,
        as_they_are: bool,
    ) -> None:  # fmt: skip
        self._once = hasattr(source, "__next__")
        if self._once and epochs is not None and epochs > 1:
            raise ValueError(f"epochs={epochs}, but X is an iterator, which gives its batches once; give a list of "
                             "batches, an object whose __iter__ starts anew, or steps=")  # fmt: skip
        self.source, self.check, self.as_they_are = source, check, as_they_are
        self.steps, self.passes = steps, 1 if self._once else epochs

    def __len__(self) -> int:
        """As rows of an epoch: nobody knows how many there are."""
        return sys.maxsize

    @property
    def is_listed(self) -> bool:
        """Whether all batches are there already, in a list or tuple."""
        return type(self.source) in (list, tuple)

    def checked(self, batch: Any, number: int) -> Samples:
        """A batch, sure to be one; `number`: of the pass, from 0."""
        try:
            return self.check(batch)
        except (TypeError, ValueError) as error:
            error.add_note(f"in batch {number} of the pass, counted from 0")
            raise

    def __iter__(self) -> Iterator[Any]:
        left = sys.maxsize if self.steps is None else self.steps
        passes = sys.maxsize if self.passes is None else self.passes
        while left and passes:
            passes -= 1
            batches, given = iter(self.source), 0
            while left or not self._once:  # one more where that does no harm, to see whether the pass ends there
                try:
                    batch = next(batches)
                except StopIteration:
                    if not given:
                        raise ValueError("X gives no batches") from None
                    yield PASS_ENDED
                    break
                if not left:
                    return
                yield self.checked(batch, given)
                left, given = left - 1, given + 1


class _Raised(NamedTuple):
    error: BaseException


class Prefetch:
    """Goes through an iterable in a thread of its own, some items ahead; its errors come out of `get`.

    ``with``: the thread begins with the first `get`, and ends with the block, once the item that it works at is done.
    """

    # Signals are served in the main thread, between bytecodes of Python's. A lock of a class written in Python stays
    # locked where one comes in between: what the main thread waits for here are queues and locks in C.

    def __init__(self, items: Iterable[Any]) -> None:
        self._line = _Line(items)
        self._thread: threading.Thread | None = None
        # The thread knows the line alone: it ends too where a signal keeps `__exit__` from being called.
        self._stop = weakref.finalize(self, self._line.stop)

    def get(self) -> Any:
        """The next item, `END` after the last; not to be asked again after that."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._line.work, name="fastbp batches", daemon=True)
            # `Thread.start` waits with Python's locks, and so in another thread, where no signals are served.
            _thread.start_new_thread(self._line.start, (self._thread,))
        item = self._line.ready.get()
        self._line.room.put(None)
        if isinstance(item, _Raised):
            raise item.error
        return item

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
        # A signal as the thread was started hides whether there is one; one that there is begins soon.
        if self._thread is not None and self._line.begun.acquire(timeout=1):
            self._line.ended.acquire()
            self._thread.join()


class _Line:
    """What a `Prefetch` and its thread share."""

    def __init__(self, items: Iterable[Any]) -> None:
        from queue import SimpleQueue  # here: `import fastbp` does without

        self.items = items
        self.ready: SimpleQueue[Any] = SimpleQueue()
        self.room: SimpleQueue[None] = SimpleQueue()  # one for each item that may still wait
        for _ in range(AHEAD):
            self.room.put(None)
        self.stopped = False
        self.begun, self.ended = threading.Lock(), threading.Lock()  # free once the thread has
        self.begun.acquire()
        self.ended.acquire()

    def start(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except RuntimeError as error:  # the system refuses one
            self.ready.put(_Raised(error))

    def work(self) -> None:
        self.begun.release()
        last: Any = END
        try:
            if not self.stopped:
                for item in self.items:
                    self.room.get()
                    if self.stopped:
                        break
                    self.ready.put(item)
        except BaseException as error:
            last = _Raised(error)
        self.ready.put(last)
        self.ended.release()

    def stop(self) -> None:
        self.stopped = True
        self.room.put(None)  # for a thread that waits for room
