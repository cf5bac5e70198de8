#include "order.hpp"

namespace fbp {
namespace {
__extension__ typedef unsigned __int128 uint128;

uint64_t multiply_high(uint64_t a, uint64_t b) { return static_cast<uint64_t>(static_cast<uint128>(a) * b >> 64); }

// Philox4x64-10 (Salmon et al., 2011), in the order in which numpy.random.Philox gives its words: the counter is
// raised before each block of four.
class Philox {
 public:
  Philox(uint64_t key, uint64_t epoch, uint64_t use) : key_{key, 0}, counter_{0, 0, epoch, use} {}
  uint64_t next() {
    if (position_ == 4) block();
    return words_[position_++];
  }

 private:
  void block() {
    for (uint64_t& word : counter_)
      if (++word) break;
    uint64_t c[4] = {counter_[0], counter_[1], counter_[2], counter_[3]}, k0 = key_[0], k1 = key_[1];
    for (int round = 0; round < 10; round++) {
      const uint64_t hi0 = multiply_high(0xD2E7470EE14C6C93ull, c[0]), lo0 = 0xD2E7470EE14C6C93ull * c[0];
      const uint64_t hi1 = multiply_high(0xCA5A826395121157ull, c[2]), lo1 = 0xCA5A826395121157ull * c[2];
      c[0] = hi1 ^ c[1] ^ k0;
      c[1] = lo1;
      c[2] = hi0 ^ c[3] ^ k1;
      c[3] = lo0;
      k0 += 0x9E3779B97F4A7C15ull;
      k1 += 0xBB67AE8584CAA73Bull;
    }
    for (int i = 0; i < 4; i++) words_[i] = c[i];
    position_ = 0;
  }
  uint64_t key_[2], counter_[4], words_[4] = {};
  int position_ = 4;
};
}  // namespace

void epoch_order(uint64_t seed, uint64_t epoch, uint32_t n, uint32_t* order) {
  Philox words(seed, epoch, 0);
  for (uint32_t i = 0; i < n; i++) order[i] = i;
  for (uint32_t i = n; i-- > 1;) {
    const auto j = static_cast<uint32_t>(multiply_high(words.next(), uint64_t{i} + 1));
    const uint32_t swapped = order[i];
    order[i] = order[j];
    order[j] = swapped;
  }
}
}  // namespace fbp
