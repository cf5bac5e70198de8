#include "api.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "kernels/rows_generated.hpp"

namespace fbp::api {
namespace {
Place place{nullptr, 1, true};

#define FBP_NAME(row) #row,
constexpr const char* ACTIVATIONS[] = {FBP_ACTIVATIONS(FBP_NAME)};
constexpr const char* OPTIMIZERS[] = {FBP_OPTIMIZERS(FBP_NAME)};
constexpr const char* KEEP_Z[] = {FBP_KEEP_Z(FBP_NAME)};
constexpr int N_ACTIVATIONS = sizeof ACTIVATIONS / sizeof *ACTIVATIONS;

template <size_t n> int index_of(const char* const (&names)[n], const char* name) {
  for (size_t k = 0; k < n; k++)
    if (!std::strcmp(names[k], name)) return static_cast<int>(k);
  return -2;
}

// Whether a matrix may be read or written: a leading dimension of at least its columns.
template <class T> bool fits(const T* p, idx ld, idx rows, idx cols) { return p && (rows == 1 || ld >= cols); }
bool is_activation(int row) { return row >= -1 && row < N_ACTIVATIONS; }
bool keeps_z(int row) { return row >= 0 && index_of(KEEP_Z, ACTIVATIONS[row]) >= 0; }

template <class F> int guarded_call(const F& f) noexcept {
  try {
    f();
    return OK;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  } catch (...) {
    return WRONG;
  }
}
}  // namespace

void use(const Isa& isa) { place.isa = &isa; }

int activation(const char* name) noexcept {
  return std::strcmp(name, "identity") ? index_of(ACTIVATIONS, name) : -1;
}

template <class T>
int linear(int64_t rows, int64_t in, int64_t out, const T* x, int64_t ldx, const T* weight, int64_t ldw, const T* bias,
           int activation, T* z, int64_t ldz, T* a, int64_t lda) noexcept {
  if (rows < 0 || in < 1 || out < 1 || !is_activation(activation)) return WRONG;
  if (rows == 0) return OK;
  if (!fits(x, ldx, rows, in) || !fits(weight, ldw, in, out) || !fits(a, lda, rows, out)) return WRONG;
  if (z && !fits(z, ldz, rows, out)) return WRONG;
  const Dense<T> d{rows, in, out, x, std::max(ldx, in), const_cast<T*>(weight), std::max(ldw, out), false,
                   const_cast<T*>(bias), activation};
  return guarded_call([&] { fbp::linear(place, d, z, std::max(ldz, out), a, std::max(lda, out)); });
}

template <class T>
int linear_backward(int64_t rows, int64_t in, int64_t out, const T* grad_output, int64_t ldg, const T* a, int64_t lda,
                    const T* z, int64_t ldz, const T* x, int64_t ldx, const T* weight, int64_t ldw, int activation,
                    T* grad_input, int64_t ldi, T* grad_weight, int64_t ldgw, T* grad_bias) noexcept {
  if (rows < 1 || in < 1 || out < 1 || !is_activation(activation)) return WRONG;
  if (!fits(grad_output, ldg, rows, out) || !fits(x, ldx, rows, in) || !fits(weight, ldw, in, out)) return WRONG;
  if (!fits(grad_input, ldi, rows, in) || !fits(grad_weight, ldgw, in, out)) return WRONG;
  if ((activation >= 0 && !fits(a, lda, rows, out)) || (z && !fits(z, ldz, rows, out))) return WRONG;
  if (keeps_z(activation) && !z) return WRONG;
  const Dense<T> d{rows, in, out, x, std::max(ldx, in), const_cast<T*>(weight), std::max(ldw, out), false, nullptr,
                   activation};
  const Upstream<T> from{grad_output, std::max(ldg, out), a, std::max(lda, out), z, std::max(ldz, out)};
  return guarded_call([&] {
    fbp::linear_backward<T>(place, d, from, grad_input, std::max(ldi, in), {grad_weight, std::max(ldgw, out), grad_bias});
  });
}

template <class T>
int sgd_update(int64_t n, T* param, const T* grad, double lr, double momentum, int nesterov, double weight_decay,
               T* velocity) noexcept {
  if (n < 0 || (n && (!param || !grad || (momentum != 0 && !velocity)))) return WRONG;
  const char* row = momentum != 0 ? nesterov ? "sgd_nesterov" : "sgd_momentum" : weight_decay != 0 ? "sgd_decay" : "sgd";
  const T scalars[] = {static_cast<T>(lr), static_cast<T>(weight_decay), static_cast<T>(momentum)};
  const Rule<T> rule{index_of(OPTIMIZERS, row), scalars, {momentum != 0 ? velocity : nullptr}, {}};
  return guarded_call([&] { if (n) update(*place.isa, n, param, grad, rule); });
}

template <class T> int predict(void* bound, int64_t rows, const T* x, int64_t ldx, T* out) noexcept {
  const Network& network = *static_cast<const Network*>(bound);
  if (network.itemsize != sizeof(T) || rows < 0 || rows > network.rows) return WRONG;
  if (rows == 0) return OK;
  if (!fits(x, ldx, rows, network.in) || !out) return WRONG;
  const idx size = sizeof(T);
  const Source source{reinterpret_cast<const char*>(x), rows, network.in, std::max(ldx, network.in) * size, size, 'f',
                      static_cast<int>(size), false};
  return guarded_call([&] { network.program->forward(source, out, false); });
}

#define FBP_API(T)                                                                                                       \
  template int linear<T>(int64_t, int64_t, int64_t, const T*, int64_t, const T*, int64_t, const T*, int, T*, int64_t,   \
                         T*, int64_t) noexcept;                                                                         \
  template int linear_backward<T>(int64_t, int64_t, int64_t, const T*, int64_t, const T*, int64_t, const T*, int64_t,   \
                                  const T*, int64_t, const T*, int64_t, int, T*, int64_t, T*, int64_t, T*) noexcept;    \
  template int sgd_update<T>(int64_t, T*, const T*, double, double, int, double, T*) noexcept;                          \
  template int predict<T>(void*, int64_t, const T*, int64_t, T*) noexcept;
FBP_API(float)
FBP_API(double)
}  // namespace fbp::api
