"""Epochs as scikit-learn makes them, many in one call of the engine.

The order of each epoch is drawn by NumPy's own generator, as scikit-learn draws it. Draws do not depend on what is
trained: those of a call are made ahead, and where the stopping rule ends it early the generator goes back and draws
again what was used.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbp.backends.again import most_steps
from fastbp.backends.protocol import Course, Program, stalled
from fastbp.training.run import next_chunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.sklearn.rules import Solver

_MOST_STEPS = 1 << 15  # of a call: what differs from step to step is in tables
_MOST_NUMBERS = 1 << 20  # in the orders of a call
DENSE_BYTES = 1 << 26  # of a sparse X that is made dense as a whole; else so many batches at a time
_PIECE_BYTES = 1 << 23


class Orders:
    """The orders of epochs: each a permutation of the one before, drawn when it is needed."""

    def __init__(self, random_state: np.random.RandomState, n: int, shuffles: bool) -> None:
        self._random_state, self._shuffles = random_state, shuffles
        self._last = np.arange(n)  # of the epoch before the next, or of the one begun
        self._begun = False

    def ahead(self, epochs: int) -> NDArray[np.int64] | None:
        """The orders of so many epochs, (epochs, n): the one begun, if one is, and those after it."""
        if not self._shuffles:
            return None
        n = len(self._last)
        self._before = self._random_state.get_state(legacy=False) if epochs > 1 else None
        self._ahead = np.empty((epochs, n), np.int64)
        order = self._last
        try:
            for k in range(epochs):
                if k or not self._begun:
                    order = order[self._draw(n)]
                self._ahead[k] = order
        except BaseException:  # Ctrl-C: nothing of this was used
            if self._before is not None:
                self._random_state.set_state(self._before)
            raise
        return self._ahead

    def used(self, epochs: int, begun: bool) -> None:
        """Of those, so many epochs are over, and one more has begun or not; the others are given back."""
        if not self._shuffles:
            return
        kept = epochs + begun
        if kept < len(self._ahead) and self._before is not None:
            self._random_state.set_state(self._before)
            for _ in range(kept - self._begun):
                self._draw(len(self._last))
        if kept:
            self._last = self._ahead[kept - 1].copy()
        self._begun = begun

    def _draw(self, n: int) -> NDArray[np.int64]:
        order = np.arange(n)
        self._random_state.shuffle(order)
        return order


class Rows(NamedTuple):
    """What is trained on. X: (n, columns), an array or CSR; y: (n,) labels or (n, outputs); weight: float64, (n,)."""

    X: Any
    y: NDArray[Any]
    weight: NDArray[np.float64] | None

    @property
    def in_pieces(self) -> bool:
        """Whether X stays sparse, and some batches of it are made dense at a time."""
        return not isinstance(self.X, np.ndarray)


class Epochs:
    """Training in epochs that begin where the last call has ended.

    Parameters
    ----------
    program : Program
    params : ndarray
        The buffer that it trains.
    solver : Solver
    rows : Rows
    batch_size : int
    orders : Orders
    alpha : float
        Strength of the L2 term: ``alpha / 2`` times the squares of all weights, divided by the rows of the batch or by
        the sum of their weights.
    factor : float
        Of the loss, without that term, where it is reported.
    rule : (best, tol, patience, bad)
        scikit-learn's stopping rule: where it begins, and `stall` is how it stands. A patience of inf never ends.
    seed : int
        Of dropout.
    """

    def __init__(
        self, program: Program, params: NDArray[Any], solver: Solver, rows: Rows, batch_size: int, orders: Orders, *,
        alpha: float, factor: float, rule: tuple[float, float, float, float], seed: int,
    ) -> None:  # fmt: skip
        self._program, self._params, self._solver, self._rows = program, params, solver, rows
        self._batch, self._orders, self._alpha, self._factor, self._seed = batch_size, orders, alpha, factor, seed
        self.n = rows.X.shape[0]
        self.steps_per_epoch = -(-self.n // batch_size)
        self.stall = np.array(rule, np.float64)
        self._first = int(solver.count[0])
        self._place, self._partial = np.zeros(2, np.int64), np.zeros(2)
        self._unseen: list[float] = []
        self._sizes = np.full(self.steps_per_epoch, float(batch_size))  # of the batches of an epoch
        self._sizes[-1] = self.n - (self.steps_per_epoch - 1) * batch_size
        self._wanted = most_steps(batch_size, params.size)  # of the next call, before anything is measured
        most = max(1, _MOST_NUMBERS // self.n)
        self._most_epochs = max(1, min(most, _MOST_STEPS // self.steps_per_epoch))
        if rows.in_pieces:
            self._piece = max(1, _PIECE_BYTES // (batch_size * rows.X.shape[1] * params.itemsize))

    # -------------------------------------------------------------- what the estimator calls

    def call(self, most_epochs: int) -> None:
        """Train as long as a chunk of `fit`, at most for so many epochs: for a part of one where that is long.

        `losses` has what came out, also where Ctrl-C ends the call.
        """
        first = int(self._place[1]) // self._batch
        epochs, steps = 1, self.steps_per_epoch - first
        if not first and not self._rows.in_pieces:
            epochs = max(1, min(self._wanted // steps, most_epochs, self._most_epochs))
            steps *= epochs
        if epochs == 1 and 2 * self._wanted < steps:
            steps = self._wanted
        if self._rows.in_pieces:
            steps = min(steps, self._piece)
        clock, before = time.perf_counter(), self._solver.count[0]
        self._train(epochs, first, steps)
        made = int(self._solver.count[0] - before)
        speed = made / max(time.perf_counter() - clock, 1e-9)
        self._wanted = next_chunk(speed, self._wanted)

    @property
    def steps(self) -> int:
        """Steps made."""
        return int(self._solver.count[0]) - self._first

    @property
    def mean_loss(self) -> float:
        """Of the batches of the epoch begun."""
        return float(self._partial[0] / self._partial[1])

    def losses(self) -> list[float]:
        """The losses of the epochs that have ended since this was last asked for."""
        unseen, self._unseen = self._unseen, []
        return unseen

    # -------------------------------------------------------------- within

    def _train(self, epochs: int, first: int, steps: int) -> None:
        orders = self._orders.ahead(epochs)
        totals = self._totals(orders, epochs, first, steps)
        empty = not np.all(totals)  # a batch of weights that sum to zero: what is before it is trained, as whole epochs
        if empty:
            steps = int(np.argmin(totals != 0))
            epochs = max(1, steps // self.steps_per_epoch)
            empty = steps < self.steps_per_epoch
            steps = steps if empty else epochs * self.steps_per_epoch
            totals, orders = totals[:steps], None if orders is None else orders[:epochs]
        if steps:
            self._train_steps(orders, epochs, first, steps, totals)
        if empty:
            if not steps:
                self._orders.used(0, True)
            raise ZeroDivisionError("Weights sum to zero, can't be normalized")  # as scikit-learn says it

    def _train_steps(self, orders: NDArray[np.int64] | None, epochs: int, first: int, steps: int, totals: Any) -> None:
        update = self._solver.update(epochs, steps, totals, self._params)
        l2 = np.full(steps, 0.5 * self._alpha / totals) if self._alpha else None
        place, made = self._place.copy(), int(self._solver.count[0])
        losses = np.empty(epochs + 1)
        try:
            if self._rows.in_pieces:
                self._train_piece(orders, first, steps, update, l2, losses)
            else:
                rows = self._rows
                course = Course(orders, self._factor, l2, self.stall)
                self._program.train(
                    rows.X, rows.y, rows.weight, batch_size=self._batch, steps=steps, seed=self._seed, shuffle=False,
                    count=self._solver.count, place=self._place, partial=self._partial, losses=losses, update=update,
                    stop_on_loss=False, stop_on_params=False, course=course,
                )  # fmt: skip
        finally:  # Ctrl-C comes after a call, or where that is of Python, between two of its steps
            ended = int(self._place[0] - place[0])
            self._orders.used(ended, bool(self._place[1]))
            self._solver.made(int(self._solver.count[0]) - made)
            self._unseen += losses[:ended].tolist()

    def _totals(self, orders: NDArray[np.int64] | None, epochs: int, first: int, steps: int) -> Any:
        """What gradients are divided by, rows or the sum of their weights: of each step, or one number for all."""
        weight = self._rows.weight
        if weight is None:
            if self._sizes[-1] == self._sizes[0]:
                return self._sizes[0]
            totals = self._sizes if epochs == 1 else np.tile(self._sizes, epochs)
            return totals[first : first + steps]
        starts = np.arange(self.steps_per_epoch) * self._batch
        every = weight[None] if orders is None else weight[orders]
        totals = np.add.reduceat(every, starts, axis=1).reshape(-1)
        return (np.tile(totals, epochs) if orders is None else totals)[first : first + steps]

    def _train_piece(
        self, orders: NDArray[np.int64] | None, first: int, steps: int, update: Any, l2: Any, losses: NDArray[Any]
    ) -> None:
        """Some batches of a sparse X, made dense; `place` and the stopping rule are moved on here."""
        rows, start = self._rows, first * self._batch
        stop = min(self.n, start + steps * self._batch)
        some = slice(start, stop) if orders is None else orders[0, start:stop]
        partial, of_piece = np.zeros(2), np.empty(2)
        course = Course(None, self._factor, l2, None)
        self._program.train(
            rows.X[some].toarray(), rows.y[some], None if rows.weight is None else rows.weight[some],
            batch_size=self._batch, steps=steps, seed=self._seed, shuffle=False, count=self._solver.count,
            place=np.zeros(2, np.int64), partial=partial, losses=of_piece, update=update, stop_on_loss=False,
            stop_on_params=False, course=course,
        )  # fmt: skip
        self._partial += of_piece[0] * (stop - start), stop - start
        self._place[1] = stop
        if stop == self.n:
            losses[0] = self._partial[0] / self._partial[1]
            self._partial[:] = 0
            self._place[:] = self._place[0] + 1, 0
            self.stall[:] = stalled(losses[0], self.stall)[1]
