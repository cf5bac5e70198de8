"""The site: its sources lead to each other, every public name has a page, and the check of built pages sees faults."""

import inspect
import re
import runpy
from pathlib import Path

import pytest

import fastbp

ROOT = Path(__file__).resolve().parents[1]
site = runpy.run_path(str(ROOT / "tools" / "site.py"))
check = runpy.run_path(str(ROOT / "tools" / "site_check.py"))


@pytest.fixture(scope="module")
def laid(tmp_path_factory):
    """The sources of the site, as Sphinx is given them."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("site") / "source"
    site["lay"](folder)
    return folder


def test_every_page_of_the_repository_is_on_the_site(laid):
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    pages |= {"index.md", "contributing.md", "changelog.md", "extension.md"}
    assert pages <= {path.name for path in laid.glob("*.md")}


def test_every_page_is_in_a_table_of_contents_once(laid):
    table = re.compile(r"^```\{toctree\}\n(.*?)^```|^\.\. toctree::\n(.*?)(?=^\S|\Z)", re.M | re.S)
    entries, made = [], set()
    for path in (*laid.rglob("*.md"), *laid.rglob("*.rst")):
        made.add(path.relative_to(laid).as_posix().rpartition(".")[0])
        for found in table.findall(path.read_text()):
            lines = [line.strip() for line in "".join(found).splitlines()]
            entries += [(path.parent / line).relative_to(laid).as_posix() for line in lines if line and line[0] != ":"]
    assert len(entries) == len(set(entries))
    assert set(entries) == made - {"index", "examples/GALLERY_HEADER"} | {"gallery/index"}


def test_links_between_pages_lead_to_sources_of_the_site(laid):
    seen = 0
    for path in laid.glob("*.md"):
        for target, _ in site["LINK"].findall(re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)):
            target = re.sub(r"^gallery/(\w+)\.rst$", r"examples/\1.py", target).replace("examples/index.py", "examples")
            assert target == "learn/index.html" or (laid / target).exists(), f"{path.name}: {target}"
            seen += 1
    assert seen > 100


def test_a_link_that_leads_off_the_site_is_refused():
    with pytest.raises(ValueError, match=r"docs/x\.md links to src/train\.cpp, which is not on the site"):
        site["linked"]("[the loop](../src/train.cpp)", "docs/x.md")
    assert site["linked"]("`nets[0](x)`, [a](run.md#b)", "docs/x.md") == "`nets[0](x)`, [a](run.md#b)"
    assert site["linked"]("[a](docs/run.md) [b](examples/xor.py)", "README.md") == "[a](run.md) [b](gallery/xor.rst)"


def test_a_section_that_the_readme_lacks_is_told():
    assert "pip install" in site["section"]("Install")
    with pytest.raises(ValueError, match="README.md has no section 'Upgrade'"):
        site["section"]("Upgrade")


def test_every_public_name_has_a_page(laid):
    import fastbp.sklearn

    pages = [path.stem.removesuffix("-function") for path in laid.glob("api/*.rst")]
    names = {f"fastbp.{name}" for name in fastbp.__all__}
    names |= {f"fastbp.sklearn.{name}" for name in fastbp.sklearn.__all__}
    for name in fastbp.__all__:
        module = getattr(fastbp, name)
        if inspect.ismodule(module):  # as in tests/test_repo.py
            for one, thing in inspect.getmembers(module, inspect.isfunction):
                if thing.__module__ == module.__name__ and one[0] != "_":
                    names.add(f"fastbp.{name}.{one}")
    assert sorted(names - {*pages}) == []
    assert len(pages) == len(set(pages)), "two pages of one name"
    files = [path.name.lower() for path in laid.glob("api/*.rst")]
    assert len(files) == len(set(files)), "some file systems take these for one"


def test_every_public_name_is_in_the_reference_under_one_heading():
    groups = site["groups"]()
    names = [name for listed in groups.values() for name in listed]
    assert sorted(names) == sorted([*fastbp.__all__, "sklearn"])


def test_every_method_of_a_network_is_documented():
    methods = {name for name, value in vars(fastbp.MLP).items() if inspect.isfunction(value) and name[0] != "_"}
    assert methods <= {*site["methods"](fastbp.MLP)}
    assert "is_plain" not in site["methods"](fastbp.SGD)


def test_examples_have_a_title_a_text_and_their_code():
    titles = []
    for path in (ROOT / "examples").glob("*.py"):
        text = site["example"](path)
        title, line, empty = text.splitlines()[1:4]
        assert len(title) < 80 and line == "=" * len(title) and not empty
        titles.append(title)
        shown = compile(text, path.name, "exec"), compile(path.read_text(), path.name, "exec")
        assert [code.co_names for code in shown][0] == [code.co_names for code in shown][1]
    assert "# %%\n# The picture (needs" in text
    assert len(titles) == len(set(titles))


def test_an_example_that_is_not_run_shows_what_it_printed():
    stored = sorted((ROOT / "docs" / "site" / "stored").glob("*.txt"))
    assert stored
    for path in stored:
        text = site["example"](ROOT / "examples" / f"{path.stem}.py")
        assert all(f"#     {line}\n" in text for line in path.read_text().splitlines())


def test_what_the_site_is_built_with_is_pinned():
    lines = (ROOT / "docs" / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and line[0] != "#"]
    assert len(pins) > 30 and all(re.fullmatch(r"[a-z0-9-]+==[0-9.post]+", pin) for pin in pins)


# ------------------------------------------------------------------ the check of what was built


@pytest.mark.parametrize(
    "body, fault",
    [
        ("<a href='b.html'>", None),
        ("<a href='b.html#there'>", None),
        ("<a href='#here'>", None),
        ("<a href='b.html#step=2'>", None),
        ("<a href='https://elsewhere'>", None),
        ("<img src='data:image/png;base64,'>", None),
        ("<a href='c.html'>", "a.html: c.html leads nowhere"),
        ("<a href='c.html#step=2'>", "a.html: c.html#step=2 leads nowhere"),
        ("<img src='c.png'>", "a.html: c.png leads nowhere"),
        ("<a href='b.html#gone'>", "a.html: no anchor b.html#gone"),
        ("<a href='#gone'>", "a.html: no anchor #gone"),
        ("<script src='https://elsewhere/x.js'></script>", "a.html: <script> fetches https://elsewhere/x.js"),
        ("<link rel='stylesheet' href='//elsewhere/x.css'>", "a.html: <link> fetches //elsewhere/x.css"),
        ("<img src='http://elsewhere/x.png'>", "a.html: <img> fetches http://elsewhere/x.png"),
        ("<style>@import 'https://elsewhere/x.css';</style>", "a.html: its style fetches @import 'https://elsewhere/x.css'"),
        ("<p style='background: url(//elsewhere/x.png)'>", "a.html: its style fetches url(//elsewhere/x.png"),
    ],
)
def test_a_fault_of_a_page_is_seen(tmp_path, body, fault):
    (tmp_path / "a.html").write_text(f"<h1 id='here'>A</h1>{body}")
    (tmp_path / "b.html").write_text("<h1 id='there'>B</h1>")
    assert list(check["faults"](tmp_path)) == ([fault] if fault else [])


def test_a_font_from_elsewhere_is_seen(tmp_path):
    (tmp_path / "a.html").write_text("")
    (tmp_path / "a.css").write_text("@font-face { src: url('https://elsewhere/a.woff2') } p { background: url(b.png) }")
    (found,) = check["faults"](tmp_path)
    assert found.startswith("a.css: fetches url('https://elsewhere/a.woff2'")


def test_a_folder_without_pages_is_no_site(tmp_path):
    assert list(check["faults"](tmp_path)) == [f"{tmp_path}: no page"]
