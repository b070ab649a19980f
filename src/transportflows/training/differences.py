"""Where two descriptions of runs differ, by the names of what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["differences", "flat"]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Where two descriptions differ: name, value in the first, value in the second."""
    first, second = flat(a), flat(b)
    return [
        (name, first.get(name), second.get(name))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]


def flat(told: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """A description without levels: ``{"data.rows": 300}``."""
    return dict(_named(told, place))


def _named(told: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    for name, value in told.items():
        if isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            yield from _named({str(k): v for k, v in value.items()}, f"{place}{name}.")
        else:
            yield f"{place}{name}", value
