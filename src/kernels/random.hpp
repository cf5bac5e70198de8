// What is drawn at random in an epoch, by Philox4x32-10 (Salmon et al., 2011): what dropout drops, and the order of rows.
// fastbp/order.py says the same.

// x[word][vector]: counters become words, one of each in a 64-bit lane. The multiplications look at lower halves alone, so
// that the upper ones may hold anything, on entry and on return.
template <int vectors> FBP_INLINE void philox(Bits<VD> (&x)[4][vectors], uint64_t seed) {
  uint64_t k0 = seed, k1 = seed >> 32;
  FBP_UNROLL for (int round = 0; round < 10; round++) {
    FBP_UNROLL for (int v = 0; v < vectors; v++) {
      const Bits<VD> p0 = multiply_halves(x[0][v], Bits<VD>{} + 0xD2511F53u);
      const Bits<VD> p1 = multiply_halves(x[2][v], Bits<VD>{} + 0xCD9E8D57u);
      x[0][v] = p1 >> 32 ^ x[1][v] ^ k0;
      x[1][v] = p1;
      x[2][v] = p0 >> 32 ^ x[3][v] ^ k1;
      x[3][v] = p0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// Eight counters make a block of words: words 0 and 1 of all of them, then 2 and 3.
static void drop_words(uint64_t seed, uint64_t step, uint64_t layer, uint64_t row, idx blocks, uint16_t* words) {
  typedef Bits<VD> V;
  typedef uint64_t U __attribute__((vector_size(FBP_VECTOR_BYTES), aligned(2), may_alias));
  constexpr int counters = DROP_BLOCK / 8, of_two = DROP_BLOCK / counters / 2;
  for (idx c = 0; c < blocks * counters; c += lanes<double>) {
    V x[4][1] = {{(V)lane_index<double>() + (uint64_t)c}, {V{} + row}, {V{} + step},
                 {V{} + (layer << 16 ^ step >> 32)}};
    philox(x, seed);
    uint16_t* to = words + c / counters * DROP_BLOCK + c % counters * of_two;
    *(U*)to = (x[0][0] & 0xffffffff) | x[1][0] << 32;
    *(U*)(to + DROP_BLOCK / 2) = (x[2][0] & 0xffffffff) | x[3][0] << 32;
  }
}

// Fisher-Yates goes on with the `left` rows of each order whose place is not drawn yet, by the words of as many blocks as
// there are lanes in some vectors, a block in each; of one order at a time, or of several short ones. A draw takes one
// word, or two, the lower half first. Gives the rows that are left after it.
template <int orders, int vectors, int words>
FBP_INLINE uint32_t draw_rows(uint64_t seed, const uint64_t* epochs, uint64_t block, uint32_t left, uint32_t* order, idx ld) {
  typedef Bits<VD> V;
  typedef uint64_t U __attribute__((vector_size(FBP_VECTOR_BYTES), may_alias));
  constexpr int n = lanes<double>, draws = 4 / words;   // of a block
  V x[4][orders * vectors];
  FBP_UNROLL for (int v = 0; v < orders * vectors; v++) {
    const uint64_t epoch = epochs[v / vectors];
    x[0][v] = (V)lane_index<double>() + (block + v % vectors * n);
    x[1][v] = V{} + epoch;
    x[2][v] = V{} + (epoch >> 32);
    x[3][v] = V{} + 0xFFFFFFFFu;   // `ORDER`: no counter of dropout
  }
  philox(x, seed);
  alignas(FBP_VECTOR_BYTES) uint64_t at[draws][orders * vectors * n];
  FBP_UNROLL for (int v = 0; v < orders * vectors; v++)
    FBP_UNROLL for (int d = 0; d < draws; d++) {
      const V rows =
          V{} + (uint64_t)left - (uint64_t)(draws * (v % vectors) * n + d) - (V)lane_index<double>() * (uint64_t)draws;
      V drawn{};
      FBP_UNROLL for (int w = 0; w < words; w++) drawn = (multiply_halves(x[d * words + w][v], rows) + drawn) >> 32;
      *(U*)(at[d] + v * n) = drawn;
    }
  const auto swap_rows = [&](const uint64_t* first, uint32_t end) {
    for (int b = 0; b < vectors * n; b++)
      FBP_UNROLL for (int d = 0; d < draws; d++) {
        if (end <= 1) return end;
        const uint64_t with = first[d * orders * vectors * n + b];
        const uint32_t last = order[--end];
        order[end] = order[with];
        order[with] = last;
      }
    return end;
  };
  uint32_t end = left;
  for (int o = 0; o < orders; o++, order += ld) end = swap_rows(at[0] + o * vectors * n, left);
  return end;
}
enum { ORDER_VECTORS = FBP_VECTOR_BYTES == 32 ? 2 : 4 };   // at once: they hide each other's latency
template <int words> static void epoch_order(uint64_t seed, uint64_t epoch, uint32_t n, uint32_t* order) {
  uint64_t block = 0;
  while (n > 1 + 4 / words * lanes<double>) {
    n = draw_rows<1, ORDER_VECTORS, words>(seed, &epoch, block, n, order, 0);
    block += ORDER_VECTORS * lanes<double>;
  }
  draw_rows<1, 1, words>(seed, &epoch, block, n, order, 0);
}
static void epoch_orders(const uint64_t* seeds, const uint64_t* epochs, idx count, uint32_t n, uint32_t* orders, idx ld) {
  for (idx k = 0; k < count; k++)
    for (uint32_t i = 0; i < n; i++) orders[k * ld + i] = i;
  idx k = 0;
  if (n <= 1 + 4 * lanes<double>)   // one vector of words each
    for (; k + ORDER_VECTORS <= count && seeds[k] == seeds[k + ORDER_VECTORS - 1]; k += ORDER_VECTORS)
      draw_rows<ORDER_VECTORS, 1, 1>(seeds[k], epochs + k, 0, n, orders + k * ld, ld);
  for (; k < count; k++)
    (n <= 1u << 16 ? epoch_order<1> : epoch_order<2>)(seeds[k], epochs[k], n, orders + k * ld);   // `ONE_WORD`
}
