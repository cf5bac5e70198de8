"""Speed bars of `fit_many(executor=)`: what the driver takes, what an executor adds, what two Dask workers gain.

The driver's bar is for clusters larger than this machine. One process does the work of 1,000 simulated workers, so that
the CPU time of this process is the driver's, with the pickling and the pipe of a process pool: nothing is left out.
When 1,000 workers would have ended is found afterwards, by a heap of the times at which each is free again.

An executor's bar is of CPU time, too. That of Dask is by the clock, and for a machine whose two cores are its own.
Results are compared first, bit by bit. `make test-cluster`'s environment has Dask
(`.venv-cluster/bin/python -m pytest -s benchmarks/bench_cluster.py`).
"""

import heapq
import inspect
import statistics
import time
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
from rounds import seconds_of

import fastbp

WORKERS = 1_000
COUNTS = 10_000, 100_000  # networks
DRIVER_US, FLAT = 20.0, 1.2  # microseconds for each; the larger count over the smaller one
ROUNDS = 3
CHUNK_SECONDS, OVERHEAD = 2.0, 1.05
NETWORKS, SECONDS, GAIN = 2_000, 60.0, 1.8  # of two workers
OF_SCIKIT = 24  # fits of scikit-learn, which stand for all

pytestmark = pytest.mark.skipif(
    "executor" not in inspect.signature(fastbp.fit_many).parameters, reason="fit_many has no executor= here"
)


@pytest.fixture(scope="module")
def rows():
    """The 442 rows of scikit-learn's diabetes, (442, 10) and (442, 1), scaled."""
    datasets = pytest.importorskip("sklearn.datasets")
    return tuple(((part - part.mean(axis=0)) / part.std(axis=0)).astype(np.float32)
                 for part in (lambda X, y: (X, y[:, None]))(*datasets.load_diabetes(return_X_y=True)))  # fmt: skip


@pytest.fixture(scope="module")
def process():
    """One process, started and warm."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(fastbp.MLP, (1, 1)).result()
        yield pool


class Workers:
    """So many simulated workers: an executor whose tasks are all done by one process.

    What that takes is said to have taken so many times as long, as if each network had been trained for longer.
    """

    def __init__(self, pool, n, times=1.0):
        self.pool, self.n, self.times, self.seconds = pool, n, times, []

    def submit(self, function, *arguments):
        future = Future()

        def done(found):
            answer = found.result()
            self.seconds.append(self.times * answer.seconds)
            future.set_result(answer._replace(seconds=self.seconds[-1]))

        self.pool.submit(function, *arguments).add_done_callback(done)
        return future

    def end(self):
        """Seconds until the last of so many workers would have ended: each chunk goes to the one that is free first."""
        free = [0.0] * self.n
        for seconds in self.seconds:
            heapq.heapreplace(free, free[0] + seconds)
        return max(free)


def bits(nets, history):
    return [net.flatten().tobytes() for net in nets], history.loss.tobytes(), history.status.tolist()


def mixed(n):
    """Networks of 20 shapes: one or two hidden layers of 4 to 32 units."""
    shapes = [(10, *layers * (width,), 1) for width in (4, 8, 12, 16, 20, 24, 26, 28, 30, 32) for layers in (1, 2)]
    return [fastbp.MLP(shapes[k % 20], activation="tanh", seed=k) for k in range(n)]


RUN = {"optimizer": fastbp.Adam(lr=0.01), "batch_size": 32, "n_threads": 1}


def epochs_for(rows, n, seconds):
    """Epochs with which n mixed networks take so long in one process on one thread."""
    nets, epochs = mixed(200), 100
    fastbp.fit_many(nets, *rows, epochs=1, **RUN)
    began = time.perf_counter()
    fastbp.fit_many(nets, *rows, epochs=epochs, **RUN)
    return max(1, round(epochs * seconds * 200 / n / (time.perf_counter() - began)))


def same_bits(rows, n, epochs, **executor):
    """Whether the engine makes the bits of this process: before anything is timed."""
    ours, theirs = mixed(n), mixed(n)
    here = fastbp.fit_many(ours, *rows, epochs=epochs, **RUN)
    there = fastbp.fit_many(theirs, *rows, epochs=epochs, **RUN, **executor)
    return bits(ours, here) == bits(theirs, there)


STOPPED = 2  # epochs after which networks stop that might have trained for longer
WORK = {"a tenth of a millisecond": STOPPED, "a tenth of a second": 1000 * STOPPED}  # of a network, and epochs


@pytest.mark.parametrize("work", WORK)
def test_a_driver_of_1000_workers_takes_20_us_a_network(process, rows, capsys, work):
    """With little work a chunk has thousands of networks, with much some tens.

    The epochs decide how the driver cuts chunks. Every network stops after two of them, and a worker says that it took
    as long as all would have.
    """
    X, y = np.ascontiguousarray(rows[0][:, [2, 8]]), rows[1]  # body mass and a serum: 2 columns
    stop = fastbp.EarlyStopping(patience=STOPPED - 1, min_delta=1e9)
    run = {"optimizer": fastbp.SGD(lr=0.01), "batch_size": 8, "n_threads": 1, "early_stopping": stop}
    run |= {"epochs": WORK[work], "validation_rows": np.arange(42)}
    made, found = {}, {}

    def new(n):
        return [fastbp.MLP((2, 3, 1), activation="tanh", seed=k) for k in range(n)]

    def call(n):
        workers = Workers(process, WORKERS, WORK[work] / STOPPED)
        return workers, fastbp.fit_many(made[n], X, y, executor=workers, n_workers=WORKERS, **run)

    for n in COUNTS:
        made[n], alone = new(n), new(n)
        workers, history = call(n)
        assert history.loss.shape == (n, STOPPED)
        assert bits(made[n], history) == bits(alone, fastbp.fit_many(alone, X, y, **run))
        found[n] = len(workers.seconds), sum(workers.seconds), workers.end()
    times = seconds_of(ROUNDS, {n: partial(call, n) for n in COUNTS})  # CPU time of this process
    us = {n: min(times[n]) / n * 1e6 for n in COUNTS}
    with capsys.disabled():
        for n, (n_chunks, seconds, end) in found.items():
            print(f"\n{n:,} networks of 2-3-1 with {work} each: {us[n]:.1f} us of the driver's CPU time a network, "
                  f"{min(times[n]):.2f} s; {n_chunks} chunks, {seconds:.1f} s of work, which would take {WORKERS:,} "
                  f"workers {end:.2f} s", end=" ")  # fmt: skip
    assert all(value <= DRIVER_US for value in us.values())
    assert us[COUNTS[1]] <= FLAT * us[COUNTS[0]]


def test_an_executor_adds_5_per_cent_at_chunks_of_2_seconds(process, rows, capsys):
    """One worker beside none: the same work on one thread, and all else is what the executor adds.

    CPU time of both processes, to which is added how long the worker waits for chunks by the clock.
    """
    n = 400
    epochs = epochs_for(rows, n, 16 * CHUNK_SECONDS)  # they begin with twice that, and end with less
    assert same_bits(rows, n, 2, executor=process, n_workers=1)
    sent, waits = [], []

    def busy():
        return time.process_time() + process.submit(time.process_time).result()

    def here():
        fastbp.fit_many(mixed(n), *rows, epochs=epochs, **RUN)

    def there():
        workers, nets = Workers(process, 1), mixed(n)
        began = time.perf_counter()
        fastbp.fit_many(nets, *rows, epochs=epochs, **RUN, executor=workers, n_workers=1)
        waits.append(time.perf_counter() - began - sum(workers.seconds))
        sent.append(workers.seconds)

    times = seconds_of(ROUNDS, {"here": here, "there": there}, busy)
    ratio = min((there + wait) / here for here, there, wait in zip(times["here"], times["there"], waits))
    with capsys.disabled():
        told = ", ".join(f"{which} {min(found):.2f} s" for which, found in times.items())
        chunk = statistics.mean(sent[-1])
        print(f"\n{len(sent[-1])} chunks of {chunk:.2f} s by the clock (mean): {told} of CPU time, the worker waits "
              f"{min(waits):.2f} s, {ratio:.3f}", end=" ")  # fmt: skip
    assert ratio <= OVERHEAD


def test_two_workers_of_dask_gain_1_8_and_scikit_learn_runs_beside(rows, capsys):
    distributed, joblib = pytest.importorskip("distributed"), pytest.importorskip("joblib")
    neural_network = pytest.importorskip("sklearn.neural_network")
    X, y = rows
    two_workers = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": None}
    with distributed.LocalCluster(**two_workers) as cluster, distributed.Client(cluster) as client:
        assert same_bits(rows, 200, 2, executor=client)  # and both are warm
        epochs = epochs_for(rows, NETWORKS, SECONDS)
        nets = mixed(NETWORKS)
        began = time.perf_counter()
        fastbp.fit_many(nets, X, y, epochs=epochs, **RUN)
        one, nets, driver = time.perf_counter() - began, mixed(NETWORKS), time.process_time()
        began = time.perf_counter()
        fastbp.fit_many(nets, X, y, epochs=epochs, **RUN, executor=client)
        two, driver = time.perf_counter() - began, time.process_time() - driver

        def scikit(k, epochs):
            run = {"batch_size": 32, "learning_rate_init": 0.01, "max_iter": epochs, "n_iter_no_change": epochs}
            run |= {"hidden_layer_sizes": mixed(OF_SCIKIT)[k].sizes[1:-1], "activation": "tanh", "random_state": k}
            estimator = neural_network.MLPRegressor(**run)
            return joblib.delayed(estimator.fit)(X, y[:, 0])

        with joblib.parallel_config(backend="dask"):
            joblib.Parallel()(scikit(k, 1) for k in range(2))  # scikit-learn is loaded
            began = time.perf_counter()
            fitted = joblib.Parallel()(scikit(k, epochs) for k in range(OF_SCIKIT))
            theirs = (time.perf_counter() - began) / OF_SCIKIT * NETWORKS
    assert all(estimator.n_iter_ == epochs for estimator in fitted)
    with capsys.disabled():
        print(f"\n{NETWORKS:,} networks, {epochs} epochs of {len(X)} rows: one process {one:.1f} s, two Dask workers "
              f"{two:.1f} s, {one / two:.2f} times as fast; the driver {driver / NETWORKS * 1e6:.0f} us of CPU time a "
              f"network; scikit-learn by joblib on the same workers {theirs:,.0f} s, from {OF_SCIKIT} fits",
              end=" ")  # fmt: skip
    assert one / two >= GAIN
