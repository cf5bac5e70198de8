"""Every wrong argument is refused before any work, by a message that names it; the network is as before."""

import datetime
import pickle
import re
import threading
import time
import tracemalloc
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from conftest import every_case, frozen
from others import DLPack, Frame, LazyFrame, NAType, NullableColumn, Scalar, Tensor
from tolerance import assert_close

import fastbp
from fastbp import SGD

N, N_IN, N_OUT = 10, 3, 4
RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(N, N_IN)), RNG.uniform(size=(N, N_OUT))
LABELS = RNG.integers(0, N_OUT, size=N)
PROBABILITIES = Y / Y.sum(axis=1, keepdims=True)
RULE = SGD(lr=0.05, momentum=0.9)

# the networks that the tables speak of
NETWORKS = {
    "net": {"sizes": (N_IN, 5, N_OUT)},
    "one": {"sizes": (N_IN, 5, 1)},
    "sigmoid": {"sizes": (N_IN, 5, N_OUT), "output_activation": "sigmoid"},
}


def build(which, backend):
    """A network in the midst of training: slots, step, epoch and a position within it; a forward is pending."""
    net = fastbp.MLP(**NETWORKS[which], activation="tanh", seed=7, backend=backend)
    y = Y[:, : net.sizes[-1]]
    net.fit(X, y, batch_size=4, steps=5, optimizer=RULE)
    net.forward(X[:2])
    net.backward(np.ones((2, net.sizes[-1])))
    net.forward(X)
    return net


def state(net):
    """Everything that a call may change."""
    return frozen([net.__getstate__(), net.params, net.grads])


def continuation(net):
    """What training does from here on, and what the pending forward gives."""
    n_out = net.sizes[-1]
    y = Y[:, :n_out]
    results = [net.backward(np.arange(N * n_out).reshape(N, n_out)), net.grads.copy()]
    history = net.fit(X, y, batch_size=4, steps=7, optimizer=RULE)
    return frozen([*results, history.loss, history.step, net.train_step(X, y), state(net)])


class Sparse:
    """As scipy's matrices look."""

    nnz, shape = 3, (N, N_IN)

    def toarray(self):
        raise AssertionError("a sparse matrix was made dense")


class Opaque:
    """An object that is no array."""


def changed(array, index, value, dtype=None):
    array = np.array(array, dtype)
    array[index] = value
    return array


# ------------------------------------------------------------------ data that cannot be used

RAGGED = [[1.0, 2.0, 3.0]] * (N - 1) + [[1.0, 2.0]]
STRUCTURED = np.zeros((N, N_IN), [("a", "f4"), ("b", "f4")])
DATES = np.zeros((N, N_IN), "M8[s]")

BAD_X = {  # what, X, error, what the message must say
    "complex": (X + 0j, ValueError, "X.*complex"),
    "complex of zero imaginary part in a list": ([[1, 2, 3 + 0j]] * N, ValueError, "X.*complex"),
    "text": (X.astype(str), TypeError, r"X holds '.*' of type str at row 0, column 0; numbers.*asarray\(X, float\)"),
    "bytes": (X.astype("S"), TypeError, "X holds b'.*' of type bytes at row 0, column 0; numbers"),
    "text as objects": (
        changed(X, (3, 1), "many", object), TypeError,
        "X holds 'many' of type str at row 3, column 1; numbers are wanted.*one-hot"),
    "numerals as objects": (
        X.astype(str).astype(object), TypeError, r"X holds.*row 0, column 0; numbers.*asarray\(X, float\)"
    ),
    "objects": (changed(X, (3, 1), Opaque(), object), TypeError, "X holds .* of type Opaque at row 3, column 1; numb"),
    "None among numbers": (
        changed(X, (3, 1), None, object), TypeError, "X holds None at row 3, column 1; it is missing.*number.*fill it"),
    "NA among numbers": (
        changed(X, (3, 1), NAType(), object), TypeError, "X holds <NA> of type NAType at row 3, column 1.*missing"),
    "a date": (
        changed(X, (3, 1), datetime.date(2026, 1, 2), object), TypeError,
        r"X holds datetime.date\(2026, 1, 2\) of type date at row 3, column 1; numbers are wanted: count times"),
    "a duration": (
        changed(X, (3, 1), datetime.timedelta(1), object), TypeError, "X holds.*timedelta at row 3, column 1.*times"),
    "an array in a cell": (
        np.array([[1, 2, 3]] * 9 + [[1, 2, {4, 5}]], object), TypeError,
        "X holds {4, 5} of type set at row 9, column 2; one number for each cell"),
    "a complex object": (
        changed(X, (3, 1), 1j, object), ValueError, r"X holds 1j of type complex at row 3, column 1; it is complex"),
    "an object too large": (
        changed(X, (3, 1), 10**400, object), ValueError, r"X holds 1000.*\.\.\. of type int at row 3, column 1.*large"),
    "a lazy frame": (
        LazyFrame(), TypeError, r"X must hold numbers, got .* of type LazyFrame; call X\.collect\(\) first"),
    "a frame with text": (
        Frame([X[:, 0], changed(X[:, 1], 3, "many", object), X[:, 2]]), TypeError,
        r"X holds 'many' of type str at row 3, column 1 \('b'\); numbers"),
    "a frame with dates": (
        Frame([X[:, 0], X[:, 1], np.full(N, "2026-01-02", "M8[D]")]), TypeError,
        r"X holds np.datetime64\('2026-01-02'\) of type datetime64 at row 0, column 2 \('c'\); numbers.*times"),
    "a tensor on another device": (
        Tensor(X, device="cuda:0"), TypeError, r"X is on the device cuda:0; copy it into the CPU's memory.*X\.cpu\(\)"),
    "DLPack of another device": (DLPack(X, device=2), TypeError, "X is on another device; copy it into the CPU's"),
    "a list of tensors": ([Tensor(row) for row in X], TypeError, "X is not an array of numbers: .*requires grad"),
    "None in a list": ([[1, None, 2]] * N, TypeError, "X.*number"),
    "an object": (Opaque(), TypeError, "X.*number"),
    "a string": ("abc", TypeError, "X.*number"),
    "None": (None, TypeError, "X.*number"),
    "dates": (DATES, TypeError, "X holds .* of type datetime64 at row 0, column 0; numbers are wanted: count times"),
    "durations": (DATES - DATES, TypeError, "X holds .* of type timedelta64 at row 0, column 0; numbers.*count times"),
    "records": (STRUCTURED, TypeError, "X.*number"),
    "raw bytes": (np.zeros((N, N_IN), "V4"), TypeError, "X.*number"),
    "ragged": (RAGGED, ValueError, "X"),
    "masked": (np.ma.masked_array(X, X > 1), ValueError, "X.*masked"),
    "masked with nothing masked": (np.ma.masked_array(X), ValueError, "X.*masked"),
    "sparse": (Sparse(), TypeError, "X.*sparse.*dense"),
    "a number": (1.0, ValueError, "X.*2-D"),
    "1-D": (X[0], ValueError, r"X.*2-D.*X\[None, :\]"),
    "3-D": (X[None], ValueError, r"X.*2-D.*\(1, 10, 3\)"),
    "no columns": (np.zeros((N, 0)), ValueError, "X.*0.*3"),
    "too few columns": (X[:, :2], ValueError, r"X.*\b2\b.*\b3\b"),
    "too many columns": (np.zeros((N, 400)), ValueError, r"X.*\b400\b.*\b3\b"),
}
NO_ROWS = {"no rows": (np.zeros((0, N_IN)), ValueError, "X.*no rows"), "an empty list": ([], ValueError, "X")}

TAKING_X = {
    "fit": lambda net, x: net.fit(x, Y, steps=3, seed=99),
    "train_step": lambda net, x: net.train_step(x, Y),
    "evaluate": lambda net, x: net.evaluate(x, Y, loss="mse"),
    "loss_and_grad": lambda net, x: net.loss_and_grad(x, Y, loss="mse"),
    "predict": lambda net, x: net.predict(x),
    "hidden": lambda net, x: net.hidden(x),
    "input_gradient": lambda net, x: net.input_gradient(x, 0),
    "forward": lambda net, x: net.forward(x),
}


def cases_of_X():
    for verb, call in TAKING_X.items():
        refused = BAD_X if verb in ("predict", "hidden", "input_gradient") else BAD_X | NO_ROWS
        for what, (x, error, pattern) in refused.items():
            yield f"{verb}: X {what}", "net", lambda net, call=call, x=x: call(net, x), error, pattern


OTHER_COLUMN = RNG.normal(size=(N, 1))

BAD_Y = {  # what: (network, y, loss, error, pattern)
    "None": ("net", None, "mse", TypeError, "y.*number"),
    "None among numbers": ("net", changed(Y, (3, 2), None, object), "mse", TypeError, "y.*number"),
    "None among labels": (
        "net", [None, *LABELS[1:]], "softmax_cross_entropy", TypeError, "y holds None at row 0; it is missing.*number"),
    "NA among labels": (
        "net", changed(LABELS, 4, NAType(), object), "softmax_cross_entropy", TypeError,
        "y holds <NA> of type NAType at row 4; it is missing"),
    "NaN among labels": (
        "net", changed(LABELS, 4, np.nan, float), "softmax_cross_entropy", ValueError,
        "y: softmax_cross_entropy takes integer labels.*a missing value, NaN, at row 4"),
    "a null among labels": (
        "net", NullableColumn([None if k == 4 else int(label) for k, label in enumerate(LABELS)]),
        "softmax_cross_entropy", TypeError, "y holds None at row 4; it is missing"),
    "complex": ("net", Y + 0j, "mse", ValueError, "y.*complex"),
    "text": ("net", Y.astype(str), "mse", TypeError, "y.*number"),
    "text labels": (
        "net", np.array(["a", "b"] * 5), "softmax_cross_entropy", TypeError,
        r"y holds 'a' of type str at row 0; numbers are wanted: classes, y = np\.unique\(y, return_inverse=True\)"),
    "masked": ("net", np.ma.masked_array(Y), "mse", ValueError, "y.*masked"),
    "sparse": ("net", Sparse(), "mse", TypeError, "y.*sparse"),
    "ragged": ("net", RAGGED, "mse", ValueError, "y"),
    "dates": ("net", np.zeros((N, N_OUT), "M8[s]"), "mse", TypeError, "y.*number"),
    "a number": ("net", 1.0, "mse", ValueError, "X and y|y must"),
    "too short": ("net", Y[:-1], "mse", ValueError, r"X and y.*\b10\b.*\b9\b"),
    "too long": ("net", np.vstack([Y, Y]), "mse", ValueError, r"X and y.*\b10\b.*\b20\b"),
    "empty": ("net", Y[:0], "mse", ValueError, r"X and y.*\b10\b.*\b0\b"),
    "labels too short": ("net", LABELS[:-1], "softmax_cross_entropy", ValueError, r"X and y.*\b10\b.*\b9\b"),
    "(n,) for (n, k)": ("net", Y[:, 0], "mse", ValueError, r"y.*\(10, 4\)"),
    "(n, 1) for (n, k)": ("net", Y[:, :1], "mse", ValueError, r"y.*\(10, 4\)"),
    "(1, k) for (n, k)": ("net", Y[:1], "mse", ValueError, "X and y"),
    "(n, k + 1) for (n, k)": ("net", np.zeros((N, N_OUT + 1)), "mse", ValueError, r"y.*\(10, 4\).*\(10, 5\)"),
    "transposed": ("net", Y.T, "mse", ValueError, "y"),
    "3-D": ("net", Y[:, :, None], "mse", ValueError, r"y.*\(10, 4\)"),
    "(n, k) for (n, 1)": ("one", Y, "mse", ValueError, r"y.*\(10, 1\)"),
    "(1, n) for (n, 1)": ("one", OTHER_COLUMN.T, "mse", ValueError, "y"),
    "(n, 1, 1) for (n, 1)": ("one", OTHER_COLUMN[:, :, None], "mse", ValueError, r"y.*\(10, 1\)"),
    "NaN": ("net", changed(Y, (3, 2), np.nan), "mse", ValueError, r"y.*finite.*y\[3, 2\]"),
    "infinite": ("net", changed(Y, (9, 0), -np.inf), "mse", ValueError, r"y.*finite.*y\[9, 0\]"),
    "infinite in float32": ("net", changed(Y, (0, 1), 1e39), "mse", ValueError, r"y.*finite.*float32.*y\[0, 1\]"),
    "NaN for one output": ("one", changed(Y[:, 0], 3, np.nan), "mse", ValueError, r"y.*finite"),
    "NaN probability": (
        "net", changed(PROBABILITIES, (2, 2), np.nan), "softmax_cross_entropy", ValueError, r"y.*y\[2, 2\]"),
    "label -1": ("net", changed(LABELS, 4, -1), "softmax_cross_entropy", ValueError, r"y.*0 to 3.*y\[4\].*-1"),
    "label K": ("net", changed(LABELS, 9, N_OUT), "softmax_cross_entropy", ValueError, r"y.*0 to 3.*y\[9\].*4"),
    "a label 2**53 + 1 among objects": (
        "net", changed(LABELS, 4, 2**53 + 1, object), "softmax_cross_entropy", ValueError,
        r"y.*0 to 3.*y\[4\] = 9007199254740993"),
    "a label 2**64 - 1 among objects": (
        "net", changed(LABELS, 4, 2**64 - 1, object), "softmax_cross_entropy", ValueError,
        r"y.*0 to 3.*y\[4\] = 18446744073709551615"),
    "label 2**40": ("net", changed(LABELS, 0, 2**40), "softmax_cross_entropy", ValueError, r"y.*0 to 3"),
    "label 2**64 - 1": (
        "net", changed(LABELS, 0, 2**64 - 1, "u8"), "softmax_cross_entropy", ValueError, r"y.*0 to 3"),
    "label 256 + 1": ("net", changed(LABELS, 0, 257), "softmax_cross_entropy", ValueError, r"y.*0 to 3"),
    "float labels": ("net", LABELS.astype(float), "softmax_cross_entropy", ValueError, r"y.*integer.*astype\(int\)"),
    "fractional labels": ("net", LABELS + 0.5, "softmax_cross_entropy", ValueError, r"y.*integer"),
    "labels as a column": ("net", LABELS[:, None], "softmax_cross_entropy", ValueError, r"y.*\(10, 4\).*labels"),
    "labels for mse": ("net", LABELS, "mse", ValueError, r"y.*\(10, 4\)"),
    "rows that sum to 2": ("net", 2 * PROBABILITIES / 2 + 0.25, "softmax_cross_entropy", ValueError, "y.*row 0"),
    "one row that sums to 0.99": (
        "net", changed(PROBABILITIES, 7, PROBABILITIES[7] * 0.99), "softmax_cross_entropy", ValueError,
        r"y.*probabilities.*row 7"),
    "a row of zeros": ("net", changed(PROBABILITIES, 5, 0), "softmax_cross_entropy", ValueError, r"y.*row 5"),
    "a negative probability": (
        "net", changed(PROBABILITIES, (6, slice(0, 2)), [-0.1, 1.1]), "softmax_cross_entropy", ValueError,
        r"y.*0 to 1.*y\[6, [01]\]"),
    "a target above 1": ("net", changed(Y, (8, 1), 1.5), "binary_cross_entropy", ValueError, r"y.*0 to 1.*y\[8, 1\]"),
    "a target below 0": ("net", changed(Y, (8, 1), -1), "binary_cross_entropy", ValueError, r"y.*0 to 1"),
    "softmax on a sigmoid output": (
        "sigmoid", LABELS, "softmax_cross_entropy", ValueError, "loss.*softmax_cross_entropy.*identity.*sigmoid"),
    "logits loss on a sigmoid output": (
        "sigmoid", Y, "binary_cross_entropy", ValueError, "loss.*binary_cross_entropy.*identity.*sigmoid"),
    "an unknown loss": ("net", Y, "mes", ValueError, "loss.*'mes'.*did you mean 'mse'"),
    "a loss far from all": ("net", Y, "zzzz", ValueError, "loss.*'zzzz'.*known.*'mse'"),
    "a function for a loss": ("net", Y, max, TypeError, "loss must be.*max.*@fastbp.loss makes a row of a function"),
    "no name of a loss": ("net", Y, 3, TypeError, "loss.*3"),
    "None for a loss": ("net", Y, None, TypeError, "loss.*None"),
}  # fmt: skip

TAKING_Y = {
    "fit": lambda net, y, loss, **more: net.fit(X, y, loss=loss, steps=3, seed=99, **more),
    "train_step": lambda net, y, loss, **more: net.train_step(X, y, loss=loss, **more),
    "evaluate": lambda net, y, loss, **more: net.evaluate(X, y, loss=loss, **more),
    "loss_and_grad": lambda net, y, loss, **more: net.loss_and_grad(X, y, loss=loss, **more),
}


def cases_of_y():
    for verb, call in TAKING_Y.items():
        for what, (which, y, loss, error, pattern) in BAD_Y.items():
            if verb == "evaluate" and loss is None:  # the one last trained with
                continue
            yield f"{verb}: y {what}", which, lambda net, c=call, y=y, loss=loss: c(net, y, loss), error, pattern


W = RNG.uniform(0.5, 2, size=N)
BAD_WEIGHTS = {
    "complex": (W + 0j, ValueError, "sample_weight.*complex"),
    "text": (W.astype(str), TypeError, "sample_weight.*number"),
    "'balanced'": ("balanced", TypeError, "sample_weight.*number"),
    "None among numbers": ([None, *W[1:]], TypeError, "sample_weight.*number"),
    "masked": (np.ma.masked_array(W), ValueError, "sample_weight.*masked"),
    "a number": (1.0, ValueError, r"sample_weight.*\(10,\)"),
    "too short": (W[:-1], ValueError, r"sample_weight.*\(10,\).*\(9,\)"),
    "2-D": (W[:, None], ValueError, r"sample_weight.*\(10,\).*\(10, 1\)"),
    "negative": (changed(W, 4, -1e-9), ValueError, r"sample_weight.*sample_weight\[4\]"),
    "NaN": (changed(W, 9, np.nan), ValueError, r"sample_weight.*finite.*sample_weight\[9\]"),
    "infinite": (changed(W, 0, np.inf), ValueError, r"sample_weight.*finite.*sample_weight\[0\]"),
    "all zero": (np.zeros(N), ValueError, "sample_weight.*zero"),
    "a sum that overflows": (np.full(N, 1e308), ValueError, "sample_weight.*sum.*overflows"),
}


def cases_of_weights():
    for verb, call in TAKING_Y.items():
        for what, (weight, error, pattern) in BAD_WEIGHTS.items():
            yield (
                f"{verb}: sample_weight {what}", "net",
                lambda net, c=call, w=weight: c(net, Y, "mse", sample_weight=w), error, pattern,
            )  # fmt: skip


# ------------------------------------------------------------------ hyper-parameters of a run

BAD_RUNS = {  # arguments of fit beside X, y; each in place of steps=3 where it names steps or epochs
    "batch_size 0": ({"batch_size": 0}, ValueError, "batch_size.*1.*0"),
    "batch_size -3": ({"batch_size": -3}, ValueError, "batch_size"),
    "batch_size 3.5": ({"batch_size": 3.5}, TypeError, "batch_size.*integer.*3.5"),
    "batch_size 4.0": ({"batch_size": 4.0}, TypeError, "batch_size.*integer"),
    "batch_size '8'": ({"batch_size": "8"}, TypeError, "batch_size.*integer.*'8'"),
    "batch_size True": ({"batch_size": True}, TypeError, "batch_size.*integer.*True"),
    "batch_size None": ({"batch_size": None}, TypeError, "batch_size.*integer"),
    "batch_size an array": ({"batch_size": np.array([8])}, TypeError, "batch_size.*integer"),
    "steps -1": ({"steps": -1}, ValueError, "steps.*-1"),
    "steps 2.5": ({"steps": 2.5}, TypeError, "steps.*integer"),
    "steps True": ({"steps": True}, TypeError, "steps.*integer"),
    "epochs -1": ({"steps": None, "epochs": -1}, ValueError, "epochs.*-1"),
    "epochs '3'": ({"steps": None, "epochs": "3"}, TypeError, "epochs.*integer"),
    "epochs and steps": ({"epochs": 2}, ValueError, "exactly one.*epochs.*steps"),
    "epochs and steps, both 0": ({"epochs": 0, "steps": 0}, ValueError, "exactly one"),
    "neither epochs nor steps": ({"steps": None}, ValueError, "exactly one.*epochs.*steps"),
    "shuffle 1": ({"shuffle": 1}, TypeError, "shuffle.*True or False"),
    "shuffle 'yes'": ({"shuffle": "yes"}, TypeError, "shuffle"),
    "eval_every 0": ({"eval_every": 0}, ValueError, "eval_every"),
    "eval_every 2.5": ({"eval_every": 2.5}, TypeError, "eval_every.*integer"),
    "eval_every -1": ({"eval_every": -1}, ValueError, "eval_every"),
    "n_threads 0": ({"n_threads": 0}, ValueError, "n_threads"),
    "n_threads -1": ({"n_threads": -1}, ValueError, "n_threads"),
    "n_threads 1.5": ({"n_threads": 1.5}, TypeError, "n_threads.*integer"),
    "n_threads '2'": ({"n_threads": "2"}, TypeError, "n_threads.*integer"),
    "seed -1": ({"seed": -1}, ValueError, "seed.*-1"),
    "seed 2**64": ({"seed": 2**64}, ValueError, "seed"),
    "seed 1.5": ({"seed": 1.5}, TypeError, "seed.*integer"),
    "seed True": ({"seed": True}, TypeError, "seed.*integer"),
    "nonfinite 'rais'": ({"nonfinite": "rais"}, ValueError, "nonfinite.*'rais'.*did you mean 'raise'"),
    "nonfinite 'x'": ({"nonfinite": "x"}, ValueError, "nonfinite.*'x'.*ignore.*raise"),
    "nonfinite None": ({"nonfinite": None}, TypeError, "nonfinite.*None"),
    "an unknown argument": ({"batchsize": 3}, TypeError, "batchsize"),
}
BAD_OPTIMIZERS = {
    "a name that nobody knows": ("sdg", ValueError, "optimizer.*'sdg'.*did you mean 'sgd'"),
    "a number": (0.1, TypeError, "optimizer.*0.1"),
    "None": (None, TypeError, "optimizer.*None"),
    "the class itself": (SGD, TypeError, "optimizer.*SGD"),
}
TAKING_OPTIMIZER = {
    "fit": lambda net, rule: net.fit(X, Y, optimizer=rule, steps=3),
    "train_step": lambda net, rule: net.train_step(X, Y, optimizer=rule),
    "update": lambda net, rule: net.update(rule),
    "backward_update": lambda net, rule: net.backward_update(np.ones((N, N_OUT)), rule),
}


def cases_of_runs():
    for what, (arguments, error, pattern) in BAD_RUNS.items():
        arguments = {"steps": 3, "seed": 99} | arguments
        yield f"fit: {what}", "net", lambda net, a=arguments: net.fit(X, Y, **a), error, pattern
    for verb, call in TAKING_OPTIMIZER.items():
        for what, (rule, error, pattern) in BAD_OPTIMIZERS.items():
            yield f"{verb}: optimizer {what}", "net", lambda net, c=call, rule=rule: c(net, rule), error, pattern


# ------------------------------------------------------------------ the caller's own gradient, and the rest

G = np.ones((N, N_OUT))
BAD_GRADIENTS = {
    "1-D": (G[0], ValueError, "grad_output.*2-D"),
    "3-D": (G[None], ValueError, "grad_output.*2-D"),
    "too few rows": (G[:-1], ValueError, r"grad_output.*\b9\b.*\b10\b"),
    "one row": (G[:1], ValueError, r"grad_output.*\b1\b.*\b10\b"),
    "too few columns": (G[:, :1], ValueError, r"grad_output.*\b1\b.*\b4\b"),
    "complex": (G + 0j, ValueError, "grad_output.*complex"),
    "text": (G.astype(str), TypeError, "grad_output.*number"),
    "masked": (np.ma.masked_array(G), ValueError, "grad_output.*masked"),
    "sparse": (Sparse(), TypeError, "grad_output.*sparse"),
}


def _set_item(container, k, value):
    container[k] = value


OTHERS = {
    "backward: accumulate 1": (lambda net: net.backward(G, accumulate=1), TypeError, "accumulate.*True or False"),
    "unflatten: too short": (lambda net: net.unflatten(net.flatten()[:-1]), ValueError, r"\bv\b.*\(44,\).*\(43,\)"),
    "unflatten: 2-D": (lambda net: net.unflatten(net.flatten()[None]), ValueError, r"\bv\b.*\(44,\)"),
    "unflatten: the padded buffer": (lambda net: net.unflatten(net.params), ValueError, r"\bv\b.*\(44,\)"),
    "unflatten: complex": (lambda net: net.unflatten(net.flatten() + 0j), ValueError, r"\bv\b.*complex"),
    "unflatten: text": (lambda net: net.unflatten("weights"), TypeError, r"\bv\b.*number"),
    "weights[0] = ...": (lambda net: _set_item(net.weights, 0, 1), TypeError, "tuple"),
    "biases[0] = ...": (lambda net: _set_item(net.biases, 0, 1), TypeError, "tuple"),
    "grad_weights[0] = ...": (lambda net: _set_item(net.grad_weights, 0, 1), TypeError, "tuple"),
    "grad_biases[0] = ...": (lambda net: _set_item(net.grad_biases, 0, 1), TypeError, "tuple"),
    "weights = ...": (lambda net: setattr(net, "weights", ()), AttributeError, "weights"),
    "params = ...": (lambda net: setattr(net, "params", net.params), AttributeError, "params"),
    "step = ...": (lambda net: setattr(net, "step", 0), AttributeError, "step"),
    "a wrong shape into a weight": (lambda net: _set_item(net.weights[0], ..., np.ones((5, 3))), ValueError, "shape"),
}


def cases_of_gradients():
    for verb in ("backward", "backward_update"):
        for what, (gradient, error, pattern) in BAD_GRADIENTS.items():
            call = lambda net, verb=verb, g=gradient: getattr(net, verb)(g)  # noqa: E731
            yield f"{verb}: grad_output {what}", "net", call, error, pattern
    for what, (call, error, pattern) in OTHERS.items():
        yield what, "net", call, error, pattern


CASES = [*cases_of_X(), *cases_of_y(), *cases_of_weights(), *cases_of_runs(), *cases_of_gradients()]


@pytest.mark.parametrize("which, call, error, pattern", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_wrong_argument_is_refused_and_the_network_is_as_before(backend, which, call, error, pattern):
    net, twin = (build(which, backend) for _ in range(2))
    with pytest.raises(error) as caught:
        call(net)
    assert re.search(pattern, str(caught.value)), str(caught.value)
    assert state(net) == state(twin)
    assert continuation(net) == continuation(twin)


def test_the_tables_of_errors_can_fail(backend):
    """A right argument raises nothing; a changed network is seen as changed."""
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_wrong_argument_is_refused_and_the_network_is_as_before(
            backend, "net", lambda net: net.predict(X), ValueError, "X"
        )
    for change in (
        lambda net: net.train_step(X, Y),
        lambda net: net._state.enter(N, 3),  # moves nothing but the position
        lambda net: net.fit(X, Y, steps=0, batch_size=4, seed=8),
        lambda net: net.params.__setitem__(15, 1.0),  # padding
        lambda net: net.backward(G),
    ):
        net, twin = build("net", backend), build("net", backend)
        change(net)
        assert state(net) != state(twin)


def test_scipys_sparse_matrices_other_than_csr_are_refused(backend):
    sparse = pytest.importorskip("scipy.sparse")
    net, twin = build("net", backend), build("net", backend)
    for make in (sparse.coo_array, sparse.csc_array):
        with pytest.raises(TypeError, match="X.*sparse.*tocsr"):
            net.predict(make(X))
        with pytest.raises(TypeError, match="x.*sparse|X.*sparse"):
            net.train_step(make(X), Y)
        with pytest.raises(TypeError, match="y.*sparse"):
            net.fit(X, make(Y), steps=1)
    assert state(net) == state(twin)


def test_a_target_column_is_never_broadcast(backend):
    """(n,) is (n, 1), whatever the layout; both train alike."""
    results = []
    for y in (OTHER_COLUMN, OTHER_COLUMN[:, 0]):
        net = fastbp.MLP((N_IN, 5, 1), seed=1, backend=backend)
        loss = net.evaluate(X, y, loss="mse")
        assert_close(loss, np.mean((net.predict(X).astype(float) - OTHER_COLUMN) ** 2), np.float32)
        net.fit(X, y, steps=5)
        results.append((loss, state(net)))
    assert results[0] == results[1]


# ------------------------------------------------------------------ optimizers and networks that cannot be made

BAD_SGD = {
    "lr -0.1": ({"lr": -0.1}, ValueError, "lr.*-0.1"),
    "lr NaN": ({"lr": float("nan")}, ValueError, "lr.*nan"),
    "lr inf": ({"lr": float("inf")}, ValueError, "lr.*inf"),
    "lr '0.1'": ({"lr": "0.1"}, TypeError, "lr.*number.*'0.1'"),
    "lr None": ({"lr": None}, TypeError, "lr.*None"),
    "lr True": ({"lr": True}, TypeError, "lr.*True"),
    "lr complex": ({"lr": 0.1 + 0j}, TypeError, "lr"),
    "lr an array": ({"lr": np.array([0.1])}, TypeError, "lr"),
    "lr an array without axes that is True": ({"lr": np.array(True)}, TypeError, "lr.*number.*True"),
    "lr an array without axes that is text": ({"lr": np.array("0.1")}, TypeError, "lr.*number.*'0.1'"),
    "lr text as an object": ({"lr": np.array("0.1", object)}, TypeError, "lr.*number.*'0.1'"),
    "lr a tensor that is True": ({"lr": Scalar(True)}, TypeError, "lr.*number"),
    "lr a complex tensor": ({"lr": Scalar(1j)}, TypeError, "lr.*number"),
    "lr a tensor without values": ({"lr": Scalar(0.1, device="meta")}, TypeError, "lr.*number"),
    "lr a duration": ({"lr": np.timedelta64(1, "s")}, TypeError, "lr.*number"),
    "lr a fraction beyond float": ({"lr": Fraction(10**400)}, ValueError, "lr.*finite"),
    "lr a decimal NaN": ({"lr": Decimal("NaN")}, ValueError, "lr.*finite.*NaN"),
    "lr beyond float": ({"lr": 10**400}, ValueError, "lr"),
    "momentum 2": ({"momentum": 2}, ValueError, "momentum.*0 to 1.*2"),
    "momentum -0.5": ({"momentum": -0.5}, ValueError, "momentum.*-0.5"),
    "momentum NaN": ({"momentum": float("nan")}, ValueError, "momentum"),
    "momentum '0.9'": ({"momentum": "0.9"}, TypeError, "momentum"),
    "nesterov without momentum": ({"nesterov": True}, ValueError, "nesterov.*momentum"),
    "nesterov 1": ({"nesterov": 1, "momentum": 0.9}, TypeError, "nesterov.*True or False"),
    "weight_decay -1": ({"weight_decay": -1}, ValueError, "weight_decay.*-1"),
    "weight_decay inf": ({"weight_decay": float("inf")}, ValueError, "weight_decay"),
    "an unknown argument": ({"learning_rate": 0.1}, TypeError, "learning_rate"),
}


@pytest.mark.parametrize("arguments, error, pattern", BAD_SGD.values(), ids=BAD_SGD)
def test_a_wrong_hyper_parameter_is_refused_by_the_optimizer(arguments, error, pattern):
    with pytest.raises(error) as caught:
        SGD(**arguments)
    assert re.search(pattern, str(caught.value)), str(caught.value)


def test_an_optimizer_cannot_be_changed_behind_its_checks():
    rule = SGD(lr=0.1)
    with pytest.raises(AttributeError):
        rule.lr = -1


BAD_NETWORKS = {
    "sizes None": ({"sizes": None}, TypeError, "sizes"),
    "sizes 5": ({"sizes": 5}, TypeError, "sizes.*5"),
    "sizes '231'": ({"sizes": "231"}, TypeError, "sizes.*'231'"),
    "sizes empty": ({"sizes": ()}, ValueError, "sizes"),
    "sizes of one": ({"sizes": (3,)}, ValueError, "sizes"),
    "sizes with 0": ({"sizes": (3, 0, 1)}, ValueError, r"sizes\[1\].*1.*0"),
    "no input": ({"sizes": (0, 1)}, ValueError, r"sizes\[0\]"),
    "no output": ({"sizes": (1, 0)}, ValueError, r"sizes\[1\]"),
    "sizes negative": ({"sizes": (3, -1, 1)}, ValueError, r"sizes\[1\].*-1"),
    "sizes fractional": ({"sizes": (3, 2.5, 1)}, TypeError, r"sizes\[1\].*integer.*2.5"),
    "sizes whole floats": ({"sizes": (3.0, 2.0)}, TypeError, r"sizes\[0\].*integer"),
    "sizes of text": ({"sizes": ("3", "1")}, TypeError, r"sizes\[0\].*integer"),
    "sizes of bools": ({"sizes": (True, True)}, TypeError, r"sizes\[0\].*integer"),
    "sizes an array of floats": ({"sizes": np.array([3.0, 1.0])}, TypeError, r"sizes\[0\].*integer"),
    "sizes 2-D": ({"sizes": np.ones((2, 2), int)}, TypeError, "sizes"),
    "sizes 0-D": ({"sizes": np.array(3)}, TypeError, "sizes"),
    "wrapping 2**64": ({"sizes": (2**33, 2**33)}, ValueError, "sizes"),
    "wrapping to 0": ({"sizes": (2**32, 2**32)}, ValueError, "sizes"),
    "2**63": ({"sizes": (2**63, 2)}, ValueError, "sizes"),
    "2**63 - 1": ({"sizes": (2**63 - 1, 1)}, ValueError, "sizes"),
    "2**64": ({"sizes": (1, 2**64)}, ValueError, "sizes"),
    "10**30": ({"sizes": (10**30, 1)}, ValueError, "sizes"),
    "wide hidden": ({"sizes": (1, 2**61, 1)}, ValueError, "sizes"),
    "many layers that wrap together": ({"sizes": (2**30,) * 9}, ValueError, "sizes"),
    "dtype int": ({"dtype": int}, ValueError, "dtype.*float.*int64"),
    "dtype complex": ({"dtype": complex}, ValueError, "dtype.*float.*complex"),
    "dtype bool": ({"dtype": bool}, ValueError, "dtype"),
    "dtype str": ({"dtype": "U8"}, ValueError, "dtype"),
    "dtype object": ({"dtype": object}, ValueError, "dtype"),
    "dtype of records": ({"dtype": [("a", "f4")]}, ValueError, "dtype"),
    "dtype byte-swapped": ({"dtype": np.dtype("f4").newbyteorder()}, ValueError, "dtype.*native"),
    "dtype 'flaot'": ({"dtype": "flaot"}, TypeError, "dtype.*flaot"),
    "seed -1": ({"seed": -1}, ValueError, "seed.*-1"),
    "seed 2**64": ({"seed": 2**64}, ValueError, "seed"),
    "seed 1.5": ({"seed": 1.5}, TypeError, "seed.*integer.*1.5"),
    "seed '1'": ({"seed": "1"}, TypeError, "seed.*integer"),
    "bias 1": ({"bias": 1}, TypeError, "bias.*True or False"),
    "backend 'refrence'": ({"backend": "refrence"}, ValueError, "backend.*'refrence'.*did you mean 'reference'"),
    "backend 'cuda'": ({"backend": "cuda"}, ValueError, "backend.*'cuda'.*'cython'.*'reference'"),
    "backend None": ({"backend": None}, TypeError, "backend"),
    "activation 'rleu'": ({"activation": "rleu"}, ValueError, "activation.*'rleu'.*did you mean 'relu'"),
    "activation 'RELU '": ({"activation": "RELU "}, ValueError, "activation.*did you mean 'relu'"),
    "activation None": ({"activation": None}, TypeError, "activation.*None"),
    "activation one too few": ({"activation": ["relu"], "sizes": (3, 4, 4, 1)}, ValueError, r"activation.*1.*2"),
    "activation one too many": ({"activation": ["relu"] * 3, "sizes": (3, 4, 4, 1)}, ValueError, r"activation.*3.*2"),
    "one of the activations": (
        {"activation": ["relu", "tahn"], "sizes": (3, 4, 4, 1)}, ValueError, r"activation\[1\].*'tahn'.*'tanh'"),
    "output_activation 'sigmod'": (
        {"output_activation": "sigmod"}, ValueError, "output_activation.*did you mean 'sigmoid'"),
    "output_activation 'softmax'": ({"output_activation": "softmax"}, ValueError, "output_activation.*'softmax'"),
    "output_activation None": ({"output_activation": None}, TypeError, "output_activation.*None"),
    "init 'glorot_unifrom'": (
        {"init": "glorot_unifrom"}, ValueError, "init.*did you mean 'glorot_uniform'"),
    "init 3": ({"init": 3}, TypeError, "init.*3"),
    "init too few arrays": ({"init": [np.ones((3, 4))]}, ValueError, "init.*1.*2"),
    "init too many arrays": ({"init": [np.ones((3, 4))] * 3}, ValueError, "init.*3.*2"),
    "init transposed": ({"init": [np.ones((4, 3)), np.ones((4, 2))]}, ValueError, r"init\[0\].*\(3, 4\).*\(4, 3\)"),
    "init that would broadcast": ({"init": [np.ones((3, 4)), np.ones((1, 2))]}, ValueError, r"init\[1\].*\(4, 2\)"),
    "init a number": ({"init": [np.ones((3, 4)), 1.0]}, ValueError, r"init\[1\].*\(4, 2\)"),
    "init complex": ({"init": [np.ones((3, 4)) + 0j, np.ones((4, 2))]}, ValueError, r"init\[0\].*complex"),
    "init None": ({"init": [np.ones((3, 4)), None]}, TypeError, r"init\[1\].*number"),
    "init text": ({"init": [np.ones((3, 4)).astype(str), np.ones((4, 2))]}, TypeError, r"init\[0\].*number"),
    "init with a wrong bias": (
        {"init": [(np.ones((3, 4)), np.ones(4)), (np.ones((4, 2)), np.ones(3))]}, ValueError,
        r"init\[1\].*bias.*\(2,\).*\(3,\)"),
    "init with a number for a bias": (
        {"init": [(np.ones((3, 4)), 1.0), np.ones((4, 2))]}, ValueError, r"init\[0\].*bias.*\(4,\).*\(\)"),
    "init with a number for a weight": (
        {"init": [(1.0, np.ones(4)), np.ones((4, 2))]}, ValueError, r"init\[0\].*\(3, 4\).*\(\)"),
    "init of two rows for a weight of three": (
        {"init": [((1, 2, 3, 4), (5, 6, 7, 8)), np.ones((4, 2))]}, ValueError, r"init\[0\].*\(3, 4\).*\(2, 4\)"),
    "init ragged in a pair": (
        {"init": [([[1], [1, 2]], np.ones(4)), np.ones((4, 2))]}, ValueError, r"init\[0\].*array"),
    "init with a bias for a network without": (
        {"init": [(np.ones((3, 4)), np.ones(4)), np.ones((4, 2))], "bias": False}, ValueError, r"init\[0\].*bias"),
    "a callable's wrong shape": (
        {"init": lambda rng, n_in, n_out: np.ones((n_out, n_in))}, ValueError, r"init.*\(3, 4\).*\(4, 3\)"),
    "a callable's None": ({"init": lambda rng, n_in, n_out: None}, (TypeError, ValueError), "init"),
    "an unknown argument": ({"learning_rate": 0.1}, TypeError, "learning_rate"),
}  # fmt: skip


@pytest.mark.parametrize("arguments, error, pattern", BAD_NETWORKS.values(), ids=BAD_NETWORKS)
def test_a_network_that_cannot_be_is_refused_before_anything_is_allocated(arguments, error, pattern):
    arguments = {"sizes": (3, 4, 2), "seed": 0} | arguments
    tracemalloc.start()
    try:
        clock = time.perf_counter()
        with pytest.raises(error) as caught:
            fastbp.MLP(**arguments)
        seconds, peak = time.perf_counter() - clock, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert re.search(pattern, str(caught.value), re.DOTALL), str(caught.value)
    assert seconds < 1 and peak < 1_000_000


def test_a_network_too_large_for_this_machine_is_a_memory_error(backend):
    """2**60 bytes: no size wraps, no machine has them."""
    with pytest.raises(MemoryError):
        fastbp.MLP((2**29, 2**29), init="zeros", backend=backend)
    assert fastbp.MLP((2, 1), seed=0, backend=backend).predict([[1, 2]]).shape == (1, 1)


def test_an_initialisers_own_error_comes_out_as_it_is():
    def fails(rng, n_in, n_out):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fastbp.MLP((2, 1), init=fails)


@pytest.mark.parametrize("value", [
    np.float32(0.1), np.int64(1), 1, 0, 0.0, np.array(0.1), np.array(1), np.array(Decimal("0.1")), Decimal("0.1"),
    Fraction(1, 3), Scalar(0.1), np.longdouble(0.1),
])  # fmt: skip
def test_numbers_of_every_kind_are_numbers(value):
    for found in (
        SGD(lr=value).lr,
        SGD(lambda step: value).rate(0),
        fastbp.schedules.Warmup(lambda step: value, 1)(1),
    ):
        assert type(found) is float and found == float(value)
    if value:
        assert fastbp.losses.huber(delta=value) == fastbp.losses.huber(delta=float(value))


@pytest.mark.parametrize("kind", [int, np.int8, np.uint64])
def test_integers_of_every_kind_are_integers(backend, kind):
    net = fastbp.MLP([kind(3), kind(4)], seed=kind(7), backend=backend)
    history = net.fit(X, Y, batch_size=kind(4), steps=kind(5), eval_every=kind(2), n_threads=kind(1), seed=kind(3))
    assert net.sizes == (3, 4) and history.n_steps == net.step == 5 and net.seed == 3


# ------------------------------------------------------------------ verbs in the wrong order

PENDING = {  # what a call does to a pending forward
    "predict": (lambda net: net.predict(X[:3]), True),
    "predict of nothing": (lambda net: net.predict(X[:0]), True),
    "hidden": (lambda net: net.hidden(X[:3]), True),
    "input_gradient": (lambda net: net.input_gradient(X[:3], 0), True),
    "evaluate": (lambda net: net.evaluate(X, Y, loss="mse"), True),
    "loss_and_grad": (lambda net: net.loss_and_grad(X, Y, loss="mse"), True),
    "flatten": (lambda net: net.flatten(), True),
    "backward": (lambda net: net.backward(G), True),
    "pickle": (lambda net: pickle.dumps(net), True),
    "repr": (repr, True),
    "fit": (lambda net: net.fit(X, Y, steps=1), False),
    "fit of nothing": (lambda net: net.fit(X, Y, steps=0), False),
    "train_step": (lambda net: net.train_step(X, Y), False),
    "update": (lambda net: net.update("sgd"), False),
    "backward_update": (lambda net: net.backward_update(G, "sgd"), False),
}


@pytest.mark.parametrize("what", PENDING)
def test_a_pending_forward_is_left_alone_or_dropped(backend, what):
    call, stays = PENDING[what]
    net, twin = build("net", backend), build("net", backend)
    call(net)
    if stays:
        assert frozen([net.backward(G), net.grads]) == frozen([twin.backward(G), twin.grads])
    else:
        before = state(net)
        for backward in (net.backward, net.backward_update):
            with pytest.raises(RuntimeError, match="forward"):
                backward(G)
        assert state(net) == before
        net.forward(X)
        net.backward(G)


class Raises(fastbp.Callback):
    def on_train_begin(self, net):
        raise KeyError("on purpose")


NO_STEP = {  # calls that get as far as to begin, with another loss, optimizer, seed and batch size; and what they raise
    "train_step": (lambda net, more: net.train_step(NAN_X, Y, **more), fastbp.NonFiniteError),
    "fit": (lambda net, more: net.fit(NAN_X, Y, steps=9, batch_size=3, seed=5, **more), fastbp.NonFiniteError),
    "fit of nothing": (lambda net, more: net.fit(X, Y, steps=0, batch_size=3, **more), None),
    "on_train_begin": (
        lambda net, more: net.fit(X, Y, steps=9, batch_size=3, seed=5, callbacks=[Raises()], **more), KeyError
    ),
    "rate": (
        lambda net, more: net.fit(X, Y, steps=9, seed=5, batch_size=3, loss="mse", optimizer=SGD(lambda step: -1.0)),
        ValueError,
    ),
    "batches": (lambda net, more: net.fit(iter([(NAN_X, Y)]), steps=9, seed=5, **more), fastbp.NonFiniteError),
    "lbfgs": (lambda net, more: net.fit(NAN_X, Y, steps=9, seed=5, optimizer="lbfgs"), fastbp.NonFiniteError),
}  # fmt: skip
NAN_X = changed(X, (slice(None), 1), np.nan)


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", SGD(0.1, momentum=0.5, average=0.9, accumulate=2), "adam"])
@pytest.mark.parametrize("call", NO_STEP)
def test_a_call_that_makes_no_step_leaves_the_training_state(backend, call, optimizer):
    """Slots, what they count, the loss's link, seed and place: training goes on as if there had been no call."""
    run = {"optimizer": "adam", "loss": "binary_cross_entropy"}
    net, twin = (fastbp.MLP((N_IN, 5, N_OUT), activation="tanh", seed=7, backend=backend) for _ in range(2))
    for one in (net, twin):
        one.fit(X, Y, batch_size=4, steps=5, **run)
        one.train_step(X, Y, **run)
    act, error = NO_STEP[call]
    if error is None:
        act(net, {"optimizer": optimizer})
    else:
        with pytest.raises(error):
            act(net, {"optimizer": optimizer})
    assert state(net) == state(twin)
    assert net.predict_proba(X).tobytes() == twin.predict_proba(X).tobytes()
    for one in (net, twin):
        one.train_step(X, Y, **run)
        one.fit(X, Y, batch_size=4, steps=5, **run)
    assert state(net) == state(twin)


def test_the_public_names_are_found_by_completion():
    assert set(fastbp.__all__) <= set(dir(fastbp)) and "feeds" not in dir(fastbp)
    assert all(hasattr(fastbp, name) for name in dir(fastbp))


def test_a_backward_without_a_forward_is_an_error(backend):
    net = fastbp.MLP((N_IN, 5, N_OUT), seed=0, backend=backend)
    before = state(net)
    for call in (net.backward, net.backward_update):
        with pytest.raises(RuntimeError, match="forward"):
            call(G)
    assert state(net) == before


def test_a_new_forward_replaces_the_pending_one(backend):
    net, twin = build("net", backend), build("net", backend)
    net.forward(X[:4])
    net.forward(X[3:9])
    twin.forward(X[3:9])
    assert frozen(net.backward(G[:6])) == frozen(twin.backward(G[:6]))
    with pytest.raises(ValueError, match="grad_output"):
        net.backward(G)


TRAINING = {
    "fit": lambda net: net.fit(X, Y, steps=1),
    "train_step": lambda net: net.train_step(X, Y),
    "update": lambda net: net.update("sgd"),
    "backward_update": lambda net: net.forward(X) is None or net.backward_update(G, "sgd"),
    "reset_training": lambda net: net.reset_training(),
}


@pytest.mark.parametrize("verb", TRAINING)
def test_training_a_network_that_is_training_is_an_error_and_disturbs_nothing(backend, verb):
    at_work, go_on = threading.Event(), threading.Event()

    class Held(SGD):
        def scalars(self, step, steps, **more):
            if step > 2:
                at_work.set()
                go_on.wait()
            return super().scalars(step, steps, **more)

    net, twin = (fastbp.MLP((N_IN, 5, N_OUT), seed=0, backend=backend) for _ in range(2))
    net.grads[...] = 1
    for one in (net, twin):
        one.fit(X, Y, batch_size=4, steps=3, optimizer=RULE)
    run = {"batch_size": 4, "steps": 50, "optimizer": Held(RULE.lr, momentum=RULE.momentum)}
    trainer = threading.Thread(target=lambda: net.fit(X, Y, **run))
    trainer.start()
    try:
        assert at_work.wait(60)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="training already"):
                TRAINING[verb](net)
    finally:
        go_on.set()
        trainer.join()
    twin.fit(X, Y, **run)
    assert net.step == twin.step == 53 and frozen(net.flatten()) == frozen(twin.flatten())
    TRAINING[verb](net)  # the lock is free again


def test_a_network_is_usable_after_each_of_many_errors_in_a_row(backend):
    """All of the table on one network, then training goes on as if nothing had happened."""
    net, twin = build("net", backend), build("net", backend)
    for name, which, call, error, _ in CASES if every_case else CASES[:: 1 if backend == "cython" else 5]:
        if which == "net":
            with pytest.raises(error):
                call(net)
            assert net.step == twin.step, name
    assert continuation(net) == continuation(twin)


def test_classes_of_a_network_with_one_output_are_told_where_they_belong():
    with pytest.raises(ValueError, match=r"y must be 0, the one class.*binary_cross_entropy.*y\[1\] = 1"):
        fastbp.MLP((2, 1)).fit(np.ones((2, 2)), np.array([0, 1]), steps=1, loss="softmax_cross_entropy")


@pytest.mark.parametrize(
    "wrong",
    [{"sizes": (2.0, 3, 1)}, {"sizes": (2, 3, True)}, {"bias": 1}, {"dropout": False}, {"input_dropout": "0"}],
    ids=repr,
)
def test_what_equals_good_arguments_of_a_network_is_not_taken_for_them(wrong):
    good = {"sizes": (2, 3, 1), "bias": True, "dropout": 0.0, "input_dropout": 0.0}
    for _ in range(2):
        assert fastbp.MLP(**good).sizes == (2, 3, 1)
        with pytest.raises(TypeError, match=next(iter(wrong))):
            fastbp.MLP(**good | wrong)


def test_networks_of_equal_arguments_are_of_one_kind_and_others_are_not():
    kinds = [fastbp.MLP((2, 3, 1), bias=bias, dtype=dtype, activation=activation, dropout=dropout)
             for bias in (True, False) for dtype in ("float32", np.float64) for activation in ("relu", "tanh")
             for dropout in (0, 0.5)]  # fmt: skip
    assert len({(net._spec.bias, net.dtype, net._spec.activations, net._spec.dropout) for net in kinds}) == 16
    assert fastbp.MLP([2, 3, 1])._spec is fastbp.MLP((2, 3, 1), dtype="float32")._spec
