import inspect
import pkgutil
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import states
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.nodes import make_refnode

import posneg_rec

project = "posneg-rec"
author = "posneg-rec developers"
copyright = "2026, posneg-rec developers"
version = release = posneg_rec.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "gallery/README.txt"]
nitpicky = True

html_theme = "pydata_sphinx_theme"
html_title = f"posneg-rec {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}
_ALONE = ("index", "getting_started", "method", "results", "changelog")  # in no section
html_sidebars = {page: [] for page in _ALONE}

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
# The docstrings name the types as scikit-learn does; signatures stay readable without them.
autodoc_typehints = "none"
numpydoc_show_class_members = False
toc_object_entries_show_parents = "hide"
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "copyfile_regex": r"^$",
    "backreferences_dir": None,
    "write_computation_times": False,
    "capture_repr": (),  # a page shows what is printed and drawn, not where an object lies
}

# Where other libraries describe a module's names. By rule and not by their inventories, so that a
# build needs no network; what cannot be imported is still a warning.
_ELSEWHERE = {
    "numpy": "https://numpy.org/doc/stable/reference/generated/{page}.html#{name}",
    "pandas": "https://pandas.pydata.org/docs/reference/api/{page}.html#{name}",
    "sklearn": "https://scikit-learn.org/stable/modules/generated/{page}.html#{name}",
    "torch": "https://docs.pytorch.org/docs/stable/generated/{page}.html#{name}",
}
_PYTHON = "https://docs.python.org/3/library/{module}.html#{name}"


def elsewhere(app, env, node, contnode):
    """Link what another library describes."""
    name = node.get("reftarget") or ""
    module, _, last = name.rpartition(".")
    if node.get("refdomain") != "py" or not module or module.startswith("posneg_rec"):
        return None
    page = module if node["reftype"] in ("meth", "attr") else name
    try:
        owner = pkgutil.resolve_name(module)
        getattr(owner, last)
    except (ImportError, AttributeError, ValueError):
        return None
    rule = _ELSEWHERE.get(module.partition(".")[0], _PYTHON)
    url = rule.format(page=page, name=name, module=module)
    return nodes.reference("", "", contnode, internal=False, refuri=url)


def _no_mail(self, match, lineno, found=states.Inliner.standalone_uri):
    # "NDCG@10" is no address, and there is none in these pages.
    if match.group("email"):
        raise states.MarkupMismatch
    return found(self, match, lineno)


states.Inliner.standalone_uri = _no_mail


def as_mathml(self, node):
    """Write a formula as browsers draw it by themselves: no script from another site is needed."""
    self.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def by_last_names(app, env, node, contnode):
    """Find what a docstring names as its readers do, without the modules that it is in."""
    if node.get("refdomain") != "py" or not node.get("reftarget"):
        return None
    domain = env.domains["py"]
    ending = f".{node['reftarget']}"
    found = sorted((name for name in domain.objects if name.endswith(ending)), key=len)
    if not found:
        return None
    entry = domain.objects[found[0]]
    return make_refnode(
        app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found[0]
    )


_PUBLIC = [
    pkgutil.resolve_name(f"posneg_rec.{name}")
    for name in re.findall(r"^   ([\w.]+)$", Path(__file__).with_name("api.md").read_text(), re.M)
]


def skip_member(app, what, name, obj, skip, options):
    # Members of a base class count where the base is ours: those of scikit-learn, with links into
    # its own guide, are not described here. A named tuple says of each field which number it has.
    made_of = obj.fget if isinstance(obj, property) else obj
    home = getattr(made_of, "__module__", None) or ""
    is_foreign = inspect.isroutine(made_of) and not home.startswith("posneg_rec")
    is_field = (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")
    # What is public has a page of its own, and is not described again with its room.
    is_public = what == "module" and any(obj is one for one in _PUBLIC)
    return skip or is_foreign or is_field or is_public or name.endswith("_request")


def setup(app):
    app.add_html_math_renderer("mathml", (as_mathml, None), (as_mathml, None))
    app.connect("autodoc-skip-member", skip_member)
    app.connect("missing-reference", by_last_names)
    app.connect("missing-reference", elsewhere)
