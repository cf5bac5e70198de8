"""Where rows come from: splits, class weights, memory maps, CSR matrices, iterators of batches."""

import contextlib
import pickle
import signal
import sys
import textwrap
import threading
import time
import tracemalloc
import types
from unittest import mock

import numpy as np
import pytest
from conftest import every_case, need_extension
from others import csr
from test_process import python
from tolerance import assert_close

import fastbp
from fastbp.data import samples
from fastbp.data.classes import class_weights, names_classes, validation_rows
from fastbp.training import feeds

rng = np.random.default_rng(5)
N, N_IN, N_OUT = 53, 6, 3
X = np.where(rng.uniform(size=(N, N_IN)) < 0.4, rng.normal(size=(N, N_IN)), 0).astype(np.float32)
LABELS = rng.integers(0, N_OUT, N)
Y = rng.normal(size=(N, N_OUT)).astype(np.float32)
WEIGHT = rng.uniform(size=N)
RULE = fastbp.SGD(lr=0.05, momentum=0.9)
RUN = {"loss": "softmax_cross_entropy", "optimizer": RULE}


def build(backend="auto", sizes=(N_IN, 7, N_OUT)):
    return fastbp.MLP(sizes, activation="tanh", seed=3, backend=backend)


def state(net):
    return pickle.dumps(net.__getstate__()["state"]) + net.flatten().tobytes()


# ------------------------------------------------------------------ validation_split


@pytest.fixture(params=["copied", "block by block"])
def picking(request, monkeypatch):
    if request.param == "block by block":
        monkeypatch.setattr(samples, "COPIED_BYTES", 0)
        monkeypatch.setattr(feeds, "_BLOCK_BYTES", 500)  # a few batches


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_split_trains_on_some_rows_and_measures_the_others(backend, picking, shuffle):
    options = RUN | {"batch_size": 8, "epochs": 3, "shuffle": shuffle}
    net = build(backend)
    history = net.fit(X, LABELS, validation_split=0.3, sample_weight=WEIGHT, **options)
    kept = validation_rows(N, 0.3, LABELS, seed=3)
    twin = build(backend)
    same = twin.fit(X[~kept], LABELS[~kept], sample_weight=WEIGHT[~kept],
                    validation_data=(X[kept], LABELS[kept], WEIGHT[kept]), **options)  # fmt: skip
    assert state(net) == state(twin)
    for a, b in zip((history.loss, history.val_loss, history.step), (same.loss, same.val_loss, same.step)):
        assert np.array_equal(a, b)


def test_rows_that_are_kept_reach_nothing_in_training(backend, picking):
    kept = validation_rows(N, 0.3, LABELS, seed=3)
    spoilt = np.where(kept[:, None], np.float32(1e6), X)
    nets = [build(backend) for _ in range(2)]
    for net, x in zip(nets, (X, spoilt)):
        net.fit(x, LABELS, validation_split=0.3, epochs=2, **RUN)
    assert state(nets[0]) == state(nets[1])


def test_a_split_in_pieces_is_the_split_in_one(backend, picking):
    net, twin = build(backend), build(backend)
    for steps in (3, 5, 1, 12):
        net.fit(X, LABELS, validation_split=0.3, steps=steps, batch_size=8, **RUN)
    twin.fit(X, LABELS, validation_split=0.3, steps=21, batch_size=8, **RUN)
    assert state(net) == state(twin)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.8, 0.99])
def test_a_split_takes_its_share_of_each_class(share):
    kinds = np.repeat([0, 1, 2, 7], [400, 90, 9, 1])
    kept = validation_rows(500, share, kinds, seed=11)
    assert kept.sum() == round(500 * share)
    for kind in (0, 1, 2, 7):
        assert abs(kept[kinds == kind].sum() - share * (kinds == kind).sum()) <= 1
    assert np.array_equal(kept, validation_rows(500, share, kinds, seed=11))
    assert not np.array_equal(kept, validation_rows(500, share, kinds, seed=12))


@pytest.mark.parametrize("n, share", [(2, 0.01), (2, 0.99), (3, 0.5), (101, 0.5)])
def test_a_split_leaves_rows_on_both_sides(n, share):
    kept = validation_rows(n, share, None, seed=0)
    assert 1 <= kept.sum() <= n - 1 and abs(kept.sum() - n * share) <= 1


def test_a_split_is_the_same_in_every_version():
    """Or a run that goes on from a file of another one would train on rows that were kept from it."""
    kinds = np.arange(20) % 3
    for given, seed, kept in ((None, 7, [0, 4, 5, 8, 14]), (kinds, 7, [0, 8, 10, 14, 15]),
                              (None, 2**64 - 1, [1, 7, 9, 14, 18])):  # fmt: skip
        assert np.flatnonzero(validation_rows(20, 0.25, given, seed)).tolist() == kept


def test_a_split_of_numbers_is_a_plain_draw():
    """0.25 of the rows over many seeds: each as often."""
    often = sum(validation_rows(40, 0.25, None, seed).astype(int) for seed in range(400))
    assert often.min() > 60 and often.max() < 140  # 100 wanted; 9 is a standard deviation
    assert not names_classes(Y, labels=False) and not names_classes(Y[:, :1], labels=False)


def test_a_column_of_two_values_names_classes():
    y = (np.arange(60) % 6 == 0).astype(np.float32)[:, None]
    assert names_classes(y, labels=False) and names_classes(2 * y - 1, labels=False)
    history = build(sizes=(2, 1)).fit(rng.normal(size=(60, 2)), y, loss="binary_cross_entropy", epochs=1,
                                      validation_split=0.5, metrics=[lambda t, a: t.sum()])  # fmt: skip
    assert history.columns["val_<lambda>"][0] == 5


# ------------------------------------------------------------------ class_weight


def test_a_class_weight_is_a_sample_weight(backend):
    for given, of_class in (({0: 2.0, 2: 0.5}, np.array([2, 1, 0.5])),
                            ("balanced", N / (3 * np.bincount(LABELS)))):  # fmt: skip
        for own in (None, WEIGHT):
            net, twin = build(backend), build(backend)
            net.fit(X, LABELS, epochs=2, class_weight=given, sample_weight=own, **RUN)
            twin.fit(X, LABELS, epochs=2, sample_weight=of_class[LABELS] * (1 if own is None else own), **RUN)
            assert state(net) == state(twin)


def test_products_of_small_weights_are_not_lost(backend):
    """2**-700 * 2**-700 is 0 in float64."""
    fits = {
        "rows": lambda net, own, **given: net.fit(X, LABELS, sample_weight=own, batch_size=8, **given),
        "batches": lambda net, own, **given: net.fit([(X, LABELS, own), (X[:9], LABELS[:9], own[:9])], **given),
    }
    of_class = np.array([2.0, 1.0, 0.0])
    for fit in fits.values():
        net, twin = build(backend), build(backend)
        for one, size in ((net, 2.0**-700), (twin, 1.0)):
            fit(one, size * WEIGHT, epochs=2, class_weight=dict(enumerate(size * of_class)), **RUN)
        assert state(net) == state(twin)


def test_products_of_weights_that_overflow_are_refused_in_a_batch_too(backend):
    net = build(backend)
    with pytest.raises(ValueError, match="class_weight: sample_weight must be finite"):
        net.fit([(X, LABELS, np.full(N, 1e200))], epochs=1, class_weight={0: 1e200}, **RUN)
    assert net.step == 0


@pytest.mark.parametrize("kind", [bool, np.bool_, float, np.int8, np.float32, np.longdouble])
def test_classes_are_named_as_labels_are(backend, kind):
    net, twin = build(backend), build(backend)
    net.fit(X, LABELS, epochs=1, class_weight={kind(0): 2.0, kind(1): 0.5, 2: 3.0}, **RUN)
    twin.fit(X, LABELS, epochs=1, class_weight={0: 2.0, 1: 0.5, 2: 3.0}, **RUN)
    assert state(net) == state(twin)


def test_balanced_is_as_in_scikit_learn():
    peer = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.array([0, 0, 0, 3, 3, 1])
    found = class_weights("balanced", labels, 4)
    assert_close(found, peer.compute_sample_weight("balanced", labels), np.float64)


def test_classes_are_weighed_where_targets_are_columns(backend):
    net, twin = build(backend), build(backend)
    net.fit(X, np.eye(3)[LABELS], epochs=1, class_weight={1: 3.0}, **RUN)
    twin.fit(X, np.eye(3)[LABELS], epochs=1, sample_weight=np.array([1.0, 3, 1])[LABELS], **RUN)
    assert state(net) == state(twin)


def test_a_balanced_weight_counts_rows_that_are_trained_on_and_spares_validation(backend):
    kept = validation_rows(N, 0.4, LABELS, seed=3)
    net, twin = build(backend), build(backend)
    history = net.fit(X, LABELS, epochs=2, class_weight="balanced", validation_split=0.4, **RUN)
    same = twin.fit(X[~kept], LABELS[~kept], epochs=2, class_weight="balanced",
                    validation_data=(X[kept], LABELS[kept]), **RUN)  # fmt: skip
    assert state(net) == state(twin) and np.array_equal(history.val_loss, same.val_loss)
    assert history.val_loss[-1] == net.evaluate(X[kept], LABELS[kept], loss=RUN["loss"])


# ------------------------------------------------------------------ memory maps


@pytest.mark.noasan  # it allocates by itself, beyond the limit
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_DATA and sparse files")
@pytest.mark.parametrize("verb", ["fit", "fit with a split", "predict and evaluate"])
def test_a_memory_map_larger_than_memory_is_never_copied(tmp_path, verb):
    """6 GB of a sparse file, in a process that may allocate 0.4 GB."""
    call = {
        "fit": "net.fit(X, y, steps=10, batch_size=8)",
        "fit with a split": "history = net.fit(X, y, steps=10, batch_size=8, validation_split=1e-4)\n"
                            "assert history.val_loss.shape == (1,) and history.val_loss >= 0",
        "predict and evaluate": "part = slice(None, 50_000), slice(None)\n"
                                "assert net.predict(X[part]).shape == (50_000, 2)\n"
                                "assert net.evaluate(X[part], y[part], loss='mse') > 0",
    }[verb]  # fmt: skip
    program = f"""
        import resource
        import numpy as np, fastbp
        n = 1_500_000
        X = np.memmap({str(tmp_path / "X")!r}, np.float32, "w+", shape=(n, 1000))
        y = np.memmap({str(tmp_path / "y")!r}, np.float32, "w+", shape=(n, 2))
        X[::70_000] = 1
        y[::70_000] = 1
        X, y = (np.memmap(array.filename, np.float32, "r", shape=array.shape) for array in (X, y))
        y[:1] + 0
        net = fastbp.MLP((1000, 2), seed=0)
        resource.setrlimit(resource.RLIMIT_DATA, (400 << 20, 400 << 20))
        try:
            X[:200_000].copy()
        except MemoryError:
            pass
        else:
            raise SystemExit("the limit does not hold")
        {{call}}
    """
    body = textwrap.dedent(program).replace("{call}", call)
    assert python(body, timeout=240, OPENBLAS_NUM_THREADS="1") == ""


# ------------------------------------------------------------------ CSR


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(feeds, "_BLOCK_BYTES", 600)  # three batches of 8


@pytest.mark.parametrize("options", [
    {"epochs": 3, "batch_size": 8}, {"epochs": 3, "batch_size": 8, "shuffle": False}, {"steps": 17, "batch_size": 8},
    {"epochs": 2, "batch_size": 100}, {"epochs": 2, "batch_size": 1}, {"epochs": 2, "sample_weight": WEIGHT},
    {"epochs": 2, "validation_split": 0.3, "metrics": ["accuracy"]}, {"steps": 20, "batch_size": 8, "eval_every": 4},
    {"epochs": 2, "class_weight": "balanced"}, {"epochs": 2, "seed": 9}, {"steps": 0},
], ids=str)  # fmt: skip
def test_csr_rows_train_as_the_dense_ones(backend, options, small_blocks):
    net, twin = build(backend), build(backend)
    history, same = net.fit(csr(X), LABELS, **RUN | options), twin.fit(X, LABELS, **RUN | options)
    assert state(net) == state(twin)
    assert np.array_equal(history.loss, same.loss) and np.array_equal(history.step, same.step)
    assert history.columns.keys() == same.columns.keys()
    assert all(np.array_equal(history.columns[name], same.columns[name]) for name in same.columns)


def test_csr_validation_rows_that_are_not_finite_are_named():
    bad = X.copy()
    bad[11, 2] = np.nan
    with pytest.raises(fastbp.NonFiniteError, match="val_loss.*holds nan at row 11, column 2"):
        build().fit(X, LABELS, epochs=1, validation_data=(csr(bad), LABELS), **RUN)


def test_csr_rows_in_pieces_and_with_callbacks(backend, small_blocks):
    net, twin = build(backend), build(backend)
    for steps in (1, 4, 9, 2):
        net.fit(csr(X), LABELS, steps=steps, batch_size=8, verbose=0, callbacks=[fastbp.TimeLimit(99)], **RUN)
    twin.fit(X, LABELS, steps=16, batch_size=8, **RUN)
    assert state(net) == state(twin)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "u1", "?", ">f8"])
def test_csr_matrices_of_any_dtype(dtype):
    x = (X * 3).astype(dtype)
    net, twin = build(), build()
    net.fit(csr(x), LABELS, epochs=2, **RUN)
    twin.fit(x, LABELS, epochs=2, **RUN)
    assert state(net) == state(twin)
    assert np.array_equal(net.predict(csr(x)), net.predict(x))


def test_the_verbs_that_go_through_rows_take_csr(backend):
    net = build(backend)
    assert np.array_equal(net.predict(csr(X)), net.predict(X))
    assert net.evaluate(csr(X), LABELS, loss=RUN["loss"]) == net.evaluate(X, LABELS, loss=RUN["loss"])
    for a, b in zip(net.loss_and_grad(csr(X), Y, loss="mse"), net.loss_and_grad(X, Y, loss="mse")):
        assert np.array_equal(a, b)
    assert net.predict(csr(X[:0])).shape == (0, N_OUT)


def test_scipys_own_matrices_are_taken():
    sparse = pytest.importorskip("scipy.sparse")
    net, twin = build(), build()
    net.fit(sparse.csr_array(X), LABELS, epochs=2, **RUN)
    twin.fit(sparse.csr_matrix(X)[np.arange(N)], LABELS, epochs=2, **RUN)
    assert state(net) == state(twin)
    twice = sparse.csr_array((np.ones(2), np.array([1, 1]), np.array([0, 2])), shape=(1, N_IN))
    with pytest.raises(ValueError, match=r"X.*sum_duplicates"):
        net.predict(twice)
    twice.sum_duplicates()
    assert np.array_equal(net.predict(twice), net.predict(twice.toarray()))


def broken(**changes):
    matrix = csr(X)
    for name, change in changes.items():
        setattr(matrix, name, change(getattr(matrix, name)))
    return matrix


@pytest.mark.parametrize(
    "matrix, error, pattern",
    [
        (broken(format=lambda _: "csc"), TypeError, "X.*CSR.*tocsr"),
        (broken(data=lambda values: values + 0j), TypeError, "X.*complex"),
        (broken(indptr=lambda ends: ends[:-1]), ValueError, "X is no CSR matrix"),
        (broken(indptr=lambda ends: ends + 1), ValueError, "X is no CSR matrix"),
        (broken(indptr=lambda ends: np.append(0, ends[:0:-1])), ValueError, "X is no CSR matrix"),
        (broken(indices=lambda columns: columns - 1), ValueError, "X is no CSR matrix"),
        (broken(indices=lambda columns: columns + N_IN), ValueError, "X is no CSR matrix"),
        (broken(data=lambda values: values[:-1]), ValueError, "X is no CSR matrix"),
        (broken(indices=lambda columns: columns[::-1]), ValueError, "X.*unsorted"),
        (broken(indices=lambda columns: np.append([1, 0], columns[2:]).astype(np.uint32)), ValueError, "X.*unsorted"),
        (broken(indices=lambda columns: np.append(columns[1], columns[1:])), ValueError, "X.*stand twice"),
        (broken(indices=lambda columns: np.append(columns[:-1], columns[-2])), ValueError, "X.*stand twice"),
        (broken(shape=lambda shape: (shape[0], 9)), ValueError, "X has 9 column"),
    ],
)
def test_a_matrix_that_is_no_csr_is_refused(backend, matrix, error, pattern):
    net = build(backend)
    before = state(net)
    for call in (lambda: net.fit(matrix, LABELS, steps=1, **RUN), lambda: net.predict(matrix)):
        with pytest.raises(error, match=pattern):
            call()
    assert state(net) == before


def test_a_step_that_overflows_in_csr_rows_is_found(backend, small_blocks):
    x = X.copy()
    x[29, 2] = np.inf
    for rows in (x, csr(x)):
        net = build(backend)
        with pytest.raises(fastbp.NonFiniteError, match=r"X holds inf at row 29, column 2") as error:
            net.fit(rows, LABELS, epochs=2, batch_size=8, shuffle=False, **RUN)
        assert error.value.step == net.step == 3


def test_csr_rows_are_made_dense_a_block_at_a_time():
    """10,000 x 10,000 with a number in each row would be 400 MB."""
    n = 10_000
    matrix = types.SimpleNamespace(
        format="csr", nnz=n, toarray=None, shape=(n, n), data=np.ones(n, np.float32),
        indices=np.arange(n, dtype=np.int32), indptr=np.arange(n + 1, dtype=np.int32),
    )  # fmt: skip
    net = fastbp.MLP((n, 1), seed=0)
    tracemalloc.start()
    try:
        net.fit(matrix, np.ones(n), batch_size=50, steps=100)
        assert net.evaluate(matrix, np.ones(n), loss="mse") > 0
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------ datasets in files


class Dataset:
    """Rows as h5py and zarr have them: read by slices, when they are asked for; `slices` lists what was read."""

    def __init__(self, array, chunks=None):
        self.array, self.shape, self.dtype, self.chunks, self.slices = array, array.shape, array.dtype, chunks, []

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.slices.append((rows.start, rows.stop))
        return self.array[rows]


@pytest.fixture(params=["h5py", "h5py, in chunks", "zarr", "an object like these"])
def stored(request, tmp_path):
    """A function that puts an array into a file and gives the dataset."""
    name, _, chunks = request.param.partition(", ")
    if name == "h5py":
        h5py = pytest.importorskip("h5py")
        file = h5py.File(tmp_path / "data.h5", "w")
        request.addfinalizer(file.close)
        return lambda x: file.create_dataset("X", data=x, chunks=(7, 2) if chunks else None)
    if name == "zarr":
        zarr = pytest.importorskip("zarr")
        return lambda x: zarr.create_array(str(tmp_path / "data.zarr"), data=x, chunks=(5, N_IN))
    return Dataset


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(samples, "_PIECE_BYTES", 200)  # some rows
    monkeypatch.setattr(samples.Stored, "block_bytes", 900)  # some pieces


@pytest.mark.parametrize("options", [
    {"epochs": 3, "batch_size": 8}, {"epochs": 3, "batch_size": 8, "shuffle": False}, {"steps": 17, "batch_size": 8},
    {"epochs": 2, "sample_weight": WEIGHT}, {"epochs": 2, "validation_split": 0.3, "metrics": ["accuracy"]},
    {"steps": 0},
], ids=str)  # fmt: skip
def test_a_dataset_trains_as_its_array(backend, options, stored, small_pieces):
    net, twin = build(backend), build(backend)
    history, same = net.fit(stored(X), LABELS, **RUN | options), twin.fit(X, LABELS, **RUN | options)
    assert state(net) == state(twin)
    assert np.array_equal(history.loss, same.loss) and np.array_equal(history.val_loss, same.val_loss, equal_nan=True)


def test_the_verbs_that_go_through_rows_take_datasets(backend, stored, small_pieces):
    net, dataset = build(backend), stored(X)
    assert np.array_equal(net.predict(dataset), net.predict(X))
    assert net.evaluate(dataset, LABELS, loss=RUN["loss"]) == net.evaluate(X, LABELS, loss=RUN["loss"])
    for a, b in zip(net.loss_and_grad(dataset, Y, loss="mse"), net.loss_and_grad(X, Y, loss="mse")):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("chunks", [None, (3, N_IN), (10**9, N_IN)])
def test_a_dataset_is_read_in_ascending_order_and_never_as_a_whole(chunks, small_pieces):
    """Each block of a shuffled epoch goes through the file once; in order each piece is read once an epoch."""
    row_bytes = X[:1].nbytes
    for shuffle in (True, False):
        dataset = Dataset(X, chunks)
        build().fit(dataset, LABELS, epochs=2, batch_size=8, shuffle=shuffle, **RUN)
        rows, pieces = dataset.slices[0][1] - dataset.slices[0][0], set(dataset.slices)
        assert rows * row_bytes <= (200 if chunks is None or chunks[0] < N else 900)
        assert all(stop - start == rows and start % rows == 0 for start, stop in pieces)
        assert chunks is None or chunks[0] > N or rows % chunks[0] == 0
        falls = sum(a > b for a, b in zip(dataset.slices, dataset.slices[1:]))
        n_blocks = -(-N // (900 // (row_bytes * 8) * 8))
        assert falls == (2 * n_blocks if shuffle else 2) - 1
        if not shuffle:
            assert len(pieces) == -(-N // rows) and len(dataset.slices) <= 2 * (len(pieces) + n_blocks)


@pytest.mark.parametrize("array, error, pattern", [
    (np.zeros((N, N_IN), "U3"), TypeError, "X must hold real numbers, got a dataset of <U3"),
    (np.zeros((N, N_IN), complex), TypeError, "X must hold real numbers, got a dataset of complex128"),
    (np.zeros((N, N_IN + 1)), ValueError, f"X has {N_IN + 1} column"), (np.zeros(N), ValueError, "X must be 2-D"),
    (np.zeros((N, N_IN, 2)), ValueError, "X must be 2-D"), (np.zeros((0, N_IN)), ValueError, "X has no rows"),
])  # fmt: skip
def test_a_dataset_that_is_no_matrix_of_numbers_is_refused(array, error, pattern):
    net = build()
    before = state(net)
    with pytest.raises(error, match=pattern):
        net.fit(Dataset(array), LABELS[: len(array)], steps=1, **RUN)
    assert state(net) == before


class Closed(Dataset):
    """As h5py's are once their file is closed: whatever is asked for raises."""

    shape = dtype = chunks = property(lambda self: int("its file is closed"))

    def __init__(self):
        pass


def changed_dataset(**changes):
    dataset = Dataset(X)
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


@pytest.mark.parametrize("dataset, error, pattern", [
    (Closed(), ValueError, "X is a dataset that cannot be read: .*its file is closed"),
    (changed_dataset(shape=None), ValueError, "X is a dataset whose number of rows is not known"),
    (changed_dataset(shape=(float("nan"), N_IN)), ValueError, "not known; of dask's arrays X.compute_chunk_sizes"),
    (changed_dataset(array=X[:9]), ValueError, f"X is a dataset of float32 .* shape .*; it gave \\(9, {N_IN}\\)"),
    (changed_dataset(array=X + 1j), ValueError, "it gave .* of complex64"),
    (changed_dataset(array=X[:, :1]), ValueError, f"it gave \\({N}, 1\\)"),
], ids=["closed", "no shape", "unknown length", "shorter", "complex", "one column"])  # fmt: skip
def test_a_dataset_that_does_not_give_what_it_says_is_refused_by_name(dataset, error, pattern):
    net = build()
    before = state(net)
    with pytest.raises(error, match=pattern):
        net.fit(dataset, LABELS, steps=1, **RUN)
    assert state(net) == before


def test_a_dataset_of_no_rows_has_no_outputs():
    assert build().predict(Dataset(X[:0], chunks=(0, N_IN))).shape == (0, N_OUT)


# ------------------------------------------------------------------ arrays that lie column by column


@pytest.fixture(params=["a copy", "block by block"])
def whole_rows(request, monkeypatch):
    if request.param == "block by block":
        monkeypatch.setattr(samples, "GATHERED_BYTES", 0)
        monkeypatch.setattr(samples.ByColumns, "block_bytes", 900)
    return request.param


@pytest.mark.parametrize("options", [{"epochs": 3}, {"epochs": 2, "sample_weight": WEIGHT}, {"steps": 17}], ids=str)
@pytest.mark.parametrize("given", ["f8", "f4", ">f8", "i2", "?"])
def test_a_shuffled_run_over_columns_has_the_bits_of_rows(backend, given, options, whole_rows):
    x = (X * 3).astype(given)
    columns = np.asfortranarray(np.repeat(x, 2, axis=0))[::2]  # a part of such an array
    assert isinstance(samples.together(columns, np.dtype(np.float32)), samples.ByColumns) == (whole_rows != "a copy")
    net, twin = build(backend), build(backend)
    history, same = (one.fit(rows, LABELS, batch_size=8, **RUN | options) for one, rows in ((net, columns), (twin, x)))
    assert state(net) == state(twin) and np.array_equal(history.loss, same.loss)


def test_what_a_run_over_columns_fails_on_is_told_as_it_was_given(backend, whole_rows):
    bad = np.asfortranarray(X.astype(np.float64))
    bad[11, 2] = 1e300
    net = build(backend)
    with pytest.raises(fastbp.NonFiniteError, match=r"X holds 1e\+300 \(too large for float32\) at row 11, column 2"):
        net.fit(bad, LABELS, epochs=2, batch_size=8, **RUN)


def test_rows_are_put_together_where_they_lie_apart_and_a_run_goes_through_all_of_them():
    """At most 64 MiB, in the network's dtype where that is smaller; else what is given is read where it lies."""
    f4, f8 = np.dtype(np.float32), np.dtype(np.float64)
    tall = np.zeros((1 << 20, 17), order="F")
    assert samples.together(tall, f8).__class__ is samples.ByColumns  # 136 MiB
    copy = samples.together(tall[:, :16], f4)
    assert copy.nbytes == 1 << 26 and copy.flags.c_contiguous
    assert samples.together(tall.astype("i1"), f8).dtype == np.int8
    for near in (np.zeros((9, 4)), np.zeros((4, 9)).T[:, :1], np.zeros((8, 9), order="F"), csr(X), Dataset(X)):
        assert samples.together(near, f8) is near
    asked = []
    with mock.patch("fastbp.data.examples.together", lambda x, dtype: asked.append(1) or x):
        columns = np.asfortranarray(X)
        for options in ({"steps": 1}, {"epochs": 1, "shuffle": False}, {"epochs": 0}, {"epochs": 1}):
            build().fit(columns, LABELS, batch_size=8, **RUN | options)
    assert len(asked) == 1  # not for less than an epoch, nor where rows come in order


# ------------------------------------------------------------------ iterators of batches


def batches(size=8, weight=None):
    for start in range(0, N, size):
        rows = slice(start, start + size)
        yield (X[rows], LABELS[rows], *(() if weight is None else (weight[rows],)))


class Again:
    """Gives its batches anew each time."""

    def __init__(self, *args):
        self.args = args

    def __iter__(self):
        return batches(*self.args)


def parameters(net):
    return net.flatten().tobytes() + b"".join(slot.tobytes() for slot in net._state.to_dict()["slots"].values())


@pytest.mark.parametrize("source", [list, Again, tuple], ids=lambda kind: kind.__name__)
def test_batches_train_as_the_rows_in_order(backend, source):
    given = Again(8, WEIGHT) if source is Again else source(batches(8, WEIGHT))
    net, twin = build(backend), build(backend)
    history = net.fit(given, epochs=3, **RUN)
    same = twin.fit(X, LABELS, sample_weight=WEIGHT, batch_size=8, epochs=3, shuffle=False, **RUN)
    assert parameters(net) == parameters(twin)
    assert np.array_equal(history.loss, same.loss) and np.array_equal(history.step, same.step)
    assert (net.step, net.epoch, history.n_steps) == (21, 3, 21) and history.stopped is None


class Given:
    """Gives the batches of a list, as an iterator."""

    def __init__(self, source):
        self.source = source

    def __iter__(self):
        return iter(self.source)


MIXED = [  # what is plain takes a short way in a list, what is not goes between
    (X[:8], LABELS[:8]),
    (X[8:9], LABELS[8:9]),
    (X[:32].astype(np.float64), LABELS[:32].astype(np.uint8)),
    [X[:8], LABELS[:8]],
    (X[:8].tolist(), LABELS[:8].tolist(), WEIGHT[:8]),
    (X[::-1], LABELS[::-1], WEIGHT[::-1].astype(np.float32)),
    (csr(X[:5]), LABELS[:5]),
    (X[:3], LABELS[:3], np.zeros(3)),
    (X[:3], LABELS[:3], None),
    (X, np.eye(N_OUT)[LABELS]),
    (X[:8].view(np.memmap), LABELS[:8]),
    (X[:2], LABELS[:2]),
]


LISTED = [{"epochs": 3}, {"steps": 17}, {"steps": 24}, {"epochs": 1, "nonfinite": "ignore"},
          {"epochs": 2, "class_weight": {0: 2.0}}, {"epochs": 2, "eval_every": 5}]  # fmt: skip
LISTED_RULES = [
    RULE,
    fastbp.Adam(fastbp.schedules.Step(0.1, 5, 0.5), accumulate=2),
    fastbp.SGD(fastbp.schedules.ReduceOnPlateau(0.1, patience=0)),
]


@pytest.mark.parametrize("options", LISTED, ids=str)
@pytest.mark.parametrize("rule", LISTED_RULES, ids=lambda rule: type(rule.lr).__name__)
def test_a_list_of_batches_trains_as_an_iterator_of_them(backend, options, rule):
    class Slower(fastbp.Callback):
        def on_epoch_end(self, net, logs):
            if net.epoch == 1 and isinstance(net.lr, float):
                net.lr = 0.5 * net.lr

    more = {"callbacks": [Slower()]} if options == {"epochs": 3} and rule is RULE else {}
    given = [batch for batch in MIXED if "class_weight" not in options or batch[1] is not MIXED[9][1]]
    net, twin = build(backend), build(backend)
    for source, one in ((given, net), (Given(given), twin)):
        history = [one.fit(source, loss="softmax_cross_entropy", optimizer=rule, **options, **more) for _ in range(2)]
        one.told = [(h.loss.tolist(), h.step.tolist(), h.lr.tolist(), h.n_steps, h.stopped) for h in history]
    assert net.told == twin.told and net.step > 10
    assert state(net) == state(twin)


@pytest.mark.parametrize("bad", [0, 5, 6])
def test_a_batch_of_a_list_whose_update_overflows_is_found_by_a_replay(backend, bad):
    given = [(x, 1e4 * np.eye(3)[y], np.full(len(x), float(k == bad))) for k, (x, y) in enumerate(batches())]
    net, twin = build(backend), build(backend)
    with pytest.raises(fastbp.NonFiniteError, match="a parameter became") as error:
        net.fit(given, epochs=2, optimizer=fastbp.SGD(lr=3e38))
    assert error.value.step == net.step == bad and net._state.place.tolist() == [0, bad]
    assert np.array_equal(net.flatten(), twin.flatten())


class _Stops(fastbp.Callback):
    def on_eval(self, net, logs):
        raise fastbp.StopTraining


WITHIN_A_PASS = {  # calls that end there
    "steps": lambda net: net.fit([*batches()], steps=3, **RUN),
    "steps of an array": lambda net: net.fit(X, LABELS, batch_size=8, steps=3, **RUN),
    "an error": lambda net: net.fit([*batches()][:3] + [(X[:8, 1:], LABELS[:8])], epochs=1, **RUN),
    "a callback": lambda net: net.fit([*batches()], epochs=1, eval_every=3, callbacks=[_Stops()], **RUN),
}


@pytest.mark.parametrize("before", WITHIN_A_PASS)
def test_a_run_over_a_list_after_one_that_ended_within_a_pass_makes_all_of_its_passes(backend, before):
    net = build(backend)
    with contextlib.suppress(ValueError):
        WITHIN_A_PASS[before](net)
    assert net.step == 3 and net._state.place[1]
    for epochs in (1, 3):
        assert net.fit([*batches()], epochs=epochs, **RUN).n_steps == 7 * epochs


def test_batches_of_one_row_in_a_list_are_train_steps(backend):
    """The program of such a run has room for them from the first on."""
    net, twin = build(backend), build(backend)
    history = net.fit([(X[k : k + 1], LABELS[k : k + 1]) for k in range(9)], epochs=2, **RUN)
    told = [twin.train_step(X[k : k + 1], LABELS[k : k + 1], **RUN) for _ in range(2) for k in range(9)]
    assert net.flatten().tobytes() == twin.flatten().tobytes()
    assert np.allclose(history.loss, np.reshape(told, (2, 9)).mean(axis=1), rtol=1e-15)


def test_plain_batches_of_a_list_are_trained_on_in_one_call():
    need_extension()
    net = build("cython")
    one = mock.Mock(side_effect=feeds.ListedRun._train_batch)
    with mock.patch.object(feeds.ListedRun, "_train_batch", lambda *given, **named: one(*given, **named)):
        net.fit([*batches(8, WEIGHT)] * 20, epochs=2, **RUN)
    assert net.step == 280 and one.call_count <= 1  # the first, which is larger than any before


def test_batches_train_as_the_same_train_steps(backend):
    net, twin = build(backend), build(backend)
    sizes = [(0, 5), (5, 40), (40, 41), (3, 53)]  # of any size, also beyond `batch_size`
    net.fit(((X[a:b], LABELS[a:b]) for a, b in sizes), epochs=1, batch_size=4, **RUN)
    for a, b in sizes:
        twin.train_step(X[a:b], LABELS[a:b], **RUN)
    assert parameters(net) == parameters(twin)


def test_no_more_is_taken_from_an_iterator_than_steps_asks_for(backend):
    endless = (batch for _ in iter(int, 1) for batch in batches())
    net, twin = build(backend), build(backend)
    for steps in (3, 1, 0, 9):
        net.fit(endless, steps=steps, **RUN)
    twin.fit(X, LABELS, batch_size=8, shuffle=False, steps=13, **RUN)
    assert parameters(net) == parameters(twin)


def test_steps_go_round_batches_that_start_anew(backend):
    net, twin = build(backend), build(backend)
    history = net.fit(Again(), steps=16, **RUN)
    same = twin.fit(X, LABELS, batch_size=8, shuffle=False, steps=16, **RUN)
    assert parameters(net) == parameters(twin) and np.array_equal(history.loss, same.loss)
    assert history.step.tolist() == [7, 14, 16] and net.epoch == 2
    net = build(backend)
    assert net.fit(Again(), steps=14, **RUN).step.tolist() == [7, 14] and net.epoch == 2  # the end of the pass is seen
    net.fit(X, LABELS, steps=1, **RUN)
    assert net._state.place.tolist() == [2, 32]


def test_each_call_begins_a_pass_and_so_an_epoch(backend):
    net = build(backend)
    for steps, place in ((3, [0, 3]), (2, [1, 2]), (7, [3, 0]), (1, [3, 1]), (0, [3, 1]), (9, [5, 2])):  # 7 are a pass
        net.fit(Again(), steps=steps, **RUN)
        assert net._state.place.tolist() == place
    twin = build(backend)
    for steps in (3, 2, 7, 1, 9):
        twin.fit((batch for _ in range(2) for batch in batches()), steps=steps, **RUN)
    assert parameters(net) == parameters(twin)


def test_an_iterator_that_ends_early_says_so(backend):
    net = build(backend)
    history = net.fit(batches(), steps=99, **RUN)
    assert history.n_steps == net.step == 7 and history.stopped == "X gave fewer batches than the 99 of steps="
    assert net.fit(batches(), epochs=1, **RUN).stopped is None


def test_what_waits_sees_each_pass(backend):
    told = []

    class Tells(fastbp.Callback):
        def on_epoch_end(self, net, logs):
            told.append((net.step, logs["loss"], logs["val_accuracy"]))

    net, twin = build(backend), build(backend)
    options = RUN | {"epochs": 3, "validation_data": (X, LABELS), "metrics": ["accuracy"]}
    history = net.fit(Again(), callbacks=[Tells()], **options)
    same = twin.fit(X, LABELS, batch_size=8, shuffle=False, **options)
    assert np.array_equal(history.val_loss, same.val_loss)
    assert told == list(zip(same.step, same.loss, same.metrics["val_accuracy"]))
    every = build(backend).fit(Again(), eval_every=4, **options)
    assert every.step.tolist() == [4, 8, 12, 16, 20]
    first = build(backend).fit(X, LABELS, batch_size=8, shuffle=False, steps=4, **RUN)
    assert every.loss[0] == first.loss[0] and every.val_loss.shape == (5,)


def test_an_error_in_a_batch_says_which(backend):
    with pytest.raises(ValueError, match="a batch: X has 5 column") as error:
        build(backend).fit([*batches()][:3] + [(X[:8, 1:], LABELS[:8])], epochs=1, **RUN)
    assert error.value.__notes__ == ["in batch 3 of the pass, counted from 0"]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_a_batch_may_be_made_in_a_buffer_that_is_used_again(backend, weighted):
    def reuse():
        buffers = np.empty((8, N_IN), np.float32), np.empty(8, np.int64), np.empty(8)
        for batch in batches(8, WEIGHT):
            if len(batch[0]) == 8:
                for buffer, part in zip(buffers, batch):
                    buffer[...] = part
                yield buffers if weighted else buffers[:2]
                for buffer in buffers:
                    buffer[...] = 1

    net, twin = build(backend), build(backend)
    net.fit(reuse(), epochs=1, **RUN)
    twin.fit(X[:48], LABELS[:48], batch_size=8, epochs=1, shuffle=False,
             sample_weight=WEIGHT[:48] if weighted else None, **RUN)  # fmt: skip
    assert parameters(net) == parameters(twin)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_batches_may_be_sparse_and_weighed_by_class(backend, weighted):
    net, twin = build(backend), build(backend)
    given = [(csr(x), y, *weight) for x, y, *weight in batches(8, WEIGHT if weighted else None)]
    net.fit(given, epochs=2, class_weight={1: 4.0}, **RUN)
    weight = np.array([1, 4, 1.0])[LABELS] * (WEIGHT if weighted else 1)
    twin.fit(X, LABELS, batch_size=8, epochs=2, sample_weight=weight, shuffle=False, **RUN)
    assert parameters(net) == parameters(twin)
    net.fit([(X, LABELS, np.zeros(N))], epochs=1, **RUN | {"optimizer": fastbp.SGD(lr=0.1)})  # no gradient


def threads():
    return [one for one in threading.enumerate() if one.name == "fastbp batches" and one.is_alive()]


class Oops(Exception):
    pass


@pytest.mark.parametrize("error", [Oops(), KeyboardInterrupt(), SystemExit(), StopAsyncIteration()], ids=repr)
@pytest.mark.parametrize("good", [0, 1, 5])
def test_an_error_of_the_iterator_comes_out_and_its_thread_is_gone(backend, error, good):
    def failing():
        for k, batch in enumerate(batches()):
            if k == good:
                raise error
            yield batch

    net = build(backend)
    with pytest.raises(type(error)) as caught:
        net.fit(failing(), epochs=1, **RUN)
    assert caught.value is error and net.step == good and not threads()
    twin = build(backend)
    twin.fit(X, LABELS, steps=good, batch_size=8, shuffle=False, **RUN)
    assert parameters(net) == parameters(twin) or good == 0
    net.fit(X, LABELS, epochs=1, **RUN)


@pytest.mark.parametrize("moment", [1, 2, 6])
def test_a_run_that_ends_early_ends_the_thread_too(backend, moment):
    class Stops(fastbp.Callback):
        def __init__(self, error):
            self.error = error

        def on_eval(self, net, logs):
            if net.step == moment:
                raise self.error

    for error in (fastbp.StopTraining(), Oops(), KeyboardInterrupt()):
        net = build(backend)
        endless = (batch for _ in iter(int, 1) for batch in batches())
        try:
            net.fit(endless, steps=10**9, eval_every=1, callbacks=[Stops(error)], **RUN)
        except (Oops, KeyboardInterrupt):
            pass
        assert net.step == moment and not threads()


def test_ctrl_c_ends_a_run_that_waits_for_its_iterator():
    program = """
        import os, signal, threading, time
        import numpy as np, fastbp

        def slow():
            for k in range(50):
                yield np.ones((4, 3)), np.ones((4, 1))
                if k == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0.3)

        net = fastbp.MLP((3, 2, 1), seed=0)
        try:
            net.fit(slow(), steps=50)
        except KeyboardInterrupt:
            print(net.step <= 3, threading.active_count(), net.fit(np.ones((4, 3)), np.ones(4), steps=2).n_steps)
    """
    assert python(program) == "True 1 2\n"


def test_two_batches_are_fetched_ahead():
    """Two wait while the kernels run, one more is made, and one is looked at, to see whether the pass has ended."""
    fetched, ahead, until = [], [], time.monotonic() + 20

    def source():
        for _ in range(60):
            fetched.append(1)
            yield X[:4], LABELS[:4]

    class Looks(fastbp.Callback):
        def on_eval(self, net, logs):
            while len(fetched) < min(net.step + 4, 60) and time.monotonic() < until:
                time.sleep(1e-4)
            time.sleep(0.002)  # in which a thread that takes more takes more
            ahead.append(len(fetched) - net.step)

    build().fit(source(), steps=60, eval_every=1, callbacks=[Looks()], **RUN)
    assert ahead == [4] * 56 + [3, 2, 1, 0]  # of 60 in all


@pytest.mark.parametrize("kept", [1 << 26, 500], ids=["all kept", "snapshots often"])
@pytest.mark.parametrize("bad", [0, 5, 6, 7, 9, 13])
def test_a_batch_whose_update_overflows_is_found_by_a_replay(backend, bad, kept, monkeypatch):
    """In the first pass or the second. The others weigh nothing, and change nothing."""
    monkeypatch.setattr(feeds, "_KEPT_BYTES", kept)
    given = [(x, 1e4 * np.eye(3)[y], np.full(len(x), float(k == bad))) for k, (x, y) in enumerate([*batches()] * 2)]
    passes = iter([given[:7], given[7:]])

    class Twice:
        def __iter__(self):
            return iter(next(passes))

    net, twin = build(backend), build(backend)
    with pytest.raises(fastbp.NonFiniteError, match="a parameter became") as error:
        net.fit(Twice(), epochs=2, optimizer=fastbp.SGD(lr=3e38))
    assert error.value.step == net.step == bad
    assert net._state.place.tolist() == [bad // 7, bad % 7]
    assert np.array_equal(net.flatten(), twin.flatten())


@pytest.mark.parametrize("nonfinite, chunk", [("raise", 0.05), ("ignore", 0.05), ("ignore", 0.0)])
def test_batches_kept_for_a_replay_are_few(backend, nonfinite, chunk, monkeypatch):
    """Most of their bytes are those of targets and weights. Where nothing is replayed they are those of one chunk."""
    monkeypatch.setattr(feeds, "_KEPT_BYTES", 500_000 if chunk else 1 << 26)
    monkeypatch.setattr(feeds, "CHUNK_SECONDS", chunk)
    monkeypatch.setattr("fastbp.training.run.SNAPSHOT_SECONDS", 1e9)
    batch = np.ones((1000, 1), np.float32), np.zeros(1000, np.int64), np.ones(1000)  # 20,000 bytes
    net, options = build(backend, sizes=(1, 2, 2)), RUN | {"nonfinite": nonfinite}
    net.fit(iter([batch]), steps=1, **options)  # makes what stays
    tracemalloc.start()
    try:
        net.fit((batch for _ in iter(int, 1)), steps=100, **options)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert net.step == 101 and most < 1_000_000  # and some more batches, and what a step works with


def test_a_batch_that_is_not_finite_is_named(backend):
    x = X.copy()
    x[29, 2] = np.inf
    net = build(backend)
    with pytest.raises(fastbp.NonFiniteError, match="X holds inf at row 5, column 2") as error:  # of its batch
        net.fit([(x[k : k + 8], LABELS[k : k + 8]) for k in range(0, N, 8)], epochs=2, **RUN)
    assert error.value.step == net.step == 3
    twin = build(backend)
    twin.fit(X, LABELS, steps=3, batch_size=8, shuffle=False, **RUN)
    assert parameters(net) == parameters(twin)


WRONG = {
    "an array alone": (X, {}, TypeError, "y must hold numbers, got None"),
    "no iterable": (3, {}, TypeError, "y must hold numbers, got None.*int"),
    "a sparse matrix alone": (csr(X), {}, TypeError, "y must hold numbers"),
    "epochs of a generator": (batches(), {"epochs": 2}, ValueError, "epochs=2"),
    "no tuple": ([X], {}, TypeError, r"\(X, y\).*ndarray"),
    "a tuple of four": ([(X, LABELS, WEIGHT, 1)], {}, TypeError, r"\(X, y\).*4 items"),
    "a batch of other columns": ([(X[:, 1:], LABELS)], {}, ValueError, "a batch: X has 5 column"),
    "a batch of a wrong label": ([(X, LABELS + 1)], {}, ValueError, "a batch: y must be class labels"),
    "a batch without rows": ([(X[:0], LABELS[:0])], {}, ValueError, "a batch: X has no rows"),
    "no batches": ([], {}, ValueError, "X gives no batches"),
    "sample_weight": (Again(), {"sample_weight": WEIGHT}, ValueError, "sample_weight.*batches"),
    "validation_split": (Again(), {"validation_split": 0.2}, ValueError, "validation_split.*batches"),
    "balanced": (Again(), {"class_weight": "balanced"}, ValueError, "balanced.*batches"),
    "metrics": (Again(), {"metrics": ["accuracy"]}, ValueError, "metrics.*validation_data"),
    "epochs and steps": (Again(), {"steps": 2}, ValueError, "epochs and steps"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_batches_are_refused(backend, what):
    source, options, error, pattern = WRONG[what]
    net = build(backend)
    before = net.flatten()
    with pytest.raises(error, match=pattern):
        net.fit(source, **RUN | {"epochs": 1} | options)
    assert np.array_equal(net.flatten(), before) and net.step == 0 and not threads()


def test_signals_leave_no_thread_and_a_network_that_can_be_used():
    """Ctrl-C at many moments of runs over batches and CSR rows."""
    r = np.random.default_rng(0)
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for k in range(400 if every_case else 40):
            net, source = build(), (Again(), [*batches()])[k // 2 % 2] if k % 2 else csr(X)
            try:
                signal.setitimer(signal.ITIMER_REAL, r.uniform(1e-4, 0.02))
                net.fit(source, None if k % 2 else LABELS, epochs=5000, **RUN)
            except KeyboardInterrupt:
                pass
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert not threads() and np.isfinite(net.flatten()).all()
            if k % 2 == 0:  # 2 steps an epoch
                assert net._state.place.tolist() == [net.step // 2, 32 * (net.step % 2)]
            net.fit(X, LABELS, epochs=1, **RUN)
    finally:
        signal.signal(signal.SIGALRM, old)
