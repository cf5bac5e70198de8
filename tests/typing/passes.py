"""A program as users write them, with every documented name; checkers in strict mode find no error in it."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fastbp
from fastbp import callbacks, gradients, initializers, metrics, ops, optimizers, own, plot, rows, schedules
from fastbp.schedules import Constant, Cosine, Piecewise, ReduceOnPlateau, Sequence, Step, Warmup
from fastbp.typing import ActivationLike, BackendName, CallbackLike, LossLike, LossName, MetricLike, OptimizerLike

rng = np.random.default_rng(0)
features = rng.standard_normal((20, 2)).astype(np.float32)
targets = features.sum(axis=1, keepdims=True)
labels = (targets[:, 0] > 0).astype(np.int64)

# ------------------------------------------------------------------ networks

net = fastbp.MLP((2, 3, 1), activation="tanh", output_activation="identity", dtype=np.float64, seed=0)
fastbp.MLP([2, 3, 4, 1], activation=["relu", fastbp.activations.TABLE["mish"]], dropout=[0.1, 0.2], init="he_normal")
fastbp.MLP(np.array([2, 1]), init=[([[0.5], [-1.0]], [0.0])], dtype="float32", backend="reference", dropout=0.1)
fastbp.MLP((2, 1), init=[np.ones((2, 1))], matmul_precision="bfloat16")
fastbp.MLP((2, 1), init=lambda rng, n_in, n_out: rng.normal(size=(n_in, n_out)), seed=None)
fastbp.MLP((2, 1), init=initializers.TABLE["zeros"])
fastbp.MLP((2, 1), init="torch", bias_init="uniform", seed=np.random.default_rng(0))
fastbp.MLP((2, 1), init="sklearn", bias_init=0.1, seed=np.random.SeedSequence(0))
fastbp.MLP((2, 1), bias_init=lambda rng, n_in, n_out: rng.normal(size=n_out))
fastbp.MLP((2, 1), bias_init=initializers.BIASES["zeros"]).copy_from(fastbp.MLP((2, 1)), tau=0.005)

assert_type(net.weights, tuple[NDArray[Any], ...])
assert_type(net.biases, tuple[NDArray[Any], ...])
assert_type(net.grad_weights, tuple[NDArray[Any], ...])
assert_type(net.params, NDArray[Any])
assert_type(net.grads, NDArray[Any])
assert_type(net.sizes, tuple[int, ...])
assert_type(net.dtype, np.dtype[Any])
assert_type(net.step, int)
assert_type(net.epoch, int)
assert_type(net.seed, int)
assert_type(net.n_params, int)
assert_type(net.frozen, tuple[tuple[bool, bool], ...])
assert_type(net.backend, BackendName)
assert_type(fastbp.__version__, str)
net.weights[0][...] += 1.0
net.freeze(-1, bias=False)
net.unflatten(net.flatten() * 2)

# ------------------------------------------------------------------ verbs

history = net.fit(
    features, targets, loss="mse", optimizer="adam", batch_size=8, epochs=3, sample_weight=np.ones(20),
    validation_data=(features, targets), metrics=["mae", "r2", lambda t, y: np.abs(t - y).max()], shuffle=True,
    callbacks=[fastbp.EarlyStopping(patience=2), fastbp.TimeLimit(1.0)], nonfinite="ignore",
)  # fmt: skip
assert_type(history, fastbp.History)
assert_type(history.loss, NDArray[np.float64])
assert_type(history.val_loss, NDArray[np.float64])
assert_type(history.step, NDArray[np.int64])
assert_type(history.metrics["val_mae"], NDArray[np.float64])
assert_type(history.to_dict(), dict[str, list[float]])
if history.stopped is not None:
    print(history.stopped.upper())
classifier = fastbp.MLP((2, 3, 2))
classifier.fit(features, labels, loss="softmax_cross_entropy", class_weight="balanced", metrics=("accuracy", "top_1"),
               steps=3)  # fmt: skip
classifier.fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], loss="kl_divergence", class_weight={0: 1.0, 1: 2.5}, epochs=1)
assert_type(classifier.predict_proba(features, link="softmax"), NDArray[Any])
assert_type(net.train_step(features, targets, loss="mae", optimizer=fastbp.SGD(lr=0.1)), float)
assert_type(net.predict(features), NDArray[Any])
assert_type(net.hidden(features, layer=0), NDArray[Any])
assert_type(net.hidden([[0.0, 1.0]]), NDArray[Any])
assert_type(net.input_gradient(features), NDArray[Any])
assert_type(classifier.input_gradient(features, output=-1), NDArray[Any])
assert_type(classifier.input_gradient(features, labels), NDArray[Any])
assert_type(classifier.input_gradient([[0.0, 1.0]], output=[1]), NDArray[Any])
assert_type(net.evaluate(features, targets, loss="mse"), float)
assert_type(net.evaluate(features, targets), float)
assert_type(net.evaluate(features, targets, metrics=("mae",)), dict[str, float])
assert_type(net.evaluate(features, targets, loss="mse", metrics=["mae", metrics.rmse]), dict[str, float])
assert_type(metrics.accuracy(labels, classifier.predict(features), np.ones(20)), float)
assert_type(metrics.top_k(labels, classifier.predict(features), k=1), float)
assert_type(net.loss_and_grad(features, targets, loss="mse"), tuple[float, NDArray[Any]])
assert_type(net.forward(features), NDArray[Any])
assert_type(net.backward(np.ones((20, 1)), accumulate=True), NDArray[Any])
assert_type(net.backward_update([[1.0]], "sgd"), NDArray[Any])
assert_type(net.compile(loss="mse"), float)
net.update(optimizer=fastbp.RMSprop(lr=0.01, centered=True))
net.summary()
net.explain(16, loss=fastbp.losses.mse, optimizer=fastbp.AdamW())
step = net.trace([[1.0, 2.0]], [0.5], loss="half_squared_error", lr=0.1)
assert_type(step, fastbp.Trace)
assert_type(step.layers[0].delta, NDArray[Any])
assert_type(step.layers[0].weight.grad, NDArray[Any])
assert_type(step.to_text(digits=9), str)


def batches() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    yield features, targets


net.fit(batches(), steps=1)
net.fit([(features, targets, np.ones(20))], epochs=1)

net.save("net.safetensors")
net.save(Path("net.safetensors"))
net.save(b"net.safetensors")
assert_type(fastbp.load("net.safetensors", rows=[fastbp.rows.Activation("swoosh", forward="z", backward="g")]),
            fastbp.MLP)  # fmt: skip
net.save(io.BytesIO())

# ------------------------------------------------------------------ many networks

nets = [net, fastbp.MLP((2, 5, 1))]
by_key: dict[str, fastbp.MLP] = {"a": net}
outputs = fastbp.predict_many(nets, features, n_threads=1)
assert_type(outputs, NDArray[Any] | list[NDArray[Any]])
assert_type(fastbp.predict_many(by_key, features, by=["a"] * 20), NDArray[Any])
fastbp.save_many(by_key, "nets.safetensors")
loaded: dict[str, fastbp.MLP] = fastbp.load_many("nets.safetensors", rows=())
fastbp.save_many(nets, io.BytesIO())
together = fastbp.Ensemble(nets)
assert_type(together.nets, tuple[fastbp.MLP, ...])
assert_type(together.predict(features), NDArray[Any])
assert_type(together.predict(features, return_std=True), tuple[NDArray[Any], NDArray[Any]])
assert_type(together.quantiles(features, [0.1, 0.9]), NDArray[Any])
assert_type(together.predict_proba(features, link="sigmoid", n_threads=2), NDArray[Any])
together.save("ensemble.safetensors")
assert_type(fastbp.Ensemble.load("ensemble.safetensors"), fastbp.Ensemble)

# ------------------------------------------------------------------ optimizers, schedules, losses

fastbp.Adam(lr=Warmup(Cosine(1e-3, steps=10_000), steps=500), betas=(0.9, 0.99), clip_norm=1.0, lr_scale=[1.0, 0.5])
fastbp.SGD(0.1, 0.9, nesterov=True, weight_decay=1e-4, average=0.99, decay_scale=np.ones(2), accumulate=4)
fastbp.NAdam(lr=lambda step: 0.1 / (1 + step))
fastbp.Lion(lr=fastbp.schedules.OneCycle(0.1, steps=100))
fastbp.LBFGS(history_size=5)
Sequence([(Constant(0.1), 10), (0.05, 5), (Step(0.1, every=3), None)])
ReduceOnPlateau(Piecewise([10, 20], [0.1, 0.01, 0.001]), patience=3)
assert_type(fastbp.Adam().rate(3), float)
assert_type(schedules.Cosine(0.1, 100)(3), float)
optimizer: optimizers.Rule = fastbp.Adagrad()
print(optimizer.lr)
assert_type(fastbp.losses.huber, rows.Loss)
assert_type(fastbp.losses.huber(delta=2.0, outputs="sum"), rows.Loss)
assert_type(fastbp.losses.TABLE["mse"], rows.Loss)
assert_type(metrics.TABLE["mae"].better, str | None)

# ------------------------------------------------------------------ rows of one's own

mish = fastbp.Activation("my_mish", forward="z * TANH(MAX(z, 0) + LOG1P(EXP(-ABS(z))))")
fourth = fastbp.Loss("fourth", value="(z - t) * (z - t)", settings={"delta": 1.0}, domain=(0.0, 1.0), outputs="sum")
fastbp.Loss("fifth", value="(z - t) * c", grad="c", settings=[rows.Setting("c", 1.0, rows.Domain(0.0, 2.0, "(]"))])
sign = fastbp.Optimizer("sign_sgd", update=[("p", "p - lr * WHERE(g > 0, 1, WHERE(g < 0, -1, 0))")])


@fastbp.activation(derivative=lambda z: 1 / (1 + abs(z)) ** 2)
def softsign_of_mine(z: float) -> float:
    return z / (1 + abs(z))


@fastbp.loss(derivative=lambda z, t: 4 * (z - t) ** 3)
def fourth_power(z: float, t: float) -> float:
    return (z - t) ** 4


assert_type(softsign_of_mine, own.Activation)
assert_type(fourth_power, own.Loss)
fastbp.MLP((2, 3, 3, 1), activation=[mish, softsign_of_mine]).fit(
    features, targets, loss=fourth_power, optimizer=sign(lr=lambda step: 0.1 / (1 + step)), epochs=1
)
net.evaluate(features, targets, loss=fourth(delta=2.0))

# ------------------------------------------------------------------ callbacks

early = fastbp.EarlyStopping("val_loss", patience=5, mode="min")
assert_type(early.best, float)
if early.best_step is not None:
    print(early.best_step + 1)


class Halve(fastbp.Callback):
    """Of fastbp's kind."""

    def on_epoch_end(self, net: fastbp.MLP, logs: dict[str, float]) -> None:
        if logs["epoch"] % 5 == 0:
            net.lr /= 2
        if logs["loss"] < 0.1:
            raise fastbp.StopTraining("good enough")


class Mine:
    """Of no kind, with one of the methods."""

    def on_eval(self, net: fastbp.MLP, logs: dict[str, float]) -> None:
        print(net.step, logs["loss"])


net.fit(features, targets, epochs=1, callbacks=[Halve(), Mine(), fastbp.Checkpoint("{step}", every_steps=10)])
heard: list[CallbackLike] = [Mine(), callbacks.TimeLimit(3)]
net.fit(features, targets, epochs=1, callbacks=heard)

# ------------------------------------------------------------------ the rest

assert_type(fastbp.ops.linear(features, np.ones((2, 3)), [0.0, 1.0, 2.0], "relu"), NDArray[Any])
assert_type(ops.linear_backward(features, features, features, np.eye(2)),
            tuple[NDArray[Any], NDArray[Any], NDArray[Any]])  # fmt: skip
ops.sgd_update(np.ones(3), [1.0, 2.0, 3.0], 0.1)
adam_slots = ops.slots("adam", ops.packed([[1.0, 2.0]]), np.ones(2))
assert_type(ops.linear_backward_update(features, features, features, np.eye(2), None, fastbp.Adam(), slots=adam_slots),
            NDArray[Any])  # fmt: skip
assert_type(ops.activation(features, "relu"), NDArray[Any])
assert_type(ops.activation_backward(features, features, "silu", z=features), NDArray[Any])
assert_type(ops.loss("mse", features, features), tuple[float, NDArray[Any]])
assert_type(fastbp.check_gradients(net, features, targets, loss="mse"), gradients.GradientCheck)
recorder = fastbp.plot.GradientRecorder(features, targets, loss="mse")
net.fit(features, targets, epochs=1, callbacks=[recorder])
plot.decision_boundary(net, features, labels)
fastbp.set_backend("auto")
with fastbp.backend("numba"):
    net.predict(features)
try:
    net.fit(features, targets, epochs=1)
except fastbp.NonFiniteError as error:
    assert_type(error.step, int)


# ------------------------------------------------------------------ annotations of one's own


def trained(
    loss: LossLike, optimizer: OptimizerLike = "adam", activation: ActivationLike = "relu",
    metrics: tuple[MetricLike, ...] = ("mae",),
) -> fastbp.MLP:  # fmt: skip
    made = fastbp.MLP((2, 3, 1), activation=activation)
    made.fit(features, targets, loss=loss, optimizer=optimizer, metrics=metrics, epochs=1)
    return made


names: list[LossName] = ["mse", "mae"]
for name in names:
    trained(name)
trained(fastbp.losses.quantile(quantile=0.9), fastbp.Adam(1e-3))


# ------------------------------------------------------------------ many networks

nets = [fastbp.MLP((2, 3, 1), seed=k) for k in range(2)]
told: fastbp.ManyHistory = fastbp.fit_many(nets, features, targets, epochs=1)
told = fastbp.fit_many(
    {"a": nets[0], "b": nets[1]}, features, targets, by=["a", "b"] * 10, loss={"a": "mse", "b": "mae"}, steps=[1, 2],
    optimizer=[fastbp.SGD(0.1), "adam"], seed=[None, 3], early_stopping=None, lanes=True,
)  # fmt: skip
fastbp.fit_many(nets, [features, features], [targets, targets], sample_weight=None, epochs=1, time_limit=1.5)
fastbp.fit_many(nets, features, targets, rows=[np.array([0]), np.array([1])], validation_rows=[[2], [3]], epochs=1)
numbers: list[int] = told.best(1).tolist()
curves: dict[str, NDArray[np.float64]] = told.metrics
found: fastbp.Sweep = fastbp.sweep({"lr": [0.1, 0.2], "hidden": [(3,), (4, 2)]}, features, targets, cv=3, epochs=1)
found = fastbp.sweep(
    {"batch_size": range(8, 12)}, features, targets, n=3, method="random", halving=2, epochs=4, validation_split=0.2
)
best: dict[str, Any] = found.best
assert_type(found.best_net, fastbp.MLP)
assert_type(found.values, NDArray[np.float64])
