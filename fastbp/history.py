"""What a run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from pandas import DataFrame


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
        try:
            import pandas
        except ImportError as error:
            raise ImportError("History.to_frame needs pandas: pip install 'fastbp[pandas]'") from error
        return pandas.DataFrame(self._all_columns()).set_index("step")

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
