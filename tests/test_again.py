"""Calls made again: `train_step` and `predict` with arguments like the last ones take a short way, to the same bits."""

import pickle
import sys
import threading
from unittest import mock

import numpy as np
import pytest
from conftest import frozen
from tolerance import assert_close

import fastbp
from fastbp import backends
from fastbp.backends import reference

pytestmark = pytest.mark.skipif(backends.missing("cython") is not None, reason="the short way is compiled")


def data(loss="mse", dtype=np.float32, rows=8):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 5)).astype(dtype)
    return x, rng.integers(0, 3, rows) if loss == "softmax_cross_entropy" else rng.uniform(size=(rows, 3)).astype(dtype)


def network(dtype=np.float32, **changes):
    return fastbp.MLP((5, 7, 3), activation="tanh", seed=1, dtype=dtype, **changes)


def long_way(net):
    """Forget the last calls, so that the next one is checked in full."""
    net._train_step_again = net._predict_again = None


def in_threads(work, count=8):
    """work(0), work(1), ... at the same time."""
    threads = [threading.Thread(target=work, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def same(a, b):
    return np.array_equal(a.flatten().view(np.uint8), b.flatten().view(np.uint8)) and a.step == b.step


@pytest.mark.parametrize("optimizer", ["sgd", fastbp.SGD(0.1, momentum=0.9), fastbp.SGD(0.1, weight_decay=0.01)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", ["mse", "softmax_cross_entropy", "binary_cross_entropy"])
def test_the_short_way_gives_the_bits_of_the_long_way(loss, dtype, optimizer):
    short, long = network(dtype), network(dtype)
    x, y = data(loss, dtype)
    for k in range(20):
        values = []
        for net in (short, long):
            if net is long:
                long_way(long)
            values.append(net.train_step(x + x.dtype.type(k), y, loss=loss, optimizer=optimizer))
        assert values[0] == values[1]
        assert short._train_step_again is not None
        assert same(short, long)
    before = short.predict(x[:1])
    assert short._predict_again is not None
    assert np.array_equal(short.predict(x[:1]), before)
    long_way(short)
    assert np.array_equal(short.predict(x[:1]), before)


def test_the_short_way_is_taken():
    net, (x, y) = network(), data()
    net.train_step(x, y, optimizer="sgd")
    assert net._train_step_again(x, y, "mse", "sgd") is not None
    assert net._train_step_again(x.copy(), y.copy(), "mse", "sgd") is not None
    assert net.step == 3
    net.predict(x)
    assert net._predict_again(x[:5]).shape == (5, 3)


CHANGED = {
    "rows": lambda x, y: (x[:7], y[:7], "mse", "sgd"),
    "dtype of x": lambda x, y: (x.astype(np.float64), y, "mse", "sgd"),
    "dtype of y": lambda x, y: (x, y.astype(np.float64), "mse", "sgd"),
    "byte order": lambda x, y: (x.astype(">f4"), y, "mse", "sgd"),
    "strides": lambda x, y: (np.repeat(x, 2, axis=1)[:, ::2], y, "mse", "sgd"),
    "Fortran order": lambda x, y: (np.asfortranarray(x), y, "mse", "sgd"),
    "list": lambda x, y: (x.tolist(), y, "mse", "sgd"),
    "subclass": lambda x, y: (x.view(np.memmap), y, "mse", "sgd"),
    "loss": lambda x, y: (x, y, "half_squared_error", "sgd"),
    "optimizer": lambda x, y: (x, y, "mse", fastbp.SGD(0.5)),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_is_not_like_the_last_call_goes_the_long_way(what):
    x, y = data()
    net, other = network(), network()
    arguments = CHANGED[what](x, y)
    net.train_step(x, y, optimizer="sgd")
    assert net._train_step_again(*arguments) is None
    assert net.step == 1
    other.train_step(x, y, optimizer="sgd")
    long_way(other)
    for each in (net, other):
        each.train_step(*arguments[:2], loss=arguments[2], optimizer=arguments[3])
    assert same(net, other)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_are_named_as_on_the_long_way_and_change_nothing(bad):
    net, (x, y) = network(), data()
    net.train_step(x, y)
    before = net.flatten()
    wrong_x, wrong_y = x.copy(), y.copy()
    wrong_x[3, 2], wrong_y[4, 1] = np.nan, bad
    with pytest.raises(ValueError, match=r"y\[4, 1\]"):
        net.train_step(x, wrong_y)
    with pytest.raises(fastbp.NonFiniteError, match="row 3, column 2"):
        net.train_step(wrong_x, y)
    assert np.array_equal(net.flatten(), before)
    assert net.step == 1
    net.train_step(x, y)
    assert net.step == 2


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_labels_out_of_range_are_named(label):
    net, (x, y) = network(), data("softmax_cross_entropy")
    net.train_step(x, y, loss="softmax_cross_entropy")
    y[5] = label
    with pytest.raises(ValueError, match=r"y\[5\]"):
        net.train_step(x, y, loss="softmax_cross_entropy")


def test_targets_outside_of_the_domain_are_named():
    net, (x, y) = network(), data("binary_cross_entropy")
    net.train_step(x, y, loss="binary_cross_entropy")
    y[5, 0] = 1.5
    with pytest.raises(ValueError, match=r"y\[5, 0\]"):
        net.train_step(x, y, loss="binary_cross_entropy")


def test_arrays_in_the_parameters_are_copied_first():
    sizes = (4, 4, 4)
    nets = [fastbp.MLP(sizes, seed=2) for _ in range(2)]
    start = np.ones((4, 4), np.float32)
    for net in nets:
        net.train_step(start, start)
    inside = nets[0].params[: 4 * 16].reshape(4, 16)[:, :4]
    packed = nets[0].params[:16].reshape(4, 4)
    for view in (inside, packed):
        nets[1].unflatten(nets[0].flatten())
        copies = view.copy()
        nets[0].train_step(view, start)
        long_way(nets[1])
        nets[1].train_step(copies, start)
        assert same(*nets)


def test_new_slots_are_seen():
    momentum, (x, y) = fastbp.SGD(0.1, momentum=0.9), data()
    net, other = network(), network()
    for each in (net, other):
        for _ in range(3):
            each.train_step(x, y, optimizer=momentum)
        each.reset_training()
        if each is other:
            long_way(other)
        each.train_step(x, y, optimizer=momentum)
    assert same(net, other)


def test_what_is_frozen_later_is_seen():
    net, other, (x, y) = network(), network(), data()
    for weight in (False, True, False):
        for each in (net, other):
            each.freeze(0, weight=weight, bias=False)
            before = each.weights[0].copy()
            if each is other:
                long_way(other)
            for _ in range(3):
                each.train_step(x, y)
            assert np.array_equal(each.weights[0], before) == weight
        assert same(net, other)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_another_run_leaves_is_seen(optimizer):
    """Gradients that wait for an update wait in vain; predict_proba goes by the last loss."""
    by_name, (x, y), (_, labels) = fastbp.optimizers.BY_NAME[optimizer], data(), data("softmax_cross_entropy")
    others = (
        {"y": labels, "loss": "softmax_cross_entropy", "optimizer": optimizer},
        {"y": y, "optimizer": by_name(accumulate=3)},
    )
    for other in others:
        short, long = network(), network()
        for _ in range(2):
            for net in (short, long):
                for _ in range(2):
                    net.train_step(x, y, optimizer=optimizer)
            assert repr(short._state.to_dict()) == repr(long._state.to_dict())
            assert short._train_step_again is not None
            for net in (short, long):
                net.fit(x, steps=1, **other)
            long_way(long)
        assert same(short, long)


def test_what_is_forced_later_is_seen(monkeypatch):
    net, (x, y) = network(), data()

    def again():
        return net._train_step_again(x, y, "mse", "sgd") is not None, net._predict_again(x) is not None

    net.train_step(x, y, optimizer="sgd")
    net.predict(x)
    assert again() == (True, True)
    monkeypatch.setenv("FASTBP_BACKEND", "reference")
    assert again() == (False, False)
    monkeypatch.delenv("FASTBP_BACKEND")
    monkeypatch.setenv("FASTBP_ISA", "no such")
    assert again() == (False, False)
    with pytest.raises(RuntimeError, match="no such"):
        net.predict(x)
    monkeypatch.delenv("FASTBP_ISA")
    assert again() == (True, True)
    with fastbp.backend("reference"):
        assert again() == (False, False)
    fastbp.set_backend("reference")
    try:
        assert again() == (False, False)
    finally:
        fastbp.set_backend("auto")


def test_the_backend_that_compile_stays_with_is_that_of_calls_made_again(monkeypatch):
    served = []
    for verb in ("forward", "train"):
        inner = getattr(reference.Program, verb)
        monkeypatch.setattr(
            reference.Program, verb,
            lambda *args, inner=inner, verb=verb, **options: served.append(verb) or inner(*args, **options),
        )  # fmt: skip
    net, (x, y) = network(backend="cython"), data()
    for _ in range(2):
        net.predict(x)
        net.train_step(x, y, optimizer="sgd")
    assert net._predict_again is not None and net._train_step_again is not None
    net.compile("reference")
    twin = network(backend="reference")
    step = lambda one: one.train_step(x, y, optimizer="sgd")  # noqa: E731
    twin.unflatten(net.flatten())
    for call in (lambda one: one.predict(x), step, lambda one: one.predict(x)):
        served.clear()
        values = [frozen(call(one)) for one in (net, twin)]
        assert values[0] == values[1] and len(served) >= 2 and len(set(served)) == 1
    assert net.flatten().tobytes() == twin.flatten().tobytes()


def test_a_pending_forward_is_dropped_by_a_step_and_kept_by_an_error():
    net, (x, y) = network(), data()
    net.train_step(x, y)
    a = net.forward(x)
    with pytest.raises(ValueError):
        net.train_step(x, y * np.nan)
    net.backward(a)
    net.forward(x)
    net.train_step(x, y)
    with pytest.raises(RuntimeError, match="no forward is pending"):
        net.backward(a)


def test_a_network_that_is_training_elsewhere_refuses():
    net, (x, y) = network(), data()
    net.train_step(x, y)
    with net._exclusive(), pytest.raises(RuntimeError, match="training already"):
        net.train_step(x, y)
    net.train_step(x, y)


def test_copies_and_pickles_have_their_own():
    net, (x, y) = network(), data()
    net.train_step(x, y)
    other = pickle.loads(pickle.dumps(net))
    for each in (net, other):
        each.train_step(x, y)
    assert same(net, other)
    net.train_step(x, y)
    assert not same(net, other)


def test_predict_from_many_threads():
    net, (x, _) = network(), data(rows=200)
    wanted = net.predict(x)
    wrong = []

    def work(k):
        for n in range(1, 150):
            if not np.array_equal(net.predict(x[k : k + n]), wanted[k : k + n]) and n > 24:
                wrong.append((k, n))

    in_threads(work)
    assert not wrong


def test_ops_called_again_see_new_arrays_and_rows(isa):
    rng = np.random.default_rng(0)
    for k in range(60):   # more kinds of layers than are kept, and the first ones again
        n_in, n_out, name = 3 + k % 40, 5, ("relu", "tanh")[k % 2]
        x, weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((6, n_in), (n_in, n_out), n_out))
        with fastbp.backend("reference"):
            wanted = fastbp.ops.linear(x, weight, bias, name)
        got = fastbp.ops.linear(x, weight, bias, name)
        assert_close(got, wanted, np.float32, 4 * n_in)
        grads = fastbp.ops.linear_backward(got, got, x, weight, name)
        with fastbp.backend("reference"):
            for a, b in zip(grads, fastbp.ops.linear_backward(got, got, x, weight, name)):
                assert_close(a, b, np.float32, n_in + 6)


def test_ops_from_many_threads():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(8, 40, 30)).astype(np.float32)
    x = rng.normal(size=(9, 40)).astype(np.float32)
    wanted = [fastbp.ops.linear(x, weight) for weight in weights]
    wrong = []

    def work(k):
        for _ in range(300):
            if not np.array_equal(fastbp.ops.linear(x, weights[k]), wanted[k]):
                wrong.append(k)

    in_threads(work)
    assert not wrong


def test_objects_are_cast_each_time():
    net, other = network(), network()
    x, y = data()
    for each, rows in ((net, x.astype(object)), (other, x)):
        for _ in range(3):
            each.train_step(rows, y)
    assert same(net, other)


def test_numbers_that_are_no_labels_go_the_long_way():
    net = fastbp.MLP((5, 1), seed=1)
    x, _ = data()
    net.train_step(x, np.ones(8, np.float32), loss="softmax_cross_entropy")
    with pytest.raises(ValueError, match="probabilities"):
        net.train_step(x, np.full(8, 0.5, np.float32), loss="softmax_cross_entropy")


def test_an_optimizer_of_another_type_is_refused_and_one_of_a_subclass_is_asked_each_time():
    class Falling(fastbp.SGD):
        def scalars(self, step, steps, **more):
            return [np.broadcast_to(np.float64(0.1 / (step + 1)), steps)]

    x, y = data()
    net, other = network(), network()
    for step in range(4):
        net.train_step(x, y, optimizer=Falling(0.1))
        other.train_step(x, y, optimizer=fastbp.SGD(0.1 / (step + 1)))
    assert same(net, other)
    other.train_step(x, y, optimizer="sgd")
    for wrong in (np.zeros(3), None, mock.ANY):
        with pytest.raises(TypeError, match="optimizer"):
            other.train_step(x, y, optimizer=wrong)


def test_no_reference_is_left_behind():
    net, (x, y) = network(), data()
    net.train_step(x, y)
    net.predict(x)
    objects = [None, x, y, net._state, net._training, net._train_step_again, net._predict_again]
    before = [sys.getrefcount(thing) for thing in objects]
    for _ in range(2000):
        net.train_step(x, y)
        net.predict(x)
    assert max(sys.getrefcount(thing) - n for thing, n in zip(objects, before)) < 100


def test_ops_keep_little_and_threads_may_crowd_them_out():
    rng = np.random.default_rng(0)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(300):
            n_in, n_out = rng.integers(1, 30, 2)
            x, weight = rng.normal(size=(3, n_in)), rng.normal(size=(n_in, n_out))
            try:
                assert_close(fastbp.ops.linear(x, weight), x @ weight, np.float64, n_in)
            except Exception as error:   # whatever a thread meets
                wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(work)
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    _, before, _ = backends.engine().allocations()
    for k in range(40):
        large = rng.normal(size=(1 << 16) - k)
        fastbp.ops.sgd_update(large, large.copy(), 0.1)
    assert backends.engine().allocations()[1] - before < 1 << 20


def test_an_array_that_overlaps_itself_is_refused_and_an_empty_one_is_not():
    window = np.lib.stride_tricks.as_strided(np.ones(4), (3, 2), (8, 8))
    with pytest.raises(ValueError, match="overlap"):
        fastbp.ops.sgd_update(window, np.ones((3, 2)), 0.1)
    fastbp.ops.sgd_update(np.ones((0, 4)), np.ones((0, 4)), 0.1)
    assert fastbp.ops.linear(np.ones((0, 3)), np.ones((3, 2)), out=np.empty((0, 2))).shape == (0, 2)
    for view in (np.ones((4, 6)).T, np.ones((4, 6))[::2, ::-3], np.ones((4, 1, 6))[:, 0]):
        fastbp.ops.sgd_update(view, np.ones(view.shape), 0.25)
        assert (view == 0.75).all()


@pytest.mark.parametrize("activation", [["identity", "relu"], ["silu", "identity"], ["silu", "silu"]])
def test_a_bias_that_overflows_beside_the_batch_does_not_reach_a_tiny_network(activation, isa):
    net = fastbp.MLP((1, 1, 1, 1), seed=0, activation=activation)
    for k, (weight, bias) in enumerate(((-3e38, 3e38), (4, 0), (1, 0))):
        net.weights[k][...], net.biases[k][...] = weight, bias
    before = net.flatten()
    net.train_step(np.ones((3, 1), np.float32), np.ones((3, 1), np.float32), optimizer=fastbp.SGD(lr=0))
    assert np.array_equal(net.flatten(), before)
