// The matrix products: one register tile, and the loop that cuts a matrix into tiles.
//
// Operands are read where they lie: B by whole vectors along its rows, A one element at a time (down a column when
// TA). Padding makes packing unnecessary. Every element of C is one sum over k in ascending order, whatever the tile:
// the same bits in every tile form and at every edge of an ISA.

// FBP_TILE_ROWS x FBP_TILE_VECTORS is the tile that fills the ISA's registers without a spill.
template <class T> constexpr int panel_width = FBP_TILE_VECTORS * lanes<T>;

// A (TA: stored k x m) and B (k x n).
template <class T> struct Operands {
  idx k;
  const T* a; idx lda;
  const T* b; idx ldb;
};

// MR x NV vectors of C = A @ B at row m, column n. The epilogue says what the sum at (m + i, n + j) starts from and
// where it goes.
template <class T, int MR, int NV, bool TA, class Epilogue>
FBP_NOINLINE void tile(idx k, const T* a, idx lda, const T* b, idx ldb, idx m, idx n, const Epilogue* shared) {
  typedef Vec<T> V;
  const Epilogue epilogue = *shared;   // in registers: stores to C cannot change it
  V acc[MR][NV];
  FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
    acc[i][j] = epilogue.start(m, n, i, j * lanes<T>);
  if (TA) {
    FBP_UNROLL_4 for (idx p = 0; p < k; p++, a += lda, b += ldb) {
      V row[NV];
      FBP_UNROLL for (int j = 0; j < NV; j++) row[j] = load(b + j * lanes<T>);
      FBP_UNROLL for (int i = 0; i < MR; i++) {
        V x = splat<V>(a[i]);
        FBP_UNROLL for (int j = 0; j < NV; j++) acc[i][j] += x * row[j];
      }
    }
  } else {
    // A pointer for each three rows, hidden from the optimiser: eight row addresses would spill in the loop.
    constexpr int groups = (MR + 2) / 3;
    const T* row_of[groups];
    FBP_UNROLL for (int g = 0; g < groups; g++) {
      row_of[g] = a + 3 * g * lda;
      asm("" : "+r"(row_of[g]));
    }
    FBP_UNROLL_4 for (idx p = 0; p < k; p++, b += ldb) {
      V row[NV];
      FBP_UNROLL for (int j = 0; j < NV; j++) row[j] = load(b + j * lanes<T>);
      FBP_UNROLL for (int i = 0; i < MR; i++) {
        V x = splat<V>(row_of[i / 3][(i % 3) * lda]);
        FBP_UNROLL for (int j = 0; j < NV; j++) acc[i][j] += x * row[j];
      }
      FBP_UNROLL for (int g = 0; g < groups; g++) row_of[g]++;
    }
  }
  FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
    epilogue.finish(m, n, i, j * lanes<T>, acc[i][j]);
}

template <class T, class Epilogue> using Tile = void (*)(idx, const T*, idx, const T*, idx, idx, idx, const Epilogue*);

// tiles_of<T, NV, TA, Epilogue>::at(r) is the tile of r rows.
template <class T, int NV, bool TA, class Epilogue, class Rows = typename MakeIndices<FBP_TILE_ROWS>::type>
struct tiles_of;
template <class T, int NV, bool TA, class Epilogue, int... r> struct tiles_of<T, NV, TA, Epilogue, Indices<r...>> {
  static Tile<T, Epilogue> at(int rows) {
    static constexpr Tile<T, Epilogue> table[] = {tile<T, r + 1, NV, TA, Epilogue>...};
    return table[rows - 1];
  }
};
template <class T, bool TA, class Epilogue> static Tile<T, Epilogue> tile_for(int vectors, int rows) {
  static_assert(FBP_TILE_VECTORS == 2, "a case for each number of vectors");
  return vectors == 2 ? tiles_of<T, 2, TA, Epilogue>::at(rows) : tiles_of<T, 1, TA, Epilogue>::at(rows);
}

// C[m0:m1, n0:n1] = A @ B, tile by tile; the epilogue's `done` takes each tile over while it is hot. n0 is a multiple
// of the panel's width. Rows are cut in balanced tiles: 33 rows are 7+7+7+6+6.
template <class T, bool TA, class Epilogue>
static void gemm(const Operands<T>& op, idx m0, idx m1, idx n0, idx n1, bool rows_outside, const Epilogue& epilogue) {
  if (m1 <= m0 || n1 <= n0) return;
  const idx tiles = (m1 - m0 + FBP_TILE_ROWS - 1) / FBP_TILE_ROWS;
  const idx least = (m1 - m0) / tiles, taller = (m1 - m0) % tiles;   // the first `taller` tiles have one row more
  const auto one = [&](idx m, int rows, idx n) {
    const idx cols = n1 - n < panel_width<T> ? n1 - n : panel_width<T>;
    tile_for<T, TA, Epilogue>(cols > lanes<T> ? 2 : 1, rows)(op.k, TA ? op.a + m : op.a + m * op.lda, op.lda, op.b + n,
                                                             op.ldb, m, n, &epilogue);
    epilogue.done(m, n, rows, cols);
  };
  const auto tile_rows = [&](idx t) { return (int)least + (t < taller); };
  if (rows_outside) {
    for (idx t = 0, m = m0; t < tiles; m += tile_rows(t), t++)
      for (idx n = n0; n < n1; n += panel_width<T>) one(m, tile_rows(t), n);
  } else {
    for (idx n = n0; n < n1; n += panel_width<T>)
      for (idx t = 0, m = m0; t < tiles; m += tile_rows(t), t++) one(m, tile_rows(t), n);
  }
}
