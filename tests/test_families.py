"""Each family of kernels by name (`Family` in src/kernels.hpp, and TINY), on shapes that its rules give to it.

Against the reference, and against DIRECT: with zeros around it a network goes to that family, and nothing else changes.
"""

import re
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from conftest import VECTOR_BYTES
from test_equivalence import PATHS, check_case
from tolerance import assert_close

import fastbp
from fastbp.backends.plan import make_plan


def constant(file, name):
    source = Path(__file__).resolve().parents[1] / "src" / file
    (value,) = re.findall(rf"\b{name} = (\d+)", source.read_text())
    return int(value)


TINY_WIDTH, HIDDEN_WIDTH, NARROW_OUTPUTS = (
    constant("kernels.hpp", name) for name in ("TINY_WIDTH", "HIDDEN_WIDTH", "NARROW_OUTPUTS")
)
FEW_ROWS, FEW_VECTORS = (constant("layout.hpp", name) for name in ("FEW_ROWS", "FEW_OUTPUTS_IN_VECTORS"))


def units_in_lanes(lanes):
    """Units of a hidden layer that lie in one vector or two: none where vectors are of two lanes."""
    return min(2 * lanes, HIDDEN_WIDTH) if lanes >= 4 else 0


def families(sizes, rows, most, tiny):
    """The family of each layer: `family_of` in src/layout.hpp; where `tiny` may be, `make_tiny` in src/tiny.cpp."""
    units = units_in_lanes(most // FEW_VECTORS)
    in_units = len(sizes) == 3 and sizes[0] <= HIDDEN_WIDTH and sizes[1] <= units
    if tiny and (in_units or max(sizes) <= TINY_WIDTH) and sizes[-1] <= NARROW_OUTPUTS:
        return ["TINY"] * (len(sizes) - 1)
    found = ["SINGLE" if rows == 1 else "FEW" if rows <= FEW_ROWS and out > most else "DIRECT" for out in sizes[1:]]
    return [*found[:-1], "NARROW"] if sizes[-1] <= NARROW_OUTPUTS else found


# Sizes and rows of a batch; up to `most` outputs, a few rows are DIRECT.
SHAPES = {
    "TINY": lambda most: [((3, 5, 2), 7), ((8, 8, 4), 33), ((1, 1, 1), 1), ((7, 3, 2), 257), ((3, 8, 5, 2), 33),
                          ((6, 3), 9), ((16, units_in_lanes(most // FEW_VECTORS), 3) if most > 8 else (4, 7, 3), 19)],
    "NARROW": lambda most: [((9, 1), 5), ((65, 33, 3), 37), ((17, 5, 4), 1), ((131, 40, 2), 26), ((16, 17, 4), 9)],
    "SINGLE": lambda most: [((33, 70, 19), 1), ((9, 5, 5), 1), ((130, 17, 65), 1)],
    "FEW": lambda most: [((21, most + 1, most + 3), 2), ((5, most + 9, most + 1), FEW_ROWS), ((70, 2 * most + 1), 9)],
    "DIRECT": lambda most: [((17, 33, 19), 41), ((9, 67, 35), FEW_ROWS + 1), ((40, most - 1, most), 3), ((5, 9), 257)],
}


def every_shape(paths):
    """Each shape on each path that its family has; TINY has `fit` alone."""
    named = [(family, k, path) for family, shapes in SHAPES.items() for k in range(len(shapes(8)))
             for path in paths if family != "TINY" or path == "fit"]  # fmt: skip
    return pytest.mark.parametrize("family, k, path", named)


@pytest.fixture
def shape(family, k, path, isa, dtype):
    """Sizes and rows that the family serves with this ISA and dtype."""
    most = FEW_VECTORS * VECTOR_BYTES[isa] // dtype.itemsize
    sizes, rows = SHAPES[family](most)[k]
    served = families(sizes, rows, most, tiny=path == "fit")
    assert served[-1] == family and (family == "NARROW" or set(served) == {family})
    return sizes, rows


@every_shape(PATHS)
@pytest.mark.parametrize("activation, optimizer", [("relu", 0), ("tanh", 2)])  # in registers; called on the tile
def test_a_family_trains_as_the_reference_does(shape, activation, optimizer, path, dtype):
    sizes, rows = shape
    check_case(
        {"n_in": sizes[0], "hidden": sizes[-2], "n_out": sizes[-1], "batch": rows, "depth": len(sizes) - 1,
         "activation": activation, "head": ("mse", False), "optimizer": optimizer, "bias": True, "weighted": False,
         "rows": "whole batches", "shuffle": False, "path": path}, dtype,
    )  # fmt: skip


@every_shape(["fit", "fit unfused"])
@pytest.mark.parametrize("activation, settings", [("identity", {}), ("tanh", {"momentum": 0.9})])
def test_a_family_trains_as_direct_does(shape, activation, settings, path, dtype):
    """Rows of weight 0, inputs of 0 and outputs of 0 are added until no other family serves the network."""
    sizes, rows = shape
    rng = np.random.default_rng(sum(sizes) + rows)
    wide = (max(sizes[0], TINY_WIDTH + 1), *sizes[1:-1], max(sizes[-1], NARROW_OUTPUTS + 1))
    many = max(rows, FEW_ROWS + 1)
    assert set(families(wide, many, most=0, tiny=True)) == {"DIRECT"}

    def around(a, shape):
        padded = np.zeros(shape)
        padded[tuple(map(slice, a.shape))] = a
        return padded

    X, t, weight = rng.normal(size=(many, sizes[0])), rng.normal(size=(many, sizes[-1])), rng.uniform(0.5, 2, rows)
    init = [(rng.normal(size=s) / np.sqrt(s[0]), rng.normal(size=s[1])) for s in zip(sizes, sizes[1:])]
    wide_init = [(around(w, s), around(b, s[1:])) for (w, b), s in zip(init, zip(wide, wide[1:]))]
    nets = []
    for shape, start, x, y, w in (
        (sizes, init, X[:rows], t[:rows], weight),
        (wide, wide_init, around(X, (many, wide[0])), around(t, (many, wide[-1])), around(weight, (many,))),
    ):
        net = fastbp.MLP(shape, activation=activation, init=start, dtype=dtype, backend="cython")
        with mock.patch("fastbp.mlp.make_plan", partial(make_plan, fused=path == "fit")):
            net.fit(
                x, y, loss="half_squared_error", optimizer=fastbp.SGD(0.01, **settings), batch_size=len(x), steps=3,
                shuffle=False, sample_weight=w,
            )  # fmt: skip
        nets.append(net)
    for k, (w, b) in enumerate(zip(nets[0].weights, nets[0].biases)):
        for got, wanted in ((w, nets[1].weights[k]), (b, nets[1].biases[k])):
            corner = wanted[tuple(map(slice, got.shape))]
            assert_close(got, corner, dtype, k=3 * (sum(sizes) + rows))
            assert np.count_nonzero(wanted) == np.count_nonzero(corner)
