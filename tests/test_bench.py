"""The benchmark: who computes something else is not timed; what is written is read again; wrong words are told."""

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import every_case, missing_peer, need_extension

import fastbp
from fastbp import __main__ as command
from fastbp import backends
from fastbp.backends import threads
from fastbp.bench import growth, measure
from fastbp.bench.contenders import ALL, CONTENDERS, GROWTH, RULES, WORKLOADS, Batches, Problem, Workload, numpy_by_hand
from fastbp.bench.figures import ALONE, BESIDE, BRIEF, FOUR, PEERS, SHOWN, WAYS, Cell, Record

ROOT = Path(__file__).resolve().parents[1]

# ------------------------------------------------------------------ workloads and contenders


NEED_PEERS = ("torch", "jax step", "jax scan")
# `torch.compile` is torch's own steps, and takes half a minute to say so: `python -m fastbp bench --full` checks it
CHECKED = [pytest.param(name, marks=pytest.mark.peers if name in NEED_PEERS else ())
           for name in CONTENDERS if name != "torch.compile"]  # fmt: skip


@pytest.mark.parametrize("workload", WORKLOADS[:4], ids=lambda workload: workload.name)
@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("optimizer", RULES)
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_contender_that_is_here_computes_the_same(workload, optimizer, name, dtype, shuffle):
    if name == "fastbp numba" and not every_case and (workload is not WORKLOADS[0] or dtype != np.float32):
        pytest.skip("compiles for seconds; `python -m fastbp bench` checks it")
    if name == "fastbp":
        need_extension()
    problem = Problem(replace(workload, optimizer=optimizer, shuffle=shuffle), dtype)
    try:
        contender = CONTENDERS[name](problem)
    except ImportError as error:
        missing_peer(error) if name in NEED_PEERS else pytest.skip(str(error))
    except NotImplementedError as error:
        pytest.skip(str(error))
    assert measure.check(problem, contender) < 1e-2
    if (order := contender.order()) is not None:
        assert shuffle and sorted(order) == list(range(workload.rows)) and list(order) != sorted(order)
    else:  # fastbp draws what its reference draws
        assert not shuffle or name.startswith("fastbp")


def test_rows_come_in_a_new_order_in_each_epoch_where_a_workload_shuffles():
    plain = Batches(Problem(WORKLOADS[0]))
    assert [plain.rows() for _ in range(5)] == [slice(k, k + 8) for k in (0, 8, 16, 24, 0)] and plain.first() is None
    batches = Batches(Problem(replace(WORKLOADS[0], shuffle=True)))
    first, second = ([row for _ in range(4) for row in batches.rows()] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(32)) and first != second
    assert list(batches.first()) == first and batches.step == 8


def test_a_contender_that_only_says_it_shuffles_is_not_timed():
    problem = Problem(replace(WORKLOADS[1], shuffle=True))
    in_order = numpy_by_hand(Problem(WORKLOADS[1]))
    with pytest.raises(ArithmeticError, match="weights are off by"):
        measure.check(problem, in_order)  # which has no order of its own to show
    with pytest.raises(ArithmeticError, match="weights are off by"):
        measure.check(problem, in_order._replace(order=lambda: np.random.default_rng(3).permutation(1024)))
    with pytest.raises(ArithmeticError, match="every row once"):
        measure.check(problem, in_order._replace(order=lambda: np.zeros(1024, int)))


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("optimizer", RULES)
def test_who_has_bfloat16_computes_the_same_up_to_that(optimizer, name):
    if name == "fastbp" and backends.lacks_bfloat16("cython", backends.engine().choose_isa()):
        pytest.skip("this CPU has no AVX512-BF16")
    problem = Problem(replace(WORKLOADS[3], optimizer=optimizer, precision="bfloat16"))
    assert problem.workload.name.endswith(" bfloat16")
    try:
        contender = CONTENDERS[name](problem)
    except ImportError as error:
        missing_peer(error) if name in NEED_PEERS else pytest.skip(str(error))
    except NotImplementedError as error:
        assert name in ("fastbp numba", "numpy", "sklearn", "tf.v1") and "bfloat16" in str(error)
        return
    assert 1e-3 < measure.check(problem, contender)


def test_a_contender_that_computes_something_else_is_not_timed():
    problem = Problem(WORKLOADS[1])
    honest = numpy_by_hand(problem)
    lazy = honest._replace(run=lambda steps: honest.run(steps - 1))
    with pytest.raises(ArithmeticError, match="weights are off by"):
        measure.check(problem, lazy)


def test_a_contender_that_is_missing_is_left_out_with_a_line(monkeypatch):
    def missing(problem):
        raise ImportError("no such package")

    monkeypatch.setitem(CONTENDERS, "torch", missing)
    monkeypatch.setattr(measure, "CALL_SECONDS", 1e-4)
    lines = []
    times = measure.measure(Problem(WORKLOADS[0]), ("numpy", "torch"), 2, lines.append)
    assert lines == ["  torch skipped: no such package"]
    assert set(times) == {"numpy"} and len(times["numpy"]) == 2 and min(times["numpy"]) > 0


def test_every_contender_has_a_label_and_a_mark_of_its_own():
    assert ["fastbp", *BESIDE, *PEERS] == list(CONTENDERS)
    assert all(len({peer[k] for peer in PEERS.values()}) == len(PEERS) for k in range(3))
    assert set(SHOWN) < set(PEERS) and set(measure.QUICK) < set(CONTENDERS)


def test_flops_of_a_workload():
    assert Workload((7, 5, 3), 10, "relu", "mse", 100).flops == 2 * 2 * 10 * 7 * 5 + 3 * 2 * 10 * 5 * 3


# ------------------------------------------------------------------ a record


def cell(name="2-3-1 b8", dtype="float32", n_threads=1, median=None, **best):
    """Medians are far from the best, and in other proportions: who takes one for the other is off."""
    median = median or {name: (k + 2) * seconds * n_threads for k, (name, seconds) in enumerate(best.items())}
    return Cell(name, "identity, mse", dtype, 1e3, 100.0, best, median, n_threads)


MACHINE = {
    "date": "2026-11-29", "cpu": "some CPU, model 2", "cores": 8, "isa": "avx2", "compiler": "GCC 12", "python": "3.11",
    "numpy": "2.0",
}  # fmt: skip


@pytest.fixture
def record():
    second = cell("784-128-10 b32", **{"fastbp": 1e-4, "numpy": 4e-4, "jax scan": 2e-4, "torch": 8e-4})
    return Record(dict(MACHINE), 5, [cell(fastbp=1e-7, numpy=9e-6), second])


def test_a_record_is_read_as_it_was_written(record, tmp_path):
    path = str(tmp_path / "record.json")
    record.save(path)
    assert Record.load(path) == record
    assert set(json.loads((tmp_path / "record.json").read_text())) == {"machine", "rounds", "cells"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [{}]}', '{"cells": [], "rounds": 1}', '{"cells": 1}'])
def test_what_is_no_record_is_refused(text, tmp_path):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError, match="is no record of this benchmark"):
        Record.load(str(tmp_path / "record.json"))


def rows_of(table):
    return [[item.strip() for item in line.split("|")[1:-1]] for line in table.splitlines()]


def test_the_table_has_times_the_best_peer_and_the_share_of_the_peak(record):
    head, rule, *rows = rows_of(record.table(SHOWN))
    assert head == ["network", "activation, loss", "threads", "fastbp", "NumPy", "PyTorch", "JAX scan", "best peer",
                    "over best peer", "of peak"]  # fmt: skip
    assert all(set(item) == {"-"} for item in rule)
    assert rows == [
        ["2-3-1 b8", "identity, mse", "1", "0.100", "9.00", "-", "-", "9.00 (NumPy)", "90.00x", "10%"],
        ["784-128-10 b32", "identity, mse", "1", "100", "400", "800", "200", "200 (JAX scan)", "2.00x", "0%"],
    ]
    assert rows_of(Record({}, 1, [cell(fastbp=12345e-6)]).table(SHOWN))[2][2:] == ["1", "12,345", "-", "-", "0%"]
    assert rows_of(Record({}, 1, [cell(fastbp=2e-8, n_threads=2)]).table(SHOWN))[2][-1] == "25%"  # of two cores


def test_cells_in_another_way_have_rows_and_no_part_in_the_means(record):
    rounded = cell("784-128-10 b32 bfloat16", **{"fastbp": 5e-5, "torch": 5e-3})
    rounded.peak = 200.0
    more = replace(record, cells=[*record.cells, rounded, cell("2-3-1 b8 adam shuffled", fastbp=1e-7, numpy=1.0)])
    assert more.headline() == record.headline() and more.plain == record
    assert more.means() == record.means().replace("Geometric means:", "Geometric means of the 2 cells in plain SGD:")
    assert [c.precision for c in more.cells] == ["float32", "float32", "bfloat16", "float32"]
    text = " ".join(more.markdown().split())
    assert "in this run 100 GFLOP/s in float32, 200 GFLOP/s in bfloat16." in text
    assert f"unless the name says more (adam: Adam, shuffled: {WAYS['shuffled']}, bfloat16: {WAYS['bfloat16']})" in text
    assert "unless" not in record.markdown()
    only = replace(record, cells=[rounded])
    assert only.means() == "Geometric means: 100.00x the best peer of each cell, 100.0x PyTorch."


def test_a_cell_in_bfloat16_is_held_against_the_peak_of_such_products(monkeypatch):
    need_extension()
    if reason := backends.lacks_bfloat16("cython", backends.engine().choose_isa()):
        with pytest.raises(RuntimeError, match="no products in bfloat16"):
            measure.peak("bfloat16")
        pytest.skip(reason)
    assert 0.8 < measure.peak("bfloat16") / measure.peak() < 4
    monkeypatch.setattr(measure, "CALL_SECONDS", 1e-4)
    monkeypatch.setattr(measure, "peak", {"float32": 1.0, "bfloat16": 2.0}.get)
    monkeypatch.setattr(measure, "machine", lambda n_threads: {})
    pair = [replace(WORKLOADS[3], precision=precision) for precision in ("float32", "bfloat16")]
    record = measure.run(pair, ["fastbp"], 1, "float32", lambda line: None)
    assert [(c.precision, c.peak) for c in record.cells] == [("float32", 1.0), ("bfloat16", 2.0)]


def test_means_are_geometric_and_say_over_how_many_cells(record):
    assert record.means() == (
        "Geometric means: 13.42x the best peer of each cell, 19.0x NumPy, 8.0x PyTorch (1 of 2 cells), "
        "2.0x JAX scan (1 of 2 cells)."
    )
    assert Record({}, 1, [cell(fastbp=1.0)]).means() == "No peer was measured."


def test_speedups_are_of_cells_that_were_measured_with_one_thread_too(tmp_path):
    medians = {"fastbp": 4.0, "torch": 8.0}, {"fastbp": 2.0, "torch": 16.0, "numpy": 1.0}
    one = Record({}, 1, [cell(fastbp=1.0, torch=1.0, median=medians[0]), cell("other", fastbp=1.0)])
    two = Record({}, 1, [cell(n_threads=2, fastbp=1.0, torch=1.0, numpy=1.0, median=medians[1]),
                         cell("new", n_threads=2, fastbp=1.0)])  # fmt: skip
    both = one.joined(two)
    assert both.speedups() == [(two.cells[0], {"fastbp": 2.0, "torch": 0.5})]
    assert two.speedups() == one.speedups() == []
    two.cells[0].median[ALONE] = 3.0
    assert both.speedups()[0][1]["fastbp"] == 1.5  # against the one thread of the same run
    with pytest.raises(ValueError, match="no cell with one thread and with more"):
        two.scaling(str(tmp_path / "no.svg"))


def test_records_of_one_machine_are_joined(record):
    later = Record(MACHINE | {"date": "2026-12-24"}, 5, [cell(fastbp=3e-7), cell(n_threads=2, fastbp=1e-8)])
    joined = record.joined(later)
    assert [(c.name, c.n_threads, c.best["fastbp"]) for c in joined.cells] == [
        ("784-128-10 b32", 1, 1e-4), ("2-3-1 b8", 1, 3e-7), ("2-3-1 b8", 2, 1e-8),
    ]  # fmt: skip
    assert joined.machine["date"] == "2026-12-24" and joined.name == "some-cpu-model-2-avx2"
    assert joined.fewest == joined.with_threads(1) and later.with_threads(2).fewest.cells == later.cells[1:]


def test_figures_replace_what_stands_between_the_marks(record, tmp_path):
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- figures: one thread -->\nold\n<!-- end of figures -->\nafter\n"
                    "<!-- figures: headline -->\n<!-- end of figures -->\n")  # fmt: skip
    record.write_into(str(path))
    record.write_into(str(path))
    text = path.read_text()
    assert text.startswith("before\n<!-- figures: one thread -->\nMicroseconds of one step") and "old" not in text
    assert record.table(SHOWN) in text
    assert text.endswith(f"after\n<!-- figures: headline -->\n{record.headline()}\n<!-- end of figures -->\n")
    for part in ("some CPU, model 2, avx2 kernels", "best of 5", "2026-11-29", "GCC 12, Python 3.11, numpy 2.0"):
        assert part in " ".join(text.split())  # lines are filled
    mark = "<!-- figures: headline -->\n"
    unended = f"{mark}x\n{mark}y\n<!-- end of figures -->"
    for wrong in ("no marks", "<!-- figures: nonsense -->\n<!-- end of figures -->", unended):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="must say where figures go"):
            record.write_into(str(path))
        assert path.read_text() == wrong


@pytest.mark.parametrize("name", ["two threads", "meeting", "numba"])
def test_a_page_that_asks_for_what_a_record_lacks_stays_as_it_is(record, name, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(text := f"<!-- figures: {name} -->\nold\n<!-- end of figures -->\n")
    with pytest.raises(ValueError, match=f"page.md asks for {name}, and this record lacks"):
        record.write_into(str(path))
    assert path.read_text() == text


def test_records_of_two_machines_are_not_joined(record):
    with pytest.raises(ValueError, match="two kinds of machine are not joined: some-cpu-model-2-avx2 and other-avx2"):
        record.joined(Record(MACHINE | {"cpu": "other"}, 5, []))


def test_the_texts_of_readme(record):
    headline = " ".join(record.headline().split())
    assert "13.4 times as fast as the fastest of NumPy, PyTorch and JAX, and 8.0 times as fast as PyTorch" in headline
    assert "geometric means over 2 networks" in headline
    head, _, *rows = rows_of(record.short().partition("\n\n")[0])
    assert head == ["network, batch", "fastbp", "NumPy", "PyTorch", "JAX scan", "scikit-learn", "fastest peer / fastbp"]
    assert rows == [
        ["2-3-1 b8", "0.100", "9.00", "-", "-", "-", "90.00x"],
        ["784-128-10 b32", "100", "400", "800", "200", "-", "2.00x"],
    ]
    assert set(BRIEF) < {workload.name for workload in ALL} and set(FOUR) < set(PEERS)


PAGES = ("README.md", "docs/benchmark.md", "docs/numba.md", "docs/threads.md")
OF_ESTIMATORS = ROOT / "benchmarks" / "records" / "sklearn.json"  # of bench_sklearn.py
OF_MANY = ROOT / "benchmarks" / "records" / "many.json"  # of `python -m fastbp bench --many`
OF_GROWTH = ROOT / "benchmarks" / "records" / "growth.json"  # of `python -m fastbp bench --growth`
OF_NETWORKS = ROOT / "benchmarks" / "records" / "networks.json"  # of `python -m fastbp bench --many --networks ...`
OTHERS = {OF_ESTIMATORS, OF_MANY, OF_GROWTH, OF_NETWORKS}
RECORDS = sorted({*(ROOT / "benchmarks" / "records").glob("*.json")} - OTHERS)


@pytest.mark.parametrize("page", PAGES)
def test_published_figures_are_those_of_a_record(page, tmp_path):
    """`make figures` puts them there; nobody writes one by hand."""
    text, copy = (ROOT / page).read_text(), tmp_path / "page.md"
    assert text.count("<!-- figures: ") == text.count("<!-- end of figures -->") >= 1
    copy.write_text(re.sub("(<!-- figures: .*? -->).*?(<!-- end of figures -->)", r"\1\n\2", text, flags=re.S))
    made = []
    for record in RECORDS:
        Record.load(str(record)).write_into(str(copy))
        made.append(copy.read_text())
    assert text in made, "run `make figures`"


def test_against_an_earlier_run(record):
    earlier = Record({}, 1, [cell(fastbp=2e-7, torch=1.0), cell("784-128-10 b32", "float64", fastbp=1.0)])
    assert record.against(earlier).split() == "2-3-1 b8 of the time before: fastbp 0.500".split()
    assert "no cell in common" in record.against(Record({}, 1, []))


def test_the_picture_has_every_cell_and_peer(record, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "picture.svg"
    record.picture(str(path))
    text = path.read_text()
    for word in ("2-3-1 b8", "784-128-10 b32", "NumPy", "PyTorch", "JAX scan"):
        assert word in text
    record.picture(str(tmp_path / "again.svg"))
    assert (tmp_path / "again.svg").read_text() == text  # a new picture is a new figure


# ------------------------------------------------------------------ the command


@pytest.fixture
def run_bench(monkeypatch):
    """`python -m fastbp bench`, quick, without starting anew on one core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(measure, "CALL_SECONDS", 1e-4)
    monkeypatch.setattr(measure, "bandwidths", lambda: {"L2": 1.0})
    return lambda *arguments: command.main(["bench", *map(str, arguments)])


def test_the_command_measures_writes_reads_and_compares(run_bench, tmp_path, capsys, monkeypatch, isa):
    need_extension()
    monkeypatch.setenv("MKL_VERBOSE", "0")  # as any that may steer a peer
    saved, page = tmp_path / "saved.json", tmp_path / "page.md"
    chosen = ("--cells", "0,1", "--contenders", "numpy", "--rounds", 1, "--dtype", "float64")
    assert run_bench(*chosen, "--json", saved) == 0
    record = Record.load(str(saved))
    assert [c.name for c in record.cells] == [w.name for w in WORKLOADS[:2]]
    assert all(set(c.best) == {"fastbp", "numpy"} and c.dtype == "float64" and c.peak > 0 for c in record.cells)
    assert record.machine["isa"] == isa and record.machine["numpy"] == np.__version__ and record.rounds == 1
    out = capsys.readouterr().out
    assert record.table(["numpy"]) in out and record.means() in out and f"isa: {isa}" in out

    page.write_text("<!-- figures: one thread -->\n<!-- end of figures -->")
    assert run_bench("--from", saved, "--against", saved, "--markdown", page) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"of the time before: fastbp 1\.000, numpy 1\.000$", out, re.M)) == 2
    assert record.table(SHOWN) in page.read_text() and "MKL_VERBOSE=0" in page.read_text()


@pytest.mark.parametrize("missing", ["stdout", "stderr"])
def test_the_command_measures_without_a_console(run_bench, missing, tmp_path, capsys, monkeypatch):
    """What is told on the one that is not there is not told on the other."""
    need_extension()
    words = ["--cells", "0", "--rounds", "1", "--contenders", "numpy", "--json", str(tmp_path / "figures.json")]
    with monkeypatch.context() as console:
        console.setattr(sys, missing, None)
        assert run_bench(*words) == 0
    told = capsys.readouterr()
    assert (tmp_path / "figures.json").exists()
    assert ("| network" in told.out) == (missing != "stdout")
    assert ("2-3-1 b8 float32" in told.err) == (missing != "stderr") and "2-3-1 b8 float32" not in told.out


@pytest.mark.skipif(threads.available_cpus() < 2, reason="needs two CPUs")
def test_two_threads_are_compared_with_one_in_the_same_rounds(run_bench, tmp_path, monkeypatch):
    need_extension()
    monkeypatch.setattr(threads, "available_cpus", lambda: 2)
    one, two, picture = tmp_path / "one.json", tmp_path / "two.json", tmp_path / "threads.svg"
    chosen = ("--cells", 0, "--contenders", "numpy", "--rounds", 1)
    assert run_bench(*chosen, "--json", one) == 0
    assert run_bench(*chosen, "--threads", 2, "--json", two) == 0
    record = Record.load(str(two))
    assert record.cells[0].n_threads == 2 and set(record.cells[0].best) == {"fastbp", "numpy", ALONE}
    assert record.peers == ["numpy"] and record.machine["2 threads meet in ns"] > 0
    pytest.importorskip("matplotlib")
    assert run_bench("--from", one, two, "--scaling", picture) == 0
    assert "with 2 threads" in picture.read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--contenders", "nmupy"], "unknown name 'nmupy'; did you mean 'numpy'?"),
        (["--cells", "0,99"], "unknown name '99'"),
        (["--cells", "-1"], "expected one argument|unknown name '-1'"),
        (["--cells", "a"], "unknown name 'a'"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--threads", "1000000"], "threads=1000000: this process may use"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--rounds", "many"], "invalid literal"),
        (["--dtype", "float16"], "invalid choice: 'float16'"),
        (["--precision", "bf16"], "invalid choice: 'bf16'"),
        (["--precision", "bfloat16", "--dtype", "float64"], "they are for --dtype float32, got float64"),
        (["--json", "no/such/folder/x.json"], "there is no folder 'no/such/folder'"),
        (["--against", "missing.json"], "No such file"),
        (["--from", __file__], "is no record of this benchmark"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_wrong_words_are_told_before_anything_is_measured(run_bench, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_bench(*arguments)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("usage: python -m fastbp bench") and re.search(message, err.splitlines()[-1])


# ------------------------------------------------------------------ the command: many networks


@pytest.fixture
def few(monkeypatch):
    """The benchmark of many networks, with few of them."""
    from fastbp.bench import many

    for name, value in {"NETWORKS": 5, "EPOCHS": 3, "CALL_SECONDS": 0.001}.items():
        monkeypatch.setattr(many, name, value)
    return many


def test_contenders_of_many_networks_train_the_same_and_one_that_does_not_is_not_timed(few, monkeypatch):
    many = few
    problem, lines = many.Problem(many.Workload(3, networks=many.NETWORKS)), []
    names = ["fit_many", "fit_many, lanes=True", "loop of fit"]
    contenders, loss = many.check(problem, names, lines.append)
    assert [*contenders] == names and not lines and 0.1 < loss < 2
    first, alone = (contenders[name].weights() for name in ("fit_many", "loop of fit"))
    assert first.shape == alone.shape == (many.NETWORKS, problem.networks()[0].n_params)

    def wrong(problem):  # rates in another order
        problem.rates = problem.rates[::-1]
        return many.fastbp_loop(problem)

    monkeypatch.setitem(many.CONTENDERS, "loop of fit", wrong)
    with pytest.raises(ArithmeticError, match="loop of fit: parameters are off by"):
        many.check(many.Problem(many.Workload(3, networks=many.NETWORKS)), names, lines.append)


@pytest.mark.parametrize("name", ["scikit-learn, joblib", "torch.func", "JAX vmap"])
def test_peers_of_many_networks_train_the_same(few, name):
    pytest.importorskip({"scikit-learn, joblib": "sklearn", "torch.func": "torch", "JAX vmap": "jax"}[name])
    assert [*few.check(few.Problem(few.Workload(3, networks=few.NETWORKS)), [name], print)[0]] == [name]


def test_the_command_measures_many_networks_and_writes_what_it_measured(few, run_bench, tmp_path, capsys):
    many = few
    pytest.importorskip("matplotlib")
    saved, page, picture = tmp_path / "many.json", tmp_path / "page.md", tmp_path / "many.svg"
    page.write_text("<!-- many: table -->\n<!-- end of many -->\n<!-- many: million -->\n<!-- end of many -->\n")
    chosen = "--widths", "2,8", "--rounds", 1, "--contenders", "loop of fit", "--json", saved
    assert run_bench("--many", *chosen) == 0
    assert "a loop of fit" in capsys.readouterr().out
    assert run_bench("--many", "--from", saved, "--markdown", page, "--picture", picture) == 0
    record = many.Record.load(str(saved))
    assert [cell.width for cell in record.cells] == [2, 8] and record.names == ["fit_many", "loop of fit"]
    assert all(cell.best[name] >= cell.median[name] > 0 for cell in record.cells for name in record.names)
    text = page.read_text()
    assert "10-8-1 b32 relu, Adam" in text and "computed from the table" in text
    assert "units of the hidden layer" in picture.read_text()
    with pytest.raises(SystemExit):
        run_bench("--many", "--contenders", "nobody")
    assert "nobody" in capsys.readouterr().err


def test_more_and_more_networks_at_once_are_measured_and_drawn(few, run_bench, tmp_path):
    pytest.importorskip("matplotlib")
    saved, picture = tmp_path / "networks.json", tmp_path / "networks.svg"
    chosen = "--widths", 8, "--networks", "1,3", "--rounds", 1, "--contenders", "loop of fit", "--json", saved
    assert run_bench("--many", *chosen, "--picture", picture) == 0
    cells = few.Record.load(str(saved)).cells
    assert [(cell.width, cell.networks) for cell in cells] == [(8, 1), (8, 3)]
    assert "networks at once" in picture.read_text()
    assert "| 3 of 10-8-1 b32" in few.Record.load(str(saved)).markdown()


def test_published_figures_of_many_networks_are_those_of_their_record(tmp_path):
    from fastbp.bench import many

    text, copy = (ROOT / "docs" / "many.md").read_text(), tmp_path / "page.md"
    copy.write_text(re.sub("(<!-- many: .*? -->).*?(<!-- end of many -->)", r"\1\n\2", text, flags=re.S))
    many.Record.load(str(OF_MANY)).write_into(str(copy))
    assert copy.read_text() == text, "run `make figures`"


# ------------------------------------------------------------------ the command: networks that grow, two records


@pytest.fixture
def grown():
    """A record of networks that grow, in round numbers: all take as long but at width 4, and a peer there less."""
    cells = []
    for workload in {workload: None for axis in GROWTH.values() for workload in axis.values()}:
        best = {"fastbp": 1e-6, "numpy": 2e-6, "torch": 3e-6} | ({"numpy": 5e-7} if "-4-4-" in workload.name else {})
        memory = {"fastbp": 50.0, "torch": 300.0} if workload in GROWTH["width"].values() else {}
        cells.append(growth.Cell(workload.name, "relu, mse", "float32", 1e3, 100.0, best, best, 1, memory))
    return growth.Record(dict(MACHINE), 5, cells)


def test_along_an_axis_one_thing_of_the_network_changes():
    changes = {"width": lambda w: w.sizes[1], "batch": lambda w: w.batch, "depth": lambda w: len(w.sizes) - 2}
    assert {*changes} == {*GROWTH} == {*growth.AXES}
    for axis, of in changes.items():
        assert [*GROWTH[axis]] == [of(workload) for workload in GROWTH[axis].values()] == sorted(GROWTH[axis])
        assert all(workload.rows % workload.batch == 0 for workload in GROWTH[axis].values())
    (base,) = set.intersection(*({*axis.values()} for axis in GROWTH.values()))
    assert base.name == "32-64-64-1 b32"


def test_growth_is_read_as_it_was_written_told_and_drawn(grown, run_bench, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    saved, page, picture = tmp_path / "growth.json", tmp_path / "page.md", tmp_path / "growth.svg"
    grown.save(str(saved))
    page.write_text("<!-- growth: how -->\n<!-- end of growth -->\n<!-- growth: closest -->\n<!-- end of growth -->\n")
    assert run_bench("--growth", "--from", saved, "--markdown", page, "--picture", picture) == 0
    assert growth.Record.load(str(saved)) == grown and "| 32-64-64-1 b32" in capsys.readouterr().out
    assert "32-4-4-1 b32 (NumPy: 0.50x), " in page.read_text() and "some CPU, model 2" in page.read_text()
    shown = picture.read_text()
    for words in (*growth.AXES.values(), "microseconds of a step", "MB of the process", "PyTorch"):
        assert f">{words}</text>" in shown
    assert [peer.label for peer, _ in grown.lines("width", "memory")] == ["fastbp", "PyTorch"]
    assert dict(grown.lines("batch", "best"))[growth.OURS] == [(b, 1.0) for b in GROWTH["batch"]]


def test_growth_is_measured_in_time_and_in_memory(run_bench, tmp_path, monkeypatch):
    need_extension()
    small = {"width": {w: WORKLOADS[k] for k, w in enumerate((3, 16))}, "batch": {16: WORKLOADS[1]}, "depth": {}}
    monkeypatch.setattr(growth, "GROWTH", small)
    saved = tmp_path / "growth.json"
    assert run_bench("--growth", "--contenders", "numpy", "--rounds", 1, "--json", saved) == 0
    cells = growth.Record.load(str(saved)).cells
    assert [cell.name for cell in cells] == [workload.name for workload in WORKLOADS[:2]]
    for cell in cells:
        assert {*cell.best} == {"fastbp", "numpy"} and all(seconds > 0 for seconds in cell.best.values())
        if sys.platform == "linux":
            assert {*cell.memory} == {*cell.best} and all(10 < mb < 1000 for mb in cell.memory.values())


def test_two_records_are_compared_cell_by_cell_with_their_machines(record, grown, run_bench, tmp_path, capsys):
    first, second, other = (str(tmp_path / f"{name}.json") for name in ("first", "second", "other"))
    record.save(first)
    Record(MACHINE | {"isa": "avx512", "torch": "2.6"}, 7, [cell(fastbp=5e-8, numpy=9e-6)]).save(second)
    grown.save(other)
    assert run_bench("--compare", first, second) == 0
    rows = [re.split(r" +\| +", line.strip("| ")) for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    for row in (["isa", "avx2", "avx512"], ["torch", "-", "2.6"], ["rounds", "5", "7"], ["workload", "fastbp", "numpy"],
                ["2-3-1 b8, float32, 1", "0.500", "1.000"]):  # fmt: skip
        assert row in rows, row
    for pair, words in (((first, other), "no cell in common"), ((first, tmp_path / "no.json"), "No such file")):
        with pytest.raises(SystemExit):
            run_bench("--compare", *pair)
        assert words in capsys.readouterr().err


def test_published_growth_is_that_of_its_record(tmp_path):
    text, copy = (ROOT / "docs" / "benchmark.md").read_text(), tmp_path / "page.md"
    copy.write_text(re.sub("(<!-- growth: .*? -->).*?(<!-- end of growth -->)", r"\1\n\2", text, flags=re.S))
    growth.Record.load(str(OF_GROWTH)).write_into(str(copy))
    assert copy.read_text() == text, "run `make bench-page`"


# ------------------------------------------------------------------ benchmarks/: single calls


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("bench_calls")


def test_single_calls_are_measured_and_put_into_a_page(tmp_path):
    need_extension()
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures: calls -->\nold\n<!-- end of figures -->\nafter\n")
    command = [sys.executable, str(ROOT / "benchmarks" / "bench_calls.py"), "--contenders", "fastbp,numpy"]
    command += ["--rounds", "1", "--only", "^predict, one row$|^train_step(, clip_norm)?$", "--markdown", str(page)]
    environment = os.environ | {"PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    text = page.read_text()
    assert text.startswith("before\n<!-- figures: calls -->\n|") and text.endswith("\n<!-- end of figures -->\nafter\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == ["microseconds a call", "fastbp", "NumPy", "fastest peer / fastbp"]
    assert [row[0] for row in rows[2:]] == ["predict, one row", "train_step", "train_step, clip_norm"]
    assert all(0 < float(cell.rstrip("x")) < 1e6 for row in rows[2:] for cell in row[1:])
    assert "of 1.5x train_step" in done.stdout and "4-64-64-2" in text


def test_every_line_of_single_calls_computes_what_the_reference_does(calls, monkeypatch):
    need_extension()
    monkeypatch.setattr(calls.Cell, "_number", lambda cell: 1)
    data, seen = calls.Data(), 0
    for line in calls.LINES:
        for name in ("fastbp", "numpy"):
            try:
                seen += calls.Cell(line, name, data).number
            except NotImplementedError:
                assert name == "numpy"
    assert seen > 50


def test_a_loop_that_computes_something_else_is_not_timed(calls, monkeypatch):
    need_extension()
    made = calls.CONTENDERS["numpy"]
    monkeypatch.setitem(calls.CONTENDERS, "lazy", lambda data: made(data) | {"step": lambda x, y: 0.0})
    with pytest.raises(ArithmeticError, match="train_step: the result"):
        calls.Cell(calls.BY_NAME["train_step"], "lazy", calls.Data())


def test_bars_of_single_calls(calls):
    us = 1e-6
    times = {"train_step": [10 * us, 20 * us, 10 * us], "train_step, clip_norm": [12 * us, 45 * us, 12 * us]}
    times |= {"fit of an array, a batch of 8 rows": [3 * us] * 3, "MLP(...)": [90 * us] * 3}
    times |= {"fit of a list of 1,000 batches of 8 rows": [4 * us] * 3}
    both = {line: {"fastbp": mine, "torch": [2 * s for s in mine]} for line, mine in times.items()}
    found = calls.Measured({}, both)
    assert found.within("train_step, clip_norm") == pytest.approx(0.8)
    assert found.within("fit of a list of 1,000 batches of 8 rows") == pytest.approx(0.8)
    assert found.within("MLP(...)") == pytest.approx(1.5)
    assert found.over_torch() == pytest.approx(2) and "MISSED  1.50 of 60 us" in found.bars()


# ------------------------------------------------------------------ benchmarks/: the estimators


@pytest.fixture
def estimators(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("bench_sklearn")


@pytest.mark.parametrize("page", ["README.md", "docs/sklearn.md"])
def test_published_figures_of_the_estimators_are_those_of_their_record(estimators, page, tmp_path):
    """`make figures` puts them there; nobody writes one by hand."""
    text, copy = (ROOT / page).read_text(), tmp_path / "page.md"
    assert text.count("<!-- sklearn: ") == text.count("<!-- end of sklearn -->") >= 1
    copy.write_text(re.sub("(<!-- sklearn: .*? -->).*?(<!-- end of sklearn -->)", r"\1\n\2", text, flags=re.S))
    estimators.Measured(**json.loads(OF_ESTIMATORS.read_text())).write_into(copy)
    assert copy.read_text() == text, "run `make figures`"
    copy.write_text("<!-- sklearn: nonsense -->\n<!-- end of sklearn -->")
    with pytest.raises(ValueError, match="NAME of example, fits, others, scores; it asks for nonsense"):
        estimators.Measured({}, {}, {}, {}).write_into(copy)


def test_the_picture_of_the_estimators_has_every_fit_of_the_table(estimators, tmp_path):
    pytest.importorskip("matplotlib")
    found, path = estimators.Measured(**json.loads(OF_ESTIMATORS.read_text())), tmp_path / "picture.svg"
    found.picture(str(path))
    for text in (path.read_text(), (ROOT / "docs" / "sklearn.svg").read_text()):
        words = [f"{data}  (batch {batch})" for data in estimators.ADAM for batch in estimators.BATCHES]
        words += [f"{found.over(f'adam, {data}, batch 32'):.1f}x" for data in estimators.ADAM]
        assert [word for word in words if f">{word}</text>" not in text] == []


def test_estimators_are_measured_and_a_record_is_gone_on_with(tmp_path):
    need_extension()
    pytest.importorskip("sklearn")
    saved = tmp_path / "saved.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "bench_sklearn.py"), "--json", str(saved), "--rounds", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
    for more in (["--only", "^a fit of one epoch|^predict of one row, iris"],
                 ["--only", "^partial_fit of 32 rows, iris", "--from", str(saved)]):  # fmt: skip
        done = subprocess.run([*command, *more], env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-4000:]
    times = json.loads(saved.read_text())["times"]
    assert list(times) == ["a fit of one epoch, iris", "predict of one row, iris", "partial_fit of 32 rows, iris"]
    assert all({"scikit-learn", "float64", "float32"} <= {*line} and line["float64"][0] > 0 for line in times.values())
    assert "a copy of the coefficients + 4 us" in done.stdout and "of the bar 3x" in done.stdout


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning")
def test_an_estimator_that_computes_something_else_is_not_timed(estimators, monkeypatch):
    need_extension()
    lines = [estimators.BY_NAME[name] for name in (
        "adam, iris, batch 32", "partial_fit of 32 rows, iris", "predict of one row, diabetes")]  # fmt: skip
    cells = [line.make()[0] for line in lines]
    assert [{*cell} >= {"scikit-learn", "float64"} for cell in cells] == [True] * 3
    make = estimators.Task.make
    monkeypatch.setattr(estimators.Task, "make", lambda it, who, **params: make(
        it, who, **{**params, "alpha": 1.0 if who == "float64" else 1e-4}))  # fmt: skip
    for line in lines:
        with pytest.raises(ArithmeticError, match="not the same|other predictions"):
            line.make()


def test_bars_of_the_estimators(estimators):
    us = 1e-6
    times = {"adam, iris, batch 32": {"scikit-learn": [190 * us, 200 * us], "float64": [20 * us, 10 * us],
                                      "float32": [10 * us, 10 * us]}}  # fmt: skip
    times["predict of one row, iris"] = {
        "scikit-learn": [100 * us], "float64": [8 * us], "a copy of the coefficients": [1 * us]
    }  # fmt: skip
    seen = {"adam, iris, batch 32": {"epochs": {"scikit-learn": 100, "float64": 100, "float32": 103}}}
    scores = {"iris": {"score": {"scikit-learn": [0.8, 1.0], "float64": [0.8, 1.0], "float32": [0.7, 0.8]},
                       "epochs": {"scikit-learn": [200, 10], "float64": [200, 10], "float32": [203, 12]}}}  # fmt: skip
    found = estimators.Measured({}, times, seen, scores)
    assert found.over("adam, iris, batch 32") == pytest.approx(19)
    assert found.share("adam, iris, batch 32", "float64") == pytest.approx(1)
    assert found.share("adam, iris, batch 32", "float32") == pytest.approx(27 / 19)
    assert found.share("predict of one row, iris", "float64") == pytest.approx(8 / 5)
    assert found.epochs_off() == {"adam, iris, batch 32": (100, 103), "2 seeds, iris": (10, 12)}
    assert found.worse("iris", "float32") == pytest.approx(1.5) and found.worse("iris", "float64") == 0
    told = found.bars().splitlines()
    assert [line[:6] for line in told] == ["ok    ", "MISSED", "MISSED", "MISSED", "ok    ", "ok    ", "MISSED"]
