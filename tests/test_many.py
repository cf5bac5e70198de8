"""fit_many: what it is given, that each network is trained as `fit` would, and how networks end."""

import copy
import gc
import os
import pickle
import signal
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from conftest import frozen, need_extension
from side_by_side import instead_of_lanes

import fastbp
from fastbp import EarlyStopping, fit_many
from fastbp.history import ManyHistory
from fastbp.many.cohorts import Entries
from fastbp.many.given import Networks, group
from fastbp.many.told import Block, together

N = 60
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N, 3)).astype(np.float32)
Y = np.tanh(X.sum(axis=1))
BY = np.array(["b", "a", "c"])[RNG.integers(0, 3, N)]
SHAPES = (3, 1), (3, 5, 1), (3, 20, 4, 1)


@pytest.fixture(autouse=True, params=["one by one", "side by side"])
def way(request, monkeypatch):
    """The two ways of `fit_many`; where networks are side by side they are trained by a stand-in with the same bits."""
    if request.param == "one by one":
        from fastbp.many import cohorts

        monkeypatch.setattr(cohorts, "serves_lanes", lambda *arguments: False)
    else:
        need_extension()
        instead_of_lanes(monkeypatch)
    return request.param


def made(shapes=SHAPES, **more):
    return [fastbp.MLP(shape, seed=k, **more) for k, shape in enumerate(shapes)]


def state(net):
    """All that training moves on, as one value to compare bit for bit."""
    return frozen(net.__getstate__())


def same(nets, others):
    return [state(net) for net in nets] == [state(net) for net in others]


def assert_as_fit(history, k, told):
    """Row k of a ManyHistory is what `fit` told."""
    n = len(told.loss)
    assert history.n_entries[k] == n and np.isnan(history.loss[k, n:]).all() and (history.step[k, n:] == -1).all()
    assert frozen(history.loss[k, :n]) == frozen(told.loss) and frozen(history.step[k, :n]) == frozen(told.step)
    assert history.n_steps[k] == told.n_steps
    for name in told.columns.keys() - {"lr"}:
        assert frozen(history.columns[name][k, :n]) == frozen(told.columns[name])


# ------------------------------------------------------------------ as fit

EACH = {  # of three networks
    "loss": ["mse", fastbp.losses.huber(delta=0.5), "log_cosh"],
    "optimizer": [fastbp.SGD(0.1), fastbp.Adam(0.01), "rmsprop"],
    "batch_size": [7, 16, 100],
    "epochs": [3, 1, 4],
    "seed": [3, None, 2**64 - 1],
    "early_stopping": [EarlyStopping("loss", patience=1, min_delta=1.0), None, EarlyStopping("loss", patience=2)],
}


@pytest.mark.parametrize("names", [[], *([name] for name in EACH), list(EACH)], ids=lambda names: "+".join(names))
@pytest.mark.parametrize("kind", [list, tuple, lambda values: np.array(values, object), "dict"])
def test_each_argument_is_one_for_all_or_one_for_each(names, kind):
    nets, alone = made(), made()
    of = [{"epochs": 2, **{name: EACH[name][k] for name in names}} for k in range(3)]
    if kind == "dict":
        given = {name: dict(zip("zyx", EACH[name])) for name in names}
        history = fit_many(dict(zip("zyx", nets)), X, Y, **{"epochs": 2, **given})
        assert history.keys == ["z", "y", "x"]
    else:
        history = fit_many(nets, X, Y, **{"epochs": 2, **{name: kind(EACH[name]) for name in names}})
        assert history.keys is None
    for k, (net, more) in enumerate(zip(alone, of)):
        stopping = copy.copy(more.pop("early_stopping", None))
        told = net.fit(X, Y, callbacks=[stopping] if stopping else None, **more)
        assert_as_fit(history, k, told)
        assert history.status[k] == ("done" if told.stopped is None else "stopped")
    assert same(nets, alone)
    for net, other in zip(nets, alone):  # and a later fit goes on
        net.fit(X, Y, steps=5)
        other.fit(X, Y, steps=5)
    assert same(nets, alone)


def test_entries_from_the_middle_of_an_epoch_on_and_to_the_middle_of_another():
    stopping = EarlyStopping(patience=2, restore_best=False)
    more = {"batch_size": 8, "validation_data": (X[:9], Y[:9]), "optimizer": "adam"}
    nets, alone = made(), made()
    for net in (*nets, *alone):
        net.fit(X, Y, steps=net.seed + 2, batch_size=8, optimizer="sgd")  # another family: updates are counted anew
    for steps in (9, [12, 20, 21]):
        history = fit_many(nets, X, Y, steps=steps, early_stopping=stopping, **more)
        for k, net in enumerate(alone):
            own = EarlyStopping(patience=2, restore_best=False)
            own_steps = steps if isinstance(steps, int) else steps[k]
            assert_as_fit(history, k, net.fit(X, Y, steps=own_steps, callbacks=[own], **more))
            assert (history.best_value[k], history.best_step[k]) == (own.best, own.best_step)
        assert same(nets, alone)
    history = fit_many(nets, X, Y, steps=[3, 8, 11], batch_size=8)
    for k, net in enumerate(alone):
        assert_as_fit(history, k, net.fit(X, Y, steps=[3, 8, 11][k], batch_size=8))
    assert same(nets, alone)


def test_the_best_entry_may_be_that_of_an_unfinished_epoch():
    nets, alone = made(), made()
    own = [EarlyStopping("loss", patience=9) for _ in nets]
    history = fit_many(nets, X, Y, steps=20, batch_size=8, early_stopping=own[0], optimizer=fastbp.SGD(0.01))
    for k, net in enumerate(alone):
        net.fit(X, Y, steps=20, batch_size=8, callbacks=[own[k]], optimizer=fastbp.SGD(0.01))
        assert history.best_step[k] == own[k].best_step and history.best_value[k] == own[k].best
    assert same(nets, alone) and 20 in history.best_step


def test_steps_and_a_place_within_an_epoch():
    nets, alone = made(), made()
    for _ in range(2):
        fit_many(nets, X, Y, steps=[3, 7, 0], batch_size=16)
        for net, steps in zip(alone, (3, 7, 0)):
            net.fit(X, Y, steps=steps, batch_size=16)
        assert same(nets, alone)
    assert [net.step for net in nets] == [6, 14, 0]


def weights(n):
    return np.linspace(0.1, 2, n)


FORMS = {  # what fit_many gets -> (X, y, more) of `fit` for network k
    "shared": ({}, lambda k: (X, Y, {})),
    "lists of lists": ({"X": X.tolist(), "y": Y.tolist()}, lambda k: (X, Y, {})),
    "own": ({"X": [X[k::3] for k in range(3)], "y": [Y[k::3] for k in range(3)]}, lambda k: (X[k::3], Y[k::3], {})),
    "own, one array": ({"X": X.reshape(3, 20, 3), "y": Y.reshape(3, 20)},
                       lambda k: (X[20 * k : 20 * k + 20], Y[20 * k : 20 * k + 20], {})),
    "by": ({"by": BY}, lambda k: (X[BY == "abc"[k]], Y[BY == "abc"[k]], {})),
    "rows": ({"rows": [np.arange(9), [3, 3, 50], np.arange(N)[::-1]]},
             lambda k: ([X[:9], X[[3, 3, 50]], X[::-1]][k], [Y[:9], Y[[3, 3, 50]], Y[::-1]][k], {})),
    "weights": ({"sample_weight": weights(N)}, lambda k: (X, Y, {"sample_weight": weights(N)})),
    "weights of each": ({"sample_weight": [weights(N), None, np.ones(N)]},
                        lambda k: (X, Y, {"sample_weight": [weights(N), None, np.ones(N)][k]})),
    "by, weights": ({"by": BY, "sample_weight": weights(N)},
                    lambda k: (X[BY == "abc"[k]], Y[BY == "abc"[k]], {"sample_weight": weights(N)[BY == "abc"[k]]})),
    "validation": ({"validation_data": (X[:9], Y[:9])}, lambda k: (X, Y, {"validation_data": (X[:9], Y[:9])})),
    "validation of each": ({"validation_data": [(X[k : k + 9], Y[k : k + 9]) for k in range(3)]},
                           lambda k: (X, Y, {"validation_data": (X[k : k + 9], Y[k : k + 9])})),
    "validation rows": ({"validation_rows": np.arange(5, 15)},
                        lambda k: (np.delete(X, np.s_[5:15], 0), np.delete(Y, np.s_[5:15]),
                                   {"validation_data": (X[5:15], Y[5:15])})),
    "folds": ({"rows": [np.delete(np.arange(N), np.s_[k::3]) for k in range(3)],
               "validation_rows": [np.arange(k, N, 3) for k in range(3)]},
              lambda k: (np.delete(X, np.s_[k::3], 0), np.delete(Y, np.s_[k::3]),
                         {"validation_data": (X[k::3], Y[k::3])})),
    "validation split": ({"validation_split": 0.25, "seed": 4},
                         lambda k: (X, Y, {"validation_split": 0.25, "seed": 4})),
    "by, validation split": ({"by": BY, "validation_split": 0.25, "seed": 4},
                             lambda k: (X[BY == "abc"[k]], Y[BY == "abc"[k]], {"validation_split": 0.25, "seed": 4})),
    "every": ({"eval_every": 3}, lambda k: (X, Y, {"eval_every": 3})),
    "in order": ({"shuffle": False}, lambda k: (X, Y, {"shuffle": False})),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_threads, metrics", [(1, ()), (1, ["r2"]), (2, ["r2"])])
def test_every_form_of_data_is_that_of_fit(form, n_threads, metrics, monkeypatch, way):
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    given, of_fit = FORMS[form]
    nets, alone = made(), made()
    common = {"epochs": 3, "batch_size": 8, "metrics": metrics}
    history = fit_many(nets, given.get("X", X), given.get("y", Y), n_threads=n_threads, **common,
                       **{name: value for name, value in given.items() if name not in "Xy"})  # fmt: skip
    for k, net in enumerate(alone):
        rows, targets, more = of_fit(k)
        assert_as_fit(history, k, net.fit(rows, targets, **common, **more))
    assert same(nets, alone)
    assert history.keys == (["a", "b", "c"] if "by" in given else None)
    assert set(history.status) == {"done"} and not history.errors and history.seconds > 0
    assert set(history.kernel) == {"one by one" if way == "one by one" else "lanes"}


def test_networks_of_one_kind_differ_in_what_was_asked_for_each():
    """What is checked once for all that ask for the same is not taken for what another asks for."""
    more = {
        "sample_weight": [None, weights(N), None, weights(N)[::-1]], "loss": ["mse", "mse", "huber", "huber"],
        "batch_size": [8, np.int64(8), 16, 8], "seed": [None, 3, 3, 4],
        "optimizer": [fastbp.Adam(0.01), fastbp.Adam(0.02), "adam", fastbp.Adam(0.01, betas=(0.5, 0.9))],
        "validation_data": [None, (X[:9], Y[:9]), (X[9:], Y[9:]), None],
        "early_stopping": [None, EarlyStopping(patience=1), EarlyStopping("loss", patience=1, min_delta=1.0), None],
    }  # fmt: skip
    for names in (*([name] for name in more), list(more)):
        nets, alone = made(SHAPES[1:2] * 4), made(SHAPES[1:2] * 4)
        if names == ["early_stopping"]:
            names = ["early_stopping", "validation_data"]
        given = {name: more[name] for name in names}
        history = fit_many(nets, X, Y, epochs=4, **given)
        for k, net in enumerate(alone):
            own = {name: values[k] for name, values in given.items()}
            stopping = copy.copy(own.pop("early_stopping", None))
            assert_as_fit(history, k, net.fit(X, Y, epochs=4, callbacks=[stopping] if stopping else None, **own))
        assert same(nets, alone)


def test_a_rate_for_each_of_many_networks():
    rates = [0.5 ** (k % 7) / 10 for k in range(20)]
    rules = {
        "sgd": [fastbp.SGD(rate, weight_decay=rate / 9) for rate in rates],
        "adam": [fastbp.Adam(rate) if k % 3 else fastbp.AdamW(rate, weight_decay=rate) for k, rate in enumerate(rates)],
    }
    for of_each in rules.values():
        nets, alone = made(SHAPES[:2] * 10), made(SHAPES[:2] * 10)
        for epochs in (3, 2):
            history = fit_many(nets, X, Y, optimizer=of_each, epochs=epochs)
            for k, (net, rule) in enumerate(zip(alone, of_each)):
                assert_as_fit(history, k, net.fit(X, Y, optimizer=rule, epochs=epochs))
        assert same(nets, alone)


def test_what_is_wrong_with_one_of_many_rules_is_said_of_its_network():
    rules = [fastbp.Adam(0.1), fastbp.Adam(0.2), fastbp.Adam(0.3, lr_scale=(1, 2, 3)), fastbp.Adam(0.4)]
    with pytest.raises(ValueError, match=r"nets\[2\]: Adam: lr_scale holds 3 factors for 2 layer"):
        fit_many(made(SHAPES[1:2] * 4), X, Y, optimizer=rules, epochs=1)


def test_slots_of_small_networks_share_memory_of_a_few():
    nets = made(SHAPES[1:2] * 300)
    fit_many(nets, X, Y, steps=1)
    slots = [slot for net in nets for slot in net._state.slots.values()]
    at = sorted((slot.__array_interface__["data"][0], slot.nbytes) for slot in slots)
    assert len(at) == 600 and all(start % 64 == 0 for start, _ in at)
    assert all(start + size <= other for (start, size), (other, _) in zip(at, at[1:]))
    assert all(slot.base is None or slot.base.nbytes < 20_000 for slot in slots)


def test_a_kind_of_network_of_its_own(way):
    """What no lane serves."""
    def kinds():
        frozen_one = fastbp.MLP((3, 4, 1), seed=1)
        frozen_one.freeze(0)
        return [
            frozen_one, fastbp.MLP((3, 4, 1), seed=2, dropout=0.2), fastbp.MLP((3, 4, 1), seed=3, dtype="float64"),
            fastbp.MLP((3, 4, 1), seed=4, backend="reference", dtype="float16"), fastbp.MLP((3, 1), seed=5, bias=False),
            *made(),
        ]  # fmt: skip

    plateau = fastbp.SGD(fastbp.schedules.ReduceOnPlateau(0.1, patience=0, threshold=0.5))
    rules = [
        "adam", fastbp.SGD(0.1, momentum=0.9), fastbp.Adam(clip_norm=0.1), "sgd", fastbp.Adam(average=0.9),
        fastbp.SGD(0.1, accumulate=3), plateau, fastbp.Adam(fastbp.schedules.Cosine(0.1, 30)),
    ]  # fmt: skip
    nets, alone = kinds(), kinds()
    history = fit_many(nets, X, Y, optimizer=rules, epochs=6, batch_size=16)
    for k, (net, rule) in enumerate(zip(alone, rules)):
        assert_as_fit(history, k, net.fit(X, Y, optimizer=rule, epochs=6, batch_size=16))
    assert same(nets, alone)
    assert history.kernel.tolist() == [*["one by one"] * 7, "one by one" if way == "one by one" else "lanes"]


def test_sparse_rows_classes_and_their_weights():
    scipy = pytest.importorskip("scipy.sparse")
    labels = (Y > 0).astype(int)
    sparse = scipy.csr_array(np.where(abs(X) > 1, X, 0))
    nets, alone = made(((3, 2), (3, 6, 2))), made(((3, 2), (3, 6, 2)))
    more = {"loss": "softmax_cross_entropy", "class_weight": "balanced", "epochs": 3, "metrics": ["accuracy"]}
    history = fit_many(nets, sparse, labels, validation_split=0.2, seed=0, **more)
    for k, net in enumerate(alone):
        assert_as_fit(history, k, net.fit(sparse, labels, validation_split=0.2, seed=0, **more))
    assert same(nets, alone)


def test_by_lbfgs():
    pytest.importorskip("scipy")
    nets, alone = made(), made()
    history = fit_many(nets, X, Y, optimizer=["lbfgs", "adam", fastbp.LBFGS()], epochs=[4, 4, 400])
    for k, (net, rule, epochs) in enumerate(zip(alone, ["lbfgs", "adam", "lbfgs"], [4, 4, 400])):
        told = net.fit(X, Y, optimizer=rule, epochs=epochs)
        n = history.n_entries[k]
        assert frozen(history.loss[k, :n]) == frozen(told.loss) and history.status[k] == "done"
    assert same(nets, alone)


def test_a_time_limit_ends_lbfgs():
    pytest.importorskip("scipy")
    net, rows = fastbp.MLP((3, 40, 40, 1), seed=0), RNG.normal(size=(8000, 3))
    began = time.perf_counter()
    history = fit_many([net], rows, np.sin(9 * rows[:, 0]), optimizer="lbfgs", epochs=10**5, time_limit=0.2)
    assert time.perf_counter() - began < 3 and history.status.tolist() == ["stopped"]
    assert history.n_steps.tolist() == [net.step] and np.isfinite(net.flatten()).all()


def test_split_rows_do_not_depend_on_a_networks_seed():
    nets = [fastbp.MLP((3, 1), seed=seed, init="zeros") for seed in (1, 2)]
    history = fit_many(nets, X, Y, epochs=1, validation_split=0.3, optimizer=fastbp.SGD(0.0))
    assert history.val_loss[0] == history.val_loss[1]  # of the same rows
    told = fastbp.MLP((3, 1), seed=0, init="zeros").fit(X, Y, epochs=1, validation_split=0.3, optimizer=fastbp.SGD(0.0))
    assert history.val_loss[0] == told.val_loss
    other = fit_many(made(), X, Y, epochs=1, validation_split=0.3, seed=[5, 6, 7])
    more = fit_many(made(), X, Y, epochs=1, validation_split=0.3, seed=[5, 1, 2])
    assert other.val_loss[0] == more.val_loss[0]


def test_one_seed_is_one_order_for_all():
    pair = [copy.deepcopy(fastbp.MLP((3, 5, 1), seed=1)) for _ in range(2)]
    pair[1]._state.initial_seed = pair[1]._state.seed = 9
    fit_many(pair, X, Y, epochs=2)
    assert (pair[0].params != pair[1].params).any()
    pair = [copy.deepcopy(fastbp.MLP((3, 5, 1), seed=1)) for _ in range(2)]
    pair[1]._state.initial_seed = pair[1]._state.seed = 9
    fit_many(pair, X, Y, epochs=2, seed=np.random.default_rng(0))
    assert (pair[0].params == pair[1].params).all() and pair[0].seed == pair[1].seed


def test_each_network_is_what_it_is_whoever_is_beside_it():
    def trained(order, broken=()):
        nets = [fastbp.MLP(SHAPES[k % 3], seed=k) for k in range(6)]
        rules = [fastbp.SGD(1e30 if k in broken else 0.01) for k in range(6)]
        fit_many([nets[k] for k in order], X, Y, optimizer=[rules[k] for k in order], epochs=3, n_threads=2)
        return {k: state(nets[k]) for k in order if k not in broken}

    whole = trained(range(6))
    assert trained([5, 0, 3]).items() <= whole.items()
    assert trained(range(6)[::-1]) == whole
    assert trained(range(6), broken=(1, 4)).items() <= whole.items()


def test_rows_and_keys_from_a_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"]).astype({"a": "float64"})
    frame = frame.assign(y=Y, key=pandas.Categorical(BY))
    for column in (frame.key, frame.key.astype("string"), frame.key.astype(object)):
        nets, others = made(), made()
        history = fit_many(nets, frame[["a", "b", "c"]], frame.y, by=column, epochs=2)
        assert history.keys == ["a", "b", "c"]
        fit_many(others, X, Y, by=BY, epochs=2)
        assert same(nets, others)
    frame["key"] = frame.key.astype("string").where(frame.index != 4)  # NA
    with pytest.raises(ValueError, match="by has no key at row 4, got <NA>"):
        fit_many(made(), X, Y, by=frame.key, epochs=1)


@pytest.mark.parametrize("keys", [
    [3, 1, 2, 1, 3, 3], [-128, 127, 0, -128], [1, 1, 2, 5], [70_000, 3, 65_539, 3, 70_000], [-5, 1 << 62, -5],
    [(1 << 63) + 5, 1 << 63, (1 << 63) + 5], ["b", "a", "b"], [2.5, -1.0, 2.5],
], ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", [None, np.int8, np.int64, np.uint64, object])
def test_rows_of_each_key_in_their_order(keys, dtype):
    try:
        by = np.array(keys, dtype)
    except (ValueError, OverflowError, TypeError):
        pytest.skip("no keys of this dtype")
    if by.tolist() != keys:
        pytest.skip("other keys in this dtype")
    found = group(by, len(by), Networks([fastbp.MLP([1, 1]) for _ in set(keys)]))
    assert found.keys == sorted(set(keys))
    assert [rows.tolist() for rows in found.rows] == [[i for i, one in enumerate(keys) if one == key]
                                                      for key in found.keys]  # fmt: skip



def test_rows_of_a_large_array_are_not_copied_as_a_whole():
    import tracemalloc

    rows = np.zeros((100_000, 40), np.float32)
    keys = np.arange(len(rows)) % 50
    nets = [fastbp.MLP((40, 1), seed=k) for k in range(50)]
    tracemalloc.start()
    try:
        fit_many(nets, rows, rows[:, 0], by=keys, steps=1, n_threads=1)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < rows.nbytes / 2  # to sort the keys takes some memory, too


def test_no_circle_keeps_the_rows():
    nets = made()
    fit_many(nets, X, Y, epochs=1)
    gc.collect()
    gc.disable()
    try:
        rows, by = X.copy(), BY.copy()
        gone = weakref.ref(rows)
        fit_many(nets, rows, Y, by=by, epochs=2, validation_split=0.3, metrics=["r2"],
                 early_stopping=EarlyStopping(patience=1))  # fmt: skip
        fit_many(nets, rows, Y, optimizer=fastbp.SGD(1e30), epochs=2)
        del rows
        assert gone() is None
    finally:
        gc.enable()


def test_no_program_is_kept_for_a_network():
    nets = made()
    nets[0].fit(X, Y, steps=600)
    kept = set(nets[0]._programs._idle)
    assert kept
    fit_many(nets, X, Y, epochs=2, batch_size=7, validation_data=(X, Y), metrics=["r2"])
    assert set(nets[0]._programs._idle) == kept and not nets[1]._programs._idle and not nets[2]._programs._idle


def test_rows_that_lie_in_a_networks_parameters_are_copied():
    nets, alone = made(((5, 5, 1), (5, 5, 1))), made(((5, 5, 1), (5, 5, 1)))
    inside = nets[1].weights[0]
    given = inside.copy()
    fit_many(nets, inside, [1, 2, 3, 4, 5], epochs=4, batch_size=2)
    for net in alone:
        net.fit(given, [1, 2, 3, 4, 5], epochs=4, batch_size=2)
    assert same(nets, alone)


@pytest.mark.parametrize("keys", [
    [3, 1, 2], [1.5, -2.0, 0.0], ["x", "yy", ""], [True, False, True],
    np.array(["2024-01-02", "2023-01-01", "2025-05-05"], "M8[D]"), np.array(["b", "a", "b"], object),
])  # fmt: skip
def test_keys_of_every_kind(keys):
    keys = np.asarray(keys)
    by = keys[np.arange(N) % 3]
    unique = sorted(set(keys.tolist()))
    nets = [fastbp.MLP((3, 1), seed=k) for k in range(len(unique))]
    history = fit_many(nets, X, Y, by=by, steps=1)
    assert history.keys == unique
    named = {key: fastbp.MLP((3, 1), seed=unique.index(key)) for key in unique[::-1]}
    other = fit_many(named, X, Y, by=list(by), steps=1)
    assert other.keys == unique[::-1]
    assert [state(named[key]) for key in unique] == [state(net) for net in nets]


# ------------------------------------------------------------------ how networks end


def test_early_stopping_is_only_read():
    stopping = EarlyStopping(patience=2, min_delta=0.05)
    nets, alone = made(), made()
    more = {"epochs": 40, "validation_split": 0.3, "optimizer": fastbp.Adam(0.05), "seed": 0}
    history = fit_many(nets, X, Y, early_stopping=stopping, **more)
    assert np.isnan(stopping.best) and stopping.best_step is None and stopping._snapshot is None
    for k, net in enumerate(alone):
        own = EarlyStopping(patience=2, min_delta=0.05)
        assert_as_fit(history, k, net.fit(X, Y, callbacks=[own], **more))
        assert (history.best_value[k], history.best_step[k]) == (own.best, own.best_step)
    assert same(nets, alone)
    assert "stopped" in history.status and len(set(history.n_entries)) > 1
    assert (history.step[np.arange(3), history.n_entries - 1] > history.best_step).any()


def test_a_network_that_diverges_ends_alone():
    nets, alone = made(), made()
    rules = [fastbp.SGD(0.01), fastbp.SGD(1e15), fastbp.SGD(0.02)]
    history = fit_many(nets, X, Y, optimizer=rules, epochs=3)
    assert history.status.tolist() == ["done", "nonfinite", "done"]
    with pytest.raises(fastbp.NonFiniteError) as caught:
        alone[1].fit(X, Y, optimizer=rules[1], epochs=3)
    assert list(history.errors) == [1] and str(history.errors[1]) == str(caught.value)
    assert history.errors[1].step == nets[1].step == history.n_steps[1]
    assert history.errors[1].__traceback__ is None
    alone[0].fit(X, Y, optimizer=rules[0], epochs=3)
    alone[2].fit(X, Y, optimizer=rules[2], epochs=3)
    assert same(nets, alone)
    assert history.best(3).tolist() == sorted((0, 2), key=lambda k: history.loss[k, -1])


def test_a_rate_that_fails_ends_its_network_alone():
    def fails(step):
        if step >= at["step"]:
            raise KeyError("no rate")
        return 0.01

    at = {}
    for at["step"] in (0, 25):  # rates are asked for before the steps that they are for
        nets, alone = made(), made()
        history = fit_many(nets, X, Y, optimizer=["adam", fastbp.SGD(fails), "adam"], epochs=4, batch_size=6)
        assert history.status.tolist() == ["done", "failed", "done"] and isinstance(history.errors[1], KeyError)
        assert history.n_entries.tolist() == [4, 0, 4] and history.n_steps[1] == nets[1].step == 0
        for k in (0, 2):
            alone[k].fit(X, Y, epochs=4, batch_size=6)
        assert same(nets, alone)


def test_rules_of_one_row_that_need_other_plans():
    rules = [fastbp.Adam(0.01, l1=0.1), fastbp.Adam(0.01, clip_norm=0.1), fastbp.Adam(0.01), fastbp.Adam(0.02, l1=0.1)]
    nets, alone = made(SHAPES[2:] * 4), made(SHAPES[2:] * 4)
    fit_many(nets, X, Y, optimizer=rules, epochs=2, n_threads=1)
    for net, rule in zip(alone, rules):
        net.fit(X, Y, optimizer=rule, epochs=2, n_threads=1)
    assert same(nets, alone)


def test_a_network_that_makes_no_step_is_what_it_was():
    nets, alone = made(SHAPES[1:2] * 3), made(SHAPES[1:2] * 3)
    for net in (*nets, *alone):
        net.fit(X, Y, steps=3, batch_size=8, seed=4, optimizer="sgd")
    wrong = np.where(np.arange(N)[:, None] < 20, np.inf, X)
    history = fit_many(nets, [X, wrong, X], [Y, Y, Y], batch_size=60, epochs=2, seed=7, loss="huber")
    assert history.status.tolist() == ["done", "nonfinite", "done"] and history.n_steps.tolist() == [2, 0, 2]
    for k in (0, 2):
        alone[k].fit(X, Y, batch_size=60, epochs=2, seed=7, loss="huber")
    assert same(nets, alone) and [net._state.loss.name for net in nets] == ["huber", "mse", "huber"]


def test_a_network_that_diverges_late_keeps_its_entries():
    net = fastbp.MLP((3, 5, 1), seed=0)
    rate = lambda step: 0.01 if step < 40 else 1e30  # noqa: E731
    history = fit_many([net], X, Y, optimizer=fastbp.SGD(rate), batch_size=6, epochs=20, validation_data=(X, Y))
    assert history.status.tolist() == ["nonfinite"] and 40 <= net.step <= 42
    assert history.n_entries.tolist() == [4] and np.isfinite(history.loss).all() and np.isfinite(history.val_loss).all()
    assert history.step.tolist() == [[10, 20, 30, 40]]


def test_an_error_names_rows_of_the_callers_x():
    wrong = X.copy()
    wrong[37, 1] = np.inf
    rows = [np.arange(9), np.arange(30, 50), np.arange(9)]
    for more in ({}, {"validation_split": 0.2, "seed": 3}, {"sample_weight": np.ones(N)}):
        nets = made(SHAPES, activation="identity")
        history = fit_many(nets, wrong, Y, rows=rows, epochs=2, **more)
        assert history.status.tolist() == ["done", "nonfinite", "done"]
        assert "X holds inf at row 37, column 1" in str(history.errors[1])
    nets = made(SHAPES, activation="identity")
    history = fit_many(nets, wrong, Y, rows=rows[:1] * 3, validation_rows=[[1], [36, 37], [2]], epochs=2)
    assert history.status.tolist() == ["done", "nonfinite", "done"]
    assert "val_loss" in str(history.errors[1]) and "X holds inf at row 37, column 1" in str(history.errors[1])


def test_nonfinite_ignore():
    nets = made()
    history = fit_many(nets, X, Y, optimizer=fastbp.SGD(1e15), epochs=3, nonfinite="ignore")
    assert set(history.status) == {"done"} and not np.isfinite(history.loss[:, -1]).any()
    assert history.best().tolist() == []


def test_a_network_that_fails_ends_alone():
    def picky(y_true, y_pred):
        if len(y_true) == 7:
            raise KeyError("seven rows")
        return 0.5

    sizes = (5, 7, 9)
    nets, alone = made(), made()
    history = fit_many(nets, [X[:n] for n in sizes], [Y[:n] for n in sizes], epochs=3, metrics=[picky])
    assert history.status.tolist() == ["done", "failed", "done"]
    assert list(history.errors) == [1] and isinstance(history.errors[1], KeyError)
    assert any("picky" in note for note in history.errors[1].__notes__) and history.errors[1].__traceback__ is None
    assert history.n_entries.tolist() == [3, 0, 3]  # nothing was measured at the one where it failed
    assert history.columns["picky"][:, -1].tolist()[::2] == [0.5, 0.5]
    for k in (0, 2):
        alone[k].fit(X[: sizes[k]], Y[: sizes[k]], epochs=3)
    assert same(nets[::2], alone[::2])
    again = pickle.loads(pickle.dumps(history))
    assert again.errors[1].args == ("seven rows",) and frozen(again.loss) == frozen(history.loss)


def trains(net):
    return net._training.locked()


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("fastbp")]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_time_limit_ends_all_at_a_finished_step(n_threads):
    nets = made(SHAPES * 2)
    began = time.perf_counter()
    history = fit_many(nets, X, Y, epochs=10**9, batch_size=16, time_limit=0.15, n_threads=n_threads)
    assert time.perf_counter() - began < 2
    assert set(history.status) == {"stopped"} and history.n_steps.tolist() == [net.step for net in nets]
    assert not threads() and not any(map(trains, nets))
    for net, other in zip(nets, made(SHAPES * 2)):
        if net.step:
            other.fit(X, Y, steps=net.step, batch_size=16)
            assert (net.params == other.params).all()
    assert nets[1].fit(X, Y, steps=1).n_steps == 1


def test_no_time_at_all():
    nets, alone = made(), made()
    history = fit_many(nets, X, Y, epochs=3, time_limit=0)
    assert history.loss.shape == (3, 0) and set(history.status) == {"stopped"} and same(nets, alone)
    assert history.best().tolist() == [] and "3 stopped" in repr(history)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no os.kill of SIGINT")
@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.2])
@pytest.mark.parametrize("rule, n_threads", [("adam", 1), ("adam", 2), ("lbfgs", 1), ("lbfgs", 2)])
def test_ctrl_c_leaves_each_network_at_a_finished_step(seconds, rule, n_threads):
    if rule == "lbfgs":
        pytest.importorskip("scipy")
    nets = made(SHAPES + ((3, 30, 30, 1),))
    rules = [rule, *["adam"] * 3]
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        timer.start()
        fit_many(nets, X, Y, optimizer=rules, epochs=10**9, batch_size=16, n_threads=n_threads)
        timer.join()
        time.sleep(1)
    timer.join()
    assert not threads() and not any(map(trains, nets))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    history = getattr(caught.value, "history", None)
    if history is None:  # before any work
        assert seconds < 0.2 and not any(net.step for net in nets)
        return
    assert set(history.status) <= {"interrupted", "done"} and history.n_steps.tolist() == [net.step for net in nets]
    for net, other in zip(nets[1:], made(SHAPES + ((3, 30, 30, 1),))[1:]):
        if net.step:
            other.fit(X, Y, steps=net.step, batch_size=16)
            assert (net.params == other.params).all()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no os.kill of SIGINT")
@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_in_a_hurry(n_threads):
    nets = [fastbp.MLP((3, 64, 64, 1), seed=k) for k in range(4)]
    took = []

    def interrupt():
        took.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(0.3, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        fit_many(nets, X, Y, epochs=10**9, n_threads=n_threads)
    assert time.perf_counter() - took[0] < 0.25 + 0.5  # a busy machine
    assert not threads()


def test_one_thread_is_the_callers_where_nothing_can_cut_in():
    def where(**more):
        found = []

        def note(y_true, y_pred):
            found.append(threading.current_thread())
            return 0.0

        history = fit_many(made(), X, Y, epochs=1, metrics=[note], n_threads=1, **more)
        assert set(history.status) == {"done"} and len({*found}) == 1
        return found[0].name

    here = threading.main_thread().name
    assert where() == where(lanes=True) == where(time_limit=60) == here
    try:
        raise ValueError("of the caller's")
    except ValueError:
        assert where() == "fastbp fit_many"
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        assert where() == "fastbp fit_many"
    finally:
        signal.signal(signal.SIGTERM, before)
    other = []
    thread = threading.Thread(target=lambda: other.append(where()))  # into which errors may be put
    thread.start()
    thread.join()
    assert other == ["fastbp fit_many"]
    for get, put in ((sys.gettrace, sys.settrace), (sys.getprofile, sys.setprofile)):  # a debugger raises to quit
        before = get()
        put(lambda *_: None)
        try:
            assert where() == "fastbp fit_many"
        finally:
            put(before)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert where() == here and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert where() == here and before is signal.default_int_handler


def test_an_error_within_one_of_the_callers_leaves_that_alone():
    def wrong(y_true, y_pred):
        raise ValueError("of a metric")

    try:
        raise KeyError("of the caller's")
    except KeyError as error:
        history = fit_many(made(), X, Y, epochs=1, metrics=[wrong], n_threads=1)
        assert error.__traceback__ is not None
    assert set(history.status) == {"failed"} and history.errors[0].__context__ is None


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers that signal")
def test_another_signal_that_raises_cuts_nothing_short():
    class Enough(Exception):
        pass

    def enough(*_):
        raise Enough

    nets = made()
    before = signal.signal(signal.SIGALRM, enough)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Enough) as caught:
            fit_many(nets, X, Y, epochs=10**9, n_threads=1)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not threads() and not any(map(trains, nets))
    assert caught.value.history.n_steps.tolist() == [net.step for net in nets]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_ctrl_c_is_for_a_child_that_a_metric_forks_too():
    ends = []

    def forks(y_true, y_pred):
        if not ends:
            if not (child := os.fork()):
                try:
                    signal.raise_signal(signal.SIGINT)
                except KeyboardInterrupt:
                    os._exit(7)
                os._exit(0)
            ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return 0.0

    assert set(fit_many(made(), X, Y, epochs=1, metrics=[forks], n_threads=1).status) == {"done"}
    assert ends == [7]


def test_a_handler_that_a_metric_sets_stays():
    def sets(y_true, y_pred):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return 0.0

    try:
        fit_many(made(), X, Y, epochs=1, metrics=[sets], n_threads=1)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_error_that_is_no_exception_comes_out(n_threads):
    class Oops(BaseException):
        pass

    def wrong(y_true, y_pred):
        raise Oops

    nets = made()
    with pytest.raises(Oops):
        fit_many(nets, X, Y, epochs=10**8, metrics=[wrong], n_threads=n_threads)
    assert not threads() and not any(map(trains, nets))


def test_progress_counts_networks(capsys):
    pytest.importorskip("tqdm")
    fit_many(made(), X, Y, epochs=1, progress=True)
    assert "3/3" in capsys.readouterr().err


def test_the_context_of_the_caller_holds_in_the_threads(monkeypatch):
    need_extension()
    nets, alone = made(), made()
    with fastbp.backend("reference"):
        fit_many(nets, X, Y, epochs=2)
        for net in alone:
            net.fit(X, Y, epochs=2)
    assert same(nets, alone)
    fit_many(made(), X, Y, epochs=2)
    plain = made()
    for net in plain:
        net.fit(X, Y, epochs=2)
    assert not same(plain, alone)


# ------------------------------------------------------------------ what is refused, before any work

NET = fastbp.MLP((3, 1), seed=0)
WRONG = {
    "none": ({"nets": []}, ValueError, "nets holds no network"),
    "one": ({"nets": NET}, TypeError, r"nets must be a list of networks.*\[net\] is a list of one"),
    "no network": ({"nets": [NET, 3]}, TypeError, r"nets\[1\] must be an MLP, got 3"),
    "twice": ({"nets": [*made(), NET, NET]}, ValueError, r"nets\[4\] is the same network as nets\[3\]"),
    "by key, twice": ({"nets": {"a": NET, "b": NET}}, ValueError, r"nets\['b'\] is the same network as nets\['a'\]"),
    "5 optimizers": ({"optimizer": ["adam"] * 5}, ValueError, r"optimizer: 5 values for 3 network"),
    "5 of y": ({"X": [X] * 3, "y": [Y] * 5}, ValueError, r"y: 5 values for 3 network"),
    "5 rows": ({"rows": [[1]] * 5}, ValueError, r"rows: 5 values for 3 network"),
    "2 weights": ({"sample_weight": [weights(N)] * 2}, ValueError, r"sample_weight: 2 values for 3"),
    "columns": ({"nets": [*made(), fastbp.MLP((4, 1))]},
                ValueError, r"nets\[3\]: X has 3 column\(s\), the network has 4"),
    "a loss": ({"loss": ["mse", "mse", "mze"]}, ValueError, r"nets\[2\]: loss: unknown name 'mze'; did you mean 'mse'"),
    "a batch size": ({"batch_size": [1, 0, 1]}, ValueError, r"nets\[1\]: batch_size must be at least 1, got 0"),
    "a batch size that is equal to one": ({"nets": made(SHAPES[:1] * 3), "batch_size": [1, 1, True]},
                                          TypeError, r"nets\[2\]: batch_size must be an integer, got True"),
    "a seed": ({"seed": [1, -1, 2]}, ValueError, r"nets\[1\]: seed must be from 0"),
    "no length": ({"epochs": None}, ValueError, r"nets\[0\]: give exactly one of epochs and steps"),
    "two lengths": ({"steps": [None, 3, None]}, ValueError, r"nets\[1\]: give exactly one of epochs and steps"),
    "an optimizer": ({"optimizer": ["adam", 0.1, "sgd"]}, TypeError, r"nets\[1\]: optimizer must be a name or one of"),
    "rprop": ({"optimizer": "rprop"}, ValueError, r"nets\[0\]: Rprop needs all rows in a batch"),
    "a class": ({"early_stopping": EarlyStopping}, TypeError, r"early_stopping must be .*EarlyStopping\(\) makes one"),
    "yes": ({"early_stopping": True}, TypeError,
            r"as in fastbp.EarlyStopping\(patience=10\), with validation_split=0.2; got True"),
    "no validation": ({"early_stopping": EarlyStopping()},
                      ValueError, r"nets\[0\]: EarlyStopping: monitor: unknown name"),
    "a metric": ({"metrics": ["acuracy"]}, ValueError, r"metrics: unknown name 'acuracy'"),
    "NaN in y": ({"y": np.where(np.arange(N) == 7, np.nan, Y)}, ValueError, r"y\[7, 0\] = nan"),
    "an iterator": ({"X": iter([(X, Y)])}, TypeError, r"fit_many trains on arrays X and y"),
    "callbacks": ({"callbacks": []}, TypeError, r"early_stopping=fastbp.EarlyStopping\(\) stops each network early"),
    "n_jobs": ({"n_jobs": 2}, TypeError, "did you mean 'n_threads'"),
    "nonfinite": ({"nonfinite": "raise"}, ValueError, "nonfinite: unknown name 'raise'.*'ignore', 'stop'"),
    "lanes": ({"lanes": "yes"}, ValueError, "lanes: unknown name 'yes'"),
    "a limit": ({"time_limit": -1}, ValueError, "time_limit must be finite and at least 0, got -1"),
    "keys": ({"by": BY[:5]}, ValueError, r"by must hold a key for each of the 60 rows of X, got shape \(5,\)"),
    "a name": ({"by": "store"}, TypeError, r"by must be the column itself, such as df\['store'\], not its name"),
    "2 keys": ({"by": np.where(BY == "a", "b", BY)}, ValueError, r"by holds 2 different keys for 3 network\(s\)"),
    "no key": ({"by": np.where(np.arange(N) == 9, None, BY)}, ValueError, r"by has no key at row 9, got None"),
    "NaN": ({"by": np.where(np.arange(N) == 9, np.nan, np.arange(N) % 3)},
            ValueError, r"by has no key at row 9, got .*nan"),
    "NaN among objects": ({"by": np.array(["a", np.nan, "c"] * 20, object)}, ValueError, "by has no key at row 1"),
    "NaT": ({"by": np.array(["2024", "NaT"] * 30, "M8[D]")}, ValueError, r"by has no key at row 1"),
    "mixed keys": ({"by": np.array(["a", 1, 2.5] * 20, object)},
                   TypeError, "by must hold keys that can be sorted.*int, str"),
    "an unknown key": ({"nets": dict(zip("ab", made())), "by": BY},
                       ValueError, r"by holds the key 'c', for which nets"),
    "an empty group": ({"nets": dict(zip("abcd", made(SHAPES[:1] * 4))), "by": BY},
                       ValueError, r"no row of the key 'd'"),
    "a key of rows": ({"nets": dict(zip("abc", made())), "rows": {"a": [1], "b": [2]}},
                      ValueError, "rows has no entry for the key 'c'"),
    "more keys": ({"nets": dict(zip("abc", made())), "epochs": dict.fromkeys("abcd", 1)},
                  ValueError, "epochs holds the key 'd'"),
    "a dict": ({"epochs": {0: 1}}, TypeError, "epochs is a dict, and nets is a list"),
    "no rows": ({"rows": [[1], [], [2]]}, ValueError, r"rows of nets\[1\] is empty"),
    "a mask": ({"rows": [np.ones(N, bool)] * 3},
               TypeError, r"rows of nets\[0\] must be an array of numbers.*np.flatnonzero"),
    "beyond": ({"rows": [[1], [2], [N]]},
               ValueError, r"rows of nets\[2\] must be from 0 to 59, the rows of X, got .*\[0\] = 60"),
    "by and rows": ({"rows": [[1]] * 3, "by": BY}, ValueError, "at most one of by and rows"),
    "by of lists": ({"X": [X] * 3, "y": [Y] * 3, "by": BY}, ValueError, "by: X is a list"),
    "nothing left": ({"validation_rows": np.arange(N)},
                     ValueError, r"validation_rows leaves nothing to train on of nets\[0\]"),
    "none of a key": ({"by": BY, "validation_rows": np.flatnonzero(BY == "b")[:1]},
                      ValueError, r"validation_rows holds no row of nets\[0\]"),
    "two validations": ({"validation_rows": [1, 2], "validation_data": (X, Y)},
                        ValueError, "at most one of validation_data and validation_rows"),
    "a split of one": ({"rows": [[1, 2], [3], [4, 5]], "validation_split": 0.5},
                       ValueError, r"nets\[1\]: validation_split needs at least 2 rows"),
    "zero weights": ({"by": BY, "sample_weight": (BY != "b").astype(float)},
                     ValueError, r"nets\[1\]: sample_weight is zero for every row"),
    "dropout": ({"nets": [fastbp.MLP((3, 1), input_dropout=0.1)], "optimizer": "lbfgs"},
                ValueError, r"nets\[0\]: optimizer: LBFGS needs the same loss"),
    "validation of LBFGS": ({"optimizer": "lbfgs", "validation_split": 0.2},
                            ValueError, r"nets\[0\]: optimizer: LBFGS takes no validation"),
    "no such backend": ({"nets": [*made(), fastbp.MLP((3, 1), backend="cython", dtype="float16")]},
                        RuntimeError, r"nets\[3\]: backend 'cython'"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_said_before_any_work(what):
    need_extension()
    change, kind, message = WRONG[what]
    arguments = {"nets": made(), "X": X, "y": Y, "epochs": 1, **change}
    nets = arguments["nets"]
    nets = list(nets.values()) if isinstance(nets, dict) else nets if isinstance(nets, list) else [nets]
    nets = [net for net in nets if isinstance(net, fastbp.MLP)]
    before = [state(net) for net in nets]
    with pytest.raises(kind, match=message):
        fit_many(**arguments)
    assert [state(net) for net in nets] == before and not any(map(trains, nets))


def test_a_network_that_trains_elsewhere():
    nets = made()
    before = [state(net) for net in nets]
    with nets[1]._training, pytest.raises(RuntimeError, match=r"nets\[1\]: this network is training already"):
        fit_many(nets, X, Y, epochs=1)
    assert [state(net) for net in nets] == before and not any(map(trains, nets))

    class Inside(fastbp.Callback):
        def on_epoch_end(self, net, logs):
            with pytest.raises(RuntimeError, match=r"nets\['me'\]: this network is training already"):
                fit_many({"me": net}, X, Y, epochs=1)
            self.others = fit_many(nets[1:], X, Y, epochs=1)

    inside = Inside()
    nets[0].fit(X, Y, epochs=1, callbacks=[inside])
    assert set(inside.others.status) == {"done"}


def test_networks_are_locked_for_the_whole_call():
    nets, found = made(), []

    def look(y_true, y_pred):
        for net in nets:
            with pytest.raises(RuntimeError, match="training already"):
                net.fit(X, Y, epochs=1)
            found.append(net.predict(X).shape)
        return 0.0

    history = fit_many(nets, X, Y, epochs=1, metrics=[look])
    assert not history.errors and len(found) == 9 and not any(map(trains, nets))


def test_a_forward_that_is_pending_is_void():
    nets = made()
    nets[2].forward(X)
    fit_many(nets, X, Y, epochs=1)
    with pytest.raises(RuntimeError, match="no forward is pending"):
        nets[2].backward(np.ones((N, 1)))


# ------------------------------------------------------------------ keys, for whoever takes them


def by_fit(nets, by):
    fit_many(nets, X[: len(by)], Y[: len(by)], by=by, epochs=1)


def by_predict(nets, by):
    fastbp.predict_many(nets, X[: len(by)], by=by)


NO_KEY = {  # what stands for a key that is missing; None: among what else
    "None": (None, "ab"), "None among numbers": (None, (1, 2)), "NaN": (np.nan, (1.0, 2.0)),
    "NaN among text": (np.nan, "ab"),
    "NaT": (np.datetime64("NaT"), (np.datetime64("2024-01-01"), np.datetime64("2025-01-01"))),
    "pandas' NA": ("NA", "ab"), "pandas' NA among numbers": ("NA", (1, 2)), "pandas' NaT": ("NaT", "ab"),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_KEY)
@pytest.mark.parametrize("call", [by_fit, by_predict])
@pytest.mark.parametrize("kind", ["object", "as it is", "series"])
def test_a_key_that_is_missing_is_named_by_its_row(what, call, kind):
    missing, (a, b) = NO_KEY[what]
    pandas = pytest.importorskip("pandas") if isinstance(missing, str) or kind == "series" else None
    missing = getattr(pandas, missing) if isinstance(missing, str) else missing
    keys = [a, b, a, b, missing, a]
    by = np.array(keys, object) if kind == "object" else keys if kind == "as it is" else pandas.Series(keys)
    nets = made(SHAPES[:1] * 2)
    for networks in (nets, {a: nets[0], b: nets[1]}, {a: nets[0], b: nets[1], missing: made(SHAPES[:1])[0]}):
        with pytest.raises(ValueError, match=r"by has no key at row 4, got .*; leave the row out, or give it a key"):
            call(networks, by)


@pytest.mark.parametrize("call", [by_fit, by_predict])
def test_keys_that_are_there(call):
    for a, b in [("a", "b"), ("", "A"), (1, 2), (-1.5, np.inf), (False, True), ("1", "2")]:
        by = np.array([a, b, a, b, a, a], object)
        for wanted in (by, by.tolist(), np.array(by.tolist())):
            call(made(SHAPES[:1] * 2), wanted)
            call(dict(zip((b, a), made(SHAPES[:1] * 2))), wanted)
    for keys, kinds in ((["a", 1], "int, str"), ([1.5, "x"], "float, str"), (["a", b"a"], "bytes, str")):
        by = np.empty(2, object)
        by[:] = keys
        with pytest.raises(TypeError, match=f"by must hold keys that can be sorted, got several kinds: {kinds}"):
            call(made(SHAPES[:1] * 2), by)
        with pytest.raises(TypeError, match="by must hold keys that can be sorted"):
            call(made(SHAPES[:1] * 2), keys)
    with pytest.raises(ValueError, match="by holds the key 'b', for which nets has no network, at row 1"):
        call({"a": fastbp.MLP((3, 1))}, ["a", "b", "b"])
    with pytest.raises(ValueError, match="by must hold a key for each of the 2 rows of X, got shape \\(2, 1\\)"):
        call({"a": fastbp.MLP((3, 1))}, [["a"], ["a"]])


def test_networks_that_are_written_alike_are_two():
    class Key:
        def __repr__(self):
            return "key"

    nets = {Key(): fastbp.MLP((3, 1), seed=0), Key(): fastbp.MLP((3, 1), seed=1)}
    assert fastbp.predict_many(nets, X).shape == (2, N, 1) and len(fastbp.Ensemble(nets)) == 2


# ------------------------------------------------------------------ the history


def told(**more):
    loss = np.array([[3.0, 2.0, 1.0], [2.0, 0.5, np.nan], [5.0, 4.0, 3.5]])
    step = np.array([[10, 20, 30], [10, 20, -1], [10, 20, 30]])
    given = {"status": np.array(["done", "stopped", "failed"]), "kernel": np.full(3, "one by one"), "seconds": 0.5,
             "n_steps": np.array([30, 20, 30]), "errors": {2: KeyError("x")}, "best_value": np.full(3, np.nan),
             "best_step": np.full(3, -1)}  # fmt: skip
    return ManyHistory(loss, step, **{**given, **more})


def test_a_history_says_which_are_best():
    history = told()
    assert history.best(5).tolist() == [1, 0] and history.best().tolist() == [1]
    validation = np.array([[0.1, 9.0, 9.0], [0.2, 0.2, np.nan], [0.0, 0.0, 0.0]])
    assert told(columns={"val_loss": validation}).best(2).tolist() == [0, 1]
    assert told(columns={"val_loss": np.full((3, 3), np.nan)}).best(2).tolist() == []
    with pytest.raises(ValueError, match="k must be at least 1"):
        history.best(0)
    assert len(history) == 3 and history.n_entries.tolist() == [3, 2, 3]
    assert repr(history) == "ManyHistory(3 networks, 80 steps in 0.5 s: 1 done, 1 stopped, 1 failed)"
    assert np.isnan(history.val_loss).all() and history.metrics == {}


def test_a_history_is_a_frame():
    pandas = pytest.importorskip("pandas")
    history = told(columns={"val_r2": np.arange(9.0).reshape(3, 3)}, keys=["a", "b", "c"])
    frame = history.to_frame()
    assert frame.index.name == "key" and list(frame.index) == ["a", "b", "c"]
    assert list(frame.columns) == ["status", "kernel", "n_steps", "loss", "val_r2"]
    assert frame.loss.tolist() == [1.0, 0.5, 3.5] and frame.val_r2.tolist() == [2, 4, 8]
    entries = history.to_frame(entries=True)
    assert isinstance(entries.index, pandas.MultiIndex) and entries.index.names == ["key", "step"]
    assert entries.loc["b"].loss.tolist() == [2.0, 0.5] and entries.loc["b"].index.tolist() == [10, 20]
    assert told(best_value=np.array([1.0, np.nan, 2.0])).to_frame().best_value[0] == 1
    assert told().to_frame().index.name == "network"


def test_a_history_pickles_and_copies():
    history = told(columns={"val_loss": np.ones((3, 3))}, keys=[1, 2, 3])
    for again in (pickle.loads(pickle.dumps(history)), copy.deepcopy(history)):
        assert frozen(again.loss) == frozen(history.loss) and again.keys == [1, 2, 3]
        assert repr(again) == repr(history) and again.errors[2].args == ("x",)


def test_a_history_is_a_picture():
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    try:
        history = told(keys=["one", "two", "three"])
        ax = history.plot(k=2)
        assert len(ax.lines) == 5 and ax.get_xlabel() == "training step" and ax.get_ylabel() == "training loss"
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["two", "one"]
        best = ax.lines[3]
        assert best.get_xdata().tolist() == [10, 20] and best.get_ydata().tolist() == [2.0, 0.5]
        assert best.get_zorder() > ax.lines[0].get_zorder()
        assert ax.get_yscale() == "linear" and history.plot(log=True).get_yscale() == "log"
        ax = told(columns={"val_loss": np.ones((3, 3))}).plot(pyplot.figure().add_subplot())
        assert ax.get_ylabel() == "validation loss" and ax.get_legend().get_title().get_text() == "best of 3"
        for number in pyplot.get_fignums():
            pyplot.figure(number).canvas.draw()
        empty = fit_many(made(), X, Y, steps=0)
        with pytest.raises(ValueError, match="nothing to draw"):
            empty.plot()
        with pytest.raises(TypeError, match="history must be what fit_many returned"):
            fastbp.plot.many_history(fastbp.MLP((2, 1)))
        many = ManyHistory(np.ones((2000, 2)), np.tile([1, 2], (2000, 1)), np.full(2000, 2), np.full(2000, "done"),
                           np.full(2000, "lanes"), 1.0)  # fmt: skip
        assert len(many.plot().lines) == 505
    finally:
        pyplot.close("all")


@pytest.mark.parametrize("lanes", [True, False])
@pytest.mark.parametrize("length", [{"epochs": 2**63}, {"epochs": 10**400}, {"steps": 2**63 - 1}, {"steps": 2**62}])
def test_a_run_without_end_ends_at_the_time_limit(lanes, length):
    nets = [fastbp.MLP((3, 4, 1), seed=k) for k in range(3)]
    x, y = np.ones((8, 3)), np.ones(8)
    fastbp.fit_many(nets, x, y, epochs=2, lanes=lanes)
    history = fastbp.fit_many(nets, x, y, time_limit=0.2, eval_every=2**70, metrics=["mae"], lanes=lanes, **length)
    assert set(history.status) == {"stopped"} and not history.errors and (history.n_steps > 0).any()


def test_what_a_mask_hides_is_no_key_and_no_row():
    nets = [fastbp.MLP((3, 1), seed=k) for k in range(2)]
    x, y = np.ones((4, 3)), np.ones(4)
    with pytest.raises(ValueError, match="by is a masked array whose entry 1 is masked"):
        fastbp.fit_many(nets, x, y, by=np.ma.array([0, 1, 0, 1], mask=[0, 1, 0, 0]), epochs=1)
    with pytest.raises(ValueError, match=r"rows of nets\[0\] is a masked array"):
        fastbp.fit_many(nets, x, y, rows=[np.ma.array([0, 1], mask=[0, 1]), [0]], epochs=1)
    with pytest.raises(TypeError, match="rows must hold an entry for each network"):
        fastbp.fit_many(nets, x, y, rows=3, epochs=1)
    fastbp.fit_many(nets, x, y, by=np.ma.array([0, 1, 0, 1]), epochs=1)


def test_an_array_of_weights_of_targets_is_for_all_networks():
    x, y = np.random.default_rng(0).normal(size=(2, 4, 3))
    weight = np.array([[1.0, 0, 2], [1, 1, 1], [0, 0, 3], [2, 1, 0]])
    for rows in (slice(0, 4), slice(0, 3)):  # as many networks as rows, too
        nets, others = ([fastbp.MLP((3, 4, 3), seed=k) for k in range(3)] for _ in range(2))
        fastbp.fit_many(nets, x[rows], y[rows], sample_weight=weight[rows], epochs=3)
        for net, other in zip(nets, others):
            other.fit(x[rows], y[rows], sample_weight=weight[rows], epochs=3)
            assert np.array_equal(net.params, other.params)


@pytest.mark.parametrize("alike", [True, False])
def test_entries_of_epochs_stand_behind_one_another(alike):
    """Networks that are at one place get theirs in one go, others one by one."""
    rng, n = np.random.default_rng(4), 5
    entries, wanted = Entries(n), [[] for _ in range(n)]
    used = np.zeros(n, np.int64)
    for call in range(6):
        which = np.array([0, 1, 3, 4]) if call == 5 or (call % 2 and not alike) else np.arange(n)
        epochs = np.full(len(which), call) if alike else rng.integers(0, 4, len(which))
        losses, first, apart = rng.normal(size=(n, 40)), rng.integers(1, 9, len(which)), rng.integers(1, 5, len(which))
        entries.add_epochs(which, epochs, losses, used[which], first, apart)
        for j, count, step, every in zip(which.tolist(), epochs.tolist(), first.tolist(), apart.tolist()):
            wanted[j] += [(losses[j, used[j] + k], step + k * every) for k in range(count)]
        used[which] += epochs
    loss, step, _ = entries.told()
    assert loss.shape == step.shape == (n, max(map(len, wanted)))
    for j, pairs in enumerate(wanted):
        assert list(zip(loss[j].tolist(), step[j].tolist()))[: len(pairs)] == pairs
        assert np.isnan(loss[j, len(pairs) :]).all() and (step[j, len(pairs) :] == -1).all()


def test_a_history_is_the_same_from_one_block_and_from_several():
    rng = np.random.default_rng(5)

    def block(numbers):
        return Block(
            numbers, "lanes", loss[numbers], step[numbers], {"val_loss": val_loss[numbers]}, status[numbers],
            steps[numbers], best[numbers], steps[numbers], {2: ValueError()} if 2 in numbers else {},
        )  # fmt: skip

    loss, val_loss, best = rng.normal(size=(4, 6)), rng.normal(size=(4, 6)), rng.normal(size=4)
    step, steps = rng.integers(0, 9, (4, 6)), rng.integers(0, 9, 4)
    status = np.array(["done", "stopped", "nonfinite", "done"])
    for cut in ([[0, 1, 2, 3]], [[2, 0], [3], [1]], [[3, 1, 0, 2]]):
        history = together([block(np.array(numbers)) for numbers in cut], 4, None, "stopped", 1.0)
        for found, wanted in (
            (history.loss, loss), (history.step, step), (history.columns["val_loss"], val_loss),
            (history.n_steps, steps), (history.best_value, best), (history.best_step, steps), (history.status, status),
        ):  # fmt: skip
            np.testing.assert_array_equal(found, wanted)
        assert [*history.errors] == [2] and set(history.kernel) == {"lanes"}


@pytest.mark.parametrize("wrong, told", [
    ({"X": np.float32(1)}, "X must be"), ({"X": [X, None, X], "y": [Y] * 3}, r"X of nets\[1\] must be an array"),
    ({"X": [X, 3.0, X], "y": [Y] * 3}, r"X of nets\[1\] must be an array of rows"),
    ({"X": [X] * 3, "y": [Y, None, Y]}, r"nets\[1\]: y "), ({"batch_size": 0}, "batch_size"),
    ({"store": 3}, "store must"),
    ({"executor": 3}, "executor must be"), ({"n_workers": 2}, "give executor="),
    ({"rows": [np.arange(3), np.arange(3), np.array([10**6])]}, r"rows of nets\[2\]"),
])  # fmt: skip
def test_a_refused_call_names_what_is_wrong_and_draws_nothing(wrong, told):
    rng, untouched = np.random.default_rng(3), np.random.default_rng(3)
    nets = [fastbp.MLP((X.shape[1], 1), seed=k) for k in range(3)]
    for seed in (rng, [rng, 1, rng]):
        with pytest.raises((TypeError, ValueError), match=told):
            fastbp.fit_many(nets, **{"X": X, "y": Y, "epochs": 1, "seed": seed, **wrong})
    assert rng.bit_generator.state == untouched.bit_generator.state and not any(net.step for net in nets)
    fastbp.fit_many(nets, X, Y, epochs=1, seed=rng)
    assert rng.bit_generator.state != untouched.bit_generator.state


def test_a_thread_that_the_system_refuses_is_an_error(monkeypatch):
    nets = made()
    before = [*map(state, nets)]

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            fit_many(nets, X, Y, epochs=1, n_threads=2)
        assert [*map(state, nets)] == before
        assert set(fit_many(nets, X, Y, epochs=1, n_threads=1).status) == {"done"}  # by the caller's
    assert set(fit_many(nets, X, Y, epochs=1, n_threads=2).status) == {"done"}
