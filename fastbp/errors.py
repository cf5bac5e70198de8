"""Exceptions of fastbp, and the one way in which its messages suggest a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType


class NonFiniteError(ArithmeticError):
    """Training met a loss or a parameter that is NaN or infinite.

    The network holds the parameters of its last finite step and can be used on.

    Attributes
    ----------
    step : int
        Steps finished, all of them finite (``net.step``); counted from 0 it is also the step that failed.
    epoch : int
        The epoch, counted from 0, that the failing step belongs to.
    """

    def __init__(self, message: str, step: int, epoch: int) -> None:
        super().__init__(message)
        self.step = step
        self.epoch = epoch

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[str, int, int]]:
        return type(self), (self.args[0], self.step, self.epoch)


class FormatError(ValueError):
    """A file holds no network that fastbp saved: another format, a newer version, or damaged."""


class StopTraining(Exception):
    """Raised in a callback: ends the run after the step at hand; `fit` returns as usual.

    Attributes
    ----------
    reason : str or None
        What `History.stopped` will say.
    """

    def __init__(self, reason: str | None = "a callback stopped the run") -> None:
        super().__init__(reason)
        self.reason = reason


# What to say of names that others use: a name that is known here, or a sentence -> those names. Beside each table.
Others = Mapping[str, Iterable[str]]
NONE: Others = MappingProxyType({})


def instance_hint(value: object, kinds: type | tuple[type, ...]) -> str:
    """The end of a message about a class, of these kinds, that was given where one of its objects is wanted."""
    return f"; {value.__name__}() makes one" if isinstance(value, type) and issubclass(value, kinds) else ""


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def elsewhere(name: str, known: Iterable[str], others: Others) -> str:
    """What to say of a name that is one of `known` in another spelling, or that other libraries use; or nothing."""
    wanted = _plain(name)
    texts = {one: f"did you mean {one!r}? " for one in known}
    texts |= {said: f"{said}; " for said in others if not said.isidentifier()}
    for said, text in texts.items():
        if wanted in map(_plain, (said, *others.get(said, ()))):
            return text
    return ""


def unknown_name(
    argument: str, got: object, known: Iterable[str], error: type[Exception] = ValueError, others: Others = NONE
) -> Exception:
    """The error for a name that no table holds: the argument, what came, the name that is meant, all names."""
    import difflib

    known, hint = sorted(known), ""
    if isinstance(got, str):
        near = difflib.get_close_matches(got.lower(), known, n=1, cutoff=0.5)  # which would mislead of `others`
        hint = elsewhere(got, known, others) or (f"did you mean {near[0]!r}? " if near else "")
    return error(f"{argument}: unknown name {got!r}; {hint}known: {', '.join(map(repr, known))}")
