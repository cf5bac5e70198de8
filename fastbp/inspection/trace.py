"""One step of back-propagation by hand, for `MLP.trace`: every number of it, beside the formula that makes it.

Losses, gradients and new parameters are those of the library's own verbs, on a copy of the network. What these do not
give, z, a, g = dL/da and delta = dL/dz of each layer, comes from the reference backend. The formulas are those of the
tables of activations, losses and optimizers.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import activations, checks, spec
from fastbp.backends.plan import make_plan, program
from fastbp.backends.protocol import total_weight
from fastbp.data import arguments
from fastbp.inspection import formulas
from fastbp.inspection.formulas import Equation, Html, Latex, Text, Writer
from fastbp.rows import Activation, Loss, Optimizer, function

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNBROKEN = "display:inline-block;white-space:nowrap"
_WIDTH = 100  # columns of a formula written with numbers; a wider one is left out
_LONG = 45  # characters of a row's formula; a longer one is called by its name
_NAMED = {row.name: row.forward for row in activations.TABLE.values() if len(row.forward) > _LONG}


@dataclass(frozen=True, eq=False)
class ParameterStep:
    """A weight or a bias before the step and after it.

    Attributes
    ----------
    value, new : ndarray
        Before and after.
    grad : ndarray
        The derivative of the loss.
    slots, new_slots : dict of str to ndarray
        The optimizer's slots beside it (``"velocity"`` and the like), before and after.
    """

    __module__ = "fastbp"

    value: NDArray[Any]
    grad: NDArray[Any]
    new: NDArray[Any]
    slots: dict[str, NDArray[Any]]
    new_slots: dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class LayerStep:
    """A layer in the step, for n rows.

    Attributes
    ----------
    activation : row
        See `fastbp.activations`.
    z, a : ndarray, (n, out_features)
        Before and after the activation.
    g, delta : ndarray, (n, out_features)
        dL/da and dL/dz.
    weight, bias : ParameterStep
        `bias` is None in a layer without.
    """

    __module__ = "fastbp"

    activation: Activation
    z: NDArray[Any]
    a: NDArray[Any]
    g: NDArray[Any]
    delta: NDArray[Any]
    weight: ParameterStep
    bias: ParameterStep | None


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """One training step, as `MLP.trace` has watched it; printed, it shows formulas and numbers.

    Attributes
    ----------
    x : ndarray, (n, in_features)
    t : ndarray, (n, out_features)
        Targets; of labels the rows with a single 1.
    sample_weight : ndarray, (n,) or (n, out_features), or None
    loss, rule : row
        See `fastbp.losses` and `fastbp.optimizers`.
    scalars : dict of str to float
        The numbers of the rule in this step: ``lr`` and the like.
    loss_before, loss_after : float
        Of these rows, before and after the update.
    layers : tuple of LayerStep
    trains_in : str or None
        The network's ``matmul_precision``, where that is not float32, in which all of this is computed.
    """

    __module__ = "fastbp"

    x: NDArray[Any]
    t: NDArray[Any]
    sample_weight: NDArray[Any] | None
    loss: Loss
    rule: Optimizer
    scalars: dict[str, float]
    loss_before: float
    loss_after: float
    layers: tuple[LayerStep, ...]
    trains_in: str | None = None

    def __repr__(self) -> str:
        return f"Trace({self._headline()}, loss {self.loss_before:.4g} -> {self.loss_after:.4g})"

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return self.to_html()

    def _repr_latex_(self) -> str:
        return self.to_latex()

    # -------------------------------------------------------------- written

    def to_text(self, *, digits: int = 4, limit: int = 8) -> str:
        """The step as text.

        Parameters
        ----------
        digits : int, default 4
            Significant digits.
        limit : int, default 8
            Layers, rows and columns that are shown, at most; what lies in the middle is left out, and that is said.
        """
        writer = _writer(Text(), digits, limit)
        lines: list[str] = []
        for title, content in self._sections(limit):
            lines += ["", title] if lines else [title]
            for item in content:
                if isinstance(item, str):
                    lines.append(f"  {item}")
                    continue
                left = f"  {writer.left(item)[0]}"
                for right in _rights(writer, item):
                    # `=` beside the middle of the block, the names before the first `=`
                    lines += writer.style.row(left, " = ", right)
                    left = " " * len(left)
        return "\n".join(line.rstrip() for line in lines)

    def to_html(self, *, digits: int = 4, limit: int = 8) -> str:
        """The step as HTML that loads nothing; `digits` and `limit` as for `to_text`."""
        writer = _writer(Html(), digits, limit)
        lines = ['<div class="fastbp-trace">']
        for title, content in self._sections(limit):
            lines.append(f'<p style="margin:.8em 0 .2em"><b>{writer.style.text(title)}</b></p>')
            for item in content:
                if isinstance(item, str):
                    body = writer.style.text(item)
                else:
                    rights = (f'<span style="{_UNBROKEN}">= {right}</span>' for right in _rights(writer, item))
                    body = " ".join([writer.left(item), *rights])
                lines.append(f'<div style="margin:.2em 0 .2em 1em">{body}</div>')
        return "\n".join([*lines, "</div>"])

    def to_latex(self, *, digits: int = 4, limit: int = 8) -> str:
        """The step as an ``align*`` of amsmath, which MathJax takes too; `digits` and `limit` as for `to_text`."""
        writer = _writer(Latex(), digits, limit)
        lines = []
        for title, content in self._sections(limit):
            lines.append(f"&{writer.style.title(title)}")
            for item in content:
                if isinstance(item, str):
                    lines.append("&" + writer.style.text(item))
                    continue
                left = writer.left(item)
                for right in _rights(writer, item):
                    lines.append(f"{left} &= {right}")
                    left = ""
        return "\\begin{align*}\n" + " \\\\\n".join(lines) + "\n\\end{align*}"

    # -------------------------------------------------------------- what there is to write

    def _headline(self) -> str:
        sizes = "-".join(map(str, (self.x.shape[1], *(layer.z.shape[1] for layer in self.layers))))
        return f"{sizes}, {len(self.x)} row{'s' * (len(self.x) > 1)}, {self.loss.name}, {self.rule.name}"

    def _sections(self, limit: int) -> Iterator[tuple[str, Sequence[Equation | str]]]:
        """Titles, and what stands below each: equations and remarks."""
        yield f"One step of back-propagation: {self._headline()}", self._remarks(limit)
        shown = formulas.kept(len(self.layers), limit)
        yield from self._phase("Forward", shown, self._forward)
        yield "Loss", self._loss()
        yield from self._phase("Backward", shown[::-1], self._backward)
        yield (
            f"Update, scalars of {self.rule.name}",
            [Equation(name, "", value) for name, value in self.scalars.items()],
        )
        yield from self._phase("Update", shown, self._update)
        yield "Loss after the step", [Equation("new_L", "", self.loss_after)]

    def _phase(
        self, phase: str, shown: list[int | None], equations: Callable[[int], list[Equation]]
    ) -> Iterator[tuple[str, list[Equation]]]:
        for place, index in enumerate(shown):
            if index is None:
                first, last = sorted(shown[k] or 0 for k in (place - 1, place + 1))
                yield f"{phase}, layer{f's {first + 2} to' * (first + 2 < last)} {last}: left out", []
            else:
                layer = self.layers[index]
                shape = " -> ".join(map(str, layer.weight.value.shape))
                yield f"{phase}, layer {index + 1}: {shape}, {layer.activation.name}", equations(index)

    def _remarks(self, limit: int) -> list[str]:
        remarks = [
            "g = dL/da, delta = dL/dz; a row of an array is a row of the batch.",
            "Each g is made with the weights before the step.",
        ]
        if self.trains_in is not None:
            remarks.append(f"All of it is in float32: training rounds what its products multiply to {self.trains_in}.")
        everything = [self.x, *(part for layer in self.layers for part in (layer.z, layer.weight.value))]
        if any(formulas.is_cut(array, limit) for array in everything):
            remarks.append(f"Of more than {limit} rows or columns the middle is left out; beside it: (rows x columns).")
        return remarks

    def _input(self, index: int) -> NDArray[Any]:
        return self.layers[index - 1].a if index else self.x

    def _forward(self, index: int) -> list[Equation]:
        k, layer = index + 1, self.layers[index]
        names = {f"a_{index}": self._input(index), f"W_{k}": layer.weight.value, f"z_{k}": layer.z}
        product = f"a_{index} @ W_{k}"
        if layer.bias is not None:
            names[f"b_{k}"] = layer.bias.value
            product += f" + b_{k}"
        row = layer.activation
        return [
            *([Equation("a_0", "x", self.x, {"x": self.x})] if index == 0 else []),
            Equation(f"z_{k}", product, layer.z, names),
            Equation(f"a_{k}", _short(row.forward, {"z": f"z_{k}"}, f"f(z_{k})"), layer.a, names, {"f": row.name}),
        ]

    def _loss_names(self) -> dict[str, str]:
        """What the names in a loss's row are called here; of a pair of outputs m is the first, as s the second."""
        return {"z": "m" if self.loss.grad_s else self._output_name()}

    def _output_name(self) -> str:
        return f"{'z' if self.loss.from_logits else 'a'}_{len(self.layers)}"

    def _of_loss(self, expression: str, f: str) -> str:
        """An expression of the loss's row, or where it is long a call of `f` with all that the loss depends on."""
        row, names = self.loss, self._loss_names()
        settings = (setting.name for setting in row.settings if row.chosen[setting.name] is not None)
        arguments = (names["z"], "t", *({row.third} - {"_"}), *settings)
        return _short(expression, names, f"{f}({', '.join(arguments)})")

    def _loss_grads(self) -> dict[str, str]:
        """The loss's derivatives but for weights and means: what by, and the formula."""
        row = self.loss
        by = {self._loss_names()["z"]: row.grad} | ({"s": row.grad_s} if row.grad_s else {})
        return {name: self._of_loss(expression, "df") for name, expression in by.items()}

    def _loss_numbers(self) -> Iterator[Equation]:
        """The loss's settings, and those of its constants that a formula names."""
        row, k = self.loss, self.t.shape[1]
        shown = [self._of_loss(row.value, "f"), *self._loss_grads().values()]
        named = set().union(*map(formulas.names, shown))
        numbers, constants = dict(zip(row.numbers_named, row.numbers(k))), dict(row.constants)
        for name, value in numbers.items():
            if name in named or row.chosen.get(name) is not None:
                yield Equation(name, constants.get(name, ""), value, {**numbers, "k": k})

    def _loss_parts(self) -> tuple[list[Equation], dict[str, Any], str, str]:
        """What is shown before the loss; values by name; the factor and the divisor of a row's loss."""
        row, output, name = self.loss, self.layers[-1].a, self._output_name()
        values, before = {name: output}, [Equation("t", "", self.t)]
        if row.grad_s:
            m, s = np.split(output, 2, axis=1)
            before.append(Equation("m", f"FIRST_HALF({name})", m, values))
            before.append(Equation("s", f"SECOND_HALF({name})", s, values))
        if row.statistic == "lse":
            lse = np.logaddexp.reduce(output, axis=1, keepdims=True)
            before.append(Equation("lse", f"LOG(SUM_OUTPUTS(EXP({name})))", lse, values))
        before += self._loss_numbers()
        total, factor = len(self.x), ""
        if self.sample_weight is not None:
            total, factor = total_weight(self.sample_weight, len(self.x)), "w * "
            before.append(Equation("w", "", self.sample_weight.reshape(len(self.x), -1)))
        if (weights := row.chosen["output_weights"]) is not None:
            factor += "v * "
            before.append(Equation("v", "", np.array([weights], output.dtype)))
        divisor = total * round(1 / row.scale(output.shape[1]))
        values = values | {equation.left: equation.value for equation in before}
        return before, values, factor, f" / {divisor}" if divisor != 1 else ""

    def _loss(self) -> list[Equation]:
        before, values, factor, divisor = self._loss_parts()
        formula = f"SUM({factor}({self._of_loss(self.loss.value, 'f')})){divisor}"
        return [*before, Equation("L", formula, self.loss_before, values, {"f": self.loss.name})]

    def _loss_gradient(self, left: str, g: NDArray[Any]) -> list[Equation]:
        """dL/da of the last layer; of a loss with two outputs for a target from its two halves."""
        _, values, factor, divisor = self._loss_parts()
        name, grads = self.loss.name, self._loss_grads()

        def equation(left: str, grad: str, value: NDArray[Any], called: str) -> Equation:
            return Equation(left, f"{factor}({grad}){divisor}", value, values, {"df": called})

        if not self.loss.grad_s:
            (grad,) = grads.values()
            return [equation(left, grad, g, f"{name}'")]
        halves = zip(grads.items(), np.split(g, 2, axis=1))
        pair = [equation(f"grad_{by}", grad, half, f"{name}'_{by}") for (by, grad), half in halves]
        return [*pair, Equation(left, "JOINED(grad_m, grad_s)", g, {half.left: half.value for half in pair})]

    def _backward(self, index: int) -> list[Equation]:
        k, layer, row = index + 1, self.layers[index], self.layers[index].activation
        if k < len(self.layers):
            above = self.layers[k]
            values = {f"delta_{k + 1}": above.delta, f"W_{k + 1}": above.weight.value}
            g = [Equation(f"g_{k}", f"delta_{k + 1} @ W_{k + 1}.T", layer.g, values)]
        else:
            g = self._loss_gradient(f"g_{k}", layer.g)
        names = {"g": f"g_{k}", "a": f"a_{k}", "z": f"z_{k}"}
        delta = _short(row.backward, names, f"g_{k} * df(z_{k})")
        values = {f"g_{k}": layer.g, f"a_{k}": layer.a, f"z_{k}": layer.z}
        product = {f"a_{index}": self._input(index), f"delta_{k}": layer.delta}
        equations = [
            *g,
            Equation(f"delta_{k}", delta, layer.delta, values, {"df": f"{row.name}'"}),
            Equation(f"grad_W_{k}", f"a_{index}.T @ delta_{k}", layer.weight.grad, product),
        ]
        if layer.bias is not None:
            equations.append(Equation(f"grad_b_{k}", f"SUM_ROWS(delta_{k})", layer.bias.grad, product))
        return equations

    def _update(self, index: int) -> list[Equation]:
        layer = self.layers[index]
        equations: list[Equation] = []
        for name, parameter in ((f"W_{index + 1}", layer.weight), (f"b_{index + 1}", layer.bias)):
            if parameter is not None:
                equations += self._assignments(name, parameter)
        return equations

    def _assignments(self, name: str, parameter: ParameterStep) -> Iterator[Equation]:
        """The rule's assignments to a parameter, one after the other."""
        state = {slot: (f"{slot}__{name}", before) for slot, before in parameter.slots.items()}
        known = {"p": (name, parameter.value), "g": (f"grad_{name}", parameter.grad), **state}
        known |= {scalar: (scalar, value) for scalar, value in self.scalars.items()}
        after = {"p": parameter.new, **parameter.new_slots}
        last = {target: place for place, (target, _) in enumerate(self.rule.update)}
        for place, ((target, expression), (_, text)) in enumerate(zip(self.rule.update, self.rule.update_text)):
            names = {key: shown for key, (shown, _) in known.items()}
            values = {shown: value for shown, value in known.values()}
            if target in after and place == last[target]:
                made = after[target]
            else:  # a step on the way, which nothing keeps
                made = function(text, tuple(known))(*(value for _, value in known.values()))
            left = f"new_{names[target].removeprefix('new_')}"
            yield Equation(left, _renamed(expression, names), made, values)
            known[target] = (left, made)


# ------------------------------------------------------------------ writing


def _writer(style: formulas.Style, digits: Any, limit: Any) -> Writer:
    return Writer(style, checks.integer("digits", digits, 1, 17), checks.integer("limit", limit, 2))


def _rights(writer: Writer, equation: Equation) -> list[Any]:
    """What stands behind each ``=``: the formula, the formula with all its numbers where they fit, the value."""
    rights = []
    if equation.right:
        rights.append(writer.formula(equation))
    if equation.is_arithmetic() and not any(formulas.is_cut(value, writer.limit) for value in equation.named()):
        if len(replace(writer, style=Text()).with_numbers(equation)[0]) <= _WIDTH:
            rights.append(writer.with_numbers(equation))
    return [*rights, writer.value(equation.value)]


class _Renaming(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self.names.get(node.id, node.id), node.ctx)


def _renamed(expression: str, names: Mapping[str, str]) -> str:
    """An expression of a row with other names."""
    return ast.unparse(_Renaming(names).visit(ast.parse(expression, mode="eval")))


def _short(expression: str, names: Mapping[str, str], otherwise: str) -> str:
    """An expression of a row with the names of the step, or `otherwise` where it is long.

    What is the long formula of an activation within it is called by that one's name.
    """
    for name, formula in _NAMED.items():
        expression = expression.replace(formula, f"{name}(z)")
    expression = ast.unparse(ast.parse(expression, mode="eval"))
    return _renamed(expression, names) if len(expression) <= _LONG else otherwise


# ------------------------------------------------------------------ watching


def trace(net: Any, x: Any, y: Any, loss: Any, optimizer: Any, sample_weight: Any) -> Trace:
    """Watch one step on a copy of `net`, an `MLP`; arguments as for `MLP.train_step`."""
    trains_in = None if net.matmul_precision == "float32" else net.matmul_precision
    if trains_in is not None:
        net = _in_float32(net)
    network = net._spec
    rows = arguments.features(x, network)
    row = spec.loss(loss, network)
    _, targets, weight = arguments.samples(rows, y, sample_weight, row, network)
    rule = spec.optimizer(optimizer, network)
    if not make_plan(network, len(rows), backend="reference", loss=row, rule=rule, trains=net._trains).bare:
        raise ValueError(
            f"trace shows a rule by itself: no dropout, nothing frozen, and nothing around the optimizer; got {rule!r}"
        )

    before, after = copy.copy(net), copy.copy(net)  # `before` stays: the caller may train `net` meanwhile
    loss_before, gradient = before.loss_and_grad(rows, targets, loss=row, sample_weight=weight)
    after.train_step(rows, targets, loss=row, optimizer=rule, sample_weight=weight)
    loss_after = after.evaluate(rows, targets, loss=row, sample_weight=weight)

    watched = program(make_plan(network, len(rows), backend="reference", loss=row), before.params)
    total = total_weight(weight, len(rows))
    watched.forward(rows, None, keep=True)
    watched.loss(targets, weight, total, gradient=True)
    watched.backward(np.empty_like(before.params))

    grads = np.zeros_like(before.params)
    network.unflatten_into(grads, gradient)
    pairs = zip(rule.row.state, before._state.slots_of(rule.row), after._state.slots_of(rule.row))
    slots = {name: (network.views(old), network.views(new)) for name, old, new in pairs}
    views = zip(network.views(before.params), network.views(grads), network.views(after.params))
    steps = iter([
        ParameterStep(
            _frozen(value), _frozen(grad), _frozen(new),
            {name: _frozen(old[k]) for name, (old, _) in slots.items()},
            {name: _frozen(new[k]) for name, (_, new) in slots.items()},
        )
        for k, (value, grad, new) in enumerate(views)
    ])  # fmt: skip
    layers = tuple(
        LayerStep(layer.activation, *map(_frozen, (z, a, g, delta)), next(steps),
                  None if layer.bias is None else next(steps))
        for layer, (z, a), (g, delta) in zip(network.layers, watched.kept[1:], reversed(watched.sent_back))
    )  # fmt: skip
    (values,) = before._state.update(rule, 1, before.params).scalars
    scalars = {name: float(value[0]) for name, value in zip(rule.row.scalars, values)}
    if targets.ndim == 1:
        targets = np.eye(network.out_features)[targets.astype(np.int64)]
    kept = [_frozen(rows.astype(network.dtype)), _frozen(targets.astype(network.dtype))]
    kept.append(None if weight is None else _frozen(weight))
    return Trace(*kept, row, rule.row, scalars, loss_before, loss_after, layers, trains_in)


def _in_float32(net: Any) -> Any:
    """A copy of a network, whose training steps multiply in float32."""
    saved = net.__getstate__()
    twin = type(net).__new__(type(net))
    twin.__setstate__(saved | {"spec": replace(saved["spec"], matmul_precision="float32")})
    return twin


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A copy that nobody can write into."""
    array = np.array(array, order="C")
    array.flags.writeable = False
    return array
