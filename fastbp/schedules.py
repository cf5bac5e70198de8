"""Learning rates that change with the step: small values, put in place of a number as an optimizer's ``lr``.

A schedule is a function of ``net.step``, counted from 0, and of nothing else: so a run that goes on finds its place.
Each takes whole arrays of steps at once. Any callable of one step serves as well, such as a schedule of optax, and is
asked for each step.

>>> import fastbp
>>> from fastbp.schedules import Cosine, Warmup
>>> rule = fastbp.Adam(lr=Warmup(Cosine(1e-3, steps=10_000), steps=500))
>>> rule.rate(0) < rule.rate(499) > rule.rate(9_999)
True
"""

from __future__ import annotations

import math
from collections import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat, TypeAlias

import numpy as np

from fastbp.checks import Frozen, boolean, integer, number

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rate: TypeAlias = "float | Schedule | Callable[[int], SupportsFloat]"


def rate_or_schedule(argument: str, value: Any) -> Rate:
    """`value`, if it is a rate: a number of at least 0, a schedule, or another callable of the step.

    Parameters
    ----------
    argument : str
        What an error names.
    value : object
    """
    return value if callable(value) else number(argument, value, 0)


def _inner_rate(argument: str, value: Any) -> Rate:
    """A rate within another schedule."""
    if isinstance(value, ReduceOnPlateau):
        raise ValueError(f"{argument}: ReduceOnPlateau would not hear of epochs there; it goes around other schedules, "
                         f"as in ReduceOnPlateau(Warmup(0.1, 100)); got {value!r}")  # fmt: skip
    return rate_or_schedule(argument, value)


def _items(argument: str, value: Any) -> tuple[Any, ...]:
    single = isinstance(value, (str, bytes)) or getattr(value, "ndim", 1) == 0
    if single or not isinstance(value, (abc.Sequence, np.ndarray)):
        raise TypeError(f"{argument} must be a sequence, got {value!r}")
    return tuple(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {  # of a field, by its name
    **dict.fromkeys(("lr", "end", "start", "least", "factor", "decay", "threshold"), lambda a, v: number(a, v, 0)),
    **dict.fromkeys(("growth", "power", "start_divisor", "end_divisor"), lambda a, v: number(a, v, 0, ends="(]")),
    **dict.fromkeys(("steps", "every"), lambda a, v: integer(a, v, 1)),
    **dict.fromkeys(("patience", "cooldown"), lambda a, v: integer(a, v, 0)),
    "rise": lambda a, v: number(a, v, 0, 1),
    "restarts": boolean,
    "schedule": _inner_rate,
}


class Schedule(Frozen):
    """A rate as a function of the step. Subclasses are values with a method ``at(steps)``."""

    CHECKS: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = _CHECKS

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        """The rates at an array of steps, float64 of at least 0."""
        raise NotImplementedError

    def __call__(self, step: int) -> float:
        return float(self.at(np.array([step], np.float64))[0])


def rates(rate: Rate, first: int, count: int, *, name: str = "lr", low: float = 0.0) -> float | NDArray[Any]:
    """What `rate` is at the steps ``first, ..., first + count - 1``; a number where it is the same at each.

    Numbers below `low` are refused, with `name` in the message.
    """
    if not callable(rate):
        return rate
    if isinstance(rate, Schedule):
        values = np.asarray(rate.at(np.arange(first, first + count, dtype=np.float64)), np.float64)
    else:
        values = np.array([_asked(rate, step, name, low) for step in range(first, first + count)], np.float64)
    if not (values >= low).all() or not np.isfinite(values).all():
        what = "negative or not finite" if low == 0 else "not finite"
        raise ValueError(f"{name}: {rate!r} gives a rate that is {what} from step {first} on")
    return float(values[0]) if count and (values == values[0]).all() else values


def _asked(rate: Callable[[int], SupportsFloat], step: int, name: str = "lr", low: float = 0.0) -> float:
    return number(f"{name}: the rate at step {step}", rate(step), low)


# ------------------------------------------------------------------ the table


@dataclass(eq=False, repr=False)
class Constant(Schedule):
    """``lr``, always."""

    lr: float

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        return np.full(steps.shape, self.lr)


@dataclass(eq=False, repr=False)
class Step(Schedule):
    """``lr * factor ** (step // every)``; torch's StepLR."""

    lr: float
    every: int
    factor: float = 0.1

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        factors: NDArray[Any] = np.power(self.factor, steps // self.every)
        return self.lr * factors


@dataclass(eq=False, repr=False)
class Exponential(Schedule):
    """``lr * factor ** (step / every)``; optax's exponential_decay, with ``every=1`` torch's ExponentialLR."""

    lr: float
    factor: float
    every: int = 1

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        return self.lr * np.power(self.factor, steps / self.every)


@dataclass(eq=False, repr=False)
class InverseTime(Schedule):
    """``lr / (1 + decay * step / every) ** power``; with ``power=0.5`` by the square root of the steps."""

    lr: float
    decay: float
    every: int = 1
    power: float = 1.0

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        return self.lr / np.power(1 + self.decay * steps / self.every, self.power)


@dataclass(eq=False, repr=False)
class Polynomial(Schedule):
    """From ``lr`` to ``end`` over ``steps`` steps as ``(1 - step / steps) ** power``, ``end`` from there on."""

    lr: float
    steps: int
    end: float = 0.0
    power: float = 1.0

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        left: NDArray[Any] = np.power(1 - np.minimum(steps, self.steps) / self.steps, self.power)
        return self.end + (self.lr - self.end) * left


@dataclass(eq=False, repr=False)
class Cosine(Schedule):
    """Half a cosine from ``lr`` to ``end`` over ``steps`` steps (Loshchilov and Hutter, 2017).

    Parameters
    ----------
    lr, end : float
    steps : int
    restarts : bool, default False
        Begin again from ``lr`` each time; else stay at ``end``.
    growth : float, default 1.0
        Each run after a restart is so many times as long as the one before.
    """

    lr: float
    steps: int
    end: float = 0.0
    restarts: bool = False
    growth: float = 1.0

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        if not self.restarts:
            place = np.minimum(steps / self.steps, 1)
        elif self.growth == 1:
            place = steps % self.steps / self.steps
        else:  # run k begins after steps * (growth^k - 1) / (growth - 1) steps; with growth < 1 they end somewhere
            grown = np.maximum(1 + steps / self.steps * (self.growth - 1), np.finfo(np.float64).tiny)
            run = np.floor(np.log(grown) / math.log(self.growth) + 1e-12)
            length = self.steps * np.power(self.growth, run)
            begin = self.steps * (np.power(self.growth, run) - 1) / (self.growth - 1)
            place = np.clip((steps - begin) / np.maximum(length, 1), 0, 1)
        return self.end + (self.lr - self.end) * (1 + np.cos(np.pi * place)) / 2


@dataclass(eq=False, repr=False)
class OneCycle(Schedule):
    """Up and down once, each by half a cosine (Smith and Topin, 2019); torch's OneCycleLR, two phases.

    Parameters
    ----------
    lr : float
        The highest rate.
    steps : int
        Of the whole cycle; after it the rate stays at its lowest.
    rise : float, default 0.3
        The part of the cycle in which the rate rises.
    start_divisor : float, default 25.0
        The rate begins at ``lr / start_divisor``.
    end_divisor : float, default 1e4
        It ends at the first rate divided by this.
    """

    lr: float
    steps: int
    rise: float = 0.3
    start_divisor: float = 25.0
    end_divisor: float = 1e4

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        start = self.lr / self.start_divisor
        end, top = start / self.end_divisor, self.rise * self.steps - 1
        up = np.clip(steps / top, 0, 1) if top > 0 else np.ones(steps.shape)
        down = np.clip((steps - top) / max(self.steps - 1 - top, 1), 0, 1)
        rising = start + (self.lr - start) * (1 - np.cos(np.pi * up)) / 2
        falling = end + (self.lr - end) * (1 + np.cos(np.pi * down)) / 2
        return np.where(steps < top, rising, falling)


@dataclass(eq=False, repr=False)
class Warmup(Schedule):
    """A straight line from ``start`` to where `schedule` begins over ``steps`` steps, then `schedule` from its step 0.

    Parameters
    ----------
    schedule : float, Schedule or callable
    steps : int
    start : float, default 0.0
        Step s of the first ones has ``start + (first - start) * (s + 1) / (steps + 1)``, so that none has rate 0.
    """

    schedule: Rate
    steps: int
    start: float = 0.0

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        first = float(rates_at(self.schedule, np.zeros(1))[0])
        rising = self.start + (first - self.start) * (steps + 1) / (self.steps + 1)
        return np.where(steps < self.steps, rising, rates_at(self.schedule, np.maximum(steps - self.steps, 0)))


@dataclass(eq=False, repr=False)
class Piecewise(Schedule):
    """``rates[k]`` from step ``boundaries[k - 1]`` on; one more rate than there are boundaries."""

    boundaries: abc.Sequence[int]
    rates: abc.Sequence[float]

    def __post_init__(self) -> None:
        given, values = _items("Piecewise: boundaries", self.boundaries), _items("Piecewise: rates", self.rates)
        boundaries = tuple(integer(f"Piecewise: boundaries[{k}]", b, 1) for k, b in enumerate(given))
        values = tuple(number(f"Piecewise: rates[{k}]", r, 0) for k, r in enumerate(values))
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"Piecewise: rates must be one more than boundaries, got {len(values)} and {len(boundaries)}"
            )
        if any(b >= c for b, c in zip(boundaries, boundaries[1:])):
            raise ValueError(f"Piecewise: boundaries must rise, got {boundaries}")
        self.boundaries, self.rates = boundaries, values
        super().__post_init__()

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        return np.array(self.rates)[np.searchsorted(np.array(self.boundaries), steps, side="right")]


@dataclass(eq=False, repr=False)
class Sequence(Schedule):
    """Schedules one after the other, each counted from its own first step.

    Parameters
    ----------
    parts : sequence of (schedule, steps)
        The last one goes on for ever; its number of steps may be None.
    """

    parts: abc.Sequence[tuple[Rate, int | None]]

    def __post_init__(self) -> None:
        parts = []
        given = _items("Sequence: parts", self.parts)
        for k, part in enumerate(given):
            if not isinstance(part, (tuple, list)) or len(part) != 2:
                raise TypeError(f"Sequence: parts[{k}] must be (schedule, steps), got {part!r}")
            last = k == len(given) - 1
            steps = None if last and part[1] is None else integer(f"Sequence: parts[{k}] steps", part[1], 1)
            parts.append((_inner_rate(f"Sequence: parts[{k}]", part[0]), steps))
        if not parts:
            raise ValueError("Sequence: parts must hold at least one (schedule, steps)")
        self.parts = tuple(parts)
        super().__post_init__()

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        out, begin = np.empty(steps.shape), 0.0
        for k, (schedule, length) in enumerate(self.parts):
            end = math.inf if length is None or k == len(self.parts) - 1 else begin + length
            here = (steps >= begin) & (steps < end)
            out[here] = rates_at(schedule, steps[here] - begin)
            begin = end
        return out


def rates_at(schedule: Rate, steps: NDArray[Any]) -> NDArray[Any]:
    """What a rate is at an array of steps.

    Parameters
    ----------
    schedule : float, Schedule or callable
    steps : ndarray of float64

    Returns
    -------
    ndarray of float64
    """
    if isinstance(schedule, Schedule):
        return schedule.at(steps)
    if callable(schedule):
        return np.array([_asked(schedule, int(step)) for step in steps], np.float64)
    made = np.empty(steps.shape)
    made.fill(schedule)  # as `np.full`, in a third of its time
    return made


@dataclass(eq=False, repr=False)
class ReduceOnPlateau(Schedule):
    """``lr``, times ``factor`` each time the loss of `fit`'s epochs has stopped falling; torch's, in mode "min".

    The network remembers where it stands: it belongs to the training state. Only `fit` has epochs.

    Parameters
    ----------
    lr : float or schedule
    factor : float, default 0.1
        Below 1.
    patience : int, default 10
        So many epochs without a better loss are waited for.
    threshold : float, default 1e-4
        Better is below the best loss by this part of it.
    cooldown : int, default 0
        So many epochs after a reduction are not counted.
    least : float, default 0.0
        The rate is not reduced below this.
    """

    CHECKS: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {**Schedule.CHECKS, "lr": _inner_rate}

    lr: Rate
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    least: float = 0.0

    def __post_init__(self) -> None:
        number("ReduceOnPlateau: factor", self.factor, 0, 1, ends="()")
        super().__post_init__()

    def at(self, steps: NDArray[Any]) -> NDArray[Any]:
        return rates_at(self.lr, steps)

    def after_epoch(self, seen: dict[str, float], loss: float, step: int) -> dict[str, float]:
        """What is remembered after an epoch's mean `loss`: the scale of the rate, the best loss, two counts."""
        seen = dict(seen)
        if loss < seen["best"] * (1 - self.threshold * np.sign(seen["best"])) or loss < seen["best"] == math.inf:
            seen |= {"best": loss, "bad": 0}
        else:
            seen["bad"] += 1
        if seen["wait"] > 0:
            seen |= {"wait": seen["wait"] - 1, "bad": 0}
        if seen["bad"] > self.patience:
            rate = self(step) if self.least else 0.0
            lowest = min(self.least / rate, seen["scale"]) if rate else 0.0
            seen |= {"scale": max(seen["scale"] * self.factor, lowest), "wait": self.cooldown, "bad": 0}
        return seen
