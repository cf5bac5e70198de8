"""The table of activations. A new one is one row here, then ``make rows``.

Pinned values are (z, a, da/dz) in float64 as PyTorch 2.13 gives them (``torch.nn.functional`` with autograd). The
derivatives at kinks are PyTorch's too: each row's note has them. docs/activations.md shows each row and its picture.
"""

from __future__ import annotations

from fastbp.rows import Activation

_SIGMOID = "WHERE(z < 0, EXP(-ABS(z)), 1) / (1 + EXP(-ABS(z)))"  # the exponential never overflows
_GELU_INNER = "0.7978845608028654 * (z + 0.044715 * z * z * z)"  # sqrt(2 / pi)
# From |z| = 10 on, tanh is 1 to the last bit of a double; the bound keeps 0 * inf out of the derivative.
_GELU_Z = "MIN(MAX(z, -10), 10)"
_GELU_TANH = f"TANH(0.7978845608028654 * ({_GELU_Z} + 0.044715 * {_GELU_Z} * {_GELU_Z} * {_GELU_Z}))"

_E = "EXP(-ABS(z))"
# mish: tanh(log(1 + exp(z))) = _RISE / _WHOLE, in an exponential that never overflows.
_RISE = f"WHERE(z < 0, {_E} * ({_E} + 2), 1 + 2 * {_E})"
_WHOLE = f"({_RISE} + WHERE(z < 0, 2, 2 * {_E} * {_E}))"
_SELU_SCALE, _SELU_SCALE_ALPHA = "1.0507009873554805", "1.7580993408473766"

_ROWS = (
    Activation("identity", "z", "g", ((-2.0, -2.0, 1.0), (0.75, 0.75, 1.0), (3.0, 3.0, 1.0))),
    # A NaN output hands g on: 0 would hide it.
    Activation("relu", "MAX(z, 0)", "WHERE(a <= 0, 0, g)", ((-2.0, 0.0, 0.0), (0.75, 0.75, 1.0), (3.0, 3.0, 1.0)),
               note="The derivative at 0 is 0."),
    Activation("tanh", "TANH(z)", "g * (1 - a * a)", (
        (-2.0, -0.9640275800758169, 0.07065082485316443),
        (0.75, 0.6351489523872873, 0.5965858082813315),
        (3.0, 0.9950547536867305, 0.009866037165440166))),
    Activation("sigmoid", _SIGMOID, "g * (a * (1 - a))", (
        (-2.0, 0.11920292202211755, 0.1049935854035065),
        (0.75, 0.679178699175393, 0.21789499376181404),
        (3.0, 0.9525741268224334, 0.045176659730912))),
    Activation("leaky_relu", "WHERE(z > 0, z, 0.01 * z)", "WHERE(a > 0, g, 0.01 * g)", (
        (-2.0, -0.02, 0.01), (0.75, 0.75, 1.0), (3.0, 3.0, 1.0)), note="The derivative at 0 is 0.01."),
    # da/dz = sigmoid(z) = 1 - exp(-a)
    Activation("softplus", "MAX(z, 0) + LOG1P(EXP(-ABS(z)))", "g * -EXPM1(-a)", (
        (-2.0, 0.1269280110429725, 0.11920292202211755),
        (0.75, 1.1368710061148999, 0.679178699175393),
        (3.0, 3.048587351573742, 0.9525741268224333))),
    Activation("gelu", f"0.5 * z * (1 + TANH({_GELU_INNER}))",
               f"g * (0.5 * (1 + {_GELU_TANH}) + 0.5 * {_GELU_Z} * (1 - {_GELU_TANH} * {_GELU_TANH})"
               f" * 0.7978845608028654 * (1 + 0.134145 * {_GELU_Z} * {_GELU_Z}))", (
        (-2.0, -0.04540230591222494, -0.0860992566236183),
        (0.75, 0.5799605551656203, 0.9989382561374143),
        (3.0, 2.996362607918227, 1.0115841666309695)),
        note="The tanh form of Hendrycks and Gimpel (2016), as PyTorch's approximate=\"tanh\"."),
    Activation("silu", f"z * ({_SIGMOID})", f"g * (({_SIGMOID}) + a * (1 - ({_SIGMOID})))", (
        (-2.0, -0.2384058440442351, -0.09078424878489547),
        (0.75, 0.5093840243815447, 0.8425999444967536),
        (3.0, 2.8577223804672998, 1.0881041060151693))),
    Activation("elu", "WHERE(z > 0, z, EXPM1(MIN(z, 0)))", "WHERE(a > 0, g, g * (a + 1))", (
        (-2.0, -0.8646647167633873, 0.1353352832366127),
        (0.75, 0.75, 1.0),
        (3.0, 3.0, 1.0)), note="alpha is 1, as in `celu`, which is the same function."),
    Activation("selu", f"WHERE(z > 0, {_SELU_SCALE} * z, {_SELU_SCALE_ALPHA} * EXPM1(MIN(z, 0)))",
               f"WHERE(a > 0, {_SELU_SCALE} * g, g * (a + {_SELU_SCALE_ALPHA}))", (
        (-2.0, -1.5201664685956948, 0.2379328722516818),
        (0.75, 0.7880257405166103, 1.0507009873554805),
        (3.0, 3.1521029620664414, 1.0507009873554805)), note="The derivative at 0 is that of the left, 1.758."),
    Activation("mish", f"z * ({_RISE} / {_WHOLE})",
               f"g * ({_RISE} / {_WHOLE} + z * (4 * {_E} * (1 + {_E}) * WHERE(z < 0, 1, {_E})"
               f" / ({_WHOLE} * {_WHOLE})))", (
        (-2.0, -0.2525014826957089, -0.1083550924203939),
        (0.75, 0.6100183352182934, 0.985758355716688),
        (3.0, 2.9865350049679575, 1.0211069109294435)), note="z tanh(log(1 + exp(z)))."),
    Activation("hard_sigmoid", "MIN(MAX(z + 3, 0), 6) / 6", "WHERE(a <= 0, 0, WHERE(a >= 1, 0, g / 6))", (
        (-4.0, 0.0, 0.0),
        (-2.0, 0.16666666666666666, 0.16666666666666666),
        (0.75, 0.625, 0.16666666666666666),
        (3.5, 1.0, 0.0)),
        note="The derivatives at -3 and 3 are 0; between them 1 / 6, which PyTorch rounds to float32."),
    Activation("hard_tanh", "MIN(MAX(z, -1), 1)", "WHERE(a <= -1, 0, WHERE(a >= 1, 0, g))", (
        (-2.0, -1.0, 0.0),
        (-0.5, -0.5, 1.0),
        (0.75, 0.75, 1.0),
        (3.0, 1.0, 0.0)), note="The derivatives at -1 and 1 are 0."),
    Activation("hard_swish", "z * (MIN(MAX(z + 3, 0), 6) / 6)",
               "g * WHERE(z <= -3, 0, WHERE(z >= 3, 1, z / 3 + 0.5))", (
        (-4.0, 0.0, 0.0),
        (-2.0, -0.3333333333333333, -0.16666666666666663),
        (0.75, 0.46875, 0.75),
        (3.5, 3.5, 1.0)), note="The derivatives at -3 and 3 are 0 and 1."),
    Activation("softsign", "z / (1 + ABS(z))", "g * ((1 - ABS(a)) * (1 - ABS(a)))", (
        (-2.0, -0.6666666666666666, 0.1111111111111111),
        (0.75, 0.42857142857142855, 0.32653061224489793),
        (3.0, 0.75, 0.0625))),
    Activation("gaussian", "EXP(-(z * z))", "g * (-2 * (z * a))", (
        (-2.0, 0.01831563888873418, 0.07326255555493671),
        (0.75, 0.569782824730923, -0.8546742370963845),
        (3.0, 0.00012340980408667956, -0.0007404588245200774)), note="Pinned: PyTorch's exp(-z * z)."),
    Activation("exp", "EXP(z)", "g * a", (
        (-2.0, 0.1353352832366127, 0.1353352832366127),
        (0.75, 2.117000016612675, 2.117000016612675),
        (3.0, 20.085536923187668, 20.085536923187668)), note="Pinned: PyTorch's exp()."),
    Activation("relu6", "MIN(MAX(z, 0), 6)", "WHERE(a <= 0, 0, WHERE(a >= 6, 0, g))", (
        (-2.0, 0.0, 0.0),
        (0.75, 0.75, 1.0),
        (3.0, 3.0, 1.0),
        (7.5, 6.0, 0.0)), note="The derivatives at 0 and 6 are 0."),
)

TABLE: dict[str, Activation] = {row.name: row for row in _ROWS}
ALIASES: dict[str, str] = {"logistic": "sigmoid", "linear": "identity", "swish": "silu", "celu": "elu"}
OTHERS: dict[str, tuple[str, ...]] = {  # what other libraries call them: see `fastbp.errors`
    "identity": ("none", "noop", "no_activation"),
    "sigmoid": ("expit", "sigm"),
    "tanh": ("hyperbolic_tangent",),
    "relu": ("rectifier", "rectified_linear", "rectified_linear_unit"),
    "exp": ("exponential",),
    "gelu": ("gelu_new", "gelu_tanh", "gelu_pytorch_tanh"),
    "loss='softmax_cross_entropy' takes logits, and predict_proba gives probabilities": ("softmax", "log_softmax"),
    "'leaky_relu' has a fixed slope; none is learnt": ("prelu",),
}
