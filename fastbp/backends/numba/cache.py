"""Generated source, compiled by Numba, kept on disk from one process to the next.

A compiled function lies in one file of a private folder. Its name is a hash of everything that it depends on: text,
signature, CPU, versions, and the files of fastbp that the text calls. It is a pickle, so it is read only from a folder
that nobody else can write to; and only where it is whole, as a file begins with the hash of the rest. Files come into
being in one move. Whatever is wrong with the folder or a file costs a compilation, no more.

Numba's own cache wants functions from files, and fails on a broken one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import pickle
import stat
import sys
import tempfile
import types as python_types
from collections.abc import Callable, Iterator
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba.core import compiler, config
from numba.core.caching import _Cache
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.serialize import dumps
from numba.core.typing.ctypes_utils import to_ctypes
from numba.extending import register_jitable

from fastbp.backends.numba import lanes, pipeline
from fastbp.rows import Words

_MOST_FILES = 1000  # the oldest give way
compiles = not config.DISABLE_JIT


def folder() -> Path | None:
    """The private folder of compiled code, made if need be; None where there can be none."""
    try:
        base = os.environ.get("XDG_CACHE_HOME", "")  # a relative one is to be ignored, says its specification
        path = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "fastbp"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
        return path if private else None
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None


@functools.cache
def _world() -> bytes:
    """What every compiled function depends on beside its own text."""
    parts = [sys.version, numba.__version__, llvmlite.__version__, np.__version__, str(config.OPT)]
    parts += [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return repr(parts).encode()


class _Disk(_Cache):
    """What a dispatcher of Numba asks for: where its compiled functions are found, and put."""

    cache_path = None

    def __init__(self, text: str, name: str) -> None:
        self.what = text, name

    def enable(self) -> None: ...

    def disable(self) -> None: ...

    def flush(self) -> None: ...

    def _file(self, sig, target_context) -> Path | None:
        path = folder()
        key = repr((*self.what, str(sig), target_context.codegen().magic_tuple()))
        return path and path / hashlib.sha256(_world() + key.encode()).hexdigest()[:40]

    def load_overload(self, sig, target_context):
        try:
            data = self._file(sig, target_context).read_bytes()
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                return None
            target_context.refresh()
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(data[32:]))
        except Exception:  # noqa: BLE001 - no folder, no file, or one that this Numba cannot use
            return None

    def save_overload(self, sig, result) -> None:
        file = self._file(sig, cpu_target.target_context)
        if file is None or result.library.has_dynamic_globals:
            return
        try:
            data = dumps(result._reduce())
            handle, name = tempfile.mkstemp(dir=file.parent)
            try:
                with os.fdopen(handle, "wb") as to:
                    to.write(hashlib.sha256(data).digest() + data)
                os.replace(name, file)
            except BaseException:
                os.unlink(name)
                raise
            files = sorted(file.parent.iterdir(), key=lambda path: path.stat().st_mtime)
            for old in files[:-_MOST_FILES]:
                old.unlink(missing_ok=True)
        except OSError:
            pass


@global_compiler_lock  # another thread that compiles would read what is taught to Numba here half written
def module(text: str, words: Words = (), *more: python_types.ModuleType) -> python_types.ModuleType:
    """Source as a module, in which the names of `fastbp.backends.numba.lanes` are known, of `more`, and `words`.

    Its functions know one another in compiled code.
    """
    made = python_types.ModuleType(f"fastbp_generated_{hashlib.sha256(text.encode()).hexdigest()[:16]}")
    for known in (lanes, *more):
        vars(made).update({name: value for name, value in vars(known).items() if not name.startswith("_")})
    own = set(vars(made))
    vars(made).update({word: lanes.over_lanes(function) for word, function in words})
    made.source, made.words = text, words
    exec(compile(text, f"<{made.__name__}>", "exec"), vars(made))
    if compiles:
        for name in set(vars(made)) - own:
            if isinstance(getattr(made, name), python_types.FunctionType):
                register_jitable(**lanes.OPTIONS)(getattr(made, name))
    sys.modules.setdefault(made.__name__, made)  # where code from the disk looks for it
    return made


def _disk(made: python_types.ModuleType, name: str) -> _Disk | None:
    """Where the function is kept; nowhere if it calls a user's functions, whose text is not known."""
    return None if made.words else _Disk(made.source, name)


@contextlib.contextmanager
def _telling(made: python_types.ModuleType) -> Iterator[None]:
    """Where a user's functions are not what Numba compiles, whose they are and what runs them."""
    try:
        yield
    except Exception as error:  # many of Numba's are no NumbaError
        if not made.words:
            raise
        names = ", ".join(dict.fromkeys(own.__qualname__ for _, own in made.words))
        reason = next((line for line in str(error).splitlines() if line and not line.startswith("Failed in ")), "")
        message = f"Numba cannot compile a row's functions ({names}); backend='reference' runs them: {reason}"
        raise TypeError(message) from error


def function(made: python_types.ModuleType, name: str, arguments: tuple) -> Callable:
    """A function of a module, compiled for arguments of these Numba types; it runs without the GIL."""
    plain = getattr(made, name)
    if not compiles:
        return np.errstate(all="ignore")(plain)
    dispatcher = numba.njit(nogil=True, **lanes.OPTIONS | {"pipeline_class": pipeline.Whole})(plain)
    dispatcher._cache = _disk(made, name) or dispatcher._cache
    with _telling(made):
        dispatcher.compile(arguments)
    return dispatcher


def callback(made: python_types.ModuleType, name: str, signature) -> object:
    """A function of a module as a C function: what has an `address`, as long as it is kept."""
    plain = getattr(made, name)
    if not compiles:
        kinds = [to_ctypes(kind) for kind in (signature.return_type, *signature.args)]
        pointer = ctypes.CFUNCTYPE(*kinds)(np.errstate(all="ignore")(plain))
        return python_types.SimpleNamespace(address=ctypes.cast(pointer, ctypes.c_void_p).value, kept=pointer)
    options = {name: value for name, value in lanes.OPTIONS.items() if name != "pipeline_class"}
    made_of = CFunc(plain, (signature.args, signature.return_type), {}, options, pipeline_class=pipeline.Whole)
    made_of._cache = _disk(made, name) or made_of._cache
    with _telling(made):
        made_of.compile()
    return made_of
