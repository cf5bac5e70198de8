"""How far apart two right answers may lie. No test has a number of its own for this."""

import math

import numpy as np

C = 16


def tolerance(dtype, k=1, scale=1.0):
    """C * eps * sqrt(k) * scale: k roundings of random sign, in numbers no larger than `scale`."""
    return C * float(np.finfo(dtype).eps) * math.sqrt(k) * float(scale)


def assert_close(got, wanted, dtype, k=1, scale=None, what="result"):
    """Every element of `got` within the tolerance of `wanted`; `scale` is the largest of `wanted` unless told."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape, f"{what}: shape {got.shape}, wanted {wanted.shape}"
    if not wanted.size:
        return
    scale = np.abs(wanted).max() if scale is None else scale
    error = np.abs(got - wanted).max()
    bound = tolerance(dtype, k, scale)
    assert error <= bound, f"{what}: off by {error:.3g}, at most {bound:.3g} = {bound / C:.3g} C is right"  # NaN fails
