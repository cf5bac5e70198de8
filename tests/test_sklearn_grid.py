"""Hundreds of settings, fitted by scikit-learn's estimators and by ours: draws, counts, warnings, prints and state are
equal, numbers within rounding."""

import random

import numpy as np
import pytest
from conftest import every_case
from pairs import (
    FAILS_ON_STRINGS,
    LOSSES,
    OURS,
    assert_same_answers,
    assert_same_draws,
    assert_same_state,
    fit_both,
    pair,
    task,
)
from scipy import sparse
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import InvalidParameterError

N_SETTINGS = 2400 if every_case else 240
EPOCHS = (1, 20)
N_ROWS = 125  # the last batch of an epoch is shorter, and not so short that all of its weights may be 0
LONG = 200  # every eighth setting

TASKS = (
    "binary", "binary, strings", "classes", "classes, strings", "classes, objects", "ten classes", "several labels",
    "numbers", "numbers, raw", "three numbers", "counts", "three counts",
)  # fmt: skip
SPARSE = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "csr array": sparse.csr_array}
FORMS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "list": lambda X: X.tolist(),
    "every other column": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "backwards": lambda X: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "big-endian": lambda X: X.astype(">f8"),
    "integers": lambda X: np.rint(2 * X).astype(int),
    **{name: lambda X, make=make: make(np.where(X > 0.5, X, 0)) for name, make in SPARSE.items()},
}


def weights_of(kind, n):
    rng = np.random.default_rng(2)
    return {
        "none": None,
        "ones": np.ones(n),
        "random": rng.uniform(0.1, 3, n),
        "counts": rng.integers(1, 4, n),
        "some 0": np.where(np.arange(n) % 3 == 1, 0.0, rng.uniform(0.5, 2, n)),
        "float32": rng.integers(1, 20, n).astype(np.float32) / 8,  # scikit-learn sums them in float32: exact here
        "list": rng.uniform(0.1, 3, n).tolist(),
    }[kind]


AXES = {
    "hidden_layer_sizes": [(), (7,), 5, (20, 10), (6, 8, 4), [9]],
    "activation": ["relu", "tanh", "logistic", "identity"],
    "alpha": [0, 1e-4, 0.1, 3],
    "batch_size": [1, 11, 32, "auto", 500],
    "shuffle": [True, True, False],
    "early_stopping": [False, False, True],
    "validation_fraction": [0.1, 0.3],
    "tol": [1e-4, 1e-2, 0.0],
    "n_iter_no_change": [1, 3, 10, np.inf],
    "verbose": [False, False, True, 5],
    "solver": ["sgd", "adam"],
    # sgd
    "learning_rate": ["constant", "invscaling", "adaptive"],
    "momentum": [0, 0.5, 0.9, 1],
    "nesterovs_momentum": [True, False],
    "power_t": [0.5, 0.1],
    # adam
    "beta_1": [0.9, 0.8],
    "beta_2": [0.999, 0.99],
    "epsilon": [1e-8, 1e-4],
}
# Gentle runs: where small differences grow by themselves, two right answers lie far apart after 20 epochs.
RATES = {"sgd": (0.001, 0.01), "adam": (0.001, 0.005)}


def setting(k):
    """The task of setting k, the form of its X, the kind of its weights, and the parameters."""
    draw = random.Random(k)
    params = {name: draw.choice(levels) for name, levels in AXES.items()}
    name, weights = TASKS[k % len(TASKS)], draw.choice(["none", "none", *("ones random counts float32 list".split())])
    form = draw.choice([*FORMS])
    if params["batch_size"] not in (1, 11):  # a batch may be without weight: scikit-learn divides by 0 then
        weights = draw.choice([weights, weights, "some 0"])
    params["learning_rate_init"] = draw.choice(RATES[params["solver"]])
    if params["batch_size"] in (1, 11) or params["momentum"] == 1 or params["alpha"] == 3:
        params["learning_rate_init"] = 0.001
        if params["batch_size"] in (1, 11):
            params.update(alpha=min(params["alpha"], 0.1), momentum=min(params["momentum"], 0.9))
    if name == "numbers, raw" and params["solver"] == "sgd":  # where it stays finite
        params.update(learning_rate_init=1e-6, momentum=0.5)
    if "counts" in name:
        params["loss"] = "poisson"
        if params["solver"] == "sgd":
            params.update(learning_rate_init=1e-4, momentum=0.5)
    return name, form, weights, params


SETTINGS = [setting(k) for k in range(N_SETTINGS)]


def label(k):
    name, form, weights, params = SETTINGS[k]
    stops = "-early" if params["early_stopping"] else ""
    return f"{k}-{name}-{form}-{weights}-{params['solver']}-b{params['batch_size']}{stops}".replace(", ", "_")


def test_the_grid_meets_every_level_with_both_solvers():
    for solver in RATES:
        chosen = [one for one in SETTINGS if one[3]["solver"] == solver]
        assert {one[0] for one in chosen} == {*TASKS} and {one[1] for one in chosen} == {*FORMS}
        assert {one[2] for one in chosen} == {"none", "ones", "random", "counts", "some 0", "float32", "list"}
        for name, levels in AXES.items():
            if name != "solver":
                assert {str(one[3][name]) for one in chosen} == {str(level) for level in levels}


@pytest.mark.parametrize("k", range(N_SETTINGS), ids=label)
def test_a_setting_fits_alike(k):
    name, form, kind, params = SETTINGS[k]
    theirs, X, y = task(name, rows=60 if params["batch_size"] == 1 else N_ROWS)
    weights = weights_of(kind, len(X))
    X = FORMS[form](X)
    for max_iter in (*EPOCHS, LONG) if k % 8 == 0 and params["batch_size"] != 1 else EPOCHS:
        a, b = pair(theirs, random_state=k, max_iter=max_iter, **params)
        if not fit_both(a, b, X, y, weights):
            assert params["early_stopping"] and np.asarray(y).dtype.kind in "OU" and FAILS_ON_STRINGS
            return
        assert a.n_iter_ > 0 and all(np.isfinite(W).all() for W in a.coefs_), "no setting for this grid"
        assert_same_state(b, a)
        assert_same_answers(b, a, X)


@pytest.mark.parametrize("name", TASKS)
def test_lbfgs_fits_alike(name):
    theirs, X, y = task(name, rows=100)
    loss = {"loss": "poisson"} if "counts" in name else {}
    for max_iter in (1, 20):
        a, b = pair(theirs, random_state=3, solver="lbfgs", hidden_layer_sizes=(8,), max_iter=max_iter, **loss)
        fit_both(a, b, X, y)
        assert_same_state(b, a)
        assert_same_answers(b, a, X)


def test_the_global_stream_is_drawn_from_alike():
    """`random_state=None` is NumPy's global stream, an int a new one at each call."""
    theirs, X, y = task("classes", rows=60)
    stream = check_random_state(None)
    before, seen = stream.get_state(), []
    try:
        for one in pair(theirs, max_iter=3, early_stopping=True):
            stream.seed(5)
            one.fit(X, y)
            seen.append((one, stream.randint(1 << 30)))
    finally:
        stream.set_state(before)
    (a, wanted), (b, got) = seen
    assert got == wanted
    assert_same_state(b, a)
    a, b = theirs(random_state=7, max_iter=3), OURS[theirs](random_state=7, max_iter=3)
    for _ in range(2):
        assert fit_both(a, b, X, y)
        assert_same_state(b, a)


# ------------------------------------------------------------------ where a fit goes wrong


def test_a_confidently_wrong_network_stops_where_scikit_learn_stops():
    """scikit-learn's reported loss is bounded by -log(eps) a row; an unbounded one stops elsewhere."""
    for name, rate, most in (("binary", 10, 60), ("classes", 10, 60), ("ten classes", 1, 10), ("ten classes", 10, 40)):
        theirs, X, y = task(name, rows=None if name == "binary" else 150)
        a, b = pair(theirs, random_state=0, learning_rate_init=rate, max_iter=most, hidden_layer_sizes=(20,))
        fit_both(a, b, X, y)
        assert b.n_iter_ == a.n_iter_ > 5
        assert_same_state(b, a, 1e-10)  # rounding grows at such rates


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("name", ["numbers, raw", "three numbers", "counts"])
def test_a_run_that_overflows_is_refused_alike(name, early):
    theirs, X, y = task(name, rows=100)
    loss = {"loss": "poisson"} if name == "counts" else {}
    a, b = pair(
        theirs, random_state=0, solver="sgd", learning_rate_init=100, max_iter=12, early_stopping=early,
        n_iter_no_change=3, activation="identity", **loss,
    )  # fmt: skip
    fit_both(a, b, X, y)  # early stopping may end with weights from before
    assert b.n_iter_ == a.n_iter_ and b.t_ == a.t_ and b._no_improvement_count == a._no_improvement_count
    # of counts scikit-learn's first loss after the overflow is inf - inf, ours inf
    ends = np.isfinite if name == "counts" else np.isnan
    assert ends(b.loss_curve_).tolist() == ends(a.loss_curve_).tolist()
    assert_same_draws(b._random_state, a._random_state)


def test_a_diverging_run_with_early_stopping_keeps_its_finite_weights():
    theirs, X, y = task("numbers", rows=200)
    a, b = pair(theirs, random_state=0, solver="sgd", learning_rate_init=1e4, max_iter=12, early_stopping=True)
    fit_both(a, b, X * 1e3, y)
    assert np.isnan(a.validation_scores_).any()
    assert np.isnan(b.validation_scores_).tolist() == np.isnan(a.validation_scores_).tolist()
    assert b.n_iter_ == a.n_iter_


WEIGHTS_REFUSED = {
    "all 0": lambda n: np.zeros(n),
    "all 0 in one batch": lambda n: np.where(np.arange(n) < 20, 0.0, 1.0),
    "too few": lambda n: np.ones(n - 1),
    "a matrix": lambda n: np.ones((n, 2)),
    "NaN": lambda n: np.where(np.arange(n) == 3, np.nan, 1.0),
    "infinite": lambda n: np.where(np.arange(n) == 3, np.inf, 1.0),
    "strings": lambda n: ["heavy"] * n,
    "a number": lambda n: 2.0,
    "a number of 0": lambda n: 0.0,
    "negative": lambda n: np.where(np.arange(n) == 3, -0.5, 1.0),
}


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("kind", WEIGHTS_REFUSED)
def test_weights_are_taken_and_refused_alike(kind, solver):
    theirs, X, y = task("classes", rows=60)
    a, b = pair(theirs, random_state=0, solver=solver, batch_size=10, shuffle=False, max_iter=4)
    if fit_both(a, b, X, y, WEIGHTS_REFUSED[kind](len(X))):
        assert_same_state(b, a)
        assert_same_answers(b, a, X)


REFUSED = {
    "hidden_layer_sizes": (0,), "solver": "rmsprop", "alpha": -1, "batch_size": 0,
    "learning_rate": "cosine", "learning_rate_init": 0, "power_t": -1, "max_iter": 0, "shuffle": "yes", "tol": -1,
    "momentum": 2, "early_stopping": 2, "validation_fraction": 1.0, "beta_1": 1.0, "epsilon": 0,
    "n_iter_no_change": 0, "max_fun": 0, "random_state": "x", "warm_start": None, "verbose": "loud",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_parameters_are_refused_alike(name):
    theirs, X, y = task("numbers", rows=40)
    a, b = pair(theirs, random_state=0, max_iter=2)
    for one in (a, b):
        one.set_params(**{name: REFUSED[name]})
    assert not fit_both(a, b, X, y) and not hasattr(b, "coefs_")


def test_an_activation_that_does_not_exist_is_named():
    """The text has more names than scikit-learn's."""
    theirs, X, y = task("numbers", rows=40)
    one = OURS[theirs](activation="softplus2")
    with pytest.raises(InvalidParameterError, match="^The 'activation' parameter of MLPRegressor must be .*'relu'"):
        one.fit(X, y)
    assert not hasattr(one, "coefs_")


DATA_REFUSED = {
    "NaN": lambda X, y: (np.where(np.arange(X.size).reshape(X.shape) == 7, np.nan, X), y),
    "infinite": lambda X, y: (np.where(np.arange(X.size).reshape(X.shape) == 7, np.inf, X), y),
    "one row": lambda X, y: (X[:1], y[:1]),
    "two rows, early": lambda X, y: (X[:2], y[:2]),
    "no rows": lambda X, y: (X[:0], y[:0]),
    "no columns": lambda X, y: (X[:, :0], y),
    "one axis": lambda X, y: (X[:, 0], y),
    "three axes": lambda X, y: (X[None], y),
    "strings": lambda X, y: (X.astype(str).astype(object) + "x", y),
    "complex": lambda X, y: (X + 1j, y),
    "lengths": lambda X, y: (X, y[:-1]),
    "y is None": lambda X, y: (X, None),
    "y is NaN": lambda X, y: (X, np.where(np.arange(len(y)) == 1, np.nan, y)),
    "y a column": lambda X, y: (X, y.reshape(-1, 1)),
    "y of one class": lambda X, y: (X, np.zeros(len(y), int)),
    "y fractions": lambda X, y: (X, y + np.linspace(0, 0.3, len(y))),
    "y objects": lambda X, y: (X, y.astype(object)),
    "y integers": lambda X, y: (X, np.arange(len(y)) % 4),
    "y of rare classes": lambda X, y: (X, (np.arange(len(y)) == 0).astype(int)),
    "y of booleans": lambda X, y: (X, np.arange(len(y)) % 2 == 0),
    "y float32": lambda X, y: (X, y.astype(np.float32)),
    "DIA": lambda X, y: (sparse.dia_matrix(X), y),
    "a masked array": lambda X, y: (np.ma.masked_array(X, X > 1), y),
    "a matrix": lambda X, y: (np.asmatrix(X), y),
}


@pytest.mark.parametrize("early", [False, True], ids=["", "early"])
@pytest.mark.parametrize("name", ["classes", "numbers"])
@pytest.mark.parametrize("kind", DATA_REFUSED)
def test_data_are_taken_and_refused_alike(kind, name, early):
    theirs, X, y = task(name, rows=50)
    X, y = DATA_REFUSED[kind](X, y)
    a, b = pair(theirs, random_state=0, max_iter=3, hidden_layer_sizes=(4,), early_stopping=early)
    if fit_both(a, b, X, y):  # scikit-learn's R2 of float32 targets is of their float32 mean
        assert_same_state(b, a, losses=1e-7 if kind == "y float32" else LOSSES)
        assert_same_answers(b, a, X)


@pytest.mark.parametrize("weights", [None, np.float32, np.float64])
@pytest.mark.parametrize("name", ["binary", "classes", "numbers"])
def test_a_loss_has_the_type_that_all_it_is_made_of_has_in_common(name, weights):
    """With several classes that depends on SciPy, which scikit-learn takes the logarithms from."""
    theirs, X, y = task(name, rows=50)
    more = {} if weights is None else {"sample_weight": np.ones(len(y), weights)}
    for kind in (np.float32, np.float64):
        a, b = pair(theirs, random_state=0, max_iter=2)
        targets = y.astype(kind) if name == "numbers" else y
        fit_both(a, b, X.astype(kind), targets, **more)
        assert [type(one) for one in b.loss_curve_] == [type(one) for one in a.loss_curve_]
        assert type(b.loss_) is type(a.loss_) and type(b.best_loss_) is type(a.best_loss_)


def test_float32_drifts_within_a_bound():
    """Its numbers are not scikit-learn's, whose own update is partly in float64; draws, types and counts are."""
    for name in ("binary", "classes", "numbers", "three numbers"):
        theirs, X, y = task(name, rows=150)
        for targets in (y, y.astype(np.float32) if "numbers" in name else y):
            for solver, rate in (("adam", 0.001), ("sgd", 0.01)):
                a, b = pair(theirs, random_state=0, max_iter=20, solver=solver, learning_rate_init=rate)
                fit_both(a, b, X.astype(np.float32), targets)
                assert a.coefs_[0].dtype == b.coefs_[0].dtype == np.float32
                assert_same_state(b, a, 2e-4, 1e-4)
                assert_same_answers(b, a, X.astype(np.float32), 1e-3)
