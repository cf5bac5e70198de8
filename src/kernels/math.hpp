// The series words of the row vocabulary: EXP EXPM1 LOG LOG1P TANH, for VF and VD.
//
// Included after simd.hpp, inside the same per-ISA anonymous namespace, hence with internal linkage only.
// Every word promises at most 4 ULP over its whole domain, subnormal arguments and results included, and C's
// special values: NaN, infinities, poles and signed zeros. Needs round to nearest and no flush to zero. FMA is
// used where there is one and the bounds do not depend on it.
//
// Largest error measured by tests/ulp/ulp.cpp, in ULP: all 2^32 floats, 1e8 doubles and every break point, the
// worst of 16-, 32- and 64-byte vectors, g++ 12 and clang 14:
//            float   double  method
//   EXP      1.19    1.19    x = n ln2 + r, polynomial in r, scaled by 2^n in two steps
//   EXPM1    2.19    2.65    the same r, r p(r) 2^n + (2^n - 1)
//   LOG      1.22    0.88    x = 2^e (1 + f), log1p(f) + e ln2: float a polynomial in f, double one in f / (2 + f)
//   LOG1P    1.78    1.39    the same, with f from x itself and not from 1 + x
//   TANH     2.61    2.59    E / (E + 2) with E = expm1(2|x|), then the sign: one division, no branch near 0
//
// Coefficients: minimax fits of the relative error (Lawson iteration), each rounded to the type in turn and the
// rest fitted again. The float ln2_hi has 15 significant bits and the double one, fdlibm's, 32: n ln2_hi and
// e ln2_hi are exact, without FMA too.

// expm1_tail: expm1(r) = r + r^2 (t0 + t1 r + ...). log1p_tail: see log1p_minus_f.
template <class V> struct Series;
template <> struct Series<VF> {
  static constexpr int fraction_bits = 23, bias = 127;
  static constexpr double two_fraction_bits = 0x1p23, least_normal = 0x1p-126;
  static constexpr double ln2_hi = 0.693145751953125, ln2_lo = 1.42860677e-6;
  static constexpr double exp_is_0 = -104, exp_is_inf = 89, expm1_is_minus_1 = -18, tanh_of_half_is_1 = 20;
  static constexpr double expm1_tail[] = {0.49999997, 0.166665465, 0.0416674353, 0.00836625881, 0.0013870676};
  static constexpr double log1p_tail[] = {-0.499999911, 0.333339512, -0.250017941, 0.1996205,
                                          -0.165697664, 0.149176583, -0.143119782, 0.0874041021};
};
template <> struct Series<VD> {
  static constexpr int fraction_bits = 52, bias = 1023;
  static constexpr double two_fraction_bits = 0x1p52, least_normal = 0x1p-1022;
  static constexpr double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
  static constexpr double exp_is_0 = -746, exp_is_inf = 710, expm1_is_minus_1 = -38, tanh_of_half_is_1 = 42;
  static constexpr double expm1_tail[] = {0.50000000000000056,   0.16666666666666644,   0.041666666666575827,
                                          0.0083333333333622736, 0.0013888888931553756, 0.00019841269767615572,
                                          2.4801505416097349e-5, 2.7557370648717747e-6, 2.7625962945672857e-7,
                                          2.506393464827182e-8};
  static constexpr double log1p_tail[] = {0.66666666666667351, 0.39999999999409852, 0.28571428743483213,
                                          0.22222198457519635, 0.181835705386208,   0.15313885946780492,
                                          0.14797656301431319};
};

// c[0] + c[1] x + ...
template <class V, int n> FBP_INLINE V polynomial(V x, const double (&c)[n]) {
  V y = R<V>(c[n - 1]);
  FBP_UNROLL for (int i = n - 2; i >= 0; i--) y = y * x + R<V>(c[i]);
  return y;
}

// x / ln2 rounded to the integer n, left in the low bits of the result as n + offset: adding 1.5 2^fraction_bits
// pushes the fraction out. << fraction_bits then makes 2^(n + offset - bias) of it; n itself is result - shifter.
template <class V> FBP_INLINE V shifter(int offset) { return R<V>(1.5 * Series<V>::two_fraction_bits + offset); }
template <class V> FBP_INLINE V shifted_n(V x, int offset) { return x * R<V>(1.4426950408889634) + shifter<V>(offset); }
template <class V> FBP_INLINE V minus_n_ln2(V x, V n) {
  return x - n * R<V>(Series<V>::ln2_hi) - n * R<V>(Series<V>::ln2_lo);
}

template <class V> FBP_INLINE V exp_of(V x) {
  typedef Series<V> S;
  x = MIN(MAX(x, R<V>(S::exp_is_0)), R<V>(S::exp_is_inf));
  V shifted = shifted_n(x, 2 * S::bias);
  V r = minus_n_ln2(x, shifted - shifter<V>(2 * S::bias));
  V y = (polynomial(r, S::expm1_tail) * r + R<V>(1)) * r + R<V>(1);
  // n reaches from below the subnormals to one above the largest exponent: 2^n = 2^floor(n/2) 2^ceil(n/2), of
  // which only the last product rounds.
  Bits<V> floor_half = bits(shifted) >> 1 << S::fraction_bits;
  Bits<V> ceil_half = (bits(shifted) << S::fraction_bits) - floor_half;
  return y * from_bits(floor_half) * from_bits(ceil_half);
}

template <class V> FBP_INLINE V expm1_of(V x) {
  typedef Series<V> S;
  x = MIN(MAX(x, R<V>(S::expm1_is_minus_1)), R<V>(S::exp_is_inf));
  V shifted = shifted_n(x, S::bias - 1), n = shifted - shifter<V>(S::bias - 1);
  V r = minus_n_ln2(x, n);
  V y = (polynomial(r, S::expm1_tail) * r + R<V>(1)) * r;   // not r + r^2 (...): that is +0 for r = -0
  // Half of it first, as 2^n overflows before expm1 does; but halving loses the last bit of a subnormal.
  V half_scale = from_bits(bits(shifted) << S::fraction_bits);
  return WHERE(n == R<V>(0), y, (y * half_scale + (half_scale - R<V>(0.5))) * R<V>(2));
}

template <class V> FBP_INLINE V tanh_of(V x) {
  typedef Series<V> S;
  V twice = MIN(ABS(x) + ABS(x), R<V>(S::tanh_of_half_is_1));
  V shifted = shifted_n(twice, S::bias);
  // ln2 in one part will do: the error grows with n, and what tanh keeps of it shrinks as 2^-n.
  V r = twice - (shifted - shifter<V>(S::bias)) * R<V>(0.69314718055994531);
  V y = r + r * r * polynomial(r, S::expm1_tail);
  V scale = from_bits(bits(shifted) << S::fraction_bits);
  V e = y * scale + (scale - R<V>(1));   // expm1(2|x|)
  V magnitude = e / (e + R<V>(2));
  return from_bits(bits(magnitude) | (bits(x) & bits(R<V>(-0.0))));
}

// u = 2^e m with m in [sqrt(1/2), sqrt(2)), for u positive, normal and finite.
template <class V> struct Exponent {
  V e;
  Bits<V> field;   // e << fraction_bits: taken from the bits of a float, it divides by 2^e
};
template <class V> FBP_INLINE Exponent<V> exponent(V u, V bias) {
  typedef Series<V> S;
  Bits<V> biased = (bits(u) + (bits(R<V>(1)) - bits(R<V>(0.70710678118654752)))) >> S::fraction_bits;
  // There is no conversion from 64-bit integers before AVX-512: or-ed into the fraction of 2^fraction_bits.
  V e = from_bits(biased | bits(R<V>(S::two_fraction_bits))) - (bias + R<V>(S::two_fraction_bits));
  return {e, (biased << S::fraction_bits) - bits(R<V>(1))};
}

// log1p(f) - f, for 1 + f in [sqrt(1/2), sqrt(2)). In double the division replaces more than ten coefficients,
// in float it would be the slower way.
FBP_INLINE VF log1p_minus_f(VF f) { return f * f * polynomial(f, Series<VF>::log1p_tail); }
FBP_INLINE VD log1p_minus_f(VD f) {
  VD s = f / (f + R<VD>(2)), s2 = s * s, half_f2 = f * f * R<VD>(0.5);
  return s * (half_f2 + s2 * polynomial(s2, Series<VD>::log1p_tail)) - half_f2;
}

// log(1 + f) + e ln2, and the special values of an argument x whose pole is at `pole`.
template <class V> FBP_INLINE V log_from(V x, double pole, V e, V f) {
  typedef Series<V> S;
  V y = e * R<V>(S::ln2_hi) + (f + (log1p_minus_f(f) + e * R<V>(S::ln2_lo)));
  V outside = WHERE(x < R<V>(pole), R<V>(__builtin_nan("")), R<V>(-__builtin_inf()));
  return WHERE(x < R<V>(__builtin_inf()), WHERE(x > R<V>(pole), y, outside), x);
}

template <class V> FBP_INLINE V log_of(V x) {
  typedef Series<V> S;
  auto subnormal = x < R<V>(S::least_normal);
  V u = WHERE(subnormal, x * R<V>(S::two_fraction_bits), x);
  Exponent<V> p = exponent(u, WHERE(subnormal, R<V>(S::bias + S::fraction_bits), R<V>(S::bias)));
  return log_from(x, 0, p.e, from_bits(bits(u) - p.field) - R<V>(1));
}

template <class V> FBP_INLINE V log1p_of(V x) {
  typedef Series<V> S;
  Exponent<V> p = exponent(x + R<V>(1), R<V>(S::bias));
  // f = x 2^-e + (2^-e - 1), rounded once, and x itself where e = 0. Twice 2^-e, as the largest e makes 2^-e
  // subnormal, where subtracting from the bits would give nonsense; its double comes out as 0, near enough.
  V twice_scale = from_bits(bits(R<V>(2)) - p.field);
  V f = from_bits(bits(x) - p.field) + (twice_scale * R<V>(0.5) - R<V>(1));
  return WHERE(x == R<V>(0), x, log_from(x, -1, p.e, f));   // -0 would come out as +0
}

FBP_INLINE VF EXP(VF x) { return exp_of(x); }
FBP_INLINE VD EXP(VD x) { return exp_of(x); }
FBP_INLINE VF EXPM1(VF x) { return expm1_of(x); }
FBP_INLINE VD EXPM1(VD x) { return expm1_of(x); }
FBP_INLINE VF LOG(VF x) { return log_of(x); }
FBP_INLINE VD LOG(VD x) { return log_of(x); }
FBP_INLINE VF LOG1P(VF x) { return log1p_of(x); }
FBP_INLINE VD LOG1P(VD x) { return log1p_of(x); }
FBP_INLINE VF TANH(VF x) { return tanh_of(x); }
FBP_INLINE VD TANH(VD x) { return tanh_of(x); }
