"""fit_many: trains many networks in one call.

What was given becomes a `Member` for each network (checked, before any work), members become jobs, threads do the jobs,
and what they found becomes a `ManyHistory`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastbp import checks, mlp
from fastbp.backends import config, threads
from fastbp.history import ManyHistory
from fastbp.many import alone, cohorts
from fastbp.many.crew import Crew
from fastbp.many.given import Networks, is_function
from fastbp.many.members import Asked, Member
from fastbp.many.told import Block, together
from fastbp.training.watch import Progress

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray

    from fastbp.callbacks import EarlyStopping
    from fastbp.many.spread import Spread
    from fastbp.mlp import MLP
    from fastbp.typing import (
        Array,
        ClassWeight,
        Each,
        Examples,
        ExecutorLike,
        LossLike,
        MetricLike,
        OptimizerLike,
        Rows,
        SeedLike,
    )  # fmt: skip

_OTHER_ARGUMENTS = {  # what other libraries call those of fit_many: see `fastbp.errors`
    **{name: others for name, others in mlp._OTHER_ARGUMENTS_OF_FIT.items() if "EarlyStopping" not in name},
    "by": ("groups", "group", "key", "keys", "unique_id"),
    "early_stopping=fastbp.EarlyStopping() stops each network early": (
        "callbacks", "patience", "n_iter_no_change", "tol",
    ),
}  # fmt: skip


@checks.names_arguments(_OTHER_ARGUMENTS)
def fit_many(
    nets: Sequence[MLP] | Mapping[Any, MLP],
    X: Rows | Sequence[Rows] | Mapping[Any, Rows] | Callable[[], Rows],
    y: Array | Sequence[Array] | Mapping[Any, Array],
    *,
    by: Array | Sequence[Any] | None = None,
    rows: Each[NDArray[np.integer[Any]]] | NDArray[np.integer[Any]] | None = None,
    loss: LossLike | Each[LossLike] = "mse",
    optimizer: OptimizerLike | Each[OptimizerLike] = "adam",
    batch_size: int | Each[int] = 32,
    epochs: int | Each[int] | None = None,
    steps: int | Each[int] | None = None,
    seed: SeedLike | Each[SeedLike | None] | None = None,
    shuffle: bool = True,
    sample_weight: Array | Each[Array | None] | None = None,
    class_weight: ClassWeight | None = None,
    validation_data: Examples | Each[Examples] | None = None,
    validation_split: float | None = None,
    validation_rows: Array | Each[Array] | None = None,
    missing: Literal["raise", "ignore"] = "raise",
    metrics: Sequence[MetricLike] = (),
    early_stopping: EarlyStopping | Each[EarlyStopping | None] | None = None,
    eval_every: int | None = None,
    time_limit: float | None = None,
    nonfinite: Literal["stop", "ignore"] = "stop",
    progress: bool = False,
    n_threads: int | None = None,
    lanes: Literal["auto"] | bool = "auto",
    executor: ExecutorLike | None = None,
    n_workers: int | None = None,
    task_timeout: float | None = None,
    store: str | PathLike[str] | None = None,
    isa: str | None = None,
) -> ManyHistory:
    """Train many networks, each as `MLP.fit` would: an ensemble, folds, a model for each customer, shop or sensor.

    A network ends with the same bits whoever is trained beside it, in whatever order they are given, and for any number
    of threads.

    Parameters
    ----------
    nets : list of MLP, or dict of MLP by key
        Any mix of sizes, activations, dtypes and seeds. No network twice.
    X : array_like or CSR matrix, (n, in_features); or a list of them
        As for `fit`, for all networks, and not copied as a whole; or a list with the rows of each network; or a
        function that gives X, which each worker of an `executor` calls.
    y : array_like, or a list of them
        As X: for all rows of X, or a list for each network's.
    by : array_like, (n,), optional
        A key for each row of X: a network for each key, trained on the rows of its key. Where `nets` is a list they
        belong to the keys in ascending order, see ``history.keys``; where it is a dict, to its own.
    rows : list of index arrays, optional
        For each network the numbers of the rows of X that it is trained on, as of folds, or with repetitions as of a
        bootstrap.
    loss, optimizer, batch_size, epochs, steps
        As for `fit`; or a list with one for each network. (A rate for each is a list of optimizers.)
    seed : int, numpy.random.Generator, numpy.random.SeedSequence, or a list of them, optional
        Of the order of rows. None: each network's own, as for `fit`; one for all: they see their rows in one order.
    shuffle, missing, class_weight, metrics, eval_every, n_threads
        As for `fit`. Networks share the threads.
    sample_weight : array_like, (n,) or (n, out_features), or a list of them, optional
        Of the rows of X; or for each network a list of those of the rows that it is trained on.
    validation_data : tuple (X, y) or (X, y, sample_weight), or a list of such tuples, optional
        Rows to measure the loss and `metrics` on, for all or for each network.
    validation_split : float, optional
        The share of a network's rows that is kept for that, as for `fit`. Which ones is a function of `seed`, if that
        is one number, and of 0 if not, but of no network's own seed: networks with the same rows keep the same ones.
    validation_rows : index array, or a list of them, optional
        Numbers of rows of X to measure on, for all or for each network. Unless `rows` says what is trained on, they are
        left out there. With `by`, one array for all: each network has those of its key.
    early_stopping : EarlyStopping, or a list of them, optional
        When each network stops, by itself. It is only read; the best values and steps are in the history.
    time_limit : float, optional
        Seconds after which all networks stop, each at a finished step.
    nonfinite : {"stop", "ignore"}
        What a NaN or an infinity does: end that network at its last finite step, or nothing.
    progress : bool, default False
        A progress bar by tqdm, which counts networks.
    lanes : {"auto", True, False}
        Whether networks of one kind are trained side by side, each in a lane of the CPU's vectors: "auto" where that is
        much faster, by a rule of their sizes; True wherever it can be done. The results of such a network are within
        rounding of those of `fit`, all others have the bits of `fit`.
    executor : object with ``submit``, function that makes one, distributed.Client, or "joblib", optional
        Who trains, in chunks of networks: a pool of processes, a cluster. The bits stay the same. See docs/clusters.md.
    n_workers : int, optional
        How many tasks it runs at once, where it does not tell; else the CPUs.
    task_timeout : float, optional
        Seconds after which a task that has not come back is sent again.
    store : str or path object, optional
        A folder that keeps the networks that are finished. A second call with the same networks as they were, rows and
        arguments goes on where the first one ended.
    isa : str, optional
        The instruction set of this call, of those that `show_config` lists: one that all machines have.

    Returns
    -------
    ManyHistory

    Raises
    ------
    TypeError, ValueError
        An argument cannot be used, cannot be sent to workers, or `store` belongs to another call. Nothing was trained;
        the message names the network, if it is one.
    RuntimeError
        A network is training elsewhere, another call writes `store`, or a backend or `isa` is not there: nothing was
        trained. Or the executor broke, or a worker has another fastbp: what came back is kept, and told by the
        exception's ``history``.
    KeyboardInterrupt
        Ctrl-C: each network is at a finished step, and the ManyHistory is the exception's ``history``. So it is of
        TimeoutError, when no worker answers within `task_timeout`, and of OSError, when `store` cannot be written.

    Notes
    -----
    What goes wrong with one network ends that one alone: see ``history.status`` and ``history.errors``. The state that
    training leaves is that of `fit`; a later `fit` or `fit_many` goes on from it.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> X = np.linspace(-1, 1, 60, dtype=np.float32).reshape(30, 2)
    >>> nets = [fastbp.MLP((2, 8, 1), seed=k) for k in range(4)]
    >>> history = fastbp.fit_many(nets, X, X.sum(axis=1), epochs=20)
    >>> history.loss.shape, history.status.tolist()
    ((4, 20), ['done', 'done', 'done', 'done'])
    """
    began, given = time.perf_counter(), Networks(nets, apart=True)
    asked = Asked(given, shuffle, class_weight, validation_split, missing, metrics, eval_every, nonfinite)
    time_limit = None if time_limit is None else checks.number("time_limit", time_limit, 0)
    own_threads, n_threads = n_threads, threads.requested(n_threads)
    if not isinstance(lanes, (bool, np.bool_)):
        checks.choice("lanes", lanes, ("auto",))
    bar = Progress("networks") if checks.boolean("progress", progress) else None
    with config.isa(isa):
        with checks.undrawn(*given.one_or_each("seed", seed)):
            X, function = (X(), X) if is_function(X) else (X, None)
            members = asked.members_of(
                X, y, by, rows, loss, optimizer, batch_size, epochs, steps, seed, sample_weight, validation_data,
                validation_rows, early_stopping,
            )  # fmt: skip
            call = _Call(asked, members, began, n_threads, lanes)
            if executor is not None or store is not None:
                from fastbp.many.spread import spread

                call.spread = spread(
                    _train_here, asked, members, executor, own_threads, n_workers, task_timeout, store, lanes, function
                )
            elif n_workers is not None or task_timeout is not None:
                raise ValueError("n_workers and task_timeout are about the workers of an executor; give executor=")
        return call.run(time_limit, bar)


def _train_here(
    why_stop: Callable[[], str | None] | None, asked: Asked, members: list[Member], n_threads: int, lanes: Any,
    time_limit: float | None,
) -> ManyHistory:  # fmt: skip
    """Train a chunk in a worker, or in this process, where `why_stop` may say that it is to be given up."""
    return _Call(asked, members, time.perf_counter(), n_threads, lanes).run(time_limit, None, why_stop)


class _Call:
    """A call of `fit_many`: what is done, and what became of the networks."""

    def __init__(
        self, asked: Asked, members: list[Member], began: float, n_threads: int, lanes: Literal["auto"] | bool
    ) -> None:
        self.asked, self.members, self.began, self.n_threads, self.lanes = asked, members, began, n_threads, lanes
        self.blocks: list[Block] = []
        self.history: ManyHistory | None = None
        self.spread: Spread | None = None  # over the workers of an executor

    def run(
        self, time_limit: float | None, bar: Progress | None, why_stop: Callable[[], str | None] | None = None
    ) -> ManyHistory:  # fmt: skip
        """Train all members. `why_stop`: whether another crew is to stop, which had this done."""
        crew = Crew(self._work, time_limit)
        quiet = why_stop is None and bar is None and self.spread is None and min(self.n_threads, len(self.members)) == 1

        def look() -> None:
            if why_stop is not None and why_stop() is not None:
                raise KeyboardInterrupt
            if bar is not None:
                bar.show(sum(len(block.numbers) for block in self.blocks))

        try:
            if bar is not None:
                bar.begin(len(self.members))
            crew.run(None if quiet else look)
            if bar is not None:
                bar.show(len(self.members), last=True)
        except BaseException as error:
            if self.history is not None:
                error.history = self.history  # type: ignore[attr-defined]
            raise
        finally:
            if bar is not None:
                bar.close()
            if self.spread is not None:
                self.spread.close()
        return self.history  # type: ignore[return-value]  # made by the work that has ended

    def _work(self, crew: Crew) -> None:
        """All of it, in a thread of its own, where no signal comes in."""
        given, locks = self.asked.given, []
        try:
            for k, net in enumerate(given.nets):
                try:
                    lock = net._exclusive()
                    if not lock.acquire(blocking=False):  # another thread was faster
                        net._alone()
                except RuntimeError as error:
                    raise RuntimeError(f"{given.name(k)}: {error}") from None
                locks.append(lock)
            error = self._train(crew) if self.spread is None else self.spread.train(crew, self.blocks)
            unbegun = "stopped" if error is None and not crew.interrupted else "interrupted"
            seconds = time.perf_counter() - self.began
            self.history = together(self.blocks, len(self.members), self.asked.keys, unbegun, seconds)
            if error is not None:
                raise error
        finally:
            for lock in locks:
                lock.release()
            self.asked.forget()

    def _train(self, crew: Crew) -> None:
        """Jobs by all threads, the longest first; each makes a block."""
        asked, members = self.asked, self.members
        kinds, left = cohorts.sorted_out(asked, members, self.lanes)
        jobs = cohorts.jobs(asked, kinds, members, crew, self.n_threads)
        n_threads = max(1, self.n_threads // (len(left) + len(jobs)))  # of a network, where there are few
        jobs += [(members[k].work.cost, partial(alone.train, asked, k, members[k], crew, n_threads)) for k in left]
        jobs.sort(key=lambda job: -job[0])

        def do(job: Callable[[], Block]) -> None:
            if crew.why_stop() is None:
                self.blocks.append(job())

        crew.do([partial(do, job) for _, job in jobs], self.n_threads)
