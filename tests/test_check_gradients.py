"""`check_gradients`: right gradients pass, wrong ones are found and named, kinks are no errors."""

import dataclasses

import numpy as np
import pytest
from test_gradients import problem

import fastbp
from fastbp import activations, check_gradients, losses
from fastbp.gradients import RIGHT, differences
from fastbp.rows import Activation, Loss

SMOOTH = "tanh"


@pytest.mark.parametrize("loss", losses.TABLE)
@pytest.mark.parametrize("activation", activations.TABLE)
def test_every_row_of_the_tables_is_right(activation, loss, backend):
    net, X, t, weight = problem(3, (4, 5, 3), loss, 9, weighted=True, activation=activation, backend=backend)
    found = check_gradients(net, X, t, loss=loss, sample_weight=weight)
    assert found.ok and found.error <= RIGHT and found.n_checked + found.n_skipped == found.n_params == net.n_params
    assert found.n_checked > 0.9 * net.n_params
    assert str(found).startswith("gradients agree with finite differences") and found.where in str(found)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_any_dtype_is_checked_in_float64(dtype):
    net, X, t, _ = problem(4, (4, 6, 2), "mse", 7, dtype=dtype, activation=SMOOTH)
    before = net.flatten()
    found = check_gradients(net, X, t, loss="mse")
    assert found.ok and found and found.error < 1e-8
    assert (net.flatten() == before).all() and net.dtype == dtype and net.step == 0


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("factor", [2, 1.0001, 0.5])
def test_a_wrong_derivative_of_an_activation_is_found_where_it_is(layer, factor):
    """It spoils its own layer and those below, and none above."""
    right = Activation("right", "z * z", "g * 2 * z")
    wrong = dataclasses.replace(right, name="wrong", backward=f"g * {2 * factor} * z")
    rows = [right, right, right]
    rows[layer] = wrong
    net, X, t, _ = problem(5, (3, 4, 4, 2), "mse", 6, activation=rows[:2], output_activation=rows[2])
    X = np.clip(X, -1, 1)
    found = check_gradients(net, X, t, loss="mse")
    assert not found.ok and not found and RIGHT < found.error
    assert found.error == pytest.approx(1 - min(factor, 1 / factor), rel=0.5)  # beside the larger of the two
    assert int(found.where.partition("[")[2][0]) <= layer
    assert "DIFFER" in str(found) and f"{found.derivative:.9g}" in str(found)
    rows[layer] = right
    net, *_ = problem(5, (3, 4, 4, 2), "mse", 6, activation=rows[:2], output_activation=rows[2])
    assert check_gradients(net, X, t, loss="mse").ok


def test_where_and_the_two_numbers_are_those_of_the_parameter():
    wrong = Activation("wrong", "z * z", "g * z")
    net, X, t, _ = problem(6, (3, 4, 2), "mse", 5, activation=wrong)
    found = check_gradients(net, X, t, loss="mse")
    name, _, index = found.where.partition("[")
    layer, *place = (int(number) for number in index.replace("]", "").replace("[", ",").split(","))
    double = fastbp.MLP((3, 4, 2), activation=wrong, dtype=np.float64, init=list(zip(net.weights, net.biases)))
    places = np.zeros(double._spec.buffer_size)
    view = [*zip(double._spec.views(places)[::2], double._spec.views(places)[1::2])][layer][name == "biases"]
    view[tuple(place)] = 1
    (flat,) = np.flatnonzero(double._spec.flatten(places))
    assert found.derivative == double.loss_and_grad(X, t, loss="mse")[1][flat]
    w = getattr(double, name)[layer]
    values = []
    for sign in (1, -1):
        w[tuple(place)] += sign * 1e-6
        values.append(double.evaluate(X, t, loss="mse"))
        w[tuple(place)] -= sign * 1e-6
    assert found.difference == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def test_a_wrong_gradient_of_a_loss_is_found():
    right = Loss("cubes", "ABS(z - t) * (z - t) * (z - t)", "3 * ABS(z - t) * (z - t)", outputs="mean")
    net, X, t, _ = problem(7, (3, 4, 2), "mse", 5, activation=SMOOTH)
    assert check_gradients(net, X, t, loss=right).ok
    assert not check_gradients(net, X, t, loss=dataclasses.replace(right, grad="2 * ABS(z - t) * (z - t)")).ok


def test_kinks_are_skipped_and_no_error():
    """The last layer of relu stands at 0 for the first row: its weights have a slope to one side."""
    init = [(np.eye(2), np.array([0.0, 0.0]))]
    net = fastbp.MLP((2, 2), output_activation="relu", init=init, dtype=np.float64)
    found = check_gradients(net, [[0.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 0.5]], loss="mse")
    assert (found.ok, found.n_skipped, found.n_checked) == (True, 2, 4)  # weight[1, 0] and bias[0] move z of row 0
    assert "2 skipped at kinks" in str(found)
    net.biases[0][0] = 1e-3  # far enough from the kink
    assert check_gradients(net, [[0.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 0.5]], loss="mse").n_skipped == 0


@pytest.mark.parametrize("bend", [1e-1, 1e-3, 1e-5])
def test_a_kink_is_one_however_small_it_is_beside_the_slope(bend):
    """Its derivative is that to one side, and the difference lies between the two."""
    bent = Loss("bent", f"(z - t) * (z - t) + {bend} * ABS(z)", f"2 * (z - t) + WHERE(z > 0, {bend}, -{bend})", "mean")
    net = fastbp.MLP((1, 1), init=[([[0.0]], [0.0])], dtype=np.float64)
    found = check_gradients(net, [[1.0]], [[1.0]], loss=bent)
    assert (found.n_skipped, found.n_checked) == (2, 0)
    net.biases[0][0] = 0.1
    found = check_gradients(net, [[1.0]], [[1.0]], loss=bent)
    assert (found.n_skipped, found.n_checked, found.ok) == (0, 2, True)


def test_a_kink_everywhere_leaves_nothing_to_check():
    net = fastbp.MLP((1, 1), output_activation="relu", init=[[[0.0]]], bias=False, dtype=np.float64)
    found = check_gradients(net, [[1.0]], [[1.0]], loss="mse")
    assert (found.n_checked, found.n_skipped, found.ok) == (0, 1, False) and "not checked" in str(found)


@pytest.mark.parametrize("place", [0.0, 0.1, 1 / 3, 0.4, 0.5, 0.7, 0.99])
def test_a_kink_anywhere_between_the_points_is_seen(place):
    """Of |w - k|, with k a part of the step away from w; at a third of it the one-sided slopes alone do not see it."""
    net = fastbp.MLP((1, 1), init=[[[0.0]]], bias=False, dtype=np.float64)
    w = net.weights[0]
    slopes, apart = differences(net, lambda: abs(w[0, 0] - place * 1e-5) + np.sin(3 * w[0, 0]))
    assert apart[0] > 0.01
    slopes, apart = differences(net, lambda: abs(w[0, 0] - 1.01e-5) + np.sin(3 * w[0, 0]))
    assert apart[0] < 1e-6 and abs(slopes[0] - 2) < 1e-6


def test_differences_of_a_function_with_known_slopes():
    net, *_ = problem(8, (3, 4, 2), "mse", 5)
    at = net.flatten()
    slopes, apart = differences(net, lambda: float(np.sin(net.flatten() * np.arange(at.size)).sum()))
    assert np.abs(slopes - np.arange(at.size) * np.cos(at * np.arange(at.size))).max() < 1e-5
    assert (net.flatten() == at).all() and apart.shape == at.shape
    some = differences(net, lambda: float((net.flatten() ** 2).sum()), [3, 1])[0]
    assert np.abs(some - 2 * at[[3, 1]]).max() < 1e-8


def test_differences_set_the_parameters_back_after_an_error():
    net, *_ = problem(8, (3, 4, 2), "mse", 5)
    at = net.flatten()
    calls = iter(range(5))
    with pytest.raises(StopIteration):
        differences(net, lambda: float(next(calls)))
    assert (net.flatten() == at).all()


def test_big_networks_are_sampled_by_a_seed():
    net, X, t, _ = problem(9, (30, 20, 3), "mse", 4, activation=SMOOTH)
    found = check_gradients(net, X, t, loss="mse", n_samples=10)
    assert (found.n_checked, found.n_params) == (10 + 10 + 10 + 3, net.n_params) and found.ok
    assert f"33 of {net.n_params} parameters" in str(found)
    assert found == check_gradients(net, X, t, loss="mse", n_samples=10)
    assert found.where != check_gradients(net, X, t, loss="mse", n_samples=10, seed=1).where
    everything = check_gradients(net, X, t, loss="mse", n_samples=1000)
    assert everything.n_checked == net.n_params


def test_each_layer_is_sampled():
    """A layer that is wrong beside a big one that is right."""
    wrong = Activation("wrong", "z * z", "g * z")
    net, X, t, _ = problem(2, (100, 60, 2), "mse", 4, activation=SMOOTH, output_activation=wrong)
    assert not check_gradients(net, X, t, loss="mse", n_samples=1).ok


def test_small_gradients_far_down_are_checked_as_far_as_differences_can_tell():
    """Below six sigmoids gradients are a thousandth of those above. Rounding of differences is no error, 1 % is one."""
    sizes = (4, *[5] * 6, 2)
    net, X, t, _ = problem(1, sizes, "mse", 5, activation="sigmoid")
    _, gradient = net.loss_and_grad(X, t, loss="mse")
    assert np.abs(gradient[:25]).max() < 1e-3 * np.abs(gradient[-12:]).max()
    found = check_gradients(net, X, t, loss="mse")
    assert found.ok and found.n_skipped == 0  # what rounding does is no kink
    deep = problem(1, (4, *[5] * 20, 2), "mse", 5, activation="sigmoid")[0]
    assert np.abs(deep.loss_and_grad(X, t, loss="mse")[1][:25]).max() < 1e-10  # which no difference can tell
    found = check_gradients(deep, X, t, loss="mse")
    assert found.ok and found.n_skipped == 0
    wrong = dataclasses.replace(activations.TABLE["sigmoid"], name="wrong", backward="g * 1.01 * (a * (1 - a))")
    net, *_ = problem(1, sizes, "mse", 5, activation=[wrong, *["sigmoid"] * 5])
    found = check_gradients(net, X, t, loss="mse")
    assert not found.ok and found.where.startswith(("weights[0]", "biases[0]"))
    assert found.error == pytest.approx(0.01, rel=0.05)


def test_numbers_that_overflow_raise_nothing():
    net, X, t, _ = problem(1, (3, 4, 2), "mse", 5)
    net.weights[0][0, 0] = np.inf
    found = check_gradients(net, X, t, loss="mse")
    assert np.isnan(found.error) and not found.ok and "DIFFER" in str(found)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"net": "net"}, TypeError, "net must be a fastbp.MLP, got str"),
        ({"loss": "mes"}, ValueError, "did you mean 'mse'"),
        ({"X": [[1.0]]}, ValueError, "1 column"),
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1"),
        ({"n_samples": 1.5}, TypeError, "n_samples must be an integer"),
        ({"seed": -1}, ValueError, "seed must be"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    net, X, t, _ = problem(1, (3, 4, 2), "mse", 5)
    with pytest.raises(error, match=message):
        check_gradients(**{"net": net, "X": X, "y": t, "loss": "mse", **arguments})
