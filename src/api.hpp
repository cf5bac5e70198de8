// The C API's functions: src/ops.hpp and a program's `forward` in plain C, on the calling thread alone.
// fastbp/_engine.pxd has their signatures, docs/c_api.md what they mean.
#pragma once
#include "ops.hpp"
#include "program.hpp"

namespace fbp::api {

enum { OK = 0, NO_MEMORY = -1, WRONG = -2 };   // what each returns

void use(const Isa& isa);                      // for every call from here on

int activation(const char* name) noexcept;
template <class T>
int linear(int64_t rows, int64_t in, int64_t out, const T* x, int64_t ldx, const T* weight, int64_t ldw, const T* bias,
           int activation, T* z, int64_t ldz, T* a, int64_t lda) noexcept;
template <class T>
int linear_backward(int64_t rows, int64_t in, int64_t out, const T* grad_output, int64_t ldg, const T* a, int64_t lda,
                    const T* z, int64_t ldz, const T* x, int64_t ldx, const T* weight, int64_t ldw, int activation,
                    T* grad_input, int64_t ldi, T* grad_weight, int64_t ldgw, T* grad_bias) noexcept;
template <class T>
int sgd_update(int64_t n, T* param, const T* grad, double lr, double momentum, int nesterov, double weight_decay,
               T* velocity) noexcept;

struct Network {   // what `bind` binds
  Program* program;
  int itemsize;
  idx rows, in;    // rows: at most
};
template <class T> int predict(void* network, int64_t rows, const T* x, int64_t ldx, T* out) noexcept;
}  // namespace fbp::api
