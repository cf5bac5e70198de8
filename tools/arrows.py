"""Checks the layout of the code: who imports whom. `python tools/arrows.py` names each import that breaks a rule.

Imports inside fastbp run one way, from the API down to the tables. A file at the top of `fastbp/` is a room, and so is
a folder as a whole; each may import from the layers below its own. Within a folder files may import their neighbours,
but not in a ring. Imports inside functions count; imports for type checking alone do not. Some rooms are entered by a
few others only, some libraries are imported in one place, and kernels include nothing of `src/` but their contract.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

LAYERS = (  # from the bottom up; a folder of `fastbp/` is one name
    "errors order initializers arrays",
    "checks rows",
    "schedules activations losses callbacks history",
    "optimizers",
    "own spec typing",
    "data backends",
    "metrics ops inspection",
    "training",
    "files",
    "mlp",
    "gradients many",
    "search",
    "bench sklearn",
    "plot",
    "__init__",
    "__main__",
)
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer.split()}
DOORS = {("history", "plot"), ("search", "plot")}  # imports that run upward: `History.plot`, `Sweep.plot`, when called
ENTERED_BY = {  # what ordinary use does without, and the rooms that may import it
    "bench": {"__main__", "plot"},
    "plot": {"__init__", "history", "search"},
    "gradients": {"__init__"},
    "many": {"__init__", "bench", "search", "sklearn"},
    "own": {"__init__"},
    "search": {"__init__", "sklearn"},
    "sklearn": set(),
    "_engine": {"backends"},
}
LIBRARIES = {  # the files and folders that may import them
    "matplotlib": ("plot.py", "bench/figures.py"),
    "numba": ("backends/numba/", "bench/"),
    "llvmlite": ("backends/numba/",),
    "scipy": ("training/lbfgs.py", "search/space.py", "sklearn/"),
    "sklearn": ("sklearn/", "bench/"),
    "jax": ("bench/",),
    "torch": ("bench/",),
    "tensorflow": ("bench/",),
    "tqdm": ("training/watch.py",),
    "pandas": ("history.py",),
    "threadpoolctl": ("backends/threads.py",),
    "joblib": ("many/executors.py", "bench/many.py", "sklearn/search.py"),
    "distributed": ("many/executors.py",),
}
ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fastbp"


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """What a file imports, as (line, dotted name); a relative import as ".". Not what type checkers alone import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "_typing.TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["."] if node.level else [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            yield from imports(node)
            continue
        for name in names:
            yield node.lineno, name


def room(name: str) -> str:
    """The room that a dotted name of fastbp lies in; a name that is none is one of `fastbp/__init__.py`."""
    inner = name.partition(".")[2].partition(".")[0]
    return inner if inner in RANK or inner == "_engine" else "__init__"


def violations(package: Path = PACKAGE) -> Iterator[str]:
    """One line for each import that breaks a rule, for each file that has no layer, and for each ring."""
    neighbours: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        own = inside.parts[0].removesuffix(".py")
        if own not in RANK:
            yield f"{inside}: not in the table of layers (LAYERS in tools/arrows.py)"
            continue
        neighbours[_dotted(path, package)] = found = set()
        for line, name in imports(ast.parse(path.read_text(), str(path))):
            where = f"{path.relative_to(package.parent)}:{line}"
            library = name.partition(".")[0]
            if name == ".":
                yield f"{where}: relative import; say `from fastbp...`"
            elif library in LIBRARIES and not str(inside).startswith(LIBRARIES[library]):
                yield f"{where}: {library} is imported in {', '.join(LIBRARIES[library])} alone"
            elif library == "fastbp":
                target = room(name)
                if target == own:
                    found.add(_module(name, package))
                elif own not in ENTERED_BY.get(target, {own}):
                    yield f"{where}: {target} is imported by {', '.join(sorted(ENTERED_BY[target]))} alone"
                elif target != "_engine" and RANK[target] >= RANK[own] and (own, target) not in DOORS:
                    yield f"{where}: {own} imports {target}, which is not below it"
    for ring in _rings(neighbours):
        yield f"a ring within a folder: {' -> '.join(ring)}"


def _dotted(path: Path, package: Path) -> str:
    return ".".join((package.name, *path.relative_to(package).with_suffix("").parts)).removesuffix(".__init__")


def _module(name: str, package: Path) -> str:
    """The module that `name` is, or is in."""
    inside = Path(*name.split(".")[1:])
    is_module = (package / inside).is_dir() or (package / inside.with_suffix(".py")).exists()
    return name if is_module else name.rpartition(".")[0]


def _rings(neighbours: dict[str, set[str]]) -> Iterator[list[str]]:
    """Modules that import one another in a circle, each circle once."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> Iterator[list[str]]:
        if module in way:
            yield [*way[way.index(module) :], module]
        elif module not in done:
            for other in sorted(neighbours.get(module, ())):
                yield from walk(other, [*way, module])
            done.add(module)

    for module in sorted(neighbours):
        yield from walk(module, [])


def included(folder: Path = ROOT / "src" / "kernels") -> Iterator[str]:
    """One line for each file outside `src/kernels/` that a kernel includes, but for their contract."""
    for path in sorted(folder.glob("*.?pp")):
        for line, text in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r'\s*#include "(.*)"', text)
            if found and found[1] != "../kernels.hpp" and not (folder / found[1]).resolve().is_relative_to(folder):
                yield f"src/kernels/{path.name}:{line}: kernels include nothing of src/ but kernels.hpp"


if __name__ == "__main__":
    lines = [*violations(), *included()]
    print("\n".join(lines))
    sys.exit(1 if lines else 0)
