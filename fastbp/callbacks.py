"""Callbacks: what `fit` calls during a run, and the callbacks that fastbp has.

How a run asks and tells them is in `fastbp.training.watch`.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from fastbp import checks
from fastbp.errors import StopTraining, unknown_name

if TYPE_CHECKING:
    from fastbp.mlp import MLP
    from fastbp.training.state import Snapshot

FAR = 1 << 62  # steps: never


class Callback:
    """Called while a network trains. Override what you need; a class of your own with some of these methods will do.

    A callback may read the network, `predict`, `evaluate` and save it, write its parameters, set ``net.lr``, raise
    `StopTraining` to end the run, or any other error, which comes out of `fit`: the network is then that of the step at
    hand. What trains or replaces the network (`fit`, `train_step`, `update`, `unflatten`) is a RuntimeError.

    ``logs`` holds numbers by name: ``"epoch"`` (epochs finished), ``"step"``, ``"loss"``, ``"lr"`` (of the next step,
    as ``net.lr``; the history has that of the step before), and what was measured at this step: ``"val_loss"`` and the
    metrics.

    Attributes
    ----------
    writes : bool
        Whether it may write the network's parameters. A class says so for itself, not for those made from it.
    """

    writes: bool = True

    def on_train_begin(self, net: MLP) -> None:
        """Before the first step of `net`."""

    def on_eval(self, net: MLP, logs: dict[str, float]) -> None:
        """After each entry of the history of `net`, which `logs` holds: by default each epoch, and the end."""

    def on_epoch_end(self, net: MLP, logs: dict[str, float]) -> None:
        """After each epoch of `net`; in `logs` the loss is the mean over its batches."""

    def on_train_end(self, net: MLP, logs: dict[str, float]) -> None:
        """After the last step of `net`, also where the run was stopped, but not where it failed; `logs` of the last
        entry.
        """


HOOKS: dict[str, tuple[str, ...]] = {  # and what they take
    "on_train_begin": ("net",), "on_eval": ("net", "logs"), "on_epoch_end": ("net", "logs"),
    "on_train_end": ("net", "logs"),
}  # fmt: skip


def _written(callback: Callback, *arguments: str) -> str:
    """A callback as it is made."""
    return f"{type(callback).__name__}({', '.join(f'{name}={getattr(callback, name)!r}' for name in arguments)})"


class Clock(Callback):
    """Waits for steps or seconds."""

    looks = True  # at the parameters, which must be finite then

    def steps_ahead(self, step: int) -> int:
        """Steps from `step` to the next that it waits for."""
        return FAR

    def due(self, step: int) -> bool:
        raise NotImplementedError

    def act(self, net: MLP) -> None:
        raise NotImplementedError


OTHER_ARGUMENTS: dict[str, tuple[str, ...]] = {  # what other libraries call those of the next two
    "patience": ("n_iter_no_change", "stopping_rounds", "wait", "early_stopping_rounds"),
    "min_delta": ("tol", "threshold", "delta"),
    "restore_best": ("restore_best_weights", "save_best", "load_best"),
    "monitor": ("metric", "metric_name", "quantity"),
    "path": ("filepath", "filename", "file", "dirpath"),
    "every_steps": ("save_freq", "save_steps", "every_n_train_steps", "period"),
    "fastbp.EarlyStopping(restore_best=True) keeps the best network": ("save_best_only", "save_top_k"),
    "a callback says nothing; fit has verbose=": ("verbose",),
}


class EarlyStopping(Callback):
    """Stops when what is monitored has not improved for some entries of the history.

    Parameters
    ----------
    monitor : str, default "val_loss"
        ``"val_loss"``, ``"loss"``, or a metric as the history names it, such as ``"val_accuracy"``.
    patience : int, default 10
        Entries in a row without improvement after which the run stops.
    min_delta : float, default 0.0
        An improvement is by more than this.
    restore_best : bool, default True
        At the end, also of a run that was not stopped, the network becomes what it was at the best entry: parameters,
        optimizer slots, ``net.step``. To go on from there gives the bits of a run that was never stopped. False: it
        stays where the run ended.
    mode : {"auto", "min", "max"}
        Which values are better; "auto" knows it of losses and of the metrics of `fastbp.metrics`.

    Attributes
    ----------
    best : float
        The best value of the last run; NaN before any.
    best_step : int or None
        ``net.step`` there.
    """

    writes: bool = False

    @checks.names_arguments(OTHER_ARGUMENTS)
    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: Literal["auto", "min", "max"] = "auto",
    ) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"EarlyStopping: monitor must be a name such as 'val_loss', got {monitor!r}")
        self.monitor = monitor
        self.patience: int = checks.integer("EarlyStopping: patience", patience, 1)
        self.min_delta: float = checks.number("EarlyStopping: min_delta", min_delta, 0)
        self.restore_best: bool = checks.boolean("EarlyStopping: restore_best", restore_best)
        self.mode: Literal["auto", "min", "max"] = checks.choice("EarlyStopping: mode", mode, ("auto", "min", "max"))
        self._reset()

    def __repr__(self) -> str:
        return _written(self, "monitor", "patience", "min_delta", "restore_best", "mode")

    def _reset(self) -> None:
        self.best: float = float("nan")
        self.best_step: int | None = None
        self._waited = 0
        self._snapshot: Snapshot | None = None

    def check(self, better: Mapping[str, str | None]) -> None:
        """Make sure that `better`, the columns of the coming history with their better side, has what is monitored."""
        if self.monitor not in better:
            hint = "; give fit validation_data or validation_split" if self.monitor.startswith("val_") else ""
            raise ValueError(f"{unknown_name('EarlyStopping: monitor', self.monitor, better)}{hint}")
        side = better[self.monitor] if self.mode == "auto" else self.mode
        if side is None:
            raise ValueError(f"EarlyStopping: mode must be 'min' or 'max' for {self.monitor!r}, a metric of your own")
        self._sign = 1 if side == "max" else -1

    def on_train_begin(self, net: MLP) -> None:
        """Forget earlier runs of `net`."""
        self._reset()

    def on_eval(self, net: MLP, logs: dict[str, float]) -> None:
        """Compare `logs` with the best entry; raise `StopTraining` where `net` has got no better for long."""
        value = logs[self.monitor]
        first = math.isnan(self.best) and not math.isnan(value)
        if first or self._sign * (value - self.best) > self.min_delta:
            self.best, self.best_step, self._waited = value, int(logs["step"]), 0
            if self.restore_best:
                self._snapshot = net._running().snapshot()
            return
        self._waited += 1
        if self._waited >= self.patience:
            if self.best_step is None:
                raise StopTraining(f"{self.monitor} was NaN in {self._waited} entries")
            raise StopTraining(f"{self.monitor} has not improved in {self._waited} entries; "
                               f"best {self.best:g} at step {self.best_step}")  # fmt: skip

    def on_train_end(self, net: MLP, logs: dict[str, float]) -> None:
        """Take `net` back to its best entry; `logs` stay those of the last."""
        if self._snapshot is not None:
            self._snapshot.restore()
            self._snapshot = None


class Checkpoint(Clock):
    """Saves the network, with its training state, every so many steps or seconds, by `MLP.save`.

    A run that goes on from the file gives the bits of one that was never interrupted; where X gives batches, if it
    begins with those that were not done yet. The end of a run is not saved by itself. With ``nonfinite="raise"`` only
    finite parameters are saved.

    Parameters
    ----------
    path : str or path
        ``{step}`` in it becomes ``net.step``, as `str.format` has it: ``{step:06d}``; without, each file replaces the
        one before. A brace is written twice.
    every_steps, every_seconds : number
        Exactly one: after each step that is a multiple, or when so many seconds have passed.
    """

    writes: bool = False

    @checks.names_arguments(OTHER_ARGUMENTS)
    def __init__(
        self, path: str | os.PathLike[str], *, every_steps: int | None = None, every_seconds: float | None = None
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"Checkpoint: path must be a string or a path, got {path!r}")
        if (every_steps is None) == (every_seconds is None):
            raise ValueError("Checkpoint: give exactly one of every_steps and every_seconds, "
                             f"got every_steps={every_steps!r} and every_seconds={every_seconds!r}")  # fmt: skip
        self.path: str = os.fspath(path)
        try:
            self.path.format(step=0)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"Checkpoint: path may have {{step}} in braces and nothing else, got {path!r}: "
                             f"{error!r}") from None  # fmt: skip
        self.every_steps: int | None = checks.optional_integer("Checkpoint: every_steps", every_steps, 1)
        self.every_seconds: float | None = (
            None if every_seconds is None else checks.number("Checkpoint: every_seconds", every_seconds, 0)
        )

    def __repr__(self) -> str:
        return _written(self, "path", "every_steps" if self.every_steps else "every_seconds")

    def on_train_begin(self, net: MLP) -> None:
        """Start the clock of `net`; a folder that is missing is an error now, not after a thousand steps."""
        folder = os.path.dirname(self.path.format(step=net.step))
        if folder and not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "Checkpoint: there is no such folder", folder)
        self._last = time.monotonic()

    def steps_ahead(self, step: int) -> int:
        """Steps from `step` to the next multiple."""
        return self.every_steps - step % self.every_steps if self.every_steps else FAR

    def due(self, step: int) -> bool:
        """Whether `step` is to be saved."""
        if self.every_steps:
            return step % self.every_steps == 0
        return self.every_seconds is not None and time.monotonic() - self._last >= self.every_seconds

    def act(self, net: MLP) -> None:
        """Save `net`."""
        net.save(self.path.format(step=net.step))
        self._last = time.monotonic()


class TimeLimit(Clock):
    """Stops a run after so many seconds: within 50 ms or one step, whichever is longer, and what waits at the end.

    Parameters
    ----------
    seconds : float
    """

    writes: bool = False
    looks = False

    def __init__(self, seconds: float) -> None:
        self.seconds: float = checks.number("TimeLimit: seconds", seconds, 0)

    def __repr__(self) -> str:
        return _written(self, "seconds")

    def on_train_begin(self, net: MLP) -> None:
        """Start the clock of `net`."""
        self._end = time.monotonic() + self.seconds

    def due(self, step: int) -> bool:
        """Whether the time is over, whatever the `step`."""
        return time.monotonic() >= self._end

    def act(self, net: MLP) -> None:
        """Stop the run of `net`."""
        raise StopTraining(f"the time limit of {self.seconds:g} seconds")


class Lines(Callback):
    """``verbose=k``: a line on standard output every k epochs."""

    writes: bool = False

    def __init__(self, every_epochs: int, write: Callable[[str], object]) -> None:
        self.every_epochs = every_epochs
        self._write = write

    def on_epoch_end(self, net: MLP, logs: dict[str, float]) -> None:
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in logs.items() if name not in ("epoch", "step"))
        self._write(f"epoch {int(logs['epoch'])}  step {int(logs['step'])}  {numbers}")
