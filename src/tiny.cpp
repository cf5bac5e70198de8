#include "tiny.hpp"
#include "kernels/rows_generated.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace fbp {

template <class T>
const double* Shares<T>::of(const double* weight, idx weights, idx start, const uint32_t* order, idx rows,
                            double total) {
  double* share = share_.data();
  each_ = weights > 1;
  if (!weight && rows == rows_ && total == total_) return share;
  rows_ = weight ? 0 : rows;
  total_ = total;
  if (each_ && !part_.size()) part_ = Buffer<T>((transposed_ ? weights : batch_) * ld_);
  double sum = 0;
  const auto row = [&](idx m) { return order ? order[start + m] : start + m; };
  if (each_) for (idx m = 0; m < rows; m++) sum += take_row(weight + row(m) * weights, weights, m);
  else for (idx m = 0; m < rows; m++) {
    share[m] = weight ? weight[row(m)] : 1;
    sum += share[m];
  }
  if (total < 0) total = sum;
  const double scale = total > 0 ? scale_ / total : 0;   // all weights zero: a loss of zero, no gradient
  for (idx m = 0; m < rows; m++) share[m] *= scale;
  for (idx m = rows; m % WIDEST; m++) share[m] = 0;
  return share;
}

// Share and parts of row m, before the share is divided; gives the mean. No branch on a weight: masks would mispredict it.
template <class T> double Shares<T>::take_row(const double* weight, idx weights, idx m) {
  double most = weight[0], sum = 0;
  bool even = true;
  for (idx j = 0; j < weights; j++) {
    most = weight[j] > most ? weight[j] : most;
    sum += weight[j];
    even &= weight[j] == weight[0];
  }
  share_.data()[m] = most;
  T* const to = part_.data() + (transposed_ ? m : m * ld_);
  const idx step = transposed_ ? ld_ : 1;
  const auto put = [&](auto part_of) {
    for (idx j = 0; j < weights; j++) to[j * step] = static_cast<T>(part_of(weight[j]));
  };
  if (most == 1 || most == 0) put([](double w) { return w; });   // a mask; divisions would take longer than all else
  else put([&](double w) { return w / most; });
  if (output_weight_)
    for (idx j = 0; j < weights; j++) to[j * step] *= output_weight_[j];
  return even ? most : sum / static_cast<double>(weights);
}

template <class T>
Tiny<T>::Tiny(const Kernels<T>& kernels, const Shape& shape, LossRow<T> loss, const OwnLoss<T>* own_loss,
              const T* setting, const T* output_weight)
    : kernels_(kernels), loss_row_(loss), own_loss_(own_loss), setting_(setting),
      shapes_(shape.layers, shape.layers + shape.n_layers),
      room_(std::max(shape.batch, static_cast<idx>(GROUP))), label_(room_ + WIDEST),
      shares_(shape.batch, shape.loss_scale, shape.batch + WIDEST, true, output_weight) {}

template <class T> void Tiny<T>::place(std::vector<Place> places, idx n_params) {
  places_ = std::move(places);
  n_params_ = n_params;
  const idx whole = (n_params + kernels_.lanes - 1) / kernels_.lanes * kernels_.lanes;
  params_ = Buffer<T>(whole + WIDEST);   // `squares` reads whole vectors, from anywhere
  gradient_ = Buffer<T>(whole);
  for (Buffer<T>& slot : slots_) slot = Buffer<T>(whole);
}

// copy(offset here, padded offset) for every parameter
template <class T> template <class Copy> void Tiny<T>::each_parameter(Copy copy) const {
  for (size_t l = 0; l < places_.size(); l++) {
    const LayerShape& s = shapes_[l];
    const Place& to = places_[l];
    for (idx i = 0; i < s.in; i++)
      for (idx j = 0; j < s.out; j++)
        copy(to.weight + (to.transposed ? j * to.ld + i : i * to.ld + j),
             s.weight + (s.transposed ? j * s.ldw + i : i * s.ldw + j));
    if (s.bias >= 0)
      for (idx j = 0; j < s.out; j++) copy(to.bias + j, s.bias + j);
  }
}
template <class T> void Tiny<T>::enter(const T* params, T* const* slots) {
  each_parameter([&](idx here, idx padded) {
    params_.data()[here] = params[padded];
    for (int k = 0; k < MAX_SLOTS; k++)
      if (slots[k]) slots_[k].data()[here] = slots[k][padded];
  });
  group_end_ = 0;
}
template <class T> void Tiny<T>::leave(T* params, T* const* slots) const {
  each_parameter([&](idx here, idx padded) {
    params[padded] = params_.data()[here];
    for (int k = 0; k < MAX_SLOTS; k++)
      if (slots[k]) slots[k][padded] = slots_[k].data()[here];
  });
}

template <class T> double Tiny<T>::weight_squares() const {
  double sum = 0;
  for (size_t l = 0; l < places_.size(); l++) {
    const Place& at = places_[l];
    const idx rows = at.transposed ? shapes_[l].out : shapes_[l].in, cols = at.transposed ? shapes_[l].in : shapes_[l].out;
    const bool one = at.ld == cols;
    sum += kernels_.squares(params_.data() + at.weight, at.ld, one ? 1 : rows, one ? rows * cols : cols);
  }
  return sum;
}

template <class T> template <class Gather>
idx Tiny<T>::grouped(idx start, idx end, bool fresh, idx rows, Gather gather) {
  if (fresh || start < group_begin_ || start + rows > group_end_) {
    group_begin_ = start;
    group_end_ = std::min(end, start + room_);
    gather(group_end_ - start);
  }
  return (group_end_ - start) / rows;
}

namespace {
// ------------------------------------------------------------------ a sample per lane

template <class T> class TinySamples final : public Tiny<T> {
 public:
  static bool suits(const Shape& shape);
  TinySamples(const Kernels<T>& kernels, const Shape& shape, LossRow<T> loss, const OwnLoss<T>* own_loss,
              const T* setting, const T* output_weight);
  idx gather(const Data& data, idx start, idx end, const uint32_t* order, bool fresh, idx rows) override;
  idx train(const Stretch& stretch, const Step<T>& step, double* losses) override;

 private:
  const idx ld_;                        // of the group's transposed rows
  Buffer<T> products_, units_, x_, t_;
  std::vector<TinyLayer<T>> layers_;
  bool y_is_label_ = false;
};

template <class T> bool TinySamples<T>::suits(const Shape& shape) {
  for (int l = 0; l < shape.n_layers; l++)
    if (shape.layers[l].in > TINY_WIDTH || shape.layers[l].out > TINY_WIDTH || shape.layers[l].dropout > 0) return false;
  return true;
}

template <class T>
TinySamples<T>::TinySamples(const Kernels<T>& kernels, const Shape& shape, LossRow<T> loss, const OwnLoss<T>* own_loss,
                            const T* setting, const T* output_weight)
    : Tiny<T>(kernels, shape, loss, own_loss, setting, output_weight), ld_(this->room_ + WIDEST) {
  idx n_units = 0, n_params = 0;
  for (const LayerShape& s : this->shapes_) n_units += 3 * s.out;
  units_ = Buffer<T>(n_units * kernels.lanes);
  T* unit = units_.data();
  const auto take = [&](idx units) { return (unit += units * kernels.lanes) - units * kernels.lanes; };
  std::vector<typename Tiny<T>::Place> places;
  for (const LayerShape& s : this->shapes_) {
    TinyLayer<T> layer{s.in, s.out, n_params, -1, nullptr, nullptr, nullptr, activation_of(kernels, s)};
    n_params += s.in * s.out;
    if (s.bias >= 0) {
      layer.bias = n_params;
      n_params += s.out;
    }
    layer.a = take(s.out);
    layer.delta = take(s.out);
    layer.z = s.keeps_z ? take(s.out) : layer.a;
    layers_.push_back(layer);
    places.push_back({layer.weight, s.out, false, layer.bias});
  }
  this->place(std::move(places), n_params);
  products_ = Buffer<T>(this->gradient_.size() * kernels.lanes);
  x_ = Buffer<T>(this->shapes_.front().in * ld_);
  t_ = Buffer<T>(this->shapes_.back().out * ld_);
}

template <class T> idx TinySamples<T>::gather(const Data& data, idx start, idx end, const uint32_t* order, bool fresh, idx rows) {
  y_is_label_ = data.y_is_label;
  return this->grouped(start, end, fresh, rows, [&](idx count) {
    gather_transposed(data.x, x_.data(), ld_, start, order, count);
    if (y_is_label_) gather_transposed(data.y, this->label_.data(), 0, start, order, count);
    else gather_transposed(data.y, t_.data(), ld_, start, order, count);
  });
}

template <class T>
idx TinySamples<T>::train(const Stretch& stretch, const Step<T>& step, double* losses) {
  const idx at = stretch.start - this->group_begin_;
  T* slots[MAX_SLOTS];
  for (int k = 0; k < MAX_SLOTS; k++) slots[k] = this->slots_[k].data();
  const double* share =
      this->shares_.of(stretch.weight, stretch.weights, stretch.start, stretch.order, stretch.rows, -1);
  const TinyBatches<T> run{layers_.data(), static_cast<int>(layers_.size()), this->n_params_, stretch.rows, stretch.steps,
                           this->params_.data(), slots, step.scalars, stretch.constant ? 0 : static_cast<idx>(MAX_SCALARS), step.update,
                           x_.data() + at, ld_,
                           y_is_label_ ? nullptr : t_.data() + at, ld_, this->label_.data() + at,
                           share, this->loss_row_, this->setting_, this->shares_.weight(), this->shares_.ldw(), stretch.stop_on_loss,
                           products_.data(), this->gradient_.data(), this->own_loss_};
  return step.kernels->tiny_train(run, losses);
}

// ------------------------------------------------------------------ one hidden layer, a hidden unit per lane

// Places of rows in their tables.
#define FBP_PLACE(row) activation_##row,
enum { FBP_ACTIVATIONS(FBP_PLACE) };
#undef FBP_PLACE
#define FBP_PLACE(row) loss_##row,
enum { FBP_LOSSES(FBP_PLACE) };
#undef FBP_PLACE
#define FBP_PLACE(row) optimizer_##row,
enum { FBP_OPTIMIZERS(FBP_PLACE) };

HiddenActivation inline_of(const LayerShape& s) {
  if (s.own_forward) return HIDDEN_CALLED;
  if (s.activation < 0 || s.activation == activation_identity) return HIDDEN_IDENTITY;
  return s.activation == activation_relu ? HIDDEN_RELU : s.activation == activation_tanh ? HIDDEN_TANH : HIDDEN_CALLED;
}
// The loss as a factor of the squared error, or 0 where it is another.
double squared_factor(const Shape& shape) {
  return shape.own_loss ? 0 : shape.loss == loss_mse ? 1 : shape.loss == loss_half_squared_error ? 0.5 : 0;
}

template <class T> class TinyHidden final : public Tiny<T> {
 public:
  // What computes a network: kernels of a table, by whether any row is called; null where there are none.
  struct Choice { const HiddenKernel<T>* kernel; int vectors; const HiddenKernels<T>* table; };
  static Choice choose(const Kernels<T>& kernels, const Shape& shape);
  TinyHidden(const Kernels<T>& kernels, const Shape& shape, LossRow<T> loss, const OwnLoss<T>* own_loss,
             const T* setting, const T* output_weight, const Choice& choice);
  idx gather(const Data& data, idx start, idx end, const uint32_t* order, bool fresh, idx rows) override;
  idx train(const Stretch& stretch, const Step<T>& step, double* losses) override;

 private:
  HiddenRun<T> dropping(const Stretch& stretch, idx k);

  const HiddenKernel<T>* const kernel_;
  const idx samples_, width_;           // that go through the network together; lanes of the units
  const UpdateRow<T>* const update_;    // of these vectors, or null
  const double factor_;                 // see `squared_factor`
  HiddenRun<T> run_{};                  // what all steps have in common
  Buffer<T> x_, t_;                     // a group's rows, where they cannot be read where they lie
  Buffer<double> share_;                // as HiddenRun has these two
  Buffer<T> twice_share_;
  idx share_rows_ = 0;                  // of the batch without weights that it is filled for
  T* slot_[MAX_SLOTS];
  bool drops_ = false;
  Buffer<T> dropped_, kept_, ones_;     // inputs, (rows, WIDEST); factors of units, as HiddenRun has them; a row of ones
};

// Narrower vectors take half as long where they hold the units too.
template <class T>
typename TinyHidden<T>::Choice TinyHidden<T>::choose(const Kernels<T>& kernels, const Shape& shape) {
  if (shape.n_layers != 2 || shape.layers[0].in > HIDDEN_WIDTH) return {};
  for (const HiddenKernels<T>* table : {kernels.narrower_hidden, &kernels.hidden})
    for (int vectors = 1; table && vectors <= 2; vectors++)
      if (table->train[vectors - 1] && shape.layers[0].out <= vectors * table->lanes)
        return {table->train[vectors - 1][shape.layers[1].out - 1], vectors, table};
  return {};
}

template <class T>
TinyHidden<T>::TinyHidden(const Kernels<T>& kernels, const Shape& shape, LossRow<T> loss, const OwnLoss<T>* own_loss,
                          const T* setting, const T* output_weight, const Choice& choice)
    : Tiny<T>(kernels, shape, loss, own_loss, setting, output_weight), kernel_(choice.kernel),
      samples_(std::min<idx>(HIDDEN_SAMPLES, choice.table->lanes)), width_(choice.vectors * choice.table->lanes),
      update_(choice.table->update),
      factor_(squared_factor(shape)) {
  const LayerShape &first = shape.layers[0], &last = shape.layers[1];
  const idx width = width_;
  idx n = (first.in + last.out) * width;
  run_.bias = first.bias < 0 ? -1 : n;
  if (first.bias >= 0) n += width;
  run_.output_bias = last.bias < 0 ? -1 : n;
  if (last.bias >= 0) n += choice.table->lanes;
  this->place({{0, width, false, run_.bias}, {first.in * width, width, true, run_.output_bias}}, n);
  const ActivationKernels<T> activation = activation_of(kernels, first), output = activation_of(kernels, last);
  run_.in = first.in;
  run_.hidden = first.out;
  run_.loss = loss;
  run_.setting = setting;
  run_.own_loss = own_loss;
  run_.activation = inline_of(first);
  run_.forward = activation.forward;
  run_.backward = activation.backward;
  run_.output_forward = output.forward;
  run_.output_backward = output.backward;
  run_.keeps_z = first.keeps_z;
  run_.output_keeps_z = last.keeps_z;
  run_.params = this->params_.data();
  run_.gradient = this->gradient_.data();
  run_.n_params = n;
  x_ = Buffer<T>(this->room_ * first.in);
  t_ = Buffer<T>(this->room_ * last.out);
  share_ = Buffer<double>((shape.batch + samples_ - 1) / samples_ * WIDEST);
  twice_share_ = Buffer<T>(share_.size());
  run_.share = share_.data();
  run_.twice_share = twice_share_.data();
  for (int k = 0; k < MAX_SLOTS; k++) slot_[k] = this->slots_[k].data();
  run_.slots = slot_;
  drops_ = first.dropout > 0 || last.dropout > 0;
  if (first.dropout > 0) dropped_ = Buffer<T>(shape.batch * WIDEST);
  if (last.dropout > 0) {
    kept_ = Buffer<T>((shape.batch + samples_) * WIDEST);
    ones_ = Buffer<T>(WIDEST);
    std::fill_n(ones_.data(), WIDEST, T{1});
  }
  run_.kept = kept_.data();
}

template <class T> HiddenRows<T> from_row(const HiddenRows<T>& rows, idx k) {
  return rows.order ? HiddenRows<T>{rows.data, rows.ld, rows.order + k} : HiddenRows<T>{rows.data + k * rows.ld, rows.ld, nullptr};
}
// Rows of numbers of T side by side are read where they lie, in any order and at any distance.
template <class T> bool readable(const Source& from) {
  const idx size = sizeof(T);
  return from.kind == 'f' && from.itemsize == size && !from.swapped && (from.cols == 1 || from.col_stride == size) &&
         from.row_stride % size == 0 && reinterpret_cast<uintptr_t>(from.data) % size == 0;
}

template <class T>
idx TinyHidden<T>::gather(const Data& data, idx start, idx end, const uint32_t* order, bool fresh, idx rows) {
  const bool x_lies = readable<T>(data.x), t_lies = !data.y_is_label && readable<T>(data.y);
  const idx size = sizeof(T);
  const auto lying = [&](const Source& from) {
    return from_row(HiddenRows<T>{reinterpret_cast<const T*>(from.data), from.row_stride / size, order}, start);
  };
  idx ready = (end - start) / rows;
  if (!x_lies || !t_lies)
    ready = this->grouped(start, end, fresh, rows, [&](idx count) {
      if (!x_lies) gather_rows(data.x, x_.data(), data.x.cols, start, order, count);
      if (data.y_is_label) gather_transposed(data.y, this->label_.data(), 0, start, order, count);
      else if (!t_lies) gather_rows(data.y, t_.data(), data.y.cols, start, order, count);
    });
  const idx at = start - this->group_begin_;
  run_.x = x_lies ? lying(data.x) : HiddenRows<T>{x_.data() + at * data.x.cols, data.x.cols, nullptr};
  run_.t = data.y_is_label ? HiddenRows<T>{} : t_lies ? lying(data.y)
           : HiddenRows<T>{t_.data() + at * data.y.cols, data.y.cols, nullptr};
  run_.targets = data.y.cols;
  run_.label = this->label_.data() + at;
  return ready;
}

template <class T> idx TinyHidden<T>::train(const Stretch& stretch, const Step<T>& step, double* losses) {
  const idx rows = stretch.rows;
  const double* share =
      this->shares_.of(stretch.weight, stretch.weights, stretch.start, stretch.order, rows, -1);
  run_.weight = this->shares_.weight();
  run_.ldw = this->shares_.ldw();
  run_.row_share = share;
  const bool squared = factor_ != 0 && !run_.weight && run_.t.data;
  if (squared && (stretch.weight || rows != share_rows_)) {
    idx at = 0;
    for (idx m = 0; m < rows; m += samples_)
      for (idx s = 0; s < WIDEST; s++, at++) {
        share_.data()[at] = s < samples_ && m + s < rows ? share[m + s] * factor_ : 0;
        twice_share_.data()[at] = static_cast<T>(2 * share_.data()[at]);
      }
    share_rows_ = stretch.weight ? 0 : rows;
  }
  run_.rows = rows;
  run_.steps = stretch.steps;
  run_.sgd = step.row == optimizer_sgd;
  run_.update = update_ && step.row >= 0 ? update_[step.row] : step.update;
  run_.scalars = step.scalars;
  run_.scalars_of_a_step = stretch.constant ? 0 : static_cast<idx>(MAX_SCALARS);
  run_.stop_on_loss = stretch.stop_on_loss;
  const bool calls = !squared || run_.activation == HIDDEN_CALLED || run_.output_forward || drops_ ||
                     (run_.activation == HIDDEN_TANH && rows > HIDDEN_SAMPLES && run_.hidden < width_);   // idle lanes
  if (!drops_) return kernel_[calls](run_, losses);
  for (idx k = 0; k < stretch.steps; k++)
    if (!kernel_[calls](dropping(stretch, k), losses + k)) return k;
  return stretch.steps;
}

// Step k of the stretch by itself: its inputs without those that are dropped, and the factors of its units.
template <class T> HiddenRun<T> TinyHidden<T>::dropping(const Stretch& stretch, idx k) {
  const idx first = k * stretch.rows;
  HiddenRun<T> one = run_;
  one.steps = 1;
  one.x = from_row(run_.x, first);
  one.t = from_row(run_.t, first);
  one.label += first;
  one.scalars += k * run_.scalars_of_a_step;
  for (size_t l = 0; l < 2; l++) {
    const LayerShape& s = this->shapes_[l];
    if (s.dropout > 0)
      for (idx m = 0; m < stretch.rows; m++) {
        uint16_t words[DROP_BLOCK];
        this->kernels_.drop_words(stretch.seed, static_cast<uint64_t>(stretch.count + k), l, static_cast<uint64_t>(m), 1, words);
        const T* const row = one.x.data + (one.x.order ? static_cast<idx>(one.x.order[m]) : m) * one.x.ld;
        this->kernels_.drop(l ? ones_.data() : row, (l ? kept_ : dropped_).data() + m * WIDEST, s.in, words, s.drop_threshold(),
                            static_cast<T>(s.kept_scale()));
      }
  }
  if (this->shapes_[0].dropout > 0) one.x = {dropped_.data(), WIDEST, nullptr};
  return one;
}
// Rows of a batch up to which a hidden unit per lane takes no longer than a sample per lane, which leaves no lane idle in a
// function that takes long: measured, see docs/internals.md.
idx units_rows(const Shape& shape) {
  const idx any = INT64_MAX, hidden = shape.layers[0].out;
  const HiddenActivation activation = inline_of(shape.layers[0]);
  const bool squared = squared_factor(shape) != 0 && !shape.n_output_weights;
  if (!squared || activation == HIDDEN_CALLED || inline_of(shape.layers[1]) != HIDDEN_IDENTITY)
    return hidden >= TINY_WIDTH ? any : 0;
  return activation != HIDDEN_TANH || hidden >= 4 ? any : hidden >= 2 ? 8 : 0;
}
}  // namespace

template <class T>
TinyPair<T> make_tiny(const Kernels<T>& kernels, const Shape& shape, LossRow<T> loss, const OwnLoss<T>* own_loss,
                      const T* setting, const T* output_weight) {
  TinyPair<T> tiny{nullptr, nullptr, INT64_MAX};
  const idx out = shape.layers[shape.n_layers - 1].out;
  if (!shape.fused || !shape.plain || (shape.loss < 0 && !shape.own_loss) || out > NARROW_OUTPUTS)   // the loss by columns
    return tiny;
  const auto choice = TinyHidden<T>::choose(kernels, shape);
  const bool samples = TinySamples<T>::suits(shape);
  if (choice.kernel && samples) tiny.units_rows = units_rows(shape);
  if (choice.kernel && tiny.units_rows)
    tiny.units.reset(new TinyHidden<T>(kernels, shape, loss, own_loss, setting, output_weight, choice));
  if (samples && !(tiny.units && tiny.units_rows == INT64_MAX))
    tiny.samples.reset(new TinySamples<T>(kernels, shape, loss, own_loss, setting, output_weight));
  return tiny;
}

#define FBP_INSTANTIATE(T)                                                                                             \
  template class Shares<T>;                                                                                            \
  template class Tiny<T>;                                                                                              \
  template TinyPair<T> make_tiny<T>(const Kernels<T>&, const Shape&, LossRow<T>, const OwnLoss<T>*, const T*, const T*);
FBP_INSTANTIATE(float)
FBP_INSTANTIATE(double)
}  // namespace fbp
