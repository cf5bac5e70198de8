"""What may wait during a run: callbacks, validation, early stopping, checkpoints, a time limit, progress.

`Run.go` knows one of these only: `Watch`. It asks how many steps there are until something waits, and tells when they
are done. Without a `Watch` the run never looks. Whatever waits sees the network between two steps, reads what it likes,
and leaves no trace in the parameters unless it writes them.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp import spec
from fastbp.checks import takes
from fastbp.errors import NonFiniteError, StopTraining, instance_hint, unknown_name
from fastbp.metrics import find_all, measure

if TYPE_CHECKING:
    from fastbp.feeds import Examples
    from fastbp.mlp import MLP
    from fastbp.rows import Loss
    from fastbp.training import Run, Snapshot

FAR = 1 << 62  # steps: never
_UPDATE_SECONDS = 0.1  # between two updates of the progress bar


class Callback:
    """Called while a network trains. Override what you need; a class of your own with some of these methods will do.

    A callback may read the network, `predict`, `evaluate` and save it, write its parameters, set ``net.lr``, raise
    `StopTraining` to end the run, or any other error, which comes out of `fit`: the network is then that of the step at
    hand. What trains or replaces the network (`fit`, `train_step`, `update`, `unflatten`) is a RuntimeError.

    ``logs`` holds numbers by name: ``"epoch"`` (epochs finished), ``"step"``, ``"loss"``, ``"lr"``, and what was
    measured at this step: ``"val_loss"`` and the metrics.
    """

    def on_train_begin(self, net: MLP) -> None:
        """Before the first step of `net`."""

    def on_eval(self, net: MLP, logs: dict[str, float]) -> None:
        """After each entry of the `History` of `net`, which `logs` holds: by default each epoch, and the run's end."""

    def on_epoch_end(self, net: MLP, logs: dict[str, float]) -> None:
        """After each epoch of `net`; in `logs` the loss is the mean over its batches."""

    def on_train_end(self, net: MLP, logs: dict[str, float]) -> None:
        """After the last step of `net`, also where the run was stopped, but not where it failed; `logs` of the last
        entry.
        """


HOOKS = {  # and what they take
    "on_train_begin": ("net",), "on_eval": ("net", "logs"), "on_epoch_end": ("net", "logs"),
    "on_train_end": ("net", "logs"),
}  # fmt: skip


class _Clock(Callback):
    """Waits for steps or seconds."""

    looks = True  # at the parameters, which must be finite then

    def steps_ahead(self, step: int) -> int:
        """Steps from `step` to the next that it waits for."""
        return FAR

    def due(self, step: int) -> bool:
        raise NotImplementedError

    def act(self, net: MLP) -> None:
        raise NotImplementedError


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

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: str = "auto",
    ) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"EarlyStopping: monitor must be a name such as 'val_loss', got {monitor!r}")
        self.monitor = monitor
        self.patience = spec.integer("EarlyStopping: patience", patience, 1)
        self.min_delta = spec.number("EarlyStopping: min_delta", min_delta, 0)
        self.restore_best = spec.boolean("EarlyStopping: restore_best", restore_best)
        self.mode = spec.choice("EarlyStopping: mode", mode, ("auto", "min", "max"))
        self._reset()

    def _reset(self) -> None:
        self.best, self.best_step = float("nan"), None
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
                self._snapshot = net._run.snapshot()
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


class Checkpoint(_Clock):
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

    def __init__(self, path: Any, *, every_steps: int | None = None, every_seconds: float | None = None) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"Checkpoint: path must be a string or a path, got {path!r}")
        if (every_steps is None) == (every_seconds is None):
            raise ValueError("Checkpoint: give exactly one of every_steps and every_seconds, "
                             f"got every_steps={every_steps!r} and every_seconds={every_seconds!r}")  # fmt: skip
        self.path = os.fspath(path)
        try:
            self.path.format(step=0)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"Checkpoint: path may have {{step}} in braces and nothing else, got {path!r}: "
                             f"{error!r}") from None  # fmt: skip
        self.every_steps = spec.optional_integer("Checkpoint: every_steps", every_steps, 1)
        self.every_seconds = (
            None if every_seconds is None else spec.number("Checkpoint: every_seconds", every_seconds, 0)
        )

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
        return time.monotonic() - self._last >= self.every_seconds

    def act(self, net: MLP) -> None:
        """Save `net`."""
        net.save(self.path.format(step=net.step))
        self._last = time.monotonic()


class TimeLimit(_Clock):
    """Stops a run after so many seconds: within 50 ms or one step, whichever is longer, and what waits at the end.

    Parameters
    ----------
    seconds : float
    """

    looks = False

    def __init__(self, seconds: float) -> None:
        self.seconds = spec.number("TimeLimit: seconds", seconds, 0)

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

    def __init__(self, every_epochs: int, write: Callable[[str], object]) -> None:
        self.every_epochs = every_epochs
        self._write = write

    def on_epoch_end(self, net: MLP, logs: dict[str, float]) -> None:
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in logs.items() if name not in ("epoch", "step"))
        self._write(f"epoch {int(logs['epoch'])}  step {int(logs['step'])}  {numbers}\n")


class Progress:
    """``progress=True``: a bar of tqdm with steps a second, the epoch's mean loss so far, and the time left."""

    def __init__(self) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            raise ImportError("progress=True needs tqdm: pip install 'fastbp[progress]'") from None
        self._make, self._bar = tqdm, None
        self._next = 0.0

    def begin(self, steps: int | None) -> None:
        # in thousands and millions only where there are so many; `show` says when to draw
        large = steps is None or steps >= 10_000
        self._bar = self._make(total=steps, unit=" steps", unit_scale=large, mininterval=0, miniters=1)

    def show(self, steps: int, loss: float, *, last: bool = False) -> None:
        """Show that so many steps are done, unless that was done a moment ago."""
        now = time.monotonic()
        if now < self._next and not last:
            return
        self._next = now + _UPDATE_SECONDS
        self._bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
        self._bar.update(steps - self._bar.n)

    def write(self, text: str) -> None:
        self._make.write(text, end="")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _hook(callback: Any, name: str) -> Callable[..., None] | None:
    """A callback's method, or None where there is none or it is the empty one."""
    method = getattr(callback, name, None)
    empty = getattr(method, "__func__", method) is getattr(Callback, name)
    return method if callable(method) and not empty else None


def check(value: Any, better: Mapping[str, str | None]) -> list[Any]:
    """The ``callbacks=`` of `fit`, sure to be callbacks, and to find what they monitor."""
    if value is None:
        return []
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"callbacks must be a sequence of callbacks, got {value!r}")
    found = list(value)
    for k, callback in enumerate(found):
        hears = any(callable(getattr(callback, name, None)) for name in HOOKS)
        if isinstance(callback, type) or not hears:
            raise TypeError(f"callbacks[{k}] must be an object with at least one of {', '.join(HOOKS)}, "
                            f"got {callback!r}{instance_hint(callback, object if hears else ())}")  # fmt: skip
        if isinstance(callback, Callback) and not any(_hook(callback, name) for name in HOOKS):
            raise TypeError(f"callbacks[{k}]: {type(callback).__name__} has none of {', '.join(HOOKS)} of its own")
        for name in HOOKS:
            hook = _hook(callback, name)
            if hook is not None and type(callback).__module__ != __name__:
                takes(f"callbacks[{k}]: {name}", hook, *HOOKS[name])
        if isinstance(callback, EarlyStopping):
            callback.check(better)
    return found


class Watch:
    """All that waits in one run.

    Parameters
    ----------
    net : MLP
    callbacks : sequence
    eval_every : int or None
        As for `fit`.
    columns : sequence of str
        What `measure` gives for the history.
    measure : callable or None
        () -> values by name, wanted at each entry of the history; with `eval_every` also the entry's ``"loss"``, unless
        that is the mean over the batches.
    progress : Progress or None
    """

    def __init__(
        self,
        net: MLP,
        callbacks: Sequence[Any],
        eval_every: int | None,
        columns: Sequence[str],
        measure: Callable[[], dict[str, float]] | None,
        progress: Progress | None,
    ) -> None:
        self.columns: dict[str, list[float]] = {name: [] for name in columns}
        self.eval_every = eval_every
        self._net, self._measure, self._progress = net, measure, progress
        self._hooks = {name: [hook for one in callbacks if (hook := _hook(one, name))] for name in HOOKS}
        self._epoch_hooks = [(one.every_epochs if isinstance(one, Lines) else 1, hook)
                             for one in callbacks if (hook := _hook(one, "on_epoch_end"))]  # fmt: skip
        self._clocks = [one for one in callbacks if isinstance(one, _Clock)]
        self._wants_entries = measure is not None or bool(self._hooks["on_eval"])
        self._logs: dict[str, float] = {}  # of the last entry or epoch
        self._mean_loss = float("nan")
        # what is not of this module may write parameters
        self.may_write = any(type(one).__module__ != __name__ for one in callbacks)

    @property
    def only_evaluates(self) -> bool:
        """Whether nothing waits but ``eval_every``."""
        return not (self.columns or self._progress or any(self._hooks.values()) or self._clocks)

    # -------------------------------------------------------------- what `Run.go` calls

    def begin(self, run: Run, steps: int) -> None:
        """Before the first of `steps` steps; `sys.maxsize` and more: nobody knows how many."""
        self._run, self._first = run, run.state.step
        if self._progress is not None:
            self._progress.begin(steps if steps < sys.maxsize else None)
        self._call(partial(hook, self._net) for hook in self._hooks["on_train_begin"])

    def steps_ahead(self) -> int:
        """Steps until the next after which something waits."""
        run, step = self._run, self._run.state.step
        ahead = [clock.steps_ahead(step) for clock in self._clocks]
        if self.eval_every:
            ahead.append(self.eval_every - step % self.eval_every)
        periods = [1] if self._wants_entries and not self.eval_every else [period for period, _ in self._epoch_hooks]
        if periods:
            epochs = min(period - 1 - run.state.epoch % period for period in periods)
            ahead.append(run.steps_to_epoch_end + epochs * run.steps_per_epoch)
        return min(ahead, default=FAR)

    def arrived(self, losses: np.ndarray) -> bool:
        """Steps were done, in which epochs of these mean losses ended. Whether something waits to be told."""
        state = self._run.state
        ended = len(losses) > 0 and not state.place[1]
        self._mean_loss = float(losses[-1]) if ended else self._run.mean_loss
        if self._progress is not None:
            self._progress.show(state.step - self._first, self._mean_loss)
        self._entry = self._wants_entries and ended
        if self.eval_every:
            self._entry = state.step % self.eval_every == 0
        self._ending = [hook for period, hook in self._epoch_hooks if ended and state.epoch % period == 0]
        self._due = [clock for clock in self._clocks if clock.due(state.step)]
        return bool(self._entry or self._ending or self._due)

    @property
    def looks(self) -> bool:
        """Whether what waits now looks at the parameters."""
        return bool(self._entry or self._ending or any(clock.looks for clock in self._due))

    def tell(self) -> None:
        """Measure, and call what waits."""
        logs = self._numbers()
        calls = []
        if self._entry:
            entry = self._logs = logs | self._measured()
            if self.eval_every:
                self._run.record(entry["loss"], entry["step"])
            calls += [partial(hook, self._net, entry) for hook in self._hooks["on_eval"]]
            logs = entry | {"loss": logs["loss"]}  # of the epoch, not of `evaluate`
        if self._ending:
            self._logs = logs
            calls += [partial(hook, self._net, logs) for hook in self._ending]
        self._call([*calls, *(partial(clock.act, self._net) for clock in self._due)])

    def finish(self, unfinished: bool) -> None:
        """After the last step; `unfinished`: of an epoch that the history has an entry of."""
        calls = []
        if unfinished and self._wants_entries:
            self._logs = self._numbers() | self._measured()
            calls += [partial(hook, self._net, self._logs) for hook in self._hooks["on_eval"]]
        if self._progress is not None:
            self._progress.show(self._run.state.step - self._first, self._mean_loss, last=True)
        calls += [partial(hook, self._net, self._logs) for hook in self._hooks["on_train_end"]]
        try:
            self._call(calls)
        except StopTraining:  # it has stopped
            pass

    def close(self) -> None:
        """After the run, however it ended."""
        self._run = None  # no circle that keeps the caller's arrays
        if self._progress is not None:
            self._progress.close()

    # -------------------------------------------------------------- within

    def _numbers(self) -> dict[str, float]:
        state = self._run.state
        return {"epoch": state.epoch, "step": state.step, "loss": self._mean_loss, "lr": self._run.lr}

    def _measured(self) -> dict[str, float]:
        values = {} if self._measure is None else self._measure()
        for name, column in self.columns.items():
            column.append(values[name])
        return values

    @staticmethod
    def _call(calls: Iterable[Callable[[], None]]) -> None:
        """Call all, also where one stops the run: the others are to know its last step too."""
        stop = None
        for call in calls:
            try:
                call()
            except StopTraining as error:
                stop = stop or error
        if stop is not None:
            raise stop


def make_watch(
    net: MLP, examples: Examples, loss: Loss, evaluate: Callable[..., float], metrics: Any, callbacks: Any,
    progress: Any, verbose: Any, eval_every: int | None, stop_on_non_finite: bool,
) -> Watch | None:  # fmt: skip
    """What the arguments of `fit` ask to wait for, or None where they ask for nothing; they are checked here.

    ``evaluate(X, y, weight, out=)`` gives the loss on rows, and their outputs.
    """
    training, validation = examples.training, examples.validation
    on, prefix = (training, "") if validation is None else (validation, "val_")
    if on is None and metrics:
        raise ValueError("metrics need validation_data where X gives batches")
    wanted = () if on is None else find_all(metrics, loss, on.y, net.sizes[-1])
    parts = [(prefix, on, wanted)] if wanted or validation is not None else []
    if eval_every and training is not None and not any(rows is training for _, rows, _ in parts):
        parts.append(("", training, ()))
    better = {"loss": "min"} | ({} if validation is None else {"val_loss": "min"})
    better |= {prefix + metric.name: metric.better for metric in wanted}
    found = check(callbacks, better)
    every_epochs = int(verbose) if isinstance(verbose, bool) else spec.integer("verbose", verbose, 0)
    bar = Progress() if spec.boolean("progress", progress) else None
    if every_epochs:
        found.append(Lines(every_epochs, sys.stdout.write if bar is None else bar.write))
    if not (parts or found or eval_every or bar):
        return None

    def refuse_non_finite(X: Any) -> None:
        found = spec.where_non_finite(X, net.dtype, examples.outside)
        if found is not None:  # else the network's outputs are too large there, which passes for a bad result
            of = "" if examples.outside is not None else "validation_data: "
            message = f"val_loss after net.step == {net.step} is not finite; {of}{found}"
            raise NonFiniteError(message, net.step, net.epoch)

    def measured() -> dict[str, float]:
        values = {}
        for prefix, rows, metrics in parts:
            out = np.empty((len(rows.X), net.sizes[-1]), net.dtype) if metrics else None
            value = evaluate(*rows, out=out)
            if rows is validation and stop_on_non_finite and not math.isfinite(value):
                refuse_non_finite(rows.X)
            if prefix or eval_every:
                values[f"{prefix}loss"] = value
            if metrics:
                numbers = measure(metrics, rows.y[:], out, rows.weight, loss)
                values |= {prefix + name: number for name, number in numbers.items()}
        return values

    columns = [name for name in better if name != "loss"]
    return Watch(net, found, eval_every, columns, measured if parts else None, bar)
