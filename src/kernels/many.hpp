// Many networks of one kind, a network per lane: see ManyRun in kernels.hpp.
//
// A lane's sums start at +0 (or at its bias), go over samples one by one inside a block, and block after block: they do
// not depend on the ISA, on the other lanes, or on rows of share 0 at a batch's end, whose deltas are 0. So the form of
// the rows, shared or own, does not show in the bits either. No kernel looks at whether numbers are finite.

template <class T, bool own> FBP_INLINE Vec<T> many_input(const T* from, idx at) {
  if constexpr (own) return load(from + at * lanes<T>);
  else return splat<Vec<T>>(from[at]);
}

// ------------------------------------------------------------------ losses and rules
FBP_INLINE void many_sum_up(double* totals, VD v, bool adds) { store(totals, adds ? load(totals) + v : v); }
FBP_INLINE void many_sum_up(double* totals, VF v, bool adds) {
  typename MakeIndices<lanes<double>>::type index;
  many_sum_up(totals, to_doubles(half(v, 0, index)), adds);
  many_sum_up(totals + lanes<double>, to_doubles(half(v, 1, index)), adds);
}

// The same number, of which the compiler knows nothing: which products it fuses with which sums must not depend on what
// stands around them, or each ISA would have its own bits.
template <class V> FBP_INLINE V apart(V v) {
  asm("" : "+v"(v));
  return v;
}

template <class Row, class T, bool own> static void many_loss_of(const ManyLoss<T>& loss, double* totals) {
  typedef Vec<T> V;
  V setting[Row::settings + 1];
  FBP_UNROLL for (int s = 0; s < Row::settings; s++) setting[s] = splat<V>(loss.setting[s]);
  const idx targets = Row::pairs ? loss.cols / 2 : loss.cols;
  for (idx begin = 0; begin < loss.rows; begin += MANY_BLOCK) {
    const idx end = begin + MANY_BLOCK < loss.rows ? begin + MANY_BLOCK : loss.rows;
    V total{};
    for (idx m = begin; m < end; m++) {
      const V share = loss.own_share ? many_input<T, true>(loss.share, m) : many_input<T, false>(loss.share, m);
      const auto real = share != V{};
      const T* const a = loss.a + m * loss.ld * lanes<T>;
      const auto output = [&](idx n) { return load(a + n * lanes<T>); };
      Shift<V> shift{};
      if (Row::uses_lse) {
        shift.maximum = output(0);
        for (idx n = 1; n < targets; n++) shift.maximum = MAX(shift.maximum, output(n));
        V sum{};
        for (idx n = 0; n < targets; n++) sum += EXP(output(n) - shift.maximum);
        shift.lse = LOG(sum);
      }
      V sum{};
      for (idx n = 0; n < targets; n++) {
        const V t = loss.y_is_label ? WHERE(many_input<T, own>(loss.t, m * loss.ldt) == R<V>((double)n), R<V>(1), V{})
                                    : many_input<T, own>(loss.t, m * loss.ldt + n);
        const V z = Row::uses_lse ? output(n) - shift.maximum : output(n);
        const V third = Row::pairs ? output(targets + n) : shift.lse;
        const auto part = [&](V v) { return apart(loss.weight ? weighted(splat<V>(loss.weight[n]), apart(v)) : v); };
        const auto put = [&](idx column, V v) {
          store(loss.grad + (m * loss.ld + column) * lanes<T>, WHERE(real, apart(part(v) * share), V{}));
        };
        sum += part(Row::template value<V>(apart(z), t, third, setting));
        put(n, Row::template grad<V>(apart(z), t, third, setting));
        if constexpr (Row::pairs) put(targets + n, Row::template grad_s<V>(apart(z), t, third, setting));
      }
      total += WHERE(real, apart(sum * share), V{});
    }
    many_sum_up(totals, total, true);
  }
}
template <class Row, class T> static void many_loss(const ManyLoss<T>& loss, double* totals) {
  (loss.own ? many_loss_of<Row, T, true> : many_loss_of<Row, T, false>)(loss, totals);
}

template <class Row, class T>
static void many_update(T* p, T* const* slots, const T* g, idx n, const T* scalars) {
  Vec<T> scalar[Row::scalars];
  FBP_UNROLL for (int s = 0; s < Row::scalars; s++) scalar[s] = load(scalars + s * lanes<T>);
  for (idx at = 0; at < n * lanes<T>; at += lanes<T>) update_vector<Row>(p, slots, at, load(g + at), scalar);
}

// The place of a row in its table; the kernels have the rules SGD and Adam, and three activations, inside.
enum { many_none = -1,
#define FBP_PLACE(row) many_activation_##row,
FBP_ACTIVATIONS(FBP_PLACE)
#undef FBP_PLACE
};
enum {
#define FBP_PLACE(row) many_loss_##row,
FBP_LOSSES(FBP_PLACE)
#undef FBP_PLACE
};
enum {
#define FBP_PLACE(row) many_optimizer_##row,
FBP_OPTIMIZERS(FBP_PLACE)
#undef FBP_PLACE
};

// What becomes of a gradient: summed over the blocks of a batch, and turned into the update at the last.
template <class T> struct ManyPut {
  T* p; T* const* slots; T* gradient;
  bool adds, updates;
};
template <class T> FBP_INLINE ManyPut<T> many_put_of(const ManyRun<T>& run, idx step, idx at, bool inside) {
  return {run.params, run.slots, run.gradient, at > 0, inside && at + run.block >= run.rows[step]};
}
template <class Row, class T> FBP_INLINE void many_put(const ManyPut<T>& put, idx k, Vec<T> g, const Vec<T>* scalar) {
  k *= lanes<T>;
  if (put.adds) g += load(put.gradient + k);
  if (put.updates) update_vector<Row>(put.p, put.slots, k, g, scalar);
  else store(put.gradient + k, g);
}

template <class Row, class T>
FBP_INLINE void many_put_each(const Vec<T>* tile, int rows, int columns, idx k, idx ld, const ManyPut<T>& put,
                              const Vec<T>* scalars) {
  Vec<T> scalar[Row::scalars];   // stay in registers
  FBP_UNROLL for (int s = 0; s < Row::scalars; s++) scalar[s] = scalars[s];
  const ManyPut<T> to = put;
  for (int s = 0; s < rows; s++, k += ld)
    for (int j = 0; j < columns; j++, tile++) many_put<Row>(to, k + j, *tile, scalar);
}
template <class T>
FBP_NOINLINE void many_put_tile(const Vec<T>* tile, int rows, int columns, idx k, idx ld, int rule, const ManyPut<T>& put,
                                const Vec<T>* scalar) {
  if (rule == many_optimizer_adam) many_put_each<optimizer_adam>(tile, rows, columns, k, ld, put, scalar);
  else many_put_each<optimizer_sgd>(tile, rows, columns, k, ld, put, scalar);
}
template <class T> FBP_INLINE void many_scalars(const ManyRun<T>& run, idx step, int n, Vec<T>* scalar) {
  for (int s = 0; s < n; s++) scalar[s] = load(run.scalars[s] + step * run.scalar_stride[s]);
}

// ------------------------------------------------------------------ layers: any depth and widths, register tiles
// Tiles of S samples (or inputs) x J outputs; S up to many_rows[J]. What is summed over is summed one by one.
#if FBP_VECTOR_BYTES == 64 || defined(FBP_HIDDEN)
enum { MANY_REGISTERS = 32, MANY_COLUMNS = 4 };
constexpr int many_rows[] = {0, 8, 8, 8, 6};
#else
enum { MANY_REGISTERS = 16, MANY_COLUMNS = 3 };
constexpr int many_rows[] = {0, 8, 6, 4};
#endif

// z = bias + x @ weight
template <class T, int S, int J, bool own>
static void many_forward(idx in, idx ld, const T* x, idx ldx, const T* w, const T* bias, T* z) {
  typedef Vec<T> V;
  V sum[S][J];
  FBP_UNROLL for (int s = 0; s < S; s++)
    FBP_UNROLL for (int j = 0; j < J; j++) sum[s][j] = V{};
  if (bias)
    FBP_UNROLL for (int s = 0; s < S; s++)
      FBP_UNROLL for (int j = 0; j < J; j++) sum[s][j] = load(bias + j * lanes<T>);
  for (idx i = 0; i < in; i++, w += ld * lanes<T>) {
    V weight[J];
    FBP_UNROLL for (int j = 0; j < J; j++) weight[j] = load(w + j * lanes<T>);
    FBP_UNROLL for (int s = 0; s < S; s++) {
      const V input = many_input<T, own>(x, s * ldx + i);
      FBP_UNROLL for (int j = 0; j < J; j++) sum[s][j] += input * weight[j];
    }
  }
  FBP_UNROLL for (int s = 0; s < S; s++)
    FBP_UNROLL for (int j = 0; j < J; j++) store(z + (s * ld + j) * lanes<T>, sum[s][j]);
}
// grad_input = delta @ weight.T, for S samples and J inputs
template <class T, int S, int J>
static void many_grad_input(idx out, idx ld, const T* delta, const T* w, T* to, idx ldto) {
  typedef Vec<T> V;
  V sum[S][J];
  FBP_UNROLL for (int s = 0; s < S; s++)
    FBP_UNROLL for (int j = 0; j < J; j++) sum[s][j] = V{};
  for (idx k = 0; k < out; k++) {
    V weight[J];
    FBP_UNROLL for (int j = 0; j < J; j++) weight[j] = load(w + (j * ld + k) * lanes<T>);
    FBP_UNROLL for (int s = 0; s < S; s++) {
      const V d = load(delta + (s * ld + k) * lanes<T>);
      FBP_UNROLL for (int j = 0; j < J; j++) sum[s][j] += d * weight[j];
    }
  }
  FBP_UNROLL for (int s = 0; s < S; s++)
    FBP_UNROLL for (int j = 0; j < J; j++) store(to + (s * ldto + j) * lanes<T>, sum[s][j]);
}
// Parameters k + r * ld + j: x.T @ delta for S inputs and J outputs
template <class T, int S, int J, bool own>
static void many_grad_weight(idx rows, idx ld, const T* x, idx ldx, const T* delta, idx k, int rule,
                             const ManyPut<T>& put, const Vec<T>* scalar) {
  typedef Vec<T> V;
  V sum[S][J];
  FBP_UNROLL for (int s = 0; s < S; s++)
    FBP_UNROLL for (int j = 0; j < J; j++) sum[s][j] = V{};
  for (idx m = 0; m < rows; m++, delta += ld * lanes<T>) {
    V d[J];
    FBP_UNROLL for (int j = 0; j < J; j++) d[j] = load(delta + j * lanes<T>);
    FBP_UNROLL for (int s = 0; s < S; s++) {
      const V input = many_input<T, own>(x, m * ldx + s);
      FBP_UNROLL for (int j = 0; j < J; j++) sum[s][j] += input * d[j];
    }
  }
  if (rule == many_optimizer_sgd && put.updates && !put.adds) {   // in registers
    FBP_UNROLL for (int s = 0; s < S; s++)
      FBP_UNROLL for (int j = 0; j < J; j++)
        update_vector<optimizer_sgd>(put.p, put.slots, (k + s * ld + j) * lanes<T>, sum[s][j], scalar);
    return;
  }
  V tile[S][J];
  FBP_UNROLL for (int s = 0; s < S; s++)
    FBP_UNROLL for (int j = 0; j < J; j++) store((T*)&tile[s][j], sum[s][j]);
  many_put_tile<T>(tile[0], S, J, k, ld, rule, put, scalar);
}

template <class T> struct ManyTile {
  void (*forward[2])(idx in, idx ld, const T* x, idx ldx, const T* w, const T* bias, T* z);
  void (*grad_input)(idx out, idx ld, const T* delta, const T* w, T* to, idx ldto);
  void (*grad_weight[2])(idx rows, idx ld, const T* x, idx ldx, const T* delta, idx k, int rule, const ManyPut<T>& put,
                         const Vec<T>* scalar);
};
template <class T, int J, class Rows = typename MakeIndices<many_rows[J]>::type> struct many_tiles_of;
template <class T, int J, int... i> struct many_tiles_of<T, J, Indices<i...>> {
  static constexpr ManyTile<T> table[] = {
      {{many_forward<T, i + 1, J, false>, many_forward<T, i + 1, J, true>},
       many_grad_input<T, i + 1, J>,
       {many_grad_weight<T, i + 1, J, false>, many_grad_weight<T, i + 1, J, true>}}...};
};
template <class T, class Columns = typename MakeIndices<MANY_COLUMNS>::type> struct many_tiles;
template <class T, int... i> struct many_tiles<T, Indices<i...>> {
  static constexpr const ManyTile<T>* table[] = {many_tiles_of<T, i + 1>::table...};
};

// f(tile, first row, first column, rows, columns) for tiles that cover rows x columns, as even as may be.
template <class T, class F> FBP_INLINE void each_tile(idx rows, idx columns, F f) {
  for (idx j = 0; j < columns;) {
    const idx left = columns - j;
    // not 1 after a whole tile
    const int J = (int)(left > MANY_COLUMNS ? (left < 2 * MANY_COLUMNS ? (left + 1) / 2 : (idx)MANY_COLUMNS) : left);
    const idx most = many_rows[J], parts = (rows + most - 1) / most;
    for (idx part = 0, m = 0; part < parts; part++) {
      const idx S = rows / parts + (part < rows % parts);
      f(many_tiles<T>::table[J - 1][S - 1], m, j, S, (idx)J);
      m += S;
    }
    j += J;
  }
}

template <class T> static void many_forward_block(const ManyRun<T>& run, const T* x, idx rows, bool own) {
  idx ldx = run.layers->in;
  for (const ManyLayer<T>* layer = run.layers; layer < run.layers + run.n_layers; layer++) {
    const T *w = run.params + layer->weight * lanes<T>,
            *bias = layer->bias < 0 ? nullptr : run.params + layer->bias * lanes<T>;
    each_tile<T>(rows, layer->out, [&](const ManyTile<T>& tile, idx m, idx j, idx S, idx J) {
      const idx at = (m * layer->ld + j) * lanes<T>;
      tile.forward[own](layer->in, layer->ld, x + m * ldx * (own ? lanes<T> : 1), ldx, w + j * lanes<T>,
                        bias ? bias + j * lanes<T> : nullptr, layer->z + at);
      if (layer->forward) layer->forward(layer->z + at, layer->a + at, layer->ld * lanes<T>, S, J * lanes<T>);
    });
    x = layer->a;
    ldx = layer->ld;
    own = true;
  }
}
template <class T> static void many_forward_shared(const ManyRun<T>& run, const T* x, idx rows) {
  many_forward_block(run, x, rows, false);
}

template <class T, int J>
FBP_INLINE void many_grad_bias(const ManyLayer<T>& layer, idx j, idx rows, int rule, const ManyPut<T>& put,
                               const Vec<T>* scalar) {
  Vec<T> sum[J];
  FBP_UNROLL for (int e = 0; e < J; e++) sum[e] = Vec<T>{};
  const T* delta = layer.delta + j * lanes<T>;
  for (idx m = 0; m < rows; m++, delta += layer.ld * lanes<T>)
    FBP_UNROLL for (int e = 0; e < J; e++) sum[e] += load(delta + e * lanes<T>);
  many_put_tile<T>(sum, 1, J, layer.bias + j, 0, rule, put, scalar);
}

template <class T>
static void many_backward_block(const ManyRun<T>& run, const T* x, idx rows, const ManyPut<T>& put,
                                const Vec<T>* scalar) {
  for (const ManyLayer<T>* layer = run.layers + run.n_layers - 1; layer >= run.layers; layer--) {
    const idx ld = layer->ld;
    if (layer->backward && layer == run.layers + run.n_layers - 1)
      layer->backward(layer->delta, layer->a, layer->z, ld * lanes<T>, rows, layer->out * lanes<T>);
    const bool first = layer == run.layers, own = !first || run.own;
    const T* const input = first ? x : layer[-1].a;
    const idx ldx = first ? layer->in : layer[-1].ld;
    if (!first)
      each_tile<T>(rows, layer->in, [&](const ManyTile<T>& tile, idx m, idx i, idx S, idx J) {
        const ManyLayer<T>& below = layer[-1];
        const idx at = (m * ldx + i) * lanes<T>;
        tile.grad_input(layer->out, ld, layer->delta + m * ld * lanes<T>,
                        run.params + (layer->weight + i * ld) * lanes<T>, below.delta + at, ldx);
        if (below.backward)
          below.backward(below.delta + at, below.a + at, below.z + at, ldx * lanes<T>, S, J * lanes<T>);
      });
    each_tile<T>(layer->in, layer->out, [&](const ManyTile<T>& tile, idx i, idx j, idx, idx) {
      tile.grad_weight[own](rows, ld, input + i * (own ? lanes<T> : 1), ldx, layer->delta + j * lanes<T>,
                            layer->weight + i * ld + j, run.rule, put, scalar);
    });
    if (layer->bias < 0) continue;
    idx j = 0;
    for (; j + 4 <= layer->out; j += 4) many_grad_bias<T, 4>(*layer, j, rows, run.rule, put, scalar);
    for (; j < layer->out; j++) many_grad_bias<T, 1>(*layer, j, rows, run.rule, put, scalar);
  }
}

template <class T> static void many_layers(const ManyRun<T>& run, double* losses) {
  const ManyLayer<T>& last = run.layers[run.n_layers - 1];
  const bool inside = run.rule == many_optimizer_sgd || run.rule == many_optimizer_adam;
  const idx width = run.own ? lanes<T> : 1, share_width = run.own_share ? lanes<T> : 1;   // elements of a number
  Vec<T> scalar[MAX_SCALARS];
  ManyLoss<T> loss{0, last.out, last.ld, run.own, run.own_share, last.a, nullptr, run.ldt, run.y_is_label, nullptr, run.setting,
                   run.weight, last.delta};
  for (idx step = 0; step < run.steps; step++, losses += lanes<T>) {
    many_scalars(run, step, MAX_SCALARS, scalar);
    for (int i = 0; i < lanes<T>; i++) losses[i] = 0;
    for (idx at = 0, rows = run.rows[step]; at < rows; at += run.block) {
      const idx row = step * run.step_rows + at;
      const T* const x = run.x + row * run.layers->in * width;
      loss.rows = rows - at < run.block ? rows - at : run.block;
      loss.t = run.t + row * run.ldt * width;
      loss.share = run.share + row * share_width;
      many_forward_block(run, x, loss.rows, run.own);
      run.loss(loss, losses);
      many_backward_block(run, x, loss.rows, many_put_of(run, step, at, inside), scalar);
    }
    if (!inside)
      run.update(run.params, run.slots, run.gradient, run.n_params, (const T*)scalar);
  }
}

// ------------------------------------------------------------------ rows and losses of lanes
FBP_INLINE __m128 load_quarter(const float* p) { return _mm_loadu_ps(p); }
FBP_INLINE __m128 load_quarter(const double* p) { return _mm_castpd_ps(_mm_loadu_pd(p)); }
// Where 8 rows of a lane begin: addresses, found by vectors of them.
template <class T> FBP_INLINE void many_places(const T* from, idx ld, const uint32_t* index, const T** to) {
  typedef uint64_t U __attribute__((vector_size(FBP_VECTOR_BYTES), aligned(8), may_alias));
  FBP_UNROLL for (int m = 0; m < MANY_BLOCK; m += lanes<double>) {
#if FBP_VECTOR_BYTES == 64
    const Bits<VD> row = (Bits<VD>)_mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i*)(index + m)));
#else
    const Bits<VD> row = (Bits<VD>)_mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i*)(index + m)));
#endif
    *(U*)(to + m) = (uint64_t)from + multiply_halves(row, Bits<VD>{} + (uint64_t)ld * sizeof(T));
  }
}
template <class T>
static void many_gather(const T* const* from, idx ld, idx in, idx cols, const uint32_t* index, idx rows, T* x, T* t) {
  typedef Vec<T> V;
  constexpr int n = in_quarter<T>;
  const T* row[lanes<T>][MANY_BLOCK];
  for (idx begin = 0; begin < rows; begin += MANY_BLOCK) {
    for (int l = 0; l < lanes<T>; l++) many_places(from[l], ld, index + l * rows + begin, row[l]);
    for (int m = 0; m < MANY_BLOCK; m++)
      for (idx column = 0; column < cols; column += n) {
        V part[n];   // whose quarters are of lanes q, q + n, ...
        FBP_UNROLL for (int q = 0; q < n; q++) {
          const auto quarter = [&](int k) { return load_quarter(row[q + k * n][m] + column); };
#if FBP_VECTOR_BYTES == 64
          __m512 v = _mm512_castps128_ps512(quarter(0));
          v = _mm512_insertf32x4(v, quarter(1), 1);
          v = _mm512_insertf32x4(v, quarter(2), 2);
          part[q] = (V)_mm512_insertf32x4(v, quarter(3), 3);
#else
          part[q] = (V)_mm256_insertf128_ps(_mm256_castps128_ps256(quarter(0)), quarter(1), 1);
#endif
        }
        const auto pick = [&](V a, V b, int odd) { return odd ? odds<T>(a, b, 0) : evens<T>(a, b, 0); };
        FBP_UNROLL for (int k = 0; k < n; k++) {
          if (column + k == cols) break;
          T*& to = column + k < in ? x : t;
          if constexpr (n == 2) store(to, pick(part[0], part[1], k));
          else store(to, pick(pick(part[0], part[1], k & 1), pick(part[n - 2], part[n - 1], k & 1), k >> 1));
          to += lanes<T>;
        }
      }
  }
}

template <class T>
static void many_sum(const double* losses, const double* weights, bool own, idx steps, double* totals) {
  enum { N = lanes<T> / lanes<double> };
  VD total[N];   // side by side: each waits for its own last sum
  FBP_UNROLL for (int k = 0; k < N; k++) total[k] = load(totals + k * lanes<double>);
  for (idx step = 0; step < steps; step++, losses += lanes<T>, weights += own ? lanes<T> : 1)
    FBP_UNROLL for (int k = 0; k < N; k++) {
      const idx at = k * lanes<double>;
      total[k] += load(losses + at) * (own ? load(weights + at) : splat<VD>(*weights));
    }
  FBP_UNROLL for (int k = 0; k < N; k++) store(totals + k * lanes<double>, total[k]);
}

#include "many_hidden.hpp"

#define FBP_MANY_RULE(activation, rule) {many_hidden<T, activation, rule, false>, many_hidden<T, activation, rule, true>}
#define FBP_MANY_HIDDEN(activation) \
  {FBP_MANY_RULE(activation, optimizer_sgd), FBP_MANY_RULE(activation, optimizer_adam)}
#define FBP_MANY_LOSS(row) many_loss<loss_##row, T>,
#define FBP_MANY_UPDATE(row) many_update<optimizer_##row, T>,
template <class T> struct ManyTables {
  static constexpr ManyLossRow<T> loss[] = {FBP_LOSSES(FBP_MANY_LOSS)};
  static constexpr ManyUpdateRow<T> update[] = {FBP_OPTIMIZERS(FBP_MANY_UPDATE)};
};
// Null where the network is another, for the general kernel.
template <class T> static ManyKernel<T> many_hidden_of(const ManyRun<T>& run) {
  static constexpr ManyKernel<T> table[][2][2] = {FBP_MANY_HIDDEN(activation_identity), FBP_MANY_HIDDEN(activation_relu),
                                                  FBP_MANY_HIDDEN(activation_tanh)};
  const int activation = run.layers->row;
  const bool sgd = run.rule == many_optimizer_sgd, adam = run.rule == many_optimizer_adam;
  if (run.n_layers != 2 || run.layers[1].out != 1 || run.layers[1].forward || !(sgd || adam)) return nullptr;
  const int place = activation == many_none || activation == many_activation_identity ? 0
                    : activation == many_activation_relu ? 1 : activation == many_activation_tanh ? 2 : -1;
  return place < 0 ? nullptr : table[place][adam][run.own];
}
template <class T> constexpr ManyKernels<T> many_kernels() {
  return {lanes<T>, many_layers<T>, many_hidden_of<T>,
          many_forward_shared<T>, many_gather<T>, many_sum<T>, ManyTables<T>::loss, ManyTables<T>::update};
}
