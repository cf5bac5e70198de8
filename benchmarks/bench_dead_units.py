"""A speed bar: 5,000 steps with half of the hidden units dead; the last 500 take at most 10 % longer than the first.

Units that die leave subnormal numbers behind: momentum shrinks a velocity that gets no gradient any more until rounding
holds it there, and a saturated sigmoid puts them out itself. On some processors each costs a hundred cycles.
"""

import copy
from functools import partial

import numpy as np
import pytest
from rounds import median_ratio, seconds_of

import fastbp

STEPS, SLICE, ROUNDS, ALLOWED = 5000, 500, 25, 1.10
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

    first = fastbp.MLP(SIZES, activation=activation, dtype=dtype, seed=0)
    first.fit(X, y, steps=100, **run)  # alive: velocities are not 0 when the units die
    for bias in first.biases[:-1]:
        bias[: len(bias) // 2] = DEAD_BIAS[activation, dtype]
    last = copy.copy(first)
    last.fit(X, y, steps=STEPS - SLICE, **run)

    def go_on(net):
        copy.copy(net).fit(X, y, steps=SLICE, **run)

    times = seconds_of(ROUNDS, {"first": partial(go_on, first), "last": partial(go_on, last)})
    before, after = (min(times[name]) / SLICE * 1e6 for name in ("first", "last"))
    ratio = median_ratio(times, "last", "first")
    count = sum(subnormal(array) for array in (last.params, *last._state.slots.values()))
    with capsys.disabled():
        print(f"\n{activation} {dtype} momentum={momentum}: {before:.1f} -> {after:.1f} us a step, "
              f"median ratio {ratio:.3f}, {count} subnormal numbers then", end=" ")  # fmt: skip
    assert ratio <= ALLOWED
