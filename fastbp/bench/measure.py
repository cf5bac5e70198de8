"""Contenders, checked against each other and then timed in turns; what the machine can do.

Results must agree before anything is timed.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from fastbp import backends
from fastbp.backends import config
from fastbp.bench.contenders import CONTENDERS, Contender, Problem, Workload, fastbp_alone, fastbp_cython
from fastbp.bench.figures import ALONE, PACKAGES, STEERED, Cell, Record
from fastbp.spec import aligned_zeros

CHECKED_STEPS = 3
# Relative error of the weights' change that float32 explains. Adam divides a gradient by its size: of one near 0,
# rounding decides the sign, and its weight moves the other way (one of 3 million: 1e-3).
CLOSE = {"sgd": 1e-3, "adam": 3e-3}
CLOSE_IN_BFLOAT16 = {"sgd": 6e-2, "adam": 0.2}  # torch and JAX are as far off as fastbp: 3e-3 to 3e-2, Adam to 9e-2
CALL_SECONDS = 0.2  # shorter calls make a whole run look slower than it is: JAX starts one, fastbp takes a snapshot


QUICK = ("fastbp", "numpy", "sklearn", "torch", "jax scan")


def check(problem: Problem, contender: Contender, steps: int = CHECKED_STEPS) -> float:
    """Relative error of the weights' change after some steps, against the reference backend in float64.

    Raises
    ------
    ArithmeticError
        The contender computes something else: its time would mean nothing.
    """
    contender.run(steps)
    exact = fastbp_cython(_Exact(problem, contender.order()), "reference")
    exact.run(steps)
    error = change = rounding = 0.0
    for got, wanted, first in zip(contender.weights(), exact.weights(), problem.weights):
        error += float(np.square(got - wanted).sum())
        change += float(np.square(wanted - first).sum())
        rounding += float(np.square(first).sum())
    # weights are rounded once a step, which may be as large as a small step's change
    close = (CLOSE if problem.workload.precision == "float32" else CLOSE_IN_BFLOAT16)[problem.workload.optimizer]
    eps = float(np.finfo(problem.dtype).eps)
    bound = close * math.sqrt(change) + steps * eps * math.sqrt(rounding)
    if not math.sqrt(error) <= bound:
        raise ArithmeticError(f"weights are off by {math.sqrt(error):.3g} after {steps} steps, bound {bound:.3g}")
    return math.sqrt(error / change)


class _Exact(Problem):
    """The same problem in float64; where a contender has drawn an order of its own, with the rows in that order."""

    def __init__(self, problem: Problem, order: np.ndarray | None) -> None:
        self.workload, self.dtype, self.n_batches = problem.workload, np.dtype(np.float64), problem.n_batches
        self.n_threads = 1
        self.X, self.y, self.weights = problem.X, problem.y, problem.weights
        if order is not None:
            if sorted(order) != list(range(len(self.X))):
                raise ArithmeticError("an order of its own must have every row once")
            self.workload, self.X, self.y = replace(problem.workload, shuffle=False), self.X[order], self.y[order]


def measure(
    problem: Problem,
    names: Iterable[str],
    rounds: int,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds a step of each contender, `rounds` times, interleaved; contenders that are missing are left out."""
    steps: dict[str, int] = {}
    contenders: dict[str, Contender] = {}
    for name in names:
        try:
            contender = (CONTENDERS | {ALONE: fastbp_alone})[name](problem)
            check(problem, contender)
        except (ImportError, NotImplementedError) as error:
            report(f"  {name} skipped: {error}")
            continue
        contenders[name], steps[name] = contender, steps_in(CALL_SECONDS, contender, clock)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            times[name].append(_seconds(contender, steps[name], clock) / steps[name])
    return times


def steps_in(seconds: float, contender: Contender, clock: Callable[[], float] = time.perf_counter) -> int:
    """Steps in one call that take at least this long."""
    steps = 2
    while True:
        contender.run(steps)  # compiles where there is something to compile
        took = _seconds(contender, steps, clock)
        if took >= seconds:
            return steps
        steps = max(steps + 1, min(int(1.3 * steps * seconds / max(took, 1e-7)), 50 * steps))


def _seconds(contender: Contender, steps: int, clock: Callable[[], float]) -> float:
    start = clock()
    contender.run(steps)
    return clock() - start


def machine(n_threads: int = 1) -> dict[str, Any]:
    """What the numbers were measured on; in this run, of one thread: the peak and the bandwidths."""
    from importlib import metadata

    facts: dict[str, Any] = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
    facts |= {"date": datetime.date.today().isoformat(), "cpu": _cpu()}
    facts |= {"python": platform.python_version(), "compiler": _engine().COMPILER, "isa": _isa()}
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    steered = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(STEERED)]
    if steered:
        facts["set"] = " ".join(steered)
    facts |= {"peak GFLOP/s": peak()}
    if _engine().has_bfloat16(_isa()):
        facts |= {"peak GFLOP/s in bfloat16": peak("bfloat16")}
    facts |= {f"{level} GB/s": rate for level, rate in bandwidths().items()}
    if n_threads > 1:
        facts[f"{n_threads} threads meet in ns"] = meeting(n_threads) * 1e9
    return facts


def _cpu() -> str:
    """The name of the CPU, with its family and model: one name may stand for several generations."""
    known: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                known.setdefault(name.strip(), value.strip())
        return f"{known['model name']}, family {known['cpu family']}, model {known['model']}"
    except (OSError, KeyError):
        return known.get("model name") or platform.processor()


def meeting(n_threads: int) -> float:
    """Seconds that a phase of a step costs beyond its work, when threads share it: the best of several."""
    return min(_engine().phase_seconds(n_threads, 10_000) for _ in range(10))


def _engine() -> Any:
    engine = backends.engine()
    if engine is None:
        raise RuntimeError(f"the benchmark needs the compiled extension: {backends.missing('cython')}")
    return engine


def _isa() -> str:
    return _engine().choose_isa(config.requested_isa())


def peak(precision: str = "float32") -> float:
    """GFLOP/s of the register tile with its data in the L1 cache: the ceiling of every cell.

    `precision` is that of the products: float64, float32 or bfloat16.

    (A loop on registers alone reads higher on some machines, and no tile that loads ever reaches that.)
    """
    return _engine().tile_gflops(_isa(), precision)


def bandwidths() -> dict[str, float]:
    """GB/s read by a sum over arrays that fit a level of the memory hierarchy, best of several."""
    found = {}
    for level, n_bytes in (("L2", 1 << 19), ("L3", 1 << 23), ("memory", 1 << 28)):
        array = aligned_zeros(n_bytes // 4, np.dtype(np.float32))
        array += 1
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            repeats = max(1, (1 << 27) // n_bytes)
            _engine().read_repeatedly(array, repeats)
            best = min(best, (time.perf_counter() - start) / repeats)
        found[level] = n_bytes / best / 1e9
    return found


def run(
    workloads: Iterable[Workload],
    names: Iterable[str],
    rounds: int,
    dtype: str,
    report: Callable[[str], None],
    n_threads: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Record:
    """Measure contenders on workloads by a clock; `report` takes a line now and then."""
    cells = []
    if n_threads > 1:
        names = (*names, ALONE)
    for workload in workloads:
        report(f"{workload.name} {dtype}")
        precision = dtype if workload.precision == "float32" else workload.precision
        ceiling = peak(precision)
        times = measure(Problem(workload, dtype, n_threads), names, rounds, report, clock)
        best = {name: min(values) for name, values in times.items()}
        median = {name: statistics.median(values) for name, values in times.items()}
        ceiling = max(ceiling, peak(precision))
        cells.append(Cell(workload.name, workload.mathematics, dtype, workload.flops, ceiling, best, median, n_threads))
    return Record(machine(n_threads), rounds, cells)
