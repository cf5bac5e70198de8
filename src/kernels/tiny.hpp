// TINY: a whole network whose layers are narrower than a vector. A sample per lane: weights are broadcast, z, a and
// delta are one vector per unit, and each weight's gradient is a vector whose lanes are summed, lanes<T> weights at a
// time.
//
// Loops over a layer's n units are unrolled and stay in registers: a function for each width.

// z[j] = bias[j] + sum over i of x[i] * weight[i][j]
template <class T, int n> static void tiny_forward(const TinyLayer<T>& layer, const T* params, const T* x, idx ldx) {
  typedef Vec<T> V;
  const T *w = params + layer.weight, *bias = params + layer.bias;
  T* to = layer.z;
  V z[n];
  FBP_UNROLL for (int j = 0; j < n; j++) z[j] = V{};
  if (layer.bias >= 0) FBP_UNROLL for (int j = 0; j < n; j++) z[j] = splat<V>(bias[j]);
  for (const T* end = w + layer.in * n; w < end; w += n, x += ldx) {
    const V input = load(x);
    FBP_UNROLL for (int j = 0; j < n; j++) z[j] += input * splat<V>(w[j]);
  }
  FBP_UNROLL for (int j = 0; j < n; j++) store(to + j * lanes<T>, z[j]);
}

// products[weight] (+)= x * delta, and the delta of the layer below from the weights; both run along a row of weight.
template <class T, int n, bool first>
static void tiny_backward(const TinyLayer<T>& layer, T* below, const T* params, const T* x, idx ldx, T* products) {
  typedef Vec<T> V;
  const T *w = params + layer.weight, *delta_at = layer.delta;
  T* p = products + layer.weight * lanes<T>;
  const idx bias = layer.bias;
  V delta[n];
  FBP_UNROLL for (int j = 0; j < n; j++) delta[j] = load(delta_at + j * lanes<T>);
  const auto put = [&](V v, int j) { store(p + j * lanes<T>, first ? v : load(p + j * lanes<T>) + v); };
  for (const T* end = w + layer.in * n; w < end; w += n, x += ldx, p += n * lanes<T>) {
    const V input = load(x);
    FBP_UNROLL for (int j = 0; j < n; j++) put(input * delta[j], j);
    if (below) {
      V sum = delta[0] * splat<V>(w[0]);
      FBP_UNROLL for (int j = 1; j < n; j++) sum += delta[j] * splat<V>(w[j]);
      store(below, sum);
      below += lanes<T>;
    }
  }
  if (bias < 0) return;
  p = products + bias * lanes<T>;
  FBP_UNROLL for (int j = 0; j < n; j++) put(delta[j], j);
}

template <class T> struct TinyWidth {
  void (*forward)(const TinyLayer<T>& layer, const T* params, const T* x, idx ldx);
  void (*backward[2])(const TinyLayer<T>& layer, T* below, const T* params, const T* x, idx ldx, T* products);
};
template <class T, class Widths = typename MakeIndices<TINY_WIDTH>::type> struct tiny_widths;
template <class T, int... i> struct tiny_widths<T, Indices<i...>> {
  static constexpr TinyWidth<T> table[] = {
      {tiny_forward<T, i + 1>, {tiny_backward<T, i + 1, false>, tiny_backward<T, i + 1, true>}}...};
};

// Whole steps on consecutive batches: forward, loss, backward, update. Gives the number of steps done; a step whose
// loss is not finite is not done where `stop_on_loss`, and its loss is the last one written.
template <class T, class Row> static idx tiny_train(const TinyBatches<T>& run, double* losses) {
  typedef Vec<T> V;
  const TinyLayer<T>*first_layer = run.layers, *last = run.layers + run.n_layers - 1;
  const auto width = [](const TinyLayer<T>& layer) { return &tiny_widths<T>::table[layer.out - 1]; };
  T *const params = run.params, *const products = run.products;
  Loss<T> loss{0, last->out, true, last->a, lanes<T>, run.t, run.ldt, run.label, nullptr, last->delta,
               run.setting, run.weight, run.ldw, run.own_loss};
  alignas(64) T masked[TINY_WIDTH * lanes<T>];
  for (idx step = 0; step < run.steps; step++) {
    double total = 0;
    for (idx m = 0; m < run.rows; m += lanes<T>) {
      const idx samples = run.rows - m < lanes<T> ? run.rows - m : lanes<T>, at = step * run.rows + m;
      const T* input = run.x + at;
      idx ldx = run.ldx;
      if (samples < lanes<T>) {   // lanes past the batch hold other rows, which may hold NaN
        const IntVec<T> real = columns_below<T>(0, samples);
        for (idx i = 0; i < first_layer->in; i++) store(masked + i * lanes<T>, WHERE(real, load(input + i * ldx), V{}));
        input = masked;
        ldx = lanes<T>;
      }
      // Theirs is an input of 0, but a bias or a user's activation may be infinite there, and inf times a delta of 0 is NaN.
      const auto mask = [&](const TinyLayer<T>& layer, T* units) {
        if (samples == lanes<T>) return;
        const IntVec<T> real = columns_below<T>(0, samples);
        for (idx j = 0; j < layer.out; j++) store(units + j * lanes<T>, WHERE(real, load(units + j * lanes<T>), V{}));
      };
      const auto below = [&](const TinyLayer<T>* layer, auto f) {   // with what lies below the layer
        layer == first_layer ? f(input, ldx, (T*)nullptr) : f((const T*)layer[-1].a, (idx)lanes<T>, layer[-1].delta);
      };
      for (const TinyLayer<T>* layer = first_layer; layer <= last; layer++) {
        below(layer, [&](const T* x, idx ld, T*) { width(*layer)->forward(*layer, params, x, ld); });
        if (layer->activation.forward) layer->activation.forward(layer->z, layer->a, lanes<T>, layer->out, lanes<T>);
        mask(*layer, layer->a);
      }
      loss.rows = samples;
      loss.t = run.t ? run.t + at : nullptr;
      loss.label = run.label + at;
      loss.share = run.share + m;
      if (run.ldw) loss.weight = run.weight + m;
      total += run.loss(loss);
      for (const TinyLayer<T>* layer = last; layer >= first_layer; layer--) {
        if (layer->activation.backward)
          layer->activation.backward(layer->delta, layer->a, layer->z, lanes<T>, layer->out, lanes<T>);
        mask(*layer, layer->delta);
        below(layer, [&](const T* x, idx ld, T* delta) {
          width(*layer)->backward[m == 0](*layer, delta, params, x, ld, products);
        });
      }
    }
    losses[step] = total;
    if (run.stop_on_loss && !(__builtin_fabs(total) <= __DBL_MAX__)) return step;

    const T* const scalars = run.scalars + step * run.scalars_of_a_step;
    V scalar[MAX_SCALARS];
    if constexpr (inlined<Row>) FBP_UNROLL for (int s = 0; s < Row::scalars; s++) scalar[s] = splat<V>(scalars[s]);
    for (idx k = 0; k < run.n_params; k += lanes<T>) {
      V product[lanes<T>];
      FBP_UNROLL for (int i = 0; i < lanes<T>; i++) product[i] = load(products + (k + i) * lanes<T>);
      const V g = sum_each<T>(product);
      if constexpr (inlined<Row>) update_vector<Row>(params, run.slots, k, g, scalar);
      else store(run.gradient + k, g);
    }
    if (!inlined<Row>) run.update(params, run.slots, 0, run.gradient, 0, 1, run.n_params, scalars);
  }
  return run.steps;
}
