#include "bfloat16.hpp"

#include <algorithm>

namespace fbp {
namespace {

// From LONG rows on so many inputs of a layer go back at once: a block of x's columns stays in the L2 cache then.
constexpr idx LONG = 256, INPUTS = 128;
constexpr idx MOST_KEPT = static_cast<idx>(128) << 20;   // bytes of rows that are kept rounded
constexpr idx KEPT_EPOCHS = 8;   // of a call, or more calls than one: in fresh memory the first pass takes longer

// Of a product, as if it were in float32: threads are worth their while where it takes as long.
double flops(const LayerShape& s, idx rows) { return static_cast<double>(rows * s.in * s.out); }

idx even(idx n) { return n + n % 2; }
}  // namespace

Bfloat16::Matrix::Matrix(idx rows, idx cols, bool rows_too)
    : row(rows_too ? even(rows) * padded<uint16_t>(cols) : 0), pair(even(rows) / 2 * padded<uint32_t>(cols)),
      ldr(padded<uint16_t>(cols)), ldp(padded<uint32_t>(cols)) {}

Dropped Bfloat16::Layer::dropped() const {
  return {words.data(), shape.drop_blocks() * DROP_BLOCK, shape.drop_threshold(), static_cast<float>(shape.kept_scale()), nullptr};
}

Bfloat16::Bfloat16(const Bfloat16Kernels& rounded, const Kernels<float>& kernels, const Shape& shape, float* params)
    : rounded_(rounded), kernels_(kernels), gated_(shape.gated), most_threads_(std::min<int>(shape.n_threads, MAX_THREADS)) {
  int most_parts = 1;
  for (int l = 0; l < shape.n_layers; l++) {
    const LayerShape& s = shape.layers[l];
    const bool drops_next = l + 1 < shape.n_layers && shape.layers[l + 1].dropout > 0;
    // A user's own row, and whatever stands before dropout, goes by call.
    const bool own = s.activation < 0 && s.own_forward;
    const RoundedActivation& row = s.activation < 0 ? rounded.identity : rounded.activation[s.activation];
    layers_.push_back({s, params + s.weight, s.bias < 0 ? nullptr : params + s.bias, activation_of(kernels, s),
                       own || drops_next ? rounded.called : row, Matrix(shape.batch, s.in, true),
                       Matrix(shape.batch, s.out, l > 0), Buffer<uint32_t>(even(s.in) / 2 * s.ldw),
                       Buffer<uint16_t>(l && s.dropout > 0 ? even(shape.batch) * padded<uint16_t>(s.in) : 0),
                       Buffer<uint16_t>(l && s.dropout > 0 ? shape.batch * s.drop_blocks() * DROP_BLOCK : 0),
                       Buffer<float>(s.keeps_z && l + 1 < shape.n_layers ? shape.batch * padded<float>(s.out) : 0), {}});
    panel_size_ = std::max(panel_size_, (s.out + 15) / 16 * 8 * ROUNDED_COLUMNS);
  }
  for (const Layer& layer : layers_)
    most_parts = std::max(most_parts, share_backward(layer, shape.batch, most_threads_).parts);
  panels_ = Buffer<uint32_t>(most_parts * panel_size_);
}

// ------------------------------------------------------------------ threads

Split Bfloat16::share_forward(const Layer& layer, idx rows, int n_threads) const {
  return Sharing{n_threads, gated_}.of(layer.shape.out, ROUNDED_COLUMNS, flops(layer.shape, rows), FLOPS_OF_A_THREAD);
}
Split Bfloat16::share_backward(const Layer& layer, idx rows, int n_threads) const {
  const double work = (&layer == &layers_.front() ? 1 : 2) * flops(layer.shape, rows);
  return Sharing{n_threads, gated_}.of(layer.shape.in, ROUNDED_COLUMNS, work, FLOPS_OF_A_THREAD);
}
Split Bfloat16::share_rows(idx rows, idx cols) const {
  return Sharing{n_threads_, gated_}.of(rows, 2, static_cast<double>(rows * cols) * sizeof(float), BYTES_OF_A_THREAD);
}

void Bfloat16::describe(idx rows, int n_threads, LayerPlan* plans) const {
  for (const Layer& layer : layers_)
    *plans++ = {ROUNDED, share_forward(layer, rows, n_threads).parts, share_backward(layer, rows, n_threads).parts};
}

// ------------------------------------------------------------------ a step

void Bfloat16::round(Team& team, const float* x, idx ldx, const uint32_t* order, idx rows, idx cols,
                     const Rounded& to) const {
  each_part(team, share_rows(rows, cols),
            [&](idx m0, idx m1, int) { rounded_.round(x, ldx, order, rows, cols, m0, m1, to); });
}

void Bfloat16::enter(Team& team, bool goes_on, idx epochs) {
  keeps_ = goes_on || epochs >= KEPT_EPOCHS;
  if (goes_on) return;
  std::fill_n(is_kept_.data(), is_kept_.size(), static_cast<uint8_t>(0));
  round_weights(team);
}

void Bfloat16::round_weights(Team& team) {
  for (const Layer& layer : layers_) {
    const LayerShape& s = layer.shape;
    round(team, layer.weight, s.ldw, nullptr, s.in, s.out, {nullptr, 0, layer.pairs.data(), s.ldw});
  }
}

void Bfloat16::bind(idx rows, int n_threads) {
  rows_ = rows;
  n_threads_ = n_threads;
}
void Bfloat16::set_rule(int rule) {
  rule_ = rule == STORE ? rounded_.grad_weight : rule == BY_CALL ? rounded_.by_call : rounded_.optimizer[rule];
}

void Bfloat16::set_input(Team& team, const float* x, idx ldx, const uint32_t* order) {
  const Layer& first = layers_.front();
  input_ = first.x.forms();
  round(team, x, ldx, order, rows_, first.shape.in, input_);
}

void Bfloat16::set_kept_input(Team& team, const float* x, idx ldx, idx start, idx n) {
  const idx in = layers_.front().shape.in, row_bytes = 2 * static_cast<idx>(sizeof(uint16_t)) * padded<uint16_t>(in);
  // Pairs of rows lie as they do in the batch where that begins with one, and ends with one or with the last row.
  if (!keeps_ || start % 2 || (rows_ % 2 && start + rows_ < n) || n > MOST_KEPT / row_bytes)
    return set_input(team, x + start * ldx, ldx, nullptr);
  const auto pairs = static_cast<size_t>(even(n) / 2);
  if (is_kept_.size() != pairs) {
    kept_ = Matrix(n, in, true);
    is_kept_ = Buffer<uint8_t>(pairs);
  }
  input_ = kept_.forms(start);
  uint8_t* const begin = is_kept_.data() + start / 2;
  uint8_t* const end = begin + even(rows_) / 2;
  if (std::all_of(begin, end, [](uint8_t kept) { return kept; })) return;
  round(team, x + start * ldx, ldx, nullptr, rows_, in, input_);
  std::fill(begin, end, static_cast<uint8_t>(1));
}

// Which inputs of a hidden layer are dropped, before the layer below makes them.
void Bfloat16::draw_words(Team& team, Layer& layer, uint64_t seed, int64_t step) {
  const idx blocks = layer.shape.drop_blocks(), n = blocks * DROP_BLOCK;
  const auto l = static_cast<uint64_t>(&layer - layers_.data());
  each_part(team, share_rows(rows_, n), [&](idx m0, idx m1, int) {
    for (idx m = m0; m < m1; m++)
      kernels_.drop_words(seed, static_cast<uint64_t>(step), l, static_cast<uint64_t>(m), blocks, layer.words.data() + m * n);
  });
}

void Bfloat16::forward(Team& team, uint64_t seed, int64_t step, float* z, float* a, idx ld) {
  for (size_t l = 0; l < layers_.size(); l++) {
    Layer& layer = layers_[l];
    const LayerShape& s = layer.shape;
    const Rounded x = l ? layer.x.forms() : input_;
    RoundedForward f{rows_, s.in, s.out, x.row, x.ldr, layer.pairs.data(), s.ldw, layer.bias, {}, nullptr,
                     layer.z.data(), nullptr, padded<float>(s.out), layer.called.forward, {}};
    RoundedForwardKernel run = layer.activation.forward;
    if (is_last(layer)) {
      f.z = z;
      f.a = a;
      f.ld = ld;
      run = rounded_.output;
    } else {
      Layer& next = layers_[l + 1];
      f.to = next.x.forms();
      if (next.words.size()) {
        draw_words(team, next, seed, step);
        f.kept = next.kept.data();
        f.dropped = next.dropped();
        f.dropped.drop = kernels_.drop;
      }
    }
    each_part(team, share_forward(layer, rows_, n_threads_), [&](idx n0, idx n1, int) { run(f, n0, n1); });
  }
}

void Bfloat16::backward(Team& team, const float* delta, idx ldd) {
  const Layer& last = layers_.back();
  round(team, delta, ldd, nullptr, rows_, last.shape.out, last.delta.forms());
  size_t lowest = 0;   // that trains; nothing goes back below it
  while (lowest < layers_.size() && !layers_[lowest].wanted.weight && !layers_[lowest].wanted.bias) lowest++;
  for (size_t l = layers_.size(); l-- > lowest;) {
    const Layer& layer = layers_[l];
    const LayerShape& s = layer.shape;
    const Rounded to = layer.delta.forms();
    RoundedGradInput g{rows_, s.in, s.out, to.row, to.ldr, layer.pairs.data(), s.ldw, nullptr, {}, nullptr, 0, nullptr, 0,
                       nullptr, {}};
    RoundedGradInputKernel run = nullptr;
    if (l > lowest) {
      const Layer& below = layers_[l - 1];
      g.to = below.delta.forms();
      g.a = layer.words.size() ? layer.kept.data() : layer.x.row.data();
      g.lda = layer.x.ldr;
      g.z = below.z.data();
      g.ldz = padded<float>(s.in);
      g.activation = below.called.backward;
      if (layer.words.size()) {
        g.dropped = layer.dropped();
        g.dropped.drop = kernels_.drop;
      }
      run = below.activation.grad_input;
    }
    const Rounded x = l ? layer.x.forms() : input_;
    const RoundedGradWeight r{x.pair, x.ldp, to.pair, to.ldp, layer.pairs.data()};
    each_part(team, share_backward(layer, rows_, n_threads_), [&](idx i0, idx i1, int part) {
      RoundedGradInput mine = g;
      mine.panel = panels_.data() + part * panel_size_;
      const idx block = rows_ < LONG ? i1 - i0 : INPUTS;
      for (idx i = i0; i < i1; i += block) {
        const idx end = std::min(i + block, i1);
        if (run) run(mine, i, end);
        if (layer.wanted.weight) rule_(r, *layer.wanted.weight, i, end);
      }
      if (i1 == s.in && layer.wanted.bias) rounded_.grad_bias(r, *layer.wanted.bias);
    });
  }
}
}  // namespace fbp
