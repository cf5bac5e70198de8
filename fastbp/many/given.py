"""Arguments of whatever takes many networks: the networks, a value for each of them, and the rows of each."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbp.arrays import shown
from fastbp.checks import refuse
from fastbp.data.samples import Samples
from fastbp.mlp import MLP

if TYPE_CHECKING:
    from fastbp.rows import Loss
    from fastbp.spec import Spec


class Networks:
    """What `nets` are: a list, or a dict by key; `apart`: no network twice."""

    def __init__(self, nets: Any, *, apart: bool = False) -> None:
        self.keys: list[Any] | None = None
        if isinstance(nets, Mapping):
            self.keys, nets = list(nets), list(nets.values())
        if isinstance(nets, (MLP, str, bytes)) or not isinstance(nets, Iterable):
            one = "; [net] is a list of one" if isinstance(nets, MLP) else ""
            raise TypeError(f"nets must be a list of networks, or a dict of them by key, got {nets!r:.200}{one}")
        self.nets: list[MLP] = list(nets)
        if not self.nets:
            raise ValueError("nets holds no network")
        seen: dict[int, int] = {}
        for k, net in enumerate(self.nets):
            if not isinstance(net, MLP):
                raise TypeError(f"{self.name(k)} must be an MLP, got {net!r:.200}")
            first = seen.setdefault(id(net), k)
            if first != k and apart:
                raise ValueError(f"{self.name(k)} is the same network as {self.name(first)}; copy.deepcopy(net) makes "
                                 "another one")  # fmt: skip

    def __len__(self) -> int:
        return len(self.nets)

    def name(self, k: int) -> str:
        """What an error calls a network."""
        return f"nets[{k if self.keys is None else self.keys[k]!r}]"

    def each(self, argument: str, value: Any) -> list[Any]:
        """`value`, which has one entry for each network, as a list."""
        if isinstance(value, Mapping):
            if self.keys is None:
                raise TypeError(f"{argument} is a dict, and nets is a list: give a list, an entry for each network")
            unknown = next((key for key in value if key not in set(self.keys)), None)
            if len(value) > len(self.keys) or unknown is not None:
                raise ValueError(f"{argument} holds the key {unknown!r}, which nets does not have")
            for key in self.keys:
                if key not in value:
                    raise ValueError(f"{argument} has no entry for the key {key!r} of nets")
            return [value[key] for key in self.keys]
        try:
            values = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else list(value)
        except TypeError:
            raise TypeError(f"{argument} must hold an entry for each network, got {shown(value)}") from None
        if len(values) != len(self.nets):
            raise ValueError(f"{argument}: {len(values)} values for {len(self.nets)} network(s)")
        return values

    def one_or_each(self, argument: str, value: Any) -> list[Any]:
        """`value` for each network: a list, tuple, array (n_networks,) or dict by key has theirs, else all have it."""
        if isinstance(value, (list, tuple, range, Mapping)) or getattr(value, "ndim", 0) == 1:
            return self.each(argument, value)
        return [value] * len(self.nets)


def is_function(X: Any) -> bool:
    """Whether X is a function that gives the rows."""
    return callable(X) and not hasattr(X, "shape") and not hasattr(X, "__array__") and not hasattr(X, "__len__")


def folder_of(path: Any) -> str:
    """`store=` as the path of a folder.

    Raises
    ------
    TypeError, ValueError
        It is none.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"store must be the path of a folder, such as 'networks', got {path!r}")
    folder = os.fsdecode(path)
    if not folder or "\0" in folder:
        raise ValueError(f"store must be the path of a folder, such as 'networks', got {folder!r}")
    return folder


class Apart:
    """Copies what lies in the parameters of one of the networks, which are about to change."""

    def __init__(self, nets: Iterable[MLP]) -> None:
        self._nets = nets
        self._starts: list[int] = []
        self._ends: list[int] = []

    def _look(self) -> None:
        """Find where all parameters lie, which takes a microsecond for each network."""
        at = sorted((net._params.__array_interface__["data"][0], net._params.nbytes) for net in self._nets)
        self._starts, self._ends = [start for start, _ in at], [start + size for start, size in at]

    def __call__(self, data: Any) -> Any:
        owner = data
        while isinstance(owner, np.ndarray) and owner.base is not None:
            owner = owner.base
        if not isinstance(data, np.ndarray) or isinstance(owner, np.ndarray) and owner.dtype != np.uint8:
            return data  # parameters are views of bytes: see `fastbp.spec.aligned_zeros`
        if not self._ends:
            self._look()
        low = data.__array_interface__["data"][0]
        high = low + data.itemsize
        for n, stride in zip(data.shape, data.strides):
            if stride < 0:
                low += (n - 1) * stride
            else:
                high += (n - 1) * stride
        k = bisect_right(self._ends, low)
        return data.copy() if k < len(self._starts) and self._starts[k] < high else data


class Source:
    """Rows as they were given, checked once for each kind of network: by features, outputs, dtype and loss."""

    numbers: np.ndarray | None = None  # of these rows among the caller's, where there are fewer
    is_for_all = False  # or of one network alone

    def __init__(self, check: Callable[[Loss, Spec], Samples], n_rows: int = 0) -> None:
        self.n_rows = n_rows
        self._check = check
        self._known: dict[Any, Samples] = {}

    def __call__(self, loss: Loss, spec: Spec) -> Samples:
        kind = _kind(loss, spec)
        made: Samples | None = self._known.get(kind)
        if made is None:
            made = self._known[kind] = self._check(loss, spec)
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Without the check: what is sent to a worker has been asked for before."""
        return {name: value for name, value in self.__dict__.items() if name != "_check"}

    def known(self) -> Iterable[Samples]:
        """The rows for all kinds that were asked for."""
        return self._known.values()

    def named(self, rows: np.ndarray | None) -> np.ndarray | None:
        """What the caller calls rows of these numbers."""
        return rows if rows is None or self.numbers is None else self.numbers[rows]

    def part(self, numbers: np.ndarray, kinds: Iterable[tuple[Loss, Spec]]) -> Source:
        """Some of the rows, for these kinds of networks."""
        made = Source(self._check, len(numbers))
        made.numbers = numbers
        for loss, spec in kinds:
            kind = _kind(loss, spec)
            if kind not in made._known:
                X, y, weight = self._known[kind]
                made._known[kind] = Samples(X[numbers], y[numbers], None if weight is None else weight[numbers])
        return made


def _kind(loss: Loss, spec: Spec) -> tuple[Any, ...]:
    return spec.in_features, spec.out_features, spec.dtype, loss


def _depth(value: Any) -> int:
    """Dimensions of an array, of a matrix or data frame, or of nested lists."""
    shape = getattr(value, "shape", None)
    return len(shape) if isinstance(shape, tuple) else np.ndim(value)


def has_each(value: Any, dimensions: int) -> bool:
    """Whether `value` holds an array for each network, of so many dimensions at least, and is not one array for all."""
    if isinstance(value, Mapping):
        return True
    if isinstance(value, (list, tuple)):
        first = next((one for one in value if one is not None), None)
        return first is not None and _depth(first) >= dimensions
    return getattr(value, "ndim", 0) > dimensions


# ------------------------------------------------------------------ which rows


class Grouped(NamedTuple):
    """Rows by key."""

    keys: list[Any]  # of each network
    rows: list[np.ndarray]  # int64, ascending: of each network


def group(by: Any, n: int, networks: Networks, *, every: bool = True) -> Grouped:
    """The rows of each key in `by`, a key for each of n rows: of the sorted keys, or of those of the networks.

    Each network of a dict must have some, unless `every` is False; those of a list must have.
    """
    refuse_masked("by", by)
    if isinstance(by, str):
        raise TypeError(f"by must be the column itself, such as df[{by!r}], not its name")
    keys = np.asarray(by)
    if keys.dtype.kind in "US" and isinstance(by, (list, tuple)) and len({*map(type, by)}) > 1:
        keys = np.array(by, object)  # NumPy would write out numbers, and NaN
    if keys.shape != (n,):
        raise ValueError(f"by must hold a key for each of the {n} rows of X, got shape {keys.shape}")
    refuse_missing("by", keys)
    try:
        order = _order_of(keys)
    except TypeError:
        raise TypeError(f"by must hold keys that can be sorted, got several kinds: {_kinds(keys)}") from None
    ordered = keys[order]
    begins = np.flatnonzero(np.concatenate([[n > 0], ordered[1:] != ordered[:-1]]))
    found, ends = ordered[begins], [*begins[1:].tolist(), n]
    parts = [order[a:b] for a, b in zip(begins.tolist(), ends)]
    names = found.tolist()
    if networks.keys is None:
        if len(names) != len(networks):
            raise ValueError(f"by holds {len(names)} different keys for {len(networks)} network(s); nets must have one "
                             "for each key, in the order of the sorted keys, or be a dict by key")  # fmt: skip
        return Grouped(names, parts)
    place = {name: k for k, name in enumerate(names)} | {name: k for k, name in enumerate(found)}
    numbers = [place.get(key) for key in networks.keys]
    if every and None in numbers:
        key = networks.keys[numbers.index(None)]
        raise ValueError(f"by holds no row of the key {key!r} of nets: that network would have nothing to train on")
    unknown = {*range(len(names))} - {*numbers}
    if unknown:
        k = min(unknown)
        raise ValueError(f"by holds the key {names[k]!r}, for which nets has no network, at row {parts[k][0]}")
    return Grouped(networks.keys, [order[:0] if k is None else parts[k] for k in numbers])


def _order_of(keys: np.ndarray) -> np.ndarray:
    """The order that sorts keys, of equal ones the first first."""
    if keys.dtype.kind not in "iu" or not len(keys):
        return np.argsort(keys, kind="stable")
    if not (keys[1:] < keys[:-1]).any():
        return np.arange(len(keys))
    low, high = int(keys.min()), int(keys.max())
    if high - low >= 1 << 32:
        return np.argsort(keys, kind="stable")
    # NumPy's radix sort is for 16 bits; 25 million keys in no order take it a sixth of the time
    above = keys.astype(np.uint64) - np.uint64(low % (1 << 64))
    order = np.argsort(above.astype(np.uint16), kind="stable")
    if high - low >= 1 << 16:
        order = order[np.argsort((above >> np.uint64(16)).astype(np.uint16)[order], kind="stable")]
    return order


def refuse_masked(argument: str, array: Any) -> None:
    """Make sure that no element of a masked array is masked: NumPy would take what lies below the mask."""
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        at = int(np.argmax(np.ma.getmaskarray(array)))
        raise ValueError(f"{argument} is a masked array whose entry {at} is masked; leave out the rows that have none")


def refuse_missing(argument: str, keys: np.ndarray) -> None:
    """Make sure that no key is None, NaN, NaT or pandas' NA: none of them is a name, nor equal to itself."""
    if keys.dtype.kind in "fcmM":
        missing = keys != keys
    elif keys.dtype.kind == "O":
        missing = np.array([key is None or not _equals_itself(key) for key in keys.tolist()], bool)
    else:
        return
    if missing.any():
        at = int(np.argmax(missing))
        raise ValueError(f"{argument} has no key at row {at}, got {keys[at]!r}; leave the row out, or give it a key")


def _equals_itself(key: Any) -> bool:
    try:
        return bool(key == key)
    except TypeError:  # as pandas' NA says
        return False


def _kinds(keys: np.ndarray) -> str:
    return ", ".join(sorted({type(key).__name__ for key in keys.tolist()}))


def indices(argument: str, value: Any, n: int) -> np.ndarray:
    """Numbers of rows, from 0 to n - 1; one at least. Contiguous int64."""
    refuse_masked(argument, value)
    array = np.asarray(value)
    if array.ndim == 1 and not array.size:
        raise ValueError(f"{argument} is empty")
    if array.dtype.kind not in "iu" or array.ndim != 1:
        hint = "; np.flatnonzero(mask) makes them" if array.dtype.kind == "b" else ""
        raise TypeError(f"{argument} must be an array of numbers of rows (n,), got {array.dtype} of shape {array.shape}"
                        f"{hint}")  # fmt: skip
    refuse(argument, array, lambda block: (block < 0) | (block >= n), f"from 0 to {n - 1}, the rows of X")
    return np.ascontiguousarray(array, np.int64)


def without(rows: np.ndarray | None, held: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of `rows`, or of all n, those that are not among `held`, and those that are."""
    mask = np.zeros(n, bool)
    mask[held] = True
    rows = np.arange(n) if rows is None else rows
    inside = mask[rows]
    return rows[~inside], rows[inside]
