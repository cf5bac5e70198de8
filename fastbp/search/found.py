"""What a sweep found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp.history import _pandas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from pandas import DataFrame

    from fastbp.history import ManyHistory
    from fastbp.mlp import MLP


@dataclass(frozen=True)
class Sweep:
    """What `sweep` found: a row for each candidate, in the order in which they were tried.

    Attributes
    ----------
    params : list of dict, (n_candidates,)
        The values of each candidate, by key of the space.
    metric : str
        What decided.
    fold_values : ndarray of float64, (n_candidates, n_folds)
        The metric of each network, one fold without `cv`; NaN where training failed.
    rank : ndarray of int64, (n_candidates,)
        1 is the best.
    rung : ndarray of int64, (n_candidates,)
        The last rung that each has reached, from 0; without halving there is one.
    status : ndarray of str, (n_candidates, n_folds)
        As in `ManyHistory`; empty for a network that was not begun.
    epochs : ndarray of int64, (n_candidates, n_folds)
        What each network has behind it; where early stopping took it back, up to there.
    nets : list of tuple of MLP, (n_candidates,)
        The networks of each candidate, one for each fold.
    history : tuple of ManyHistory
        That of each rung. Its keys are (candidate, fold), without `cv` the number of the candidate.
    seed : int
        That of draws, folds and networks.
    seconds : float
        Wall time of the call.
    """

    __module__ = "fastbp"

    params: list[dict[str, Any]] = field(repr=False)
    metric: str
    fold_values: NDArray[np.float64] = field(repr=False)
    rank: NDArray[np.int64] = field(repr=False)
    rung: NDArray[np.int64] = field(repr=False)
    status: NDArray[np.str_] = field(repr=False)
    epochs: NDArray[np.int64] = field(repr=False)
    nets: list[tuple[MLP, ...]] = field(repr=False)
    history: tuple[ManyHistory, ...] = field(repr=False)
    seed: int
    seconds: float
    _best_net: MLP | None = field(repr=False, init=False, default=None)

    def __len__(self) -> int:
        """The number of candidates."""
        return len(self.params)

    def __repr__(self) -> str:
        begin = f"Sweep({len(self)} candidates in {self.seconds:.3g} s"
        if np.isnan(self.best_value):
            return f"{begin}, none with a value of {self.metric})"
        shown = ", ".join(f"{name}={value!r}" for name, value in self.best.items())
        return f"{begin}, best {self.metric} {self.best_value:g}{': ' if shown else ''}{shown})"

    @property
    def values(self) -> NDArray[np.float64]:
        """The metric of each candidate, (n_candidates,): the mean over folds; NaN where one has none."""
        means: NDArray[np.float64] = self.fold_values.mean(axis=1)
        return means

    @property
    def best_index(self) -> int:
        """The number of the best candidate."""
        return int(self.rank.argmin())

    @property
    def best(self) -> dict[str, Any]:
        """The values of the best candidate.

        Raises
        ------
        RuntimeError
            No candidate has a value: all failed, or Ctrl-C came before any had one.
        """
        self._check()
        return dict(self.params[self.best_index])

    @property
    def best_net(self) -> MLP:
        """The best candidate's network, trained on all rows.

        Raises
        ------
        RuntimeError
            There is none: the sweep had ``refit=False``, or was interrupted, or no candidate has a value.
        """
        self._check()
        if self._best_net is None:
            raise RuntimeError("no network was trained on all rows, as of refit=False or Ctrl-C; "
                               f"nets[{self.best_index}] has those of the best candidate's folds")  # fmt: skip
        return self._best_net

    def _check(self) -> None:
        """Make sure that there is a best candidate."""
        if np.isnan(self.best_value):
            errors = [error for history in self.history for error in history.errors.values()]
            why = f"; the first error: {errors[0]}" if errors else ""
            raise RuntimeError(f"none of the {len(self)} candidates has a value of {self.metric!r}{why}. `columns` and "
                               "`history` tell what became of each")  # fmt: skip

    @property
    def best_value(self) -> float:
        """The metric of the best candidate; NaN where none has one."""
        return float(self.values[self.best_index])

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The table, a column of (n_candidates,) by name.

        The keys of the space; the metric, and with several folds its standard deviation among them; `rank`, `rung` and
        `n_epochs`, the mean over folds; `status`, that of the first network that did not end as "done".
        """
        made: dict[str, NDArray[Any]] = {}
        for name in self.params[0]:
            made[name] = _column([candidate[name] for candidate in self.params])
        made[self.metric] = self.values
        if self.fold_values.shape[1] > 1:
            made[f"{self.metric}_std"] = self.fold_values.std(axis=1)
        off = (self.status != "done").argmax(axis=1)
        return made | {"rank": self.rank, "rung": self.rung, "n_epochs": self.epochs.mean(axis=1),
                       "status": self.status[np.arange(len(self)), off]}  # fmt: skip

    def to_frame(self) -> DataFrame:
        """The table as a pandas DataFrame; its index is the number of the candidate.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        pandas = _pandas(self)
        return pandas.DataFrame(self.columns, index=pandas.RangeIndex(len(self), name="candidate"))

    def plot(self, ax: Axes | None = None, *, log: bool | None = None) -> Axes:
        """Draw the metric against each key of the space: `fastbp.plot.sweep` of this one.

        Parameters
        ----------
        ax, log
            As there.

        Returns
        -------
        matplotlib.axes.Axes
            Of the first key.
        """
        from fastbp import plot

        return plot.sweep(self, ax, log=log)


def _column(values: list[Any]) -> NDArray[Any]:
    """Numbers, truth values or names as arrays of their kind, anything else as objects."""
    kinds = set(map(type, values))
    if kinds <= {int, float} or len(kinds) == 1 and kinds <= {bool, str}:
        return np.array(values)
    column = np.empty(len(values), object)
    column[:] = values
    return column
