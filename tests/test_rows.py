"""The tables: what a row may say, that the rendered files are fresh, and each row's values from outside."""

import ast
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import need_extension
from tolerance import assert_close

import fastbp
from fastbp import activations, backends, losses, optimizers, rows

ROOT = Path(__file__).parents[1]
# Two vectors of the widest ISA and a tail.
WIDTH = 37


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch


# ------------------------------------------------------------------ the vocabulary


@pytest.mark.parametrize(
    "expression",
    [
        "z ** 2", "z % 2", "z // 2", "z @ z", "z << 1", "z | z", "~z", "+z", "not z",
        "z == 0", "z != 0", "z is z", "z in z", "0 < z < 1", "z < 0 < a", "z < 0 and z > 1", "z if z > 0 else 0",
        "w", "R(1)", "EXP", "exp(z)", "np.exp(z)", "z.real", "z[0]", "(z, z)", "[z]", "{z}", "{z: z}", "f'{z}'",
        "[z for z in z]", "(z for _ in z)", "{q: q for q in z}", "lambda z: z", "(q := z)", "EXP(*z)", "EXP(x=z)",
        "EXP()", "EXP(z, z)", "MAX(z)", "MAX(z, z, z)", "WHERE(z > 0, z)", "WHERE(z > 0, z, 0, 0)", "TANH(z, z)",
        "'z'", "b'z'", "True", "None", "...", "1j * z", "await z", "yield z", "z; z", "z = z", "", "z +", "import os",
        "__import__('os')", "EXP(z)(z)", "(EXP)(z).x",
    ],
)  # fmt: skip
def test_what_is_not_in_the_vocabulary_is_refused(expression):
    with pytest.raises(ValueError, match="expression"):
        rows.render(expression, ["z", "a"])


@pytest.mark.parametrize(
    "row",
    [
        rows.Activation("bad", "t", "g"),
        rows.Activation("bad", "z", "g * t"),
        rows.Loss("bad", "lse - z", "z", "sum"),
        rows.Optimizer("bad", "bad", (), ("lr",), (("p", "p - lr * velocity"),)),
    ],
    ids=["forward", "backward", "loss", "optimizer"],
)
def test_a_row_knows_only_its_own_names(row):
    texts = {"Activation": ("forward_text", "backward_text"), "Loss": ("value_text",), "Optimizer": ("update_text",)}
    with pytest.raises(ValueError, match="unknown name"):
        for text in texts[type(row).__name__]:
            getattr(row, text)


@pytest.mark.parametrize(
    "expression, text",
    [
        ("2 * z", "R(2.0) * z"),
        ("-1 - z / 0.5", "-R(1.0) - z / R(0.5)"),
        ("MAX(z, 0)", "MAX(z, R(0.0))"),
        ("WHERE(z < 1, EXP(-ABS(z)), 1e-3)", "WHERE(z < R(1.0), EXP(-ABS(z)), R(0.001))"),
        ("a - (z - 1)", "a - (z - R(1.0))"),
        ("(a + z) * 3", "(a + z) * R(3.0)"),
    ],
)
def test_rendering_wraps_numbers_and_keeps_the_meaning(expression, text):
    assert rows.render(expression, ["a", "z"])[0] == text


def test_rendering_tells_the_names_used():
    assert rows.render("g * (1 - a * a)", ["g", "a", "z"])[1] == {"g", "a"}


def test_z_is_kept_only_where_the_derivative_names_it():
    keeping = {row.name for row in activations.TABLE.values() if row.keeps_z}
    assert keeping == {"gelu", "silu"}


def test_rendered_header_is_fresh():
    text = rows.render_cpp(activations.TABLE.values(), losses.TABLE.values(), optimizers.TABLE.values())
    header = (ROOT / "src/kernels/rows_generated.hpp").read_bytes()
    assert header == text.encode(), "run `make rows`"


def test_the_digest_tells_tables_apart_and_passes_over_pinned_values():
    relu, tanh, sgd = activations.TABLE["relu"], activations.TABLE["tanh"], optimizers.TABLE["sgd"]
    one = rows.digest([relu, tanh], [sgd])
    assert one == rows.digest(iter([relu, replace(tanh, pinned=())]), (sgd,))
    others = [[relu, tanh]], [[tanh, relu], [sgd]], [[relu], [tanh, sgd]], [[relu, replace(tanh, backward="g")], [sgd]]
    assert one not in {rows.digest(*tables) for tables in others}
    with_slot = replace(sgd, state=("velocity",))
    assert one != rows.digest([relu, tanh], [with_slot])


@pytest.mark.parametrize("stale", [0, None], ids=["from other tables", "from before digests"])
def test_a_compiled_module_of_other_tables_is_refused(monkeypatch, stale):
    need_extension()
    monkeypatch.delitem(sys.modules, "fastbp.backends.compiled", raising=False)
    engine = backends.engine()
    monkeypatch.delattr(engine, "ROWS") if stale is None else monkeypatch.setattr(engine, "ROWS", stale)
    net = fastbp.MLP((2, 1), seed=0)
    for _ in range(2):
        with pytest.raises(ImportError, match="other tables.*build fastbp again"):
            net.predict([[1.0, 2.0]])
    with fastbp.backend("reference"):
        net.predict([[1.0, 2.0]])


def test_the_tables_hold_what_is_promised():
    assert set(activations.TABLE) >= {
        "identity", "relu", "tanh", "sigmoid", "leaky_relu", "softplus", "gelu", "silu", "elu"
    }  # fmt: skip
    assert activations.ALIASES["logistic"] == "sigmoid"
    assert set(losses.TABLE) >= {"mse", "half_squared_error", "softmax_cross_entropy", "binary_cross_entropy"}
    for row in (*activations.TABLE.values(), *losses.TABLE.values()):
        assert row.pinned, f"{row.name} has no value from outside"
    for row in activations.TABLE.values():
        signs = {np.sign(z) for z, _, _ in row.pinned}
        assert signs >= {-1, 1}, f"{row.name} is pinned on one side only"


# ------------------------------------------------------------------ activations


def roundings(*expressions):
    """Operations in the expressions of a row: each may round."""
    nodes = (node for text in expressions for node in ast.walk(ast.parse(text)))
    return max(1, sum(isinstance(node, (ast.BinOp, ast.Call)) for node in nodes))


def through(activation, z, backend, dtype):
    """a and da/dz of a row of `z`, through a layer whose weight is the identity."""
    net = fastbp.MLP(
        (len(z), len(z)), output_activation=activation, bias=False, dtype=dtype, init=[np.eye(len(z))], backend=backend
    )
    a = net.forward(np.array([z]))
    slope = net.backward(np.ones_like(a))
    return a[0].astype(float), slope[0].astype(float)


@pytest.mark.parametrize("name", activations.TABLE)
def test_activation_has_its_pinned_values(name, kernels, dtype):
    pinned = list(itertools.islice(itertools.cycle(activations.TABLE[name].pinned), WIDTH))
    z, a, slope = (np.array(column) for column in zip(*pinned))
    got_a, got_slope = through(name, z, kernels, dtype)
    row = activations.TABLE[name]
    assert_close(got_a, a, dtype, k=roundings(row.forward), what="a")
    assert_close(got_slope, slope, dtype, k=roundings(row.forward, row.backward), scale=1, what="da/dz")


EXTREMES = np.array([0.0, 1e-30, -1e-30, 1e-6, -1e-6, 9.99, 10.01, -9.99, -10.01, 90, -90, 700, -700, 1e30, -1e30])


@pytest.mark.parametrize("name", activations.TABLE)
def test_activation_stays_finite_and_has_its_limits_far_out(name, kernels, dtype):
    a, slope = through(name, np.resize(EXTREMES, WIDTH), kernels, dtype)
    assert np.isfinite(a).all() and np.isfinite(slope).all()
    limits = {  # (a / z or a) and the slope at -1e30 and at 1e30
        "identity": (-1e30, 1, 1e30, 1), "relu": (0, 0, 1e30, 1), "tanh": (-1, 0, 1, 0), "sigmoid": (0, 0, 1, 0),
        "leaky_relu": (-1e28, 0.01, 1e30, 1), "softplus": (0, 0, 1e30, 1), "gelu": (0, 0, 1e30, 1),
        "silu": (0, 0, 1e30, 1), "elu": (-1, 0, 1e30, 1),
    }  # fmt: skip
    low, low_slope, high, high_slope = limits[name]
    at_low, at_high = np.flatnonzero(EXTREMES == -1e30)[0], np.flatnonzero(EXTREMES == 1e30)[0]
    assert_close(a[at_low], low, dtype, scale=max(abs(low), 1), what="a(-1e30)")
    assert_close(a[at_high], high, dtype, what="a(1e30)")
    assert_close(slope[[at_low, at_high]], [low_slope, high_slope], dtype, scale=1, what="slopes")


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu"])
def test_the_slope_at_zero_is_that_of_the_left(name, kernels, dtype):
    slope = through(name, np.zeros(WIDTH), kernels, dtype)[1]
    assert (slope == dtype.type({"relu": 0.0, "leaky_relu": 0.01, "elu": 1.0}[name])).all()


TORCH_ACTIVATIONS = {
    "identity": lambda F, z: z * 1.0,
    "relu": lambda F, z: F.relu(z),
    "tanh": lambda F, z: F.tanh(z),
    "sigmoid": lambda F, z: F.sigmoid(z),
    "leaky_relu": lambda F, z: F.leaky_relu(z),
    "softplus": lambda F, z: F.softplus(z, threshold=1000),
    "gelu": lambda F, z: F.gelu(z, approximate="tanh"),
    "silu": lambda F, z: F.silu(z),
    "elu": lambda F, z: F.elu(z),
}


@pytest.mark.parametrize("name", activations.TABLE)
def test_activation_agrees_with_torch(torch, name, kernels, dtype):
    z = np.concatenate([np.linspace(-12, 12, 241), [-60, -30, 30, 60, 1e-5, -1e-5]])
    assert 0 in z and z.min() < 0 < z.max()
    wide = torch.tensor(z.astype(dtype).astype(float), requires_grad=True)
    a = TORCH_ACTIVATIONS[name](torch.nn.functional, wide)
    a.sum().backward()
    got_a, got_slope = through(name, z, kernels, dtype)
    scale, row = np.maximum(1, np.abs(a.detach().numpy())), activations.TABLE[name]
    assert_close(got_a / scale, a.detach().numpy() / scale, dtype, k=roundings(row.forward), scale=1, what="a")
    assert_close(got_slope, wide.grad.numpy(), dtype, k=roundings(row.forward, row.backward), scale=1, what="da/dz")


# ------------------------------------------------------------------ losses


def at_logits(loss, z, t, backend, dtype):
    """Loss and gradient where the network's output is `z`: a layer of bias alone."""
    z = np.asarray(z, float)
    net = fastbp.MLP((1, len(z)), init=[(np.zeros((1, len(z))), z)], dtype=dtype, backend=backend)
    x, t = np.zeros((1, 1)), np.array([t])
    value, gradient = net.loss_and_grad(x, t, loss=loss)
    assert value == net.evaluate(x, t, loss=loss)
    assert not gradient[: len(z)].any()
    return value, gradient[len(z) :].astype(float)


PINNED_LOSSES = [
    pytest.param(name, *pin, id=f"{name}-{k}") for name, row in losses.TABLE.items() for k, pin in enumerate(row.pinned)
]


@pytest.mark.parametrize("name, z, t, value, gradient", PINNED_LOSSES)
def test_loss_has_its_pinned_values(name, z, t, value, gradient, kernels, dtype):
    got_value, got_gradient = at_logits(name, z, t, kernels, dtype)
    assert_close(got_value, value, dtype, k=len(z))
    assert_close(got_gradient, gradient, dtype, k=len(z))


@pytest.mark.parametrize("label", range(3))
def test_a_label_is_its_row_of_probabilities(label, kernels, dtype):
    z, t = (1.0, -2.0, 0.5), np.eye(3)[label]
    by_label, by_row = (at_logits("softmax_cross_entropy", z, y, kernels, dtype) for y in (label, t))
    assert by_label[0] == by_row[0] and np.array_equal(by_label[1], by_row[1])


def probabilities(rng, n, k):
    """Rows that sum to 1 exactly in any dtype."""
    return rng.multinomial(64, np.ones(k) / k, n) / 64


def torch_loss(torch, name, z, t):
    F = torch.nn.functional
    if name == "half_squared_error":
        return 0.5 * ((z - t) ** 2).sum(dim=1).mean()
    return {
        "mse": F.mse_loss,
        "softmax_cross_entropy": F.cross_entropy,
        "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    }[name](z, t)


@pytest.mark.parametrize("k", [1, 3, 10, 37])
@pytest.mark.parametrize("name", losses.TABLE)
def test_loss_agrees_with_torch(torch, name, k, kernels, dtype):
    rng = np.random.default_rng(k)
    n = 7
    z = (rng.normal(size=(n, k)) * [[0.1], [1], [3], [30], [1], [0], [1]]).astype(np.float32)
    t = {"mse": rng.normal(size=(n, k)), "half_squared_error": rng.normal(size=(n, k)),
         "softmax_cross_entropy": probabilities(rng, n, k),
         "binary_cross_entropy": rng.uniform(size=(n, k)).round(1)}[name].astype(np.float32)  # fmt: skip
    net = fastbp.MLP((n, k), bias=False, init=[z], dtype=dtype, backend=kernels)
    value, gradient = net.loss_and_grad(np.eye(n), t, loss=name)
    wide = torch.tensor(z.astype(float), requires_grad=True)
    wanted = torch_loss(torch, name, wide, torch.tensor(t.astype(float)))
    wanted.backward()
    assert_close(value, wanted.item(), dtype, k=n * k, scale=max(1, wanted.item()))
    assert_close(gradient.reshape(n, k), wide.grad.numpy(), dtype, k=k, scale=max(1 / n, abs(wide.grad.numpy()).max()))


# ------------------------------------------------------------------ optimizers

LR_CHANGE = (0.1, 0.1, 0.01)
MOMENTUM_WALK = (0.9, 0.71, 0.6829)  # w = 1, g = 1, momentum 0.9; scikit-learn's form would end at 0.529
# nesterov: p -= lr * (g + 0.9 v), v = 1, 1.9, 2.71
NESTEROV_WALK = (1 - 0.19, 1 - 0.19 - 0.271, 1 - 0.19 - 0.271 - 0.03439)
# coupled decay 0.5: g = 1 + 0.5 w
DECAY_WALK = (0.85, 0.85 - 0.1425, 0.7075 - 0.01 * 1.35375)
# both: v = 1.5, then 0.9 * 1.5 + 1 + 0.5 * 0.85, ...
DECAYED_MOMENTUM_WALK = (0.85, 0.85 - 0.2775, 0.5725 - 0.01 * (0.9 * 2.775 + 1 + 0.5 * 0.5725))
WALKS = [
    pytest.param({"momentum": 0.9}, MOMENTUM_WALK, id="momentum"),
    pytest.param({"momentum": 0.9, "nesterov": True}, NESTEROV_WALK, id="nesterov"),
    pytest.param({"weight_decay": 0.5}, DECAY_WALK, id="decay"),
    pytest.param({"momentum": 0.9, "weight_decay": 0.5}, DECAYED_MOMENTUM_WALK, id="momentum-decay"),
    pytest.param({}, (0.9, 0.8, 0.79), id="plain"),
]


def by_update(net, lr, settings):
    net.grad_weights[0][...] = 1
    net.update(fastbp.SGD(lr=lr, **settings))


def by_backward_update(net, lr, settings):
    net.forward([[1.0]])
    net.backward_update([[1.0]], fastbp.SGD(lr=lr, **settings))


def by_train_step(net, lr, settings):
    net.train_step([[1.0]], net.weights[0] - 1, loss="half_squared_error", optimizer=fastbp.SGD(lr=lr, **settings))


def by_fit(net, lr, settings):
    net.fit(
        [[1.0]], net.weights[0] - 1, loss="half_squared_error", optimizer=fastbp.SGD(lr=lr, **settings), steps=1
    )  # fmt: skip


@pytest.mark.parametrize("step", [by_update, by_backward_update, by_train_step, by_fit])
@pytest.mark.parametrize("settings, walk", WALKS)
def test_an_optimizer_keeps_its_convention_when_the_rate_changes(settings, walk, step, kernels, dtype):
    net = fastbp.MLP((1, 1), bias=False, init=[[[1.0]]], dtype=dtype, backend=kernels)
    for k, (lr, wanted) in enumerate(zip(LR_CHANGE, walk), 1):
        step(net, lr, settings)
        assert_close(net.weights[0][0, 0], wanted, dtype, k=k)


SGD_SETTINGS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.5, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 1.0},
]


def name_of(settings):
    return "-".join(f"{key}{value}" for key, value in settings.items()) or "plain"


@pytest.mark.parametrize("settings", SGD_SETTINGS, ids=name_of)
def test_sgd_agrees_with_torch_step_by_step(torch, settings, kernels, dtype):
    rng = np.random.default_rng(3)
    net = fastbp.MLP((5, WIDTH), dtype=dtype, seed=1, backend=kernels)
    net.biases[0][...] = rng.normal(size=WIDTH)
    parameters = [torch.tensor(view.astype(float)) for view in (net.weights[0], net.biases[0])]
    peer = torch.optim.SGD(parameters, lr=1.0, **settings)
    for step, lr in enumerate([0.1, 0.1, 0.03, 0.0, 0.2, 0.2], 1):
        gradients = [rng.normal(size=p.shape) * 10.0 ** rng.integers(-3, 2) for p in parameters]
        net.grad_weights[0][...], net.grad_biases[0][...] = gradients
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = torch.tensor(gradient.astype(dtype).astype(float))
        peer.param_groups[0]["lr"] = lr
        peer.step()
        net.update(fastbp.SGD(lr=lr, **settings))
        assert_close(net.weights[0], parameters[0].numpy(), dtype, k=step, what=f"weight after step {step}")
        assert_close(net.biases[0], parameters[1].numpy(), dtype, k=step, what=f"bias after step {step}")


@pytest.mark.parametrize("settings", SGD_SETTINGS[:-1], ids=name_of)
@pytest.mark.parametrize("name", losses.TABLE)
def test_training_agrees_with_torch(torch, name, settings, kernels, dtype):
    rng = np.random.default_rng(5)
    n, sizes, steps = 24, (6, 9, 3), 6
    X = rng.normal(size=(n, sizes[0])).astype(np.float32)
    t = probabilities(rng, n, sizes[-1])
    net = fastbp.MLP(sizes, activation="tanh", dtype=dtype, seed=2, backend=kernels)
    parameters = [
        torch.tensor(view.astype(float), requires_grad=True) for pair in zip(net.weights, net.biases) for view in pair
    ]
    peer = torch.optim.SGD(parameters, lr=0.2, **settings)
    wide, target = torch.tensor(X.astype(float)), torch.tensor(t.astype(float))
    for start in [0, 8, 16, 0, 8, 16]:
        w1, b1, w2, b2 = parameters
        z = torch.tanh(wide[start : start + 8] @ w1 + b1) @ w2 + b2
        peer.zero_grad()
        torch_loss(torch, name, z, target[start : start + 8]).backward()
        peer.step()
    rule = fastbp.SGD(lr=0.2, **settings)
    net.fit(X, t, loss=name, optimizer=rule, batch_size=8, steps=steps, shuffle=False)
    for view, parameter in zip((view for pair in zip(net.weights, net.biases) for view in pair), parameters):
        assert_close(view, parameter.detach().numpy(), dtype, k=steps * sum(sizes))


@pytest.mark.parametrize("settings", SGD_SETTINGS, ids=name_of)
def test_a_rate_of_0_moves_nothing(settings, kernels, dtype):
    rng = np.random.default_rng(6)
    X, t = rng.normal(size=(10, 6)), rng.normal(size=(10, WIDTH))
    net = fastbp.MLP((6, 5, WIDTH), dtype=dtype, seed=2, backend=kernels)
    before = net.flatten()
    net.fit(X, t, optimizer=fastbp.SGD(lr=0.0, **settings), batch_size=4, epochs=2)
    assert net.flatten().tobytes() == before.tobytes()
