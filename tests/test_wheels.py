"""What is looked at in a wheel, the Pythons that get one, workflows that build elsewhere, and what a release lacks."""

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
wheels = runpy.run_path(str(ROOT / "tools" / "wheels.py"))
release = runpy.run_path(str(ROOT / "tools" / "release.py"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

NAME = "fastbp-0.1.0-cp312-cp312-manylinux_2_28_x86_64.whl"
DYNAMIC = """
 0x0000000000000001 (NEEDED)             Shared library: [libstdc++.so.6]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
"""
SYMBOLS = """
     3: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND memcpy@GLIBC_2.14 (6)
     4: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND pthread_create@GLIBC_2.28 (2)
   300: 0000000000041f20    48 FUNC    GLOBAL DEFAULT   12 PyInit__engine
   301: 0000000000061f20    16 FUNC    GLOBAL DEFAULT   12 fastbp_thread_limit
"""
STARTED = """
   302: 0000000000001000     1 FUNC    GLOBAL DEFAULT    8 _init
   303: 0000000000091000     1 FUNC    GLOBAL DEFAULT   10 _fini
"""  # musl's start-up code


def said(name=NAME, size=3_000_000, dynamic=DYNAMIC, symbols=SYMBOLS):
    return "; ".join(wheels["objections"](name, size, dynamic, symbols))


def test_a_wheel_that_keeps_what_its_tag_says_is_not_objected_to():
    assert said() == ""
    musl = SYMBOLS.replace("@GLIBC_2.14", "").replace("@GLIBC_2.28", "")
    packed = DYNAMIC.replace("libstdc++.so", "libstdc++-1a2b3c4d.so") + " 0x1d (RUNPATH)  Library runpath: [$ORIGIN/x]"
    assert said("fastbp-0.1.0-cp312-cp312-musllinux_1_2_x86_64.whl", dynamic=packed, symbols=musl + STARTED) == ""
    assert "exports _fini, _init" in said(symbols=SYMBOLS + STARTED)
    assert said(dynamic=packed).count(";") == 1


@pytest.mark.parametrize(
    "changed, wanted",
    [
        ({"size": 5 * 2**20}, "it has 5.0 MiB, more than 4"),
        ({"dynamic": DYNAMIC.replace("libc.so.6", "libgomp.so.1")}, "its module needs libgomp"),
        ({"dynamic": DYNAMIC + " 0x1d (RUNPATH)  Library runpath: [$ORIGIN/x]"}, "folders of its own"),
        ({"symbols": SYMBOLS.replace("2.28", "2.34")}, "needs glibc 2.34, its tag says 2.28"),
        ({"symbols": SYMBOLS.replace("PyInit__engine", "PyInit_engine")}, "exports PyInit__engine, PyInit_engine, or"),
        ({"symbols": SYMBOLS.replace("fastbp_thread_limit", "_ZN3fbp4made")}, "_ZN3fbp4made"),
        ({"name": "fastbp-0.1.0-cp312-cp312-linux_x86_64.whl"}, "it has no tag of a manylinux"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_said(changed, wanted):
    assert wanted in said(**changed)


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("readelf"), reason="looks at ELF files, with readelf")
def test_the_module_in_a_wheel_is_found_and_looked_at(tmp_path):
    engine = pytest.importorskip("fastbp._engine")
    path = tmp_path / NAME.replace("manylinux_2_28", "linux")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(engine.__file__, f"fastbp/{Path(engine.__file__).name}")
        archive.write(ROOT / "fastbp" / "_engine.pyi", "fastbp/_engine.pyi")
        archive.writestr("fastbp.libs/libstdc++.so", "")
    assert list(wheels["look"](path)) == ["libraries were packed into it", "it has no tag of a manylinux or musllinux"]


def test_the_oldest_numpy_from_2_on_and_the_newest_are_tried():
    assert wheels["ends"](["1.26.4", "2.0.0rc1", "2.0.0", "2.10.1", "2.9.0", "2.11.0rc1"]) == ["2.0.0", "2.10.1"]
    assert wheels["ends"](["2.3.2"]) == ["2.3.2", "2.3.2"]


def test_each_cpython_that_is_new_enough_gets_one_wheel(tmp_path):
    stand_in = tmp_path / "python3.12"  # pyenv's, of a version that is not chosen
    stand_in.write_text("#!/bin/sh\nexit 127\n")
    old = tmp_path / "python3.10"
    old.write_text("#!/bin/sh\necho '[\"cpython\", [3, 10], false, \"/old\"]'\n")
    for one in (stand_in, old):
        one.chmod(0o755)
    found = wheels["pythons"]([str(stand_in), str(old), sys.executable, sys.executable])
    assert list(found) == [(sys.version_info[:2], False)] and wheels["name"]((3, 14), True) == "3.14t"


def test_the_short_suite_fails_where_something_is_wrong(tmp_path):
    """In this tree it is told that this is one; with a kernel's result changed, that too."""
    done = subprocess.run([sys.executable, ROOT / "tests" / "short.py"], cwd=ROOT, capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""})  # fmt: skip
    assert done.returncode == 1 and "this is a tree of sources" in done.stdout and "6 of 7 passed" in done.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import runpy, sys, fastbp\nreal = fastbp.MLP.predict\n"
        "fastbp.MLP.predict = lambda net, X: real(net, X) * (1.01 if net.backend == 'cython' else 1)\n"
        f"sys.exit(runpy.run_path({str(ROOT / 'tests' / 'short.py')!r})['main']())\n"
    )
    done = subprocess.run([sys.executable, wrong], cwd=tmp_path, capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""})  # fmt: skip
    assert "FAILED test_every_instruction_set_trains_as_numpy_does" in done.stdout


# ------------------------------------------------------------------ elsewhere


@pytest.mark.skipif(not WORKFLOWS, reason="the sdist does not hold them")
def test_the_workflows_can_be_read_and_name_what_there_is():
    yaml = pytest.importorskip("yaml")
    jobs = {name: job for path in WORKFLOWS for name, job in yaml.safe_load(path.read_text())["jobs"].items()}
    assert {"wheels", "sdist", "tests", "gates"} <= set(jobs)
    machines = " ".join(jobs["wheels"]["strategy"]["matrix"]["machine"])
    for kind in ("ubuntu-latest", "ubuntu-24.04-arm", "macos-15", "macos-15-intel", "windows-"):
        assert kind in machines
    makefile = (ROOT / "Makefile").read_text()
    for job in jobs.values():
        for step in job["steps"]:
            for tool in re.findall(r"\btools/\w+\.py", step.get("run", "")):
                assert (ROOT / tool).exists(), tool
            for target in re.findall(r"^make (?:-k )?([\w-]+)", step.get("run", "")):
                assert re.search(rf"^{target}:", makefile, re.M), target


def test_a_wheel_is_built_for_each_python_that_is_claimed():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    settings = config["tool"]["cibuildwheel"]
    built = re.findall(r"cp3(\d+)-\*", settings["build"])
    assert built == [str(minor) for minor in range(11, 16)] and config["project"]["requires-python"] == ">=3.11"
    assert "tools/wheels.py both" in settings["test-command"]
    for image in ("manylinux_2_28", "musllinux_1_2"):
        assert settings["linux"][f"{image.partition('_')[0]}-x86_64-image"] == image


# ------------------------------------------------------------------ a release


@pytest.fixture
def ready(tmp_path):
    """A tree in which nothing is lacking."""
    for name in ("CHANGELOG.md", "CITATION.cff", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("docs", "examples", "LICENSE", "CONTRIBUTING.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    change(tmp_path, "pyproject.toml", "urls = {}", 'urls = { Homepage = "https://host.example/o/fastbp" }')
    change(tmp_path, "pyproject.toml", "maintainers = []", 'maintainers = [{ name = "a", email = "a@host.example" }]')
    change(tmp_path, "CHANGELOG.md", "(not released)", "(2026-12-24)")
    change(tmp_path, "README.md", "There is no release yet", "There is one")
    return tmp_path


def change(root, name, old, new):
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new, 1))


CHECKS = {check.__name__: check for check in release["CHECKS"].values()}


def test_a_tree_that_is_ready_lacks_nothing(ready):
    skipped = {"tree", "description"}
    assert [(name, check(ready)) for name, check in CHECKS.items() if name not in skipped and check(ready)] == []


@pytest.mark.parametrize(
    "check, file, old, new, wanted",
    [
        ("home_page", "pyproject.toml", "https://host.example/o/fastbp", "", "no home page"),
        ("contact", "pyproject.toml", "a@host.example", "", "nobody to write to"),
        ("changes", "CHANGELOG.md", "(2026-12-24)", "(2026-13-24)", "is no day"),
        ("changes", "CHANGELOG.md", "## 0.1.0", "## 0.0.9", 'wanted "0.1.0'),
        ("readme_is_of_a_release", "README.md", "There is one", "There is no release yet", "There is no release yet"),
        ("citation", "CITATION.cff", "BSD-3-Clause", "MIT", "license"),
        ("citation", "CITATION.cff", "type: software", "version: 0.1.0", "version"),
        ("citation", "CITATION.cff", "the fastbp developers", "somebody", "authors"),
    ],
)
def test_what_a_release_lacks_is_said(ready, check, file, old, new, wanted):
    change(ready, file, old, new)
    assert wanted in CHECKS[check](ready)


def test_today_a_home_page_and_a_contact_are_lacking():
    """Remove this test with them."""
    assert "no home page" in CHECKS["home_page"](ROOT) and "nobody to write to" in CHECKS["contact"](ROOT)


def test_a_tree_with_changes_is_no_release(tmp_path):
    assert "not committed" in CHECKS["tree"](tmp_path)


def test_links_and_pictures_of_the_readme_lead_to_the_tag():
    absolute = runpy.run_path(str(ROOT / "setup.py"))["absolute"]
    text = (
        "![a](docs/a.svg) [b](docs/b.md#c) [d](https://e) [f](#g) `[h](i)`\n```sh\n[j](k)\n```\n"
        "[![l](m.svg)](n) [`o`](p)"
    )
    assert absolute(text, "https://h/o/r", "v1") == (
        "![a](https://h/o/r/raw/v1/docs/a.svg) [b](https://h/o/r/blob/v1/docs/b.md#c) [d](https://e) [f](#g) `[h](i)`\n"
        "```sh\n[j](k)\n```\n[![l](m.svg)](https://h/o/r/blob/v1/n) [`o`](https://h/o/r/blob/v1/p)"
    )


def test_every_link_of_the_readme_leads_to_a_file_of_the_tag():
    """`make release-check` looks at the page as it is rendered, too."""
    text = runpy.run_path(str(ROOT / "setup.py"))["absolute"]((ROOT / "README.md").read_text(), "https://h/o", "v1")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith("#")]
    assert len(targets) > 30 and all(re.match(r"https?://", one) for one in targets)
    ours = [one.split("/v1/")[1].partition("#")[0] for one in targets if one.startswith("https://h/o/")]
    assert len(ours) > 30 and [one for one in ours if not (ROOT / one).exists()] == []


def test_the_readme_as_an_index_shows_it(ready):
    pytest.importorskip("readme_renderer.markdown")
    assert CHECKS["description"](ready) is None
    change(ready, "README.md", "docs/sklearn.md", "docs/nowhere.md")
    assert "docs/nowhere.md" in CHECKS["description"](ready)
