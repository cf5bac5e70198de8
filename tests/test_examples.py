"""What readers see is so: examples, the code in README.md and docs/, docstrings, the tree in CONTRIBUTING.md."""

import contextlib
import doctest
import importlib
import io
import os
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_mpi
from tolerance import assert_close

import fastbp
from fastbp import activations, backends, losses, optimizers

ROOT = Path(__file__).resolve().parents[1]
IMPORTED_FROM = Path(fastbp.__file__).resolve().parents[1]
NUMBER = r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?"


@pytest.fixture
def example(tmp_path):
    """Runs an example by name in a fresh interpreter, in an empty folder, and gives what it prints.

    With `picture` that file is there afterwards, and nothing else.
    """

    def run(name, picture=None):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FASTBP_")}
        environment["PYTHONPATH"] = str(IMPORTED_FROM)
        command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *([picture] if picture else [])]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stderr == "" or picture  # matplotlib tells when it looks for fonts
        assert [path.name for path in tmp_path.iterdir()] == ([picture] if picture else [])
        return done.stdout

    return run


def number_after(words, text):
    """The number that follows `words`, which must stand in `text` once."""
    (found,) = re.findall(rf"{re.escape(words)}\D*?({NUMBER})", text)
    return float(found)


# ------------------------------------------------------------------ the examples


def test_every_example_is_tested():
    tested = set(re.findall(r'example\("(\w+)"\)', Path(__file__).read_text())) | set(test_mpi.EXAMPLES)
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == tested


def test_bp_demo_prints_the_numbers_of_the_original(example):
    out = example("bp_demo")
    lines = re.findall(r"^After (\d+) training step\(s\), loss_mse on all data is (\S+)$", out, re.M)
    assert lines == [
        ("0", "5.13118"), ("500", "0.429111"), ("1000", "0.409789"),
        ("1500", "0.399923"), ("2000", "0.394146"), ("2500", "0.390597"),
    ]  # fmt: skip
    before, _, after = out.partition("After 0 ")
    for text, w1, w2 in (
        (
            before,
            [[-0.8113182, 1.4845988, 0.06532937], [-2.4427042, 0.0992484, 0.5912243]],
            [[-0.8113182], [1.4845988], [0.06532937]],
        ),
        (
            after,
            [[-0.7000663, 0.9136317, 0.0895357], [-2.3402493, -0.1464127, 0.5882305]],
            [[-0.0602427], [0.9195619], [-0.0682071]],
        ),
    ):
        printed = text.partition("w1:")[2].partition("fit:")[0]
        first, second = ([float(word) for word in re.findall(NUMBER, part)] for part in printed.split("w2:"))
        assert_close(np.reshape(first, (2, 3)), w1, np.float32)
        assert_close(np.reshape(second, (3, 1)), w2, np.float32)
    assert "fit: the same bits as the loop: True" in out
    assert number_after("\nfit: ", out.replace("fit: the same", "")) > 0


def test_mazur_prints_the_true_numbers_and_shows_where_the_wrong_ones_come_from(example):
    right, _, wrong = example("mazur").partition("the wrong order")
    weights = (
        "0.149780716", "0.199561432", "0.249751144", "0.299502287",
        "0.358916480", "0.408666186", "0.511301270", "0.561370121",
    )  # fmt: skip
    assert re.findall(r"^w(\d) after one step +(\S+)$", right, re.M) == [
        (str(k), w) for k, w in enumerate(weights, start=1)
    ]
    assert re.search(r"^error before any step +0\.298371109$", right, re.M)
    assert re.search(r"^error after one step +0\.291027774$", right, re.M)
    assert re.search(r"^outputs after 10000 steps +0\.015913620 0\.984064274$", right, re.M)
    assert re.search(r"^biases +\[0\.35, 0\.35\] \[0\.6, 0\.6\]$", right, re.M)
    assert re.search(r"^error after one step +0\.291027924$", wrong, re.M)
    assert re.search(r"^outputs after 10000 steps +0\.015912196 0\.984065734$", wrong, re.M)


def test_xor_is_learnt(example):
    out = example("xor")
    table = [(int(a), int(b), int(wanted), float(p), int(answer)) for a, b, wanted, p, answer in
             re.findall(rf"^ (\d)  (\d) +(\d) +({NUMBER}) +(\d)$", out, re.M)]  # fmt: skip
    assert [row[:2] for row in table] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for a, b, wanted, p, answer in table:
        assert wanted == answer == a ^ b
        assert abs(p - wanted) < 0.01
    first, last = map(float, re.search(rf"^loss ({NUMBER}) -> ({NUMBER})$", out, re.M).groups())
    assert "2000 steps in" in out
    assert last < 0.01 < 0.5 < first


def test_digits_reach_97_percent(example):
    pytest.importorskip("sklearn")
    out = example("digits")
    assert number_after("test accuracy", out) >= 0.97
    assert "1347 images to train on, 450 to test on" in out
    steps, seconds = re.search(rf"^(\d+) steps in ({NUMBER}) seconds$", out, re.M).groups()
    assert int(steps) == 30 * 43 and float(seconds) > 0


def test_with_all_defaults_digits_reach_96_percent_and_with_sgd_they_do_not():
    datasets, selection = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.model_selection")
    X, y = datasets.load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = selection.train_test_split(
        X / 16, y, test_size=0.25, random_state=0, stratify=y
    )
    right = {}
    for options in ({}, {"optimizer": "sgd"}):
        net = fastbp.MLP((64, 128, 64, 10), seed=0)
        net.fit(X_train, y_train, loss="softmax_cross_entropy", epochs=30, **options)
        right[options.get("optimizer")] = (net.predict(X_test).argmax(axis=1) == y_test).mean()
    assert right[None] > 0.96 and right["sgd"] < 0.7  # docs/optimizers.md: 98 % and 57 %, of 12 seeds


def test_a_gradient_of_ones_own_is_right_and_trains(example):
    out = example("own_gradient")
    assert out.startswith("49 gradients, ")
    assert number_after("finite differences:", out) < 1e-8
    losses = re.search(rf"^Huber loss after 2000 steps: ({NUMBER}), in one pass ({NUMBER})$", out, re.M).groups()
    assert losses[0] == losses[1]
    assert_close(number_after("difference of a parameter:", out), 0.0, np.float64, scale=1)
    # Six wild points of 64 pull the squares away, and Huber's loss not.
    assert 5 * number_after("clean sine, Huber:", out) < number_after("clean sine, squares:", out)


def test_an_activation_and_a_loss_of_ones_own_train(example):
    out = example("own_activation")
    wrong = "activation 'wrong': backward is wrong at z = 0.001: it gives 0.001, finite differences give 0.002"
    assert out.startswith(wrong)
    # Six wild points of 64 pull the squares away, and log cosh less.
    assert 2 * number_after("my_log_cosh: at most", out) < number_after("mse: at most", out)


def test_a_pole_on_a_cart_is_balanced(example):
    """Which way a run goes depends on rounding: of eight seeds the worst ended at 108, others at 167 to 500."""
    out = example("dqn")
    found = re.findall(rf"episodes ({NUMBER}), the last 20 ({NUMBER})\nwithout random pushes ({NUMBER}),", out)
    assert len(found) == 2 and out.count("20000 steps of the cart in") == 2  # by train_step, by a gradient
    for first, last, balanced in found:
        assert float(first) < 40 and float(last) > 80 and 80 < float(balanced) <= 500


def test_networks_of_an_ensemble_differ_where_there_are_no_points(example):
    out = example("ensemble")
    found = re.findall(rf"^(.*), at +({NUMBER}): +({NUMBER}) \+- ({NUMBER}), the sine is +({NUMBER})$", out, re.M)
    mean, std, sine = ({row[0]: float(row[k]) for row in found} for k in (2, 3, 4))
    assert list(std) == ["among the points", "in the gap", "beyond the ends"]
    assert 2 * std["among the points"] < min(std["in the gap"], std["beyond the ends"])
    assert abs(mean["among the points"] - sine["among the points"]) < 0.1
    single, together = re.search(rf"a network ({NUMBER}), the ensemble ({NUMBER})$", out, re.M).groups()
    assert 3 * float(together) < float(single)


def test_groups_of_a_table_have_a_network_each(example):
    pytest.importorskip("plotnine")
    out = example("groups")
    found = re.findall(rf": (?:prices are off by )?({NUMBER}) %$", out, re.M)
    of_groups, alone, told = map(float, found)
    assert out.startswith("56 networks of 1-8-1, 37 to 1973 rows each\n")
    assert 2 * of_groups < alone and of_groups < 1.1 * told
    stored = (ROOT / "docs" / "site" / "stored" / "groups.txt").read_text()  # the site shows this, and runs nothing
    assert re.sub(NUMBER, "", stored) == re.sub(NUMBER, "", out)
    shown, printed = ([float(one) for one in re.findall(NUMBER, text)] for text in (stored, out))
    assert np.allclose(shown, printed, rtol=0.05)


def test_optuna_chooses_prunes_and_uses_all_threads(example):
    pytest.importorskip("optuna")
    pytest.importorskip("sklearn")
    out = example("optuna_search")
    told = re.match(r"(\d+) trials, (\d+) pruned: (\d+) epochs of (\d+)\n", out).groups()
    trials, pruned, epochs, most = map(int, told)
    assert trials == 40 and most == 800 and 0 < pruned < 40 and 3 * pruned < most - epochs
    assert number_after("accuracy", out) > 85


@pytest.mark.parametrize(
    "name, words",
    [
        ("optuna_search", ["epoch", "validation loss", "pruned", "to the end", "the best"]),
        ("groups", ["colour D, clarity IF", "price in dollars", "how far prices are off, per cent"]),
        ("bp_demo", ["loss", "training step", "3,000"]),
        ("mazur", ["forward pass", "half the squared error", "Mazur's network learns its one sample"]),
        ("xor", ["label 0", "label 1", "output; the line is at 0"]),
        ("digits", ["loss", "layer 0: 64 -&gt; 128, a picture for each unit"]),
        ("own_gradient", ["Huber's loss", "the clean sine"]),
        ("dqn", ["an episode", "mean of the last 10", "steps until the pole falls"]),
        ("ensemble", ["one standard deviation", "nine networks of ten", "the sine", "x"]),
        ("own_activation", ["my_mish", "its derivative, made from the expression", "my_log_cosh", "mse"]),
    ],
)
def test_examples_save_a_picture_where_they_are_told(example, tmp_path, monkeypatch, name, words):
    pytest.importorskip("matplotlib")
    needs = {"digits": "sklearn", "groups": "plotnine", "optuna_search": "optuna"}
    pytest.importorskip(needs.get(name, "numpy"))
    settings = tmp_path.with_name(f"{tmp_path.name}-settings")
    settings.mkdir()
    (settings / "matplotlibrc").write_text("svg.fonttype: none")  # words stay words
    monkeypatch.setenv("MATPLOTLIBRC", str(settings))
    example(name, "picture.svg")
    shown = (tmp_path / "picture.svg").read_text()
    assert [word for word in words if f">{word}</text>" not in shown] == []


# ------------------------------------------------------------------ README.md and docs/


def fenced_blocks(text):
    """The blocks between lines of three backquotes, as matches: 1 is the language, 2 the content."""
    return list(re.finditer(r"^```(\w*)\n(.*?)^```\n", text, re.M | re.S))


def run_document(path):
    """Runs every python block, in one namespace; a text block right below one is what it prints, others print nothing.

    Gives the namespace, and how many text blocks there were.
    """
    text, namespace, shown = path.read_text(), {}, 0
    fenced = fenced_blocks(text)
    for block, following in zip(fenced, [*fenced[1:], None]):
        if block[1] != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block[2], path.name, "exec"), namespace)
        if following and following[1] == "text" and not text[block.end() : following.start()].strip():
            assert printed.getvalue() == following[2]
            shown += 1
        else:
            assert printed.getvalue() == ""
    return namespace, shown


@pytest.mark.parametrize("page, outputs", [
    ("README.md", 2), ("docs/calls.md", 1), ("docs/ensembles.md", 2), ("docs/errors.md", 1), ("docs/features.md", 0),
    ("docs/looking.md", 3), ("docs/many.md", 6), ("docs/mpi.md", 1), ("docs/ops.md", 2),
    ("docs/own_rows.md", 0), ("docs/run.md", 6), ("docs/searching.md", 6), ("docs/sklearn.md", 15),
    ("docs/which_loss.md", 1),
])  # fmt: skip
def test_the_code_of_a_page_runs_and_prints_what_stands_below_it(page, outputs, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)  # for the files that a page writes
    assert run_document(ROOT / page)[1] == outputs


def test_the_example_of_the_readme_has_at_most_15_lines():
    first = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    assert len(first.splitlines()) <= 15


def anchors(page):
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_links_of_the_documents_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", page.read_text())
        for target, anchor in links:
            found = page.parent / target if target else page
            assert found.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(found), f"{page.name}: {target}#{anchor}"


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    prose = re.sub(r"^```.*?^```$|^\|.*?$|<!--.*?-->|\]\([^)]*\)", "", text, flags=re.M | re.S)  # no code, no tables
    assert len(text.splitlines()) <= 170 and len(prose.split()) <= 1000
    assert "docs/benchmark.svg" in "".join(text.splitlines(keepends=True)[:20])  # the picture comes first


def test_the_index_of_the_pages_names_all_of_them():
    listed = set(re.findall(r"^- \[[^]]+\]\(([^)]+)\): ", (ROOT / "docs" / "README.md").read_text(), re.M))
    assert listed == {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}


def test_the_page_of_features_names_every_row_and_verb():
    text = (ROOT / "docs" / "features.md").read_text()
    names = {*activations.TABLE, *activations.ALIASES, *losses.TABLE, *losses.ALIASES, *backends.NAMES}
    names |= {kind.__name__ for kind in optimizers.BY_NAME.values()}
    names |= {name for name, value in vars(fastbp.MLP).items() if not name.startswith("_") and callable(value)}
    assert sorted(name for name in names if not re.search(rf"`{name}\b", text)) == []


def test_the_pages_of_the_tables_are_fresh():
    tables = runpy.run_path(str(ROOT / "tools" / "tables.py"))
    for name, text_of in tables["FILES"].items():
        assert (ROOT / "docs" / name).read_text() == text_of(), f"docs/{name}: run `make rows`"


def test_the_pages_show_every_row_with_its_settings_and_values():
    for table, page in ((activations.TABLE, "activations"), (losses.TABLE, "losses")):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        picture = (ROOT / "docs" / f"{page}.svg").read_text()
        for name, row in table.items():
            section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
            assert section.count("\n| ") == len(row.pinned) + 2 and f">{name}</text>" in picture
            assert all(f"`{setting.name}` is" in section for setting in getattr(row, "settings", ()))


# ------------------------------------------------------------------ docstrings

MODULES = [
    module.name
    for module in pkgutil.walk_packages(fastbp.__path__, "fastbp.")
    if module.name.rpartition(".")[2] not in ("_engine", "__main__")
]


@pytest.mark.parametrize("name", ["fastbp", *MODULES])
def test_doctests(name):
    if name == "fastbp.backends.cython" and backends.missing("cython"):
        pytest.skip("fastbp._engine is not built")
    if name.startswith("fastbp.backends.numba.") and not backends.has_numba():
        pytest.skip("Numba is not installed")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_doctests():
    finder = doctest.DocTestFinder()
    assert any(test.examples for test in finder.find(fastbp.MLP))


# ------------------------------------------------------------------ CONTRIBUTING.md


def tree():
    """The paths that the tree names."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## The tree")[2]
    folders, paths = [], []
    for line in re.search(r"^```text\n(.*?)^```", text, re.M | re.S)[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
            assert (ROOT / "".join(folders)).is_dir(), f"{name}: no such folder"
        else:
            assert len(line.split()) > 1 or name == "__init__.py", f"{name}: no word about it"
            paths.append("".join(folders) + name)
    return paths


def test_the_tree_in_contributing_is_that_of_the_repository():
    named = tree()
    assert len(named) == len(set(named)) > 80
    visible = (path for path in named if not path.startswith("."))  # .ci is not in the sdist
    missing = [path for path in visible if not (ROOT / path).is_file()]
    assert missing == [], "CONTRIBUTING.md names what is not there"
    sources = {".py", ".pyi", ".pyx", ".hpp", ".cpp", ".typed"}
    there = {
        path.relative_to(ROOT).as_posix()
        for folder in ("fastbp", "src", "tools")  # of the others each file says for itself what it is for
        for path in (ROOT / folder).rglob("*")
        if path.suffix in sources or path.name == "py.typed"
    }
    there -= {"src/engine.cpp"}  # left by a Cython run by hand
    assert sorted(there - set(named)) == [], "CONTRIBUTING.md: no line for these"


def test_the_functions_from_fit_to_the_loop_are_where_contributing_says():
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("to the innermost loop")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    steps = [row for row in rows if row[2].startswith("`")]
    assert [row[0] for row in steps] == ["", *"123456"]
    for _, functions, file, _ in steps:
        source = (ROOT / file.strip("`")).read_text()
        for name in re.findall(r"`([\w:.]+)`", functions):
            bare = re.split(r"\.|::", name)[-1]
            defined = rf"^ *def {bare}\(" if file.endswith((".py`", ".pyx`")) else rf"^[\w<> ,:]*\b{bare}\("
            assert re.search(defined, source, re.M), f"{name} is not in {file}"
