"""The library as a guest in its process: import, environment, threads, signals, fork, the floating-point unit.

Each risky case runs in an interpreter of its own, so that a crash or a hang is a clean failure.
"""

import contextlib
import copy
import dis
import importlib.metadata
import importlib.util
import itertools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import need_extension
from tolerance import assert_close

import fastbp
from fastbp import schedules

IMPORTED_FROM = str(Path(fastbp.__file__).resolve().parents[1])


def python(script, *arguments, timeout=60, status=0, flags=(), **environment):
    """Run `script` in a fresh interpreter and give what it printed.

    `environment` is added to this process's own (None removes a variable). Another exit status than `status` fails
    with the traceback of Python or faulthandler, a hang with the stack of every thread.
    """
    everything = dict(os.environ)
    paths = [IMPORTED_FROM, everything.get("PYTHONPATH", "")]
    everything["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    for name, value in environment.items():
        everything.pop(name, None)
        if value is not None:
            everything[name] = str(value)
    command = [sys.executable, "-X", "faulthandler", *flags, "-c", textwrap.dedent(script), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=everything, text=True, **pipes) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler prints every thread's stack
            out, err = process.communicate()
            pytest.fail(f"no end after {timeout} s\n{out[-2000:]}\n{err[-6000:]}")
    if process.returncode != status:
        pytest.fail(f"exit status {process.returncode}, {status} wanted\n{out[-2000:]}\n{err[-6000:]}")
    return out


def test_what_the_tests_start_hears_of_ctrl_c_though_they_were_started_in_the_background():
    """As a script does it with `&`: SIGINT ignored, and whatever is started inherits that."""
    assert python("""
        import signal, subprocess, sys
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.path.insert(0, sys.argv[1])
        import conftest
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        child = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        subprocess.run([sys.executable, "-c", child], check=True)
    """, Path(__file__).parent) == "True\n"


# ------------------------------------------------------------------ import


@pytest.mark.serial
@pytest.mark.noasan
def test_import_costs_at_most_30_ms_over_numpy(tmp_path):
    """In processor time, which a busy machine stretches least; with the bytecode that an installation leaves.

    Where a machine is slow, at most half of what NumPy takes: two fifths are usual.
    """
    script = """
        import time
        begin = time.process_time()
        import numpy
        start = time.process_time()
        import fastbp
        print(start - begin, time.process_time() - start)
    """
    cache = {"PYTHONDONTWRITEBYTECODE": None, "PYTHONPYCACHEPREFIX": tmp_path}
    runs = [map(float, python(script, **cache).split()) for _ in range(12)]  # the first writes the bytecode
    numpy_takes, best = map(min, zip(*runs))
    told = f"import fastbp takes {best * 1e3:.1f} ms after numpy, which takes {numpy_takes * 1e3:.1f}"
    assert best < max(0.030, 0.5 * numpy_takes), told


def test_import_loads_nothing_heavy():
    out = python("""
        import sys
        import numpy, numpy.random
        sys.modules["threadpoolctl"] = None   # installed, it is loaded, to be told of the pool: 2 ms
        before = set(sys.modules)
        import fastbp
        print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
    """)
    loaded = set(out.split())
    small = {"fastbp", *"__future__ difflib heapq _heapq dataclasses importlib platform copy zlib".split()}
    loaded -= {name for name in loaded if name.startswith("_cython")}  # what any module of Cython's makes
    assert "fastbp" in loaded
    assert loaded <= small, f"import fastbp also loads {sorted(loaded - small)}"


def test_what_a_plain_run_does_without_is_loaded_on_first_use():
    later = ("own metrics ops plot callbacks gradients inspection bench rows.slopes data.batches training.watch "
             "training.feeds training.lbfgs backends.fastest backends.numba sklearn")  # fmt: skip
    out = python("""
        import sys
        import numpy as np, fastbp
        X = np.ones((8, 3))
        net = fastbp.MLP((3, 2), seed=0)
        net.fit(X, X[:, :2], epochs=2)
        net.predict(X)
        print(*sys.modules)
    """)
    assert "fastbp.training.run" in out.split()
    for name in later.split():
        assert importlib.util.find_spec(f"fastbp.{name}") is not None
        assert f"fastbp.{name}" not in out.split()


def test_import_prints_and_warns_nothing():
    assert python("import fastbp", flags=("-W", "error", "-b")) == ""


# ------------------------------------------------------------------ environment variables

FIRST_USE = """
    import warnings, numpy as np, fastbp
    net = fastbp.MLP((2, 3, 1), seed=0, backend={own!r})
    X = np.ones((4, 2), np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            try:
                net.fit(X, X[:, :1], epochs=1)
            except RuntimeError as error:
                print("RuntimeError", error)
    for warning in caught:
        print(warning.category.__name__, warning.message)
    print("steps", net.step)
"""


def test_an_unknown_backend_in_the_environment_is_an_error_at_first_use_that_names_what_exists():
    out = python(FIRST_USE.format(own="auto"), FASTBP_BACKEND="nonsense", FASTBP_ISA=None)
    assert out.count("RuntimeError") == 3 and "nonsense" in out and "reference" in out
    assert out.endswith("steps 0\n")


def test_an_unknown_isa_in_the_environment_is_an_error_at_first_use_that_names_what_exists():
    need_extension()
    out = python(FIRST_USE.format(own="cython"), FASTBP_ISA="nonsense", FASTBP_BACKEND=None)
    from fastbp import _engine

    assert out.count("RuntimeError") == 3 and "nonsense" in out
    assert all(isa in out for isa in _engine.isas_found())
    assert out.endswith("steps 0\n")


def test_a_forced_isa_does_not_concern_the_reference():
    assert python(FIRST_USE.format(own="reference"), FASTBP_ISA="nonsense") == "steps 3\n"


@pytest.mark.parametrize("name, value", [
    *itertools.product(["FASTBP_NUM_THREADS", "OMP_NUM_THREADS"], ["0", "-1", "x", "1.5", "²", "1,x"]),
    ("FASTBP_NUM_THREADS", "1,2"), ("OMP_NUM_THREADS", "1,0"), ("OMP_NUM_THREADS", "1,"), ("OMP_NUM_THREADS", ",1"),
])  # fmt: skip
def test_a_nonsense_number_of_threads_is_ignored_with_one_warning(name, value):
    others = dict.fromkeys(("FASTBP_NUM_THREADS", "OMP_NUM_THREADS", "FASTBP_BACKEND"))
    out = python(FIRST_USE.format(own="auto"), **others | {name: value}).splitlines()
    assert len(out) == 2 and out[0].startswith("UserWarning") and name in out[0] and out[1] == "steps 3"


@pytest.mark.parametrize("value", ["1", " 2 ", "999999", ""])
def test_a_number_of_threads_in_the_environment_is_taken_without_a_word(value):
    assert python(FIRST_USE.format(own="auto"), FASTBP_NUM_THREADS=value) == "steps 3\n"


def test_threads_come_from_the_argument_then_the_environment_then_the_cpus():
    out = python("""
        import os
        from fastbp.backends import threads
        cpus = len(os.sched_getaffinity(0))
        print(threads.requested() == cpus, threads.requested(1) == 1, threads.requested(10**6) == cpus)
        os.environ["OMP_NUM_THREADS"] = "1"
        print(threads.requested() == 1, threads.requested(10**6) == cpus)
        os.environ["OMP_NUM_THREADS"] = "1,9999"
        print(threads.requested() == 1)
        os.environ["FASTBP_NUM_THREADS"] = "9999"
        print(threads.requested() == cpus)
    """, FASTBP_NUM_THREADS=None, OMP_NUM_THREADS=None)  # fmt: skip
    assert set(out.split()) == {"True"}


@pytest.mark.parametrize("value, first", [("4,3,2", 4), (" 2 , 1 ", 2), ("1,1", 1)])
def test_of_a_list_of_omp_num_threads_the_first_number_counts(value, first):
    """OpenMP has one for each level of nesting. Under `-W error`, where a warning would be an error."""
    out = python("""
        import warnings
        warnings.simplefilter("error")
        from fastbp.backends import threads
        threads.available_cpus = lambda: 64
        print(threads.requested())
    """, FASTBP_NUM_THREADS=None, OMP_NUM_THREADS=value)  # fmt: skip
    assert out == f"{first}\n"


# ------------------------------------------------------------------ which backend


def test_the_backend_is_the_networks_own_then_the_contexts_then_the_processs_then_the_environments():
    """A float16 network tells which backend a call resolves to: only the reference has that dtype."""
    out = python("""
        import contextlib, itertools, os
        import numpy as np, fastbp

        X = np.ones((1, 2))
        wrong = []
        for names in itertools.product(("auto", "reference", "cython"), repeat=4):
            own, context, process, environment = names
            fastbp.set_backend(process)
            os.environ["FASTBP_BACKEND"] = environment
            wanted = next((name for name in names if name != "auto"), "auto")
            net = fastbp.MLP((2, 1), dtype=np.float16, backend=own, seed=0)
            with fastbp.backend(context):
                try:
                    net.predict(X)
                    found = "reference or auto"
                except RuntimeError as error:
                    assert "reference" in str(error) and "cython" in str(error), error
                    found = "cython"
            if (found == "cython") != (wanted == "cython"):
                wrong.append((names, found))
        print(wrong)
    """)
    assert out == "[]\n"


def test_a_backend_context_ends_with_its_block_also_by_an_error_and_may_be_nested():
    out = python("""
        import numpy as np, fastbp

        net = fastbp.MLP((2, 1), dtype=np.float16, seed=0)
        def works():
            try:
                return net.predict(np.ones((1, 2))).shape == (1, 1)
            except RuntimeError:
                return False
        try:
            with fastbp.backend("cython"):
                print(works() is False)
                with fastbp.backend("reference"):
                    print(works())
                print(works() is False)
                raise KeyError
        except KeyError:
            print(works())
    """)
    assert out.split() == ["True"] * 4


def test_a_backend_context_holds_for_its_own_thread_alone():
    out = python("""
        import threading
        import numpy as np, fastbp

        net = fastbp.MLP((2, 1), dtype=np.float16, seed=0)
        def look():
            try:
                net.predict(np.ones((1, 2)))
                seen.append("reference")
            except RuntimeError:
                seen.append("cython")
        seen = []
        with fastbp.backend("cython"):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            look()
        print(*seen)
    """)
    assert out == "reference cython\n"


@pytest.mark.parametrize(
    "call", [lambda: fastbp.set_backend("refrence"), lambda: fastbp.backend("refrence").__enter__()]
)
def test_a_misspelt_backend_is_refused_with_the_nearest_name(call):
    with pytest.raises(ValueError, match="backend.*did you mean 'reference'"):
        call()


def test_show_config_tells_versions_threads_and_backends(capsys):
    try:
        version = importlib.metadata.version("fastbp")
    except importlib.metadata.PackageNotFoundError:  # a source tree on the path
        version = "unknown: its metadata were not found"
    fastbp.show_config()
    out = capsys.readouterr().out
    for word in (version, np.__version__, "threads", "cpus", "backend cython", "backend reference", "backend used"):
        assert word in out
    if fastbp.backends.engine() is not None:
        for word in ("compiler", "isa built", "isa found", "isa used"):
            assert word in out


def test_show_config_tells_which_backend_is_used(monkeypatch):
    with fastbp.backend("reference"):
        assert fastbp.backends.config.config()["backend used"] == "reference"
    monkeypatch.setenv("FASTBP_BACKEND", "nonsense")
    used = fastbp.backends.config.config()["backend used"]
    assert used.startswith("none: backend 'nonsense': no such backend; there is: ")


# ------------------------------------------------------------------ the floating-point unit

FLOATING_POINT = """
    import ctypes, threading

    libm = ctypes.CDLL("libm.so.6")

    def control():
        "MXCSR without its exception flags, and the rounding mode (x86-64 glibc keeps MXCSR at byte 28 of fenv_t)."
        environment = (ctypes.c_uint8 * 64)()
        libm.fegetenv(environment)
        return int.from_bytes(bytes(environment[28:32]), "little") & ~0x3F, libm.fegetround()

    def set_control(word):
        environment = (ctypes.c_uint8 * 64)()
        libm.fegetenv(environment)
        environment[28:32] = word.to_bytes(4, "little")
        libm.fesetenv(environment)

    tiny = 5e-324
    def seen():
        "What a thread sees: control word, and a subnormal that flushing would lose."
        return control(), tiny * 3, 2.2250738585072014e-308 / 4

    def in_thread(function):
        result = []
        thread = threading.Thread(target=lambda: result.append(function()))
        thread.start()
        thread.join()
        return result[0]
"""
on_linux_x86 = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.uname().machine != "x86_64", reason="reads MXCSR by way of glibc"
)


@on_linux_x86
def test_import_and_calls_leave_the_floating_point_unit_alone_in_old_and_new_threads(backend):
    out = python(textwrap.dedent(FLOATING_POINT) + textwrap.dedent("""
        import queue, sys
        import numpy as np

        tasks, results = queue.Queue(), queue.Queue()
        old = threading.Thread(target=lambda: [results.put(tasks.get()()) for _ in range(4)], daemon=True)
        old.start()
        def in_old(function):
            tasks.put(function)
            return results.get()

        clean = seen()
        assert clean[1] > 0 and clean[2] > 0 and in_old(seen) == clean

        import fastbp
        print("import", seen() == clean, in_old(seen) == clean, in_thread(seen) == clean)

        def work():
            net = fastbp.MLP((5, 9, 3), seed=0, backend=sys.argv[1])
            X = np.full((20, 5), 1e-40, np.float32)    # subnormal input
            net.fit(X, X[:, :3], epochs=3, optimizer=fastbp.SGD(lr=0.1, momentum=0.9))
            net.predict(X)
            net.evaluate(X, X[:, :3], loss="mse")
            net.loss_and_grad(X, X[:, :3], loss="mse")
            net.forward(X)
            net.backward(X[:, :3])
            net.update("sgd")
            net.forward(X)
            net.backward_update(X[:, :3], "sgd")
            return seen()
        print("calls", work() == clean, in_old(work) == clean, in_thread(work) == clean, in_thread(seen) == clean)
        assert np.finfo(np.float32).smallest_subnormal > 0
        print("after", seen() == clean, in_old(seen) == clean)
    """), backend)  # fmt: skip
    assert "False" not in out and out.count("True") == 9


@on_linux_x86
@pytest.mark.parametrize("word", [0x1F80 | 0x8040, 0x1F80 | 0x4000], ids=["flushing", "rounding up"])
def test_the_callers_floating_point_mode_is_as_before_after_every_call(backend, word):
    out = python(textwrap.dedent(FLOATING_POINT) + textwrap.dedent("""
        import sys
        import numpy as np, fastbp

        net = fastbp.MLP((5, 9, 3), seed=0, backend=sys.argv[1])
        X = np.ones((20, 5), np.float32)
        y = X[:, :3]
        calls = (lambda: net.fit(X, y, epochs=3), lambda: net.predict(X), lambda: net.evaluate(X, y, loss="mse"),
                 lambda: net.loss_and_grad(X, y, loss="mse"), lambda: net.train_step(X, y),
                 lambda: net.backward(np.ones_like(net.forward(X)[:, :3])), lambda: net.update("sgd"),
                 lambda: net.hidden(X), lambda: net.input_gradient(X, 0))
        set_control(int(sys.argv[2]))
        wanted = control()
        after = []
        for call in calls:
            call()
            after.append(control())
        set_control(0x1F80)
        assert wanted != control()
        print(*(found == wanted for found in after))
    """), backend, word)  # fmt: skip
    assert out.split() == ["True"] * 9


# ------------------------------------------------------------------ threads

THREADS = """
    import sys, threading
    import numpy as np, fastbp

    def in_threads(count, function):
        "function(0), ..., function(count - 1), all at once; their results in order."
        results, barrier = [None] * count, threading.Barrier(count)
        def one(k):
            barrier.wait()
            results[k] = function(k)
        threads = [threading.Thread(target=one, args=(k,)) for k in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    sys.setswitchinterval(1e-6)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 7)).astype(np.float32)
    y = rng.normal(size=(100, 3)).astype(np.float32)
"""


def test_16_threads_with_their_own_networks_train_bitwise_as_one_after_the_other(backend):
    out = python(textwrap.dedent(THREADS) + textwrap.dedent("""
        def work(k):
            width = 33 if sys.argv[1] == "numba" else 5   # narrow ones it would compile one by one
            net = fastbp.MLP((7, width + k, 3), activation="tanh", seed=k, backend=sys.argv[1])
            history = net.fit(X, y, batch_size=9, steps=150, optimizer=fastbp.SGD(lr=0.05, momentum=0.9))
            return net.flatten().tobytes() + history.loss.tobytes() + net.predict(X).tobytes()
        serial = [work(k) for k in range(16)]
        print(all(in_threads(16, work) == serial for _ in range(3)), len(set(serial)))
    """), backend)  # fmt: skip
    assert out == "True 16\n"


def test_16_threads_look_at_one_network_as_one_does(backend):
    out = python(textwrap.dedent(THREADS) + textwrap.dedent("""
        net = fastbp.MLP((7, 33, 3), seed=1, backend=sys.argv[1])
        def work(k):
            part = slice(k, 40 + 3 * k)
            value, gradient = net.loss_and_grad(X[part], y[part], loss="mse")
            return [net.predict(X[part]).tobytes(), net.evaluate(X[part], y[part], loss="mse"), value,
                    gradient.tobytes(), net.hidden(X[part]).tobytes(), net.input_gradient(X[part], k % 3).tobytes()]
        serial = [work(k) for k in range(16)]
        print(all(in_threads(16, lambda k: [work(k) for _ in range(10)]) == [[one] * 10 for one in serial]
                  for _ in range(3)))
    """), backend)  # fmt: skip
    assert out == "True\n"


def test_one_may_look_at_a_network_that_is_training_in_another_thread(backend):
    out = python(textwrap.dedent(THREADS) + textwrap.dedent("""
        net = fastbp.MLP((7, 33, 3), seed=1, backend=sys.argv[1])
        net.fit(X, y, steps=1)  # compiles what there is to: Python code, which the loop below may keep off the GIL
        finite, calls = True, 0
        def train():
            net.fit(X, y, steps=3000)
            while calls < 20:
                net.fit(X, y, steps=3000)
        trainer = threading.Thread(target=train)
        trainer.start()
        while trainer.is_alive():
            for found in (net.predict(X), net.hidden(X), net.input_gradient(X, 1)):
                finite &= bool(np.isfinite(found).all())
            calls += 1
        trainer.join()
        twin = fastbp.MLP((7, 33, 3), seed=1, backend=sys.argv[1])
        twin.fit(X, y, steps=net.step)
        print(finite, net.flatten().tobytes() == twin.flatten().tobytes())
    """), backend)  # fmt: skip
    assert out == "True True\n"


def test_a_caller_who_writes_into_x_during_a_fit_crashes_nothing(backend):
    out = python(textwrap.dedent(THREADS) + textwrap.dedent("""
        net = fastbp.MLP((7, 33, 3), seed=1, backend=sys.argv[1])
        trainer = threading.Thread(target=net.fit, args=(X, y), kwargs=dict(steps=2000))
        trainer.start()
        while trainer.is_alive():
            X[:] = np.roll(X, 1, axis=0)
        trainer.join()
        print(net.step, np.isfinite(net.flatten()).all())
    """), backend)  # fmt: skip
    assert out == "2000 True\n"


@pytest.mark.serial
@pytest.mark.noasan
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a core for the counter")
@pytest.mark.parametrize("sizes, batch", [((2, 3, 1), 8), ((256, 256, 256), 128)], ids=["tiny", "wide"])
def test_a_python_thread_keeps_80_percent_of_its_rate_during_a_fit(sizes, batch):
    """Its rate beside a thread that never holds the GIL (a key derivation), in short windows by turns.

    So a machine that is busy otherwise takes as much from the one as from the other.
    """
    need_extension()
    script = """
        import hashlib, statistics, sys, threading, time
        import numpy as np, fastbp

        sizes, batch, backend = eval(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
        net = fastbp.MLP(sizes, seed=0, backend=backend)
        X, y = np.ones((4 * batch, sizes[0]), np.float32), np.ones((4 * batch, sizes[-1]), np.float32)
        def fit(steps):
            net.fit(X, y, batch_size=batch, steps=steps, n_threads=1)
        def derive(rounds):
            hashlib.pbkdf2_hmac("sha256", b"word", b"salt", rounds)
        def amount(function):
            "What takes 0.1 seconds of processor time."
            few = 5
            while True:
                clock = time.process_time()
                function(few)
                took = time.process_time() - clock
                if took > 0.01:
                    return int(few * 0.1 / took) + 1
                few *= 4

        def rate(function, argument):
            "Counts a second while function(argument) runs in another thread."
            thread = threading.Thread(target=function, args=(argument,))
            count, clock = 0, time.perf_counter()
            thread.start()
            while thread.is_alive():
                for _ in range(1000):
                    count += 1
            return count / (time.perf_counter() - clock)

        fit(5)
        steps, rounds = amount(fit), amount(derive)
        wanted, kept = zip(*((rate(derive, rounds), rate(fit, steps)) for _ in range(9)))
        print(statistics.median(kept) / statistics.median(wanted))
    """
    shares = []
    while not shares or shares[-1] < 0.8:
        if len(shares) == 3:
            pytest.fail(f"the counter kept {max(shares):.0%} of its rate at best")
        shares.append(float(python(script, sizes, batch, "cython")))


# ------------------------------------------------------------------ Ctrl-C

INTERRUPTED = """
    import os, signal, sys, threading, time
    import numpy as np, fastbp

    sizes, batch, backend, delay = eval(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    net = fastbp.MLP(sizes, seed=0, backend=backend)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3 * batch, sizes[0])).astype(np.float32)
    y = X[:, :sizes[-1]] * 0.1
    rule = fastbp.SGD(lr=1e-4, momentum=0.5)
    net.fit(X, y, batch_size=batch, steps=1, optimizer=rule)
    clock = time.perf_counter()
    net.fit(X, y, batch_size=batch, steps=2, optimizer=rule)
    one_step = (time.perf_counter() - clock) / 2
    start = net.step
    twin = fastbp.MLP(sizes, seed=0, backend=backend)

    begin = threading.Event()   # a busy machine may take longer than the delay to start a thread
    def interrupt():
        global sent
        begin.wait()
        time.sleep(delay)
        sent = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    try:
        begin.set()
        net.fit(X, y, batch_size=batch, steps=10**12, optimizer=rule)
    except KeyboardInterrupt:
        waited = time.perf_counter() - sent
    else:
        sys.exit("no KeyboardInterrupt")
    print(waited, one_step)

    # finite, of a finished step, and usable: the lock is released and training goes on
    done = net.step
    assert np.isfinite(net.flatten()).all() and np.isfinite(net.predict(X)).all()
    if done * one_step < 3:
        twin.fit(X, y, batch_size=batch, steps=done, optimizer=rule)
        assert twin.flatten().tobytes() == net.flatten().tobytes(), "not the parameters of a finished step"
        net.fit(X, y, batch_size=batch, steps=3, optimizer=rule)
        twin.fit(X, y, batch_size=batch, steps=3, optimizer=rule)
        assert twin.flatten().tobytes() == net.flatten().tobytes(), "training goes on elsewhere"
    else:
        net.fit(X, y, batch_size=batch, steps=3, optimizer=rule)
    assert net.step == done + 3 and np.isfinite(net.flatten()).all()
"""
INTERRUPTED_RUNS = {  # sizes, batch, seconds into the fit
    "tiny, at once": ((2, 3, 1), 8, 0.002),
    "tiny, soon": ((2, 3, 1), 8, 0.13),
    "tiny, later": ((2, 3, 1), 8, 0.7),
    "steps of milliseconds, at once": ((256, 256, 256), 256, 0.002),
    "steps of milliseconds, later": ((256, 256, 256), 256, 0.7),
    "steps longer than a chunk": ((1024, 1024, 1024), 512, 0.13),
}


@pytest.mark.serial
@pytest.mark.noasan
@pytest.mark.parametrize("run", INTERRUPTED_RUNS)
def test_ctrl_c_stops_within_250_ms_or_one_step_and_leaves_a_finished_step(backend, run):
    sizes, batch, delay = INTERRUPTED_RUNS[run]
    late = []
    for _ in range(3):
        waited, one_step = map(float, python(INTERRUPTED, sizes, batch, backend, delay).split())
        if waited < max(0.25, 1.5 * one_step):
            return
        late.append(f"{waited:.3f} s with steps of {one_step:.3f} s")
    pytest.fail("; ".join(late))


@pytest.mark.slow
@pytest.mark.noasan
def test_ctrl_c_at_many_moments_always_leaves_a_finished_step(backend):
    out = python("""
        import os, random, signal, sys, threading, time
        import numpy as np, fastbp

        X = np.random.default_rng(0).normal(size=(40, 3))
        net = fastbp.MLP((3, 4, 2), activation="tanh", dtype=np.float64, seed=3, backend=sys.argv[1])
        rule = fastbp.SGD(lr=1e-3, momentum=0.5)
        def arguments(steps):
            return dict(batch_size=8, steps=steps, optimizer=rule)
        fastbp.MLP((3, 4, 2), activation="tanh", dtype=np.float64, backend=sys.argv[1]).fit(
            X, X[:, :2], **arguments(1))   # an import or a compilation that is broken off is not what is tested
        random.seed(0)
        stops = 0
        for k in range(60):
            timer = threading.Timer(random.uniform(0, 0.02), os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                net.fit(X, X[:, :2], **arguments(10**12))
            except KeyboardInterrupt:
                stops += 1
            timer.join()
        twin = fastbp.MLP((3, 4, 2), activation="tanh", dtype=np.float64, seed=3, backend=sys.argv[1])
        twin.fit(X, X[:, :2], **arguments(net.step))
        print(stops, net.epoch == twin.epoch, np.abs(twin.flatten() - net.flatten()).max())
    """, backend, timeout=120)  # fmt: skip
    stops, same_epoch, difference = out.split()
    assert (stops, same_epoch) == ("60", "True")
    # Half a step would be off by some 1e-4. The engine's bits are its own; NumPy's products promise none.
    if backend == "cython":
        assert float(difference) == 0, difference
    assert_close(float(difference), 0.0, np.float64, scale=1)


def where_signals_are_served(do, call):
    """`call()`, with `do()` wherever Python would serve a signal in this thread: at the start of a function, before a
    jump backwards, and after a call. (Between other bytecodes it does not look.)
    """
    codes, last = {}, {}

    def trace(frame, event, argument):
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call":
            do()
        elif event == "opcode":
            code = codes.setdefault(frame.f_code, frame.f_code.co_code)
            name = dis.opname[code[frame.f_lasti]]
            if name == "JUMP_BACKWARD" or last.get(id(frame), "").startswith("CALL"):
                do()
            last[id(frame)] = name  # not the frame, which would keep alive what the exception of `do` lets go
        elif event == "return":
            last.pop(id(frame), None)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("fails", [False, True], ids=["to the end", "to a parameter that overflows"])
def test_wherever_a_signal_may_be_served_the_network_is_at_a_finished_step(backend, fails):
    """Parameters, slots, step and place belong together, also on the way back to the last finite step."""
    X = np.zeros((5, 2)) if fails else np.random.default_rng(0).normal(size=(5, 2))
    rule = fastbp.SGD(lr=1.0, momentum=0.5, weight_decay=9.0) if fails else fastbp.SGD(lr=0.1, momentum=0.5)
    net, twin = (fastbp.MLP((2, 3, 1), init="zeros" if fails else "he_normal", seed=4, backend=backend) for _ in "ab")

    def state(one):
        return pickle.dumps(one.__getstate__())

    def fit(one, steps, **options):
        one.fit(X, X[:, :1], batch_size=2, steps=steps, optimizer=rule, **options)

    for one in (net, twin):
        fit(one, 1)
        if fails:
            one.weights[0][0, 0] = 1e36  # its decay lets it overflow in the third step from here
    finished = [state(twin)]
    for _ in range(5):
        fit(twin, 1, nonfinite="ignore")
        finished.append(state(twin))

    def call():
        with pytest.raises(fastbp.NonFiniteError) if fails else contextlib.nullcontext():
            fit(net, 5)

    seen = set()
    where_signals_are_served(lambda: seen.add(state(net)), call)
    assert seen <= set(finished)
    assert state(net) == finished[2 if fails else 5] and len(set(finished)) == 6
    if backend == "reference":
        assert seen >= set(finished[: 4 if fails else 6])  # the trace sees every step of Python's


@pytest.mark.noasan
def test_a_signal_comes_before_all_that_is_assigned_or_after_it():
    """The trace above sees bytecode only; NumPy's C code may serve signals too, as it does when it converts a tuple."""
    out = python("""
        import signal, time
        import numpy as np
        from fastbp.backends.protocol import assign

        places = list(np.zeros((100_000, 2), np.int64))
        def run(k):
            assign(places, [(k, k)] * len(places))
        run(0)
        clock = time.perf_counter()
        run(0)
        whole = time.perf_counter() - clock
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        interrupted = 0
        for k in range(1, 41):
            try:
                signal.setitimer(signal.ITIMER_REAL, whole * k / 40)
                run(k)
                time.sleep(2 * whole)  # the machine was quicker this time
            except KeyboardInterrupt:
                pass
            seen = set(np.ravel(places).tolist())
            assert len(seen) == 1, f"{seen} at once"
            interrupted += seen != {k}
        print(interrupted)
    """)  # fmt: skip
    assert 0 < int(out), "no signal came before the end"


def interrupted(call, error=KeyboardInterrupt):
    """Yields the number of each moment in turn at which a signal raises `error` in `call`, once that has ended.

    Where it comes out, in the `except` block: the traceback, and what it keeps alive, are there. (In a finaliser it is
    printed only.)
    """
    left = moment = 0

    def interrupt():
        nonlocal left
        left -= 1
        if left == 0:
            raise error

    while left <= 0:
        left = moment = moment + 1
        try:
            where_signals_are_served(interrupt, call)
        except error:
            yield moment
        else:
            if left <= 0:
                yield moment
    assert moment > 5, "nothing was interrupted"


def wait_until(true, seconds=5):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


TRAINED_BY = {
    "fit": lambda net, X, y: net.fit(X, y, batch_size=4, steps=1),
    "fit of batches": lambda net, X, y: net.fit([(X, y)], steps=1),
    "train_step": lambda net, X, y: net.train_step(X, y),
    "update": lambda net, X, y: net.update(),
    "backward_update": lambda net, X, y: net.backward_update(net.forward(X)),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised as a generator is closed
@pytest.mark.parametrize("verb", TRAINED_BY)
def test_wherever_a_signal_interrupts_a_verb_the_network_is_not_locked(backend, verb):
    """KeyboardInterrupt at each moment in turn, until a run of the verb has no more of them."""
    X = np.random.default_rng(0).normal(size=(10, 2))
    net, other = (fastbp.MLP((2, 3, 1), seed=4, backend=backend) for _ in range(2))
    TRAINED_BY[verb](other, X, X[:, :1])  # Numba imports itself, and does not survive a signal meanwhile
    moment = 0
    for moment in interrupted(lambda: TRAINED_BY[verb](net, X, X[:, :1])):
        assert not net._training.locked(), f"interrupted at moment {moment}"
    assert moment > 50
    before = net.step
    TRAINED_BY[verb](net, X, X[:, :1])
    assert net.step > before
    wait_until(lambda: not any(thread.name == "fastbp batches" for thread in threading.enumerate()))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_wherever_a_signal_interrupts_fit_many_all_networks_are_whole_and_nothing_is_left(n_threads, monkeypatch):
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    X = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    nets = [fastbp.MLP((2, 3, 1), seed=seed) for seed in range(3)]
    call = lambda: fastbp.fit_many(nets, X, X[:, 0], steps=1, n_threads=n_threads)  # noqa: E731
    call()
    moment = 0
    for moment in interrupted(call):
        assert not any(net._training.locked() for net in nets), f"interrupted at moment {moment}"
        assert not [thread for thread in threading.enumerate() if thread.name == "fastbp fit_many"]
    assert moment > 50
    before = [net.step for net in nets]
    call()
    assert [net.step for net in nets] == [step + 1 for step in before]


def on_plateau(net, X, y):
    rule = fastbp.SGD(schedules.ReduceOnPlateau(0.1, patience=0), momentum=0.5)
    net.fit(X, y, batch_size=10, steps=1, optimizer=rule)


MADE_WHOLE_BY = {  # each makes one step, or none
    "fit on a plateau": on_plateau,
    "train_step, another loss": lambda net, X, y: net.train_step(X, y > 0, loss="binary_cross_entropy"),
    "update, another family": lambda net, X, y: (net.backward(net.forward(X)), net.update("adam")),
    "backward_update, another family": lambda net, X, y: net.backward_update(net.forward(X), "adam"),
    "unflatten": lambda net, X, y: net.unflatten(np.ones(net.n_params)),
    "reset_training": lambda net, X, y: net.reset_training(),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised as a generator is closed
@pytest.mark.parametrize("verb", MADE_WHOLE_BY)
def test_wherever_a_signal_interrupts_a_verb_all_of_it_is_done_or_nothing(backend, verb):
    X = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    y, call = X[:, :1], MADE_WHOLE_BY[verb]
    made = fastbp.MLP((2, 3, 1), seed=4, backend=backend)
    on_plateau(made, X, y)
    on_plateau(made, X, y)

    def state(net):
        return repr(net._state.to_dict()), net.flatten().tobytes()  # few parameters: `repr` shows all

    after = copy.copy(made)
    call(after, X, y)
    whole = {state(made), state(after)}
    nets = [copy.copy(made)]
    for moment in interrupted(lambda: call(nets[-1], X, y)):
        assert state(nets[-1]) in whole, f"interrupted at moment {moment}"
        nets[:] = [copy.copy(made)]
    assert state(nets[-1]) == state(after)


def test_wherever_a_signal_interrupts_a_save_one_of_the_two_files_is_there_and_nothing_else(tmp_path):
    old, new = (fastbp.MLP((2, 3, 1), seed=seed) for seed in (0, 4))
    path = tmp_path / "net"
    old.save(path)
    for moment in interrupted(lambda: new.save(path)):
        assert os.listdir(tmp_path) == ["net"], f"interrupted at moment {moment}"
        assert fastbp.load(path).seed in (old.seed, new.seed)
        old.save(path)


def test_a_forward_is_pending_again_only_where_its_step_was_not_made(backend):
    net, X = fastbp.MLP((2, 3, 1), seed=4, backend=backend), np.ones((4, 2))
    net.backward_update(net.forward(X))
    step = net.step
    net.forward(X)
    for _ in interrupted(lambda: net.backward_update(np.ones((4, 1))), RuntimeError):
        assert bool(net._pending) == (net.step == step)
        step = net.step
        net.forward(X)


@pytest.mark.noasan
def test_a_python_signal_handler_runs_during_a_fit_and_its_exception_comes_out(backend):
    out = python("""
        import signal, sys, time
        import numpy as np, fastbp

        def handler(number, frame):
            raise LookupError("from the handler")
        signal.signal(signal.SIGALRM, handler)
        net = fastbp.MLP((2, 3, 1), seed=0, backend=sys.argv[1])
        X = np.ones((8, 2), np.float32)
        net.fit(X, X[:, :1], steps=1)   # imports and compiles what there is to
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            net.fit(X, X[:, :1], steps=10**12)
        except LookupError as error:
            print(error)
        net.fit(X, X[:, :1], steps=1)
    """, backend)  # fmt: skip
    assert out == "from the handler\n"


@pytest.mark.noasan
def test_the_interpreter_exits_while_a_daemon_thread_is_fitting(backend):
    python("""
        import sys, threading, time
        import numpy as np, fastbp

        net = fastbp.MLP((64, 64, 1), seed=0, backend=sys.argv[1])
        X = np.ones((64, 64), np.float32)
        threading.Thread(target=net.fit, args=(X, X[:, :1]), kwargs=dict(steps=10**12), daemon=True).start()
        time.sleep(0.2)
    """, backend, timeout=20)  # fmt: skip


# ------------------------------------------------------------------ fork

FORKED = """
    import os, signal, sys, threading, time
    import numpy as np, fastbp

    def build(seed):
        return fastbp.MLP((300, 300, 10), seed=seed, backend=sys.argv[1])
    rng = np.random.default_rng(0)
    X = rng.normal(size=(128, 300)).astype(np.float32)
    y = X[:, :10]
    def digest(net):
        net.fit(X, y, batch_size=64, epochs=2, optimizer=fastbp.SGD(lr=0.01, momentum=0.9))
        return net.flatten().tobytes() + net.predict(X).tobytes()

    def in_child(function, seconds=20):
        "function() in a forked child: True if it returns true in time."
        pid = os.fork()
        if pid == 0:
            signal.alarm(seconds)
            os._exit(0 if function() else 1)
        return os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_after_a_fit_fits_the_same(backend):
    out = python(textwrap.dedent(FORKED) + textwrap.dedent("""
        wanted = digest(build(1))
        used = build(2)
        twin = build(2)
        digest(used), digest(twin)
        goes_on = digest(twin)
        print(in_child(lambda: digest(build(1)) == wanted))          # a new network
        print(in_child(lambda: digest(used) == goes_on))             # one with programs of the parent
        print(in_child(lambda: in_child(lambda: digest(build(1)) == wanted)))   # a child's child
        print(digest(used) == goes_on)                               # and the parent goes on
    """), backend)  # fmt: skip
    assert out.split() == ["True"] * 4


def test_a_child_forked_while_another_thread_fits_can_fit():
    """Not on the reference: a fork while another thread is inside OpenBLAS is OpenBLAS' affair."""
    need_extension()
    out = python(textwrap.dedent(FORKED) + textwrap.dedent("""
        import warnings
        warnings.simplefilter("ignore")   # Python 3.12 warns of fork in a process with threads
        wanted = digest(build(1))
        busy = build(2)
        trainer = threading.Thread(target=busy.fit, args=(X, y), kwargs=dict(steps=10**12), daemon=True)
        trainer.start()
        for _ in range(5):
            time.sleep(0.03)
            print(in_child(lambda: digest(build(1)) == wanted))
        sys.stdout.flush()
        os._exit(0)
    """), "cython")  # fmt: skip
    assert out.split() == ["True"] * 5


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_network_sent_to_a_process_pool_trains_there_as_here(backend, method, tmp_path):
    """The worker's function must be importable: it lives in a file."""
    (tmp_path / "sweep_worker.py").write_text(textwrap.dedent("""
        import numpy as np, fastbp

        def train(net):
            X = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
            net.fit(X, X[:, :2], batch_size=7, epochs=4, optimizer=fastbp.SGD(lr=0.02, momentum=0.9))
            return net
    """))
    out = python("""
        import multiprocessing, sys
        sys.path.insert(0, sys.argv[1])
        import fastbp, sweep_worker

        def build(k):
            return fastbp.MLP((6, 5, 2), seed=k, backend=sys.argv[2])
        here = [sweep_worker.train(build(k)).flatten().tobytes() for k in range(4)]
        with multiprocessing.get_context(sys.argv[3]).Pool(2) as pool:
            there = [net.flatten().tobytes() for net in pool.map(sweep_worker.train, [build(k) for k in range(4)])]
        print(here == there)
    """, tmp_path, backend, method, PYTHONPATH=f"{IMPORTED_FROM}{os.pathsep}{tmp_path}", timeout=60)  # fmt: skip
    assert out == "True\n"


# ------------------------------------------------------------------ python -m fastbp


def test_python_m_fastbp_info_prints_the_configuration():
    out = python("import runpy, sys; sys.argv = ['fastbp', 'info']; runpy.run_module('fastbp', run_name='__main__')")
    assert np.__version__ in out and "backend" in out


@pytest.mark.skipif(os.name != "posix", reason="a shell closes the files")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("arguments, status", [("info", 0), ("demo", 0), ("no", 2)])
def test_python_m_fastbp_does_its_work_without_a_console(arguments, status, closed):
    """Where a file is closed `sys.stdout` or `sys.stderr` is None, and the other one gets nothing of it."""
    run = ["sh", "-c", f'exec "$0" -m fastbp {arguments} {closed}', sys.executable]
    environment = os.environ | {"PYTHONPATH": str(IMPORTED_FROM), "FASTBP_BACKEND": "auto"}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    if "2>&-" in closed:
        assert "usage" not in done.stdout


def test_the_helper_of_these_tests_sees_a_crash_and_a_wrong_exit():
    """`python` above must be able to fail."""
    for script in ("import ctypes; ctypes.string_at(0)", "raise SystemExit(3)", "1 / 0"):
        with pytest.raises(pytest.fail.Exception, match="exit status"):
            python(script)
    with pytest.raises(pytest.fail.Exception, match="no end"):
        python("import time; time.sleep(60)", timeout=2)
