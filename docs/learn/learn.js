"use strict";
// The page: it draws a Run (network.js), shows how what is selected was made (formulas.js), and listens.
// A part of the drawing is a unit (layer 0 has the inputs), a weight into a layer, or the loss.

const $ = (id) => document.getElementById(id);
const broad = matchMedia("(min-width: 46rem)"), still = matchMedia("(prefers-reduced-motion: reduce)");
const page = { network: "demo", language: "en", run: null, sample: 0, parts: [], selected: "h1", walk: 0, problem: "" };

/** A string of the page's language. */
function say(key, ...values) {
  const text = STRINGS[page.language][key];
  return typeof text === "function" ? text(...values) : text;
}

// ---- numbers and names

const minus = (text) => text.replaceAll("-", "−");
const full = (x) => minus(`${+x.toPrecision(6)}`);
/** At most 7 characters or so, for the drawing. */
function brief(x) {
  const decimals = broad.matches ? 4 : 3, size = Math.abs(x.toPrecision(2));
  return minus(x && (size < 10 ** (1 - decimals) || size >= 1e4) ? x.toExponential(1) : `${+x.toFixed(decimals)}`);
}
const layers = () => page.run.net.params.length;
const unitsOf = (k) => (k ? page.run.net.params[k - 1].weight[0] : page.run.net.X[0]).length;
const unitName = (k, j) => `${k === 0 ? "x" : k === layers() ? "o" : "h"}${j + 1}`;

/** What is known at the stage that is shown; layers are counted from 1. */
function known() {
  const { stage, step, lastStage } = page.run, K = layers();
  return {
    forward: (k) => step > 0 && stage >= k,
    loss: step > 0 && stage > K,
    backward: (k) => step > 0 && stage >= 2 * K + 2 - k,
    update: step > 0 && stage === lastStage,
  };
}

/** The layer whose turn it is: forward and then backward; one more than there are is the loss, 0 the update. */
function turn() {
  const { stage } = page.run, K = layers();
  return stage <= K ? stage : 2 * K + 2 - stage;
}

/** Words for the stage that is shown. */
function stageInWords() {
  const K = layers();
  if (turn() === 0) return say("update");
  return turn() > K ? say("loss") : say(page.run.stage <= K ? "forward" : "backward", turn());
}

/** The numbers on a part: [symbol, value or null, what kind of number it is]. */
function numbersOf({ kind, layer, from, unit }) {
  const { run, sample } = page, { net, shown } = run, at = known();
  const when = (is, value) => (is ? value() : null);
  const parameter = (letter, pick) => [
    [letter, pick(run.params[layer - 1]), "given"],
    [`∂${letter}`, when(at.backward(layer), () => pick(shown.grads[layer - 1])), "backward"],
    [`${letter}′`, when(at.update, () => pick(shown.next[layer - 1])), "new"],
  ];
  if (kind === "loss") return [["L", when(at.loss, () => shown.loss), "forward"]];
  if (kind === "weight") return parameter("w", ({ weight }) => weight[from][unit]);
  const ofRow = (table) => when(shown, () => table[shown.rows[sample]][unit]);
  if (layer === 0) return [["x", ofRow(net.X), "given"]];
  const made = (what, is) => when(is, () => shown.samples[sample][layer - 1][what][unit]);
  return [
    ["z", made("z", at.forward(layer)), "forward"],
    ["a", made("a", at.forward(layer)), "forward"],
    ...(layer === layers() ? [["t", ofRow(net.y), "given"]] : []),
    ["δ", made("delta", at.backward(layer)), "backward"],
    ...(net.params[layer - 1].bias ? parameter("b", ({ bias }) => bias[unit]) : []),
  ];
}

/** What a part is called. */
function title({ kind, layer, from, unit }) {
  if (kind === "loss") return say("lossPart");
  if (kind === "weight") return say("weight", unitName(layer - 1, from), unitName(layer, unit));
  return say(layer === 0 ? "input" : layer === layers() ? "output" : "hidden", unitName(layer, unit));
}

// ---- the drawing: along it lie the layers (to the right, or down where it is narrow), across it the units

function svg(name, attributes, parent, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return parent.appendChild(element);
}

/** Sizes and places, in the drawing's own units. The place behind the last layer is that of the loss. */
function layout() {
  const K = layers(), wide = broad.matches, line = wide ? 15 : 13, width = wide ? 98 : 86, across = wide ? 500 : 372;
  const counts = [...Array(K + 1).keys()].map(unitsOf).concat(1);
  const partOf = (layer, unit) =>
    (layer > K ? { kind: "loss", id: "L", layer } : { kind: "unit", id: unitName(layer, unit), layer, unit });
  const heights = counts.map((_, k) => 12 + line * (1 + numbersOf(partOf(k, 0)).length));
  // The labels of the weights from one unit stand in a rank, where the wires lie apart; those of the next in another.
  const ranks = counts.map((n, k) => {
    if (n > 1 && counts[k + 1] > 1) return wide ? [0.4, 0.8] : [0.66, 0.89];
    return [wide ? 0.42 : 0.3];
  });
  const gaps = counts.map((_, k) => (k === K ? 24 : ranks[k].length > 1 ? (wide ? 214 : 205) : wide ? 124 : 100));
  const deep = heights.map((height) => (wide ? width : height)), starts = [6];
  for (let k = 0; k <= K; k++) starts.push(starts[k] + deep[k] + gaps[k]);
  const place = (main, k, j) => { // a point by its place along the layers, at the middle of a unit
    const cross = (across * (j + 0.5)) / counts[k];
    return wide ? { x: main, y: cross } : { x: cross, y: main };
  };
  const along = starts.at(-1) + deep.at(-1) + 6;
  return { wide, line, width, heights, counts, ranks, gaps, starts, partOf, place,
    size: wide ? [along, across] : [across, along], middle: (k) => starts[k] + deep[k] / 2 };
}

function draw() {
  const drawing = $("drawing"), { wide, line, width, ...at } = layout(), K = layers();
  drawing.replaceChildren();
  drawing.setAttribute("font-size", wide ? 13 : 10);
  drawing.setAttribute("viewBox", `0 0 ${at.size.join(" ")}`);
  page.parts = [];

  const wires = svg("g", {}, drawing); // below every label
  const begin = (part) => {
    const group = svg("g", { role: "button", tabindex: -1, class: part.kind }, drawing);
    for (const event of ["focus", "click"]) group.addEventListener(event, () => select(part.id));
    page.parts.push(Object.assign(part, { group }));
    return group;
  };
  const write = (part, left, right, top) => {
    part.texts = numbersOf(part).map(([letter, , kind], row) => {
      const y = top + row * line;
      svg("text", { x: left, y, class: kind }, part.group, letter);
      return svg("text", { x: right, y, class: kind, "text-anchor": "end" }, part.group);
    });
  };
  const wire = (kind, layer, from, unit) => {
    const a = at.place(at.starts[layer] - at.gaps[layer - 1], layer - 1, from);
    const b = at.place(at.starts[layer], layer, unit);
    const line = svg("line", { x1: a.x, y1: a.y, x2: b.x, y2: b.y, class: kind }, wires);
    return { line, at: (f) => ({ x: a.x + f * (b.x - a.x), y: a.y + f * (b.y - a.y) }) };
  };
  const weight = (layer, from, unit) => {
    const id = `${unitName(layer - 1, from)}-${unitName(layer, unit)}`;
    const part = { kind: "weight", id, layer, from, unit }, group = begin(part);
    const { line: shown, at: along } = wire("wire", layer, from, unit), ranks = at.ranks[layer - 1];
    const { x, y } = along(ranks[from % ranks.length]), half = wide ? 40 : 28.5, height = 3 * line + 4;
    part.wire = shown;
    wire("reach", layer, from, unit).line.addEventListener("click", () => group.focus());
    svg("rect", { x: x - half, y: y - height / 2, width: 2 * half, height, rx: 3 }, group);
    write(part, x - half + 1, x + half - 1, y - height / 2 + line - 2);
  };
  const unit = (layer, j) => {
    const part = at.partOf(layer, j), group = begin(part), height = at.heights[layer];
    const { x, y } = at.place(at.middle(layer), layer, j), left = x - width / 2, top = y - height / 2;
    svg("rect", { x: left, y: top, width, height, rx: 8 }, group);
    svg("text", { x, y: top + line + 1, class: "name", "text-anchor": "middle" }, group, part.id);
    write(part, left + 6, left + width - 6, top + 2 * line + 3);
  };
  at.counts.forEach((n, k) => { // weights first: they lie below the units
    for (let j = 0; j < n; j++) {
      for (let i = 0; k && i < at.counts[k - 1]; i++) {
        if (k <= K) weight(k, i, j);
        else wire("wire", k, i, j);
      }
    }
    for (let j = 0; j < n; j++) unit(k, j);
  });
  if (!page.parts.some(({ id }) => id === page.selected)) page.selected = "h1";
}

function select(id) {
  page.selected = id;
  render();
}

// ---- what changes from step to step

function renderDrawing() {
  const spoken = say("spoken"), { step, stage, lastStage } = page.run;
  for (const part of page.parts) {
    const numbers = numbersOf(part), selected = part.id === page.selected;
    numbers.forEach(([, value], k) => {
      part.texts[k].textContent = value === null ? "" : brief(value);
      part.texts[k].previousSibling.classList.toggle("later", value === null); // its letter
    });
    const told = numbers.filter(([, value]) => value !== null)
      .map(([letter, value]) => `${spoken[letter] ?? letter} ${full(value)}`);
    part.group.setAttribute("aria-label", `${title(part)}: ${told.join(", ") || say("later")}`);
    part.group.setAttribute("aria-pressed", selected);
    part.group.setAttribute("tabindex", selected ? 0 : -1); // one stop of Tab; arrow keys go on from there
    part.wire?.classList.toggle("selected", selected);
    part.group.classList.toggle("now", step > 0 && stage !== lastStage && turn() === part.layer);
  }
}

function renderFormulas() {
  const part = page.parts.find(({ id }) => id === page.selected);
  const block = ({ title: heading, kind, lines }) =>
    `<h3 class="${kind}">${heading}</h3>${lines.map((line) => `<p>${line}</p>`).join("")}`;
  const made = `<h2>${title(part)}</h2>${formulasOf(part).map(block).join("")}`;
  if ($("formulas").dataset.made === made) return; // else a screen reader would read it again
  $("formulas").innerHTML = $("formulas").dataset.made = made;
}

function renderCurve() {
  const { states, completed } = page.run, losses = states.map(({ loss }) => loss), last = losses.length - 1;
  const [least, most] = [Math.min, Math.max].map((of) => losses.reduce((a, b) => of(a, b))), curve = $("curve");
  const scale = least > 0 && most > 10 * least ? Math.log : (loss) => loss; // as History.plot has it
  const span = scale(most) - scale(least) || 1, every = Math.ceil(losses.length / 400);
  const x = (n) => 62 + (325 * n) / (last || 1), y = (n) => 140 - (125 * (scale(losses[n]) - scale(least))) / span;
  const points = [...losses.keys()].filter((n) => n % every === 0 || n === last);
  const text = (left, top, words, anchor = "end") =>
    svg("text", { x: left, y: top, "text-anchor": anchor }, curve, words);
  curve.replaceChildren();
  svg("path", { d: "M62 10V145H390" }, curve);
  svg("polyline", { points: points.map((n) => `${x(n).toFixed(1)},${y(n).toFixed(1)}`).join(" ") }, curve);
  svg("circle", { cx: x(completed), cy: y(completed), r: 5 }, curve);
  text(56, y(losses.indexOf(most)) + 4, brief(most));
  if (most > least) text(56, 144, brief(least));
  text(62, 163, "0", "middle");
  if (last) text(390, 163, last);
  curve.setAttribute("aria-label", say("curveIs", last, full(losses[0]), full(losses[last])));
  Object.assign($("seek"), { max: last, value: completed });
}

/** Every number with all its digits, as a table: the parameters, then the row that is shown. */
function renderTable() {
  if (!$("all").open) return;
  const { run, sample } = page, { shown } = run, at = known(), rows = [];
  const heads = (cells) => rows.push(cells.map((cell) => `<th scope="col">${cell}</th>`));
  const add = (name, values) =>
    rows.push([`<th scope="row">${name}</th>`, ...values.map((value) => `<td>${value ?? ""}</td>`)]);
  const ofParameter = (part) => numbersOf(part).slice(-3).map(([, value]) => value);
  heads(say("heads"));
  for (const part of page.parts) {
    if (part.kind === "weight") add(`w ${part.id.replace("-", "→")}`, ofParameter(part));
    if (part.kind === "unit" && run.params[part.layer - 1]?.bias) add(`b ${part.id}`, ofParameter(part));
  }
  if (shown) heads([say("ofRow", shown.rows[sample] + 1), ...say("unitHeads")]);
  for (const { layer, unit, id } of page.parts.filter(({ kind, layer }) => shown && kind === "unit" && layer)) {
    const made = shown.samples[sample][layer - 1], { forward: forth, backward: back } = at;
    const whats = { z: forth, a: forth, g: back, delta: back };
    add(id, Object.entries(whats).map(([what, is]) => (is(layer) ? made[what][unit] : null)));
  }
  if (at.loss) add("L", [shown.loss]);
  $("table").innerHTML = rows.map((cells) => `<tr>${cells.join("")}</tr>`).join("");
}

function renderControls() {
  const { run } = page, { net, shown, step } = run, loss = full(run.states[run.completed].loss);
  const point = (numbers) => (numbers.length > 1 ? `(${numbers.map(full).join(", ")})` : full(numbers[0]));
  const option = (row, s) => new Option(`${row + 1}: x = ${point(net.X[row])}, t = ${point(net.y[row])}`, s);
  const rows = shown?.rows ?? [];
  $("sample").replaceChildren(...rows.map(option));
  Object.assign($("sample"), { value: page.sample, disabled: rows.length < 2 });
  for (const button of document.querySelectorAll("[data-go^='-']")) button.disabled = step === 0;
  const where = shown
    ? say("status", step, say("rows", rows[0] + 1, rows.at(-1) + 1), stageInWords(), loss)
    : say("start", loss);
  $("status").textContent = page.problem || where;
  $("about").textContent = say("about")[page.network];
}

function render() {
  page.sample = Math.max(0, Math.min(page.sample, (page.run.shown?.rows.length ?? 1) - 1));
  for (const part of [renderDrawing, renderFormulas, renderCurve, renderTable, renderControls]) part();
}

// ---- what is asked for

/** The words of the page; then everything, for there are words in the drawing too. */
function speak(language) {
  const words = (kind, set) => {
    for (const element of document.querySelectorAll(`[data-${kind}]`)) set(element, element.dataset[kind]);
  };
  page.language = language;
  page.problem = "";
  document.documentElement.lang = language === "zh" ? "zh-CN" : language;
  document.title = say("title");
  words("text", (element, key) => (element.textContent = say(key)));
  words("label", (element, key) => element.setAttribute("aria-label", say(key)));
  words("language", (element, key) => element.setAttribute("aria-pressed", key === language));
  $("network").replaceChildren(...Object.keys(NETWORKS).map((name) => new Option(say(name), name)));
  $("network").value = page.network;
  $("home").hidden = PAGES === null;
  $("home").firstElementChild.href = `${PAGES}/backpropagation${language === "zh" ? ".zh" : ""}.html`;
  render();
}

/** A network from its beginning, with its own rate and batch. */
function choose(network) {
  const net = NETWORKS[network];
  Object.assign(page, { network, run: new Run(net), sample: 0, problem: "" });
  $("lr").value = net.lr;
  Object.assign($("batch"), { value: net.batch, max: net.X.length, disabled: net.X.length === 1 });
  for (const field of ["lr", "batch"]) $(field).setAttribute("aria-invalid", false);
  draw();
}

/** The number in a field. One that makes no sense is refused in words, and what there was stays. */
function numberIn(field) {
  const { valueAsNumber: number, max, min, validity } = $(field), right = validity.valid && number > 0;
  $(field).setAttribute("aria-invalid", !right);
  page.problem = right ? "" : say("wrong", say(field === "many" ? "batches" : field), min, max);
  return right ? number : null;
}

/** Steps up to `target`: in frames, in which the curve grows, or at once. False: numbers overflow. */
async function advance(target) {
  const { run } = page, { walk } = page, chunk = still.matches ? Infinity : Math.ceil((target - run.completed) / 40);
  const busy = (is) => { // what is live is read when it is over
    for (const id of ["formulas", "status"]) $(id).setAttribute("aria-busy", is);
  };
  let finite = true;
  busy(true);
  while (finite && run.completed < target && walk === page.walk) { // else something was asked for meanwhile
    finite = run.go(Math.min(target, run.completed + chunk));
    if (!finite || run.completed === target) break;
    render();
    await new Promise(requestAnimationFrame);
  }
  busy(false);
  return finite;
}

/** A stage, a batch or many, forth (+) or back (-). */
async function go(way) {
  const { run } = page, back = way[0] === "-", what = way.slice(1);
  page.walk++;
  page.problem = "";
  const count = what === "many" ? numberIn("many") : 1;
  let finite = true;
  if (what === "stage") finite = run.goStage(back ? -1 : 1);
  else if (count && back) run.go(run.step - count);
  else if (count) finite = await advance(run.completed + count);
  if (!finite) page.problem = say("overflow");
  render();
}

function listen() {
  const on = (target, event, act) => target.addEventListener(event, act);
  const change = (id, event, act) => on($(id), event, () => {
    page.walk++;
    page.problem = "";
    act($(id).value);
    render();
  });
  for (const button of document.querySelectorAll("[data-go]")) on(button, "click", () => go(button.dataset.go));
  for (const button of document.querySelectorAll("[data-language]")) {
    on(button, "click", () => speak(button.dataset.language));
  }
  on($("settings"), "submit", (event) => event.preventDefault());
  on($("all"), "toggle", renderTable);
  on(broad, "change", () => {
    draw();
    render();
  });
  change("network", "change", choose);
  change("sample", "change", (sample) => (page.sample = Number(sample)));
  change("seek", "input", (step) => page.run.go(Number(step)));
  for (const field of ["lr", "batch"]) {
    change(field, "change", () => {
      const number = numberIn(field);
      if (number !== null && !page.run.set({ [field]: number })) page.problem = say("overflow");
    });
  }
  on($("drawing"), "keydown", (event) => {
    const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!way) return;
    event.preventDefault(); // no scrolling
    page.parts[page.parts.findIndex(({ id }) => id === page.selected) + way]?.group.focus();
  });
}

/** An address may name a place: index.html#network=xor&lang=zh&batch=2&lr=0.1&step=10&stage=3&part=x1-h2 */
function start() {
  const built = typeof NETWORKS !== "undefined";
  $("broken").hidden = built;
  document.querySelector("main").hidden = !built;
  if (!built) return;
  const wanted = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const { network, lang, step, stage, part } = wanted;
  choose(network in NETWORKS ? network : "demo");
  const { run } = page;
  for (const field of ["lr", "batch"]) {
    if (!(field in wanted)) continue;
    $(field).value = wanted[field];
    const number = numberIn(field);
    if (number) run[field] = number;
    else $(field).value = run[field];
  }
  run.go(Number(step) || 0);
  if (run.step && stage > 0 && stage < run.lastStage) run.stage = Number(stage);
  if (page.parts.some(({ id }) => id === part)) page.selected = part;
  listen();
  speak(lang in STRINGS ? lang : navigator.language.startsWith("zh") ? "zh" : "en");
}

start();
