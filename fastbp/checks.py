"""One value, checked: a number, a name, a seed, the elements of an array; values that are checked
once and do not change; names of arguments.

The message names the argument, what came and what is wanted. What is no number at all is a TypeError, what lies
outside is a ValueError.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, fields
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from fastbp.arrays import real_number
from fastbp.errors import NONE, Others, unknown_name

_F = TypeVar("_F", bound=Callable[..., Any])

_PLAIN = (float, int, bool, str, type(None))


@lru_cache(maxsize=256, typed=True)
def _made(kind: type, *values: Any, **named: Any) -> Any:
    return type.__call__(kind, *values, **named)


class _Once(type):
    """What is made of the same plain numbers is one object: ``SGD(0.01)`` in a loop is made and checked once."""

    if not TYPE_CHECKING:

        def __call__(cls, *values, **named):
            given = (*values, *named.values()) if named else values
            for value in given:
                if type(value) not in _PLAIN:
                    return type.__call__(cls, *values, **named)
            make = _made if cls.__module__.startswith("fastbp.") else type.__call__
            return make(cls, *values, **named)

        @property
        def __signature__(cls):
            import inspect

            of_init = inspect.signature(cls.__init__)
            return of_init.replace(parameters=list(of_init.parameters.values())[1:])


class Frozen(metaclass=_Once):
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
        return self._values_of_fields() == other._values_of_fields()

    def __hash__(self) -> int:
        known: dict[str, Any] = self.__dict__
        if "_hash" not in known:
            known["_hash"] = hash((type(self), self._values_of_fields()))
        made: int = known["_hash"]
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}  # another process has others

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
    x = real_number(value)
    if x is None:
        raise TypeError(f"{argument} must be a number, got {value!r}")
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
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is not None and code.co_argcount - hasattr(function, "__self__") == len(names):
        if not code.co_kwonlyargcount:
            return  # it takes just these; `inspect` would take 20 us to see that
    import inspect

    try:
        inspect.signature(function).bind(*names)
    except TypeError:
        raise TypeError(f"{what} must take ({', '.join(names)})") from None
    except ValueError:  # it does not say what it takes
        pass


def names_arguments(others: Others) -> Callable[[_F], _F]:
    """A decorator: an argument that the function does not have is refused by `unknown_name`. A call costs 0.2 us more.

    Python says that there is no such argument; what is raised inside of the function comes out as it is.
    """

    def decorate(function: _F) -> _F:
        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return function(*arguments, **named)
            except TypeError as error:
                inside = getattr(error.__traceback__, "tb_next", None)
                wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
                if wrong is None or inside is not None:
                    raise
                makes = function.__name__ == "__init__"
                what = type(arguments[0]).__name__ if makes else function.__name__
                import inspect

                known = list(inspect.signature(function).parameters)[1:]
                told = unknown_name(f"argument of {what}", wrong[1], known, TypeError, others)
            raise told from None

        return call  # type: ignore[return-value]

    return decorate


def boolean(argument: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument} must be True or False, got {value!r}")
    return bool(value)


def optional_integer(argument: str, value: Any, low: int) -> int | None:
    return None if value is None else integer(argument, value, low)


def choice(argument: str, value: Any, known: Iterable[str], others: Others = NONE) -> Any:
    """`value`, one of `known`; for type checkers, which know these as literals, anything."""
    if not isinstance(value, str) or value not in known:
        raise unknown_name(argument, value, known, TypeError if not isinstance(value, str) else ValueError, others)
    return value


def seed(value: Any) -> int:
    """A seed of 64 bits, from an integer, or from what draws one.

    None draws from the operating system. A Generator draws one and moves on. What a SeedSequence gives is always the
    same, and leaves it as it is.
    """
    if value is None:
        return int.from_bytes(os.urandom(8))
    try:
        return integer("seed", value, 0, 2**64 - 1)
    except TypeError:
        pass
    if isinstance(value, np.random.SeedSequence):
        return int(value.generate_state(1, np.uint64)[0])
    if isinstance(value, np.random.Generator):
        return int(value.integers(2**64, dtype=np.uint64))
    hint = "; np.random.default_rng makes a Generator of it"
    if not isinstance(value, (np.random.RandomState, np.random.BitGenerator)):
        hint = ""
    raise TypeError(f"seed must be an integer, a Generator or a SeedSequence of NumPy, got {value!r}{hint}")


@contextmanager
def undrawn(*seeds: Any) -> Iterator[None]:
    """Where the block raises, Generators that seeds were drawn from are left as they were before it."""
    drawn = [(one.bit_generator, one.bit_generator.state) for one in seeds if isinstance(one, np.random.Generator)]
    try:
        yield
    except Exception:
        for generator, state in drawn:
            generator.state = state
        raise


def run_length(epochs: Any, steps: Any, steps_per_epoch: int) -> int:
    """The number of steps that exactly one of `epochs` and `steps` asks for."""
    if (epochs is None) == (steps is None):
        raise ValueError(f"give exactly one of epochs and steps, got epochs={epochs!r} and steps={steps!r}")
    if steps is not None:
        return integer("steps", steps, 0)
    return integer("epochs", epochs, 0) * steps_per_epoch


_BLOCK = 1 << 16  # elements looked at in one go, so that memory does not grow with the data


def _row_blocks(array: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    if 0 < array.size <= _BLOCK:
        yield 0, array[:]
        return
    rows = max(1, _BLOCK // max(1, array.size // max(1, len(array))))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def first_where(array: np.ndarray, test: Callable[[np.ndarray], np.ndarray]) -> tuple[int, ...] | None:
    """The index of the first element that `test` holds for, in row order."""
    for start, block in _row_blocks(array):
        found = test(block)
        if np.count_nonzero(found):  # of a small array in a third of the time of `found.any()`
            first = np.unravel_index(np.argmax(found), found.shape)
            return (start + int(first[0]), *map(int, first[1:]))
    return None


def non_finite(block: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Where `block`, cast to `dtype`, is NaN or infinite."""
    if block.dtype == dtype:
        return ~np.isfinite(block)
    with np.errstate(all="ignore"):
        return ~np.isfinite(block.astype(dtype))


def where_non_finite(X: Any, dtype: np.dtype, row_numbers: np.ndarray | None = None) -> str | None:
    """What X holds that is not finite in the network's dtype; `row_numbers`: of its rows, for those who gave them."""
    at = first_where(X, lambda block: non_finite(block, dtype))
    if at is None:
        return None
    row = at[0] if row_numbers is None else row_numbers[at[0]]
    large = f" (too large for {dtype})" if np.isfinite(X[at]) else ""
    return f"X holds {X[at]}{large} at row {row}, column {at[1]}"


def largest(array: Any) -> float:
    """The size of the element that is farthest from 0; of an empty array 0."""
    blocks = (block for _, block in _row_blocks(array) if block.size)
    return max((max(float(block.max()), -float(block.min())) for block in blocks), default=0.0)


def refuse(
    argument: str, array: np.ndarray, test: Callable[[np.ndarray], np.ndarray], wanted: str, *parts: object,
    cure: Callable[[Any], str] = lambda found: "",
) -> None:  # fmt: skip
    """Make sure that `test` holds nowhere.

    `parts` are formatted into `wanted` only where it does, as a dtype takes 3 us; `cure` gives the end of the message
    for the element found, which says what to do.
    """
    at = first_where(array, test)
    if at is not None:
        place = ", ".join(map(str, at))
        what = f"{argument} must be {wanted.format(*parts)}, got {argument}[{place}] = {array[at]}"
        raise ValueError(what + cure(array[at]))
