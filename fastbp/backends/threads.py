"""How many threads a call may use: the CPUs there are, what the user asks for, and threadpoolctl.

Which phases of a step are worth more than one is the engine's to say: `share` in src/train.cpp.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache

from fastbp import backends
from fastbp.spec import integer

_warned: set[str] = set()
share: ContextVar[int | None] = ContextVar("fastbp_share", default=None)  # of this thread, where others work beside it


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and the time that its control groups grant."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, _granted_cpus())


@cache
def _granted_cpus(root: str = "/sys/fs/cgroup", process: str = "/proc/self/cgroup") -> int:
    """CPUs that the quota of this process's control group, or of one above it, comes to in whole; at least 1."""
    granted = sys.maxsize
    for folder in _control_groups(root, process):
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # version 2, version 1
            try:
                quota, period = " ".join(_text(f"{folder}/{file}") for file in files).split()
                if int(quota) > 0:  # "max" and -1: no quota
                    granted = min(granted, max(1, int(quota) // int(period)))
            except (OSError, ValueError):  # not this version, or no quota
                pass
    return granted


def _control_groups(root: str, process: str) -> Iterator[str]:
    """Folders of the control groups that this process is in, up to the outermost."""
    try:
        lines = _text(process).splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            while path.strip("/"):
                yield f"{root}/{controllers}/{path}"
                path = os.path.dirname(path)
            yield f"{root}/{controllers}"


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


@cache
def _number(name: str, text: str) -> int | None:
    """The number of threads that an environment variable says, or None where that is nonsense."""
    levels = text.split(",") if name == "OMP_NUM_THREADS" else [text]  # OpenMP has one for each level of nesting
    sound = all(re.fullmatch(r"\s*0*[1-9][0-9]{0,8}\s*", number) for number in levels)
    return int(levels[0]) if sound else None


def forced(said: dict[str, str] | None = None) -> bool:
    """Whether ``FASTBP_FORCE_THREADS`` asks, in tests, for threads without CPUs for them and with nothing to gain.

    `said` is what the environment says, for those who have asked already.
    """
    return (said or backends.environment())["FASTBP_FORCE_THREADS"] not in ("", "0")


def requested(argument: object = None, said: dict[str, str] | None = None) -> int:
    """Threads that a call may use.

    The first of: the argument, ``FASTBP_NUM_THREADS``, ``OMP_NUM_THREADS`` (of a list its first number), the CPUs. No
    more than the CPUs, than this thread's `share`, and than threadpoolctl allows.

    Parameters
    ----------
    argument : int, optional
        ``n_threads=`` of the call.
    said : dict of str to str, optional
        As for `forced`.

    Raises
    ------
    TypeError, ValueError
        The argument is no integer of at least 1. The environment is not held to that: nonsense there is a warning.
    """
    wanted = None if argument is None else integer("n_threads", argument, 1)
    said = said or backends.environment()
    for name in ("FASTBP_NUM_THREADS", "OMP_NUM_THREADS"):
        text = said[name] if wanted is None else ""
        if not text.strip():
            continue
        wanted = _number(name, text)
        if wanted is None and (name + text) not in _warned:
            _warned.add(name + text)
            warnings.warn(f"{name}={text.strip()!r} is not a number of threads of at least 1: ignored", stacklevel=2)
    if wanted is None or (wanted > 1 and not forced(said)):
        cpus = available_cpus()
        wanted = cpus if wanted is None else min(wanted, cpus)
    own, engine = share.get(), backends.engine()
    wanted = wanted if own is None else min(wanted, own)
    return wanted if engine is None else min(wanted, engine.thread_limit())


def register() -> None:
    """Make ``threadpoolctl`` know fastbp: its limits hold here, and its `threadpool_info` shows it."""
    try:
        import threadpoolctl

        engine = backends.engine()
    except ImportError:  # not installed; or an engine that cannot be loaded, which is told when it is needed
        return
    if engine is None:
        return

    class Controller(threadpoolctl.LibController):
        user_api = internal_api = "fastbp"
        filename_prefixes = ("_engine",)
        check_symbols = ("fastbp_thread_limit",)

        def get_num_threads(self) -> int:
            return min(available_cpus(), engine.thread_limit())  # what it is set to again when a limit ends

        def set_num_threads(self, num_threads: int) -> None:
            engine.limit_threads(num_threads)

        def get_version(self) -> None:
            """None: to look it up takes longer than all else that `threadpool_limits` does."""

        def set_additional_attributes(self) -> None:
            pass

    threadpoolctl.register(Controller)
