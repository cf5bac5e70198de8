"""`fastbp.ops`: the kernels on plain arrays do what their formulas say, on every backend; what they write in place, and
what they refuse to write; that no call sees what another left.
"""

import itertools

import numpy as np
import pytest
from conftest import need_extension
from tolerance import assert_close

import fastbp
from fastbp import ops

SHAPES = [(3, 4, 5), (17, 33, 9), (40, 19, 1)]  # inputs, outputs, rows


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


ACTIVATIONS = {  # and the slope; the last one's needs z
    "identity": (lambda z: z, np.ones_like),
    "relu": (lambda z: np.maximum(z, 0), lambda z: z > 0),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * (1 - sigmoid(z)))),
}


@pytest.fixture
def forced(kernels):
    """Each backend, for functions that no network chooses one for."""
    with fastbp.backend(kernels):
        yield kernels


def arrays(shape, dtype):
    """x, weight, bias, grad_output."""
    n_in, n_out, n = shape
    rng = np.random.default_rng(n_in)
    return [rng.normal(size=size).astype(dtype) for size in ((n, n_in), (n_in, n_out), n_out, (n, n_out))]


def wide(*given):
    return [array.astype(np.float64) for array in given]


def at_hand(shape, activation, dtype):
    """Arguments of the way back, and what it should give: z and dL/dz in float64."""
    x, weight, bias, grad_output = arrays(shape, dtype)
    f, slope = ACTIVATIONS[activation]
    x64, weight64, bias64, g64 = wide(x, weight, bias, grad_output)
    z = x64 @ weight64 + bias64
    return (grad_output, f(z).astype(dtype), x, weight, bias), z, g64 * slope(z)


# ------------------------------------------------------------------ what they compute


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear_is_the_activation_of_the_product(activation, shape, forced, dtype):
    x, weight, bias, _ = arrays(shape, dtype)
    x64, weight64, bias64 = wide(x, weight, bias)
    for given, z in ((bias, x64 @ weight64 + bias64), (None, x64 @ weight64)):
        out, out_z = (np.full(z.shape, np.nan, dtype) for _ in range(2))
        found = ops.linear(x, weight, given, activation)
        assert found.dtype == dtype
        assert ops.linear(x, weight, given, activation, out=out, out_z=out_z) is out
        assert out.tobytes() == found.tobytes()
        for got, wanted in ((out, ACTIVATIONS[activation][0](z)), (out_z, z)):
            assert_close(got, wanted, dtype, k=shape[0], scale=max(1, np.abs(z).max()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear_backward_gives_the_three_gradients(activation, shape, forced, dtype):
    (grad_output, a, x, weight, _), z, delta = at_hand(shape, activation, dtype)
    found = ops.linear_backward(grad_output, a, x, weight, activation, z=z if activation == "silu" else None)
    x64, weight64 = wide(x, weight)
    wanted = delta @ weight64.T, x64.T @ delta, delta.sum(axis=0)
    assert len(found) == 3
    for got, right in zip(found, wanted):
        assert got.dtype == dtype
        assert_close(got, right, dtype, k=sum(shape))


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.3}, {"momentum": 0.9, "weight_decay": 0.3}], ids=str)
@pytest.mark.parametrize("activation", ["tanh", "silu"])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_backward_update_is_the_way_back_and_a_step_of_sgd(shape, has_bias, activation, settings, forced, dtype):
    """Three steps, so that velocities count; dL/dx is that of the weight before each."""
    (grad_output, a, x, weight, bias), z, delta = at_hand(shape, activation, dtype)
    z = z if activation == "silu" else None
    params, momentum = [weight, bias] if has_bias else [weight], settings.get("momentum", 0)
    velocities = [np.zeros_like(param) for param in params] if momentum else []
    expected, speeds = wide(*params), [0.0, 0.0]
    x64, lr = x.astype(np.float64), 0.1
    for _ in range(3):
        found = ops.linear_backward_update(
            grad_output, a, x, weight, bias if has_bias else None, lr, activation, z=z, velocity=velocities or None,
            **settings,
        )  # fmt: skip
        assert_close(found, delta @ expected[0].T, dtype, k=3 * sum(shape))
        for k, gradient in enumerate([x64.T @ delta, delta.sum(axis=0)][: len(params)]):
            speeds[k] = momentum * speeds[k] + gradient + settings.get("weight_decay", 0) * expected[k]
            expected[k] = expected[k] - lr * speeds[k]
    for got, wanted in zip([*params, *velocities], [*expected, *speeds]):
        assert_close(got, wanted, dtype, k=3 * sum(shape))


@pytest.mark.parametrize(
    "settings",
    [{}, {"weight_decay": 0.3}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.3}],
    ids=str,
)
def test_sgd_update_is_a_step_of_sgd_on_an_array_of_any_shape(settings, forced, dtype):
    rng = np.random.default_rng(0)
    momentum, decay = settings.get("momentum", 0), settings.get("weight_decay", 0)
    for shape in ((), (7,), (3, 5, 2)):
        for laid_out in (np.ascontiguousarray, np.asfortranarray):
            param, velocity = (laid_out(rng.normal(size=shape).astype(dtype)) for _ in range(2))
            param, velocity = param.reshape(shape), velocity.reshape(shape)
            expected, speed = wide(param, velocity)
            for _ in range(3):
                grad = rng.normal(size=shape)
                ops.sgd_update(param, grad, 0.1, velocity=velocity if momentum else None, **settings)
                g = grad + decay * expected
                speed = momentum * speed + g if momentum else speed
                step = g + momentum * speed if settings.get("nesterov") else speed if momentum else g
                expected = expected - 0.1 * step
            assert_close(param, expected, dtype, k=30, scale=4)
            assert_close(velocity, speed, dtype, k=30, scale=4)


def test_arguments_of_other_dtypes_and_layouts_are_those_of_plain_copies(dtype):
    (grad_output, a, x, weight, bias), z, _ = at_hand(SHAPES[1], "silu", dtype)
    other = [np.asfortranarray(x.astype(x.dtype.newbyteorder())), np.asfortranarray(weight), np.repeat(bias, 2)[::2]]
    wanted = ops.linear(x, weight, bias, "silu")
    found = ops.linear(*other, "silu")
    assert found.dtype == dtype and found.tobytes() == wanted.tobytes()
    assert ops.linear(x.tolist(), weight, bias.tolist(), "silu").tobytes() == wanted.tobytes()
    back = [ops.linear_backward(g, a, rows, w, "silu", z=z)
            for g, rows, w in ((grad_output, x, weight), (grad_output[:, ::-1].copy()[:, ::-1], other[0], other[1]))]
    assert [array.tobytes() for array in back[0]] == [array.tobytes() for array in back[1]]


# ------------------------------------------------------------------ one call and another


def test_a_layer_that_is_kept_holds_nothing_of_the_call_before(forced):
    """With and without a bias, of another dtype, with another rule, and after all of them again."""
    calls = {}

    def call(what):
        dtype = np.float32 if what == "float32" else np.float64
        (grad_output, a, x, weight, bias), _, _ = at_hand((5, 5, 5), "tanh", dtype)
        match what:
            case "bias" | "float32":
                return [ops.linear(x, weight, bias, "tanh")]
            case "no bias":
                return [ops.linear(x, weight, None, "tanh")]
            case "back":
                return ops.linear_backward(grad_output, a, x, weight, "tanh")
            case "step":
                speeds = [np.zeros_like(weight), np.zeros_like(bias)]
                ops.linear_backward_update(
                    grad_output, a, x, weight, bias, 0.1, "tanh", momentum=0.5, velocity=speeds
                )
                return [weight, bias, *speeds]

    once = ["bias", "no bias", "float32", "back", "step"]
    for what in (*once, *once[::-1], *once):
        found = [array.copy() for array in call(what)]
        assert [array.tobytes() for array in calls.setdefault(what, found)] == [array.tobytes() for array in found]
    assert not np.allclose(calls["bias"][0], calls["no bias"][0])


def test_what_is_forced_later_is_seen(monkeypatch):
    need_extension()
    x, weight, bias, _ = arrays(SHAPES[1], np.float64)
    with fastbp.backend("cython"):
        ops.linear(x, weight, bias)
        monkeypatch.setenv("FASTBP_ISA", "no such")
        with pytest.raises(RuntimeError, match="no such"):
            ops.linear(x, weight, bias)
        with fastbp.backend("reference"):  # which has none
            assert ops.linear(x, weight, bias).tobytes() == (x @ weight + bias).tobytes()


# ------------------------------------------------------------------ what is written in place


def test_an_out_that_shares_memory_with_an_input_gets_what_a_copy_would_have_got(forced, dtype):
    x, weight, bias, _ = arrays((9, 9, 9), dtype)
    wanted = ops.linear(x, weight, bias, "tanh")
    z = ops.linear(x, weight, bias)
    for shared, other in (("x", "weight"), ("weight", "x")):
        given = {"x": x.copy(), "weight": weight.copy()}
        ops.linear(**given, bias=bias, activation="tanh", out=given[shared], out_z=given[other])
        assert given[shared].tobytes() == wanted.tobytes() and given[other].tobytes() == z.tobytes()
    whole = np.zeros((10, 9), dtype)
    whole[:9] = x
    ops.linear(whole[:9], weight, bias, "tanh", out=whole[1:])
    assert whole[1:].tobytes() == wanted.tobytes()


def unwritable(array):
    array.flags.writeable = False
    return array


def unaligned(array):
    return np.frombuffer(bytearray(array.nbytes + 1), np.uint8)[1:].view(array.dtype).reshape(array.shape)


def stretched(array):
    """Rows, or numbers, that all lie in the same place."""
    return np.lib.stride_tricks.as_strided(array, strides=(0, *array.strides[1:]))


FLAWS = {
    "be writable": unwritable,
    "be aligned": unaligned,
    "be free of overlap with itself": stretched,
    "be an? (array of float64|float32 or float64 array)": lambda array: array.astype(array.dtype.newbyteorder()),
}


WRITTEN = ["weight", "bias", "velocity[0]", "velocity[1]"]


def written():
    """What `linear_backward_update` writes, and what it reads."""
    (grad_output, a, x, weight, bias), z, _ = at_hand((4, 4, 4), "silu", np.float64)
    mine = dict(zip(WRITTEN, (weight, bias, np.ones_like(weight), np.ones_like(bias))))
    return mine, {"x": x, "a": a, "grad_output": grad_output, "z": z}


def update(mine, read):
    return ops.linear_backward_update(
        read["grad_output"], read["a"], read["x"], mine["weight"], mine["bias"], 0.1, "silu", z=read["z"],
        momentum=0.9, velocity=(mine["velocity[0]"], mine["velocity[1]"]),
    )  # fmt: skip


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("name", WRITTEN)
def test_what_cannot_be_written_whole_is_refused_and_nothing_is_written(name, flaw):
    mine, read = written()
    mine[name] = FLAWS[flaw](mine[name])
    before = {key: array.copy() for key, array in mine.items()}
    argument = name.partition("[")[0]
    with pytest.raises(ValueError, match=f"^{argument} (is written in place and )?must {flaw}"):
        update(mine, read)
    assert all(np.array_equal(array, before[key]) for key, array in mine.items())


@pytest.mark.parametrize(
    "name, other",
    [*itertools.combinations(WRITTEN, 2), *itertools.product(WRITTEN, ["x", "a", "grad_output", "z"])],
)
def test_what_is_written_may_overlap_nothing_else_and_nothing_is_written(name, other):
    mine, read = written()
    there = mine if other in mine else read
    assert update({key: array.copy() for key, array in mine.items()}, read).shape == (4, 4)  # apart they are taken
    one, two = mine[name], there[other]
    both = np.arange(1.0, one.size + two.size)  # one element is of both
    mine[name] = both[: one.size].reshape(one.shape)
    there[other] = both[one.size - 1 :].reshape(two.shape)
    before = {key: array.copy() for key, array in mine.items()}
    with pytest.raises(ValueError, match="is written in place and overlaps"):
        update(mine, read)
    assert all(np.array_equal(array, before[key]) for key, array in mine.items())


@pytest.mark.parametrize("shares", ["param and grad", "param and velocity", "velocity and grad"])
def test_a_step_whose_arrays_overlap_is_refused_and_nothing_is_written(shares):
    both = np.arange(9.0)
    given = {"param": np.ones(5), "grad": np.ones(5), "velocity": np.ones(5)}
    one, other = shares.split(" and ")
    given[one], given[other] = both[:5], both[4:]
    with pytest.raises(ValueError, match=f"^{one} is written in place and overlaps {other}"):
        ops.sgd_update(**given, lr=0.1, momentum=0.9)
    assert both.tolist() == list(range(9))


def test_outs_that_overlap_are_refused_and_nothing_is_written():
    x, weight, bias, _ = arrays((4, 4, 4), np.float64)
    both = np.zeros((5, 4))
    with pytest.raises(ValueError, match="^out is written in place and overlaps out_z"):
        ops.linear(x, weight, bias, "tanh", out=both[:4], out_z=both[1:])
    assert not both.any()


# ------------------------------------------------------------------ wrong arguments


X, WEIGHT, BIAS, G = arrays((4, 3, 2), np.float64)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ops.linear(X, WEIGHT.astype(np.float16)), "weight must be a float32 or float64 array of shape"),
        (lambda: ops.linear(X, WEIGHT.tolist()), "weight must be a float32 or float64 array of shape"),
        (lambda: ops.linear(X, WEIGHT[:, :0]), r"weight must have at least one row and one column, got shape \(4, 0\)"),
        (lambda: ops.linear(X[:, 1:], WEIGHT), "x has 3 column"),
        (lambda: ops.linear(X, WEIGHT, BIAS[1:]), r"bias must have shape \(3,\), got \(2,\)"),
        (lambda: ops.linear(X, WEIGHT, BIAS, "rleu"), "did you mean 'relu'"),
        (lambda: ops.linear(X, WEIGHT, out=np.empty((2, 4))), r"out must be .* shape \(2, 3\), got .*\(2, 4\)"),
        (lambda: ops.linear(X, WEIGHT, out_z=np.empty((2, 3), np.float32)), "out_z must be .* float64 .*, got float32"),
        (lambda: ops.linear(X, WEIGHT, out=[[0.0] * 3] * 2), "out must be an array of float64 .*, got list"),
        (lambda: ops.linear_backward(G, G, X, WEIGHT, "silu"), "activation 'silu' needs z"),
        (lambda: ops.linear_backward(G[:0], G[:0], X[:0], WEIGHT), "x has no rows"),
        (lambda: ops.linear_backward(G[1:], G, X, WEIGHT), "grad_output has 1 rows, 2 are wanted"),
        (lambda: ops.linear_backward(G, G[1:], X, WEIGHT), "a has 1 rows, 2 are wanted"),
        (lambda: ops.linear_backward(G, G, X, WEIGHT, "silu", z=G[:, 1:]), "z has 2 column"),
        (lambda: ops.linear_backward_update(G, G, X, WEIGHT, BIAS, -1.0), "lr must be"),
        (lambda: ops.linear_backward_update(G, G, X, WEIGHT, BIAS, 0.1, momentum=0.9), r"momentum needs 2 array\(s\)"),
        (lambda: ops.linear_backward_update(G, G, X, WEIGHT, BIAS, 0.1, momentum=0.9, velocity=np.zeros((4, 3))),
         r"momentum needs 2 array\(s\)"),
        (lambda: ops.linear_backward_update(G, G, X, WEIGHT, BIAS, 0.1, momentum=0.9, velocity=(BIAS, WEIGHT)),
         r"velocity must be an array of float64 with shape \(4, 3\), got"),
        (lambda: ops.sgd_update([1.0], [1.0], 0.1), "param must be a float32 or float64 array"),
        (lambda: ops.sgd_update(np.ones(2), np.ones(3), 0.1), r"grad must have param's shape \(2,\), got \(3,\)"),
        (lambda: ops.sgd_update(np.ones(2), np.ones(2), 0.1, momentum=0.9), r"momentum needs 1 array\(s\)"),
        (lambda: ops.sgd_update(np.ones(2), np.ones(2), 0.1, nesterov=True), "nesterov"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
