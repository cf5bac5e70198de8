"""`fastbp.ops`: the kernels on plain arrays do what their formulas say, on every backend; what they write in place, and
what they refuse to write; that no call sees what another left.
"""

import itertools
import re

import numpy as np
import pytest
from conftest import every_case, frozen, need_extension, need_numba
from test_process import python
from tolerance import assert_close

import fastbp
from fastbp import activations, backends, losses, ops, schedules

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
    rule = fastbp.SGD(0.1, **settings)
    slots = ops.slots(rule, *params)
    assert set(slots) == ({"velocity"} if momentum else set())
    velocities = [slot for slot in slots.get("velocity", ()) if slot is not None]
    expected, speeds = wide(*params), [0.0, 0.0]
    x64, lr = x.astype(np.float64), 0.1
    for step in range(3):
        found = ops.linear_backward_update(
            grad_output, a, x, weight, bias if has_bias else None, rule if settings else lr, activation, z=z,
            slots=slots, step=step,
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


# ------------------------------------------------------------------ optimizers, losses, activations

RULES = {
    "adam": fastbp.Adam(0.05),
    "adamw": fastbp.AdamW(0.05, amsgrad=True),
    "nesterov": fastbp.SGD(0.1, momentum=0.9, nesterov=True),
    "schedule": fastbp.RMSprop(schedules.Cosine(0.1, 10), momentum=0.5),
    "callable": fastbp.SGD(lambda step: 0.1 / (1 + step)),
    "clipped": fastbp.Adam(0.05, clip_norm=0.5),
    "around": fastbp.SGD(0.1, momentum=0.9, l1=0.01, max_norm=1.0, average=0.9, bias_lr_scale=2.0),
}


@pytest.mark.parametrize("shape", [(17, 33, 9), (8, 3, 5), (20, 64, 1)], ids=str)
@pytest.mark.parametrize("name", RULES)
def test_updates_of_a_layer_are_those_of_a_network_of_one(name, shape, forced, dtype):
    """The same steps by `MLP.forward` and `backward_update` on the reference, with its slots, its count of steps.

    No activation: where one saturates, the gradient is the rounding of its slope, and Adam makes steps of that.
    """
    (grad_output, _, x, weight, bias), _, _ = at_hand(shape, "identity", dtype)
    rule, n_in, n_out = RULES[name], shape[0], shape[1]
    net = fastbp.MLP((n_in, n_out), dtype=dtype, init=[(weight, bias)], backend="reference")
    slots = ops.slots(rule, weight, bias)
    for step in range(4):
        a = ops.linear(x, weight, bias)
        found = ops.linear_backward_update(grad_output, a, x, weight, bias, rule, slots=slots, step=step)
        net.forward(x)
        if rule.needs_whole_gradient:
            wanted = net.backward(grad_output)
            net.update(rule)
        else:
            wanted = net.backward_update(grad_output, rule)
        assert_close(found, wanted, dtype, k=40 * sum(shape))
        for got, right in zip((weight, bias), (net.weights[0], net.biases[0])):
            assert_close(got, right, dtype, k=400 * sum(shape))
    assert slots.keys() == net._state.slots.keys() | ({"average"} if rule.average else set())
    for kept, pair in slots.items():
        buffer = net._state.average if kept == "average" else net._state.slots[kept]
        for got, right in zip(pair, net._spec.views(buffer)):
            assert_close(got, right, dtype, k=400 * sum(shape))


def test_a_clipped_and_an_accumulated_update_are_those_of_their_gradients(forced, dtype):
    (grad_output, a, x, weight, bias), _, _ = at_hand((17, 33, 9), "tanh", dtype)
    _, grad_weight, grad_bias = ops.linear_backward(grad_output, a, x, weight, "tanh")
    norm = np.sqrt(float((grad_weight.astype(np.float64) ** 2).sum() + (grad_bias.astype(np.float64) ** 2).sum()))
    clipped, plain = fastbp.SGD(0.1, clip_norm=0.5), fastbp.SGD(0.1, accumulate=2)
    w, b = weight.copy(), bias.copy()
    ops.linear_backward_update(grad_output, a, x, w, b, clipped, "tanh", slots=ops.slots(clipped, w, b))
    assert_close(w, weight - 0.1 * 0.5 / (norm + 1e-6) * grad_weight, dtype, k=60)
    w, b = weight.copy(), bias.copy()
    slots = ops.slots(plain, w, b)
    ops.linear_backward_update(grad_output, a, x, w, b, plain, "tanh", slots=slots, step=0)
    assert w.tobytes() == weight.tobytes() and b.tobytes() == bias.tobytes()
    ops.linear_backward_update(3 * grad_output, a, x, w, b, plain, "tanh", slots=slots, step=1)
    assert_close(w, weight - 0.1 * 2 * grad_weight, dtype, k=60)
    assert_close(b, bias - 0.1 * 2 * grad_bias, dtype, k=60)


def test_a_rate_that_may_answer_otherwise_is_asked_each_time():
    rates = iter([0.5, 0.25, 0.125])
    rule = fastbp.SGD(lambda step: next(rates))
    one = np.ones((1, 1))
    weight = np.zeros((1, 1))
    for total in (-0.5, -0.75, -0.875):
        ops.linear_backward_update(one, one, one, weight, None, rule)
        assert weight[0, 0] == total


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 7), (17, 16), ()], ids=str)
@pytest.mark.parametrize("name", [*activations.TABLE, "celu"])
def test_an_activation_and_its_way_back_are_those_of_the_reference(name, shape, forced, dtype):
    rng = np.random.default_rng(1)
    z, g = (rng.normal(size=shape).astype(dtype).reshape(shape) for _ in range(2))
    a = ops.activation(z, name)
    back = ops.activation_backward(g, a, name, z=z)
    with fastbp.backend("reference"):
        wanted = ops.activation(z, name)
        wanted_back = ops.activation_backward(g, a, name, z=z)
    assert a.dtype == back.dtype == dtype and type(a) is type(back) is np.ndarray
    assert_close(a, wanted, dtype, k=4, scale=8)
    assert_close(back, wanted_back, dtype, k=4, scale=8)
    if shape:   # in place
        assert ops.activation_backward(g, a, name, z=z, out=g) is g and g.tobytes() == back.tobytes()
        assert ops.activation(z, name, out=z) is z and z.tobytes() == a.tobytes()


@pytest.mark.parametrize("rows, cols", [(1, 1), (3, 2), (17, 5), (9, 16), (4, 38)], ids=str)
@pytest.mark.parametrize("name", losses.TABLE)
def test_a_loss_is_that_of_a_network_whose_output_it_is(name, rows, cols, forced, dtype):
    """`MLP.loss_and_grad` of the reference, whose bias's gradient is the sum of dL/dz over rows."""
    row = losses.TABLE[name]
    if row.grad_s and cols % 2:
        cols += 1
    rng = np.random.default_rng(2)
    z, y = rng.normal(size=(rows, cols)).astype(dtype), draw(row, (rows, row.targets(cols)), rng, dtype)
    weight = rng.uniform(0, 2, rows)
    weight[0] += 1
    choices = [(row, y, None), (row, y, weight), (row(outputs="sum"), y, weight)]
    if row.labels:
        choices.append((row, rng.integers(0, cols, rows), weight))
    for loss, targets, w in choices:
        net = fastbp.MLP((cols, cols), init=[np.eye(cols)], dtype=np.float64, backend="reference")
        value, grad = ops.loss(loss, z, targets, w)
        wanted, grads = net.loss_and_grad(z, targets, loss=loss, sample_weight=w)
        assert isinstance(value, float) and grad.dtype == dtype
        assert_close(value, wanted, dtype, k=40 + rows * cols, scale=max(1, abs(wanted)))
        assert_close(grad.sum(axis=0), grads[-cols:], dtype, k=40 + rows * cols, scale=4)
        out = np.empty_like(z)
        again, found = ops.loss(loss, z, targets, w, out=out)
        assert found is out and again == value and out.tobytes() == grad.tobytes()


def draw(row, shape, rng, dtype):
    """Targets of a loss's domain."""
    if row.labels:
        y = rng.uniform(0.1, 1, size=shape)
        return (y / y.sum(axis=1, keepdims=True)).astype(dtype)
    low, high, ends = row.domain
    if ends == "{}":
        return rng.choice([low, high], size=shape).astype(dtype)
    return rng.uniform(max(low, -2) + 0.01, min(high, 3) - 0.01, size=shape).astype(dtype)


def test_a_row_of_ones_own_goes_through_every_function(forced):
    need_numba()
    own = fastbp.Activation("doubled", "2 * z", "2 * g")
    z = np.array([[1.0, -2.0]])
    assert ops.activation(z, own).tolist() == [[2, -4]]
    assert ops.activation_backward(z, z, own).tolist() == [[2, -4]]
    assert ops.linear(z, np.eye(2), None, own).tolist() == [[2, -4]]
    assert ops.linear_backward(z, z, z, np.eye(2), own)[0].tolist() == [[2, -4]]
    cubed = fastbp.Loss("cubed", "(z - t) * (z - t) * (z - t)", "3 * (z - t) * (z - t)", "sum")
    value, grad = ops.loss(cubed, z, z + 1)
    assert value == -2 and grad.tolist() == [[3, 3]]


# ------------------------------------------------------------------ where arrays lie

ODD = [1, 2, 3, 4, 5, 16, 17, 37, 51, 64, 130]
LAYOUTS = {   # of a matrix: another array with the same numbers
    "plain": lambda a: a.copy(),
    "rows of a larger one": lambda a: np.pad(a, ((1, 1), (2, 3)))[1:-1, 2:-3],
    "packed": lambda a: ops.packed(a),
    "Fortran": np.asfortranarray,
    "misaligned": lambda a: unaligned(a, a),
    "bad stride": lambda a: np.pad(a, ((0, 0), (0, 512 - a.shape[1])))[:, : a.shape[1]],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "every other": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("rows", [1, 3, 19, 40])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_where_an_array_lies(layout, rows, isa, dtype):
    """Bit by bit, and nothing beside what is written changes."""
    lay = LAYOUTS[layout]
    for n_in, n_out in itertools.product(ODD, ODD) if every_case else zip(ODD, ODD[rows % 7 :] + ODD):
        (g, a, x, weight, bias), z, _ = at_hand((n_in, n_out, rows), "silu", dtype)
        z = z.astype(dtype)
        wanted = ops.linear(x, weight, bias, "silu")
        assert ops.linear(lay(x), lay(weight), bias, "silu").tobytes() == wanted.tobytes()
        back = ops.linear_backward(g, a, x, weight, "silu", z=z)
        found = ops.linear_backward(lay(g), lay(a), lay(x), lay(weight), "silu", z=lay(z))
        assert [part.tobytes() for part in found] == [part.tobytes() for part in back]
        if layout == "misaligned":   # which may be read alone
            continue
        out, whole = laid_out(lay, np.zeros_like(wanted))
        assert ops.linear(x, weight, bias, "silu", out=out) is out and out.tobytes() == wanted.tobytes()
        for rule in (0.1, fastbp.Adam(0.1)):
            plain, bias_of_plain, bias_too = weight.copy(), bias.copy(), bias.copy()
            there, _ = laid_out(lay, weight)
            slots, others = ops.slots(rule, plain, bias), ops.slots(rule, there, bias)
            for step in range(2):
                one = ops.linear_backward_update(
                    g, a, x, plain, bias_of_plain, rule, "silu", z=z, slots=slots, step=step
                )
                two = ops.linear_backward_update(
                    g, a, x, there, bias_too, rule, "silu", z=z, slots=others, step=step
                )
                assert one.tobytes() == two.tobytes()
            assert plain.tobytes() == there.tobytes() and bias_of_plain.tobytes() == bias_too.tobytes()
            for name in slots:
                assert [s.tobytes() for s in slots[name]] == [s.tobytes() for s in others[name]]


@pytest.mark.parametrize("n_out", [37, 130, 1024])
@pytest.mark.parametrize("rows", [3, 19])
def test_a_large_weight_whose_rows_meet_in_the_cache_gives_the_same(rows, n_out, isa, dtype):
    """Its panels are copied where several tiles read them."""
    (_, _, x, weight, bias), _, _ = at_hand((300, n_out, rows), "tanh", dtype)
    apart = np.pad(weight, ((0, 0), (0, 1030 - n_out)))[:, :n_out]
    bad = np.pad(weight, ((0, 0), (0, 1024 - n_out)))[:, :n_out]
    for b in (bias, None):
        assert ops.linear(x, bad, b, "tanh").tobytes() == ops.linear(x, apart, b, "tanh").tobytes()


THREADS = """
    import hashlib, itertools, sys
    import numpy as np, fastbp
    from fastbp import ops

    found, rng, dtype = hashlib.sha256(), np.random.default_rng(0), sys.argv[1]
    for n, n_in, n_out in itertools.product((1, 2, 7, 40), (3, 37, 64, 300), (1, 4, 5, 51, 64, 130)):
        x, w, g = (rng.normal(size=shape).astype(dtype) for shape in ((n, n_in), (n_in, n_out), (n, n_out)))
        a = ops.linear(x, w, g[0], "tanh")
        arrays = [a, *ops.linear_backward(g, a, x, w, "tanh")]
        for rule in (0.1, fastbp.Adam(0.1)):
            params = w.copy(), g[0].copy()
            slots = ops.slots(rule, *params)
            arrays += [ops.linear_backward_update(g, a, x, *params, rule, "tanh", slots=slots), *params]
        for array in arrays:
            found.update(array.tobytes())
    print(found.hexdigest())
"""


def test_any_number_of_threads_gives_the_same_bits(isa, dtype, monkeypatch):
    found = set()
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")   # for layers that one thread would do
    for n_threads in (1, 2, 3):
        monkeypatch.setenv("FASTBP_NUM_THREADS", str(n_threads))
        found.add(python(THREADS, dtype))
    assert len(found) == 1


def laid_out(lay, array):
    """A writable array of these numbers that lies so, and the memory it is in."""
    made = lay(array)
    return made, made if made.base is None else made.base


def test_nothing_beside_what_is_written_changes(isa, dtype):
    """Matrices that are columns of a larger one, whose other columns are NaN and stay so."""
    for n_in, n_out, rows in itertools.product((3, 16, 37, 64), (2, 5, 16, 51), (1, 3, 40)):
        (g, a, x, weight, bias), _, _ = at_hand((n_in, n_out, rows), "tanh", dtype)

        def framed(array):
            whole = np.full((array.shape[0] + 2, array.shape[1] + 5), np.nan, dtype)
            whole[1:-1, 2:-3] = array
            return whole, whole[1:-1, 2:-3]

        for rule in (0.1, fastbp.Adam(0.1)):
            frames = [framed(array) for array in (x, weight, a, g, np.zeros_like(a), np.zeros_like(x))]
            (_, rows_of_x), (_, w), (_, output), (_, upstream), (_, out), (_, back) = frames
            slots = ops.slots(rule, w, bias)
            for name in slots:
                frames.append(framed(slots[name][0]))
                slots[name] = frames[-1][1], slots[name][1]
            ops.linear(rows_of_x, w, bias, "tanh", out=out)
            ops.linear_backward_update(upstream, output, rows_of_x, w, bias.copy(), rule, "tanh", slots=slots, out=back)
            frames.append(framed(np.zeros_like(weight)))
            ops.linear_backward(upstream, output, rows_of_x, w, "tanh", out=(back, frames[-1][1], np.empty_like(bias)))
            for whole, inside in frames:
                assert np.isfinite(inside).all()
                assert np.isnan(whole).sum() == whole.size - inside.size


def test_a_packed_weight_lies_as_one_of_a_network_and_is_used_there(isa, dtype):
    for n_in, n_out in ((37, 51), (16, 64), (37, 3), (16, 1)):
        (g, a, x, weight, bias), _, _ = at_hand((n_in, n_out, 5), "tanh", dtype)
        net = fastbp.MLP((n_in, n_out), init=[(weight, bias)], dtype=dtype, backend="cython")
        made = ops.packed(weight)
        assert made.strides == net.weights[0].strides and made.flags.writeable and np.array_equal(made, weight)
        assert made.ctypes.data % 64 == 0 and type(made) is np.ndarray
        assert ops.linear(x, net.weights[0], net.biases[0]).tobytes() == ops.linear(x, weight, bias).tobytes()
        before = net.predict(x)
        ops.linear_backward_update(g, a, x, net.weights[0], net.biases[0], 0.1, "tanh")
        ops.linear_backward_update(g, a, x, made, bias, 0.1, "tanh")
        assert np.array_equal(net.weights[0], made) and np.array_equal(net.biases[0], bias)
        assert not np.allclose(net.predict(x), before)
        engine = backends.engine()
        calls = engine_calls(engine, dtype)   # the short way takes both
        for w in (net.weights[0], made):
            assert calls.linear(x, w, bias, "tanh", None, None) is not None
    assert ops.packed([[1, 2]]).dtype == np.float64


# ------------------------------------------------------------------ the short way and the long one


def engine_calls(engine, dtype):
    ops.linear(np.ones((1, 1), dtype), np.ones((1, 1), dtype))   # which looks at what is forced
    assert isinstance(ops._short, engine.Ops)
    return ops._short


@pytest.fixture
def long_way(monkeypatch):
    """Runs a call with its arguments taken the long way."""

    def run(call):
        with monkeypatch.context() as patch:
            patch.setattr(ops, "_short", ops.LONG_WAY)
            return call()

    return run


@pytest.mark.parametrize("shape", [(37, 51, 19), (4, 64, 1), (64, 64, 32), (5, 3, 7)], ids=str)
@pytest.mark.parametrize("name", ["relu", "silu"])
def test_both_ways_give_the_same_bits(name, shape, isa, dtype, long_way):
    (g, a, x, weight, bias), z, _ = at_hand(shape, name, dtype)
    z = z.astype(dtype)
    z_or_not = z if name == "silu" else None

    def update(rule):
        w, b = weight.copy(), bias.copy()
        slots = ops.slots(rule, w, b)
        made = [ops.linear_backward_update(g, a, x, w, b, rule, name, z=z_or_not, slots=slots, step=k)
                for k in range(3)]  # fmt: skip
        return [*made, w, b, *itertools.chain(*slots.values())]

    def step():
        w = weight.copy()
        ops.sgd_update(w, weight * 2, 0.1)
        return w

    calls = [
        lambda: ops.linear(x, weight, bias, name),
        lambda: ops.linear_backward(g, a, x, weight, name, z=z_or_not),
        lambda: update(0.1),
        lambda: update(fastbp.Adam(0.1)),
        step,
        lambda: ops.activation(z, name),
        lambda: ops.activation_backward(g, a, name, z=z_or_not),
    ]
    for call in calls:
        call()
        assert frozen(call()) == frozen(long_way(call))


def test_the_short_way_takes_what_is_usual_and_leaves_what_is_not(dtype):
    need_extension()
    engine = backends.engine()
    short = engine_calls(engine, dtype)
    (g, a, x, weight, bias), z, _ = at_hand((5, 6, 7), "tanh", dtype)
    read_only = unwritable(np.empty_like(a))
    assert short.linear(x, weight, bias, "tanh", None, None) is not None
    assert short.linear(x, weight, None, activations.TABLE["tanh"], np.empty_like(a), np.empty_like(a)) is not None
    for wrong in (x.tolist(), x[0], x[:0], x[:, 1:], x.astype(np.float16), x.astype(x.dtype.newbyteorder()),
                  np.asfortranarray(x), x.view(np.matrix), x[:, ::-1]):  # fmt: skip
        assert short.linear(wrong, weight, bias, "tanh", None, None) is None
        assert short.linear_backward(g, a, wrong, weight, "tanh", None, None) is None
        assert short.linear_backward_update(g, a, wrong, weight, bias, 0.1, "tanh", None, None, 0, None) is None
    for name in ("tnah", None, 3, np.tanh, fastbp.Activation("own", "z", "g")):
        assert short.linear(x, weight, bias, name, None, None) is None
    for out in (read_only, a[1:], x, [[0.0]]):
        assert short.linear(x, weight, bias, "tanh", out, None) is None
        assert short.linear(x, weight, bias, "tanh", None, out) is None
    both = np.empty_like(a)
    assert short.linear(x, weight, bias, "tanh", both, both) is None
    assert short.linear_backward(g, a, x, weight, "silu", None, None) is None
    for rate in (-0.1, np.inf, np.nan, 1, "adam", None):
        assert short.linear_backward_update(g, a, x, weight.copy(), bias, rate, "tanh", None, None, 0, None) is None
    for step in (-1, 0.0, None):
        assert short.linear_backward_update(g, a, x, weight.copy(), bias, 0.1, "tanh", None, None, step, None) is None
    assert short.linear_backward_update(g, a, x, weight, weight[0], 0.1, "tanh", None, None, 0, None) is None
    assert short.linear_backward_update(g, weight, x, weight, bias, 0.1, "tanh", None, None, 0, None) is None
    with fastbp.backend("reference"):
        assert short.linear(x, weight, bias, "tanh", None, None) is None


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
                rule = fastbp.SGD(0.1, momentum=0.5)
                slots = ops.slots(rule, weight, bias)
                ops.linear_backward_update(grad_output, a, x, weight, bias, rule, "tanh", slots=slots)
                return [weight, bias, *slots["velocity"]]

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


@pytest.mark.parametrize("rule", [0.1, fastbp.SGD(0.1, weight_decay=0.1), fastbp.Adam(0.1)], ids=repr)
@pytest.mark.parametrize("step", [2**40, 2**62 - 1, 2**62])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_step_may_be_as_late_as_may_be(rule, step, backend):
    weight = np.ones((3, 2))
    slots = fastbp.ops.slots(rule, weight)
    x, g = np.ones((4, 3)), np.ones((4, 2))
    for _ in range(2):
        before = weight.copy()
        with fastbp.backend(backend):
            made = fastbp.ops.linear_backward_update(g, g, x, weight, None, rule, slots=slots, step=step)
        assert made.tolist() == (g @ before.T).tolist()
        assert np.all(weight < before)


@pytest.mark.skipif(backends.missing("cython") is not None, reason="of the compiled functions")
def test_what_another_thread_forces_or_updates_in_between_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    x, weight, g = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 5), (5, 7), (6, 7)))
    x = x[:, ::-1]   # the long way
    rule, other = fastbp.Adam(0.1), fastbp.Adam(0.01)

    def calls():
        mine, param = weight.copy(), g.copy().T
        made = [fastbp.ops.linear(x, mine, activation="tanh"), *fastbp.ops.linear_backward(g, g, x, mine, "tanh")]
        slots = fastbp.ops.slots(rule, mine)
        made += [fastbp.ops.linear_backward_update(g, g, x, mine, None, rule, "tanh", slots=slots), mine]
        fastbp.ops.sgd_update(param, param + 1, 0.5)
        made += [param, fastbp.ops.activation(x, "tanh"), fastbp.ops.activation_backward(x, x, "tanh")]
        return [*made, fastbp.ops.loss("mse", x, x + 1)[1]]

    wanted, plain, busy = calls(), fastbp.ops._plain, []

    def with_another_thread(array, dtype):
        if not busy:
            busy.append(True)
            a_weight = np.ones((3, 3), np.float32)
            slots = fastbp.ops.slots(other, a_weight)
            fastbp.ops.linear_backward_update(np.eye(3), np.eye(3), np.eye(3), a_weight, None, other, slots=slots)
            fastbp.set_backend("reference")
            fastbp.ops.activation([1.0], "relu")
            fastbp.set_backend("auto")
            fastbp.set_backend("reference")
            busy.clear()
        return plain(array, dtype)

    monkeypatch.setattr(fastbp.ops, "_plain", with_another_thread)
    compiled = fastbp.ops._compiled

    def first_asked_for():
        fastbp.set_backend("auto")
        return compiled()

    monkeypatch.setattr(fastbp.ops, "_compiled", first_asked_for)
    try:
        got = calls()
    finally:
        fastbp.set_backend("auto")
    for a, b in zip(got, wanted, strict=True):
        assert np.array_equal(a, b)


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


def unaligned(array, values=0):
    made = np.frombuffer(bytearray(array.nbytes + 1), np.uint8)[1:].view(array.dtype).reshape(array.shape)
    made[...] = values
    return made


def stretched(array):
    """Rows, or numbers, that all lie in the same place."""
    return np.lib.stride_tricks.as_strided(array, strides=(0, *array.strides[1:]))


FLAWS = {
    "be writable": unwritable,
    "be aligned": unaligned,
    "be free of overlap with itself": stretched,
    "be an? (array of float64|float32 or float64 array)": lambda array: array.astype(array.dtype.newbyteorder()),
}


WRITTEN = ["weight", "bias", "slots['velocity'][0]", "slots['velocity'][1]"]
RULE = fastbp.SGD(0.1, momentum=0.9)


def written():
    """What `linear_backward_update` writes, and what it reads."""
    (grad_output, a, x, weight, bias), z, _ = at_hand((4, 4, 4), "silu", np.float64)
    mine = dict(zip(WRITTEN, (weight, bias, np.ones_like(weight), np.ones_like(bias))))
    return mine, {"x": x, "a": a, "grad_output": grad_output, "z": z}


def update(mine, read):
    return ops.linear_backward_update(
        read["grad_output"], read["a"], read["x"], mine["weight"], mine["bias"], RULE, "silu", z=read["z"],
        slots={"velocity": tuple(mine[name] for name in WRITTEN[2:])},
    )  # fmt: skip


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("name", WRITTEN)
def test_what_cannot_be_written_whole_is_refused_and_nothing_is_written(name, flaw):
    mine, read = written()
    mine[name] = FLAWS[flaw](mine[name])
    before = {key: array.copy() for key, array in mine.items()}
    with pytest.raises(ValueError, match=f"^{re.escape(name)} (is written in place and )?must {flaw}"):
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
        (lambda: ops.linear_backward_update(G, G, X, WEIGHT, BIAS, "adma"), "did you mean 'adam'"),
        (lambda: ops.linear_backward_update(G, G, X, WEIGHT, BIAS, 0.1, step=-1), "step must be from 0 to"),
        (lambda: ops.linear_backward_update(G, G, X, WEIGHT, BIAS, RULE), "slots: SGD keeps velocity; make them once"),
        (lambda: ops.linear_backward_update(G, G, X, WEIGHT, BIAS, RULE, slots={"velocity": WEIGHT[0]}),
         r"slots\['velocity'\] must be a pair"),
        (lambda: ops.linear_backward_update(G, G, X, WEIGHT, BIAS, RULE, slots={"mean": (WEIGHT, BIAS)}),
         "slots must be what ops.slots"),
        (lambda: ops.linear_backward_update(G, G, X, WEIGHT, BIAS, RULE, slots={"velocity": (BIAS, WEIGHT)}),
         r"slots\['velocity'\]\[0\] must be an array of float64 with shape \(4, 3\), got"),
        (lambda: ops.linear_backward_update(G, G, X, WEIGHT, BIAS, 0.1, out=np.empty((2, 3))),
         r"out must be .*\(2, 4\), got"),
        (lambda: ops.linear_backward(G, G, X, WEIGHT, out=(X, WEIGHT)), "out must be three arrays"),
        (lambda: ops.linear_backward(G, G, X, WEIGHT, out=(X, WEIGHT, X)), r"out\[2\] must be .*shape \(3,\)"),
        (lambda: ops.slots(0.1, WEIGHT.tolist()), "weight must be a float32 or float64 array of shape"),
        (lambda: ops.slots("adam", WEIGHT, BIAS[1:]), r"bias must have shape \(3,\)"),
        (lambda: ops.packed(BIAS), r"weight must have shape \(in_features, out_features\)"),
        (lambda: ops.activation(X, "rleu"), "did you mean 'relu'"),
        (lambda: ops.activation(X, "relu", out=np.empty((2, 3))), r"out must be .* shape \(2, 4\), got"),
        (lambda: ops.activation_backward(X[1:], X, "relu"), r"grad must have a's shape \(2, 4\), got \(1, 4\)"),
        (lambda: ops.activation_backward(X, X, "silu"), "activation 'silu' needs z"),
        (lambda: ops.loss("mes", G, G), "did you mean 'mse'"),
        (lambda: ops.loss("mse", G[0], G), r"z must have shape \(n, out_features\)"),
        (lambda: ops.loss("mse", G, G[1:]), "z and y are inconsistent: z has 2 rows"),
        (lambda: ops.loss("softmax_cross_entropy", G, np.array([0, 3])), "class labels from 0 to 2"),
        (lambda: ops.loss("mse", G, G, [1.0, -1.0]), "sample_weight must be finite and at least 0"),
        (lambda: ops.loss("mse", G, G, out=np.empty((3, 2))), r"out must be .* shape \(2, 3\), got"),
        (lambda: ops.sgd_update([1.0], [1.0], 0.1), "param must be a float32 or float64 array"),
        (lambda: ops.sgd_update(np.ones(2), np.ones(3), 0.1), r"grad must have param's shape \(2,\), got \(3,\)"),
        (lambda: ops.sgd_update(np.ones(2), np.ones(2), 0.1, momentum=0.9), "velocity: momentum needs an array"),
        (lambda: ops.sgd_update(np.ones(2), np.ones(2), 0.1, nesterov=True), "nesterov"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
