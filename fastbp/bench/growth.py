"""How the time of a step and the memory of a process grow with the width, the batch, the depth: `bench --growth`.

Along each axis of `contenders.GROWTH` one thing of a network changes. Times are CPU time of this process on one core;
memory is the most that a process of its own ever held, with Python, the library and the data.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from fastbp.bench import figures, measure
from fastbp.bench.contenders import CONTENDERS, GROWTH, Problem, Workload
from fastbp.bench.figures import OURS, PACKAGES, PEERS, Peer, write_into

NAMES = ("fastbp", "numpy", "sklearn", "torch", "jax scan")
STEPS = 20  # before memory is read
AXES = {
    "width": "units of each of the two hidden layers",
    "batch": "rows of a batch",
    "depth": "hidden layers of 64 units",
}


@dataclass
class Cell(figures.Cell):
    """One workload's figures, and the MB of a process that trains it with each contender."""

    memory: dict[str, float] = field(default_factory=dict)


@dataclass
class Record(figures.Record):
    """A run of this benchmark."""

    cell = Cell
    cells: list[Any]

    def how(self) -> str:
        """How it was measured, and on what."""
        facts = self.machine
        versions = ", ".join(f"{name} {facts[name]}" for name in PACKAGES if name in facts)
        return (
            f"CPU time of a step (forward, loss, backward, plain SGD) in float32 on one core ({facts['cpu']}, "
            f"{facts['isa']} kernels), the best of {self.rounds} interleaved rounds, {facts['date']}. The network has "
            f"32 inputs, two hidden layers of 64 units and one output, ReLU and the squared error, in batches of 32; "
            f"in each picture one of these changes. Memory is the most that a process of its own held which trains "
            f"that network: with Python, NumPy, this benchmark, the library and 2,048 rows of data. Every contender's "
            f"weights were compared with the NumPy reference in float64 before it was timed. {facts['compiler']}, "
            f"Python {facts['python']}, {versions}."
        )

    def slower(self) -> str:
        """Where a peer is as fast as fastbp, or nearly."""
        close = sorted((cell.over(cell.best_peer), cell.name, cell.best_peer) for cell in self.cells if cell.best_peer)
        told = ", ".join(f"{name} ({PEERS[peer].label}: {over:.2f}x)" for over, name, peer in close[:3])
        return textwrap.fill(f"The closest of the {len(self.cells)} networks that grow: {told}.", 120)

    @property
    def texts(self) -> dict[str, Callable[[], str]]:
        return {"how": lambda: textwrap.fill(self.how(), 120), "closest": self.slower}

    def write_into(self, path: str) -> None:
        """Replace what stands between ``<!-- growth: NAME -->`` and the comment that ends it."""
        write_into(path, "growth", self.texts, "measure again")

    def lines(self, axis: str, what: str) -> Iterator[tuple[Peer, list[tuple[float, float]]]]:
        """Of each contender the points along an axis: microseconds (`what` is "best"), or MB ("memory")."""
        cells = {cell.name: cell for cell in self.cells}
        for name, peer in {"fastbp": OURS, **PEERS}.items():
            points = []
            for x, workload in GROWTH[axis].items():
                figure = getattr(cells.get(workload.name), what, {}).get(name)
                if figure:
                    points.append((x, figure * 1e6 if what == "best" else figure))
            if points:
                yield peer, points

    def picture(self, path: str) -> None:
        """Draw a panel for each axis, and one for memory over the width.

        Parameters
        ----------
        path : str
            The ending says the format: .svg, .png, .pdf.
        """
        panels = [(self.lines(axis, "best"), label, "microseconds of a step") for axis, label in AXES.items()]
        panels.append((self.lines("width", "memory"), AXES["width"], "MB of the process"))
        figures.panels(path, panels)


def memory(name: str, workload: Workload) -> float | None:
    """MB that a process of its own holds at most; None where the system does not say."""
    code = f"from fastbp.bench import growth; growth.train({name!r}, {asdict(workload)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = re.search(r"^VmHWM:\s+(\d+) kB", done.stdout, re.M)
    return int(found[1]) / 1e3 if found else None


def train(name: str, workload: dict[str, Any]) -> None:
    """Train some steps, then print what the system knows of this process."""
    contender = CONTENDERS[name](Problem(Workload(**workload)))
    contender.run(STEPS)
    try:
        with open("/proc/self/status") as status:
            sys.stdout.write(status.read())
    except OSError:
        pass


def run(axes: Iterable[str], names: Iterable[str], rounds: int, report: Callable[[str], None]) -> Record:
    """Measure contenders along some axes; `report` takes a line now and then."""
    names = list(names)
    workloads = {workload.name: workload for axis in axes for workload in GROWTH[axis].values()}
    timed = measure.run(workloads.values(), names, rounds, "float32", report, clock=time.process_time)
    cells = []
    for cell in timed.cells:
        workload = workloads[cell.name]
        measured = {}
        if workload in GROWTH["width"].values():
            report(f"{cell.name}: memory")
            measured = {name: mb for name in cell.best if (mb := memory(name, workload)) is not None}
        cells.append(Cell(**asdict(cell), memory=measured))
    return Record(timed.machine, rounds, cells)
