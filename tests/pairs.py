"""scikit-learn's estimators and ours side by side: the same calls on both, and what has to be equal afterwards."""

import contextlib
import functools
import io
import warnings
from typing import NamedTuple

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")
from sklearn import datasets, neural_network, preprocessing  # noqa: E402

import fastbp.sklearn as ours  # noqa: E402

# What issue and page promise of float64: parts of the largest coefficient, and of a loss.
COEFS, LOSSES, TINY_LOSS = 1e-12, 1e-9, 1e-15

# With early stopping scikit-learn looked for NaN among predicted strings, until 1.9.
FAILS_ON_STRINGS = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9)

OURS = {
    neural_network.MLPClassifier: ours.MLPClassifier,
    neural_network.MLPRegressor: ours.MLPRegressor,
}
THEIRS = {mine: theirs for theirs, mine in OURS.items()}

# Attributes of our objects that scikit-learn's have not: further parameters, what tells of the run, what is kept.
FURTHER = {"fastbp_", "validation_loss_curve_", "validation_metrics_", "_fastbp"}.union(
    *(vars(mine()).keys() - vars(theirs()).keys() for theirs, mine in OURS.items())
)


# ------------------------------------------------------------------ data


@functools.cache
def table(name):
    """X, standardised, and y of one of scikit-learn's small data sets, in an order of ours; read-only."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if name == "diabetes":
        y = (y - y.mean()) / y.std()
    rows = np.random.default_rng(1).permutation(len(X))
    X, y = preprocessing.StandardScaler().fit_transform(X)[rows], y[rows]
    X.flags.writeable = y.flags.writeable = False
    return X, y


def several_targets(X, k=3):
    return np.tanh(X[:, :k] * X[:, k : 2 * k]) + 0.3 * X[:, :k]


NAMES = np.array(["setosa", "Versicolor", "κ", "d d", "", "5", "6", "7", "8", "9"])

# name -> (the class of scikit-learn, X, y)
TASKS = {
    "binary": lambda: (neural_network.MLPClassifier, *table("breast_cancer")),
    "binary, strings": lambda: (
        neural_network.MLPClassifier, table("breast_cancer")[0], np.array(["no", "yes"])[table("breast_cancer")[1]]),
    "classes": lambda: (neural_network.MLPClassifier, *table("wine")),
    "classes, strings": lambda: (neural_network.MLPClassifier, table("wine")[0], NAMES[table("wine")[1]]),
    "classes, objects": lambda: (
        neural_network.MLPClassifier, table("iris")[0], NAMES[table("iris")[1]].astype(object)),
    "ten classes": lambda: (neural_network.MLPClassifier, *table("digits")),
    "several labels": lambda: (
        neural_network.MLPClassifier, table("wine")[0], (several_targets(table("wine")[0], 5) > 0.1).astype(int)),
    "numbers": lambda: (neural_network.MLPRegressor, *table("diabetes")),
    "numbers, raw": lambda: (neural_network.MLPRegressor, *datasets.load_diabetes(return_X_y=True)),
    "three numbers": lambda: (neural_network.MLPRegressor, table("wine")[0], several_targets(table("wine")[0])),
    "counts": lambda: (
        neural_network.MLPRegressor, table("wine")[0], np.floor(np.exp(table("wine")[0][:, 0] * 0.7))),
    "three counts": lambda: (
        neural_network.MLPRegressor, table("wine")[0], np.floor(np.exp(several_targets(table("wine")[0])))),
}  # fmt: skip


def task(name, rows=None):
    """The class of scikit-learn, X, y; `rows` of the first ones at most. "counts" have the loss "poisson"."""
    theirs, X, y = TASKS[name]()
    return theirs, X[:rows], y[:rows]


# ------------------------------------------------------------------ a call told


class Told(NamedTuple):
    """What a call did, its result apart."""

    error: object  # (type, text), or None
    warnings: list  # (category, text)
    printed: str


def told(call, *args, **kwargs):
    """Call it; what it returned, and what it told."""
    out, error, result = io.StringIO(), None, None
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(out), np.errstate(all="ignore"):
        warnings.simplefilter("always")
        try:
            result = call(*args, **kwargs)
        except Exception as raised:
            error = type(raised), str(raised)
    # NumPy's and SciPy's words on overflow depend on where a number overflows: not a promise
    heard = [(one.category, str(one.message)) for one in caught if one.category is not RuntimeWarning]
    return result, Told(error, heard, out.getvalue())


def both(theirs, mine, act):
    """`act` on both estimators: they tell the same; their two results."""
    (result, wanted), (found, got) = told(act, theirs), told(act, mine)
    assert got.error == wanted.error
    assert got.warnings == wanted.warnings
    assert got.printed.splitlines() == wanted.printed.splitlines()
    return result, found


def fit_both(theirs, mine, X, y, sample_weight=None):
    """Fit both; whether that was done, and not refused."""
    done = both(theirs, mine, lambda one: one.fit(X, y, sample_weight) is one)
    return done == (True, True)


def pair(theirs, **params):
    """An estimator of scikit-learn's and one of ours, each with a `RandomState` of its own where `random_state` is
    an int."""
    made = []
    for cls in (theirs, OURS[theirs]):
        given = dict(params)
        if isinstance(given.get("random_state"), int):
            given["random_state"] = np.random.RandomState(given["random_state"])
        made.append(cls(**given))
    return made


# ------------------------------------------------------------------ what is equal


def assert_same_numbers(got, wanted, what, limit=LOSSES):
    """Results of finished networks: classes are equal, probabilities and outputs apart by a part of the largest."""
    assert type(got) is type(wanted) and got.dtype == wanted.dtype and got.shape == wanted.shape, what
    if got.dtype.kind != "f":
        assert np.array_equal(got, wanted), what
        return
    finite = np.isfinite(wanted)
    assert np.array_equal(got[~finite], wanted[~finite], equal_nan=True), what
    largest = max(1.0, np.abs(wanted[finite]).max(initial=0.0))
    apart = np.abs(got - wanted)[finite].max(initial=0.0)
    assert apart <= limit * largest, f"{what}: {apart / largest:.2g} of the largest apart"


def _arrays_alike(got, wanted, what, limit):
    """Lists of arrays (coefs_, a slot of the optimizer): apart by `limit` of the largest of all of them."""
    assert type(got) is type(wanted) and len(got) == len(wanted), what
    for a, b in zip(got, wanted):
        assert type(a) is type(b) and a.shape == b.shape, what
        # with float32 rows and float64 targets scikit-learn's slots become float64
        assert a.dtype == b.dtype or what.startswith("_optimizer.") and limit > COEFS, what
        assert a.flags.c_contiguous == b.flags.c_contiguous and a.flags.writeable, what
        assert np.array_equal(np.isfinite(a), np.isfinite(b)), what
    largest = max((np.abs(b[np.isfinite(b)]).max(initial=0.0) for b in wanted), default=0.0)
    apart = max((np.abs(a - b)[np.isfinite(b)].max(initial=0.0) for a, b in zip(got, wanted)), default=0.0)
    assert apart <= limit * largest, f"{what}: {apart / largest:.2g} of the largest apart"


def assert_same_state(mine, theirs, coefs=COEFS, losses=LOSSES):
    """All that two estimators hold: the same names, types, draws, counts; numbers within the bounds."""
    held, wanted = dict(vars(mine)), dict(vars(theirs))
    assert held.keys() - FURTHER == wanted.keys() - FURTHER
    for name in wanted.keys() - FURTHER:
        _alike(held[name], wanted[name], name, coefs, losses)
    for name in ("coefs", "intercepts"):  # after early stopping one is the other
        if hasattr(theirs, f"_best_{name}"):
            assert (getattr(mine, f"{name}_") is getattr(mine, f"_best_{name}")) == (
                getattr(theirs, f"{name}_") is getattr(theirs, f"_best_{name}")
            )


COEFFICIENTS = {"coefs_", "intercepts_", "_best_coefs", "_best_intercepts"}
REPORTED = {"loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"}


def _alike(got, wanted, what, coefs, losses):
    assert type(got) is type(wanted), f"{what}: a {type(got).__name__}, wanted a {type(wanted).__name__}"
    name = what.rpartition(".")[2]
    if isinstance(wanted, np.random.RandomState):
        assert_same_draws(got, wanted)
    elif name in COEFFICIENTS or what.startswith("_optimizer.") and isinstance(wanted, list):
        _arrays_alike(got, wanted, what, coefs)
    elif name in REPORTED:
        if isinstance(wanted, list):
            assert [type(one) for one in got] == [type(one) for one in wanted], what
        if wanted is not None:
            np.testing.assert_allclose(got, wanted, rtol=losses, atol=TINY_LOSS, err_msg=what)
    elif isinstance(wanted, np.ndarray):
        assert got.dtype == wanted.dtype and np.array_equal(got, wanted), what
    elif isinstance(wanted, (list, tuple)):
        assert len(got) == len(wanted), what
        for k, (a, b) in enumerate(zip(got, wanted)):
            _alike(a, b, f"{what}[{k}]", coefs, losses)
    elif isinstance(wanted, (int, float, str, np.generic, type(None))) or callable(wanted):
        if isinstance(wanted, (float, np.floating)):
            assert got == wanted or np.isnan(got) and np.isnan(wanted) or abs(got - wanted) <= 1e-15 * abs(wanted), what
        else:
            assert got == wanted, what
    else:  # the optimizer, the binarizer
        assert {*vars(got)} == {*vars(wanted)}, what
        for inner, value in vars(wanted).items():
            _alike(vars(got)[inner], value, f"{what}.{inner}", coefs, losses)


def assert_same_draws(got, wanted):
    a, b = got.get_state(legacy=False), wanted.get_state(legacy=False)
    assert np.array_equal(a["state"].pop("key"), b["state"].pop("key")) and a == b, "other random draws"


VERBS = ("predict", "predict_proba", "predict_log_proba")


def assert_same_answers(mine, theirs, X, limit=LOSSES):
    """All verbs that answer, on the same rows."""
    for verb in VERBS:
        assert hasattr(mine, verb) == hasattr(theirs, verb)
        if hasattr(theirs, verb):
            answers = both(theirs, mine, lambda one: getattr(one, verb)(X))  # noqa: B023
            wanted, found = map(np.exp, answers) if "log" in verb else answers
            assert_same_numbers(found, wanted, verb, limit)
