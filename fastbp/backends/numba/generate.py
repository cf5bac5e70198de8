"""The text of a network's kernels, for Numba: plain functions over `fastbp.backends.numba.lanes`, made for its rows.

Two families. `tiles` is for any network: a batch's rows one after the other, products in register tiles, sizes read
when it runs, so that all networks of the same rows share one compilation. `columns` trains small ones: a sample per
lane, sizes and offsets in the text, so that the compiler unrolls loops and keeps in registers what fits.

Nothing here knows a row by its name. Parameters lie as `fastbp.spec` lays them out; padding may hold anything.
"""

from __future__ import annotations

import re
from textwrap import dedent, indent
from typing import TYPE_CHECKING

from fastbp.spec import padded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastbp.backends.protocol import Plan
    from fastbp.rows import Loss, Optimizer, Words
    from fastbp.spec import Layer

SMALL_WIDTH = 32  # up to here `columns`
GROUP = 256  # rows that `columns` gathers at once, at least a batch


def filled(template: str, **parts: object) -> str:
    """A template with its parts in place; a part that has a line of its own keeps that line's indentation."""
    lines = []
    for line in dedent(template).strip("\n").splitlines():
        alone = re.fullmatch(r"( *)\{(\w+)\}", line)
        lines.append(indent(str(parts[alone[2]]), alone[1]) if alone else line.format(**parts))
    return "\n".join(line for line in lines if line) + "\n"


# ------------------------------------------------------------------ rows


def plain(text: str, row: object = None, place: object = None) -> str:
    """A rendered expression with its numbers as they are: beside a vector they take its type.

    Words of the row's own get its place in the network for an ending; names that it has chosen get one too, as the
    text around it has names of its own.
    """
    if place is not None:
        for word, _ in getattr(row, "words", ()):
            text = re.sub(rf"\b{word}\(", f"{word}_{place}(", text)
    chosen = (*getattr(row, "numbers_named", ()), *getattr(row, "state", ()), *getattr(row, "scalars", ()))
    if chosen:  # all at once: one may be another's with the ending
        text = re.sub(rf"\b({'|'.join(chosen)})\b", r"\1_", text)
    return re.sub(r"\bR\(([^()]*)\)", r"(\1)", text)


def words(plan: Plan) -> Words:
    """What the text calls of the rows' own."""
    rows = [*enumerate(plan.spec.activations), ("loss", plan.loss)]
    return tuple((f"{word}_{place}", own) for place, row in rows if row for word, own in row.words)


def scalar_lines(row: Optimizer, lanes: int) -> str:
    return "\n".join(f"{name}_ = splat(scalars[{k}], {lanes})" for k, name in enumerate(row.scalars))


def setting_lines(row: Loss, lanes: int) -> str:
    return "\n".join(f"{name}_ = splat(setting[{k}], {lanes})" for k, name in enumerate(row.numbers_named))


def update_lines(row: Optimizer, lanes: int) -> str:
    """The rule on vectors p and g, its slots at index `at`."""
    lines = [f"{name}_ = load(slots[{k}], at, {lanes})" for k, name in enumerate(row.state)]
    lines += [f"{plain(target, row)} = like({plain(text, row)}, g)" for target, text in row.update_text]
    lines += [f"store(slots[{k}], at, {name}_)" for k, name in enumerate(row.state)]
    return "\n".join(lines)


def update(row: Optimizer, lanes: int) -> str:
    return filled(
        """
        def change(params, slots, scalars, at, g):
            p = load(params, at, {lanes})
            {scalars}
            {lines}
            store(params, at, p)
        """,
        lanes=lanes, scalars=scalar_lines(row, lanes), lines=update_lines(row, lanes),
    )  # fmt: skip


def _pointwise(plan: Plan, k: int, each: bool = False) -> dict[str, str]:
    """The expressions of layer k's activation and of the loss, as parts of templates: in g, a, z, t, lse and s.

    Where each target has a weight, or each output, the text around them sets `target_weight`.
    """
    row, loss = plan.spec.activations[k], plan.loss
    parts = {"forward": plain(row.forward_text, row, k), "backward": plain(row.backward_text, row, k)}
    if loss:
        texts = {"value": loss.value_text, "grad": loss.grad_text, "grad_s": loss.grad_s_text}
        parts |= {name: plain(text, loss, "loss") for name, text in texts.items() if text}
    parts = {name: f"like({text}, z)" for name, text in parts.items()}
    if loss and (each or _weighs_outputs(loss)):  # one of 0 leaves the target out, which may be NaN
        parts |= {
            name: f"WHERE(target_weight != 0.0, {parts[name]} * target_weight, 0.0)"
            for name in ("value", "grad", "grad_s") if name in parts
        }  # fmt: skip
    return parts


def _weighs_outputs(loss: Loss) -> bool:
    return loss.chosen["output_weights"] is not None


def _target_weight(loss: Loss, each: str | None, output: str) -> list[str]:
    """The line that sets `target_weight`: from the weights of each target, and of outputs."""
    parts = [part for part in (each, output if _weighs_outputs(loss) else None) if part]
    return [f"target_weight = {' * '.join(parts)}"] if parts else []


# ------------------------------------------------------------------ a run of steps

_TRAIN = """
def train(params, slots, X, y, weight, order, work, run, seed, count, place, partial, losses, table{more}):
    share, scalars, known = work.share, work.scalars, work.known
    epochs, value, shared, gathered, group_end = 0, 0.0, 0, 0, -1
    {names}
    {begin}
    for step in range(run.steps):
        epoch, start = place[0], place[1]
        rows = run.n - start if run.n - start < run.batch else run.batch
        {given}
        if {own} and (known[0] != epoch or known[1] != seed or known[2] != run.n):
            fill_order(seed, epoch, run.n, order)
            known[0], known[1], known[2] = epoch, seed, run.n
            group_end = -1
        for k in range(len(scalars)):
            scalars[k] = table[k, step * run.moving]
        if run.weights or rows != shared:
            {shares}
            shared = rows
        {penalty}
        {step}
        {report}
        partial[0] += value * rows
        partial[1] += rows
        count[0] += 1
        place[1] = start + rows
        if start + rows == run.n:
            losses[epochs] = partial[0] / partial[1]
            epochs += 1
            partial[0], partial[1], place[0], place[1] = 0.0, 0.0, epoch + 1, 0
            {stall}
        if run.stop_on_params and not ({finite}):
            return step + 1, 2, epochs, value
        {end}
    return run.steps, 0, epochs, value
"""
# What a `Course` adds. It is of one call: an order given is no epoch's own, which `known` says.
_COURSE = {
    "more": ", orders, factor, l2, stall",
    "begin": "first, taken, stalled = place[0], -1, False",
    "given": """
        if len(orders) and taken != epoch:
            take_order(orders, (epoch - first) * run.n, run.n, order)
            taken, known[2], group_end = epoch, 0, -1
    """,
    "own": "run.shuffled and not len(orders)",
    "penalty": "penalty = l2[step] * ({squares}) if len(l2) else 0.0",
    "report": "value = value * factor + penalty",
    "stall": "if len(stall):\n    stalled = has_stalled(losses[epochs - 1], stall)",
    "end": "if stalled:\n    return step + 1, 3, epochs, value",
}


def _train(plan: Plan, step: str, finite: str, squares: str, parts: str, course: bool, names: str = "") -> str:
    """`parts`: where those of the weights of each target go; empty where there are none."""
    what = f"share, weight, start, rows, {plan.loss.scale(plan.spec.out_features)!r}, run, order"
    shares = f"fill_share_of_targets({what}, {parts})" if parts else f"fill_share({what})"
    more = {name: dedent(part).strip().format(squares=squares) for name, part in _COURSE.items()}
    if not course:
        more = dict.fromkeys(_COURSE, "") | {"own": "run.shuffled"}
    return filled(_TRAIN, shares=shares, step=step, finite=finite, names=names, **more)


# ------------------------------------------------------------------ tiles

_LAYER = "n_in, n_out, ldw, weight, bias, transposed, ld = work.shape[{k}]\n"
_FORWARD = """
affine({x}, params, weight, ldw, transposed, bias, work.z[{k}], ld, rows, n_in, n_out)
for m in range(rows):
    for at in range(m * ld, m * ld + n_out, LANES):
        z = load(work.z[{k}], at)
        store(work.a[{k}], at, {forward})
"""
_BACKWARD = """
for m in range(rows):
    for at in range(m * ld, m * ld + n_out, LANES):
        g, a, z = load(work.delta[{k}], at), load(work.a[{k}], at), load(work.z[{k}], at)
        store(work.delta[{k}], at, {backward})
"""
_GRADIENT = """
end = n_out if transposed else n_in
grad_weight({x}, work.delta[{k}], ld, transposed, 0, end, grads, weight, ldw, rows, n_in, n_out)
if bias >= 0:
    grad_bias(work.delta[{k}], ld, grads, bias, rows, n_out)
"""
_CHANGES = """
def change_rows(params, slots, scalars, first, ldw, rows, cols, grads, at):
    for m in range(rows):
        for n in range(0, cols, LANES):
            change(params, slots, scalars, first + m * ldw + n, load(grads, at + m * ldw + n))
def change_layer(params, slots, scalars, layer, x, ldx, delta, rows, scratch):
    # some rows of the gradient at a time, so that they are used while they are in the cache
    n_in, n_out, ldw, weight, bias, transposed, ld = layer
    n_rows, n_cols = (n_out, n_in) if transposed else (n_in, n_out)
    for begin in range(0, n_rows, 8):
        end = begin + 8 if begin + 8 < n_rows else n_rows
        grad_weight(x, ldx, delta, ld, transposed, begin, end, scratch, 0, ldw, rows, n_in, n_out)
        change_rows(params, slots, scalars, weight + begin * ldw, ldw, end - begin, n_cols, scratch, 0)
    if bias >= 0:
        grad_bias(delta, ld, scratch, 0, rows, n_out)
        change_rows(params, slots, scalars, bias, 0, 1, n_out, scratch, 0)
def change_all(params, slots, scalars, grads, shape):
    for n_in, n_out, ldw, weight, bias, transposed, ld in shape:
        n_rows, n_cols = (n_out, n_in) if transposed else (n_in, n_out)
        change_rows(params, slots, scalars, weight, ldw, n_rows, n_cols, grads, weight)
        if bias >= 0:
            change_rows(params, slots, scalars, bias, 0, 1, n_out, grads, bias)
"""
_LOSS = """
def loss(work, rows, labels):
    ld = work.shape[{last}][6]
    a, delta, share, setting = work.a[{last}], work.delta[{last}], work.share, work.setting
    {settings}
    value = 0.0
    for m in range(rows):
        part = share[m]
        shift = lse = nothing(a)
        {statistic}
        sum = wide(nothing(a))
        {gradients}
        if part != 0:
            value += part * total(sum)
    return value
"""
_TARGETS = """
for n in range(0, {targets}, LANES):
    real, z = below({targets} - n, shift), load(a, m * ld + n) - shift
    {more}
    if labels:
        t = WHERE(lane_index(shift) == work.t[m * ld] - n, like(1.0, shift), 0.0)
    else:
        t = load(work.t, m * ld + n)
    {sum}
    if part == 0:
        store(delta, m * ld + {first} + n, nothing(a))
    else:
        store(delta, m * ld + {first} + n, WHERE(real, {grad} * part, 0.0))
"""
_LSE = """
most = a[m * ld]
for n in range({targets}):
    if a[m * ld + n] > most or a[m * ld + n] != a[m * ld + n]:
        most = a[m * ld + n]
shift, exponentials = like(most, shift), nothing(a)
for n in range(0, {targets}, LANES):
    exponentials = exponentials + WHERE(below({targets} - n, shift), EXP(load(a, m * ld + n) - shift), 0.0)
lse = LOG(like(total(exponentials), shift))
"""


def _tiles_loss(plan: Plan, each: bool) -> str:
    """Of outputs in pairs the second half's gradients come last: whole vectors of the first half's reach over them."""
    last, row = len(plan.spec.layers) - 1, plan.loss
    pointwise, targets = _pointwise(plan, last, each), f"(work.shape[{last}][1] // {2 if row.grad_s else 1})"
    more = [f"s = load(a, m * ld + {targets} + n)"] if row.grad_s else []
    of_each = "load(work.t, (len(share) + m) * ld + n)" if each else None
    more += _target_weight(row, of_each, "load(work.output_weight, n)")
    sums = f"sum = sum + wide(WHERE(real, {pointwise['value']}, 0.0))"
    passes = [(sums, "0", pointwise["grad"])] + ([("", targets, pointwise["grad_s"])] if row.grad_s else [])
    gradients = "".join(
        filled(_TARGETS, targets=targets, more="\n".join(more), sum=one, first=first, grad=grad)
        for one, first, grad in passes
    )
    statistic = filled(_LSE, targets=targets) if row.statistic else ""
    settings = setting_lines(row, "LANES")
    return filled(_LOSS, last=last, settings=settings, statistic=statistic.strip("\n"), gradients=gradients.strip("\n"))


def tiles(plan: Plan, lanes: int, each: bool = False, course: bool = False) -> str:
    """`forward`, `backward`, and where the plan has them `loss`, `change_all`, `train`.

    `each`: targets have weights of their own, which lie behind the targets of a whole batch. `course`: `train` takes
    what a `Course` has.
    """
    last = len(plan.spec.layers) - 1
    inputs = ["work.x, work.ldx", *(f"work.a[{k}], work.shape[{k}][6]" for k in range(last))]
    forward = backward = fused = ""
    for k, x in enumerate(inputs):
        forward += _LAYER.format(k=k) + filled(_FORWARD, x=x, k=k, **_pointwise(plan, k))
    for k, x in reversed(list(enumerate(inputs))):
        lines = _LAYER.format(k=k)
        if not plan.spec.activations[k].is_identity:
            lines += filled(_BACKWARD, k=k, **_pointwise(plan, k))
        to = f"work.delta[{k - 1}], work.shape[{k - 1}][6]" if k else "work.grad_input, work.ldx"
        below = f"grad_input(work.delta[{k}], ld, params, weight, ldw, transposed, work.panel, {to}, rows, n_in, n_out)"
        below += "\n"
        backward += lines + (below if k else f"if inputs:\n    {below}")
        backward += "if parameters:\n" + indent(filled(_GRADIENT, x=x, k=k), "    ")
        fused += lines + (below if k else "")
        fused += f"change_layer(params, slots, scalars, work.shape[{k}], {x}, work.delta[{k}], rows, work.panel)\n"
    text = f"LANES = {lanes}\n"
    text += "def forward(params, work, rows):\n" + indent(forward, "    ")
    text += "def backward(params, work, grads, rows, parameters, inputs):\n" + indent(backward, "    ")
    if plan.loss:
        text += _tiles_loss(plan, each)
    if plan.optimizer:
        text += update(plan.optimizer, lanes) + _CHANGES
        if plan.fused:
            text += "def move(params, slots, scalars, work, rows):\n" + indent(fused, "    ")
        else:
            text += "def move(params, slots, scalars, work, rows):\n"
            text += "    backward(params, work, work.grads, rows, True, False)\n"
            text += "    change_all(params, slots, scalars, work.grads, work.shape)\n"
    if plan.loss and plan.optimizer:
        ld = f"work.shape[{last}][6]"
        text += _train(plan, dedent(f"""
            gather(X, y, run, order, start, rows, work.x, work.ldx, work.t, work.shape[{last}][6])
            forward(params, work, rows)
            value = loss(work, rows, run.labels)
            if run.stop_on_loss and not value - value == 0:
                return step, 1, epochs, value
            move(params, slots, scalars, work, rows)
        """).strip(), "finite(params, work.shape)", "squares_of_all(params, work.shape)",
            f"work.t, len(share) * {ld}, {ld}, 1" if each else "", course)  # fmt: skip
    return text


def update_alone(row: Optimizer, lanes: int) -> str:
    """`update`: one step with gradients given."""
    text = "def update(params, slots, scalars, grads, shape, count):\n"
    text += "    change_all(params, slots, scalars, grads, shape)\n    count[0] += 1\n"
    return f"LANES = {lanes}\n" + update(row, lanes) + _CHANGES + text


# ------------------------------------------------------------------ columns


def is_small(plan: Plan) -> bool:
    return max(plan.spec.sizes) <= SMALL_WIDTH


def suits_columns(plan: Plan) -> bool:
    return bool(plan.fused and plan.bare and plan.loss and plan.optimizer and is_small(plan))


def lanes_for(batch: int, widest: int) -> int:
    """As few lanes as hold the batch; a group of as many samples else."""
    return min(widest, max(4, 1 << (batch - 1).bit_length()))


def slot_of(batch: int, lanes: int) -> int:
    """Columns that a batch takes: whole vectors."""
    return -(-batch // lanes) * lanes


class _Columns:
    """Writes what one network needs, with sizes and places as numbers.

    All that it works on lies in one array, `memory`, as each array of a call costs compilation: x and t of a group of
    rows, unit by unit; z, a and d (delta) of each layer for the samples at hand, a vector for each unit; gradients,
    laid out as parameters are; deltas turned round; w, the weights of a batch's targets, as t but for one batch. `c` is
    the column of the first of the samples at hand.
    """

    def __init__(self, plan: Plan, widest: int, each: bool = False, course: bool = False) -> None:
        self.plan, self.spec, self.each, self.course = plan, plan.spec, each, course
        self.lanes = lanes = lanes_for(plan.batch, widest)
        self.one_group = plan.batch <= lanes  # all samples of a batch at once
        self.slot = slot_of(plan.batch, lanes)
        self.ldx = max(1, GROUP // self.slot) * self.slot
        self.at: dict[str, int] = {}
        self.size = 0  # of `memory`, in elements
        unit = slot_of(max(self.spec.sizes), lanes) * lanes
        self._place("x", self.spec.in_features * self.ldx)
        self._place("t", self.spec.out_features * self.ldx)
        self._place("turned", unit)
        self._place("grads", self.spec.buffer_size)
        for k, layer in enumerate(self.spec.layers):
            self._place(f"a{k}", unit)
            self._place(f"d{k}", unit)
            if layer.activation.keeps_z:
                self._place(f"z{k}", unit)
            else:
                self.at[f"z{k}"] = self.at[f"a{k}"]
        self._place("w", self.spec.out_features * self.slot)

    def _place(self, name: str, n: int) -> None:
        self.at[name], self.size = self.size, self.size + slot_of(n, 64)  # cache lines of any element

    def unit(self, name: str, n: str = "n") -> str:
        """The n-th unit of the samples at hand."""
        return f"load(memory, {self.at[name]} + {n} * {self.lanes}, {self.lanes})"

    def source(self, k: int) -> tuple[str, int]:
        """The input of layer k: index of its first unit, distance of units."""
        return (f"{self.at['x']} + c", self.ldx) if k == 0 else (f"{self.at[f'a{k - 1}']}", self.lanes)

    @staticmethod
    def weight(layer: Layer) -> tuple[int, int]:
        """Distances of inputs and of outputs in the weight."""
        return (1, layer.ldw) if layer.transposed else (layer.ldw, 1)

    def forward(self, k: int, layer: Layer) -> str:
        """Lanes past the batch are 0: their input is, but with a bias something may overflow, and inf * 0 is NaN."""
        by_in, by_out = self.weight(layer)
        x, ldx = self.source(k)
        return filled(
            """
            sums(memory, {x}, {ldx}, {n_in}, params, {weight}, {by_in}, {by_out}, {bias}, {at}, {n_out}, {lanes})
            for n in range({n_out}):
                z = {z}
                store(memory, {a} + n * {lanes}, WHERE(real, {forward}, 0.0))
            """,
            x=x, ldx=ldx, n_in=layer.in_features, weight=layer.weight, by_in=by_in, by_out=by_out,
            bias=-1 if layer.bias is None else layer.bias, at=self.at[f"z{k}"], n_out=layer.out_features,
            lanes=self.lanes, z=self.unit(f"z{k}"), a=self.at[f"a{k}"], forward=_pointwise(self.plan, k)["forward"],
        )  # fmt: skip

    def loss(self) -> str:
        last, row = len(self.spec.layers) - 1, self.plan.loss
        targets = row.targets(self.spec.out_features)
        pointwise = _pointwise(self.plan, last, self.each)
        a, d, t = self.at[f"a{last}"], self.at[f"d{last}"], self.at["t"]
        target = f"load(memory, {t} + n * {self.ldx} + c, {self.lanes})"
        if row.labels:
            label = f"WHERE(load(memory, {t} + c, {self.lanes}) == n, like(1.0, nothing), 0.0)"
            target = f"{label} if run.labels else {target}"
        statistic = filled(
            """
            for n in range(1, {targets}):
                shift = MAX({a}, shift)
            exponentials = nothing
            for n in range({targets}):
                exponentials = exponentials + EXP({a} - shift)
            lse = LOG(exponentials)
            """, targets=targets, a=self.unit(f"a{last}"),
        ) if row.statistic else ""  # fmt: skip
        more = [f"s = {self.unit(f'a{last}', f'({targets} + n)')}"] if row.grad_s else []
        of_each = f"load(memory, {self.at['w']} + n * {self.slot} + m, {self.lanes})" if self.each else None
        more += _target_weight(row, of_each, f"splat(work.output_weight[n], {self.lanes})")
        grads = [("n", pointwise["grad"])] + ([(f"({targets} + n)", pointwise["grad_s"])] if row.grad_s else [])
        puts = (f"store(memory, {d} + {n} * {self.lanes}, WHERE(counts, {grad} * part_of_grad, 0.0))"
                for n, grad in grads)  # fmt: skip
        return filled(
            """
            part = load(work.share, m, {lanes})
            counts, part_of_grad = part != 0.0, narrow(part, nothing)
            sum = lse = nothing
            shift = {shift}
            {statistic}
            for n in range({targets}):
                z = {z} - shift
                {more}
                t = {target}
                sum = sum + {value}
                {puts}
            value += total(wide(WHERE(counts, sum, 0.0)) * part)
            """,
            lanes=self.lanes, targets=targets, target=target, statistic=statistic.strip("\n"),
            shift=f"load(memory, {a}, {self.lanes})" if row.statistic else "nothing", more="\n".join(more),
            z=self.unit(f"a{last}"), value=pointwise["value"], puts="\n".join(puts),
        )  # fmt: skip

    def backward(self, k: int, layer: Layer) -> str:
        """delta of the layer below from old weights, then the gradient of this layer's."""
        text = ""
        if k < len(self.spec.layers) - 1 or not layer.activation.is_identity:
            text += filled(
                """
                for n in range({n_out}):
                    g, a, z = {g}, {a}, {z}
                    store(memory, {d} + n * {lanes}, WHERE(real, {backward}, 0.0))
                """,
                n_out=layer.out_features, g=self.unit(f"d{k}"), a=self.unit(f"a{k}"), z=self.unit(f"z{k}"),
                d=self.at[f"d{k}"], lanes=self.lanes, backward=_pointwise(self.plan, k)["backward"],
            )  # fmt: skip
        if k:
            by_in, by_out = self.weight(layer)
            text += f"sums(memory, {self.at[f'd{k}']}, {self.lanes}, {layer.out_features}, params, {layer.weight}, "
            text += f"{by_out}, {by_in}, -1, {self.at[f'd{k - 1}']}, {layer.in_features}, {self.lanes})\n"
        return text + self.gradient(k, layer)

    def put(self, at: str, g: str) -> str:
        """A piece of the gradient, or what the samples at hand add to it."""
        at = f"{self.at['grads']} + {at}"
        return f"store(memory, {at}, {g}{'' if self.one_group else f' + load(memory, {at}, {self.lanes})'})\n"

    def gradient(self, k: int, layer: Layer) -> str:
        (x, ldx), d, turned = self.source(k), self.at[f"d{k}"], self.at["turned"]
        n_in, n_out, lanes = layer.in_features, layer.out_features, self.lanes
        text = ""
        if layer.transposed:
            for begin, end, n in ((0, n_in // lanes * lanes, lanes), (n_in // lanes * lanes, n_in, n_in % lanes)):
                if begin < end:
                    g = f"weigh({self.unit(f'd{k}', 'o')}, memory, {x} + i * {ldx}, {ldx}, {n})"
                    text += f"for o in range({n_out}):\n    for i in range({begin}, {end}, {lanes}):\n"
                    text += f"        {self.put(f'{layer.weight} + o * {layer.ldw} + i', g)}"
        if n_out <= min(4, lanes):  # sums across the lanes
            if not layer.transposed:
                g = f"weigh(load(memory, {x} + i * {ldx}, {lanes}), memory, {d}, {lanes}, {n_out})"
                text += f"for i in range({n_in}):\n    {self.put(f'{layer.weight} + i * {layer.ldw}', g)}"
            if layer.bias is not None:
                text += self.put(f"{layer.bias}", f"weigh(like(1.0, nothing), memory, {d}, {lanes}, {n_out})")
            return text
        # an output per lane: delta is turned round
        out = slot_of(n_out, lanes)
        each = f"for j in range(0, {out}, {lanes}):\n    "
        text += f"{each}transpose(memory, {d} + j * {lanes}, {lanes}, memory, {turned} + j, {out}, {lanes})\n"
        if not layer.transposed:
            text += f"outer(memory, {turned}, {out}, {x}, {ldx}, {n_in}, {self.at['grads']}, {layer.weight}, "
            text += f"{layer.ldw}, {int(not self.one_group)}, {lanes})\n"
        if layer.bias is not None:
            text += f"{each}g = nothing\n    for n in range({lanes}):\n"
            text += f"        g = g + load(memory, {turned} + n * {out} + j, {lanes})\n"
            text += f"    {self.put(f'{layer.bias} + j', 'g')}"
        return text

    def each_parameter(self, line: str) -> str:
        """A line for each vector of parameters, at index `at`. Padding between them may become anything."""
        one = padded(1, self.spec.dtype.itemsize)
        step = one if max(self.spec.sizes) <= self.lanes else self.lanes  # no row has more than its first vector
        return f"for at in range(0, {self.spec.buffer_size}, {step}):\n    {line}\n"

    def finite(self) -> str:
        """The sum of x - x over all parameters: 0 for finite ones, else NaN."""
        parts = [f"rest(params, {weight}, {self.lanes})" for weight in self.weights()]
        for layer in self.spec.layers:
            if layer.bias is not None:
                parts.append(f"rest(params, {layer.bias}, 1, 0, {layer.out_features}, {self.lanes})")
        return f"total({' + '.join(parts)}) == 0"

    def squares(self) -> str:
        return " + ".join(f"squares(params, {weight})" for weight in self.weights())

    def weights(self) -> Iterator[str]:
        """Of each layer where its weight begins, rows, their distance, columns."""
        for layer in self.spec.layers:
            rows, cols = layer.in_features, layer.out_features
            rows, cols = (cols, rows) if layer.transposed else (rows, cols)
            yield f"{layer.weight}, {rows}, {layer.ldw}, {cols}"

    def train(self) -> str:
        layers, lanes, grads = self.spec.layers, self.lanes, self.at["grads"]
        group = "real = below(rows - m, nothing)\n"
        group += "".join(self.forward(k, layer) for k, layer in enumerate(layers)) + self.loss()
        stop = "if run.stop_on_loss and not value - value == 0:\n    return step, 1, epochs, value\n"
        back = "".join(self.backward(k, layer) for k, layer in reversed(list(enumerate(layers))))
        if self.one_group:
            group = "m, c = 0, column\n" + group + stop + back
        else:
            group = f"for m in range(0, rows, {lanes}):\n    c = column + m\n" + indent(group + back, "    ")
            group = self.each_parameter(f"store(memory, {grads} + at, nothing)") + group + stop
        change = f"change(params, slots, work.scalars, at, load(memory, {grads} + at, {lanes}))"
        step = filled(
            """
            if start >= group_end or start < gathered:
                gathered, group_end = start, start + {most} * run.batch
                if group_end > run.first + len(X):
                    group_end = run.first + len(X)
                gather_columns(X, y, run, order, start, group_end, memory, {x}, {t}, {ldx}, {slot})
            column = (start - gathered) // run.batch * {slot}
            value = 0.0
            {group}
            """,
            most=self.ldx // self.slot, x=self.at["x"], t=self.at["t"], ldx=self.ldx, slot=self.slot,
            group=group + self.each_parameter(change),
        )  # fmt: skip
        names = f"memory, setting = work.memory, work.setting\nnothing = like(0.0, load(memory, 0, {lanes}))\n"
        names += "".join(f"{line}\n" for line in setting_lines(self.plan.loss, lanes).splitlines())
        parts = f"memory, {self.at['w']}, 1, {self.slot}" if self.each else ""
        text = _train(self.plan, step, self.finite(), self.squares(), parts, self.course, names)
        return update(self.plan.optimizer, lanes) + text

    def outputs(self) -> str:
        """From rows of inputs to rows of outputs, as many as fill whole vectors."""
        layers, lanes, x, last = self.spec.layers, self.lanes, self.at["x"], f"a{len(self.spec.layers) - 1}"
        self.ldx = lanes  # one group
        return filled(
            """
            def outputs(params, memory, inputs, to, rows):
                nothing, c = like(0.0, load(memory, 0, {lanes})), 0
                for m in range(0, rows, {lanes}):
                    for i in range(0, {n_in}, {lanes}):
                        transpose(inputs, m * {ld_in} + i, {ld_in}, memory, {x} + i * {lanes}, {lanes}, {lanes})
                    real = below(rows - m, nothing)
                    {forward}
                    for j in range(0, {n_out}, {lanes}):
                        transpose(memory, {a} + j * {lanes}, {lanes}, to, m * {ld_out} + j, {ld_out}, {lanes})
            """,
            lanes=lanes, n_in=self.spec.in_features, ld_in=padded(self.spec.in_features, self.spec.dtype.itemsize), x=x,
            forward="".join(self.forward(k, layer) for k, layer in enumerate(layers)),
            n_out=self.spec.out_features, a=self.at[last],
            ld_out=padded(self.spec.out_features, self.spec.dtype.itemsize),
        )  # fmt: skip


def columns(plan: Plan, widest: int, each: bool = False, course: bool = False) -> str:
    """`train` alone; `each`: targets have weights of their own; `course`: it takes what a `Course` has."""
    return _Columns(plan, widest, each, course).train()


def column_outputs(plan: Plan, widest: int) -> str:
    """`outputs` alone: what `forward` of `tiles` gives, compiled in less time."""
    return _Columns(plan, widest).outputs()


def column_sizes(plan: Plan, widest: int) -> tuple[int, int]:
    """Elements of the arrays of `columns`: of `memory` and of `share`."""
    made = _Columns(plan, widest)
    return made.size, made.slot
