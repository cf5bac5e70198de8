// A tiny network of one hidden layer, a hidden unit per lane: its weights stay in registers and in the L1 cache for a
// whole stretch of steps, S samples go through it together, and one horizontal reduction an output makes a vector of S
// outputs. Numbers of a sample are broadcast, so that rows are read where they lie.
//
// Lanes past the last unit hold anything, as an activation need not be 0 at 0, and reach no sum over lanes. Samples past
// the last of a batch are that last one again, with a share of 0: they are as finite as it is.

template <class T> constexpr int hidden_samples = lanes<T> < HIDDEN_SAMPLES ? lanes<T> : static_cast<int>(HIDDEN_SAMPLES);

// f(Count<i>) for each i below n
template <class F, int... i> FBP_INLINE void each_count(F f, Indices<i...>) { (f(Count<i>{}), ...); }

// Without `calls` all is inline, and a sample's numbers stay in registers. With them a group of samples goes from phase to
// phase through the L1 cache, units side by side, and each row is called once for all of it.
template <class T, int vectors, int out, bool calls> static idx hidden_train(const HiddenRun<T>& run, double* losses) {
  typedef Vec<T> V;
  constexpr int n = lanes<T>, S = hidden_samples<T>, width = vectors * n;
  const idx in = run.in, rows = run.rows, hidden = run.hidden;
  const HiddenRows<T> inputs = run.x, targets = run.t;
  const IntVec<T> live = columns_below<T>((vectors - 1) * n, hidden), real = columns_below<T>(0, S);
  T *const weight = run.params, *const gradient = run.gradient;
  const idx output_weight = in * width;

  V bias[vectors], w[vectors][out], output_bias[out];   // parameters that stay in registers
  const auto take = [&] {
    FBP_UNROLL for (int v = 0; v < vectors; v++) {
      bias[v] = run.bias < 0 ? V{} : load(run.params + run.bias + v * n);
      FBP_UNROLL for (int k = 0; k < out; k++) w[v][k] = load(run.params + output_weight + k * width + v * n);
    }
    FBP_UNROLL for (int k = 0; k < out; k++)
      output_bias[k] = run.output_bias < 0 ? V{} : splat<V>(run.params[run.output_bias + k]);
  };
  const auto put = [&] {
    FBP_UNROLL for (int v = 0; v < vectors; v++) {
      if (run.bias >= 0) store(run.params + run.bias + v * n, bias[v]);
      FBP_UNROLL for (int k = 0; k < out; k++) store(run.params + output_weight + k * width + v * n, w[v][k]);
    }
    if (run.output_bias >= 0) FBP_UNROLL for (int k = 0; k < out; k++) run.params[run.output_bias + k] = output_bias[k][0];
  };
  take();

  for (idx step = 0; step < run.steps; step++) {
    const T* const scalars = run.scalars + step * run.scalars_of_a_step;
    const V lr = splat<V>(scalars[0]);   // of a rule that is inline
    V g_bias[vectors], g[vectors][out], g_output_bias[out];
    FBP_UNROLL for (int v = 0; v < vectors; v++) {
      g_bias[v] = V{};
      FBP_UNROLL for (int k = 0; k < out; k++) g[v][k] = V{};
    }
    FBP_UNROLL for (int k = 0; k < out; k++) g_output_bias[k] = V{};

    // Of the samples from m on, as the next ones.
    const auto rows_of = [&](idx m, const HiddenRows<T>& from, const T** row) {
      const idx at = step * rows + m, samples = rows - m;
      const auto place = [&](idx k) { return from.data + (from.order ? static_cast<idx>(from.order[k]) : k) * from.ld; };
      if (samples < S) FBP_UNROLL for (int s = 0; s < S; s++) row[s] = place(at + (s < samples ? s : samples - 1));
      else if (from.order) FBP_UNROLL for (int s = 0; s < S; s++) row[s] = from.data + from.order[at + s] * from.ld;
      else FBP_UNROLL for (int s = 0; s < S; s++) row[s] = from.data + (at + s) * from.ld;
    };
    const auto targets_of = [&](idx m, V* t) {
      const bool side_by_side = !targets.order && targets.ld == out && (!calls || run.targets == out);
      if ((out & (out - 1)) == 0 && S == n && rows - m >= S && side_by_side) {
        // Whole vectors: every second number and the others, log2(out) times, is an output each.
        FBP_UNROLL for (int k = 0; k < out; k++) t[k] = load(targets.data + (step * rows + m) * out + k * n);
        FBP_UNROLL for (int apart = out; apart > 1; apart /= 2) {
          V of[out];
          FBP_UNROLL for (int k = 0; k < out / 2; k++) {
            of[k] = every_second<T, 0>(t[2 * k], t[2 * k + 1], typename MakeIndices<n>::type{});
            of[k + out / 2] = every_second<T, 1>(t[2 * k], t[2 * k + 1], typename MakeIndices<n>::type{});
          }
          FBP_UNROLL for (int k = 0; k < out; k++) t[k] = of[k];
        }
        return;
      }
      const T* row[S];
      rows_of(m, targets, row);
      FBP_UNROLL for (int k = 0; k < out; k++) {
        V column{};
        if (!calls || k < run.targets) FBP_UNROLL for (int s = 0; s < S; s++) column[s] = row[s][k];
        t[k] = column;
      }
    };
    const auto each = [&](auto f) {
      FBP_UNROLL for (int s = 0; s < S; s++)
        FBP_UNROLL for (int v = 0; v < vectors; v++) f(v, s);
    };
    const auto units_of = [&](const T** x, V (&a)[vectors][S]) {
      each([&](int v, int s) { a[v][s] = bias[v]; });
      const T* of_input = weight;
      for (idx i = 0; i < in; i++)
        FBP_UNROLL for (int v = 0; v < vectors; v++, of_input += n) {
          const V row = load(of_input);
          FBP_UNROLL for (int s = 0; s < S; s++) a[v][s] += splat<V>(x[s][i]) * row;
        }
    };
    const auto outputs_of = [&](V (&a)[vectors][S], V* z) {
      FBP_UNROLL for (int k = 0; k < out; k++) {
        V product[S];
        FBP_UNROLL for (int s = 0; s < S; s++) {
          product[s] = WHERE(live, a[vectors - 1][s] * w[vectors - 1][k], V{});
          FBP_UNROLL for (int v = 0; v < vectors - 1; v++) product[s] += a[v][s] * w[v][k];
        }
        z[k] = sum_each<T, S>(product) + output_bias[k];
      }
    };
    // From the outputs' dL/dz the units' dL/da.
    const auto units_back = [&](const V* e, V (&a)[vectors][S], V (&delta)[vectors][S]) {
      V part[2][vectors][out];   // sums in two parts: one would wait for itself
      FBP_UNROLL for (int k = 0; k < out; k++) g_output_bias[k] += e[k];
      each_count([&](auto count) {
        constexpr int s = decltype(count)::value;
        FBP_UNROLL for (int k = 0; k < out; k++) {
          const V of_sample = spread<T, s>(e[k], typename MakeIndices<n>::type{});
          FBP_UNROLL for (int v = 0; v < vectors; v++) {
            V& sum = part[s % 2][v][k];
            sum = s < 2 ? of_sample * a[v][s] : sum + of_sample * a[v][s];
            delta[v][s] = k ? delta[v][s] + of_sample * w[v][k] : of_sample * w[v][k];
          }
        }
      }, typename MakeIndices<S>::type{});
      FBP_UNROLL for (int v = 0; v < vectors; v++)
        FBP_UNROLL for (int k = 0; k < out; k++) g[v][k] += part[0][v][k] + part[1][v][k];
    };
    const auto inputs_back = [&](idx m, const T** x, V (&delta)[vectors][S]) {
      FBP_UNROLL for (int v = 0; v < vectors; v++) {
        V sum[2] = {delta[v][0], delta[v][1]};
        FBP_UNROLL for (int s = 2; s < S; s++) sum[s % 2] += delta[v][s];
        g_bias[v] += sum[0] + sum[1];
      }
      const bool updates = run.sgd && m + S >= rows;
      idx place = 0;
      for (idx i = 0; i < in; i++)
        FBP_UNROLL for (int v = 0; v < vectors; v++, place += n) {
          V sum[2];
          FBP_UNROLL for (int s = 0; s < S; s++)
            sum[s % 2] = s < 2 ? splat<V>(x[s][i]) * delta[v][s] : sum[s % 2] + splat<V>(x[s][i]) * delta[v][s];
          V sums = sum[0] + sum[1];
          if (m) sums += load(gradient + place);
          if (updates) store(weight + place, load(weight + place) - lr * sums);
          else store(gradient + place, sums);
        }
    };
    const auto stops = [&](double loss) {
      losses[step] = loss;
      return run.stop_on_loss && !(__builtin_fabs(loss) <= __DBL_MAX__);
    };

    const T* x[S];
    V a[vectors][S], delta[vectors][S], e[out], t[out];
    if constexpr (!calls) {
      VD total{};
      const double* share = run.share;
      for (idx m = 0; m < rows; m += S, share += WIDEST) {
        rows_of(m, inputs, x);
        units_of(x, a);
        if (run.activation == HIDDEN_RELU) each([&](int v, int s) { a[v][s] = activation_relu::forward(a[v][s]); });
        else if (run.activation == HIDDEN_TANH) each([&](int v, int s) { a[v][s] = activation_tanh::forward(a[v][s]); });
        outputs_of(a, e);
        targets_of(m, t);
        const V of_sample = load(run.twice_share + (share - run.share));
        V sum{};
        FBP_UNROLL for (int k = 0; k < out; k++) {
          const V d = e[k] - t[k];
          sum += d * d;
          e[k] = WHERE(of_sample != 0, d * of_sample, V{});
        }
        total += products(WHERE(of_sample != 0, sum, V{}), share);
        if (m + S >= rows && stops(sum_lanes<double>(total))) {
          put();
          return step;
        }
        units_back(e, a, delta);
        if (run.activation == HIDDEN_RELU)
          each([&](int v, int s) { delta[v][s] = activation_relu::backward(delta[v][s], a[v][s], V{}); });
        else if (run.activation == HIDDEN_TANH)
          each([&](int v, int s) { delta[v][s] = activation_tanh::backward(delta[v][s], a[v][s], V{}); });
        inputs_back(m, x, delta);
      }
    } else {
      constexpr idx G = HIDDEN_GROUP, ld = G + WIDEST;
      alignas(64) T z_at[(G + 1) * width], a_at[(G + 1) * width], delta_at[(G + 1) * width];   // (samples, hidden)
      alignas(64) T outputs_z[out * ld], outputs[out * ld], errors[out * ld], targets_at[out * ld];   // (out, ld)
      T *const kept_z = run.keeps_z ? z_at : a_at, *const kept_outputs_z = run.output_keeps_z ? outputs_z : outputs;
      double total = 0;
      for (idx first = 0; first < rows; first += G) {
        const idx count = rows - first < G ? rows - first : G, units = (count + S - 1) / S * S * hidden;
        const auto each_block = [&](auto f) { for (idx m = 0; m < count; m += S) f(m); };
        // A store goes on into the next sample, which comes later; a load gets of it what no unit is.
        const auto keep = [&](V (&from)[vectors][S], T* to, idx m) {
          each([&](int v, int s) { store(to + (m + s) * hidden + v * n, from[v][s]); });
        };
        const auto fetch = [&](const T* from, idx m, V (&to)[vectors][S]) {
          each([&](int v, int s) { to[v][s] = load(from + (m + s) * hidden + v * n); });
        };
        const auto drop = [&](idx m, V (&of)[vectors][S]) {
          if (!run.kept) return;
          each([&](int v, int s) {
            const V factor = load(run.kept + (first + m + s) * WIDEST + v * n);
            of[v][s] = WHERE(factor != 0, of[v][s] * factor, V{});
          });
        };
        each_block([&](idx m) {
          rows_of(first + m, inputs, x);
          units_of(x, a);
          keep(a, kept_z, m);
        });
        if (run.forward) run.forward(kept_z, a_at, units, 1, units);
        each_block([&](idx m) {
          fetch(a_at, m, a);
          drop(m, a);
          outputs_of(a, e);
          FBP_UNROLL for (int k = 0; k < out; k++) store(kept_outputs_z + k * ld + m, e[k]);
          if (!run.t.data) return;
          targets_of(first + m, t);
          FBP_UNROLL for (int k = 0; k < out; k++) store(targets_at + k * ld + m, t[k]);
        });
        if (run.output_forward) run.output_forward(kept_outputs_z, outputs, out * ld, 1, out * ld);
        const Loss<T> loss{count, out, true, outputs, ld, run.t.data ? targets_at : nullptr, ld,
                           run.label + step * rows + first, run.row_share + first, errors,
                           run.setting, run.ldw ? run.weight + first : run.weight, run.ldw, run.own_loss};
        total += run.loss(loss);
        if (first + G >= rows && stops(total)) {
          put();
          return step;
        }
        if (run.output_backward) run.output_backward(errors, outputs, kept_outputs_z, out * ld, 1, out * ld);
        each_block([&](idx m) {
          fetch(a_at, m, a);
          drop(m, a);
          FBP_UNROLL for (int k = 0; k < out; k++) e[k] = WHERE(real, load(errors + k * ld + m), V{});
          units_back(e, a, delta);
          keep(delta, delta_at, m);
        });
        if (run.backward) run.backward(delta_at, a_at, kept_z, units, 1, units);
        each_block([&](idx m) {
          rows_of(first + m, inputs, x);
          fetch(delta_at, m, delta);
          drop(m, delta);   // now, as a slope may be infinite
          inputs_back(first + m, x, delta);
        });
      }
    }

    if (run.sgd) {
      FBP_UNROLL for (int v = 0; v < vectors; v++) {
        if (run.bias >= 0) bias[v] -= lr * g_bias[v];
        FBP_UNROLL for (int k = 0; k < out; k++) w[v][k] -= lr * g[v][k];
      }
      if (run.output_bias >= 0)
        FBP_UNROLL for (int k = 0; k < out; k++) output_bias[k] -= lr * sum_lanes_everywhere<T>(g_output_bias[k]);
    } else {
      FBP_UNROLL for (int v = 0; v < vectors; v++) {
        if (run.bias >= 0) store(gradient + run.bias + v * n, g_bias[v]);
        FBP_UNROLL for (int k = 0; k < out; k++) store(gradient + output_weight + k * width + v * n, g[v][k]);
      }
      if (run.output_bias >= 0) {
        V sums[4];
        FBP_UNROLL for (int k = 0; k < 4; k++) sums[k] = g_output_bias[k < out ? k : 0];
        store(gradient + run.output_bias, sum_each<T, out == 1 ? 1 : out == 2 ? 2 : 4>(sums));
      }
      run.update(run.params, run.slots, 0, gradient, 0, 1, run.n_params, scalars);
      take();
    }
  }
  put();
  return run.steps;
}

template <class T, int vectors> struct hidden_outputs {
#define FBP_OUTPUTS(out) {hidden_train<T, vectors, out, false>, hidden_train<T, vectors, out, true>}
  static constexpr HiddenKernel<T> table[][2] = {FBP_OUTPUTS(1), FBP_OUTPUTS(2), FBP_OUTPUTS(3), FBP_OUTPUTS(4)};
};
#ifdef FBP_HIDDEN
#define FBP_HIDDEN_UPDATE(row) update_row<optimizer_##row, T>,
template <class T> struct HiddenTables {
  static constexpr UpdateRow<T> update[] = {FBP_OPTIMIZERS(FBP_HIDDEN_UPDATE)};
};
template <class T> constexpr HiddenKernels<T> hidden_kernels() {
  return {lanes<T>, {hidden_outputs<T, 1>::table, nullptr}, HiddenTables<T>::update};
}
#else
template <class T> constexpr HiddenKernels<T> hidden_kernels() {
  HiddenKernels<T> kernels{lanes<T>, {nullptr, nullptr}, nullptr};
  if constexpr (lanes<T> >= 4) kernels.train[0] = hidden_outputs<T, 1>::table;
  if constexpr (lanes<T> >= 4 && lanes<T> < 16) kernels.train[1] = hidden_outputs<T, 2>::table;
  return kernels;
}
#endif
