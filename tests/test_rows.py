"""The tables: what a row may say, that the rendered files are fresh, and each row's values from outside."""

import ast
import copy
import itertools
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import need_extension
from targets import outputs_for, targets
from tolerance import assert_close

import fastbp
from fastbp import activations, backends, losses, optimizers, rows
from fastbp.backends.plan import own_rows

ROOT = Path(__file__).parents[1]
# Two vectors of the widest ISA and a tail.
WIDTH = 37


@pytest.fixture
def torch(peers):
    return peers.torch


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
        rows.Loss("bad", "s - z", "z", "sum"),
        rows.Loss("bad", "z * k", "z", "sum"),
        rows.Loss("bad", "z * delta", "z", "sum"),
        rows.Optimizer("bad", "bad", (), ("lr",), (("p", "p - lr * velocity"),)),
    ],
    ids=["forward", "backward", "loss", "loss without s", "k in a loss", "no such setting", "optimizer"],
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
    assert keeping == {"gelu", "silu", "mish", "hard_swish", "gaussian"}


def test_rendered_header_is_fresh():
    render_cpp = runpy.run_path(str(ROOT / "tools" / "rows.py"))["render_cpp"]
    text = render_cpp(activations.TABLE.values(), losses.TABLE.values(), optimizers.TABLE.values())
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
    monkeypatch.delitem(sys.modules, "fastbp.backends.cython", raising=False)
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
        "identity", "relu", "tanh", "sigmoid", "leaky_relu", "softplus", "gelu", "silu", "elu", "selu", "mish",
        "hard_sigmoid", "hard_tanh", "hard_swish", "softsign", "gaussian", "exp", "relu6",
    }  # fmt: skip
    assert activations.ALIASES["logistic"] == "sigmoid" and activations.ALIASES["celu"] == "elu"
    assert set(losses.TABLE) >= {
        "mse", "half_squared_error", "softmax_cross_entropy", "binary_cross_entropy", "mae", "huber", "log_cosh",
        "quantile", "poisson", "poisson_deviance", "gamma", "tweedie", "gaussian_nll", "hinge", "squared_hinge",
        "focal", "kl_divergence",
    }  # fmt: skip
    for row in losses.TABLE.values():
        assert sum(len(gradient) for _, _, _, gradient in row.pinned) >= 3, f"{row.name}: three values from outside"
    for row in activations.TABLE.values():
        assert len(row.pinned) >= 3, f"{row.name}: three values from outside"
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


def test_exp_has_its_limits(kernels, dtype):
    a, slope = through("exp", np.resize([-1e30, -700, 0, 80], WIDTH), kernels, dtype)
    assert a[0] == 0 and a[2] == 1 and np.isfinite(a).all() and np.array_equal(a, slope)
    net = fastbp.MLP((1, 1), output_activation="exp", init="zeros", dtype=dtype, backend=kernels)
    net.biases[0][...] = 1e30
    assert net.predict([[0.0]]) == np.inf


@pytest.mark.parametrize("name", sorted(set(activations.TABLE) - {"exp"}))
def test_activation_stays_finite_and_has_its_limits_far_out(name, kernels, dtype):
    a, slope = through(name, np.resize(EXTREMES, WIDTH), kernels, dtype)
    assert np.isfinite(a).all() and np.isfinite(slope).all()
    limits = {  # (a / z or a) and the slope at -1e30 and at 1e30
        "identity": (-1e30, 1, 1e30, 1), "relu": (0, 0, 1e30, 1), "tanh": (-1, 0, 1, 0), "sigmoid": (0, 0, 1, 0),
        "leaky_relu": (-1e28, 0.01, 1e30, 1), "softplus": (0, 0, 1e30, 1), "gelu": (0, 0, 1e30, 1),
        "silu": (0, 0, 1e30, 1), "elu": (-1, 0, 1e30, 1), "selu": (-1.7580993408473766, 0, 1.0507009873554805e30,
        1.0507009873554805), "mish": (0, 0, 1e30, 1), "hard_sigmoid": (0, 0, 1, 0), "hard_tanh": (-1, 0, 1, 0),
        "hard_swish": (0, 0, 1e30, 1), "softsign": (-1, 0, 1, 0), "gaussian": (0, 0, 0, 0), "relu6": (0, 0, 6, 0),
    }  # fmt: skip
    low, low_slope, high, high_slope = limits[name]
    at_low, at_high = np.flatnonzero(EXTREMES == -1e30)[0], np.flatnonzero(EXTREMES == 1e30)[0]
    assert_close(a[at_low], low, dtype, scale=max(abs(low), 1), what="a(-1e30)")
    assert_close(a[at_high], high, dtype, scale=max(abs(high), 1), what="a(1e30)")
    assert_close(slope[[at_low, at_high]], [low_slope, high_slope], dtype, scale=1, what="slopes")


KINKS = {  # z and the slope there, as PyTorch has it
    "relu": [(0, 0.0)], "leaky_relu": [(0, 0.01)], "elu": [(0, 1.0)], "selu": [(0, 1.7580993408473766)],
    "hard_sigmoid": [(-3, 0.0), (3, 0.0)], "hard_tanh": [(-1, 0.0), (1, 0.0)], "hard_swish": [(-3, 0.0), (3, 1.0)],
    "relu6": [(0, 0.0), (6, 0.0)],
}  # fmt: skip


@pytest.mark.parametrize("name", KINKS)
def test_the_slope_at_a_kink_is_pytorchs(name, kernels, dtype):
    for z, wanted in KINKS[name]:
        slope = through(name, np.full(WIDTH, z), kernels, dtype)[1]
        assert (slope == dtype.type(wanted)).all(), z


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
    "selu": lambda F, z: F.selu(z),
    "mish": lambda F, z: F.mish(z),
    "hard_sigmoid": lambda F, z: F.relu6(z + 3) / 6,  # the slope of F.hardsigmoid is 1 / 6 in float32
    "hard_tanh": lambda F, z: F.hardtanh(z),
    "hard_swish": lambda F, z: F.hardswish(z),
    "softsign": lambda F, z: F.softsign(z),
    "gaussian": lambda F, z: (-z * z).exp(),
    "exp": lambda F, z: z.exp(),
    "relu6": lambda F, z: F.relu6(z),
}


@pytest.mark.parametrize("name", activations.TABLE)
def test_activation_agrees_with_torch(torch, name, kernels, dtype):
    z = np.concatenate([np.linspace(-12, 12, 241), [-60, -30, 30, 60, 1e-5, -1e-5]])
    assert 0 in z and z.min() < 0 < z.max()
    wide = torch.tensor(z.astype(dtype).astype(float), requires_grad=True)
    a = TORCH_ACTIVATIONS[name](torch.nn.functional, wide)
    a.sum().backward()
    got_a, got_slope = through(name, z, kernels, dtype)
    row = activations.TABLE[name]
    for what, got, wanted, expressions in (
        ("a", got_a, a.detach().numpy(), (row.forward,)),
        ("da/dz", got_slope, wide.grad.numpy(), (row.forward, row.backward)),
    ):
        scale = np.maximum(1, np.abs(wanted))
        assert_close(got / scale, wanted / scale, dtype, k=4 * roundings(*expressions), scale=1, what=what)


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


L = losses
Z, Z2, T = (1.0, -2.0, 0.5), (0.25, 1.5, -3.0), (0.0, 1.0, 0.25)
PINNED_CHOSEN = [  # with other settings than the defaults, as torch 2.13.0 has value and gradient in float64
    (L.mse(outputs="sum"), Z, T, 10.0625,
     (2.0, -6.0, 0.5)),
    (L.half_squared_error(outputs="mean"), Z, T, 1.6770833333333333,
     (0.3333333333333333, -1.0, 0.08333333333333333)),
    (L.mse(output_weights=(0.5, 2.0, 0.0)), Z, T, 6.166666666666667,
     (0.3333333333333333, -4.0, 0.0)),
    (L.huber(delta=2.5), Z, T, 1.6354166666666667,
     (0.3333333333333333, -0.8333333333333333, 0.08333333333333333)),
    (L.huber(delta=0.5, outputs="sum", output_weights=(0.5, 2.0, 1.0)), Z2, (0.5, 1.0, 2.0), 2.640625,
     (-0.125, 1.0, -0.5)),
    (L.quantile(quantile=0.9), Z, T, 0.9416666666666668,
     (0.033333333333333326, -0.3, 0.033333333333333326)),
    (L.tweedie(power=1.2), Z, (0.5, 1.0, 2.5), 8.571831925503766,
     (0.605391850651159, -0.4299760598822049, -0.2567562824828763)),
    (L.tweedie(power=1.9), Z2, (3.0, 0.5, 0.25), 12.072892582677454,
     (-0.4567445119179008, 0.3440713708017792, -0.9930382368454966)),
    (L.gaussian_nll(eps=0.5), (1.0, -2.0, 0.5, -1.0), (0.0, 1.0), 4.603345869788172,
     (0.3032653298563167, -3.0, 0.09836733507184164, -3.12697524995726)),
    (L.gaussian_nll(outputs="sum"), (0.25, 3.0, -2.0, 2.0), (0.0, 1.0), 0.5015785695648082,
     (1.8472640247326624, 0.2706705664732254, 0.2690919969084172, 0.22932943352677462)),
    (L.gaussian_nll(output_weights=(0.5, 2.0)), (0.25, 3.0, -2.0, 2.0), (0.0, 1.0), 1.078397567246121,
     (0.4618160061831656, 0.2706705664732254, 0.0672729992271043, 0.22932943352677462)),
    (L.focal(gamma=0.0), Z, T, 1.4297555609137673,
     (0.2436861928766683, -0.29359902599262744, 0.12415311040061819)),
    (L.focal(gamma=3.5, alpha=0.25), Z, T, 0.24677279940235297,
     (0.16429589441061673, -0.09449505562950114, 0.027442175877685056)),
    (L.focal(alpha=0.75, outputs="sum"), Z2, (1.0, 0.25, 0.0), 0.2987025111889843,
     (-0.15604228434364825, 0.14124579287177758, 7.871796162207033e-05)),
    (L.softmax_cross_entropy(label_smoothing=0.1), Z, (0.0, 0.0, 1.0), 1.07126356900895,
     (0.5704155628152925, -0.00327444576375931, -0.5671411170515331)),
    (L.softmax_cross_entropy(label_smoothing=0.5, outputs="mean"), Z2, (0.5, 0.25, 0.25), 0.6979534558622739,
     (-0.06529102838581938, 0.15965955186892541, -0.0943685234831061)),
    # eps: NumPy's clip of the probabilities, as scikit-learn's log_loss has it
    (L.softmax_log_loss(eps=0.25), Z, (0.0, 1.0, 0.0), 1.3862943611198906,
     (0.6037488961486257, -0.969941112430426, 0.3661922162818002)),
    (L.softmax_log_loss(eps=0.25), Z, (0.5, 0.25, 0.25), 0.8500212670366852,
     (0.1037488961486257, -0.21994111243042597, 0.11619221628180021)),
    (L.binary_log_loss(eps=0.3), Z, (0.0, 1.0, 1.0), 0.9606741976106594,
     (0.2436861928766683, -0.2935990259926275, -0.1258468895993818)),
    (L.kl_divergence(outputs="mean"), Z, (0.5, 0.25, 0.25), 0.11329204383412185,
     (0.034582965382875266, -0.07331370414347532, 0.03873073876060007)),
    (L.binary_cross_entropy(outputs="sum", output_weights=(0.5, 2.0, 1.0)), Z, T, 5.759563850025163,
     (0.36552928931500245, -1.7615941559557649, 0.3724593312018546)),
]  # fmt: skip


@pytest.mark.parametrize("row, z, t, value, gradient", PINNED_CHOSEN, ids=lambda x: getattr(x, "name", ""))
def test_loss_with_other_settings_has_its_pinned_values(row, z, t, value, gradient, kernels, dtype):
    got_value, got_gradient = at_logits(row, z, t, kernels, dtype)
    assert_close(got_value, value, dtype, k=len(z))
    assert_close(got_gradient, gradient, dtype, k=len(z))


def test_every_setting_of_a_loss_is_pinned():
    pinned = {(row.name, name) for row, *_ in PINNED_CHOSEN for name, _ in row.given}
    assert pinned >= {(row.name, setting.name) for row in losses.TABLE.values() for setting in row.settings}
    assert {name for _, name in pinned} >= {"outputs", "output_weights"}


@pytest.mark.parametrize("label", range(3))
def test_a_label_is_its_row_of_probabilities(label, kernels, dtype):
    z, t = (1.0, -2.0, 0.5), np.eye(3)[label]
    by_label, by_row = (at_logits("softmax_cross_entropy", z, y, kernels, dtype) for y in (label, t))
    assert by_label[0] == by_row[0] and np.array_equal(by_label[1], by_row[1])


def torch_elements(F, row, z, t):
    """The loss of each output element, before it is reduced."""
    values = dict(zip(row.numbers_named, row.numbers(t.shape[1])))
    d, hinge = (z - t, (1 - z * t).relu()) if z.shape == t.shape else (None, None)

    def focal():
        p, alpha = z.sigmoid(), row.chosen["alpha"]
        miss = p * (1 - t) + (1 - p) * t
        balance = 1 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
        return balance * miss ** values["gamma"] * F.binary_cross_entropy_with_logits(z, t, reduction="none")

    def tweedie():
        p = values["power"]
        return ((2 - p) * z).exp() / (2 - p) - t * ((1 - p) * z).exp() / (1 - p)

    def gaussian_nll():
        mean, log_variance = z.chunk(2, dim=1)
        return F.gaussian_nll_loss(mean, t, log_variance.exp(), eps=values["eps"], reduction="none")

    return {
        "mse": lambda: d**2,
        "half_squared_error": lambda: d**2 / 2,
        "binary_cross_entropy": lambda: F.binary_cross_entropy_with_logits(z, t, reduction="none"),
        "mae": lambda: d.abs(),
        "huber": lambda: F.huber_loss(z, t, delta=values["delta"], reduction="none"),
        "log_cosh": lambda: d.logaddexp(-d) - np.log(2),
        "quantile": lambda: (-values["quantile"] * d).maximum((1 - values["quantile"]) * d),
        "poisson": lambda: F.poisson_nll_loss(z, t, reduction="none"),
        "poisson_deviance": lambda: F.poisson_nll_loss(z, t, reduction="none") + (t.xlogy(t) - t),
        "gamma": lambda: z + t * (-z).exp(),
        "tweedie": tweedie,
        "gaussian_nll": gaussian_nll,
        "hinge": lambda: hinge,
        "squared_hinge": lambda: hinge**2,
        "focal": focal,
    }[row.name]()


def torch_loss(torch, row, z, t):
    F, chosen = torch.nn.functional, row.chosen
    if row.name == "softmax_cross_entropy":
        value = F.cross_entropy(z, t, label_smoothing=chosen["label_smoothing"])
    elif row.name == "kl_divergence":
        value = F.kl_div(F.log_softmax(z, dim=1), t, reduction="batchmean")
    else:
        elements = torch_elements(F, row, z, t)
        if chosen["output_weights"]:
            elements = elements * torch.tensor(chosen["output_weights"])
        return (elements.mean(dim=1) if chosen["outputs"] == "mean" else elements.sum(dim=1)).mean()
    return value / t.shape[1] if chosen["outputs"] == "mean" else value


CHOSEN = [  # settings other than the defaults
    L.huber(delta=2.5), L.quantile(quantile=0.9), L.tweedie(power=1.2), L.gaussian_nll(eps=0.5), L.focal(gamma=0.0),
    L.focal(gamma=3.5, alpha=0.25), L.softmax_cross_entropy(label_smoothing=0.1), L.kl_divergence(outputs="mean"),
    L.mse(outputs="sum"), L.half_squared_error(outputs="mean"), L.gaussian_nll(outputs="sum"),
]  # fmt: skip


def name_of_loss(row):
    return "-".join([row.name, *(f"{name}={value}" for name, value in row.given)])


@pytest.mark.parametrize("row", [*losses.TABLE.values(), *CHOSEN], ids=name_of_loss)
def test_loss_agrees_with_torch(torch, row, kernels, dtype):
    n = 7
    steep = row.from_logits and not row.link  # exp(z) itself is in it
    for k in (1, 3, 10, 37):
        rng = np.random.default_rng(k)
        out = outputs_for(row.name, k)
        z = rng.normal(size=(n, out)) * [[0.1], [1], [3], [3 if steep else 30], [1], [0], [1]]
        z, t = z.astype(np.float32), targets(rng, row.name, n, out)
        chosen = [row]
        if not row.statistic:
            chosen.append(row(output_weights=rng.integers(0, 5, k) / 4 + np.eye(k)[0]))
        for chosen_row in chosen:
            net = fastbp.MLP((n, out), bias=False, init=[z], dtype=dtype, backend=kernels)
            value, gradient = net.loss_and_grad(np.eye(n), t, loss=chosen_row)
            assert value == net.evaluate(np.eye(n), t, loss=chosen_row)
            wide = torch.tensor(z.astype(float), requires_grad=True)
            wanted = torch_loss(torch, chosen_row, wide, torch.tensor(t.astype(float)))
            wanted.backward()
            assert_close(value, wanted.item(), dtype, k=n * out, scale=max(1, abs(wanted.item())))
            wanted = wide.grad.numpy()
            assert_close(gradient.reshape(n, out), wanted, dtype, k=4 * out, scale=max(1 / n, abs(wanted).max()))


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
    pytest.param({"momentum": 1.0}, (0.9, 0.7, 0.67), id="momentum of 1"),
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


# The first losses with every rule, the others with one each.
TRAINED = [
    pytest.param(name, settings, id=f"{name}-{name_of(settings)}")
    for place, name in enumerate(losses.TABLE)
    for k, settings in enumerate(SGD_SETTINGS[:-1])
    if place < 4 or place % len(SGD_SETTINGS[:-1]) == k
]


@pytest.mark.parametrize("name, settings", TRAINED)
def test_training_agrees_with_torch(torch, name, settings, kernels, dtype):
    rng = np.random.default_rng(5)
    n, sizes, steps = 24, (6, 9, outputs_for(name, 3)), 6
    X = rng.normal(size=(n, sizes[0])).astype(np.float32)
    t = targets(rng, name, n, sizes[-1])
    net = fastbp.MLP(sizes, activation="tanh", dtype=dtype, seed=2, backend=kernels)
    parameters = [
        torch.tensor(view.astype(float), requires_grad=True) for pair in zip(net.weights, net.biases) for view in pair
    ]
    peer = torch.optim.SGD(parameters, lr=0.1, **settings)
    wide, target = torch.tensor(X.astype(float)), torch.tensor(t.astype(float))
    for start in [0, 8, 16, 0, 8, 16]:
        w1, b1, w2, b2 = parameters
        z = torch.tanh(wide[start : start + 8] @ w1 + b1) @ w2 + b2
        peer.zero_grad()
        torch_loss(torch, losses.TABLE[name], z, target[start : start + 8]).backward()
        peer.step()
    rule = fastbp.SGD(lr=0.1, **settings)
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


def test_a_function_of_numbers_may_give_what_numpy_gives_for_one():
    """`numpy.where` gives an array without axes."""
    step = rows.over_arrays(lambda z: np.where(z > 0, 1.0, 0.0))
    assert step(np.array([-1.0, 2.0])).tolist() == [0.0, 1.0]
    with pytest.raises(TypeError, match="must return a number"):
        rows.over_arrays(lambda z: np.array([z]))(np.ones(1))


def test_rows_of_one_name_are_told_apart():
    """Though they share their hash: rows, plans, and what equal networks share."""
    net = fastbp.MLP((2, 3, 1), activation=fastbp.Activation("mine", "z * 2"))
    same = fastbp.MLP((2, 3, 1), activation=fastbp.Activation("mine", "z * 2"), seed=1)
    other = fastbp.MLP((2, 3, 1), activation=fastbp.Activation("mine", "z * 3"))
    assert net._spec is same._spec and net._spec != other._spec
    assert other._spec.layers[0].activation.forward == "z * 3"
    made = replace(activations.TABLE["relu"], forward="z + z", backward="g + g")
    assert hash(made) == hash(activations.TABLE["relu"]) and made != activations.TABLE["relu"]
    assert own_rows([made, activations.TABLE["relu"], losses.huber(delta=2.0)]) == ["relu"]
    with fastbp.backend("reference"):
        net = fastbp.MLP((1, 1, 1), activation=made, bias=False, init=[[[1.0]], [[1.0]]])
        assert net.predict([[1.5]]) == 3.0


def test_networks_share_what_they_are_and_nothing_more():
    net = fastbp.MLP((2, 3, 1), seed=0)
    for width in range(1, 100):  # more kinds of networks than are remembered after their end
        fastbp.MLP([np.int64(3), width, 1])
    same = fastbp.MLP([np.int64(2), 3, 1], seed=1)
    assert same._spec is net._spec and copy.deepcopy(net)._spec is net._spec
    same.freeze(0)
    same.train_step([[1.0, 2.0]], [[3.0]], loss="mse", optimizer=fastbp.SGD(lr=0.1))
    assert net.frozen == ((False, False),) * 2 and net.step == 0 and not np.array_equal(net.params, same.params)
    others = [{"dtype": np.float64}, {"bias": False}, {"dropout": 0.5}, {"activation": "tanh"},
              {"output_activation": "relu"}]  # fmt: skip
    specs = [fastbp.MLP((2, 3, 1), **other)._spec for other in others]
    assert len({net._spec, *specs}) == 6
