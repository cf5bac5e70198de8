"""In lanes: whoever is beside a network changes no bit of it, and what comes out is nearly what `fit` gives."""

import copy
import dataclasses
import os
import signal
import sys
import threading

import numpy as np
import pytest
from conftest import ISAS, frozen
from tolerance import assert_close

import fastbp
from fastbp import EarlyStopping, fit_many

pytestmark = pytest.mark.skipif(not {"avx2", "avx512"} & {*ISAS}, reason="there are lanes on AVX2 and AVX-512 alone")

N = 50
RNG = np.random.default_rng(7)
X = RNG.normal(size=(N, 3)).astype(np.float32)
Y = np.tanh(X.sum(axis=1))
BY = np.arange(N) % 5


def made(n, sizes=(3, 5, 1), **more):
    return [fastbp.MLP(sizes, **{"seed": k, "activation": "tanh", **more}) for k in range(n)]


def state(net):
    return frozen(net.__getstate__())


def lanes(nets, *arguments, **more):
    history = fit_many(nets, *arguments, lanes=True, **more)
    assert set(history.kernel) == {"lanes"}
    return history


def roundings(steps):
    """On the way of a parameter: some in each step."""
    return 3 * steps


def assert_near(net, other, steps):
    """Two networks after the same steps; all but rounding is the same."""
    mine, its = net.__getstate__(), other.__getstate__()
    k = roundings(steps)
    assert_close(mine.pop("params"), its["params"], net.dtype, k, what="params")
    mine, its = mine["state"], its["state"]
    for name, slot in mine.pop("slots").items():
        assert_close(slot, its["slots"][name], net.dtype, k, max(1e-30, abs(its["slots"][name]).max()), what=name)
    del its["slots"]
    assert frozen(mine) == frozen(its)  # step, epoch, place, seed, shape, family, updates
    assert net._state.loss is other._state.loss and net._state.link == other._state.link


KINDS = [
    ("mse", "adam", {}, {}), ("mse", fastbp.SGD(0.1), {"activation": "relu"}, {}),
    ("half_squared_error", fastbp.SGD(0.05, momentum=0.9), {"activation": "identity"}, {}),
    ("mae", "rmsprop", {"bias": False}, {}), (fastbp.losses.huber(delta=0.5), "lion", {"activation": "gelu"}, {}),
    ("mse", fastbp.AdamW(fastbp.schedules.Cosine(0.05, 20), weight_decay=0.1), {"sizes": (3, 9, 4, 1)}, {}),
    ("log_cosh", "adam", {"dtype": "float64", "activation": ["relu", "silu"], "sizes": (3, 17, 2, 1)}, {}),
    ("mse", fastbp.SGD(0.1), {}, {"sample_weight": np.linspace(0, 2, N)}),
    (fastbp.losses.mse(output_weights=[3.0]), fastbp.SGD(0.05), {"activation": "relu"}, {}),
    ("mse", "adam", {}, {"shuffle": False}), ("mse", "adam", {}, {"seed": 5}),
]  # fmt: skip


@pytest.mark.parametrize("loss, rule, of_net, more", KINDS)
@pytest.mark.parametrize("data", ["shared", "by", "own"])
def test_what_comes_out_is_what_fit_gives(loss, rule, of_net, more, data):
    nets, alone = made(5, **of_net), made(5, **of_net)
    run = {"loss": loss, "optimizer": rule, "batch_size": 8, "steps": 17}
    rows = [np.flatnonzero(BY == k) for k in range(5)]
    weight = more.get("sample_weight")
    weight_of = lambda k: {} if weight is None else {"sample_weight": weight[rows[k]]}  # noqa: E731
    if data == "shared":
        history = lanes(nets, X, Y, **run, **more)
    elif data == "by":
        history = lanes(nets, X, Y, by=BY, **run, **more)
    else:
        own = {} if weight is None else {"sample_weight": [weight[one] for one in rows]}
        history = lanes(nets, [X[one] for one in rows], [Y[one] for one in rows], **run, **{**more, **own})
    for k, net in enumerate(alone):
        here = {**more, **weight_of(k)}
        told = net.fit(X, Y, **run, **more) if data == "shared" else net.fit(X[rows[k]], Y[rows[k]], **run, **here)
        n = len(told.loss)
        assert history.n_entries[k] == n and history.step[k, :n].tolist() == told.step.tolist()
        assert_close(history.loss[k, :n], told.loss, net.dtype, roundings(17), max(1, told.loss.max()), what="loss")
        assert_near(nets[k], net, 17)
    assert history.n_steps.tolist() == [17] * 5
    for net, other in zip(nets, alone):  # a later fit goes on from here
        net.fit(X, Y, steps=3, loss=loss, optimizer=rule, batch_size=8)
        other.fit(X, Y, steps=3, loss=loss, optimizer=rule, batch_size=8)
        assert_near(net, other, 20)


@pytest.mark.parametrize("loss, out", [("softmax_cross_entropy", 3), ("binary_cross_entropy", 1), ("gaussian_nll", 2)])
def test_losses_of_other_shapes(loss, out):
    labels = (np.arange(N) % 3) if loss == "softmax_cross_entropy" else (Y > 0).astype(np.float32)
    nets, alone = made(7, (3, 6, out)), made(7, (3, 6, out))
    more = {"loss": loss, "steps": 12, "batch_size": 16, "validation_data": (X[:20], labels[:20])}
    more["metrics"] = [] if loss == "gaussian_nll" else ["accuracy"]
    history = lanes(nets, X, labels, **more)
    for k, (net, other) in enumerate(zip(nets, alone)):
        told = other.fit(X, labels, **more)
        assert_near(net, other, 12)
        assert_close(history.val_loss[k], told.val_loss, net.dtype, roundings(12), 2, what="val_loss")
        if more["metrics"]:
            assert abs(history.metrics["val_accuracy"][k] - told.metrics["val_accuracy"]).max() <= 1 / 20
    if loss != "gaussian_nll":
        assert (nets[0].predict_proba(X) >= 0).all()


def trained(order, n_threads=1, most=None, monkeypatch=None, only=None, **more):
    """Networks 0, 1, ... of one kind, of which some are trained; by number what each became, and its entries."""
    if most is not None:
        from fastbp.many import cohorts

        monkeypatch.setattr(cohorts, "_MOST", most)
    nets = made(34)
    rules = [fastbp.Adam(0.001 * (1 + k)) for k in range(34)]
    more = {name: [value[k] for k in order] if isinstance(value, list) else value for name, value in more.items()}
    history = lanes([nets[k] for k in order], X, Y, optimizer=[rules[k] for k in order], batch_size=8,
                    n_threads=n_threads, validation_data=(X[:9], Y[:9]), **{"epochs": 3, **more})  # fmt: skip
    found = {}
    for row, k in enumerate(order):
        n = history.n_entries[row]
        found[k] = state(nets[k]), history.loss[row, :n].tobytes(), history.val_loss[row, :n].tobytes()
    return found


@pytest.mark.parametrize("more", [
    {}, {"seed": 3}, {"epochs": [1 + k % 4 for k in range(34)]}, {"steps": [1 + k for k in range(34)], "epochs": None},
    {"rows": [np.arange(k % 9, N - k) for k in range(34)]},
    {"sample_weight": [np.linspace(k, 9, N) for k in range(34)]},
    {"early_stopping": [EarlyStopping(patience=1 + k % 2, min_delta=0.01) for k in range(34)], "epochs": 6},
])  # fmt: skip
def test_no_bit_depends_on_who_is_beside(more, monkeypatch):
    whole = trained(range(34), **more)
    assert trained(range(34)[::-1], **more) == whole
    for size in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33):
        some = RNG.permutation(34)[:size].tolist()
        assert trained(some, **more).items() <= whole.items()
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    assert trained(range(34), n_threads=3, **more) == whole
    assert trained(range(34), most=5, monkeypatch=monkeypatch, **more) == whole


def test_no_bit_depends_on_how_rows_lie():
    whole = made(5)
    lanes(whole, X, Y, by=BY, epochs=2, batch_size=8)
    apart = np.zeros((3 * N, 7), np.float64)
    apart[::3, ::3] = X
    for rows in (X.astype(np.float64), np.asfortranarray(X), apart[::3, ::3], X[::-1, ::-1].copy()[::-1, ::-1],
                 X.astype(">f4"), X.tolist()):  # fmt: skip
        nets = made(5)
        lanes(nets, rows, Y.astype(np.float64), by=BY, epochs=2, batch_size=8)
        assert [*map(state, nets)] == [*map(state, whole)]


def test_parts_of_a_run_are_the_whole():
    """Whatever the calls, the chunks and the epochs that there is room for."""
    nets, parts = made(9), made(9)
    lanes(nets, X, Y, steps=40, batch_size=8)
    for steps in (3, 4, 1, 32):
        lanes(parts, X, Y, steps=steps, batch_size=8)
    assert [state(net) for net in nets] == [state(net) for net in parts]


def test_a_run_longer_than_there_is_room_for(monkeypatch):
    from fastbp.many import cohorts

    whole, told = made(5), made(5)
    history = lanes(whole, X, Y, epochs=[30, 10, 30, 29, 1], validation_data=(X, Y))
    monkeypatch.setattr(cohorts, "_EPOCHS", 4)
    again = lanes(told, X, Y, epochs=[30, 10, 30, 29, 1], validation_data=(X, Y))
    assert frozen(history.loss) == frozen(again.loss) and frozen(history.val_loss) == frozen(again.val_loss)
    assert frozen(history.step) == frozen(again.step) and [*map(state, whole)] == [*map(state, told)]
    assert history.n_entries.tolist() == [30, 10, 30, 29, 1]


def test_early_stops_at_every_moment():
    def stops():
        settings = [(1 + k // 3, 0.001 + 0.002 * (k % 3), k % 2 == 0) for k in range(18)]
        return [EarlyStopping(patience=n, min_delta=delta, restore_best=best) for n, delta, best in settings]

    run = {"epochs": 25, "batch_size": 10, "optimizer": fastbp.Adam(0.03), "validation_data": (X[:15], Y[:15])}
    nets, alone = made(18), made(18)
    history = lanes(nets, X[15:], Y[15:], early_stopping=stops(), **run)
    ends = set()
    for k, (net, stop) in enumerate(zip(alone, stops())):
        told = net.fit(X[15:], Y[15:], callbacks=[stop], **run)
        n = len(told.loss)
        ends.add(n)
        assert history.n_entries[k] == n and history.n_steps[k] == told.n_steps
        assert history.status[k] == ("done" if told.stopped is None else "stopped")
        assert history.best_step[k] == stop.best_step and nets[k].step == net.step
        assert_close(history.best_value[k], stop.best, net.dtype, roundings(100), 1, what="best value")
        assert_near(nets[k], net, 100)
    assert len(ends) > 4 and "stopped" in history.status


def test_what_is_measured_is_measured_as_by_fit():
    def largest(y_true, y_pred):
        return abs(y_true - y_pred).max()

    for more in ({"eval_every": 3}, {"validation_split": 0.3, "seed": 1},
                 {"by": BY, "validation_split": 0.4, "seed": 1},
                 {"eval_every": 4, "validation_data": (X[:9], Y[:9], np.linspace(1, 2, 9))}):  # fmt: skip
        nets, alone = made(5), made(5)
        history = lanes(nets, X, Y, steps=14, batch_size=8, metrics=["r2", largest], **more)
        for k, net in enumerate(alone):
            rows = BY == k if "by" in more else slice(None)
            here = {name: value for name, value in more.items() if name != "by"}
            told = net.fit(X[rows], Y[rows], steps=14, batch_size=8, metrics=["r2", largest], **here)
            n = history.n_entries[k]
            assert history.step[k, :n].tolist() == told.step.tolist() and len(told.columns) == 1 + len(history.columns)
            for name, column in {"loss": told.loss, **told.columns}.items():
                if name != "lr":
                    got = history.loss if name == "loss" else history.columns[name]
                    assert_close(got[k, :n], column, np.float32, roundings(14), max(1, abs(column).max()), what=name)


def test_a_network_that_diverges_ends_alone():
    for data in ({}, {"rows": [np.arange(k, N) for k in range(20)]}):
        nets, calm = made(20, activation="identity"), made(20, activation="identity")
        rates = [0.01] * 20
        history = lanes(calm, X, Y, optimizer=[fastbp.SGD(rate) for rate in rates], epochs=9, **data)
        wild = {3: 1e30, 4: 3.0, 11: 50.0}
        rules = [fastbp.SGD(wild.get(k, 0.01)) for k in range(20)]
        history = lanes(nets, X, Y, optimizer=rules, epochs=9, **data)
        assert [k for k in range(20) if history.status[k] == "nonfinite"] == sorted(wild) == list(history.errors)
        for k in range(20):
            if k not in wild:
                assert state(nets[k]) == state(calm[k])
                continue
            alone = made(20, activation="identity")[k]
            rows = data["rows"][k] if data else slice(None)
            with pytest.raises(fastbp.NonFiniteError) as caught:
                alone.fit(X[rows], Y[rows], optimizer=rules[k], epochs=9)
            error = history.errors[k]
            assert abs(error.step - caught.value.step) <= 1 and "non-finite in the step after" in str(error)
            assert nets[k].step == error.step == history.n_steps[k] and np.isfinite(nets[k].flatten()).all()
            assert history.n_entries[k] == nets[k].epoch


def test_parameters_and_rows_that_are_not_finite():
    nets, others = made(6), made(6)
    nets[2].weights[0][0, 0] = np.nan
    before = state(nets[2])
    history = lanes(nets, X, Y, epochs=2)
    lanes(others, X, Y, epochs=2)
    assert state(nets[2]) == before and "no step of this run made it so" in str(history.errors[2])
    assert [*map(state, nets[3:])] == [*map(state, others[3:])]
    wrong = X.copy()
    wrong[7, 1] = np.inf
    nets = made(6)
    history = lanes(nets, wrong, Y, rows=[np.delete(np.arange(N), 7)] * 5 + [np.arange(5, 9)], epochs=2)
    assert history.status.tolist() == ["done"] * 5 + ["nonfinite"]
    assert "X holds inf at row 7, column 1" in str(history.errors[5]) and nets[5].step == 0
    nets = made(6, activation="identity")
    history = lanes(nets, X, Y, validation_data=(wrong, Y), epochs=2)
    assert set(history.status) == {"nonfinite"} and "validation_data: X holds inf at row 7" in str(history.errors[0])
    history = lanes(nets, wrong, Y, epochs=2, nonfinite="ignore")
    assert set(history.status) == {"done"} and not np.isfinite(nets[0].flatten()).all()


def test_a_metric_that_fails_for_one():
    calls = []

    def picky(y_true, y_pred):
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("the third")
        return 0.0

    nets, others = made(5), made(5)
    history = lanes(nets, X, Y, epochs=2, metrics=[picky])
    lanes(others, X, Y, epochs=2)
    assert history.status.tolist().count("failed") == 1
    fine = np.flatnonzero(history.status == "done")
    assert [state(nets[k]) for k in fine] == [state(others[k]) for k in fine]


def test_a_schedule_that_fails_for_one():
    for first in (0, 1):
        nets, others = made(5), made(5)
        rules = ["adam", "adam", fastbp.Adam(Negative(first)), "adam", "adam"]
        history = lanes(nets, X, Y, epochs=2, optimizer=rules, batch_size=50)
        assert history.status.tolist() == ["done", "done", "failed", "done", "done"]
        assert "negative or not finite" in str(history.errors[2]) and nets[2].step == 0
        lanes(others, X, Y, epochs=2, batch_size=50)
        assert [*map(state, nets[:2])] == [*map(state, others[:2])] and state(nets[2]) == state(made(5)[2])


@dataclasses.dataclass(eq=False, repr=False)
class Negative(fastbp.schedules.Schedule):
    """From a step on."""

    first: int

    def at(self, steps):
        return np.where(steps < self.first, 1.0, -1.0)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no os.kill of SIGINT")
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("how", ["time", "ctrl-c"])
def test_an_end_at_any_moment_is_a_finished_step(how, n_threads):
    nets = made(40)
    if how == "time":
        history = lanes(nets, X, Y, epochs=10**9, batch_size=8, time_limit=0.5, n_threads=n_threads)
    else:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt) as caught:
            lanes(nets, X, Y, epochs=10**9, batch_size=8, n_threads=n_threads)
        history = caught.value.history
    assert set(history.status) == {"stopped" if how == "time" else "interrupted"}
    steps = [net.step for net in nets]
    assert history.n_steps.tolist() == steps and min(steps) > 0
    others = made(40)
    lanes(others, X, Y, steps=steps, batch_size=8)
    assert [*map(state, nets)] == [*map(state, others)]
    assert np.isfinite(history.loss[:, -1]).any() and not any(net._training.locked() for net in nets)


def test_auto_never_looks_at_how_many_there_are():
    def kernels(n):
        return set(fit_many(made(n, (2, 3, 1)), X[:, :2], Y, epochs=1, batch_size=8).kernel)

    assert kernels(1) == kernels(2) == kernels(40)
    big = [fastbp.MLP((3, 200, 200, 1), seed=k) for k in range(2)]
    assert set(fit_many(big, X, Y, epochs=1).kernel) == {"one by one"}
    assert set(fit_many(made(3), X, Y, epochs=1, lanes=False).kernel) == {"one by one"}


def test_a_network_leaves_little_behind():
    import tracemalloc

    nets = made(4000, (2, 3, 1))
    run = {"optimizer": fastbp.SGD(0.1), "epochs": 1, "by": np.arange(2 * len(nets)) % len(nets)}
    rows, targets = RNG.normal(size=(8000, 2)).astype(np.float32), np.ones(8000, np.float32)
    lanes(nets[:5], X[:, :2], Y, optimizer=run["optimizer"], epochs=1)
    tracemalloc.start()
    try:
        history = lanes(nets, rows, targets, **run)
        left, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(history) == 4000 and left < 500 * len(nets) and most < 1000 * len(nets)


def test_kinds_are_sorted_out():
    nets = [fastbp.MLP((3, 4 + k % 2, 1), seed=k, dtype=["float32", "float64"][k // 2 % 2]) for k in range(30)]
    others = copy.deepcopy(nets)
    lanes(nets, X, Y, epochs=2, loss=["mse", "mse", "mae"] * 10)
    for k, net in enumerate(others):
        lanes([net], X, Y, epochs=2, loss=["mse", "mse", "mae"][k % 3])
    assert [*map(state, nets)] == [*map(state, others)]
