"""Inverse problems: the bias of each method against the exact posterior of a mixture.

A mixture of three Gaussians in d dimensions, seen through a mask of half of its coordinates or (in
d = 2) a circular blur, with noise 0, 0.1 and 0.5. Its posterior is a mixture again, exactly
(``GaussianMixture.posterior``). Every method is given the exact field of the prior, so that what is
left is its own bias, and that of its steps.

- *modes*: largest error of the posterior weight of a component, by the mean of its responsibility;
- *mean*: root mean square error of the means of the coordinates, over the posterior's standard
  deviation (over 0.05 of the prior's where that is larger);
- *spread*: root mean square of ``sd / true sd - 1``, over coordinates whose sd is above 0.05;
- *misfit*: root mean square of ``y - A x``.

*exact* is the oracle of the posterior by the same solve: what is left of it is the Monte Carlo
error and that of the steps.

Run ``python benchmarks/inverse.py``: a few minutes of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table
from transportflows.distributions import GaussianMixture
from transportflows.inverse import (
    DPS,
    Blur,
    LikelihoodGuidance,
    LinearObservation,
    Mask,
    MomentMatched,
    PseudoInverse,
    Replacement,
)

DRAWS, STEPS, D = 1_000, 60, torch.float64
OUT = Path(__file__).parent / "results" / "inverse.md"


def prior(d: int) -> GaussianMixture:
    """Three components with correlated coordinates."""
    generator = torch.Generator().manual_seed(d)
    means = 2 * torch.randn(3, d, generator=generator, dtype=D)
    roots = torch.randn(3, d, d, generator=generator, dtype=D) / d**0.5
    covariances = 0.5 * roots @ roots.mT + 0.05 * torch.eye(d, dtype=D)
    return GaussianMixture(means, covariances=covariances, weights=[0.3, 0.3, 0.4])


def moments(law: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Means and variances of the coordinates."""
    mean = law.weights @ law.means
    second = law.covariances.diagonal(dim1=1, dim2=2) + law.means.square()
    return mean, (law.weights @ second - mean.square()).clamp(min=0)


def responsibilities(law: GaussianMixture, x: Tensor) -> Tensor:
    """The probability of each component of the prior given x, ``(n, K)``."""
    parts = [
        GaussianMixture(m[None], covariances=s[None]).log_prob(x)
        for m, s in zip(law.means, law.covariances, strict=True)
    ]
    return torch.softmax(torch.stack(parts, 1) + law.weights.log(), 1)


def judged(law: GaussianMixture, seen: LinearObservation, x: Tensor) -> list[float]:
    """Errors of modes, mean and spread, and the misfit."""
    post = law.posterior(seen)
    mean, variance = moments(post)
    sd = variance.sqrt()
    scale = torch.maximum(sd, 0.05 * moments(law)[1].sqrt())
    loose = sd > 0.05
    modes = (responsibilities(law, x).mean(0) - post.weights).abs().max()
    off = ((x.mean(0) - mean) / scale).square().mean().sqrt()
    spread = (x.std(0)[loose] / sd[loose] - 1).square().mean().sqrt()
    return [float(v) for v in (modes, off, spread, seen.residual(x).square().mean().sqrt())]


def methods(law: GaussianMixture, seen: LinearObservation) -> dict[str, Callable[[], Tensor]]:
    """Each method as a solve of DRAWS rows."""
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian(law.shape))
    field = tpf.oracle(process, law)
    v = float(moments(law)[1].mean())

    def solve(guided: tpf.Field, epsilon: float = 1.0, hooks: tuple = ()) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        how = {"epsilon": epsilon, "hooks": hooks, "dtype": D, "generator": generator}
        return tpf.sample(guided, DRAWS, steps=STEPS, **how).x

    def put(repeats: int) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return solve(field, hooks=(Replacement(field, seen, repeats=repeats, generator=generator),))

    found = {"exact": lambda: solve(tpf.oracle(process, law.posterior(seen)))}
    if isinstance(seen.operator, Mask):
        found["replacement"] = lambda: put(0)
        found["replacement, 10 repaints"] = lambda: put(10)
    found["DPS, ζ = 0.3"] = lambda: solve(field, hooks=(DPS(field, seen, 0.3),))
    found["DPS, ζ = 1"] = lambda: solve(field, hooks=(DPS(field, seen, 1.0),))
    if seen.noise > 0:
        found["likelihood at d"] = lambda: solve(LikelihoodGuidance(field, seen))
    for epsilon in (1.0, 0.0):
        told = "" if epsilon else ", ε = 0"
        guided = PseudoInverse(field, seen, variance=v)
        matched = MomentMatched(field, seen)
        found[f"pseudo-inverse{told}"] = lambda f=guided, e=epsilon: solve(f, e)
        found[f"moment matching{told}"] = lambda f=matched, e=epsilon: solve(f, e)
    return found


def problems(d: int) -> dict[str, LinearObservation]:
    """The observations, of a draw from the prior."""
    generator = torch.Generator().manual_seed(3)
    truth = prior(d).sample(1, generator=generator, dtype=D)
    mask = Mask(torch.arange(d) % 2 == 0)
    blur = Blur(torch.tensor([0.25, 0.5, 0.25] if d > 2 else [0.3, 0.7], dtype=D), d)
    found = {}
    blurred = (0.1, 0.5) if d == 2 else ()
    for name, operator, noises in (("mask", mask, (0.0, 0.1, 0.5)), ("blur", blur, blurred)):
        for noise in noises:
            z = torch.randn(1, d, generator=generator, dtype=D)
            y = operator.apply(truth) + noise * z
            found[f"{name}, σ = {noise:g}"] = LinearObservation(operator, y[0], noise)
    return found


def row(
    name: str, solve: Callable[[], Tensor], law: GaussianMixture, seen: LinearObservation
) -> list[str]:
    """One line of a table; a solve that fails says how."""
    began = time.perf_counter()
    try:
        x = solve()
    except (ValueError, ArithmeticError, RuntimeError) as error:
        return [name, f"{type(error).__name__}", "", "", "", ""]
    seconds = time.perf_counter() - began
    return [name, *(f"{value:.3f}" for value in judged(law, seen, x)), f"{seconds:.1f}"]


def main() -> None:
    """Write the tables, one problem after another."""
    torch.set_num_threads(1)
    parts = [header(__doc__)]
    parts.append(f"{DRAWS:,} draws, {STEPS} Heun steps, ε = 1 where no other is named, float64.\n")
    for d in (2, 10):
        law = prior(d)
        for name, seen in problems(d).items():
            rows = [row(k, solve, law, seen) for k, solve in methods(law, seen).items()]
            told = ", ".join(f"{w:.2f}" for w in law.posterior(seen).weights.tolist())
            parts.append(f"## d = {d}, {name}\n\nPosterior weights {told}.\n")
            head = ["method", "modes", "mean", "spread", "misfit", "seconds"]
            parts.append(table(head, rows))
            OUT.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
