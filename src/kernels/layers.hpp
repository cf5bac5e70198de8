// The three products of a dense layer, fused with what follows while a tile is hot: bias and activation forward, the
// activation's derivative backward, the optimizer's rule on the gradient.
//
// A row that is cheap next to the tile runs in the tile's registers (`inlined`); any other is called on the finished
// tile, which is in the L1 cache then.
template <class Row> constexpr bool inlined = false;
template <> constexpr bool inlined<activation_identity> = true;
template <> constexpr bool inlined<activation_relu> = true;
template <> constexpr bool inlined<optimizer_sgd> = true;
template <> constexpr bool inlined<optimizer_sgd_decay> = true;
template <> constexpr bool inlined<optimizer_sgd_clipped> = true;
template <> constexpr bool inlined<optimizer_sgd_momentum> = true;
template <> constexpr bool inlined<optimizer_sgd_velocity> = true;
template <> constexpr bool inlined<optimizer_sgd_velocity_nesterov> = true;
template <> constexpr bool inlined<optimizer_adam> = true;
// Of these, rows whose root and division would keep the multipliers waiting: they are made between the sums of the next
// tile. That takes 32 registers; with 16 the sums would spill.
template <class Row> constexpr bool inlined_late = false;
template <> constexpr bool inlined_late<optimizer_adam> = FBP_VECTOR_BYTES == 64;
// Backwards also these: two or three operations on `a`, where a call takes as long as a small tile.
template <class Row> constexpr bool inlined_backward = inlined<Row>;
template <> constexpr bool inlined_backward<activation_tanh> = true;
template <> constexpr bool inlined_backward<activation_sigmoid> = true;
struct ByCall;   // stands for every row that is not inlined, so that they share their tiles
template <class Row, bool yes = inlined<Row>> struct epilogue_row { typedef Row type; };
template <class Row> struct epilogue_row<Row, false> { typedef ByCall type; };

// Batches above this many rows go through the weights in blocks, so that a block of x stays in the L2 cache.
enum { ROW_BLOCK = 256 };
// From this many rows on, a panel of delta is kept hot and a block of x's columns, small enough for the L2 cache,
// passes by it; below, the other way round.
enum { LONG_BATCH = 256, INPUT_BLOCK = 128 };

// ------------------------------------------------------------------ epilogues: where a tile's sums go

template <class T, class Row> struct ForwardEpilogue {
  T* a; idx ld;
  const T* bias;
  FBP_INLINE_MEMBER Vec<T> start(idx, idx n, int, int j) const { return bias ? load(bias + n + j) : Vec<T>{}; }
  FBP_INLINE_MEMBER void finish(idx m, idx n, int i, int j, Vec<T> z) const {
    store(a + (m + i) * ld + n + j, Row::template forward<Vec<T>>(z));
  }
  FBP_INLINE_MEMBER void done(idx, idx, idx, idx) const {}
};
template <class T> struct ForwardEpilogue<T, ByCall> {
  const Forward<T>& f;
  FBP_INLINE_MEMBER Vec<T> start(idx, idx n, int, int j) const { return f.bias ? load(f.bias + n + j) : Vec<T>{}; }
  FBP_INLINE_MEMBER void finish(idx m, idx n, int i, int j, Vec<T> z) const { store(f.z + (m + i) * f.ld + n + j, z); }
  FBP_INLINE_MEMBER void done(idx m, idx n, idx rows, idx cols) const {
    f.activation(f.z + m * f.ld + n, f.a + m * f.ld + n, f.ld, rows, cols);
  }
};

template <class T, class Row> struct BackwardEpilogue {
  T* delta; const T* a; idx ld;
  FBP_INLINE_MEMBER Vec<T> start(idx, idx, int, int) const { return Vec<T>{}; }
  FBP_INLINE_MEMBER void finish(idx m, idx n, int i, int j, Vec<T> g) const {
    const idx at = (m + i) * ld + n + j;
    store(delta + at, Row::template backward<Vec<T>>(g, load(a + at), Vec<T>{}));
  }
  FBP_INLINE_MEMBER void done(idx, idx, idx, idx) const {}
};
template <class T> struct BackwardEpilogue<T, activation_identity> {   // there may be no `a` below
  T* delta; const T* a; idx ld;
  FBP_INLINE_MEMBER Vec<T> start(idx, idx, int, int) const { return Vec<T>{}; }
  FBP_INLINE_MEMBER void finish(idx m, idx n, int i, int j, Vec<T> g) const { store(delta + (m + i) * ld + n + j, g); }
  FBP_INLINE_MEMBER void done(idx, idx, idx, idx) const {}
};
template <class T> struct BackwardEpilogue<T, ByCall> {
  const GradInput<T>& g;
  idx i0;   // the input that column 0 stands for
  FBP_INLINE_MEMBER Vec<T> start(idx, idx, int, int) const { return Vec<T>{}; }
  FBP_INLINE_MEMBER void finish(idx m, idx n, int i, int j, Vec<T> v) const {
    store(g.grad_input + (m + i) * g.ldg + i0 + n + j, v);
  }
  FBP_INLINE_MEMBER void done(idx m, idx n, idx rows, idx cols) const {
    const idx at = m * g.ldg + i0 + n;
    g.activation(g.grad_input + at, g.a + at, g.z ? g.z + at : nullptr, g.ldg, rows, cols);
  }
};
template <class T, class Row> static auto backward_epilogue(const GradInput<T>& g, idx i0) {
  if constexpr (inlined_backward<Row>)
    return BackwardEpilogue<T, Row>{g.grad_input + i0, g.a ? g.a + i0 : nullptr, g.ldg};
  else return BackwardEpilogue<T, ByCall>{g, i0};
}

// A gradient's tile is stored, ...
template <class T> struct StoreGradient {
  T* grad; idx ld;
  bool accumulate;
  FBP_INLINE_MEMBER Vec<T> start(idx m, idx n, int i, int j) const {
    return accumulate ? load(grad + (m + i) * ld + n + j) : Vec<T>{};
  }
  FBP_INLINE_MEMBER void finish(idx m, idx n, int i, int j, Vec<T> g) const { store(grad + (m + i) * ld + n + j, g); }
  FBP_INLINE_MEMBER void done(idx, idx, idx, idx) const {}
};
// ... or goes from registers into the weight and its slots, ...
template <class T, class Row> struct UpdateEpilogue {
  T* weight; idx ld;
  T* slots[Row::states + 1];
  Vec<T> scalar[Row::scalars];
  FBP_INLINE_MEMBER void fetch(idx m, idx n, int vectors) const {
    FBP_UNROLL for (int j = 0; j < vectors; j++) {
      const idx at = m * ld + n + j * lanes<T>;
      __builtin_prefetch(weight + at, 1);
      FBP_UNROLL for (int s = 0; s < Row::states; s++) __builtin_prefetch(slots[s] + at, 1);
    }
  }
  FBP_INLINE_MEMBER Vec<T> start(idx, idx, int, int) const { return Vec<T>{}; }
  FBP_INLINE_MEMBER void finish(idx m, idx n, int i, int j, Vec<T> g) const {
    update_vector<Row>(weight, slots, (m + i) * ld + n + j, g, scalar);
  }
  FBP_INLINE_MEMBER void done(idx, idx, idx, idx) const {}
};
// ... or is kept in the L1 cache, and goes there row by row between the sums of the next tile, ...
template <class T> struct KeptTile {
  alignas(64) T sums[most_rows<1> * panel_width<T>];
  idx at = 0, vectors = 0;   // where its first row is in the weight; what a row is wide
  idx row = 0, rows = 0;     // the next one, and all
};
template <class T, class Row> struct LateUpdateEpilogue : UpdateEpilogue<T, Row> {
  KeptTile<T>* kept;
  FBP_INLINE_MEMBER void fetch(idx m, idx n, int vectors) const {
    UpdateEpilogue<T, Row>::fetch(m, n, vectors);
    if (kept->row < kept->rows) update_row();
  }
  FBP_INLINE_MEMBER void finish(idx, idx, int i, int j, Vec<T> g) const { store(kept->sums + i * panel_width<T> + j, g); }
  FBP_INLINE_MEMBER void done(idx m, idx n, idx rows, idx cols) const {
    kept->at = m * this->ld + n;
    kept->vectors = cols > lanes<T> ? 2 : 1;
    kept->row = 0;
    kept->rows = rows;
  }
  FBP_INLINE_MEMBER void update_row() const {
    const T* const sums = kept->sums + kept->row * panel_width<T>;
    const idx at = kept->at + kept->row++ * this->ld;
    update_vector<Row>(this->weight, this->slots, at, load(sums), this->scalar);
    if (kept->vectors == 2)
      update_vector<Row>(this->weight, this->slots, at + lanes<T>, load(sums + lanes<T>), this->scalar);
  }
  __attribute__((noinline)) void finish_kept() const { while (kept->row < kept->rows) update_row(); }
};
// The optimizer's row function on parameters `at` elements into the buffer, and on their slots; with what is around it,
// for which the gradient is changed in place.
template <class T> static void call_update(const GradWeight<T>& g, idx at, T* grad, idx ldg, idx rows, idx cols) {
  T* slots[MAX_SLOTS];
  for (int s = 0; s < MAX_SLOTS; s++) slots[s] = g.slots[s] ? g.slots[s] + at : nullptr;
  if (g.around.on) shape_gradient(g.around, grad, ldg, g.weight + at, g.ldw, rows, cols);
  g.update(g.weight + at, slots, g.ldw, grad, ldg, rows, cols, g.scalars);
  if (g.around.average) average_params(g.around, g.around.average + at, g.weight + at, g.ldw, rows, cols);
}
// ... or through the L1 cache into the optimizer's row function. In no update does the gradient go to memory.
template <class T> struct UpdateEpilogue<T, ByCall> {
  const GradWeight<T>& g;
  T* scratch;   // a tile
  FBP_INLINE_MEMBER void fetch(idx m, idx n, int vectors) const {
    FBP_UNROLL for (int j = 0; j < vectors; j++) {
      const idx at = m * g.ldw + n + j * lanes<T>;
      __builtin_prefetch(g.weight + at, 1);
      for (T* slot : g.slots) {   // the first ones are there
        if (!slot) break;
        __builtin_prefetch(slot + at, 1);
      }
    }
  }
  FBP_INLINE_MEMBER Vec<T> start(idx, idx, int, int) const { return Vec<T>{}; }
  FBP_INLINE_MEMBER void finish(idx, idx, int i, int j, Vec<T> v) const { store(scratch + i * panel_width<T> + j, v); }
  FBP_INLINE_MEMBER void done(idx m, idx n, idx rows, idx cols) const {
    call_update(g, m * g.ldw + n, scratch, panel_width<T>, rows, cols);
  }
};
template <class T, class Row> constexpr bool fetches<UpdateEpilogue<T, Row>> = true;
template <class T, class Row> constexpr bool fetches<LateUpdateEpilogue<T, Row>> = true;
template <class T, class Row> constexpr bool keeps<LateUpdateEpilogue<T, Row>> = true;
template <class T, class Row, class Product> static void with_update_epilogue(const GradWeight<T>& g, Product product) {
  if constexpr (inlined<Row>) {
    UpdateEpilogue<T, Row> epilogue{g.weight, g.ldw, {}, {}};
    FBP_UNROLL for (int s = 0; s < Row::states; s++) epilogue.slots[s] = g.slots[s];
    FBP_UNROLL for (int s = 0; s < Row::scalars; s++) epilogue.scalar[s] = splat<Vec<T>>(g.scalars[s]);
    if constexpr (inlined_late<Row>) {
      KeptTile<T> kept;
      const LateUpdateEpilogue<T, Row> late{epilogue, &kept};
      product(late);
      late.finish_kept();
    } else {
      product(epilogue);
    }
  } else {
    alignas(64) T scratch[most_rows<1> * panel_width<T>];
    product(UpdateEpilogue<T, ByCall>{g, scratch});
  }
}

// From a gradient in memory, (rows, ldw), which stays as it is.
template <class T> static void update(const GradWeight<T>& g, idx rows, idx cols) {
  if (!g.around.on) return call_update(g, 0, g.grad, g.ldw, rows, cols);
  constexpr idx most = 16 * lanes<T>;
  alignas(64) T scratch[most];
  for (idx m = 0; m < rows; m++)
    for (idx n = 0; n < cols; n += most) {
      const idx at = m * g.ldw + n, some = cols - n < most ? cols - n : most;
      for (idx j = 0; j < some; j += lanes<T>) store(scratch + j, load(g.grad + at + j));
      call_update(g, at, scratch, most, 1, some);
    }
}

// ------------------------------------------------------------------ DIRECT

template <class T, class Row> static void forward(const Forward<T>& f, idx n0, idx n1) {
  const auto product = [&](const auto& epilogue) {
    const Operands<T> op{f.in, f.x, f.ldx, f.weight, f.ldw};
    for (idx m = 0; m < f.rows; m += ROW_BLOCK)
      gemm<T, false>(op, m, m + ROW_BLOCK < f.rows ? m + ROW_BLOCK : f.rows, n0, n1, false, epilogue);
  };
  if constexpr (inlined<Row>) product(ForwardEpilogue<T, Row>{f.a, f.ld, f.bias});
  else product(ForwardEpilogue<T, ByCall>{f});
}

// Rows i0..i0+cols of weight, transposed: panel[k * panel_width + i - i0]; columns past the last row are zero.
template <class T> static void transpose_panel(const GradInput<T>& g, idx i0, idx cols) {
  for (idx i = 0; i < cols; i += lanes<T>)
    for (idx k = 0; k < g.out; k += lanes<T>) {
      Vec<T> block[lanes<T>];
      const T* w = g.weight + (i0 + i) * g.ldw + k;
      if (i0 + i + lanes<T> <= g.in) {
        FBP_UNROLL for (int r = 0; r < lanes<T>; r++) block[r] = load(w + r * g.ldw);
      } else {
        for (int r = 0; r < lanes<T>; r++) block[r] = i0 + i + r < g.in ? load(w + r * g.ldw) : Vec<T>{};
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
template <class T, class Row> static void grad_input(const GradInput<T>& g, idx i0, idx i1) {
  for (idx i = i0; i < i1; i += panel_width<T>) {
    const idx cols = i1 - i < panel_width<T> ? i1 - i : panel_width<T>;
    transpose_panel(g, i, cols);
    const Operands<T> op{g.out, g.delta, g.ldd, g.panel, panel_width<T>};
    gemm<T, false>(op, 0, g.rows, 0, cols, false, backward_epilogue<T, Row>(g, i));
  }
}

template <class T, class Epilogue>
static void weight_product(const GradWeight<T>& g, idx i0, idx i1, const Epilogue& epilogue) {
  const Operands<T> op{g.rows, g.x, g.ldx, g.delta, g.ldd};
  if (g.rows < LONG_BATCH) return gemm<T, true>(op, i0, i1, 0, g.out, true, epilogue);
  for (idx i = i0; i < i1; i += INPUT_BLOCK)
    gemm<T, true>(op, i, i + INPUT_BLOCK < i1 ? i + INPUT_BLOCK : i1, 0, g.out, false, epilogue);
}
template <class T> static void grad_weight(const GradWeight<T>& g, idx i0, idx i1) {
  weight_product(g, i0, i1, StoreGradient<T>{g.grad, g.ldw, g.accumulate});
}
template <class T, class Row> static void update_weight(const GradWeight<T>& g, idx i0, idx i1) {
  with_update_epilogue<T, Row>(g, [&](const auto& epilogue) { weight_product(g, i0, i1, epilogue); });
}

// `sum` is the gradient of the biases n..: stored, or turned into the update.
template <class T> static void finish_bias(const GradWeight<T>& g, idx n, Vec<T> sum) {
  if (!g.update) return store(g.grad + n, sum);
  alignas(64) T scratch[lanes<T>];
  store(scratch, sum);
  call_update(g, n, scratch, lanes<T>, 1, g.out - n < lanes<T> ? g.out - n : lanes<T>);
}
// Columns n.. of delta, nv vectors side by side so that no sum waits for another.
template <class T, int nv> static void sum_columns(const GradWeight<T>& g, idx n) {
  Vec<T> sum[nv];
  FBP_UNROLL for (int j = 0; j < nv; j++) sum[j] = g.accumulate ? load(g.grad + n + j * lanes<T>) : Vec<T>{};
  FBP_UNROLL_4 for (idx m = 0; m < g.rows; m++)
    FBP_UNROLL for (int j = 0; j < nv; j++) sum[j] += load(g.delta + m * g.ldd + n + j * lanes<T>);
  for (int j = 0; j < nv; j++) finish_bias(g, n + j * lanes<T>, sum[j]);
}
template <class T> static void grad_bias(const GradWeight<T>& g) {
  idx n = 0;
  for (; n + 4 * lanes<T> <= g.out; n += 4 * lanes<T>) sum_columns<T, 4>(g, n);
  for (; n < g.out; n += lanes<T>) sum_columns<T, 1>(g, n);
}

// ------------------------------------------------------------------ NARROW

// Dot products of rows of x with the few rows of weight: lanes<T> samples at a time, each summed in its own vector.
template <class T> static void narrow_forward(const Forward<T>& f, idx m0, idx m1) {
  typedef Vec<T> V;
  const idx whole = f.in / lanes<T> * lanes<T>;
  const IntVec<T> tail = columns_below<T>(whole, f.in);
  for (idx m = m0; m < m1; m += lanes<T>) {
    const int samples = f.rows - m < lanes<T> ? (int)(f.rows - m) : lanes<T>;
    const T* x = f.x + m * f.ldx;
    for (idx n = 0; n < f.out; n++) {
      const T* w = f.weight + n * f.ldw;
      V sum[lanes<T>];
      FBP_UNROLL for (int s = 0; s < lanes<T>; s++) sum[s] = V{};
      if (samples == lanes<T>) {
        for (idx k = 0; k < whole; k += lanes<T>) {
          const V row = load(w + k);
          FBP_UNROLL for (int s = 0; s < lanes<T>; s++) sum[s] += load(x + s * f.ldx + k) * row;
        }
      } else {
        for (int s = 0; s < samples; s++)
          for (idx k = 0; k < whole; k += lanes<T>) sum[s] += load(x + s * f.ldx + k) * load(w + k);
      }
      if (whole < f.in) {   // what padding holds, NaN or not, must not reach the sum
        const V row = load(w + whole);
        for (int s = 0; s < samples; s++) sum[s] += WHERE(tail, load(x + s * f.ldx + whole) * row, V{});
      }
      const V z = sum_each<T>(sum);
      store(f.z + n * f.ld + m, f.bias ? z + splat<V>(f.bias[n]) : z);
    }
  }
  if (f.activation) f.activation(f.z + m0, f.a + m0, f.ld, f.out, m1 - m0);
}
template <class T, class Row> static void narrow_grad_input(const GradInput<T>& g, idx i0, idx i1) {
  const Operands<T> op{g.out, g.delta, g.ldd, g.weight, g.ldw};
  gemm<T, true>(op, 0, g.rows, i0, i1, false, backward_epilogue<T, Row>(g, 0));
}
template <class T, class Epilogue>
static void narrow_weight_product(const GradWeight<T>& g, idx i0, idx i1, const Epilogue& epilogue) {
  const Operands<T> op{g.rows, g.delta, g.ldd, g.x, g.ldx};
  gemm<T, false>(op, 0, g.out, i0, i1, false, epilogue);
}
template <class T> static void narrow_grad_weight(const GradWeight<T>& g, idx i0, idx i1) {
  narrow_weight_product(g, i0, i1, StoreGradient<T>{g.grad, g.ldw, g.accumulate});
}
template <class T, class Row> static void narrow_update_weight(const GradWeight<T>& g, idx i0, idx i1) {
  with_update_epilogue<T, Row>(g, [&](const auto& epilogue) { narrow_weight_product(g, i0, i1, epilogue); });
}
template <class T> static void narrow_grad_bias(const GradWeight<T>& g) {
  for (idx n0 = 0; n0 < g.out; n0 += lanes<T>) {
    Vec<T> gradient = g.accumulate ? load(g.grad + n0) : Vec<T>{};
    for (int j = 0; j < lanes<T> && n0 + j < g.out; j++) {
      Vec<T> sum{};
      for (idx m = 0; m < g.rows; m += lanes<T>)
        sum += WHERE(columns_below<T>(m, g.rows), load(g.delta + (n0 + j) * g.ldd + m), Vec<T>{});
      gradient[j] += sum_lanes<T>(sum);
    }
    finish_bias(g, n0, gradient);
  }
}

// ------------------------------------------------------------------ FEW

// As many dot products at once as a vector has lanes: DOT_INPUTS rows of weight by DOT_SAMPLES rows of delta.
template <class T> constexpr int dot_inputs = lanes<T> >= 8 ? 4 : 2;
template <class T> constexpr int dot_samples = lanes<T> / dot_inputs<T>;
enum { FEW_BLOCK = 64 };   // rows of weight that stay in the L1 or L2 cache between their dot products and their update

template <class T> static void dot_products(const GradInput<T>& g, idx i0, idx i1) {
  constexpr int ni = dot_inputs<T>, nm = dot_samples<T>;
  typedef Vec<T> V;
  const idx whole = g.out / lanes<T> * lanes<T>;
  const IntVec<T> tail = columns_below<T>(whole, g.out);
  for (idx i = i0; i < i1; i += ni)
    for (idx m = 0; m < g.rows; m += nm) {
      const T *w[ni], *d[nm];   // past the last row: the last row again, and the result is left unread
      FBP_UNROLL for (int p = 0; p < ni; p++) w[p] = g.weight + (i + p < g.in ? i + p : g.in - 1) * g.ldw;
      FBP_UNROLL for (int q = 0; q < nm; q++) d[q] = g.delta + (m + q < g.rows ? m + q : g.rows - 1) * g.ldd;
      const T* next = g.weight + (i + ni + m / nm % ni < g.in ? i + ni + m / nm % ni : i) * g.ldw;
      V sum[nm * ni];
      FBP_UNROLL for (int s = 0; s < nm * ni; s++) sum[s] = V{};
      for (idx k = 0; k < whole; k += lanes<T>) {
        __builtin_prefetch(next + k);
        V row[ni];
        FBP_UNROLL for (int p = 0; p < ni; p++) row[p] = load(w[p] + k);
        FBP_UNROLL for (int q = 0; q < nm; q++) {
          const V delta = load(d[q] + k);
          FBP_UNROLL for (int p = 0; p < ni; p++) sum[q * ni + p] += delta * row[p];
        }
      }
      if (whole < g.out)   // what padding holds must not reach the sum
        FBP_UNROLL for (int q = 0; q < nm; q++) FBP_UNROLL for (int p = 0; p < ni; p++)
          sum[q * ni + p] += WHERE(tail, load(d[q] + whole) * load(w[p] + whole), V{});
      T sums[lanes<T>];
      store(sums, sum_each<T>(sum));
      for (int q = 0; q < nm && m + q < g.rows; q++)
        for (int p = 0; p < ni; p++) g.grad_input[(m + q) * g.ldg + i + p] = sums[q * ni + p];
    }
}
template <class T, class Row> static void few_backward(const GradInput<T>& g, const GradWeight<T>& w, idx i0, idx i1) {
  with_update_epilogue<T, Row>(w, [&](const auto& epilogue) {
    for (idx i = i0; i < i1; i += FEW_BLOCK) {
      const idx end = i + FEW_BLOCK < i1 ? i + FEW_BLOCK : i1;
      if (g.grad_input) {
        dot_products(g, i, end);
        if (g.activation) g.activation(g.grad_input + i, g.a + i, g.z ? g.z + i : nullptr, g.ldg, g.rows, end - i);
      }
      weight_product(w, i, end, epilogue);
    }
  });
}

// ------------------------------------------------------------------ SINGLE

// The sums over each block of inputs, side by side: so threads can share the pass over the weight by its rows, as they
// do on the way back, and no line of it travels between cores.
template <class T> static void single_forward(const Forward<T>& f, idx i0, idx i1) {
  typedef Vec<T> V;
  idx u = 0;
  while (u < f.n_used && f.used[u] < i0) u++;
  for (idx i = i0; i < i1; i += SINGLE_INPUTS) {
    T* const sum = f.partial + i / SINGLE_INPUTS * f.ld;
    const auto rows = [&](auto count) {   // sum += `count` rows of weight, in two chains
      constexpr int nr = decltype(count)::value;
      const T* w[nr];
      V x[nr];
      FBP_UNROLL for (int r = 0; r < nr; r++) {
        w[r] = f.weight + f.used[u + r] * f.ldw;
        x[r] = splat<V>(f.x[f.used[u + r]]);
      }
      for (idx n = 0; n < f.out; n += lanes<T>) {
        V even = load(sum + n), odd{};
        FBP_UNROLL for (int r = 0; r < nr; r++) (r % 2 ? odd : even) += x[r] * load(w[r] + n);
        store(sum + n, even + odd);
      }
      u += nr;
    };
    idx end = u;
    while (end < f.n_used && f.used[end] < i + SINGLE_INPUTS) end++;
    for (idx n = 0; n < f.out; n += lanes<T>) store(sum + n, V{});
    while (u + 8 <= end) rows(Count<8>{});
    if (u + 4 <= end) rows(Count<4>{});
    if (u + 2 <= end) rows(Count<2>{});
    if (u < end) rows(Count<1>{});
  }
}
template <class T> static void single_finish(const Forward<T>& f) {
  for (idx n = 0; n < f.out; n += lanes<T>) {
    Vec<T> z = f.bias ? load(f.bias + n) : Vec<T>{};
    for (idx i = 0; i < f.in; i += SINGLE_INPUTS) z += load(f.partial + i / SINGLE_INPUTS * f.ld + n);
    store(f.z + n, z);
  }
  if (f.activation) f.activation(f.z, f.a, f.ld, 1, f.out);
}

// `count` rows of weight: their dot products with delta, and their update, in one pass.
template <class T, class Row, bool with_input, int nr>
static void single_rows(const GradInput<T>& g, const GradWeight<T>& w, const int32_t* used) {
  typedef Vec<T> V;
  T* p[nr];
  constexpr bool plain = same<Row, optimizer_sgd>;   // p - (lr x) delta: the arithmetic binds here, as much as memory
  V x[nr], sum[nr], scalar[Row::scalars];
  FBP_UNROLL for (int s = 0; s < Row::scalars; s++) scalar[s] = splat<V>(w.scalars[s]);
  FBP_UNROLL for (int r = 0; r < nr; r++) {
    p[r] = w.weight + used[r] * w.ldw;
    x[r] = splat<V>(plain ? w.scalars[0] * w.x[used[r]] : w.x[used[r]]);
    sum[r] = V{};
  }
  const auto column = [&](idx n, bool masked) {
    const V delta = load(w.delta + n);
    FBP_UNROLL for (int r = 0; r < nr; r++) {
      const V old = load(p[r] + n);
      if (with_input) sum[r] += masked ? WHERE(columns_below<T>(n, w.out), old * delta, V{}) : old * delta;
      if (plain) store(p[r] + n, old - x[r] * delta);
      else update_vector<Row>(w.weight, w.slots, used[r] * w.ldw + n, x[r] * delta, scalar);
    }
  };
  idx n = 0;
  for (; n + lanes<T> <= w.out; n += lanes<T>) column(n, false);
  if (n < w.out) column(n, true);
  if (with_input) FBP_UNROLL for (int r = 0; r < nr; r++) g.grad_input[used[r]] = sum_lanes<T>(sum[r]);
}
template <class T, class Row, bool with_input>
static void single_update(const GradInput<T>& g, const GradWeight<T>& w, idx i0, idx i1) {
  if (with_input) for (idx i = i0; i < i1; i++) g.grad_input[i] = 0;   // of the inputs that are skipped
  idx u = 0;
  while (u < w.n_used && w.used[u] < i0) u++;
  for (; u + 4 <= w.n_used && w.used[u + 3] < i1; u += 4) single_rows<T, Row, with_input, 4>(g, w, w.used + u);
  for (; u < w.n_used && w.used[u] < i1; u++) single_rows<T, Row, with_input, 1>(g, w, w.used + u);
  if (with_input && g.activation) g.activation(g.grad_input + i0, g.a + i0, g.z ? g.z + i0 : nullptr, g.ldg, 1, i1 - i0);
}
template <class T, class Row> static constexpr BackwardKernel<T> single_backward() {
  if constexpr (inlined<Row>) {
    return [](const GradInput<T>& g, const GradWeight<T>& w, idx i0, idx i1) {
      g.grad_input ? single_update<T, Row, true>(g, w, i0, i1) : single_update<T, Row, false>(g, w, i0, i1);
    };
  } else {
    return few_backward<T, Row>;
  }
}
