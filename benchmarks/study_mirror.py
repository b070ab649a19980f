"""The mirror: from the data through noise to the data, by ε and the number of steps.

x_t = x1 + √(a t(1-t)) z (Albergo, Boffi and Vanden-Eijnden 2023, section 3.3; their slides: it
"takes many SDE steps"). Both ends are the data, and the ODE leaves each point where it is: what
moves a sample is ε. Data: eight modes of deviation .2 on a circle of radius 2; 5,000 starts of the
data. Fields: the exact one, and a noise predictor (MLP of 4 x 128, 8,000 steps of 256, Adam at 1e-3
with a cosine, averages of .999). Heun.

- *energy*: energy distance of the ends to further draws, times 1e4; floor: of draws;
- *moved*: rms distance from start to end, over that of two independent draws;
- *same mode*: per cent of the samples that end in the mode they came from (12.5 if independent);
- *limited*: whether a step could not follow ε, which was then limited near the ends.

Run ``python benchmarks/study_mirror.py [--seeds 3]``, for some seconds with ``--quick``. What was
measured is kept in results/study_mirror.csv, and a run goes on from there; results/study_mirror.md
and .png are made of it (``--report`` alone).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import Kept, header, seeded, spread, table
from transportflows import exam

FOLDER = Path(__file__).parent / "results"
ROWS = Kept(
    FOLDER / "study_mirror.csv",
    ("a", "field", "seed", "epsilon", "steps", "energy", "moved", "same", "limited"),
)
VARIANCES, EPSILONS, STEPS = (1.0, 4.0, 16.0), (0.0, 0.5, 2.0, 8.0, 32.0), (10, 30, 100, 300, 1000)
POINTS = 5_000


def law() -> tpf.distributions.GaussianMixture:
    """Eight modes."""
    return exam.LAWS["modes"]()


def field_of(kind: str, a: float, seed: int, steps: int) -> tpf.Field:
    """The exact field, or a learned one."""
    process = tpf.Process(tpf.Mirror(tpf.Brownian(a)), shape=(2,))
    if kind == "exact":
        return tpf.oracle(process, law())
    net = tpf.networks.MLP(2, 128, 4, frequencies=4, generator=seeded(seed, 1))
    trainer = tpf.Trainer(tpf.NoisePredictor(net, process), lr=1e-3, scheduler="cosine", ema=0.999)
    trainer.fit(law(), steps=steps, batch_size=256, progress=False, generator=seeded(seed, 2))
    return trainer.averaged_field()


def modes(x: Tensor) -> Tensor:
    """The nearest mode of each row."""
    return torch.cdist(x.double(), law().means).argmin(1)


@torch.no_grad()
def measured(field: tpf.Field, epsilon: float, steps: int, seed: int, n: int) -> list[object]:
    """Energy, moved, same mode, limited."""
    start = law().sample(n, generator=seeded(seed, 3), dtype=torch.float32)
    truth = law().sample(n, generator=seeded(4), dtype=torch.float32)
    solution = tpf.sample(
        field, start=start, epsilon=epsilon, scheme="heun", steps=steps, generator=seeded(seed, 5)
    )
    apart = float((start - truth).square().sum(1).mean().sqrt())
    moved = float((solution.x - start).square().sum(1).mean().sqrt()) / apart
    same = 100 * float((modes(solution.x) == modes(start)).float().mean())
    energy = 1e4 * tpf.metrics.energy_distance(solution.x, truth)
    return [energy, moved, same, int(solution.limited is not None)]


def told(rows: list[dict[str, str]], key: str, digits: int) -> str:
    """Mean and deviation over the seeds."""
    return spread([float(row[key]) for row in rows], digits)


def report() -> str:
    """The tables of what is kept."""
    floor = ROWS.rows(field="draws")
    text = [header(__doc__), f"Floor of the energy distance: {told(floor, 'energy', 2)}.\n"]
    for a in VARIANCES:
        lines = []
        for kind in ("exact", "learned"):
            for epsilon in EPSILONS:
                for steps in STEPS:
                    own = ROWS.rows(a=a, field=kind, epsilon=epsilon, steps=steps)
                    if own:
                        lines.append(
                            [
                                kind, f"{epsilon:g}", str(steps), told(own, "energy", 2),
                                told(own, "moved", 3), told(own, "same", 1),
                                "yes" if int(own[0]["limited"]) else "",
                            ]
                        )  # fmt: skip
        head = ["field", "ε", "steps", "energy", "moved", "same mode, %", "limited"]
        text.append(f"## a = {a:g}\n\n{table(head, lines)}\n")
    return "\n".join(text)


def draw(path: Path) -> None:
    """What moved against ε, and the energy distance against the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for k, a in enumerate(VARIANCES):
        for kind, line in (("exact", ":"), ("learned", "-")):

            def mean(key: str, epsilon: float, steps: int, a: float = a, kind: str = kind) -> float:
                own = ROWS.rows(a=a, field=kind, epsilon=epsilon, steps=steps)
                return statistics.mean(float(row[key]) for row in own) if own else float("nan")

            label = f"a = {a:g}, {kind}"
            left.plot(
                [e or 0.1 for e in EPSILONS], [mean("moved", e, 1000) for e in EPSILONS], line,
                marker=".", color=f"C{k}", label=label,
            )  # fmt: skip
            right.plot(
                STEPS, [mean("energy", 8.0, n) for n in STEPS], line, marker=".", color=f"C{k}"
            )
    left.axhline(1.0, color="0.5", lw=1, label="independent")
    left.set(xscale="log", xlabel="ε", title="moved, 1,000 steps")
    left.set_xticks([0.1, 0.5, 2, 8, 32], ["0", "0.5", "2", "8", "32"])
    floor = ROWS.rows(field="draws")
    if floor:
        right.axhline(statistics.mean(float(row["energy"]) for row in floor), color="0.5", lw=1)
    right.set(
        xscale="log", yscale="log", xlabel="steps", title="energy distance x 1e4, ε = 8; floor"
    )
    right.set_xticks(STEPS, [str(n) for n in STEPS])
    for ax in (left, right):
        ax.minorticks_off()
    figure.legend(*left.get_legend_handles_labels(), loc="outside right", fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure what is missing, and write tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="tables and figure alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        for kind in ("exact", "learned"):
            print(kind, *measured(field_of(kind, 4.0, 0, 20), 2.0, 10, 0, 200))
        return
    if not options.report and not ROWS.rows(field="draws"):
        truth = law().sample(POINTS, generator=seeded(4), dtype=torch.float32)
        for k in range(4):
            x = law().sample(POINTS, generator=seeded(9, k), dtype=torch.float32)
            energy = 1e4 * tpf.metrics.energy_distance(x, truth)
            ROWS.add(("", "draws", k, "", "", energy, "", "", ""))
    for seed in range(0 if options.report else options.seeds):
        for a in VARIANCES:
            for kind in ("exact", "learned"):
                if ROWS.rows(a=a, field=kind, seed=seed):
                    continue
                field = field_of(kind, a, seed, 8_000)
                rows = [
                    (a, kind, seed, e, n, *measured(field, e, n, seed, POINTS))
                    for e in EPSILONS
                    for n in (STEPS if e else STEPS[:1])
                ]
                ROWS.add(*rows)
                (FOLDER / "study_mirror.md").write_text(report())
                print(a, kind, seed, flush=True)
    (FOLDER / "study_mirror.md").write_text(report())
    draw(FOLDER / "study_mirror.png")


if __name__ == "__main__":
    main()
