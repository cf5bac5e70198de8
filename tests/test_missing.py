"""Targets that weigh by themselves: sample_weight (n, outputs), and targets that are missing."""

import pickle
import re

import numpy as np
import pytest
from conftest import frozen, need_extension
from targets import outputs_for, targets
from tolerance import assert_close

import fastbp
from fastbp import losses as L
from fastbp.data.arguments import product
from fastbp.data.classes import class_weights, kinds_of
from fastbp.data.samples import Lazy

POINTWISE = [name for name, row in L.TABLE.items() if row.is_pointwise]
WHOLE = [name for name, row in L.TABLE.items() if not row.is_pointwise]
RATE = fastbp.SGD(lr=0.01)
OWN = fastbp.Loss("cube_root", "EXP(LOG(1 + (z - t) * (z - t)) / 3)",
                  "2 * (z - t) / 3 * EXP(-2 * LOG(1 + (z - t) * (z - t)) / 3)", outputs="mean")  # fmt: skip
# (hidden and output widths): tiny, narrow, one vector and less, several; K = 1 has weights of rows
WIDTHS = [(7, 1), (7, 2), (7, 4), (20, 3), (9, 6), (9, 17), (40, 33)]


def network(widths=(7, 3), dtype=np.float64, backend="auto", activation="tanh"):
    return fastbp.MLP((5, *widths), activation=activation, seed=1, dtype=dtype, backend=backend)


def data(loss, n, k, seed=0):
    """X, t and weights of each target: some are 0, all of a row, all of an output, and rows with one weight."""
    rng = np.random.default_rng(seed)
    X, t = rng.normal(size=(n, 5)).astype(np.float32), targets(rng, loss, n, k)
    weight = rng.integers(0, 5, (n, k)) / 4
    weight[:: 5] = 1.5
    weight[1::5] = 0
    weight[:, k // 2 :: 7] = np.where(weight[:, k // 2 :: 7] > 1, 0.5, 0)
    weight[0] = np.arange(1, k + 1) / k
    return X, t, weight


def one_by_one(net, X, t, weight, row):
    """The loss and its gradient from those of each output alone, whose weights are those of rows: sum(w l) / sum(w)."""
    parts = []
    for j in range(t.shape[1]):
        if weight[:, j].any():
            alone = row(outputs="sum", output_weights=np.eye(t.shape[1])[j])
            value, gradient = net.loss_and_grad(X, t, loss=alone, sample_weight=weight[:, j])
            scale = 1 if row.chosen["output_weights"] is None else row.chosen["output_weights"][j]
            parts.append(weight[:, j].sum() * scale * np.append(gradient, value))
    return sum(parts) / weight.sum() * (t.shape[1] if row.chosen["outputs"] == "sum" else 1)


# ------------------------------------------------------------------ what they mean


@pytest.mark.parametrize("loss, times", [("mse", 1), ("half_squared_error", 1.5), (L.mse(outputs="sum"), 3)], ids=str)
def test_a_loss_by_hand(loss, times, kernels, dtype):
    """sum(w l) / sum(w) over rows and outputs; times the number of outputs where a loss sums over these."""
    net = fastbp.MLP((1, 3), init=[(np.zeros((1, 3)), [1.0, -2.0, 0.5])], dtype=dtype, backend=kernels)
    x, t = np.zeros((2, 1)), [[0.0, 1.0, 0.25], [2.0, 0.0, 0.5]]
    weight = [[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]]
    value, gradient = net.loss_and_grad(x, t, loss=loss, sample_weight=weight)
    # squared errors 1 9 1/16, 1 4 0: 1 + 2/16 + 0.5 + 4 over 4.5
    assert_close(value, 1.25 * times, dtype)
    assert_close(gradient[3:], np.array([2 - 1, -4, 1]) / 4.5 * times, dtype)
    assert net.evaluate(x, t, loss=loss, sample_weight=weight) == value
    t[0][1] = np.nan
    assert net.evaluate(x, t, loss=loss, sample_weight=weight, missing="ignore") == value
    # the plain mean of what is there: 1 + 1/16 + 1 + 4 over 5
    assert_close(net.evaluate(x, t, loss=loss, missing="ignore"), 6.0625 / 5 * times, dtype)


@pytest.mark.parametrize("loss", POINTWISE)
def test_weights_of_targets_are_those_of_each_output_alone(loss, kernels, dtype):
    for n, (hidden, k) in zip((1, 8, 17, 19, 33, 40, 16), WIDTHS):
        X, t, weight = data(loss, n, k)
        oracle, net = network((hidden, k), backend="reference"), network((hidden, k), dtype, kernels)
        oracle.unflatten(net.flatten())
        for row in (L.TABLE[loss], L.TABLE[loss](outputs="sum", output_weights=np.arange(k) % 3 + (k < 2))):
            wanted = one_by_one(oracle, X, t, weight, row)
            options = {"loss": row, "sample_weight": weight}
            value, gradient = net.loss_and_grad(X, t, **options)
            scale = max(1, np.abs(wanted).max())
            assert_close(np.append(gradient, value), wanted, dtype, k=n * k + hidden, scale=scale, what=f"{n} {k}")
            assert_close(net.evaluate(X, t, **options), wanted[-1], dtype, k=n * k + hidden, scale=scale)
            before = net.flatten()
            assert_close(net.train_step(X, t, optimizer=RATE, **options), wanted[-1], dtype, k=n * k + hidden,
                         scale=scale)  # fmt: skip
            moved = (before.astype(float) - net.flatten()) / RATE.lr
            assert_close(moved, wanted[:-1], dtype, k=n * k + hidden, scale=scale / RATE.lr)
            net.unflatten(before)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_a_run_is_that_of_the_reference(widths, kernels, dtype):
    n = 37
    for loss in ("mse", "half_squared_error", L.huber(delta=0.5, output_weights=np.arange(1.0, 1 + widths[-1]))):
        X, t, weight = data("mse", n, widths[-1])
        t[weight == 0] = np.nan
        runs = []
        for net in (network(widths, dtype, kernels), network(widths, np.float64, "reference")):
            history = net.fit(X, t, loss=loss, sample_weight=weight, missing="ignore", batch_size=8, epochs=3,
                              optimizer=fastbp.SGD(lr=0.05, momentum=0.5))  # fmt: skip
            runs.append(np.append(net.flatten(), history.loss))
        assert np.abs(runs[1][:-3] - network(widths, dtype).flatten()).max() > 1e-3, "it trains"
        assert_close(runs[0], runs[1], dtype, k=15 * 40, scale=max(1, np.abs(runs[1]).max()))


def test_a_loss_of_your_own_takes_them(kernels, dtype):
    for hidden, k in ((7, 3), (9, 17)):
        X, t, weight = data("mse", 19, k)
        oracle, net = network((hidden, k), backend="reference"), network((hidden, k), dtype, kernels)
        oracle.unflatten(net.flatten())
        wanted = one_by_one(oracle, X, t, weight, OWN)
        t[weight == 0] = np.nan
        value, gradient = net.loss_and_grad(X, t, loss=OWN, sample_weight=weight, missing="ignore")
        assert_close(np.append(gradient, value), wanted, dtype, k=19 * k, scale=max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("loss", POINTWISE)
def test_gradients_agree_with_finite_differences(loss, backend):
    X, t, weight = data(loss, 9, 3)
    found = fastbp.check_gradients(network(backend=backend), X, t, loss=loss, sample_weight=weight)
    assert found, found
    wrong = fastbp.MLP((5, 7, 3), activation="tanh", seed=1, dtype=np.float64, backend=backend)
    even = wrong.loss_and_grad(X, t, loss=loss)[1]
    assert not np.allclose(even, wrong.loss_and_grad(X, t, loss=loss, sample_weight=weight)[1]), "weights matter"


def test_the_chosen_action_is_such_a_mask(kernels, dtype):
    """A DQN's step: the squared error of one output of each row, and nothing of the others."""
    rng = np.random.default_rng(0)
    X, action, wanted = rng.normal(size=(16, 5)), rng.integers(0, 4, 16), rng.normal(size=16)
    net, twin = (network((7, 4), dtype, kernels) for _ in range(2))
    chosen = np.eye(4)[action]
    loss = net.train_step(X, wanted[:, None] * chosen, loss="mse", optimizer=RATE, sample_weight=chosen)
    out = twin.forward(X)
    error = np.where(chosen, out - wanted[:, None], 0)
    twin.backward_update(2 * error / 16, RATE)
    assert_close(loss, (error**2).sum() / 16, dtype, k=16)
    assert_close(net.flatten(), twin.flatten(), dtype, k=16)


# ------------------------------------------------------------------ the same bits


def everything(net, X, t, **options):
    """What each verb gives, to the bit."""
    found = [*net.loss_and_grad(X, t, **options), net.evaluate(X, t, **options)]
    found += [net.train_step(X, t, optimizer=RATE, **options), net.flatten()]
    options["validation_data"] = (X, t, options["sample_weight"]) if "sample_weight" in options else (X, t)
    history = net.fit(X, t, batch_size=8, epochs=2, optimizer=fastbp.Adam(lr=0.01), **options)
    return frozen([*map(np.asarray, (*found, history.loss, history.val_loss)), net.flatten()])


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_rows_of_one_weight_have_the_bits_of_weights_of_rows(widths, kernels, dtype):
    X, t, _ = data("mse", 37, widths[-1])
    by_row = np.random.default_rng(1).integers(0, 9, 37) / 7
    by_target = np.repeat(by_row[:, None], widths[-1], axis=1)
    for loss in ("mse", "half_squared_error"):
        one, other = (network(widths, dtype, kernels) for _ in range(2))
        wanted = everything(one, X, t, loss=loss, sample_weight=by_row)
        assert everything(other, X, t, loss=loss, sample_weight=by_target) == wanted
        t[by_row == 0] = np.nan
        third = network(widths, dtype, kernels)
        found = everything(third, X[by_row > 0], t[by_row > 0], loss=loss, missing="ignore")
        assert found == everything(network(widths, dtype, kernels), X[by_row > 0], t[by_row > 0], loss=loss)
        t[by_row == 0] = 0


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_a_batch_of_such_rows_among_others_trains_as_by_itself(widths, kernels, dtype):
    """Whatever other batches hold: parameters have the bits of an iterator's, which tells of one batch at a time."""
    X, t, weight = data("mse", 24, widths[-1])
    weight[8:16] = np.arange(1.0, 9)[:, None] / 7
    one, other = (network(widths, dtype, kernels) for _ in range(2))
    batches = [(X[k : k + 8], t[k : k + 8], weight[k : k + 8]) for k in (0, 8, 16)]
    history = one.fit(X, t, loss="mse", sample_weight=weight, batch_size=8, epochs=2, shuffle=False, optimizer=RATE)
    same = other.fit(batches, loss="mse", epochs=2, optimizer=RATE)
    assert np.array_equal(one.flatten(), other.flatten())
    assert_close(history.loss, same.loss, dtype, k=24, scale=1 + same.loss.max())


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_what_weighs_nothing_may_be_any_target_or_missing(widths, kernels, dtype):
    X, t, weight = data("mse", 37, widths[-1])
    found = []
    for instead, missing in ((0.0, "raise"), (-7.0, "ignore"), (np.nan, "ignore")):
        y = np.where(weight == 0, instead, t)
        net = network(widths, dtype, kernels)
        found.append(everything(net, X, y, loss="mse", sample_weight=weight, missing=missing))
    assert found[0] == found[1] == found[2]
    mask = (weight > 0).astype(float)
    y = np.where(mask, t, np.nan)
    nets = [network(widths, dtype, kernels) for _ in range(2)]
    runs = {"loss": "mse", "batch_size": 8, "epochs": 2, "optimizer": RATE}
    nets[0].fit(X, np.where(mask, t, 3.0), sample_weight=mask, **runs)
    nets[1].fit(X, y, missing="ignore", **runs)
    assert np.array_equal(nets[0].flatten(), nets[1].flatten())


@pytest.mark.parametrize("lay", [np.asfortranarray, lambda y: y[::-1, ::-1].copy()[::-1, ::-1]], ids=["F", "reversed"])
@pytest.mark.parametrize("weighs", [None, "rows", "targets"])
def test_it_is_the_same_however_targets_lie(lay, weighs, kernels, dtype):
    X, t, weight = data("mse", 21, 3)
    y = np.ascontiguousarray(np.where(weight > 0.4, t, np.nan))
    given = {None: None, "rows": np.arange(1.0, 22.0), "targets": weight + 1}[weighs]
    found = []
    for laid_out in (y, lay(y)):
        net = network((7, 3), dtype, kernels)
        options = {"loss": "mse", "missing": "ignore", "sample_weight": given}
        for _ in range(2):  # the second time the short way
            net.train_step(X, laid_out, optimizer=RATE, **options)
        found.append(everything(net, X, laid_out, **options))
    assert found[0] == found[1]


@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf])
def test_an_engine_selects_such_targets_away(spoiled, kernels, dtype):
    """Also infinite ones, which no verb lets through; and outputs that overflow there."""
    from fastbp.backends.plan import make_plan, program
    from fastbp.backends.protocol import total_weight

    for loss in ("mse", "poisson", "binary_cross_entropy", "log_cosh"):
        for widths in WIDTHS[1:]:
            net = network(widths, dtype, kernels)
            X, t, weight = data(loss, 17, widths[-1])
            plan = make_plan(net._spec, 17, backend=kernels, loss=L.TABLE[loss])
            made, grads = program(plan, net.params), np.zeros_like(net.params)
            found = []
            for y in (t, np.where(weight == 0, spoiled, t)):
                made.forward(X, None, keep=True)
                value = made.loss(y, weight, total_weight(weight, 17), gradient=True)
                made.backward(grads)
                found.append((value, net._spec.flatten(grads).tobytes()))
            assert found[0] == found[1] and np.isfinite(found[0][0]), (loss, widths)


def test_an_output_that_overflows_is_left_out_where_it_weighs_nothing(kernels, dtype):
    for k in (2, 5, 40):
        z = np.zeros(k)
        z[1] = 1e4  # exp of it is infinite
        net = fastbp.MLP((1, k), init=[(np.zeros((1, k)), z)], dtype=dtype, backend=kernels)
        weight = np.ones((3, k))
        weight[:, 1] = 0
        value, gradient = net.loss_and_grad(np.zeros((3, 1)), np.ones((3, k)), loss="poisson", sample_weight=weight)
        assert_close(value, 1.0, dtype)
        assert not gradient.any()


@pytest.mark.parametrize("scale", [2.0**-1060, 2.0**-400, 2.0**900])
def test_a_power_of_two_on_all_weights_changes_no_bit(scale, backend):
    X, t, weight = data("mse", 17, 3)
    weight = np.round(weight * 4)
    nets = network(backend=backend), network(backend=backend)
    found = [net.loss_and_grad(X, t, loss="mse", sample_weight=w) for net, w in zip(nets, (weight, scale * weight))]
    assert frozen(list(map(np.asarray, found[0]))) == frozen(list(map(np.asarray, found[1])))


def test_weights_far_apart_are_those_of_the_large_ones(kernels, dtype):
    """What is lost in float32, or in the sum, counts for nothing and spoils nothing."""
    X, t, weight = data("mse", 17, 3)
    far = np.where(weight > 0.5, weight * 1e250, weight * 1e-50)
    value, gradient = network((7, 3), dtype, kernels).loss_and_grad(X, t, loss="mse", sample_weight=far)
    large = np.where(weight > 0.5, weight, 0)
    wanted = network((7, 3), dtype, kernels).loss_and_grad(X, t, loss="mse", sample_weight=large)
    assert_close(np.append(gradient, value), np.append(wanted[1], wanted[0]), dtype, k=17)


# ------------------------------------------------------------------ no targets at all


def test_a_batch_without_targets_is_a_step_without_gradient(kernels, dtype):
    for widths in WIDTHS:
        net = network(widths, dtype, kernels)
        X = np.random.default_rng(0).normal(size=(9, 5))
        missing = np.full((9, widths[-1]), np.nan)
        before = net.flatten()
        options = {"loss": "mse", "missing": "ignore"}
        assert net.train_step(X, missing, optimizer=fastbp.SGD(lr=0.1, momentum=0.9), **options) == 0
        value, gradient = net.loss_and_grad(X, missing, **options)
        assert value == 0 and not gradient.any() and np.isfinite(gradient).all()
        assert np.array_equal(net.flatten(), before) and net.step == 1
        decays = fastbp.SGD(lr=0.5, weight_decay=0.5)
        net.train_step(X, missing, optimizer=decays, **options)
        assert_close(net.flatten(), before * 0.75, dtype)


def test_a_run_goes_over_such_batches(kernels, dtype):
    for widths in WIDTHS[:3]:
        X, t, _ = data("mse", 24, widths[-1])
        t[8:16] = np.nan
        net, twin = (network(widths, dtype, kernels) for _ in range(2))
        options = {"loss": "mse", "optimizer": RATE, "missing": "ignore"}
        history = net.fit(X, t, batch_size=8, epochs=1, shuffle=False, **options)
        losses = [twin.train_step(X[k : k + 8], t[k : k + 8], **options) for k in (0, 8, 16)]
        assert losses[1] == 0 and history.loss[0] == pytest.approx(np.mean(losses))
        assert np.array_equal(net.flatten(), twin.flatten()) and net.step == 3
        pairs = [(X[k : k + 8], t[k : k + 8]) for k in (0, 8, 16)]
        third = network(widths, dtype, kernels)
        third.fit(pairs, epochs=1, **options)
        assert np.array_equal(net.flatten(), third.flatten())


@pytest.mark.parametrize("verb, more", [
    ("fit", {"steps": 1, "optimizer": RATE}), ("evaluate", {}),
])  # fmt: skip
def test_but_a_run_and_a_measurement_want_one(verb, more, backend):
    net, (X, t, weight) = network(backend=backend), data("mse", 9, 3)
    for y, w, message in (
        (np.full_like(t, np.nan), None, "y holds no targets: every one of them is missing"),
        (np.where(weight > 0, np.nan, t), weight, "sample_weight is zero for every target that is not missing"),
        (t, np.zeros_like(t), "sample_weight is zero for every sample"),
    ):
        with pytest.raises(ValueError, match=message):
            getattr(net, verb)(X, y, loss="mse", sample_weight=w, missing="ignore", **more)
    with pytest.raises(ValueError, match="validation_data: y holds no targets"):
        net.fit(X, t, loss="mse", steps=1, optimizer=RATE, missing="ignore", validation_data=(X, np.nan * t))


# ------------------------------------------------------------------ what is refused

VERBS = {
    "fit": lambda net, X, y, **more: net.fit(X, y, steps=2, optimizer=RATE, **more),
    "train_step": lambda net, X, y, **more: net.train_step(X, y, optimizer=RATE, **more),
    "evaluate": lambda net, X, y, **more: net.evaluate(X, y, **more),
    "loss_and_grad": lambda net, X, y, **more: net.loss_and_grad(X, y, **more),
}


@pytest.fixture(params=VERBS)
def verb(request):
    return VERBS[request.param]


@pytest.mark.parametrize("loss", WHOLE)
def test_a_loss_of_whole_rows_takes_neither(loss, verb, backend):
    k = 3
    net = network((7, outputs_for(loss, k)), backend=backend)
    X, t, before = np.zeros((9, 5)), targets(np.random.default_rng(0), loss, 9, net.sizes[-1]), pickle.dumps(net)
    why = "a mean and a variance for each" if loss == "gaussian_nll" else "one of all outputs of a row"
    message = f"missing='ignore' is for losses of each target by itself, and {loss} has {why}"
    with pytest.raises(ValueError, match=re.escape(message)):
        verb(net, X, t, loss=loss, missing="ignore")
    with pytest.raises(ValueError, match=re.escape("sample_weight must have shape (9,), got (9, 3); weights of each "
                                                   f"target are for losses of each by itself, and {loss} has {why}")):
        verb(net, X, t, loss=loss, sample_weight=np.ones((9, 3)))
    assert pickle.dumps(net) == before


def test_what_does_not_fit_is_named(verb, backend):
    net, (X, t, weight) = network(backend=backend), data("mse", 9, 3)
    before = pickle.dumps(net)
    bad = weight.copy()
    bad[2, 1] = np.nan
    missing, infinite = t.copy(), t.copy()
    missing[4, 2], infinite[4, 2] = np.nan, np.inf
    for y, given, message in (
        (t, {"sample_weight": weight[:, :2]}, "sample_weight must have shape (9,) or (9, 3), got (9, 2)"),
        (t, {"sample_weight": weight[:-1]}, "sample_weight must have shape (9,) or (9, 3), got (8, 3)"),
        (t, {"sample_weight": weight[..., None]}, "sample_weight must have shape (9,) or (9, 3), got (9, 3, 1)"),
        (t, {"sample_weight": -weight}, "sample_weight must be finite and at least 0, got sample_weight[0, 0]"),
        (t, {"sample_weight": bad}, "sample_weight must be finite and at least 0, got sample_weight[2, 1] = nan"),
        (t, {"sample_weight": weight * 1e308}, "sample_weight: the sum of the weights overflows"),
        (missing, {}, "y must be finite as float64, got y[4, 2] = nan; missing='ignore' leaves out targets that are"),
        (infinite, {}, "y must be finite as float64, got y[4, 2] = inf"),
        (infinite, {"missing": "ignore"}, "y must be finite as float64, got y[4, 2] = inf"),
        (t, {"missing": "skip"}, "missing: unknown name 'skip'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            verb(net, X, y, loss="mse", **given)
    with pytest.raises(TypeError, match="missing"):
        verb(net, X, t, loss="mse", missing=True)
    with pytest.raises(ValueError, match=r"y must be from 0 to 1 for binary_cross_entropy, got y\[0, 1\] = 2.0"):
        verb(net, X, np.tile([np.nan, 2, 0], (9, 1)), loss="binary_cross_entropy", missing="ignore")
    with pytest.raises(ValueError) as error:
        verb(net, X, missing, loss="gaussian_nll")
    assert "missing=" not in str(error.value)
    assert pickle.dumps(net) == before


def test_a_hint_is_given_where_it_can_be_followed(backend):
    net, (X, t, _) = network(backend=backend), data("mse", 9, 3)
    t[0, 0] = np.nan
    with pytest.raises(ValueError, match="validation_data: .*missing='ignore'"):
        net.fit(X, np.nan_to_num(t), loss="mse", steps=1, optimizer=RATE, validation_data=(X, t))
    with pytest.raises(ValueError, match="a batch: .*missing='ignore'"):
        net.fit([(X, t)], loss="mse", steps=1, optimizer=RATE)
    with pytest.raises(ValueError, match="finite") as error:
        net.trace(X, t, loss="mse", lr=0.1)
    assert "missing=" not in str(error.value)


def test_a_call_like_the_last_one_still_refuses_nan(backend):
    net, (X, t, _) = network(dtype=np.float32, backend=backend), data("mse", 9, 3)
    X, t = X.astype(np.float32), t.astype(np.float32)
    options = {"loss": "mse", "optimizer": RATE}
    for _ in range(3):
        net.train_step(X, t, **options)
    t[0, 0] = np.nan
    before = net.flatten()
    assert np.isfinite(net.train_step(X, t, missing="ignore", **options))
    assert not np.array_equal(net.flatten(), before)
    with pytest.raises(ValueError, match="missing='ignore'"):
        net.train_step(X, t, **options)


def test_a_call_like_the_last_one_takes_them_too(backend):
    """In the short way too: the chosen action of each row, rows of one weight, weights that need care."""
    X, t, weight = data("mse", 9, 3)
    X, t = X.astype(np.float32), t.astype(np.float32)
    options = {"loss": "mse", "optimizer": RATE}
    even = np.repeat(weight[:, :1], 3, axis=1) + 1
    forms = weight, even, even[:, 0], weight.astype(np.float32), np.asfortranarray(weight), weight * 2.0**-1000, None
    net, found = network(dtype=np.float32, backend=backend), []
    for _ in range(2):
        for given in forms:  # the twin remembers nothing
            twin = fastbp.MLP((5, 7, 3), activation="tanh", dtype=np.float32, backend=backend)
            twin.unflatten(net.flatten())
            loss = net.train_step(X, t, sample_weight=given, **options)
            assert loss == twin.train_step(X, t, sample_weight=given, **options)
            assert np.array_equal(net.flatten(), twin.flatten())
            found.append(loss)
    assert found[1] != found[0]
    before = net.flatten()
    for wrong in (weight[:, :2], -weight, weight * np.nan, weight * 0, weight[..., None]):
        with pytest.raises(ValueError, match="sample_weight"):
            net.train_step(X, t, sample_weight=wrong, **options)
    assert np.array_equal(net.flatten(), before)
    net = network((7, 3), np.float32, backend)
    labels = np.arange(9) % 3
    for _ in range(2):
        net.train_step(X, labels, loss="softmax_cross_entropy", optimizer=RATE)
    with pytest.raises(ValueError, match="softmax_cross_entropy has one of all outputs"):
        net.train_step(X, labels, loss="softmax_cross_entropy", optimizer=RATE, sample_weight=weight)
    with pytest.raises(ValueError, match="missing='ignore' is for losses"):
        net.fit(9 * [(X[:1], labels[:1])], loss="softmax_cross_entropy", optimizer=RATE, epochs=1, missing="ignore")


# ------------------------------------------------------------------ where rows come from


class Dataset(Lazy):
    """What lies in a file and comes by slices."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, (4, array.shape[1])

    def __getitem__(self, which):
        return self.array[which]


class Csr:
    """A CSR matrix, as `fastbp.data.samples.Sparse` knows it."""

    def __init__(self, dense):
        rows, self.indices = np.nonzero(dense)
        self.data, self.shape, self.format = dense[rows, self.indices], dense.shape, "csr"
        self.indptr, self.nnz = np.searchsorted(rows, np.arange(len(dense) + 1)), len(self.data)
        self.toarray = lambda: dense


SOURCES = {
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2], "columns": np.asfortranarray, "dataset": Dataset, "csr": Csr,
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "in order"])
def test_every_source_of_rows_brings_them(source, shuffle, backend):
    X, t, weight = data("mse", 37, 3)
    X = np.where(np.abs(X) > 0.3, X, 0).astype(np.float32)
    t[weight == 0.25] = np.nan
    options = {"loss": "mse", "optimizer": RATE, "batch_size": 8, "epochs": 3, "shuffle": shuffle, "missing": "ignore"}
    net, twin = (network(backend=backend) for _ in range(2))
    given = SOURCES[source](X)
    found = [
        one.fit(rows, t, sample_weight=weight, validation_data=(rows, t, weight), **options)
        for one, rows in ((net, given), (twin, X))
    ]  # fmt: skip
    assert np.array_equal(net.flatten(), twin.flatten())
    assert np.array_equal(found[0].loss, found[1].loss) and np.array_equal(found[0].val_loss, found[1].val_loss)
    measured = {"loss": "mse", "sample_weight": weight, "missing": "ignore"}
    assert net.evaluate(given, t, **measured) == net.evaluate(X, t, **measured)
    assert frozen(net.loss_and_grad(given, t, **measured)) == frozen(net.loss_and_grad(X, t, **measured))
    assert net.evaluate(X, t, **measured) == pytest.approx(found[0].val_loss[-1])


def test_rows_kept_for_validation_keep_theirs(backend):
    X, t, weight = data("mse", 40, 3)
    t[weight == 0.25] = np.nan
    net, twin = (network(backend=backend) for _ in range(2))
    options = {"loss": "mse", "optimizer": RATE, "batch_size": 8, "epochs": 2, "missing": "ignore"}
    history = net.fit(X, t, sample_weight=weight, validation_split=0.3, **options)
    from fastbp.data.classes import validation_rows

    kept = validation_rows(40, 0.3, None, net.seed)
    same = twin.fit(X[~kept], t[~kept], sample_weight=weight[~kept],
                    validation_data=(X[kept], t[kept], weight[kept]), **options)  # fmt: skip
    assert np.array_equal(net.flatten(), twin.flatten()) and np.array_equal(history.val_loss, same.val_loss)
    with pytest.raises(ValueError, match="validation_split: sample_weight is zero for every row that is"):
        only = np.full_like(t, np.nan)
        only[kept] = 1
        network(backend=backend).fit(X, only, validation_split=0.3, **options)


def test_batches_bring_weights_of_targets_and_missing_ones(backend):
    X, t, weight = data("mse", 37, 3)
    t[weight == 0.25] = np.nan
    pieces = [slice(k, k + 8) for k in range(0, 37, 8)]
    net, twin = (network(backend=backend) for _ in range(2))
    options = {"loss": "mse", "optimizer": RATE, "missing": "ignore"}
    net.fit([(X[k], t[k], weight[k]) for k in pieces], epochs=2, **options)
    twin.fit(X, t, sample_weight=weight, batch_size=8, epochs=2, shuffle=False, **options)
    assert np.array_equal(net.flatten(), twin.flatten())


def test_lbfgs_takes_them(backend):
    pytest.importorskip("scipy")
    X, t, weight = data("mse", 37, 3)
    t[weight == 0] = np.nan
    net = network(backend=backend)
    measured = {"loss": "mse", "sample_weight": weight, "missing": "ignore"}
    before = net.evaluate(X, t, **measured)
    history = net.fit(X, t, optimizer="lbfgs", steps=20, **measured)
    assert history.loss[0] == pytest.approx(before) and net.evaluate(X, t, **measured) < 0.7 * before


def test_integers_and_float16_hold_none_and_some(backend):
    X, t, weight = data("mse", 9, 3)
    whole = np.round(t).astype(np.int8)
    net = network(backend=backend)
    assert net.evaluate(X, whole, loss="mse", missing="ignore") == net.evaluate(X, whole, loss="mse")
    half = np.where(weight > 0, t, np.nan).astype(np.float16)
    wanted = net.evaluate(X, np.nan_to_num(half), loss="mse", sample_weight=(weight > 0) * 1.0)
    assert net.evaluate(X, half, loss="mse", missing="ignore") == wanted


# ------------------------------------------------------------------ classes and metrics


def test_a_class_weight_multiplies_rows_whose_target_is_there(backend):
    X, _, _ = data("mse", 20, 1)
    labels = np.resize([0.0, 1, 1, np.nan, 0], (20, 1))
    known = ~np.isnan(labels[:, 0])
    assert kinds_of(labels, L.TABLE["mse"]).tolist() == [0, 1, 1, -1, 0] * 4
    balanced = class_weights("balanced", kinds_of(labels, L.TABLE["mse"]), 2)
    assert np.array_equal(balanced[known], np.ones(16))  # as many of either class
    options = {"loss": "binary_cross_entropy", "optimizer": RATE, "batch_size": 5, "epochs": 2, "shuffle": False}
    net, twin = (network((7, 1), backend=backend) for _ in range(2))
    weight = np.arange(1.0, 21)[:, None]
    net.fit(X, labels, class_weight={1: 3.0}, sample_weight=weight, missing="ignore", **options)
    by_row = np.where(known, np.where(labels[:, 0] == 1, 3.0, 1.0) * weight[:, 0], 0)
    twin.fit(X, np.nan_to_num(labels), sample_weight=by_row, **options)
    assert np.array_equal(net.flatten(), twin.flatten())
    third = network((7, 1), backend=backend)
    pairs = [(X[k : k + 5], labels[k : k + 5], weight[k : k + 5]) for k in range(0, 20, 5)]
    third.fit(pairs, class_weight={1: 3.0}, loss=options["loss"], optimizer=RATE, epochs=2, missing="ignore")
    assert np.array_equal(net.flatten(), third.flatten())


def metric(y, weight, names, loss="mse", widths=(7, 3)):
    """Metrics of a network on rows, and its outputs there."""
    net = network(widths)
    X = np.random.default_rng(3).normal(size=(len(y), 5))
    history = net.fit(X, y, loss=loss, optimizer=fastbp.SGD(lr=1e-9), steps=1, sample_weight=weight, missing="ignore",
                      metrics=names)  # fmt: skip
    return {name: values[-1] for name, values in history.metrics.items()}, net.predict(X)


def test_metrics_leave_out_what_is_missing_and_weigh_what_is_there():
    _, t, weight = data("mse", 30, 3)
    t[weight == 0.25] = np.nan
    weighs = np.where(np.isnan(t), 0, weight)
    found, a = metric(t, weight, ["mae", "rmse", "r2"])
    error = np.where(weighs > 0, t - a, 0)
    assert found["mae"] == pytest.approx((weighs * abs(error)).sum() / weighs.sum())
    assert found["rmse"] == pytest.approx(np.sqrt((weighs * error**2).sum() / weighs.sum()))
    scores = []
    for j in range(3):
        w = weighs[:, j]
        if w.any():
            there = np.where(w > 0, t[:, j], 0)
            spread = (w * (there - (w * there).sum() / w.sum()) ** 2).sum()
            scores.append(1 - (w * error[:, j] ** 2).sum() / spread)
    assert found["r2"] == pytest.approx(np.mean(scores))
    # an output without any target has no score, and rows without any are as rows that are not there
    t[:, 1] = np.nan
    found, _ = metric(t, weight, ["r2"])
    assert found["r2"] == pytest.approx(np.mean([scores[0], scores[-1]]))
    rows = np.resize([1.0, np.nan], (30, 1)) * np.arange(90).reshape(30, 3)
    assert metric(rows, None, ["mae"])[0]["mae"] == pytest.approx(
        abs(rows[::2] - metric(rows, None, ["mae"])[1][::2]).mean()
    )


def test_so_does_the_accuracy_of_labels_of_their_own():
    _, t, weight = data("binary_cross_entropy", 30, 3)
    t = np.where(weight == 0.25, np.nan, np.round(t))
    found, z = metric(t, weight, ["accuracy"], "binary_cross_entropy")
    weighs = np.where(np.isnan(t), 0, weight)
    assert found["accuracy"] == pytest.approx((weighs * ((z > 0) == (t > 0.5))).sum() / weighs.sum())
    one = np.resize([0.0, 1, 1, np.nan], (30, 1))
    found, z = metric(one, None, ["accuracy", "balanced_accuracy"], "binary_cross_entropy", (7, 1))
    known = ~np.isnan(one[:, 0])
    right = ((z > 0) == (one > 0.5))[:, 0]
    assert found["accuracy"] == pytest.approx(right[known].mean())
    each = [right[one[:, 0] == kind].mean() for kind in (0, 1)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(each))


def test_metrics_of_whole_rows_are_refused_and_your_own_see_nan():
    _, t, weight = data("mse", 30, 3)
    for name in ("accuracy", "balanced_accuracy", "top_2"):
        with pytest.raises(ValueError, match=f"metrics: '{name}' compares the class of whole rows"):
            metric(t, weight, [name])
    t[4, 1] = np.nan

    def missing(y_true, y_pred):
        return np.isnan(y_true).sum()

    assert metric(t, None, [missing])[0] == {"missing": 1}


# ------------------------------------------------------------------ looking


def test_a_trace_shows_the_weight_of_each_target(backend):
    X, t, weight = data("mse", 4, 3)
    net = network(backend=backend)
    step = net.trace(X, t, loss="half_squared_error", lr=0.1, sample_weight=weight)
    assert np.array_equal(step.sample_weight, weight)
    twin = network(backend=backend)
    assert step.loss_before == twin.train_step(X, t, loss="half_squared_error", optimizer=fastbp.SGD(0.1),
                                               sample_weight=weight)  # fmt: skip
    assert np.array_equal(step.layers[-1].weight.new, twin.weights[-1])
    g = weight * (step.layers[-1].a - t) * 3 / weight.sum()
    assert_close(step.layers[-1].g, g, np.float64, k=12)
    # what a row's loss is divided by: the mean weights of rows; of a mean over outputs the weights of all
    assert f" / {weight.sum() / 3:.4g}" in step.to_text() and "w * " in step.to_text()
    assert f" / {weight.sum():.4g}" in net.trace(X, t, loss="mse", lr=0.1, sample_weight=weight).to_text()


def test_the_engine_makes_room_once():
    """When the first such weights come; not for networks that never see any."""
    need_extension()
    from fastbp import _engine

    for widths in ((7, 3), (20, 3), (9, 17)):
        net, (X, t, weight) = network(widths, backend="cython"), data("mse", 24, widths[-1])
        options = {"loss": "mse", "optimizer": RATE, "batch_size": 8}
        net.fit(X, t, steps=1, sample_weight=weight[:, 0] + 1, **options)
        before = _engine.allocations()[2]
        net.fit(X, t, steps=10, sample_weight=weight[:, 0] + 1, **options)
        assert _engine.allocations()[2] == before
        net.fit(X, t, steps=10, sample_weight=weight, **options)
        assert _engine.allocations()[2] == before + 1
        net.fit(X, t, steps=10, sample_weight=weight, **options)
        assert _engine.allocations()[2] == before + 1


def test_products_of_small_weights_of_targets_are_not_lost():
    small = np.full((2, 3), 2.0**-1040)
    small[0, 1] = 0
    assert np.array_equal(product(small) > 0, small > 0) and product(small).max() >= 2.0**-900
