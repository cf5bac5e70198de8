"""fit_many by executors and with a store: the same bits as in one process, and nothing lost whatever breaks."""

import errno
import functools
import hashlib
import importlib
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import every_cluster, frozen, need_extension
from in_workers import faulty, mean_of_outputs, poisoned, slow, sound
from test_examples import ROOT, fenced_blocks

import fastbp
from fastbp import EarlyStopping, fit_many
from fastbp.many import chunks, executors, spread, store

N = 400
RNG = np.random.default_rng(7)
X = RNG.normal(size=(N, 3)).astype(np.float32)
Y = np.tanh(X.sum(axis=1))
BY = RNG.integers(0, 24, N)
SHAPES = (3, 1), (3, 5, 1), (3, 20, 4, 1)
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals")


def made(n=24, **more):
    return [fastbp.MLP(SHAPES[k % len(SHAPES)], seed=k, **more) for k in range(n)]


def assert_same(nets, history, others, theirs):
    """Networks and a ManyHistory are these, bit for bit."""
    assert [frozen(net.__getstate__()) for net in nets] == [frozen(net.__getstate__()) for net in others]
    assert [net._state.loss for net in nets] == [net._state.loss for net in others]
    for name in ("loss", "step", "n_steps", "status", "kernel", "columns", "best_value", "best_step", "keys"):
        assert frozen(getattr(history, name)) == frozen(getattr(theirs, name)), name
    assert {k: (type(error), str(error)) for k, error in history.errors.items()} == {
        k: (type(error), str(error)) for k, error in theirs.errors.items()
    }


@contextmanager
def in_time(seconds=60):
    """An error where the block takes longer."""

    def late(*_):
        raise AssertionError(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def ctrl_c(seconds):
    """It comes in this block or not at all: where the block fails sooner, a late one would end all tests."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            yield caught
    finally:
        timer.cancel()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of some networks, though all of them take milliseconds."""
    need_extension()
    monkeypatch.setattr(spread, "_LEAST_SECONDS", 1e-3)
    monkeypatch.setattr(spread, "_SECONDS", 2e-3)


@pytest.fixture
def one_each(monkeypatch):
    """A network in each chunk."""
    monkeypatch.setattr(spread, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(spread, "_SECONDS", 0.0)


# ------------------------------------------------------------------ engines


def needed(name):
    """A library, or a skipped test: `make test-cluster` has all of them."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(name)


def missing(what):
    reason = f"{what} is not installed: `make test-cluster` installs what pip has"
    pytest.fail(reason) if every_cluster else pytest.skip(reason)


def pool(how, n=2):
    context = multiprocessing.get_context(how)
    if how == "forkserver":  # its processes are forked from one that has imported these
        context.set_forkserver_preload(["pytest", "fastbp.many.fit", "fastbp.many.spread", "scipy.optimize"])
    executor = ProcessPoolExecutor(n, mp_context=context)
    for started in [executor.submit(slow, False, int) for _ in range(n)]:  # before a limit of time begins
        started.result()
    return executor


@contextmanager
def dask(n_workers=2, threads_per_worker=1):
    distributed, config = needed("distributed"), needed("dask").config
    with config.set({"distributed.worker.daemon": False, "distributed.logging.distributed": "error"}):
        cluster = distributed.LocalCluster(
            n_workers=n_workers, threads_per_worker=threads_per_worker, dashboard_address=None, silence_logs=50
        )
        with cluster, distributed.Client(cluster) as client:
            yield client


@contextmanager
def by_joblib(**config):
    with needed("joblib").parallel_config(**config):
        yield "joblib"


@contextmanager
def by_loky():
    executor = needed("loky").get_reusable_executor(max_workers=2)
    yield executor
    executor.shutdown(wait=True)


ENGINES = {
    "spawn": lambda: pool("spawn"),
    "forkserver": lambda: pool("forkserver"),
    "threads": lambda: ThreadPoolExecutor(2),
    "dask": dask,
    "loky": by_loky,
    "joblib, loky": lambda: by_joblib(backend="loky", n_jobs=2),
    "joblib, threading": lambda: by_joblib(backend="threading", n_jobs=2),
    "joblib, multiprocessing": lambda: by_joblib(backend="multiprocessing", n_jobs=2),  # results at the end alone
    "joblib, dask": None,
}
OFTEN = ["spawn", "forkserver", "threads", "dask"]  # by `make test`; `make test-cluster` has all


@pytest.fixture(scope="module", params=ENGINES if every_cluster else OFTEN)
def engine(request):
    """What is given as `executor`, of each kind; one for all tests of it."""
    if request.param == "joblib, dask":
        joblib = needed("joblib")
        with dask(), joblib.parallel_config(backend="dask"):
            yield "joblib"
        return
    with ENGINES[request.param]() as executor:
        yield executor


def odd_rows():
    """Rows of which one is too large for float32, so that a network fails."""
    rows = X.astype(np.float64)
    rows[np.flatnonzero(BY == 3)[2]] = 1e300  # errors name this row
    return rows


FOLDS = np.array_split(np.arange(N), 24)
LEFT = [np.setdiff1d(np.arange(N), fold)[:150] for fold in FOLDS]
CALLS = {
    "all rows": {},
    "a key each": {"by": BY},
    "a key each, held back": {"by": BY, "validation_split": 0.3, "metrics": ["r2"]},
    "a key each, weights, rows to measure": {
        "by": BY, "sample_weight": RNG.uniform(0.5, 2, N), "validation_rows": np.sort(RNG.permutation(N)[:120]),
    },
    "folds": {"rows": LEFT, "validation_rows": FOLDS, "eval_every": 3},
    "lists": {"X": [X[k : k + 40] for k in range(24)], "y": [Y[k : k + 40] for k in range(24)],
              "sample_weight": [np.linspace(1, 2, 40)] * 24},
    "early stopping": {"validation_data": (X[:50], Y[:50]),
                       "early_stopping": EarlyStopping(patience=1, min_delta=0.01)},
    "lists of arguments": {"optimizer": [fastbp.Adam(lr=0.01 + 0.001 * (k % 3)) for k in range(24)],
                           "batch_size": [8 + k % 2 for k in range(24)], "seed": list(range(24))},
    "a number of a user's": {"metrics": [mean_of_outputs], "validation_split": 0.2, "seed": 5},
    "missing targets": {"y": np.where(BY[:, None] == [5, 7], np.nan, Y[:, None]), "by": BY, "missing": "ignore"},
    "not finite": {"X": odd_rows(), "by": BY, "optimizer": fastbp.SGD(lr=0.1)},
    "L-BFGS": {"optimizer": "lbfgs"},
    "labels": {"y": (Y > 0).astype(np.int64), "loss": "binary_cross_entropy", "class_weight": "balanced"},
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_all_engines_make_the_bits_of_one_process(engine, call, request):
    name = request.node.callspec.params["engine"]
    if not every_cluster and name != "threads" and list(CALLS).index(call) % 4 != OFTEN.index(name):
        pytest.skip("a sample of the calls on each engine; `make test-cluster` has all")
    given = {"X": X, "y": Y, "epochs": 3, **CALLS[call]}
    if call == "L-BFGS":
        pytest.importorskip("scipy")
    outputs = 2 if call == "missing targets" else 1
    mine, theirs = ([fastbp.MLP((*net.sizes[:-1], outputs), seed=net.seed) for net in made()] for _ in range(2))
    wanted = fit_many(theirs, **given)
    with in_time():
        history = fit_many(mine, **given, executor=engine)
    assert_same(mine, history, theirs, wanted)
    with in_time():  # where the first one ended
        again = fit_many(mine, **given, executor=engine)
    assert_same(mine, again, theirs, fit_many(theirs, **given))


def test_a_dict_of_networks_has_its_keys(engine):
    names = [f"shop {k}" for k in range(24)]
    mine, theirs = (dict(zip(names, made())) for _ in range(2))
    wanted = fit_many(theirs, X, Y, by=np.array(names)[BY], epochs=2)
    history = fit_many(mine, X, Y, by=np.array(names)[BY], epochs=2, executor=engine)
    assert history.keys == names
    assert_same(list(mine.values()), history, list(theirs.values()), wanted)


def test_networks_that_have_lived_take_their_state_along(engine):
    mine, theirs = made(dropout=0.1), made(dropout=0.1)
    for nets in (mine, theirs):
        for k, net in enumerate(nets):
            net.fit(X, Y, steps=k, optimizer=fastbp.Adam(average=0.9) if k % 2 else fastbp.SGD(accumulate=3))
        nets[4].freeze(0)
    wanted = fit_many(theirs, X, Y, epochs=2, optimizer=fastbp.Adam(average=0.9))
    history = fit_many(mine, X, Y, epochs=2, optimizer=fastbp.Adam(average=0.9), executor=engine)
    assert_same(mine, history, theirs, wanted)


def test_views_of_parameters_that_the_caller_holds_stay(engine):
    nets = made(4)
    weight = nets[1].weights[0]
    fit_many(nets, X, Y, epochs=1, executor=engine)
    assert weight is nets[1].weights[0] or np.shares_memory(weight, nets[1].weights[0])
    assert not np.array_equal(weight, made(4)[1].weights[0])


def test_large_rows_go_once_into_a_file_which_is_gone_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(chunks, "SHARED_BYTES", 1000)
    sent = []

    class Looks(ThreadPoolExecutor):
        def submit(self, function, packed, *shared):
            sent.append((len(pickle.dumps(packed)), shared))
            return super().submit(function, packed, *shared)

    mine, theirs = made(), made()
    with Looks(2) as executor:
        history = fit_many(mine, X, Y, epochs=2, executor=executor)
    assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=2))
    assert len(sent) > 2 and all(size < X.nbytes + 20_000 for size, _ in sent)
    files = {one.path for _, shared in sent for one in shared}
    assert len(files) == 2 and not any(map(os.path.exists, files)) and not list(tmp_path.iterdir())  # X and y


def test_a_memory_map_is_read_from_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SHARED_BYTES", 1000)
    path = tmp_path / "rows.npy"
    np.save(path, np.vstack([X, X]))
    rows = np.load(path, mmap_mode="r")[N // 2 : N // 2 + N]  # not from its beginning
    sent = []

    class Looks(ThreadPoolExecutor):
        def submit(self, function, packed, *shared):
            sent.extend(shared)
            return super().submit(function, packed, *shared)

    mine, theirs = made(), made()
    with Looks(2) as executor:
        history = fit_many(mine, rows, Y, epochs=2, executor=executor)
    assert_same(mine, history, theirs, fit_many(theirs, np.array(rows), Y, epochs=2))
    assert str(path) in {one.path for one in sent} and path.exists()


def test_a_worker_that_cannot_read_the_file_gets_the_rows(monkeypatch):
    monkeypatch.setattr(chunks, "SHARED_BYTES", 1000)
    n_arrays = []

    class Elsewhere(ThreadPoolExecutor):
        def submit(self, function, packed, *shared):
            n_arrays.append(sum(isinstance(one, np.ndarray) for one in shared))
            gone = [chunks.Kept("/nowhere", 0, one.dtype, one.shape, "C", b"") if isinstance(one, chunks.Kept) else one
                    for one in shared]  # fmt: skip
            return super().submit(function, packed, *gone)

    mine, theirs = made(), made()
    with Elsewhere(2) as executor, in_time():
        history = fit_many(mine, X, Y, epochs=2, executor=executor)
    assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=2))
    assert n_arrays.count(0) == n_arrays.count(2) > 1


def test_a_file_with_other_contents_is_not_read(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, X)
    kept = spread._of_map(np.load(path, mmap_mode="r"))
    assert np.array_equal(kept.open(), X)
    np.save(path, X + 1)
    with pytest.raises(chunks.Unreadable, match="something else"):
        kept.open()


@pytest.mark.parametrize("how", ["forkserver", "threads"])
def test_a_function_gives_the_rows_in_each_worker(how, tmp_path):
    np.save(tmp_path / "rows.npy", X)
    opened = functools.partial(np.load, tmp_path / "rows.npy", mmap_mode="r")
    mine, theirs = made(), made()
    wanted = fit_many(theirs, opened, Y, epochs=2)
    with ENGINES[how]() as executor:
        assert_same(mine, fit_many(mine, opened, Y, epochs=2, executor=executor), theirs, wanted)


@pytest.mark.parametrize("kind", ["csr", "h5py"])
def test_sparse_rows_and_datasets(kind, tmp_path):
    nets = made(), made()
    if kind == "csr":
        rows = pytest.importorskip("scipy.sparse").csr_matrix(np.where(X > 0, X, 0))
        with ThreadPoolExecutor(2) as executor:
            history = fit_many(nets[0], rows, Y, epochs=2, executor=executor)
        assert_same(nets[0], history, nets[1], fit_many(nets[1], rows, Y, epochs=2))
        return
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "rows.h5", "w") as file, ThreadPoolExecutor(1) as executor:
        dataset = file.create_dataset("X", data=X, chunks=(50, 3))
        with pytest.raises(TypeError, match="X is a dataset that cannot be sent to workers.*give a function"):
            fit_many(nets[0], dataset, Y, epochs=2, executor=executor)


# ------------------------------------------------------------------ what is refused


def test_what_is_no_executor_is_named():
    with pytest.raises(TypeError, match="executor must be None, an object with `submit`.*got 'dask'"):
        fit_many(made(2), X, Y, epochs=1, executor="dask")
    with pytest.raises(TypeError, match="the function gave None, which has no `submit`"):
        fit_many(made(2), X, Y, epochs=1, executor=lambda: None)
    with pytest.raises(ValueError, match="n_workers and task_timeout are about the workers of an executor"):
        fit_many(made(2), X, Y, epochs=1, n_workers=2)
    with pytest.raises(ValueError, match="task_timeout"):
        fit_many(made(2), X, Y, epochs=1, executor=ThreadPoolExecutor, task_timeout=0)


def test_what_cannot_be_sent_is_named_before_any_work():
    nets = made(3)
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(TypeError, match="metrics cannot be sent to workers.*at the top of a module"):
            fit_many(nets, X, Y, epochs=1, metrics=[lambda y, outputs: 0.0], executor=executor)
        with pytest.raises(TypeError, match="X: the function cannot be sent"):
            fit_many(nets, lambda: X, Y, epochs=1, executor=executor)
    assert [net.step for net in nets] == [0, 0, 0]


def test_in_this_process_anything_goes_with_a_store(tmp_path):
    mine, theirs, more = made(), made(), {"epochs": 2, "metrics": [lambda y, outputs: float(outputs.sum())]}
    wanted = fit_many(theirs, lambda: X, Y, **more)
    assert_same(mine, fit_many(mine, lambda: X, Y, store=tmp_path, **more), theirs, wanted)


class Differs(ThreadPoolExecutor):
    """Workers with another fastbp."""

    def submit(self, function, packed, *shared):
        other = packed.build._replace(engine="another module")
        return super().submit(function, packed._replace(build=other), *shared)


def test_a_worker_that_would_make_other_bits_is_an_error_that_names_both():
    nets = made()
    with Differs(2) as executor, in_time(), pytest.raises(RuntimeError) as caught:
        fit_many(nets, X, Y, epochs=1, executor=executor)
    mine = chunks._digest_of_engine()[:12]
    assert f"compiled module {mine}" in str(caught.value) and "There: fastbp" in str(caught.value)
    assert "isa= chooses" in str(caught.value) and [net.step for net in nets] == [0] * len(nets)
    assert set(caught.value.history.status.tolist()) == {"interrupted"}


@pytest.mark.parametrize("by", ["executor", "this process"])
def test_isa_is_chosen_without_the_environment(by):
    found = fastbp.backends.engine().isas_found()
    nets = {isa: made(6) for isa in found}
    before = dict(os.environ)
    for isa in found:
        with ThreadPoolExecutor(1) as executor:
            more = {"executor": executor} if by == "executor" else {}
            fit_many(nets[isa], X, Y, epochs=3, isa=isa, lanes=False, **more)
    assert dict(os.environ) == before
    for isa in found:
        os.environ["FASTBP_ISA"] = isa
        try:
            wanted = made(6)
            fit_many(wanted, X, Y, epochs=3, lanes=False)
        finally:
            del os.environ["FASTBP_ISA"]
        assert [frozen(net.__getstate__()) for net in wanted] == [frozen(net.__getstate__()) for net in nets[isa]]
    with pytest.raises(RuntimeError, match="isa='vax' is not to be had here; there is: "):
        fit_many(made(2), X, Y, epochs=1, isa="vax")


def test_the_backend_of_the_context_is_that_of_the_workers():
    mine, theirs = made(6), made(6)
    with fastbp.backend("reference"), pool("forkserver") as executor:
        history = fit_many(mine, X, Y, epochs=2, executor=executor)
        assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=2))


# ------------------------------------------------------------------ faults


class Faulty(Executor):
    """An executor in whose workers faults happen."""

    _client = None  # of Dask, which is not to be asked past this

    def __init__(self, inner, fault, folder, times=1):
        self._inner, self._fault, self.n_sent = inner, functools.partial(faulty, fault, folder, times), 0

    def submit(self, function, *arguments):
        self.n_sent += 1
        return self._inner.submit(self._fault, function, *arguments)

    def shutdown(self, **how):
        self._inner.shutdown(**how)

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.mark.usefixtures("one_each")
@pytest.mark.parametrize("fault", ["killed", "ended"])
@pytest.mark.slow
def test_a_pool_that_a_function_makes_is_made_anew(fault, tmp_path):
    mine, theirs = made(), made()
    pools = []

    def make():
        pools.append(Faulty(pool("forkserver"), fault, tmp_path, times=2))
        return pools[-1]

    with in_time():
        history = fit_many(mine, X, Y, epochs=2, executor=make)
    assert len(pools) in (2, 3) and len(list(tmp_path.iterdir())) == 2  # both workers may end at once
    assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=2))


@pytest.mark.usefixtures("one_each")
def test_a_pool_that_was_given_keeps_what_came_back(tmp_path):
    nets, theirs = made(), made()
    fit_many(theirs, X, Y, epochs=2)

    class Late(Faulty):
        """Breaks in the sixth task."""

        def submit(self, function, *arguments):
            self.n_sent += 1
            task = self._fault if self.n_sent > 5 else sound
            return self._inner.submit(task, function, *arguments)

    with in_time(), pytest.raises(RuntimeError, match="networks had come back and are kept.*makes it anew") as caught:
        fit_many(nets, X, Y, epochs=2, executor=Late(pool("forkserver", 1), "killed", tmp_path), n_workers=1)
    history = caught.value.history
    done = history.status == "done"
    assert 0 < done.sum() < len(nets) and set(history.status[~done].tolist()) == {"interrupted"}
    for net, other, new, kept in zip(nets, theirs, made(), done):
        assert frozen(net.__getstate__()) == frozen((other if kept else new).__getstate__())


def test_a_network_that_breaks_every_pool_fails_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "_LEAST_SECONDS", 1.0)  # so that it has neighbours in its chunk
    monkeypatch.setattr(spread, "_TRIES", 2)
    nets, theirs = made(3), made(3)
    fit_many(theirs, X, Y, epochs=2)
    with in_time(120):
        history = fit_many(nets, X, Y, epochs=2, executor=lambda: Poisoned(pool("forkserver", 1)))
    assert history.status.tolist() == ["done", "failed", "done"] and "abruptly" in str(history.errors[1])
    for k, (net, other) in enumerate(zip(nets, theirs)):
        assert frozen(net.__getstate__()) == frozen((made(3)[1] if k == 1 else other).__getstate__())


class Poisoned(Faulty):
    def __init__(self, inner):
        self._inner = inner

    def submit(self, function, *arguments):
        return self._inner.submit(poisoned, function, *arguments)


@pytest.mark.usefixtures("one_each")
def test_a_worker_without_memory_is_asked_again(tmp_path):
    mine, theirs = made(), made()
    with pool("forkserver") as inner, in_time():
        history = fit_many(mine, X, Y, epochs=2, executor=Faulty(inner, "memory", tmp_path, times=4))
    assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=2))


def hungry(y, outputs):
    """A metric for which there is memory at the third time."""
    folder = Path(os.environ["FASTBP_TEST_FOLDER"])
    if len(list(folder.iterdir())) < 2:
        (folder / f"{time.monotonic_ns()}").touch()
        raise MemoryError("no memory for a metric")
    return float(outputs.sum())


def test_a_lack_of_memory_within_the_training_is_the_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTBP_TEST_FOLDER", str(tmp_path))
    mine, theirs = made(), made()
    with ThreadPoolExecutor(1) as executor:
        history = fit_many(mine, X, Y, epochs=1, metrics=[hungry], eval_every=5, executor=executor)
    assert len(list(tmp_path.iterdir())) == 2
    assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=1, metrics=[hungry], eval_every=5))


class Refuses(ThreadPoolExecutor):
    """Workers that raise for one network."""

    def submit(self, function, packed, *shared):
        def task():
            if 5 in packed.networks.load()["seeds"].tolist():
                raise OSError("this worker never can")
            return function(packed, *shared)

        return super().submit(task)


def test_a_chunk_that_never_comes_back_is_halved_down_to_the_network(monkeypatch):
    monkeypatch.setattr(spread, "_LEAST_SECONDS", 1.0)
    nets, theirs = made(), made()
    fit_many(theirs, X, Y, epochs=2)
    with Refuses(2) as executor, in_time():
        history = fit_many(nets, X, Y, epochs=2, executor=executor)
    assert np.flatnonzero(history.status == "failed").tolist() == [5]
    assert str(history.errors[5]) == "this worker never can" and history.n_steps[5] == 0
    for k, (net, other) in enumerate(zip(nets, theirs)):
        assert frozen(net.__getstate__()) == frozen((made()[5] if k == 5 else other).__getstate__())


@pytest.mark.usefixtures("one_each")
def test_a_task_that_does_not_come_back_is_sent_again(tmp_path):
    mine, theirs = made(), made()
    wanted = fit_many(theirs, X, Y, epochs=2)
    began = time.monotonic()
    with in_time():
        history = fit_many(
            mine, X, Y, epochs=2, executor=lambda: Faulty(pool("forkserver"), "hangs", tmp_path), task_timeout=4
        )
    assert time.monotonic() - began < 50
    assert_same(mine, history, theirs, wanted)


@pytest.mark.usefixtures("one_each")
def test_a_late_answer_does_no_harm(tmp_path):
    mine, theirs = made(), made()
    with ThreadPoolExecutor(3) as inner, in_time():
        history = fit_many(mine, X, Y, epochs=2, executor=Faulty(inner, "late", tmp_path), task_timeout=2)
        state = [frozen(net.__getstate__()) for net in mine]
    assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=2))
    assert state == [frozen(net.__getstate__()) for net in mine]


def test_an_executor_whose_workers_all_hang_is_given_up():
    release = threading.Event()

    class Hangs(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            return super().submit(release.wait)

    executor = Hangs(2)
    try:
        with in_time(), pytest.raises(TimeoutError, match="none of the 2 workers of Hangs has answered") as caught:
            fit_many(made(), X, Y, epochs=2, executor=executor, task_timeout=0.3)
        assert set(caught.value.history.status.tolist()) == {"interrupted"}
    finally:
        release.set()
        executor.shutdown()


@pytest.mark.usefixtures("one_each")
def test_a_pool_of_ours_whose_workers_all_hang_is_made_anew(tmp_path):
    mine, theirs = made(), made()
    with in_time():
        history = fit_many(
            mine, X, Y, epochs=2, executor=lambda: Faulty(pool("forkserver"), "hangs", tmp_path, times=2),
            task_timeout=4,
        )  # fmt: skip
    assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=2))


@pytest.mark.usefixtures("one_each")
@pytest.mark.slow
def test_dask_workers_that_are_killed_lose_nothing(tmp_path):
    mine, theirs = made(), made()
    with dask() as client, in_time(100):
        inner = client.get_executor(pure=False)
        executor = Faulty(inner, "killed", tmp_path, times=2)
        history = fit_many(mine, X, Y, epochs=2, executor=executor, n_workers=2)
        assert len(list(tmp_path.iterdir())) == 2
        assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=2))


@pytest.mark.usefixtures("one_each")
def test_ctrl_c_keeps_what_came_back(tmp_path):
    nets, theirs = made(), made()
    fit_many(theirs, X, Y, epochs=2)

    class Interrupts(ThreadPoolExecutor):
        n_sent = 0

        def submit(self, function, *arguments):
            self.n_sent += 1
            if self.n_sent == 5:
                os.kill(os.getpid(), signal.SIGINT)
            return super().submit(slow, self.n_sent > 4, function, *arguments)

    with Interrupts(1) as executor, in_time(), pytest.raises(KeyboardInterrupt) as caught:
        fit_many(nets, X, Y, epochs=2, executor=executor)
    history = caught.value.history
    done = history.status == "done"
    assert 0 < done.sum() < len(nets) and set(history.status.tolist()) == {"done", "interrupted"}
    for net, other, new, kept in zip(nets, theirs, made(), done):
        assert frozen(net.__getstate__()) == frozen((other if kept else new).__getstate__())


def test_ctrl_c_gives_up_a_chunk_in_this_process(tmp_path):
    nets = [fastbp.MLP((3, 64, 64, 1), seed=k) for k in range(4)]
    began = time.monotonic()
    with in_time(), ctrl_c(0.5) as caught:
        fit_many(nets, X, Y, epochs=10**6, store=tmp_path)
    assert time.monotonic() - began < 20
    assert caught.value.history.status.tolist() == ["interrupted"] * 4 and [net.step for net in nets] == [0] * 4


def test_an_executor_of_ours_is_shut_down_whatever_happens():
    made_ones = []

    def make():
        made_ones.append(ThreadPoolExecutor(1))
        return made_ones[-1]

    nets = made(3)
    with nets[1]._exclusive(), pytest.raises(RuntimeError, match=r"nets\[1\]: this network is training already"):
        fit_many(nets, X, Y, epochs=1, executor=make)
    fit_many(nets, X, Y, epochs=1, executor=make)
    for executor in made_ones:
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(int)


def test_dask_is_waited_for_until_it_has_workers(monkeypatch):
    monkeypatch.setattr(chunks, "SHARED_BYTES", 1000)  # rows are scattered, which needs a worker
    mine, theirs = made(), made()
    with dask(n_workers=0) as client, in_time():
        threading.Timer(1.5, client.cluster.scale, (1,)).start()
        assert_same(mine, fit_many(mine, X, Y, epochs=2, executor=client), theirs, fit_many(theirs, X, Y, epochs=2))
    with dask(n_workers=0) as client:
        began = time.monotonic()
        with in_time(), ctrl_c(1):
            fit_many(made(), X, Y, epochs=2, executor=client)
        assert time.monotonic() - began < 20


def test_the_time_limit_holds_for_all(monkeypatch):
    nets = [fastbp.MLP((3, 64, 64, 1), seed=k) for k in range(8)]
    with ThreadPoolExecutor(2) as executor, in_time():
        history = fit_many(nets, X, Y, epochs=10**6, time_limit=1.0, executor=executor)
    assert history.seconds < 8 and set(history.status.tolist()) == {"stopped"}
    assert history.n_steps.tolist() == [net.step for net in nets] and history.n_steps.sum() > 0


def test_progress_is_told_by_the_driver(capsys):
    pytest.importorskip("tqdm")
    with ThreadPoolExecutor(2) as executor:
        fit_many(made(), X, Y, epochs=1, executor=executor, progress=True)
    assert "24/24" in capsys.readouterr().err


# ------------------------------------------------------------------ the store


def test_a_store_goes_on_where_a_killed_process_ended(tmp_path):
    """Another process is killed in the middle; the next call finds what it had done."""
    program = (
        "import os, signal, sys; sys.path.insert(0, {tests!r})\n"
        "import test_cluster as t\n"
        "from fastbp.many import spread, store\n"
        "spread._LEAST_SECONDS, spread._SECONDS = 1e-3, 2e-3\n"
        "add, n = store.Store.add, []\n"
        "def added(self, *more):\n"
        "    add(self, *more); n.append(1)\n"
        "    if len(n) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.Store.add = added\n"
        "t.fit_many(t.made(), t.X, t.Y, epochs=2, store={store!r})\n"
    ).format(tests=str(Path(__file__).parent), store=str(tmp_path / "store"))
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    trained = []
    mine, theirs = made(), made()
    with watched(trained):
        history = fit_many(mine, X, Y, epochs=2, store=tmp_path / "store")
    assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=2))
    assert 0 < len(trained) < len(mine)


@contextmanager
def watched(trained):
    """Notes the numbers of networks that are packed, which are those that are not in the store."""
    pack = chunks.Packer.pack

    def noted(self, numbers, deadline):
        trained.extend(numbers.tolist())
        return pack(self, numbers, deadline)

    chunks.Packer.pack = noted
    try:
        yield
    finally:
        chunks.Packer.pack = pack


def stored(path, **more):
    """A whole store, and the networks and the history that it is of."""
    nets = made()
    more = {"epochs": 2, "by": BY, "validation_split": 0.3, "metrics": ["r2"], **more}
    return nets, fit_many(nets, X, Y, store=path, **more), more


@pytest.mark.usefixtures("one_each")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning", "error::ResourceWarning")
def test_a_store_cut_anywhere_loses_one_chunk_at_most(tmp_path):
    path = tmp_path / "store"
    theirs, wanted, more = stored(path)
    names = sorted(name for name in os.listdir(path) if name != "store.lock")
    assert len(names) == 50
    for name in names[:2] + names[-2:]:
        for kept in (0.0, 0.7):
            whole = (path / name).read_bytes()
            (path / name).write_bytes(whole[: int(len(whole) * kept)])
            mine, trained, before = made(), [], set(os.listdir(path))
            with watched(trained):
                history = fit_many(mine, X, Y, store=path, **more)
            assert_same(mine, history, theirs, wanted)
            assert trained == ([int(name[6:15])] if name.startswith("chunk-") else []), name
            for new in set(os.listdir(path)) - before:
                os.unlink(path / new)
            (path / name).write_bytes(whole)


@pytest.mark.usefixtures("one_each")
def test_a_byte_that_has_changed_is_seen(tmp_path):
    theirs, wanted, more = stored(tmp_path)
    names = [name for name in sorted(os.listdir(tmp_path)) if name.startswith("chunk-")]
    for k, name in enumerate(names[:8]):
        data = bytearray((tmp_path / name).read_bytes())
        data[len(data) * (k + 1) // 10] ^= 1
        (tmp_path / name).write_bytes(data)
    mine, trained = made(), []
    with watched(trained):
        assert_same(mine, fit_many(mine, X, Y, store=tmp_path, **more), theirs, wanted)
    assert 4 <= len(trained) <= 8  # some bytes of a zip file mean nothing


@pytest.mark.parametrize("what, change", [
    ("networks", {"nets": lambda: [fastbp.MLP((3, 4, 1), seed=k) for k in range(24)]}),
    ("data", {"X": X + 1}), ("data", {"by": np.roll(BY, 1)}), ("epochs=", {"epochs": 3}),
    ("optimizer=", {"optimizer": fastbp.Adam(lr=0.1)}),
    ("optimizer=", {"optimizer": [fastbp.Adam(lr=0.1 / (1 + k)) for k in range(24)]}), ("seed=", {"seed": 3}),
    ("shuffle=", {"shuffle": False}), ("metrics=", {"metrics": [mean_of_outputs]}), ("loss=", {"loss": "huber"}),
    ("batch_size=", {"batch_size": 2}), ("batch_size=", {"batch_size": [2, 3] * 12}),
    ("batch_size= and epochs=", {"batch_size": [2, 3] * 12, "epochs": [2, 3] * 12}), ("lanes=", {"lanes": False}),
    ("eval_every=", {"eval_every": 1}), ("the instruction set", {"isa": "generic"}),
])  # fmt: skip
def test_a_store_of_something_else_is_refused(tmp_path, what, change):
    *_, more = stored(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    given = {"X": X, "y": Y, "nets": made, **more, **change}
    nets = given.pop("nets")()
    with pytest.raises(ValueError, match=f"belongs to another call: it differs in {what}\\. "):
        fit_many(nets, store=tmp_path, **given)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before
    assert not any(net.step for net in nets)


@pytest.mark.parametrize("store", [3, True, 2.5, "", b"", "a\0b"])
def test_a_store_that_is_no_path_is_refused(store):
    for call in (functools.partial(fit_many, made(3)), functools.partial(fastbp.sweep, {"lr": [0.1]}, cv=2)):
        with pytest.raises((TypeError, ValueError), match="^store must be the path of a folder"):
            call(X, Y, epochs=1, store=store)


def test_two_calls_at_once_do_not_share_a_store(tmp_path, monkeypatch):
    """The second one of a process is refused, and changes nothing of the first one."""
    mine, theirs, other, refused = made(), made(), made(), []
    add = store.Store.add

    def meanwhile(*arguments):
        with pytest.raises(RuntimeError, match="in use by another call in this process.*or give another folder"):
            fit_many(other, X, Y, epochs=2, store=tmp_path)
        refused.append(sorted(os.listdir(tmp_path)))
        add(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "add", meanwhile)
        history = fit_many(mine, X, Y, epochs=2, store=tmp_path)
    assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=2))
    assert refused and [net.step for net in other] == [0] * len(other)
    with pytest.raises(ValueError, match="differs in epochs="):  # a call that is refused lets go of the store
        fit_many(other, X, Y, epochs=1, store=tmp_path)
    assert_same(other, fit_many(other, X, Y, epochs=2, store=tmp_path), theirs, history)


def test_a_lock_that_has_no_room_for_its_text_is_let_go(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fastbp.many.store.os.write", full)
    fit_many(made(2), X, Y, epochs=1, store=tmp_path)
    monkeypatch.undo()
    fit_many(made(2), X, Y, epochs=1, store=tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_process_does_not_take_its_parents_lock_for_its_own(tmp_path):
    lock = store._Lock(str(tmp_path / "lock"), "folder")
    child = os.fork()
    if not child:
        done = 1
        try:
            store._Lock(str(tmp_path / "lock"), "folder")
        except RuntimeError as error:  # of the system's lock, which names the parent
            done = 0 if f"process {os.getppid()}" in str(error) else 2
        os._exit(done)
    assert os.waitpid(child, 0)[1] == 0
    lock.release()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may open whatever there is")
def test_a_lock_that_cannot_be_opened_says_so(tmp_path):
    (tmp_path / "store.lock").touch(0o400)
    with pytest.raises(PermissionError, match="store: its lock cannot be opened"):
        fit_many(made(2), X, Y, epochs=1, store=tmp_path)


def test_a_store_in_use_by_another_process_is_refused_until_that_is_killed(tmp_path):
    """Its worker outlives it, and holds nothing."""
    program = (
        f"import multiprocessing, os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "import test_cluster as t, in_workers\n"
        "pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('fork'))\n"
        "class Says:\n"
        "    def submit(self, function, *arguments):\n"
        "        future = pool.submit(in_workers.slow, True, function, *arguments)\n"
        "        print(*pool._processes, flush=True)\n"
        "        return future\n"
        f"t.fit_many(t.made(), t.X, t.Y, epochs=2, executor=Says(), n_workers=1, store={str(tmp_path)!r})\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    worker = int(driver.stdout.readline())
    try:
        with pytest.raises(RuntimeError, match=f"in use by process {driver.pid} of .*Wait until that call has ended"):
            fit_many(made(), X, Y, epochs=2, store=tmp_path)
        driver.kill()
        driver.wait()
        os.kill(worker, 0)  # it is there
        mine, theirs = made(), made()
        history = fit_many(mine, X, Y, epochs=2, store=tmp_path)
        assert_same(mine, history, theirs, fit_many(theirs, X, Y, epochs=2))
    finally:
        driver.kill()
        driver.wait()
        driver.stdout.close()
        os.kill(worker, signal.SIGKILL)


def test_trained_networks_are_not_those_that_the_store_began_with(tmp_path):
    nets, _, more = stored(tmp_path)
    with pytest.raises(ValueError, match="differs in networks.*made anew"):
        fit_many(nets, X, Y, store=tmp_path, **more)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds other files, such as 'thesis.tex'"):
        fit_many(made(2), X, Y, epochs=1, store=tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.usefixtures("one_each")
def test_a_full_disk_is_an_error_and_what_is_finished_is_kept(tmp_path, monkeypatch):
    nets, theirs = made(), made()
    wanted = fit_many(theirs, X, Y, epochs=2)
    replace, written = fastbp.files.replace, []

    def full(path, write):
        written.append(path)
        if len(written) > 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        replace(path, write)

    with monkeypatch.context() as patch:
        patch.setattr(fastbp.files, "replace", full)
        with pytest.raises(OSError, match="No space left.*Make room there and call again") as caught:
            fit_many(nets, X, Y, epochs=2, store=tmp_path)
    assert caught.value.errno == errno.ENOSPC
    done = caught.value.history.status == "done"
    assert 0 < done.sum() < len(nets)
    for net, other, new, kept in zip(nets, theirs, made(), done):
        assert frozen(net.__getstate__()) == frozen((other if kept else new).__getstate__())
    mine, trained = made(), []
    with watched(trained):
        history = fit_many(mine, X, Y, epochs=2, store=tmp_path)
    assert 0 < len(trained) < len(nets)
    assert_same(mine, history, theirs, wanted)


def test_a_store_holds_errors_and_keys(tmp_path):
    nets = [{f"k{j}": fastbp.MLP((3, 4, 1), seed=j) for j in range(24)} for _ in range(2)]
    by, rows = np.array([f"k{j}" for j in BY]), odd_rows()
    wanted = fit_many(nets[0], rows, Y, by=by, epochs=2, optimizer=fastbp.SGD(lr=0.1), store=tmp_path)
    history = fit_many(nets[1], rows, Y, by=by, epochs=2, optimizer=fastbp.SGD(lr=0.1), store=tmp_path)
    assert_same(list(nets[1].values()), history, list(nets[0].values()), wanted)
    assert wanted.errors and (wanted.status == "nonfinite").any()
    lines = (tmp_path / "index.csv").read_text().splitlines()
    number, key, name = next(line for line in lines if line.startswith("5,")).split(",")
    found = fastbp.load_many(tmp_path / name)
    assert key == '"k5"' and frozen(found[int(number)].__getstate__()) == frozen(nets[0]["k5"].__getstate__())
    assert len(lines) == 25


def test_an_executor_and_a_store_together(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "SHARED_BYTES", 1000)
    mine, theirs, later = made(), made(), made()
    wanted = fit_many(theirs, X, Y, epochs=2)
    assert_same(mine, fit_many(mine, X, Y, epochs=2, executor=engine, store=tmp_path), theirs, wanted)
    assert not any(name.startswith("shared-") for name in os.listdir(tmp_path))
    trained = []
    with watched(trained):
        assert_same(later, fit_many(later, X, Y, epochs=2, store=tmp_path), theirs, wanted)
    assert not trained


def test_what_the_time_limit_cut_is_trained_again(tmp_path):
    def make():
        return [fastbp.MLP((3, 64, 64, 1), seed=k) for k in range(2)]

    for k in range(20):  # until one is cut in its middle
        cut = fit_many(make(), X, Y, steps=60_000, store=tmp_path / f"{k}", time_limit=0.1 * 1.4**k)
        middle = (cut.status == "stopped") & (cut.n_steps > 0)
        if middle.any():
            break
    assert middle.any()
    mine, theirs = make(), make()
    history = fit_many(mine, X, Y, steps=60_000, store=tmp_path / f"{k}")
    assert_same(mine, history, theirs, fit_many(theirs, X, Y, steps=60_000))


@pytest.mark.usefixtures("one_each")
def test_a_chunk_of_another_store_is_not_taken(tmp_path):
    stored(tmp_path / "other", optimizer=fastbp.SGD(lr=0.3))
    theirs, wanted, more = stored(tmp_path / "store")
    for name in os.listdir(tmp_path / "store"):
        os.unlink(tmp_path / "store" / name)
    for name in os.listdir(tmp_path / "other"):
        if name.startswith("chunk-"):
            shutil.copy(tmp_path / "other" / name, tmp_path / "store")
    mine, trained = made(), []
    with watched(trained):
        assert_same(mine, fit_many(mine, X, Y, store=tmp_path / "store", **more), theirs, wanted)
    assert sorted(trained) == list(range(24))


def test_digests_are_the_same_in_another_process():
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import hashlib, test_cluster as t, fastbp\n"
        "for value in t.digested():\n"
        "    digest = hashlib.sha256(); t.store._digest(digest, value); print(digest.hexdigest())\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    found = []
    for value in digested():
        digest = hashlib.sha256()
        store._digest(digest, value)
        found.append(digest.hexdigest())
    assert told.stdout.split() == found and len(set(found)) == len(found)


def uses_a_set(y, outputs):
    return float(len(y) in {1, 2} or "a" in {"a", "b", "c"})


def digested():
    return [
        {"loss": "mse", "x": 1}, {"loss": "mse", "x": 2}, uses_a_set, mean_of_outputs, fastbp.Adam(),
        fastbp.Adam(lr=0.1), fastbp.Adam(lr=fastbp.schedules.Cosine(0.1, 10)), EarlyStopping(), 1, 1.0, "1", None,
        EarlyStopping(patience=3), np.zeros(3), np.zeros((3, 1)), np.zeros(3, np.float32), {"b", "a"},
        fastbp.losses.TABLE["mae"],
    ]  # fmt: skip


# ------------------------------------------------------------------ estimators


@pytest.mark.usefixtures("one_each")
@pytest.mark.parametrize("name", ["MLPEnsembleRegressor", "GroupedMLPRegressor"])
def test_estimators_of_many_networks_hand_an_executor_on(name):
    pytest.importorskip("sklearn")
    import fastbp.sklearn

    kind = getattr(fastbp.sklearn, name)
    more = {"by": 3} if name.startswith("Grouped") else {"n_estimators": 25, "bootstrap": True, "oob_score": True}
    rows = np.column_stack([X, BY]) if name.startswith("Grouped") else X
    mine, theirs = (kind(**more, hidden_layer_sizes=4, max_iter=3, random_state=0) for _ in range(2))

    class Counts(ThreadPoolExecutor):
        n_sent = 0

        def submit(self, *arguments):
            self.n_sent += 1
            return super().submit(*arguments)

    with Counts(2) as executor:
        mine.fit(rows, Y, executor=executor)
        assert executor.n_sent > 1
    assert np.array_equal(mine.predict(rows), theirs.fit(rows, Y).predict(rows))
    assert "executor" not in str(mine.get_metadata_routing())


# ------------------------------------------------------------------ docs/clusters.md

BEGINNING, *BLOCKS = fenced_blocks((ROOT / "docs" / "clusters.md").read_text())
PROGRAMS = [
    (BEGINNING[2] + block[2], following[2]) for block, following in zip(BLOCKS, BLOCKS[1:]) if block[1] == "python"
]


@pytest.mark.parametrize("program, printed", PROGRAMS, ids=range(len(PROGRAMS)))
def test_the_programs_of_the_page_run(program, printed, tmp_path):
    libraries = {name for name in re.findall(r"^(?:from|import) (\w+)", program, re.M)} - {"fastbp", "numpy"}
    for name in sorted(libraries):
        if name in ("dask_jobqueue", "joblibspark"):  # they need SLURM, and Java
            pytest.importorskip(name)
        needed(name)
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "program.py"]
    if "mpi4py" in libraries:
        if shutil.which("mpiexec") is None:
            missing("mpiexec: apt install openmpi-bin libopenmpi-dev")
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        command = ["mpiexec", *root, "-n", "3", "--oversubscribe", sys.executable, "-m", "mpi4py.futures", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, printed), done.stderr


# ------------------------------------------------------------------ networks as arrays


def test_a_stack_is_what_a_file_of_many_holds(tmp_path):
    from fastbp.many.stacked import Stack

    nets = made(9) + [fastbp.MLP((3, 300, 40, 1), seed=3), fastbp.MLP((3, 4, 1), dtype="float64", bias=False)]
    nets[1].fit(X, Y, steps=5, optimizer=fastbp.Adam(average=0.9))
    nets[2].fit(X, Y, steps=5, optimizer=fastbp.SGD(accumulate=2))
    nets[4].fit(X, Y, epochs=2, optimizer=fastbp.SGD(lr=fastbp.schedules.ReduceOnPlateau(0.1)))
    nets[9].fit(X, Y, steps=3)
    stack = Stack.of(nets)
    assert [frozen(net.__getstate__()) for net in stack.networks()] == [frozen(net.__getstate__()) for net in nets]
    keys = list(range(len(nets)))
    stack.save(str(tmp_path / "stack"), nets, keys)
    fastbp.save_many(dict(zip(keys, nets)), tmp_path / "many")
    assert (tmp_path / "stack").read_bytes() == (tmp_path / "many").read_bytes()


# ------------------------------------------------------------------ the driver


class AtOnce(Executor):
    """A thousand workers that answer at once; how long they take is not the driver's time."""

    _max_workers = 1000

    def __init__(self):
        self.seconds, self.n_tasks = 0.0, 0

    def submit(self, function, *arguments):
        began = time.process_time()
        future = Future()
        future.set_result(function(*arguments))
        self.seconds += time.process_time() - began
        self.n_tasks += 1
        return future


@pytest.mark.serial
def test_the_driver_takes_at_most_20_microseconds_a_network_and_is_flat(monkeypatch):
    monkeypatch.setattr(spread, "_LEAST_SECONDS", 0.02)  # some hundred chunks
    rows, targets = RNG.normal(size=(100, 2)).astype(np.float32), RNG.normal(size=100)
    for left in (2, 1, 0):  # of tries: there may be others at work
        found = [driven(n, rows, targets) for n in (10_000, 30_000)]
        if max(found) < 20 and found[1] < 1.5 * found[0]:
            return
        assert left, f"{found} microseconds of 10,000 and of 30,000 networks"


def driven(n, rows, targets):
    """Microseconds of the driver for each of n networks."""
    nets = [fastbp.MLP((2, 3, 1), seed=k) for k in range(n)]
    executor = AtOnce()
    began = time.process_time()
    history = fit_many(nets, rows, targets, epochs=1, executor=executor)
    seconds = time.process_time() - began - executor.seconds
    assert set(history.status.tolist()) == {"done"} and executor.n_tasks > 3
    return seconds / n * 1e6


def test_chunks_are_of_the_seconds_that_were_asked_for(monkeypatch):
    monkeypatch.undo()
    nets = [fastbp.MLP((3, 30, 30, 1), seed=k) for k in range(400)]
    from fastbp.many.given import Networks
    from fastbp.many.members import Asked

    asked = Asked(Networks(nets), True, None, None, "raise", (), None, "stop")
    members = asked.members_of(X, Y, None, None, "mse", "adam", 32, 100, None, None, None, None, None, None)
    line = spread.Queue(asked, members, np.arange(400), "auto")
    first = line.next(4)
    assert len(first.numbers) < 10  # by a guess of 0.2 seconds
    line.learn(first, 0.1 * len(first.numbers))  # 0.1 seconds a network: 40 in all, 10 a worker
    sizes = []
    while line:
        chunk = line.next(4)
        sizes.append(len(chunk.numbers))
    assert 20 <= sizes[0] <= 25 and sizes[-2] in (2, 3) and sum(sizes) + len(first.numbers) == 400
    line = spread.Queue(asked, members, np.arange(400), "auto")
    first = line.next(1)
    line.learn(first, 1.0 * len(first.numbers))
    assert len(line.next(1).numbers) == 4  # 4 seconds


def test_no_library_of_a_cluster_is_loaded_for_others():
    program = (
        "import sys, numpy as np, fastbp\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "nets = [fastbp.MLP((2, 3, 1), seed=k) for k in range(3)]\n"
        "fastbp.fit_many(nets, np.ones((4, 2)), np.ones(4), epochs=1)\n"
        "assert 'fastbp.many.spread' not in sys.modules\n"
        "fastbp.fit_many(nets, np.ones((4, 2)), np.ones(4), epochs=1, executor=lambda: ThreadPoolExecutor(1))\n"
        "print(*sorted({'joblib', 'distributed', 'dask', 'loky', 'ray', 'mpi4py'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


def test_names_of_executors_tell_how_many_workers_and_threads(monkeypatch):
    monkeypatch.setattr(executors.threads, "requested", lambda *arguments: 8)
    with ThreadPoolExecutor(3) as given:
        engine = executors.engine_of(given, 8)
        assert engine.n_workers() == 3 and engine.n_threads == 2
    engine = executors.engine_of(AtOnce(), 8)
    assert engine.n_workers() == 1000 and engine.n_threads is None


UNGUARDED = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import fastbp

def pool():
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))

fastbp.fit_many([fastbp.MLP((3, 1), seed=k) for k in range(99)], np.ones((8, 3)), np.ones(8), epochs=1, executor=pool)
"""


def test_a_program_without_a_main_guard_is_told_so(tmp_path):
    (tmp_path / "program.py").write_text(UNGUARDED)
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("__main__':`") >= 1
    assert "RuntimeError: ProcessPoolExecutor broke 3 times in a row" in done.stderr


def test_a_function_that_gives_a_pool_which_was_shut_down_is_told_so():
    pool = ThreadPoolExecutor(2)
    pool.shutdown()
    with in_time(), pytest.raises(RuntimeError, match="makes a new executor at each call") as raised:
        fit_many(made(), X, Y, epochs=1, executor=lambda: pool)
    assert "after shutdown" in str(raised.value)


def rated(rate, by_default=False):
    def schedule(step, rate=rate):
        return rate

    return schedule if by_default else lambda step: rate


class Rated:
    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate

    def bound(self, step):
        return self.rate


@pytest.mark.parametrize("make", [
    rated, functools.partial(rated, by_default=True), Rated, lambda rate: Rated(rate).bound,
    lambda rate: functools.partial(lambda step, rate: rate, rate=rate),
])  # fmt: skip
def test_a_store_tells_functions_apart_by_what_they_do(tmp_path, make):
    def trained(rate, nets):
        return fit_many(nets, X, Y, epochs=1, optimizer=fastbp.Adam(lr=make(rate)), store=tmp_path / "store")

    first, again = made(3), made(3)
    trained(0.1, first)
    trained(0.1, again)  # the same function, made anew
    assert [frozen(net.__getstate__()) for net in first] == [frozen(net.__getstate__()) for net in again]
    with pytest.raises(ValueError, match="it differs in optimizer=\\. "):
        trained(0.001, made(3))


def test_metrics_that_call_other_functions_differ(tmp_path):
    def trained(metric):
        fit_many(made(3), X, Y, epochs=1, metrics=[metric], store=tmp_path / "store")

    trained(lambda p, t: np.mean(p - t))
    with pytest.raises(ValueError, match="it differs in metrics=\\. "):
        trained(lambda p, t: np.max(p - t))


class Itself:
    def __init__(self, size):
        self.me, self.size = self, size

    def __call__(self, prediction, target):
        return self.size


def test_an_object_that_holds_itself_and_a_partial_are_the_same_in_another_process(tmp_path):
    program = (
        "import functools, numpy as np, fastbp\nfrom test_cluster import Itself, X, Y, made\n"
        "def met(p, t, k): return k\n"
        "one = functools.partial(met, k=2); one.__name__ = 'one'\n"
        f"fastbp.fit_many(made(3), X, Y, epochs=1, metrics=[Itself(1), one], store={str(tmp_path / 'store')!r})\n"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT / "tests", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def interrupts(prediction, target):
    raise KeyboardInterrupt


@pytest.mark.parametrize("by", ["fit_many", "store", "executor"])
def test_a_keyboard_interrupt_of_a_metric_is_one(tmp_path, by):
    more = {"store": {"store": tmp_path / "store"}, "executor": {"executor": lambda: ThreadPoolExecutor(1)}}.get(by, {})
    with in_time(), pytest.raises(KeyboardInterrupt):
        fit_many(made(3), X, Y, epochs=1, metrics=[interrupts], **more)


def test_after_ctrl_c_no_thread_of_a_pool_trains_on():
    before = threading.active_count()
    with in_time(), ctrl_c(1):
        fit_many(made(2), X, Y, steps=2**60, executor=lambda: ThreadPoolExecutor(1))
    until = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_what_is_no_executor_is_told_so():
    class Gives(ThreadPoolExecutor):
        def submit(self, function, /, *args, **kwargs):
            return None

    with in_time(), pytest.raises((TypeError, RuntimeError), match="which is no Future"):
        fit_many(made(3), X, Y, epochs=1, executor=Gives(1))
