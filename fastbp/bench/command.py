"""``python -m fastbp bench``: its command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

from fastbp import backends, checks
from fastbp.backends import threads
from fastbp.backends.config import requested_isa
from fastbp.bench import contenders, measure
from fastbp.bench.figures import Record
from fastbp.spec import MATMUL_PRECISIONS


def bench(*arguments: str) -> None:
    """Time a training step of each workload, on one core, beside what is installed of its peers."""
    for word, other in (("--many", _many), ("--growth", _growth), ("--compare", _compare)):
        if word in arguments:
            return other([one for one in arguments if one != word])
    cells = ", ".join(f"{k} is {workload.name}" for k, workload in enumerate(contenders.ALL))
    parser = argparse.ArgumentParser(prog="python -m fastbp bench", description=bench.__doc__)
    record, out = _told(Record.load), _told(_in_a_folder)
    parser.add_argument("--many", action="store_true", help="many networks at once instead: --many --help tells more")
    parser.add_argument("--growth", action="store_true", help="how time and memory grow instead: --growth --help")
    parser.add_argument("--compare", action="store_true", help="two records instead: --compare FIRST SECOND")
    parser.add_argument("--full", action="store_true", help="every cell and every peer, more rounds")
    parser.add_argument("--cells", type=_told(contenders.cells), help=f"numbers of cells, as 0,3,5: {cells}")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    told = parser.add_argument_group("of every cell, whatever its own")
    told.add_argument("--optimizer", choices=tuple(contenders.RULES), help="sgd where a cell does not say")
    told.add_argument("--precision", choices=MATMUL_PRECISIONS,
                      help="of matrix products; bfloat16 is for --dtype float32, on CPUs that have it")  # fmt: skip
    told.add_argument("--shuffle", action="store_const", const=True, help="rows in an order drawn for each epoch")
    known = ", ".join(contenders.CONTENDERS)
    parser.add_argument("--contenders", type=_told(contenders.contenders), help=f"some of {known}")
    parser.add_argument("--threads", type=_told(_threads), default=1, help="that each contender may use; 1 unless told")
    parser.add_argument("--rounds", type=_told(_rounds), help="interleaved rounds")
    parser.add_argument("--json", metavar="FILE", type=out, help="write all figures")
    parser.add_argument("--against", metavar="FILE", type=record, help="compare with figures written before")
    parser.add_argument("--from", metavar="FILE", type=record, dest="saved", nargs="+",
                        help="do not measure, read such a file, or several of one machine")  # fmt: skip
    parser.add_argument("--markdown", metavar="FILE", type=out, nargs="+", help="replace the figures in texts")
    parser.add_argument("--scaling", metavar="FILE", type=out, help="draw what threads gain over one")
    parser.add_argument("--picture", metavar="FILE", type=out, help="draw the peers beside fastbp; needs matplotlib")
    options = parser.parse_args(arguments)
    try:
        measured = reduce(Record.joined, options.saved) if options.saved else _measure(options)
        print(measured.table(measured.peers), measured.means(), measured.facts(), sep="\n")
        if options.against:
            print(measured.against(options.against))
        if options.scaling:
            measured.scaling(options.scaling)
        _write(measured, options)
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))


def _record_options(parser: argparse.ArgumentParser, load: Callable[[str], Any]) -> None:
    """The options that `--many` and `--growth` share: how long to measure, and what becomes of the record."""
    out = _told(_in_a_folder)
    parser.add_argument("--full", action="store_true", help="more rounds")
    parser.add_argument("--rounds", type=_told(_rounds), help="interleaved rounds")
    parser.add_argument("--json", metavar="FILE", type=out, help="write all figures")
    parser.add_argument("--from", metavar="FILE", type=_told(load), dest="saved", help="do not measure")
    parser.add_argument("--markdown", metavar="FILE", type=out, nargs="+", help="replace the figures in texts")
    parser.add_argument("--picture", metavar="FILE", type=out, help="draw it; needs matplotlib")


def _many(arguments: list[str]) -> None:
    """``--many``: networks trained in a second, many at once."""
    from fastbp.bench import many

    parser = argparse.ArgumentParser(prog="python -m fastbp bench --many", description=_many.__doc__)
    parser.add_argument("--widths", type=_told(_widths), default=many.WIDTHS, help="of the hidden layer, as 4,8,16")
    known = ", ".join(many.CONTENDERS)
    parser.add_argument("--networks", type=_told(_widths), default=(many.NETWORKS,), help="at once, as 1,4,16")
    parser.add_argument("--contenders", type=_told(many.contenders), help=f"some of {known}; separated by semicolons")
    _record_options(parser, many.Record.load)
    options = parser.parse_args(arguments)
    try:
        measured = options.saved
        if not measured:
            _on_cores(1)
            rounds = options.rounds or (7 if options.full else 3)
            names = options.contenders or tuple(many.CONTENDERS)
            measured = many.run(options.widths, names, rounds, _report, options.networks)
        print(measured.markdown())
        _write(measured, options)
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))


def _growth(arguments: list[str]) -> None:
    """``--growth``: how the time of a step and the memory of a process grow with a network."""
    from fastbp.bench import growth

    parser = argparse.ArgumentParser(prog="python -m fastbp bench --growth", description=_growth.__doc__)
    axes = tuple(growth.AXES)
    parser.add_argument("--along", choices=axes, nargs="+", default=axes, help="what grows; all unless told")
    parser.add_argument("--contenders", type=_told(contenders.contenders), help="as of the benchmark itself")
    _record_options(parser, growth.Record.load)
    options = parser.parse_args(arguments)
    try:
        measured = options.saved
        if not measured:
            _on_cores(1)
            rounds = options.rounds or (5 if options.full else 3)
            measured = growth.run(options.along, options.contenders or growth.NAMES, rounds, _report)
        print(measured.table(measured.peers), measured.facts(), sep="\n")
        _write(measured, options)
    except (OSError, ValueError, ImportError) as error:
        parser.error(str(error))


def _compare(arguments: list[str]) -> None:
    """``--compare``: two records of one kind, the machines and versions of both, and cell by cell their ratios."""
    from fastbp.bench import growth, many

    def load(path: str) -> Any:
        for kind in (Record, growth.Record, many.Record):
            try:
                return kind.load(path)
            except ValueError as error:
                told = error
        raise told

    parser = argparse.ArgumentParser(prog="python -m fastbp bench --compare", description=_compare.__doc__)
    parser.add_argument("first", type=_told(load), help="a file that --json has written")
    parser.add_argument("second", type=_told(load), help="another")
    options = parser.parse_args(arguments)
    try:
        print(options.second.compared(options.first))
    except ValueError as error:
        parser.error(str(error))


def _write(measured: Any, options: argparse.Namespace) -> None:
    """A record of either benchmark into the files that it was asked for."""
    if options.json:
        measured.save(options.json)
    for page in options.markdown or ():
        measured.write_into(page)
    if options.picture:
        measured.picture(options.picture)


def _on_cores(n: int) -> None:
    """A core for each thread, from the start: BLAS counted the cores when it was loaded."""
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > n:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-n:])
        os.execv(sys.executable, sys.orig_argv)


def _measure(options: argparse.Namespace) -> Record:
    told = {word: getattr(options, word) for word in ("optimizer", "precision", "shuffle")}
    told = {word: value for word, value in told.items() if value is not None}
    workloads = options.cells or (contenders.ALL if options.full else contenders.WORKLOADS[:8])
    workloads = tuple(dict.fromkeys(replace(workload, **told) for workload in workloads))
    if reason := _lacks_bfloat16(options.dtype):
        served = tuple(workload for workload in workloads if workload.precision != "bfloat16")
        if served != workloads and (options.cells or "precision" in told):
            raise ValueError(f"products in bfloat16: {reason}")
        if served != workloads:
            _report(f"workloads in bfloat16 are left out: {reason}")
        workloads = served
    _on_cores(options.threads)
    names = options.contenders or (tuple(contenders.CONTENDERS) if options.full else measure.QUICK)
    rounds = options.rounds or (7 if options.full else 3)
    return measure.run(workloads, names, rounds, options.dtype, _report, options.threads)


def _lacks_bfloat16(dtype: str) -> str | None:
    """Why no product can be in bfloat16 here, or None."""
    if dtype != "float32":
        return f"they are for --dtype float32, got {dtype}"
    engine = backends.engine()
    return None if engine is None else backends.lacks_bfloat16("cython", engine.choose_isa(requested_isa()))


def _report(line: str) -> None:
    if sys.stderr is not None:  # which `print` takes for standard output
        print(line, file=sys.stderr, flush=True)


def _told(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """`convert` for argparse, which hides the words of any error but its own."""
    def converted(text: str) -> Any:
        try:
            return convert(text)
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted


def _threads(text: str) -> int:
    wanted, cpus = checks.integer("threads", int(text), 1), threads.available_cpus()
    if wanted > cpus:
        raise ValueError(f"threads={wanted}: this process may use {cpus} CPUs")
    return wanted


def _widths(text: str) -> tuple[int, ...]:
    return tuple(checks.integer("widths and networks", int(width), 1) for width in text.split(","))


def _rounds(text: str) -> int:
    return checks.integer("rounds", int(text), 1)


def _in_a_folder(path: str) -> str:
    """`path`, checked before minutes of measuring: where it lies there is a folder."""
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise ValueError(f"there is no folder {os.path.dirname(path)!r}")
    return path
