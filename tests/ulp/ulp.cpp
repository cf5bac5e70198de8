// Accuracy, special values and speed of src/kernels/math.hpp, for one ISA and one compiler per binary.
//
//   g++ -O2 -std=c++17 -ffp-contract=fast -fno-math-errno -fno-trapping-math -DFBP_VECTOR_BYTES=32 ulp.cpp -lquadmath
//   ulp quick    sampled arguments, under 5 s        ulp full    every float and 1e8 doubles, several minutes
//   ulp time     ns per vector, in cache
//   ulp values EXP float <arguments    every break point and argument with its value, for another judge: test_ulp.py
//
// -DISA=avx2,fma overrides the target that goes with the vector size. Exit status 1 where anything fails.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
// Double results are compared with long double, and a new maximum is settled in binary128 where there is one:
// libquadmath for every argument would take hours.
#if defined(__x86_64__) && !defined(__clang__)
#include <quadmath.h>
#define HAVE_QUAD 1
typedef __float128 Wide;
#else
typedef long double Wide;
#endif

#if defined(__x86_64__) && !defined(ISA)
#if FBP_VECTOR_BYTES == 16
#define ISA sse4.2
#elif FBP_VECTOR_BYTES == 32
#define ISA avx2,fma
#else
#define ISA avx512f,avx512vl,avx512dq,avx512bw,fma,avx2
#endif
#endif
#define PRAGMA_(...) _Pragma(#__VA_ARGS__)
#define PRAGMA(...) PRAGMA_(__VA_ARGS__)
#define TEXT_(...) #__VA_ARGS__
#define TEXT(...) TEXT_(__VA_ARGS__)
// Only the kernels get the target: main() must run, and say so, where the processor lacks it.
#ifdef __clang__
#ifdef ISA
PRAGMA(clang attribute push(__attribute__((target(TEXT(ISA)))), apply_to = function))
#endif
#else
#pragma GCC push_options
#ifdef ISA
PRAGMA(GCC target(TEXT(ISA)))
#endif
#endif

namespace {
#include "../../src/kernels/simd.hpp"
#include "../../src/kernels/math.hpp"

template <class V> FBP_INLINE V SIGMOID(V z) {
  V e = EXP(-ABS(z));
  return WHERE(z < R<V>(0), e, R<V>(1)) / (R<V>(1) + e);
}

#ifdef HAVE_QUAD
#define EXACT(real, quad)                                                      \
  template <class E> static E exact(E x) { using namespace std; return real; } \
  static Wide exact(Wide x) { return quad; }
#else
#define EXACT(real, quad) template <class E> static E exact(E x) { using namespace std; return real; }
#endif
#define WORD(Name, WORD_NAME, is_odd, low, high, real, quad)                              \
  struct Name {                                                                           \
    static constexpr const char* name = #WORD_NAME;                                       \
    static constexpr bool odd = is_odd;                                                   \
    static constexpr double lowest = low, highest = high;                                 \
    template <class V> FBP_INLINE V vector(V x) { return WORD_NAME(x); }                  \
    EXACT(real, quad)                                                                     \
  };
constexpr double infinity = std::numeric_limits<double>::infinity();
WORD(Exp, EXP, false, 0, infinity, exp(x), expq(x))
WORD(Expm1, EXPM1, false, -1, infinity, expm1(x), expm1q(x))
WORD(Log, LOG, false, -infinity, infinity, log(x), logq(x))
WORD(Log1p, LOG1P, false, -infinity, infinity, log1p(x), log1pq(x))
WORD(Tanh, TANH, true, -1, 1, tanh(x), tanhq(x))
WORD(Sigmoid, SIGMOID, false, 0, 1, 1 / (1 + exp(-x)), 1 / (1 + expq(-x)))

template <class W, class T> FBP_NOINLINE void run(const T* x, T* y, int64_t n) {
  for (int64_t i = 0; i < n; i += lanes<T>) store<T>(y + i, W::vector(load<T>(x + i)));
}
}  // namespace
#ifndef __clang__
#pragma GCC pop_options
#elif defined(ISA)
#pragma clang attribute pop
#endif

namespace {
constexpr double allowed_ulp = 4;
constexpr int64_t block = 4096;
bool all_passed = true;

template <class T> struct Format;
template <> struct Format<float> {
  typedef uint32_t Bits;
  typedef double First;
  static constexpr const char* name = "float";
};
template <> struct Format<double> {
  typedef uint64_t Bits;
  typedef long double First;
  static constexpr const char* name = "double";
};
template <class T> using BitsOf = typename Format<T>::Bits;
template <class T> BitsOf<T> to_bits(T x) { BitsOf<T> b; memcpy(&b, &x, sizeof b); return b; }
template <class T> T of_bits(BitsOf<T> b) { T x; memcpy(&x, &b, sizeof x); return x; }

double power_of_two(int e) { return of_bits<double>((uint64_t)(e + 1023) << 52); }
template <class E> int exponent_of(E x) { return ilogbl((long double)x); }
int exponent_of(double x) { return (int)(to_bits(x) >> 52 & 0x7ff) - 1023; }
// The distance in units of the spacing of T at the exact value; infinite where NaN or inf is wrong or missing.
template <class T, class E> double ulp_error(T got, E exact) {
  typedef std::numeric_limits<T> L;
  if (exact != exact) return got != got ? 0 : infinity;
  if (got != got) return infinity;
  E size = exact < 0 ? -exact : exact;
  if (size >= (E)L::max() + (E)power_of_two(L::max_exponent - L::digits - 1))
    return std::isinf(got) && (got > 0) == (exact > 0) ? 0 : infinity;
  if (std::isinf(got)) return infinity;
  int e = size == 0 ? L::min_exponent - 1 : exponent_of(size);
  if (e < L::min_exponent - 1) e = L::min_exponent - 1;
  E error = (E)got - exact;
  if (error < 0) error = -error;
  int halves = L::digits - 1 - e;   // in two factors: 2^1074 is no double
  return (double)(error * (E)power_of_two(halves / 2) * (E)power_of_two(halves - halves / 2));
}

template <class W, class T> struct Check {
  double worst = 0;
  T worst_at = 0;
  int64_t broken = 0;
  T broken_at = 0;

  void operator()(const T* x, int64_t n) {
    T y[block], mirrored[block];
    run<W, T>(x, y, n);
    if (W::odd) {
      T minus[block];
      for (int64_t i = 0; i < n; i++) minus[i] = -x[i];
      run<W, T>(minus, mirrored, n);
    }
    for (int64_t i = 0; i < n; i++) {
      double error = ulp_error(y[i], W::exact((typename Format<T>::First)x[i]));
      if (error > worst) error = ulp_error(y[i], W::exact((Wide)x[i]));
      if (error > worst) worst = error, worst_at = x[i];
      bool holds = y[i] != y[i] || (y[i] >= W::lowest && y[i] <= W::highest);
      if (W::odd && y[i] == y[i]) holds &= to_bits(mirrored[i]) == to_bits(-y[i]);
      if (!holds) broken++, broken_at = x[i];
    }
  }
  void report() const {
    bool pass = worst <= allowed_ulp && !broken;
    all_passed &= pass;
    printf("%-8s %-7s %6.3f ULP at %-24a %s\n", W::name, Format<T>::name, worst, (double)worst_at,
           pass ? "PASS" : "FAIL");
    if (broken) printf("    range or oddness broken %lld times, at %a\n", (long long)broken, (double)broken_at);
  }
};

template <class T> struct Special { T x, y; };
template <class W, class T> void specials(const std::vector<Special<T>>& list) {
  for (const Special<T>& s : list) {
    T x[block], y[block];
    for (T& v : x) v = s.x;
    run<W, T>(x, y, lanes<T>);
    for (int i = 0; i < lanes<T>; i++)
      if (s.y != s.y ? y[i] == y[i] : to_bits(y[i]) != to_bits(s.y)) {
        printf("%-8s %-7s of %a is %a, not %a FAIL\n", W::name, Format<T>::name, (double)s.x, (double)y[i],
               (double)s.y);
        all_passed = false;
        break;
      }
  }
}
template <class T> void all_specials() {
  typedef std::numeric_limits<T> L;
  constexpr T inf = L::infinity(), nan = L::quiet_NaN(), tiny = L::denorm_min(), small = L::min();
  const bool f = sizeof(T) == 4;
  const T exp_max = f ? (T)88.72283f : (T)709.782712893384, exp_over = std::nextafter(exp_max, inf);
  const T exp_min = f ? (T)-103.97f : (T)-745.13, exp_under = f ? (T)-103.98f : (T)-745.14;
  specials<Exp, T>({{-inf, 0}, {inf, inf}, {nan, nan}, {0, 1}, {(T)-0.0, 1}, {tiny, 1}, {-tiny, 1}, {exp_over, inf},
                    {L::max(), inf}, {-L::max(), 0}, {exp_min, tiny}, {exp_under, 0}, {-200000, 0}});
  specials<Expm1, T>({{-inf, -1}, {inf, inf}, {nan, nan}, {0, 0}, {(T)-0.0, (T)-0.0}, {tiny, tiny}, {-tiny, -tiny},
                      {small, small}, {-small, -small}, {exp_over, inf}, {L::max(), inf}, {-L::max(), -1}});
  specials<Log, T>({{0, -inf}, {(T)-0.0, -inf}, {-tiny, nan}, {-1, nan}, {-L::max(), nan}, {-inf, nan}, {inf, inf},
                    {nan, nan}, {1, 0}});
  specials<Log1p, T>({{0, 0}, {(T)-0.0, (T)-0.0}, {-1, -inf}, {std::nextafter((T)-1, (T)-2), nan}, {-2, nan},
                      {-L::max(), nan}, {-inf, nan}, {inf, inf}, {nan, nan}, {tiny, tiny}, {-tiny, -tiny},
                      {small, small}, {-small, -small}});
  specials<Tanh, T>({{0, 0}, {(T)-0.0, (T)-0.0}, {inf, 1}, {-inf, -1}, {nan, nan}, {tiny, tiny}, {-tiny, -tiny},
                     {small, small}, {-small, -small}, {L::max(), 1}, {20, 1}, {-20, -1}});
  specials<Sigmoid, T>({{-inf, 0}, {inf, 1}, {nan, nan}, {0, (T)0.5}, {(T)-0.0, (T)0.5}, {L::max(), 1},
                        {-L::max(), 0}});
  T x[block], y[block];
  for (T& v : x) v = exp_max;
  run<Exp, T>(x, y, lanes<T>);
  if (!std::isfinite(y[0])) {
    printf("%-8s %-7s of its largest argument overflows FAIL\n", Exp::name, Format<T>::name);
    all_passed = false;
  }
}

// Where the words change branch or round to another n, each with its neighbours.
template <class T> std::vector<T> break_points() {
  std::vector<T> points;
  auto around = [&](double centre) {
    for (double sign : {1.0, -1.0})
      for (int d = -4; d <= 4; d++) points.push_back(of_bits<T>(to_bits((T)(sign * centre)) + d));
  };
  for (int i = 0; i < 2200; i++) around((i + 0.5) * 0.34657359027997264);      // n + 1/2 of EXP, EXPM1, TANH
  const int least = std::numeric_limits<T>::min_exponent - std::numeric_limits<T>::digits;
  for (int e = least; e < std::numeric_limits<T>::max_exponent; e++) {
    around(std::ldexp(1.0, e));
    around(std::ldexp(0.70710678118654752, e));                                 // the exponents of LOG ...
    around(std::ldexp(0.70710678118654752, e) - 1);                             // ... and of LOG1P
  }
  for (double x : {9.01, 10., 18., 19.06, 20., 21., 38., 88.72283, 88.722839, 89., 103.97, 104., 709.782712893384, 710.,
                   745.13, 746.})   // the clamps, and where results saturate
    around(x);
  return points;
}

uint64_t random_bits() {
  static uint64_t s = 0x9e3779b97f4a7c15;
  s ^= s << 13, s ^= s >> 7, s ^= s << 17;
  return s;
}
// Every exponent, then the exponents that matter, then the neighbourhoods of 1 and -1.
double random_double(int64_t i) {
  uint64_t r = random_bits();
  double x = of_bits<double>((r & 0x800fffffffffffff) | (uint64_t)(random_bits() % 2047) << 52);
  double middle = of_bits<double>((r & 0x800fffffffffffff) | (uint64_t)(1023 - 30 + random_bits() % 41) << 52);
  switch (i & 3) {
    case 0: return x;
    case 1: return 1 + std::ldexp(middle, -11);
    case 2: return std::ldexp(middle, -11) - 1;
    default: return middle;
  }
}

template <class T> struct Source;
template <> struct Source<float> {
  static int64_t count(bool full) { return full ? (int64_t)1 << 32 : ((int64_t)1 << 32) / 997; }
  static float at(int64_t i, bool full) { return of_bits<float>((uint32_t)(full ? i : i * 997)); }
};
template <> struct Source<double> {
  static int64_t count(bool full) { return full ? 100000000 : 200000; }
  static double at(int64_t i, bool) { return random_double(i); }
};

template <class T> void accuracy(bool full) {
  Check<Exp, T> exp;
  Check<Expm1, T> expm1;
  Check<Log, T> log;
  Check<Log1p, T> log1p;
  Check<Tanh, T> tanh;
  Check<Sigmoid, T> sigmoid;
  T x[block];
  auto check = [&] {
    exp(x, block), expm1(x, block), log(x, block);
    log1p(x, block), tanh(x, block), sigmoid(x, block);
  };
  std::vector<T> points = break_points<T>();
  points.resize((points.size() + block - 1) / block * block, (T)1);
  for (size_t i = 0; i < points.size(); i += block) memcpy(x, &points[i], sizeof x), check();
  for (int64_t i = 0, n = Source<T>::count(full); i < n; i += block) {
    for (int64_t j = 0; j < block; j++) x[j] = Source<T>::at(i + j, full);
    check();
  }
  exp.report(), expm1.report(), log.report(), log1p.report(), tanh.report(), sigmoid.report();
  all_specials<T>();
}

// Pairs of T on stdout: an argument, the word's value. The break points, then what stdin holds.
template <class W, class T> void values_of(const char* word) {
  if (strcmp(word, W::name)) return;
  std::vector<T> points = break_points<T>();
  for (T x; fread(&x, sizeof x, 1, stdin) == 1;) points.push_back(x);
  points.resize((points.size() + lanes<T> - 1) / lanes<T> * lanes<T>, (T)1);
  std::vector<T> y(points.size());
  run<W, T>(points.data(), y.data(), (int64_t)points.size());
  for (size_t i = 0; i < points.size(); i++) fwrite(&points[i], sizeof(T), 1, stdout), fwrite(&y[i], sizeof(T), 1, stdout);
}
template <class T> void values(const char* word) {
  values_of<Exp, T>(word), values_of<Expm1, T>(word), values_of<Log, T>(word);
  values_of<Log1p, T>(word), values_of<Tanh, T>(word), values_of<Sigmoid, T>(word);
}

template <class W, class T> void time_one() {
  const int64_t n = 1024;
  static T x[n], y[n];
  for (T& v : x) v = (T)((double)(random_bits() >> 11) * 0x1p-53 * 8 - (W::lowest == -infinity ? -0.01 : 4));
  double best = infinity;
  for (int repeat = 0; repeat < 40; repeat++) {
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < 200; i++) run<W, T>(x, y, n);
    std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count() / (200.0 * n / lanes<T>));
  }
  printf("%-8s %-7s %6.2f ns per vector of %d\n", W::name, Format<T>::name, best, lanes<T>);
}
template <class T> void time_all() {
  time_one<Exp, T>(), time_one<Expm1, T>(), time_one<Log, T>();
  time_one<Log1p, T>(), time_one<Tanh, T>(), time_one<Sigmoid, T>();
}
}  // namespace

int main(int argc, char** argv) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool runs_here = FBP_VECTOR_BYTES == 64 ? __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
                   : FBP_VECTOR_BYTES == 32 ? __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
                                            : __builtin_cpu_supports("sse4.2");
  if (!runs_here) return printf("SKIP: this processor lacks the ISA\n"), 0;
#endif
  const char* mode = argc > 1 ? argv[1] : "quick";
  if (!strcmp(mode, "time")) return time_all<float>(), time_all<double>(), 0;
  if (!strcmp(mode, "values") && argc == 4)
    return strcmp(argv[3], "float") ? values<double>(argv[2]) : values<float>(argv[2]), 0;
  bool full = !strcmp(mode, "full");
  if (!full && strcmp(mode, "quick")) return fprintf(stderr, "usage: ulp quick|full|time|values WORD TYPE\n"), 2;
  accuracy<float>(full);
  accuracy<double>(full);
  printf("%s\n", all_passed ? "PASS" : "FAIL");
  return !all_passed;
}
