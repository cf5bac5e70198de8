"""The pages on back-propagation: every number is recomputed, and both languages have the same ones."""

import ast
import math
import re
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
from test_examples import ROOT, fenced_blocks, run_document

from fastbp.inspection.explain import flops

DOCS = ROOT / "docs"
PAGES = {name: (DOCS / name).read_text() for name in ("backpropagation.md", "backpropagation.zh.md")}
NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
MARKED = re.compile(rf"({NUMBER})<!--=(.*?)-->")
EQUATION = re.compile(rf"`([^`\n]+) = ({NUMBER})`")
every_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="module", params=PAGES)
def ran(request):
    """The text of a page, the names that its code has made, and how many outputs were compared."""
    return PAGES[request.param], *run_document(DOCS / request.param)


def prose(text):
    """What is neither code nor output nor comment: marked numbers, equations and formulas stay."""
    for block in fenced_blocks(text):
        if block[1] in ("python", "text"):
            text = text.replace(block[0], "")
    text = re.sub(r"<!--[^=].*?-->", "", text, flags=re.S)
    return re.sub(r"\]\([^)]*\)", "]", text)


def written_as(value, shown):
    """`value` with the digits and in the form of `shown`."""
    mantissa, e, _ = shown.partition("e")
    text = f"{value:.{len(mantissa.partition('.')[2])}{'e' if e else 'f'}}"
    return re.sub(r"e([+-])0?(\d)$", lambda found: "e" + found[1].strip("+") + found[2], text)


def test_the_code_runs_and_prints_what_stands_below_it(ran):
    text, _, shown = ran
    kinds = Counter(block[1] for block in fenced_blocks(text))
    assert shown == kinds["text"] > 8 and set(kinds) == {"python", "text", "math"}


def test_marked_numbers_are_the_values_of_their_expressions(ran):
    text, names, _ = ran
    marked = MARKED.findall(text)
    assert len(marked) == text.count("<!--=") == 13
    for shown, expression in marked:
        value = eval(expression.strip(), {**names, "flops": flops})
        assert written_as(value, shown) == shown, expression


@every_page
def test_equations_are_right_to_the_last_digit(page):
    equations = EQUATION.findall(PAGES[page])
    assert len(equations) == 15
    for expression, shown in equations:
        assert written_as(eval(expression, {"exp": math.exp}), shown) == shown, expression


def test_the_numbers_of_the_equations_are_those_of_the_step(ran):
    """Each of nine decimals is one of the trace, rounded."""
    text, names, _ = ran
    step = names["mazur_step"]
    known = [step.loss_before]
    for layer in step.layers:
        for array in (layer.z, layer.a, layer.g, layer.delta, layer.weight.grad, layer.weight.new):
            known += [*np.abs(array).ravel()]
    used = {word for equation in EQUATION.finditer(text) for word in re.findall(r"\d+\.\d{9}", equation[0])}
    assert len(used) > 12
    assert used - {f"{number:.9f}" for number in known} == set()


@every_page
def test_no_other_decimal_stands_in_the_text(page):
    rest = EQUATION.sub("", MARKED.sub("", prose(PAGES[page])))
    assert re.findall(r"\d+\.\d+|\d+e-?\d+", rest) == []


@every_page
def test_integers_of_the_text_are_those_of_the_code_and_its_output(page):
    text = PAGES[page]
    code = "".join(block[2] for block in fenced_blocks(text) if block[1] in ("python", "text"))
    known = set(re.findall(r"\d+", code.replace("_", ""))) | {"2015"}  # the year of the article
    rest = re.sub(r"(?<=\d),(?=\d{3})", "", EQUATION.sub("", MARKED.sub("", prose(text))))
    assert set(re.findall(r"\d+", rest)) - known == set()


def test_both_languages_have_the_same_code_output_and_numbers():
    english, chinese = PAGES.values()
    for kind in ("python", "text"):
        ours, theirs = ([block[2] for block in fenced_blocks(text) if block[1] == kind] for text in PAGES.values())
        if kind == "python":  # comments are translated
            ours, theirs = ([ast.dump(ast.parse(code)) for code in blocks] for blocks in (ours, theirs))
        assert ours == theirs
    assert MARKED.findall(english) == MARKED.findall(chinese)
    assert EQUATION.findall(english) == EQUATION.findall(chinese)
    numbers = [Counter(re.findall(NUMBER, re.sub(r"\\text\{[^}]*\}", "", prose(text)))) for text in PAGES.values()]
    assert numbers[0] == numbers[1]
    headings = [[len(found) for found in re.findall(r"^(#+) ", prose(text), re.M)] for text in PAGES.values()]
    assert headings[0] == headings[1]
    links = [sorted(re.findall(r"\]\(([^)]+)\)", text.replace(".zh.md", ".md"))) for text in PAGES.values()]
    assert links[0] == links[1]


def test_a_line_of_chinese_is_a_paragraph():
    """A break within one would be shown as a space."""
    plain = re.sub(r"^```.*?^```\n|<!--.*?-->", "", PAGES["backpropagation.zh.md"], flags=re.M | re.S)
    assert not re.findall(r"[^\n]\n(?!- |\n|$)[^\n]", plain.replace("\n#", "\n\n#"))


def test_the_figure_loads_nothing():
    text = (DOCS / "backpropagation.svg").read_text()
    ElementTree.fromstring(text)
    assert not re.search(r"href|url\((?!#)|<script|<image|@import", text)


def test_the_page_is_the_first_thing_that_the_readme_gives_to_read():
    text = (ROOT / "README.md").read_text().partition("New to the subject?")[2]
    assert re.findall(r"\]\(([^)]+)\)", text)[:2] == ["docs/backpropagation.md", "docs/backpropagation.zh.md"]
