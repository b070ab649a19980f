"""What public docstrings say: what is raised, shapes of tensors, sources of formulas, examples.

Read from the source: a function that raises by itself has a section that names what; one that takes
tensors says of what shape something is; a docstring with mathematics has a source.
"""

import ast
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import transportflows as tpf

LEAST = 0.6  # share of public objects with an example
MADE = ("__init__", "__new__", "__post_init__")
INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
PLAIN = {"NotImplementedError", "AttributeError", "KeyError"}  # of protocols of Python
SHAPES = re.compile(
    r"``\(\)``"  # one number
    r"|``\((?:[A-Za-z0-9_ +\-*×]+,|[a-z0-9]+\))"  # ``(B, *)``, ``(n,)``
    r"|\([A-Z], |\(B,|\(n,|\(N,|shape|broadcast"
)


@cache
def tree(file):
    return ast.parse(Path(file).read_text())


def public():
    """Functions and classes of the public namespaces, by name, each once."""
    spaces = [getattr(tpf, name) for name in tpf.__all__]
    found = {}
    for space in [*(one for one in spaces if isinstance(one, ModuleType)), tpf]:
        for name in space.__all__:
            value = inspect.unwrap(getattr(space, name))
            ours = (getattr(value, "__module__", None) or "").startswith("transportflows")
            if ours and isinstance(value, (type, FunctionType)):
                found.setdefault(value, f"{space.__name__}.{name}")
    return {name.removeprefix("transportflows."): value for value, name in found.items()}


PUBLIC = public()


def node(value):
    """A function or class in the source."""
    body = tree(sys.modules[value.__module__].__file__).body
    (found,) = (
        one
        for one in body
        if isinstance(one, (ast.ClassDef, ast.FunctionDef)) and one.name == value.__name__
    )
    return found


def functions(value):
    """Functions of an object, each with the docstring that speaks for it; none of the private."""
    written = node(value)
    own = ast.get_docstring(written)
    if isinstance(written, ast.FunctionDef):
        yield "", written, own
        return
    for one in written.body:
        if isinstance(one, ast.FunctionDef) and one.name in MADE:
            yield "", one, own
        elif isinstance(one, ast.FunctionDef) and not one.name.startswith("_"):
            text = ast.get_docstring(one)  # without one it has that of what it overrides
            if text is not None:
                yield f".{one.name}", one, text


def raised(function):
    """The names of what a function raises in its own lines; none of what a function makes."""
    found = set()
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        one = waiting.pop()
        if isinstance(one, INNER):
            continue
        if isinstance(one, ast.Try) and one.handlers:  # which say it in their own way
            waiting += [*one.handlers, *one.orelse, *one.finalbody]
            continue
        if isinstance(one, ast.With) and "_refusing" in ast.unparse(one.items[0]):  # of files
            continue
        if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call):
            found.add(ast.unparse(one.exc.func).rpartition(".")[2])
        waiting += ast.iter_child_nodes(one)
    return {name for name in found - PLAIN if re.fullmatch(r"[A-Z]\w+", name)}


def tensors(function):
    """The parameters that are tensors or data, not functions of them."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    notes = {
        one.arg: re.sub(r"Callable\[(\[[^\]]*\]|\.\.\.), [^\]]*\]", "", ast.unparse(one.annotation))
        for one in every
        if one.annotation is not None
    }
    return [name for name, note in notes.items() if re.search(r"\b(Tensor|DataLike)\b", note)]


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_raised_is_told(name):
    for method, function, text in functions(PUBLIC[name]):
        named = re.findall(r"(?m)^ +(\w+): ", (text or "").partition("Raises:")[2])
        missing = raised(function) - set(named)
        assert not missing, f"{name}{method} raises {missing}, and its docstring names {named}"


@pytest.mark.parametrize("name", PUBLIC)
def test_shapes_are_told(name):
    for method, function, text in functions(PUBLIC[name]):
        if given := tensors(function):
            assert SHAPES.search(text or ""), f"{name}{method} takes {given}: of what shape?"


@pytest.mark.parametrize("name", PUBLIC)
def test_formulas_have_a_source(name):
    text = inspect.getdoc(PUBLIC[name]) or ""
    if ":math:" in text or ".. math::" in text:
        assert "Source:" in text or re.search(r"\b(1[789]|20)\d\d\b", text), name


def test_most_have_an_example():
    """They run with the doctests."""
    having = [name for name, value in PUBLIC.items() if ">>>" in (value.__doc__ or "")]
    assert len(having) >= LEAST * len(PUBLIC), sorted(PUBLIC.keys() - set(having))


def test_what_is_missing_is_found():
    (function,) = ast.parse("def f(x: Tensor | None, g: Callable[[Tensor], Tensor]):\n"
                            "    if x is None:\n        raise ValueError(1)\n").body  # fmt: skip
    assert raised(function) == {"ValueError"}
    assert tensors(function) == ["x"]
    assert not SHAPES.search("Return x.")
    assert SHAPES.search("Return x, ``(B, *)``.")
    assert len(PUBLIC) > 400
