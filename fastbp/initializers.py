"""The tables of initialisers: of weights, and of biases. A new one is one row here.

An initialiser of weights takes ``(rng, in_features, out_features)`` and gives a float64 array ``(in_features,
out_features)``; the network casts it. One of biases takes the same and gives ``(out_features,)``. Biases start at 0,
but for the schemes that say otherwise: ``torch`` and ``sklearn``. Both kinds have a random stream of their own, so that
weights do not depend on how biases start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.rows import Activation

Initializer: TypeAlias = "Callable[[np.random.Generator, int, int], NDArray[Any]]"  # NumPy loads np.random on first use


def _scaled(distribution: str, variance: Callable[[int, int], float]) -> Initializer:
    """Zero-mean weights of the given variance, a function of (in_features, out_features)."""

    def draw(rng: np.random.Generator, in_features: int, out_features: int) -> NDArray[Any]:
        std = math.sqrt(variance(in_features, out_features))
        shape = (in_features, out_features)
        if distribution == "normal":
            return rng.normal(0.0, std, shape)
        bound = math.sqrt(3.0) * std
        weight = rng.random(shape)  # `uniform` draws the same, and takes a fifth longer
        weight *= bound - -bound
        weight += -bound
        return weight

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


def _uniform_bias(variance: Callable[[int, int], float]) -> Initializer:
    """Biases between the bounds of the uniform weights of that variance."""

    def draw(rng: np.random.Generator, in_features: int, out_features: int) -> NDArray[Any]:
        bound = np.sqrt(3.0 * variance(in_features, out_features))
        return rng.uniform(-bound, bound, out_features)

    return draw


def _glorot(fan_in: int, fan_out: int) -> float:  # Glorot and Bengio, 2010
    return 2.0 / (fan_in + fan_out)


def _he(fan_in: int, fan_out: int) -> float:  # He et al., 2015
    return 2.0 / fan_in


def _lecun(fan_in: int, fan_out: int) -> float:  # LeCun et al., 1998
    return 1.0 / fan_in


def _torch(fan_in: int, fan_out: int) -> float:  # within 1 / sqrt(fan_in)
    return 1.0 / (3 * fan_in)


def _sklearn(factor: float) -> Callable[[int, int], float]:  # within sqrt(factor / (fan_in + fan_out))
    return lambda fan_in, fan_out: factor / (3 * (fan_in + fan_out))


class Scheme:
    """A row of the table: what draws the weight of a layer, and its bias. Called, it draws the weight.

    Parameters
    ----------
    weight, bias : callable
        ``(rng, in_features, out_features)`` -> array. No bias: they start at 0.
    of : dict, optional
        By the name of an activation of hidden layers, the scheme that takes the place of this one.
    """

    __slots__ = ("bias", "of", "weight")
    weight: Initializer
    bias: Initializer | None
    of: Mapping[str, Scheme]

    def __init__(
        self, weight: Initializer, bias: Initializer | None = None, of: Mapping[str, Scheme] | None = None
    ) -> None:
        self.weight, self.bias, self.of = weight, bias, of or {}

    def __call__(self, rng: np.random.Generator, in_features: int, out_features: int) -> NDArray[Any]:
        return self.weight(rng, in_features, out_features)

    def behind(self, activation: Activation | None) -> Scheme:
        """The scheme of a hidden layer with this activation, and of an output layer above it."""
        return self if activation is None else self.of.get(activation.name, self)


def _uniform(variance: Callable[[int, int], float], of: Mapping[str, Scheme] | None = None) -> Scheme:
    """Weights and biases between the same bounds."""
    return Scheme(_scaled("uniform", variance), _uniform_bias(variance), of)


TABLE: dict[str, Scheme] = {
    "glorot_uniform": Scheme(_scaled("uniform", _glorot)),
    "glorot_normal": Scheme(_scaled("normal", _glorot)),
    "he_uniform": Scheme(_scaled("uniform", _he)),
    "he_normal": Scheme(_scaled("normal", _he)),
    "lecun_uniform": Scheme(_scaled("uniform", _lecun)),
    "lecun_normal": Scheme(_scaled("normal", _lecun)),
    "orthogonal": Scheme(_orthogonal),
    "zeros": Scheme(_zeros),
    # torch.nn.Linear: kaiming_uniform_(a=sqrt(5)), which comes to +-1 / sqrt(fan_in); biases between the same bounds
    "torch": _uniform(_torch),
    # sklearn.neural_network.MLPClassifier: +-sqrt(6 / (in + out)), with "logistic" +-sqrt(2 / (in + out)); biases too
    "sklearn": _uniform(_sklearn(6.0), {"sigmoid": _uniform(_sklearn(2.0))}),
}
BIASES: dict[str, Initializer] = {
    "zeros": lambda rng, in_features, out_features: np.zeros(out_features),
    "uniform": _uniform_bias(_torch),
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
