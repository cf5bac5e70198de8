"""`hidden` and `input_gradient`: what a network makes of its inputs on the way, and what these do to an output."""

import copy
import pickle
import time
from functools import partial

import numpy as np
import pytest
from conftest import frozen, need_extension, need_numba
from others import csr
from tolerance import assert_close

import fastbp
from fastbp import activations, backends

SIZES = [  # hidden layers that are narrow, as an output may be; that are wide; that fill vectors and that do not
    (1, 1), (3, 4), (2, 3, 1), (7, 4, 4), (5, 17, 9, 3), (3, 2, 70, 5), (33, 48, 20), (65, 1, 130, 4, 2),
]  # fmt: skip
ROWS = [1, 2, 7, 24, 25, 130, 300]  # of each family of kernels, and more than a block
HANDS = {  # f, f'
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
}
KINKED = {"relu", "leaky_relu", "selu", "hard_sigmoid", "hard_tanh", "hard_swish", "relu6"}
HIDDEN_OF = [sizes for sizes in SIZES if len(sizes) > 2]


def build(sizes, backend="auto", *, dtype=np.float32, **options):
    options = {"activation": "tanh", "bias_init": "uniform", "seed": 1, **options}
    return fastbp.MLP(sizes, dtype=dtype, backend=backend, **options)


def rows_of(net, n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, net.sizes[0])).astype(net.dtype)


def labels_of(net, n):
    return np.arange(n) * 7 % net.sizes[-1]


def by_hand(net, X, names):
    """z and a of each layer in float64, X being the first a."""
    z, a = [], [np.asarray(X, float)]
    for k, (weight, name) in enumerate(zip(net.weights, names)):
        z.append(a[-1] @ weight.astype(float) + (net.biases[k].astype(float) if net.biases else 0))
        a.append(HANDS[name][0](z[-1]) if name in HANDS else z[-1])
    return z, a


def names_of(sizes):
    """Another activation for each layer, the output's too."""
    names = [list(HANDS)[k % len(HANDS)] for k in range(len(sizes) - 1)]
    return names, {"activation": names[:-1], "output_activation": names[-1]}


# ------------------------------------------------------------------ what they are


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("sizes", HIDDEN_OF, ids=str)
def test_a_hidden_layer_is_what_a_hand_computes(sizes, bias, kernels, dtype):
    names, given = names_of(sizes)
    net = build(sizes, kernels, dtype=dtype, **given, **({} if bias else {"bias": False, "bias_init": None}))
    last = len(sizes) - 3
    for n in ROWS:
        X = rows_of(net, n)
        _, wanted = by_hand(net, X, names)
        for k in range(last + 1):
            got = net.hidden(X, k)
            assert got.dtype == dtype and got.shape == (n, sizes[k + 1]) and got.flags.c_contiguous
            assert_close(got, wanted[k + 1], dtype, sum(sizes[: k + 2]), scale=np.abs(wanted[k + 1]).max() + 1)
            assert net.hidden(X, k - last - 1).tobytes() == got.tobytes()
        assert net.hidden(X).tobytes() == net.hidden(X, last).tobytes()


@pytest.mark.parametrize("activation", activations.TABLE)
def test_the_output_layer_gets_what_the_last_hidden_one_gives(activation, kernels, dtype):
    net = build((4, 6, 5, 3), kernels, dtype=dtype, activation=activation, seed=3)
    X = rows_of(net, 30) / 4
    made = net.hidden(X).astype(float)
    wanted = made @ net.weights[-1] + net.biases[-1]
    scale = np.abs(made).max() * np.abs(net.weights[-1]).max() + 1
    assert_close(net.predict(X), wanted, dtype, 5, scale=scale)
    assert np.ptp(made) > 0


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_gradient_is_what_a_hand_computes(sizes, kernels, dtype):
    names, given = names_of(sizes)
    net = build(sizes, kernels, dtype=dtype, **given)
    for n in ROWS:
        X, labels = rows_of(net, n), labels_of(net, n)
        z, _ = by_hand(net, X, names)
        near = np.zeros(n, bool)  # of a kink
        g = np.eye(sizes[-1])[labels]
        for weight, at, name in list(zip(net.weights, z, names))[::-1]:
            near |= (np.abs(at) < 1e-5).any(axis=1) & (name in KINKED)
            g = g * HANDS[name][1](at) @ weight.T.astype(float)
        got = net.input_gradient(X, labels)
        assert got.dtype == dtype and got.shape == X.shape and got.flags.c_contiguous
        assert near.mean() < 0.1
        assert_close(got[~near], g[~near], dtype, 2 * sum(sizes), scale=np.abs(g).max() + 1e-3)


@pytest.mark.parametrize("activation", activations.TABLE)
def test_the_gradient_is_a_finite_difference(activation, kernels):
    net = build((4, 6, 5, 3), kernels, dtype=np.float64, activation=activation, output_activation=activation, seed=3)
    if activation == "exp":  # which grows from layer to layer
        net.unflatten(net.flatten() / 4)
    X, labels = rows_of(net, 20), labels_of(net, 20)
    got, step, met = net.input_gradient(X, labels), 1e-5, 0
    of_labels = lambda x: net.predict(x)[np.arange(len(x)), labels]  # noqa: E731
    middle = of_labels(X)
    for i in range(4):
        right, left = of_labels(X + step * np.eye(4)[i]), of_labels(X - step * np.eye(4)[i])
        smooth = np.abs(right + left - 2 * middle) < 1000 * step * step  # else there is a kink between
        wanted = ((right - left) / (2 * step))[smooth]
        assert np.abs(got[smooth, i] - wanted).max() <= 1e-7 * np.abs(got).max() + 1e-9
        met += smooth.sum()
    assert met >= 70 and np.abs(got).max() > 1e-3


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_gradient_is_that_of_forward_and_backward_to_the_bit(sizes, kernels, dtype):
    """Whether gradients of parameters are made beside it or not."""
    net = build(sizes, kernels, dtype=dtype, output_activation="sigmoid")
    for n in (1, 7, 25, 256):
        X, labels = rows_of(net, n), labels_of(net, n)
        net.forward(X)
        assert net.input_gradient(X, labels).tobytes() == net.backward(np.eye(sizes[-1])[labels]).tobytes()


@pytest.mark.parametrize("kind", [np.float16, np.longdouble])
def test_other_dtypes(kind):
    net = build((3, 5, 4, 2), dtype=kind)
    X = rows_of(net, 40)
    _, wanted = by_hand(net, X, ["tanh", "tanh", None])
    assert net.hidden(X, 0).dtype == net.input_gradient(X, 0).dtype == kind
    assert_close(net.hidden(X), wanted[2], np.float16 if kind is np.float16 else np.float64, 12)
    assert_close(net.input_gradient(X, 1), build((3, 5, 4, 2), dtype=np.float64).input_gradient(X, 1),
                 np.float16 if kind is np.float16 else np.float32, 24, scale=1)  # fmt: skip


def test_rows_of_the_users_own():
    need_numba()
    swoosh = fastbp.Activation("swoosh", forward="z / (1 + ABS(z))", backward="g / ((1 + ABS(z)) * (1 + ABS(z)))")
    nets = [build((3, 5, 4, 2), name, activation=swoosh) for name in backends.NAMES if not backends.missing(name)]
    X = rows_of(nets[0], 30)
    twin = build((3, 5, 4, 2), "reference", activation="softsign")
    for net in nets:
        assert_close(net.hidden(X, 0), twin.hidden(X, 0), np.float32, 5)
        assert_close(net.input_gradient(X, 1), twin.input_gradient(X, 1), np.float32, 20)
    assert len(nets) >= 2


# ------------------------------------------------------------------ which output


def test_outputs_are_named_by_number_or_by_row(kernels, dtype):
    net = build((4, 9, 5), kernels, dtype=dtype)
    X, labels = rows_of(net, 40), labels_of(net, 40)
    each = [net.input_gradient(X, k) for k in range(5)]
    assert len({g.tobytes() for g in each}) == 5
    for k, g in enumerate(each):
        for same in (k - 5, np.int8(k), np.array(k), np.full(40, k), [k] * 40):
            assert net.input_gradient(X, same).tobytes() == g.tobytes()
    wanted = np.stack([each[k][row] for row, k in enumerate(labels)]).tobytes()
    for kind in (np.uint8, np.int16, ">i4", np.uint64):
        assert net.input_gradient(X, labels.astype(kind)).tobytes() == wanted
    assert net.input_gradient(X, labels.tolist()).tobytes() == wanted
    assert net.input_gradient(X, np.repeat(labels, 2)[::2]).tobytes() == wanted
    signs = [each[int(k)][row] for row, k in enumerate(labels == 2)]
    assert net.input_gradient(X, labels == 2).tobytes() == np.stack(signs).tobytes()


def test_a_network_of_one_output_needs_no_number(kernels, dtype):
    net = build((4, 9, 1), kernels, dtype=dtype)
    X = rows_of(net, 40)
    for same in (0, -1, np.zeros(40, int)):
        assert net.input_gradient(X, same).tobytes() == net.input_gradient(X).tobytes()


# ------------------------------------------------------------------ rows

VERBS = {
    "hidden": lambda net, X: net.hidden(X),
    "hidden, the first": lambda net, X: net.hidden(X, 0),
    "input_gradient": lambda net, X: net.input_gradient(X, 1),
    "input_gradient of labels": lambda net, X: net.input_gradient(X, labels_of(net, X.shape[0])),
}


@pytest.fixture(params=VERBS)
def verb(request):
    return VERBS[request.param]


def test_blocks_of_rows_are_rows(verb, kernels, dtype):
    net = build((5, 17, 9, 3), kernels, dtype=dtype)
    X = rows_of(net, 700)
    # Labels go round with the rows: what is cut off begins with label 0, as all rows do.
    pieces = [slice(0, 0), slice(0, 255), slice(255, 510), slice(510, 699), slice(699, 700)]
    got = [verb(net, X[piece]) for piece in pieces]
    whole = verb(net, X)
    assert got[0].shape == (0, whole.shape[1]) and got[0].dtype == dtype
    assert_close(np.concatenate(got), whole, dtype, 40, scale=np.abs(whole).max() + 1)
    assert len(np.unique(whole, axis=0)) > 600


@pytest.mark.parametrize("backend", ["cython", "reference"], indirect=True)
def test_rows_of_every_kind(verb, backend, dtype, tmp_path):
    net = build((5, 17, 9, 3), backend, dtype=dtype)
    X = np.round(4 * rows_of(net, 300)) * (np.arange(5) % 2)
    wanted = verb(net, X.copy()).tobytes()
    X.astype("<f4").tofile(tmp_path / "rows")
    stored = np.memmap(tmp_path / "rows", "<f4", "r", shape=(300, 5))
    kinds = [X.astype(np.int8), X.astype(">f8"), np.asfortranarray(X), X[::-1].copy()[::-1], csr(X), stored]
    for same in kinds:
        assert verb(net, same).tobytes() == wanted, type(same)
    assert net.hidden(X.tolist()).tobytes() == net.hidden(X).tobytes()


def test_nan_stays_in_its_row_and_nothing_is_said(kernels, dtype):
    net = build((5, 17, 9, 3), kernels, dtype=dtype)
    X = rows_of(net, 40)
    spoiled = X.copy()
    spoiled[3, 2], spoiled[9, 0] = np.nan, np.inf
    others = np.delete(np.arange(40), [3, 9])
    for verb in (net.predict, net.hidden, partial(net.input_gradient, output=1)):
        got = verb(spoiled)
        assert np.isnan(got[3]).all() and got[others].tobytes() == verb(X)[others].tobytes()
    assert np.isfinite(net.hidden(spoiled)[9]).all()


# ------------------------------------------------------------------ what they leave alone


def test_frozen_layers_and_dropout_change_nothing(verb, kernels, dtype):
    net, frozen_one, dropping = (
        build((5, 17, 9, 3), kernels, dtype=dtype, **more)
        for more in ({}, {}, {"dropout": 0.5, "input_dropout": 0.25})
    )
    X = rows_of(net, 300)
    for layer in range(3):
        frozen_one.freeze(layer)
    assert verb(frozen_one, X).tobytes() == verb(dropping, X).tobytes() == verb(net, X).tobytes()


def everything(net):
    pending = [n for _, n in net._pending]
    return pickle.dumps(net), repr(net._state.to_dict()), net.params.tobytes(), net.grads.tobytes(), pending


def test_nothing_of_the_network_changes(verb, kernels, dtype):
    net, twin = (build((5, 17, 9, 3), kernels, dtype=dtype, dropout=0.3) for _ in range(2))
    X, G = rows_of(net, 40), rows_of(net, 40)[:, :3]
    for one in (net, twin):
        one.train_step(X, G, loss="mse", optimizer="adam")
        one.forward(X)
        one.backward(G)
        one.forward(X[:30])
    before = everything(net)
    for _ in range(3):
        verb(net, X)
        assert everything(net) == before
    assert frozen([net.backward(G[:30], accumulate=True), net.grads]) == frozen(
        [twin.backward(G[:30], accumulate=True), twin.grads]
    )
    for one in (net, twin):
        one.fit(X, G, loss="mse", optimizer="adam", epochs=2, batch_size=7)
    assert net.flatten().tobytes() == twin.flatten().tobytes()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert verb(other, X).tobytes() == verb(net, X).tobytes()


def test_they_see_parameters_as_they_are_now(verb, kernels, dtype):
    net = build((5, 17, 9, 3), kernels, dtype=dtype)
    X = rows_of(net, 40)
    found = {verb(net, X).tobytes()}
    net.train_step(X, X[:, :3], loss="mse", optimizer=fastbp.SGD(lr=0.5))
    found.add(verb(net, X).tobytes())
    net.weights[0][...] *= 2
    assert len(found | {verb(net, X).tobytes()}) == 3


def test_padding_of_the_parameters_reaches_nothing(verb, kernels, dtype):
    net = build((5, 17, 3, 3), kernels, dtype=dtype)
    X, held = rows_of(net, 40), net.flatten()
    wanted = verb(net, X).tobytes()
    net.params[...] = np.nan
    net.unflatten(held)
    assert verb(net, X).tobytes() == wanted


def test_in_a_callback_they_are_those_of_the_network_as_it_is(backend):
    class Looks(fastbp.Callback):
        def on_epoch_end(self, net, logs):
            heard.append([verb(net, X).tobytes() for verb in VERBS.values()])

    heard = []
    net, twin = build((5, 17, 9, 3), backend), build((5, 17, 9, 3), backend)
    X = rows_of(net, 40)
    run = {"loss": "mse", "optimizer": "sgd"}
    net.fit(X, X[:, :3], epochs=3, callbacks=[Looks()], **run)
    for k in range(3):
        twin.fit(X, X[:, :3], epochs=1, **run)
        assert heard[k] == [verb(twin, X).tobytes() for verb in VERBS.values()]
    assert net.flatten().tobytes() == twin.flatten().tobytes()


# ------------------------------------------------------------------ what is refused

REFUSED = {  # what: (call, error, message)
    "no such layer": (lambda net, X: net.hidden(X, 2), ValueError, "layer must be from -2 to 1, got 2"),
    "nor from the end": (lambda net, X: net.hidden(X, -3), ValueError, "layer must be from -2 to 1, got -3"),
    "a layer of a kind": (lambda net, X: net.hidden(X, 1.0), TypeError, "layer must be an integer, got 1.0"),
    "a true layer": (lambda net, X: net.hidden(X, True), TypeError, "layer must be an integer, got True"),
    "no layer": (lambda net, X: net.hidden(X, None), TypeError, "layer must be an integer, got None"),
    "X of hidden": (lambda net, X: net.hidden(X[:, 1:]), ValueError, "X has 4 column"),
    "one output of several": (
        lambda net, X: net.input_gradient(X), ValueError,
        "output must be given, as the network has 3 outputs: one for all rows, as in output=0, or one for each row",
    ),
    "X of input_gradient": (lambda net, X: net.input_gradient(X[0], 1), ValueError, "X must be 2-D"),
    "no such output": (lambda net, X: net.input_gradient(X, 3), ValueError, "output must be from -3 to 2, got 3"),
    "a large number": (lambda net, X: net.input_gradient(X, 2**70), ValueError, "output must be from -3 to 2, got"),
    "a true output": (lambda net, X: net.input_gradient(X, True), TypeError, "output must be an integer, got True"),
    "a real output": (lambda net, X: net.input_gradient(X, 1.0), TypeError, "output must be an integer, got 1.0"),
    "a name": (lambda net, X: net.input_gradient(X, "all"), TypeError, "output.*number"),
    "a label too large": (
        lambda net, X: net.input_gradient(X, np.arange(9)), ValueError,
        r"output must be from 0 to 2, got output\[3\] = 3",
    ),
    "a label below 0": (
        lambda net, X: net.input_gradient(X, [0] * 8 + [-1]), ValueError,
        r"output must be from 0 to 2, got output\[8\] = -1",
    ),
    "a label that wraps around": (
        lambda net, X: net.input_gradient(X, np.full(9, 2**64 - 1, np.uint64)), ValueError,
        "output must be from 0 to 2",
    ),
    "real labels": (
        lambda net, X: net.input_gradient(X, np.zeros(9)), TypeError,
        r"output must hold integers, got float64; perhaps output.astype\(int\) is meant",
    ),
    "too few labels": (
        lambda net, X: net.input_gradient(X, [0]), ValueError,
        r"output must be an integer or have shape \(9,\), one for each row; got shape \(1,\)",
    ),
    "one-hot labels": (
        lambda net, X: net.input_gradient(X, np.eye(3, dtype=int)[[0] * 9]), ValueError,
        r"output must be an integer or have shape \(9,\).*\(9, 3\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what, backend):
    call, error, message = REFUSED[what]
    net = build((5, 17, 9, 3), backend)
    X = rows_of(net, 9)
    for _ in range(2):  # also once calls are remembered
        before = everything(net)
        with pytest.raises(error, match=message):
            call(net, X)
        assert everything(net) == before
        net.hidden(X)
        net.input_gradient(X, 1)


def test_a_network_without_hidden_layers_says_so(backend):
    net = build((5, 3), backend)
    for layer in (-1, 0):
        with pytest.raises(ValueError, match=r"hidden: a network of sizes \(5, 3\) has no hidden layer"):
            net.hidden(rows_of(net, 9), layer)


# ------------------------------------------------------------------ what they cost


@pytest.mark.serial
@pytest.mark.noasan
@pytest.mark.parametrize("n", [1, 1797])
def test_what_they_cost_beside_predict(n, dtype):
    """Measured: `hidden` 0.8 to 0.9 of it, `input_gradient` 2 to 2.6 times as much."""
    need_extension()
    net = build((64, 100, 10), "cython", dtype=dtype)
    X, labels = rows_of(net, n), labels_of(net, n)
    calls = [lambda: net.predict(X), lambda: net.hidden(X), lambda: net.input_gradient(X, labels)]

    def seconds(call, times=20_000 // n + 20):
        begun = time.thread_time()
        for _ in range(times):
            call()
        return time.thread_time() - begun

    for call in calls:
        call()
    rounds = np.array([[seconds(call) for call in calls] for _ in range(7)])
    predict, hidden, gradient = rounds.min(axis=0)
    assert hidden < 1.15 * predict and gradient < 4 * predict
