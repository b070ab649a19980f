"""Conditions that are dropped in training: rows in which the network is told of none.

With probability p a row is given the null of its conditions, so that one network learns the law
with them and without (Ho & Salimans 2022, algorithm 1). Rows are dropped *after* the coupling has
paired them, which saw their conditions: so what is learned without a condition is the mean, over
the condition, of what is learned with it, whatever the coupling.

Which rows is a function of the key of the run and the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .._core.checks import number, shown
from .._core.condition import Condition
from .._core.nulls import Null, nulls_of, with_nulls
from .._core.random import mix, stream
from ..fields.base import Field

__all__ = ["Dropping", "as_dropping"]

_DROPPED = 0x64726F70706564  # the branch of a step's seed for which rows
_WHAT = "a probability in [0, 1)"


class Dropping:
    """Which conditions a run drops, and how often.

    Args:
        field: what is trained; its networks say what stands for none.
        together: the probability of dropping all conditions of a row; None where each has its own.
        each: the probability of each, which are dropped independently.
    """

    def __init__(self, field: Field, together: float | None, each: Mapping[str, float]) -> None:
        self.field, self.together, self.each = field, together, dict(each)
        self.nulls = nulls_of(field.networks)
        self._told: tuple[Mapping[str, Condition], dict[str, Condition]] | None = None

    def names(self, known: Mapping[str, Any]) -> list[str]:
        """Which of some conditions are dropped.

        Raises:
            ValueError: if one that is to be dropped is not there, or the network has no null of it.
        """
        names = list(self.each)
        if self.together is not None:
            names = [name for name in known if name != "x0"]
            if not names:
                raise ValueError(
                    f"drop_cond={self.together} and there are no conditions to drop; give"
                    " cond={'label': labels}, or leave drop_cond out"
                )
        for name in names:
            if name not in known:
                raise ValueError(
                    f"drop_cond names {name!r}, and the conditions are"
                    f" {', '.join(map(repr, known)) or 'none'}"
                )
            if name not in self.nulls:
                raise ValueError(
                    f"drop_cond is to drop {name!r}, and the network does not say which value of it"
                    " stands for none; write tpf.networks.Nullable(net,"
                    f" {name}=...), or give the network an attribute nulls = {{{name!r}: -1}} if it"
                    " takes -1 for none. To drop others only: drop_cond={'label': 0.1}"
                )
        return names

    def conditions(self, known: Mapping[str, Condition]) -> Mapping[str, Condition]:
        """What the field is trained with, where these are dropped in some rows."""
        if self._told is None or self._told[0] is not known:
            dropped = {}
            for name in self.names(known):
                self._check(name, known[name], self.nulls[name])
                apart = self.together is None
                dropped[name] = replace(known[name], null=self.nulls[name], together=not apart)
            if len(dropped) == 1:
                dropped = {name: replace(one, together=False) for name, one in dropped.items()}
            self._told = known, {**known, **dropped}
        return self._told[1]

    def _check(self, name: str, known: Condition, null: Null) -> None:
        """Refuse a condition that cannot hold its null, or holds it already."""
        if known.shape is None:
            raise ValueError(
                f"the condition {name!r} is one for all rows, and drop_cond drops it row by row;"
                " give a tensor with one a row, or drop others only: drop_cond={'label': 0.1}"
            )
        numbers = known.kind in ("floating point", "boolean")
        if numbers != isinstance(null, float):
            raise ValueError(
                f"the condition {name!r} is {known.kind}, and the null of the network is {null};"
                " NaN is for numbers and booleans, an integer for integers"
            )
        low, high = known.low, known.high
        own = null == low and null < 0  # rows without a class are so in the data too
        if low is not None and high is not None and low <= null <= high and not own:
            raise ValueError(
                f"the condition {name!r} holds {low} to {high}, and the network takes"
                f" {null} for none, which is one of them; give classes that are not {null}, or"
                f" another null: tpf.networks.Nullable(net, {name}={high + 1})"
            )

    def drop(self, sample: Any, cond: Mapping[str, Any], seed: int) -> Any:
        """What was drawn for a batch, with the null of the conditions in some rows.

        Args:
            sample: that a loss drew.
            cond: the conditions of the batch, B rows each.
            seed: of the step.
        """
        if not hasattr(sample, "with_cond"):
            raise TypeError(
                f"the loss drew a {type(sample).__name__}, which has no with_cond(function), so"
                " that drop_cond cannot drop its conditions; let its draw give a PathSample, or"
                " drop them in the data"
            )
        names, rows = self.names(cond), len(sample)
        dtype = self.field.reference().dtype
        device = next((cond[k].device for k in names), None)
        generator = stream(mix(seed, _DROPPED), device="cpu" if device is None else device)
        chance = torch.rand(
            (1 if self.together is not None else len(names), rows),
            generator=generator,
            device=device,
        )
        shares = [self.together] if self.together is not None else [self.each[k] for k in names]
        gone = {
            name: chance[k % len(shares)] < shares[k % len(shares)] for k, name in enumerate(names)
        }

        def dropped(given: Mapping[str, Any]) -> dict[str, Any]:
            return {name: self._one(name, value, gone, dtype) for name, value in given.items()}

        return sample.with_cond(dropped)

    def _one(self, name: str, value: Any, gone: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
        if name not in gone:
            return value
        where = gone[name]
        copies = len(value) // len(where)  # of an antithetic sample, which holds each row twice
        where = where if copies == 1 else where.repeat(copies)
        return with_nulls(value, where, self.nulls[name], dtype)

    def __repr__(self) -> str:
        return str(self.each if self.together is None else self.together)


def as_dropping(given: Any, field: Field) -> Dropping | None:
    """The ``drop_cond`` of a fit: a number for all conditions together, or one for each by name.

    Raises:
        ValueError: if a probability is not in [0, 1).
    """
    if isinstance(given, Mapping):
        each = {
            name: number(f"drop_cond[{name!r}]", p, _WHAT, least=0, below=1)
            for name, p in given.items()
        }
        each = {name: p for name, p in each.items() if p > 0}
        return Dropping(field, None, each) if each else None
    if isinstance(given, str) or hasattr(given, "__len__"):
        raise TypeError(
            f"drop_cond is {_WHAT}, or one for each condition, {{'label': 0.1}}, got {shown(given)}"
        )
    share = number("drop_cond", given, _WHAT, least=0, below=1)
    return Dropping(field, share, {}) if share > 0 else None
