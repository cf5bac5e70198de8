"""fastbp: trains dense networks by back-propagation on CPUs, with compiled kernels and a NumPy reference."""

import typing as _typing

from fastbp import activations, initializers, losses, optimizers, rows, schedules
from fastbp.backends.config import backend, set_backend, show_config
from fastbp.backends.threads import register as _register
from fastbp.errors import FormatError, NonFiniteError, StopTraining
from fastbp.history import History, ManyHistory
from fastbp.mlp import MLP, load
from fastbp.optimizers import LBFGS, SGD, Adadelta, Adagrad, Adam, AdamW, Lion, NAdam, RAdam, RMSprop, Rprop

if _typing.TYPE_CHECKING:  # as `__getattr__` has it; a test compares the two
    from fastbp import metrics, ops, plot, typing
    from fastbp.callbacks import Callback, Checkpoint, EarlyStopping, TimeLimit
    from fastbp.gradients import check_gradients
    from fastbp.inspection.trace import LayerStep, ParameterStep, Trace
    from fastbp.many.ensemble import Ensemble
    from fastbp.many.fit import fit_many
    from fastbp.many.predict import predict_many
    from fastbp.many.stored import load_many, save_many
    from fastbp.own import Activation, Loss, Optimizer, activation, loss
    from fastbp.search.found import Sweep
    from fastbp.search.trials import sweep

    __version__: str

__all__ = [
    "LBFGS", "MLP", "SGD", "Activation", "Adadelta", "Adagrad", "Adam", "AdamW", "Callback", "Checkpoint",
    "EarlyStopping", "Ensemble", "FormatError", "History", "LayerStep", "Lion", "Loss", "ManyHistory", "NAdam",
    "NonFiniteError", "Optimizer", "ParameterStep", "RAdam", "RMSprop", "Rprop", "StopTraining", "Sweep", "TimeLimit",
    "Trace", "activation", "activations", "backend", "check_gradients", "fit_many", "initializers", "load", "load_many",
    "loss", "losses", "metrics", "ops", "optimizers", "plot", "predict_many", "rows", "save_many", "schedules",
    "set_backend", "show_config", "sweep", "typing",
]  # fmt: skip

_register()


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


if not _typing.TYPE_CHECKING:  # which would take any name for one that is here

    def __getattr__(name: str) -> object:
        """Parts that load on first use, by plain imports: what packs programs has to see them."""
        match name:
            # `from fastbp import ops` would ask here again
            case "metrics":
                import fastbp.metrics as found
            case "ops":
                import fastbp.ops as found
            case "plot":
                import fastbp.plot as found
            case "typing":
                import fastbp.typing as found
            case "Callback" | "Checkpoint" | "EarlyStopping" | "TimeLimit":
                from fastbp import callbacks

                found = getattr(callbacks, name)
            case "check_gradients":
                from fastbp.gradients import check_gradients as found
            case "fit_many":
                from fastbp.many.fit import fit_many as found
            case "LayerStep" | "ParameterStep" | "Trace":
                from fastbp.inspection import trace

                found = getattr(trace, name)
            case "Ensemble":
                from fastbp.many.ensemble import Ensemble as found
            case "predict_many":
                from fastbp.many.predict import predict_many as found
            case "load_many" | "save_many":
                from fastbp.many import stored

                found = getattr(stored, name)
            case "Activation" | "Loss" | "Optimizer" | "activation" | "loss":
                from fastbp import own

                found = getattr(own, name)
            case "Sweep":
                from fastbp.search.found import Sweep as found
            case "sweep":
                from fastbp.search.trials import sweep as found
            case "__version__":
                from importlib.metadata import version

                found = version("fastbp")
            case _:
                raise AttributeError(f"module 'fastbp' has no attribute {name!r}")
        return found
