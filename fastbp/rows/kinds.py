"""What a row is: an activation, a loss, an optimizer; domains of numbers; the digest of tables.

Their expressions are those of `fastbp.rows.vocabulary`, and are checked and rendered when they are first needed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastbp.arrays import real_array, real_number
from fastbp.rows.vocabulary import Words, function, render


def _given(row: Any) -> dict[str, Any]:
    """A row without what follows from it: a pickle is the same whatever has been asked for."""
    return {field.name: getattr(row, field.name) for field in fields(row)}


@dataclass(frozen=True)
class Activation:
    """A pointwise function of the pre-activation ``z`` and the way back through it.

    Attributes
    ----------
    name : str
    forward : str
        Expression in ``z``.
    backward : str
        dL/dz as an expression in ``g`` (= dL/da), ``a`` (the output) and ``z``. What a layer keeps for the
        backward pass is read off the names: where only ``a`` appears, ``z`` is never stored.
    pinned : tuple of (z, a, da/dz)
        Values from outside (see `fastbp.activations`).
    note : str
        What the expressions do not say: conventions at a kink and the like.
    words : tuple of (word, function)
        Functions of numbers that the expressions call beside the vocabulary: a user's, see `fastbp.own`.
    """

    __module__ = "fastbp.rows"  # the path that pickles name

    name: str
    forward: str
    backward: str
    pinned: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)
    note: str = field(default="", repr=False)
    words: Words = field(default=(), repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return _given(self)

    @cached_property
    def forward_text(self) -> str:
        """`forward`, checked and rendered."""
        return render(self.forward, ["z"], self.words)[0]

    @cached_property
    def backward_text(self) -> str:
        """`backward`, checked and rendered."""
        return render(self.backward, ["g", "a", "z"], self.words)[0]

    @cached_property
    def keeps_z(self) -> bool:
        """Whether `backward` names z, so that a layer has to keep it."""
        return "z" in render(self.backward, ["g", "a", "z"], self.words)[1]

    @cached_property
    def dead_at_zero(self) -> bool:
        """Whether the derivative is 0 wherever the output is 0, read off the row."""
        if self.keeps_z:
            return False
        with np.errstate(all="ignore"):
            slope = function(self.backward_text, ("g", "a"), self.words)(np.ones(1), np.zeros(1))
        return bool(np.all(slope == 0))

    def __hash__(self) -> int:
        """Of the name: few rows share one, and a row is many texts."""
        return hash(self.name)

    @property
    def is_identity(self) -> bool:
        """Whether the output is z itself."""
        return self.forward == "z"


class Domain(NamedTuple):
    """What a number may be: from `low` to `high`, with ends as mathematics writes them; "{}" is the two ends alone."""

    low: float = -math.inf
    high: float = math.inf
    ends: str = "[]"

    def holds(self, x: Any) -> Any:
        """Where x, a number or an array, lies in it. NaN never does."""
        if self.ends == "{}":
            return (x == self.low) | (x == self.high)
        above = x > self.low if self.ends[0] == "(" else x >= self.low
        return above & (x < self.high if self.ends[1] == ")" else x <= self.high)

    @lru_cache(maxsize=64)  # noqa: B019  # domains are few and small; to find one takes 6 us
    def closed(self, dtype: np.dtype) -> tuple[float, float]:
        """The least and the greatest finite number of a dtype in it."""
        largest = float(np.finfo(dtype).max)
        low, high = np.clip([self.low, self.high], -largest, largest).astype(dtype)
        low = np.nextafter(low, dtype.type(np.inf)) if self.ends[0] == "(" else low
        high = np.nextafter(high, dtype.type(-np.inf)) if self.ends[1] == ")" else high
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = f"{self.low:g}", f"{self.high:g}"
        if self.ends == "{}":
            return f"{low} or {high}"
        if self.ends == "[]" and math.isfinite(self.low) and math.isfinite(self.high):
            return f"from {low} to {high}"
        least = "" if math.isinf(self.low) else f"above {low}" if self.ends[0] == "(" else f"at least {low}"
        most = "" if math.isinf(self.high) else f"below {high}" if self.ends[1] == ")" else f"at most {high}"
        return " and ".join(filter(None, (least, most))) or "any number"


Domain.__module__ = "fastbp.rows"  # the path that pickles name; within a NamedTuple it would pass for a field
ANY = Domain()


class Setting(NamedTuple):
    """A number of a row that its user may choose; None, where that is the default, switches off what it is for."""

    name: str
    default: float | None
    domain: Domain

    def checked(self, row: str, value: Any) -> float | None:
        """`value` as a float of the domain."""
        if value is None and self.default is None:
            return None
        x = real_number(value)
        if x is None:
            raise TypeError(f"{row}: {self.name} must be a number, got {value!r}")
        if not (self.domain.holds(x) and math.isfinite(x)):
            also = " or None" if self.default is None else ""
            wanted = "finite" if math.isinf(x) else f"{self.domain}{also}"
            raise ValueError(f"{row}: {self.name} must be {wanted}, got {value!r}")
        return x


Setting.__module__ = "fastbp.rows"


def _checked_outputs(row: Loss, value: Any) -> str:
    if not isinstance(value, str) or value not in ("mean", "sum"):
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{row.name}: outputs must be 'mean' or 'sum', got {value!r}")
    return value


def _checked_output_weights(row: Loss, value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    if row.statistic:
        raise ValueError(
            f"{row.name}: output_weights would weigh parts of one distribution; sample_weight weighs whole rows"
        )
    try:
        weights = real_array(f"{row.name}: output_weights", value)
        if weights.dtype.kind == "b" or weights.ndim != 1:
            raise ValueError
    except (TypeError, ValueError):
        wanted = "a sequence of numbers, one for each target of a row"
        raise TypeError(f"{row.name}: output_weights must be {wanted}; got {value!r}") from None
    weights = weights.astype(np.float64)
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(f"{row.name}: output_weights must be finite, at least 0 and not all 0; got {value!r}")
    return tuple(weights.tolist())


@cache  # to render one takes 25 us
def _constant(expression: str, names: tuple[str, ...]) -> Callable[..., np.ndarray]:
    return function(render(expression, names)[0], names)


@dataclass(frozen=True)
class Loss:
    """A loss per output element, and its derivative. Called with settings it gives the same loss with these.

    Attributes
    ----------
    name : str
    value, grad : str
        Expressions in ``z`` (the network's output), ``t`` (the target), the names of `settings` and `constants` and,
        where `statistic` is set, ``lse``; where `grad_s` is set, ``s``.
    outputs : {"mean", "sum"}
        How the elements of one row reduce unless told; over the batch it is always the mean, weighted where weights are
        given.
    grad_s : str, optional
        The derivative by ``s``, of a loss that has two outputs for each target: the network's first half is ``z``, its
        second half ``s``.
    statistic : {None, "lse"}
        A row statistic of ``z``: ``lse`` is log(sum(exp(z))).
    settings : tuple of Setting
    constants : tuple of (name, expression)
        Numbers made once, in float64, from the settings (None is -1 there) and ``k``, the number of targets in a row.
    from_logits : bool
        Needs ``output_activation="identity"``.
    link : {None, "softmax", "sigmoid"}
        What turns the outputs into the probabilities that the loss is about.
    labels : bool
        Also takes integer class labels; other targets are rows of probabilities.
    domain : Domain
        What a target may be.
    pinned : tuple of (z row, t row, loss, gradient row)
        Values from outside for one sample, with default settings.
    note : str
        What the expressions do not say: conventions, and where the pinned values come from.
    given : tuple of (name, value)
        What a call has chosen, in order of name; defaults are left out, so that equal losses are equal rows.
    words : tuple of (word, function)
        As for `Activation`.
    """

    __module__ = "fastbp.rows"  # the path that pickles name

    name: str
    value: str
    grad: str
    outputs: str
    grad_s: str | None = None
    statistic: str | None = None
    settings: tuple[Setting, ...] = ()
    constants: tuple[tuple[str, str], ...] = ()
    from_logits: bool = False
    link: str | None = None
    labels: bool = False
    domain: Domain = ANY
    pinned: tuple[tuple[Sequence[float], Sequence[float], float, Sequence[float]], ...] = field(default=(), repr=False)
    note: str = field(default="", repr=False)
    given: tuple[tuple[str, Any], ...] = ()
    words: Words = field(default=(), repr=False)

    def __hash__(self) -> int:
        return hash((self.name, self.given))

    def __call__(self, **chosen: Any) -> Loss:
        """The same loss with other settings.

        Parameters
        ----------
        outputs : {"mean", "sum"}
            How the elements of one row reduce.
        output_weights : sequence of float, optional
            One for each target of a row: finite, at least 0, not all 0. Elements are multiplied by them before they
            reduce: sum(w l) / K for "mean", sum(w l) for "sum".
        **chosen
            Those of `settings`.
        """
        known = {setting.name: setting for setting in self.settings}
        for name, value in chosen.items():
            if name == "outputs":
                chosen[name] = _checked_outputs(self, value)
            elif name == "output_weights":
                chosen[name] = _checked_output_weights(self, value)
            elif name in known:
                chosen[name] = known[name].checked(self.name, value)
            else:
                from fastbp.errors import unknown_name

                raise unknown_name(f"setting of {self.name}", name, (*known, "outputs", "output_weights"), TypeError)
        default = self.plain.chosen
        now = {name: value for name, value in (self.chosen | chosen).items() if value != default[name]}
        return replace(self, given=tuple(sorted(now.items())))

    def __repr__(self) -> str:
        """How one of the tables is written: `fastbp.losses.huber(delta=2.0)`."""
        return f"fastbp.losses.{self.name}{self._chosen_text}"

    @property
    def _chosen_text(self) -> str:
        return f"({', '.join(f'{name}={value!r}' for name, value in self.given)})" if self.given else ""

    def __getstate__(self) -> dict[str, Any]:
        return _given(self)

    @cached_property
    def plain(self) -> Loss:
        """The row as its table has it."""
        return replace(self, given=()) if self.given else self

    @cached_property
    def chosen(self) -> dict[str, Any]:
        """Every setting with its value."""
        defaults = {setting.name: setting.default for setting in self.settings}
        return {"outputs": self.outputs, "output_weights": None} | defaults | dict(self.given)

    @cached_property
    def numbers_named(self) -> tuple[str, ...]:
        """What an expression may name beside variables, in the order of `numbers`."""
        return (*(setting.name for setting in self.settings), *(name for name, _ in self.constants))

    def numbers(self, n_targets: int) -> list[float]:
        """The values of `numbers_named`.

        Parameters
        ----------
        n_targets : int
            In a row.
        """
        settings = [self.chosen[setting.name] for setting in self.settings]
        values = [-1.0 if value is None else value for value in settings]
        names = (*self.numbers_named[: len(values)], "k")
        constants = (_constant(expression, names) for _, expression in self.constants)
        return values + [float(constant(*values, float(n_targets))) for constant in constants]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What the expressions are functions of, in order."""
        return ("z", "t", self.third, *self.numbers_named)

    @property
    def third(self) -> str:
        """What a loss sees beside an output and its target; a loss without any is handed something all the same."""
        return "s" if self.grad_s else self.statistic or "_"

    def _text(self, expression: str) -> str:
        return render(expression, (name for name in self.names if name != "_"), self.words)[0]

    @cached_property
    def value_text(self) -> str:
        """`value`, checked and rendered."""
        return self._text(self.value)

    @cached_property
    def grad_text(self) -> str:
        """`grad`, checked and rendered."""
        return self._text(self.grad)

    @cached_property
    def grad_s_text(self) -> str | None:
        """`grad_s`, checked and rendered."""
        return self.grad_s and self._text(self.grad_s)

    @property
    def is_pointwise(self) -> bool:
        """Whether each output has a target and a loss of its own: then one may be missing, or have its own weight."""
        return not (self.statistic or self.grad_s or self.labels)

    def targets(self, out_features: int) -> int:
        """Targets of a row.

        Parameters
        ----------
        out_features : int
            Of the network.
        """
        return out_features // 2 if self.grad_s else out_features

    def scale(self, out_features: int) -> float:
        """The factor of one row's sum over outputs.

        Parameters
        ----------
        out_features : int
            Of the network.
        """
        return 1.0 / self.targets(out_features) if self.chosen["outputs"] == "mean" else 1.0


@dataclass(frozen=True)
class Optimizer:
    """What an optimizer does to a parameter: assignments that run in order on each parameter ``p`` with gradient ``g``.

    Attributes
    ----------
    name : str
    family : str
        Rows of one family share their state: training goes on with it.
    state : tuple of str
        Slots beside each parameter, zero at the start.
    scalars : tuple of str
        Numbers of a step, the same for every parameter; filled by Python for the steps to come.
    update : tuple of (name, expression)
        Assignments to ``g``, a slot or ``p``.
    """

    __module__ = "fastbp.rows"  # the path that pickles name

    name: str
    family: str
    state: tuple[str, ...]
    scalars: tuple[str, ...]
    update: tuple[tuple[str, str], ...]

    def __hash__(self) -> int:
        return hash(self.name)

    def __getstate__(self) -> dict[str, Any]:
        return _given(self)

    @cached_property
    def update_text(self) -> tuple[tuple[str, str], ...]:
        """`update`, checked and rendered."""
        names = ("p", "g", *self.state, *self.scalars)
        return tuple((target, render(expression, names)[0]) for target, expression in self.update)


def digest(*tables: Iterable[Activation | Loss | Optimizer]) -> int:
    """What tells the tables from others: a compiled module has that of the tables it was built from.

    Of the rows as they are written, since `ast.unparse` may render them otherwise in another Python; without what their
    fields leave out, such as pinned values.
    """
    written = (f"[{', '.join(map(_written, table))}]" for table in tables)
    return zlib.crc32(f"[{', '.join(written)}]".encode())


def _written(row: Activation | Loss | Optimizer) -> str:
    shown = (f"{one.name}={getattr(row, one.name)!r}" for one in fields(row) if one.repr)
    return f"{type(row).__qualname__}({', '.join(shown)})"
