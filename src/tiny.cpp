#include "tiny.hpp"

#include <algorithm>

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

template <class T> bool Tiny<T>::suits(const Shape& shape) {
  if (!shape.fused || !shape.plain || (shape.loss < 0 && !shape.own_loss)) return false;
  for (int l = 0; l < shape.n_layers; l++)
    if (shape.layers[l].in > TINY_WIDTH || shape.layers[l].out > TINY_WIDTH) return false;
  return shape.layers[shape.n_layers - 1].out <= NARROW_OUTPUTS;   // the loss by columns
}

template <class T>
Tiny<T>::Tiny(const Kernels<T>& kernels, const Shape& shape, LossRow<T> loss, const OwnLoss<T>* own_loss,
              const T* setting, const T* output_weight)
    : kernels_(kernels), loss_row_(loss), own_loss_(own_loss), setting_(setting),
      shapes_(shape.layers, shape.layers + shape.n_layers), n_params_(0),
      shares_(shape.batch, shape.loss_scale, shape.batch + WIDEST, true, output_weight) {
  idx n_units = 0;
  for (const LayerShape& s : shapes_) n_units += 3 * s.out;
  units_ = Buffer<T>(n_units * kernels.lanes);
  T* unit = units_.data();
  const auto take = [&](idx units) { return (unit += units * kernels.lanes) - units * kernels.lanes; };
  for (const LayerShape& s : shapes_) {
    TinyLayer<T> layer{s.in, s.out, n_params_, -1, nullptr, nullptr, nullptr,
                       activation_of(kernels, s)};
    n_params_ += s.in * s.out;
    if (s.bias >= 0) {
      layer.bias = n_params_;
      n_params_ += s.out;
    }
    layer.a = take(s.out);
    layer.delta = take(s.out);
    layer.z = s.keeps_z ? take(s.out) : layer.a;
    layers_.push_back(layer);
  }
  const idx whole = (n_params_ + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
  params_ = Buffer<T>(whole + WIDEST);   // `squares` reads whole vectors, from anywhere
  gradient_ = Buffer<T>(whole);
  products_ = Buffer<T>(whole * kernels.lanes);
  for (Buffer<T>& slot : slots_) slot = Buffer<T>(whole);
  ld_ = (shape.batch > GROUP ? shape.batch : static_cast<idx>(GROUP)) + WIDEST;
  x_ = Buffer<T>(shapes_.front().in * ld_);
  t_ = Buffer<T>(shapes_.back().out * ld_);
  label_ = Buffer<int32_t>(ld_);
}

// copy(dense offset, padded offset) for every parameter
template <class T> template <class Copy> void Tiny<T>::each_parameter(Copy copy) const {
  for (size_t l = 0; l < layers_.size(); l++) {
    const LayerShape& s = shapes_[l];
    for (idx i = 0; i < s.in; i++)
      for (idx j = 0; j < s.out; j++)
        copy(layers_[l].weight + i * s.out + j, s.weight + (s.transposed ? j * s.ldw + i : i * s.ldw + j));
    if (s.bias >= 0)
      for (idx j = 0; j < s.out; j++) copy(layers_[l].bias + j, s.bias + j);
  }
}
template <class T> void Tiny<T>::enter(const T* params, T* const* slots) {
  each_parameter([&](idx dense, idx padded) {
    params_.data()[dense] = params[padded];
    for (int k = 0; k < MAX_SLOTS; k++)
      if (slots[k]) slots_[k].data()[dense] = slots[k][padded];
  });
  group_end_ = 0;
}
template <class T> void Tiny<T>::leave(T* params, T* const* slots) const {
  each_parameter([&](idx dense, idx padded) {
    params[padded] = params_.data()[dense];
    for (int k = 0; k < MAX_SLOTS; k++)
      if (slots[k]) slots[k][padded] = slots_[k].data()[dense];
  });
}

template <class T> double Tiny<T>::weight_squares() const {
  double sum = 0;
  for (const TinyLayer<T>& layer : layers_)
    sum += kernels_.squares(params_.data() + layer.weight, 0, 1, layer.in * layer.out);
  return sum;
}

template <class T> idx Tiny<T>::gather(const Data& data, idx start, const uint32_t* order, bool fresh, idx rows) {
  if (fresh || start < group_begin_ || start + rows > group_end_) {
    group_begin_ = start;
    group_end_ = std::min(data.x.rows, start + ld_ - WIDEST);
    const idx count = group_end_ - start;
    gather_transposed(data.x, x_.data(), ld_, start, order, count);
    if (data.y_is_label) gather_transposed(data.y, label_.data(), 0, start, order, count);
    else gather_transposed(data.y, t_.data(), ld_, start, order, count);
    y_is_label_ = data.y_is_label;
  }
  return (group_end_ - start) / rows;
}

template <class T>
idx Tiny<T>::train(const double* weight, idx weights, idx start, const uint32_t* order, idx rows, idx steps, const Step<T>& step,
                   bool constant, bool stop_on_loss, double* losses) {
  const idx at = start - group_begin_;
  T* slots[MAX_SLOTS];
  for (int k = 0; k < MAX_SLOTS; k++) slots[k] = slots_[k].data();
  const double* share = shares_.of(weight, weights, start, order, rows, -1);
  const TinyBatches<T> run{layers_.data(), static_cast<int>(layers_.size()), n_params_, rows, steps,
                           params_.data(), slots, step.scalars, constant ? 0 : static_cast<idx>(MAX_SCALARS), step.update,
                           x_.data() + at, ld_,
                           y_is_label_ ? nullptr : t_.data() + at, ld_, label_.data() + at,
                           share, loss_row_, setting_, shares_.weight(), shares_.ldw(), stop_on_loss,
                           products_.data(), gradient_.data(), own_loss_};
  return step.kernels->tiny_train(run, losses);
}

template class Shares<float>;
template class Shares<double>;
template class Tiny<float>;
template class Tiny<double>;
}  // namespace fbp
