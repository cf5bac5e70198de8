"""X, y and weight together; rows that are made when they are asked for, block by block.

Those are the rows of CSR matrices, of datasets in files, of large arrays that lie column by column, and some of the
rows of any of these. They look like an array to what goes through rows in blocks: ``len``, ``shape``, ``dtype``, and
``rows[block]``, which is a new dense array. No library is imported: a CSR matrix is known by its format and its three
arrays, a dataset (of h5py, zarr, dask) by saying how it is cut into chunks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastbp.arrays import is_numpys

COPIED_BYTES = 1 << 30  # rows of an array are picked into a copy of at most so many bytes; more are picked in blocks
_BLOCK = 1 << 20  # entries of a CSR matrix looked at in one go
_PIECE_BYTES = 1 << 20  # of consecutive rows of a dataset, read in one go
GATHERED_BYTES = 1 << 26  # of rows that are gathered in one go where that reads all of X, or of a copy that saves it
_LINE = 64  # bytes of a cache line
_COPIED_ROWS = 512  # of each column at a time: they stay in the cache while their rows are put together


class Samples(NamedTuple):
    """Rows to train on or to measure, checked."""

    X: Any  # (n, in_features), an array or `Lazy`
    y: Any  # (n,) labels or (n, out_features)
    weight: np.ndarray | None  # float64, (n,), or (n, out_features) where some row weighs its targets differently

    def picked(self, rows: np.ndarray) -> Samples:
        return Samples(pick(self.X, rows), pick(self.y, rows), None if self.weight is None else self.weight[rows])

    @property
    def is_lazy(self) -> bool:
        return isinstance(self.X, Lazy) or isinstance(self.y, Lazy)


class Lazy:
    """An array whose rows are made when they are asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype
    block_bytes: int | None = None  # of rows that a run gathers in one go; None: what suits the run

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows of these numbers, dense: (len(rows), columns)."""
        raise NotImplementedError

    def __getitem__(self, which: Any) -> Any:
        """Rows by a slice or an array of numbers; one number by its place (row, column)."""
        if isinstance(which, tuple):
            return self.take(np.array(which[:1]))[0][which[1]]
        return self.take(np.arange(*which.indices(len(self))) if isinstance(which, slice) else which)


class Sparse(Lazy):
    """The rows of a CSR matrix.

    Raises
    ------
    TypeError, ValueError
        The matrix is in another format, holds no real numbers, or its arrays are no CSR matrix with its columns in
        order.
    """

    def __init__(self, argument: str, matrix: Any) -> None:
        if getattr(matrix, "format", None) != "csr":
            raise TypeError(f"{argument} is sparse, but not in CSR format; CSR or dense rows are wanted: "
                            f"{argument}.tocsr() or {argument}.toarray()")  # fmt: skip
        self.indptr, self.indices, self.data = map(np.asarray, (matrix.indptr, matrix.indices, matrix.data))
        self.shape, self.dtype = (int(matrix.shape[0]), int(matrix.shape[1])), self.data.dtype
        if not is_numpys(self.dtype):
            raise TypeError(f"{argument} must hold real numbers, got a sparse matrix of {self.dtype}")
        self._check(argument)

    def _check(self, argument: str) -> None:
        """Each row's columns ascend and are there: then a row is made dense by one assignment."""
        n, columns = self.shape
        ends = self.indptr
        wrong = f"{argument} is no CSR matrix: its indptr or indices do not fit its shape {self.shape}"
        if len(ends) != n + 1 or ends[0] != 0 or ends[-1] > min(len(self.indices), len(self.data)):
            raise ValueError(wrong)
        rows = max(1, _BLOCK * n // max(1, int(ends[-1])))
        for start in range(0, n, rows):
            block = ends[start : start + rows + 1].astype(np.int64)
            if (np.diff(block) < 0).any():
                raise ValueError(wrong)
            found = self.indices[block[0] : block[-1]]
            if found.size and not (0 <= found.min() and found.max() < columns):
                raise ValueError(wrong)
            ascends = found[1:] > found[:-1]  # not a difference, which wraps around where indices have no sign
            begins = block[1:-1] - block[0] - 1  # the steps from the last of a row to the first of the next
            ascends[begins[(begins >= 0) & (begins < len(ascends))]] = True
            if not ascends.all():
                raise ValueError(f"{argument} holds rows whose columns are unsorted or stand twice; call "
                                 f"{argument}.sum_duplicates() first")  # fmt: skip

    def take(self, rows: np.ndarray) -> np.ndarray:
        starts = self.indptr[rows].astype(np.int64)
        counts = self.indptr[rows + 1] - starts
        before = np.cumsum(counts) - counts
        found = np.arange(counts.sum()) + np.repeat(starts - before, counts)
        dense = np.zeros((len(rows), self.shape[1]), self.dtype)
        dense[np.repeat(np.arange(len(rows)), counts), self.indices[found]] = self.data[found]
        return dense


class Stored(Lazy):
    """The rows of a dataset in a file: read in ascending order, in pieces of consecutive rows, of whole chunks.

    Raises
    ------
    TypeError
        It holds no real numbers.
    """

    block_bytes: int = GATHERED_BYTES  # each block of a shuffled epoch may read all of the file

    def __init__(self, argument: str, dataset: Any) -> None:
        self.argument, self.dataset = argument, dataset
        try:
            shape, self.dtype, chunks = dataset.shape, np.dtype(dataset.dtype), dataset.chunks
        except (OSError, RuntimeError, ValueError) as error:  # of a file that is closed
            raise ValueError(f"{argument} is a dataset that cannot be read: {error}") from None
        if shape is None or any(size != size for size in shape):  # NaN, as dask says
            raise ValueError(f"{argument} is a dataset whose number of rows is not known; of dask's arrays "
                             f"{argument}.compute_chunk_sizes() finds it")  # fmt: skip
        self.shape = tuple(map(int, shape))
        if not is_numpys(self.dtype):
            raise TypeError(f"{argument} must hold real numbers, got a dataset of {self.dtype}")
        row_bytes = max(1, self.dtype.itemsize * math.prod(self.shape[1:]))
        chunk = chunks[0] if chunks else 1
        chunk = max(chunk) if isinstance(chunk, tuple) else int(chunk)  # dask says how long each one is
        chunk = min(max(1, chunk), max(1, self.block_bytes // row_bytes))
        self._rows = chunk * max(1, _PIECE_BYTES // (chunk * row_bytes))  # of a piece
        self._piece: tuple[int, np.ndarray] = -1, np.empty(0)  # the last one read, by its number

    def take(self, rows: np.ndarray) -> np.ndarray:
        taken = np.empty((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")  # at once where they ascend already
        numbers = rows[order] // self._rows
        for places in np.split(order, np.flatnonzero(numbers[1:] != numbers[:-1]) + 1):
            if len(places):
                taken[places] = self._read(int(rows[places[0]]) // self._rows, rows[places])
        return taken

    def _read(self, number: int, rows: np.ndarray) -> np.ndarray:
        start = number * self._rows
        if self._piece[0] != number:
            piece = np.asarray(self.dataset[start : start + self._rows])
            wanted = (min(self._rows, len(self) - start), *self.shape[1:])
            if piece.shape != wanted or piece.dtype.kind != self.dtype.kind:
                raise ValueError(f"{self.argument} is a dataset of {self.dtype} whose rows from {start} on should have "
                                 f"shape {wanted}; it gave {piece.shape} of {piece.dtype}")  # fmt: skip
            self._piece = number, piece
        return self._piece[1][rows - start]


class ByColumns(Lazy):
    """The rows of an array that lies column by column: gathered in ascending order, which fetches each line once.

    What `take` gives lasts until its next call: new memory for each block would cost as much as the rows.
    """

    block_bytes = GATHERED_BYTES // 2  # they are gathered by columns, and then put together

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self._room = np.empty((2, 0), self.dtype)

    def take(self, rows: np.ndarray) -> np.ndarray:
        n, cols = len(rows), self.shape[1]
        if self._room.shape[1] < n * cols:
            self._room = np.empty((2, n * cols), self.dtype)
        columns, taken = self._room[0, : n * cols].reshape(cols, n), self._room[1, : n * cols].reshape(n, cols)
        order = np.argsort(rows)
        np.take(self.array.T, rows[order], axis=1, out=columns, mode="clip")  # "raise" would make a copy first
        for part in range(0, n, _COPIED_ROWS):
            taken[order[part : part + _COPIED_ROWS]] = columns[:, part : part + _COPIED_ROWS].T
        return taken


class Picked(Lazy):
    """Some of the rows of an array or of lazy rows."""

    def __init__(self, base: Any, rows: np.ndarray) -> None:
        self.base, self.rows = base, rows
        self.shape, self.dtype = (len(rows), *base.shape[1:]), base.dtype
        self.block_bytes = base.block_bytes if isinstance(base, Lazy) else None

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.base[self.rows[rows]]


def pick(base: Any, rows: np.ndarray) -> Any:
    """The rows of these numbers: a copy, or where that were large or the base is sparse, block by block."""
    if isinstance(base, Lazy) or base[:1].nbytes * len(rows) > COPIED_BYTES:
        return Picked(base, rows)
    return base[rows]


def together(X: Any, dtype: np.dtype) -> Any:
    """X for a run that goes through all rows in a random order: where each row lies on many lines, with its rows whole.

    That is a copy, in the network's dtype where that is smaller; or, where it would be too large, X is read in blocks.
    """
    if not isinstance(X, np.ndarray) or min(X.shape) < 2 or abs(X.strides[1]) <= max(_LINE, abs(X.strides[0])):
        return X
    if X.dtype.itemsize < dtype.itemsize:
        dtype = X.dtype
    if X.size * dtype.itemsize > GATHERED_BYTES:
        return ByColumns(X)
    return _by_rows(X, dtype)


def _by_rows(X: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A copy, row by row, of an array that lies column by column."""
    copy = np.empty(X.shape, dtype)
    with np.errstate(all="ignore"):  # a cast may overflow or underflow, as the engine's does
        for start in range(0, len(X), _COPIED_ROWS):
            copy[start : start + _COPIED_ROWS] = X[start : start + _COPIED_ROWS]
    return copy
