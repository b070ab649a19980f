"""A learned (v, η) pair on the Gaussian bridge.

The Schrödinger bridge of N(0, I) to itself with σ = 1, d = 5: pairs of correlation (√5 - 1)/2 per
coordinate, the linear path with a Brownian latent. Two networks learn v and η from exact pairs
(`Trainer(pair).fit`, with the defaults but for their size); then 10,000 samples are drawn with
ε = 1/2, the bridge's own, and with ε = 0. The figure is KL(N(mean, covariance of the samples) |
truth) x 1e3, averaged over t = 1/4, 1/2, 3/4, 1; exact samples have 1.0. Asked: at most 5 at every
scheme and number of steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

import transportflows as tpf

DIM, TIMES = 5, [0.25, 0.5, 0.75, 1.0]
C = (math.sqrt(5) - 1) / 2
SCHEMES: list[tuple[str, float]] = [
    ("euler_maruyama", 0.5),
    ("heun", 0.5),
    ("rk4", 0.5),
    ("euler", 0.0),
    ("midpoint", 0.0),
    ("heun", 0.0),
    ("rk4", 0.0),
]


def variance(t: float) -> float:
    """The variance of x_t, per coordinate."""
    return math.sqrt(5) * t * (1 - t) + (1 - t) ** 2 + t**2


def pairs(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs of the bridge."""
    x0, z = (torch.randn(n, DIM, generator=generator) for _ in range(2))
    return x0, C * x0 + math.sqrt(1 - C**2) * z


def trained(steps: int, seed: int = 0) -> tpf.FieldPair:
    """The pair, learned."""
    generator = torch.Generator().manual_seed(seed)
    process = tpf.Process(tpf.Linear(tpf.Brownian()), coupling=tpf.Paired(), shape=(DIM,))
    nets = [tpf.networks.MLP(DIM, width=64, depth=3, generator=generator) for _ in range(2)]
    pair = tpf.FieldPair(mean_velocity=nets[0], noise=nets[1], process=process)
    trainer = tpf.Trainer(pair)
    trainer.fit(
        pairs(200_000, generator),
        steps=steps,
        batch_size=1_024,
        generator=generator,
        progress=False,
    )
    return pair


def divergence(x: Tensor, t: float) -> float:
    """KL of the Gaussian of the samples' moments from the truth."""
    x, v = x.double(), variance(t)
    covariance = torch.cov(x.T) / v
    square = float(x.mean(0).square().sum()) / v
    return 0.5 * (float(covariance.trace()) + square - DIM - float(torch.logdet(covariance)))


def mean_divergence(pair: tpf.Field, scheme: str, epsilon: float, steps: int, n: int) -> float:
    """Over the four times, times 1e3."""
    generator = torch.Generator().manual_seed(1)
    found = tpf.sample(
        pair,
        start=torch.randn(n, DIM, generator=generator),
        epsilon=epsilon,
        scheme=scheme,
        steps=steps,
        save_at=TIMES,
        generator=generator,
    ).trajectory
    if found is None:
        raise RuntimeError("the solve kept no trajectory")
    return 1e3 * sum(map(divergence, found, TIMES)) / len(TIMES)


def run(quick: bool) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """All schemes and numbers of steps."""
    pair = trained(300 if quick else 2_000)
    counts, n = (20, 100) if quick else (20, 50, 100, 200), 4_000 if quick else 10_000
    rows = [
        (
            scheme,
            f"{epsilon:g}",
            *(f"{mean_divergence(pair, scheme, epsilon, count, n):.1f}" for count in counts),
        )
        for scheme, epsilon in SCHEMES
    ]
    columns = ("scheme", "ε", *(f"{count} steps" for count in counts))
    return "A learned (v, η) pair on the Gaussian bridge, d = 5: mean KL x 1e3", columns, rows
