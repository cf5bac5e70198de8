"""The training state belongs to the network: the same bits whatever the pieces, copies, processes and objects."""

import contextlib
import copy
import gc
import hashlib
import os
import pickle
import random
import weakref
from unittest import mock

import numpy as np
import pytest
from conftest import ISAS, frozen, need
from test_process import python
from tolerance import assert_close

import fastbp
from fastbp import SGD
from fastbp.backends.plan import Programs, make_plan
from fastbp.backends.protocol import Plan
from fastbp.training.state import _OF_A_RUN, EachUnlessNoStep

N = 29
RNG = np.random.default_rng(11)
DATA, WEIGHT, LABELS = RNG.normal(size=(N, 25)), RNG.integers(1, 5, size=N) / 2, RNG.integers(0, 3, size=N)
RULE = SGD(lr=0.02, momentum=0.9, weight_decay=1e-3)

FAMILIES = {  # what the engine has kernels of its own for: sizes, activation
    "tiny": ((5, 7, 3), "tanh"),
    "few outputs": ((19, 33, 3), "relu"),
    "more outputs": ((19, 20, 6), "relu"),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def build(backend="auto", dtype=np.float32, family="tiny", **options):
    sizes, activation = FAMILIES[family]
    return fastbp.MLP(sizes, **{"activation": activation, "seed": 5, "dtype": dtype, "backend": backend} | options)


def data(family):
    """X and y for networks of the family."""
    sizes = FAMILIES[family][0]
    return DATA[:, : sizes[0]], DATA[:, 19 : 19 + sizes[-1]]


X, Y = data("tiny")


def bits(net):
    """Parameters and all of the training state."""
    return frozen(net.__getstate__())


# what a run may be made of; 4 and 28 leave one row at the end of an epoch, 29 none, 1000 means 29
RUNS = {
    "plain": {"batch_size": 4},
    "momentum": {"batch_size": 4, "optimizer": RULE},
    "nesterov": {"batch_size": 5, "optimizer": SGD(lr=0.05, momentum=0.8, nesterov=True)},
    "in order": {"batch_size": 4, "optimizer": RULE, "shuffle": False},
    "weighted": {"batch_size": 4, "optimizer": RULE, "sample_weight": WEIGHT},
    "one row": {"batch_size": 1},
    "most rows": {"batch_size": N - 1},
    "all rows": {"batch_size": N, "optimizer": RULE},
    "more than all rows": {"batch_size": 1000, "optimizer": RULE},
    "labels": {"batch_size": 6, "loss": "softmax_cross_entropy", "optimizer": RULE},
    "own seed": {"batch_size": 4, "seed": 99},
}


def targets(run, family="tiny"):
    return LABELS if RUNS[run].get("loss") == "softmax_cross_entropy" else data(family)[1]


# ------------------------------------------------------------------ one run and its pieces


@every_family
@pytest.mark.parametrize("run", RUNS)
def test_ten_epochs_are_ten_fits_of_one_epoch(kernels, dtype, family, run):
    (x, _), y = data(family), targets(run, family)
    whole, pieces = build(kernels, dtype, family), build(kernels, dtype, family)
    history = whole.fit(x, y, epochs=10, **RUNS[run])
    parts = [pieces.fit(x, y, epochs=1, **RUNS[run]) for _ in range(10)]
    assert bits(whole) == bits(pieces)
    assert frozen(history.loss) == frozen(np.concatenate([part.loss for part in parts]))
    assert frozen(history.step) == frozen(np.concatenate([part.step for part in parts]))


@every_family
@pytest.mark.parametrize("run", RUNS)
def test_a_fit_is_the_same_train_steps(kernels, dtype, family, run):
    (x, _), y = data(family), targets(run, family)
    options = dict(RUNS[run])
    batch_size, shuffle = min(options.pop("batch_size"), N), options.pop("shuffle", True)
    seed, weight = options.pop("seed", 5), options.pop("sample_weight", None)
    whole, steps = build(kernels, dtype, family), build(kernels, dtype, family)
    history = whole.fit(x, y, epochs=4, **RUNS[run])
    losses = []
    for epoch in range(4):
        order = fastbp.order.epoch_order(seed, epoch, N) if shuffle else np.arange(N)
        total = 0.0
        for start in range(0, N, batch_size):
            rows = order[start : start + batch_size]
            w = None if weight is None else weight[rows]
            total += len(rows) * steps.train_step(x[rows], y[rows], sample_weight=w, **options)
        losses.append(total / N)
    assert frozen(whole.flatten()) == frozen(steps.flatten())
    assert whole.step == steps.step
    assert_close(history.loss, losses, np.float64)


@every_family
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("pieces", [(1,) * 31, (7, 1, 0, 13, 10), (30, 1), (3, 28)], ids=str)
def test_steps_in_odd_pieces_are_one_run(backend, dtype, family, run, pieces):
    (x, _), y = data(family), targets(run, family)
    whole, parts = build(backend, dtype, family), build(backend, dtype, family)
    whole.fit(x, y, steps=31, **RUNS[run])
    for steps in pieces:
        assert parts.fit(x, y, steps=steps, **RUNS[run]).n_steps == steps
    assert bits(whole) == bits(parts)


@every_family
def test_chunks_do_not_show(backend, dtype, family, monkeypatch):
    """Python is entered again after every few steps; nothing depends on how many."""
    nets = []
    for seconds, steps in ((1e9, 10**9), (0.0, 1), (1e-4, 3)):
        monkeypatch.setattr(fastbp.training.run, "CHUNK_SECONDS", seconds)
        monkeypatch.setattr("fastbp.backends.again._PIECE_STEPS", steps)
        monkeypatch.setattr(fastbp.training.run, "SNAPSHOT_SECONDS", seconds)
        net = build(backend, dtype, family)
        history = net.fit(*data(family), batch_size=4, epochs=12, optimizer=RULE)
        more = net.fit(*data(family), batch_size=4, steps=8, optimizer=RULE)
        nets.append([bits(net), frozen([history.loss, history.step, more.loss, more.step])])
    assert nets[0] == nets[1] == nets[2]


@every_family
@pytest.mark.parametrize("run", ["momentum", "in order", "weighted", "labels", "all rows", "one row"])
def test_every_call_reads_its_data_anew(kernels, dtype, family, run):
    """Nothing of X, y, weights or order stays behind in a workspace that goes on to the next call."""
    kept, fresh = build(kernels, dtype, family), build(kernels, dtype, family)
    x, y, options = data(family)[0].copy(), targets(run, family).copy(), dict(RUNS[run])
    for k in range(12):
        x[...] = np.roll(x, 1, axis=0) * 0.99  # the same array, changed ...
        if k % 3 == 2:
            x, y = x.copy(), np.roll(y, 2, axis=0)  # ... or another one
        if "sample_weight" in options:
            options["sample_weight"] = np.roll(options["sample_weight"], k)
        for one in (kept, fresh):
            one.fit(x, y, steps=1 + k % 3, seed=k // 5, **options)
        fresh = copy.deepcopy(fresh)  # has no workspace yet
        assert bits(kept) == bits(fresh), k


# ------------------------------------------------------------------ one network trained in one way, then in another

WAYS = {  # to train: options of `fit`; `frozen`: weight and bias of each layer; `isa`; `verb`: another than `fit`
    "plain": {},
    "in order": {"shuffle": False},
    "one row": {"batch_size": 1},
    "other rows": {"batch_size": 13},
    "all rows": {"batch_size": N},
    "weighted": {"sample_weight": WEIGHT},
    "another loss": {"loss": "huber"},
    "labels": {"loss": "softmax_cross_entropy"},
    "threads": {"n_threads": 3},
    "the first isa": {"isa": ISAS[0]},
    "non-finite": {"nonfinite": "ignore"},
    "batches": {"verb": "batches"},
    "train_step": {"verb": "train_step"},
    "update": {"verb": "update"},
    "backward_update": {"verb": "backward_update"},
    "a weight frozen": {"frozen": ((True, False), (False, False))},
    "a bias frozen": {"frozen": ((False, False), (False, True))},
    "a layer frozen": {"frozen": ((True, True), (False, False))},
    "the last layer frozen": {"frozen": ((False, False), (True, True))},
    "momentum": {"optimizer": SGD(0.1, momentum=0.9)},
    "nesterov": {"optimizer": SGD(0.1, momentum=0.9, nesterov=True)},
    "decay": {"optimizer": SGD(0.1, weight_decay=0.3)},
    "rates of layers": {"optimizer": SGD(0.1, lr_scale=(0.5, 2.0))},
    "rate of biases": {"optimizer": SGD(0.1, bias_lr_scale=0.25)},
    "decays of layers": {"optimizer": SGD(0.1, weight_decay=0.3, decay_scale=(0.5, 2.0))},
    "decay of biases": {"optimizer": SGD(0.1, weight_decay=0.3, bias_decay_scale=0.0)},
    "l1": {"optimizer": SGD(0.1, l1=0.05)},
    "clip_value": {"optimizer": SGD(0.1, clip_value=0.05)},
    "clip_norm": {"optimizer": SGD(0.1, clip_norm=0.1)},
    "max_norm": {"optimizer": SGD(0.1, max_norm=0.5)},
    "average": {"optimizer": SGD(0.1, average=0.7)},
    "accumulate": {"optimizer": SGD(0.1, accumulate=2)},
    "schedule": {"optimizer": SGD(lambda step: 0.1 / (1 + step))},
    "adam": {"optimizer": fastbp.Adam(0.01)},
    "amsgrad": {"optimizer": fastbp.Adam(0.01, amsgrad=True)},
    "adamw by layers": {"optimizer": fastbp.AdamW(0.01, decay_scale=(0.5, 2.0))},
}
ON_NUMBA = ("plain", "rate of biases", "accumulate", "a weight frozen")  # seconds of compilation each


def train_in(net, way, family):
    """Some steps, from a training state that is reset."""
    options = {"optimizer": SGD(0.1), "batch_size": 8, "loss": "mse"} | WAYS[way]
    verb, isa = options.pop("verb", "fit"), options.pop("isa", "")
    for k, (weight, bias) in enumerate(options.pop("frozen", ((False, False), (False, False)))):
        net.freeze(k, weight=weight, bias=bias)
    x, y = data(family)
    y = LABELS if options["loss"] == "softmax_cross_entropy" else y
    with mock.patch.dict(os.environ, FASTBP_ISA=isa) if isa else contextlib.nullcontext():
        if verb == "fit":
            net.fit(x, y, steps=5, **options)
        elif verb == "batches":
            net.fit([(x[:9], y[:9]), (x[9:], y[9:])], epochs=2, optimizer=options["optimizer"])
        else:
            for _ in range(3):
                if verb == "train_step":
                    net.train_step(x, y, optimizer=options["optimizer"])
                elif verb == "backward_update":
                    net.forward(x)
                    net.backward_update(y, options["optimizer"])
                else:
                    net.forward(x)
                    net.backward(y)
                    net.update(options["optimizer"])


def check_that_nothing_stays_behind(first, ways, backend, family, dtype=np.float32):
    for second in ways:
        net, fresh = build(backend, dtype, family), build(backend, dtype, family)
        start = net.flatten()
        train_in(net, first, family)
        net.reset_training()
        net.unflatten(start)
        for one in (net, fresh):
            train_in(one, second, family)
        assert bits(net) == bits(fresh), (first, second)
        assert frozen(net.flatten()) != frozen(start)


@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("backend, family", [("reference", "tiny"), *(("cython", family) for family in FAMILIES)])
def test_what_a_network_was_trained_with_before_changes_no_bit(backend, family, first, monkeypatch):
    """Once its state is reset; programs of one kind of training are not taken for another."""
    need(backend)
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    check_that_nothing_stays_behind(first, WAYS, backend, family)


def test_what_a_network_was_trained_with_before_changes_no_bit_on_numba():
    need("numba")
    for first in ON_NUMBA:
        check_that_nothing_stays_behind(first, ON_NUMBA, "numba", "tiny")


# ------------------------------------------------------------------ the programs that a network keeps


def test_a_plan_that_differs_in_any_field_has_programs_of_its_own():
    first = make_plan(build()._spec, 8, backend="reference", loss=fastbp.losses.TABLE["mse"], rule=RULE, n_threads=1)
    others = {
        "spec": build(bias=False)._spec, "batch": 9, "backend": "cython", "isa": "another",
        "loss": fastbp.losses.TABLE["huber"], "optimizer": fastbp.Adam().row, "trains": ((True, True), (True, False)),
        "plain": not first.plain, "fused": not first.fused, "n_threads": 2, "gated": not first.gated,
    }  # fmt: skip
    assert others.keys() == set(Plan._fields)
    with mock.patch("fastbp.backends.plan.program", lambda plan, params, like=None: mock.Mock(plan=plan)):
        for name, other in others.items():
            pool, second = Programs(np.zeros(1)), first._replace(**{name: other})
            programs = [pool.take(plan) for plan in (first, second)]
            assert getattr(programs[1].plan, name) == other != getattr(programs[0].plan, name)
            for program in programs:
                pool.give_back(program)
            for plan, program in ((first, programs[0]), (second, programs[1]), (first, programs[0])):
                with pool.lent(plan) as lent:
                    assert lent is program, name
                    assert pool.take(plan) is not program  # which is at work


def test_programs_are_kept_for_the_16_plans_used_last(backend):
    net, made, first = build(backend), [], set()
    pool, always = Programs(net.params), make_plan(net._spec, 100, backend=backend)
    for batch in range(60):
        with pool.lent(always) as program:
            first.add(program)
        with pool.lent(make_plan(net._spec, 1 + batch, backend=backend)) as program:
            made.append(weakref.ref(program))
            del program
    gc.collect()
    assert [k for k, program in enumerate(made) if program() is not None] == list(range(45, 60))
    with pool.lent(make_plan(net._spec, 60, backend=backend)) as last:
        assert last is made[-1]() and len(first) == 1  # which was used all the time


# ------------------------------------------------------------------ reproducible

DIGEST = """
    import hashlib, os, sys
    import numpy as np, fastbp

    data = np.random.default_rng(11).normal(size=(29, 25))
    sizes, activation = eval(sys.argv[3])
    def digest():
        net = fastbp.MLP(sizes, activation=activation, seed=5, dtype=sys.argv[2], backend=sys.argv[1])
        rule = fastbp.SGD(lr=0.02, momentum=0.9)
        history = net.fit(data[:, :sizes[0]], data[:, 19:19 + sizes[-1]], batch_size=4, epochs=10, optimizer=rule)
        return hashlib.sha256(net.flatten().tobytes() + history.loss.tobytes()).hexdigest()
"""


@every_family
def test_one_seed_has_one_digest_in_20_runs_in_new_processes_and_wherever_they_run(backend, dtype, family, tmp_path):
    found = set()
    for _ in range(20):
        net = build(backend, dtype, family)
        history = net.fit(*data(family), batch_size=4, epochs=10, optimizer=SGD(lr=0.02, momentum=0.9))
        found.add(hashlib.sha256(net.flatten().tobytes() + history.loss.tobytes()).hexdigest())
    for environment in ({"PYTHONHASHSEED": 0}, {"PYTHONHASHSEED": 1, "LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Tokyo"}):
        script = DIGEST + f"    os.chdir({str(tmp_path)!r})\n    print(digest())"
        found.add(python(script, backend, dtype, FAMILIES[family], **environment).strip())
    assert len(found) == 1


@pytest.mark.parametrize("n_threads", [1, 2, 3, 7, 1000])
def test_the_number_of_threads_changes_no_bit(kernels, dtype, n_threads):
    nets = []
    for threads in (1, n_threads):
        net = fastbp.MLP((65, 130, 33), seed=1, dtype=dtype, backend=kernels)
        data = np.random.default_rng(0).normal(size=(96, 98))
        net.fit(data[:, :65], data[:, 65:], steps=7, optimizer=RULE, n_threads=threads)
        nets.append(bits(net))
    assert nets[0] == nets[1]


def test_without_a_seed_networks_differ_and_tell_the_seed_that_repeats_them(backend):
    first, second = build(backend, seed=None), build(backend, seed=None)
    assert first.seed != second.seed and frozen(first.flatten()) != frozen(second.flatten())
    again = build(backend, seed=first.seed)
    for net in (first, again):
        net.fit(X, Y, epochs=2)
    assert bits(first) == bits(again)


def test_numpys_and_pythons_global_random_state_is_neither_used_nor_changed(backend):
    nets = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        before = pickle.dumps([np.random.get_state(), random.getstate()])  # noqa: NPY002
        net = build(backend)
        build(backend, seed=None)
        net.fit(X, Y, epochs=3)
        net.predict(X)
        assert pickle.dumps([np.random.get_state(), random.getstate()]) == before  # noqa: NPY002
        nets.append(bits(net))
    assert nets[0] == nets[1]


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_every_seed_of_64_bits_counts(backend, seed):
    nets = {}
    for value in (seed, seed ^ 1, seed ^ 2**40, seed ^ 2**63):
        net = build(backend, seed=value)
        assert net.seed == value
        start = net.flatten()
        net.fit(X, Y, batch_size=4, epochs=1)
        nets[value] = frozen(start), frozen(net.flatten())
    assert len({start for start, _ in nets.values()}) == len({end for _, end in nets.values()}) == 4


def test_fits_seed_replaces_the_orders_seed_from_here_on(backend):
    """As a network whose own seed is that one, from the same parameters."""
    net, wanted = build(backend), build(backend, seed=99)
    wanted.unflatten(net.flatten())
    net.fit(X, Y, batch_size=4, epochs=2, seed=99)
    net.fit(X, Y, batch_size=4, epochs=2)
    wanted.fit(X, Y, batch_size=4, epochs=4)
    assert net.seed == 99 and frozen(net.flatten()) == frozen(wanted.flatten())
    other = build(backend)
    other.fit(X, Y, batch_size=4, epochs=4)
    assert frozen(net.flatten()) != frozen(other.flatten())
    other = build(backend)
    other.fit(X, Y, batch_size=4, steps=0, seed=99)  # no step is needed for it
    assert other.seed == 99
    other.fit(X, Y, batch_size=4, epochs=4)
    assert frozen(net.flatten()) == frozen(other.flatten())


# ------------------------------------------------------------------ the position in the epoch


def rows_seen(net, n, batch_size, steps, **options):
    """Which rows each step trained on: with one output, no momentum and one-hot rows, those whose weight moved."""
    seen = []
    for _ in range(steps):
        before = net.weights[0].copy()
        net.fit(np.eye(n), np.ones(n), optimizer="sgd", batch_size=batch_size, steps=1, **options)
        seen.append(tuple(np.flatnonzero((net.weights[0] != before).any(axis=1))))
    return seen


def one_hot_net(backend, n):
    return fastbp.MLP((n, 1), init="zeros", bias=False, seed=5, backend=backend)


def test_an_epoch_visits_every_row_once_with_a_smaller_batch_at_its_end(backend):
    seen = rows_seen(one_hot_net(backend, 11), 11, 4, 6)
    assert [len(rows) for rows in seen] == [4, 4, 3, 4, 4, 3]
    for epoch in (seen[:3], seen[3:]):
        assert sorted(sum(epoch, ())) == list(range(11))
    assert seen[:3] != seen[3:]
    assert rows_seen(one_hot_net(backend, 11), 11, 4, 3, shuffle=False) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10)]


def test_the_position_goes_on_while_rows_and_batch_size_stay_else_a_new_epoch_begins(backend):
    net = one_hot_net(backend, 12)
    eye, ones = np.eye(12), np.ones(12)

    def fit(rows, batch_size, steps):
        before = net.weights[0].copy()
        net.fit(eye[:rows], ones[:rows], optimizer="sgd", batch_size=batch_size, steps=steps, shuffle=False)
        return list(np.flatnonzero(net.weights[0] != before))

    assert (net.epoch, fit(12, 4, 1)) == (0, [0, 1, 2, 3])
    assert (net.epoch, fit(12, 4, 1)) == (0, [4, 5, 6, 7])
    assert (net.epoch, fit(12, 3, 1)) == (0, [0, 1, 2])  # another batch size
    assert (net.epoch, fit(12, 3, 1)) == (1, [3, 4, 5])
    assert (net.epoch, fit(10, 3, 2)) == (1, [0, 1, 2, 3, 4, 5])  # other rows
    assert (net.epoch, fit(10, 3, 2)) == (2, [6, 7, 8, 9])
    assert net.epoch == 3  # that one was finished
    assert (fit(12, 3, 4), net.epoch) == (list(range(12)), 4)  # at an epoch's start nothing is skipped
    assert (fit(12, 12, 1), net.epoch) == (list(range(12)), 5)
    assert (fit(12, 100, 1), net.epoch) == (list(range(12)), 6)  # more than all rows is all rows
    assert net.step == 14


def test_a_train_step_counts_a_step_and_leaves_the_position_alone(backend):
    net, twin = build(backend), build(backend)
    for one in (net, twin):
        one.fit(X, Y, optimizer="sgd", batch_size=4, steps=2)
    net.train_step(X[:3], Y[:3], optimizer=SGD(lr=0.0))
    assert (net.step, net.epoch) == (3, 0)
    for one in (net, twin):
        one.fit(X, Y, optimizer="sgd", batch_size=4, steps=6)
    assert frozen(net.flatten()) == frozen(twin.flatten())
    assert (net.step, twin.step, net.epoch, twin.epoch) == (9, 8, 1, 1)


@pytest.mark.parametrize("n, batch_size, epochs", [(23, 4, 3), (24, 4, 3), (1, 1, 5), (7, 100, 2), (5, 1, 2)])
def test_epochs_are_exactly_that_many_times_the_batches_of_an_epoch(backend, n, batch_size, epochs):
    net = build(backend)
    history = net.fit(X[:1].repeat(n, axis=0), Y[:1].repeat(n, axis=0), batch_size=batch_size, epochs=epochs)
    assert history.n_steps == net.step == epochs * -(-n // batch_size)
    assert net.epoch == epochs == len(history.loss)


def test_epochs_from_within_an_epoch_are_that_many_steps_and_end_at_the_same_place(backend):
    net, twin = build(backend), build(backend)
    net.fit(X, Y, batch_size=4, steps=2)
    history = net.fit(X, Y, batch_size=4, epochs=2)
    assert (history.n_steps, net.step, net.epoch) == (16, 18, 2)
    twin.fit(X, Y, batch_size=4, steps=18)
    assert bits(net) == bits(twin)


def test_zero_steps_do_nothing(backend):
    net, twin = build(backend), build(backend)
    for arguments in ({"steps": 0}, {"epochs": 0}, {"steps": 0, "eval_every": 1}):
        history = net.fit(X, Y, batch_size=4, **arguments)
        assert (len(history.loss), len(history.step), history.n_steps) == (0, 0, 0)
        assert (history.loss.dtype, history.step.dtype) == (np.float64, np.int64)
    assert frozen([net.flatten(), net.step, net.epoch]) == frozen([twin.flatten(), 0, 0])
    for one in (net, twin):
        one.fit(X, Y, batch_size=4, epochs=2)
    assert bits(net) == bits(twin)


# ------------------------------------------------------------------ slots


def test_an_optimizer_by_name_or_by_object_is_the_same(backend):
    nets = [build(backend) for _ in range(3)]
    for net, rules in zip(nets, (["sgd"] * 3, [SGD()] * 3, ["sgd", SGD(), SGD(lr=1e-3)])):
        for rule in rules:
            net.fit(X, Y, batch_size=4, steps=3, optimizer=rule)
    assert bits(nets[0]) == bits(nets[1]) == bits(nets[2])


def test_slots_go_on_with_new_hyper_parameters_whatever_object_holds_them(backend, dtype):
    """The published figures of a momentum that meets a new learning rate: w 1, gradient 1 -> 0.9, 0.71, 0.6829."""
    net = fastbp.MLP((1, 1), bias=False, dtype=dtype, init=[np.ones((1, 1))], backend=backend)
    found = []
    for rule in (SGD(lr=0.1, momentum=0.9), SGD(lr=0.1, momentum=0.9), SGD(lr=0.01, momentum=0.9)):
        net.forward([[1.0]])
        net.backward([[1.0]])
        net.update(rule)
        found.append(float(net.weights[0][0, 0]))
    assert_close(found, [0.9, 0.71, 0.6829], dtype)


VERBS = {  # every way to make one step on all rows
    "fit": lambda net, rule: net.fit(X, Y, batch_size=N, steps=1, shuffle=False, optimizer=rule),
    "train_step": lambda net, rule: net.train_step(X, Y, optimizer=rule),
    "update": lambda net, rule: net.backward(mse_gradient(net.forward(X))) is None or net.update(rule),
    "backward_update": lambda net, rule: net.backward_update(mse_gradient(net.forward(X)), rule),
}


def mse_gradient(output):
    return 2 * (output - Y.astype(output.dtype)) / Y.size


@pytest.mark.parametrize("second", VERBS)
@pytest.mark.parametrize("first", VERBS)
def test_every_training_verb_shares_slots_and_step(backend, first, second):
    """Within rounding, two momentum steps are the same by any two verbs; without shared slots they would not be."""
    net, wanted = build(backend, np.float64), build(backend, np.float64)
    for verb in (first, second):
        VERBS[verb](net, RULE)
        VERBS["train_step"](wanted, RULE)
    assert net.step == 2
    assert_close(net.flatten(), wanted.flatten(), np.float64)
    forgetful = build(backend, np.float64)
    VERBS[first](forgetful, RULE)
    forgetful.reset_training()
    VERBS[second](forgetful, RULE)
    assert abs(forgetful.flatten() - wanted.flatten()).max() > 1e-4


@every_family
@pytest.mark.parametrize("seed", [None, 99])
def test_reset_training_drops_all_state_and_keeps_the_parameters(backend, dtype, family, seed):
    x, y = data(family)
    net = build(backend, dtype, family)
    net.fit(x, y, batch_size=4, steps=20, optimizer=RULE, seed=seed)  # into the third epoch
    net.forward(x)
    parameters = net.flatten()
    net.reset_training()
    assert (net.step, net.epoch, net.seed) == (0, 0, 5)
    assert frozen(net.flatten()) == frozen(parameters)
    with pytest.raises(RuntimeError, match="forward"):
        net.backward(y)
    fresh = build(backend, dtype, family)
    fresh.unflatten(parameters)
    assert bits(net) == bits(fresh)
    for one in (net, fresh):
        one.fit(x, y, batch_size=4, steps=8, optimizer=RULE)
    assert bits(net) == bits(fresh)


# ------------------------------------------------------------------ copies

COPIES = {
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    **{f"pickle {k}": lambda net, k=k: pickle.loads(pickle.dumps(net, protocol=k)) for k in range(2, 6)},
}


@every_family
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_goes_on_bit_for_bit_and_apart_from_the_original(backend, dtype, family, how):
    x, y = data(family)
    net, twin = build(backend, dtype, family), build(backend, dtype, family)
    for one in (net, twin):
        one.fit(x, y, batch_size=4, steps=8, optimizer=RULE, seed=99)
        one.forward(x)
    other = COPIES[how](net)
    assert bits(other) == bits(net) and repr(other) == repr(net) and other.backend == net.backend == backend
    assert not np.may_share_memory(other.params, net.params)
    assert frozen(other.predict(x)) == frozen(net.predict(x))
    with pytest.raises(RuntimeError, match="forward"):  # a pending forward is not copied ...
        other.backward(y)
    net.backward(y)  # ... and stays with the original
    twin.fit(x, y, batch_size=4, steps=9, optimizer=RULE)
    other.fit(x, y, batch_size=4, steps=9, optimizer=RULE)
    assert bits(other) == bits(twin)
    net.fit(x, y, batch_size=4, steps=9, optimizer=RULE)  # neither slots nor position were shared
    assert bits(net) == bits(twin)
    other.weights[0][...] = 0
    other.fit(x, y, batch_size=4, steps=1, optimizer=RULE)
    assert bits(net) == bits(twin)


def test_a_pickle_goes_on_bit_for_bit_in_a_new_process(backend, dtype, tmp_path):
    net = build(backend, dtype)
    net.fit(X, Y, batch_size=4, steps=8, optimizer=RULE, seed=99)
    (tmp_path / "net").write_bytes(pickle.dumps(net))
    np.savez(tmp_path / "data.npz", X=X, Y=Y)
    out = python("""
        import pathlib, pickle, sys
        import numpy as np, fastbp
        folder = pathlib.Path(sys.argv[1])
        net, data = pickle.loads((folder / "net").read_bytes()), np.load(folder / "data.npz")
        rule = fastbp.SGD(lr=0.02, momentum=0.9, weight_decay=1e-3)
        history = net.fit(data["X"], data["Y"], batch_size=4, steps=9, optimizer=rule)
        print(net.flatten().tobytes().hex(), history.loss.tobytes().hex(), net.step, net.epoch)
    """, tmp_path)  # fmt: skip
    history = net.fit(X, Y, batch_size=4, steps=9, optimizer=RULE)
    assert out.split() == [net.flatten().tobytes().hex(), history.loss.tobytes().hex(), "17", "2"]


def test_histories_and_optimizers_pickle(backend):
    history = build(backend).fit(X, Y, epochs=2)
    again = pickle.loads(pickle.dumps(history))
    assert frozen([again.loss, again.step, again.seconds]) == frozen([history.loss, history.step, history.seconds])
    assert pickle.loads(pickle.dumps(RULE)) == RULE


# ------------------------------------------------------------------ parameters


def test_flatten_and_unflatten_are_inverse_and_go_layer_by_layer(dtype):
    net = build(dtype=dtype)
    wanted = np.concatenate([part.ravel() for pair in zip(net.weights, net.biases) for part in pair])
    assert frozen(net.flatten()) == frozen(wanted) and net.n_params == wanted.size == 5 * 7 + 7 + 7 * 3 + 3
    vector = np.arange(net.n_params)
    net.unflatten(vector)
    assert frozen(net.flatten()) == frozen(vector.astype(dtype))
    assert net.weights[1][2, 1] == 5 * 7 + 7 + 2 * 3 + 1 and net.biases[1][2] == net.n_params - 1
    net.unflatten(list(vector[::-1]))
    assert frozen(net.flatten()) == frozen(vector[::-1].astype(dtype))


def test_flatten_is_a_copy_and_weights_are_views(backend, dtype):
    net = build(backend, dtype)
    vector = net.flatten()
    vector[...] = 0
    assert net.flatten().any()
    for view in (*net.weights, *net.biases):
        assert np.may_share_memory(view, net.params) and view.flags.writeable
        view[...] = 0
    assert not net.flatten().any() and not net.predict(X).any()
    net.biases[-1][...] = [1, 2, 3]
    assert frozen(net.predict(X)) == frozen(np.tile(np.array([1, 2, 3], dtype), (N, 1)))
    assert [w.shape for w in net.weights] == [g.shape for g in net.grad_weights] == [(5, 7), (7, 3)]
    assert [b.shape for b in net.biases] == [g.shape for g in net.grad_biases] == [(7,), (3,)]


def test_a_network_without_biases_has_none():
    net = build(bias=False)
    assert net.biases == net.grad_biases == () and net.n_params == 5 * 7 + 7 * 3


@every_family
def test_what_lies_in_padding_is_ignored(kernels, dtype, family):
    """NaN in the padding of parameters and gradients changes no bit of any verb."""
    x, y = data(family)
    results = []
    for fill in (False, True):
        net = build(kernels, dtype, family)
        if fill:
            for buffer, views in ((net.params, (*net.weights, *net.biases)), (net.grads, ())):
                kept = [view.copy() for view in views]
                buffer[...] = np.nan
                for view, values in zip(views, kept):
                    view[...] = values
            assert np.isnan(net.params).any()
        found = [net.predict(x), net.evaluate(x, y, loss="mse"), *net.loss_and_grad(x, y, loss="mse")]
        found += [net.forward(x), net.backward(y), *net.grad_weights, *net.grad_biases]
        net.update(RULE)
        net.forward(x)
        found += [net.backward_update(y, RULE), net.train_step(x, y, optimizer=RULE)]
        found += [net.fit(x, y, batch_size=4, epochs=2, optimizer=RULE).loss, net.flatten()]
        results.append(frozen(found))
    assert results[0] == results[1]


# ------------------------------------------------------------------ history


@every_family
@pytest.mark.parametrize("run", RUNS)
def test_history_is_the_mean_of_the_batch_losses_before_their_updates(backend, dtype, family, run):
    """Weighted by rows, in float64; an unfinished last epoch is an entry of its own."""
    (x, _), y = data(family), targets(run, family)
    net, twin = build(backend, dtype, family), build(backend, dtype, family)
    per_epoch = -(-N // min(RUNS[run]["batch_size"], N))
    steps = 2 * per_epoch + per_epoch // 2
    history = net.fit(x, y, steps=steps, **RUNS[run])
    losses = [float(twin.fit(x, y, steps=1, **RUNS[run]).loss[0]) for _ in range(steps)]
    batch_size = min(RUNS[run]["batch_size"], N)
    sizes = [min(batch_size, N - start) for start in range(0, N, batch_size)]
    wanted, at = [], []
    for start in range(0, steps, per_epoch):
        part = losses[start : start + per_epoch]
        wanted.append(np.average(part, weights=sizes[: len(part)]))
        at.append(start + len(part))
    assert_close(history.loss, wanted, np.float64, k=4)
    assert history.loss.dtype == np.float64 and history.step.dtype == np.int64
    assert history.step.tolist() == at
    assert history.n_steps == steps and history.seconds > 0
    assert "loss" in repr(history) and str(steps) in repr(history)


def test_history_of_a_fit_that_starts_within_an_epoch_holds_this_calls_batches(backend):
    net, twin = build(backend), build(backend)
    net.fit(X, Y, batch_size=4, steps=4)
    history = net.fit(X, Y, batch_size=4, steps=13)
    singles = [float(twin.fit(X, Y, batch_size=4, steps=1).loss[0]) for _ in range(17)]
    wanted = [np.average(singles[4:8], weights=[4, 4, 4, 1]), np.average(singles[8:16], weights=[4] * 7 + [1])]
    wanted.append(singles[16])
    assert_close(history.loss, wanted, np.float64)
    assert history.step.tolist() == [8, 16, 17]


@every_family
@pytest.mark.parametrize("run", ["momentum", "weighted", "labels"])
def test_eval_every_records_evaluate_after_every_kth_step_of_the_network(backend, dtype, family, run):
    (x, _), y = data(family), targets(run, family)
    net, twin = build(backend, dtype, family), build(backend, dtype, family)
    options = RUNS[run]
    first = net.fit(x, y, steps=10, eval_every=4, **options)
    second = net.fit(x, y, steps=10, eval_every=4, **options)
    assert (first.step.tolist(), second.step.tolist()) == ([4, 8], [12, 16, 20])
    loss, weight = options.get("loss", "mse"), options.get("sample_weight")
    wanted, by_hand = [], []
    for _ in range(5):
        twin.fit(x, y, steps=4, **options)
        wanted.append(twin.evaluate(x, y, loss=loss, sample_weight=weight))
        a = twin.predict(x).astype(float)
        each = np.log(np.exp(a).sum(1)) - a[range(N), y] if loss != "mse" else ((a - y) ** 2).mean(1)
        by_hand.append(np.average(each, weights=weight))
    assert [*first.loss, *second.loss] == wanted
    assert_close(wanted, by_hand, dtype, scale=max(1, max(by_hand)))
    assert bits(net) == bits(twin)  # looking changes nothing


def test_eval_every_beyond_the_run_records_nothing(backend):
    history = build(backend).fit(X, Y, steps=3, eval_every=4)
    assert len(history.loss) == len(history.step) == 0 and history.n_steps == 3
    assert "steps" in repr(history)


# ------------------------------------------------------------------ weights of samples


def test_a_batch_without_weight_is_a_step_with_zero_gradient(backend, dtype):
    weight = np.ones(N)
    weight[4:8] = 0  # the second batch
    net, twin = build(backend, dtype), build(backend, dtype)
    options = {"batch_size": 4, "shuffle": False, "optimizer": SGD(lr=0.1)}
    for one in (net, twin):
        one.fit(X, Y, steps=1, sample_weight=weight, **options)
    history = net.fit(X, Y, steps=1, sample_weight=weight, **options)
    assert net.step == 2 and history.loss.tolist() == [0]
    assert frozen(net.flatten()) == frozen(twin.flatten())
    rule = SGD(lr=0.1, momentum=0.5)  # the velocity goes on
    net = build(backend, dtype)
    net.fit(X, Y, steps=1, sample_weight=weight, **options | {"optimizer": rule})
    before, first = build(backend, dtype).flatten(), net.flatten()
    net.fit(X, Y, steps=1, sample_weight=weight, **options | {"optimizer": rule})
    assert_close(net.flatten() - first, 0.5 * (first - before), dtype, scale=1)


# ------------------------------------------------------------------ looking, and the caller's own gradient


def test_predict_of_no_rows_is_an_array_of_no_rows(backend, dtype):
    net = build(backend, dtype)
    for rows in (X[:0], np.zeros((0, 5), np.int8), np.zeros((5, 0)).T):
        out = net.predict(rows)
        assert out.shape == (0, 3) and out.dtype == dtype


def test_looking_changes_nothing(backend, dtype):
    net, twin = build(backend, dtype), build(backend, dtype)
    for one in (net, twin):
        one.fit(X, Y, batch_size=4, steps=4, optimizer=RULE)
    net.predict(X)
    net.evaluate(X, LABELS, loss="softmax_cross_entropy")
    net.loss_and_grad(X, Y, loss="mse")
    net.forward(X)
    repr(net), net.weights, net.grads
    assert bits(net) == bits(twin)


def test_predict_does_not_depend_on_how_many_rows_there_are_nor_on_blocks(backend, dtype):
    """Within the tolerance one row or many; twice the same, the same bits."""
    net, rows = build(backend, dtype), RNG.normal(size=(700, 5))
    whole = net.predict(rows)
    assert_close(np.vstack([net.predict(rows[k : k + 1]) for k in range(700)]), whole, dtype, k=7)
    assert frozen(net.predict(rows)) == frozen(whole)


def test_results_are_fresh_arrays(backend):
    net = build(backend)
    for call in (net.predict, net.forward):
        first = call(X)
        kept = first.copy()
        second = call(2 * X)
        assert frozen(first) == frozen(kept) and not np.may_share_memory(first, second)
    gradient = net.backward(Y)
    kept = gradient.copy()
    net.backward(2 * Y)
    assert frozen(gradient) == frozen(kept)


@every_family
def test_forward_keeps_its_own_copy_of_x(backend, dtype, family):
    x0, y = data(family)
    net, twin = build(backend, dtype, family), build(backend, dtype, family)
    x = x0.astype(dtype)
    output = net.forward(x)
    twin.forward(x0)
    x[...] = np.nan
    output[...] = np.nan  # the output is the caller's, too
    assert frozen([net.backward(y), *net.grad_weights]) == frozen([twin.backward(y), *twin.grad_weights])


@every_family
def test_backward_replaces_what_grads_held_and_accumulate_adds(backend, dtype, family):
    x0, y = data(family)
    net = build(backend, dtype, family)
    net.forward(x0)
    net.grads[...] = np.nan
    net.backward(y)
    once = [g.copy() for g in (*net.grad_weights, *net.grad_biases)]
    assert all(np.isfinite(g).all() for g in once)
    net.backward(y, accumulate=True)
    for g, one in zip((*net.grad_weights, *net.grad_biases), once):
        assert_close(g, 2 * one, dtype, k=N)
    net.grads[...] = 0
    net.backward(y, accumulate=True)
    for g, one in zip((*net.grad_weights, *net.grad_biases), once):
        assert np.array_equal(g, one)


def test_accumulated_halves_are_the_gradient_of_the_whole(backend):
    net = build(backend, np.float64)
    net.forward(X)
    grad_input = net.backward(Y)
    whole = [g.copy() for g in net.grad_weights]
    parts = []
    for rows in (slice(0, 10), slice(10, None)):
        net.forward(X[rows])
        parts.append(net.backward(Y[rows], accumulate=rows.start > 0))
    assert_close(np.vstack(parts), grad_input, np.float64)
    for g, wanted in zip(net.grad_weights, whole):
        assert_close(g, wanted, np.float64, k=N)


def test_loss_and_grad_is_what_backward_of_the_loss_gives_and_leaves_grads_alone(backend):
    net = build(backend, np.float64)
    output = net.forward(X)
    net.backward(mse_gradient(output))
    held = net.grads.copy()
    value, gradient = net.loss_and_grad(X, Y, loss="mse")
    assert frozen(net.grads) == frozen(held)
    assert_close(value, np.mean((output - Y) ** 2), np.float64, k=4)
    by_hand = np.concatenate([g.ravel() for pair in zip(net.grad_weights, net.grad_biases) for g in pair])
    assert_close(gradient, by_hand, np.float64, k=4)
    assert value == net.evaluate(X, Y, loss="mse")


def test_update_with_edited_gradients_moves_what_they_say(backend, dtype):
    """A bias is held fixed by zeroing its gradient between backward and update."""
    net = build(backend, dtype)
    before = [b.copy() for b in net.biases]
    weight = net.weights[0].copy()
    net.forward(X)
    net.backward(Y)
    net.grad_biases[0][...] = 0
    net.update(SGD(lr=0.1))
    assert frozen(net.biases[0]) == frozen(before[0]) and frozen(net.biases[1]) != frozen(before[1])
    assert frozen(net.weights[0]) != frozen(weight)


def test_a_backward_update_that_is_refused_leaves_its_forward_pending(backend):
    net, twin = build(backend), build(backend)
    for one in (net, twin):
        one.forward(X)
    with net._training, pytest.raises(RuntimeError, match="training already"):  # by another thread
        net.backward_update(Y, RULE)
    assert frozen(net.backward_update(Y, RULE)) == frozen(twin.backward_update(Y, RULE))
    assert bits(net) == bits(twin)


def test_a_call_that_makes_no_step_knows_all_that_a_run_may_set():
    state = build()._state
    assert {*vars(state)} - {"spec", "initial_seed", "count", "place"} == {*_OF_A_RUN}


def test_of_many_states_those_without_a_step_are_what_they_were():
    nets, twins = ([build() for _ in range(3)] for _ in range(2))
    for net in (*nets, *twins):
        net.fit(DATA[:, :5], DATA[:, :3], steps=2, batch_size=8)
    before = EachUnlessNoStep([net._state for net in nets])
    assert before.step.tolist() == [2, 2, 2]
    for net in nets:
        state = net._state
        state.seed = 9
        state.trains_with(fastbp.losses.TABLE["huber"])
        state.prepare(fastbp.Adam(), net._params)
        state.enter(11, 3)
        state.place[0] += 4
    nets[1]._state.count += 1
    before.leave()
    same = [frozen(net.__getstate__()) == frozen(twin.__getstate__()) for net, twin in zip(nets, twins)]
    assert same == [True, False, True]
    assert [net._state.loss.name for net in nets] == ["mse", "huber", "mse"] and nets[1].seed == 9
