// A program: one network shape bound to its parameters, with the workspace of a batch. What engine.pyx sees.
#pragma once
#include <cmath>
#include <vector>

#include "feed.hpp"

namespace fbp {

// What each thread has to do at least in a phase, in multiplications and additions: about 4 microseconds of a core.
// Threads meet in 0.25; below 1.2 there were losses, and on a busy machine below 2.6 (docs/threads.md).
constexpr double FLOPS_OF_A_THREAD = 400e3;
constexpr double FLOPS_OF_A_SHARED_STEP = 1.6e6;   // at least, in all phases that threads share

enum Status { DONE, LOSS_NOT_FINITE, PARAMS_NOT_FINITE, STALLED };

struct LayerShape {
  idx in, out;
  idx ldw;                // leading dimension of the weight: (in, ldw), transposed (out, ldw)
  bool transposed;        // weight, activations and deltas: the NARROW family
  idx weight, bias;       // offsets in the parameter buffer, in elements; bias -1 where there is none
  int activation;         // row of the table, -1 for the identity
  uintptr_t own_forward, own_backward;   // row functions of a user's own activation, or 0
  bool keeps_z;
  bool skips_zeros;       // an input of exactly 0 moves neither output nor, at its row of the weight, anything back
  bool trains_weight, trains_bias;   // not those that are frozen
  double dropout;         // share of its inputs that a training step sets to 0

  idx drop_blocks() const { return (in + DROP_BLOCK - 1) / DROP_BLOCK; }   // of words, a row
  int drop_threshold() const { return static_cast<int>(std::lround(dropout * 65536)); }   // of 16 bits
  double kept_scale() const { return 1 / (1 - drop_threshold() / 65536.0); }
};

struct Shape {
  const LayerShape* layers;
  int n_layers;
  idx batch;              // rows that the workspace holds
  int loss;               // row of the table, -1 where there is none
  uintptr_t own_loss;     // an OwnLossRow instead, or 0
  bool own_loss_uses_lse, own_loss_pairs;
  double loss_scale;      // of one row's sum over outputs
  const double* settings; // of the loss, copied by the program, as the weights of its outputs are
  idx n_settings;
  const double* output_weights;
  idx n_output_weights;   // 0: none
  int optimizer;          // row of the table, -1 where there is none
  bool rounds;            // its training steps multiply in bfloat16, and it does nothing else; no layer is transposed
  bool fused;
  bool plain;             // the rule has one set of scalars and nothing around it, nothing is frozen
  int n_threads;          // at most
  bool gated;             // by what a thread has to do at least; tests let small networks have threads
};

struct Scalar {           // a number of each step; stride 0 where it is constant
  const char* data;       // float64
  idx stride;             // in bytes
};

struct Update {           // an optimizer's row, what it works on, and what is done around it
  int row = -1;
  bool skip_zeros = false;       // it leaves a parameter with gradient 0 alone
  uintptr_t own = 0;             // an UpdateRow instead of the table's, or 0
  void* slots[MAX_SLOTS] = {};   // these, `average` and `accumulated`: whole buffers, laid out as the parameters, or null
  int n_scalars = 0;
  std::vector<Scalar> scalars;   // (groups, n_scalars)
  std::vector<double> l1;        // of each group: all parameters, or each weight and each bias, layer by layer
  double clip_value = HUGE_VAL, clip_norm = HUGE_VAL, max_norm = HUGE_VAL;
  void* average = nullptr;       // takes the running mean of the parameters
  double decay = 0;              // of that
  idx accumulate = 1, phase = 0; // an update after so many batches; how many of these there have been
  void* accumulated = nullptr;   // the sum of their gradients, where there are several
};

struct Data {
  Source x;
  Source y;               // labels where y_is_label, else (rows, out)
  bool y_is_label;
  const double* weight;   // (rows,), or null
  idx weights = 1;        // of a row; or one for each of its targets: (rows, weights)
};

struct Run {
  idx batch_size, steps;
  uint64_t seed;
  bool shuffle, stop_on_loss, stop_on_params;
  int64_t* count;         // [net.step]
  int64_t* place;         // [epoch, first row of its next batch]
  double* partial;        // [sum of loss * rows, rows] of the epoch begun
  double* losses;         // mean loss of each epoch finished
  bool goes_on = false;   // since the program's last call nobody has touched parameters or rows, which are the same
  // What `fit` asks for none of: see `Course` in fastbp/backends/protocol.py.
  const int64_t* orders = nullptr;   // (epochs, rows): the order of each epoch that the call comes to; no `shuffle` then
  double factor = 1;                 // of a batch's loss where it is reported
  const double* l2 = nullptr;        // of each step: this times the weights' squares joins that
  double* stall = nullptr;           // [best, tol, patience, bad]: the stopping rule
};

struct Trained {
  idx steps, epochs;
  int status;
  double loss;
};

struct LayerPlan {
  int family, forward_threads, backward_threads;
};

class Program {
 public:
  virtual ~Program() {}
  virtual Trained train(const Data& data, const Run& run, const Update& update) = 0;
  virtual void forward(const Source& x, void* out, bool keep) = 0;                // out: (rows, out) contiguous or null
  virtual void restore(const Source& x, const Source& a, const Source* z) = 0;     // of a single layer
  virtual double loss(const Source& y, bool y_is_label, const double* weight, idx weights, double total, bool gradient) = 0;
  // grad_output null: what `loss` left; grads null: `update` is run on the gradient instead, or where that is null too,
  // grad_input alone is made
  virtual void backward(const Source* grad_output, void* grads, const Update* update, void* grad_input,
                        bool accumulate) = 0;
  virtual void update(void* grads, const Update& update) = 0;
  virtual bool finite() const = 0;
  // How `train` computes each layer of a batch of `rows`, on how many threads forward and back.
  virtual void describe(idx rows, LayerPlan* plans) const = 0;
  int64_t workspace_bytes = 0;   // made with it, none that it shares; an order of rows and a caller's grad_input come when first asked for
};

// Throws std::bad_alloc. `params` outlives the program. `like`: null, or another program of the same layers and itemsize
// that never works at the same time and keeps nothing from call to call: they share what they work in.
Program* make_program(const Isa& isa, int itemsize, const Shape& shape, void* params, const Program* like = nullptr);
}  // namespace fbp
