"""The original BP demo with fastbp: to be read line by line beside the TensorFlow 1 program.

A workshop makes parts and takes two measures of each, x0 and x1. A part passes where x0 + x1 < 1. A network of two
inputs, three hidden units and one output, without biases and without activations, learns to say so.

The stages stand in the order of the original: 0 the data, 1 the network and its forward propagation, 2 the loss and
the training step, 3 the loop. Run it with ``python examples/bp_demo.py``.
"""

import sys
import time

import numpy as np

import fastbp

BATCH_SIZE = 8
SEED = 23455
STEPS = 3000

# ---- 0. The data: 32 parts with two measures each, and what the network shall answer.

rdm = np.random.RandomState(SEED)
X = rdm.rand(32, 2)
Y_ = [[int(x0 + x1 < 1)] for x0, x1 in X]
print("X:\n", X, sep="")
print("Y_:\n", np.array(Y_).T, " (transposed)", sep="")

# ---- 1. The weights and the forward propagation.
# The original draws both weights with tf.random_normal(stddev=1, seed=1). That call gives these numbers. They are
# written out here, so that TensorFlow is not needed. (w1 begins as w2 does: the two share one seed.)

w1_initial = [[-0.8113182, 1.4845988, 0.06532937], [-2.4427042, 0.0992484, 0.5912243]]
w2_initial = [[-0.8113182], [1.4845988], [0.06532937]]

# There are no placeholders: the sizes say that x has 2 columns and y has 1. The number of rows is free.
# "identity" hidden units and bias=False make the forward propagation a = x @ w1, y = a @ w2.


def network():
    return fastbp.MLP((2, 3, 1), activation="identity", bias=False, init=[w1_initial, w2_initial])


net = network()
w1, w2 = net.weights  # views: they show the weights as they are, before training and after

# ---- 2. The loss and the training step.
# "mse" is `tf.reduce_mean(tf.square(y - y_))`: the mean over all rows and outputs, without a factor of 1/2.
# SGD is tf.train.GradientDescentOptimizer. fastbp derives the gradients by itself, as `minimize` does.

loss_mse = "mse"
optimizer = fastbp.SGD(lr=0.001)

# ---- 3. The loop. There is no session to open and no variable to initialise: MLP has done that.

print("\nw1:\n", w1, "\nw2:\n", w2, "\n", sep="")
for i in range(STEPS):
    start = (i * BATCH_SIZE) % 32
    end = start + BATCH_SIZE
    net.train_step(X[start:end], Y_[start:end], loss=loss_mse, optimizer=optimizer)
    if i % 500 == 0:
        total_loss = net.evaluate(X, Y_, loss=loss_mse)
        print(f"After {i:d} training step(s), loss_mse on all data is {total_loss:g}")
print("\nw1:\n", w1, "\nw2:\n", w2, sep="")

# ---- The end of the original. What follows is the same training as one call.
# `fit` takes the batches in order where shuffle=False, and goes back to the first row after the last. All 3000 steps
# then run in compiled code. The weights come out the same to the last bit.

whole = network()
history = whole.fit(X, Y_, loss=loss_mse, optimizer=optimizer, batch_size=BATCH_SIZE, steps=STEPS, shuffle=False)
same = all(np.array_equal(one, other) for one, other in zip(whole.weights, net.weights))
print(f"\nfit: the same bits as the loop: {same}")

again = network()
start = time.perf_counter()
again.fit(X, Y_, loss=loss_mse, optimizer=optimizer, batch_size=BATCH_SIZE, steps=STEPS, shuffle=False)
print(f"fit: {(time.perf_counter() - start) / STEPS * 1e6:.2f} microseconds a step")

# ---- The picture (needs matplotlib), where a file is named for it: `python examples/bp_demo.py bp_demo.png`

if len(sys.argv) > 1:
    history.plot().figure.savefig(sys.argv[1])
