"""The page to step through: its numbers are those of `net.trace` and `fit`, and everyone can read and work it.

The page itself is driven in headless Chromium (browser.py): its own buttons and fields are used, and what it shows is
read. Without Chromium the arithmetic alone is run, by Node.
"""

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser

import fastbp

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "learn"
SCRIPTS = ("strings.js", "network.js", "formulas.js", "learn.js")
tool = runpy.run_path(str(ROOT / "tools" / "learn.py"))
EXAMPLES = tool["examples"]()
STEPS = (1, 10, 500)
# Each network as the page has it, and with another rate and a batch that does not divide the rows.
RUNS = [
    *((name, example.batch, example.lr) for name, example in EXAMPLES.items()),
    ("demo", 5, 0.02), ("xor", 3, 0.3), ("mazur", 1, 2.0),
]  # fmt: skip
every_run = pytest.mark.parametrize("name, batch, lr", RUNS)
every_example = pytest.mark.parametrize("name", EXAMPLES)
every_width = pytest.mark.parametrize("width", [1280, 390])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page as it is built."""
    made = tmp_path_factory.mktemp("learn")
    tool["build"](made)
    return made


DRIVER = """
const click = async (way) => {
  document.querySelector(`[data-go="${way}"]`).click();
  while ($("formulas").getAttribute("aria-busy") === "true") await new Promise(requestAnimationFrame);
};
const put = (id, value, event = "change") => { $(id).value = value; $(id).dispatchEvent(new Event(event)); };
const to = (steps) => { // by the field and the button
  put("many", steps);
  return click("+many");
};
const shown = () => [...$("table").rows].map((row) => [...row.cells].map((cell) => cell.textContent));
const open = () => { $("all").open = true; renderTable(); };
const allRows = () => [...$("sample").options].map(({ value }) => { put("sample", value); return shown(); });
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here; on Debian: apt install chromium")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def drive(chromium, folder):
    """Runs JavaScript on the page, at a place of it; gives what it returns."""

    def run(script, place="lang=en", **how):
        chromium.open(f"{(folder / 'index.html').as_uri()}#{place}", **how)
        return chromium.run(DRIVER + script)

    return run


@pytest.fixture
def node(folder):
    """Runs JavaScript behind the arithmetic and the strings, without a page; gives what it returns."""
    if shutil.which("node") is None:
        pytest.skip("no Node here")

    def run(script):
        texts = [(folder / name).read_text() for name in ("data.js", *SCRIPTS[:2])]
        program = "\n".join([*texts, f"console.log(JSON.stringify((() => {{ {script} }})()))"])
        done = subprocess.run(["node", "-"], input=program, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return run


# ------------------------------------------------------------------ its numbers


def trained(name, batch, lr, steps):
    """A copy of an example after some steps of `fit`."""
    example = tool["examples"]()[name]
    settings = dict(loss=example.loss, optimizer=fastbp.SGD(lr=lr), batch_size=batch, shuffle=False)
    if steps:
        example.net.fit(np.asarray(example.X, float), np.asarray(example.y, float), steps=steps, **settings)
    return example.net


def batch_of(name, batch, step):
    """The rows of a step, counted from 1: in order, the last batch of an epoch short."""
    n = len(EXAMPLES[name].X)
    start = (step - 1) % -(-n // batch) * batch
    return list(range(start, min(start + batch, n)))


def expected(name, batch, lr, step):
    """Step `step` by fastbp: the trace of it, the rows, the network behind it, the loss of all rows then."""
    example, rows = EXAMPLES[name], batch_of(name, batch, step)
    X, y = np.asarray(example.X, float), np.asarray(example.y, float)
    traced = trained(name, batch, lr, step - 1).trace(X[rows], y[rows], loss=example.loss, lr=lr)
    after = trained(name, batch, lr, step)
    return traced, rows, after, after.evaluate(X, y, loss=example.loss)


def equal(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours, float), theirs, rtol=1e-12, atol=1e-12)


def stacked(weight, bias):
    """The parameters of a layer as the page has them: biases below the weights."""
    return weight if bias is None else np.vstack([weight, bias])


def names_of(net):
    """The page's names of the units of each layer."""
    sizes = net.sizes
    return [[f"{letter}{j + 1}" for j in range(n)] for letter, n in zip("xho", sizes)]


@every_run
def test_what_the_page_shows_after_1_10_and_500_steps_is_what_trace_and_fit_give(drive, name, batch, lr):
    """Reached by the fields and buttons, read from the table below the drawing, every row of the batch."""
    told = drive(
        f"""open(); put("network", "{name}"); put("batch", {batch}); put("lr", {lr}); const all = [];
        let made = 0;
        for (const steps of {list(STEPS)}) {{
          await to(steps - made); made = steps;
          const rows = [...$("sample").options].map((option) => parseInt(option.text) - 1);
          all.push({{ rows, tables: allRows(), loss: page.run.states[steps].loss, step: page.run.step,
            status: $("status").textContent }});
        }}
        return all;"""
    )
    assert len(told) == len(STEPS)
    for steps, page in zip(STEPS, told):
        traced, rows, after, loss = expected(name, batch, lr, steps)
        units = names_of(after)
        assert page["step"] == steps and page["rows"] == rows
        said = re.search(r"rows ([\d.e−]+)\.$", page["status"])[1].replace("−", "-")
        assert float(said) == pytest.approx(loss, rel=1e-5)
        equal(page["loss"], loss)
        for s, lines in enumerate(page["tables"]):
            table = {line[0]: line[1:] for line in lines}
            equal(table["L"], [traced.loss_before])
            n_checked = 1
            for k, layer in enumerate(traced.layers):
                for j, unit in enumerate(units[k + 1]):
                    equal(table[unit], [array[s, j] for array in (layer.z, layer.a, layer.g, layer.delta)])
                    for i, source in enumerate(units[k]):
                        parameter = layer.weight.value, layer.weight.grad, layer.weight.new
                        equal(table[f"w {source}→{unit}"], [array[i, j] for array in parameter])
                        equal(table[f"w {source}→{unit}"][2], after.weights[k][i, j])
                    n_checked += 1 + len(units[k])
                    if layer.bias is not None:
                        parameter = layer.bias.value, layer.bias.grad, layer.bias.new
                        equal(table[f"b {unit}"], [array[j] for array in parameter])
                        equal(table[f"b {unit}"][2], after.biases[k][j])
                        n_checked += 1
            assert len(table) == n_checked + 2  # and two headings


@every_run
def test_the_arithmetic_alone_gives_what_trace_and_fit_give(node, name, batch, lr):
    told = node(
        f"""const run = new Run(NETWORKS.{name}); run.set({{ lr: {lr}, batch: {batch} }});
        return {list(STEPS)}.map((steps) => (run.go(steps * run.stages), [run.shown, run.states[steps]]));"""
    )
    for steps, (shown, state) in zip(STEPS, told):
        traced, rows, after, loss = expected(name, batch, lr, steps)
        assert shown["rows"] == rows and shown["lr"] == lr
        equal([shown["loss"], state["loss"]], [traced.loss_before, loss])
        for k, layer in enumerate(traced.layers):
            for key, array in (("z", layer.z), ("a", layer.a), ("g", layer.g), ("delta", layer.delta)):
                equal([sample[k + 1][key] for sample in shown["samples"]], array)
            for ours, which in (("params", "value"), ("grads", "grad"), ("next", "new")):
                equal(shown[ours][k], stacked(getattr(layer.weight, which), layer.bias and getattr(layer.bias, which)))
            equal(state["params"][k], stacked(after.weights[k], None if layer.bias is None else after.biases[k]))


def test_mazurs_first_step_has_the_numbers_of_the_page_on_back_propagation(node):
    shown = node("const run = new Run(NETWORKS.mazur); run.go(run.stages); return run.shown;")
    text = (ROOT / "docs" / "backpropagation.md").read_text()
    for number in (shown["loss"], shown["samples"][0][2]["delta"][0], shown["next"][0][0][0]):
        assert f"{number:.9f}" in text


@every_example
def test_back_and_forth_gives_equal_numbers(drive, name):
    """By stages, batches, many and the slider; and what was gone back over is not computed from other numbers."""
    told = drive(
        f"""open(); put("network", "{name}");
        const first = []; // every table of three steps, stage by stage
        const stages = 3 * page.run.stages;
        for (let k = 0; k < stages; k++) {{ await click("+stage"); first.push(JSON.stringify(shown())); }}
        const back = [];
        for (let k = 0; k < stages; k++) {{ back.unshift(JSON.stringify(shown())); await click("-stage"); }}
        const start = $("status").textContent, step = page.run.step;
        await to(40); const far = JSON.stringify(shown());
        for (const way of ["-batch", "-batch", "+batch", "+batch"]) await click(way);
        const near = JSON.stringify(shown());
        put("seek", 0, "input"); const beginning = $("status").textContent; put("seek", 40, "input");
        const sought = JSON.stringify(shown());
        put("many", 15); await click("-many"); const at = page.run.step; await click("+many");
        const again = JSON.stringify(shown());
        put("network", "{name}"); await to(40);
        const anew = JSON.stringify(shown());
        return {{ first, back, start, step, beginning, far, near, sought, at, again, anew }};"""
    )
    assert told["first"] == told["back"] and len(set(told["first"])) == len(told["first"])
    assert told["step"] == 0 and told["start"] == told["beginning"] and "Nothing is computed" in told["start"]
    assert told["far"] == told["near"] == told["sought"] == told["again"] == told["anew"]
    assert told["at"] == 25


def test_another_rate_from_the_middle_on_is_that_of_two_calls_of_fit(node):
    told = node(
        """const run = new Run(NETWORKS.demo), go = (steps, stage = 0) => run.go(steps * run.stages + stage);
        go(20); go(8); run.set({ lr: 0.02 });
        const made = run.states.length;
        go(12, 1); run.set({ batch: 4 }); const { step, stage } = run, rows = run.shown.rows;
        go(12); return { params: run.states[12].params, made, step, stage, rows };"""
    )
    assert told["made"] == 9  # what came later belongs to the old rate
    assert (told["step"], told["stage"]) == (13, 1) and told["rows"] == [0, 1, 2, 3]
    net = trained("demo", 8, 0.001, 8)
    example = EXAMPLES["demo"]
    net.fit(example.X, example.y, loss="mse", optimizer=fastbp.SGD(lr=0.02), batch_size=8, shuffle=False, steps=4)
    for ours, weight in zip(told["params"], net.weights):
        equal(ours, weight)


def test_data_has_the_initial_weights_to_the_last_bit(node):
    told = node("return NETWORKS;")
    for name, example in tool["examples"]().items():
        layers = example.net.trace(example.X, example.y, loss=example.loss).layers
        for params, layer in zip(told[name]["params"], layers):
            assert np.array_equal(params, stacked(layer.weight.value, layer.bias and layer.bias.value))
        assert np.array_equal(told[name]["X"], example.X) and np.array_equal(told[name]["y"], example.y)


# ------------------------------------------------------------------ working it


def test_numbers_come_stage_by_stage(drive):
    """Forward, the loss, backward, the update: what is not computed yet is not shown, what is computed stands out."""
    counts = drive(
        """put("network", "xor"); const counts = [];
        const drawn = () => [...document.querySelectorAll("#drawing text")].map((text) => text.textContent);
        for (let k = 0; k < page.run.stages; k++) {
          await click("+stage");
          const known = (letter) => drawn().filter((text, k, all) => text === letter && all[k + 1]).length;
          const now = page.parts.filter(({ group }) => group.classList.contains("now")).map(({ layer }) => layer);
          const counted = ["z", "L", "δ", "∂w", "∂b", "w′", "b′"].map(known);
          counts.push([...counted, Number($("seek").value), [...new Set(now)]]);
        }
        return counts;"""
    )
    assert counts == [  # L is also the name of its box; the curve goes on at the end; last, the layer that stands out
        [4, 1, 0, 0, 0, 0, 0, 0, [1]], [5, 1, 0, 0, 0, 0, 0, 0, [2]], [5, 2, 0, 0, 0, 0, 0, 0, [3]],
        [5, 2, 1, 4, 1, 0, 0, 0, [2]], [5, 2, 5, 12, 5, 0, 0, 0, [1]], [5, 2, 5, 12, 5, 12, 5, 1, []],
    ]  # fmt: skip


def test_a_formula_leads_to_the_number_that_is_shown(drive):
    """Each line with numbers alone is calculated; six digits of each factor leave five of the result."""
    parts = drive(
        """const told = [];
        for (const name of ["demo", "xor", "mazur"]) {
          put("network", name); await to(2);
          for (const { id } of page.parts) {
            select(id);
            told.push([name, id, [...document.querySelectorAll("#formulas p")].map((line) => line.textContent)]);
          }
        }
        return told;"""
    )
    words = {"exp": np.exp, "tanh": np.tanh, "max": max, "abs": abs, "log1p": np.log1p}
    words["sigmoid"] = lambda z: 1 / (1 + np.exp(-z))
    number, n_checked = re.compile(r"-?[\d.]+(e[-+]\d+)?"), 0
    for name, part, lines in parts:
        lines = [re.sub(r"^.*?= ", "", line.replace("−", "-").replace("·", "*")) for line in lines]
        for text, value in zip(lines, lines[1:]):
            unknown = set(re.findall(r"[a-z]\w*", re.sub(number, "", text))) - {*words}
            if not unknown and "…" not in text and not number.fullmatch(text) and number.fullmatch(value):
                said = eval(text, dict(words))
                np.testing.assert_allclose(said, float(value), rtol=2e-4, atol=2e-6, err_msg=f"{name} {part} {text}")
                n_checked += 1
    assert n_checked > 100


def test_before_the_first_step_a_formula_has_names_alone(drive):
    loss, weight = drive("return ['L', 'x1-h1'].map((id) => { select(id); return $('formulas').innerText; });")
    assert re.search(r"^L = \(Σ .*\) / 8\n+= comes in a later stage$", loss, re.M)
    assert "Σ x1·δh1" in weight and "w′x1→h1 = wx1→h1 − lr·∂L/∂wx1→h1" in weight and not re.search(r"\d\.\d", weight)


def test_a_rate_that_is_too_large_stops_at_the_last_finite_step(drive):
    told = drive(
        """put("lr", 1000); await to(500); const status = $("status").textContent, { step, states } = page.run;
        const numbers = states.flatMap(({ loss, params }) => [loss, ...params.flat(2)]);
        const finite = numbers.every(Number.isFinite);
        put("seek", 0, "input"); put("lr", 0.001); await to(500);
        return { status, step, finite, after: $("status").textContent, loss: page.run.states[500].loss };"""
    )
    assert "overflow" in told["status"] and 0 < told["step"] < 500 and told["finite"]
    assert "Step 500" in told["after"] and told["loss"] < 0.5


def test_a_field_that_makes_no_sense_changes_nothing_and_says_so(drive):
    told = drive(
        """await to(3); const said = [];
        const wrong = { lr: ["-1", "", "0", "x"], batch: ["33", "2.5", "0", ""], many: ["-3", "", "20000"] };
        for (const [id, values] of Object.entries(wrong)) {
          for (const value of values) {
            const good = $(id).value, { run } = page;
            put(id, value);
            if (id === "many") await click("+many");
            said.push([id, $("status").textContent, $(id).getAttribute("aria-invalid"), run.lr, run.batch, run.step]);
            put(id, good);
          }
        }
        return said;"""
    )
    assert len(told) == 11
    for field, status, invalid, *settings in told:
        name = {"lr": "Learning rate", "batch": "Rows in a batch", "many": "batches"}[field]
        assert status.startswith(name + ": give") and invalid == "true" and settings == [0.001, 8, 3]


def test_an_address_names_a_place(drive):
    script = """const { network, selected, run } = page;
    return [network, run.lr, run.batch, run.step, run.stage, selected];"""
    place = "network=xor&lang=zh&lr=0.25&batch=3&step=10&stage=2&part=x1-h2"
    assert drive(script, place) == ["xor", 0.25, 3, 10, 2, "x1-h2"]
    place = "network=nonsense&lang=xx&lr=-1&batch=99&step=-4&part=zz"
    assert drive(script, place) == ["demo", 0.001, 8, 0, 0, "h1"]
    assert drive(script, "network=mazur&batch=2&lr=0") == ["mazur", 0.5, 1, 0, 0, "h1"]
    assert drive("return [...document.querySelectorAll('[aria-invalid=true]')].length;", "lr=0&batch=99") == 0
    assert drive("return page.run.step;", "network=mazur&step=20000") == 10_000  # more would take the browser's time


@every_width
def test_a_click_selects_what_it_meets(chromium, drive, width):
    """Each box and each label at its middle, a connection where it leaves its unit."""
    places = drive(
        """await to(1);
        const boxes = page.parts.map(({ id, group }) => [id, group.querySelector("rect").getBoundingClientRect()]);
        const wires = page.parts.filter(({ wire }) => wire).map(({ id, wire }) => {
          const at = wire.getPointAtLength(wire.getTotalLength() * 0.15).matrixTransform(wire.getScreenCTM());
          return [id, at.x, at.y];
        });
        return [...boxes.map(([id, { x, y, width, height }]) => [id, x + width / 2, y + height / 2]), ...wires];""",
        width=width,
        height=2500,
    )
    assert len(places) == 16 + 9
    for part, x, y in places:
        chromium.click(x, y)
        focused = "page.parts.find(({ group }) => group === document.activeElement)?.id"
        assert chromium.run(f"return [page.selected, {focused}];") == [part, part]


def test_a_page_that_was_not_built_says_how_to(chromium, drive):
    assert "make learn" not in drive("return document.body.innerText;")
    chromium.open((PAGE / "index.html").as_uri())
    text = chromium.run("return document.body.innerText;")
    assert "data.js is missing" in text and "make learn" in text and "▶" not in text


def test_as_a_folder_of_the_site_it_leads_to_the_page_of_its_language(chromium, drive, tmp_path):
    script = "return [$('home').hidden, $('home').firstElementChild.getAttribute('href')];"
    assert drive(script)[0]  # alone
    tool["build"](tmp_path / "learn", "..")
    for language, name in (("en", "backpropagation"), ("zh", "backpropagation.zh")):
        chromium.open(f"{(tmp_path / 'learn' / 'index.html').as_uri()}#lang={language}")
        assert chromium.run(script) == [False, f"../{name}.html"]
        assert (ROOT / "docs" / f"{name}.md").exists()


# ------------------------------------------------------------------ for everyone


@every_example
def test_the_keyboard_reaches_every_part_and_each_says_its_numbers(chromium, drive, name):
    """One stop of Tab, from which arrow keys go on; the formulas follow."""
    ids = drive(
        """await to(1); ($("batch").disabled ? $("lr") : $("batch")).focus();
        return page.parts.map(({ id }) => id);""",
        f"lang=en&network={name}",
    )
    net = EXAMPLES[name].net
    assert len(ids) == sum(net.sizes) + 1 + sum(a * b for a, b in zip(net.sizes, net.sizes[1:]))
    stops = []
    while stops[-1:] != ["seek"]:
        chromium.press("Tab")
        here = "const { id, dataset } = document.activeElement; return id || dataset.go || page.selected;"
        stops.append(chromium.run(here))
        assert len(stops) < 20
    buttons = [sign + what for sign in "-+" for what in ("stage", "batch", "many")]
    assert stops == [*["sample"] * (len(EXAMPLES[name].X) > 1), "many", *buttons, "h1", "seek"]
    chromium.run("page.parts[0].group.focus();")
    for k, part in enumerate(ids):
        selected, label, pressed, formulas = chromium.run(
            "const here = document.activeElement, say = (name) => here.getAttribute(name);"
            "return [page.selected, say('aria-label'), say('aria-pressed'), $('formulas').textContent];"
        )
        assert selected == part and pressed == "true"
        assert re.search(r": .*\d$", label) and formulas.startswith(label.partition(":")[0])
        if "-" in part:
            assert re.search(r"weight .*, gradient .*, new weight ", label)
        chromium.press("ArrowRight" if k < len(ids) - 1 else "ArrowUp")
    assert chromium.run("return page.selected;") == ids[-2]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_everything_that_can_be_worked_has_a_name_and_what_changes_is_told(chromium, drive, language):
    """As a screen reader is told it."""
    told = drive(
        """const empty = [...document.querySelectorAll("[data-text]")].filter((element) => !element.textContent);
        return { empty: empty.length, lang: document.documentElement.lang, text: document.body.innerText,
          live: [$("status").getAttribute("role"), $("formulas").getAttribute("aria-live")] };""",
        f"lang={language}&network=mazur&step=2&part=L",
    )
    assert told["empty"] == 0 and told["lang"].startswith(language) and told["live"] == ["status", "polite"]
    roles = chromium.roles()
    worked = [(role, name) for role, name in roles if role in ("button", "spinbutton", "combobox", "slider", "region")]
    assert len(worked) > 8 + 6 + 15 and all(name for _, name in worked), worked
    assert ("image", "") not in roles
    spoken = told["text"] + " ".join(name for _, name in worked)
    assert not re.search(r"undefined|NaN|null|\[object", spoken)
    foreign = re.search(r"[\u4e00-\u9fff]", spoken.replace("中文", "").replace("Language / 语言", ""))
    assert bool(foreign) == (language == "zh")
    if language == "zh":  # no word of the other language is left
        assert not re.search(r"\b(the|row|step|of|loss|back|weight|unit)\b", spoken, re.I)


@every_example
@every_width
def test_nothing_in_the_drawing_covers_another_and_nothing_is_wider_than_the_window(drive, name, width):
    """Not at the beginning, and not where numbers have all their digits."""
    told = drive(
        """const found = [], all = (what, of = $("drawing")) => [...of.querySelectorAll(what)];
        const apart = (a, b) => a.x + a.width <= b.x || a.y + a.height <= b.y;
        const meets = (a, b) => !apart(a, b) && !apart(b, a);
        const pairs = (boxes) => boxes.flatMap((a, k) => boxes.slice(k + 1).map((b) => [a, b]));
        const inside = (a, { x, width }) => a.x >= x - 1 && a.x + a.width <= x + width + 1;
        for (const steps of [0, 1, 60]) {
          if (steps) await to(steps);
          const boxes = all("rect").map((rect) => rect.getBBox()), view = $("drawing").viewBox.baseVal;
          for (const [a, b] of pairs(boxes)) if (meets(a, b)) found.push(["boxes", steps, a.x, a.y, b.x, b.y]);
          for (const a of boxes) {
            if (!inside(a, view) || a.y < 0 || a.y + a.height > view.height) found.push(["out", a.x, a.y]);
          }
          for (const group of all("g[role]")) {
            const texts = all("text", group).filter((text) => text.textContent).map((text) => text.getBBox());
            const rect = group.querySelector("rect").getBBox();
            for (const [a, b] of pairs(texts)) {
              if (Math.abs(a.y - b.y) < 1 && meets(a, b)) found.push(["texts", steps, group.textContent]);
            }
            if (!texts.every((a) => inside(a, rect))) found.push(["wide", steps, group.textContent]);
          }
        }
        return { found, overflow: document.documentElement.scrollWidth - innerWidth, innerWidth };""",
        f"lang=en&network={name}",
        width=width,
    )
    assert told["found"] == [] and told["overflow"] <= 0 and told["innerWidth"] == width


def colours(text):
    return {name: value for name, value in re.findall(r"--([\w-]+): (#\w{6})", text)}


def contrast(a, b):
    def luminance(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_from_every_ground_light_and_dark():
    """4.5 for text and 3 for lines, as WCAG 2 has it (AA)."""
    style = (PAGE / "learn.css").read_text()
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for palette in (colours(light), colours(dark.partition("* {")[0])):
        assert len(palette) == 10
        for ground in ("ground", "raised", "now"):
            for text in ("text", "forward", "backward", "new"):
                assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
        for ground in ("ground", "raised"):
            assert contrast(palette["faint"], palette[ground]) >= 4.5
        assert contrast(palette["line"], palette["ground"]) >= 3 and contrast(palette["accent"], palette["ground"]) >= 3
    assert contrast("#ffffff", "#000000") == pytest.approx(21)


def test_who_wants_less_motion_sees_the_end_at_once(drive):
    script = """let frames = 0; const frame = requestAnimationFrame;
    window.requestAnimationFrame = (act) => { frames++; return frame(act); };
    put("many", 100); document.querySelector('[data-go="+many"]').click();
    const until = Date.now() + 20000;
    while (page.run.step < 100 && Date.now() < until) await new Promise((done) => setTimeout(done, 10));
    return [frames, page.run.step];"""
    (frames, step), still = drive(script, still=False), drive(script)
    assert frames > 10 and step == 100 and still == [0, 100]


# ------------------------------------------------------------------ its text


def test_both_languages_say_the_same_things(node):
    """The same keys, functions of as many arguments, nothing empty."""
    told = node(
        """const mapped = (object, act) =>
          Object.fromEntries(Object.entries(object).map(([key, value]) => [key, act(value)]));
        const shape = (value) => typeof value === "function" ? value.length
          : typeof value === "string" ? value !== "" || "empty" : mapped(value, shape);
        return mapped(STRINGS, shape);"""
    )
    assert told["en"] == told["zh"] and len(told["en"]) > 40
    assert json.dumps(told).count("empty") == 2  # the corner of the table


def test_every_string_that_is_asked_for_is_there_and_every_one_is_asked_for():
    strings = (PAGE / "strings.js").read_text().partition("zh: {")[0]
    there = set(re.findall(r"(?:^    |, )(\w+): (?=[\"`([{\n]|\w+ =>|$)", strings, re.M))
    page = (PAGE / "index.html").read_text()
    script = "".join((PAGE / name).read_text() for name in SCRIPTS[1:])
    asked = set(re.findall(r'data-(?:text|label)="(\w+)"', page)) | set(re.findall(r'say\("(\w+)"', script))
    assert asked <= there
    mentioned = set(re.findall(r'"(\w+)"', script + page)) | set(EXAMPLES)
    assert there - mentioned - {"b", "t", "L", "w"} == set()


def test_the_page_fetches_nothing():
    for name in ("index.html", "learn.css", *SCRIPTS):
        text = (PAGE / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//\w+\.\w|\bfetch\(|XMLHttp|import\b|@import|url\(|eval\(", text), name
    links = re.findall(r'(?:src|href)="([^"]+)"', (PAGE / "index.html").read_text())
    assert {*links} - {"data:,"} == {"learn.css", "data.js", *SCRIPTS}


def test_the_pages_on_back_propagation_lead_there():
    for name, anchor in (("backpropagation.md", ""), ("backpropagation.zh.md", "#lang=zh")):
        assert f'<a href="learn/index.html{anchor}">' in (ROOT / "docs" / name).read_text()
