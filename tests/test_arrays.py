"""Whatever an array's layout and dtype: bitwise the result of a plain copy, not a byte read or written beside it."""

from decimal import Decimal
from functools import partial

import numpy as np
import pytest
from conftest import need_extension
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from others import DLPack, Frame, Tensor
from test_process import python
from tolerance import assert_close

import fastbp

RNG_SEED = 20260801


def network(sizes, dtype, backend, **options):
    options = {"activation": "tanh", "seed": 3} | options
    return fastbp.MLP(sizes, dtype=dtype, backend=backend, **options)


RULE = fastbp.SGD(lr=0.05, momentum=0.9)


def _forward_backward(net, X, y, loss, weight):
    output = net.forward(X)
    grad_input = net.backward(np.ones_like(output))
    return output, grad_input, np.concatenate([g.ravel() for g in (*net.grad_weights, *net.grad_biases)])


# verb -> the arrays that a call of it gives; the batch of 4 leaves a smaller one at the end of 11 rows
VERBS = {
    "fit": lambda net, X, y, loss, weight: [
        net.fit(X, y, loss=loss, sample_weight=weight, optimizer=RULE, batch_size=4, steps=7).loss
    ],
    "fit in order": lambda net, X, y, loss, weight: [
        net.fit(X, y, loss=loss, sample_weight=weight, optimizer=RULE, batch_size=4, steps=7, shuffle=False).loss
    ],
    "train_step": lambda net, X, y, loss, weight: [net.train_step(X, y, loss=loss, sample_weight=weight)],
    "predict": lambda net, X, y, loss, weight: [net.predict(X)],
    "evaluate": lambda net, X, y, loss, weight: [net.evaluate(X, y, loss=loss, sample_weight=weight)],
    "loss_and_grad": lambda net, X, y, loss, weight: net.loss_and_grad(X, y, loss=loss, sample_weight=weight),
    "forward and backward": _forward_backward,
}


def outcome(verb, net, X, y, loss="mse", weight=None):
    """Everything that a verb changes or returns, as bytes."""
    results = VERBS[verb](net, X, y, loss, weight)
    return [np.asarray(array).tobytes() for array in (*results, net.flatten())]


def assert_as_plain_copies(build, X, y, loss="mse", weight=None):
    """Each verb gives the bits that it gives on contiguous copies in the network's dtype, and writes neither array."""
    plain_X = np.array(X, dtype=build().dtype, order="C")
    plain_y = np.array(y, dtype=np.int64 if y.ndim == 1 and loss == "softmax_cross_entropy" else build().dtype)
    plain_weight = None if weight is None else np.array(weight, dtype=np.float64)
    before = X.tobytes(), y.tobytes(), None if weight is None else weight.tobytes()
    for verb in VERBS:
        wanted = outcome(verb, build(), plain_X, plain_y, loss, plain_weight)
        assert outcome(verb, build(), X, y, loss, weight) == wanted, verb
    assert before == (X.tobytes(), y.tobytes(), None if weight is None else weight.tobytes())


# ------------------------------------------------------------------ layouts


def shifted(values, n_bytes):
    """The same values, `n_bytes` after a cache line's start."""
    room = np.zeros(values.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + n_bytes
    array = np.ndarray(values.shape, values.dtype, room.data, start)
    array[...] = values
    return array


def spread(values, row_step, column_step, *, order="C"):
    """The same values in a larger array, `row_step` and `column_step` elements apart (negative: backwards)."""
    shape = [max(1, abs(step)) * n + 3 for n, step in zip(values.shape, (row_step, column_step))]
    room = np.full(shape, 77, values.dtype, order=order)
    rows, columns = (slice(1, 1 + abs(step) * n, abs(step)) for n, step in zip(values.shape, (row_step, column_step)))
    part = room[rows, columns][:: np.sign(row_step), :: np.sign(column_step)]
    part[...] = values
    return part


def record_field(values):
    """A field of packed records: strides are no multiple of the item's size."""
    room = np.zeros(values.shape, np.dtype([("flag", "u1"), ("value", values.dtype), ("more", "u2")]))
    room["value"] = values
    return room["value"]


def read_only(values):
    array = values.copy()
    array.flags.writeable = False
    return array


def no_aligned_row(values):
    """Rows one byte longer than their values."""
    pitch = values.shape[1] * values.itemsize + 1
    room = np.zeros(len(values) * pitch + 64, np.uint8)
    array = np.ndarray(values.shape, values.dtype, room.data, 0, (pitch, values.itemsize))
    array[...] = values
    return array


LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "transposed view": lambda v: np.ascontiguousarray(v.T).T,
    "every second row": lambda v: spread(v, 2, 1),
    "every third column": lambda v: spread(v, 1, 3),
    "rows backwards": lambda v: spread(v, -1, 1),
    "columns backwards": lambda v: spread(v, 1, -1),
    "both backwards, with steps": lambda v: spread(v, -2, -3),
    "a part of a Fortran array": lambda v: spread(v, 2, 1, order="F"),
    "a part of rows 1024 elements long": lambda v: np.pad(v, ((0, 0), (0, 1024 - v.shape[1])))[:, : v.shape[1]],
    "one row for all": lambda v: np.broadcast_to(v[0], v.shape),
    "one column for all": lambda v: np.broadcast_to(v[:, :1], v.shape),
    "one number for all": lambda v: np.broadcast_to(v[0, 0], v.shape),
    "overlapping windows": lambda v: sliding_window_view(np.resize(v, sum(v.shape) - 1), v.shape[1]),
    "shifted by one byte": lambda v: shifted(v, 1),
    "rows shifted by one byte each": no_aligned_row,
    "field of records": record_field,
    "byte-swapped": lambda v: v.astype(v.dtype.newbyteorder()),
    "byte-swapped, shifted, backwards": lambda v: shifted(v.astype(v.dtype.newbyteorder()), 3)[::-1],
    "read-only": read_only,
}  # fmt: skip

# in features, hidden, out: below, at and above the width of vectors and of a line; 256 float32 are 1024 bytes
SHAPES = [(7, 5, 3), (1, 1, 1), (16, 16, 16), (33, 18, 17), (256, 6, 2)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_any_layout_gives_the_bits_of_a_plain_copy(kernels, dtype, sizes, layout):
    rng = np.random.default_rng(RNG_SEED)
    X = LAYOUTS[layout](rng.normal(size=(11, sizes[0])).astype(dtype))
    y = LAYOUTS[layout](rng.normal(size=(11, sizes[-1])).astype(dtype))
    weight = LAYOUTS[layout](rng.uniform(0.5, 2, size=(11, 4)))[:, 1]
    assert_as_plain_copies(lambda: network(sizes, dtype, kernels), X, y)
    assert_as_plain_copies(lambda: network(sizes, dtype, kernels), X, y, weight=weight)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["u1", "i4", "i8"])
def test_labels_in_any_layout_and_dtype_give_the_bits_of_plain_ones(backend, dtype, layout, kind):
    rng = np.random.default_rng(RNG_SEED)
    X = LAYOUTS[layout](rng.normal(size=(11, 6)).astype(dtype))
    labels = LAYOUTS[layout](rng.integers(0, 5, size=(11, 3)).astype(kind))[:, 1]
    assert_as_plain_copies(lambda: network((6, 9, 5), dtype, backend), X, labels, "softmax_cross_entropy")


@pytest.mark.parametrize("sizes", [(7, 5, 3), (33, 18, 17)], ids=str)
def test_every_start_within_a_cache_line_gives_the_same_bits(kernels, dtype, sizes):
    rng = np.random.default_rng(RNG_SEED)
    X, y = (rng.normal(size=(11, width)).astype(dtype) for width in (sizes[0], sizes[-1]))
    for verb in VERBS:
        wanted = outcome(verb, network(sizes, dtype, kernels), X, y)
        for n_bytes in range(64):
            found = outcome(verb, network(sizes, dtype, kernels), shifted(X, n_bytes), shifted(y, 63 - n_bytes))
            assert found == wanted, (verb, n_bytes)


def test_memory_mapped_files_are_read_as_arrays_are(kernels, dtype, tmp_path):
    rng = np.random.default_rng(RNG_SEED)
    maps = []
    for name, width in (("X", 7), ("y", 3)):
        values = rng.normal(size=(11, width)).astype(dtype)
        (tmp_path / name).write_bytes(b"12345" + values.tobytes())
        maps.append(np.memmap(tmp_path / name, dtype, "r", offset=5, shape=values.shape))
    assert_as_plain_copies(lambda: network((7, 5, 3), dtype, kernels), *maps)


@st.composite
def arrays(draw, n_rows, n_columns, kinds):
    """Two-dimensional arrays of any real dtype, byte order, start, and strides in bytes."""
    kind = np.dtype(draw(st.sampled_from(kinds))).newbyteorder(draw(st.sampled_from("<>")))
    size, shape = kind.itemsize, (n_rows, n_columns)
    extra = st.integers(0, 2 * size + 1)  # bytes: strides need not be multiples of the item's size
    inner = draw(st.sampled_from([0, 1]))  # the axis whose elements lie closest together
    strides = [0, 0]
    strides[inner] = size + draw(extra)
    strides[1 - inner] = strides[inner] * shape[inner] + draw(extra)
    for axis in (0, 1):
        strides[axis] *= draw(st.sampled_from([1, 1, 1, -1, 0]))
    start = draw(st.integers(0, 63))
    room = np.zeros(64 + 64 + sum(abs(step) * n for step, n in zip(strides, shape)) + size, np.uint8)
    first = -room.ctypes.data % 64 + start + sum(-step * (n - 1) for step, n in zip(strides, shape) if step < 0)
    array = np.ndarray(shape, kind, room.data, first, strides)
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    if kind.kind == "f":
        array[...] = rng.normal(size=shape)
    else:
        array[...] = rng.integers(0, 3 if kind.kind == "b" else 100, size=shape)
    array.flags.writeable = draw(st.booleans())
    return array


ANY_REAL = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]


@given(data=st.data())
def test_arrays_of_any_making_give_the_bits_of_plain_copies(data):
    # fixtures would be shared by hypothesis' examples: the backend is drawn
    names = [name for name in fastbp.backends.NAMES if not fastbp.backends.missing(name)]
    backend, dtype = data.draw(st.sampled_from(names)), np.dtype(data.draw(st.sampled_from(["f4", "f8"])))
    n, n_in, n_out = (data.draw(st.integers(1, high)) for high in (9, 40, 20))
    X, y = (data.draw(arrays(n, width, ANY_REAL)) for width in (n_in, n_out))
    weight = data.draw(st.none() | arrays(n, 2, ["f4", "f8", "u1"]).map(lambda array: abs(array[:, 1]) + 1))
    # lr is so small that no integer target makes the run diverge
    assert_as_plain_copies(lambda: network((n_in, 5, n_out), dtype, backend), X, y, weight=weight)


# ------------------------------------------------------------------ casts

_ONE, _FINE = np.longdouble(1), np.longdouble(2) ** -60
CASTS = {  # values that a cast by way of another type, or by truncation, gets wrong in float32 or float64
    "float16": np.array([0.1, 6e-8, 65504, -1 / 3, 0, 1], "f2"),
    "float32": np.array([0.1, 1e-40, 3e38, -1 / 3, 0, 1], "f4"),
    "float64 to float32 half-way": np.array([1 + 2.0**-24, 1 + 3 * 2.0**-24, 0.1, 1e-46, 1e-40, -1 / 3], "f8"),
    "longdouble": np.array([_ONE + _ONE / 2**24 + _FINE, _ONE + _ONE / 2**53 + _FINE / 2**3, _ONE / 3, 0.1, 1, 0]),
    "int64": np.array([2**60 + 2**36 + 1, 2**24 + 1, 2**53 + 1, -(2**63), 2**63 - 1, -1], "i8"),
    "uint64": np.array([2**63 + 2**39 + 1, 2**64 - 1, 2**53 + 1, 2**63, 0, 1], "u8"),
    "int32": np.array([2**24 + 1, 2**31 - 1, -(2**31), -1, 0, 1], "i4"),
    "uint32": np.array([2**24 + 1, 2**32 - 1, 2**31, 3, 0, 1], "u4"),
    "int16": np.array([-(2**15), 2**15 - 1, -1, 0, 1, 2], "i2"),
    "uint16": np.array([2**16 - 1, 2**15, 3, 0, 1, 2], "u2"),
    "int8": np.array([-128, 127, -1, 0, 1, 2], "i1"),
    "uint8": np.array([255, 128, 3, 0, 1, 2], "u1"),
    "bool": np.array([True, False, False, True, True, False]),
    "bool of bytes beyond 1": np.array([2, 255, 0, 1, 128, 64], "u1").view(bool),
    ">f4": np.array([0.1, 1e-40, 3e38, -1 / 3, 0, 1], ">f4"),
    ">f8": np.array([1 + 2.0**-24, 1 + 3 * 2.0**-24, 0.1, 0, 1e-40, -1 / 3], ">f8"),
    ">i4": np.array([2**24 + 1, 2**31 - 1, -(2**31), -1, 0, 1], ">i4"),
    ">i8": np.array([2**60 + 2**36 + 1, 2**24 + 1, 2**53 + 1, -(2**63), 2**63 - 1, -1], ">i8"),
    "objects": np.array([0.1, 2, True, np.float32(0.3), -1, 0], object),
    "list": [0.1, 2, True, 3.5, -1, 0],
}


@pytest.mark.parametrize("values", CASTS)
def test_x_is_cast_as_astype_does(kernels, dtype, values):
    """A layer with one input and the weight 1 shows the cast value itself."""
    column = np.reshape(CASTS[values], (-1, 1))
    net = network((1, 1), dtype, kernels, init=[np.ones((1, 1))], bias=False)
    wanted = column.astype(dtype)
    given = column if isinstance(CASTS[values], np.ndarray) else [[value] for value in CASTS[values]]
    for found in (net.predict(given), net.forward(given)):
        assert found.dtype == dtype and found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("values", CASTS)
def test_y_is_cast_as_astype_does(kernels, dtype, values):
    """With the output 0 and one row, the gradient of half the squared error is -t itself."""
    for value in np.asarray(CASTS[values]):
        net = network((1, 1), dtype, kernels, init="zeros", bias=True)
        y = np.full((1, 1), value)
        gradient = net.loss_and_grad(np.zeros((1, 1)), y, loss="half_squared_error")[1]
        assert gradient[-1] == -y.astype(dtype)[0, 0], value


@pytest.mark.parametrize("order", "<>")
def test_each_half_is_the_number_that_it_is_for_numpy(order, kernels, dtype):
    """All 65,536: subnormals and zeros of either sign, infinities and NaN too."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)[:, None]
    net = network((1, 1), dtype, kernels, init=[np.ones((1, 1))], bias=False)
    assert np.array_equal(net.predict(halves.astype(f"{order}f2")), halves.astype(dtype), equal_nan=True)


@pytest.mark.parametrize("kind", ANY_REAL + ["g", ">i2", ">u8", ">f2"])
def test_every_real_dtype_trains_as_its_cast(backend, dtype, kind):
    rng = np.random.default_rng(RNG_SEED)
    X, y = (rng.uniform(0, 3, size=(11, width)).astype(kind) for width in (7, 3))
    assert_as_plain_copies(lambda: network((7, 5, 3), dtype, backend), X, y)


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">u4", ">i8"])
def test_labels_of_every_integer_dtype_train_as_int64(backend, dtype, kind):
    rng = np.random.default_rng(RNG_SEED)
    X = rng.normal(size=(11, 6)).astype(dtype)
    y = rng.integers(0, 2, size=11).astype(kind)
    assert_as_plain_copies(lambda: network((6, 4, 3), dtype, backend), X, y, "softmax_cross_entropy")


OBJECT_LABELS = {
    "Python's integers": lambda y: y.astype(object),
    "NumPy's integers": lambda y: np.array([*map(np.int16, y), None], object)[:-1],
    "truth values": lambda y: y.astype(bool).astype(object),
    "NumPy's truth values": lambda y: np.array([*map(np.bool_, y), None], object)[:-1],
    "of several kinds": lambda y: np.array([True, np.uint8(1), *map(int, y[2:])], object),
}


@pytest.mark.parametrize("objects", OBJECT_LABELS)
def test_labels_that_are_objects_train_as_int64(backend, dtype, objects):
    rng = np.random.default_rng(RNG_SEED)
    X = rng.normal(size=(11, 6)).astype(dtype)
    y = OBJECT_LABELS[objects](rng.integers(0, 2, size=11))
    assert y.dtype == object
    for verb in {*VERBS} - {"forward and backward"}:
        wanted, found = (
            outcome(verb, network((6, 4, 3), dtype, backend), X, labels, "softmax_cross_entropy")
            for labels in (y.astype(np.int64), y)
        )
        assert found == wanted, verb


def test_whole_numbers_that_are_objects_are_cast_once(kernels):
    """2**60 + 2**36 + 1 is above half-way between two float32, but on it once it is a float64."""
    net = network((1, 1), "float32", kernels, init=[np.ones((1, 1))], bias=False)
    for value in (2**60 + 2**36 + 1, 2**63 + 2**39 + 1):
        assert net.predict(np.array([[value]], object))[0, 0] == np.array([[value]]).astype(np.float32)[0, 0]
    assert net.predict(np.array([[2**70]], object))[0, 0] == 2.0**70


@pytest.mark.parametrize("kind", ["?", "u1", "i8", "f2", "f4", ">f4", ">f8", "g"])
def test_sample_weights_of_every_real_dtype_weigh_as_float64(backend, dtype, kind):
    rng = np.random.default_rng(RNG_SEED)
    X, y = (rng.normal(size=(11, width)).astype(dtype) for width in (7, 3))
    weight = (rng.integers(0, 3, size=11) + np.eye(11)[4]).astype(kind)
    assert_as_plain_copies(lambda: network((7, 5, 3), dtype, backend), X, y, weight=weight)


LEAST = np.ldexp(1.0, -1074)  # the least number above 0
SMALL_WEIGHTS = {  # of 11 rows; in order they come in batches of 4, 4 and 3
    "of which a sum has no reciprocal": 1e-310 * np.arange(11),
    "the least": LEAST * np.array([1, 2, 3, 4, 0, 1, 1, 0, 5, 1, 2]),
    "in a batch beside large ones": np.array([*(LEAST * np.array([1, 2, 3, 4])), *np.linspace(0, 2, 7)]),
}


@pytest.mark.parametrize("what", SMALL_WEIGHTS)
def test_small_sample_weights_weigh_as_their_multiples(kernels, dtype, what):
    weight = SMALL_WEIGHTS[what]
    multiple = np.ldexp(weight, 1000)
    rng = np.random.default_rng(RNG_SEED)
    X, y = (rng.normal(size=(11, width)).astype(dtype) for width in (7, 3))
    build = partial(network, (7, 5, 3), dtype, kernels)
    for verb in VERBS:
        assert outcome(verb, build(), X, y, weight=weight) == outcome(verb, build(), X, y, weight=multiple), verb
    net = build()
    wanted = np.average(((net.predict(X) - y).astype(float) ** 2).mean(axis=1), weights=multiple)
    assert_close(net.evaluate(X, y, loss="mse", sample_weight=weight), wanted, dtype)


class DataFrame:
    """As data frames are seen: no array, but it makes one."""

    def __init__(self, values, error=None):
        self.values, self.error = values, error

    def __array__(self, dtype=None, copy=None):
        if self.error is not None:
            raise self.error
        return np.array(self.values, dtype=dtype)


class Quantity(np.ndarray):
    """A subclass whose arithmetic must not matter."""

    def __array_ufunc__(self, *arguments, **options):
        raise AssertionError("arithmetic of a subclass was used")


CONTAINERS = {
    "list of lists": lambda v: v.tolist(),
    "tuple of rows": lambda v: tuple(v),
    "__array__": DataFrame,
    "np.matrix": np.asmatrix,
    "subclass": lambda v: v.view(Quantity),
    "buffer": lambda v: memoryview(np.ascontiguousarray(v)),
    "objects": lambda v: v.astype(object),
    "tensor that requires a gradient": Tensor,
    "DLPack": DLPack,
    "data frame of several dtypes": Frame,
}


@pytest.mark.filterwarnings("ignore:.*matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("container", CONTAINERS)
def test_whatever_turns_into_an_array_is_taken_as_the_array(backend, dtype, container):
    rng = np.random.default_rng(RNG_SEED)
    X, y = (rng.normal(size=(11, width)).astype(dtype) for width in (7, 3))
    wrap = CONTAINERS[container]
    for verb in VERBS:
        wanted = outcome(verb, network((7, 5, 3), dtype, backend), X, y)
        assert outcome(verb, network((7, 5, 3), dtype, backend), wrap(X), wrap(y)) == wanted, verb


@pytest.mark.filterwarnings("ignore:.*matrix subclass:PendingDeprecationWarning")
def test_outputs_are_plain_arrays_of_the_networks_dtype(backend, dtype):
    net = network((7, 5, 3), dtype, backend)
    X = np.asmatrix(np.ones((4, 7)))
    outputs = [net.predict(X), net.forward(X), net.backward(np.asmatrix(np.ones((4, 3))))]
    outputs += [net.loss_and_grad(X, np.ones((4, 3)), loss="mse")[1], net.flatten(), *net.weights, *net.grad_biases]
    assert {(type(array), array.dtype) for array in outputs} == {(np.ndarray, dtype)}
    for value in (net.evaluate(X, np.ones((4, 3)), loss="mse"), net.train_step(X, np.ones((4, 3)))):
        assert type(value) is float
    assert net.fit(X, np.ones((4, 3)), steps=1).loss.dtype == np.float64


# ------------------------------------------------------------------ other libraries

TABLE = [np.arange(11) % 3 == 1, np.arange(11) - 4, np.linspace(-1, 1, 11), np.linspace(0, 1, 11).astype("f4")]


def test_a_frame_has_the_dtype_that_holds_its_columns():
    """2**53 + 1 among truth values and integers is no float64."""
    net = network((2, 1), "float32", "reference", init=[np.array([[0], [1]])], bias=False)
    value = 2**60 + 2**36 + 1
    assert net.predict(Frame([[True], [value]]))[0, 0] == np.array([value]).astype(np.float32)[0]
    assert net.predict(Frame([[0.5], [value]]))[0, 0] == np.array([value]).astype(np.float64).astype(np.float32)[0]


FRAMES = {  # what, the library beside pandas, how it is made
    "mixed": (None, lambda frame: frame),
    "nullable": (None, lambda frame: frame.convert_dtypes()),
    "objects": (None, lambda frame: frame.astype(object)),
    "arrow": ("pyarrow", lambda frame: frame.convert_dtypes(dtype_backend="pyarrow")),
    "pyarrow": ("pyarrow", lambda frame: pytest.importorskip("pyarrow").Table.from_pandas(frame)),
    "polars": ("polars", lambda frame: pytest.importorskip("polars").DataFrame(dict(frame.items()))),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_data_frame_gives_the_bits_of_its_numbers(backend, dtype, kind):
    pandas = pytest.importorskip("pandas")
    library, make = FRAMES[kind]
    if library is not None:
        pytest.importorskip(library)
    frame = make(pandas.DataFrame(dict(zip("abcd", TABLE))))
    X, y = np.stack([column.astype(float) for column in TABLE], axis=1), np.eye(3)[np.arange(11) % 3]
    for verb in ("fit", "predict"):
        wanted = outcome(verb, network((4, 5, 3), dtype, backend), X, y)
        assert outcome(verb, network((4, 5, 3), dtype, backend), frame, y) == wanted, verb


def test_labels_of_pandas_are_labels_whatever_holds_them_and_a_missing_one_is_named(dtype):
    pandas = pytest.importorskip("pandas")
    X, labels = np.stack(TABLE, axis=1), np.arange(11) % 3
    wanted = outcome("fit", network((4, 3), dtype, "reference"), X, labels, "softmax_cross_entropy")
    series = pandas.Series(labels)
    for y in (series.astype(object), series.convert_dtypes(), series.astype("category"), pandas.Index(labels)):
        assert outcome("fit", network((4, 3), dtype, "reference"), X, y, "softmax_cross_entropy") == wanted
    missing = series.convert_dtypes()
    missing[4] = pandas.NA
    for y in (missing, missing.astype(object)):
        with pytest.raises(TypeError, match="y holds <NA> of type NAType at row 4; it is missing"):
            network((4, 3), dtype, "reference").fit(X, y, loss="softmax_cross_entropy", steps=1)
    frame = pandas.DataFrame({"price": [1.5] * 11, "rooms": missing})
    with pytest.raises(TypeError, match=r"X holds <NA> of type NAType at row 4, column 1 \('rooms'\); it is missing"):
        network((2, 3), dtype, "reference").predict(frame)
    cities = pandas.DataFrame({"price": [1.5] * 11, "city": [1, 2, "Kyiv", *range(8)]})
    with pytest.raises(TypeError, match=r"X holds 'Kyiv' of type str at row 2, column 1 \('city'\); numbers"):
        network((2, 3), dtype, "reference").predict(cities)


def test_polars_dates_and_nulls_are_no_numbers_and_lazy_frames_are_to_be_collected():
    polars = pytest.importorskip("polars")
    net = network((2, 1), "float32", "reference")
    days = polars.Series("day", ["2026-01-02", "2026-01-03"]).str.to_date()
    with pytest.raises(TypeError, match=r"X holds .*2026-01-02.* at row 0, column 1 \('day'\); numbers.*times"):
        net.predict(polars.DataFrame({"a": [1.5, 2.5], "day": days}))
    with pytest.raises(TypeError, match=r"X holds None at row 1, column 0 \('a'\); it is missing"):
        net.predict(polars.DataFrame({"a": [1, None], "b": [1.5, 2.5]}))
    with pytest.raises(TypeError, match=r"X\.collect\(\) first"):
        net.predict(polars.LazyFrame({"a": [1], "b": [1.5]}))


# numbers that bfloat16 holds; its sums and products are never asked for
SHORT = np.array([[0.5, -3.140625, 1e38], [2.0, 0.0078125, -1.0]]).astype(np.float32).view("u4") & 0xFFFF0000
SHORT = SHORT.view(np.float32)


def shows(x):
    """What a layer of ones makes of x, column by column."""
    return network((3, 3), "float32", "reference", init=[np.eye(3)], bias=False).predict(x)


def test_initial_parameters_may_be_tensors_that_require_a_gradient():
    net = fastbp.MLP((2, 3), init=[(Tensor(SHORT), Tensor(SHORT[0]))], backend="reference")
    assert np.array_equal(net.weights[0], SHORT) and np.array_equal(net.biases[0], SHORT[0])


def test_bfloat16_is_cast_exactly():
    assert np.array_equal(shows(Tensor(SHORT, "torch.bfloat16")), SHORT)


def test_dtypes_of_ml_dtypes_are_cast_exactly():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert np.array_equal(shows(SHORT.astype(ml_dtypes.bfloat16)), SHORT)
    labels = np.array([1, 0]).astype(ml_dtypes.int4)
    history = network((3, 3), "float32", "reference").fit(SHORT * 0, labels, loss="softmax_cross_entropy", steps=1)
    assert history.n_steps == 1


@pytest.mark.parametrize("name", ["float8_e5m2", "float8_e4m3fn", "int4", "uint2"])
def test_a_dtype_of_the_kind_and_size_of_no_other_is_cast_first(name, kernels):
    """float8_e5m2 is of NumPy's kind "f": the kernels know no such size."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    small = np.array([[1.0, 0.0, 2.0], [3.0, 1.0, 1.0]]).astype(getattr(ml_dtypes, name))
    net = network((3, 2), np.float32, kernels)
    assert np.array_equal(net.predict(small), net.predict(small.astype(np.float64)))
    assert net.fit(small, small[:, :2].astype(np.float64), steps=1).n_steps == 1


def test_a_masked_array_in_a_list_is_refused_as_one_by_itself(backend):
    net = network((3, 1), np.float32, backend)
    with pytest.raises(ValueError, match="X holds a masked array; fill it first"):
        net.predict([np.ones(3), np.ma.array([1.0, 1e6, 3.0], mask=[0, 1, 0])])


@pytest.mark.parametrize("given, told", [
    ([[5.1, 3.5, 1], [4.9, "n/a", 1]], "'n/a' of type str at row 1, column 1; numbers are wanted: make a column of"),
    ([["5", "6", "7"]], r"'5' of type str at row 0, column 0; numbers are wanted, and np.asarray\(X, float\)"),
    (np.array([[Decimal("1e400"), 1, 2]], object), "'1E\\+400'.*at row 0, column 0; it is too large for float64"),
], ids=["one text", "numerals", "too large"])  # fmt: skip
def test_the_culprit_among_numbers_is_named(given, told):
    with pytest.raises((TypeError, ValueError), match=f"X holds .*{told}"):
        network((3, 1), np.float32, "auto").predict(given)


def test_labels_as_text_are_told_how_they_become_labels():
    with pytest.raises(TypeError, match=r"y holds '0' of type str at row 0; .*np.asarray\(y, int\)"):
        network((3, 2), np.float32, "auto").fit(np.ones((2, 3)), ["0", "1"], loss="softmax_cross_entropy", steps=1)


def test_an_infinite_number_among_objects_stays_one():
    net = network((3, 1), np.float64, "auto")
    given = np.array([[Decimal("Infinity"), 1, 2], [float("inf"), 1, 2]], object)
    assert np.array_equal(net.predict(given), net.predict(given.astype(float)), equal_nan=True)


def test_tensors_of_torch_are_taken(peers):
    torch = peers.torch
    for dtype in (torch.float32, torch.bfloat16):
        for requires_grad in (False, True):
            assert np.array_equal(shows(torch.tensor(SHORT).to(dtype).requires_grad_(requires_grad)), SHORT)
    assert np.array_equal(shows(torch.nn.Parameter(torch.tensor(SHORT))), SHORT)
    with pytest.raises(TypeError, match="X is on the device meta; copy it"):
        shows(torch.empty((2, 3), device="meta"))


def test_an_error_of_the_objects_library_names_the_argument():
    """Polars has errors that are neither a TypeError nor a ValueError."""
    error = type("InvalidOperation", (Exception,), {"__module__": "a_library.errors"})("no such cast")
    value = type("Column", (DataFrame,), {"__module__": "a_library.columns"})([], error)
    with pytest.raises(TypeError, match="X is not an array of numbers: no such cast"):
        network((7, 5, 3), np.float32, "auto").predict(value)


def test_an_error_of_array_comes_out_as_it_is(backend):
    net = network((7, 5, 3), np.float32, backend)
    with pytest.raises(ZeroDivisionError, match="mine"):
        net.predict(DataFrame([], ZeroDivisionError("mine")))


# ------------------------------------------------------------------ shared memory


def test_x_and_y_may_be_views_of_one_array(kernels, dtype):
    table = np.random.default_rng(RNG_SEED).normal(size=(11, 10)).astype(dtype)
    assert_as_plain_copies(lambda: network((7, 5, 3), dtype, kernels), table[:, :7], table[:, 7:])
    assert_as_plain_copies(lambda: network((7, 5, 3), dtype, kernels), table[:, 3:], table[::-1, :3])
    assert_as_plain_copies(lambda: network((7, 5, 7), dtype, kernels), table[:, :7], table[:, :7])


def of_params(net, shape, start=0):
    """A view of the parameter buffer."""
    return net.params[start : start + np.prod(shape)].reshape(shape)


OWN_VIEWS = {  # data that lies in the network's own parameters: (X, y, sample_weight) of a network
    "X": lambda net: (of_params(net, (11, 7)), None, None),
    "X with strides": lambda net: (net.weights[0][:, :4].T[:, ::-1], None, None),
    "y": lambda net: (None, of_params(net, (11, 3), 5), None),
    "both": lambda net: (of_params(net, (11, 7)), of_params(net, (11, 3), 5), None),
    "sample_weight": lambda net: (None, None, of_params(net, 11)),
}


@pytest.mark.parametrize("which", OWN_VIEWS)
@pytest.mark.parametrize("verb", VERBS)
def test_views_of_the_networks_own_parameters_train_as_copies_of_them(kernels, dtype, verb, which):
    rng = np.random.default_rng(RNG_SEED)
    results = []
    for copied in (True, False):
        net = network((7, 5, 3), dtype, kernels)
        net.unflatten(np.random.default_rng(1).uniform(0.1, 0.5, net.n_params))  # all positive: weights may lie here
        net.params[net.params == 0] = 0.25  # padding; it is ignored as a parameter, not as data
        X, y, weight = OWN_VIEWS[which](net)
        X = np.ones((11, 7), dtype) if X is None else X
        rng = np.random.default_rng(RNG_SEED)
        y = rng.normal(size=(len(X), 3)).astype(dtype) if y is None else y
        assert any(np.may_share_memory(net.params, array) for array in (X, y, weight) if array is not None)
        if copied:
            X, y, weight = (None if array is None else array.copy() for array in (X, y, weight))
        results.append(outcome(verb, net, X, y, weight=weight))
    assert results[0] == results[1]


def test_grad_output_may_be_a_view_of_grads_or_of_params(kernels, dtype):
    x = np.random.default_rng(RNG_SEED).normal(size=(4, 7)).astype(dtype)
    for buffer in ("grads", "params"):
        for verb in ("backward", "backward_update"):
            results = []
            for copied in (True, False):
                net = network((7, 5, 3), dtype, kernels)
                net.forward(x)
                net.backward(np.ones((4, 3)))
                grad_output = getattr(net, buffer)[16:28].reshape(4, 3)
                grad_output = grad_output.copy() if copied else grad_output
                grad_input = getattr(net, verb)(grad_output)
                results.append([array.tobytes() for array in (grad_input, net.flatten(), *net.grad_weights)])
            assert results[0] == results[1], (buffer, verb)


def test_unflatten_takes_a_view_of_params_as_a_copy_of_it(dtype):
    """Also where the view overlaps what is written before it is read."""
    net = network((2, 3, 1), dtype, "reference")
    net.params[...] = np.arange(net.params.size)
    for start in range(net.params.size - net.n_params):
        wanted, found = (network((2, 3, 1), dtype, "reference") for _ in range(2))
        for one in (wanted, found):
            one.params[...] = net.params
        wanted.unflatten(wanted.params[start : start + net.n_params].copy())
        found.unflatten(found.params[start : start + net.n_params])
        assert found.flatten().tobytes() == wanted.flatten().tobytes(), start


# ------------------------------------------------------------------ the order of rows


@pytest.mark.parametrize("n, batch_size, width", [(11, 4, 7), (5, 5, 1), (37, 8, 256), (64, 16, 33), (9, 2, 1024)])
def test_rows_gathered_by_the_order_train_as_rows_gathered_beforehand(kernels, dtype, n, batch_size, width):
    """Also where rows are wide, or lie in a cast, strided array (what the order itself is: test_known_answers)."""
    rng = np.random.default_rng(RNG_SEED)
    X, y = rng.normal(size=(n, 2 * width)).astype(">f8")[:, ::-2], rng.normal(size=(n, 2)).astype(dtype)
    weight = rng.uniform(0.5, 2, size=n)
    shuffled, gathered = (network((width, 6, 2), dtype, kernels) for _ in range(2))
    common = {"batch_size": batch_size, "optimizer": RULE, "epochs": 1}
    for epoch in range(3):
        rows = fastbp.order.epoch_order(3, epoch, n)
        history = shuffled.fit(X, y, sample_weight=weight, **common)
        plain = np.array(X, dtype)[rows], y[rows]
        wanted = gathered.fit(*plain, sample_weight=weight[rows], shuffle=False, **common)
        assert history.loss.tobytes() == wanted.loss.tobytes()
        assert shuffled.flatten().tobytes() == gathered.flatten().tobytes()


# ------------------------------------------------------------------ guard pages

GUARDED = """
    import ctypes, itertools, mmap, os, sys
    import numpy as np, fastbp

    PAGE = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    class Walled:
        "Pages with an unmapped one before and after them."

        def __init__(self, pages):
            self.size = pages * PAGE
            base = libc.mmap(None, self.size + 2 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE, 0x22, -1, 0)
            for wall in (base, base + PAGE + self.size):
                assert libc.mprotect(wall, PAGE, 0) == 0
            self.buffer = (ctypes.c_char * self.size).from_address(base + PAGE)

        def place(self, values, pitch=None, at_end=True):
            "The values with `pitch` elements from row to row, the last (or first) of them at the wall."
            values = np.asarray(values)
            strides = values.strides if pitch is None else (pitch * values.itemsize, values.itemsize)
            extent = sum(step * (n - 1) for step, n in zip(strides, values.shape)) + values.itemsize
            array = np.ndarray(values.shape, values.dtype, self.buffer, self.size - extent if at_end else 0, strides)
            array[...] = values
            return array
"""


def test_the_guard_pages_of_these_tests_are_felt():
    with pytest.raises(pytest.fail.Exception, match="exit status"):
        python(GUARDED + """
    wall = Walled(1)
    array = wall.place(np.ones(3))
    ctypes.string_at(array.ctypes.data, 25)
""")


@pytest.mark.parametrize("at_end", [True, False], ids=["before a page", "after a page"])
def test_nothing_is_read_beside_x_y_labels_or_weights(kernels, dtype, at_end):
    """The last byte lies before an unmapped page, or the first after one; all widths 1..33, rows dense or padded."""
    out = python(GUARDED + """
    backend, dtype, at_end = sys.argv[1], sys.argv[2], bool(int(sys.argv[3]))
    X_walls, y_walls, w_walls = Walled(4), Walled(4), Walled(1)
    rng = np.random.default_rng(0)

    def verbs(net, X, y, loss, weight):
        for shuffle in (False, True):
            net.fit(X, y, loss=loss, batch_size=3, epochs=2, shuffle=shuffle, sample_weight=weight)
        net.train_step(X, y, loss=loss, sample_weight=weight)
        net.evaluate(X, y, loss=loss, sample_weight=weight)
        net.loss_and_grad(X, y, loss=loss, sample_weight=weight)
        net.predict(X)
        net.forward(X)
        if y.ndim == 2 and y.dtype.kind == "f":
            net.backward(y)

    def case(*what):
        os.write(2, f"{what}\\n".encode())   # the last line before a crash says where

    sizes = [(width, 5, 34 - width) for width in range(1, 34)] + [(width, 5, 1 + width % 4) for width in range(1, 34)]
    if backend == "numba":   # which compiles for each
        sizes = [(33, 5, 1), (17, 40, 17)]
    for width, hidden, n_out in sizes:
        net = fastbp.MLP((width, hidden, n_out), dtype=dtype, seed=0, backend=backend)
        for n, pitch in ((1, 0), (4, 0), (5, 3)):
            case(width, n_out, n, pitch)
            X = X_walls.place(rng.normal(size=(n, width)).astype(dtype), width + pitch, at_end)
            y = y_walls.place(rng.normal(size=(n, n_out)).astype(dtype), n_out + pitch, at_end)
            weight = w_walls.place(rng.uniform(1, 2, size=n), None, at_end)
            verbs(net, X, y, "mse", None)
            verbs(net, X, y, "mse", weight)
    hidden = 40 if backend == "numba" else 5
    for kind, n_out in itertools.product(("u1", "i2", "i4", "i8", ">i8"), (3, 6)):
        net = fastbp.MLP((3, hidden, n_out), dtype=dtype, seed=0, backend=backend)
        for n in range(1, 19):
            case(kind, n_out, n)
            X = X_walls.place(rng.normal(size=(n, 3)).astype(dtype), None, at_end)
            labels = y_walls.place(rng.integers(0, n_out, size=n).astype(kind), None, at_end)
            weight = w_walls.place(rng.uniform(1, 2, size=n), None, at_end)
            verbs(net, X, labels, "softmax_cross_entropy", weight)
    for kind in ("f2", "f8", ">f4", "i1", "u4", "?"):   # cast on the way
        for width in (1, 2, 7, 8, 9, 16, 17, 33):
            case(kind, width)
            net = fastbp.MLP((width, hidden, 2), dtype=dtype, seed=0, backend=backend)
            X = X_walls.place(rng.uniform(0, 2, size=(5, width)).astype(kind), None, at_end)
            verbs(net, X, y_walls.place(rng.uniform(0, 2, size=(5, 2)).astype(kind), None, at_end), "mse", None)
    print("unharmed")
""", kernels, dtype, int(at_end), timeout=120)  # fmt: skip
    assert out == "unharmed\n"


# ------------------------------------------------------------------ size


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.noasan
def test_more_than_2_to_the_31_elements_are_indexed_rightly_and_never_copied():
    """2,200,000 x 1,000 zeros, mapped lazily (8.8 GB of addresses); only the last row holds something."""
    need_extension()
    out = python("""
        import mmap, resource, sys
        import numpy as np, fastbp

        n, width = 2_200_000, 1000
        no_reserve = 0x4000
        pages = mmap.mmap(-1, n * width * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
        X = np.frombuffer(pages, np.float32).reshape(n, width)
        X[-1] = 1 / width
        net = fastbp.MLP((width, 1), init=[np.ones((width, 1))], bias=False, seed=0, backend="cython")
        out = net.predict(X)
        print(abs(out[-1, 0] - 1) < 1e-5, not out[:-1].any())
        # a zero row has the gradient 0: only the last row moves the weights, alike for all inputs
        net.fit(X, np.zeros((n, 1), np.int8), batch_size=1000, epochs=1, shuffle=False, optimizer=fastbp.SGD(lr=1.0))
        weight = net.flatten()
        print((weight == weight[0]).all(), weight[0] < 1)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1_000_000)
    """, timeout=120)  # fmt: skip
    assert out.split() == ["True"] * 5
