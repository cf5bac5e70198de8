"""`MLP.trace`: its numbers are those of the library, its formulas give them, and it can be read in three forms."""

import ast
import copy
import itertools
import pickle
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import every_case
from targets import targets
from test_known_answers import MAZUR_T, MAZUR_X, mazur
from tolerance import assert_close

import fastbp
from fastbp import SGD, activations, losses
from fastbp.inspection.formulas import GAP, Equation, Html, Latex, Text, Writer, grid, names
from fastbp.rows import VOCABULARY, Activation, Loss, function

RULES = [
    SGD(0.1), SGD(0.1, weight_decay=0.01), SGD(0.1, clip_value=0.01),
    SGD(0.1, 0.9), fastbp.Adam(weight_decay=0.01), fastbp.Adam(amsgrad=True),
    fastbp.NAdam(), fastbp.RAdam(), fastbp.RMSprop(), fastbp.RMSprop(momentum=0.9), fastbp.RMSprop(centered=True),
    fastbp.RMSprop(centered=True, momentum=0.9), fastbp.Adagrad(), fastbp.Adadelta(), fastbp.Lion(), fastbp.Rprop(),
    SGD(0.1, 0.9, nesterov=True, weight_decay=0.01),
]  # fmt: skip

CHOSEN = [
    losses.huber(delta=2.0), losses.quantile(quantile=0.9), losses.tweedie(power=1.25), losses.focal(alpha=0.25),
    losses.mse(outputs="sum"), losses.mse(output_weights=(1, 0, 2.5, 0.5)), losses.gaussian_nll(eps=0.5),
    losses.mse(outputs="sum", output_weights=(0.25, 3, 1, 0)), losses.softmax_cross_entropy(label_smoothing=0.1),
    losses.gaussian_nll(output_weights=(3, 0.5)), losses.half_squared_error(outputs="mean"),
]  # fmt: skip
WORDS = {*VOCABULARY, "SUM", "SUM_ROWS", "SUM_OUTPUTS", "FIRST_HALF", "SECOND_HALF", "JOINED"}


def pairs(these, those):
    """Each of these with each of those, or unless every case is wanted each with one of the others."""
    if every_case:
        return list(itertools.product(these, those))
    many = max(len(these), len(those))
    return list(itertools.islice(zip(itertools.cycle(these), itertools.cycle(those)), many))


ACTIVATION_AND_LOSS = pairs(activations.TABLE, losses.TABLE)


def called(loss):
    """A loss with what is chosen of it, for the name of a test."""
    return f"{loss.name}({', '.join(f'{name}={value}' for name, value in loss.given)})"


def problem(loss="mse", sizes=(3, 5, 4), n=6, dtype=np.float64, **network):
    rng, row = np.random.default_rng(len(sizes)), losses.TABLE.get(loss, loss)
    if row.from_logits:
        network["output_activation"] = "identity"
    net = fastbp.MLP(sizes, dtype=dtype, seed=1, **network)
    for weight, bias in zip(net.weights, net.biases):
        weight /= 2  # an exponential of an exponential is soon too large
        bias[...] = rng.normal(size=bias.shape) / 2
    known = row.name if row.name in losses.TABLE else "mse"
    return net, rng.normal(size=(n, sizes[0])), targets(rng, known, n, sizes[-1])


def bits(array):
    """The bits that carry a value: a long double has padding."""
    return array.tobytes() if array.itemsize <= 8 else array.tolist()


def state(net):
    slots = [bits(net._spec.flatten(slot)) for _, slot in sorted(net._state.slots.items())]
    return bits(net.flatten()), slots, net.step, net._state.place.tolist()


def flat(steps, what):
    """One number of each parameter of a trace, in the order of `flatten`."""
    parameters = [part for layer in steps.layers for part in (layer.weight, layer.bias) if part is not None]
    return np.concatenate([getattr(part, what).ravel() for part in parameters])


# ------------------------------------------------------------------ the numbers are those of the library


def check_against_the_verbs(net, X, t, loss, rule, weight=None):
    before = state(net)
    steps = net.trace(X, t, loss=loss, optimizer=rule, sample_weight=weight)
    assert state(net) == before
    value, gradient = net.loss_and_grad(X, t, loss=loss, sample_weight=weight)
    assert steps.loss_before == value
    assert bits(flat(steps, "value")) == before[0]
    assert bits(flat(steps, "grad")) == bits(gradient)
    net.train_step(X, t, loss=loss, optimizer=rule, sample_weight=weight)
    assert bits(flat(steps, "new")) == bits(net.flatten()) != before[0]
    for name in rule.row.state:
        new = [part.new_slots[name].ravel() for layer in steps.layers for part in (layer.weight, layer.bias) if part]
        assert bits(np.concatenate(new)) == bits(net._spec.flatten(net._state.slots[name]))
    assert steps.loss_after == net.evaluate(X, t, loss=loss, sample_weight=weight)
    return steps


@pytest.mark.parametrize("activation, loss", ACTIVATION_AND_LOSS)
def test_a_trace_is_a_train_step_for_every_activation_and_loss(activation, loss, kernels, dtype):
    net, X, t = problem(loss, activation=activation, output_activation=activation, dtype=dtype, backend=kernels)
    check_against_the_verbs(net, X, t, loss, SGD(0.1))


@pytest.mark.parametrize("loss", CHOSEN, ids=called)
def test_a_trace_is_a_train_step_for_a_loss_with_settings(loss, backend, dtype):
    net, X, t = problem(loss, activation="tanh", output_activation="tanh", dtype=dtype, backend=backend)
    steps = check_against_the_verbs(net, X, t, loss, SGD(0.1), np.arange(6) / 2)
    assert steps.loss == loss and steps.loss_before != net.trace(X, t, loss=loss.name, lr=0.1).loss_before


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.row.name)
def test_a_trace_is_a_train_step_for_every_optimizer_on_the_way(rule, weighted, kernels, dtype):
    net, X, t = problem(sizes=(3, 9, 5, 1), n=11, activation="tanh", dtype=dtype, backend=kernels)
    rows = len(X) if rule.full_batch else 4
    net.fit(X, t, optimizer=rule, batch_size=rows, steps=5)  # the slots are no zeros, the epoch is not at its end
    check_against_the_verbs(net, X, t, "mse", rule, np.arange(11) % 4.0 if weighted else None)


def test_a_step_that_is_more_than_its_rule_is_refused():
    net, X, t = problem()
    for rule in (SGD(0.1, l1=0.1), SGD(0.1, clip_norm=1.0), SGD(0.1, lr_scale=(1, 2)), SGD(0.1, accumulate=2)):
        with pytest.raises(ValueError, match="trace shows a rule by itself"):
            net.trace(X, t, optimizer=rule)
    net.freeze(0)
    with pytest.raises(ValueError, match="trace shows a rule by itself"):
        net.trace(X, t, lr=0.1)
    with pytest.raises(ValueError, match="no dropout"):
        problem(dropout=0.5)[0].trace(X, t, lr=0.1)


def test_every_optimizer_row_is_tried():
    without_class = {"sgd_velocity", "sgd_velocity_nesterov"}
    assert {rule.row.name for rule in RULES} == set(fastbp.optimizers.TABLE) - without_class


@pytest.mark.parametrize("activation", activations.TABLE)
def test_z_a_g_and_delta_are_those_of_the_textbook(activation, kernels, dtype):
    """Each from the one before, and the gradients of the kernels from the deltas of the trace."""
    net, X, t = problem(activation=activation, output_activation="tanh", dtype=dtype, backend=kernels)
    steps = net.trace(X, t, lr=0.1)
    x, k = X.astype(dtype), 50
    for layer, weight, bias in zip(steps.layers, net.weights, net.biases):
        assert_close(layer.z, x @ weight + bias, dtype, what="z")
        row = layer.activation
        assert_close(layer.a, function(row.forward_text, ("z",))(layer.z), dtype, what="a")
        assert_close(layer.weight.grad, x.T @ layer.delta, dtype, k, what="grad_weight")
        assert_close(layer.bias.grad, layer.delta.sum(axis=0), dtype, k, what="grad_bias")
        near = 1e-6 * (function(row.forward_text, ("z",))(layer.z.astype(float) + 5e-7)
                       - function(row.forward_text, ("z",))(layer.z.astype(float) - 5e-7)) / 1e-12  # fmt: skip
        assert np.abs(layer.delta - layer.g * near).max() < 1e-5 * np.abs(layer.g).max()
        x = layer.a
    for below, above in zip(steps.layers, steps.layers[1:]):
        assert_close(below.g, above.delta @ above.weight.value.T, dtype, what="g")
    assert_close(steps.layers[-1].g, 2 * (x - t) / t.size, dtype, what="g of the output")
    assert_close(x, net.predict(X), dtype, k, what="output")


def test_mazurs_step_has_its_true_numbers_to_nine_digits(backend):
    steps = mazur(backend).trace(MAZUR_X, MAZUR_T, loss="half_squared_error", lr=0.5)
    text = steps.to_text(digits=9)
    for number in ("0.298371109", "0.149780716", "0.199561432", "0.249751144", "0.299502287", "0.35891648 ",
                   "0.408666186", "0.51130127 ", "0.561370121"):  # fmt: skip
        assert number in text
    assert "0.291027924" not in text  # a gradient through the new weights


def test_lr_is_plain_sgd_and_nothing_is_the_default_of_train_step():
    net, X, t = problem()
    assert (flat(net.trace(X, t, lr=0.3), "new") == flat(net.trace(X, t, optimizer=SGD(0.3)), "new")).all()
    assert (flat(net.trace(X, t), "new") == flat(net.trace(X, t, optimizer="adam"), "new")).all()
    assert net.trace(X, t, lr=0.3).scalars == {"lr": 0.3}


def test_labels_become_rows_with_a_single_one():
    net, X, _ = problem("softmax_cross_entropy")
    steps = net.trace(X, [0, 3, 1, 2, 2, 0], loss="softmax_cross_entropy")
    assert steps.t.tolist() == np.eye(4)[[0, 3, 1, 2, 2, 0]].tolist()
    assert check_against_the_verbs(net, X, [0, 3, 1, 2, 2, 0], "softmax_cross_entropy", SGD(0.1))


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble])
def test_a_dtype_that_only_the_reference_has(dtype):
    net, X, t = problem(dtype=dtype)
    steps = check_against_the_verbs(net, X, t, "mse", SGD(0.1, 0.5))
    assert steps.layers[0].z.dtype == dtype and "z1" in str(steps) and steps.to_latex()


def test_a_pending_forward_stays():
    net, X, t = problem()
    net.forward(X)
    net.trace(X, t)
    assert net.backward(t).shape == X.shape


def test_a_trace_is_a_value():
    net, X, t = problem()
    weight = np.arange(1.0, 1 + len(X))
    steps = net.trace(X, t, optimizer=SGD(0.1, 0.9), sample_weight=weight)
    text = str(steps)
    net.weights[0][...], X[...], t[...], weight[...] = 7, 7, 7, 7
    assert str(steps) == str(pickle.loads(pickle.dumps(steps))) == str(copy.deepcopy(steps)) == text
    layer = steps.layers[0]
    for array in (steps.x, steps.t, steps.sample_weight, layer.z, layer.delta, layer.weight.new,
                  layer.bias.new_slots["velocity"]):  # fmt: skip
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert len(repr(steps)) < 120 and "3-5-4" in repr(steps)


# ------------------------------------------------------------------ the formulas give the numbers


def f_and_df(steps, called):
    """A row's forward and its derivative, or a loss's value and gradient: `f` and `df` of the formulas."""
    rows = {layer.activation.name: layer.activation for layer in steps.layers}
    name, _, by = called.partition("'")
    if name not in rows:
        loss = steps.loss
        assert name == loss.name
        return of_loss(loss, loss.value_text), of_loss(loss, loss.grad_s_text if by == "_s" else loss.grad_text)
    forward, back = function(rows[name].forward_text, ("z",)), function(rows[name].backward_text, ("g", "a", "z"))
    return forward, lambda z: back(np.ones_like(z), forward(z), z)


def of_loss(row, text):
    """A function of what a formula hands to a loss that it calls by name: z, t, s, and the settings that are not None.

    All that is taken from the row beside them are its constants, which are made from the settings handed over.
    """
    settings = [setting.name for setting in row.settings if row.chosen[setting.name] is not None]

    def f(z, t, *others):
        third = others[: len(others) - len(settings)]
        given = row.plain(**dict(zip(settings, others[len(third) :], strict=True)))
        return function(text, row.names)(z, t, *(third or (0.0,)), *given.numbers(t.shape[1]))

    return f


def evaluated(steps, equation):
    from fastbp.rows import WORDS

    words = {
        **{name: function(row.forward_text, ("z",)) for name, row in activations.TABLE.items()},
        **WORDS, "R": float, "SUM": np.sum, "SUM_ROWS": lambda v: v.sum(axis=0),
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "SUM_OUTPUTS": lambda v: v.sum(axis=1, keepdims=True), "JOINED": lambda *parts: np.concatenate(parts, axis=1),
        "FIRST_HALF": lambda v: v[:, : v.shape[1] // 2], "SECOND_HALF": lambda v: v[:, v.shape[1] // 2 :],
    }  # fmt: skip
    if equation.called:
        words["f"], words["df"] = f_and_df(steps, next(iter(equation.called.values())))
    return eval(equation.right, words, dict(equation.values))


def equations(steps, limit=8):
    return [item for _, content in steps._sections(limit) for item in content if isinstance(item, Equation)]


def check_formulas(steps):
    """Each formula gives the number beside it, from numbers that have been shown before; gives the left sides."""
    seen, shown = equations(steps), {"x": steps.x, "k": steps.t.shape[1]}
    for layer, step in enumerate(steps.layers, 1):
        for name, part in ((f"W_{layer}", step.weight), (f"b_{layer}", step.bias)):
            shown |= {name: part.value} | {f"{slot}__{name}": value for slot, value in part.slots.items()}
    for equation in seen:
        if equation.right:
            scale = max(1, np.abs(equation.value).max())
            assert_close(evaluated(steps, equation), equation.value, np.float64, k=9, scale=scale, what=equation.left)
            named = names(equation.right) & set(equation.values)
            assert all(np.array_equal(shown[name], equation.values[name]) for name in named), equation
            assert names(equation.right) - named <= {"f", "df", "sigmoid", *activations.TABLE} | WORDS
        shown[equation.left] = equation.value
    return [equation.left for equation in seen]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("activation, loss", ACTIVATION_AND_LOSS)
def test_each_formula_gives_the_number_beside_it(activation, loss, weighted, backend):
    net, X, t = problem(loss, activation=activation, output_activation=activation, backend=backend)
    rule = RULES[-1]
    net.fit(X, t, loss=loss, optimizer=rule, steps=2)
    steps = net.trace(X, t, loss=loss, optimizer=rule, sample_weight=np.arange(6) / 2 if weighted else None)
    lefts = check_formulas(steps)
    wanted = "a_0 z_1 a_1 z_2 a_2 t L g_2 delta_2 grad_W_2 grad_b_2 g_1 delta_1 grad_W_1 grad_b_1".split()
    assert [left for left in lefts if left in wanted] == wanted
    wanted = "new_grad_W_2 new_velocity__W_2 new_W_2 new_grad_b_2 new_velocity__b_2 new_b_2 new_L".split()
    assert lefts[-len(wanted) :] == wanted


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("loss", CHOSEN, ids=called)
def test_each_formula_of_a_loss_with_settings_gives_the_number_beside_it(loss, weighted, backend):
    net, X, t = problem(loss, activation="tanh", output_activation="tanh", backend=backend)
    steps = net.trace(X, t, loss=loss, lr=0.1, sample_weight=np.arange(6) / 2 if weighted else None)
    lefts = check_formulas(steps)
    shown = {equation.left: equation.value for equation in equations(steps)}
    given = dict(loss.given)
    given.pop("outputs", None)
    weights = given.pop("output_weights", None)
    assert {name: shown[name] for name in given} == given
    assert ("v" in lefts) == (weights is not None) and np.array_equal(shown.get("v", [weights]), [weights])
    assert ("grad_s" in lefts) == (loss.name == "gaussian_nll")


def test_a_short_row_of_two_outputs_for_a_target_is_written_out():
    row = Loss("pair", "(z - t) * (z - t) * s", "2 * (z - t) * s", grad_s="(z - t) * (z - t)", outputs="mean")
    net = problem(row, output_activation="tanh")[0]
    steps = net.trace(np.ones((2, 3)), np.ones((2, 2)), loss=row, sample_weight=[1, 2])
    check_formulas(steps)
    text = str(steps)
    for line in ("m = first_half(a2)", "L = sum(w * (m - t) * (m - t) * s) / 6", "grad_m = w * 2 * (m - t) * s / 6",
                 "grad_s = w * (m - t) * (m - t) / 6"):  # fmt: skip
        assert f"\n  {line}\n" in text


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.row.name)
def test_each_formula_of_an_optimizer_gives_the_number_beside_it(rule, backend):
    net, X, t = problem(activation="tanh", backend=backend)
    net.fit(X, t, optimizer=rule, batch_size=len(X), steps=7)  # RAdam's first steps are of another kind
    steps = net.trace(X, t, optimizer=rule)
    check_formulas(steps)
    shown = {equation.left: equation.value for equation in equations(steps)}
    assert {name: shown[name] for name in rule.row.scalars} == steps.scalars
    page = steps.to_text()
    assert all(line == line.rstrip() and line.isascii() for line in page.splitlines())
    assert all(re.search(rf"^  {name} = ", page, re.MULTILINE) for name in rule.row.scalars)
    Balance(steps.to_html())
    check_latex(steps.to_latex())


def test_the_formulas_of_a_loss_with_settings_in_words():
    def shown(loss):
        writer, steps = Writer(Text(), 4, 8), problem(loss)[0].trace(np.ones((1, 3)), np.eye(4)[:1], loss=loss)
        return {writer.left(each)[0]: writer.formula(each)[0] for each in equations(steps) if each.right}

    assert shown("kl_divergence")["L"] == "sum(t * (log(t if t > 0 else 1) + lse - z2))"
    assert shown(losses.kl_divergence(outputs="mean"))["g2"] == "(exp(z2 - lse) - t) / 4"
    huber = shown(losses.huber(delta=2.0))
    assert (huber["L"], huber["g2"]) == ("sum(huber(a2, t, delta)) / 4", "min(max(a2 - t, -delta), delta) / 4")
    weighted = shown(losses.mse(outputs="sum", output_weights=(1, 2, 0, 1)))
    assert (weighted["L"], weighted["g2"]) == ("sum(v * (a2 - t) * (a2 - t))", "v * 2 * (a2 - t)")
    assert shown("focal")["L"] == "sum(focal(z2, t, gamma)) / 4"
    assert shown(losses.focal(alpha=0.5))["g2"] == "focal'(z2, t, gamma, alpha) / 4"


def test_the_loss_of_two_outputs_for_a_target_in_words():
    net = problem("gaussian_nll")[0]
    text = str(net.trace(np.ones((1, 3)), np.ones((1, 2)), loss="gaussian_nll"))
    for line in ("m = first_half(z2)", "s = second_half(z2)", "eps = 1e-06", "L = sum(gaussian_nll(m, t, s, eps)) / 2",
                 "grad_m = gaussian_nll'_m(m, t, s, eps) / 2", "grad_s = gaussian_nll'_s(m, t, s, eps) / 2",
                 "g2 = joined(grad_m, grad_s)"):  # fmt: skip
        assert f"\n  {line}\n" in text


def test_label_smoothing_in_words():
    net, X, t = problem("softmax_cross_entropy")
    lines = str(net.trace(X, t, loss=losses.softmax_cross_entropy(label_smoothing=0.1))).splitlines()
    first = lines.index("  label_smoothing = 0.1")
    assert lines[first + 1 : first + 7] == [
        "  kept = 1 - label_smoothing", "       = 1 - 0.1", "       = 0.9",
        "  spread = label_smoothing / k", "         = 0.1 / 4", "         = 0.025",
    ]  # fmt: skip
    assert "  L = sum((t * kept + spread) * (lse - z2)) / 6" in lines


def test_a_formula_of_a_row_is_that_of_the_table_or_its_name():
    def shown(activation):
        steps = problem(activation=activation)[0].trace(np.ones((1, 3)), np.ones((1, 4)), lr=0.1)
        writer = Writer(Text(), 4, 8)
        return {writer.left(each)[0]: writer.formula(each)[0] for each in equations(steps) if each.right}

    assert (shown("relu")["a1"], shown("relu")["delta1"]) == ("max(z1, 0)", "0 if a1 <= 0 else g1")
    assert (shown("tanh")["a1"], shown("tanh")["delta1"]) == ("tanh(z1)", "g1 * (1 - a1 * a1)")
    assert (shown("sigmoid")["a1"], shown("sigmoid")["delta1"]) == ("sigmoid(z1)", "g1 * a1 * (1 - a1)")
    assert (shown("silu")["a1"], shown("gelu")["delta1"]) == ("z1 * sigmoid(z1)", "g1 * gelu'(z1)")
    assert shown("relu")["W1_new"] == "W1 - lr * grad_W1"
    assert shown("relu")["L"] == "sum((a2 - t) * (a2 - t)) / 4"


# ------------------------------------------------------------------ three forms


def test_the_text_of_a_small_step_line_by_line():
    net = fastbp.MLP((2, 1, 1), activation="identity", bias=False, init=[[[0.5], [-1.0]], [[3.0]]], dtype=np.float64)
    text = str(net.trace([[1, 2], [0.5, 0]], [1, 0], loss="half_squared_error", lr=0.1))
    assert text.splitlines()[4:22] == [
        "Forward, layer 1: 2 -> 1, identity",
        "  a0 = x",
        "     = [1    2]",
        "       [0.5  0]",
        "  z1 = a0 @ W1",
        "     = [1    2] @ [ 0.5]",
        "       [0.5  0]   [-1  ]",
        "     = [-1.5 ]",
        "       [ 0.25]",
        "  a1 = z1",
        "     = [-1.5 ]",
        "       [ 0.25]",
        "",
        "Forward, layer 2: 1 -> 1, identity",
        "  z2 = a1 @ W2",
        "     = [-1.5 ] @ [3]",
        "       [ 0.25]",
        "     = [-4.5 ]",
    ]
    assert text.endswith("Loss after the step\n  L_new = 8.572")


class Balance(HTMLParser):
    """Every tag closed, nothing loaded."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words = [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag in {"div", "p", "b", "i", "sub", "sup", "span", "table", "tr", "td"}
        assert {name for name, _ in attributes} <= {"style", "class"}
        assert "url" not in str(attributes)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def check_latex(text):
    assert text.startswith("\\begin{align*}\n") and text.endswith("\n\\end{align*}")
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    environments = re.findall(r"\\(begin|end)\{(\w+\*?)\}", text)
    pending = []
    for what, name in environments:
        if what == "begin":
            pending.append(name)
        else:
            assert pending.pop() == name
    for line in bare.removesuffix("\\end{align*}").split("\n"):
        assert line.count("\\left") == line.count("\\right") - line.count("\\rightarrow")
    assert not re.search(r"[<>]=|(?<!\\)[%#$]|\bnan\b(?!\})", bare)
    assert "_" not in "".join(re.findall(r"\\text(?:bf)?\{([^}]*)\}", bare))  # MathJax has no \_ there


@pytest.mark.parametrize("activation, loss", [*ACTIVATION_AND_LOSS, *(("tanh", loss) for loss in CHOSEN)])
def test_every_form_of_every_row_is_well_made(activation, loss):
    net, X, t = problem(loss, activation=activation, output_activation=activation)
    steps = net.trace(X, t, loss=loss, optimizer=RULES[-1], sample_weight=np.ones(6))
    assert all(line == line.rstrip() and len(line) <= 120 and line.isascii() for line in str(steps).splitlines())
    Balance(steps._repr_html_())
    check_latex(steps._repr_latex_())


def test_what_a_user_names_is_escaped():
    row = Activation("<img src=x> & a_b%", "z * z", "g * 2 * z")
    net = fastbp.MLP((2, 2), output_activation=row, seed=0)
    steps = net.trace([[1, 2]], [[1, 2]])
    page = steps.to_html()
    assert "<img" not in page and "&lt;img src=x&gt; &amp; a_b%" in page
    Balance(page)
    check_latex(steps.to_latex())
    assert row.name in str(steps)


def test_big_networks_and_batches_are_cut_and_say_so():
    net = fastbp.MLP((300, 200, *[12] * 12, 3), seed=0)
    X, t = np.random.default_rng(0).normal(size=(50, 300)), np.zeros((50, 3))
    steps = net.trace(X, t, lr=0.1)
    text = str(steps)
    assert "Of more than 8 rows or columns the middle is left out" in text
    for words in ("Forward, layers 5 to 10: left out", "Backward, layers 5 to 10: left out", "(300 x 200)", "(50 x 3)"):
        assert words in text
    assert "Forward, layer 4:" in text and "Forward, layer 11:" in text and "Forward, layer 5:" not in text
    assert max(map(len, text.splitlines())) <= 140 and len(text) < 60_000
    assert len(Balance(steps.to_html()).words) < 60_000
    check_latex(steps.to_latex())
    whole = steps.to_text(limit=300)
    assert "left out" not in whole and whole.count("Forward") == 14 and GAP not in whole
    small = net.trace(X[:8], t[:8]).layers[-1]
    assert "left out" not in problem()[0].trace(np.ones((8, 3)), np.ones((8, 4))).to_text() and small.z.shape == (8, 3)


def test_digits_are_significant_ones():
    net, X, t = problem()
    steps = net.trace(X, t)
    value = steps.layers[1].z[0, 0]
    for digits in (1, 3, 12):
        assert f"{value:.{digits}g}" in steps.to_text(digits=digits)
    number = f"{value:.12g}"
    assert number in steps.to_latex(digits=12) and number.replace("-", "−") in steps.to_html(digits=12)
    assert number not in str(steps)


def test_a_grid_cuts_from_the_middle():
    array = np.arange(30.0).reshape(3, 10)
    assert grid(array, 4, 10)[2] == [str(k) for k in range(20, 30)]
    assert grid(array, 4, 4)[0] == ["0", "1", GAP, "8", "9"]
    assert [row[0] for row in grid(array.T, 4, 4)] == ["0", "1", GAP, "8", "9"]
    assert grid(np.array([-0.0, np.nan, -np.inf, 1e-9]), 4, 8) == [["0", "nan", "-inf", "1e-09"]]


def test_numbers_that_are_none_in_each_form():
    assert Latex().number("-inf") == r"\text{-inf}" and Latex().number("-1e-09") == r"-1 \cdot 10^{-9}"
    assert Html().number("-1e-09") == "−1e−09" and Latex().number(GAP) == r"\cdots"
    assert Text().grid(grid(np.array([[1.5, -20], [-0.25, np.nan]]), 4, 8)) == ["[ 1.5   -20]", "[-0.25  nan]"]


@pytest.mark.parametrize(
    "expression, text",
    [
        ("a - (b - c)", "a - (b - c)"),
        ("a - (b + c)", "a - (b + c)"),
        ("a + (b - c)", "a + b - c"),
        ("a * (b * c)", "a * b * c"),
        ("a / (b * c)", "a / (b * c)"),
        ("(a + b) @ c.T", "(a + b) @ c.T"),
        ("a @ (b @ c)", "a @ (b @ c)"),
        ("-(a + b) * c", "-(a + b) * c"),
        ("SUM(a * (b + c)) / 2", "sum(a * (b + c)) / 2"),
        ("2 * WHERE(a > b, a, b)", "2 * (a if a > b else b)"),
        ("WHERE(a + 1 <= b, EXP(a), MAX(a, b))", "exp(a) if a + 1 <= b else max(a, b)"),
    ],
)
def test_parentheses_stand_where_they_are_needed_and_nowhere_else(expression, text):
    equation = Equation("y", expression, 0.0)
    assert Writer(Text(), 4, 8).formula(equation) == [text]
    values = dict(zip("abc", np.random.default_rng(0).normal(size=(3, 2, 2))))
    words = {"SUM": np.sum, "WHERE": np.where, "EXP": np.exp, "MAX": np.maximum, "exp": np.exp, "max": np.maximum,
             "sum": np.sum}  # fmt: skip
    if " if " not in text:
        assert_close(eval(text, words, values), eval(expression, words, values), np.float64)
    check_latex("\\begin{align*}\n" + Writer(Latex(), 4, 8).formula(equation) + "\n\\end{align*}")


@pytest.mark.parametrize(
    "right, more",
    [("a + b", True), ("SUM(a)", True), ("SUM_ROWS(a * b) / 2", True), ("-a", False), ("a", False), ("", False),
     ("a.T", False), ("TANH(a)", False), ("2 * EXP(a)", False), ("b * f(a)", False), ("SUM_OUTPUTS(a)", False)],
)  # fmt: skip
def test_a_formula_of_operators_and_sums_says_more_with_its_numbers(right, more):
    assert Equation("y", right, 0.0).is_arithmetic() == more


def test_every_word_of_the_rows_can_be_written():
    for word, arity in VOCABULARY.items():
        arguments = ["z > 0"] * (word == "WHERE") + ["z"] * (arity - (word == "WHERE"))
        equation = Equation("y", f"{word}({', '.join(arguments)})", 0.0)
        assert ast.parse(Writer(Text(), 4, 8).formula(equation)[0], mode="eval")
        Balance(Writer(Html(), 4, 8).formula(equation))
        check_latex("\\begin{align*}\n" + Writer(Latex(), 4, 8).formula(equation) + "\n\\end{align*}")


# ------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"loss": "mes"}, ValueError, "did you mean 'mse'"),
        ({"lr": 0.1, "optimizer": "sgd"}, ValueError, "at most one of optimizer and lr"),
        ({"lr": "fast"}, TypeError, "lr must be a number"),
        ({"lr": -1.0}, ValueError, "lr must be"),
        ({"optimizer": "sdg"}, ValueError, "did you mean 'sgd'"),
        ({"optimizer": 0.1}, TypeError, "optimizer must be"),
        ({"optimizer": fastbp.Adam}, TypeError, r"optimizer must be.*; Adam\(\) makes one"),
        ({"sample_weight": [1]}, ValueError, "sample_weight must have shape"),
        ({"x": [[1, 2]]}, ValueError, "2 column"),
        ({"y": [[1, 2]]}, ValueError, "inconsistent|shape"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    net, X, t = problem()
    before = state(net)
    with pytest.raises(error, match=message):
        net.trace(**{"x": X, "y": t, **arguments})
    assert state(net) == before


@pytest.mark.parametrize("options", [{"digits": 0}, {"digits": 2.5}, {"limit": 1}, {"digits": 18}])
@pytest.mark.parametrize("form", ["to_text", "to_html", "to_latex"])
def test_wrong_options_are_refused(form, options):
    net, X, t = problem()
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        getattr(net.trace(X, t), form)(**options)


def test_a_loss_that_is_not_finite_has_no_step(backend):
    net, X, t = problem(backend=backend)
    X[0, 0] = np.inf
    before = state(net)
    with pytest.raises(fastbp.NonFiniteError):
        net.trace(X, t)
    assert state(net) == before
