"""The variance-exploding SDE against the linear interpolant: Chang's study, as written and fairly.

Mixtures of four unit Gaussians, d = 2 (at ±e1, ±e2) and d = 10 (at e1 to e4); 10,000 draws to train
on and 10,000 samples; N_t = 10, 20, ..., 1280 steps in both methods (the author ended VE at 160).

- *written*: VE(.01, 10), a network for the score, λ = σ², Euler-Maruyama of the reverse SDE; the
  linear interpolant, a network for the velocity, Euler. One network for each N_t, trained at the
  times of its grid: four linear layers with ReLU, told of t by its value; 8,000 steps of 128, Adam
  at 1e-3, decayed every 500. Width (128) and decay (0.8) are not told in the text. VE starts at
  *N(0, Id)*, as the text says of both methods, or at its *prior* N(0, 100 Id).
- *fair*: one network for all N_t, trained at continuous times: the library's MLP of the same size,
  Adam at 1e-3 with a cosine, averages of .999. VE is preconditioned and weighted as EDM, and starts
  at N(m, (100 + s²) Id), with m and s² of the training data: the end of its forward process.
  Samplers: *dpm2m* for VE on the grid of Karras et al., and for the linear path; N_t calls each.
- *exact*: the oracle's fields in place of networks, with the samplers of *written* and *fair*.

*mean*, *cov*: the Euclidean and the Frobenius norm of the errors of mean and covariance, against
the true ones; *W2²*: entropic, ε = 0.001, of 10,000 samples and 10,000 draws that were not trained
on; each beside its floor, of 10,000 further draws in place of samples (mean of three).
*B*: ∫ E|δb|² of the linear interpolant's field over [.001, .999], twice the excess of its loss.

Run ``python benchmarks/study_ve_linear.py [--seeds 5] [--parts written fair exact]``, for half a
minute with ``--quick``. What was measured is kept in results/study_ve_linear.csv, and a run goes on
from there; the table results/study_ve_linear.md and the figure .png are made of it (``--report``
alone).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import Kept, header, seeded, table

FOLDER = Path(__file__).parent / "results"
ROWS = Kept(
    FOLDER / "study_ve_linear.csv",
    ("part", "d", "method", "nt", "seed", "mean", "cov", "w2", "b", "seconds"),
)
STEPS = tuple(10 * 2**k for k in range(8))
POINTS, ITERATIONS, BATCH, WIDTH = 10_000, 8_000, 128, 128
LOW, HIGH = 0.01, 10.0


def law(d: int) -> tpf.distributions.GaussianMixture:
    """The mixture."""
    cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    means = cross if d == 2 else torch.eye(d, dtype=torch.float64)[:4]
    return tpf.distributions.GaussianMixture(means, 1.0)


class Written(nn.Module):
    """Four linear layers with ReLU between them, of (x, t)."""

    def __init__(self, d: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(d + 1, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
                nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, d),
            )  # fmt: skip

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """The prediction."""
        return self.layers(torch.cat([x, t.expand(len(x))[:, None]], 1))


def processes(d: int) -> dict[str, tpf.Process]:
    """Of the two methods."""
    ve = tpf.Process(tpf.VE(LOW, HIGH), shape=(d,))
    return {"VE": ve, "linear": tpf.Process(tpf.Linear(), base=tpf.Gaussian((d,)))}


def trained_as_written(method: str, d: int, nt: int, data: Tensor, seed: int, n: int) -> tpf.Field:
    """A network for one N_t, at the times of its grid."""
    process, times = processes(d)[method], tpf.times.GridTimes([k / nt for k in range(nt)])
    field: tpf.Field
    loss: tpf.losses.Loss
    if method == "VE":
        field, loss = tpf.Score(Written(d, seed), process), tpf.ScoreLoss(times=times)
    else:
        field, loss = tpf.Velocity(Written(d, seed), process), tpf.VelocityLoss(times=times)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-3)
    decay = torch.optim.lr_scheduler.StepLR(optimizer, step_size=500, gamma=0.8)
    trainer = tpf.Trainer(field, loss, optimizer=optimizer, scheduler=decay)
    trainer.fit(data, steps=n, batch_size=BATCH, progress=False, generator=seeded(seed, nt))
    return field


def trained_fairly(method: str, d: int, data: Tensor, seed: int, n: int) -> tpf.Field:
    """One network for all N_t."""
    process = processes(d)[method]
    net = tpf.networks.MLP(d, WIDTH, 3, generator=seeded(seed, 1))
    field: tpf.Field
    loss: tpf.losses.Loss | None = None
    if method == "VE":
        field = tpf.EDM(net, process, sigma_data=float(data.std(0).mean()))
        loss = tpf.DataLoss(
            weight=tpf.losses.EDMWeight(field.sigma_data), times=tpf.times.EDMTimes()
        )
    else:
        field = tpf.Velocity(net, process)
    trainer = tpf.Trainer(field, loss, lr=1e-3, scheduler="cosine", ema=0.999)
    trainer.fit(data, steps=n, batch_size=BATCH, progress=False, generator=seeded(seed, 2))
    return trainer.averaged_field()


@torch.no_grad()
def euler_maruyama(field: tpf.Field, start: Tensor, nt: int, draws: torch.Generator) -> Tensor:
    """The reverse SDE of VE in equal steps, as the text has it."""
    x, h, growth = start, 1 / nt, 2 * math.log(HIGH / LOW)
    for k in range(nt):
        t = torch.tensor(k / nt, dtype=x.dtype)
        square = growth * (LOW * (HIGH / LOW) ** (1 - k / nt)) ** 2
        noise = torch.randn(x.shape, generator=draws, dtype=x.dtype)
        x = x + h * square * field.score(t, x) + math.sqrt(h * square) * noise
    return x


def written_samples(
    method: str, field: tpf.Field, d: int, nt: int, seed: int, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """By name of the method and its start."""
    noise = torch.randn(POINTS, d, generator=seeded(seed, 3), dtype=dtype)
    if method == "linear":
        x = tpf.sample(field, start=noise, scheme="euler", steps=nt, generator=seeded(seed, 4)).x
        yield "linear, Euler", x
        return
    for start, scale in (("N(0, Id)", 1.0), ("prior", HIGH)):
        x = euler_maruyama(field, scale * noise, nt, seeded(seed, 4))
        yield f"VE, reverse SDE from {start}", x


def fair_samples(
    method: str, field: tpf.Field, d: int, nt: int, data: Tensor, seed: int, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """By name of the method."""
    start = torch.randn(POINTS, d, generator=seeded(seed, 3), dtype=dtype)
    if method == "linear":
        x = tpf.sample(field, start=start, scheme="dpm2m", steps=nt, generator=seeded(seed, 4)).x
        yield "linear, dpm2m", x
        return
    scale = math.sqrt(HIGH**2 + float(data.var(0).mean()))
    start = data.mean(0).to(dtype) + scale * start
    grid = tpf.solve.noise_grid(field.process, nt, spacing="karras")
    x = tpf.sample(field, start=start, scheme="dpm2m", t=grid, generator=seeded(seed, 4)).x
    yield "VE, dpm2m", x


def metrics(x: Tensor, d: int, held_out: Tensor) -> list[float]:
    """Errors of mean and covariance, and W2²."""
    truth, x = law(d), x.double()
    mean = truth.weights @ truth.means
    apart = truth.means - mean
    cov = torch.eye(d, dtype=torch.float64) + torch.einsum(
        "k,ki,kj->ij", truth.weights, apart, apart
    )
    if not bool(x.isfinite().all()):
        return [math.inf] * 3
    w2 = tpf.metrics.entropic_wasserstein2(x, held_out, epsilon=0.001).value
    return [float((x.mean(0) - mean).norm()), float((torch.cov(x.mT) - cov).norm()), float(w2)]


def excess_loss(field: tpf.Field, d: int, seed: int) -> float:
    """B of the linear interpolant's field."""
    exact = tpf.oracle(processes(d)["linear"], law(d))
    found = tpf.metrics.oracle_errors(field, exact, n=2_000, times=16, generator=seeded(seed, 8))
    return found.velocity_integral


def run(part: str, d: int, seed: int, steps: tuple[int, ...], n: int, keep: bool) -> None:
    """One part of the study in one dimension, for one seed."""
    data = law(d).sample(POINTS, generator=seeded(seed, d), dtype=torch.float32)
    held_out = law(d).sample(POINTS, generator=seeded(seed, d, 5), dtype=torch.float64)

    def add(method: str, nt: int, x: Tensor, b: float, seconds: float) -> None:
        row = [part, d, method, nt, seed, *metrics(x, d, held_out), b, f"{seconds:.1f}"]
        print(*row, flush=True)
        if keep:
            ROWS.add(row)

    if keep and not ROWS.rows(part="floor", d=d, seed=seed):
        for k in range(3):
            fresh = law(d).sample(POINTS, generator=seeded(seed, d, 6, k), dtype=torch.float64)
            ROWS.add(["floor", d, f"draws {k}", 0, seed, *metrics(fresh, d, held_out), "", ""])
    for method in ("linear", "VE"):
        names = {
            "written": ["linear, Euler"] if method == "linear" else
            ["VE, reverse SDE from N(0, Id)", "VE, reverse SDE from prior"],
            "fair": [f"{method}, dpm2m"],
        }  # fmt: skip
        wanted = names["written"] + names["fair"] if part == "exact" else names[part]
        left = [
            nt for nt in steps
            if not all(ROWS.rows(part=part, d=d, method=m, nt=nt, seed=seed) for m in wanted)
        ]  # fmt: skip
        left = left if keep else list(steps)
        field: tpf.Field | None = None
        b = math.nan
        for nt in left:
            began, dtype = time.process_time(), torch.float32
            if part == "exact":
                field, dtype = tpf.oracle(processes(d)[method], law(d)), torch.float64
            elif part == "written":
                field = trained_as_written(method, d, nt, data, seed, n)
            elif field is None:
                field = trained_fairly(method, d, data, seed, n)
            if method == "linear" and part != "exact" and (part == "written" or math.isnan(b)):
                b = excess_loss(field, d, seed)
            seconds = time.process_time() - began
            if part != "fair":
                for name, x in written_samples(method, field, d, nt, seed, dtype):
                    add(name, nt, x, b, seconds)
            if part != "written":
                for name, x in fair_samples(method, field, d, nt, data, seed, dtype):
                    add(name, nt, x, b, seconds)


# --------------------------------------------------------------------------------------- report


def means(**wanted: object) -> tuple[dict[str, float], dict[str, float], int]:
    """Means over the seeds, standard deviations over them, and how many there are."""
    own = ROWS.rows(**wanted)
    values = {
        key: [float(row[key]) for row in own if row[key]] for key in ("mean", "cov", "w2", "b")
    }
    mean = {k: statistics.mean(v) if v else math.nan for k, v in values.items()}
    spread = {k: statistics.stdev(v) if len(v) > 1 else math.nan for k, v in values.items()}
    return mean, spread, len({row["seed"] for row in own})


def methods_of(part: str, d: int) -> list[str]:
    """In the order of the file."""
    return list(dict.fromkeys(row["method"] for row in ROWS.rows(part=part, d=d)))


def report() -> str:
    """The tables of what is kept."""
    text = [header(__doc__)]
    for d in (2, 10):
        floor, apart, _ = means(part="floor", d=d)
        told = [
            f"{name} {floor[key]:.4f} ± {apart[key]:.4f}"
            for key, name in (("mean", "mean"), ("cov", "covariance"), ("w2", "W2²"))
        ]
        text.append(f"## d = {d}\n\nFloors: {', '.join(told)}.\n")
        for part in ("written", "fair", "exact"):
            lines = []
            for method in methods_of(part, d):
                for nt in STEPS:
                    found, _, seeds = means(part=part, d=d, method=method, nt=nt)
                    if not seeds:
                        continue
                    excess = math.sqrt(max(found["w2"] - floor["w2"], 0.0))
                    lines.append(
                        [
                            method, str(nt), str(seeds), f"{found['mean']:.4f}",
                            f"{found['cov']:.4f}", f"{found['w2']:.4f}", f"{excess:.3f}",
                            "" if math.isnan(found["b"]) else f"{found['b']:.4f}",
                        ]
                    )  # fmt: skip
            if lines:
                head = ["method", "N_t", "seeds", "mean", "cov", "W2²", "√(W2² - floor)", "B"]
                text.append(f"### {part}\n\n{table(head, lines)}\n")
    return "\n".join(text)


def draw(path: Path) -> None:
    """Three metrics by two dimensions, against N_t."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panels = figure.subplots(2, 3)
    style = {"written": "-", "fair": "--", "exact": ":"}
    paint = {"linear": "#0f9d8a", "VE": "#8a5cd6", "VE, reverse SDE from N(0, Id)": "#d6612c"}
    names = {"mean": "error of the mean", "cov": "error of the covariance", "w2": "W2², ε = 0.001"}
    for i, d in enumerate((2, 10)):
        floor = means(part="floor", d=d)[0]
        for j, (key, name) in enumerate(names.items()):
            ax = panels[i][j]
            for part, line in style.items():
                for method in methods_of(part, d):
                    values = [means(part=part, d=d, method=method, nt=nt)[0][key] for nt in STEPS]
                    colour = paint.get(method, paint[method.partition(",")[0]])
                    label = f"{part}: {method}"
                    ax.plot(STEPS, values, line, color=colour, marker=".", label=label)
            ax.axhline(floor[key], color="0.5", lw=1)
            ax.set(xscale="log", yscale="log", xlabel="N_t", title=f"{name}, d = {d}")
    panels[0][0].legend(fontsize=6)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure what is missing, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute's version")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", default=["written", "fair", "exact"])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 10])
    parser.add_argument("--report", action="store_true", help="table and figure alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        global POINTS
        POINTS = 300
        for part in options.parts:
            run(part, 2, 0, (10, 20), 20, keep=False)
        return
    for seed in range(0 if options.report else options.seeds):
        for part in options.parts:
            for d in options.dimensions:
                if part == "exact" and seed:
                    continue  # no network: one seed tells
                run(part, d, seed, STEPS, ITERATIONS, keep=True)
                (FOLDER / "study_ve_linear.md").write_text(report())
    (FOLDER / "study_ve_linear.md").write_text(report())
    draw(FOLDER / "study_ve_linear.png")


if __name__ == "__main__":
    main()
