// The kernels of one ISA, from one text. An isa_*.cpp file sets
//   FBP_ISA             name of the namespace and of the exported table
//   FBP_VECTOR_BYTES    16, 32 or 64
//   FBP_TILE_ROWS, FBP_TILE_VECTORS   the GEMM's register tile
//   FBP_TARGET          what the compiler may use beyond the baseline, or nothing
// Everything but the table has internal linkage, and no C++ standard header is included: what the linker may merge
// across files must not have been compiled for a wider ISA.
#include "../engine.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#if !defined(__clang__)
// GCC 12's own _mm512_max_ps starts from a deliberately undefined vector and is then warned about.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#endif

#define FBP_PRAGMA(x) _Pragma(#x)
#ifdef FBP_TARGET
#if defined(__clang__)
#define FBP_ATTRIBUTE(t) FBP_PRAGMA(clang attribute push(__attribute__((target(t))), apply_to = function))
#else
#define FBP_ATTRIBUTE(t) FBP_PRAGMA(GCC target(t))
#endif
FBP_ATTRIBUTE(FBP_TARGET)
#endif

#define FBP_INLINE_MEMBER inline __attribute__((always_inline))
#define FBP_NAME_(isa) isa_##isa
#define FBP_NAME(isa) FBP_NAME_(isa)
#define FBP_STRING_(x) #x
#define FBP_STRING(x) FBP_STRING_(x)

namespace fbp {
namespace {
#include "simd.hpp"
#include "math.hpp"
#include "rows.hpp"
#include "gemm.hpp"
#include "layers.hpp"

#define FBP_FORWARD(row) forward_row<activation_##row, T>,
#define FBP_BACKWARD(row) backward_row<activation_##row, T>,
#define FBP_LOSS(row) loss_row<loss_##row, T>,
#define FBP_UPDATE(row) update_row<optimizer_##row, T>,
template <class T> struct Tables {
  static constexpr ForwardRow<T> forward[] = {FBP_ACTIVATIONS(FBP_FORWARD)};
  static constexpr BackwardRow<T> backward[] = {FBP_ACTIVATIONS(FBP_BACKWARD)};
  static constexpr LossRow<T> loss[] = {FBP_LOSSES(FBP_LOSS)};
  static constexpr UpdateRow<T> update[] = {FBP_OPTIMIZERS(FBP_UPDATE)};
};
template <class T> constexpr Kernels<T> kernels() {
  return {panel_width<T>,     forward<T>,          grad_input<T>,   grad_weight<T>,  grad_bias<T>,
          Tables<T>::forward, Tables<T>::backward, Tables<T>::loss, Tables<T>::update};
}
}  // namespace

extern const Isa FBP_NAME(FBP_ISA);
const Isa FBP_NAME(FBP_ISA) = {FBP_STRING(FBP_ISA), kernels<float>(), kernels<double>()};
}  // namespace fbp

#if defined(FBP_TARGET) && defined(__clang__)
#pragma clang attribute pop
#endif
