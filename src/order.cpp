#include "order.hpp"

namespace fbp {
namespace {
__extension__ typedef unsigned __int128 uint128;

uint64_t multiply_high(uint64_t a, uint64_t b) { return static_cast<uint64_t>(static_cast<uint128>(a) * b >> 64); }

// Philox4x64-10 (Salmon et al., 2011), in the order in which numpy.random.Philox gives its words: the counter is raised
// before each block of four, by one in 256 bits; here it is the first word that counts, and it does not overflow.
class Philox {
 public:
  Philox(uint64_t key, uint64_t epoch) : key_(key), epoch_(epoch) {}
  uint64_t next() {
    if (position_ == 4) {
      ++block_;
      make();
      position_ = 0;
    }
    return words_[position_++];
  }

 private:
  void make() {
    uint64_t k0 = key_, k1 = 0, c0 = block_, c1 = 0, c2 = epoch_, c3 = 0;
    for (int round = 0; round < 10; round++) {
      const uint64_t hi0 = multiply_high(0xD2E7470EE14C6C93ull, c0), lo0 = 0xD2E7470EE14C6C93ull * c0;
      const uint64_t hi1 = multiply_high(0xCA5A826395121157ull, c2), lo1 = 0xCA5A826395121157ull * c2;
      c0 = hi1 ^ c1 ^ k0;
      c1 = lo1;
      c2 = hi0 ^ c3 ^ k1;
      c3 = lo0;
      k0 += 0x9E3779B97F4A7C15ull;
      k1 += 0xBB67AE8584CAA73Bull;
    }
    words_[0] = c0, words_[1] = c1, words_[2] = c2, words_[3] = c3;
  }

  uint64_t key_, epoch_, block_ = 0, words_[4] = {};
  int position_ = 4;
};
}  // namespace

void epoch_order(uint64_t seed, uint64_t epoch, uint32_t n, uint32_t* order) {
  Philox words(seed, epoch);
  for (uint32_t i = 0; i < n; i++) order[i] = i;
  for (uint32_t i = n; i-- > 1;) {
    const auto j = static_cast<uint32_t>(multiply_high(words.next(), uint64_t{i} + 1));
    const uint32_t swapped = order[i];
    order[i] = order[j];
    order[j] = swapped;
  }
}
}  // namespace fbp
