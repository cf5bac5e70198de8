#include "feed.hpp"

#include <cstring>
#include <type_traits>

namespace fbp {
namespace {
struct Half { uint16_t bits; };
struct Bool { uint8_t byte; };

template <class T, class S> T convert(S value) { return static_cast<T>(value); }
template <class T> T convert(Bool value) { return static_cast<T>(value.byte != 0); }
template <class T> T convert(Half half) {   // exact: every half is a float
  const uint32_t sign = (half.bits & 0x8000u) << 16, exponent = half.bits >> 10 & 31, fraction = half.bits & 0x3ffu;
  uint32_t bits;
  if (exponent == 31) bits = sign | 0x7f800000u | fraction << 13;
  else if (exponent) bits = sign | (exponent + 112) << 23 | fraction << 13;
  else {
    const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;   // 2^-24
    std::memcpy(&bits, &magnitude, sizeof bits);
    bits |= sign;
  }
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return static_cast<T>(value);
}

template <class S, class T, bool swapped> T number(const char* from) {
  S value;
  if (swapped) {
    unsigned char bytes[sizeof(S)];
    for (size_t b = 0; b < sizeof(S); b++) bytes[b] = static_cast<unsigned char>(from[sizeof(S) - 1 - b]);
    std::memcpy(&value, bytes, sizeof value);
  } else {
    std::memcpy(&value, from, sizeof value);
  }
  return convert<T>(value);
}
template <class S, class T, bool swapped> void cast(const char* from, idx stride, const uint32_t* order, T* to, idx n) {
  if (order) {
    for (idx i = 0; i < n; i++) to[i] = number<S, T, swapped>(from + order[i] * stride);
  } else if (std::is_same<S, T>::value && !swapped && stride == static_cast<idx>(sizeof(T))) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
  } else {
    for (idx i = 0; i < n; i++) to[i] = number<S, T, swapped>(from + i * stride);
  }
}

template <class S, class T> CastRow<T> of(bool swapped) { return swapped ? cast<S, T, true> : cast<S, T, false>; }
}  // namespace

template <class T> CastRow<T> cast_row(const Source& source) {
  const bool swapped = source.swapped;
  switch (source.kind) {
    case 'f':
      switch (source.itemsize) {
        case 2: return of<Half, T>(swapped);
        case 4: return of<float, T>(swapped);
        case 8: return of<double, T>(swapped);
      }
      // not a case: on some platforms it is a double
      return source.itemsize == sizeof(long double) ? of<long double, T>(swapped) : nullptr;
    case 'i':
      switch (source.itemsize) {
        case 1: return of<int8_t, T>(swapped);
        case 2: return of<int16_t, T>(swapped);
        case 4: return of<int32_t, T>(swapped);
        case 8: return of<int64_t, T>(swapped);
      }
      break;
    case 'u':
      switch (source.itemsize) {
        case 1: return of<uint8_t, T>(swapped);
        case 2: return of<uint16_t, T>(swapped);
        case 4: return of<uint32_t, T>(swapped);
        case 8: return of<uint64_t, T>(swapped);
      }
      break;
    case 'b': return of<Bool, T>(false);
  }
  return nullptr;
}

template <class T>
void gather_rows(const Source& from, T* to, idx ld, idx start, const uint32_t* order, idx rows) {
  const CastRow<T> cast = cast_row<T>(from);
  for (idx m = start; m < start + rows; m++, to += ld)
    cast(from.data + (order ? order[m] : m) * from.row_stride, from.col_stride, nullptr, to, from.cols);
}

template <class T>
void gather_transposed(const Source& from, T* to, idx ld, idx start, const uint32_t* order, idx rows) {
  const CastRow<T> cast = cast_row<T>(from);
  const char* first = from.data + (order ? 0 : start * from.row_stride);
  for (idx n = 0; n < from.cols; n++, to += ld)
    cast(first + n * from.col_stride, from.row_stride, order ? order + start : nullptr, to, rows);
}

// test(numbers, n, whether the row ends): of each row in pieces, or of all rows as one where they follow one another.
template <class Test> static bool each_piece(const Source& from, bool by_rows, Test test) {
  enum { PIECE = 128 };
  const CastRow<double> cast = cast_row<double>(from);
  const idx stride = from.cols == 1 ? from.row_stride : from.col_stride;
  const bool one = !by_rows && (from.cols == 1 || stride * from.cols == from.row_stride);
  const idx rows = one ? 1 : from.rows, cols = one ? from.rows * from.cols : from.cols;
  double piece[PIECE];
  for (idx m = 0; m < rows; m++)
    for (idx n = 0; n < cols; n += PIECE) {
      const idx count = cols - n < PIECE ? cols - n : static_cast<idx>(PIECE);
      cast(from.data + m * from.row_stride + n * stride, stride, nullptr, piece, count);
      if (!test(piece, count, n + count == cols)) return false;
    }
  return true;
}

// By vectors: each short run looks at all of its targets.
static bool all_between(const double* x, idx n, double low, double high) {
  typedef double Pair __attribute__((vector_size(16)));
  typedef int64_t Masks __attribute__((vector_size(16)));
  const Pair least = {low, low}, most = {high, high};
  Masks fit = {-1, -1};
  idx i = 0;
  for (; i + 2 <= n; i += 2) {
    const Pair two = {x[i], x[i + 1]};
    fit &= (least <= two) & (two <= most);
  }
  return fit[0] && fit[1] && (i == n || (low <= x[i] && x[i] <= high));
}

bool within(const Source& source, double low, double high, bool ends, bool or_nan) {
  return each_piece(source, false, [&](const double* x, idx n, bool) {
    if (!ends && !or_nan) return all_between(x, n, low, high);
    bool fit = true;
    for (idx i = 0; i < n; i++)
      fit &= (low <= x[i] && x[i] <= high && (!ends || x[i] == low || x[i] == high)) || (or_nan && x[i] != x[i]);
    return fit;
  });
}

bool rows_sum_to_one(const Source& source, double tolerance) {
  double sum = 0;
  return each_piece(source, true, [&](const double* x, idx n, bool last) {
    for (idx i = 0; i < n; i++) sum += x[i];
    if (!last) return true;
    const bool fit = sum - 1 <= tolerance && 1 - sum <= tolerance;
    sum = 0;
    return fit;
  });
}

#define FBP_INSTANTIATE(T)                                                                    \
  template CastRow<T> cast_row<T>(const Source&);                                             \
  template void gather_rows<T>(const Source&, T*, idx, idx, const uint32_t*, idx);            \
  template void gather_transposed<T>(const Source&, T*, idx, idx, const uint32_t*, idx);
FBP_INSTANTIATE(float)
FBP_INSTANTIATE(double)
FBP_INSTANTIATE(int32_t)
}  // namespace fbp
