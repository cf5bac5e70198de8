// What the machine can do, for the benchmark.
#pragma once
#include "kernels.hpp"

namespace fbp {
// The best rate of the register tile with its operands in the L1 cache.
double tile_gflops(const Isa& isa, bool f64);
double tile_gflops(const Isa& isa, const Bfloat16Kernels& rounded);   // with tiles as large
// Reads an array `repeats` times, 16 bytes at a load; `bytes` is a multiple of 128. Returns a sum, so that it happens.
double read_repeatedly(const void* p, size_t bytes, idx repeats);
// Seconds that a phase takes in which `threads` threads only meet, the mean of `repeats` in a row.
double phase_seconds(int threads, idx repeats);
}  // namespace fbp
