// The three products of a dense layer with operands in bfloat16 and sums in float32, fused as in layers.hpp.
//
// Every conversion sits in an epilogue: an activation or a delta goes from the tile's registers into the two forms that
// the coming products read (`Rounded`), an updated weight into its pairs. Rows come in pairs everywhere, so tiles are of
// an even height; the row beyond an odd number of rows is 0, or is not there.
typedef __m512i Words32;

// A tile: MR x NV vectors; most rows of one NV vectors wide.
constexpr int rounded_width = FBP_TILE_VECTORS * lanes<float>;

FBP_INLINE Words32 load_pairs(const uint32_t* p) { return _mm512_loadu_si512(p); }
FBP_INLINE VF multiply_pairs(VF sum, Words32 a, Words32 b) {
  return (VF)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
// Two vectors as 32 numbers in a row; as 16 pairs of one above the other.
FBP_INLINE Words32 in_a_row(VF first, VF second) { return (Words32)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first); }
FBP_INLINE Words32 in_pairs(VF upper, VF lower) {
  alignas(64) static const uint16_t order[] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                               8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(order), in_a_row(upper, lower));
}
FBP_INLINE VF widened(const uint16_t* p) {
  return (VF)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
}
FBP_INLINE VF columns_only(VF v, idx left) { return WHERE(columns_below<float>(0, left), v, VF{}); }

// Zeros in a tile at (m, n) beyond `rows` and `cols`: at most its last row, and columns of its last vectors.
template <int MR, int NV> FBP_INLINE void cut_off(VF (&v)[MR][NV], idx m, idx n, idx rows, idx cols) {
  if (m + MR > rows) FBP_UNROLL for (int j = 0; j < NV; j++) v[MR - 1][j] = VF{};
  if (n + NV * lanes<float> > cols)
    FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
      v[i][j] = columns_only(v[i][j], cols - n - j * lanes<float>);
}
template <int MR, int NV> FBP_INLINE void put_pairs(uint32_t* pair, idx ldp, idx m, idx n, VF (&v)[MR][NV]) {
  FBP_UNROLL for (int i = 0; i < MR; i += 2) FBP_UNROLL for (int j = 0; j < NV; j++)
    _mm512_storeu_si512(pair + (m + i) / 2 * ldp + n + j * lanes<float>, in_pairs(v[i][j], v[i + 1][j]));
}
template <int MR, int NV> FBP_INLINE void put_rows(uint16_t* row, idx ldr, idx m, idx n, VF (&v)[MR][NV]) {
  FBP_UNROLL for (int i = 0; i < MR; i++) {
    uint16_t* const to = row + (m + i) * ldr + n;
    if (NV == 2) _mm512_storeu_si512(to, in_a_row(v[i][0], v[i][NV - 1]));
    else _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)v[i][0]));
  }
}
template <int MR, int NV> FBP_INLINE void put(const Rounded& to, idx m, idx n, VF (&v)[MR][NV]) {
  if (to.row) put_rows(to.row, to.ldr, m, n, v);
  put_pairs(to.pair, to.ldp, m, n, v);
}
// A tile through the L1 cache, for row functions.
struct Scratch {
  alignas(64) float v[most_rows<1> * rounded_width];
  template <int MR, int NV> FBP_INLINE_MEMBER void store_tile(VF (&from)[MR][NV]) {
    FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
      store(v + i * rounded_width + j * lanes<float>, from[i][j]);
  }
  template <int MR, int NV> FBP_INLINE_MEMBER void load_tile(VF (&to)[MR][NV]) const {
    FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
      to[i][j] = load(v + i * rounded_width + j * lanes<float>);
  }
};
FBP_INLINE void drop_tile(const Dropped& d, float* tile, idx m, idx n, idx rows, idx cols) {
  for (idx i = 0; i < rows; i++) {
    float* const row = tile + i * rounded_width;
    d.drop(row, row, cols, d.words + (m + i) * d.ld + n, d.threshold, d.scale);
  }
}
FBP_INLINE idx least(idx a, idx b) { return a < b ? a : b; }

// ------------------------------------------------------------------ the tile

// A (TA: stored k x m) and B (k x n), in pairs along k.
struct PairOperands {
  idx k;
  const uint32_t* a; idx lda;
  const uint32_t* b; idx ldb;
};

// As `tile` in gemm.hpp; the epilogue takes the whole tile over.
template <int MR, int NV, bool TA, class Epilogue>
FBP_NOINLINE void pair_tile(idx k, const uint32_t* a, idx lda, const uint32_t* b, idx ldb, idx m, idx n,
                            const Epilogue* shared) {
  const Epilogue epilogue = *shared;
  VF acc[MR][NV];
  FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
    acc[i][j] = epilogue.start(m, n, i, j * lanes<float>);
  constexpr int groups = TA ? 1 : (MR + 2) / 3;
  const uint32_t* row_of[groups];
  FBP_UNROLL for (int g = 0; g < groups; g++) {
    row_of[g] = a + 3 * g * lda;
    asm("" : "+r"(row_of[g]));
  }
  const bool spread = fetches<Epilogue> && k >= MR * FETCH_APART;
  const idx last = m + MR;
  idx p = 0, row_of_c = m;
  do {
    if constexpr (fetches<Epilogue>) do epilogue.fetch(row_of_c++, n, NV); while (!spread && row_of_c < last);
    const idx end = spread && row_of_c < last ? p + k / MR : k;
    FBP_UNROLL_4 for (; p < end; p++, b += ldb) {
      Words32 row[NV];
      FBP_UNROLL for (int j = 0; j < NV; j++) row[j] = load_pairs(b + j * lanes<float>);
      FBP_UNROLL for (int i = 0; i < MR; i++) {
        const Words32 x = _mm512_set1_epi32((int)(TA ? row_of[0][i] : row_of[i / 3][(i % 3) * lda]));
        FBP_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = multiply_pairs(acc[i][j], x, row[j]);
      }
      FBP_UNROLL for (int g = 0; g < groups; g++) row_of[g] += TA ? lda : 1;
    }
  } while (p < k);
  asm("" : "+r"(m));
  epilogue.template finish<MR, NV>(m, n, acc);
}

template <class Epilogue>
using PairTile = void (*)(idx, const uint32_t*, idx, const uint32_t*, idx, idx, idx, const Epilogue*);
template <int NV, bool TA, class Epilogue, class Rows = typename MakeIndices<most_rows<NV> / 2>::type> struct pair_tiles;
template <int NV, bool TA, class Epilogue, int... r> struct pair_tiles<NV, TA, Epilogue, Indices<r...>> {
  static PairTile<Epilogue> at(idx pairs) {
    static constexpr PairTile<Epilogue> table[] = {pair_tile<2 * r + 2, NV, TA, Epilogue>...};
    return table[pairs - 1];
  }
};

// C[m0:m1, n0:n1] = A @ B, as `gemm` does; m0 is even.
template <bool TA, class Epilogue>
static void pair_gemm(const PairOperands& op, idx m0, idx m1, idx n0, idx n1, bool rows_outside, const Epilogue& epilogue) {
  if (m1 <= m0 || n1 <= n0) return;
  const auto one = [&](PairTile<Epilogue> tile, idx m, idx n) {
    tile(op.k, TA ? op.a + m : op.a + m * op.lda, op.lda, op.b + n, op.ldb, m, n, &epilogue);
  };
  const idx pairs = (m1 - m0 + 1) / 2, wide = n1 - (n1 - n0) % rounded_width;
  const idx whole = n1 - wide > lanes<float> ? n1 : wide;
  const Cut cut(pairs, most_rows<2> / 2);
  if (rows_outside) {
    for (idx t = 0, m = m0; t < cut.tiles; m += 2 * cut.rows(t), t++)
      for (idx n = n0; n < whole; n += rounded_width) one(pair_tiles<2, TA, Epilogue>::at(cut.rows(t)), m, n);
  } else {
    for (idx n = n0; n < whole; n += rounded_width)
      for (idx t = 0, m = m0; t < cut.tiles; m += 2 * cut.rows(t), t++)
        one(pair_tiles<2, TA, Epilogue>::at(cut.rows(t)), m, n);
  }
  if (whole == n1) return;
  const Cut high(pairs, most_rows<1> / 2);
  for (idx t = 0, m = m0; t < high.tiles; m += 2 * high.rows(t), t++)
    one(pair_tiles<1, TA, Epilogue>::at(high.rows(t)), m, whole);
}

// ------------------------------------------------------------------ rounding

// Rows m0..m1 of x, (rows, cols), from m0 even on; where there is an order, those at its places.
static void round_rows(const float* x, idx ldx, const uint32_t* order, idx rows, idx cols, idx m0, idx m1, const Rounded& to) {
  const idx whole = cols / rounded_width * rounded_width;
  const auto part = [](const float* p, idx left) {   // at most a vector, and nothing past the last one
    const __mmask16 real = left >= lanes<float> ? 0xffff : (__mmask16)((1u << (left > 0 ? left : 0)) - 1);
    return (VF)_mm512_maskz_loadu_ps(real, p);
  };
  for (idx m = m0; m < m1; m += 2) {
    const bool both = m + 1 < rows;
    const float* const upper = x + (order ? order[m] : m) * ldx;
    const float* const lower = both ? x + (order ? order[m + 1] : m + 1) * ldx : upper;
    uint16_t* const row = to.row ? to.row + m * to.ldr : nullptr;
    uint32_t* const pair = to.pair + m / 2 * to.ldp;
    const auto columns = [&](idx n, VF a0, VF a1, VF b0, VF b1, bool two) {
      if (!both) b0 = b1 = VF{};
      if (row) {
        _mm512_storeu_si512(row + n, in_a_row(a0, a1));
        _mm512_storeu_si512(row + to.ldr + n, in_a_row(b0, b1));
      }
      _mm512_storeu_si512(pair + n, in_pairs(a0, b0));
      if (two) _mm512_storeu_si512(pair + n + lanes<float>, in_pairs(a1, b1));
    };
    for (idx n = 0; n < whole; n += rounded_width)
      columns(n, load(upper + n), load(upper + n + lanes<float>), load(lower + n), load(lower + n + lanes<float>), true);
    if (whole == cols) continue;
    const idx left = cols - whole, more = left - lanes<float>, next = whole + (more > 0 ? lanes<float> : 0);
    columns(whole, part(upper + whole, left), part(upper + next, more), part(lower + whole, left),
            part(lower + next, more), more > 0);
  }
}

// ------------------------------------------------------------------ forward

template <class Row> struct RoundedForwardEpilogue {
  Rounded to; const float* bias; idx rows, cols;
  FBP_INLINE_MEMBER VF start(idx, idx n, int, int j) const { return bias ? load(bias + n + j) : VF{}; }
  template <int MR, int NV> FBP_INLINE_MEMBER void finish(idx m, idx n, VF (&v)[MR][NV]) const {
    FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
      v[i][j] = Row::template forward<VF>(v[i][j]);
    cut_off(v, m, n, rows, cols);
    put(to, m, n, v);
  }
};
template <> struct RoundedForwardEpilogue<ByCall> {
  const RoundedForward* f; Scratch* scratch;
  FBP_INLINE_MEMBER VF start(idx, idx n, int, int j) const { return f->bias ? load(f->bias + n + j) : VF{}; }
  template <int MR, int NV> FBP_INLINE_MEMBER void finish(idx m, idx n, VF (&v)[MR][NV]) const {
    const idx rows = least(MR, f->rows - m), cols = least(NV * lanes<float>, f->out - n);
    if (f->z)
      for (idx i = 0; i < rows; i++)
        FBP_UNROLL for (int j = 0; j < NV; j++) store(f->z + (m + i) * f->ld + n + j * lanes<float>, v[i][j]);
    scratch->store_tile(v);
    if (f->activation) f->activation(scratch->v, scratch->v, rounded_width, rows, cols);
    if (f->dropped.words) {
      scratch->load_tile(v);
      cut_off(v, m, n, f->rows, f->out);
      put_rows(f->kept, f->to.ldr, m, n, v);
      drop_tile(f->dropped, scratch->v, m, n, rows, cols);
    }
    scratch->load_tile(v);
    cut_off(v, m, n, f->rows, f->out);
    put(f->to, m, n, v);
  }
};
// The output layer: z and a in float32, for the loss.
struct OutputEpilogue {
  const RoundedForward* f;
  FBP_INLINE_MEMBER VF start(idx, idx n, int, int j) const { return f->bias ? load(f->bias + n + j) : VF{}; }
  template <int MR, int NV> FBP_INLINE_MEMBER void finish(idx m, idx n, VF (&v)[MR][NV]) const {
    const idx rows = least(MR, f->rows - m), cols = least(NV * lanes<float>, f->out - n), at = m * f->ld + n;
    FBP_UNROLL for (int i = 0; i < MR; i++)
      if (i < rows) FBP_UNROLL for (int j = 0; j < NV; j++) store(f->z + at + i * f->ld + j * lanes<float>, v[i][j]);
    if (f->activation) f->activation(f->z + at, f->a + at, f->ld, rows, cols);
  }
};
template <class Epilogue> static void rounded_product(const RoundedForward& f, idx n0, idx n1, const Epilogue& epilogue) {
  const PairOperands op{(f.in + 1) / 2, (const uint32_t*)f.x, f.ldx / 2, f.weight, f.ldw};
  for (idx m = 0; m < f.rows; m += ROW_BLOCK)
    pair_gemm<false>(op, m, least(m + ROW_BLOCK, f.rows), n0, n1, false, epilogue);
}
template <class Row> static void rounded_forward(const RoundedForward& f, idx n0, idx n1) {
  if constexpr (same<Row, ByCall>) {
    Scratch scratch;
    rounded_product(f, n0, n1, RoundedForwardEpilogue<ByCall>{&f, &scratch});
  } else {
    rounded_product(f, n0, n1, RoundedForwardEpilogue<Row>{f.to, f.bias, f.rows, f.out});
  }
}
static void rounded_output(const RoundedForward& f, idx n0, idx n1) { rounded_product(f, n0, n1, OutputEpilogue{&f}); }

// ------------------------------------------------------------------ backward

template <class Row> struct RoundedBackwardEpilogue {
  Rounded to; const uint16_t* a; idx lda; idx i0, rows, cols;   // i0: the input that column 0 stands for
  FBP_INLINE_MEMBER VF start(idx, idx, int, int) const { return VF{}; }
  template <int MR, int NV> FBP_INLINE_MEMBER void finish(idx m, idx n, VF (&v)[MR][NV]) const {
    FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
      v[i][j] = Row::template backward<VF>(v[i][j], widened(a + (m + i) * lda + i0 + n + j * lanes<float>), VF{});
    cut_off(v, m, i0 + n, rows, cols);
    put(to, m, i0 + n, v);
  }
};
template <> struct RoundedBackwardEpilogue<ByCall> {
  const RoundedGradInput* g; idx i0; Scratch* scratch;   // three: the gradient, a, z
  FBP_INLINE_MEMBER VF start(idx, idx, int, int) const { return VF{}; }
  template <int MR, int NV> FBP_INLINE_MEMBER void finish(idx m, idx n, VF (&v)[MR][NV]) const {
    const idx at = i0 + n, rows = least(MR, g->rows - m), cols = least(NV * lanes<float>, g->in - at);
    scratch->store_tile(v);
    if (g->activation) {
      for (idx i = 0; i < rows; i++)
        FBP_UNROLL for (int j = 0; j < NV; j++) {
          const idx to = i * rounded_width + j * lanes<float>, from = at + j * lanes<float>;
          store(scratch[1].v + to, widened(g->a + (m + i) * g->lda + from));
          if (g->z) store(scratch[2].v + to, load(g->z + (m + i) * g->ldz + from));
        }
      g->activation(scratch->v, scratch[1].v, g->z ? scratch[2].v : nullptr, rounded_width, rows, cols);
    }
    if (g->dropped.words) drop_tile(g->dropped, scratch->v, m, at, rows, cols);
    scratch->load_tile(v);
    cut_off(v, m, at, g->rows, g->in);
    put(g->to, m, at, v);
  }
};

// Inputs i0.. of the weight as pairs along its outputs: panel[k * rounded_width + i - i0]; inputs past the last are 0.
static void turn_panel(const RoundedGradInput& g, idx i0, idx cols) {
  const Words32 neighbours = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  const idx pairs = (g.in + 1) / 2;
  for (idx i = 0; i < cols; i += lanes<float>)
    for (idx k = 0; k < (g.out + 1) / 2; k += 8) {
      VD block[8];
      const idx first = (i0 + i) / 2;
      const uint32_t* const w = g.weight + first * g.ldw + 2 * k;
      if (first + 8 <= pairs) {
        FBP_UNROLL for (int r = 0; r < 8; r++) block[r] = (VD)_mm512_shuffle_epi8(load_pairs(w + r * g.ldw), neighbours);
      } else {
        for (int r = 0; r < 8; r++)
          block[r] = first + r < pairs ? (VD)_mm512_shuffle_epi8(load_pairs(w + r * g.ldw), neighbours) : VD{};
      }
      transpose<double>(block);
      FBP_UNROLL for (int r = 0; r < 8; r++) store((double*)(g.panel + (k + r) * rounded_width + i), block[r]);
    }
}
template <class Row> static void rounded_grad_input(const RoundedGradInput& g, idx i0, idx i1) {
  for (idx i = i0; i < i1; i += rounded_width) {
    const idx cols = least(rounded_width, i1 - i);
    turn_panel(g, i, cols);
    const PairOperands op{(g.out + 1) / 2, (const uint32_t*)g.delta, g.ldd / 2, g.panel, rounded_width};
    if constexpr (same<Row, ByCall>) {
      Scratch scratch[3];
      pair_gemm<false>(op, 0, g.rows, 0, cols, false, RoundedBackwardEpilogue<ByCall>{&g, i, scratch});
    } else {
      pair_gemm<false>(op, 0, g.rows, 0, cols, false, RoundedBackwardEpilogue<Row>{g.to, g.a, g.lda, i, g.rows, g.in});
    }
  }
}

// ------------------------------------------------------------------ gradient of the weight, and its update

struct StoreRoundedGradient {
  float* grad; idx ld; bool accumulate; idx rows;
  FBP_INLINE_MEMBER VF start(idx m, idx n, int i, int j) const {
    return accumulate && m + i < rows ? load(grad + (m + i) * ld + n + j) : VF{};
  }
  template <int MR, int NV> FBP_INLINE_MEMBER void finish(idx m, idx n, VF (&v)[MR][NV]) const {
    FBP_UNROLL for (int i = 0; i < MR; i++)
      if (i < MR - 1 || m + i < rows)
        FBP_UNROLL for (int j = 0; j < NV; j++) store(grad + (m + i) * ld + n + j * lanes<float>, v[i][j]);
  }
};
template <class Row> struct RoundedUpdateEpilogue {
  UpdateEpilogue<float, Row> rule;
  uint32_t* pair; idx rows, cols;
  FBP_INLINE_MEMBER void fetch(idx m, idx n, int vectors) const {
    rule.fetch(m, n, vectors);
    if (m % 2 == 0)
      FBP_UNROLL for (int j = 0; j < vectors; j++) __builtin_prefetch(pair + m / 2 * rule.ld + n + j * lanes<float>, 1);
  }
  FBP_INLINE_MEMBER VF start(idx, idx, int, int) const { return VF{}; }
  template <int MR, int NV> FBP_INLINE_MEMBER void finish(idx m, idx n, VF (&v)[MR][NV]) const {
    FBP_UNROLL for (int i = 0; i < MR; i++)
      if (i < MR - 1 || m + i < rows)
        FBP_UNROLL for (int j = 0; j < NV; j++)
          v[i][j] = update_vector<Row>(rule.weight, rule.slots, (m + i) * rule.ld + n + j * lanes<float>, v[i][j],
                                       rule.scalar);
    cut_off(v, m, n, rows, cols);
    put_pairs(pair, rule.ld, m, n, v);
  }
};
template <> struct RoundedUpdateEpilogue<ByCall> {
  const GradWeight<float>* g; uint32_t* pair; Scratch* scratch;
  FBP_INLINE_MEMBER VF start(idx, idx, int, int) const { return VF{}; }
  template <int MR, int NV> FBP_INLINE_MEMBER void finish(idx m, idx n, VF (&v)[MR][NV]) const {
    const idx rows = least(MR, g->in - m), cols = least(NV * lanes<float>, g->out - n), at = m * g->ldw + n;
    scratch->store_tile(v);
    call_update(*g, at, scratch->v, rounded_width, rows, cols);
    FBP_UNROLL for (int i = 0; i < MR; i++)
      if (i < rows) FBP_UNROLL for (int j = 0; j < NV; j++) v[i][j] = load(g->weight + at + i * g->ldw + j * lanes<float>);
    cut_off(v, m, n, g->in, g->out);
    put_pairs(pair, g->ldw, m, n, v);
  }
};
template <class Row> constexpr bool fetches<RoundedUpdateEpilogue<Row>> = !same<Row, ByCall>;

template <class Epilogue>
static void rounded_weight_product(const RoundedGradWeight& r, const GradWeight<float>& g, idx i0, idx i1, const Epilogue& e) {
  const PairOperands op{(g.rows + 1) / 2, r.x, r.ldx, r.delta, r.ldd};
  pair_gemm<true>(op, i0, i1, 0, g.out, g.rows < LONG_BATCH, e);
}
static void rounded_grad_weight(const RoundedGradWeight& r, const GradWeight<float>& g, idx i0, idx i1) {
  rounded_weight_product(r, g, i0, i1, StoreRoundedGradient{g.grad, g.ldw, g.accumulate, g.in});
}
template <class Row> static void rounded_update(const RoundedGradWeight& r, const GradWeight<float>& g, idx i0, idx i1) {
  if constexpr (same<Row, ByCall>) {
    Scratch scratch;
    rounded_weight_product(r, g, i0, i1, RoundedUpdateEpilogue<ByCall>{&g, r.weight, &scratch});
  } else {
    RoundedUpdateEpilogue<Row> epilogue{{g.weight, g.ldw, {}, {}}, r.weight, g.in, g.out};
    FBP_UNROLL for (int s = 0; s < Row::states; s++) epilogue.rule.slots[s] = g.slots[s];
    FBP_UNROLL for (int s = 0; s < Row::scalars; s++) epilogue.rule.scalar[s] = splat<VF>(g.scalars[s]);
    rounded_weight_product(r, g, i0, i1, epilogue);
  }
}

template <int nv> static void sum_pair_columns(const RoundedGradWeight& r, const GradWeight<float>& g, idx n) {
  const Words32 ones = _mm512_set1_epi32(0x3f803f80);
  VF sum[2][nv];
  FBP_UNROLL for (int j = 0; j < nv; j++) {
    sum[0][j] = g.accumulate ? load(g.grad + n + j * lanes<float>) : VF{};
    sum[1][j] = VF{};
  }
  const idx pairs = (g.rows + 1) / 2;
  for (idx k = 0; k < pairs; k += 2)
    FBP_UNROLL for (int h = 0; h < 2; h++)
      if (k + h < pairs)
        FBP_UNROLL for (int j = 0; j < nv; j++)
          sum[h][j] = multiply_pairs(sum[h][j], load_pairs(r.delta + (k + h) * r.ldd + n + j * lanes<float>), ones);
  for (int j = 0; j < nv; j++) finish_bias(g, n + j * lanes<float>, sum[0][j] + sum[1][j]);
}
static void rounded_grad_bias(const RoundedGradWeight& r, const GradWeight<float>& g) {
  idx n = 0;
  for (; n + 4 * lanes<float> <= g.out; n += 4 * lanes<float>) sum_pair_columns<4>(r, g, n);
  for (; n < g.out; n += lanes<float>) sum_pair_columns<1>(r, g, n);
}

// ------------------------------------------------------------------ the table

#define FBP_ROUNDED_ACTIVATION(row)                                                               \
  {rounded_forward<typename epilogue_row<activation_##row>::type>,                                \
   rounded_grad_input<typename epilogue_row<activation_##row, inlined_backward<activation_##row>>::type>},
#define FBP_ROUNDED_OPTIMIZER(row) rounded_update<typename epilogue_row<optimizer_##row>::type>,
constexpr RoundedActivation rounded_activations[] = {FBP_ACTIVATIONS(FBP_ROUNDED_ACTIVATION)};
constexpr RoundedUpdateKernel rounded_optimizers[] = {FBP_OPTIMIZERS(FBP_ROUNDED_OPTIMIZER)};
