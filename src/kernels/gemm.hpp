// The matrix products: one register tile, and the loop that cuts a matrix into tiles.
//
// Operands are read where they lie: B by whole vectors along its rows, A one element at a time (down a column when
// TA). Padding makes packing unnecessary. Every element of C is one sum over k in ascending order, whatever the tile:
// the same bits in every tile form and at every edge of an ISA.

enum Init { ZERO, BIAS, ADD };   // where a tile's sums start: at 0, at the bias row, at what C holds

// FBP_TILE_ROWS x FBP_TILE_VECTORS is the tile that fills the ISA's registers without a spill.
template <class T> constexpr int panel_width = FBP_TILE_VECTORS * lanes<T>;

// C (MR x NV vectors) = init + A @ B over k
template <class T, int MR, int NV, bool TA>
FBP_NOINLINE void tile(idx k, const T* a, idx lda, const T* b, idx ldb, T* c, idx ldc, const T* bias, Init init) {
  typedef Vec<T> V;
  V acc[MR][NV];
  if (init == ADD) {
    FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
      acc[i][j] = load(c + i * ldc + j * lanes<T>);
  } else if (init == BIAS) {
    FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
      acc[i][j] = load(bias + j * lanes<T>);
  } else {
    FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = V{};
  }
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
    store(c + i * ldc + j * lanes<T>, acc[i][j]);
}

template <class T> using Tile = void (*)(idx, const T*, idx, const T*, idx, T*, idx, const T*, Init);

// tiles_of<T, NV, TA>::table[r - 1] is the tile of r rows.
template <class T, int NV, bool TA, class Rows = typename MakeIndices<FBP_TILE_ROWS>::type> struct tiles_of;
template <class T, int NV, bool TA, int... r> struct tiles_of<T, NV, TA, Indices<r...>> {
  static Tile<T> at(int rows) {
    static constexpr Tile<T> table[] = {tile<T, r + 1, NV, TA>...};
    return table[rows - 1];
  }
};
template <class T, bool TA> static Tile<T> tile_for(int vectors, int rows) {
  static_assert(FBP_TILE_VECTORS == 2, "a case for each number of vectors");
  return vectors == 2 ? tiles_of<T, 2, TA>::at(rows) : tiles_of<T, 1, TA>::at(rows);
}

// A (TA: stored k x m), B (k x n), and the row of bias that BIAS starts from.
template <class T> struct Operands {
  idx k;
  const T* a; idx lda;
  const T* b; idx ldb;
  const T* bias;
};

// C[m0:m1, n0:n1] = init + A @ B, tile by tile. The epilogue says where a tile goes (`at`, with leading dimension
// `ld`) and takes it over while it is hot (`done`). n0 is a multiple of the panel's width. Rows are cut in balanced
// tiles: 32 rows are 8+8+8+8, 33 are 7+7+7+6+6.
template <class T, bool TA, class Epilogue>
static void gemm(const Operands<T>& op, idx m0, idx m1, idx n0, idx n1, Init init, bool rows_outside,
                 const Epilogue& epilogue) {
  if (m1 <= m0 || n1 <= n0) return;
  const idx tiles = (m1 - m0 + FBP_TILE_ROWS - 1) / FBP_TILE_ROWS;
  const idx least = (m1 - m0) / tiles, taller = (m1 - m0) % tiles;   // the first `taller` tiles have one row more
  const idx panels = (n1 - n0 + panel_width<T> - 1) / panel_width<T>;
  for (idx step = 0; step < tiles * panels; step++) {
    const idx t = rows_outside ? step / panels : step % tiles;
    const idx panel = rows_outside ? step % panels : step / tiles;
    const idx m = m0 + t * least + (t < taller ? t : taller);
    const int rows = (int)least + (t < taller);
    const idx n = n0 + panel * panel_width<T>;
    const idx cols = n1 - n < panel_width<T> ? n1 - n : panel_width<T>;
    const int vectors = (int)((cols + lanes<T> - 1) / lanes<T>);
    tile_for<T, TA>(vectors, rows)(op.k, TA ? op.a + m : op.a + m * op.lda, op.lda, op.b + n, op.ldb,
                                   epilogue.at(m, n), epilogue.ld, op.bias + n, init);
    epilogue.done(m, n, rows, cols);
  }
}
