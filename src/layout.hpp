// What the training loop and the functions on plain arrays have in common: how matrices of ours are padded, which
// kernels a layer gets, and how its work is shared by threads.
#pragma once
#include <algorithm>
#include <cstdint>

#include "program.hpp"
#include "threads.hpp"

namespace fbp {

template <class T> const Kernels<T>& kernels_of(const Isa& isa);
template <> inline const Kernels<float>& kernels_of(const Isa& isa) { return isa.f32; }
template <> inline const Kernels<double>& kernels_of(const Isa& isa) { return isa.f64; }

constexpr idx LINE = 64;           // bytes of a cache line
constexpr idx BAD_STRIDE = 1024;   // bytes: rows a multiple of this apart meet in the same cache sets
constexpr double BYTES_OF_A_THREAD = 100e3;   // as FLOPS_OF_A_THREAD, where a batch is copied or a gradient added

template <class T> constexpr idx PER_LINE = LINE / sizeof(T);   // elements

// Elements of a row of n in a matrix of ours; fastbp/spec.py says the same of the parameters.
template <class T> idx padded(idx n) {
  const idx row = (n + PER_LINE<T> - 1) / PER_LINE<T> * PER_LINE<T>;
  return row * static_cast<idx>(sizeof(T)) % BAD_STRIDE ? row : row + PER_LINE<T>;
}

// The rules, in one place. They look at the rows of the batch itself, not at the plan's, so that its bits do not depend
// on what came before. Up to about 24 rows dot products beat transposed panels (by 6 to 11 % on 1024 x 1024, 16 rows).
enum { FEW_ROWS = 24, FEW_OUTPUTS_IN_VECTORS = 4 };
inline Family family_of(bool transposed, idx rows, idx out, idx lanes) {
  if (transposed) return NARROW;
  if (rows == 1) return SINGLE;
  if (rows <= FEW_ROWS && out > FEW_OUTPUTS_IN_VECTORS * lanes) return FEW;
  return DIRECT;
}

// What threads share: 0..n in parts, each some whole units.
struct Split {
  idx n, unit;
  int parts;
};

struct Sharing {
  int n_threads;   // at most
  bool gated;      // by what a thread has to do at least; tests let small networks have threads
  Split of(idx n, idx unit, double work, double of_a_thread) const {
    if (gated && work < 2 * of_a_thread) return {n, unit, 1};   // a division takes as long as a small copy
    const idx units = (n + unit - 1) / unit, most = std::min<idx>(n_threads, units);
    return {n, unit, static_cast<int>(gated ? std::min(most, static_cast<idx>(work / of_a_thread)) : most)};
  }
};

// f(begin, end, part) for each part.
template <class F> void each_part(Team& team, const Split& split, const F& f) {
  if (split.parts == 1) return f(0, split.n, 0);
  const idx units = (split.n + split.unit - 1) / split.unit;
  const auto begin = [&](idx part) {   // the caller, who begins first, gets what is left over
    return std::min(split.n, (units * part + split.parts - 1) / split.parts * split.unit);
  };
  team.run(split.parts, [&](int part) { f(begin(part), begin(part + 1), part); });
}
}  // namespace fbp
