r"""Which ε is best: a sweep of learned fields in 128 dimensions, and the ε* of the bound.

The study of Albergo, Boffi and Vanden-Eijnden (2023), section 7: ρ0 = N(0, Id), ρ1 a mixture of
five Gaussians with means from N(0, 7.5² Id) and covariances WᵀW/d + Id, W standard normal; the
linear path with γ = √(t(1-t)); velocity b and noise η learned by two MLPs of 4 x 256, batches of
256 draws made afresh, antithetic, times in [1e-4, 1 - 1e-4], Adam at 1e-3 with a cosine, averages
of .999, for several numbers of steps. 10,000 samples for each ε, by Heun in 200 steps (400 calls),
all from the same starts, and in 20 steps (*40 calls*).

- *KL*: of the first two coordinates, in nats: both the exact marginal (a mixture, known) and the
  samples are blurred by a Gaussian of deviation .4, so that a kernel estimate of the samples is one
  of the blurred law; at 10,000 draws of the blurred marginal. *floor*: of exact draws in place of
  samples. *paper's*: the estimator of the paper, two kernel estimates (`kl_kernel_density`).
- *energy*: energy distance in all 128 dimensions.
- *whole KL*: at ε = 0, from the log-density of the ODE at 200 draws in all dimensions (RK4, 60
  steps, 8 probes).
- *ε\**: √(B/S) with B = ∫ E|δb|² and S = ∫ E|δs|² over [m, 1 - m], m = .001 and .01; *bound*: the
  paper's bound on the KL of the whole law, for each ε (m = .001).

Run ``python benchmarks/study_epsilon.py [--seeds 3] [--budgets 1000 4000 16000]``, for half a
minute with ``--quick``. What was measured is kept in results/study_epsilon.csv, and a run goes on
from there; results/study_epsilon.md and .png are made of it (``--report`` alone).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import Kept, header, seeded, spread, table

FOLDER = Path(__file__).parent / "results"
ROWS = Kept(
    FOLDER / "study_epsilon.csv", ("budget", "seed", "calls", "epsilon", "quantity", "value")
)
D, WIDTH, DEPTH, BATCH, BLUR = 128, 256, 4, 256, 0.4
EPSILONS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
MARGINS = (1e-3, 1e-2)


def law() -> tpf.distributions.GaussianMixture:
    """The five modes."""
    draws = seeded(0)
    means = 7.5 * torch.randn(5, D, generator=draws, dtype=torch.float64)
    w = torch.randn(5, D, D, generator=draws, dtype=torch.float64)
    eye = torch.eye(D, dtype=torch.float64)
    return tpf.distributions.GaussianMixture(means, covariances=w.mT @ w / D + eye)


def blurred() -> tpf.distributions.GaussianMixture:
    """The marginal of two coordinates, with a kernel's variance more."""
    whole = law()
    cov = whole.covariances[:, :2, :2] + BLUR**2 * torch.eye(2, dtype=torch.float64)
    return tpf.distributions.GaussianMixture(whole.means[:, :2], covariances=cov)


def process() -> tpf.Process:
    """The path with its latent."""
    return tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((D,)))


def trained(budget: int, seed: int) -> tpf.FieldPair:
    """Velocity and noise."""
    draws = seeded(seed, 1)
    nets = [tpf.networks.MLP(D, WIDTH, DEPTH, generator=draws) for _ in range(2)]
    field = tpf.FieldPair(velocity=nets[0], noise=nets[1], process=process())
    times = tpf.times.UniformTimes(margin=1e-4)
    loss = tpf.losses.SumLoss(
        tpf.VelocityLoss(times=times, antithetic=True), tpf.NoiseLoss(antithetic=True)
    )
    trainer = tpf.Trainer(field, loss, lr=1e-3, scheduler="cosine", ema=0.999)
    trainer.fit(law(), steps=budget, batch_size=BATCH, progress=False, generator=seeded(seed, 2))
    return trainer.averaged_field()  # type: ignore[return-value]


def log_kernel(x: Tensor, at: Tensor) -> Tensor:
    """The logarithm of the kernel estimate from x."""
    found = []
    for rows in at.split(500):
        squares = torch.cdist(rows, x).square() / (2 * BLUR**2)
        found.append((-squares).logsumexp(1))
    return torch.cat(found) - math.log(len(x) * 2 * math.pi * BLUR**2)


def marginal_kl(x: Tensor, n: int) -> float:
    """KL of the blurred marginals."""
    exact = blurred()
    y = exact.sample(n, generator=seeded(7), dtype=torch.float64)
    return float((exact.log_prob(y) - log_kernel(x[:, :2].double(), y)).mean())


@torch.no_grad()
def measure(field: tpf.FieldPair, n: int, seed: int) -> list[tuple[object, object, str, float]]:
    """Rows: calls, ε, a quantity and its value."""
    rows: list[tuple[object, object, str, float]] = []
    truth = law().sample(n, generator=seeded(8), dtype=torch.float32)
    for steps in (200, 20):
        for epsilon in EPSILONS:
            x = tpf.sample(
                field, n, epsilon=epsilon, scheme="heun", steps=steps, generator=seeded(seed, 3)
            ).x
            found = {"KL": marginal_kl(x, n)}
            if steps == 200:
                found["paper's"] = tpf.metrics.kl_kernel_density(truth, x, points=2_000).value
                found["energy"] = tpf.metrics.energy_distance(x, truth)
            rows += [(2 * steps, epsilon, name, value) for name, value in found.items()]
    exact = tpf.oracle(process(), law())
    for margin in MARGINS:
        errors = tpf.metrics.oracle_errors(
            field, exact, n=500, times=24, margin=margin, generator=seeded(seed, 4)
        )
        told = {
            f"ε*, m = {margin:g}": errors.epsilon_star,
            f"B, m = {margin:g}": errors.velocity_integral,
            f"S, m = {margin:g}": errors.score_integral,
        }
        rows += [("", "", name, value) for name, value in told.items()]
        if margin == MARGINS[0]:
            rows += [("", eps, "bound", errors.bound(eps)) for eps in EPSILONS if eps]
    x = law().sample(min(n, 200), generator=seeded(9), dtype=torch.float32)
    log_q = tpf.log_likelihood(
        field, x, divergence="hutchinson", probes=8, scheme="rk4", steps=60,
        generator=seeded(seed, 5),
    ).log_prob  # fmt: skip
    rows.append(("", 0.0, "whole KL", float((law().log_prob(x.double()) - log_q).mean())))
    return rows


def values(quantity: str, **wanted: object) -> list[float]:
    """By seed."""
    return [float(row["value"]) for row in ROWS.rows(quantity=quantity, **wanted)]


def budgets() -> list[int]:
    """Those that were measured."""
    return sorted({int(row["budget"]) for row in ROWS.rows() if row["budget"]})


def report() -> str:
    """The tables of what is kept."""
    floors = ", ".join(
        f"{name} {spread(values(name, budget=''), 4)}" for name in ("KL", "paper's", "energy")
    )
    text = [header(__doc__), f"Floors of exact draws: {floors}.\n"]
    for budget in budgets():
        lines = []
        for epsilon in EPSILONS:
            of = {"budget": budget, "epsilon": epsilon}
            lines.append(
                [
                    f"{epsilon:g}", spread(values("KL", calls=400, **of), 4),
                    spread(values("KL", calls=40, **of), 4),
                    spread(values("paper's", calls=400, **of), 4),
                    spread(values("energy", calls=400, **of), 4), spread(values("bound", **of), 1),
                    spread(values("whole KL", **of), 1),
                ]
            )  # fmt: skip
        head = ["ε", "KL", "KL, 40 calls", "paper's", "energy", "bound", "whole KL"]
        stars = ", ".join(
            f"{spread(values(f'ε*, m = {m:g}', budget=budget), 2)} (m = {m:g})" for m in MARGINS
        )
        seeds = len(ROWS.rows(budget=budget, quantity="whole KL"))
        best = min(
            EPSILONS,
            key=lambda e: statistics.mean(values("KL", budget=budget, epsilon=e, calls=400)),
        )
        text.append(
            f"## {budget:,} steps of training, {seeds} seeds\n\n{table(head, lines)}\n\nε* by the"
            f" bound: {stars}; least KL in the sweep at ε = {best:g}.\n"
        )
    return "\n".join(text)


def draw(path: Path) -> None:
    """KL against ε for each budget, with ε* beside the optimum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for ax, (quantity, calls) in zip(
        figure.subplots(1, 2), (("KL", 400), ("energy", 400)), strict=True
    ):
        for k, budget in enumerate(budgets()):
            found = [values(quantity, budget=budget, epsilon=e, calls=calls) for e in EPSILONS]
            mean = [statistics.mean(v) for v in found]
            apart = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in found]
            ax.errorbar(
                [max(e, 0.05) for e in EPSILONS], mean, apart, marker="o", color=f"C{k}",
                label=f"{budget:,} steps",
            )  # fmt: skip
            star = statistics.mean(values(f"ε*, m = {MARGINS[0]:g}", budget=budget))
            ax.axvline(star, color=f"C{k}", linestyle=":")
        floor = values(quantity, budget="")
        if floor:
            ax.axhline(statistics.mean(floor), color="0.5", linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel="ε (0 at the left); dotted: ε*", title=quantity)
        ax.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure what is missing, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="+", default=[1_000, 4_000, 16_000])
    parser.add_argument("--report", action="store_true", help="table and figure alone")
    options = parser.parse_args()
    if options.quick:
        for row in measure(trained(20, 0), 200, 0):
            print(*row)
        return
    if not options.report and not ROWS.rows(budget=""):
        truth = law().sample(10_000, generator=seeded(8), dtype=torch.float32)
        for k in range(4):
            x = law().sample(10_000, generator=seeded(10, k), dtype=torch.float32)
            paper = tpf.metrics.kl_kernel_density(truth, x, points=2_000).value
            ROWS.add(
                ("", k, "", "", "KL", marginal_kl(x, 10_000)), ("", k, "", "", "paper's", paper)
            )
            ROWS.add(("", k, "", "", "energy", tpf.metrics.energy_distance(x, truth)))
    for seed in range(0 if options.report else options.seeds):
        for budget in options.budgets:
            if ROWS.rows(budget=budget, seed=seed, quantity="whole KL"):
                continue
            began = time.perf_counter()
            field = trained(budget, seed)
            seconds = time.perf_counter() - began
            rows = [(budget, seed, *row) for row in measure(field, 10_000, seed)]
            ROWS.add(*rows, (budget, seed, "", "", "seconds of training", seconds))
            print(
                budget, seed, f"{seconds:.0f} s", f"{time.perf_counter() - began:.0f} s", flush=True
            )
    (FOLDER / "study_epsilon.md").write_text(report())
    draw(FOLDER / "study_epsilon.png")


if __name__ == "__main__":
    main()
