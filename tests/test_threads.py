"""Threads inside one network: the same bits however many, and a pool that is a good guest in its process.

FASTBP_FORCE_THREADS=1 gives small networks threads, more than there are CPUs.
"""

import os
import platform
import sys
import textwrap
import threading

import numpy as np
import pytest
from conftest import every_case
from test_again import in_threads
from test_optimizers import AROUND
from test_process import python

import fastbp
from fastbp import SGD, backends
from fastbp.backends import threads
from fastbp.bench.contenders import WORKLOADS, Problem

pytestmark = pytest.mark.skipif(backends.missing("cython") is not None, reason="threads are the engine's")
COUNTS = (2, 3, 4, 7)
MOMENTUM = SGD(lr=1e-3, momentum=0.9, weight_decay=1e-3)


@pytest.fixture
def forced(monkeypatch):
    """A function that forces a number of threads on every call."""
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    return lambda count: monkeypatch.setenv("FASTBP_NUM_THREADS", str(count))


# ------------------------------------------------------------------ the same bits


def everything(problem, steps):
    """Bytes of all that a network gives: fused and unfused training, forward, evaluation."""
    w, X, y = problem.workload, problem.X, problem.y
    given = {"loss": w.loss}
    rows = 3 * w.batch + 1  # a last batch of one row
    out = []
    for optimizer in (SGD(1e-3), MOMENTUM):
        net = problem.network("cython")
        net.fit(X[:rows], y[:rows], steps=steps, batch_size=w.batch, optimizer=optimizer, **given)
        net.train_step(X[: w.batch], y[: w.batch], optimizer=optimizer, **given)
        out.append(net.flatten())
    a = net.forward(X[: w.batch])
    out += [a, net.backward(np.ones_like(a)), net.backward(-a, accumulate=True), net.grads.copy()]
    net.update(MOMENTUM)
    net.forward(X[: w.batch])
    out += [net.backward_update(a, MOMENTUM), net.flatten(), net.predict(X[:300]), net.predict(X[:1])]
    out += [net.input_gradient(X[:300], 0), *(net.hidden(X[:300], k) for k in range(len(w.sizes) - 2))]
    value, gradient = net.loss_and_grad(X[:300], y[:300], **given)
    out += [np.float64(value), gradient, np.float64(net.evaluate(X[:300], y[:300], **given))]
    return [array.tobytes() for array in out]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_each_cell_gives_the_same_bits_whatever_the_number_of_threads(workload, dtype, forced):
    problem, steps = Problem(workload, dtype.name), 4 if workload.flops < 1e9 else 1
    forced(1)
    alone = everything(problem, steps)
    for count in COUNTS:
        forced(count)
        assert everything(problem, steps) == alone, count


SHAPES = [(5, 33, 2), (70, 130, 65, 3), (129, 257, 33), (300, 128, 40, 1)]


@pytest.mark.parametrize("batch", [1, 2, 24, 25, 67])
@pytest.mark.parametrize("sizes", SHAPES if every_case else SHAPES[1:3], ids=str)
def test_odd_shapes_give_the_same_bits_on_every_isa(sizes, batch, dtype, isa, forced):
    X = np.random.default_rng(0).normal(size=(90, sizes[0])).astype(dtype)
    y = np.random.default_rng(1).normal(size=(90, sizes[-1]))

    def run(count):
        forced(count)
        net = fastbp.MLP(sizes, activation="silu", dtype=dtype, seed=0)
        history = net.fit(X, y, steps=5, batch_size=batch, optimizer=MOMENTUM, sample_weight=np.arange(90))
        net.fit(X, y, steps=2, batch_size=batch)
        return net.flatten().tobytes(), net.predict(X).tobytes(), history.loss.tobytes()

    alone = run(1)
    assert [run(count) for count in COUNTS] == [alone] * len(COUNTS)


@pytest.mark.parametrize("rule", [SGD(0.01), MOMENTUM], ids=["plain", "momentum"])
def test_one_row_with_zeros_gives_the_same_bits_on_threads(rule, dtype, isa, forced):
    """Inputs of 0 are skipped: what is left lies anyhow between the parts."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 300)) * (rng.uniform(size=(20, 300)) < 0.6), rng.normal(size=(20, 65))

    def run(count):
        forced(count)
        net = fastbp.MLP((300, 400, 65), dtype=dtype, seed=0, backend="cython")
        net.fit(X, y, batch_size=1, steps=20, optimizer=rule)
        return net.flatten().tobytes()

    alone = run(1)
    assert [run(count) for count in COUNTS] == [alone] * len(COUNTS)


@pytest.mark.parametrize("around", AROUND)
def test_what_is_done_around_a_rule_gives_the_same_bits_on_threads(around, dtype, isa, forced):
    """In fused steps, in others, and in an update by itself; of a layer that is kept transposed too."""
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(36, 70)), rng.normal(size=(36, 3))

    def run(count):
        forced(count)
        out = []
        for more in ({}, {"accumulate": 2}):
            rule = SGD(0.1, momentum=0.5, **AROUND[around] | more)
            net = fastbp.MLP((70, 131, 3), activation="tanh", seed=1, dtype=dtype, backend="cython")
            net.fit(X, t, optimizer=rule, batch_size=12, steps=6)
            net.update(rule) if rule.accumulate == 1 else None
            out += [net.flatten().tobytes(), net.averaged().flatten().tobytes() if "average" in AROUND[around] else b""]
        return out

    alone = run(1)
    assert [run(count) for count in COUNTS] == [alone] * len(COUNTS)


def test_rounds_with_pauses_give_the_same_bits(forced):
    """A pool that went to sleep is woken, or is not waited for."""
    X = np.random.default_rng(0).normal(size=(64, 100)).astype(np.float32)
    nets = [fastbp.MLP((100, 200, 10), seed=0) for _ in range(2)]
    for _ in range(20):
        for count, net in zip((1, 3), nets):
            forced(count)
            net.fit(X, X[:, :10], steps=5)
            threading.Event().wait(0.003)
    assert nets[0].flatten().tobytes() == nets[1].flatten().tobytes()


def test_networks_that_train_at_once_share_no_more_than_the_pool(forced):
    X = np.random.default_rng(0).normal(size=(64, 100)).astype(np.float32)

    def train(seed):
        net = fastbp.MLP((100, 200, 10), seed=seed)
        net.fit(X, X[:, :10], steps=300)
        return net.flatten().tobytes()

    forced(1)
    alone = [train(seed) for seed in range(6)]
    forced(3)
    found = [None] * 6
    in_threads(lambda k: found.__setitem__(k, train(k)), count=6)
    assert found == alone


# ------------------------------------------------------------------ how many


def explained(capsys, sizes, batch):
    """(forward, backward) threads of each layer, as `explain` prints them."""
    fastbp.MLP(sizes, seed=0).explain(batch)
    lines = capsys.readouterr().out.splitlines()
    column = next(k for k, line in enumerate(lines) if line.startswith("layer"))
    at = lines[column].index("threads")
    return [tuple(map(int, line[at : at + 7].split("/"))) for line in lines[column + 1 :]]


def test_small_phases_stay_on_one_thread(capsys, monkeypatch):
    monkeypatch.setattr(threads, "available_cpus", lambda: 8)
    for name in ("FASTBP_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert explained(capsys, (2, 3, 1), 8) == [(1, 1), (1, 1)]
    assert explained(capsys, (64, 32, 10), 32) == [(1, 1), (1, 1)]
    flops = backends.engine().FLOPS_OF_A_THREAD
    batch = 2 * flops // (2 * 100 * 100)
    assert explained(capsys, (100, 100), batch) == [(2, 2)]
    assert explained(capsys, (100, 100), batch - 1) == [(1, 1)]
    assert explained(capsys, (4, 64, 64, 2), 97) == [(1, 1)] * 3  # one phase alone, of twice what a thread has to do
    assert explained(capsys, (4, 64, 64, 2), 98) == [(1, 1), (2, 4), (1, 1)]
    assert explained(capsys, (1024, 1024, 1024, 10), 512) == [(8, 8), (8, 8), (1, 8)]
    monkeypatch.setenv("FASTBP_NUM_THREADS", "3")
    assert explained(capsys, (1024, 1024), 512) == [(3, 3)]
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    monkeypatch.setenv("FASTBP_NUM_THREADS", "40")
    assert explained(capsys, (1024, 4096), 1) == [(8, 8)]  # blocks of 128 inputs
    assert explained(capsys, (4096, 4096), 64) == [(40, 40)]


def test_more_threads_than_cpus_are_clamped_unless_forced(monkeypatch):
    cpus = threads.available_cpus()
    assert threads.requested(10**6) == cpus
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    assert threads.requested(10**6) == 10**6
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "0")
    assert threads.requested(10**6) == cpus


def test_each_call_reads_the_environment_anew(monkeypatch):
    monkeypatch.setattr(threads, "available_cpus", lambda: 8)
    monkeypatch.delenv("FASTBP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    net = fastbp.MLP((2, 1))
    for _ in range(2):  # what was read before is known the second time
        for ours, openmp, wanted in (("3", "5", 3), (" 04 ", "5", 4), ("", "6,2", 6), ("", "", 8), ("1", "7", 1)):
            monkeypatch.setenv("FASTBP_NUM_THREADS", ours)
            monkeypatch.setenv("OMP_NUM_THREADS", openmp)
            assert threads.requested() == net._plan(8).n_threads == wanted
    monkeypatch.setattr(threads, "available_cpus", lambda: 2)
    monkeypatch.setenv("FASTBP_NUM_THREADS", "3")
    assert threads.requested() == 2
    monkeypatch.setenv("FASTBP_NUM_THREADS", "6,2")  # a list is OpenMP's alone, though this text was read as one above
    with pytest.warns(UserWarning, match="FASTBP_NUM_THREADS='6,2' is not a number of threads"):
        assert threads.requested() == 2
    monkeypatch.setenv("FASTBP_BACKEND", "reference")
    assert net._plan(8).backend == "reference"
    monkeypatch.delenv("FASTBP_BACKEND")
    assert net._plan(8).backend == backends.resolve("auto", net.dtype, [])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this platform")
def test_a_process_has_the_cpus_that_it_is_held_to(monkeypatch):
    monkeypatch.setattr(threads, "_granted_cpus", lambda: 64)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 4, 6})
    assert threads.available_cpus() == threads.requested(5) == 3
    out = python("""
        import os
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
        from fastbp.backends import threads
        print(threads.available_cpus(), threads.requested(5))
    """)
    assert out == "1 1\n"


GROUPS = {  # lines of /proc/self/cgroup, files below /sys/fs/cgroup, CPUs granted or None
    "version 2, no quota": ("0::/", {"cpu.max": "max 100000"}, None),
    "version 2": ("0::/", {"cpu.max": "150000 100000"}, 1),
    "version 2, from above": ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
    "version 2, the least": ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "20000 10000"}, 2),
    "version 2, less than one": ("0::/", {"cpu.max": "50000 100000"}, 1),
    "version 1": ("4:cpu,cpuacct:/x\n3:memory:/x",
                  {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 2),
    "version 1, no quota": ("4:cpu,cpuacct:/",
                            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, None),
    "version 1, another controller's": ("4:cpuset:/", {"cpuset/cpu.cfs_quota_us": "1"}, None),
    "nonsense": ("0::/", {"cpu.max": "many"}, None),
    "no files": ("0::/gone", {}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_the_quota_of_control_groups_is_kept(name, tmp_path):
    lines, files, granted = GROUPS[name]
    (tmp_path / "process").write_text(lines + "\n")
    for file, text in files.items():
        (tmp_path / "root" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / file).write_text(text + "\n")
    found = threads._granted_cpus(str(tmp_path / "root"), str(tmp_path / "process"))
    assert found == (granted or sys.maxsize)


# ------------------------------------------------------------------ the pool in its process

SETUP = """
    import os, sys, threading, time, warnings
    os.environ |= {"FASTBP_FORCE_THREADS": "1", "FASTBP_NUM_THREADS": "3"}
    import numpy as np, fastbp

    X = np.random.default_rng(0).normal(size=(64, 100)).astype(np.float32)
    def train(seed=0, steps=50, **options):
        net = fastbp.MLP((100, 200, 10), seed=seed)
        net.fit(X, X[:, :10], steps=steps, **options)
        return net.flatten().tobytes()
    def workers():
        "Threads of this process that Python does not know; one that has been joined may take a while to be gone."
        def look():
            time.sleep(0.01)
            return len(os.listdir("/proc/self/task")) - threading.active_count()
        return min(look() for _ in range(5))
    def busy():
        "What the threads beside this one have computed, in ticks of 10 ms."
        return sum(int(open(f"/proc/self/task/{task}/stat").read().split(")")[1].split()[11])
                   for task in os.listdir("/proc/self/task") if int(task) != os.getpid())
"""


def run(script, **options):
    return python(textwrap.dedent(SETUP) + textwrap.dedent(script), **{"OPENBLAS_NUM_THREADS": 1} | options)


def test_the_pool_is_lazy_and_as_large_as_asked_for():
    out = run("""
        print(workers())
        train(n_threads=1); print(workers())
        train(n_threads=2); print(workers())
        train(n_threads=2); print(workers())
        train(n_threads=5); print(workers())
        train(n_threads=1); print(workers())
    """)
    assert out.split() == ["0", "0", "1", "1", "4", "4"]


@pytest.mark.skipif(threads.available_cpus() < 2, reason="on one CPU the caller is done before a worker is awake")
def test_workers_sleep_in_a_pause_and_are_woken_for_what_comes_next():
    """Without them the caller would do all of it, to the same bits."""
    out = run("""
        train()
        def asleep():
            before = busy()
            time.sleep(0.1)
            return busy() == before
        slept = any(asleep() for _ in range(50))
        before, end = busy(), time.monotonic() + 10
        while busy() < before + 3 and time.monotonic() < end:
            train(steps=20)
        print(workers(), slept, busy() >= before + 3)
    """)
    assert out == "2 True True\n"


FORKS = {
    "fork": """
        def forked(depth):
            pid = os.fork()
            if pid == 0:
                right = train() == alone and workers() == 2 and (depth == 0 or forked(depth - 1))
                os._exit(0 if right else 1)
            return os.waitpid(pid, 0)[1] == 0
        alone = train()
        print(forked(0), forked(2), train() == alone)
    """,
    "fork inside a kernel": """
        alone = train()
        background = threading.Thread(target=train, kwargs=dict(seed=1, steps=20000))
        background.start()
        right = []
        while background.is_alive() and len(right) < 20:
            pid = os.fork()
            if pid == 0:
                os._exit(0 if train() == alone and workers() == 2 else 1)
            right.append(os.waitpid(pid, 0)[1] == 0)
        background.join()
        print(len(right) > 0, all(right), train() == alone)
    """,
    "fork without handlers": """
        import ctypes, platform, signal
        libc = ctypes.CDLL(None)
        number, *flags = {"x86_64": (57,), "aarch64": (220, signal.SIGCHLD, 0, 0, 0, 0)}[platform.machine()]
        alone = train()
        pid = libc.syscall(number, *map(ctypes.c_long, flags))
        if pid == 0:
            os._exit(0 if train() == alone and workers() == 2 else 1)
        print(pid > 0, os.waitpid(pid, 0)[1] == 0, train() == alone)
    """,
    "fork from a thread": """
        alone, right = train(), []
        def work():
            pid = os.fork()
            if pid == 0:
                os._exit(0 if train() == alone and workers() == 2 else 1)
            right.append(os.waitpid(pid, 0)[1] == 0)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(right == [True] * 3, train() == alone, True)
    """,
}


@pytest.mark.noasan
@pytest.mark.parametrize("how", FORKS)
def test_a_child_trains_after_a_fork(how):
    if how == "fork without handlers" and platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the number of the system call is not known here")
    assert run(FORKS[how], timeout=60, flags=("-W", "ignore::DeprecationWarning")) == "True True True\n"


@pytest.mark.noasan
@pytest.mark.parametrize("how", ["fork", "forkserver", "spawn", "loky"])
def test_processes_of_each_kind_train(how, tmp_path):
    if how == "loky":
        pytest.importorskip("joblib")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SETUP) + textwrap.dedent("""
        if __name__ == "__main__":
            alone = train()
            how = sys.argv[1]
            if how == "loky":
                import joblib
                found = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(train)() for _ in range(4))
            else:
                import multiprocessing
                with multiprocessing.get_context(how).Pool(2) as pool:
                    found = pool.map(train, [0] * 4)
            print(found == [alone] * 4, train() == alone)
    """))
    run_it = f"import runpy, sys; sys.argv = {[str(script), how]}; runpy.run_path(sys.argv[0], run_name='__main__')"
    assert python(run_it, timeout=60, flags=("-W", "ignore::DeprecationWarning")) == "True True\n"


@pytest.mark.noasan
def test_beside_torchs_openmp(peers):
    peers.torch.ones(1)
    assert run("""
        import torch
        torch.set_num_threads(2)
        big = torch.ones(600, 600)
        alone = train()
        big @ big
        right = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if train() == alone else 1)
            right.append(os.waitpid(pid, 0)[1] == 0)
            big @ big
        print(right == [True] * 3, train() == alone)
    """, timeout=60) == "True True\n"


@pytest.mark.noasan
def test_a_thread_that_the_system_refuses_is_done_without():
    """There is no memory left for its stack. All else that a fit needs, the allocator holds already."""
    held = {"ARENA_MAX": 1, "TOP_PAD_": 1 << 24, "TRIM_THRESHOLD_": 1 << 30, "MMAP_THRESHOLD_": 1 << 25}
    out = run("""
        import resource
        alone = train(n_threads=1)
        net = fastbp.MLP((100, 200, 10), seed=0)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 19), -1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            net.fit(X, X[:, :10], steps=25)
            net.fit(X, X[:, :10], steps=25)
        print(workers(), [(w.category.__name__, str(w.message)) for w in caught], net.flatten().tobytes() == alone)
    """, **{"MALLOC_" + name: value for name, value in held.items()})
    assert out.startswith("0 [('RuntimeWarning', 'the system refused to start a thread")
    assert out.endswith("True\n") and out.count("RuntimeWarning") == 1


@pytest.mark.noasan
def test_the_process_ends_while_a_daemon_thread_is_fitting_on_threads():
    run("""
        threading.Thread(target=train, kwargs=dict(steps=10**12), daemon=True).start()
        time.sleep(0.3)
        assert workers() == 2
    """, timeout=20)


@pytest.mark.noasan
def test_tiny_stacks_suffice():
    out = run("""
        alone = train(n_threads=1)
        threading.stack_size(64 << 10)
        found = []
        thread = threading.Thread(target=lambda: found.append(train()))
        thread.start()
        thread.join()
        print(found == [alone], workers())
    """)
    assert out == "True 2\n"


def test_threadpoolctl_sees_the_pool_and_its_limit_holds():
    out = run("""
        import threadpoolctl
        def shown():
            return [info["num_threads"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "fastbp"]
        cpus = fastbp.backends.threads.available_cpus()
        print(shown() == [cpus])
        net = fastbp.MLP((100, 200, 10), seed=0)
        with threadpoolctl.threadpool_limits(1):
            print(shown() == [1])
            train(); net.predict(X); net.fit(X, X[:, :10], steps=5, n_threads=3)
            print(workers() == 0)
        print(shown() == [cpus])
        with threadpoolctl.threadpool_limits({"fastbp": 2}):
            train(n_threads=3)
            print(workers() <= 1)
    """)
    assert out.split() == ["True"] * 5


def test_a_network_planned_before_a_limit_keeps_it():
    out = run("""
        import threadpoolctl
        net = fastbp.MLP((100, 200, 10), seed=0)
        net.train_step(X, X[:, :10])
        net.predict(X)
        net.train_step(X, X[:, :10])     # remembered from here on, with three threads
        started = workers()
        with threadpoolctl.threadpool_limits(1):
            time.sleep(0.05)
            before, end = busy(), time.process_time() + 0.3
            while time.process_time() < end:
                net.train_step(X, X[:, :10])
                net.predict(X)
            print(started, busy() - before)
    """)
    started, ticks = map(int, out.split())
    assert started == 2 and ticks <= 2


def test_joblib_threads_times_ours_stay_within_the_limit():
    pytest.importorskip("joblib")
    out = run("""
        import joblib, threadpoolctl
        with threadpoolctl.threadpool_limits(1):
            found = joblib.Parallel(n_jobs=2, backend="threading")(joblib.delayed(train)(seed) for seed in range(4))
            print(workers())
        print([train(seed) for seed in range(4)] == found)
    """)
    assert out == "0\nTrue\n"


def test_signals_are_for_the_threads_of_python():
    out = run("""
        train()
        masks = []
        for task in os.listdir("/proc/self/task"):
            if int(task) != os.getpid():
                fields = dict(line.split(":\\t") for line in open(f"/proc/self/task/{task}/status") if ":\\t" in line)
                masks.append(int(fields["SigBlk"], 16))
        SIGINT, SIGALRM = 1 << 1, 1 << 13
        print(len(masks), all(mask & SIGINT and mask & SIGALRM for mask in masks))
    """)
    assert out == "2 True\n"


@pytest.mark.parametrize("name", backends._VARIABLES)
def test_a_variable_is_read_again_whenever_it_has_changed(name, monkeypatch):
    others = {other: said for other, said in backends.environment().items() if other != name}
    for text in ("1", "2", "1", "", None, "1"):
        monkeypatch.delenv(name, raising=False) if text is None else monkeypatch.setenv(name, text)
        assert backends.environment() == others | {name: text or ""}
