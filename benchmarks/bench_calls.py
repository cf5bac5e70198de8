"""Speed bars of single calls, from a loop of one's own around 4-64-64-2: fastbp beside the same loops of its peers.

`python benchmarks/bench_calls.py` prints the table; with `--markdown docs/calls.md` it also puts it into that page.
One core and one thread for all. A line's statement runs a few times first, and its results and parameters are compared
with those of the reference backend in float64. Then the contenders take turns, for 20 milliseconds or more each. What
counts is the CPU time of the process: that of JAX's own threads is in it, that of other programs is not.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
import textwrap
import time
import timeit
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # before NumPy is loaded
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for name in [name for name in os.environ if name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")]:
        del os.environ[name]  # they would choose the kernels of NumPy

import numpy as np
import pytest
from loops import ACCUMULATE, CALLS, CONTENDERS, FRESH, LISTED, Data, Names, fastbp_calls

from fastbp import backends
from fastbp.bench.figures import PEERS, geometric_mean
from fastbp.bench.measure import machine

ROUNDS, LOOP_SECONDS, CHECKED = 9, 0.02, 3
CLOSE = 3e-3  # relative error of what float32 computes: see `fastbp.bench.measure.CLOSE`
TORCH_AT_LEAST = 10.0  # times fastbp's time, in the geometric mean over the lines that torch has


class Bar(NamedTuple):
    """At most `times` what another line takes, and so many microseconds more."""

    line: str | None = None
    times: float = 1.0
    plus: float = 0.0

    def limit(self, seconds: dict[str, float]) -> float:
        """In seconds, where those of the lines are given."""
        return (0.0 if self.line is None else self.times * seconds[self.line]) + self.plus * 1e-6

    def __str__(self) -> str:
        ratio = "" if self.line is None else f"{self.times:g}x {self.line}"
        return " + ".join(filter(None, (ratio, f"{self.plus:g} us" if self.plus else "")))


class Line(NamedTuple):
    """One kind of call: what fastbp runs, and what the peers run that have these names (see `loops`)."""

    name: str
    ours: str
    theirs: str | None = None
    bar: Bar | None = None
    calls: int = CALLS  # in a statement
    setup: str = "pass"  # before each loop, not timed; then the loop is one statement


def trained(how: str, lists: str = "x, y in batches") -> str:
    return f"for {lists}: out = net.train_step(x, y, {how})"


def peers(call: str, lists: str = "x, y in batches") -> str:
    return f"for {lists}: out = {call}"


def predicted(call: str, lists: str) -> str:
    """Peers do not record what a gradient would need."""
    return f"with inference():\n    for {lists}: out = {call}"


STEP, ROW = "train_step", "predict, one row"
PLAIN = "loss='mse', optimizer=sgd"
ALIKE, FIRST = Bar(STEP, 1.5), Bar(plus=60)
LINES = (
    Line(ROW, "for x in ones: out = net.predict(x)", predicted("predict(x)", "x in ones")),
    Line("predict, one row of float64", "for x in ones64: out = net.predict(x)",
         predicted("predict(cast(x))", "x in ones64"), Bar(ROW, 1.5)),
    Line("predict, a list of one row", "for x in lists: out = net.predict(x)",
         predicted("predict(cast(x))", "x in lists")),
    Line("predict, 1 to 32 rows, each size 32 times", "for x in repeated: out = net.predict(x)",
         predicted("predict(x)", "x in repeated"), calls=CALLS * CALLS),
    Line("predict, 1 to 32 rows in turn", "for x in sizes: out = net.predict(x)", predicted("predict(x)", "x in sizes"),
         Bar("predict, 1 to 32 rows, each size 32 times", 1.5)),
    Line("predict_proba, one row", "for x in ones: out = net.predict_proba(x, link='softmax')",
         predicted("proba(x)", "x in ones")),
    Line("predict, 64 rows", "for x, y in batches: out = net.predict(x)", predicted("predict(x)", "x, y in batches")),
    Line("evaluate, 64 rows", "for x, y in batches: out = net.evaluate(x, y, loss='mse')",
         predicted("evaluate(x, y)", "x, y in batches"), Bar("predict, 64 rows", 1.5)),
    Line(STEP, trained(PLAIN), peers("step(x, y)")),
    Line("train_step, 64 and 32 rows in turn", trained(PLAIN, "x, y in two_sizes"),
         peers("step(x, y)", "x, y in two_sizes"), ALIKE),
    Line("train_step, sample_weight", trained(f"{PLAIN}, sample_weight=w", "x, y, w in weighted"),
         peers("step_weighted(x, y, w)", "x, y, w in weighted"), ALIKE),
    Line("train_step, three losses in turn", trained("loss=loss, optimizer=sgd", "x, y, loss in losses"),
         peers("step(x, y)", "x, y, step in losses"), ALIKE),
    Line("train_step, three optimizers in turn",
         trained("loss='mse', optimizer=optimizer", "x, y, optimizer in optimizers"), bar=ALIKE),
    Line("train_step, an optimizer made for each call", trained("loss='mse', optimizer=SGD(0.01)"), bar=ALIKE),
    Line("train_step, Adam", trained("loss='mse', optimizer=adam"), peers("step_adam(x, y)")),
    Line("train_step, clip_norm", trained("loss='mse', optimizer=clipped"), peers("step_clipped(x, y)"), ALIKE),
    Line(f"train_step, accumulate={ACCUMULATE}", trained("loss='mse', optimizer=accumulated"),
         peers("step_accumulated(x, y)"), ALIKE),
    Line("train_step, a schedule", trained("loss='mse', optimizer=scheduled"), peers("step_scheduled(x, y)"), ALIKE),
    Line("train_step, dropout", trained(PLAIN).replace("net.", "dropping."), peers("step_dropped(x, y)"), ALIKE),
    Line("train_step, float64 rows", trained(PLAIN, "x, y in batches64"),
         peers("step(cast(x), cast(y))", "x, y in batches64"), ALIKE),
    Line("forward and backward_update", "for x, g in gradients: out = net.forward(x); net.backward_update(g, sgd)",
         peers("backward_update(x, g)", "x, g in gradients"), Bar(STEP, 1.4)),
    Line("forward, backward and update",
         "for x, g in gradients: out = net.forward(x); net.backward(g); net.update(sgd)",
         peers("backward_update(x, g)", "x, g in gradients"), Bar(STEP, 1.7)),
    Line("loss_and_grad", "for x, y in batches: out = net.loss_and_grad(x, y, loss='mse')[0]",
         peers("loss_and_grad(x, y)")),
    Line("copy_from", "for _ in times: other.copy_from(net)", "for _ in times: copy()", Bar(plus=1.5)),
    Line("MLP(...)", "for _ in times: make()", "for _ in times: make()", FIRST),
    Line("fit of one step", "for x, y in batches: net.fit(x, y, loss='mse', optimizer=sgd, batch_size=64, steps=1)",
         bar=FIRST),
    Line("the first predict of a network", "for net in nets: out = net.predict(x)",
         bar=FIRST, calls=FRESH, setup="nets = fresh()"),
    Line("the first train_step of a network", trained(PLAIN, "net in nets"),
         bar=FIRST, calls=FRESH, setup="nets = fresh()"),
    Line("the first train_step with more rows", trained(PLAIN, "net in nets"),
         bar=FIRST, calls=FRESH, setup="nets = fresh(32)"),
    Line("the first train_step with another loss and optimizer", trained("loss='huber', optimizer=adam", "net in nets"),
         bar=FIRST, calls=FRESH, setup="nets = fresh(64)"),
    Line("fit of an array, a batch of 8 rows",
         "net.fit(X, Y, loss='mse', optimizer=sgd, batch_size=8, epochs=1, shuffle=False)", calls=LISTED),
    Line("fit of a list of 1,000 batches of 8 rows", "net.fit(small, loss='mse', optimizer=sgd, epochs=1)",
         peers("step(x, y)", "x, y in small"), Bar("fit of an array, a batch of 8 rows", 1.0, 2.0), LISTED),
)  # fmt: skip
BY_NAME = {line.name: line for line in LINES}
UNCHECKED = {"MLP(...)", "train_step, dropout"}  # of peers: they draw other numbers


class Cell:
    """A line of a contender: its statement over names of its own."""

    def __init__(self, line: Line, contender: str, data: Data) -> None:
        statement = line.ours if contender == "fastbp" else line.theirs
        if statement is None:
            raise NotImplementedError
        self.line, self.names, self.statement = line, CONTENDERS[contender](data), statement
        found = [node for node in ast.walk(ast.parse(f"{line.setup}\n{statement}")) if isinstance(node, ast.Name)]
        made = {node.id for node in found if isinstance(node.ctx, ast.Store)}
        missing = {node.id for node in found} - made - self.names.keys()
        if missing:
            raise NotImplementedError(f"there is no {', '.join(missing)}")
        if contender == "fastbp" or line.name not in UNCHECKED:
            self._check(fastbp_calls(data, "reference", np.float64))
        self.number = self._number()

    def _check(self, exact: Names) -> None:
        """Against the reference backend, after some statements.

        Raises
        ------
        ArithmeticError
            The results are others: the time would mean nothing.
        """
        first = exact["params"]()
        for names, statement in ((self.names, self.statement), (exact, self.line.ours)):
            for _ in range(CHECKED):
                exec(f"{self.line.setup}\n{statement}", names)
        name = self.line.name
        got, wanted = self.names.get("out"), exact.get("out")
        if got is not None and wanted is not None:
            _compare(name, "result", _numbers(got), _numbers(wanted), 0)
        steps = CHECKED * self.line.calls
        for mine, its, before in zip(self.names["params"](), exact["params"](), first):
            _compare(name, "parameters", mine - before, its - before, 2**-23 * steps * np.linalg.norm(before))

    def _number(self) -> int:
        """Statements that make a loop."""
        if self.line.setup != "pass":
            return 1
        number = 1
        while (seconds := self.seconds(number)) < LOOP_SECONDS:
            number = max(number + 1, min(int(1.2 * number * LOOP_SECONDS / max(seconds, 1e-6)), 20 * number))
        return number

    def seconds(self, number: int | None = None) -> float:
        """Of a loop. It runs with the collector of garbage switched off, as `timeit` has it."""
        timer = timeit.Timer(self.statement, self.line.setup, time.process_time, self.names)
        return timer.timeit(number or self.number)

    def measured(self) -> float:
        """Seconds of a call."""
        return self.seconds() / self.number / self.line.calls


def _numbers(result: Any) -> np.ndarray:
    return np.asarray(result.detach() if hasattr(result, "detach") else result, float)


def _compare(name: str, what: str, got: np.ndarray, wanted: np.ndarray, rounding: float) -> None:
    off, size = float(np.linalg.norm(got - wanted)), float(np.linalg.norm(wanted))
    if not off <= CLOSE * size + rounding:
        raise ArithmeticError(f"{name}: the {what} are off by {off:.3g} of {size:.3g}")


class Measured(NamedTuple):
    """Seconds of a call in each round, by line and contender; on what machine."""

    machine: dict[str, Any]
    times: dict[str, dict[str, list[float]]]

    def median(self, contender: str) -> dict[str, float]:
        return {line: statistics.median(found[contender]) for line, found in self.times.items() if contender in found}

    @property
    def contenders(self) -> list[str]:
        return [name for name in CONTENDERS if self.median(name)]

    def within(self, line: str) -> float:
        """What fastbp takes as a multiple of what the line's bar allows: the median over the rounds."""
        bar, mine = BY_NAME[line].bar, self.times[line]["fastbp"]
        assert bar is not None
        base = self.times[bar.line]["fastbp"] if bar.line else mine
        limits = [bar.limit({bar.line: seconds} if bar.line else {}) for seconds in base]
        return statistics.median(a / b for a, b in zip(mine, limits))

    def over(self, line: str, contender: str) -> float:
        """How many times as long a contender takes."""
        found = self.times[line]
        return statistics.median(theirs / ours for theirs, ours in zip(found[contender], found["fastbp"]))

    def over_torch(self) -> float | None:
        """Of the faster of eager and compiled torch, in each line; their geometric mean."""
        best = [min(self.over(line, name) for name in ("torch", "torch.compile") if name in found)
                for line, found in self.times.items() if "torch" in found and "fastbp" in found]  # fmt: skip
        return geometric_mean(best) if best else None

    def markdown(self) -> str:
        """The table of a page."""
        medians = {name: self.median(name) for name in self.contenders}
        labels = {"fastbp": "fastbp", "jax": "JAX"} | {name: peer.label for name, peer in PEERS.items()}
        head = ["microseconds a call", *(labels[name] for name in medians), "fastest peer / fastbp"]
        rows = [head, ["---"] * len(head)]
        for line in self.times:
            theirs = [self.over(line, name) for name in medians if name != "fastbp" and line in medians[name]]
            times = [_microseconds(medians[name].get(line)) for name in medians]
            rows.append([line, *times, f"{min(theirs):.1f}x" if theirs else "-"])
        widths = [max(map(len, column)) for column in zip(*rows)]
        rows[1] = ["-" * width for width in widths]
        table = "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows)
        return f"{table}\n\n{textwrap.fill(self.how(), 120)}"

    def how(self) -> str:
        facts = self.machine
        packages = [f"{name} {facts[name]}" for name in ("numpy", "torch", "jax") if name in facts]
        torch = self.over_torch()
        best = ", the faster of eager and compiled," if "torch.compile" in self.contenders else ""
        mean = "" if torch is None else f" PyTorch{best} takes {torch:.1f} times as long in the geometric mean."
        return (
            f"Microseconds of a call on a network of {facts['network']}, batches of 64 rows and float32 unless a line "
            f"says otherwise; CPU time on one core ({facts['cpu']}, {facts['isa']} kernels), the median of "
            f"{facts['rounds']} interleaved rounds, {facts['date']}.{mean} {facts['compiler']}, Python "
            f"{facts['python']}, {', '.join(packages)}."
        )

    def bars(self) -> str:
        """Which bars hold."""
        lines = []
        for line in self.times:
            if (bar := BY_NAME[line].bar) and "fastbp" in self.times[line]:
                share = self.within(line)
                lines.append(f"{'ok    ' if share <= 1 else 'MISSED'} {share:5.2f} of {bar!s:<50} {line}")
        return "\n".join(lines)


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    value = seconds * 1e6
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}"


def measure(lines: tuple[Line, ...], names: list[str], rounds: int) -> Measured:
    """Results first, then rounds of all cells."""
    data, cells, skipped = Data(), {}, set()
    for name in names:
        for line in lines:
            if name in skipped:
                break
            try:
                cells[line.name, name] = Cell(line, name, data)
            except NotImplementedError:
                if name == "fastbp":  # whose statements are all here
                    raise
            except ImportError as error:
                skipped.add(name)
                _tell(f"{name} skipped: {error}")
    times: dict[str, dict[str, list[float]]] = {}
    for k in range(rounds):
        _tell(f"round {k + 1} of {rounds}")
        for (line_name, name), cell in cells.items():
            times.setdefault(line_name, {}).setdefault(name, []).append(cell.measured())
    ordered = {line.name: times[line.name] for line in lines if "fastbp" in times.get(line.name, ())}
    return Measured(machine() | {"network": "4-64-64-2", "rounds": rounds}, ordered)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(*arguments: str) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="a regular expression: lines whose names it finds")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help=f"some of {', '.join(CONTENDERS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", metavar="FILE", help="write all times")
    parser.add_argument("--from", metavar="FILE", dest="saved", help="do not measure, read such a file")
    parser.add_argument("--markdown", metavar="FILE", help="put the table into this page")
    options = parser.parse_args(arguments)
    if options.saved:
        found = Measured(**json.loads(Path(options.saved).read_text()))
    else:
        if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])  # before threads are made
        lines = tuple(line for line in LINES if re.search(options.only, line.name))
        names = [name for name in CONTENDERS if name in options.contenders.split(",")]
        found = measure(lines, names, options.rounds)
    print(found.markdown(), found.bars(), sep="\n\n")
    if options.json:
        Path(options.json).write_text(json.dumps(found._asdict()))
    if options.markdown:
        page = Path(options.markdown)
        parts = re.split("(<!-- figures: calls -->\n).*?(<!-- end of figures -->)", page.read_text(), flags=re.S)
        if len(parts) != 4:
            parser.error(f"{page} must say where the table goes: <!-- figures: calls --> ... <!-- end of figures -->")
        page.write_text(f"{parts[0]}{parts[1]}{found.markdown()}\n{parts[2]}{parts[3]}")


# ------------------------------------------------------------------ the bars


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Measured in a process of its own, on one core, where no other benchmark has set threads."""
    if backends.missing("cython"):
        pytest.skip("needs the engine")
    path = tmp_path_factory.mktemp("calls") / "calls.json"
    subprocess.run([sys.executable, __file__, "--json", str(path)], check=True, stdout=subprocess.DEVNULL)
    return Measured(**json.loads(path.read_text()))


@pytest.mark.parametrize("line", [line.name for line in LINES if line.bar])
def test_a_call_keeps_its_bar(line, found, capsys):
    with capsys.disabled():
        print(f"\n{line}: {found.median('fastbp')[line] * 1e6:.2f} us, {found.within(line):.2f} of the bar", end=" ")
    assert found.within(line) <= 1


@pytest.mark.parametrize("line", [line.name for line in LINES if line.theirs])
def test_fastbp_is_ahead_of_every_peer(line, found, capsys):
    over = {name: found.over(line, name) for name in found.contenders if name != "fastbp" and name in found.times[line]}
    with capsys.disabled():
        print(f"\n{line}: {', '.join(f'{name} {ratio:.1f}x' for name, ratio in over.items())}", end=" ")
    if not over:
        pytest.skip("no peer that has this line is installed")
    assert min(over.values()) > 1


def test_fastbp_is_ten_times_as_fast_as_torch(found):
    if found.over_torch() is None:
        pytest.skip("torch is not installed")
    assert found.over_torch() >= TORCH_AT_LEAST


if __name__ == "__main__":
    main(*sys.argv[1:])
