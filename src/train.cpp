// The training loop: epoch -> batch -> layer. Knows no ISA: it asks the kernels of the plan's.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "bfloat16.hpp"
#include "dispatch.hpp"
#include "layout.hpp"
#include "memory.hpp"
#include "tiny.hpp"

namespace fbp {
namespace {

constexpr idx MAX_STRETCH = 64;    // steps of a tiny network between two looks at the epoch
constexpr idx ORDERS = 16;         // of coming epochs that are made at once,
constexpr idx ORDER_ROWS = 4096;   // where they have no more rows than these together
constexpr idx SQUARES_ROWS = 16;   // rows whose squares are summed in one go, whatever the number of threads

// Leading dimension of a layer's z, a and delta.
template <class T> idx ld_of(const LayerShape& s, idx batch) { return padded<T>(s.transposed ? batch : s.out); }

// n numbers in whole vectors, or nothing.
template <class T> Buffer<T> copied(const double* from, idx n) {
  Buffer<T> to(n ? padded<T>(n) : 0);
  for (idx i = 0; i < n; i++) to.data()[i] = static_cast<T>(from[i]);
  return to;
}

template <class T> struct Layer {
  LayerShape shape;
  T* weight;
  T* bias;                          // or null
  ActivationKernels<T> activation;
  idx ld;                           // leading dimension of z, a and delta
  Shared<T> kept_z;                 // (batch, ld) where the way back needs it; transposed layers (out, ld)
  Shared<T> a, delta;               // in the same shape
  Shared<T> dropped;                // (batch, ld of the inputs): what the inputs are in training, with dropout
  Shared<uint16_t> words;           // (batch, whole blocks of inputs): which of them are dropped
  Shared<int32_t> used;             // SINGLE: the inputs looked at
  Shared<T> partial;                // SINGLE: sums over blocks of them
  // What the kernels are called with, and which; bound for a number of rows and a use of the gradient.
  Family family;
  Forward<T> forward;
  GradInput<T> grad_input;
  GradWeight<T> grad_weight, grad_bias;
  ForwardKernel<T> run_forward;
  BackwardKernel<T> run_both;       // or, where it is null, the next two
  GradInputKernel<T> run_grad_input;
  GradWeightKernel<T> run_grad_weight;
  GradBiasKernel<T> run_grad_bias;  // null: no bias
  Split forward_split, backward_split;

  T* z() const { return shape.keeps_z ? kept_z.data() : a.data(); }
};

template <class T> Family family_of(const Layer<T>& layer, idx rows, idx lanes) {
  return fbp::family_of(layer.shape.transposed, rows, layer.shape.out, lanes);
}

template <class T> class Network final : public Program {
 public:
  Network(const Isa& isa, const Shape& shape, T* params, const Network* like);
  Trained train(const Data& data, const Run& run, const Update& update) override;
  void forward(const Source& x, void* out, bool keep) override;
  void restore(const Source& x, const Source& a, const Source* z) override;
  double loss(const Source& y, bool y_is_label, const double* weight, idx weights, double total,
              bool gradient) override;
  void backward(const Source* grad_output, void* grads, const Update* update, void* grad_input,
                bool accumulate) override;
  void update(void* grads, const Update& update) override;
  bool finite() const override;
  void describe(idx rows, LayerPlan* plans) const override;

 private:
  idx train_batch(const Data& data, idx start, const uint32_t* order, const Step<T>& step, const Run& run,
                  const Update& update, idx* phase, double* loss);
  Step<T> step_of(const Update& update);
  void set_scalars(const Update& update, idx k, idx count);
  void set_input(const Source& x, idx start, const uint32_t* order, idx rows, bool keep);
  template <class E>
  void gather(const Source& from, E* to, idx ld, bool transposed, idx start = 0, const uint32_t* order = nullptr) const;
  double batch_loss(const Source& y, bool is_label, const double* weight, idx weights, idx start,
                    const uint32_t* order, double total, bool gradient);
  void bind_forward(bool training);
  void bind_backward(T* grads, const Step<T>* step, T* grad_input, bool accumulate);
  GradWeight<T> parameters(size_t layer, bool bias, T* grads, const Step<T>* step, bool accumulate) const;
  void drop_inputs(Layer<T>& layer, uint64_t seed, int64_t step);
  void run_forward(bool skip_zeros, const Run* training);
  void run_backward();
  void set_rounded_input(const Source& x, idx start, const uint32_t* order, idx rows);
  void run_forward_rounded(const Run& run);
  void run_backward_rounded();
  Split share(idx n, idx unit, double work, double of_a_thread) const;
  Split share(int n_threads, idx n, idx unit, double work, double of_a_thread) const;
  Split share_forward(const Layer<T>& layer, Family family, idx rows, int n_threads) const;
  Split share_backward(const Layer<T>& layer, Family family, idx rows, int n_threads) const;
  double forward_flops(const Layer<T>& layer, idx rows) const;
  double backward_flops(const Layer<T>& layer, idx rows) const;
  int threads_of_a_step(idx rows) const;
  template <class F> void each_part(const Split& split, const F& f) const;
  void run_update(T* grads, const Step<T>& step, T scale);
  T clipping(T* grads, T scale, double most);
  double squares(const T* matrix, const LayerShape& s);
  double weight_squares();
  void finish_step(const Step<T>& step);

  const Kernels<T>& kernels_;
  T* const params_;
  Buffer<T> own_loss_scratch_;
  const OwnLoss<T> own_loss_;
  const LossRow<T> loss_row_;       // null where the plan has no loss
  const bool fused_, gated_;
  const int n_threads_;
  std::vector<Layer<T>> layers_;
  const idx ld_input_;
  Shared<T> gathered_;              // (batch, ld_input_)
  Shared<T> target_;                // (batch, ld of the output)
  Buffer<int32_t> label_;
  const Buffer<T> setting_, output_weight_;   // of the loss
  Shares<T> shares_;
  Shared<T> panels_, grads_;
  Buffer<T> grad_input_;
  Buffer<T> scalars_, l1_;          // of the step at hand: (groups, MAX_SCALARS), or (steps, MAX_SCALARS); (groups)
  Buffer<double> squares_;          // sums over blocks of rows of a matrix
  bool drops_ = false;              // the batch at hand is trained on, with dropout
  idx ld_panel_ = 0;                // from one thread's to the next's
  Buffer<uint32_t> order_;          // (order_epochs_, order_rows_): those of order_seed_ from order_epoch_ on
  idx order_rows_ = 0;
  uint64_t order_seed_ = 0;
  int64_t order_epoch_ = 0;
  idx order_epochs_ = 0;
  TinyPair<T> tiny_{nullptr, nullptr, 0};   // the training steps of a tiny network
  Tiny<T>* training_ = nullptr;     // which of them has the parameters
  std::unique_ptr<Bfloat16> bfloat16_;      // those of one whose products are rounded; at most one of the two
  Team* team_ = nullptr;            // of the call at hand
  const T* x_ = nullptr;            // the batch at hand
  idx ldx_ = 0, rows_ = 0;
};

template <class T>
Network<T>::Network(const Isa& isa, const Shape& shape, T* params, const Network* like)
    : kernels_(kernels_of<T>(isa)), params_(params),
      own_loss_scratch_(shape.own_loss ? OWN_LOSS_PARTS * own_loss_part(shape.batch, shape.layers[shape.n_layers - 1].out)
                                       : 0),
      own_loss_{reinterpret_cast<OwnLossRow<T>>(shape.own_loss), shape.own_loss_uses_lse, shape.own_loss_pairs,
                own_loss_scratch_.data()},
      loss_row_(shape.own_loss ? own_loss_row<T> : shape.loss < 0 ? nullptr : kernels_.loss[shape.loss]),
      fused_(shape.fused), gated_(shape.gated),
      n_threads_(std::min<int>(shape.n_threads, MAX_THREADS)),
      ld_input_(padded<T>(shape.layers[0].in)),
      gathered_(shape.batch * ld_input_, like ? &like->gathered_ : nullptr), setting_(copied<T>(shape.settings, shape.n_settings)),
      output_weight_(copied<T>(shape.output_weights, shape.n_output_weights)),
      shares_(shape.batch, shape.loss_scale, ld_of<T>(shape.layers[shape.n_layers - 1], shape.batch),
              shape.layers[shape.n_layers - 1].transposed, output_weight_.data()) {
  idx most_out = 0, n_params = 0;
  int most_parts = 1;
  for (int l = 0; l < shape.n_layers; l++) {
    const LayerShape& s = shape.layers[l];
    const idx ld = ld_of<T>(s, shape.batch);
    const bool unused = shape.rounds && l + 1 < shape.n_layers;   // hidden layers have matrices of their own there
    const bool drops = s.dropout > 0 && !(shape.rounds && l);
    const size_t size = unused ? 0 : static_cast<size_t>(s.transposed ? s.out : shape.batch) * ld;
    const Layer<T>* const other = like ? &like->layers_[static_cast<size_t>(l)] : nullptr;
    const auto room = [other](auto Layer<T>::*which, size_t n) {
      return std::decay_t<decltype(other->*which)>(n, other ? &(other->*which) : nullptr);
    };
    layers_.push_back({s, params + s.weight, s.bias < 0 ? nullptr : params + s.bias,
                       activation_of(kernels_, s),
                       ld, room(&Layer<T>::kept_z, s.keeps_z ? size : 0), room(&Layer<T>::a, size),
                       room(&Layer<T>::delta, size),
                       room(&Layer<T>::dropped, drops ? shape.batch * padded<T>(s.in) : 0),
                       room(&Layer<T>::words, drops ? shape.batch * s.drop_blocks() * DROP_BLOCK : 0),
                       room(&Layer<T>::used, s.in),
                       room(&Layer<T>::partial, s.transposed ? 0 : (s.in + SINGLE_INPUTS - 1) / SINGLE_INPUTS * ld),
                       DIRECT, {}, {}, {}, {}, nullptr, nullptr, nullptr, nullptr, nullptr, {}, {}});
    most_out = s.out > most_out ? s.out : most_out;
    n_params = s.weight + (s.transposed ? s.out : s.in) * s.ldw + (s.bias < 0 ? 0 : padded<T>(s.out));
  }
  for (const Layer<T>& l : layers_) most_parts = std::max(most_parts, share_backward(l, DIRECT, shape.batch, n_threads_).parts);
  ld_panel_ = most_out * kernels_.panel_columns;
  panels_ = {static_cast<size_t>(most_parts * ld_panel_), like ? &like->panels_ : nullptr};
  if (loss_row_) {
    target_ = {layers_.back().a.size(), like ? &like->target_ : nullptr};
    label_ = Buffer<int32_t>(shape.batch);
  }
  if (!shape.fused) grads_ = {static_cast<size_t>(n_params), like ? &like->grads_ : nullptr};
  scalars_ = Buffer<T>(std::max<idx>(MAX_STRETCH, 2 * shape.n_layers) * MAX_SCALARS);
  l1_ = Buffer<T>(2 * shape.n_layers);
  if constexpr (std::is_same<T, float>::value)
    if (shape.rounds) bfloat16_.reset(new Bfloat16(*bfloat16_of(isa), kernels_, shape, params));
  if (!bfloat16_) tiny_ = make_tiny<T>(kernels_, shape, loss_row_, &own_loss_, setting_.data(), output_weight_.data());
}

// ------------------------------------------------------------------ many steps

// At an epoch's end, scikit-learn's rule: whether too many epochs in a row have not got better by `tol`. After a NaN
// they are counted anew.
inline bool stalled(double loss, double* stall) {
  double &best = stall[0], &bad = stall[3];
  const double tol = stall[1], patience = stall[2];
  bad = loss > best - tol ? bad + 1 : 0;
  if (loss < best) best = loss;
  return bad > patience;
}

template <class T> Trained Network<T>::train(const Data& data, const Run& run, const Update& update) {
  Team team;
  team_ = &team;
  const idx n = data.x.rows;
  if ((run.shuffle || run.orders) && order_rows_ != n) {
    order_ = Buffer<uint32_t>(std::max<idx>(std::min(ORDERS, ORDER_ROWS / n), 1) * n);
    order_rows_ = n;
    order_epochs_ = 0;
  }
  const uint32_t* order = nullptr;
  int64_t order_of = -1;                 // the epoch whose order that is
  const int64_t* given = run.orders;     // of the epoch at hand, until it is in order_
  const Step<T> step = step_of(update);
  T* const grads = fused_ ? nullptr : update.accumulated ? static_cast<T*>(update.accumulated) : grads_.data();
  idx bound = 0, phase = update.phase;   // rows that the layers are bound for; batches since the last update
  bool constant = true;
  for (const Scalar& scalar : update.scalars) constant = constant && scalar.stride == 0;
  if (bfloat16_) bfloat16_->enter(team, run.goes_on, run.steps * run.batch_size / n);
  const int rounded_rule = !fused_ ? Bfloat16::STORE : step.around.on || update.own ? Bfloat16::BY_CALL : update.row;

  Trained done{0, 0, DONE, 0};
  while (done.steps < run.steps && done.status == DONE) {
    const int64_t epoch = run.place[0];
    const idx start = run.place[1], rows = run.batch_size < n - start ? run.batch_size : n - start;
    bool reordered = false;
    if (given) {
      std::transform(given, given + n, order_.data(), [](int64_t row) { return static_cast<uint32_t>(row); });
      order = order_.data();
      order_epochs_ = 0;   // it is no epoch's own
      given = nullptr;
      reordered = true;
    } else if (run.shuffle && !run.orders && order_of != epoch) {
      if (order_seed_ != run.seed || epoch < order_epoch_ || epoch >= order_epoch_ + order_epochs_) {
        const idx batch = std::min(run.batch_size, n), batches = (n + batch - 1) / batch;
        const idx coming = (start / batch + run.steps - done.steps + batches - 1) / batches;   // epochs of this call
        const idx orders = std::min(coming, static_cast<idx>(order_.size()) / n);
        uint64_t seeds[ORDERS], epochs[ORDERS];
        for (idx k = 0; k < orders; k++) {
          seeds[k] = run.seed;
          epochs[k] = static_cast<uint64_t>(epoch + k);
        }
        kernels_.epoch_orders(seeds, epochs, orders, static_cast<uint32_t>(n), order_.data(), n);
        order_seed_ = run.seed;
        order_epoch_ = epoch;
        order_epochs_ = orders;
      }
      order = order_.data() + (epoch - order_epoch_) * n;
      order_of = epoch;
      reordered = true;
    }
    if (Tiny<T>* const tiny = tiny_.of(rows); tiny != training_) {
      if (training_) training_->leave(params_, step.slots);
      if (tiny) tiny->enter(params_, step.slots);
      training_ = tiny;
    }
    if (!constant && !training_) set_scalars(update, done.steps, 1);
    const double penalty = run.l2 ? run.l2[done.steps] * weight_squares() : 0;

    double losses[MAX_STRETCH];
    idx wanted = 1, taken;   // a tiny network takes a stretch of steps at once where only the rows differ
    if (training_) {
      // Orders that follow one another are one order, where all their batches are whole.
      const bool goes_on = run.shuffle && !run.orders && !run.stall && n % std::min(run.batch_size, n) == 0;
      const idx end = goes_on ? std::min((order_epoch_ + order_epochs_ - epoch) * n, start + MAX_STRETCH * rows) : n;
      const idx ready = training_->gather(data, start, end, order, reordered, rows);
      if (!data.weight && !run.stop_on_params && !run.l2) wanted = std::min({ready, run.steps - done.steps, MAX_STRETCH});
      if (!constant) set_scalars(update, done.steps, wanted);
      taken = training_->train({data.weight, data.weights, start, order, rows, wanted, constant, run.stop_on_loss, run.seed, *run.count},
                           step, losses);
    } else {
      if (bfloat16_) set_rounded_input(data.x, start, order, rows);
      else set_input(data.x, start, order, rows, false);
      if (rows != bound || update.accumulate > 1) {
        bind_forward(true);
        bind_backward(grads, fused_ ? &step : nullptr, nullptr, phase > 0);
        if (bfloat16_) bfloat16_->set_rule(rounded_rule);
        bound = rows;
      }
      taken = train_batch(data, start, order, step, run, update, &phase, losses);
    }

    done.steps += taken;
    run.count[0] += taken;
    double sum = run.partial[0], seen = run.partial[1];   // not in memory, where each step would wait for the last one
    idx at = start;
    for (idx k = 0; k < taken; k++) {
      losses[k] = losses[k] * run.factor + penalty;
      sum += losses[k] * static_cast<double>(rows);
      seen += static_cast<double>(rows);
      at += rows;
      if (at < n) continue;
      const double loss = run.losses[done.epochs++] = sum / seen;
      sum = seen = 0;
      at = 0;
      run.place[0]++;
      if (run.orders) given = run.orders + done.epochs * n;
      if (run.stall && stalled(loss, run.stall)) done.status = STALLED;
    }
    run.partial[0] = sum;
    run.partial[1] = seen;
    run.place[1] = at;
    done.loss = losses[taken < wanted ? taken : taken - 1];
    if (taken < wanted) done.status = LOSS_NOT_FINITE;
    if (run.stop_on_params && taken) {
      if (training_) training_->leave(params_, step.slots);
      if (!finite()) done.status = PARAMS_NOT_FINITE;
    }
  }
  if (training_) training_->leave(params_, step.slots);
  training_ = nullptr;
  return done;
}

// One step; 0 where its loss is not finite, which `run` may forbid.
template <class T>
idx Network<T>::train_batch(const Data& data, idx start, const uint32_t* order, const Step<T>& step, const Run& run,
                            const Update& update, idx* phase, double* loss) {
  if (bfloat16_) run_forward_rounded(run);
  else run_forward(update.skip_zeros, &run);
  *loss = batch_loss(data.y, data.y_is_label, data.weight, data.weights, start, order, -1, true);
  if (run.stop_on_loss && !std::isfinite(*loss)) return 0;
  if (bfloat16_) run_backward_rounded();
  else run_backward();
  if (++*phase < update.accumulate) return 1;
  *phase = 0;
  if (!fused_) {
    T* const grads = update.accumulated ? static_cast<T*>(update.accumulated) : grads_.data();
    run_update(grads, step,
               clipping(grads, static_cast<T>(1.0 / static_cast<double>(update.accumulate)), update.clip_norm));
  }
  finish_step(step);
  if (bfloat16_ && !(fused_ && std::isinf(step.max_norm))) bfloat16_->round_weights(*team_);
  return 1;
}

// The rule at its first step; scalars_ moves on with the steps.
template <class T> Step<T> Network<T>::step_of(const Update& update) {
  const auto in_t = [](double x) { return static_cast<T>(x); };
  Step<T> step{};
  for (int s = 0; s < MAX_SLOTS; s++) step.slots[s] = static_cast<T*>(update.slots[s]);
  step.scalars = scalars_.data();
  step.l1 = l1_.data();
  step.n_groups = static_cast<idx>(update.l1.size());
  bool l1 = false;
  for (size_t g = 0; g < update.l1.size(); g++) {
    l1_.data()[g] = in_t(update.l1[g]);
    l1 = l1 || update.l1[g] != 0;
  }
  step.around = {l1 || update.average || std::isfinite(update.clip_value), 1, in_t(update.clip_value), 0,
                 static_cast<T*>(update.average), in_t(update.decay)};
  step.max_norm = in_t(update.max_norm);
  step.kernels = step.around.on || update.own ? &kernels_.by_call : &kernels_.optimizer[update.row];
  step.row = update.own ? -1 : update.row;
  step.update = update.own ? reinterpret_cast<UpdateRow<T>>(update.own) : kernels_.optimizer[update.row].update;
  set_scalars(update, 0, 1);
  return step;
}

// Of the steps k.. that are done next: `count` of them for one group, or one for each group.
template <class T> void Network<T>::set_scalars(const Update& update, idx k, idx count) {
  T* to = scalars_.data();
  for (size_t first = 0; first < update.scalars.size(); first += static_cast<size_t>(update.n_scalars))
    for (idx i = 0; i < count; i++, to += MAX_SCALARS)
      for (int s = 0; s < update.n_scalars; s++) {
        const Scalar& scalar = update.scalars[first + static_cast<size_t>(s)];
        to[s] = static_cast<T>(*reinterpret_cast<const double*>(scalar.data + (k + i) * scalar.stride));
      }
}

// ------------------------------------------------------------------ a batch

// Rows start..start+rows of x, in `order` where there is one: where they lie, or gathered into the workspace when they
// are shuffled, cast, strided, unaligned, wide at a bad stride, or read by vectors beyond their end.
template <class T>
void Network<T>::set_input(const Source& x, idx start, const uint32_t* order, idx rows, bool keep) {
  const idx size = sizeof(T);
  rows_ = rows;
  const bool in_place = !order && !keep && x.kind == 'f' && x.itemsize == size && !x.swapped &&
                        (x.cols == 1 || x.col_stride == size) && x.row_stride % size == 0 &&
                        reinterpret_cast<uintptr_t>(x.data) % size == 0 && (rows == 1 || x.row_stride % BAD_STRIDE) &&
                        !layers_.front().shape.transposed;
  if (in_place) {
    x_ = reinterpret_cast<const T*>(x.data + start * x.row_stride);
    ldx_ = x.row_stride / size;
    return;
  }
  gather(x, gathered_.data(), ld_input_, false, start, order);
  x_ = gathered_.data();
  ldx_ = ld_input_;
}

// The batch's rows of `from`, cast to E, in the layout of the last layer where `transposed`.
template <class T>
template <class E>
void Network<T>::gather(const Source& from, E* to, idx ld, bool transposed, idx start, const uint32_t* order) const {
  if (transposed) return gather_transposed(from, to, ld, start, order, rows_);
  const Split split = share(rows_, 1, static_cast<double>(rows_ * from.cols) * sizeof(E), BYTES_OF_A_THREAD);
  each_part(split, [&](idx m0, idx m1, int) { gather_rows(from, to + m0 * ld, ld, start + m0, order, m1 - m0); });
}

// sum(w l) / total over the batch at hand, with the targets of its rows; total < 0 stands for the batch's own sum of
// weights.
template <class T>
double Network<T>::batch_loss(const Source& y, bool is_label, const double* weight, idx weights, idx start,
                              const uint32_t* order, double total, bool gradient) {
  const Layer<T>& last = layers_.back();
  if (is_label) gather(y, label_.data(), 0, true, start, order);
  else gather(y, target_.data(), last.ld, last.shape.transposed, start, order);
  const double* share = shares_.of(weight, weights, start, order, rows_, total);
  return loss_row_({rows_, last.shape.out, last.shape.transposed, last.a.data(), last.ld,
                                     is_label ? nullptr : target_.data(), last.ld, label_.data(), share,
                                     gradient ? last.delta.data() : nullptr, setting_.data(), shares_.weight(),
                                     shares_.ldw(), &own_loss_});
}

// For rows_ rows; the input is not bound, it moves with each batch.
template <class T> void Network<T>::bind_forward(bool training) {
  const int n_threads = training ? threads_of_a_step(rows_) : n_threads_;
  for (size_t l = 0; l < layers_.size(); l++) {
    Layer<T>& layer = layers_[l];
    const LayerShape& s = layer.shape;
    const bool drops = training && s.dropout > 0;
    const T* x = drops ? layer.dropped.data() : l ? layers_[l - 1].a.data() : nullptr;
    const idx ldx = drops ? padded<T>(s.in) : l ? layers_[l - 1].ld : 0;
    layer.family = family_of(layer, rows_, kernels_.lanes);
    layer.forward = {rows_, s.in, s.out, x, ldx, layer.weight, s.ldw, layer.bias, layer.used.data(), 0,
                     layer.partial.data(), layer.z(), layer.a.data(), layer.ld, layer.activation.forward};
    layer.run_forward = layer.activation.layer_forward[layer.family];
    layer.forward_split = share_forward(layer, layer.family, rows_, n_threads);
  }
}

// For the rows that went forward. Gradients are stored in `grads`, or turned into the update of `step` while they are
// hot, or with neither not made; the first layer makes a grad_input where one is wanted.
template <class T>
void Network<T>::bind_backward(T* grads, const Step<T>* step, T* grad_input, bool accumulate) {
  const int n_threads = threads_of_a_step(rows_);
  bool trains_below = false;   // something that gradients of this layer's inputs are for
  for (size_t l = 0; l < layers_.size(); l++) {
    Layer<T>& layer = layers_[l];
    const LayerShape& s = layer.shape;
    const ActivationKernels<T>* below = l ? &layers_[l - 1].activation : &kernels_.identity;
    layer.grad_input = {rows_, s.in, s.out, layer.delta.data(), layer.ld, layer.weight, s.ldw,
                        grad_input, ld_input_, nullptr, nullptr, below->backward, panels_.data()};
    if (l) {
      const Layer<T>& previous = layers_[l - 1];
      layer.grad_input.grad_input = previous.delta.data();
      layer.grad_input.ldg = previous.ld;
      layer.grad_input.a = previous.a.data();
      layer.grad_input.z = previous.z();
      if (step && !grad_input && !trains_below) layer.grad_input.grad_input = nullptr;
    }
    const bool made = step || grads;
    const bool weight = made && (!step || s.trains_weight), bias = made && layer.bias && (!step || s.trains_bias);
    trains_below = trains_below || weight || bias;
    layer.grad_weight = parameters(l, false, grads, step, accumulate);
    layer.grad_weight.x = layer.forward.x;
    layer.grad_weight.ldx = layer.forward.ldx;
    layer.run_both = step && weight ? step->kernels->layer_backward[layer.family] : nullptr;
    layer.run_grad_input = layer.grad_input.grad_input ? below->layer_grad_input[layer.family] : nullptr;
    layer.run_grad_weight = weight ? (step ? step->kernels->layer_update : kernels_.grad_weight)[layer.family] : nullptr;
    layer.run_grad_bias = bias ? kernels_.grad_bias[layer.family] : nullptr;
    if (layer.bias) layer.grad_bias = parameters(l, true, grads, step, accumulate);
    layer.backward_split = share_backward(layer, layer.family, rows_, n_threads);
  }
}

// ------------------------------------------------------------------ threads

template <class T>
Split Network<T>::share(int n_threads, idx n, idx unit, double work, double of_a_thread) const {
  return Sharing{n_threads, gated_}.of(n, unit, work, of_a_thread);
}
template <class T> Split Network<T>::share(idx n, idx unit, double work, double of_a_thread) const {
  return share(n_threads_, n, unit, work, of_a_thread);
}
template <class T> double Network<T>::forward_flops(const Layer<T>& layer, idx rows) const {
  const double each = bfloat16_ ? 1 : 2;   // these take half the time
  return each * static_cast<double>(rows * layer.shape.in * layer.shape.out);
}
template <class T> double Network<T>::backward_flops(const Layer<T>& layer, idx rows) const {
  return (&layer == &layers_.front() ? 1 : 2) * forward_flops(layer, rows);   // the first has no grad_input
}
template <class T>
Split Network<T>::share_forward(const Layer<T>& layer, Family family, idx rows, int n_threads) const {
  const double flops = forward_flops(layer, rows);
  if (family == SINGLE) return share(n_threads, layer.shape.in, SINGLE_INPUTS, flops, FLOPS_OF_A_THREAD);
  return share(n_threads, family == NARROW ? rows : layer.shape.out, PER_LINE<T>, flops, FLOPS_OF_A_THREAD);
}
template <class T>
Split Network<T>::share_backward(const Layer<T>& layer, Family family, idx rows, int n_threads) const {
  return share(n_threads, layer.shape.in, family == SINGLE ? static_cast<idx>(SINGLE_INPUTS) : PER_LINE<T>,
               backward_flops(layer, rows), FLOPS_OF_A_THREAD);
}

// One where a training step has little to share: half of a small phase is won, and lost again as its results go from
// one core's cache to the other's (docs/threads.md).
template <class T> int Network<T>::threads_of_a_step(idx rows) const {
  double shared = 0;
  for (const Layer<T>& layer : layers_)
    for (const double flops : {forward_flops(layer, rows), backward_flops(layer, rows)})
      if (flops >= 2 * FLOPS_OF_A_THREAD) shared += flops;
  return gated_ && shared < FLOPS_OF_A_SHARED_STEP ? 1 : n_threads_;
}

template <class T> template <class F> void Network<T>::each_part(const Split& split, const F& f) const {
  fbp::each_part(*team_, split, f);
}

// The layer's inputs as training has them in one step: which are dropped is a function of (seed, step, layer, place).
template <class T> void Network<T>::drop_inputs(Layer<T>& layer, uint64_t seed, int64_t step) {
  const idx n = layer.shape.in, blocks = layer.shape.drop_blocks(), ld = padded<T>(n);
  const auto l = &layer - layers_.data();
  const T* x = l ? layers_[l - 1].a.data() : x_;
  const idx ldx = l ? layers_[l - 1].ld : ldx_;
  each_part(share(rows_, 1, static_cast<double>(rows_ * n) * sizeof(T), BYTES_OF_A_THREAD), [&](idx m0, idx m1, int) {
    for (idx m = m0; m < m1; m++) {
      // They are wanted again on the way back, but for the network's input: one row of them, which stays in the L1 cache.
      uint16_t* const words = layer.words.data() + (l ? m : m0) * blocks * DROP_BLOCK;
      // A row of the data comes from afar while its words are made.
      for (idx k = 0; k < n; k += 64 / static_cast<idx>(sizeof(T))) __builtin_prefetch(x + m * ldx + k);
      kernels_.drop_words(seed, static_cast<uint64_t>(step), static_cast<uint64_t>(l), static_cast<uint64_t>(m), blocks,
                          words);
      kernels_.drop(x + m * ldx, layer.dropped.data() + m * ld, n, words, layer.shape.drop_threshold(),
                    static_cast<T>(layer.shape.kept_scale()));
    }
  });
}

template <class T> void Network<T>::run_forward(bool skip_zeros, const Run* training) {
  layers_.front().forward.x = x_;
  layers_.front().forward.ldx = ldx_;
  drops_ = training;
  for (Layer<T>& layer : layers_) {
    const LayerShape& s = layer.shape;
    if (drops_ && s.dropout > 0) {
      drop_inputs(layer, training->seed, *training->count);
      layer.forward.x = layer.dropped.data();   // the first layer's was the batch itself
      layer.forward.ldx = padded<T>(s.in);
    }
    if (layer.family == SINGLE) {
      idx n_used = 0;
      for (idx i = 0; i < s.in; i++) {
        layer.used.data()[n_used] = static_cast<int32_t>(i);
        n_used += !(skip_zeros && s.skips_zeros && layer.forward.x[i] == 0);
      }
      layer.forward.n_used = n_used;
    }
    each_part(layer.forward_split, [&](idx begin, idx end, int) { layer.run_forward(layer.forward, begin, end); });
    if (layer.family == SINGLE) kernels_.single_finish(layer.forward);
  }
}

// The last layer's delta holds dL/da. Each layer makes the delta below from its old weights, then its gradient.
template <class T> void Network<T>::run_backward() {
  const Layer<T>& last = layers_.back();
  if (last.activation.backward) {
    const bool t = last.shape.transposed;
    last.activation.backward(last.delta.data(), last.a.data(), last.z(), last.ld, t ? last.shape.out : rows_,
                             t ? rows_ : last.shape.out);
  }
  layers_.front().grad_weight.x = layers_.front().forward.x;
  layers_.front().grad_weight.ldx = layers_.front().forward.ldx;
  for (size_t l = layers_.size(); l-- > 0;) {
    Layer<T>& layer = layers_[l];
    layer.grad_weight.n_used = layer.forward.n_used;
    const bool drops = drops_ && layer.shape.dropout > 0;
    const auto back = [&](const GradInput<T>& grad_input, idx begin, idx end) {
      if (layer.run_both) {
        layer.run_both(grad_input, layer.grad_weight, begin, end);
      } else {
        if (layer.run_grad_input) layer.run_grad_input(grad_input, begin, end);
        if (layer.run_grad_weight) layer.run_grad_weight(layer.grad_weight, begin, end);
      }
      if (drops && grad_input.grad_input)
        for (idx m = 0; m < rows_; m++) {   // derivatives of activations are factors: dropped before or after them
          T* const g = grad_input.grad_input + m * grad_input.ldg + begin;
          kernels_.drop(g, g, end - begin, layer.words.data() + m * layer.shape.drop_blocks() * DROP_BLOCK + begin,
                        layer.shape.drop_threshold(), static_cast<T>(layer.shape.kept_scale()));
        }
      if (end == layer.shape.in && layer.run_grad_bias) layer.run_grad_bias(layer.grad_bias);
    };
    each_part(layer.backward_split, [&](idx begin, idx end, int part) {
      if (!part) return back(layer.grad_input, begin, end);
      GradInput<T> grad_input = layer.grad_input;
      grad_input.panel += part * ld_panel_;
      back(grad_input, begin, end);
    });
  }
}

// ------------------------------------------------------------------ in bfloat16

// Rows of float32 are rounded where they lie, in any order.
template <class T>
void Network<T>::set_rounded_input(const Source& x, idx start, const uint32_t* order, idx rows) {
  const idx size = sizeof(T);
  bfloat16_->bind(rows, threads_of_a_step(rows));
  if constexpr (std::is_same<T, float>::value) {
    const bool in_place = x.kind == 'f' && x.itemsize == size && !x.swapped && (x.cols == 1 || x.col_stride == size) &&
                          x.row_stride % size == 0 && reinterpret_cast<uintptr_t>(x.data) % size == 0;
    if (in_place && !layers_.front().dropped.size()) {
      rows_ = rows;
      const float* const first = reinterpret_cast<const float*>(x.data);
      if (order) bfloat16_->set_input(*team_, first, x.row_stride / size, order + start);
      else bfloat16_->set_kept_input(*team_, first, x.row_stride / size, start, x.rows);
      return;
    }
    set_input(x, start, order, rows, false);
    if (!layers_.front().dropped.size()) bfloat16_->set_input(*team_, x_, ldx_, nullptr);   // else when that is done
  }
}
template <class T> void Network<T>::run_forward_rounded(const Run& run) {
  if constexpr (std::is_same<T, float>::value) {
    Layer<T>&first = layers_.front(), &last = layers_.back();
    if (first.dropped.size()) {
      drop_inputs(first, run.seed, *run.count);
      bfloat16_->set_input(*team_, first.dropped.data(), padded<T>(first.shape.in), nullptr);
    }
    bfloat16_->forward(*team_, run.seed, *run.count, last.z(), last.a.data(), last.ld);
  }
}
template <class T> void Network<T>::run_backward_rounded() {
  if constexpr (std::is_same<T, float>::value) {
    const Layer<T>& last = layers_.back();
    if (last.activation.backward)
      last.activation.backward(last.delta.data(), last.a.data(), last.z(), last.ld, rows_, last.shape.out);
    const auto wanted = [&](size_t l) {
      return Bfloat16::Wanted{layers_[l].run_grad_weight ? &layers_[l].grad_weight : nullptr,
                              layers_[l].run_grad_bias ? &layers_[l].grad_bias : nullptr};
    };
    bfloat16_->backward(*team_, last.delta.data(), last.ld, wanted);
  }
}

// Where a layer's weight or bias, its slots and its gradient lie; without a step the gradient is stored.
template <class T>
GradWeight<T> Network<T>::parameters(size_t l, bool bias, T* grads, const Step<T>* step, bool accumulate) const {
  const Layer<T>& layer = layers_[l];
  const LayerShape& s = layer.shape;
  const idx offset = bias ? s.bias : s.weight;
  GradWeight<T> g{};
  g.rows = rows_;
  g.in = s.in;
  g.out = s.out;
  g.delta = layer.delta.data();
  g.ldd = layer.ld;
  g.ldw = s.ldw;
  g.weight = params_ + offset;
  g.grad = grads ? grads + offset : nullptr;
  g.accumulate = accumulate;
  g.used = layer.used.data();
  if (step) {
    const idx group = step->n_groups == 1 ? 0 : 2 * static_cast<idx>(l) + bias;
    g.update = step->update;
    g.scalars = step->scalars + group * MAX_SCALARS;
    for (int i = 0; i < MAX_SLOTS; i++) g.slots[i] = step->slots[i] ? step->slots[i] + offset : nullptr;
    g.around = step->around;
    g.around.l1 = step->l1[group];
    g.around.average = std::isinf(step->max_norm) && g.around.average ? g.around.average + offset : nullptr;
  }
  return g;
}

// Rows and columns of a weight as it lies in memory.
inline idx rows_of(const LayerShape& s) { return s.transposed ? s.out : s.in; }
inline idx cols_of(const LayerShape& s) { return s.transposed ? s.in : s.out; }

template <class T> void Network<T>::run_update(T* grads, const Step<T>& step, T scale) {
  for (size_t l = 0; l < layers_.size(); l++) {
    const LayerShape& s = layers_[l].shape;
    const auto update = [&](bool bias, idx rows, idx cols) {
      GradWeight<T> g = parameters(l, bias, grads, &step, false);
      g.around.scale = scale;
      g.around.on = g.around.on || scale != 1;
      if (bias) g.ldw = 0;
      const Split split = share(rows, 1, static_cast<double>(rows * cols) * sizeof(T), BYTES_OF_A_THREAD);
      each_part(split, [&](idx begin, idx end, int) {
        GradWeight<T> part = g;
        part.weight += begin * g.ldw;
        part.grad += begin * g.ldw;
        for (T*& slot : part.slots) if (slot) slot += begin * g.ldw;
        if (part.around.average) part.around.average += begin * g.ldw;
        kernels_.update(part, end - begin, cols);
      });
    };
    if (s.trains_weight) update(false, rows_of(s), cols_of(s));
    if (layers_[l].bias && s.trains_bias) update(true, 1, s.out);
  }
}

// The sum of the squares of a matrix in the layout of a weight.
template <class T> double Network<T>::squares(const T* matrix, const LayerShape& s) {
  const idx rows = rows_of(s), cols = cols_of(s), blocks = (rows + SQUARES_ROWS - 1) / SQUARES_ROWS;
  if (static_cast<idx>(squares_.size()) < blocks) squares_ = Buffer<double>(blocks);
  const Split split = share(blocks, 1, static_cast<double>(rows * cols) * sizeof(T), BYTES_OF_A_THREAD);
  each_part(split, [&](idx b, idx end, int) {
    for (; b < end; b++)
      squares_.data()[b] = kernels_.squares(matrix + b * SQUARES_ROWS * s.ldw, s.ldw,
                                            std::min(SQUARES_ROWS, rows - b * SQUARES_ROWS), cols);
  });
  double sum = 0;
  for (idx b = 0; b < blocks; b++) sum += squares_.data()[b];
  return sum;
}

template <class T> double Network<T>::weight_squares() {
  if (training_) return training_->weight_squares();   // it has the parameters while it trains
  double sum = 0;
  for (const Layer<T>& layer : layers_) sum += squares(layer.weight, layer.shape);
  return sum;
}

// `scale`, and as much less as brings the norm of all that is trained down to `most`; torch's clip_grad_norm_.
template <class T> T Network<T>::clipping(T* grads, T scale, double most) {
  if (std::isinf(most)) return scale;
  double sum = 0;
  for (const Layer<T>& layer : layers_) {
    const LayerShape& s = layer.shape;
    if (s.trains_weight) sum += squares(grads + s.weight, s);
    if (layer.bias && s.trains_bias) sum += kernels_.squares(grads + s.bias, 0, 1, s.out);
  }
  const double factor = most / (static_cast<double>(scale) * std::sqrt(sum) + 1e-6);
  return factor < 1 || std::isnan(factor) ? static_cast<T>(static_cast<double>(scale) * factor) : scale;
}

// What is done to whole weights, after the update of all.
template <class T> void Network<T>::finish_step(const Step<T>& step) {
  if (std::isinf(step.max_norm)) return;
  for (Layer<T>& layer : layers_) {
    const LayerShape& s = layer.shape;
    T* const average = step.around.average;
    if (s.trains_weight) {
      kernels_.limit_norms(layer.weight, s.ldw, s.in, s.out, s.transposed, step.max_norm);
      if (average) kernels_.average(step.around, average + s.weight, layer.weight, s.ldw, rows_of(s), cols_of(s));
    }
    if (average && layer.bias && s.trains_bias) kernels_.average(step.around, average + s.bias, layer.bias, 0, 1, s.out);
  }
}

// ------------------------------------------------------------------ one verb at a time

template <class T> void Network<T>::forward(const Source& x, void* out, bool keep) {
  Team team;
  team_ = &team;
  set_input(x, 0, nullptr, x.rows, keep);
  bind_forward(false);
  run_forward(false, nullptr);
  if (!out) return;
  const Layer<T>& last = layers_.back();
  const idx n_out = last.shape.out;
  const T* const a = last.a.data();
  T* to = static_cast<T*>(out);
  for (idx m = 0; m < rows_; m++, to += n_out) {
    if (last.shape.transposed) for (idx n = 0; n < n_out; n++) to[n] = a[n * last.ld + m];
    else std::memcpy(to, a + m * last.ld, static_cast<size_t>(n_out) * sizeof(T));
  }
}

template <class T> void Network<T>::restore(const Source& x, const Source& a, const Source* z) {
  Team team;
  team_ = &team;
  Layer<T>& layer = layers_.back();
  set_input(x, 0, nullptr, x.rows, true);
  bind_forward(false);
  drops_ = false;
  layer.forward.x = x_;
  layer.forward.ldx = ldx_;
  layer.forward.n_used = layer.shape.in;
  for (idx i = 0; i < layer.shape.in; i++) layer.used.data()[i] = static_cast<int32_t>(i);
  gather(a, layer.a.data(), layer.ld, layer.shape.transposed);
  if (z && layer.shape.keeps_z) gather(*z, layer.z(), layer.ld, layer.shape.transposed);
}

template <class T>
double Network<T>::loss(const Source& y, bool y_is_label, const double* weight, idx weights, double total,
                        bool gradient) {
  Team team;
  team_ = &team;
  return batch_loss(y, y_is_label, weight, weights, 0, nullptr, total, gradient);
}

template <class T>
void Network<T>::backward(const Source* grad_output, void* grads, const Update* update, void* grad_input,
                          bool accumulate) {
  Team team;
  team_ = &team;
  const Layer<T>& last = layers_.back();
  if (grad_output) gather(*grad_output, last.delta.data(), last.ld, last.shape.transposed);
  if (grad_input && !grad_input_.size()) grad_input_ = Buffer<T>(gathered_.size());
  const Step<T> step = update ? step_of(*update) : Step<T>{};
  bind_backward(static_cast<T*>(grads), update ? &step : nullptr, grad_input ? grad_input_.data() : nullptr,
                accumulate);
  run_backward();
  if (update) finish_step(step);
  const idx in = layers_.front().shape.in;
  if (grad_input)
    for (idx m = 0; m < rows_; m++)
      std::memcpy(static_cast<T*>(grad_input) + m * in, grad_input_.data() + m * ld_input_,
                  static_cast<size_t>(in) * sizeof(T));
}

template <class T> void Network<T>::update(void* grads, const Update& update) {
  Team team;
  team_ = &team;
  const Step<T> step = step_of(update);
  run_update(static_cast<T*>(grads), step, clipping(static_cast<T*>(grads), 1, update.clip_norm));
  finish_step(step);
}

template <class T> bool Network<T>::finite() const {
  for (const Layer<T>& layer : layers_) {
    const LayerShape& s = layer.shape;
    for (idx i = 0; i < rows_of(s); i++)
      if (!kernels_.finite(layer.weight + i * s.ldw, cols_of(s))) return false;
    if (layer.bias && !kernels_.finite(layer.bias, s.out)) return false;
  }
  return true;
}

template <class T> void Network<T>::describe(idx rows, LayerPlan* plans) const {
  const int n_threads = threads_of_a_step(rows);
  if (bfloat16_) return bfloat16_->describe(rows, n_threads, plans);
  for (const Layer<T>& layer : layers_) {
    const Family family = family_of(layer, rows, kernels_.lanes);
    if (tiny_.of(rows)) *plans++ = {TINY, 1, 1};
    else *plans++ = {family, share_forward(layer, family, rows, n_threads).parts,
                   share_backward(layer, family, rows, n_threads).parts};
  }
}
}  // namespace

Program* make_program(const Isa& isa, int itemsize, const Shape& shape, void* params, const Program* like) {
  idx widest = 0;
  for (int l = 0; l < shape.n_layers; l++) widest = std::max({widest, shape.layers[l].in, shape.layers[l].out});
  if (shape.batch > (static_cast<idx>(1) << 56) / (widest + LINE)) throw std::bad_alloc();   // sizes would wrap around
  const int64_t before = allocation_counts().here;
  Program* program;
  if (itemsize == 4) program = new Network<float>(isa, shape, static_cast<float*>(params), static_cast<const Network<float>*>(like));
  else program = new Network<double>(isa, shape, static_cast<double*>(params), static_cast<const Network<double>*>(like));
  program->workspace_bytes = allocation_counts().here - before;
  return program;
}
}  // namespace fbp
