r"""Guidance applied to the jumps of a map: what is taken for the mean velocity of a guided flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.checks import number
from .._core.conditions import NO_CONDITIONS
from .._core.signatures import as_is, checked
from .exact import SolvedMap
from .flow_map import FlowMap

__all__ = ["GuidedMap"]


@checked
class GuidedMap(FlowMap):
    r"""``v_{s,t}(x | none) + w (v_{s,t}(x | c) - v_{s,t}(x | none))``: two calls of a map a jump.

    For short jumps it is classifier-free guidance. For long ones it is no flow map of any field:
    the mean velocities are of two flows that part on the way. The map of the guided flow itself is
    learned: ``maps.distill(tpf.guidance.ClassifierFree(field, w), data, ...)``, where w may be the
    name of a condition.

    Args:
        flow_map: trained with and without its conditions, ``fit(..., drop_cond=0.1)``.
        scale: w; 1 for none.

    Raises:
        TypeError: if the map is a SolvedMap, of which the exact guided one can be had.
        ValueError: if the map knows no null for a condition.

    Example:
        >>> import transportflows as tpf
        >>> net = tpf.maps.TwoTimes(tpf.networks.MLP(2, 8, 1, labels=2, vectors={"stop": 9}))
        >>> flow_map = FlowMap(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
        >>> x, one = torch.ones(3, 2), {"label": torch.ones(3, dtype=torch.long)}
        >>> given, free = flow_map.jump(0.0, 1.0, x, one), flow_map.jump(0.0, 1.0, x)
        >>> guided = GuidedMap(flow_map, 3.0).jump(0.0, 1.0, x, one)
        >>> torch.allclose(guided, free + 3 * (given - free), atol=1e-5)
        True
    """

    trainable = False

    def __init__(self, flow_map: FlowMap, scale: float) -> None:
        if isinstance(flow_map, SolvedMap):
            raise TypeError(
                "the jumps of a SolvedMap are of its own field; guide that, and solve it: write"
                " SolvedMap(tpf.guidance.ClassifierFree(field, w))"
            )
        super().__init__(
            flow_map.net, flow_map.process, prediction=flow_map.prediction,
            to_data=flow_map.to_data, transform=flow_map.transform,
        )  # fmt: skip
        self.cond_transforms = flow_map.cond_transforms
        self.conditions = flow_map.conditions
        self.flow_map, self.scale = flow_map, number("scale", scale)
        self.flow_map.null_cond(1)

    def config(self) -> dict[str, Any]:
        raise NotImplementedError("a GuidedMap is made of its map: save that")

    def _told(self) -> dict[str, Any]:
        return {"flow_map": self.flow_map, "scale": self.scale}

    @as_is
    def between(
        self, s: Tensor, t: Tensor, x: Tensor, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        none = self.flow_map.null_cond(len(x), cond)
        given, weight = self.flow_map.between(s, t, x, cond)
        free, _ = self.flow_map.between(s, t, x, none)
        return torch.lerp(free, given, self.scale), weight

    def predict(
        self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS, needed: Any = None
    ) -> tuple[Tensor | None, ...]:
        none = self.flow_map.null_cond(len(x), cond)
        (given,) = self.flow_map.predict(t, x, cond)
        (free,) = self.flow_map.predict(t, x, none)
        return (torch.lerp(free, given, self.scale),)  # type: ignore[arg-type]
