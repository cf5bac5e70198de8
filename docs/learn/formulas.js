"use strict";
// Every number of the page: where it lies, from when on it is known, how it was made. It belongs to a part of the
// drawing: {kind, layer, unit, from} is a unit of a layer (layer 0 has the inputs), a weight into it from a unit of the
// layer before it, or the loss. A unit's own `from` is the place of its bias, behind the weights.

const layers = () => page.run.net.params.length;
const unitsIn = (k) => [...(k ? page.run.net.params[k - 1][0] : page.run.net.X[0]).keys()];
const unitName = (k, j) => `${k === 0 ? "x" : k === layers() ? "o" : "h"}${j + 1 || ""}`; // without j: any of them
const unitAt = (layer, unit) => ({ kind: "unit", layer, unit, from: layer && unitsIn(layer - 1).length });
const hasBias = ({ kind, layer, from }) => kind === "unit" && layer > 0 && from in page.run.params[layer - 1];
const rowOf = ({ layer }) => ACTIVATIONS[page.run.net.activations[layer - 1]];

const full = (x) => `${+x.toPrecision(6)}`.replaceAll("-", "−");
const inBrackets = (x) => (x < 0 ? `(${full(x)})` : full(x));
const sumOf = (terms) => (terms.length > 8 ? [...terms.slice(0, 6), "…", terms.at(-1)] : terms).join(" + ");

// ---- what there is

const ofUnit = (key) => ({ layer, unit }, { samples }, s) => samples[s][layer][key][unit];
const ofParameter = (key) => ({ layer, unit, from }, step) => step[key][layer - 1][from][unit];

/**
 * letter: [what kind of number it is, its value from a part, a step and a row of the batch, how it was made].
 * The last is text, in which `of` stands for a number and `every` for a sum over rows: by names, or by values.
 */
const NUMBERS = {
  x: ["given", ofUnit("a")],
  t: ["given", ofUnit("t")],
  z: ["forward", ofUnit("z"), collected],
  a: ["forward", ofUnit("a"), (part, { of }) => expression(rowOf(part).forwardShown, of, part)],
  L: ["forward", (_, { loss }) => loss, lossMade],
  "∂a": ["backward", ofUnit("g"), sentBack],
  "δ": ["backward", ofUnit("delta"), (part, { of }) => expression(rowOf(part).backwardShown, of, part)],
  w: ["old", ofParameter("params")],
  "∂w": ["backward", ofParameter("grads"),
    (part, { of, every }) => every((s) => `${of("a", unitAt(part.layer - 1, part.from), s)}·${of("δ", part, s)}`)],
  "w′": ["new", ofParameter("next"), (part, { of }) => `${of("w", part)} − ${of("lr", part)}·${of("∂w", part)}`],
  b: ["old", ofParameter("params")],
  "∂b": ["backward", ofParameter("grads"), (part, { of, every }) => every((s) => of("δ", part, s))],
  "b′": ["new", ofParameter("next"), (part, { of }) => `${of("b", part)} − ${of("lr", part)}·${of("∂b", part)}`],
  lr: ["old", (_, { lr }) => lr],
};

/** The number of a part, in the row that is shown or another; null where its stage is still to come. */
function number(letter, part, s = page.sample) {
  const { stage, stages, shown, params } = page.run, [kind, value] = NUMBERS[letter];
  const since = { old: 0, given: 1, forward: part.layer, backward: stages - part.layer, new: stages }[kind];
  return stage >= since ? value(part, shown ?? { params }, s) : null;
}

/** What it is called in formulas. */
function nameOf(letter, part) {
  if (letter === "lr") return "lr";
  if (letter === "L") return "<i>L</i>";
  if (letter[0] === "∂") return `∂L/∂${nameOf(letter[1], part)}`;
  const { layer, unit, from } = part, name = unitName(layer, unit);
  if (layer === 0) return name;
  return `<i>${letter}</i><sub>${letter[0] === "w" ? `${unitName(layer - 1, from)}→` : ""}${name}</sub>`;
}

/** The letters that stand on a part in the drawing. */
function lettersOf(part) {
  if (part.kind === "loss") return ["L"];
  if (part.kind === "weight") return ["w", "∂w", "w′"];
  if (part.layer === 0) return ["x"];
  return ["z", "a", ...(part.layer === layers() ? ["t"] : []), "δ", ...(hasBias(part) ? ["b", "∂b", "b′"] : [])];
}

// ---- how it was made

const DEFINITIONS = { sigmoid: ["sigmoid(z) = 1 / (1 + exp(−z))"] }; // of what an expression calls by its name

const BY_NAME = { of: nameOf, every: (term) => `Σ ${term()}` };
const BY_VALUE = {
  of: (...which) => inBrackets(number(...which)),
  every: (term, units = [0]) => sumOf(page.run.shown.rows.flatMap((_, s) => units.map((unit) => term(s, unit)))),
};

const OF_LOSS = { z: "a" }, OF_ACTIVATION = { g: "∂a" }; // what rows of the tables of fastbp call otherwise

/** An expression of those tables. */
function expression(text, of, part, s, letters = OF_ACTIVATION) {
  const filled = text.replaceAll("-", "−").replaceAll(" * ", "·")
    .replace(/\b[agtz]\b/g, (letter) => of(letters[letter] ?? letter, part, s));
  return filled.replace(/\(\((−[\d.e−]+)\)\)/g, "($1)");
}

/** Of the sum over the rows of a batch, the loss. */
function perRow(text) {
  const { net, shown, batch } = page.run, divisor = (shown ? shown.rows.length : batch) * net.perRow;
  return divisor === 1 ? text : `(${text}) / ${divisor}`;
}

function collected(part, { of }) {
  const { layer, unit } = part;
  const terms = unitsIn(layer - 1).map((from) =>
    `${of("a", unitAt(layer - 1, from))}·${of("w", { layer, unit, from })}`);
  return sumOf(hasBias(part) ? [...terms, of("b", part)] : terms);
}

/** What comes to a unit from the layer behind it, or from the loss. */
function sentBack(part, { of }) {
  const { layer, unit: from } = part;
  const { gradShown } = LOSSES[page.run.net.loss];
  if (layer === layers()) return perRow(expression(gradShown, of, part, page.sample, OF_LOSS));
  return sumOf(unitsIn(layer + 1).map((unit) =>
    `${of("δ", unitAt(layer + 1, unit))}·${of("w", { layer: layer + 1, unit, from })}`));
}

function lossMade({ layer }, { of, every }) {
  const { valueShown } = LOSSES[page.run.net.loss];
  const isSum = / [-+] /.test(valueShown.replace(/\([^()]*\)/g, "")); // then it takes brackets within another one
  const text = isSum ? `(${valueShown})` : valueShown;
  return perRow(every((s, unit) => expression(text, of, unitAt(layer - 1, unit), s, OF_LOSS), unitsIn(layer - 1)));
}

/** `name = formula`, below it the same with values, and the number; one that is not known yet is said to come. */
function equation(letter, part) {
  const value = number(letter, part), [, , made] = NUMBERS[letter];
  const lines = [`${nameOf(letter, part)} = ${made(part, BY_NAME)}`];
  if (value === null) return [...lines, `= <span class="later">${say("later")}</span>`];
  const withValues = made(part, BY_VALUE);
  if (withValues !== inBrackets(value)) lines.push(`= ${withValues}`); // else the number says it already
  return [...lines, `= <b>${full(value)}</b>`];
}

/** How the numbers of a part are made, as HTML. */
function formulasOf(part) {
  const { kind, layer } = part;
  const ofParameter = (heading, letter) => [[heading, `∂${letter}`], ["onUpdate", `${letter}′`]];
  const ofUnit = () => [
    ["onForward", "z", "a"],
    [layer === layers() ? "onStart" : "onBack", "∂a", "δ"],
    ...(hasBias(part) ? ofParameter("onBias", "b") : []),
  ];
  const blocks = {
    loss: () => [["onLoss", "L"]],
    weight: () => ofParameter("onWeight", "w"),
    unit: () => (layer === 0 ? [["inputIs"]] : ofUnit()),
  };
  return blocks[kind]().map(([heading, ...letters]) => {
    const lines = letters.flatMap((letter) => equation(letter, part));
    if (heading === "onForward") lines.push(...(DEFINITIONS[page.run.net.activations[layer - 1]] ?? []));
    const colour = letters.length ? NUMBERS[letters[0]][0] : "";
    return `<h3 class="${colour}">${say(heading)}</h3>${lines.map((line) => `<p>${line}</p>`).join("")}`;
  }).join("");
}
