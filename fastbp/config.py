"""What the user forces (backend, ISA, threads), and what `show_config` tells.

Environment variables are read when they are needed, so that import never fails on them.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fastbp import backends
from fastbp.spec import choice, integer

_context: ContextVar[str | None] = ContextVar("fastbp_backend", default=None)
_process: list[str | None] = [None]  # a list of one, so that others can see it change
_warned: set[str] = set()


def _known(name: object) -> str:
    return choice("backend", name, ("auto", *backends.NAMES))


def set_backend(name: str) -> None:
    """Choose the backend for this process.

    The network's own ``backend=`` and ``with fastbp.backend(...)`` come before it, the environment variable
    ``FASTBP_BACKEND`` after it.

    Parameters
    ----------
    name : {"auto", "cython", "reference"}
    """
    _process[0] = _known(name)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Choose the backend inside a ``with`` block, for this thread or task.

    Parameters
    ----------
    name : {"auto", "cython", "reference"}
    """
    token = _context.set(_known(name))
    try:
        yield
    finally:
        _context.reset(token)


def requested_backend(own: str) -> str:
    """The first of: the network's own, the context's, the process's, the environment's; else ``"auto"``."""
    for name in (own, _context.get(), _process[0], os.environ.get("FASTBP_BACKEND")):
        if name and name != "auto":
            return name
    return "auto"


# Where what is forced stands, beside the environment: for calls that are made again (`fastbp.backends.Program`).
FORCED = (_context, _process)


def requested_isa() -> str | None:
    """The ISA that ``FASTBP_ISA`` forces, or None."""
    return os.environ.get("FASTBP_ISA") or None


def available_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(argument: object = None) -> int:
    """Threads asked for: the argument, ``FASTBP_NUM_THREADS``, ``OMP_NUM_THREADS``, the CPUs; clamped to the CPUs."""
    cpus = available_cpus()
    if argument is not None:
        return min(integer("n_threads", argument, 1), cpus)
    for name in ("FASTBP_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").strip()
        if not text:
            continue
        if text.isascii() and text.isdigit() and int(text) >= 1:
            return min(int(text), cpus)
        if (name + text) not in _warned:
            _warned.add(name + text)
            warnings.warn(f"{name}={text!r} is not a number of threads of at least 1: ignored", stacklevel=2)
    return cpus


def config() -> dict[str, object]:
    """What `show_config` prints, as a dict."""
    import platform
    from importlib import metadata

    import numpy as np

    try:
        version = metadata.version("fastbp")
    except metadata.PackageNotFoundError:
        version = "not installed"
    facts: dict[str, object] = {
        "fastbp": version,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
        "cpus": available_cpus(),
        "threads": threads(),
        "free-threaded python": "not claimed yet",
    }
    for name in backends.NAMES:
        facts[f"backend {name}"] = backends.describe(name)
    engine = backends.engine()
    if engine is not None:
        facts["compiler"] = engine.COMPILER
        facts["compile flags"] = engine.COMPILE_FLAGS
        facts["isa built"] = ", ".join(engine.isas_built())
        facts["isa found"] = ", ".join(engine.isas_found())
        try:
            facts["isa used"] = engine.choose_isa(requested_isa())
        except RuntimeError as error:
            facts["isa used"] = f"none: {error}"
    return facts


def show_config() -> None:
    """Print versions, compiler, instruction sets built, found and used, threads and backends."""
    for name, value in config().items():
        sys.stdout.write(f"{name:>22}  {value}\n")
