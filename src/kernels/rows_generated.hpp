// Rendered by `make rows` from the tables of fastbp/: edit those, not this file.
// Included by isa.hpp inside the ISA's namespace, after simd.hpp and math.hpp; others take FBP_ROWS and lists.
#define FBP_ROWS 0xe56a0b88u
#ifdef FBP_INLINE

struct activation_identity {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return z;
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return g;
  }
};

struct activation_relu {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return MAX(z, R(0.0));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return WHERE(a <= R(0.0), R(0.0), g);
  }
};

struct activation_tanh {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return TANH(z);
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return g * (R(1.0) - a * a);
  }
};

struct activation_sigmoid {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return WHERE(z < R(0.0), EXP(-ABS(z)), R(1.0)) / (R(1.0) + EXP(-ABS(z)));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return g * (a * (R(1.0) - a));
  }
};

struct activation_leaky_relu {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return WHERE(z > R(0.0), z, R(0.01) * z);
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return WHERE(a > R(0.0), g, R(0.01) * g);
  }
};

struct activation_softplus {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return MAX(z, R(0.0)) + LOG1P(EXP(-ABS(z)));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return g * -EXPM1(-a);
  }
};

struct activation_gelu {
  enum { keeps_z = 1 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return R(0.5) * z * (R(1.0) + TANH(R(0.7978845608028654) * (z + R(0.044715) * z * z * z)));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return g * (R(0.5) * (R(1.0) + TANH(R(0.7978845608028654) * (MIN(MAX(z, -R(10.0)), R(10.0)) + R(0.044715) * MIN(MAX(z, -R(10.0)), R(10.0)) * MIN(MAX(z, -R(10.0)), R(10.0)) * MIN(MAX(z, -R(10.0)), R(10.0))))) + R(0.5) * MIN(MAX(z, -R(10.0)), R(10.0)) * (R(1.0) - TANH(R(0.7978845608028654) * (MIN(MAX(z, -R(10.0)), R(10.0)) + R(0.044715) * MIN(MAX(z, -R(10.0)), R(10.0)) * MIN(MAX(z, -R(10.0)), R(10.0)) * MIN(MAX(z, -R(10.0)), R(10.0)))) * TANH(R(0.7978845608028654) * (MIN(MAX(z, -R(10.0)), R(10.0)) + R(0.044715) * MIN(MAX(z, -R(10.0)), R(10.0)) * MIN(MAX(z, -R(10.0)), R(10.0)) * MIN(MAX(z, -R(10.0)), R(10.0))))) * R(0.7978845608028654) * (R(1.0) + R(0.134145) * MIN(MAX(z, -R(10.0)), R(10.0)) * MIN(MAX(z, -R(10.0)), R(10.0))));
  }
};

struct activation_silu {
  enum { keeps_z = 1 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return z * (WHERE(z < R(0.0), EXP(-ABS(z)), R(1.0)) / (R(1.0) + EXP(-ABS(z))));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return g * (WHERE(z < R(0.0), EXP(-ABS(z)), R(1.0)) / (R(1.0) + EXP(-ABS(z))) + a * (R(1.0) - WHERE(z < R(0.0), EXP(-ABS(z)), R(1.0)) / (R(1.0) + EXP(-ABS(z)))));
  }
};

struct activation_elu {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return WHERE(z > R(0.0), z, EXPM1(MIN(z, R(0.0))));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return WHERE(a > R(0.0), g, g * (a + R(1.0)));
  }
};

struct activation_selu {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return WHERE(z > R(0.0), R(1.0507009873554805) * z, R(1.7580993408473766) * EXPM1(MIN(z, R(0.0))));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return WHERE(a > R(0.0), R(1.0507009873554805) * g, g * (a + R(1.7580993408473766)));
  }
};

struct activation_mish {
  enum { keeps_z = 1 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return z * (WHERE(z < R(0.0), EXP(-ABS(z)) * (EXP(-ABS(z)) + R(2.0)), R(1.0) + R(2.0) * EXP(-ABS(z))) / (WHERE(z < R(0.0), EXP(-ABS(z)) * (EXP(-ABS(z)) + R(2.0)), R(1.0) + R(2.0) * EXP(-ABS(z))) + WHERE(z < R(0.0), R(2.0), R(2.0) * EXP(-ABS(z)) * EXP(-ABS(z)))));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return g * (WHERE(z < R(0.0), EXP(-ABS(z)) * (EXP(-ABS(z)) + R(2.0)), R(1.0) + R(2.0) * EXP(-ABS(z))) / (WHERE(z < R(0.0), EXP(-ABS(z)) * (EXP(-ABS(z)) + R(2.0)), R(1.0) + R(2.0) * EXP(-ABS(z))) + WHERE(z < R(0.0), R(2.0), R(2.0) * EXP(-ABS(z)) * EXP(-ABS(z)))) + z * (R(4.0) * EXP(-ABS(z)) * (R(1.0) + EXP(-ABS(z))) * WHERE(z < R(0.0), R(1.0), EXP(-ABS(z))) / ((WHERE(z < R(0.0), EXP(-ABS(z)) * (EXP(-ABS(z)) + R(2.0)), R(1.0) + R(2.0) * EXP(-ABS(z))) + WHERE(z < R(0.0), R(2.0), R(2.0) * EXP(-ABS(z)) * EXP(-ABS(z)))) * (WHERE(z < R(0.0), EXP(-ABS(z)) * (EXP(-ABS(z)) + R(2.0)), R(1.0) + R(2.0) * EXP(-ABS(z))) + WHERE(z < R(0.0), R(2.0), R(2.0) * EXP(-ABS(z)) * EXP(-ABS(z)))))));
  }
};

struct activation_hard_sigmoid {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return MIN(MAX(z + R(3.0), R(0.0)), R(6.0)) / R(6.0);
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return WHERE(a <= R(0.0), R(0.0), WHERE(a >= R(1.0), R(0.0), g / R(6.0)));
  }
};

struct activation_hard_tanh {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return MIN(MAX(z, -R(1.0)), R(1.0));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return WHERE(a <= -R(1.0), R(0.0), WHERE(a >= R(1.0), R(0.0), g));
  }
};

struct activation_hard_swish {
  enum { keeps_z = 1 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return z * (MIN(MAX(z + R(3.0), R(0.0)), R(6.0)) / R(6.0));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return g * WHERE(z <= -R(3.0), R(0.0), WHERE(z >= R(3.0), R(1.0), z / R(3.0) + R(0.5)));
  }
};

struct activation_softsign {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return z / (R(1.0) + ABS(z));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return g * ((R(1.0) - ABS(a)) * (R(1.0) - ABS(a)));
  }
};

struct activation_gaussian {
  enum { keeps_z = 1 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return EXP(-(z * z));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return g * (-R(2.0) * (z * a));
  }
};

struct activation_exp {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return EXP(z);
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return g * a;
  }
};

struct activation_relu6 {
  enum { keeps_z = 0 };
  template <class V> FBP_INLINE V forward(V z) {
    const Constant<V> R{}; (void)R;
    return MIN(MAX(z, R(0.0)), R(6.0));
  }
  template <class V> FBP_INLINE V backward(V g, V a, V z) {
    const Constant<V> R{}; (void)R, (void)a, (void)z;
    return WHERE(a <= R(0.0), R(0.0), WHERE(a >= R(6.0), R(0.0), g));
  }
};

struct loss_mse {
  enum { uses_lse = 0, pairs = 0, settings = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return (z - t) * (z - t);
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return R(2.0) * (z - t);
  }
};

struct loss_half_squared_error {
  enum { uses_lse = 0, pairs = 0, settings = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return R(0.5) * (z - t) * (z - t);
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return z - t;
  }
};

struct loss_softmax_cross_entropy {
  enum { uses_lse = 1, pairs = 0, settings = 3 };
  template <class V> FBP_INLINE V value(V z, V t, V lse, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)lse, (void)setting;
    const V label_smoothing = setting[0]; (void)label_smoothing;
    const V kept = setting[1]; (void)kept;
    const V spread = setting[2]; (void)spread;
    return (t * kept + spread) * (lse - z);
  }
  template <class V> FBP_INLINE V grad(V z, V t, V lse, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)lse, (void)setting;
    const V label_smoothing = setting[0]; (void)label_smoothing;
    const V kept = setting[1]; (void)kept;
    const V spread = setting[2]; (void)spread;
    return EXP(z - lse) - (t * kept + spread);
  }
};

struct loss_binary_cross_entropy {
  enum { uses_lse = 0, pairs = 0, settings = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return MAX(z, R(0.0)) - z * t + LOG1P(EXP(-ABS(z)));
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return WHERE(z < R(0.0), EXP(-ABS(z)), R(1.0)) / (R(1.0) + EXP(-ABS(z))) - t;
  }
};

struct loss_mae {
  enum { uses_lse = 0, pairs = 0, settings = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return ABS(z - t);
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return WHERE(z > t, R(1.0), WHERE(z < t, -R(1.0), z - t));
  }
};

struct loss_huber {
  enum { uses_lse = 0, pairs = 0, settings = 1 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    const V delta = setting[0]; (void)delta;
    return MIN(ABS(z - t), delta) * (ABS(z - t) - R(0.5) * MIN(ABS(z - t), delta));
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    const V delta = setting[0]; (void)delta;
    return MIN(MAX(z - t, -delta), delta);
  }
};

struct loss_log_cosh {
  enum { uses_lse = 0, pairs = 0, settings = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return WHERE(ABS(z - t) < R(1.0), LOG1P(EXPM1(-ABS(z - t)) * EXPM1(-ABS(z - t)) / (R(2.0) * (R(1.0) + EXPM1(-ABS(z - t))))), ABS(z - t) + (LOG1P(EXP(-R(2.0) * ABS(z - t))) - R(0.6931471805599453)));
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return TANH(z - t);
  }
};

struct loss_quantile {
  enum { uses_lse = 0, pairs = 0, settings = 1 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    const V quantile = setting[0]; (void)quantile;
    return MAX(quantile * (t - z), (quantile - R(1.0)) * (t - z));
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    const V quantile = setting[0]; (void)quantile;
    return WHERE(z < t, -quantile, WHERE(z > t, R(1.0) - quantile, z - t));
  }
};

struct loss_poisson {
  enum { uses_lse = 0, pairs = 0, settings = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return EXP(z) - t * z;
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return EXP(z) - t;
  }
};

struct loss_poisson_deviance {
  enum { uses_lse = 0, pairs = 0, settings = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return EXP(z) - t * z + (t * LOG(WHERE(t > R(0.0), t, R(1.0))) - t);
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return EXP(z) - t;
  }
};

struct loss_gamma {
  enum { uses_lse = 0, pairs = 0, settings = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return z + t * EXP(-z);
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return R(1.0) - t * EXP(-z);
  }
};

struct loss_tweedie {
  enum { uses_lse = 0, pairs = 0, settings = 3 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    const V power = setting[0]; (void)power;
    const V up = setting[1]; (void)up;
    const V down = setting[2]; (void)down;
    return EXP(up * z) / up - WHERE(t > R(0.0), t * EXP(down * z), R(0.0)) / down;
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    const V power = setting[0]; (void)power;
    const V up = setting[1]; (void)up;
    const V down = setting[2]; (void)down;
    return EXP(up * z) - WHERE(t > R(0.0), t * EXP(down * z), R(0.0));
  }
};

struct loss_gaussian_nll {
  enum { uses_lse = 0, pairs = 1, settings = 2 };
  template <class V> FBP_INLINE V value(V z, V t, V s, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)s, (void)setting;
    const V eps = setting[0]; (void)eps;
    const V log_eps = setting[1]; (void)log_eps;
    return R(0.5) * (MAX(s, log_eps) + (z - t) * EXP(-R(0.5) * MAX(s, log_eps)) * ((z - t) * EXP(-R(0.5) * MAX(s, log_eps))));
  }
  template <class V> FBP_INLINE V grad(V z, V t, V s, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)s, (void)setting;
    const V eps = setting[0]; (void)eps;
    const V log_eps = setting[1]; (void)log_eps;
    return (z - t) * EXP(-R(0.5) * MAX(s, log_eps)) * EXP(-R(0.5) * MAX(s, log_eps));
  }
  template <class V> FBP_INLINE V grad_s(V z, V t, V s, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)s, (void)setting;
    const V eps = setting[0]; (void)eps;
    const V log_eps = setting[1]; (void)log_eps;
    return R(0.5) * (R(1.0) - (z - t) * EXP(-R(0.5) * MAX(s, log_eps)) * ((z - t) * EXP(-R(0.5) * MAX(s, log_eps)))) * EXP(s - MAX(s, log_eps));
  }
};

struct loss_hinge {
  enum { uses_lse = 0, pairs = 0, settings = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return MAX(R(1.0) - z * t, R(0.0));
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return WHERE(z * t < R(1.0), -t, WHERE(z * t >= R(1.0), R(0.0), z));
  }
};

struct loss_squared_hinge {
  enum { uses_lse = 0, pairs = 0, settings = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return MAX(R(1.0) - z * t, R(0.0)) * MAX(R(1.0) - z * t, R(0.0));
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    return -R(2.0) * t * MAX(R(1.0) - z * t, R(0.0));
  }
};

struct loss_focal {
  enum { uses_lse = 0, pairs = 0, settings = 4 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    const V gamma = setting[0]; (void)gamma;
    const V alpha = setting[1]; (void)alpha;
    const V positive = setting[2]; (void)positive;
    const V negative = setting[3]; (void)negative;
    return (positive * t + negative * (R(1.0) - t)) * EXP(gamma * (LOG(WHERE(WHERE(z < R(0.0), (R(1.0) - t) * EXP(-ABS(z)) + t, R(1.0) - t + t * EXP(-ABS(z))) > R(0.0), WHERE(z < R(0.0), (R(1.0) - t) * EXP(-ABS(z)) + t, R(1.0) - t + t * EXP(-ABS(z))), R(1.0))) - LOG1P(EXP(-ABS(z))))) * (MAX(z, R(0.0)) - z * t + LOG1P(EXP(-ABS(z))));
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    const V gamma = setting[0]; (void)gamma;
    const V alpha = setting[1]; (void)alpha;
    const V positive = setting[2]; (void)positive;
    const V negative = setting[3]; (void)negative;
    return (positive * t + negative * (R(1.0) - t)) * EXP(gamma * (LOG(WHERE(WHERE(z < R(0.0), (R(1.0) - t) * EXP(-ABS(z)) + t, R(1.0) - t + t * EXP(-ABS(z))) > R(0.0), WHERE(z < R(0.0), (R(1.0) - t) * EXP(-ABS(z)) + t, R(1.0) - t + t * EXP(-ABS(z))), R(1.0))) - LOG1P(EXP(-ABS(z))))) * (WHERE(z < R(0.0), EXP(-ABS(z)), R(1.0)) / (R(1.0) + EXP(-ABS(z))) - t + gamma * (MAX(z, R(0.0)) - z * t + LOG1P(EXP(-ABS(z)))) * (R(1.0) - R(2.0) * t) * (EXP(-ABS(z)) / ((R(1.0) + EXP(-ABS(z))) * WHERE(WHERE(z < R(0.0), (R(1.0) - t) * EXP(-ABS(z)) + t, R(1.0) - t + t * EXP(-ABS(z))) > R(0.0), WHERE(z < R(0.0), (R(1.0) - t) * EXP(-ABS(z)) + t, R(1.0) - t + t * EXP(-ABS(z))), R(1.0)))));
  }
};

struct loss_kl_divergence {
  enum { uses_lse = 1, pairs = 0, settings = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V lse, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)lse, (void)setting;
    return t * (LOG(WHERE(t > R(0.0), t, R(1.0))) + (lse - z));
  }
  template <class V> FBP_INLINE V grad(V z, V t, V lse, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)lse, (void)setting;
    return EXP(z - lse) - t;
  }
};

struct loss_softmax_log_loss {
  enum { uses_lse = 1, pairs = 0, settings = 2 };
  template <class V> FBP_INLINE V value(V z, V t, V lse, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)lse, (void)setting;
    const V eps = setting[0]; (void)eps;
    const V most = setting[1]; (void)most;
    return t * MIN(lse - z, most);
  }
  template <class V> FBP_INLINE V grad(V z, V t, V lse, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)lse, (void)setting;
    const V eps = setting[0]; (void)eps;
    const V most = setting[1]; (void)most;
    return EXP(z - lse) - t;
  }
};

struct loss_binary_log_loss {
  enum { uses_lse = 0, pairs = 0, settings = 2 };
  template <class V> FBP_INLINE V value(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    const V eps = setting[0]; (void)eps;
    const V most = setting[1]; (void)most;
    return -(t * LOG(MIN(MAX(R(1.0) / (R(1.0) + EXP(-z)), eps), most)) + (R(1.0) - t) * LOG(R(1.0) - MIN(MAX(R(1.0) / (R(1.0) + EXP(-z)), eps), most)));
  }
  template <class V> FBP_INLINE V grad(V z, V t, V _, const V* setting) {
    const Constant<V> R{}; (void)R, (void)z, (void)t, (void)_, (void)setting;
    const V eps = setting[0]; (void)eps;
    const V most = setting[1]; (void)most;
    return WHERE(z < R(0.0), EXP(-ABS(z)), R(1.0)) / (R(1.0) + EXP(-ABS(z))) - t;
  }
};

struct optimizer_sgd {
  enum { states = 0, scalars = 1 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    const V lr = scalar[0];
    p = p - lr * g;
    return p;
  }
};

struct optimizer_sgd_decay {
  enum { states = 0, scalars = 2 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    g = g + weight_decay * p;
    p = p - lr * g;
    return p;
  }
};

struct optimizer_sgd_clipped {
  enum { states = 0, scalars = 3 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    const V clip_value = scalar[2];
    g = MAX(MIN(g, clip_value), -clip_value);
    g = g + weight_decay * p;
    p = p - lr * g;
    return p;
  }
};

struct optimizer_sgd_momentum {
  enum { states = 1, scalars = 3 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V velocity = state[0];
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    const V momentum = scalar[2];
    g = g + weight_decay * p;
    velocity = momentum * velocity + g;
    p = p - lr * velocity;
    state[0] = velocity;
    return p;
  }
};

struct optimizer_sgd_nesterov {
  enum { states = 1, scalars = 3 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V velocity = state[0];
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    const V momentum = scalar[2];
    g = g + weight_decay * p;
    velocity = momentum * velocity + g;
    p = p - lr * (g + momentum * velocity);
    state[0] = velocity;
    return p;
  }
};

struct optimizer_sgd_velocity {
  enum { states = 1, scalars = 3 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V velocity = state[0];
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    const V momentum = scalar[2];
    g = g + weight_decay * p;
    velocity = momentum * velocity - lr * g;
    p = p + velocity;
    state[0] = velocity;
    return p;
  }
};

struct optimizer_sgd_velocity_nesterov {
  enum { states = 1, scalars = 3 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V velocity = state[0];
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    const V momentum = scalar[2];
    g = g + weight_decay * p;
    velocity = momentum * velocity - lr * g;
    p = p + (momentum * velocity - lr * g);
    state[0] = velocity;
    return p;
  }
};

struct optimizer_adam {
  enum { states = 2, scalars = 9 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V mean = state[0];
    V square = state[1];
    const V step_size = scalar[0];
    const V root = scalar[1];
    const V beta1 = scalar[2];
    const V rest1 = scalar[3];
    const V beta2 = scalar[4];
    const V rest2 = scalar[5];
    const V eps = scalar[6];
    const V weight_decay = scalar[7];
    const V kept = scalar[8];
    g = g + weight_decay * p;
    mean = beta1 * mean + rest1 * g;
    square = beta2 * square + rest2 * g * g;
    p = p * kept - step_size * mean / (SQRT(square) * root + eps);
    state[0] = mean;
    state[1] = square;
    return p;
  }
};

struct optimizer_adam_amsgrad {
  enum { states = 3, scalars = 9 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V mean = state[0];
    V square = state[1];
    V largest = state[2];
    const V step_size = scalar[0];
    const V root = scalar[1];
    const V beta1 = scalar[2];
    const V rest1 = scalar[3];
    const V beta2 = scalar[4];
    const V rest2 = scalar[5];
    const V eps = scalar[6];
    const V weight_decay = scalar[7];
    const V kept = scalar[8];
    g = g + weight_decay * p;
    mean = beta1 * mean + rest1 * g;
    square = beta2 * square + rest2 * g * g;
    largest = MAX(largest, square);
    p = p * kept - step_size * mean / (SQRT(largest) * root + eps);
    state[0] = mean;
    state[1] = square;
    state[2] = largest;
    return p;
  }
};

struct optimizer_nadam {
  enum { states = 2, scalars = 9 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V mean = state[0];
    V square = state[1];
    const V step_size = scalar[0];
    const V root = scalar[1];
    const V beta1 = scalar[2];
    const V rest1 = scalar[3];
    const V beta2 = scalar[4];
    const V rest2 = scalar[5];
    const V eps = scalar[6];
    const V weight_decay = scalar[7];
    const V gradient_size = scalar[8];
    g = g + weight_decay * p;
    mean = beta1 * mean + rest1 * g;
    square = beta2 * square + rest2 * g * g;
    p = p - (gradient_size * g + step_size * mean) / (SQRT(square) * root + eps);
    state[0] = mean;
    state[1] = square;
    return p;
  }
};

struct optimizer_radam {
  enum { states = 2, scalars = 8 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V mean = state[0];
    V square = state[1];
    const V step_size = scalar[0];
    const V rectified = scalar[1];
    const V beta1 = scalar[2];
    const V rest1 = scalar[3];
    const V beta2 = scalar[4];
    const V rest2 = scalar[5];
    const V eps = scalar[6];
    const V weight_decay = scalar[7];
    g = g + weight_decay * p;
    mean = beta1 * mean + rest1 * g;
    square = beta2 * square + rest2 * g * g;
    p = p - step_size * mean * WHERE(rectified > R(0.0), rectified / (SQRT(square) + eps), R(1.0));
    state[0] = mean;
    state[1] = square;
    return p;
  }
};

struct optimizer_rmsprop {
  enum { states = 1, scalars = 5 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V square = state[0];
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    const V alpha = scalar[2];
    const V rest = scalar[3];
    const V eps = scalar[4];
    g = g + weight_decay * p;
    square = alpha * square + rest * g * g;
    p = p - lr * g / (SQRT(square) + eps);
    state[0] = square;
    return p;
  }
};

struct optimizer_rmsprop_momentum {
  enum { states = 2, scalars = 6 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V square = state[0];
    V velocity = state[1];
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    const V alpha = scalar[2];
    const V rest = scalar[3];
    const V eps = scalar[4];
    const V momentum = scalar[5];
    g = g + weight_decay * p;
    square = alpha * square + rest * g * g;
    velocity = momentum * velocity + g / (SQRT(square) + eps);
    p = p - lr * velocity;
    state[0] = square;
    state[1] = velocity;
    return p;
  }
};

struct optimizer_rmsprop_centered {
  enum { states = 2, scalars = 5 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V square = state[0];
    V mean = state[1];
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    const V alpha = scalar[2];
    const V rest = scalar[3];
    const V eps = scalar[4];
    g = g + weight_decay * p;
    square = alpha * square + rest * g * g;
    mean = alpha * mean + rest * g;
    p = p - lr * g / (SQRT(MAX(square - mean * mean, R(0.0))) + eps);
    state[0] = square;
    state[1] = mean;
    return p;
  }
};

struct optimizer_rmsprop_centered_momentum {
  enum { states = 3, scalars = 6 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V square = state[0];
    V mean = state[1];
    V velocity = state[2];
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    const V alpha = scalar[2];
    const V rest = scalar[3];
    const V eps = scalar[4];
    const V momentum = scalar[5];
    g = g + weight_decay * p;
    square = alpha * square + rest * g * g;
    mean = alpha * mean + rest * g;
    velocity = momentum * velocity + g / (SQRT(MAX(square - mean * mean, R(0.0))) + eps);
    p = p - lr * velocity;
    state[0] = square;
    state[1] = mean;
    state[2] = velocity;
    return p;
  }
};

struct optimizer_adagrad {
  enum { states = 1, scalars = 4 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V total = state[0];
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    const V initial = scalar[2];
    const V eps = scalar[3];
    g = g + weight_decay * p;
    total = total + g * g;
    p = p - lr * g / (SQRT(total + initial) + eps);
    state[0] = total;
    return p;
  }
};

struct optimizer_adadelta {
  enum { states = 2, scalars = 5 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V square = state[0];
    V moved = state[1];
    const V lr = scalar[0];
    const V weight_decay = scalar[1];
    const V rho = scalar[2];
    const V rest = scalar[3];
    const V eps = scalar[4];
    g = g + weight_decay * p;
    square = rho * square + rest * g * g;
    g = SQRT(moved + eps) / SQRT(square + eps) * g;
    moved = rho * moved + rest * g * g;
    p = p - lr * g;
    state[0] = square;
    state[1] = moved;
    return p;
  }
};

struct optimizer_lion {
  enum { states = 1, scalars = 6 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V mean = state[0];
    const V lr = scalar[0];
    const V kept = scalar[1];
    const V beta1 = scalar[2];
    const V rest1 = scalar[3];
    const V beta2 = scalar[4];
    const V rest2 = scalar[5];
    p = p * kept - lr * WHERE(beta1 * mean + rest1 * g > R(0.0), R(1.0), WHERE(beta1 * mean + rest1 * g < R(0.0), -R(1.0), beta1 * mean + rest1 * g));
    mean = beta2 * mean + rest2 * g;
    state[0] = mean;
    return p;
  }
};

struct optimizer_rprop {
  enum { states = 2, scalars = 5 };
  template <class V> FBP_INLINE V update(V p, V g, V* state, const V* scalar) {
    const Constant<V> R{}; (void)R, (void)state;
    V before = state[0];
    V size = state[1];
    const V lr = scalar[0];
    const V smaller = scalar[1];
    const V larger = scalar[2];
    const V least = scalar[3];
    const V most = scalar[4];
    size = WHERE(size > R(0.0), size, lr);
    size = MIN(MAX(size * WHERE(g * before > R(0.0), larger, WHERE(g * before < R(0.0), smaller, R(1.0))), least), most);
    g = WHERE(g * before < R(0.0), R(0.0), g);
    before = g;
    p = p - size * WHERE(g > R(0.0), R(1.0), WHERE(g < R(0.0), -R(1.0), g));
    state[0] = before;
    state[1] = size;
    return p;
  }
};
#endif

#define FBP_ACTIVATIONS(ROW) \
  ROW(identity) ROW(relu) ROW(tanh) ROW(sigmoid) ROW(leaky_relu) ROW(softplus) ROW(gelu) ROW(silu) ROW(elu) ROW(selu) ROW(mish) ROW(hard_sigmoid) ROW(hard_tanh) ROW(hard_swish) ROW(softsign) ROW(gaussian) ROW(exp) ROW(relu6)

#define FBP_LOSSES(ROW) \
  ROW(mse) ROW(half_squared_error) ROW(softmax_cross_entropy) ROW(binary_cross_entropy) ROW(mae) ROW(huber) ROW(log_cosh) ROW(quantile) ROW(poisson) ROW(poisson_deviance) ROW(gamma) ROW(tweedie) ROW(gaussian_nll) ROW(hinge) ROW(squared_hinge) ROW(focal) ROW(kl_divergence) ROW(softmax_log_loss) ROW(binary_log_loss)

#define FBP_OPTIMIZERS(ROW) \
  ROW(sgd) ROW(sgd_decay) ROW(sgd_clipped) ROW(sgd_momentum) ROW(sgd_nesterov) ROW(sgd_velocity) ROW(sgd_velocity_nesterov) ROW(adam) ROW(adam_amsgrad) ROW(nadam) ROW(radam) ROW(rmsprop) ROW(rmsprop_momentum) ROW(rmsprop_centered) ROW(rmsprop_centered_momentum) ROW(adagrad) ROW(adadelta) ROW(lion) ROW(rprop)

#define FBP_KEEP_Z(ROW) \
  ROW(gelu) ROW(silu) ROW(mish) ROW(hard_swish) ROW(gaussian)
