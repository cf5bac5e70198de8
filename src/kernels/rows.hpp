// Row functions: a row of the tables (rows_generated.hpp) run over a tile, whole vectors at a time.

template <class V> struct Constant {   // R(0.5) in a row
  FBP_INLINE_MEMBER V operator()(double x) const { return R<V>(x); }
};

#include "rows_generated.hpp"

// f(offset) for each vector of a tile: one loop, or the constants of a row would be loaded again for every row of a tile
// that is one or two vectors wide.
template <class T, class F> FBP_INLINE void each_vector(idx ld, idx rows, idx cols, F f) {
  for (idx at = 0, n = 0, end = rows * ld; at < end; at += lanes<T>) {
    f(at);
    n += lanes<T>;
    if (n >= cols) {
      at += ld - n;
      n = 0;
    }
  }
}

template <class Row, class T> static void forward_row(const T* z, T* a, idx ld, idx rows, idx cols) {
  each_vector<T>(ld, rows, cols, [&](idx at) { store(a + at, Row::template forward<Vec<T>>(load(z + at))); });
}

template <class Row, class T>
static void backward_row(T* delta, const T* a, const T* z, idx ld, idx rows, idx cols) {
  each_vector<T>(ld, rows, cols, [&](idx at) {
    const Vec<T> pre = Row::keeps_z ? load(z + at) : Vec<T>{};
    store(delta + at, Row::template backward<Vec<T>>(load(delta + at), load(a + at), pre));
  });
}

// One vector of parameters, which it gives, and of their slots, by an optimizer's row.
template <class Row, class T>
FBP_INLINE Vec<T> update_vector(T* p, T* const* slots, idx at, Vec<T> g, const Vec<T>* scalar) {
  Vec<T> state[Row::states + 1];   // C++ has no empty arrays
  FBP_UNROLL for (int s = 0; s < Row::states; s++) state[s] = load(slots[s] + at);
  const Vec<T> made = Row::template update<Vec<T>>(load(p + at), g, state, scalar);
  store(p + at, made);
  FBP_UNROLL for (int s = 0; s < Row::states; s++) store(slots[s] + at, state[s]);
  return made;
}

template <class Row, class T>
static void update_row(T* p, T* const* slots, idx ld, const T* g, idx ldg, idx rows, idx cols, const T* scalars) {
  Vec<T> scalar[Row::scalars];
  FBP_UNROLL for (int s = 0; s < Row::scalars; s++) scalar[s] = splat<Vec<T>>(scalars[s]);
  for (idx m = 0; m < rows; m++)
    for (idx n = 0; n < cols; n += lanes<T>) update_vector<Row>(p, slots, m * ld + n, load(g + m * ldg + n), scalar);
}

// What is done around a rule; see `Around`. A NaN goes through.
template <class T>
static void shape_gradient(const Around<T>& around, T* grad, idx ldg, const T* p, idx ld, idx rows, idx cols) {
  typedef Vec<T> V;
  const V scale = splat<V>(around.scale), clip = splat<V>(around.clip), l1 = splat<V>(around.l1);
  for (idx m = 0; m < rows; m++)
    for (idx n = 0; n < cols; n += lanes<T>) {
      const V g = MAX(MIN(load(grad + m * ldg + n) * scale, clip), -clip), w = load(p + m * ld + n);
      store(grad + m * ldg + n, g + WHERE(w > 0, l1, WHERE(w < 0, -l1, V{})));
    }
}
template <class T>
static void average_params(const Around<T>& around, T* average, const T* p, idx ld, idx rows, idx cols) {
  const Vec<T> rate = splat<Vec<T>>(1 - around.decay);
  for (idx m = 0; m < rows; m++)
    for (idx n = 0; n < cols; n += lanes<T>) {
      const idx at = m * ld + n;
      const Vec<T> mean = load(average + at);
      store(average + at, mean + rate * (load(p + at) - mean));
    }
}

// Vectors of S from wherever elements of T lie.
template <class S, class T> FBP_INLINE Vec<S> load_as(const T* p) {
  if constexpr (same<S, T>) return load(p);
  else return to_doubles(*(const HalfUF*)p);
}
// The sum of squares in S, four sums at a time: one would wait for itself, not for memory.
template <class S, class T> static double squares_in(const T* p, idx ld, idx rows, idx cols) {
  typedef Vec<S> V;
  V sum[4]{};
  const idx n = lanes<S>, whole = cols / n * n;
  const IntVec<S> tail = columns_below<S>(whole, cols);
  const auto add = [&](int j, V v) { sum[j] += v * v; };
  for (idx m = 0; m < rows; m++, p += ld) {
    idx k = 0;
    for (; k + 4 * n <= whole; k += 4 * n)
      FBP_UNROLL for (int j = 0; j < 4; j++) add(j, load_as<S>(p + k + j * n));
    FBP_UNROLL for (int j = 0; j < 3; j++)
      if (k < whole) {
        add(j, load_as<S>(p + k));
        k += n;
      }
    if (k < cols) add(3, WHERE(tail, load_as<S>(p + k), V{}));
  }
  return sum_lanes<S>((sum[0] + sum[1]) + (sum[2] + sum[3]));
}
// Of floats in float, which memory keeps up with and conversions do not; in double where that overflows.
template <class T> static double squares(const T* p, idx ld, idx rows, idx cols) {
  const double sum = squares_in<T>(p, ld, rows, cols);
  return same<T, double> || sum <= __FLT_MAX__ ? sum : squares_in<double>(p, ld, rows, cols);
}

// Scales the weights into an output where their Euclidean norm is above `most`.
template <class T> static void limit_norms(T* weight, idx ldw, idx in, idx out, bool transposed, T most) {
  typedef Vec<T> V;
  const auto factor = [&](V sum) {
    const V norm = SQRT(sum), bound = splat<V>(most);
    return WHERE(norm > bound, (bound + (sum - sum)) / norm, R<V>(1));   // NaN where the sum overflows, not 0
  };
  if (transposed) {
    for (T* row = weight; row < weight + out * ldw; row += ldw) {
      const V f = factor(splat<V>((T)squares(row, 0, 1, in)));
      for (idx i = 0; i < in; i += lanes<T>) store(row + i, load(row + i) * f);
    }
    return;
  }
  for (T* column = weight; column < weight + out; column += lanes<T>) {
    V sum{};
    for (idx i = 0; i < in; i++) sum += load(column + i * ldw) * load(column + i * ldw);
    const V f = factor(sum);
    for (idx i = 0; i < in; i++) store(column + i * ldw, load(column + i * ldw) * f);
  }
}

// Dropout: x * scale where its word is at least `threshold`, else 0, in whole vectors of `out`.
template <class T> static void drop(const T* x, T* out, idx n, const uint16_t* words, int threshold, T scale) {
  typedef Vec<T> V;
  const V factor = splat<V>(scale);
  const IntVec<T> least = IntVec<T>{} + (typename Simd<T>::Int)threshold;
  const auto dropped = [&](idx k, V v) {
    const IntVec<T> word = __builtin_convertvector(*(const typename Simd<T>::Words*)(words + k), IntVec<T>);
    store(out + k, WHERE(word >= least, v * factor, V{}));
  };
  idx k = 0;
  for (; k + lanes<T> <= n; k += lanes<T>) dropped(k, load(x + k));
  if (k == n) return;
  V rest{};   // x may be the user's, without padding
  for (int i = 0; k + i < n; i++) rest[i] = x[k + i];
  dropped(k, rest);
}

// Whether n elements are finite: x - x is 0 for these and NaN for the others.
template <class T> static bool finite(const T* p, idx n) {
  typedef Vec<T> V;
  V nothing[4] = {};
  idx k = 0;
  for (; k + 4 * lanes<T> <= n; k += 4 * lanes<T>)
    FBP_UNROLL for (int j = 0; j < 4; j++) nothing[j] += load(p + k + j * lanes<T>) - load(p + k + j * lanes<T>);
  T rest = sum_lanes<T>(nothing[0] + nothing[1] + nothing[2] + nothing[3]);
  for (; k < n; k++) rest += p[k] - p[k];
  return rest == 0;
}

// A loss's settings as vectors, which stay in registers.
template <class Row, class T> struct Settings {
  Vec<T> of[Row::settings + 1];   // C++ has no empty arrays
  FBP_INLINE_MEMBER explicit Settings(const Loss<T>& loss) {
    FBP_UNROLL for (int s = 0; s < Row::settings; s++) of[s] = splat<Vec<T>>(loss.setting[s]);
  }
};
// A target's loss, or a derivative of it, times its weight. 0 leaves the target out, whose loss may be infinite.
template <class V> FBP_INLINE V weighted(V weight, V v) { return WHERE(weight != 0, v * weight, V{}); }
// Weights of target n of samples m + lane, where targets lie transposed.
template <class T> FBP_INLINE Vec<T> weight_of(const Loss<T>& loss, idx m, idx n) {
  return loss.ldw ? load(loss.weight + n * loss.ldw + m) : splat<Vec<T>>(loss.weight[n]);
}

// Softmax is blind to a shift of z: with the maximum taken out nothing overflows. Rows therefore see z - maximum and the
// log(sum(exp())) of that.
template <class V> struct Shift { V maximum, lse; };

// One sample at a time, its outputs across the lanes. A row's statistic comes of lanes<T> samples together, which share
// what is across lanes and the logarithm; each sample's sum has the order of `sum_lanes`.
template <class T> static void log_sum_exp(const T* z, idx ld, int samples, idx cols, Shift<Vec<T>>* shifts) {
  typedef Vec<T> V;
  V sum[lanes<T>], maximum[lanes<T>];
  FBP_UNROLL for (int i = 0; i < lanes<T>; i++) sum[i] = maximum[i] = V{};
  for (int i = 0; i < samples; i++) {
    const T* const row = z + i * ld;
    T most = row[0];
    for (idx n = 0; n < cols; n++) most = row[n] > most || row[n] != row[n] ? row[n] : most;   // a NaN stays
    maximum[i] = splat<V>(most);
    for (idx n = 0; n < cols; n += lanes<T>)
      sum[i] += WHERE(columns_below<T>(n, cols), EXP(load(row + n) - maximum[i]), V{});
  }
  const V lse = LOG(sum_each<T>(sum));
  for (int i = 0; i < samples; i++) shifts[i] = {maximum[i], splat<V>(lse[i])};
}
template <class Row, class T> static double loss_by_rows(const Loss<T>& loss) {
  typedef Vec<T> V;
  const Settings<Row, T> setting(loss);
  double total = 0, ones[lanes<T>];
  for (double& one : ones) one = 1;
  Shift<V> shifts[lanes<T>] = {};
  for (idx m = 0; m < loss.rows; m++) {
    const double share = loss.share[m];
    if (Row::uses_lse && m % lanes<T> == 0) {
      const int samples = loss.rows - m < lanes<T> ? (int)(loss.rows - m) : lanes<T>;
      log_sum_exp(loss.a + m * loss.ld, loss.ld, samples, loss.cols, shifts);
    }
    const Shift<V>& shift = shifts[m % lanes<T>];
    const T* const weights = Row::uses_lse || !loss.weight ? nullptr : loss.weight + m * loss.ldw;
    VD sum{};
    for (idx n = 0; n < loss.cols; n += lanes<T>) {
      const idx at = m * loss.ld + n;
      const IntVec<T> real = columns_below<T>(n, loss.cols);
      const V z = Row::uses_lse ? load(loss.a + at) - shift.maximum : load(loss.a + at);
      const V t = loss.t ? load(loss.t + m * loss.ldt + n)
                         : WHERE(lane_index<T>() == (typename Simd<T>::Int)(loss.label[m] - n), R<V>(1), V{});
      V value = Row::template value<V>(z, t, shift.lse, setting.of);
      if (weights) value = weighted(load(weights + n), value);
      sum += products(WHERE(real, value, V{}), ones);
      if (loss.grad) {
        V grad = Row::template grad<V>(z, t, shift.lse, setting.of);
        if (weights) grad = weighted(load(weights + n), grad);
        store(loss.grad + at, WHERE(real, share == 0 ? V{} : grad * splat<V>((T)share), V{}));
      }
    }
    if (share != 0) total += share * sum_lanes<double>(sum);
  }
  return total;
}

// A sample per lane, its outputs one vector each: for few outputs, stored either way. Without a row's statistic it pays
// only where one vector holds a row; with it also where more do, since nothing is then taken across lanes.
enum { MOST_COLUMNS = 32 };   // a multiple of the lanes of any vector
template <class Row, class T> constexpr idx by_columns = Row::uses_lse ? static_cast<idx>(MOST_COLUMNS) : lanes<T>;
template <class T> static void load_columns(const Loss<T>& loss, const T* from, idx ld, idx m, Vec<T>* v) {
  if (loss.transposed) {
    for (idx n = 0; n < loss.cols; n++) v[n] = load(from + n * ld + m);
  } else {
    for (idx n = 0; n < loss.cols; n += lanes<T>, v += lanes<T>) {
      for (int i = 0; i < lanes<T>; i++) v[i] = m + i < loss.rows ? load(from + (m + i) * ld + n) : Vec<T>{};
      transpose<T>(v);
    }
  }
}
template <class T> static void store_columns(const Loss<T>& loss, T* to, idx m, Vec<T>* v) {
  if (loss.transposed) {
    for (idx n = 0; n < loss.cols; n++) store(to + n * loss.ld + m, v[n]);
  } else {
    for (idx n = loss.cols; n % lanes<T>; n++) v[n] = Vec<T>{};
    for (idx n = 0; n < loss.cols; n += lanes<T>, v += lanes<T>) {
      transpose<T>(v);
      for (int i = 0; i < lanes<T> && m + i < loss.rows; i++) store(to + (m + i) * loss.ld + n, v[i]);
    }
  }
}
template <class Row, class T> static double loss_by_columns(const Loss<T>& loss) {
  typedef Vec<T> V;
  const Settings<Row, T> setting(loss);
  const int cols = (int)loss.cols;
  VD total{};
  for (idx m = 0; m < loss.rows; m += lanes<T>) {
    V z[MOST_COLUMNS], t[MOST_COLUMNS], weight[MOST_COLUMNS];
    load_columns(loss, loss.a, loss.ld, m, z);
    if (loss.t) load_columns(loss, loss.t, loss.ldt, m, t);
    const bool weighs = !Row::uses_lse && loss.weight;
    if (weighs && loss.ldw) load_columns(loss, loss.weight, loss.ldw, m, weight);
    IntVec<T> label{};
    if (!loss.t) for (int i = 0; i < lanes<T> && m + i < loss.rows; i++) label[i] = loss.label[m + i];
    Shift<V> shift{};
    if (Row::uses_lse) {
      shift.maximum = z[0];
      for (int n = 1; n < cols; n++) shift.maximum = MAX(shift.maximum, z[n]);
      V sum{};
      for (int n = 0; n < cols; n++) {
        z[n] -= shift.maximum;
        sum += EXP(z[n]);
      }
      shift.lse = LOG(sum);
    }
    const V share = from_doubles(loss.share + m, V{});
    V sum{};
    for (int n = 0; n < cols; n++) {
      const V target = loss.t ? t[n] : WHERE(label == (typename Simd<T>::Int)n, R<V>(1), V{});
      V value = Row::template value<V>(z[n], target, shift.lse, setting.of);
      V grad = Row::template grad<V>(z[n], target, shift.lse, setting.of);
      if (weighs) {
        const V of_target = loss.ldw ? weight[n] : splat<V>(loss.weight[n]);
        value = weighted(of_target, value);
        grad = weighted(of_target, grad);
      }
      sum += value;
      z[n] = WHERE(share != 0, grad * share, V{});
    }
    total += products(WHERE(share != 0, sum, V{}), loss.share + m);
    if (loss.grad) store_columns(loss, loss.grad, m, z);
  }
  return sum_lanes<double>(total);
}
// Transposed outputs of a loss without a row statistic: nothing to keep between one output and the next.
template <class Row, class T> static double loss_by_outputs(const Loss<T>& loss) {
  typedef Vec<T> V;
  const Settings<Row, T> setting(loss);
  VD total{};
  for (idx m = 0; m < loss.rows; m += lanes<T>) {
    const V share = from_doubles(loss.share + m, V{});
    V sum{};
    for (idx n = 0; n < loss.cols; n++) {
      const V z = load(loss.a + n * loss.ld + m), t = load(loss.t + n * loss.ldt + m);
      V value = Row::template value<V>(z, t, V{}, setting.of);
      if (loss.weight) value = weighted(weight_of(loss, m, n), value);
      sum += value;
      if (loss.grad) {
        V grad = Row::template grad<V>(z, t, V{}, setting.of);
        if (loss.weight) grad = weighted(weight_of(loss, m, n), grad);
        store(loss.grad + n * loss.ld + m, WHERE(share != 0, grad * share, V{}));
      }
    }
    total += products(WHERE(share != 0, sum, V{}), loss.share + m);
  }
  return sum_lanes<double>(total);
}
// Pairs of outputs, z in the first half and s in the second: a sample per lane, one pair of columns after the other, in
// either layout. Stored by rows a half may begin at any column, and the one before it must not be overwritten.
template <class T> static Vec<T> load_column(const Loss<T>& loss, const T* from, idx ld, idx m, idx n) {
  if (loss.transposed) return load(from + n * ld + m);
  Vec<T> v{};
  for (int i = 0; i < lanes<T> && m + i < loss.rows; i++) v[i] = from[(m + i) * ld + n];
  return v;
}
template <class T> static void store_column(const Loss<T>& loss, T* to, idx m, idx n, Vec<T> v) {
  if (loss.transposed) return store(to + n * loss.ld + m, v);
  for (int i = 0; i < lanes<T> && m + i < loss.rows; i++) to[(m + i) * loss.ld + n] = v[i];
}
template <class Row, class T> static double loss_by_pairs(const Loss<T>& loss) {
  typedef Vec<T> V;
  const Settings<Row, T> setting(loss);
  const idx targets = loss.cols / 2;
  VD total{};
  for (idx m = 0; m < loss.rows; m += lanes<T>) {
    const V share = from_doubles(loss.share + m, V{});
    for (idx n = 0; n < targets; n++) {
      const V z = load_column(loss, loss.a, loss.ld, m, n), s = load_column(loss, loss.a, loss.ld, m, targets + n);
      const V t = load_column(loss, loss.t, loss.ldt, m, n);
      const auto part = [&](V v, V of_share) {
        return WHERE(share != 0, (loss.weight ? weighted(splat<V>(loss.weight[n]), v) : v) * of_share, V{});
      };
      total += products(part(Row::template value<V>(z, t, s, setting.of), R<V>(1)), loss.share + m);
      if (!loss.grad) continue;
      store_column(loss, loss.grad, m, n, part(Row::template grad<V>(z, t, s, setting.of), share));
      store_column(loss, loss.grad, m, targets + n, part(Row::template grad_s<V>(z, t, s, setting.of), share));
    }
  }
  return sum_lanes<double>(total);
}
template <class Row, class T> static double loss_row(const Loss<T>& loss) {
  if constexpr (Row::pairs) return loss_by_pairs<Row>(loss);
  else if (!Row::uses_lse && loss.transposed && loss.t) return loss_by_outputs<Row>(loss);
  else return loss.transposed || loss.cols <= by_columns<Row, T> ? loss_by_columns<Row>(loss) : loss_by_rows<Row>(loss);
}
