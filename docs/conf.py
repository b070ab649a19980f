"""The documentation's build. CONTRIBUTING.md has the commands; every warning is an error."""

from __future__ import annotations

import importlib
import inspect
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

import transportflows

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "transportflows"
author = "The transportflows founders"
project_copyright = "2026, the transportflows founders"
release = transportflows.__version__
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "myst_nb",
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
nb_execution_mode = "off"  # the notebook is shown with the outputs that it was committed with

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
    ("py:class", "Figure"),  # Matplotlib's, whose inventory one name is not worth
]

# Where a class says that it lives, or what an annotation calls it: what its project documents.
ALIASES = {
    "Floats": "numpy.ndarray",
    "Integers": "numpy.ndarray",
    "Path": "pathlib.Path",
    "Tensor": "torch.Tensor",
    "torch._C.Generator": "torch.Generator",
    "torch.distributions.Distribution": "torch.distributions.distribution.Distribution",
    "torch.nn.Parameter": "torch.nn.parameter.Parameter",
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "torch.optim.adam.Adam": "torch.optim.Adam",
    "torch.optim.optimizer.Optimizer": "torch.optim.Optimizer",
    "torch.utils.data.dataloader.DataLoader": "torch.utils.data.DataLoader",
    "torch.utils.data.dataset.Dataset": "torch.utils.data.Dataset",
    "torch.utils.data.dataset.IterableDataset": "torch.utils.data.IterableDataset",
}

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

# ------------------------------------------------------------------- nothing public is left out

PUBLIC = [
    "",
    "datasets",
    "metrics",
    "networks",
    "oracles",
    "plots",
    "samplers",
    "testing",
    "training",
]


def public_objects() -> dict[str, Any]:
    """Everything in the ``__all__`` of the package and of its public namespaces, by full name."""
    found = {}
    for name in PUBLIC:
        path = f"transportflows.{name}".rstrip(".")
        module = importlib.import_module(path)
        found.update({f"{path}.{key}": getattr(module, key) for key in module.__all__})
    return found


def missing_names(documented: set[str]) -> list[str]:
    """What is public and not among the documented names.

    An object may be documented under any of the names by which it is public. A public method of a
    class must be documented in it, or in a class that it inherits from.
    """
    objects = public_objects()
    names: dict[int, list[str]] = {}
    for name, value in objects.items():
        names.setdefault(id(value), []).append(name)
    homes = {
        value: name
        for name, value in objects.items()
        if inspect.isclass(value) and name in documented
    }
    missing = []
    for same in names.values():
        value = objects[same[0]]
        if not inspect.ismodule(value) and not documented.intersection(same):
            missing.append(same[0])
        if not inspect.isclass(value):
            continue
        for key, member in vars(value).items():
            if key.startswith("_") or not (inspect.isroutine(member) or hasattr(member, "__get__")):
                continue
            if not any(f"{homes.get(base)}.{key}" in documented for base in value.__mro__):
                missing.append(f"{same[0]}.{key}")
    return sorted(missing)


def check_public(app: Sphinx, env: Any) -> None:
    """Warn, which fails a strict build, of everything public that no page documents."""
    for name in missing_names(set(env.domaindata["py"]["objects"])):
        logging.getLogger(__name__).warning("public, but in no page: %s", name, type="public")


def resolve(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Follow a name that docstrings use inside the package, or that another project hides.

    Docstrings say ``Regression`` where the pages document ``transportflows.Regression``.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target in ALIASES:
        node["reftarget"] = ALIASES[target]  # for intersphinx, which is asked next
        return None
    python = env.get_domain("py")
    matches = python.find_obj(env, None, None, target, None, 1)
    found = [name for name, entry in matches if not entry.aliased]
    near = [name for name in found if name.startswith(f"{node.get('py:module')}.")]
    found = near or found
    if len(found) != 1:
        return None
    return python.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], found[0], node, contnode
    )


def shorten_defaults(app: Sphinx, *described: Any) -> tuple[str | None, str | None]:
    """Write the default of a dataclass's field that a function makes as an ellipsis."""
    signature, returns = described[-2:]
    return signature and signature.replace("<factory>", "..."), returns


def hide_object(app: Sphinx, domain: str, kind: str, content: Any) -> None:
    """Say nothing of the base that every class has."""
    for paragraph in list(content.children):
        if paragraph.astext() == "Bases: object":
            content.remove(paragraph)


def bring_notebooks(app: Sphinx, config: Any) -> None:
    """Copy the notebooks of examples/ to where Sphinx looks for pages."""
    for source in sorted((ROOT / "examples").glob("*.ipynb")):
        copy = HERE / source.name
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            shutil.copyfile(source, copy)


def setup(app: Sphinx) -> None:
    """Connect the checks."""
    app.connect("config-inited", bring_notebooks)
    app.connect("autodoc-process-signature", shorten_defaults)
    app.connect("env-updated", check_public)
    app.connect("object-description-transform", hide_object)
    app.connect("missing-reference", resolve, priority=400)
