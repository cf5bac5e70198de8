"""Many networks of `fastbp.sklearn`: each is what `fit` makes of its rows, and answers are theirs."""

import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastbp
from fastbp.sklearn import (
    GroupedMLPClassifier,
    GroupedMLPRegressor,
    MLPEnsembleClassifier,
    MLPEnsembleRegressor,
)

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 3))
Y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2]
LABELS = np.array(["low", "mid", "top"])[(X[:, 0] > -0.5).astype(int) + (X[:, 0] > 0.5)]
STORE = rng.choice(["Bern", "Chur", "Thun"], 120)
WITH_STORE = np.column_stack([X[:, :1].astype(object), STORE.astype(object), X[:, 1:].astype(object)])
QUICK = dict(hidden_layer_sizes=(6,), max_iter=12, learning_rate_init=0.02, batch_size=16, random_state=3)
ONE_BY_ONE = dict(lanes=False)  # whose bits are those of `fit`


def ensemble(kind, n=3, **more):
    return kind(n, **{**QUICK, **more})


def grouped(kind, by=1, **more):
    return kind(by, **{**QUICK, **more})


def by_hand(seed, x, y, loss, outputs, **more):
    """What a network of QUICK comes to by `fit` alone."""
    net = fastbp.MLP((x.shape[1], 6, outputs), init="sklearn", dtype=x.dtype, seed=seed)
    stop = fastbp.EarlyStopping("loss", patience=10, min_delta=1e-4, restore_best=False)
    net.fit(x, y, loss=loss, optimizer=fastbp.Adam(lr=0.02), epochs=12, batch_size=16, callbacks=[stop], **more)
    return net.flatten()


# ------------------------------------------------------------------ scikit-learn's own checks


DRAWN = {"check_sample_weight_equivalence_on_dense_data": "a bootstrap draws rows, repeated or not"}


@parametrize_with_checks(
    [
        MLPEnsembleClassifier(3, hidden_layer_sizes=(20,), learning_rate_init=0.01),
        MLPEnsembleRegressor(3, hidden_layer_sizes=(20,), learning_rate_init=0.01),
        MLPEnsembleRegressor(3, bootstrap=True, oob_score=True, hidden_layer_sizes=(20,), learning_rate_init=0.01),
    ],
    expected_failed_checks=lambda estimator: DRAWN if estimator.bootstrap else {},
)
@pytest.mark.filterwarnings("ignore:Some rows were drawn by all members")
def test_ensembles_pass_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


# ------------------------------------------------------------------ ensembles


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bootstrap", [False, True])
def test_members_are_networks_trained_on_their_rows(dtype, bootstrap):
    x = X.astype(dtype)
    model = ensemble(MLPEnsembleRegressor, bootstrap=bootstrap, **ONE_BY_ONE).fit(x, Y)
    assert len({net.flatten().tobytes() for net in model.estimators_}) == 3
    assert model.estimators_[0].dtype == dtype and len(model.estimators_samples_) == 3
    for net, rows in zip(model.estimators_, model.estimators_samples_):
        drawn = np.random.RandomState(net.seed).randint(0, 120, 120) if bootstrap else np.arange(120)
        np.testing.assert_array_equal(rows, drawn)
        wanted = by_hand(net.seed, x[rows], Y[rows], "half_squared_error", 1)
        np.testing.assert_array_equal(net.flatten(), wanted)


def test_a_member_does_not_depend_on_the_others_nor_on_threads():
    few = ensemble(MLPEnsembleClassifier, 2, bootstrap=True, n_threads=1).fit(X, LABELS)
    many = ensemble(MLPEnsembleClassifier, 5, bootstrap=True, n_threads=2).fit(X, LABELS)
    for one, other in zip(few.estimators_, many.estimators_):
        np.testing.assert_array_equal(one.flatten(), other.flatten())
    again = clone(many).set_params(random_state=4).fit(X, LABELS)
    assert (again.predict_proba(X) != many.predict_proba(X)).any()


def test_lanes_are_within_rounding():
    alone, side = (ensemble(MLPEnsembleRegressor, 4, lanes=lanes).fit(X, Y) for lanes in (False, True))
    like = fastbp.fit_many([fastbp.MLP((3, 6, 1), dtype=X.dtype)], X, Y, batch_size=16, epochs=1, lanes=True)
    assert set(alone.history_.kernel) == {"one by one"} and set(side.history_.kernel) == set(like.kernel)
    np.testing.assert_allclose(side.predict(X), alone.predict(X), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_regressor_answers_with_mean_and_deviation_of_its_members(outputs):
    y = Y if outputs == 1 else np.column_stack([Y, X[:, 0]])
    model = ensemble(MLPEnsembleRegressor).fit(X, y)
    each = np.array([net.predict(X) for net in model.estimators_]).reshape(3, *y.shape)
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(mean, each.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, each.std(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(model.predict(X), mean)
    assert model.score(X, y) == pytest.approx(r2_score(y, mean)) and model.n_outputs_ == outputs
    assert get_tags(model).target_tags.multi_output and get_tags(GroupedMLPRegressor(0)).target_tags.multi_output


def test_a_loss_of_counts_averages_what_it_predicts_not_logarithms():
    counts = rng.poisson(np.exp(X[:, 0]))
    model = ensemble(MLPEnsembleRegressor, loss="poisson").fit(X, counts)
    each = np.exp([net.predict(X)[:, 0] for net in model.estimators_])
    np.testing.assert_allclose(model.predict(X), each.mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("loss", "labels", "link"),
    [
        ("log_loss", LABELS, lambda z: softmax(z, axis=1)),
        ("log_loss", LABELS == "mid", lambda z: np.hstack([1 - expit(z), expit(z)])),
        ("focal", LABELS, lambda z: expit(z) / expit(z).sum(axis=1, keepdims=True)),
    ],
)
def test_a_classifier_averages_the_probabilities_of_its_members(loss, labels, link):
    model = ensemble(MLPEnsembleClassifier, loss=loss, max_iter=60).fit(X, labels)
    wanted = np.mean([link(net.predict(X)) for net in model.estimators_], axis=0)
    found = model.predict_proba(X)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(found))
    np.testing.assert_array_equal(model.predict(X), model.classes_[found.argmax(axis=1)])
    assert model.score(X, labels) > 0.8 and (model.predict(X) == labels).mean() == model.score(X, labels)


def test_where_all_probabilities_vanish_classes_share_them():
    one = ensemble(MLPEnsembleClassifier, 1, loss="focal").fit(X, LABELS)
    one.estimators_[0].biases[-1][:] = -1e5
    np.testing.assert_allclose(one.predict_proba(X), 1 / 3)
    model = grouped(GroupedMLPClassifier, loss="focal").fit(WITH_STORE, np.where(STORE == "Bern", LABELS == "low", 2))
    model.networks_["Bern"].biases[-1][:] = -1e5
    found = model.predict_proba(WITH_STORE)[STORE == "Bern"]
    np.testing.assert_array_equal(found, np.tile([0.5, 0.5, 0], (len(found), 1)))


@pytest.mark.parametrize("kind", [MLPEnsembleClassifier, MLPEnsembleRegressor])
@pytest.mark.parametrize("early", [False, True])
def test_out_of_bag_predictions_are_those_of_members_that_did_not_draw_the_row(kind, early):
    y = LABELS if kind is MLPEnsembleClassifier else Y
    model = ensemble(kind, 4, bootstrap=True, oob_score=True, early_stopping=early, validation_fraction=0.25)
    with pytest.warns(UserWarning, match="Some rows were drawn by all members"):
        model.fit(X, y)
    found = model.oob_decision_function_ if kind is MLPEnsembleClassifier else model.oob_prediction_[:, None]
    held = set() if model._held is None else set(model._held.tolist())
    assert len(held) == (30 if early else 0)
    for row in range(120):
        nets = [net for net, rows in zip(model.estimators_, model.estimators_samples_) if row not in rows]
        assert row not in held or len(nets) == 4  # held back of all members
        if row in held or not nets:
            assert np.isnan(found[row]).all()
            continue
        out = np.array([net.predict(X[row : row + 1])[0] for net in nets])
        wanted = softmax(out, axis=1) if kind is MLPEnsembleClassifier else out
        np.testing.assert_allclose(found[row], wanted.mean(axis=0), rtol=1e-9)
    known = ~np.isnan(found[:, 0])
    if kind is MLPEnsembleClassifier:
        assert model.oob_score_ == np.mean(model.classes_[found[known].argmax(axis=1)] == y[known])
    else:
        assert model.oob_score_ == pytest.approx(r2_score(y[known], found[known, 0]))


def test_early_stopping_holds_back_rows_by_class_and_keeps_the_best_epoch():
    rare = np.where(np.arange(120) % 12 == 0, "rare", "other")
    model = ensemble(MLPEnsembleClassifier, early_stopping=True, validation_fraction=0.2, n_iter_no_change=2, tol=0,
                     max_iter=400, learning_rate_init=0.1).fit(X, rare)  # fmt: skip
    assert (rare[model._held] == "rare").sum() == 2 and len(model._held) == 24
    assert (model.history_.status == "stopped").all() and model.n_iter_ < 400
    best = np.nanmin(model.history_.val_loss, axis=1)
    for net, value in zip(model.estimators_, best):
        of_net = net.evaluate(X[model._held], (rare == "rare")[model._held, None], loss="binary_cross_entropy")
        assert of_net == pytest.approx(value)


def test_weights_of_rows_and_classes():
    weight = rng.uniform(0.2, 3, 120)
    model = ensemble(MLPEnsembleRegressor, 2, **ONE_BY_ONE).fit(X, Y, sample_weight=weight)
    for net in model.estimators_:
        wanted = by_hand(net.seed, X, Y, "half_squared_error", 1, sample_weight=weight)
        np.testing.assert_array_equal(net.flatten(), wanted)
    heavy = dict(zip(["low", "mid", "top"], [1.0, 5.0, 2.0]))
    of_class = np.array([heavy[label] for label in LABELS])
    by_class = ensemble(MLPEnsembleClassifier, class_weight=heavy).fit(X, LABELS, weight)
    by_row = ensemble(MLPEnsembleClassifier).fit(X, LABELS, weight * of_class)
    np.testing.assert_array_equal(by_class.predict_proba(X), by_row.predict_proba(X))
    with pytest.raises(ValueError, match="all weights are zero|at least one non-zero"):
        model.fit(X, Y, np.zeros(120))


def test_optimizers_and_their_rate():
    by_name = ensemble(MLPEnsembleRegressor, optimizer="sgd", learning_rate_init=0.03).fit(X, Y)
    by_object = ensemble(MLPEnsembleRegressor, optimizer=fastbp.SGD(lr=0.03)).fit(X, Y)
    np.testing.assert_array_equal(by_name.predict(X), by_object.predict(X))
    own = ensemble(MLPEnsembleRegressor, optimizer="adam", learning_rate_init=None).fit(X, Y)
    np.testing.assert_array_equal(
        own.predict(X), ensemble(MLPEnsembleRegressor, optimizer=fastbp.Adam()).fit(X, Y).predict(X)
    )


def test_ensembles_say_what_is_wrong():
    for kind, more, message in [
        (MLPEnsembleRegressor, dict(oob_score=True), "oob_score=True needs bootstrap=True"),
        (MLPEnsembleRegressor, dict(n_estimators=0), "n_estimators"),
        (MLPEnsembleRegressor, dict(optimizer="lbfgs"), "optimizer"),
        (MLPEnsembleRegressor, dict(loss="focal"), "not a loss for a regressor"),
        (MLPEnsembleClassifier, dict(loss="hinge"), "not one of probabilities"),
        (MLPEnsembleRegressor, dict(optimizer=fastbp.SGD(lr=1e300)), r"s_\[0\] diverged: .*scaled features"),
    ]:
        model = ensemble(kind).set_params(**more)
        with pytest.raises(ValueError, match=message):
            model.fit(X, LABELS if kind is MLPEnsembleClassifier else Y)
        with pytest.raises(NotFittedError):
            model.predict(X)
    with pytest.raises(ValueError, match="one class only, 'a'"):
        ensemble(MLPEnsembleClassifier).fit(X, ["a"] * 120)


def test_ensembles_are_pickled_and_searched():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abc"))
    model = ensemble(MLPEnsembleClassifier, bootstrap=True).fit(frame, LABELS)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"] and model.n_features_in_ == 3
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    np.testing.assert_array_equal(again.estimators_samples_, model.estimators_samples_)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a", "c"]])
    search = GridSearchCV(ensemble(MLPEnsembleClassifier, 2), {"max_iter": [1, 60]}, cv=2).fit(X, LABELS)
    assert search.best_params_ == {"max_iter": 60}


# ------------------------------------------------------------------ a network for each group


def test_each_group_has_the_network_of_its_rows_alone():
    model = grouped(GroupedMLPRegressor, **ONE_BY_ONE).fit(WITH_STORE, Y)
    assert model.groups_ == list(model.networks_) == ["Bern", "Chur", "Thun"] and not model.without_network_
    found = model.predict(WITH_STORE)
    for name, net in model.networks_.items():
        rows = STORE == name
        wanted = by_hand(net.seed, X[rows], Y[rows], "half_squared_error", 1)
        np.testing.assert_array_equal(net.flatten(), wanted)
        np.testing.assert_array_equal(found[rows], net.predict(X[rows])[:, 0])
    wanted = by_hand(model.global_network_.seed, X, Y, "half_squared_error", 1)
    np.testing.assert_array_equal(model.global_network_.flatten(), wanted)
    assert model.n_features_in_ == 4 and model.score(WITH_STORE, Y) == pytest.approx(r2_score(Y, found))

    some = STORE != "Chur"  # whoever else is there
    fewer = grouped(GroupedMLPRegressor, **ONE_BY_ONE, fallback="raise").fit(WITH_STORE[some], Y[some])
    np.testing.assert_array_equal(fewer.networks_["Thun"].flatten(), model.networks_["Thun"].flatten())
    assert fewer.global_network_ is None


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_and_ways_to_name_the_column(library):
    module = pytest.importorskip(library)
    frame = module.DataFrame({"a": X[:, 0], "store": STORE, "b": X[:, 1], "c": X[:, 2], "month": np.arange(120) % 2})
    array = np.column_stack([WITH_STORE, np.arange(120) % 2])
    plain = grouped(GroupedMLPRegressor).fit(array, Y)
    model = grouped(GroupedMLPRegressor, "store").fit(frame, Y)
    assert model.feature_names_in_.tolist() == ["a", "store", "b", "c", "month"]
    np.testing.assert_array_equal(model.predict(frame), plain.predict(array))
    np.testing.assert_array_equal(model.predict(frame), grouped(GroupedMLPRegressor, 1).fit(frame, Y).predict(frame))
    np.testing.assert_array_equal(model.predict(frame), grouped(GroupedMLPRegressor, -4).fit(frame, Y).predict(frame))
    both = grouped(GroupedMLPRegressor, ["store", "month"], **ONE_BY_ONE).fit(frame, Y)
    assert both.groups_ == [(name, month) for name in ("Bern", "Chur", "Thun") for month in (0, 1)]
    rows = (STORE == "Chur") & (np.arange(120) % 2 == 1)
    net = both.networks_["Chur", 1]
    np.testing.assert_array_equal(net.flatten(), by_hand(net.seed, X[rows], Y[rows], "half_squared_error", 1))
    np.testing.assert_array_equal(both.predict(frame)[rows], net.predict(X[rows])[:, 0])


def test_keys_of_dates_numbers_and_what_is_missing():
    pandas = pytest.importorskip("pandas")
    days = pandas.to_datetime(np.where(STORE == "Bern", "2026-01-01", "2026-01-02"))
    frame = pandas.DataFrame(X, columns=list("abc")).assign(day=days)
    model = grouped(GroupedMLPRegressor, "day").fit(frame, Y)
    assert model.groups_ == [pandas.Timestamp("2026-01-01"), pandas.Timestamp("2026-01-02")]
    for missing in (None, np.nan, pandas.NA, pandas.NaT):
        names = pandas.Series([*STORE[:5], missing, *STORE[6:]], dtype=object)  # gaps of strings are NaN
        frame = pandas.DataFrame(X, columns=list("abc")).assign(store=names)
        assert frame["store"].to_list()[5] is missing
        with pytest.raises(ValueError, match="a key cannot have a network: that of row 5 is missing"):
            grouped(GroupedMLPRegressor, "store", fallback="raise").fit(frame, Y)
        model = grouped(GroupedMLPRegressor, "store").fit(frame, Y)
        assert list(model.without_network_) == [None] and len(model.networks_) == 3
        np.testing.assert_array_equal(model.predict(frame)[5], model.global_network_.predict(X[5:6])[0, 0])
    numbers = np.column_stack([X, (STORE == "Bern") * 2.0])
    model = grouped(GroupedMLPRegressor, 3).fit(numbers, Y)
    frame = pandas.DataFrame(X).assign(store=(STORE == "Bern") * 2)  # as integers
    np.testing.assert_array_equal(model.predict(frame.to_numpy(dtype=object)), model.predict(numbers))


def test_an_unseen_key_takes_the_network_of_all_rows_or_is_named():
    new = WITH_STORE.copy()
    new[[3, 77], 1] = "Genf", None
    model = grouped(GroupedMLPRegressor).fit(WITH_STORE, Y)
    found, wanted = model.predict(new), model.predict(WITH_STORE)
    wanted[[3, 77]] = model.global_network_.predict(X[[3, 77]])[:, 0]
    np.testing.assert_array_equal(found, wanted)
    strict = grouped(GroupedMLPRegressor, fallback="raise").fit(WITH_STORE, Y)
    np.testing.assert_array_equal(strict.predict(WITH_STORE), model.predict(WITH_STORE))
    with pytest.raises(ValueError, match="no network for the key 'Genf', which row 3 has"):
        strict.predict(new)


@pytest.mark.parametrize("loss", ["log_loss", "focal"])
def test_a_class_that_a_group_has_not_seen_has_probability_zero(loss):
    labels = LABELS.copy()
    labels[(STORE == "Bern") & (labels == "top")] = "low"
    labels[STORE == "Chur"] = "mid"
    model = grouped(GroupedMLPClassifier, loss=loss).fit(WITH_STORE, labels)
    assert model.without_network_ == {"Chur": "all its rows are of one class, 'mid'"}
    assert model.groups_ == ["Bern", "Chur", "Thun"] and list(model.networks_) == ["Bern", "Thun"]
    found = model.predict_proba(WITH_STORE)
    assert found.shape == (120, 3) and model.classes_.tolist() == ["low", "mid", "top"]
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found[STORE == "Bern", 2] == 0).all() and (found[STORE != "Bern"] > 0).all()
    nets = {**model.networks_, "Chur": model.global_network_}
    for name, net in nets.items():
        out = net.predict(X[STORE == name])
        wanted = softmax(out, axis=1) if loss == "log_loss" else expit(out)
        if name == "Bern":
            wanted[:, 2] = 0
        np.testing.assert_allclose(found[STORE == name], wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-9)
    np.testing.assert_array_equal(model.predict(WITH_STORE), model.classes_[found.argmax(axis=1)])
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(model.predict_log_proba(WITH_STORE), np.log(found))
    with pytest.raises(ValueError, match="'Chur' cannot have a network: all its rows are of one class, 'mid'"):
        clone(model).set_params(fallback="raise").fit(WITH_STORE, labels)


def test_two_classes_of_groups():
    labels = np.where(STORE == "Bern", X[:, 0] > 0, X[:, 0] < 0)
    model = grouped(GroupedMLPClassifier, max_iter=200).fit(WITH_STORE, labels)
    found = model.predict_proba(WITH_STORE)
    for name, net in model.networks_.items():
        p = expit(net.predict(X[STORE == name]))
        np.testing.assert_allclose(found[STORE == name], np.hstack([1 - p, p]), rtol=1e-9)
    assert model.score(WITH_STORE, labels) > 0.9 > 0.7 > np.mean((model.global_network_.predict(X)[:, 0] > 0) == labels)


def test_early_stopping_by_group():
    keys = np.array(["a"] * 60 + ["b"] * 59 + ["one"])
    x = np.column_stack([X.astype(object), keys.astype(object)])
    model = grouped(GroupedMLPRegressor, 3, early_stopping=True, validation_fraction=0.25, max_iter=300, tol=0,
                    n_iter_no_change=2, learning_rate_init=0.1).fit(x, Y)  # fmt: skip
    assert list(model.networks_) == ["a", "b"] and "one row" in model.without_network_["one"]
    assert (model.history_.status == "stopped").all() and model.history_.val_loss.shape[0] == 3
    assert model.history_.step[:, 0].tolist() == [3, 3, 6]  # of an epoch of 45, 45 and 91 rows
    mixed = np.random.RandomState(model.networks_["a"].seed).permutation(60)
    held = {"a": mixed[:15]}
    held["b"] = np.random.RandomState(model.networks_["b"].seed).permutation(np.arange(60, 119))[:14]
    held["all"] = np.concatenate([held["a"], held["b"]])
    for k, net in enumerate([*model.networks_.values(), model.global_network_]):
        rows = held[["a", "b", "all"][k]]
        of_net = net.evaluate(X[rows], Y[rows], loss="half_squared_error")
        assert of_net == pytest.approx(np.nanmin(model.history_.val_loss[k]))
    with pytest.raises(ValueError, match="the group 'one' cannot have a network: it has one row"):
        clone(model).set_params(fallback="raise").fit(x, Y)


def test_a_group_that_diverges_takes_the_network_of_all_rows():
    steep = WITH_STORE.copy()
    steep[STORE == "Chur", 0] *= 6  # too steep for this rate, unless flatter rows are among them
    more = dict(activation="identity", batch_size=120, optimizer=fastbp.SGD(lr=0.05), max_iter=400)
    with pytest.warns(ConvergenceWarning, match="1 groups diverged, 'Chur' first"):
        model = grouped(GroupedMLPRegressor, **more).fit(steep, Y)
    assert "diverged" in model.without_network_["Chur"] and list(model.networks_) == ["Bern", "Thun"]
    wanted = model.global_network_.predict(steep[STORE == "Chur"][:, [0, 2, 3]].astype(float))[:, 0]
    np.testing.assert_array_equal(model.predict(steep)[STORE == "Chur"], wanted)
    with pytest.raises(ValueError, match="the group 'Chur' cannot have a network: it diverged"):
        clone(model).set_params(fallback="raise").fit(steep, Y)
    with pytest.raises(ValueError, match="the network of all rows diverged"):
        clone(model).set_params(optimizer=fastbp.SGD(lr=1e300)).fit(steep, Y)


def test_classes_stay_with_their_groups_where_one_diverged(monkeypatch):
    def diverging(*given, **named):
        history = fastbp.fit_many(*given, **named)
        history.errors[0] = fastbp.NonFiniteError("too far", step=1, epoch=0)
        return history

    monkeypatch.setattr("fastbp.sklearn.together.fit_many", diverging)
    labels = np.where((STORE == "Chur") & (LABELS == "top"), "low", LABELS)
    with pytest.warns(ConvergenceWarning, match="'Bern' first"):
        model = grouped(GroupedMLPClassifier).fit(WITH_STORE, labels)
    assert model.without_network_ == {"Bern": "it diverged: too far"}
    vanishes = model.predict_proba(WITH_STORE)[:, 2] == 0
    np.testing.assert_array_equal(vanishes, STORE == "Chur")


def test_grouped_estimators_within_pipelines():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": 1e3 * X[:, 0], "store": STORE, "b": X[:, 1], "c": X[:, 2]})
    scaled = make_column_transformer(
        (StandardScaler(), ["a", "b", "c"]), remainder="passthrough", verbose_feature_names_out=False
    ).set_output(transform="pandas")
    pipeline = make_pipeline(scaled, grouped(GroupedMLPRegressor, "store", max_iter=150))
    model = TransformedTargetRegressor(pipeline, transformer=StandardScaler())
    assert model.fit(frame, 1e3 * Y).score(frame, 1e3 * Y) > 0.7
    assert np.isfinite(cross_val_score(model, frame, 1e3 * Y, cv=3)).all()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    network = pipeline[-1]
    assert clone(network).get_params() == network.get_params() and network.get_params()["by"] == "store"


def test_grouped_estimators_say_what_is_wrong():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"store": STORE, "a": X[:, 0]})
    for by, x, message in [
        ("shop", frame, "by: X has no column 'shop'; it has 'store', 'a'"),
        ("store", WITH_STORE, "'store' is the name of a column, and X is no data frame; .*set_output"),
        (4, WITH_STORE, "there is no column 4; X has 4"),
        ([], WITH_STORE, "by is empty"),
        (["store", "a"], frame, "no feature"),
        (0, WITH_STORE, "could not convert string to float"),
        (0, X[:, 0], "Expected 2D array"),
    ]:
        with pytest.raises(ValueError, match=message):
            grouped(GroupedMLPRegressor, by).fit(x, Y)
    with pytest.raises(NotFittedError):
        grouped(GroupedMLPRegressor).predict(WITH_STORE)
    with pytest.raises(ValueError, match="fallback"):
        grouped(GroupedMLPRegressor, fallback="mean").fit(WITH_STORE, Y)
    model = grouped(GroupedMLPRegressor).fit(WITH_STORE, Y)
    with pytest.raises(ValueError, match="has 3 features, but GroupedMLPRegressor is expecting 4"):
        model.predict(WITH_STORE[:, :3])
    with pytest.raises(ValueError, match="feature names"):
        grouped(GroupedMLPRegressor, "store").fit(frame, Y).predict(frame.rename(columns={"a": "b"}))


# ------------------------------------------------------------------ what is told


@pytest.mark.parametrize("make, first", [
    (lambda **more: ensemble(MLPEnsembleRegressor, **more).fit(X, Y), "estimators_[0]"),
    (lambda **more: ensemble(MLPEnsembleClassifier, **more).fit(X, LABELS), "estimators_[0]"),
    (lambda **more: grouped(GroupedMLPRegressor, **more).fit(WITH_STORE, Y), "the network of the group 'Bern'"),
])  # fmt: skip
def test_one_warning_says_how_many_networks_have_not_converged(make, first):
    def told(**more):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make(**more)
        found = [one for one in caught if one.category is ConvergenceWarning]
        assert all(one.filename == __file__ for one in found)
        return [str(one.message) for one in found]

    (message,) = told()
    n = 3 if "estimators" in first else 4
    assert f"iterations (12) reached, and {n} of {n} networks have not converged yet, {first} first" in message
    assert told(tol=1e9, n_iter_no_change=2) == []  # all stop
    assert told(n_iter_no_change=np.inf) == []  # nobody asks


@pytest.mark.parametrize("name", ["n_estimators", "max_iter", "batch_size", "learning_rate_init", "tol"])
def test_a_truth_value_is_no_number(name):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of MLPEnsembleRegressor must be a number, got True"):
        MLPEnsembleRegressor(**{name: True}).fit(X, Y)


def test_a_group_without_weight_is_named_by_its_key():
    weight = np.where(STORE == "Chur", 0.0, 1.0)
    model = grouped(GroupedMLPRegressor).fit(WITH_STORE, Y, sample_weight=weight)
    assert list(model.networks_) == ["Bern", "Thun"]
    assert model.without_network_ == {"Chur": "sample_weight is zero for all its rows"}
    with pytest.raises(ValueError, match="the group 'Chur' cannot have a network: sample_weight is zero"):
        grouped(GroupedMLPRegressor, fallback="raise").fit(WITH_STORE, Y, sample_weight=weight)
    model = grouped(GroupedMLPRegressor, early_stopping=True).fit(WITH_STORE, Y, sample_weight=weight)
    assert "that early_stopping leaves, or holds back" in model.without_network_["Chur"]


def test_a_bootstrap_without_weight_is_named():
    weight = np.zeros(len(X))
    weight[0] = 1
    with pytest.raises(ValueError, match=r"^estimators_\[\d\]: sample_weight is zero for every row"):
        ensemble(MLPEnsembleRegressor, 9, bootstrap=True).fit(X, Y, sample_weight=weight)


@pytest.mark.parametrize("make", [lambda: ensemble(MLPEnsembleRegressor), lambda: grouped(GroupedMLPRegressor)])
def test_fit_says_who_has_a_store(make):
    with pytest.raises(TypeError, match=r"argument of fit: unknown name 'store'; fastbp.fit_many\(nets, X, y, store="):
        make().fit(WITH_STORE, Y, store="folder")
