"use strict";
// The arithmetic of the page, without the page: one step with all its numbers, and a run that goes forth and back.
// `net` is an entry of NETWORKS, `params` a list with {weight: [in][out], bias: [out] or null} for each layer.

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** The forward pass of one row: for each layer {z: [unit], a: [unit]}. */
function forward(net, params, x) {
  let input = x;
  return params.map(({ weight, bias }, k) => {
    const { forward: f } = ACTIVATIONS[net.activations[k]];
    const z = weight[0].map((_, j) => sum(input.map((a, i) => a * weight[i][j])) + (bias ? bias[j] : 0));
    input = z.map((number) => f(number));
    return { z, a: input };
  });
}

/** The loss of some rows: the mean over rows; over outputs the mean or the sum, as the loss has it. */
function lossOf(net, params, rows) {
  const { value } = LOSSES[net.loss];
  const ofRow = (row) => sum(forward(net, params, net.X[row]).at(-1).a.map((a, j) => value(a, net.y[row][j])));
  return sum(rows.map(ofRow)) / (rows.length * net.perRow);
}

/**
 * One step of plain SGD with every number of it, as `net.trace` of fastbp gives it.
 * samples[s][k] is {z, a, g = dL/da, delta = dL/dz} of row s of the batch in layer k, each a number for a unit.
 * grads are shaped as params: sums over the batch. next: the new parameters, made from the old ones all at once.
 */
function trace(net, params, rows, lr) {
  const { grad } = LOSSES[net.loss], divisor = rows.length * net.perRow;
  const samples = rows.map((row) => {
    const layers = forward(net, params, net.X[row]);
    for (let k = layers.length - 1; k >= 0; k--) { // the chain rule, from the end to the beginning
      const layer = layers[k], above = layers[k + 1];
      const { backward } = ACTIVATIONS[net.activations[k]];
      layer.g = layer.a.map((a, j) => above
        ? sum(above.delta.map((delta, l) => delta * params[k + 1].weight[j][l]))
        : grad(a, net.y[row][j]) / divisor);
      layer.delta = layer.g.map((g, j) => backward(g, layer.a[j], layer.z[j]));
    }
    return layers;
  });
  const inputs = (s, k) => (k ? samples[s][k - 1].a : net.X[rows[s]]);
  const overRows = (number) => sum(rows.map((_, s) => number(s)));
  const grads = params.map(({ weight, bias }, k) => ({
    weight: weight.map((units, i) => units.map((_, j) => overRows((s) => inputs(s, k)[i] * samples[s][k].delta[j]))),
    bias: bias && bias.map((_, j) => overRows((s) => samples[s][k].delta[j])),
  }));
  const next = params.map(({ weight, bias }, k) => ({
    weight: weight.map((units, i) => units.map((w, j) => w - lr * grads[k].weight[i][j])),
    bias: bias && bias.map((b, j) => b - lr * grads[k].bias[j]),
  }));
  return { rows, lr, params, samples, grads, next, loss: lossOf(net, params, rows) };
}

/**
 * A run, and the place in it that is shown: `step` steps were begun, the last of which is shown up to `stage`.
 * A step's stages are: forward through each layer, the loss, backward through each layer, the update.
 * states[n] is what there is after n steps; to go back is to look at an earlier one, so nothing is computed twice.
 */
class Run {
  constructor(net) {
    Object.assign(this, { net, lr: net.lr, batch: net.batch, step: 0 });
    this.lastStage = this.stage = 2 * net.params.length + 2;
    const everything = net.X.map((_, row) => row);
    this.total = (params) => lossOf(net, params, everything);
    this.states = [{ params: net.params, end: 0, loss: this.total(net.params) }];
  }

  /** Steps that are complete where we stand. */
  get completed() {
    return this.stage === this.lastStage ? this.step : this.step - 1;
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
    const numbers = params.flatMap(({ weight, bias }) => [...weight.flat(), ...(bias ?? [])]);
    const finite = [loss, ...numbers].every(Number.isFinite);
    if (finite) states.push({ params, end, loss, rows, lr });
    return finite;
  }

  /** Stand at a stage of a step, of which there are made as many as it takes. False: a number overflows before. */
  go(step, stage = this.lastStage) {
    let finite = true;
    while (finite && this.states.length <= step) finite = this.extend();
    this.step = Math.max(0, Math.min(step, this.states.length - 1));
    this.stage = this.step && finite ? stage : this.lastStage;
    return finite;
  }

  /** A stage forth (1) or back (-1). */
  goStage(way) {
    const stage = this.stage + way;
    if (stage > this.lastStage || this.step === 0) return way > 0 ? this.go(this.step + 1, 1) : true;
    return stage ? this.go(this.step, stage) : this.go(this.step - 1);
  }

  /** Another rate or batch from here on: what is complete stays, the rest is made anew. False: numbers overflow. */
  set(settings) {
    const { step, stage } = this;
    this.states.length = this.completed + 1;
    Object.assign(this, settings);
    return this.go(step, stage);
  }
}
