"""Networks in files: one safetensors file with the parameters and the training state; docs/files.md has the layout.

A file holds one network, or many. What is saved is what `MLP.__getstate__` gives, what is loaded is what
`MLP.__setstate__` takes: `MLP.save`, `fastbp.mlp.load` and `fastbp.many.stored` call this module, nobody else. A file
at a path is a whole one at any moment, the old or the new; into a file object of the caller's the same bytes are
written from front to back. Reading trusts nothing: a header is taken only if it is, byte for byte, the one that `save`
writes for the network that it names, and data only if the digest over the whole file is right. So the layout is written
and read here, not by the safetensors package, which knows neither; the tests hold the two against each other.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np

from fastbp import activations, backends
from fastbp.backends.config import version
from fastbp.errors import FormatError
from fastbp.rows import Activation
from fastbp.spec import Spec, make_spec
from fastbp.training.state import TrainingState

VERSION = 1  # of the format: what is in the header, and where
_START = b'{"__metadata__":{"sha256":"'  # of every header; the digits of the digest follow
_DIGITS = slice(len(_START), len(_START) + 64)
_MAX_HEADER = 1 << 18  # bytes; some 1,300 layers. JSON of that size is parsed in some 30 ms, whatever it holds
_MAX_HEADER_OF_MANY = 1 << 26  # some 30,000 kinds of networks
_CODES = {  # NumPy's name of a dtype -> safetensors'
    "float16": "F16", "float32": "F32", "float64": "F64", "bool": "BOOL",
    "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip
_DTYPES = {code: np.dtype(name) for name, code in _CODES.items()}
_MAX_AXES = 32
_FIELDS = {  # what a header says about the network, in this order; `fastbp` is the version that wrote the file
    "format": str, "version": int, "fastbp": str, "sizes": list, "activations": list, "rows": list, "bias": bool,
    "dtype": str, "dropout": list, "backend": str, "trains": list, "training": dict,
}  # fmt: skip
_YOUNGER = {"matmul_precision": str}  # fields that come last, and only where they are not as they always were
_FIELDS_OF_MANY = {"format": str, "version": int, "fastbp": str, "kinds": list}
_FIELDS_OF_KIND = {name: kind for name, kind in _FIELDS.items() if name not in _FIELDS_OF_MANY}

Tensors = dict[str, tuple[np.dtype, tuple[int, ...]]]  # name -> dtype, shape, in the order of their data


# ------------------------------------------------------------------ the header


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _header(described: dict, tensors: Tensors) -> bytes:
    """The header of a file, the digits of its digest zeros; data behind it begin at a multiple of 8 bytes.

    `described` is what it says about the network, or the networks.
    """
    what = "networks" if "kinds" in described else "network"
    entries: dict[str, dict] = {"__metadata__": {"sha256": "0" * 64, what: _text(described)}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + dtype.itemsize * math.prod(shape)
        entries[name] = {"dtype": _CODES[dtype.name], "shape": shape, "data_offsets": (begin, end)}
    text = _text(entries)
    return (text + " " * (-len(text) % 8)).encode("ascii")


def _layer_tensors(sizes: Sequence[int], bias: bool, dtype: np.dtype) -> Tensors:
    """The tensors of the parameters: one after the other they are the dense vector of `MLP.flatten`."""
    tensors: Tensors = {}
    for k, shape in enumerate(zip(sizes, sizes[1:])):
        tensors[f"layers.{k}.weight"] = dtype, shape
        if bias:
            tensors[f"layers.{k}.bias"] = dtype, shape[1:]
    return tensors


_MARK = ""  # the only key of a dict that stands for what JSON does not have


def _plain(value: Any, arrays: dict[str, np.ndarray], path: tuple[str, ...] = ()) -> Any:
    """`value` as JSON has it. An array goes to `arrays` by its path and leaves a mark, as does inf or NaN."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) and key.isidentifier() for key in value):
            raise TypeError(f"{'.'.join(path)}: only identifiers are keys in a file, got {list(value)}")
        return {key: _plain(item, arrays, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, arrays, (*path, str(k))) for k, item in enumerate(value)]
    if isinstance(value, np.ndarray):
        arrays[".".join(path)] = value
        return {_MARK: "tensor"}
    if isinstance(value, np.generic):
        value = value.item()
    return {_MARK: repr(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _restored(plain: Any, arrays: dict[str, Any], path: tuple[str, ...] = ()) -> Any:
    """The inverse of `_plain`; lists and tuples come back as tuples."""
    if isinstance(plain, dict):
        if _MARK in plain:
            return arrays[".".join(path)] if plain[_MARK] == "tensor" else float(plain[_MARK])
        return {key: _restored(item, arrays, (*path, key)) for key, item in plain.items()}
    if isinstance(plain, list):
        return tuple(_restored(item, arrays, (*path, str(k))) for k, item in enumerate(plain))
    return plain


# ------------------------------------------------------------------ save


def _own_rows(spec: Spec) -> list[str]:
    """The names of rows that no table has: whoever loads the file must give them."""
    own = {row.name: row for row in spec.activations if activations.TABLE.get(row.name) != row}
    for row in spec.activations:
        if own.get(row.name, row) != row:
            raise ValueError(f"two rows of this network are called {row.name!r}; a file has them by name")
    return list(own)


def _place(value: Any, verb: str, nothing: Any) -> Any:
    """Where a network is: a path as a str, or a binary file object that has `verb`, which was tried on `nothing`."""
    if isinstance(value, (bytes, bytearray, memoryview)) and bytes(value[8 : _DIGITS.start + 8]) == _START:
        raise TypeError("path: these bytes are no path, but what a file of fastbp holds; use io.BytesIO(...)")
    try:
        path = os.fsdecode(value)
        if not os.path.basename(path):
            raise IsADirectoryError(errno.EISDIR, "path: the name of a file is wanted, not that of a folder", path)
        return path
    except TypeError:
        call = getattr(value, verb, None)
    if isinstance(value, type) or not callable(call):
        raise TypeError(f"path must be a str, bytes, a path object or a binary file object to {verb}, got {value!r}")
    try:
        is_text = isinstance(call(nothing), str)
    except TypeError:  # it writes a str alone
        is_text = True
    except ValueError as error:  # closed, or opened for the other direction
        raise ValueError(f"path: one cannot {verb} {value!r}: {error}") from None
    except (LookupError, FileNotFoundError):  # an archive, whose members are file objects
        is_text = True
    if is_text:
        raise TypeError(f"path: the file object must be a binary one, as of mode 'rb' or 'wb', got {value!r}")
    return value


def save(path: Any, saved: dict) -> None:
    """Write what `MLP.__getstate__` gave. See `MLP.save`."""
    place, spec = _place(path, "write", b""), saved["spec"]
    arrays: dict[str, np.ndarray] = {}
    network = {"format": "fastbp", "version": VERSION, "fastbp": version()}
    network |= _kind(saved, _plain(saved["state"], arrays))
    tensors = _layer_tensors(spec.sizes, spec.bias, spec.dtype)
    tensors |= {name: (array.dtype, array.shape) for name, array in arrays.items()}
    header = _header(network, tensors)
    if len(header) > _MAX_HEADER:
        raise ValueError(f"this network has too many layers for a file: its header would take {len(header)} bytes, "
                         f"{_MAX_HEADER} are allowed")  # fmt: skip
    _put(place, header, [_bytes_of(array) for array in (saved["params"], *arrays.values())])


def _kind(saved: dict, training: Any) -> dict[str, Any]:
    """What a header says about a network, its training state as JSON has it."""
    spec = saved["spec"]
    if spec.dtype.name not in _CODES:
        raise ValueError(f"a safetensors file cannot hold {spec.dtype}; float64 is the widest that it can")
    kind = dict(zip(_FIELDS_OF_KIND, (
        spec.sizes, [row.name for row in spec.activations], _own_rows(spec), spec.bias, spec.dtype.name, spec.dropout,
        saved["backend"], saved["trains"], training,
    )))  # fmt: skip
    return kind if spec.matmul_precision == "float32" else kind | {"matmul_precision": spec.matmul_precision}


def _put(place: Any, header: bytes, data: list[np.ndarray]) -> None:
    """Write a file where `_place` has said."""
    if isinstance(place, str):
        replace(os.path.realpath(place), partial(_write_contents, header=header, data=data))
    else:
        _write_into(place, header, data)


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """An array's elements in row order, little-endian, as a vector of bytes."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


def replace(path: str, write: Callable[[BinaryIO], None]) -> None:
    """Put a file that `write` fills in the place of `path`, or leave everything as it was and raise."""
    try:
        old = os.stat(path)
    except FileNotFoundError:
        old = None
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise FileExistsError(errno.EEXIST, "not a regular file, and not replaced by one", path)
    folder = os.path.dirname(path)
    name = os.path.join(folder, f".fastbp-{os.urandom(8).hex()}")
    new, kept = f"{name}.tmp", f"{name}-old.tmp"
    try:
        try:
            made = open(new, "xb")
        except OSError as error:
            error.filename = path  # what the caller knows of
            raise
        with made as file:
            if old is not None:
                with _where_supported():
                    os.chmod(new, stat.S_IMODE(old.st_mode))
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if old is not None:
            with _where_supported(errno.EMLINK, errno.ENOENT):
                os.link(path, kept)  # to go back to
        os.replace(new, path)
        try:
            _sync_folder(folder)
        except BaseException:  # an error means that nothing has changed
            if old is None:
                os.unlink(path)
            elif os.path.exists(kept):
                os.replace(kept, path)
            raise
    finally:  # neither a loop nor `suppress`: signals are served where a loop turns and a function of Python's begins
        try:
            os.unlink(new)
        except OSError:
            pass
        finally:
            try:
                os.unlink(kept)
            except OSError:
                pass


def _write_contents(file: BinaryIO, header: bytes, data: list[np.ndarray]) -> None:
    file.write(_length(header) + header)
    for part in data:
        file.write(part)
    file.flush()
    if hasattr(os, "posix_fadvise"):  # Linux begins to write pages that it is told to drop: the disk works meanwhile
        with _where_supported():
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    digits = _digits(header, data)
    file.seek(8 + _DIGITS.start)
    file.write(digits)


def _length(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little")


def _digits(header: bytes, data: Iterable[np.ndarray]) -> bytes:
    """Of the digest; those in the header are zeros."""
    digest = hashlib.sha256(_length(header) + header)
    for part in data:
        digest.update(part)
    return digest.hexdigest().encode("ascii")


def _write_into(file: Any, header: bytes, data: list[np.ndarray]) -> None:
    """Write from front to back: not every file object can go back."""
    signed = header[: _DIGITS.start] + _digits(header, data) + header[_DIGITS.stop :]
    for part in (_length(header) + signed, *data):
        rest = memoryview(part)
        while rest:
            written = file.write(rest)  # a raw file takes what it can
            if written == 0 or written is None and isinstance(file, io.RawIOBase):
                raise BlockingIOError(errno.EAGAIN, f"{file!r} takes no more bytes")
            rest = rest[len(rest) if written is None else written :]


_NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES)


@contextmanager
def _where_supported(*more: int) -> Iterator[None]:
    """Around what a save is as good without, on file systems that do not have it; `more`: errors that say so too."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*_NOT_SUPPORTED, *more):
            raise


def _sync_folder(folder: str) -> None:
    if os.name == "nt":  # cannot open a folder
        return
    with _where_supported():
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# ------------------------------------------------------------------ load


@contextmanager
def _refusing(place: Any) -> Iterator[None]:
    """Whatever else the contents of a file lead to is a FormatError."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise FormatError(f"{place!r} is no network that fastbp saved, or is damaged: {str(error)[:500]}") from None


def load(path: Any, rows: Iterable[Activation] = ()) -> dict:
    """Read what `MLP.__setstate__` takes. See `fastbp.load`."""
    place, given = _place(path, "read", 0), _by_name(rows)
    with _opened(place) as (file, size):
        header = _read_header(file, size, _MAX_HEADER)
        network, tensors = _described(header)
        arrays = _read_data(file, size, header, network, tensors)
    table = _table(place, network["rows"], given)
    with _refusing(place):
        return _network(network, arrays, table)


@contextmanager
def _opened(place: Any) -> Iterator[tuple[Any, float]]:
    """A file object to read from and the size of the file, infinite if not known; in here all is a FormatError."""
    if isinstance(place, str):
        with open(place, "rb", opener=_open_at_once) as file, _refusing(place):
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("not a regular file")
            yield file, status.st_size
    else:
        with _refusing(place):
            yield place, math.inf


def _table(place: Any, names: Iterable[str], given: dict[str, Activation]) -> dict[str, Activation]:
    """The activations by name, those of `names` the caller's."""
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"rows: {place!r} needs {', '.join(map(repr, missing))}; give the rows of these names")
    return activations.TABLE | {name: given[name] for name in names}


def _open_at_once(path: str, flags: int) -> int:
    """Opens; does not wait for somebody to write into a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _by_name(rows: Iterable[Activation]) -> dict[str, Activation]:
    given: dict[str, Activation] = {}
    if not isinstance(rows, Iterable) or isinstance(rows, (str, bytes)):
        raise TypeError(f"rows must be a sequence of activations, got {rows!r}")
    for row in rows:
        if not isinstance(row, Activation):
            raise TypeError(f"rows must be a sequence of activations, got {row!r}")
        if given.setdefault(row.name, row) != row:
            raise ValueError(f"rows: two of them are called {row.name!r}")
    return given


def _exactly(file: Any, n: int) -> bytearray:
    """The next n bytes. Memory grows with those that have come, however many are asked for."""
    data = bytearray()
    while len(data) < n:
        part = file.read(min(n - len(data), max(len(data), 1 << 16)))
        if part is None:
            raise BlockingIOError(errno.EAGAIN, f"{file!r} has no more bytes yet")
        if not part:
            raise ValueError(f"it ends {n - len(data)} bytes too early")
        data += part
    return data


def _read_header(file: Any, size: float, most: int) -> bytes:
    """The header's bytes: no more of them than there are in the file, or than are ever needed."""
    length = int.from_bytes(_exactly(file, 8), "little")
    if not _DIGITS.stop <= length <= min(size - 8, most):
        fits = "is none that fastbp writes" if length <= size - 8 else f"does not fit into a file of {size}"
        raise ValueError(f"a header of {length} bytes {fits}")
    header = bytes(_exactly(file, length))
    if not header.startswith(_START):
        raise ValueError("its header begins in another way")
    return header


def _described(header: bytes) -> tuple[dict[str, Any], Tensors]:
    """What the header says about the network, of the kinds that `save` writes, and its tensors."""
    network, entries = _metadata(header, "network", _FIELDS)
    _check_kind(network)
    if len(network["sizes"]) > len(entries) + 1:
        raise ValueError("its sizes are not those of a network")
    tensors = _layer_tensors(network["sizes"], network["bias"], _DTYPES[_CODES[network["dtype"]]])
    return network, tensors | {name: _tensor(name, entry) for name, entry in entries.items() if name not in tensors}


_READERS = {"network": "fastbp.load", "networks": "fastbp.load_many"}


def _metadata(header: bytes, what: str, fields: dict[str, type]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a header says about the network or the networks, and its entries for tensors."""
    entries = json.loads(header.decode("ascii"))
    metadata = entries.pop("__metadata__")
    for other in _READERS.keys() - {what}:
        if other in metadata:
            raise ValueError(f"it holds {'many networks' if other == 'networks' else 'one network'}: "
                             f"{_READERS[other]} reads it")  # fmt: skip
    described = json.loads(metadata[what])
    if described["format"] != "fastbp" or type(described["version"]) is not int:
        raise ValueError("it does not say which format it has")
    if described["version"] != VERSION:
        raise ValueError(f"it has version {described['version']} of the format, this fastbp reads version {VERSION}")
    if not _has(fields, described):
        raise ValueError(f"it describes the {what} in another way")
    return described, entries


def _has(fields: dict[str, type], described: dict[str, Any]) -> bool:
    """Whether something is described by these fields, and by younger ones where they say more."""
    kinds = {name: type(value) for name, value in described.items()}
    return kinds == fields or ("training" in fields and kinds == fields | _YOUNGER)


def _check_kind(kind: dict[str, Any]) -> None:
    """The names and sizes that a header gives for a network."""
    if len(kind["sizes"]) < 2 or not all(type(n) is int and n >= 1 for n in kind["sizes"]):
        raise ValueError("its sizes are not those of a network")
    if kind["dtype"] not in _CODES:
        raise ValueError(f"there is no dtype {kind['dtype']!r}")
    if kind.get("matmul_precision", "bfloat16") != "bfloat16":
        raise ValueError(f"there is no matmul_precision {kind['matmul_precision']!r} that a file says")
    if not all(type(name) is str for name in kind["rows"] + kind["activations"]):
        raise ValueError("its rows have no names")


def _tensor(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...]]:
    """Dtype and shape that a header gives for a tensor."""
    shape = entry["shape"]
    if len(shape) > _MAX_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{name} has a shape that no array has")
    return _DTYPES[entry["dtype"]], tuple(shape)


def _read_data(
    file: Any, size: float, header: bytes, described: dict[str, Any], tensors: Tensors
) -> dict[str, np.ndarray]:
    """The tensors, as views of one array. Memory is asked for when header and size are right."""
    expected = _header(described, tensors)
    if header[: _DIGITS.start] + b"0" * 64 + header[_DIGITS.stop :] != expected:
        raise ValueError("its header is not that of what it describes")
    n_bytes = [dtype.itemsize * math.prod(shape) for dtype, shape in tensors.values()]
    if size not in (8 + len(header) + sum(n_bytes), math.inf):
        raise ValueError(f"it has {size} bytes, {8 + len(header) + sum(n_bytes)} are described")
    if size == math.inf:
        data = np.frombuffer(_exactly(file, sum(n_bytes)), np.uint8)
    else:
        data = np.empty(sum(n_bytes), np.uint8)
        if file.readinto(data) != len(data):
            raise ValueError("it was cut while it was read")
    if header[_DIGITS] != _digits(expected, [data]):
        raise ValueError("its contents do not have the digest that it names")
    parts = np.split(data, np.cumsum(n_bytes)[:-1])
    return {name: part.view(dtype.newbyteorder("<")).reshape(shape)
            for (name, (dtype, shape)), part in zip(tensors.items(), parts)}  # fmt: skip


def _network(network: dict[str, Any], arrays: dict[str, np.ndarray], table: dict[str, Activation]) -> dict:
    """What `MLP.__getstate__` had given for the network."""
    saved = _of_kind(network, table)
    spec = saved["spec"]
    params = [arrays.pop(name).ravel() for name in _layer_tensors(spec.sizes, spec.bias, spec.dtype)]
    state = _training_state(spec, network["training"], arrays)
    return saved | {"params": np.concatenate(params), "state": state}


def _of_kind(network: dict[str, Any], table: dict[str, Activation]) -> dict:
    """What `MLP.__getstate__` had given, but for parameters and state."""
    unknown = [name for name in network["activations"] if name not in table]
    if unknown or network["backend"] not in ("auto", *backends.NAMES):
        raise ValueError(f"this fastbp does not know {', '.join(map(repr, unknown or [network['backend']]))}")
    *hidden, output = [table[name] for name in network["activations"]]
    first, *rates = network["dropout"] or [0.0] * len(network["activations"])
    precision = network.get("matmul_precision", "float32")
    spec = make_spec(network["sizes"], hidden, output, network["bias"], network["dtype"], rates, first, precision)
    trains = tuple((weight, bias) for weight, bias in network["trains"])
    if _text(spec.dropout) != _text(network["dropout"]) or len(trains) != len(spec.layers) or not all(
        type(flag) is bool for layer in trains for flag in layer
    ):
        raise ValueError("dropout or frozen layers are not written as fastbp writes them")
    return {"spec": spec, "backend": network["backend"], "trains": trains}


def _training_state(spec: Spec, plain: dict, arrays: dict[str, np.ndarray]) -> dict:
    """The training state as a dict, with the fields that are younger than the file as they are at the start.

    Whatever its fields, the state that is made of it must be the same when it is asked: so nothing was cast or lost.
    """
    arrays = {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    state = TrainingState(spec, 0).to_dict() | _restored(plain, arrays)
    made = TrainingState.from_dict(spec, state).to_dict()
    again: dict[str, np.ndarray] = {}
    same = _text(_plain({name: made[name] for name in plain}, again)) == _text(plain)
    if not same or _kinds(again) != _kinds(arrays):
        raise ValueError("its training state is not one that a network can have")
    return state


def _kinds(arrays: dict[str, np.ndarray]) -> list[tuple]:
    return [(name, array.dtype, array.shape) for name, array in arrays.items()]


# ------------------------------------------------------------------ many networks

# Networks of a *kind* are alike but for their numbers: those, parameters and training state, are tensors with a row for
# each of them. Kinds are numbered as they first come, and so are the networks of a kind: one file for a list.


class _Net(Protocol):
    def __getstate__(self) -> dict[str, Any]: ...


_N = TypeVar("_N", bound=_Net)
_Columns = tuple[dict, dict[str, np.ndarray]]  # of a kind: its first network, and a row for each in every array


def save_many(path: Any, saved: list[dict], keys: list[Any] | None) -> None:
    """Write what `MLP.__getstate__` gave for each network. See `fastbp.save_many`."""
    _put_many(path, *_many(saved, keys, version()))


def save_columns(path: Any, kinds: list[_Columns], of_kind: np.ndarray, keys: list[Any]) -> None:
    """The same from networks that are there as arrays, kind by kind: see `fastbp.many.stacked`."""
    _put_many(path, *_of_all(kinds, of_kind, keys, version()))


def _put_many(path: Any, described: dict, arrays: dict[str, np.ndarray]) -> None:
    place = _place(path, "write", b"")
    header = _header(described, {name: (array.dtype, array.shape) for name, array in arrays.items()})
    if len(header) > _MAX_HEADER_OF_MANY:
        raise ValueError(f"there are too many kinds of networks for a file: its header would take {len(header)} bytes, "
                         f"{_MAX_HEADER_OF_MANY} are allowed; write several files")  # fmt: skip
    _put(place, header, [_bytes_of(array) for array in arrays.values()])


def _many(saved: list[dict], keys: list[Any] | None, written_by: str) -> tuple[dict, dict[str, np.ndarray]]:
    """What a header says about the networks, and the tensors by their names."""
    kinds: dict[Any, list[tuple[dict, list[Any]]]] = {}
    of_kind = np.empty(len(saved), np.int64)
    number: dict[Any, int] = {}
    for k, one in enumerate(saved):
        leaves: list[Any] = []
        key = one["spec"], one["backend"], one["trains"], _shared(one["state"], leaves)
        of_kind[k] = number.setdefault(key, len(number))
        kinds.setdefault(key, []).append((one, leaves))
    columns: list[_Columns] = []
    for members in kinds.values():
        first, names = members[0][0], list[str]()
        _marked(first["state"], names)
        of_names = zip(names, *(leaves for _, leaves in members))
        columns.append((first, {"params": np.stack([one["params"] for one, _ in members])}
                        | {name: _column(list(column)) for name, *column in of_names}))  # fmt: skip
    return _of_all(columns, of_kind, keys, written_by)


def _of_all(
    kinds: list[_Columns], of_kind: np.ndarray, keys: list[Any] | None, written_by: str
) -> tuple[dict, dict[str, np.ndarray]]:
    """The same, kind by kind."""
    described, arrays = [], {"kind": of_kind}
    for k, (first, columns) in enumerate(kinds):
        names = ["params"]
        described.append(_kind(first, _marked(first["state"], names)))
        arrays |= {f"kinds.{k}.{name}": columns[name] for name in names}
    _check_own_rows([first["spec"] for first, _ in kinds])
    if keys is not None:
        arrays["keys"] = np.frombuffer(_text_of_keys(keys), np.uint8)
    return {"format": "fastbp", "version": VERSION, "fastbp": written_by, "kinds": described}, arrays


def _check_own_rows(specs: list[Spec]) -> None:
    """Rows that no table has are known by their names, in all networks of a file."""
    rows: dict[str, Activation] = {}
    for spec in specs:
        for row in spec.activations:
            if rows.setdefault(row.name, row) != row:
                raise ValueError(f"two rows of these networks are called {row.name!r}; a file has them by name")


def _numbers(value: Any) -> type | None:
    """int or float where these are numbers of that type and nothing else."""
    kinds = {*map(type, value)}
    return kinds.pop() if kinds in ({int}, {float}) else None


def _shared(value: Any, leaves: list[Any]) -> Any:
    """What networks of a kind share of a training state, hashable; their numbers and arrays are added to `leaves`."""
    kind = type(value)
    if kind is dict:
        return "dict", *[(key, _shared(item, leaves)) for key, item in value.items()]
    if kind is list or kind is tuple:
        of_all = _numbers(value)
        if of_all is None:
            return "list", *[_shared(item, leaves) for item in value]
        leaves.append(value)
        return of_all, len(value)
    if isinstance(value, np.generic):
        return _shared(value.item(), leaves)
    if kind is np.ndarray:
        leaves.append(value)
        return value.dtype, value.shape
    if kind is int or kind is float:
        leaves.append(value)
        return kind
    return kind, value


def _marked(value: Any, names: list[str], path: tuple[str, ...] = ()) -> Any:
    """The same as JSON has it: marks in place of what `_shared` adds to `leaves`, in the same order, by their names."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) and key.isidentifier() for key in value):
            raise TypeError(f"{'.'.join(path)}: only identifiers are keys in a file, got {list(value)}")
        return {key: _marked(item, names, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and _numbers(value) is None:
        return [_marked(item, names, (*path, str(k))) for k, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    for mark, kinds in _MARKS.items():
        if isinstance(value, kinds) and not isinstance(value, bool):
            names.append(".".join(path))
            return {_MARK: mark}
    return value


_MARKS: dict[str, tuple[type, ...]] = {"tensor": (np.ndarray,), "number": (int, float), "numbers": (list, tuple)}
_AXES = {"number": 1, "numbers": 2}  # of the tensor of a mark


def _column(values: list[Any]) -> np.ndarray:
    """A row for each network. Integers of which none is negative have no sign: seeds are 64 bits."""
    first = values[0]
    if isinstance(first, np.ndarray):
        return np.stack(values)
    flat = values if type(first) in (int, float) else [number for numbers in values for number in numbers]
    if type(flat[0]) is float:
        return np.array(values, np.float64)
    return np.array(values, np.int64 if min(flat) < 0 else np.uint64)


def _unmarked(plain: Any, leaves: Iterator[Any]) -> Any:
    """The inverse of `_marked`; lists and tuples come back as tuples."""
    if isinstance(plain, dict):
        return next(leaves) if _MARK in plain else {key: _unmarked(item, leaves) for key, item in plain.items()}
    return tuple(_unmarked(item, leaves) for item in plain) if isinstance(plain, list) else plain


def _marks(plain: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Name and mark of each tensor, in order."""
    if isinstance(plain, dict) and _MARK in plain:
        yield ".".join(path), plain[_MARK]
    elif isinstance(plain, (dict, list)):
        for key, item in plain.items() if isinstance(plain, dict) else enumerate(plain):
            yield from _marks(item, (*path, str(key)))


_KINDS_OF_KEYS = str, int, float, bool


def plain_key(key: Any) -> Any:
    """A key as a file holds it.

    Raises
    ------
    TypeError, ValueError
        It is neither text nor a number; or NaN, or a number that is too long to be written.
    """
    plain = key.item() if isinstance(key, np.generic) else key
    if type(plain) not in _KINDS_OF_KEYS:
        raise TypeError(f"nets: keys in a file are str, int, float or bool, got {key!r} of type {type(key).__name__}")
    if plain != plain:
        raise ValueError("nets: NaN is no key in a file; it is not equal to itself")
    if type(plain) is int and plain.bit_length() > 1024:
        raise ValueError("nets: an integer of more than 1024 bits is no key in a file")
    return plain


def _text_of_keys(keys: list[Any]) -> bytes:
    return json.dumps(keys, separators=(",", ":")).encode("ascii")


def load_many(path: Any, rows: Iterable[Activation], make: Callable[[dict], _N]) -> tuple[list[_N], list[Any] | None]:
    """The networks that `make` makes of what `MLP.__setstate__` takes, and their keys. See `fastbp.load_many`."""
    place, given = _place(path, "read", 0), _by_name(rows)
    with _opened(place) as (file, size):
        header = _read_header(file, size, _MAX_HEADER_OF_MANY)
        described, entries = _metadata(header, "networks", _FIELDS_OF_MANY)
        for kind in described["kinds"]:
            if not _has(_FIELDS_OF_KIND, kind):
                raise ValueError("it describes a network in another way")
            _check_kind(kind)
        tensors = {name: _tensor(name, entry) for name, entry in entries.items()}
        arrays = _read_data(file, size, header, described, tensors)
    table = _table(place, dict.fromkeys(name for kind in described["kinds"] for name in kind["rows"]), given)
    with _refusing(place):
        return _networks(described, arrays, table, make)


def _networks(
    described: dict[str, Any], arrays: dict[str, np.ndarray], table: dict[str, Activation],
    make: Callable[[dict], _N],
) -> tuple[list[_N], list[Any] | None]:  # fmt: skip
    """The networks of a file, once they would be written as the same file: so nothing was cast, lost or left unread."""
    of_kind, keys = arrays["kind"], None
    if "keys" in arrays:
        keys = json.loads(arrays["keys"].tobytes())
        if len(keys) != of_kind.size or len({*map(plain_key, keys)}) != len(keys):
            raise ValueError("its keys are not those of its networks")
    n_kinds = len(described["kinds"])
    if of_kind.ndim != 1 or of_kind.dtype != np.int64 or not ((of_kind >= 0) & (of_kind < n_kinds)).all():
        raise ValueError("it does not say of which kinds its networks are")
    made: list[Any] = [None] * len(of_kind)
    places = iter(np.argsort(of_kind, kind="stable").tolist())  # kind by kind
    for k, (kind, n) in enumerate(zip(described["kinds"], np.bincount(of_kind, minlength=n_kinds).tolist())):
        for saved in _of_one_kind(f"kinds.{k}", kind, arrays, table, n):
            made[next(places)] = make(saved)
    again = [net.__getstate__() for net in made]
    for number, saved in zip(of_kind.tolist(), again):  # without fields that are younger than the file
        saved["state"] = {name: saved["state"][name] for name in described["kinds"][number]["training"]}
    wanted, found = _many(again, keys, described["fastbp"])
    if _text(wanted) != _text(described) or _kinds(found) != _kinds(arrays) or any(
        found[name].tobytes() != array.tobytes() for name, array in arrays.items()
    ):
        raise ValueError("its networks are not ones that can be, or not written as fastbp writes them")
    return made, keys


def _of_one_kind(
    name: str, kind: dict[str, Any], arrays: dict[str, np.ndarray], table: dict[str, Activation], n: int
) -> Iterator[dict]:
    """What `MLP.__getstate__` had given for each of the n networks of a kind."""
    saved = _of_kind(kind, table)
    spec, columns = saved["spec"], []
    for leaf, mark in (("params", "tensor"), *_marks(kind["training"])):
        array = arrays[f"{name}.{leaf}"]
        array = array.astype(array.dtype.newbyteorder("="))
        if len(array) != n or array.ndim != _AXES.get(mark, array.ndim):
            raise ValueError(f"{name}.{leaf} has another shape")
        columns.append(array if mark == "tensor" else array.tolist())
    if columns[0].shape != (n, spec.n_params):
        raise ValueError(f"{name}.params has another shape")
    start = TrainingState(spec, 0).to_dict()
    for params, *leaves in zip(*columns):
        yield saved | {"params": params, "state": start | _unmarked(kind["training"], iter(leaves))}
