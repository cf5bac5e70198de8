"""Checks that imports inside fastbp run one way, from the API down to the tables: `python tools/arrows.py`.

Each module may import from the layers below its own; only the backends may import one another. Imports inside functions
count too. What does not count: imports for type checking alone, and the `main` of a module that is also a command.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

LAYERS = (  # from the bottom up
    "checks errors order figures",
    "rows schedules",
    "activations losses optimizers initializers data",
    "spec own",
    "plot metrics",
    "history",
    "backends",
    "threads",
    "config",
    "plan",
    "formulas training ops explain callbacks choose",
    "lbfgs trace files feeds",
    "mlp",
    "gradients",
    "__init__",
    "bench",
    "__main__",
)
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer.split()}
PACKAGE = Path(__file__).resolve().parents[1] / "fastbp"


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The modules of fastbp that a file imports, as (line, first name below `fastbp`)."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "."   # relative
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            yield from imports(node)
            continue
        for name in names:
            package, _, inner = name.partition(".")
            if package == "fastbp":
                inner = inner.partition(".")[0]
                known = inner in RANK or inner.startswith("_engine")
                yield node.lineno, inner if known else "__init__"


def violations(package: Path = PACKAGE) -> Iterator[str]:
    """One line for each import that runs the wrong way, and for each module that has no layer."""
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).parts[0].removesuffix(".py")
        if module not in RANK:
            yield f"{path.name}: not in the table of layers (LAYERS in tools/arrows.py)"
            continue
        for line, target in imports(ast.parse(path.read_text(), str(path))):
            where = f"{path.relative_to(package.parent)}:{line}"
            if target == ".":
                yield f"{where}: relative import; say `from fastbp...`"
            elif target == "_engine":
                if module not in ("backends", "__main__"):
                    yield f"{where}: only the backends import the compiled module"
            elif RANK[target] >= RANK[module] and not module == target == "backends":
                yield f"{where}: {module} imports {target}, which is not below it"


if __name__ == "__main__":
    lines = list(violations())
    print("\n".join(lines))
    sys.exit(1 if lines else 0)
