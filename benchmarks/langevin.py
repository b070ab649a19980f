"""Langevin samplers with the exact score on Chang's mixtures: W2 over its floor, and their bias.

Chang's laws, four components of covariance Id and equal weights: in d = 2 about ±e1 and ±e2, in
d = 10 about e1 .. e4. Exact scores, VE (σ from 0.01 to 10) and VP (β from 0.1 to 20), float32.

*W2 over the floor.* 4 samples of 2,000 against 4 exact samples of 2,000; the floor is the same
between exact samples. Each is the root mean square of 4 exact distances; the error given is one
standard error of the ratio. In d = 10 nearly all of the distance is floor, so there the bias says
more.

*Bias.* Of the total variance, relative, over the 20,000 states: what is left of it without the
sampling error of the normals, whose standard error is given at the head of each table.

*Samplers.* Predictor-corrector: Euler-Maruyama steps of Anderson's reverse SDE (`epsilon =
AndersonEpsilon()`), and one correction after each, r its signal-to-noise ratio, with the batch's
norms (Song et al. 2021) or the nominal one; r = 0 is the predictor alone. Annealed Langevin: T
steps of size r σ̂² on geometric levels, then the data prediction (Song & Ermon 2019: r = 0.1).
Plain Langevin on the law itself, from N(0, Id), and Metropolis-adjusted.

Run ``python benchmarks/langevin.py``.
"""

from __future__ import annotations

import argparse
import math
from functools import partial

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table

STATES, ROUNDS, POINTS = 20_000, 4, 2_000
PROCESSES = {"VE": tpf.VE(0.01, 10.0), "VP": tpf.VP(0.1, 20.0)}


def chang(d: int) -> tpf.distributions.GaussianMixture:
    """The law of Chang's section 4, in two or ten dimensions."""
    axes = torch.eye(d)
    means = torch.cat([axes, -axes]) if d == 2 else axes[:4]
    return tpf.distributions.GaussianMixture(means, 1.0)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared W2 of each pair of rounds."""
    pairs = zip(x.split(POINTS)[:ROUNDS], y.split(POINTS)[:ROUNDS], strict=True)
    return torch.tensor([tpf.metrics.wasserstein2(a, b) ** 2 for a, b in pairs])


class Judge:
    """What the law's exact samples show, and how a sampler's compare."""

    def __init__(self, law: tpf.distributions.GaussianMixture, generator: torch.Generator) -> None:
        n = STATES
        self.exact = law.sample(n, generator=generator)
        self.floor = distances(self.exact, law.sample(n, generator=generator))
        centred = law.means - law.weights.to(law.means) @ law.means
        d = law.means.shape[1]
        self.variance = d + float((centred.square().sum(1) * law.weights.to(centred)).sum())
        squares = (self.exact - self.exact.mean(0)).square().sum(1)
        self.error = float(squares.std() / squares.mean()) / math.sqrt(n)

    def row(self, x: Tensor) -> tuple[str, str]:
        """W2 over its floor, and the bias of the total variance."""
        found = distances(x, self.exact)
        ratio = math.sqrt(float(found.mean() / self.floor.mean()))
        spread = 0.5 * ratio * math.hypot(*(_relative_error(v) for v in (found, self.floor)))
        variance = float((x - x.mean(0)).square().sum(1).mean())
        return f"{ratio:.3f} ± {spread:.3f}", f"{variance / self.variance - 1:+.4f}"


def _relative_error(values: Tensor) -> float:
    return float(values.std() / values.mean()) / math.sqrt(len(values))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    print(header(__doc__), flush=True)
    for d in (2, 10):
        generator = torch.Generator().manual_seed(d)
        law, n = chang(d), STATES
        judge = Judge(law, generator)
        floor = math.sqrt(float(judge.floor.mean()))
        print(f"## d = {d}\n\nFloor of W2: {floor:.4f}. Standard error of the bias: ", end="")
        print(f"{judge.error:.4f}.\n\n### Predictor-corrector\n")
        rows = []
        fields = {
            name: tpf.oracle(tpf.Process(interpolant, shape=(d,)), law)
            for name, interpolant in PROCESSES.items()
        }
        for name, exact in fields.items():
            cases = [(100, r, "batch") for r in (0.0, 0.05, 0.16, 0.3, 0.5)]
            cases += [(100, 0.16, "nominal"), (250, 0.16, "batch")]
            for steps, r, norm in cases:
                run = tpf.sample(
                    exact,
                    n,
                    epsilon=tpf.solve.AndersonEpsilon(),
                    scheme="euler_maruyama",
                    steps=steps,
                    corrector=tpf.langevin.LangevinCorrector(r, norm=norm) if r else None,
                    generator=generator,
                )
                rows.append((name, steps, run.nfe, r, norm if r else "", *judge.row(run.x)))
        print(
            table(("process", "steps", "NFE", "r", "norm", "W2 / floor", "bias"), rows), flush=True
        )
        print("### Annealed Langevin\n")
        rows = []
        for name, exact in fields.items():
            cases = [(10, 100, r) for r in (0.05, 0.1, 0.2, 0.5, 1.0)]
            cases += [(10, 20, 0.5)]
            for levels, steps, r in cases:
                run = tpf.langevin.annealed_langevin(
                    exact,
                    n,
                    levels=levels,
                    steps_per_level=steps,
                    step_size=r,
                    generator=generator,
                )
                rows.append((name, levels, steps, run.nfe, r, *judge.row(run.x)))
        print(table(("process", "levels", "T", "NFE", "r", "W2 / floor", "bias"), rows), flush=True)
        print("### Plain Langevin, and Metropolis-adjusted\n")
        rows = []
        one, density = torch.ones(()), fields["VE"].log_prob
        score = tpf.langevin.score_at(fields["VE"], 1.0)
        for h in (0.05, 0.2, 0.5, 1.0):
            for metropolis in (False, True):
                run = tpf.langevin.langevin(
                    score,
                    torch.randn(n, d, generator=generator),
                    step_size=h,
                    steps=max(40, int(10 / h)),
                    metropolis=metropolis,
                    log_prob=partial(density, one) if metropolis else None,
                    chunk=4_000,
                    generator=generator,
                )
                accepted = float(run.acceptance.mean())
                rows.append((run.scheme, h, run.nfe, f"{accepted:.3f}", *judge.row(run.x)))
        print(table(("chain", "h", "NFE", "accepted", "W2 / floor", "bias"), rows), flush=True)


if __name__ == "__main__":
    main()
