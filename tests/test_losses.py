"""Losses with settings: what may be chosen, what is refused, weights, far-out outputs, probabilities.

Values beside PyTorch's are in test_rows.py, gradients in test_gradients.py, shapes in test_equivalence.py.
"""

import copy
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import need_extension
from targets import outputs_for, targets
from test_again import long_way
from test_process import python
from tolerance import assert_close

import fastbp
from fastbp import losses as L
from fastbp import rows
from fastbp.backends import plan

PLAIN = [name for name, row in L.TABLE.items() if not row.statistic]  # they take weights of outputs
RATE = fastbp.SGD(lr=0.01)


def network(loss, dtype=np.float64, backend="auto", n_targets=3, seed=1):
    return fastbp.MLP((5, 7, outputs_for(loss, n_targets)), activation="tanh", seed=seed, dtype=dtype, backend=backend)


def data(loss, n=12, n_targets=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)), targets(rng, loss, n, outputs_for(loss, n_targets))


def fixed(z, backend, dtype, **options):
    """A network that gives one row of output whatever its input, and an input."""
    z = np.asarray(z, float)
    net = fastbp.MLP((1, len(z)), init=[(np.zeros((1, len(z))), z)], dtype=dtype, backend=backend, **options)
    return net, np.zeros((1, 1))


# ------------------------------------------------------------------ settings


def test_a_row_is_called_for_other_settings():
    row = L.huber(delta=2)
    assert row.chosen == {"outputs": "mean", "output_weights": None, "delta": 2.0}
    assert row != L.huber and row == L.TABLE["huber"](delta=2.0) and hash(row) == hash(L.huber(delta=2.0))
    assert row(outputs="sum").chosen["delta"] == 2 and row(delta=1.0) == L.huber == L.huber()
    assert pickle.loads(pickle.dumps(row)) == copy.deepcopy(row) == row
    assert fastbp.losses is L and "huber" in dir(L) and L.TABLE["huber"] is L.huber
    assert L.mse(output_weights=np.ones(3)) == L.mse(output_weights=[1, 1, 1])
    with pytest.raises(AttributeError, match="no attribute 'hubber'"):
        L.hubber  # noqa: B018


WRONG = [  # row, settings, error, what its message says
    ("huber", {"dleta": 2}, TypeError, "setting of huber: unknown name 'dleta'; did you mean 'delta'?"),
    ("mse", {"delta": 2}, TypeError, "setting of mse: unknown name 'delta'"),
    ("huber", {"delta": 0}, ValueError, "huber: delta must be above 0, got 0"),
    ("huber", {"delta": -1.0}, ValueError, "huber: delta must be above 0, got -1.0"),
    ("huber", {"delta": math.nan}, ValueError, "huber: delta must be above 0, got nan"),
    ("huber", {"delta": math.inf}, ValueError, "huber: delta must be finite, got inf"),
    ("huber", {"delta": None}, TypeError, "huber: delta must be a number, got None"),
    ("huber", {"delta": "1"}, TypeError, "huber: delta must be a number, got '1'"),
    ("huber", {"delta": True}, TypeError, "huber: delta must be a number, got True"),
    ("quantile", {"quantile": 0.0}, ValueError, "quantile: quantile must be above 0 and below 1, got 0.0"),
    ("quantile", {"quantile": 1.0}, ValueError, "quantile: quantile must be above 0 and below 1, got 1.0"),
    ("tweedie", {"power": 1.0}, ValueError, "tweedie: power must be above 1 and below 2, got 1.0"),
    ("tweedie", {"power": 2.0}, ValueError, "tweedie: power must be above 1 and below 2, got 2.0"),
    ("gaussian_nll", {"eps": 0.0}, ValueError, "gaussian_nll: eps must be above 0, got 0.0"),
    ("focal", {"gamma": -0.1}, ValueError, "focal: gamma must be at least 0, got -0.1"),
    ("focal", {"alpha": 1.1}, ValueError, "focal: alpha must be from 0 to 1 or None, got 1.1"),
    ("softmax_cross_entropy", {"label_smoothing": 1.0}, ValueError, "label_smoothing must be at least 0 and below 1"),
    ("softmax_cross_entropy", {"label_smoothing": -0.1}, ValueError, "label_smoothing must be at least 0 and below 1"),
    ("softmax_log_loss", {"eps": 0.5}, ValueError, "eps must be above 0 and below 0.5, got 0.5"),
    ("binary_log_loss", {"eps": -1e-9}, ValueError, "eps must be above 0 and below 0.5, got -1e-09"),
    ("softmax_cross_entropy", {"output_weights": [1, 2]}, ValueError, "sample_weight"),
    ("kl_divergence", {"output_weights": [1, 2]}, ValueError, "sample_weight"),
    ("mse", {"outputs": "median"}, ValueError, "mse: outputs must be 'mean' or 'sum', got 'median'"),
    ("mse", {"outputs": 1}, TypeError, "mse: outputs must be 'mean' or 'sum', got 1"),
    ("mse", {"output_weights": [0.0, 0.0]}, ValueError, "mse: output_weights must be finite, at least 0 and not all 0"),
    ("mse", {"output_weights": [1.0, -1.0]}, ValueError, "mse: output_weights must be finite, at least 0"),
    ("mse", {"output_weights": [1.0, math.nan]}, ValueError, "mse: output_weights must be finite, at least 0"),
    ("mse", {"output_weights": [1.0, math.inf]}, ValueError, "mse: output_weights must be finite, at least 0"),
    ("mse", {"output_weights": 2.0}, TypeError, "mse: output_weights must be a sequence of numbers"),
    ("mse", {"output_weights": [[1.0]]}, TypeError, "mse: output_weights must be a sequence of numbers"),
    ("mse", {"output_weights": ["1"]}, TypeError, "mse: output_weights must be a sequence of numbers"),
    ("mse", {"output_weights": [[1], [1, 2]]}, TypeError, "mse: output_weights must be a sequence of numbers"),
]


@pytest.mark.parametrize("name, chosen, error, message", WRONG, ids=str)
def test_a_wrong_setting_is_refused_by_name(name, chosen, error, message):
    with pytest.raises(error, match=re.escape(message)):
        L.TABLE[name](**chosen)


def test_the_ends_of_a_domain_are_as_it_is_written():
    grid = np.array([-1.0, 0, 0.5, 1, 2, math.nan, math.inf])
    inside = {
        rows.Domain(0.0, 1.0): [0, 0.5, 1], rows.Domain(0.0, 1.0, "()"): [0.5], rows.Domain(0.0, 1.0, "[)"): [0, 0.5],
        rows.Domain(0.0, math.inf, "(]"): [0.5, 1, 2, math.inf], rows.Domain(-1.0, 1.0, "{}"): [-1, 1],
    }  # fmt: skip
    for domain, wanted in inside.items():
        assert grid[domain.holds(grid)].tolist() == wanted
        for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
            low, high = domain.closed(dtype)
            ends = dtype.type([low, high])
            with np.errstate(over="ignore"):
                outer = np.nextafter(ends, dtype.type([-np.inf, np.inf]))
            assert domain.holds(ends).all() and not domain.holds(outer[np.isfinite(outer)]).any(), domain
    assert [str(domain) for domain in inside] == [
        "from 0 to 1", "above 0 and below 1", "at least 0 and below 1", "above 0", "-1 or 1"
    ]  # fmt: skip
    assert str(rows.ANY) == "any number" and str(rows.Domain(0.0)) == "at least 0"


def test_the_tables_rows_are_known_with_any_setting_and_a_users_own_are_not():
    spec = network("huber")._spec
    own = rows.Loss("huber", "ABS(z - t)", "z - t", outputs="mean")
    need_extension()
    for row in (L.huber, L.huber(delta=3), L.huber(outputs="sum", output_weights=[1, 2, 3])):
        assert plan.make_plan(spec, 8, loss=row).backend == "cython" and plan.own_rows([row]) == []
    bounds = (rows.Setting("delta", 1.0, rows.ANY),)
    for row in (own, replace(L.huber, value="ABS(z - t)"), replace(L.huber, settings=bounds)):
        assert plan.own_rows([row]) == ["huber"]


def test_a_users_own_row_may_have_settings_and_constants():
    own = rows.Loss(
        "own", "c * (z - t) * (z - t)", "2 * c * (z - t)", outputs="sum",
        settings=(rows.Setting("scale", 1.0, rows.ANY),), constants=(("c", "scale / k"),),
    )  # fmt: skip
    X, t = data("mse")
    net = network("mse")
    for a, b in zip(net.loss_and_grad(X, t, loss=own(scale=2.0)), net.loss_and_grad(X, t, loss="mse")):
        assert_close(a, 2 * np.asarray(b), np.float64, k=20)


@pytest.mark.parametrize("loss", L.TABLE)
def test_defaults_given_by_name_are_the_same_bits(loss, kernels, dtype):
    row = L.TABLE[loss]
    chosen = row(**{setting.name: setting.default for setting in row.settings}, outputs=row.outputs)
    assert chosen == row
    ends = []
    for form in (loss, row, chosen):
        net, (X, t) = network(loss, dtype, kernels), data(loss)
        history = net.fit(X, t, loss=form, optimizer=RATE, batch_size=5, epochs=2)
        ends.append(history.loss.tobytes() + net.flatten().tobytes())
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("n_targets", [2, 5, 40])
def test_label_smoothing_0_is_the_plain_loss_and_more_is_a_mixture_of_targets(n_targets, kernels, dtype):
    loss, share = "softmax_cross_entropy", 0.25
    X, t = data(loss, n_targets=n_targets)
    labels = t.argmax(axis=1)
    for y, mixed in ((t, t), (labels, np.eye(n_targets)[labels])):
        net = network(loss, dtype, kernels, n_targets)
        smoothed = net.loss_and_grad(X, y, loss=L.softmax_cross_entropy(label_smoothing=share))
        plain = net.loss_and_grad(X, (1 - share) * mixed + share / n_targets, loss=loss)
        assert_close(smoothed[0], plain[0], dtype, scale=max(1, plain[0]))
        assert_close(smoothed[1], plain[1], dtype, scale=1)


@pytest.mark.parametrize("sizes", [(5, 7, 3), (5, 9, 4), (5, 40)], ids=str)
def test_targets_may_be_labels_in_one_call_and_probabilities_in_the_next(sizes, kernels, dtype):
    X, t = data("softmax_cross_entropy", n_targets=sizes[-1])
    run = {"loss": "softmax_cross_entropy", "optimizer": RATE, "batch_size": 5, "epochs": 1}
    net = fastbp.MLP(sizes, seed=1, dtype=dtype, backend=kernels)
    start = net.flatten()
    for y in (t.argmax(axis=1), t, t.argmin(axis=1), t[:, ::-1]):
        fresh = fastbp.MLP(sizes, seed=1, dtype=dtype, backend=kernels)
        net.unflatten(start)
        net.reset_training()
        histories = [one.fit(X, y, **run).loss.tobytes() for one in (net, fresh)]
        assert histories[0] == histories[1] and net.flatten().tobytes() == fresh.flatten().tobytes()


@pytest.mark.parametrize("how", ["fit", "train_step"])
@pytest.mark.parametrize("loss", L.TABLE)
def test_a_setting_trains_the_same_on_each_path(loss, how, kernels, dtype):
    """`fit` fused, on tiny and on other layouts, against the reference."""
    row = L.TABLE[loss](outputs="sum")
    for n_targets in (1, 2, 7, 33):
        if not row.statistic:
            row = row(output_weights=np.linspace(0.5, 2, n_targets))
        X, t = data(loss, n=11, n_targets=n_targets)
        nets = [network(loss, dtype, backend, n_targets) for backend in (kernels, "reference")]
        for net in nets:
            if how == "fit":
                net.fit(X, t, loss=row, optimizer=RATE, batch_size=8, steps=3, shuffle=False)
            else:
                for _ in range(3):
                    net.train_step(X, t, loss=row, optimizer=RATE)
        assert_close(nets[0].flatten(), nets[1].flatten(), dtype, k=6, what=f"{n_targets} targets")


# ------------------------------------------------------------------ weights


@pytest.mark.parametrize("loss", L.TABLE)
def test_in_each_batch_weight_0_is_the_row_removed_and_weight_2_the_row_twice(loss, kernels, dtype):
    X, t = data(loss, n=20)
    weight = np.resize([1.0, 0, 2, 1, 1], 20)
    kept = np.concatenate([5 * batch + np.array([0, 2, 2, 3, 4]) for batch in range(4)])
    by_weight, by_row = (network(loss, dtype, kernels) for _ in range(2))
    how = {"loss": loss, "optimizer": RATE, "batch_size": 5, "epochs": 2, "shuffle": False}
    one = by_weight.fit(X, t, sample_weight=weight, **how)
    other = by_row.fit(X[kept], t[kept], **how)
    assert_close(one.loss, other.loss, dtype, k=20, scale=max(1, np.abs(other.loss).max()), what="history")
    assert_close(by_weight.flatten(), by_row.flatten(), dtype, k=8, what="parameters")


@pytest.mark.parametrize("loss", PLAIN)
def test_weights_of_outputs_add_up(loss, kernels, dtype):
    row = L.TABLE[loss]
    for n_targets in (1, 2, 5, 17, 40):
        X, t = data(loss, n_targets=n_targets)
        net = network(loss, dtype, kernels, n_targets)
        weights = np.arange(n_targets) % 4 / 2 + np.eye(n_targets)[0]

        def both(row, net=net, X=X, t=t):
            value, gradient = net.loss_and_grad(X, t, loss=row)
            return np.append(gradient, value).astype(float)

        alone = [both(row(outputs="sum", output_weights=one)) for one in np.eye(n_targets)]
        total, scale = both(row(outputs="sum", output_weights=weights)), max(1, np.abs(alone).max())
        single = network(loss, dtype, kernels, 1)
        for n in {0, n_targets // 2, n_targets - 1}:  # a network of this output and no other
            single.weights[0][...] = net.weights[0]
            single.weights[1][...] = net.weights[1][:, n::n_targets]
            got = both(row(outputs="sum"), single, X, t[:, [n]])
            below = single.weights[0].size
            assert_close(alone[n][-1], got[-1], dtype, k=len(X), scale=scale, what="loss")
            assert_close(alone[n][:below], got[:below], dtype, k=len(X), scale=scale, what="gradient")
        assert_close(total, weights @ alone, dtype, k=n_targets, scale=weights.sum() * scale)
        mean = both(row(outputs="mean", output_weights=weights))
        assert_close(mean * n_targets, total, dtype, k=n_targets, scale=weights.sum() * scale)
        assert np.array_equal(both(row(output_weights=np.ones(n_targets))), both(row))


def test_an_output_of_weight_0_is_left_out_though_its_loss_overflows(kernels, dtype):
    for n_targets in (2, 40):
        z = np.zeros(n_targets)
        z[1] = 1e4
        net, x = fixed(z, kernels, dtype)
        weights = np.ones(n_targets)
        weights[1] = 0
        value, gradient = net.loss_and_grad(x, np.ones((1, n_targets)), loss=L.poisson(output_weights=weights))
        assert_close(value, (n_targets - 1) / n_targets, dtype)
        assert not gradient.any()
        assert net.evaluate(x, np.ones((1, n_targets)), loss="poisson") == np.inf


@pytest.mark.parametrize("loss", L.TABLE)
def test_a_row_of_weight_0_is_left_out_though_its_loss_overflows(loss, kernels, dtype):
    """Its outputs are infinite or NaN; with labels and without, with few outputs and with many."""
    weight = np.resize([1.0, 0, 2, 1, 0], 11)
    for n_targets in (1, 3, 7, 40):
        X, t = data(loss, n=11, n_targets=n_targets)
        net = fastbp.MLP((5, outputs_for(loss, n_targets)), seed=1, dtype=dtype, backend=kernels)
        net.weights[0][...] = np.where(net.weights[0] > 0, 2, -2)
        X /= 8  # the other outputs stay near 0
        start = net.flatten()
        for y in (t, t.argmax(axis=1)) if L.TABLE[loss].labels else (t,):
            found = []
            for far in (1.0, 0.9 * np.finfo(dtype).max):
                X[weight == 0] = far * np.array([1, -1, 1, 1, -1])
                assert np.isfinite(net.predict(X[weight == 0])).all() == (far == 1)
                value, gradient = net.loss_and_grad(X, y, loss=loss, sample_weight=weight)
                out = [value, gradient, net.evaluate(X, y, loss=loss, sample_weight=weight)]
                run = {"loss": loss, "optimizer": RATE, "sample_weight": weight}
                out += [net.train_step(X, y, **run), net.fit(X, y, batch_size=11, steps=2, **run).loss, net.flatten()]
                net.unflatten(start)
                net.reset_training()
                assert all(np.isfinite(one).all() for one in out), n_targets
                found.append([np.asarray(one).tobytes() for one in out])
            assert found[0] == found[1], n_targets


@pytest.mark.parametrize("verb", ["fit", "train_step", "evaluate", "loss_and_grad", "explain"])
def test_weights_that_do_not_fit_the_network_are_refused(verb, backend):
    net, (X, t) = network("mse", backend=backend), data("mse")
    before = pickle.dumps(net)
    for row, message in (
        (L.mse(output_weights=[1, 2]), "loss 'mse': 2 output_weights given for 3 target"),
        (L.gaussian_nll, "loss 'gaussian_nll' takes two outputs for each target"),
    ):
        with pytest.raises(ValueError, match=message):
            if verb == "explain":
                net.explain(loss=row)
            else:
                getattr(net, verb)(X, t, loss=row, **({"steps": 1} if verb == "fit" else {}))
    assert pickle.dumps(net) == before


# ------------------------------------------------------------------ targets

OUTSIDE = {  # loss: targets that it refuses, what the message says
    "poisson": ([-1.0, -1e-30], "y must be at least 0 for poisson"),
    "poisson_deviance": ([-1.0], "y must be at least 0 for poisson_deviance"),
    "tweedie": ([-0.5], "y must be at least 0 for tweedie"),
    "gamma": ([0.0, -1.0], "y must be above 0 for gamma"),
    "hinge": ([0.0, 0.5, 2.0, -1.5], "y must be -1 or 1 for hinge"),
    "squared_hinge": ([0.0, 0.999, -3.0], "y must be -1 or 1 for squared_hinge"),
    "focal": ([-0.1, 1.1], "y must be from 0 to 1 for focal"),
    "binary_cross_entropy": ([-0.1, 1.1], "y must be from 0 to 1 for binary_cross_entropy"),
    "kl_divergence": ([-0.1, 1.5], "y must be from 0 to 1 for kl_divergence"),
}


@pytest.mark.parametrize("loss", OUTSIDE)
def test_targets_outside_the_domain_are_refused_and_nothing_changes(loss, backend, dtype):
    wrong, message = OUTSIDE[loss]
    net, (X, t) = network(loss, dtype, backend), data(loss)
    X, t = X.astype(dtype), t.astype(dtype)
    for first in (False, True):  # the short way of `train_step` comes with the second call
        for value in wrong:
            bad = t.copy()
            bad[3, 1] = value
            before = pickle.dumps(net)
            with pytest.raises(ValueError, match=re.escape(message) + r".*y\[3, 1\]"):
                net.train_step(X, bad, loss=loss)
            with pytest.raises(ValueError, match=re.escape(message) + r".*y\[3, 1\]"):
                net.fit(X, bad, loss=loss, steps=1)
            assert pickle.dumps(net) == before
        if not first:
            net.train_step(X, t, loss=loss)


def test_a_target_is_looked_at_as_the_network_sees_it(backend):
    """1e-60 is 0 in float32."""
    net, (X, t) = network("gamma", np.float32, backend), data("gamma")
    t[2, 2] = 1e-60
    with pytest.raises(ValueError, match="y must be above 0"):
        net.train_step(X, t, loss="gamma")
    network("gamma", np.float64, backend).train_step(X, t, loss="gamma")


@pytest.mark.parametrize("loss", L.TABLE)
def test_the_short_way_of_train_step_gives_the_same_bits(loss, dtype):
    need_extension()
    X, t = (array.astype(dtype) for array in data(loss))
    short, long = (network(loss, dtype, "cython") for _ in range(2))
    row = L.TABLE[loss](outputs="sum")
    for _ in range(3):
        values = []
        for net in (short, long):
            long_way(long)
            values.append(net.train_step(X, t, loss=row(), optimizer=RATE))  # an equal row, another object
        assert values[0] == values[1] and short.flatten().tobytes() == long.flatten().tobytes()
    taken = short._again.calls.train_step
    assert taken(X, t, row, RATE, None, "raise") is not None and taken(X, t, loss, RATE, None, "raise") is None


def test_gaussian_nll_takes_half_as_many_targets_as_outputs(backend):
    net, (X, t) = network("gaussian_nll", backend=backend), data("gaussian_nll")
    assert net.predict(X).shape == (12, 6) and t.shape == (12, 3)
    with pytest.raises(ValueError, match=r"y must have shape \(12, 3\), for loss 'gaussian_nll'; got \(12, 6\)"):
        net.evaluate(X, np.zeros((12, 6)), loss="gaussian_nll")
    one = network("gaussian_nll", backend=backend, n_targets=1)
    assert one.evaluate(X, t[:, 0], loss="gaussian_nll") == one.evaluate(X, t[:, :1], loss="gaussian_nll")


def test_gaussian_nll_learns_mean_and_variance(backend):
    """At the minimum these are the sample's own."""
    rng = np.random.default_rng(0)
    t = rng.normal(2.0, 0.5, size=(400, 1))
    net = fastbp.MLP((1, 2), seed=0, dtype=np.float64, backend=backend)
    net.fit(np.zeros((400, 1)), t, loss="gaussian_nll", optimizer=fastbp.SGD(0.2), batch_size=400, steps=400)
    mean, log_variance = net.predict([[0.0]])[0]
    assert abs(mean - t.mean()) < 1e-6 and abs(math.exp(log_variance) - t.var()) < 1e-6


def test_the_quantile_loss_finds_the_quantile(backend):
    t = np.linspace(0, 1, 101)[:, None]
    net = fastbp.MLP((1, 1), seed=0, dtype=np.float64, backend=backend)
    loss = L.quantile(quantile=0.9)
    net.fit(np.zeros((101, 1)), t, loss=loss, optimizer=fastbp.SGD(0.05), batch_size=101, steps=500)
    assert abs(net.predict([[0.0]])[0, 0] - 0.9) < 0.02


def test_no_byte_beside_a_buffer_is_touched_by_any_loss(isa, dtype):
    out = python("""
        import sys
        import itertools
        sys.path.insert(0, sys.argv[2])
        import numpy as np, fastbp
        from fastbp import _engine, losses
        from targets import outputs_for, targets

        _engine.set_guard(True)
        for loss, n_targets, n in itertools.product(losses.TABLE, (1, 2, 3, 9, 17, 31), (1, 9, 33)):
            row, out, rng = losses.TABLE[loss], outputs_for(loss, n_targets), np.random.default_rng(n)
            X, t = rng.normal(size=(n, 4)), targets(rng, loss, n, out)
            chosen = row if row.statistic else row(output_weights=np.ones(n_targets))
            net = fastbp.MLP((4, 7, out), dtype=sys.argv[1], seed=0, backend="cython")
            net.fit(X, t, loss=chosen, batch_size=8, epochs=1)
            net.loss_and_grad(X, t, loss=row)
            del net   # frees the programs, and so checks their guards
        print("unharmed", _engine.allocations()[0])
    """, dtype, Path(__file__).parent, timeout=120)  # fmt: skip
    assert out == "unharmed 0\n"


# ------------------------------------------------------------------ far out, NaN

FAR = [  # loss, z (and s), t, value, gradient
    ("mae", [1e4], 0, 1e4, [1]),
    ("huber", [-1e4], 0, 1e4 - 0.5, [-1]),
    ("log_cosh", [1e4], 0, 1e4 - math.log(2), [1]),
    ("log_cosh", [1e-4], 0, 1e-8 / 2 - 1e-16 / 12, [math.tanh(1e-4)]),  # not rounded away
    ("quantile", [-1e4], 0, 5e3, [-0.5]),
    ("poisson", [-1e4], 2, 2e4, [-2]),
    ("poisson_deviance", [-1e4], 2, 2e4 + 2 * math.log(2) - 2, [-2]),
    ("gamma", [1e4], 2, 1e4, [1]),
    ("tweedie", [-1e4], 0, 0, [0]),
    ("hinge", [1e4], 1, 0, [0]),
    ("hinge", [1e4], -1, 1e4 + 1, [1]),
    ("squared_hinge", [-1e4], -1, 0, [0]),
    ("focal", [1e4], 1, 0, [0]),
    ("focal", [-1e4], 0, 0, [0]),
    ("focal", [1e4], 0, 1e4, [1]),
    ("focal", [-1e4], 1, 1e4, [-1]),
    ("focal", [1e4], 0.5, 0.25 * 5e3, [0.25 * 0.5]),
    ("binary_cross_entropy", [1e4], 0, 1e4, [1]),
    ("gaussian_nll", [1e4, 1e4], 0, 5e3, [0, 0.5]),
    ("gaussian_nll", [0, -1e4], 0, math.log(1e-6) / 2, [0, 0]),
]


@pytest.mark.parametrize("loss, z, t, value, gradient", FAR, ids=str)
def test_a_loss_holds_far_out(loss, z, t, value, gradient, kernels, dtype):
    for copies in (1, 3, 20):
        net, x = fixed(np.repeat(z, copies), kernels, dtype)
        got, slope = net.loss_and_grad(x, np.full((1, copies), float(t)), loss=L.TABLE[loss](outputs="sum"))
        assert_close(got / copies, value, dtype, k=copies, scale=abs(value), what="loss")
        wanted = np.repeat(gradient, copies)
        assert_close(slope[len(wanted) :], wanted, dtype, scale=max(np.abs(wanted).max(), 1e-4), what="gradient")


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_is_finite_at_every_logit(gamma, kernels, dtype):
    z = np.concatenate([np.linspace(-200, 200, 401), [-1e4, 1e4, -1e30, 1e30]])
    net, x = fixed(z, kernels, dtype)
    for t in (0.0, 0.25, 1.0):
        value, gradient = net.loss_and_grad(x, np.full((1, len(z)), t), loss=L.focal(gamma=gamma))
        assert np.isfinite(value) and np.isfinite(gradient).all()
        if gamma == 0:
            plain = net.loss_and_grad(x, np.full((1, len(z)), t), loss="binary_cross_entropy")
            assert_close(value, plain[0], dtype)
            assert_close(gradient, plain[1], dtype)


@pytest.mark.parametrize("n_targets", [1, 3, 20])
@pytest.mark.parametrize("loss", L.TABLE)
def test_a_nan_output_shows_in_the_loss_and_in_its_gradient(loss, n_targets, kernels, dtype):
    rng = np.random.default_rng(0)
    out = outputs_for(loss, n_targets)
    for place in (0, out - 1):
        z = rng.normal(size=out)
        z[place] = np.nan
        net, x = fixed(z, kernels, dtype)
        value, gradient = net.loss_and_grad(x, targets(rng, loss, 1, out), loss=loss)
        assert np.isnan(value) and np.isnan(gradient[out + place])


PLAIN = {"softmax_log_loss": "softmax_cross_entropy", "binary_log_loss": "binary_cross_entropy"}


@pytest.mark.parametrize("eps", [2.0**-23, 1e-3, 0.25])
@pytest.mark.parametrize("loss", PLAIN)
def test_a_reported_loss_is_that_of_clipped_probabilities(loss, eps, kernels, dtype):
    """The gradient is that of the loss itself. What is NaN stays NaN."""
    row, plain, rng = L.TABLE[loss](eps=eps), L.TABLE[PLAIN[loss]], np.random.default_rng(0)
    for k in (2, 3, 37):
        z = np.append(rng.normal(size=k - 1), -2000.0)
        net, x = fixed(z, kernels, dtype)
        for place in (0, k - 1):
            t = np.eye(k)[place]
            if loss == "softmax_log_loss":
                wanted = min(np.logaddexp.reduce(z) - z[place], -math.log(eps))
            else:
                p = np.clip(1 / (1 + np.exp(-np.maximum(z, -700))), eps, 1 - eps)
                wanted = -np.where(t > 0, np.log(p), np.log1p(-p)).mean()
            value, gradient = net.loss_and_grad(x, t[None], loss=row)
            assert_close(value, wanted, dtype, k=8 * k, scale=max(wanted, 1))
            assert value == net.evaluate(x, t[None], loss=row)
            np.testing.assert_array_equal(gradient, net.loss_and_grad(x, t[None], loss=plain)[1])
    net, x = fixed(np.array([0.5, math.nan]), kernels, dtype)
    assert math.isnan(net.loss_and_grad(x, np.array([[0.0, 1.0]]), loss=row)[0])


# ------------------------------------------------------------------ probabilities

LINKS = {"softmax_cross_entropy": "softmax", "kl_divergence": "softmax", "binary_cross_entropy": "sigmoid",
         "focal": "sigmoid", "softmax_log_loss": "softmax", "binary_log_loss": "sigmoid"}  # fmt: skip


@pytest.mark.parametrize("loss", L.TABLE)
def test_predict_proba_has_the_link_of_the_last_loss(loss, backend, dtype):
    net, (X, t) = network(loss, dtype, backend), data(loss)
    with pytest.raises(RuntimeError, match="link='softmax' or link='sigmoid'"):
        net.predict_proba(X)
    for train in (lambda: net.fit(X, t, loss=loss, steps=1), lambda: net.train_step(X, t, loss=loss)):
        train()
        net.evaluate(X, data("mse", n_targets=net.sizes[-1])[1], loss="mse")  # not trained with
        for again in (net, copy.copy(net), pickle.loads(pickle.dumps(net))):
            if loss not in LINKS:
                with pytest.raises(RuntimeError, match="was not trained"):
                    again.predict_proba(X)
            else:
                got = again.predict_proba(X)
                assert got.dtype == dtype and np.array_equal(got, net.predict_proba(X, link=LINKS[loss]))
        net.reset_training()
        with pytest.raises(RuntimeError, match="link="):
            net.predict_proba(X)
    net.train_step(X, t, loss=loss)
    net.train_step(X, np.zeros((len(X), net.sizes[-1])), loss="mse")
    with pytest.raises(RuntimeError, match="link="):
        net.predict_proba(X)


def test_probabilities_are_softmax_and_sigmoid_of_the_logits(backend, dtype):
    z = np.array([0.5, -2.0, 1.0, 1e4, -1e4, 90.0])
    for logits in (z[:3], z, z[3:], z[:1]):
        net, x = fixed(logits, backend, dtype)
        logits = logits.astype(dtype).astype(float)
        e = np.exp(logits - logits.max())
        softmax = net.predict_proba(x, link="softmax")
        assert_close(softmax[0], e / e.sum(), dtype)
        assert_close(softmax.sum(axis=1), [1.0], dtype)
        assert_close(net.predict_proba(x, link="sigmoid")[0], np.exp(-np.logaddexp(0, -logits)), dtype)
    assert net.predict_proba(np.empty((0, 1)), link="softmax").shape == (0, 1)


def test_predict_proba_says_what_it_cannot_do(backend):
    net = network("mse", backend=backend)
    with pytest.raises(ValueError, match="link: unknown name 'sotfmax'; did you mean 'softmax'?"):
        net.predict_proba(np.zeros((1, 5)), link="sotfmax")
    with pytest.raises(TypeError, match="link"):
        net.predict_proba(np.zeros((1, 5)), link=1)
    squashed = fastbp.MLP((5, 3), output_activation="sigmoid", backend=backend)
    with pytest.raises(ValueError, match="needs output_activation='identity'; this network has 'sigmoid'"):
        squashed.predict_proba(np.zeros((1, 5)), link="sigmoid")


def test_a_pickle_from_before_links_is_read():
    net = network("mse")
    saved = net.__getstate__()
    del saved["state"]["link"]
    other = fastbp.MLP.__new__(fastbp.MLP)
    other.__setstate__(saved)
    assert np.array_equal(other.flatten(), net.flatten())
