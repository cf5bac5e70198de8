"""The table of weight initialisers. A new one is one function here.

Each takes ``(rng, in_features, out_features)`` and gives a float64 array ``(in_features, out_features)``; the network
casts it. Biases start at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Initializer: TypeAlias = "Callable[[np.random.Generator, int, int], NDArray[Any]]"  # NumPy loads np.random on first use


def _scaled(distribution: str, variance: Callable[[int, int], float]) -> Initializer:
    """Zero-mean weights of the given variance, a function of (in_features, out_features)."""

    def draw(rng: np.random.Generator, in_features: int, out_features: int) -> NDArray[Any]:
        std = np.sqrt(variance(in_features, out_features))
        shape = (in_features, out_features)
        if distribution == "normal":
            return rng.normal(0.0, std, shape)
        bound = np.sqrt(3.0) * std
        return rng.uniform(-bound, bound, shape)

    return draw


def _orthogonal(rng: np.random.Generator, in_features: int, out_features: int) -> NDArray[Any]:
    """Orthonormal rows or columns, whichever are fewer (Saxe et al., 2014); QR of a normal matrix, signs fixed."""
    tall = in_features >= out_features
    shape = (in_features, out_features) if tall else (out_features, in_features)
    q, r = np.linalg.qr(rng.normal(size=shape))
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return q if tall else q.T


def _zeros(rng: np.random.Generator, in_features: int, out_features: int) -> NDArray[Any]:
    return np.zeros((in_features, out_features))


def _glorot(fan_in: int, fan_out: int) -> float:  # Glorot and Bengio, 2010
    return 2.0 / (fan_in + fan_out)


def _he(fan_in: int, fan_out: int) -> float:  # He et al., 2015
    return 2.0 / fan_in


def _lecun(fan_in: int, fan_out: int) -> float:  # LeCun et al., 1998
    return 1.0 / fan_in


TABLE: dict[str, Initializer] = {
    "glorot_uniform": _scaled("uniform", _glorot),
    "glorot_normal": _scaled("normal", _glorot),
    "he_uniform": _scaled("uniform", _he),
    "he_normal": _scaled("normal", _he),
    "lecun_uniform": _scaled("uniform", _lecun),
    "lecun_normal": _scaled("normal", _lecun),
    "orthogonal": _orthogonal,
    "zeros": _zeros,
}
OTHERS: dict[str, tuple[str, ...]] = {  # what other libraries call them: see `fastbp.errors`
    "glorot_uniform": ("xavier", "xavier_uniform", "glorot"),
    "glorot_normal": ("xavier_normal",),
    "he_uniform": ("kaiming", "kaiming_uniform", "he"),
    "he_normal": ("kaiming_normal",),
    "lecun_uniform": ("lecun",),
    "a callable has a scale of its own: init=lambda rng, n_in, n_out: 0.1 * rng.normal(size=(n_in, n_out))":
        ("normal", "uniform", "random", "random_normal", "random_uniform", "truncated_normal"),
}  # fmt: skip
