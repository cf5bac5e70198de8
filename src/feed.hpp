// The caller's arrays: any strides, any alignment, any real dtype, either byte order. Read, never written.
#pragma once
#include "engine.hpp"

namespace fbp {

struct Source {
  const char* data;
  idx rows, cols;
  idx row_stride, col_stride;   // in bytes, of either sign
  char kind;                    // 'f', 'i', 'u' or 'b', as in a NumPy dtype
  int itemsize;
  bool swapped;                 // not the machine's byte order
};

// Casts n elements, `stride` bytes apart, as a C cast does.
template <class T> using CastRow = void (*)(const char* from, idx stride, T* to, idx n);

// Null where the source's dtype cannot be read. T: float, double, int32_t.
template <class T> CastRow<T> cast_row(const Source& source);
}  // namespace fbp
