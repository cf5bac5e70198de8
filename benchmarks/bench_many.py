"""Bars of many networks: a network-step in lanes, one by one and by JAX's vmap; the fixed cost of a network.

``python benchmarks/bench_many.py [--only WORD] [--rounds N]``. Networks differ in their first weights, and train on the
same batches in the order of the rows; whatever is timed has been compared with the NumPy reference in float64.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
from rounds import median_ratio, seconds_of

import fastbp

NETWORKS, RATE, CHECKED, CLOSE = 64, 1e-3, 50, 1e-3  # steps until the comparison; of the parameters' change
CALL_SECONDS = 0.3


class Shape(NamedTuple):
    """Networks of one shape. The bars are how many times as long one by one, and JAX, take; None: none was set."""

    sizes: tuple[int, ...]
    batch: int
    activation: str
    loss: str = "mse"
    rule: str = "sgd"
    lanes: str | bool = "auto"
    over_alone: float | None = None
    over_jax: float | None = None

    @property
    def name(self) -> str:
        kind = f"{'-'.join(map(str, self.sizes))} b{self.batch} {self.activation} {self.loss} {self.rule}"
        return kind + (", lanes=True" if self.lanes is True else "")


BCE = "binary_cross_entropy"
SHAPES = (
    Shape((2, 3, 1), 8, "identity", over_alone=5, over_jax=20),
    Shape((2, 3, 1), 8, "identity", rule="adam"),
    Shape((8, 8, 1), 8, "relu", over_alone=1.0),
    Shape((10, 32, 1), 32, "relu", over_alone=1.0, over_jax=3.0),
    Shape((10, 32, 1), 32, "relu", lanes=True, over_alone=1.4, over_jax=4.5),
    Shape((10, 32, 1), 32, "relu", rule="adam", lanes=True),
    Shape((4, 16, 16, 1), 16, "tanh", over_alone=1.0, over_jax=3.3),
    Shape((4, 16, 16, 1), 16, "tanh", lanes=True, over_alone=1.35, over_jax=4.8),
    Shape((4, 16, 16, 1), 16, "tanh", rule="adam", lanes=True),
    Shape((30, 100, 1), 200, "relu", BCE, over_alone=1.0, over_jax=2.0),
    Shape((8, 64, 64, 4), 32, "tanh", over_alone=1.0, over_jax=1.9),
)


class Problem:
    """A shape with its data."""

    def __init__(self, shape: Shape) -> None:
        rng = np.random.default_rng(0)
        n = shape.batch * max(1, 1024 // shape.batch)
        self.shape = shape
        self.X = rng.normal(size=(n, shape.sizes[0])).astype(np.float32)
        y = rng.normal(size=(n, shape.sizes[-1])).astype(np.float32)
        self.y = (y > 0).astype(np.float32) if shape.loss == BCE else y
        self.rule = {"sgd": fastbp.SGD, "adam": fastbp.Adam}[shape.rule](lr=RATE)

    def networks(self, **options: Any) -> list[fastbp.MLP]:
        make = partial(fastbp.MLP, self.shape.sizes, activation=self.shape.activation, **options)
        return [make(seed=k) for k in range(NETWORKS)]

    @property
    def options(self) -> dict[str, Any]:
        return {"loss": self.shape.loss, "optimizer": self.rule, "batch_size": self.shape.batch, "shuffle": False}


class Contender(NamedTuple):
    run: Callable[[int], Any]  # so many steps of all networks
    weights: Callable[[], np.ndarray]  # (networks, parameters), as `MLP.flatten` has them


def ours(problem: Problem, lanes: str | bool) -> Contender:
    """By `fit_many`."""
    nets = problem.networks()

    def run(steps: int) -> None:
        fastbp.fit_many(nets, problem.X, problem.y, steps=steps, n_threads=1, lanes=lanes, **problem.options)

    return Contender(run, lambda: np.stack([net.flatten() for net in nets]))


def alone(problem: Problem) -> Contender:
    """By one `fit` after the other."""
    nets = problem.networks()

    def run(steps: int) -> None:
        for net in nets:
            net.fit(problem.X, problem.y, steps=steps, n_threads=1, **problem.options)

    return Contender(run, lambda: np.stack([net.flatten() for net in nets]))


def jax_vmap(problem: Problem) -> Contender:
    """`vmap` of a training step in a scan over the steps, the whole run jitted."""
    import jax
    import jax.numpy as jnp

    shape, tree = problem.shape, jax.tree_util.tree_map
    act = {"identity": lambda z: z, "tanh": jnp.tanh, "relu": lambda z: jnp.maximum(z, 0)}[shape.activation]

    def loss(p: Any, x: Any, t: Any) -> Any:
        for w, b in p[:-1]:
            x = act(x @ w + b)
        z = x @ p[-1][0] + p[-1][1]
        if shape.loss == BCE:
            return jnp.mean(jnp.logaddexp(0.0, z) - t * z)
        return jnp.mean((z - t) ** 2)

    def step(p: Any, slots: Any, k: Any, x: Any, t: Any) -> Any:
        value, g = jax.value_and_grad(loss)(p, x, t)
        if shape.rule == "sgd":
            return tree(lambda w, d: w - RATE * d, p, g), slots, value
        mean = tree(lambda m, d: 0.9 * m + 0.1 * d, slots[0], g)
        square = tree(lambda s, d: 0.999 * s + 0.001 * d * d, slots[1], g)
        root, first = jnp.sqrt(1 - 0.999**k), 1 - 0.9**k
        return tree(lambda w, m, s: w - RATE / first * m / (jnp.sqrt(s) / root + 1e-8), p, mean, square), (
            mean,
            square,
        ), value  # fmt: skip

    n = len(problem.X) // shape.batch
    X, y = (jnp.asarray(a).reshape(n, shape.batch, -1) for a in (problem.X, problem.y))
    nets = problem.networks()
    params = [
        (jnp.stack([net.weights[k] for net in nets]), jnp.stack([net.biases[k] for net in nets]))
        for k in range(len(shape.sizes) - 1)
    ]
    nothing = tree(jnp.zeros_like, params)
    state = {"trained": (params, (nothing, nothing) if shape.rule == "adam" else ()), "step": 0}
    every = jax.vmap(step, in_axes=(0, 0, None, None, None))
    compiled: dict[int, Any] = {}

    def whole(trained: Any, start: Any, steps: int) -> Any:
        def body(carry: Any, k: Any) -> Any:
            b = (start + k) % n
            p, slots, values = every(*carry, (start + k + 1).astype(jnp.float32), X[b], y[b])
            return (p, slots), values

        return jax.lax.scan(body, trained, jnp.arange(steps))

    def run(steps: int) -> None:
        if steps not in compiled:
            call = jax.jit(partial(whole, steps=steps))
            compiled[steps] = call.lower(state["trained"], 0).compile()
        state["trained"], _ = jax.block_until_ready(compiled[steps](state["trained"], state["step"]))
        state["step"] += steps

    def weights() -> np.ndarray:
        parts = [np.asarray(part).reshape(NETWORKS, -1) for pair in state["trained"][0] for part in pair]
        return np.concatenate(parts, axis=1)

    return Contender(run, weights)


def contenders(problem: Problem) -> dict[str, Contender]:
    """Those that are there, each compared after some steps.

    Raises
    ------
    ArithmeticError
        One computes something else: its time would mean nothing.
    """
    exact = problem.networks(dtype=np.float64, backend="reference")
    first = np.stack([net.flatten() for net in exact])
    for net in exact:
        net.fit(problem.X, problem.y, steps=CHECKED, **problem.options)
    wanted = np.stack([net.flatten() for net in exact])
    found = {}
    makers = {"fastbp": partial(ours, lanes=problem.shape.lanes), "alone": alone, "jax": jax_vmap}
    for name, make in makers.items():
        try:
            found[name] = make(problem)
        except ImportError as error:
            print(f"  {name} skipped: {error}")
            continue
        found[name].run(CHECKED)
        off = np.linalg.norm(found[name].weights() - wanted, axis=1) / np.linalg.norm(wanted - first, axis=1)
        if not np.median(off) <= CLOSE:
            raise ArithmeticError(f"{problem.shape.name}: {name} is off by {np.median(off):.3g} of the change")
    return found


def measure(shape: Shape, rounds: int) -> bool:
    """Print the figures of a shape; whether its bars are met."""
    problem = Problem(shape)
    calls, steps = {}, {}
    for name, contender in contenders(problem).items():
        steps[name] = 100  # entering and leaving are to be a small part of a call
        while (took := seconds_of(1, {name: partial(contender.run, steps[name])})[name][0]) < CALL_SECONDS:
            steps[name] = max(2 * steps[name], int(1.2 * steps[name] * CALL_SECONDS / max(took, 1e-6)))
        calls[name] = partial(contender.run, steps[name])
        calls[name]()  # JAX compiles each length of a run
    times = seconds_of(rounds, calls)
    each = {name: [t / steps[name] / NETWORKS for t in found] for name, found in times.items()}
    told = ", ".join(f"{name} {np.median(found) * 1e9:.1f}" for name, found in each.items())
    met = True
    for peer, bar in (("alone", shape.over_alone), ("jax", shape.over_jax)):
        if peer not in each:
            continue
        ratio = median_ratio(each, peer, "fastbp")
        told += f"; {peer} {ratio:.2f}x"
        if bar is not None:
            told += f" of {bar}x"
            met = met and ratio >= 0.97 * bar if bar == 1.0 else met and ratio >= bar
    print(f"{'ok    ' if met else 'MISSED'} {shape.name}: ns a network-step: {told}", flush=True)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="shapes whose names have this word in them")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default: 7)")
    given = parser.parse_args()
    return 0 if all([measure(shape, given.rounds) for shape in SHAPES if given.only in shape.name]) else 1


if __name__ == "__main__":
    sys.exit(main())
