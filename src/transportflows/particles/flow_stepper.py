"""The stepper of particle flows: the noise, the direction, the step of Algorithm 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.random import stream
from ..solve.stepper import Prepared, Stepper
from .directions import Swarm
from .flow_plan import NOISE, SOURCE, TARGET, FlowPlan

__all__ = ["Carried", "FlowStepper", "Moved"]


@dataclass(frozen=True, eq=False)
class Carried:
    """What a flow remembers from step to step.

    Attributes:
        size: η where its factor is 1, ``()``; None before an automatic first step.
        noise: the ε of the last step, ``(M, *)``, where it is carried along; else None.
    """

    size: Tensor | None
    noise: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Moved:
    """One step.

    Attributes:
        x: particles after it.
        z: where Δ was evaluated, ``(B, *)``.
        swarm: what the direction saw.
        eta: η.
        carried: what the next step needs.
    """

    x: Tensor
    z: Tensor
    swarm: Swarm
    eta: Tensor
    carried: Carried


class FlowStepper(Stepper):
    """Steps ``y + η Δ(y + σ ε)`` of all particles, or of a batch of them.

    A hook may move particles: noise that is carried along stays a standard normal, and goes on with
    the particles that it belongs to.

    Args:
        plan: what the flow is made of.
    """

    whole = True

    def __init__(self, plan: FlowPlan) -> None:
        self.plan, self.name, self.bound = plan, plan.name, plan.bound

    def prepare(self, times: Tensor, like: Tensor) -> Prepared:
        return Prepared()

    def memory(self, prepared: Prepared, x: Tensor, rows: Any) -> Carried:
        size = self.plan.schedule.size
        return Carried(None if size is None else x.new_tensor(size))

    def step(
        self, prepared: Any, step: int, x: Tensor, memory: Any, rows: Any, draws: Any
    ) -> tuple[Tensor, Any]:
        moved = self.advance(step, x, memory)
        return moved.x, moved.carried

    def advance(self, i: int, x: Tensor, carried: Carried) -> Moved:
        """Step i from particles ``(M, *)``; no value is read from the device."""
        plan = self.plan
        source = plan.source if plan.moves_target else x
        target = x if plan.moves_target else self._targets(i)
        rows: Tensor | None = None
        if plan.batch_size is not None:
            picked = self._pick(SOURCE, i, source)
            other = source[picked]
            if plan.moves_target:
                rows = self._pick(TARGET, i, x)
                source, target = other, x[rows]
            else:
                rows, source = picked, other
            if plan.move_all:
                rows = None
        clean = x if rows is None else x[rows]
        z, noise = clean, None
        if plan.levels[i] > 0:
            epsilon = self._epsilon(i, clean, carried.noise)
            noise = epsilon if plan.noise == "carried" else None
            z = torch.add(clean, epsilon, alpha=plan.levels[i])
        swarm = Swarm(clean, source, target, plan.sigmas[i], plan.clock[i], i, plan.radius)
        delta = self.displace(z, swarm)
        size = carried.size
        if size is None:
            size = plan.schedule.norm / (delta.flatten(1).norm(dim=1).mean() * plan.factors[0])
        eta = size * plan.factors[i]
        x = x + eta * delta if rows is None else x.index_copy(0, rows, clean + eta * delta)
        return Moved(x, z, swarm, eta, Carried(size, noise))

    def displace(self, z: Tensor, swarm: Swarm) -> Tensor:
        """Δ, with the sign of the end that moves."""
        delta: Tensor = self.plan.direction(z, swarm)
        return -delta if self.plan.moves_target else delta

    def _epsilon(self, i: int, clean: Tensor, before: Tensor | None) -> Tensor:
        """The standard normal of step i: drawn, or what was carried and a part that is drawn."""
        levels, device = self.plan.levels, clean.device
        own = stream(self.plan.key, NOISE, i, device=device)
        fresh = torch.randn(clean.shape, generator=own, dtype=clean.dtype, device=device)
        if before is None:
            return fresh
        rho = 1 - (levels[i] / levels[i - 1]) ** 2
        return math.sqrt(1 - rho) * before + math.sqrt(rho) * fresh

    def _pick(self, branch: int, i: int, x: Tensor) -> Tensor:
        """The rows of a batch, drawn without replacement."""
        own = stream(self.plan.key, branch, i, device=x.device)
        return torch.randperm(len(x), generator=own, device=x.device)[: self.plan.batch_size]

    def _targets(self, i: int) -> Tensor | None:
        """The sample of p that step i sees."""
        target, batch_size, like = self.plan.target, self.plan.batch_size, self.plan.source
        if isinstance(target, Tensor):
            return target if batch_size is None else target[self._pick(TARGET, i, target)]
        if target is None:
            return None
        own = stream(self.plan.key, TARGET, i, device=like.device)
        count = len(like) if batch_size is None else batch_size
        drawn: Tensor = target.sample(count, generator=own, dtype=like.dtype, device=like.device)
        return drawn
