"""Engines that are started from outside: the examples under mpiexec, `fit_many` on mpi4py's pool and on Ray.

`make test-cluster` installs mpi4py and Ray into an environment of its own; MPI itself is the system's (on Debian and
Ubuntu `apt install openmpi-bin libopenmpi-dev`). What is missing is skipped, and said so. Nothing here can hang: each
program has its time, after which it is ended with all of its ranks.
"""

import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fastbp

ROOT = Path(__file__).resolve().parents[1]
IMPORTED_FROM = Path(fastbp.__file__).resolve().parents[1]
EXAMPLES = ("mpi_lbfgs", "mpi_sgd")
NUMBER = r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?"
SECONDS = 240  # the longest of these programs takes some seconds where it is alone, and a minute beside twenty others


def environment(**more):
    """That of a program: of fastbp's settings none, one thread, the tests' own path."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FASTBP_")}
    path = os.pathsep.join(filter(None, [str(IMPORTED_FROM), os.environ.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | more


def run(command, tmp_path, seconds=SECONDS):
    """(exit status, stdout, stderr) of a program that is ended when its time is over.

    SIGTERM first: mpiexec ends its ranks then. Output goes to files, so that no rank that is left can hold a pipe open.
    """
    said = [tmp_path / "stdout", tmp_path / "stderr"]
    with open(said[0], "w") as out, open(said[1], "w") as err:
        process = subprocess.Popen(
            list(map(str, command)), cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()
            out.write(f"\nended after {seconds} seconds")
    return process.returncode, *(file.read_text() for file in said)


def installed(*modules):
    for name in modules:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: `make test-cluster` has it")


@pytest.fixture
def mpiexec(tmp_path):
    """Runs a Python program on some ranks, under `-m mpi4py`, or the module that is named."""
    installed("mpi4py", "sklearn", "scipy")
    command = shutil.which("mpiexec")
    if command is None:
        pytest.skip("mpiexec is not here: apt install openmpi-bin libopenmpi-dev")
    version = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60).stdout
    of_open_mpi = ["--allow-run-as-root", "--oversubscribe"] if re.search("Open ?(MPI|RTE)", version) else []

    def start(ranks, program, module="mpi4py", **more):
        return run([command, *of_open_mpi, "-n", ranks, sys.executable, "-m", module, program], tmp_path, **more)

    return start


# ------------------------------------------------------------------ one network, several ranks


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("name", EXAMPLES)
def test_ranks_end_with_the_same_bits_and_with_what_one_process_finds(mpiexec, name, ranks):
    status, out, err = mpiexec(ranks, ROOT / "examples" / f"{name}.py")
    assert status == 0, out + err
    assert f"ranks: {ranks}, rows: " in out and "all ranks ended with the same bits" in out
    numbers = rf"from one process: ({NUMBER}); another order of rows explains up to ({NUMBER})"
    off, allowed = re.search(numbers, out).groups()
    assert (float(off) == 0.0) == (ranks == 1)  # with more the order of sums is another: else nothing was compared
    assert float(off) <= float(allowed) < {"mpi_lbfgs": 1e-8, "mpi_sgd": 1e-4}[name]


def test_the_gradients_of_ranks_are_sent_in_place_once_a_step(mpiexec, tmp_path):
    """Counted: an Allreduce of the whole gradient for each step, of the parameters for each average, and no more."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent("""
        import runpy
        from mpi4py import MPI

        class Counting(MPI.Intracomm):
            sizes = []

            def Allreduce(self, sent, received, *more):
                assert sent is MPI.IN_PLACE
                Counting.sizes.append(received.size)
                super().Allreduce(sent, received, *more)

        MPI.COMM_WORLD = Counting(MPI.COMM_WORLD)
        names = runpy.run_path(EXAMPLE)
        if MPI.COMM_WORLD.rank == 0:
            n, buffer = names["net"].n_params, names["network"]().grads.size
            print("gradients", Counting.sizes.count(buffer), "parameters", Counting.sizes.count(n))
            assert len(Counting.sizes) == Counting.sizes.count(n) + Counting.sizes.count(buffer)
    """).replace("EXAMPLE", repr(str(ROOT / "examples" / "mpi_sgd.py"))))
    status, out, err = mpiexec(2, program)
    assert status == 0, out + err
    said = re.findall(r"(\d+) Allreduces", out)
    assert f"gradients {said[0]} parameters {said[1]}\n" in out


BROKEN = {
    "a rank that raises ends all of them": ("mpi_lbfgs", "loss_and_grad", "raise OSError('the disk of this rank')",
                                            "OSError: the disk of this rank"),
    "a rank that dies ends all of them": ("mpi_lbfgs", "loss_and_grad", "os.kill(os.getpid(), signal.SIGKILL)", ""),
    "a rank whose gradient is lost is found": ("mpi_sgd", "update", "self.grads[...] = 0", "different parameters"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_happens_to_one_rank_is_not_passed_over(mpiexec, tmp_path, what):
    """On rank 1, in the fifth call of a verb, while rank 0 waits for it in an Allreduce."""
    name, verb, action, message = BROKEN[what]
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(f"""
        import os, runpy, signal
        from mpi4py import MPI
        import fastbp

        calls, verb = [], fastbp.MLP.{verb}

        def broken(self, *args, **more):
            calls.append(1)
            if MPI.COMM_WORLD.rank == 1 and len(calls) == 5:
                {action}
            return verb(self, *args, **more)

        fastbp.MLP.{verb} = broken
        runpy.run_path({str(ROOT / "examples" / name)!r} + ".py")
    """))
    status, out, err = mpiexec(2, program, seconds=60)
    assert status != 0 and "ended after" not in out, out + err
    assert message in err


@pytest.mark.parametrize("name", EXAMPLES)
def test_without_mpi4py_an_example_says_what_to_install(tmp_path, name):
    installed("sklearn", "scipy")
    hidden = "import runpy, sys; sys.modules['mpi4py'] = None; runpy.run_path(sys.argv[1])"
    status, out, err = run([sys.executable, "-c", hidden, ROOT / "examples" / f"{name}.py"], tmp_path)
    assert status == 1 and out == "" and "Traceback" not in err
    assert "needs mpi4py and an MPI library" in err and "pip install mpi4py" in err and "apt install openmpi-bin" in err


def test_the_excerpts_of_the_page_are_from_the_examples():
    page = (ROOT / "docs" / "mpi.md").read_text()
    excerpts = re.findall(r"^```py\n(.*?)^```", page, re.M | re.S)
    programs = [(ROOT / "examples" / f"{name}.py").read_text() for name in EXAMPLES]
    assert len(excerpts) == 3 and all(any(excerpt in program for program in programs) for excerpt in excerpts)


def test_fastbp_does_not_import_mpi4py():
    for path in sorted((ROOT / "fastbp").rglob("*.py")):
        assert not re.search(r"^\s*(import|from) mpi4py", path.read_text(), re.M), path


# ------------------------------------------------------------------ many networks


HEAD = """
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import scale

import fastbp

SIZES = (10, 4, 1), (10, 8, 1), (10, 16, 16, 1)


def train(**more):
    X, y = load_diabetes(return_X_y=True)
    nets = [fastbp.MLP(SIZES[k % 3], activation="tanh", seed=k) for k in range(30)]
    run = {"optimizer": fastbp.Adam(lr=0.01), "epochs": 5, "n_threads": 1}
    history = fastbp.fit_many(nets, scale(X), scale(y), **run, **more)
    return [net.flatten().tobytes() for net in nets], history


def compare(bits, history):
    here, alone = train()
    assert bits == here, "other bits than in one process"
    assert history.loss.tobytes() == alone.loss.tobytes()
    assert history.status.tolist() == ["done"] * 30
    print("the same bits")
"""
POOL = HEAD + """
if __name__ == "__main__":
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as pool:
        compare(*train(executor=pool, n_workers=pool.num_workers))
        print("workers:", pool.num_workers)
"""
RAY = HEAD + """
if __name__ == "__main__":
    import joblib
    import ray
    from ray.util.joblib import register_ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=2):
        compare(*train(executor="joblib"))
    ray.shutdown()
"""
THROUGH_AN_EXECUTOR = "executor" in inspect.signature(fastbp.fit_many).parameters
needs_executor = pytest.mark.skipif(not THROUGH_AN_EXECUTOR, reason="fit_many has no executor= here")


@needs_executor
@pytest.mark.parametrize("ranks", [2, 4])
def test_the_pool_of_mpi4py_trains_the_same_networks(mpiexec, tmp_path, ranks):
    program = tmp_path / "program.py"
    program.write_text(POOL)
    status, out, err = mpiexec(ranks, program, module="mpi4py.futures")
    assert status == 0, out + err
    assert out == f"the same bits\nworkers: {ranks - 1}\n"


@needs_executor
def test_ray_trains_the_same_networks_through_joblib(tmp_path):
    installed("ray", "joblib", "sklearn")
    program = tmp_path / "program.py"
    program.write_text(RAY)
    status, out, err = run([sys.executable, program], tmp_path, seconds=240)
    assert status == 0, out + err
    assert "the same bits\n" in out
