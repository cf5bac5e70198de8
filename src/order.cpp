#include "order.hpp"

namespace fbp {
namespace {
// Philox4x32-10 (Salmon et al., 2011), its words in turn.
class Philox {
 public:
  Philox(uint64_t key, uint64_t epoch) : key_(key), epoch_(epoch) {}
  uint64_t next() {
    if (position_ == 4) {
      make();
      ++block_;
      position_ = 0;
    }
    return words_[position_++];
  }

 private:
  void make() {
    uint32_t k0 = half(key_), k1 = half(key_ >> 32);
    uint32_t c0 = block_, c1 = half(epoch_), c2 = half(epoch_ >> 32), c3 = ORDER_COUNTER;
    for (int round = 0; round < 10; round++) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
      c0 = half(p1 >> 32) ^ c1 ^ k0;
      c1 = half(p1);
      c2 = half(p0 >> 32) ^ c3 ^ k1;
      c3 = half(p0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    words_[0] = c0, words_[1] = c1, words_[2] = c2, words_[3] = c3;
  }
  static uint32_t half(uint64_t x) { return static_cast<uint32_t>(x); }

  const uint64_t key_, epoch_;
  uint32_t block_ = 0, words_[4] = {};
  int position_ = 4;
};
}  // namespace

void epoch_order(uint64_t seed, uint64_t epoch, uint32_t n, uint32_t* order) {
  Philox words(seed, epoch);
  const int words_of_a_draw = n <= ORDER_ONE_WORD ? 1 : 2;
  for (uint32_t i = 0; i < n; i++) order[i] = i;
  for (uint32_t i = n; i-- > 1;) {
    uint64_t j = 0;
    for (int w = 0; w < words_of_a_draw; w++) j = (words.next() * (uint64_t{i} + 1) + j) >> 32;   // the lower half first
    const uint32_t swapped = order[i];
    order[i] = order[j];
    order[j] = swapped;
  }
}
}  // namespace fbp
