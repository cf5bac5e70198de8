"""Speed bars of the Numba backend: beside the engine, and until it is ready; and of a row of the user's own.

Time of this process, interleaved: other processes on the machine count for little. Compilation is timed in
processes of its own, from when Numba is imported.
"""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rounds import median_ratio, seconds_of

import fastbp
from fastbp import backends
from fastbp.bench.contenders import WORKLOADS, Problem, fastbp_cython, fastbp_numba
from fastbp.bench.measure import check, steps_in

ROUNDS, CALL_SECONDS, PROCESSES = 15, 0.05, 5
LEAST = {"2-3-1 b8": 1.0, "4-16-16-1 b16": 1.0}  # of the engine's speed; others at least a quarter
MISH = fastbp.Activation("mish_of_mine", "z * TANH(MAX(z, 0) + LOG1P(EXP(-ABS(z))))")
pytestmark = pytest.mark.skipif(
    not backends.has_numba() or backends.missing("cython") is not None, reason="needs Numba and the engine"
)


def seconds_a_step(contenders):
    """Of each contender, in each round."""
    steps = {name: steps_in(CALL_SECONDS, contender) for name, contender in contenders.items()}
    times = seconds_of(ROUNDS, {name: partial(contender.run, steps[name]) for name, contender in contenders.items()})
    return {name: [seconds / steps[name] for seconds in found] for name, found in times.items()}


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_step_beside_the_engines(workload, capsys):
    problem = Problem(replace(workload, rows=max(workload.batch, min(workload.rows, 2048))))
    contenders = {"cython": fastbp_cython(problem), "numba": fastbp_numba(problem)}
    for contender in contenders.values():
        check(problem, contender)
    times = seconds_a_step(contenders)
    speed = median_ratio(times, "cython", "numba")
    with capsys.disabled():
        us = {name: min(found) * 1e6 for name, found in times.items()}
        print(f"\n{workload.name}: cython {us['cython']:.4g} us, numba {us['numba']:.4g}, {speed:.2f}", end=" ")
    assert speed >= LEAST.get(workload.name, 0.25)


def test_an_activation_of_ones_own_on_the_engine(capsys):
    """The expression of mish, which the tables have, as a row of the user's own: 8-64-64-4, batches of 32."""
    cell = next(workload for workload in WORKLOADS if workload.name == "8-64-64-4 b32")
    contenders = {}
    for name, activation in {"mish": "mish", "own": MISH}.items():
        problem = Problem(replace(cell, activation=activation))
        contenders[name] = fastbp_cython(problem)
        check(problem, contenders[name])
    times = seconds_a_step(contenders)
    ratio = median_ratio(times, "own", "mish")
    with capsys.disabled():
        us = {name: min(found) * 1e6 for name, found in times.items()}
        print(f"\n8-64-64-4 b32: mish {us['mish']:.4g} us, one's own {us['own']:.4g}, {ratio:.2f}", end=" ")
    assert ratio <= 1.3


READY = """
import time, numpy, numba, fastbp
import fastbp.backends.numba.program
net = fastbp.MLP({sizes}, activation="tanh", dtype=numpy.float32)
start = time.process_time()
net.compile("numba", batch_size={batch})
print(time.process_time() - start)
"""


@pytest.mark.parametrize("sizes, batch", [((2, 3, 1), 8), ((4, 16, 16, 1), 16)])
def test_a_small_network_is_ready(sizes, batch, tmp_path, monkeypatch, capsys):
    """Training and `predict`, from an empty cache and from a full one."""
    monkeypatch.setenv("PYTHONPATH", str(Path(fastbp.__file__).parents[1]))
    cold, cached = [], []
    for k in range(PROCESSES):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(k)))
        for found in (cold, cached):
            command = [sys.executable, "-c", READY.format(sizes=sizes, batch=batch)]
            found.append(float(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
    with capsys.disabled():
        print(f"\n{sizes} b{batch}: {min(cold):.2f} s cold, {min(cached):.3f} s from the cache", end=" ")
    assert min(cold) <= 1.5 and min(cached) <= 0.15
