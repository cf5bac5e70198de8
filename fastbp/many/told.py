"""What became of networks: blocks of them, and the `ManyHistory` of all."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbp.history import History, ManyHistory

if TYPE_CHECKING:
    from fastbp.many.crew import Crew


_STATUS = {name: np.array([name]) for name in ("done", "stopped", "nonfinite", "failed", "interrupted")}
_NO_BEST = np.array([np.nan]), np.array([-1])
_ALONE = "one by one"


@dataclass(slots=True, eq=False)
class Block:
    """What became of some networks that were trained together: rows of a `ManyHistory`."""

    numbers: np.ndarray  # of the networks
    kernel: str
    loss: np.ndarray  # (networks, entries); NaN behind the last
    step: np.ndarray  # -1 behind the last
    columns: dict[str, np.ndarray]
    status: np.ndarray
    n_steps: np.ndarray
    best_value: np.ndarray
    best_step: np.ndarray
    errors: dict[int, Exception] = field(default_factory=dict)

    @classmethod
    def of_one(
        cls, k: int, history: History | None, status: str, n_steps: int, best: tuple[float, int] | None = None
    ) -> Block:
        """Of network k by itself; without a history where there is none, `best` is (value, step)."""
        if history is None:
            history = History(np.empty(0), np.empty(0, np.int64), 0.0, 0)
        columns = {name: column[None] for name, column in history.columns.items() if name != "lr"}
        value, step = _NO_BEST if best is None else map(np.atleast_1d, best)
        return cls(np.array([k]), _ALONE, history.loss[None], history.step[None], columns, _STATUS[status],
                   np.array([n_steps]), value, step)  # fmt: skip


def status_of(stopped: str | None, crew: Crew) -> str:
    """Of a network that ended for this reason, or at its last step."""
    return "done" if stopped is None else "interrupted" if stopped == crew.reasons[0] else "stopped"


def kept(error: Exception, *, traced: bool) -> Exception:
    """An error for the history: without a traceback, which would keep the rows; `traced`: it becomes a note."""
    if traced:
        error.add_note("".join(["Where it was raised:\n", *traceback.format_tb(error.__traceback__)]).rstrip())
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error


def together(
    blocks: Sequence[Block], n_networks: int, keys: list[Any] | None, unbegun: str, seconds: float
) -> ManyHistory:
    """All blocks as arrays; `unbegun` is the status of networks that are in none."""
    shape = n_networks, max((block.loss.shape[1] for block in blocks), default=0)
    whole = blocks[0] if len(blocks) == 1 and np.array_equal(blocks[0].numbers, np.arange(n_networks)) else None
    if whole is not None and whole.loss.flags.c_contiguous:  # is taken as it is
        loss, step, columns = whole.loss, whole.step, whole.columns
    else:
        whole, loss, step = None, np.full(shape, np.nan), np.full(shape, -1, np.int64)
        names = dict.fromkeys(name for block in blocks for name in block.columns)
        columns = {name: np.full(shape, np.nan) for name in names}
    kernel, status = np.full(n_networks, _ALONE), np.full(n_networks, unbegun, "U11")
    n_steps, best_step = np.zeros(n_networks, np.int64), np.full(n_networks, -1, np.int64)
    best_value = np.full(n_networks, np.nan)
    errors: dict[int, Exception] = {}
    for block in blocks:
        at, width = block.numbers, block.loss.shape[1]
        if len(at) == 1:
            at = slice(at[0], at[0] + 1)  # in a third of the time
        if block is not whole:
            loss[at, :width], step[at, :width] = block.loss, block.step
            for name, column in block.columns.items():
                columns[name][at, : column.shape[1]] = column
        status[at], n_steps[at] = block.status, block.n_steps
        if block.kernel is not _ALONE:  # an array, or "lanes"
            kernel[at] = block.kernel
        if block.best_value is not _NO_BEST[0]:
            best_value[at], best_step[at] = block.best_value, block.best_step
        errors |= block.errors
    errors = dict(sorted(errors.items()))
    return ManyHistory(loss, step, n_steps, status, kernel, seconds, columns, best_value, best_step, errors, keys)
