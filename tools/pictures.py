"""Makes the pictures of the pages: `python tools/pictures.py`, or `make pictures`.

A page's Python blocks run from top to bottom. Where an image follows a block that has set `ax`, that is what the image
shows. Pictures of examples are those that the examples save. Needs matplotlib, and plotnine for its diamonds.
"""

import contextlib
import io
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("docs/looking.md", "docs/own_rows.md", "docs/searching.md")
EXAMPLES = {f"examples/{name}.py": f"docs/{name}.svg" for name in ("dqn", "ensemble", "groups")}
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "fastbp"}  # text stays text; the same file each time
PART = re.compile(r"^```python\n(?P<code>.*?)^```$|^!\[[^\]]*\]\((?P<image>[^)]+)\)$", re.M | re.S)


def pictures(page: Path) -> Iterator[tuple[Path, Any]]:
    """The path of each image that the code of a page draws, and the Axes."""
    namespace: dict[str, Any] = {}
    for part in PART.finditer(page.read_text()):
        if part["code"]:
            namespace.pop("ax", None)
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(part["code"], str(page), "exec"), namespace)
        elif "ax" in namespace:
            yield page.parent / part["image"], namespace.pop("ax")


def main() -> None:
    from matplotlib import pyplot, rc_context

    pyplot.switch_backend("agg")
    for page in PAGES:
        for path, ax in pictures(ROOT / page):
            with rc_context(SETTINGS):
                ax.figure.savefig(path, metadata={"Date": None})
            pyplot.close(ax.figure)
            print(path.relative_to(ROOT))
    for example, picture in EXAMPLES.items():
        sys.argv[1:] = [str(ROOT / picture)]
        with rc_context(SETTINGS), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(ROOT / example), run_name="__main__")
        print(picture)


if __name__ == "__main__":
    main()
