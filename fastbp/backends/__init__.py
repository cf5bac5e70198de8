"""The table of backends, which of them can serve, and the compiled module.

What a backend is handed and what it gives stands in `protocol`; `plan` chooses one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from fastbp import order

if TYPE_CHECKING:
    from fastbp.backends.protocol import Program


def _cython() -> type[Program]:
    from fastbp.backends.cython import Program

    return Program


def _reference() -> type[Program]:
    from fastbp.backends.reference import Program

    return Program


def _numba() -> type[Program]:
    from fastbp.backends.numba.program import Program

    return Program


@dataclass(frozen=True)
class _Row:
    program: Callable[[], type[Program]]  # imports the backend; a plain import, which tools that pack programs can see
    dtypes: tuple[np.dtype, ...] | None  # None: every floating-point dtype
    needs_numba: str  # "always", for "own rows", which the tables do not hold, or "never"
    what: str


_FAST = (np.dtype(np.float32), np.dtype(np.float64))

_TABLE = {  # in the order in which "auto" takes them
    "cython": _Row(_cython, _FAST, "own rows", "C++ kernels through Cython"),
    "reference": _Row(_reference, None, "never", "NumPy, slower: what the tests compare with"),
    "numba": _Row(_numba, _FAST, "always", "compiled for the network at hand by Numba"),
}
NAMES = tuple(_TABLE)


def engine() -> ModuleType | None:
    """The compiled extension, or None where there is none."""
    found = sys.modules.get("fastbp._engine")
    if found is not None:  # each call asks, some more than once
        return found
    try:
        import fastbp._engine as engine
    except ModuleNotFoundError as error:
        if error.name != "fastbp._engine":
            raise
        return None
    return engine


_VARIABLES = ("FASTBP_BACKEND", "FASTBP_ISA", "FASTBP_FORCE_THREADS", "FASTBP_NUM_THREADS", "OMP_NUM_THREADS")


@lru_cache(maxsize=1)
def _environment(stamp: int | None) -> dict[str, str]:
    return {name: os.environ.get(name, "") for name in _VARIABLES}


def environment() -> dict[str, str]:
    """What the variables say that each call asks for, "" where they are not set.

    They are read again when they have changed, which the engine sees in a tenth of the time of reading them.
    """
    compiled = engine()
    return _environment.__wrapped__(None) if compiled is None else _environment(compiled.environment_stamp())


def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of n rows in an epoch: see `fastbp.order.epoch_order`, which the compiled module does faster."""
    compiled = engine()
    if compiled is None:
        return order.epoch_order(seed, epoch, n)
    seeds, epochs = np.array([[seed], [epoch]], np.uint64)
    return compiled.epoch_orders(compiled.choose_isa(), seeds, epochs, n)[0]


def missing(name: str) -> str | None:
    """Why a backend cannot be used here, or None."""
    if name == "cython" and engine() is None:
        from fastbp.backends.absent import absence

        return str(absence())
    if _TABLE[name].needs_numba == "always" and not has_numba():
        return "Numba was not found: pip install 'fastbp[numba]'"
    return None


def lacks_engine(dtype: np.dtype, own_rows: list[str]) -> bool:
    """Whether the compiled module would serve a request if it were there."""
    return engine() is None and dtype.name in _FAST and (not own_rows or has_numba())


def has_numba() -> bool:
    """Whether Numba can be imported; it is not imported for that."""
    return importlib.util.find_spec("numba") is not None


def describe(name: str) -> str:
    return missing(name) or f"available: {_TABLE[name].what}"


def _refusal(name: str, dtype: np.dtype, own_rows: list[str]) -> str | None:
    """Why a backend cannot serve a request, or None."""
    if name not in _TABLE:
        return "no such backend"
    row = _TABLE[name]
    if row.dtypes is not None and dtype not in row.dtypes:
        return missing(name) or f"it lacks dtype {dtype}"
    if row.needs_numba == "own rows" and own_rows and not has_numba():
        what = f"it needs Numba for {', '.join(map(repr, own_rows))}, which the tables do not hold"
        return missing(name) or f"{what}: pip install 'fastbp[numba]'"
    return missing(name)


def lacks_bfloat16(name: str, isa: str | None) -> str | None:
    """Why a backend, with kernels of that ISA, cannot train by products in bfloat16, or None."""
    if name == "numba":
        return "backend 'numba' has no products in bfloat16"
    if name == "cython" and not engine().has_bfloat16(isa):  # type: ignore[union-attr]  # it was chosen
        return f"training needs a CPU with AVX512-BF16, and its ISA 'avx512'; the ISA used here is {isa!r}"
    return None


def usable(dtype: np.dtype, own_rows: list[str]) -> tuple[str, ...]:
    """The backends that can serve a request."""
    return tuple(name for name in NAMES if _refusal(name, dtype, own_rows) is None)


def resolve(requested: str, dtype: np.dtype, own_rows: list[str]) -> str:
    """The backend that serves a request: the named one, or for ``"auto"`` the first that can.

    Parameters
    ----------
    requested : str
    dtype : dtype
    own_rows : list of str
        Names of the rows asked for that are not those of the tables.

    Raises
    ------
    RuntimeError
        The named backend cannot serve; the message says why and names those that can.
    """
    # Each call of `fit` asks this. Backends behind the one that serves are not asked: to look for Numba takes 30 us.
    if requested == "auto":
        return next(name for name in NAMES if _refusal(name, dtype, own_rows) is None)
    reason = _refusal(requested, dtype, own_rows)
    if reason:
        raise RuntimeError(f"backend {requested!r}: {reason}; there is: {', '.join(usable(dtype, own_rows))}")
    return requested


def program(name: str) -> type[Program]:
    """The program class of a backend."""
    return _TABLE[name].program()
