"""The checkerboard: which latent scale, which pair of fields, which ε.

The study of Albergo, Boffi and Vanden-Eijnden (2023), section 7, in two dimensions: from N(0, Id)
to the uniform law on 8 squares, by the linear path with γ = 0, √(t(1-t)), t(1-t), sin²(πt); ε in
{0, 0.5, 1, 2.5}, Heun in 100 steps. Learned are (b, η), (b, s) or (v, η), η = E[z | x_t], the loss
of s unweighted; with γ = 0 the velocity b alone, whose score follows from the Gaussian base. One
network for each, an MLP with ReLU, depth 4, 7,000 steps of 256 draws made afresh, antithetic, Adam
at 2e-3 halved every 1,500, times in [1e-4, 1 - 1e-4]. The paper's width is 512 (``--width 512``,
some hours of a core for a seed); here it is 128. The base is given as a mixture of one Gaussian,
so that noise is that of the latent alone. Near the ends ``sample`` takes less than ε where a step
could not follow it: of √(t(1-t)) at 2.5 alone, in the two steps at either end; of t(1-t) and
sin²(πt) in a twelfth to a fifth of the time at either end; without γ in the last seventh to third.
With all of ε, s = -η/γ has a pole there, and what an error of η does no bound.

- *energy*: energy distance of 10,000 samples from as many draws, times 1e4, mean of three sets;
  *less ODE*: its difference from that of ε = 0 of the same field, with a 95 % interval of Student's
  t over the seeds;
- *W2*: of 2,000 from 2,000, squared, mean of three, less that of further draws (*excess²*);
- *outside*: samples outside the squares, per cent;
- *weights*: sum of the deviations of the eight squares' shares from 1/8, in standard errors over
  eight (the share of a sample is that of the square it is nearest to; .8 for draws).

Numbers are means and deviations over the seeds. Run ``python benchmarks/study_checkerboard.py
[--seeds 4] [--width 128]``, for half a minute with ``--quick``. What was measured is kept in
results/study_checkerboard.csv, and a run goes on from there; results/study_checkerboard.md and .png
are made of it (``--report`` alone).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import Kept, header, interval, seeded, spread, table

FOLDER = Path(__file__).parent / "results"
ROWS = Kept(
    FOLDER / "study_checkerboard.csv",
    ("gamma", "pair", "seed", "epsilon", "energy", "w2", "outside", "weights", "seconds"),
)
GAMMAS = {
    "none": None,
    "√(t(1-t))": tpf.interpolants.Brownian,
    "t(1-t)": tpf.interpolants.Quadratic,
    "sin²(πt)": tpf.interpolants.SineSquared,
}
PAIRS = ("b, η", "b, s", "v, η")
EPSILONS = (0.0, 0.5, 1.0, 2.5)
SETS = 3


class Board(tpf.distributions.Distribution):
    """The law of the data."""

    def __init__(self) -> None:
        super().__init__((2,))

    def sample(self, n: int, *, generator: torch.Generator | None = None, **how: object) -> Tensor:
        """Rows."""
        return tpf.datasets.checkerboard(n, generator=generator, dtype=torch.float32)


class Net(nn.Module):
    """Of (x, t), depth 4, ReLU."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            parts: list[nn.Module] = [nn.Linear(3, width), nn.ReLU()]
            for _ in range(3):
                parts += [nn.Linear(width, width), nn.ReLU()]
            self.layers = nn.Sequential(*parts, nn.Linear(width, 2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """The prediction."""
        return self.layers(torch.cat([x, t.expand(len(x))[:, None]], 1))


def trained(gamma: str, pair: str, seed: int, width: int, steps: int) -> tpf.Field:
    """The field of a cell."""
    latent, times = GAMMAS[gamma], tpf.times.UniformTimes(margin=1e-4)
    path = tpf.Linear() if latent is None else tpf.Linear(latent())
    one = tpf.distributions.GaussianMixture(torch.zeros(1, 2), 1.0)
    process = tpf.Process(path, base=tpf.Gaussian((2,)) if latent is None else one)
    first, second = Net(width, seed), Net(width, seed + 1_000)
    field: tpf.Field
    loss: tpf.losses.Loss
    if latent is None:
        field, loss = tpf.Velocity(first, process), tpf.VelocityLoss(times=times)
    else:
        names = {"b, η": ("velocity", "noise"), "b, s": ("velocity", "score")}
        one, two = names.get(pair, ("mean_velocity", "noise"))
        field = tpf.FieldPair(**{one: first, two: second}, process=process)  # type: ignore[arg-type]
        kinds = {
            "velocity": tpf.VelocityLoss,
            "mean_velocity": tpf.MeanVelocityLoss,
            "noise": tpf.NoiseLoss,
            "score": partial(tpf.ScoreLoss, weight=torch.ones_like),
        }
        how = {"times": times, "antithetic": True}
        loss = tpf.losses.SumLoss(kinds[one](**how), kinds[two](**how))  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(field.parameters(), lr=2e-3)
    halved = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1_500, gamma=0.5)
    trainer = tpf.Trainer(field, loss, optimizer=optimizer, scheduler=halved)
    trainer.fit(Board(), steps=steps, batch_size=256, progress=False, generator=seeded(seed, 1))
    return field


def off_squares(x: Tensor) -> tuple[float, float]:
    """Per cent outside, and the deviations of the shares."""
    cells = (x / 2).floor()
    inside = (x.abs() <= 4).all(1) & ((cells[:, 0] + cells[:, 1]) % 2 == 0)
    centres = torch.tensor(
        [(2 * i + 1, 2 * j + 1) for i in range(-2, 2) for j in range(-2, 2) if (i + j) % 2 == 0],
        dtype=x.dtype,
    )
    apart = (x[:, None] - centres).abs().amax(2)  # squares are balls of this norm
    share = torch.bincount(apart.argmin(1), minlength=8) / len(x)
    error = math.sqrt(7 / 64 / len(x))
    return 100 * (1 - float(inside.float().mean())), float(
        (share - 0.125).abs().sum() / (8 * error)
    )


@torch.no_grad()
def measured(x: Tensor) -> list[float]:
    """Energy, W2², outside, weights."""
    energy, w2 = [], []
    few = x[:2_000]
    for k in range(SETS):
        truth = Board().sample(len(x), generator=seeded(9, k))
        energy.append(tpf.metrics.energy_distance(x, truth))
        w2.append(tpf.metrics.wasserstein2(few, truth[: len(few)]) ** 2)
    return [1e4 * statistics.mean(energy), statistics.mean(w2), *off_squares(x)]


def column(key: str, **wanted: object) -> list[float]:
    """By seed."""
    return [float(row[key]) for row in ROWS.rows(**wanted)]


def report() -> str:
    """The table of what is kept."""
    lines, least = [], statistics.mean(column("w2", gamma="floor") or [0.0])
    for gamma in ("floor", *GAMMAS):
        for pair in dict.fromkeys(row["pair"] for row in ROWS.rows(gamma=gamma)):
            ode = column("energy", gamma=gamma, pair=pair, epsilon=0.0)
            for epsilon in ("", *EPSILONS):
                of = {"gamma": gamma, "pair": pair, "epsilon": epsilon}
                energy = column("energy", **of)
                if not energy:
                    continue
                less = [a - b for a, b in zip(energy, ode, strict=True)] if epsilon else []
                excess = [w2 - least for w2 in column("w2", **of)]
                lines.append(
                    [
                        gamma, pair, str(epsilon), str(len(energy)), spread(energy, 2),
                        interval(less, 2), spread(excess, 4), spread(column("outside", **of), 2),
                        spread(column("weights", **of), 2),
                    ]
                )  # fmt: skip
    head = ["γ", "pair", "ε", "seeds", "energy", "less ODE", "excess²", "outside", "weights"]
    return f"{header(__doc__)}\n{table(head, lines)}\n"


def draw(path: Path) -> None:
    """Energy distance, and what lies outside, against ε, for each γ and pair."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    keys = {"energy": "energy distance x 1e4", "outside": "outside the squares, %"}
    for ax, (key, name) in zip(panels, keys.items(), strict=True):
        for k, gamma in enumerate(GAMMAS):
            for line, pair in zip(("-", "--", ":", "-."), (*PAIRS, "b"), strict=True):
                found = [column(key, gamma=gamma, pair=pair, epsilon=e) for e in EPSILONS]
                if all(found):
                    ax.plot(
                        EPSILONS, [statistics.mean(values) for values in found], line, marker=".",
                        color=f"C{k}", label=f"γ = {gamma}: {pair}" if k else "no γ: b",
                    )  # fmt: skip
        ax.set(yscale="log", xlabel="ε", title=name)
    floor = column("energy", gamma="floor")
    if floor:
        panels[0].axhline(statistics.mean(floor), color="0.5", lw=1, label="floor")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", fontsize=8)
    figure.savefig(path, dpi=120)


def write() -> None:
    """Table and figure of what is kept."""
    (FOLDER / "study_checkerboard.md").write_text(report())
    draw(FOLDER / "study_checkerboard.png")


def main() -> None:
    """Measure what is missing, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--report", action="store_true", help="table and figure alone")
    options = parser.parse_args()
    steps, n = (10, 200) if options.quick else (7_000, 10_000)
    if not options.quick and not ROWS.rows(gamma="floor"):
        for k in range(3):
            x = Board().sample(n, generator=seeded(11, k))
            ROWS.add(("floor", "draws", k, "", *measured(x), ""))
    for seed in range(0 if options.report else 1 if options.quick else options.seeds):
        for gamma in GAMMAS:
            for pair in PAIRS if gamma != "none" else ("b",):
                if not options.quick and ROWS.rows(gamma=gamma, pair=pair, seed=seed):
                    continue
                began = time.perf_counter()
                field = trained(gamma, pair, seed, 16 if options.quick else options.width, steps)
                seconds = time.perf_counter() - began
                rows = []
                count = 10 if options.quick else 100
                for epsilon in EPSILONS:
                    x = tpf.sample(
                        field, n, epsilon=epsilon, scheme="heun", steps=count,
                        generator=seeded(seed, 2),
                    ).x  # fmt: skip
                    rows.append((gamma, pair, seed, epsilon, *measured(x), f"{seconds:.0f}"))
                    print(*rows[-1], flush=True)
                if not options.quick:
                    ROWS.add(*rows)
                    write()
    if not options.quick:
        write()


if __name__ == "__main__":
    main()
