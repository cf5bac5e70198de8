// The caller's arrays: any strides, any alignment, any real dtype, either byte order. Read, never written.
#pragma once
#include "kernels.hpp"

namespace fbp {

struct Source {
  const char* data;
  idx rows, cols;
  idx row_stride, col_stride;   // in bytes, of either sign
  char kind;                    // 'f', 'i', 'u' or 'b', as in a NumPy dtype
  int itemsize;
  bool swapped;                 // not the machine's byte order
};

// Casts n elements, `stride` bytes apart, as a C cast does; where there is an order, those at its places.
template <class T> using CastRow = void (*)(const char* from, idx stride, const uint32_t* order, T* to, idx n);

// Null where the source's dtype cannot be read. T: float, double, int32_t.
template <class T> CastRow<T> cast_row(const Source& source);

// Rows start..start+rows of `from`, or order[start..] where there is an order, cast to T: row m at to + m * ld, or
// transposed at to[m + column * ld].
template <class T>
void gather_rows(const Source& from, T* to, idx ld, idx start, const uint32_t* order, idx rows);
template <class T>
void gather_transposed(const Source& from, T* to, idx ld, idx start, const uint32_t* order, idx rows);

// Whether each number, cast to double, lies from low to high; with `ends`, is one of the two; with `or_nan`, or is NaN.
bool within(const Source& source, double low, double high, bool ends, bool or_nan);
// Whether the numbers of each row sum to 1, up to `tolerance`.
bool rows_sum_to_one(const Source& source, double tolerance);
}  // namespace fbp
