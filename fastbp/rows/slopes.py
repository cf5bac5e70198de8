"""The derivative of an expression, as another one; loaded where a row of the user's own comes without.

The vocabulary has ten words, so that takes a page here and is exact, where a computer algebra system would have to be
taught `WHERE` and would hand back functions that no row may use.
"""

from __future__ import annotations

import ast
import copy

from fastbp.rows.vocabulary import evaluated

# Of f(u), of f(u, v), and of a choice by comparing x with y. At a kink it is the slope to the left, so that sums of
# kinks that cancel have the slope they should; relu has 0 there. Where x and y move alike it is that of the side that
# the comparison takes. A NaN in u hands du on.
_SLOPES = {
    "EXP": "du * EXP(u)", "EXPM1": "du * EXP(u)", "LOG": "du / u", "LOG1P": "du / (1 + u)",
    "TANH": "du * (1 - TANH(u) * TANH(u))", "SQRT": "du * 0.5 / SQRT(u)",
    "ABS": "WHERE(u < 0, 0 - du, WHERE(u <= 0, 0 - ABS(du), du))",
    "MAX": "WHERE(u < v, dv, WHERE(u <= v, MIN(du, dv), du))",
    "MIN": "WHERE(u > v, dv, WHERE(u >= v, MAX(du, dv), du))",
    "<": "WHERE(x < y, du, WHERE(x <= y, WHERE(dx > dy, du, dv), dv))",
    "<=": "WHERE(x < y, du, WHERE(x <= y, WHERE(dx < dy, dv, du), dv))",
    ">": "WHERE(x > y, du, WHERE(x >= y, WHERE(dx < dy, du, dv), dv))",
    ">=": "WHERE(x > y, du, WHERE(x >= y, WHERE(dx > dy, dv, du), dv))",
    "+": "du + dv", "-": "du - dv", "*": "du * v + u * dv", "/": "du / v - u * dv / (v * v)",
}  # fmt: skip
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_MOST_NODES = 5000  # of a derivative: choices within choices grow threefold with each level


def _slope(node: ast.expr, by: str) -> ast.expr:
    """The derivative of a part of an expression that `render` has let through."""
    match node:
        case ast.Constant():
            return ast.Constant(0.0)
        case ast.Name():
            return ast.Constant(float(node.id == by))
        case ast.UnaryOp():
            return _filled("0 - du", by, u=node.operand)
        case ast.BinOp():
            return _filled(_SLOPES[_OPERATORS[type(node.op)]], by, u=node.left, v=node.right)
        case ast.Call(args=[ast.Compare(left=x, ops=[op], comparators=[y]), u, v]):
            return _filled(_SLOPES[_COMPARISONS[type(op)]], by, u=u, v=v, x=x, y=y)
        case ast.Call(func=ast.Name(id=word), args=arguments):
            return _filled(_SLOPES[word], by, **dict(zip("uv", arguments)))
    raise ValueError(f"{ast.unparse(node)} has no derivative here")


def _filled(template: str, by: str, **parts: ast.expr) -> ast.expr:
    """A template with expressions and their derivatives in it, made simpler where 0, 1 and equal parts allow."""
    known = parts | {f"d{name}": _slope(part, by) for name, part in parts.items()}

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return copy.deepcopy(known.get(node.id, node))

        def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
            left, right = self.visit(node.left), self.visit(node.right)
            if isinstance(left, ast.Constant) and isinstance(right, ast.Constant):
                return _evaluated(ast.BinOp(left, node.op, right))
            match node.op, getattr(left, "value", None), getattr(right, "value", None):
                case (ast.Mult() | ast.Div(), 0, _) | (ast.Mult() | ast.Div(), _, 1) | (ast.Add() | ast.Sub(), _, 0):
                    return left
                case (ast.Mult(), _, 0) | (ast.Mult(), 1, _) | (ast.Add(), 0, _):
                    return right
            return ast.BinOp(left, node.op, right)

        def visit_Call(self, node: ast.Call) -> ast.expr:
            arguments = [self.visit(argument) for argument in node.args]
            call = ast.Call(node.func, arguments, [])
            if all(isinstance(argument, ast.Constant) for argument in arguments):
                return _evaluated(call)
            match arguments:
                case [ast.Compare(left=ast.Constant(), comparators=[ast.Constant()]) as test, yes, no]:
                    return yes if _evaluated(test).value else no
                case [test, yes, no] if _same(yes, no):
                    return yes
                case [_, yes, ast.Call(func=ast.Name(id="WHERE"), args=[or_equal, tie, no])] if _same(yes, tie):
                    return ast.Call(node.func, [or_equal, yes, no], [])
            return call

    made = Fill().visit(ast.parse(template, mode="eval").body)
    if sum(1 for _ in ast.walk(made)) > _MOST_NODES:
        raise ValueError("its derivative would be too long")
    return made


def _same(a: ast.expr, b: ast.expr) -> bool:
    return ast.unparse(a) == ast.unparse(b)


def _evaluated(node: ast.expr) -> ast.Constant:
    return ast.Constant(float(evaluated(node)))


def slope(expression: str, by: str) -> str:
    """The derivative of an expression of the vocabulary, as another one.

    Parameters
    ----------
    expression : str
    by : str
        The variable.
    """
    return ast.unparse(_slope(ast.parse(expression, mode="eval").body, by))
