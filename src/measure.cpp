#include "measure.hpp"

#include <atomic>
#include <chrono>

#include "memory.hpp"
#include "threads.hpp"

#if defined(__clang__)
#define FBP_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FBP_UNROLL _Pragma("GCC unroll 8")
#endif

namespace fbp {
namespace {
// Of a kernel that multiplies (rows, depth) by (depth, cols).
template <class Shape> double best_gflops(void (*forward)(const Shape&, idx, idx), const Shape& f) {
  constexpr int REPEATS = 2000, ROUNDS = 30;
  double best = 0;
  for (int round = 0; round < ROUNDS; round++) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < REPEATS; i++) forward(f, 0, f.out);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const double rate = 2.0 * static_cast<double>(f.rows * f.in * f.out) * REPEATS / seconds.count() / 1e9;
    best = rate > best ? rate : best;
  }
  return best;
}
enum { ROW_BYTES = 512 };   // of the left operand
template <class T> double tile_gflops_of(const Kernels<T>& kernels) {
  const idx rows = kernels.tile_rows, cols = kernels.panel_columns, depth = ROW_BYTES / static_cast<idx>(sizeof(T));
  Buffer<T> x(rows * depth), weight(depth * cols), z(rows * cols);
  return best_gflops(kernels.identity.layer_forward[DIRECT],
                     Forward<T>{rows, depth, cols, x.data(), depth, weight.data(), cols, nullptr, nullptr, 0, nullptr,
                                z.data(), z.data(), cols, nullptr});
}
}  // namespace

double tile_gflops(const Isa& isa, bool f64) { return f64 ? tile_gflops_of(isa.f64) : tile_gflops_of(isa.f32); }

double tile_gflops(const Isa& isa, const Bfloat16Kernels& rounded) {
  const idx rows = isa.f32.tile_rows, cols = isa.f32.panel_columns, depth = ROW_BYTES / 2;
  Buffer<uint16_t> x(rows * depth);
  Buffer<uint32_t> weight(depth / 2 * cols);
  Buffer<float> z(rows * cols);
  RoundedForward f{};
  f.rows = rows; f.in = depth; f.out = cols;
  f.x = x.data(); f.ldx = depth;
  f.weight = weight.data(); f.ldw = cols;
  f.z = f.a = z.data(); f.ld = cols;
  return best_gflops(rounded.output, f);
}

double read_repeatedly(const void* p, size_t bytes, idx repeats) {
  typedef float V __attribute__((vector_size(16)));
  V sum[8] = {};
  for (idx r = 0; r < repeats; r++) {
    const V* v = static_cast<const V*>(p);
    for (size_t i = 0; i < bytes / sizeof(V); i += 8)
      FBP_UNROLL for (int k = 0; k < 8; k++) sum[k] += v[i + static_cast<size_t>(k)];
    asm volatile("" : : "r"(p) : "memory");
  }
  float total = 0;
  for (const V& v : sum) total += v[0] + v[1] + v[2] + v[3];
  return total;
}

// Looks for a thread that may never come: the system can refuse it.
constexpr int PATIENCE = 1 << 20;
double phase_seconds(int threads, idx repeats) {
  Team team;
  struct alignas(128) { std::atomic<idx> value{0}; } there;   // on a line of its own: what else is here is read by all
  std::atomic<idx>& arrived = there.value;
  const auto start = std::chrono::steady_clock::now();
  for (idx r = 0; r < repeats; r++)   // each waits for the others, or the caller would have done all before they came
    team.run(threads, [&](int) {
      arrived++;
      for (int looks = 0; arrived < threads * (r + 1) && looks < PATIENCE; looks++) {}
    });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / static_cast<double>(repeats);
}
}  // namespace fbp
