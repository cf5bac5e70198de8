"""Gradients held against finite differences: `check_gradients`, and the differences themselves.

The reason to check: a row of the caller's own, or a network that learns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import checks
from fastbp.mlp import MLP

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.typing import Array, LossLike, Rows

STEP = 1e-5  # times 1 + |w|: about the cube root of float64's rounding, where rounding and truncation spoil least
KINK = 1e-6  # how far two one-sided differences may lie apart, as a part of the largest
RIGHT = 1e-6  # relative error of a gradient that is right, with room
_ROUNDINGS = 16  # of a difference, in units of what one rounding of every parameter does to the loss


def differences(
    net: MLP, value: Callable[[], float], indices: Iterable[int] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The slopes of a function of a network's parameters, by central differences, and where it has kinks.

    On either side of a parameter w stand two points, at h / 2 and h. Twice the slope of the secant to the near one less
    that to the far one is the one-sided slope, up to h^2: curvature drops out, a kink such as relu's does not.

    Parameters
    ----------
    net : MLP
        float64. Its parameters are moved, and set back at the end.
    value : callable
        Gives the function at the network's parameters.
    indices : iterable of int, optional
        Places in ``net.flatten()``; all unless told.

    Returns
    -------
    slopes, apart : ndarray, (number of indices,)
        The slopes, and how far the two one-sided ones lie apart, or the slopes by the near and by the far points.
    """
    places = range(net.n_params) if indices is None else indices
    middle, slopes, apart = value(), [], []
    for place in places:
        _, array, index = _locate(net, place)
        w = float(array[index])
        points = w + STEP * (1 + abs(w)) * np.array([-1, -0.5, 0.5, 1])  # as they are, rounded
        values = np.empty(4)
        try:
            for k, point in enumerate(points):
                array[index] = point
                values[k] = value()
        finally:
            array[index] = w
        far, near = (values[[3, 2]] - values[[0, 1]]) / (points[[3, 2]] - points[[0, 1]])
        far_left, near_left, near_right, far_right = (values - middle) / (points - w)
        sides = abs((2 * near_right - far_right) - (2 * near_left - far_left))
        slopes.append(far)
        apart.append(max(sides, abs(far - near)))  # a kink at h / 3 does not show in the sides
    return np.array(slopes), np.array(apart)


def _locate(net: MLP, place: int) -> tuple[int, NDArray[Any], tuple[int, ...]]:
    """Which of `Spec.views` holds a place of ``net.flatten()``, that view of the parameters, and the index in it."""
    for k, array in enumerate(net._spec.views(net.params)):
        if place < array.size:
            return k, array, tuple(map(int, np.unravel_index(place, array.shape)))
        place -= array.size
    raise IndexError("a place beyond the parameters")


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradients` found.

    Attributes
    ----------
    error : float
        The largest relative error: how far a derivative lies from its finite difference, over the largest derivative in
        the same weight or bias. What rounding makes of a difference counts for no more than 1e-6. NaN where one is NaN.
    where : str
        Where that is, for example ``"weights[1][3, 0]"``; empty where nothing could be checked.
    derivative, difference : float
        The two numbers there.
    n_checked, n_skipped : int
        Parameters that were checked; and those left out because the loss has a kink there.
    n_params : int
        Parameters of the network.
    """

    error: float
    where: str
    derivative: float
    difference: float
    n_checked: int
    n_skipped: int
    n_params: int

    @property
    def ok(self) -> bool:
        """Whether something was checked, and all of it is right up to a relative error of 1e-6."""
        return self.n_checked > 0 and self.error <= RIGHT

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        skipped = f", {self.n_skipped} skipped at kinks" if self.n_skipped else ""
        counts = f"{self.n_checked:,} of {self.n_params:,} parameters checked{skipped}"
        if not self.n_checked:
            return f"gradients not checked: {counts}"
        return (
            f"gradients {'agree with' if self.ok else 'DIFFER from'} finite differences: largest relative error "
            f"{self.error:.2g}\n  at {self.where}: derivative {self.derivative:.9g}, difference {self.difference:.9g}\n"
            f"  {counts}"
        )


def check_gradients(
    net: MLP, X: Rows, y: Array, *, loss: LossLike, sample_weight: Array | None = None, n_samples: int = 50,
    seed: int = 0,
) -> GradientCheck:  # fmt: skip
    """Hold the gradient of a network against finite differences of its loss.

    Both are taken on a float64 copy, with the same rows of the tables and the same backend; the network itself is left
    alone. A parameter is skipped where the one-sided differences disagree: there the loss has a kink, as relu has one,
    and no single slope.

    Parameters
    ----------
    net : MLP
    X, y, loss, sample_weight
        As for `MLP.loss_and_grad`.
    n_samples : int, default 50
        Parameters that are looked at in each weight and each bias, at most. Each takes four evaluations of X.
    seed : int, default 0
        Of their choice, where there are more.

    Returns
    -------
    GradientCheck
        Print it, or ask for ``ok``, which is its truth too: ``assert check_gradients(...)``. A wrong gradient raises
        nothing.

    Examples
    --------
    >>> import fastbp
    >>> net = fastbp.MLP((2, 3, 1), activation="tanh", seed=0)
    >>> fastbp.check_gradients(net, [[0.5, -1.0], [1.0, 2.0]], [1.0, 0.0], loss="mse").ok
    True
    """
    if not isinstance(net, MLP):
        raise TypeError(f"net must be a fastbp.MLP, got {type(net).__name__}")
    n_samples = checks.integer("n_samples", n_samples, 1)
    rng = np.random.default_rng(checks.integer("seed", seed, 0))
    *hidden, output = net._spec.activations
    double = MLP(
        net.sizes, activation=hidden, output_activation=output, bias=net._spec.bias, dtype=np.float64, init="zeros",
        seed=0, backend=net.backend,
    )  # fmt: skip
    double.unflatten(net.flatten())

    value, gradient = double.loss_and_grad(X, y, loss=loss, sample_weight=sample_weight)
    sizes = [array.size for array in double._spec.views(double.params)]
    starts = np.cumsum([0, *sizes])
    places = np.concatenate([
        start + np.sort(rng.permutation(size)[:n_samples]) for start, size in zip(starts, sizes)
    ])  # fmt: skip
    with np.errstate(all="ignore"):
        slopes, apart = differences(
            double, lambda: double.evaluate(X, y, loss=loss, sample_weight=sample_weight), places
        )
        derivatives, owner = gradient[places], np.searchsorted(starts, places, side="right") - 1
        largest = np.maximum(np.abs(slopes), np.abs(derivatives))
        scale = np.array([largest[owner == k].max() for k in range(len(sizes))])[owner]
        # A relative change of every parameter by eps moves the loss by eps * sum |w dL/dw|.
        weight = abs(value) + np.abs(double.flatten() * gradient).sum()
        noise = _ROUNDINGS * np.finfo(float).eps * weight / (STEP * (1 + np.abs(double.flatten()[places])))
        smooth = ~(apart > KINK * scale + 2 * noise)  # what is NaN is not skipped
        off = np.abs(slopes - derivatives)
        errors = (off / np.where(off > noise, scale, np.maximum(scale, noise / RIGHT)))[smooth]
    n_checked = int(smooth.sum())
    counts = n_checked, len(places) - n_checked, net.n_params
    if not n_checked:
        return GradientCheck(float("nan"), "", float("nan"), float("nan"), *counts)
    worst = np.flatnonzero(smooth)[np.argmax(errors)]  # the first NaN, if there is one
    k, _, index = _locate(double, places[worst])
    layer, is_bias = divmod(k, 1 + net._spec.bias)
    where = f"{'biases' if is_bias else 'weights'}[{layer}][{', '.join(map(str, index))}]"
    return GradientCheck(float(errors.max()), where, float(derivatives[worst]), float(slopes[worst]), *counts)
