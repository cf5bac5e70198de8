// Rendered by `make rows` from the tables of fastbp/: edit those, not this file.
// Included by isa.hpp inside the ISA's namespace, after simd.hpp and math.hpp; engine.pyx takes FBP_ROWS alone.
#define FBP_ROWS 0x8ba61c64u
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

#define FBP_ACTIVATIONS(ROW) \
  ROW(identity) ROW(relu) ROW(tanh) ROW(sigmoid) ROW(leaky_relu) ROW(softplus) ROW(gelu) ROW(silu) ROW(elu)

struct loss_mse {
  enum { uses_lse = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V lse) {
    const Constant<V> R{}; (void)R, (void)lse;
    return (z - t) * (z - t);
  }
  template <class V> FBP_INLINE V grad(V z, V t, V lse) {
    const Constant<V> R{}; (void)R, (void)lse;
    return R(2.0) * (z - t);
  }
};

struct loss_half_squared_error {
  enum { uses_lse = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V lse) {
    const Constant<V> R{}; (void)R, (void)lse;
    return R(0.5) * (z - t) * (z - t);
  }
  template <class V> FBP_INLINE V grad(V z, V t, V lse) {
    const Constant<V> R{}; (void)R, (void)lse;
    return z - t;
  }
};

struct loss_softmax_cross_entropy {
  enum { uses_lse = 1 };
  template <class V> FBP_INLINE V value(V z, V t, V lse) {
    const Constant<V> R{}; (void)R, (void)lse;
    return t * (lse - z);
  }
  template <class V> FBP_INLINE V grad(V z, V t, V lse) {
    const Constant<V> R{}; (void)R, (void)lse;
    return EXP(z - lse) - t;
  }
};

struct loss_binary_cross_entropy {
  enum { uses_lse = 0 };
  template <class V> FBP_INLINE V value(V z, V t, V lse) {
    const Constant<V> R{}; (void)R, (void)lse;
    return MAX(z, R(0.0)) - z * t + LOG1P(EXP(-ABS(z)));
  }
  template <class V> FBP_INLINE V grad(V z, V t, V lse) {
    const Constant<V> R{}; (void)R, (void)lse;
    return WHERE(z < R(0.0), EXP(-ABS(z)), R(1.0)) / (R(1.0) + EXP(-ABS(z))) - t;
  }
};

#define FBP_LOSSES(ROW) \
  ROW(mse) ROW(half_squared_error) ROW(softmax_cross_entropy) ROW(binary_cross_entropy)

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

#define FBP_OPTIMIZERS(ROW) \
  ROW(sgd) ROW(sgd_decay) ROW(sgd_momentum) ROW(sgd_nesterov)
#endif
