"""An activation and a loss of your own, written in one line each, trained at the speed of its own.

Mish (Misra, 2019) is z tanh(softplus(z)): smooth, and a little below 0 on the left. Its expression is all that fastbp
needs: the derivative is made from it, and compared with finite differences. The loss is log cosh, quadratic near the
target and linear far from it, so that wild points pull less; it is written as a Python function with its derivative.

Where Numba is installed (`pip install fastbp[numba]`) both are compiled, without a compiler; else NumPy does the work.
"""

import math

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


for loss in ("mse", my_log_cosh):
    net = fastbp.MLP((1, 16, 1), activation=mish, seed=1)
    net.fit(X, y, loss=loss, optimizer=fastbp.SGD(lr=0.1, momentum=0.9), batch_size=len(X), steps=3000)
    name = loss if isinstance(loss, str) else loss.name
    print(f"{name}: at most {worst(net):.2f} from the sine")
