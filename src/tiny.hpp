// The TINY family seen from the training loop: dense copies of the parameters and their slots for the length of a call
// of `train`, and batches gathered well before they are used, a group of them at a time.
#pragma once
#include <memory>
#include <vector>

#include "memory.hpp"
#include "own.hpp"

namespace fbp {

// An optimizer's rule at one step.
template <class T> struct Step {
  const OptimizerKernels<T>* kernels;
  int row;               // of the table, or -1
  UpdateRow<T> update;
  T* slots[MAX_SLOTS];   // whole buffers in the layout of the parameters, or null
  const T* scalars;      // (groups, MAX_SCALARS); of a tiny network (steps, MAX_SCALARS)
  const T* l1;           // of each group
  idx n_groups;
  Around<T> around;      // without l1; `average` is a whole buffer
  T max_norm;            // or infinity: then `average` waits for that
};

// Each row's part of the loss: weight * scale / (sum of weights), zeros up to the end of the widest vector. Where each
// target has a weight, a row has the largest of its own, and each target the part of it that it has; rows are summed by
// their mean, which is that weight itself, to the last bit, where all are the same.
template <class T> class Shares {
 public:
  // A loss's targets lie (rows, ld), or transposed (targets, ld); `output_weight`: of each of them, or null.
  Shares(idx batch, double scale, idx ld, bool transposed, const T* output_weight)
      : scale_(scale), share_(batch + WIDEST), batch_(batch), ld_(ld), transposed_(transposed),
        output_weight_(output_weight) {}
  // `total` stands for the sum of the batch's weights unless it is negative; `weights`: of a row.
  const double* of(const double* weight, idx weights, idx start, const uint32_t* order, idx rows, double total);
  // Of Loss, for the batch that `of` was last asked for.
  const T* weight() const { return each_ ? part_.data() : output_weight_; }
  idx ldw() const { return each_ ? ld_ : 0; }

 private:
  double take_row(const double* weight, idx weights, idx m);

  const double scale_;
  Buffer<double> share_;
  idx rows_ = 0;          // of the batch without weights that share_ is filled for
  double total_ = 0;
  const idx batch_, ld_;
  const bool transposed_;
  const T* const output_weight_;
  Buffer<T> part_;        // of each target times its output's weight; made when first needed
  bool each_ = false;     // it is of this batch
};

// Steps on batches that follow one another.
struct Stretch {
  const double* weight;   // of Data, as the next
  idx weights;
  idx start;              // of the first batch
  const uint32_t* order;
  idx rows, steps;        // of a batch; batches
  bool constant;          // each step has the same scalars
  bool stop_on_loss;
  uint64_t seed;          // of dropout,
  int64_t count;          // and net.step
};

// A tiny network, in one of two layouts.
template <class T> class Tiny {
 public:
  virtual ~Tiny() {}
  void enter(const T* params, T* const* slots);
  void leave(T* params, T* const* slots) const;
  double weight_squares() const;        // their sum
  // Makes sure that the batch of `rows` rows from row `start` on, in `order` where there is one, lies ready, and gives
  // the number of such batches that do, up to row `end`; `fresh` where the order has changed since the last call.
  virtual idx gather(const Data& data, idx start, idx end, const uint32_t* order, bool fresh, idx rows) = 0;
  // Trains on batches that lie ready. Gives the steps done; `losses` gets the loss of each, and of the one that ends the
  // call because it is not finite, which `stop_on_loss` asks for.
  virtual idx train(const Stretch& stretch, const Step<T>& step, double* losses) = 0;

 protected:
  enum { GROUP = 256 };                 // rows gathered at once, at least a batch
  // Where a layer lies in params_ and slots_: weight (in, ld), or (out, ld) where `transposed`; bias -1: none.
  struct Place { idx weight, ld; bool transposed; idx bias; };
  Tiny(const Kernels<T>& kernels, const Shape& shape, LossRow<T> loss, const OwnLoss<T>* own_loss, const T* setting,
       const T* output_weight);
  void place(std::vector<Place> places, idx n_params);
  template <class Copy> void each_parameter(Copy copy) const;
  // Of `gather`: gather(count) puts rows start.. into the buffers where they are not there yet.
  template <class Gather> idx grouped(idx start, idx end, bool fresh, idx rows, Gather gather);

  const Kernels<T>& kernels_;
  const LossRow<T> loss_row_;
  const OwnLoss<T>* const own_loss_;    // of the network, as the next
  const T* const setting_;
  const std::vector<LayerShape> shapes_;
  const idx room_;                      // rows of a group
  std::vector<Place> places_;
  idx n_params_ = 0;
  Buffer<T> params_, slots_[MAX_SLOTS], gradient_;
  Buffer<int32_t> label_;
  Shares<T> shares_;
  idx group_begin_ = 0, group_end_ = 0; // rows of the epoch that are gathered
};

// What trains a tiny network: a hidden unit per lane in batches of at most so many rows, else a sample per lane; null where
// neither serves it.
template <class T> struct TinyPair {
  std::unique_ptr<Tiny<T>> units, samples;
  idx units_rows;
  Tiny<T>* of(idx rows) const { return units && rows <= units_rows ? units.get() : samples.get(); }
};
template <class T>
TinyPair<T> make_tiny(const Kernels<T>& kernels, const Shape& shape, LossRow<T> loss, const OwnLoss<T>* own_loss,
                      const T* setting, const T* output_weight);
}  // namespace fbp
