"""predict_many: the outputs of many networks, each to the bit that of its own `predict`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from fastbp import backends, checks
from fastbp.backends import threads
from fastbp.backends.plan import BLOCK_ROWS, room
from fastbp.data import arguments
from fastbp.data.samples import Picked
from fastbp.mlp import MLP
from fastbp.spec import Spec, aligned_zeros

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.backends.protocol import Plan, Program
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
    names = named(nets)
    if by is not None:
        return _by_key(nets, names, X, by, n_threads)
    rows, members = rows_for(names, X), list(names.values())
    shapes = {(net._spec.out_features, net.dtype) for net in members}
    if len(shapes) == 1:
        ((n_outputs, dtype),) = shapes
        whole = np.empty((len(members), len(rows), n_outputs), dtype)
        forward(jobs(members, rows, list(whole)), n_threads)
        return whole
    outs = [np.empty((len(rows), net._spec.out_features), net.dtype) for net in members]
    forward(jobs(members, rows, outs), n_threads)
    return outs


def named(nets: Any) -> dict[str, MLP]:
    """The networks of a sequence or dict, by what errors call them."""
    if isinstance(nets, Mapping):
        names = {f"nets[{key!r}]": net for key, net in nets.items()}
    elif isinstance(nets, (MLP, str, bytes)) or not isinstance(nets, (Sequence, np.ndarray)):
        raise TypeError(f"nets must be a sequence of networks, or a dict of them by key, got {nets!r:.200}")
    else:
        names = {f"nets[{k}]": net for k, net in enumerate(nets)}
    if not names:
        raise ValueError("nets is empty; one network at least is wanted")
    for name, net in names.items():
        if not isinstance(net, MLP):
            raise TypeError(f"{name} must be an MLP, got {net!r:.200}")
    return names


def rows_for(names: dict[str, MLP], X: Any) -> Any:
    """X as checked rows, which all networks take."""
    rows = arguments.features(X, next(iter(names.values()))._spec, empty=True, lazy=True)
    for name, net in names.items():
        if net._spec.in_features != rows.shape[1]:
            raise ValueError(f"X has {rows.shape[1]} column(s), {name} has {net._spec.in_features}")
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


def _by_key(nets: Any, names: dict[str, MLP], X: Any, by: Any, n_threads: int | None) -> NDArray[Any]:
    members = list(names.values())
    widths = {net._spec.out_features: name for name, net in names.items()}
    if len(widths) > 1:
        (n, name), (m, other), *_ = widths.items()
        raise ValueError(f"with `by` all networks need the same number of outputs; {name} has {n}, {other} has {m}")
    rows = rows_for(names, X)
    keys, of_row = _keys(by, len(rows))
    out = np.empty((len(rows), *widths), np.result_type(*(net.dtype for net in members)))
    order = np.argsort(of_row, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(of_row, minlength=len(keys)))[:-1])
    found = _networks_of(nets, names, keys, groups)
    work = []
    for net, group in zip(found, groups):
        work.append(Job([net], Picked(rows, group), [np.empty((len(group), *widths), net.dtype)]))
    forward(work, n_threads)
    for job, group in zip(work, groups):
        out[group] = job.outs[0]
    return out


def _keys(by: Any, n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The different keys in order, and for each row the number of its key."""
    given = np.asarray(by)
    if given.shape != (n,):
        raise ValueError(f"by must hold a key for each row of X, with shape ({n},); got shape {given.shape}")
    try:
        missing = np.flatnonzero([key is None or key != key for key in given] if given.dtype == object
                                 else given != given)  # fmt: skip
        if len(missing):
            raise ValueError(f"by: the key of row {missing[0]} is missing, {given[missing[0]]!r}")
        return np.unique(given, return_inverse=True)
    except TypeError as error:
        raise TypeError(f"by: its keys cannot be compared with each other: {error}") from None


def _networks_of(nets: Any, names: dict[str, MLP], keys: NDArray[Any], groups: list[NDArray[Any]]) -> list[MLP]:
    """The network of each key."""
    if not isinstance(nets, Mapping):
        if len(keys) != len(names):
            raise ValueError(f"nets is a sequence of {len(names)} networks and by holds {len(keys)} keys; where some "
                             "keys may be left out, give a dict of the networks by key")  # fmt: skip
        return list(names.values())
    found = []
    for key, plain, group in zip(keys, keys.tolist(), groups):
        net = nets.get(plain, nets.get(key))
        if net is None:
            raise ValueError(f"by: there is no network with the key {plain!r}, which row {group[0]} has")
        found.append(net)
    return found
