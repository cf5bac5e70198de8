"""What a run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


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
    """

    loss: np.ndarray = field(repr=False)
    step: np.ndarray = field(repr=False)
    seconds: float
    n_steps: int

    def __repr__(self) -> str:
        last = f", last loss {self.loss[-1]:g}" if len(self.loss) else ""
        return f"History({self.n_steps} steps in {self.seconds:.3g} s{last})"
