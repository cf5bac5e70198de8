"""What the benchmark measured: a record in a file, texts and tables in Markdown, pictures.

A record that is published lies in `benchmarks/records/`, one for each kind of machine, and holds the cells of one
thread and of more. Pages say where its texts go by pairs of comments: see `Record.write_into`.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self


class Peer(NamedTuple):
    """How a contender is shown. Colours are those of Okabe and Ito, told apart by all, on white and on black."""

    label: str
    colour: str
    marker: str  # of matplotlib
    library: str


PEERS = {
    "numpy": Peer("NumPy", "#E69F00", "s", "NumPy"),
    "sklearn": Peer("scikit-learn", "#56B4E9", "v", "scikit-learn"),
    "torch": Peer("PyTorch", "#D55E00", "D", "PyTorch"),
    "torch.compile": Peer("torch.compile", "#CC79A7", "P", "PyTorch"),
    "jax step": Peer("JAX step", "#009E73", "^", "JAX"),
    "jax scan": Peer("JAX scan", "#0072B2", "o", "JAX"),
    "tf.v1": Peer("TensorFlow v1", "#999999", "X", "TensorFlow"),
}
OURS = Peer("fastbp", "#8A63D2", "*", "fastbp")
INK = "#757575"  # of text and lines: 4.6 times as dark as white, 4.6 times as bright as black
BESIDE = {"fastbp numba": "fastbp, Numba"}  # no peers: columns of their own where they were measured
ALONE = "fastbp, one thread"  # beside "fastbp" where that has more
PACKAGES = ("fastbp", "numpy", "scikit-learn", "torch", "jax", "tensorflow", "tensorflow-cpu")  # whose versions matter
STEERED = ("OPENBLAS_", "MKL_", "BLIS_", "ONEDNN_")  # environment variables so called choose the kernels of peers
SHOWN = ("numpy", "torch", "jax scan")  # in the tables of pages, where there is no room for all
BRIEF = (  # the cells of README.md,
    "2-3-1 b8", "8-64-64-4 b32", "784-128-10 b32", "784-512-512-10 b128", "784-512-512-10 b128 bfloat16", "1024x3 b512",
)  # fmt: skip
FOUR = ("numpy", "torch", "jax scan", "sklearn")  # and its peers
WAYS = {  # what a cell's name may end with, and what that says
    "adam": "Adam", "shuffled": "rows in an order drawn for each epoch", "bfloat16": "products in bfloat16",
}  # fmt: skip


@dataclass
class Cell:
    """One workload's figures: seconds a step, best and median of the rounds, of each contender."""

    name: str
    mathematics: str  # activation and loss
    dtype: str
    flops: float
    peak: float  # GFLOP/s
    best: dict[str, float]
    median: dict[str, float]
    n_threads: int = 1  # that each contender may use

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it the same workload in another record."""
        return self.name, self.dtype, self.n_threads

    def over(self, peer: str) -> float:
        """How many times as long a peer takes."""
        return self.best[peer] / self.best["fastbp"]

    @property
    def ways(self) -> list[str]:
        """What makes it other than plain SGD in its dtype on rows in order: words of `WAYS`."""
        return [word for word in self.name.split() if word in WAYS]

    @property
    def precision(self) -> str:
        """Of its products."""
        return "bfloat16" if "bfloat16" in self.ways else self.dtype

    @property
    def peers(self) -> list[str]:
        return [name for name in PEERS if name in self.best]

    @property
    def best_peer(self) -> str | None:
        return min(self.peers, key=self.over, default=None)

    @property
    def of_peak(self) -> float:
        """Of the cores' peak, one core a thread."""
        return self.flops / self.best["fastbp"] / 1e9 / self.peak / self.n_threads


def aligned(lines: list[list[str]]) -> str:
    """A table in Markdown; the first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def geometric_mean(values: Iterable[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def _microseconds(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def write_into(path: str, kind: str, texts: dict[str, Callable[[], str]], cure: str) -> None:
    """Replace the figures in a Markdown file: from each ``<!-- KIND: NAME -->`` to ``<!-- end of KIND -->``.

    Raises
    ------
    ValueError
        The file has no such comments, or asks for a text that there is not, or that the record cannot give: `cure` then
        says what to do.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read()
    marks = re.compile(f"(<!-- {kind}: (.*?) -->\n)(?:(?!<!-- {kind}: ).)*?(<!-- end of {kind} -->)", re.S)
    names = [name for _, name, _ in marks.findall(text)]
    if not names or not set(names) <= set(texts) or len(names) != text.count(f"<!-- {kind}: "):
        known = ", ".join(texts)
        raise ValueError(f"{path} must say where figures go: <!-- {kind}: NAME --> ... <!-- end of {kind} -->, with a "
                         f"NAME of {known}; it asks for {', '.join(names) or 'none'}")  # fmt: skip
    try:
        new = marks.sub(lambda found: f"{found[1]}{texts[found[2]]()}\n{found[3]}", text)
    except (LookupError, ValueError):  # no cells, or no facts, to tell of
        raise ValueError(f"{path} asks for {', '.join(names)}, and this record lacks cells or facts for one of "
                         f"these: {cure}") from None  # fmt: skip
    with open(path, "w", encoding="utf-8") as file:
        file.write(new)


@dataclass
class Saved:
    """Figures in a file."""

    cell: ClassVar[type]  # of the cells
    figure: ClassVar[str] = "time"  # what a cell has of each contender
    machine: dict[str, Any]
    rounds: int
    cells: list[Any]

    def save(self, path: str) -> None:
        with open(path, "w") as file:
            json.dump(asdict(self), file, indent=1)

    @classmethod
    def load(cls, path: str) -> Self:
        """A record that `save` wrote.

        Raises
        ------
        ValueError
            The file holds something else.
        """
        with open(path) as file:
            try:
                saved = json.load(file)
                return cls(**saved | {"cells": [cls.cell(**cell) for cell in saved["cells"]]})
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path} is no record of this benchmark: {error}") from None

    def against(self, earlier: Self) -> str:
        """Figures as parts of another run's. Where the peers' have moved too, it was the machine."""
        before = {cell.key: cell.best for cell in earlier.cells}
        lines = []
        for cell in self.cells:
            old = before.get(cell.key, {})
            parts = [f"{name} {figure / old[name]:.3f}" for name, figure in cell.best.items() if name in old]
            if parts:
                lines.append(f"{cell.name:<22} of the {self.figure} before: {', '.join(parts)}")
        return "\n".join(lines) or "no cell in common with the run before"

    def compared(self, earlier: Self) -> str:
        """The machine and the versions of both, then cell by cell this run's figures as parts of the earlier one's.

        Raises
        ------
        ValueError
            They have no cell in common.
        """
        ours, theirs = ({fact: f"{value:.1f}" if isinstance(value, float) else str(value)
                         for fact, value in record.machine.items()} for record in (self, earlier))  # fmt: skip
        facts = [[fact, theirs.get(fact, "-"), ours.get(fact, "-")] for fact in dict.fromkeys([*theirs, *ours])]
        facts.append(["rounds", str(earlier.rounds), str(self.rounds)])
        before = {cell.key: cell for cell in earlier.cells}
        pairs = [(before[cell.key], cell) for cell in self.cells if cell.key in before]
        names = list(dict.fromkeys(name for old, new in pairs for name in new.best if name in old.best))
        if not names:
            raise ValueError("these records have no cell in common")
        lines = [["workload", *names]]
        for old, new in pairs:
            both = {name: f"{new.best[name] / old.best[name]:.3f}" for name in new.best if name in old.best}
            lines.append([", ".join(map(str, new.key)), *(both.get(name, "-") for name in names)])
        alone = len(self.cells) + len(earlier.cells) - 2 * len(pairs)
        told = f"Each {self.figure} of the second as a part of the first's: {len(pairs)} workloads; {alone} in one."
        return "\n\n".join([aligned([["", "first", "second"], *facts]), told, aligned(lines)])


@dataclass
class Record(Saved):
    """A run of the benchmark."""

    cell = Cell
    cells: list[Cell]

    def with_threads(self, n_threads: int) -> Record:
        """The cells in which each contender might use so many threads."""
        return replace(self, cells=[cell for cell in self.cells if cell.n_threads == n_threads])

    @property
    def fewest(self) -> Record:
        """The cells with the fewest threads of this record."""
        return self.with_threads(min((cell.n_threads for cell in self.cells), default=1))

    @property
    def plain(self) -> Record:
        """The cells in plain SGD, with products in their dtype, on rows in order: those that means are of."""
        return replace(self, cells=[cell for cell in self.cells if not cell.ways])

    @property
    def name(self) -> str:
        """A file's name for the kind of machine."""
        return re.sub("[^a-z0-9]+", "-", f"{self.machine.get('cpu')} {self.machine.get('isa')}".lower())

    def joined(self, other: Record) -> Record:
        """With the cells of another record of this machine; what both have measured is the other's.

        Raises
        ------
        ValueError
            It is of another machine.
        """
        if self.name != other.name:
            raise ValueError(f"records of two kinds of machine are not joined: {self.name} and {other.name}")
        new = {cell.key for cell in other.cells}
        kept = [cell for cell in self.cells if cell.key not in new]
        return replace(self, machine=self.machine | other.machine, cells=kept + other.cells)

    @property
    def peers(self) -> list[str]:
        """Those that were there for some cell."""
        return [name for name in PEERS if any(name in cell.best for cell in self.cells)]

    # -------------------------------------------------------------- as text

    def facts(self) -> str:
        """One line for each fact about the machine."""
        shown = {name: f"{value:.1f}" if isinstance(value, float) else value for name, value in self.machine.items()}
        return "\n".join(f"{name}: {value}" for name, value in shown.items())

    def table(self, peers: Iterable[str]) -> str:
        """Microseconds a step, best of the rounds, of fastbp and some of its peers; beside them the best of all."""
        peers = [name for name in peers if name in self.peers]
        labels = [PEERS[name].label for name in peers]
        beside = [name for name in BESIDE if any(name in cell.best for cell in self.cells)]
        peers, labels = beside + peers, [BESIDE[name] for name in beside] + labels
        head = ["network", "activation, loss", "threads", "fastbp", *labels, "best peer", "over best peer", "of peak"]
        lines = [head]
        for cell in self.cells:
            times = [_microseconds(cell.best[name]) if name in cell.best else "-" for name in ("fastbp", *peers)]
            best, over = "-", "-"
            if cell.best_peer:
                best = f"{_microseconds(cell.best[cell.best_peer])} ({PEERS[cell.best_peer].label})"
                over = f"{cell.over(cell.best_peer):.2f}x"
            lines.append([cell.name, cell.mathematics, f"{cell.n_threads}", *times, best, over, f"{cell.of_peak:.0%}"])
        return aligned(lines)

    def short(self) -> str:
        """For README.md: some cells with one thread beside the best-known peers, and what they were measured on."""
        one = self.with_threads(1)
        cells = sorted((cell for cell in one.cells if cell.name in BRIEF), key=lambda cell: BRIEF.index(cell.name))
        labels = [PEERS[name].label for name in FOUR]
        lines = [["network, batch", "fastbp", *labels, "fastest peer / fastbp"]]
        for cell in cells:
            times = [_microseconds(cell.best[name]) if name in cell.best else "-" for name in ("fastbp", *FOUR)]
            lines.append([cell.name, *times, f"{cell.over(cell.best_peer):.2f}x" if cell.best_peer else "-"])
        return "\n\n".join([aligned(lines), textwrap.fill(replace(one, cells=cells).how(), 120)])

    def headline(self) -> str:
        """For README.md: one sentence."""
        one = self.with_threads(1).plain
        best = geometric_mean(cell.over(cell.best_peer) for cell in one.cells if cell.best_peer)
        torch = geometric_mean(cell.over("torch") for cell in one.cells if "torch" in cell.best)
        *libraries, last = dict.fromkeys(PEERS[name].library for name in one.peers)
        sentence = (
            f"**On one core, fastbp makes a training step {best:.1f} times as fast as the fastest of "
            f"{', '.join(libraries)} and {last}, and {torch:.1f} times as fast as PyTorch** (geometric means over "
            f"{len(one.cells)} networks)."
        )
        return textwrap.fill(sentence, 120)

    def means(self) -> str:
        """Geometric means of what each peer takes, in times of fastbp: of the plain cells, or of all where none is."""
        cells = self.plain.cells or self.cells
        ratios = [cell.over(cell.best_peer) for cell in cells if cell.best_peer]
        if not ratios:
            return "No peer was measured."
        means = [f"{geometric_mean(ratios):.2f}x the best peer of each cell"]
        for name in self.peers:
            over = [cell.over(name) for cell in cells if name in cell.best]
            few = f" ({len(over)} of {len(cells)} cells)" if len(over) < len(cells) else ""
            if over:
                means.append(f"{geometric_mean(over):.1f}x {PEERS[name].label}{few}")
        which = f" of the {len(cells)} cells in plain SGD" if len(cells) < len(self.cells) else ""
        return f"Geometric means{which}: {', '.join(means)}."

    def how(self) -> str:
        """How it was measured, and on what."""
        machine = self.machine
        versions = [f"{name} {machine[name]}" for name in (*PACKAGES, "set") if name in machine]
        found = {word for cell in self.cells for word in cell.ways}
        ways = ", ".join(f"{word}: {told}" for word, told in WAYS.items() if word in found)
        unless = f", unless the name says more ({ways})" if ways else ""
        cores = f"{self.cells[0].n_threads} of {machine['cores']} cores ({machine['cpu']}, {machine['isa']} kernels)"
        return (
            f"Microseconds of one step (forward, loss, backward, plain SGD) in {self.cells[0].dtype}{unless}, on "
            f"{cores}, the best of {self.rounds} interleaved rounds, {machine['date']}. Every contender's weights were "
            f"compared with the NumPy reference in float64 before it was timed. {machine['compiler']}, Python "
            f"{machine['python']}, {', '.join(versions)}."
        )

    def numba(self) -> str:
        """The two compiled backends with one thread."""
        one = self.with_threads(1)
        one = replace(one, cells=[cell for cell in one.cells if "fastbp numba" in cell.best])
        lines = [["network, batch", "cython", "numba", "cython / numba"]]
        for cell in one.cells:
            ours, theirs = cell.best["fastbp"], cell.best["fastbp numba"]
            lines.append([cell.name, _microseconds(ours), _microseconds(theirs), f"{ours / theirs:.2f}"])
        return "\n\n".join([textwrap.fill(one.how(), 120), aligned(lines)])

    def meeting(self) -> str:
        """What two threads cost where they do nothing."""
        took = self.machine["2 threads meet in ns"] / 1000
        return f"On the machine of the table below a phase where two threads only meet takes {took:.2f} microseconds."

    def markdown(self) -> str:
        """The figures of a page: how they were measured, the table, the means."""
        peaks = {cell.precision: 0.0 for cell in self.cells}
        for cell in self.cells:
            peaks[cell.precision] = max(cell.peak, peaks[cell.precision])
        rates = ", ".join(f"{peak:.0f} GFLOP/s in {precision}" for precision, peak in peaks.items())
        share = (
            f'"Of peak": the arithmetic of a step in a second, as a share of what this core reaches in the innermost '
            f"loop of a matrix product alone, on data in the L1 cache, in the same precision: in this run {rates}."
        )
        parts = [textwrap.fill(f"{self.how()} {share}", 120), self.table(SHOWN), textwrap.fill(self.means(), 120)]
        return "\n\n".join(parts)

    @property
    def texts(self) -> dict[str, Callable[[], str]]:
        """What a page may ask for, by name."""
        return {
            "headline": self.headline,
            "short": self.short,
            "one thread": self.with_threads(1).markdown,
            "two threads": self.with_threads(2).markdown,
            "meeting": self.meeting,
            "numba": self.numba,
        }

    def write_into(self, path: str) -> None:
        """`write_into` a page what it asks of `texts`."""
        write_into(path, "figures", self.texts, "measure with one thread and with two, beside peers")

    def speedups(self) -> list[tuple[Cell, dict[str, float]]]:
        """How many times faster each contender is with more threads than with one, cell by cell.

        Medians: what happens most of the time, not what may happen. Of fastbp the one thread is that of the same run.
        """
        alone = {(cell.name, cell.dtype): cell.median for cell in self.cells if cell.n_threads == 1}
        found = []
        for cell in self.cells:
            before = dict(alone.get((cell.name, cell.dtype), {}))
            if cell.n_threads > 1 and before:
                if ALONE in cell.median:
                    before["fastbp"] = cell.median[ALONE]
                found.append((cell, {name: before[name] / cell.median[name] for name in cell.median if name in before}))
        return found

    # -------------------------------------------------------------- as a picture

    def scaling(self, path: str) -> None:
        """Draw for every cell how much faster each contender is with more threads than with one.

        Parameters
        ----------
        path : str
            The ending says the format: .svg, .png, .pdf.

        Raises
        ------
        ValueError
            No cell was measured with one thread and with more.
        """
        speedups = self.speedups()
        if not speedups:
            raise ValueError("this record holds no cell with one thread and with more: join two, by --from ONE TWO")
        n_threads = speedups[0][0].n_threads
        label = f"speed with {n_threads} threads, as a multiple of the speed with one (log scale)"
        with page(path, len(speedups)) as axes:
            for name, peer in {**PEERS, "fastbp": OURS}.items():
                _scatter(axes, peer, [(faster.get(name), y) for y, (_, faster) in enumerate(speedups)])
            for y, (_, faster) in enumerate(speedups):
                axes.text(1.01, y, f"{faster['fastbp']:.2f}x", va="center", transform=axes.get_yaxis_transform())
            axes.axvline(n_threads, color=INK, lw=1, ls=":", zorder=2)
            _dress(axes, [cell for cell, _ in speedups], label, OURS.label, [0.1, 0.3, 0.5, 1, 2, 4, 8])

    def picture(self, path: str) -> None:
        """Write what `draw` draws of the cells with the fewest threads to a file.

        Parameters
        ----------
        path : str
            The ending says the format: .svg, .png, .pdf.
        """
        one = self.fewest
        with page(path, len(one.cells)) as axes:
            one.draw(axes)

    def draw(self, axes: Any) -> None:
        """Draw for every cell what each peer takes as a multiple of fastbp's time, on a logarithmic axis.

        Parameters
        ----------
        axes : matplotlib Axes
            Gets no legend; what is to stand in one has its label.
        """
        for name in self.peers:
            points = [(cell.over(name) if name in cell.best else None, y) for y, cell in enumerate(self.cells)]
            _scatter(axes, PEERS[name], points)
        for y, cell in enumerate(self.cells):
            if cell.best_peer:
                ratio = cell.over(cell.best_peer)
                _scatter(axes, PEERS[cell.best_peer]._replace(label=""), [(ratio, y)], zorder=4)  # what is below it
                axes.plot((1, ratio), (y, y), color=INK, lw=1.5, solid_capstyle="butt", zorder=2)
                axes.text(1.01, y, f"{ratio:.2f}x", va="center", transform=axes.get_yaxis_transform())
        _head(axes, 1, OURS.label, axes.get_xaxis_transform(), ha="center")
        _dress(axes, self.cells, "time of a step, as a multiple of fastbp's (log scale)", "best peer")


def size(n_lines: int) -> tuple[float, float]:
    """Inches of a figure of so many cells."""
    return 9, 1.6 + 0.3 * n_lines


@contextmanager
def page(path: str, n_lines: int) -> Iterator[Any]:
    """Axes in a figure with a legend, written to `path` in the end."""
    with _sheet(path, size(n_lines)) as figure:
        yield figure.add_subplot()


@contextmanager
def _sheet(path: str, inches: tuple[float, float]) -> Iterator[Any]:
    """A figure with one legend above it, written to `path` in the end."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ink = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastbp", "font.size": 9, **ink}):
        figure = Figure(figsize=inches, layout="constrained")
        yield figure
        shown = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
        figure.legend(shown.values(), shown, loc="outside upper center", ncols=len(PEERS) + 1, frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None, transparent=True)


Lines = Iterable[tuple[Peer, list[tuple[float, float]]]]  # of each contender its points


def curves(path: str, lines: Lines, xlabel: str, ylabel: str) -> None:
    """Draw a curve for each contender, both axes logarithmic, with a tick at each x that there is."""
    with page(path, 9) as axes:
        _curves(axes, lines, xlabel, ylabel)


def panels(path: str, drawn: list[tuple[Lines, str, str]]) -> None:
    """Draw several such pictures into one, two side by side: (lines, label of x, label of y) of each."""
    rows = math.ceil(len(drawn) / 2)
    with _sheet(path, (9, 0.4 + 3.2 * rows)) as figure:
        for place, (lines, xlabel, ylabel) in enumerate(drawn, 1):
            _curves(figure.add_subplot(rows, 2, place), lines, xlabel, ylabel)


def _curves(axes: Any, lines: Lines, xlabel: str, ylabel: str) -> None:
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    ticks: set[float] = set()
    for peer, points in lines:
        axes.plot(*zip(*points), color=peer.colour, marker=peer.marker, label=peer.label, lw=1.5)
        ticks |= {x for x, _ in points}
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    for one in (axes.xaxis, axes.yaxis):
        one.set_minor_locator(NullLocator())
        one.set_major_formatter("{x:,g}")
    axes.grid(color=INK, alpha=0.25)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _dress(axes: Any, cells: list[Cell], xlabel: str, side: str, ticks: list[float] | None = None) -> None:
    """A line for each cell, the first on top, and a ratio across.

    `side` heads the numbers that stand beside the lines.
    """
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    axes.set(xscale="log", xlabel=xlabel)
    axes.axvline(1, color=INK, lw=1.2, zorder=2)
    _head(axes, 1.01, side, axes.transAxes)
    axes.set_yticks(range(len(cells)), [f"{cell.name}  ({cell.mathematics})" for cell in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.xaxis.set_major_locator(FixedLocator(ticks) if ticks else LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.grid(axis="x", color=INK, alpha=0.25)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _head(axes: Any, x: float, text: str, transform: Any, **how: Any) -> None:
    """A word above the axes."""
    axes.annotate(text, (x, 1), xycoords=transform, xytext=(0, 3), textcoords="offset points", **how)


def _scatter(axes: Any, peer: Peer, points: list[tuple[float | None, int]], zorder: int = 3) -> None:
    """A contender's points; those without a ratio are left out."""
    points = [(ratio, y) for ratio, y in points if ratio is not None]
    if points:
        size = 110 if peer == OURS else 45
        axes.scatter(*zip(*points), s=size, c=peer.colour, marker=peer.marker, label=peer.label, lw=0,
                     zorder=zorder)  # fmt: skip

