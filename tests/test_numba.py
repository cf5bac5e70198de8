"""Numba: rows of the user's own on every backend, the words in compiled code, the cache on disk, and where it is not
installed. That its kernels are right is what the other files test on every backend.
"""

import copy
import itertools
import math
import os
import pickle
import re
import stat
import textwrap
import threading
import types

import numpy as np
import pytest
from conftest import every_case, need, need_numba
from test_process import IMPORTED_FROM, python
from tolerance import assert_close

import fastbp
from fastbp import activations, backends, losses, optimizers, own, rows

RNG = np.random.default_rng(5)
X, PLACES = RNG.normal(size=(37, 5)), np.linspace(-9, 9, 181) + 0.01  # at no kink
numba_only = pytest.mark.skipif(not backends.has_numba(), reason="Numba is not installed")
jit_only = pytest.mark.skipif(
    not backends.has_numba() or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0", reason="nothing is compiled"
)


def twin(row):
    """A row of the tables as one of the user's own."""
    if isinstance(row, rows.Activation):
        return fastbp.Activation(f"my_{row.name}", row.forward, row.backward)
    if isinstance(row, rows.Loss):
        fields = "value grad grad_s outputs statistic settings constants from_logits labels link domain".split()
        return fastbp.Loss(f"my_{row.name}", **{field: getattr(row, field) for field in fields})
    renamed = [re.sub(r"\bclip_value\b", "bound", text) for _, text in row.update]  # which every optimizer has
    scalars = [name.replace("clip_value", "bound") for name in row.scalars]
    update = [(target, text) for (target, _), text in zip(row.update, renamed)]
    return fastbp.Optimizer(f"my_{row.name}", state=row.state, scalars=scalars, update=update)


@fastbp.activation(derivative=lambda a: 1 - a * a)
def tanh_of_mine(z):
    return math.tanh(z)


@fastbp.activation(derivative=lambda z: 1 / (1 + abs(z)) ** 2)
def softsign_of_mine(z):
    if z > 0:
        return z / (1 + z)
    return z / (1 - z)


@fastbp.loss(derivative=lambda z, t: 4 * (z - t) ** 3)
def fourth_power(z, t):
    return (z - t) ** 4


# ------------------------------------------------------------------ rows as they are made


def text(z):
    return "a"


def nested(template, levels=12):
    expression = "z"
    for _ in range(levels):
        expression = template.format(expression)
    return expression


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: fastbp.Activation("relu", "z"), "activation 'relu': fastbp has one of this name"),
        (lambda: fastbp.Activation("swish", "z"), "activation 'swish': fastbp has one of this name"),
        (lambda: fastbp.Activation("two words", "z"), "name must be a Python name.*'two words'"),
        (lambda: fastbp.Activation("class", "z"), "name must be a Python name.*'class'"),
        (lambda: fastbp.Activation("q", "z ** 2"), "activation 'q': forward: expression.*Pow.*z \\* z"),
        (lambda: fastbp.Activation("q", "sin(z)"), "forward: .*sin is not one of EXP"),
        (lambda: fastbp.Activation("q", "z", "g * t"), "backward: .*unknown name 't'"),
        (lambda: fastbp.Activation("q", "z * z", "g * z"), "backward is wrong at z = 0.001: it gives 0.001, .* 0.002"),
        (lambda: fastbp.Activation("q", "z * EXP(-z * z)", "g * z"), r"wrong at z = 0: it gives 0, .* give 1$"),
        (lambda: fastbp.Activation("q", "EXP(z)", "g * EXP(z) * (1 + 0 / z)"), "wrong at z = 0: it gives nan"),
        (lambda: fastbp.Activation("q", "LOG(-1 - z * z)"), "finite and smooth nowhere"),
        (lambda: fastbp.Loss("mse", "z - t"), "loss 'mse': fastbp has one of this name"),
        (lambda: fastbp.Loss("q", "z - t", outputs="max"), "outputs must be 'mean' or 'sum', got 'max'"),
        (lambda: fastbp.Loss("q", "z - t", statistic="max"), "statistic must be None or 'lse'"),
        (lambda: fastbp.Loss("q", "lse - z"), "unknown name 'lse'"),
        (lambda: fastbp.Loss("q", "t * (lse - z)", statistic="lse"), "grad must be given"),
        (lambda: fastbp.Loss("q", "(z - t) * (z - t)", "z - t"), "grad is wrong at z = .*, t = "),
        # at an end of the domain alone, where most targets of 0 and 1 are
        (lambda: fastbp.Loss("q", "WHERE(t < 1, 1, 2) * z * z", "2 * z", domain=(0, 1)), "grad is wrong .*, t = 1: it"),
        (lambda: fastbp.Loss("q", "WHERE(t > 0, 1, 2) * z * z", "2 * z", domain=(0, 1)), "grad is wrong .*, t = 0: it"),
        (lambda: fastbp.Loss("q", "t * (lse - z)", "EXP(z - lse) - 2 * t", statistic="lse", labels=True),
         "grad is wrong"),
        (lambda: fastbp.Optimizer("sgd", update=[("p", "p - lr * g")]), "optimizer 'sgd': fastbp has one"),
        (lambda: fastbp.Optimizer("q", family="sgd", update=[("p", "p - lr * g")]), "family 'sgd' is fastbp's"),
        (lambda: fastbp.Optimizer("q"), "update must assign to p"),
        (lambda: fastbp.Optimizer("q", update=[("p", "p - lr * v")]), "update of p: .*unknown name 'v'"),
        (lambda: fastbp.Optimizer("q", update=[("lr", "lr"), ("p", "p")]), "assigns to 'lr'"),
        (lambda: fastbp.Optimizer("q", state=["p"], update=[("p", "p")]), "different names"),
        (lambda: fastbp.Optimizer("q", state=["EXP"], update=[("p", "p")]), "a slot or scalar must have a Python name"),
        (lambda: fastbp.Optimizer("q", state=list("abcde"), update=[("p", "p")]), "at most 4 slots"),
        (lambda: fastbp.Optimizer("q", scalars=["l1"], update=[("p", "p - l1")]), "every optimizer has l1; give the"),
        (lambda: fastbp.Loss("q", "z - t", settings={"t": 1.0}), "settings and constants must have different names"),
        (lambda: fastbp.Loss("q", "z - t", settings={"a b": 1.0}), "a setting must have a Python name, got 'a b'"),
        (lambda: fastbp.Loss("q", "s * z", "s", grad_s="s"), "grad_s is wrong at z = .*, t = .*, s = "),
        (lambda: twin(optimizers.TABLE["lion"])(**numbers(optimizers.TABLE["lion"]) | {"lr": -1.0}),
         "optimizer 'my_lion': lr must be finite and at least 0"),
        (lambda: fastbp.Optimizer("q", scalars=["rate"], update=[("p", "p - rate * g")])(rate=1, lr_scale=(1.0, 2.0)),
         "lr_scale is given, but no scalar is called lr"),
        (lambda: fastbp.Activation("q", "z * (z > 0)", "g * (z > 0)"), "a comparison may stand in WHERE alone"),
        (lambda: fastbp.Activation("q", "WHERE(z, z, z)"), "WHERE chooses by a comparison, not by z"),
        (lambda: fastbp.Activation("q", nested("ABS({} - 1)")), "its derivative would be too long; give the"),
        (lambda: fastbp.Activation("q", nested("MAX({}, z / 2)")), "its derivative would be too long"),
        (lambda: fastbp.Activation("q", "-" * 5000 + "z"), "activation 'q': forward: .*nested too deeply"),
        (lambda: fastbp.Activation("q", "z * 1" + "0" * 400), "activation 'q': forward: expression.*too large"),
        (lambda: fastbp.Loss("q", "z - t", link="soft"), "link must be None or one of softmax, sigmoid, got 'soft'"),
        (lambda: fastbp.Loss("q", "c * z - k * t", settings={"k": 1.0}, constants=[("c", "k")]), "no setting may be k"),
        (lambda: fastbp.Loss("q", "z - t", settings={"__debug__": 1.0}), "must have a Python name, got '__debug__'"),
        (lambda: fastbp.Activation("q", "z / 0"), "activation 'q': forward: .*division by zero; give the derivative"),
        (lambda: fastbp.Activation("q", "+".join(["z"] * 5000)), "activation 'q': forward: .*nested too deeply"),
        (lambda: fastbp.Loss("q", "z - t", domain=(1, 0)), "domain must be .* with low < high, got"),
        (lambda: fastbp.Loss("q", "z - t", domain=(math.nan, 1)), "loss 'q': domain must be .*, got"),
        (lambda: fastbp.Loss("q", "z - t", domain=(0, 1, "[[")), "loss 'q': domain must be .*, got"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_is_refused_where_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: fastbp.Activation("q", 3), "forward must be a string, got 3"),
        (lambda: fastbp.Activation(3, "z"), "name must be a string, got 3"),
        (lambda: fastbp.activation(derivative=3), "derivative must be a Python function, got 3"),
        (lambda: fastbp.activation(derivative=lambda x: x), r"must take \(z\) or \(a\), it takes \(x\)"),
        (lambda: fastbp.activation(derivative=lambda z: z)(lambda x: x), r"the function must take \(z\)"),
        (lambda: fastbp.Optimizer("q", update=[("p", "p")])(rate=1), "takes exactly lr; got rate"),
        (lambda: fastbp.Optimizer("q", update=[("p", "p")])(lr="x"), "lr must be a number, got 'x'"),
        (lambda: fastbp.Loss("q", "z - t", domain=3), r"domain must be \(low, high\), got 3"),
        (lambda: fastbp.Loss("q", "z - t", domain=("a", "b")), r"domain must be \(low, high\), got"),
        (lambda: fastbp.Loss("q", "z - t", domain=(0, 1, 2)), r"domain must be \(low, high\), got"),
        (lambda: fastbp.Loss("q", "z - t", settings={"delta": "x"}), "delta must be a number, got 'x'"),
        (lambda: fastbp.Loss("q", "z - t", settings=["delta"]), "settings must be fastbp.rows.Setting.*, got 'delta'"),
        (lambda: fastbp.Loss("q", "z - t", settings=3), "settings must be a sequence of .*, got 3"),
        (lambda: fastbp.Optimizer("q", update="p - lr * g"), "update must be a sequence of pairs.*, got 'p - lr"),
        (lambda: fastbp.Optimizer("q", update=[("p", "p", 1)]), "update must be a sequence of pairs.*, got"),
        (lambda: fastbp.Optimizer("q", update=[("p", 1)]), "update must be a sequence of pairs.*, got"),
        (lambda: fastbp.Optimizer("q", scalars="lr", update=[("p", "p")]), "scalars must be .* of names, got 'lr"),
        (lambda: fastbp.Optimizer("q", state="v", update=[("p", "p")]), "state must be a sequence of names, got 'v'"),
        (lambda: fastbp.activation(derivative=lambda z: 1.0)(text), "text must return a number, got 'a'"),
        (lambda: fastbp.Optimizer("q", scalars=["k"], update=[("p", "p - k")])(k=fastbp.schedules.ReduceOnPlateau(1.0)),
         "ReduceOnPlateau is for lr alone"),
        (lambda: fastbp.MLP((2, 1)).fit(X[:, :2], X[:, 0], steps=1, optimizer=twin(optimizers.TABLE["sgd"])),
         r"a rule without its numbers: call it, as in my_sgd\(lr=0.01\)"),
    ],
)  # fmt: skip
def test_what_has_the_wrong_kind_is_a_type_error(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_what_rounding_makes_of_a_difference_is_no_wrong_derivative():
    """Of values far larger than their changes, as beside a constant; a derivative that is off by more is wrong."""
    assert fastbp.Activation("q", "100000 + z", "g").backward == "g"
    with pytest.raises(ValueError, match="backward is wrong at z = .*: it gives 1.01"):
        fastbp.Activation("q", "100000 + z", "g * 1.01")


@pytest.mark.parametrize("comparison, first", [("<", False), ("<=", True), (">", False), (">=", True)])
def test_a_derivative_that_is_made_takes_the_branch_of_a_comparison_that_z_does_not_move(comparison, first):
    """Labels of 0 and 1 lie at such ends."""
    row = fastbp.Loss("q", f"WHERE(t {comparison} 1, 2 * z, 3 * z)", domain=(0, 1))
    slope = rows.function(row.grad_text, row.names)(np.zeros(1), np.ones(1), 0.0)
    assert slope == (2 if first else 3)
    other = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}[comparison]
    with pytest.raises(ValueError, match="grad is wrong at .*t = 1:"):  # the check looks there
        fastbp.Loss("q", f"WHERE(t {comparison} 1, 2 * z, 3 * z)", f"WHERE(t {other} 1, 2, 3)", domain=(0, 1))


def test_whether_units_at_zero_are_dead_is_seen_as_the_engine_computes():
    divides = fastbp.Activation("q", "SQRT(1 + EXP(z))", "g * (a * a - 1) / (2 * a)")
    slight = fastbp.activation(derivative=lambda a: 1e-9 + 0 * a, name="slight")(lambda z: 1e-9 * z)
    assert not divides.dead_at_zero and not slight.dead_at_zero
    assert activations.TABLE["relu"].dead_at_zero and twin(activations.TABLE["relu"]).dead_at_zero


@pytest.mark.parametrize("name", activations.TABLE)
def test_a_derivative_that_is_made_is_that_of_the_table(name):
    row = activations.TABLE[name]
    made = fastbp.Activation("mine", row.forward)
    z = np.append(PLACES, 0.0)  # at 0 too: the slope to the left, as the tables have it
    a = rows.function(row.forward_text, ("z",))(z)
    wanted, got = (
        rows.function(one.backward_text, ("g", "a", "z"))(np.ones_like(z), a, z)
        for one in (row, made)
    )
    assert_close(got, wanted, np.float64, k=64)


TABLED = [name for name, row in losses.TABLE.items() if not (row.statistic or "log_loss" in name)]


@pytest.mark.parametrize("name", TABLED)
def test_the_gradient_of_a_loss_that_is_made_is_that_of_the_table(name):
    row = losses.TABLE[name]
    z, t = PLACES, np.linspace(0, 1, len(PLACES))
    t = np.sign(t - 0.5) if row.domain.ends == "{}" else np.maximum(t, 1e-3) if row.domain.ends[0] == "(" else t
    arguments = (z, t, np.ones_like(z), *row.numbers(1))
    got = rows.function(rows.render(own.slope(row.value, "z"), row.names)[0], row.names)(*arguments)
    assert_close(got, rows.function(row.grad_text, row.names)(*arguments), np.float64, k=256)


def test_rows_pickle_and_are_their_own_copies():
    mish = fastbp.Activation("my_mish", "z * TANH(LOG1P(EXP(z)))")
    rule = twin(optimizers.TABLE["sgd_momentum"])
    for row in (mish, twin(losses.TABLE["mse"]), rule, rule(lr=0.1, weight_decay=0, momentum=0.9)):
        assert pickle.loads(pickle.dumps(row)) == row
    huber = twin(losses.TABLE["huber"])
    for chosen in (huber(delta=2.0), fourth_power(outputs="sum", output_weights=[1, 2])):
        assert pickle.loads(pickle.dumps(chosen)) == chosen == copy.deepcopy(chosen) != chosen.plain
    for row in (softsign_of_mine, fourth_power):
        assert pickle.loads(pickle.dumps(row)) is row and copy.deepcopy(row) is row
    net = fastbp.MLP((5, 4, 1), activation=[softsign_of_mine], seed=1, backend="reference")
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert np.array_equal(net.predict(X), other.predict(X))


def test_a_row_of_local_functions_says_why_it_is_not_pickled():
    @fastbp.activation(derivative=lambda z: 2 * z)
    def square(z):
        return z * z

    with pytest.raises(pickle.PicklingError, match="square.*at the top of an importable module"):
        pickle.dumps(fastbp.MLP((5, 4, 1), activation=square))


def test_what_math_refuses_is_nan():
    @fastbp.activation(derivative=lambda z: 1 / z)
    def logarithm(z):
        return math.log(z)

    with np.errstate(all="raise"):
        a = rows.function(logarithm.forward_text, ("z",), logarithm.words)(np.array([1.0, 0.0, -1.0], np.float32))
    assert a.dtype == np.float32 and a[0] == 0 and np.isnan(a[1:]).all()


# ------------------------------------------------------------------ rows on every backend

SHAPES = [(5, 3, 2), (5, 20, 4), (5, 40, 18)]  # tiny, narrow, wide outputs
ACTIVATIONS = [*map(twin, activations.TABLE.values()), tanh_of_mine, softsign_of_mine]
# not those whose value clips probabilities, which no derivative of it shows
LOSSES = [*(twin(row) for name, row in losses.TABLE.items() if "log_loss" not in name), fourth_power]
CASES = [
    (ACTIVATIONS[k % len(ACTIVATIONS)], LOSSES[k % len(LOSSES)], rule)
    for k, rule in zip(range(len(ACTIVATIONS)), itertools.cycle(optimizers.TABLE.values()))
]
PAIRS = next(case for case in CASES if case[1].grad_s)
RUNS = [("cython", *case) for case in CASES]
RUNS += [("numba", *case) for case in (CASES if every_case else [PAIRS, CASES[-1]])]  # each compiles for seconds


def numbers(row):
    """A number for each scalar of a rule."""
    known = {"lr": 1e-4, "step_size": 0.01, "weight_decay": 0.01, "kept": 0.99, "gradient_size": 0.01, "most": 0.1}
    return {name.replace("clip_value", "bound"): known.get(name, 0.5) for name in row.scalars}


def settings_of(loss, n_targets):
    """Other ones than the defaults, as far as there are any."""
    chosen = {setting.name: 0.7 if setting.name != "power" else 1.3 for setting in loss.settings}
    weights = {} if loss.statistic else {"output_weights": [k % 3 for k in range(1, n_targets + 1)]}
    return chosen | weights | {"outputs": "sum" if loss.outputs == "mean" else "mean"}


def targets_of(loss, shape):
    if loss.domain.ends == "{}":
        return RNG.choice([-1.0, 1.0], shape)
    return RNG.dirichlet(np.ones(shape[1]), shape[0])


@pytest.mark.parametrize("compiled, activation, loss, rule", RUNS, ids=lambda row: getattr(row, "name", row))
def test_own_rows_train_as_on_the_reference(compiled, activation, loss, rule, dtype):
    need(compiled)
    need_numba()
    own_rule = twin(rule)
    optimizer = own_rule(**numbers(rule))
    shapes = SHAPES[1:2] if compiled == "numba" else SHAPES
    for sizes, batch, weight, chosen in zip(shapes, (8, 37, 1), (None, RNG.integers(0, 3, 37), None),
                                            (compiled == "numba", True, True)):
        n_targets = loss.targets(sizes[-1])
        head = loss(**settings_of(loss, n_targets)) if chosen else loss
        y = targets_of(loss, (37, n_targets))
        if loss.labels and batch == 8:
            y = RNG.integers(0, sizes[-1], 37)
        found = []
        for name in (compiled, "reference"):
            net = fastbp.MLP(sizes, activation=activation, seed=3, backend=name, dtype=dtype)
            history = net.fit(X, y, loss=head, optimizer=optimizer, batch_size=batch, steps=5, sample_weight=weight)
            net.backward_update(net.forward(X) - X[:, : 1], optimizer)
            found.append((net.flatten(), net.predict(X), history.loss))
        for got, wanted in zip(*found):
            assert_close(got, wanted, dtype, k=10 * (sum(sizes) + batch))


INVERSE = fastbp.Activation("inverse", "1 / z")
SQUARES_APART = fastbp.Loss("squares_apart", "(z - t) * (z - t)", outputs="sum")


@pytest.mark.parametrize("batch", [1, 5, 9, 33])
@pytest.mark.parametrize("sizes", [(5, 3, 2), (5, 20, 4), (5, 40, 18)])  # tiny, narrow, wide outputs
def test_what_an_own_row_makes_of_places_past_the_batch_reaches_nothing(sizes, batch, isa, dtype):
    """There z is the bias, 0, whose inverse and its slope are infinite."""
    need_numba()
    x = np.random.default_rng(3).uniform(1, 2, size=(batch, 5))
    init = [(np.ones(s) / s[0], np.zeros(s[1])) for s in zip(sizes, sizes[1:])]
    run = {"loss": SQUARES_APART, "optimizer": fastbp.SGD(0.1), "batch_size": batch, "steps": 1}
    nets = []
    for name in ("cython", "reference"):
        nets.append(fastbp.MLP(sizes, activation=INVERSE, init=init, seed=1, dtype=dtype, backend=name))
        nets[-1].fit(x, np.ones((batch, sizes[-1])), **run)
    assert_close(nets[0].flatten(), nets[1].flatten(), dtype, k=batch + sum(sizes))


@pytest.mark.parametrize("sizes", [(5, 2), (5, 8), (5, 40)], ids=str)
@pytest.mark.parametrize("loss", [SQUARES_APART, twin(losses.gaussian_nll), twin(losses.softmax_cross_entropy)],
                         ids=lambda loss: loss.name)  # fmt: skip
def test_a_row_of_weight_0_is_left_out_of_an_own_loss_that_overflows(loss, sizes, backend, dtype):
    need_numba()
    rng, weight, found = np.random.default_rng(3), np.resize([1.0, 0, 2, 1, 0], 11), []
    x, y = rng.normal(size=(11, 5)) / 8, rng.dirichlet(np.ones(loss.targets(sizes[1])), 11)
    for far in (1.0, 0.9 * np.finfo(dtype).max):
        x[weight == 0] = far * np.array([1, -1, 1, 1, -1])
        net = fastbp.MLP(sizes, seed=1, dtype=dtype, backend=backend)
        net.weights[0][...] = np.resize([2, -2, 2, 2, -2, -2, 2], sizes)
        assert np.isfinite(net.predict(x[weight == 0])).all() == (far == 1)
        out = [*net.loss_and_grad(x, y, loss=loss, sample_weight=weight)]
        out += [net.fit(x, y, loss=loss, sample_weight=weight, batch_size=11, steps=2).loss, net.flatten()]
        assert all(np.isfinite(one).all() for one in out)
        found.append([np.asarray(one).tobytes() for one in out])
    assert found[0] == found[1]


OWN_ROWS_GUARDED = """
    import itertools, sys
    import numpy as np, fastbp
    from fastbp import _engine

    _engine.set_guard(True)
    dtype = sys.argv[1]
    mish = fastbp.Activation("mish_of_mine", "z * TANH(MAX(z, 0) + LOG1P(EXP(-ABS(z))))")
    squares = fastbp.Loss("squares", "(z - t) * (z - t)")
    momentum = fastbp.Optimizer("mine", state=["v"], update=[("v", "0.9 * v + g"), ("p", "p - lr * v")])
    rng = np.random.default_rng(0)
    furthest = 0.0  # from the reference
    for width, batch in itertools.product((1, 4, 7, 9, 16, 17, 25, 33, 50, 65), (1, 9, 31)):
        X, y = rng.normal(size=(40, width)), rng.normal(size=(40, 66 - width))
        found = []
        for backend in ("cython", "reference"):
            net = fastbp.MLP((width, width + 3, 66 - width), activation=mish, dtype=dtype, seed=0, backend=backend)
            net.fit(X, y, loss=squares, optimizer=momentum(lr=0.01), batch_size=batch, steps=4)
            net.backward_update(net.forward(X[:batch]), momentum(lr=0.01))
            found.append((net.flatten(), net.predict(X)))
        furthest = max(furthest, *(abs(a - b).max() for a, b in zip(*found)))
        del net
    print(furthest, _engine.allocations()[0])
"""


def test_own_rows_on_each_isa_touch_nothing_beside_their_tile(isa, dtype):
    """Their vectors are those of the kernels that call them: wider ones would reach into what lies beside."""
    need_numba()
    furthest, left = map(float, python(OWN_ROWS_GUARDED, dtype, timeout=240).split())
    assert left == 0
    assert_close(furthest, 0.0, dtype, k=400, scale=1)


def test_an_own_rule_takes_its_numbers_from_functions_of_the_step(backend):
    rule = fastbp.Optimizer("plain", update=[("p", "p - lr * g")])
    y = X[:, :1]
    one, other = (fastbp.MLP((5, 3, 1), seed=1, dtype=np.float64, backend=backend) for _ in range(2))
    one.fit(X, y, optimizer=rule(lr=lambda step: 0.1 / (1 + step)), batch_size=37, steps=4)
    for step in range(4):
        other.fit(X, y, optimizer=fastbp.SGD(lr=0.1 / (1 + step)), batch_size=37, steps=1)
    assert_close(one.flatten(), other.flatten(), np.float64)


def test_an_own_rule_takes_what_every_optimizer_takes(backend, dtype):
    """The twin of momentum with all that may be around it does what SGD with the same does."""
    around = {
        "l1": 0.01, "max_norm": 1.0, "clip_value": 0.1, "clip_norm": 0.3, "accumulate": 2, "average": 0.5,
        "lr_scale": (1.0, 0.5), "decay_scale": (0.5, 2.0), "bias_lr_scale": 2.0, "bias_decay_scale": 0.0,
    }  # fmt: skip
    rule = twin(optimizers.TABLE["sgd_momentum"])
    y = X[:, :1]
    for schedule in (0.1, fastbp.schedules.Cosine(0.1, steps=12), fastbp.schedules.ReduceOnPlateau(0.1, patience=0)):
        found = []
        numbers = {"momentum": 0.9, "weight_decay": 0.1}
        for optimizer in (rule(lr=schedule, **numbers, **around), fastbp.SGD(schedule, **numbers, **around)):
            net = fastbp.MLP((5, 9, 1), seed=1, dtype=dtype, backend=backend, dropout=0.2)
            net.freeze(1, weight=False)
            net.fit(X, y, optimizer=optimizer, batch_size=8, steps=13)
            found.append(np.concatenate([net.flatten(), net.averaged().flatten()]))
        assert_close(*found, dtype)


def test_names_of_an_own_rule_and_loss_may_be_any(backend):
    """The text that kernels are made of has names too."""
    rule = fastbp.Optimizer(
        "adam_of_mine", state=("m", "at"), scalars=("lr", "k", "n"),
        update=[
            ("m", "k * m + (1 - k) * g"), ("at", "n * at + (1 - n) * g * g"), ("p", "p - lr * m / (SQRT(at) + 0.1)")
        ],
    )  # fmt: skip
    loss = fastbp.Loss("huber_of_mine", losses.TABLE["huber"].value.replace("delta", "m"), settings={"m": 0.5, "n": 1})
    found = []
    for name in (backend, "reference"):
        net = fastbp.MLP((5, 9, 3), seed=1, dtype=np.float64, backend=name)
        net.fit(X, X[:, :3], loss=loss, optimizer=rule(lr=0.1, k=0.9, n=0.99), steps=6)
        net.update(rule(lr=0.1, k=0.9, n=0.99))
        found.append(net.flatten())
    assert_close(*found, np.float64, k=4)


@numba_only
def test_each_step_of_a_run_has_its_own_scalars():
    """The bias corrections of Adam, and a schedule, over steps of one call and of several."""
    rule = fastbp.Adam(lr=fastbp.schedules.Cosine(0.05, steps=40))
    found = []
    for name in ("numba", "reference"):
        net = fastbp.MLP((5, 9, 2), seed=1, dtype=np.float64, backend=name)
        history = net.fit(X, X[:, :2], optimizer=rule, batch_size=8, steps=23)
        net.fit(X, X[:, :2], optimizer=rule, batch_size=8, steps=4)
        found.append(np.concatenate([net.flatten(), history.loss]))
    assert_close(*found, np.float64, k=27)


@numba_only
@pytest.mark.parametrize(
    "network, optimizer",
    [({"dropout": 0.5}, fastbp.SGD()), ({}, fastbp.SGD(clip_norm=1.0)), ({}, fastbp.Adam(average=0.9))],
    ids=["dropout", "clip_norm", "average"],
)
def test_steps_that_its_kernels_do_not_serve_are_the_references(network, optimizer, capsys):
    found = []
    for name in ("numba", "reference"):
        net = fastbp.MLP((5, 9, 2), seed=1, backend=name, **network)
        net.fit(X, X[:, :2], optimizer=optimizer, batch_size=8, steps=6)
        found.append(net.flatten().tobytes())
        net.explain(optimizer=optimizer)
    assert found[0] == found[1]
    assert "steps of the reference backend" in capsys.readouterr().out


# Constants in words, a constant row, a choice between constants, a derivative that is a truth value.
ODD = ["z / SQRT(2)", "z * MAX(1, 2)", "ABS(-2) * z", "WHERE(1 > 0, z, 2)", "0.5", "WHERE(z > 0, 1, 2) * z"]
ODD = [fastbp.Activation(f"odd_{k}", expression) for k, expression in enumerate(ODD)]
ODD_LOSSES = [
    fastbp.Loss("odd_settings", "a * (z - t) * (z - t) + a_ * ABS(z - t)", settings={"a": 1.0, "a_": 5.0}),
    fastbp.Loss("odd_constant", "z - t"),
]
ODD_RULES = [
    fastbp.Optimizer("odd_slots", state=("v", "v_"), update=[("v", "SQRT(0.81) * v + g"), ("v_", "v_ / 2 + v"),
                                                             ("p", "p - lr * v_")])(lr=0.01),
    fastbp.Optimizer("odd_scalars", scalars=(), update=[("p", "p - 0.01 * g")])(),
]  # fmt: skip


@fastbp.activation(derivative=lambda z: z > 0)
def relu_of_mine(z):
    return max(z, 0.0)


@pytest.mark.parametrize("loss, rule", list(zip(ODD_LOSSES, ODD_RULES)))
@pytest.mark.parametrize("compiled", ["cython", "numba"])
def test_odd_rows_train_as_on_the_reference(compiled, loss, rule):
    need(compiled)
    nets = [
        fastbp.MLP((5, *[6] * len(ODD), 4, 2), activation=[*ODD, relu_of_mine], seed=2, backend=backend, dtype=float)
        for backend in (compiled, "reference")
    ]
    for net in nets:
        net.fit(X, X[:, :2], loss=loss, optimizer=rule, batch_size=8, steps=9)
        net.backward(net.forward(X[:3]))
        net.update(rule)
    assert_close(*(net.flatten() for net in nets), np.float64, k=16)


def refuses(z):
    if z > 0.5:
        raise ValueError("too large")
    return z


@pytest.mark.parametrize("sizes", [(1, 2, 1), (1, 40, 1)], ids=str)
def test_where_a_function_raises_its_value_is_nan_on_every_backend(backend, sizes):
    row = fastbp.activation(derivative=lambda z: 1.0)(refuses)
    net = fastbp.MLP(sizes, activation=row, init="zeros", seed=1, backend=backend)
    net.biases[0][0] = 1.0
    net.weights[1][1:] = 1.0  # of the other units, whose values are numbers
    x = np.zeros((3, 1))
    assert np.isnan(net.predict(x)).all()
    with pytest.raises(fastbp.NonFiniteError):
        net.fit(x, x, steps=1)
    net.biases[0][0] = 0.0
    assert (net.predict(x) == 0).all()


def calls_what_refuses(z):
    return refuses(z)


@numba_only
def test_functions_that_may_raise_are_told_from_others():
    from fastbp.backends.numba.lanes import _raises

    called = calls_what_refuses
    assert _raises(refuses, set()) and _raises(called, set()) and _raises(lambda z: called(z), set())
    assert not _raises(tanh_of_mine.words[0][1], set()) and not _raises(softsign_of_mine.words[0][1], set())


def imports(z):
    import math

    return math.exp(z)


def reads(z):
    return float(str(z))


@jit_only
@pytest.mark.parametrize("function, derivative", [(imports, lambda a: a), (reads, lambda z: 1.0)])
def test_functions_that_numba_cannot_compile_are_named_and_what_runs_them(backend, function, derivative):
    net = fastbp.MLP((3, 2), activation=[], output_activation=fastbp.activation(derivative=derivative)(function),
                     backend=backend)  # fmt: skip
    if backend == "reference":
        assert net.predict(np.ones((1, 3))).shape == (1, 2)
        return
    for call in (net.predict, lambda x: net.fit(x, [[1, 1]], steps=1)):
        with pytest.raises(TypeError, match=f"Numba cannot compile .*{function.__name__}.*backend='reference' runs"):
            call(np.ones((1, 3)))


def test_auto_takes_the_engine_for_own_rows_where_numba_is(monkeypatch):
    mish = fastbp.Activation("my_mish", "z * TANH(LOG1P(EXP(z)))")
    wanted = "cython" if backends.has_numba() and backends.missing("cython") is None else "reference"
    assert backends.resolve("auto", np.dtype(np.float32), [mish.name]) == wanted
    monkeypatch.setattr(backends, "has_numba", lambda: False)
    assert backends.resolve("auto", np.dtype(np.float32), [mish.name]) == "reference"


WITHOUT = """
    import sys
    sys.modules["numba"] = None   # an import fails
    import numpy as np, fastbp
    mish = fastbp.Activation("my_mish", "z * TANH(LOG1P(EXP(z)))")
    net = fastbp.MLP((2, 3, 1), activation=mish, seed=1)
    net.fit(np.ones((4, 2)), np.ones(4), steps=3)
    for backend in ("cython", "numba"):
        try:
            fastbp.MLP((2, 3, 1), activation=mish, backend=backend).predict(np.ones((4, 2)))
        except RuntimeError as error:
            print(error)
    fastbp.MLP((2, 3, 1), seed=1).compile()
    print("numba" in str(fastbp.backends.config.config()["backend numba"]))
"""


def test_without_numba_all_else_works_and_the_message_says_what_to_install():
    lines = python(textwrap.dedent(WITHOUT)).splitlines()
    assert len(lines) == 3 and lines[2] == "True"
    for line in lines[:2]:
        assert "pip install 'fastbp[numba]'" in line and "reference" in line
    assert backends.missing("cython") is not None or "'my_mish'" in lines[0]


def test_numba_is_imported_when_it_is_first_needed():
    script = "import sys, fastbp; fastbp.MLP((2, 1)).predict([[1, 2]]); print({'numba', 'fastbp.own'} & {*sys.modules})"
    assert python(script).strip() == "set()"


# ------------------------------------------------------------------ compiled words

ULPS = 4
WORDS = {"EXP": np.exp, "EXPM1": np.expm1, "LOG": np.log, "LOG1P": np.log1p, "TANH": np.tanh, "SQRT": np.sqrt}


@numba_only
@pytest.mark.parametrize("word", WORDS)
def test_words_are_within_4_ulps(word, dtype):
    """Of what long double gives; `make ulp` measures the same series in C++ over all floats."""
    from numba import typeof

    from fastbp.backends.numba import cache

    n = 64 // dtype.itemsize
    text = f"def f(x, y):\n    for k in range(0, len(x), {n}):\n        store(y, k, {word}(load(x, k, {n})))\n"
    made = cache.module(text)
    scales = (1e-30, 1e-8, 1e-3, 1, 10, 100, 700)
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    ends = [0, -0.0, np.inf, -np.inf, np.nan, info.tiny, -info.tiny, info.smallest_subnormal, info.max, -info.max]
    x = np.concatenate([*(rng.normal(size=20_000) * scale for scale in scales), ends * n]).astype(dtype)
    y = np.empty_like(x)
    cache.function(made, "f", (typeof(x), typeof(y)))(x, y)
    with np.errstate(all="ignore"):
        exact = WORDS[word](x.astype(np.longdouble))
        wanted = exact.astype(dtype)
        finite = np.isfinite(wanted)
        ulps = np.abs(y[finite] - exact[finite]) / np.spacing(np.abs(wanted[finite]))
    assert ulps.max() <= ULPS
    assert np.array_equal(y[~finite], wanted[~finite], equal_nan=True)
    assert np.array_equal(np.signbit(y[x == 0]), np.signbit(wanted[x == 0]))


@numba_only
def test_the_words_of_several_numbers_are_numpys_also_of_nan(dtype):
    from numba import typeof

    from fastbp.backends.numba import cache

    every = np.array([np.nan, -np.inf, np.inf, 0.0, 1.0, -1.0, 1e-3, 2.5], dtype)
    x, y = (np.ascontiguousarray(grid.ravel()) for grid in np.meshgrid(every, every))
    n = 64 // dtype.itemsize
    vectors = f"load(x, k, {n}), load(y, k, {n})"
    lines = [f"store(to[{row}], k, {word})" for row, word in enumerate((f"MAX({vectors})", f"MIN({vectors})",
             f"WHERE(load(x, k, {n}) < load(y, k, {n}), {vectors})"))]  # fmt: skip
    made = cache.module(f"def f(x, y, to):\n    for k in range(0, len(x), {n}):\n        " + "; ".join(lines) + "\n")
    to = tuple(np.empty_like(x) for _ in lines)
    cache.function(made, "f", tuple(map(typeof, (x, y, to))))(x, y, to)
    for got, wanted in zip(to, (np.maximum(x, y), np.minimum(x, y), np.where(x < y, x, y)), strict=True):
        assert np.array_equal(got, wanted, equal_nan=True)


@numba_only
def test_the_order_of_rows_is_philoxs():
    from fastbp.backends.numba import program as jit
    from fastbp.backends.plan import make_plan
    from fastbp.order import epoch_order

    for seed, epoch, n in ((0, 0, 1), (2**64 - 1, 3, 2), (7, 2**40, 100), (1, 1, 1000), (1, 0, 65_536), (1, 0, 65_537)):
        order = np.zeros(n, np.int64)
        plan = make_plan(fastbp.MLP((1, 1))._spec, 1, backend="numba")
        program = backends.program("numba")(plan, np.zeros(64))
        program._call(jit._ORDER, "fill", np.uint64(seed), epoch, n, order)
        assert np.array_equal(order, epoch_order(seed, epoch, n))


# ------------------------------------------------------------------ the cache

TRAIN = """
    import sys, numpy as np, fastbp
    X = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    net = fastbp.MLP((2, 3, 1), activation="tanh", seed=1, backend="numba")
    net.fit(X, X[:, 0], steps=10, batch_size=4)
    from fastbp.backends.numba import program as jit
    kept = [f._cache_hits for f in net._programs._idle.popitem()[1][0]._functions.values() if hasattr(f, "_cache_hits")]
    print(sum(sum(hits.values()) for hits in kept), net.flatten().tobytes().hex())
"""


def trained(folder):
    """Cache hits of a process, and the bits it trained."""
    hits, bits = python(textwrap.dedent(TRAIN), timeout=240, XDG_CACHE_HOME=str(folder), NUMBA_OPT="0").split()
    return int(hits), bits


@jit_only
def test_compiled_code_is_kept_in_a_private_folder_and_garbage_is_compiled_again(tmp_path):
    first, bits = trained(tmp_path)
    folder = tmp_path / "fastbp"
    files = sorted(folder.iterdir())
    assert first == 0 and files
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and all(not f.stat().st_mode & 0o077 for f in files)
    assert trained(tmp_path) == (1, bits)
    for file in files:  # cut off, turned over, and empty
        file.write_bytes(file.read_bytes()[:-100])
    assert trained(tmp_path) == (0, bits) and trained(tmp_path) == (1, bits)
    for file in sorted(folder.iterdir()):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert trained(tmp_path) == (0, bits)


@numba_only
@pytest.mark.parametrize("base", ["", "caches", "./caches"])
def test_the_working_directory_holds_no_cache(base, tmp_path, monkeypatch):
    from fastbp.backends.numba import cache

    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    assert cache.folder() == tmp_path / "home" / ".cache" / "fastbp"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@numba_only
def test_a_folder_is_private_or_is_none(tmp_path, monkeypatch):
    from fastbp.backends.numba import cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "fastbp"
    assert cache.folder() == folder and stat.S_IMODE(folder.stat().st_mode) == 0o700
    for mode in (0o720, 0o702, 0o740, 0o701, 0o777):
        folder.chmod(mode)
        assert cache.folder() is None, oct(mode)
    folder.chmod(0o700)
    assert cache.folder() == folder
    with monkeypatch.context() as another:
        another.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
        assert cache.folder() is None
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert cache.folder() is None


@numba_only
def test_of_many_files_in_the_cache_the_oldest_give_way(tmp_path, monkeypatch):
    from fastbp.backends.numba import cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_MOST_FILES", 3)
    made = types.SimpleNamespace(library=types.SimpleNamespace(has_dynamic_globals=False), _reduce=lambda: ())
    saved = []
    for age in (3, 9, 7, 8, 1):
        cache._Disk("text", f"function_{age}").save_overload((), made)
        (new,) = set((tmp_path / "fastbp").iterdir()) - set(saved)
        os.utime(new, (1000 - age, 1000 - age))
        saved.append(new)
    # A file is the newest as it is saved: 9 goes with the fourth, 8 with the fifth.
    assert [file.exists() for file in saved] == [True, False, True, False, True]


@numba_only
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path):
    (tmp_path / "fastbp").mkdir()
    (tmp_path / "fastbp").chmod(0o777)
    hits, _ = trained(tmp_path)
    assert hits == 0 and not any((tmp_path / "fastbp").iterdir())
    file = tmp_path / "file"
    file.write_text("")
    assert trained(file)[0] == 0  # no folder can be made there


@jit_only
def test_two_processes_may_compile_at_once(tmp_path):
    found = []
    both = [threading.Thread(target=lambda: found.append(trained(tmp_path))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len({bits for _, bits in found}) == 1 and trained(tmp_path) == (1, found[0][1])


PLAIN = """
    import numpy as np, fastbp
    rng = np.random.default_rng(1)
    names, heads = list(fastbp.activations.TABLE), list(fastbp.losses.TABLE)
    own = fastbp.Activation("my_mish", "z * TANH(LOG1P(EXP(z)))")
    for k in range(48):   # every other one has a layer wider than those of `columns`
        sizes = tuple(map(int, rng.integers(1, 20, rng.integers(2, 4))))
        sizes = (int(rng.integers(33, 50)), *sizes) if k % 2 else sizes
        batch, loss = int(rng.choice([1, 2, 3, 5, 8, 9, 17])), heads[k % len(heads)]
        n = batch + int(rng.integers(0, 4))
        row = fastbp.losses.TABLE[loss]
        if row.grad_s:
            sizes = (*sizes[:-1], 2 * sizes[-1])
        n_targets = row.targets(sizes[-1])
        X, y = rng.normal(size=(n, sizes[0])), rng.dirichlet(np.ones(n_targets), n)
        if row.domain.ends == "{}":
            y = np.sign(y - 0.5)
        if row.labels and k < 24:
            y = rng.integers(0, sizes[-1], n)
        weights = None if k % 3 or row.statistic else np.arange(1.0, n_targets + 1)
        loss = row(outputs="sum" if k % 2 else "mean", **({} if weights is None else {"output_weights": weights}))
        rule, found = [fastbp.SGD(1e-3, momentum=0.5), fastbp.Adam(), fastbp.SGD(1e-3), fastbp.Rprop()][k % 4], []
        batch = n if k % 4 == 3 else batch
        for backend in ("numba", "reference"):
            activation = own if k == 7 else names[k % len(names)]
            net = fastbp.MLP(sizes, activation=activation, bias=k % 5 > 0, seed=3, backend=backend, dtype=float)
            history = net.fit(X, y, loss=loss, optimizer=rule, batch_size=batch, epochs=2)
            parts = [net.flatten(), history.loss, net.loss_and_grad(X, y, loss=loss)[1]]
            parts.append(net.backward(net.forward(X) - 1).ravel())
            net.update(rule)
            found.append(np.concatenate([*parts, net.flatten()]))
        print(np.abs(found[0] - found[1]).max() / max(1, np.abs(found[1]).max()))
    if fastbp.backends.missing("cython") is None:   # functions of rows are called back
        nets = [fastbp.MLP((3, 9, 5), activation=own, seed=1, backend=b, dtype=float) for b in ("cython", "reference")]
        square = fastbp.Loss("square", "(z - t) * (z - t)")
        for net in nets:
            net.fit(np.ones((4, 3)), np.ones((4, 5)), steps=5, loss=square)
        print(np.abs(nets[0].flatten() - nets[1].flatten()).max())
    from fastbp.backends.numba import program as jit   # data that are cast piece by piece
    jit._STAGED_ELEMENTS = 600
    X = rng.normal(size=(500, 3))
    for batch in (7, 32, 3):
        nets = [fastbp.MLP((3, 4, 2), seed=1, backend=b, dtype=np.float32) for b in ("numba", "reference")]
        for net in nets:
            net.fit(X, X[:, :2], batch_size=batch, epochs=1, n_threads=1)
        print(np.abs(nets[0].flatten() - nets[1].flatten()).max() * 1e-9)   # of float32
"""


@numba_only
def test_with_numba_disabled_the_same_text_runs_in_python_on_many_shapes():
    """Where an index is past the end, shapes do not fit; compiled code would not notice."""
    worst = list(map(float, python(textwrap.dedent(PLAIN), NUMBA_DISABLE_JIT="1", timeout=240).split()))
    assert len(worst) == 48 + (backends.missing("cython") is None) + 3
    assert_close(worst, np.zeros(len(worst)), np.float64, k=100, scale=1)


EDGES = """
    import numpy as np, fastbp
    from fastbp.backends.numba import program as jit
    from tolerance import assert_close

    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(9, 2)), rng.normal(size=(9, 3))
    cube = fastbp.Activation("cube", "z * z * z")

    def nets(hidden, *backends, **options):
        return [fastbp.MLP((2, hidden, 3), seed=1, dtype=float, backend=backend, **options) for backend in backends]

    for hidden in (4, 40):   # `columns`, `tiles`
        # a row of weight 0 has no part, whatever its loss is, and a batch of such rows none; small weights are weights
        ours, theirs, spoiled = nets(hidden, "numba", "reference", "numba")
        weight, far, values = np.array([0, 2, 0.1, 0, 0, 0, 1e-3, 1e-4, 0]), y.copy(), []
        far[weight == 0] = 1.7e308   # whose gradient overflows too
        for net, t in ((ours, y), (theirs, y), (spoiled, far)):
            history = net.fit(X, t, sample_weight=weight, batch_size=3, epochs=2)
            values.append([*history.loss, net.loss_and_grad(X, t, loss="mse", sample_weight=weight / 9)[0]])
        assert_close(ours.flatten(), theirs.flatten(), float)
        assert_close(*values[:2], float)
        assert spoiled.flatten().tobytes() == ours.flatten().tobytes() and values[0] == values[2]

        # what lies beside the batch overflows: its inputs are 0, the biases are not
        for activation in (["identity", "relu"], ["identity", "silu"], [cube, "relu"]):
            net = fastbp.MLP((2, hidden, hidden, 3), seed=1, dtype=float, backend="numba", activation=activation)
            net.weights[0][...], net.biases[0][...], net.weights[1][...] = -1.5e308, 1.5e308, 4
            before = net.flatten()
            net.fit([[0.5, 0.5]] * 3, np.ones((3, 3)), steps=1, batch_size=3, optimizer=fastbp.SGD(0.0))
            assert np.array_equal(net.flatten(), before), activation

        # a bias overflows, and no weight
        (net,) = nets(hidden, "numba", init="zeros")
        try:
            net.fit(0 * X, 0 * y + 100, batch_size=9, steps=1, optimizer=fastbp.SGD(1e308))
        except fastbp.NonFiniteError:
            assert net.step == 0 and not net.flatten().any()
        else:
            raise AssertionError("a bias overflowed unseen")

        # the order of another seed, of other rows, of the next epoch; more rows than are gathered at once
        ours, theirs = nets(hidden, "numba", "reference")
        for n, run in ((9, {"seed": 5}), (9, {"seed": 6}), (8, {}), (9, {}), (600, {}), (600, {"shuffle": False})):
            batch, epochs = (150, 2) if n == 600 else (2, 1)
            for net in (ours, theirs):
                net.reset_training()
                net.fit(np.resize(X, (n, 2)), np.resize(y, (n, 3)), batch_size=batch, epochs=epochs, **run)
            assert_close(ours.flatten(), theirs.flatten(), float, what=f"{n} rows, {run}")

    jit._STAGED_ELEMENTS = 60   # data that are cast piece by piece, over epochs; of the scalars the first one stays
    rule = fastbp.Optimizer("falls", scalars=("k", "lr"), update=[("p", "p - k * lr * g")])
    rule = rule(k=0.5, lr=fastbp.schedules.Cosine(0.3, steps=40))
    run = {"batch_size": 7, "epochs": 3, "optimizer": rule}
    for hidden in (4, 40):
        for shuffle in (True, False):
            found = []
            for net in nets(hidden, "numba", "reference"):
                history = net.fit(np.resize(X, (90, 2)).astype("f4"), np.resize(y, (90, 3)), shuffle=shuffle, **run)
                found.append(np.concatenate([net.flatten(), history.loss]))
            assert_close(*found, float)
    print("all")
"""


@numba_only
def test_with_numba_disabled_the_same_text_is_right_at_its_edges():
    paths = os.pathsep.join((IMPORTED_FROM, os.path.dirname(__file__)))  # its bounds are those of tolerance.py
    assert python(textwrap.dedent(EDGES), NUMBA_DISABLE_JIT="1", PYTHONPATH=paths, timeout=240) == "all\n"


# ------------------------------------------------------------------ threads and forks


@numba_only
def test_two_threads_train_at_once_and_the_bits_are_those_of_one():
    def train():
        net = fastbp.MLP((5, 9, 1), activation="tanh", seed=1, backend="numba")
        net.fit(X, X[:, 0], steps=2000, batch_size=8)
        return net.flatten().tobytes()

    found = []
    threads = [threading.Thread(target=lambda: found.append(train())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and set(found) == {train()}


@numba_only
def test_padding_is_no_parameter_whatever_it_holds():
    """In no step, and not in the search for the step that made a parameter overflow."""
    found = []
    for value in (0, np.nan):
        net = fastbp.MLP((5, 9, 1), activation="tanh", seed=1, backend="numba")  # which the test above compiles
        beside = np.ones(net.params.shape, bool)
        for view in net._spec.views(beside):
            view[...] = False
        assert beside.any()
        net.params[beside] = value
        rule = fastbp.SGD(lambda step: 1e-3 if step < 5 else 3e38)
        with pytest.raises(fastbp.NonFiniteError, match="a parameter") as error:
            net.fit(X, 100 * X[:, 0], steps=6, batch_size=8, optimizer=rule)
        assert error.value.step == net.step == 5
        found.append(net.flatten().tobytes())
    assert found[0] == found[1]


@numba_only
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_goes_on_with_compiled_code():
    out = python(textwrap.dedent("""
        import os, numpy as np, fastbp
        X = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
        net = fastbp.MLP((2, 3, 1), seed=1, backend="numba")
        net.fit(X, X[:, 0], steps=10)
        if os.fork() == 0:
            net.fit(X, X[:, 0], steps=10)
            new = fastbp.MLP((2, 4, 1), seed=1, backend="numba")   # compiled here
            new.fit(X, X[:, 0], steps=10)
            print(net.flatten().sum(), flush=True)
            os._exit(0)
        assert os.wait()[1] == 0
        net.fit(X, X[:, 0], steps=10)
        print(net.flatten().sum())
    """), NUMBA_OPT="0")  # fmt: skip
    child, parent = out.split()
    assert child == parent


# ------------------------------------------------------------------ compile


@pytest.mark.parametrize("name", ["reference", "cython", "numba"])
def test_compile_with_a_name_stays_with_it(name):
    need(name)
    net = fastbp.MLP((3, 4, 1), seed=1)
    before = net.flatten()
    assert net.compile(name, batch_size=7, loss="mse") > 0
    assert net.backend == name and pickle.loads(pickle.dumps(net)).backend == name
    assert net.step == 0 and np.array_equal(net.flatten(), before)


@numba_only
def test_compile_without_a_name_takes_the_faster(monkeypatch):
    from fastbp.backends import fastest

    need("cython")
    seconds = {"cython": 1e-3, "numba": 2e-3}
    monkeypatch.setattr(fastest, "_seconds", lambda candidate, steps: steps * seconds[candidate.backend])
    for faster, slower in (("cython", "numba"), ("numba", "cython")):
        seconds[faster], seconds[slower] = 1e-3, 2e-3
        net = fastbp.MLP((3, 4, 2), activation=softsign_of_mine, seed=1)
        net.compile(loss="softmax_cross_entropy", batch_size=4)
        assert net.backend == faster


def test_compile_takes_what_can_serve(capsys):
    net = fastbp.MLP((3, 4, 1), dtype=np.float16)
    net.compile()
    assert net.backend == "reference"
    with pytest.raises(RuntimeError, match="lacks dtype float16"):
        net.compile("cython") if backends.missing("cython") is None else net.compile("numba")
    assert net.backend == "reference"
    with pytest.raises(ValueError, match="backend.*did you mean 'numba'"):
        net.compile("nunba")


@numba_only
def test_explain_tells_the_family(capsys):
    for sizes, family in (((3, 4, 1), "columns"), ((3, 40, 1), "tiles")):
        fastbp.MLP(sizes, backend="numba").explain()
        out = capsys.readouterr().out
        assert "backend     numba" in out and out.count(family) >= 2 and "NumPy's own" not in out




def test_an_order_that_was_filled_as_a_signal_came_is_filled_again(monkeypatch):
    """Data of another dtype and more elements than are cast at once; the order of their rows is kept for an epoch."""
    from fastbp.backends.numba import program as jit

    rows = np.random.default_rng(0).normal(size=(1100, 1000))
    targets, run = rows[:, :1].copy(), {"batch_size": 550, "epochs": 1, "optimizer": fastbp.SGD(0.5)}

    def trained(interrupted):
        net = fastbp.MLP((1000, 2, 1), seed=0, backend="numba")
        net.fit(rows, targets, **run)
        if interrupted:
            original = jit.Program._call

            def call(program, text, name, *arguments):
                original(program, text, name, *arguments)
                if name == "fill":
                    raise KeyboardInterrupt

            monkeypatch.setattr(jit.Program, "_call", call)
            with pytest.raises(KeyboardInterrupt):
                net.fit(rows, targets, **run)
            monkeypatch.undo()
        net.reset_training()
        net.unflatten(np.full(net.n_params, 0.01))
        net.fit(rows, targets, **run)
        return net.flatten()

    assert np.array_equal(trained(False), trained(True))
