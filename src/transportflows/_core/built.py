"""Subclasses of users are whole: a constructor that forgot ``super().__init__()`` is told so.

Otherwise the object is made, and some later call stumbles over an attribute that nobody set.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

__all__ = ["Built"]


class Built:
    """A class to extend, whose constructor sets attributes that its methods need.

    Attributes:
        _sets: names of these attributes.
    """

    _sets: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__module__.split(".")[0] == __name__.split(".")[0]
        if not own and "__init__" in cls.__dict__:
            cls.__init__ = _watched(cls.__init__)  # type: ignore[method-assign]


def _watched(init: Any) -> Any:
    @functools.wraps(init)
    def finished(self: Any, *args: Any, **kwargs: Any) -> None:
        sets: tuple[str, ...] = self._sets
        try:
            init(self, *args, **kwargs)
        except AttributeError as error:
            early = "before Module.__init__() call" in str(error)
            if early or (error.obj is self and error.name in sets):
                raise TypeError(_cure(self)) from error
            raise
        if type(self).__init__ is finished and not all(hasattr(self, name) for name in sets):
            raise TypeError(_cure(self))

    return finished


def _cure(made: Any) -> str:
    name = type(made).__name__
    sets = made._sets[0] if made._sets else "its parts"
    return (
        f"{name}.__init__ does not call super().__init__(), which sets {sets}; write it as the"
        f" first line of {name}.__init__, with the arguments that the parent takes"
    )
