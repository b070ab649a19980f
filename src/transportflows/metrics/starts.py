r"""What it costs to start from the prior instead of the law at t = 0.

A diffusion over a finite time, or up to a finite σ_max, has not forgotten its data: the law at
t = 0 is that of ``β(0) x1 + σ̂(0) z``, and sampling starts from a Gaussian prior. By the data
processing inequality no solve can make the KL divergence of the start larger, and the probability
flow, which is invertible, keeps it as it is: what is wrong at the start is as wrong at the end. The
reverse SDE forgets its start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.random import draw_key, mix, stream
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..distributions.gaussian import Gaussian
from ..oracles import EmpiricalOracle, GaussianMixtureOracle
from ..samplers import sample
from ..solve.epsilon import AndersonEpsilon
from .divergences import kl_log_densities
from .estimates import Estimate, mean_estimate

__all__ = ["EndBias", "PriorBias", "prior_bias"]


@checked
@dataclass(frozen=True, eq=False)
class EndBias:
    """What of the start's error is left in samples, from pairs that share all noise.

    Attributes:
        mean: mean of the samples from the prior less that of the samples from the true start,
            ``(*)``.
        variance: difference of their variances, averaged over coordinates.
        square_distance: ``E|x - x'|²`` over the pairs, at least W2² between the two laws.
    """

    mean: Tensor
    variance: Estimate
    square_distance: Estimate

    __repr__ = summary


@checked
@dataclass(frozen=True, eq=False)
class PriorBias:
    """The bias of a prior, at the start and at the data.

    Attributes:
        kl: ``KL(ρ_0 || prior)`` in nats, of the law at t = 0 from the prior.
        flow: what is left at t = 1 of the probability flow.
        reverse_sde: what is left at t = 1 of the reverse SDE, ε = g²/2.
    """

    kl: Estimate
    flow: EndBias
    reverse_sde: EndBias

    __repr__ = summary


@checked
@torch.no_grad()
def prior_bias(
    oracle: GaussianMixtureOracle | EmpiricalOracle,
    n: int = 10_000,
    *,
    steps: int = 200,
    dtype: torch.dtype = torch.float64,
    generator: torch.Generator | None = None,
) -> PriorBias:
    r"""Measure the bias of a finite horizon or σ_max, with the exact field.

    Pairs ``β(0) x1 + σ̂(0) z`` and ``prior_scale z`` with common z are carried to t = 1 by Heun's
    scheme, by the ODE and by the reverse SDE with common noise, and compared there. Their
    differences have little of the noise of either.

    Args:
        oracle: the exact field of a one-sided process.
        n: number of pairs, at least 2.
        steps: steps of each solve; its own error cancels in the differences but for a part of them.
        dtype: of the states.
        generator: source of randomness.

    Raises:
        ValueError: if the process is not one-sided.
    """
    process = oracle.process
    process.part  # noqa: B018 (it refuses a process that has none)
    key, home = draw_key(generator), oracle.reference().device
    random = stream(key, 0, device=home)
    if isinstance(oracle, GaussianMixtureOracle):
        x1 = oracle.rho1.sample(n, generator=random, dtype=dtype, device=home)
    else:
        rows = torch.randint(len(oracle.rows), (n,), generator=random, device=home)
        x1 = oracle.rows[rows].to(dtype)
    prior = process.start
    if not isinstance(prior, Gaussian):
        raise ValueError(f"the start must be a Gaussian, got {type(prior).__name__}")
    path = process.sample(x1, t=0.0, generator=random)
    true, assumed = path.x, prior.mean.to(x1) + prior.scale.to(x1) * path.noise
    kl = kl_log_densities(
        oracle.log_prob(torch.zeros((), dtype=dtype, device=home), true),
        prior.log_prob(true),
        control_variate=False,
    )

    def end(epsilon: Any) -> EndBias:
        ends = [
            sample(
                oracle,
                start=start,
                epsilon=epsilon,
                steps=steps,
                generator=torch.Generator().manual_seed(mix(key, 1)),
            ).x
            for start in (assumed, true)
        ]
        spreads = [(x - x.mean(0)).square().flatten(1).mean(1) for x in ends]
        return EndBias(
            mean=ends[0].mean(0) - ends[1].mean(0),
            variance=mean_estimate(spreads[0] - spreads[1]),
            square_distance=mean_estimate(sum_events((ends[0] - ends[1]).square())),
        )

    return PriorBias(kl, end(0.0), end(AndersonEpsilon()))
