"""Threads that do jobs while the caller waits, or the caller itself.

Signals are served in the main thread alone. Whatever `fit_many` does once it has begun, taking locks and giving them
back too, is done where no signal can cut it short: by threads, while the caller does nothing but wait for them; or by
the caller, where nothing but Ctrl-C could cut in, and that does not as long as the work goes on. (A thread begins on a
core whose caches are cold, which made a short list of networks a tenth longer.) At Ctrl-C the work is asked to stop,
which it does between two steps.
"""

from __future__ import annotations

import _signal
import _thread
import contextvars
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_LOOK_SECONDS = 0.1  # between two looks of the caller: Windows serves no signal while a thread waits for a lock
_START_SECONDS = 1.0  # in which a thread begins, where a signal hides whether there is one


def _is_undisturbed() -> bool:
    """Whether nothing but Ctrl-C can raise an error within what this thread does, and that by Python's own handler.

    Into other threads than the main one `PyThreadState_SetAsyncExc` may put one, and a debugger raises to quit. Nor may
    an error be under way: those of the work would have it as their context.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return False
    if sys.exc_info()[1] is not None or sys.gettrace() is not None or sys.getprofile() is not None:
        return False
    # in C: `signal.getsignal` makes an enum of each, in ten times as long
    handled = [number for number in range(1, _signal.NSIG) if callable(_signal.getsignal(number))]
    return not handled or (handled == [signal.SIGINT] and _stops_at_ctrl_c())


def _stops_at_ctrl_c() -> bool:
    return _signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Crew:
    """Does `work`, in a thread or in the caller's, which may hand `jobs` to others; all see what its context forces.

    Parameters
    ----------
    work : callable
        It gets the crew.
    time_limit : float or None
        Seconds from now.
    """

    def __init__(self, work: Callable[[Crew], None], time_limit: float | None) -> None:
        self._work, self._context = work, contextvars.copy_context()
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

    def run(self, look: Callable[[], None] | None) -> None:
        """Have the work done, and `look` meanwhile, ten times a second; None: there is nothing to look at.

        Raises
        ------
        BaseException
            What the work raised; or what a signal raised here, after all threads have ended.
        """
        if look is None and _is_undisturbed():
            return self._run_here()
        self._thread = threading.Thread(target=self._main, name="fastbp fit_many", daemon=True)
        try:
            # `Thread.start` waits with Python's locks, which a signal may leave locked: so it does in another thread.
            _thread.start_new_thread(_start, (self._thread, self._refused))
            while not (self._ended or self._refused):
                self._signal.acquire(timeout=_LOOK_SECONDS)
                if look is not None:
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

    def _run_here(self) -> None:
        """The same by the caller's thread. Ctrl-C asks the work to stop, and is an error when that has ended."""
        pressed, process = False, os.getpid()

        def press(number: int, frame: FrameType | None) -> None:
            nonlocal pressed
            if os.getpid() != process:  # of a child that a metric has forked, whose work is another
                signal.default_int_handler(number, frame)
            pressed = self.interrupted = True

        is_served = _stops_at_ctrl_c()
        if is_served:
            signal.signal(signal.SIGINT, press)
        try:
            self._main()
        finally:
            if is_served and signal.getsignal(signal.SIGINT) is press:  # a metric may have set another one
                signal.signal(signal.SIGINT, signal.default_int_handler)
        if pressed:
            raise KeyboardInterrupt
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
