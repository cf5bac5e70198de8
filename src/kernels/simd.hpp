// Vectors of one ISA, for float and double: types, loads and stores, the pointwise words that need no series
// (WHERE MAX MIN ABS SQRT), and shuffles.
//
// Included by isa.hpp inside `namespace fbp::<isa> { namespace {`, after the ISA's target pragma, with
// FBP_VECTOR_BYTES set to 16, 32 or 64. GCC and Clang vector extensions; intrinsics only where the plain
// text costs more. Everything here has internal linkage: an AVX-512 copy of an inline function must never be
// the one that the linker keeps for the baseline.

#define FBP_INLINE static inline __attribute__((always_inline))
#define FBP_NOINLINE static __attribute__((noinline))

// Loops over accumulators must be unrolled, the initialising and the storing ones too, or GCC keeps the
// accumulators in memory (2.5 times slower).
#if defined(__clang__)
#define FBP_UNROLL _Pragma("clang loop unroll(full)")
#define FBP_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#else
#define FBP_UNROLL _Pragma("GCC unroll 64")
#define FBP_UNROLL_4 _Pragma("GCC unroll 4")
#endif

// GCC 12 silently drops vector_size where it depends on a template argument: one specialisation per type.
template <class T> struct Simd;
template <> struct Simd<float> {
  typedef float V __attribute__((vector_size(FBP_VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(FBP_VECTOR_BYTES)));   // what a comparison of V gives
  typedef float U __attribute__((vector_size(FBP_VECTOR_BYTES), aligned(4), may_alias));
  typedef int32_t Int;
  typedef uint32_t Bits __attribute__((vector_size(FBP_VECTOR_BYTES)));   // unsigned: sums of bit patterns may wrap
  typedef uint16_t Words __attribute__((vector_size(FBP_VECTOR_BYTES / 2), aligned(2), may_alias));   // as many lanes
};
template <> struct Simd<double> {
  typedef double V __attribute__((vector_size(FBP_VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(FBP_VECTOR_BYTES)));
  typedef double U __attribute__((vector_size(FBP_VECTOR_BYTES), aligned(8), may_alias));
  typedef int64_t Int;
  typedef uint64_t Bits __attribute__((vector_size(FBP_VECTOR_BYTES)));
  typedef uint16_t Words __attribute__((vector_size(FBP_VECTOR_BYTES / 4), aligned(2), may_alias));
};
template <class T> using Vec = typename Simd<T>::V;
template <class T> using IntVec = typename Simd<T>::I;
typedef Vec<float> VF;
typedef Vec<double> VD;
typedef IntVec<float> IF;
typedef IntVec<double> ID;

template <class T> constexpr int lanes = FBP_VECTOR_BYTES / sizeof(T);

template <class A, class B> constexpr bool same = false;
template <class A> constexpr bool same<A, A> = true;

// The element type of a vector: rows are templates over V and write their constants as R<V>(0.5).
template <class V> struct Element;
template <> struct Element<VF> { typedef float type; };
template <> struct Element<VD> { typedef double type; };

template <class T> FBP_INLINE Vec<T> load(const T* p) { return *(const typename Simd<T>::U*)p; }
template <class T> FBP_INLINE void store(T* p, Vec<T> v) { *(typename Simd<T>::U*)p = v; }
template <class V> FBP_INLINE V splat(typename Element<V>::type x) { return x - V{}; }   // x - 0 keeps -0.0
template <class V> FBP_INLINE V R(double x) { return splat<V>((typename Element<V>::type)x); }

template <class V> using Bits = typename Simd<typename Element<V>::type>::Bits;
FBP_INLINE Bits<VF> bits(VF v) { return (Bits<VF>)v; }
FBP_INLINE Bits<VD> bits(VD v) { return (Bits<VD>)v; }
FBP_INLINE VF from_bits(Bits<VF> b) { return (VF)b; }
FBP_INLINE VD from_bits(Bits<VD> b) { return (VD)b; }

template <class T> FBP_INLINE IntVec<T> lane_index() {
  IntVec<T> i{};
  FBP_UNROLL for (int k = 0; k < lanes<T>; k++) i[k] = k;
  return i;
}
// Lanes whose column k + lane is below n.
template <class T> FBP_INLINE IntVec<T> columns_below(int64_t k, int64_t n) {
  int64_t left = n - k;
  return lane_index<T>() < (typename Simd<T>::Int)(left > lanes<T> ? lanes<T> : left);
}

FBP_INLINE VF WHERE(IF c, VF a, VF b) { return c ? a : b; }
FBP_INLINE VD WHERE(ID c, VD a, VD b) { return c ? a : b; }

FBP_INLINE VF ABS(VF x) { return from_bits(bits(x) & 0x7fffffff); }
FBP_INLINE VD ABS(VD x) { return from_bits(bits(x) & 0x7fffffffffffffff); }

// multiply_halves: products of 64 bits of the lower halves of 64-bit lanes, whatever is in the upper ones.
#if defined(__aarch64__)
// FMAX and FMIN give NaN where either operand is NaN.
FBP_INLINE VF MAX(VF a, VF b) { return (VF)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
FBP_INLINE VD MAX(VD a, VD b) { return (VD)vmaxq_f64((float64x2_t)a, (float64x2_t)b); }
FBP_INLINE VF MIN(VF a, VF b) { return (VF)vminq_f32((float32x4_t)a, (float32x4_t)b); }
FBP_INLINE VD MIN(VD a, VD b) { return (VD)vminq_f64((float64x2_t)a, (float64x2_t)b); }
FBP_INLINE VF SQRT(VF x) { return (VF)vsqrtq_f32((float32x4_t)x); }
FBP_INLINE VD SQRT(VD x) { return (VD)vsqrtq_f64((float64x2_t)x); }
FBP_INLINE Bits<VD> multiply_halves(Bits<VD> a, Bits<VD> b) {
  return (Bits<VD>)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
}
#else
// x86 max and min return their second operand where either is NaN.
#if defined(__x86_64__)
#if FBP_VECTOR_BYTES == 64
typedef __m512 RegisterF;
typedef __m512d RegisterD;
typedef __m512i RegisterI;
#define FBP_X86(name) _mm512_##name
#elif FBP_VECTOR_BYTES == 32
typedef __m256 RegisterF;
typedef __m256d RegisterD;
typedef __m256i RegisterI;
#define FBP_X86(name) _mm256_##name
#else
typedef __m128 RegisterF;
typedef __m128d RegisterD;
typedef __m128i RegisterI;
#define FBP_X86(name) _mm_##name
#endif
FBP_INLINE VF max_x86(VF a, VF b) { return (VF)FBP_X86(max_ps)((RegisterF)a, (RegisterF)b); }
FBP_INLINE VD max_x86(VD a, VD b) { return (VD)FBP_X86(max_pd)((RegisterD)a, (RegisterD)b); }
FBP_INLINE VF min_x86(VF a, VF b) { return (VF)FBP_X86(min_ps)((RegisterF)a, (RegisterF)b); }
FBP_INLINE VD min_x86(VD a, VD b) { return (VD)FBP_X86(min_pd)((RegisterD)a, (RegisterD)b); }
FBP_INLINE VF SQRT(VF x) { return (VF)FBP_X86(sqrt_ps)((RegisterF)x); }
FBP_INLINE VD SQRT(VD x) { return (VD)FBP_X86(sqrt_pd)((RegisterD)x); }
FBP_INLINE Bits<VD> multiply_halves(Bits<VD> a, Bits<VD> b) {
  return (Bits<VD>)FBP_X86(mul_epu32)((RegisterI)a, (RegisterI)b);
}
#else
FBP_INLINE VF max_x86(VF a, VF b) { return WHERE(a > b, a, b); }
FBP_INLINE VD max_x86(VD a, VD b) { return WHERE(a > b, a, b); }
FBP_INLINE VF min_x86(VF a, VF b) { return WHERE(a < b, a, b); }
FBP_INLINE VD min_x86(VD a, VD b) { return WHERE(a < b, a, b); }
FBP_INLINE VF SQRT(VF x) { FBP_UNROLL for (int i = 0; i < lanes<float>; i++) x[i] = __builtin_sqrtf(x[i]); return x; }
FBP_INLINE VD SQRT(VD x) { FBP_UNROLL for (int i = 0; i < lanes<double>; i++) x[i] = __builtin_sqrt(x[i]); return x; }
FBP_INLINE Bits<VD> multiply_halves(Bits<VD> a, Bits<VD> b) { return (a & 0xffffffff) * (b & 0xffffffff); }
#endif
// NaN in either operand gives NaN, as numpy.maximum; the second test folds away where b is a constant.
template <class V> FBP_INLINE V MAX(V a, V b) { return WHERE(b != b, b, max_x86(b, a)); }
template <class V> FBP_INLINE V MIN(V a, V b) { return WHERE(b != b, b, min_x86(b, a)); }
#endif

template <int n> struct Count { enum { value = n }; };

// Shuffles, of two kinds that are one cheap instruction each: elements inside 16-byte quarters, and whole quarters.
template <int... i> struct Indices {};
template <int n, int... i> struct MakeIndices : MakeIndices<n - 1, n - 1, i...> {};
template <int... i> struct MakeIndices<0, i...> { typedef Indices<i...> type; };
#if defined(__clang__) || __GNUC__ >= 12
#define FBP_SHUFFLE(V, I, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FBP_SHUFFLE(V, I, a, b, ...) __builtin_shuffle(a, b, I{__VA_ARGS__})
#endif
template <class T> constexpr int in_quarter = 16 / sizeof(T);
template <class T> constexpr int quarters = FBP_VECTOR_BYTES / 16;
// Elements of every other item of a and then b, from item `odd` on: items are the elements of each quarter ...
template <class T> constexpr int element_of_pair(int e, int odd) {
  const int half = in_quarter<T> / 2, r = e % in_quarter<T>;
  return (r < half ? 0 : lanes<T>) + e - r + 2 * (r % half) + odd;
}
// ... or the quarters.
template <class T> constexpr int quarter_of_pair(int e, int odd) {
  const int half = quarters<T> > 1 ? quarters<T> / 2 : 1, q = e / in_quarter<T>;
  return (q < half ? 0 : lanes<T>) + (2 * (q % half) + odd) * in_quarter<T> + e % in_quarter<T>;
}
template <class T, int odd, int... i>
FBP_INLINE Vec<T> every_other(Vec<T> a, Vec<T> b, bool whole_quarters, Indices<i...>) {
  return whole_quarters ? FBP_SHUFFLE(Vec<T>, IntVec<T>, a, b, quarter_of_pair<T>(i, odd)...)
                        : FBP_SHUFFLE(Vec<T>, IntVec<T>, a, b, element_of_pair<T>(i, odd)...);
}
template <class T> FBP_INLINE Vec<T> evens(Vec<T> a, Vec<T> b, int round) {
  return every_other<T, 0>(a, b, round >= in_quarter<T>, typename MakeIndices<lanes<T>>::type{});
}
template <class T> FBP_INLINE Vec<T> odds(Vec<T> a, Vec<T> b, int round) {
  return every_other<T, 1>(a, b, round >= in_quarter<T>, typename MakeIndices<lanes<T>>::type{});
}
// rows[i] lane j  <->  rows[j] lane i: log2(lanes) rounds, in registers.
template <class T> FBP_INLINE void transpose(Vec<T>* rows) {
  constexpr int n = lanes<T>;
  FBP_UNROLL for (int round = 1; round < n; round *= 2) {
    Vec<T> t[n];
    FBP_UNROLL for (int i = 0; i < n / 2; i++) {
      t[i] = evens<T>(rows[2 * i], rows[2 * i + 1], round);
      t[i + n / 2] = odds<T>(rows[2 * i], rows[2 * i + 1], round);
    }
    FBP_UNROLL for (int i = 0; i < n; i++) rows[i] = t[i];
  }
}
// Horizontal sums of neighbours, in one fixed order for an ISA. sum_each: lane i of the result is the sum of rows[i], of n
// rows; further lanes are those again.
template <class T, int n = lanes<T>> FBP_INLINE Vec<T> sum_each(Vec<T>* rows) {
  FBP_UNROLL for (int round = 1; round < lanes<T>; round *= 2) {
    const int left = n / round;   // rows, of which the last one is added to itself
    FBP_UNROLL for (int i = 0; 2 * i < left; i++) {
      const Vec<T> a = rows[2 * i], b = rows[left > 1 ? 2 * i + 1 : 0];
      rows[i] = evens<T>(a, b, round) + odds<T>(a, b, round);
    }
    if (left < 1) rows[0] = evens<T>(rows[0], rows[0], round) + odds<T>(rows[0], rows[0], round);
  }
  return rows[0];
}
template <class T> FBP_INLINE Vec<T> sum_lanes_everywhere(Vec<T> v) { return sum_each<T, 1>(&v); }
template <class T> FBP_INLINE T sum_lanes(Vec<T> v) { return sum_lanes_everywhere<T>(v)[0]; }
// Lanes of a and then b, every second one from lane `odd` on.
template <class T, int odd, int... i> FBP_INLINE Vec<T> every_second(Vec<T> a, Vec<T> b, Indices<i...>) {
  return FBP_SHUFFLE(Vec<T>, IntVec<T>, a, b, (2 * i + odd)...);
}
// Lane `from` in all lanes.
template <class T, int from, int... i> FBP_INLINE Vec<T> spread(Vec<T> v, Indices<i...>) {
  return FBP_SHUFFLE(Vec<T>, IntVec<T>, v, v, (i - i + from)...);
}

// Between a vector of T and doubles, one for each lane.
typedef float HalfVF __attribute__((vector_size(FBP_VECTOR_BYTES / 2)));
typedef float HalfUF __attribute__((vector_size(FBP_VECTOR_BYTES / 2), aligned(4), may_alias));
#if defined(__clang__) || __GNUC__ >= 12
template <int... i> FBP_INLINE HalfVF half(VF v, int upper, Indices<i...>) {
  return upper ? __builtin_shufflevector(v, v, (lanes<double> + i)...) : __builtin_shufflevector(v, v, i...);
}
template <int... i> FBP_INLINE VF both_halves(HalfVF lower, HalfVF upper, Indices<i...>) {
  return __builtin_shufflevector(lower, upper, i...);
}
#else   // through memory
template <int... i> FBP_INLINE HalfVF half(VF v, int upper, Indices<i...>) {
  return *((const HalfUF*)&v + upper);
}
template <int... i> FBP_INLINE VF both_halves(HalfVF lower, HalfVF upper, Indices<i...>) {
  const HalfVF halves[] = {lower, upper};
  return load((const float*)halves);
}
#endif
#if FBP_VECTOR_BYTES == 64   // GCC converts the widest vectors in pieces
FBP_INLINE VD to_doubles(HalfVF v) { return (VD)_mm512_cvtps_pd((__m256)v); }
#elif FBP_VECTOR_BYTES == 32
FBP_INLINE VD to_doubles(HalfVF v) { return (VD)_mm256_cvtps_pd((__m128)v); }
#else
FBP_INLINE VD to_doubles(HalfVF v) { return __builtin_convertvector(v, VD); }
#endif
FBP_INLINE VD from_doubles(const double* p, VD) { return load(p); }
FBP_INLINE VF from_doubles(const double* p, VF) {
  return both_halves(__builtin_convertvector(load(p), HalfVF), __builtin_convertvector(load(p + lanes<double>), HalfVF),
                     typename MakeIndices<lanes<float>>::type{});
}
// Sum over the lanes of v * p, a vector of partial sums in double.
FBP_INLINE VD products(VD v, const double* p) { return v * load(p); }
FBP_INLINE VD products(VF v, const double* p) {
  typename MakeIndices<lanes<double>>::type index;
  return to_doubles(half(v, 0, index)) * load(p) + to_doubles(half(v, 1, index)) * load(p + lanes<double>);
}
