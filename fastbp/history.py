"""What a run leaves behind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from pandas import DataFrame


def _pandas(history: object) -> Any:
    try:
        import pandas
    except ImportError as error:
        name = type(history).__name__
        raise ImportError(f"{name}.to_frame needs pandas: pip install 'fastbp[pandas]'") from error
    return pandas


@dataclass(frozen=True)
class History:
    """The losses of one `fit`.

    Attributes
    ----------
    loss : ndarray of float64, (n_entries,)
        One entry per epoch finished in this call: the mean of its batches' losses before their updates, weighted by
        rows; an unfinished last epoch is an entry of its own. With ``eval_every=k`` instead the loss on all of X, y
        after every k-th step.
    step : ndarray of int64, (n_entries,)
        ``net.step`` at each entry.
    seconds : float
        Wall time of the call.
    n_steps : int
        Steps done in this call.
    columns : dict of str to ndarray of float64, (n_entries,)
        What else is known of each entry: ``"lr"``, the learning rate of the step before it; ``"val_loss"`` and the
        metrics, by name, where `fit` was asked for them.
    stopped : str or None
        Why the run ended before its steps were done; of L-BFGS in SciPy's words.
    """

    loss: NDArray[np.float64] = field(repr=False)
    step: NDArray[np.int64] = field(repr=False)
    seconds: float
    n_steps: int
    columns: dict[str, NDArray[np.float64]] = field(repr=False, default_factory=dict)
    stopped: str | None = None

    @property
    def lr(self) -> NDArray[np.float64]:
        """The learning rate of the step before each entry."""
        return self._column("lr")

    @property
    def val_loss(self) -> NDArray[np.float64]:
        """The loss on the validation rows at each entry; NaN without any."""
        return self._column("val_loss")

    @property
    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """The metrics at each entry by name, ``"val_..."`` where they are those of the validation rows."""
        return {name: column for name, column in self.columns.items() if name not in ("lr", "val_loss")}

    def _column(self, name: str) -> NDArray[np.float64]:
        return self.columns[name] if name in self.columns else np.full(len(self.loss), np.nan)

    def __repr__(self) -> str:
        last = f", last loss {self.loss[-1]:g}" if len(self.loss) else ""
        stopped = "" if self.stopped is None else f", stopped: {self.stopped}"
        return f"History({self.n_steps} steps in {self.seconds:.3g} s{last}{stopped})"

    def to_dict(self) -> dict[str, list[float]]:
        """All columns as lists of numbers, as `json` takes them.

        Returns
        -------
        dict of str to list, (n_entries,)
            ``"step"``, ``"loss"``, and what else is known of each entry, by name.
        """
        return {name: column.tolist() for name, column in self._all_columns().items()}

    def to_frame(self) -> DataFrame:
        """All columns as a pandas DataFrame, a row for each entry; its index is the step.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        return _pandas(self).DataFrame(self._all_columns()).set_index("step")

    def plot(self, ax: Axes | None = None, *, log: bool | None = None) -> Axes:
        """Draw the curves of the run: `fastbp.plot.history` of this history.

        Parameters
        ----------
        ax, log
            As there.

        Returns
        -------
        matplotlib.axes.Axes
            Of the loss.
        """
        from fastbp import plot

        return plot.history(self, ax, log=log)

    def _all_columns(self) -> dict[str, Any]:
        return {"step": self.step, "loss": self.loss, **self.columns}


@dataclass(frozen=True)
class ManyHistory:
    """The losses of the networks of one `fit_many`, a row for each network, in the order in which they were given.

    Arrays of entries are as wide as the longest network's; behind a network's last entry they hold NaN.

    Attributes
    ----------
    loss : ndarray of float64, (n_networks, n_entries)
        As in `History`: the mean of each epoch's losses; with ``eval_every=k`` the loss on all of a network's rows.
    step : ndarray of int64, (n_networks, n_entries)
        ``net.step`` at each entry; -1 behind the last.
    n_steps : ndarray of int64, (n_networks,)
        Steps done in this call.
    status : ndarray of str, (n_networks,)
        How each network ended: "done", all its steps; "stopped" by early stopping or by the time limit; "nonfinite", at
        its last finite step; "failed" by an error of its own; "interrupted" by Ctrl-C, or as its executor broke.
    kernel : ndarray of str, (n_networks,)
        "lanes" for a network that was trained side by side with others in one vector, else "one by one".
    seconds : float
        Wall time of the call.
    columns : dict of str to ndarray of float64, (n_networks, n_entries)
        ``"val_loss"`` and the metrics, by name, where `fit_many` was asked for them.
    best_value : ndarray of float64, (n_networks,)
        The best value that early stopping saw; NaN without.
    best_step : ndarray of int64, (n_networks,)
        ``net.step`` there, -1 without.
    errors : dict of int to Exception
        Of the networks that are "nonfinite" or "failed", by their number. They have no traceback; that of a "failed"
        one is a note, which is printed with it.
    keys : list or None
        The key of each network, where there were keys: those of `by`, or of a dict of networks.
    """

    loss: NDArray[np.float64] = field(repr=False)
    step: NDArray[np.int64] = field(repr=False)
    n_steps: NDArray[np.int64] = field(repr=False)
    status: NDArray[np.str_] = field(repr=False)
    kernel: NDArray[np.str_] = field(repr=False)
    seconds: float
    columns: dict[str, NDArray[np.float64]] = field(repr=False, default_factory=dict)
    best_value: NDArray[np.float64] = field(repr=False, default_factory=lambda: np.empty(0))
    best_step: NDArray[np.int64] = field(repr=False, default_factory=lambda: np.empty(0, np.int64))
    errors: dict[int, Exception] = field(repr=False, default_factory=dict)
    keys: list[Any] | None = field(repr=False, default=None)

    def __len__(self) -> int:
        """The number of networks."""
        return len(self.loss)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in Counter(self.status.tolist()).most_common())
        steps = int(self.n_steps.sum())
        return f"ManyHistory({len(self)} networks, {steps} steps in {self.seconds:.3g} s: {counts or 'none'})"

    @property
    def val_loss(self) -> NDArray[np.float64]:
        """The loss on the validation rows at each entry, (n_networks, n_entries); NaN without any."""
        return self.columns["val_loss"] if "val_loss" in self.columns else np.full(self.loss.shape, np.nan)

    @property
    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """The metrics at each entry by name, ``"val_..."`` where they are those of the validation rows."""
        return {name: column for name, column in self.columns.items() if name != "val_loss"}

    @property
    def n_entries(self) -> NDArray[np.int64]:
        """How many entries each network has, (n_networks,)."""
        counts: NDArray[np.int64] = np.count_nonzero(self.step >= 0, axis=1)
        return counts

    def _last(self, column: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each network its last entry, NaN where it has none."""
        if not column.shape[1]:
            return np.full(len(column), np.nan)
        n = self.n_entries
        return np.where(n > 0, column[np.arange(len(column)), n - 1], np.nan)

    def best(self, k: int = 1) -> NDArray[np.int64]:
        """The numbers of the `k` best networks, the best one first.

        They are sorted by the lowest `val_loss` among a network's entries; without validation rows by the last `loss`.
        Networks that failed or have no such number are left out, so there may be fewer.

        Parameters
        ----------
        k : int, default 1

        Returns
        -------
        ndarray of int64, (k,)
        """
        from fastbp.checks import integer

        k = integer("k", k, 1)
        if "val_loss" in self.columns:
            known = np.where(np.isnan(self.val_loss), np.inf, self.val_loss)
            values = known.min(axis=1, initial=np.inf)
        else:
            values = self._last(self.loss)
        values = np.where(np.isin(self.status, ("nonfinite", "failed")), np.inf, values)
        order: NDArray[np.int64] = np.argsort(values, kind="stable")[:k]
        return order[np.isfinite(values[order])]

    def to_frame(self, *, entries: bool = False) -> DataFrame:
        """A pandas DataFrame with a row for each network, or for each entry.

        Parameters
        ----------
        entries : bool, default False
            False: a row for each network, with its last entries; its index is the key, or the number of the network.
            True: a row for each entry of each network; its index is that and the step.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        pandas = _pandas(self)
        name, keys = ("network", range(len(self))) if self.keys is None else ("key", self.keys)
        curves = {"loss": self.loss, **self.columns}
        if entries:
            there = self.step >= 0
            network, _ = np.nonzero(there)
            index = [pandas.Index(keys).take(network), self.step[there]]
            columns = {name: column[there] for name, column in curves.items()}
            return pandas.DataFrame(columns, index=pandas.MultiIndex.from_arrays(index, names=[name, "step"]))
        rows = {"status": self.status, "kernel": self.kernel, "n_steps": self.n_steps}
        rows |= {name: self._last(column) for name, column in curves.items()}
        if np.isfinite(self.best_value).any():
            rows |= {"best_value": self.best_value, "best_step": self.best_step}
        return pandas.DataFrame(rows, index=pandas.Index(keys, name=name))

    def plot(self, ax: Axes | None = None, *, k: int = 5, log: bool | None = None) -> Axes:
        """Draw the curves of all networks, the best ones on top: `fastbp.plot.many_history` of this history.

        Parameters
        ----------
        ax, k, log
            As there.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from fastbp import plot

        return plot.many_history(self, ax, k=k, log=log)
