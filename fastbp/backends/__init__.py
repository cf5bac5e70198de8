"""The protocol that every backend keeps, and the table of backends.

A backend turns a plan into a *program*: one network shape bound to its parameter buffer, with the workspace for a
batch. Programs are not shared between threads; `fastbp.plan.Programs` hands them out.
"""

from __future__ import annotations

import importlib
import importlib.util
import operator
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from fastbp.plan import Plan
    from fastbp.rows import Optimizer

# How a call of `Program.train` ended.
DONE, LOSS_NOT_FINITE, PARAMS_NOT_FINITE = 0, 1, 2


class Trained(NamedTuple):
    """What `Program.train` did."""

    steps: int  # steps done; a step whose loss is not finite is not done
    status: int  # DONE, LOSS_NOT_FINITE or PARAMS_NOT_FINITE
    epochs: int  # epochs finished, their mean losses at the front of `losses`
    loss: float  # loss of the last batch looked at


class Rule(NamedTuple):
    """An optimizer's row, what it works on, and what is done around it, for the steps to come.

    Parameters come in groups: one of all of them, or one of each weight and each bias, layer by layer (`2 k` and
    `2 k + 1`, the latter also where there is no bias). Buffers are padded as the parameters are.
    """

    row: Optimizer
    slots: list[np.ndarray]
    scalars: list[list[np.ndarray]]  # of each group: the row's, with a value for each step
    l1: list[float]  # of each group: the gradient += l1 * sign(parameter), after clipping
    skip_zeros: bool = False  # the rule leaves parameters without gradient alone: inputs of 0 may be passed over
    clip_value: float = np.inf  # bound of each element of a gradient
    clip_norm: float = np.inf  # bound of the norm of a whole gradient
    max_norm: float = np.inf  # bound of the norm of the weights into an output, after the update
    average: np.ndarray | None = None  # takes the running mean of the parameters
    decay: float = 0.0  # of that
    accumulate: int = 1  # an update after so many batches
    phase: int = 0  # how many of these there have been
    accumulated: np.ndarray | None = None  # the sum of their gradients

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing around the row, and one group."""
        bound = min(self.clip_value, self.clip_norm, self.max_norm)
        return bound == np.inf and self.l1 == [0] and self.average is None and self.accumulate == 1

    @property
    def buffers(self) -> list[np.ndarray]:
        """What moves with the parameters."""
        return [*self.slots, *(buffer for buffer in (self.average, self.accumulated) if buffer is not None)]


class Family(NamedTuple):
    """How a layer is computed."""

    name: str
    reason: str


class LayerPlan(NamedTuple):
    """How a layer of a batch is computed, and by how many threads forward and back."""

    family: Family
    forward_threads: int = 1
    backward_threads: int = 1


class Program(Protocol):
    """One network shape bound to its parameters; see `reference` for the plain meaning of every method."""

    def __init__(self, plan: Plan, params: np.ndarray) -> None: ...

    def train(
        self,
        X: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray | None,
        *,
        batch_size: int,
        steps: int,
        seed: int,
        shuffle: bool,
        count: np.ndarray,
        place: np.ndarray,
        partial: np.ndarray,
        losses: np.ndarray,
        rule: Rule,
        stop_on_loss: bool,
        stop_on_params: bool,
    ) -> Trained:
        """Run `steps` training steps: order, gather, forward with dropout, loss, backward, update.

        `count` int64 (1,) is ``net.step``, `place` int64 (2,) is [epoch, first row of the next batch], `partial`
        float64 (2,) is [sum of loss * rows, rows] of the epoch begun: all three are moved on with each step. Ctrl-C
        finds these, the parameters and the rule's buffers at one and the same step.
        `losses` takes the mean loss of each epoch finished. `seed` is that of the order and of dropout.
        """

    def forward(self, x: np.ndarray, out: np.ndarray | None, *, keep: bool = False) -> None:
        """The network's output for at most ``plan.batch`` rows into `out`; with `keep`, x is copied for `backward`."""

    def restore(self, x: np.ndarray, a: np.ndarray, z: np.ndarray | None) -> None:
        """As if x had just been sent forward through a single layer and had given a and z."""

    def loss(self, y: np.ndarray, weight: np.ndarray | None, total: float, *, gradient: bool) -> float:
        """sum(w l) / total for the rows just sent forward; with `gradient` also its gradient, for `backward`."""

    def backward(
        self,
        grads: np.ndarray,
        *,
        grad_output: np.ndarray | None = None,
        grad_input: np.ndarray | None = None,
        accumulate: bool = False,
    ) -> None:
        """Gradients of the rows just sent forward into `grads`, from `grad_output` or from `loss`."""

    def update(self, grads: np.ndarray, rule: Rule, count: np.ndarray) -> None:
        """One optimizer step with the gradients given; `count` as for `train`. Nothing is accumulated."""

    def backward_update(
        self, grad_output: np.ndarray, grad_input: np.ndarray, rule: Rule, count: np.ndarray
    ) -> None:
        """`backward` and `update` in one; `grad_input` comes from the weights before the update.

        Only for a rule without `clip_norm`, which needs the whole gradient first.
        """

    def finite(self) -> bool:
        """Whether every parameter is finite."""

    @property
    def sharing(self) -> str:
        """When a phase of a step is shared by threads, in words."""

    def describe(self, rows: int) -> list[LayerPlan]:
        """How `train` computes each layer of a batch of `rows`, and why so."""

    @property
    def workspace_bytes(self) -> int:
        """Memory laid out beside the parameters before the first step; 0 where each step allocates its own."""

    def train_step_again(
        self, x: Any, y: Any, loss: Any, optimizer: Any, state: Any, lock: Any, forced: tuple[Any, list]
    ) -> Callable[[Any, Any, Any, Any], float | None] | None:
        """`MLP.train_step` for arguments like these, checked in full just now, with this program; or None.

        What it gives takes (x, y, loss, optimizer) and makes the step while it holds `lock`, or does nothing and gives
        None where anything but values has changed: the objects, types and shapes, what is `forced`
        (`fastbp.config.FORCED`), the slots; or where another has the lock.
        """

    def predict_again(
        self, idle: list[Program], forced: tuple[Any, list]
    ) -> Callable[[Any], np.ndarray | None] | None:
        """`MLP.predict` in the same way, for at most ``plan.batch`` rows, with one of the programs of `idle`."""


def assign(arrays: list[np.ndarray], values: list[Any], owner: object = None, **attributes: Any) -> None:
    """``array[...] = value`` for each, and attributes of `owner`, in one call of C code.

    Signals are served before all of them or after.

    `numpy.copyto` would not do: NumPy dispatches it by a Python function, and there a signal may come in. Nor would
    values that are no arrays: NumPy serves signals as it converts a tuple.
    """
    targets = [*arrays, *(owner.__dict__ for _ in attributes)]
    keys = [*repeat(..., len(arrays)), *attributes]
    made = [*map(np.asarray, values), *attributes.values()]
    deque(map(operator.setitem, targets, keys, made), maxlen=0)


@dataclass(frozen=True)
class _Row:
    module: str
    dtypes: tuple[str, ...] | None  # None: every floating-point dtype
    needs_numba: str  # "always", for "own rows", which the tables do not hold, or "never"
    what: str


_TABLE = {  # in the order in which "auto" takes them
    "cython": _Row("fastbp.backends.compiled", ("float32", "float64"), "own rows", "C++ kernels through Cython"),
    "reference": _Row("fastbp.backends.reference", None, "never", "NumPy, the oracle of the tests"),
    "numba": _Row("fastbp.backends.jit", ("float32", "float64"), "always", "compiled for the network at hand by Numba"),
}
NAMES = tuple(_TABLE)


def engine() -> ModuleType | None:
    """The compiled extension, or None where it was not built."""
    try:
        return importlib.import_module("fastbp._engine")
    except ModuleNotFoundError as error:
        if error.name != "fastbp._engine":
            raise
        return None


def missing(name: str) -> str | None:
    """Why a backend cannot be used here, or None."""
    if name == "cython" and engine() is None:
        return "the extension fastbp._engine was not built"
    if _TABLE[name].needs_numba == "always" and not has_numba():
        return "Numba is not installed: pip install 'fastbp[numba]'"
    return None


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
    if row.dtypes is not None and dtype.name not in row.dtypes:
        return missing(name) or f"it lacks dtype {dtype}"
    if row.needs_numba == "own rows" and own_rows and not has_numba():
        what = f"it needs Numba for {', '.join(map(repr, own_rows))}, which the tables do not hold"
        return missing(name) or f"{what}: pip install 'fastbp[numba]'"
    return missing(name)


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
    return importlib.import_module(_TABLE[name].module).Program
