"""MLPSearchCV: scikit-learn's search bit by bit, in threads or elsewhere, and halving that goes on with networks."""

import pickle
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
import sklearn
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.metrics import make_scorer, mean_absolute_error
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, RandomizedSearchCV, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastbp
from fastbp.sklearn import MLPClassifier, MLPEnsembleRegressor, MLPRegressor, MLPSearchCV

rng = np.random.default_rng(0)
X = rng.normal(size=(90, 4))
Y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2]
LABELS = np.array(["low", "mid", "top"])[(X[:, 0] > -0.5).astype(int) + (X[:, 0] > 0.5)]
QUICK = dict(hidden_layer_sizes=(6,), max_iter=8, learning_rate_init=0.02, batch_size=16, random_state=3)
SPACE = {"alpha": [1e-4, 1.0], "learning_rate_init": [0.001, 0.05], "activation": ["relu", "tanh"]}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def classifier(**more):
    return MLPClassifier(**{**QUICK, **more})


def regressor(**more):
    return MLPRegressor(**{**QUICK, **more})


def assert_same(ours, theirs):
    """All that a search leaves, bit by bit; times are times."""
    assert list(ours.cv_results_) == list(theirs.cv_results_)
    for name, column in theirs.cv_results_.items():
        if not name.endswith("_time"):
            np.testing.assert_array_equal(ours.cv_results_[name], column, name)
            assert type(ours.cv_results_[name]) is type(column), name
    for name in ("best_index_", "best_score_", "best_params_", "n_splits_", "multimetric_"):
        assert getattr(ours, name, None) == getattr(theirs, name, None), name
    assert hasattr(ours, "best_estimator_") == hasattr(theirs, "best_estimator_")
    if hasattr(theirs, "best_estimator_"):
        assert coefs(ours.best_estimator_) == coefs(theirs.best_estimator_)


def coefs(estimator):
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    return [array.tobytes() for array in (*last.coefs_, *last.intercepts_)]


def both(estimator, space=SPACE, data=(X, LABELS), fit=None, **more):
    fit = fit or {}
    return (MLPSearchCV(estimator, space, n_threads=3, **more).fit(*data, **fit),
            GridSearchCV(estimator, space, **more).fit(*data, **fit))  # fmt: skip


# ------------------------------------------------------------------ as scikit-learn's


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Three of them, whatever CPUs there are."""
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")


@pytest.mark.parametrize("cv", [None, 3, KFold(4, shuffle=True, random_state=1), ShuffleSplit(2, random_state=0)])
def test_a_classifier_s_scores_are_those_of_gridsearchcv(cv):
    assert_same(*both(classifier(), cv=cv))


def test_a_regressor_s_scores_are_those_of_gridsearchcv():
    ours, theirs = both(regressor(), data=(X, Y), cv=3, return_train_score=True)
    assert_same(ours, theirs)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.score(X, Y) == theirs.score(X, Y) and ours.n_features_in_ == 4


@pytest.mark.parametrize("refit", ["r2", False, lambda results: int(np.argmin(results["mean_test_mae"]))])
def test_several_metrics_and_functions_that_choose(refit):
    scoring = {"r2": "r2", "mae": make_scorer(mean_absolute_error, greater_is_better=False)}
    ours, theirs = both(regressor(), data=(X, Y), cv=3, scoring=scoring, refit=refit)
    assert_same(ours, theirs)
    assert list(ours.scorer_) == list(theirs.scorer_)


def own_scores(estimator, X, y):
    return {"a": estimator.score(X, y), "b": -estimator.loss_}


@pytest.mark.parametrize("scoring, refit", [("accuracy", True), ("neg_log_loss", True), (own_scores, "b")])
def test_other_scorers(scoring, refit):
    assert_same(*both(classifier(), cv=3, scoring=scoring, refit=refit))


def test_a_pipeline_a_list_of_spaces_sparse_rows_and_weights():
    pipe = make_pipeline(StandardScaler(), classifier())
    space = [{"mlpclassifier__alpha": [0.0, 1.0]}, {"standardscaler": ["passthrough"], "mlpclassifier__alpha": [0.1]}]
    assert_same(*both(pipe, space, cv=3))
    assert_same(*both(classifier(), {"alpha": [0.0, 0.1]}, data=(sparse.csr_matrix(X), LABELS), cv=3))
    weight = np.linspace(0.1, 1, len(X))
    assert_same(*both(classifier(), {"alpha": [0.0, 0.1]}, fit={"sample_weight": weight}, cv=3))
    groups = np.arange(len(X)) % 5
    assert_same(*both(classifier(), {"alpha": [0.0, 0.1]}, fit={"groups": groups}, cv=GroupKFold(3)))


def test_frames_of_pandas_keep_their_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    ours, theirs = both(classifier(), {"alpha": [0.0, 0.1]}, data=(frame, pandas.Series(LABELS)), cv=3)
    assert_same(ours, theirs)
    assert ours.feature_names_in_.tolist() == list("abcd") and ours.classes_.tolist() == ["low", "mid", "top"]


def test_draws_are_those_of_randomizedsearchcv():
    space = {"alpha": stats.loguniform(1e-5, 1), "hidden_layer_sizes": [(3,), (5, 2)]}
    theirs = RandomizedSearchCV(classifier(), space, n_iter=5, random_state=7, cv=3).fit(X, LABELS)
    assert_same(MLPSearchCV(classifier(), space, n_candidates=5, random_state=7, cv=3).fit(X, LABELS), theirs)


@pytest.mark.parametrize("error_score", [np.nan, -1.0])
def test_a_fit_that_fails_has_the_error_score(error_score):
    space = {"learning_rate_init": [0.01, 1e300], "solver": ["sgd"]}
    with pytest.warns(FitFailedWarning, match="3 fits failed out of a total of 6"):
        ours = MLPSearchCV(regressor(), space, cv=3, error_score=error_score, refit=False).fit(X, Y)
    with pytest.warns(FitFailedWarning):
        theirs = GridSearchCV(regressor(), space, cv=3, error_score=error_score, refit=False).fit(X, Y)
    assert_same(ours, theirs)
    with pytest.raises(ValueError, match="non-finite"):
        MLPSearchCV(regressor(), space, cv=3, error_score="raise").fit(X, Y)


def test_metadata_routing_is_scikit_learn_s():
    weight = np.linspace(0.1, 1, len(X))
    with sklearn.config_context(enable_metadata_routing=True):
        net = classifier().set_fit_request(sample_weight=True)
        scorer = make_scorer(sklearn.metrics.accuracy_score).set_score_request(sample_weight=True)
        assert_same(*both(net, {"alpha": [0.0, 0.1]}, fit={"sample_weight": weight}, cv=3, scoring=scorer))
        groups = {"sample_weight": weight, "groups": np.arange(len(X)) % 5}
        more = {"cv": GroupKFold(3), "scoring": scorer}
        assert_same(*both(net, {"alpha": [0.0, 0.1]}, fit=groups, **more))
        halved = MLPSearchCV(net, {"alpha": [0.0, 0.1]}, halving=2, **more).fit(X, LABELS, **groups)
        assert halved.n_resources_ == [4, 8]


def test_a_search_is_cloned_pickled_and_searched_itself():
    search = MLPSearchCV(classifier(), {"alpha": [0.0, 0.1]}, cv=3, n_threads=2)
    copy = clone(search)
    assert copy.get_params()["estimator__hidden_layer_sizes"] == (6,) and copy.estimator is not search.estimator
    search.fit(X, LABELS)
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict_proba(X), search.predict_proba(X))
    inner = MLPSearchCV(classifier(), {"alpha": [0.0, 0.1]}, cv=2)
    outer = GridSearchCV(inner, {"estimator__activation": ["relu", "tanh"]})
    assert outer.fit(X, LABELS).best_score_ > 0.3
    assert sklearn.base.is_classifier(search) and sklearn.base.is_regressor(MLPSearchCV(regressor(), {}))


# ------------------------------------------------------------------ threads and others


class Noting(MLPClassifier):
    """Notes the threads that fit, and how many threads a fit may use."""

    seen: list = []

    def fit(self, X, y):
        from fastbp.backends import threads

        backend = fastbp.backends.config.requested_backend("auto")
        self.seen.append((threading.get_ident(), threads.requested(None), backend, sklearn.get_config()["display"]))
        self.gate()
        return super().fit(X, y)

    @staticmethod
    def gate():
        pass


def test_fits_run_at_once_each_on_one_thread_with_the_callers_settings(monkeypatch):
    barrier = threading.Barrier(3, timeout=60)
    monkeypatch.setattr(Noting, "seen", [])
    monkeypatch.setattr(Noting, "gate", staticmethod(lambda: barrier.wait() and None))
    before = list(warnings.filters)
    search = MLPSearchCV(Noting(**QUICK), {"alpha": [0.0, 0.1, 0.2]}, cv=2, n_threads=3, refit=False)
    with fastbp.backend("reference"), sklearn.config_context(display="text"):
        search.fit(X, LABELS)  # which hangs if fewer than three run at once
    assert len(Noting.seen) == 6 and len({ident for ident, *_ in Noting.seen}) == 3
    assert {tuple(rest) for _, *rest in Noting.seen} == {(1, "reference", "text")}
    assert warnings.filters == before and threading.get_ident() not in {ident for ident, *_ in Noting.seen}


def test_filters_of_warnings_are_left_alone():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        search = MLPSearchCV(classifier(max_iter=2), {"alpha": [0.0, 0.1, 0.2]}, cv=2, n_threads=3, refit=False)
        for _ in range(5):
            search.fit(X, LABELS)
        assert warnings.filters == before
    assert sum(one.category is ConvergenceWarning for one in caught) == 30


def test_one_thread_is_the_caller_s(monkeypatch):
    monkeypatch.setattr(Noting, "seen", [])
    MLPSearchCV(Noting(**QUICK), {"alpha": [0.0, 0.1]}, cv=2, n_threads=1, refit=False).fit(X, LABELS)
    assert {ident for ident, *_ in Noting.seen} == {threading.get_ident()}


def make_pool():
    return ThreadPoolExecutor(2)


@pytest.mark.parametrize("kind", ["threads", "function", "joblib"])
def test_an_executor_gives_the_same(kind):
    theirs = GridSearchCV(classifier(), {"alpha": [0.0, 0.1]}, cv=3).fit(X, LABELS)
    with ThreadPoolExecutor(2) as pool, joblib.parallel_config("threading", n_jobs=2):
        executor = {"threads": pool, "function": make_pool, "joblib": "joblib"}[kind]
        search = MLPSearchCV(classifier(), {"alpha": [0.0, 0.1]}, cv=3, executor=executor)
        assert_same(search.fit(X, LABELS), theirs)
        assert clone(search).executor is executor
        assert pickle.loads(pickle.dumps(search)).executor == ("joblib" if kind == "joblib" else None)
        assert not pool._shutdown


@pytest.mark.slow
def test_processes_give_the_same():
    import multiprocessing

    theirs = GridSearchCV(classifier(), {"alpha": [0.0, 0.1]}, cv=3).fit(X, LABELS)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert_same(MLPSearchCV(classifier(), {"alpha": [0.0, 0.1]}, cv=3, executor=pool).fit(X, LABELS), theirs)


class Client:
    """As Dask's looks."""

    def __init__(self, pool):
        self.pool = pool

    def __deepcopy__(self, memo):
        raise TypeError("a client has connections")

    __reduce__ = __deepcopy__

    def get_executor(self):
        return self.pool


def test_a_client_is_asked_for_its_executor():
    theirs = GridSearchCV(classifier(), {"alpha": [0.0, 0.1]}, cv=3).fit(X, LABELS)
    with ThreadPoolExecutor(2) as pool:
        search = MLPSearchCV(classifier(), {"alpha": [0.0, 0.1]}, cv=3, executor=Client(pool))
        assert_same(search.fit(X, LABELS), theirs)
        assert clone(search).executor is search.executor and pickle.loads(pickle.dumps(search)).executor is None


# ------------------------------------------------------------------ halving


def by_hand(estimator, candidates, plan, splits, data):
    """Halving as a loop of whole fits: rows of (candidate, rung, epochs, scores)."""
    x, y = data
    rows, alive, last = [], list(range(len(candidates))), {}
    for rung, (count, end) in enumerate(plan):
        if rung:
            alive = sorted(sorted(alive, key=lambda k: (-np.mean(last[k]), k))[:count])
        for k in alive:
            nets = [clone(estimator).set_params(**candidates[k], max_iter=end).fit(x[train], y[train])
                    for train, _ in splits]  # fmt: skip
            last[k] = [net.score(x[test], y[test]) for net, (_, test) in zip(nets, splits)]
            rows.append((k, rung, end, last[k]))
    return rows


@pytest.mark.parametrize("kind, data", [(MLPClassifier, (X, LABELS)), (MLPRegressor, (X, Y))])
def test_every_rung_scores_as_whole_fits_of_so_many_epochs(kind, data):
    net = kind(**{**QUICK, "tol": 0.0, "n_iter_no_change": 100})
    search = MLPSearchCV(net, SPACE, halving=2, cv=KFold(3), n_threads=3).fit(*data)
    candidates = search.cv_results_["params"][:8]
    assert search.n_candidates_ == [8, 4, 2, 1] and search.n_resources_ == [1, 2, 4, 8] and search.n_iterations_ == 4
    splits = list(KFold(3).split(X))
    rows = by_hand(net, candidates, [(8, 1), (4, 2), (2, 4), (1, 8)], splits, data)
    results = search.cv_results_
    assert results["params"] == [candidates[k] for k, *_ in rows]
    assert results["iter"].tolist() == [rung for _, rung, *_ in rows]
    assert results["n_resources"].tolist() == [end for _, _, end, _ in rows]
    for f in range(3):
        assert results[f"split{f}_test_score"].tolist() == [scores[f] for *_, scores in rows]
    assert search.best_index_ == 14 and search.best_params_ == candidates[rows[-1][0]]
    whole = GridSearchCV(net, {name: [value] for name, value in search.best_params_.items()}, cv=KFold(3)).fit(*data)
    assert whole.best_score_ == search.best_score_  # as if it had never been in rungs
    assert coefs(whole.best_estimator_) == coefs(search.best_estimator_)
    assert search.best_estimator_.max_iter == 8 and not search.best_estimator_.warm_start
    assert "__sklearn_clone__" not in vars(search.estimator) and not hasattr(search, "_going")


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_last_rung_scores_as_whole_fits_that_end_by_themselves_too(solver):
    """Some end within a rung, some at its very end; none goes on then."""
    net = classifier(max_iter=60, tol=0.02, n_iter_no_change=2, solver=solver, learning_rate_init=0.05)
    space = {"alpha": [0.0, 0.5, 1.0, 2.0, 5.0, 9.0], "random_state": [1, 2]}
    search = MLPSearchCV(net, space, halving=1.3, cv=3).fit(X, LABELS)
    whole = GridSearchCV(net, space, cv=3).fit(X, LABELS)
    last = np.flatnonzero(search.cv_results_["iter"] == search.n_iterations_ - 1)
    assert len(last) == search.n_candidates_[-1]
    for row in last:
        k = whole.cv_results_["params"].index(search.cv_results_["params"][row])
        assert search.cv_results_["mean_test_score"][row] == whole.cv_results_["mean_test_score"][k]


def test_halving_of_pipelines_of_draws_and_by_one_of_several_metrics():
    pipe = make_pipeline(StandardScaler(), regressor())
    space = {"mlpregressor__alpha": stats.loguniform(1e-5, 1), "mlpregressor__learning_rate_init": [0.001, 0.03]}
    search = MLPSearchCV(pipe, space, n_candidates=6, random_state=1, halving=2, cv=3, scoring=["r2", "neg_max_error"],
                         refit="neg_max_error").fit(X, Y)  # fmt: skip
    results = search.cv_results_
    first, second = (np.flatnonzero(results["iter"] == rung) for rung in (0, 1))
    best = np.sort(np.argsort(-results["mean_test_neg_max_error"][first], kind="stable")[:3])
    assert [results["params"][row] for row in second] == [results["params"][row] for row in best]
    assert search.best_score_ == results["mean_test_neg_max_error"][results["iter"] == search.n_iterations_ - 1].max()


def test_halving_has_the_same_splits_in_every_rung_and_ties_go_to_the_first():
    class Counting(ShuffleSplit):
        calls = 0

        def split(self, *arguments, **named):
            type(self).calls += 1
            return super().split(*arguments, **named)

    search = MLPSearchCV(classifier(), {"alpha": [0.1, 0.1, 0.1, 0.1]}, halving=2, cv=Counting(2)).fit(X, LABELS)
    assert Counting.calls == 1 and search.n_candidates_ == [4, 2, 1] and search.best_index_ == 6
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] == scores[3] and scores[4] == scores[5]


def test_failures_are_the_last_of_a_rung():
    space = {"learning_rate_init": [1e300, 0.01, 0.02, 0.03], "solver": ["sgd"]}
    with pytest.warns(FitFailedWarning):
        search = MLPSearchCV(regressor(), space, halving=2, cv=3).fit(X, Y)
    assert search.n_candidates_ == [4, 2, 1] and 1e300 not in search.cv_results_["param_learning_rate_init"][4:]
    assert np.isfinite(search.best_score_)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "estimator, space, more, words",
    [
        (classifier(), {"alhpa": [0.1]}, {},
         "key of space, a parameter of MLPClassifier: unknown name 'alhpa'; did you mean 'alpha'"),
        (classifier(), {"alpha": stats.uniform()}, {}, "space['alpha'] is a distribution: say how many to draw"),
        (classifier(), {"alpha": [0.1]}, {"n_candidates": 0}, "n_candidates"),
        (classifier(), {"alpha": [0.1]}, {"halving": 1}, "halving"),
        (classifier(), {"alpha": [0.1]}, {"executor": 3}, "executor must have a method submit"),
        (classifier(), {"alpha": [0.1]}, {"executor": "dask"}, "executor must be an executor, 'joblib' or None"),
        (classifier(), {"max_iter": [1, 2]}, {"halving": 2}, "space: max_iter is what halving says"),
        (classifier(), {"alpha": [0.1]}, {"halving": 2, "executor": "joblib"}, "fastbp.sweep(..., halving=, ex"),
        (classifier(), {"alpha": [0.1]}, {"executor": lambda: None}, "executor: the function gave None, which has no"),
        (classifier(early_stopping=True), {"alpha": [0.1]}, {"halving": 2}, "halving: early_stopping=True"),
        (classifier(solver="lbfgs"), {"alpha": [0.1]}, {"halving": 2}, "halving: solver='lbfgs' begins anew"),
        (classifier(), {"solver": ["adam", "lbfgs"]}, {"halving": 2}, "halving: solver='lbfgs' begins anew"),
        (MLPEnsembleRegressor(), {"tol": [0.1]}, {"halving": 2}, "halving goes on with an MLPClassifier or MLP"),
        (regressor(), {"alpha": [0.1]}, {"halving": 2, "scoring": ["r2", "neg_max_error"], "refit": len},
         "of several metrics refit= must name the one that decides"),
        (classifier(), {"alpha": [0.1]}, {"halving": 2, "scoring": own_scores, "refit": "c"}, "refit"),
        (classifier(), [1], {}, "space must be a dict from a parameter to its values"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(estimator, space, more, words):
    with pytest.raises((TypeError, ValueError)) as found:
        MLPSearchCV(estimator, space, cv=3, **more).fit(X, Y if isinstance(estimator, MLPRegressor) else LABELS)
    assert words in str(found.value)


def test_no_fit_is_left_behind_by_an_error():
    def fails(estimator, X, y):
        raise ArithmeticError("no score")

    before = threading.active_count()
    with pytest.raises(ArithmeticError, match="no score"):
        MLPSearchCV(classifier(), SPACE, cv=3, scoring=fails, error_score="raise", n_threads=3).fit(X, LABELS)
    assert threading.active_count() == before
