"""``python -m fastbp demo | bench | info``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np

import fastbp

DEMO_STEPS, DEMO_BATCH = 3000, 8
DEMO_WEIGHTS = (  # what tf.random_normal(stddev=1, seed=1) gave the original program
    [[-0.8113182, 1.4845988, 0.06532937], [-2.4427042, 0.0992484, 0.5912243]],
    [[-0.8113182], [1.4845988], [0.06532937]],
)


def demo_data() -> tuple[np.ndarray, np.ndarray]:
    """32 parts with two measures each; a part passes (1) where their sum is below 1."""
    X = np.random.RandomState(23455).rand(32, 2)
    return X, (X.sum(axis=1) < 1).astype(np.float32)


def demo_network(backend: str) -> fastbp.MLP:
    return fastbp.MLP((2, 3, 1), activation="identity", bias=False, init=DEMO_WEIGHTS, seed=1, backend=backend)


def demo() -> None:
    """The original BP program: y = (x @ w1) @ w2, mean squared error, SGD, batches of 8 in order, 3000 steps."""
    X, y = demo_data()
    run = dict(loss="mse", optimizer=fastbp.SGD(lr=0.001), batch_size=DEMO_BATCH, shuffle=False)
    net = demo_network("auto")
    for report in range(0, DEMO_STEPS, 500):
        net.fit(X, y, steps=report + 1 - net.step, **run)
        loss = net.evaluate(X, y, loss="mse")
        print(f"After {report:d} training step(s), loss_mse on all data is {loss:g}")
    net.fit(X, y, steps=DEMO_STEPS - net.step, **run)
    print("w1 =", net.weights[0].tolist())
    print("w2 =", net.weights[1].tolist())

    print(f"\n{DEMO_STEPS} steps, best of 5:")
    seconds = {}
    for backend in (name for name in ("cython", "reference") if not fastbp.backends.missing(name)):
        seconds[backend] = min(_demo_seconds(backend, X, y, run) for _ in range(5))
        print(f"  {backend:<9}  {seconds[backend] / DEMO_STEPS * 1e6:9.3f} microseconds a step")
    if len(seconds) == 2:
        print(f"  the compiled engine is {seconds['reference'] / seconds['cython']:.0f} times as fast as NumPy")


def _demo_seconds(backend: str, X: np.ndarray, y: np.ndarray, run: dict) -> float:
    net = demo_network(backend)
    net.fit(X, y, steps=1, **run)
    start = time.perf_counter()
    net.fit(X, y, steps=DEMO_STEPS - 1, **run)
    return time.perf_counter() - start


def bench(*arguments: str) -> None:
    """Time a training step of each workload, on one core, beside what is installed of its peers."""
    from fastbp import bench

    parser = argparse.ArgumentParser(prog="python -m fastbp bench", description=bench.__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="every cell and every peer, more rounds")
    parser.add_argument("--cells", help="numbers of cells, as 0,3,5")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--contenders", help=f"some of {', '.join(bench.CONTENDERS)}, comma-separated")
    parser.add_argument("--rounds", type=int, help="interleaved rounds")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    parser.add_argument("--against", metavar="FILE", help="compare with figures written before")
    options = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    workloads = bench.WORKLOADS if options.full else bench.WORKLOADS[:8]
    if options.cells:
        workloads = tuple(bench.WORKLOADS[int(k)] for k in options.cells.split(","))
    names = tuple(bench.CONTENDERS) if options.full else bench.QUICK
    if options.contenders:
        names = tuple(options.contenders.split(","))
    rounds = options.rounds or (7 if options.full else 3)
    cells = bench.run(workloads, names, rounds, options.dtype, lambda line: print(line, file=sys.stderr, flush=True))
    print(bench.table(cells))
    machine = bench.machine()
    for name, value in machine.items():
        print(f"{name}: {value:.1f}" if isinstance(value, float) else f"{name}: {value}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine, "cells": [dataclasses.asdict(cell) for cell in cells]}, file, indent=1)
    if options.against:
        with open(options.against) as file:
            print(bench.compare(cells, json.load(file)["cells"]))


COMMANDS: dict[str, Callable[..., None]] = {"demo": demo, "bench": bench, "info": fastbp.show_config}


def main(arguments: list[str]) -> int:
    command, *rest = arguments or [""]
    if command not in COMMANDS or (rest and command != "bench"):
        print(f"usage: python -m fastbp {' | '.join(COMMANDS)}", file=sys.stderr)
        return 2
    COMMANDS[command](*rest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
