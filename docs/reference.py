"""The reference: pages of names, the index by nouns, and that nothing public is left out."""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import transportflows

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

NAMESPACES = [
    getattr(transportflows, name)
    for name in transportflows.__all__
    if inspect.ismodule(getattr(transportflows, name))
]


@cache
def public_objects() -> dict[str, Any]:
    """Everything in the ``__all__`` of the package and of its namespaces, by full name."""
    return {
        f"{module.__name__}.{key}": getattr(module, key)
        for module in [*NAMESPACES, transportflows]
        for key in module.__all__
    }


@cache
def homes() -> dict[int, str]:
    """The name under which an object is documented: that of its namespace, else of the top."""
    names: dict[int, str] = {}
    for name, value in public_objects().items():
        names.setdefault(id(value), name)
    return names


@cache
def aliases() -> dict[str, str]:
    """The documented name, by every other one: at the top, and where the object is written."""
    home, found = homes(), {}
    for name, value in public_objects().items():
        found[name] = home[id(value)]
        if inspect.isroutine(value) or inspect.isclass(value):
            found[f"{value.__module__}.{value.__qualname__}"] = home[id(value)]
    return {name: target for name, target in found.items() if name != target}


class Names(SphinxDirective):
    """``.. names:: losses.weights``: a module's text, then each public name written in it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        try:
            module = importlib.import_module(f"transportflows.{self.arguments[0]}")
        except ImportError as error:
            raise self.error(f"no module to document: {error}") from error
        home = homes()
        names = [  # in the order in which they are written
            home[id(value)]
            for value in vars(module).values()
            if getattr(value, "__module__", None) == module.__name__ and id(value) in home
        ]
        lines = [f".. automodule:: {module.__name__}"]
        if inspect.isroutine(public_objects().get(module.__name__)):  # samplers.sample is both
            lines += ["   :no-index:"]
        if names:
            lines += ["", f".. currentmodule:: {names[0].rpartition('.')[0]}", ""]
            lines += [".. autosummary::", "   :nosignatures:", ""]
            lines += [f"   {name.rpartition('.')[2]}" for name in names]
        for name in names:
            value = public_objects()[name]
            kind = "class" if inspect.isclass(value) else "function"
            if kind == "class" and issubclass(value, BaseException):
                kind = "exception"
            lines += ["", f".. auto{kind}:: {name.rpartition('.')[2]}"]
            lines += ["   :members:"] if kind != "function" else []
            if hasattr(value, "_fields") and "Attributes:" in value.__doc__:
                lines += [f"   :exclude-members: {', '.join(value._fields)}"]
        return self.parse_text_to_nodes("\n".join(lines) + "\n")


NOUNS = {  # the pages of the reference, by what they are about
    "Paths and their laws": """
        process interpolants distributions couplings sdes gaussian_part noise_level
    """,
    "Fields": "fields networks oracles",
    "Learning them": "losses times training",
    "Solving them": "solve samplers langevin likelihood",
    "Steering them": "guidance inverse",
    "Other ways to move a law": "bridges maps particles plans",
    "Data, pictures, judgement": "datasets metrics plots estimators testing",
}


class Nouns(SphinxDirective):
    """``.. nouns::``: every public name with a line, by noun and page."""

    def run(self) -> list[nodes.Node]:
        rooms: dict[str, list[str]] = {}
        for name in sorted(set(homes().values()), key=str.lower):
            if not inspect.ismodule(public_objects()[name]):
                room = name.rpartition(".")[0].partition(".")[2] or "process"
                rooms.setdefault(room, []).append(name)
        told = {room for pages in NOUNS.values() for room in pages.split()}
        if told != set(rooms):
            raise self.error(f"NOUNS of conf.py and the namespaces differ in {told ^ set(rooms)}")
        lines = []
        for noun, pages in NOUNS.items():
            lines += [noun, "-" * len(noun), ""]
            for room in pages.split():
                plain = [n for n in rooms[room] if not callable(public_objects()[n])]  # tables
                others = [n for n in rooms[room] if n not in plain]
                lines += [f".. rubric:: :doc:`{room}`", "", ".. autosummary::", "   :nosignatures:"]
                lines += ["", *(f"   ~{name}" for name in others), ""]
                lines += [", ".join(f":obj:`~{name}`" for name in plain), ""]
        return self.parse_text_to_nodes("\n".join(lines) + "\n", allow_section_headings=True)


class Top(SphinxDirective):
    """``.. top::``: the names at the top, by the page that has them."""

    def run(self) -> list[nodes.Node]:
        home = homes()
        rooms: dict[str, list[str]] = {}
        for name in transportflows.__all__:
            value = getattr(transportflows, name)
            if not inspect.ismodule(value):
                room = home[id(value)].rpartition(".")[0].partition(".")[2] or "process"
                rooms.setdefault(room, []).append(f":obj:`~{home[id(value)]}`")
        lines = [f"- :doc:`{room}`: {', '.join(names)}" for room, names in sorted(rooms.items())]
        return self.parse_text_to_nodes("\n".join(lines) + "\n")


def missing_names(documented: set[str]) -> list[str]:
    """What is public and not among the documented names.

    A public method of a class must be documented in it, or in a class that it inherits from.
    """
    home = homes()
    missing = []
    for name in sorted(set(home.values())):
        value = public_objects()[name]
        if not inspect.ismodule(value) and name not in documented:
            missing.append(name)
        if not inspect.isclass(value):
            continue
        for key, member in vars(value).items():
            if key.startswith("_") or not (inspect.isroutine(member) or hasattr(member, "__get__")):
                continue
            if not any(f"{home.get(id(base))}.{key}" in documented for base in value.__mro__):
                missing.append(f"{name}.{key}")
    return sorted(missing)


def check_public(app: Sphinx, env: Any) -> None:
    """Warn, which fails a strict build, of everything public that no page documents."""
    for name in missing_names(set(env.domaindata["py"]["objects"])):
        logging.getLogger(__name__).warning("public, but in no page: %s", name, type="public")


def resolve(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Follow a name that docstrings use inside the package, or that another project hides.

    Docstrings say ``Regression`` where the pages document ``transportflows.losses.Regression``.
    """
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target in ALIASES:
        node["reftarget"] = ALIASES[target]  # for intersphinx, which is asked next
        return None
    owner, dot, member = target.rpartition(".")
    target = aliases().get(target, aliases().get(owner, owner) + dot + member)
    python = env.get_domain("py")
    matches = python.find_obj(env, None, None, target, None, 1)
    found = [name for name, entry in matches if not entry.aliased]
    module = node.get("py:module")
    near = [name for name in found if name.startswith(f"{module}.")]
    if node.get("py:class") and len(found) > 1:  # a docstring that a class inherits
        owner = public_objects().get(f"{module}.{node['py:class']}", object)
        bases = [homes().get(id(base)) for base in owner.__mro__]
        near = [f"{base}.{target}" for base in bases if f"{base}.{target}" in found][:1] or near
    found = near or [name for name in found if name in public_objects()] or found
    if len(found) != 1:
        return None
    return python.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], found[0], node, contnode
    )


def shorten_defaults(app: Sphinx, *described: Any) -> tuple[str | None, str | None]:
    """Write the default of a dataclass's field that a function makes as an ellipsis."""
    signature, returns = described[-2:]
    return signature and signature.replace("<factory>", "..."), returns


def hide_private(app: Sphinx, name: str, obj: Any, options: Any, bases: list[Any]) -> None:
    """Name no base of this package that is not public."""
    known = homes()
    bases[:] = [
        base
        for base in bases
        if id(base) in known or not getattr(base, "__module__", "").startswith("transportflows.")
    ] or [object]


def hide_object(app: Sphinx, domain: str, kind: str, content: Any) -> None:
    """Say nothing of the base that every class has."""
    for paragraph in list(content.children):
        if paragraph.astext() == "Bases: object":
            content.remove(paragraph)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives, and connect the checks."""
    app.add_directive("names", Names)
    app.add_directive("nouns", Nouns)
    app.add_directive("top", Top)
    app.connect("autodoc-process-bases", hide_private)
    app.connect("autodoc-process-signature", shorten_defaults)
    app.connect("env-updated", check_public)
    app.connect("object-description-transform", hide_object)
    app.connect("missing-reference", resolve, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
