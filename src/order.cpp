#include "order.hpp"

#include <cstring>

namespace fbp {
namespace {
__extension__ typedef unsigned __int128 uint128;

uint64_t multiply_high(uint64_t a, uint64_t b) { return static_cast<uint64_t>(static_cast<uint128>(a) * b >> 64); }

enum { ORDER, DROPOUT = 2 };   // the fourth counter word; fastbp/order.py says the same

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 10")
#endif

// `n` blocks of Philox4x64-10 (Salmon et al., 2011), from the counter's first word on: side by side, since each waits for
// its multiplications. Unrolled, or it takes twice as long.
template <int n> void philox(uint64_t key, uint64_t first, uint64_t w1, uint64_t w2, uint64_t w3, uint64_t (*words)[4]) {
  uint64_t k0 = key, k1 = 0, counters[n][4];
  UNROLL for (int b = 0; b < n; b++) {
    counters[b][0] = first + static_cast<uint64_t>(b);
    counters[b][1] = w1, counters[b][2] = w2, counters[b][3] = w3;
  }
  UNROLL for (int round = 0; round < 10; round++) {
    UNROLL for (int b = 0; b < n; b++) {
      uint64_t* c = counters[b];
      const uint64_t hi0 = multiply_high(0xD2E7470EE14C6C93ull, c[0]), lo0 = 0xD2E7470EE14C6C93ull * c[0];
      const uint64_t hi1 = multiply_high(0xCA5A826395121157ull, c[2]), lo1 = 0xCA5A826395121157ull * c[2];
      c[0] = hi1 ^ c[1] ^ k0;
      c[1] = lo1;
      c[2] = hi0 ^ c[3] ^ k1;
      c[3] = lo0;
    }
    k0 += 0x9E3779B97F4A7C15ull;
    k1 += 0xBB67AE8584CAA73Bull;
  }
  std::memcpy(words, counters, sizeof counters);
}

// In the order in which numpy.random.Philox gives its words: the counter is raised before each block of four, by one in
// 256 bits; in the uses here it is the first word that counts, and it does not overflow.
class Philox {
 public:
  Philox(uint64_t key, uint64_t epoch, uint64_t use) : key_(key), epoch_(epoch), use_(use) {}
  uint64_t next() {
    if (position_ == 4) {
      philox<1>(key_, ++block_, 0, epoch_, use_, &words_);
      position_ = 0;
    }
    return words_[position_++];
  }

 private:
  uint64_t key_, epoch_, use_, block_ = 0, words_[4] = {};
  int position_ = 4;
};
}  // namespace

void epoch_order(uint64_t seed, uint64_t epoch, uint32_t n, uint32_t* order) {
  Philox words(seed, epoch, ORDER);
  for (uint32_t i = 0; i < n; i++) order[i] = i;
  for (uint32_t i = n; i-- > 1;) {
    const auto j = static_cast<uint32_t>(multiply_high(words.next(), uint64_t{i} + 1));
    const uint32_t swapped = order[i];
    order[i] = order[j];
    order[j] = swapped;
  }
}

void dropout_words(uint64_t seed, uint64_t step, uint64_t layer, uint64_t first, uint64_t blocks, uint16_t* words) {
  static_assert(DROP_BLOCK * sizeof(uint16_t) == 4 * sizeof(uint64_t), "a block of the generator");
  enum { TOGETHER = 4 };
  uint64_t out[TOGETHER][4];
  for (uint64_t b = 0; b < blocks; b += TOGETHER) {
    philox<TOGETHER>(seed, first + b + 1, step, layer, DROPOUT, out);
    const uint64_t ready = blocks - b < TOGETHER ? blocks - b : static_cast<uint64_t>(TOGETHER);
    std::memcpy(words + b * DROP_BLOCK, out, ready * sizeof(out[0]));
  }
}
}  // namespace fbp
