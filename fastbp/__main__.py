"""``python -m fastbp demo | bench | info``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import fastbp
from fastbp import spec

if TYPE_CHECKING:
    import argparse

    from fastbp.figures import Record

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
    import argparse

    from fastbp import bench
    from fastbp.figures import Record

    cells = ", ".join(f"{k} is {workload.name}" for k, workload in enumerate(bench.WORKLOADS))
    parser = argparse.ArgumentParser(prog="python -m fastbp bench", description=bench.__doc__.splitlines()[0])
    record, out = _told(Record.load), _told(_in_a_folder)
    parser.add_argument("--full", action="store_true", help="every cell and every peer, more rounds")
    parser.add_argument("--cells", type=_told(bench.cells), help=f"numbers of cells, as 0,3,5: {cells}")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--optimizer", choices=tuple(bench.RULES), default="sgd")
    parser.add_argument("--contenders", type=_told(bench.contenders), help=f"some of {', '.join(bench.CONTENDERS)}")
    parser.add_argument("--threads", type=_told(_threads), default=1, help="that each contender may use; 1 unless told")
    parser.add_argument("--rounds", type=_told(_rounds), help="interleaved rounds")
    parser.add_argument("--json", metavar="FILE", type=out, help="write all figures")
    parser.add_argument("--against", metavar="FILE", type=record, help="compare with figures written before")
    parser.add_argument("--from", metavar="FILE", type=record, dest="saved", help="do not measure, read such a file")
    parser.add_argument("--markdown", metavar="FILE", type=out, help="replace the figures in a text, such as README.md")
    parser.add_argument("--scaling", metavar="FILE", type=out, help="draw what threads gain over the one of --against")
    parser.add_argument("--picture", metavar="FILE", type=out, help="draw the peers beside fastbp; needs matplotlib")
    options = parser.parse_args(arguments)
    if options.scaling and not options.against:
        parser.error("--scaling needs --against, the figures of one thread")
    try:
        measured = options.saved or _measure(options)
        print(measured.table(measured.peers), measured.means(), measured.facts(), sep="\n")
        if options.against:
            print(measured.against(options.against))
        if options.scaling:
            measured.scaling(options.against, options.scaling)
        if options.json:
            measured.save(options.json)
        if options.markdown:
            measured.write_into(options.markdown)
        if options.picture:
            measured.picture(options.picture)
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))


def _measure(options: argparse.Namespace) -> Record:
    from dataclasses import replace

    from fastbp import bench

    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > options.threads:
        # A core for each thread, from the start: BLAS counted the cores when it was loaded.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
        os.execv(sys.executable, sys.orig_argv)
    workloads = options.cells or (bench.WORKLOADS if options.full else bench.WORKLOADS[:8])
    workloads = [replace(workload, optimizer=options.optimizer) for workload in workloads]
    names = options.contenders or (tuple(bench.CONTENDERS) if options.full else bench.QUICK)
    rounds = options.rounds or (7 if options.full else 3)
    report = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    return bench.run(workloads, names, rounds, options.dtype, report, options.threads)


def _told(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """`convert` for argparse, which hides the words of any error but its own."""
    import argparse

    def converted(text: str) -> Any:
        try:
            return convert(text)
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted


def _threads(text: str) -> int:
    wanted, cpus = spec.integer("threads", int(text), 1), fastbp.threads.available_cpus()
    if wanted > cpus:
        raise ValueError(f"threads={wanted}: this process may use {cpus} CPUs")
    return wanted


def _rounds(text: str) -> int:
    return spec.integer("rounds", int(text), 1)


def _in_a_folder(path: str) -> str:
    """`path`, checked before minutes of measuring: where it lies there is a folder."""
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise ValueError(f"there is no folder {os.path.dirname(path)!r}")
    return path


COMMANDS: dict[str, Callable[..., None]] = {"demo": demo, "bench": bench, "info": fastbp.show_config}


def main(arguments: list[str]) -> int:
    command, *rest = arguments or [""]
    if command not in COMMANDS or (rest and command != "bench"):
        print(f"usage: python -m fastbp {' | '.join(COMMANDS)}", file=sys.stderr)
        return 2
    COMMANDS[command](*rest)
    return 0


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
