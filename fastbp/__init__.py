"""fastbp: trains dense networks by back-propagation on CPUs, with compiled kernels and a NumPy reference."""

from fastbp.callbacks import Callback, Checkpoint, EarlyStopping, TimeLimit
from fastbp.config import backend, set_backend, show_config
from fastbp.errors import NonFiniteError, StopTraining
from fastbp.history import History
from fastbp.mlp import MLP
from fastbp.optimizers import SGD
from fastbp.threads import register as _register

__all__ = [
    "MLP", "SGD", "Callback", "Checkpoint", "EarlyStopping", "History", "NonFiniteError", "StopTraining", "TimeLimit",
    "backend", "ops", "set_backend", "show_config",
]  # fmt: skip

_register()


def __getattr__(name: str) -> object:
    """Parts that load on first use."""
    import importlib

    if name == "ops":
        return importlib.import_module("fastbp.ops")
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("fastbp")
    raise AttributeError(f"module 'fastbp' has no attribute {name!r}")
