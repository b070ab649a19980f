"""What floors above the fields offer of them: methods of a field that it knows by name alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["Offers", "offered"]

_Made = TypeVar("_Made", bound=Callable[..., Any])
_OFFERED: dict[str, Callable[..., Any]] = {}


def offered(name: str) -> Callable[[_Made], _Made]:
    """Let a method of fields, by its name, be made by what is decorated."""

    def keep(make: _Made) -> _Made:
        _OFFERED[name] = make
        return make

    return keep


class Offers:
    """Methods of a field that stand on what is above it."""

    def distribution(self, cond: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """The law of its samples, as one of torch's distributions.

        Args:
            cond: conditions by name; the first dimension of tensors is the batch.
            options: of :class:`transportflows.likelihood.FieldDistribution`.
        """
        return _OFFERED["distribution"](self, cond, **options)
