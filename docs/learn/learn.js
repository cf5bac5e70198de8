"use strict";
// The page: it draws a Run (network.js), shows how what is selected was made (formulas.js), and listens.

const $ = (id) => document.getElementById(id);
const broad = matchMedia("(min-width: 46rem)"), still = matchMedia("(prefers-reduced-motion: reduce)");
const page = { network: "demo", language: "en", run: null, sample: 0, parts: [], selected: "h1", walk: 0, problem: "" };

/** A string of the page's language. */
function say(key, ...values) {
  const text = STRINGS[page.language][key];
  return typeof text === "function" ? text(...values) : text;
}

/** At most 7 characters or so, for the drawing. */
function brief(x) {
  const decimals = broad.matches ? 4 : 3, size = Math.abs(x.toPrecision(2));
  const short = x && (size < 10 ** (1 - decimals) || size >= 1e4) ? x.toExponential(1) : `${+x.toFixed(decimals)}`;
  return short.replaceAll("-", "−");
}

/** The layer whose turn it is: forward and then backward; one more than there are is the loss, 0 the update. */
function turn() {
  const { stage, stages } = page.run;
  return stage <= layers() ? stage : stages - stage;
}

/** Words for the stage that is shown. */
function stageInWords() {
  if (turn() === 0 || turn() > layers()) return say(turn() ? "loss" : "update");
  return say(page.run.stage <= layers() ? "forward" : "backward", turn());
}

/** What a part is called. */
function title({ kind, layer, from, unit }) {
  if (kind === "loss") return say("lossPart");
  if (kind === "weight") return say("weight", unitName(layer - 1, from), unitName(layer, unit));
  return say(layer === 0 ? "input" : layer === layers() ? "output" : "hidden", unitName(layer, unit));
}

// ---- the drawing: along it lie the layers (to the right, or down where it is narrow), across it the units

// Sizes in its own units. Between layers the labels of the weights from one unit stand in a rank, where the wires lie
// apart, those of the next in another. One rank and a shorter way will do where a layer has a single unit.
const WIDE = { font: 13, line: 15, unit: 98, weight: 80, across: 500,
  one: { gap: 124, ranks: [0.42] }, two: { gap: 214, ranks: [0.4, 0.8] } };
const NARROW = { font: 10, line: 13, unit: 86, weight: 57, across: 372,
  one: { gap: 100, ranks: [0.3] }, two: { gap: 205, ranks: [0.66, 0.89] } };

function svg(name, attributes, parent, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return parent.appendChild(element);
}

function draw() {
  const drawing = $("drawing"), wide = broad.matches;
  const { font, line, across, one, two, ...widths } = wide ? WIDE : NARROW;
  drawing.replaceChildren();
  page.parts = [];

  const wires = svg("g", {}, drawing); // below every label
  const wire = (kind, [x1, y1], [x2, y2]) => svg("line", { x1, y1, x2, y2, class: kind }, wires);
  const heightOf = (part) => line * lettersOf(part).length + (part.kind === "weight" ? 4 : line + 12);
  const box = (part, [x, y]) => { // its name, if it is no weight; below it letters and numbers
    const isWeight = part.kind === "weight", width = isWeight ? widths.weight : widths.unit, height = heightOf(part);
    const left = x - width / 2, top = y - height / 2, side = isWeight ? 1 : 6, last = top + height - (isWeight ? 6 : 9);
    const group = svg("g", { role: "button", tabindex: -1, class: part.kind }, drawing);
    svg("rect", { x: left, y: top, width, height, rx: isWeight ? 3 : 8 }, group);
    if (!isWeight) svg("text", { x, y: top + line + 1, class: "name", "text-anchor": "middle" }, group, part.id);
    const texts = lettersOf(part).map((letter, k, { length }) => {
      const where = { y: last - (length - 1 - k) * line, class: NUMBERS[letter][0] };
      svg("text", { x: left + side, ...where }, group, letter);
      return svg("text", { x: left + width - side, ...where, "text-anchor": "end" }, group);
    });
    for (const event of ["focus", "click"]) group.addEventListener(event, () => select(part.id));
    page.parts.push({ ...part, group, texts });
    return group;
  };
  const weight = (layer, from, unit, share, a, b) => {
    const id = `${unitName(layer - 1, from)}-${unitName(layer, unit)}`, label = a.map((x, k) => x + share * (b[k] - x));
    const group = box({ kind: "weight", id, layer, from, unit, wire: wire("wire", a, b) }, label);
    wire("reach", a, b).addEventListener("click", () => group.focus());
  };

  let along = 6, ends = []; // of the layer before, where wires begin
  for (let layer = 0; layer <= layers() + 1; layer++) {
    const isLoss = layer > layers(), units = isLoss ? [0] : unitsIn(layer);
    const parts = units.map((unit) =>
      isLoss ? { kind: "loss", id: "L", layer } : { id: unitName(layer, unit), ...unitAt(layer, unit) });
    const { gap, ranks } = isLoss ? { gap: 24 } : units.length > 1 && ends.length > 1 ? two : one;
    const at = (main, unit) => { // a point by its place along the layers, at the middle of a unit
      const cross = (across * (unit + 0.5)) / units.length;
      return wide ? [main, cross] : [cross, main];
    };
    if (layer) along += gap;
    for (const unit of units) { // weights first: they lie below the units
      ends.forEach((end, from) => {
        if (isLoss) wire("wire", end, at(along, unit));
        else weight(layer, from, unit, ranks[from % ranks.length], end, at(along, unit));
      });
    }
    const deep = wide ? widths.unit : heightOf(parts[0]);
    for (const unit of units) box(parts[unit], at(along + deep / 2, unit));
    along += deep;
    ends = units.map((unit) => at(along, unit));
  }
  const size = [along + 6, across];
  drawing.setAttribute("viewBox", `0 0 ${(wide ? size : size.reverse()).join(" ")}`);
  drawing.setAttribute("font-size", font);
  if (!page.parts.some(({ id }) => id === page.selected)) page.selected = "h1";
}

function select(id) {
  page.selected = id;
  render();
}

// ---- what changes from step to step

function renderDrawing() {
  const spoken = say("spoken");
  for (const part of page.parts) {
    const told = [], selected = part.id === page.selected;
    lettersOf(part).forEach((letter, k) => {
      const value = number(letter, part), shown = part.texts[k];
      shown.textContent = value === null ? "" : brief(value);
      shown.previousSibling.classList.toggle("later", value === null); // its letter
      if (value !== null) told.push(`${spoken[letter] ?? letter} ${full(value)}`);
    });
    part.group.setAttribute("aria-label", `${title(part)}: ${told.join(", ") || say("later")}`);
    part.group.setAttribute("aria-pressed", selected);
    part.group.setAttribute("tabindex", selected ? 0 : -1); // one stop of Tab; arrow keys go on from there
    part.wire?.classList.toggle("selected", selected);
    part.group.classList.toggle("now", turn() > 0 && turn() === part.layer);
  }
}

function renderFormulas() {
  const part = page.parts.find(({ id }) => id === page.selected);
  const made = `<h2>${title(part)}</h2>${formulasOf(part)}`;
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
  const { shown } = page.run, rows = [];
  const heads = (cells) => rows.push(cells.map((cell) => `<th scope="col">${cell}</th>`));
  const add = (name, part, ...letters) => {
    const cells = letters.map((letter) => `<td>${number(letter, part) ?? ""}</td>`);
    rows.push([`<th scope="row">${name}</th>`, ...cells]);
  };
  heads(say("heads"));
  for (const part of page.parts) {
    if (part.kind === "weight") add(`w ${part.id.replace("-", "→")}`, part, "w", "∂w", "w′");
    if (hasBias(part)) add(`b ${part.id}`, part, "b", "∂b", "b′");
  }
  if (shown) heads([say("ofRow", shown.rows[page.sample] + 1), ...say("unitHeads")]);
  for (const part of shown ? page.parts : []) {
    if (part.kind === "unit" && part.layer) add(part.id, part, "z", "a", "∂a", "δ");
    if (part.kind === "loss") add("L", part, "L");
  }
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

/** The number in a field. One that makes no sense is refused in words, and what there was stays. */
function numberIn(field) {
  const { valueAsNumber: number, max, min, validity } = $(field), right = validity.valid && number > 0;
  $(field).setAttribute("aria-invalid", !right);
  page.problem = right ? "" : say("wrong", say(field === "many" ? "batches" : field), min, max);
  return right ? number : null;
}

/** A network from its beginning, with its own rate and batch where none that make sense are wanted. */
function choose(network, wanted = {}) {
  const net = NETWORKS[network], run = new Run(net);
  Object.assign($("batch"), { max: net.X.length, disabled: net.X.length === 1 });
  for (const field of ["lr", "batch"]) {
    $(field).value = wanted[field];
    run[field] = $(field).value = numberIn(field) ?? net[field];
    $(field).setAttribute("aria-invalid", false);
  }
  Object.assign(page, { network, run, sample: 0, problem: "" });
  draw();
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
    finite = run.go(run.stages * Math.min(target, run.completed + chunk));
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
  if (what === "stage") finite = run.go(run.place + (back ? -1 : 1));
  else if (count && back) run.go(run.stages * (run.step - count));
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
  for (const [what, act] of Object.entries({ go, language: speak })) {
    for (const button of document.querySelectorAll(`[data-${what}]`)) {
      on(button, "click", () => act(button.dataset[what]));
    }
  }
  on($("settings"), "submit", (event) => event.preventDefault());
  on($("all"), "toggle", renderTable);
  on(broad, "change", () => {
    draw();
    render();
  });
  change("network", "change", choose);
  change("sample", "change", (sample) => (page.sample = Number(sample)));
  change("seek", "input", (step) => page.run.go(page.run.stages * step));
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
  choose(network in NETWORKS ? network : "demo", wanted);
  const { run } = page;
  run.go(run.stages * Math.min(Number(step) || 0, $("many").max));
  if (stage > 0 && stage < run.stages) run.go(run.place - run.stages + Number(stage));
  if (page.parts.some(({ id }) => id === part)) page.selected = part;
  listen();
  speak(lang in STRINGS ? lang : navigator.language.startsWith("zh") ? "zh" : "en");
}

start();
