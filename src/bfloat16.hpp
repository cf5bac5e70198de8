// The training steps of a network whose products multiply numbers that are rounded to bfloat16: what `Network` in
// train.cpp leaves to it is the way forward and the way back, between the rows of a batch and the loss.
//
// Parameters, the loss and the rule are float32. Each weight has a rounded copy, which every update writes along;
// activations and deltas of hidden layers exist rounded alone.
#pragma once
#include <vector>

#include "layout.hpp"
#include "memory.hpp"
#include "own.hpp"

namespace fbp {

class Bfloat16 {
 public:
  // What a layer's gradients are for, as `GradWeight` has it; null where there is none.
  struct Wanted {
    const GradWeight<float>* weight;
    const GradWeight<float>* bias;
  };
  enum { STORE = -2, BY_CALL = -1 };   // beside the rows of the table of optimizers

  Bfloat16(const Bfloat16Kernels& rounded, const Kernels<float>& kernels, const Shape& shape, float* params);
  // A call begins. The weights are rounded, and no rows are kept from the call before, unless this `goes_on` where that
  // ended. `epochs`: how often it comes to each row.
  void enter(Team& team, bool goes_on, idx epochs);
  void round_weights(Team& team);      // they were changed from elsewhere
  void set_rule(int rule);             // what becomes of a gradient: a row of optimizers, or one of the above
  void bind(idx rows, int n_threads);  // of the batch that comes, and how many threads it may have
  // The rows of a batch, or those at the places of an order.
  void set_input(Team& team, const float* x, idx ldx, const uint32_t* order);
  // Rows from `start` on of n rows that are the same as long as calls go on: what is rounded is kept, where it fits.
  void set_kept_input(Team& team, const float* x, idx ldx, idx start, idx n);
  // To z and a of the output layer, (rows, ld). (seed, step): of dropout.
  void forward(Team& team, uint64_t seed, int64_t step, float* z, float* a, idx ld);
  // From delta of the output layer; `wanted` says it of each layer.
  template <class F> void backward(Team& team, const float* delta, idx ldd, const F& wanted) {
    for (size_t l = 0; l < layers_.size(); l++) layers_[l].wanted = wanted(l);
    backward(team, delta, ldd);
  }
  void describe(idx rows, int n_threads, LayerPlan* plans) const;

 private:
  struct Matrix {
    Buffer<uint16_t> row;
    Buffer<uint32_t> pair;
    idx ldr, ldp;
    Matrix(idx rows, idx cols, bool rows_too);
    Rounded forms(idx m = 0) const {   // from row m on, an even one
      return {row.data() ? row.data() + m * ldr : nullptr, ldr, pair.data() + m / 2 * ldp, ldp};
    }
  };
  struct Layer {
    LayerShape shape;
    const float* weight;
    const float* bias;
    ActivationKernels<float> called;
    RoundedActivation activation;
    Matrix x, delta;            // its inputs, as dropout has left them, and dL/dz
    Buffer<uint32_t> pairs;     // of the weight
    Buffer<uint16_t> kept;      // its inputs before dropout, but for the network's own
    Buffer<uint16_t> words;     // of dropout
    Buffer<float> z;            // where it is kept
    Wanted wanted;
    Dropped dropped() const;
  };
  void backward(Team& team, const float* delta, idx ldd);
  bool is_last(const Layer& layer) const { return &layer == &layers_.back(); }
  Split share_forward(const Layer& layer, idx rows, int n_threads) const;
  Split share_backward(const Layer& layer, idx rows, int n_threads) const;
  Split share_rows(idx rows, idx cols) const;
  void draw_words(Team& team, Layer& layer, uint64_t seed, int64_t step);
  void round(Team& team, const float* x, idx ldx, const uint32_t* order, idx rows, idx cols, const Rounded& to) const;

  const Bfloat16Kernels& rounded_;
  const Kernels<float>& kernels_;
  const bool gated_;
  const int most_threads_;
  std::vector<Layer> layers_;
  Rounded input_ = {};          // of the batch at hand
  Matrix kept_{0, 0, false};    // rows of calls that go on, in order ...
  Buffer<uint8_t> is_kept_;     // ... and for each pair of them whether it is there
  bool keeps_ = false;          // in the call at hand
  Buffer<uint32_t> panels_;
  idx panel_size_ = 0, rows_ = 0;
  int n_threads_ = 1;
  RoundedUpdateKernel rule_ = nullptr;
};
}  // namespace fbp
