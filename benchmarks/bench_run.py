"""Speed bars of what waits during a run: callbacks and metrics, progress bars, batches fetched ahead.

`python -m pytest benchmarks/bench_run.py`. Runs with and without alternate, and the best of each counts.
"""

import contextlib
import io
import time

import numpy as np
import pytest

import fastbp
from fastbp import bench, callbacks

ROUNDS = 9
RULE = {"loss": "softmax_cross_entropy", "optimizer": fastbp.SGD(lr=0.01), "n_threads": 1}
rng = np.random.default_rng(0)


def best_of(rounds, clock=time.process_time, **calls):
    """The shortest time of each call, in seconds, in rounds that alternate."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return {name: min(found) for name, found in times.items()}


def digits(n):
    return rng.uniform(size=(n, 784)).astype(np.float32), rng.integers(0, 10, n)


class Looks(fastbp.Callback):
    def on_epoch_end(self, net, logs):
        self.loss = logs["loss"]


def test_callbacks_and_metrics_once_an_epoch_cost_nothing_beside_the_evaluation(capsys):
    """784-128-10, batches of 128, 8,192 rows; 1,024 to validate. Against epochs one by one, each evaluated by hand."""
    X, y = digits(8192)
    validation = digits(1024)
    net = fastbp.MLP((784, 128, 10), seed=0)
    out = np.empty((1024, 10), np.float32)
    loss = fastbp.losses.TABLE[RULE["loss"]]
    epochs, run = 5, RULE | {"batch_size": 128}

    def waiting():
        waits = [fastbp.EarlyStopping("val_accuracy", patience=99), fastbp.TimeLimit(1e3), Looks()]
        net.fit(X, y, epochs=epochs, validation_data=validation, metrics=["accuracy", "top_5"], callbacks=waits, **run)

    def by_hand():
        for _ in range(epochs):
            net.fit(X, y, epochs=1, **run)
            net._evaluate(*validation, None, loss, out=out, n_threads=1)

    def calls():  # of `fit`, which `by_hand` makes more often
        for _ in range(epochs - 1):
            net.fit(X, y, steps=0, **run)

    found = best_of(5 * ROUNDS, waiting=waiting, by_hand=by_hand, calls=calls)  # to tell tenths of a per cent apart
    share = found["waiting"] / (found["by_hand"] - found["calls"]) - 1
    with capsys.disabled():
        told = ", ".join(f"{name} {seconds / epochs * 1e3:.2f} ms an epoch" for name, seconds in found.items())
        print(f"\n{told}; callbacks and metrics {share:+.2%}", end=" ")
    assert share <= 0.01


@pytest.mark.parametrize("workload", bench.WORKLOADS, ids=lambda workload: workload.name)
def test_a_progress_bar_costs_nothing(workload, capsys, monkeypatch):
    """By the time spent in `Watch`, with the bar drawn: on a shared machine runs differ by more than that."""
    pytest.importorskip("tqdm")
    problem = bench.Problem(workload)
    net = problem.network("auto")
    run = {"loss": workload.loss, "batch_size": workload.batch, "optimizer": fastbp.SGD(lr=1e-6), "n_threads": 1}
    steps = bench.steps_in(0.5, bench.CONTENDERS["fastbp"](problem))
    spent = []  # in a run, in seconds
    for name in ("begin", "steps_ahead", "arrived", "finish", "close"):
        method = getattr(callbacks.Watch, name)

        def timed(*arguments, method=method):
            start = time.process_time()
            try:
                return method(*arguments)
            finally:
                spent[-1] += time.process_time() - start

        monkeypatch.setattr(callbacks.Watch, name, timed)

    def fit(progress):
        spent.append(0.0)
        with contextlib.redirect_stderr(io.StringIO()):
            net.fit(problem.X, problem.y, steps=steps, progress=progress, **run)

    found = best_of(ROUNDS, bar=lambda: fit(True), plain=lambda: fit(False))
    share = min(filter(None, spent)) / found["plain"]
    with capsys.disabled():
        print(f"\n{workload.name}: {steps} steps, {found['plain']:.3f} s, in the bar {share:.2%}, "
              f"all in all {found['bar'] / found['plain'] - 1:+.2%}", end=" ")  # fmt: skip
    assert share <= 0.01


SCRATCH = np.empty(4000)
SOURCES = {  # what a source may do for so many seconds, with the interpreter's lock free or held
    "waits": time.sleep,
    "computes in NumPy": lambda seconds: until(seconds, lambda: np.sin(SCRATCH, out=SCRATCH)),
    "computes in Python": lambda seconds: until(seconds, lambda: None),
}


def until(seconds, work):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        work()


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("what", SOURCES)
def test_batches_that_are_fetched_ahead_hide_their_source(what, share, capsys):
    """784-512-512-10, batches of 128: the source takes a share of a step's time."""
    X, y = digits(128)
    net, n = fastbp.MLP((784, 512, 512, 10), seed=0), 30

    def fit(seconds):
        def source():
            for _ in range(n):
                if seconds:
                    SOURCES[what](seconds)
                yield X, y

        net.fit(source(), epochs=1, **RULE)

    rows = lambda: net.fit(X, y, batch_size=128, steps=n, shuffle=False, **RULE)  # noqa: E731
    rows()
    step = best_of(9, time.perf_counter, rows=rows)["rows"] / n
    found = best_of(5 * ROUNDS, time.perf_counter, rows=rows, at_once=lambda: fit(0), slow=lambda: fit(share * step))
    with capsys.disabled():
        told = ", ".join(f"{name} {seconds / n * 1e3:.2f} ms" for name, seconds in found.items())
        print(f"\na source that {what} for {share:.0%} of a step: {told} a step", end=" ")
    assert found["slow"] <= (1 + share / 5) * found["rows"]  # four fifths of it hidden, first batch and all
