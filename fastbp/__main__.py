"""``python -m fastbp demo | bench | info``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import numpy as np

import fastbp

DEMO_STEPS, DEMO_BATCH = 3000, 8
DEMO_TIMED = {"cython": 10 * DEMO_STEPS, "reference": DEMO_STEPS // 100}  # steps of about the same time
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

    print("\nA step, the better of 2 runs:")
    seconds = {}
    for backend, steps in DEMO_TIMED.items():
        if not fastbp.backends.missing(backend):
            seconds[backend] = min(_demo_seconds(backend, X, y, run, steps) for _ in range(2))
            print(f"  {backend:<9}  {seconds[backend] * 1e6:9.3f} microseconds, over {steps} steps")
    if len(seconds) == 2:
        ratio = float(f"{seconds['reference'] / seconds['cython']:.1g}")
        print(f"  some {ratio:.0f} times; the reference is NumPy written for clarity, `bench` has NumPy by hand")


def _demo_seconds(backend: str, X: np.ndarray, y: np.ndarray, run: dict, steps: int) -> float:
    """Seconds of a step."""
    net = demo_network(backend)
    net.fit(X, y, steps=1, **run)
    start = time.perf_counter()
    net.fit(X, y, steps=steps, **run)
    return (time.perf_counter() - start) / steps


def bench(*arguments: str) -> None:
    """Time a training step of each workload, on one core, beside what is installed of its peers."""
    from fastbp.bench.command import bench

    bench(*arguments)


COMMANDS: dict[str, Callable[..., None]] = {"demo": demo, "bench": bench, "info": fastbp.show_config}


def main(arguments: list[str]) -> int:
    command, *rest = arguments or [""]
    if command not in COMMANDS or (rest and command != "bench"):
        if sys.stderr is not None:  # which `print` takes for standard output
            print(f"usage: python -m fastbp {' | '.join(COMMANDS)}", file=sys.stderr)
        return 2
    COMMANDS[command](*rest)
    return 0


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
        print(end="", flush=True)
    except BrokenPipeError:  # who reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
