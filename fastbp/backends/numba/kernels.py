"""What the Numba backend does the same for every network: products, the order of rows, gathering. Generated text
(`fastbp.backends.numba.generate`) calls it, and gets it compiled along.

Matrices are flat arrays with an offset and a leading dimension, in elements; rows are padded to whole vectors, and
padding may hold anything: it must reach no sum. Every sum over k is in ascending order, whatever the tile.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from fastbp.backends.numba.lanes import (
    OPTIONS,
    WHERE,
    below,
    lanes_of,
    like,
    load,
    store,
    total,
    transpose,
    wide,
)
from fastbp.order import ONE_WORD, ORDER

compiled = register_jitable(**OPTIONS)
FEW = 4  # below so many rows whole rows of the weight go by, not tiles; twice that for the way back


class Run(NamedTuple):
    """A call of `train` in numbers."""

    steps: int
    batch: int
    n: int  # rows of an epoch
    first: int  # place in the epoch of the first row of X
    shuffled: int
    labels: int
    weights: int  # of a row: 0, 1, or one for each target
    stop_on_loss: int
    stop_on_params: int
    moving: int  # 1 where each step has scalars of its own


@compiled
def nothing(array):
    return like(0.0, load(array, 0))


# ------------------------------------------------------------------ products


@compiled
def product(a, a_at, a_row, a_step, b, b_at, ldb, start, start_at, c, c_at, ldc, rows, depth, cols):
    """c = a @ b + start: `a` has any strides; `start`, a row, is left out where start_at is -1."""
    lanes = lanes_of(load(b, b_at))
    n = 0
    while n < cols:
        m = 0
        if n + lanes < cols:
            s0 = load(start, start_at + n) if start_at >= 0 else nothing(c)
            s1 = load(start, start_at + n + lanes) if start_at >= 0 else nothing(c)
            while m + 4 <= rows:
                at, to = a_at + m * a_row, b_at + n
                c00, c10, c20, c30, c01, c11, c21, c31 = s0, s0, s0, s0, s1, s1, s1, s1
                for _ in range(depth):
                    b0, b1 = load(b, to), load(b, to + lanes)
                    a0, a1, a2, a3 = a[at], a[at + a_row], a[at + 2 * a_row], a[at + 3 * a_row]
                    c00, c01 = c00 + b0 * a0, c01 + b1 * a0
                    c10, c11 = c10 + b0 * a1, c11 + b1 * a1
                    c20, c21 = c20 + b0 * a2, c21 + b1 * a2
                    c30, c31 = c30 + b0 * a3, c31 + b1 * a3
                    at, to = at + a_step, to + ldb
                to = c_at + m * ldc + n
                store(c, to, c00)
                store(c, to + lanes, c01)
                store(c, to + ldc, c10)
                store(c, to + ldc + lanes, c11)
                store(c, to + 2 * ldc, c20)
                store(c, to + 2 * ldc + lanes, c21)
                store(c, to + 3 * ldc, c30)
                store(c, to + 3 * ldc + lanes, c31)
                m += 4
            while m < rows:
                at, to = a_at + m * a_row, b_at + n
                c00, c01 = s0, s1
                for _ in range(depth):
                    c00, c01 = c00 + load(b, to) * a[at], c01 + load(b, to + lanes) * a[at]
                    at, to = at + a_step, to + ldb
                store(c, c_at + m * ldc + n, c00)
                store(c, c_at + m * ldc + n + lanes, c01)
                m += 1
            n += 2 * lanes
        else:
            s0 = load(start, start_at + n) if start_at >= 0 else nothing(c)
            while m + 4 <= rows:
                at, to = a_at + m * a_row, b_at + n
                c00, c10, c20, c30 = s0, s0, s0, s0
                for _ in range(depth):
                    b0 = load(b, to)
                    c00, c10 = c00 + b0 * a[at], c10 + b0 * a[at + a_row]
                    c20, c30 = c20 + b0 * a[at + 2 * a_row], c30 + b0 * a[at + 3 * a_row]
                    at, to = at + a_step, to + ldb
                to = c_at + m * ldc + n
                store(c, to, c00)
                store(c, to + ldc, c10)
                store(c, to + 2 * ldc, c20)
                store(c, to + 3 * ldc, c30)
                m += 4
            while m < rows:
                at, to = a_at + m * a_row, b_at + n
                c00 = s0
                for _ in range(depth):
                    c00 = c00 + load(b, to) * a[at]
                    at, to = at + a_step, to + ldb
                store(c, c_at + m * ldc + n, c00)
                m += 1
            n += lanes


@compiled
def by_rows(x, x_at, w, w_at, ldw, start, start_at, z, z_at, depth, cols):
    """One row of x @ w + start, by whole rows of w, eight at a time: for few rows memory is what counts."""
    lanes = lanes_of(load(w, w_at))
    for n in range(0, cols, lanes):
        store(z, z_at + n, load(start, start_at + n) if start_at >= 0 else nothing(z))
    k = 0
    while k + 8 <= depth:
        x0, x1, x2, x3 = x[x_at + k], x[x_at + k + 1], x[x_at + k + 2], x[x_at + k + 3]
        x4, x5, x6, x7 = x[x_at + k + 4], x[x_at + k + 5], x[x_at + k + 6], x[x_at + k + 7]
        for n in range(0, cols, lanes):
            at = w_at + k * ldw + n
            even = load(z, z_at + n) + load(w, at) * x0 + load(w, at + 2 * ldw) * x2
            odd = load(w, at + ldw) * x1 + load(w, at + 3 * ldw) * x3
            even = even + load(w, at + 4 * ldw) * x4 + load(w, at + 6 * ldw) * x6
            odd = odd + load(w, at + 5 * ldw) * x5 + load(w, at + 7 * ldw) * x7
            store(z, z_at + n, even + odd)
        k += 8
    while k < depth:
        for n in range(0, cols, lanes):
            store(z, z_at + n, load(z, z_at + n) + load(w, w_at + k * ldw + n) * x[x_at + k])
        k += 1


@compiled
def dots(a, lda, b, b_at, ldb, start, start_at, c, ldc, rows, depth, cols):
    """c[m, n] = sum of a[m, k] * b[n, k], + start[n]."""
    lanes = lanes_of(load(a, 0))
    whole = depth // lanes * lanes
    tail = below(depth - whole, nothing(a))
    for n in range(cols):
        for m in range(rows):
            at, to = m * lda, b_at + n * ldb
            s0, s1, s2, s3 = nothing(a), nothing(a), nothing(a), nothing(a)
            k = 0
            while k + 4 * lanes <= whole:
                s0 = s0 + load(a, at + k) * load(b, to + k)
                s1 = s1 + load(a, at + k + lanes) * load(b, to + k + lanes)
                s2 = s2 + load(a, at + k + 2 * lanes) * load(b, to + k + 2 * lanes)
                s3 = s3 + load(a, at + k + 3 * lanes) * load(b, to + k + 3 * lanes)
                k += 4 * lanes
            while k < whole:
                s0 = s0 + load(a, at + k) * load(b, to + k)
                k += lanes
            if whole < depth:
                s1 = s1 + WHERE(tail, load(a, at + whole) * load(b, to + whole), 0.0)
            value = total((s0 + s1) + (s2 + s3))
            c[m * ldc + n] = value + start[start_at + n] if start_at >= 0 else value


# ------------------------------------------------------------------ a layer


@compiled
def affine(x, ldx, params, weight, ldw, transposed, bias, z, ld, rows, n_in, n_out):
    """z = x @ weight + bias."""
    if transposed:
        dots(x, ldx, params, weight, ldw, params, bias, z, ld, rows, n_in, n_out)
    elif rows < FEW:
        for m in range(rows):
            by_rows(x, m * ldx, params, weight, ldw, params, bias, z, m * ld, n_in, n_out)
    else:
        product(x, 0, ldx, 1, params, weight, ldw, params, bias, z, 0, ld, rows, n_in, n_out)


@compiled
def grad_input(delta, ldd, params, weight, ldw, transposed, panel, to, ld, rows, n_in, n_out):
    """to = delta @ weight.T"""
    if transposed:
        return product(delta, 0, ldd, 1, params, weight, ldw, delta, -1, to, 0, ld, rows, n_out, n_in)
    if rows < 2 * FEW:
        return dots(delta, ldd, params, weight, ldw, delta, -1, to, ld, rows, n_out, n_in)
    lanes = lanes_of(nothing(delta))
    whole = n_in // lanes * lanes
    for i in range(0, whole, lanes):
        for k in range(0, n_out, lanes):
            at, panel_at = weight + i * ldw + k, k * ld + i
            transpose(params, at, ldw, panel, panel_at, ld)
    for i in range(whole, n_in):
        for k in range(n_out):
            panel[k * ld + i] = params[weight + i * ldw + k]
    return product(delta, 0, ldd, 1, panel, 0, ld, delta, -1, to, 0, ld, rows, n_out, n_in)


@compiled
def grad_weight(x, ldx, delta, ldd, transposed, begin, end, to, to_at, ldw, rows, n_in, n_out):
    """Rows begin..end of the weight's gradient, as it is kept."""
    if transposed:
        product(delta, begin, 1, ldd, x, 0, ldx, delta, -1, to, to_at, ldw, end - begin, rows, n_in)
    else:
        product(x, begin, 1, ldx, delta, 0, ldd, delta, -1, to, to_at, ldw, end - begin, rows, n_out)


@compiled
def grad_bias(delta, ldd, to, to_at, rows, n_out):
    for n in range(0, n_out, lanes_of(nothing(delta))):
        value = nothing(delta)
        for m in range(rows):
            value = value + load(delta, m * ldd + n)
        store(to, to_at + n, value)


@compiled
def finite(params, shape):
    """Whether all parameters are: x - x is 0 for these and NaN for the others."""
    for n_in, n_out, ldw, weight, bias, transposed, _ in shape:
        rows, cols = (n_out, n_in) if transposed else (n_in, n_out)
        rest = params[0] * 0
        for i in range(rows):
            for k in range(weight + i * ldw, weight + i * ldw + cols):
                rest += params[k] - params[k]
        if bias >= 0:
            for k in range(bias, bias + n_out):
                rest += params[k] - params[k]
        if rest != 0:
            return False
    return True


@compiled
def squares(params, first, rows, ld, cols):
    """The sum of squares of a matrix, in double; four sums at a time, as one would wait for itself."""
    zero = nothing(params)
    lanes, s0 = lanes_of(zero), wide(zero)
    s1, s2, s3 = s0, s0, s0
    whole = cols // lanes * lanes
    tail = below(cols - whole, zero)
    for m in range(rows):
        at, n = first + m * ld, 0
        while n + 4 * lanes <= whole:
            a, b = wide(load(params, at + n)), wide(load(params, at + n + lanes))
            c, d = wide(load(params, at + n + 2 * lanes)), wide(load(params, at + n + 3 * lanes))
            s0, s1, s2, s3 = s0 + a * a, s1 + b * b, s2 + c * c, s3 + d * d
            n += 4 * lanes
        while n < whole:
            a = wide(load(params, at + n))
            s0 = s0 + a * a
            n += lanes
        if whole < cols:
            a = wide(WHERE(tail, load(params, at + whole), 0.0))
            s1 = s1 + a * a
    return total((s0 + s1) + (s2 + s3))


@compiled
def squares_of_all(params, shape):
    """Of all weights."""
    whole = 0.0
    for n_in, n_out, ldw, weight, _, transposed, _ in shape:
        rows, cols = (n_out, n_in) if transposed else (n_in, n_out)
        whole += squares(params, weight, rows, ldw, cols)
    return whole


@compiled
def has_stalled(loss, stall):
    """As `fastbp.backends.protocol.stalled`, in place."""
    stall[3] = stall[3] + 1 if loss > stall[0] - stall[1] else 0.0
    if loss < stall[0]:
        stall[0] = loss
    return stall[3] > stall[2]


# ------------------------------------------------------------------ rows of the data


@compiled
def take_order(orders, first, n, order):
    for i in range(n):
        order[i] = orders[first + i]


@compiled
def fill_order(seed, epoch, n, order):
    """As `fastbp.order.epoch_order`: Philox4x32-10, then Fisher-Yates. Words of 32 bits in integers of 64."""
    for i in range(n):
        order[i] = i
    half, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    words_of_a_draw = 1 if n <= ONE_WORD else 2
    block, left = np.uint64(0), 0  # words of the block that are left
    c0 = c1 = c2 = c3 = np.uint64(0)
    for i in range(n - 1, 0, -1):
        j = np.uint64(0)
        for _ in range(words_of_a_draw):  # the lower half first
            if left == 0:
                c0, c1, c2, c3 = block, np.uint64(epoch) & half, np.uint64(epoch) >> high, np.uint64(ORDER)
                block, left = block + np.uint64(1), 4
                k0, k1 = np.uint64(seed) & half, np.uint64(seed) >> high
                for _ in range(10):
                    p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
                    c0, c1, c2, c3 = (p1 >> high) ^ c1 ^ k0, p1 & half, (p0 >> high) ^ c3 ^ k1, p0 & half
                    k0, k1 = (k0 + np.uint64(0x9E3779B9)) & half, (k1 + np.uint64(0xBB67AE85)) & half
            j = (c0 * np.uint64(i + 1) + j) >> high
            left, c0, c1, c2 = left - 1, c1, c2, c3
        at = np.int64(j)
        order[i], order[at] = order[at], order[i]


@compiled
def row_of(place, run, order):
    """Where the row at a place of the epoch lies in the data at hand."""
    return order[place] if run.shuffled else place - run.first


@compiled
def fill_share(share, weight, start, rows, scale, run, order):
    """Each row's part of the loss: weight * scale / (sum of weights), 0 where all weights are."""
    whole = 0.0
    for m in range(rows):
        share[m] = weight[row_of(start + m, run, order)] if run.weights else 1.0
        whole += share[m]
    divide_share(share, rows, whole, scale)


@compiled
def fill_share_of_targets(share, weight, start, rows, scale, run, order, to, at, by_row, by_target):
    """The same of the largest weight of each row, and from `at` on what part of it each target's is.

    Rows are summed by their mean, which is that weight itself, to the last bit, where all are the same.
    """
    whole, n = 0.0, run.weights
    for m in range(rows):
        first = row_of(start + m, run, order) * n
        most, parts = 0.0, 0.0
        for j in range(n):
            most = weight[first + j] if weight[first + j] > most else most
        for j in range(n):
            part = weight[first + j] / most if most > 0 else 0.0
            parts += part
            to[at + m * by_row + j * by_target] = part
        share[m] = most
        whole += most * (parts / n)
    divide_share(share, rows, whole, scale)


@compiled
def divide_share(share, rows, whole, scale):
    factor = scale / whole if whole > 0 else 0.0
    for m in range(rows):
        share[m] *= factor
    for m in range(rows, len(share)):
        share[m] = 0.0


@compiled
def gather(X, y, run, order, start, rows, x, ldx, t, ldt):
    """Rows of the batch, one after the other; a label is a row of its own length, 1."""
    n_in, n_out = X.shape[1], y.shape[1]
    for m in range(rows):
        r = row_of(start + m, run, order)
        for i in range(n_in):
            x[m * ldx + i] = X[r, i]
        for n in range(n_out):
            t[m * ldt + n] = y[r, n]


@compiled
def gather_columns(X, y, run, order, start, end, memory, x, t, ldx, slot):
    """Rows start..end as columns: each batch begins at a multiple of `slot`, and what is left of its slot is 0."""
    n_in, n_out = X.shape[1], y.shape[1]
    at = 0
    while start < end:
        rows = end - start if end - start < run.batch else run.batch
        for m in range(slot):
            r = row_of(start + m if m < rows else start, run, order)
            for i in range(n_in):
                memory[x + i * ldx + at + m] = X[r, i] if m < rows else 0.0
            for n in range(n_out):
                memory[t + n * ldx + at + m] = y[r, n] if m < rows else 0.0
        start, at = start + rows, at + slot
