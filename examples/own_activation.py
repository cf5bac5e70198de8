"""An activation and a loss of your own: written in one line each, trained at the speed of fastbp's.

Mish (Misra, 2019) is z tanh(softplus(z)): smooth, and a little below 0 on the left. Its expression is all that fastbp
needs: the derivative is made from it, and compared with finite differences. The loss is log cosh, quadratic near the
target and linear far from it, so that wild points pull less; it is written as a Python function with its derivative.

Where Numba is installed (`pip install 'fastbp[numba]'`) both are compiled, without a compiler; else NumPy does the
work.
"""

import math
import sys

import numpy as np

import fastbp

mish = fastbp.Activation("my_mish", forward="z * TANH(MAX(z, 0) + LOG1P(EXP(-ABS(z))))")


@fastbp.loss(derivative=lambda z, t: math.tanh(z - t))
def my_log_cosh(z, t):
    far = abs(z - t)
    return far + math.log1p(math.exp(-2 * far)) - math.log(2)  # cosh itself overflows


# ---- A derivative that is wrong does not get far

try:
    fastbp.Activation("wrong", forward="z * z", backward="g * z")
except ValueError as error:
    print(error)

# ---- A noisy sine with a few wild points

rng = np.random.default_rng(0)
X = np.linspace(-3, 3, 64)[:, None]
clean = np.sin(X)
y = clean + 0.05 * rng.standard_normal(X.shape)
y[rng.choice(len(y), 6, replace=False)] += 3


def worst(net):
    return np.abs(net.predict(X) - clean).max()


trained = {}
for loss in ("mse", my_log_cosh):
    name = loss if isinstance(loss, str) else loss.name
    net = trained[name] = fastbp.MLP((1, 16, 1), activation=mish, seed=1)
    net.fit(X, y, loss=loss, optimizer=fastbp.SGD(lr=0.03, momentum=0.9), batch_size=len(X), steps=3000)
    print(f"{name}: at most {worst(net):.2f} from the sine")

# ---- The picture (needs matplotlib), where a file is named for it: `python examples/own_activation.py own.png`

if len(sys.argv) > 1:
    from matplotlib import pyplot as plt

    z, one = np.linspace(-5, 3, 161)[:, None], np.ones((1, 1))
    a = fastbp.ops.linear(z, one, activation=mish)
    slope, _, _ = fastbp.ops.linear_backward(np.ones_like(z), a, z, one, activation=mish, z=z)

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.axhline(0, color="#cccccc", lw=0.8)
    left.plot(z, a, color="#0072B2", lw=2, label="my_mish")
    left.plot(z, slope, "--", color="#0072B2", label="its derivative, made from the expression")
    right.plot(X, y, "o", color="#999999", ms=4, label="the data, six points of them wild")
    right.plot(X, clean, color="black", lw=1, label="the clean sine")
    right.plot(X, trained["my_log_cosh"].predict(X), color="#0072B2", lw=2, label="my_log_cosh")
    right.plot(X, trained["mse"].predict(X), "--", color="#D55E00", lw=2, label="mse")
    left.set(xlabel="z", title="The activation")
    right.set(xlabel="x", ylabel="y", ylim=(-1.5, 6.5), title="A sine, learned with two losses")
    left.legend(frameon=False)
    right.legend(frameon=False)
    figure.savefig(sys.argv[1])
