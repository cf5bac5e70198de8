"""What every test file shares: the backends, ISAs and dtypes to run on, how hard to try, equal bits."""

import importlib
import itertools
import os
import random
import signal
import zlib

# Before NumPy is loaded. The reference's products are small: on two busy cores BLAS threads only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")  # pictures without a window

# A shell that starts the tests in the background has SIGINT ignored: whoever they start would inherit that, and hear of
# no Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from hypothesis import settings

from fastbp import backends

pytest.register_assert_rewrite("pairs")  # its asserts tell as much as those of a test

# FASTBP_TEST_ALL=1 (`make test-all`): whole products instead of samples of them.
every_case = os.environ.get("FASTBP_TEST_ALL", "") not in ("", "0")
# FASTBP_TEST_NUMBA=1 (`make test-numba`): on Numba the samples that every backend has, and no sample of them.
every_numba_case = every_case or os.environ.get("FASTBP_TEST_NUMBA", "") not in ("", "0")
# FASTBP_TEST_PEERS=1 (`make test-peers`): a peer that is missing is a failure; elsewhere its tests are skipped.
every_peer = os.environ.get("FASTBP_TEST_PEERS", "") not in ("", "0")
# FASTBP_TEST_CLUSTER=1 (`make test-cluster`): an engine that is missing is a failure; elsewhere its tests are skipped.
every_cluster = os.environ.get("FASTBP_TEST_CLUSTER", "") not in ("", "0")

# Under `make` (MAKELEVEL) and in CI a missing extension is a failure; elsewhere its tests are skipped.
official = bool(os.environ.get("CI") or os.environ.get("MAKELEVEL"))

settings.register_profile(
    "fastbp", deadline=None, max_examples=300 if every_case else 30, derandomize=official, print_blob=True
)
settings.load_profile("fastbp")

_engine = backends.engine()
VECTOR_BYTES = {"generic": 16, "neon": 16, "avx2": 32, "avx512": 64}
ISAS = tuple(_engine.isas_found()) if _engine is not None else ("no extension",)


def frozen(value):
    """A nested value as one that == compares bit for bit."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: frozen(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [frozen(item) for item in value]
    return value


def need_extension():
    if _engine is None:
        reason = "fastbp._engine is not built: `make test` builds it"
        pytest.fail(reason) if official else pytest.skip(reason)


def sampled(part, *factors):
    """One of `part` combinations of the levels of some factors, in which every level is met; or all of them."""
    combinations = list(itertools.product(*factors))
    if every_case:
        return combinations
    random.Random(1).shuffle(combinations)
    chosen = combinations[::part]
    assert all(level in met for levels, met in zip(factors, zip(*chosen)) for level in levels)
    return chosen


def need_numba():
    if not backends.has_numba():
        reason = "Numba is not installed: pip install 'fastbp[numba]'"
        pytest.fail(reason) if official else pytest.skip(reason)


def need(name):
    """Skip the test where a backend is not there, or fail where it must be."""
    if name == "cython":
        need_extension()
    if name == "numba":
        need_numba()


@pytest.fixture(params=backends.NAMES)
def backend(request):
    """The name of each backend."""
    need(request.param)
    return request.param


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    """Each ISA that this machine has, forced; for networks with ``backend="cython"``."""
    need_extension()
    monkeypatch.setenv("FASTBP_ISA", request.param)
    return request.param


@pytest.fixture(params=["reference", *(f"cython {name}" for name in ISAS), "numba"])
def kernels(request, monkeypatch):
    """The name of each backend, of the compiled one with each ISA forced in turn."""
    name, _, forced = request.param.partition(" ")
    need(name)
    if forced:
        monkeypatch.setenv("FASTBP_ISA", forced)
    return name


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(autouse=True, scope="module")
def environment():
    """Each test file leaves the environment as it was: Dask, which starts workers, puts OMP_NUM_THREADS=1 there."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


def missing_peer(error):
    """Skip the test whose peer cannot be imported, or fail where it must be there."""
    reason = f"{error}: `make test-peers` installs it"
    pytest.fail(reason) if every_peer else pytest.skip(reason)


class Peers:
    """Libraries that the tests compare with, imported when they are named: ``peers.torch``, ``peers.optax``."""

    def __getattr__(self, name):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            missing_peer(error)
        if name == "torch":
            module.set_num_threads(1)
        if name == "jax":
            module.config.update("jax_enable_x64", True)
        return module


@pytest.fixture(scope="session")
def peers():
    """Who asks for it has the marker `peers`, which `make test-peers` selects."""
    return Peers()


def pytest_itemcollected(item):
    if "peers" in getattr(item, "fixturenames", ()):
        item.add_marker("peers")


ON_NUMBA = 4  # tests of a file


def pytest_collection_modifyitems(config, items):
    """Of the tests that run on every backend some have one case for Numba, which compiles for each network anew.

    `make test-numba` and `make test-all` have them all. Those that make up networks by the dozen have none:
    test_numba.py does that in Python.
    """
    if every_numba_case:
        return
    on_numba = {}
    for item in items:
        chosen = getattr(item, "callspec", None) and [item.callspec.params.get(name) for name in ("backend", "kernels")]
        if chosen and "numba" in chosen:
            on_numba.setdefault(item.path.name, {}).setdefault(item.originalname, []).append(item)
    drawn = lambda name: zlib.crc32(name.encode())  # noqa: E731
    left = {id(item) for tests in on_numba.values() for cases in tests.values() for item in cases}
    for file, tests in on_numba.items():
        fixed = [name for name in tests if not hasattr(tests[name][0].obj, "hypothesis")]
        for name in sorted(fixed, key=drawn)[: None if file == "test_numba.py" else ON_NUMBA]:
            left.remove(id(min(tests[name], key=lambda item: drawn(item.nodeid))))
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left])
    items[:] = [item for item in items if id(item) not in left]
