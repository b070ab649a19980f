"""Classifier-free guidance by a trained network: alone, and with weights, by number of steps.

Two classes N(m_c, 0.7²) in d = 2, m = (-1, 0) and (1.2, 0.5); an MLP of 3 x 64 learns the velocity,
the data or the noise of the linear path from 20,000 rows in 3,000 steps of 512, a fifth of them
without a label. Asked: the second class at w = 2, whose law p(x)^-1 p(x given c)^2 / Z is
integrated on a grid of 0.02. 4,000 states, ε = 1. *ess* is the least effective size of the
weights, *told* whether a `CollapsedWeightsWarning` was given. *unbounded* is log Z with
``most_amplified=math.inf``, where the weights look at predictions up to the ends of time, and
reward their errors. Exact fields stand beside.

Run ``python benchmarks/guidance_trained.py``; prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import math
import warnings

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table

MEANS, WIDTH, SCALE = torch.tensor([[-1.0, 0.0], [1.2, 0.5]]), 0.7, 2.0
PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))


KINDS = {"velocity": tpf.Velocity, "data": tpf.DataPredictor, "noise": tpf.NoisePredictor}


def trained(kind: str, seed: int) -> tpf.Field:
    """The network of a kind and a seed."""
    draws = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (20_000,), generator=draws)
    data = MEANS[label] + WIDTH * torch.randn(20_000, 2, generator=draws)
    net = tpf.networks.MLP(2, width=64, depth=3, labels=2, generator=draws)
    field = KINDS[kind](net, PROCESS)
    tpf.Trainer(field).fit(
        data,
        cond={"label": label},
        drop_cond=0.2,
        steps=3_000,
        batch_size=512,
        progress=False,
        generator=draws,
    )
    return field


def truth() -> tuple[Tensor, Tensor, float]:
    """Mean, variances and log Z of the guided law, on a grid."""
    axis = torch.arange(-6.0, 6.0, 0.02, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    whole = tpf.distributions.GaussianMixture(MEANS, scale=WIDTH)
    one = tpf.distributions.GaussianMixture(MEANS[1:], scale=WIDTH)
    logs = SCALE * one.log_prob(x) + (1 - SCALE) * whole.log_prob(x)
    w = logs.softmax(0)
    mean = w @ x
    return (
        mean,
        w @ x.square() - mean.square(),
        float(logs.logsumexp(0)) + 2 * float(torch.tensor(0.02).log()),
    )


def row(name: str, field: tpf.Field, steps: int, cond: dict[str, int]) -> tuple[str, ...]:
    """A line of the table."""
    draws = torch.Generator().manual_seed(steps)
    alone = tpf.sample(field, 4_000, steps=steps, epsilon=1.0, cond=cond, generator=draws).x
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run = tpf.guidance.sample_weighted(field, 4_000, steps=steps, cond=cond, generator=draws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unbounded = tpf.guidance.sample_weighted(
            field, 4_000, steps=steps, cond=cond, most_amplified=math.inf, generator=draws
        )
    kinds = {w.category for w in told}
    mean = run.mean()
    return (
        name,
        str(steps),
        shown(alone.mean(0), alone.var(0)),
        shown(mean, run.mean(run.x.square()) - mean.square()),
        f"{run.log_evidence:.2f} ({run.log_evidence_error:.2f})",
        f"{float(run.least_ess):.0f}",
        f"{unbounded.log_evidence:.2f}",
        "yes" if tpf.guidance.CollapsedWeightsWarning in kinds else "no",
    )


def shown(mean: Tensor, variance: Tensor) -> str:
    """Both, to two digits."""
    return "; ".join(", ".join(f"{v:.2f}" for v in part.tolist()) for part in (mean, variance))


def main() -> None:
    """Train, sample and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50, 200, 400])
    options = parser.parse_args()
    print(header(__doc__))
    mean, variance, evidence = truth()
    print(f"The truth: mean and variances {shown(mean, variance)}; log Z {evidence:.3f}.\n")
    whole, one = (
        tpf.oracle(PROCESS, tpf.distributions.GaussianMixture(m, scale=WIDTH))
        for m in (MEANS, MEANS[1:])
    )
    exact = tpf.guidance.ClassifierFree(one, SCALE, unconditional=whole)
    rows = [row("exact", exact, steps, {}) for steps in options.steps]
    for kind in KINDS:
        for seed in options.seeds:
            guided = tpf.guidance.ClassifierFree(trained(kind, seed), SCALE)
            name = f"{kind}, seed {seed}"
            rows += [row(name, guided, steps, {"label": 1}) for steps in options.steps]
    columns = ("field", "steps", "alone: mean; variance", "weighted: mean; variance")
    print(table((*columns, "log Z (se)", "ess", "unbounded", "told"), rows))


if __name__ == "__main__":
    main()
