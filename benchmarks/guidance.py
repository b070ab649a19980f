"""Guidance on mixtures: what it samples alone, and what weighted particles sample.

*Laws.* A and B are mixtures of two modes each in d = 2, 10 and 50, exact fields on the linear
path, all float64. *Targets:* the annealed A^2, the product A B, classifier-free guidance
P^(1 - w) A^w with P = (A + B)/2 and w = 2 and 8, and A e^r with r = a x - k x^2/2. All answers have
both modes, with at least .2 in each, and are known: mixtures in closed form, and for
classifier-free guidance by importance sampling of 1,000,000 exact draws of A (4,000,000 in d = 2),
whose error is far below.

*Weighted.* 4,000 particles, 100 Heun steps, epsilon = 1, plain transport and closure split (guided
proposal for the tilt; d = 50 these alone), 20 runs. z is the mean over the runs less the truth,
over its standard error, their deviation over the root of 20: of the log-evidence, of the share of
the mode on the right, the largest of the d means, and the largest of the numbers in the covariance
matrix (its diagonal and what is above it), with how many of them all are beyond 3 and how many may
be by chance (Student's t of 19 degrees). "se" is the mean of the one-run standard errors, "sd" the
deviation of the log-evidences of the runs.

*Alone.* `sample` of the same field, 20,000 states, 200 Heun steps, at three epsilons: share of the
right mode, largest error of a mean over that coordinate's deviation, and largest and smallest
ratio of a variance to its true value.

*Intervals.* Of 100 runs of 1,000 particles and 50 steps (plain), how many log-evidences lie within
1.96 one-run standard errors.

Run ``python benchmarks/guidance.py``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table

G = tpf.guidance
Mixture = tpf.distributions.GaussianMixture
BEYOND = 0.00736  # P(|t| > 3) with 19 degrees of freedom
STRENGTH = 0.5  # k of the reward


@dataclass
class Size:
    """Of the weighted runs."""

    runs: int
    particles: int
    steps: int


@dataclass
class Truth:
    """What is known of a target: log-evidence, share of the right mode, mean, covariance."""

    log_evidence: float
    share: float
    mean: Tensor
    cov: Tensor

    @classmethod
    def of_components(cls, logs: Tensor, means: Tensor, variances: Tensor) -> Truth:
        """Of isotropic components with these unnormalised log-weights."""
        w = torch.softmax(logs, 0)
        mean = w @ means
        apart = means - mean
        cov = torch.einsum("k,ki,kj->ij", w, apart, apart)
        cov += (w @ variances) * torch.eye(means.shape[1])
        right = 0.5 * (1 + torch.erf(means[:, 0] / (2 * variances).sqrt()))
        return cls(float(torch.logsumexp(logs, 0)), float(w @ right), mean, cov)

    @classmethod
    def of_draws(cls, x: Tensor, log_weights: Tensor) -> Truth:
        """Of weighted draws."""
        w = torch.softmax(log_weights, 0)
        mean = w @ x
        apart = x - mean
        cov = (apart * w[:, None]).mT @ apart
        evidence = float(torch.logsumexp(log_weights, 0)) - math.log(len(x))
        return cls(evidence, float(w @ (x[:, 0] > 0).double()), mean, cov)


@dataclass
class Problem:
    """A guided field, what weights take beside it, and the truth."""

    name: str
    field: tpf.Field
    better: dict[str, Any]  # arguments of the second weighted run
    truth: Truth


def laws(d: int) -> tuple[Mixture, Mixture]:
    """A and B."""
    a, b = torch.zeros(2, d), torch.zeros(2, d)
    a[0, 0], a[1, 0], a[0, 1] = 1.4, -1.4, 0.6
    b[0, 0], b[1, 0], b[1, -1] = 1.0, -1.6, -0.8
    spread = 0.6 if d == 2 else 0.8
    return (
        Mixture(a, spread, weights=torch.tensor([0.45, 0.55])),
        Mixture(b, spread + 0.2, weights=torch.tensor([0.5, 0.5])),
    )


def parts(law: Mixture) -> list[tuple[float, Tensor, float]]:
    """Weight, mean and variance of each component."""
    rows = zip(law.weights.tolist(), law.means, law.covariances[:, 0, 0].tolist(), strict=True)
    return list(rows)


def product_truth(one: Mixture, other: Mixture) -> Truth:
    """Of the product of two mixtures, a mixture of the products of their components."""
    logs, means, variances = [], [], []
    d = one.means.shape[1]
    for w, m, s in parts(one):
        for v, n, r in parts(other):
            apart = float((m - n).square().sum())
            logs.append(
                math.log(w * v) - 0.5 * d * math.log(2 * math.pi * (s + r)) - apart / (2 * (s + r))
            )
            means.append((m * r + n * s) / (s + r))
            variances.append(s * r / (s + r))
    return Truth.of_components(torch.tensor(logs), torch.stack(means), torch.tensor(variances))


def tilt_truth(law: Mixture, slope: Tensor) -> Truth:
    """Of a mixture times exp(slope x - k x^2/2)."""
    logs, means, variances = [], [], []
    for w, m, s in parts(law):
        precision = 1 / s + STRENGTH
        lean = m / s + slope
        logs.append(
            math.log(w)
            - 0.5 * len(m) * math.log(s * precision)
            + 0.5 * float(lean @ lean) / precision
            - 0.5 * float(m @ m) / s
        )
        means.append(lean / precision)
        variances.append(1 / precision)
    return Truth.of_components(torch.tensor(logs), torch.stack(means), torch.tensor(variances))


def guidance_truth(a: Mixture, both: Mixture, w: float, generator: torch.Generator) -> Truth:
    """Of ``both^(1-w) a^w``, by weighted exact draws of a."""
    x = a.sample(
        4_000_000 if a.means.shape[1] == 2 else 1_000_000, generator=generator, dtype=torch.float64
    )
    logs = torch.cat([a.log_prob(y) - both.log_prob(y) for y in x.split(500_000)])
    return Truth.of_draws(x, (w - 1) * logs)


def problems(d: int, generator: torch.Generator, wanted: tuple[str, ...]) -> list[Problem]:
    """The targets whose names begin so, of five."""
    a, b = laws(d)
    both = Mixture(
        torch.cat([a.means, b.means]),
        weights=torch.cat([a.weights, b.weights]),
        covariances=torch.cat([a.covariances, b.covariances]),
    )
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((d,)))
    of_a, of_b, of_both = (tpf.oracle(process, law) for law in (a, b, both))
    slope = 0.5 * torch.linspace(0.5, -1.0, d)

    def reward(t: Tensor, x: Tensor) -> Tensor:
        return t * (x @ slope - 0.5 * STRENGTH * x.square().sum(1))

    def guided(w: float) -> tuple[tpf.Field, dict[str, Any], Truth]:
        field = G.ClassifierFree(of_a, w, unconditional=of_both)
        return field, {"closure": [both, a]}, guidance_truth(a, both, w, generator)

    made: dict[str, Callable[[], tuple[tpf.Field, dict[str, Any], Truth]]] = {
        "annealed 2": lambda: (G.Power(of_a, 2.0), {"closure": [a]}, product_truth(a, a)),
        "product": lambda: (
            G.Product([of_a, of_b]),
            {"closure": [a, b]},
            product_truth(a, b),
        ),
        "classifier-free 2": lambda: guided(2.0),
        "classifier-free 8": lambda: guided(8.0),
        "tilt": lambda: (G.Tilt(of_a, reward), {"proposal": "guided"}, tilt_truth(a, slope)),
    }
    return [Problem(name, *make()) for name, make in made.items() if name.startswith(wanted)]


def of_run(run: G.WeightedSolution) -> dict[str, Tensor]:
    """What is judged of one run."""
    mean = run.mean()
    apart = run.x - mean
    cov = (apart * run.weights[:, None]).mT @ apart
    d = len(mean)
    upper = torch.triu_indices(d, d)
    return {
        "log_evidence": torch.tensor([run.log_evidence]),
        "share": run.mean((run.x[:, :1] > 0).double()),
        "mean": mean,
        "cov": cov[upper[0], upper[1]],
    }


def weighted_rows(
    d: int, problem: Problem, generator: torch.Generator, size: Size
) -> list[list[str]]:
    """One row for each way."""
    truth = problem.truth
    upper = torch.triu_indices(d, d)
    exact = {
        "log_evidence": torch.tensor([truth.log_evidence]),
        "share": torch.tensor([truth.share]),
        "mean": truth.mean,
        "cov": truth.cov[upper[0], upper[1]],
    }
    rows = []
    for more in ({}, problem.better) if d < 50 else (problem.better,):
        runs = [
            G.sample_weighted(
                problem.field, size.particles, steps=size.steps, epsilon=1.0, dtype=torch.float64,
                generator=generator, **more,
            )
            for _ in range(size.runs)
        ]  # fmt: skip
        seen = [of_run(run) for run in runs]
        z = {}
        for name, wanted in exact.items():
            values = torch.stack([one[name] for one in seen])
            z[name] = (values.mean(0) - wanted) / (values.std(0) / size.runs**0.5)
        every = torch.cat(list(z.values())).abs()
        evidence = torch.tensor([run.log_evidence for run in runs])
        way = ", ".join(more) or "plain"
        if "closure" in more:
            way = f"closure ({runs[0].split})" if runs[0].split != "closure" else "closure"
        rows.append(
            [
                str(d), problem.name, way,
                f"{z['log_evidence'][0]:+.1f}", f"{z['share'][0]:+.1f}",
                f"{z['mean'].abs().max():.1f}", f"{z['cov'].abs().max():.1f}",
                f"{int((every > 3).sum())} of {len(every)} ({len(every) * BEYOND:.1f})",
                f"{float(evidence.mean()) - truth.log_evidence:+.4f}",
                f"{evidence.std():.4f}",
                f"{sum(run.log_evidence_error for run in runs) / size.runs:.4f}",
                f"{min(run.least_ess for run in runs):.0f}",
                f"{min(run.ancestors_left for run in runs)}",
            ]
        )  # fmt: skip
        print(" | ".join(rows[-1]), flush=True)
    return rows


def alone_rows(d: int, problem: Problem, generator: torch.Generator, size: Size) -> list[list[str]]:
    """What the field samples without weights."""
    truth, rows = problem.truth, []
    for epsilon in (0.0, 1.0, 4.0):
        x = tpf.sample(
            problem.field, 20_000, epsilon=epsilon, steps=200, dtype=torch.float64,
            generator=generator,
        ).x  # fmt: skip
        true = truth.cov.diagonal()
        ratios = x.var(0) / true
        off = ((x.mean(0) - truth.mean) / true.sqrt()).abs().max()
        rows.append(
            [
                str(d), problem.name, f"{epsilon:g}",
                f"{float((x[:, 0] > 0).double().mean()):.3f}", f"{truth.share:.3f}",
                f"{off:.2f}", f"{ratios.min():.2f}", f"{ratios.max():.2f}",
            ]
        )  # fmt: skip
        print(" | ".join(rows[-1]), flush=True)
    return rows


def interval_rows(d: int, found: list[Problem], generator: torch.Generator) -> list[list[str]]:
    """How many of 100 intervals hold the true log-evidence."""
    rows = []
    for problem in found:
        runs = [
            G.sample_weighted(
                problem.field, 1_000, steps=50, dtype=torch.float64, generator=generator
            )
            for _ in range(100)
        ]
        errors = [run.log_evidence - problem.truth.log_evidence for run in runs]
        held = sum(abs(e) <= 1.96 * r.log_evidence_error for e, r in zip(errors, runs, strict=True))
        size = sum(run.log_evidence_error for run in runs) / len(runs)
        sd = torch.tensor(errors).std()
        rows.append([str(d), problem.name, str(held), f"{size:.4f}", f"{sd:.4f}"])
        print(" | ".join(rows[-1]), flush=True)
    return rows


HEADS = {
    "weighted": (
        "d", "target", "way", "z log Z", "z share", "z means", "z covariances", "beyond 3 (chance)",
        "error of log Z", "sd", "se", "least ESS", "least ancestors",
    ),
    "alone": (
        "d", "target", "epsilon", "share", "true share", "mean off by", "least variance ratio",
        "largest",
    ),
    "intervals": ("d", "target", "held of 100", "se", "sd"),
}  # fmt: skip


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/guidance.md")
    parser.add_argument("--parts", nargs="+", default=["weighted", "alone", "intervals"])
    parser.add_argument("--d", nargs="+", type=int, default=[2, 10])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--particles", type=int, default=4_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="+", help="by the first letters of their names")
    given = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(given.seed)
    size = Size(given.runs, given.particles, given.steps)
    text = [header(__doc__)]
    wanted = tuple(given.targets or ("",))
    found = {d: problems(d, generator, wanted) for d in given.d}
    for part in given.parts:
        rows: list[list[str]] = []
        for d, targets in found.items():
            if part == "intervals":
                rows += interval_rows(d, targets, generator)
                continue
            ways = {"weighted": weighted_rows, "alone": alone_rows}[part]
            for problem in targets:
                rows += ways(d, problem, generator, size)
        text.append(f"## {part.capitalize()}\n\n{table(HEADS[part], rows)}\n")
    given.out.write_text("\n".join(text))


if __name__ == "__main__":
    main()
