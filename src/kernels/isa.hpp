// The kernels of one ISA, from one text. An isa_*.cpp file sets
//   FBP_ISA             name of the namespace and of the exported table
//   FBP_VECTOR_BYTES    16, 32 or 64
//   FBP_TILE_ROWS, FBP_TILE_VECTORS   the GEMM's register tile
//   FBP_MANY            defined: the kernels of many networks alone
//   FBP_HIDDEN          defined: those of networks with one hidden layer alone: a hidden unit per lane, in one vector, or
//                       a network per lane
//   FBP_BFLOAT16        defined: the products in bfloat16 alone
//                       with none of the three: all others
//   FBP_TARGET          what the compiler may use beyond the baseline, or nothing
// Everything but the table has internal linkage, and no C++ standard header is included: what the linker may merge
// across files must not have been compiled for a wider ISA.
#include "../kernels.hpp"
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(_MSC_VER)   // clang-cl's immintrin.h leaves out what the command line does not allow in every function
#include <avxintrin.h>
#include <avx2intrin.h>
#include <f16cintrin.h>
#include <fmaintrin.h>
#include <bmiintrin.h>
#include <bmi2intrin.h>
#include <avx512fintrin.h>
#include <avx512vlintrin.h>
#include <avx512bwintrin.h>
#include <avx512vlbwintrin.h>
#include <avx512dqintrin.h>
#include <avx512vldqintrin.h>
#include <avx512bf16intrin.h>
#include <avx512vlbf16intrin.h>
#endif
#if !defined(__clang__)
// GCC 12's own _mm512_max_ps starts from a deliberately undefined vector and is then warned about.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#elif defined(__aarch64__)
#include <arm_neon.h>
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
#define FBP_MANY_NAME_(isa) many_##isa
#define FBP_MANY_NAME(isa) FBP_MANY_NAME_(isa)
#define FBP_HIDDEN_NAME_(isa) hidden_##isa
#define FBP_HIDDEN_NAME(isa) FBP_HIDDEN_NAME_(isa)
#define FBP_STRING_(x) #x
#define FBP_STRING(x) FBP_STRING_(x)

namespace fbp {
namespace {
#include "simd.hpp"
#include "math.hpp"
#include "rows.hpp"
#ifdef FBP_MANY   // a source of its own: it compiles beside the other
#include "many.hpp"
}  // namespace
extern const ManyTable FBP_MANY_NAME(FBP_ISA);
const ManyTable FBP_MANY_NAME(FBP_ISA) = {&FBP_NAME(FBP_ISA), many_kernels<float>(), many_kernels<double>()};
#elif defined(FBP_BFLOAT16)
#include "gemm.hpp"
#include "layers.hpp"
#include "bfloat16.hpp"
}  // namespace
extern const Bfloat16Kernels FBP_BFLOAT16;
const Bfloat16Kernels FBP_BFLOAT16 = {
    round_rows,
    rounded_output,
    {rounded_forward<activation_identity>, rounded_grad_input<activation_identity>},
    {rounded_forward<ByCall>, rounded_grad_input<ByCall>},
    rounded_activations,
    rounded_optimizers,
    rounded_update<ByCall>,
    rounded_grad_weight,
    rounded_grad_bias};
#elif defined(FBP_HIDDEN)
#include "hidden.hpp"
#include "many.hpp"
}  // namespace
extern const HiddenTable FBP_HIDDEN_NAME(FBP_ISA);
const HiddenTable FBP_HIDDEN_NAME(FBP_ISA) = {hidden_kernels<float>(), hidden_kernels<double>(), many_hidden_of<float>};
#else
#include "random.hpp"
#include "gemm.hpp"
#include "layers.hpp"
#include "tiny.hpp"
#include "hidden.hpp"

#define FBP_ACTIVATION_KERNELS(row) \
  {forward<T, row>, narrow_forward<T>, forward<T, row>, single_forward<T>},      \
      {grad_input<T, row>, narrow_grad_input<T, row>, grad_input<T, row>, grad_input<T, row>}
#define FBP_ACTIVATION(row) \
  {forward_row<activation_##row, T>, backward_row<activation_##row, T>, FBP_ACTIVATION_KERNELS(activation_##row)},
#define FBP_LOSS(row) loss_row<loss_##row, T>,
#define FBP_OPTIMIZER_KERNELS(row)                                                                             \
  {update_weight<T, row>, narrow_update_weight<T, row>, update_weight<T, row>, update_weight<T, row>},         \
      {nullptr, nullptr, few_backward<T, row>, single_backward<T, row>()},                                     \
      tiny_train<T, typename epilogue_row<row>::type>
#define FBP_OPTIMIZER(row) {update_row<optimizer_##row, T>, FBP_OPTIMIZER_KERNELS(optimizer_##row)},
template <class T> struct Tables {
  static constexpr ActivationKernels<T> activation[] = {FBP_ACTIVATIONS(FBP_ACTIVATION)};
  static constexpr LossRow<T> loss[] = {FBP_LOSSES(FBP_LOSS)};
  static constexpr OptimizerKernels<T> optimizer[] = {FBP_OPTIMIZERS(FBP_OPTIMIZER)};
};
#if FBP_VECTOR_BYTES == 64
constexpr const HiddenKernels<float>* narrower_hidden(float) { return &hidden_avx512_256.f32; }
constexpr const HiddenKernels<double>* narrower_hidden(double) { return &hidden_avx512_256.f64; }
#else
template <class T> constexpr const HiddenKernels<T>* narrower_hidden(T) { return nullptr; }
#endif
template <class T> constexpr Kernels<T> kernels() {
  return {FBP_TILE_ROWS,
          panel_width<T>,
          lanes<T>,
          finite<T>,
          {grad_weight<T>, narrow_grad_weight<T>, grad_weight<T>, grad_weight<T>},
          {grad_bias<T>, narrow_grad_bias<T>, grad_bias<T>, grad_bias<T>},
          single_finish<T>,
          update<T>,
          {nullptr,
           {update_weight<T, ByCall>, narrow_update_weight<T, ByCall>, update_weight<T, ByCall>, update_weight<T, ByCall>},
           {nullptr, nullptr, few_backward<T, ByCall>, few_backward<T, ByCall>},
           tiny_train<T, ByCall>},
          squares<T>,
          average_params<T>,
          limit_norms<T>,
          drop_words,
          drop<T>,
          epoch_orders,
          {nullptr, nullptr, FBP_ACTIVATION_KERNELS(activation_identity)},
          Tables<T>::activation,
          Tables<T>::loss,
          Tables<T>::optimizer,
          {nullptr, nullptr, FBP_ACTIVATION_KERNELS(ByCall)},
          hidden_kernels<T>(),
          narrower_hidden(T{})};
}
}  // namespace

extern const Isa FBP_NAME(FBP_ISA);
const Isa FBP_NAME(FBP_ISA) = {FBP_STRING(FBP_ISA), kernels<float>(), kernels<double>()};
#endif
}  // namespace fbp

#if defined(FBP_TARGET) && defined(__clang__)
#pragma clang attribute pop
#endif
