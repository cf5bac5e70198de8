"""Numbers of any making, as NumPy's: arrays, tensors, data frames, lists, objects; and one number by itself.

Things of other libraries are known by what they can do; none of these libraries is imported. What is no number is named
by its type and its place, with what to do about it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from datetime import date, time, timedelta
from numbers import Number
from typing import Any

import numpy as np

_WHOLE = (int, np.integer, np.bool_)
_NO_NUMBERS = (np.flexible, np.datetime64, np.timedelta64, np.complexfloating, np.ndarray)  # though they have __float__
_HOLD_OTHERS = (np.int8, np.uint8, np.float32, np.float64)  # dtypes that others' dtypes are cast to
_NO_ARRAY = (BufferError, RuntimeError, TypeError, ValueError)  # and what the library of the object has
_FIRST_OF_OTHERS = 256  # the number of the first dtype that is not NumPy's
_OF_STORED = ("chunks", "shape", "dtype")
_ON_CPU = (1, 3, 11, 13)  # DLPack's numbers of devices whose memory the CPU reads


def real_array(argument: str, value: Any) -> np.ndarray:
    """`value` as an array of real numbers of any layout; nothing is copied that is an array already.

    Parameters
    ----------
    argument : str
        What an error names.
    value : object
        An array or what turns into one. A tensor that requires a gradient is detached. A data frame with columns of
        several kinds becomes an array of the dtype that holds them all. Objects become integers where all are whole
        numbers, float64 where all are real ones.

    Raises
    ------
    TypeError
        It holds what is no number, or lies in another device's memory.
    ValueError
        It is complex, masked or ragged.
    """
    if type(value) is np.ndarray:
        return _real(argument, value)
    masked = sys.modules.get("numpy.ma")  # not loaded: there is no masked array
    if masked is not None and isinstance(value, masked.MaskedArray):
        raise ValueError(f"{argument} is a masked array; fill it first, for example with {argument}.filled(0)")
    if is_sparse(value):
        raise TypeError(f"{argument} is sparse; a dense array is wanted, for example {argument}.toarray()")
    if masked is not None and isinstance(value, (list, tuple)) and isinstance(next(iter(value), None), np.ndarray):
        if any(isinstance(item, masked.MaskedArray) for item in value):
            raise ValueError(f"{argument} holds a masked array; fill it first, by its method filled(0) for example")
    columns = _columns(value)
    if not columns:
        return _column(argument, value)
    found = [_column(argument, column, k, value) for k, column in enumerate(columns)]
    for k, column in enumerate(found):
        if column.ndim != 1:
            raise TypeError(f"{argument} holds arrays of shape {column.shape[1:]} in the cells of column {k}"
                            f"{_name_of_column(value, k)}; one number for each cell is wanted")  # fmt: skip
    return np.stack(found).T  # as pandas lays them


def is_sparse(value: Any) -> bool:
    return hasattr(value, "nnz") and hasattr(value, "toarray")


def is_stored(value: Any) -> bool:
    """Whether `value` is a dataset that lies in a file in chunks, or that comes in chunks from elsewhere."""
    kind = type(value)  # whose attributes can be asked for where the file is closed
    return kind is not np.ndarray and all(hasattr(kind, name) or hasattr(value, name) for name in _OF_STORED)


def is_numpys(dtype: np.dtype) -> bool:
    """Whether a dtype is one of NumPy's own real ones; others may have the same kind and size, and other bits."""
    return dtype.kind in "fiub" and dtype.num < _FIRST_OF_OTHERS


def real_number(value: Any) -> float | None:
    """`value` as a float where it is one real number of whatever making, infinite where it is too large for a float.

    None for anything else: for truth values, for arrays that have an axis.
    """
    axes = getattr(value, "ndim", None)
    try:
        if axes == 0 and not isinstance(value, np.generic):
            value = value[()] if isinstance(value, np.ndarray) else value.item()
    except (AttributeError, RuntimeError, TypeError):  # of a tensor without values
        return None
    return None if axes or isinstance(value, (bool, np.bool_)) else _float(value)


def _float(value: Any) -> float | None:
    try:
        return float(value) if _is_real(type(value)) else None
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return None


def _is_real(kind: type) -> bool:
    return hasattr(kind, "__float__") and not issubclass(kind, _NO_NUMBERS)


# ------------------------------------------------------------------ other libraries


def _columns(value: Any) -> list[Any] | None:
    """The columns of a data frame of pandas, polars or pyarrow; None for one array, and for frames that are one inside.

    NumPy gets columns of several kinds as Python's objects, which take many times as long as an epoch.
    """
    if hasattr(value, "iloc"):
        kinds = set(value.dtypes) if value.ndim == 2 else set()
        one = len(kinds) < 2 and all(isinstance(kind, np.dtype) for kind in kinds)
        return None if one else [column for _, column in value.items()]
    each = getattr(value, "iter_columns", getattr(value, "itercolumns", None))
    return None if each is None else list(each())


def _column(argument: str, value: Any, k: int | None = None, frame: Any = None) -> np.ndarray:
    """Column k of a frame, or something by itself, as an array of real numbers."""
    row = _first_missing(value)
    if row is not None:
        raise _no_number(argument, value.iloc[row] if hasattr(value, "iloc") else None, (row,), k, frame)
    return _real(argument, _array(argument, value), k, value if frame is None else frame)


def _first_missing(column: Any) -> int | None:
    """The row of the first value that a library calls missing, for which NumPy gets NaN, or objects for all."""
    look = getattr(column, "is_null", None)  # of polars and pyarrow; where a dtype is NumPy's, NaN is a number
    dtype = getattr(column, "dtype", None)
    if look is None and not isinstance(getattr(dtype, "subtype", dtype), np.dtype):  # subtype: of sparse columns
        look = getattr(column, "isna", None)
    if look is None or getattr(column, "ndim", 1) != 1:
        return None
    missing = np.asarray(look())
    return int(missing.argmax()) if missing.any() else None


def _array(argument: str, value: Any) -> np.ndarray:
    """`value` as an array of whatever dtype NumPy makes of it."""
    try:
        if hasattr(value, "requires_grad"):  # a tensor of torch
            value = value.detach()
            if str(getattr(value, "dtype", "")).startswith(("torch.bfloat", "torch.float8")):
                value = value.float()  # exact; NumPy has no such dtype
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            if value.__dlpack_device__()[0] not in _ON_CPU:
                raise BufferError
            return np.from_dlpack(value)
        return np.asarray(value)
    except Exception as error:
        libraries = {type(one).__module__.partition(".")[0] for one in (error, value)}
        if not isinstance(error, _NO_ARRAY) and len(libraries) > 1:
            raise  # a fault of the object's own, or a signal's
        device = _other_device(value)
        if device is not None:
            raise TypeError(f"{argument} is on {device}; copy it into the CPU's memory first, for example with "
                            f"{argument}.cpu() or {argument}.get()") from None  # fmt: skip
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{argument} is not an array of numbers: {error or type(error).__name__}") from None


def _other_device(value: Any) -> str | None:
    """What holds `value`, where that is not the CPU's memory."""
    device = getattr(value, "device", None)
    try:
        elsewhere = value.__dlpack_device__()[0] not in _ON_CPU
    except Exception:  # there is none, or it is one that DLPack does not know
        elsewhere = getattr(device, "type", "cpu") != "cpu"
    return f"the device {device}" if elsewhere and device is not None else "another device" if elsewhere else None


# ------------------------------------------------------------------ real numbers, and what is none


def _real(argument: str, array: np.ndarray, k: int | None = None, frame: Any = None) -> np.ndarray:
    """`array` in a dtype of real numbers that is NumPy's."""
    kind = array.dtype.kind
    if is_numpys(array.dtype):
        return array
    if kind == "O":
        return _of_objects(argument, array, k, frame)
    if kind == "c":
        raise ValueError(f"{argument} is complex; real numbers are wanted")
    if array.dtype.num >= _FIRST_OF_OTHERS:  # of ml_dtypes, as bfloat16
        for dtype in _HOLD_OTHERS:
            if np.can_cast(array.dtype, dtype):
                return array.astype(dtype)
    if kind == "V" or not array.size or array.dtype.num >= _FIRST_OF_OTHERS:
        raise TypeError(f"{argument} must hold numbers, got dtype {array.dtype}")
    at = (0,) * array.ndim
    if kind in "US":  # NumPy makes text of all, where some is; what is no numeral is to blame
        at = next((place for place, item in np.ndenumerate(array) if not _is_numeral(item)), at)
    item = array[at]
    raise _no_number(argument, item.item() if kind in "US" else item, at, k, frame)


def _of_objects(argument: str, array: np.ndarray, k: int | None, frame: Any) -> np.ndarray:
    """Objects as bools or integers, where all are and one dtype holds them; else as float64."""
    kinds = set(map(type, array.flat))
    if all(map(_is_real, kinds)):
        dtypes: tuple[type, ...] = (np.float64,)
        if kinds and all(issubclass(kind, _WHOLE) for kind in kinds):
            dtypes = (np.bool_,) if kinds <= {bool, np.bool_} else (np.int64, np.uint64, np.float64)
        for dtype in dtypes:
            try:
                found = array.astype(dtype)
            except OverflowError:
                continue
            except (TypeError, ValueError):  # from an object's own __float__
                break
            if dtype is np.float64 and np.isinf(found).any() and any(map(_is_too_large, array.flat)):
                break
            return found
    for at, item in np.ndenumerate(array):
        if _float(item) is None or _is_too_large(item):
            raise _no_number(argument, item, at, k, frame)
    raise TypeError(f"{argument} holds objects that are not numbers")


def _is_too_large(item: Any) -> bool:
    """Whether a finite number becomes infinite as a float64."""
    x = _float(item)
    return x is not None and math.isinf(x) and bool(item != x)


def shown(item: Any) -> str:
    """What a message shows of something: its repr, in one line that is not long."""
    text = " ".join(repr(item).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_number(argument: str, item: Any, at: tuple[int, ...], k: int | None, frame: Any) -> Exception:
    """The error that names what is no number that can be used, and where it stands."""
    what = shown(item) if item is None else f"{shown(item)} of type {type(item).__name__}"
    if not at:
        lazy = [method for method in ("collect", "compute") if hasattr(item, method)]  # of polars, of dask
        cure = f"; call {argument}.{lazy[0]}() first" if lazy else ""
        return TypeError(f"{argument} must hold numbers, got {what}{cure}")
    kind, cure = _cure(argument, item)
    at = at if k is None else (*at, k)
    if len(at) > 2:
        place = f"{argument}[{', '.join(map(str, at))}]"
    else:
        place = ", ".join(f"{axis} {index}" for axis, index in zip(("row", "column"), at))
        place += _name_of_column(frame, at[1]) if len(at) == 2 else ""
    return kind(f"{argument} holds {what} at {place}; {cure}")


def _name_of_column(frame: Any, k: int) -> str:
    names = getattr(frame, "column_names", getattr(frame, "columns", None))
    try:
        name = names[k]  # type: ignore[index]
    except Exception:  # there are none
        return ""
    return f" ({name!r})" if isinstance(name, str) else ""


def _cure(argument: str, item: Any) -> tuple[type[Exception], str]:
    """The kind of the error, and the end of its sentence."""
    if item is None or type(item).__name__ in ("NAType", "NaTType"):
        return TypeError, "it is missing, and numbers are wanted: fill it, or leave its row out"
    if isinstance(item, (str, bytes)):
        if _is_numeral(item):
            kind = "int" if argument == "y" and item.strip().isdigit() else "float"  # labels are whole
            return TypeError, f"numbers are wanted, and np.asarray({argument}, {kind}) reads text as numbers"
        if argument == "y":
            return TypeError, "numbers are wanted: classes, y = np.unique(y, return_inverse=True) makes labels of names"
        return TypeError, "numbers are wanted: make a column of 0 and 1 of each category (one-hot)"
    if isinstance(item, (np.datetime64, np.timedelta64, date, time, timedelta)):
        return TypeError, "numbers are wanted: count times from one of them, in days for example"
    if isinstance(item, (complex, np.complexfloating)):
        return ValueError, "it is complex, real numbers are wanted"
    if isinstance(item, Number):
        return ValueError, "it is too large for float64"
    if isinstance(item, Iterable):
        return TypeError, "one number for each cell is wanted; np.stack makes the rows of a matrix of equal arrays"
    return TypeError, "numbers are wanted"


def _is_numeral(text: str | bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
