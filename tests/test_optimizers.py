"""Optimizers: each row against torch or optax step by step, what is done around a rule, schedules, dropout, L-BFGS."""

import contextlib
import inspect
import itertools
import math
import pickle
import re
import threading
from dataclasses import fields, replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
from conftest import need_extension
from test_again import long_way
from tolerance import assert_close

import fastbp
from fastbp import losses, optimizers, order, schedules
from fastbp.backends.plan import make_plan, program
from fastbp.training.state import TrainingState


@pytest.fixture
def cleanup():
    with contextlib.ExitStack() as stack:
        yield stack


WIDTH = 37  # two vectors of the widest ISA and a tail

# ------------------------------------------------------------------ each rule, step by step

SETTINGS = {  # of each class: all its rows, and each hyper-parameter away from its default
    "SGD": [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}],
    "Adam": [{}, {"weight_decay": 0.1}, {"amsgrad": True}, {"betas": (0.5, 0.7), "eps": 1e-3, "amsgrad": True}],
    "AdamW": [{}, {"weight_decay": 0.3}, {"amsgrad": True, "weight_decay": 0.1, "betas": (0.0, 0.9)}],
    "NAdam": [{}, {"weight_decay": 0.1, "momentum_decay": 0.3}, {"betas": (0.5, 0.7), "eps": 1e-3}],
    "RAdam": [{}, {"weight_decay": 0.1}, {"betas": (0.5, 0.7), "eps": 1e-3}],
    "RMSprop": [{}, {"momentum": 0.5}, {"centered": True, "weight_decay": 0.1},
                {"centered": True, "momentum": 0.9, "alpha": 0.5, "eps": 1e-3}],
    "Adagrad": [{}, {"lr_decay": 0.5, "initial_accumulator_value": 0.3}, {"weight_decay": 0.1, "eps": 1e-3}],
    "Adadelta": [{}, {"rho": 0.5, "eps": 1e-3, "weight_decay": 0.1}],
    "Lion": [{}, {"weight_decay": 0.1}, {"betas": (0.5, 0.7), "weight_decay": 0.0}],
    "Rprop": [{}, {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.05)}],
}  # fmt: skip
CASES = [pytest.param(name, s, id=f"{name}-{k}") for name, all_of in SETTINGS.items() for k, s in enumerate(all_of)]
RATES = (0.1, 0.1, 0.03, 0.0, 0.2, 0.2, 0.1, 0.1, 0.05, 0.1, 0.1, 0.02)


def test_every_optimizer_and_every_row_of_the_table_is_in_the_cases():
    kinds = [kind for kind in optimizers.BY_NAME.values() if kind is not optimizers.LBFGS]
    assert {kind.__name__ for kind in kinds} == set(SETTINGS)
    rows = {getattr(fastbp, name)(**s).row.name for name, all_of in SETTINGS.items() for s in all_of}
    # the others are in tests/test_rows.py and below
    assert rows >= set(optimizers.TABLE) - {"sgd_decay", "sgd_momentum", "sgd_clipped", *WITHOUT_A_CLASS}


def gradients_of(shapes, dtype, seed=3):
    """Of many sizes, and with zeros in some steps; as the dtype has them."""
    rng = np.random.default_rng(seed)
    while True:
        yield [
            (rng.normal(size=s) * 10.0 ** rng.integers(-3, 2, s) * (rng.uniform(size=s) < 0.9)).astype(dtype)
            for s in shapes
        ]


def parameters(net):
    return [view for pair in zip(net.weights, net.biases) for view in pair]


def optax_lion(peers, parameters, betas=(0.9, 0.99), weight_decay=1e-3):
    assert peers.jax.config.jax_enable_x64
    rule = peers.optax.lion(1.0, *betas, weight_decay=weight_decay)
    state = [rule.init(p) for p in parameters]

    def step(values, gradients, lr):
        out = []
        for k, (p, g) in enumerate(zip(values, gradients)):
            update, state[k] = rule.update(np.asarray(g, float), state[k], p)
            out.append(p + lr * np.asarray(update))
        return out

    return step


def torch_rule(peers, name, values, settings, cleanup):
    torch = peers.torch
    was = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # that of the products that NAdam keeps
    cleanup.callback(torch.set_default_dtype, was)
    tensors = [torch.tensor(v) for v in values]
    peer = getattr(torch.optim, name)(tensors, lr=RATES[0], **settings)

    def step(values, gradients, lr):
        for tensor, gradient in zip(tensors, gradients):
            tensor.grad = torch.tensor(gradient.astype(float))
        if name != "Rprop":
            peer.param_groups[0]["lr"] = lr
        peer.step()
        return [tensor.numpy().copy() for tensor in tensors]

    return step


@pytest.mark.parametrize("name, settings", CASES)
def test_an_optimizer_agrees_with_its_peer_step_by_step(name, settings, kernels, dtype, peers, cleanup):
    """torch, in float64; optax for Lion."""
    net = fastbp.MLP((5, WIDTH), dtype=dtype, seed=1, backend=kernels)
    net.biases[0][...] = np.random.default_rng(3).normal(size=WIDTH)
    values = [view.astype(float) for view in parameters(net)]
    if name == "Lion":
        step = optax_lion(peers, values, **settings)
    else:
        step = torch_rule(peers, name, values, settings, cleanup)
    moved = 0.0
    for k, (lr, gradients) in enumerate(zip(RATES, gradients_of([v.shape for v in values], dtype)), 1):
        before = values
        values = step(values, gradients, lr)
        for view, gradient in zip([net.grad_weights[0], net.grad_biases[0]], gradients):
            view[...] = gradient
        net.update(getattr(fastbp, name)(lr=RATES[0] if name == "Rprop" else lr, **settings))
        moved += max(abs(v - b).max() for v, b in zip(values, before))
        for got, wanted in zip(parameters(net), values):
            # roundings of the parameters, and those of the steps made
            assert_close(got, wanted, dtype, k=4 * k, scale=max(abs(wanted).max(), 4 * moved), what=f"step {k}")
    assert moved > 1e-3


@pytest.mark.parametrize("name, settings", CASES)
def test_fused_is_unfused_and_every_backend_is_the_reference(name, settings, isa, dtype):
    rng = np.random.default_rng(5)
    X, t = rng.normal(size=(40, 9)), rng.normal(size=(40, 5))
    run = {"optimizer": getattr(fastbp, name)(**settings), "batch_size": 40, "steps": 6, "loss": "mse"}
    nets = []
    for backend, fused in (("reference", True), ("cython", True), ("cython", False)):
        net = fastbp.MLP((9, 20, 5), activation="tanh", dtype=dtype, seed=2, backend=backend)
        with mock.patch("fastbp.mlp.make_plan", partial(make_plan, fused=fused)):
            net.fit(X, t, **run)
        nets.append(net.flatten())
    assert (
        np.isfinite(nets[0]).all() and abs(nets[0] - fastbp.MLP((9, 20, 5), seed=2, dtype=dtype).flatten()).max() > 1e-5
    )
    # A step is a quotient: where g is small beside its roundings, so is what both agree on. RMSprop's first are large.
    scale = 4 if name == "RMSprop" else 1
    for net in nets[1:]:
        assert_close(np.median(abs(net - nets[0])), 0.0, dtype, scale=1, what="median")
        assert_close(net, nets[0], dtype, k=6 * 4, scale=scale * max(abs(nets[0]).max(), 1))
    assert_close(nets[1], nets[2], dtype, scale=scale)


HALF = losses.TABLE["half_squared_error"]
WITHOUT_A_CLASS = ("sgd_velocity", "sgd_velocity_nesterov")  # for callers that fill scalars themselves


@pytest.mark.parametrize("name", WITHOUT_A_CLASS)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "sizes, rows", [((3, 2), 9), ((9, 20), 1), ((33, 70), 7), ((37, 3), 40), ((9, 35), 40)], ids=str
)
def test_a_velocity_that_holds_the_rate(name, fused, sizes, rows, kernels, dtype):
    """Against its formula in float64, under a rate that changes; momentum alone is SGD's as long as it does not."""
    rng = np.random.default_rng(5)
    X, t = rng.normal(size=(rows, sizes[0])).astype(dtype), rng.normal(size=(rows, sizes[1])).astype(dtype)
    row, rates, momentum, decay = optimizers.TABLE[name], [0.1, 0.1, 0.02, 0.2], 0.9, 0.3
    net = fastbp.MLP(sizes, dtype=dtype, seed=2, backend=kernels)
    rule = fastbp.SGD(lambda step: np.take(rates, np.asarray(step, int)), momentum=momentum, weight_decay=decay)
    state = TrainingState(net._spec, 0)
    update = state.update(rule, 4, net.params)._replace(row=row)
    p = [net.weights[0].astype(float), net.biases[0].astype(float)]
    velocity = [np.zeros_like(one) for one in p]
    make = program(make_plan(net._spec, rows, backend=kernels, loss=HALF, optimizer=row, fused=fused), net.params)
    done = make.train(
        X, t, None, batch_size=rows, steps=4, seed=0, shuffle=False, count=state.count, place=state.place,
        partial=np.zeros(2), losses=np.zeros(5), update=update, stop_on_loss=True, stop_on_params=False,
    )  # fmt: skip
    assert done.steps == 4
    for lr in rates:
        delta = (X @ p[0] + p[1] - t) / rows
        for k, g in enumerate((X.T @ delta, delta.sum(axis=0))):
            g = g + decay * p[k]
            velocity[k] = momentum * velocity[k] - lr * g
            p[k] = p[k] + (momentum * velocity[k] - lr * g if "nesterov" in name else velocity[k])
    k = 4 * (sizes[0] + rows)
    for got, wanted in zip((net.weights[0], net.biases[0], *net._spec.views(update.slots[0])), (*p, *velocity)):
        assert_close(got, wanted, dtype, k=k)
    steady = fastbp.SGD(0.1, momentum=momentum, weight_decay=decay, nesterov="nesterov" in name)
    plain, twin = (fastbp.MLP(sizes, dtype=dtype, seed=2, backend=kernels) for _ in "ab")
    plain.fit(X, t, loss=HALF, optimizer=steady, batch_size=rows, steps=4)
    state = TrainingState(net._spec, 0)
    make = program(make.plan, twin.params)
    make.train(
        X, t, None, batch_size=rows, steps=4, seed=0, shuffle=False, count=state.count, place=state.place,
        partial=np.zeros(2), losses=np.zeros(5), update=state.update(steady, 4, twin.params)._replace(row=row),
        stop_on_loss=True, stop_on_params=False,
    )  # fmt: skip
    assert_close(twin.flatten(), plain.flatten(), dtype, k=k)


WALK_START = (1.0, -2.0, 0.5)
WALK = [  # up and down, with zeros; RAdam is rectified from the sixth on, with betas of 0.5 and 0.7 the tenth
    (0.5, -1.0, 2.0), (-0.25, 0.5, -1.0), (0.125, -0.25, 0.0), (0.5, 0.0, 2.0), (0.75, 0.01, 1e-3), (0.0, -1.5, 3.0),
    (-1.0, -0.5, 0.25), (-0.5, 0.25, 0.5), (0.25, 2.0, -4.0), (0.125, 1.0, -0.0625), (-2.0, 0.001, 0.75),
    (1.0, -0.75, -0.5),
]  # fmt: skip
PINNED = {  # parameters after WALK with RATES, as torch 2.13.0 has them in float64, of Lion optax 0.2.8
    ("SGD", 0): (1.12625, -1.8046, -0.13394999999999999),
    ("SGD", 1): (0.4240109173774719, -0.3817151281866614, -2.455264742048745),
    ("Adam", 0): (0.6310130323438248, -1.653912880155263, 0.025366778559082752),
    ("Adam", 1): (0.517219548531998, -1.463549750703548, 0.009571942652121005),
    ("Adam", 2): (0.6310767894273368, -1.6539473086766296, 0.025414385141772175),
    ("Adam", 3): (0.810336648860183, -1.7738056610369777, 0.13241633558261864),
    ("AdamW", 0): (0.6229608672874014, -1.634450463695789, 0.02273285340535883),
    ("AdamW", 1): (0.42427698910984274, -1.1487703833307037, -0.03943443557508426),
    ("AdamW", 2): (0.9754472619312272, -1.543458527225363, 0.1179288764497989),
    ("NAdam", 0): (0.96240546381074, -1.761605499262823, 0.17881198730216233),
    ("NAdam", 1): (0.8501848363165438, -1.618230296393315, 0.16844223054889162),
    ("NAdam", 2): (0.9471530573796754, -1.7502720741943438, 0.14036073904399807),
    ("RAdam", 0): (0.8644204212282439, -1.8445334121977057, 0.12541987315615333),
    ("RAdam", 1): (0.8196996432894005, -1.7575989495207973, 0.10937815480842736),
    ("RAdam", 2): (0.9429154395567452, -1.7986874363202687, -0.2167810703519767),
    ("RMSprop", 0): (0.5439814891260527, -0.3186235557779643, -1.4130230158885306),
    ("RMSprop", 1): (-1.6664579324567954, 0.5013946913028928, -3.348322295067549),
    ("RMSprop", 2): (0.66349240630924, -0.04901209460820445, -1.2829400990187023),
    ("RMSprop", 3): (-2.0733811653772007, -0.2292241379409919, -2.41914829474954),
    ("Adagrad", 0): (0.9537931807837037, -1.8324241897116238, 0.30986484710065176),
    ("Adagrad", 1): (0.9414645447213328, -1.9018457656512173, 0.3935232822820546),
    ("Adagrad", 2): (0.8969980536360339, -1.7523486819564396, 0.30169380739421153),
    ("Adadelta", 0): (1.0002278198437606, -1.9994640985258725, 0.49906401934268535),
    ("Adadelta", 1): (0.991678063633897, -1.9816897787391843, 0.4850620355974052),
    ("Lion", 0): (0.6991215668517969, -1.7980500912023538, -0.2602187136223118),
    ("Lion", 1): (0.6166442197002019, -1.6145424408297488, -0.28008672406157165),
    ("Lion", 2): (0.7, -1.6, -0.06000000000000005),
    ("Rprop", 0): (0.8116000000000001, -1.9204999999999999, 0.10568000000000005),
    ("Rprop", 1): (0.943, -1.9519125, 0.29825),
}


@pytest.mark.parametrize("name, k", PINNED)
def test_an_optimizer_has_its_pinned_values(name, k, kernels, dtype):
    net = fastbp.MLP((1, 3), bias=False, init=[[WALK_START]], dtype=dtype, backend=kernels)
    for gradient, lr in zip(WALK, RATES, strict=True):
        net.grad_weights[0][0] = gradient
        net.update(getattr(fastbp, name)(lr=RATES[0] if name == "Rprop" else lr, **SETTINGS[name][k]))
    cancelled = 4 if name == "RAdam" else 1  # the length of its average is a difference of large numbers
    assert_close(net.weights[0][0], PINNED[name, k], dtype, k=4 * len(WALK) * cancelled)


def test_every_setting_is_pinned():
    assert set(PINNED) == {(name, k) for name, all_of in SETTINGS.items() for k in range(len(all_of))}


def scalar(rule, name, *where, **options):
    """One of the scalars that the rule's row takes, at each of the steps `where`: first, count."""
    return dict(zip(rule.row.scalars, rule.scalars(*where, **options), strict=True))[name]


@pytest.mark.parametrize("beta2, first", [(0.9999, 6), (0.999, 6), (0.9, 6), (0.7, 10), (0.67, 16), (0.66, None)])
def test_radam_is_rectified_from_the_first_step_with_a_length_above_5(beta2, first):
    """``r_t`` of Liu et al.; below 1 / (1 - beta2) = 3 it never gets there."""
    t = np.arange(1, 101)
    rectified = np.broadcast_to(scalar(fastbp.RAdam(betas=(0.9, beta2)), "rectified", 0, 100), 100)
    assert np.array_equal(rectified > 0, t >= (first or 101))


@pytest.mark.parametrize("beta, decay, count", [(0.9, 4e-3, 500), (0.9, 10, 500), (0.999, 4e-3, 60_000), (0, 0.1, 9)])
def test_nadam_divides_by_the_product_of_all_its_momenta(beta, decay, count):
    """However small it gets, and wherever a stretch of steps begins."""
    mu = beta * (1 - 0.5 * 0.96 ** (np.arange(1, count + 2) * decay))
    product = np.cumprod(mu)
    wanted = {"gradient_size": (1 - mu[:-1]) / (1 - product[:-1]), "step_size": mu[1:] / (1 - product[1:])}
    rule = fastbp.NAdam(1.0, betas=(beta, 0.9), momentum_decay=decay)
    for first in (0, 7, count // 2, count - 1):
        for name, values in wanted.items():
            size = np.where(values[first:] == 0, 1, values[first:])
            got = scalar(rule, name, first, count - first) / size
            assert_close(got, values[first:] / size, np.float64, what=f"{name} from step {first} on")


STARTS = {"parabola": ([3.0, -2.0], 1e-3), "rosenbrock": ([-0.5, 0.8], 0.3)}
RATE_OF = {  # for the two functions; the last number: steps
    "SGD": (0.05, 2e-3, 4000), "Adam": (0.05, 0.02, 4000), "AdamW": (0.05, 0.02, 4000), "NAdam": (0.05, 0.02, 4000),
    "RAdam": (0.05, 0.02, 4000), "RMSprop": (0.01, 0.002, 6000), "Adagrad": (0.5, 0.5, 6000),
    "Adadelta": (5.0, 1.0, 8000), "Lion": (2e-3, 5e-4, 8000), "Rprop": (0.01, 0.01, 400),
}  # fmt: skip


@pytest.mark.parametrize("function", STARTS)
@pytest.mark.parametrize("name", SETTINGS)
def test_an_optimizer_comes_near_the_minimum(name, function, backend):
    start, near = STARTS[function]
    lr, steps = RATE_OF[name][function == "rosenbrock"], RATE_OF[name][2]
    more = {"weight_decay": 0.0} if name in ("AdamW", "Lion") else {"momentum": 0.9} if name == "SGD" else {}
    if name != "Rprop":
        lr = schedules.Polynomial(lr, steps, power=1.0)
    rule = getattr(fastbp, name)(lr=lr, **more)
    net = fastbp.MLP((2, 1), bias=False, init=[np.reshape(start, (2, 1))], dtype=np.float64, backend=backend)
    for _ in range(steps if backend != "reference" else steps // 8):
        x, y = net.weights[0][:, 0]
        if function == "parabola":
            gradient = x, 10 * y
        else:
            gradient = -2 * (1 - x) - 40 * x * (y - x * x), 20 * (y - x * x)
        net.grad_weights[0][:, 0] = gradient
        net.update(rule)
    if backend != "reference":  # which makes an eighth of the steps, and shows that it goes the same way
        wanted = (0, 0) if function == "parabola" else (1, 1)
        assert math.dist(net.weights[0][:, 0], wanted) < near
    else:
        assert np.isfinite(net.flatten()).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_rate_of_0_moves_nothing(name, kernels, dtype):
    if name == "Rprop":
        with pytest.raises(ValueError, match="Rprop: lr must be finite and above 0"):
            fastbp.Rprop(0.0)
        return
    rng = np.random.default_rng(6)
    X, t = rng.normal(size=(10, 6)), rng.normal(size=(10, WIDTH))
    net = fastbp.MLP((6, 5, WIDTH), dtype=dtype, seed=2, backend=kernels)
    before = net.flatten()
    for settings in SETTINGS[name]:
        net.fit(X, t, optimizer=getattr(fastbp, name)(lr=0.0, **settings), batch_size=4, epochs=2)
    assert net.flatten().tobytes() == before.tobytes()


WITH_EPS = [pytest.param(name, s, id=f"{name}-{k}") for name, all_of in SETTINGS.items() for k, s in enumerate(all_of)
            if "eps" in optimizers.BY_NAME[name.lower()].__annotations__ or name == "AdamW"]  # fmt: skip
VANISHING = {np.float16: (1e-8, 0.0), np.float32: (1e-46, 0.0), np.float64: (0.0,), np.longdouble: (0.0,)}


@pytest.mark.parametrize("name, settings", WITH_EPS)
def test_an_eps_that_is_0_in_the_dtype_moves_nothing_that_has_no_gradient(name, settings, kernels):
    """The input that is 0 has a gradient of 0. The other one goes where the least normal number leads, in float64."""
    X, t = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([1.0, -1.0])
    for kind in VANISHING if kernels == "reference" else (np.float32, np.float64):
        coarser = kind if kind is not np.longdouble else np.float64
        for eps in VANISHING[kind]:
            nets = []
            for stands, dtype, on in ((eps, kind, kernels), (float(np.finfo(coarser).tiny), np.float64, "reference")):
                nets.append(fastbp.MLP((2, 1), dtype=dtype, init=[([[0.5], [0.25]], [0.5])], backend=on))
                rule = getattr(fastbp, name)(**settings | {"eps": stands, "weight_decay": 0.0})
                nets[-1].fit(X, t, optimizer=rule, batch_size=2, steps=6)
            got, wanted = (net.flatten().astype(float) for net in nets)
            assert got[1] == 0.25
            assert_close(got, wanted, coarser, k=60, what=f"{kind.__name__}, eps {eps}")


def test_a_least_step_that_is_0_in_the_dtype_does_not_begin_anew(kernels):
    """Rprop's steps after signs that change: 0.01, then 1e-32, then 1e-60, which is 0 in float32 and no first step."""
    net = fastbp.MLP((1, 1), bias=False, init=[np.ones((1, 1))], backend=kernels)
    for gradient in (1, -1, -1, 1, 1, 1):
        net.grad_weights[0][...] = gradient
        net.update(fastbp.Rprop(etas=(1e-30, 1.2), step_sizes=(1e-60, 50.0)))
    assert net.weights[0][0, 0] == np.float32(1) - np.float32(0.01)


def test_an_eps_of_a_rule_of_ones_own_is_above_0_too(backend):
    rule = fastbp.Optimizer("my_sign", update=[("p", "p - lr * g / (ABS(g) + eps)")], scalars=("lr", "eps"))
    for eps in (1e-46, 0, lambda step: 0.0):
        net = fastbp.MLP((2, 1), bias=False, init=[np.ones((2, 1))], backend=backend)
        net.grad_weights[0][...] = [[0], [-3]]
        net.update(rule(lr=0.5, eps=eps))
        assert net.weights[0].ravel().tolist() == [1.0, 1.5]


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adadelta", "Adagrad", "NAdam", "RAdam"])
def test_an_eps_of_0_lets_nothing_of_the_padding_through(name, isa, dtype, monkeypatch):
    """0 / 0 in padding is NaN. The reference has no padding: its `params` are written where they are real."""
    monkeypatch.setattr(optimizers.Rule, "above_zero", ())
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(12, 5)), rng.normal(size=(12, 3))
    nets = [fastbp.MLP((5, 21, 3), activation="tanh", dtype=dtype, seed=1, backend=b) for b in ("cython", "reference")]
    for net in nets:
        net.fit(X, t, optimizer=getattr(fastbp, name)(eps=0.0), batch_size=12, epochs=8)
    assert np.isnan(nets[0].params).any(), "no NaN in padding: this shows nothing"
    for got, wanted in zip(parameters(nets[0]), parameters(nets[1])):
        assert_close(got, wanted, dtype, k=8 * 4, scale=1)
    assert_close(nets[0].predict(X), nets[1].predict(X), dtype, k=8 * 4, scale=2)
    assert np.isfinite(nets[0].loss_and_grad(X, t, loss="mse")[1]).all()


# ------------------------------------------------------------------ what is done around a rule


class Plain:
    """Parameters as float64 arrays, and the order of `fastbp.optimizers.Rule` in plain NumPy around a formula."""

    def __init__(self, net, name, settings):
        self.values = [view.astype(float) for view in parameters(net)]
        self.name, self.settings, self.updates = name, settings, 0
        self.kept = [np.zeros((2, *v.shape)) for v in self.values]  # the rule's own slots
        self.average = [v.copy() for v in self.values]

    def ruled(self, k, g, lr, decay):
        """Parameter k after the rule's own step."""
        s, p, kept, t = self.settings, self.values[k], self.kept[k], self.updates
        if self.name == "SGD":
            kept[0] = s.get("momentum", 0) * kept[0] + g + decay * p
            return p - lr * kept[0]
        if self.name == "AdamW":
            kept[0] = 0.9 * kept[0] + 0.1 * g
            kept[1] = 0.999 * kept[1] + 0.001 * g**2
            return p - lr * decay * p - lr * kept[0] / (1 - 0.9**t) / (np.sqrt(kept[1] / (1 - 0.999**t)) + s["eps"])
        assert self.name == "Rprop"
        before, size = kept
        size[...] = np.where(size > 0, size, lr) * np.where(g * before > 0, 1.2, np.where(g * before < 0, 0.5, 1))
        before[...] = np.where(g * before < 0, 0, g)
        return p - size * np.sign(before)

    def update(self, batches, lr, frozen=()):
        s = self.settings
        self.updates += 1
        gradients = [np.mean(of_batches, axis=0) for of_batches in zip(*batches)]
        trained = [k for k in range(len(self.values)) if k not in frozen]
        if "clip_norm" in s:
            norm = math.sqrt(sum((gradients[k] ** 2).sum() for k in trained))
            gradients = [g * min(1, s["clip_norm"] / (norm + 1e-6)) for g in gradients]
        for k in trained:
            layer, bias = divmod(k, 2)
            decay = s.get("decay_scale", (1, 1))[layer] * (s.get("bias_decay_scale", 1) if bias else 1)
            rate = lr * s.get("lr_scale", (1, 1))[layer] * (s.get("bias_lr_scale", 1) if bias else 1)
            clip = s.get("clip_value", np.inf)
            g = np.clip(gradients[k], -clip, clip) + s.get("l1", 0) * decay * np.sign(self.values[k])
            p = self.ruled(k, g, rate, s.get("weight_decay", 0) * decay)
            if "max_norm" in s and not bias:
                norm = np.sqrt((p**2).sum(axis=0))
                p = p * np.where(norm > s["max_norm"], s["max_norm"] / norm, 1)
            self.values[k] = p
            keep = s.get("average", 0)
            self.average[k] = keep * self.average[k] + (1 - keep) * p

    def train(self, twin, batches, lr, frozen=()):
        """Updates with the mean squared error's gradients on batches (x, t), which `twin` makes: the reference."""
        every = self.settings.get("accumulate", 1)
        assert twin.backend == "reference" and len(batches) % every == 0
        for update in range(0, len(batches), every):
            for view, value in zip(parameters(twin), self.values):
                view[...] = value
            gradients = []
            for x, t in batches[update : update + every]:
                a = twin.forward(x)
                twin.backward(2 * (a - t) / a.size)
                gradients.append([view.copy() for pair in zip(twin.grad_weights, twin.grad_biases) for view in pair])
            self.update(gradients, lr, frozen)


AROUND = {
    "l1": {"l1": 0.3}, "clip value": {"clip_value": 0.02, "weight_decay": 0.2}, "clip norm": {"clip_norm": 0.1},
    "clip value and l1": {"clip_value": 0.02, "l1": 0.3},
    "max norm": {"max_norm": 0.8},
    "average": {"average": 0.7}, "rates": {"lr_scale": (0.5, 2.0), "bias_lr_scale": 0.25},
    "decays": {"weight_decay": 0.4, "decay_scale": (0.5, 2.0), "bias_decay_scale": 0.0},
    "accumulate": {"accumulate": 3},
    "all": {"l1": 0.1, "clip_value": 0.05, "clip_norm": 0.3, "max_norm": 0.9, "average": 0.6, "lr_scale": (1.0, 0.5),
            "bias_lr_scale": 2.0, "weight_decay": 0.2, "decay_scale": (0.5, 1.0), "bias_decay_scale": 0.5,
            "accumulate": 2},
    "average after max norm": {"max_norm": 0.6, "average": 0.5},
    "l1 of the last layer": {"l1": 0.3, "decay_scale": (0.0, 1.0), "bias_decay_scale": 0.5},
    "average after clip norm": {"clip_norm": 0.1, "average": 0.7},
    "average of every third": {"accumulate": 3, "average": 0.7},
    "rates of layers": {"lr_scale": (0.5, 2.0)}, "rate of biases": {"bias_lr_scale": 0.25},
    "decays of layers": {"weight_decay": 0.4, "decay_scale": (0.5, 2.0)},
    "decay of biases": {"weight_decay": 0.4, "bias_decay_scale": 0.0},
    "l1 of layers and biases": {"l1": 0.3, "decay_scale": (0.5, 2.0), "bias_decay_scale": 0.0},
}  # fmt: skip
SHAPES = {"direct": ((19, 33, 21), 30), "narrow": ((9, 20, 3), 30), "few": ((20, 70, 70), 3),
          "single": ((20, 70, 9), 1),
          "tiny sizes": ((3, 5, 2), 8)}  # fmt: skip
# A step of AdamW is a quotient: eps keeps it from being one of two roundings.
RULES = {"SGD": {"lr": 0.1}, "AdamW": {"lr": 0.02, "eps": 1e-2, "weight_decay": 0.0}}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", RULES)
def test_what_is_done_around_a_rule_is_done_in_order(name, around, shape, kernels, dtype):
    (sizes, rows), settings = SHAPES[shape], RULES[name] | AROUND[around]
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(6 * rows, sizes[0])), rng.normal(size=(6 * rows, sizes[-1]))
    X[:, ::4] = 0  # weights without a gradient, which plain SGD may pass over
    init = [(rng.normal(size=s) / 3, rng.normal(size=s[1]) / 3) for s in zip(sizes, sizes[1:])]
    net = fastbp.MLP(sizes, activation="tanh", init=init, seed=1, dtype=dtype, backend=kernels)
    twin = fastbp.MLP(sizes, activation="tanh", init=init, dtype=np.float64, backend="reference")
    plain = Plain(net, name, settings)
    rule = getattr(fastbp, name)(**settings)
    net.fit(X, t, optimizer=rule, batch_size=rows, steps=6, shuffle=False)
    plain.train(twin, [(X[k : k + rows], t[k : k + rows]) for k in range(0, len(X), rows)], rule.lr)
    for got, wanted in zip(parameters(net), plain.values):
        assert_close(got, wanted, dtype, k=6 * 6, scale=1)
    if "average" in settings:
        for got, wanted in zip(parameters(net.averaged()), plain.average):
            assert_close(got, wanted, dtype, k=6 * 6, scale=1)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", RULES)
def test_what_is_done_around_a_rule_has_the_same_bits_on_threads(name, around, dtype, monkeypatch):
    need_extension()
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(24, 70)), rng.normal(size=(24, 65))
    rule, bits = getattr(fastbp, name)(**RULES[name] | AROUND[around]), []
    for threads in (1, 2, 3):
        net = fastbp.MLP((70, 130, 65), activation="tanh", seed=1, dtype=dtype, backend="cython")
        for bias in net.biases:
            bias[...] = 0.1  # for decay and l1
        net.fit(X, t, optimizer=rule, batch_size=12, steps=6, n_threads=threads)
        bits.append((net.flatten().tobytes(), net.averaged().flatten().tobytes() if rule.average else None))
    assert bits[0] == bits[1] == bits[2]


SCALES = ({"lr_scale": (0.5, 2.0)}, {"bias_lr_scale": 0.25}, {"decay_scale": (0.5, 2.0)}, {"bias_decay_scale": 0.0})
# With a large eps a first step tells large gradients from small ones.
DECAYING = {name: {"lr": 0.05, "weight_decay": 0.4, "l1": 0.1}
            | ({} if name in ("SGD", "Lion") else {"eps": 0.1}) for name in SETTINGS if name != "Rprop"}  # fmt: skip


@pytest.mark.parametrize("shape", ["direct", "few", "tiny sizes"])
@pytest.mark.parametrize("name", DECAYING)
def test_a_scale_alone_is_a_rate_or_a_decay_of_its_own(name, shape, kernels, dtype):
    """In a first step, whose gradient is the same: each is as where the rule has that rate and decay for all."""
    (sizes, rows), settings = SHAPES[shape], DECAYING[name]
    rng = np.random.default_rng(4)
    X, t = rng.normal(size=(rows, sizes[0])), rng.normal(size=(rows, sizes[-1]))
    init = [(rng.normal(size=s) / 3, rng.normal(size=s[1]) / 3) for s in zip(sizes, sizes[1:])]

    def stepped(**changed):
        net = fastbp.MLP(sizes, activation="tanh", init=init, dtype=dtype, backend=kernels, seed=1)
        net.fit(X, t, optimizer=getattr(fastbp, name)(**settings | changed), batch_size=rows, steps=1, shuffle=False)
        return parameters(net)

    plain = stepped()
    for scale in SCALES:
        ((what, factors),) = scale.items()
        got = stepped(**scale)
        for k, parameter in enumerate(got):
            layer, bias = divmod(k, 2)
            factor = factors if what.startswith("bias") and bias else 1.0 if what.startswith("bias") else factors[layer]
            if what.endswith("lr_scale"):
                wanted = stepped(lr=0.05 * factor)[k]
            else:
                wanted = stepped(weight_decay=0.4 * factor, l1=0.1 * factor)[k]
            assert_close(parameter, wanted, dtype, scale=1, what=f"{scale}, parameter {k}")
            assert (abs(parameter - plain[k]).max() > 1e-4) == (factor != 1.0), scale


def test_verbs_do_what_fit_does_around_a_rule(kernels, dtype):
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(24, 9)), rng.normal(size=(24, 6))
    settings = {k: v for k, v in AROUND["all"].items() if k != "accumulate"}
    rule = fastbp.Adam(0.01, **settings)
    nets = [fastbp.MLP((9, 20, 6), seed=3, dtype=dtype, backend=kernels) for _ in range(4)]
    nets[0].fit(X, t, optimizer=rule, batch_size=8, steps=3, shuffle=False)
    for start in (0, 8, 16):
        x, y = X[start : start + 8], t[start : start + 8]
        nets[1].train_step(x, y, optimizer=rule)
        for net in nets[2:]:
            a = net.forward(x)
            grad_output = (2 * (a - y) / a.size).astype(dtype)
            if net is nets[2]:
                net.backward(grad_output)
                net.update(rule)
            else:
                net.backward_update(grad_output, rule)
    assert nets[1].flatten().tobytes() == nets[0].flatten().tobytes()
    for net in nets[2:]:
        assert_close(net.flatten(), nets[0].flatten(), dtype)
        assert_close(net.averaged().flatten(), nets[0].averaged().flatten(), dtype)


def test_clipping_by_norm_is_that_of_torch(backend, dtype, peers):
    torch = peers.torch
    rng = np.random.default_rng(0)
    net = fastbp.MLP((9, 20), seed=3, dtype=dtype, backend=backend)
    for most in (0.1, 1.0, 1e3):
        tensors = [torch.tensor(view.astype(float), requires_grad=True) for view in parameters(net)]
        for tensor, view in zip(tensors, (net.grad_weights[0], net.grad_biases[0])):
            view[...] = rng.normal(size=view.shape)
            tensor.grad = torch.tensor(view.astype(float))
        torch.nn.utils.clip_grad_norm_(tensors, most)
        kept = net.grads.copy()
        net.update(fastbp.SGD(0.5, clip_norm=most))
        assert net.grads.tobytes() == kept.tobytes(), "an update leaves grads alone"
        for view, tensor in zip(parameters(net), tensors):
            assert_close(view, tensor.detach().numpy() - 0.5 * tensor.grad.numpy(), dtype)


@pytest.mark.parametrize("around", AROUND)
def test_an_update_leaves_grads_alone(around, kernels, dtype):
    rng = np.random.default_rng(1)
    net = fastbp.MLP((9, WIDTH, 3), seed=3, dtype=dtype, backend=kernels)
    for view in (*net.grad_weights, *net.grad_biases):
        view[...] = rng.normal(size=view.shape)
    before, kept = net.flatten(), net.grads.copy()
    net.update(fastbp.SGD(0.1, **{name: value for name, value in AROUND[around].items() if name != "accumulate"}))
    assert net.grads.tobytes() == kept.tobytes() and (net.flatten() != before).any()


@pytest.mark.parametrize("bad, spoils", [(np.nan, True), (np.inf, False)])
def test_a_gradient_whose_norm_is_no_number_is_clipped_to_none(bad, spoils, kernels, dtype):
    """As in torch: a NaN is in the factor of all, an infinite norm makes a factor of 0."""
    for layer, bias in ((0, False), (0, True), (1, False), (1, True)):
        net = fastbp.MLP((3, WIDTH, 2), seed=3, dtype=dtype, backend=kernels)
        net.grads[...] = 1.0
        (net.grad_biases if bias else net.grad_weights)[layer].flat[-1] = bad
        before = net.flatten()
        net.update(fastbp.SGD(0.1, clip_norm=1.0))
        spoilt = np.isnan(net.flatten())
        assert spoilt.all() if spoils else spoilt.sum() == 1 and (net.flatten() == before)[~spoilt].all()


@pytest.mark.parametrize("shape", SHAPES)
def test_l1_leaves_a_parameter_of_0_where_it_is(shape, kernels, dtype):
    sizes, rows = SHAPES[shape]
    rule = fastbp.SGD(0.25, l1=0.5)
    net = fastbp.MLP(sizes, activation="tanh", init="zeros", seed=1, dtype=dtype, backend=kernels)
    net.fit(np.zeros((rows, sizes[0])), np.zeros((rows, sizes[-1])), optimizer=rule, batch_size=rows, steps=3)
    assert not net.flatten().any(), "nothing pulls at it"
    for view in parameters(net):
        view.flat[...] = np.resize([0.0, 1.0, -1.0, -0.0], view.size)
    before = net.flatten()
    net.grads[...] = 0
    net.update(rule)
    assert np.array_equal(net.flatten(), before - 0.125 * np.sign(before))


CLIPPED = {  # clip_norm: parameters after a step of 0.5, as torch 2.13.0's clip_grad_norm_ leaves it in float64
    0.1: ((0.9818369389315085, -1.9909184694657542), (0.4954592347328771, 2.963673877863017),
          (0.2772445916027373, -1.0022703826335615)),
    1.0: ((0.8183693893150847, -1.9091846946575424), (0.4545923473287712, 2.6367387786301695),
          (0.5224459160273728, -1.0227038263356143)),
    7.0: ((0.0, -1.5), (0.25, 1.0), (1.75, -1.125)),
}  # fmt: skip


@pytest.mark.parametrize("most", CLIPPED)
def test_clipping_by_norm_has_its_pinned_values(most, kernels, dtype):
    """The norm is that of weights and biases together, 5.51."""
    net = fastbp.MLP((2, 2), init=[([[1.0, -2.0], [0.5, 3.0]], [0.25, -1.0])], dtype=dtype, backend=kernels)
    net.grad_weights[0][...], net.grad_biases[0][...] = [[2.0, -1.0], [0.5, 4.0]], [-3.0, 0.25]
    net.update(fastbp.SGD(0.5, clip_norm=most))
    assert_close(np.vstack([net.weights[0], net.biases[0]]), CLIPPED[most], dtype)


@pytest.mark.parametrize("gradient, most, step", [(1.0, 1.0, 0.9999990000010001), (3e-6, 2e-6, 1.5e-6)])
def test_clipping_by_norm_adds_to_the_norm_what_torch_adds(gradient, most, step, backend, dtype):
    """1e-6: torch 2.13.0 makes of a gradient of norm 1 less than 1, and of one of 3e-6 three quarters of the bound."""
    net = fastbp.MLP((1, 1), bias=False, init="zeros", dtype=dtype, backend=backend)
    net.grad_weights[0][...] = gradient
    net.update(fastbp.SGD(1.0, clip_norm=most))
    assert_close(net.weights[0], [[-step]], dtype)


FROZEN = [
    ("SGD", {"lr": 0.1}), ("SGD", {"lr": 0.1, "momentum": 0.9}), ("AdamW", RULES["AdamW"]), ("Rprop", {}),
    ("SGD", {"lr": 0.1, "clip_norm": 0.1}), ("SGD", {"lr": 0.1, "average": 0.9, "max_norm": 0.5}),
    ("AdamW", RULES["AdamW"] | {"clip_norm": 0.1, "average": 0.9, "max_norm": 0.5, "weight_decay": 0.1}),
]  # fmt: skip


@pytest.mark.parametrize("name, settings", FROZEN)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_frozen_stays_bit_by_bit_and_the_rest_trains_as_the_rule_says(name, settings, shape, kernels, dtype):
    sizes, rows = SHAPES[shape]
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(rows, sizes[0])), rng.normal(size=(rows, sizes[-1]))
    rule = getattr(fastbp, name)(**settings)
    twin = fastbp.MLP(sizes, activation="tanh", dtype=np.float64, backend="reference")

    def check_places(plain, frozen):
        plain.train(twin, 4 * [(X, t)], rule.lr, frozen)
        if name == "Rprop" and dtype == np.float32:
            return  # signs of gradients that are near 0 are those of roundings
        for got, wanted in zip(parameters(net), plain.values):
            assert_close(got, wanted, dtype, k=2, scale=1)
        if "average" in settings:
            for got, wanted in zip(parameters(net.averaged()), plain.average):
                assert_close(got, wanted, dtype, k=2, scale=1)

    for frozen in ([(0, True, False)], [(0, True, True)], [(1, True, False)], [(0, False, True), (1, True, True)]):
        net = fastbp.MLP(sizes, activation="tanh", seed=1, dtype=dtype, backend=kernels)
        for layer, weight, bias in frozen:
            net.freeze(layer, weight=weight, bias=bias)
        plain, before = Plain(net, name, settings), [view.copy() for view in parameters(net)]
        net.fit(X, t, optimizer=rule, batch_size=rows, steps=4)
        still = [a.tobytes() == b.tobytes() for a, b in zip(parameters(net), before)]
        assert still == [flag for pair in net.frozen for flag in pair], frozen
        check_places(plain, [k for k, flag in enumerate(still) if flag])
        copied = pickle.loads(pickle.dumps(net))
        assert copied.frozen == net.frozen
        for layer, _, _ in frozen:
            net.freeze(layer, weight=False, bias=False)
        net.fit(X, t, optimizer=rule, batch_size=rows, steps=4)
        assert all(a.tobytes() != b.tobytes() for a, b in zip(parameters(net), before))
        check_places(plain, [])


def test_frozen_parameters_do_not_count_in_the_norm(backend):
    for frozen in ("weight", "bias"):
        net = fastbp.MLP((2, 1), init=[([[3.0], [4.0]], [1.0])], dtype=np.float64, backend=backend)
        still, norm = net.flatten(), 5e3 if frozen == "bias" else 3e3
        net.grad_weights[0][...], net.grad_biases[0][...] = [[3e3], [4e3]], 3e3
        moves = 2 / (norm + 1e-6) * np.array([3e3, 4e3, 3e3])
        (net.grad_weights if frozen == "weight" else net.grad_biases)[0][...] *= 1e3
        net.freeze(0, weight=frozen == "weight", bias=frozen == "bias")
        net.update(fastbp.SGD(1.0, clip_norm=2.0))
        trained = np.array([frozen == "bias", frozen == "bias", frozen == "weight"])
        assert_close(net.flatten(), still - moves * trained, np.float64)


@pytest.mark.parametrize("settings", [{}, {"max_norm": 0.5}, {"clip_norm": 0.1}], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_average_is_that_of_what_trains_and_of_what_is_frozen(settings, shape, kernels, dtype):
    sizes, rows = SHAPES[shape]
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(rows, sizes[0])), rng.normal(size=(rows, sizes[-1]))
    rule = fastbp.SGD(0.1, average=0.5, **settings)
    for weight, bias in ((True, False), (False, True)):
        net = fastbp.MLP(sizes, activation="tanh", seed=1, dtype=dtype, backend=kernels)
        for layer in (0, 1):
            net.freeze(layer, weight=weight, bias=bias)
        mean = net.flatten().astype(float)
        for _ in range(3):
            net.fit(X, t, optimizer=rule, batch_size=rows, steps=1)
            mean = (mean + net.flatten()) / 2
        assert_close(net.averaged().flatten(), mean, dtype)
        assert abs(mean - net.flatten()).max() > 1e-4


def test_accumulation_goes_on_from_one_call_to_the_next(backend, dtype):
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(20, 5)), rng.normal(size=(20, 3))
    rule = fastbp.Adam(0.01, accumulate=3)
    run = {"optimizer": rule, "batch_size": 4}
    whole, pieces, steps, stored = (fastbp.MLP((5, 9, 3), seed=3, dtype=dtype, backend=backend) for _ in range(4))
    whole.fit(X, t, steps=10, shuffle=False, **run)
    for n in (1, 1, 5, 3):
        pieces.fit(X, t, steps=n, shuffle=False, **run)
    for k in range(10):
        batch = slice(k % 5 * 4, k % 5 * 4 + 4)
        steps.train_step(X[batch], t[batch], optimizer=rule)
    stored.fit(X, t, steps=4, shuffle=False, **run)
    stored = pickle.loads(pickle.dumps(stored))
    stored.fit(X, t, steps=6, shuffle=False, **run)
    assert {net.flatten().tobytes() for net in (pieces, steps, stored)} == {whole.flatten().tobytes()}


@pytest.mark.parametrize("name, settings", [("Adam", {"eps": 1e-2}), ("NAdam", {"eps": 1e-2}),
                                            ("RAdam", {"betas": (0.9, 0.99), "eps": 1e-2}),
                                            ("Adagrad", {"lr_decay": 0.5, "eps": 1e-2})])  # fmt: skip
def test_updates_are_counted_on_where_accumulate_changes(name, settings, backend, dtype):
    """Gradients that then wait for an update wait in vain. Here each batch is the same."""
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(20, 5)), rng.normal(size=(20, 3))
    whole = fastbp.MLP((5, 9, 3), seed=3, dtype=dtype, backend=backend)
    run = {"batch_size": 20, "shuffle": False}
    whole.fit(X, t, optimizer=getattr(fastbp, name)(0.05, **settings), steps=7, **run)
    for parts in ([(6, 1), (2, 2)], [(14, 3), (3, 1)], [(4, 2), (9, 3), (2, 1)], [(1, 1), (5, 5), (10, 2)]):
        assert sum(steps // every for steps, every in parts) == 7
        net = fastbp.MLP((5, 9, 3), seed=3, dtype=dtype, backend=backend)
        for steps, every in parts:
            net.fit(X, t, optimizer=getattr(fastbp, name)(0.05, accumulate=every, **settings), steps=steps, **run)
        assert_close(net.flatten(), whole.flatten(), dtype, k=2, scale=1, what=str(parts))


def test_the_average_of_weights_is_kept_through_pickle_and_another_optimizer(backend):
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(20, 5)), rng.normal(size=(20, 3))
    net = fastbp.MLP((5, 9, 3), seed=3, backend=backend)
    with pytest.raises(RuntimeError, match="no average"):
        net.averaged()
    net.fit(X, t, optimizer=fastbp.SGD(0.1, average=0.9), epochs=3)
    before = net.averaged()
    assert before.flatten().tobytes() != net.flatten().tobytes()
    net.fit(X, t, optimizer="adam", epochs=1)  # without average: it stands still
    again = pickle.loads(pickle.dumps(net))
    assert again.averaged().flatten().tobytes() == before.flatten().tobytes()
    net.reset_training()
    with pytest.raises(RuntimeError, match="no average"):
        net.averaged()


def test_adams_first_step_after_another_optimizer_is_a_first_step(backend):
    """The bias correction counts the updates made with these slots, not `net.step`."""
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(20, 5)), rng.normal(size=(20, 3))
    net = fastbp.MLP((5, 3), seed=3, dtype=np.float64, backend=backend)
    net.fit(X, t, optimizer="sgd", steps=50)
    fresh = fastbp.MLP((5, 3), init=list(zip(net.weights, net.biases)), dtype=np.float64, backend=backend)
    for one in (net, fresh):
        one.fit(X, t, optimizer=fastbp.Adam(0.01), batch_size=20, steps=3)
    assert_close(net.flatten(), fresh.flatten(), np.dtype(float))


@pytest.mark.parametrize("rule", [fastbp.Adam(0.01), fastbp.SGD(schedules.Step(0.1, 3, 0.5), momentum=0.9)], ids=repr)
def test_a_remembered_step_has_the_scalars_of_its_update(rule, dtype):
    """Also where others train in between, and beyond the steps whose scalars lie ready."""
    need_extension()
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(8, 5)).astype(dtype), rng.normal(size=(8, 3)).astype(dtype)
    nets = [fastbp.MLP((5, 9, 3), seed=3, dtype=dtype, backend="cython") for _ in range(2)]
    for net in nets:
        for k in range(320):
            if net is nets[1]:
                long_way(net)
            net.train_step(X, t, optimizer=rule)
            if k in (3, 300):
                net.fit(X, t, optimizer=replace(rule, accumulate=3), batch_size=4, steps=7, shuffle=False)
            if k == 8:
                net.fit(X, t, optimizer=rule, batch_size=4, steps=5, shuffle=False)
    assert nets[0].flatten().tobytes() == nets[1].flatten().tobytes()


# ------------------------------------------------------------------ dropout


def words_of(seed, step, layer, row, cols):
    """The words of a row's inputs: blocks of 64, eight counters each, two of their 32-bit words and then the others."""
    counters = np.arange(-(-cols // 64) * 8), row, step % 2**32, layer << 16 ^ step >> 32
    blocks = np.stack(order.philox4x32(seed, counters), axis=-1).reshape(-1, 8, 2, 2)
    return blocks.swapaxes(1, 2).astype("<u4").view("<u2").ravel()[:cols]


LATE = 3 * 2**32 + 5  # a step that 32 bits do not hold


@pytest.mark.parametrize("seed, step", [(7, 5), (7, LATE), (7 + 2**32, 5)])
def test_dropout_scales_by_what_is_kept(seed, step):
    scales = order.dropout_scales(seed, step, 2, 3, 100, 0.25)
    assert scales.shape == (3, 100) and set(scales.ravel().tolist()) == {0.0, 1 / 0.75}
    for row in range(3):
        assert np.array_equal(scales[row] > 0, words_of(seed, step, 2, row, 100) >= 16384)
    kept = order.dropout_scales(1, 0, 0, 1000, 100, 0.25) > 0
    assert abs(kept.mean() - 0.75) < 5 * math.sqrt(0.75 * 0.25 / kept.size)
    assert abs(kept.mean(axis=0) - 0.75).max() < 5 * math.sqrt(0.75 * 0.25 / 1000)
    assert abs(kept.mean(axis=1) - 0.75).max() < 5 * math.sqrt(0.75 * 0.25 / 100)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rates", [(0.0, 0.5), (0.3, 0.0), (0.2, 0.4)])
def test_dropout_is_a_product_with_the_inputs_of_a_layer(shape, rates, kernels, dtype):
    """A step by hand: forward through the products, back through the same."""
    sizes, rows = SHAPES[shape]
    rng = np.random.default_rng(2)
    X, t = rng.normal(size=(rows, sizes[0])), rng.normal(size=(rows, sizes[-1]))
    net = fastbp.MLP(sizes, activation="tanh", seed=9, dtype=dtype, backend=kernels, input_dropout=rates[0],
                     dropout=rates[1])  # fmt: skip
    w1, b1, w2, b2 = (view.astype(float) for view in parameters(net))
    for step in range(3):
        m0, m1 = (order.dropout_scales(net.seed, step, k, rows, sizes[k], rate) if rate else np.ones((rows, sizes[k]))
                  for k, rate in enumerate(rates))  # fmt: skip
        x = X * m0
        h = np.tanh(x @ w1 + b1)
        d = h * m1
        a = d @ w2 + b2
        delta2 = 2 * (a - t) / a.size
        delta1 = delta2 @ w2.T * m1 * (1 - h * h)
        w1, b1 = w1 - 0.1 * x.T @ delta1, b1 - 0.1 * delta1.sum(axis=0)
        w2, b2 = w2 - 0.1 * d.T @ delta2, b2 - 0.1 * delta2.sum(axis=0)
    net.fit(X, t, optimizer=fastbp.SGD(0.1), batch_size=rows, steps=3, shuffle=False)
    for got, wanted in zip(parameters(net), (w1, b1, w2, b2)):
        assert_close(got, wanted, dtype, k=3, scale=1)
    assert_close(net.predict(X), np.tanh(X @ w1 + b1) @ w2 + b2, dtype, k=16, scale=4)


@pytest.mark.parametrize("place", [0, 37, 69])
def test_an_input_whose_word_is_the_bound_itself_is_kept(place, kernels, dtype):
    """With weights of 0 and inputs of 1 a step moves just the weights of what is kept, each as far."""
    words = words_of(9, 0, 0, 0, 70).astype(int)
    for bound in (words[place], words[place] + 1):
        net = fastbp.MLP((70, 1), init="zeros", seed=9, dtype=dtype, backend=kernels, input_dropout=bound / 65536)
        net.fit(np.ones((1, 70)), np.ones((1, 1)), optimizer=fastbp.SGD(0.5), steps=1, loss="half_squared_error")
        assert_close(net.weights[0][:, 0], (words >= bound) * 0.5 / (1 - bound / 65536), dtype)


@pytest.mark.parametrize("seed, step, rows, sizes", [
    (9, LATE, 5, (20, 70, 3)), (9, 2**48 - 1, 1, (20, 70, 9)), (9 + 2**32, 1, 5, (20, 70, 70)),
    (9, 0, 300, (7, 9, 3)), (9, 0, 3, (1100, 600, 5)),
], ids=["late", "last", "seed", "rows", "inputs"])  # fmt: skip
def test_every_bit_of_seed_step_row_and_input_tells_what_is_dropped(seed, step, rows, sizes, kernels, dtype):
    init = [np.ones(sizes[:2]) / sizes[0], np.zeros(sizes[1:])]
    net = fastbp.MLP(sizes, activation="identity", bias=False, init=init, seed=seed, dtype=dtype, backend=kernels,
                     input_dropout=0.25, dropout=0.5)  # fmt: skip
    net._state.count[0] = step
    t = np.random.default_rng(2).normal(size=(rows, sizes[-1]))
    run = {"optimizer": fastbp.SGD(1.0), "loss": "half_squared_error", "batch_size": rows, "steps": 1}
    net.fit(np.ones((rows, sizes[0])), t, shuffle=False, **run)
    kept = [np.array([words_of(seed, step, layer, row, n) >= bound for row in range(rows)])
            for layer, n, bound in ((0, sizes[0], 16384), (1, sizes[1], 32768))]  # fmt: skip
    hidden = kept[1] * kept[0].mean(axis=1, keepdims=True) * 2 / 0.75
    assert_close(net.weights[1], hidden.T @ t / rows, dtype, k=rows + sizes[0], scale=4)
    assert net.step == step + 1


@pytest.mark.parametrize("out", [1, 9, 70])  # transposed, tiles, dot products
def test_what_is_dropped_counts_for_nothing_even_where_it_is_infinite(out, kernels, dtype):
    """Neither the value, which the loss does not see, nor a derivative that is infinite too."""
    seed = next(s for s in range(99) if order.dropout_scales(s, 0, 1, 2, 1, 0.5).ravel().tolist() == [0.0, 2.0])
    nets = [fastbp.MLP((1, 1, out), activation="exp", seed=seed, dtype=dtype, backend=kernels, dropout=0.5,
                       init=[np.ones((1, 1)), np.ones((1, out))]) for _ in range(2)]  # fmt: skip
    for net, x in zip(nets, (1000.0, 0.0)):
        net.fit([[x], [0.5]], np.zeros((2, out)), optimizer=fastbp.SGD(0.01), batch_size=2, steps=1, shuffle=False)
    assert np.isfinite(nets[0].flatten()).all() and nets[0].flatten().tobytes() == nets[1].flatten().tobytes()


def test_dropout_has_the_same_bits_for_a_seed_whatever_the_threads_pieces_and_calls(dtype, monkeypatch):
    need_extension()
    rng = np.random.default_rng(2)
    X, t = rng.normal(size=(64, 40)), rng.normal(size=(64, 7))
    rule = fastbp.SGD(schedules.Cosine(0.1, 20), momentum=0.9)

    def network():
        return fastbp.MLP((40, 65, 7), seed=9, dtype=dtype, backend="cython", input_dropout=0.2, dropout=0.5)

    def bits(net):
        return net.flatten().tobytes()

    whole = network()
    whole.fit(X, t, optimizer=rule, batch_size=16, steps=12)
    monkeypatch.setenv("FASTBP_FORCE_THREADS", "1")
    for threads in (2, 3, 7):
        net = network()
        net.fit(X, t, optimizer=rule, batch_size=16, steps=12, n_threads=threads)
        assert bits(net) == bits(whole)
    monkeypatch.delenv("FASTBP_FORCE_THREADS")
    net = network()
    for n in (1, 4, 7):
        net.fit(X, t, optimizer=rule, batch_size=16, steps=n)
        net = pickle.loads(pickle.dumps(net))
    assert bits(net) == bits(whole)
    net = network()
    for k in range(12):
        rows = order.epoch_order(9, k // 4, 64)[k % 4 * 16 : k % 4 * 16 + 16]
        net.train_step(X[rows], t[rows], optimizer=rule)
    assert bits(net) == bits(whole)
    other = fastbp.MLP((40, 65, 7), seed=8, dtype=dtype, backend="cython", input_dropout=0.2, dropout=0.5,
                       init=list(zip(network().weights, network().biases)))  # fmt: skip
    other.fit(X, t, optimizer=rule, batch_size=16, steps=12)
    assert bits(other) != bits(whole)


@pytest.mark.parametrize("arguments, error, message", [
    ({"dropout": 1.0}, ValueError, r"dropout must be finite and in \[0, 0.999992\)"),
    ({"dropout": 1 - 2**-17}, ValueError, "dropout"),  # rounded to 1: all of them, to be scaled up by 1 / 0
    ({"dropout": np.array("0.5")}, TypeError, "dropout must be a number"),
    ({"input_dropout": 0.999999}, ValueError, "input_dropout"),
    ({"dropout": -0.1}, ValueError, "dropout"),
    ({"dropout": "half"}, TypeError, "dropout must be a number"),
    ({"dropout": [0.1]}, ValueError, "1 given for 2 hidden"),
    ({"dropout": [0.1, 2]}, ValueError, r"dropout\[1\]"),
    ({"input_dropout": float("nan")}, ValueError, "input_dropout"),
    ({"input_dropout": True}, TypeError, "input_dropout"),
])  # fmt: skip
def test_a_rate_that_drops_all_or_is_none_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        fastbp.MLP((3, 4, 4, 1), **arguments)


@pytest.mark.parametrize("out", [2, 9])  # transposed, and not
def test_a_norm_that_overflows_is_no_norm_of_zero(out, kernels, dtype):
    """Weights scaled down to 0 would pass for right ones."""
    net = fastbp.MLP((3, out), init=[np.ones((3, out))], dtype=dtype, backend=kernels, bias=False)
    net.weights[0][:, 1] = np.sqrt(np.finfo(dtype).max)
    net.update(fastbp.SGD(max_norm=1.0))
    assert np.isnan(net.weights[0][:, 1]).all()
    assert_close(net.weights[0][:, 0], np.full(3, 3**-0.5), dtype)


# ------------------------------------------------------------------ schedules


def torch_rates(torch, scheduler, lr, steps, **settings):
    rule = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    peer = getattr(torch.optim.lr_scheduler, scheduler)(rule, **settings)
    rates = []
    for _ in range(steps):
        rates.append(rule.param_groups[0]["lr"])
        rule.step()
        peer.step()
    return rates


def test_schedules_are_those_of_torch(peers):
    for schedule, scheduler, settings, steps in (
        (schedules.Constant(0.3), "LambdaLR", {"lr_lambda": lambda k: 1.0}, 5),
        (schedules.Step(0.3, every=4, factor=0.5), "StepLR", {"step_size": 4, "gamma": 0.5}, 20),
        (schedules.Exponential(0.3, 0.9), "ExponentialLR", {"gamma": 0.9}, 20),
        (schedules.Polynomial(0.3, 10, power=2), "PolynomialLR", {"total_iters": 10, "power": 2}, 20),
        (schedules.Cosine(0.3, 10, end=0.01), "CosineAnnealingLR", {"T_max": 10, "eta_min": 0.01}, 11),
        (schedules.Cosine(0.3, 10, restarts=True), "CosineAnnealingWarmRestarts", {"T_0": 10}, 35),
        (schedules.Cosine(0.3, 5, restarts=True, growth=2), "CosineAnnealingWarmRestarts", {"T_0": 5, "T_mult": 2}, 80),
        (schedules.Piecewise([3, 8], [0.3, 0.03, 0.003]), "MultiStepLR", {"milestones": [3, 8], "gamma": 0.1}, 12),
        (schedules.OneCycle(0.3, 20), "OneCycleLR", {"max_lr": 0.3, "total_steps": 20}, 20),
        (schedules.OneCycle(0.3, 50, rise=0.5, start_divisor=10, end_divisor=100), "OneCycleLR",
         {"max_lr": 0.3, "total_steps": 50, "pct_start": 0.5, "div_factor": 10, "final_div_factor": 100}, 50),
    ):  # fmt: skip
        wanted = torch_rates(peers.torch, scheduler, 0.3, steps, **settings)
        assert_close([schedule(k) for k in range(steps)], wanted, np.float64, k=steps, what=str(schedule))
        assert schedule.at(np.arange(steps, dtype=float)).tolist() == [schedule(k) for k in range(steps)]


def test_schedules_have_their_pinned_values():
    at = {
        schedules.InverseTime(1.0, decay=0.5): {0: 1.0, 2: 0.5, 6: 0.25},
        schedules.InverseTime(1.0, decay=3.0, every=3, power=0.5): {0: 1.0, 3: 0.5, 8: 1 / 3},
        schedules.Exponential(1.0, 0.25, every=2): {0: 1.0, 1: 0.5, 4: 0.0625},
        schedules.Polynomial(1.0, 4, end=0.2, power=2): {0: 1.0, 2: 0.4, 4: 0.2, 9: 0.2},
        schedules.Cosine(1.0, 4, end=0.2, restarts=True): {0: 1.0, 2: 0.6, 4: 1.0, 6: 0.6},
        schedules.Warmup(0.8, 3): {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 50: 0.8},
        schedules.Warmup(schedules.Step(0.8, 2, 0.5), 3, start=0.4): {0: 0.5, 2: 0.7, 3: 0.8, 4: 0.8, 5: 0.4},
        schedules.Sequence([(0.5, 2), (schedules.Exponential(1.0, 0.5), None)]): {0: 0.5, 1: 0.5, 2: 1.0, 4: 0.25},
        schedules.Sequence([(lambda k: k + 1.0, 2), (0.25, 1)]): {0: 1.0, 1: 2.0, 2: 0.25, 9: 0.25},
        schedules.Cosine(1.0, 4): {0: 1.0, 2: 0.5, 4: 0.0, 100: 0.0},
        # what follows is within their steps as torch 2.13.0 has it, by the scheduler named; after them the rate stays
        schedules.Step(0.3, every=4, factor=0.5): {0: 0.3, 3: 0.3, 4: 0.15, 7: 0.15, 8: 0.075, 19: 0.01875},  # StepLR
        schedules.Exponential(0.3, 0.9): {  # ExponentialLR
            0: 0.3, 1: 0.27, 7: 0.14348907000000002, 19: 0.040525551530189774},
        schedules.Polynomial(0.3, 10, power=2): {  # PolynomialLR
            0: 0.3, 1: 0.243, 4: 0.108, 9: 0.003, 10: 0.0, 19: 0.0},
        schedules.Cosine(0.3, 10, end=0.01): {  # CosineAnnealingLR
            0: 0.3, 1: 0.29290319486279726, 4: 0.19980746418436734, 9: 0.017096805137202735, 10: 0.01,
            11: 0.01, 30: 0.01},
        schedules.Cosine(0.3, 10, restarts=True): {  # CosineAnnealingWarmRestarts
            0: 0.3, 1: 0.29265847744427304, 9: 0.00734152255572697, 10: 0.3, 11: 0.29265847744427304,
            34: 0.19635254915624212},
        schedules.Cosine(0.3, 5, restarts=True, growth=2): {  # CosineAnnealingWarmRestarts
            0: 0.3, 1: 0.27135254915624213, 4: 0.0286474508437579, 5: 0.3, 6: 0.29265847744427304,
            14: 0.00734152255572697, 15: 0.3, 34: 0.001846748910729351, 35: 0.3, 74: 0.0004623999400308054, 75: 0.3,
            79: 0.29815325108927065},
        schedules.Piecewise([3, 8], [0.3, 0.03, 0.003]): {  # MultiStepLR
            0: 0.3, 2: 0.3, 3: 0.03, 7: 0.03, 8: 0.003, 11: 0.003},
        schedules.OneCycle(0.3, 20): {  # OneCycleLR
            0: 0.012, 1: 0.039501552810007556, 4: 0.2724984471899924, 5: 0.3, 6: 0.2962392018705262, 12: 0.1500006,
            18: 0.0037619981294737662, 19: 1.2e-06, 20: 1.2e-6, 1000: 1.2e-6},
        schedules.OneCycle(0.3, 50, rise=0.5, start_divisor=10, end_divisor=100): {  # OneCycleLR
            0: 0.03, 1: 0.031154943714535532, 23: 0.29884505628546437, 24: 0.3, 25: 0.2988183879919745,
            40: 0.08634697315897384, 49: 0.0003},
    }  # fmt: skip
    for schedule, values in at.items():
        assert_close([schedule(k) for k in values], list(values.values()), np.float64, what=str(schedule))


@pytest.mark.parametrize("growth", [1.1, 1.5, 2, 3])
def test_a_run_of_a_cosine_begins_with_its_highest_rate_where_it_begins_at_a_whole_step(growth):
    """Which run it is comes from a logarithm, and may not be rounded to the one before."""
    schedule, begin, begun = schedules.Cosine(0.3, 1000, end=0.1, restarts=True, growth=growth), 0.0, []
    for run in range(8):
        if begin == int(begin):
            begun.append(run)
            assert_close(schedule(int(begin)), 0.3, np.float64, what=f"run {run}")
            assert run == 0 or schedule(int(begin) - 1) < 0.11, run
        begin += 1000 * growth**run
    assert len(begun) >= 3


SCHEDULED = [
    schedules.Warmup(schedules.Cosine(0.2, 20, restarts=True), 4),
    lambda step: 0.2 / (1 + step),
    schedules.Piecewise([3, 8], [0.1, 0.2, 0.05]),
]


@pytest.mark.parametrize("sizes, rows", [((3, 5, 2), 8), ((9, 20, 6), 8)], ids=["tiny", "wide"])
@pytest.mark.parametrize("lr", SCHEDULED, ids=["warmup cosine", "callable", "piecewise"])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_run_with_a_schedule_is_steps_with_its_rates(name, lr, sizes, rows, kernels, dtype):
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(rows * 4, sizes[0])), rng.normal(size=(rows * 4, sizes[-1]))
    nets = [fastbp.MLP(sizes, seed=3, dtype=dtype, backend=kernels) for _ in range(3)]
    kind = getattr(fastbp, name)
    nets[0].fit(X, t, optimizer=kind(lr=lr), batch_size=rows, steps=12, shuffle=False)
    for k in range(12):
        batch = slice(k % 4 * rows, k % 4 * rows + rows)
        nets[1].train_step(X[batch], t[batch], optimizer=kind(lr=lr))
        nets[2].train_step(X[batch], t[batch], optimizer=kind(lr=lr(k)))
        assert kind(lr=lr).rate(k) == lr(k)
    assert nets[0].flatten().tobytes() == nets[1].flatten().tobytes() == nets[2].flatten().tobytes()


EPOCHS = [5, 4, 3, 3, 3, 2.9999, 3.1, 3, 3, 2, 2, 2.1, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1]
PLATEAUS = [  # settings; the rate after each of EPOCHS, as torch 2.13.0's ReduceLROnPlateau has it: (rate, times)
    ({"factor": 0.5, "patience": 2}, [(0.3, 5), (0.15, 3), (0.075, 4), (0.0375, 3), (0.02, 11)]),
    ({"factor": 0.5, "patience": 1, "cooldown": 2}, [(0.3, 4), (0.15, 4), (0.075, 4), (0.0375, 4), (0.02, 10)]),
    ({"factor": 0.1, "patience": 1, "cooldown": 3}, [(0.3, 4), (0.03, 7), (0.02, 15)]),
    ({"factor": 0.5, "patience": 0, "threshold": 0.01}, [(0.3, 3), (0.15, 1), (0.075, 1), (0.0375, 1), (0.02, 20)]),
]
NOTHING_SEEN = {"scale": 1.0, "best": math.inf, "bad": 0, "wait": 0}


def after_epochs(rule, losses, step=0):
    """What is remembered after each of `losses`, from the start."""
    return list(itertools.accumulate(losses, lambda seen, loss: rule.after_epoch(seen, loss, step),
                                     initial=NOTHING_SEEN))[1:]  # fmt: skip


@pytest.mark.parametrize("settings, wanted", PLATEAUS)
def test_reduce_on_plateau_has_its_pinned_values(settings, wanted):
    seen = after_epochs(schedules.ReduceOnPlateau(0.3, least=0.02, **settings), EPOCHS)
    rates = [rate for rate, times in wanted for _ in range(times)]
    assert_close([0.3 * each["scale"] for each in seen], rates, np.float64)


@pytest.mark.parametrize("settings", [settings for settings, _ in PLATEAUS])
def test_reduce_on_plateau_is_that_of_torch(settings, peers):
    torch = peers.torch
    rule = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(rule, min_lr=0.02, **settings)
    mine = schedules.ReduceOnPlateau(0.3, least=0.02, **settings)
    for loss, seen in zip(EPOCHS, after_epochs(mine, EPOCHS), strict=True):
        peer.step(loss)
        assert_close(0.3 * seen["scale"], rule.param_groups[0]["lr"], np.float64)


def test_better_is_below_the_best_loss_by_a_part_of_its_size_whatever_its_sign():
    """Log-likelihoods are negative. By torch's rule, best * (1 - threshold), the same loss again would be better."""
    rule = schedules.ReduceOnPlateau(0.3, patience=9, threshold=0.01)
    for means, best in ((-1.0, -1.005, -1.02, -1.025), [-1.0, -1.0, -1.02, -1.02]), ((1.0, 0.995, 0.98), [1, 1, 0.98]):
        seen = after_epochs(rule, means)
        assert [each["best"] for each in seen] == best
        assert [each["bad"] for each in seen] == [int(k > 0 and best[k] == best[k - 1]) for k in range(len(best))]


def test_the_least_rate_of_a_plateau_is_that_of_the_step_at_hand():
    """Its rate may fall by itself: what counts is what it is where the epoch ends."""
    rule = schedules.ReduceOnPlateau(schedules.Exponential(0.1, 0.5), factor=0.1, patience=0, least=0.02)
    for step, rate in ((0, 0.02), (1, 0.02), (2, 0.02), (3, 0.0125)):  # not reduced below it, and not raised to it
        scale = after_epochs(rule, [1.0, 1.0, 1.0], step)[-1]["scale"]
        assert_close(rule(step) * scale, rate, np.float64)


def test_a_loss_that_is_not_finite_is_never_the_best_of_a_plateau():
    rule = schedules.ReduceOnPlateau(0.3, factor=0.5, patience=1)
    seen = after_epochs(rule, (math.nan, math.inf, 3.0, math.nan, 2.0))
    assert seen[-1] == {"scale": 0.5, "best": 2.0, "bad": 0, "wait": 0}


def test_a_plateau_lowers_the_rate_at_epoch_ends_and_goes_on_in_the_next_call(backend):
    """The loss stays 0, and the weight decays by what the rate of each step says."""
    X, t = np.zeros((8, 1)), np.zeros((8, 1))

    def network():
        return fastbp.MLP((1, 1), bias=False, init=[[[1.0]]], dtype=np.float64, backend=backend, seed=1)

    rule = fastbp.SGD(schedules.ReduceOnPlateau(0.5, factor=0.5, patience=1), weight_decay=0.5)
    # epoch 0 is the best; 1 and 2 are not better, so 2 lowers it; so do 4 and 6
    rates = np.repeat([0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125], 2)  # of each step
    whole, pieces, batches = network(), network(), network()
    histories = [whole.fit(X, t, optimizer=rule, batch_size=4, epochs=7),
                 batches.fit([(X[:4], t[:4]), (X[4:], t[4:])], optimizer=rule, epochs=7)]  # fmt: skip
    for epochs in (1, 2, 4):
        pieces.fit(X, t, optimizer=rule, batch_size=4, epochs=epochs)
        pieces = pickle.loads(pickle.dumps(pieces))
    for net in (whole, pieces, batches):
        assert net._state.plateau == {"scale": 0.125, "best": 0.0, "bad": 0, "wait": 0}
        assert_close(net.flatten(), [np.prod(1 - 0.5 * rates)], np.float64, scale=1)
    assert [history.lr.tolist() for history in histories] == [rates[1::2].tolist()] * 2
    assert network().fit(X, t, optimizer=rule, batch_size=4, epochs=7, eval_every=1).lr.tolist() == rates.tolist()
    for optimizer, rate in ((rule, 0.5 * 0.125), (fastbp.SGD(0.5, weight_decay=0.5), 0.5)):  # which knows nothing of it
        before = whole.flatten()
        whole.fit(X, t, optimizer=optimizer, batch_size=8, steps=1)
        assert_close(whole.flatten(), before * (1 - 0.5 * rate), np.float64)


def test_a_step_has_the_rate_that_a_plateau_has_come_to_meanwhile(backend):
    """Also where the step before it was the same call, of which something may be remembered."""
    X, t = np.zeros((8, 1)), np.zeros((8, 1))  # the loss stays 0; weight decay alone moves the weight
    net = fastbp.MLP((1, 1), bias=False, init=[[[1.0]]], dtype=np.float64, backend=backend)
    rule, scale = fastbp.SGD(schedules.ReduceOnPlateau(0.5, factor=0.5, patience=0), weight_decay=0.5), 1.0
    for _ in range(3):
        for _ in range(4):
            before = net.weights[0][0, 0]
            net.train_step(X, t, optimizer=rule, loss="mse")
            assert_close(net.weights[0][0, 0], before * (1 - 0.5 * scale * 0.5), np.float64)
        net.fit(X, t, optimizer=rule, loss="mse", batch_size=8, epochs=2)
        scale = net._state.plateau["scale"]
    assert scale < 0.1


def test_a_run_with_a_schedule_of_optax_has_its_rates(backend, peers):
    optax = peers.optax
    cosine = optax.cosine_decay_schedule(0.1, 10)
    X = np.random.default_rng(1).normal(size=(16, 3))
    for given in (cosine, schedules.Warmup(cosine, 2), schedules.Sequence([(cosine, 3), (0.1, None)])):
        nets = [fastbp.MLP((3, 4, 1), seed=3, backend=backend) for _ in range(2)]
        for net, lr in zip(nets, (given, lambda step, given=given: float(given(step)))):
            net.fit(X, X[:, :1], optimizer=fastbp.SGD(lr), batch_size=4, steps=6)
        assert nets[0].flatten().tobytes() == nets[1].flatten().tobytes()


@pytest.mark.parametrize("rate", [
    lambda step: -1.0, lambda step: None, lambda step: 1 / 0, lambda step: "0.1", lambda step: True,
    lambda step: np.array([0.1]), lambda step: np.array(True), lambda step: 0.1j,
])  # fmt: skip
def test_a_rate_that_is_none_changes_nothing(rate, backend):
    X, t = np.ones((8, 2)), np.eye(2)[np.arange(8) % 2]
    net = fastbp.MLP((2, 3, 2), seed=1, backend=backend)
    net.fit(X, t, optimizer="adam", steps=3)
    before = pickle.dumps(net)
    for optimizer in (fastbp.SGD(rate), fastbp.Adam(rate, average=0.5, accumulate=2)):
        options = {"loss": "softmax_cross_entropy", "optimizer": optimizer}
        for call in (partial(net.fit, seed=5, steps=3, **options), partial(net.train_step, **options)):
            with pytest.raises((ValueError, TypeError, ZeroDivisionError)):
                call(X, t)
            assert pickle.dumps(net) == before


@pytest.mark.parametrize("make, error, message", [
    (lambda: schedules.Step(0.1, every=0), ValueError, "Step: every must be at least 1"),
    (lambda: schedules.Step(-0.1, every=1), ValueError, "Step: lr"),
    (lambda: schedules.Cosine(0.1, steps=2.5), TypeError, "Cosine: steps must be an integer"),
    (lambda: schedules.Cosine(0.1, 5, growth=0), ValueError, "Cosine: growth"),
    (lambda: schedules.OneCycle(0.1, 5, rise=2), ValueError, "OneCycle: rise"),
    (lambda: schedules.Warmup("fast", 5), TypeError, "Warmup: schedule"),
    (lambda: schedules.Piecewise([3], [0.1]), ValueError, "one more than boundaries"),
    (lambda: schedules.Piecewise([3, 3], [1, 2, 3]), ValueError, "boundaries must rise"),
    (lambda: schedules.Sequence([]), ValueError, "at least one"),
    (lambda: schedules.Sequence([(0.1, None), (0.2, 3)]), TypeError, "parts.0. steps"),
    (lambda: schedules.Sequence(5), TypeError, "Sequence: parts must be a sequence, got 5"),
    (lambda: schedules.Piecewise(5, [0.1]), TypeError, "Piecewise: boundaries must be a sequence, got 5"),
    (lambda: schedules.Piecewise([3], np.array(0.1)), TypeError, "Piecewise: rates must be a sequence"),
    (lambda: schedules.ReduceOnPlateau(0.1, factor=1.0), ValueError, "ReduceOnPlateau: factor must be"),
    (lambda: schedules.Warmup(schedules.ReduceOnPlateau(0.1), 5), ValueError, "Warmup: schedule: ReduceOnPlateau"),
    (lambda: schedules.Sequence([(schedules.ReduceOnPlateau(0.1), None)]), ValueError, "parts.0.: ReduceOnPlateau"),
    (lambda: schedules.ReduceOnPlateau(schedules.ReduceOnPlateau(0.1)), ValueError, "ReduceOnPlateau: lr"),
    (lambda: fastbp.SGD(schedules.Constant(float("nan"))), ValueError, "Constant: lr"),
    (lambda: fastbp.SGD("fast"), TypeError, "SGD: lr must be a number"),
    (lambda: fastbp.Adam(betas=(0.9, 1.0)), ValueError, r"Adam: betas\[1\] must be finite and in \[0, 1\)"),
    (lambda: fastbp.Adam(betas=0.9), TypeError, "Adam: betas must be two numbers"),
    (lambda: fastbp.Adam(eps=-1), ValueError, "Adam: eps"), (lambda: fastbp.Adam(amsgrad=1), TypeError, "amsgrad"),
    (lambda: fastbp.RMSprop(alpha=1.5), ValueError, "RMSprop: alpha"),
    (lambda: fastbp.Rprop(etas=(1.0, 1.2)), ValueError, r"Rprop: etas\[0\]"),
    (lambda: fastbp.Rprop(step_sizes=(1, 0.1)), ValueError, r"Rprop: step_sizes\[1\]"),
    (lambda: fastbp.Rprop(schedules.Constant(1.0)), TypeError, "Rprop: lr must be a number"),
    (lambda: fastbp.SGD(l1=-1), ValueError, "SGD: l1"), (lambda: fastbp.SGD(max_norm=0), ValueError, "SGD: max_norm"),
    (lambda: fastbp.SGD(clip_norm=0), ValueError, "SGD: clip_norm must be finite and above 0"),
    (lambda: fastbp.SGD(average=1), ValueError, "SGD: average"),
    (lambda: fastbp.SGD(accumulate=0), ValueError, "accumulate"),
    (lambda: fastbp.SGD(accumulate=2**70), ValueError, "accumulate"),
    (lambda: fastbp.SGD(lr_scale=0.5), TypeError, "SGD: lr_scale must be one factor per layer"),
    (lambda: fastbp.SGD(lr_scale=np.array(1.0)), TypeError, "SGD: lr_scale must be one factor per layer"),
    (lambda: fastbp.SGD(lr_scale=(1, -1)), ValueError, r"SGD: lr_scale\[1\]"),
    (lambda: fastbp.LBFGS(gtol=-1), ValueError, "LBFGS: gtol"),
    (lambda: fastbp.LBFGS(2.5), TypeError, "LBFGS: history"),
])  # fmt: skip
def test_a_value_out_of_its_domain_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_optimizer_that_does_not_suit_the_call_is_refused_and_nothing_changes(backend):
    X, t = np.ones((8, 2)), np.zeros((8, 1))
    net = fastbp.MLP((2, 3, 1), seed=1, backend=backend)
    before = pickle.dumps(net)
    for call, error, message in (
        (lambda: net.fit(X, t, optimizer="rprop", batch_size=4, steps=1), ValueError, "Rprop needs all rows"),
        (
            lambda: net.fit(X, t, optimizer=fastbp.SGD(lr_scale=(1,)), steps=1),
            ValueError,
            "lr_scale holds 1 factors for 2",
        ),
        (lambda: net.train_step(X, t, optimizer="lbfgs"), ValueError, "only `fit`, with X and y, takes it"),
        (lambda: net.update("lbfgs"), ValueError, "only `fit`, with X and y, takes it"),
        (lambda: net.fit(X, t, optimizer="adm", steps=1), ValueError, "did you mean 'adam'"),
        (lambda: net.fit(X, t, optimizer=fastbp.SGD(lambda k: -1.0), steps=1), ValueError, "rate at step 0"),
        (lambda: net.freeze(2), ValueError, "layer must be from -2 to 1"),
        (lambda: net.freeze(0, weight=1), TypeError, "weight must be True or False"),
    ):
        with pytest.raises(error, match=message):
            call()
        assert pickle.dumps(net) == before


def test_rprop_takes_all_rows_at_once(backend):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2))
    net = fastbp.MLP((2, 8, 1), activation="tanh", seed=1, backend=backend)
    y = X[:, :1] * X[:, 1:]
    history = net.fit(X, y, optimizer="rprop", batch_size=30, epochs=100)
    assert history.loss[-1] < history.loss[0] / 10


DEFAULTS = {  # as torch 2.13.0 has them, of Lion optax 0.2.8, which has none for the rate
    "SGD": {"lr": 1e-3, "momentum": 0, "nesterov": False, "weight_decay": 0},
    "Adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False},
    "AdamW": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False},
    "NAdam": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "momentum_decay": 4e-3},
    "RAdam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0},
    "RMSprop": {"lr": 0.01, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0, "momentum": 0, "centered": False},
    "Adagrad": {"lr": 0.01, "lr_decay": 0, "weight_decay": 0, "initial_accumulator_value": 0, "eps": 1e-10},
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0},
    "Lion": {"betas": (0.9, 0.99), "weight_decay": 1e-3},
    "Rprop": {"lr": 0.01, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50)},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_hyper_parameters_have_their_pinned_defaults(name):
    common = {field.name for field in fields(optimizers.Rule)}
    has = {field.name: field.default for field in fields(getattr(fastbp, name)) if field.name not in common}
    assert has == DEFAULTS[name] | ({"lr": 1e-4} if name == "Lion" else {})


@pytest.mark.parametrize("name", SETTINGS)
def test_hyper_parameters_have_the_defaults_of_torch_and_optax(name, peers):
    if name == "Lion":
        lion = inspect.signature(peers.optax.lion).parameters
        has = {"betas": (lion["b1"].default, lion["b2"].default), "weight_decay": lion["weight_decay"].default}
    else:
        peer = inspect.signature(getattr(peers.torch.optim, name)).parameters
        has = {parameter: peer[parameter].default for parameter in DEFAULTS[name]}
    assert has == DEFAULTS[name]


SCHEDULERS = {  # defaults: torch 2.13.0's scheduler, and its names for what is called otherwise here
    "Step": ({"factor": 0.1}, "StepLR", {"factor": "gamma"}),
    "Polynomial": ({"power": 1.0}, "PolynomialLR", {}),
    "Cosine": ({"end": 0.0}, "CosineAnnealingLR", {"end": "eta_min"}),
    "OneCycle": ({"rise": 0.3, "start_divisor": 25.0, "end_divisor": 1e4}, "OneCycleLR",
                 {"rise": "pct_start", "start_divisor": "div_factor", "end_divisor": "final_div_factor"}),
    "ReduceOnPlateau": ({"factor": 0.1, "patience": 10, "threshold": 1e-4, "cooldown": 0, "least": 0},
                        "ReduceLROnPlateau", {"least": "min_lr"}),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedules_have_their_pinned_defaults(name):
    has = {field.name: field.default for field in fields(getattr(schedules, name))}
    assert {setting: has[setting] for setting in SCHEDULERS[name][0]} == SCHEDULERS[name][0]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedules_have_the_defaults_of_torch(name, peers):
    defaults, scheduler, names = SCHEDULERS[name]
    peer = inspect.signature(getattr(peers.torch.optim.lr_scheduler, scheduler)).parameters
    assert {setting: peer[names.get(setting, setting)].default for setting in defaults} == defaults


# ------------------------------------------------------------------ L-BFGS


def test_lbfgs_finds_the_least_squares_solution(backend, dtype):
    pytest.importorskip("scipy")
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    net = fastbp.MLP((4, 2), seed=1, dtype=dtype, backend=backend)
    history = net.fit(X, t, loss="mse", optimizer=fastbp.LBFGS(gtol=1e-9, ftol=0), steps=200)
    solution = np.linalg.lstsq(np.c_[X, np.ones(50)], t, rcond=None)[0]
    assert_close(np.r_[net.weights[0], net.biases[0][None]], solution, np.float32, k=200)
    assert history.n_steps == net.step == net.epoch == len(history.loss) < 200
    assert (np.diff(history.loss) < 0).all() and history.step.tolist() == list(range(1, net.step + 1))


def test_lbfgs_stops_at_the_iterations_given_and_goes_on(backend):
    pytest.importorskip("scipy")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = np.sin(X[:, 0]) * X[:, 1]
    net = fastbp.MLP((3, 10, 1), activation="tanh", seed=1, dtype=np.float64, backend=backend)
    net.freeze(0, weight=True, bias=False)
    kept = net.weights[0].copy()
    first = net.fit(X, y, optimizer="lbfgs", epochs=5, eval_every=2)
    assert net.step == 5 and first.step.tolist() == [2, 4]
    assert net.fit(X, y, optimizer="lbfgs", steps=0).loss.size == 0 and net.step == 5
    second = net.fit(X, y, optimizer="lbfgs", steps=40)
    assert second.loss[-1] < first.loss[-1] and np.array_equal(kept, net.weights[0])
    assert net.evaluate(X, y, loss="mse") <= second.loss[-1]


def test_lbfgs_takes_each_of_its_settings(backend):
    pytest.importorskip("scipy")
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)

    def trained(steps=30, **settings):
        net = fastbp.MLP((3, 6, 1), activation="tanh", seed=1, dtype=np.float64, backend=backend)
        return net.fit(X, y, optimizer=fastbp.LBFGS(**settings), steps=steps).loss

    plain = trained()
    assert len(plain) == 30
    assert len(trained(gtol=1e6)) == 0 and len(trained(ftol=1e6)) == 1  # flat enough; falls too little
    assert len(trained(max_evaluations=4)) < 5
    short, long = trained(history_size=1), trained(history_size=20)
    assert np.array_equal(short[:3], plain[:3]) and not np.isclose(short[5], plain[5], rtol=1e-6)
    assert np.array_equal(long[:11], plain[:11]) and not np.isclose(long[-1], plain[-1], rtol=1e-6)


def test_lbfgs_records_the_loss_before_each_iteration_or_after_each_kth_step(backend):
    pytest.importorskip("scipy")
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    nets = [fastbp.MLP((3, 6, 1), activation="tanh", seed=1, dtype=np.float64, backend=backend) for _ in range(2)]
    after = []
    for net in nets:
        net.fit(X, y, steps=1, batch_size=60)  # net.step counts it
    for _ in range(2):
        whole = nets[0].fit(X, y, optimizer="lbfgs", steps=5)
        some = nets[1].fit(X, y, optimizer="lbfgs", steps=5, eval_every=3)
        after.append(nets[1].evaluate(X, y, loss="mse"))
        assert np.array_equal(whole.step, nets[0].step - np.arange(5)[::-1])
        assert some.step.tolist() == [step for step in whole.step if step % 3 == 0]
        assert_close(some.loss, [[*whole.loss, after[-1]][list(whole.step).index(step) + 1] for step in some.step],
                     np.float64)  # fmt: skip


LBFGS_ENDS = {  # hyper-parameters, steps, and what SciPy's reason holds; None: the steps are done
    "a small gradient": ({"gtol": 1e-3, "ftol": 0.0}, 500, "CONVERGENCE: NORM.*GRADIENT"),
    "little progress": ({"gtol": 0.0, "ftol": 1e-3}, 500, "CONVERGENCE: .*REDUCTION"),
    "evaluations": ({"gtol": 0.0, "ftol": 0.0, "max_evaluations": 5}, 500, "EVALUATIONS"),
    "steps": ({"gtol": 0.0, "ftol": 0.0}, 3, None),
    "no steps": ({}, 0, None),
}


@pytest.mark.parametrize("how", LBFGS_ENDS)
def test_lbfgs_says_why_it_ended(how, backend, monkeypatch):
    scipy = pytest.importorskip("scipy.optimize")
    settings, steps, reason = LBFGS_ENDS[how]
    told, minimize = [], scipy.minimize
    monkeypatch.setattr(scipy, "minimize", lambda *a, **k: told.append(minimize(*a, **k)) or told[-1])
    X, t = np.random.default_rng(1).normal(size=(2, 20, 3))
    net = fastbp.MLP((3, 4, 3), activation="tanh", dtype=np.float64, seed=0, backend=backend)
    history = net.fit(X, t, optimizer=fastbp.LBFGS(**settings), steps=steps)
    if reason is None:
        assert history.stopped is None and net.step == steps
    else:
        assert history.stopped == told[0].message and re.search(reason, history.stopped)
        assert net.step < steps and f"stopped: {history.stopped}" in repr(history)


def test_lbfgs_is_left_with_a_finished_iteration(backend):
    pytest.importorskip("scipy")
    X, t = np.ones((4, 2)), np.zeros((4, 1))
    net = fastbp.MLP((2, 3, 1), seed=1, backend=backend)
    before = net.flatten()
    X[2, 1] = np.nan
    with pytest.raises(fastbp.NonFiniteError, match="before the first iteration"):
        net.fit(X, t, optimizer="lbfgs", steps=3)
    assert net.flatten().tobytes() == before.tobytes() and net.step == 0
    calls = []
    inner = net._loss_and_grad

    def interrupted(*arguments):
        calls.append(net.step)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return inner(*arguments)

    X[2, 1] = 1.0
    net._loss_and_grad = interrupted
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, t, optimizer="lbfgs", steps=30)
    del net._loss_and_grad
    twin = fastbp.MLP((2, 3, 1), seed=1, backend=backend)
    twin.fit(X, t, optimizer="lbfgs", steps=net.step)
    assert twin.flatten().tobytes() == net.flatten().tobytes() and net.step > 0
    with pytest.raises(ValueError, match="dropout"):
        fastbp.MLP((2, 3, 1), dropout=0.5, backend=backend).fit(X, t, optimizer="lbfgs", steps=3)


def test_lbfgs_is_another_family_for_what_comes_before_and_after(backend):
    """Its iterations are no updates of Adam, and gradients that wait for an update wait in vain."""
    X, t = np.random.default_rng(1).normal(size=(2, 9, 3))
    rule, net = fastbp.Adam(accumulate=3), fastbp.MLP((3, 4, 3), seed=0, backend=backend)
    for _ in range(4):
        net.train_step(X, t, optimizer=rule)
    net.fit(X, t, optimizer="lbfgs", steps=1)
    fresh = fastbp.MLP((3, 4, 3), seed=0, backend=backend)
    fresh.unflatten(net.flatten())
    for _ in range(5):
        assert net.train_step(X, t, optimizer=rule) == fresh.train_step(X, t, optimizer=rule)
    assert net.flatten().tobytes() == fresh.flatten().tobytes()


# ------------------------------------------------------------------ the default

EIGHT, TARGETS = np.linspace(-1, 1, 24).reshape(8, 3), np.linspace(0, 1, 16).reshape(8, 2)
TRAINS = {
    "fit": lambda net, **how: net.fit(EIGHT, TARGETS, steps=3, **how),
    "fit of batches": lambda net, **how: net.fit([(EIGHT, TARGETS)], epochs=3, **how),
    "train_step": lambda net, **how: net.train_step(EIGHT, TARGETS, **how),
    "update": lambda net, **how: (net.backward(net.forward(EIGHT)), net.update(**how)),
    "backward_update": lambda net, **how: net.backward_update(net.forward(EIGHT), **how),
}
TELLS = {"explain": lambda net, **how: net.explain(**how), "summary": lambda net, **how: net.summary(**how),
         "trace": lambda net, **how: print(net.trace(EIGHT, TARGETS, **how))}  # fmt: skip


@pytest.mark.parametrize("verb", TRAINS)
def test_every_verb_trains_by_adam_unless_told(verb, backend):
    nets = [fastbp.MLP((3, 5, 2), seed=1, backend=backend) for _ in range(3)]
    for net, how in zip(nets, ({}, {"optimizer": fastbp.Adam()}, {"optimizer": "sgd"})):
        TRAINS[verb](net, **how)
    unless_told, adam, sgd = (net.flatten().tobytes() for net in nets)
    assert unless_told == adam != sgd


@pytest.mark.parametrize("verb", TELLS)
def test_every_verb_tells_of_adam_unless_told(verb, capsys):
    told = []
    for how in ({}, {"optimizer": "adam"}, {"optimizer": "sgd"}):
        TELLS[verb](fastbp.MLP((3, 5, 2), seed=1, backend="reference"), **how)
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] != told[2]


def test_compile_prepares_the_steps_of_adam_unless_told(monkeypatch):
    from fastbp.backends import fastest

    asked = []
    inner = fastest.prepared
    monkeypatch.setattr(fastest, "prepared", lambda net, names, work: asked.append(work) or inner(net, names, work))
    fastbp.MLP((3, 5, 2)).compile("reference")
    assert type(asked[0]["optimizer"]) is fastbp.Adam


# ------------------------------------------------------------------ threads


def test_threads_find_the_numbers_of_steps_at_the_same_time():
    """What one of them holds meanwhile a fork would leave locked in the child, which would wait for ever."""
    inside, go_on, found = threading.Event(), threading.Event(), []

    class Slow:
        def __rfloordiv__(self, batches):
            inside.set()
            go_on.wait(60)
            return batches

    slow, other = (optimizers.Steps(0, 1, 0, 0, every, 0.1, 0.0) for every in (Slow(), 1))
    first = threading.Thread(target=lambda: slow.t, daemon=True)
    second = threading.Thread(target=lambda: found.append(other.t.tolist()), daemon=True)
    first.start()
    assert inside.wait(60)
    second.start()
    second.join(10)
    arrived = list(found)
    go_on.set()
    first.join()
    assert arrived == [[1.0]]


@pytest.mark.parametrize("name", sorted({*optimizers.BY_NAME} - {"lbfgs"}))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scalars_of_one_step_are_made_once_and_are_those_of_several(name, dtype):
    rule, how = optimizers.BY_NAME[name](lr=0.01), dict(updates=6, phase=0, lr_scale=0.5, dtype=np.dtype(dtype))
    one, again, several = (rule.scalars(9, steps, **how) for steps in (1, 1, 3))
    assert [of.tobytes() for of in one] == [of[:1].tobytes() for of in several]
    assert all(a is b and not a.flags.writeable for a, b in zip(one, again, strict=True))
    other = rule.scalars(9, 1, **how | {"lr_scale": 1.0})
    assert [of.tobytes() for of in other] != [of.tobytes() for of in one]


@pytest.mark.parametrize("name, settings", CASES)
@pytest.mark.parametrize("updates, steps", [(0, 1), (3, 5), (100_000, 7)])
def test_scalars_of_rules_that_are_alike_are_those_of_each(name, settings, updates, steps):
    decays = [{"weight_decay": decay} for decay in (0.2, 0.1, 0.3)] if settings.get("weight_decay") else [{}] * 3
    rates = (0.3, 0.017, 1e-3)
    rules = [getattr(fastbp, name)(lr=lr, **{**settings, **decay}) for lr, decay in zip(rates, decays)]
    assert len({rule.likeness for rule in rules}) == 1 and len({rule.row for rule in rules}) == 1
    for dtype in map(np.dtype, (np.float16, np.float32, np.float64)):
        each = optimizers.scalars_of_each(rules, 9, steps, updates=updates, dtype=dtype)
        for rule, made in zip(rules, each, strict=True):
            wanted = rule.scalars(9, steps, updates=updates, dtype=dtype)
            assert [(of.shape, of.tobytes()) for of in made] == [(of.shape, of.tobytes()) for of in wanted]
            if steps > 1:  # a constant is stored once
                assert [of.strides[0] for of in made] == [of.strides[0] for of in wanted]


@pytest.mark.parametrize("name, settings", CASES)
@pytest.mark.parametrize("updates", [0, 100, 250, 37_390, 50_000, 10**6])
def test_scalars_of_several_steps_are_those_of_each(name, settings, updates):
    """However long the calls are: they end when the clock says so. 0.999^t is nothing beside 1 from t = 37,412 on."""
    rule, dtype = getattr(fastbp, name)(**settings), np.dtype(np.float32)
    each = [rule.scalars(9 + k, 1, updates=updates + k, dtype=dtype) for k in range(40)]
    for steps in (2, 20, 40):
        several = rule.scalars(9, steps, updates=updates, dtype=dtype)
        assert {of.shape for of in several} == {(steps,)}
        assert [of.tobytes() for of in several] == [np.concatenate(of).tobytes() for of in zip(*each[:steps])]


def test_radam_goes_on_at_the_end_of_its_corrections(backend):
    rule, run = fastbp.RAdam(0.01, betas=(0.5, 0.7)), {"dtype": np.float64, "backend": backend}
    net, other = (fastbp.MLP((1, 1), init=[([[1.0]], [0.0])], **run) for _ in range(2))
    for _ in range(2):
        net.fit([[1.0]], [[0.0]], steps=150, optimizer=rule)
    for _ in range(300):
        other.train_step([[1.0]], [[0.0]], optimizer=rule)
    assert net.flatten().tobytes() == other.flatten().tobytes()


def test_rules_that_are_not_alike():
    class Mine(optimizers.Adam):
        pass

    falling = schedules.Cosine(0.1, 9)
    rules = [
        fastbp.Adam(0.1), fastbp.AdamW(0.1), fastbp.Adam(0.1, betas=(0.8, 0.9)), fastbp.Adam(0.1, amsgrad=True),
        fastbp.Adam(0.1, weight_decay=0.1), fastbp.Adam(falling), fastbp.Adam(lambda step: 0.1), Mine(0.1), Mine(0.2),
        fastbp.Adam(0.1, l1=0.1), fastbp.Adam(0.1, accumulate=2), fastbp.Adam(0.1, lr_scale=(1, 2)), fastbp.SGD(0.1),
        fastbp.SGD(0.1, weight_decay=0.1), fastbp.SGD(0.1, momentum=0.1),
    ]  # fmt: skip
    assert len({rule.likeness for rule in rules}) == len(rules)
    assert fastbp.Adam(0.2).likeness == rules[0].likeness
    assert fastbp.Adam(0.3, weight_decay=9.0).likeness == rules[4].likeness


def test_a_class_of_a_users_own_is_asked_for_each_step():
    class Mine(optimizers.SGD):
        asked = 0

        def _values(self, at):
            type(self).asked += 1
            return super()._values(at)

    rule = Mine(lr=0.1)
    for _ in range(2):
        rule.scalars(0, 1, dtype=np.dtype(np.float32))
    assert Mine.asked == 2
