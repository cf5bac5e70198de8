"""Runs that overflow: the error names the right step, and the network holds that step's finite parameters."""

import pickle
import re

import numpy as np
import pytest

import fastbp
from fastbp import SGD, NonFiniteError
from fastbp.schedules import ReduceOnPlateau
from fastbp.training import run as training

N = 11
RNG = np.random.default_rng(3)
X, ALL_Y = RNG.normal(size=(N, 4)), RNG.normal(size=(N, 6))
Y = ALL_Y[:, :2]
FAMILIES = {"tiny": (4, 6, 2), "few outputs": (4, 40, 2), "more outputs": (4, 40, 6)}  # the engine has kernels for each


def build(backend, dtype=np.float32, sizes=(4, 6, 2), **options):
    return fastbp.MLP(sizes, **{"activation": "identity", "seed": 2, "dtype": dtype, "backend": backend} | options)


def frozen(net):
    state = net.__getstate__()
    buffers = state["state"].pop("slots") | state["state"].pop("sums")
    return state["params"].tobytes(), {name: buffer.tobytes() for name, buffer in buffers.items()}, state["state"]


class Simulation:
    """The same training by hand: plain NumPy, written from the textbook, in the network's dtype."""

    def __init__(self, net, rule, batch_size, shuffle):
        self.parts = [part.copy() for pair in zip(net.weights, net.biases) for part in pair]
        self.velocity = [np.zeros_like(part) for part in self.parts]
        self.rule, self.batch_size, self.shuffle = rule, min(batch_size, N), shuffle
        self.seed, self.dtype, self.y = net.seed, net.dtype, ALL_Y[:, : net.sizes[-1]]

    def order(self, epoch):
        return fastbp.order.epoch_order(self.seed, epoch, N) if self.shuffle else np.arange(N)

    def last_finite_step(self, steps):
        """Finished steps until a loss or a parameter is not finite; None if all of `steps` are finite."""
        per_epoch = -(-N // self.batch_size)
        with np.errstate(all="ignore"):
            for step in range(steps):
                rows = self.order(step // per_epoch)[step % per_epoch * self.batch_size :][: self.batch_size]
                if not self.step(X[rows].astype(self.dtype), self.y[rows].astype(self.dtype)):
                    return step
        return None

    def step(self, x, t):
        w1, b1, w2, b2 = self.parts
        h = x @ w1 + b1
        difference = h @ w2 + b2 - t
        if not np.isfinite(np.mean(difference.astype(self.dtype) ** 2)):
            return False
        d2 = 2 * difference / difference.size
        d1 = d2 @ w2.T
        scalar = self.dtype.type
        for part, velocity, gradient in zip(
            self.parts, self.velocity, [x.T @ d1, d1.sum(axis=0), h.T @ d2, d2.sum(axis=0)]
        ):
            velocity[...] = scalar(self.rule.momentum) * velocity + gradient
            part -= scalar(self.rule.lr) * velocity
        return all(np.isfinite(part).all() for part in self.parts)


DIVERGING = {  # rule, batch_size, shuffle: each overflows within some dozens of steps
    "plain": (SGD(lr=3.0), 4, False),
    "shuffled": (SGD(lr=3.0), 4, True),
    "momentum": (SGD(lr=0.7, momentum=0.9), 4, False),
    "shuffled with momentum": (SGD(lr=0.7, momentum=0.9), 3, True),
    "one row": (SGD(lr=2.0), 1, True),
    "all rows": (SGD(lr=5.0), 100, False),
}


def fit(net, how, steps, **options):
    rule, batch_size, shuffle = DIVERGING[how]
    y = ALL_Y[:, : net.sizes[-1]]
    return net.fit(X, y, optimizer=rule, batch_size=batch_size, shuffle=shuffle, steps=steps, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", DIVERGING)
def test_a_diverging_run_stops_at_the_last_finite_step_and_says_which(kernels, dtype, how, family):
    rule, batch_size, shuffle = DIVERGING[how]
    net, stopped = (build(kernels, dtype, FAMILIES[family]) for _ in range(2))
    wanted = Simulation(net, rule, batch_size, shuffle).last_finite_step(2000)
    assert wanted is not None and wanted > 2
    with pytest.raises(NonFiniteError) as caught:
        fit(net, how, 2000)
    error = caught.value
    assert isinstance(error, ArithmeticError)
    assert error.step == net.step == wanted
    assert error.epoch == net.epoch == wanted // -(-N // min(batch_size, N))
    assert str(wanted) in str(error) and np.isfinite(net.params).all()
    fit(stopped, how, wanted)
    assert frozen(net) == frozen(stopped)
    with pytest.raises(NonFiniteError) as again:  # deterministic: the very next step fails
        fit(stopped, how, 1)
    assert again.value.step == wanted and frozen(stopped) == frozen(net)


@pytest.mark.parametrize("how", ["plain", "shuffled with momentum"])
def test_the_network_trains_on_after_the_error_as_one_stopped_there(kernels, dtype, how):
    net, stopped = build(kernels, dtype), build(kernels, dtype)
    with pytest.raises(NonFiniteError) as caught:
        fit(net, how, 2000)
    fit(stopped, how, caught.value.step)
    for one in (net, stopped):
        one.unflatten(np.zeros(one.n_params))  # bring it back to earth
        one.fit(X, Y, optimizer=SGD(lr=1e-3), batch_size=DIVERGING[how][1], shuffle=DIVERGING[how][2], steps=9)
        assert np.isfinite(one.evaluate(X, Y, loss="mse"))
    assert frozen(net) == frozen(stopped)


CHUNKS = [(0.0, 1e9), (1e-5, 1e9), (1e-5, 0.0), (1e9, 1e9), (1e-4, 1e-3)]  # CHUNK_SECONDS, SNAPSHOT_SECONDS


def cut_into(monkeypatch, chunk, snapshot):
    monkeypatch.setattr(training, "CHUNK_SECONDS", chunk)
    monkeypatch.setattr(training, "SNAPSHOT_SECONDS", snapshot)
    monkeypatch.setattr("fastbp.backends.again._PIECE_STEPS", 3)


@pytest.mark.parametrize("chunk, snapshot", CHUNKS)
def test_the_step_is_right_however_many_chunks_lie_after_the_snapshot(backend, dtype, monkeypatch, chunk, snapshot):
    cut_into(monkeypatch, chunk, snapshot)
    for how in ("plain", "shuffled with momentum", "one row"):
        rule, batch_size, shuffle = DIVERGING[how]
        calm = {"optimizer": SGD(lr=1e-4, momentum=0.9), "batch_size": batch_size, "shuffle": shuffle, "steps": 333}
        net, stopped = build(backend, dtype), build(backend, dtype)
        for one in (net, stopped):
            one.fit(X, Y, **calm)
        with pytest.raises(NonFiniteError) as caught:
            fit(net, how, 3000)
        assert caught.value.step == net.step > 335
        fit(stopped, how, net.step - 333)
        assert frozen(net) == frozen(stopped), how
        with pytest.raises(NonFiniteError):
            fit(stopped, how, 1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("steps_before", [0, 1, 7])
def test_an_overflow_of_the_last_update_alone_is_found(kernels, dtype, momentum, steps_before):
    """Every loss of the run is finite; only the parameters after its last step are not."""
    huge = SGD(lr=float(np.finfo(dtype).max), momentum=momentum)
    net, twin = build(kernels, dtype), build(kernels, dtype)
    for one in (net, twin):
        one.weights[1][...] = 10
        one.fit(X, Y, optimizer=SGD(lr=1e-4, momentum=momentum), batch_size=4, steps=steps_before)
    with pytest.raises(NonFiniteError, match="parameter") as caught:
        net.fit(X, Y, optimizer=huge, batch_size=4, steps=1)
    assert caught.value.step == net.step == steps_before
    assert np.isfinite(net.params).all()
    twin.fit(X, Y, optimizer=huge, batch_size=4, steps=0)
    assert frozen(net) == frozen(twin)


@pytest.mark.parametrize("way", ["the short way", "the long way"])
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=["seen in the loss", "in the parameters alone"])
@pytest.mark.parametrize("rule", [SGD(0.01), SGD(0.01, momentum=0.9, average=0.9), fastbp.Adam(0.01)], ids=str)
@pytest.mark.parametrize("sizes", [(4, 6, 2), (600, 64, 6)], ids=["small", "copied into spare memory"])
def test_a_run_of_one_chunk_stops_at_whichever_of_its_steps_fails(backend, monkeypatch, sizes, rule, bad, way):
    """The first step, the last, any between: the run has a single piece, and nothing is known before it begins."""
    monkeypatch.setattr("fastbp.backends.again._PIECE_FLOPS", 1e15)
    steps, rng = 6, np.random.default_rng(5)
    x, y = rng.normal(size=(2 * steps, sizes[0])).astype(np.float32), rng.normal(size=(2 * steps, sizes[-1]))
    run = {"optimizer": rule, "batch_size": 2, "shuffle": False}
    same_seed = {"seed": 2} if way == "the long way" else {}
    for step in range(steps):
        net, stopped = (build(backend, sizes=sizes, activation="tanh") for _ in range(2))
        for one in (net, stopped):
            one.fit(x, y, epochs=1, **run)
        spoiled = x.copy()
        spoiled[2 * step, 1] = bad  # tanh(inf) is 1, and inf * 0 in the gradient of a weight NaN
        before = [view.base for view in (net.params, *net.weights)]
        with pytest.raises(NonFiniteError, match="parameter" if bad == np.inf else "loss") as caught:
            net.fit(spoiled, y, epochs=1, **run, **same_seed)
        assert caught.value.step == net.step == steps + step and caught.value.epoch == net.epoch == 1
        assert np.isfinite(net.params).all() and [view.base for view in (net.params, *net.weights)] == before
        if step:
            stopped.fit(x, y, steps=step, **run)
        assert frozen(net) == frozen(stopped)
        for one in (net, stopped):  # and on, from there
            one.fit(x, y, epochs=1, **run)
        assert frozen(net) == frozen(stopped)


PLACES = {  # a parameter of a network of zeros, with zeros for data: grow as it may, no loss ever sees it
    "first weight": lambda net: net.weights[0][:1, 0],
    "last weight": lambda net: net.weights[0][-1:, -1],
    "first bias": lambda net: net.biases[0][:1],
    "last bias": lambda net: net.biases[0][-1:],
    "first weight of the output": lambda net: net.weights[1][:1, 0],
    "last weight of the output": lambda net: net.weights[1][-1:, -1],
}


def overflow_unseen(backend, dtype, family, place, steps):
    """Train the place's parameter beyond all bounds by its decay alone, `steps` a call; the state it stops in."""
    net = build(backend, dtype, FAMILIES[family], activation="relu", init="zeros")
    data = np.zeros((5, 4)), np.zeros((5, net.sizes[-1]))
    net.fit(*data, batch_size=2, steps=4)  # one step into an epoch
    PLACES[place](net)[...] = 1
    grown = int(np.log2(float(np.finfo(dtype).max)) / 3)  # 8 ** k is the last that is finite
    with pytest.raises(NonFiniteError, match="parameter") as caught:
        for _ in range(700 // steps):
            net.fit(*data, optimizer=SGD(lr=1.0, weight_decay=9.0), batch_size=2, steps=steps)  # p <- -8 p
    assert caught.value.step == net.step == 4 + grown
    assert caught.value.epoch == net.epoch == (4 + grown) // 3
    assert abs(PLACES[place](net)) == 8.0**grown and np.count_nonzero(net.flatten()) == 1
    return frozen(net)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
def test_any_parameter_that_overflows_out_of_the_losses_sight_is_found_at_its_step(kernels, dtype, family, place):
    overflow_unseen(kernels, dtype, family, place, 700)


@pytest.mark.parametrize("chunk, snapshot", CHUNKS)
def test_an_unseen_overflow_is_found_at_its_step_however_the_run_is_cut(backend, dtype, monkeypatch, chunk, snapshot):
    cut_into(monkeypatch, chunk, snapshot)
    whole, single = (overflow_unseen(backend, dtype, "tiny", "first weight", steps) for steps in (700, 1))
    assert whole == single


class Passes:
    """Batches of two rows; the last of the third pass has a finite loss and gradients of NaN."""

    def __init__(self):
        self.n = 0

    def __iter__(self):
        self.n += 1
        for x in (1.0, 2.0, np.inf if self.n == 3 else 3.0):
            yield np.array([[x, 1.0], [0.5, -1.0]]), np.ones((2, 1))


@pytest.mark.parametrize("chunk, snapshot", CHUNKS)
def test_a_plateau_is_that_of_the_step_gone_back_to(backend, monkeypatch, chunk, snapshot):
    """That epoch has not ended, though its loss was finite."""
    cut_into(monkeypatch, chunk, snapshot)
    rule = SGD(ReduceOnPlateau(0.1, factor=0.5, patience=3))
    net, twin = (fastbp.MLP((2, 3, 1), activation="tanh", seed=1, backend=backend) for _ in range(2))
    with pytest.raises(NonFiniteError) as error:
        net.fit(Passes(), optimizer=rule, epochs=9)
    assert error.value.step == 8
    twin.fit(Passes(), optimizer=rule, steps=8)
    assert twin._state.plateau["best"] < np.inf
    assert frozen(net) == frozen(twin)


@pytest.mark.parametrize("chunk, snapshot", CHUNKS)
def test_a_replay_has_the_rate_that_a_plateau_had_at_each_step(backend, dtype, monkeypatch, chunk, snapshot):
    """The loss stays 0, so each epoch but the first halves the rate, and the decay lets a weight grow all the same."""
    cut_into(monkeypatch, chunk, snapshot)
    limits = np.finfo(dtype)
    rule = SGD(ReduceOnPlateau(2.0 ** (limits.maxexp // 6), factor=0.5, patience=0), weight_decay=1.0)
    net, stopped = (fastbp.MLP((1, 1), init=[[[limits.tiny]]], dtype=dtype, backend=backend) for _ in range(2))
    data = np.zeros((8, 1)), np.zeros((8, 1))
    with pytest.raises(NonFiniteError, match="parameter") as caught:
        net.fit(*data, optimizer=rule, batch_size=4, epochs=50)
    assert caught.value.step == net.step > 8
    assert net._state.plateau["scale"] == 0.5 ** (net.epoch - 1)
    stopped.fit(*data, optimizer=rule, batch_size=4, steps=net.step)
    assert np.isfinite(net.flatten()).all() and net.flatten().tobytes() == stopped.flatten().tobytes()
    with pytest.raises(NonFiniteError):
        stopped.fit(*data, optimizer=rule, batch_size=4, steps=1)


BAD_X = {  # a value that is not finite in the network's dtype, and how the message shows it
    "NaN": (np.nan, np.float64, "nan"),
    "infinite": (-np.inf, np.float64, "-inf"),
    "infinite in float32": (1e39, np.float64, r"1e\+39 \(too large for float32\)"),
}


@pytest.mark.parametrize("what", BAD_X)
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_value_in_x_that_is_not_finite_is_named_with_row_and_column(backend, what, shuffle):
    value, kind, shown = BAD_X[what]
    bad = X.astype(kind)
    bad[7, 2] = value
    net, twin = build(backend, activation="tanh"), build(backend, activation="tanh")
    with pytest.raises(NonFiniteError) as caught:
        net.fit(bad, Y, batch_size=2, epochs=3, shuffle=shuffle)
    message = str(caught.value)
    assert re.search(rf"{shown}.*row 7, column 2", message), message
    order = Simulation(net, SGD(), 2, shuffle).order(0)
    assert caught.value.step == net.step == list(order).index(7) // 2  # the batches before it are done
    twin.fit(X, Y, batch_size=2, steps=net.step, shuffle=shuffle)
    assert frozen(net) == frozen(twin)


@pytest.mark.parametrize("what", BAD_X)
def test_a_train_step_names_it_too(backend, what):
    value, kind, shown = BAD_X[what]
    bad = X.astype(kind)
    bad[7, 2] = value
    with pytest.raises(NonFiniteError, match=rf"nothing was updated; X holds {shown} at row 7, column 2"):
        build(backend).train_step(bad, Y)


@pytest.mark.parametrize("part", ["trained on", "kept for validation"])
def test_a_row_of_x_is_that_of_the_caller_where_validation_split_parts_them(backend, part):
    net = build(backend, activation="tanh")
    whole = np.repeat(X, 5, axis=0)
    for row in range(5, 15):
        bad = whole.copy()
        bad[row, 1] = np.nan
        with pytest.raises(NonFiniteError, match=rf"X holds nan at row {row}, column 1") as caught:
            net.fit(bad, np.repeat(Y, 5, axis=0), epochs=1, validation_split=0.5, seed=0)
        if ("val_loss" in str(caught.value)) == (part == "kept for validation"):
            return
    pytest.fail(f"none of these rows is {part}")


def test_a_parameter_that_was_not_finite_before_is_no_step_s_fault(backend):
    net = build(backend)
    net.weights[0][0, 0] = np.inf
    with pytest.raises(NonFiniteError, match="a parameter is not finite at net.step == 0, and no step of this run"):
        net.fit(X, Y, steps=3)
    assert net.step == 0


def test_x_that_is_finite_is_not_accused(backend):
    for call in (lambda net: fit(net, "plain", 2000), lambda net: net.train_step(X * 1e30, Y)):
        with pytest.raises(NonFiniteError) as caught:
            call(build(backend))
        assert "row" not in str(caught.value)


@pytest.mark.parametrize("form", ["rows", "batches", "train_step"])
def test_where_x_is_finite_the_sizes_are_told_and_a_rate_is_blamed_for_grown_parameters_alone(backend, form):
    """Small parameters and data of 1e30, whose squares overflow; then parameters that a rate of 3 has made grow."""
    calls = {
        "rows": lambda net, X, rule: net.fit(X, Y, optimizer=rule, batch_size=N, steps=2000),
        "batches": lambda net, X, rule: net.fit([(X, Y)], optimizer=rule, epochs=2000),
        "train_step": lambda net, X, rule: [net.train_step(X, Y, optimizer=rule) for _ in range(2000)],
    }
    net = build(backend)
    large = (X * 1e30).astype(np.float32)
    size = float(np.abs(net.flatten()).max())
    with pytest.raises(NonFiniteError) as caught:
        calls[form](net, large, SGD(1e-30))
    told = f"; X is finite, at most {np.abs(large).max():.3g} in size, and parameters are at most {size:.3g}"
    assert str(caught.value).endswith(told)
    with pytest.raises(NonFiniteError) as caught:
        calls[form](net, -abs(X), SGD(3.0))
    size = float(np.abs(net.flatten()).max())
    told = f"; X is finite, at most {np.abs(X).max():.3g} in size, and parameters are at most {size:.3g}"
    assert size > 1000 and str(caught.value).endswith(f"{told}: a smaller learning rate may keep them small")


def test_a_train_step_whose_loss_is_not_finite_updates_nothing(kernels, dtype):
    rule = SGD(lr=0.1, momentum=0.9)
    net, twin = build(kernels, dtype), build(kernels, dtype)
    for one in (net, twin):
        one.train_step(X, Y, optimizer=rule)
    bad = X.copy()
    bad[7, 2] = np.nan
    for x in (bad, X * 1e300):
        with pytest.raises(NonFiniteError) as caught:
            net.train_step(x, Y, optimizer=rule)
        assert caught.value.step == net.step == 1 and caught.value.epoch == 0
        assert frozen(net) == frozen(twin)
    for one in (net, twin):
        one.train_step(X, Y, optimizer=rule)
    assert frozen(net) == frozen(twin)


@pytest.mark.parametrize("how", ["plain", "shuffled with momentum"])
def test_nonfinite_ignore_trains_on_to_the_end(backend, dtype, how):
    net = build(backend, dtype)
    history = fit(net, how, 2000, nonfinite="ignore")
    assert history.n_steps == net.step == 2000
    assert not np.isfinite(net.flatten()).all()
    assert np.isfinite(history.loss[0]) and not np.isfinite(history.loss[-1])
    bad = X.copy()
    bad[7, 2] = np.nan
    net = build(backend, dtype)
    assert np.isnan(net.fit(bad, Y, epochs=2, batch_size=4, nonfinite="ignore").loss).all()


def test_nonfinite_ignore_is_the_same_run_where_nothing_overflows(backend, dtype):
    nets = []
    for nonfinite in ("raise", "ignore"):
        net = build(backend, dtype)
        net.fit(X, Y, optimizer=SGD(lr=0.01, momentum=0.5), batch_size=4, epochs=5, nonfinite=nonfinite)
        nets.append(frozen(net))
    assert nets[0] == nets[1]


def test_non_finite_parameters_given_by_the_caller_are_an_error_before_the_first_step(backend, dtype):
    for value in (np.nan, np.inf):
        net, twin = build(backend, dtype), build(backend, dtype)
        for one in (net, twin):
            one.fit(X, Y, batch_size=4, steps=2)
            one.weights[0][1, 1] = value
        with pytest.raises(NonFiniteError) as caught:
            net.fit(X, Y, batch_size=4, steps=50)
        assert caught.value.step == net.step == 2
        assert frozen(net) == frozen(twin)
        net.weights[0][1, 1] = 0
        net.fit(X, Y, batch_size=4, steps=2)


def test_a_loss_of_targets_too_large_for_the_dtype_is_an_error(backend):
    net = build(backend)
    with pytest.raises(NonFiniteError) as caught:
        net.fit(X, Y + 1e38, batch_size=4, steps=5)
    assert caught.value.step == 0


def test_evaluate_and_predict_report_what_is_not_finite_without_an_error(backend, dtype):
    bad = X.copy()
    bad[7, 2] = np.nan
    net = build(backend, dtype)
    assert np.isnan(net.evaluate(bad, Y, loss="mse"))
    assert np.flatnonzero(~np.isfinite(net.predict(bad)).all(axis=1)).tolist() == [7]
    assert not np.isfinite(net.loss_and_grad(bad, Y, loss="mse")[0])


@pytest.mark.filterwarnings("error")
def test_no_warning_and_no_floating_point_error_of_numpy_comes_out(backend, dtype):
    with np.errstate(all="raise"), pytest.raises(NonFiniteError):
        fit(build(backend, dtype), "plain", 2000)
    bad = X.copy()
    bad[7, 2] = 1e39
    with np.errstate(all="raise"), pytest.raises(NonFiniteError):
        build(backend).fit(bad, Y, steps=10)
    with np.errstate(all="raise"):
        net = build(backend, dtype, activation="sigmoid")
        net.weights[0][...] *= 1e4
        net.fit(X, Y, steps=3)
        net.loss_and_grad(X, Y, loss="mse")
        net.predict(X * 1e-30)


@pytest.mark.filterwarnings("error")
def test_numbers_too_small_for_the_dtype_raise_nothing_either(backend):
    """1e-60 is 0 in float32; NumPy's casts would report it under ``errstate(under="raise")``."""
    net, twin = build(backend), build(backend)
    tiny_X, tiny_y, vector = np.full((N, 4), 1e-60), np.full((N, 2), 1e-60), np.full(net.n_params, 1e-60)
    with np.errstate(all="raise"):
        net.fit(tiny_X, tiny_y, batch_size=4, epochs=2, optimizer=SGD(lr=1e-60, momentum=1e-60))
        net.train_step(tiny_X, tiny_y)
        net.predict(tiny_X)
        net.evaluate(tiny_X, tiny_y, loss="mse")
        net.loss_and_grad(tiny_X, tiny_y, loss="mse")
        net.forward(tiny_X)
        net.backward(tiny_y)
        net.backward_update(tiny_y, "sgd")
        net.unflatten(vector)
        build(backend, init=lambda rng, n_in, n_out: np.full((n_in, n_out), 1e-60))
    twin.unflatten(np.zeros(net.n_params))
    assert net.flatten().tobytes() == twin.flatten().tobytes()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_the_error_pickles_with_its_step_and_epoch(protocol):
    error = NonFiniteError("what happened", 12, 3)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert (type(again), str(again), again.step, again.epoch) == (NonFiniteError, "what happened", 12, 3)


def test_a_replay_that_ends_otherwise_ends_the_run(backend, monkeypatch):
    """Another thread may change X between a run and its replay."""
    net = fastbp.MLP((3, 4, 1), seed=0, backend=backend)
    X, y = np.ones((8, 3), np.float32), np.ones((8, 1), np.float32)
    restore = training.Snapshot.restore

    def spoil(snapshot):
        restore(snapshot)
        X.fill(np.nan)

    monkeypatch.setattr(training.Snapshot, "restore", spoil)
    with pytest.raises(fastbp.NonFiniteError) as error:
        net.fit(X, y, batch_size=8, steps=4, shuffle=False, optimizer=fastbp.SGD(lr=3e38))
    assert np.isfinite(net.flatten()).all()
    assert error.value.step == net.step
