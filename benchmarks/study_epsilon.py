r"""Which ε is best: a sweep of learned fields in 128 dimensions, and the ε* of the bound.

The study of Albergo, Boffi and Vanden-Eijnden (2023), section 7: ρ0 = N(0, Id), ρ1 a mixture of
five Gaussians with means from N(0, 7.5² Id) and covariances WᵀW/d + Id, W standard normal; the
linear path with γ = √(t(1-t)); velocity b and noise η = E[z | x_t] learned by two MLPs of 4 x 256,
batches of 256 draws made afresh, antithetic, times in [1e-4, 1 - 1e-4], Adam at 1e-3 with a cosine,
averages of .999, for several numbers of steps. 10,000 samples for each ε, by Heun in 200 steps (400
calls) and in 20 (*40 calls*), all from the same starts; ε is the same at all times, as in the paper
and in its bound (by default ``sample`` takes less of it near the ends). The base is given as a
mixture of one Gaussian, so that η is that of the latent alone, as in the paper, and s = -η/γ.

- *KL*: of the first two coordinates, in nats: both the exact marginal (a mixture, known) and the
  samples are blurred by a Gaussian of deviation .4, so that a kernel estimate of the samples is one
  of the blurred law; at 5,000 draws of the blurred marginal. *floor*: of exact draws in place of
  samples. *less ODE*: its difference from that of ε = 0 of the same seed, with a 95 % interval of
  Student's t. *paper's*: the estimator of the paper, two kernel estimates and its control variate
  (`kl_kernel_density`), averaged over 2,000 draws.
- *energy*: energy distance in all 128 dimensions.
- *whole KL*: at ε = 0, from the log-density of the ODE at 200 draws in all dimensions (RK4, 60
  steps, 8 probes).
- *ε\**: √(B/S) with B = ∫ E|δb|² and S = ∫ E|δs|² over [m, 1 - m], m = .001 and .01; *bound*: the
  paper's bound on the KL of the whole law, for each ε (m = .001).

Numbers are means and deviations over the seeds.

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
from _common import Kept, header, interval, seeded, spread, table

FOLDER = Path(__file__).parent / "results"
ROWS = Kept(
    FOLDER / "study_epsilon.csv", ("budget", "seed", "calls", "epsilon", "quantity", "value")
)
D, WIDTH, DEPTH, BATCH, BLUR = 128, 256, 4, 256, 0.4
CALLS = (400, 40)
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
    base = tpf.distributions.GaussianMixture(torch.zeros(1, D), 1.0)
    return tpf.Process(tpf.Linear(tpf.Brownian()), base=base)


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
    y = exact.sample(n // 2, generator=seeded(7), dtype=torch.float64)
    return float((exact.log_prob(y) - log_kernel(x[:, :2].double(), y)).mean())


def distances(x: Tensor, truth: Tensor) -> dict[str, float]:
    """All of samples, by name."""
    paper = tpf.metrics.kl_kernel_density(truth, x, points=2_000, control_variate=True)
    return {
        "KL": marginal_kl(x, len(x)),
        "paper's": paper.value,
        "energy": tpf.metrics.energy_distance(x, truth),
    }


@torch.no_grad()
def measure(field: tpf.FieldPair, n: int, seed: int) -> list[tuple[object, object, str, float]]:
    """Rows: calls, ε, a quantity and its value."""
    rows: list[tuple[object, object, str, float]] = []
    truth = law().sample(n, generator=seeded(8), dtype=torch.float32)
    for calls in CALLS:
        for epsilon in EPSILONS:
            x = tpf.sample(
                field, n, epsilon=tpf.solve.UnlimitedEpsilon(epsilon) if epsilon else 0.0,
                scheme="heun", steps=calls // 2, generator=seeded(seed, 3),
            ).x  # fmt: skip
            found = distances(x, truth) if calls == CALLS[0] else {"KL": marginal_kl(x, n)}
            rows += [(calls, epsilon, name, value) for name, value in found.items()]
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


def best(budget: int, calls: int) -> float:
    """The ε of the least mean KL in the sweep."""

    def kl(epsilon: float) -> float:
        return statistics.mean(values("KL", budget=budget, epsilon=epsilon, calls=calls))

    return min(EPSILONS, key=kl)


def line_of(budget: int, epsilon: float) -> list[str]:
    """A line of the table."""
    of, cells = {"budget": budget, "epsilon": epsilon}, [f"{epsilon:g}"]
    for calls in CALLS:
        kl, ode = (values("KL", budget=budget, epsilon=e, calls=calls) for e in (epsilon, 0.0))
        less = [a - b for a, b in zip(kl, ode, strict=True)] if epsilon else []
        cells += [spread(kl, 4), interval(less, 4)]
    cells += [spread(values(name, calls=CALLS[0], **of), 4) for name in ("paper's", "energy")]
    return [*cells, *(spread(values(name, **of), 1) for name in ("bound", "whole KL"))]


def report() -> str:
    """The tables of what is kept."""
    floors = ", ".join(
        f"{name} {spread(values(name, budget=''), 4)}" for name in ("KL", "paper's", "energy")
    )
    text = [header(__doc__), f"Floors of exact draws: {floors}.\n"]
    for budget in budgets():
        seeds = len(values("whole KL", budget=budget))
        head = ["ε", "KL", "less ODE", "KL, 40 calls", "less ODE", "paper's", "energy", "bound"]
        lines = table([*head, "whole KL"], [line_of(budget, epsilon) for epsilon in EPSILONS])
        told = [f"## {budget:,} steps of training, {seeds} seeds\n\n{lines}\n"]
        for margin in MARGINS:
            names = (f"{name}, m = {margin:g}" for name in ("ε*", "B", "S"))
            star, b, s = (spread(values(name, budget=budget), 2) for name in names)
            told.append(f"By the bound, m = {margin:g}: ε* = {star} (B = {b}, S = {s}).")
        found = " and ".join(f"{best(budget, calls):g} at {calls} calls" for calls in CALLS)
        text += [*told, f"Least KL in the sweep at ε = {found}.\n"]
    return "\n".join(text)


def draw(path: Path) -> None:
    """KL and energy distance against ε for each budget, with ε* beside the optimum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    of = (("KL", CALLS[0]), ("KL", CALLS[1]), ("energy", CALLS[0]))
    for ax, (quantity, calls) in zip(panels, of, strict=True):
        for k, budget in enumerate(budgets()):
            found = [values(quantity, budget=budget, epsilon=e, calls=calls) for e in EPSILONS]
            mean = [statistics.mean(v) for v in found]
            apart = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in found]
            ax.errorbar(
                [e or 0.05 for e in EPSILONS], mean, apart, marker="o", markersize=4,
                color=f"C{k}", label=f"{budget:,} steps", capsize=2,
            )  # fmt: skip
            star = statistics.mean(values(f"ε*, m = {MARGINS[0]:g}", budget=budget))
            ax.axvline(star, color=f"C{k}", linestyle=":", label=f"ε* = {star:.2g}")
        floor = values(quantity, budget="")
        if floor:
            ax.axhline(statistics.mean(floor), color="0.5", linewidth=1, label="floor")
        ax.set(xscale="log", yscale="log", xlabel="ε", title=f"{quantity}, {calls} calls")
        ticks = [0.05, 0.25, 1, 4, 16]
        ax.set_xticks(ticks, ["0", *(f"{e:g}" for e in ticks[1:])])
        ax.minorticks_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", fontsize=8)
    figure.savefig(path, dpi=120)


def write() -> None:
    """Table and figure of what is kept."""
    (FOLDER / "study_epsilon.md").write_text(report())
    draw(FOLDER / "study_epsilon.png")


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
            ROWS.add(*(("", k, "", "", *found) for found in distances(x, truth).items()))
    for seed in range(0 if options.report else options.seeds):
        for budget in options.budgets:
            if ROWS.rows(budget=budget, seed=seed, quantity="whole KL"):
                continue
            began = time.perf_counter()
            field = trained(budget, seed)
            seconds = time.perf_counter() - began
            rows = [(budget, seed, *row) for row in measure(field, 10_000, seed)]
            ROWS.add(*rows, (budget, seed, "", "", "seconds of training", seconds))
            print(budget, seed, f"{time.perf_counter() - began:.0f} s", flush=True)
            write()
    write()


if __name__ == "__main__":
    main()
