"""The language of the rows: a small closed vocabulary, checked, rendered, and run over NumPy arrays.

An expression is names, numbers, ``+ - * /``, one comparison, and the calls of `VOCABULARY`; its text means the same
in Python and in C++. `render` checks it and wraps its numbers in ``R()`` (a constant of the network's dtype). The
reference backend evaluates the rendered text over arrays (`function`); the compiled kernels are made of the same text.

Expressions are pointwise: no loops, no branches. ``WHERE`` evaluates both sides, so neither may raise.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from functools import cache
from numbers import Real
from typing import Any, TypeAlias

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


WORDS: dict[str, Callable[..., Any]] = {  # over NumPy arrays
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
