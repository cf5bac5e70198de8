"""The compiled module, src/engine.pyx. Only `fastbp.backends` and tests import it.

Nothing is checked down here: `fastbp.spec` has checked the arguments, `fastbp.backends.plan` has chosen. Arrays of the
network's dtype say so (`_Own`); the caller's arrays may have any real dtype, any strides and either byte order.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastbp.backends.plan import Programs
from fastbp.backends.protocol import Course, Member, Plan, Update
from fastbp.optimizers import Rule
from fastbp.rows import Loss, Optimizer
from fastbp.spec import Spec
from fastbp.training.state import TrainingState

_Own: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
_Callers: TypeAlias = NDArray[Any]
# in_features, out_features, ldw, transposed, offset of weight, of bias or -1, row of the activation or -1, functions of
# a user's own or 0, keeps_z, skips_zeros, whether weight and bias are trained, share of its inputs that is dropped
_Layer: TypeAlias = tuple[int, int, int, bool, int, int, int, int, int, bool, bool, bool, bool, float]

COMPILER: str  # name and version
COMPILE_FLAGS: str
FLOPS_OF_A_THREAD: int  # what each has to do at least in a phase
ROWS: int  # fastbp.rows.digest of the tables it was built from

def isas_built() -> list[str]: ...
def isas_found() -> list[str]: ...
def choose_isa(requested: str | None = None) -> str: ...
def has_bfloat16(isa: str) -> bool: ...
def vector_bytes(isa: str) -> int: ...
def allocations() -> tuple[int, int, int]: ...
def set_guard(on: bool) -> None: ...
def tile_gflops(isa: str, precision: str) -> float: ...
def read_repeatedly(array: _Own, repeats: int) -> float: ...
def environment_stamp() -> int: ...
def epoch_orders(isa: str, seeds: NDArray[np.uint64], epochs: NDArray[np.uint64], n: int) -> NDArray[np.uint32]: ...
def limit_threads(most: int) -> None: ...
def thread_limit() -> int: ...
def phase_seconds(threads: int, repeats: int) -> float: ...

class Program:
    piece: tuple[int, int]
    @property
    def plan(self) -> Plan: ...
    @property
    def params(self) -> _Own: ...
    def __new__(
        cls,
        plan: Plan,
        params: _Own,  # the whole padded buffer, as every buffer below
        isa: str | None,  # None only in plans of other backends: RuntimeError
        layers: list[_Layer],
        loss: int,  # row of the table, -1 for none
        loss_scale: float,
        settings: list[float],  # fastbp.rows.Loss.numbers
        output_weights: list[float],  # empty: none
        optimizer_index: dict[Optimizer, int],
        own_rows: object,  # gives the address of an own rule's function: `update(row)`
        own_loss: tuple[int, bool, bool],  # function of an own loss or 0, whether it uses lse, has pairs
        like: Program | None = None,  # shares its workspace: of the same params, and never at work at the same time
    ) -> Self: ...
    def train(
        self,
        X: _Callers,  # (n, in_features)
        y: _Callers,  # labels (n,), or (n, out_features)
        weight: NDArray[np.float64] | None,  # (n,) or (n, out_features), contiguous
        *,
        batch_size: int,
        steps: int,
        seed: int,
        shuffle: bool,
        count: NDArray[np.int64],  # (1,)
        place: NDArray[np.int64],  # (2,)
        partial: NDArray[np.float64],  # (2,)
        losses: NDArray[np.float64],  # room for every epoch that may end
        update: Update,
        stop_on_loss: bool,
        stop_on_params: bool,
        course: Course | None = None,
        goes_on: bool = False,
    ) -> tuple[int, int, int, float]: ...  # the fields of fastbp.protocol.Trained
    def forward(self, x: _Callers, out: _Own | None, *, keep: bool = False) -> None: ...
    def restore(self, x: _Callers, a: _Callers, z: _Callers | None) -> None: ...
    def loss(self, y: _Callers, weight: NDArray[np.float64] | None, total: float, *, gradient: bool) -> float: ...
    def backward(
        self,
        grads: _Own | None,
        *,
        grad_output: _Callers | None = None,
        grad_input: _Own | None = None,
        accumulate: bool = False,
    ) -> None: ...
    def update(self, grads: _Own, update: Update, count: NDArray[np.int64]) -> None: ...  # count (1,)
    def backward_update(
        self, grad_output: _Callers, grad_input: _Own, update: Update, count: NDArray[np.int64]
    ) -> None: ...
    def finite(self) -> bool: ...
    def described(self, rows: int) -> list[tuple[int, int, int]]: ...  # fastbp.protocol.LayerPlan; family: its index
    @property
    def workspace_bytes(self) -> int: ...

class Many:
    @property
    def plan(self) -> Plan: ...
    @property
    def members(self) -> list[Member]: ...
    def __new__(
        cls,
        plan: Plan,
        members: list[Member],
        isa: str | None,
        layers: list[_Layer],
        loss: int,  # these five as for Program; there are no rows of a user's own
        loss_scale: float,
        settings: list[float],
        output_weights: list[float],
        optimizer_index: dict[Optimizer, int],
        *,
        batch_size: int,
        shuffle: bool,
        stop_on_non_finite: bool,
    ) -> Self: ...
    def train(
        self,
        which: NDArray[np.int64],  # (k,), contiguous
        steps: NDArray[np.int64],  # (k,)
        updates: list[Update],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
    def evaluate(
        self,
        which: NDArray[np.int64],
        X: _Callers,
        y: _Callers,
        weight: NDArray[np.float64] | None,  # (n,), contiguous
        total: float,
    ) -> NDArray[np.float64]: ...
    def forward(self, which: NDArray[np.int64], X: _Callers, out: _Own) -> None: ...  # out (k, n, out_features)

class Forced:
    def __new__(cls, context: ContextVar[str | None], process: list[str | None]) -> Self: ...

class KnownLoss: ...
class KnownRule: ...

class Calls:
    """See `fastbp.backends.again`. Each verb gives None where the long way is to be taken."""

    def __new__(
        cls, forced: Forced, spec: Spec, programs: Programs, params: _Own, state: TrainingState, lock: Any,
        pending: list[tuple[Program, int]], make_buffer: Callable[[], _Own],
        room_for: Callable[[list[_Own]], list[_Own]], give_back: Callable[[list[_Own]], None],
    ) -> Self: ...  # fmt: skip
    def is_current(self) -> bool: ...
    def remember_ahead(self, rows: int, idle: list[Program], hidden: int | None = None) -> None: ...
    def remember_kept(self, plan: Plan, idle: list[Program]) -> None: ...
    def remember_loss(
        self,
        loss: Any,
        what: tuple[Loss, bool, int, float, float, bool],  # labels, targets of a row of data, the domain
        rows: int = 0,
        idle: list[Program] | None = None,
    ) -> KnownLoss: ...
    def remember_step(
        self, loss: KnownLoss, optimizer: Any, what: tuple[Rule, int, bool, bool], rows: int, idle: list[Program]
    ) -> None: ...  # the rule, accumulate, is_steady, has_schedule
    def remember_update(self, optimizer: Any, what: tuple[Rule, int, bool, bool], idle: list[Program]) -> None: ...
    def rule(self, optimizer: Any, what: tuple[Rule, int, bool, bool]) -> KnownRule: ...
    def train_batches(
        self,
        program: Program,
        loss: KnownLoss,
        rule: KnownRule,
        batches: list[Any] | tuple[Any, ...],
        stop: int,
        stop_on_loss: bool,
        place: NDArray[np.int64],  # (2,)
        partial: NDArray[np.float64],  # (2,)
    ) -> int: ...
    def knows_step(self, rows: int, loss: Any, optimizer: Any) -> bool: ...
    def fit(
        self, X: Any, y: Any, loss: Any, optimizer: Any, batch_size: int, steps: int, shuffle: bool, most: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], int, Rule] | None: ...  # losses, net.step at each, steps
    def train_step(
        self, x: Any, y: Any, loss: Any, optimizer: Any, sample_weight: Any, missing: Any
    ) -> float | None: ...
    def predict(self, X: Any) -> _Own | None: ...
    def hidden(self, X: Any, layer: Any) -> _Own | None: ...
    def input_gradient(self, X: Any, output: Any) -> _Own | None: ...
    def evaluate(self, X: Any, y: Any, loss: Any, sample_weight: Any) -> float | None: ...
    def loss_and_grad(self, X: Any, y: Any, loss: Any, sample_weight: Any) -> tuple[float, _Own] | None: ...
    def forward(self, x: Any) -> _Own | None: ...
    def backward(self, grad_output: Any, accumulate: Any, grads: _Own) -> _Own | None: ...
    def update(self, optimizer: Any, grads: _Own) -> bool | None: ...
    def backward_update(self, grad_output: Any, optimizer: Any) -> _Own | None: ...

# ---- fastbp.ops; each takes the arguments of the function of its name, and gives None where nothing was done

class Ops:
    @property
    def forced(self) -> Forced | None: ...
    def __new__(
        cls,
        forced: Forced | None,
        isa: str,
        activations: dict[Any, int],  # by name, and by the id of a row; -1 for the identity
        keeps_z: list[bool],  # by that number
        optimizers: dict[str, int],
        threads: Callable[[], int],
        gated: bool,
    ) -> Self: ...
    def still(self) -> bool: ...
    def for_one_call(self) -> Ops: ...
    def remember(
        self, optimizer: object, row: str, state: tuple[str, ...], itemsize: int, scalars: list[NDArray[np.float64]],
        first: int, end: int,
    ) -> None: ...
    def linear(self, x: Any, weight: Any, bias: Any, activation: Any, out: Any, out_z: Any) -> Any: ...
    def linear_backward(
        self, grad_output: Any, a: Any, x: Any, weight: Any, activation: Any, z: Any, out: Any
    ) -> Any: ...
    def linear_backward_update(
        self, grad_output: Any, a: Any, x: Any, weight: Any, bias: Any, optimizer: Any, activation: Any, z: Any,
        slots: Any, step: Any, out: Any,
    ) -> Any: ...
    def sgd_update(self, param: Any, grad: Any, lr: Any, velocity: Any) -> Any: ...
    def activation(self, z: Any, activation: Any, out: Any) -> Any: ...
    def activation_backward(self, grad: Any, a: Any, activation: Any, z: Any, out: Any) -> Any: ...
    def loss(
        self,
        row: int,
        settings: list[float],
        output_weights: list[float],  # empty: none
        z: _Own,
        y: _Own | NDArray[np.int32],  # labels (n,)
        share: NDArray[np.float64],  # of each row, and 16 zeros
        grad: _Own,
    ) -> float: ...

# ---- the C API, fastbp/_engine.pxd

api: Any  # a capsule

class Bound:
    def __new__(cls, program: Program) -> Self: ...
