"""The settings of the site. `make docs` lays the sources out, this file among them (tools/site.py), and runs Sphinx."""

import os
import re
import tomllib
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from numpydoc import xref
from sphinx import addnodes
from sphinx.util.nodes import make_refnode

import fastbp
import fastbp.typing

os.environ["MPLBACKEND"] = "agg"
HERE = Path(__file__).resolve().parent
ROOT = Path(fastbp.__file__).resolve().parents[1]
about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project, version, author = about["name"], about["version"], about["authors"][0]["name"]
copyright = f"{author}; BSD-3-Clause"
extensions = [
    "myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode",
    "sphinx_copybutton", "sphinx_design", "sphinx_gallery.gen_gallery",
]  # fmt: skip
exclude_patterns = ["examples", "extra"]
suppress_warnings = ["config.cache"]  # functions in sphinx_gallery_conf: every build is from scratch
nitpicky = False  # types of NumPy and scikit-learn lead nowhere: nothing is fetched from their sites

# ------------------------------------------------------------------ Markdown, as GitHub reads it

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]  # for the cards of the start page
myst_fence_as_directive = ["math"]
html_math_renderer = "mathml"

# ------------------------------------------------------------------ docstrings

default_role = "py:obj"  # `name` in a docstring is a link where there is such a name
autosummary_generate = False  # tools/site.py makes the pages
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# In an annotation names of `fastbp.typing` stay names.
TYPES = {name for name in vars(fastbp.typing) if re.search(r"Like$|Name$", name)}
TYPES |= {"Array", "Rows", "Examples", "ClassWeight", "Batches", "Networks", "Each", "File", "Sizes", "Layers"}
autodoc_type_aliases = {name: f"fastbp.typing.{name}" for name in TYPES}
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
numpydoc_xref_aliases = {name: f"fastbp.{name}" for name in fastbp.__all__ if not name.islower()}
numpydoc_xref_aliases |= {path: path for path in numpydoc_xref_aliases.values()}
numpydoc_xref_ignore = "all"  # but for those: others would lead to the sites of Python and NumPy
xref.DEFAULT_LINKS.clear()
add_module_names = False
toc_object_entries_show_parents = "hide"

# ------------------------------------------------------------------ the gallery


def with_picture(gallery_conf, script_vars):
    """The arguments of an example: the file that it is to save its picture in, which matplotlib's scraper shows."""
    return [str(HERE / "picture.png")]


stored = "|".join(path.stem for path in (ROOT / "docs" / "site" / "stored").glob("*.txt"))
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": rf"/(?!({stored})\.py)\w+\.py$",
    "ignore_pattern": r"__init__\.py",
    "reset_argv": with_picture,
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 0,
    "remove_config_comments": True,
    "copyfile_regex": "",
    "default_thumb_file": str(HERE / "backpropagation.svg"),  # of an example without a picture: a network
    "abort_on_example_error": True,
    "notebook_extensions": {},
    "write_computation_times": False,
}

# ------------------------------------------------------------------ HTML

html_theme = "pydata_sphinx_theme"
html_title = f"fastbp {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["extra"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_last_updated_fmt = None
html_sidebars = {name: [] for name in ("index", "start", "benchmark", "changelog")}
html_theme_options = {
    "logo": {"text": "fastbp"},
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "show_toc_level": 2,
    "secondary_sidebar_items": {"**": ["page-toc"], "benchmark": []},  # its tables are wide
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
pygments_style = "a11y-high-contrast-light"


# ------------------------------------------------------------------ what Sphinx has no setting for


def formula(translator, node):
    """A formula as MathML, which browsers draw by themselves."""
    translator.body.append(convert(node.astext(), display="block" if isinstance(node, nodes.math_block) else "inline"))
    raise nodes.SkipNode


def finished(app, pagename, templatename, context, doctree):
    """A page whose name ends in .zh is Chinese, and says so. A source has no links back: viewcode gets some wrong."""
    if pagename.endswith(".zh"):
        context["language"] = "zh"
    if pagename.startswith("_modules/"):
        context["body"] = re.sub(r'<a class="viewcode-back".*?</a>', "", context["body"])


MEANT = {name: f"fastbp.rows.{name}" for name in ("Activation", "Loss", "Optimizer")}
MEANT |= {"Sequence": "collections.abc.Sequence"} | {name: f"{name}=" for name in ("activation", "backend", "loss")}


def meant(app, doctree):
    """In an annotation `Loss` is the kind of row (`fastbp.Loss` makes one of your own), `Sequence` no schedule.

    `loss` is the argument of that name, not the decorator.
    """
    for node in doctree.findall(addnodes.pending_xref):
        node["reftarget"] = MEANT.get(node["reftarget"], node["reftarget"])


def found(app, env, node, contnode):
    """`fit` is that of a network where nothing nearer has the name; `MLP.fit` is found from any page."""
    objects = env.domains["py"].objects
    for name in (f"fastbp.{node['reftarget']}", f"fastbp.MLP.{node['reftarget']}"):
        if name in objects and ("." in node["reftarget"] or objects[name].objtype == "method"):
            return make_refnode(app.builder, node["refdoc"], objects[name].docname, name, contnode)


def setup(app):
    app.connect("missing-reference", found)
    app.connect("doctree-read", meant)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    app.connect("html-page-context", finished)
