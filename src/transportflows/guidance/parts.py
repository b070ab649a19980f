"""The fields that a guided one is made of, and which conditions each of them is given."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import shown
from .._core.condition import Condition
from .._core.nulls import constant_rows
from .._core.precision import table_device
from .._core.trained import check_trained
from ..combination import Combination
from ..fields.base import Field
from ..fields.null_conditions import nulls_by_name
from ..gaussian_part import ConversionError
from ..oracles.base import ExactField
from ..process import Process
from ..transforms import Standardize
from .scales import Scale

__all__ = [
    "Part",
    "check_nulls",
    "check_scale",
    "common_outputs",
    "conditions_of",
    "shared_law",
]

_GRID = 17  # times at which conversions between predictions must be finite


class Part:
    """One of the fields, with the conditions that are given it in the place of the caller's.

    Args:
        field: any field.
        null: conditions that replace those of the same names, such as ``{"label": 10}``.
        alone: whether it is given no conditions but those that it says it was trained with.

    Attributes:
        hidden: conditions that are for the whole alone, such as a strength.
    """

    def __init__(
        self, field: Field, null: Mapping[str, Any] | None = None, *, alone: bool = False
    ) -> None:
        self.field, self.null, self.alone = field, dict(null or {}), alone
        self.hidden: set[str] = set()

    def takes(self, name: str) -> bool:
        """Whether a condition is for this field."""
        if isinstance(self.field, ExactField) or name in self.hidden:
            return False
        known = self.field.conditions
        if name == "x0" and self.field.process.coupling.condition_on_start:
            return True
        if name in self.null:
            return True
        of_guided = getattr(self.field, "takes", None)
        if of_guided is not None:
            found: bool = of_guided(name)
            return found
        if known is not None:
            return name in known
        if self.alone:
            return False
        named = [conditions_of(net) for net in self.field.networks]
        return any(names is None or name in names for names in named)

    def given(self, cond: Mapping[str, Any], n: int, like: Tensor | None = None) -> dict[str, Any]:
        """The conditions of this field, of those of the whole."""
        own = {name: value for name, value in cond.items() if self.takes(name)}
        for name, value in self.null.items():
            own[name] = _in_rows(value, cond.get(name), n, like)
        return own

    def check(self, cond: Mapping[str, Any], n: int, **how: Any) -> dict[str, Any]:
        """The conditions of the caller's that this field takes, checked and spread over rows.

        Raises:
            ValueError: if one does not fit, or the null is none that the field was trained with.
        """
        for name in self.null:
            if name not in cond:
                raise ValueError(
                    f"the condition {name!r} is missing: its null {self.null[name]!r} stands for"
                    f" the field without it; write cond={{{name!r}: values}}"
                )
        try:
            found = self.field.check_conditions(self.given(cond, n), n, **how)
        except ValueError as error:
            if not self.null:
                raise
            plain = {name: value for name, value in cond.items() if self.takes(name)}
            self.field.check_conditions(plain, n, **how)  # is it the caller's own?
            raise _untrained(self.null, error) from error
        return {name: value for name, value in found.items() if name not in self.null}

    def predict(
        self,
        outputs: tuple[str, ...],
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any],
        needed: Sequence[bool] | None,
    ) -> tuple[Tensor | None, ...]:
        """The predictions by these names, of its own network or converted."""
        own = self.given(cond, len(x), x)
        if self.field.outputs == outputs:
            return self.field.predict(t, x, own, needed)
        return tuple(
            self.field.quantity(name, t, x, own, checked=False)
            if needed is None or needed[k]
            else None
            for k, name in enumerate(outputs)
        )


def check_nulls(null: Mapping[str, Any], field: Field) -> None:
    """Refuse values that cannot stand for none, as far as it is known what the field has seen.

    Args:
        null: by name of the condition.
        field: that is given them.

    Raises:
        TypeError: if one is no number, tensor or text.
        ValueError: if one is NaN for integers, or nothing that the field was trained with.
    """
    trained, own = field.conditions or {}, _names_and_nulls(field)
    for name, value in null.items():
        if isinstance(value, str) or value is None:
            continue
        if not isinstance(value, (Real, Tensor)):
            raise TypeError(
                f"null[{name!r}] is one value for all rows, a number or a tensor of the shape of a"
                f" row, got {shown(value)}; write null={{{name!r}: -1}}"
            )
        known = trained.get(name)
        integers = known.kind == "integer" if known is not None else type(own.get(name)) is int
        if integers and not isinstance(value, Tensor) and float(value) % 1 != 0:
            raise ValueError(
                f"null[{name!r}] is {float(value):g}, and the condition {name!r} of this"
                f" {type(field).__name__} is integers; write the one that stood for none in"
                " training, such as -1"
            )
        if known is None or known.shape is None:
            continue
        try:
            check_trained({name: _one_row(value, known)}, {name: known}, 1, whose="the field")
        except ValueError as error:
            raise _untrained(null, error) from error


def _one_row(value: Any, known: Condition) -> Tensor:
    """A null as one row of a condition."""
    if isinstance(value, Tensor):
        return value.detach()[None]
    dtype = {"integer": torch.int64, "boolean": torch.bool}.get(known.kind, torch.float32)
    sizes = [1 if size is None else size for size in known.shape or ()]
    return torch.full((1, *sizes), value, dtype=torch.float32 if value != value else dtype)


def check_scale(scale: Scale, parts: Sequence[Part], more: Collection[str] = ()) -> None:
    """Refuse a strength that is taken from a condition which a field has for itself.

    Args:
        scale: the strength.
        parts: the fields.
        more: names of conditions that are taken otherwise.
    """
    for part in parts if scale.column is not None else ():
        scale.check_apart({*_names_and_nulls(part.field), *part.null, *more})


def _names_and_nulls(field: Field) -> dict[str, Any]:
    """The names of conditions of a field, as far as they are known, and what stands for none."""
    found: dict[str, Any] = dict.fromkeys(field.conditions or {})
    if field.conditions is None:
        for net in field.networks:
            found.update(dict.fromkeys(conditions_of(net) or ()))
    return {**found, **nulls_by_name(field.networks, field.conditions)}


def _untrained(null: Mapping[str, Any], error: ValueError) -> ValueError:
    return ValueError(
        f"null={dict(null)} is nothing that the field was trained with, so what it predicts there"
        f" means nothing ({error}). Train it with the null in the place of the condition in some"
        " rows, or give a field of its own: unconditional="
    )


def conditions_of(function: Any) -> set[str] | None:
    """The names that a function of (t, x) takes beside these; None for any."""
    try:
        forward = function.forward if isinstance(function, nn.Module) else function
        parameters = list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # a builtin
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters[2:] if p.kind is not p.VAR_POSITIONAL}


def _in_rows(value: Any, instead_of: Any, n: int, like: Tensor | None) -> Any:
    """A null for n rows, where what it stands for has rows."""
    rows = isinstance(instead_of, Tensor) and instead_of.ndim > 0
    if not rows or value is None or isinstance(value, str):
        return value
    if not isinstance(value, Tensor):
        numbers = torch.get_default_dtype() if like is None else like.dtype
        return constant_rows(instead_of, value, numbers)
    there = value.to(instead_of.device if like is None else like.device)
    event = instead_of.shape[1:]
    if there.shape == (n, *event) and there.ndim == instead_of.ndim:
        raise ValueError(
            f"null is one value for all rows, and got one of shape {tuple(value.shape)}; give one"
            f" of shape {tuple(event)}"
        )
    return there.expand(n, *event)


def shared_law(fields: Sequence[Field], what: str) -> tuple[Process, Standardize | None]:
    """The process and transform of fields that are to be combined.

    Raises:
        TypeError: if one is no field.
        ValueError: if they are not the same objects.
    """
    for field in fields:
        if not isinstance(field, Field):
            raise TypeError(
                f"a {what} is made of fields such as Velocity(net, process), got a"
                f" {type(field).__name__}"
            )
    first = fields[0]
    for other in fields[1:]:
        if other.process is not first.process:
            raise ValueError(
                f"the fields of a {what} must share one process object, since their predictions are"
                " of the same x_t only then; make both of the same process, or, where two processes"
                " are equal, write other.process = field.process"
            )
        if other.transform is not first.transform:
            raise ValueError(
                f"the fields of a {what} must share one transform object: their networks work in"
                " other units; train both with the same Standardize"
            )
    return first.process, first.transform


def common_outputs(fields: Sequence[Field], what: str) -> tuple[str, ...]:
    """Predictions that all fields give, their own or converted, at all times.

    Raises:
        ConversionError: if there are none.
    """
    for field in fields:
        if all(_converts(other, field.outputs) for other in fields):
            return field.outputs
    kinds = " and ".join(dict.fromkeys(" + ".join(field.outputs) for field in fields))
    raise ConversionError(
        f"the fields of a {what} predict different things ({kinds}), and none of these can be had"
        " from all of them at all times; train both with the same prediction"
    )


def _converts(field: Field, outputs: tuple[str, ...]) -> bool:
    if field.outputs == outputs:
        return True
    t = torch.linspace(0, 1, _GRID, dtype=torch.float64, device=table_device(field.process.device))
    try:
        made: list[Combination] = [field.weights(name, t) for name in outputs]
    except ConversionError:
        return False
    return all(bool(one.finite().all()) for one in made)
