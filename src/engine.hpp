// The C++ contract: what a plan hands to the engine, what the engine asks of an ISA's kernels, and the statuses.
//
// Matrices are row-major; every leading dimension (ld...) counts elements. Each matrix that fastbp owns has rows padded
// to whole cache lines, so that kernels read and write whole vectors: padding may hold anything and reaches nothing.
// Included by the kernels of every ISA: only plain structs here, no function that a linker could merge.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace fbp {

typedef int64_t idx;
enum { MAX_SLOTS = 4, MAX_SCALARS = 8 };

// ------------------------------------------------------------------ row functions: pointwise, called on a hot tile
// `cols` is a number of real columns; whole vectors are touched.
template <class T> using ForwardRow = void (*)(const T* z, T* a, idx ld, idx rows, idx cols);
// delta holds dL/da on entry and dL/dz on return; z is null where the row does not use it
template <class T> using BackwardRow = void (*)(T* delta, const T* a, const T* z, idx ld, idx rows, idx cols);
// p and its slots share one layout; g is a tile with a leading dimension of its own
template <class T> using UpdateRow = void (*)(T* p, T* const* slots, idx ld, const T* g, idx ldg, idx rows, idx cols,
                                              const T* scalars);

template <class T> struct Target {
  const T* t;             // (rows, ldt), or null where labels are given
  idx ldt;
  const int32_t* label;   // (rows,)
};
// Returns sum over rows of share * (sum over columns of the loss); grad (rows, ld) = share * its derivative, or null.
template <class T> using LossRow = double (*)(const T* a, idx ld, Target<T> target, const double* share, T* grad,
                                              idx rows, idx cols);

// ------------------------------------------------------------------ kernels: one layer, over a range of its outputs
// Ranges are what threads split: a range's outputs are complete, so the bits do not depend on the split.
template <class T> struct Forward {   // z = x @ weight + bias, a = activation(z)
  idx rows, in;
  const T* x; idx ldx;                // (rows, in); read element by element, never past the last
  const T* weight; const T* bias;     // (in, ld), (ld,) or null
  T* z; T* a; idx ld;                 // (rows, ld); z == a where z is not kept
  ForwardRow<T> activation;           // null: identity
};
template <class T> struct GradInput { // grad_input = delta @ weight.T, then through the previous activation
  idx rows, in, out;
  const T* delta; const T* weight; idx ld;
  T* grad_input; idx ldg;             // (rows, ldg)
  const T* a; const T* z;             // of the previous layer, (rows, ldg)
  BackwardRow<T> activation;          // null: identity, or the gradient itself is wanted
  T* panel;                           // scratch, out * panel_columns elements
};
template <class T> struct GradWeight { // grad = x.T @ delta: stored, added, or turned into the update at once
  idx rows, in, out;
  const T* x; idx ldx;
  const T* delta; idx ld;
  T* grad;                            // (in, ld), used where `update` is null
  bool accumulate;
  UpdateRow<T> update;                // null: unfused
  T* weight; T* slots[MAX_SLOTS];     // (in, ld) each, or null
  const T* scalars;
};

template <class T> struct Kernels {
  idx panel_columns;                  // of GradInput::panel; ranges split at multiples of it
  void (*forward)(const Forward<T>&, idx n0, idx n1);          // columns of weight
  void (*grad_input)(const GradInput<T>&, idx i0, idx i1);     // rows of weight
  void (*grad_weight)(const GradWeight<T>&, idx i0, idx i1);   // rows of weight
  void (*grad_bias)(const GradWeight<T>&);                     // the same with x = 1 and one row
  const ForwardRow<T>* activation_forward;                     // indexed as the tables of fastbp/
  const BackwardRow<T>* activation_backward;
  const LossRow<T>* loss;
  const UpdateRow<T>* update;
};

struct Isa {
  const char* name;
  Kernels<float> f32;
  Kernels<double> f64;
};

extern const Isa isa_generic;
#if defined(__x86_64__)
extern const Isa isa_avx2, isa_avx512;
#endif
}  // namespace fbp
