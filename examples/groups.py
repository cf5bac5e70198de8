"""One model for each group of a real table: diamonds' prices over their weight, by colour and clarity.

The 53,940 diamonds of plotnine's table come in 7 colours and 8 clarities. One call of `fit_many` trains a network for
each of the 56 groups, on the rows of its group; rows of the table may lie in any order. Beside them one network learns
all rows without knowing the groups, and one knows them as columns of 0 and 1. Needs plotnine, for the table.
"""

import sys

import numpy as np
from plotnine.data import diamonds

import fastbp

carat, price = (diamonds[[name]].to_numpy(float) for name in ("carat", "price"))
X = np.log2(carat)
y = np.log10(price) - np.log10(price).mean()
groups = np.array([f"{colour} {clarity}" for colour, clarity in zip(diamonds["color"], diamonds["clarity"])])
keys, number = np.unique(groups, return_inverse=True)

rng = np.random.default_rng(0)
held = rng.random(len(X)) < 0.2
train, run = ~held, {"optimizer": fastbp.Adam(lr=0.01), "batch_size": 32, "epochs": 30}


def error(predicted):
    """How far prices are off, in per cent: the geometric mean of larger over smaller, less one."""
    return 100 * (10 ** np.abs(predicted - y[held]).mean() - 1)


nets = {key: fastbp.MLP((1, 8, 1), activation="tanh", seed=k) for k, key in enumerate(keys.tolist())}
history = fastbp.fit_many(nets, X[train], y[train], by=groups[train], **run)
of_groups = fastbp.predict_many(nets, X[held], by=groups[held])
rows = np.bincount(number[train])
print(f"{len(nets)} networks of 1-8-1, {rows.min()} to {rows.max()} rows each")
print(f"a network for each group: prices are off by {error(of_groups):.1f} %")

alone = fastbp.MLP((1, 8, 1), activation="tanh", seed=0)
alone.fit(X[train], y[train], **run)
print(f"one network that does not know the groups: {error(alone.predict(X[held])):.1f} %")

columns = np.concatenate([X, np.eye(len(keys))[number]], axis=1)
told = fastbp.MLP((columns.shape[1], 32, 1), activation="tanh", seed=0)
told.fit(columns[train], y[train], **run)
print(f"one larger network that has them as columns: {error(told.predict(columns[held])):.1f} %")

# ---- The picture (needs matplotlib), where a file is named for it: `python examples/groups.py groups.png`

if len(sys.argv) > 1:
    from matplotlib import pyplot as plt

    colours, clarities = "DEFGHIJ", ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"]
    off = np.abs(of_groups - y[held])[:, 0]
    cells = [[100 * (10 ** off[groups[held] == f"{one} {two}"].mean() - 1) for two in clarities] for one in colours]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for key, ink in (("D IF", "#0072B2"), ("G VS1", "#009E73"), ("J I1", "#D55E00")):
        of_key = held & (groups == key)
        left.plot(carat[of_key], price[of_key], ".", color=ink, ms=3)
        line = np.linspace(*carat[of_key][[carat[of_key].argmin(), carat[of_key].argmax()], 0], 100)[:, None]
        drawn = 10 ** (nets[key].predict(np.log2(line)) + np.log10(price).mean())
        left.plot(line, drawn, color=ink, lw=1.5, label=f"colour {key[0]}, clarity {key[2:]}")
    left.set(xlabel="carat", ylabel="price in dollars", yscale="log", title="three of the 56 groups, rows held back")
    left.legend(frameon=False)
    image = right.pcolormesh(cells, cmap="viridis")
    right.set_xticks(np.arange(8) + 0.5, clarities)
    right.set_yticks(np.arange(7) + 0.5, list(colours))
    right.set(ylim=(7, 0), xlabel="clarity", ylabel="colour", title="how far prices are off, per cent")
    figure.colorbar(image, ax=right)
    figure.savefig(sys.argv[1], metadata={"Date": None} if sys.argv[1].endswith(".svg") else None)
