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

// What an epilogue reads of C is fetched while the sums are made: a row of C every so many steps of k or more, since the
// loads of A and B would wait behind all of it at once.
enum { FETCH_APART = 4 };
template <class Epilogue> constexpr bool fetches = false;
// What an epilogue has kept of the tile before is worked off there too, as evenly as k allows.
template <class Epilogue> constexpr bool keeps = false;

// MR x NV vectors of C = A @ B at row m, column n. The epilogue says what the sum at (m + i, n + j) starts from, what it
// will read in row m + i, and where the sum goes.
template <class T, int MR, int NV, bool TA, class Epilogue>
FBP_NOINLINE void tile(idx k, const T* a, idx lda, const T* b, idx ldb, idx m, idx n, const Epilogue* shared) {
  typedef Vec<T> V;
  const Epilogue epilogue = *shared;   // in registers: stores to C cannot change it
  V acc[MR][NV];
  FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
    acc[i][j] = epilogue.start(m, n, i, j * lanes<T>);
  // A pointer for each three rows of A, hidden from the optimiser: eight row addresses would spill in the loop.
  constexpr int groups = TA ? 1 : (MR + 2) / 3;
  const T* row_of[groups];
  FBP_UNROLL for (int g = 0; g < groups; g++) {
    row_of[g] = a + 3 * g * lda;
    asm("" : "+r"(row_of[g]));
  }
  const bool spread = fetches<Epilogue> && k >= MR * (keeps<Epilogue> ? 1 : FETCH_APART);
  const idx last = m + MR;
  idx p = 0, row_of_c = m;
  do {
    if constexpr (fetches<Epilogue>) do epilogue.fetch(row_of_c++, n, NV); while (!spread && row_of_c < last);
    const idx end = spread && row_of_c < last ? p + k / MR : k;
    FBP_UNROLL_4 for (; p < end; p++, b += ldb) {
      V row[NV];
      FBP_UNROLL for (int j = 0; j < NV; j++) row[j] = load(b + j * lanes<T>);
      FBP_UNROLL for (int i = 0; i < MR; i++) {
        V x = splat<V>(TA ? row_of[0][i] : row_of[i / 3][(i % 3) * lda]);
        FBP_UNROLL for (int j = 0; j < NV; j++) acc[i][j] += x * row[j];
      }
      FBP_UNROLL for (int g = 0; g < groups; g++) row_of[g] += TA ? lda : 1;
    }
  } while (p < k);
  if constexpr (keeps<Epilogue>) shared->finish_kept();
  asm("" : "+r"(m));   // or the addresses of the rows of C would be held, and spilled, through the loop
  FBP_UNROLL for (int i = 0; i < MR; i++) FBP_UNROLL for (int j = 0; j < NV; j++)
    epilogue.finish(m, n, i, j * lanes<T>, acc[i][j]);
}

template <class T, class Epilogue> using Tile = void (*)(idx, const T*, idx, const T*, idx, idx, idx, const Epilogue*);

// A tile one vector wide may be as many times higher.
template <int NV> constexpr int most_rows = FBP_TILE_ROWS * FBP_TILE_VECTORS / NV;

// tiles_of<T, NV, TA, Epilogue>::at(r) is the tile of r rows.
template <class T, int NV, bool TA, class Epilogue, class Rows = typename MakeIndices<most_rows<NV>>::type>
struct tiles_of;
template <class T, int NV, bool TA, class Epilogue, int... r> struct tiles_of<T, NV, TA, Epilogue, Indices<r...>> {
  static Tile<T, Epilogue> at(idx rows) {
    static constexpr Tile<T, Epilogue> table[] = {tile<T, r + 1, NV, TA, Epilogue>...};
    return table[rows - 1];
  }
};

// A number of rows cut in balanced tiles: 33 rows are 7+7+7+6+6.
struct Cut {
  idx tiles, least, taller;   // the first `taller` tiles have one row more than `least`
  FBP_INLINE_MEMBER Cut(idx rows, int most) : tiles(1), least(rows), taller(0) {
    if (rows <= most) return;   // a division takes as long as a small tile
    tiles = (rows + most - 1) / most;
    least = rows / tiles;
    taller = rows % tiles;
  }
  FBP_INLINE_MEMBER idx rows(idx tile) const { return least + (tile < taller); }
};

// C[m0:m1, n0:n1] = A @ B, tile by tile; the epilogue's `done` takes each tile over while it is hot.
template <class T, bool TA, class Epilogue>
static void gemm(const Operands<T>& op, idx m0, idx m1, idx n0, idx n1, bool rows_outside, const Epilogue& epilogue) {
  static_assert(FBP_TILE_VECTORS == 2, "a case for each number of vectors");
  if (m1 <= m0 || n1 <= n0) return;
  const auto one = [&](Tile<T, Epilogue> tile, idx m, idx rows, idx n, idx cols) {
    tile(op.k, TA ? op.a + m : op.a + m * op.lda, op.lda, op.b + n, op.ldb, m, n, &epilogue);
    epilogue.done(m, n, rows, cols);
  };
  const idx wide = n1 - (n1 - n0) % panel_width<T>;
  const idx whole = n1 - wide > lanes<T> ? n1 : wide;   // what two vectors at a time serve
  const Cut cut(m1 - m0, most_rows<2>);
  const auto across = [&](idx n, idx t, idx m) {
    const idx cols = n1 - n < panel_width<T> ? n1 - n : panel_width<T>;
    one(tiles_of<T, 2, TA, Epilogue>::at(cut.rows(t)), m, cut.rows(t), n, cols);
  };
  if (rows_outside) {
    for (idx t = 0, m = m0; t < cut.tiles; m += cut.rows(t), t++)
      for (idx n = n0; n < whole; n += panel_width<T>) across(n, t, m);
  } else {
    for (idx n = n0; n < whole; n += panel_width<T>)
      for (idx t = 0, m = m0; t < cut.tiles; m += cut.rows(t), t++) across(n, t, m);
  }
  if (whole == n1) return;
  const Cut high(m1 - m0, most_rows<1>);
  for (idx t = 0, m = m0; t < high.tiles; m += high.rows(t), t++)
    one(tiles_of<T, 1, TA, Epilogue>::at(high.rows(t)), m, high.rows(t), whole, n1 - whole);
}
