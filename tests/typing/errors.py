"""Lines that must be errors to a type checker: misspelt names, kinds that no argument takes; see tools/typed.py."""

import os

import numpy as np

import fastbp
from fastbp import nonsense  # error
from fastbp.schedules import Cosinus  # error

rows = np.ones((3, 2))
targets = np.ones(3)
net = fastbp.MLP((2, 3, 1))

# names of fastbp
fastbp.Adamm()  # error
fastbp.activations.TABEL  # error
fastbp.losses.hubber(delta=2.0)  # error
fastbp.losses.mse2  # error
fastbp.metrics.TABEL  # error
fastbp.ops.liner(rows, np.ones((2, 3)))  # error
fastbp.schedules.Cosinus(0.1, 100)  # error
fastbp.plot.histroy  # error
net.weigths  # error
net.steps  # error
net.fitt(rows, targets)  # error

# names of rows
fastbp.MLP((2, 3, 1), activation="rellu")  # error
fastbp.MLP((2, 3, 3, 1), activation=["relu", "rellu"])  # error
fastbp.MLP((2, 3, 1), output_activation="lineer")  # error
fastbp.MLP((2, 3, 1), init="he_normall")  # error
fastbp.MLP((2, 3, 1), bias_init="uniformm")  # error
fastbp.MLP((2, 3, 1), backend="refrence")  # error
fastbp.MLP((2, 3, 1), matmul_precision="bf16")  # error
fastbp.set_backend("numbaa")  # error
net.fit(rows, targets, loss="msee", epochs=1)  # error
net.fit(rows, targets, optimizer="adamm", epochs=1)  # error
net.fit(rows, targets, metrics=["acuracy"], epochs=1)  # error
net.fit(rows, targets, metrics="mae", epochs=1)  # error
net.fit(rows, targets, class_weight="balenced", epochs=1)  # error
net.fit(rows, targets, nonfinite="rise", epochs=1)  # error
net.evaluate(rows, targets, loss="softmax")  # error
net.evaluate(rows, targets, metrics=["acuracy"])  # error
net.train_step(rows, targets, loss="cross_entropy")  # error
net.predict_proba(rows, link="soft_max")  # error
net.update("adamw2")  # error
fastbp.ops.linear(rows, np.ones((2, 3)), None, "rellu")  # error
fastbp.EarlyStopping(mode="maximum")  # error

# kinds
net.fit(rows, targets, loss=os.environ["LOSS"], epochs=1)  # error
net.fit(rows, targets, loss=fastbp.SGD(), epochs=1)  # error
net.fit(rows, targets, optimizer=fastbp.SGD, epochs=1)  # error
net.fit(rows, targets, epoch=1)  # error
net.fit(rows, targets, callbacks=[object()], epochs=1)  # error
net.fit(rows, targets, callbacks=[fastbp.EarlyStopping], epochs=1)  # error
fastbp.MLP("2,3,1")  # error
fastbp.MLP((2, 3, 1), seed=np.random.RandomState(0))  # error
net.copy_from(net.params)  # error
net.hidden(rows, "last")  # error
net.hidden(rows, layers=0)  # error
net.input_gradient(rows, target=1)  # error
net.input_gradient(rows, output=net)  # error
fastbp.MLP((2.0, 1.0))  # error
fastbp.SGD(learning_rate=0.1)  # error
fastbp.SGD(lr="0.1")  # error
fastbp.schedules.Cosine("0.1", 100)  # error
fastbp.Checkpoint(3, every_steps=1)  # error
fastbp.Activation("mine", forward=lambda z: z)  # error
fastbp.Loss("mine", value="z - t", outputs="average")  # error
net.step = 3  # error
net.weights = ()  # error
net.save(3)  # error

# many networks
fastbp.fit_many(net, rows, targets, epochs=1)  # error
fastbp.fit_many([net], rows, targets, loss="mze", epochs=1)  # error
fastbp.fit_many([net], rows, targets, optimizer=[0.1], epochs=1)  # error
fastbp.fit_many([net], rows, targets, nonfinite="raise", epochs=1)  # error
fastbp.sweep({"lr": [0.1]}, rows, targets, method="bayes", n=3)  # error
fastbp.sweep({"lr": [0.1]}, rows, targets, metric=3, cv=2)  # error
fastbp.fit_many([net], rows, targets, lanes="yes", epochs=1)  # error
fastbp.fit_many([net], rows, targets, callbacks=[], epochs=1)  # error
