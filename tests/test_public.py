"""What is public is documented, and speaks of public types alone."""

import builtins
import inspect
import sys
import typing
from types import FunctionType, ModuleType

import pytest

import transportflows as tpf


def namespaces():
    """The package, and the modules among its public names."""
    return [tpf, *(v for v in (getattr(tpf, n) for n in tpf.__all__) if isinstance(v, ModuleType))]


PUBLIC = {
    f"{space.__name__}.{name}".removeprefix("transportflows."): getattr(space, name)
    for space in namespaces()
    for name in space.__all__
    if not isinstance(getattr(space, name), ModuleType)
}
CLASSES = {name: value for name, value in PUBLIC.items() if isinstance(value, type)}


def ours(value):
    """Whether a class or function is defined in this package."""
    return (getattr(value, "__module__", None) or "").partition(".")[0] == "transportflows"


def functions_of(cls):
    """The public methods and properties of a class, inherited ones of this package too."""
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        member = getattr(member, "__func__", member)  # of a static or class method
        member = getattr(member, "fget", member)  # of a property
        member = getattr(member, "func", member)  # of a cached property
        member = inspect.unwrap(member) if isinstance(member, FunctionType) else member
        public = not name.startswith("_") or name in ("__init__", "__call__")
        if public and isinstance(member, FunctionType) and ours(member):
            yield name, member


def annotated():
    """All that has annotations a user reads: functions, methods, attributes of classes."""
    for name, value in PUBLIC.items():
        if isinstance(value, type) and ours(value):
            yield name, value
            yield from ((f"{name}.{key}", member) for key, member in functions_of(value))
        elif isinstance(value, FunctionType):
            yield name, inspect.unwrap(value)


class Whatever(type):
    """The type of a module that an inherited annotation names and this one does not import."""

    def __getattr__(cls, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return cls


class Anything(metaclass=Whatever):
    """A type of another package that is imported for type checkers alone."""

    def __class_getitem__(cls, _):
        return cls


class Names(dict):
    """The names of a module and the classes of this package; of another's, any will do."""

    def __missing__(self, name):
        if hasattr(builtins, name) or name.startswith("_"):
            raise KeyError(name)
        return Anything


def hints_of(value):
    """The annotations of a function or class, with the names imported for type checkers alone."""
    modules = [m for name, m in sys.modules.items() if name.startswith("transportflows.")]
    known = {name: one for m in modules for name, one in vars(m).items() if isinstance(one, type)}
    own = vars(sys.modules[value.__module__])
    return typing.get_type_hints(value, own, Names(known | own))


def mentioned(hint):
    """The classes in an annotation."""
    if isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    if isinstance(hint, typing.TypeVar) and hint.__bound__ is not None:
        yield from mentioned(hint.__bound__)
    for part in typing.get_args(hint):
        for one in part if isinstance(part, list) else [part]:
            yield from mentioned(one)


def private_types(what, hints, public):
    """The classes of this package in annotations that no public namespace has."""
    return sorted(
        f"{what}({key}): {cls.__module__}.{cls.__qualname__}"
        for key, hint in hints.items()
        for cls in set(mentioned(hint))
        if ours(cls) and cls not in public and not key.startswith("_")
    )


def test_no_public_signature_has_a_private_type():
    public = set(CLASSES.values())
    found = [
        line for name, value in annotated() for line in private_types(name, hints_of(value), public)
    ]
    assert not found, "\n".join(sorted(set(found)))


def test_a_private_type_is_found():
    class Hidden:
        __module__ = "transportflows.fields"

    hints = {"a": list[tuple[Hidden | None, ...]], "b": dict[str, int], "_c": Hidden}
    found = private_types("f", hints, set(CLASSES.values()))
    assert found == [f"f(a): transportflows.fields.{Hidden.__qualname__}"]
    assert not private_types("f", hints, {Hidden})
    (call,) = (h for n, h in typing.get_type_hints(taking).items() if n == "function")
    assert tpf.Process in set(mentioned(call))


def taking(function: typing.Callable[[tpf.Process], int]) -> None:
    """A function for the test above."""


@pytest.mark.parametrize("name", [n for n, v in PUBLIC.items() if callable(v)])
def test_everything_public_has_a_docstring(name):
    """Of four words or more; a method may have that of the method it overrides."""
    value = PUBLIC[name]
    bare = [name] if len((inspect.getdoc(value) or "").split()) < 4 else []
    if isinstance(value, type):
        for key, _ in functions_of(value):
            text = inspect.getdoc(getattr(value, key)) or ""
            if key not in ("__init__", "__call__") and len(text.split()) < 4:
                bare.append(f"{name}.{key}")
    assert not bare


def test_all_is_sorted_and_whole():
    for space in namespaces():
        assert len(set(space.__all__)) == len(space.__all__), space.__name__
        for name in space.__all__:
            assert hasattr(space, name), f"{space.__name__}.{name}"
