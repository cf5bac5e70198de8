"""Lays the sources of the site into a folder, for Sphinx: `PYTHONPATH=. python tools/site.py build/docs/source`.

The pages of `docs/` are written for GitHub, and stay as they are: here their links are led to the pages of the site.
Beside them come CONTRIBUTING.md and CHANGELOG.md, the sections of README.md that a page of `docs/site/` asks for, a
page for each public name, and the examples as sphinx-gallery reads them. `make docs` goes on from there; the settings
are in `docs/conf.py`. An example that needs what the site does not have shows what it printed when it was stored:
`python tools/site.py --store groups` runs it and keeps that in `docs/site/stored/`.
"""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
STORED = DOCS / "site" / "stored"

# ------------------------------------------------------------------ the pages

MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/README.md": "guide.md",
    "examples": "gallery/index.rst",
    "examples/extension": "extension.md",
}
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]+)?\)")
ASKED = re.compile(r"^<!-- README: (.+) -->$", re.M)


def place(name: str) -> str | None:
    """Where a file of the repository, named from its root, is on the site; None where it is not there."""
    path = PurePosixPath(name)
    if name in MOVED:
        return MOVED[name]
    if path.parent == PurePosixPath("examples") and path.suffix == ".py":
        return f"gallery/{path.stem}.rst"
    return path.name if path.parent in (PurePosixPath("docs"), PurePosixPath("docs/site")) else None


def linked(text: str, name: str) -> str:
    """The text of a file of the repository, its links to others led to where they are on the site."""

    def lead(found: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(name).parent / found[1]).replace(os.sep, "/")
        if not (ROOT / target).exists():  # code that looks like a link, or a page that the site makes
            return found[0]
        there = place(target)
        if there is None:
            raise ValueError(f"{name} links to {target}, which is not on the site; MOVED in tools/site.py says where")
        return f"]({there}{found[2] or ''})"

    return LINK.sub(lead, text)


def section(title: str) -> str:
    """The part of README.md under a heading, or between the comments of a figure."""
    text = (ROOT / "README.md").read_text()
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    found = found or re.search(rf"^<!-- figures: {re.escape(title)} -->\n(.*?)^<!-- end", text, re.M | re.S)
    if not found:
        raise ValueError(f"README.md has no section {title!r}, which a page of docs/site/ asks for")
    return linked(found[1].strip(), "README.md")


def pages() -> Iterator[tuple[str, str]]:
    """(name, text) of every page that is written by hand."""
    sources = ["CONTRIBUTING.md", "CHANGELOG.md", "examples/extension/README.md"]
    sources += [path.relative_to(ROOT).as_posix() for path in (*DOCS.glob("*.md"), *DOCS.glob("site/*.md"))]
    for name in sources:
        if name == "docs/README.md":  # the guide has a page of its own, docs/site/guide.md
            continue
        text = linked((ROOT / name).read_text(), name)
        text = ASKED.sub(lambda found: section(found[1]), text)
        if name == "examples/extension/README.md":
            for file, language in (("layer.pyx", "cython"), ("setup.py", "python"), ("use.py", "python")):
                code = (ROOT / "examples" / "extension" / file).read_text()
                text += f"\n## {file}\n\n```{language}\n{code}```\n"
            yield "extension.md", text
        else:
            yield place(name) or PurePosixPath(name).name, text


# ------------------------------------------------------------------ the reference

GROUPS = {
    "Networks": "MLP load History Trace LayerStep ParameterStep check_gradients",
    "scikit-learn's estimators": "sklearn",
    "Many networks": "fit_many ManyHistory predict_many save_many load_many Ensemble sweep Sweep",
    "Optimizers": "SGD Adam AdamW NAdam RAdam RMSprop Adagrad Adadelta Lion Rprop LBFGS optimizers schedules",
    "Callbacks": "Callback EarlyStopping Checkpoint TimeLimit StopTraining",
    "Tables": "activations losses initializers metrics rows",
    "Rows of your own": "Activation activation Loss loss Optimizer",
    "Kernels, pictures, types": "ops plot typing",
    "Backends": "backend set_backend show_config",
    "Errors": "FormatError NonFiniteError",
}


def groups() -> dict[str, list[str]]:
    """The public names under their headings; a name that no heading lists comes last."""
    import fastbp

    listed = {title: names.split() for title, names in GROUPS.items()}
    known = {name for names in listed.values() for name in names}
    listed["More"] = [name for name in fastbp.__all__ if name not in known]
    return {title: names for title, names in listed.items() if names}


def methods(kind: type) -> list[str]:
    """The public methods and properties that fastbp documents; those that every optimizer has stand with `Rule`."""
    from fastbp.optimizers import Rule

    bases = [one for one in kind.__mro__ if one.__module__.partition(".")[0] == "fastbp"]
    if Rule in bases[1:]:
        bases = bases[:1]
    found = {}
    for one in reversed(bases):
        for name, value in vars(one).items():
            value = getattr(value, "__func__", value)
            if not name.startswith(("_", "set_")) and (inspect.isfunction(value) or isinstance(value, property)):
                found[name] = value
    return [name for name, value in found.items() if value.__doc__]


def members(module: ModuleType) -> dict[str, Any]:
    """The classes and functions that a public module has of its own, but for those that `fastbp` itself names."""
    import fastbp

    names = getattr(module, "__all__", vars(module))
    named = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {
        name: thing
        for name, thing in named.items()
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and getattr(fastbp, name, None) is not thing
        if module.__name__ in (thing.__module__, thing.__module__.rpartition(".")[0]) and thing.__doc__
    }


def titled(title: str, mark: str = "=") -> str:
    return f"{title}\n{mark * len(title)}\n"


def aliases(module: ModuleType) -> Iterator[str]:
    """The types that a module names, each with its text."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            if not node.target.id.startswith("_"):
                text = ast.unparse(node.value).strip("'")
                text = re.sub(r"\b(?=(Activation|Loss)\b)", "fastbp.rows.", text)
                yield f".. py:type:: {module.__name__}.{node.target.id}\n   :canonical: {text}\n"


def reference(name: str, thing: Any) -> Iterator[tuple[str, str]]:
    """(page, text) of a public name, in reStructuredText; of a module also those of what is in it."""
    import fastbp

    title = name.removeprefix("fastbp.")
    if inspect.isclass(thing):
        shown = methods(thing)
        text = f"{titled(title)}\n.. autoclass:: {name}\n" + (f"   :members: {', '.join(shown)}\n" if shown else "")
    elif inspect.ismodule(thing):
        inner = {f"{name}.{one}": value for one, value in members(thing).items()}
        text = f"{titled(title)}\n.. automodule:: {name}\n   :no-members:\n\n"
        page = title.partition(".")[0]
        if (DOCS / f"{page}.md").exists():
            text += f"With examples in the user guide: :doc:`/{page}`.\n\n"
        if inner:
            pages = {one: [*reference(one, value)] for one, value in inner.items()}
            listed = "\n".join(f"   {one.removeprefix(name + '.')}" for one in inner)
            text += f".. autosummary::\n   :nosignatures:\n\n{listed}\n\n.. toctree::\n   :hidden:\n\n"
            text += "".join(f"   {PurePosixPath(found[0][0]).stem}\n" for found in pages.values())
            for found in pages.values():
                yield from found
        if page == "typing":
            text += "\n" + "\n".join(aliases(thing))
    else:
        text = f"{titled(title)}\n.. autofunction:: {name}\n"
    # `activation` beside `Activation`: some file systems do not tell these apart
    twice = inspect.isfunction(thing) and title.capitalize() in fastbp.__all__
    yield f"api/{name}{'-function' if twice else ''}.rst", text


def api() -> Iterator[tuple[str, str]]:
    """The pages of the public names, and the tables that lead to them."""
    import fastbp
    import fastbp.sklearn

    text = (DOCS / "site" / "reference.md").read_text()
    for title, names in groups().items():
        found = {f"fastbp.{name}": getattr(fastbp, name) for name in names}
        if names == ["sklearn"]:
            found |= {f"fastbp.sklearn.{name}": getattr(fastbp.sklearn, name) for name in fastbp.sklearn.__all__}
        listed, made = "\n".join(found), []
        for name, thing in found.items():
            made += [*reference(name, thing)][-1:] if name == "fastbp.sklearn" else reference(name, thing)
        yield from dict(made).items()
        text += f"\n## {title}\n\n```{{eval-rst}}\n.. autosummary::\n   :nosignatures:\n\n"
        text += f"{''.join(f'   {one}' + chr(10) for one in listed.splitlines())}```\n"
        text += f"\n```{{toctree}}\n:caption: {title}\n:hidden:\n\n"
        text += "".join(f"{page.removesuffix('.rst')}\n" for page, _ in made if page.count(".") == 2) + "```\n"
    yield "reference.md", text


# ------------------------------------------------------------------ the gallery


def example(path: Path) -> str:
    """An example as sphinx-gallery reads it: a title, and a part of the text for each of its `# ---- ` lines."""
    text = path.read_text()
    doc = ast.get_docstring(ast.parse(text)) or ""
    first, _, rest = doc.partition("\n\n")
    title, colon, more = " ".join(first.split()).partition(": ")
    if not colon:
        title, more = title.rstrip("."), ""
    code = text.partition('"""')[2].partition('"""')[2]
    code = re.sub(r"^# ---- ", "# %%\n# ", code, flags=re.M)
    intro = "\n\n".join(part for part in (more[:1].upper() + more[1:], rest) if part)
    if (STORED / f"{path.stem}.txt").exists():
        printed = (STORED / f"{path.stem}.txt").read_text()
        code += "\n# %%\n# Not run when this site was built, where it has not what it needs. Elsewhere it printed:\n#\n"
        code += "# .. code-block:: text\n#\n" + "".join(f"#     {line}\n" for line in printed.splitlines())
        if (DOCS / f"{path.stem}.svg").exists():
            code += f"#\n# .. image:: /{path.stem}.svg\n#    :alt: The picture that the example saves\n\n"
            code += f"# sphinx_gallery_thumbnail_path = '{path.stem}.svg'\n"
    return f'"""\n{titled(title)}\n{intro}\n"""\n{code}'


def gallery() -> Iterator[tuple[str, str]]:
    yield "examples/GALLERY_HEADER.rst", (DOCS / "site" / "GALLERY_HEADER.rst").read_text()
    for path in sorted((ROOT / "examples").glob("*.py")):
        yield f"examples/{path.name}", example(path)


# ------------------------------------------------------------------ the folder


def lay(folder: Path) -> None:
    """All of it into a folder, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in (*pages(), *api(), *gallery()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for path in DOCS.glob("*.svg"):
        shutil.copy(path, folder)
    shutil.copy(DOCS / "conf.py", folder)
    shutil.copytree(DOCS / "site" / "static", folder / "static")
    (folder / "extra").mkdir()
    if (ROOT / "tools" / "learn.py").exists():  # the page to step through, HTML already
        subprocess.run([sys.executable, ROOT / "tools" / "learn.py", folder / "extra" / "learn"], check=True)


def store(name: str) -> None:
    """Runs an example, and keeps what it prints."""
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    (STORED / f"{name}.txt").write_text(done.stdout)


if __name__ == "__main__":
    store(sys.argv[2]) if sys.argv[1] == "--store" else lay(Path(sys.argv[1]))
