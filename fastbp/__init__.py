"""fastbp: trains dense networks by back-propagation on CPUs, with compiled kernels and a NumPy reference."""

import typing as _typing

from fastbp import losses
from fastbp.backends.config import backend, set_backend, show_config
from fastbp.backends.threads import register as _register
from fastbp.errors import FormatError, NonFiniteError, StopTraining
from fastbp.history import History
from fastbp.mlp import MLP, load
from fastbp.optimizers import LBFGS, SGD, Adadelta, Adagrad, Adam, AdamW, Lion, NAdam, RAdam, RMSprop, Rprop

_OWN = ("Activation", "Loss", "Optimizer", "activation", "loss")  # of fastbp.own

if _typing.TYPE_CHECKING:
    from fastbp.callbacks import Callback, Checkpoint, EarlyStopping, TimeLimit
    from fastbp.gradients import check_gradients
    from fastbp.inspection.trace import LayerStep, ParameterStep, Trace

__all__ = [
    "LBFGS", "MLP", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Callback", "Checkpoint", "EarlyStopping",
    "FormatError", "History", "LayerStep", "Lion", "NAdam", "NonFiniteError", "ParameterStep", "RAdam", "RMSprop",
    "Rprop", "StopTraining", "TimeLimit", "Trace", "backend", "check_gradients", "load", "losses", "metrics", "ops",
    "plot", "schedules", "set_backend", "show_config", *_OWN,
]  # fmt: skip

_register()


_ON_FIRST_USE = {  # names, and the modules that have them
    **dict.fromkeys(("LayerStep", "ParameterStep", "Trace"), "fastbp.inspection.trace"),
    **dict.fromkeys(("Callback", "Checkpoint", "EarlyStopping", "TimeLimit"), "fastbp.callbacks"),
    "check_gradients": "fastbp.gradients",
}


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> object:
    """Parts that load on first use."""
    import importlib

    if name in _ON_FIRST_USE:
        return getattr(importlib.import_module(_ON_FIRST_USE[name]), name)
    if name in ("metrics", "ops", "plot", "schedules"):
        return importlib.import_module(f"fastbp.{name}")
    if name in _OWN:
        return getattr(importlib.import_module("fastbp.own"), name)
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("fastbp")
    raise AttributeError(f"module 'fastbp' has no attribute {name!r}")
