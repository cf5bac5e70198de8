"""The text of a network's kernels, for Numba: plain functions over `fastbp.backends.lanes`, made for its rows.

Two families. `tiles` is for any network: a batch's rows one after the other, products in register tiles, sizes read
when it runs, so that all networks of the same rows share one compilation. `columns` trains small ones: a sample per
lane, sizes and offsets in the text, so that the compiler unrolls loops and keeps in registers what fits.

Nothing here knows a row by its name. Parameters lie as `fastbp.spec` lays them out; padding may hold anything.
"""

from __future__ import annotations

import re
from textwrap import dedent, indent
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastbp.plan import Plan
    from fastbp.rows import Loss, Optimizer, Words
    from fastbp.spec import Layer

SMALL_WIDTH = 32  # up to here `columns`
GROUP = 256  # rows that `columns` gathers at once, at least a batch
AT_ONCE = 8  # sums side by side


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
    for name in chosen:
        text = re.sub(rf"\b{name}\b", f"{name}_", text)
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


def _pointwise(plan: Plan, k: int) -> dict[str, str]:
    """The expressions of layer k's activation and of the loss, as parts of templates: in g, a, z, t, lse and s."""
    row, loss = plan.spec.activations[k], plan.loss
    parts = {"forward": plain(row.forward_text, row, k), "backward": plain(row.backward_text, row, k)}
    if loss:
        texts = {"value": loss.value_text, "grad": loss.grad_text, "grad_s": loss.grad_s_text}
        parts |= {name: plain(text, loss, "loss") for name, text in texts.items() if text}
    parts = {name: f"like({text}, z)" for name, text in parts.items()}
    if loss and loss.chosen["output_weights"] is not None:  # one of 0 leaves the output out, whose loss may be infinite
        parts |= {
            name: f"WHERE(output_weight != 0.0, {parts[name]} * output_weight, 0.0)"
            for name in ("value", "grad", "grad_s") if name in parts
        }  # fmt: skip
    return parts


# ------------------------------------------------------------------ a run of steps

_TRAIN = """
def train(params, slots, X, y, weight, order, work, run, seed, count, place, partial, losses, table):
    share, scalars, known = work.share, work.scalars, work.known
    epochs, value, shared, gathered, group_end = 0, 0.0, 0, 0, -1
    {names}
    for step in range(run.steps):
        epoch, start = place[0], place[1]
        rows = run.n - start if run.n - start < run.batch else run.batch
        if run.shuffled and (known[0] != epoch or known[1] != seed or known[2] != run.n):
            fill_order(seed, epoch, run.n, order)
            known[0], known[1], known[2] = epoch, seed, run.n
            group_end = -1
        for k in range(len(scalars)):
            scalars[k] = table[k, step * run.moving]
        if run.weighted or rows != shared:
            fill_share(share, weight, start, rows, {scale}, run, order)
            shared = rows
        {step}
        partial[0] += value * rows
        partial[1] += rows
        count[0] += 1
        place[1] = start + rows
        if start + rows == run.n:
            losses[epochs] = partial[0] / partial[1]
            epochs += 1
            partial[0], partial[1], place[0], place[1] = 0.0, 0.0, epoch + 1, 0
        if run.stop_on_params and not finite(params, work.shape):
            return step + 1, 2, epochs, value
    return run.steps, 0, epochs, value
"""


def _train(plan: Plan, step: str, names: str = "") -> str:
    return filled(_TRAIN, scale=repr(plan.loss.scale(plan.spec.out_features)), step=step, names=names)


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


def _tiles_loss(plan: Plan) -> str:
    """Of outputs in pairs the second half's gradients come last: whole vectors of the first half's reach over them."""
    last, row = len(plan.spec.layers) - 1, plan.loss
    pointwise, targets = _pointwise(plan, last), f"(work.shape[{last}][1] // {2 if row.grad_s else 1})"
    more = [f"s = load(a, m * ld + {targets} + n)"] if row.grad_s else []
    more += ["output_weight = load(work.output_weight, n)"] if row.chosen["output_weights"] is not None else []
    sums = f"sum = sum + wide(WHERE(real, {pointwise['value']}, 0.0))"
    passes = [(sums, "0", pointwise["grad"])] + ([("", targets, pointwise["grad_s"])] if row.grad_s else [])
    gradients = "".join(
        filled(_TARGETS, targets=targets, more="\n".join(more), sum=one, first=first, grad=grad)
        for one, first, grad in passes
    )
    statistic = filled(_LSE, targets=targets) if row.statistic else ""
    settings = setting_lines(row, "LANES")
    return filled(_LOSS, last=last, settings=settings, statistic=statistic.strip("\n"), gradients=gradients.strip("\n"))


def tiles(plan: Plan, lanes: int) -> str:
    """`forward`, `backward`, and where the plan has them `loss`, `change_all`, `train`."""
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
        backward += lines + (below if k else f"if inputs:\n    {below}") + filled(_GRADIENT, x=x, k=k)
        fused += lines + (below if k else "")
        fused += f"change_layer(params, slots, scalars, work.shape[{k}], {x}, work.delta[{k}], rows, work.panel)\n"
    text = f"LANES = {lanes}\n"
    text += "def forward(params, work, rows):\n" + indent(forward, "    ")
    text += "def backward(params, work, grads, rows, inputs):\n" + indent(backward, "    ")
    if plan.loss:
        text += _tiles_loss(plan)
    if plan.optimizer:
        text += update(plan.optimizer, lanes) + _CHANGES
        if plan.fused:
            text += "def move(params, slots, scalars, work, rows):\n" + indent(fused, "    ")
        else:
            text += "def move(params, slots, scalars, work, rows):\n"
            text += "    backward(params, work, work.grads, rows, False)\n"
            text += "    change_all(params, slots, scalars, work.grads, work.shape)\n"
    if plan.loss and plan.optimizer:
        text += _train(plan, dedent(f"""
            gather(X, y, run, order, start, rows, work.x, work.ldx, work.t, work.shape[{last}][6])
            forward(params, work, rows)
            value = loss(work, rows, run.labels)
            if run.stop_on_loss and not value - value == 0:
                return step, 1, epochs, value
            move(params, slots, scalars, work, rows)
        """).strip())  # fmt: skip
    return text


def update_alone(row: Optimizer, lanes: int) -> str:
    """`update`: one step with gradients given."""
    text = "def update(params, slots, scalars, grads, shape, count):\n"
    text += "    change_all(params, slots, scalars, grads, shape)\n    count[0] += 1\n"
    return f"LANES = {lanes}\n" + update(row, lanes) + _CHANGES + text


# ------------------------------------------------------------------ columns


def suits_columns(plan: Plan) -> bool:
    return bool(plan.fused and plan.plain and plan.loss and plan.optimizer and max(plan.spec.sizes) <= SMALL_WIDTH)


def lanes_for(batch: int, widest: int) -> int:
    """As few lanes as hold the batch; a group of as many samples else."""
    return min(widest, max(4, 1 << (batch - 1).bit_length()))


def slot_of(batch: int, lanes: int) -> int:
    """Columns that a batch takes: whole vectors."""
    return -(-batch // lanes) * lanes


class _Columns:
    """Writes the step of one network; `c` is the column of the first of the samples at hand."""

    def __init__(self, plan: Plan, widest: int) -> None:
        self.plan, self.spec = plan, plan.spec
        self.lanes = lanes_for(plan.batch, widest)
        self.one_group = plan.batch <= self.lanes  # all samples of a batch at once
        slot = slot_of(plan.batch, self.lanes)
        self.ldx = max(1, GROUP // slot) * slot

    def source(self, k: int) -> tuple[str, str, int]:
        """The input of layer k: array, index of its first unit, distance of units."""
        return ("x", "c", self.ldx) if k == 0 else (f"a{k - 1}", "0", self.lanes)

    def sums(self, n_in: int, n_out: int, source: tuple[str, str, int], weight: str, start: str, finish: str) -> str:
        """Unit j = start + sum over i of source[i] * weight[i, j]; `finish` says what becomes of v, the sums of j."""
        array, first, ld = source

        def some(at: str, n: int) -> str:
            units = range(n)
            lines = [f"v{r} = {start.format(j=f'({at} + {r})')}" for r in units]
            lines.append(f"for i in range({n_in}):")
            lines.append(f"    u = load({array}, {first} + i * {ld}, {self.lanes})")
            lines += [f"    v{r} = v{r} + u * params[{weight.format(i='i', j=f'({at} + {r})')}]" for r in units]
            for r in units:
                lines += [f"z = v{r}", finish.format(j=f"({at} + {r})")]
            return "\n".join(lines) + "\n"

        whole = n_out // AT_ONCE * AT_ONCE
        text = f"for j in range(0, {whole}, {AT_ONCE}):\n" + indent(some("j", AT_ONCE), "    ") if whole else ""
        return text + (some(str(whole), n_out - whole) if whole < n_out else "")

    @staticmethod
    def weight(layer: Layer) -> tuple[int, int]:
        """Distances of inputs and of outputs in the weight."""
        return (1, layer.ldw) if layer.transposed else (layer.ldw, 1)

    def forward(self, k: int, layer: Layer) -> str:
        by_in, by_out = self.weight(layer)
        start = "nothing" if layer.bias is None else f"like(params[{layer.bias} + {{j}}], nothing)"
        keep = f"store(z{k}, {{j}} * {self.lanes}, z)\n" if layer.activation.keeps_z else ""
        return self.sums(
            layer.in_features, layer.out_features, self.source(k),
            f"{layer.weight} + {{i}} * {by_in} + {{j}} * {by_out}", start,
            keep + f"store(a{k}, {{j}} * {self.lanes}, {_pointwise(self.plan, k)['forward']})",
        )  # fmt: skip

    def loss(self) -> str:
        last, row = len(self.spec.layers) - 1, self.plan.loss
        targets = row.targets(self.spec.out_features)
        pointwise = _pointwise(self.plan, last)
        target = f"load(work.t, n * {self.ldx} + c, {self.lanes})"
        if row.labels:
            label = f"WHERE(load(work.t, c, {self.lanes}) == n, like(1.0, nothing), 0.0)"
            target = f"{label} if run.labels else {target}"
        statistic = filled(
            """
            for n in range(1, {targets}):
                shift = MAX(load(a{k}, n * {lanes}, {lanes}), shift)
            exponentials = nothing
            for n in range({targets}):
                exponentials = exponentials + EXP(load(a{k}, n * {lanes}, {lanes}) - shift)
            lse = LOG(exponentials)
            """, targets=targets, k=last, lanes=self.lanes,
        ) if row.statistic else ""  # fmt: skip
        at = f"{{}} * {self.lanes}, {self.lanes}".format
        more = [f"s = load(a{last}, {at(f'({targets} + n)')})"] if row.grad_s else []
        if row.chosen["output_weights"] is not None:
            more.append(f"output_weight = splat(work.output_weight[n], {self.lanes})")
        grads = [(f"n * {self.lanes}", pointwise["grad"])]
        grads += [(f"({targets} + n) * {self.lanes}", pointwise["grad_s"])] if row.grad_s else []
        puts = (f"store(d{last}, {place}, WHERE(counts, {grad} * part_of_grad, 0.0))" for place, grad in grads)
        return filled(
            """
            part = load(share, m, {lanes})
            counts, part_of_grad = part != 0.0, narrow(part, nothing)
            sum = lse = nothing
            shift = {shift}
            {statistic}
            for n in range({targets}):
                z = load(a{k}, n * {lanes}, {lanes}) - shift
                {more}
                t = {target}
                sum = sum + {value}
                {puts}
            value += total(wide(WHERE(counts, sum, 0.0)) * part)
            """,
            k=last, lanes=self.lanes, targets=targets, target=target, statistic=statistic.strip("\n"),
            shift=f"load(a{last}, 0, {self.lanes})" if row.statistic else "nothing", more="\n".join(more),
            value=pointwise["value"], puts="\n".join(puts),
        )  # fmt: skip

    def backward(self, k: int, layer: Layer) -> str:
        """delta of the layer below from old weights, then the gradient of this layer's."""
        text = ""
        if not layer.activation.is_identity:
            text += filled(
                """
                for j in range(0, {n}, {lanes}):
                    g, a, z = load(d{k}, j, {lanes}), load(a{k}, j, {lanes}), load(z{k}, j, {lanes})
                    store(d{k}, j, {backward})
                """,
                k=k, n=layer.out_features * self.lanes, lanes=self.lanes, **_pointwise(self.plan, k),
            )  # fmt: skip
        text += self.without_others(f"d{k}", layer)
        if k:
            by_in, by_out = self.weight(layer)
            text += self.sums(
                layer.out_features, layer.in_features, (f"d{k}", "0", self.lanes),
                f"{layer.weight} + {{j}} * {by_in} + {{i}} * {by_out}", "nothing",
                f"store(d{k - 1}, {{j}} * {self.lanes}, z)",
            )  # fmt: skip
        return text + self.gradient(k, layer)

    def without_others(self, units: str, layer: Layer) -> str:
        """Lanes past the batch hold an input of 0; with a bias something may overflow there, and inf * 0 is NaN."""
        return filled(
            """
            if rows < m + {lanes}:
                for j in range(0, {n}, {lanes}):
                    store({units}, j, WHERE(below(rows - m, nothing), load({units}, j, {lanes}), 0.0))
            """, units=units, n=layer.out_features * self.lanes, lanes=self.lanes)  # fmt: skip

    def put(self, at: str, g: str) -> str:
        """What becomes of a piece of the gradient."""
        if self.one_group:
            return f"change(params, slots, scalars, {at}, {g})"
        return f"store(grads, {at}, {g} + (load(grads, {at}, {self.lanes}) if m else nothing))"

    def gradient(self, k: int, layer: Layer) -> str:
        array, first, ld = self.source(k)
        n_in, n_out, lanes = layer.in_features, layer.out_features, self.lanes
        unit = f"load({{}}, {{}} + {{}} * {{}}, {lanes})".format
        text = ""
        if layer.transposed:
            for begin, end, n in ((0, n_in // lanes * lanes, lanes), (n_in // lanes * lanes, n_in, n_in % lanes)):
                if begin < end:
                    g = f"weigh({unit(f'd{k}', 0, 'o', lanes)}, {array}, {first} + i * {ld}, {ld}, {n})"
                    text += f"for o in range({n_out}):\n    for i in range({begin}, {end}, {lanes}):\n"
                    text += f"        {self.put(f'{layer.weight} + o * {layer.ldw} + i', g)}\n"
        if n_out <= min(4, lanes):  # sums across the lanes
            if not layer.transposed:
                g = f"weigh({unit(array, first, 'i', ld)}, d{k}, 0, {lanes}, {n_out})"
                text += f"for i in range({n_in}):\n    {self.put(f'{layer.weight} + i * {layer.ldw}', g)}\n"
            if layer.bias is not None:
                text += self.put(f"{layer.bias}", f"weigh(like(1.0, nothing), d{k}, 0, {lanes}, {n_out})") + "\n"
            return text
        # an output per lane: delta is turned round
        text += filled(
            """
            for j in range(0, {n}, {lanes}):
                transpose(d{k}, j * {lanes}, {lanes}, turned, j, {n}, {lanes})
            """, n=slot_of(n_out, lanes), lanes=lanes, k=k)  # fmt: skip
        whole = n_in // 4 * 4
        for begin, end, n in ((0, whole, 4), (whole, n_in, n_in - whole)):
            if layer.transposed or begin == end:
                continue
            rows = range(n)
            text += filled(
                """
                for i in range({begin}, {end}, {n}):
                    for j in range(0, {out}, {lanes}):
                        {zero}
                        for sample in range({lanes}):
                            d = load(turned, sample * {out} + j, {lanes})
                            {add}
                        {put}
                """,
                begin=begin, end=end, n=n, out=slot_of(n_out, lanes), lanes=lanes,
                zero="\n".join(f"g{r} = nothing" for r in rows),
                add="\n".join(f"g{r} = g{r} + d * {array}[{first} + (i + {r}) * {ld} + sample]" for r in rows),
                put="\n".join(self.put(f"{layer.weight} + (i + {r}) * {layer.ldw} + j", f"g{r}") for r in rows),
            )  # fmt: skip
        if layer.bias is not None:
            text += filled(
                """
                for j in range(0, {out}, {lanes}):
                    g = nothing
                    for sample in range({lanes}):
                        g = g + load(turned, sample * {out} + j, {lanes})
                    {put}
                """, out=slot_of(n_out, lanes), lanes=lanes, put=self.put(f"{layer.bias} + j", "g"))  # fmt: skip
        return text

    def text(self) -> str:
        layers = self.spec.layers
        names = "".join(f"z{k}, a{k}, d{k} = work.z[{k}], work.a[{k}], work.delta[{k}]\n" for k in range(len(layers)))
        group = "".join(self.forward(k, layer) + self.without_others(f"a{k}", layer) for k, layer in enumerate(layers))
        group += self.loss()
        stop = "if run.stop_on_loss and not value - value == 0:\n    return step, 1, epochs, value\n"
        back = "".join(self.backward(k, layer) for k, layer in reversed(list(enumerate(layers))))
        if self.one_group:
            group = "m, c = 0, column\n" + group + stop + back
        else:
            group = f"for m in range(0, rows, {self.lanes}):\n    c = column + m\n" + indent(group + back, "    ")
            group += stop
            for layer in layers:
                rows, cols = layer.in_features, layer.out_features
                rows, cols = (cols, rows) if layer.transposed else (rows, cols)
                parts = [(layer.weight, rows, cols)]
                parts += [] if layer.bias is None else [(layer.bias, 1, layer.out_features)]
                for first, n_rows, n_cols in parts:
                    group += f"for at in range({first}, {first + n_rows * layer.ldw}, {layer.ldw}):\n"
                    group += f"    for n in range(at, at + {n_cols}, {self.lanes}):\n"
                    group += f"        change(params, slots, scalars, n, load(grads, n, {self.lanes}))\n"
        slot = slot_of(self.plan.batch, self.lanes)
        step = filled(
            """
            if start >= group_end or start < gathered:
                gathered, group_end = start, start + {most} * run.batch
                if group_end > run.n:
                    group_end = run.n
                gather_columns(X, y, run, order, start, group_end, work.x, {ldx}, work.t, {slot})
            column = (start - gathered) // run.batch * {slot}
            value = 0.0
            {group}
            """,
            most=self.ldx // slot, ldx=self.ldx, slot=slot, group=group,
        )  # fmt: skip
        names += "x, grads, turned, setting = work.x, work.grads, work.panel, work.setting\n"
        names += "".join(f"{line}\n" for line in setting_lines(self.plan.loss, self.lanes).splitlines())
        names += f"nothing = like(0.0, load(x, 0, {self.lanes}))\n"
        return update(self.plan.optimizer, self.lanes) + _train(self.plan, step, names)


def columns(plan: Plan, widest: int) -> str:
    """`train` alone."""
    return _Columns(plan, widest).text()


def column_sizes(plan: Plan, widest: int) -> dict[str, int]:
    """Elements of the work arrays of `columns`."""
    made = _Columns(plan, widest)
    wide = slot_of(max(plan.spec.sizes), made.lanes)
    return {
        "x": plan.spec.in_features * made.ldx, "t": plan.spec.out_features * made.ldx, "unit": wide * made.lanes,
        "panel": wide * made.lanes, "share": slot_of(plan.batch, made.lanes),
    }  # fmt: skip
