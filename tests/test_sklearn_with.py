"""`fastbp.sklearn` within scikit-learn's machinery, with frames, joblib and skops: as scikit-learn's own classes."""

import importlib
import os
import pickle
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from conftest import frozen
from pairs import (
    OURS,
    assert_same_answers,
    assert_same_state,
    both,
    neural_network,
    several_targets,
    sklearn,
    table,
    task,
)
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.ensemble import BaggingRegressor, StackingClassifier, VotingClassifier
from sklearn.feature_selection import RFECV, SelectFromModel
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning")

Classifier, Regressor = neural_network.MLPClassifier, neural_network.MLPRegressor
QUICK = dict(hidden_layer_sizes=(8,), max_iter=12, random_state=0)
X, Y = table("wine")
BINARY = table("breast_cancer")[0][:150], table("breast_cancer")[1][:150]
NUMBERS = table("diabetes")[0][:150], table("diabetes")[1][:150]
CLOSE = dict(rtol=1e-9, atol=1e-12)

official = bool(os.environ.get("FASTBP_TEST_SKLEARN"))  # `make test-sklearn`, where every library is there


def library(name):
    """A library, or a skip; a failure where it must be there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason = f"{error}: `make test-sklearn` installs it"
        pytest.fail(reason) if official else pytest.skip(reason)


def twice(make, cls=Classifier):
    """What `make` makes of scikit-learn's class and of ours."""
    return make(cls), make(OURS[cls])


def test_the_version_of_scikit_learn_is_the_one_that_was_asked_for():
    wanted = os.environ.get("FASTBP_TEST_SKLEARN", "newest")
    found = tuple(map(int, sklearn.__version__.split(".")[:2]))
    assert found >= (1, 7)
    assert wanted == "newest" or found == tuple(map(int, wanted.split(".")))


# ------------------------------------------------------------------ scores over folds and settings


def test_a_grid_search_finds_the_same_scores():
    grid = {"alpha": [1e-4, 0.1, 3], "activation": ["relu", "tanh"], "batch_size": [32, "auto"]}
    a, b = twice(lambda cls: GridSearchCV(cls(**QUICK), grid, cv=3, return_train_score=True).fit(X, Y))
    for name in ("mean_test_score", "std_test_score", "mean_train_score", "rank_test_score"):
        assert np.array_equal(b.cv_results_[name], a.cv_results_[name]), name
    assert b.best_params_ == a.best_params_ and type(b.best_estimator_) is OURS[Classifier]
    assert_same_answers(b.best_estimator_, a.best_estimator_, X)


def test_a_halving_search_finds_the_same_scores():
    importlib.import_module("sklearn.experimental.enable_halving_search_cv")
    from sklearn.model_selection import HalvingGridSearchCV

    grid = {"alpha": [1e-4, 0.1, 1, 10], "learning_rate_init": [0.001, 0.01]}
    search = dict(resource="max_iter", min_resources=2, max_resources=16, cv=3, random_state=1)
    a, b = twice(lambda cls: HalvingGridSearchCV(cls(**QUICK), grid, **search).fit(X, Y))
    assert b.best_params_ == a.best_params_ and b.n_resources_ == a.n_resources_
    assert np.array_equal(b.cv_results_["mean_test_score"], a.cv_results_["mean_test_score"])


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba"])
def test_predictions_across_folds_are_the_same(method):
    a, b = twice(lambda cls: cross_val_predict(make_pipeline(StandardScaler(), cls(**QUICK)), X, Y, method=method))
    np.testing.assert_allclose(b, a, **CLOSE)


def test_scores_across_folds_are_the_same():
    scoring = ["accuracy", "neg_log_loss", "f1_macro", "roc_auc_ovr"]
    a, b = twice(lambda cls: cross_validate(cls(**QUICK), X, Y, scoring=scoring, return_estimator=True))
    for name in scoring:
        np.testing.assert_allclose(b[f"test_{name}"], a[f"test_{name}"], **CLOSE)
    for one, other in zip(b["estimator"], a["estimator"]):
        assert_same_state(one, other)
    a, b = twice(lambda cls: cross_val_score(cls(**QUICK), *NUMBERS, scoring="r2"), Regressor)
    np.testing.assert_allclose(b, a, **CLOSE)
    folds = StratifiedKFold(3)
    a, b = twice(lambda cls: learning_curve(cls(**QUICK), X, Y, cv=folds, exploit_incremental_learning=True))
    for one, other in zip(b, a):
        assert np.array_equal(one, other)


# ------------------------------------------------------------------ estimators of estimators

META = {
    "calibrated": (Classifier, BINARY, lambda one: CalibratedClassifierCV(one, cv=3)),
    "voting": (Classifier, (X, Y), lambda one: VotingClassifier(
        [("net", one), ("line", LogisticRegression()), ("other", clone(one).set_params(alpha=1))], voting="soft")),
    "stacking": (Classifier, (X, Y), lambda one: StackingClassifier([("net", one)], cv=3)),
    "one against the rest": (Classifier, (X, Y), OneVsRestClassifier),
    "bagging": (Regressor, NUMBERS, lambda one: BaggingRegressor(one, n_estimators=3, random_state=0)),
    "of each output": (Regressor, (X, several_targets(X)), MultiOutputRegressor),
    "of logarithms": (Regressor, (X, np.exp(several_targets(X)[:, 0])), lambda one: TransformedTargetRegressor(
        one, func=np.log, inverse_func=np.exp)),
    "by coefficients": (Classifier, (X, Y), lambda one: make_pipeline(
        SelectFromModel(one, importance_getter=lambda net: np.abs(net.coefs_[0]).sum(axis=1), max_features=5),
        clone(one))),
    "without columns": (Classifier, BINARY, lambda one: RFECV(
        one, step=10, cv=2, min_features_to_select=10,
        importance_getter=lambda net: np.abs(net.coefs_[0]).sum(axis=1))),
}  # fmt: skip


@pytest.mark.parametrize("name", META)
def test_estimators_of_estimators_are_the_same(name):
    cls, (rows, targets), make = META[name]
    a, b = twice(lambda one: make(one(**QUICK)).fit(rows, targets), cls)
    verb = "predict_proba" if cls is Classifier else "predict"
    np.testing.assert_allclose(getattr(b, verb)(rows), getattr(a, verb)(rows), **CLOSE)


def test_importances_of_columns_are_the_same():
    a, b = twice(lambda cls: permutation_importance(
        cls(**QUICK).fit(X, Y), X, Y, n_repeats=3, random_state=0).importances)  # fmt: skip
    assert np.array_equal(b, a) and a.any()


def test_scorers_take_it():
    a, b = twice(lambda cls: get_scorer("neg_brier_score")(cls(**QUICK).fit(*BINARY), *BINARY))
    np.testing.assert_allclose(b, a, **CLOSE)


# ------------------------------------------------------------------ frames


def mixed(pandas, kind):
    """A frame of numbers, labels, truth values and missing ones, as `kind` stores them; classes."""
    rng = np.random.default_rng(0)
    n = 120
    frame = pandas.DataFrame({
        "width": rng.normal(size=n), "count": rng.integers(0, 9, n), "old": rng.uniform(size=n) < 0.4,
        "colour": rng.choice(["red", "green", "blue"], n),
    })  # fmt: skip
    y = (frame["width"] + frame["old"] > 0.3).map({True: "yes", False: "no"})
    if kind == "nullable":
        frame = frame.astype({"width": "Float64", "count": "Int64", "old": "boolean", "colour": "string"})
    if kind == "arrow":
        arrow = library("pyarrow")
        types = {"width": arrow.float64(), "count": arrow.int64(), "old": arrow.bool_(), "colour": arrow.string()}
        frame = frame.astype({name: pandas.ArrowDtype(dtype) for name, dtype in types.items()})
    if kind == "float32":
        frame = frame.astype({"width": "float32", "count": "float32"})
    return frame, y


FRAMES = ["plain", "nullable", "arrow", "float32"]


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_of_pandas_are_taken_as_scikit_learn_takes_them(kind):
    frame, y = mixed(library("pandas"), kind)
    numbers = frame.drop(columns="colour")
    a, b = twice(lambda cls: cls(**QUICK).fit(numbers, y))
    assert b.feature_names_in_.tolist() == ["width", "count", "old"]
    limit = (1e-3, 1e-3) if kind == "float32" else ()
    assert_same_state(b, a, *limit)
    assert_same_answers(b, a, numbers, *(limit[:1]))
    assert_same_answers(b, a, numbers[:1], *(limit[:1]))
    both_partial = [one.partial_fit(numbers[:30], y[:30]) for one in (a, b)]
    assert_same_state(both_partial[1], both_partial[0], *limit)
    with pytest.raises(ValueError, match="feature names"):
        b.predict(numbers[["count", "width", "old"]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        b.predict(numbers.to_numpy(dtype=float))


@pytest.mark.parametrize("kind", FRAMES[:3])
def test_missing_values_of_frames_are_refused_as_scikit_learn_refuses_them(kind):
    pandas = library("pandas")
    frame, y = mixed(pandas, kind)
    numbers = frame[["width", "count"]].copy()
    numbers.loc[3, "width"] = pandas.NA if kind != "plain" else np.nan
    for one in twice(lambda cls: cls(**QUICK)):
        with pytest.raises(ValueError, match="NaN"):
            one.fit(numbers, y)
        assert not hasattr(one, "coefs_")


@pytest.mark.parametrize("kind", FRAMES)
def test_columns_of_several_kinds_go_through_a_column_transformer(kind):
    frame, y = mixed(library("pandas"), kind)

    def model(cls):
        columns = ColumnTransformer(
            [("numbers", StandardScaler(), ["width", "count"]), ("kept", "passthrough", ["old"]),
             ("labels", OneHotEncoder(sparse_output=False), ["colour"])],
        )  # fmt: skip
        return make_pipeline(columns, cls(**QUICK)).fit(frame, y)

    a, b = twice(model)
    # a float32 column beside others makes float64 or float32 rows, as scikit-learn has it
    limit = 1e-3 if a[-1].coefs_[0].dtype == np.float32 else 1e-9
    np.testing.assert_allclose(b.predict_proba(frame), a.predict_proba(frame), rtol=limit, atol=limit)
    assert b.predict(frame).tolist() == a.predict(frame).tolist()


def test_frames_of_polars_are_taken_as_scikit_learn_takes_them():
    polars = library("polars")
    frame, y = mixed(library("pandas"), "plain")
    frame = polars.DataFrame({name: frame[name].to_numpy() for name in ("width", "count", "old")})
    a, b = twice(lambda cls: cls(**QUICK).fit(frame, polars.Series(y.tolist())))
    assert_same_state(b, a)  # feature_names_in_ too, where this scikit-learn knows names of this polars
    assert_same_answers(b, a, frame)
    both(a, b, lambda one: one.predict(frame.select("old", "width", "count")) is None)

    def model(cls):
        columns = ColumnTransformer([("all", StandardScaler(), ["width", "count"])], remainder="passthrough")
        return make_pipeline(columns, cls(**QUICK)).fit(frame, y)

    a, b = both(Classifier, OURS[Classifier], model)
    if a is not None:  # scikit-learn 1.8 takes no columns of polars 2
        np.testing.assert_allclose(b.predict_proba(frame), a.predict_proba(frame), **CLOSE)


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_transformers_may_hand_it_frames(output):
    library(output)
    rows = library("pandas").DataFrame(X, columns=[f"c{k}" for k in range(X.shape[1])])

    def model(cls):
        pipe = make_pipeline(StandardScaler(), cls(**QUICK)).set_output(transform=output)
        return pipe.fit(rows, Y)

    a, b = twice(model)
    assert_same_state(b[-1], a[-1])
    np.testing.assert_allclose(b.predict_proba(rows), a.predict_proba(rows), **CLOSE)
    with sklearn.config_context(transform_output=output):
        assert np.array_equal(b.predict(rows), a.predict(rows))


def test_columns_may_be_chosen_by_type():
    frame, y = mixed(library("pandas"), "plain")
    columns = ColumnTransformer([("numbers", "passthrough", make_column_selector(dtype_include=np.number))])
    a, b = twice(lambda cls: make_pipeline(columns, cls(**QUICK)).fit(frame, y).predict_proba(frame))
    np.testing.assert_allclose(b, a, **CLOSE)


# ------------------------------------------------------------------ metadata


def test_weights_are_routed():
    weight = np.linspace(0.1, 2, len(Y))
    with sklearn.config_context(enable_metadata_routing=True):
        def model(cls):
            one = cls(**QUICK).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
            return GridSearchCV(one, {"alpha": [0.1, 1]}, cv=3).fit(X, Y, sample_weight=weight)

        a, b = twice(model)
        assert np.array_equal(b.cv_results_["mean_test_score"], a.cv_results_["mean_test_score"])
        plain = clone(b.best_estimator_).fit(X, Y)
        assert not np.array_equal(plain.coefs_[0], b.best_estimator_.coefs_[0])
        pipe = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), clone(b.best_estimator_))
        assert not np.array_equal(pipe.fit(X, Y, sample_weight=weight)[-1].coefs_[0], pipe.fit(X, Y)[-1].coefs_[0])
        theirs, mine = (cls(**QUICK).get_metadata_routing() for cls in (Classifier, OURS[Classifier]))
        for method in ("fit", "partial_fit", "score"):
            wanted, found = getattr(theirs, method).requests, getattr(mine, method).requests
            assert wanted.items() <= found.items()


# ------------------------------------------------------------------ processes and threads


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib_runs_it(backend):
    joblib = library("joblib")
    one = OURS[Classifier](**QUICK)
    wanted = [clone(one).set_params(alpha=alpha).fit(X, Y) for alpha in (0.1, 1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = joblib.Parallel(n_jobs=2, backend=backend)(
            joblib.delayed(clone(one).set_params(alpha=alpha).fit)(X, Y) for alpha in (0.1, 1, 2)
        )
    for a, b in zip(wanted, found):
        assert frozen(a.coefs_) == frozen(b.coefs_)
        assert np.array_equal(a.predict(X), b.predict(X))


def test_a_search_in_processes_is_that_of_one():
    grid = {"alpha": [1e-4, 1]}
    alone, shared = (GridSearchCV(OURS[Classifier](**QUICK), grid, cv=3, n_jobs=n).fit(X, Y) for n in (None, 2))
    assert np.array_equal(alone.cv_results_["mean_test_score"], shared.cv_results_["mean_test_score"])
    assert frozen(alone.best_estimator_.coefs_) == frozen(shared.best_estimator_.coefs_)


def test_joblib_files_and_memory_maps_hold_it(tmp_path):
    joblib = library("joblib")
    one = OURS[Classifier](**QUICK).fit(X, Y)
    joblib.dump(one, tmp_path / "net.joblib")
    for mode in (None, "r"):  # "r": coefs_ are memory maps, which cannot be written
        again = joblib.load(tmp_path / "net.joblib", mmap_mode=mode)
        assert np.array_equal(again.predict_proba(X), one.predict_proba(X))
        assert np.array_equal(again.predict(X[:1]), one.predict(X[:1]))
    rows = np.memmap(tmp_path / "X", np.float64, "w+", shape=X.shape)
    rows[:] = X
    assert frozen(OURS[Classifier](**QUICK).fit(rows, Y).coefs_) == frozen(one.coefs_)


def test_skops_takes_the_two_classes():
    skops = library("skops.io")
    for cls, targets in ((Classifier, Y), (Regressor, several_targets(X))):
        one = OURS[cls](**QUICK).fit(X, targets)
        data = skops.dumps(one)
        asked = skops.get_untrusted_types(data=data)
        assert set(asked) <= {f"fastbp.sklearn.{cls.__name__}", *others(cls)}
        again = skops.loads(data, trusted=asked)
        assert type(again) is OURS[cls] and np.array_equal(again.predict(X), one.predict(X))
        again.partial_fit(X, targets)


def others(cls):
    """What skops asks of scikit-learn's own class too: its optimizer, say."""
    skops = library("skops.io")
    one = cls(**QUICK).fit(X, Y)
    return skops.get_untrusted_types(data=skops.dumps(one))


def test_without_scikit_learn_the_package_is_as_before_and_this_part_says_what_to_do():
    script = """
        import sys
        sys.modules["sklearn"] = None
        import numpy as np, fastbp
        fastbp.MLP((2, 1), seed=0).fit(np.ones((4, 2)), np.ones((4, 1)), epochs=1, optimizer="sgd")
        try:
            from fastbp.sklearn import MLPClassifier
        except ImportError as error:
            print(error)
        else:
            print("imported")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "scikit-learn" in done.stdout and "fastbp[sklearn]" in done.stdout, done.stdout + done.stderr


def test_pickles_are_read_by_a_fresh_process(tmp_path):
    one = OURS[Classifier](**QUICK).fit(X, Y)
    (tmp_path / "net").write_bytes(pickle.dumps((one, X)))
    script = f"import pickle; net, X = pickle.load(open({str(tmp_path / 'net')!r}, 'rb')); print(*net.predict(X))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(map(str, one.predict(X)))


@pytest.mark.parametrize("name", ["binary", "ten classes", "numbers"])
def test_scores_over_seeds_are_scikit_learn_s(name):
    """Not below by more than a standard error; in float64 they are equal, of float32 the tests of its drift tell."""
    theirs, rows, targets = task(name, rows=250)
    a, b = twice(lambda cls: np.array([
        cls(max_iter=20, hidden_layer_sizes=(20,), random_state=seed).fit(rows[:150], targets[:150]).score(
            rows[150:], targets[150:]) for seed in range(20)]), theirs)  # fmt: skip
    np.testing.assert_allclose(b, a, **CLOSE)
