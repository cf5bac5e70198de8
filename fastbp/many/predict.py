"""predict_many: the outputs of many networks, each to the bit that of its own `predict`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from fastbp import backends, checks
from fastbp.backends import threads
from fastbp.backends.plan import BLOCK_ROWS, room
from fastbp.data import arguments
from fastbp.data.samples import Picked
from fastbp.many import given
from fastbp.spec import Spec, aligned_zeros

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.backends.protocol import Plan, Program
    from fastbp.mlp import MLP
    from fastbp.typing import Array, Networks, Rows

_COPIED_BYTES = 1 << 18  # parameters up to so many stay in the caches when they are copied to a program
_WORTH_A_THREAD = 1e6  # multiplications and additions of a network; below, threads wait for the interpreter's lock
_WORTH_THREADS = 1e8  # of all networks; below, the threads take longer to start


class Job(NamedTuple):
    """Networks of one kind that go through the same rows."""

    nets: list[MLP]
    rows: Any  # (n, in_features), an array or `Lazy`
    outs: list[NDArray[Any]]  # of each network (n, out_features)

    @property
    def operations(self) -> float:
        """Multiplications and additions of one network."""
        return 2.0 * self.nets[0].n_params * len(self.rows)

    def split(self, n: int) -> Iterator[Job]:
        """The job as pieces of at most n networks."""
        for k in range(0, len(self.nets), n):
            yield Job(self.nets[k : k + n], self.rows, self.outs[k : k + n])


@overload
def predict_many(
    nets: Networks, X: Rows, *, by: None = None, n_threads: int | None = None
) -> NDArray[Any] | list[NDArray[Any]]: ...


@overload
def predict_many(nets: Networks, X: Rows, *, by: Array, n_threads: int | None = None) -> NDArray[Any]: ...


def predict_many(
    nets: Networks, X: Rows, *, by: Array | None = None, n_threads: int | None = None
) -> NDArray[Any] | list[NDArray[Any]]:
    """The outputs of many networks: of all of them for all rows, or of one for each row.

    They are, bit by bit, those of ``net.predict``: of all rows, or with `by` of the rows of a key. Nothing of the
    networks changes. Small ones keep no memory of the call, as they do of their first `predict`, which takes twenty
    times as long.

    Parameters
    ----------
    nets : sequence of MLP, or dict of MLP by key
        Any mix that takes the columns of X.
    X : array_like or CSR matrix, (n, in_features)
    by : array_like, (n,), optional
        A key for each row: the row goes through the network of its key alone. Of a dict keys may be left out. The
        networks of a sequence are those of the keys in sorted order, and all keys must occur.
    n_threads : int, optional
        Threads that share the networks where that pays, at most; as for ``MLP.fit``.

    Returns
    -------
    ndarray, (n_networks, n, out_features), or list of ndarray, (n, out_features)
        In the order of `nets`: one array where all networks have the same number of outputs and the same dtype, else a
        list with an array for each. With `by` an array (n, out_features): each row's output in the row's place.

    Raises
    ------
    TypeError, ValueError
        `nets` is empty or holds what is no network; X does not fit one, which is named; no network has the key of a
        row; a key is missing (None, NaN); or, with `by`, networks differ in their number of outputs.

    Examples
    --------
    >>> import numpy as np, fastbp
    >>> nets = {"Bern": fastbp.MLP((2, 3, 1), seed=0), "Chur": fastbp.MLP((2, 8, 1), seed=1)}
    >>> X = np.ones((4, 2))
    >>> fastbp.predict_many(nets, X).shape
    (2, 4, 1)
    >>> fastbp.predict_many(nets, X, by=["Chur", "Bern", "Bern", "Chur"]).shape
    (4, 1)
    """
    networks = given.Networks(nets)
    if by is not None:
        return _by_key(networks, X, by, n_threads)
    rows, members = rows_for(networks, X), networks.nets
    shapes = {(net._spec.out_features, net.dtype) for net in members}
    if len(shapes) == 1:
        ((n_outputs, dtype),) = shapes
        whole = np.empty((len(members), len(rows), n_outputs), dtype)
        forward(jobs(members, rows, list(whole)), n_threads)
        return whole
    outs = [np.empty((len(rows), net._spec.out_features), net.dtype) for net in members]
    forward(jobs(members, rows, outs), n_threads)
    return outs


def rows_for(networks: given.Networks, X: Any) -> Any:
    """X as checked rows, which all networks take."""
    rows = arguments.features(X, networks.nets[0]._spec, empty=True, lazy=True)
    for k, net in enumerate(networks.nets):
        if net._spec.in_features != rows.shape[1]:
            raise ValueError(f"X has {rows.shape[1]} column(s), {networks.name(k)} has {net._spec.in_features}")
    return rows


def jobs(nets: list[MLP], rows: Any, outs: list[NDArray[Any]]) -> list[Job]:
    """The networks by kind, all of them with the same rows."""
    kinds: dict[tuple[Spec, str], Job] = {}
    for net, out in zip(nets, outs):
        key = net._spec, net._backend
        if key not in kinds:
            kinds[key] = Job([], rows, [])
        kinds[key].nets.append(net)
        kinds[key].outs.append(out)
    return list(kinds.values())


def forward(work: list[Job], n_threads: int | None) -> None:
    """Do all jobs: fill their `outs`."""
    n_threads = checks.optional_integer("n_threads", n_threads, 1)
    n_threads = threads.requested(n_threads)
    n_networks = sum(len(job.nets) for job in work)
    operations = sum(len(job.nets) * job.operations for job in work)
    few = n_networks < n_threads or operations < max(_WORTH_THREADS, n_networks * _WORTH_A_THREAD)
    if n_threads == 1 or few:  # then a program shares its layers with as many threads as pay
        _Desk(n_threads).do_all(deque(work))
        return
    from concurrent.futures import ThreadPoolExecutor

    pieces = [piece for job in work for piece in job.split(max(1, len(job.nets) // (4 * n_threads)))]
    rest = deque(sorted(pieces, key=lambda piece: piece.operations, reverse=True))
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for done in [pool.submit(_Desk(1).do_all, rest) for _ in range(n_threads)]:
                done.result()
        finally:
            rest.clear()  # after an error or Ctrl-C the threads end with what they have at hand


class _Desk:
    """Where one thread works: programs with a buffer each, into which network after network puts its parameters.

    A program of each network's own would take longer to make than to use, and stay.
    """

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads
        self._kept: dict[tuple[Spec, str, int], tuple[Plan, NDArray[Any], Program]] = {}

    def do_all(self, rest: deque[Job]) -> None:
        """Do jobs until none is left, beside other threads that take from the same ones."""
        while True:
            try:
                job = rest.popleft()
            except IndexError:
                return
            self.do(job)

    def do(self, job: Job) -> None:
        rows, spec = job.rows, job.nets[0]._spec
        if spec.buffer_size * spec.dtype.itemsize > _COPIED_BYTES:
            for net, out in zip(job.nets, job.outs):
                for program, block in net._blocks(len(rows), net._plan_of_blocks(len(rows), n_threads=self._n_threads)):
                    program.forward(rows[block], out[block])
            return
        plan, params, program = self._program(job.nets[0], len(rows))
        for start in range(0, len(rows), plan.batch):
            block = slice(start, start + plan.batch)
            with np.errstate(all="ignore"):  # a cast may overflow or underflow, as the program's does
                x = np.ascontiguousarray(rows[block], spec.dtype)
            for net, out in zip(job.nets, job.outs):
                params[...] = net._params
                program.forward(x, out[block])

    def _program(self, net: MLP, n: int) -> tuple[Plan, NDArray[Any], Program]:
        key = net._spec, net._backend, min(BLOCK_ROWS, room(n))
        if key not in self._kept:
            plan = net._plan_of_blocks(n, n_threads=self._n_threads)
            params = aligned_zeros(net._spec.buffer_size, net._spec.dtype)
            self._kept[key] = plan, params, backends.program(plan.backend)(plan, params)
        return self._kept[key]


def _by_key(networks: given.Networks, X: Any, by: Any, n_threads: int | None) -> NDArray[Any]:
    nets = networks.nets
    widths = {net._spec.out_features: k for k, net in enumerate(nets)}
    if len(widths) > 1:
        (n, k), (m, other), *_ = widths.items()
        raise ValueError(f"with `by` all networks need the same number of outputs; {networks.name(k)} has {n}, "
                         f"{networks.name(other)} has {m}")  # fmt: skip
    rows = rows_for(networks, X)
    groups = given.group(by, len(rows), networks, every=False).rows
    out = np.empty((len(rows), *widths), np.result_type(*(net.dtype for net in nets)))
    work = [(group, Job([net], Picked(rows, group), [np.empty((len(group), *widths), net.dtype)]))
            for net, group in zip(nets, groups) if len(group)]  # fmt: skip
    forward([job for _, job in work], n_threads)
    for group, job in work:
        out[group] = job.outs[0]
    return out
