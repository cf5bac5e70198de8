"""Checks types as a user meets them: `python tools/typed.py` has mypy and pyright check programs in strict mode.

The programs are the files of tests/typing/ and the code of README.md and docs/. A line that ends in ``# error`` must be
an error to both checkers, and no other line may be one. Then pyright looks for public names whose types are not known.
`make check` runs this; it needs both checkers (the extra `dev`).
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "build" / "typed"  # outside of the sources, where `fastbp` is a package like others
MARK = re.compile(r"# error$")
Place = tuple[str, int]  # file, line

# Not ours to say: what other libraries leave unknown, and expressions that stand for themselves.
OFF = (
    "reportMissingTypeStubs", "reportMissingImports", "reportMissingModuleSource", "reportUnknownMemberType",
    "reportUnusedExpression",
)  # fmt: skip
# On a page functions of the reader's own may go without annotations, and scikit-learn has no types. These take the
# place of a heading.
LENIENT = (
    "# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, check-untyped-defs",
    "# pyright: reportMissingParameterType=false, reportUnknownParameterType=false, reportUnknownArgumentType=false, "
    "reportUnknownVariableType=false, reportUnknownLambdaType=false, reportConstantRedefinition=false",
)


def code_of(page: str) -> str:
    """The python blocks of a page in Markdown, on the lines on which they stand."""
    lines, inside = [], False
    for line in page.splitlines():
        fence = line.startswith("```")
        inside = line == "```python" if fence else inside
        lines.append(line if inside and not fence else "")
    return "\n".join(lines) + "\n"


def written() -> Iterator[Path]:
    """The programs, written where they are checked."""
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    for old in PROGRAMS.glob("*.py"):
        old.unlink()
    for path in (*sorted(ROOT.glob("tests/typing/*.py")), ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))):
        code = path.read_text() if path.suffix == ".py" else code_of(path.read_text())
        if code.strip():
            if path.suffix == ".md":
                code = "\n".join((*LENIENT, *code.splitlines()[2:])) + "\n"
            program = PROGRAMS / f"{path.name.replace('.', '_')}.py"
            program.write_text(code)
            yield program


def by_mypy(programs: list[Path]) -> Iterator[tuple[Place, str]]:
    options = ["--strict", "--follow-imports=silent", "--ignore-missing-imports", "--no-pretty", "--config-file="]
    command = [sys.executable, "-m", "mypy", *options, *(program.name for program in programs)]
    done = subprocess.run(command, cwd=PROGRAMS, env=os.environ | {"MYPYPATH": str(ROOT)}, text=True,
                          capture_output=True)  # fmt: skip
    if done.returncode not in (0, 1):
        sys.exit(f"mypy failed\n{done.stdout}{done.stderr}")
    for file, line, message in re.findall(r"^(.+?):(\d+): error: (.*)$", done.stdout, re.M):
        yield (file, int(line)), message


def by_pyright(programs: list[Path]) -> Iterator[tuple[Place, str]]:
    settings = {"typeCheckingMode": "strict", "include": [program.name for program in programs]}
    (PROGRAMS / "pyrightconfig.json").write_text(json.dumps(settings | dict.fromkeys(OFF, False)))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, cwd=PROGRAMS, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                          capture_output=True)  # fmt: skip
    if done.returncode not in (0, 1):
        sys.exit(f"pyright failed\n{done.stdout}{done.stderr}")
    for told in json.loads(done.stdout)["generalDiagnostics"]:
        if told["severity"] == "error":
            yield (Path(told["file"]).name, told["range"]["start"]["line"] + 1), told["message"].partition("\n")[0]


def left_unknown() -> Iterator[str]:
    """What is public and has no type, or one that a checker has to guess. Public: the modules that mypy judges."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--verifytypes", "fastbp",
               "--ignoreexternal", "--outputjson"]  # fmt: skip
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, capture_output=True)
    public = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    modules = {file.removesuffix(".py").replace("/", ".") for file in public if "/_" not in file}
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    if not symbols:
        sys.exit(f"pyright found no symbol of fastbp\n{done.stdout}")
    for symbol in symbols:
        name, known = symbol["name"], symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]
        if symbol["category"] == "class" and name.startswith("fastbp.sklearn."):
            continue  # it has a base in scikit-learn, which has no types; what stands in it is asked for
        if not known and any(name.startswith(f"{module}.") for module in modules):
            yield f"pyright: the type of {name} is not known"


def marked(programs: list[Path]) -> set[Place]:
    return {
        (program.name, number)
        for program in programs
        for number, line in enumerate(program.read_text().splitlines(), 1)
        if MARK.search(line)
    }


def complaints() -> Iterator[str]:
    """One line for each error where none is wanted, and for each line that is wanted to be one and is not."""
    programs = list(written())
    wanted = marked(programs)
    for name, check in (("mypy", by_mypy), ("pyright", by_pyright)):
        found = dict(check(programs))
        for file, line in sorted(set(found) - wanted):
            yield f"{name}: {file}:{line}: {found[file, line]}"
        for file, line in sorted(wanted - set(found)):
            yield f"{name}: {file}:{line}: passes, and should be an error"
    yield from left_unknown()


if __name__ == "__main__":
    lines = list(complaints())
    print("\n".join(lines))
    sys.exit(1 if lines else 0)
