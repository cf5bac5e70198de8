"use strict";
// The page: it draws a Run (network.js), says how what is selected was made, and listens.
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
/** At most 7 characters or so, for the drawing. */
function brief(x) {
  const decimals = broad.matches ? 4 : 3, small = 10 ** (1 - decimals);
  return minus(x && (Math.abs(x) < small || Math.abs(x) >= 1e4) ? x.toExponential(1) : `${+x.toFixed(decimals)}`);
}
const full = (x) => minus(`${+x.toPrecision(6)}`);
const inBrackets = (x) => (x < 0 ? `(${full(x)})` : full(x));
const symbol = (letter, name) => `<i>${letter}</i><sub>${name}</sub>`;
const layers = () => page.run.net.params.length;
const unitsOf = (k) => (k ? page.run.net.params[k - 1].weight[0] : page.run.net.X[0]).length;
const unitName = (k, j) => `${k === 0 ? "x" : k === layers() ? "o" : "h"}${j + 1}`;

/** What is known at the stage that is shown; layers are counted from 1. */
function known() {
  const { stage, step, lastStage } = page.run, K = layers();
  return {
    forward: (k) => step > 0 && stage >= k, loss: step > 0 && stage > K,
    backward: (k) => step > 0 && stage > K && stage >= 2 * K + 2 - k, update: step > 0 && stage === lastStage,
  };
}

/** Words for the stage that is shown. */
function stageInWords() {
  const { stage } = page.run, K = layers();
  if (stage <= K) return say("forward", stage);
  return stage === K + 1 ? say("loss") : stage === 2 * K + 2 ? say("update") : say("backward", 2 * K + 2 - stage);
}

/** The numbers on a part: [symbol, value or null, what kind of number it is]. */
function numbersOf({ kind, layer, from, unit }) {
  const { run, sample } = page, shown = run.shown, at = known();
  const value = (is, of) => (is ? of() : null);
  const parameter = (letter, pick) => [
    [letter, pick((shown ?? run.states[0]).params[layer - 1]), "given"],
    [`∂${letter}`, value(at.backward(layer), () => pick(shown.grads[layer - 1])), "backward"],
    [`${letter}′`, value(at.update, () => pick(shown.next[layer - 1])), "new"],
  ];
  if (kind === "loss") return [["L", value(at.loss, () => shown.loss), "forward"]];
  if (kind === "weight") return parameter("w", ({ weight }) => weight[from][unit]);
  if (layer === 0) return [["x", value(shown, () => run.net.X[shown.rows[sample]][unit]), "given"]];
  const made = shown?.samples[sample][layer - 1];
  const target = layer === layers() ? [["t", value(shown, () => run.net.y[shown.rows[sample]][unit]), "given"]] : [];
  return [
    ["z", value(at.forward(layer), () => made.z[unit]), "forward"],
    ["a", value(at.forward(layer), () => made.a[unit]), "forward"],
    ...target,
    ["δ", value(at.backward(layer), () => made.delta[unit]), "backward"],
    ...(run.net.params[layer - 1].bias ? parameter("b", ({ bias }) => bias[unit]) : []),
  ];
}

/** What a part is called. */
function title({ kind, layer, from, unit }) {
  if (kind === "loss") return say("lossPart");
  if (kind === "weight") return say("weight", unitName(layer - 1, from), unitName(layer, unit));
  return say(layer === 0 ? "input" : layer === layers() ? "output" : "hidden", unitName(layer, unit));
}

// ---- the drawing: along its main axis lie the layers (to the right, or down where it is narrow), across it the units

function svg(name, attributes, parent, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return parent.appendChild(element);
}

function draw() {
  const drawing = $("drawing"), K = layers(), wide = broad.matches, line = wide ? 15 : 13;
  const across = wide ? 500 : 372, counts = [...Array(K + 1).keys()].map(unitsOf).concat(1); // the last is the loss
  const height = (part) => 12 + line * (numbersOf(part).length + 1);
  const unitPart = (layer, unit) => (layer > K ? { kind: "loss", id: "L", layer } : { kind: "unit", id: unitName(layer, unit), layer, unit });
  const boxes = counts.map((_, k) => ({ width: wide ? 98 : 86, height: height(unitPart(k, 0)) }));
  const ranks = counts.map((n, k) => (k < K && n > 1 && counts[k + 1] > 1 ? n : 1)); // rows of labels behind layer k
  const gap = (k) => (k === K ? 24 : ranks[k] > 1 ? (wide ? 214 : 205) : wide ? 124 : 100);
  const starts = counts.reduce((all, _, k) => [...all, all[k] + (wide ? boxes[k].width : boxes[k].height) + gap(k)], [6]);
  const along = starts[K + 1] + (wide ? boxes[K + 1].width : boxes[K + 1].height) + 6;
  const point = (main, cross) => (wide ? [main, cross] : [cross, main]);
  const cross = (k, j) => (across * (j + 0.5)) / counts[k];
  drawing.replaceChildren();
  drawing.setAttribute("font-size", wide ? 13 : 10);
  drawing.setAttribute("viewBox", `0 0 ${point(along, across).join(" ")}`);
  page.parts = [];

  const lines = (group, part, left, top, right) => {
    part.texts = numbersOf(part).map(([letter, , kind], row) => {
      const y = top + row * line;
      svg("text", { x: left, y, class: kind }, group, letter);
      return svg("text", { x: right, y, class: kind, "text-anchor": "end" }, group);
    });
  };
  const begin = (part) => {
    const group = svg("g", { role: "button", tabindex: -1, class: part.kind === "weight" ? "edge" : "unit" }, drawing);
    for (const event of ["focus", "click"]) group.addEventListener(event, () => select(part.id));
    page.parts.push(Object.assign(part, { group }));
    return group;
  };
  const edge = (layer, from, unit) => {
    const part = { kind: "weight", id: `${unitName(layer - 1, from)}-${unitName(layer, unit)}`, layer, from, unit };
    const group = begin(part), start = starts[layer] - gap(layer - 1), end = starts[layer];
    const [x1, y1] = point(start, cross(layer - 1, from)), [x2, y2] = point(end, cross(layer, unit));
    for (const kind of ["reach", "wire"]) svg("line", { x1, y1, x2, y2, class: kind }, group);
    const places = ranks[layer - 1] > 1 ? (wide ? [0.4, 0.8] : [0.66, 0.89]) : [wide ? 0.42 : 0.3];
    const f = places[from % places.length], x = x1 + f * (x2 - x1), y = y1 + f * (y2 - y1);
    const half = (wide ? 80 : 57) / 2, tall = 3 * line + 4;
    svg("rect", { x: x - half, y: y - tall / 2, width: 2 * half, height: tall, rx: 3 }, group);
    lines(group, part, x - half + 1, y - tall / 2 + line - 2, x + half - 1);
  };
  const unit = (layer, j) => {
    const part = unitPart(layer, j), group = begin(part), { width, height: tall } = boxes[layer];
    const [x, y] = point(starts[layer] + (wide ? width : tall) / 2, cross(layer, j)).map((c, axis) => c - (axis ? tall : width) / 2);
    svg("rect", { x, y, width, height: tall, rx: 8 }, group);
    svg("text", { x: x + width / 2, y: y + line + 1, class: "name", "text-anchor": "middle" }, group, part.id);
    lines(group, part, x + 6, y + 2 * line + 3, x + width - 6);
  };
  counts.forEach((n, k) => { // edges lie below the boxes, and each layer's come before its units
    for (let j = 0; k && k <= K && j < n; j++) for (let i = 0; i < counts[k - 1]; i++) edge(k, i, j);
    for (let j = 0; k > K && j < counts[K]; j++) {
      const [x1, y1] = point(starts[k] - gap(K), cross(K, j)), [x2, y2] = point(starts[k], cross(k, 0));
      svg("line", { x1, y1, x2, y2 }, drawing);
    }
    for (let j = 0; j < n; j++) unit(k, j);
  });
  if (!page.parts.some(({ id }) => id === page.selected)) page.selected = "h1";
}

function select(id) {
  page.selected = id;
  render();
}

// ---- the formulas of a part: [{title, lines, kind}], a line being HTML made of our own names and numbers alone

/** `left = right = right with numbers = value`; where the value is not known yet, it says so. */
function equation(left, right, withNumbers, value) {
  const rest = value === null ? [`<span class="later">${say("later")}</span>`] : [withNumbers(), `<b>${full(value)}</b>`];
  const bare = (text) => text.replace(/^\((.*)\)$|<\/?b>/g, "$1"); // a number alone needs no line of its own before the value
  return [right, ...rest].filter((text, k, all) => k === 0 || k === all.length - 1 || bare(text) !== bare(all.at(-1))).map((text, k) => `${k ? "" : `${left} `}= ${text}`);
}

/** A row's expression with names or numbers for its variables. */
const expression = (text, values) => text.replaceAll("-", "−").replaceAll(" * ", "·").replace(/\b[agtz]\b/g, (name) => values[name]);
const terms = (all) => (all.length > 8 ? [...all.slice(0, 6), "…", all.at(-1)] : all).join(" + ");

/** What becomes of a weight or a bias: its gradient over the rows of the batch, and the step. */
function parameterFormulas(letter, { kind, layer, from, unit }, numbers) {
  const { net, shown } = page.run, to = unitName(layer, unit), [[, old], [, grad], [, next]] = numbers;
  const name = kind === "weight" ? `${unitName(layer - 1, from)}→${to}` : to, gradient = `∂L/∂${symbol(letter, name)}`;
  const input = (s) => (layer > 1 ? shown.samples[s][layer - 2].a : net.X[shown.rows[s]])[from];
  const product = (s) => (kind === "weight" ? `${inBrackets(input(s))}·` : "") + inBrackets(shown.samples[s][layer - 1].delta[unit]);
  const general = (kind === "weight" ? `${activation(layer - 1, from)}·` : "") + symbol("δ", to);
  return [
    { title: say(kind === "weight" ? "onWeight" : "onBias"), kind: "backward",
      lines: equation(gradient, `Σ ${general}`, () => terms(shown.rows.map((_, s) => product(s))), grad) },
    { title: say("onUpdate"), kind: "new",
      lines: equation(symbol(`${letter}′`, name), `${symbol(letter, name)} − lr·${gradient}`,
        () => `${full(old)} − ${full(shown.lr)}·${inBrackets(grad)}`, next) },
  ];
}

const activation = (k, j) => (k ? symbol("a", unitName(k, j)) : unitName(k, j));

/** Of a unit: forward from the layer before, back from the layer behind or the loss, and its bias. */
function unitFormulas(part) {
  const { layer, unit } = part, { run, sample } = page, { net, shown } = run, at = known(), name = unitName(layer, unit);
  if (layer === 0) return [{ title: say("inputIs"), lines: [] }];
  const { weight, bias } = (shown ?? run.states[0]).params[layer - 1], row = ACTIVATIONS[net.activations[layer - 1]];
  const made = shown?.samples[sample][layer - 1], inputs = [...weight.keys()];
  const a = () => (layer > 1 ? shown.samples[sample][layer - 2].a : net.X[shown.rows[sample]]);
  const one = (is, pick) => (is ? pick() : null);
  const letters = { z: symbol("z", name), a: symbol("a", name), g: `∂L/∂${symbol("a", name)}`, t: symbol("t", name) };
  const values = () => ({ z: inBrackets(made.z[unit]), a: inBrackets(made.a[unit]), g: inBrackets(made.g[unit]) });
  const forwards = [
    ...equation(letters.z, terms(inputs.map((i) => `${activation(layer - 1, i)}·${symbol("w", `${unitName(layer - 1, i)}→${name}`)}`))
      + (bias ? ` + ${symbol("b", name)}` : ""),
    () => terms(inputs.map((i) => `${inBrackets(a()[i])}·${inBrackets(weight[i][unit])}`)) + (bias ? ` + ${inBrackets(bias[unit])}` : ""),
    one(at.forward(layer), () => made.z[unit])),
    ...equation(letters.a, expression(row.forwardShown, letters), () => expression(row.forwardShown, values()),
      one(at.forward(layer), () => made.a[unit])),
    ...(DEFINITIONS[net.activations[layer - 1]] ?? []),
  ];
  const behind = [...(net.params[layer]?.weight[unit] ?? []).keys()], next = () => shown.samples[sample][layer].delta;
  const divisor = shown ? shown.rows.length * net.perRow : run.batch * net.perRow, { gradShown } = LOSSES[net.loss];
  const overRows = (text) => (divisor === 1 ? text : `(${text}) / ${divisor}`);
  const grad = one(at.backward(layer), () => made.g[unit]);
  const backwards = [
    ...(behind.length
      ? equation(letters.g, terms(behind.map((j) => `${symbol("δ", unitName(layer + 1, j))}·${symbol("w", `${name}→${unitName(layer + 1, j)}`)}`)),
        () => terms(behind.map((j) => `${inBrackets(next()[j])}·${inBrackets(shown.params[layer].weight[unit][j])}`)), grad)
      : equation(letters.g, overRows(expression(gradShown, { z: letters.a, t: letters.t })),
        () => overRows(expression(gradShown, { z: inBrackets(made.a[unit]), t: full(net.y[shown.rows[sample]][unit]) })), grad)),
    ...equation(symbol("δ", name), expression(row.backwardShown, letters), () => expression(row.backwardShown, values()),
      one(at.backward(layer), () => made.delta[unit])),
  ];
  return [
    { title: say("onForward"), kind: "forward", lines: forwards },
    { title: say(behind.length ? "onBack" : "onStart"), kind: "backward", lines: backwards },
    ...(bias ? parameterFormulas("b", part, numbersOf(part).slice(-3)) : []),
  ];
}

function lossFormulas() {
  const { net, shown, batch } = page.run, outputs = [...net.y[0].keys()], { valueShown } = LOSSES[net.loss];
  const divisor = (shown ? shown.rows.length : batch) * net.perRow, over = (text) => (divisor === 1 ? text : `(${text}) / ${divisor}`);
  const value = (z, t) => `(${expression(valueShown, { z, t })})`;
  const errors = () => shown.rows.flatMap((row, s) => outputs.map((j) => value(inBrackets(shown.samples[s].at(-1).a[j]), full(net.y[row][j]))));
  const general = `Σ ${value(symbol("a", "o"), symbol("t", "o"))}`;
  return [{ title: say("onLoss"), kind: "forward",
    lines: equation("<i>L</i>", over(general), () => over(terms(errors())), known().loss ? shown.loss : null) }];
}

const DEFINITIONS = { sigmoid: ["sigmoid(z) = 1 / (1 + exp(−z))"] }; // what a text of the tables calls by its name

function renderFormulas() {
  const part = page.parts.find(({ id }) => id === page.selected);
  const blocks = part.kind === "loss" ? lossFormulas() : part.kind === "unit" ? unitFormulas(part) : parameterFormulas("w", part, numbersOf(part));
  const html = blocks.map(({ title: heading, kind, lines }) => `<h3 class="${kind}">${heading}</h3>${lines.map((line) => `<p>${line}</p>`).join("")}`);
  const made = `<h2>${title(part)}</h2>${html.join("")}`;
  if ($("formulas").dataset.made !== made) $("formulas").innerHTML = $("formulas").dataset.made = made; // else it would be read again
}

// ---- the rest of the page

function renderDrawing() {
  const { stage, step } = page.run, K = layers(), turn = stage <= K ? stage : stage === K + 1 ? K + 1 : 2 * K + 2 - stage;
  for (const part of page.parts) {
    const numbers = numbersOf(part), selected = part.id === page.selected, spoken = say("spoken");
    numbers.forEach(([, value], k) => (part.texts[k].textContent = value === null ? "·" : brief(value)));
    const told = numbers.filter(([, value]) => value !== null).map(([letter, value]) => `${spoken[letter] ?? letter} ${full(value)}`);
    part.group.setAttribute("aria-label", `${title(part)}: ${told.join(", ") || say("later")}`);
    part.group.setAttribute("aria-pressed", selected);
    part.group.setAttribute("tabindex", selected ? 0 : -1);
    const isNow = step && part.layer && (turn === part.layer || turn === 0) && stage !== page.run.lastStage;
    part.group.classList.toggle("now", Boolean(isNow));
  }
}

function renderCurve() {
  const { states, step } = page.run, losses = states.map(({ loss }) => loss), [least, most] = [Math.min(...losses), Math.max(...losses)];
  const log = least > 0 && most > 10 * least, scale = log ? Math.log : (x) => x, span = scale(most) - scale(least) || 1;
  const x = (n) => 62 + (325 * n) / Math.max(1, losses.length - 1), y = (loss) => 140 - (125 * (scale(loss) - scale(least))) / span;
  const every = Math.ceil(losses.length / 400), curve = $("curve");
  const points = losses.map((loss, n) => `${x(n).toFixed(1)},${y(loss).toFixed(1)}`).filter((_, n) => n % every === 0 || n === losses.length - 1);
  curve.replaceChildren();
  svg("line", { x1: 62, y1: 145, x2: 390, y2: 145 }, curve);
  svg("line", { x1: 62, y1: 10, x2: 62, y2: 145 }, curve);
  svg("polyline", { points: points.join(" ") }, curve);
  svg("circle", { cx: x(step), cy: y(losses[step]), r: 5 }, curve);
  const text = (at, up, words, anchor = "end") => svg("text", { x: at, y: up, "text-anchor": anchor }, curve, words);
  text(56, 19, brief(most));
  if (most > least) text(56, 144, brief(least));
  text(62, 163, "0", "middle");
  if (losses.length > 1) text(390, 163, losses.length - 1);
  curve.setAttribute("aria-label", say("curveIs", losses.length - 1, full(losses[0]), full(losses.at(-1))));
  Object.assign($("seek"), { max: losses.length - 1, value: step });
}

function renderTable() {
  const { run, sample } = page, { shown } = run, K = layers();
  if (!$("all").open) return;
  const cells = (kind, row) => `<tr>${row.map((cell, k) => (k && kind === "td" ? `<td>${cell}</td>` : `<th scope="${kind === "td" ? "row" : "col"}">${cell}</th>`)).join("")}</tr>`;
  const rows = [cells("th", say("heads"))];
  const add = (name, all) => rows.push(cells("td", [name, ...all.map((value) => (value === null ? "" : value))]));
  for (const part of page.parts) {
    const numbers = numbersOf(part).map(([, value]) => value);
    if (part.kind === "weight") add(`w ${part.id.replace("-", "→")}`, numbers);
    if (part.kind === "unit" && part.layer && run.net.params[part.layer - 1].bias) add(`b ${part.id}`, numbers.slice(-3));
  }
  const at = known();
  if (shown) rows.push(cells("th", say("unitHeads").map((head, k) => (k ? head : say("ofRow", shown.rows[sample] + 1)))));
  for (const { kind, layer, unit, id } of shown ? page.parts : []) {
    const made = kind === "unit" && layer && shown.samples[sample][layer - 1];
    if (made) add(id, ["z", "a", "g", "delta"].map((what) => ((what > "b" && what < "z" ? at.backward(layer) : at.forward(layer)) ? made[what][unit] : null)));
  }
  if (at.loss) add("L", [shown.loss]);
  $("table").innerHTML = rows.join("");
}

function renderControls() {
  const { run } = page, { net, shown, step } = run;
  const point = (numbers) => (numbers.length > 1 ? `(${numbers.map(full).join(", ")})` : full(numbers[0]));
  const options = (shown?.rows ?? []).map((row, s) => new Option(`${row + 1}: x = ${point(net.X[row])}, t = ${point(net.y[row])}`, s));
  $("sample").replaceChildren(...options);
  Object.assign($("sample"), { value: page.sample, disabled: options.length < 2 });
  for (const button of document.querySelectorAll("[data-go^='-']")) button.disabled = step === 0;
  const rows = shown && say("rows", shown.rows[0] + 1, shown.rows.at(-1) + 1);
  const loss = full(run.states[run.completed].loss);
  $("status").textContent = page.problem || (shown ? say("status", step, rows, stageInWords(), loss) : say("start", loss));
  $("about").textContent = say("about")[page.network];
}

function render() {
  page.sample = Math.min(page.sample, Math.max(0, (page.run.shown?.rows.length ?? 1) - 1));
  for (const draw of [renderDrawing, renderFormulas, renderCurve, renderTable, renderControls]) draw();
}

/** The words of the page; then everything, for the names in the drawing are words too. */
function speak(language) {
  page.language = language;
  document.documentElement.lang = language === "zh" ? "zh-CN" : language;
  document.title = say("title");
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", say(element.dataset.label));
  for (const element of document.querySelectorAll("[data-language]")) element.setAttribute("aria-pressed", element.dataset.language === language);
  $("network").replaceChildren(...Object.keys(NETWORKS).map((name) => new Option(say(name), name)));
  $("network").value = page.network;
  render();
}

function choose(network) {
  const net = NETWORKS[network];
  Object.assign(page, { network, run: new Run(net), sample: 0, problem: "" });
  Object.assign($("lr"), { value: net.lr });
  Object.assign($("batch"), { value: net.batch, max: net.X.length, disabled: net.X.length === 1 });
  draw();
}

/** Numbers of the fields: one that makes no sense is refused in words, and what was there stays. */
function numberIn(field) {
  const { value, max, min, validity } = $(field), number = Number(value);
  const right = validity.valid && value !== "" && number > 0;
  $(field).setAttribute("aria-invalid", !right);
  page.problem = right ? "" : say("wrong", say(field === "many" ? "batches" : field), min, max);
  return right ? number : null;
}

/** Go somewhere; many steps go by in frames, in which the curve grows, unless less motion is wanted. */
async function go(way) {
  const { run } = page, walk = ++page.walk, back = way[0] === "-", what = way.slice(1);
  page.problem = "";
  const many = what === "many" ? numberIn("many") : 1;
  if (many === null) return render();
  let finite = true;
  if (what === "stage") finite = run.goStage(back ? -1 : 1);
  else if (back) run.go(run.step - many);
  else {
    const target = run.completed + many, chunk = still.matches ? many : Math.ceil(many / 40);
    $("formulas").setAttribute("aria-busy", "true"); // read when it is over
    while (finite && run.completed < target && walk === page.walk) {
      finite = run.go(Math.min(target, run.completed + chunk));
      if (run.completed < target && finite) {
        render();
        await new Promise(requestAnimationFrame);
      }
    }
    $("formulas").setAttribute("aria-busy", "false");
    if (walk !== page.walk) return undefined; // something else was asked for meanwhile
  }
  page.problem = finite ? "" : say("overflow");
  return render();
}

function listen() {
  const on = (target, event, act) => target.addEventListener(event, act);
  for (const button of document.querySelectorAll("[data-go]")) on(button, "click", () => go(button.dataset.go));
  for (const button of document.querySelectorAll("[data-language]")) on(button, "click", () => speak(button.dataset.language));
  on($("settings"), "submit", (event) => event.preventDefault());
  on($("network"), "change", () => { page.walk++; choose($("network").value); render(); });
  on($("sample"), "change", () => { page.sample = Number($("sample").value); render(); });
  on($("seek"), "input", () => { page.walk++; page.problem = ""; page.run.go(Number($("seek").value)); render(); });
  on($("all"), "toggle", renderTable);
  on(broad, "change", () => { draw(); render(); });
  for (const field of ["lr", "batch"]) {
    on($(field), "change", () => {
      page.walk++;
      const number = numberIn(field);
      if (number !== null && !page.run.set({ [field]: number })) page.problem = say("overflow");
      render();
    });
  }
  on($("drawing"), "keydown", (event) => {
    const way = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key], { parts } = page;
    if (event.key === "Enter" || event.key === " " || way) event.preventDefault();
    if (!way) return;
    const place = parts.findIndex(({ id }) => id === page.selected) + way;
    parts[Math.max(0, Math.min(parts.length - 1, place))].group.focus();
  });
}

/** An address may name a place: index.html#network=xor&lang=zh&batch=2&lr=0.1&step=10&stage=3&part=x1-h2 */
function start() {
  $("broken").hidden = typeof NETWORKS !== "undefined";
  if (!$("broken").hidden) return;
  const wanted = new URLSearchParams(location.hash.slice(1)), { step, stage, part, ...rest } = Object.fromEntries(wanted);
  choose(rest.network in NETWORKS ? rest.network : "demo");
  for (const field of ["lr", "batch"]) {
    if (rest[field]) $(field).value = rest[field];
    page.run[field] = numberIn(field) ?? page.run[field];
  }
  page.run.go(Number(step) || 0);
  if (stage > 0 && stage < page.run.lastStage && page.run.step) page.run.stage = Number(stage);
  if (page.parts.some(({ id }) => id === part)) page.selected = part;
  listen();
  speak(rest.lang in STRINGS ? rest.lang : navigator.language.startsWith("zh") ? "zh" : "en");
}

start();
