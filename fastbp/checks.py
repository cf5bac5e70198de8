"""Checks of single numbers, for hyper-parameters and for `fastbp.spec`; values that are checked once.

The message names the argument, what came and what is wanted. What is no number at all is a TypeError, what lies
outside is a ValueError.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, fields
from typing import Any, ClassVar

import numpy as np


class Settings:
    """Checked values with names, which do not change: for ``@dataclass(eq=False, repr=False)``.

    What is here once, `dataclass` would compile anew for each class: that was half of what importing fastbp took.
    """

    CHECKS: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {}  # (argument, value) -> value, by a field's name

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            check = self.CHECKS.get(field.name)
            if check is not None:
                setattr(self, field.name, check(f"{type(self).__name__}: {field.name}", getattr(self, field.name)))
        self._sealed = True

    def __setattr__(self, name: str, value: Any) -> None:
        if "_sealed" in self.__dict__:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        self.__dict__[name] = value

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def _values_of_fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values_of_fields() == other._values_of_fields()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self._values_of_fields()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({shown})"


def integer(argument: str, value: Any, low: int, high: int | None = None) -> int:
    """`value` as an int of at least `low`; bools, floats and strings are refused."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must be an integer, got {value!r}") from None
    if number < low or (high is not None and number > high):
        wanted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{argument} must be {wanted}, got {number}")
    return number


def number(argument: str, value: Any, low: float, high: float = math.inf, *, ends: str = "[]") -> float:
    """`value` as a finite float between `low` and `high`; `ends` says which of the two are included, as "[)" does."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    try:
        x = float(value)
    except OverflowError:
        x = math.inf
    above = low <= x if ends[0] == "[" else low < x
    below = x <= high if ends[1] == "]" else x < high
    if not (above and below) or math.isinf(x):
        if math.isinf(high):
            wanted = f"at least {low:g}" if ends[0] == "[" else f"above {low:g}"
        elif ends == "[]":
            wanted = f"from {low:g} to {high:g}"
        else:
            wanted = f"in {ends[0]}{low:g}, {high:g}{ends[1]}"
        raise ValueError(f"{argument} must be finite and {wanted}, got {value!r}")
    return x


def takes(what: str, function: Callable[..., Any], *names: str) -> None:
    """Make sure that `function` can be called with so many arguments, before it is."""
    import inspect

    try:
        inspect.signature(function).bind(*names)
    except TypeError:
        raise TypeError(f"{what} must take ({', '.join(names)})") from None
    except ValueError:  # it does not say what it takes
        pass


def boolean(argument: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument} must be True or False, got {value!r}")
    return bool(value)
