"""A speed bar: 5,000 steps with half of the hidden units dead; the last 500 take at most 10 % longer than the first.

Units that die leave subnormal numbers behind: momentum shrinks a velocity that gets no gradient any more until rounding
holds it there, and a saturated sigmoid puts them out itself. On some processors each costs a hundred cycles.
"""

import time

import numpy as np
import pytest

import fastbp

STEPS, SLICE, ROUNDS, ALLOWED = 5000, 500, 3, 1.10
SIZES, BATCH = (64, 128, 128, 4), 32
DEAD_BIAS = {  # relu is 0 for ever; tanh is flat; sigmoid's output is subnormal in either dtype
    ("relu", "float32"): -1e3, ("tanh", "float32"): -30, ("sigmoid", "float32"): -95,
    ("relu", "float64"): -1e3, ("tanh", "float64"): -30, ("sigmoid", "float64"): -740,
}  # fmt: skip


def subnormal(array):
    return np.count_nonzero((array != 0) & (abs(array) < np.finfo(array.dtype).tiny))


@pytest.mark.parametrize("momentum", [0, 0.8])
@pytest.mark.parametrize("activation, dtype", DEAD_BIAS)
def test_the_last_500_of_5000_steps_are_as_fast_as_the_first(activation, dtype, momentum, capsys):
    rng = np.random.default_rng(0)
    X, y = (rng.normal(size=(1024, n)).astype(dtype) for n in (SIZES[0], SIZES[-1]))
    run = {"batch_size": BATCH, "optimizer": fastbp.SGD(lr=0.05, momentum=momentum)}

    def seconds():
        """Of this process, for each slice of a run."""
        net = fastbp.MLP(SIZES, activation=activation, dtype=dtype, seed=0)
        net.fit(X, y, steps=100, **run)  # alive: velocities are not 0 when the units die
        for bias in net.biases[:-1]:
            bias[: len(bias) // 2] = DEAD_BIAS[activation, dtype]
        found = []
        for _ in range(STEPS // SLICE):
            start = time.process_time()
            net.fit(X, y, steps=SLICE, **run)
            found.append(time.process_time() - start)
        return found, sum(subnormal(array) for array in (net.params, *net._state.slots.values()))

    rounds = [seconds() for _ in range(ROUNDS)]
    first, *_, last = np.min([found for found, _ in rounds], axis=0) / SLICE * 1e6
    with capsys.disabled():
        print(f"\n{activation} {dtype} momentum={momentum}: {first:.1f} -> {last:.1f} us a step, {last / first:.3f}, "
              f"{rounds[0][1]} subnormal numbers at the end", end=" ")  # fmt: skip
    assert last <= ALLOWED * first
