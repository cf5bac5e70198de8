// TINY: a whole network whose layers are narrower than a vector. A sample per lane: weights are broadcast, z, a and
// delta are one vector per unit, and each weight's gradient is a vector whose lanes are summed, lanes<T> weights at once.

// Calls f(Count<n>) for the number of units at hand, so that every loop over units is unrolled and stays in registers.
template <class F> FBP_INLINE void with_units(idx n, F f) {
  static_assert(TINY_WIDTH == 8, "a case for each width");
  switch (n) {
    case 1: return f(Count<1>{});
    case 2: return f(Count<2>{});
    case 3: return f(Count<3>{});
    case 4: return f(Count<4>{});
    case 5: return f(Count<5>{});
    case 6: return f(Count<6>{});
    case 7: return f(Count<7>{});
    case 8: return f(Count<8>{});
  }
}

// z[j] = bias[j] + sum over i of x[i] * weight[i][j]
template <class T> static void tiny_forward(const TinyLayer<T>& layer, const T* params, const Vec<T>* x) {
  typedef Vec<T> V;
  with_units(layer.out, [&](auto count) {
    constexpr int n = decltype(count)::value;
    const T* w = params + layer.weight;
    V z[n];
    FBP_UNROLL for (int j = 0; j < n; j++) z[j] = layer.bias < 0 ? V{} : splat<V>(params[layer.bias + j]);
    for (idx i = 0; i < layer.in; i++, w += n)
      FBP_UNROLL for (int j = 0; j < n; j++) z[j] += x[i] * splat<V>(w[j]);
    FBP_UNROLL for (int j = 0; j < n; j++) store(layer.z + j * lanes<T>, z[j]);
  });
  if (layer.activation.forward) layer.activation.forward(layer.z, layer.a, lanes<T>, layer.out, lanes<T>);
}

// products[weight] (+)= x * delta, and the delta of the layer below from the weights; both run along a row of weight.
template <class T, bool first>
static void tiny_backward(const TinyLayer<T>& layer, const TinyLayer<T>* below, const T* params, const Vec<T>* x,
                          T* products) {
  typedef Vec<T> V;
  if (layer.activation.backward)
    layer.activation.backward(layer.delta, layer.a, layer.z, lanes<T>, layer.out, lanes<T>);
  with_units(layer.out, [&](auto count) {
    constexpr int n = decltype(count)::value;
    const T* w = params + layer.weight;
    T* p = products + layer.weight * lanes<T>;
    V delta[n];
    FBP_UNROLL for (int j = 0; j < n; j++) delta[j] = load(layer.delta + j * lanes<T>);
    for (idx i = 0; i < layer.in; i++, w += n, p += n * lanes<T>) {
      const V input = x[i];
      FBP_UNROLL for (int j = 0; j < n; j++)
        store(p + j * lanes<T>, first ? input * delta[j] : load(p + j * lanes<T>) + input * delta[j]);
      if (below) {
        V sum = delta[0] * splat<V>(w[0]);
        FBP_UNROLL for (int j = 1; j < n; j++) sum += delta[j] * splat<V>(w[j]);
        store(below->delta + i * lanes<T>, sum);
      }
    }
    if (layer.bias >= 0) {
      p = products + layer.bias * lanes<T>;
      FBP_UNROLL for (int j = 0; j < n; j++)
        store(p + j * lanes<T>, first ? delta[j] : load(p + j * lanes<T>) + delta[j]);
    }
  });
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
    const auto backward = m == 0 ? tiny_backward<T, true> : tiny_backward<T, false>;
    for (int l = batch.n_layers - 1; l > 0; l--)
      backward(batch.layers[l], &batch.layers[l - 1], batch.params, (const V*)batch.layers[l - 1].a, batch.products);
    backward(batch.layers[0], nullptr, batch.params, x, batch.products);
  }
  for (idx k = 0; k < batch.n_params; k += lanes<T>) {
    V product[lanes<T>];
    FBP_UNROLL for (int i = 0; i < lanes<T>; i++) product[i] = load(batch.products + (k + i) * lanes<T>);
    store(batch.gradient + k, sum_each<T>(product));
  }
  return total;
}
