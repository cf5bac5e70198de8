"""The backend that trains a network fastest on this machine, for `MLP.compile`.

Steps are made by the network's own verbs, on copies of it: whatever they need is compiled then.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastbp import backends
from fastbp.backends.plan import own_rows

COMPILED = ("cython", "numba")
CALL_SECONDS = 0.02  # of a call that is timed
ROUNDS = 3


class Candidate(NamedTuple):
    backend: str
    train: Callable[[int], Any]  # makes so many steps


def prepared(net: Any, names: tuple[str, ...] | None, work: dict[str, Any]) -> list[Candidate]:
    """Copies of the network (an `MLP`), one for each backend named, that have trained and predicted once.

    Without names: for each compiled backend that can serve it, or the one that can if neither does.
    """
    rows = [*net._spec.activations, work["loss"], work["optimizer"].row]
    if names is None:
        usable = backends.usable(net.dtype, own_rows(rows))
        if net.matmul_precision != "float32":  # Numba has no other
            usable = tuple(name for name in usable if name != "numba")
        names = tuple(name for name in COMPILED if name in usable) or usable[:1]
    return [_candidate(copy.deepcopy(net), name, work) for name in names]


def _candidate(net: Any, name: str, work: dict[str, Any]) -> Candidate:
    n, loss = work["batch_size"], work["loss"]
    X = np.zeros((n, net.sizes[0]), net.dtype)
    if loss.labels:
        y: np.ndarray = np.zeros(n, np.int64)
    else:
        target = next(t for t in (0.0, 0.5, 1.0, *loss.domain.closed(net.dtype)) if loss.domain.holds(t))
        y = np.full((n, loss.targets(net.sizes[-1])), target, net.dtype)
    net._backend = name

    def train(steps: int) -> None:
        net.fit(X, y, steps=steps, shuffle=False, nonfinite="ignore", **work)

    train(1)
    net.predict(X)
    return Candidate(name, train)


def fastest(candidates: list[Candidate]) -> str:
    """The backend whose steps take the least time, in the best of some rounds, one after the other."""
    if len(candidates) == 1:
        return candidates[0].backend
    steps = {}
    for candidate in candidates:
        steps[candidate] = 1
        while _seconds(candidate, steps[candidate]) < CALL_SECONDS:
            steps[candidate] *= 2
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(ROUNDS):
        for candidate, n in steps.items():
            best[candidate] = min(best[candidate], _seconds(candidate, n) / n)
    return min(best, key=lambda candidate: best[candidate]).backend


def _seconds(candidate: Candidate, steps: int) -> float:
    began = time.perf_counter()
    candidate.train(steps)
    return time.perf_counter() - began
