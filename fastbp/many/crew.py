"""Threads that do jobs while the caller waits.

Signals are served in the main thread alone. Whatever `fit_many` does once it has begun, taking locks and giving them
back too, is done by threads that no signal can cut short; the caller does nothing but wait for them. At Ctrl-C it asks
them to stop, which they do between two steps, and waits on.
"""

from __future__ import annotations

import _thread
import contextvars
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

_LOOK_SECONDS = 0.1  # between two looks of the caller: Windows serves no signal while a thread waits for a lock
_START_SECONDS = 1.0  # in which a thread begins, where a signal hides whether there is one


class Crew:
    """Does `work` in a thread, which may hand `jobs` to others; all see what the caller's context forces.

    Parameters
    ----------
    work : callable
        It gets the crew.
    time_limit : float or None
        Seconds from now.
    """

    def __init__(self, work: Callable[[Crew], None], time_limit: float | None) -> None:
        self._work, self._context = work, contextvars.copy_context()
        self._thread = threading.Thread(target=self._main, name="fastbp fit_many", daemon=True)
        self._until = math.inf if time_limit is None else time.monotonic() + time_limit
        self.reasons = "Ctrl-C", "the time limit" if time_limit is None else f"the time limit of {time_limit:g} seconds"
        self._begun = self._ended = False
        self._refused: list[RuntimeError] = []  # by the system, to start a thread
        self._signal = threading.Lock()  # free when the work is done
        self._signal.acquire()
        self.interrupted = False
        self.error: BaseException | None = None  # of the work, or of a job

    def why_stop(self) -> str | None:
        """Why jobs are to end at the step at hand, or None."""
        if self.interrupted:
            return self.reasons[0]
        return self.reasons[1] if time.monotonic() >= self._until else None

    def rest(self) -> float | None:
        """Seconds until the time limit."""
        return None if self._until == math.inf else max(0.0, self._until - time.monotonic())

    def run(self, look: Callable[[], None]) -> None:
        """Have the work done, and `look` meanwhile, ten times a second.

        Raises
        ------
        BaseException
            What the work raised; or what a signal raised here, after all threads have ended.
        """
        try:
            # `Thread.start` waits with Python's locks, which a signal may leave locked: so it does in another thread.
            _thread.start_new_thread(_start, (self._thread, self._refused))
            while not (self._ended or self._refused):
                self._signal.acquire(timeout=_LOOK_SECONDS)
                look()
            if self._begun:
                self._thread.join()
        except BaseException:
            self._stop()
            raise
        if self._refused:
            raise self._refused[0]
        if self.error is not None:
            raise self.error

    def _stop(self) -> None:
        latest = time.monotonic() + _START_SECONDS
        while self._thread.is_alive() or (not (self._ended or self._refused) and time.monotonic() < latest):
            try:
                self.interrupted = True
                self._thread.join(_LOOK_SECONDS) if self._begun else time.sleep(0.01)
            except BaseException:  # Ctrl-C again: what is under way ends within a step
                pass

    def _main(self) -> None:
        self._begun = True
        try:
            if not self.interrupted:
                self._context.run(self._work, self)
        except BaseException as error:
            self.error = error
        self._ended = True
        self._signal.release()

    def do(self, jobs: Sequence[Callable[[], None]], n_threads: int) -> None:
        """Do all jobs, the first ones first, by so many threads; for the work to call."""
        left = deque(jobs)

        def help() -> None:
            while left and self.error is None:
                try:
                    job = left.popleft()
                except IndexError:  # another thread was faster
                    return
                try:
                    job()
                except BaseException as error:
                    self.error, self.interrupted = error, True

        threads: list[threading.Thread] = []
        n_threads = min(n_threads, len(jobs))
        for _ in range(n_threads if n_threads > 1 else 0):
            context = contextvars.copy_context()  # no two threads may be in one
            thread = threading.Thread(target=context.run, args=(help,), name="fastbp fit_many", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system refuses more of them
                break
            threads.append(thread)
        if not threads:
            help()
        for thread in threads:
            thread.join()


def _start(thread: threading.Thread, refused: list[RuntimeError]) -> None:
    """What starts a thread may outlive all that it does: it knows no crew, which knows the rows."""
    try:
        thread.start()
    except RuntimeError as error:
        refused.append(error)
