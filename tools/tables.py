"""Renders docs/<table>.md and docs/<table>.svg from the tables of fastbp: `PYTHONPATH=. python tools/tables.py`.

`make rows` runs it; tests/test_examples.py proves the files fresh. It needs the rows and NumPy, no compiled module.
Another table is an entry of FILES: the name of a file in docs/ and a function that gives its text.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastbp import activations, losses, optimizers, schedules
from fastbp.rows import ANY, Activation, Loss, function

DOCS = Path(__file__).resolve().parents[1] / "docs"


# ------------------------------------------------------------------ Markdown


def paragraphs(*texts: str) -> str:
    """Text in lines of at most 120; headings, tables, code and pictures as they are."""
    wrapped = (textwrap.fill(text, 120, break_on_hyphens=False) for text in texts)
    return "\n\n".join(text if text.startswith(("#", "```", "|", "!")) else fill for text, fill in zip(texts, wrapped))


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def expressions(**texts: str) -> str:
    """Expressions as they stand in the row, one under the other."""
    width = max(map(len, texts)) + 2
    form = textwrap.TextWrapper(110, subsequent_indent=" " * width, break_on_hyphens=False)
    return "\n".join(["```text", *(form.fill(f"{name:<{width}}{text}") for name, text in texts.items()), "```"])


def numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.12g}" for value in values)


def shown_number(value: float | None) -> str:
    return str(value) if value is None else f"{value:g}"


def aliases_of(name: str, aliases: dict[str, str]) -> str:
    return "".join(f", `{alias}`" for alias, known in aliases.items() if known == name)


HOW = (
    "Each row below is shown as it stands in `{source}`: the text that NumPy evaluates and that `make rows` renders for"
    " C++. EXP, MAX and the like are what they are called; WHERE(c, a, b) is a where c holds, else b. The values, in"
    " float64, come from outside: from {outside}, unless the row says otherwise. The tests hold every backend to them."
    " This page is made by `make rows` too."
)


def activation(row: Activation) -> list[str]:
    pinned = table(["z", "a", "da/dz"], [[f"{number:.12g}" for number in pin] for pin in row.pinned])
    shown = expressions(a=row.forward, **{"dL/dz": row.backward})
    return [f"## {row.name}", *([row.note] if row.note else []), shown, pinned]


def activations_page() -> str:
    rows = activations.TABLE.values()
    kept = {True: "z and a", False: "a"}
    summary = [[f"`{row.name}`{aliases_of(row.name, activations.ALIASES)}", kept[row.keeps_z]] for row in rows]
    return paragraphs(
        "# Activations",
        "`MLP(activation=, output_activation=)` takes a name or a row. A layer computes z = x @ weight + bias and a,"
        " its output; on the way back it has g = dL/da and makes dL/dz.",
        "![Every activation and its derivative](activations.svg)",
        HOW.format(source="fastbp/activations.py", outside="PyTorch 2.13"),
        table(["activation", "kept for the way back"], summary),
        *(text for row in rows for text in activation(row)),
    ) + "\n"


def reduction(row: Loss) -> str:
    over = "targets" if row.grad_s else "outputs"
    return f"mean over batch and {over}" if row.outputs == "mean" else f"sum over {over}, mean over batch"


def targets(row: Loss) -> str:
    if row.labels:
        return "class labels, or rows of probabilities"
    return str(row.domain)


def settings(row: Loss) -> str:
    return ", ".join(f"`{name}` = {shown_number(default)}" for name, default, _ in row.settings)


def loss(row: Loss) -> list[str]:
    shown = {"loss": row.value, "dloss/dz": row.grad}
    if row.grad_s:
        shown["dloss/ds"] = row.grad_s
    facts = [f"Reduction: {reduction(row)}. Targets: {targets(row)}."]
    for name, default, domain in row.settings:
        facts.append(f"`{name}` is {shown_number(default)}, and may be {domain}{' or None' * (default is None)}.")
    facts += [f"`{name}` = `{expression}`." for name, expression in row.constants]
    if row.link:
        facts.append(f"`predict_proba` gives the {row.link} of its logits.")
    lines = [[numbers(z), numbers(t), f"{value:.12g}", numbers(gradient)] for z, t, value, gradient in row.pinned]
    head = ["z, s", "t", "loss", "dloss/dz, dloss/ds"] if row.grad_s else ["z", "t", "loss", "dloss/dz"]
    pinned = table(head, lines)
    return [f"## {row.name}", *([row.note] if row.note else []), expressions(**shown), " ".join(facts), pinned]


def losses_page() -> str:
    rows = losses.TABLE.values()
    head = ["loss", "reduction", "targets", "settings", "output_activation"]
    output = {True: "identity", False: "any"}
    lines = [
        [f"`{row.name}`", reduction(row), targets(row), settings(row), output[row.from_logits]] for row in rows
    ]  # fmt: skip
    return paragraphs(
        "# Losses",
        "`loss=` takes a name, which stands for the defaults, or a row with settings: `fastbp.losses.huber(delta=2.0)`."
        " Every loss also takes `outputs=\"mean\"` or `\"sum\"`, which is how the elements of one row reduce; and"
        " `output_weights=(w_1, ..., w_K)`, which multiply them first. Losses of one distribution over all outputs,"
        " which have `lse` in them, take no such weights. Over a batch it is always the mean, weighted by"
        " `sample_weight` where that is given: sum(w l) / sum(w).",
        "**Weights of each target, and missing targets.** A loss of each output by itself, which is every one but"
        f" {', '.join(f'`{row.name}`' for row in rows if not row.is_pointwise)}, also takes a `sample_weight` of shape"
        " (n, K), a weight for each of K targets. Then both sums are over rows and outputs, and where a row's elements"
        " are summed the quotient is multiplied by K: so that K equal weights in each row are what one is, to the bit."
        " `output_weights` multiply l as they always do. `missing=\"ignore\"` gives a target that is NaN the weight 0."
        " What has the weight 0 is left out, whatever its loss may be. A batch without any target has a loss and a"
        " gradient of 0, and is a step all the same. `fit`, `train_step`, `evaluate` and `loss_and_grad` take both"
        " arguments.",
        "![Every loss of one output as a function of z, and its derivative](losses.svg)",
        "In the picture t is 0 where it may be any number and else 1, s is 0, and of two classes the other has the"
        " logit 0.",
        HOW.format(source="fastbp/losses.py", outside="PyTorch 2.13"),
        table(head, lines),
        *(text for row in rows for text in loss(row)),
    ) + "\n"


def described(kind: type) -> tuple[str, str]:
    """The summary and the formula of a class, as its docstring has them before its parameters."""
    text = inspect.cleandoc(kind.__doc__).partition("\n\nParameters")[0].replace("``", "`")
    summary, _, formula = (" ".join(part.split()) for part in text.partition("\n\n"))
    return summary, formula


def defaults(kind: type) -> str:
    """Arguments of a class by position, as one writes them."""
    given = inspect.signature(kind).parameters.values()
    shown = [re.sub(r": [^=]+ = ", "=", str(p)) for p in given if p.kind is p.POSITIONAL_OR_KEYWORD]
    return f"`{kind.__name__}({', '.join(re.sub(': .*', '', one) for one in shown)})`"


def rows_of(kind: type) -> list[str]:
    """Names of the rows that a class may call for: those of its row's family."""
    family = kind().row.family
    return [row.name for row in optimizers.TABLE.values() if row.family == family]


def optimizer(kind: type, seen: set[str]) -> list[str]:
    parts = [f"## {kind.__name__}", *filter(None, described(kind))]
    for name in rows_of(kind):
        row = optimizers.TABLE[name]
        if name in seen:
            parts.append(f"Its row is `{name}`, above.")
            continue
        seen.add(name)
        slots = f"slots {', '.join(f'`{slot}`' for slot in row.state)}" if row.state else "no slots"
        steps = "\n".join(f"{target} = {expression}" for target, expression in row.update)
        parts += [f"Row `{name}`, {slots}:", f"```text\n{steps}\n```"]
    return parts


def optimizers_page() -> str:
    kinds = [kind for kind in optimizers.BY_NAME.values() if kind is not optimizers.LBFGS]
    seen: set[str] = set()
    table_of = lambda all_of: [[defaults(kind), described(kind)[0]] for kind in all_of]  # noqa: E731
    plans = [kind for kind in schedules.Schedule.__subclasses__() if kind.__module__ == schedules.__name__]
    return paragraphs(
        "# Optimizers and schedules",
        "`optimizer=` takes a name in small letters, which stands for the defaults, or an object:"
        " `fastbp.Adam(1e-3, clip_norm=1.0)`. Where nothing is told it is `\"adam\"`: on the digits of"
        " [examples/digits.py](../examples/digits.py), with the other defaults too, 30 epochs bring it to 98 % of"
        " unseen ones. `\"sgd\"`, at the same rate of 0.001, comes to 57 % in that time: give `SGD` a rate of your"
        " own.",
        table(["optimizer", "what it is"], table_of(optimizers.BY_NAME.values())),
        "![A parameter on its way to 0 under each optimizer](optimizers.svg)",
        "The picture follows p from 1 for 160 steps, with p as its own gradient. Dashed: the size of each step. The"
        f" learning rate is 0.02, but of {', '.join(f'{name} {lr:g}' for name, lr in WALK_RATES.items())}.",
        "Beside their own hyper-parameters all but LBFGS take these, by keyword:",
        "```text\n" + inspect.cleandoc(optimizers.Rule.__doc__).partition("----------\n")[2] + "\n```",
        " ".join(inspect.cleandoc(optimizers.Rule.__doc__).split("\n\n")[1].replace("``", "`").split()),
        "An `eps` that is 0 in the network's dtype (the default 1e-8 in float16, 1e-46 in float32, 0) counts as that"
        " dtype's least normal number, 6.1e-5 in float16: a parameter whose gradient is 0 stays where it is. The same"
        " holds for the lower bound of Rprop's steps.",
        "Each row below is shown as it stands in `fastbp/optimizers.py`: the text that NumPy evaluates and that `make"
        " rows` renders for C++, run on each parameter p with gradient g. tests/test_optimizers.py pins values of"
        " PyTorch 2.13 (of optax 0.2.8 for Lion) for every row.",
        *(text for kind in kinds for text in optimizer(kind, seen)),
        "## Schedules",
        "In place of a number, `lr` takes one of `fastbp.schedules`, or any callable of the step, such as one of optax."
        " Steps are those of `net.step`, counted from 0.",
        table(["schedule", "what it is"], table_of(plans)),
        "![The learning rate of each schedule over 160 steps](schedules.svg)",
    ) + "\n"


# ------------------------------------------------------------------ pictures

Curves = tuple[str, np.ndarray, np.ndarray]  # name, function, derivative, over the frame's xs
WIDTH, HEIGHT, GAP, COLUMNS = 176, 154, 26, 4


class Frame(NamedTuple):
    """What the panels of a picture have in common."""

    xs: np.ndarray
    bottom: float
    top: float
    ticks: tuple[float, float]  # the mark on each axis
    key: tuple[str, str]  # of the line, and of the dashed line


Z = np.linspace(-4, 4, 161)
STEPS = np.arange(161.0)
OVER_Z = Frame(Z, -2.0, 5.0, (1, 1), ("function", "derivative by z"))
OVER_STEPS = Frame(STEPS, -0.25, 1.1, (100, 1), ("p over 160 steps", "step, as a share of the largest"))
OF_RATES = Frame(STEPS, -0.1, 1.1, (100, 1), ("rate over 160 steps", ""))


WALK_RATES = {"RAdam": 0.04, "Adagrad": 0.2, "Adadelta": 1.0, "Lion": 0.01, "Rprop": 0.01}   # the others have 0.02


def walk(kind: type) -> Curves:
    """A parameter from 1 on, with itself as its gradient."""
    rule = kind(lr=WALK_RATES.get(kind.__name__, 0.02))
    row, p = rule.row, [1.0]
    slots = dict.fromkeys(row.state, 0.0)
    for k in range(len(STEPS) - 1):
        scalars = {name: float(value[0]) for name, value in zip(row.scalars, rule.scalars(k, 1))}
        names = {"p": p[-1], "g": p[-1], **slots, **scalars}
        for target, text in row.update_text:
            names[target] = float(function(text, tuple(names))(**names))
        slots = {name: names[name] for name in row.state}
        p.append(names["p"])
    moved = np.abs(np.diff(p, append=p[-1]))
    return kind.__name__, np.array(p), moved / moved.max()


RATES = (
    schedules.Constant(0.8), schedules.Step(1.0, every=40, factor=0.5), schedules.Exponential(1.0, 0.98),
    schedules.InverseTime(1.0, decay=0.05), schedules.Polynomial(1.0, steps=120, power=2.0), schedules.Cosine(1.0, 120),
    schedules.Cosine(1.0, 30, restarts=True, growth=2.0), schedules.OneCycle(1.0, 150),
    schedules.Warmup(schedules.Cosine(1.0, 120), 40), schedules.Piecewise([50, 100], [1.0, 0.4, 0.1]),
    schedules.Sequence([(0.3, 50), (schedules.Exponential(1.0, 0.96), None)]),
)  # fmt: skip


def rate(schedule: schedules.Schedule) -> Curves:
    name = type(schedule).__name__ + (", with restarts" if getattr(schedule, "restarts", False) else "")
    return name, schedule.at(STEPS), np.full_like(STEPS, np.nan)


def activation_curves(row: Activation) -> Curves:
    a = function(row.forward_text, ("z",))(Z)
    return row.name, a, function(row.backward_text, ("g", "a", "z"))(np.ones_like(Z), a, Z)


def loss_curves(row: Loss) -> Curves:
    t = np.full_like(Z, 0.0 if row.domain == ANY else 1.0)
    third = np.logaddexp(Z, 0) if row.statistic else np.zeros_like(Z)
    arguments = (Z, t, third, *row.numbers(2 if row.statistic else 1))
    value, grad = (function(text, row.names)(*arguments) for text in (row.value_text, row.grad_text))
    return row.name, value, grad


def place(frame: Frame, x: float, y: float) -> tuple[float, float]:
    """In a panel, in pixels."""
    left, right = frame.xs[0], frame.xs[-1]
    return (x - left) / (right - left) * WIDTH, (frame.top - y) / (frame.top - frame.bottom) * HEIGHT


def polylines(frame: Frame, values: np.ndarray, style: str) -> str:
    """A curve; it leaves the panel where it must, and breaks where it jumps."""
    values = np.broadcast_to(values, frame.xs.shape)
    runs: list[list[str]] = [[]]
    for k, (x, y) in enumerate(zip(frame.xs, values)):
        inside = frame.bottom <= y <= frame.top
        if not inside or (k and abs(y - values[k - 1]) > 0.25):
            runs.append([])
        if inside:
            runs[-1].append("{:.1f},{:.1f}".format(*place(frame, x, y)))
    return "".join(f'<polyline points="{" ".join(run)}" {style}/>\n' for run in runs if len(run) > 1)


def picture(title: str, panels: Sequence[Curves], frame: Frame = OVER_Z) -> str:
    """A panel for each row: the function as a line, its derivative dashed."""
    rows = -(-len(panels) // COLUMNS)
    width, height = COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + 2 * GAP) + 2 * GAP
    solid, dashed = 'stroke="#1f77b4" stroke-width="2"', 'stroke="#d62728" stroke-width="1.5" stroke-dasharray="4 3"'
    axis = 'stroke="#999999" stroke-width="0.8"'
    (zero_x, zero_y), (one_x, one_y) = place(frame, 0, 0), place(frame, *frame.ticks)
    line, dashes = frame.key
    second = f'<path d="M160 0h24" {dashed}/>' if dashes else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' font-family="sans-serif" font-size="12" fill="none">\n<title>{title}</title>\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n'
        f'<g transform="translate({GAP} {GAP})"><path d="M0 0h24" {solid}/>{second}'
        f'<g fill="#333333"><text x="30" y="4">{line}</text><text x="190" y="4">{dashes}</text></g></g>\n'
    ]
    for k, (name, values, slope) in enumerate(panels):
        x, y = GAP + k % COLUMNS * (WIDTH + GAP), 3 * GAP + k // COLUMNS * (HEIGHT + 2 * GAP)
        parts.append(
            f'<g transform="translate({x} {y})">\n<text y="-8" fill="#333333">{name}</text>\n'
            f'<rect width="{WIDTH}" height="{HEIGHT}" stroke="#dddddd"/>\n'
            f'<path d="M0 {zero_y:.1f}H{WIDTH}M{zero_x:.1f} 0V{HEIGHT}" {axis}/>\n'
            f'<path d="M{one_x:.1f} {zero_y - 3:.1f}v6M{zero_x - 3:.1f} {one_y:.1f}h6" {axis}/>\n'
            f"{polylines(frame, slope, dashed)}{polylines(frame, values, solid)}</g>\n"
        )
    return "".join([*parts, "</svg>\n"])


FILES: dict[str, Callable[[], str]] = {
    "activations.md": activations_page,
    "activations.svg": lambda: picture("Activations", [activation_curves(row) for row in activations.TABLE.values()]),
    "losses.md": losses_page,
    "optimizers.md": optimizers_page,
    "optimizers.svg": lambda: picture("Optimizers", [
        walk(kind) for kind in optimizers.BY_NAME.values() if kind is not optimizers.LBFGS], OVER_STEPS),
    "schedules.svg": lambda: picture("Schedules", [rate(schedule) for schedule in RATES], OF_RATES),
    "losses.svg": lambda: picture("Losses", [loss_curves(row) for row in losses.TABLE.values()]),
}

if __name__ == "__main__":
    for file, text_of in FILES.items():
        (DOCS / file).write_text(text_of())
