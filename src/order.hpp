// The order of the rows in an epoch: see fastbp/order.py, which says the same in Python.
#pragma once
#include <cstdint>

namespace fbp {
// order[0..n) becomes a permutation of 0..n-1, a function of (seed, epoch, n) alone.
void epoch_order(uint64_t seed, uint64_t epoch, uint32_t n, uint32_t* order);

// Dropout's words of 16 bits in step `step` for a row of the inputs of a layer: `blocks` blocks of DROP_BLOCK each, from
// the layer's block `first` on.
enum { DROP_BLOCK = 16 };
void dropout_words(uint64_t seed, uint64_t step, uint64_t layer, uint64_t first, uint64_t blocks, uint16_t* words);
}  // namespace fbp
