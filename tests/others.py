"""Things of other libraries, as they look from here: tensors, what speaks DLPack alone, data frames, missing values,
CSR matrices."""

import types

import numpy as np


class Tensor:
    """As torch's: requires a gradient, and makes no array until it is detached; bfloat16 after `float` alone."""

    class Device(str):
        type = property(lambda self: self.partition(":")[0])

    def __init__(self, values, dtype="torch.float32", device="cpu", requires_grad=True):
        self.values, self.dtype, self.requires_grad = np.asarray(values), dtype, requires_grad
        self.device = Tensor.Device(device)

    def detach(self):
        return Tensor(self.values, self.dtype, self.device, False)

    def float(self):
        return Tensor(self.values, "torch.float32", self.device, self.requires_grad)

    def __array__(self, dtype=None, copy=None):
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        if self.device != "cpu" or self.dtype == "torch.bfloat16":
            raise TypeError("can't convert")
        return self.values


class Scalar(Tensor):
    """A tensor without axes, which is a number."""

    ndim = 0

    def item(self):
        if self.device == "meta":
            raise RuntimeError("Tensor.item() cannot be called on meta tensors")
        return self.values.item()

    def __float__(self):
        return float(self.item())


class DLPack:
    """Speaks DLPack and nothing else."""

    def __init__(self, values, device=1):
        self.values, self.number = np.asarray(values), device

    def __dlpack__(self, **options):
        assert self.number == 1, "memory of another device was asked for"
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.number, 0


class Frame:
    """As a data frame of pandas, with columns of several dtypes; NumPy would be given Python's objects."""

    iloc, ndim = None, 2

    def __init__(self, columns):
        columns = columns.T if isinstance(columns, np.ndarray) else columns
        self.series = [np.asarray(column) for column in columns]
        self.columns = [chr(ord("a") + k) for k in range(len(columns))]

    @property
    def dtypes(self):
        return [*(column.dtype for column in self.series), "another"]

    def items(self):
        return zip(self.columns, self.series)

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("a frame was asked for one array of objects")


class NullableColumn:
    """As a column of polars or pyarrow: NumPy would be given NaN for what is missing."""

    def __init__(self, values):
        self.values = values

    def is_null(self):
        return [value is None for value in self.values]

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, float)


class LazyFrame:
    """As polars': holds no rows yet."""

    def collect(self):
        raise AssertionError("it was collected")


class NAType:
    """As the type of pandas' missing value."""

    def __repr__(self):
        return "<NA>"

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    def __eq__(self, other):
        return self

    __hash__ = None


def csr(array):
    """A CSR matrix as scipy's look, without scipy."""
    rows, columns = array.nonzero()
    return types.SimpleNamespace(
        format="csr", nnz=len(rows), toarray=None, shape=array.shape, data=array[rows, columns],
        indices=columns.astype(np.int32), indptr=np.append(0, np.cumsum((array != 0).sum(1))).astype(np.int32),
    )  # fmt: skip
