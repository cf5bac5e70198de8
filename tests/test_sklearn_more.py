"""What `fastbp.sklearn` takes beyond scikit-learn's parameters: each has its effect, held to an independent
computation; bad input names its argument."""

import copy
import itertools
import pickle
import time
import warnings

import numpy as np
import pytest
from conftest import frozen
from pairs import (
    FURTHER,
    OURS,
    THEIRS,
    assert_same_answers,
    assert_same_draws,
    assert_same_state,
    neural_network,
    pair,
    several_targets,
    table,
    task,
    told,
)
from scipy import sparse
from scipy.special import expit, xlogy
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss, r2_score, roc_auc_score
from sklearn.utils.class_weight import compute_sample_weight

import fastbp
from fastbp import schedules
from fastbp.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning")

X, Y = table("wine")
T = several_targets(X)
PLAIN = dict(shuffle=False, alpha=0.0, tol=0.0, n_iter_no_change=np.inf, random_state=0)
SMALL = dict(hidden_layer_sizes=(6,), max_iter=8, random_state=0)
EQUAL = dict(rtol=1e-9, atol=1e-12)


def drawn(n_in, n_out, seed=0):
    """The first weights and biases of a layer, as scikit-learn draws them."""
    stream, bound = np.random.RandomState(seed), np.sqrt(6 / (n_in + n_out))
    return stream.uniform(-bound, bound, (n_in, n_out)), stream.uniform(-bound, bound, n_out)


def refused(match, act, *arguments, kind=ValueError):
    """scikit-learn's InvalidParameterError is a ValueError and a TypeError."""
    with pytest.raises(kind, match=match):
        act(*arguments)


# ------------------------------------------------------------------ weights of classes


@pytest.mark.parametrize("weights", ["balanced", {"b": 3.0, "c": 0.5}])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_class_weight_weighs_the_rows_of_each_class(weights, solver):
    y = np.array(["a", "b", "c"])[Y]
    wanted = compute_sample_weight(weights, y)
    own = np.linspace(0.5, 2, len(y))
    for given in (None, own):
        a = MLPClassifier(**SMALL, solver=solver, class_weight=weights).fit(X, y, given)
        b = MLPClassifier(**SMALL, solver=solver).fit(X, y, wanted if given is None else wanted * given)
        for W, V in zip(a.coefs_, b.coefs_):
            np.testing.assert_allclose(W, V, **EQUAL)
        assert not np.allclose(a.coefs_[0], MLPClassifier(**SMALL, solver=solver).fit(X, y, given).coefs_[0])


def test_class_weight_weighs_several_labels_too_and_lists_of_them():
    labels = (T > 0.1).astype(int)
    weights = [{0: 1, 1: 4}, {0: 2, 1: 1}, {0: 1, 1: 1}]
    a = MLPClassifier(**SMALL, class_weight=weights).fit(X, labels)
    b = MLPClassifier(**SMALL).fit(X, labels, compute_sample_weight(weights, labels))
    np.testing.assert_allclose(a.coefs_[0], b.coefs_[0], **EQUAL)


def test_class_weight_of_partial_fit_is_a_dict():
    weights = {0: 1.0, 1: 3.0, 2: 0.5}
    a, b = MLPClassifier(**SMALL, class_weight=weights), MLPClassifier(**SMALL)
    for rows in (slice(0, 40), slice(40, 70), slice(70, 140)):
        a.partial_fit(X[rows], Y[rows], classes=[0, 1, 2])
        b.partial_fit(X[rows], Y[rows], compute_sample_weight(weights, Y[rows]), [0, 1, 2])
    np.testing.assert_allclose(a.coefs_[0], b.coefs_[0], **EQUAL)
    refused("class_weight", MLPClassifier(class_weight="balanced").partial_fit, X, Y, None, [0, 1, 2])


def test_class_weight_is_refused_by_name():
    refused("class_weight", MLPClassifier(class_weight="equal").fit, X, Y)
    refused("class_weight", MLPClassifier(class_weight=3).fit, X, Y)
    assert "class_weight" not in MLPRegressor().get_params()


def test_rare_classes_are_found_more_often_with_class_weight():
    rng = np.random.default_rng(0)
    rare = rng.uniform(size=1000) < 0.05
    rows = rng.normal(size=(1000, 2)) + 1.5 * rare[:, None]
    params = dict(hidden_layer_sizes=(), max_iter=60, random_state=0, learning_rate_init=0.02)
    plain, weighted = (MLPClassifier(**params, class_weight=w).fit(rows, rare) for w in (None, "balanced"))
    assert weighted.predict(rows)[rare].mean() > 0.7 > plain.predict(rows)[rare].mean()


# ------------------------------------------------------------------ dropout


def test_dropout_adds_the_variance_that_it_must():
    """Outputs are linear in hidden units that are 0 with probability p and h / (1 - p) else: the mean squared error
    grows by p / (1 - p) times the sum of (h w)^2."""
    rows, y, p = X[:40], T[:40, 0] * 0.1, 0.4
    params = dict(hidden_layer_sizes=(12,), activation="identity", learning_rate_init=1e-13, **PLAIN)
    one = MLPRegressor(**params, dropout=p, max_iter=1500).fit(rows, y)
    (W, V), (b, c) = one.coefs_, one.intercepts_
    h = rows @ W + b
    off = ((h @ V + c)[:, 0] - y) ** 2
    variance = p / (1 - p) * ((h * V[:, 0]) ** 2).sum(axis=1)
    wanted, without = 0.5 * (off + variance).mean(), 0.5 * off.mean()
    assert wanted > 1.3 * without
    assert np.isclose(np.mean(one.loss_curve_), wanted, rtol=0.03)
    assert np.isclose(MLPRegressor(**params, max_iter=1).fit(rows, y).loss_, without, rtol=1e-9)


def test_dropout_is_drawn_from_the_seed_and_predictions_have_none():
    a, b = (MLPClassifier(**SMALL, dropout=0.5).fit(X, Y) for _ in range(2))
    assert frozen(a.coefs_) == frozen(b.coefs_)
    other = MLPClassifier(**{**SMALL, "random_state": 1}, dropout=0.5).fit(X, Y)
    plain = MLPClassifier(**SMALL).fit(X, Y)
    assert len({frozen(one.coefs_[0])[2] for one in (a, other, plain)}) == 3
    assert np.array_equal(a.predict_proba(X), a.predict_proba(X))
    hidden = np.maximum(X @ a.coefs_[0] + a.intercepts_[0], 0)
    np.testing.assert_allclose(softmax(hidden @ a.coefs_[1] + a.intercepts_[1]), a.predict_proba(X), **EQUAL)
    epochs = MLPClassifier((6,), dropout=0.5, max_iter=30, learning_rate_init=1e-13, n_iter_no_change=np.inf).fit(X, Y)
    assert len(set(np.round(epochs.loss_curve_, 6))) > 20  # drawn anew in each


def test_dropout_of_each_layer():
    deep = {**SMALL, "hidden_layer_sizes": (6, 5)}
    same = [MLPClassifier(**deep, dropout=d).fit(X, Y).coefs_[0] for d in (0.3, [0.3, 0.3], (0.3, 0.3))]
    assert np.array_equal(same[0], same[1]) and np.array_equal(same[0], same[2])
    assert not np.array_equal(same[0], MLPClassifier(**deep, dropout=(0.3, 0)).fit(X, Y).coefs_[0])
    assert np.array_equal(
        MLPClassifier(**deep, dropout=(0, 0.0)).fit(X, Y).coefs_[0], MLPClassifier(**deep).fit(X, Y).coefs_[0]
    )
    for bad in (1, -0.1, 1.5, "half", [0.3], [0.3, 0.3, 0.3], [0.3, 1.0], None):
        refused("dropout", MLPClassifier(**deep, dropout=bad).fit, X, Y, kind=(ValueError, TypeError))


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


# ------------------------------------------------------------------ activations


ACTIVATIONS = {  # of the output: value and derivative
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "logistic": (expit, lambda z: expit(z) * (1 - expit(z))),
    "softplus": (lambda z: np.logaddexp(0, z), expit),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "exp": (np.exp, np.exp),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_output_activation_is_in_predictions_and_gradients(name):
    """One step over all rows, by hand."""
    f, slope = ACTIVATIONS[name]
    lr, alpha, n = 0.3, 0.7, len(X)
    W, b = drawn(X.shape[1], T.shape[1])
    z = X @ W + b
    loss = 0.5 * ((f(z) - T) ** 2).mean() + 0.5 * alpha * (W**2).sum() / n
    delta = (f(z) - T) * slope(z)
    W, b = W - lr * (X.T @ delta + alpha * W) / n, b - lr * delta.mean(axis=0)
    one = MLPRegressor(
        hidden_layer_sizes=(), output_activation=name, solver="sgd", momentum=0, learning_rate_init=lr, max_iter=1,
        batch_size=n, **{**PLAIN, "alpha": alpha},
    ).fit(X, T)  # fmt: skip
    np.testing.assert_allclose(one.coefs_[0], W, **EQUAL)
    np.testing.assert_allclose(one.intercepts_[0], b, **EQUAL)
    np.testing.assert_allclose(one.predict(X), f(X @ W + b), **EQUAL)
    np.testing.assert_allclose(one.loss_, loss, rtol=1e-9)


def test_output_activation_is_refused_by_name():
    refused("output_activation", MLPRegressor(output_activation="softplus2").fit, X, T)
    refused("output_activation", MLPRegressor(output_activation=3).fit, X, T)
    for one, targets in ((MLPClassifier(), Y), (MLPClassifier(), Y == 1), (MLPRegressor(loss="poisson"), np.exp(T))):
        refused("output_activation", one.set_params(output_activation="tanh").fit, X, targets)  # they have their own


HIDDEN = {
    "relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "logistic": expit, "identity": lambda z: z,
    "gelu": lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "silu": lambda z: z * expit(z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(z)),
}  # fmt: skip


EACH = ["gelu", "silu", ["tanh", "relu"], ("gelu", "identity"), ["logistic", "elu"]]


@pytest.mark.parametrize("activation", EACH, ids=str)
def test_activation_may_be_any_of_fastbp_s_and_one_for_each_layer(activation):
    one = MLPRegressor(hidden_layer_sizes=(7, 5), activation=activation, max_iter=6, random_state=0).fit(X, T)
    names = [activation] * 2 if isinstance(activation, str) else activation
    a = X
    for W, b, name in zip(one.coefs_, one.intercepts_, names):
        a = HIDDEN[name](a @ W + b)
    np.testing.assert_allclose(one.predict(X), a @ one.coefs_[-1] + one.intercepts_[-1], **EQUAL)
    assert one.loss_curve_[-1] < one.loss_curve_[0]
    clone(one), repr(one)


def test_a_sequence_of_equal_activations_is_that_activation():
    params = dict(hidden_layer_sizes=(7, 5), max_iter=6, random_state=0)
    for name in ("relu", "tanh"):
        a, b = (MLPClassifier(**params, activation=given).fit(X, Y) for given in (name, [name, name]))
        assert_same_answers(a, b, X)
        np.testing.assert_allclose(a.coefs_[0], b.coefs_[0], **EQUAL)
    for bad in (["relu"], ["relu"] * 3, ["relu", "relo"], "relo", 3, []):
        refused("activation", MLPClassifier(**params, activation=bad).fit, X, Y, kind=(ValueError, TypeError))


# ------------------------------------------------------------------ losses


def huber(d):
    return np.where(np.abs(d) <= 1, 0.5 * d**2, np.abs(d) - 0.5)


LOSSES = {  # of a regressor with one output: the loss of each row, its derivative by the output, its prediction
    "mae": (lambda z, t: np.abs(z - t), lambda z, t: np.sign(z - t), lambda z: z),
    "mse": (lambda z, t: (z - t) ** 2, lambda z, t: 2 * (z - t), lambda z: z),
    "huber": (lambda z, t: huber(z - t), lambda z, t: np.clip(z - t, -1, 1), lambda z: z),
    "log_cosh": (lambda z, t: np.log(np.cosh(z - t)), lambda z, t: np.tanh(z - t), lambda z: z),
    "quantile": (lambda z, t: 0.5 * np.abs(z - t), lambda z, t: 0.5 * np.sign(z - t), lambda z: z),
    "gamma": (lambda z, t: z + t * np.exp(-z), lambda z, t: 1 - t * np.exp(-z), np.exp),
}
SETTING = {
    "quantile 0.9": (
        fastbp.losses.quantile(quantile=0.9), lambda z, t: np.where(z < t, 0.9 * (t - z), 0.1 * (z - t)),
        lambda z, t: np.where(z < t, -0.9, 0.1), lambda z: z),
    "huber 0.2": (
        fastbp.losses.huber(delta=0.2),
        lambda z, t: np.where(np.abs(z - t) <= 0.2, 0.5 * (z - t) ** 2, 0.2 * (np.abs(z - t) - 0.1)),
        lambda z, t: np.clip(z - t, -0.2, 0.2), lambda z: z),
}  # fmt: skip
LOSSES_GIVEN = {**{name: (name, *functions) for name, functions in LOSSES.items()}, **SETTING}


@pytest.mark.parametrize("name", LOSSES_GIVEN)
def test_losses_of_fastbp_s_train_a_regressor(name):
    """One step over all rows by hand: gradients, the reported loss, predictions."""
    given, value, grad, link = LOSSES_GIVEN[name]
    lr, alpha, n = 0.2, 0.7, len(X)
    t = np.exp(0.3 * X[:, 1]) if name == "gamma" else T[:, 0]
    W, b = drawn(X.shape[1], 1)
    z = (X @ W + b)[:, 0]
    one = MLPRegressor(
        given, hidden_layer_sizes=(), solver="sgd", momentum=0, learning_rate_init=lr, max_iter=1, batch_size=n,
        **{**PLAIN, "alpha": alpha},
    ).fit(X, t)  # fmt: skip
    np.testing.assert_allclose(one.loss_, value(z, t).mean() + 0.5 * alpha * (W**2).sum() / n, rtol=1e-9)
    delta = grad(z, t)[:, None]
    W, b = W - lr * (X.T @ delta + alpha * W) / n, b - lr * delta.mean(axis=0)
    np.testing.assert_allclose(one.coefs_[0], W, **EQUAL)
    np.testing.assert_allclose(one.predict(X), link((X @ W + b)[:, 0]), **EQUAL)
    assert clone(one).get_params()["loss"] == given or clone(one).get_params()["loss"] is given


def test_the_median_and_a_quantile_are_found_by_their_losses():
    rng = np.random.default_rng(0)
    y = rng.exponential(size=4000)
    rows = np.zeros((4000, 1))
    params = dict(hidden_layer_sizes=(), learning_rate_init=0.01, max_iter=60, random_state=0, n_iter_no_change=np.inf)
    for loss, wanted in (("mae", np.median(y)), (fastbp.losses.quantile(quantile=0.9), np.quantile(y, 0.9))):
        assert np.isclose(MLPRegressor(loss, **params).fit(rows, y).predict(rows[:1])[0], wanted, rtol=0.05)


CLASSIFYING = {  # of two classes: the loss of each row at targets 0 and 1, its derivative
    "hinge": (lambda z, t: np.maximum(1 - z * (2 * t - 1), 0), lambda z, t: -(2 * t - 1) * (z * (2 * t - 1) < 1)),
    "squared_hinge": (lambda z, t: np.maximum(1 - z * (2 * t - 1), 0) ** 2,
                      lambda z, t: -2 * (2 * t - 1) * np.maximum(1 - z * (2 * t - 1), 0)),
    "binary_cross_entropy": (lambda z, t: np.logaddexp(0, z) - z * t, lambda z, t: expit(z) - t),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFYING)
def test_losses_of_fastbp_s_train_a_classifier(name):
    value, grad = CLASSIFYING[name]
    lr, n = 0.1, len(X)
    t = (Y == 1) * 1
    W, b = drawn(X.shape[1], 1)
    z = (X @ W + b)[:, 0]
    one = MLPClassifier(
        hidden_layer_sizes=(), loss=name, solver="sgd", momentum=0, learning_rate_init=lr, max_iter=1, batch_size=n,
        **PLAIN,
    ).fit(X, np.array(["no", "yes"])[t])  # fmt: skip
    np.testing.assert_allclose(one.loss_, value(z, t).mean(), rtol=1e-9)
    delta = grad(z, t)[:, None]
    W, b = W - lr * X.T @ delta / n, b - lr * delta.mean(axis=0)
    np.testing.assert_allclose(one.coefs_[0], W, **EQUAL)
    assert np.array_equal(one.predict(X), np.where((X @ W + b)[:, 0] > 0, "yes", "no"))
    assert hasattr(one, "predict_proba") == ("hinge" not in name)  # which gives no probabilities


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "focal", "softmax_cross_entropy"])
def test_classifiers_of_several_classes_learn_by_other_losses(loss):
    one = MLPClassifier((20,), loss=loss, learning_rate_init=0.01, max_iter=60, random_state=0).fit(X, Y)
    assert one.score(X, Y) > 0.95
    assert set(one.predict(X[:1])) <= set(Y) and one.predict(X[:1])[0] == one.predict(X)[0]
    if loss == "softmax_cross_entropy":
        wanted = MLPClassifier((20,), learning_rate_init=0.01, max_iter=60, random_state=0).fit(X, Y)
        np.testing.assert_allclose(one.coefs_[0], wanted.coefs_[0], **EQUAL)


def test_losses_that_do_not_suit_are_refused_by_name():
    for loss in ("mae", "poisson", "gaussian_nll", "log_los", 3, None, "squared_error"):
        refused("loss", MLPClassifier(loss=loss).fit, X, Y, kind=(ValueError, TypeError))
    for loss in ("hinge", "log_loss", "gaussian_nll", "softmax_cross_entropy", "binary_cross_entropy", 3, None):
        refused("loss", MLPRegressor(loss).fit, X, T, kind=(ValueError, TypeError))
    refused("loss", MLPClassifier(loss="softmax_cross_entropy").fit, X, (T > 0).astype(int))
    refused("gamma|y must", MLPRegressor("gamma").fit, X, T[:, 0])  # targets below 0


# ------------------------------------------------------------------ optimizers


def by_hand(rule, lr, epochs, alpha=0.0, rates=None):
    """A linear network of squared errors, all rows in each step: torch's formulas."""
    n = len(X)
    W, b = drawn(X.shape[1], T.shape[1])
    params, state = [W, b], [{}, {}]
    for t in range(1, epochs + 1):
        delta = X @ params[0] + params[1] - T
        grads = [(X.T @ delta + alpha * params[0]) / n, delta.mean(axis=0)]
        step = lr if rates is None else rates[t - 1]
        params = [rule(p, g, s, step, t) for p, g, s in zip(params, grads, state)]
    return params


def sgd(p, g, s, lr, t):
    s["v"] = g if t == 1 else 0.9 * s["v"] + g
    return p - lr * s["v"]


def adam(p, g, s, lr, t, decay=0.0):
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g * g
    return p * (1 - lr * decay) - lr * (s["m"] / (1 - 0.9**t)) / (np.sqrt(s["v"] / (1 - 0.999**t)) + 1e-8)


def rmsprop(p, g, s, lr, t):
    s["v"] = 0.99 * s.get("v", 0) + 0.01 * g * g
    return p - lr * g / (np.sqrt(s["v"]) + 1e-8)


def adagrad(p, g, s, lr, t):
    s["v"] = s.get("v", 0) + g * g
    return p - lr * g / (np.sqrt(s["v"]) + 1e-10)


def plain(p, g, s, lr, t):
    return p - lr * g


STEPS = schedules.Step(0.1, every=3, factor=0.5)
OPTIMIZERS = {
    "SGD with momentum": (lambda: fastbp.SGD(lr=0.05, momentum=0.9), sgd, 0.05, None),
    "Adam": (lambda: fastbp.Adam(lr=0.01), adam, 0.01, None),
    "adam by name": (lambda: "adam", adam, 0.001, None),
    "AdamW": (lambda: fastbp.AdamW(lr=0.01, weight_decay=0.1), lambda *a: adam(*a, decay=0.1), 0.01, None),
    "RMSprop": (lambda: fastbp.RMSprop(lr=0.01), rmsprop, 0.01, None),
    "Adagrad": (lambda: fastbp.Adagrad(lr=0.05), adagrad, 0.05, None),
    "a schedule": (lambda: fastbp.SGD(lr=STEPS), plain, None, [float(STEPS(k)) for k in range(12)]),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_of_fastbp_s_step_as_their_formulas(name):
    make, rule, lr, rates = OPTIMIZERS[name]
    params = dict(hidden_layer_sizes=(), batch_size=len(X), **PLAIN)
    wanted = by_hand(rule, lr, 12, rates=rates)
    for solver in ("adam", "sgd", "lbfgs"):  # optimizer wins
        one = MLPRegressor(**params, solver=solver, optimizer=make(), max_iter=12).fit(X, T)
        np.testing.assert_allclose(one.coefs_[0], wanted[0], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(one.intercepts_[0], wanted[1], rtol=1e-8, atol=1e-10)
    stream = MLPRegressor(**params, optimizer=make())
    for k in range(12):
        stream.partial_fit(X, T)
        stream = pickle.loads(pickle.dumps(stream)) if k % 3 == 0 else stream
    np.testing.assert_allclose(stream.coefs_[0], one.coefs_[0], rtol=1e-12, atol=1e-14)
    assert rates is None or len(set(rates)) > 3


@pytest.mark.parametrize("name", ["SGD with momentum", "Adam", "RMSprop"])
def test_alpha_is_in_the_gradient_of_other_optimizers_too(name):
    make, rule, lr, _ = OPTIMIZERS[name]
    one = MLPRegressor(hidden_layer_sizes=(), batch_size=len(X), optimizer=make(), max_iter=6,
                       **{**PLAIN, "alpha": 20.0}).fit(X, T)  # fmt: skip
    wanted = by_hand(rule, lr, 6, alpha=20.0)
    np.testing.assert_allclose(one.coefs_[0], wanted[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(one.intercepts_[0], wanted[1], rtol=1e-8, atol=1e-10)


def test_sgd_of_fastbp_s_is_scikit_learn_s_solver_and_counts_epochs_alike():
    params = dict(**SMALL, momentum=0, alpha=0.3)
    a = MLPClassifier(**params, solver="sgd", learning_rate_init=0.05).fit(X, Y)
    b = MLPClassifier(**params, optimizer=fastbp.SGD(lr=0.05)).fit(X, Y)
    np.testing.assert_allclose(a.coefs_[0], b.coefs_[0], **EQUAL)
    np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=1e-9)
    assert a.n_iter_ == b.n_iter_ and a.t_ == b.t_


def test_every_optimizer_of_fastbp_s_trains_a_classifier():
    rates = {"sgd": 0.1, "adadelta": 1.0, "lion": 0.001, "rprop": 0.01}
    for name in ("sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "adadelta", "lion", "rprop"):
        rule = fastbp.optimizers.BY_NAME[name](lr=rates.get(name, 0.02))
        one = MLPClassifier((10,), optimizer=rule, alpha=0, max_iter=40, random_state=0, batch_size=len(X)).fit(X, Y)
        assert one.loss_curve_[-1] < 0.8 * one.loss_curve_[0], name
        repr(one), clone(one), pickle.loads(pickle.dumps(one)).predict(X)


def test_the_learning_rate_falls_on_a_plateau():
    rule = fastbp.SGD(lr=schedules.ReduceOnPlateau(lr=1e-9, factor=0.1, patience=1))
    one = MLPClassifier((4,), optimizer=rule, max_iter=60, random_state=0, n_iter_no_change=np.inf).fit(X, Y % 2)
    assert one._optimizer.learning_rate < 1e-11


def test_optimizers_are_refused_by_name():
    for bad in ("adamm", "lbfgs", 3, fastbp.LBFGS(), fastbp.SGD, 0.1):
        refused("optimizer", MLPClassifier(optimizer=bad).fit, X, Y, kind=(ValueError, TypeError))


# ------------------------------------------------------------------ rows for validation


EPOCHS = 7
TRAIN, HELD = slice(0, 120), slice(120, None)


def of_each_epoch(make):
    """The estimator after 1, 2, ... epochs: fits of so many."""
    return [make(k) for k in range(1, EPOCHS + 1)]


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_data_are_measured_at_each_epoch(weighted):
    weight = np.linspace(0.2, 2, len(X[HELD])) if weighted else None
    held = (X[HELD], Y[HELD], weight)[: 3 if weighted else 2]
    params = dict(hidden_layer_sizes=(6,), random_state=0, alpha=0.5)
    one = MLPClassifier(**params, max_iter=EPOCHS, metrics=["accuracy"]).fit(X[TRAIN], Y[TRAIN], validation_data=held)
    each = of_each_epoch(lambda k: MLPClassifier(**params, max_iter=k).fit(X[TRAIN], Y[TRAIN]))
    np.testing.assert_allclose(one.coefs_[0], each[-1].coefs_[0], **EQUAL)  # training is as it was
    assert one.loss_curve_ == pytest.approx(each[-1].loss_curve_, rel=1e-12)
    losses = [log_loss(Y[HELD], net.predict_proba(X[HELD]), sample_weight=weight) for net in each]
    np.testing.assert_allclose(one.validation_loss_curve_, losses, rtol=1e-9)
    shares = [accuracy_score(Y[HELD], net.predict(X[HELD]), sample_weight=weight) for net in each]
    np.testing.assert_allclose(one.validation_metrics_["accuracy"], shares, rtol=1e-12)
    assert {*one.validation_metrics_} == {"accuracy"} and one.validation_scores_ is None


@pytest.mark.parametrize("name, value", [
    ("squared_error", lambda p, t: 0.5 * ((p - t) ** 2).mean()),
    ("mae", lambda p, t: np.abs(p - t).mean()),
    ("poisson", lambda p, t: (xlogy(t, t / p) - t + p).sum(axis=1).mean()),
])  # fmt: skip
def test_validation_losses_of_a_regressor(name, value):
    targets = np.exp(T) if name == "poisson" else T
    params = dict(loss=name, hidden_layer_sizes=(6,), random_state=0)
    one = MLPRegressor(**params, max_iter=EPOCHS, metrics=("r2",)).fit(
        X[TRAIN], targets[TRAIN], validation_data=(X[HELD], targets[HELD]))  # fmt: skip
    each = of_each_epoch(lambda k: MLPRegressor(**params, max_iter=k).fit(X[TRAIN], targets[TRAIN]).predict(X[HELD]))
    np.testing.assert_allclose(one.validation_loss_curve_, [value(p, targets[HELD]) for p in each], rtol=1e-9)
    if name != "poisson":  # whose metric is of the logarithms
        scores = [r2_score(targets[HELD], p) for p in each]
        np.testing.assert_allclose(one.validation_metrics_["r2"], scores, rtol=1e-9)


def test_a_metric_may_be_a_function():
    seen = []

    def worst(y_true, y_pred):
        seen.append((y_true.shape, y_pred.shape))
        return np.abs(y_true - y_pred).max()

    one = MLPRegressor(hidden_layer_sizes=(6,), max_iter=3, random_state=0, metrics=[worst])
    one.fit(X[TRAIN], T[TRAIN], validation_data=(X[HELD], T[HELD]))
    assert len(seen) == 3 and set(seen) == {(T[HELD].shape, T[HELD].shape)}
    assert one.validation_metrics_["worst"][-1] == pytest.approx(np.abs(one.predict(X[HELD]) - T[HELD]).max(), rel=1e-9)


def test_early_stopping_stops_by_the_rows_that_are_given():
    """No row is taken from the training data and nothing is drawn for that."""
    params = dict(hidden_layer_sizes=(6,), max_iter=60, random_state=0, n_iter_no_change=3, learning_rate_init=0.01)
    one = MLPClassifier(**params, early_stopping=True)
    one.fit(X[TRAIN], Y[TRAIN], validation_data=(X[HELD], Y[HELD]))
    assert one.n_iter_ < 60 and len(one.validation_scores_) == one.n_iter_
    nets = [MLPClassifier(**{**params, "max_iter": k, "n_iter_no_change": np.inf}).fit(X[TRAIN], Y[TRAIN])
            for k in range(1, one.n_iter_ + 1)]  # fmt: skip
    scores = [net.score(X[HELD], Y[HELD]) for net in nets]
    np.testing.assert_allclose(one.validation_scores_, scores, rtol=1e-12)
    best, bad = -np.inf, 0
    for k, score in enumerate(scores):  # scikit-learn's rule
        bad = bad + 1 if score < best + 1e-4 else 0
        if score > best:
            best, at = score, k
    assert bad == 4 and one.best_validation_score_ == best
    np.testing.assert_allclose(one.coefs_[0], nets[at].coefs_[0], **EQUAL)  # the best, restored
    streams = np.random.RandomState(0), np.random.RandomState(0)
    MLPClassifier(**{**params, "random_state": streams[0], "max_iter": 2}, early_stopping=True).fit(
        X[TRAIN], Y[TRAIN], validation_data=(X[HELD], Y[HELD]))  # fmt: skip
    MLPClassifier(**{**params, "random_state": streams[1], "max_iter": 2}).fit(X[TRAIN], Y[TRAIN])
    assert_same_draws(*streams)


def test_metrics_are_of_the_rows_of_early_stopping_too():
    one = MLPClassifier(**SMALL, early_stopping=True, metrics=["accuracy"]).fit(X, Y)
    np.testing.assert_allclose(one.validation_metrics_["accuracy"], one.validation_scores_, rtol=1e-12)
    assert len(one.validation_loss_curve_) == one.n_iter_
    refused("metrics", MLPClassifier(metrics=["accuracy"]).fit, X, Y)
    for bad in (["accurate"], "accuracy", [3], None):
        one = MLPClassifier(metrics=bad, early_stopping=True)
        refused("metric", one.fit, X, Y, kind=(ValueError, TypeError))


VALIDATION_REFUSED = {
    "no tuple": lambda: X,
    "a number": lambda: 3,
    "one": lambda: (X,),
    "four": lambda: (X, Y, None, None),
    "columns": lambda: (X[:, 1:], Y),
    "rows": lambda: (X[:5], Y[:4]),
    "labels": lambda: (X, Y + 7),
    "strings": lambda: (X, np.array(["a"] * len(Y))),
    "NaN": lambda: (X * np.nan, Y),
    "weights": lambda: (X, Y, np.ones(3)),
    "two axes": lambda: (X, np.column_stack([Y, Y])),
    "no rows": lambda: (X[:0], Y[:0]),
}


@pytest.mark.parametrize("kind", VALIDATION_REFUSED)
def test_validation_data_are_refused_by_name(kind):
    one = MLPClassifier(**SMALL)
    with pytest.raises((ValueError, TypeError), match="validation_data"):
        one.fit(X, Y, validation_data=VALIDATION_REFUSED[kind]())
    one.fit(X, Y, validation_data=(X, Y))  # and nothing is left over
    assert len(one.validation_loss_curve_) == SMALL["max_iter"]
    with pytest.raises((ValueError, TypeError), match="validation_data"):
        MLPRegressor(**SMALL).fit(X, T, validation_data=(X, T[:, :2]))


def test_validation_data_are_of_one_call():
    one = MLPClassifier(**SMALL).fit(X, Y, validation_data=(X, Y))
    assert not getattr(one.fit(X, Y), "validation_loss_curve_", [])
    a, b = pair(neural_network.MLPClassifier, **SMALL)
    told(b.fit, X, Y), told(a.fit, X, Y)
    assert_same_state(b, a)


def test_partial_fit_stops_early_by_the_rows_that_are_given():
    """The best weights come back once the score has not improved for n_iter_no_change calls."""
    one = MLPClassifier((6,), random_state=0, early_stopping=True, n_iter_no_change=2, learning_rate_init=0.02)
    refused("partial_fit does not support early_stopping=True", one.partial_fit, X, Y, None, [0, 1, 2])
    one = clone(one)
    held, scores = (X[HELD], Y[HELD]), []
    for k in range(40):
        one.partial_fit(X[TRAIN], Y[TRAIN], classes=[0, 1, 2] if k == 0 else None, validation_data=held)
        assert len(one.validation_scores_) == k + 1
        scores.append(one.score(*held))
    assert one.best_validation_score_ == max(one.validation_scores_) > 0.9
    assert max(scores) == max(one.validation_scores_)


# ------------------------------------------------------------------ callbacks, a bar, a limit


class Notes(fastbp.Callback):
    def __init__(self, stop_at=None):
        self.heard, self.stop_at = [], stop_at

    def on_train_begin(self, net):
        self.heard.append(("begin", net))

    def on_epoch_end(self, net, logs):
        self.heard.append((dict(logs), net.predict_proba(X), [W.copy() for W in net.coefs_], net.n_iter_))
        if logs["epoch"] == self.stop_at:
            raise fastbp.StopTraining("seen enough")

    def on_train_end(self, net, logs):
        self.heard.append(("end", dict(logs)))


def test_callbacks_are_handed_the_estimator_as_it_is_at_each_epoch():
    notes = Notes()
    one = MLPClassifier(**SMALL).fit(X, Y, callbacks=[notes])
    begin, *epochs, end = notes.heard
    assert begin == ("begin", one) and end[0] == "end" and len(epochs) == SMALL["max_iter"]
    for k, (logs, answers, coefs, n_iter) in enumerate(epochs, 1):
        alone = MLPClassifier(**{**SMALL, "max_iter": k}).fit(X, Y)
        np.testing.assert_allclose(answers, alone.predict_proba(X), **EQUAL)
        np.testing.assert_allclose(coefs[0], alone.coefs_[0], **EQUAL)
        assert logs["epoch"] == n_iter == k and logs["loss"] == one.loss_curve_[k - 1] and logs["lr"] > 0
    alone = MLPClassifier(**SMALL).fit(X, Y)
    np.testing.assert_allclose(one.coefs_[0], alone.coefs_[0], **EQUAL)


def test_a_callback_may_end_the_run_and_its_errors_come_out():
    notes = Notes(stop_at=3)
    one, heard = told(MLPClassifier(**SMALL).fit, X, Y, callbacks=[notes])
    assert one.n_iter_ == 3 and heard.warnings == [] and heard.error is None
    assert one.fastbp_["stopped"] == "seen enough"
    assert notes.heard[-1][0] == "end" and one.predict(X).shape == Y.shape

    class Fails:
        def on_epoch_end(self, net, logs):
            if logs["epoch"] == 2:
                raise KeyError("mine")

    one = MLPClassifier(**SMALL)
    with pytest.raises(KeyError, match="mine"):
        one.fit(X, Y, callbacks=[Fails()])
    assert len(one.loss_curve_) == 2
    one.fit(X, Y)
    assert len(one.loss_curve_) == SMALL["max_iter"]  # nobody calls back any more


def test_callbacks_hear_of_validation_rows_and_may_end_by_them():
    class Enough:
        def on_epoch_end(self, net, logs):
            self.logs = logs
            if logs["val_accuracy"] > 0.6:
                raise fastbp.StopTraining("good")

    watch = Enough()
    one = MLPClassifier((6,), random_state=0, learning_rate_init=0.01, metrics=["accuracy"])
    one.fit(X[TRAIN], Y[TRAIN], validation_data=(X[HELD], Y[HELD]), callbacks=[watch])
    assert one.n_iter_ < 200 and one.validation_metrics_["accuracy"][-1] > 0.6
    assert watch.logs["val_loss"] == one.validation_loss_curve_[-1]


def test_callbacks_are_refused_by_name():
    for bad in ([fastbp.EarlyStopping()], [fastbp.TimeLimit(3)], 3, ["x"], [object()]):
        with pytest.raises((ValueError, TypeError), match="callbacks"):
            MLPClassifier(**SMALL).fit(X, Y, callbacks=bad)


def test_a_bar_is_shown_where_it_is_asked_for(capfd):
    pytest.importorskip("tqdm")
    MLPClassifier(**SMALL).fit(X, Y, progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "loss" in err and "100%" in err
    MLPClassifier(**SMALL).fit(X, Y, progress=False)
    assert capfd.readouterr() == ("", "")
    refused("progress", lambda: MLPClassifier(**SMALL).fit(X, Y, progress="bar"), kind=(ValueError, TypeError))


def test_a_limit_of_time_ends_a_fit():
    one = MLPClassifier((30,), max_iter=10**7, n_iter_no_change=np.inf, time_limit=0.3, random_state=0)
    start = time.monotonic()
    _, heard = told(one.fit, X, Y)
    assert 0.25 < time.monotonic() - start < 5
    ((category, text),) = heard.warnings
    assert category.__name__ == "ConvergenceWarning" and "time limit" in text and "0.3" in text
    assert "time limit" in one.fastbp_["stopped"]
    assert one.n_iter_ == len(one.loss_curve_) > 1 and one.score(X, Y) > 0.5
    again = MLPClassifier((30,), max_iter=one.n_iter_, n_iter_no_change=np.inf, random_state=0).fit(X, Y)
    np.testing.assert_allclose(one.loss_curve_, again.loss_curve_, rtol=1e-9)
    early = MLPClassifier((30,), max_iter=10**7, n_iter_no_change=np.inf, time_limit=0.2, early_stopping=True)
    _, heard = told(early.fit, X, Y)
    assert "time limit" in heard.warnings[0][1] and early.coefs_ is early._best_coefs
    for bad in (0, -1, "1 s", np.nan):
        refused("time_limit", MLPClassifier(time_limit=bad).fit, X, Y)


# ------------------------------------------------------------------ dtype and threads


def test_dtype_is_that_of_the_training_whatever_x_is():
    for cls, targets in ((MLPClassifier, Y), (MLPRegressor, T)):
        a = cls(**SMALL, dtype="float32").fit(X, targets)
        b = cls(**SMALL).fit(X.astype(np.float32), targets.astype(np.float32) if cls is MLPRegressor else targets)
        assert {W.dtype for W in [*a.coefs_, *a.intercepts_]} == {np.dtype(np.float32)}
        assert a.fastbp_["dtype"] == "float32"
        np.testing.assert_allclose(a.coefs_[0], b.coefs_[0], rtol=1e-5, atol=1e-7)
        far = cls(**SMALL).fit(X, targets)
        assert 0 < np.abs(far.coefs_[0] - a.coefs_[0]).max() < 1e-3
        c = cls(**SMALL, dtype="float64").fit(X.astype(np.float32), targets)
        d = cls(**SMALL).fit(X.astype(np.float32).astype(float), targets)
        assert c.coefs_[0].dtype == np.float64
        np.testing.assert_allclose(c.coefs_[0], d.coefs_[0], **EQUAL)
        again = clone(a).set_params(dtype=np.float32).fit(X, targets)
        assert frozen(again.coefs_) == frozen(a.coefs_)
        for one in (a, c):
            assert one.predict(X).shape == one.predict(X[:1]).shape[:0] + targets.shape
            one.partial_fit(X, targets)
            assert one.coefs_[0].dtype == (np.float32 if one is a else np.float64)


def test_dtype_is_refused_by_name():
    for bad in ("float16", int, "double", 32, np.float16):
        refused("dtype", MLPClassifier(dtype=bad).fit, X, Y)
    refused("float32", MLPClassifier(dtype="float32").fit, X * 1e300, Y)  # which it cannot hold


def test_in_float32_a_fit_stops_where_it_stops_in_float64():
    """Within 2 % or 2 epochs, and as good."""
    for name in ("classes", "numbers", "binary"):
        theirs, rows, targets = task(name, rows=200)
        a, b = (OURS[theirs](random_state=0, dtype=kind, max_iter=500).fit(rows, targets) for kind in (None, "float32"))
        assert abs(a.n_iter_ - b.n_iter_) <= max(2, 0.02 * a.n_iter_)
        assert abs(a.score(rows, targets) - b.score(rows, targets)) < 0.01


def test_the_number_of_threads_changes_no_bit():
    theirs, rows, targets = task("ten classes", rows=300)
    fits = [MLPClassifier((200,), max_iter=3, random_state=0, batch_size=300, n_threads=n).fit(rows, targets)
            for n in (None, 1, 2)]  # fmt: skip
    assert frozen(fits[0].coefs_) == frozen(fits[1].coefs_) == frozen(fits[2].coefs_)
    for bad in (0, -1, 1.5, "two"):
        refused("n_threads", MLPClassifier(n_threads=bad).fit, X, Y)


# ------------------------------------------------------------------ warm starts that keep the optimizer


@pytest.mark.parametrize("optimizer", [None, "rmsprop"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_warm_start_may_keep_the_state_of_its_optimizer(solver, optimizer):
    """Then two fits of 5 epochs are one of 10."""
    params = dict(hidden_layer_sizes=(6,), solver=solver, optimizer=optimizer, learning_rate="invscaling",
                  **{**PLAIN, "random_state": 0})  # fmt: skip
    whole = MLPClassifier(**params, max_iter=10).fit(X, Y)
    kept = MLPClassifier(**params, max_iter=5, warm_start=True, keep_optimizer_state=True).fit(X, Y).fit(X, Y)
    np.testing.assert_allclose(kept.coefs_[0], whole.coefs_[0], **EQUAL)
    np.testing.assert_allclose(kept.loss_curve_, whole.loss_curve_, rtol=1e-9)
    new = MLPClassifier(**params, max_iter=5, warm_start=True).fit(X, Y).fit(X, Y)
    assert not np.allclose(new.coefs_[0], whole.coefs_[0], rtol=1e-4)
    cold = MLPClassifier(**params, max_iter=5, keep_optimizer_state=True).fit(X, Y).fit(X, Y)
    np.testing.assert_allclose(cold.coefs_[0], MLPClassifier(**params, max_iter=5).fit(X, Y).coefs_[0], **EQUAL)
    refused("keep_optimizer_state", MLPClassifier(keep_optimizer_state="yes").fit, X, Y)


# ------------------------------------------------------------------ what the network says


@pytest.mark.parametrize("activation", ["tanh", ["gelu", "logistic"]])
def test_input_gradient_is_the_slope_of_the_output(activation):
    one = MLPRegressor(hidden_layer_sizes=(7, 5), activation=activation, max_iter=20, random_state=0).fit(X, T)
    for k in range(3):
        found = one.input_gradient(X, output=k)
        assert found.shape == X.shape
        for column in (0, 5):
            step = np.zeros(X.shape[1])
            step[column] = 1e-5
            slope = (one.predict(X + step) - one.predict(X - step))[:, k] / 2e-5
            np.testing.assert_allclose(found[:, column], slope, rtol=1e-5, atol=1e-7)
    refused("output", one.input_gradient, X)
    refused("output", one.input_gradient, X, 3)


def test_input_gradient_of_a_classifier_is_that_of_its_logits():
    one = MLPClassifier((6,), activation="tanh", max_iter=20, random_state=0).fit(X, Y)
    hidden = np.tanh(X @ one.coefs_[0] + one.intercepts_[0])
    wanted = ((1 - hidden**2) * one.coefs_[1][:, 2]) @ one.coefs_[0].T
    np.testing.assert_allclose(one.input_gradient(X, output=2), wanted, **EQUAL)
    binary = MLPClassifier((6,), activation="tanh", max_iter=5, random_state=0).fit(X, Y == 1)
    assert binary.input_gradient(X).shape == X.shape  # one output needs no number


def test_transform_hidden_gives_the_features_of_a_layer():
    one = MLPClassifier((7, 5), max_iter=20, random_state=0).fit(X, Y)
    first = np.maximum(X @ one.coefs_[0] + one.intercepts_[0], 0)
    second = np.maximum(first @ one.coefs_[1] + one.intercepts_[1], 0)
    for layer, wanted in ((0, first), (1, second), (-1, second), (-2, first)):
        np.testing.assert_allclose(one.transform_hidden(X, layer=layer), wanted, **EQUAL)
    np.testing.assert_allclose(one.transform_hidden(X), second, **EQUAL)
    one.coefs_[0][:] = 0
    assert np.ptp(one.transform_hidden(X, layer=0), axis=0).max() == 0  # as the weights are now
    for layer in (2, -3, 1.5):
        refused("layer", one.transform_hidden, X, layer, kind=(ValueError, TypeError))


@pytest.mark.parametrize("verb", ["input_gradient", "transform_hidden"])
def test_what_the_network_says_is_checked_as_predict_checks(verb):
    one = MLPRegressor(hidden_layer_sizes=(5,), max_iter=3, random_state=0)
    refused("not fitted", getattr(one, verb), X, kind=ValueError)
    one.fit(X, T[:, 0])
    for bad in (X[0], X[:, 1:], X * np.nan, "x"):
        with pytest.raises(ValueError) as found:
            getattr(one, verb)(bad)
        with pytest.raises(ValueError) as wanted:
            one.predict(bad)
        assert str(found.value) == str(wanted.value)
    assert getattr(one, verb)(X.tolist()).shape[0] == len(X)


# ------------------------------------------------------------------ there and back


@pytest.mark.parametrize("name", ["binary, strings", "classes", "several labels", "three numbers"])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_fitted_networks_move_both_ways(name, solver):
    theirs, rows, targets = task(name, rows=80)
    a, b = pair(theirs, random_state=3, hidden_layer_sizes=(6,), max_iter=8, solver=solver)
    told(a.fit, rows, targets), told(b.fit, rows, targets)
    away, home = b.to_sklearn(), OURS[theirs].from_sklearn(a)
    assert type(away) is theirs and type(home) is OURS[theirs]
    assert not vars(away).keys() & FURTHER and away.get_params().keys() == a.get_params().keys()
    assert_same_state(b, away)
    assert_same_state(home, a)
    for one, other in ((away, b), (a, home)):
        assert_same_answers(other, one, rows)
        if solver != "lbfgs":
            told(one.partial_fit, rows, targets), told(other.partial_fit, rows, targets)
            assert_same_state(other, one)
            assert one.coefs_[0] is not other.coefs_[0]
    clone(away), clone(home)
    both_ways = home.to_sklearn()
    assert_same_answers(both_ways, a, rows)


def test_what_is_not_fitted_or_has_no_counterpart_does_not_move():
    made = MLPClassifier(alpha=0.5).to_sklearn()
    assert type(made) is neural_network.MLPClassifier and made.alpha == 0.5 and not hasattr(made, "coefs_")
    assert MLPRegressor.from_sklearn(neural_network.MLPRegressor(alpha=2)).alpha == 2
    for params in (dict(activation="gelu"), dict(activation=["relu", "tanh"]), dict(output_activation="tanh"),
                   dict(loss="mae")):  # fmt: skip
        one = MLPRegressor(hidden_layer_sizes=(4, 3), max_iter=2, random_state=0, **params).fit(X, T)
        refused(next(iter(params)), one.to_sklearn)
    for bad in (3, "x", neural_network.MLPRegressor(), MLPClassifier):
        refused("", MLPClassifier.from_sklearn, bad, kind=(TypeError, ValueError))


# ------------------------------------------------------------------ what ran


def test_it_tells_what_ran():
    one = MLPClassifier(**SMALL).fit(X, Y)
    assert {"ran": "compiled", "why": None, "dtype": "float64", "stopped": None}.items() <= one.fastbp_.items()
    told(one.set_params(solver="lbfgs").fit, X, Y)
    assert one.fastbp_["ran"] == "scikit-learn" and "lbfgs" in one.fastbp_["why"]


@pytest.mark.parametrize("params", [
    dict(dropout=0.5), dict(activation="gelu"), dict(output_activation="tanh"), dict(loss="mae"), dict(time_limit=3)],
    ids=str)  # fmt: skip
def test_lbfgs_refuses_what_scikit_learn_s_code_cannot_do(params):
    (name,) = params
    with pytest.raises(ValueError, match=f"lbfgs.*{name}"):
        MLPRegressor(solver="lbfgs", **params).fit(X, T)


def test_defaults_said_aloud_change_nothing():
    defaults = {name: value for name, value in MLPClassifier().get_params().items() if name in FURTHER}
    assert set(defaults) == {"class_weight", "dropout", "output_activation", "optimizer", "metrics", "time_limit",
                             "dtype", "n_threads", "keep_optimizer_state"}  # fmt: skip
    for changed in (defaults, {**defaults, "dropout": 0.0, "metrics": []}):
        one = MLPClassifier(**SMALL, **changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one.fit(X, Y, validation_data=None, callbacks=None, progress=False)
        assert frozen(one.coefs_) == frozen(MLPClassifier(**SMALL).fit(X, Y).coefs_)


# ------------------------------------------------------------------ what later calls may not change


def weights_of(one):
    return frozen([*one.coefs_, *one.intercepts_])


@pytest.mark.parametrize("first, later", [(T[:, 0], T[:, :2]), (T[:, :2], T[:, 0]), (T[:, :1], T)], ids=str)
@pytest.mark.parametrize("verb", ["partial_fit", "fit"])
def test_targets_of_later_calls_have_the_columns_of_the_first(verb, first, later):
    """The engine would read what is not there."""
    one = MLPRegressor(**SMALL, warm_start=verb == "fit").fit(X, first.squeeze())
    before = weights_of(one)
    refused("the same columns", getattr(one, verb), X, later.squeeze())
    assert weights_of(one) == before
    getattr(one, verb)(X, first.squeeze())
    assert weights_of(one) != before and one.predict(X).shape == first.squeeze().shape


@pytest.mark.parametrize("optimizer", [None, "rmsprop"])
def test_weights_of_another_shape_need_a_new_optimizer(optimizer):
    one = MLPRegressor(**SMALL, optimizer=optimizer).fit(X, T[:, 0])
    other = MLPRegressor(**SMALL | {"hidden_layer_sizes": (300,)}).fit(X, T[:, 0])
    one.coefs_, one.intercepts_ = other.coefs_, other.intercepts_
    np.testing.assert_array_equal(one.predict(X), other.predict(X))
    refused("coefs_ were replaced", one.partial_fit, X, T[:, 0])
    assert one.fit(X, T[:, 0]).coefs_[0].shape == (X.shape[1], 6)


def test_class_weight_holds_in_later_calls_too():
    """Also in those of plain arrays, which need none of scikit-learn's checks."""
    a, b = pair(neural_network.MLPClassifier, random_state=0, hidden_layer_sizes=(6,))
    b.set_params(class_weight={0: 3.0, 1: 0.5, 2: 1.0})
    for further in ({"classes": [0, 1, 2]}, {}, {}):
        a.partial_fit(X, Y, np.array([3.0, 0.5, 1.0])[Y], **further), b.partial_fit(X, Y, **further)
        assert_same_state(b, a)
    refused("'balanced' needs all", b.set_params(class_weight="balanced").partial_fit, X, Y)


@pytest.mark.parametrize("weights", ["balanced", {0: 3.0, 1: 0.5, 2: 1.0}], ids=str)
@pytest.mark.parametrize("y, sample_weight", [
    (None, None), (3, None), (Y[:-1], None), (np.where(Y == 1, np.nan, Y), None), (Y, [2.0]), (Y, np.ones(3)),
    (Y, np.ones((len(Y), 2))), (Y, np.full(len(Y), np.nan)), (Y, "x")], ids=lambda x: str(np.shape(x)))  # fmt: skip
def test_with_class_weight_the_same_is_refused_as_without(weights, y, sample_weight):
    mine, theirs = MLPClassifier(**SMALL, class_weight=weights), neural_network.MLPClassifier(**SMALL)
    wanted, got = (told(one.fit, X, y, sample_weight)[1].error for one in (theirs, mine))
    assert got == wanted and wanted is not None


@pytest.mark.parametrize("estimator, y", [(MLPClassifier, Y), (MLPRegressor, T[:, 0])])
def test_layers_without_units_are_refused_by_later_calls_too(estimator, y):
    one = estimator(**SMALL).fit(X, y).set_params(hidden_layer_sizes=(4, 0))
    refused("hidden_layer_sizes must be > 0", one.partial_fit, X, y)


def test_weights_that_are_read_only_are_left_as_they_are():
    """Of a file that joblib maps, for one."""
    one = MLPRegressor(**SMALL).fit(X, T)
    one.coefs_[1].flags.writeable = False
    held, before = [*one.coefs_, *one.intercepts_], weights_of(one)
    refused("coefs_.*read-only", one.partial_fit, X, T)
    assert all(a is b for a, b in zip(held, [*one.coefs_, *one.intercepts_])) and weights_of(one) == before
    assert one.fit(X, T).coefs_[1].flags.writeable


@pytest.mark.parametrize("first, later, match", [
    (dict(loss="poisson"), dict(loss="squared_error"), "'identity'.*'exp'"),
    (dict(loss="squared_error"), dict(loss="gamma"), "'exp'.*'identity'"),
    (dict(output_activation="exp"), dict(output_activation=None), "'identity'.*'exp'")], ids=str)  # fmt: skip
def test_a_loss_of_other_outputs_needs_a_new_network(first, later, match):
    one = MLPRegressor(**SMALL, **first).fit(X, np.exp(T))
    before, state = weights_of(one), one.t_
    one.set_params(**later)
    refused(match, one.partial_fit, X, np.exp(T))
    assert weights_of(one) == before and one.t_ == state
    one.fit(X, np.exp(T))


def test_early_stopping_may_begin_in_a_stream():
    one = MLPRegressor(**SMALL)
    for _ in range(3):
        one.partial_fit(X, T)
    one.set_params(early_stopping=True)
    for _ in range(3):
        one.partial_fit(X, T, validation_data=(X, T))
    assert len(one.validation_scores_) == 3 and one.best_validation_score_ == max(one.validation_scores_)


def test_what_a_refused_call_was_given_is_let_go():
    one = MLPClassifier(**SMALL)
    refused("classes must be passed", lambda: one.partial_fit(X, Y, validation_data=(X, Y)))
    assert one._fastbp.asked.validation_data is None


def test_a_network_made_by_hand_predicts():
    """With what scikit-learn's `predict` asks for, and no more."""
    for one in (neural_network.MLPRegressor(), MLPRegressor()):
        one.coefs_, one.intercepts_ = [np.ones((3, 2)), np.ones((2, 1))], [np.zeros(2), np.zeros(1)]
        one.n_layers_, one.n_outputs_, one.out_activation_ = 3, 1, "identity"
        for _ in range(2):
            np.testing.assert_allclose(one.predict(np.ones((4, 3))), np.full(4, 6.0))


def out_of_order(rows):
    """CSR whose columns are backwards in each row, and stand twice."""
    parts = [slice(*rows.indptr[k : k + 2]) for k in range(rows.shape[0])]
    twice = [np.repeat(array, 2) for array in (rows.data / 2, rows.indices)]
    data, indices = (np.concatenate([a[2 * p.start : 2 * p.stop][::-1] for p in parts]) for a in twice)
    return sparse.csr_matrix((data, indices, 2 * rows.indptr), shape=rows.shape)


def test_sparse_rows_are_taken_in_any_order():
    rows = sparse.csr_matrix(np.where(np.abs(X) > 0.5, X, 0))
    odd = out_of_order(rows)
    assert not odd.has_canonical_format
    held = frozen([odd.data, odd.indices])
    one = MLPClassifier(**SMALL, metrics=["accuracy"]).fit(odd, Y, validation_data=(odd, Y))
    plain = MLPClassifier(**SMALL, metrics=["accuracy"]).fit(rows, Y, validation_data=(rows, Y))
    np.testing.assert_allclose(one.validation_loss_curve_, plain.validation_loss_curve_, rtol=1e-9)
    for verb in ("predict_proba", "input_gradient", "transform_hidden"):
        more = (1,) if verb == "input_gradient" else ()
        np.testing.assert_allclose(getattr(one, verb)(odd, *more), getattr(one, verb)(rows, *more), **EQUAL)
    assert frozen([odd.data, odd.indices]) == held


# ------------------------------------------------------------------ callbacks that touch the network


class Acting(fastbp.Callback):
    """Does something at the end of an epoch."""

    def __init__(self, act, epoch=2):
        self.act, self.epoch = act, epoch

    def on_epoch_end(self, net, logs):
        if logs["epoch"] == self.epoch:
            self.act(net)


@pytest.mark.parametrize("solver, optimizer", [("sgd", None), ("adam", None), ("adam", "rmsprop")])
def test_a_pickle_of_a_callback_goes_on_as_the_run_does(solver, optimizer):
    params = PLAIN | dict(hidden_layer_sizes=(6,), solver=solver, optimizer=optimizer)
    found = []
    watch = Acting(lambda net: found.append(pickle.dumps(net)))
    whole = MLPRegressor(**params, max_iter=6).fit(X, T, callbacks=[watch])
    one = pickle.loads(found[0])
    for _ in range(4):
        one.partial_fit(X, T)
    np.testing.assert_allclose(one.coefs_[0], whole.coefs_[0], **EQUAL)
    np.testing.assert_allclose(one.loss_curve_, whole.loss_curve_, rtol=1e-9)


def test_arrays_that_a_callback_replaces_are_taken_over():
    def halve(net):
        net.coefs_ = [W / 2 for W in net.coefs_]
        net.intercepts_[0] = net.intercepts_[0] * 0

    def halve_in_place(net):
        for W in net.coefs_:
            W /= 2
        net.intercepts_[0][:] = 0

    fits = [MLPRegressor(**SMALL).fit(X, T, callbacks=[Acting(act)]) for act in (halve, halve_in_place)]
    assert weights_of(fits[0]) == weights_of(fits[1]) != weights_of(MLPRegressor(**SMALL).fit(X, T))

    def reshape(net):
        net.coefs_ = [W[:, :1] for W in net.coefs_]

    one = MLPRegressor(**SMALL)
    refused("of other shapes", lambda: one.fit(X, T, callbacks=[Acting(reshape)]))
    assert one.coefs_[0].shape == (X.shape[1], 6) and one.predict(X).shape == T.shape


@pytest.mark.parametrize("verb", ["fit", "partial_fit"])
def test_a_callback_may_not_fit_what_is_being_fitted(verb):
    one = MLPRegressor(**SMALL)
    act = Acting(lambda net: getattr(net, verb)(X, T[:, 0]))
    refused("is being fitted", lambda: one.fit(X, T, callbacks=[act]), kind=RuntimeError)
    assert one.n_outputs_ == T.shape[1] and one.predict(X).shape == T.shape
    assert weights_of(one.fit(X, T)) == weights_of(MLPRegressor(**SMALL).fit(X, T))


# ------------------------------------------------------------------ what is refused before anything is trained


@pytest.mark.parametrize("metrics", [["nonsense"], [3], ["accuracy"], ["r2", "r2"], [lambda a: 1.0]],
                         ids=lambda x: str(x)[:5])  # fmt: skip
def test_metrics_are_refused_before_a_step_is_made(metrics):
    one = MLPRegressor(**SMALL).fit(X, T[:, 0])
    before, epochs = weights_of(one), len(one.loss_curve_)
    one.set_params(metrics=metrics)
    refused("metrics", lambda: one.partial_fit(X, T[:, 0], validation_data=(X, T[:, 0])), kind=(ValueError, TypeError))
    assert weights_of(one) == before and len(one.loss_curve_) == epochs


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("zeros, batch_size", [(40, 4), (100, 3), (177, 50)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_weights_of_a_batch_that_sum_to_zero_end_a_run_where_scikit_learn_s_does(shuffle, zeros, batch_size, solver):
    a, b = pair(neural_network.MLPRegressor, solver=solver, shuffle=shuffle, batch_size=batch_size, random_state=0,
                hidden_layer_sizes=(4,), max_iter=30)  # fmt: skip
    weight = np.ones(len(X))
    weight[len(X) - zeros :] = 0
    wanted, got = (told(one.fit, X, T, weight)[1].error for one in (a, b))
    assert got == wanted and wanted[0] is ZeroDivisionError
    np.testing.assert_allclose(b.coefs_[0], a.coefs_[0], **EQUAL)
    np.testing.assert_allclose(b.loss_curve_, a.loss_curve_, rtol=1e-9)
    assert_same_draws(b.random_state, a.random_state)


def test_negative_counts_make_the_loss_nan_as_scikit_learn_s():
    a, b = pair(neural_network.MLPRegressor, loss="poisson", random_state=0, hidden_layer_sizes=(4,), max_iter=30)
    for one in (a, b):
        told(one.fit, X, T[:, 0])
    assert np.isnan(a.loss_) and np.isnan(b.loss_) and b.n_iter_ == a.n_iter_
    np.testing.assert_allclose(b.coefs_[0], a.coefs_[0], **EQUAL)


# ------------------------------------------------------------------ classes of users


@pytest.mark.parametrize("estimator, y", [(MLPClassifier, Y), (MLPRegressor, T)])
@pytest.mark.parametrize("name", ["_forward_pass_fast", "_predict"])
def test_a_class_with_its_own_predictions_is_asked_for_them(name, estimator, y):
    """By `predict` of plain arrays too."""
    calls = []

    def noted(self, X, check_input=True):
        calls.append(len(X))
        return getattr(estimator, name)(self, X, check_input)

    one = type("Own", (estimator,), {name: noted, "__init__": estimator.__init__})(**SMALL).fit(X, y)
    for rows in (X[:3], X[:4], X[:1]):
        one.predict(rows)
    assert calls == [3, 4, 1]


def test_a_class_with_its_own_checks_is_asked_for_them_by_later_calls():
    class Scaled(MLPRegressor):
        __init__ = MLPRegressor.__init__

        def _validate_input(self, X, y, incremental, reset):
            X, y = super()._validate_input(X, y, incremental, reset)
            return X, 2 * y

    one, other = Scaled(**SMALL), MLPRegressor(**SMALL)
    for _ in range(3):
        one.partial_fit(X, T), other.partial_fit(X, 2 * T)
    assert weights_of(one) == weights_of(other)


@pytest.mark.parametrize("name", ["_backprop", "_forward_pass", "_compute_loss_grad", "_update_no_improvement_count"])
def test_a_class_with_its_own_steps_gets_scikit_learn_s_code_and_is_told(name):
    """The kernels call none of these, and what they do is not to be left out in silence."""
    calls, fits = [], []
    for estimator in (neural_network.MLPRegressor, MLPRegressor):

        def noted(self, *arguments, estimator=estimator):
            calls.append(type(self))
            return getattr(estimator, name)(self, *arguments)

        fits.append(type("Own", (estimator,), {name: noted, "__init__": estimator.__init__})(**SMALL))
    theirs, mine = fits
    told(theirs.fit, X, T)
    _, heard = told(mine.fit, X, T)
    assert calls.count(type(mine)) == calls.count(type(theirs)) > 0 and weights_of(mine) == weights_of(theirs)
    assert mine.fastbp_["ran"] == "scikit-learn" and name in mine.fastbp_["why"]
    assert sum(name in text for _, text in heard.warnings) == 1
    refused(f"{name}.*dropout", mine.set_params(dropout=0.5).fit, X, T)


@pytest.mark.parametrize("loss", ["focal", "binary_cross_entropy"])
def test_probabilities_of_classes_sum_to_one_whatever_the_loss(loss):
    """What scikit-learn's metrics ask for; also where all of them are 0."""
    one = MLPClassifier(**SMALL, loss=loss).fit(X, Y)
    found = one.predict_proba(X)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    assert np.array_equal(found.argmax(axis=1), one.predict(X)) and roc_auc_score(Y, found, multi_class="ovr") > 0
    np.testing.assert_allclose(one.predict_log_proba(X), np.log(found), **EQUAL)
    one.intercepts_[-1][:] = -1e4
    np.testing.assert_allclose(one.predict_proba(X), 1 / 3)


@pytest.mark.parametrize("first, later", [
    (dict(dtype="float32"), {}), (dict(optimizer="rmsprop"), dict(optimizer=None)),
    (dict(keep_optimizer_state=True, warm_start=True), {})], ids=str)  # fmt: skip
def test_without_the_compiled_module_parameters_hold_too(first, later, monkeypatch):
    """Those that scikit-learn's code would pass over."""
    monkeypatch.setattr("fastbp.backends.engine", lambda: None)
    params = PLAIN | dict(hidden_layer_sizes=(6,), max_iter=2)
    one = MLPRegressor(**params, **first).fit(X, T).set_params(**later)
    if "dtype" in first:
        assert one.predict(X).dtype == np.float32
    elif "optimizer" in first:
        before = weights_of(one)
        assert weights_of(one.partial_fit(X, T)) != before
    else:
        wanted = MLPRegressor(**params | {"max_iter": 4}).fit(X, T)
        np.testing.assert_allclose(one.fit(X, T).coefs_[0], wanted.coefs_[0], **EQUAL)


@pytest.mark.parametrize("estimator, loss, y", [
    (MLPClassifier, "focal", Y), (MLPClassifier, "binary_cross_entropy", Y == 1), (MLPRegressor, "gamma", np.exp(T)),
    (MLPClassifier, "log_loss", Y), (MLPRegressor, "poisson", np.exp(T))])  # fmt: skip
def test_a_loss_with_outputs_of_its_own_takes_no_activation_of_them(estimator, loss, y):
    """Not "identity" either, after which logits would be called probabilities."""
    refused("output_activation", estimator(**SMALL, loss=loss, output_activation="identity").fit, X, y)


@pytest.mark.parametrize("data, match", [
    ((X[:1], T[:1]), "two rows"), ((X, T, -np.ones(len(X))), "weights must be at least 0")])  # fmt: skip
def test_rows_that_nothing_can_be_measured_on_are_refused_before_a_step_is_made(data, match):
    one = MLPRegressor(**SMALL).fit(X, T)
    before = weights_of(one)
    one.set_params(early_stopping=True)
    refused(f"validation_data: .*{match}", lambda: one.partial_fit(X, T, validation_data=data))
    assert weights_of(one) == before


def test_losses_are_in_the_dtype_that_scikit_learn_has_them_in():
    a, b = pair(neural_network.MLPRegressor, random_state=0, hidden_layer_sizes=(4,), max_iter=2)
    for dtypes in itertools.product((np.float64, np.float32), repeat=2):
        for one in (a, b):
            told(one.fit, X.astype(np.float64), T.astype(np.float64))
            one.partial_fit(X.astype(dtypes[0]), T.astype(dtypes[1]))
        assert type(b.loss_) is type(a.loss_) is np.float64, dtypes
        np.testing.assert_allclose(b.loss_, a.loss_, rtol=1e-9)


def test_whole_numbers_as_weights_are_computed_with_as_such():
    a, b = pair(neural_network.MLPRegressor, random_state=0, hidden_layer_sizes=(4,), max_iter=2)
    whole = np.rint(X * 1e4).astype(np.int32)
    for one in (a, b):
        told(one.fit, X, T[:, 0])
        one.coefs_ = [np.rint(W * 50).astype(np.int32) for W in one.coefs_]
        one.intercepts_ = [np.rint(B * 50).astype(np.int32) for B in one.intercepts_]
    for rows in (whole, whole, X):
        np.testing.assert_allclose(b.predict(rows), a.predict(rows), rtol=1e-12)


@pytest.mark.parametrize("given", [{"callbacks": [3]}, {"callbacks": 3}, {"progress": 1}], ids=str)
def test_arguments_that_are_refused_leave_the_last_fit(given):
    one = MLPRegressor(**SMALL).fit(X, T)
    before = weights_of(one)
    refused(next(iter(given)), lambda: one.fit(X[:50], T[:50], **given), kind=TypeError)
    assert weights_of(one) == before and one.n_iter_ == 8


@pytest.mark.parametrize("early", [True, False])
def test_parameters_that_a_callback_sets_are_of_the_next_fit(early):
    params = SMALL | {"early_stopping": early}
    act = Acting(lambda net: net.set_params(early_stopping=not early, hidden_layer_sizes=(3,), optimizer="sgd"))
    one = MLPRegressor(**params).fit(X, T, callbacks=[act])
    assert weights_of(one) == weights_of(MLPRegressor(**params).fit(X, T))
    assert one.fit(X, T).coefs_[0].shape == (X.shape[1], 3)


def test_a_callback_may_take_copies_of_every_kind():
    copies = []

    def take(net):
        copies.extend([copy.copy(net), copy.deepcopy(net), MLPRegressor.from_sklearn(net), net.to_sklearn()])
        copies.extend([clone(net).fit(X, T), net.predict(X)])

    params = PLAIN | dict(hidden_layer_sizes=(6,))
    whole = MLPRegressor(**params, max_iter=4).fit(X, T, callbacks=[Acting(take)])
    for one in copies[1:4]:
        for _ in range(2):
            one.partial_fit(X, T)
        np.testing.assert_allclose(one.coefs_[0], whole.coefs_[0], **EQUAL)
    assert weights_of(whole) == weights_of(MLPRegressor(**params, max_iter=4).fit(X, T))


@pytest.mark.parametrize("verb", ["fit", "partial_fit"])
def test_targets_that_are_texts_are_refused(verb):
    for one in (neural_network.MLPRegressor(**SMALL), MLPRegressor(**SMALL)):
        refused("subtract|y must hold numbers", getattr(one, verb), X, T[:, 0].astype(str), kind=TypeError)


def test_sparse_labels_are_taken_as_rows_to_validate_on():
    labels = (T > 0).astype(int)
    params = SMALL | {"early_stopping": True}
    one = MLPClassifier(**params).fit(X, sparse.csr_matrix(labels), validation_data=(X, sparse.csr_matrix(labels)))
    wanted = MLPClassifier(**params).fit(X, labels, validation_data=(X, labels))
    assert one.validation_scores_ == wanted.validation_scores_ and weights_of(one) == weights_of(wanted)


@pytest.mark.parametrize(
    "params", [dict(solver="sgd"), dict(solver="adam"), dict(optimizer=fastbp.Adam(lr=1e-3))], ids=str
)
def test_a_kept_state_goes_on_with_the_settings_of_the_new_fit(params):
    base = PLAIN | dict(hidden_layer_sizes=(6,), max_iter=3, warm_start=True, keep_optimizer_state=True)
    slower = dict(optimizer=fastbp.Adam(lr=1e-9)) if "optimizer" in params else dict(learning_rate_init=1e-9)
    one = MLPRegressor(**base, **params).fit(X, T)
    before = one.coefs_[0].copy()
    one.set_params(**slower).fit(X, T)
    if params.get("solver") != "sgd":  # whose velocity has the rate in it
        np.testing.assert_allclose(one.coefs_[0], before, rtol=0, atol=1e-7)
    other = {"sgd": "adam", "adam": "sgd"}.get(params.get("solver"))
    if other:
        assert type(one.set_params(solver=other).fit(X, T)._optimizer) is type(
            MLPRegressor(solver=other, max_iter=1).fit(X, T)._optimizer)  # fmt: skip
    else:
        assert one.set_params(optimizer="rmsprop").fit(X, T)._optimizer.rule.row.name == "rmsprop"


# ------------------------------------------------------------------ integer labels, which are looked at once

LABELS = {
    "int64": np.arange(60) % 4 - 1, "uint8": (np.arange(60) % 7).astype(np.uint8),
    "int32, binary": np.where(np.arange(60) % 3, 5, -2).astype(np.int32),
    "every other row": np.arange(60)[::-1] % 5, "big-endian": (np.arange(60) % 3).astype(">i4"),
    "many classes": np.arange(60) // 2 * 3, "more classes than that": np.arange(60) * 2 // 3,
    "one class": np.zeros(60, int), "a column": np.arange(60)[:, None] % 3, "booleans": np.arange(60) % 2 == 0,
    "floats": np.arange(60) % 3.0, "list": [0, 1, 2] * 20, "a subclass": np.ma.array(np.arange(60) % 3),
}  # fmt: skip


NAMES_OF_60 = np.array(["a", "b", "c"] * 20)


def _recorded(call):
    """What comes of it: a value or an error, and the warnings before it."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            found = call()
        except (ValueError, TypeError) as error:
            found = type(error), str(error)
    return found, [(one.category, str(one.message)) for one in seen]


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_binarized_as_by_scikit_learn(name):
    y = LABELS[name]
    X = np.random.default_rng(0).normal(size=(60, 5))
    made = [kind(max_iter=3, random_state=0) for kind in (MLPClassifier, THEIRS[MLPClassifier])]
    (mine, heard), (theirs, wanted) = (_recorded(lambda net=net: net.fit(X, y)) for net in made)
    assert heard == wanted
    found, known = (vars(net._label_binarizer) for net in (mine, theirs))
    assert found.keys() == known.keys()
    assert {**found, "classes_": 0} == {**known, "classes_": 0}
    assert found["classes_"].dtype == known["classes_"].dtype and (found["classes_"] == known["classes_"]).all()
    assert mine.classes_ is found["classes_"] and mine.n_outputs_ == theirs.n_outputs_
    np.testing.assert_allclose(mine.coefs_[1], theirs.coefs_[1], rtol=0, atol=1e-12)
    assert _recorded(lambda: mine.score(X, y)) == _recorded(lambda: theirs.score(X, y))
    for other in (
        y[:-1],
        y[:0],
        y[:1],
        np.arange(60) // 2 + 7,
        np.arange(60),
        np.linspace(0, 1, 60),
        NAMES_OF_60,
        None,
    ):
        assert _recorded(lambda y=other: mine.score(X, y)) == _recorded(lambda y=other: theirs.score(X, y))
    weight = np.arange(60.0)
    assert mine.score(X, y, weight) == theirs.score(X, y, weight)
    for other in (y[:-1], y[:0], np.arange(60)):
        again = (lambda net=net, y=other: net.fit(X, y) and 0 for net in (mine, theirs))
        (told, heard), (wanted, before) = map(_recorded, again)
        assert (str(told).replace("fastbp.sklearn", ""), heard) == (str(wanted), before)


def test_integer_labels_need_no_scikit_learn_beyond_its_check_of_arrays(monkeypatch):
    """The time of a search over many small fits: see GridSearchCV in benchmarks/bench_sklearn.py."""
    from fastbp.sklearn import classifier

    X, y = np.random.default_rng(0).normal(size=(60, 5)), LABELS["int64"]
    wanted = MLPClassifier(max_iter=2, random_state=0).fit(X, y).score(X, y)
    monkeypatch.setattr(classifier, "accuracy_score", None)
    monkeypatch.setattr(classifier.LabelBinarizer, "fit", None)
    monkeypatch.setattr(classifier.LabelBinarizer, "transform", None)
    assert MLPClassifier(max_iter=2, random_state=0).fit(X, y).score(X, y) == wanted


def test_score_is_of_what_a_user_s_class_predicts():
    class Shy(MLPClassifier):
        def predict(self, X):
            return np.zeros(len(X), int)

    X, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3
    assert Shy(max_iter=2, random_state=0).fit(X, y).score(X, y) == 1 / 3
