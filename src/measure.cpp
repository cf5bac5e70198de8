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
template <class T> double best_gflops(const Kernels<T>& kernels) {
  const idx rows = kernels.tile_rows, cols = kernels.panel_columns, depth = 512 / static_cast<idx>(sizeof(T));
  Buffer<T> x(rows * depth), weight(depth * cols), z(rows * cols);
  const Forward<T> f{rows, depth, cols, x.data(), depth, weight.data(), cols, nullptr, nullptr, 0, nullptr, z.data(),
                     z.data(), cols, nullptr};
  constexpr int REPEATS = 2000, ROUNDS = 30;
  double best = 0;
  for (int round = 0; round < ROUNDS; round++) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < REPEATS; i++) kernels.identity.layer_forward[DIRECT](f, 0, cols);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const double rate = 2.0 * static_cast<double>(rows * depth * cols) * REPEATS / seconds.count() / 1e9;
    best = rate > best ? rate : best;
  }
  return best;
}
}  // namespace

double tile_gflops(const Isa& isa, bool f64) { return f64 ? best_gflops(isa.f64) : best_gflops(isa.f32); }

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
