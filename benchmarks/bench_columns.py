"""A speed bar: shuffled epochs over an array that lies column by column take at most 1.3 times those over rows."""

import numpy as np
import pytest
from rounds import median_ratio, seconds_of

import fastbp

ROUNDS, ALLOWED = 9, 1.3
ROWS, SIZES = 200_000, (50, 32, 10)


@pytest.mark.parametrize("epochs", [3, 10])
@pytest.mark.parametrize("given", ["float32", "float64"])
def test_shuffled_epochs_over_columns_are_as_fast_as_over_rows(given, epochs, capsys):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(ROWS, SIZES[0])).astype(given), rng.integers(0, SIZES[-1], ROWS)
    arrays, ended = {"rows": X, "columns": np.asfortranarray(X)}, {}

    def run(name):
        net = fastbp.MLP(SIZES, seed=0)
        net.fit(arrays[name], y, loss="softmax_cross_entropy", optimizer=fastbp.SGD(0.01), epochs=epochs)
        ended[name] = net.flatten()

    times = seconds_of(ROUNDS, {name: lambda name=name: run(name) for name in arrays})
    ratio = median_ratio(times, "columns", "rows")
    with capsys.disabled():
        print(f"\n{given}, {epochs} epochs: {min(times['rows']) * 1e3:.0f} ms over rows, "
              f"{min(times['columns']) * 1e3:.0f} over columns, median ratio {ratio:.2f}", end=" ")  # fmt: skip
    assert np.array_equal(ended["rows"], ended["columns"])
    assert ratio <= ALLOWED
