"""Rows: what an activation, a loss and an optimizer are, and how their expressions become code.

A row states its mathematics once, as expressions in a small closed vocabulary whose text means the same in
Python and in C++: names, numbers, ``+ - * /``, one comparison, and the calls of `VOCABULARY`. `render` checks an
expression and wraps its numbers in ``R()`` (a constant of the network's dtype); the reference backend evaluates the
rendered text over NumPy arrays, and ``make rows`` writes the same text into
``src/kernels/rows_generated.hpp`` for the compiled kernels.

Rows are pointwise: no loops, no branches. ``WHERE`` evaluates both sides, so neither may raise.
"""

from __future__ import annotations

import ast
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

import numpy as np

VOCABULARY = {  # word -> number of arguments; MAX and MIN propagate NaN as numpy.maximum does
    "EXP": 1, "EXPM1": 1, "LOG": 1, "LOG1P": 1, "TANH": 1, "SQRT": 1, "ABS": 1, "MAX": 2, "MIN": 2, "WHERE": 3,
}
# Words that a row brings along: a user's functions of one number each, or of two.
Words: TypeAlias = tuple[tuple[str, Callable[..., float]], ...]
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.USub)
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def _is_constant(rendered: ast.AST) -> bool:
    return not any(isinstance(node, ast.Name) and node.id not in ("R", *VOCABULARY) for node in ast.walk(rendered))


def evaluated(rendered: ast.expr) -> Any:
    """A part of an expression that names no variable, in float64."""
    with np.errstate(all="ignore"):
        return eval(ast.unparse(ast.fix_missing_locations(rendered)), WORDS | {"R": float})


class _Renderer(ast.NodeTransformer):
    """Walks one expression: refuses what is not in the vocabulary, wraps each number in R()."""

    def __init__(self, names: Iterable[str], words: Words) -> None:
        self.names = frozenset(names)
        self.words = VOCABULARY | {word: n_arguments(function) for word, function in words}
        self.used: set[str] = set()

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Load, *_OPERATORS, *_COMPARISONS)):
            instead = "; a square is z * z" if isinstance(node, ast.Pow) else ""
            raise ValueError(f"{type(node).__name__} is not part of the row vocabulary{instead}")
        return super().generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) not in (int, float):
            raise ValueError(f"constant {node.value!r} is not a number")
        return ast.Call(ast.Name("R", ast.Load()), [ast.Constant(float(node.value))], [])

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self.names:
            raise ValueError(f"unknown name {node.id!r}; known here: {', '.join(sorted(self.names))}")
        self.used.add(node.id)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        raise ValueError("a comparison may stand in WHERE alone, as the first of three")

    def _visit_comparison(self, node: ast.expr) -> ast.AST:
        if not isinstance(node, ast.Compare):
            raise ValueError(f"WHERE chooses by a comparison, not by {ast.unparse(node)}")
        if len(node.ops) != 1:
            raise ValueError("chained comparisons mean something else in C++")
        return super().generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        word = node.func.id if isinstance(node.func, ast.Name) else None
        if word not in self.words:
            raise ValueError(f"{ast.unparse(node.func)} is not one of {', '.join(self.words)}")
        if len(node.args) != self.words[word] or node.keywords:
            raise ValueError(f"{word} takes {self.words[word]} argument(s)")
        first = self._visit_comparison if word == "WHERE" else self.visit
        node.args = [(first if k == 0 else self.visit)(argument) for k, argument in enumerate(node.args)]
        if word == "WHERE" and _is_constant(node.args[0]):
            return node.args[1 if evaluated(node.args[0]) else 2]
        if word in VOCABULARY and _is_constant(node):  # compiled words are those of vectors
            return self.visit_Constant(ast.Constant(float(evaluated(node))))
        return node


def render(expression: str, names: Iterable[str], words: Words = ()) -> tuple[str, frozenset[str]]:
    """Check one expression and give its shared text.

    Parameters
    ----------
    expression : str
        For example ``"WHERE(z > 0, z, EXPM1(z))"``.
    names : iterable of str
        The variables that it may use.
    words : tuple of (word, function)
        What it may call beside the vocabulary.

    Returns
    -------
    text : str
        The expression with every number wrapped in ``R()``; valid Python and valid C++.
    used : frozenset of str
        The variables that it does use.

    Raises
    ------
    ValueError
        The expression does not parse or leaves the vocabulary.
    """
    renderer = _Renderer(names, words)
    try:
        tree = renderer.visit(ast.parse(expression, mode="eval"))
        text = ast.unparse(ast.fix_missing_locations(tree))
    except (SyntaxError, ValueError, ArithmeticError) as error:  # a number too large, a division by 0
        raise ValueError(f"expression {expression!r}: {error}") from None
    except (RecursionError, MemoryError):  # MemoryError: of Python's parser
        raise ValueError(f"expression {expression[:40]!r}...: it is nested too deeply") from None
    return text, frozenset(renderer.used)


WORDS = {  # over NumPy arrays
    "EXP": np.exp, "EXPM1": np.expm1, "LOG": np.log, "LOG1P": np.log1p, "TANH": np.tanh, "SQRT": np.sqrt,
    "ABS": np.abs, "MAX": np.maximum, "MIN": np.minimum, "WHERE": np.where,
}  # fmt: skip


def n_arguments(function: Callable[..., float]) -> int:
    return function.__code__.co_argcount


def over_arrays(function: Callable[..., float]) -> Callable[..., np.ndarray]:
    """A function of numbers, element by element. Where it raises what `math` does, its value is NaN."""

    def one(*numbers: float) -> float:
        try:
            value = function(*numbers)
        except (ArithmeticError, ValueError):
            return float("nan")
        if isinstance(value, np.ndarray) and value.shape == ():  # of `np.where` and the like
            value = value[()]
        if not isinstance(value, (Real, np.bool_)):
            raise TypeError(f"{function.__qualname__} must return a number, got {value!r}")
        return value

    each = np.frompyfunc(one, n_arguments(function), 1)
    return lambda *arrays: np.asarray(each(*arrays)).astype(np.result_type(*arrays, np.float16))


@cache
def function(text: str, names: tuple[str, ...], words: Words = ()) -> Callable[..., np.ndarray]:
    """A rendered expression as a function of its names, over NumPy arrays."""
    known = WORDS | {"R": float} | {word: over_arrays(own) for word, own in words}
    return eval(f"lambda {', '.join(names)}: {text}", known)  # nothing but the vocabulary passes `render`


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

    name: str
    forward: str
    backward: str
    pinned: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)
    note: str = field(default="", repr=False)
    words: Words = field(default=(), repr=False)

    @cached_property
    def forward_text(self) -> str:
        return render(self.forward, ["z"], self.words)[0]

    @cached_property
    def backward_text(self) -> str:
        return render(self.backward, ["g", "a", "z"], self.words)[0]

    @cached_property
    def keeps_z(self) -> bool:
        return "z" in render(self.backward, ["g", "a", "z"], self.words)[1]

    @cached_property
    def dead_at_zero(self) -> bool:
        """Whether the derivative is 0 wherever the output is 0, read off the row."""
        if self.keeps_z:
            return False
        with np.errstate(all="ignore"):
            slope = function(self.backward_text, ("g", "a"), self.words)(np.ones(1), np.zeros(1))
        return bool(np.all(slope == 0))

    @property
    def is_identity(self) -> bool:
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
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
            raise TypeError(f"{row}: {self.name} must be a number, got {value!r}")
        if not (self.domain.holds(float(value)) and math.isfinite(value)):
            also = " or None" if self.default is None else ""
            wanted = "finite" if math.isinf(value) else f"{self.domain}{also}"
            raise ValueError(f"{row}: {self.name} must be {wanted}, got {value!r}")
        return float(value)


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
        weights = np.asarray(value)
        if weights.dtype.kind not in "fiu" or weights.ndim != 1:
            raise ValueError
    except ValueError:
        wanted = "a sequence of numbers, one for each target of a row"
        raise TypeError(f"{row.name}: output_weights must be {wanted}; got {value!r}") from None
    weights = weights.astype(np.float64)
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(f"{row.name}: output_weights must be finite, at least 0 and not all 0; got {value!r}")
    return tuple(weights.tolist())


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
        texts = (render(expression, names)[0] for _, expression in self.constants)
        return values + [float(function(text, names)(*values, float(n_targets))) for text in texts]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return ("z", "t", self.third, *self.numbers_named)

    @property
    def third(self) -> str:
        """What a loss sees beside an output and its target; a loss without any is handed something all the same."""
        return "s" if self.grad_s else self.statistic or "_"

    def _text(self, expression: str) -> str:
        return render(expression, (name for name in self.names if name != "_"), self.words)[0]

    @cached_property
    def value_text(self) -> str:
        return self._text(self.value)

    @cached_property
    def grad_text(self) -> str:
        return self._text(self.grad)

    @cached_property
    def grad_s_text(self) -> str | None:
        return self.grad_s and self._text(self.grad_s)

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
    """An update rule: assignments run in order on each parameter ``p`` with gradient ``g``.

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

    name: str
    family: str
    state: tuple[str, ...]
    scalars: tuple[str, ...]
    update: tuple[tuple[str, str], ...]

    @cached_property
    def update_text(self) -> tuple[tuple[str, str], ...]:
        names = ("p", "g", *self.state, *self.scalars)
        return tuple((target, render(expression, names)[0]) for target, expression in self.update)


# ------------------------------------------------------------------ rendering for C++

_HEADER = """\
// Rendered by `make rows` from the tables of fastbp/: edit those, not this file.
// Included by isa.hpp inside the ISA's namespace, after simd.hpp and math.hpp; engine.pyx takes FBP_ROWS alone.
#define FBP_ROWS 0x{digest:08x}u
#ifdef FBP_INLINE
"""


def _cpp_activation(row: Activation) -> str:
    return f"""
struct activation_{row.name} {{
  enum {{ keeps_z = {int(row.keeps_z)} }};
  template <class V> FBP_INLINE V forward(V z) {{
    const Constant<V> R{{}}; (void)R;
    return {row.forward_text};
  }}
  template <class V> FBP_INLINE V backward(V g, V a, V z) {{
    const Constant<V> R{{}}; (void)R, (void)a, (void)z;
    return {row.backward_text};
  }}
}};
"""


def _cpp_loss(row: Loss) -> str:
    numbers = "".join(f"    const V {name} = setting[{k}]; (void){name};\n" for k, name in enumerate(row.numbers_named))
    texts = {"value": row.value_text, "grad": row.grad_text, "grad_s": row.grad_s_text}
    functions = "".join(
        f"""  template <class V> FBP_INLINE V {what}(V z, V t, V {row.third}, const V* setting) {{
    const Constant<V> R{{}}; (void)R, (void)z, (void)t, (void){row.third}, (void)setting;
{numbers}    return {text};
  }}
"""
        for what, text in texts.items()
        if text
    )
    facts = {"uses_lse": row.statistic == "lse", "pairs": row.grad_s is not None, "settings": len(row.numbers_named)}
    return f"""
struct loss_{row.name} {{
  enum {{ {", ".join(f"{name} = {int(fact)}" for name, fact in facts.items())} }};
{functions}}};
"""


def _cpp_optimizer(row: Optimizer) -> str:
    lines = [f"    V {name} = state[{k}];" for k, name in enumerate(row.state)]
    lines += [f"    const V {name} = scalar[{k}];" for k, name in enumerate(row.scalars)]
    lines += [f"    {target} = {text};" for target, text in row.update_text]
    lines += [f"    state[{k}] = {name};" for k, name in enumerate(row.state)]
    body = "\n".join(lines)
    return f"""
struct optimizer_{row.name} {{
  enum {{ states = {len(row.state)}, scalars = {len(row.scalars)} }};
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {{
    const Constant<V> R{{}}; (void)R, (void)state;
{body}
    return p;
  }}
}};
"""


def _cpp_list(macro: str, names: Iterable[str]) -> str:
    return f"\n#define {macro}(ROW) \\\n  " + " ".join(f"ROW({name})" for name in names) + "\n"


def digest(*tables: Iterable[Activation | Loss | Optimizer]) -> int:
    """What tells the tables from others: a compiled module has that of the tables it was built from.

    Of the rows as they are written, since `ast.unparse` may render them otherwise in another Python. Pinned values are
    no part of a row's repr.
    """
    return zlib.crc32(repr([list(table) for table in tables]).encode())


def render_cpp(activations: Iterable[Activation], losses: Iterable[Loss], optimizers: Iterable[Optimizer]) -> str:
    """The text of ``src/kernels/rows_generated.hpp``: the digest, a struct per row and a list macro per table."""
    tables = list(activations), list(losses), list(optimizers)
    parts = [_HEADER.format(digest=digest(*tables))]
    macros = ("FBP_ACTIVATIONS", _cpp_activation), ("FBP_LOSSES", _cpp_loss), ("FBP_OPTIMIZERS", _cpp_optimizer)
    for table, (macro, one) in zip(tables, macros):
        parts += [one(row) for row in table]
        parts.append(_cpp_list(macro, [row.name for row in table]))
    return "".join([*parts, "#endif\n"])


def main() -> None:
    """Write ``src/kernels/rows_generated.hpp``; run from the repository's root."""
    from pathlib import Path

    from fastbp import activations, losses, optimizers

    text = render_cpp(activations.TABLE.values(), losses.TABLE.values(), optimizers.TABLE.values())
    Path("src/kernels/rows_generated.hpp").write_text(text)
