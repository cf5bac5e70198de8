"""A folder that keeps the networks that are trained already: `fit_many(store=)` goes on from there.

    store.json                    what it belongs to: digests of networks, data and arguments
    chunk-<first>-<token>.npz     what became of some networks, as a `ManyHistory` has it
    chunk-<first>-<token>.safetensors    these networks, by number, as `fastbp.save_many` writes them
    index.csv                     for whoever looks for one network: its number and its file
    store.lock                    locked by the call that writes, whose process it names

The driver alone writes, each file as a whole. A chunk is there when its networks are, whose file comes last; both files
have checksums, and one that is damaged is as if it were not there. So nothing is lost but the chunk at hand, wherever
the store is cut. The index follows from the chunks, and is made anew when the store is opened.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from fastbp import files
from fastbp.errors import FormatError, NonFiniteError
from fastbp.many.chunks import build, lay_into
from fastbp.many.given import folder_of
from fastbp.many.stacked import Stack
from fastbp.many.stored import load_many
from fastbp.many.told import Block

if TYPE_CHECKING:
    from fastbp.many.members import Asked, Member
    from fastbp.rows import Activation

_HEADER, _INDEX, _LOCK = "store.json", "index.csv", "store.lock"
_FORMAT = {"format": "fastbp store", "version": 1}
_ARRAYS = "numbers", "kernel", "loss", "step", "status", "n_steps", "best_value", "best_step"
_COLUMN = "column "  # before the names of columns
_LOCKED_BYTE = 1 << 30  # of the lock's file
_PIECE = 1 << 24  # bytes of rows that are digested in one go


class Store:
    """The store of one call.

    Raises
    ------
    TypeError
        The path is none.
    ValueError
        The folder holds something else, or the store of other networks, data or arguments.
    RuntimeError
        Another call writes it.
    OSError
        It cannot be read or written.
    """

    def __init__(self, path: Any, asked: Asked, members: list[Member], lanes: Any) -> None:
        self.path = folder_of(path)
        self._digests = _digests(asked, members, lanes)
        self._n = len(members)
        self._keys = asked.keys
        self._key = hashlib.sha256(json.dumps(self._digests).encode()).hexdigest()
        for net in (member.net for member in members):
            if net.dtype.name not in ("float16", "float32", "float64"):
                raise ValueError(f"store: a file cannot hold a network of {net.dtype}")
        os.makedirs(self.path, exist_ok=True)
        self._lock: _Lock | None = None
        self._open()

    def close(self) -> None:
        """Let others write it."""
        if self._lock is not None:
            self._lock.release()

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _open(self) -> None:
        names = os.listdir(self.path)
        strange = [name for name in names if not _is_ours(name)]
        if strange and _HEADER not in names:
            raise ValueError(f"store: the folder {self.path!r} holds other files, such as {strange[0]!r}; give an "
                             "empty one, or one that is not there yet")  # fmt: skip
        self._lock = _Lock(self._file(_LOCK), self.path)
        try:
            self._check()
            for name in os.listdir(self.path):  # of a driver that was killed
                if name.startswith(("shared-", ".fastbp-")):
                    os.unlink(self._file(name))
            header = {**_FORMAT, "networks": self._n, "digests": self._digests}
            files.replace(self._file(_HEADER), lambda file: _write(file, json.dumps(header, indent=1).encode("ascii")))
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        """Make sure that it belongs to this call."""
        try:
            with open(self._file(_HEADER), encoding="ascii") as file:
                header = json.load(file)
            found = {**header["digests"]} if header.items() >= _FORMAT.items() else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            found = self._digests  # it is new, or cut: the chunks say what they belong to
        if found is None:
            raise ValueError(f"store: {self.path!r} was made by a newer fastbp")
        other = [name for name, digest in self._digests.items() if found.get(name) != digest]
        if other:
            raise ValueError(
                f"store: {self.path!r} belongs to another call: it differs in {' and '.join(other)}. To go on there, "
                "call with networks in the state that they had at first (made anew, not those that were trained "
                "meanwhile), the same rows and the same arguments; or give another folder"
            )

    # -------------------------------------------------------------- reading

    def found(self, members: list[Member]) -> Iterator[Block]:
        """Lay what is stored into the networks: what became of them, chunk by chunk."""
        seen = np.zeros(self._n, bool)
        rows = {row.name: row for member in members for row in member.net._spec.activations}.values()
        lines = ["network,key,file\n"]
        for name in sorted(os.listdir(self.path)):
            if not name.endswith(".safetensors"):
                continue
            chunk = self._read(name.removesuffix(".safetensors"), list(rows), members)
            if chunk is None or seen[chunk[0].numbers].any():
                continue
            block, stack = chunk
            lay_into(stack, members, block.numbers, block.n_steps)
            seen[block.numbers] = True
            lines += self._lines(block.numbers, name)
            yield block
        files.replace(self._file(_INDEX), lambda file: _write(file, "".join(lines).encode()))

    def _read(
        self, name: str, rows: list[Activation], members: list[Member]
    ) -> tuple[Block, Stack] | None:  # fmt: skip
        """A chunk, or None where it is cut or damaged."""
        try:
            with open(self._file(f"{name}.npz"), "rb") as cut, np.load(cut, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            if str(arrays.pop("store")) != self._key:
                return None
            nets = load_many(self._file(f"{name}.safetensors"), rows=rows)
            block = _block(arrays)
            numbers = block.numbers.tolist()
            if list(nets) != numbers or any(members[k].net._spec != nets[k]._spec for k in numbers):
                return None
            return block, Stack.of(list(nets.values()))
        except (FormatError, OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
            return None

    # -------------------------------------------------------------- writing

    def add(self, block: Block, stack: Stack, members: list[Member]) -> None:
        """Keep a chunk, whose networks `members` are."""
        numbers = block.numbers.tolist()
        name = f"chunk-{numbers[0]:09d}-{os.urandom(4).hex()}"
        arrays = {"store": np.array(self._key), **_arrays(block)}
        files.replace(self._file(f"{name}.npz"), partial(np.savez, **arrays))
        stack.save(self._file(f"{name}.safetensors"), [members[k].net for k in numbers], numbers)
        with open(self._file(_INDEX), "a", encoding="utf-8") as file:
            file.writelines(self._lines(block.numbers, f"{name}.safetensors"))

    def _lines(self, numbers: np.ndarray, name: str) -> list[str]:
        keys = [""] * len(numbers) if self._keys is None else [json.dumps(str(self._keys[k])) for k in numbers.tolist()]
        return [f"{k},{key},{name}\n" for k, key in zip(numbers.tolist(), keys)]


class _Lock:
    """A lock on a file, which the system lets go of when this process ends, however it does.

    It is one by `fcntl`, which forked processes do not inherit: workers that outlive their driver hold nothing. To
    other threads of this process it says nothing, so that files are known here, too; and to close the file, wherever in
    this process, is to lose it. Where a file system has no locks there is none.
    """

    _held = set[tuple[int, int, int]]()  # (process, file): a process that was forked inherits these, but no lock
    _guard = threading.Lock()

    def __init__(self, path: str, folder: str) -> None:
        with self._guard:
            if os.path.exists(path) and (os.getpid(), *_identity(os.stat(path))) in self._held:
                raise _in_use(folder, "another call in this process")
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise type(error)(error.errno, f"store: its lock cannot be opened: {error.strerror}", path) from None
            try:
                _lock(fd)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):  # else there are none here
                    told = os.read(fd, 200).decode(errors="replace").strip()
                    os.close(fd)
                    raise _in_use(folder, told or "another process") from None
            with contextlib.suppress(OSError):  # no room: the text is for the message to others alone
                os.write(fd, f"process {os.getpid()} of {socket.gethostname()}\n".ljust(200).encode())
            self._fd: int | None = fd
            self._file = os.getpid(), *_identity(os.fstat(fd))
            self._held.add(self._file)

    def release(self) -> None:
        with self._guard:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
                self._held.discard(self._file)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _lock(fd: int) -> None:
    """Lock a byte that nobody reads or writes, or raise an OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(fd, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCKED_BYTE)


def _in_use(folder: str, who: str) -> RuntimeError:
    return RuntimeError(f"store: {folder!r} is in use by {who}. Wait until that call has ended, or give another folder")


def _is_ours(name: str) -> bool:
    return name.startswith(("chunk-", "shared-", ".fastbp-")) or name in (_HEADER, _INDEX, _LOCK)


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def _arrays(block: Block) -> dict[str, np.ndarray]:
    """A block without objects: errors as text."""
    errors = {k: [type(error).__name__, str(error), getattr(error, "step", 0), getattr(error, "epoch", 0),
                  list(getattr(error, "__notes__", ()))] for k, error in block.errors.items()}  # fmt: skip
    arrays = {name: np.asarray(getattr(block, name)) for name in _ARRAYS}
    arrays |= {_COLUMN + name: column for name, column in block.columns.items()}
    return arrays | {"errors": np.array(json.dumps(errors))}


def _block(arrays: dict[str, np.ndarray]) -> Block:
    named: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
    columns = {name.removeprefix(_COLUMN): array for name, array in arrays.items() if name.startswith(_COLUMN)}
    errors: dict[int, Exception] = {}
    for k, (kind, message, step, epoch, notes) in json.loads(str(arrays["errors"])).items():
        nonfinite = kind == NonFiniteError.__name__
        error = NonFiniteError(message, step, epoch) if nonfinite else RuntimeError(f"{kind}: {message}")
        for note in notes:
            error.add_note(note)
        errors[int(k)] = error
    return Block(columns=columns, errors=errors, **named)


# ------------------------------------------------------------------ what it belongs to


def _digests(asked: Asked, members: list[Member], lanes: Any) -> dict[str, str]:
    """Of all that decides about bits, by what an error calls it."""
    number: dict[int, int] = {}
    of_work = np.array([number.setdefault(id(member.work), len(number)) for member in members])
    works = [*{id(member.work): member.work for member in members}.values()]
    stack = Stack.of([member.net for member in members])
    rows = {id(member.rows): member.rows for member in members if member.rows is not None}
    place = {key: k for k, key in enumerate(rows)}
    data, sources = hashlib.sha256(), dict[int, int]()
    for work in works:
        for source in (work.source, work.validation):
            if source is not None and id(source) not in sources:
                sources[id(source)] = len(sources)
                for samples in source.known():
                    _digest(data, list(samples))
    _digest(data, [list(rows.values()), np.array([place.get(id(member.rows), -1) for member in members])])
    more = [[sources[id(one.source)], sources.get(id(one.validation), -1), one.held, one.weight] for one in works]
    _digest(data, _of_each(more, of_work))
    settings = asked.settings()
    settings["validation_split"], settings["nonfinite"] = settings.pop("split"), settings.pop("stop")
    kept = settings.pop("split_seed") if settings["validation_split"] is not None else None
    for name in ("sign_of", "_one_set"):  # which follow from the others
        del settings[name]
    lengths = [[None if one is None else int(one) for one in (work.epochs, work.steps)] for work in works]
    given = {
        "loss": _of_each([work.loss for work in works], of_work),
        "optimizer": _of_each([member.rule for member in members], np.arange(len(members))),
        "batch_size": _of_each([work.batch for work in works], of_work),
        "epochs": _of_each([epochs for epochs, _ in lengths], of_work),
        "steps": _of_each([steps for _, steps in lengths], of_work),
        "early_stopping": _of_each([work.early for work in works], of_work),
        "seed": _hash([np.array([member.seed for member in members], "u8"), kept]),
        "lanes": _hash(lanes), **{name: _hash(value) for name, value in settings.items()},
    }  # fmt: skip
    version, engine, isa = build()
    return {
        "networks": _hash([stack.kinds, stack.of_kind, stack.arrays]), "data": data.hexdigest(),
        **{f"{name}=": digest for name, digest in given.items()},
        "the version of fastbp": f"{version} {engine}", "the instruction set": isa,
    }  # fmt: skip


def _hash(value: Any) -> str:
    digest = hashlib.sha256()
    _digest(digest, value)
    return digest.hexdigest()


def _of_each(values: list[Any], places: np.ndarray) -> str:
    """Of ``values[place]`` for each of the places, whatever objects equal values are."""
    known, number = dict[int, str](), dict[str, int]()
    for value in values:
        if id(value) not in known:
            known[id(value)] = _hash(value)
    numbers = [number.setdefault(known[id(value)], len(number)) for value in values]
    return _hash([list(number), np.array(numbers)[places]])


_PLAIN = (int, float, complex, str, bytes, bool, type(None), np.generic, np.dtype, range, slice)  # a repr says it all


def _digest(digest: Any, value: Any, above: tuple[int, ...] = ()) -> None:
    """Add a value, so that equal ones add the same in every process; `above` are the ids of what it is a part of.

    Functions are told apart by what they do: their code, defaults, closures, and the numbers and arrays of their module
    that they name.

    Raises
    ------
    TypeError
        It cannot be told from others: neither a number, a function nor anything that can be pickled.
    """
    if isinstance(value, _PLAIN):
        digest.update(_name(type(value)) + repr(value).encode() + b";")
        return
    if id(value) in above:
        digest.update(b"^%d" % above.index(id(value)))
        return
    add = partial(_digest, digest, above=(*above, id(value)))
    if isinstance(value, np.ndarray) and value.dtype.kind != "O" or hasattr(value, "block_bytes"):  # lazy rows too
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        rows = max(1, _PIECE // max(1, value.dtype.itemsize * int(np.prod(value.shape[1:]))))
        for at in range(0, len(value) if value.shape else 0, rows):
            digest.update(np.ascontiguousarray(value[at : at + rows]))
        if not value.shape:
            digest.update(np.ascontiguousarray(value))
    elif isinstance(value, Mapping):
        digest.update(b"{%d" % len(value))
        for item in value.items():
            add(list(item))
    elif isinstance(value, (list, tuple)):
        digest.update(b"[%d" % len(value))
        for item in value:
            add(item)
    elif isinstance(value, (set, frozenset)):  # in no order of its own
        add(sorted(map(repr, value)))
    elif is_dataclass(value) and not isinstance(value, type):
        digest.update(_name(type(value)))
        add({field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, CodeType):
        digest.update(value.co_code)
        add([value.co_names, value.co_consts])
    elif isinstance(value, FunctionType):
        digest.update(_name(value))
        used = {name: value.__globals__.get(name) for name in value.__code__.co_names}
        add([value.__code__, value.__defaults__, value.__kwdefaults__,
             [cell.cell_contents for cell in value.__closure__ or ()],
             {name: one for name, one in used.items() if isinstance(one, (*_PLAIN, np.ndarray))}])  # fmt: skip
    elif isinstance(value, MethodType):
        add([value.__func__, value.__self__])
    elif isinstance(value, partial):
        add([value.func, value.args, value.keywords])
    elif isinstance(value, type):
        digest.update(_name(value))
    else:
        digest.update(_name(type(value)))
        try:
            made = value.__reduce_ex__(4)
        except Exception as error:
            raise TypeError(f"store: {value!r} cannot be told from another value ({error}); a function can be, and an "
                            "object that can be pickled") from None  # fmt: skip
        if isinstance(made, str):
            digest.update(made.encode())
        else:
            _, arguments, state, items, pairs = (*made, *[None] * 3)[:5]
            add([[one for one in arguments if one is not type(value)], state, list(items or ()), list(pairs or ())])


def _name(of: Any) -> bytes:
    return f"{getattr(of, '__module__', '')}.{getattr(of, '__qualname__', of)};".encode()
