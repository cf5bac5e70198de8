"""Trains a layer and follows a network, both by the module of this folder; compares them with the same in Python."""

import layer
import numpy as np

import fastbp

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (64, 5))
y = np.tanh(X @ rng.normal(size=(5, 3)))
weight, bias = np.zeros((5, 3)), np.zeros(3)
net = fastbp.MLP((5, 3), output_activation="tanh", init=[(weight, bias)], dtype=np.float64)

loss = layer.train(X, y, weight, bias, 0.5, 200)
net.fit(X, y, loss="half_squared_error", optimizer=fastbp.SGD(0.5), batch_size=64, steps=200)
print(f"loss {loss:.6f}; largest difference from MLP.fit {np.abs(weight - net.weights[0]).max():.1e}")

net = fastbp.MLP((4, 16, 4), activation="tanh", seed=1)
states = np.empty((10, 4), np.float32)
layer.Policy(net).rollout(np.ones(4, np.float32), states)
state = np.ones((1, 4), np.float32)
for _ in range(10):
    state = net.predict(state)
print(f"the tenth state is that of MLP.predict: {np.array_equal(states[-1], state[0])}")
