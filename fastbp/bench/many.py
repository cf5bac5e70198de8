"""Many networks on one core: contenders train the same networks on the same batches, compared before they are timed.

``python -m fastbp bench --many``. The networks of a workload have one shape, which is what the peers ask for; each has
its own first weights and its own rate. A contender gives two functions: ``run(epochs)`` trains all of them on, in the
order of the rows; ``weights()`` are all parameters then, (networks, parameters of one).
"""

from __future__ import annotations

import math
import os
import textwrap
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastbp import checks
from fastbp.bench.figures import INK, OURS, PACKAGES, PEERS, Peer, Saved, aligned, curves, write_into
from fastbp.bench.measure import machine
from fastbp.many.fit import fit_many
from fastbp.mlp import MLP
from fastbp.optimizers import Adam

WIDTHS = (2, 4, 8, 16, 32, 64, 128)
NETWORKS, FEATURES, ROWS, BATCH, EPOCHS = 64, 10, 448, 32, 20
RATES = (3e-4, 1e-2)  # of the first and of the last network, in equal steps of their logarithm
# Relative error of the parameters' change, of the median network and of the worst: where a gradient is near 0 rounding
# decides its sign, and Adam moves the weight the other way.
CLOSE, FAR = 1e-3, 0.1
CALL_SECONDS = 0.2


@dataclass(frozen=True)
class Workload:
    """Networks of one hidden layer."""

    width: int
    activation: str = "relu"
    networks: int = NETWORKS

    @property
    def sizes(self) -> tuple[int, int, int]:
        return FEATURES, self.width, 1

    @property
    def name(self) -> str:
        return f"{'-'.join(map(str, self.sizes))} b{BATCH} {self.activation}, Adam"


class Problem:
    """A workload with its data, first weights and rates."""

    def __init__(self, workload: Workload) -> None:
        rng = np.random.default_rng(1)
        self.workload = workload
        self.X = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
        target = np.sin(self.X[:, :3].sum(axis=1)) + 0.5 * self.X[:, 3] * self.X[:, 4]
        self.y = (target + rng.normal(scale=0.1, size=ROWS)).astype(np.float32)[:, None]
        self.rates = np.geomspace(*RATES, workload.networks)

    def networks(self, dtype: Any = np.float32, backend: Any = "auto") -> list[MLP]:
        w = self.workload
        return [MLP(w.sizes, activation=w.activation, dtype=dtype, seed=k, backend=backend)
                for k in range(w.networks)]  # fmt: skip

    def first(self) -> list[list[np.ndarray]]:
        """Weight and bias of each layer, those of all networks together: (networks, ...)."""
        nets = self.networks()
        pairs = range(2 * len(nets[0].weights))
        return [np.stack([(net.weights, net.biases)[k % 2][k // 2] for net in nets]) for k in pairs]


class Contender(NamedTuple):
    run: Callable[[int], Any]
    weights: Callable[[], np.ndarray]


def _flat(arrays: Iterable[Any]) -> np.ndarray:
    """Parameters as `MLP.flatten` has them, of all networks."""
    return np.concatenate([np.asarray(array).reshape(len(array), -1) for array in arrays], axis=1)


def _ours(problem: Problem, train: Callable[[list[MLP], list[Adam], int], Any]) -> Contender:
    nets, rules = problem.networks(), [Adam(lr=rate) for rate in problem.rates]
    return Contender(lambda epochs: train(nets, rules, epochs), lambda: np.stack([net.flatten() for net in nets]))


def _together(problem: Problem, lanes: Any) -> Contender:
    def train(nets: list[MLP], rules: list[Adam], epochs: int) -> None:
        fit_many(nets, problem.X, problem.y, loss="mse", optimizer=rules, batch_size=BATCH, epochs=epochs,
                 shuffle=False, n_threads=1, lanes=lanes)  # fmt: skip

    return _ours(problem, train)


def fastbp_many(problem: Problem) -> Contender:
    """By its own rule of which networks share vectors."""
    return _together(problem, "auto")


def fastbp_lanes(problem: Problem) -> Contender:
    """Every network in a lane."""
    return _together(problem, True)


def fastbp_loop(problem: Problem) -> Contender:
    """One `fit` after the other."""

    def train(nets: list[MLP], rules: list[Adam], epochs: int) -> None:
        for net, rule in zip(nets, rules):
            net.fit(problem.X, problem.y, loss="mse", optimizer=rule, batch_size=BATCH, epochs=epochs, shuffle=False,
                    n_threads=1)  # fmt: skip

    return _ours(problem, train)


def scikit_joblib(problem: Problem) -> Contender:
    """A job of joblib for each network, as a grid search makes them; on one core they come one after the other.

    It halves the squared error and adds eps before Adam's correction, which Adam does not see but for that eps: a
    smaller one is given.
    """
    import warnings

    import joblib
    from sklearn.neural_network import MLPRegressor

    w, y, first = problem.workload, problem.y.ravel(), problem.first()
    nets = []
    with warnings.catch_warnings(action="ignore"):  # a run of a given length has not converged
        for k, rate in enumerate(problem.rates):
            net = MLPRegressor(hidden_layer_sizes=w.sizes[1:-1], activation=w.activation, alpha=0, batch_size=BATCH,
                               shuffle=False, learning_rate_init=rate, warm_start=True, tol=0, max_iter=1,
                               n_iter_no_change=10**9, epsilon=1e-10)  # fmt: skip
            net.partial_fit(problem.X[:BATCH], y[:BATCH])
            for j, values in enumerate(first):
                (net.coefs_, net.intercepts_)[j % 2][j // 2][...] = values[k]
            nets.append(net)

    def fitted(net: Any, epochs: int) -> Any:
        net.max_iter = epochs
        with warnings.catch_warnings(action="ignore"):
            return net.fit(problem.X, y)

    def run(epochs: int) -> None:
        nets[:] = joblib.Parallel(n_jobs=1)(joblib.delayed(fitted)(net, epochs) for net in nets)

    def parameters() -> np.ndarray:
        return _flat(np.stack([(net.coefs_, net.intercepts_)[k % 2][k // 2] for net in nets]) for k in range(4))

    return Contender(run, parameters)


def torch_func(problem: Problem) -> Contender:
    """`vmap` of `grad` over stacked parameters, as the documentation of torch has it, and Adam on them."""
    import torch

    torch.set_num_threads(1)
    w = problem.workload
    linears = [torch.nn.Linear(*pair) for pair in zip(w.sizes, w.sizes[1:])]
    act = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "identity": torch.nn.Identity}[w.activation]
    net = torch.nn.Sequential(linears[0], act(), linears[1])
    first = [torch.from_numpy(values) for values in problem.first()]
    names = list(dict(net.named_parameters()))
    params = {name: (values.mT if values.dim() == 3 else values).contiguous() for name, values in zip(names, first)}
    rates = torch.tensor(problem.rates, dtype=torch.float32)
    shaped = {name: rates.reshape(-1, *[1] * (values.dim() - 1)) for name, values in params.items()}
    mean, square = ({name: torch.zeros_like(values) for name, values in params.items()} for _ in range(2))
    X, y = torch.from_numpy(problem.X), torch.from_numpy(problem.y)

    def loss(values: Any, x: Any, t: Any) -> Any:
        return torch.nn.functional.mse_loss(torch.func.functional_call(net, values, (x,)), t)

    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None))
    steps = [0]

    def run(epochs: int) -> None:
        for _ in range(epochs):
            for at in range(0, ROWS, BATCH):
                steps[0] += 1
                first_part, second_part = 1 - 0.9 ** steps[0], 1 - 0.999 ** steps[0]
                with torch.no_grad():
                    for name, g in gradient(params, X[at : at + BATCH], y[at : at + BATCH]).items():
                        mean[name].mul_(0.9).add_(g, alpha=0.1)
                        square[name].mul_(0.999).addcmul_(g, g, value=0.001)
                        below = square[name].sqrt().div_(math.sqrt(second_part)).add_(1e-8)
                        params[name].sub_(shaped[name] / first_part * (mean[name] / below))

    def parameters() -> np.ndarray:
        return _flat((values.mT if values.dim() == 3 else values).contiguous() for values in params.values())

    return Contender(run, parameters)


def jax_vmap(problem: Problem) -> Contender:
    """`vmap` of a training step in a scan over all steps, the whole run jitted."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import jax
    import jax.numpy as jnp

    act = {"identity": lambda z: z, "tanh": jnp.tanh, "relu": lambda z: jnp.maximum(z, 0)}[problem.workload.activation]

    def loss(p: Any, x: Any, t: Any) -> Any:
        return jnp.mean((act(x @ p[0] + p[1]) @ p[2] + p[3] - t) ** 2)

    def step(p: Any, mean: Any, square: Any, rate: Any, k: Any, x: Any, t: Any) -> Any:
        tree = jax.tree_util.tree_map
        g = jax.grad(loss)(p, x, t)
        mean = tree(lambda m, d: 0.9 * m + 0.1 * d, mean, g)
        square = tree(lambda s, d: 0.999 * s + 0.001 * d * d, square, g)
        root = jnp.sqrt(1 - 0.999**k)
        p = tree(lambda w, m, s: w - rate / (1 - 0.9**k) * m / (jnp.sqrt(s) / root + 1e-8), p, mean, square)
        return p, mean, square

    n = ROWS // BATCH
    X, y = jnp.asarray(problem.X).reshape(n, BATCH, -1), jnp.asarray(problem.y).reshape(n, BATCH, -1)
    params = [jnp.asarray(values) for values in problem.first()]
    nothing = [jnp.zeros_like(values) for values in params]
    rates = jnp.asarray(problem.rates, jnp.float32)
    state = {"trained": (params, nothing, nothing), "step": 0}
    every = jax.vmap(step, in_axes=(0, 0, 0, 0, None, None, None))
    compiled: dict[int, Any] = {}

    def whole(trained: Any, start: Any, steps: int) -> Any:
        def body(carry: Any, k: Any) -> Any:
            b = (start + k) % n
            return every(*carry, rates, (start + k + 1).astype(jnp.float32), X[b], y[b]), None

        return jax.lax.scan(body, trained, jnp.arange(steps))[0]

    def run(epochs: int) -> None:
        steps = epochs * n
        if steps not in compiled:
            compiled[steps] = jax.jit(lambda trained, start: whole(trained, start, steps)).lower(
                state["trained"], 0
            ).compile()  # fmt: skip
        state["trained"] = jax.block_until_ready(compiled[steps](state["trained"], state["step"]))
        state["step"] += steps

    return Contender(run, lambda: _flat(state["trained"][0]))


CONTENDERS: dict[str, Callable[[Problem], Contender]] = {
    "fit_many": fastbp_many,
    "fit_many, lanes=True": fastbp_lanes,
    "loop of fit": fastbp_loop,
    "scikit-learn, joblib": scikit_joblib,
    "torch.func": torch_func,
    "JAX vmap": jax_vmap,
}


def contenders(names: str) -> tuple[str, ...]:
    """Names of contenders, as ``loop of fit;JAX vmap``; `fit_many` is always the first.

    Raises
    ------
    ValueError
        There is no such contender.
    """
    wanted = (checks.choice("contenders", name.strip(), CONTENDERS) for name in names.split(";"))
    return tuple(dict.fromkeys(["fit_many", *wanted]))


def check(problem: Problem, names: Iterable[str], report: Callable[[str], None]) -> tuple[dict[str, Contender], float]:
    """The contenders that are there, each having trained `EPOCHS` epochs, and the loss that all have reached.

    Raises
    ------
    ArithmeticError
        A contender computes something else: its time would mean nothing.
    """
    exact = problem.networks(np.float64, "reference")
    for net, rate in zip(exact, problem.rates):
        net.fit(problem.X, problem.y, loss="mse", optimizer=Adam(lr=rate), batch_size=BATCH, epochs=EPOCHS,
                shuffle=False)  # fmt: skip
    wanted, first = np.stack([net.flatten() for net in exact]), _flat(problem.first())
    change = np.linalg.norm(wanted - first, axis=1)
    found = {}
    for name in names:
        try:
            contender = CONTENDERS[name](problem)
            contender.run(EPOCHS)
        except ImportError as error:
            report(f"  {name} skipped: {error}")
            continue
        errors = np.linalg.norm(contender.weights() - wanted, axis=1) / change
        if not (np.median(errors) <= CLOSE and errors.max() <= FAR):
            raise ArithmeticError(
                f"{name}: parameters are off by {np.median(errors):.3g} of their change in the median network, bound "
                f"{CLOSE:.3g}, and by {errors.max():.3g} in the worst, bound {FAR:.3g}"
            )
        found[name] = contender
    loss = float(np.mean([net.evaluate(problem.X, problem.y, loss="mse") for net in exact]))
    return found, loss


@dataclass
class Cell:
    """Of one workload: networks trained a second by each contender, best and median of the rounds."""

    name: str
    width: int
    loss: float  # mean over the networks, after `EPOCHS` epochs
    best: dict[str, float]
    median: dict[str, float]
    networks: int = NETWORKS  # at once

    @property
    def key(self) -> tuple[object, ...]:
        return self.name, self.networks

    def over(self, peer: str) -> float:
        """How many times as many networks as a peer."""
        return self.best["fit_many"] / self.best[peer]


def measure(workload: Workload, names: Iterable[str], rounds: int, report: Callable[[str], None]) -> Cell:
    """Networks a second, CPU time of this process, the contenders in turns."""
    report(workload.name)
    contenders, loss = check(Problem(workload), names, report)
    epochs = {}
    for name, contender in contenders.items():
        epochs[name] = EPOCHS
        while (took := _seconds(contender, epochs[name])) < CALL_SECONDS:
            epochs[name] = max(2 * epochs[name], int(1.2 * epochs[name] * CALL_SECONDS / max(took, 1e-6)))
        contender.run(epochs[name])  # JAX compiles each length of a run
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            each = _seconds(contender, epochs[name]) / epochs[name] * EPOCHS / workload.networks
            rates[name].append(1 / each)
    best = {name: max(values) for name, values in rates.items()}
    median = {name: float(np.median(values)) for name, values in rates.items()}
    return Cell(workload.name, workload.width, loss, best, median, workload.networks)


def _seconds(contender: Contender, epochs: int) -> float:
    start = time.process_time()
    contender.run(epochs)
    return time.process_time() - start


CORES = 64  # of the machine that a million networks are reckoned for
MACHINE = "AMD EPYC 9554P"  # which has so many
SHOWN = {  # the contenders, as PEERS has those of the other benchmark
    "fit_many": OURS._replace(label="fit_many"),
    "fit_many, lanes=True": Peer("fit_many, lanes=True", "#B79CE8", "*", "fastbp"),
    "loop of fit": Peer("a loop of fit", INK, "x", "fastbp"),
    "scikit-learn, joblib": PEERS["sklearn"]._replace(label="scikit-learn, joblib"),
    "torch.func": PEERS["torch"]._replace(label="torch.func"),
    "JAX vmap": PEERS["jax scan"]._replace(label="JAX vmap"),
}


@dataclass
class Record(Saved):
    """A run of this benchmark."""

    cell = Cell
    cells: list[Cell]
    figure = "rate"

    @property
    def names(self) -> list[str]:
        """Contenders that were there for some cell."""
        return [name for name in SHOWN if any(name in cell.best for cell in self.cells)]

    @property
    def counts(self) -> list[int]:
        """Of networks at once: the fewest and the most, or the one that all cells have."""
        counts = {cell.networks for cell in self.cells}
        return sorted({min(counts), max(counts)})

    def table(self) -> str:
        """Networks trained in a second by each contender, best of the rounds."""
        lines = [["networks", "loss reached", *(SHOWN[name].label for name in self.names), "over a loop of fit"]]
        for cell in self.cells:
            rates = [_rate(cell.best[name]) if name in cell.best else "-" for name in self.names]
            over = f"{cell.over('loop of fit'):.2f}x" if "loop of fit" in cell.best else "-"
            name = cell.name if len(self.counts) == 1 else f"{cell.networks} of {cell.name}"
            lines.append([name, f"{cell.loss:.4f}", *rates, over])
        return aligned(lines)

    def how(self) -> str:
        """How it was measured, and on what."""
        facts = self.machine
        versions = ", ".join(f"{name} {facts[name]}" for name in PACKAGES if name in facts)
        at_once = " to ".join(map(str, self.counts))
        return (
            f"Networks trained in a second of CPU time on one core ({facts['cpu']}, {facts['isa']} kernels), in "
            f"float32, the best of {self.rounds} interleaved rounds, {facts['date']}. A network is trained when it has "
            f"gone {EPOCHS} times through {ROWS} rows of {FEATURES} columns in batches of {BATCH}, in the order of the "
            f"rows; {at_once} networks with first weights and rates of their own are trained at once. The parameters "
            f"of every contender were compared with the NumPy reference in float64 before it was timed, so the loss "
            f"that is reached is the same. Times are of runs of {CALL_SECONDS} seconds and more, divided down to "
            f"{EPOCHS} epochs: what a network costs once, before its first step, is not in them. {facts['compiler']}, "
            f"Python {facts['python']}, {versions}."
        )

    def markdown(self) -> str:
        """The figures of the page."""
        return "\n\n".join([textwrap.fill(self.how(), 120, break_on_hyphens=False), self.table()])

    def million(self) -> str:
        """What a million networks take on a large machine: arithmetic, which says so."""
        parts = [
            f"{_duration(1e6 / cell.best['fit_many'] / CORES)} for those of {cell.width} hidden units"
            for cell in self.cells
            if cell.width in (8, 32)
        ]
        text = (
            f"A million such networks on {CORES} cores, as an {MACHINE} has them, would take {' and '.join(parts)} "
            f"by `fit_many`, without what each costs once. This is computed from the table, a million networks divided "
            f"by the networks of a second and by {CORES} cores; it was not measured, and cores that all work at once "
            "may run slower than one alone."
        )
        return textwrap.fill(text, 120)

    @property
    def texts(self) -> dict[str, Callable[[], str]]:
        """What a page may ask for, by name."""
        return {"table": self.markdown, "million": self.million}

    def write_into(self, path: str) -> None:
        """Replace what stands between ``<!-- many: NAME -->`` and the comment that ends it."""
        write_into(path, "many", self.texts, "measure again")

    def picture(self, path: str) -> None:
        """Draw the networks of a second over the width of the hidden layer, or over how many are trained at once.

        Parameters
        ----------
        path : str
            The ending says the format: .svg, .png, .pdf.
        """
        x = "width" if len(self.counts) == 1 else "networks"
        lines = []
        for name in self.names:
            points = [(getattr(cell, x), cell.best[name]) for cell in self.cells if name in cell.best]
            lines.append((SHOWN[name], points))
        label = {"networks": "networks at once", "width": "units of the hidden layer"}[x]
        curves(path, lines, label, "networks trained in a second, one core")


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:#.2g}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.2g} seconds"


def run(
    widths: Iterable[int],
    names: Iterable[str],
    rounds: int,
    report: Callable[[str], None],
    counts: Iterable[int] = (NETWORKS,),
) -> Record:
    """Measure contenders on networks of these widths, so many at once; `report` takes a line now and then."""
    names, counts = list(names), list(counts)
    workloads = [Workload(width, networks=count) for width in widths for count in counts]
    return Record(machine(), rounds, [measure(workload, names, rounds, report) for workload in workloads])
