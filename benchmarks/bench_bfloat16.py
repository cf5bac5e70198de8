"""Speed bars: how much faster a step is with products in bfloat16 than in float32, on one core.

CPU time of this process, interleaved: the median of the ratios over the rounds. `bench_threads.py` has the bar of two
threads; `python -m fastbp bench --precision bfloat16` has the peers.
"""

from dataclasses import replace
from functools import partial

import pytest
from rounds import median_ratio, seconds_of

from fastbp import backends
from fastbp.backends.config import requested_isa
from fastbp.bench.contenders import CONTENDERS, WORKLOADS, Problem
from fastbp.bench.measure import steps_in

ROUNDS, CALL_SECONDS = 15, 0.25
CELLS = {workload.name: workload for workload in WORKLOADS}
BARS = [  # cell, optimizer, at least so many times as fast
    ("784-128-10 b32", "sgd", 1.5), ("784-128-10 b32", "adam", 1.3),
    ("784-128-10 b128", "sgd", 1.6), ("784-128-10 b128", "adam", 1.5),
    ("784-512-512-10 b128", "sgd", 1.8), ("784-512-512-10 b128", "adam", 1.65),
    ("1024x3 b16", "sgd", 1.5),
    ("1024x3 b512", "sgd", 1.85), ("1024x3 b512", "adam", 1.8),
]  # fmt: skip
LACKS = backends.lacks_bfloat16("cython", backends.engine().choose_isa(requested_isa()))


@pytest.mark.skipif(LACKS is not None, reason=str(LACKS))
@pytest.mark.parametrize("cell, optimizer, least", BARS, ids=[f"{cell} {optimizer}" for cell, optimizer, _ in BARS])
def test_products_in_bfloat16_make_a_step_faster(cell, optimizer, least, capsys):
    runs, steps = {}, 0
    for precision in ("float32", "bfloat16"):
        contender = CONTENDERS["fastbp"](Problem(replace(CELLS[cell], optimizer=optimizer, precision=precision)))
        steps = steps or steps_in(CALL_SECONDS, contender)
        runs[precision] = partial(contender.run, steps)
        runs[precision]()
    times = seconds_of(ROUNDS, runs)
    ratio = median_ratio(times, "float32", "bfloat16")
    with capsys.disabled():
        us = {name: min(seconds) / steps * 1e6 for name, seconds in times.items()}
        print(f"\n{cell} {optimizer}: {us['bfloat16']:.1f} us, float32 {us['float32']:.1f}; {ratio:.2f} times", end=" ")
    assert ratio >= least
