"""The C API: a capsule of functions that other extension modules call without the GIL, here through ctypes.

tests/test_packaging.py builds an extension module on them, from the wheel.
"""

import ctypes
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import need_extension

import fastbp
from fastbp import backends, ops
from fastbp.backends import layer

ROOT = Path(__file__).resolve().parents[1]
OK, NO_MEMORY, WRONG = 0, -1, -2
N, P, INT, D = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int, ctypes.c_double
LINEAR = [N, N, N, P, N, P, N, P, INT, P, N, P, N]
BACKWARD = [N, N, N, P, N, P, N, P, N, P, N, P, N, INT, P, N, P, N, P]
SGD = [N, P, P, D, D, INT, D, P]
OBJECT = ctypes.py_object
MEMBERS = [  # in order, as fastbp/_engine.pxd has them
    ("version", ctypes.c_int),
    ("activation", ctypes.CFUNCTYPE(INT, ctypes.c_char_p)),
    *((f"linear_{t}", ctypes.CFUNCTYPE(INT, *LINEAR)) for t in ("float", "double")),
    *((f"linear_backward_{t}", ctypes.CFUNCTYPE(INT, *BACKWARD)) for t in ("float", "double")),
    *((f"sgd_update_{t}", ctypes.CFUNCTYPE(INT, *SGD)) for t in ("float", "double")),
    ("bind", ctypes.PYFUNCTYPE(OBJECT, OBJECT, N)),
    ("network", ctypes.PYFUNCTYPE(P, OBJECT)),
    *((f"predict_{t}", ctypes.CFUNCTYPE(INT, P, N, P, N, P)) for t in ("float", "double")),
]


class Functions(ctypes.Structure):
    _fields_ = MEMBERS


@pytest.fixture
def api():
    need_extension()
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = P, [OBJECT, ctypes.c_char_p]
    return Functions.from_address(pointer(backends.engine().api, b"fastbp._engine.api"))


@pytest.fixture
def named(api, dtype):
    """The functions for a dtype, by name."""
    t = {4: "float", 8: "double"}[dtype.itemsize]
    return lambda name: getattr(api, f"{name}_{t}")


def at(array):
    return None if array is None else array.ctypes.data


def arrays(dtype, n=7, n_in=37, n_out=19):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(dtype) for shape in ((n, n_in), (n_in, n_out), n_out, (n, n_out))]


def test_the_members_are_those_of_the_pxd(api):
    text = (ROOT / "fastbp" / "_engine.pxd").read_text()
    version = int(re.search(r"#define FASTBP_API_VERSION (\d+)", text)[1])
    assert api.version == version
    in_c, in_cython = text.partition("ctypedef struct fastbp_api")[::2]
    names = [name for name, _ in MEMBERS]
    assert ["version", *re.findall(r"\(\*(\w+)\)\(", in_c.partition("typedef struct")[2])] == names
    assert ["version", *re.findall(r"\(\*(\w+)\)\(", in_cython)] == names


def test_activations_have_names(api):
    assert api.activation(b"identity") == -1
    assert api.activation(b"relu") == list(fastbp.activations.TABLE).index("relu")
    assert api.activation(b"rleu") == -2


@pytest.mark.parametrize("name", ["identity", "relu", "silu"])
def test_the_layer_is_that_of_ops(name, api, named, dtype):
    """Bit by bit, with rows of a larger matrix too; the kernels are the widest found."""
    x, weight, bias, g = arrays(dtype)
    (n, n_in), n_out = x.shape, weight.shape[1]
    row, wide = api.activation(name.encode()), np.zeros((n, n_out + 5), dtype)
    wanted_z, keeps_z = np.empty_like(g), name == "silu"
    with fastbp.backend("cython"):
        wanted = ops.linear(x, weight, bias, name, out_z=wanted_z)
        back = ops.linear_backward(g, wanted, x, weight, name, z=wanted_z if keeps_z else None)
    a, z = np.empty_like(g), np.empty_like(g)
    sizes = n, n_in, n_out
    assert named("linear")(*sizes, at(x), n_in, at(weight), n_out, at(bias), row, at(z), n_out, at(a), n_out) == OK
    assert a.tobytes() == wanted.tobytes() and z.tobytes() == wanted_z.tobytes()
    assert named("linear")(*sizes, at(x), n_in, at(weight), n_out, at(bias), row, None, 0, at(wide), n_out + 5) == OK
    assert np.array_equal(wide[:, :n_out], wanted) and not wide[:, n_out:].any()
    found = np.empty_like(x), np.empty_like(weight), np.empty_like(bias)
    assert named("linear_backward")(
        *sizes, at(g), n_out, at(a), n_out, at(z) if keeps_z else None, n_out, at(x), n_in, at(weight), n_out, row,
        at(found[0]), n_in, at(found[1]), n_out, at(found[2]),
    ) == OK  # fmt: skip
    assert [part.tobytes() for part in found] == [part.tobytes() for part in back]


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"momentum": 0.9},
                                      {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}], ids=str)  # fmt: skip
def test_sgd_is_that_of_ops(settings, named, dtype):
    rng = np.random.default_rng(0)
    param, grad, velocity = (rng.normal(size=37).astype(dtype) for _ in range(3))
    wanted, speed = param.copy(), velocity.copy()
    momentum = settings.get("momentum", 0.0)
    with fastbp.backend("cython"):
        ops.sgd_update(wanted, grad, 0.25, velocity=speed if momentum else None, **settings)
    decay, nesterov = settings.get("weight_decay", 0.0), settings.get("nesterov", False)
    assert named("sgd_update")(37, at(param), at(grad), 0.25, momentum, nesterov, decay, at(velocity)) == OK
    assert param.tobytes() == wanted.tobytes() and velocity.tobytes() == speed.tobytes()


def test_a_bound_network_predicts_what_it_would_and_sees_what_it_learns(api, named, dtype):
    net = fastbp.MLP((5, 9, 3), activation="tanh", dtype=dtype, seed=1)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(dtype)
    bound = api.bind(net, 4)
    network, out = api.network(bound), np.empty((4, 3), dtype)
    for _ in range(2):
        assert named("predict")(network, 4, at(x), 5, at(out)) == OK
        assert out.tobytes() == net.predict(x).tobytes()
        net.fit(x, out + 1, optimizer=fastbp.SGD(0.1), steps=3)
    wide = np.zeros((2, 8), dtype)
    wide[:, :5] = x[:2]
    assert named("predict")(network, 2, at(wide), 8, at(out)) == OK
    assert out[:2].tobytes() == net.predict(x[:2]).tobytes()
    params = net.params
    del net   # the network lives as long as what is bound to it needs
    assert named("predict")(network, 4, at(x), 5, at(out)) == OK and np.isfinite(out).all() and params.any()


def test_wrong_arguments_are_refused_and_nothing_is_written(api, named, dtype):
    x, weight, bias, g = arrays(dtype)
    (n, n_in), n_out = x.shape, weight.shape[1]
    out = np.zeros_like(g)
    right = [n, n_in, n_out, at(x), n_in, at(weight), n_out, at(bias), -1, None, 0, at(out), n_out]
    for k, wrong in ((0, -1), (1, 0), (2, 0), (3, None), (4, n_in - 1), (5, None), (6, 1), (8, 99), (8, -2), (11, None),
                     (12, n_out - 1)):  # fmt: skip
        assert named("linear")(*right[:k], wrong, *right[k + 1 :]) == WRONG, k
    assert named("linear")(0, *right[1:]) == OK
    silu = api.activation(b"silu")
    back = [n, n_in, n_out, at(g), n_out, at(g), n_out, None, 0, at(x), n_in, at(weight), n_out, silu, at(out), n_in,
            at(out), n_out, None]  # fmt: skip
    assert named("linear_backward")(*back) == WRONG   # silu needs z
    assert named("sgd_update")(3, at(out), None, 0.1, 0, 0, 0, None) == WRONG
    assert named("sgd_update")(3, at(out), at(g), 0.1, 0.9, 0, 0, None) == WRONG   # no velocity
    assert not out.any()
    bound = api.bind(fastbp.MLP((n_in, n_out), dtype=dtype), 2)
    network, other = api.network(bound), api.predict_double if dtype == np.float32 else api.predict_float
    assert named("predict")(network, 3, at(x), n_in, at(out)) == WRONG   # more rows than it was bound for
    assert other(network, 2, at(x), n_in, at(out)) == WRONG
    assert named("predict")(network, 2, at(x), 2, at(out)) == WRONG
    assert not out.any()
    for wrong, kind in ((lambda: api.bind("net", 1), TypeError), (lambda: api.network(3), TypeError),
                        (lambda: api.bind(fastbp.MLP((2, 2)), 0), ValueError),
                        (lambda: api.bind(fastbp.MLP((2, 2)), 2**61), MemoryError),
                        (lambda: api.bind(fastbp.MLP((2, 2)), 2**62), MemoryError)):  # fmt: skip
        with pytest.raises(kind):
            wrong()


def test_many_threads_call_at_once(named, dtype):
    """ctypes lets the GIL go for each call."""
    x, weight, bias, _ = arrays(dtype, 33, 64, 51)
    with fastbp.backend("cython"):
        wanted = ops.linear(x, weight, bias)
    wrong = []

    def work():
        a = np.empty_like(wanted)
        for _ in range(200):
            failed = named("linear")(33, 64, 51, at(x), 64, at(weight), 51, at(bias), -1, None, 0, at(a), 51)
            if failed or a.tobytes() != wanted.tobytes():
                wrong.append(failed)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_bound_is_checked():
    need_extension()
    with pytest.raises(TypeError, match="bind: a fastbp.MLP is wanted, got 3"):
        layer.bound(3, 1)
