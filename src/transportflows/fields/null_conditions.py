"""The conditions of a field: those that say none, and the units of those that are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .._core.checks import shown
from .._core.conditions import check_names
from .._core.nulls import Null, null_rows, nulls_of
from ..transforms import Standardize

if TYPE_CHECKING:
    from .._core.condition import Condition
    from .calls import Network

__all__ = [
    "ConditionTransforms",
    "as_cond_transforms",
    "given_transforms",
    "null_conditions",
    "nulls_by_name",
]


class ConditionTransforms(nn.Module):
    """A :class:`Standardize` for each of some conditions, applied before the network sees them.

    Args:
        given: by name.
    """

    def __init__(self, given: Mapping[str, Standardize]) -> None:
        super().__init__()
        if not isinstance(given, Mapping):
            raise TypeError(
                f"cond_transforms maps names of conditions to a Standardize, got {shown(given)};"
                " write cond_transforms={'c': Standardize.fit(c)}"
            )
        check_names(given)
        for name, transform in given.items():
            if not isinstance(transform, Standardize):
                raise TypeError(
                    f"cond_transforms[{name!r}] must be a Standardize, got {shown(transform)};"
                    " write Standardize.fit(c)"
                )
        self.names = tuple(given)
        self.parts = nn.ModuleList(given.values())

    def given(self) -> dict[str, Standardize]:
        """The transforms by name."""
        return dict(zip(self.names, self.parts, strict=True))  # type: ignore[arg-type]

    def forward(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """The conditions, those that have a transform in standardised units."""
        found = dict(cond)
        for name, transform in zip(self.names, self.parts, strict=True):
            value = found.get(name)
            if value is None:
                continue
            if not isinstance(value, Tensor) or not value.is_floating_point():
                got = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(
                    f"the condition {name!r} has a Standardize, which is of numbers, and is {got};"
                    f" write {name}.float(), or leave it out of cond_transforms where it is a label"
                )
            found[name] = transform(value)
        return found


def as_cond_transforms(given: Mapping[str, Standardize] | None) -> ConditionTransforms | None:
    """The transforms of conditions as a field holds them; None for none."""
    return ConditionTransforms(given) if given else None


def given_transforms(field: object) -> dict[str, dict[str, Standardize]]:
    """The transforms of a field's conditions as its constructor takes them, if it has any."""
    held: ConditionTransforms | None = getattr(field, "cond_transforms", None)
    return {} if held is None else {"cond_transforms": held.given()}


def nulls_by_name(
    networks: tuple[Network, ...], trained: Mapping[str, Condition] | None
) -> dict[str, Null]:
    """What stands for none: of the conditions that training dropped, or as the networks say."""
    if trained is None:
        return nulls_of(networks)
    return {name: known.null for name, known in trained.items() if known.null is not None}


def null_conditions(
    networks: tuple[Network, ...],
    trained: Mapping[str, Condition] | None,
    n: int,
    like: Mapping[str, Any],
    reference: Tensor,
) -> dict[str, Any]:
    """Conditions that say none, for n rows; see :meth:`Field.null_cond`."""
    if trained is None:
        return _of_networks(networks, n, like, reference)
    found: dict[str, Any] = {}
    dropped = False
    for name, known in trained.items():
        if known.null is not None and known.shape is not None:
            shape = like[name].shape[1:] if isinstance(like.get(name), Tensor) else known.shape
            found[name] = null_rows(n, shape, known.null, reference)
            dropped = True
        elif known.optional:
            dropped = True
        elif name in like:
            found[name] = like[name]
        else:
            raise ValueError(
                f"the field was never trained without the condition {name!r}, so there is no null"
                f" of it: {_CURE}, or give it: null_cond(n, cond)"
            )
    if not dropped:
        told = ", ".join(map(repr, trained)) or "no conditions at all"
        raise ValueError(f"the field was trained with {told}, and never without: {_CURE}")
    return found


_CURE = "train it with fit(..., drop_cond=0.1)"


def _of_networks(
    networks: tuple[Network, ...], n: int, like: Mapping[str, Any], reference: Tensor
) -> dict[str, Any]:
    """By what the networks say, of a field that was not trained by our trainer."""
    nulls = nulls_of(networks)
    names = [name for name in nulls if name in like] or (list(nulls) if not like else [])
    if not names:
        raise ValueError(
            "nothing is known of a null for this field: it was not trained by a Trainer, and its"
            f" networks say nulls = {nulls or None} for the conditions {list(like)}; give the"
            " network an attribute nulls = {'label': -1}, if it takes -1 for none"
        )
    found = dict(like)
    for name in names:
        value, null = like.get(name), nulls[name]
        if not isinstance(value, Tensor) and isinstance(null, float):
            raise ValueError(
                f"the shape of the condition {name!r} is not known; give an example:"
                f" null_cond(n, {{{name!r}: ...}})"
            )
        shape = value.shape[1:] if isinstance(value, Tensor) else ()
        found[name] = null_rows(n, shape, null, reference)
    return found
