"""What waits for the ends of epochs: callbacks and a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastbp import checks
from fastbp.callbacks import HOOKS, Clock, EarlyStopping
from fastbp.errors import StopTraining
from fastbp.training.watch import Progress, check, hook_of

_INSTEAD = {  # of fastbp's own callbacks, which are about a network
    "EarlyStopping": "early_stopping=True of the estimator",
    "TimeLimit": "time_limit= of the estimator",
    "Checkpoint": "a callback of your own that writes a pickle",
}


class Watch:
    """Callbacks, which are handed the estimator, and a bar.

    Parameters
    ----------
    estimator : estimator
    callbacks : sequence or None
        Objects with some of the hooks of `fastbp.Callback`.
    progress : bool
    """

    def __init__(self, estimator: Any, callbacks: Any, progress: Any) -> None:
        self._estimator = estimator
        for k, callback in enumerate(callbacks if isinstance(callbacks, (list, tuple)) else ()):
            if isinstance(callback, (Clock, EarlyStopping)):
                name = type(callback).__name__
                raise TypeError(f"callbacks[{k}]: {name} is for fastbp.MLP; take {_INSTEAD.get(name, 'another')}")
        found = check(callbacks, {})
        self._hooks = {name: [hook for one in found if (hook := hook_of(one, name))] for name in HOOKS}
        self._bar = Progress() if checks.boolean("progress", progress) else None
        self._logs: dict[str, float] = {}
        self._loss = float("nan")

    @property
    def waits(self) -> bool:
        """Whether each epoch is waited for."""
        return bool(self._hooks["on_eval"] or self._hooks["on_epoch_end"])

    def begin(self, steps: int) -> None:
        if self._bar is not None:
            self._bar.begin(steps)
        self._call(self._hooks["on_train_begin"])

    def show(self, steps: int, loss: float) -> None:
        """So many steps are done."""
        self._loss = loss
        if self._bar is not None:
            self._bar.show(steps, loss)

    def epoch_ended(self, logs: dict[str, float]) -> None:
        self._logs = logs
        self._call([*self._hooks["on_eval"], *self._hooks["on_epoch_end"]], logs)

    def finish(self, steps: int) -> None:
        if self._bar is not None:
            self._bar.show(steps, self._loss, last=True)
        try:
            self._call(self._hooks["on_train_end"], self._logs)
        except StopTraining:  # it has stopped
            pass

    def close(self) -> None:
        """However it ended."""
        if self._bar is not None:
            self._bar.close()

    def _call(self, hooks: list[Callable[..., None]], *logs: dict[str, float]) -> None:
        """Call all, also where one stops the run: the others are to know its last epoch too."""
        stop = None
        for hook in hooks:
            try:
                hook(self._estimator, *logs)
            except StopTraining as error:
                stop = stop or error
        if stop is not None:
            raise stop
