"""The names of both sides: what scikit-learn's parameters come to in fastbp, and what is taken beyond them."""

from __future__ import annotations

from functools import lru_cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.neural_network._base import squared_loss
from sklearn.utils._param_validation import Interval, Options, StrOptions

from fastbp import activations, losses, optimizers, spec
from fastbp.rows import Activation, Loss

if TYPE_CHECKING:
    from fastbp.spec import Spec

SCIKIT_ACTIVATIONS = ("identity", "logistic", "tanh", "relu")  # fastbp knows them by these names too

_ACTIVATION = StrOptions({*activations.TABLE, *activations.ALIASES})
_LOSSES = {*losses.TABLE, *losses.ALIASES} - {"gaussian_nll"}  # which takes two outputs for each target

CONSTRAINTS: dict[str, list[Any]] = {
    "activation": [_ACTIVATION, list, tuple, Activation],
    "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
    "output_activation": [_ACTIVATION, Activation, None],
    "optimizer": [StrOptions({*optimizers.BY_NAME} - {"lbfgs"}), optimizers.Rule, None],
    "metrics": [list, tuple],
    "time_limit": [Interval(Real, 0, None, closed="neither"), None],
    "dtype": [StrOptions({"float32", "float64"}), Options(type, {np.float32, np.float64}), None],
    "n_threads": [Interval(Integral, 1, None, closed="left"), None],
    "keep_optimizer_state": ["boolean"],
}
OF_CLASSIFIERS: dict[str, list[Any]] = CONSTRAINTS | {
    "loss": [StrOptions({"log_loss", *_LOSSES}), Loss],
    "class_weight": [StrOptions({"balanced"}), dict, list, None],
}
OF_REGRESSORS: dict[str, list[Any]] = CONSTRAINTS | {"loss": [StrOptions({"squared_error", "poisson", *_LOSSES}), Loss]}

# scikit-learn reports the mean of several outputs' squared errors, while it descends along the gradient of their sum.
_REPORTS_MEAN = squared_loss(np.ones((1, 2)), np.zeros((1, 2))) == 0.5

_LINKS = {"softmax": "softmax", "sigmoid": "logistic", None: "identity"}  # fastbp's: scikit-learn's output activation
_OF_LOGARITHMS = ("poisson", "poisson_deviance", "gamma", "tweedie")


class Head(NamedTuple):
    """How what a network gives becomes predictions, and how far it is off."""

    loss: Loss
    link: str  # what makes predictions of the network's output: an output activation of scikit-learn's
    factor: float = 1.0  # of the loss where it is reported
    signs: bool = False  # targets are -1 and 1
    is_own: bool = False  # the loss is one of fastbp's, with what it says of targets


def gives_probabilities(estimator: Any) -> bool:
    """Whether a classifier's loss is one of probabilities."""
    loss = estimator.loss
    if isinstance(loss, str) and loss != "log_loss":
        loss = losses.TABLE[losses.ALIASES.get(loss, loss)] if loss in _LOSSES else None
    if isinstance(loss, Loss) and loss.link is None:
        raise AttributeError(f"loss={loss.name!r} is not one of probabilities")
    return True


@lru_cache(maxsize=64)
def scikit_head(output: str, n_outputs: int, eps: float) -> Head:
    """That of one of scikit-learn's output activations, which reports losses of probabilities of at least `eps`."""
    if output == "softmax":
        return Head(losses.TABLE["softmax_log_loss"](eps=eps), output)
    if output == "logistic":
        return Head(losses.TABLE["binary_log_loss"](outputs="sum", eps=eps), output)
    if output == "exp":
        return Head(losses.TABLE["poisson_deviance"](outputs="sum"), output)
    return Head(losses.TABLE["half_squared_error"], output, 1 / n_outputs if _REPORTS_MEAN else 1.0)


def own_head(loss: Any, network: Spec, classes: str | None) -> Head:
    """That of a loss of fastbp's; `classes` is a classifier's kind of targets, None of a regressor.

    Raises
    ------
    ValueError
        The loss does not suit the task.
    """
    row = spec.loss(loss, network)
    signs = row.domain.ends == "{}"
    if classes is None:
        if row.link or signs or row.grad_s:
            raise ValueError(f"loss: {row.name!r} is not a loss for a regressor; 'mae', 'huber' and 'quantile' are")
        return Head(row, "exp" if row.name in _OF_LOGARITHMS else "identity", is_own=True)
    if row.link is None and not signs:
        raise ValueError(f"loss: {row.name!r} is not a loss for a classifier; 'log_loss', 'focal' and 'hinge' are")
    if row.link == "softmax" and classes != "multiclass":
        raise ValueError(
            f"loss: {row.name!r} is of three classes or more, of which one holds; these targets are {classes}: "
            "'binary_cross_entropy' or 'focal' suit them"
        )
    return Head(row, _LINKS[row.link], signs=signs, is_own=True)
