"""Formulas beside their numbers, as text, HTML or LaTeX: for `fastbp.inspection.trace`.

A formula is a Python expression in a string, such as ``"a_0 @ W_1 + b_1"``: the words of the rows (`fastbp.rows`),
``@``, ``.T``, the sums `SUM` (of everything), `SUM_ROWS` (over the rows of a batch), `SUM_OUTPUTS` (of each row), and
`FIRST_HALF`, `SECOND_HALF` and `JOINED` of the columns.
One walk over its tree, by `Writer`, serves the three styles. A style only says how it spells a name, an array, an
operator, a call.

A name is ``symbol_index``, for example ``delta_2``. Before it may stand ``new_`` (after the step) and ``grad_`` (the
derivative of the loss by it); a slot of an optimizer is ``slot__parameter``, for example ``velocity__W_1``.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

GAP = "..."  # in a grid: what is left out
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.MatMult: "@"}
_COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_SUM, _PRODUCT, _SIGN, _ATOM = 1, 2, 3, 4  # how tightly an expression holds together


@dataclass(frozen=True)
class Equation:
    """``left = right = value``.

    Attributes
    ----------
    left, right : str
        Expressions; `right` is empty where the value alone is to be shown.
    value : float or ndarray
    values : mapping
        Of the names in `right`: they stand in the formula written with numbers.
    called : mapping
        The names of functions that are called ``f`` and ``df`` (its derivative) in `right`.
    """

    left: str
    right: str
    value: Any
    values: Mapping[str, Any] = field(default_factory=dict)
    called: Mapping[str, str] = field(default_factory=dict)

    def is_arithmetic(self) -> bool:
        """Whether `right` says more with its numbers: operators and sums, not one name alone, and no function."""
        tree = ast.parse(self.right or "x", mode="eval").body
        calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call)}
        return isinstance(tree, (ast.BinOp, ast.Call)) and calls <= {"SUM", "SUM_ROWS"}

    def named(self) -> list[Any]:
        """The values of the names in `right`."""
        named = names(self.right)
        return [value for name, value in self.values.items() if name in named]


def names(expression: str) -> set[str]:
    """The names in an expression, those of functions among them."""
    return {node.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name)}


# ------------------------------------------------------------------ numbers


def kept(n: int, limit: int) -> list[int | None]:
    """Which of n things are shown: all, or as many from either end as `limit` allows, with None for the gap."""
    if n <= limit:
        return list(range(n))
    return [*range(limit // 2), None, *range(n - limit // 2, n)]


def grid(array: np.ndarray, digits: int, limit: int) -> list[list[str]]:
    """The rows of an array as strings, those in the middle left out where there are more than `limit`."""
    array = np.atleast_2d(array) + 0.0  # no -0
    rows, columns = (kept(n, limit) for n in array.shape)
    return [[GAP if None in (i, j) else f"{array[i, j]:.{digits}g}" for j in columns] for i in rows]


def is_cut(array: Any, limit: int) -> bool:
    return max(np.shape(array), default=0) > limit


# ------------------------------------------------------------------ one walk


class Style(Protocol):
    """How pieces of a formula are spelled and put together; a piece is what the style makes of it."""

    def text(self, words: str) -> Any:
        """Words as they stand."""

    def name(self, name: str) -> Any:
        """A name, see the top of this file."""

    def grid(self, rows: list[list[str]]) -> Any:
        """An array."""

    def number(self, digits: str) -> Any: ...

    def row(self, *pieces: Any) -> Any:
        """Pieces one after the other."""

    def operator(self, sign: str, scalar: bool) -> str:
        """Between two pieces; `scalar`: one of them is a number."""

    def transposed(self, piece: Any) -> Any: ...

    def parentheses(self, piece: Any) -> Any: ...

    def call(self, word: str, arguments: Sequence[Any]) -> Any: ...

    def sum(self, over: str, piece: Any, tight: bool) -> Any:
        """The sum over ``rows`` or ``outputs``, or of everything; `tight`: without parentheses the piece is clear."""


@dataclass(frozen=True)
class Writer:
    """Writes equations in a style.

    Attributes
    ----------
    style : Style
    digits : int
        Significant digits.
    limit : int
        Rows and columns of an array that are shown at most.
    """

    style: Style
    digits: int
    limit: int

    def value(self, value: Any) -> Any:
        """A number or an array, with its shape where not all of it is shown."""
        if np.ndim(value) == 0:
            return self.style.number(f"{float(value) + 0.0:.{self.digits}g}")
        shown = self.style.grid(grid(value, self.digits, self.limit))
        shape = " x ".join(map(str, np.shape(value)))
        return self.style.row(shown, self.style.text(f"  ({shape})")) if is_cut(value, self.limit) else shown

    def left(self, equation: Equation) -> Any:
        return self.style.name(equation.left)

    def formula(self, equation: Equation) -> Any:
        return self._walk(ast.parse(equation.right, mode="eval").body, equation, False)[0]

    def with_numbers(self, equation: Equation) -> Any:
        return self._walk(ast.parse(equation.right, mode="eval").body, equation, True)[0]

    def _walk(self, node: ast.expr, equation: Equation, numbers: bool) -> tuple[Any, int]:
        """The piece for a tree, and how tightly it holds together."""
        style, values = self.style, equation.values

        def inner(node: ast.expr, at_least: int) -> Any:
            piece, tightness = self._walk(node, equation, numbers)
            return piece if tightness >= at_least else style.parentheses(piece)

        def is_scalar(node: ast.expr) -> bool:
            if isinstance(node, ast.Name):
                return np.ndim(values.get(node.id, [])) == 0
            return all(is_scalar(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr))

        match node:
            case ast.Constant(value=number):
                return style.number(str(number) if isinstance(number, int) else f"{number:.4g}"), _ATOM
            case ast.Name(id=name) if numbers:
                value = values[name]
                shown = self.value(value) if np.ndim(value) == 0 else style.grid(grid(value, self.digits, self.limit))
                return shown, _ATOM if np.ndim(value) or value >= 0 else _SIGN
            case ast.Name(id=name):
                return style.name(name), _ATOM
            case ast.Attribute(value=ast.Name(id=name)) if numbers:  # .T
                return style.grid(grid(np.transpose(values[name]), self.digits, self.limit)), _ATOM
            case ast.Attribute(value=value):
                return style.transposed(inner(value, _ATOM)), _ATOM
            case ast.UnaryOp(operand=operand):
                return style.row(style.operator("-", True).strip(), inner(operand, _SIGN)), _SIGN
            case ast.BinOp(left=left, op=op, right=right):
                sign = _OPERATORS[type(op)]
                tight = _SUM if sign in "+-" else _PRODUCT
                pieces = inner(left, tight), inner(right, tight + (sign in "-/@"))
                spelled = style.operator(sign, is_scalar(left) or is_scalar(right))
                return style.row(pieces[0], spelled, pieces[1]), tight
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                spelled = style.operator(_COMPARISONS[type(op)], True)
                return style.row(inner(left, _SUM), spelled, inner(right, _SUM)), 0
            case ast.Call(func=ast.Name(id=word), args=[argument]) if word.startswith("SUM"):
                piece, tightness = self._walk(argument, equation, numbers)
                over = word.lower().partition("_")[2]
                return style.sum(over, piece, tightness >= _PRODUCT), _PRODUCT
            case ast.Call(func=ast.Name(id=word), args=arguments):
                pieces = [inner(argument, 0) for argument in arguments]
                return style.call(equation.called.get(word, word.lower()), pieces), 0 if word == "WHERE" else _ATOM
        raise ValueError(f"no way to write {ast.dump(node)}")


def parts(name: str) -> tuple[str, str, str, str, bool, bool]:
    """What a name consists of: slot, symbol, index, and whether it is a gradient, and one after the step."""
    new, name = name.startswith("new_"), name.removeprefix("new_")
    slot, _, name = name.rpartition("__")
    gradient, name = name.startswith("grad_"), name.removeprefix("grad_")
    symbol, _, index = name.rpartition("_")
    return (slot, symbol, index, gradient, new) if index.isdecimal() and symbol else (slot, name, "", gradient, new)


# ------------------------------------------------------------------ text


class Text:
    """Pieces are blocks: lists of lines of one width. What is lower is centred beside what is higher."""

    def text(self, words: str) -> list[str]:
        return [words]

    number = text

    def name(self, name: str) -> list[str]:
        slot, symbol, index, gradient, new = parts(name)
        before = "grad_" * gradient + f"{slot}_" * bool(slot)
        return [f"{before}{symbol}{index}{'_new' * new}"]

    def grid(self, rows: list[list[str]]) -> list[str]:
        columns = [self._column(column) for column in zip(*rows)]
        return [f"[{'  '.join(cells)}]" for cells in zip(*columns)]

    @staticmethod
    def _column(cells: Sequence[str]) -> list[str]:
        """The points of the numbers below each other."""
        split = [cell.partition(".") for cell in cells if cell != GAP]
        before, after = (max((len(cell[side]) for cell in split), default=0) for side in (0, 2))
        point = "".join({cell[1] for cell in split})
        numbers = iter([f"{left:>{before}}{dot or ' ' * len(point)}{right:<{after}}" for left, dot, right in split])
        width = max(before + len(point) + after, len(GAP) if GAP in cells else 0)
        return [f"{GAP:>{width}}" if cell == GAP else f"{next(numbers):<{width}}" for cell in cells]

    def row(self, *pieces: list[str] | str) -> list[str]:
        blocks = [[piece] if isinstance(piece, str) else piece for piece in pieces]
        height = max(map(len, blocks))
        padded = []
        for block in blocks:
            empty, above = " " * len(block[0]), (height - len(block)) // 2
            padded.append([empty] * above + block + [empty] * (height - len(block) - above))
        return ["".join(lines) for lines in zip(*padded)]

    def operator(self, sign: str, scalar: bool) -> str:
        return f" {sign} "

    def transposed(self, piece: list[str]) -> list[str]:
        return self.row(piece, ".T")

    def parentheses(self, piece: list[str]) -> list[str]:
        return self.row(["("] * len(piece), piece, [")"] * len(piece))

    def call(self, word: str, arguments: Sequence[list[str]]) -> list[str]:
        if word == "where":
            condition, then, otherwise = arguments
            return self.row(then, " if ", condition, " else ", otherwise)
        listed = [piece for argument in arguments for piece in (", ", argument)][1:]
        return self.row(word, self.parentheses(self.row(*listed)))

    def sum(self, over: str, piece: list[str], tight: bool) -> list[str]:
        return self.row("sum" + f"_{over}" * bool(over), self.parentheses(piece))


# ------------------------------------------------------------------ HTML


_GREEK = {"delta": "δ"}


class Html:
    """Pieces are strings. Styles are inline and take the page's own colours; nothing is loaded."""

    _CELL = "padding:0 .4em;border:0;text-align:right;background:none"
    _GRID = (
        "display:inline-table;vertical-align:middle;border-collapse:separate;border-spacing:0;margin:.1em;"
        "background:none;border:0;border-left:1px solid;border-right:1px solid;border-radius:.6em"
    )

    def text(self, words: str) -> str:
        return html.escape(words).replace(" x ", " × ").replace("-&gt;", "→")

    def number(self, digits: str) -> str:
        return html.escape(digits.replace("-", "−").replace(GAP, "…"))

    def name(self, name: str) -> str:
        slot, symbol, index, gradient, new = parts(name)
        spelled = f"<i>{html.escape(_GREEK.get(symbol, symbol))}</i>" + f"<sub>{index}</sub>" * bool(index)
        spelled = f"{html.escape(slot)}({spelled})" if slot else spelled
        return "∂<i>L</i>/∂" * gradient + spelled + "′" * new

    def grid(self, rows: list[list[str]]) -> str:
        cells = ([f'<td style="{self._CELL}">{self.number(cell)}</td>' for cell in row] for row in rows)
        body = "".join(f'<tr style="background:none">{"".join(row)}</tr>' for row in cells)
        return f'<table style="{self._GRID}">{body}</table>'

    def row(self, *pieces: str) -> str:
        return "".join(pieces)

    def operator(self, sign: str, scalar: bool) -> str:
        spelled = {"*": " · " if scalar else " ⊙ ", "@": " ", "-": " − "}.get(sign, f" {sign} ")
        return html.escape(spelled)

    def transposed(self, piece: str) -> str:
        return f"{piece}<sup>T</sup>"

    def parentheses(self, piece: str) -> str:
        return f"({piece})"

    def call(self, word: str, arguments: Sequence[str]) -> str:
        if word == "where":
            return "{1} if {0} else {2}".format(*arguments)
        return f"{html.escape(word)}({', '.join(arguments)})"

    def sum(self, over: str, piece: str, tight: bool) -> str:
        return "Σ" + f"<sub>{over}</sub>" * bool(over) + (f" {piece}" if tight else f"({piece})")


# ------------------------------------------------------------------ LaTeX


_FUNCTIONS = {"exp", "log", "max", "min", "tanh"}  # that LaTeX knows
_SPECIAL = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\backslash ", "~": r"\sim ", "^": r"\wedge ", "->": r"\to ", " x ": r" \times ",
}  # fmt: skip


class Latex:
    """Pieces are strings, for amsmath and for MathJax. Arrays have no limit of columns, as ``pmatrix`` has."""

    def text(self, words: str, command: str = "text") -> str:
        """Special characters stand in math between the words: MathJax would show a backslash within ``\\text``."""
        split = re.split(r"(->| x |[&%$#_{}\\~^])", words)
        return "".join(_SPECIAL.get(part) or rf"\{command}{{{part}}}" for part in split if part)

    def title(self, words: str) -> str:
        return self.text(words, "textbf")

    def number(self, digits: str) -> str:
        if digits == GAP:
            return r"\cdots"
        mantissa, _, exponent = digits.partition("e")
        if not re.search(r"\d", mantissa):  # nan, inf
            return rf"\text{{{digits}}}"
        return mantissa + (rf" \cdot 10^{{{int(exponent)}}}" if exponent else "")

    def name(self, name: str) -> str:
        slot, symbol, index, gradient, new = parts(name)
        spelled = f"\\{symbol}" if symbol in _GREEK else symbol if len(symbol) == 1 else self._upright(symbol)
        spelled += f"_{{{index}}}" * bool(index)
        if slot:
            spelled = self._upright(slot) + f"_{{{spelled}}}"
        if gradient:
            spelled = rf"\frac{{\partial L}}{{\partial {spelled}}}"
        return spelled + "'" * new

    @staticmethod
    def _upright(word: str) -> str:
        return r"\mathrm{" + "".join(_SPECIAL.get(character, character) for character in word) + "}"

    def grid(self, rows: list[list[str]]) -> str:
        body = r" \\ ".join(" & ".join(map(self.number, row)) for row in rows)
        return rf"\left(\begin{{array}}{{{'r' * len(rows[0])}}} {body} \end{{array}}\right)"

    def row(self, *pieces: str) -> str:
        return "".join(pieces)

    def operator(self, sign: str, scalar: bool) -> str:
        spelled = {"*": r"\cdot" if scalar else r"\odot", "@": r"\,", "<=": r"\le", ">=": r"\ge"}.get(sign, sign)
        return f" {spelled} "

    def transposed(self, piece: str) -> str:
        return f"{piece}^{{\\mathsf T}}"

    def parentheses(self, piece: str) -> str:
        return rf"\left({piece}\right)"

    def call(self, word: str, arguments: Sequence[str]) -> str:
        if word == "where":
            condition, then, otherwise = arguments
            return rf"\begin{{cases}} {then} & {condition} \\ {otherwise} & \text{{else}} \end{{cases}}"
        if word == "abs":
            return rf"\left|{arguments[0]}\right|"
        if word == "sqrt":
            return rf"\sqrt{{{arguments[0]}}}"
        spelled = f"\\{word}" if word in _FUNCTIONS else self._upright(word)
        return spelled + self.parentheses(", ".join(arguments))

    def sum(self, over: str, piece: str, tight: bool) -> str:
        return r"\sum" + rf"_{{\text{{{over}}}}}" * bool(over) + f" {piece if tight else self.parentheses(piece)}"
