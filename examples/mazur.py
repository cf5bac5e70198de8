"""Mazur's worked example of back-propagation, with its true numbers.

Matt Mazur, "A Step by Step Backpropagation Example" (2015), computes one training step of a 2-2-2 network by hand:
sigmoid units, half the squared error, learning rate 0.5, one sample. Only the weights learn there; the biases keep
their values. fastbp has no switch for that and needs none: between `backward` and `update` the gradients are yours,
and a gradient of zero is a parameter that stays.

The order of the update matters. Back-propagation takes the derivative of one function at one point. So the gradient
of the hidden layer must be made with the output weights that made the output: the old ones. Two figures are widely
copied that come from code which updates the output weights first and then sends the error back through the new ones:
0.291027924 for the error after one step, and 0.015912196, 0.984065734 for the outputs after 10,000. They are wrong.
(Right and wrong differ little here, since one step moves the weights little. A test against finite differences
tells them apart at once.) This script prints the true numbers, and then makes the wrong ones, to show where they
come from.
"""

import sys

import numpy as np

import fastbp

STEPS = 10_000
x = np.array([[0.05, 0.10]])
t = np.array([[0.01, 0.99]])
optimizer = fastbp.SGD(lr=0.5)

# w1 .. w8 as the article numbers them: w1 and w2 go into the first hidden unit, w3 and w4 into the second, and so on.
# fastbp's weights are (in_features, out_features), so a unit's weights are a column: hence the transposition.
w_hidden = np.array([[0.15, 0.20], [0.25, 0.30]]).T
w_output = np.array([[0.40, 0.45], [0.50, 0.55]]).T
b_hidden, b_output = np.full(2, 0.35), np.full(2, 0.60)

net = fastbp.MLP(
    (2, 2, 2),
    activation="sigmoid",
    output_activation="sigmoid",
    init=[(w_hidden, b_hidden), (w_output, b_output)],
    dtype=np.float64,
)


def error():
    return net.evaluate(x, t, loss="half_squared_error")


def step():
    a = net.forward(x)
    net.backward(a - t)  # dL/da of half the squared error; fills net.grad_weights and net.grad_biases
    for grad_bias in net.grad_biases:
        grad_bias[...] = 0  # the biases stay where they are
    net.update(optimizer)


errors = [error()]
print(f"error before any step      {errors[0]:.9f}")
step()
numbered = np.concatenate([weight.T.ravel() for weight in net.weights])
for k, w in enumerate(numbered, start=1):
    print(f"w{k} after one step          {w:.9f}")
print(f"error after one step       {error():.9f}")
while net.step < STEPS:
    errors.append(error())
    step()
print(f"outputs after {STEPS} steps  {net.predict(x)[0, 0]:.9f} {net.predict(x)[0, 1]:.9f}")
print(f"biases                     {net.biases[0].tolist()} {net.biases[1].tolist()}")

# ---- The wrong order, in NumPy: the output weights are updated before the error goes back through them.


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def wrong(steps):
    """Error and outputs after some steps in the wrong order."""
    w1, w2 = w_hidden, w_output
    for _ in range(steps):
        h = sigmoid(x @ w1 + b_hidden)
        o = sigmoid(h @ w2 + b_output)
        delta = (o - t) * o * (1 - o)
        w2 = w2 - optimizer.lr * h.T @ delta  # too early ...
        w1 = w1 - optimizer.lr * x.T @ (delta @ w2.T * h * (1 - h))  # ... for this line reads the old w2
    o = sigmoid(sigmoid(x @ w1 + b_hidden) @ w2 + b_output)
    return 0.5 * ((o - t) ** 2).sum(), o[0]


print("\nthe wrong order gives the widely copied figures:")
print(f"error after one step       {wrong(1)[0]:.9f}")
print("outputs after {} steps  {:.9f} {:.9f}".format(STEPS, *wrong(STEPS)[1]))

# ---- The picture (needs matplotlib), where a file is named for it: `python examples/mazur.py mazur.png`

if len(sys.argv) > 1:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.loglog(range(1, STEPS + 1), errors, color="#0072B2")
    axes.set(xlabel="forward pass", ylabel="half the squared error", title="Mazur's network learns its one sample")
    figure.savefig(sys.argv[1])
