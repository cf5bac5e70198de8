"""The short suite: what a wheel must do where there is nothing but NumPy. `python tests/short.py` says which failed.

Other tests show that fastbp is right; these, that what was compiled elsewhere works here. Without pytest, which a fresh
environment does not have.
"""

import os
import pickle
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import fastbp
import fastbp._engine as engine

RNG = np.random.default_rng(0)
SIZES = [((3, 5, 2), 8), ((20, 33, 17, 4), 21), ((70, 64, 1), 1), ((9, 90, 33), 300)]


def trained(sizes, rows, n_threads=None, **settings):
    """A network after a few steps, and what it was given."""
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((rows, sizes[0])), rng.standard_normal((rows, sizes[-1]))
    net = fastbp.MLP(sizes, seed=0, **settings)
    net.fit(X, y, loss="mse", optimizer=fastbp.Adam(), batch_size=16, steps=20, n_threads=n_threads)
    return net, X, y


def close(got, wanted, dtype):
    bound = 2e-4 if dtype == "float32" else 1e-10
    scale = np.abs(wanted).max()
    assert np.isfinite(got).all() and np.abs(got - wanted).max() <= bound * scale, (got, wanted)


def test_the_compiled_module_comes_with_the_wheel():
    folder = os.path.dirname(os.path.abspath(engine.__file__))
    assert folder == os.path.dirname(os.path.abspath(fastbp.__file__))
    assert not os.path.exists(os.path.join(folder, os.pardir, "pyproject.toml")), "this is a tree of sources"


def test_every_instruction_set_trains_as_numpy_does():
    for sizes, rows in SIZES:
        for dtype in ("float32", "float64"):
            for activation in ("relu", "tanh", "gelu"):
                wanted = trained(sizes, rows, dtype=dtype, activation=activation, backend="reference")[0]
                for isa in engine.isas_found():
                    os.environ["FASTBP_ISA"] = isa
                    try:
                        got, X, _ = trained(sizes, rows, dtype=dtype, activation=activation, backend="cython")
                        close(got.predict(X), wanted.predict(X), dtype)
                    finally:
                        del os.environ["FASTBP_ISA"]
                    for ours, theirs in zip(got.weights, wanted.weights):
                        close(ours, theirs, dtype)


def test_threads_give_the_same_bits():
    with ThreadPoolExecutor(4) as pool:
        nets = list(pool.map(lambda threads: trained((40, 64, 8), 64, n_threads=threads)[0], (1, 2, 3, 2)))
    for net in nets[1:]:
        for ours, theirs in zip(net.weights, nets[0].weights):
            assert np.array_equal(ours, theirs)


def test_single_calls():
    net, X, y = trained((3, 5, 2), 8)
    before = net.evaluate(X, y, loss="mse")
    for _ in range(20):
        net.train_step(X, y, loss="mse", optimizer=fastbp.SGD(lr=0.05))
    assert net.evaluate(X, y, loss="mse") < before
    assert net.predict(X[:1]).shape == (1, 2)


def test_files_and_pickles_hold_the_network():
    net, X, _ = trained((3, 5, 2), 8)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.safetensors")
        net.save(path)
        net.save(path)   # over an older one
        assert os.listdir(folder) == ["net.safetensors"]
        for other in (fastbp.load(path), pickle.loads(pickle.dumps(net))):
            assert np.array_equal(other.predict(X), net.predict(X))


def test_many_networks_are_those_that_train_alone():
    X, y = RNG.standard_normal((60, 3)), RNG.standard_normal((60, 1))
    nets, alone = ([fastbp.MLP((3, 8, 1), seed=k) for k in range(5)] for _ in range(2))
    fastbp.fit_many(nets, X, y, loss="mse", batch_size=20, epochs=3, shuffle=False)
    for net, other in zip(nets, alone):
        other.fit(X, y, loss="mse", optimizer="adam", batch_size=20, epochs=3, shuffle=False)
        close(net.predict(X), other.predict(X), "float32")


def test_wrong_arguments_are_refused():
    net, X, y = trained((3, 5, 2), 8)
    for call in (lambda: net.fit(X, y[:3], loss="mse", steps=1), lambda: net.predict(X[:, :2])):
        try:
            call()
        except ValueError:
            continue
        raise AssertionError("no error")


def main():
    failed = []
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    for name, test in tests:
        try:
            test()
        except Exception as error:
            failed.append(name)
            print(f"FAILED {name}: {type(error).__name__}: {str(error)[:500]}")
    print(f"{len(tests) - len(failed)} of {len(tests)} passed; fastbp {fastbp.__version__}, NumPy {np.__version__}, "
          f"Python {sys.version.split()[0]} on {sys.platform}, {', '.join(engine.isas_found())}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
