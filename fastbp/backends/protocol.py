"""What goes into a backend and what comes out: a plan, the program that is made of it, an update, what was trained.

A backend turns a plan into a *program*: one network shape bound to its parameter buffer, with the workspace for a
batch. Programs are not shared between threads; `fastbp.backends.plan.Programs` hands them out.
"""

from __future__ import annotations

import operator
from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from fastbp.rows import Loss, Optimizer
    from fastbp.spec import Spec


class Plan(NamedTuple):
    """Everything that a program is made from. Hashable: equal plans share programs."""

    spec: Spec
    batch: int  # rows that the workspace holds
    backend: str
    isa: str | None  # of the compiled kernels; None on other backends
    loss: Loss | None
    optimizer: Optimizer | None
    trains: tuple[tuple[bool, bool], ...]  # weight and bias of each layer; not those that are frozen
    plain: bool  # nothing is around the rule, one rate for all, nothing frozen
    fused: bool  # `train` updates each tile of a gradient while it is hot; else gradients go to memory first
    n_threads: int = 1  # at most; the engine decides for each phase (`share` in src/train.cpp)
    gated: bool = True  # by what a thread has to do at least

    @property
    def bare(self) -> bool:
        """Whether a step is what its tables say and no more: `plain`, and no inputs are dropped."""
        return self.plain and not self.spec.dropout

    @property
    def rounds(self) -> bool:
        """Whether `train` multiplies numbers that are rounded to bfloat16; nothing else does."""
        return self.optimizer is not None and self.spec.matmul_precision == "bfloat16"

    def __hash__(self) -> int:
        """Of what tells the plans of one network apart: to hash the rest takes longer than to compare it."""
        loss, optimizer = self.loss, self.optimizer
        return hash((self.batch, loss and loss.name, optimizer and optimizer.name))


# How a call of `Program.train` ended.
DONE, LOSS_NOT_FINITE, PARAMS_NOT_FINITE, STALLED = 0, 1, 2, 3


class Trained(NamedTuple):
    """What `Program.train` did."""

    steps: int  # steps done; a step whose loss is not finite is not done
    status: int  # DONE, LOSS_NOT_FINITE, PARAMS_NOT_FINITE or STALLED
    epochs: int  # epochs finished, their mean losses at the front of `losses`
    loss: float  # of the last batch looked at, as it is reported


class Course(NamedTuple):
    """What a caller that makes epochs of its own asks of `Program.train`; `fit` asks for none of it.

    Arrays are contiguous. A loss is *reported* in `partial`, `losses` and `Trained.loss`. Gradients know nothing of it,
    and what `stop_on_loss` looks at, and then hands back, is the loss itself.
    """

    orders: np.ndarray | None = None  # int64 (epochs, n): of each epoch the call comes to, the one begun first
    factor: float = 1.0  # a batch's loss is reported times this
    l2: np.ndarray | None = None  # float64 (steps,): plus this times the sum of squares of all weights before the step
    stall: np.ndarray | None = None  # float64 (4,): [best, tol, patience, bad], see `stalled`; moved on as `place` is


def stalled(loss: float, stall: np.ndarray) -> tuple[bool, np.ndarray]:
    """scikit-learn's stopping rule at an epoch's end, and what it goes on with.

    Epochs that are not better than the best by `tol` are counted; any other, and one whose loss is NaN, makes the count
    0. More of them in a row than `patience` are too many.
    """
    best, tol, patience, bad = stall.tolist()
    bad = bad + 1 if loss > best - tol else 0.0
    return bad > patience, np.array([loss if loss < best else best, tol, patience, bad])


class Update(NamedTuple):
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


def weight_parts(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, targets) as the largest of each row, (n,), and the part of it that each target has."""
    largest = weight.max(axis=1)
    return largest, weight / np.where(largest > 0, largest, 1)[:, None]


def total_weight(weight: np.ndarray | None, n: int) -> float:
    """What the loss of n rows is divided by: the sum of their weights, where these are (n, targets) of rows' means.

    A mean is the largest weight times the mean of the parts: where all are the same it is that weight to the last bit.
    """
    if weight is None:
        return float(n)
    if weight.ndim == 2:
        largest, parts = weight_parts(weight)
        weight = largest * parts.mean(axis=1)
    return float(weight.sum())


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

    piece: tuple[int, int]  # rows of a batch, and steps of them that the last run would make next in one piece; (0, 0)

    @property
    def plan(self) -> Plan: ...

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
        update: Update,
        stop_on_loss: bool,
        stop_on_params: bool,
        course: Course | None = None,
        goes_on: bool = False,
    ) -> Trained:
        """Run `steps` training steps: order, gather, forward with dropout, loss, backward, update.

        `weight` is float64 and contiguous, (n,), or (n, targets of a row) for a loss that `is_pointwise`; a target of
        weight 0 may be any number, NaN too.

        `count` int64 (1,) is ``net.step``, `place` int64 (2,) is [epoch, first row of the next batch], `partial`
        float64 (2,) is [sum of loss * rows, rows] of the epoch begun: all three are moved on with each step. Ctrl-C
        finds these, the parameters and the rule's buffers at one and the same step.
        `losses` takes the mean loss of each epoch finished. `seed` is that of the order and of dropout; with
        ``course.orders`` `shuffle` is not looked at, and indices of rows are not checked.
        `goes_on`: since this program's last call nobody else has touched the parameters, and X is the same, untouched.
        What the program has made of them it may use again.
        """

    def forward(self, x: np.ndarray, out: np.ndarray | None, *, keep: bool = False) -> None:
        """The network's output for at most ``plan.batch`` rows into `out`; with `keep`, x is copied for `backward`."""

    def restore(self, x: np.ndarray, a: np.ndarray, z: np.ndarray | None) -> None:
        """As if x had just been sent forward through a single layer and had given a and z."""

    def loss(self, y: np.ndarray, weight: np.ndarray | None, total: float, *, gradient: bool) -> float:
        """sum(w l) / total for the rows just sent forward; with `gradient` also its gradient, for `backward`.

        `weight` as for `train`; `total` as `total_weight` gives it.
        """

    def backward(
        self,
        grads: np.ndarray | None,
        *,
        grad_output: np.ndarray | None = None,
        grad_input: np.ndarray | None = None,
        accumulate: bool = False,
    ) -> None:
        """Gradients of the rows just sent forward into `grads`, from `grad_output` or from `loss`.

        Without `grads` parameters have none, and `grad_input` alone is made.
        """

    def update(self, grads: np.ndarray, update: Update, count: np.ndarray) -> None:
        """One optimizer step with the gradients given; `count` as for `train`. Nothing is accumulated."""

    def backward_update(
        self, grad_output: np.ndarray, grad_input: np.ndarray, update: Update, count: np.ndarray
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


class Member(NamedTuple):
    """A network among `Many`: what these read and move on. Arrays are contiguous, X and y as for `Program.train`."""

    params: np.ndarray  # padded, as the rule's slots are
    count: np.ndarray  # int64 (1,): ``net.step``
    place: np.ndarray  # int64 (2,): [epoch, first row of the next batch]
    partial: np.ndarray  # float64 (2,): [sum of loss * rows, rows] of the epoch begun
    losses: np.ndarray  # float64: takes the mean loss of each epoch that ends, one after the other over all calls
    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None  # float64 (rows of X,)
    rows: np.ndarray | None  # int64: the rows of X, y and weight that it trains on, in this order; None: all
    seed: int  # of the order of rows


class Many(Protocol):
    """Networks of one kind that train side by side, a network per lane of a vector.

    What a member ends with does not depend on the others, nor on their order. It is not to the last bit what `Program`
    gives: sums go another way.
    """

    @property
    def plan(self) -> Plan: ...

    def __init__(
        self, plan: Plan, members: list[Member], *, batch_size: int, shuffle: bool, stop_on_non_finite: bool
    ) -> None: ...

    def train(
        self, which: np.ndarray, steps: np.ndarray, updates: list[Update]
    ) -> tuple[np.ndarray, np.ndarray]:
        """`steps[k]` steps of member ``which[k]`` (both int64, contiguous), made with ``updates[k]``, plain ones.

        Gives the status and the number of epochs finished of each, int64. With LOSS_NOT_FINITE or PARAMS_NOT_FINITE a
        member stays as it was after its last finite step; the others have done all their steps.
        Members that do equally many steps are best neighbours in `which`, and those at one place of the same rows too.
        """

    def evaluate(
        self, which: np.ndarray, X: np.ndarray, y: np.ndarray, weight: np.ndarray | None, total: float
    ) -> np.ndarray:
        """sum(w l) / total of each member ``which[k]`` on all rows, float64; `weight` is None or float64 (n,)."""

    def forward(self, which: np.ndarray, X: np.ndarray, out: np.ndarray) -> None:
        """The outputs of each member ``which[k]`` for all rows into `out`, (k, n, out_features)."""


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
