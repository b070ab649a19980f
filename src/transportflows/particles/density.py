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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._core.random import draw_key, mix, stream
from ..distributions.base import Distribution
from ..solve.solution import Solution
from .directions import Direction
from .flow import Flow, Moved, _positive_integer
from .schedules import SigmaSchedule, StepSchedule

__all__ = ["FlowDensity", "flow_with_log_density"]

_DIVERGENCES = ("exact", "trace", "hutchinson")


@dataclass(frozen=True, eq=False)
class FlowDensity:
    """Where particles ended, and the log-density there.

    Attributes:
        solution: as of :func:`particle_flow`.
        log_prob: ``log q_t`` at the final particles in nats, ``(M,)``.
    """

    solution: Solution
    log_prob: Tensor


def flow_with_log_density(
    source: Tensor | Distribution,
    target: Tensor | Distribution | Any | None = None,
    *,
    log_prob: Tensor | Distribution | Any | None = None,
    divergence: str = "exact",
    probes: int = 1,
    direction: Direction | None = None,
    steps: int = 500,
    sigma: float | Callable[[Tensor], Tensor] | SigmaSchedule | None = None,
    step: float | Callable[[Tensor], Tensor] | StepSchedule | None = None,
    noise: str = "fresh",
    n: int | None = None,
    batch_size: int | None = None,
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
        progress: show a progress bar.
        generator: source of all randomness.

    Raises:
        ValueError: as :func:`particle_flow`; or if there is no log-density to begin with.

    Source: Weber (2023), equations 26 and 27; Chen et al. (2018).
    """
    if divergence not in _DIVERGENCES:
        raise ValueError(
            f"unknown divergence {divergence!r}; known: 'exact', 'trace', 'hutchinson'"
        )
    _positive_integer("probes", probes)
    key = draw_key(generator)
    flow = Flow(
        source, target, direction=direction, steps=steps, sigma=sigma, step=step, noise=noise, n=n,
        batch_size=batch_size, move_all=True, moves="source", generator=stream(mix(key, 0)),
    )  # fmt: skip
    x = flow.start
    if log_prob is None and isinstance(source, Tensor):
        raise ValueError(
            "the log-density at the start is not known of a tensor; give log_prob=, the law that"
            " its rows were drawn from or a number for each"
        )
    logs = _first(source if log_prob is None else log_prob, x).to(x)
    for i in tqdm(range(steps), disable=None if progress else True, desc=flow.name, unit="step"):
        with torch.no_grad():
            moved = flow.advance(i, x)
            if divergence == "hutchinson":
                own = stream(mix(key, 1, i), device=x.device)
                logs = logs - moved.eta * _estimated(flow, moved, x, probes, own)
            else:
                logs = logs - _change(flow, moved, x, exact=divergence == "exact")
        x = moved.x
        if (i + 1) % 50 == 0 or i + 1 == steps:
            flow.check_health(x, i + 1)
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return FlowDensity(Solution(x=x, t=times, nfe=steps, scheme=flow.name), logs)


def _first(given: Any, x: Tensor) -> Tensor:
    if isinstance(given, Tensor):
        if given.shape != (len(x),):
            raise ValueError(
                f"log_prob is {tuple(given.shape)} and there are {len(x)} particles; give one"
                " number for each, or the law that has it: log_prob=Gaussian((2,))"
            )
        return given
    value: Tensor = given.log_prob(x)
    return value


def _map(flow: Flow, moved: Moved, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Δ of repeated rows as a function of the particles, their noise and the samples held."""
    noise = moved.z - x

    def delta(rows: Tensor) -> Tensor:
        shift = noise.repeat_interleave(len(rows) // len(x), 0)
        return flow.displace(rows + shift, moved.swarm.at(rows))

    return delta


def _change(flow: Flow, moved: Moved, x: Tensor, *, exact: bool) -> Tensor:
    """``log |det(Id + η J)|`` of each row, or ``η tr J``, ``(M,)``."""
    d = x[0].numel()
    basis = torch.eye(d, dtype=x.dtype, device=x.device)
    jacobian = _pushed(flow, moved, x, basis.expand(len(x), d, d))  # (M, d, d): columns by row
    if not exact:
        return moved.eta * jacobian.diagonal(dim1=1, dim2=2).sum(1)
    # Its rows are the columns of J; the determinant does not mind.
    step_map: Tensor = basis + moved.eta * jacobian
    change: Tensor = torch.linalg.slogdet(step_map).logabsdet
    return change


def _estimated(
    flow: Flow, moved: Moved, x: Tensor, probes: int, generator: torch.Generator
) -> Tensor:
    signs = (
        torch.randint(2, (len(x), probes, x[0].numel()), generator=generator, device=x.device).to(x)
        * 2
        - 1
    )
    return (_pushed(flow, moved, x, signs) * signs).sum(2).mean(1)


def _pushed(flow: Flow, moved: Moved, x: Tensor, vectors: Tensor) -> Tensor:
    """``J v`` for k vectors v of each row, ``(M, k, d)``."""
    k = vectors.shape[1]
    rows = x.repeat_interleave(k, 0)
    tangents = vectors.reshape(rows.shape).contiguous()
    found: Tensor = torch.func.jvp(_map(flow, moved, x), (rows,), (tangents,))[1]
    return found.reshape(len(x), k, -1)
