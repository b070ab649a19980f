"""Marginals of the sampling SDE, tested against exact draws.

Between two Gaussian mixtures with full covariances, in d = 2 and 8, linear with a Brownian latent,
the exact b and η as a ``FieldPair`` (as if learned, so that η/γ is 0/0 at the ends), ε in
{0, 0.1, 1, 5}, forward and backward, 20,000 points: is the law at the last time the exact one? By
the energy distance (permutations) and Kolmogorov-Smirnov on 64 projections, against 20,000 exact
draws of their own in each case. Holm's correction is over all cases and both tests together.

*Seeds.* Case k of the list (in the order of the table) has one generator, seeded k, from which its
start, its noise, its exact draws and the choices of its tests come in turn. They were fixed
beforehand and none was tried beside them.

*Permutations.* 199 of them cannot give a p below 0.005, which no correction would ever leave under
0.01. So where the first 199 give p <= 0.05, p is that of 4,999 new ones. This is a valid p-value:
below 0.05 it is the second's, and elsewhere at least the first's.

*Power.* The same tests, against exact draws with a scale error of 5 % about the mean and with a
shift of 0.05 σ in each coordinate (σ its standard deviation); the p-values there are multiplied by
the number of all tests (Bonferroni), which is more than Holm's correction would do.

Run ``python benchmarks/marginals.py``.
"""

from __future__ import annotations

import argparse
import itertools
import time

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table

POINTS = 20_000
EPSILONS = (0.0, 0.1, 1.0, 5.0)
DIMENSIONS = (2, 8)


def mixture(d: int, components: int, seed: int) -> tpf.distributions.GaussianMixture:
    """A mixture with full covariances, and eigenvalues of them from 0.1 to 1."""
    generator = torch.Generator().manual_seed(seed)
    means = 1.5 * torch.randn(components, d, generator=generator, dtype=torch.float64)
    turns = torch.linalg.qr(
        torch.randn(components, d, d, generator=generator, dtype=torch.float64)
    ).Q
    spread = torch.linspace(0.1, 1.0, d, dtype=torch.float64)
    weights = 1 + torch.rand(components, generator=generator)
    covariances = turns @ torch.diag(spread) @ turns.mT
    covariances = 0.5 * (covariances + covariances.mT)
    return tpf.distributions.GaussianMixture(means, covariances=covariances, weights=weights)


def pair(
    d: int,
) -> tuple[tpf.FieldPair, tpf.distributions.GaussianMixture, tpf.distributions.GaussianMixture]:
    """The exact (b, η) from two components to three, and both ends."""
    base, data = mixture(d, 2, seed=10 * d), mixture(d, 3, seed=10 * d + 1)
    oracle = tpf.oracles.GaussianMixtureOracle(
        tpf.Process(tpf.Linear(tpf.Brownian()), base=base), data
    )

    def heads(t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        velocity, score = oracle.predict(t, x)
        return velocity, -oracle.process.noise_part.scale(t.double()).to(x) * score

    return tpf.FieldPair(heads=heads, process=oracle.process), base, data


def tests(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """P of the energy test and of the sliced Kolmogorov-Smirnov test."""
    sliced = tpf.metrics.sliced_kolmogorov_test(x, y, generator=generator).p_value
    energy = tpf.metrics.energy_test(x, y, generator=generator).p_value
    if energy <= 0.05:
        more = tpf.metrics.energy_test(x, y, permutations=4999, generator=generator)
        energy = more.p_value
    return energy, sliced


def holm_pairs(p: list[tuple[float, float]]) -> list[list[float]]:
    """Holm's correction over all."""
    return tpf.metrics.holm(torch.tensor(p, dtype=torch.float64).flatten()).view(-1, 2).tolist()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheme", default="heun")
    parser.add_argument("--steps", type=int, nargs="+", default=[100])
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(header(__doc__))
    ends = {d: pair(d) for d in DIMENSIONS}
    cases = list(itertools.product(DIMENSIONS, EPSILONS, ("forward", "backward")))

    for steps in options.steps:
        p, details = [], []
        for k, (d, epsilon, direction) in enumerate(cases):
            field, base, data = ends[d]
            start, stop = (base, data) if direction == "forward" else (data, base)
            generator = torch.Generator().manual_seed(k)
            began = time.perf_counter()
            solution = tpf.sample(
                field,
                options.points,
                start=start,
                t=(0.0, 1.0) if direction == "forward" else (1.0, 0.0),
                epsilon=epsilon,
                scheme=options.scheme,
                steps=steps,
                generator=generator,
            )
            seconds = time.perf_counter() - began
            exact = stop.sample(options.points, generator=generator)
            p.append(tests(solution.x, exact, generator))
            details.append(
                (d, epsilon, direction, solution.nfe, f"{seconds:.0f}", *_off(solution.x, stop))
            )
        corrected = holm_pairs(p)
        smallest = min(min(pair_) for pair_ in corrected)
        print(f"## {options.scheme}, {steps} steps: smallest corrected p = {smallest:.3g}\n")
        head = ("d", "ε", "direction", "calls", "s", "largest mean error / σ", "trace of cov, rel.")
        head += ("p energy", "p sliced KS", "corrected", "corrected")
        rows = zip(details, p, corrected, strict=True)
        print(table(head, [(*detail, *raw, *fixed) for detail, raw, fixed in rows]))

    print("## What the tests reject\n")
    rows, count = [], 2 * len(cases)
    for j, d in enumerate(DIMENSIONS):
        data = ends[d][2]
        mean, spread = _moments(data)
        for i, alteration in enumerate(("none", "scale 1.05", "shift 0.05 σ")):
            generator = torch.Generator().manual_seed(len(cases) + 3 * j + i)
            x = data.sample(options.points, generator=generator, dtype=torch.float64)
            if alteration == "scale 1.05":
                x = mean + 1.05 * (x - mean)
            elif alteration == "shift 0.05 σ":
                x = x + 0.05 * spread.diagonal().sqrt()
            exact = data.sample(options.points, generator=generator)
            raw = tests(x, exact.double(), generator)
            rows.append((d, alteration, *raw, *(min(1.0, count * value) for value in raw)))
    head = ("d", "error", "p energy", "p sliced KS", f"energy x {count}", f"sliced KS x {count}")
    print(table(head, rows))


def _moments(law: tpf.distributions.GaussianMixture) -> tuple[Tensor, Tensor]:
    """Mean and covariance."""
    mean = law.weights @ law.means
    centred = law.means - mean
    within = torch.einsum("k,kij->ij", law.weights, law.covariances)
    return mean, within + torch.einsum("k,ki,kj->ij", law.weights, centred, centred)


def _off(x: Tensor, law: tpf.distributions.GaussianMixture) -> tuple[str, str]:
    """Errors of the mean and of the total variance, which sampling alone makes too."""
    mean, covariance = _moments(law)
    error = ((x.double().mean(0) - mean) / covariance.diagonal().sqrt()).abs().max()
    return (
        f"{float(error):.3f}",
        f"{float(x.double().T.cov().trace() / covariance.trace() - 1):+.3f}",
    )


if __name__ == "__main__":
    main()
