"""pytest-benchmark over the rows of `fastbp.bench`: a training step of each workload, dtype and contender.

`python -m pytest benchmarks/bench_step.py`; a group is one workload and dtype, and each call in it does the same number
of steps. Other peers, interleaved rounds and shares of the machine's peak: `python -m fastbp bench`.
"""

import pytest

from fastbp.bench.contenders import CONTENDERS, WORKLOADS, Problem
from fastbp.bench.measure import check, steps_in

CALL_SECONDS = 0.005  # of fastbp: long enough for what a call costs, short enough for NumPy's hundredfold


@pytest.fixture(scope="module")
def steps():
    """The steps that a call does, by workload and dtype."""
    found = {}

    def of(problem):
        key = problem.workload, problem.dtype
        if key not in found:
            found[key] = steps_in(CALL_SECONDS, CONTENDERS["fastbp"](problem))
        return found[key]

    return of


@pytest.mark.parametrize("name", ["fastbp", "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_step(benchmark, workload, dtype, name, steps):
    problem = Problem(workload, dtype)
    contender = CONTENDERS[name](problem)
    check(problem, contender)
    n_steps = steps(problem)
    benchmark.group = f"{workload.name} {dtype}, {n_steps} steps"
    benchmark.extra_info["steps"] = n_steps
    benchmark(contender.run, n_steps)
