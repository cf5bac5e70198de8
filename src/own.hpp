// A user's own rows, compiled elsewhere: their functions come with the plan, as addresses. An activation and an optimizer
// are called by the kernels as they are; a loss knows single elements alone, and what surrounds them is here.
#pragma once
#include <algorithm>
#include <cmath>

#include "program.hpp"

namespace fbp {

constexpr idx WIDEST_VECTOR = 16;   // elements

constexpr idx OWN_LOSS_PARTS = 6;   // of OwnLoss::scratch

// Elements of each of them.
inline idx own_loss_part(idx rows, idx out) { return (rows * out + WIDEST_VECTOR - 1) / WIDEST_VECTOR * WIDEST_VECTOR; }

// A LossRow. Targets go to dense scratch, a sample after the other, and gradients back into the layout they have.
template <class T> double own_loss_row(const Loss<T>& loss) {
  const OwnLoss<T>& own = *loss.own;
  const idx cols = own.pairs ? loss.cols / 2 : loss.cols;   // targets of a sample
  const idx n = loss.rows * cols, part = own_loss_part(loss.rows, cols);
  T *z = own.scratch, *t = z + part, *third = t + part, *value = third + part, *grad = value + part, *grad_s = grad + part;
  const auto at = [&](idx m, idx j, idx ld) { return loss.transposed ? j * ld + m : m * ld + j; };
  for (idx m = 0; m < loss.rows; m++) {
    T* row = z + m * cols;
    for (idx j = 0; j < cols; j++) {
      row[j] = loss.a[at(m, j, loss.ld)];
      t[m * cols + j] = loss.t ? loss.t[at(m, j, loss.ldt)] : static_cast<T>(loss.label[m] == j);
      third[m * cols + j] = own.pairs ? loss.a[at(m, cols + j, loss.ld)] : T{};
    }
    if (!own.uses_lse) continue;
    T most = row[0];   // as `log_sum_exp` in kernels/rows.hpp: the row sees z - maximum
    for (idx j = 0; j < cols; j++) most = row[j] > most || row[j] != row[j] ? row[j] : most;
    T sum = 0;
    for (idx j = 0; j < cols; j++) sum += std::exp(row[j] -= most);
    std::fill_n(third + m * cols, cols, std::log(sum));
  }
  for (T* rest : {z, t, third}) std::fill(rest + n, rest + part, T{});   // of the last vector
  own.row(z, t, third, loss.setting, value, grad, grad_s, part);
  double total = 0;
  for (idx m = 0; m < loss.rows; m++) {
    const double share = loss.share[m];
    double sum = 0;
    const auto weighted = [&](const T* of, idx j) {   // a weight of 0 leaves the target out, whose loss may be infinite
      const T weight = loss.weight ? loss.weight[loss.ldw ? at(m, j, loss.ldw) : j] : T{1};
      return weight == 0 ? T{} : of[m * cols + j] * weight;
    };
    const auto put = [&](const T* of, idx first) {
      for (idx j = 0; j < cols; j++)
        loss.grad[at(m, first + j, loss.ld)] = share == 0 ? T{} : weighted(of, j) * static_cast<T>(share);
    };
    for (idx j = 0; j < cols; j++) sum += weighted(value, j);
    if (loss.grad) put(grad, 0);
    if (loss.grad && own.pairs) put(grad_s, cols);
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
