"""Checks of single numbers, for hyper-parameters and for `fastbp.spec`.

The message names the argument, what came and what is wanted. What is no number at all is a TypeError, what lies
outside is a ValueError.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np


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


def boolean(argument: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument} must be True or False, got {value!r}")
    return bool(value)
