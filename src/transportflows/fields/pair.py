"""Two predictions together: what a process with any base and coupling needs for ODE and SDE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .._core.condition import Condition
from .._core.conditions import NO_CONDITIONS
from .._core.signatures import checked
from ..process import Process
from ..transforms import Standardize
from .base import Field
from .calls import (
    Network,
    accepted,
    called,
    check_network,
    check_process,
    check_transform,
)
from .null_conditions import as_cond_transforms, given_transforms
from .units import check_units

__all__ = ["FieldPair"]


@checked
class FieldPair(Field):
    """Two predictions, from two networks or from one with two heads: any base, any coupling.

    One of ``velocity`` or ``mean_velocity``, and one of ``noise`` or ``score``, each a network or a
    field of that meaning::

        FieldPair(velocity=net_b, noise=net_eta, process=process)
        FieldPair(velocity=Velocity(net_b, process), noise=NoisePredictor(net_eta, process))
        FieldPair(heads=net, outputs=("mean_velocity", "noise"), process=process)

    Args:
        velocity: predicts b.
        mean_velocity: predicts v, instead.
        noise: predicts η̂.
        score: predicts s, instead.
        heads: one network that gives a pair of tensors of the shape of x, or ``(B, 2, *)``.
        outputs: what the two heads mean.
        process: the law of x_t; needed unless a field brings it.
        transform: see :class:`Field`.
        cond_transforms: see :class:`Field`.

    Raises:
        TypeError: if a network cannot be called as ``net(t, x, **cond)``.
        ValueError: unless there are one of the first and one of the second, of one process and one
            transform, and two networks for two predictions.

    Example:
        >>> import torch
        >>> import transportflows as tpf
        >>> base = tpf.distributions.Uniform((1,))  # where one prediction does not do
        >>> process = tpf.Process(tpf.Linear(gamma=tpf.Brownian()), base=base)
        >>> zero, one = lambda t, x: torch.zeros_like(x), lambda t, x: torch.ones_like(x)
        >>> pair = FieldPair(mean_velocity=zero, noise=one, process=process)
        >>> pair.velocity(torch.tensor(0.2), torch.ones(1, 1))  # v + γ̇ η̂ = 0 + 0.75 · 1
        tensor([[0.7500]])
    """

    def __init__(
        self,
        *,
        velocity: Network | Field | None = None,
        mean_velocity: Network | Field | None = None,
        noise: Network | Field | None = None,
        score: Network | Field | None = None,
        heads: Network | None = None,
        outputs: tuple[str, str] = ("velocity", "noise"),
        process: Process | None = None,
        transform: Standardize | None = None,
        cond_transforms: Mapping[str, Standardize] | None = None,
    ) -> None:
        nn.Module.__init__(self)
        given: dict[str, Any] = {
            "velocity": velocity,
            "mean_velocity": mean_velocity,
            "noise": noise,
            "score": score,
        }
        given = {name: part for name, part in given.items() if part is not None}
        names = tuple(given) if heads is None else tuple(outputs)
        if heads is not None and given:
            raise ValueError(f"give heads, or two networks, not both; got heads and {list(given)}")
        first, second = ("velocity", "mean_velocity"), ("noise", "score")
        if len(names) != 2 or names[0] not in first or names[1] not in second:
            raise ValueError(
                "a FieldPair is one of velocity or mean_velocity and one of noise or score, in"
                f" this order; got {list(names)}"
            )
        known: Mapping[str, Condition] | None = None
        for name, part in given.items():
            if isinstance(part, Field):
                process, transform = _shared(name, part, process, transform)
                cond_transforms = _shared_units(name, part, cond_transforms)
                if part.conditions is not None:
                    known = {**(known or {}), **part.conditions}
                given[name] = part.net
        if process is None:
            raise ValueError("a FieldPair of networks needs its process: FieldPair(..., process=)")
        check_process(process)
        check_transform(transform)
        check_units(process, transform)
        both = list(given.values())
        if len(both) == 2 and both[0] is both[1] and _learns(both[0]):
            raise ValueError(
                f"{names[0]}= and {names[1]}= are one and the same network, which cannot predict"
                " both; give two, or one with two heads: heads=net"
            )
        self.outputs, self.conditions = names, known
        self.process, self.transform = process, transform
        self.cond_transforms = as_cond_transforms(cond_transforms)
        self._two_headed = heads is not None
        if heads is not None:
            _check_heads(heads)
            self.heads = heads
        else:
            self.first, self.second = given[names[0]], given[names[1]]
            check_network(self.first)
            check_network(self.second)

    @property
    def networks(self) -> tuple[Network, ...]:
        return (self.heads,) if self._two_headed else (self.first, self.second)

    def config(self) -> dict[str, Any]:
        shared = {
            "process": self.process,
            "transform": self.transform,
            **given_transforms(self),
        }
        if self._two_headed:
            return {"heads": self.heads, "outputs": list(self.outputs), **shared}
        return {**dict(zip(self.outputs, self.networks, strict=True)), **shared}

    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        if not self._two_headed:
            needed = (True, True) if needed is None else needed
            return tuple(
                called(self, net, t, x, cond) if wanted else None
                for net, wanted in zip((self.first, self.second), needed, strict=True)
            )
        return called(self, self.heads, t, x, cond, _accepted_pair)  # type: ignore[no-any-return]


def _accepted_pair(both: Any, field: object, net: Network, x: Tensor) -> tuple[Tensor, ...]:
    """Two predictions, in a pair or in one tensor ``(B, 2, *)``."""
    if isinstance(both, Tensor) and both.shape == (x.shape[0], 2, *x.shape[1:]):
        both = both.unbind(1)
    if not isinstance(both, (tuple, list)) or len(both) != 2:
        got = tuple(both.shape) if isinstance(both, Tensor) else type(both).__name__
        raise ValueError(
            f"a network with two heads must give a pair of tensors {tuple(x.shape)}, or one"
            f" of shape {(x.shape[0], 2, *x.shape[1:])}; it gave {got}"
        )
    return tuple(accepted(head, field, net, x) for head in both)


def _check_heads(heads: Any) -> None:
    if isinstance(heads, Field):
        raise TypeError(
            f"heads is one network of two predictions, got a {type(heads).__name__};"
            " write heads=field.net"
        )
    check_network(heads)


def _shared(
    name: str, part: Field, process: Process | None, transform: Standardize | None
) -> tuple[Process, Standardize | None]:
    """The process and transform of a field, if they agree with those that are known so far."""
    if part.outputs != (name,):
        raise ValueError(f"{name}= was given a {type(part).__name__}")
    if process is not None and part.process is not process:
        raise ValueError(
            f"the fields of a pair must share one process object, and that of {name}= is another"
        )
    if transform is not None and part.transform not in (None, transform):
        raise ValueError(
            "the fields of a pair must share one transform object, and that of"
            f" {name}= is another: its network works in other units"
        )
    return part.process, part.transform if transform is None else transform


def _shared_units(
    name: str, part: Field, known: Mapping[str, Standardize] | None
) -> Mapping[str, Standardize] | None:
    """The transforms of conditions, those of a field included, if no two differ."""
    own = given_transforms(part).get("cond_transforms", {})
    for key in own.keys() & (known or {}).keys():
        if own[key] is not (known or {})[key]:
            raise ValueError(
                "the fields of a pair must share one Standardize of a condition, and that of"
                f" {key!r} in {name}= is another; give both the same object"
            )
    return {**(known or {}), **own}


def _learns(net: Network) -> bool:
    return isinstance(net, nn.Module) and any(p.requires_grad for p in net.parameters())
