"""Where the compiled module is not there: why, what to do about it, and one warning that NumPy serves instead."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from typing import NamedTuple

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MODULES = [f"_engine{suffix}" for suffix in EXTENSION_SUFFIXES]  # what this Python would import


class Absence(NamedTuple):
    """Why there is no compiled module."""

    why: str
    cure: str
    asked_for: bool = False  # by whoever built it

    def __str__(self) -> str:
        slower = "NumPy takes some tens of times as long"
        return f"the compiled module fastbp._engine is not there: {self.why} ({slower}); {self.cure}"


@cache
def absence(package: str = PACKAGE) -> Absence:
    """Why the package in this folder has no compiled module, found by looking at what is there instead."""
    root = os.path.dirname(package)
    is_clone = os.path.exists(os.path.join(root, "src", "engine.pyx"))
    build = f"with a C++ compiler there, pip install {f'-e {root}' if is_clone else '--force-reinstall fastbp'}"
    if _built_without(package):
        return Absence("fastbp was installed with FASTBP_NO_EXTENSION", f"without that, {build}", True)
    if getattr(sys, "frozen", False) or "__compiled__" in globals():  # by PyInstaller and the like; by Nuitka
        return Absence("it was not packed with this program", "have it built where the program is packed, and name "
                       "fastbp._engine to the packer as a hidden import")  # fmt: skip
    others = _modules_of_others(package)
    if others:
        return Absence(f"{others[0]} in {package} belongs to another Python, and this one looks for {_MODULES[0]}",
                       f"for this Python, {build}")  # fmt: skip
    if not is_clone:
        return Absence(f"the installation in {package} is without it", f"once more, {build}")
    elsewhere = _installed_elsewhere()
    if elsewhere:
        return Absence(f"Python imports the sources in {package}, and not the fastbp that is installed in {elsewhere}",
                       "run the program from another folder")  # fmt: skip
    if os.path.exists(os.path.join(root, "build", "cython", "engine.cpp")):  # setup.py makes it first
        return Absence(f"the sources in {root} are used, and their build was begun and not finished",
                       f"{build}, and read what it prints")  # fmt: skip
    return Absence(f"the sources in {root} are used, and were not built", f"{build} (or `make demo` in that folder)")


def _modules_of_others(package: str) -> list[str]:
    """Files that are the compiled module of another Python."""
    names = sorted(os.listdir(package)) if os.path.isdir(package) else []
    compiled = (name for name in names if name.startswith("_engine.") and name.endswith((".so", ".pyd")))
    return [name for name in compiled if name not in _MODULES]


def _built_without(package: str) -> bool:
    """Whether the wheel that put the package there, an editable one too, says that it is pure Python."""
    from importlib.metadata import distributions

    for one in distributions(name="fastbp"):
        pure = "Root-Is-Purelib: true" in (one.read_text("WHEEL") or "")
        if pure and any(_is_same(place, package) for place in _places(str(one.locate_file("fastbp")), one)):
            return True
    return False


def _places(installed: str, one: object) -> Iterator[str]:
    """Where a distribution has the package: beside its metadata, or where an editable one refers to (PEP 610)."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    yield installed
    text = one.read_text("direct_url.json")  # type: ignore[attr-defined]
    told = json.loads(text) if text else {}
    if told.get("dir_info", {}).get("editable"):
        yield os.path.join(url2pathname(urlsplit(told["url"]).path), "fastbp")


def _is_same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _installed_elsewhere() -> str | None:
    """A folder of the path in which fastbp has its compiled module."""
    folders = (os.path.join(folder or os.getcwd(), "fastbp") for folder in sys.path)
    for folder in folders:
        if any(os.path.exists(os.path.join(folder, name)) for name in _MODULES):
            return folder
    return None


_untold = [True]  # what is popped once, whatever the threads


def warn_once() -> None:
    """Warn, once a process, that NumPy serves since the compiled module is not there, unless that was asked for."""
    if not _untold:
        return
    why = absence()
    try:
        _untold.pop()
    except IndexError:  # another thread was first
        return
    if not why.asked_for:
        silent = "fastbp.set_backend('reference') takes NumPy without a warning"
        warnings.warn(f"fastbp works by NumPy alone: {why}; {silent}", RuntimeWarning, stacklevel=_level_of_caller())


def _level_of_caller() -> int:
    """The `stacklevel` of the first line outside of fastbp, for the function that calls this."""
    level, frame = 1, sys._getframe(1)
    ours = ("fastbp", "contextlib")  # whose frames stand between those of `fastbp.ops`
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ours:
        level, frame = level + 1, frame.f_back
    return level
