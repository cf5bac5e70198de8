// The order of the rows in an epoch: see fastbp/order.py, which says the same in Python.
#pragma once
#include <cstdint>

namespace fbp {
constexpr uint32_t ORDER_COUNTER = 0xFFFFFFFFu;    // the fourth word; dropout's never gets there
constexpr uint32_t ORDER_ONE_WORD = 1u << 16;      // rows up to which a draw takes one word, not two
// order[0..n) becomes a permutation of 0..n-1, a function of (seed, epoch, n) alone.
void epoch_order(uint64_t seed, uint64_t epoch, uint32_t n, uint32_t* order);
}  // namespace fbp
