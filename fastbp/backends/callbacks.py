"""A user's own row, compiled by Numba into a function that the C++ engine calls: see the row functions of
src/engine.hpp. There is no compiler on the user's machine, and there need be none.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
from numba.core import types
from numba.core.typing import signature

from fastbp.backends import cache, lanes
from fastbp.rows import Activation, Loss, Optimizer

_FORWARD = """
def forward(z_at, a_at, ld, rows, cols):
    n = (rows - 1) * ld + (cols + {lanes} - 1) // {lanes} * {lanes}
    z_array, a_array = carray(z_at, (n,)), carray(a_at, (n,))
    for m in range(rows):
        for at in range(m * ld, m * ld + cols, {lanes}):
            z = load(z_array, at, {lanes})
            store(a_array, at, like({forward}, z))
"""
_BACKWARD = """
def backward(delta_at, a_at, z_at, ld, rows, cols):
    n = (rows - 1) * ld + (cols + {lanes} - 1) // {lanes} * {lanes}
    delta, a_array, z_array = carray(delta_at, (n,)), carray(a_at, (n,)), carray({z_at}, (n,))
    for m in range(rows):
        for at in range(m * ld, m * ld + cols, {lanes}):
            g, a, z = load(delta, at, {lanes}), load(a_array, at, {lanes}), load(z_array, at, {lanes})
            store(delta, at, like({backward}, g))
"""
_UPDATE = """
def update(p_at, slots_at, ld, g_at, ldg, rows, cols, scalars_at):
    n = (rows - 1) * ld + (cols + {lanes} - 1) // {lanes} * {lanes}
    p_array = carray(p_at, (n,))
    g_array = carray(g_at, ((rows - 1) * ldg + (cols + {lanes} - 1) // {lanes} * {lanes},))
    {slots}
    {scalars}
    for m in range(rows):
        for k in range(0, cols, {lanes}):
            at = m * ld + k
            p, g = load(p_array, at, {lanes}), load(g_array, m * ldg + k, {lanes})
            {update}
            store(p_array, at, like(p, g))
"""
_LOSS = """
def each(z_at, t_at, lse_at, value_at, grad_at, n):
    z_array, t_array, lse_array = carray(z_at, (n,)), carray(t_at, (n,)), carray(lse_at, (n,))
    value_array, grad_array = carray(value_at, (n,)), carray(grad_at, (n,))
    for at in range(0, n, {lanes}):
        z, t, lse = load(z_array, at, {lanes}), load(t_array, at, {lanes}), load(lse_array, at, {lanes})
        store(value_array, at, like({value}, z))
        store(grad_array, at, like({grad}, z))
"""


def plain(text: str) -> str:
    """A rendered expression with its numbers as they are: beside a vector they take its type."""
    return re.sub(r"\bR\(([^()]*)\)", r"(\1)", text)


def update_lines(row: Optimizer, slot_at: str) -> list[str]:
    """The assignments of a rule on vectors p and g, and on slots that are loaded and stored at an index."""
    loads = [f"{name} = load({name}_array, {slot_at}, LANES)" for name in row.state]
    stores = [f"store({name}_array, {slot_at}, {name})" for name in row.state]
    return [*loads, *(f"{target} = like({plain(text)}, g)" for target, text in row.update_text), *stores]


@functools.lru_cache(maxsize=256)
def row_functions(row: Any, dtype: np.dtype) -> tuple[Any, ...]:
    """The functions of a row, by address; they live as long as what is given here is kept."""
    T = types.float32 if dtype == np.float32 else types.float64
    p, idx, n = types.CPointer(T), types.int64, lanes.VECTOR_BYTES // dtype.itemsize
    if isinstance(row, Activation):
        parts = {"forward": plain(row.forward_text), "backward": plain(row.backward_text)}
        text = (_FORWARD + _BACKWARD).format(lanes=n, z_at="z_at" if row.keeps_z else "a_at", **parts)
        wanted = {
            "forward": types.void(p, p, idx, idx, idx),
            "backward": types.void(p, p, p, idx, idx, idx),
        }
    elif isinstance(row, Loss):
        text = _LOSS.format(lanes=n, value=plain(row.value_text), grad=plain(row.grad_text))
        wanted = {"each": types.void(p, p, p, p, p, idx)}
    else:
        slots = "; ".join(f"{name}_array = carray(slots_at[{k}], (n,))" for k, name in enumerate(row.state)) or "pass"
        scalars = "; ".join(f"{name} = splat(scalars_at[{k}], {n})" for k, name in enumerate(row.scalars)) or "pass"
        lines = [line.replace("LANES", str(n)) for line in update_lines(row, "at")]
        text = _UPDATE.format(lanes=n, slots=slots, scalars=scalars, update="; ".join(lines))
        wanted = {"update": types.void(p, types.CPointer(p), idx, p, idx, idx, idx, p)}
    made = cache.module(text, getattr(row, "words", ()))
    return tuple(cache.callback(made, name, signature(sig.return_type, *sig.args)) for name, sig in wanted.items())
