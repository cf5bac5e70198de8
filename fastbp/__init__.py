"""fastbp: trains dense networks by back-propagation on CPUs, with compiled kernels and a NumPy reference."""

from fastbp.config import backend, set_backend, show_config
from fastbp.errors import NonFiniteError
from fastbp.history import History
from fastbp.mlp import MLP
from fastbp.optimizers import SGD
from fastbp.threads import register as _register

_OWN = ("Activation", "Loss", "Optimizer", "activation", "loss")  # of fastbp.own
__all__ = ["MLP", "SGD", "History", "NonFiniteError", "backend", "ops", "set_backend", "show_config", *_OWN]

_register()


def __getattr__(name: str) -> object:
    """Parts that load on first use."""
    import importlib

    if name == "ops":
        return importlib.import_module("fastbp.ops")
    if name in _OWN:
        return getattr(importlib.import_module("fastbp.own"), name)
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("fastbp")
    raise AttributeError(f"module 'fastbp' has no attribute {name!r}")
