"""The sources as a tree: who imports whom, what is documented, what is tracked."""

import ast
import doctest
import inspect
import re
import runpy
import subprocess
from pathlib import Path

import pytest

import fastbp

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fastbp"
MODULES = sorted(PACKAGE.rglob("*.py"))
BY_NAME = {str(path.relative_to(PACKAGE)): path for path in MODULES}
every_module = pytest.mark.parametrize("path", MODULES, ids=BY_NAME)
arrows = runpy.run_path(str(ROOT / "tools" / "arrows.py"))  # the table of layers, which `make check` reads too


def tracked_files():
    """What git would hold: tracked files, and new ones that it does not ignore."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    names = [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]
    if "pyproject.toml" not in names:
        pytest.skip("git holds nothing of this tree")
    return names


# ------------------------------------------------------------------ imports


def imported(path, *, top_level_only=False):
    """The modules of fastbp that a file imports, by their name below the package."""
    tree = ast.parse(path.read_text())
    if top_level_only:
        tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.Try, ast.If))]
    names = [name for _, name in arrows["imports"](tree)]
    return {(name + ".").split(".")[1] for name in names if name.partition(".")[0] == "fastbp"}


def test_imports_run_one_way():
    assert list(arrows["violations"](PACKAGE)) == []


def test_kernels_include_their_contract_alone(tmp_path):
    assert list(arrows["included"]()) == []
    (tmp_path / "layers.hpp").write_text('#include <stdint.h>\n#include "../kernels.hpp"\n#include "../train.hpp"\n')
    assert [line.split(":")[1] for line in arrows["included"](tmp_path)] == ["3"]


# The order that DESIGN 3 and 4 state, against the table itself: each may import what stands to its right.
API_TO_TABLES = "mlp training backends spec activations rows"


def test_the_table_of_layers_says_api_backends_tables():
    rank = arrows["RANK"]
    order = [rank[module] for module in API_TO_TABLES.split()]
    assert order == sorted(order, reverse=True) and len(set(order)) == len(order)
    assert {"mlp", "training", "ops"} <= {module for module in rank if rank[module] > rank["backends"]}
    assert rank["data"] == rank["backends"]  # neither knows the other


@pytest.mark.parametrize(
    "file, text",
    [
        ("rows/kinds.py", "from fastbp import spec"),
        ("errors.py", "import fastbp"),
        ("backends/plan.py", "def f():\n    from fastbp.mlp import MLP"),
        ("backends/numba/new.py", "from fastbp.training.run import Run"),
        ("data/new.py", "from fastbp.backends import engine"),
        ("losses.py", "from fastbp.backends.protocol import Program"),
        ("mlp.py", "from fastbp import _engine"),
        ("mlp.py", "def f():\n    from fastbp import plot"),
        ("many/new.py", "from fastbp.search.trials import rungs"),
        ("plot.py", "import matplotlib\nfrom fastbp.gradients import check_gradients"),
        ("history.py", "import matplotlib.pyplot"),
        ("ops.py", "from .spec import padded"),
        ("unheard_of.py", ""),
    ],
)
def test_an_import_that_breaks_a_rule_is_seen(tmp_path, file, text):
    folder = tmp_path / "fastbp"
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_text(text + "\n")
    assert len(list(arrows["violations"](folder))) == 1


def test_a_ring_within_a_folder_is_seen(tmp_path):
    folder = tmp_path / "fastbp" / "data"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text("from fastbp.data.b import f\n")
    (folder / "b.py").write_text("def f():\n    from fastbp.data import c\n")
    (folder / "c.py").write_text("if TYPE_CHECKING:\n    from fastbp.data.a import g\n")
    assert list(arrows["violations"](folder.parent)) == []
    (folder / "c.py").write_text("from fastbp.data.a import g\n")
    (found,) = arrows["violations"](folder.parent)
    assert found.endswith("fastbp.data.a -> fastbp.data.b -> fastbp.data.c -> fastbp.data.a")


@pytest.mark.parametrize("module", ["rows/vocabulary.py", "errors.py", "history.py", "order.py", "initializers.py"])
def test_the_bottom_layer_imports_nothing_of_fastbp(module):
    assert imported(BY_NAME[module], top_level_only=True) == set()


@pytest.mark.parametrize("table", ["activations.py", "losses.py", "optimizers.py"])
def test_tables_import_row_types_alone(table):
    assert "rows" in imported(BY_NAME[table]) <= {"rows", "checks", "schedules"}


def test_only_the_table_of_backends_and_its_own_one_import_the_engine():
    users = {name for name, path in BY_NAME.items() if "_engine" in imported(path)}
    assert users == {"backends/__init__.py", "backends/cython.py"}


def reached(root, package=PACKAGE):
    """The modules that plain imports reach from one of them: what a tool that packs a program puts into it."""
    names = {arrows["_dotted"](path, package): path for path in package.rglob("*.py")}
    found, left = set(), [root]
    while left:
        name = left.pop()
        if name in found or name not in names:
            continue
        found.add(name)
        for _, target in arrows["imports"](ast.parse(names[name].read_text())):
            parts = target.split(".")
            left += [".".join(parts[:k]) for k in range(1, len(parts) + 1)]
    return found, set(names)


def test_plain_imports_reach_every_module():
    """Not the imports for type checkers: a program runs without. Of the command line the command alone has need."""
    found, all_of_them = reached("fastbp")
    found |= reached("fastbp.sklearn")[0]  # a package that users name
    names = ("command", "contenders", "growth", "many", "measure")
    commands = {"fastbp.__main__", *(f"fastbp.bench.{name}" for name in names)}
    assert all_of_them - found == commands
    assert reached("fastbp.__main__")[0] | found == all_of_them


def test_a_module_that_plain_imports_do_not_reach_is_seen(tmp_path):
    folder = tmp_path / "fastbp"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("def f():\n    import fastbp.data.a as found\n")
    (folder / "data" / "__init__.py").write_text("if TYPE_CHECKING:\n    from fastbp.b import g\n")
    (folder / "data" / "a.py").write_text("from fastbp import c\n")
    (folder / "b.py").write_text("")
    (folder / "c.py").write_text("import_module('fastbp.b')\n")
    found, all_of_them = reached("fastbp", folder)
    assert all_of_them - found == {"fastbp.b"}


# ------------------------------------------------------------------ what the library does not do


PRINTING = {("mlp.py", "explain"), ("mlp.py", "summary"), ("config.py", "show_config"),
            ("fit.py", "_take_losses")}  # fmt: skip; whose purpose it is, or verbose=True of scikit-learn's


@every_module
def test_the_library_prints_nothing_that_was_not_asked_for(path):
    if path.name in ("__main__.py", "command.py"):  # command lines
        return
    tree = ast.parse(path.read_text())
    asked = {id(call) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
             if (path.name, function.name) in PRINTING for call in ast.walk(function)}  # fmt: skip
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert not [node.lineno for node in calls if node.func.id in ("print", "input") and id(node) not in asked]


@every_module
def test_no_check_of_the_library_is_an_assert(path):
    """`python -O` would drop it."""
    assert not [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]


@every_module
def test_the_library_changes_no_global_setting(path):
    text = path.read_text()
    for call in (r"\bseterr\(", r"random\.seed\(", r"\bsimplefilter\(", r"\bsetrecursionlimit\(", r"\bos\.environ\["):
        assert not re.search(call, text), call


# Folders of people and machines; written so that the pattern does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|Users|mnt|media)/\w")


def test_no_path_of_a_machine_stands_in_any_file():
    found = []
    for name in tracked_files():
        try:
            lines = (ROOT / name).read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{name}:{k}: {line.strip()}" for k, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert not found, "\n".join(found)
    for folder in ("home", "root", "Users"):
        assert MACHINE_PATH.search(f"in /{folder}/me") and not MACHINE_PATH.search(f"docs/{folder}/me")


CLUTTER = re.compile(
    r"\.(so|pyd|o|a|dll|dylib|pyc|pyo|whl|orig|rej|swp|log|tmp|bak)$|\.egg-info(/|$)|(^|/)(__pycache__|build|dist|\.venv"
    r"|\.\w+_cache|\.hypothesis|\.benchmarks|\.idea|\.vscode|\.DS_Store)(/|$)|\.tar\.gz$|^src/engine\.c(pp)?$|~$"
)


def test_nothing_that_tools_make_is_tracked():
    assert not [name for name in tracked_files() if CLUTTER.search(name)]
    for made in ("fastbp/_engine.cpython-311.so", "src/engine.cpp", "a.egg-info/x", "__pycache__/y.pyc", "dist/a.whl"):
        assert CLUTTER.search(made)


def test_no_tracked_file_is_large_or_oddly_named():
    for name in tracked_files():
        assert (ROOT / name).stat().st_size < 200_000, name
        assert re.fullmatch(r"[\w./-]+", name, re.ASCII), name


PEER_OF_ITS_OWN = re.compile(r"importorskip\(\W*(torch|optax|jax)|^(import|from) (torch|optax|jax)\b", re.M)


def test_the_tests_name_their_peers_by_the_fixture_alone():
    """`make test-peers` selects who asks for it and fails where a peer is missing; a skip of one's own would pass."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    assert len(files) > 20 and not [path.name for path in files if PEER_OF_ITS_OWN.search(path.read_text())]


# ------------------------------------------------------------------ docstrings


def public_functions():
    """What users call: the public names, and the public methods of the classes among them."""
    for name in fastbp.__all__:
        thing = getattr(fastbp, name)
        if inspect.ismodule(thing):
            for inner, function in inspect.getmembers(thing, inspect.isfunction):
                if not inner.startswith("_") and function.__module__ == thing.__name__:
                    yield f"{name}.{inner}", function
        elif inspect.isclass(thing):
            yield name, thing
            for inner, function in inspect.getmembers(thing, inspect.isfunction):
                if not inner.startswith("_"):
                    yield f"{name}.{inner}", function
        else:
            yield name, thing


PUBLIC = dict(public_functions())
SECTIONS = ("Parameters", "Returns", "Yields", "Raises", "Attributes", "Notes", "References", "Examples", "See Also",
            "Warns", "Warnings")  # fmt: skip


def sections(doc):
    """Heading -> lines of a numpydoc docstring; "" holds the summary."""
    found, heading = {"": []}, ""
    lines = inspect.cleandoc(doc).splitlines()
    for k, line in enumerate(lines):
        underlined = k + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[k + 1])
        if underlined:
            assert line in SECTIONS, f"{line!r} is no section of numpydoc"
            assert len(lines[k + 1]) == len(line), f"the line under {line!r} has another length"
            assert k and not lines[k - 1], f"no empty line before {line!r}"
            heading = line
            found[heading] = []
        elif not re.fullmatch(r"-{3,}", line):
            found[heading].append(line)
    return found


def arguments(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


def documented(lines):
    """Names at the left margin of a section, as `a, b : type`."""
    names = [line.partition(" : ")[0] for line in lines if line and not line.startswith(" ")]
    return [name.strip().lstrip("*") for entry in names for name in entry.split(",")]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_has_a_numpydoc_docstring(name):
    """A summary; sections as numpydoc names them; each parameter listed or named in the text, and no other listed."""
    function = PUBLIC[name]
    assert function.__doc__, "no docstring"
    parts = sections(function.__doc__)
    assert re.match(r"[A-Z`]|\d", parts[""][0]), "no summary in the first line"
    if inspect.isclass(function) and issubclass(function, (Exception, fastbp.History)):
        return  # the library makes them: their attributes are documented
    wanted, listed = arguments(function), documented(parts.get("Parameters", []))
    assert set(listed) <= set(wanted), "listed, but no parameter"
    silent = [name for name in wanted if name not in listed and not re.search(rf"\b{name}\b", function.__doc__)]
    assert not silent, f"parameters that the docstring does not mention: {silent}"


FOLDERS = [path for path in MODULES if path.parent != PACKAGE and path.name != "__init__.py"]
INSIDE = re.compile("|".join(".".join(("fastbp", *one.relative_to(PACKAGE).with_suffix("").parts)) for one in FOLDERS))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_docstrings_name_public_paths(name):
    """A file in a folder may move."""
    assert not INSIDE.search(PUBLIC[name].__doc__)
    assert INSIDE.search("fastbp.inspection.trace.Trace") and not INSIDE.search("fastbp.Trace, fastbp.rows.Loss")


ESTIMATORS = [f"{kind}{what}" for kind in ("MLP", "MLPEnsemble", "GroupedMLP") for what in ("Classifier", "Regressor")]
ESTIMATORS += ["MLPSearchCV"]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_estimators_have_numpydoc_docstrings_with_every_parameter(name):
    estimator = getattr(pytest.importorskip("fastbp.sklearn"), name)
    ours = [inner for kind in estimator.__mro__ if kind.__module__.startswith("fastbp") for inner in vars(kind)]
    things = [estimator, *(getattr(estimator, inner) for inner in sorted({*ours}) if not inner.startswith("_"))]
    things = [thing for thing in things if callable(thing)]
    assert len(things) >= {"MLPClassifier": 8, "MLPRegressor": 8, "MLPSearchCV": 2}.get(name, 3)
    for thing in things:
        parts = sections(thing.__doc__)
        assert parts[""][0].endswith(".") and not INSIDE.search(thing.__doc__)
        assert {*documented(parts.get("Parameters", []))} == {*arguments(thing)}, thing


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_says_what_it_returns(name):
    if not inspect.isclass(PUBLIC[name]):
        assert inspect.signature(PUBLIC[name]).return_annotation is not inspect.Signature.empty


OTHERS = [path for folder in ("tests", "benchmarks", "examples", "tools") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("path", [*MODULES, *OTHERS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_contributing_is_read_in_ten_minutes():
    assert len((ROOT / "CONTRIBUTING.md").read_text().split()) <= 2500


def test_the_public_names_are_those_of_all():
    for name in fastbp.__all__:
        assert getattr(fastbp, name) is not None
    public = {name for name in vars(fastbp) if not name.startswith("_") and not inspect.ismodule(getattr(fastbp, name))}
    assert public <= set(fastbp.__all__), public - set(fastbp.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        fastbp.nonsense  # noqa: B018


def test_the_example_in_the_docstring_of_mlp_works():
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(recurse=False).find(fastbp.MLP, "MLP"):
        runner.run(example)
    assert runner.tries > 0 and runner.failures == 0


# ------------------------------------------------------------------ the stub of the compiled module


def stubs():
    """(name, stub, the source from where it is defined on) of each function in the stub, but for properties."""
    source = "".join(path.read_text() for path in sorted((ROOT / "src").glob("*.pyx")))
    tree = ast.parse((PACKAGE / "_engine.pyi").read_text())
    for owner in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
        start = 0 if owner is tree else source.index(f"cdef class {owner.name}:")
        for node in owner.body:
            if isinstance(node, ast.FunctionDef) and not node.decorator_list:
                yield f"{getattr(owner, 'name', '_engine')}.{node.name}", node, source[start:]


def test_the_stub_names_the_parameters_of_the_compiled_module():
    """`make check` compares more of them, with mypy, but not the constructors."""
    seen = 0
    for name, node, source in stubs():
        called = node.name.replace("__new__", "__cinit__")
        text = re.search(rf"^ *def {called}\((.*?)\):", source, re.M | re.S)[1]
        defined = [re.sub(r"=.*", "", part).split()[-1] for part in text.split(",") if part.strip()]
        stub = [argument.arg.replace("cls", "self") for argument in node.args.args]
        stub += ["*"] * bool(node.args.kwonlyargs) + [argument.arg for argument in node.args.kwonlyargs]
        assert stub == defined, name
        seen += len(defined)
    assert seen > 60
