"""What an estimator keeps between calls beside scikit-learn's attributes."""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from fastbp.backends.plan import Programs
from fastbp.mlp import MLP
from fastbp.sklearn.watch import Watch

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Asked(NamedTuple):
    """What `fit` and `partial_fit` are called with beyond scikit-learn's arguments."""

    validation_data: Any = None
    watch: Watch | None = None  # of callbacks and a bar


NOTHING = Asked()
_NAMES = {4: "float32", 8: "float64"}  # a network whose arguments are plain is found in half the time


def _fixed(value: Any) -> Any:
    """A sequence as a tuple, which does not change."""
    return tuple(value) if isinstance(value, (list, np.ndarray)) else value


class Layout:
    """A network in the layout of the kernels.

    Parameters
    ----------
    arrays : list of ndarray
        Weights, then biases.
    shapes : list of tuple
        Of those.
    what : (dtype, activations of hidden layers, activation of the output or None, dropout)
    """

    def __init__(self, arrays: list[NDArray[Any]], shapes: list[tuple[int, ...]], what: tuple[Any, ...]) -> None:
        weights, biases = arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]
        dtype, hidden, output, dropout = what
        self.net = MLP(
            (len(weights[0]), *map(len, biases)), activation=hidden, dropout=dropout, init=weights, seed=0,
            output_activation="identity" if output is None else output, dtype=_NAMES.get(dtype.itemsize, dtype),
        )  # fmt: skip
        self.views = [*self.net.weights, *self.net.biases]  # in scikit-learn's order
        self.programs = Programs(self.net.params)
        self.arrays, self.shapes, self.what = arrays, shapes, what  # it was last loaded from these


class Kept:
    """An estimator's network in the layout of the kernels, which no pickle holds, and what a call has asked for.

    Threads that predict in different dtypes make a layout each: what is read together is in one object.
    """

    def __init__(self) -> None:
        self.asked = NOTHING
        self.live: Any = None  # the `Fit` that is on: `coefs_` are the views of its layout
        self.last: Layout | None = None
        self.goes_on, self.orders = False, None  # whether the next `fit` goes on with the orders of epochs of this one
        self._random_state: np.random.RandomState | None = None

    def seeded(self, random_state: Any) -> np.random.RandomState:
        """As `check_random_state` has it; seeding one of our own again takes a tenth of the time of making one."""
        if type(random_state) is not int:
            return check_random_state(random_state)
        if self._random_state is None:
            self._random_state = np.random.RandomState()
        self._random_state.seed(random_state)
        return self._random_state

    def layout(self, estimator: Any, dtype: np.dtype[Any]) -> Layout:
        """The estimator's network, with `coefs_` and `intercepts_` as they are now."""
        live = self.live
        if live is not None:
            found: Layout = live.layout
            return found
        hidden, dropout = estimator.activation, estimator.dropout
        if type(hidden) is not str:
            hidden = _fixed(hidden)
        if type(dropout) is not int:
            dropout = _fixed(dropout)
        what = dtype, hidden, estimator.output_activation, dropout
        arrays = [*estimator.coefs_, *estimator.intercepts_]
        last = self.last
        same = last is not None and last.what == what and len(arrays) == len(last.arrays)
        if last is None or not same or not all(map(is_, arrays, last.arrays)):  # to look at shapes takes longer
            shapes = [array.shape for array in arrays]
            if last is None or last.what != what or last.shapes != shapes:
                last = self.last = Layout(arrays, shapes, what)
            last.arrays = arrays
        for view, array in zip(last.views, arrays):
            view[...] = array
        return last
