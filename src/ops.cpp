#include "ops.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "layout.hpp"
#include "memory.hpp"

namespace fbp {
namespace {

// ------------------------------------------------------------------ scratch

constexpr size_t MOST_KEPT = 4 << 20;   // bytes of scratch that a thread keeps for its next call
thread_local Buffer<char> kept;

// Memory of one call: of what the thread keeps as long as that reaches. Under guard each piece is a buffer of its own.
class Scratch {
 public:
  ~Scratch() {
    if (used_ <= kept.size() || used_ > MOST_KEPT) return;
    try {
      kept = Buffer<char>(used_);
    } catch (const std::bad_alloc&) {   // then the next call asks again
    }
  }
  template <class E> E* take(idx n) {
    const size_t bytes = (static_cast<size_t>(n) * sizeof(E) + LINE - 1) / LINE * LINE;
    if (!guarded()) {
      used_ += bytes;
      if (used_ <= kept.size()) return reinterpret_cast<E*>(kept.data() + used_ - bytes);
    }
    more_.emplace_back(bytes);
    return reinterpret_cast<E*>(more_.back().data());
  }

 private:
  size_t used_ = 0;
  std::vector<Buffer<char>> more_;
};

// ------------------------------------------------------------------ copies

constexpr idx rounded(idx n, idx unit) { return (n + unit - 1) / unit * unit; }

// How many of the first rows of (rows, ld) may be read up to `wide` columns, though only `cols` are its own: these end
// in later rows.
constexpr idx rows_readable(idx rows, idx cols, idx ld, idx wide) {
  return std::max<idx>(0, wide <= cols ? rows : rows - (wide - cols + ld - 1) / ld);
}

template <class T> void copy(const T* from, idx ldf, T* to, idx ldt, idx rows, idx cols) {
  if (ldf == cols && ldt == cols) cols *= rows, rows = 1;
  for (idx m = 0; m < rows; m++) std::memcpy(to + m * ldt, from + m * ldf, static_cast<size_t>(cols) * sizeof(T));
}
template <class T> void copy_transposed(const T* from, idx ldf, T* to, idx ldt, idx rows, idx cols) {
  for (idx m = 0; m < rows; m++)
    for (idx n = 0; n < cols; n++) to[n * ldt + m] = from[m * ldf + n];
}
// A few columns, at most a vector of them. Into a panel whole vectors go, but for the last rows.
template <int bytes, class T> void copy_vectors(const T* from, idx ldf, T* to, idx rows) {
  for (idx m = 0; m < rows; m++, from += ldf, to += bytes / sizeof(T)) std::memcpy(to, from, bytes);
}
template <class T> void copy_into_panel(const T* from, idx ldf, T* panel, idx lanes, idx rows, idx cols) {
  const idx whole = rows_readable(rows, cols, ldf, lanes);
  switch (lanes * static_cast<idx>(sizeof(T))) {
    case 64: copy_vectors<64>(from, ldf, panel, whole); break;
    case 32: copy_vectors<32>(from, ldf, panel, whole); break;
    default: copy_vectors<16>(from, ldf, panel, whole);
  }
  copy(from + whole * ldf, ldf, panel + whole * lanes, lanes, rows - whole, cols);
}
// `count` panels side by side, each `width` columns wide, into one behind the other. The rows lie far apart: they are
// fetched ahead, several lines of each.
enum { PANELS = 4, ROWS_AHEAD = 8, L2_BYTES = 1 << 20 };
template <int bytes, class T> void copy_panels_of(const T* from, idx ld, T* to, idx rows, idx count) {
  constexpr idx width = bytes / sizeof(T);
  for (idx m = 0; m < rows; m++, from += ld)
    for (idx k = 0; k < count; k++) {
      for (idx n = 0; n < width; n += PER_LINE<T>)
        if (m + ROWS_AHEAD < rows) __builtin_prefetch(from + ROWS_AHEAD * ld + k * width + n);
      std::memcpy(to + (k * rows + m) * width, from + k * width, bytes);
    }
}
template <class T> void copy_panels(const T* from, idx ld, T* to, idx rows, idx width, idx count) {
  switch (width * static_cast<idx>(sizeof(T))) {
    case 128: return copy_panels_of<128>(from, ld, to, rows, count);
    case 64: return copy_panels_of<64>(from, ld, to, rows, count);
    default: return copy_panels_of<32>(from, ld, to, rows, count);
  }
}
template <class T> void copy_out(const T* panel, idx ldp, T* to, idx ldt, idx rows, idx cols) {
  for (idx m = 0; m < rows; m++)
    for (idx n = 0; n < cols; n++) to[m * ldt + n] = panel[m * ldp + n];
}

template <class T> bool bad_stride(idx rows, idx ld) {
  return rows > 1 && ld * static_cast<idx>(sizeof(T)) % BAD_STRIDE == 0;
}

template <class T> const ActivationKernels<T>& activation_kernels(const Kernels<T>& kernels, int row) {
  return row < 0 ? kernels.identity : kernels.activation[row];
}

// An array that kernels read: where it lies, or a copy.
template <class T> struct View {
  const T* data;
  idx ld;
};

// x as the products want it: element by element, or in a narrow layer by whole vectors.
template <class T> View<T> input(Scratch& scratch, const Dense<T>& d, bool narrow, idx lanes) {
  if (!bad_stride<T>(d.rows, d.ldx) && !(narrow && d.in % lanes)) return {d.x, d.ldx};
  const idx ld = padded<T>(d.in);
  T* to = scratch.take<T>(d.rows * ld);
  copy(d.x, d.ldx, to, ld, d.rows, d.in);
  return {to, ld};
}
// Something laid out as the weight of a narrow layer, transposed and in whole vectors.
template <class T> bool narrow_lies(const Dense<T>& d, idx lanes) { return d.transposed && d.in % lanes == 0; }
template <class T> T* narrow(Scratch& scratch, const Dense<T>& d, const T* from, idx ld) {
  T* to = scratch.take<T>(d.out * ld);
  if (d.transposed) copy(from, d.ldw, to, ld, d.out, d.in);
  else copy_transposed(from, d.ldw, to, ld, d.in, d.out);
  return to;
}
template <class T> void narrow_back(const Dense<T>& d, const T* from, idx ld, T* to) {
  if (d.transposed) copy(from, ld, to, d.ldw, d.out, d.in);
  else copy_transposed(from, ld, to, d.ldw, d.out, d.in);
}

// What a bias's vectors are: where they lie if they are whole, else a copy.
template <class T> T* whole_vectors(Scratch& scratch, T* from, idx n, idx lanes) {
  if (!from || n % lanes == 0) return from;
  T* to = scratch.take<T>(rounded(n, lanes));
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  return to;
}
template <class T> void vectors_back(const T* from, T* to, idx n) {
  if (from != to) std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
}

// ------------------------------------------------------------------ forward

template <class T>
void product(const Place& place, const Dense<T>& d, const ActivationKernels<T>& activation, T* to, idx ldt) {
  const Kernels<T>& kernels = kernels_of<T>(*place.isa);
  const Sharing sharing{place.n_threads, place.gated};
  const idx lanes = kernels.lanes;
  const double flops = 2.0 * d.rows * d.in * d.out;
  Scratch scratch;
  Team team;
  Forward<T> f{};
  f.rows = d.rows, f.in = d.in, f.out = d.out;
  f.bias = d.bias;
  f.activation = activation.forward;

  if (d.out <= NARROW_OUTPUTS) {
    const View<T> x = input(scratch, d, true, lanes);
    f.x = x.data, f.ldx = x.ld;
    f.ldw = narrow_lies(d, lanes) ? d.ldw : padded<T>(d.in);
    f.weight = narrow_lies(d, lanes) ? d.weight : narrow(scratch, d, d.weight, f.ldw);
    f.ld = padded<T>(d.rows);
    f.z = f.a = scratch.take<T>(d.out * f.ld);
    each_part(team, sharing.of(d.rows, PER_LINE<T>, flops, FLOPS_OF_A_THREAD),
              [&](idx m, idx end, int) { activation.layer_forward[NARROW](f, m, end); });
    return copy_transposed(f.a, f.ld, to, ldt, d.out, d.rows);
  }

  const View<T> x = input(scratch, d, false, lanes);
  f.x = x.data, f.ldx = x.ld;
  f.weight = d.weight, f.ldw = d.ldw;
  f.z = f.a = to, f.ld = ldt;
  const idx whole = d.out / lanes * lanes, tail = d.out - whole;
  f.out = whole;
  Forward<T> rest = f;   // the columns that are left over
  T* panel = nullptr;
  if (tail) {
    panel = scratch.take<T>(d.in * lanes);
    rest.out = tail;
    rest.weight = panel, rest.ldw = lanes;
    if (d.bias) {
      T* bias = scratch.take<T>(lanes);
      std::memcpy(bias, d.bias + whole, static_cast<size_t>(tail) * sizeof(T));
      rest.bias = bias;
    }
    rest.z = rest.a = scratch.take<T>(d.rows * lanes);
    rest.ld = lanes;
  }

  if (d.rows == 1) {
    const idx blocks = (d.in + SINGLE_INPUTS - 1) / SINGLE_INPUTS;
    int32_t* used = scratch.take<int32_t>(d.in);
    for (idx i = 0; i < d.in; i++) used[i] = static_cast<int32_t>(i);
    f.used = rest.used = used;
    f.n_used = rest.n_used = d.in;
    f.ld = padded<T>(d.out);   // of partial sums; there is one row
    f.partial = scratch.take<T>(blocks * f.ld);
    if (tail) rest.partial = scratch.take<T>(blocks * lanes);
    each_part(team, sharing.of(d.in, SINGLE_INPUTS, flops, FLOPS_OF_A_THREAD), [&](idx i, idx end, int) {
      if (whole) activation.layer_forward[SINGLE](f, i, end);
      if (!tail) return;
      copy_into_panel(d.weight + i * d.ldw + whole, d.ldw, panel + i * lanes, lanes, end - i, tail);
      activation.layer_forward[SINGLE](rest, i, end);
    });
    if (whole) kernels.single_finish(f);
    if (tail) kernels.single_finish(rest);
  } else {
    // Rows of the weight that meet in the same cache sets are read once, into panels, and not by each tile again; where
    // all of it fits into the L2 cache that costs more than it gains.
    const Split split = sharing.of(d.out, PER_LINE<T>, flops, FLOPS_OF_A_THREAD);
    const bool large = d.in * d.ldw * static_cast<idx>(sizeof(T)) > L2_BYTES;
    const bool copies = large && bad_stride<T>(d.in, d.ldw) && d.rows > kernels.tile_rows;
    const idx width = kernels.panel_columns, panel_size = d.in * width;
    T* const panels = copies ? scratch.take<T>(split.parts * PANELS * panel_size) : nullptr;
    each_part(team, split, [&](idx n, idx end, int part) {
      T* const own = panels + part * PANELS * panel_size;
      for (const idx most = std::min(end, whole); copies && most - n >= width;) {
        const idx count = std::min<idx>(PANELS, (most - n) / width);
        copy_panels(d.weight + n, d.ldw, own, d.in, width, count);
        for (idx k = 0; k < count; k++, n += width) {
          Forward<T> g = f;
          g.out = width;
          g.weight = own + k * panel_size, g.ldw = width;
          if (d.bias) g.bias = d.bias + n;
          g.z = g.a = to + n;
          activation.layer_forward[DIRECT](g, 0, width);
        }
      }
      if (n < whole) activation.layer_forward[DIRECT](f, n, std::min(end, whole));
      if (end < d.out || !tail) return;
      copy_into_panel(d.weight + whole, d.ldw, panel, lanes, d.in, tail);
      activation.layer_forward[DIRECT](rest, 0, tail);
    });
  }
  if (tail) copy_out(rest.a, rest.ld, to + whole, ldt, d.rows, tail);
}

// f(from, to, n) on whole vectors of n numbers, and on the rest of them in a vector of scratch each.
template <class T, class F>
void by_vectors(idx lanes, idx n, const T* const* in, T* const* out, int n_in, int n_out, F f) {
  const idx whole = n / lanes * lanes, bytes = (n - whole) * static_cast<idx>(sizeof(T));
  if (whole) f(in, out, whole);
  if (whole == n) return;
  alignas(LINE) T scratch[2 * MAX_SLOTS][LINE / sizeof(T)] = {};
  const T* from[2 * MAX_SLOTS];
  T* to[2 * MAX_SLOTS];
  for (int k = 0; k < n_out; k++) {   // what is written is read before, or may be
    to[k] = scratch[k];
    if (out[k]) std::memcpy(to[k], out[k] + whole, static_cast<size_t>(bytes));
    else to[k] = nullptr;
  }
  for (int k = 0; k < n_in; k++) {
    from[k] = in[k] ? scratch[n_out + k] : nullptr;
    if (in[k]) std::memcpy(scratch[n_out + k], in[k] + whole, static_cast<size_t>(bytes));
  }
  f(from, to, n - whole);
  for (int k = 0; k < n_out; k++)
    if (out[k]) std::memcpy(out[k] + whole, to[k], static_cast<size_t>(bytes));
}

// ------------------------------------------------------------------ back

enum { MOST_DOT_INPUTS = 4 };   // dot_inputs of src/kernels/layers.hpp, in any ISA

// dL/dz, (rows, out) in whole vectors, transposed (out, rows) for a narrow layer.
template <class T>
View<T> delta_of(Scratch& scratch, const Dense<T>& d, const Upstream<T>& from, const ActivationKernels<T>& activation,
                 idx lanes) {
  const BackwardRow<T> back = activation.backward;
  if (d.out <= NARROW_OUTPUTS) {
    const idx ld = padded<T>(d.rows), size = d.out * ld;
    T* delta = scratch.take<T>(size);
    copy_transposed(from.grad, from.ldg, delta, ld, d.rows, d.out);
    if (back) {
      T* a = scratch.take<T>(size);
      copy_transposed(from.a, from.lda, a, ld, d.rows, d.out);
      T* z = from.z ? scratch.take<T>(size) : nullptr;
      if (z) copy_transposed(from.z, from.ldz, z, ld, d.rows, d.out);
      back(delta, a, z, ld, d.out, d.rows);
    }
    return {delta, ld};
  }
  if (!back && d.out % lanes == 0 && !bad_stride<T>(d.rows, from.ldg)) return {from.grad, from.ldg};
  const idx ld = padded<T>(d.out), wide = rounded(d.out, lanes);
  T* delta = scratch.take<T>(d.rows * ld);
  copy(from.grad, from.ldg, delta, ld, d.rows, d.out);
  if (!back) return {delta, ld};
  idx direct = rows_readable(d.rows, d.out, from.lda, wide);   // rows whose vectors may be read where they lie
  if (from.z) direct = std::min(direct, rows_readable(d.rows, d.out, from.ldz, wide));
  const idx step = from.lda == ld && (!from.z || from.ldz == ld) ? std::max<idx>(direct, 1) : 1;
  for (idx m = 0; m < direct; m += step)
    back(delta + m * ld, from.a + m * from.lda, from.z ? from.z + m * from.ldz : nullptr, ld, step, d.out);
  if (direct == d.rows) return {delta, ld};
  T *a = scratch.take<T>(wide), *z = scratch.take<T>(wide);
  for (idx m = direct; m < d.rows; m++) {
    std::memcpy(a, from.a + m * from.lda, static_cast<size_t>(d.out) * sizeof(T));
    if (from.z) std::memcpy(z, from.z + m * from.ldz, static_cast<size_t>(d.out) * sizeof(T));
    back(delta + m * ld, a, from.z ? z : nullptr, ld, 1, d.out);
  }
  return {delta, ld};
}

template <class T>
void backward(const Place& place, const Dense<T>& d, const Upstream<T>& from, T* grad_input, idx ldg,
              const Gradients<T>* to, const Rule<T>* rule) {
  const Kernels<T>& kernels = kernels_of<T>(*place.isa);
  const ActivationKernels<T>& identity = kernels.identity;
  const idx lanes = kernels.lanes, panel_width = kernels.panel_columns;
  const bool is_narrow = d.out <= NARROW_OUTPUTS, whole_rows = d.out % lanes == 0;
  const OptimizerKernels<T>* optimizer = rule ? &kernels.optimizer[rule->row] : nullptr;
  // The families that make both gradients in one pass over the weight work on whole rows of it, and update it.
  Family family = family_of(is_narrow, d.rows, d.out, lanes);
  if (!is_narrow && (!rule || !whole_rows)) family = DIRECT;
  const BackwardKernel<T> both = rule ? optimizer->layer_backward[family] : nullptr;

  Scratch scratch;
  Team team;
  const Split split = Sharing{place.n_threads, place.gated}.of(
      d.in, family == SINGLE ? static_cast<idx>(SINGLE_INPUTS) : PER_LINE<T>, 4.0 * d.rows * d.in * d.out,
      FLOPS_OF_A_THREAD);
  const View<T> x = input(scratch, d, is_narrow, lanes);
  const View<T> delta = delta_of(scratch, d, from, activation_kernels(kernels, d.activation), lanes);

  GradInput<T> gi{};   // of the weight before the update
  gi.rows = d.rows, gi.in = d.in, gi.out = d.out;
  gi.delta = delta.data, gi.ldd = delta.ld;
  gi.weight = d.weight, gi.ldw = d.ldw;
  gi.grad_input = grad_input, gi.ldg = ldg;
  GradWeight<T> gw{};
  gw.rows = d.rows, gw.in = d.in, gw.out = d.out;
  gw.x = x.data, gw.ldx = x.ld;
  gw.delta = delta.data, gw.ldd = delta.ld;
  gw.weight = d.weight, gw.ldw = d.ldw;
  GradWeight<T> gb = gw;
  gb.weight = d.bias;
  if (rule) {
    gw.update = gb.update = optimizer->update;
    gw.scalars = gb.scalars = rule->scalars;
    std::copy_n(rule->slots, MAX_SLOTS, gw.slots);
    std::copy_n(rule->bias_slots, MAX_SLOTS, gb.slots);
  } else {
    gw.grad = to->weight, gw.ldw = to->ldw;
    gb.grad = to->bias;
  }
  if (family == SINGLE) {
    int32_t* used = scratch.take<int32_t>(d.in);
    for (idx i = 0; i < d.in; i++) used[i] = static_cast<int32_t>(i);
    gw.used = used, gw.n_used = d.in;
  }

  // The bias, on whole vectors.
  GradWeight<T> whole_bias = gb;
  whole_bias.weight = whole_vectors(scratch, gb.weight, d.out, lanes);
  whole_bias.grad = whole_vectors(scratch, gb.grad, d.out, lanes);
  for (int s = 0; s < MAX_SLOTS; s++) whole_bias.slots[s] = whole_vectors(scratch, gb.slots[s], d.out, lanes);
  const auto run_bias = [&] {
    if (!(rule ? d.bias : gb.grad)) return;
    kernels.grad_bias[family](whole_bias);
    if (!rule) return vectors_back(whole_bias.grad, gb.grad, d.out);
    vectors_back(whole_bias.weight, gb.weight, d.out);
    for (int s = 0; s < MAX_SLOTS; s++) vectors_back(whole_bias.slots[s], gb.slots[s], d.out);
  };
  const auto kernel = rule ? optimizer->layer_update[family] : kernels.grad_weight[family];

  if (is_narrow) {
    const bool lies = narrow_lies(d, lanes), whole_inputs = d.in % lanes == 0;
    const idx ld = lies ? d.ldw : padded<T>(d.in);
    GradWeight<T> own = gw;
    own.ldw = ld;
    if (!lies) {
      own.weight = narrow(scratch, d, d.weight, ld);
      for (int s = 0; s < MAX_SLOTS; s++)
        if (gw.slots[s]) own.slots[s] = narrow(scratch, d, gw.slots[s], ld);
    }
    gi.weight = own.weight, gi.ldw = ld;
    if (!whole_inputs) {
      gi.ldg = padded<T>(d.in);
      gi.grad_input = scratch.take<T>(d.rows * gi.ldg);
    }
    if (!rule) own.grad = scratch.take<T>(d.out * padded<T>(d.in)), own.ldw = padded<T>(d.in);
    each_part(team, split, [&](idx begin, idx end, int) {
      identity.layer_grad_input[NARROW](gi, begin, end);
      kernel(own, begin, end);
      if (end == d.in) run_bias();
    });
    if (!whole_inputs) copy(gi.grad_input, gi.ldg, grad_input, ldg, d.rows, d.in);
    if (!rule) return copy_transposed(own.grad, own.ldw, to->weight, to->ldw, d.out, d.in);
    if (lies) return;
    narrow_back(d, own.weight, ld, d.weight);
    for (int s = 0; s < MAX_SLOTS; s++)
      if (gw.slots[s]) narrow_back(d, own.slots[s], ld, gw.slots[s]);
    return;
  }

  if (both) {
    const bool fits = d.in % MOST_DOT_INPUTS == 0;   // or there are dot products with rows past the last
    if (!fits) {
      gi.ldg = padded<T>(d.in);
      gi.grad_input = scratch.take<T>(d.rows * gi.ldg);
    }
    each_part(team, split, [&](idx begin, idx end, int) {
      both(gi, gw, begin, end);
      if (end == d.in) run_bias();
    });
    if (!fits) copy(gi.grad_input, gi.ldg, grad_input, ldg, d.rows, d.in);
    return;
  }

  // Inputs up to `direct` are whole panels whose weights may be read by whole vectors; the others are copied.
  const bool whole_inputs = d.in % lanes == 0;
  const idx wide = rounded(d.out, lanes);
  const idx direct = whole_inputs && whole_rows
                         ? d.in : rows_readable(d.in, d.out, d.ldw, wide) / panel_width * panel_width;
  const idx most = d.in - direct, panel = wide * panel_width;   // inputs copied at once; the kernel's scratch
  const idx ldi = rounded(most, lanes);
  T* panels = scratch.take<T>(split.parts * panel);
  T* copied = whole_rows ? nullptr : scratch.take<T>(most * wide);
  T* results = most ? scratch.take<T>(split.parts * d.rows * ldi) : nullptr;
  const auto run_input = [&](idx begin, idx end, int part) {
    GradInput<T> g = gi;
    g.panel = panels + part * panel;
    if (begin < direct) identity.layer_grad_input[DIRECT](g, begin, std::min(end, direct));
    begin = std::max(begin, direct);
    if (begin >= end) return;
    g.in = end - begin;
    g.weight = d.weight + begin * d.ldw;
    if (!whole_rows) {
      T* own = copied + (begin - direct) * wide;
      copy(g.weight, d.ldw, own, wide, g.in, d.out);
      g.weight = own, g.ldw = wide;
    }
    g.grad_input = results + part * d.rows * ldi, g.ldg = ldi;
    identity.layer_grad_input[DIRECT](g, 0, g.in);
    copy_out(g.grad_input, ldi, grad_input + begin, ldg, d.rows, g.in);
  };

  const idx whole = d.out / lanes * lanes, tail = d.out - whole;
  GradWeight<T> most_columns = gw, rest = gw;
  most_columns.out = whole;
  rest.out = tail, rest.ldw = lanes;
  rest.delta = delta.data + whole;
  T* const lies[MAX_SLOTS + 1] = {rule ? d.weight : to->weight, gw.slots[0], gw.slots[1], gw.slots[2], gw.slots[3]};
  T* own[MAX_SLOTS + 1] = {};
  if (tail) {
    for (int s = 0; s <= MAX_SLOTS; s++)
      if (lies[s]) own[s] = scratch.take<T>(d.in * lanes);
    (rule ? rest.weight : rest.grad) = own[0];
    std::copy_n(own + 1, MAX_SLOTS, rest.slots);
  }
  each_part(team, split, [&](idx begin, idx end, int part) {
    run_input(begin, end, part);
    if (whole) kernel(most_columns, begin, end);
    if (tail) {
      const idx ld = gw.ldw, at = begin * ld + whole, rows = end - begin;
      if (rule)
        for (int s = 0; s <= MAX_SLOTS; s++)
          if (lies[s]) copy(lies[s] + at, ld, own[s] + begin * lanes, lanes, rows, tail);
      kernel(rest, begin, end);
      for (int s = 0; s <= MAX_SLOTS; s++)
        if (lies[s]) copy_out(own[s] + begin * lanes, lanes, lies[s] + at, ld, rows, tail);
    }
    if (end == d.in) run_bias();
  });
}
}  // namespace

template <class T> void linear(const Place& place, const Dense<T>& d, T* z, idx ldz, T* a, idx lda) {
  const Kernels<T>& kernels = kernels_of<T>(*place.isa);
  if (!z) return product(place, d, activation_kernels(kernels, d.activation), a, lda);
  product(place, d, kernels.identity, z, ldz);
  for (idx m = 0; m < d.rows; m++) activation(*place.isa, d.activation, d.out, z + m * ldz, a + m * lda);
}

template <class T>
void linear_backward(const Place& place, const Dense<T>& d, const Upstream<T>& from, T* grad_input, idx ldg,
                     const Gradients<T>& to) {
  backward<T>(place, d, from, grad_input, ldg, &to, nullptr);
}
template <class T>
void linear_backward_update(const Place& place, const Dense<T>& d, const Upstream<T>& from, T* grad_input, idx ldg,
                            const Rule<T>& rule) {
  backward<T>(place, d, from, grad_input, ldg, nullptr, &rule);
}

template <class T> void update(const Isa& isa, idx n, T* param, const T* grad, const Rule<T>& rule) {
  const Kernels<T>& kernels = kernels_of<T>(isa);
  T* const out[] = {param, rule.slots[0], rule.slots[1], rule.slots[2], rule.slots[3]};
  by_vectors<T>(kernels.lanes, n, &grad, out, 1, MAX_SLOTS + 1, [&](const T* const* from, T* const* to, idx some) {
    kernels.optimizer[rule.row].update(to[0], to + 1, some, from[0], some, 1, some, rule.scalars);
  });
}

template <class T> void activation(const Isa& isa, int row, idx n, const T* z, T* a) {
  const Kernels<T>& kernels = kernels_of<T>(isa);
  if (row < 0) {
    if (a != z) std::memcpy(a, z, static_cast<size_t>(n) * sizeof(T));
    return;
  }
  by_vectors<T>(kernels.lanes, n, &z, &a, 1, 1, [&](const T* const* from, T* const* to, idx some) {
    kernels.activation[row].forward(from[0], to[0], some, 1, some);
  });
}
template <class T> void activation_backward(const Isa& isa, int row, idx n, T* delta, const T* a, const T* z) {
  const Kernels<T>& kernels = kernels_of<T>(isa);
  if (row < 0) return;
  const T* const in[] = {a, z};
  by_vectors<T>(kernels.lanes, n, in, &delta, 2, 1, [&](const T* const* from, T* const* to, idx some) {
    kernels.activation[row].backward(to[0], from[0], from[1], some, 1, some);
  });
}

namespace {
template <class T> double loss_of(const Isa& isa, const LossOf& of, T* grad) {
  Scratch scratch;
  const auto in_t = [&](const double* from, idx n) {
    T* to = scratch.take<T>(padded<T>(std::max<idx>(n, 1)));
    for (idx k = 0; k < n; k++) to[k] = static_cast<T>(from[k]);
    return to;
  };
  const idx ld = padded<T>(of.cols), ldt = padded<T>(of.targets);
  T *z = scratch.take<T>(of.rows * ld), *g = scratch.take<T>(of.rows * ld);
  T* t = of.t ? scratch.take<T>(of.rows * ldt) : nullptr;
  const T* const settings = in_t(of.settings, of.n_settings);
  const T* const weights = of.output_weights ? in_t(of.output_weights, of.targets) : nullptr;
  copy(static_cast<const T*>(of.z), of.cols, z, ld, of.rows, of.cols);
  if (t) copy(static_cast<const T*>(of.t), of.targets, t, ldt, of.rows, of.targets);
  const double value = kernels_of<T>(isa).loss[of.row](
      {of.rows, of.cols, false, z, ld, t, ldt, of.label, of.share, g, settings, weights, 0, nullptr});
  copy(g, ld, grad, of.cols, of.rows, of.cols);
  return value;
}

template <class T> void run_of(const Call& c) {
  const auto at = [](const Lies& lies) { return reinterpret_cast<T*>(lies.data); };
  const Isa& isa = *c.place.isa;
  if (c.what == ACTIVATION) return activation<T>(isa, c.activation, c.rows, at(c.z), at(c.a));
  if (c.what == ACTIVATION_BACKWARD)
    return activation_backward<T>(isa, c.activation, c.rows, at(c.grad), at(c.a), at(c.z));
  T scalars[MAX_SCALARS];
  for (int s = 0; s < MAX_SCALARS; s++) scalars[s] = static_cast<T>(c.scalars[s]);
  Rule<T> rule{c.optimizer, scalars, {}, {}};
  for (int s = 0; s < MAX_SLOTS; s++) rule.slots[s] = at(c.slots[s]), rule.bias_slots[s] = at(c.bias_slots[s]);
  if (c.what == SGD_UPDATE) return update<T>(isa, c.rows, at(c.weight), at(c.grad), rule);
  const Dense<T> d{c.rows, c.in, c.out, at(c.x), c.x.ld, at(c.weight), c.weight.ld, c.transposed, at(c.bias),
                   c.activation};
  if (c.what == LINEAR) return linear<T>(c.place, d, at(c.z), c.z.ld, at(c.a), c.a.ld);
  const Upstream<T> from{at(c.grad), c.grad.ld, at(c.a), c.a.ld, at(c.z), c.z.ld};
  if (c.what == UPDATE) return linear_backward_update<T>(c.place, d, from, at(c.grad_input), c.grad_input.ld, rule);
  linear_backward<T>(c.place, d, from, at(c.grad_input), c.grad_input.ld,
                     {at(c.grad_weight), c.grad_weight.ld, at(c.grad_bias)});
}
}  // namespace

double loss(const Isa& isa, const LossOf& of, void* grad) {
  return of.itemsize == 4 ? loss_of(isa, of, static_cast<float*>(grad)) : loss_of(isa, of, static_cast<double*>(grad));
}
void run(const Call& call) { call.itemsize == 4 ? run_of<float>(call) : run_of<double>(call); }

#define FBP_OPS(T)                                                                                                    \
  template void linear<T>(const Place&, const Dense<T>&, T*, idx, T*, idx);                                           \
  template void linear_backward<T>(const Place&, const Dense<T>&, const Upstream<T>&, T*, idx, const Gradients<T>&);  \
  template void linear_backward_update<T>(const Place&, const Dense<T>&, const Upstream<T>&, T*, idx, const Rule<T>&); \
  template void update<T>(const Isa&, idx, T*, const T*, const Rule<T>&);                                             \
  template void activation<T>(const Isa&, int, idx, const T*, T*);                                                    \
  template void activation_backward<T>(const Isa&, int, idx, T*, const T*, const T*);
FBP_OPS(float)
FBP_OPS(double)
}  // namespace fbp
