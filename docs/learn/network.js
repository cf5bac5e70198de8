"use strict";
// The arithmetic of the page, without the page: one step with all its numbers, and a run that goes forth and back.
// `net` is an entry of NETWORKS. `params` holds for each layer its weights [in][out]; a bias is the last of them, the
// weight of an input that is always 1.

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** The forward pass of one row: for each layer {z: [unit], a: [unit]}. Layer 0 is the inputs, which have no z. */
function forward(net, params, x) {
  const layers = [{ a: x }];
  params.forEach((weights, k) => {
    const inputs = [...layers[k].a, 1], { forward: f } = ACTIVATIONS[net.activations[k]];
    const z = weights[0].map((_, j) => sum(weights.map((units, i) => inputs[i] * units[j])));
    layers.push({ z, a: z.map((number) => f(number)) });
  });
  return layers;
}

/** The loss of some rows: the mean over rows; over outputs the mean or the sum, as the loss has it. */
function lossOf(net, params, rows) {
  const { value } = LOSSES[net.loss];
  const ofRow = (row) => sum(forward(net, params, net.X[row]).at(-1).a.map((a, j) => value(a, net.y[row][j])));
  return sum(rows.map(ofRow)) / (rows.length * net.perRow);
}

/**
 * One step of plain SGD with every number of it, as `net.trace` of fastbp gives it.
 * samples[s][k] is {z, a, g = dL/da, delta = dL/dz} of row s of the batch in layer k, each a number for a unit; the
 * last layer has its targets t, too. grads are shaped as params: sums over the batch. next: the new parameters, made
 * from the old ones all at once.
 */
function trace(net, params, rows, lr) {
  const { grad } = LOSSES[net.loss], divisor = rows.length * net.perRow;
  const samples = rows.map((row) => {
    const layers = forward(net, params, net.X[row]);
    layers.at(-1).t = net.y[row];
    for (let k = params.length; k > 0; k--) { // the chain rule, from the end to the beginning
      const layer = layers[k], above = layers[k + 1], { backward } = ACTIVATIONS[net.activations[k - 1]];
      layer.g = layer.a.map((a, j) => above
        ? sum(above.delta.map((delta, l) => delta * params[k][j][l]))
        : grad(a, layer.t[j]) / divisor);
      layer.delta = layer.g.map((g, j) => backward(g, layer.a[j], layer.z[j]));
    }
    return layers;
  });
  const each = (number) => // over all parameters, shaped as they are
    params.map((weights, k) => weights.map((units, i) => units.map((_, j) => number(k, i, j))));
  const grads = each((k, i, j) => sum(samples.map((layers) => (layers[k].a[i] ?? 1) * layers[k + 1].delta[j])));
  const next = each((k, i, j) => params[k][i][j] - lr * grads[k][i][j]);
  return { rows, lr, params, samples, grads, next, loss: lossOf(net, params, rows) };
}

/**
 * A run, and the place in it that is shown, counted in stages. A step's `stages` are: forward through each layer, the
 * loss, backward through each layer, the update.
 * states[n] is what there is after n steps; to go back is to look at an earlier one, so nothing is computed twice.
 */
class Run {
  constructor(net) {
    Object.assign(this, { net, lr: net.lr, batch: net.batch, place: 0, stages: 2 * net.params.length + 2 });
    const everything = net.X.map((_, row) => row);
    this.total = (params) => lossOf(net, params, everything);
    this.states = [{ params: net.params, end: 0, loss: this.total(net.params) }];
  }

  /** Steps that were begun, the last of which is shown. */
  get step() {
    return Math.ceil(this.place / this.stages);
  }

  /** Steps that are complete where we stand. */
  get completed() {
    return Math.floor(this.place / this.stages);
  }

  /** Up to which of its stages, counted from 1, the step is shown; 0 before the first. */
  get stage() {
    return this.place && ((this.place - 1) % this.stages) + 1;
  }

  /** The parameters before the step that is shown. */
  get params() {
    return this.states[Math.max(0, this.step - 1)].params;
  }

  /** The step that is shown; null before the first. */
  get shown() {
    const { step, states, net } = this;
    if (step && this.memo?.state !== states[step]) {
      const { rows, lr } = states[step];
      this.memo = { state: states[step], trace: trace(net, states[step - 1].params, rows, lr) };
    }
    return step ? this.memo.trace : null;
  }

  /** Make one step more than there is. Batches are taken in order; the last may be short. False: numbers overflow. */
  extend() {
    const { net, lr, states } = this, last = states.at(-1);
    const start = last.end % net.X.length, end = Math.min(start + this.batch, net.X.length);
    const rows = net.X.slice(start, end).map((_, k) => start + k);
    const { next: params } = trace(net, last.params, rows, lr), loss = this.total(params);
    const finite = [loss, ...params.flat(2)].every(Number.isFinite);
    if (finite) states.push({ params, end, loss, rows, lr });
    return finite;
  }

  /** Stand at a place, for which steps are made as many as it takes. False: a number overflows before. */
  go(place) {
    const last = () => this.stages * (this.states.length - 1);
    let finite = true;
    while (finite && last() < place) finite = this.extend();
    this.place = Math.max(0, Math.min(place, last()));
    return finite;
  }

  /** Another rate or batch from here on: what is complete stays, the rest is made anew. False: numbers overflow. */
  set(settings) {
    this.states.length = this.completed + 1;
    return Object.assign(this, settings).go(this.place);
  }
}
