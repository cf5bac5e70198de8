// A dense layer, and what goes with it, on the caller's arrays: nothing is bound, nothing is kept.
//
// Matrices are row-major with any leading dimension of at least their columns. Nothing past a row's last column is read
// or written: whole vectors of columns are used where they lie, and the columns that are left over pass through a panel
// one vector wide. Results depend on shapes and values, never on where an array lies or how it is strided.
// No output may overlap anything else. Throws std::bad_alloc, before anything is written.
#pragma once
#include "kernels.hpp"

namespace fbp {

struct Place {            // where it is computed
  const Isa* isa;
  int n_threads;          // at most
  bool gated;             // by what a thread has to do at least
};

template <class T> struct Dense {
  idx rows, in, out;      // at least 1 each
  const T* x; idx ldx;    // (rows, in)
  T* weight; idx ldw;     // (in, out), or (out, in) where transposed; written by an update alone
  bool transposed;        // only for at most NARROW_OUTPUTS
  T* bias;                // (out,) or null; as the weight
  int activation;         // row of the table, -1 for the identity
};

// a = activation(x @ weight + bias), (rows, out); the pre-activation into z where that is not null.
template <class T> void linear(const Place& place, const Dense<T>& layer, T* z, idx ldz, T* a, idx lda);

template <class T> struct Upstream {   // (rows, out) each
  const T* grad; idx ldg;              // dL/da
  const T* a; idx lda;                 // of `linear`
  const T* z; idx ldz;                 // null where the activation does not need it
};
template <class T> struct Gradients {
  T* weight; idx ldw;                  // (in, out)
  T* bias;                             // (out,) or null
};
template <class T> void linear_backward(const Place& place, const Dense<T>& layer, const Upstream<T>& from,
                                        T* grad_input, idx ldg, const Gradients<T>& to);

template <class T> struct Rule {       // an optimizer's row at one step
  int row;
  const T* scalars;
  T* slots[MAX_SLOTS];                 // laid out as the weight
  T* bias_slots[MAX_SLOTS];
};
// grad_input is that of the weight before the update.
template <class T> void linear_backward_update(const Place& place, const Dense<T>& layer, const Upstream<T>& from,
                                               T* grad_input, idx ldg, const Rule<T>& rule);

// The rule on n numbers, with rule.slots.
template <class T> void update(const Isa& isa, idx n, T* param, const T* grad, const Rule<T>& rule);

// On n numbers; a may be z, and delta holds dL/da on entry and dL/dz on return.
template <class T> void activation(const Isa& isa, int row, idx n, const T* z, T* a);
template <class T> void activation_backward(const Isa& isa, int row, idx n, T* delta, const T* a, const T* z);

// The sum over rows of share * (sum over targets of the loss); grad = share * its derivative by z. All are contiguous
// and of one type: z and grad (rows, cols), t (rows, targets).
struct LossOf {
  int row, itemsize;
  idx rows, cols, targets;
  const void* z;
  const void* t;                       // null where labels are given
  const int32_t* label;
  const double* share;                 // (rows,), and zeros to the end of the widest vector
  const double* settings; idx n_settings;
  const double* output_weights;        // (targets,) or null
};
double loss(const Isa& isa, const LossOf& of, void* grad);

// One of these calls as src/ops.pyx puts it together, of a type that is known by then.
struct Lies {                          // where an array lies
  char* data;                          // null: there is none
  char* end;
  idx ld;                              // in elements
};
enum What { LINEAR, BACKWARD, UPDATE, SGD_UPDATE, ACTIVATION, ACTIVATION_BACKWARD };
struct Call {
  int what, itemsize;
  Place place;
  idx rows, in, out;                   // of the last three kinds `rows` are the elements
  bool transposed;
  int activation, optimizer;
  Lies x, weight, bias, a, z, grad, grad_input, grad_weight, grad_bias;   // the last three kinds write `weight` or `a`,
  double scalars[MAX_SCALARS];                                           // and the way back `grad`
  Lies slots[MAX_SLOTS], bias_slots[MAX_SLOTS];
};
void run(const Call& call);

}  // namespace fbp
