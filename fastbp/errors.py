"""Exceptions of fastbp, and the one way in which its messages suggest a name."""

from __future__ import annotations

from collections.abc import Iterable


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


_ELSEWHERE = {  # what other libraries have under these names; the nearest name would mislead
    "softmax": "loss='softmax_cross_entropy' takes logits, and predict_proba gives probabilities; ",
    **dict.fromkeys(
        ("cross_entropy", "crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy"),
        "did you mean 'softmax_cross_entropy'? ",
    ),
}


def instance_hint(value: object, kinds: type | tuple[type, ...]) -> str:
    """The end of a message about a class, of these kinds, that was given where one of its objects is wanted."""
    return f"; {value.__name__}() makes one" if isinstance(value, type) and issubclass(value, kinds) else ""


def unknown_name(argument: str, got: object, known: Iterable[str], error: type[Exception] = ValueError) -> Exception:
    """The error for a name that no table holds: the argument, what came, the nearest name, all names."""
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(got.lower(), known, n=1, cutoff=0.5) if isinstance(got, str) else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    if isinstance(got, str):
        hint = _ELSEWHERE.get(got, hint)
    return error(f"{argument}: unknown name {got!r}; {hint}known: {', '.join(map(repr, known))}")
