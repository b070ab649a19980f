"""The documentation's build. CONTRIBUTING.md has the commands; every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

import transportflows

sys.path.insert(0, str(Path(__file__).parent))  # the three extensions here

project = "transportflows"
author = "The transportflows founders"
project_copyright = "2026, the transportflows founders"
release = version = transportflows.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "mathml",
    "notebooks",
    "reference",
]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "figures", "inventories"]

# ------------------------------------------------------------------------------- the pages

html_theme = "furo"
html_title = f"transportflows {version}"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "native"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are shown with the outputs that they were committed with
nb_merge_streams = True

# Nothing of a page comes from another place: formulas are MathML, and notebooks have no widgets.
html_math_renderer = "mathml"
myst_update_mathjax = False
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
copybutton_selector = "div:not(.highlight-none, .cell_output *) > div.highlight pre"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

doctest_test_doctest_blocks = ""  # pytest runs those of the docstrings
doctest_global_setup = """
import torch
import transportflows as tpf
torch.manual_seed(0)
torch.set_num_threads(1)
"""

# ------------------------------------------------------------------------- names and their links

# The projects' own inventories where there is a network; otherwise the committed ones, which hold
# the few names used here (inventories/make.py).
intersphinx_mapping = {
    name: (url, (None, f"inventories/{name}.inv"))
    for name, url in {
        "python": "https://docs.python.org/3/",
        "numpy": "https://numpy.org/doc/stable/",
        "scipy": "https://docs.scipy.org/doc/scipy/",
        "torch": "https://docs.pytorch.org/docs/stable/",
    }.items()
}
intersphinx_timeout = 10

nitpicky = True
nitpick_ignore = [  # NumPy documents them as attributes, and an annotation asks for classes
    ("py:class", "numpy.float64"),
    ("py:class", "numpy.int64"),
    ("py:class", "numpy.random.mtrand.RandomState"),
    ("py:class", "numpy.random._generator.Generator"),
    ("py:class", "transportflows._core.registry._Class"),  # type variables
    ("py:class", "transportflows._core.distributed.T"),
    ("py:class", "Figure"),  # Matplotlib's, whose inventory two names are not worth
    ("py:class", "FuncAnimation"),
]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": True}
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = False
napoleon_custom_sections = ["Source"]
