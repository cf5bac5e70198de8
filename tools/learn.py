"""Builds the page to step through, docs/learn/: `python tools/learn.py [folder [pages]]`, or `make learn`.

The page is static. It is copied into the folder (build/learn unless told), and beside it goes `data.js`: the networks
with their rows and initial weights, and of the tables of fastbp the activations and losses that they have. A row's text
means the same in JavaScript as it does in Python and in C++, so the browser runs the text of the tables.

`pages` says where the pages of the site are, as seen from this one: `..` where the folder is one of the site. Then it
links to them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastbp
from fastbp import activations, losses
from fastbp.__main__ import DEMO_BATCH, DEMO_WEIGHTS, demo_data
from fastbp.typing import LossName

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "learn"
HEADER = """\
// Written by tools/learn.py from fastbp: edit that, and the tables.
"use strict";
const { exp: EXP, expm1: EXPM1, log: LOG, log1p: LOG1P, tanh: TANH, sqrt: SQRT, abs: ABS, max: MAX, min: MIN } = Math;
const R = (number) => number, WHERE = (condition, a, b) => (condition ? a : b);
"""


class Example(NamedTuple):
    """A network before its first step, and how the page trains it."""

    net: fastbp.MLP
    X: Any
    y: Any  # (n, outputs)
    loss: LossName
    lr: float
    batch: int


def examples() -> dict[str, Example]:
    """Name -> what is trained; all in float64, the numbers of JavaScript."""
    X, y = demo_data()
    demo = fastbp.MLP((2, 3, 1), activation="identity", bias=False, init=DEMO_WEIGHTS, dtype=np.float64)
    xor = fastbp.MLP((2, 4, 1), activation="tanh", seed=0, dtype=np.float64)  # as in examples/xor.py
    layers = ([[0.15, 0.25], [0.20, 0.30]], [0.35, 0.35]), ([[0.40, 0.50], [0.45, 0.55]], [0.60, 0.60])
    sigmoids: dict[str, Any] = dict(activation="sigmoid", output_activation="sigmoid")
    mazur = fastbp.MLP((2, 2, 2), **sigmoids, init=layers, dtype=np.float64)
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return {
        "demo": Example(demo, X, y[:, np.newaxis], "mse", 0.001, DEMO_BATCH),
        "xor": Example(xor, corners, corners.sum(axis=1, keepdims=True) % 2, "binary_cross_entropy", 0.5, 4),
        "mazur": Example(mazur, [[0.05, 0.10]], [[0.01, 0.99]], "half_squared_error", 0.5, 1),
    }


def described(example: Example) -> dict[str, Any]:
    """An example as JSON; numbers keep all their digits."""
    layers = example.net.trace(example.X, example.y, loss=example.loss).layers
    params = [[layer.weight.value, *([layer.bias.value] if layer.bias else [])] for layer in layers]
    scale = losses.TABLE[example.loss].scale(example.net.sizes[-1])
    return {
        "X": np.asarray(example.X, float).tolist(),
        "y": np.asarray(example.y, float).tolist(),
        "params": [np.vstack(arrays).tolist() for arrays in params],  # biases below the weights
        "activations": [layer.activation.name for layer in layers],
        "loss": example.loss,
        "perRow": round(1 / scale),  # what the sum over the outputs is divided by
        "lr": example.lr,
        "batch": example.batch,
    }


def shown(expression: str) -> str:
    """An expression of a row as readers see it; the long formula of the sigmoid is called by its name."""
    return expression.replace(activations.TABLE["sigmoid"].forward, "sigmoid(z)").lower()


def functions(rows: Mapping[str, Any], parts: Mapping[str, str]) -> str:
    """Rows as a JavaScript object: of each part a function, and the text that is shown."""
    lines = []
    for name, row in rows.items():
        lines.append(f"  {name}: {{")
        for part, arguments in parts.items():
            lines.append(f"    {part}: ({arguments}) => {getattr(row, part + '_text')},")
            lines.append(f"    {part}Shown: {json.dumps(shown(getattr(row, part)))},")
        lines.append("  },")
    return "\n".join(["{", *lines, "}"])


def data(pages: str | None) -> str:
    """The text of data.js."""
    networks = {name: described(example) for name, example in examples().items()}
    used = {name: activations.TABLE[name] for net in networks.values() for name in net["activations"]}
    scored = {net["loss"]: losses.TABLE[net["loss"]] for net in networks.values()}
    constants = {
        "ACTIVATIONS": functions(used, {"forward": "z", "backward": "g, a, z"}),
        "LOSSES": functions(scored, {"value": "z, t", "grad": "z, t"}),
        "NETWORKS": json.dumps(networks),
        "PAGES": json.dumps(pages),
    }
    return HEADER + "".join(f"const {name} = {text};\n" for name, text in constants.items())


def build(folder: Path, pages: str | None = None) -> None:
    """The page in `folder`, whole."""
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    (folder / "data.js").write_text(data(pages), encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "learn"
    build(target, *sys.argv[2:3])
    print(target / "index.html")
