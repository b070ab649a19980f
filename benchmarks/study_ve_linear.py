"""The variance-exploding SDE against the linear interpolant: Chang's study, as written and fairly.

Mixtures of four unit Gaussians, d = 2 (at ±e1, ±e2) and d = 10 (at e1 to e4); 10,000 draws to train
on and 10,000 samples; N_t = 10, 20, ..., 1280 steps in both methods (the author ended VE at 160).

- *written*: VE(.01, 10), a network for the score, λ = σ², Euler-Maruyama of the reverse SDE; the
  linear interpolant, a network for the velocity, Euler. One network for each N_t, trained at the
  times of its grid: four linear layers with ReLU, told of t by its value; 8,000 steps of 128, Adam
  at 1e-3, decayed every 500. Width (128) and decay (0.8) are not told in the text. VE starts at
  *N(0, Id)*, as the text says of both methods, or at its *prior* N(0, 100 Id).
- *fair*: one network for all N_t, trained at continuous times: the library's MLP of the same size,
  Adam at 1e-3 with a cosine, averages of .999. VE is preconditioned and weighted as EDM, its levels
  in proportion to the deviation of the data, and starts at N(m, (100 + s²) Id), with m and s² of
  the training data: the end of its forward process. Samplers, with N_t calls: Heun for the linear
  path, *unipc3* on the grid of Karras et al. for VE (of those tried with exact fields the best).
- *exact*: the oracle's fields in place of networks, with the samplers of *written* and *fair*, and
  VE's probability flow from N(0, Id); every other N_t, one seed.

*mean*, *cov*: the Euclidean and the Frobenius norm of the errors of mean and covariance, against
the true ones; *W2²*: entropic, ε = 0.001, of 10,000 samples and 10,000 draws that were not trained
on (to a marginal violation of .001, in d = 10 of .03, which takes a third of the time and lowers
W2² and its floor by 3e-4); each beside its floor, of 10,000 further draws in place of samples
(mean of three). *excess*: √(W2² - floor), over the deviation of the law in one coordinate. *B*: the
integral of E|δb|² of the linear interpolant's field over [.001, .999], twice the excess of its
loss; *excess²/B*: W2² less its floor, in units of B. Means and deviations over the seeds.

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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import Kept, header, seeded, spread, table

FOLDER = Path(__file__).parent / "results"
ROWS = Kept(
    FOLDER / "study_ve_linear.csv",
    ("part", "d", "method", "nt", "seed", "mean", "cov", "w2", "b", "seconds"),
)
STEPS = tuple(10 * 2**k for k in range(8))
POINTS, ITERATIONS, BATCH, WIDTH = 10_000, 8_000, 128, 128
LOW, HIGH = 0.01, 10.0
VIOLATION = {2: 1e-3, 10: 0.03}


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
        scale = float(data.std(0).mean())
        field = tpf.EDM(net, process, sigma_data=scale)
        times = tpf.times.EDMTimes(mean=math.log(scale / 0.5) - 1.2)  # Karras's, of deviation .5
        loss = tpf.DataLoss(weight=tpf.losses.EDMWeight(scale), times=times)
    else:
        field = tpf.Velocity(net, process)
    trainer = tpf.Trainer(field, loss, lr=1e-3, scheduler="cosine", ema=0.999)
    trainer.fit(data, steps=n, batch_size=BATCH, progress=False, generator=seeded(seed, 2))
    return trainer.averaged_field()


@torch.no_grad()
def euler_maruyama(field: tpf.Field, start: Tensor, nt: int, draws: torch.Generator) -> Tensor:
    """The reverse SDE of VE in equal steps, as the text has it."""
    h, growth, ends = 1 / nt, 2 * math.log(HIGH / LOW), []
    for x in start.split(2_048):  # what fits a cache
        for k in range(nt):
            t = torch.tensor(k / nt, dtype=x.dtype)
            square = growth * (LOW * (HIGH / LOW) ** (1 - k / nt)) ** 2
            noise = torch.randn(x.shape, generator=draws, dtype=x.dtype)
            x = x + h * square * field.score(t, x) + math.sqrt(h * square) * noise
        ends.append(x)
    return torch.cat(ends)


NAMES = {
    "written": {
        "linear": ("linear, Euler",),
        "VE": ("VE, reverse SDE from N(0, Id)", "VE, reverse SDE from prior"),
    },
    "fair": {"linear": ("linear, Heun",), "VE": ("VE, unipc3",)},
    "exact": {
        "linear": ("linear, Euler", "linear, Heun"),
        "VE": (
            "VE, reverse SDE from N(0, Id)", "VE, reverse SDE from prior", "VE, unipc3",
            "VE, unipc3 from N(0, Id)",
        ),
    },
}  # fmt: skip
"""By part and method: how samples are made."""


def samples(name: str, field: tpf.Field, nt: int, data: Tensor, seed: int) -> Tensor:
    """Of one name."""
    dtype = torch.float32 if any(True for _ in field.parameters()) else torch.float64
    start = torch.randn(POINTS, data.shape[1], generator=seeded(seed, 3), dtype=dtype)
    draws = seeded(seed, 4)
    if "reverse SDE" in name:
        return euler_maruyama(field, start * (HIGH if "prior" in name else 1.0), nt, draws)
    how: dict[str, Any] = {"scheme": "euler", "steps": nt}
    if "Heun" in name:
        how = {"scheme": "heun", "steps": nt // 2}
    elif name.startswith("VE"):
        grid = tpf.solve.noise_grid(field.process, nt, spacing="karras")
        how = {"scheme": "unipc3", "t": grid}
        if name == "VE, unipc3":
            scale = math.sqrt(HIGH**2 + float(data.var(0).mean()))
            start = data.mean(0).to(dtype) + scale * start
    return tpf.sample(field, start=start, generator=draws, **how).x


def moments(d: int) -> tuple[Tensor, Tensor]:
    """The true mean and covariance."""
    truth = law(d)
    mean = truth.weights @ truth.means
    apart = truth.means - mean
    outer = torch.einsum("k,ki,kj->ij", truth.weights, apart, apart)
    return mean, torch.eye(d, dtype=torch.float64) + outer


def off_moments(x: Tensor) -> tuple[float, float]:
    """Errors of mean and covariance."""
    mean, cov = moments(x.shape[1])
    return float((x.mean(0) - mean).norm()), float((torch.cov(x.mT) - cov).norm())


def metrics(x: Tensor, held_out: Tensor) -> list[float]:
    """Errors of mean and covariance, and W2²."""
    if not bool(x.isfinite().all()):
        return [math.inf] * 3
    x, violation = x.double(), VIOLATION[x.shape[1]]
    w2 = tpf.metrics.entropic_wasserstein2(x, held_out, epsilon=0.001, tolerance=violation)
    return [*off_moments(x), float(w2.value)]


def excess_loss(field: tpf.Field, d: int, seed: int) -> float:
    """B of the linear interpolant's field."""
    exact = tpf.oracle(processes(d)["linear"], law(d))
    found = tpf.metrics.oracle_errors(field, exact, n=2_000, times=16, generator=seeded(seed, 8))
    return found.velocity_integral


def run(part: str, d: int, seed: int, steps: tuple[int, ...], n: int, keep: bool) -> None:
    """One part of the study in one dimension, for one seed."""
    data = law(d).sample(POINTS, generator=seeded(seed, d), dtype=torch.float32)
    held_out = law(d).sample(POINTS, generator=seeded(seed, d, 5), dtype=torch.float64)
    if keep and not ROWS.rows(part="floor", d=d, seed=seed):
        for k in range(3):
            fresh = law(d).sample(POINTS, generator=seeded(seed, d, 6, k), dtype=torch.float64)
            ROWS.add(["floor", d, f"draws {k}", 0, seed, *metrics(fresh, held_out), "", ""])
    for method, names in NAMES[part].items():
        field: tpf.Field | None = None
        b: float | str = ""
        for nt in steps:
            which = {"part": part, "d": d, "nt": nt, "seed": seed}
            left = [name for name in names if not (keep and ROWS.rows(method=name, **which))]
            if not left:
                continue
            began = time.process_time()
            if part == "exact":
                field = tpf.oracle(processes(d)[method], law(d))
            elif part == "written":
                field = trained_as_written(method, d, nt, data, seed, n)
            elif field is None:
                field = trained_fairly(method, d, data, seed, n)
            if method == "linear" and part != "exact" and (part == "written" or b == ""):
                b = excess_loss(field, d, seed)
            seconds = f"{time.process_time() - began:.1f}"
            for name in left:
                x = samples(name, field, nt, data, seed)
                row = [part, d, name, nt, seed, *metrics(x, held_out), b, seconds]
                print(*row, flush=True)
                if keep:
                    ROWS.add(row)


# --------------------------------------------------------------------------------------- report


def column(key: str, **wanted: object) -> list[float]:
    """By seed."""
    return [float(row[key]) for row in ROWS.rows(**wanted) if row[key]]


def methods_of(part: str, d: int) -> list[str]:
    """In the order of the file."""
    return list(dict.fromkeys(row["method"] for row in ROWS.rows(part=part, d=d)))


def limits(d: int) -> list[float]:
    """Three times the rms errors of mean and covariance of exact samples."""
    draws = seeded(7, d)
    found = [off_moments(law(d).sample(POINTS, generator=draws).double()) for _ in range(100)]
    return [3 * statistics.mean(e**2 for e in each) ** 0.5 for each in zip(*found, strict=True)]


def line_of(part: str, d: int, method: str, nt: int) -> list[str]:
    """A line of a table; empty where nothing is kept."""
    of = {"part": part, "d": d, "method": method, "nt": nt}
    found = {key: column(key, **of) for key in ("mean", "cov", "w2", "b")}
    if not found["mean"]:
        return []
    over = statistics.mean(found["w2"]) - statistics.mean(column("w2", part="floor", d=d))
    excess = math.sqrt(max(over, 0.0) / float(moments(d)[1].diagonal().mean()))
    line = [method, str(nt), str(len(found["mean"]))]
    line += [spread(found[key], 4) for key in ("mean", "cov", "w2")]
    ratio = f"{over / statistics.mean(found['b']):.2f}" if found["b"] else ""
    return [*line, f"{excess:.3f}", spread(found["b"], 4), ratio]


def gaussian_errors(nt: int) -> list[float]:
    """Errors of the variance of exact fields, for N(0, v), v that of the mixture in the plane.

    All steps are linear in x, so the variance after each is known: the linear interpolant by
    Euler; VE's reverse SDE by Euler-Maruyama from its prior and from N(0, 1); its probability flow
    by Euler from N(0, 1).
    """
    v, h, growth = float(moments(2)[1][0, 0]), 1 / nt, 2 * math.log(HIGH / LOW)
    linear, prior, one, flow = 1.0, HIGH**2, 1.0, 1.0
    for k in range(nt):
        t, square = k / nt, (LOW * (HIGH / LOW) ** (1 - k / nt)) ** 2
        linear *= (1 + h * (t * v - (1 - t)) / ((1 - t) ** 2 + t * t * v)) ** 2
        pull = h * growth * square / (v + square)
        prior, one = ((1 - pull) ** 2 * of + h * growth * square for of in (prior, one))
        flow *= (1 - pull / 2) ** 2
    return [of - v for of in (linear, prior, one, flow)]


def report() -> str:
    """The tables of what is kept."""
    text = [header(__doc__)]
    for d in (2, 10):
        if not ROWS.rows(part="floor", d=d):
            continue
        told = [
            f"{name} {spread(column(key, part='floor', d=d), 4)}"
            for key, name in (("mean", "mean"), ("cov", "covariance"), ("w2", "W2²"))
        ]
        mean, cov = limits(d)
        text.append(
            f"## d = {d}\n\nFloors: {', '.join(told)}. Three standard errors of exact samples: mean"
            f" {mean:.4f}, covariance {cov:.4f}.\n"
        )
        head = ["method", "N_t", "seeds", "mean", "cov", "W2²", "excess", "B", "excess²/B"]
        for part in NAMES:
            lines = [line_of(part, d, m, nt) for m in methods_of(part, d) for nt in STEPS]
            if any(lines):
                text.append(f"### {part}\n\n{table(head, filter(None, lines))}\n")
    head = ["N_t", "linear, Euler", "reverse SDE", "reverse SDE from N(0, 1)"]
    lines = [[str(nt), *(f"{e:.1e}" for e in gaussian_errors(nt))] for nt in STEPS]
    text.append(
        "## One Gaussian, exact fields: errors of its variance 1.5, in closed form\n\n"
        f"{table([*head, 'probability flow from N(0, 1)'], lines)}"
    )
    return "\n".join(text)


def draw(path: Path) -> None:
    """Three metrics by two dimensions, against N_t."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.5), layout="constrained")
    panels = figure.subplots(2, 3)
    style = {"written": "-", "fair": "--", "exact": ":"}
    paint = {"linear": "#0f9d8a", "VE": "#8a5cd6", "N(0, Id)": "#d6612c"}
    names = {"mean": "error of the mean", "cov": "error of the covariance", "w2": "W2², ε = 0.001"}
    for i, d in enumerate((2, 10)):
        for j, (key, name) in enumerate(names.items()):
            ax = panels[i][j]
            for part, line in style.items():
                for method in methods_of(part, d):
                    found = [column(key, part=part, d=d, method=method, nt=nt) for nt in STEPS]
                    kept = [
                        (nt, statistics.mean(of)) for nt, of in zip(STEPS, found, strict=True) if of
                    ]
                    kind = "N(0, Id)" if "N(0, Id)" in method else method.partition(",")[0]
                    mark = "." if "Euler" in method or "SDE" in method else "x"
                    ax.plot(
                        *zip(*kept, strict=True), line, color=paint[kind], marker=mark,
                        label=f"{part}: {method}",
                    )  # fmt: skip
            floor = column(key, part="floor", d=d)
            if floor:
                ax.axhline(statistics.mean(floor), color="0.5", lw=1, label="floor")
            ax.set(xscale="log", yscale="log", xlabel="N_t", title=f"{name}, d = {d}")
            ax.set_xticks(STEPS, [str(nt) for nt in STEPS])
            ax.minorticks_off()
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right", fontsize=7)
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
                run(part, d, seed, STEPS[:: 2 if part == "exact" else 1], ITERATIONS, keep=True)
                (FOLDER / "study_ve_linear.md").write_text(report())
    (FOLDER / "study_ve_linear.md").write_text(report())
    draw(FOLDER / "study_ve_linear.png")


if __name__ == "__main__":
    main()
