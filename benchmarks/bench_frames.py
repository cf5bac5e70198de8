"""A speed bar: an epoch on a data frame of several dtypes takes at most twice that on the float array of its numbers.

`python -m pytest benchmarks/bench_frames.py`. 100,000 rows, 21 columns: bool, int64, float64 in turn; also nullable,
and with pyarrow backed by Arrow.
"""

from functools import partial

import numpy as np
import pytest
from rounds import median_ratio, seconds_of

import fastbp

pandas = pytest.importorskip("pandas")
ROWS, COLUMNS, ROUNDS, ALLOWED = 100_000, 21, 9, 2.0
KINDS = {
    "mixed": lambda frame: frame,
    "nullable": lambda frame: frame.convert_dtypes(),
    "arrow": lambda frame: pytest.importorskip("pyarrow") and frame.convert_dtypes(dtype_backend="pyarrow"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_on_a_data_frame_takes_at_most_twice_that_on_its_array(kind, capsys):
    normal = np.random.default_rng(0).normal(size=(COLUMNS, ROWS))
    makes = lambda x: x > 0, lambda x: (2 * x).astype(np.int64), lambda x: x
    frame = pandas.DataFrame({f"c{k}": makes[k % 3](x) for k, x in enumerate(normal)})
    X, y = frame.to_numpy(np.float64), normal[0].astype(np.float32)
    rows = {"array": X, "frame": KINDS[kind](frame)}

    def train(name):
        net = fastbp.MLP((COLUMNS, 32, 1), seed=0)
        net.fit(rows[name], y, batch_size=32, epochs=1, seed=0, n_threads=1)
        return net.flatten()

    assert np.array_equal(train("array"), train("frame"))
    times = seconds_of(ROUNDS, {name: partial(train, name) for name in rows})
    ratio = median_ratio(times, "frame", "array")
    with capsys.disabled():
        print(f"\n{kind}: {min(times['array']) * 1e3:.1f} -> {min(times['frame']) * 1e3:.1f} ms an epoch, "
              f"median ratio {ratio:.2f}", end=" ")  # fmt: skip
    assert ratio <= ALLOWED
