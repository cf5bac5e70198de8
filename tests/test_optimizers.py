"""Optimizers: each row against torch or optax step by step, what is done around a rule, schedules, dropout, L-BFGS."""

import contextlib
import inspect
import math
import pickle
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
from conftest import need_extension
from tolerance import assert_close

import fastbp
from fastbp import optimizers, order, schedules
from fastbp.backends.plan import make_plan


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
RATES = (0.1, 0.1, 0.03, 0.0, 0.2, 0.2, 0.1, 0.1)


def test_every_optimizer_and_every_row_of_the_table_is_in_the_cases():
    kinds = [kind for kind in optimizers.BY_NAME.values() if kind is not optimizers.LBFGS]
    assert {kind.__name__ for kind in kinds} == set(SETTINGS)
    rows = {getattr(fastbp, name)(**s).row.name for name, all_of in SETTINGS.items() for s in all_of}
    # the others are in tests/test_rows.py and below
    assert rows >= set(optimizers.TABLE) - {"sgd_decay", "sgd_momentum", "sgd_clipped"}


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


def optax_lion(parameters, lr, betas=(0.9, 0.99), weight_decay=1e-3):
    optax = pytest.importorskip("optax")
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    rule = optax.lion(1.0, *betas, weight_decay=weight_decay)
    state = [rule.init(p) for p in parameters]

    def step(values, gradients, lr):
        out = []
        for k, (p, g) in enumerate(zip(values, gradients)):
            update, state[k] = rule.update(np.asarray(g, float), state[k], p)
            out.append(p + lr * np.asarray(update))
        return out

    return step


def torch_rule(name, values, settings, cleanup):
    torch = pytest.importorskip("torch")
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
def test_an_optimizer_agrees_with_its_peer_step_by_step(name, settings, kernels, dtype, cleanup):
    """torch, in float64; optax for Lion."""
    net = fastbp.MLP((5, WIDTH), dtype=dtype, seed=1, backend=kernels)
    net.biases[0][...] = np.random.default_rng(3).normal(size=WIDTH)
    values = [view.astype(float) for view in parameters(net)]
    step = optax_lion(values, RATES[0], **settings) if name == "Lion" else torch_rule(name, values, settings, cleanup)
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
    # A step of Adam's kin is a quotient: where g is small beside its roundings, so is what both agree on.
    scale = 1 if name in ("SGD", "Adagrad") else 30
    for net in nets[1:]:
        assert np.median(abs(net - nets[0])) <= 1e3 * np.finfo(dtype).eps
        assert_close(net, nets[0], dtype, k=6 * 40, scale=scale * max(abs(nets[0]).max(), 1))
    assert_close(nets[1], nets[2], dtype, k=6 * 40, scale=scale)


WALK_START, WALK = (1.0, -2.0, 0.5), [np.array([0.5, -1.0, 2.0]) * factor for factor in (1, -0.5, 0.25, 1)]
PINNED = {  # parameters after WALK, as torch 2.13 and optax 0.2.8 have them
    ("SGD", 0): (0.9125, -1.825, 0.15000000000000002),
    ("SGD", 1): (0.642253904626, -1.284507809252, -0.5178267135695002),
    ("Adam", 0): (0.7800831074467593, -1.7800831048158128, 0.2800831035003394),
    ("Adam", 1): (0.7290029522641646, -1.726518485683443, 0.2733817918367079),
    ("Adam", 2): (0.7800831074467593, -1.7800831048158128, 0.2800831035003394),
    ("Adam", 3): (0.8015920128193116, -1.8013608559882424, 0.30124507089038205),
    ("AdamW", 0): (0.7764760872284375, -1.7724820806026764, 0.27847308528779574),
    ("AdamW", 1): (0.6767039565504074, -1.5619967640421468, 0.23405754778801685),
    ("AdamW", 2): (0.7570288433561707, -1.7176248508821836, 0.27673083464519005),
    ("NAdam", 0): (0.8235168632338854, -1.8235168611715113, 0.32351686014032494),
    ("NAdam", 1): (0.7877980809889692, -1.7856655378852815, 0.3201578717139448),
    ("NAdam", 2): (0.7864185181721913, -1.786160968243662, 0.2860319486014905),
    ("RAdam", 0): (0.9056979899546014, -1.8113959799092028, 0.12279195981840595),
    ("RAdam", 1): (0.8671538580089432, -1.7343077160178864, 0.10748851650306193),
    ("RAdam", 2): (0.9128571428571428, -1.8257142857142856, 0.1514285714285714),
    ("RMSprop", 0): (-0.4337640482101842, -0.5662358288204892, -0.9337642326641823),
    ("RMSprop", 1): (-1.0820560708037172, 0.08205626072025933, -1.5820563556785434),
    ("RMSprop", 2): (-0.4818996706156047, -0.3698689732741487, -0.910689859781125),
    ("RMSprop", 3): (0.2464911544372347, -1.244911592379227, -0.25588065371502877),
    ("Adagrad", 0): (0.8571399756287118, -1.8571399756164826, 0.35713997561036814),
    ("Adagrad", 1): (0.9246470743993714, -1.9044769063246618, 0.3960102840210638),
    ("Adagrad", 2): (0.826230094306474, -1.8244696237022842, 0.3531562234907605),
    ("Adadelta", 0): (0.9994343061731117, -1.9994342970257406, 0.4994342947388277),
    ("Adadelta", 1): (0.9886597613088991, -1.9886127691509419, 0.4907490149837283),
    ("Lion", 0): (0.7996200579961001, -1.7992201179921004, 0.2998200279981001),
    ("Lion", 1): (0.7625761100000001, -1.7231721199999999, 0.282278105),
    ("Lion", 2): (0.8, -1.7999999999999998, 0.30000000000000004),
    ("Rprop", 0): (0.79, -1.7899999999999998, 0.29000000000000004),
    ("Rprop", 1): (0.9125, -1.9125, 0.4125),
}


@pytest.mark.parametrize("name, k", PINNED)
def test_an_optimizer_has_its_pinned_values(name, k, kernels, dtype):
    net = fastbp.MLP((1, 3), bias=False, init=[[WALK_START]], dtype=dtype, backend=kernels)
    for gradient in WALK:
        net.grad_weights[0][0] = gradient
        net.update(getattr(fastbp, name)(lr=0.1, **SETTINGS[name][k]))
    assert_close(net.weights[0][0], PINNED[name, k], dtype, k=16)


def test_every_setting_is_pinned():
    assert set(PINNED) == {(name, k) for name, all_of in SETTINGS.items() for k in range(len(all_of))}


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


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adadelta", "Adagrad", "NAdam", "RAdam"])
def test_an_eps_of_0_lets_nothing_of_the_padding_through(name, isa, dtype):
    """0 / 0 in padding is NaN. The reference has no padding: its `params` are written where they are real."""
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(12, 5)), rng.normal(size=(12, 3))
    nets = [fastbp.MLP((5, 21, 3), activation="tanh", dtype=dtype, seed=1, backend=b) for b in ("cython", "reference")]
    for net in nets:
        net.fit(X, t, optimizer=getattr(fastbp, name)(eps=0.0), batch_size=12, epochs=8)
    assert np.isnan(nets[0].params).any(), "no NaN in padding: this shows nothing"
    for got, wanted in zip(parameters(nets[0]), parameters(nets[1])):
        assert_close(got, wanted, dtype, k=600, scale=30)
    assert_close(nets[0].predict(X), nets[1].predict(X), dtype, k=600, scale=100)
    assert np.isfinite(nets[0].loss_and_grad(X, t, loss="mse")[1]).all()


# ------------------------------------------------------------------ what is done around a rule


class Plain:
    """A layer's parameters as float64 arrays, and the order of `fastbp.optimizers.Rule` in plain NumPy."""

    def __init__(self, net, settings):
        self.values = [view.astype(float) for view in parameters(net)]
        self.settings = settings
        self.average = [v.copy() for v in self.values]

    def update(self, batches, lr):
        s = self.settings
        gradients = [np.mean(of_batches, axis=0) for of_batches in zip(*batches)]
        if "clip_norm" in s:
            norm = math.sqrt(sum((g**2).sum() for g in gradients))
            gradients = [g * min(1, s["clip_norm"] / (norm + 1e-6)) for g in gradients]
        for k, g in enumerate(gradients):
            layer, bias = divmod(k, 2)
            decay = s.get("decay_scale", (1, 1))[layer] * (s.get("bias_decay_scale", 1) if bias else 1)
            rate = lr * s.get("lr_scale", (1, 1))[layer] * (s.get("bias_lr_scale", 1) if bias else 1)
            clip, p = s.get("clip_value", np.inf), self.values[k]
            g = np.clip(g, -clip, clip) + s.get("l1", 0) * decay * np.sign(p)
            p = p - rate * (g + s.get("weight_decay", 0) * decay * p)
            if "max_norm" in s and not bias:
                norm = np.sqrt((p**2).sum(axis=0))
                p = p * np.where(norm > s["max_norm"], s["max_norm"] / norm, 1)
            self.values[k] = p
            keep = s.get("average", 0)
            self.average[k] = keep * self.average[k] + (1 - keep) * p


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
}  # fmt: skip
SHAPES = {"direct": ((19, 33, 21), 30), "narrow": ((9, 20, 3), 30), "few": ((20, 70, 70), 3),
          "single": ((20, 70, 9), 1),
          "tiny sizes": ((3, 5, 2), 8)}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("around", AROUND)
def test_what_is_done_around_a_rule_is_done_in_order(around, shape, kernels, dtype):
    (sizes, rows), settings = SHAPES[shape], AROUND[around]
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(6 * rows, sizes[0])), rng.normal(size=(6 * rows, sizes[-1]))
    rule = fastbp.SGD(0.1, **settings)
    init = [(rng.normal(size=s) / 3, rng.normal(size=s[1]) / 3) for s in zip(sizes, sizes[1:])]
    net = fastbp.MLP(sizes, activation="tanh", init=init, seed=1, dtype=dtype, backend=kernels)
    twin = fastbp.MLP(sizes, activation="tanh", init=init, dtype=np.float64, backend="reference")
    plain, every = Plain(net, settings), settings.get("accumulate", 1)
    net.fit(X, t, optimizer=rule, batch_size=rows, steps=6, shuffle=False)
    for update in range(6 // every):
        for view, value in zip(parameters(twin), plain.values):
            view[...] = value
        batches = []
        for k in range(update * every, (update + 1) * every):
            twin.loss_and_grad(X[:1], t[:1], loss="mse")
            batch = slice(k * rows, (k + 1) * rows)
            a = twin.forward(X[batch])
            twin.backward(2 * (a - t[batch]) / a.size)
            batches.append([view.copy() for pair in zip(twin.grad_weights, twin.grad_biases) for view in pair])
        plain.update(batches, 0.1)
    for got, wanted in zip(parameters(net), plain.values):
        assert_close(got, wanted, dtype, k=6 * (rows + sum(sizes)), scale=1)
    if "average" in settings:
        for got, wanted in zip(parameters(net.averaged()), plain.average):
            assert_close(got, wanted, dtype, k=6 * (rows + sum(sizes)), scale=1)


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
        assert_close(net.flatten(), nets[0].flatten(), dtype, k=300, scale=1)
        assert_close(net.averaged().flatten(), nets[0].averaged().flatten(), dtype, k=300, scale=1)


def test_clipping_by_norm_is_that_of_torch(backend, dtype):
    torch = pytest.importorskip("torch")
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
            assert_close(view, tensor.detach().numpy() - 0.5 * tensor.grad.numpy(), dtype, k=200)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("SGD", {}),
        ("SGD", {"momentum": 0.9}),
        ("AdamW", {}),
        ("Rprop", {}),
        ("SGD", {"clip_norm": 0.5}),
        ("SGD", {"average": 0.9, "max_norm": 0.5}),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_frozen_stays_bit_by_bit_and_the_rest_trains(name, settings, shape, kernels, dtype):
    sizes, rows = SHAPES[shape]
    rng = np.random.default_rng(1)
    X, t = rng.normal(size=(rows, sizes[0])), rng.normal(size=(rows, sizes[-1]))
    rule = getattr(fastbp, name)(**settings)
    for frozen in ([(0, True, False)], [(0, True, True)], [(1, True, False)], [(0, False, True), (1, True, True)]):
        net = fastbp.MLP(sizes, activation="tanh", seed=1, dtype=dtype, backend=kernels)
        for layer, weight, bias in frozen:
            net.freeze(layer, weight=weight, bias=bias)
        before = [view.copy() for view in parameters(net)]
        net.fit(X, t, optimizer=rule, batch_size=rows, steps=4)
        still = [a.tobytes() == b.tobytes() for a, b in zip(parameters(net), before)]
        assert still == [flag for pair in net.frozen for flag in pair], frozen
        copied = pickle.loads(pickle.dumps(net))
        assert copied.frozen == net.frozen
        for layer, _, _ in frozen:
            net.freeze(layer, weight=False, bias=False)
        net.fit(X, t, optimizer=rule, batch_size=rows, steps=4)
        assert all(a.tobytes() != b.tobytes() for a, b in zip(parameters(net), before))


def test_frozen_parameters_do_not_count_in_the_norm(backend):
    net = fastbp.MLP((2, 1), init=[([[3.0], [4.0]], [1.0])], dtype=np.float64, backend=backend)
    net.grad_weights[0][...], net.grad_biases[0][...] = 1e6, 3.0
    net.freeze(0, weight=True, bias=False)
    net.update(fastbp.SGD(1.0, clip_norm=2.0))
    assert net.biases[0][0] == pytest.approx(1 - 2, abs=1e-5) and net.weights[0][0, 0] == 3.0


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
    assert_close(net.flatten(), fresh.flatten(), np.dtype(float), k=100)


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
                net._train_step_again = None
            net.train_step(X, t, optimizer=rule)
            assert net._train_step_again is not None
            if k in (3, 300):
                net.fit(X, t, optimizer=replace(rule, accumulate=3), batch_size=4, steps=7, shuffle=False)
            if k == 8:
                net.fit(X, t, optimizer=rule, batch_size=4, steps=5, shuffle=False)
    assert nets[0].flatten().tobytes() == nets[1].flatten().tobytes()


# ------------------------------------------------------------------ dropout


PHILOX = [  # key, counter, words: the known answers of Salmon et al.'s Random123, philox4x32-10
    (0, [0] * 4, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (2**64 - 1, [2**32 - 1] * 4, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (0x299F31D0A4093822, [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
     [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]  # fmt: skip


@pytest.mark.parametrize("key, counter, words", PHILOX)
def test_dropout_words_are_those_of_philox(key, counter, words):
    assert [int(word) for word in order.philox4x32(key, counter)] == words


def test_dropout_scales_by_what_is_kept():
    scales = order.dropout_scales(7, 5, 2, 3, 100, 0.25)
    assert scales.shape == (3, 100) and set(scales.ravel().tolist()) == {0.0, 1 / 0.75}
    blocks = np.array([[order.philox4x32(7, [c, 1, 5, 2 << 16])[w] for w in (2, 3)] for c in range(8, 16)])
    words = blocks.astype("<u4").view("<u2").ravel()  # of row 1, from input 96 on
    assert np.array_equal(scales[1, 96:] > 0, words[:4] >= 16384)
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
        assert_close(got, wanted, dtype, k=3 * (rows + sum(sizes)), scale=1)
    assert_close(net.predict(X), np.tanh(X @ w1 + b1) @ w2 + b2, dtype, k=3 * (rows + sum(sizes)), scale=4)


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
    assert_close(net.weights[0][:, 0], np.full(3, 3**-0.5), dtype, k=3)


# ------------------------------------------------------------------ schedules


def torch_rates(scheduler, lr, steps, **settings):
    torch = pytest.importorskip("torch")
    rule = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    peer = getattr(torch.optim.lr_scheduler, scheduler)(rule, **settings)
    rates = []
    for _ in range(steps):
        rates.append(rule.param_groups[0]["lr"])
        rule.step()
        peer.step()
    return rates


def test_schedules_are_those_of_torch():
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
        wanted = torch_rates(scheduler, 0.3, steps, **settings)
        assert [schedule(k) for k in range(steps)] == pytest.approx(wanted, rel=1e-9, abs=1e-12), schedule
        assert schedule.at(np.arange(steps, dtype=float)).tolist() == [schedule(k) for k in range(steps)]


def test_schedules_have_their_pinned_values():
    at = {
        schedules.InverseTime(1.0, decay=0.5): {0: 1.0, 2: 0.5, 6: 0.25},
        schedules.InverseTime(1.0, decay=3.0, every=3, power=0.5): {0: 1.0, 3: 0.5, 8: 1 / 3},
        schedules.Exponential(1.0, 0.25, every=2): {0: 1.0, 1: 0.5, 4: 0.0625},
        schedules.Warmup(0.8, 3): {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 50: 0.8},
        schedules.Warmup(schedules.Step(0.8, 2, 0.5), 3, start=0.4): {0: 0.5, 2: 0.7, 3: 0.8, 4: 0.8, 5: 0.4},
        schedules.Sequence([(0.5, 2), (schedules.Exponential(1.0, 0.5), None)]): {0: 0.5, 1: 0.5, 2: 1.0, 4: 0.25},
        schedules.Sequence([(lambda k: k + 1.0, 2), (0.25, 1)]): {0: 1.0, 1: 2.0, 2: 0.25, 9: 0.25},
        schedules.Cosine(1.0, 4): {0: 1.0, 2: 0.5, 4: 0.0, 100: 0.0},
    }
    for schedule, values in at.items():
        assert {k: schedule(k) for k in values} == pytest.approx(values, abs=1e-12), schedule


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


def test_reduce_on_plateau_is_that_of_torch():
    torch = pytest.importorskip("torch")
    losses = [5, 4, 3, 3, 3, 2.9999, 3.1, 3, 3, 2, 2, 2.1, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    for settings in ({"factor": 0.5, "patience": 2}, {"factor": 0.1, "patience": 1, "cooldown": 3},
                     {"factor": 0.5, "patience": 0, "threshold": 0.01}):  # fmt: skip
        rule = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
        peer = torch.optim.lr_scheduler.ReduceLROnPlateau(rule, min_lr=0.02, **settings)
        mine, seen = schedules.ReduceOnPlateau(0.3, least=0.02, **settings), {
            "scale": 1.0, "best": math.inf, "bad": 0, "wait": 0}  # fmt: skip
        for loss in losses:
            peer.step(loss)
            seen = mine.after_epoch(seen, loss, 0)
            assert 0.3 * seen["scale"] == pytest.approx(rule.param_groups[0]["lr"])


def test_a_loss_that_is_not_finite_is_never_the_best_of_a_plateau():
    rule, seen = schedules.ReduceOnPlateau(0.3, factor=0.5, patience=1), {
        "scale": 1.0, "best": math.inf, "bad": 0, "wait": 0}  # fmt: skip
    for loss in (math.nan, math.inf, 3.0, math.nan, 2.0):
        seen = rule.after_epoch(seen, loss, 0)
    assert seen == {"scale": 0.5, "best": 2.0, "bad": 0, "wait": 0}


def test_a_plateau_lowers_the_rate_at_epoch_ends_and_goes_on_in_the_next_call(backend):
    X, t = np.ones((8, 1)), np.zeros((8, 1))

    def network():
        net = fastbp.MLP((1, 1), bias=False, init=[[[1.0]]], dtype=np.float64, backend=backend, seed=1)
        net.freeze(0)  # the loss stays 1
        return net

    rule = fastbp.SGD(schedules.ReduceOnPlateau(0.5, factor=0.5, patience=1))
    whole, pieces = network(), network()
    whole.fit(X, t, optimizer=rule, batch_size=4, epochs=7)
    for epochs in (1, 2, 4):
        pieces.fit(X, t, optimizer=rule, batch_size=4, epochs=epochs)
        pieces = pickle.loads(pickle.dumps(pieces))
    # epoch 0 is the best; 1 and 2 are not better, so 2 lowers it; so do 4 and 6
    assert whole._state.plateau == pieces._state.plateau == {"scale": 0.125, "best": 1.0, "bad": 0, "wait": 0}
    whole.freeze(0, weight=False)
    before = whole.weights[0][0, 0]
    whole.fit(X, t, optimizer=rule, batch_size=8, steps=1, loss="half_squared_error")
    assert whole.weights[0][0, 0] == before - 0.5 * 0.125 * before
    before = whole.weights[0][0, 0]  # another rate knows nothing of it
    whole.fit(X, t, optimizer=fastbp.SGD(0.5), batch_size=8, steps=1, loss="half_squared_error")
    assert whole.weights[0][0, 0] == before - 0.5 * before


def test_a_run_with_a_schedule_of_optax_has_its_rates(backend):
    optax = pytest.importorskip("optax")
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


def test_hyper_parameters_have_the_defaults_of_torch_and_optax():
    torch = pytest.importorskip("torch")
    for name in SETTINGS:
        if name == "Lion":
            continue
        peer = inspect.signature(getattr(torch.optim, name)).parameters
        for parameter in inspect.signature(getattr(fastbp, name)).parameters.values():
            if parameter.name in peer:
                assert parameter.default == peer[parameter.name].default, (name, parameter.name)
    optax = pytest.importorskip("optax")
    lion = inspect.signature(optax.lion).parameters
    assert fastbp.Lion().betas == (lion["b1"].default, lion["b2"].default)
    assert fastbp.Lion().weight_decay == lion["weight_decay"].default


# ------------------------------------------------------------------ L-BFGS


def test_lbfgs_finds_the_least_squares_solution(backend, dtype):
    pytest.importorskip("scipy")
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    net = fastbp.MLP((4, 2), seed=1, dtype=dtype, backend=backend)
    history = net.fit(X, t, loss="mse", optimizer=fastbp.LBFGS(gtol=1e-9, ftol=0), steps=200)
    solution = np.linalg.lstsq(np.c_[X, np.ones(50)], t, rcond=None)[0]
    assert_close(np.r_[net.weights[0], net.biases[0][None]], solution, np.float32, k=50)
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
    assert first.loss[-1] == pytest.approx(net.fit(X, y, optimizer="lbfgs", steps=0).loss.sum() + first.loss[-1])
    second = net.fit(X, y, optimizer="lbfgs", steps=40)
    assert second.loss[-1] < first.loss[-1] and np.array_equal(kept, net.weights[0])
    assert net.evaluate(X, y, loss="mse") <= second.loss[-1]


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
