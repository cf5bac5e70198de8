// One hidden layer and one output, all in one: a hidden unit after the other, 8 samples at a time, whose outputs stay in
// registers. What is stored is hidden activations and parameters, no delta.

template <class T, class Activation, class Rule, bool own> struct ManyHidden {
  typedef Vec<T> V;
  enum { S = MANY_BLOCK };
  const ManyLayer<T>&first, &last;
  const ManyPut<T> put;
  const V* const scalar;
  const T* const x;   // of the block, (S, in)

  FBP_INLINE_MEMBER V input(int s, idx i) const { return many_input<T, own>(x, s * first.in + i); }
  FBP_INLINE_MEMBER V param(idx at) const { return load(put.p + at * lanes<T>); }
  FBP_INLINE_MEMBER void gives(idx at, V g) const { many_put<Rule>(put, at, g, scalar); }

  // Units j.. : their activations, and what they add to the outputs.
  template <int J> FBP_INLINE_MEMBER void forward(idx j, V* z) const {
    V u[S][J];
    FBP_UNROLL for (int s = 0; s < S; s++)
      FBP_UNROLL for (int e = 0; e < J; e++) u[s][e] = V{};
    if (first.bias >= 0)
      FBP_UNROLL for (int s = 0; s < S; s++)
        FBP_UNROLL for (int e = 0; e < J; e++) u[s][e] = param(first.bias + j + e);
    for (idx i = 0; i < first.in; i++) {
      V w[J];
      FBP_UNROLL for (int e = 0; e < J; e++) w[e] = param(first.weight + i * first.ld + j + e);
      FBP_UNROLL for (int s = 0; s < S; s++) {
        const V in = input(s, i);
        FBP_UNROLL for (int e = 0; e < J; e++) u[s][e] += in * w[e];
      }
    }
    FBP_UNROLL for (int e = 0; e < J; e++) {
      FBP_UNROLL for (int s = 0; s < S; s++) {
        u[s][e] = Activation::template forward<V>(u[s][e]);
        store(first.a + ((j + e) * S + s) * lanes<T>, u[s][e]);
      }
      const V w = param(last.weight + (j + e) * last.ld);
      FBP_UNROLL for (int s = 0; s < S; s++) z[s] += u[s][e] * w;
    }
  }
  // The way back of the same, from the outputs' deltas, and their updates.
  template <int J> FBP_INLINE_MEMBER void backward(idx j, const V* z) const {
    V d[S][J];
    FBP_UNROLL for (int e = 0; e < J; e++) {
      const V w = param(last.weight + (j + e) * last.ld);
      V weight{}, bias{};
      FBP_UNROLL for (int s = 0; s < S; s++) {
        const V a = load(first.a + ((j + e) * S + s) * lanes<T>);
        weight += a * z[s];
        d[s][e] = Activation::template backward<V>(z[s] * w, a, a);
        bias += d[s][e];
      }
      gives(last.weight + (j + e) * last.ld, weight);
      if (first.bias >= 0) gives(first.bias + j + e, bias);
    }
    idx i = 0;
    for (; i + 2 <= first.in; i += 2) inputs<J, 2>(i, j, d);
    if (i < first.in) inputs<J, 1>(i, j, d);
  }
  template <int J, int I> FBP_INLINE_MEMBER void inputs(idx i, idx j, const V (&d)[S][J]) const {
    V g[I][J];
    FBP_UNROLL for (int k = 0; k < I; k++)
      FBP_UNROLL for (int e = 0; e < J; e++) g[k][e] = V{};
    FBP_UNROLL for (int s = 0; s < S; s++)
      FBP_UNROLL for (int k = 0; k < I; k++) {
        const V in = input(s, i + k);
        FBP_UNROLL for (int e = 0; e < J; e++) g[k][e] += in * d[s][e];
      }
    FBP_UNROLL for (int k = 0; k < I; k++)
      FBP_UNROLL for (int e = 0; e < J; e++) gives(first.weight + (i + k) * first.ld + j + e, g[k][e]);
  }
};

template <class T, class Activation, class Rule, bool own> static void many_hidden(const ManyRun<T>& run, double* losses) {
  typedef Vec<T> V;
  enum { S = MANY_BLOCK };
  // two units at a time where the inputs that they share are vectors, too
  constexpr int J = MANY_REGISTERS == 32 && own ? 2 : 1;
  const idx width = own ? lanes<T> : 1, share_width = run.own_share ? lanes<T> : 1;
  const ManyLayer<T>&first = run.layers[0], &last = run.layers[1];
  const bool mse = run.loss_row == many_loss_mse && !run.weight && !run.masked;
  ManyLoss<T> loss{S, 1, 1, own, run.own_share, last.a, nullptr, run.ldt, run.y_is_label, nullptr, run.setting, run.weight, last.delta};
  for (idx step = 0; step < run.steps; step++, losses += lanes<T>) {
    if (!mse)
      for (int i = 0; i < lanes<T>; i++) losses[i] = 0;
    V scalar[Rule::scalars];
    many_scalars(run, step, Rule::scalars, scalar);
    for (idx at = 0, rows = run.rows[step]; at < rows; at += S) {
      const idx row = step * run.step_rows + at;
      const T *t = run.t + row * run.ldt * width, *share = run.share + row * share_width;
      ManyPut<T> put = many_put_of(run, step, at, true);
      put.updates = at + S >= rows;
      const ManyHidden<T, Activation, Rule, own> net{first, last, put, scalar, run.x + row * first.in * width};
      V z[S];
      FBP_UNROLL for (int s = 0; s < S; s++) z[s] = V{};
      if (last.bias >= 0)
        FBP_UNROLL for (int s = 0; s < S; s++) z[s] = net.param(last.bias);
      idx j = 0;
      for (; j + J <= first.out; j += J) net.template forward<J>(j, z);
      if (J > 1 && j < first.out) net.template forward<1>(j, z);
      if (mse) {
        // all rows of a lane's batch have the share of the first one here, or 0 after the batch's end
        const V of_row = run.own_share ? many_input<T, true>(share, 0) : many_input<T, false>(share, 0);
        V total{};
        FBP_UNROLL for (int s = 0; s < S; s++) z[s] -= many_input<T, own>(t, s);
        if (run.own_share || rows - at < S)
          FBP_UNROLL for (int s = 0; s < S; s++)
            z[s] = WHERE((run.own_share ? many_input<T, true>(share, s) : many_input<T, false>(share, s)) != V{}, z[s], V{});
        FBP_UNROLL for (int s = 0; s < S; s++) {
          total += z[s] * z[s];
          z[s] *= of_row + of_row;
        }
        many_sum_up(losses, apart(total * of_row), at > 0);
      } else {
        FBP_UNROLL for (int s = 0; s < S; s++) store(last.a + s * lanes<T>, z[s]);
        loss.t = t;
        loss.share = share;
        run.loss(loss, losses);
        FBP_UNROLL for (int s = 0; s < S; s++) z[s] = load(last.delta + s * lanes<T>);
      }
      for (j = 0; j + J <= first.out; j += J) net.template backward<J>(j, z);
      if (J > 1 && j < first.out) net.template backward<1>(j, z);
      if (last.bias < 0) continue;
      V bias{};
      FBP_UNROLL for (int s = 0; s < S; s++) bias += z[s];
      net.gives(last.bias, bias);
    }
  }
}
