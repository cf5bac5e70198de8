"""An ensemble with its band of uncertainty: networks that differ where there are no points to learn from.

Forty networks with two hidden layers learn the same noisy points, each a bootstrap sample of them: as many points,
drawn with replacement. Among the points they agree; in the gap between them, and beyond their ends, they do not, and
the standard deviation of their answers says so. What all of them get wrong it does not show: the band counts opinions,
not errors.
"""

import sys

import numpy as np

import fastbp

rng = np.random.default_rng(0)
X = np.concatenate([rng.uniform(-4, -1, 60), rng.uniform(1.5, 4, 60)])[:, None]
y = np.sin(X) + 0.1 * rng.standard_normal(X.shape)

nets = [fastbp.MLP((1, 16, 16, 1), activation="tanh", init="torch", seed=seed) for seed in range(40)]
rows = [rng.integers(0, len(X), len(X)) for _ in nets]
fastbp.fit_many(nets, X, y, rows=rows, optimizer=fastbp.Adam(lr=0.01), batch_size=30, epochs=400)

ensemble = fastbp.Ensemble(nets)
places = {"among the points": -2.5, "in the gap": 0.25, "beyond the ends": 5.0}
mean, std = ensemble.predict(np.reshape(list(places.values()), (-1, 1)), return_std=True)
for (place, x), m, s in zip(places.items(), mean[:, 0], std[:, 0]):
    print(f"{place}, at {x:5.2f}: {m:6.3f} +- {s:.3f}, the sine is {np.sin(x):6.3f}")

single = np.mean([(net.predict(X) - np.sin(X)) ** 2 for net in nets])
together = np.mean((ensemble.predict(X) - np.sin(X)) ** 2)
print(f"mean square distance from the sine at the points: a network {single:.5f}, the ensemble {together:.5f}")

# ---- The picture (needs matplotlib), where a file is named for it: `python examples/ensemble.py ensemble.png`

if len(sys.argv) > 1:
    from matplotlib import pyplot as plt

    x = np.linspace(-5.5, 5.5, 221)[:, None]
    mean, std = (of[:, 0] for of in ensemble.predict(x, return_std=True))
    low, high = ensemble.quantiles(x, [0.05, 0.95])[..., 0]

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.fill_between(x[:, 0], low, high, color="#0072B2", alpha=0.15, lw=0, label="nine networks of ten")
    axes.fill_between(x[:, 0], mean - std, mean + std, color="#0072B2", alpha=0.3, lw=0, label="one standard deviation")
    axes.plot(x, mean, color="#0072B2", lw=2, label="the mean of 40 networks")
    axes.plot(x, np.sin(x), color="black", lw=1, label="the sine")
    axes.plot(X, y, "o", color="#D55E00", ms=3, label="the points")
    axes.set(xlabel="x", ylabel="y", ylim=(-2.5, 1.8), title="Where there are no points, networks differ")
    axes.legend(frameon=False, ncols=2, loc="lower center")
    figure.savefig(sys.argv[1], metadata={"Date": None} if sys.argv[1].endswith(".svg") else None)
