"""Training by products in bfloat16, against a double reference that rounds the same operands; what else must hold."""

import copy
import io
import pickle
import re

import numpy as np
import pytest
from conftest import need_extension, official
from forge import forged
from test_equivalence import TEXTBOOK_ACTIVATION
from test_process import python

import fastbp
from fastbp import backends, optimizers
from fastbp.backends import config
from fastbp.backends.plan import make_plan
from fastbp.spec import Spec

ENGINE = backends.engine()
SERVED = ENGINE is not None and ENGINE.has_bfloat16(ENGINE.choose_isa())
BACKENDS = ["reference", *["cython"] * SERVED]
STEP = 6e-4  # of a step's change: what sums in float32 and their order may do
ROUNDED = 2.0**-8  # a number that lies halfway may be rounded either way, and then moves by that


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def network(sizes, backend, *, seed=1, **more):
    return fastbp.MLP(sizes, seed=seed, backend=backend, matmul_precision="bfloat16", bias_init=0.05, **more)


def problem(sizes, n, loss="mse", seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, sizes[0])).astype(np.float32)
    return X, rng.integers(0, sizes[-1], n) if loss == "softmax_cross_entropy" else rng.normal(size=(n, sizes[-1]))


def rounded(values):
    """To 8 bits, ties to even; in double, by arithmetic instead of bit patterns."""
    with np.errstate(divide="ignore"):
        unit = np.exp2(np.floor(np.log2(np.abs(values))) - 7)
    return np.where(values == 0, 0.0, np.round(values / np.where(unit > 0, unit, 1)) * unit)


def stepped(net, X, y, lr, activation):
    """Parameters after a step of plain SGD on the mean squared error, in double, operands of products rounded."""
    forward, slope = TEXTBOOK_ACTIVATION[activation]
    weights, biases = ([array.astype(float) for array in arrays] for arrays in (net.weights, net.biases))
    keeps_z = fastbp.activations.TABLE[activation].keeps_z
    inputs, slopes, a = [], [], rounded(X.astype(float))
    for k, (weight, bias) in enumerate(zip(weights, biases)):
        inputs.append(a)
        z = a @ rounded(weight) + bias
        if k + 1 < len(weights):
            a = rounded(forward(z))
            slopes.append(slope(z) if keeps_z else SLOPE_OF[activation](a))
    delta, made = rounded(2 * (z - y) / y.size), []
    for k in reversed(range(len(weights))):
        made += [biases[k] - lr * delta.sum(axis=0), weights[k] - lr * (inputs[k].T @ delta)]
        if k:
            delta = rounded((delta @ rounded(weights[k]).T) * slopes[k - 1])
    return np.concatenate([array.ravel() for array in made[::-1]])


SLOPE_OF = {"relu": lambda a: a > 0, "tanh": lambda a: 1 - a**2, "identity": np.ones_like}  # by what was rounded
SHAPES = [(1, 1, 1), (2, 3, 1), (5, 2), (7, 13, 19, 3), (17, 16, 33, 4), (31, 32, 9), (33, 17, 5), (64, 64, 64, 10),
          (70, 31, 70), (47, 69, 1)]  # fmt: skip
BATCHES = [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 40, 257]


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "identity"])
def test_a_step_is_that_of_a_double_reference_that_rounds_the_same_operands(backend, activation):
    apart, cases = [], 0
    for sizes in SHAPES:
        for batch in BATCHES:
            X, y = problem(sizes, batch)
            net = network(sizes, backend, activation=activation)
            before, wanted = net.flatten().astype(float), stepped(net, X, y, 0.1, activation)
            net.train_step(X, y, optimizer=fastbp.SGD(0.1))
            error = np.linalg.norm(net.flatten() - wanted) / np.linalg.norm(wanted - before)
            assert error < ROUNDED, (sizes, batch, error)
            if error > STEP:
                apart.append((sizes, batch, error))
            cases += 1
    assert len(apart) <= cases // 20, apart  # a number that lies halfway was rounded the other way


@pytest.mark.skipif(not SERVED, reason="this CPU has no AVX512-BF16")
def test_a_large_step_is_that_of_the_double_reference():
    sizes, batch = (300, 260, 130, 10), 520
    X, y = problem(sizes, batch)
    net = network(sizes, "cython")
    before, wanted = net.flatten().astype(float), stepped(net, X, y, 0.1, "relu")
    net.train_step(X, y, optimizer=fastbp.SGD(0.1))
    assert np.linalg.norm(net.flatten() - wanted) < STEP * np.linalg.norm(wanted - before)


def test_a_step_is_not_that_of_float32(backend):
    X, y = problem((64, 64, 10), 32)
    nets = [fastbp.MLP((64, 64, 10), seed=1, backend=backend, matmul_precision=p) for p in ("float32", "bfloat16")]
    before = nets[0].flatten()
    for net in nets:
        net.train_step(X, y, optimizer=fastbp.SGD(0.1))
    by_float, by_half = (net.flatten() - before for net in nets)
    assert 1e-3 < np.linalg.norm(by_float - by_half) / np.linalg.norm(by_float) < 5e-2


# ------------------------------------------------------------------ everything that training has, beside the reference

RULES = [
    *(rule() for name, rule in optimizers.BY_NAME.items() if name not in ("lbfgs", "rprop")),
    fastbp.SGD(0.1, momentum=0.9, nesterov=True),
    fastbp.SGD(0.1, clip_value=0.01),
    fastbp.SGD(0.1, clip_norm=0.1),
    fastbp.SGD(0.1, l1=0.01, average=0.9),
    fastbp.SGD(0.1, max_norm=0.5, average=0.9),
    fastbp.Adam(0.01, accumulate=3),
    fastbp.Adam(0.01, lr_scale=[1, 0.1, 2]),
]
NETWORKS = [
    dict(),
    dict(activation="sigmoid", bias=False),
    dict(activation="gelu", dropout=0.25),
    dict(activation="relu", dropout=0.5, input_dropout=0.2),
    dict(activation=["tanh", "leaky_relu"], output_activation="tanh"),
]


def of_both(sizes, n, more, *, loss="mse", frozen=(), **fit):
    """The change of the parameters on the compiled backend and on the reference; histories must agree."""
    changes, losses = [], []
    X, y = problem(sizes, n, loss)
    for name in ("cython", "reference"):
        net = fastbp.MLP(sizes, seed=3, backend=name, matmul_precision="bfloat16", **more)
        for k, weight in frozen:
            net.freeze(k, weight=weight, bias=True)
        before = net.flatten()
        losses.append(net.fit(X, y, loss=loss, **fit).loss)
        changes.append(net.flatten() - before)
    np.testing.assert_allclose(*losses, rtol=2e-3)
    return changes


def assert_alike(changes, share=2e-2):
    """Roundings that fall the other way once go on from step to step; a wrong operand gives more than a third."""
    got, wanted = changes
    assert np.linalg.norm(wanted) > 0
    assert np.linalg.norm(got - wanted) < share * np.linalg.norm(wanted)


need_bfloat16 = pytest.mark.skipif(not SERVED, reason="this CPU has no AVX512-BF16")


@need_bfloat16
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_optimizer_and_what_is_around_it(rule):
    share = 0.2 if isinstance(rule, fastbp.Lion) else 4e-2  # of a sign
    fit = dict(optimizer=rule, batch_size=15, steps=6)
    assert_alike(of_both((21, 33, 18, 5), 75, {"activation": "tanh"}, **fit), share)


@need_bfloat16
@pytest.mark.parametrize("more", NETWORKS, ids=repr)
@pytest.mark.parametrize("loss", ["mse", "softmax_cross_entropy", "gaussian_nll", "mae"])
def test_activations_dropout_and_losses(more, loss):
    more = {"bias_init": 0.05} | more if more.get("bias", True) else more
    if loss == "softmax_cross_entropy" or loss == "gaussian_nll":
        more = more | {"output_activation": "identity"}
    sizes = (19, 35, 17, 6)
    if loss == "gaussian_nll":
        X, y = problem((19, 3), 60)
        changes = []
        for name in ("cython", "reference"):
            net = fastbp.MLP(sizes, seed=3, backend=name, matmul_precision="bfloat16", **more)
            before = net.flatten()
            net.fit(X, y, loss=loss, optimizer=fastbp.SGD(0.01), batch_size=20, steps=2)
            changes.append(net.flatten() - before)
        return assert_alike(changes)
    assert_alike(of_both(sizes, 60, more, loss=loss, optimizer=fastbp.SGD(0.05), batch_size=20, steps=2))


@need_bfloat16
@pytest.mark.parametrize("activation", sorted(fastbp.activations.TABLE))
def test_every_activation(activation):
    more = {"activation": activation, "bias_init": 0.05}
    assert_alike(of_both((23, 35, 18, 7), 33, more, optimizer=fastbp.SGD(0.01), batch_size=33, steps=1), 1e-2)


@need_bfloat16
@pytest.mark.parametrize("frozen", ([0], [1], [0, 1], [2, "bias"], [0, "bias", 2]), ids=str)
@pytest.mark.parametrize("rule", [fastbp.SGD(0.1), fastbp.SGD(0.1, clip_norm=1.0)], ids=["fused", "not fused"])
def test_frozen_layers(frozen, rule):
    frozen = [(k, what != "bias") for k, what in zip(frozen, [*frozen[1:], None]) if k != "bias"]
    assert_alike(of_both((9, 20, 21, 3), 30, {}, frozen=frozen, optimizer=rule, batch_size=11, steps=5))


@need_bfloat16
def test_weights_of_rows_and_of_targets():
    X, y = problem((12, 20, 3), 40)
    for weight in (np.linspace(0, 2, 40), np.random.default_rng(1).uniform(size=(40, 3))):
        changes = []
        for name in ("cython", "reference"):
            net = network((12, 20, 3), name)
            before = net.flatten()
            net.fit(X, y, optimizer=fastbp.SGD(0.1), sample_weight=weight, batch_size=13, steps=4)
            changes.append(net.flatten() - before)
        assert_alike(changes)


@need_bfloat16
def test_rows_of_any_kind_give_the_same_bits():
    X, y = problem((13, 20, 3), 40)
    X = np.round(X * 8).astype(np.float32)
    wide = np.zeros((80, 26), np.float32)
    wide[::2, ::2] = X
    given = [X, X.astype(np.float64), np.asfortranarray(X), wide[::2, ::2], X.astype(">f4"), X.astype(np.int16)]
    for shuffle in (False, True):
        made = []
        for rows in given:
            net = network((13, 20, 3), "cython")
            net.fit(rows, y, epochs=3, batch_size=7, shuffle=shuffle)
            made.append(net.flatten())
        assert all(np.array_equal(made[0], other) for other in made[1:])


# ------------------------------------------------------------------ bits


@need_bfloat16
@pytest.mark.parametrize("rule", [fastbp.SGD(0.05), fastbp.Adam(), fastbp.AdamW(clip_norm=1.0)], ids=repr)
def test_any_number_of_threads_gives_the_same_bits(rule, monkeypatch):
    X, y = problem((100, 130, 70, 10), 150)
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    made = []
    for n_threads in (1, 2, 3, 5):
        net = network((100, 130, 70, 10), "cython", dropout=0.1)
        program = net._plan(47, loss=fastbp.losses.TABLE["mse"], rule=rule, n_threads=n_threads)
        assert program.n_threads == n_threads and not program.gated
        net.fit(X, y, optimizer=rule, batch_size=47, epochs=2, n_threads=n_threads)
        made.append(net.flatten())
    assert all(np.array_equal(made[0], other) for other in made[1:])


@need_bfloat16
@pytest.mark.parametrize("batch", [8, 7, 40, 64])
@pytest.mark.parametrize("n", [40, 41])
def test_pieces_of_a_run_and_rows_that_are_kept_leave_no_trace(batch, n):
    """Long calls keep rows in bfloat16; calls of one step round them each time."""
    X, y = problem((13, 20, 3), n)
    steps = 10 * -(-n // batch)
    whole, pieces, by_step = (network((13, 20, 3), "cython") for _ in range(3))
    fit = dict(optimizer="adam", batch_size=batch, shuffle=False)
    whole.fit(X, y, steps=steps, **fit)
    for _ in range(steps):
        pieces.fit(X, y, steps=1, **fit)
    for k in range(steps):
        rows = slice(k * batch % (batch * -(-n // batch)), None)
        by_step.train_step(X[rows][:batch], y[rows][:batch], optimizer="adam")
    assert np.array_equal(whole.flatten(), pieces.flatten()) and np.array_equal(whole.flatten(), by_step.flatten())


@need_bfloat16
def test_what_a_callback_writes_is_seen(monkeypatch):
    """Parameters and rows are rounded anew after a callback that may have written them."""
    from fastbp.training import run

    X, y = problem((13, 20, 3), 64)

    class Writes(fastbp.Callback):
        def on_epoch_end(self, net, logs):
            net.weights[0][:] *= 0.5
            X[:] += 0.25

    monkeypatch.setattr(run, "next_chunk", lambda speed, wanted: 1000)
    called, by_hand = (network((13, 20, 3), "cython") for _ in range(2))
    fit = dict(optimizer=fastbp.SGD(0.1), batch_size=16, shuffle=False)
    start = X.copy()
    called.fit(X, y, epochs=5, callbacks=[Writes()], **fit)
    X[:] = start
    for _ in range(5):
        by_hand.fit(X, y, epochs=1, **fit)
        Writes().on_epoch_end(by_hand, {})
    assert np.array_equal(called.flatten(), by_hand.flatten())


@need_bfloat16
@pytest.mark.parametrize("how", ["a callback", "a metric"])
def test_rows_that_code_of_the_callers_changes_during_a_run_are_rounded_anew(how):
    """It may say that it writes no parameters: rows are others."""
    rows, y = problem((60, 70, 4), 96)
    X, epochs = rows.copy(), iter(range(1, 9))

    def change(*given):
        X[...] = rows * (1 + next(epochs))
        return 0.0

    class Augment(fastbp.Callback):
        writes = False

        def on_epoch_end(self, net, logs):
            change()

    more = {"callbacks": [Augment()]} if how == "a callback" else {"metrics": [change]}
    settings = {"batch_size": 16, "shuffle": False, "optimizer": fastbp.SGD(1e-3)}
    net, other = (network((60, 70, 4), "cython") for _ in range(2))
    net.fit(X, y, epochs=4, **settings, **more)
    for epoch in range(4):
        other.fit(rows * (1 + epoch), y, epochs=1, **settings)
    assert np.array_equal(net.params, other.params)


@need_bfloat16
def test_a_call_that_goes_on_gives_the_bits_of_a_fresh_one(monkeypatch):
    """Nobody has touched anything in between: the second call does not round again what the first has rounded."""
    X, y = problem((13, 20, 3), 64)
    made = []
    for goes_on in (True, False):
        net = network((13, 20, 3), "cython")
        rule = fastbp.Adam()
        plan = make_plan(net._spec, 16, backend="cython", loss=fastbp.losses.TABLE["mse"], rule=rule)
        state = net._state
        state.prepare(rule, net.params, 1)
        with net._programs.lent(plan) as program:
            for k in range(3):
                program.train(
                    X, y, None, batch_size=16, steps=9, seed=0, shuffle=False, count=state.count, place=state.place,
                    partial=np.zeros(2), losses=np.empty(20), update=state.update(rule, 9, net.params, accumulate=1),
                    stop_on_loss=True, stop_on_params=False, goes_on=goes_on and k > 0,
                )  # fmt: skip
        made.append(net.flatten())
    assert np.array_equal(*made)


@need_bfloat16
def test_padding_and_numbers_of_an_earlier_batch_reach_nothing():
    """NaN in the padding of parameters; a full batch of infinite outputs before one that is smaller and odd."""
    sizes, made = (9, 21, 5), []
    X, y = problem(sizes, 24)
    for spoils in (False, True):
        net = network(sizes, "cython")
        if spoils:
            padding = Spec.mask(net._spec, net._spec.all_train) == 0
            net.params[padding] = np.nan
            before = net.flatten()
            huge = np.full((16, 9), 1e38, np.float32)
            net.fit(huge, y[:16], batch_size=16, steps=1, nonfinite="ignore", shuffle=False)
            assert not np.isfinite(net.flatten()).all()
            net.unflatten(before)
            net.reset_training()
        net.fit(X[:15], y[:15], optimizer=fastbp.SGD(0.1), batch_size=16, steps=1, shuffle=False)
        made.append(net.flatten())
    assert np.isfinite(made[0]).all() and np.array_equal(*made)


@need_bfloat16
@pytest.mark.parametrize("activation", ["identity", "leaky_relu"])
def test_the_row_beyond_an_odd_batch_reaches_nothing(activation):
    """It has no input: its first units would be large, and the next ones infinite, where those of real rows are 0."""
    large = 2.0**126
    init = [([[large] * 3], [large] * 3), (np.full((3, 3), 2.0), [0.0] * 3), (np.ones((3, 2)), [0.0] * 2)]
    net = fastbp.MLP((1, 3, 3, 2), activation=activation, init=init, matmul_precision="bfloat16")
    net.fit(np.full((7, 1), -1.0), np.ones((7, 2)), optimizer=fastbp.SGD(1e-3), batch_size=7, steps=1)
    assert np.isfinite(net.flatten()).all() and net.step == 1


@need_bfloat16
def test_rows_that_change_between_two_runs_are_rounded_anew():
    X, y = problem((13, 20, 3), 64)
    fit = dict(optimizer=fastbp.SGD(0.05), batch_size=16, shuffle=False)
    net, other = (network((13, 20, 3), "cython") for _ in range(2))
    net.fit(X, y, epochs=20, **fit)
    other.fit(X.copy(), y, epochs=20, **fit)
    X[:] = X[::-1].copy()
    net.fit(X, y, epochs=20, **fit)
    other = copy.deepcopy(other)  # with nothing kept
    other.fit(X.copy(), y, epochs=20, **fit)
    assert np.array_equal(net.flatten(), other.flatten())


GUARDED = """
    import ctypes, mmap, os
    import numpy as np, fastbp
    from fastbp import _engine

    _engine.set_guard(True)
    PAGE, memory = mmap.PAGESIZE, mmap.mmap(-1, 64 * mmap.PAGESIZE)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + 63 * PAGE), ctypes.c_size_t(PAGE), 0) == 0
    rng = np.random.default_rng(0)
    for width in (1, 2, 15, 16, 17, 31, 32, 33, 47, 64, 65):
        for batch in (1, 2, 7, 16, 33):
            os.write(2, f"{width} {batch}\\n".encode())   # the last line before a crash says where
            X = np.frombuffer(memory, np.float32, batch * width, 63 * PAGE - 4 * batch * width).reshape(batch, width)
            X[...] = rng.normal(size=X.shape)   # right before a page that cannot be touched
            sizes = width, 66 - width, width + 3, 3
            for more in ({}, {"activation": "gelu", "dropout": 0.5}):
                net = fastbp.MLP(sizes, seed=0, matmul_precision="bfloat16", backend="cython", **more)
                for rule in (fastbp.SGD(0.01), fastbp.Adam(), fastbp.SGD(0.01, clip_norm=1.0)):
                    net.fit(X, np.ones((batch, 3)), batch_size=batch, epochs=9, optimizer=rule, shuffle=False)
                    net.fit(X, np.ones((batch, 3)), batch_size=3, epochs=1, optimizer=rule)
                assert np.isfinite(net.flatten()).all()
            del net
    print("done")
"""


@need_bfloat16
@pytest.mark.noasan
def test_nothing_is_touched_beyond_a_buffer():
    assert python(GUARDED) == "done\n"


def test_a_run_that_is_taken_up_again_gives_the_same_bits(backend, tmp_path):
    X, y = problem((12, 20, 3), 40)
    whole, begun = (network((12, 20, 3), backend, dropout=0.2) for _ in range(2))
    whole.fit(X, y, batch_size=16, steps=11)
    begun.fit(X, y, batch_size=16, steps=4)
    begun.save(tmp_path / "net")
    again = fastbp.load(tmp_path / "net")
    for net in (again, copy.deepcopy(begun), pickle.loads(pickle.dumps(begun))):
        net.fit(X, y, batch_size=16, steps=7)
        assert net.matmul_precision == "bfloat16" and np.array_equal(net.flatten(), whole.flatten())


def test_only_training_is_in_bfloat16(backend):
    """Whatever looks at the network gives what its twin in float32 gives."""
    X, y = problem((12, 20, 3), 40)
    net = network((12, 20, 3), backend)
    net.fit(X, y, epochs=2)
    twin = fastbp.MLP((12, 20, 3), backend=backend)
    twin.copy_from(net)
    close = dict(rtol=1e-5, atol=1e-6)  # a narrow output layer sums in another order
    np.testing.assert_allclose(net.predict(X), twin.predict(X), **close)
    assert net.evaluate(X, y, loss="mse") == pytest.approx(twin.evaluate(X, y, loss="mse"), rel=1e-6)
    np.testing.assert_allclose(net.loss_and_grad(X, y, loss="mse")[1], twin.loss_and_grad(X, y, loss="mse")[1], **close)
    np.testing.assert_allclose(net.input_gradient(X, 1), twin.input_gradient(X, 1), **close)
    for one in (net, twin):
        one.backward(np.ones_like(one.forward(X)))
        one.update(fastbp.SGD(0.1))
    np.testing.assert_allclose(net.flatten(), twin.flatten(), **close)
    assert fastbp.check_gradients(net, X, y, loss="mse")


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_parameters_go_from_one_precision_to_the_other(tau):
    half, whole = fastbp.MLP((5, 7, 2), seed=0, matmul_precision="bfloat16"), fastbp.MLP((5, 7, 2), seed=1)
    wanted = (1 - tau) * whole.flatten() + tau * half.flatten()
    whole.copy_from(half, tau)
    np.testing.assert_allclose(whole.flatten(), wanted, rtol=1e-6)


def test_trace_is_in_float32_and_says_so():
    X, y = problem((3, 4, 1), 6)
    net = network((3, 4, 1), "reference")
    step = net.trace(X, y, lr=0.1)
    twin = fastbp.MLP((3, 4, 1), backend="reference")
    twin.copy_from(net)
    assert step.loss_after == twin.trace(X, y, lr=0.1).loss_after
    assert "float32" in str(step) and "bfloat16" in str(step) and "bfloat16" not in str(twin.trace(X, y, lr=0.1))


# ------------------------------------------------------------------ accuracy


@pytest.mark.parametrize("rule, epochs", [(fastbp.SGD(0.1), 25), (fastbp.Adam(), 25)], ids=["SGD", "Adam"])
def test_digits_are_learnt_as_well_as_in_float32(rule, epochs):
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = datasets.load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    right = {}
    for precision in ("float32", "bfloat16"):
        rights = []
        for seed in range(6):
            order = np.random.default_rng(seed).permutation(len(X))
            train, test = order[:1300], order[1300:]
            backend = "cython" if SERVED else "reference"
            net = fastbp.MLP((64, 64, 10), seed=seed, matmul_precision=precision, backend=backend)
            net.fit(X[train], y[train], loss="softmax_cross_entropy", optimizer=rule, epochs=epochs)
            rights.append((net.predict(X[test]).argmax(axis=1) == y[test]).mean())
        right[precision] = np.mean(rights)
    assert right["float32"] > 0.95 and abs(right["float32"] - right["bfloat16"]) <= 0.002, right


# ------------------------------------------------------------------ what it is, errors, files


def test_it_is_float32_unless_told_and_is_shown_only_then():
    net = fastbp.MLP((2, 3, 1))
    assert net.matmul_precision == "float32" and "precision" not in repr(net)
    assert "matmul_precision=bfloat16" in repr(network((2, 3, 1), "auto"))


@pytest.mark.parametrize(
    "given, error, message",
    [
        (dict(matmul_precision="bf16"), ValueError, "matmul_precision: unknown name"),
        (dict(matmul_precision=16), TypeError, "matmul_precision: unknown name"),
        (dict(matmul_precision="bfloat16", dtype=np.float64), ValueError, "dtype float32, got dtype=float64"),
        (dict(matmul_precision="bfloat16", dtype=np.float16), ValueError, "dtype float32, got dtype=float16"),
    ],
)
def test_what_cannot_be_is_told(given, error, message):
    with pytest.raises(error, match=message):
        fastbp.MLP((2, 3, 1), **given)


def test_numba_has_no_such_products():
    pytest.importorskip("numba")
    net = network((4, 5, 2), "numba")
    X, y = problem((4, 5, 2), 8)
    before = net.flatten()
    for train in (lambda: net.fit(X, y, epochs=1), lambda: net.train_step(X, y)):
        with pytest.raises(RuntimeError, match=r"backend 'numba'.*backend=\"reference\""):
            train()
    assert net.step == 0 and np.array_equal(net.flatten(), before)
    assert net.compile() > 0 and net.backend != "numba"


@pytest.mark.parametrize("isa", ["avx2", "generic"])
def test_without_avx512_bf16_training_says_what_to_do(isa, monkeypatch):
    need_extension()
    if isa not in ENGINE.isas_found():
        pytest.skip(f"no {isa} here")
    monkeypatch.setenv("FASTBP_ISA", isa)
    net = network((4, 5, 2), "auto")
    X, y = problem((4, 5, 2), 8)
    assert net.predict(X).shape == (8, 2) and net.loss_and_grad(X, y, loss="mse")[1].shape == (net.n_params,)
    for train in (lambda: net.fit(X, y, epochs=1), lambda: net.train_step(X, y)):
        with pytest.raises(RuntimeError, match=rf"AVX512-BF16.*{isa}.*backend=\"reference\""):
            train()
    assert net.step == 0
    assert isa in config.config()["bfloat16"]
    network((4, 5, 2), "reference").fit(X, y, epochs=1)


def test_show_config_tells(capsys):
    need_extension()
    fastbp.show_config()
    told = re.search(r"^ *bfloat16  (.*)$", capsys.readouterr().out, re.M)[1]
    assert told.startswith("available") == SERVED
    if official and "avx512_bf16" in open("/proc/cpuinfo").read():
        assert SERVED


def saying(content, precision):
    """The file with another precision in its header, and the digest that it should have."""
    return forged(content, lambda network, _: network.update(matmul_precision=precision))


def test_a_header_has_the_field_only_where_it_says_something(tmp_path):
    for precision in ("float32", "bfloat16"):
        fastbp.MLP((2, 3, 1), seed=0, matmul_precision=precision).save(tmp_path / precision)
    plain, rounding = ((tmp_path / name).read_bytes() for name in ("float32", "bfloat16"))
    assert b"matmul_precision" not in plain and b"matmul_precision" in rounding
    for content, said in ((rounding, "bfloat17"), (rounding, "float32"), (plain, "float32"), (plain, None)):
        with pytest.raises(fastbp.FormatError):
            fastbp.load(io.BytesIO(saying(content, said)))
    assert fastbp.load(io.BytesIO(saying(plain, "bfloat16"))).matmul_precision == "bfloat16"


def test_many_networks_in_one_file(tmp_path):
    precisions = "float32", "bfloat16", "bfloat16"
    nets = [fastbp.MLP((2, 3, 1), seed=k, matmul_precision=precision) for k, precision in enumerate(precisions)]
    fastbp.save_many(nets, tmp_path / "nets")
    for net, loaded in zip(nets, fastbp.load_many(tmp_path / "nets")):
        assert loaded.matmul_precision == net.matmul_precision and np.array_equal(loaded.flatten(), net.flatten())


def test_a_pickle_from_before_there_was_a_choice_loads():
    net = fastbp.MLP((2, 3, 1), seed=0)
    make, what = net._spec.__reduce__()
    assert make(*what[:-1]) == net._spec


def test_many_networks_train_one_by_one(backend):
    X, y = problem((6, 4, 1), 32)
    nets, alone = ([network((6, 4, 1), backend, seed=k) for k in range(4)] for _ in range(2))
    fastbp.fit_many(nets, X, y, epochs=3, batch_size=8)
    for net, other in zip(nets, alone):
        other.fit(X, y, epochs=3, batch_size=8)
        assert np.array_equal(net.flatten(), other.flatten())


@need_bfloat16
def test_a_plan_tells_how_it_trains(capsys):
    net = network((784, 128, 10), "cython")
    net.explain(128)
    assert "bfloat16" in capsys.readouterr().out
    net.summary()
    assert "bfloat16" in capsys.readouterr().out


@need_bfloat16
def test_a_run_that_diverges_stands_at_its_last_finite_step():
    X, y = problem((12, 20, 3), 40)
    net = network((12, 20, 3), "cython")
    with pytest.raises(fastbp.NonFiniteError):
        net.fit(X, y, optimizer=fastbp.SGD(1e6), epochs=200, batch_size=8)
    assert np.isfinite(net.flatten()).all()
    twin = network((12, 20, 3), "cython")
    twin.fit(X, y, optimizer=fastbp.SGD(1e6), steps=net.step, batch_size=8, nonfinite="ignore")
    assert np.array_equal(net.flatten(), twin.flatten())
