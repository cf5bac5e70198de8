"""A program that uses every part of fastbp. Packed by PyInstaller it must print the same: `make check-frozen`."""

import tempfile
from pathlib import Path

import numpy as np

import fastbp

fastbp.show_config()
print(fastbp.__version__)

rng = np.random.default_rng(0)
X = rng.standard_normal((40, 3)).astype(np.float32)
y = (X.sum(axis=1) > 0).astype(np.int64)
run = dict(loss="softmax_cross_entropy", optimizer=fastbp.Adam(fastbp.schedules.Cosine(0.05, steps=20)))


class Counting(fastbp.Callback):
    epochs = 0

    def on_epoch_end(self, net, logs):
        self.epochs += 1


for backend in ("cython", "reference", "numba"):
    if fastbp.backends.missing(backend):
        continue
    net, counting = fastbp.MLP((3, 8, 2), seed=0, backend=backend), Counting()
    history = net.fit(
        X, y, epochs=4, validation_split=0.25, metrics=["accuracy"], verbose=2,
        callbacks=[counting, fastbp.EarlyStopping(patience=3), fastbp.TimeLimit(60)], **run,
    )  # fmt: skip
    net.fit([(X[:8], y[:8]), (X[8:], y[8:])], epochs=2, **run)
    net.train_step(X, y, **run)
    net.summary()
    net.explain()
    with tempfile.TemporaryDirectory() as folder:
        net.save(Path(folder) / "net")
        same = np.array_equal(fastbp.load(Path(folder) / "net").flatten(), net.flatten())
    print(backend, counting.epochs, net.step, same, net.flatten().sum(), history.metrics["val_accuracy"])
    print(net.predict_proba(X[:2]), fastbp.check_gradients(net, X, y, loss=run["loss"]).ok)

print(net.trace(X[:1], y[:1], loss=run["loss"], lr=0.1))
print(fastbp.ops.linear(X[:2], np.ones((3, 2), np.float32), activation="relu"), list(fastbp.metrics.TABLE))
mish = fastbp.Activation("my_mish", forward="z * TANH(MAX(z, 0) + LOG1P(EXP(-ABS(z))))")
own = fastbp.MLP((3, 4, 2), activation=mish, seed=0)
own.fit(X, y, epochs=2, **run)
print(own.flatten().sum())
