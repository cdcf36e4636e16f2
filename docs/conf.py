"""How Sphinx builds these pages; the ``docs`` session of nox runs it, and a warning is an error."""

import sys
from importlib.metadata import version as _version
from pathlib import Path

# Extensions of our own lie beside this file.
sys.path.insert(0, str(Path(__file__).parent))

project = "sockscope"
author = "The sockscope authors"
copyright = author
release = _version("sockscope")
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
    "myst_parser",
    "option_table",
]
root_doc = "index"
exclude_patterns = ["_build"]

# Single backquotes in docstrings name Python objects, as in Trio's.
default_role = "obj"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
# An attribute that has an annotation is documented by autodoc already.
napoleon_use_ivar = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "sphinx_rtd_theme"
html_title = f"sockscope {release}"
