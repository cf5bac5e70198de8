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
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TypeAlias

import numpy as np

VOCABULARY = {  # word -> number of arguments; MAX and MIN propagate NaN as numpy.maximum does
    "EXP": 1, "EXPM1": 1, "LOG": 1, "LOG1P": 1, "TANH": 1, "SQRT": 1, "ABS": 1, "MAX": 2, "MIN": 2, "WHERE": 3,
}
# Words that a row brings along: a user's functions of one number each, or of two.
Words: TypeAlias = tuple[tuple[str, Callable[..., float]], ...]
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.USub)
_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


class _Renderer(ast.NodeTransformer):
    """Walks one expression: refuses what is not in the vocabulary, wraps each number in R()."""

    def __init__(self, names: Iterable[str], words: Words) -> None:
        self.names = frozenset(names)
        self.words = VOCABULARY | {word: n_arguments(function) for word, function in words}
        self.used: set[str] = set()

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Load, *_OPERATORS, *_COMPARISONS)):
            raise ValueError(f"{type(node).__name__} is not part of the row vocabulary")
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
        if len(node.ops) != 1:
            raise ValueError("chained comparisons mean something else in C++")
        return super().generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        word = node.func.id if isinstance(node.func, ast.Name) else None
        if word not in self.words:
            raise ValueError(f"{ast.unparse(node.func)} is not one of {', '.join(self.words)}")
        if len(node.args) != self.words[word] or node.keywords:
            raise ValueError(f"{word} takes {self.words[word]} argument(s)")
        node.args = [self.visit(argument) for argument in node.args]
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
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"expression {expression!r}: {error}") from None
    return ast.unparse(ast.fix_missing_locations(tree)), frozenset(renderer.used)


WORDS = {  # over NumPy arrays
    "EXP": np.exp, "EXPM1": np.expm1, "LOG": np.log, "LOG1P": np.log1p, "TANH": np.tanh, "SQRT": np.sqrt,
    "ABS": np.abs, "MAX": np.maximum, "MIN": np.minimum, "WHERE": np.where,
}  # fmt: skip


def n_arguments(function: Callable[..., float]) -> int:
    return function.__code__.co_argcount


def over_arrays(function: Callable[..., float]) -> Callable[..., np.ndarray]:
    """A function of numbers, element by element. What `math` refuses is NaN, as it is in compiled code."""

    def one(*numbers: float) -> float:
        try:
            return function(*numbers)
        except (ArithmeticError, ValueError):
            return float("nan")

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
    words : tuple of (word, function)
        Functions of numbers that the expressions call beside the vocabulary: a user's, see `fastbp.own`.
    """

    name: str
    forward: str
    backward: str
    pinned: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)
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
        return not self.keeps_z and bool(function(self.backward_text, ("g", "a"), self.words)(1.0, 0.0) == 0)

    @property
    def is_identity(self) -> bool:
        return self.forward == "z"


@dataclass(frozen=True)
class Loss:
    """A loss per output element, and its derivative.

    Attributes
    ----------
    name : str
    value, grad : str
        Expressions in ``z`` (the network's output), ``t`` (the target) and, where `statistic` is set, ``lse``.
    outputs : {"mean", "sum"}
        How the elements of one row reduce; over the batch it is always the mean, weighted where weights are given.
    statistic : {None, "lse"}
        A row statistic of ``z``: ``lse`` is log(sum(exp(z))).
    from_logits : bool
        Needs ``output_activation="identity"``.
    labels : bool
        Also takes integer class labels; other targets are rows of probabilities.
    domain : (low, high)
        What a target may be, both ends included.
    pinned : tuple of (z row, t row, loss, gradient row)
        Values from outside for one sample.
    words : tuple of (word, function)
        As for `Activation`.
    """

    name: str
    value: str
    grad: str
    outputs: str
    statistic: str | None = None
    from_logits: bool = False
    labels: bool = False
    domain: tuple[float, float] = (-float("inf"), float("inf"))
    pinned: tuple[tuple[Sequence[float], Sequence[float], float, Sequence[float]], ...] = field(default=(), repr=False)
    words: Words = field(default=(), repr=False)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return ("z", "t") + ((self.statistic,) if self.statistic else ())

    @cached_property
    def value_text(self) -> str:
        return render(self.value, self.names, self.words)[0]

    @cached_property
    def grad_text(self) -> str:
        return render(self.grad, self.names, self.words)[0]

    def scale(self, out_features: int) -> float:
        """The factor of one row's sum over its `out_features` outputs."""
        return 1.0 / out_features if self.outputs == "mean" else 1.0


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
        Assignments to ``g``, a slot or ``p``; ``p`` last.
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
    return f"""
struct loss_{row.name} {{
  enum {{ uses_lse = {int(row.statistic == "lse")} }};
  template <class V> FBP_INLINE V value(V z, V t, V lse) {{
    const Constant<V> R{{}}; (void)R, (void)lse;
    return {row.value_text};
  }}
  template <class V> FBP_INLINE V grad(V z, V t, V lse) {{
    const Constant<V> R{{}}; (void)R, (void)lse;
    return {row.grad_text};
  }}
}};
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
