"""Tiny networks of one hidden layer, a hidden unit per lane (src/kernels/hidden.hpp): what the lanes past the last unit
and the samples past the last row hold reaches nothing, rows are read where they lie, orders are made ahead.

That they train as the reference does, over all sizes: tests/test_equivalence.py and tests/test_families.py.
"""

import numpy as np
import pytest
from conftest import need_numba
from test_arrays import GUARDED
from test_process import python
from tolerance import assert_close

import fastbp
from fastbp.order import epoch_order

RULES = {
    "sgd": fastbp.SGD(0.05),
    "momentum": fastbp.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": fastbp.Adam(0.01, eps=1e-3),
}


def data(sizes, rows, dtype=np.float64, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, sizes[0])).astype(dtype), rng.normal(size=(rows, sizes[-1])).astype(dtype)


def net_of(sizes, dtype, backend="cython", **options):
    return fastbp.MLP(sizes, dtype=dtype, backend=backend, seed=3, **options)


def trained_alike(make, dtype, k, **run):
    """The compiled network and the reference's, trained on the same, agree."""
    nets, losses = [], []
    for backend, kind in (("cython", dtype), ("reference", np.float64)):
        net = make(backend, kind)
        losses.append(net.fit(**run).loss)
        nets.append(net)
    assert_close(nets[0].flatten(), nets[1].flatten(), dtype, k=k)
    assert_close(losses[0], losses[1], dtype, k=k)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["sigmoid", "softplus", "exp", "gelu", "tanh"])
def test_units_in_any_number_of_lanes_train_as_the_reference(activation, bias, rule, isa, dtype):
    """Activations that are not 0 at 0 among them: what is left of a vector has outputs too, and a rule moves it."""
    for hidden in (*range(1, 10), 15, 16):
        for outputs in (1, 2, 3, 4) if hidden in (3, 9) else (1 + hidden % 4,):
            sizes = (1 + hidden % 5, hidden, outputs)
            X, y = data(sizes, 21)
            trained_alike(
                lambda backend, kind, s=sizes: net_of(s, kind, backend, activation=activation, bias=bias),
                dtype, 24 * (sum(sizes) + 9), X=X / 4, y=y, loss="mse", optimizer=RULES[rule], batch_size=9, epochs=3,
            )  # fmt: skip


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy", "huber", "gaussian_nll", "poisson"])
@pytest.mark.parametrize("weights", ["none", "rows", "targets"])
def test_any_loss_through_any_output_trains_as_the_reference(loss, weights, isa, dtype):
    if weights == "targets" and loss in ("softmax_cross_entropy", "gaussian_nll"):
        pytest.skip("a loss of several outputs together has no weights of targets")
    rng = np.random.default_rng(0)
    for hidden, batch in ((3, 5), (8, 8), (6, 17), (13, 9)):
        X, _ = data((4, hidden, 4), 29)
        y = {"softmax_cross_entropy": rng.integers(0, 4, 29), "binary_cross_entropy": rng.integers(0, 2, (29, 4)),
             "gaussian_nll": rng.normal(size=(29, 2))}.get(loss, rng.uniform(0, 2, (29, 4)))  # fmt: skip
        weight = {"none": None, "rows": rng.uniform(0, 2, 29) * (rng.uniform(size=29) > 0.2),
                  "targets": rng.uniform(0, 2, y.shape) * (rng.uniform(size=y.shape) > 0.2)}[weights]  # fmt: skip
        trained_alike(
            lambda backend, kind, h=hidden: net_of((4, h, 4), kind, backend, activation="tanh"),
            dtype, 64 * (8 + hidden + batch), X=X, y=y.astype(float) if y.ndim > 1 else y, loss=loss,
            sample_weight=weight, optimizer=RULES["adam"], batch_size=batch, epochs=2,
        )  # fmt: skip


@pytest.mark.parametrize("rates", [(0.0, 0.5), (0.3, 0.0), (0.2, 0.4)])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
def test_dropout_trains_as_the_reference(activation, rates, isa, dtype):
    for hidden, batch, shuffle in ((3, 8, True), (7, 11, False), (16, 5, True)):
        X, y = data((5, hidden, 2), 31)
        trained_alike(
            lambda backend, kind, h=hidden: net_of((5, h, 2), kind, backend, activation=activation,
                                                   input_dropout=rates[0], dropout=rates[1]),
            dtype, 24 * (7 + hidden + batch), X=X, y=y, optimizer=RULES["momentum"], batch_size=batch, epochs=3,
            shuffle=shuffle,
        )  # fmt: skip


def test_lanes_that_are_not_finite_reach_nothing(isa, dtype):
    """1 / z is infinite where there is no unit."""
    need_numba()
    inverse = fastbp.Activation("inverse", "1 / z", "-g * a * a")
    for hidden in (1, 3, 5, 7, 9, 13):
        init = [np.linspace(1, 2, 2 * hidden).reshape(2, hidden), np.linspace(0.1, 0.3, hidden).reshape(hidden, 1)]
        X = np.random.default_rng(0).uniform(1, 2, (11, 2))
        trained_alike(
            lambda backend, kind, sizes=(2, hidden, 1), init=init: net_of(
                sizes, kind, backend, activation=inverse, init=init, bias=False),
            dtype, 64 * hidden, X=X, y=X[:, :1], optimizer=RULES["adam"], batch_size=4, epochs=2,
        )  # fmt: skip


@pytest.mark.parametrize("activation", ["relu", "silu", "exp"])
def test_a_bias_that_overflows_without_inputs_does_not_spoil_a_batch_that_fills_no_block(activation, isa):
    net = fastbp.MLP((1, 1, 1), seed=0, activation=activation)
    for k, (weight, bias) in enumerate(((-3e38, 3e38), (4, 0))):
        net.weights[k][...], net.biases[k][...] = weight, bias
    before = net.flatten()
    net.train_step(np.ones((3, 1), np.float32), np.ones((3, 1), np.float32), optimizer=fastbp.SGD(lr=0))
    assert np.array_equal(net.flatten(), before)


@pytest.mark.parametrize("loss", ["mse", "half_squared_error", "huber"])
def test_a_row_of_weight_0_is_left_out_though_its_loss_overflows(loss, isa, dtype):
    """The last batch is short, too: what stands beyond it is a row again, and left out."""
    ends, weight = [], np.isin(np.arange(11), (4, 10), invert=True)
    for far in (0.0, np.finfo(dtype).max):
        X, y = data((3, 5, 2), 11, dtype)
        y[[4, 10]] = far
        net = net_of((3, 5, 2), dtype, activation="tanh")
        net.fit(X, y, batch_size=8, epochs=2, sample_weight=weight, optimizer="sgd", loss=loss)
        ends.append(net.flatten())
    assert np.isfinite(ends[0]).all() and np.array_equal(*ends)


LAYOUTS = {
    "as it is": lambda a: a,
    "Fortran order": np.asfortranarray,
    "every other row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "rows backwards": lambda a: a[::-1].copy()[::-1],
    "columns of more": lambda a: np.hstack([a, a])[:, : a.shape[1]],
    "float64": lambda a: a.astype(np.float64),
    "not aligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("hidden", [5, 16])
def test_where_rows_lie_leaves_no_trace(hidden, shuffle, isa, dtype):
    """Read where they lie, or copied first: X and y in every pair of layouts."""
    X, y = data((4, hidden, 3), 300, np.float32)
    X, y = X.astype(dtype), y.astype(dtype)
    ends = set()
    for of_x in LAYOUTS.values():
        for of_y in LAYOUTS.values():
            net = net_of((4, hidden, 3), dtype, activation="tanh")
            net.fit(of_x(X), of_y(y), batch_size=7, steps=70, shuffle=shuffle, optimizer="sgd")
            ends.add(net.flatten().tobytes())
    assert len(ends) == 1


@pytest.mark.parametrize(
    "rows, batch", [(1, 1), (7, 1), (12, 8), (32, 8), (33, 4), (300, 75), (300, 299), (5000, 1250)]
)
@pytest.mark.parametrize("sizes", [(3, 5, 2), (3, 20, 6)], ids=["tiny", "by layers"])
def test_orders_that_were_made_ahead_are_those_of_their_epochs(rows, batch, sizes, isa, dtype):
    """40 epochs at once, one by one, in pieces that end anywhere, and from rows that were put in order beforehand."""
    X, y = data(sizes, rows, dtype)
    epochs = 40 if rows < 1000 else 3
    run = {"batch_size": batch, "optimizer": "sgd", "loss": "mse"}
    steps = -(-rows // batch) * epochs
    nets = [net_of(sizes, dtype, activation="tanh") for _ in range(4)]
    nets[0].fit(X, y, epochs=epochs, **run)
    for _ in range(epochs):
        nets[1].fit(X, y, epochs=1, **run)
    done = 0
    for piece in [3, 1, 17, steps]:
        piece = min(piece, steps - done)
        if piece:
            nets[2].fit(X, y, steps=piece, **run)
        done += piece
    for epoch in range(epochs):
        order = epoch_order(nets[3].seed, epoch, rows)
        nets[3].fit(X[order], y[order], epochs=1, shuffle=False, **run)
    assert len({net.flatten().tobytes() for net in nets}) == 1


def test_orders_are_made_anew_for_another_seed_and_other_rows(isa, dtype):
    X, y = data((3, 5, 2), 40, dtype)
    run = {"batch_size": 8, "optimizer": "sgd"}
    one = net_of((3, 5, 2), dtype)
    for seed, rows in ((1, 40), (2, 40), (2, 24), (1, 40)):
        one.fit(X[:rows], y[:rows], epochs=2, seed=seed, **run)
    other = net_of((3, 5, 2), dtype)
    epoch = 0
    for seed, rows in ((1, 40), (2, 40), (2, 24), (1, 40)):
        for _ in range(2):
            order = epoch_order(seed, epoch, rows)
            other.fit(X[order], y[order], epochs=1, shuffle=False, **run)
            epoch += 1
    assert np.array_equal(one.flatten(), other.flatten())


@pytest.mark.parametrize("at_end", [True, False], ids=["before a page", "after a page"])
def test_no_byte_beside_rows_that_are_read_where_they_lie_is_touched(at_end, isa, dtype):
    """Targets have fewer columns than outputs where a loss has two for one."""
    out = python(GUARDED + f"""
    rng, walls = np.random.default_rng(0), [Walled(4) for _ in range(3)]
    for loss, columns in [("mse", 4), ("gaussian_nll", 2), ("huber", 4), ("softmax_cross_entropy", 0)]:
        for hidden, rows, batch in [(3, 29, 5), (8, 29, 8), (8, 32, 8), (9, 16, 16), (16, 33, 32)]:
            X = walls[0].place(rng.normal(size=(rows, 5)).astype("{np.dtype(dtype)}"), at_end={at_end})
            y = rng.normal(size=(rows, columns)).astype(X.dtype) if columns else rng.integers(0, 4, rows)
            y = walls[1].place(y, at_end={at_end})
            if loss == "gaussian_nll" and rows > 16:  # as far apart as rows of all outputs, and no such row is whole
                y = walls[1].place(rng.normal(size=4 * rows - 2).astype(X.dtype), at_end={at_end})
                y = np.lib.stride_tricks.as_strided(y, (rows, 2), (4 * X.itemsize, X.itemsize))
            w = walls[2].place(rng.uniform(1, 2, rows).astype(X.dtype), at_end={at_end})
            for weight in (None, w):
                net = fastbp.MLP((5, hidden, 4), dtype=X.dtype, seed=0, backend="cython")
                for shuffle in (False, True):
                    net.fit(X, y, loss=loss, sample_weight=weight, batch_size=batch, epochs=2, shuffle=shuffle)
    print("unharmed")
    """)
    assert out == "unharmed\n"
