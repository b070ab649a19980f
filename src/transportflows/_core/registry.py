"""Classes by name, with which files and people tell objects: the class and its arguments.

A class that a file may name is a :class:`Storable`, which makes it known when it is defined, or was
given to :func:`register`. What a file names is looked up among those and never imported, but for
namespaces of the library that nobody has used yet. Classes of the library go by their bare names,
so that they may move between modules; a user's own by ``module.qualname``.

An object is told by the arguments that would build it again: ``config()``, written by the class
that writes ``__init__`` or by one below it. An inherited ``config`` serves where it tells all that
the constructor takes; otherwise the class is only named.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from .built import Built
from .digests import digest
from .precision import Movable

__all__ = [
    "Storable",
    "UnknownClassError",
    "alike",
    "decode",
    "encode",
    "full_name",
    "register",
    "told",
]

_KNOWN: WeakValueDictionary[str, type] = WeakValueDictionary()
_Class = TypeVar("_Class", bound=type)


class UnknownClassError(ValueError):
    """What a description names is not known here, or was stored without its arguments."""


class Storable(Built, Movable):
    """An object that a file can hold as the name of its class and constructor arguments."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):
            _KNOWN[full_name(cls)] = cls

    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this object.

        Numbers, strings, tensors, other such objects, and lists and dicts of them. A class that
        takes arguments and does not write it is named in files, and given back by who loads them.

        Raises:
            NotImplementedError: if this one cannot be rebuilt from arguments.
        """
        return {}

    def stored(self) -> Any:
        """What stands for this object in the file of a field; itself, unless it is for training."""
        return self


def register(cls: _Class) -> _Class:
    """Let files name a class of your own, a network say; a decorator.

    Paths, latent scales, bases, couplings and fields need none: they are known once they are
    defined. The file holds ``config()``, the constructor arguments, and ``load_field`` calls the
    class with those that it finds in the file, so register only what may be called with any.

    Args:
        cls: a class with a method ``config()``.

    Raises:
        TypeError: if it has none.

    Example:
        >>> import torch
        >>> @register
        ... class Net(torch.nn.Module):
        ...     def __init__(self, width=64):
        ...         super().__init__()
        ...         self.width = width
        ...     def config(self):
        ...         return {"width": self.width}
    """
    if not isinstance(cls, type) or not callable(getattr(cls, "config", None)):
        raise TypeError(
            f"register takes a class with a method config() that gives its constructor arguments,"
            f" got {cls!r}"
        )
    _KNOWN[full_name(cls)] = cls
    return cls


def full_name(cls: type) -> str:
    """The name of a class in files: bare for the library's own, ``module.qualname`` for others."""
    own = cls.__module__.split(".")[0] == __name__.split(".")[0]
    return cls.__qualname__ if own else f"{cls.__module__}.{cls.__qualname__}"


def _known(name: str) -> type | None:
    """The class of a name in a file; for a bare one, namespaces not yet imported are, once."""
    if name not in _KNOWN and "." not in name:
        library = import_module(__name__.partition(".")[0])
        for module in pkgutil.iter_modules(library.__path__, f"{library.__name__}."):
            if module.ispkg and not module.name.rpartition(".")[2].startswith("_"):
                import_module(module.name)
    return _KNOWN.get(name)


def encode(value: Any, stored: bool = False) -> Any:
    """A value as tensors, numbers, strings, lists and dicts; what cannot be rebuilt, by name.

    Args:
        value: to be described.
        stored: whether for a file, in which some objects have others that stand for them.
    """
    if stored and isinstance(value, Storable):
        value = value.stored()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, (list, tuple)):
        return [encode(item, stored) for item in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: encode(item, stored) for key, item in value.items()}}
    arguments = _arguments(value, stored)
    if arguments is None:
        return {"custom": f"{type(value).__module__}.{type(value).__qualname__}"}
    return {"class": full_name(type(value)), "arguments": arguments}


def _arguments(value: Any, stored: bool) -> dict[str, Any] | None:
    cls = type(value)
    if _KNOWN.get(full_name(cls)) is not cls:
        return None
    depth = {
        name: next(k for k, base in enumerate(cls.__mro__) if name in vars(base))
        for name in ("config", "__init__")
    }
    try:
        arguments = value.config()
    except NotImplementedError:
        return None
    if depth["config"] > depth["__init__"]:  # it was written for another constructor
        needed = inspect.signature(cls).parameters
        if not needed.keys() <= arguments.keys():
            return None
        arguments = {name: arguments[name] for name in needed}
    return {name: encode(item, stored) for name, item in arguments.items()}


def decode(value: Any, kind: type, classes: Iterable[type] = ()) -> Any:
    """Rebuild what :func:`encode` wrote, from classes that are known or given.

    Args:
        value: the description.
        kind: what it and all that it holds must be: :class:`Storable`, or modules.
        classes: classes to be found beside the known ones, by name or by its last part.

    Raises:
        UnknownClassError: if a class is not known, or was stored without arguments.
    """
    if isinstance(value, list):
        return [decode(item, kind, classes) for item in value]
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {key: decode(item, kind, classes) for key, item in value["dict"].items()}
    if "custom" in value:
        raise UnknownClassError(f"{value['custom']}, which is stored without its arguments")
    name = str(value["class"])
    cls = _known(name)
    for given in classes if "." in name else ():
        if name == full_name(given) or name.rpartition(".")[2] == given.__name__:
            cls = given
    if cls is None or not issubclass(cls, (kind, Storable)):
        raise UnknownClassError(
            f"{name}, which is not known here (nothing but this library is imported for a file:"
            " import or register it first, or give the class)"
        )
    return cls(**{key: decode(item, kind, classes) for key, item in value["arguments"].items()})


def alike(one: Any, other: Any) -> bool:
    """Whether two objects are one, or are told by the same class and the same arguments."""
    return one is other or _same(encode(one), encode(other))


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        fit = one.keys() == other.keys() and "custom" not in one
        return fit and all(_same(value, other[name]) for name, value in one.items())
    return bool(one == other)


def told(value: Any, sums: bool = False) -> str:
    """An object for a person to read: ``Linear(gamma=Brownian(a=1.0))``.

    Args:
        value: the object.
        sums: tell of tensors a sum over their rows too, by which others are told from them.
    """
    return _told(encode(value), sums)


def _told(value: Any, sums: bool) -> str:
    if isinstance(value, Tensor):
        if value.numel() <= 4:
            return str(value.tolist())
        more = f", sum {digest(value)}" if sums else ""
        return f"<{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}{more}>"
    if isinstance(value, list):
        return f"[{', '.join(_told(item, sums) for item in value)}]"
    if not isinstance(value, dict):
        return repr(value)
    if "dict" in value:
        return f"{{{', '.join(f'{k!r}: {_told(v, sums)}' for k, v in value['dict'].items())}}}"
    if "custom" in value:
        return str(value["custom"])
    given = ", ".join(f"{k}={_told(v, sums)}" for k, v in value["arguments"].items())
    return f"{value['class']}({given})"
