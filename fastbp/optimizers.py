"""The table of update rules, and the values that hold their hyper-parameters.

A rule is one row here, then ``make rows``. An optimizer object only holds hyper-parameters: slots (momentum and the
like) belong to the network that is trained. Names, defaults and conventions are those of ``torch.optim``, of Lion
those of optax. Decay is *coupled* where it is added to the gradient, as most do, and *decoupled* where it shrinks the
parameter by itself, as `AdamW` and `Lion` do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastbp.checks import Frozen, boolean, integer, names_arguments, number
from fastbp.rows import Optimizer
from fastbp.schedules import Rate, ReduceOnPlateau, Schedule, rate_or_schedule, rates

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DECAYED = ("g", "g + weight_decay * p")  # coupled decay
_VELOCITY = ("velocity", "momentum * velocity + g")  # starts at 0, so that the first velocity is g
_VELOCITY_WITH_RATE = ("velocity", "momentum * velocity - lr * g")
_SIGN = "WHERE({0} > 0, 1, WHERE({0} < 0, -1, {0}))"  # a NaN stays

# Of Adam and its kin. `root` is 1 / sqrt(1 - beta2^t), `step_size` holds the learning rate and 1 / (1 - beta1^t).
_MEAN = ("mean", "beta1 * mean + rest1 * g")
_SQUARE = ("square", "beta2 * square + rest2 * g * g")
_MOMENTS = ("step_size", "root", "beta1", "rest1", "beta2", "rest2", "eps")


_ADAM = "p * kept - step_size * mean / (SQRT({}) * root + eps)"  # decay: coupled in g, decoupled in `kept`


def _rmsprop(name: str, centered: bool, momentum: bool) -> Optimizer:
    # the mean of squares less the square of the mean may come out below 0 by rounding
    spread = "MAX(square - mean * mean, 0)" if centered else "square"
    step = f"g / (SQRT({spread}) + eps)"
    return Optimizer(
        name, "rmsprop", ("square",) + (("mean",) if centered else ()) + (("velocity",) if momentum else ()),
        ("lr", "weight_decay", "alpha", "rest", "eps") + (("momentum",) if momentum else ()),
        (_DECAYED, ("square", "alpha * square + rest * g * g"),
         *((("mean", "alpha * mean + rest * g"),) if centered else ()),
         *((("velocity", f"momentum * velocity + {step}"), ("p", "p - lr * velocity")) if momentum
           else (("p", f"p - lr * {step}"),))))  # fmt: skip


_ROWS = (
    Optimizer("sgd", "sgd", (), ("lr",), (("p", "p - lr * g"),)),
    Optimizer("sgd_decay", "sgd", (), ("lr", "weight_decay"), (_DECAYED, ("p", "p - lr * g"))),
    # clipping within the row: around it, it costs 10 % of a small step more
    Optimizer(
        "sgd_clipped",
        "sgd",
        (),
        ("lr", "weight_decay", "clip_value"),
        (("g", "MAX(MIN(g, clip_value), -clip_value)"), _DECAYED, ("p", "p - lr * g")),
    ),
    Optimizer(
        "sgd_momentum",
        "sgd",
        ("velocity",),
        ("lr", "weight_decay", "momentum"),
        (_DECAYED, _VELOCITY, ("p", "p - lr * velocity")),
    ),
    Optimizer(
        "sgd_nesterov",
        "sgd",
        ("velocity",),
        ("lr", "weight_decay", "momentum"),
        (_DECAYED, _VELOCITY, ("p", "p - lr * (g + momentum * velocity)")),
    ),
    # the rate within the velocity, as Keras and scikit-learn have it: another family, as a change of the rate shows
    Optimizer(
        "sgd_velocity",
        "sgd_velocity",
        ("velocity",),
        ("lr", "weight_decay", "momentum"),
        (_DECAYED, _VELOCITY_WITH_RATE, ("p", "p + velocity")),
    ),
    Optimizer(
        "sgd_velocity_nesterov",
        "sgd_velocity",
        ("velocity",),
        ("lr", "weight_decay", "momentum"),
        (_DECAYED, _VELOCITY_WITH_RATE, ("p", "p + (momentum * velocity - lr * g)")),
    ),
    Optimizer(
        "adam",
        "adam",
        ("mean", "square"),
        (*_MOMENTS, "weight_decay", "kept"),
        (_DECAYED, _MEAN, _SQUARE, ("p", _ADAM.format("square"))),
    ),
    Optimizer(
        "adam_amsgrad",
        "adam",
        ("mean", "square", "largest"),
        (*_MOMENTS, "weight_decay", "kept"),
        (_DECAYED, _MEAN, _SQUARE, ("largest", "MAX(largest, square)"), ("p", _ADAM.format("largest"))),
    ),
    Optimizer(
        "nadam",
        "nadam",
        ("mean", "square"),
        (*_MOMENTS, "weight_decay", "gradient_size"),
        (_DECAYED, _MEAN, _SQUARE, ("p", "p - (gradient_size * g + step_size * mean) / (SQRT(square) * root + eps)")),
    ),
    # `rectified` is 0 in the first steps, in which the variance of 1 / sqrt(square) has no bound: a step of momentum
    Optimizer(
        "radam",
        "radam",
        ("mean", "square"),
        ("step_size", "rectified", "beta1", "rest1", "beta2", "rest2", "eps", "weight_decay"),
        (
            _DECAYED,
            _MEAN,
            _SQUARE,
            ("p", "p - step_size * mean * WHERE(rectified > 0, rectified / (SQRT(square) + eps), 1)"),
        ),
    ),
    _rmsprop("rmsprop", False, False),
    _rmsprop("rmsprop_momentum", False, True),
    _rmsprop("rmsprop_centered", True, False),
    _rmsprop("rmsprop_centered_momentum", True, True),
    Optimizer(
        "adagrad",
        "adagrad",
        ("total",),
        ("lr", "weight_decay", "initial", "eps"),
        (_DECAYED, ("total", "total + g * g"), ("p", "p - lr * g / (SQRT(total + initial) + eps)")),
    ),
    # g becomes the step: its mean square is kept too
    Optimizer(
        "adadelta",
        "adadelta",
        ("square", "moved"),
        ("lr", "weight_decay", "rho", "rest", "eps"),
        (
            _DECAYED,
            ("square", "rho * square + rest * g * g"),
            ("g", "SQRT(moved + eps) / SQRT(square + eps) * g"),
            ("moved", "rho * moved + rest * g * g"),
            ("p", "p - lr * g"),
        ),
    ),
    Optimizer(
        "lion",
        "lion",
        ("mean",),
        ("lr", "kept", "beta1", "rest1", "beta2", "rest2"),
        (("p", f"p * kept - lr * {_SIGN.format('(beta1 * mean + rest1 * g)')}"), ("mean", "beta2 * mean + rest2 * g")),
    ),
    # `size` is 0 before the first step, which takes lr. Where the sign has changed no step is made and none remembered.
    Optimizer(
        "rprop",
        "rprop",
        ("before", "size"),
        ("lr", "smaller", "larger", "least", "most"),
        (
            ("size", "WHERE(size > 0, size, lr)"),
            ("size", "MIN(MAX(size * WHERE(g * before > 0, larger, WHERE(g * before < 0, smaller, 1)), least), most)"),
            ("g", "WHERE(g * before < 0, 0, g)"),
            ("before", "g"),
            ("p", f"p - size * {_SIGN.format('g')}"),
        ),
    ),
)

TABLE: dict[str, Optimizer] = {row.name: row for row in _ROWS}


# ------------------------------------------------------------------ hyper-parameters


def _pair(*bounds: tuple[float, float, str]) -> Callable[[str, Any], tuple[float, ...]]:
    def check(argument: str, value: Any) -> tuple[float, ...]:
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise TypeError(f"{argument} must be two numbers, got {value!r}")
        pairs = enumerate(zip(value, bounds))
        return tuple(number(f"{argument}[{k}]", x, low, high, ends=ends) for k, (x, (low, high, ends)) in pairs)

    return check


def _optional(low: float, high: float, ends: str) -> Callable[[str, Any], Any]:
    return lambda argument, value: None if value is None else number(argument, value, low, high, ends=ends)


def _scales(argument: str, value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (tuple, list, np.ndarray)) or getattr(value, "ndim", 1) == 0:
        raise TypeError(f"{argument} must be one factor per layer, got {value!r}")
    return tuple(number(f"{argument}[{k}]", factor, 0) for k, factor in enumerate(value))


_CHECKS: dict[str, Callable[[str, Any], Any]] = {  # of a hyper-parameter, by its name
    "lr": rate_or_schedule,
    **dict.fromkeys(("momentum", "alpha", "rho"), lambda a, v: number(a, v, 0, 1)),
    **dict.fromkeys(("weight_decay", "eps", "lr_decay", "initial_accumulator_value", "momentum_decay", "l1",
                     "gtol", "ftol", "bias_lr_scale", "bias_decay_scale"), lambda a, v: number(a, v, 0)),
    **dict.fromkeys(("nesterov", "amsgrad", "centered"), boolean),
    **dict.fromkeys(("max_norm", "clip_value", "clip_norm"), _optional(0, math.inf, "(]")),
    **dict.fromkeys(("lr_scale", "decay_scale"), _scales),
    "average": _optional(0, 1, "[)"),
    **dict.fromkeys(("accumulate", "history_size", "max_evaluations"), lambda a, v: integer(a, v, 1, 2**62)),
    "betas": _pair((0, 1, "[)"), (0, 1, "[)")),
    "etas": _pair((0, 1, "()"), (1, math.inf, "(]")),
    "step_sizes": _pair((0, math.inf, "(]"), (0, math.inf, "(]")),
}  # fmt: skip


_FLOAT64 = np.dtype(np.float64)


@lru_cache(maxsize=8)
def _least(dtype: np.dtype) -> tuple[float, float]:
    """The largest number that becomes 0 in the dtype, and the least normal one, which a float64 can hold."""
    normal = max(np.finfo(dtype).smallest_normal, np.finfo(np.float64).smallest_normal)
    return float(np.finfo(dtype).smallest_subnormal) / 2, float(normal)


def _above_zero(value: Any, dtype: np.dtype) -> Any:
    """`value`, or where it is 0 in the dtype, the least normal number: 0 / (0 + eps) is to be 0."""
    lost, normal = _least(dtype)
    if isinstance(value, float):
        return normal if 0 <= value <= lost else value
    return np.where((0 <= value) & (value <= lost), normal, value)


@lru_cache(maxsize=4)  # many networks ask for the same
def _corrections(beta: float, updates: int, phase: int, every: int, count: int) -> NDArray[Any]:
    """`Steps.correction` of several steps."""
    made: NDArray[Any] = 1 - np.power(beta, Steps.numbers(updates, phase, every, count))
    made.flags.writeable = False
    return made


@dataclass(eq=False)
class Steps:
    """Steps that a rule is asked about: their numbers, rates and decay."""

    first: int  # net.step
    count: int
    updates: int  # made before the first with these slots
    phase: int  # batches since the last of them
    every: int  # batches to an update
    lr: float | NDArray[Any]  # (count,) of a schedule; (rules, 1) of many rules, as the decay
    weight_decay: float | NDArray[Any]

    _t: NDArray[Any] | None = None

    @property
    def t(self) -> NDArray[Any]:
        """The number of each update, from 1 on: that which the batch is for.

        No `cached_property`: until Python 3.12 that has one lock for all objects, which a fork while another thread
        trains would leave locked in the child.
        """
        if self._t is None:
            if self.count == 1:
                self._t = np.array([self.updates + 1 + self.phase // self.every], np.float64)
            else:
                self._t = self.numbers(self.updates, self.phase, self.every, self.count)
        return self._t

    @staticmethod
    def numbers(updates: int, phase: int, every: int, count: int) -> NDArray[Any]:
        batches = phase + np.arange(count, dtype=np.float64)
        return updates + 1 + batches // every

    def correction(self, beta: float) -> float | NDArray[Any]:
        """1 - beta^t, which becomes 1."""
        if beta ** (self.updates + 1) < 2**-54:
            return 1.0
        if self.count == 1:
            return 1 - float(np.power(beta, self.t)[0])  # of arrays alone: scalars have other bits, one in ten thousand
        return _corrections(beta, self.updates, self.phase, self.every, self.count)


@dataclass(kw_only=True, eq=False, repr=False)
class Rule(Frozen):
    """What every optimizer takes beside its own hyper-parameters, by keyword.

    In each update the gradient is first the mean over `accumulate` batches, then clipped by `clip_norm`, then by
    `clip_value`; then ``l1 * sign(p)`` is added to it, and the optimizer's own rule runs. After it come `max_norm` and
    `average`.

    Parameters
    ----------
    l1 : float, default 0.0
        Strength of an L1 penalty on weights and biases.
    max_norm : float, optional
        Bound of the Euclidean norm of the weights into each output; biases are not counted.
    clip_value : float, optional
        Bound of the absolute value of each element of the gradient.
    clip_norm : float, optional
        Bound of the Euclidean norm of the whole gradient, as torch's ``clip_grad_norm_``. The gradient has to be there
        before the first update: a step costs one pass over it more.
    accumulate : int, default 1
        Batches to an update, which takes the mean of their gradients. Each counts as a step.
    average : float, optional
        Decay of an exponential moving average of the parameters, which begins with what they are: `MLP.averaged`.
    lr_scale, decay_scale : sequence of float, optional
        Factors of the learning rate, and of weight decay and l1, one per layer.
    bias_lr_scale, bias_decay_scale : float, default 1.0
        Factors of the same for biases, on top of their layer's; ``bias_decay_scale=0`` exempts biases.
    """

    l1: float = 0.0
    max_norm: float | None = None
    clip_value: float | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    average: float | None = None
    lr_scale: Sequence[float] | NDArray[Any] | None = None
    decay_scale: Sequence[float] | NDArray[Any] | None = None
    bias_lr_scale: float = 1.0
    bias_decay_scale: float = 1.0

    CHECKS: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = _CHECKS

    full_batch = False  # whether a step needs all rows
    above_zero: ClassVar[tuple[str, ...]] = ("eps",)  # scalars without which a rule is another one: see `scalars`
    counts_updates = False  # whether scalars depend on the number of the update

    @property
    def lr(self) -> Rate:
        """The learning rate, where it is no hyper-parameter of its own."""
        raise NotImplementedError

    @property
    def weight_decay(self) -> float:
        """That of a rule that has none."""
        return 0.0

    @property
    def row(self) -> Optimizer:
        """The update rule that these hyper-parameters call for."""
        raise NotImplementedError

    def _values(self, steps: Steps) -> dict[str, float | NDArray[Any]]:
        """The scalars of `row` that are not hyper-parameters by themselves."""
        return {}

    @property
    def skips_zero_gradient(self) -> bool:
        """Whether a parameter whose gradient is 0 stays as it is."""
        return self.row.name == "sgd" and not self.l1 and self.average is None

    @property
    def clip_around(self) -> float | None:
        """`clip_value`, where the row does not clip by itself."""
        return None if "clip_value" in self.row.scalars else self.clip_value

    @property
    def has_schedule(self) -> bool:
        """Whether a scalar is a function of ``net.step``."""
        return callable(self.lr)

    @property
    def is_steady(self) -> bool:
        """Whether the scalars are the same at each step."""
        return not self.has_schedule and not self.counts_updates

    @property
    def is_foreseeable(self) -> bool:
        """Whether the scalars of steps to come are known: not of a callable, which may answer otherwise by then."""
        return not callable(self.lr) or isinstance(self.lr, Schedule) and not isinstance(self.lr, ReduceOnPlateau)

    @property
    def needs_whole_gradient(self) -> bool:
        """Whether an update can begin only when the gradients of all parameters are there."""
        return self.clip_norm is not None or self.accumulate > 1

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing around the rule, and one rate for all parameters."""
        around = self.l1 or self.max_norm is not None or self.clip_around is not None or self.average is not None
        return not around and not self.needs_whole_gradient and self.has_one_rate

    @cached_property
    def has_one_rate(self) -> bool:
        """Whether all parameters have the learning rate and the decay as they are."""
        return {*(self.lr_scale or ()), *(self.decay_scale or ()), self.bias_lr_scale, self.bias_decay_scale} == {1.0}

    def scales(self, n_layers: int) -> list[tuple[float, float]]:
        """Factors of (lr, decay) for each group of parameters of `n_layers` layers: all, or each weight and bias."""
        if self.has_one_rate:
            return [(1.0, 1.0)]
        lr, decay = self.lr_scale or (1.0,) * n_layers, self.decay_scale or (1.0,) * n_layers
        groups = [
            group
            for a, b in zip(lr, decay, strict=True)
            for group in ((a, b), (a * self.bias_lr_scale, b * self.bias_decay_scale))
        ]
        return [(1.0, 1.0)] if set(groups) == {(1.0, 1.0)} else groups

    def __repr__(self) -> str:
        """The optimizer's own hyper-parameters, and of the common ones those that say something."""
        common = {field.name for field in fields(Rule)}
        shown = [field for field in fields(self) if field.name not in common]
        shown += [field for field in fields(Rule) if getattr(self, field.name) != field.default]
        return f"{type(self).__name__}({', '.join(f'{field.name}={getattr(self, field.name)!r}' for field in shown)})"

    def rate(self, step: int) -> float:
        """The learning rate at a step, counted from 0."""
        return float(rates(self.lr, step, 1))

    def scalars(
        self,
        step: int,
        steps: int,
        *,
        updates: int | None = None,
        phase: int = 0,
        lr_scale: float = 1.0,
        decay_scale: float = 1.0,
        dtype: np.dtype[Any] = _FLOAT64,
    ) -> list[NDArray[Any]]:
        """The row's scalars for the steps ``step, ..., step + steps - 1``: float64 arrays of length `steps`.

        A constant is stored once and has stride 0. `updates` is how many were made with the slots at hand before,
        `phase` how many batches there have been since; `lr_scale` and `decay_scale` are factors. `dtype` is that of the
        parameters: those `above_zero` are above 0 in it too.
        """
        updates = step if updates is None else updates
        if steps == 1 and not self.has_schedule and type(self).__module__ == __name__:  # another class may ask anything
            return [*_of_one_step(self, self.above_zero, updates, phase, lr_scale, decay_scale, dtype)]
        return self._scalars(step, steps, updates, phase, lr_scale, decay_scale, dtype)

    def _scalars(
        self, step: int, steps: int, updates: int, phase: int, lr_scale: float, decay_scale: float, dtype: np.dtype[Any]
    ) -> list[NDArray[Any]]:
        lr = rates(self.lr, step, steps) * lr_scale
        at = Steps(step, steps, updates, phase, self.accumulate, lr, self.weight_decay * decay_scale)
        return [of_steps(value, steps) for value in self._numbers(at, dtype)]

    def _numbers(self, at: Steps, dtype: np.dtype[Any]) -> Iterator[float | NDArray[Any]]:
        """The row's scalars, one after the other."""
        known = {"lr": at.lr, "weight_decay": at.weight_decay, "kept": 1 - at.lr * at.weight_decay} | self._values(at)
        for name in self.row.scalars:
            value = known[name] if name in known else getattr(self, name)
            yield _above_zero(value, dtype) if name in self.above_zero else value

    @property
    def likeness(self) -> int | tuple[Any, ...]:
        """Equal for rules that differ in their numbers for `lr` and `weight_decay` alone, and have one row."""
        kind = type(self)
        if type(self.lr) is not float or kind.__module__ != __name__:  # another class may do anything
            return id(self)
        return kind, self.weight_decay == 0, *_rest_of(kind)(self)


@lru_cache(maxsize=16)
def _rest_of(kind: type) -> attrgetter[tuple[Any, ...]]:
    return attrgetter(*(field.name for field in fields(kind) if field.name not in ("lr", "weight_decay")))


def scalars_of_each(
    rules: Sequence[Rule], step: int, steps: int, *, updates: int, dtype: np.dtype[Any]
) -> list[list[NDArray[Any]]]:
    """`Rule.scalars` of rules of one `Rule.likeness`: what they have in common is made once.

    Parameters
    ----------
    rules : sequence of Rule
    step, steps, updates, dtype
        As there, for all of them.

    Returns
    -------
    list of list of ndarray of float64, (steps,)
        For each rule its scalars.
    """
    first, n = rules[0], len(rules)
    if all(rule is first for rule in rules):
        return [first.scalars(step, steps, updates=updates, dtype=dtype)] * n
    lr, weight_decay = (np.array([getattr(rule, name) for rule in rules])[:, None] for name in ("lr", "weight_decay"))
    at = Steps(step, steps, updates, 0, first.accumulate, lr, weight_decay)
    columns = []
    for value in first._numbers(at, dtype):
        own = np.ndim(value) == 2  # (n, 1), or (n, steps)
        columns.append(list(np.broadcast_to(value, (n, steps))) if own else [of_steps(value, steps)] * n)
    return list(map(list, zip(*columns)))


@lru_cache(maxsize=256)
def _of_one_step(
    rule: Rule, above_zero: tuple[str, ...], updates: int, phase: int, *more: Any
) -> tuple[NDArray[Any], ...]:
    """The scalars of a step without a schedule: those of each network, and of each layer, that is at this update."""
    scalars = rule._scalars(updates, 1, updates, phase, *more)
    for array in scalars:
        array.flags.writeable = False
    return tuple(scalars)


def of_steps(value: float | NDArray[Any], steps: int) -> NDArray[Any]:
    """A value of each step, (steps,), in float64: a number is stored once and has stride 0."""
    if isinstance(value, np.ndarray):
        return np.asarray(value, np.float64)
    return _same_at_each(value, steps)


@lru_cache(maxsize=1024)
def _same_at_each(value: float, steps: int) -> NDArray[Any]:
    array = np.array(value, np.float64)
    array.flags.writeable = False
    return np.ndarray(steps, np.float64, array, 0, (0,))


@dataclass(eq=False, repr=False)
class SGD(Rule):
    """Stochastic gradient descent, with the conventions of ``torch.optim.SGD``.

    ``g <- g + weight_decay p`` (coupled, on weights and biases); with momentum ``v <- momentum v + g`` (the first v is
    g) and ``p <- p - lr v``, or with Nesterov ``p <- p - lr (g + momentum v)`` (Sutskever et al., 2013).

    Parameters
    ----------
    lr : float or schedule, default 1e-3
        Learning rate, at least 0; or a value of `fastbp.schedules`, or a callable of the step.
    momentum : float, default 0.0
        From 0 to 1.
    nesterov : bool, default False
        Needs momentum.
    weight_decay : float, default 0.0
        At least 0.
    l1, max_norm, clip_value, clip_norm, accumulate, average, lr_scale, decay_scale, bias_lr_scale, bias_decay_scale
        Of every optimizer, by keyword: see `fastbp.optimizers.Rule`.
    """

    lr: Rate = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and self.momentum == 0:
            raise ValueError("SGD: nesterov=True needs momentum above 0")

    @property
    def row(self) -> Optimizer:
        if self.momentum:
            return TABLE["sgd_nesterov" if self.nesterov else "sgd_momentum"]
        if self.clip_value is not None and not self.l1:  # which comes between the two
            return TABLE["sgd_clipped"]
        return TABLE["sgd_decay" if self.weight_decay else "sgd"]


def _moments(betas: tuple[float, float], steps: Steps) -> dict[str, float | NDArray[Any]]:
    """What Adam's kin have in common."""
    beta1, beta2 = betas
    return {
        "beta1": beta1, "rest1": 1 - beta1, "beta2": beta2, "rest2": 1 - beta2,
        "step_size": steps.lr / steps.correction(beta1), "root": 1 / np.sqrt(steps.correction(beta2)),
    }  # fmt: skip


@dataclass(eq=False, repr=False)
class Adam(Rule):
    """Adam (Kingma and Ba, 2015), with the conventions of ``torch.optim.Adam``; decay is coupled.

    ``g <- g + weight_decay p``, ``m <- beta1 m + (1 - beta1) g``, ``v <- beta2 v + (1 - beta2) g^2``,
    ``p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)``.

    Parameters
    ----------
    lr : float or schedule, default 1e-3
    betas : (float, float), default (0.9, 0.999)
        Each from 0 up to, but not, 1.
    eps : float, default 1e-8
        Where it is 0 in the network's dtype (1e-8 in float16), the least normal number of that (6.1e-5) stands for it;
        so for the `eps` of every optimizer.
    weight_decay : float, default 0.0
    amsgrad : bool, default False
        Divide by the largest v so far (Reddi et al., 2018).
    l1, max_norm, clip_value, clip_norm, accumulate, average, lr_scale, decay_scale, bias_lr_scale, bias_decay_scale
        Of every optimizer, by keyword: see `fastbp.optimizers.Rule`.
    """

    lr: Rate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False

    counts_updates = True

    @property
    def row(self) -> Optimizer:
        return TABLE["adam_amsgrad" if self.amsgrad else "adam"]

    def _values(self, steps: Steps) -> dict[str, float | NDArray[Any]]:
        return _moments(self.betas, steps) | {"kept": 1.0}


@dataclass(eq=False, repr=False)
class AdamW(Adam):
    """Adam with decoupled decay (Loshchilov and Hutter, 2019), as ``torch.optim.AdamW``.

    ``p <- p (1 - lr weight_decay)`` in place of the term in the gradient.

    Parameters
    ----------
    lr, betas, eps, amsgrad
        As of `Adam`.
    weight_decay : float, default 1e-2
    l1, max_norm, clip_value, clip_norm, accumulate, average, lr_scale, decay_scale, bias_lr_scale, bias_decay_scale
        Of every optimizer, by keyword: see `fastbp.optimizers.Rule`.
    """

    weight_decay: float = 1e-2

    def _values(self, steps: Steps) -> dict[str, float | NDArray[Any]]:
        return _moments(self.betas, steps) | {"kept": 1 - steps.lr * steps.weight_decay, "weight_decay": 0.0}


@lru_cache(maxsize=16)
def _products(beta: float, decay: float, count: int) -> NDArray[Any]:
    """The products of NAdam's momenta up to each update 1, ..., count."""
    return np.cumprod(_nadam_momentum(beta, decay, np.arange(1, count + 1, dtype=np.float64)))


def _nadam_momentum(beta: float, decay: float, t: NDArray[Any]) -> NDArray[Any]:
    return beta * (1 - 0.5 * np.power(0.96, t * decay))


@dataclass(eq=False, repr=False)
class NAdam(Rule):
    """Adam with Nesterov's momentum (Dozat, 2016), as ``torch.optim.NAdam``; decay is coupled.

    With ``mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)`` and their product P_t:
    ``p <- p - lr ((1 - mu_t) / (1 - P_t) g + mu_{t+1} / (1 - P_{t+1}) m) / (sqrt(v / (1 - beta2^t)) + eps)``.

    Parameters
    ----------
    lr : float or schedule, default 2e-3
    betas, eps, weight_decay
        As of `Adam`.
    momentum_decay : float, default 4e-3
    l1, max_norm, clip_value, clip_norm, accumulate, average, lr_scale, decay_scale, bias_lr_scale, bias_decay_scale
        Of every optimizer, by keyword: see `fastbp.optimizers.Rule`.
    """

    lr: Rate = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3

    counts_updates = True

    @property
    def row(self) -> Optimizer:
        return TABLE["nadam"]

    def _values(self, steps: Steps) -> dict[str, float | NDArray[Any]]:
        beta, decay = self.betas[0], self.momentum_decay
        mu, coming = (_nadam_momentum(beta, decay, t) for t in (steps.t, steps.t + 1))
        gone = 1 - self._product(steps.t)
        return _moments(self.betas, steps) | {
            "gradient_size": steps.lr * (1 - mu) / gone,
            "step_size": steps.lr * coming / (1 - (1 - gone) * coming),
        }

    def _product(self, t: NDArray[Any]) -> NDArray[Any]:
        # each is at most beta1: from here on the product is nothing beside 1
        most = 1 if self.betas[0] == 0 else math.ceil(-45 / math.log(self.betas[0]))
        wanted = int(min(t[-1], most))
        known = _products(self.betas[0], self.momentum_decay, 1 << max(wanted - 1, 0).bit_length())
        return np.where(t > most, 0.0, known[np.minimum(t, len(known)).astype(np.int64) - 1])


@dataclass(eq=False, repr=False)
class RAdam(Rule):
    """Adam with a rectified variance (Liu et al., 2020), as ``torch.optim.RAdam``; decay is coupled.

    With ``r = 2 / (1 - beta2) - 1`` and ``r_t = r - 2 t beta2^t / (1 - beta2^t)``: up to ``r_t = 5`` a step of
    momentum, ``p <- p - lr m / (1 - beta1^t)``; from there on Adam's, times
    ``sqrt((r_t - 4) (r_t - 2) r / ((r - 4) (r - 2) r_t))``.

    Parameters
    ----------
    lr, betas, eps, weight_decay
        As of `Adam`.
    l1, max_norm, clip_value, clip_norm, accumulate, average, lr_scale, decay_scale, bias_lr_scale, bias_decay_scale
        Of every optimizer, by keyword: see `fastbp.optimizers.Rule`.
    """

    lr: Rate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    counts_updates = True

    @property
    def row(self) -> Optimizer:
        return TABLE["radam"]

    def _values(self, steps: Steps) -> dict[str, float | NDArray[Any]]:
        beta2 = self.betas[1]
        end = 2 / (1 - beta2) - 1
        correction = steps.correction(beta2)
        r = end - 2 * steps.t * np.power(beta2, steps.t) / correction
        known = np.maximum(r, 5)  # below, the root might not be real
        scale = np.sqrt((known - 4) * (known - 2) * end / np.where(r > 5, (end - 4) * (end - 2) * known, 1))
        rectified = np.where(r > 5, scale * np.sqrt(correction), 0.0)
        at_its_end = r[0] == end  # and so is it from there on
        return _moments(self.betas, steps) | {"rectified": float(rectified[0]) if at_its_end else rectified}


@dataclass(eq=False, repr=False)
class RMSprop(Rule):
    """RMSprop (Tieleman and Hinton, 2012), as ``torch.optim.RMSprop``; decay is coupled.

    ``v <- alpha v + (1 - alpha) g^2``, ``p <- p - lr g / (sqrt(v) + eps)``; with `centered` the square of the mean
    gradient is taken from v; with momentum the quotient goes into a velocity.

    Parameters
    ----------
    lr : float or schedule, default 1e-2
    alpha : float, default 0.99
    eps : float, default 1e-8
    weight_decay : float, default 0.0
    momentum : float, default 0.0
    centered : bool, default False
    l1, max_norm, clip_value, clip_norm, accumulate, average, lr_scale, decay_scale, bias_lr_scale, bias_decay_scale
        Of every optimizer, by keyword: see `fastbp.optimizers.Rule`.
    """

    lr: Rate = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    @property
    def row(self) -> Optimizer:
        return TABLE["rmsprop" + "_centered" * self.centered + "_momentum" * (self.momentum > 0)]

    def _values(self, steps: Steps) -> dict[str, float | NDArray[Any]]:
        return {"rest": 1 - self.alpha}


@dataclass(eq=False, repr=False)
class Adagrad(Rule):
    """Adagrad (Duchi et al., 2011), as ``torch.optim.Adagrad``; decay is coupled.

    ``s <- s + g^2``, ``p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)``.

    Parameters
    ----------
    lr : float or schedule, default 1e-2
    lr_decay : float, default 0.0
    weight_decay : float, default 0.0
    initial_accumulator_value : float, default 0.0
        What s begins with.
    eps : float, default 1e-10
    l1, max_norm, clip_value, clip_norm, accumulate, average, lr_scale, decay_scale, bias_lr_scale, bias_decay_scale
        Of every optimizer, by keyword: see `fastbp.optimizers.Rule`.
    """

    lr: Rate = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    @property
    def counts_updates(self) -> bool:  # type: ignore[override]
        return self.lr_decay > 0

    @property
    def row(self) -> Optimizer:
        return TABLE["adagrad"]

    def _values(self, steps: Steps) -> dict[str, float | NDArray[Any]]:
        slower = 1 + (steps.t - 1) * self.lr_decay if self.lr_decay else 1.0
        return {"lr": steps.lr / slower, "initial": self.initial_accumulator_value}


@dataclass(eq=False, repr=False)
class Adadelta(Rule):
    """Adadelta (Zeiler, 2012), as ``torch.optim.Adadelta``; decay is coupled.

    ``v <- rho v + (1 - rho) g^2``, ``d = sqrt(u + eps) / sqrt(v + eps) g``, ``u <- rho u + (1 - rho) d^2``,
    ``p <- p - lr d``.

    Parameters
    ----------
    lr : float or schedule, default 1.0
    rho : float, default 0.9
    eps : float, default 1e-6
    weight_decay : float, default 0.0
    l1, max_norm, clip_value, clip_norm, accumulate, average, lr_scale, decay_scale, bias_lr_scale, bias_decay_scale
        Of every optimizer, by keyword: see `fastbp.optimizers.Rule`.
    """

    lr: Rate = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0

    @property
    def row(self) -> Optimizer:
        return TABLE["adadelta"]

    def _values(self, steps: Steps) -> dict[str, float | NDArray[Any]]:
        return {"rest": 1 - self.rho}


@dataclass(eq=False, repr=False)
class Lion(Rule):
    """Lion (Chen et al., 2023), as ``optax.lion``; decay is decoupled.

    ``p <- p - lr (sign(beta1 m + (1 - beta1) g) + weight_decay p)``, then ``m <- beta2 m + (1 - beta2) g``.

    Parameters
    ----------
    lr : float or schedule, default 1e-4
    betas : (float, float), default (0.9, 0.99)
    weight_decay : float, default 1e-3
    l1, max_norm, clip_value, clip_norm, accumulate, average, lr_scale, decay_scale, bias_lr_scale, bias_decay_scale
        Of every optimizer, by keyword: see `fastbp.optimizers.Rule`.
    """

    lr: Rate = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-3

    @property
    def row(self) -> Optimizer:
        return TABLE["lion"]

    def _values(self, steps: Steps) -> dict[str, float | NDArray[Any]]:
        (beta1, beta2) = self.betas
        return {"beta1": beta1, "rest1": 1 - beta1, "beta2": beta2, "rest2": 1 - beta2}


@dataclass(eq=False, repr=False)
class Rprop(Rule):
    """Resilient back-propagation (Riedmiller and Braun, 1993), as ``torch.optim.Rprop``: steps from signs alone.

    It needs the gradient over all rows: `fit` takes it with ``batch_size`` of at least their number.

    Parameters
    ----------
    lr : float, default 1e-2
        The first step of each parameter, above 0; a schedule has no meaning here.
    etas : (float, float), default (0.5, 1.2)
        Factors of a step where the sign of the gradient has changed, and where not.
    step_sizes : (float, float), default (1e-6, 50.0)
        Bounds of a step; the lower one as `Adam`'s `eps`, where it is 0 in the network's dtype.
    l1, max_norm, clip_value, clip_norm, accumulate, average, lr_scale, decay_scale, bias_lr_scale, bias_decay_scale
        Of every optimizer, by keyword: see `fastbp.optimizers.Rule`.
    """

    lr: float = 1e-2
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)

    full_batch = True
    above_zero: ClassVar[tuple[str, ...]] = ("least",)  # a step of 0 would begin anew with lr

    def __post_init__(self) -> None:
        if callable(self.lr):
            raise TypeError(f"Rprop: lr must be a number, its first step; got {self.lr!r}")
        super().__post_init__()
        number("Rprop: lr", self.lr, 0, ends="(]")
        number("Rprop: step_sizes[1]", self.step_sizes[1], self.step_sizes[0])

    @property
    def row(self) -> Optimizer:
        return TABLE["rprop"]

    def _values(self, steps: Steps) -> dict[str, float | NDArray[Any]]:
        (smaller, larger), (least, most) = self.etas, self.step_sizes
        return {"smaller": smaller, "larger": larger, "least": least, "most": most}


@dataclass(eq=False, repr=False)
class LBFGS(Frozen):
    """Limited-memory BFGS (Liu and Nocedal, 1989): SciPy's L-BFGS-B, in float64, on all rows at once; for `fit` alone.

    A step of `fit` is one of its iterations, and an epoch. It ends earlier where it has converged or cannot go on;
    `History.stopped` then has SciPy's reason. It needs SciPy.

    Parameters
    ----------
    history_size : int, default 10
        Pairs of vectors that stand for the second derivatives.
    gtol : float, default 1e-5
        Converged where no element of the gradient is larger.
    ftol : float, default 2.2e-9
        Converged where an iteration lowers the loss by less than this part of it.
    max_evaluations : int, default 15000
        Of loss and gradient, at most.
    """

    CHECKS: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = _CHECKS

    history_size: int = 10
    gtol: float = 1e-5
    ftol: float = 2.2e-9
    max_evaluations: int = 15_000


OTHER_ARGUMENTS: dict[str, tuple[str, ...]] = {  # what other libraries call the hyper-parameters
    "lr": ("learning_rate", "learning_rate_init", "eta", "eta0"),
    "betas": ("beta1", "beta2", "beta_1", "beta_2", "b1", "b2"),
    "alpha": ("rho", "decay_rate", "discounting_factor"),
    "eps": ("epsilon",),
    "weight_decay": ("l2", "decay", "wd", "l2_penalty", "lambda", "reg"),
    "l1": ("l1_penalty", "l1_regularization"),
    "clip_norm": ("max_grad_norm", "global_clipnorm", "gradient_clip_norm", "grad_clip_norm"),
    "clip_value": ("gradient_clip_value", "grad_clip_value"),
    "max_norm": ("max_norm_constraint",),
    "accumulate": ("accumulation_steps", "gradient_accumulation_steps", "accumulate_grad_batches"),
    "average": ("ema", "ema_decay", "ema_momentum", "use_ema"),
    "momentum": ("mu",),
    "nesterov": ("use_nesterov", "nesterovs_momentum"),
    "history_size": ("m", "maxcor", "memory"),
    "max_evaluations": ("max_fun", "max_eval", "maxfun"),
    "gtol": ("tolerance_grad",),
    "ftol": ("tolerance_change",),
    "epochs= or steps= of fit says how long": ("max_iter", "epochs", "steps", "iterations", "n_iter"),
    "the network is not named here: net.fit(X, y, optimizer=...)": ("params", "parameters"),
}

BY_NAME: dict[str, type] = {
    kind.__name__.lower(): kind
    for kind in (SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Adadelta, Lion, Rprop, LBFGS)
}
for _kind in BY_NAME.values():
    _kind.__init__ = names_arguments(OTHER_ARGUMENTS)(_kind.__init__)  # type: ignore[misc]
OTHERS: dict[str, tuple[str, ...]] = {  # what other libraries call them: see `fastbp.errors`
    "sgd": ("gd", "gradient_descent", "stochastic_gradient_descent", "vanilla"),
    "rmsprop": ("rms",),
    "lbfgs": ("l_bfgs_b", "bfgs"),
    "fastbp.SGD(lr=0.01, momentum=0.9) has momentum, and nesterov=True": ("momentum", "nesterov", "nag", "sgdm"),
}
