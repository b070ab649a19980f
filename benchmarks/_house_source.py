"""The source of the library, parsed: what ``_house_structure.py`` counts in it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

__all__ = ["Source"]

_SCALES = {"noise_scale_sq", "noise_scale", "scale_sq", "variance", "square", "noise", "noise_sq"}
_GROWTHS = {"beta_dot", "growth"}
_RATES = {"noise_scale_sq_dot", "noise_scale_dot", "scale_sq_dot", "half_dot", "variance_dot"}


class Source:
    """All modules of the library, parsed.

    Args:
        root: the folder of the package.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.texts = {self._name(p): p.read_text() for p in sorted(root.rglob("*.py"))}
        self.trees = {name: ast.parse(text) for name, text in self.texts.items()}
        self.packages = {self._name(p) for p in root.rglob("__init__.py")}

    def _name(self, path: Path) -> str:
        parts = path.relative_to(self.root.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    # ------------------------------------------------------------------------------- lengths

    @property
    def lines(self) -> int:
        """Lines of src."""
        return sum(len(text.splitlines()) for text in self.texts.values())

    @property
    def code(self) -> int:
        """Lines that are not blank, comments or docstrings."""
        return sum(_code_lines(self.texts[m], tree, tree) for m, tree in self.trees.items())

    @property
    def long_files(self) -> list[str]:
        """Files over 300 lines."""
        sizes = {m: len(text.splitlines()) for m, text in self.texts.items()}
        return [f"{m} ({n})" for m, n in sizes.items() if n > 300]

    def functions(self) -> Iterator[tuple[str, ast.FunctionDef]]:
        """Functions and methods, with their module and class in the name."""
        for module, tree in self.trees.items():
            yield from _functions(tree, module)

    @property
    def long_functions(self) -> list[str]:
        """Functions over 60 lines."""
        found = []
        for name, node in self.functions():
            text = self.texts[_module(name, self.texts)]
            size = _code_lines(text, node, node, comments=True)
            if size > 60:
                found.append(f"{name} ({size})")
        return found

    @property
    def forwarding(self) -> list[str]:
        """Functions whose body only forwards."""
        return [name for name, node in self.functions() if _forwards(node, self._own(name))]

    def _own(self, function: str) -> set[str]:
        """Names in a module that are the library's: defined there, or imported from it."""
        tree = self.trees[_module(function, self.texts)]
        defined = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        for node in ast.walk(tree):
            top = self.root.name
            if isinstance(node, ast.ImportFrom) and (
                node.level or (node.module or "").split(".")[0] == top
            ):
                defined |= {alias.asname or alias.name for alias in node.names}
        return defined

    # ------------------------------------------------------------------------------- imports

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Modules of the library that each one imports."""
        return {m: set(self._imports(m, tree)) - {m} for m, tree in self.trees.items()}

    def _imports(self, module: str, tree: ast.Module) -> Iterator[str]:
        inside = module.split(".") if module in self.packages else module.split(".")[:-1]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (a.name for a in node.names if a.name in self.trees)
            if isinstance(node, ast.ImportFrom):
                base = inside[: len(inside) - node.level + 1] if node.level else []
                place = ".".join([*base, *([node.module] if node.module else [])])
                if place in self.trees:
                    names = {f"{place}.{alias.name}" for alias in node.names}
                    yield from names & self.trees.keys()
                    if not names <= self.trees.keys():
                        yield place

    @property
    def circles(self) -> list[list[str]]:
        """Modules that import one another."""
        return [sorted(part) for part in _components(self.imports) if len(part) > 1]

    # -------------------------------------------------------------------------- counted uses

    def _calls(self, name: str, but: tuple[str, ...]) -> list[str]:
        return [
            f"{module}:{node.lineno}"
            for module, tree in self._beside(but)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and _last(node.func) == name
        ]

    def _beside(self, but: tuple[str, ...]) -> Iterator[tuple[str, ast.Module]]:
        for module, tree in self.trees.items():
            if not set(but) & set(module.split(".")):
                yield module, tree

    @property
    def step_loops(self) -> list[str]:
        """Progress bars outside training."""
        return self._calls("tqdm", ("training",))

    @property
    def weighed(self) -> list[str]:
        """Functions that weigh predictions: ``Combination.of``, and all that call ``predict`` and
        add up what it gives by themselves.
        """
        found = []
        for name, node in self.functions():
            words = {_last(n) or "" for n in ast.walk(node)}
            weighs = words & {"zip", "accumulate"} or any(w.startswith("weight") for w in words)
            if ("predict" in words and weighs and "of" not in words) or name.endswith(
                "Combination.of"
            ):
                found.append(name)
        return [name for name in found if ".losses." not in name]

    @property
    def deltas(self) -> list[str]:
        """Formulas of Δ = β̇ σ̂² - β σ̂σ̂̇."""
        found = []
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
                    sides = node.left, node.right
                    if _is_delta(*sides) or _is_delta(*sides[::-1]):
                        found.append(module)
        return sorted(set(found))

    @property
    def one_sided(self) -> list[str]:
        """What asks what kind of process it has, outside the file that defines that.

        Reads of ``.one_sided``, and tests whether a part is a ``GaussianPart``.
        """
        homes = {
            _module(name, self.texts) for name, node in self.functions() if node.name == "one_sided"
        }
        return [
            f"{module}:{node.lineno}"
            for module, tree in self.trees.items()
            if module not in homes
            for node in ast.walk(tree)
            if (isinstance(node, ast.Attribute) and node.attr == "one_sided")
            or (_asks_gaussian(node) and not module.endswith(".gaussian_part"))
        ]


def _asks_gaussian(node: ast.AST) -> bool:
    """``isinstance(..., GaussianPart)``."""
    return (
        isinstance(node, ast.Call)
        and _last(node.func) == "isinstance"
        and _last(node.args[1]) == "GaussianPart"
    )


def _is_delta(one: ast.AST, other: ast.AST) -> bool:
    """Whether ``one`` is a product with a noise scale, and ``other`` has its rate."""
    if not (isinstance(one, ast.BinOp) and isinstance(one.op, ast.Mult)):
        return False
    words = {_last(n) or "" for n in ast.walk(one)}
    rates = {_last(n) or "" for n in ast.walk(other)}
    return bool(words & _SCALES) and bool(words & _GROWTHS) and bool(rates & _RATES)


def _last(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


def _module(name: str, modules: dict[str, str]) -> str:
    while name not in modules:
        name = name.rpartition(".")[0]
    return name


def _functions(node: ast.AST, place: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield f"{place}.{child.name}", child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{place}.{child.name}")


def _docstrings(node: ast.AST) -> set[int]:
    lines: set[int] = set()
    for inner in ast.walk(node):
        value = inner.value if isinstance(inner, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            lines |= set(range(inner.lineno, (inner.end_lineno or 0) + 1))
    return lines


def _code_lines(text: str, tree: ast.AST, node: ast.AST, *, comments: bool = False) -> int:
    """Lines of a node without blank ones and docstrings, and without comments unless asked."""
    lines = text.splitlines()
    first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(lines))
    skipped = _docstrings(tree)
    return sum(
        1
        for k in range(first, last + 1)
        if k not in skipped
        and lines[k - 1].strip()
        and (comments or not lines[k - 1].strip().startswith("#"))
    )


def _forwards(node: ast.FunctionDef, own: set[str]) -> bool:
    body = [
        s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
    ]
    if len(body) != 1 or not isinstance(body[0], (ast.Return, ast.Expr)):
        return False
    call = body[0].value
    if not isinstance(call, ast.Call):
        return False
    root: Any = call.func
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name) or root.id not in own | {"self", "cls"}:
        return False
    spec = node.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    stars = [a.arg for a in (spec.vararg, spec.kwarg) if a is not None]
    names = [n for n in names if n not in ("self", "cls")] + stars
    given: list[str | None] = []
    for argument in (*call.args, *(k.value for k in call.keywords)):
        value = argument.value if isinstance(argument, ast.Starred) else argument
        given.append(value.id if isinstance(value, ast.Name) else None)
    return bool(names) and None not in given and sorted(names) == sorted(map(str, given))


def _components(edges: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            found.append(set(stack[at:]))
            del stack[at:]

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 10_000))
    try:
        for node in edges:
            if node not in index:
                visit(node)
    finally:
        sys.setrecursionlimit(limit)
    return found
