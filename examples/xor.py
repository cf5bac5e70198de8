"""XOR, the smallest problem that needs a hidden layer: a 2-4-1 network, all four rows in each batch.

The output is a logit. `binary_cross_entropy` takes it as it is; the sigmoid for the probabilities comes afterwards.
"""

import sys

import numpy as np

import fastbp

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
y = np.array([0, 1, 1, 0])

net = fastbp.MLP((2, 4, 1), activation="tanh", seed=0)
history = net.fit(X, y, loss="binary_cross_entropy", optimizer=fastbp.SGD(lr=0.5), batch_size=4, epochs=2000)

probability = 1 / (1 + np.exp(-net.predict(X)[:, 0]))
print("x0 x1  wanted  probability of 1  answer")
for (x0, x1), wanted, p in zip(X, y, probability):
    print(f" {x0}  {x1}       {wanted}            {p:.4f}       {int(p > 0.5)}")
print(f"loss {history.loss[0]:.4f} -> {history.loss[-1]:.4f}")
print(f"{history.n_steps} steps in {history.seconds * 1e3:.1f} ms")

# ---- The picture (needs matplotlib), where a file is named for it: `python examples/xor.py xor.png`

if len(sys.argv) > 1:
    fastbp.plot.decision_boundary(net, X, y).figure.savefig(sys.argv[1])
