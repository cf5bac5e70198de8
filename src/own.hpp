// A user's own rows, compiled elsewhere: their functions come with the plan, as addresses. An activation and an optimizer
// are called by the kernels as they are; a loss knows single elements alone, and what surrounds them is here.
#pragma once
#include <algorithm>
#include <cmath>

#include "program.hpp"

namespace fbp {

constexpr idx WIDEST_VECTOR = 16;   // elements

// Elements of each of the five parts of OwnLoss::scratch.
inline idx own_loss_part(idx rows, idx out) { return (rows * out + WIDEST_VECTOR - 1) / WIDEST_VECTOR * WIDEST_VECTOR; }

// A LossRow. Elements go to dense scratch, a sample after the other, and gradients back into the layout they have.
template <class T> double own_loss_row(const Loss<T>& loss) {
  const idx n = loss.rows * loss.cols, part = own_loss_part(loss.rows, loss.cols);
  T *z = loss.own->scratch, *t = z + part, *lse = t + part, *value = lse + part, *grad = value + part;
  const auto at = [&](idx m, idx j, idx ld) { return loss.transposed ? j * ld + m : m * ld + j; };
  for (idx m = 0; m < loss.rows; m++) {
    T* row = z + m * loss.cols;
    for (idx j = 0; j < loss.cols; j++) {
      row[j] = loss.a[at(m, j, loss.ld)];
      t[m * loss.cols + j] = loss.t ? loss.t[at(m, j, loss.ldt)] : static_cast<T>(loss.label[m] == j);
    }
    if (!loss.own->uses_lse) continue;
    T most = row[0];   // as `log_sum_exp` in kernels/rows.hpp: the row sees z - maximum
    for (idx j = 0; j < loss.cols; j++) most = row[j] > most || row[j] != row[j] ? row[j] : most;
    T sum = 0;
    for (idx j = 0; j < loss.cols; j++) sum += std::exp(row[j] -= most);
    std::fill_n(lse + m * loss.cols, loss.cols, std::log(sum));
  }
  std::fill(z + n, z + part, T{});   // the rest of the last vector
  std::fill(t + n, t + part, T{});
  loss.own->row(z, t, lse, value, grad, part);
  double total = 0;
  for (idx m = 0; m < loss.rows; m++) {
    const double share = loss.share[m];
    double sum = 0;
    for (idx j = 0; j < loss.cols; j++) {
      sum += value[m * loss.cols + j];
      if (loss.grad) loss.grad[at(m, j, loss.ld)] = share == 0 ? T{} : grad[m * loss.cols + j] * static_cast<T>(share);
    }
    if (share != 0) total += share * sum;
  }
  if (loss.grad && loss.transposed)   // samples past the last have no gradient
    for (idx j = 0; j < loss.cols; j++)
      for (idx m = loss.rows; m < loss.ld && m % WIDEST_VECTOR; m++) loss.grad[at(m, j, loss.ld)] = T{};
  return total;
}

// The kernels of a layer's activation: of the tables, or of the user's own.
template <class T> ActivationKernels<T> activation_of(const Kernels<T>& kernels, const LayerShape& s) {
  if (!s.own_forward) return s.activation < 0 ? kernels.identity : kernels.activation[s.activation];
  ActivationKernels<T> own = kernels.called_activation;
  own.forward = reinterpret_cast<ForwardRow<T>>(s.own_forward);
  own.backward = reinterpret_cast<BackwardRow<T>>(s.own_backward);
  return own;
}

}  // namespace fbp
