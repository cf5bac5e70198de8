"""A loss that fastbp does not have: the network runs forward, you say dL/d(output), the network does the rest.

The loss here is Huber's: quadratic near the target, linear far from it, so that outliers pull less. It is fitted to a
noisy sine with a few wild points. First the gradient is checked against finite differences, then the network trains in
two ways: `forward`, `backward`, `update`, which leave the gradients in your hands between two calls; and `forward`,
`backward_update`, which is one pass. Both end at the same place.
"""

import copy
import sys

import numpy as np

import fastbp

DELTA = 0.5  # where Huber's loss goes over from the square to the line
STEPS = 2000


def huber(output, target):
    """The loss, a mean over rows and outputs, and dL/d(output) in the output's shape."""
    error = output - target
    far = np.abs(error) > DELTA
    loss = np.where(far, DELTA * (np.abs(error) - 0.5 * DELTA), 0.5 * error**2)
    return loss.mean(), np.clip(error, -DELTA, DELTA) / error.size  # the mean's 1/n is yours to apply


rng = np.random.default_rng(0)
X = np.linspace(-3, 3, 64)[:, None]
clean = np.sin(X)
y = clean + 0.05 * rng.standard_normal(X.shape)
y[rng.choice(len(y), 6, replace=False)] += 3  # the wild points

net = fastbp.MLP((1, 16, 1), activation="tanh", dtype=np.float64, seed=1)  # float64, for the finite differences

# ---- The gradient, checked parameter by parameter: (L(p + h) - L(p - h)) / 2h

_, grad_output = huber(net.forward(X), y)
grad_input = net.backward(grad_output)  # dL/dX, not needed here; fills net.grads
analytic = np.concatenate(
    [part.ravel() for layer in zip(net.grad_weights, net.grad_biases) for part in layer]  # the order of `flatten`
)


def loss_at(vector):
    net.unflatten(vector)
    return huber(net.predict(X), y)[0]


params, h = net.flatten(), 1e-6
numeric = [(loss_at(params + h * unit) - loss_at(params - h * unit)) / (2 * h) for unit in np.eye(net.n_params)]
net.unflatten(params)
print(f"{net.n_params} gradients, largest difference from finite differences: {np.abs(analytic - numeric).max():.1e}")

# ---- Training, in two ways

optimizer = fastbp.SGD(lr=0.1, momentum=0.9)
fused = copy.deepcopy(net)  # an independent network

for _ in range(STEPS):
    loss, grad_output = huber(net.forward(X), y)
    net.backward(grad_output)
    net.update(optimizer)  # between these two lines net.grads may be read and changed

for _ in range(STEPS):
    loss_fused, grad_output = huber(fused.forward(X), y)
    fused.backward_update(grad_output, optimizer)

distance = np.abs(net.flatten() - fused.flatten()).max()
print(f"Huber loss after {STEPS} steps: {loss:.6f}, in one pass {loss_fused:.6f}")
print(f"largest difference of a parameter: {distance:.1e}")

# ---- What it is good for: the same network on the same data with squares all the way

squares = fastbp.MLP((1, 16, 1), activation="tanh", dtype=np.float64, seed=1)
squares.fit(X, y, loss="half_squared_error", optimizer=optimizer, batch_size=len(X), steps=STEPS, shuffle=False)
for name, trained in (("Huber", net), ("squares", squares)):
    print(f"largest distance from the clean sine, {name}: {np.abs(trained.predict(X) - clean).max():.3f}")

# ---- The picture (needs matplotlib), where a file is named for it: `python examples/own_gradient.py own_gradient.png`

if len(sys.argv) > 1:
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(layout="constrained")
    ax.plot(X, y, "o", color="#999999", ms=4, label="the data, six points of them wild")
    ax.plot(X, clean, color="black", lw=1, label="the clean sine")
    ax.plot(X, net.predict(X), color="#0072B2", lw=2, label="Huber's loss")
    ax.plot(X, squares.predict(X), "--", color="#D55E00", lw=2, label="half the squared error")
    ax.set(xlabel="x", ylabel="y")
    ax.legend(frameon=False)
    figure.savefig(sys.argv[1])
