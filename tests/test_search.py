"""sweep: what is tried, that a candidate is what `fit` makes of it, halving, and what is told of it."""

import os
import pickle
import re
import warnings

import numpy as np
import pytest
from conftest import frozen

import fastbp
from fastbp import EarlyStopping, sweep
from fastbp.search import space as spaces
from fastbp.search.trials import rungs

rng = np.random.default_rng(0)
N = 60
X = rng.normal(size=(N, 3)).astype(np.float32)
Y = np.tanh(X.sum(axis=1))
LABELS = (X[:, 0] > -0.4).astype(int) + (X[:, 0] > 0.4)
HELD = X[:20] + 0.01, Y[:20]
QUICK = dict(batch_size=16, epochs=3, lanes=False)  # one by one: the bits of `fit`


class Uniform:
    """A distribution of one's own, from 0 to 4."""

    def ppf(self, q):
        return 4 * np.asarray(q)


def state(net):
    return frozen(net.__getstate__())


# ------------------------------------------------------------------ what is tried


def test_the_grid_is_all_combinations_with_the_last_key_fastest():
    found = sweep({"lr": [0.1, 0.2], "hidden": [(2,), (3,), (4, 2)]}, X, Y, metric="loss", **QUICK)
    wanted = [{"lr": lr, "hidden": hidden} for lr in (0.1, 0.2) for hidden in ((2,), (3,), (4, 2))]
    assert found.params == wanted and len(found) == 6
    assert [nets[0].sizes for nets in found.nets[:3]] == [(3, 2, 1), (3, 3, 1), (3, 4, 2, 1)]


def test_random_draws_are_those_of_the_distributions_at_numpys_points():
    stats = pytest.importorskip("scipy.stats")
    rate, batch = stats.loguniform(1e-4, 1e-1), stats.randint(4, 20)
    found = sweep({"lr": rate, "batch_size": batch, "activation": ["relu", "tanh", "gelu"]}, X, Y, n=7, method="random",
                  metric="loss", seed=5, epochs=1)  # fmt: skip
    points = np.random.default_rng(5).random((7, 3))
    assert [one["lr"] for one in found.params] == rate.ppf(points[:, 0]).tolist()
    assert [one["batch_size"] for one in found.params] == batch.ppf(points[:, 1]).astype(int).tolist()
    assert all(type(one["batch_size"]) is int for one in found.params)
    assert [one["activation"] for one in found.params] == [("relu", "tanh", "gelu")[int(3 * u)] for u in points[:, 2]]


def test_sobol_draws_are_those_of_scipys_sequence():
    stats = pytest.importorskip("scipy.stats")
    rate = stats.loguniform(1e-4, 1e-1)
    found = sweep({"lr": rate, "hidden": [(2,), (3,)]}, X, Y, n=6, method="sobol", metric="loss", seed=3, epochs=1)
    points = stats.qmc.Sobol(2, rng=np.random.default_rng(3)).random_base2(3)[:6]
    assert [one["lr"] for one in found.params] == rate.ppf(points[:, 0]).tolist()
    assert [one["hidden"] for one in found.params] == [((2,), (3,))[int(2 * u)] for u in points[:, 1]]


def test_random_draws_of_lists_never_repeat_and_a_distribution_is_anything_with_ppf():
    space = {"lr": [0.1, 0.2, 0.3], "seed": [1, 2], "dropout": [0.0, 0.5]}
    drawn = spaces.candidates(space, 12, "random", 4)
    grid = spaces.candidates(space, None, "grid", 0)
    assert sorted(map(spaces.shown, drawn)) == sorted(map(spaces.shown, grid)) and drawn != grid
    assert spaces.candidates(space, 5, "random", 4) == spaces.candidates(space, 5, "random", 4)
    assert spaces.candidates(space, 5, "random", 4) != spaces.candidates(space, 5, "random", 5)
    found = sweep({"lr": Uniform()}, X, Y, n=3, method="random", metric="loss", seed=1, **QUICK)
    assert found.columns["lr"].tolist() == (4 * np.random.default_rng(1).random(3)).tolist()


def test_a_candidate_is_the_network_that_its_arguments_make():
    rule = fastbp.SGD(lr=0.3, momentum=0.1, nesterov=True)
    found = sweep({"momentum": [0.5, 0.9], "activation": ["tanh"]}, X, LABELS, loss="softmax_cross_entropy", seed=9,
                  metric="loss", optimizer=rule, hidden=8, dtype="float64", dropout=0.25, **QUICK)  # fmt: skip
    for candidate, (net,) in zip(found.params, found.nets):
        rule = fastbp.SGD(lr=0.3, nesterov=True, momentum=candidate["momentum"])
        alone = fastbp.MLP((3, 8, 3), activation="tanh", dtype="float64", dropout=0.25, seed=9)
        alone.fit(X, LABELS, loss="softmax_cross_entropy", optimizer=rule, batch_size=16, epochs=3)
        assert state(net) == state(alone)


# ------------------------------------------------------------------ folds


@pytest.mark.parametrize("y, loss, outputs", [(Y, "mse", 1), (LABELS, "softmax_cross_entropy", 3)])
def test_every_fold_of_a_candidate_is_a_lone_fit_of_its_rows(y, loss, outputs):
    found = sweep({"lr": [0.01, 0.1], "batch_size": [8, 16]}, X, y, cv=3, loss=loss, hidden=(5,), seed=2, epochs=3,
                  lanes=False)  # fmt: skip
    folds = seen = np.concatenate([np.flatnonzero(fold_of(y, 3, 2) == f) for f in range(3)])
    assert sorted(seen) == list(range(N)) and len(folds) == N
    for c, candidate in enumerate(found.params):
        for f in range(3):
            held = fold_of(y, 3, 2) == f
            net = fastbp.MLP((3, 5, outputs), seed=2)
            told = net.fit(X[~held], y[~held], loss=loss, optimizer=fastbp.Adam(lr=candidate["lr"]), epochs=3,
                           batch_size=candidate["batch_size"], validation_data=(X[held], y[held]))  # fmt: skip
            assert state(found.nets[c][f]) == state(net)
            assert found.fold_values[c, f] == told.val_loss[-1]
    assert found.history[0].keys == [(c, f) for c in range(4) for f in range(3)]
    means = found.fold_values.mean(axis=1)
    assert found.best_index == means.argmin() and found.best_value == means.min()
    assert found.rank.tolist() == (np.argsort(np.argsort(means)) + 1).tolist()


def fold_of(y, k, seed):
    """The fold of each row, as the page has it: rows at random, dealt out class by class."""
    order = np.random.default_rng(seed).permutation(len(y))
    if y.dtype.kind in "iu":
        order = np.concatenate([order[y[order] == label] for label in np.unique(y)])
    fold = np.empty(len(y), int)
    fold[order] = np.arange(len(y)) % k
    return fold


def test_folds_have_each_class_s_share_and_come_from_splitters_and_lists_too():
    selection = pytest.importorskip("sklearn.model_selection")
    for label in range(3):
        counts = np.bincount(fold_of(LABELS, 5, 0)[LABELS == label], minlength=5)
        assert np.ptp(counts) <= 1
    splitter = selection.KFold(4, shuffle=True, random_state=1)
    by_splitter = sweep({"lr": [0.01, 0.1]}, X, Y, cv=splitter, **QUICK)
    by_list = sweep({"lr": [0.01, 0.1]}, X, Y, cv=list(splitter.split(X)), **QUICK)
    assert by_splitter.fold_values.shape == (2, 4) and (by_splitter.fold_values == by_list.fold_values).all()
    assert not (by_list.fold_values == sweep({"lr": [0.01, 0.1]}, X, Y, cv=4, **QUICK).fold_values).all()


def test_the_best_is_trained_anew_on_all_rows_after_folds():
    space = {"lr": [0.001, 0.05], "epochs": [2, 9]}
    found = sweep(space, X, Y, cv=3, batch_size=16, lanes=False, seed=4)
    alone = fastbp.MLP((3, 100, 1), seed=4)
    alone.fit(X, Y, optimizer=fastbp.Adam(lr=0.05), batch_size=16, epochs=9)
    assert found.best == {"lr": 0.05, "epochs": 9} and state(found.best_net) == state(alone)
    with pytest.raises(RuntimeError, match=r"refit=False.*; nets\[3\] has those of the best candidate's folds"):
        sweep(space, X, Y, cv=3, batch_size=16, refit=False).best_net  # noqa: B018


@pytest.mark.parametrize("refit", [True, False])
def test_rows_of_their_own_to_measure_on_leave_the_best_network_as_it_is(refit):
    found = sweep({"lr": [0.001, 0.05]}, X, Y, validation_data=HELD, refit=refit, **QUICK)
    assert found.best_net is found.nets[1][0] and len(found.history) == 1
    told = fastbp.MLP((3, 100, 1), seed=0).fit(X, Y, optimizer=fastbp.Adam(lr=0.05), batch_size=16, epochs=3,
                                               validation_data=HELD)  # fmt: skip
    assert found.best_value == told.val_loss[-1]


def test_a_share_of_rows_is_measured_on_and_the_best_then_has_all():
    found = sweep({"lr": [0.001, 0.05]}, X, Y, validation_split=0.25, **QUICK)
    assert [nets[0].step for nets in found.nets] == [9, 9] and found.best_net.step == 12  # 45 rows, 60 rows
    found = sweep({"lr": [0.001, 0.05]}, X, Y, validation_rows=np.arange(15), **QUICK)
    assert [nets[0].step for nets in found.nets] == [9, 9] and found.best_net.step == 12


def test_early_stopping_counts_at_its_best_entry_and_gives_the_epochs_of_the_refit():
    early = EarlyStopping(patience=2)
    found = sweep({"lr": [0.3, 0.01]}, X, Y, cv=3, early_stopping=early, epochs=40, batch_size=16, hidden=(8,),
                  lanes=False)  # fmt: skip
    (history,) = found.history
    assert (found.fold_values.ravel() == history.best_value).all() and "stopped" in history.status
    assert (found.fold_values.ravel() < history._last(history.val_loss)).any()
    epochs = [net.epoch for net in found.nets[found.best_index]]
    assert found.best_net.epoch == np.median(epochs) and len(set(epochs)) > 1
    stays = sweep({"lr": [0.3, 0.01]}, X, Y, cv=3, early_stopping=EarlyStopping(patience=2, restore_best=False),
                  epochs=40, batch_size=16, hidden=(8,), lanes=False)  # fmt: skip
    assert (stays.fold_values.ravel() == history._last(history.val_loss)).all()
    early = EarlyStopping("loss", patience=2)  # which needs no held rows
    trained = sweep({"lr": [0.3]}, X, Y, cv=3, early_stopping=early, metric="val_r2", **{**QUICK, "epochs": 40})
    alone = fastbp.MLP((3, 100, 1), seed=0)
    alone.fit(X, Y, optimizer=fastbp.Adam(lr=0.3), batch_size=16, epochs=40, callbacks=[early])
    assert state(trained.best_net) == state(alone) and alone.epoch < 38


# ------------------------------------------------------------------ what decides


def test_a_metric_decides_by_its_better_side():
    space = {"lr": [1e-5, 0.05, 1e-4]}
    more = {"loss": "softmax_cross_entropy", "epochs": 15, "batch_size": 16, "cv": 3}
    by_accuracy = sweep(space, X, LABELS, metric="val_accuracy", **more)
    assert by_accuracy.best == {"lr": 0.05} and by_accuracy.best_value == by_accuracy.values.max()
    by_loss = sweep(space, X, LABELS, metrics=["accuracy"], **more)
    assert by_loss.best_value == by_loss.values.min()
    assert (by_loss.history[0].metrics["val_accuracy"] == by_accuracy.history[0].metrics["val_accuracy"]).all()

    def off(y_true, y_pred):
        return float(np.abs(y_pred[:, 0] - y_true[:, 0]).max())

    own = [sweep(space, X, Y, metric="val_off", metrics=[off], mode=mode, cv=3, **QUICK) for mode in ("min", "max")]
    assert [one.best_value for one in own] == [own[0].values.min(), own[0].values.max()]


def test_a_network_that_fails_is_the_last_and_of_equals_the_first_is_best():
    found = sweep({"lr": [1e30, 0.01, 0.01]}, X, Y, cv=2, optimizer="sgd", **QUICK)
    assert np.isnan(found.values[0]) and found.rank.tolist() == [3, 1, 2] and found.best_index == 1
    assert found.columns["status"].tolist() == ["nonfinite", "done", "done"]
    nothing = sweep({"lr": [1e30]}, X, Y, cv=2, optimizer="sgd", **QUICK)
    assert nothing._best_net is None and np.isnan(nothing.best_value)
    assert "none with a value of val_loss" in repr(nothing)
    for name in ("best", "best_net"):
        with pytest.raises(RuntimeError, match="none of the 1 candidates has a value of 'val_loss'; the first error: "):
            getattr(nothing, name)


@pytest.mark.parametrize("dtype, warns", [(int, True), (bool, True), (np.uint8, True), (float, False), (object, True)])
def test_whole_numbers_without_a_loss_are_asked_about(dtype, warns):
    y = (X[:, 0] > 0).astype(dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = sweep({"lr": [0.01]}, X, y, cv=2, **QUICK)
        for loss in ("mse", "binary_cross_entropy"):
            sweep({"lr": [0.01]}, X, y, cv=2, loss=loss, **QUICK)
        sweep({"loss": ["mse"]}, X, y, cv=2, **QUICK)
        sweep({"lr": [0.01]}, X, np.stack([y, y], axis=1), cv=2, **QUICK)
    told = [one for one in caught if "y holds whole numbers" in str(one.message)]
    assert len(told) == warns and found.best_net.sizes[-1] == 1
    assert all(one.category is UserWarning and one.filename == __file__ for one in told)
    assert all("loss='softmax_cross_entropy'" in str(one.message) and "loss='mse'" in str(one.message) for one in told)


def test_a_refused_sweep_draws_nothing_from_a_generator():
    rng, untouched = np.random.default_rng(1), np.random.default_rng(1)
    for wrong in ({"cv": 1}, {"cv": 2, "metric": "x"}, {"cv": 2, "batch_size": 0}, {"cv": 2, "store": 3}):
        with pytest.raises((TypeError, ValueError)):
            sweep({"lr": [0.1]}, X, Y, seed=rng, **{**QUICK, **wrong})
    assert rng.bit_generator.state == untouched.bit_generator.state


# ------------------------------------------------------------------ halving


@pytest.mark.parametrize(
    "n, epochs, factor, wanted",
    [
        (24, 27, 3, [(24, 1), (8, 3), (3, 9), (1, 27)]),
        (8, 10, 2, [(8, 1), (4, 2), (2, 5), (1, 10)]),
        (9, 10, 3, [(9, 1), (3, 3), (1, 10)]),
        (100, 4, 2, [(100, 1), (50, 2), (25, 4)]),
        (5, 1, 3, [(5, 1)]),
        (1, 50, 3, [(1, 50)]),
        (6, 20, 1.5, [(6, 3), (4, 5), (3, 8), (2, 13), (1, 20)]),
        (9, 3, 1.2, [(9, 1), (8, 2), (7, 3)]),
    ],
)
def test_rungs_are_those_of_successive_halving(n, epochs, factor, wanted):
    assert rungs(n, epochs, factor) == wanted


def test_halving_goes_on_with_the_best_networks_from_where_they_are():
    space = {"lr": [1e-5, 0.003, 0.1, 0.03, 1e-4, 0.01]}
    more = {"batch_size": 16, "hidden": (8,), "lanes": False, "cv": 3}
    found = sweep(space, X, Y, halving=2, epochs=4, **more)
    assert [len(history) for history in found.history] == [18, 9, 6]
    assert [len(history.loss[0]) for history in found.history] == [1, 1, 2]
    # by hand, with `fit` alone
    alive, before, nets, values = list(range(6)), 0, {}, np.full((6, 3), np.nan)
    rung = np.zeros(6, int)
    for number, (count, end) in enumerate([(6, 1), (3, 2), (2, 4)]):
        if number:
            alive = sorted(sorted(alive, key=lambda c: (values[c].mean(), c))[:count])
        rung[alive] = number
        for c in alive:
            for f in range(3):
                held = fold_of(Y, 3, 0) == f
                net = nets.setdefault((c, f), fastbp.MLP((3, 8, 1), seed=0))
                told = net.fit(X[~held], Y[~held], optimizer=fastbp.Adam(lr=space["lr"][c]), epochs=end - before,
                               batch_size=16, validation_data=(X[held], Y[held]))  # fmt: skip
                values[c, f] = told.val_loss[-1]
        before = end
    assert (found.fold_values == values).all() and (found.rung == rung).all()
    assert all(state(found.nets[c][f]) == state(net) for (c, f), net in nets.items())
    last = found.rank[rung == 2]
    assert sorted(last) == [1, 2] and found.columns["n_epochs"][found.best_index] == 4
    whole = sweep({"lr": [found.best["lr"]]}, X, Y, epochs=4, **more)
    assert (whole.fold_values[0] == found.fold_values[found.best_index]).all()  # as if it had never been in rungs
    assert state(whole.best_net) == state(found.best_net)


def test_halving_lets_go_of_what_failed_and_does_not_wake_what_has_stopped():
    found = sweep({"lr": [1e30, 0.1, 0.01, 1e-3]}, X, Y, cv=2, halving=2, epochs=8, optimizer="sgd", batch_size=16)
    assert found.rung[0] == 0 and found.rank[0] == 4 and len(found.history) == 3
    early = EarlyStopping("loss", patience=1, min_delta=1e6)
    found = sweep({"lr": [0.1, 0.01]}, X, Y, cv=2, halving=2, epochs=12, early_stopping=early, batch_size=16)
    assert (found.status == "stopped").all() and len(found.history) == 1 and set(found.epochs.ravel()) == {1}


def test_the_time_limit_is_that_of_all_rungs():
    found = sweep({"lr": [0.1, 0.01]}, X, Y, cv=2, halving=2, epochs=8, batch_size=16, time_limit=0)
    assert (found.status == "stopped").all() and found._best_net is None and np.isnan(found.values).all()


def test_time_that_is_over_after_a_rung_leaves_what_it_found(monkeypatch):
    from fastbp.search import trials

    class Clock:
        now = 0.0

        @classmethod
        def perf_counter(cls):
            cls.now += 1
            return cls.now

    monkeypatch.setattr(trials, "time", Clock)  # 1 at the beginning, 2 before the first rung, 3 before the second
    found = sweep({"lr": [0.1, 0.01, 0.001]}, X, Y, cv=2, halving=2, epochs=8, time_limit=1.5, batch_size=16)
    assert len(found.history) == 1 and (found.rung == 0).all() and (found.status == "done").all()
    assert np.isfinite(found.values).all() and found.best_net.epoch == 8
    monkeypatch.setattr(trials, "fit_many", stops_in_the_second(trials.fit_many))
    found = sweep({"lr": [0.1, 0.01, 0.001]}, X, Y, cv=2, halving=2, epochs=8, batch_size=16)
    assert np.isfinite(found.values).all() and (found.status[found.rung == 1] == "stopped").all()


def stops_in_the_second(fit_many):
    """`fit_many` for which there is no time left from its second call on."""
    calls = []

    def call(*arguments, **named):
        calls.append(1)
        return fit_many(*arguments, **(named if len(calls) != 2 else {**named, "time_limit": 0}))

    return call


# ------------------------------------------------------------------ the same whatever


@pytest.mark.parametrize("more", [{}, {"halving": 3}, {"method": "random", "n": 5}])
def test_a_sweep_is_the_same_for_any_number_of_threads_and_by_its_seed(more, monkeypatch):
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    space = {"lr": [0.3, 0.1, 0.03], "hidden": [(4,), (7,)]}
    one, three = (sweep(space, X, Y, cv=3, epochs=9, batch_size=16, n_threads=n, **more) for n in (1, 3))
    assert one.params == three.params and (one.fold_values == three.fold_values).all()
    assert [state(net) for nets in one.nets for net in nets] == [state(net) for nets in three.nets for net in nets]
    assert state(one.best_net) == state(three.best_net)
    other = sweep(space, X, Y, cv=3, epochs=9, batch_size=16, seed=1, **more)
    assert not np.array_equal(one.fold_values, other.fold_values)


def test_each_rung_is_one_call_of_fit_many(monkeypatch):
    from fastbp.search import trials

    calls = []

    def counted(nets, *arguments, **named):
        calls.append((len(nets), named.get("store"), named.get("executor")))
        named.pop("store", None), named.pop("executor", None)
        return real(nets, *arguments, **named)

    real = trials.fit_many
    monkeypatch.setattr(trials, "fit_many", counted)
    sweep({"lr": [0.1, 0.01, 0.2, 0.3]}, X, Y, cv=3, **QUICK)
    assert calls == [(12, None, None), (1, None, None)]


def test_executor_and_store_are_handed_on(monkeypatch, tmp_path):
    from fastbp.search import trials

    seen = []

    def noted(nets, *arguments, **named):
        seen.append((len(nets), named.pop("store"), named.pop("executor")))
        return real(nets, *arguments, **named)

    real = trials.fit_many
    monkeypatch.setattr(trials, "fit_many", noted)
    sweep({"lr": [0.1, 0.01]}, X, Y, cv=2, halving=2, epochs=2, executor="an engine", store=tmp_path / "run")
    places = [os.path.relpath(place, tmp_path) for _, place, _ in seen]
    assert places == ["run/rung_0", "run/rung_1", "run/refit"] and {engine for *_, engine in seen} == {"an engine"}
    assert [n for n, *_ in seen] == [4, 2, 1] and (tmp_path / "run").is_dir()


def test_ctrl_c_leaves_what_is_known(monkeypatch):
    from fastbp.search import trials

    def interrupted(nets, *arguments, **named):
        history = real(nets, *arguments, **named)
        if calls:
            error = KeyboardInterrupt()
            error.history = history
            raise error
        calls.append(1)
        return history

    calls, real = [], trials.fit_many
    monkeypatch.setattr(trials, "fit_many", interrupted)
    with pytest.raises(KeyboardInterrupt) as found:
        sweep({"lr": [0.1, 0.01]}, X, Y, cv=2, halving=2, epochs=2)
    known = found.value.sweep
    assert len(known.history) == 2 and known._best_net is None and np.isfinite(known.values).all()


# ------------------------------------------------------------------ what is told


def test_the_table_is_there_without_pandas_and_with_it():
    found = sweep({"lr": [0.1, 0.01], "hidden": [(4,), (5, 3)], "activation": ["relu", "tanh"]}, X, Y, cv=3, **QUICK)
    columns = found.columns
    measured = ["val_loss", "val_loss_std", "rank", "rung", "n_epochs", "status"]
    assert list(columns) == ["lr", "hidden", "activation", *measured]
    assert columns["lr"].dtype == np.float64 and columns["hidden"].tolist()[2] == (5, 3)
    assert (columns["val_loss"] == found.fold_values.mean(axis=1)).all()
    pytest.importorskip("pandas")
    frame = found.to_frame()
    assert list(frame.columns) == list(columns) and frame.index.name == "candidate" and len(frame) == 8
    assert frame["rank"].idxmin() == found.best_index
    assert re.match(r"Sweep\(8 candidates in .* s, best val_loss 0\.\d+: lr=0.01, hidden=", repr(found))


def test_a_sweep_can_be_pickled():
    found = sweep({"lr": [0.1, 0.01]}, X, Y, cv=2, **QUICK)
    again = pickle.loads(pickle.dumps(found))
    assert again.params == found.params and (again.fold_values == found.fold_values).all()
    assert state(again.best_net) == state(found.best_net) and len(again.history[0]) == 4


def test_the_picture_has_a_panel_for_each_key():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = sweep({"lr": [0.001, 0.01, 0.1], "hidden": [(4,), (5, 3)]}, X, Y, cv=2, halving=2, epochs=4)
    assert found.best_index > 0
    axes = found.plot().figure.axes
    assert [one.get_xlabel() for one in axes] == ["lr", "hidden"] and axes[0].get_ylabel() == "val loss"
    assert axes[0].get_xscale() == "log"
    assert [text.get_text() for text in axes[1].get_xticklabels()] == ["(4,)", "(5, 3)"]
    drawn = np.concatenate([dots.get_offsets().data for dots in axes[0].collections])
    assert len(drawn) == 7 and drawn[-1].tolist() == [found.best["lr"], found.best_value]  # six, and the best again
    assert set(drawn[:6, 0]) == {0.1, 0.01, 0.001}
    pyplot.close("all")
    with pytest.raises(ValueError, match="nothing to draw"):
        sweep({}, X, Y, cv=2, **QUICK).plot()


# ------------------------------------------------------------------ what is refused


class Broken:
    def ppf(self, q):
        return q * np.nan


@pytest.mark.parametrize(
    "space, more, words",
    [
        ({"learning_rate": [0.1]}, {}, "key of space: unknown name 'learning_rate'; did you mean 'lr'?"),
        ({"momentun": [0.1]}, {}, "did you mean 'momentum'"),
        ({"n_threads": [1, 2]}, {}, "space['n_threads']: n_threads is the same for all networks"),
        ({"lr": [0.1]}, {"lr": 0.2}, "lr is both a key of space and an argument of sweep"),
        ({"lr": 0.1}, {}, "space['lr'] must be a list of values"),
        ({"hidden": (64, 32)}, {}, "space['hidden'] must be a list of values"),
        ({"lr": []}, {}, "space['lr'] is empty"),
        ({"lr": Uniform()}, {}, "space['lr'] is a distribution, and method='grid' takes lists alone"),
        ({"lr": Broken()}, {"method": "random", "n": 2}, "space['lr']: its ppf gives no finite number"),
        ({"lr": [0.1]}, {"n": 3}, "n: method='grid' tries all"),
        ({"lr": [0.1]}, {"method": "random"}, "n: method='random' needs the number of candidates"),
        ({"lr": [0.1]}, {"method": "random", "n": 2}, "n: space has 1 candidates"),
        ({}, {"method": "sobol", "n": 2}, "space is empty"),
        ({"lr": [0.1]}, {"method": "bayes"}, "method: unknown name 'bayes'"),
        ([("lr", [0.1])], {}, "space must be a dict"),
        ({"lr": [0.1, -1.0]}, {}, "candidate 1 of space (lr=-1.0): Adam: lr must be"),
        ({"lr": [0.1], "activation": ["relu", "rely"]}, {},
         "candidate 1 of space (lr=0.1, activation='rely'): activation: unknown name 'rely'"),
        ({"momentum": [0.9]}, {}, "candidate 0 of space (momentum=0.9): momentum: Adam has no such argument"),
        ({"hidden": [(3,), (0,)]}, {}, "candidate 1 of space (hidden=(0,)): hidden must be at least 1"),
        ({"hidden": ["wide"]}, {}, "hidden must be a tuple of widths"),
        ({"hidden": [(3,)]}, {"sizes": (3, 2, 1)}, "hidden and sizes"),
        ({"batch_size": [8, 0]}, {}, "candidate 1 of space (batch_size=0), fold 0: batch_size must be at least 1"),
        ({"optimizer": ["adam", "adamm"]}, {}, "candidate 1 of space (optimizer='adamm'), fold 0: optimizer"),
        ({"lr": [0.1]}, {"rows": [1]}, "rows: sweep says that itself"),
        ({"lr": [0.1]}, {"nets": [1]}, "nets: sweep makes the networks"),
        ({"lr": [0.1]}, {"hiden": (3,)}, "argument of sweep: unknown name 'hiden'; did you mean 'hidden'?"),
        ({"lr": [0.1]}, {"halfing": 3}, "argument of sweep: unknown name 'halfing'; did you mean 'halving'?"),
        ({"lr": [0.1]}, {"n_jobs": 2}, "argument of sweep: unknown name 'n_jobs'; did you mean 'n_threads'?"),
        ({"lr": [0.1]}, {"random_state": 2}, "argument of sweep: unknown name 'random_state'; did you mean 'seed'?"),
        ({"lr": [0.1]}, {"cv": None}, "metric: 'val_loss' needs rows to measure on; give cv=5"),
        ({"lr": [0.1]}, {"validation_data": HELD}, "give at most one of validation_data and cv"),
        ({"lr": [0.1]}, {"cv": 1}, "cv must be at least 2"),
        ({"lr": [0.1]}, {"cv": 61}, "cv: 61 folds of 60 rows"),
        ({"lr": [0.1]}, {"cv": "five"}, "cv must be a number of folds, a splitter"),
        ({"lr": [0.1]}, {"cv": []}, "cv holds no fold"),
        ({"lr": [0.1]}, {"cv": [(np.arange(3), np.array([60]))]}, "cv: held rows of fold 0"),
        ({"lr": [0.1]}, {"metric": "accuracy"}, "metric: 'accuracy' is measured on the held rows, and is called"),
        ({"lr": [0.1]}, {"metric": "val_acuracy"}, "did you mean 'val_accuracy'"),
        ({"lr": [0.1]}, {"metric": "val_f", "metrics": [lambda y_true, y_pred: 0.0]}, "metric: unknown name"),
        ({"loss": ["mse", "mae"]}, {}, "of different losses"),
        ({"lr": [0.1]}, {"halving": 1}, "halving must be"),
        ({"epochs": [1, 2]}, {"halving": 2, "epochs": None}, "halving: epochs is a key of space"),
        ({"lr": [0.1]}, {"halving": 2, "epochs": None, "steps": 5}, "halving counts epochs"),
        ({"optimizer": ["lbfgs"]}, {"halving": 2}, "L-BFGS begins anew"),
        ({"lr": [0.1]}, {"epochs": None}, "give exactly one of epochs and steps"),
        ({"lr": [0.1]}, {"refit": "yes"}, "refit must be True or False"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_before_any_work(space, more, words, monkeypatch):
    from fastbp.many import fit

    monkeypatch.setattr(fit._Call, "run", lambda *arguments: pytest.fail("something was trained"))
    named = {"cv": 3, "epochs": 2, **more}
    named = {name: value for name, value in named.items() if not (name in space and value is None)}
    with pytest.raises((TypeError, ValueError)) as found:
        sweep(space, X, Y, **named)
    assert words in str(found.value)


def test_a_metric_of_one_s_own_needs_a_side():
    def off(y_true, y_pred):
        return 0.0

    with pytest.raises(ValueError, match="mode must be 'min' or 'max' for metric='val_off'"):
        sweep({"lr": [0.1]}, X, Y, cv=3, metric="val_off", metrics=[off], **QUICK)


def test_without_scipy_sobol_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r"pip install 'fastbp\[scipy\]'"):
        sweep({"lr": [0.1, 0.2]}, X, Y, n=2, method="sobol", metric="loss", **QUICK)


def test_no_name_is_an_argument_of_two():
    assert not {*spaces.OF_NETWORKS} & {*spaces.OF_OPTIMIZERS} and not {*spaces.OF_EACH} & {*spaces.OF_OPTIMIZERS}
    assert not {*spaces.OF_ALL} & {*spaces.KEYS} and {"lr", "betas", "l1"} <= {*spaces.OF_OPTIMIZERS}
