"""What waits during a run: validation, metrics, callbacks, a progress bar; loaded where `fit` was asked for some.

`Run.go` knows one of these only: `Watch`. It asks how many steps there are until something waits, and tells when they
are done. Without a `Watch` the run never looks. Whatever waits sees the network between two steps, reads what it likes,
and leaves no trace in the parameters unless it writes them.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbp import checks
from fastbp.callbacks import FAR, HOOKS, Callback, Clock, EarlyStopping, Lines
from fastbp.checks import where_non_finite
from fastbp.data.examples import Examples
from fastbp.data.samples import Samples
from fastbp.errors import NonFiniteError, StopTraining, instance_hint
from fastbp.metrics import Metric, find_all, measure
from fastbp.rows import Loss

if TYPE_CHECKING:
    from fastbp.mlp import MLP
    from fastbp.training.run import Run


_UPDATE_SECONDS = 0.1  # between two updates of the progress bar


class Progress:
    """``progress=True``: a bar of tqdm with steps a second, the epoch's mean loss so far, and the time left.

    Or with other things that are counted: `unit`.
    """

    def __init__(self, unit: str = "steps") -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError("progress=True needs tqdm: pip install 'fastbp[progress]'") from error
        self._make, self._bar, self._unit = tqdm, None, f" {unit}"
        self._next = 0.0

    def begin(self, steps: int | None) -> None:
        # in thousands and millions only where there are so many; `show` says when to draw
        large = steps is None or steps >= 10_000
        self._bar = self._make(
            total=steps, unit=self._unit, unit_scale=large, mininterval=0, miniters=1, disable=sys.stderr is None
        )

    def show(self, steps: int, loss: float | None = None, *, last: bool = False) -> None:
        """Show that so many steps are done, unless that was done a moment ago."""
        now = time.monotonic()
        if now < self._next and not last:
            return
        self._next = now + _UPDATE_SECONDS
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
        self._bar.update(steps - self._bar.n)

    def write(self, line: str) -> None:
        if sys.stdout is not None:  # as in programs without a console; `print` is silent there by itself
            self._make.write(line)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def hook_of(callback: Any, name: str) -> Callable[..., None] | None:
    """A callback's method, or None where there is none or it is the empty one."""
    method = getattr(callback, name, None)
    empty = getattr(method, "__func__", method) is getattr(Callback, name)
    return method if callable(method) and not empty else None


def _may_write(callback: Any) -> bool:
    """Whether a callback may write parameters: as it says itself, or its class, which speaks for its own hooks."""
    own = getattr(callback, "__dict__", {})
    return bool(own.get("writes", vars(type(callback)).get("writes", True))) or any(name in own for name in HOOKS)


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
        if isinstance(callback, Callback) and not any(hook_of(callback, name) for name in HOOKS):
            raise TypeError(f"callbacks[{k}]: {type(callback).__name__} has none of {', '.join(HOOKS)} of its own")
        for name in HOOKS:
            hook = hook_of(callback, name)
            if hook is not None:
                checks.takes(f"callbacks[{k}]: {name}", hook, *HOOKS[name])
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
        self._hooks = {name: [hook for one in callbacks if (hook := hook_of(one, name))] for name in HOOKS}
        self._epoch_hooks = [(one.every_epochs if isinstance(one, Lines) else 1, hook)
                             for one in callbacks if (hook := hook_of(one, "on_epoch_end"))]  # fmt: skip
        self._clocks = [one for one in callbacks if isinstance(one, Clock)]
        self._wants_entries = measure is not None or bool(self._hooks["on_eval"])
        self._logs: dict[str, float] = {}  # of the last entry or epoch
        self._mean_loss = float("nan")
        self.may_write = any(map(_may_write, callbacks))
        # What is not fastbp's own may change rows, too: callbacks, and metrics when something is measured.
        own = all(type(one).__module__.startswith("fastbp.") for one in callbacks)
        self.calls_others = self.may_write or measure is not None or not own

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


class Part(NamedTuple):
    """Rows to measure on, at each entry of the history: the loss, and metrics."""

    prefix: str  # of their names
    rows: Samples
    metrics: tuple[Metric, ...]


def measured_on(
    n_outputs: int, examples: Examples, loss: Loss, metrics: Any, eval_every: int | None
) -> tuple[list[Part], dict[str, str | None]]:
    """What is measured at each entry; and all that the history has of one, with the side that is better."""
    training, validation = examples.training, examples.validation
    on, prefix = (training, "") if validation is None else (validation, "val_")
    if on is None and metrics:
        raise ValueError("metrics need validation_data where X gives batches")
    wanted = () if on is None else find_all(metrics, loss, on.y, n_outputs, on.weight)
    parts = [Part(prefix, on, wanted)] if wanted or validation is not None else []
    if eval_every and training is not None and not any(part.rows is training for part in parts):
        parts.append(Part("", training, ()))
    better: dict[str, str | None] = {"loss": "min"} | ({} if validation is None else {"val_loss": "min"})
    return parts, better | {prefix + metric.name: metric.better for metric in wanted}


def refuse_non_finite(X: Any, dtype: np.dtype, row_numbers: np.ndarray | None, step: int, epoch: int) -> None:
    """Where the loss on validation rows is not finite, make sure that these rows are not the reason."""
    found = where_non_finite(X, dtype, row_numbers)
    if found is not None:  # else the network's outputs are too large there, which passes for a bad result
        of = "" if row_numbers is not None else "validation_data: "
        raise NonFiniteError(f"val_loss after net.step == {step} is not finite; {of}{found}", step, epoch)


def make_watch(
    net: MLP, examples: Examples, loss: Loss, evaluate: Callable[..., float], metrics: Any, callbacks: Any,
    progress: Any, verbose: Any, eval_every: int | None, stop_on_non_finite: bool,
) -> Watch | None:  # fmt: skip
    """What the arguments of `fit` ask to wait for, or None where they ask for nothing; they are checked here.

    ``evaluate(X, y, weight, out=)`` gives the loss on rows, and their outputs.
    """
    parts, better = measured_on(net.sizes[-1], examples, loss, metrics, eval_every)
    validation = examples.validation
    found = check(callbacks, better)
    every_epochs = int(verbose) if isinstance(verbose, bool) else checks.integer("verbose", verbose, 0)
    bar = Progress() if checks.boolean("progress", progress) else None
    if every_epochs:
        found.append(Lines(every_epochs, print if bar is None else bar.write))
    if not (parts or found or eval_every or bar):
        return None

    def measured() -> dict[str, float]:
        values = {}
        for prefix, rows, metrics in parts:
            out = np.empty((len(rows.X), net.sizes[-1]), net.dtype) if metrics else None
            value = evaluate(*rows, out=out)
            if rows is validation and stop_on_non_finite and not math.isfinite(value):
                refuse_non_finite(rows.X, net.dtype, examples.outside, net.step, net.epoch)
            if prefix or eval_every:
                values[f"{prefix}loss"] = value
            if metrics:
                numbers = measure(metrics, rows.y[:], out, rows.weight, loss)
                values |= {prefix + name: number for name, number in numbers.items()}
        return values

    columns = [name for name in better if name != "loss"]
    return Watch(net, found, eval_every, columns, measured if parts else None, bar)
