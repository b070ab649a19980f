"""Posteriors by weighted particles against the exact ones of mixtures.

*Laws.* Two Gaussians in d = 2, 10 and 50 with full covariances, means 2.4 and 2.2 apart in the
first two coordinates, seen through a mask of every other coordinate or a circular blur of three
points (two in d = 2), with noise 0, 0.1 and 0.5. y lies so that both modes have at least .2 of the
posterior. The field of the prior is exact, on the linear path, float64. The posterior and the
evidence are known (`GaussianMixture.posterior`, `log_evidence`).

*Weighted.* `inverse.sample_posterior` with 4,000 particles and 100 steps (d = 50: 50), 20 runs, by
its conjugate proposal or another. z is the mean over the runs less the truth, over its standard
error, their deviation over the root of 20: of the log-evidence, of the share of the first mode (the
mean of its responsibility), the largest of the d means, and the largest of the numbers in the
covariance matrix (its diagonal and what is above it), with how many of them all are beyond 3 and
how many may be by chance (Student's t of 19 degrees). "se" is the mean of the one-run standard
errors, "sd" the deviation of the log-evidences of the runs. Numbers that are 0 exactly without
noise are left out.

*Steps.* The same in d = 2, mask, noise .1, by number of steps, 40,000 particles in all: the bias of
the log-evidence is of second order.

*Intervals.* Of 100 runs of 1,000 particles and 60 steps, how many log-evidences lie within 1.96
one-run standard errors.

*Gaussians.* The first mode alone: the error of the log-evidence and its deviation over 5 runs of
5 steps.

*Collapse.* Diffusion posterior sampling's model, `LikelihoodGuidance`, as the proposal: one run.

Run ``python benchmarks/posterior.py``: half an hour of one thread; ``--parts``, ``--d`` for some.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table
from transportflows.inverse import (
    Blur,
    LikelihoodGuidance,
    LinearObservation,
    Mask,
    PseudoInverse,
    sample_posterior,
)

Mixture = tpf.distributions.GaussianMixture
RUNS, PARTICLES, STEPS, D = 20, 4_000, 100, torch.float64
LARGE = ("mask, σ = 0.1", "blur, σ = 0.5")  # of those in d = 50
BEYOND = 0.00736  # P(|t| > 3) with 19 degrees of freedom


def told(row: list[str]) -> list[str]:
    """A row, printed."""
    print(" | ".join(row), flush=True)
    return row


def prior(d: int) -> Mixture:
    """Two modes with covariances of their own."""
    generator = torch.Generator().manual_seed(d)
    means = torch.zeros(2, d, dtype=D)
    means[0, :2], means[1, :2] = torch.tensor([1.2, 1.4]), torch.tensor([-1.2, -0.8])
    roots = torch.randn(2, d, d, generator=generator, dtype=D) / d**0.5
    covariances = 0.3 * roots @ roots.mT + 0.2 * torch.eye(d, dtype=D)
    return Mixture(means, covariances=covariances, weights=[0.45, 0.55])


def observations(d: int, law: Mixture) -> dict[str, LinearObservation]:
    """Of a y between the modes, moved to where both have a good share."""
    generator = torch.Generator().manual_seed(1)
    noise = 0.3 * torch.randn(d, generator=generator, dtype=D) if d > 2 else torch.zeros(d, dtype=D)
    operators = {
        "mask": Mask(torch.arange(d) % 2 == 1),
        "blur": Blur(torch.tensor([0.25, 0.5, 0.25] if d > 2 else [0.3, 0.7], dtype=D), d),
    }
    found = {}
    for name, operator in operators.items():
        for sigma in (0.0, 0.1, 0.5) if name == "mask" else (0.1, 0.5):
            shares = torch.linspace(0.05, 0.95, 91, dtype=D).tolist()
            tried = [
                LinearObservation(operator, operator.apply(x[None])[0], sigma)
                for x in (s * law.means[0] + (1 - s) * law.means[1] + noise for s in shares)
            ]
            best = min(tried, key=lambda seen: abs(float(law.posterior(seen).weights[0]) - 0.45))
            found[f"{name}, σ = {sigma:g}"] = best
    return found


def moments(law: Mixture) -> tuple[Tensor, Tensor]:
    """Mean and covariance."""
    mean = law.weights @ law.means
    apart = law.means - mean
    within = torch.einsum("k,kij->ij", law.weights, law.covariances)
    return mean, within + torch.einsum("k,ki,kj->ij", law.weights, apart, apart)


def share(law: Mixture, run: tpf.guidance.WeightedSolution) -> Tensor:
    """The weighted mean of the first mode's responsibility, ``(1,)``."""
    parts = [
        Mixture(m[None], covariances=s[None]).log_prob(run.x)
        for m, s in zip(law.means, law.covariances, strict=True)
    ]
    of_modes = torch.softmax(torch.stack(parts, 1) + law.weights.log(), 1)
    return run.mean(of_modes[:, :1])


def weighted_row(
    d: int, name: str, way: str, run: Callable[[], tpf.guidance.WeightedSolution], law: Mixture,
    seen: LinearObservation,
) -> list[str]:  # fmt: skip
    """One line: 20 runs against the truth."""
    post = law.posterior(seen)
    mean, cov = moments(post)
    loose = cov.diagonal() > 1e-12
    upper = torch.triu_indices(d, d)
    known = loose[upper[0]] & loose[upper[1]]
    exact = {
        "evidence": torch.tensor([law.log_evidence(seen)], dtype=D),
        "share": post.weights[:1],
        "mean": mean[loose],
        "cov": cov[upper[0], upper[1]][known],
    }
    runs = [run() for _ in range(RUNS)]
    z = {}
    for key, wanted in exact.items():
        values = []
        for one in runs:
            of_run = one.mean()
            apart = one.x - of_run
            spread = (apart * one.weights[:, None]).mT @ apart
            values.append(
                {
                    "evidence": lambda r=one: torch.tensor([r.log_evidence], dtype=D),
                    "share": lambda r=one: share(law, r),
                    "mean": lambda m=of_run: m[loose],
                    "cov": lambda s=spread: s[upper[0], upper[1]][known],
                }[key]()
            )
        found = torch.stack(values)
        z[key] = (found.mean(0) - wanted) / (found.std(0) / RUNS**0.5)
    every = torch.cat(list(z.values())).abs()
    evidence = torch.tensor([one.log_evidence for one in runs])
    row = [
        str(d), name, way, ", ".join(f"{w:.2f}" for w in post.weights.tolist()),
        f"{float(z['evidence']):+.1f}", f"{float(z['share']):+.1f}",
        f"{z['mean'].abs().max():.1f}", f"{z['cov'].abs().max():.1f}",
        f"{int((every > 3).sum())} of {len(every)} ({len(every) * BEYOND:.1f})",
        f"{float(evidence.mean()) - law.log_evidence(seen):+.4f}", f"{evidence.std():.4f}",
        f"{sum(one.log_evidence_error for one in runs) / RUNS:.4f}",
        f"{min(one.least_ess for one in runs):.0f}", f"{min(one.ancestors_left for one in runs)}",
    ]  # fmt: skip
    return told(row)


def field_of(law: Mixture) -> tpf.Field:
    """The exact field on the linear path."""
    return tpf.oracle(tpf.Process(tpf.Linear(), base=tpf.Gaussian(law.shape)), law)


def weighted(d: int, generator: torch.Generator) -> Iterator[list[str]]:
    """All observations; other proposals where they are cheap."""
    law = prior(d)
    field = field_of(law)
    for name, seen in observations(d, law).items():
        if d == 50 and name not in LARGE:
            continue
        ways = {"conjugate": None}
        if d == 10 and name == "mask, σ = 0.1":
            ways["pseudo-inverse"] = PseudoInverse(field, seen)
        for way, proposal in ways.items():

            def run(seen=seen, proposal=proposal) -> tpf.guidance.WeightedSolution:
                return sample_posterior(
                    field, seen, PARTICLES, steps=STEPS if d < 50 else STEPS // 2, dtype=D,
                    proposal=proposal, generator=generator,
                )  # fmt: skip

            yield weighted_row(d, name, way, run, law, seen)


def steps(d: int, generator: torch.Generator) -> Iterator[list[str]]:
    """The bias of the log-evidence by steps."""
    law = prior(d)
    field, seen = field_of(law), observations(d, law)["mask, σ = 0.1"]
    for count in (6, 12, 25, 50):
        found = torch.tensor(
            [
                sample_posterior(
                    field, seen, PARTICLES, steps=count, dtype=D, generator=generator
                ).log_evidence
                for _ in range(10)
            ]
        ) - law.log_evidence(seen)
        yield told([str(count), f"{found.mean():+.4f}", f"{found.std() / 10**0.5:.4f}"])


def intervals(d: int, generator: torch.Generator) -> Iterator[list[str]]:
    """How many of 100 intervals hold the true log-evidence."""
    law = prior(d)
    field = field_of(law)
    for name in ("mask, σ = 0.1", "blur, σ = 0.5") if d < 50 else ():
        seen = observations(d, law)[name]
        runs = [
            sample_posterior(field, seen, 1_000, steps=60, dtype=D, generator=generator)
            for _ in range(100)
        ]
        errors = torch.tensor([run.log_evidence for run in runs]) - law.log_evidence(seen)
        own = torch.tensor([run.log_evidence_error for run in runs])
        held = int((errors.abs() <= 1.96 * own).sum())
        yield told([str(d), name, str(held), f"{own.mean():.4f}", f"{errors.std():.4f}"])


def gaussians(d: int, generator: torch.Generator) -> Iterator[list[str]]:
    """The first mode alone."""
    law = prior(d)
    one = Mixture(law.means[:1], covariances=law.covariances[:1])
    field = field_of(one)
    for name, seen in observations(d, law).items():
        runs = [
            sample_posterior(field, seen, 1_000, steps=5, dtype=D, generator=generator)
            for _ in range(5)
        ]
        errors = torch.tensor([run.log_evidence for run in runs]) - one.log_evidence(seen)
        least = min(run.least_ess for run in runs) / 1_000
        yield told([str(d), name, f"{errors.mean():+.1e}", f"{errors.std():.1e}", f"{least:.6f}"])


def collapse(d: int, generator: torch.Generator) -> Iterator[list[str]]:
    """The likelihood's gradient at the prediction as a proposal."""
    law = prior(d)
    field = field_of(law)
    for name, seen in observations(d, law).items():
        if seen.noise == 0:
            continue
        proposal = LikelihoodGuidance(field, seen)
        with warnings.catch_warnings(record=True) as seen_warnings:
            warnings.simplefilter("always", tpf.guidance.CollapsedWeightsWarning)
            try:
                run = sample_posterior(
                    field, seen, PARTICLES, steps=STEPS, dtype=D, proposal=proposal,
                    generator=generator,
                )  # fmt: skip
            except ArithmeticError as error:
                yield told([str(d), name, type(error).__name__, "", "", "", "", "refused"])
                continue
        warned = any(one.category is tpf.guidance.CollapsedWeightsWarning for one in seen_warnings)
        error = run.log_evidence - law.log_evidence(seen)
        yield told(
            [
                str(d), name, f"{error:+.2f}", f"{run.log_evidence_error:.2f}",
                f"{run.least_ess:.0f}", f"{float(run.ess[-1]):.0f}", f"{run.ancestors_left}",
                "warned" if warned else "no warning",
            ]
        )  # fmt: skip


HEADS = {
    "gaussians": ("d", "seen", "error of log Z", "sd", "least ESS over N"),
    "collapse": (
        "d", "seen", "error of log Z", "se", "least ESS", "last ESS", "ancestors", "told",
    ),
    "steps": ("steps", "bias of log Z", "its standard error"),
    "intervals": ("d", "seen", "held of 100", "se", "sd"),
    "weighted": (
        "d", "seen", "proposal", "weights of modes", "z log Z", "z share", "z means",
        "z covariances", "beyond 3 (chance)", "error of log Z", "sd", "se", "least ESS",
        "least ancestors",
    ),
}  # fmt: skip


def main() -> None:
    """Measure, and write the tables of the parts that are asked for beside those that are there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/posterior.md")
    parser.add_argument("--parts", nargs="+", default=list(HEADS))
    parser.add_argument("--d", nargs="+", type=int, default=[2, 10, 50])
    given = parser.parse_args()
    torch.set_num_threads(1)
    old = given.out.read_text() if given.out.exists() and given.parts != list(HEADS) else ""
    sections = {text.partition("\n")[0]: text for text in old.split("\n## ")[1:]}
    head = header(__doc__)
    made = {"gaussians": gaussians, "collapse": collapse, "intervals": intervals, "steps": steps}
    for part in given.parts:
        rows: list[list[str]] = []
        for d in given.d if part != "steps" else [2]:
            generator = torch.Generator().manual_seed(100 * list(HEADS).index(part) + d)
            for row in made.get(part, weighted)(d, generator):
                rows.append(row)
                name = part.capitalize()
                sections[name] = f"{name}\n\n{table(HEADS[part], rows)}\n"
                given.out.write_text("\n## ".join([head, *sections.values()]))


if __name__ == "__main__":
    main()
