"""Speed bars of threads: more are never slower, and where layers are large two gain what they should.

Medians of interleaved runs of each workload of `fastbp.bench`, with one thread, two, and sixteen (clamped to the CPUs).
The bars of gain are for a machine whose two cores are its own.
"""

import statistics
import time
from functools import partial

import pytest
from rounds import seconds_of

from fastbp import backends
from fastbp.backends import threads
from fastbp.backends.config import requested_isa
from fastbp.bench.contenders import ALL, CONTENDERS, Problem

RUNS, CALL_SECONDS, COUNTS = 15, 0.05, (1, 2, 16)
SLOWER = 1.03  # at most, and for steps below 10 microseconds
SLOWER_BELOW_10_US = 1.05
GAIN = {  # of two threads, at least; best of the runs
    "32-128-128-1 b128": 1.4, "784-128-10 b32": 1.75, "784-128-10 b128": 1.75, "784-512-512-10 b128": 1.85,
    "1024x3 b1": 1.4, "1024x3 b16": 1.85, "1024x3 b512": 1.85, "784-512-512-10 b128 bfloat16": 1.8,
}  # fmt: skip


@pytest.mark.skipif(threads.available_cpus() < 2, reason="needs two CPUs")
@pytest.mark.parametrize("workload", ALL, ids=lambda workload: workload.name)
def test_more_threads_are_never_slower_and_two_gain(workload, capsys):
    lacks = backends.lacks_bfloat16("cython", backends.engine().choose_isa(requested_isa()))
    if workload.precision == "bfloat16" and lacks:
        pytest.skip(lacks)
    runs = {count: CONTENDERS["fastbp"](Problem(workload, n_threads=count)).run for count in COUNTS}
    for run in runs.values():
        run(2)
    start = time.perf_counter()
    runs[1](10)
    n_steps = max(1, int(CALL_SECONDS / (time.perf_counter() - start) * 10))
    calls = {count: partial(run, n_steps) for count, run in runs.items()}
    times = seconds_of(RUNS, calls, time.perf_counter)
    median = {count: statistics.median(found) / n_steps for count, found in times.items()}
    gain = min(times[1]) / min(times[2])
    with capsys.disabled():
        told = ", ".join(f"{count}: {median[count] * 1e6:.2f} us" for count in COUNTS)
        print(f"\n{workload.name}: {told}; two: {median[1] / median[2]:.2f} times as fast, {gain:.2f} at best", end=" ")
    slower = SLOWER if median[1] >= 10e-6 else SLOWER_BELOW_10_US
    assert median[2] <= slower * median[1] and median[16] <= slower * median[1]
    assert gain >= GAIN.get(workload.name, 0)
