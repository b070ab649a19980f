"""What guidance alone samples, beside the law that it is named after: a picture and its numbers.

In d = 2 the data have two classes with equal shares. Class c has two modes, at (1.5, 0) and
(-0.5, 1.2), the other one is around (-1, -0.6), wide; the fields are exact, on the linear path,
float64. Classifier-free guidance with w = 3 has the path p_t^(1 - w) p_t(. given c)^w, whose end is
p(x) P(c given x)^w. *Truth*: rejection from p(. given c) with P(c given x)^(w - 1). *Alone*:
`sample` of the guided field, 20,000 states, 200 Heun steps. *Weighted*: `sample_weighted`, 4,000
particles, 100 steps.

- *mean off*: the largest error of a coordinate's mean, over its deviation;
- *spread*: the variances of the two coordinates over the true ones;
- *share*: of states on the right, x_1 > 0.5;
- *W2*: to 1,500 exact draws; *floor* is that of two sets of exact draws.

Run ``python benchmarks/guidance_picture.py``: a minute of one thread.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

mpl.use("Agg")

import transportflows as tpf
from _common import header, table

RESULTS = Path(__file__).parent / "results"
W, D = 3.0, torch.float64
Mixture = tpf.distributions.GaussianMixture


def laws() -> tuple[Mixture, Mixture]:
    """Of class c, and of all data."""
    one = torch.tensor([[1.5, 0.0], [-0.5, 1.2]], dtype=D)
    other = torch.tensor([[-1.0, -0.6]], dtype=D)
    given = Mixture(one, 0.5, weights=[0.5, 0.5])
    both = Mixture(
        torch.cat([one, other]), torch.tensor([0.5, 0.5, 0.9], dtype=D), weights=[0.25, 0.25, 0.5]
    )
    return given, both


def truth(given: Mixture, both: Mixture, n: int, generator: torch.Generator) -> Tensor:
    """Exact draws: P(c|x) = p(x|c) / 2 p(x) is at most 1."""
    kept: list[Tensor] = []
    while sum(map(len, kept)) < n:
        x = given.sample(100_000, generator=generator, dtype=D)
        log = (given.log_prob(x) - both.log_prob(x)) - torch.tensor(2.0, dtype=D).log()
        u = torch.rand(len(x), generator=generator, dtype=D)
        kept.append(x[u.log() < (W - 1) * log])
    return torch.cat(kept)[:n]


def row(name: str, x: Tensor, weights: Tensor, exact: Tensor, few: Tensor) -> list[str]:
    """Errors of weighted states."""
    mean = weights @ x
    variance = weights @ (x - mean).square()
    true = exact.var(0)
    off = ((mean - exact.mean(0)).abs() / true.sqrt()).max()
    ratio = ", ".join(f"{v:.2f}" for v in (variance / true).tolist())
    share = float(weights @ (x[:, 0] > 0.5).double())
    return [
        name,
        f"{off:.2f}",
        ratio,
        f"{share:.3f}",
        f"{tpf.metrics.wasserstein2(few, exact[:1500]):.3f}",
    ]


def draw(panels: dict[str, Tensor], given: Mixture, both: Mixture) -> None:
    """Densities of the samples, side by side, with lines of equal density of the truth."""
    from matplotlib import pyplot as plt

    count = len(panels)
    figure, axes = plt.subplots(1, count, figsize=(3 * count, 3.4), sharex=True, sharey=True)
    across, up = torch.linspace(-2.2, 3.2, 73, dtype=D), torch.linspace(-1.9, 2.9, 65, dtype=D)
    places = torch.cartesian_prod(across, up)
    exact = (W * given.log_prob(places) + (1 - W) * both.log_prob(places)).exp()
    lines = (exact / exact.max()).view(len(across), len(up)).mT.numpy()
    edges = [across.numpy(), up.numpy()]
    for axis, (name, x) in zip(axes, panels.items(), strict=True):
        axis.hist2d(*x.numpy().T, bins=edges, density=True, cmap="magma", vmin=0, vmax=0.6)
        axis.contour(*edges, lines, levels=[0.15, 0.6], colors="white", linewidths=0.8)
        axis.set_title(name, fontsize=11)
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout()
    figure.savefig(RESULTS / "guidance_alone.png", dpi=80, bbox_inches="tight")


def main() -> None:
    """Measure, draw, and write the table."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    given, both = laws()
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    of_c, of_all = tpf.oracle(process, given), tpf.oracle(process, both)
    guided = tpf.guidance.ClassifierFree(of_c, W, unconditional=of_all)
    exact = truth(given, both, 100_000, generator)
    panels = {"p(x) P(c|x)³, exactly": exact[:20_000]}
    again = truth(given, both, 20_000, generator)
    even = torch.full((20_000,), 1 / 20_000, dtype=D)
    rows = [row("exact draws (floor)", again, even, exact, again[:1500])]
    for epsilon in (0.0, 1.0, 4.0):
        x = tpf.sample(
            guided, 20_000, epsilon=epsilon, steps=200, dtype=D, generator=generator
        ).x  # fmt: skip
        rows.append(row(f"guidance alone, ε = {epsilon:g}", x, even, exact, x[:1500]))
        panels[f"guidance alone, ε = {epsilon:g}"] = x
    runs = [
        tpf.guidance.sample_weighted(guided, 4_000, steps=100, dtype=D, generator=generator)
        for _ in range(5)
    ]
    x = torch.cat([run.x for run in runs])
    weights = torch.cat([run.weights for run in runs]) / 5
    drawn = torch.cat([run.resample(generator=generator) for run in runs])
    few = drawn[torch.randperm(len(drawn), generator=generator)[:1500]]
    rows.append(row("weighted, ε = 1 (5 runs)", x, weights, exact, few))
    panels["weighted"] = drawn
    draw(panels, given, both)
    head = ["", "mean off", "spread", "share", "W2"]
    share = float((exact[:, 0] > 0.5).double().mean())
    text = [header(__doc__), f"The true share is {share:.3f}.\n", table(head, rows)]
    text.append("\n![densities](guidance_alone.png)\n")
    (RESULTS / "guidance_picture.md").write_text("\n".join(text))
    print("\n".join(text[1:]))


if __name__ == "__main__":
    main()
