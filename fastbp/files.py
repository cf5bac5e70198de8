"""Networks in files: one safetensors file with the parameters and the training state; docs/files.md has the layout.

What is saved is what `MLP.__getstate__` gives, what is loaded is what `MLP.__setstate__` takes: `MLP.save` and
`fastbp.mlp.load` call this module, nobody else. A file at a path is a whole one at any moment, the old or the new; into
a file object of the caller's the same bytes are written from front to back. Reading trusts nothing: a header is taken
only if it is, byte for byte, the one that `save` writes for the network that it names, and data only if the digest over
the whole file is right. So the layout is written and read here, not by the safetensors package, which knows neither;
the tests hold the two against each other.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

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

Tensors = dict[str, tuple[np.dtype, tuple[int, ...]]]  # name -> dtype, shape, in the order of their data


# ------------------------------------------------------------------ the header


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _header(network: dict, tensors: Tensors) -> bytes:
    """The header of a file, the digits of its digest zeros; data behind it begin at a multiple of 8 bytes."""
    entries: dict[str, dict] = {"__metadata__": {"sha256": "0" * 64, "network": _text(network)}}
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
    if spec.dtype.name not in _CODES:
        raise ValueError(f"a safetensors file cannot hold {spec.dtype}; float64 is the widest that it can")
    arrays: dict[str, np.ndarray] = {}
    network = dict(zip(_FIELDS, (
        "fastbp", VERSION, version(), spec.sizes, [row.name for row in spec.activations], _own_rows(spec),
        spec.bias, spec.dtype.name, spec.dropout, saved["backend"], saved["trains"], _plain(saved["state"], arrays),
    )))  # fmt: skip
    tensors = _layer_tensors(spec.sizes, spec.bias, spec.dtype)
    tensors |= {name: (array.dtype, array.shape) for name, array in arrays.items()}
    header = _header(network, tensors)
    if len(header) > _MAX_HEADER:
        raise ValueError(f"this network has too many layers for a file: its header would take {len(header)} bytes, "
                         f"{_MAX_HEADER} are allowed")  # fmt: skip
    data = [_bytes_of(array) for array in (saved["params"], *arrays.values())]
    if isinstance(place, str):
        _write(os.path.realpath(place), header, data)
    else:
        _write_into(place, header, data)


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """An array's elements in row order, little-endian, as a vector of bytes."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


def _write(path: str, header: bytes, data: list[np.ndarray]) -> None:
    """Put a file in the place of `path`, or leave everything as it was and raise."""
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
            _write_contents(file, header, data)
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
    file.flush()
    os.fsync(file.fileno())


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
    if isinstance(place, str):
        with open(place, "rb", opener=_open_at_once) as file, _refusing(place):
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("not a regular file")
            network, arrays = _read(file, status.st_size)
    else:
        with _refusing(place):
            network, arrays = _read(place, math.inf)
    missing = [name for name in network["rows"] if name not in given]
    if missing:
        raise ValueError(f"rows: {place!r} needs {', '.join(map(repr, missing))}; give the rows of these names")
    with _refusing(place):
        return _network(network, arrays, activations.TABLE | {name: given[name] for name in network["rows"]})


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


def _read(file: Any, size: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the header says about the network, and its tensors; `size` is that of the file, infinite if not known."""
    header = _read_header(file, size)
    network, tensors = _described(header)
    return network, _read_data(file, size, header, network, tensors)


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


def _read_header(file: Any, size: float) -> bytes:
    """The header's bytes: no more of them than there are in the file, or than any network needs."""
    length = int.from_bytes(_exactly(file, 8), "little")
    if not _DIGITS.stop <= length <= min(size - 8, _MAX_HEADER):
        fits = "is none that fastbp writes" if length <= size - 8 else f"does not fit into a file of {size}"
        raise ValueError(f"a header of {length} bytes {fits}")
    header = bytes(_exactly(file, length))
    if not header.startswith(_START):
        raise ValueError("its header begins in another way")
    return header


def _described(header: bytes) -> tuple[dict[str, Any], Tensors]:
    """What the header says about the network, of the kinds that `save` writes, and its tensors."""
    entries = json.loads(header.decode("ascii"))
    network = json.loads(entries.pop("__metadata__")["network"])
    if network["format"] != "fastbp" or type(network["version"]) is not int:
        raise ValueError("it does not say which format it has")
    if network["version"] != VERSION:
        raise ValueError(f"it has version {network['version']} of the format, this fastbp reads version {VERSION}")
    if {name: type(value) for name, value in network.items()} != _FIELDS:
        raise ValueError("it describes the network in another way")
    sizes = network["sizes"]
    if not 2 <= len(sizes) <= len(entries) + 1 or not all(type(n) is int and n >= 1 for n in sizes):
        raise ValueError("its sizes are not those of a network")
    if not all(type(name) is str for name in network["rows"] + network["activations"]):
        raise ValueError("its rows have no names")
    tensors = _layer_tensors(sizes, network["bias"], _DTYPES[_CODES[network["dtype"]]])
    for name, entry in entries.items():
        if name not in tensors:  # of the training state
            shape = entry["shape"]
            if len(shape) > _MAX_AXES or not all(type(n) is int and n >= 0 for n in shape):
                raise ValueError(f"{name} has a shape that no array has")
            tensors[name] = _DTYPES[entry["dtype"]], tuple(shape)
    return network, tensors


def _read_data(
    file: Any, size: float, header: bytes, network: dict[str, Any], tensors: Tensors
) -> dict[str, np.ndarray]:
    """The tensors, as views of one array. Memory is asked for when header and size are right."""
    expected = _header(network, tensors)
    if header[: _DIGITS.start] + b"0" * 64 + header[_DIGITS.stop :] != expected:
        raise ValueError("its header is not that of the network that it describes")
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
    unknown = [name for name in network["activations"] if name not in table]
    if unknown or network["backend"] not in ("auto", *backends.NAMES):
        raise ValueError(f"this fastbp does not know {', '.join(map(repr, unknown or [network['backend']]))}")
    *hidden, output = [table[name] for name in network["activations"]]
    first, *rates = network["dropout"] or [0.0] * len(network["activations"])
    spec = make_spec(network["sizes"], hidden, output, network["bias"], network["dtype"], rates, first)
    trains = tuple((weight, bias) for weight, bias in network["trains"])
    if _text(spec.dropout) != _text(network["dropout"]) or len(trains) != len(spec.layers) or not all(
        type(flag) is bool for layer in trains for flag in layer
    ):
        raise ValueError("dropout or frozen layers are not written as fastbp writes them")
    params = [arrays.pop(name).ravel() for name in _layer_tensors(spec.sizes, spec.bias, spec.dtype)]
    state = _training_state(spec, network["training"], arrays)
    return {"spec": spec, "backend": network["backend"], "trains": trains, "params": np.concatenate(params),
            "state": state}  # fmt: skip


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
