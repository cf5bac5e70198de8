"""Where chunks of networks are trained: engines that exist, each seen as something to `submit` to.

| `executor=` | engine |
|---|---|
| None | `Here`: this process (with `store=`) |
| an object with ``submit`` | `Given`: process pools, loky, mpi4py, ipyparallel, executorlib |
| a function that makes one, or its class | `Made`: the same, made anew when it breaks, and shut down at the end |
| a ``distributed.Client`` | `Dask`, through its ``get_executor()`` |
| "joblib" | `Joblib`: whatever ``joblib.parallel_config`` says, also Ray and Spark |

Optional libraries are imported here alone, when they are asked for.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future, ThreadPoolExecutor
from typing import Any

from fastbp.backends import threads

_LOOK_SECONDS = 1.0  # between two looks at how many workers there are


class Engine:
    """What all have. The driver calls from one thread."""

    name = "the executor"
    ahead = 2  # tasks for each worker that are under way, so that none waits for the driver
    n_threads: int | None = None  # of a task; None: the worker knows
    sends_by_itself = False  # whether `share` may be asked
    can_renew = False
    in_process = False  # tasks run in threads of this process: they see at once that the call is over

    def is_ready(self) -> bool:
        """Whether there is a worker."""
        return True

    def n_workers(self) -> int:
        """Tasks that run at once."""
        raise NotImplementedError

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        raise NotImplementedError

    def share(self, array: Any) -> Any:
        """Something to submit in place of an array that all tasks need."""
        raise NotImplementedError

    def renew(self) -> None:
        """Make it anew, after it broke or hung."""
        raise NotImplementedError

    def close(self, hung: bool) -> None:
        """All is done, or given up; `hung`: tasks may be left that never end."""


class Here(Engine):
    """This process: a task is done when it is submitted."""

    name = "this process"
    ahead = 1
    in_process = True

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads

    def n_workers(self) -> int:
        return 1

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future


class Given(Engine):
    """An executor as it is."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.name = type(executor).__name__
        self.in_process = isinstance(executor, ThreadPoolExecutor)
        self._of_machine = type(executor).__module__.partition(".")[0] in ("concurrent", "loky", "joblib")

    def n_workers(self) -> int:
        for name in ("_max_workers", "num_workers", "max_workers"):  # of the standard library and loky; mpi4py; others
            found = getattr(self.executor, name, None)
            if isinstance(found, int) and found > 0:
                return found
        return threads.available_cpus()

    @property
    def n_threads(self) -> int | None:  # type: ignore[override]
        """Processes of one machine share its CPUs."""
        return max(1, threads.requested() // self.n_workers()) if self._of_machine else None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = self.executor.submit(function, *arguments)
        if not callable(getattr(future, "add_done_callback", None)):
            raise TypeError(f"executor: {self.name}.submit gave {future!r}, which is no Future")
        return future


class Made(Given):
    """An executor that a function makes: ours to make anew, and to shut down."""

    can_renew = True

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        super().__init__(self._made())

    def _made(self) -> Any:
        executor = self._make()
        if not callable(getattr(executor, "submit", None)):
            raise TypeError(f"executor: the function gave {executor!r}, which has no `submit`")
        return executor

    def renew(self) -> None:
        self.close(True)
        self.executor = self._made()

    def close(self, hung: bool) -> None:
        shutdown, processes = getattr(self.executor, "shutdown", None), getattr(self.executor, "_processes", None)
        if hung and isinstance(processes, dict):  # who waits for them at the end of the program would wait for ever
            processes = list(processes.values())
        if shutdown is not None:
            try:
                shutdown(wait=not hung, cancel_futures=True)
            except TypeError:  # an executor of another making
                shutdown(wait=not hung)
        for process in processes if hung and isinstance(processes, list) else ():
            process.kill()


class Dask(Engine):
    """The workers of a ``distributed.Client``; each runs as many tasks at once as it has threads."""

    name = "Dask"
    n_threads = 1
    sends_by_itself = True

    def __init__(self, client: Any) -> None:
        self._client, self._executor = client, client.get_executor(pure=False)
        self._looked, self._found = -_LOOK_SECONDS, 0

    def is_ready(self) -> bool:
        self._look()
        return self._found > 0

    def n_workers(self) -> int:
        self._look()
        return max(1, self._found)

    def _look(self) -> None:
        if time.monotonic() - self._looked > _LOOK_SECONDS:  # they come and go
            self._found = sum(self._client.nthreads().values())
            self._looked = time.monotonic()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = self._executor.submit(function, *arguments)
        return future

    def share(self, array: Any) -> Any:
        return self._client.scatter(array, broadcast=True, hash=False)  # hashing has lost data in flight


class Joblib(Engine):
    """``joblib.Parallel`` under the configuration that is active when this is made.

    A call of Parallel takes all tasks that wait; those that come meanwhile wait for the next one. Where a backend gives
    results one by one they arrive so, else at the end of the call.
    """

    name = "joblib"
    ahead = 4  # of a call, at whose end workers wait
    can_renew = True  # it makes workers anew by itself

    def __init__(self) -> None:
        try:
            import joblib
            from joblib.parallel import get_active_backend
        except ImportError:
            raise ImportError("executor='joblib' needs joblib: pip install joblib") from None
        self._joblib = joblib
        self._backend, self._n_jobs = get_active_backend()  # of this thread, the caller's; -1: all CPUs
        if self._n_jobs is None or self._n_jobs == 1 and type(self._backend).__name__ == "LokyBackend":
            self._n_jobs = -1
        with self._config():
            self._found = max(1, joblib.effective_n_jobs(self._n_jobs))
        if getattr(self._backend, "uses_threads", False):
            self.in_process = True
            self.n_threads = max(1, threads.requested() // self._found)
        self._waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self._lock, self._comes = threading.Lock(), threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._serve, name="fastbp joblib", daemon=True)
        self._thread.start()

    def _config(self) -> Any:
        return self._joblib.parallel_config(backend=self._backend, n_jobs=self._n_jobs)

    def n_workers(self) -> int:
        return self._found

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._waiting.append((future, function, arguments))
        self._comes.set()
        return future

    def _serve(self) -> None:
        while True:
            self._comes.wait()
            self._comes.clear()
            time.sleep(0.01)  # the driver submits several
            with self._lock:
                wave, self._waiting = self._waiting, []
            wave = [one for one in wave if one[0].set_running_or_notify_cancel()]
            if wave:
                self._do(wave)
            if self._ended:
                return

    def _do(self, wave: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]]) -> None:
        parallel, delayed = self._joblib.Parallel, self._joblib.delayed
        early = getattr(self._backend, "supports_return_generator", False)
        try:
            with self._config():
                tasks = (delayed(_numbered)(k, function, *arguments) for k, (_, function, arguments) in enumerate(wave))
                more = {"batch_size": 1, "pre_dispatch": "all", "return_as": "generator_unordered" if early else "list"}
                for k, result in parallel(n_jobs=self._n_jobs, **more)(tasks):
                    wave[k][0].set_result(result)
        except BaseException as error:
            for future, _, _ in wave:
                if not future.done():
                    future.set_exception(error)

    def renew(self) -> None:
        pass

    def close(self, hung: bool) -> None:
        self._ended = True
        with self._lock:
            for future, _, _ in self._waiting:
                future.cancel()
            self._waiting = []
        self._comes.set()
        if not hung:
            self._thread.join()


def _numbered(k: int, function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    return k, function(*arguments)


def engine_of(executor: Any, n_threads: int) -> Engine:
    """The engine that `executor=` names; `n_threads` are those of this process.

    Raises
    ------
    TypeError
        It is none.
    ImportError
        Its library is not installed.
    """
    if executor is None:
        return Here(n_threads)
    if isinstance(executor, str) and executor == "joblib":
        return Joblib()
    if _is_client(executor):
        return Dask(executor)
    if callable(getattr(executor, "submit", None)) and not isinstance(executor, type):
        client = getattr(executor, "_client", None)
        return Dask(client) if _is_client(client) else Given(executor)
    if callable(executor):
        return Made(executor)
    raise TypeError("executor must be None, an object with `submit` as concurrent.futures.Executor has it, a function "
                    f"that makes one, a distributed.Client, or 'joblib'; got {executor!r}")  # fmt: skip


def _is_client(value: Any) -> bool:
    distributed = sys.modules.get("distributed")  # not loaded: there is no client
    return distributed is not None and isinstance(value, distributed.Client)


def is_lost(error: BaseException) -> bool:
    """Whether an error says that the executor will take no more tasks."""
    return isinstance(error, BrokenExecutor) and not isinstance(error, CancelledError)


def threads_here() -> int | None:
    """Threads of a task in this worker, where its engine says so; Dask runs a task on each of its threads."""
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        try:
            distributed.get_worker()
            return 1
        except ValueError:  # no worker
            pass
    return None
