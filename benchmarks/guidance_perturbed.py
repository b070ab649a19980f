"""Guidance and posteriors by weights with fields that are wrong, as networks are, at 20 steps.

Laws of d = 2 on the linear path, 4,000 particles, 20 steps, float32. *Fields:* the exact velocity;
the exact one with an error a sin(3 x + k) of its own in each field, which is there within .1 of
t = 0, or of t = 1, a = .1, .2 and .3; and networks that were trained for some seconds (an MLP of 3
times 64 with a label, 3,000 steps). *Targets:* classifier-free guidance w = 2 and 4, the annealed
p^2, and the posterior of a noisy (.1) and a noiseless mask. *Alone* is `sample` of the guided field
at ε = 1 with as many steps (pseudo-inverse guidance for the posterior).

- *alone*, *weighted*: the largest error of a coordinate's mean over its deviation, with the error
  of the share of the right mode;
- *log Z*: error of the log-evidence, with its one-run standard error;
- *least ESS*, of 4,000, *ancestors*, and whether a collapse was told.

Run ``python benchmarks/guidance_perturbed.py``: three minutes of one idle thread.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table
from transportflows.inverse import LinearObservation, Mask, PseudoInverse, sample_posterior

OUT = Path(__file__).parent / "results" / "guidance_perturbed.md"
G, Mixture = tpf.guidance, tpf.distributions.GaussianMixture
N, STEPS = 4_000, 20
ONE = Mixture(torch.tensor([[1.2, 0.0], [-1.0, 0.8]]), 0.5, weights=torch.tensor([0.45, 0.55]))
TWO = Mixture(torch.tensor([[-0.8, -0.6]]), 0.8)
BOTH = Mixture(
    torch.cat([ONE.means, TWO.means]),
    torch.tensor([0.5, 0.5, 0.8]),
    weights=torch.tensor([0.225, 0.275, 0.5]),
)
HEAD = ["field", "target", "alone", "weighted", "log Z", "least ESS", "ancestors", "told"]
PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))


@dataclass
class Answer:
    """Log-evidence, means, deviations and the share of the right mode."""

    log_evidence: float
    mean: Tensor
    sd: Tensor
    share: float


def drawn(law: Mixture, log_weight: Callable[[Tensor], Tensor]) -> Answer:
    """Of weighted exact draws."""
    x = law.sample(1_000_000, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    logs = log_weight(x)
    w = torch.softmax(logs, 0)
    mean = w @ x
    sd = (w @ (x - mean).square()).sqrt()
    share = float(w @ (x[:, 0] > 0.2).double())
    return Answer(float(torch.logsumexp(logs, 0)) - math.log(len(x)), mean, sd, share)


def of_law(law: Mixture, log_evidence: float) -> Answer:
    """Of draws of a law."""
    found = drawn(law, lambda x: torch.zeros(len(x), dtype=torch.float64))
    return Answer(log_evidence, found.mean, found.sd, found.share)


def fields(kind: str, size: float) -> tuple[tpf.Field, tpf.Field]:
    """Of class ONE, and of all data."""

    def wrong(law: Mixture, phase: float) -> tpf.Field:
        exact = tpf.oracle(PROCESS, law)

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            distance = t if kind == "start" else 1 - t
            near = (1 - distance / 0.1).clamp(min=0)[:, None]
            return exact.velocity(t, x) + size * near * torch.sin(3 * x + phase)

        return tpf.Velocity(velocity, PROCESS)

    if kind == "exact":
        size = 0.0
    return wrong(ONE, 0.0), wrong(BOTH, 1.5)


def trained() -> tuple[tpf.Field, tpf.Field]:
    """One network with a label, and the same without."""
    gen = torch.Generator().manual_seed(0)
    data = torch.cat([ONE.sample(20_000, generator=gen), TWO.sample(20_000, generator=gen)])
    label = torch.arange(2).repeat_interleave(20_000)
    net = tpf.networks.MLP(2, 64, 3, labels=2, generator=gen)
    field = tpf.Velocity(net, PROCESS)
    tpf.Trainer(field).fit(
        data, cond={"label": label}, drop_cond=0.3, steps=3_000, batch_size=512, generator=gen,
        progress=False,
    )  # fmt: skip
    one = tpf.Velocity(lambda t, x: net(t, x, label=torch.zeros(len(x), dtype=torch.long)), PROCESS)
    nulls = field.null_cond(1)["label"]
    both = tpf.Velocity(lambda t, x: net(t, x, label=nulls.expand(len(x))), PROCESS)
    return one, both


def cases(one: tpf.Field, both: tpf.Field) -> dict[str, tuple]:
    """Name: the field alone, the weighted run, and the answer."""
    found: dict[str, tuple] = {}
    for w in (2.0, 4.0):
        guided = G.ClassifierFree(one, w, unconditional=both)
        found[f"classifier-free {w:g}"] = (
            guided,
            lambda gen, f=guided: G.sample_weighted(f, N, steps=STEPS, generator=gen),
            drawn(ONE, lambda x, w=w: (w - 1) * (ONE.log_prob(x) - BOTH.log_prob(x))),
        )
    power = G.Power(one, 2.0)
    found["annealed 2"] = (
        power,
        lambda gen: G.sample_weighted(power, N, steps=STEPS, closure=[ONE], generator=gen),
        drawn(ONE, ONE.log_prob),
    )
    for sigma in (0.1, 0.0):
        seen = LinearObservation(Mask(torch.tensor([0, 1])), torch.tensor([0.0, 0.4]), sigma)
        found[f"posterior, σ = {sigma:g}"] = (
            PseudoInverse(one, seen),
            lambda gen, s=seen: sample_posterior(one, s, N, steps=STEPS, law=ONE, generator=gen),
            of_law(ONE.posterior(seen), ONE.log_evidence(seen)),
        )
    return found


def errors(x: Tensor, weights: Tensor, answer: Answer) -> str:
    """Of the means, and of the share."""
    w = weights.double()
    loose = answer.sd > 1e-6
    off = ((w @ x.double() - answer.mean).abs() / answer.sd)[loose].max()
    share = float(w @ (x[:, 0] > 0.2).double()) - answer.share
    return f"{off:.2f}, {share:+.3f}"


def main() -> None:
    """Measure, and write the table."""
    torch.set_num_threads(1)
    kinds = [("exact", 0.0)]
    kinds += [(end, size) for end in ("start", "end") for size in (0.1, 0.2, 0.3)]
    rows, first_lines = [], header(__doc__)
    made = [(f"{k}, {a:g}" if a else k, fields(k, a)) for k, a in kinds]
    made.append(("trained", trained()))
    for name, pair in made:
        for case, (alone, run, answer) in cases(*pair).items():
            gen = torch.Generator().manual_seed(1)
            x = tpf.sample(alone, N, epsilon=1.0, steps=STEPS, generator=gen).x
            first = errors(x, torch.full((N,), 1 / N), answer)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                try:
                    found = run(gen)
                except ArithmeticError as error:
                    rows.append([name, case, first, type(error).__name__, "", "", "", "refused"])
                    print(" | ".join(rows[-1]), flush=True)
                    continue
            collapsed = any(w.category is G.CollapsedWeightsWarning for w in told)
            off = found.log_evidence - answer.log_evidence
            rows.append(
                [
                    name, case, first, errors(found.x, found.weights, answer),
                    f"{off:+.3f} ({found.log_evidence_error:.3f})", f"{found.least_ess:.0f}",
                    f"{found.ancestors_left}", "collapse" if collapsed else "",
                ]
            )  # fmt: skip
            print(" | ".join(rows[-1]), flush=True)
            OUT.write_text("\n".join([first_lines, table(HEAD, rows)]))


if __name__ == "__main__":
    main()
