// The training loop: epoch -> batch -> layer. Knows no ISA: it asks the kernels of the plan's.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "memory.hpp"
#include "order.hpp"
#include "program.hpp"

namespace fbp {
namespace {

template <class T> const Kernels<T>& kernels_of(const Isa& isa);
template <> const Kernels<float>& kernels_of(const Isa& isa) { return isa.f32; }
template <> const Kernels<double>& kernels_of(const Isa& isa) { return isa.f64; }

constexpr idx BAD_STRIDE = 1024;   // bytes: rows a multiple of this apart meet in the same cache sets

template <class T> struct Layer {
  LayerShape shape;
  T* weight;
  T* bias;                          // or null
  ForwardRow<T> forward;            // null: identity
  BackwardRow<T> backward;
  Buffer<T> kept_z;                 // (batch, ld) where the way back needs it
  Buffer<T> a, delta;               // (batch, ld)
  T* z() const { return shape.keeps_z ? kept_z.data() : a.data(); }
};

template <class T> class Network final : public Program {
 public:
  Network(const Isa& isa, const Shape& shape, T* params);
  Trained train(const Data& data, const Run& run, const Rule& rule) override;
  void forward(const Source& x, void* out, bool keep) override;
  void restore(const Source& x, const Source& a, const Source* z) override;
  double loss(const Source& y, bool y_is_label, const double* weight, double total, bool gradient) override;
  void backward(const Source* grad_output, void* grads, const Rule* rule, void* grad_input, bool accumulate) override;
  void update(void* grads, const Rule& rule) override;
  bool finite() const override;

 private:
  struct Step {                     // an optimizer's rule at one step
    UpdateRow<T> update;
    T* slots[MAX_SLOTS];
    T scalars[MAX_SCALARS];
  };
  void set_step(const Rule& rule, idx k, Step& step) const;
  void set_input(const Source& x, idx start, const uint32_t* order, idx rows, bool keep);
  template <class E> void gather(const Source& from, E* to, idx ld, idx start = 0, const uint32_t* order = nullptr) const;
  Target<T> gather_target(const Source& y, bool is_label, idx start, const uint32_t* order);
  double batch_loss(Target<T> target, const double* weight, idx start, const uint32_t* order, double total,
                    bool gradient);
  void run_forward();
  void run_backward(T* grads, const Step* step, T* grad_input, idx ld_grad_input, bool accumulate);
  void run_update(T* grads, const Step& step);
  GradWeight<T> parameters(idx offset, T* grads, const Step* step, bool accumulate) const;

  const Kernels<T>& kernels_;
  T* const params_;
  const Shape shape_;
  std::vector<Layer<T>> layers_;
  Buffer<T> gathered_;              // (batch, ld_input)
  Buffer<T> target_;                // (batch, ld of the output)
  Buffer<int32_t> label_;
  Buffer<double> share_;            // each row's part of the loss
  Buffer<T> panel_, grad_input_, grads_;
  Buffer<uint32_t> order_;
  uint64_t order_seed_ = 0;
  int64_t order_epoch_ = -1;
  const T* x_ = nullptr;            // the batch at hand
  idx ldx_ = 0, rows_ = 0;
};

template <class T>
Network<T>::Network(const Isa& isa, const Shape& shape, T* params)
    : kernels_(kernels_of<T>(isa)), params_(params), shape_(shape), gathered_(shape.batch * shape.ld_input), share_(shape.batch) {
  idx most_out = 0, n_params = 0;
  for (int l = 0; l < shape.n_layers; l++) {
    const LayerShape& s = shape.layers[l];
    const bool identity = s.activation < 0;
    const size_t size = static_cast<size_t>(shape.batch) * s.ld;
    layers_.push_back({s, params + s.weight, s.bias < 0 ? nullptr : params + s.bias,
                       identity ? nullptr : kernels_.activation_forward[s.activation],
                       identity ? nullptr : kernels_.activation_backward[s.activation],
                       Buffer<T>(s.keeps_z ? size : 0), Buffer<T>(size), Buffer<T>(size)});
    most_out = s.out > most_out ? s.out : most_out;
    n_params = s.weight + s.in * s.ld + (s.bias < 0 ? 0 : s.ld);
  }
  panel_ = Buffer<T>(most_out * kernels_.panel_columns);
  if (shape.loss >= 0) {
    target_ = Buffer<T>(shape.batch * layers_.back().shape.ld);
    label_ = Buffer<int32_t>(shape.batch);
  }
  if (!shape.fused) grads_ = Buffer<T>(n_params);
}

// ------------------------------------------------------------------ many steps

template <class T> Trained Network<T>::train(const Data& data, const Run& run, const Rule& rule) {
  const idx n = data.x.rows;
  Trained done{0, 0, DONE, 0};
  if (run.shuffle && static_cast<idx>(order_.size()) != n) {
    order_ = Buffer<uint32_t>(n);
    order_epoch_ = -1;
  }
  Step step;
  for (idx k = 0; k < run.steps; k++) {
    const int64_t epoch = run.place[0];
    const idx start = run.place[1], rows = run.batch_size < n - start ? run.batch_size : n - start;
    if (run.shuffle && (order_epoch_ != epoch || order_seed_ != run.seed)) {
      epoch_order(run.seed, static_cast<uint64_t>(epoch), static_cast<uint32_t>(n), order_.data());
      order_epoch_ = epoch;
      order_seed_ = run.seed;
    }
    const uint32_t* order = run.shuffle ? order_.data() : nullptr;

    set_input(data.x, start, order, rows, false);
    run_forward();
    done.loss = batch_loss(gather_target(data.y, data.y_is_label, start, order), data.weight, start, order, -1, true);
    if (run.stop_on_loss && !std::isfinite(done.loss)) {
      done.status = LOSS_NOT_FINITE;
      return done;
    }
    set_step(rule, k, step);
    if (shape_.fused) {
      run_backward(nullptr, &step, nullptr, 0, false);
    } else {
      run_backward(grads_.data(), nullptr, nullptr, 0, false);
      run_update(grads_.data(), step);
    }

    done.steps++;
    run.count[0]++;
    run.partial[0] += done.loss * static_cast<double>(rows);
    run.partial[1] += static_cast<double>(rows);
    run.place[1] = start + rows;
    if (start + rows == n) {
      run.losses[done.epochs++] = run.partial[0] / run.partial[1];
      run.partial[0] = run.partial[1] = 0;
      run.place[0] = epoch + 1;
      run.place[1] = 0;
    }
    if (run.stop_on_params && !finite()) {
      done.status = PARAMS_NOT_FINITE;
      return done;
    }
  }
  return done;
}

template <class T> void Network<T>::set_step(const Rule& rule, idx k, Step& step) const {
  step.update = kernels_.update[rule.row];
  for (int s = 0; s < MAX_SLOTS; s++) step.slots[s] = static_cast<T*>(rule.slots[s]);
  for (int s = 0; s < rule.n_scalars; s++) {
    const Scalar& scalar = rule.scalars[s];
    step.scalars[s] = static_cast<T>(*reinterpret_cast<const double*>(scalar.data + k * scalar.stride));
  }
}

// ------------------------------------------------------------------ a batch

// Rows start..start+rows of x, in `order` where there is one: where they lie, or gathered into the workspace when they
// are shuffled, cast, strided, unaligned, or wide at a bad stride.
template <class T>
void Network<T>::set_input(const Source& x, idx start, const uint32_t* order, idx rows, bool keep) {
  const idx size = sizeof(T);
  rows_ = rows;
  const bool in_place = !order && !keep && x.kind == 'f' && x.itemsize == size && !x.swapped &&
                        (x.cols == 1 || x.col_stride == size) && x.row_stride % size == 0 &&
                        reinterpret_cast<uintptr_t>(x.data) % size == 0 && (rows == 1 || x.row_stride % BAD_STRIDE);
  if (in_place) {
    x_ = reinterpret_cast<const T*>(x.data + start * x.row_stride);
    ldx_ = x.row_stride / size;
    return;
  }
  gather(x, gathered_.data(), shape_.ld_input, start, order);
  x_ = gathered_.data();
  ldx_ = shape_.ld_input;
}

// The batch's rows of `from`, cast to E, into rows `ld` apart.
template <class T>
template <class E>
void Network<T>::gather(const Source& from, E* to, idx ld, idx start, const uint32_t* order) const {
  const CastRow<E> cast = cast_row<E>(from);
  for (idx m = 0; m < rows_; m++)
    cast(from.data + (order ? order[start + m] : start + m) * from.row_stride, from.col_stride, to + m * ld, from.cols);
}

template <class T>
Target<T> Network<T>::gather_target(const Source& y, bool is_label, idx start, const uint32_t* order) {
  if (is_label) {
    gather(y, label_.data(), 1, start, order);
    return {nullptr, 0, label_.data()};
  }
  const idx ld = layers_.back().shape.ld;
  gather(y, target_.data(), ld, start, order);
  return {target_.data(), ld, nullptr};
}

// sum(w l) / total over the batch at hand; total < 0 stands for the batch's own sum of weights.
template <class T>
double Network<T>::batch_loss(Target<T> target, const double* weight, idx start, const uint32_t* order, double total,
                              bool gradient) {
  double* share = share_.data();
  double sum = 0;
  for (idx m = 0; m < rows_; m++) {
    share[m] = weight ? weight[order ? order[start + m] : start + m] : 1;
    sum += share[m];
  }
  if (total < 0) total = sum;
  const double scale = total > 0 ? shape_.loss_scale / total : 0;   // all weights zero: a loss of zero, no gradient
  for (idx m = 0; m < rows_; m++) share[m] *= scale;
  const Layer<T>& last = layers_.back();
  return kernels_.loss[shape_.loss](last.a.data(), last.shape.ld, target, share, gradient ? last.delta.data() : nullptr,
                                    rows_, last.shape.out);
}

template <class T> void Network<T>::run_forward() {
  const T* x = x_;
  idx ldx = ldx_;
  for (const Layer<T>& layer : layers_) {
    const LayerShape& s = layer.shape;
    kernels_.forward({rows_, s.in, x, ldx, layer.weight, layer.bias, layer.z(), layer.a.data(), s.ld, layer.forward}, 0,
                     s.out);
    x = layer.a.data();
    ldx = s.ld;
  }
}

// The last layer's delta holds dL/da. Each layer makes the delta below from its old weights, then its gradient:
// stored in `grads`, or turned into the update of `step` while it is hot.
template <class T>
void Network<T>::run_backward(T* grads, const Step* step, T* grad_input, idx ld_grad_input, bool accumulate) {
  const Layer<T>& last = layers_.back();
  if (last.backward)
    last.backward(last.delta.data(), last.a.data(), last.z(), last.shape.ld, rows_, last.shape.out);
  for (size_t l = layers_.size(); l-- > 0;) {
    const Layer<T>& layer = layers_[l];
    const LayerShape& s = layer.shape;
    if (l > 0) {
      const Layer<T>& below = layers_[l - 1];
      kernels_.grad_input({rows_, s.in, s.out, layer.delta.data(), layer.weight, s.ld, below.delta.data(),
                           below.shape.ld, below.a.data(), below.z(), below.backward, panel_.data()}, 0, s.in);
    } else if (grad_input) {
      kernels_.grad_input({rows_, s.in, s.out, layer.delta.data(), layer.weight, s.ld, grad_input, ld_grad_input,
                           nullptr, nullptr, nullptr, panel_.data()}, 0, s.in);
    }
    GradWeight<T> gradient = parameters(s.weight, grads, step, accumulate);
    gradient.rows = rows_;
    gradient.in = s.in;
    gradient.out = s.out;
    gradient.x = l ? layers_[l - 1].a.data() : x_;
    gradient.ldx = l ? layers_[l - 1].shape.ld : ldx_;
    gradient.delta = layer.delta.data();
    gradient.ld = s.ld;
    kernels_.grad_weight(gradient, 0, s.in);
    if (!layer.bias) continue;
    GradWeight<T> bias = parameters(s.bias, grads, step, accumulate);
    bias.rows = rows_;
    bias.out = s.out;
    bias.delta = layer.delta.data();
    bias.ld = s.ld;
    kernels_.grad_bias(bias);
  }
}

// Where a weight or a bias, its slots and its gradient lie; without a step the gradient is stored.
template <class T>
GradWeight<T> Network<T>::parameters(idx offset, T* grads, const Step* step, bool accumulate) const {
  GradWeight<T> g{};
  g.weight = params_ + offset;
  g.grad = grads ? grads + offset : nullptr;
  g.accumulate = accumulate;
  if (step) {
    g.update = step->update;
    g.scalars = step->scalars;
    for (int i = 0; i < MAX_SLOTS; i++) g.slots[i] = step->slots[i] ? step->slots[i] + offset : nullptr;
  }
  return g;
}

template <class T> void Network<T>::run_update(T* grads, const Step& step) {
  for (const Layer<T>& layer : layers_) {
    const LayerShape& s = layer.shape;
    const GradWeight<T> weight = parameters(s.weight, grads, &step, false);
    step.update(weight.weight, weight.slots, s.ld, weight.grad, s.ld, s.in, s.out, step.scalars);
    if (!layer.bias) continue;
    const GradWeight<T> bias = parameters(s.bias, grads, &step, false);
    step.update(bias.weight, bias.slots, s.ld, bias.grad, s.ld, 1, s.out, step.scalars);
  }
}

// ------------------------------------------------------------------ one verb at a time

template <class T> void Network<T>::forward(const Source& x, void* out, bool keep) {
  set_input(x, 0, nullptr, x.rows, keep);
  run_forward();
  if (!out) return;
  const Layer<T>& last = layers_.back();
  for (idx m = 0; m < rows_; m++)
    std::memcpy(static_cast<T*>(out) + m * last.shape.out, last.a.data() + m * last.shape.ld,
                static_cast<size_t>(last.shape.out) * sizeof(T));
}

template <class T> void Network<T>::restore(const Source& x, const Source& a, const Source* z) {
  const Layer<T>& layer = layers_.back();
  set_input(x, 0, nullptr, x.rows, true);
  gather(a, layer.a.data(), layer.shape.ld);
  if (z && layer.shape.keeps_z) gather(*z, layer.z(), layer.shape.ld);
}

template <class T>
double Network<T>::loss(const Source& y, bool y_is_label, const double* weight, double total, bool gradient) {
  return batch_loss(gather_target(y, y_is_label, 0, nullptr), weight, 0, nullptr, total, gradient);
}

template <class T>
void Network<T>::backward(const Source* grad_output, void* grads, const Rule* rule, void* grad_input, bool accumulate) {
  const Layer<T>& last = layers_.back();
  if (grad_output) gather(*grad_output, last.delta.data(), last.shape.ld);
  if (grad_input && !grad_input_.size()) grad_input_ = Buffer<T>(shape_.batch * shape_.ld_input);
  Step step;
  if (rule) set_step(*rule, 0, step);
  run_backward(static_cast<T*>(grads), rule ? &step : nullptr, grad_input ? grad_input_.data() : nullptr,
               shape_.ld_input, accumulate);
  const idx in = layers_.front().shape.in;
  if (grad_input)
    for (idx m = 0; m < rows_; m++)
      std::memcpy(static_cast<T*>(grad_input) + m * in, grad_input_.data() + m * shape_.ld_input,
                  static_cast<size_t>(in) * sizeof(T));
}

template <class T> void Network<T>::update(void* grads, const Rule& rule) {
  Step step;
  set_step(rule, 0, step);
  run_update(static_cast<T*>(grads), step);
}

template <class T> bool Network<T>::finite() const {
  const auto row_finite = [](const T* p, idx n) {
    int64_t bad = 0;
    for (idx i = 0; i < n; i++) bad += !(std::fabs(p[i]) <= std::numeric_limits<T>::max());
    return bad == 0;
  };
  for (const Layer<T>& layer : layers_) {
    const LayerShape& s = layer.shape;
    for (idx i = 0; i < s.in; i++)
      if (!row_finite(layer.weight + i * s.ld, s.out)) return false;
    if (layer.bias && !row_finite(layer.bias, s.out)) return false;
  }
  return true;
}
}  // namespace

Program* make_program(const Isa& isa, int itemsize, const Shape& shape, void* params) {
  if (itemsize == 4) return new Network<float>(isa, shape, static_cast<float*>(params));
  return new Network<double>(isa, shape, static_cast<double*>(params));
}
}  // namespace fbp
