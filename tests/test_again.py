"""Calls made again: verbs with arguments like earlier ones take a short way, to the same bits and the same errors."""

import copy
import pickle
import sys
import threading
from unittest import mock

import numpy as np
import pytest
from conftest import frozen
from tolerance import assert_close

import fastbp
from fastbp import backends
from fastbp.backends import reference
from fastbp.backends.again import LONG_WAY, Memory
from fastbp.schedules import Cosine, Step

pytestmark = pytest.mark.skipif(backends.missing("cython") is not None, reason="the short way is compiled")


def data(loss="mse", dtype=np.float32, rows=8):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 5)).astype(dtype)
    return x, rng.integers(0, 3, rows) if loss == "softmax_cross_entropy" else rng.uniform(size=(rows, 3)).astype(dtype)


def network(dtype=np.float32, **changes):
    return fastbp.MLP((5, 7, 3), activation="tanh", seed=1, dtype=dtype, **changes)


class Unforeseeing(Memory):
    """Leaves steps of a new kind to the long way."""

    __slots__ = ()

    def expects_step(self, *arguments):
        return False


def long_way(net):
    """Forget the last calls, so that the next one is checked in full."""
    net._again.__class__ = Unforeseeing
    net._again.forget()


class Heard:
    """Stands before what a network remembers until it is asked once, and tells whether that was answered."""

    def __init__(self, net):
        self.memory, self.calls, self.answered = net._again, net._again.calls, None
        self.memory.calls = self

    def __getattr__(self, verb):
        def call(*arguments):
            self.leave()
            answer = getattr(self.calls, verb)(*arguments)
            self.answered = answer is not None
            return answer

        return call

    def leave(self):
        if self.memory.calls is self:
            self.memory.calls = self.calls


def takes_the_short_way(net, call):
    """Whether `call` is answered by what the network remembers. It is made."""
    heard = Heard(net)
    call()
    heard.leave()
    return heard.answered


def in_threads(work, count=8):
    """work(0), work(1), ... at the same time."""
    threads = [threading.Thread(target=work, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def same(a, b):
    return np.array_equal(a.flatten().view(np.uint8), b.flatten().view(np.uint8)) and a.step == b.step


# ------------------------------------------------------------------ both ways give the same

RULES = {
    "sgd": lambda: "sgd",
    "adam": lambda: "adam",
    "an optimizer object": lambda: fastbp.SGD(0.1, momentum=0.9),
    "another of its family": lambda: fastbp.SGD(0.05, weight_decay=0.01),
    "with factors of layers": lambda: fastbp.Adam(0.01, lr_scale=(0.5, 1.0), weight_decay=0.1, bias_decay_scale=0.0),
    "amsgrad": lambda: fastbp.Adam(0.01, amsgrad=True),
    "clip_norm": lambda: fastbp.SGD(0.1, clip_norm=0.05),
    "clip_value": lambda: fastbp.SGD(0.1, clip_value=0.01),
    "accumulate": lambda: fastbp.Adam(0.01, accumulate=3),
    "average": lambda: fastbp.SGD(0.1, average=0.9),
    "max_norm": lambda: fastbp.SGD(0.1, max_norm=0.5, l1=0.01),
    "a schedule": lambda: fastbp.Adam(Step(0.1, 3, 0.5)),
    "a schedule of plain SGD": lambda: fastbp.SGD(Cosine(0.1, 40)),
    "a callable rate": lambda: fastbp.SGD(lambda step: 0.1 / (1 + step)),
    "a plateau": lambda: fastbp.SGD(fastbp.schedules.ReduceOnPlateau(0.1)),
    "an unknown name": lambda: "sgdd",
    "no optimizer": lambda: 3.0,
    "lbfgs": lambda: fastbp.LBFGS(),
}
X_KINDS = {
    "plain": lambda x: x,
    "float64": lambda x: x.astype(np.float64),
    "float32": lambda x: x.astype(np.float32),
    "float16": lambda x: x.astype(np.float16),
    "longdouble": lambda x: x.astype(np.longdouble),
    "int8": lambda x: (8 * x).astype(np.int8),
    "uint64": lambda x: np.abs(8 * x).astype(np.uint64),
    "bool": lambda x: x > 0,
    "byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "strides": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "Fortran order": np.asfortranarray,
    "unaligned": lambda x: np.frombuffer(b"0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    "read only": lambda x: frozen_copy(x),
    "list": lambda x: x.tolist(),
    "list of whole numbers": lambda x: (8 * x).astype(int).tolist(),
    "tuple": lambda x: tuple(map(tuple, x.tolist())),
    "subclass": lambda x: x.view(np.memmap),
    "objects": lambda x: x.astype(object),
    "ragged": lambda x: [*x.tolist(), [1.0]],
    "text": lambda x: x.astype(str),
    "complex": lambda x: x + 0j,
    "one row less": lambda x: x[:-1],
    "one column less": lambda x: x[:, :-1],
    "one axis": lambda x: x[:, 0],
    "three axes": lambda x: x[None],
    "no rows": lambda x: x[:0],
    "NaN": lambda x: changed(x, np.nan),
    "infinite": lambda x: changed(x, -np.inf),
    "large": lambda x: x.astype(np.float64) * 1e300,
    "none": lambda x: None,
}
WEIGHTS = {
    "none": lambda n: None,
    "float64": lambda n: np.linspace(0, 1, n),
    "float32": lambda n: np.linspace(0.5, 1, n, dtype=np.float32),
    "ints": lambda n: np.arange(1, n + 1),
    "list": lambda n: [1.0] * n,
    "strides": lambda n: np.linspace(0, 1, 2 * n)[::2],
    "small": lambda n: np.linspace(1, 2, n) * 1e-300,
    "large": lambda n: np.linspace(1, 2, n) * 1e300,
    "zero": np.zeros,
    "negative": lambda n: -np.ones(n),
    "NaN": lambda n: np.full(n, np.nan),
    "too many": lambda n: np.ones(n + 1),
    "of each target": lambda n: np.arange(3.0 * n).reshape(n, 3),
    "a mask": lambda n: np.eye(3)[np.arange(n) % 3],
    "even": lambda n: np.repeat(np.linspace(0, 1, n), 3).reshape(n, 3),
    "of six": lambda n: np.ones((n, 6)),
}
LOSSES = {
    "mse": "mse",
    "huber": fastbp.losses.huber,
    "huber of a setting": fastbp.losses.huber(delta=0.1),
    "binary_cross_entropy": "binary_cross_entropy",
    "hinge": "hinge",
    "softmax_cross_entropy": "softmax_cross_entropy",
    "poisson": "poisson",
    "unknown": "msee",
}


def frozen_copy(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def changed(x, value):
    x = x.astype(np.result_type(x, np.float16))
    x[len(x) // 2, -1] = value
    return x


def targets(loss, rows, rng, outputs=3):
    if loss == "softmax_cross_entropy":
        if rng.integers(3):
            return rng.integers(0, outputs, rows)
        shares = rng.uniform(size=(rows, outputs))
        return shares / shares.sum(axis=1, keepdims=True)
    if loss == "hinge":
        return rng.choice([-1.0, 1.0], (rows, outputs))
    if loss == "binary_cross_entropy":
        return rng.integers(0, 2, (rows, outputs)) if rng.integers(2) else rng.uniform(size=(rows, outputs))
    return rng.uniform(0, 2, size=(rows, outputs))


def chosen(table, rng, usual):
    """A key of the table: mostly the first ones."""
    names = list(table)
    return names[int(rng.integers(usual if rng.random() < 0.85 else len(names)))]


def arguments(rng, dtype, outputs):
    rows = int(rng.choice([1, 2, 3, 5, 8, 9, 30, 300]))
    x = rng.normal(size=(rows, 5)).astype(dtype)
    loss = chosen(LOSSES, rng, 6)
    y = targets(loss, rows, rng, outputs)
    y = y.astype(dtype) if y.dtype.kind == "f" and rng.integers(2) else y
    x = X_KINDS[chosen(X_KINDS, rng, 4)](x)
    if rng.random() < 0.1:
        with np.errstate(all="ignore"):
            y = X_KINDS[chosen(X_KINDS, rng, len(X_KINDS))](y if y.ndim == 2 else y[:, None])
    return x, y, LOSSES[loss], RULES[chosen(RULES, rng, 10)](), WEIGHTS[chosen(WEIGHTS, rng, 5)](rows)


SHARES = {  # of the verbs, among the calls drawn
    "train_step": 0.1, "without weights": 0.07, "missing": 0.05, "predict": 0.07, "predict_proba": 0.03,
    "hidden": 0.05, "input_gradient": 0.07,
    "evaluate": 0.07, "evaluate by the last loss": 0.03, "loss_and_grad": 0.07, "forward": 0.07, "backward": 0.08,
    "update": 0.05, "backward_update": 0.07, "fit": 0.08, "freeze": 0.02, "reset_training": 0.01, "copy": 0.01,
}  # fmt: skip


def fitted(net, *arguments, **named):
    """What a run tells."""
    history = net.fit(*arguments, **named)
    return history.loss, history.step, history.lr, np.array([history.n_steps])


def verbs(x, y, loss, rule, weight, gradient, yes):
    """Functions of a network, by name."""
    length = {("epochs", "steps")[len(gradient) % 2]: 2 if yes else 3}
    some = np.where(y > 0.5, np.nan, y) if isinstance(y, np.ndarray) and y.dtype.kind == "f" and yes else y
    return {
        "missing": lambda net: net.train_step(
            x, some, loss=loss, optimizer=rule, sample_weight=weight, missing="ignore"
        ),
        "train_step": lambda net: net.train_step(x, y, loss=loss, optimizer=rule, sample_weight=weight),
        "without weights": lambda net: net.train_step(x, y, loss=loss, optimizer=rule),
        "predict": lambda net: net.predict(x),
        "predict_proba": lambda net: net.predict_proba(x),
        "hidden": lambda net: net.hidden(x, -int(yes)),
        "input_gradient": lambda net: net.input_gradient(x, y if yes else gradient.shape[1] - 1),
        "evaluate": lambda net: net.evaluate(x, y, loss=loss, sample_weight=weight),
        "evaluate by the last loss": lambda net: net.evaluate(x, y),
        "loss_and_grad": lambda net: net.loss_and_grad(x, y, loss=loss, sample_weight=weight),
        "forward": lambda net: net.forward(x),
        "backward": lambda net: net.backward(gradient, accumulate=yes),
        "update": lambda net: net.update(rule),
        "backward_update": lambda net: net.backward_update(gradient, rule),
        "fit": lambda net: fitted(net, x, y, loss=loss, optimizer=rule, batch_size=4, shuffle=yes, **length),
        "freeze": lambda net: net.freeze(0, weight=yes, bias=not yes),
        "reset_training": lambda net: net.reset_training(),
        "copy": lambda net: net.__setstate__(copy.deepcopy(net).__getstate__()),
    }


def calls(rng, dtype, outputs):
    """Calls without end, as (name, function of a network); some arguments come again and again."""
    kept = [arguments(rng, dtype, outputs) for _ in range(4)]
    while True:
        if rng.random() < 0.15:
            kept[int(rng.integers(4))] = arguments(rng, dtype, outputs)
        given = kept[int(rng.integers(4))]
        gradient = 0.01 * rng.normal(size=(1 if given[0] is None else len(given[0]), outputs))
        name = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        yield name, verbs(*given, gradient, bool(rng.integers(2)))[name]


def outcome(call, net):
    """What it gave or raised, as something that compares bit by bit."""
    with np.errstate(all="ignore"):
        try:
            answer = call(net)
            return [frozen(np.asarray(part)) for part in (answer if isinstance(answer, tuple) else (answer,))]
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            return type(error), str(error)


def everything(net):
    return repr(net._state.to_dict()), net.flatten().tobytes(), [n for _, n in net._pending], frozen(net.grads[:0])


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_called_both_ways_give_the_same(seed, isa):
    """The short way wherever it is taken, against the long way always: results, errors, parameters, state."""
    rng = np.random.default_rng(seed)
    dtype, outputs = (np.float32, np.float64)[seed % 2], (3, 1, 6)[seed % 3]
    dropout = 0.3 if seed % 4 == 3 else 0.0
    short, long = (fastbp.MLP((5, 7, outputs), seed=seed, dtype=dtype, dropout=dropout) for _ in range(2))
    start, answered = short.flatten(), {}
    for _, (name, call) in zip(range(300), calls(rng, dtype, outputs)):
        long_way(long)
        heard = Heard(short)
        wanted = outcome(call, long)
        got = outcome(call, short)
        heard.leave()
        assert got == wanted, name
        assert everything(short) == everything(long), name
        if not np.isfinite(short.flatten()).all():
            for net in (short, long):
                net.unflatten(start)
        if heard.answered is not None:
            answered.setdefault(name, []).append(heard.answered)
    served = {name: sum(answers) for name, answers in answered.items()}
    wanted = {"train_step", "predict", "hidden", "input_gradient", "evaluate", "loss_and_grad", "forward", "fit"}
    assert all(served[name] for name in wanted) and sum(served.values()) >= 30, served  # else nothing was compared


SERVED = {  # calls of which the second takes the short way, as functions of (net, x, y)
    "train_step": lambda net, x, y: net.train_step(x, y, loss="mse", optimizer="sgd"),
    "a mask": lambda net, x, y: net.train_step(
        x, y, loss="mse", optimizer="sgd", sample_weight=np.eye(3)[np.arange(8) % 3]
    ),
    "missing": lambda net, x, y: net.train_step(
        x, np.where(y < 0.5, np.nan, y), loss="mse", optimizer="sgd", missing="ignore"
    ),
    "fewer rows": lambda net, x, y: net.train_step(x[:3], y[:3], loss="mse", optimizer="sgd"),
    "weights": lambda net, x, y: net.train_step(x, y, loss="mse", optimizer="sgd", sample_weight=np.arange(8)),
    "float64": lambda net, x, y: net.train_step(x.astype(float), y.astype(float), loss="mse", optimizer="sgd"),
    "strides": lambda net, x, y: net.train_step(x[::-1], y[::-1], loss="mse", optimizer="sgd"),
    "labels": lambda net, x, y: net.train_step(x, np.arange(8) % 3, loss="softmax_cross_entropy", optimizer="sgd"),
    "probabilities": lambda net, x, y: net.train_step(
        x, np.eye(3)[np.arange(8) % 3], loss="softmax_cross_entropy", optimizer="sgd"
    ),
    "an equal loss": lambda net, x, y: net.train_step(x, y, loss=fastbp.losses.huber(delta=0.5), optimizer="sgd"),
    "an optimizer made for the call": lambda net, x, y: net.train_step(
        x, y, loss="mse", optimizer=fastbp.Adam(0.01, betas=(0.5, 0.9))
    ),
    "predict": lambda net, x, y: net.predict(x),
    "predict of fewer": lambda net, x, y: net.predict(x[1:2]),
    "predict of a list": lambda net, x, y: net.predict(x[:1].tolist()),
    "predict_proba": lambda net, x, y: net.predict_proba(x, link="softmax"),
    "hidden": lambda net, x, y: net.hidden(x),
    "hidden of fewer": lambda net, x, y: net.hidden(x[:3], 0),
    "input_gradient": lambda net, x, y: net.input_gradient(x, 2),
    "input_gradient of labels": lambda net, x, y: net.input_gradient(x, np.arange(8) % 3),
    "input_gradient of a list": lambda net, x, y: net.input_gradient(x[:3], [0, 1, 2]),
    "evaluate": lambda net, x, y: net.evaluate(x, y, loss="mse"),
    "evaluate with weights": lambda net, x, y: net.evaluate(x, y, loss="mse", sample_weight=np.arange(8.0)),
    "loss_and_grad": lambda net, x, y: net.loss_and_grad(x, y, loss="mse"),
    "forward": lambda net, x, y: net.forward(x),
    "backward": lambda net, x, y: net.forward(x) is not None and net.backward(y),
    "backward_update": lambda net, x, y: net.forward(x) is not None and net.backward_update(y, "sgd"),
    "update": lambda net, x, y: net.update("adam"),
    "fit": lambda net, x, y: net.fit(x, y, optimizer="sgd", batch_size=3, epochs=2),
    "fit of steps": lambda net, x, y: net.fit(x, y, optimizer="adam", batch_size=3, steps=4, shuffle=False),
    "fit of labels": lambda net, x, y: net.fit(
        x, np.arange(8) % 3, loss="softmax_cross_entropy", optimizer="sgd", epochs=1
    ),
} | {
    f"train_step: {name}": lambda net, x, y, rule=rule: net.train_step(x, y, loss="mse", optimizer=rule())
    for name, rule in list(RULES.items())[:13]
}  # fmt: skip


@pytest.mark.parametrize("what", SERVED)
def test_the_short_way_is_taken(what):
    net, (x, y) = network(dropout=0.1), data()
    for _ in range(5):   # as many as double the steps that are foreseen
        SERVED[what](net, x, y)
    assert takes_the_short_way(net, lambda: SERVED[what](net, x, y))


LONG_RUNS = {
    "many steps": {"steps": 501},
    "no step": {"steps": 0},
    "neither": {},
    "both": {"steps": 1, "epochs": 1},
    "a share of an epoch": {"epochs": 0.5},
    "no batch": {"steps": 1, "batch_size": 0},
    "half a row": {"steps": 1, "batch_size": 2.5},
    "an order that is none": {"steps": 1, "shuffle": 1},
    "weights": {"steps": 1, "sample_weight": np.ones(8)},
    "a look at it": {"steps": 1, "eval_every": 1},
    "a seed": {"steps": 1, "seed": 3},
    "a callback": {"steps": 1, "callbacks": [fastbp.Callback()]},
    "a rule of all rows": {"steps": 1, "optimizer": "rprop"},
    "lbfgs": {"steps": 1, "optimizer": "lbfgs"},
    "more than it can hold": {"steps": 3, "optimizer": fastbp.SGD(1e38)},
}


@pytest.mark.parametrize("what", LONG_RUNS)
def test_a_run_that_is_not_plain_goes_the_long_way(what):
    (net, other), (x, y) = (network(), network()), data()
    for each in (net, other):
        for optimizer in ("adam", "sgd"):
            each.fit(x, y, optimizer=optimizer, batch_size=3, steps=2)
    long_way(other)
    given = {"optimizer": "sgd", "batch_size": 3} | LONG_RUNS[what]
    got, wanted = (outcome(lambda net: fitted(net, x, y, **given), each) for each in (net, other))
    assert got == wanted and everything(net) == everything(other)


@pytest.mark.parametrize("rule", ["sgd", "adam", fastbp.SGD(fastbp.schedules.Cosine(0.1, 99))], ids=str)
def test_a_run_as_long_as_the_piece_of_the_last_one_takes_the_short_way(rule, monkeypatch):
    """Nobody knows how fast the first one is: it goes in pieces, and the next one of as many steps in one."""
    monkeypatch.setattr("fastbp.backends.again._PIECE_STEPS", 2)
    (net, other), (x, y) = (network(), network()), data()
    long_way(other)
    runs = ((3, 40, 0), (3, 40, 1), (2, 40, 0), (3, 1, 1), (3, 400, 0), (3, 400, 1), (3, 7, 1))
    for batch_size, steps, short in runs:
        run = {"loss": "mse", "optimizer": rule, "batch_size": batch_size, "steps": steps}
        assert takes_the_short_way(net, lambda run=run: net.fit(x, y, **run)) == short
        other.fit(x, y, **run)
        assert everything(net) == everything(other)


def test_targets_are_looked_at_wherever_they_lie():
    """By vectors of two, in pieces: each place of an odd number of them."""
    rng = np.random.default_rng(2)
    for rows, dtype in ((1, np.float32), (43, np.float32), (50, np.float64), (86, ">f4")):
        net, x, y = network(), rng.normal(size=(rows, 5)), rng.normal(size=(rows, 3)).astype(dtype)
        assert np.isfinite(net.fit(x, y, batch_size=rows, steps=1).loss[0])
        before = everything(net)
        for place in range(y.size):
            wrong = y.copy()
            wrong.flat[place] = (np.nan, np.inf, -np.inf)[place % 3]
            with pytest.raises(ValueError, match=rf"y\[{place // 3}, {place % 3}\]"):
                net.fit(x, wrong, batch_size=rows, steps=1)
        assert everything(net) == before


def test_a_short_run_leaves_nothing_where_its_end_is_no_number():
    """The long way says at which step: it finds everything as it was, and makes the same steps."""
    net, (x, y) = network(), data()
    for _ in range(2):
        net.fit(x, y, optimizer=fastbp.SGD(0.1, average=0.9, momentum=0.9), batch_size=3, steps=3)
    y[6, 1] = 1e38
    before, states = net.flatten(), []
    looked = mock.patch("fastbp.mlp.make_examples", side_effect=lambda *a, **b: states.append(everything(net)) or 0 / 0)
    with looked:
        wanted = everything(net)
        with pytest.raises(ZeroDivisionError):
            net.fit(x, y, optimizer=fastbp.SGD(0.1, average=0.9, momentum=0.9), batch_size=3, steps=3, shuffle=False)
    assert states == [wanted] and np.array_equal(net.flatten(), before)


def test_a_plateau_is_told_of_its_own_epochs_alone():
    (net, other), (x, y) = (network(), network()), data()
    plateau = fastbp.SGD(fastbp.schedules.ReduceOnPlateau(0.1, patience=0, threshold=0.5))
    for each in (net, other):
        for optimizer in (plateau, "sgd", plateau, "sgd", "sgd"):
            if each is other:
                long_way(other)
            each.fit(x, y, optimizer=optimizer, batch_size=4, epochs=3)
    assert everything(net) == everything(other) and net._state.plateau["scale"] < 1


FIRST_STEPS = {  # what is new about a step, after one of plain SGD on 8 rows by "mse"
    "the network": lambda net, x, y: network().train_step(x, y, optimizer="sgd"),
    "more rows": lambda net, x, y: net.train_step(np.tile(x, (3, 1)), np.tile(y, (3, 1)), optimizer="sgd"),
    "the loss": lambda net, x, y: net.train_step(x, y, loss="huber", optimizer="sgd"),
    "the optimizer": lambda net, x, y: net.train_step(x, y, optimizer="adam"),
    "a list": lambda net, x, y: network().train_step(x.tolist(), y.tolist(), optimizer="sgd"),
}


@pytest.mark.parametrize("what", FIRST_STEPS)
def test_a_step_of_a_new_kind_takes_the_short_way(what):
    (net, other), (x, y) = (network(), network()), data()
    long_way(other)
    with mock.patch("fastbp.mlp.arguments.samples", side_effect=AssertionError("checked in full")):
        net.train_step(x, y, optimizer="sgd")
        value = FIRST_STEPS[what](net, x, y)
        with pytest.raises(AssertionError, match="checked in full"):
            other.train_step(x, y, optimizer="sgd")
    other.train_step(x, y, optimizer="sgd")
    assert value == FIRST_STEPS[what](other, x, y) and same(net, other)


def test_a_step_that_cannot_be_made_is_told_in_the_order_of_its_arguments():
    net, (x, y) = network(), data()
    for wrong in ({"loss": "msee"}, {"optimizer": 3}, {"loss": "msee", "optimizer": 3}, {"optimizer": fastbp.LBFGS()}):
        for rows in (x[:, 1:], x[:0], x[0], np.float32(1.0), [], [[]]):
            with pytest.raises((ValueError, TypeError), match="X "):
                net.train_step(rows, y, **wrong)
        with pytest.raises((ValueError, TypeError), match="loss" if "loss" in wrong else "optimizer"):
            net.train_step(x, y, **wrong)
    with pytest.raises(ValueError, match="y must have shape"):
        net.train_step(x, y[:, 1:], optimizer=3)
    assert net.step == 0 and net._again.calls is LONG_WAY


def test_what_alternates_takes_the_short_way():
    net, (x, y) = network(), data()
    some = [call for what, call in SERVED.items() if what not in ("probabilities", "train_step: average")]
    for _ in range(2):
        for call in some[:16]:
            call(net, x, y)
    for call in some[:16]:
        assert takes_the_short_way(net, lambda call=call: call(net, x, y))


def test_rows_up_to_the_largest_seen_take_the_short_way():
    net, (x, y) = network(), data(rows=300)
    for call in (lambda n: net.predict(x[:n]), lambda n: net.train_step(x[:n], y[:n], loss="mse", optimizer="sgd"),
                 lambda n: net.evaluate(x[:n], y[:n], loss="mse")):  # fmt: skip
        call(40)
        assert [takes_the_short_way(net, lambda n=n, call=call: call(n)) for n in (64, 65, 3, 128)] == [1, 0, 1, 1]
        call(300)
        assert takes_the_short_way(net, lambda call=call: call(290))


def test_no_more_kinds_of_calls_are_kept_than_some():
    net, (x, y) = network(), data()
    for k in range(100):
        net.train_step(x, y, loss="mse", optimizer=fastbp.SGD(0.001 * (k + 1)))
    for k in (99, 86):
        step = lambda k=k: net.train_step(x, y, loss="mse", optimizer=fastbp.SGD(0.001 * (k + 1)))  # noqa: E731
        assert takes_the_short_way(net, step)
    assert not takes_the_short_way(net, lambda: net.train_step(x, y, loss="mse", optimizer=fastbp.SGD(0.001)))


# ------------------------------------------------------------------ what changes in between is seen


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_are_named_as_on_the_long_way_and_change_nothing(bad):
    net, (x, y) = network(), data()
    net.train_step(x, y)
    before = net.flatten()
    wrong_x, wrong_y = x.copy(), y.copy()
    wrong_x[3, 2], wrong_y[4, 1] = np.nan, bad
    with pytest.raises(ValueError, match=r"y\[4, 1\]"):
        net.train_step(x, wrong_y)
    with pytest.raises(fastbp.NonFiniteError, match="row 3, column 2"):
        net.train_step(wrong_x, y)
    assert np.array_equal(net.flatten(), before)
    assert net.step == 1
    net.train_step(x, y)
    assert net.step == 2


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_labels_out_of_range_are_named(label):
    net, (x, y) = network(), data("softmax_cross_entropy")
    net.train_step(x, y, loss="softmax_cross_entropy")
    y[5] = label
    with pytest.raises(ValueError, match=r"y\[5\]"):
        net.train_step(x, y, loss="softmax_cross_entropy")


def test_targets_outside_of_the_domain_are_named():
    net, (x, y) = network(), data("binary_cross_entropy")
    net.train_step(x, y, loss="binary_cross_entropy")
    y[5, 0] = 1.5
    with pytest.raises(ValueError, match=r"y\[5, 0\]"):
        net.train_step(x, y, loss="binary_cross_entropy")


def test_arrays_in_the_parameters_are_copied_first():
    sizes = (4, 16, 4)  # of more than the tiny, whose rows are copied before they are used
    nets = [fastbp.MLP(sizes, seed=2) for _ in range(2)]
    start = np.ones((4, 4), np.float32)
    for net in nets:
        net.train_step(start, start)
    inside = nets[0].params[: 4 * 16].reshape(4, 16)[:, :4]
    packed = nets[0].params[:16].reshape(4, 4)
    for view in (inside, packed):
        nets[1].unflatten(nets[0].flatten())
        copies = view.copy()
        nets[0].train_step(view, start)
        long_way(nets[1])
        nets[1].train_step(copies, start)
        assert same(*nets)
        for rows, targets in ((view, start), (start, view)):
            pairs = [nets[0], rows, targets], [nets[1], rows.copy(), targets.copy()]
            for net, *given in pairs:
                net.fit(*given, optimizer=fastbp.SGD(0.1), batch_size=1, epochs=2)
            assert same(*nets)


def test_new_slots_are_seen():
    momentum, (x, y) = fastbp.SGD(0.1, momentum=0.9), data()
    net, other = network(), network()
    for each in (net, other):
        for _ in range(3):
            each.train_step(x, y, optimizer=momentum)
        each.reset_training()
        if each is other:
            long_way(other)
        each.train_step(x, y, optimizer=momentum)
    assert same(net, other)


def test_what_is_frozen_later_is_seen():
    net, other, (x, y) = network(), network(), data()
    for weight in (False, True, False):
        for each in (net, other):
            each.freeze(0, weight=weight, bias=False)
            before = each.weights[0].copy()
            if each is other:
                long_way(other)
            for _ in range(3):
                each.train_step(x, y)
            assert np.array_equal(each.weights[0], before) == weight
        assert same(net, other)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_another_run_leaves_is_seen(optimizer):
    """Gradients that wait for an update wait in vain; predict_proba goes by the last loss."""
    by_name, (x, y), (_, labels) = fastbp.optimizers.BY_NAME[optimizer], data(), data("softmax_cross_entropy")
    others = (
        {"y": labels, "loss": "softmax_cross_entropy", "optimizer": optimizer},
        {"y": y, "optimizer": by_name(accumulate=3)},
    )
    for other in others:
        short, long = network(), network()
        for _ in range(2):
            for net in (short, long):
                for _ in range(2):
                    net.train_step(x, y, optimizer=optimizer)
            assert repr(short._state.to_dict()) == repr(long._state.to_dict())
            for net in (short, long):
                net.fit(x, steps=1, **other)
            long_way(long)
        assert same(short, long)


@pytest.mark.parametrize("what", ["train_step", "fit", "predict"])
def test_what_was_remembered_is_remembered_anew_where_something_else_is_forced(what, monkeypatch):
    net, (x, y) = network(), data()
    for number in ("1", "2", "1"):
        monkeypatch.setenv("FASTBP_NUM_THREADS", number)
        SERVED[what](net, x, y)
        assert takes_the_short_way(net, lambda: SERVED[what](net, x, y))


def test_what_is_forced_later_is_seen(monkeypatch):
    net, (x, y) = network(), data()

    def again():
        calls = net._again.calls
        return calls.train_step(x, y, "mse", "sgd", None, "raise") is not None, calls.predict(x) is not None

    net.train_step(x, y, optimizer="sgd")
    net.predict(x)
    assert again() == (True, True)
    for name in ("FASTBP_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
        assert again() == (False, False)
        monkeypatch.delenv(name)
    monkeypatch.setenv("UNHEARD_OF", "1")
    assert again() == (True, True)
    monkeypatch.setenv("FASTBP_BACKEND", "reference")
    assert again() == (False, False)
    monkeypatch.delenv("FASTBP_BACKEND")
    monkeypatch.setenv("FASTBP_ISA", "no such")
    assert again() == (False, False)
    with pytest.raises(RuntimeError, match="no such"):
        net.predict(x)
    monkeypatch.delenv("FASTBP_ISA")
    assert again() == (True, True)
    with fastbp.backend("reference"):
        assert again() == (False, False)
    fastbp.set_backend("reference")
    try:
        assert again() == (False, False)
    finally:
        fastbp.set_backend("auto")


def test_a_backend_that_another_thread_sets_during_the_first_call_is_seen(monkeypatch):
    net, (x, _) = network(), data()
    plan_of = type(net)._plan_of_blocks

    def plan_then_set(*arguments, **more):
        plan = plan_of(*arguments, **more)
        fastbp.set_backend("reference")
        return plan

    monkeypatch.setattr(type(net), "_plan_of_blocks", plan_then_set)
    try:
        net.predict(x)
        assert not takes_the_short_way(net, lambda: net.predict(x))
    finally:
        fastbp.set_backend("auto")


def test_the_backend_that_compile_stays_with_is_that_of_calls_made_again(monkeypatch):
    served = []
    for verb in ("forward", "train"):
        inner = getattr(reference.Program, verb)
        monkeypatch.setattr(
            reference.Program, verb,
            lambda *args, inner=inner, verb=verb, **options: served.append(verb) or inner(*args, **options),
        )  # fmt: skip
    net, (x, y) = network(backend="cython"), data()
    for _ in range(2):
        net.predict(x)
        net.train_step(x, y, optimizer="sgd")
    net.compile("reference")
    twin = network(backend="reference")
    step = lambda one: one.train_step(x, y, optimizer="sgd")  # noqa: E731
    twin.unflatten(net.flatten())
    for call in (lambda one: one.predict(x), step, lambda one: one.predict(x)):
        served.clear()
        values = [frozen(call(one)) for one in (net, twin)]
        assert values[0] == values[1] and len(served) >= 2 and len(set(served)) == 1
    assert net.flatten().tobytes() == twin.flatten().tobytes()


def test_a_pending_forward_is_dropped_by_a_step_and_kept_by_an_error():
    net, (x, y) = network(), data()
    net.train_step(x, y)
    a = net.forward(x)
    with pytest.raises(ValueError):
        net.train_step(x, y * np.nan)
    net.backward(a)
    net.forward(x)
    net.train_step(x, y)
    with pytest.raises(RuntimeError, match="no forward is pending"):
        net.backward(a)


def test_a_network_that_is_training_elsewhere_refuses():
    net, (x, y) = network(), data()
    net.train_step(x, y)
    with net._exclusive(), pytest.raises(RuntimeError, match="training already"):
        net.train_step(x, y)
    net.train_step(x, y)


def test_copies_and_pickles_have_their_own():
    net, (x, y) = network(), data()
    net.train_step(x, y)
    other = pickle.loads(pickle.dumps(net))
    for each in (net, other):
        each.train_step(x, y)
    assert same(net, other)
    net.train_step(x, y)
    assert not same(net, other)


def test_what_is_pending_is_out_of_reach_of_other_calls_while_it_is_used():
    rng = np.random.default_rng(0)
    first, second, g = rng.normal(size=(9, 5)), rng.normal(size=(14, 5)), rng.normal(size=(14, 3))

    class Gradient:
        """Another thread goes forward as soon as somebody looks at it."""

        def __array__(self, dtype=None, copy=None):
            net.forward(second)
            return g[:9]

    for verb in ("backward", "backward_update"):
        net, other = network(), network()
        for each in (net, other):
            each.forward(first)
            each.backward(g[:9])
            each.forward(first)
        assert np.array_equal(getattr(net, verb)(Gradient()), getattr(other, verb)(g[:9]))
        if verb == "backward":
            other.forward(second)
            assert np.array_equal(net.backward(g), other.backward(g))


def test_an_interrupt_as_a_gradient_gets_its_room_leaves_what_is_pending(monkeypatch):
    net, (x, y) = network(), data()
    is_interrupted, zeros = [], fastbp.spec.aligned_zeros

    def room(*arguments):
        if is_interrupted:
            raise KeyboardInterrupt
        return zeros(*arguments)

    monkeypatch.setattr(fastbp.spec, "aligned_zeros", room)
    rule = fastbp.SGD(0.1, clip_norm=1.0)
    net.forward(x)
    net.backward_update(y, rule)
    net.forward(x)
    is_interrupted.append(True)
    with pytest.raises(KeyboardInterrupt):
        net.backward_update(y, rule)
    is_interrupted.clear()
    assert takes_the_short_way(net, lambda: net.backward_update(y, rule))


@pytest.mark.parametrize("verb", ["evaluate", "loss_and_grad"])
def test_programs_that_other_threads_take_meanwhile_are_not_missed(verb):
    net, (x, y) = network(), data()

    def call():
        return getattr(net, verb)(x, y, loss="mse", sample_weight=np.arange(1.0, 9.0))

    wanted = call()

    def take(frame, event, what):
        if frame.f_code.co_name == "_sum":   # of NumPy, which is Python
            for idle in net._programs._idle.values():
                idle.clear()

    sys.setprofile(take)
    try:
        got = call()
    finally:
        sys.setprofile(None)
    assert repr(got) == repr(wanted)


def test_predict_from_many_threads():
    net, (x, _) = network(), data(rows=200)
    wanted = net.predict(x)
    wrong = []

    def work(k):
        for n in range(1, 150):
            if not np.array_equal(net.predict(x[k : k + n]), wanted[k : k + n]) and n > 24:
                wrong.append((k, n))

    in_threads(work)
    assert not wrong


def test_ops_called_again_see_new_arrays_and_rows(isa):
    rng = np.random.default_rng(0)
    for k in range(60):   # more kinds of layers than are kept, and the first ones again
        n_in, n_out, name = 3 + k % 40, 5, ("relu", "tanh")[k % 2]
        x, weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((6, n_in), (n_in, n_out), n_out))
        with fastbp.backend("reference"):
            wanted = fastbp.ops.linear(x, weight, bias, name)
        got = fastbp.ops.linear(x, weight, bias, name)
        assert_close(got, wanted, np.float32, 4 * n_in)
        grads = fastbp.ops.linear_backward(got, got, x, weight, name)
        with fastbp.backend("reference"):
            for a, b in zip(grads, fastbp.ops.linear_backward(got, got, x, weight, name)):
                assert_close(a, b, np.float32, n_in + 6)


def test_ops_from_many_threads():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(8, 40, 30)).astype(np.float32)
    x = rng.normal(size=(9, 40)).astype(np.float32)
    wanted = [fastbp.ops.linear(x, weight) for weight in weights]
    wrong = []

    def work(k):
        for _ in range(300):
            if not np.array_equal(fastbp.ops.linear(x, weights[k]), wanted[k]):
                wrong.append(k)

    in_threads(work)
    assert not wrong


def test_objects_are_cast_each_time():
    net, other = network(), network()
    x, y = data()
    for each, rows in ((net, x.astype(object)), (other, x)):
        for _ in range(3):
            each.train_step(rows, y)
    assert same(net, other)


def test_numbers_that_are_no_labels_go_the_long_way():
    net = fastbp.MLP((5, 1), seed=1)
    x, _ = data()
    net.train_step(x, np.ones(8, np.float32), loss="softmax_cross_entropy")
    with pytest.raises(ValueError, match="probabilities"):
        net.train_step(x, np.full(8, 0.5, np.float32), loss="softmax_cross_entropy")


def test_an_optimizer_of_another_type_is_refused_and_one_of_a_subclass_is_asked_each_time():
    class Falling(fastbp.SGD):
        def scalars(self, step, steps, **more):
            return [np.broadcast_to(np.float64(0.1 / (step + 1)), steps)]

    x, y = data()
    net, other = network(), network()
    for step in range(4):
        net.train_step(x, y, optimizer=Falling(0.1))
        other.train_step(x, y, optimizer=fastbp.SGD(0.1 / (step + 1)))
    assert same(net, other)
    other.train_step(x, y, optimizer="sgd")
    for wrong in (np.zeros(3), None, mock.ANY):
        with pytest.raises(TypeError, match="optimizer"):
            other.train_step(x, y, optimizer=wrong)


def test_no_reference_is_left_behind():
    net, (x, y) = network(), data()
    net.train_step(x, y)
    net.predict(x)
    objects = [None, x, y, net._state, net._training, net._again, net._again.calls]
    before = [sys.getrefcount(thing) for thing in objects]
    for _ in range(2000):
        net.train_step(x, y)
        net.predict(x)
    assert max(sys.getrefcount(thing) - n for thing, n in zip(objects, before)) < 100


def test_ops_keep_little_and_threads_may_crowd_them_out():
    rng = np.random.default_rng(0)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(300):
            n_in, n_out = rng.integers(1, 30, 2)
            x, weight = rng.normal(size=(3, n_in)), rng.normal(size=(n_in, n_out))
            try:
                assert_close(fastbp.ops.linear(x, weight), x @ weight, np.float64, n_in)
            except Exception as error:   # whatever a thread meets
                wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(work)
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    _, before, _ = backends.engine().allocations()
    for k in range(40):
        large = rng.normal(size=(1 << 16) - k)
        fastbp.ops.sgd_update(large, large.copy(), 0.1)
    assert backends.engine().allocations()[1] - before < 1 << 20


def test_an_array_that_overlaps_itself_is_refused_and_an_empty_one_is_not():
    window = np.lib.stride_tricks.as_strided(np.ones(4), (3, 2), (8, 8))
    with pytest.raises(ValueError, match="overlap"):
        fastbp.ops.sgd_update(window, np.ones((3, 2)), 0.1)
    fastbp.ops.sgd_update(np.ones((0, 4)), np.ones((0, 4)), 0.1)
    assert fastbp.ops.linear(np.ones((0, 3)), np.ones((3, 2)), out=np.empty((0, 2))).shape == (0, 2)
    for view in (np.ones((4, 6)).T, np.ones((4, 6))[::2, ::-3], np.ones((4, 1, 6))[:, 0]):
        fastbp.ops.sgd_update(view, np.ones(view.shape), 0.25)
        assert (view == 0.75).all()


@pytest.mark.parametrize("activation", [["identity", "relu"], ["silu", "identity"], ["silu", "silu"]])
def test_a_bias_that_overflows_beside_the_batch_does_not_reach_a_tiny_network(activation, isa):
    net = fastbp.MLP((1, 1, 1, 1), seed=0, activation=activation)
    for k, (weight, bias) in enumerate(((-3e38, 3e38), (4, 0), (1, 0))):
        net.weights[k][...], net.biases[k][...] = weight, bias
    before = net.flatten()
    net.train_step(np.ones((3, 1), np.float32), np.ones((3, 1), np.float32), optimizer=fastbp.SGD(lr=0))
    assert np.array_equal(net.flatten(), before)
