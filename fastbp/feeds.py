"""What `fit` trains on; runs whose rows are no array: made dense block by block, or batches that an iterator gives.

Each of those is a `Run` that makes its steps in pieces; chunks, snapshots, replays and what waits are those of `Run`.
"""

from __future__ import annotations

import _thread
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastbp import backends, spec
from fastbp.backends import DONE, Program, Trained
from fastbp.data import Lazy, Rows, class_weights, is_sparse, names_classes, validation_rows
from fastbp.errors import StopTraining
from fastbp.order import epoch_order
from fastbp.rows import Loss
from fastbp.spec import Spec
from fastbp.training import CHUNK_SECONDS, Run, Snapshot, culprit

_BLOCK_BYTES = 1 << 22  # of rows made dense in one go
_KEPT_BYTES = 1 << 26  # of batches kept for a replay
AHEAD = 2  # batches that wait in the queue


# ------------------------------------------------------------------ rows made dense


class GatheredRun(Run):
    """A run over `fastbp.data.Lazy` rows: blocks of whole batches are gathered in the epoch's order, then trained on.

    The engine sees each block as data of its own that are in order already.
    """

    def _train(self, steps: int, losses: np.ndarray, *, stop_on_params: bool) -> Trained:
        goal, epochs, state = self.state.step + steps, 0, self.state
        row_bytes = self.X.shape[1] * self.X.dtype.itemsize
        block = max(1, _BLOCK_BYTES // (row_bytes * self.batch_size)) * self.batch_size
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
            engine = backends.engine()
            self._order = (epoch_order if engine is None else engine.epoch_order)(self.state.seed, epoch, n)
            self._order_of = self.state.seed, epoch
        return self._order[start : min(stop + 1, n)]

    _order_of: tuple[int, int] | None = None


# ------------------------------------------------------------------ batches of an iterator


PASS_ENDED = object()  # after the last batch of a pass
END = object()  # after the last of all


class Batches:
    """What an iterable gives, pass by pass, checked batch by batch.

    Parameters
    ----------
    source : iterable
        Of tuples (X, y) or (X, y, sample_weight).
    check : callable
        tuple -> Rows, which are the run's own: the iterator may use its arrays again
    steps : int or None
        Batches wanted. From an iterator that can be gone through only once no more are taken.
    epochs : int or None
        Passes wanted.
    """

    def __init__(
        self, source: Iterable[Any], check: Callable[[Any], Rows], steps: int | None, epochs: int | None
    ) -> None:
        self._once = hasattr(source, "__next__")
        if self._once and epochs is not None and epochs > 1:
            raise ValueError(f"epochs={epochs}, but X is an iterator, which gives its batches once; give a list of "
                             "batches, an object whose __iter__ starts anew, or steps=")  # fmt: skip
        self._source, self._check = source, check
        self.steps, self._passes = steps, 1 if self._once else epochs

    def __len__(self) -> int:
        """As rows of an epoch: nobody knows how many there are."""
        return sys.maxsize

    def __iter__(self) -> Iterator[Any]:
        left = sys.maxsize if self.steps is None else self.steps
        passes = sys.maxsize if self._passes is None else self._passes
        while left and passes:
            passes -= 1
            batches, given = iter(self._source), 0
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
                try:
                    rows = self._check(batch)
                except (TypeError, ValueError) as error:
                    error.add_note(f"in batch {given} of the pass, counted from 0")
                    raise
                yield rows
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


@dataclass
class BatchesRun(Run):
    """A run over `Batches`: an epoch is a pass, and `place` counts batches in it.

    Batches are kept since the last snapshot, for a replay.
    """

    prefetch: Prefetch = field(kw_only=True)
    lend: Callable[[int], Program] = field(kw_only=True)  # a program for so many rows, until the run ends

    def __post_init__(self) -> None:
        self.state.data_shape = None  # a run begins a pass
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
                losses[0] = self.mean_loss
                self._partial[:] = 0
                state.place[:] = state.place[0] + 1, 0
                return Trained(state.step - begin, DONE, 1, done.loss)
            if state.step == begin + steps or self._is_full or time.perf_counter() > until:
                return Trained(state.step - begin, DONE, 0, done.loss)

    def _train_batch(self, batch: Rows, *, stop_on_params: bool) -> Trained:
        rows = len(batch.X)
        if rows > self.program.plan.batch:
            self.program = self.lend(rows)
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

    def _batch_at(self, step: int) -> Rows:
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

    def _is_old(self, snapshot: Snapshot | None) -> bool:
        return super()._is_old(snapshot) or self._is_full

    def _checked_snapshot(self, previous: Snapshot | None) -> Snapshot:
        snapshot = super()._checked_snapshot(previous)
        self._forget()
        return snapshot

    def _forget(self) -> None:
        self._first, self._kept, self._kept_bytes = self.state.step, [], 0  # batches of the steps from `_first` on
        self._ends: set[int] = set()  # steps after which a pass ended

    def _culprit(self) -> str:
        return culprit(self._batch_at(self.state.step).X, self.state.spec.dtype)


# ------------------------------------------------------------------ what `fit` was given


@dataclass(frozen=True)
class Examples:
    """The arguments of `fit` that say what to train on, checked."""

    source: Rows | Batches
    validation: Rows | None
    batch_size: int  # of a `Batches`: 1, since it counts batches where others count rows
    steps: int
    inside: np.ndarray | None = None  # numbers of the caller's rows: those trained on,
    outside: np.ndarray | None = None  # and those of `validation`, where validation_split parts them

    @property
    def training(self) -> Rows | None:
        """The rows, where they are there beforehand."""
        return self.source if isinstance(self.source, Rows) else None

    @property
    def n_rows(self) -> int | None:
        """Of all rows; None where nobody knows."""
        return len(self.source.X) if isinstance(self.source, Rows) else None

    @property
    def rows(self) -> tuple[Any, Any, Any]:
        """X, y and weight of a `Run`."""
        return self.source if isinstance(self.source, Rows) else (self.source, None, None)

    def kind_of_run(self, stack: ExitStack, lent: Callable[[int], Any]) -> Callable[..., Run]:
        """The kind of `Run` it takes, to be made; `lent` gives a context with a program for so many rows."""
        if isinstance(self.source, Rows):
            return partial(GatheredRun if self.source.is_lazy else Run, numbers=self.inside)

        def lend(rows: int) -> Program:
            return stack.enter_context(lent(1 << (rows - 1).bit_length()))

        return partial(BatchesRun, prefetch=stack.enter_context(Prefetch(self.source)), lend=lend)


def _classes(y: Any, loss: Loss) -> np.ndarray:
    """The class that each target names."""
    from fastbp.metrics import decide

    return decide(y, loss).astype(np.int64)


def examples(
    network: Spec, loss: Loss, X: Any, y: Any, sample_weight: Any, class_weight: Any, validation_data: Any,
    validation_split: Any, *, batch_size: Any, epochs: Any, steps: Any, shuffle: bool, seed: int,
    apart: Callable[[Any], Any],
) -> Examples:  # fmt: skip
    """Check these arguments of `fit`. `apart`: copies what lies in the parameters."""
    validation = None if validation_data is None else spec.validation(validation_data, loss, network)
    batch_size = spec.integer("batch_size", batch_size, 1)
    if y is None:
        return _batches(network, loss, X, sample_weight, class_weight, validation, validation_split, epochs, steps)
    rows = spec.features(X, network, sparse=True)
    rows = Rows(rows, spec.targets(y, loss, rows, network), spec.sample_weights(sample_weight, len(rows)))
    rows = Rows(*map(apart, rows))
    n_classes = max(network.out_features, 2)
    kinds = inside = outside = None
    if class_weight is not None or validation_split is not None:
        kinds = _classes(rows.y, loss) if names_classes(rows.y, loss.labels) else None
    if class_weight is not None:
        class_weight = spec.class_weight(class_weight, n_classes)
        if kinds is None:
            raise ValueError("class_weight: y names no classes; labels, or one column of two values, are wanted")
    if validation_split is not None:
        share = spec.validation_share(validation_split, len(rows.X))
        if validation is not None:
            raise ValueError("give at most one of validation_data and validation_split")
        kept = validation_rows(len(rows.X), share, kinds, seed)
        inside, outside = np.flatnonzero(~kept), np.flatnonzero(kept)
        kinds = None if kinds is None else kinds[inside]
        rows, validation = rows.picked(inside), rows.picked(outside)
        for part, what in ((rows, "trained on"), (validation, "kept for validation")):
            if part.weight is not None and not part.weight.any():
                raise ValueError(f"validation_split: sample_weight is zero for every row that is {what}")
    if class_weight is not None:
        weight = class_weights(class_weight, kinds, n_classes)
        try:
            rows = rows._replace(weight=spec.sample_weights(weight * (1 if rows.weight is None else rows.weight),
                                                            len(weight)))  # fmt: skip
        except ValueError as error:
            raise ValueError(f"class_weight: {error}") from None
    n = len(rows.X)
    if shuffle and n >= 2**32:
        raise ValueError(f"shuffle=True takes at most 2**32 - 1 rows, X has {n}")
    batch_size = min(batch_size, n)
    n_steps = spec.run_length(epochs, steps, -(-n // batch_size))
    return Examples(rows, validation, batch_size, n_steps, inside, outside)


def _batches(
    network: Spec, loss: Loss, X: Any, sample_weight: Any, class_weight: Any, validation: Rows | None,
    validation_split: Any, epochs: Any, steps: Any,
) -> Examples:  # fmt: skip
    """X gives batches."""
    if hasattr(X, "__array__") or is_sparse(X) or not isinstance(X, Iterable) or isinstance(X, (str, bytes, dict)):
        raise TypeError("y must hold numbers, got None; only an iterable X of batches (X, y) goes without, "
                        f"got X of type {type(X).__name__}")  # fmt: skip
    if sample_weight is not None:
        raise ValueError("sample_weight: where X gives batches, each may bring its own: (X, y, sample_weight)")
    if validation_split is not None:
        raise ValueError("validation_split: X gives batches, whose rows cannot be kept apart; give validation_data")
    weights = None if class_weight is None else spec.class_weight(class_weight, max(network.out_features, 2))
    if weights == "balanced":
        raise ValueError("class_weight='balanced' needs all labels beforehand; where X gives batches give a dict")
    n_steps = spec.run_length(epochs, steps, sys.maxsize)

    def check(value: Any) -> Rows:
        rows = spec.batch(value, loss, network)
        if weights is not None:
            if not names_classes(rows.y, loss.labels):
                raise ValueError("class_weight: the y of a batch names no classes")
            of_class = class_weights(weights, _classes(rows.y, loss), max(network.out_features, 2))
            rows = rows._replace(weight=of_class * (1 if rows.weight is None else rows.weight))
        X = rows.X[:] if isinstance(rows.X, Lazy) else rows.X.copy()
        return Rows(X, rows.y.copy(), None if rows.weight is None else rows.weight.copy())

    return Examples(Batches(X, check, steps, epochs), validation, 1, n_steps)
