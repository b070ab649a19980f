r"""Flows of a kernel: the gradient flow of the maximum mean discrepancy, and SVGD.

The witness function ``W(z) = E_q K_σ(z, y) - E_p K_σ(z, x)`` has the gradient flow
``dz = -∇W dt``. In SD flow each of its two terms is divided by its own sum of weights. Without
that, particles far from p feel q alone: they are pushed apart and not toward p (Weber 2023,
remark 1).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._core.signatures import checked
from .directions import Direction, KernelDifference, Swarm, _target
from .kernels import kernel_sums, spacing
from .predictions import as_score

__all__ = ["MMDGradient", "SteinDirection"]


@checked
class MMDGradient(Direction):
    r"""Minus the gradient of the witness function.

    .. math:: \Delta = \frac1N \sum_i K_\sigma(z, x_i) \frac{x_i - z}{\sigma^2}
              - \frac1M \sum_j K_\sigma(z, y_j) \frac{y_j - z}{\sigma^2}

    With ``normalized=True`` the weights of each sum add up to 1 (and the factor 1/σ² goes): z drops
    out, and what is left is :class:`KernelDifference`, SD flow.

    Args:
        normalized: make the weights of each sum add up to 1.
        injection: the level β of the noise that is added to particles before the gradient is taken,
            which regularises the flow, independent of the bandwidth σ; None for σ itself, 0 for
            none.

    Raises:
        ValueError: if the level of injected noise is negative.

    Source: Arbel et al. (2019); Weber (2023), equations 42 and 43.

    Example:
        >>> from transportflows.particles import Swarm
        >>> z, x = torch.zeros(1, 1), torch.ones(1, 1)
        >>> step = MMDGradient()(z, Swarm(z, source=z, target=x, sigma=1.0))
        >>> round(step.item(), 4)  # exp(-1/2) (1 - 0)
        0.6065
    """

    needs_target = True

    def __init__(self, *, normalized: bool = False, injection: float | None = None) -> None:
        super().__init__()
        if injection is not None and not 0 <= injection < math.inf:
            raise ValueError(f"injection is a level of noise, at least 0, got {injection}")
        self.normalized, self.injection = normalized, injection

    def levels(self, sigma: Tensor) -> Tensor:
        return sigma if self.injection is None else torch.full_like(sigma, self.injection)

    def forward(self, z: Tensor, swarm: Swarm) -> Tensor:
        pull = self._pull(z, _target(swarm), swarm)
        return (pull - self._pull(z, swarm.source, swarm)).reshape(z.shape)

    def _pull(self, z: Tensor, sample: Tensor, swarm: Swarm) -> Tensor:
        """``Σ w_j (x_j - z)``."""
        rows, points = z.flatten(1), sample.flatten(1)
        centre = points.mean(0)
        shifted = points - centre
        values = torch.cat([shifted, shifted.new_ones(len(shifted), 1)], 1)
        top, sums = kernel_sums(z, sample, values, swarm.sigma, radius=swarm.radius)
        moment, mass = sums[:, :-1], sums[:, -1:]
        if self.normalized:
            return moment / mass - (rows - centre)
        weight = top.exp()[:, None] / (len(points) * swarm.sigma**2)
        return weight * (moment - mass * (rows - centre))

    def check(self, source: Tensor, target: Tensor | None, sigma: Tensor) -> None:
        if target is None:
            return
        KernelDifference().check(source, target, sigma)
        if self.normalized:
            return
        first = float(sigma[0])
        noise = float(self.levels(sigma)[0]) * math.sqrt(source[0].numel())
        reach = first * math.sqrt(-2 * math.log(torch.finfo(source.dtype).tiny)) + noise
        near = float(spacing(source, target).min())
        if near > reach:
            raise ValueError(
                f"sigma = {first:.3g} is so small that every kernel weight of the targets"
                f" underflows at the source: the nearest are {near:.3g} apart, and exp(-d²/2σ²) is"
                f" 0 in {source.dtype} beyond {reach:.3g}. The gradient of MMD is zero there; start"
                f" with sigma near {near:.3g}, or normalise the weights (KernelDifference)"
            )


@checked
class SteinDirection(Direction):
    r"""Stein variational gradient: particles that follow a score and repel each other.

    .. math:: \Delta_i = \frac1M \sum_j K_\sigma(y_j, y_i)\, s_p(y_j)
              + \nabla_{y_j} K_\sigma(y_j, y_i), \qquad
              \nabla_{y_j} K_\sigma(y_j, y_i) = K_\sigma(y_j, y_i) \frac{y_i - y_j}{\sigma^2}

    Evaluated at the particles, without noise; σ is the bandwidth.

    Args:
        score: of p: a law with a log-density, or a function of x.
        bandwidth: None for the flow's σ; ``"median"`` for the rule of Liu & Wang,
            ``2σ² = med² / log M``, med the median distance of up to 1,024 particles.

    Raises:
        ValueError: if the bandwidth is neither None nor ``"median"``.

    Source: Liu & Wang (2016), equation 8.

    Example:
        >>> import transportflows as tpf
        >>> from transportflows.particles import Swarm
        >>> y = torch.tensor([[-1.0], [1.0]])
        >>> follow = SteinDirection(tpf.Gaussian((1,)), bandwidth=None)
        >>> delta = follow(y, Swarm(y, source=y, target=None, sigma=1.0))
        >>> [round(v, 4) for v in delta.flatten().tolist()]  # ±½ (3 exp(-2) - 1): inward
        [0.297, -0.297]
    """

    needs_sigma = False
    perturbed = False

    def __init__(self, score: Any, *, bandwidth: str | None = "median") -> None:
        super().__init__()
        if bandwidth not in (None, "median"):
            raise ValueError(
                f"bandwidth is None (the flow's sigma) or 'median', got {bandwidth!r}; for a"
                " number write bandwidth=None and give the flow sigma="
            )
        self.score, self.bandwidth = as_score(score), bandwidth

    def forward(self, z: Tensor, swarm: Swarm) -> Tensor:
        source = swarm.source
        centre = source.flatten(1).mean(0)
        rows, points = z.flatten(1) - centre, source.flatten(1) - centre
        sigma: Any = swarm.sigma
        if self.bandwidth == "median":
            sigma = _median_bandwidth(points)
        elif sigma == 0:
            raise ValueError("SteinDirection(bandwidth=None) takes the flow's sigma; give one")
        pulls = self.score(source).flatten(1)
        values = torch.cat([pulls, points, points.new_ones(len(points), 1)], 1)
        radius = swarm.radius if self.bandwidth is None else math.inf
        top, sums = kernel_sums(z, source, values, sigma, radius=radius)
        d = rows.shape[1]
        drift, moment, mass = sums[:, :d], sums[:, d : 2 * d], sums[:, 2 * d :]
        total = drift + (mass * rows - moment) / sigma**2
        delta: Tensor = top.exp()[:, None] * total / len(points)
        return delta.reshape(z.shape)


def _median_bandwidth(points: Tensor) -> Tensor:
    chosen = points[:: max(1, len(points) // 1024)][:1024]
    middle: Tensor = torch.median(torch.pdist(chosen))
    scale: Tensor = middle / math.sqrt(2 * math.log(max(len(points), 2)))
    return scale
