"""What an estimator keeps between calls beside scikit-learn's attributes."""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbp.backends.plan import Programs
from fastbp.mlp import MLP

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Asked(NamedTuple):
    """What `fit` and `partial_fit` are called with beyond scikit-learn's arguments."""

    validation_data: Any = None
    callbacks: Any = None
    progress: bool = False


NOTHING = Asked()
_NAMES = {4: "float32", 8: "float64"}  # a network whose arguments are plain is found in half the time


def _fixed(value: Any) -> Any:
    """A sequence as a tuple, which does not change."""
    return tuple(value) if isinstance(value, (list, np.ndarray)) else value


class Kept:
    """An estimator's network in the layout of the kernels, which no pickle holds, and what a call has asked for."""

    net: MLP
    views: list[NDArray[Any]]  # of its weights, then of its biases, in scikit-learn's order
    programs: Programs

    def __init__(self) -> None:
        self.asked = NOTHING
        self.live = False  # a fit is on: `coefs_` are the views
        self.made = False  # whether there is a network
        self._what: tuple[Any, ...] = ()
        self._arrays: list[NDArray[Any]] = []  # that it was last loaded from
        self._shapes: list[tuple[int, ...]] = []

    def network(self, estimator: Any, dtype: np.dtype[Any]) -> MLP:
        """The estimator's network, with `coefs_` and `intercepts_` as they are now."""
        if self.live:
            return self.net
        hidden, dropout = estimator.activation, estimator.dropout
        if type(hidden) is not str:
            hidden = _fixed(hidden)
        if type(dropout) is not int:
            dropout = _fixed(dropout)
        what = dtype, hidden, estimator.output_activation, dropout
        arrays = [*estimator.coefs_, *estimator.intercepts_]
        same = self._what == what and len(arrays) == len(self._arrays)
        if not same or not all(map(is_, arrays, self._arrays)):  # to look at shapes takes longer
            shapes = [array.shape for array in arrays]
            if self._what != what or self._shapes != shapes:
                self._make(arrays, *what)
                self.made, self._what, self._shapes = True, what, shapes
            self._arrays = arrays
        for view, array in zip(self.views, arrays):
            view[...] = array
        return self.net

    def _make(self, arrays: list[NDArray[Any]], dtype: np.dtype[Any], hidden: Any, output: Any, dropout: Any) -> None:
        weights, biases = arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]
        self.net = MLP(
            (len(weights[0]), *map(len, biases)), activation=hidden, dropout=dropout, init=weights, seed=0,
            output_activation="identity" if output is None else output, dtype=_NAMES.get(dtype.itemsize, dtype),
        )  # fmt: skip
        self.views = [*self.net.weights, *self.net.biases]
        self.programs = Programs(self.net.params)
