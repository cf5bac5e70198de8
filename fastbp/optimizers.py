"""The table of update rules, and the values that hold their hyper-parameters.

A rule is one row here, then ``make rows``. An optimizer object only holds hyper-parameters: slots (momentum and the
like) belong to the network that is trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastbp.rows import Optimizer

_DECAYED = ("g", "g + weight_decay * p")  # coupled decay, as torch.optim.SGD
_VELOCITY = ("velocity", "momentum * velocity + g")  # starts at 0, so that the first velocity is g

_ROWS = (
    Optimizer("sgd", "sgd", (), ("lr",), (("p", "p - lr * g"),)),
    Optimizer("sgd_decay", "sgd", (), ("lr", "weight_decay"), (_DECAYED, ("p", "p - lr * g"))),
    Optimizer("sgd_momentum", "sgd", ("velocity",), ("lr", "weight_decay", "momentum"),
              (_DECAYED, _VELOCITY, ("p", "p - lr * velocity"))),
    Optimizer("sgd_nesterov", "sgd", ("velocity",), ("lr", "weight_decay", "momentum"),
              (_DECAYED, _VELOCITY, ("p", "p - lr * (g + momentum * velocity)"))),
)

TABLE: dict[str, Optimizer] = {row.name: row for row in _ROWS}


def _number(owner: str, name: str, value: object, low: float, high: float = math.inf) -> float:
    """`value` as a float between `low` and `high`, both included, or an error that names the argument."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (low <= number <= high) or math.isinf(number):
        wanted = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        raise ValueError(f"{owner}: {name} must be finite and {wanted}, got {value!r}")
    return number


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with the conventions of ``torch.optim.SGD``.

    ``g <- g + weight_decay p`` (coupled, on weights and biases); with momentum ``v <- momentum v + g`` (the first v is
    g) and ``p <- p - lr v``, or with Nesterov ``p <- p - lr (g + momentum v)`` (Sutskever et al., 2013).

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate, at least 0.
    momentum : float, default 0.0
        From 0 to 1.
    nesterov : bool, default False
        Needs momentum.
    weight_decay : float, default 0.0
        At least 0.
    """

    lr: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", _number("SGD", "lr", self.lr, 0))
        object.__setattr__(self, "momentum", _number("SGD", "momentum", self.momentum, 0, 1))
        object.__setattr__(self, "weight_decay", _number("SGD", "weight_decay", self.weight_decay, 0))
        if not isinstance(self.nesterov, (bool, np.bool_)):
            raise TypeError(f"SGD: nesterov must be True or False, got {self.nesterov!r}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("SGD: nesterov=True needs momentum above 0")

    @property
    def row(self) -> Optimizer:
        """The update rule that these hyper-parameters call for."""
        if self.momentum:
            return TABLE["sgd_nesterov" if self.nesterov else "sgd_momentum"]
        return TABLE["sgd_decay" if self.weight_decay else "sgd"]

    @property
    def skips_zero_gradient(self) -> bool:
        """Whether a parameter whose gradient is 0 stays as it is."""
        return self.row.name == "sgd"

    def scalars(self, step: int, steps: int) -> list[np.ndarray]:
        """The row's scalars for the steps ``step, ..., step + steps - 1``: float64 arrays of length `steps`.

        A constant is stored once and has stride 0.
        """
        return [np.broadcast_to(np.float64(getattr(self, name)), steps) for name in self.row.scalars]


BY_NAME: dict[str, type] = {"sgd": SGD}
