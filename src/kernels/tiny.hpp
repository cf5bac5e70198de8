// TINY: a whole network whose layers are narrower than a vector. A sample per lane: weights are broadcast, z, a and
// delta are one vector per unit, and each weight's gradient is a vector whose lanes are summed, lanes<T> weights at once.

// z[j] = bias[j] + sum over i of x[i] * weight[i][j], four units side by side
template <class T> static void tiny_forward(const TinyLayer<T>& layer, const T* params, const Vec<T>* x) {
  typedef Vec<T> V;
  const T* w = params + layer.weight;
  const T* bias = layer.bias < 0 ? nullptr : params + layer.bias;
  const auto units = [&](idx j, auto count) {
    constexpr int n = decltype(count)::value;
    V z[n];
    FBP_UNROLL for (int u = 0; u < n; u++) z[u] = bias ? splat<V>(bias[j + u]) : V{};
    for (idx i = 0; i < layer.in; i++)
      FBP_UNROLL for (int u = 0; u < n; u++) z[u] += x[i] * splat<V>(w[i * layer.out + j + u]);
    FBP_UNROLL for (int u = 0; u < n; u++) store(layer.z + (j + u) * lanes<T>, z[u]);
  };
  idx j = 0;
  for (; j + 4 <= layer.out; j += 4) units(j, Count<4>{});
  switch (layer.out - j) {
    case 3: units(j, Count<3>{}); break;
    case 2: units(j, Count<2>{}); break;
    case 1: units(j, Count<1>{}); break;
  }
  if (layer.activation.forward) layer.activation.forward(layer.z, layer.a, lanes<T>, layer.out, lanes<T>);
}

// products[weight] += x * delta, and the delta of the layer below from the weights; both run along a row of weight.
template <class T>
static void tiny_backward(const TinyLayer<T>& layer, const TinyLayer<T>* below, const T* params, const Vec<T>* x,
                          T* products, bool first) {
  typedef Vec<T> V;
  if (layer.activation.backward)
    layer.activation.backward(layer.delta, layer.a, layer.z, lanes<T>, layer.out, lanes<T>);
  const auto add = [&](idx weight, V product) {
    T* p = products + weight * lanes<T>;
    store(p, first ? product : load(p) + product);
  };
  for (idx i = 0; i < layer.in; i++) {
    const idx row = layer.weight + i * layer.out;
    V even{}, odd{};
    idx j = 0;
    for (; j + 2 <= layer.out; j += 2) {
      const V d0 = load(layer.delta + j * lanes<T>), d1 = load(layer.delta + (j + 1) * lanes<T>);
      add(row + j, x[i] * d0);
      add(row + j + 1, x[i] * d1);
      even += d0 * splat<V>(params[row + j]);
      odd += d1 * splat<V>(params[row + j + 1]);
    }
    if (j < layer.out) {
      const V d = load(layer.delta + j * lanes<T>);
      add(row + j, x[i] * d);
      even += d * splat<V>(params[row + j]);
    }
    if (below) store(below->delta + i * lanes<T>, even + odd);
  }
  if (layer.bias >= 0)
    for (idx j = 0; j < layer.out; j++) add(layer.bias + j, load(layer.delta + j * lanes<T>));
}

// The loss of a batch, and its gradient for the dense parameters.
template <class T> static double tiny_gradient(const TinyBatch<T>& batch) {
  typedef Vec<T> V;
  double total = 0;
  const TinyLayer<T>& last = batch.layers[batch.n_layers - 1];
  for (idx m = 0; m < batch.rows; m += lanes<T>) {
    const idx samples = batch.rows - m;
    V x[TINY_WIDTH];
    for (idx i = 0; i < batch.layers[0].in; i++) {   // lanes past the batch hold other rows, which may hold NaN
      x[i] = load(batch.x + i * batch.ldx + m);
      if (samples < lanes<T>) x[i] = WHERE(columns_below<T>(0, samples), x[i], V{});
    }
    tiny_forward(batch.layers[0], batch.params, x);
    for (int l = 1; l < batch.n_layers; l++)
      tiny_forward(batch.layers[l], batch.params, (const V*)batch.layers[l - 1].a);

    total += batch.loss({samples < lanes<T> ? samples : lanes<T>, last.out, true, last.a, lanes<T>,
                         batch.t ? batch.t + m : nullptr, batch.ldt, batch.t ? nullptr : batch.label + m,
                         batch.share + m, last.delta});
    for (int l = batch.n_layers - 1; l > 0; l--)
      tiny_backward(batch.layers[l], &batch.layers[l - 1], batch.params, (const V*)batch.layers[l - 1].a,
                    batch.products, m == 0);
    tiny_backward<T>(batch.layers[0], nullptr, batch.params, x, batch.products, m == 0);
  }
  for (idx k = 0; k < batch.n_params; k += lanes<T>) {
    V product[lanes<T>];
    FBP_UNROLL for (int i = 0; i < lanes<T>; i++) product[i] = load(batch.products + (k + i) * lanes<T>);
    store(batch.gradient + k, sum_each<T>(product));
  }
  return total;
}
