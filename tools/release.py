"""What a release still lacks: `make release-check` runs it, in an environment that has readme_renderer.

What a program can check of the list in docs/platforms.md, one line each; the exit status is 1 where something is
lacking.
"""

import datetime
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ANYWHERE = "https://host.example/owner/fastbp"  # a home page, while there is none


def project(root=ROOT):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def home_page(root):
    home = project(root)["urls"].get("Homepage", "")
    if not re.fullmatch(r"https://[\w.-]+/\S+", home):
        return 'pyproject.toml: no home page; write urls = { Homepage = "https://..." }'


def contact(root):
    if not [one for one in project(root)["maintainers"] if "@" in one.get("email", "")]:
        return 'pyproject.toml: nobody to write to; write maintainers = [{ name = "...", email = "..." }]'


def changes(root):
    version = project(root)["version"]
    first = re.search(r"^## (.*)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[1]
    found = re.fullmatch(rf"{re.escape(version)} \((\d{{4}}-\d\d-\d\d)\)", first)
    if not found:
        return f'CHANGELOG.md: its first heading is "{first}", wanted "{version} (the day as 2026-01-31)"'
    try:
        datetime.date.fromisoformat(found[1])
    except ValueError:
        return f"CHANGELOG.md: {found[1]} is no day"


def readme_is_of_a_release(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    if "There is no release yet" in text:
        return 'README.md: "There is no release yet"; say how to install the release'


def citation(root):
    """The fields that both files have; the version stands in pyproject.toml alone."""
    about, text = project(root), (root / "CITATION.cff").read_text(encoding="utf-8")
    fields = dict(re.findall(r'^([\w-]+): "?(.*?)"?$', text, re.M))
    wanted = {"title": about["name"], "abstract": about["description"], "license": about["license"]}
    wrong = [name for name, value in wanted.items() if fields.get(name) != value]
    wrong += ["version (say it in pyproject.toml alone)"] * ("version" in fields)
    if re.findall(r'^ +- name: "(.*)"$', text, re.M) != [one["name"] for one in about["authors"]]:
        wrong.append("authors")
    if wrong:
        return f"CITATION.cff: not as in pyproject.toml: {', '.join(wrong)}"


def description(root):
    """README.md as an index shows it: it can be rendered, and every link and picture leads to a file at the tag."""
    from readme_renderer import markdown

    setup = runpy.run_path(str(ROOT / "setup.py"))
    tag = f"v{project(root)['version']}"
    home = project(root)["urls"].get("Homepage", ANYWHERE).rstrip("/")
    text = setup["absolute"]((root / "README.md").read_text(encoding="utf-8"), home, tag)
    html = markdown.render(text)
    if html is None:
        return "README.md: cannot be rendered"
    targets = re.findall(r'(?:href|src)="([^"]+)"', html)
    lost = [one for one in targets if not re.match(r"https?://|#|mailto:", one)]
    for kind, path in re.findall(rf"{re.escape(home)}/(raw|blob)/{re.escape(tag)}/([^#\s]+)", "\n".join(targets)):
        lost += [path] * (not (root / path).exists() or (kind == "raw") != path.endswith(".svg"))
    if lost or len(targets) < 10:
        return f"README.md: leads nowhere on an index: {', '.join(lost) or 'it has hardly a link'}"


def tree(root):
    said = subprocess.run(["git", "-C", root, "status", "--porcelain"], capture_output=True, text=True)
    if said.returncode or said.stdout.strip():
        return "git: the tree has changes that are not committed"


CHECKS = {
    "a home page": home_page,
    "somebody to write to": contact,
    "CHANGELOG.md has the version and its day": changes,
    "README.md says how to install it": readme_is_of_a_release,
    "CITATION.cff": citation,
    "README.md on an index": description,
    "nothing that is not committed": tree,
}


def main(root=ROOT):
    lacks = 0
    for title, check in CHECKS.items():
        wrong = check(root)
        lacks += wrong is not None
        print(f"{'STOP' if wrong else 'ok  '}  {title}{f': {wrong}' if wrong else ''}")
    return bool(lacks)


if __name__ == "__main__":
    sys.exit(main())
