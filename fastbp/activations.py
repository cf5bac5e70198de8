"""The table of activations. A new one is one row here, then ``make rows``.

Pinned values are (z, a, da/dz) in float64 as PyTorch 2.13 gives them (``torch.nn.functional`` with autograd).
"""

from __future__ import annotations

from fastbp.rows import Activation

_SIGMOID = "WHERE(z < 0, EXP(-ABS(z)), 1) / (1 + EXP(-ABS(z)))"  # the exponential never overflows
_GELU_INNER = "0.7978845608028654 * (z + 0.044715 * z * z * z)"  # sqrt(2 / pi)
# From |z| = 10 on, tanh is 1 to the last bit of a double; the bound keeps 0 * inf out of the derivative.
_GELU_Z = "MIN(MAX(z, -10), 10)"
_GELU_TANH = f"TANH(0.7978845608028654 * ({_GELU_Z} + 0.044715 * {_GELU_Z} * {_GELU_Z} * {_GELU_Z}))"

_ROWS = (
    Activation("identity", "z", "g", ((-2.0, -2.0, 1.0), (0.75, 0.75, 1.0), (3.0, 3.0, 1.0))),
    # A NaN output hands g on: 0 would hide it. The derivative at 0 is 0.
    Activation("relu", "MAX(z, 0)", "WHERE(a <= 0, 0, g)", ((-2.0, 0.0, 0.0), (0.75, 0.75, 1.0), (3.0, 3.0, 1.0))),
    Activation("tanh", "TANH(z)", "g * (1 - a * a)", (
        (-2.0, -0.9640275800758169, 0.07065082485316443),
        (0.75, 0.6351489523872873, 0.5965858082813315),
        (3.0, 0.9950547536867305, 0.009866037165440166))),
    Activation("sigmoid", _SIGMOID, "g * (a * (1 - a))", (
        (-2.0, 0.11920292202211755, 0.1049935854035065),
        (0.75, 0.679178699175393, 0.21789499376181404),
        (3.0, 0.9525741268224334, 0.045176659730912))),
    Activation("leaky_relu", "WHERE(z > 0, z, 0.01 * z)", "WHERE(a > 0, g, 0.01 * g)", (
        (-2.0, -0.02, 0.01), (0.75, 0.75, 1.0), (3.0, 3.0, 1.0))),
    # da/dz = sigmoid(z) = 1 - exp(-a)
    Activation("softplus", "MAX(z, 0) + LOG1P(EXP(-ABS(z)))", "g * -EXPM1(-a)", (
        (-2.0, 0.1269280110429725, 0.11920292202211755),
        (0.75, 1.1368710061148999, 0.679178699175393),
        (3.0, 3.048587351573742, 0.9525741268224333))),
    # The tanh form of Hendrycks and Gimpel (2016), as torch's approximate="tanh".
    Activation("gelu", f"0.5 * z * (1 + TANH({_GELU_INNER}))",
               f"g * (0.5 * (1 + {_GELU_TANH}) + 0.5 * {_GELU_Z} * (1 - {_GELU_TANH} * {_GELU_TANH})"
               f" * 0.7978845608028654 * (1 + 0.134145 * {_GELU_Z} * {_GELU_Z}))", (
        (-2.0, -0.04540230591222494, -0.0860992566236183),
        (0.75, 0.5799605551656203, 0.9989382561374143),
        (3.0, 2.996362607918227, 1.0115841666309695))),
    Activation("silu", f"z * ({_SIGMOID})", f"g * (({_SIGMOID}) + a * (1 - ({_SIGMOID})))", (
        (-2.0, -0.2384058440442351, -0.09078424878489547),
        (0.75, 0.5093840243815447, 0.8425999444967536),
        (3.0, 2.8577223804672998, 1.0881041060151693))),
    Activation("elu", "WHERE(z > 0, z, EXPM1(MIN(z, 0)))", "WHERE(a > 0, g, g * (a + 1))", (
        (-2.0, -0.8646647167633873, 0.1353352832366127),
        (0.75, 0.75, 1.0),
        (3.0, 3.0, 1.0))),
)

TABLE: dict[str, Activation] = {row.name: row for row in _ROWS}
ALIASES: dict[str, str] = {"logistic": "sigmoid", "linear": "identity", "swish": "silu"}
