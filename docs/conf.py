import posneg_rec

project = "posneg-rec"
author = "posneg-rec developers"
copyright = "2026, posneg-rec developers"
version = release = posneg_rec.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"posneg-rec {release}"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
# The docstrings name the types as scikit-learn does; signatures stay readable without them.
autodoc_typehints = "none"
napoleon_preprocess_types = True
# Fitted attributes are properties, with documentation of their own.
napoleon_use_ivar = True
# Terms are of scikit-learn's glossary, and a build must not need the network to reach it.
suppress_warnings = ["ref.term"]


def skip_metadata_requests(app, what, name, obj, skip, options):
    # scikit-learn adds these to every estimator, with links into its own user guide.
    return skip or (name.startswith("set_") and name.endswith("_request"))


def setup(app):
    app.connect("autodoc-skip-member", skip_metadata_requests)
