"""How far apart two right answers may lie. No test has a number of its own for this.

A bound is C * eps * sqrt(k) * scale. `k` and `scale` stand at the call and are to be what they say: how many roundings
lie on the way of one number, and the largest number they happen to. C was found by measuring: with 4, the least bound
(k = 1) is 4 eps, and above it no bound is more than 30 times the worst error that its test has met over all its cases,
dtypes and ISAs, built by GCC 12 and by Clang 14. To measure again, with each compiler into one file:

    FASTBP_TEST_ERRORS=$PWD/build/errors.txt make test
    .venv/bin/python tests/tolerance.py build/errors.txt

prints each test's worst error as a part of its bound, and names the bounds that are too wide. Where an error beyond its
bound is met, find out first which of the two answers is wrong. If both are right, `k` or `scale` at that call is
counted wrongly: count again. A new worst error is a new bound of this one call; never a skip, and never another C.
"""

import math
import os
import sys
from pathlib import Path

import numpy as np

C = 4
WIDE = 30  # times the worst error met


def tolerance(dtype, k=1, scale=1.0):
    """C * eps * sqrt(k) * scale: k roundings of random sign, in numbers no larger than `scale`."""
    assert k >= 1, "a bound below C * eps * scale"
    return C * float(np.finfo(dtype).eps) * math.sqrt(k) * float(scale)


def assert_close(got, wanted, dtype, k=1, scale=None, what="result"):
    """Every element of `got` within the tolerance of `wanted`; `scale` is the largest of `wanted` unless told."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape, f"{what}: shape {got.shape}, wanted {wanted.shape}"
    assert wanted.size, "nothing to compare"
    scale = np.abs(wanted).max() if scale is None else scale
    error = np.abs(got - wanted).max()
    bound = tolerance(dtype, k, scale)
    assert error <= bound, f"{what}: off by {error:.3g}, at most {bound:.3g} = {bound / C:.3g} C is right"  # NaN fails
    if "FASTBP_TEST_ERRORS" in os.environ:
        test = os.environ["PYTEST_CURRENT_TEST"].partition(" ")[0].partition("[")[0]
        with open(os.environ["FASTBP_TEST_ERRORS"], "a") as file:
            file.write(f"{test} {np.dtype(dtype)} {k} {error / bound if error else 0.0}\n")


def main(path):
    """Print the worst error of each test as a part of its bound; the status is 1 where a bound is too wide."""
    found, status = {}, 0
    for line in Path(path).read_text().splitlines():
        *test, k, part = line.split()
        found.setdefault(tuple(test), []).append((float(k), float(part)))
    for (test, dtype), parts in sorted(found.items()):
        most, worst = max(k for k, _ in parts), max(part for _, part in parts)
        note = "" if WIDE * worst >= 1 else "TOO WIDE" if most > 1 else "the least"
        status |= note == "TOO WIDE"
        print(f"{worst:6.3f} {1 / worst if worst else math.inf:8.1f}x  {note:9}  {dtype:8} {test}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
