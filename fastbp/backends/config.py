"""What the user forces (backend, ISA), and what `show_config` tells.

Environment variables are read when they are needed, so that import never fails on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from fastbp import backends
from fastbp.backends import threads
from fastbp.checks import choice

if TYPE_CHECKING:
    from fastbp.typing import BackendName


class _Forced(NamedTuple):
    """What a ``with`` block forces: one variable has both, so that whoever remembers a call compares one object."""

    backend: str | None = None
    isa: str | None = None


_forced = cache(_Forced)  # equal ones are one object
_context: ContextVar[_Forced] = ContextVar("fastbp_forced", default=_forced())  # noqa: B039
_process: list[str | None] = [None]  # a list of one, so that others can see it change


def _known(name: object) -> str:
    found: str = choice("backend", name, ("auto", *backends.NAMES))
    return found


def set_backend(name: BackendName) -> None:
    """Choose the backend for this process.

    The network's own ``backend=`` and ``with fastbp.backend(...)`` come before it, the environment variable
    ``FASTBP_BACKEND`` after it.

    Parameters
    ----------
    name : {"auto", "cython", "reference", "numba"}
    """
    _process[0] = _known(name)


@contextmanager
def backend(name: BackendName) -> Iterator[None]:
    """Choose the backend inside a ``with`` block, for this thread or task.

    Parameters
    ----------
    name : {"auto", "cython", "reference", "numba"}
    """
    token = _context.set(_forced(_known(name), _context.get().isa))
    try:
        yield
    finally:
        _context.reset(token)


@contextmanager
def isa(name: str | None) -> Iterator[None]:
    """Choose the instruction set inside a ``with`` block, for this thread or task; None leaves it as it is.

    Raises
    ------
    RuntimeError
        This machine or this build does not have it; the message names those that there are.
    """
    forced, engine = _context.get(), backends.engine()
    if name is not None and engine is not None:
        if name not in engine.isas_found():
            raise RuntimeError(f"isa={name!r} is not to be had here; there is: {', '.join(engine.isas_found())}")
        forced = _forced(forced.backend, name)
    token = _context.set(forced)
    try:
        yield
    finally:
        _context.reset(token)


def requested_backend(own: str, said: dict[str, str] | None = None) -> str:
    """The first of: the network's own, the context's, the process's, the environment's; else ``"auto"``.

    `said` is what the environment says, for those who have asked already.
    """
    for name in (own, _context.get().backend, _process[0], (said or backends.environment())["FASTBP_BACKEND"]):
        if name and name != "auto":
            return name
    return "auto"


# Where what is forced stands, beside the environment: for calls that are made again, see `fastbp.backends.again`.
FORCED = (_context, _process)


def requested_isa(said: dict[str, str] | None = None) -> str | None:
    """The ISA that the context or ``FASTBP_ISA`` forces, or None. `said` as for `requested_backend`."""
    return _context.get().isa or (said or backends.environment())["FASTBP_ISA"] or None


def _or_why(find: Callable[[], str]) -> str:
    """What is found, or why what is forced is not to be had."""
    try:
        return find()
    except RuntimeError as error:
        return f"none: {error}"


@cache
def version() -> str:
    """That of fastbp, where its metadata are here."""
    from importlib.metadata import PackageNotFoundError, version  # PyInstaller looks for these words, to pack them

    try:
        return version("fastbp")
    except PackageNotFoundError:
        return "unknown: its metadata were not found"


def config() -> dict[str, object]:
    """What `show_config` prints, as a dict."""
    import platform

    import numpy as np

    facts: dict[str, object] = {
        "fastbp": version(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
        "cpus": threads.available_cpus(),
        "threads": threads.requested(),
        "free-threaded python": "not supported yet",
    }
    for name in backends.NAMES:
        facts[f"backend {name}"] = backends.describe(name)
    facts["backend used"] = _or_why(lambda: backends.resolve(requested_backend("auto"), np.dtype(np.float32), []))
    engine = backends.engine()
    if engine is not None:
        facts["compiler"] = engine.COMPILER
        facts["compile flags"] = engine.COMPILE_FLAGS
        facts["isa built"] = ", ".join(engine.isas_built())
        facts["isa found"] = ", ".join(engine.isas_found())
        facts["isa used"] = _or_why(lambda: engine.choose_isa(requested_isa()))
        facts["bfloat16"] = _or_why(
            lambda: backends.lacks_bfloat16("cython", engine.choose_isa(requested_isa())) or "available: AVX512-BF16"
        )
    return facts


def show_config() -> None:
    """Print versions, threads, compiler, and which backends and instruction sets there are and are used."""
    for name, value in config().items():
        print(f"{name:>22}  {value}")
