"""A user's own row, compiled by Numba into a function that the C++ engine calls: see the row functions of
src/kernels.hpp. There is no compiler on the user's machine, and there need be none.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba.core import types
from numba.core.typing import signature

from fastbp.backends.numba import cache
from fastbp.backends.numba.generate import filled, plain, scalar_lines, setting_lines, update_lines
from fastbp.rows import Activation, Loss

# Vectors of twice the width where there are two, which LLVM takes apart: the instructions of a long expression wait for
# one another, and so do those of one vector stand between those of the other. Mish took 16 ns a vector, and takes 12.
_FORWARD = """
def forward(z_at, a_at, ld, rows, cols):
    pairs = (cols + {lanes} - 1) // {twice} * {twice}
    n = (rows - 1) * ld + (cols + {lanes} - 1) // {lanes} * {lanes}
    z_array, a_array = memory(z_at, n), memory(a_at, n)
    for m in range(rows):
        for at in range(m * ld, m * ld + pairs, {twice}):
            z = load(z_array, at, {twice})
            store(a_array, at, like({forward}, z))
        for at in range(m * ld + pairs, m * ld + cols, {lanes}):
            z = load(z_array, at, {lanes})
            store(a_array, at, like({forward}, z))
"""
_BACKWARD = """
def backward(delta_at, a_at, z_at, ld, rows, cols):
    pairs = (cols + {lanes} - 1) // {twice} * {twice}
    n = (rows - 1) * ld + (cols + {lanes} - 1) // {lanes} * {lanes}
    delta, a_array, z_array = memory(delta_at, n), memory(a_at, n), memory({z_at}, n)
    for m in range(rows):
        for at in range(m * ld, m * ld + pairs, {twice}):
            g, a, z = load(delta, at, {twice}), load(a_array, at, {twice}), load(z_array, at, {twice})
            store(delta, at, like({backward}, g))
        for at in range(m * ld + pairs, m * ld + cols, {lanes}):
            g, a, z = load(delta, at, {lanes}), load(a_array, at, {lanes}), load(z_array, at, {lanes})
            store(delta, at, like({backward}, g))
"""
_UPDATE = """
def update(p_at, slots_at, ld, g_at, ldg, rows, cols, scalars_at):
    width = (cols + {lanes} - 1) // {lanes} * {lanes}
    n = (rows - 1) * ld + width
    params, grads = memory(p_at, n), memory(g_at, (rows - 1) * ldg + width)
    slots, scalars = ({slots}), memory(scalars_at, {n_scalars})
    {scalars}
    for m in range(rows):
        for k in range(0, cols, {lanes}):
            at = m * ld + k
            p, g = load(params, at, {lanes}), load(grads, m * ldg + k, {lanes})
            {lines}
            store(params, at, p)
"""
_LOSS = """
def each(z_at, t_at, third_at, setting_at, value_at, grad_at, grad_s_at, n):
    z_array, t_array, third_array = memory(z_at, n), memory(t_at, n), memory(third_at, n)
    value_array, grad_array, grad_s_array = memory(value_at, n), memory(grad_at, n), memory(grad_s_at, n)
    {settings}
    for at in range(0, n, {lanes}):
        z, t, {third} = load(z_array, at, {lanes}), load(t_array, at, {lanes}), load(third_array, at, {lanes})
        store(value_array, at, like({value}, z))
        store(grad_array, at, like({grad}, z))
        {grad_s}
"""


@functools.lru_cache(maxsize=256)
def row_functions(row: Any, dtype: np.dtype, vector_bytes: int) -> tuple[Any, ...]:
    """The functions of a row, by address; they live as long as what is given here is kept."""
    T = types.float32 if dtype == np.float32 else types.float64
    p, idx, n = types.CPointer(T), types.int64, vector_bytes // dtype.itemsize
    if isinstance(row, Activation):
        parts = {"forward": plain(row.forward_text), "backward": plain(row.backward_text)}
        text = (_FORWARD + _BACKWARD).format(lanes=n, twice=2 * n, z_at="z_at" if row.keeps_z else "a_at", **parts)
        wanted = {
            "forward": types.void(p, p, idx, idx, idx),
            "backward": types.void(p, p, p, idx, idx, idx),
        }
    elif isinstance(row, Loss):
        settings = setting_lines(row, n)
        if settings:  # else there is no memory for them
            settings = f"setting = memory(setting_at, {len(row.numbers_named)})\n{settings}"
        text = filled(
            _LOSS, lanes=n, third=row.third, settings=settings,
            value=plain(row.value_text, row), grad=plain(row.grad_text, row),
            grad_s=f"store(grad_s_array, at, like({plain(row.grad_s_text, row)}, z))" if row.grad_s else "",
        )  # fmt: skip
        wanted = {"each": types.void(p, p, p, p, p, p, p, idx)}
    else:
        slots = "".join(f"memory(slots_at[{k}], n), " for k in range(len(row.state)))
        text = filled(
            _UPDATE, lanes=n, slots=slots, n_scalars=len(row.scalars), scalars=scalar_lines(row, n),
            lines=update_lines(row, n),
        )  # fmt: skip
        wanted = {"update": types.void(p, types.CPointer(p), idx, p, idx, idx, idx, p)}
    made = cache.module(text, getattr(row, "words", ()))
    return tuple(cache.callback(made, name, signature(sig.return_type, *sig.args)) for name, sig in wanted.items())
