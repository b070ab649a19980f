"""The log-density of flow maps in one step and several, against the oracle's.

Eight modes on a circle of radius r = √2 of deviation r/10, and .3 r; d = 2, the linear path from
N(0, Id); `SemigroupLoss` with the oracle as its teacher, an MLP of 4 x 128, Adam at 2e-3 with a
cosine, averages of .999, batches of 512, the same processor time for all. Mean absolute error in
nats of `maps.log_density` on 2,000 draws of the law, by backward jumps; *ODE*: of the tangent's
(`log_likelihood`, 100 steps); *folds*: the share of draws with det <= 0; *inverse*: rms of
X_{0,1}(X_{1,0}(x)) - x. Means over the seeds, and the range.

Run ``python benchmarks/flow_maps_density.py [--seconds 120] [--seeds 5] [--quick]``. What was
measured is kept in results/flow_maps_density.csv, and a run goes on from there.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from pathlib import Path

import torch

import transportflows as tpf
from _common import Kept, header, table
from transportflows import maps

FOLDER = Path(__file__).parent / "results"
STEPS = (1, 2, 4)
ROWS = Kept(
    FOLDER / "flow_maps_density.csv",
    ("modes", "seed", "seconds", "steps", *(f"nats{k}" for k in STEPS), "ode", "folds", "inverse"),
)
RADIUS = math.sqrt(2)
SIZES = {"r/10": RADIUS / 10, ".3 r": 0.3 * RADIUS}
ASKED = {"r/10": "0.25", ".3 r": "0.04"}


def measure(modes: str, seed: int, seconds: float) -> list[object]:
    """A row of the file."""
    angle = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    means = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    law = tpf.distributions.GaussianMixture(means, SIZES[modes])
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    oracle = tpf.oracle(process, law)

    def run(steps: int) -> tuple[tpf.Trainer, float]:
        draws = torch.Generator().manual_seed(seed)
        net = tpf.networks.MLP(2, 128, 4, frequencies=2, vectors={"stop": 9}, generator=draws)
        flow_map = maps.FlowMap(maps.TwoTimes(net), process)
        trainer = tpf.Trainer(
            flow_map, maps.SemigroupLoss(oracle), lr=2e-3, scheduler="cosine", ema=0.999
        )
        began = time.process_time()
        trainer.fit(law, steps=steps, batch_size=512, progress=False, generator=draws)
        return trainer, time.process_time() - began

    run(5)
    trainer, took = run(max(1, round(seconds / (run(40)[1] / 40))))
    flow_map = trainer.averaged_field()
    assert isinstance(flow_map, maps.FlowMap)
    x = law.sample(2_000, generator=torch.Generator().manual_seed(1_000 + seed)).float()
    exact = law.log_prob(x.double())
    errors, folds, inverse = [], 0.0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they tell is in the table
        for steps in STEPS:
            found = maps.log_density(flow_map, x, steps=steps)
            errors.append(float((found.log_prob.double() - exact).abs().mean()))
            if steps == 1:
                folds = float(found.folds)
                inverse = float(found.inverse_residual.double().square().mean().sqrt())
    ode = tpf.log_likelihood(flow_map, x, steps=100).log_prob.double()
    ode_error = float((ode - exact).abs().mean())
    return [modes, seed, f"{took:.1f}", trainer.step, *errors, ode_error, folds, inverse]


def report() -> str:
    """The table of what is kept."""
    lines = []
    for modes in SIZES:
        own = ROWS.rows(modes=modes)
        if not own:
            continue
        cells = []
        for name in (*(f"nats{k}" for k in STEPS), "ode", "folds", "inverse"):
            values = [float(row[name]) for row in own]
            cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        lines.append([modes, str(len(own)), ASKED[modes], *cells])
    head = [
        "modes",
        "seeds",
        "asked of 1",
        *(f"{k} steps" for k in STEPS),
        "ODE",
        "folds",
        "inverse",
    ]
    return f"{header(__doc__)}\n{table(head, lines)}\n"


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(1 if options.quick else options.seeds):
        for modes in SIZES:
            if not options.quick and ROWS.rows(modes=modes, seed=seed):
                continue
            row = measure(modes, seed, 1.0 if options.quick else options.seconds)
            print(*row, flush=True)
            if options.quick:
                continue
            ROWS.add(row)
            (FOLDER / "flow_maps_density.md").write_text(report())


if __name__ == "__main__":
    main()
