"""Activations, losses and optimizers of the user's own: rows as those of the tables, checked where they are made.

A row is written as expressions, or an activation and a loss as Python functions of single numbers. Its derivative is
compared with finite differences at once. Where an expression comes without one, the derivative is made from it: see
`fastbp.rows.slopes`.
"""

from __future__ import annotations

import copyreg
import importlib
import inspect
import keyword
import math
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fastbp import activations, losses, optimizers, rows
from fastbp.checks import number
from fastbp.rows.slopes import slope
from fastbp.schedules import Rate, ReduceOnPlateau, Schedule, rates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.typing import LinkName

DomainLike: TypeAlias = rows.Domain | tuple[float, float] | tuple[float, float, str]
MOST_SLOTS, MOST_SCALARS = 4, 10  # MAX_SLOTS and MAX_SCALARS of src/kernels.hpp

# ------------------------------------------------------------------ checks


def _check_name(kind: str, name: Any, taken: Iterable[str]) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{kind}: name must be a string, got {name!r}")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{kind}: name must be a Python name such as my_{kind}, got {name!r}")
    if name in taken:
        raise ValueError(f"{kind} {name!r}: fastbp has one of this name; choose another, such as my_{name}")


def _check_text(row: Any, kind: str, field: str, names: Iterable[str]) -> None:
    expression = getattr(row, field)
    if not isinstance(expression, str):
        raise TypeError(f"{kind} {row.name!r}: {field} must be a string, got {expression!r}")
    try:
        rows.render(expression, names, row.words)
    except ValueError as error:
        raise ValueError(f"{kind} {row.name!r}: {field}: {error}") from None


def _check_numbers_name(what: str, name: Any) -> None:
    fits = isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name) and name.isascii()
    if not fits or name in (*rows.VOCABULARY, "R", "__debug__"):
        raise ValueError(f"{what} must have a Python name, got {name!r}")


def _check_sequence(what: str, wanted: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{what} must be a sequence of {wanted}, got {value!r}")
    return tuple(value)


def _domain(name: str, value: Any) -> rows.Domain:
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    low, high, ends = pair if len(pair) == 3 else (*pair, "[]") if len(pair) == 2 else ("", "", "")
    if any(isinstance(x, bool) or not isinstance(x, Real) for x in (low, high)) or not isinstance(ends, str):
        raise TypeError(f"loss {name!r}: domain must be (low, high), got {value!r}")
    if not low < high or ends not in ("[]", "(]", "[)", "()", "{}"):
        raise ValueError(f"loss {name!r}: domain must be (low, high) with low < high, got {value!r}")
    return rows.Domain(float(low), float(high), ends)


def _derived(row: Any, kind: str, field: str) -> str:
    try:
        return slope(getattr(row, field), "z")
    except (ArithmeticError, RecursionError, ValueError) as error:
        raise ValueError(f"{kind} {row.name!r}: {field}: {error}; give the derivative") from None


_STEP = 1e-5  # of a finite difference, relative to the place or to 0.01
_SLACK = 1e-5  # what a derivative may be off, relative to itself or to 1


def _check_slope(
    what: str, f: Callable[[NDArray[Any]], NDArray[Any]], got: NDArray[Any], z: NDArray[Any],
    places: Mapping[str, np.ndarray],
) -> None:  # fmt: skip
    """Compare `got`, the derivative at each z, with differences of f; `places` are named in the message.

    Places where f is not finite, and kinks, where the differences to both sides disagree, say nothing.
    """
    h = _STEP * np.maximum(0.01, np.abs(z))
    with np.errstate(all="ignore"):
        low, middle, high = f(z - h), f(z), f(z + h)
        left, right, wanted = (middle - low) / h, (high - middle) / h, (high - low) / (2 * h)
        size = np.maximum(1, np.abs(wanted))
        smooth = np.isfinite(wanted) & (np.abs(right - left) <= 1e-2 * size)
        slack = _SLACK * size + 8 * np.finfo(np.float64).eps * np.abs(middle) / h
        wrong = smooth & ~(np.abs(got - wanted) <= slack)  # NaN is wrong
    if not smooth.any():
        span = f"from {z.min()} to {z.max()}"
        raise ValueError(f"{what} cannot be checked: the values are finite and smooth nowhere {span}")
    if wrong.any():
        worst = tuple(np.argwhere(wrong)[0])
        where = ", ".join(f"{name} = {float(values[worst]):.6g}" for name, values in places.items())
        raise ValueError(
            f"{what} is wrong at {where}: it gives {float(got[worst]):.6g}, "
            f"finite differences give {float(wanted[worst]):.6g}"
        )


_PLACES = np.concatenate([[0.0], *(sign * np.geomspace(1e-3, 30, 40) for sign in (1, -1))])


def _by_name(module: str, name: str) -> Any:
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _called(row: rows.Loss, given: dict[str, Any]) -> rows.Loss:
    return row(**given)


class _Own:
    """A row holds nothing that changes: a copy is itself. One of functions is pickled by its name, as they are."""

    name: str
    words: rows.Words

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __reduce__(self) -> Any:
        if isinstance(self, rows.Loss) and self.given:
            return _called, (self.plain, dict(self.given))
        if not self.words:
            return copyreg.__newobj__, (type(self),), self.__dict__  # type: ignore[attr-defined]  # not in its stub
        function = self.words[0][1]
        try:
            found = _by_name(function.__module__, function.__qualname__)
        except (ImportError, AttributeError):
            found = None
        if found != self:
            raise pickle.PicklingError(
                f"{self.name!r} is made of Python functions and pickled by its name, but "
                f"{function.__module__}.{function.__qualname__} is not it: define it at the top of an importable module"
            )
        return _by_name, (function.__module__, function.__qualname__)


# ------------------------------------------------------------------ rows


@dataclass(frozen=True)
class Activation(_Own, rows.Activation):
    """An activation of your own, for ``MLP(activation=...)``.

    Parameters
    ----------
    name : str
        Not one of `fastbp.activations`.
    forward : str
        Expression in ``z``: numbers, ``+ - * /``, one comparison, and ``EXP EXPM1 LOG LOG1P TANH SQRT ABS MAX MIN
        WHERE``. `WHERE` evaluates both sides.
    backward : str, optional
        dL/dz in ``g`` (= dL/da), ``a`` (= forward) and ``z``. Derived from `forward` unless given.
    pinned, note, words
        As `fastbp.rows.Activation` has them: values from outside, functions beside the words (see `activation`).

    Raises
    ------
    ValueError
        An expression leaves the vocabulary; the name is taken; `backward` disagrees with finite differences.

    Examples
    --------
    >>> import fastbp
    >>> mish = fastbp.Activation("my_mish", forward="z * TANH(MAX(z, 0) + LOG1P(EXP(-ABS(z))))")
    >>> net = fastbp.MLP((3, 8, 1), activation=mish)
    """

    backward: str = ""

    if TYPE_CHECKING:  # what `__post_init__` takes is more than what the fields are then

        def __init__(
            self, name: str, forward: str, backward: str = "",
            pinned: Iterable[tuple[float, float, float]] = (), note: str = "", words: rows.Words = (),
        ) -> None: ...  # fmt: skip

    def __post_init__(self) -> None:
        _check_name("activation", self.name, (*activations.TABLE, *activations.ALIASES))
        for field in ("pinned", "words"):
            object.__setattr__(self, field, tuple(map(tuple, getattr(self, field))))
        _check_text(self, "activation", "forward", ["z"])
        if not self.backward:
            object.__setattr__(self, "backward", f"g * ({_derived(self, 'activation', 'forward')})")
        _check_text(self, "activation", "backward", ["g", "a", "z"])
        forward = rows.function(self.forward_text, ("z",), self.words)
        backward = rows.function(self.backward_text, ("g", "a", "z"), self.words)

        def f(z: NDArray[Any]) -> NDArray[Any]:
            return np.broadcast_to(forward(z), z.shape)

        with np.errstate(all="ignore"):
            got = np.broadcast_to(backward(np.ones_like(_PLACES), f(_PLACES), _PLACES), _PLACES.shape)
        _check_slope(f"activation {self.name!r}: backward", f, got, _PLACES, {"z": _PLACES})


@dataclass(frozen=True)
class Loss(_Own, rows.Loss):
    """A loss of your own, for ``fit(loss=...)``; averaged over the batch, weighted where weights are given.

    Parameters
    ----------
    name : str
        Not one of `fastbp.losses`.
    value : str
        Of one output: expression in ``z`` (the network's output) and ``t`` (the target), in the words of `Activation`;
        with `statistic` also in ``lse``.
    grad : str, optional
        Its derivative by z. Derived from `value` unless given; with `statistic` it has to be.
    outputs : {"mean", "sum"}
        How the outputs of a sample reduce.
    statistic : {None, "lse"}
        ``lse`` is log(sum(exp(z))) over the outputs of a sample. The value must not change where all z move alike.
    settings : mapping of str to float
        Numbers that the expressions may name, with their defaults; ``loss(delta=2.0)`` chooses others. Or a sequence of
        `fastbp.rows.Setting`, which have a domain too.
    grad_s : str, optional
        Of a loss with two outputs for each target: its derivative by ``s``, which the expressions may name then.
    domain : (low, high) or fastbp.rows.Domain
        What a target may be, both ends included.
    constants, from_logits, link, labels, pinned, note, given, words
        As `fastbp.rows.Loss` has them.

    Raises
    ------
    ValueError
        As for `Activation`.

    Examples
    --------
    >>> import fastbp
    >>> log_cosh = fastbp.Loss("my_log_cosh", value="ABS(z - t) + LOG1P(EXP(-2 * ABS(z - t))) - 0.6931471805599453")
    """

    grad: str = ""
    outputs: str = "mean"

    if TYPE_CHECKING:

        def __init__(
            self, name: str, value: str, grad: str = "", outputs: Literal["mean", "sum"] = "mean",
            grad_s: str | None = None, statistic: Literal["lse"] | None = None,
            settings: Mapping[str, float] | Iterable[rows.Setting] = (), constants: Iterable[tuple[str, str]] = (),
            from_logits: bool = False, link: LinkName | None = None, labels: bool = False,
            domain: DomainLike = rows.ANY,
            pinned: Iterable[tuple[Sequence[float], Sequence[float], float, Sequence[float]]] = (), note: str = "",
            given: tuple[tuple[str, Any], ...] = (), words: rows.Words = (),
        ) -> None: ...  # fmt: skip

    def __post_init__(self) -> None:
        if self.given:
            return  # `plain` was checked
        _check_name("loss", self.name, (*losses.TABLE, *losses.ALIASES))
        object.__setattr__(self, "domain", _domain(self.name, self.domain))
        settings: Any = self.settings
        if isinstance(settings, Mapping):
            settings = (rows.Setting(name, value, rows.ANY) for name, value in settings.items())
        settings = _check_sequence(f"loss {self.name!r}: settings", "fastbp.rows.Setting, or a mapping", settings)
        object.__setattr__(self, "settings", settings)
        for field in ("constants", "pinned", "words"):
            object.__setattr__(self, field, tuple(map(tuple, getattr(self, field))))
        if self.constants and "k" in (setting.name for setting in self.settings if isinstance(setting, rows.Setting)):
            raise ValueError(f"loss {self.name!r}: k is the number of targets in its constants; no setting may be k")
        for setting in self.settings:
            if not isinstance(setting, rows.Setting):
                raise TypeError(f"loss {self.name!r}: settings must be fastbp.rows.Setting, got {setting!r}")
            _check_numbers_name(f"loss {self.name!r}: a setting", setting.name)
            setting.checked(f"loss {self.name!r}", setting.default)
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"loss {self.name!r}: settings and constants must have different names: {self.names}")
        if self.outputs not in ("mean", "sum"):
            raise ValueError(f"loss {self.name!r}: outputs must be 'mean' or 'sum', got {self.outputs!r}")
        if self.link not in (None, *losses.LINKS):
            raise ValueError(f"loss {self.name!r}: link must be None or one of {', '.join(losses.LINKS)}, "
                             f"got {self.link!r}")  # fmt: skip
        if self.statistic not in (None, "lse"):
            raise ValueError(f"loss {self.name!r}: statistic must be None or 'lse', got {self.statistic!r}")
        if self.statistic and self.grad_s:
            raise ValueError(f"loss {self.name!r}: statistic and grad_s do not go together")
        names = [name for name in self.names if name != "_"]
        _check_text(self, "loss", "value", names)
        if not self.grad:
            if self.statistic:
                raise ValueError(f"loss {self.name!r}: grad must be given, as lse depends on every output")
            object.__setattr__(self, "grad", _derived(self, "loss", "value"))
        _check_text(self, "loss", "grad", names)
        z, t, s = self._places()
        columns = np.arange(z.shape[1])

        def f(moved: NDArray[Any]) -> NDArray[Any]:
            """The loss of a row where each of its outputs in turn has moved."""
            one_moved = np.where(columns[:, None] == columns, moved[:, None, :], z[:, None, :])
            terms = self._terms(one_moved, t[:, None, :], s[:, None, :], self.value_text)
            return np.asarray(terms.sum(axis=-1))

        with np.errstate(all="ignore"):
            got = self._terms(z, t, s, self.grad_text)
        _check_slope(f"loss {self.name!r}: grad", f, got, z, {"z": z, "t": t})
        if self.grad_s_text:
            _check_text(self, "loss", "grad_s", names)
            with np.errstate(all="ignore"):
                got = self._terms(z, t, s, self.grad_s_text)

            def by_s(moved: NDArray[Any]) -> NDArray[Any]:
                return self._terms(z, t, moved, self.value_text)

            _check_slope(f"loss {self.name!r}: grad_s", by_s, got, s, {"z": z, "t": t, "s": s})

    def __repr__(self) -> str:
        """As it was written, or the name of the Python function that it was made of."""
        if self.words:
            function = self.words[0][1]
            return f"{function.__module__}.{function.__qualname__}{self._chosen_text}"
        names = (one.name for one in fields(self) if one.repr and getattr(self, one.name) != one.default)
        shown = {name: getattr(self, name) for name in names if name != "given"}
        if self.settings and all(setting.domain == rows.ANY for setting in self.settings):
            shown["settings"] = {setting.name: setting.default for setting in self.settings}
        return f"fastbp.Loss({', '.join(f'{name}={value!r}' for name, value in shown.items())}){self._chosen_text}"

    def _places(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Outputs of some samples, (n, 3), targets that suit the domain, and second outputs."""
        rng = np.random.default_rng(0)
        z = rng.normal(size=(64, 3)) * np.geomspace(0.05, 8, 64)[:, None]
        low, high = np.clip(self.domain.closed(z.dtype), -4, 4)
        t = rng.dirichlet(np.ones(3), 64) if self.labels else rng.uniform(low, high, z.shape)
        if self.domain.ends == "{}":
            t = np.where(2 * t < low + high, low, high)
        elif not self.labels and math.isfinite(self.domain.low) and math.isfinite(self.domain.high):
            t[::4], t[1::4] = low, high  # where targets of 0 and 1 lie
        return z, t, rng.normal(size=z.shape)

    def _terms(self, z: NDArray[Any], t: NDArray[Any], s: NDArray[Any], text: str) -> NDArray[Any]:
        """An expression at each output, as `fastbp.backends.reference` evaluates it."""
        third: Any = s
        if self.statistic:
            z = z - z.max(axis=-1, keepdims=True)
            third = np.log(np.exp(z).sum(axis=-1, keepdims=True))
        arguments = (z, t, third, *self.numbers(t.shape[-1]))
        return np.broadcast_to(rows.function(text, self.names, self.words)(*arguments), z.shape)


@dataclass(frozen=True)
class Optimizer(rows.Optimizer):
    """An update rule of your own. Called with its scalars it is an optimizer, for ``fit(optimizer=...)``.

    Parameters
    ----------
    name : str
        Not one of fastbp's optimizers.
    update : tuple of (name, expression)
        Assignments in order to ``g`` (the gradient), to slots and to ``p`` (the parameter): expressions in
        these and in `scalars`, in the words of `Activation`.
    state : tuple of str
        Slots beside each parameter, at most 4; 0 at the start.
    scalars : tuple of str
        Numbers of a step, at most 10; one called ``lr`` is the learning rate, for `lr_scale` and schedules.
    family : str, optional
        Rows of one family go on with each other's slots; a row is its own unless told.

    Examples
    --------
    >>> import fastbp
    >>> sign = fastbp.Optimizer("sign_sgd", update=[("p", "p - lr * WHERE(g > 0, 1, WHERE(g < 0, -1, 0))")])
    >>> optimizer = sign(lr=lambda step: 0.1 / (1 + step))
    """

    family: str = ""
    state: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ("lr",)
    update: tuple[tuple[str, str], ...] = ()

    if TYPE_CHECKING:

        def __init__(
            self, name: str, family: str = "", state: Iterable[str] = (), scalars: Iterable[str] = ("lr",),
            update: Iterable[tuple[str, str]] = (),
        ) -> None: ...  # fmt: skip

    def __post_init__(self) -> None:
        families = {row.family for row in optimizers.TABLE.values()}
        _check_name("optimizer", self.name, (*optimizers.TABLE, *optimizers.BY_NAME, *families))
        what = f"optimizer {self.name!r}"
        for field, wanted in {"state": "names", "scalars": "names", "update": "pairs (name, expression)"}.items():
            object.__setattr__(self, field, _check_sequence(f"{what}: {field}", wanted, getattr(self, field)))
        for pair in self.update:
            if not isinstance(pair, (tuple, list)) or [type(part) for part in pair] != [str, str]:
                raise TypeError(f"{what}: update must be a sequence of pairs (name, expression), got {pair!r} in it")
        object.__setattr__(self, "update", tuple(map(tuple, self.update)))
        object.__setattr__(self, "family", self.family or self.name)
        if self.family in families:
            raise ValueError(f"{what}: family {self.family!r} is fastbp's; its slots mean something else")
        names = ("p", "g", *self.state, *self.scalars)
        for name in names:
            _check_numbers_name(f"{what}: a slot or scalar", name)
        taken = _AROUND.intersection(self.scalars)
        if taken:
            raise ValueError(f"{what}: every optimizer has {', '.join(sorted(taken))}; give the scalar another name")
        if len(set(names)) < len(names):
            raise ValueError(f"{what}: p, g, state and scalars must have different names, got {', '.join(names)}")
        if len(self.state) > MOST_SLOTS or len(self.scalars) > MOST_SCALARS:
            raise ValueError(f"{what}: at most {MOST_SLOTS} slots and {MOST_SCALARS} scalars")
        if "p" not in dict(self.update):
            raise ValueError(f"{what}: update must assign to p, got {self.update!r}")
        for target, text in self.update:
            if target not in ("p", "g", *self.state):
                raise ValueError(f"{what}: update assigns to {target!r}; only p, g and state change")
            try:
                rows.render(text, names)
            except ValueError as error:
                raise ValueError(f"{what}: update of {target}: {error}") from None

    def __call__(self, **numbers: Rate | Sequence[float] | NDArray[Any] | None) -> OwnOptimizer:
        """The rule with its numbers.

        Parameters
        ----------
        **numbers
            For each of `scalars` a constant, a value of `fastbp.schedules`, or a function of ``net.step``; and what
            every optimizer takes: see `fastbp.optimizers.Rule`.
        """
        around: dict[str, Any] = {name: numbers.pop(name) for name in _AROUND.intersection(numbers)}
        if set(numbers) != set(self.scalars):
            wanted, got = ", ".join(self.scalars), ", ".join(numbers) or "none"
            raise TypeError(f"optimizer {self.name!r} takes exactly {wanted}; got {got}")
        given: Any = tuple(numbers[name] for name in self.scalars)
        return OwnOptimizer(self, given, **around)


_AROUND = frozenset(field.name for field in fields(optimizers.Rule))


@dataclass(eq=False, repr=False)
class OwnOptimizer(optimizers.Rule):
    """An `Optimizer` row with its numbers: what `fastbp.SGD` is for rows of the tables.

    A scalar called ``lr`` is the learning rate, and one called ``weight_decay`` takes `decay_scale`; the others are the
    same for all parameters.
    """

    rule: Optimizer
    numbers: tuple[Rate, ...]

    def __post_init__(self) -> None:
        given = zip(self.rule.scalars, self.numbers)
        what = f"optimizer {self.rule.name!r}: "
        self.numbers = tuple(v if callable(v) else number(what + name, v, self._least(name)) for name, v in given)
        super().__post_init__()
        for name, value in zip(self.rule.scalars, self.numbers):
            if isinstance(value, ReduceOnPlateau) and name != "lr":
                raise TypeError(f"{what}{name}: ReduceOnPlateau is for lr alone")
        for scale in ("lr_scale", "bias_lr_scale"):
            if "lr" not in self.rule.scalars and getattr(self, scale) not in (None, 1):
                raise ValueError(f"optimizer {self.rule.name!r}: {scale} is given, but no scalar is called lr")

    @staticmethod
    def _least(name: str) -> float:
        return 0.0 if name == "lr" else -math.inf

    @property
    def row(self) -> Optimizer:
        return self.rule

    @property
    def lr(self) -> Rate:
        return dict(zip(self.rule.scalars, self.numbers)).get("lr", 1.0)

    @property
    def weight_decay(self) -> float:
        """So that `Steps.weight_decay` is what `decay_scale` makes of it."""
        return 1.0

    @property
    def has_schedule(self) -> bool:
        return any(map(callable, self.numbers))

    @property
    def is_foreseeable(self) -> bool:
        asked = filter(callable, self.numbers)
        return all(isinstance(rate, Schedule) and not isinstance(rate, ReduceOnPlateau) for rate in asked)

    def rate(self, step: int) -> float:
        """The learning rate at a step, counted from 0; all numbers are looked at, so that what is wrong shows."""
        self.scalars(step, 1)
        return super().rate(step)

    def _values(self, steps: optimizers.Steps) -> dict[str, float | NDArray[Any]]:
        known = {
            name: rates(value, steps.first, steps.count, name=name, low=self._least(name))
            for name, value in zip(self.rule.scalars, self.numbers)
            if name != "lr"
        }
        if "weight_decay" in known:
            known["weight_decay"] = known["weight_decay"] * steps.weight_decay
        return known

    def __repr__(self) -> str:
        given = dict(zip(self.rule.scalars, self.numbers))
        given |= {f.name: getattr(self, f.name) for f in fields(optimizers.Rule) if getattr(self, f.name) != f.default}
        return f"{self.rule.name}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


# ------------------------------------------------------------------ rows from Python functions


def _parameters(what: str, function: Any, allowed: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    if not inspect.isfunction(function):
        raise TypeError(f"{what} must be a Python function, got {function!r}")
    names = tuple(inspect.signature(function, follow_wrapped=False).parameters)
    if names not in allowed:
        wanted = " or ".join(f"({', '.join(some)})" for some in allowed)
        raise TypeError(f"{what} must take {wanted}, it takes ({', '.join(names)})")
    return names


def activation(
    *, derivative: Callable[[float], float], name: str | None = None
) -> Callable[[Callable[[float], float]], Activation]:
    """Make an activation of a Python function of one number; to be used as a decorator.

    The function is called for each number on ``backend="reference"``, and compiled by Numba on the others: it may use
    `math` and what else Numba compiles. Where it raises an error of arithmetic or a ValueError its value is NaN.

    Parameters
    ----------
    derivative : function of ``z`` or of ``a``
        da/dz, from the pre-activation z or from the output a, as its parameter is named. With ``a``, z is not stored.
    name : str, optional
        The function's unless given.

    Examples
    --------
    >>> import fastbp
    >>> @fastbp.activation(derivative=lambda z: 1 / (1 + abs(z)) ** 2)
    ... def softsign_of_mine(z):
    ...     return z / (1 + abs(z))
    """
    by = _parameters("activation: derivative", derivative, [("z",), ("a",)])[0]

    def make(function: Callable[[float], float]) -> Activation:
        _parameters("activation: the function", function, [("z",)])
        words = (("FUNCTION", function), ("DERIVATIVE", derivative))
        return Activation(name or function.__name__, "FUNCTION(z)", f"g * DERIVATIVE({by})", words=words)

    return make


def loss(
    *, derivative: Callable[[float, float], float], name: str | None = None, outputs: Literal["mean", "sum"] = "mean",
    domain: DomainLike = rows.ANY,
) -> Callable[[Callable[[float, float], float]], Loss]:  # fmt: skip
    """Make a loss of a Python function of one output and its target; to be used as a decorator, as `activation`.

    Parameters
    ----------
    derivative : function of (z, t)
        By z.
    name : str, optional
        The function's unless given.
    outputs, domain
        As for `Loss`.

    Examples
    --------
    >>> import fastbp
    >>> @fastbp.loss(derivative=lambda z, t: 4 * (z - t) ** 3)
    ... def fourth_power(z, t):
    ...     return (z - t) ** 4
    """
    _parameters("loss: derivative", derivative, [("z", "t")])

    def make(function: Callable[[float, float], float]) -> Loss:
        _parameters("loss: the function", function, [("z", "t")])
        words = (("FUNCTION", function), ("DERIVATIVE", derivative))
        return Loss(
            name or function.__name__, "FUNCTION(z, t)", "DERIVATIVE(z, t)", outputs, domain=domain, words=words
        )

    return make
