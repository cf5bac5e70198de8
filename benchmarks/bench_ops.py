"""Speed bars: `fastbp.ops` beside the same lines of NumPy, on one thread each.

CPU time of this process, loops of at least 20 ms that take turns; results are compared first. NumPy writes its products
into arrays that are kept (`out=`), and fastbp gets the same.
"""

import statistics
import time

import numpy as np
import pytest
from rounds import median_ratio, seconds_of

import fastbp
from fastbp import ops

ROUNDS, LOOP_SECONDS = 15, 0.02
CELLS = {  # inputs, outputs, rows, activation
    "4-64 b1": (4, 64, 1, "relu"),
    "64-64 b32": (64, 64, 32, "relu"),
    "256-256 b128": (256, 256, 128, "relu"),
    "1024-1024 b16": (1024, 1024, 16, "relu"),
    "784-128 b128": (784, 128, 128, "relu"),
    "37-51 b19": (37, 51, 19, "identity"),
}
LEAST, MEAN = 0.97, {"linear": 1.35, "linear_backward": 1.35, "linear_backward_update": 1.7}  # times as fast as NumPy
LR = 1e-6   # the weights of thousands of updates stay what they are


class Problem:
    """Arrays of a cell, and what each function does with them, by NumPy and by fastbp."""

    def __init__(self, cell, dtype):
        n_in, n_out, n, self.activation = CELLS[cell]
        rng = np.random.default_rng(0)
        make = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
        self.x, self.w, self.b = make(n, n_in), make(n_in, n_out) / np.sqrt(n_in, dtype=dtype), make(n_out)
        self.g = make(n, n_out)
        self.w_too, self.b_too = self.w.copy(), self.b.copy()   # those that fastbp updates
        self.z, self.a = np.empty_like(self.g), self.numpy_linear_alone()
        self.grads = np.empty_like(self.x), np.empty_like(self.w), np.empty_like(self.b)
        self.grads_too = tuple(map(np.empty_like, self.grads))
        self.lr = dtype(LR)

    def numpy_linear_alone(self):
        z = self.x @ self.w + self.b
        return np.maximum(z, 0) if self.activation == "relu" else z

    def numpy_linear(self):
        z = np.matmul(self.x, self.w, out=self.z)
        z += self.b
        return np.maximum(z, 0, out=z) if self.activation == "relu" else z

    def numpy_delta(self):
        return self.g * (self.a > 0) if self.activation == "relu" else self.g

    def numpy_linear_backward(self):
        delta = self.numpy_delta()
        grad_input, grad_weight, grad_bias = self.grads
        np.matmul(delta, self.w.T, out=grad_input)
        np.matmul(self.x.T, delta, out=grad_weight)
        return grad_input, grad_weight, delta.sum(axis=0, out=grad_bias)

    def numpy_linear_backward_update(self):
        grad_input, grad_weight, grad_bias = self.numpy_linear_backward()
        grad_weight *= self.lr
        self.w -= grad_weight
        self.b -= self.lr * grad_bias
        return grad_input, self.w, self.b

    def fastbp_linear(self):
        return ops.linear(self.x, self.w, self.b, self.activation, out=self.z)

    def fastbp_linear_backward(self):
        return ops.linear_backward(self.g, self.a, self.x, self.w, self.activation, out=self.grads_too)

    def fastbp_linear_backward_update(self):
        grad_input = ops.linear_backward_update(
            self.g, self.a, self.x, self.w_too, self.b_too, LR, self.activation, out=self.grads_too[0]
        )
        return grad_input, self.w_too, self.b_too


def looped(call):
    """A call that is repeated for LOOP_SECONDS, and how often."""
    call()
    start, n = time.process_time(), 0
    while time.process_time() - start < LOOP_SECONDS:
        call()
        n += 1
    repeats = range(max(1, n))

    def loop():
        for _ in repeats:
            call()

    return loop, len(repeats)


def check(right, found, bound):
    given, got = (results if isinstance(results, tuple) else (results,) for results in (right, found))
    for one, other in zip(given, got, strict=True):
        np.testing.assert_allclose(other, one, rtol=bound, atol=bound * np.abs(one).max())


@pytest.mark.parametrize("what", MEAN)
def test_ops_beside_numpy(what, capsys):
    ratios = {}
    with fastbp.backend("cython"):
        for dtype in (np.float32, np.float64):
            for cell in CELLS:
                problem = Problem(cell, dtype)
                calls = {name: getattr(problem, f"{name}_{what}") for name in ("numpy", "fastbp")}
                check(*(call() for call in calls.values()), 1e-4 if dtype == np.float32 else 1e-12)
                loops = {name: looped(call) for name, call in calls.items()}
                times = seconds_of(ROUNDS, {name: loop for name, (loop, _) in loops.items()})
                each = {name: [s / loops[name][1] for s in seconds] for name, seconds in times.items()}
                ratios[cell, dtype] = median_ratio(each, "numpy", "fastbp")
                us = {name: 1e6 * statistics.median(seconds) for name, seconds in each.items()}
                with capsys.disabled():
                    print(f"\n{what} {cell} {np.dtype(dtype)}: NumPy {us['numpy']:.2f} us, fastbp {us['fastbp']:.2f},"
                          f" {ratios[cell, dtype]:.2f}x", end=" ")  # fmt: skip
    mean = statistics.geometric_mean(ratios.values())
    with capsys.disabled():
        print(f"\n{what}: {mean:.2f}x in geometric mean, {min(ratios.values()):.2f}x at least", end=" ")
    assert min(ratios.values()) >= LEAST
    assert mean >= MEAN[what]
