// Row functions: a row of the tables (rows_generated.hpp) run over a tile, whole vectors at a time.

template <class V> struct Constant {   // R(0.5) in a row
  FBP_INLINE_MEMBER V operator()(double x) const { return R<V>(x); }
};

#include "rows_generated.hpp"

template <class Row, class T> static void forward_row(const T* z, T* a, idx ld, idx rows, idx cols) {
  for (idx m = 0; m < rows; m++)
    for (idx n = 0; n < cols; n += lanes<T>) store(a + m * ld + n, Row::template forward<Vec<T>>(load(z + m * ld + n)));
}

template <class Row, class T>
static void backward_row(T* delta, const T* a, const T* z, idx ld, idx rows, idx cols) {
  for (idx m = 0; m < rows; m++)
    for (idx n = 0; n < cols; n += lanes<T>) {
      const idx at = m * ld + n;
      const Vec<T> pre = Row::keeps_z ? load(z + at) : Vec<T>{};
      store(delta + at, Row::template backward<Vec<T>>(load(delta + at), load(a + at), pre));
    }
}

template <class Row, class T>
static void update_row(T* p, T* const* slots, idx ld, const T* g, idx ldg, idx rows, idx cols, const T* scalars) {
  Vec<T> scalar[Row::scalars];
  FBP_UNROLL for (int s = 0; s < Row::scalars; s++) scalar[s] = splat<Vec<T>>(scalars[s]);
  for (idx m = 0; m < rows; m++)
    for (idx n = 0; n < cols; n += lanes<T>) {
      const idx at = m * ld + n;
      Vec<T> state[Row::states + 1];   // C++ has no empty arrays
      FBP_UNROLL for (int s = 0; s < Row::states; s++) state[s] = load(slots[s] + at);
      store(p + at, Row::template update<Vec<T>>(load(p + at), load(g + m * ldg + n), state, scalar));
      FBP_UNROLL for (int s = 0; s < Row::states; s++) store(slots[s] + at, state[s]);
    }
}

// The row's maximum and log(sum(exp(z - maximum))): softmax is blind to a shift, and shifted nothing overflows.
template <class T> static void log_sum_exp(const T* z, idx cols, T& maximum, T& lse) {
  T most = z[0];
  for (idx n = 0; n < cols; n++) most = z[n] > most || z[n] != z[n] ? z[n] : most;   // a NaN stays
  const Vec<T> shift = splat<Vec<T>>(most);
  Vec<T> sum{};
  for (idx n = 0; n < cols; n += lanes<T>) sum += WHERE(columns_below<T>(n, cols), EXP(load(z + n) - shift), Vec<T>{});
  maximum = most;
  lse = LOG(splat<Vec<T>>((T)sum_lanes<T>(sum)))[0];
}

template <class Row, class T>
static double loss_row(const T* a, idx ld, Target<T> target, const double* share, T* grad, idx rows, idx cols) {
  typedef Vec<T> V;
  double total = 0;
  for (idx m = 0; m < rows; m++) {
    const T* z = a + m * ld;
    T maximum = 0, lse = 0;
    if (Row::uses_lse) log_sum_exp(z, cols, maximum, lse);
    const V shift = splat<V>(maximum), statistic = splat<V>(lse);
    V sum{};
    for (idx n = 0; n < cols; n += lanes<T>) {
      const IntVec<T> real = columns_below<T>(n, cols);
      const V zn = Row::uses_lse ? load(z + n) - shift : load(z + n);
      V t;
      if (target.label) t = WHERE(lane_index<T>() == (typename Simd<T>::Int)(target.label[m] - n), R<V>(1), V{});
      else t = load(target.t + m * target.ldt + n);
      sum += WHERE(real, Row::template value<V>(zn, t, statistic), V{});
      if (grad) {
        const V g = share[m] == 0 ? V{} : Row::template grad<V>(zn, t, statistic) * splat<V>((T)share[m]);
        store(grad + m * ld + n, WHERE(real, g, V{}));
      }
    }
    if (share[m] != 0) total += share[m] * sum_lanes<T>(sum);
  }
  return total;
}
