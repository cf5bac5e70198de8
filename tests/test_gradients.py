"""Gradients: against finite differences in float64, and as the mean over (weighted) rows."""

import numpy as np
import pytest
from conftest import sampled
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from targets import outputs_for, targets
from tolerance import assert_close

import fastbp
from fastbp import activations, losses

FINITE_DIFFERENCE_BOUND = 1e-7  # of the issue: relative, in float64
STEP = 1e-5  # times 1 + |w|
SIZES = (3, 4, 5, 3, 4, 2)  # its last d + 1 are a network of depth d

# (loss, whether the output goes through the activation too)
HEADS = [(name, False) for name in losses.TABLE] + [
    (name, True) for name, row in losses.TABLE.items() if not row.from_logits
]
SMALL = ("exp",)  # activations that need small z: theirs grow from layer to layer
# `backend` and `kernels` hold for all examples of a test
by_rows = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def problem(seed, sizes, loss, n, *, weighted=False, dtype=np.float64, **network):
    """A network with biases, rows with zeros, negatives and a spread of sizes, targets and weights."""
    rng = np.random.default_rng(seed)
    sizes = (*sizes[:-1], outputs_for(loss, sizes[-1]))
    net = fastbp.MLP(sizes, dtype=dtype, seed=seed, init="he_normal", **network)
    for bias in net.biases:
        bias[...] = rng.normal(size=bias.shape) / 2
    X = rng.normal(size=(n, sizes[0])) * 2.0 ** rng.integers(-4, 3, (n, sizes[0]))
    if network.get("activation") in SMALL:
        net.unflatten(net.flatten() / 4)
        X /= 8
    X[rng.uniform(size=X.shape) < 0.1] = 0
    weight = (np.arange(n) + 3) % 5 * 0.75 if weighted else None  # 2.25, 3, 0, 0.75, 1.5, ...: their mean is not 1
    return net, X, targets(rng, loss, n, sizes[-1]), weight


def differences(net, value):
    """The gradient by central differences, and where the two one-sided ones say that there is a kink."""
    at = net.flatten()
    gradient, kinked = np.empty_like(at), np.zeros(at.shape, bool)
    middle = value()
    for k, w in enumerate(at):
        shifted, sides = at.copy(), []
        for sign in (1, -1):
            shifted[k] = w + sign * STEP * (1 + abs(w))
            net.unflatten(shifted)
            sides.append((value(), shifted[k]))
        (high, at_high), (low, at_low) = sides
        gradient[k] = (high - low) / (at_high - at_low)
        right, left = (high - middle) / (at_high - w), (middle - low) / (w - at_low)
        # far above what curvature makes of a step, far below what a kink does
        kinked[k] = abs(right - left) > 1000 * STEP * max(abs(right), abs(left), 1)
    net.unflatten(at)
    return gradient, kinked


def pieces(net, vector):
    """`vector` cut into weights and biases."""
    sizes = [view.size for pair in zip(net.weights, net.biases or net.weights) for view in pair[: 1 + bool(net.biases)]]
    return np.split(vector, np.cumsum(sizes)[:-1])


def check_gradient(net, X, t, loss, weight=None):
    value, got = net.loss_and_grad(X, t, loss=loss, sample_weight=weight)
    wanted, kinked = differences(net, lambda: net.evaluate(X, t, loss=loss, sample_weight=weight))
    assert kinked.mean() < 0.1, "too little left to compare"
    rounding = 4 * np.finfo(float).eps * abs(value) / STEP  # of the differences, beside a gradient that has faded
    for part, near, skipped in zip(pieces(net, got), pieces(net, wanted), pieces(net, kinked)):
        error = np.abs(part - near)[~skipped].max(initial=0)
        assert error <= FINITE_DIFFERENCE_BOUND * np.abs(near).max() + rounding
    assert np.abs(got).max() > 1e-3, "a gradient of nothing"


@pytest.mark.parametrize("activation, head, depth", sampled(9, activations.TABLE, HEADS, range(1, 6)), ids=str)
def test_gradients_are_finite_differences(activation, head, depth, kernels):
    loss, through = head
    net, X, t, _ = problem(
        depth, SIZES[-depth - 1 :], loss, 4, activation=activation, backend=kernels,
        output_activation=activation if through else "identity",
    )  # fmt: skip
    check_gradient(net, X, t, loss)


PAIRS = sampled(8, activations.TABLE, losses.TABLE, [False, True], [False, True])


@pytest.mark.parametrize("activation, loss, bias, weighted", PAIRS, ids=str)
def test_gradients_are_finite_differences_with_weights_and_without_bias(activation, loss, bias, weighted, kernels):
    net, X, t, weight = problem(
        7, (4, 5, 3), loss, 9, weighted=weighted, activation=activation, bias=bias, backend=kernels
    )  # fmt: skip
    assert weight is None or 0 in weight and len(set(weight)) > 2 and weight.sum() != len(weight)
    check_gradient(net, X, t, loss, weight)


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("activation", activations.TABLE)
def test_backward_of_the_callers_gradient_is_finite_differences(activation, bias, kernels):
    net, X, _, _ = problem(8, (4, 5, 3), "mse", 6, activation=activation, bias=bias, backend=kernels)
    G = np.random.default_rng(9).normal(size=(6, 3))
    net.forward(X)
    grad_input = net.backward(G)
    wanted, kinked = differences(net, lambda: float((net.predict(X) * G).sum()))
    got = np.concatenate([part.ravel() for pair in zip(net.grad_weights, net.grad_biases or net.grad_weights)
                          for part in pair[: 1 + bias]])  # fmt: skip
    assert kinked.mean() < 0.1
    assert np.abs(got - wanted)[~kinked].max() <= FINITE_DIFFERENCE_BOUND * np.abs(wanted).max()
    for row, column in np.ndindex(X.shape):
        moved = np.repeat(X[row][None], 2, axis=0)
        moved[:, column] += STEP, -STEP
        high, low = (net.predict(moved) * G[row]).sum(axis=1)
        slope = (high - low) / (moved[0, column] - moved[1, column])
        assert abs(slope - grad_input[row, column]) <= FINITE_DIFFERENCE_BOUND * np.abs(grad_input).max()


# ------------------------------------------------------------------ the mean over rows

KINKED = {"relu", "leaky_relu", "selu", "hard_sigmoid", "hard_tanh", "hard_swish", "relu6"}
SMOOTH = sorted(set(activations.TABLE) - KINKED - set(SMALL))
LAYERS = st.lists(st.integers(1, 40), min_size=2, max_size=4)


def roundings(net, n):
    return n + sum(net.sizes)


@by_rows
@given(LAYERS, st.integers(1, 40), st.sampled_from(sorted(losses.TABLE)), st.sampled_from(SMOOTH), st.integers(0, 99))
def test_the_gradient_of_a_batch_is_the_mean_over_its_rows(kernels, dtype, sizes, n, loss, activation, seed):
    net, X, t, _ = problem(seed, sizes, loss, n, dtype=dtype, activation=activation, backend=kernels)
    value, gradient = net.loss_and_grad(X, t, loss=loss)
    values, gradients = zip(*(net.loss_and_grad(X[[k]], t[[k]], loss=loss) for k in range(n)))
    k = roundings(net, n)
    assert_close(value, np.mean(values), dtype, k, scale=max(1, np.abs(values).max()), what="loss")
    assert_close(gradient, np.mean(gradients, axis=0, dtype=float), dtype, k, scale=np.abs(gradients).max() + 1e-3)


def step_with(net, X, t, loss, weight):
    """The parameters after one step on all rows."""
    net = fastbp.MLP(net.sizes, activation="tanh", dtype=net.dtype, init=list(zip(net.weights, net.biases)),
                     backend=net.backend)  # fmt: skip
    net.fit(X, t, loss=loss, optimizer=fastbp.SGD(lr=0.1), batch_size=len(X), steps=1, sample_weight=weight)
    return net.flatten()


@by_rows
@given(LAYERS, st.integers(2, 40), st.sampled_from(sorted(losses.TABLE)), st.integers(0, 99), st.data())
def test_weight_0_is_a_row_removed_and_2_a_row_twice(kernels, dtype, sizes, n, loss, seed, data):
    net, X, t, _ = problem(seed, sizes, loss, n, dtype=dtype, activation="tanh", backend=kernels)
    weight = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), float)
    assume(weight.any())
    rows = np.repeat(np.arange(n), weight.astype(int))
    k = roundings(net, len(rows) + n)
    by_weight = net.loss_and_grad(X, t, loss=loss, sample_weight=weight)
    by_row = net.loss_and_grad(X[rows], t[rows], loss=loss)
    assert_close(by_weight[0], by_row[0], dtype, k, scale=max(1, abs(by_row[0])), what="loss")
    scale = max(np.abs(net.loss_and_grad(X[[row]], t[[row]], loss=loss)[1]).max() for row in rows) + 1e-3
    assert_close(by_weight[1], by_row[1], dtype, k, scale=scale, what="gradient")
    before = np.abs(net.flatten()).max()
    stepped = step_with(net, X, t, loss, weight), step_with(net, X[rows], t[rows], loss, None)
    assert_close(*stepped, dtype, k=4, scale=before + scale, what="step")


@pytest.mark.parametrize("loss", losses.TABLE)
def test_what_a_row_of_weight_0_holds_changes_no_bit(loss, kernels, dtype):
    net, X, t, _ = problem(3, (5, 7, 3), loss, 12, dtype=dtype, activation="tanh", backend=kernels)
    weight = np.arange(12) % 3.0
    results = []
    for other in (0, 1, -1e3):
        X[weight == 0] = other
        value, gradient = net.loss_and_grad(X, t, loss=loss, sample_weight=weight)
        assert np.isfinite(value) and value > 0
        results.append((value, gradient.tobytes(), net.evaluate(X, t, loss=loss, sample_weight=weight)))
    assert results[0] == results[1] == results[2]
    kept = weight > 0
    alone = net.evaluate(X[kept], t[kept], loss=loss, sample_weight=weight[kept])
    for value in (results[0][0], results[0][2]):
        assert_close(value, alone, dtype)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("n", [3, 256, 300])
def test_the_loss_is_the_mean_over_rows_that_a_hand_computes(n, weighted, kernels, dtype):
    net, X, t, weight = problem(5, (6, 9, 3), "mse", n, weighted=weighted, dtype=dtype, activation="tanh",
                                backend=kernels)  # fmt: skip
    each = np.mean((net.predict(X) - t.astype(dtype).astype(float)) ** 2, axis=1)  # of each row
    wanted = each.mean() if weight is None else (weight * each).sum() / weight.sum()
    for value in (net.evaluate(X, t, loss="mse", sample_weight=weight),
                  net.loss_and_grad(X, t, loss="mse", sample_weight=weight)[0]):  # fmt: skip
        assert_close(value, wanted, dtype)


@pytest.mark.parametrize("loss", losses.TABLE)
def test_the_loss_of_weighted_rows_is_the_weighted_mean_of_their_losses(loss, kernels, dtype):
    net, X, t, weight = problem(6, (5, 7, 3), loss, 13, weighted=True, dtype=dtype, activation="tanh", backend=kernels)
    each = [net.evaluate(X[[k]], t[[k]], loss=loss) for k in range(13)]
    wanted = (weight * each).sum() / weight.sum()
    for value in (net.evaluate(X, t, loss=loss, sample_weight=weight),
                  net.loss_and_grad(X, t, loss=loss, sample_weight=weight)[0]):  # fmt: skip
        assert_close(value, wanted, dtype, scale=max(1, np.abs(each).max()))


@pytest.mark.parametrize("sizes", [(3, 4, 2), (3, 33, 9)], ids=str)
def test_each_call_is_a_mean_over_its_own_rows_whatever_was_called_before(sizes, kernels, dtype, monkeypatch):
    """Blocks of one size may belong to more rows or to fewer."""
    monkeypatch.setattr("fastbp.mlp.BLOCK_ROWS", 8)
    net, X, t, _ = problem(6, sizes, "mse", 32, dtype=dtype, activation="tanh", backend=kernels)
    X, t = X.astype(dtype), t.astype(dtype)
    each = ((net.predict(X).astype(float) - t) ** 2).mean(axis=1)
    for n in (16, 8, 32, 8, 24, 16):
        scale, wanted = each.max(), each[:n].mean()
        assert_close(net.evaluate(X[:n], t[:n], loss="mse"), wanted, dtype, scale=scale)
        value, gradient = net.loss_and_grad(X[:n], t[:n], loss="mse")
        assert_close(value, wanted, dtype, scale=scale)
        bias = 2 * (net.predict(X[:n]).astype(float) - t[:n]).sum(axis=0) / t[:n].size
        assert_close(gradient[-len(bias) :], bias, dtype, scale=np.abs(t).max())


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("rows", [1, 2, 7, 64, 100, 299, 300, 1000])
def test_loss_and_gradient_do_not_depend_on_the_size_of_a_block(rows, weighted, kernels, dtype, monkeypatch):
    net, X, t, weight = problem(
        4, (20, 33, 9), "softmax_cross_entropy", 300, weighted=weighted, dtype=dtype, backend=kernels, activation="tanh"
    )
    whole = net.loss_and_grad(X, t, loss="softmax_cross_entropy", sample_weight=weight)
    monkeypatch.setattr("fastbp.mlp.BLOCK_ROWS", rows)
    cut = net.loss_and_grad(X, t, loss="softmax_cross_entropy", sample_weight=weight)
    alone = rows == 1 or len(X) % rows == 1  # a block of one row has kernels of its own
    if kernels == "cython" and not alone:  # it adds up over rows in one order, whatever the blocks
        assert cut[1].tobytes() == whole[1].tobytes()
    loss_dtype = np.float64 if kernels == "cython" and not alone else dtype  # NumPy's products promise no bits
    assert_close(cut[0], whole[0], loss_dtype, k=len(X) if loss_dtype == np.float64 else 1, what="loss")
    assert_close(cut[1], whole[1], dtype, k=roundings(net, len(X)), what="gradient")
