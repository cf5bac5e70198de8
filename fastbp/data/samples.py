"""X, y and weight together; rows that are made dense block by block: of CSR matrices, and some of a large array.

Lazy rows look like an array to what goes through rows in blocks: ``len``, ``shape``, ``dtype``, and ``rows[block]``,
which is a new dense array. scipy is not imported: a CSR matrix is known by its format and its three arrays.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

COPIED_BYTES = 1 << 30  # rows of an array are picked into a copy of at most so many bytes; more are picked in blocks
_BLOCK = 1 << 20  # entries of a CSR matrix looked at in one go


class Samples(NamedTuple):
    """Rows to train on or to measure, checked."""

    X: Any  # (n, in_features), an array or `Lazy`
    y: Any  # (n,) labels or (n, out_features)
    weight: np.ndarray | None  # (n,) float64

    def picked(self, rows: np.ndarray) -> Samples:
        return Samples(pick(self.X, rows), pick(self.y, rows), None if self.weight is None else self.weight[rows])

    @property
    def is_lazy(self) -> bool:
        return isinstance(self.X, Lazy) or isinstance(self.y, Lazy)


class Lazy:
    """An array whose rows are made when they are asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype

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
        if self.dtype.kind not in "fiub":
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


class Picked(Lazy):
    """Some of the rows of an array or of a sparse matrix."""

    def __init__(self, base: Any, rows: np.ndarray) -> None:
        self.base, self.rows = base, rows
        self.shape, self.dtype = (len(rows), *base.shape[1:]), base.dtype

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.base[self.rows[rows]]


def pick(base: Any, rows: np.ndarray) -> Any:
    """The rows of these numbers: a copy, or where that were large or the base is sparse, block by block."""
    if isinstance(base, Lazy) or base[:1].nbytes * len(rows) > COPIED_BYTES:
        return Picked(base, rows)
    return base[rows]
