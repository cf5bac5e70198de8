"use strict";
// How the numbers of a part were made: blocks of {title, kind, lines}. A line is HTML, of our own names and numbers alone.
// What is shown is asked of `page` in learn.js.

const DEFINITIONS = { sigmoid: ["sigmoid(z) = 1 / (1 + exp(−z))"] }; // of what an expression calls by its name

const inBrackets = (x) => (x < 0 ? `(${full(x)})` : full(x));
const symbol = (letter, name) => `<i>${letter}</i><sub>${name}</sub>`;
const activation = (k, j) => (k ? symbol("a", unitName(k, j)) : unitName(k, j));
const weightName = (k, i, j) => `${unitName(k - 1, i)}→${unitName(k, j)}`;
const product = (a, b) => `${a}·${b}`;
const sumOf = (terms) => (terms.length > 8 ? [...terms.slice(0, 6), "…", terms.at(-1)] : terms).join(" + ");
const over = (text, divisor) => (divisor === 1 ? text : `(${text}) / ${divisor}`);

/** An expression of the tables of fastbp, with names or numbers for its variables. */
function expression(text, values) {
  const filled = text.replaceAll("-", "−").replaceAll(" * ", "·").replace(/\b[agtz]\b/g, (name) => values[name]);
  return filled.replace(/\(\((−[\d.e−]+)\)\)/g, "($1)");
}

/** `left = general`, below it the same with numbers, and the value; a value that is not known yet is said to come. */
function equation(left, general, withNumbers, value) {
  if (value === null) return [`${left} = ${general}`, `= <span class="later">${say("later")}</span>`];
  const numbers = withNumbers(), alone = numbers === inBrackets(value); // the value says it already
  return [`${left} = ${general}`, ...(alone ? [] : [`= ${numbers}`]), `= <b>${full(value)}</b>`];
}

/** What a unit of a layer gets, in the row that is shown: `a` of the layer before it. */
function inputsOf(layer, sample) {
  const { net, shown } = page.run;
  return layer > 1 ? shown.samples[sample][layer - 2].a : net.X[shown.rows[sample]];
}

/** What the sum over the rows of a batch is divided by in the loss. */
function divisorOf({ net, shown, batch }) {
  return (shown ? shown.rows.length : batch) * net.perRow;
}

/** Of a weight or a bias: its gradient over the rows of the batch, and the step. */
function parameterFormulas(letter, part, numbers) {
  const { kind, layer, from, unit } = part, { shown } = page.run, ofWeight = kind === "weight";
  const name = ofWeight ? weightName(layer, from, unit) : unitName(layer, unit);
  const gradient = `∂L/∂${symbol(letter, name)}`;
  const [old, grad, next] = numbers.map(([, value]) => value), delta = symbol("δ", unitName(layer, unit));
  const term = (_, s) => {
    const ofRow = inBrackets(shown.samples[s][layer - 1].delta[unit]);
    return ofWeight ? product(inBrackets(inputsOf(layer, s)[from]), ofRow) : ofRow;
  };
  const general = `Σ ${ofWeight ? product(activation(layer - 1, from), delta) : delta}`;
  const step = () => `${full(old)} − ${product(full(shown.lr), inBrackets(grad))}`;
  return [
    { title: say(ofWeight ? "onWeight" : "onBias"), kind: "backward",
      lines: equation(gradient, general, () => sumOf(shown.rows.map(term)), grad) },
    { title: say("onUpdate"), kind: "new",
      lines: equation(symbol(`${letter}′`, name), `${symbol(letter, name)} − ${product("lr", gradient)}`, step, next) },
  ];
}

/** Of a unit: forward from the layer before it, backward from the layer behind it or from the loss, and its bias. */
function unitFormulas(part) {
  const { layer, unit } = part, { run, sample } = page, { net, shown } = run, at = known();
  if (layer === 0) return [{ title: say("inputIs"), kind: "", lines: [] }];
  const { weight, bias } = run.params[layer - 1], row = ACTIVATIONS[net.activations[layer - 1]];
  const name = unitName(layer, unit), made = shown?.samples[sample][layer - 1];
  const value = (is, of) => (is ? made[of][unit] : null);
  const letters = { z: symbol("z", name), a: symbol("a", name), g: `∂L/∂${symbol("a", name)}`, t: symbol("t", name) };
  const numbers = () => Object.fromEntries(["z", "a", "g"].map((what) => [what, inBrackets(made[what][unit])]));
  const byRow = (text, left, what, is) => // an expression of the activation's row
    equation(left, expression(text, letters), () => expression(text, numbers()), value(is, what));

  const collected = weight.map((_, i) => product(activation(layer - 1, i), symbol("w", weightName(layer, i, unit))));
  const inputs = () => inputsOf(layer, sample).map((a, i) => product(inBrackets(a), inBrackets(weight[i][unit])));
  const plus = (terms, b) => sumOf(bias ? [...terms, b()] : terms);
  const forwards = [
    ...equation(letters.z, plus(collected, () => symbol("b", name)), () => plus(inputs(), () => inBrackets(bias[unit])),
      value(at.forward(layer), "z")),
    ...byRow(row.forwardShown, letters.a, "a", at.forward(layer)),
    ...(DEFINITIONS[net.activations[layer - 1]] ?? []),
  ];

  const behind = run.params[layer]?.weight[unit]; // the weights that lead on from here
  const sentBack = (_, j) => product(symbol("δ", unitName(layer + 1, j)), symbol("w", weightName(layer + 1, unit, j)));
  const deltas = (w, j) => product(inBrackets(shown.samples[sample][layer].delta[j]), inBrackets(w));
  const ofLoss = (a, t) => over(expression(LOSSES[net.loss].gradShown, { z: a, t }), divisorOf(run));
  const target = () => full(net.y[shown.rows[sample]][unit]);
  const grad = behind
    ? [sumOf(behind.map(sentBack)), () => sumOf(behind.map(deltas))]
    : [ofLoss(letters.a, letters.t), () => ofLoss(numbers().a, target())];
  const backwards = [
    ...equation(letters.g, ...grad, value(at.backward(layer), "g")),
    ...byRow(row.backwardShown, symbol("δ", name), "delta", at.backward(layer)),
  ];
  return [
    { title: say("onForward"), kind: "forward", lines: forwards },
    { title: say(behind ? "onBack" : "onStart"), kind: "backward", lines: backwards },
    ...(bias ? parameterFormulas("b", part, numbersOf(part).slice(-3)) : []),
  ];
}

function lossFormulas() {
  const { run } = page, { net, shown } = run, { valueShown } = LOSSES[net.loss];
  const isSum = / [-+] /.test(valueShown.replace(/\([^()]*\)/g, "")); // then it takes brackets within another one
  const error = (z, t) => (isSum ? `(${expression(valueShown, { z, t })})` : expression(valueShown, { z, t }));
  const errors = () => shown.rows.flatMap((row, s) =>
    shown.samples[s].at(-1).a.map((a, j) => error(inBrackets(a), full(net.y[row][j]))));
  const general = over(`Σ ${error(symbol("a", "o"), symbol("t", "o"))}`, divisorOf(run));
  const withNumbers = () => over(sumOf(errors()), divisorOf(run));
  const lines = equation("<i>L</i>", general, withNumbers, known().loss ? shown.loss : null);
  return [{ title: say("onLoss"), kind: "forward", lines }];
}

/** The blocks of any part. */
function formulasOf(part) {
  if (part.kind === "loss") return lossFormulas();
  return part.kind === "unit" ? unitFormulas(part) : parameterFormulas("w", part, numbersOf(part));
}
