"""What waits during a run: validation, metrics, callbacks, early stopping, checkpoints, time, progress."""

import copy
import io
import itertools
import math
import pickle
import sys
import time
import types

import numpy as np
import pytest
from test_again import long_way
from tolerance import assert_close

import fastbp
from fastbp import callbacks, metrics

rng = np.random.default_rng(7)
N, N_IN, N_OUT = 50, 5, 3
X = rng.normal(size=(N, N_IN)).astype(np.float32)
LABELS = rng.integers(0, N_OUT, N)
Y = rng.normal(size=(N, N_OUT)).astype(np.float32)
VALIDATION = X[:17] + 1, LABELS[:17]
RULE = fastbp.SGD(lr=0.05, momentum=0.9)
RUN = {"loss": "softmax_cross_entropy", "optimizer": RULE, "batch_size": 8}  # 7 steps an epoch
PER_EPOCH = 7


def build(backend="auto"):
    return fastbp.MLP((N_IN, 6, N_OUT), activation="tanh", seed=3, backend=backend)


def state(net):
    """Parameters, slots, step, epoch, position: all that training moves."""
    return pickle.dumps(net.__getstate__()["state"]) + net.flatten().tobytes()


def trained(steps, backend="auto", **options):
    net = build(backend)
    net.fit(X, LABELS, steps=steps, **RUN | options)
    return net


class TakesNothing(fastbp.Callback):
    def on_epoch_end(self):
        raise AssertionError


class Misspelt(fastbp.Callback):
    def on_epochend(self, net, logs):
        raise AssertionError


class Recorder(fastbp.Callback):
    """Writes down what it is told, and does what it is given at one of these moments."""

    def __init__(self, at=None, act=None):
        self.told, self.at, self.act = [], at, act

    def _hear(self, hook, net, logs=None):
        self.told.append((hook, net.step, logs))
        if (hook, net.step) == self.at:
            self.act(net)

    def on_train_begin(self, net):
        self._hear("on_train_begin", net)

    def on_eval(self, net, logs):
        self._hear("on_eval", net, logs)

    def on_epoch_end(self, net, logs):
        self._hear("on_epoch_end", net, logs)

    def on_train_end(self, net, logs):
        self._hear("on_train_end", net, logs)


MOMENTS = [("on_train_begin", 0), ("on_eval", 7), ("on_epoch_end", 7), ("on_eval", 14), ("on_epoch_end", 14),
           ("on_eval", 16), ("on_train_end", 16)]  # fmt: skip


# ------------------------------------------------------------------ nothing leaves a trace

WAITING = {
    "validation": lambda tmp: {"validation_data": VALIDATION},
    "metrics": lambda tmp: {"metrics": ("accuracy", "balanced_accuracy", "top_2")},
    "both, every 3 steps": lambda tmp: {"validation_data": VALIDATION, "metrics": ["accuracy"], "eval_every": 3},
    "a callback": lambda tmp: {"callbacks": [Recorder()]},
    "a time limit": lambda tmp: {"callbacks": [fastbp.TimeLimit(1000)]},
    "lines": lambda tmp: {"verbose": 2},
    "a bar": lambda tmp: {"progress": True},
}


@pytest.mark.parametrize("what", WAITING)
def test_what_waits_leaves_no_trace_in_the_network(backend, what, tmp_path, capsys):
    if what == "a bar":
        pytest.importorskip("tqdm")
    assert state(trained(40, backend, **WAITING[what](tmp_path))) == state(trained(40, backend))


def test_where_nothing_waits_an_epochs_end_does_not_enter_python(backend, monkeypatch):
    def calls(**options):
        net, count = build(backend), itertools.count()
        long_way(net)
        net.fit(X, LABELS, steps=0, **RUN)
        (program,) = net._programs._idle.popitem()[1]

        class Counting:
            plan, finite, piece = program.plan, program.finite, program.piece

            def train(self, *args, **kwargs):
                next(count)
                return program.train(*args, **kwargs)

        net._programs.idle(program.plan).append(Counting())
        net.fit(X, LABELS, epochs=20, **RUN | options)
        return next(count)

    monkeypatch.setattr("fastbp.training.run.CHUNK_SECONDS", 100)
    assert calls() == calls(callbacks=[fastbp.TimeLimit(100)]) == calls(verbose=20) == 1
    assert calls(validation_data=VALIDATION) == calls(callbacks=[Recorder()]) == calls(verbose=1) == 20
    assert calls(verbose=10) == 2
    assert calls(eval_every=35) == 4


# ------------------------------------------------------------------ the history


def test_each_entry_has_what_was_measured_at_its_step(backend):
    history = build(backend).fit(X, LABELS, steps=16, validation_data=VALIDATION, metrics=["accuracy"], **RUN)
    assert history.step.tolist() == [7, 14, 16]
    assert list(history.columns) == ["lr", "val_loss", "val_accuracy"]
    assert list(history.metrics) == ["val_accuracy"]
    for k, step in enumerate(history.step):
        twin = trained(int(step), backend)
        assert history.val_loss[k] == twin.evaluate(*VALIDATION, loss=RUN["loss"])
        assert history.metrics["val_accuracy"][k] == np.mean(twin.predict(VALIDATION[0]).argmax(1) == VALIDATION[1])
    assert np.array_equal(history.loss, build(backend).fit(X, LABELS, steps=16, **RUN).loss)
    assert np.array_equal(history.lr, [0.05] * 3)
    assert history.stopped is None and history.n_steps == 16


def test_with_eval_every_loss_and_metrics_are_those_of_all_rows_at_each_kth_step():
    history = build().fit(X, LABELS, steps=11, eval_every=5, metrics=["accuracy"], **RUN)
    assert history.step.tolist() == [5, 10]
    for k, step in enumerate(history.step):
        twin = trained(int(step))
        assert history.loss[k] == twin.evaluate(X, LABELS, loss=RUN["loss"])
        assert history.columns["accuracy"][k] == np.mean(twin.predict(X).argmax(1) == LABELS)
    both = build().fit(X, LABELS, steps=11, eval_every=5, validation_data=VALIDATION, **RUN)
    assert np.array_equal(both.loss, history.loss)
    assert both.val_loss[1] == trained(10).evaluate(*VALIDATION, loss=RUN["loss"])


def test_the_rate_of_an_entry_is_that_of_the_step_before_it(backend):
    rule = fastbp.SGD(lambda step: 0.1 / (1 + step))
    history = build(backend).fit(X, LABELS, steps=16, **RUN | {"optimizer": rule})
    assert history.lr.tolist() == [0.1 / 7, 0.1 / 14, 0.1 / 16]
    history = build(backend).fit(X, LABELS, steps=16, eval_every=5, **RUN | {"optimizer": rule})
    assert history.lr.tolist() == [0.1 / 5, 0.1 / 10, 0.1 / 15]
    history = build(backend).fit([(X, LABELS)] * 3, epochs=2, **RUN | {"optimizer": rule})
    assert history.lr.tolist() == [0.1 / 3, 0.1 / 6]


def test_without_validation_the_column_is_nan_and_metrics_are_none():
    history = build().fit(X, LABELS, epochs=3, **RUN)
    assert history.val_loss.shape == (3,) and np.isnan(history.val_loss).all() and history.metrics == {}
    assert "stopped" not in repr(history)


def test_validation_rows_may_have_weights():
    weight = rng.uniform(size=17)
    history = build().fit(X, LABELS, epochs=1, validation_data=(*VALIDATION, weight), metrics=["accuracy"], **RUN)
    twin = trained(7)
    assert history.val_loss[0] == twin.evaluate(*VALIDATION, loss=RUN["loss"], sample_weight=weight)
    a = twin.predict(VALIDATION[0]).astype(float)
    each = np.log(np.exp(a).sum(axis=1)) - a[range(17), VALIDATION[1]]
    assert_close(history.val_loss[0], np.average(each, weights=weight), np.float32)
    right = twin.predict(VALIDATION[0]).argmax(1) == VALIDATION[1]
    assert_close(history.metrics["val_accuracy"][0], np.average(right, weights=weight), np.float64)


def test_small_weights_of_validation_rows_are_those_of_an_average():
    weight = 1e-310 * rng.integers(0, 4, size=17)
    metrics = ["accuracy", "balanced_accuracy", "top_2"]
    both = [build().fit(X, LABELS, epochs=1, validation_data=(*VALIDATION, w), metrics=metrics, **RUN)
            for w in (weight, np.ldexp(weight, 1000))]  # fmt: skip
    assert np.isfinite(both[0].val_loss).all()
    assert both[0].to_dict() == both[1].to_dict()


def as_given(X):
    return {"validation_data": (X, VALIDATION[1])}


def as_float64(X):
    return as_given(X.astype(np.float64))


def as_batches(X):
    return as_given(X) | {"X": [(X[:8] * 0, LABELS[:8])] * 30, "y": None, "batch_size": 32}


@pytest.mark.parametrize("form", [as_given, as_float64, as_batches])
def test_validation_rows_that_are_not_finite_are_named(backend, form):
    bad = VALIDATION[0].copy()
    bad[11, 2] = np.nan
    net, options = build(backend), {"X": X, "y": LABELS, "epochs": 2, **RUN, **form(bad)}
    with pytest.raises(fastbp.NonFiniteError, match="val_loss.*; validation_data: X holds nan at row 11, column 2"):
        net.fit(**options)
    assert net.step and net.epoch == 1 and np.isfinite(net.flatten()).all()
    history = build(backend).fit(**options, nonfinite="ignore")
    assert np.isnan(history.val_loss).all() and len(history.val_loss) == 2


def test_a_val_loss_that_overflows_on_finite_rows_is_a_bad_result():
    history = build().fit(X, Y, epochs=2, validation_data=(X, np.full_like(Y, 1e30)), batch_size=8)
    assert np.isinf(history.val_loss).all()


def test_lines_come_every_so_many_epochs(capsys):
    build().fit(X, LABELS, epochs=7, verbose=3, validation_data=VALIDATION, metrics=["accuracy"], **RUN)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("loss")[0] for line in lines] == ["epoch 3  step 21  ", "epoch 6  step 42  "]
    assert all(name in lines[0] for name in (" lr 0.05", " val_loss ", " val_accuracy "))
    build().fit(X, LABELS, epochs=2, verbose=False, **RUN)
    assert capsys.readouterr().out == ""
    build().fit(X, LABELS, epochs=2, verbose=True, **RUN)
    assert len(capsys.readouterr().out.splitlines()) == 2


# ------------------------------------------------------------------ metrics


def test_metrics_are_what_a_hand_computes():
    logits = np.array([[2, 1, 0], [0, 3, 1], [1, 0, 5], [9, 8, 7.0]])
    labels, loss = np.array([0, 2, 2, 2]), fastbp.losses.TABLE["softmax_cross_entropy"]

    def of(name, y=labels, a=logits, weight=None, loss=loss):
        (metric,) = metrics.find_all([name], loss, y, a.shape[1])
        return metrics.measure([metric], y, a, weight, loss)[name]

    assert of("accuracy") == 2 / 4
    assert_close(of("balanced_accuracy"), (1 + 1 / 3) / 2, np.float64)
    assert (of("top_1"), of("top_2")) == (2 / 4, 3 / 4)
    assert of("accuracy", weight=np.array([1, 0, 0, 3.0])) == 1 / 4
    assert of("balanced_accuracy", weight=np.array([0, 1, 1, 2.0])) == 1 / 4  # a class that weighs nothing is not there
    assert of("accuracy", y=np.eye(3)[labels]) == 2 / 4  # rows of probabilities
    assert of("accuracy", a=np.full((4, 3), np.nan)) == 0
    one_nan = np.where(np.arange(12).reshape(4, 3) == 7, np.nan, logits)  # where it was right
    assert (of("accuracy"), of("accuracy", a=one_nan)) == (2 / 4, 1 / 4)
    for outputs in (255, 256, 257, 1000):  # of labels 0: below this many
        a = -np.arange(4.0)[:, None] * (np.arange(outputs) == 0) + np.arange(outputs) / outputs
        assert of("top_254", np.zeros(4, int), a) == 0
        assert of(f"top_{outputs - 1}", np.zeros(4, int), -a) == 4 / 4
    mse, y, a = fastbp.losses.TABLE["mse"], np.array([[0.0], [1], [2], [5]]), np.array([[0.0], [2], [2], [2]])
    assert of("mae", y, a, loss=mse) == 1
    assert of("rmse", y, a, loss=mse) == math.sqrt(10 / 4)
    assert_close(of("r2", y, a, loss=mse), 1 - 10 / 14, np.float64)
    constant = np.ones((4, 2))
    assert of("r2", constant, constant, loss=mse) == 1  # all that there is to explain is explained
    assert of("r2", constant, constant + [[0, 0], [1, 0], [0, 0], [0, 0]], loss=mse) == (0 + 1) / 2
    bce, yes = fastbp.losses.TABLE["binary_cross_entropy"], np.array([[0.0], [1], [1], [0]])
    assert of("accuracy", yes, np.array([[-1.0], [0.2], [0.3], [-0.1]]), loss=bce) == 4 / 4  # logits: above 0
    assert of("accuracy", yes, np.array([[0.4], [0.6], [0.7], [0.1]]), loss=mse) == 4 / 4  # above one half
    signs, near = 2 * yes - 1, np.array([[-0.1], [0.2], [-0.1], [0.4]])  # of -1 and 1 the cut is 0
    assert of("accuracy", signs, near, loss=mse) == of("balanced_accuracy", signs, near, loss=mse) == 2 / 4
    assert of("accuracy", np.ones((4, 1)), near, loss=fastbp.losses.TABLE["hinge"]) == 2 / 4
    for no_classes, what in (([[-1.0], [-0.5]], r"y\[1\] = -0\.5"), ([[1.0], [2.0]], r"y\[1\] = 2\.0")):
        with pytest.raises(ValueError, match=f"metrics: 'accuracy' compares classes, and {what} names none"):
            of("accuracy", np.array(no_classes), near[:2], loss=mse)
    assert of("accuracy", np.eye(2), np.array([[1.0, 1], [-1, 1]]), loss=bce) == 3 / 4  # each output by itself
    pairs = fastbp.losses.TABLE["gaussian_nll"]  # means and log-variances: the means are compared
    for name in ("mae", "rmse", "r2"):
        assert of(name, y, np.hstack([a, a + 9]), loss=pairs) == of(name, y, a, loss=mse)
    with pytest.raises(ValueError, match="metrics: 'accuracy' compares classes, and 'gaussian_nll' has none"):
        of("accuracy", y, np.hstack([a, a]), loss=pairs)


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_are_those_of_scikit_learn(weighted):
    peer = pytest.importorskip("sklearn.metrics")
    r = np.random.default_rng(0)
    a, t, labels = r.normal(size=(90, 4)), r.normal(size=(90, 4)), r.integers(0, 4, 90)
    weight = r.uniform(size=90) if weighted else None
    kinds, mse = fastbp.losses.TABLE["softmax_cross_entropy"], fastbp.losses.TABLE["mse"]
    found = metrics.measure(
        metrics.find_all(["accuracy", "balanced_accuracy", "top_3"], kinds, labels, 4), labels, a, weight, kinds
    ) | metrics.measure(metrics.find_all(["r2", "mae", "rmse"], mse, t, 4), t, a, weight, mse)
    wanted = {
        "accuracy": peer.accuracy_score(labels, a.argmax(1), sample_weight=weight),
        "balanced_accuracy": peer.balanced_accuracy_score(labels, a.argmax(1), sample_weight=weight),
        "top_3": peer.top_k_accuracy_score(labels, a, k=3, sample_weight=weight),
        "r2": peer.r2_score(t, a, sample_weight=weight),
        "mae": peer.mean_absolute_error(t, a, sample_weight=weight),
        "rmse": peer.mean_squared_error(t, a, sample_weight=weight) ** 0.5,
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert_close(found[name], value, np.float64, k=9)


def test_a_metric_may_be_any_callable():
    seen = []

    def worst(y_true, y_pred):
        seen.append((y_true, y_pred))
        return abs(y_true - y_pred).max()

    net = build()
    history = net.fit(X, Y, steps=5, validation_data=(X[:9], Y[:9]), metrics=[worst], batch_size=8)
    assert history.metrics["val_worst"][0] == abs(Y[:9] - net.predict(X[:9])).max()
    assert np.array_equal(seen[0][0], Y[:9]) and np.array_equal(seen[0][1], net.predict(X[:9]))


# ------------------------------------------------------------------ callbacks


def test_callbacks_are_told_in_order_and_with_numbers(backend):
    recorder, net = Recorder(), build(backend)
    history = net.fit(X, LABELS, steps=16, callbacks=[recorder], validation_data=VALIDATION, **RUN)
    assert [(hook, step) for hook, step, _ in recorder.told] == MOMENTS
    evals = [logs for hook, _, logs in recorder.told if hook == "on_eval"]
    assert [logs["loss"] for logs in evals] == history.loss.tolist()
    assert [logs["val_loss"] for logs in evals] == history.val_loss.tolist()
    assert [(logs["step"], logs["epoch"], logs["lr"]) for logs in evals] == [(7, 1, 0.05), (14, 2, 0.05), (16, 2, 0.05)]
    assert recorder.told[2][2] == evals[0] and recorder.told[-1][2] == evals[-1]


def test_with_eval_every_entries_and_epochs_are_told_apart():
    recorder = Recorder()
    history = build().fit(X, LABELS, steps=16, callbacks=[recorder], eval_every=5, **RUN)
    assert [(hook, step) for hook, step, _ in recorder.told] == [
        ("on_train_begin", 0), ("on_eval", 5), ("on_epoch_end", 7), ("on_eval", 10), ("on_epoch_end", 14),
        ("on_eval", 15), ("on_train_end", 16),
    ]  # fmt: skip
    by_epoch = build().fit(X, LABELS, steps=16, **RUN)
    assert [logs["loss"] for hook, _, logs in recorder.told if hook == "on_eval"] == history.loss.tolist()
    assert [logs["loss"] for hook, _, logs in recorder.told if hook == "on_epoch_end"] == by_epoch.loss[:2].tolist()
    recorder = Recorder()  # both at one step
    history = build().fit(X, LABELS, steps=14, callbacks=[recorder], eval_every=7, **RUN)
    told = [(hook, logs["loss"]) for hook, _, logs in recorder.told if hook in ("on_eval", "on_epoch_end")]
    assert told == [("on_eval", history.loss[0]), ("on_epoch_end", by_epoch.loss[0]),
                    ("on_eval", history.loss[1]), ("on_epoch_end", by_epoch.loss[1])]  # fmt: skip
    assert len({loss for _, loss in told}) == 4


def test_a_callback_may_be_any_object_with_a_method():
    class Counts:
        epochs = 0

        def on_epoch_end(self, net, logs):
            self.epochs += 1

        def on_train_end(self, net, logs):
            self.last = logs

    counts = Counts()
    history = build().fit(X, LABELS, epochs=4, callbacks=(counts,), **RUN)
    assert counts.epochs == 4
    assert counts.last == {"epoch": 4, "step": 28, "loss": history.loss[-1], "lr": 0.05}


class Oops(Exception):
    pass


def failing(error):
    def act(net):
        raise error

    return act


@pytest.mark.parametrize("error", [Oops("no"), KeyboardInterrupt(), MemoryError()], ids=repr)
@pytest.mark.parametrize("hook, step", MOMENTS)
def test_an_error_in_a_callback_comes_out_and_training_can_go_on(backend, hook, step, error):
    net = build(backend)
    with pytest.raises(type(error)) as caught:
        net.fit(X, LABELS, steps=16, callbacks=[Recorder((hook, step), failing(error))], **RUN)
    assert caught.value is error
    assert state(net)[-net.flatten().nbytes :] == trained(step, backend).flatten().tobytes() and net.step == step
    net.fit(X, LABELS, steps=30 - step, **RUN)
    assert state(net) == state(trained(30, backend))


@pytest.mark.parametrize("hook, step", MOMENTS)
def test_a_run_stopped_at_any_moment_and_gone_on_with_is_the_uninterrupted_one(backend, hook, step):
    net, after = build(backend), Recorder()
    stop = Recorder((hook, step), failing(fastbp.StopTraining("enough")))
    history = net.fit(X, LABELS, steps=16, callbacks=[stop, after], **RUN)
    assert history.n_steps == net.step == step
    assert history.stopped == (None if step == 16 else "enough")
    assert after.told[-1][0] == "on_train_end"
    assert [told[:2] for told in after.told] == [told[:2] for told in stop.told]  # the others hear of the last step too
    assert history.step.tolist() == [entry for entry in (7, 14, 16) if entry <= step]
    net.fit(X, LABELS, steps=30 - step, **RUN)
    assert state(net) == state(trained(30, backend))


def test_an_error_in_a_metric_or_a_stop_from_one_ends_the_run(backend):
    def stops(t, a):
        raise fastbp.StopTraining("a metric")

    net = build(backend)
    def breaks(t, a):
        failing(Oops())(net)

    with pytest.raises(Oops) as error:
        net.fit(X, LABELS, epochs=3, metrics=[breaks], **RUN)
    assert net.step == 7 and error.value.__notes__ == ["in the metric 'breaks'"]
    with pytest.raises(TypeError, match="metrics.*number.*'text'"):
        net.fit(X, LABELS, epochs=3, metrics=[lambda t, a: "text"], **RUN)
    assert net.step == 14
    stop = Recorder(("on_epoch_end", 21), failing(fastbp.StopTraining()))
    history = net.fit(X, LABELS, epochs=3, callbacks=[stop], **RUN)
    assert history.stopped == "a callback stopped the run" and net.step == 21
    assert state(net) == state(trained(21, backend))


INSIDE = {
    "fit": lambda net: net.fit(X, LABELS, epochs=1, **RUN),
    "train_step": lambda net: net.train_step(X, LABELS, loss=RUN["loss"]),
    "update": lambda net: net.update(),
    "unflatten": lambda net: net.unflatten(np.zeros(net.n_params)),
    "reset_training": lambda net: net.reset_training(),
}


@pytest.mark.parametrize("verb", INSIDE)
def test_the_training_network_is_not_trained_or_replaced_from_a_callback(backend, verb):
    net = build(backend)
    for hook, step in MOMENTS:
        with pytest.raises(RuntimeError, match="training already"):
            net.fit(X, LABELS, steps=16, callbacks=[Recorder((hook, step), INSIDE[verb])], **RUN)
        net.fit(X, LABELS, steps=16 - step, **RUN)
        assert state(net) == state(trained(16, backend))
        net = build(backend)


def test_a_callback_may_look_at_the_network(backend):
    found = []

    def look(net):
        twin = trained(14, backend)
        assert np.array_equal(net.predict(X), twin.predict(X))
        assert net.evaluate(X, LABELS, loss=RUN["loss"]) == twin.evaluate(X, LABELS, loss=RUN["loss"])
        value, gradient = net.loss_and_grad(X, LABELS, loss=RUN["loss"])
        assert np.array_equal(gradient, twin.loss_and_grad(X, LABELS, loss=RUN["loss"])[1])
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            other.fit(X, LABELS, steps=16, **RUN)
            found.append(other)

    net = trained(30, backend, callbacks=[Recorder(("on_epoch_end", 14), look)])
    assert state(net) == state(trained(30, backend))
    assert [state(other) for other in found] == [state(net)] * 2


def test_a_callback_may_change_the_rate(backend):
    def slower(net):
        assert net.lr == 0.05
        net.lr /= 10

    net = build(backend)
    history = net.fit(X, LABELS, steps=21, callbacks=[Recorder(("on_epoch_end", 14), slower)], **RUN)
    twin = trained(14, backend)
    twin.fit(X, LABELS, steps=7, **RUN | {"optimizer": fastbp.SGD(lr=0.005, momentum=0.9)})
    assert state(net) == state(twin)
    assert history.lr.tolist() == [0.05, 0.05, 0.005]
    assert RULE.lr == 0.05
    wrong = Recorder(("on_train_begin", 21), lambda net: setattr(net, "lr", -1))
    with pytest.raises(ValueError, match="lr.*-1"):
        net.fit(X, LABELS, epochs=1, callbacks=[wrong], **RUN)
    with pytest.raises(RuntimeError, match="lr.*callback"):
        print(net.lr)
    with pytest.raises(RuntimeError, match="lr.*callback"):
        net.lr = 0.1


def test_a_replay_begins_after_what_a_callback_wrote(backend):
    """Parameters that a callback changed, and a rate that it raised: the error names the step that overflows then."""

    def blow_up(net):
        net.lr = 3e38
        net.weights[0][...] = 0.5

    net = build(backend)
    with pytest.raises(fastbp.NonFiniteError, match="a parameter") as error:
        net.fit(X, 1e4 * Y, batch_size=8, steps=700, optimizer=fastbp.SGD(lr=1e-9),
                callbacks=[Recorder(("on_epoch_end", 14), blow_up)])  # fmt: skip
    assert error.value.step == net.step == 14
    assert (net.weights[0] == 0.5).all() and np.isfinite(net.flatten()).all()


def overflows_unseen(backend):
    """A run of single steps, and its step from 42 to 43 makes a weight infinite, which no loss sees."""
    net = fastbp.MLP((3, 4, 1), init="zeros", backend=backend)
    net.weights[0][1, 2] = 1
    rule = fastbp.SGD(lr=1, weight_decay=9)  # w <- -8 w, and 8 ** 42 is the last power below the largest float32
    return net, {"X": np.zeros((8, 3)), "y": np.zeros((8, 1)), "batch_size": 8, "optimizer": rule, "steps": 99}


def test_nothing_sees_parameters_that_are_not_finite(backend):
    """They may have overflowed with the last step, whose loss was finite."""
    looks = []

    class Looks(fastbp.Callback):
        def on_eval(self, net, logs):
            looks.append(abs(net.weights[0][1, 2]))

        on_epoch_end = on_eval

    net, run = overflows_unseen(backend)
    with pytest.raises(fastbp.NonFiniteError) as error:
        net.fit(**run, callbacks=[Looks()])
    assert looks == np.repeat(8.0 ** np.arange(1, 43), 2).tolist()
    assert error.value.step == net.step == 42 and abs(net.weights[0][1, 2]) == 8.0**42


class Jumps(fastbp.Callback):
    """Says that it writes no parameters, and sets the rate, which is none."""

    writes = False

    def on_epoch_end(self, net, logs):
        net.lr = 1e-5 if logs["epoch"] < 5 else 1e38


def halve(net, logs):
    for weight in net.weights:
        weight *= 0.5


class Halves(fastbp.Callback):
    writes = False

    def on_epoch_end(self, net, logs):
        halve(net, logs)


def halves(how):
    """A callback that halves the weights, and says so in one way or another."""
    if how == "a class says so":
        return type("Says", (Halves,), {"writes": True})()
    if how == "a class is silent":
        return type("Silent", (Halves,), {})()
    if how == "an object says so":
        made = Halves()
        made.writes = True
        return made
    made = fastbp.EarlyStopping("loss", patience=99, restore_best=False)
    made.on_epoch_end = halve
    return made


def test_a_replay_has_the_rate_that_a_callback_set(backend):
    X, y = np.random.default_rng(0).normal(size=(2, 64, 4))
    net = fastbp.MLP((4, 8, 1), seed=0, backend=backend)
    run = {"batch_size": 8, "epochs": 20, "shuffle": False, "optimizer": fastbp.SGD(lr=1e-3)}
    with pytest.raises(fastbp.NonFiniteError):
        net.fit(X, 100 * y[:, 0], callbacks=[Jumps()], **run)
    assert net.step >= 40  # all that came before the rate of 1e38


@pytest.mark.parametrize("how", ["a class is silent", "an object says so", "an object has a hook of its own"])
def test_what_a_callback_wrote_is_not_replayed_whoever_says_that_it_writes(how, backend):
    X, y = np.random.default_rng(0).normal(size=(2, 64, 4))
    ended = []
    for said in ("a class says so", how):
        net = fastbp.MLP((4, 8, 1), seed=0, backend=backend)
        rule = fastbp.SGD(lr=lambda step: 1e-4 if step < 50 else 3e38)
        with pytest.raises(fastbp.NonFiniteError):
            net.fit(X, 100 * y[:, 0], batch_size=8, epochs=30, optimizer=rule, callbacks=[halves(said)])
        ended.append((net.step, net.flatten().tobytes()))
    assert ended[0] == ended[1] and ended[0][0] >= 50


# ------------------------------------------------------------------ early stopping


class Says:
    """A metric that gives these values one after the other."""

    __name__ = "says"

    def __init__(self, *values):
        self.values = iter(values)

    def __call__(self, t, a):
        return next(self.values)


def test_early_stopping_goes_back_to_the_best_entry_with_its_state(backend):
    stop = fastbp.EarlyStopping("says", patience=2, mode="min")
    net = build(backend)
    history = net.fit(X, LABELS, epochs=99, metrics=[Says(5, 3, 4, 3, 1)], callbacks=[stop], **RUN)
    assert history.metrics["says"].tolist() == [5, 3, 4, 3]
    assert (history.n_steps, net.step, stop.best, stop.best_step) == (28, 14, 3, 14)
    assert "says has not improved in 2 entries" in history.stopped and "3 at step 14" in history.stopped
    assert state(net) == state(trained(14, backend))
    net.fit(X, LABELS, steps=16, **RUN)
    assert state(net) == state(trained(30, backend))


def test_early_stopping_without_the_best_stays_where_it_stopped():
    net = build()
    stop = fastbp.EarlyStopping("says", patience=1, mode="max", restore_best=False)
    net.fit(X, LABELS, epochs=99, metrics=[Says(1, 2, 2)], callbacks=[stop], **RUN)
    assert state(net) == state(trained(21))


@pytest.mark.parametrize(
    "values, options, epochs",
    [
        ((5, 4.95, 4.9, 4.85), {"min_delta": 0.5, "patience": 3}, 4),
        ((5, 4.4, 3.9, 3.4, 3.3), {"min_delta": 0.45, "patience": 1}, 5),
        ((math.nan, 5, math.nan, 4, 6, 6), {"patience": 2}, 6),
        ((math.nan, math.nan), {"patience": 2}, 2),
        ((math.inf, 1, 1), {"patience": 1}, 3),
    ],
)
def test_what_an_improvement_is(values, options, epochs):
    stop = fastbp.EarlyStopping("says", mode="min", **options)
    history = build().fit(X, LABELS, epochs=99, metrics=[Says(*values)], callbacks=[stop], **RUN)
    assert len(history.loss) == epochs


def test_early_stopping_knows_which_side_of_a_metric_is_better():
    for monitor, sign in (("val_loss", -1), ("val_accuracy", 1), ("loss", -1)):
        stop = fastbp.EarlyStopping(monitor, patience=3)
        net = build()
        given = {"validation_data": VALIDATION, "metrics": ["accuracy"]}
        history = net.fit(X, LABELS, epochs=60, callbacks=[stop], **RUN | given)
        column = history.loss if monitor == "loss" else history.columns[monitor]
        assert stop.best == max(sign * column) * sign
        assert net.step == stop.best_step == history.step[np.argmax(sign * column)]


def test_early_stopping_on_what_is_never_a_number_says_so():
    stop = fastbp.EarlyStopping("says", patience=2, mode="min")
    history = build().fit(X, LABELS, epochs=9, metrics=[Says(math.nan, math.nan)], callbacks=[stop], **RUN)
    assert history.stopped == "says was NaN in 2 entries"


def test_early_stopping_begins_anew_with_each_run():
    stop, net = fastbp.EarlyStopping("says", patience=2, mode="min"), build()
    for _ in range(2):
        history = net.fit(X, LABELS, epochs=9, metrics=[Says(2, 1, 5, 6)], callbacks=[stop], **RUN)
        assert len(history.loss) == 4
    assert net.step == 28


def test_early_stopping_forgets_the_best_of_a_run_that_failed(backend):
    stop, net = fastbp.EarlyStopping("says", mode="min"), build(backend)
    with pytest.raises(Oops):
        fails = Recorder(("on_epoch_end", 14), failing(Oops()))
        net.fit(X, LABELS, epochs=9, metrics=[Says(1, 2)], callbacks=[stop, fails], **RUN)
    assert net.step == 14 and stop.best_step == 7
    net.fit(X, LABELS, epochs=1, metrics=[Says(math.nan)], callbacks=[stop], **RUN)
    assert stop.best_step is None and state(net) == state(trained(21, backend))


def test_the_best_of_a_run_that_ends_by_itself_is_restored_too():
    net = build()
    history = net.fit(X, LABELS, steps=16, metrics=[Says(3, 2, 1)], **RUN,
                      callbacks=[fastbp.EarlyStopping("says", mode="max")])  # fmt: skip
    assert history.stopped is None and history.n_steps == 16 and net.step == 7


# ------------------------------------------------------------------ checkpoints, time


@pytest.fixture
def saved(monkeypatch):
    """What `MLP.save` was asked to write, instead of files: (path, the network's copy)."""
    written = []
    monkeypatch.setattr(
        fastbp.MLP, "save", lambda net, path: written.append((path, copy.deepcopy(net))), raising=False
    )
    return written


def test_checkpoints_are_the_network_at_each_kth_step_and_can_be_gone_on_from(backend, saved):
    net = build(backend)
    net.fit(X, LABELS, steps=3, **RUN)
    net.fit(X, LABELS, steps=20, callbacks=[fastbp.Checkpoint("a{step}.fastbp", every_steps=6)], **RUN)
    assert [path for path, _ in saved] == ["a6.fastbp", "a12.fastbp", "a18.fastbp"]
    for (_, copied), step in zip(saved, (6, 12, 18)):
        assert state(copied) == state(trained(step, backend))
        copied.fit(X, LABELS, steps=23 - step, **RUN)
        assert state(copied) == state(net) == state(trained(23, backend))


def test_a_checkpoint_names_its_steps_as_format_does(tmp_path):
    path = tmp_path / "{{a}}-{step:04d}"
    build().fit(X, LABELS, steps=9, callbacks=[fastbp.Checkpoint(path, every_steps=4)], **RUN)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["{a}-0004", "{a}-0008"]


def test_a_checkpoint_without_a_folder_fails_before_the_first_step(tmp_path):
    net, path = build(), tmp_path / "no" / "a"
    before = state(net)
    with pytest.raises(FileNotFoundError, match="no such folder.*no'"):
        net.fit(X, LABELS, steps=9, callbacks=[fastbp.Checkpoint(path, every_steps=4)], **RUN)
    assert state(net) == before
    with pytest.raises(FileNotFoundError, match=f"{path}'$"):  # and not a temporary file's name
        net.save(path)


def test_a_checkpoint_in_a_file_can_be_gone_on_from(backend, tmp_path):
    X, y = np.random.default_rng(0).normal(size=(24, 3)), np.random.default_rng(1).normal(size=(24, 2))
    net, path = fastbp.MLP((3, 5, 2), seed=1, backend=backend, dropout=0.3), tmp_path / "last.fastbp"
    how = {"batch_size": 8, "optimizer": fastbp.Adam(fastbp.schedules.Cosine(0.01, 30), accumulate=2)}
    net.fit(X, y, steps=20, callbacks=[fastbp.Checkpoint(path, every_steps=7)], **how)
    resumed = fastbp.load(path)
    assert resumed.step == 14
    resumed.fit(X, y, steps=6, **how)
    assert resumed.flatten().tobytes() == net.flatten().tobytes() and resumed.step == net.step


def test_checkpoints_by_seconds_come_between_chunks(saved, tmp_path):
    build().fit(X, LABELS, steps=2000, callbacks=[fastbp.Checkpoint(tmp_path / "a", every_seconds=0)], **RUN)
    assert saved and all(path == str(tmp_path / "a") for path, _ in saved)
    saved.clear()
    build().fit(X, LABELS, steps=2000, callbacks=[fastbp.Checkpoint("a", every_seconds=1e6)], **RUN)
    assert saved == []


@pytest.fixture
def second_by_second(monkeypatch):
    """A step takes a second, whatever else may take time, and the run comes back after each: the network's clock."""
    clock = types.SimpleNamespace(monotonic=lambda: clock.now(), now=None)
    monkeypatch.setattr(callbacks, "time", clock)
    monkeypatch.setattr("fastbp.backends.again._PIECE_STEPS", 1)
    monkeypatch.setattr("fastbp.training.run.CHUNK_SECONDS", 0)
    return clock


def test_checkpoints_by_seconds_are_so_many_seconds_apart(second_by_second, saved):
    net, checkpoint = build(), fastbp.Checkpoint("a", every_seconds=4)
    second_by_second.now = lambda: 100.0 + net.step
    for steps, at in ((14, [4, 8, 12]), (3, []), (10, [21, 25])):  # each run has a clock of its own
        net.fit(X, LABELS, steps=steps, callbacks=[checkpoint], **RUN)
        assert [copied.step for _, copied in saved] == at
        saved.clear()
    second_by_second.now = lambda: 100.0 + net.step + 3 * len(saved)  # the seconds that a save takes do not count
    net.fit(X, LABELS, steps=14, callbacks=[checkpoint], **RUN)
    assert [copied.step for _, copied in saved] == [31, 35, 39]


def test_a_time_limit_is_one_of_each_run(second_by_second):
    net, limit = build(), fastbp.TimeLimit(6)
    second_by_second.now = lambda: 100.0 + net.step
    for _ in range(2):
        history = net.fit(X, LABELS, steps=99, callbacks=[limit], **RUN)
        assert history.n_steps == 6 and history.stopped == "the time limit of 6 seconds"


def test_a_checkpoint_is_finite_and_one_that_fails_ends_the_run(backend, saved, monkeypatch):
    net, run = overflows_unseen(backend)
    with pytest.raises(fastbp.NonFiniteError):
        net.fit(**run, callbacks=[fastbp.Checkpoint("a", every_steps=1)])
    assert [copied.step for _, copied in saved] == list(range(1, 43))
    assert all(np.isfinite(copied.flatten()).all() for _, copied in saved)

    def full(net, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fastbp.MLP, "save", full)
    net = build(backend)
    with pytest.raises(OSError, match="No space"):
        net.fit(X, LABELS, steps=20, callbacks=[fastbp.Checkpoint("a", every_steps=6)], **RUN)
    assert state(net) == state(trained(6, backend))


def test_a_time_limit_ends_a_run_that_would_be_long(backend):
    net = build(backend)
    began = time.monotonic()
    history = net.fit(X, LABELS, steps=10**12, callbacks=[fastbp.TimeLimit(0.1)], **RUN)
    assert 0.1 <= time.monotonic() - began < 20  # the machine may be busy
    assert history.stopped == "the time limit of 0.1 seconds" and 0 < history.n_steps == net.step
    assert history.step[-1] == net.step


# ------------------------------------------------------------------ progress


@pytest.fixture
def bars(monkeypatch):
    """Every update of a bar: (steps done, what stands behind, seconds)."""
    tqdm = pytest.importorskip("tqdm.auto")
    made = []

    class Bar:
        def __init__(self, total, **options):
            self.total, self.n, self.updates, self.closed = total, 0, [], False
            made.append(self)

        def set_postfix_str(self, text, refresh):
            self.text = text

        def update(self, steps):
            self.n += steps
            self.updates.append((self.n, self.text, time.monotonic()))

        def close(self):
            self.closed = True

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    return made


def test_the_bar_shows_each_run_to_its_end_at_most_ten_times_a_second(bars):
    for steps in (1, 3, 200_000):
        history = build().fit(X, LABELS, steps=steps, progress=True, **RUN)
        bar = bars.pop()
        assert bar.total == bar.n == steps and bar.closed
        assert all(later - earlier >= 0.1 for (*_, earlier), (*_, later) in itertools.pairwise(bar.updates[:-1]))
        assert bar.updates[-1][1] == f"loss {history.loss[-1]:.4g}"


def test_the_bar_is_closed_whatever_happens(bars):
    for error in (Oops(), KeyboardInterrupt(), fastbp.StopTraining()):
        try:
            build().fit(X, LABELS, steps=50, progress=True, **RUN,
                        callbacks=[Recorder(("on_epoch_end", 14), failing(error))])  # fmt: skip
        except (Oops, KeyboardInterrupt):
            pass
        assert bars.pop().closed


def test_tqdm_draws_the_bar(monkeypatch):
    pytest.importorskip("tqdm")
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    build().fit(X, LABELS, steps=14, progress=True, verbose=1, **RUN)
    assert "14/14" in screen.getvalue() and "steps/s" in screen.getvalue() and "loss " in screen.getvalue()


@pytest.mark.parametrize("missing", [("stdout",), ("stderr",), ("stdout", "stderr")], ids="-".join)
def test_without_a_console_nothing_is_written_and_all_is_done(missing, monkeypatch):
    """Windowed programs have None for what is not there."""
    pytest.importorskip("tqdm")
    wanted = trained(14)
    written = {name: None if name in missing else io.StringIO() for name in ("stdout", "stderr")}
    net = build()
    with monkeypatch.context() as console:
        for name, file in written.items():
            console.setattr(sys, name, file)
        for options in ({"verbose": 1}, {"progress": True}, {"verbose": 1, "progress": True}):
            net.reset_training()
            net.unflatten(build().flatten())
            net.fit(X, LABELS, steps=14, **options, **RUN)
        net.summary()
        net.explain()
        fastbp.show_config()
    assert state(net) == state(wanted)
    if written["stdout"] is not None:
        out = written["stdout"].getvalue()
        assert out.count("epoch 2  step 14") == 2 and "parameters" in out and "workspace" in out and "cpus" in out
    if written["stderr"] is not None:
        assert written["stderr"].getvalue().count("14/14") >= 2


def test_without_tqdm_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    net = build()
    with pytest.raises(ImportError, match=r"pip install 'fastbp\[progress\]'"):
        net.fit(X, LABELS, steps=3, progress=True, **RUN)
    assert net.step == 0


# ------------------------------------------------------------------ wrong arguments


def named(name):
    """A metric of this name."""
    return type("Metric", (), {"__name__": name, "__call__": lambda self, y_true, y_pred: 1.0})()


WRONG = {
    "validation_data no tuple": ({"validation_data": X}, TypeError, r"validation_data.*\(X, y\)"),
    "validation_data of one": ({"validation_data": (X,)}, TypeError, "validation_data.*1 items"),
    "validation_data of other columns": ({"validation_data": (X[:, :2], LABELS)}, ValueError, "validation_data: X"),
    "validation_data of other rows": ({"validation_data": (X, LABELS[:3])}, ValueError, "validation_data: X and y"),
    "validation_data of a label beyond": ({"validation_data": (X, LABELS + 1)}, ValueError, "validation_data: y"),
    "validation_data weights": ({"validation_data": (X, LABELS, -np.ones(N))}, ValueError,
                                "validation_data: sample_weight"),
    "validation_split 0": ({"validation_split": 0}, ValueError, "validation_split"),
    "validation_split 1": ({"validation_split": 1.0}, ValueError, "validation_split"),
    "validation_split -0.1": ({"validation_split": -0.1}, ValueError, "validation_split must be.*-0.1"),
    "validation_split text": ({"validation_split": "0.2"}, TypeError, "validation_split.*'0.2'"),
    "both": ({"validation_split": 0.2, "validation_data": VALIDATION}, ValueError, "one of validation_data and val"),
    "metrics a string": ({"metrics": "accuracy"}, TypeError, "metrics must be a sequence"),
    "metrics unknown": ({"metrics": ["acuracy"]}, ValueError, "metrics.*'acuracy'.*'accuracy'"),
    "metrics a number": ({"metrics": [3]}, TypeError, "metrics.*3"),
    "metrics top_0": ({"metrics": ["top_0"]}, ValueError, "metrics.*top_0"),
    "metrics top_3 of 3": ({"metrics": ["top_3"]}, ValueError, "metrics.*top_3.*3"),
    "metrics of values for labels": ({"metrics": ["r2"]}, ValueError, "metrics.*'r2'.*labels"),
    **{f"metrics called {name}": ({"metrics": [named(name)]}, ValueError, f"two things would be called '{name}'")
       for name in ("loss", "lr", "step", "epoch")},
    "metrics twice": ({"metrics": ["accuracy", "accuracy"]}, ValueError, "metrics.*'accuracy'"),
    "callbacks a number": ({"callbacks": 3}, TypeError, "callbacks must be a sequence.*3"),
    "callbacks a class": ({"callbacks": [Recorder]}, TypeError, r"callbacks\[0\].*Recorder\(\) makes one"),
    "callbacks with none": ({"callbacks": [Misspelt()]}, TypeError, r"callbacks\[0\]: Misspelt has none of on_train_b"),
    "callbacks that take nothing": ({"callbacks": [TakesNothing()]}, TypeError,
                                    r"callbacks\[0\]: on_epoch_end must take \(net, logs\)"),
    "metrics with a third": ({"metrics": [lambda a, b, *, c: 1]}, TypeError, r"metrics: <lambda> must take \(y_true"),
    "metrics of a method": ({"metrics": [Says().__call__, "".join]}, TypeError, r"metrics: join must take \(y_true"),
    "metrics of one argument": ({"metrics": [lambda a: 1]}, TypeError, r"metrics: <lambda> must take \(y_true, y_"),
    "callbacks of other objects": ({"callbacks": [Recorder(), 3]}, TypeError, r"callbacks\[1\].*on_epoch_end.*3"),
    "monitor unknown": ({"callbacks": [fastbp.EarlyStopping("val_los")], "validation_data": VALIDATION}, ValueError,
                        "monitor.*'val_los'.*'val_loss'"),
    "monitor without validation": ({"callbacks": [fastbp.EarlyStopping()]}, ValueError, "monitor.*validation_data"),
    "monitor of an own metric": ({"callbacks": [fastbp.EarlyStopping("says")], "metrics": [Says()]}, ValueError,
                                 "mode must be"),
    "progress 1": ({"progress": 1}, TypeError, "progress"),
    "verbose -1": ({"verbose": -1}, ValueError, "verbose"),
    "verbose text": ({"verbose": "yes"}, TypeError, "verbose"),
    "class_weight a list": ({"class_weight": [1, 2]}, TypeError, "class_weight.*dict"),
    "class_weight a name": ({"class_weight": "balance"}, ValueError, "class_weight.*'balanced'"),
    "class_weight of no class": ({"class_weight": {3: 1.0}}, ValueError, "class_weight.*from 0 to 2.*3"),
    "class_weight of -1": ({"class_weight": {-1: 1.0}}, ValueError, "class_weight: of targets -1 and 1.*0 and 1"),
    "class_weight of a half": ({"class_weight": {0.5: 1.0}}, ValueError, "class_weight.*whole number.*0.5"),
    "class_weight of text": ({"class_weight": {"0": 1.0}}, TypeError, "class_weight: a class must be a number.*'0'"),
    "class_weight negative": ({"class_weight": {0: -1.0}}, ValueError, "class_weight.*class 0.*-1"),
    "class_weight all 0": ({"class_weight": dict.fromkeys(range(3), 0)}, ValueError, "class_weight.*zero"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_named_and_nothing_is_done(backend, what):
    options, error, pattern = WRONG[what]
    net = build(backend)
    before = state(net)
    with pytest.raises(error, match=pattern):
        net.fit(X, LABELS, steps=3, seed=99, **RUN | options)
    assert state(net) == before


@pytest.mark.parametrize(
    "make, error, pattern",
    [
        (lambda: fastbp.EarlyStopping(patience=0), ValueError, "patience.*0"),
        (lambda: fastbp.EarlyStopping(patience=1.5), TypeError, "patience.*1.5"),
        (lambda: fastbp.EarlyStopping(min_delta=-1), ValueError, "min_delta.*-1"),
        (lambda: fastbp.EarlyStopping(restore_best=1), TypeError, "restore_best.*1"),
        (lambda: fastbp.EarlyStopping(mode="least"), ValueError, "mode.*'least'"),
        (lambda: fastbp.EarlyStopping(3), TypeError, "monitor.*3"),
        (lambda: fastbp.Checkpoint(3, every_steps=1), TypeError, "path.*3"),
        (lambda: fastbp.Checkpoint("a"), ValueError, "every_steps and every_seconds"),
        (lambda: fastbp.Checkpoint("a", every_steps=1, every_seconds=1), ValueError, "every_steps and every_seconds"),
        (lambda: fastbp.Checkpoint("a", every_steps=0), ValueError, "every_steps.*0"),
        (lambda: fastbp.Checkpoint("a{epoch}", every_steps=1), ValueError, "path may have {step}.*'a{epoch}'"),
        (lambda: fastbp.Checkpoint("a{}", every_steps=1), ValueError, "path may have {step}.*'a{}'"),
        (lambda: fastbp.Checkpoint("a{step:x.y}", every_steps=1), ValueError, "path may have {step}"),
        (lambda: fastbp.Checkpoint("a{", every_steps=1), ValueError, "path may have {step}"),
        (lambda: fastbp.Checkpoint("a", every_seconds=-1), ValueError, "every_seconds.*-1"),
        (lambda: fastbp.TimeLimit("1"), TypeError, "seconds.*'1'"),
        (lambda: fastbp.TimeLimit(math.inf), ValueError, "seconds.*inf"),
    ],
)
def test_a_callback_checks_its_own_arguments(make, error, pattern):
    with pytest.raises(error, match=pattern):
        make()


def test_regression_metrics_and_classes_need_targets_of_their_kind():
    with pytest.raises(ValueError, match="class_weight: y names no classes"):
        build().fit(X, Y, steps=1, class_weight="balanced")
    with pytest.raises(ValueError, match="metrics.*'balanced_accuracy'.*3 labels"):
        build().fit(X, Y > 0, steps=1, loss="binary_cross_entropy", metrics=["balanced_accuracy"])


def test_the_hooks_of_the_base_class_are_those_that_are_called():
    assert {name for name in vars(fastbp.Callback) if name.startswith("on_")} == set(callbacks.HOOKS)
