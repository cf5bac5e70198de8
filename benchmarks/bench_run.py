"""Speed bars of what waits during a run: orders of rows, callbacks and metrics, progress bars, batches fetched ahead.

`python -m pytest benchmarks/bench_run.py`. Runs with and without alternate, and the best of each counts.
"""

import contextlib
import io
import time

import numpy as np
import pytest
from rounds import best_of, median_ratio, seconds_of

import fastbp
from fastbp.bench.contenders import CONTENDERS, WORKLOADS, Problem
from fastbp.bench.measure import steps_in
from fastbp.training import watch

ROUNDS = 9
RULE = {"loss": "softmax_cross_entropy", "optimizer": fastbp.SGD(lr=0.01), "n_threads": 1}
rng = np.random.default_rng(0)


def digits(n):
    return rng.uniform(size=(n, 784)).astype(np.float32), rng.integers(0, 10, n)


@pytest.mark.parametrize("sizes, batch_size", [((2, 3, 1), 8), ((4, 8, 1), 32)], ids=str)
def test_shuffling_takes_half_of_a_tiny_networks_step(sizes, batch_size, capsys):
    """1,024 rows, whose order is drawn anew each epoch, and which are read in it where they lie."""
    X, y = (rng.uniform(-1, 1, (1024, n)).astype(np.float32) for n in (sizes[0], sizes[-1]))
    net = fastbp.MLP(sizes, activation="relu", seed=0)

    def fit(shuffle, steps=3_200_000 // batch_size):
        net.fit(X, y, loss="mse", optimizer=fastbp.SGD(lr=1e-4), batch_size=batch_size, steps=steps, shuffle=shuffle)
        return steps

    steps = fit(True)
    times = seconds_of(ROUNDS, {"shuffled": lambda: fit(True), "in order": lambda: fit(False)})
    ratio = median_ratio(times, "shuffled", "in order")
    with capsys.disabled():
        told = ", ".join(f"{name} {min(found) / steps * 1e9:.0f} ns" for name, found in times.items())
        print(f"\n{'-'.join(map(str, sizes))} b{batch_size}: {told} a step, {ratio:.2f} times", end=" ")
    assert ratio <= 1.5


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("case", [((784, 128, 10), 32, 1000, 20, 1.03), ((1024,) * 4, 16, 64, 10, 1.2)], ids=str)
def test_fit_of_single_epochs_takes_as_long_as_one_call(case, optimizer, monkeypatch, capsys):
    """What a call costs: checks, and a copy of all that steps change: 0.4 MB or 12, three times as much with Adam."""
    sizes, batch_size, n, epochs, bar = case
    monkeypatch.setenv("FASTBP_NUM_THREADS", "1")  # as an argument it would be one that a plain call has not
    X, y = (rng.uniform(size=(n, size)).astype(np.float32) for size in (sizes[0], sizes[-1]))
    net = fastbp.MLP(sizes, activation="relu", seed=0)

    def fit(epochs, calls=1):
        for _ in range(calls):
            net.fit(X, y, loss="mse", optimizer=optimizer, batch_size=batch_size, epochs=epochs)

    fit(1, 3)
    times = seconds_of(3 * ROUNDS, {"single epochs": lambda: fit(1, epochs), "one call": lambda: fit(epochs)})
    ratio = median_ratio(times, "single epochs", "one call")
    with capsys.disabled():
        each = ", ".join(f"{name} {np.median(found) / epochs * 1e3:.3f} ms" for name, found in times.items())
        print(f"\n{'-'.join(map(str, sizes))} {optimizer}: {each} an epoch, {ratio - 1:+.1%}", end=" ")
    assert ratio <= bar


class Looks(fastbp.Callback):
    def on_epoch_end(self, net, logs):
        self.loss = logs["loss"]


@pytest.fixture
def waiting(monkeypatch):
    """[seconds spent in `Watch` but for evaluations]: the caller sets it to 0. On a shared machine two runs differ by
    more than what waits in one of them.
    """
    spent, inner = [0.0], (fastbp.MLP, "_evaluate", -1)
    outer = ("begin", "steps_ahead", "arrived", "tell", "finish", "close")
    for owner, name, sign in [inner, *((watch.Watch, name, 1) for name in outer)]:
        method = getattr(owner, name)

        def timed(*arguments, method=method, sign=sign, **more):
            start = time.process_time()
            try:
                return method(*arguments, **more)
            finally:
                spent[0] += sign * (time.process_time() - start)

        monkeypatch.setattr(owner, name, timed)
    return spent


def test_callbacks_and_metrics_once_an_epoch_cost_nothing_beside_the_evaluation(waiting, capsys):
    """784-128-10, batches of 128, 8,192 rows; 1,024 to validate. Against a run that does nothing but evaluate.

    Not counted: the copy of the parameters that `Run` renews after a callback of one's own, which may have written them
    (0.4 MB, some 0.07 ms).
    """
    X, y = digits(8192)
    validation = digits(1024)
    net, epochs = fastbp.MLP((784, 128, 10), seed=0), 10
    spent = {}

    def fit(name, **more):
        waiting[0] = 0.0
        net.fit(X, y, epochs=epochs, validation_data=validation, batch_size=128, **RULE, **more)
        spent.setdefault(name, []).append(waiting[0])

    def full():
        waits = [fastbp.EarlyStopping("val_accuracy", patience=99), fastbp.TimeLimit(1e3), Looks()]
        fit("full", metrics=["accuracy", "top_5"], callbacks=waits)

    found = best_of(5 * ROUNDS, {"full": full, "plain": lambda: fit("plain")})
    more = min(spent["full"]) - min(spent["plain"])
    with capsys.disabled():
        print(f"\nan epoch {found['plain'] / epochs * 1e3:.2f} ms, callbacks and metrics {more / epochs * 1e3:.3f} ms, "
              f"{more / found['plain']:.2%}; in all {found['full'] / found['plain'] - 1:+.2%}", end=" ")  # fmt: skip
    assert more <= 0.01 * found["plain"]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_progress_bar_costs_nothing(workload, waiting, capsys):
    """By the time spent in `Watch`, with the bar drawn."""
    pytest.importorskip("tqdm")
    problem = Problem(workload)
    net = problem.network("auto")
    run = {"loss": workload.loss, "batch_size": workload.batch, "optimizer": fastbp.SGD(lr=1e-6), "n_threads": 1}
    steps = steps_in(0.5, CONTENDERS["fastbp"](problem))
    spent = []  # in a run with the bar, in seconds

    def fit(progress):
        waiting[0] = 0.0
        with contextlib.redirect_stderr(io.StringIO()):
            net.fit(problem.X, problem.y, steps=steps, progress=progress, **run)
        if progress:
            spent.append(waiting[0])

    found = best_of(ROUNDS, {"bar": lambda: fit(True), "plain": lambda: fit(False)})
    share = min(spent) / found["plain"]
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
    step = best_of(ROUNDS, {"rows": rows}, time.perf_counter)["rows"] / n
    calls = {"rows": rows, "at once": lambda: fit(0), "slow": lambda: fit(share * step)}
    found = best_of(5 * ROUNDS, calls, time.perf_counter)
    with capsys.disabled():
        told = ", ".join(f"{name} {seconds / n * 1e3:.2f} ms" for name, seconds in found.items())
        print(f"\na source that {what} for {share:.0%} of a step: {told} a step", end=" ")
    assert found["slow"] <= (1 + share / 5) * found["rows"]  # four fifths of it hidden, first batch and all
