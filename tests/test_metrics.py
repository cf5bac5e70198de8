"""Metrics as functions, and `evaluate` with metrics and without a loss."""

import copy
import io
import pickle

import numpy as np
import pytest
from tolerance import assert_close

import fastbp
from fastbp import metrics

RNG = np.random.default_rng(0)
SCORES, T = RNG.normal(size=(90, 4)), RNG.normal(size=(90, 4))
LABELS, WEIGHT = RNG.integers(0, 4, 90), RNG.uniform(size=90)

PEERS = {  # ours, and the same in scikit-learn, which takes classes where we take outputs too
    "accuracy": (lambda w: metrics.accuracy(LABELS, SCORES, w),
                 lambda peer, w: peer.accuracy_score(LABELS, SCORES.argmax(1), sample_weight=w)),
    "balanced_accuracy": (lambda w: metrics.balanced_accuracy(LABELS, SCORES, w),
                          lambda peer, w: peer.balanced_accuracy_score(LABELS, SCORES.argmax(1), sample_weight=w)),
    "top_k": (lambda w: metrics.top_k(LABELS, SCORES, w, k=3),
              lambda peer, w: peer.top_k_accuracy_score(LABELS, SCORES, k=3, sample_weight=w)),
    "r2": (lambda w: metrics.r2(T, SCORES, w), lambda peer, w: peer.r2_score(T, SCORES, sample_weight=w)),
    "mae": (lambda w: metrics.mae(T, SCORES, w), lambda peer, w: peer.mean_absolute_error(T, SCORES, sample_weight=w)),
    "rmse": (lambda w: metrics.rmse(T, SCORES, w),
             lambda peer, w: peer.mean_squared_error(T, SCORES, sample_weight=w) ** 0.5),
}  # fmt: skip


def test_every_row_of_the_table_is_a_function():
    assert set(PEERS) == {*metrics.TABLE, "top_k"}
    assert all(callable(getattr(metrics, name)) for name in PEERS)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", PEERS)
def test_functions_are_those_of_scikit_learn(name, weighted):
    peer = pytest.importorskip("sklearn.metrics")
    ours, theirs = PEERS[name]
    weight = WEIGHT if weighted else None
    found = ours(weight)
    assert type(found) is float
    assert_close(found, theirs(peer, weight), np.float64, k=9)


def test_classes_may_come_as_labels_as_truth_values_as_a_column_or_as_rows():
    kinds = SCORES.argmax(axis=1)
    wanted = metrics.accuracy(LABELS, SCORES)
    assert 0 < wanted < 1
    for y_true in (LABELS, LABELS[:, None], LABELS.astype(np.float32), LABELS.tolist(), np.eye(4)[LABELS]):
        for y_pred in (SCORES, kinds, kinds[:, None], kinds.astype(np.uint8)):
            assert metrics.accuracy(y_true, y_pred) == wanted
    yes, logits = np.array([1, 0, 1, 1]), np.array([[0.3], [-2.0], [-0.1], [5.0]])
    assert metrics.accuracy(yes, logits > 0) == metrics.accuracy(yes == 1, logits[:, 0] > 0) == 3 / 4
    assert metrics.accuracy([-1, 1], [-1, -1]) == 1 / 2
    assert metrics.accuracy([0, 1], [[np.nan, 1], [0, 1]]) == 1 / 2  # a row with NaN is wrong
    assert metrics.mae(T[:, 0], T[:, :1] + 1) == metrics.mae(T[:, :1], T[:, 0] + 1)


def test_what_a_hand_computes():
    assert metrics.accuracy([0, 1, 1], [0, 1, 0], [1, 2, 5]) == 3 / 8
    assert metrics.balanced_accuracy([0, 1, 1, 1], [0, 1, 0, 0]) == (1 + 1 / 3) / 2
    assert metrics.top_k([0, 0, 0], [[3, 2, 1], [2, 3, 1], [1, 2, 3]], k=2) == 2 / 3
    assert metrics.rmse([0, 1, 2, 5], [0, 2, 2, 2]) == (10 / 4) ** 0.5
    assert metrics.r2([1, 1], [1, 1]) == 1 and metrics.r2([1, 1], [1, 2]) == 0
    assert np.isnan(metrics.mae([1.0, 2.0], [1.0, np.nan]))


REFUSED = {
    "logits of one output": (lambda: metrics.accuracy([0, 1], [[0.5], [-0.5]]), ValueError,
                             r"y_pred must hold classes.*y_pred\[0\] = 0.5.*predict\(X\)\[:, 0\] > 0"),
    "targets no classes": (lambda: metrics.balanced_accuracy([0.5, 1], [0, 1]), ValueError, "y_true must hold classes"),
    "a missing target": (lambda: metrics.r2([np.nan, 1], [0, 1]), ValueError, r"y_true must be a number.*y_true\[0\]"),
    "lengths": (lambda: metrics.accuracy([0, 1], [0, 1, 1]), ValueError, "2 and 3 rows"),
    "shapes": (lambda: metrics.mae(T, T[:, :2]), ValueError, "one shape"),
    "rows of other classes": (lambda: metrics.accuracy(np.eye(3), np.ones((3, 2))), ValueError, "of 3 classes"),
    "labels out of range": (lambda: metrics.accuracy([0, 4], SCORES[:2]), ValueError, r"y_true must be classes from 0"),
    "signs beside rows": (lambda: metrics.accuracy([-1, 1], SCORES[:2, :2]), ValueError, r"y_true\[0\] = -1"),
    "no rows": (lambda: metrics.accuracy([], []), ValueError, "y_true must have shape"),
    "text": (lambda: metrics.accuracy(["a"], ["a"]), TypeError, "y_true"),
    "weights": (lambda: metrics.rmse([0, 1], [0, 1], [1, 1, 1]), ValueError, r"sample_weight must have shape \(2,\)"),
    "negative weights": (lambda: metrics.rmse([0, 1], [0, 1], [1, -1]), ValueError, "sample_weight must be finite"),
    "k": (lambda: metrics.top_k(LABELS, SCORES, k=4), ValueError, "k must be from 1 to 3"),
    "top k of labels": (lambda: metrics.top_k(LABELS, LABELS), ValueError, "y_pred must be outputs"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_functions_refuse(what):
    call, kind, message = REFUSED[what]
    with pytest.raises(kind, match=message):
        call()


# ------------------------------------------------------------------ evaluate

X, Y = RNG.normal(size=(90, 3)), np.abs(T[:, :2])
OUTPUTS = {  # of each loss: targets, metrics
    "softmax_cross_entropy": (LABELS, ["accuracy", "balanced_accuracy", "top_2"]),
    "mse": (T, ["r2", "mae", "rmse"]),
    "binary_cross_entropy": (T > 0, ["accuracy"]),
}


def build(backend="auto", out=4, **options):
    return fastbp.MLP((3, 5, out), seed=1, backend=backend, **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", OUTPUTS)
def test_evaluate_gives_the_loss_and_the_metrics_of_a_validation_of_fit(backend, dtype, loss, weighted):
    y, names = OUTPUTS[loss]
    weight = WEIGHT if weighted else None
    net = build(backend, dtype=dtype)
    history = net.fit(X, y, loss=loss, optimizer="adam", epochs=1, validation_data=(X, y, weight), metrics=names)
    found = net.evaluate(X, y, sample_weight=weight, metrics=names)
    assert found == {"loss": history.val_loss[-1]} | {name: history.metrics[f"val_{name}"][-1] for name in names}
    assert list(found) == ["loss", *names]
    assert found["loss"] == net.evaluate(X, y, loss=loss, sample_weight=weight)
    assert all(type(value) is float for value in found.values())


def test_the_metrics_of_evaluate_are_the_functions_of_what_predict_gives():
    net = build()
    found = net.evaluate(X, LABELS, loss="softmax_cross_entropy", sample_weight=WEIGHT, metrics=("accuracy", "top_3"))
    out = net.predict(X)
    assert found["accuracy"] == metrics.accuracy(LABELS, out, WEIGHT)
    assert found["top_3"] == metrics.top_k(LABELS, out, WEIGHT, k=3)
    assert net.evaluate(X, T, loss="mse", metrics=[metrics.mae])["mae"] == metrics.mae(T, out.astype(np.float64))


def test_rows_of_other_kinds_have_metrics_too():
    sparse, net = pytest.importorskip("scipy.sparse"), build()
    how = {"loss": "softmax_cross_entropy", "metrics": ["accuracy"]}
    assert net.evaluate(sparse.csr_array(X), LABELS, **how) == net.evaluate(X, LABELS, **how)
    assert type(net.evaluate(X, LABELS, loss="softmax_cross_entropy", metrics=())) is float
    assert list(net.evaluate(X, LABELS, loss="softmax_cross_entropy", metrics=[])) == ["loss"]


@pytest.mark.parametrize(
    "wrong, kind, message",
    [
        ("accuracy", TypeError, "metrics must be a sequence"),
        (["acuracy"], ValueError, "did you mean 'accuracy'"),
        (["mae"], ValueError, "y holds labels"),
        (["accuracy", "accuracy"], ValueError, "two things would be called"),
    ],
)
def test_metrics_that_evaluate_refuses(wrong, kind, message):
    with pytest.raises(kind, match=message):
        build().evaluate(X, LABELS, loss="softmax_cross_entropy", metrics=wrong)


# ------------------------------------------------------------------ the loss last trained with

HUBER = fastbp.losses.huber(delta=0.5)
TRAINED = {
    "fit": lambda net, loss: net.fit(X, Y, loss=loss, optimizer="adam", epochs=1),
    "fit of batches": lambda net, loss: net.fit([(X, Y)], loss=loss, optimizer="adam", epochs=1),
    "fit by L-BFGS": lambda net, loss: net.fit(X, Y, loss=loss, optimizer="lbfgs", epochs=2),
    "train_step": lambda net, loss: net.train_step(X, Y, loss=loss, optimizer="sgd"),
    "train_step again": lambda net, loss: [net.train_step(X, Y, loss=loss, optimizer="sgd") for _ in range(3)],
    "train_step with weights": lambda net, loss: net.train_step(
        X, Y, loss=loss, optimizer="sgd", sample_weight=WEIGHT),
}  # fmt: skip


@pytest.mark.parametrize("how", TRAINED)
def test_evaluate_goes_by_the_loss_last_trained_with(backend, how):
    if how == "fit by L-BFGS":
        pytest.importorskip("scipy")
    net = build(backend, out=2)
    for loss in ("mae", HUBER, "poisson", "mse", "mae", "mse"):  # links of all are None
        TRAINED[how](net, loss)
        assert net.evaluate(X, Y) == net.evaluate(X, Y, loss=loss)
    assert len({net.evaluate(X, Y, loss=loss) for loss in ("mae", HUBER, "poisson", "mse")}) == 4


def test_steps_of_two_losses_in_turn_with_runs_between_them(backend):
    net = build(backend, out=2)
    for k in range(12):
        loss = "mae" if k % 2 else "mse"
        TRAINED["train_step"](net, "mse")
        TRAINED[("fit", "train_step", "train_step with weights")[k % 3]](net, loss)
        assert net.evaluate(X, Y) == net.evaluate(X, Y, loss=loss)
        TRAINED["train_step"](net, "mse")
        assert net.evaluate(X, Y) == net.evaluate(X, Y, loss="mse")


def test_within_a_callback_it_is_the_loss_of_the_run():
    class Looks(fastbp.Callback):
        def on_epoch_end(self, net, logs):
            seen.append(net.evaluate(X, Y) == net.evaluate(X, Y, loss="mae") != net.evaluate(X, Y, loss="mse"))

    seen = []
    net = build(out=2)
    net.fit(X, Y, loss="mse", optimizer="adam", epochs=1)
    net.fit(X, Y, loss="mae", optimizer="adam", epochs=2, callbacks=[Looks()])
    assert seen == [True, True]


def test_a_call_that_makes_no_step_changes_no_loss():
    net = build(out=2)
    net.fit(X, Y, loss="mae", optimizer="adam", epochs=1)
    net.fit(X, Y, loss="mse", optimizer="adam", steps=0)
    bad = X.copy()
    bad[0] = np.nan
    with pytest.raises(fastbp.NonFiniteError):
        net.train_step(bad, Y, loss="mse", optimizer="adam")
    assert net.evaluate(X, Y) == net.evaluate(X, Y, loss="mae")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda net: copy.deepcopy([net])[0]])
def test_copies_keep_the_loss(copied):
    @fastbp.loss(derivative=lambda z, t: 4 * (z - t) ** 3)  # a function in a function: no pickle takes it
    def fourth_power(z, t):
        return (z - t) ** 4

    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(fourth_power)
    net = build("reference", out=2)
    for loss in (HUBER, fourth_power):
        net.fit(X, Y, loss=loss, optimizer="adam", epochs=1)
        other = copied(net)
        assert other.evaluate(X, Y) == net.evaluate(X, Y) == net.evaluate(X, Y, loss=loss)
        pickle.loads(pickle.dumps(net))  # whatever the loss
        other.train_step(X, Y, loss="mse", optimizer="adam")
        assert net.evaluate(X, Y) == net.evaluate(X, Y, loss=loss)  # each has its own


def saved_and_loaded(net):
    file = io.BytesIO()
    net.save(file)
    file.seek(0)
    return fastbp.load(file)


def reset(net):
    net.reset_training()
    return net


@pytest.mark.parametrize(
    "made", [lambda net: build(out=2), lambda net: pickle.loads(pickle.dumps(net)), saved_and_loaded, reset]
)
def test_without_a_loss_the_error_says_what_to_give(made):
    net = build(out=2)
    net.fit(X, Y, loss="mae", optimizer="adam", epochs=1)
    other = made(net)
    for options in ({}, {"metrics": ["mae"]}):
        with pytest.raises(RuntimeError, match="evaluate: no loss is known.* give one, as in loss='mse'"):
            other.evaluate(X, Y, **options)
    assert other.evaluate(X, Y, loss="mae") > 0
    other.fit(X, Y, loss="mse", optimizer="adam", epochs=1)
    assert other.evaluate(X, Y) == other.evaluate(X, Y, loss="mse")
