"""Particle flows: generators of one network call (algorithm 2).

*E.4.* The target is N(μ, B Bᵀ) in R⁵⁰, B 50 x 25 with entries N(0, 0.25), μ from N(10, Id); the
generator is linear, g(ξ) = B̂ ξ + μ̂, ξ in R²⁵, B̂ from N(0, 0.01), μ̂ = 0. 1,000 steps of SD flow,
batch 1,024, η = 1, a constant σ² of 10 times the mean distance of the first samples to the nearest
targets; regression *summed* over the batch at the rate 1e-3, which is gradient descent on its mean
at the rate 1.024. Errors are |μ̂ - μ|/|μ| and |B̂B̂ᵀ - BBᵀ|/|BBᵀ|; "sample": the covariance of 1,024
draws of the target, which is what 1,024 fixed targets have to show. The same generator is trained
on them too.

*Digits.* 8 x 8, 1,438 for training and 359 held out. The generator is the library's MLP at t = 0
(256 wide, depth 3), 2,000 steps, batch 256, three σ at once (1/3, 2/3 and 4/3 of the median
distance of nearest neighbours, 2.07), 1,024 references; beside a velocity with the same network
learned by flow matching in 6,000 steps. One set of samples each, as many as are held out. "Train":
training digits in their place, the floor. W2: exact; energy: energy distance, V-statistic;
neighbours: median distance to the training digits over that within them; coverage and precision:
5 neighbours, of the held-out digits.

Run ``python benchmarks/particles_generator.py``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import header, table

RESULTS = Path(__file__).parent / "results"
D, LATENT, BATCH = 50, 25, 1024
GREEN, RED = "#2a7f3f", "#c0392b"


class Affine:
    """The law of ``B ξ + μ``."""

    def __init__(self, seed: int) -> None:
        own = torch.Generator().manual_seed(seed)
        self.b = 0.5 * torch.randn(D, LATENT, generator=own)
        self.mu = 10 + torch.randn(D, generator=own)
        self.covariance = self.b @ self.b.mT

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``(n, 50)``."""
        return torch.randn(n, LATENT, generator=generator) @ self.b.mT + self.mu


def linear(seed: int) -> tpf.particles.OneStepGenerator:
    """The generator at the start."""
    net = nn.Linear(LATENT, D)
    with torch.no_grad():
        own = torch.Generator().manual_seed(seed + 50)
        net.weight.copy_(0.1 * torch.randn(D, LATENT, generator=own))
        net.bias.zero_()
    return tpf.particles.OneStepGenerator(net, LATENT, shape=(D,))


def e4(
    seed: int, *, fresh: bool
) -> tuple[list[object], tpf.particles.OneStepGenerator, Affine, Tensor]:
    """Train, and compare moments."""
    law, generator = Affine(seed), linear(seed)
    fixed = law.sample(BATCH, generator=torch.Generator().manual_seed(seed + 99))
    first = generator.sample(BATCH, generator=torch.Generator().manual_seed(seed))
    variance = 10 * float(tpf.metrics.nearest_distances(first, fixed)[0].mean())
    trainer = tpf.Trainer(
        generator,
        tpf.particles.MovedTargetLoss(sigma=variance**0.5),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-3 * BATCH),
    )
    began = time.perf_counter()
    trainer.fit(
        law if fresh else fixed,
        steps=1_000,
        batch_size=BATCH,
        progress=False,
        generator=torch.Generator().manual_seed(seed),
    )
    seconds = time.perf_counter() - began
    net: Any = generator.net
    weight, bias = net.weight.detach(), net.bias.detach()
    mean = float((bias - law.mu).norm() / law.mu.norm())
    covariance = off(weight @ weight.mT, law)
    row = [
        "fresh" if fresh else "1,024 fixed",
        seed,
        f"{variance:.0f}",
        f"{100 * mean:.2f} %",
        f"{100 * covariance:.1f} %",
        f"{100 * off(fixed.mT.cov(), law):.1f} %",
        f"{seconds:.1f}",
    ]
    return row, generator, law, fixed


def off(covariance: Tensor, law: Affine) -> float:
    """Relative error of a covariance."""
    return float((covariance - law.covariance).norm() / law.covariance.norm())


class AtZero(nn.Module):
    """The library's MLP as a network of the latent alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, xi: Tensor) -> Tensor:
        """``net(0, ξ)``."""
        return self.net(xi.new_zeros(()), xi)


def mlp() -> tpf.networks.MLP:
    """The network of both."""
    return tpf.networks.MLP(64, width=256, depth=3, generator=torch.Generator().manual_seed(1))


def digit_rows(train: Tensor, held_out: Tensor) -> tuple[list[list[object]], Tensor, Tensor]:
    """The table, and samples of both."""
    metrics = tpf.metrics

    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def row(name: str, calls: int, seconds: float, x: Tensor) -> list[object]:
        x = x[: len(held_out)]
        cover = metrics.coverage(x, held_out)
        return [
            name,
            calls,
            f"{seconds:.0f}",
            f"{metrics.wasserstein2(x, held_out):.3f}",
            f"{metrics.energy_distance(x, held_out):.3f}",
            f"{metrics.nearest_neighbours(x, train).ratio:.2f}",
            f"{cover.coverage:.2f}",
            f"{cover.precision:.2f}",
        ]

    rows = [row("train", 0, 0.0, train[torch.randperm(len(train), generator=seeded(4))])]
    near = float(metrics.nearest_distances(train, train, exclude_self=True)[0].median())
    generator = tpf.particles.OneStepGenerator(AtZero(), 64)
    loss = tpf.particles.MovedTargetLoss(
        sigma=[near / 3, 2 * near / 3, 4 * near / 3], references=1_024, target=train
    )
    trainer = tpf.Trainer(generator, loss, scheduler="cosine", ema=0.999)
    began = time.perf_counter()
    trainer.fit(train, steps=2_000, batch_size=256, progress=False, generator=seeded(3))
    seconds = time.perf_counter() - began
    with trainer.averaged():
        made = generator.sample(len(held_out), generator=seeded(5))
    rows.append(row("SD flow, algorithm 2", 1, seconds, made))

    field = tpf.Velocity(mlp(), tpf.Process(tpf.Linear(), base=tpf.Gaussian((64,))))
    trainer = tpf.Trainer(field, tpf.VelocityLoss(), scheduler="cosine", ema=0.999)
    began = time.perf_counter()
    trainer.fit(train, steps=6_000, batch_size=256, progress=False, generator=seeded(3))
    seconds = time.perf_counter() - began
    with trainer.averaged():
        for steps in (1, 5, 50):
            flow = tpf.sample(
                field, len(held_out), scheme="euler", steps=steps, generator=seeded(5)
            ).x
            rows.append(row("flow matching, Euler", steps, seconds, flow))
    return rows, made, flow


def pictures(
    generator: tpf.particles.OneStepGenerator, law: Affine, fixed: Tensor, digits: list[Tensor]
) -> None:
    """Moments and neighbours of E.4; digits."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    net: Any = generator.net
    weight, bias = net.weight.detach(), net.bias.detach()
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.3))
    pairs = ((law.mu, bias), (law.covariance.flatten(), (weight @ weight.mT).flatten()))
    for axis, (true, learned), title in zip(panels, pairs, ("mean", "covariance"), strict=False):
        axis.plot(true, learned, ".", c=GREEN, ms=3, alpha=0.5)
        ends = [float(true.min()), float(true.max())]
        axis.plot(ends, ends, c=RED, lw=0.8)
        axis.set_title(f"{title}: true, learned", fontsize=8)
    made = generator.sample(1024, generator=torch.Generator().manual_seed(0))
    near = tpf.metrics.nearest_neighbours(made, fixed)
    axis = panels[2]
    for values, colour, label in (
        (near.within_data, RED, "targets"),
        (near.to_data, GREEN, "generated"),
    ):
        axis.hist(values.numpy(), bins=40, density=True, color=colour, alpha=0.5, label=label)
    axis.set_title("distance to the nearest (other) target", fontsize=8)
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS / "particles_e4.png", dpi=80)

    figure, panels = plt.subplots(1, 3, figsize=(9, 3.3))
    names = ("held out", "SD flow, 1 call", "flow matching, 50 calls")
    for axis, name, x in zip(panels, names, digits, strict=True):
        tiles = x[:64].reshape(8, 8, 8, 8).permute(0, 2, 1, 3).reshape(64, 64)
        axis.imshow(tiles, cmap="gray_r", vmin=-1, vmax=1)
        axis.set_title(name, fontsize=8)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(RESULTS / "particles_digits.png", dpi=80)


def main() -> None:
    """Print the tables; draw the pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(header(__doc__))
    runs = [e4(seed, fresh=fresh) for fresh in (True, False) for seed in range(options.seeds)]
    head = ["targets", "seed", "σ²", "mean", "covariance", "sample", "seconds"]
    print(table(head, [run[0] for run in runs]))
    own = torch.Generator().manual_seed(0)
    train, held = tpf.datasets.digits(flatten=True).split(generator=own)
    rows, made, flow = digit_rows(train.images, held.images)
    head = ["samples", "calls", "s", "W2", "energy", "neighbours", "coverage", "precision"]
    print(table(head, rows))
    print("Pictures: [E.4](particles_e4.png), [digits](particles_digits.png).")
    pictures(*runs[0][1:], [held.images, made, flow])


if __name__ == "__main__":
    main()
