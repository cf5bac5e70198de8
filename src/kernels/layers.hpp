// The three products of a dense layer, fused with what follows while a tile is hot: bias and activation forward, the
// activation's derivative backward, the optimizer's rule on the gradient.

// Batches above this many rows go through the weights in blocks, so that a block of x stays in the L2 cache.
enum { ROW_BLOCK = 256 };
// From this many rows on, a panel of delta is kept hot and the weight's rows pass by it; below, the other way round.
enum { LONG_BATCH = 256 };

template <class T> struct ActivationForward {
  const Forward<T>& f;
  idx ld;
  FBP_INLINE_MEMBER T* at(idx m, idx n) const { return f.z + m * ld + n; }
  FBP_INLINE_MEMBER void done(idx m, idx n, idx rows, idx cols) const {
    if (f.activation) f.activation(f.z + m * ld + n, f.a + m * ld + n, ld, rows, cols);
  }
};
template <class T> static void forward(const Forward<T>& f, idx n0, idx n1) {
  const Operands<T> op{f.in, f.x, f.ldx, f.weight, f.ld, f.bias};
  for (idx m = 0; m < f.rows; m += ROW_BLOCK) {
    const idx end = m + ROW_BLOCK < f.rows ? m + ROW_BLOCK : f.rows;
    gemm<T, false>(op, m, end, n0, n1, f.bias ? BIAS : ZERO, false, ActivationForward<T>{f, f.ld});
  }
}

template <class T> struct ActivationBackward {
  const GradInput<T>& g;
  idx i0;   // column of grad_input where the panel begins
  idx ld;
  FBP_INLINE_MEMBER T* at(idx m, idx n) const { return g.grad_input + m * ld + i0 + n; }
  FBP_INLINE_MEMBER void done(idx m, idx n, idx rows, idx cols) const {
    const idx at = m * ld + i0 + n;
    if (g.activation) g.activation(g.grad_input + at, g.a + at, g.z ? g.z + at : nullptr, ld, rows, cols);
  }
};
// Rows i0..i0+cols of weight, transposed: panel[k * panel_width + i - i0]; columns past the last row are zero.
template <class T> static void transpose_panel(const GradInput<T>& g, idx i0, idx cols) {
  for (idx i = 0; i < cols; i += lanes<T>)
    for (idx k = 0; k < g.out; k += lanes<T>) {
      Vec<T> block[lanes<T>];
      const T* w = g.weight + (i0 + i) * g.ld + k;
      if (i0 + i + lanes<T> <= g.in) {
        FBP_UNROLL for (int r = 0; r < lanes<T>; r++) block[r] = load(w + r * g.ld);
      } else {
        for (int r = 0; r < lanes<T>; r++) block[r] = i0 + i + r < g.in ? load(w + r * g.ld) : Vec<T>{};
      }
      transpose<T>(block);
      T* to = g.panel + k * panel_width<T> + i;
      if (k + lanes<T> <= g.out) {
        FBP_UNROLL for (int r = 0; r < lanes<T>; r++) store(to + r * panel_width<T>, block[r]);
      } else {
        for (int r = 0; r < g.out - k; r++) store(to + r * panel_width<T>, block[r]);
      }
    }
}
template <class T> static void grad_input(const GradInput<T>& g, idx i0, idx i1) {
  for (idx i = i0; i < i1; i += panel_width<T>) {
    const idx cols = i1 - i < panel_width<T> ? i1 - i : panel_width<T>;
    transpose_panel(g, i, cols);
    const Operands<T> op{g.out, g.delta, g.ld, g.panel, panel_width<T>, nullptr};
    gemm<T, false>(op, 0, g.rows, 0, cols, ZERO, false, ActivationBackward<T>{g, i, g.ldg});
  }
}

template <class T> struct StoreGradient {
  T* grad;
  idx ld;
  FBP_INLINE_MEMBER T* at(idx m, idx n) const { return grad + m * ld + n; }
  FBP_INLINE_MEMBER void done(idx, idx, idx, idx) const {}
};
// The gradient's tile stays in the L1 cache; the optimizer's rule reads it from there.
template <class T> struct UpdateWeight {
  const GradWeight<T>& g;
  T* scratch;
  idx ld;
  FBP_INLINE_MEMBER T* at(idx, idx) const { return scratch; }
  FBP_INLINE_MEMBER void done(idx m, idx n, idx rows, idx cols) const { apply(g, m * g.ld + n, scratch, ld, rows, cols); }
  static void apply(const GradWeight<T>& g, idx at, const T* grad, idx ldg, idx rows, idx cols) {
    T* slots[MAX_SLOTS];
    for (int s = 0; s < MAX_SLOTS; s++) slots[s] = g.slots[s] ? g.slots[s] + at : nullptr;
    g.update(g.weight + at, slots, g.ld, grad, ldg, rows, cols, g.scalars);
  }
};
template <class T> static void grad_weight(const GradWeight<T>& g, idx i0, idx i1) {
  const Operands<T> op{g.rows, g.x, g.ldx, g.delta, g.ld, nullptr};
  const bool rows_outside = g.rows < LONG_BATCH;
  if (g.update) {
    alignas(64) T scratch[FBP_TILE_ROWS * panel_width<T>];
    gemm<T, true>(op, i0, i1, 0, g.out, ZERO, rows_outside, UpdateWeight<T>{g, scratch, panel_width<T>});
  } else {
    gemm<T, true>(op, i0, i1, 0, g.out, g.accumulate ? ADD : ZERO, rows_outside, StoreGradient<T>{g.grad, g.ld});
  }
}
template <class T> static void grad_bias(const GradWeight<T>& g) {
  for (idx n = 0; n < g.out; n += lanes<T>) {
    Vec<T> sum = g.update || !g.accumulate ? Vec<T>{} : load(g.grad + n);
    for (idx m = 0; m < g.rows; m++) sum += load(g.delta + m * g.ld + n);
    if (g.update) {
      alignas(64) T scratch[lanes<T>];
      store(scratch, sum);
      UpdateWeight<T>::apply(g, n, scratch, lanes<T>, 1, g.out - n < lanes<T> ? g.out - n : lanes<T>);
    } else {
      store(g.grad + n, sum);
    }
  }
}
