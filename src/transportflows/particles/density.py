r"""The log-density that particles carry along a flow.

One step is a map of each particle, ``y -> y + η Δ(z)``, with Jacobian ``Id + η J``. So

.. math:: \log q_{t+1}(y') = \log q_t(y) - \log |\det(\mathrm{Id} + \eta J)|
          = \log q_t(y) - \eta\, \mathrm{tr} J + O(\eta^2),

whose limit of small steps is the solution of the Liouville equation (Weber 2023, equations 26 and
27, where ``Δ = -∇L`` and the trace is minus the Laplacian of L). J is the derivative for the field
that the whole swarm makes, so the density is that of the continuum which the particles trace. Where
noise is drawn, it is the density given the noise that the particle has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_tensor, is_array
from .._core.autodiff import jvp
from .._core.checks import positive_integer, shown
from .._core.random import draw_key, mix, stream
from .._core.reprs import summary
from .._core.signatures import checked
from ..distributions.base import Distribution
from ..solve.hooks import Hook
from ..solve.solution import Solution
from ..solve.stepper import Prepared
from .directions import Direction
from .flow import flow_along
from .flow_plan import FlowPlan
from .flow_stepper import Carried, FlowStepper, Moved
from .schedules import SigmaSchedule
from .step_schedules import StepSchedule

__all__ = ["FlowDensity", "flow_with_log_density"]

_DIVERGENCES = ("exact", "trace", "hutchinson")


@checked
@dataclass(frozen=True, eq=False)
class FlowDensity:
    """Where particles ended, and the log-density there.

    Attributes:
        solution: as of :func:`particle_flow`.
        log_prob: ``log q_t`` at the final particles in nats, ``(M,)``.

    Example:
        >>> import transportflows as tpf
        >>> to_zero = tpf.particles.LossGradient(lambda x: x.square().sum(1) / 2)  # x - ½ x
        >>> found = flow_with_log_density(torch.zeros(1, 1), log_prob=tpf.Gaussian((1,)),
        ...                               direction=to_zero, steps=1, step=0.5)
        >>> round(float(found.log_prob), 4)  # of N(0, 1/4): log 2 - ½ log 2π
        -0.2258
    """

    solution: Solution
    log_prob: Tensor

    __repr__ = summary


@checked
@torch.no_grad()
def flow_with_log_density(
    source: DataLike | Distribution,
    target: DataLike | Distribution | Any | None = None,
    *,
    log_prob: DataLike | Distribution | Any | None = None,
    divergence: str = "exact",
    probes: int = 1,
    direction: Direction | None = None,
    steps: int = 500,
    sigma: float | Callable[[Tensor], Tensor] | SigmaSchedule | None = None,
    step: float | Callable[[Tensor], Tensor] | StepSchedule | None = None,
    noise: str = "fresh",
    n: int | None = None,
    batch_size: int | None = None,
    hooks: Sequence[Hook] = (),
    max_nfe: int | None = None,
    progress: bool = False,
    generator: torch.Generator | None = None,
) -> FlowDensity:
    r"""Move particles as :func:`particle_flow` does, and carry their log-density along.

    Costs d derivatives of the direction a step (``probes`` with ``"hutchinson"``).

    Args:
        source: particles ``(M, *)``, or a law of which ``n`` are drawn.
        target: as in :func:`particle_flow`, as all that is not said here.
        log_prob: log-density of the particles at the start, ``(M,)``, or the law that has it; the
            source by default, where it is a law.
        divergence: ``"exact"``: the determinant of each step's map; ``"trace"``: ``η tr J``,
            equation 27; ``"hutchinson"``: the same trace estimated, without bias, for many
            dimensions.
        probes: Rademacher probes a step, for ``"hutchinson"``.
        direction: Δ, differentiable in forward mode; its gradients are of the swarm's field at the
            rows that move, samples held.
        steps: number of steps.
        sigma: σ.
        step: η. With None, the η that the first step sets is taken for a constant.
        noise: ``"fresh"``, ``"carried"`` or ``"none"``.
        n: number of particles, where the source is a law.
        batch_size: rows that stand for p and q; all particles move.
        hooks: called after each step, as for :func:`sample`, to look at the particles or to end
            the flow; one that returns others is refused, since their density is not known.
        max_nfe: most evaluations for a row; more steps than that are refused.
        progress: show a progress bar.
        generator: source of all randomness.

    Raises:
        ValueError: as :func:`particle_flow`; or if there is no log-density to begin with.

    Source: Weber (2023), equations 26 and 27; Chen et al. (2018).

    Example:
        >>> import transportflows as tpf
        >>> to_three = tpf.particles.LossGradient(lambda x: (x - 3).square().sum(1) / 2)
        >>> moved = flow_with_log_density(
        ...     tpf.Gaussian((1,)), direction=to_three, n=5, steps=1, step=0.5)
        >>> x = moved.solution.x  # (x0 + 3)/2, of the law N(3/2, 1/4)
        >>> torch.allclose(moved.log_prob, tpf.Gaussian((1,), 1.5, 0.5).log_prob(x), atol=1e-5)
        True
    """
    if divergence not in _DIVERGENCES:
        raise ValueError(
            f"unknown divergence {divergence!r}; known: 'exact', 'trace', 'hutchinson'"
        )
    probes = positive_integer("probes", probes)
    key = draw_key(generator)
    plan = FlowPlan(
        source, target, direction=direction, steps=steps, sigma=sigma, step=step, noise=noise, n=n,
        batch_size=batch_size, move_all=True, moves="source", generator=stream(mix(key, 0)),
    )  # fmt: skip
    if log_prob is None and (isinstance(source, Tensor) or is_array(source)):
        raise ValueError(
            "the log-density at the start is not known of a tensor; give log_prob=, the law that"
            " its rows were drawn from or a number for each"
        )
    logs = _first(source if log_prob is None else log_prob, plan.start).to(plan.start)
    stepper = DensityStepper(plan, logs, divergence, probes, key)
    solution, carried = flow_along(stepper, hooks=hooks, max_nfe=max_nfe, progress=progress)
    return FlowDensity(solution, carried.logs)


@dataclass(frozen=True, eq=False, kw_only=True)
class CarriedDensity(Carried):
    """What a flow remembers, and the log-densities of its particles, ``(M,)``."""

    logs: Tensor


class DensityStepper(FlowStepper):
    """Steps of a flow that carry a log-density along.

    Args:
        plan: what the flow is made of.
        logs: log-densities at the start, ``(M,)``.
        divergence: ``"exact"``, ``"trace"`` or ``"hutchinson"``.
        probes: for the last.
        key: of the probes.
    """

    remembers = True

    def __init__(
        self, plan: FlowPlan, logs: Tensor, divergence: str, probes: int, key: int
    ) -> None:
        super().__init__(plan)
        self.logs, self.divergence, self.probes, self.key = logs, divergence, probes, key

    def memory(self, prepared: Prepared, x: Tensor, rows: Any) -> CarriedDensity:
        return CarriedDensity(**vars(super().memory(prepared, x, rows)), logs=self.logs)

    def step(
        self, prepared: Any, step: int, x: Tensor, memory: CarriedDensity, rows: Any, draws: Any
    ) -> tuple[Tensor, CarriedDensity]:
        moved = self.advance(step, x, memory)
        logs = memory.logs - self._change(step, x, moved)
        return moved.x, CarriedDensity(**vars(moved.carried), logs=logs)

    def _change(self, step: int, x: Tensor, moved: Moved) -> Tensor:
        """``log |det(Id + η J)|`` of each row, or ``η tr J``, ``(M,)``."""
        d = x[0].numel()
        if self.divergence == "hutchinson":
            own = stream(mix(self.key, 1, step), device=x.device)
            shape = (len(x), self.probes, d)
            signs = 2 * torch.randint(2, shape, generator=own, device=x.device).to(x) - 1
            return moved.eta * (self._pushed(x, moved, signs) * signs).sum(2).mean(1)
        basis = torch.eye(d, dtype=x.dtype, device=x.device)
        # The rows of each matrix are the columns of J; neither trace nor determinant minds.
        jacobian = self._pushed(x, moved, basis.expand(len(x), d, d))
        if self.divergence == "trace":
            return moved.eta * jacobian.diagonal(dim1=1, dim2=2).sum(1)
        change: Tensor = torch.linalg.slogdet(basis + moved.eta * jacobian).logabsdet
        return change

    def _pushed(self, x: Tensor, moved: Moved, vectors: Tensor) -> Tensor:
        """``J v`` for k vectors v of each row, ``(M, k, d)``; noise and samples are held."""
        k = vectors.shape[1]
        noise = (moved.z - x).repeat_interleave(k, 0)

        def delta(rows: Tensor) -> Tensor:
            return self.displace(rows + noise, moved.swarm.at(rows))

        rows = x.repeat_interleave(k, 0)
        tangents = vectors.reshape(rows.shape).contiguous()
        return jvp(delta, rows, tangents)[1].reshape(len(x), k, -1)


def _first(given: Any, x: Tensor) -> Tensor:
    if isinstance(given, Tensor) or is_array(given):
        logs = as_tensor("log_prob", given, like=x)
        if logs.shape != (len(x),):
            raise ValueError(
                f"log_prob is {tuple(logs.shape)} and there are {len(x)} particles; give one"
                " number for each, or the law that has it: log_prob=Gaussian((2,))"
            )
        return logs
    if not hasattr(given, "log_prob"):
        raise TypeError(
            f"log_prob is one number a particle, or a law that has it, got {shown(given)}"
        )
    value: Tensor = given.log_prob(x)
    return value
