"""Flow maps from data: the law of one, two and four jumps beside a velocity field's, equal time.

Checkerboard and two moons, 10,000 points each, over their deviation; the linear path from N(0, Id).
One network, an MLP of 4 x 128 (a map's is told of a second time), Adam at 2e-3 with a cosine,
averages of .999, batches of 512; each method for the same processor time on one thread. *field*:
the velocity alone, 100 steps of Heun. *two phases*: the field for two fifths of the time, then
`SemigroupLoss(field)` from its weights, as `maps.distill` does. The others learn from data alone;
those of rectified-flow-pytorch (lucidrains) are its own losses with its defaults, on the same
network, optimiser, schedule and averages.

W2 of 4,000 draws from 4,000 held-out points, a mean over three sets; *ratio* to the field's of the
same seed; *excess* √(W2² - floor²), the floor that of draws of the law (0 where W2 is below it).
Means over the seeds.

Run ``python benchmarks/flow_maps_data.py [--seconds 120] [--seeds 5] [--quick]``, for the peer with
``--peer FOLDER``, in which its wheel and that of einops were unpacked. What was measured is kept in
results/flow_maps_data.csv, and a run goes on from there.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import Kept, header, table
from transportflows import maps

FOLDER = Path(__file__).parent / "results"
ROWS = Kept(
    FOLDER / "flow_maps_data.csv",
    ("task", "method", "seed", "seconds", "steps", "jumps", "w2", "floor"),
)
PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
LAWS: dict[str, Callable[..., Tensor]] = {
    "checkerboard": tpf.datasets.checkerboard,
    "two moons": tpf.datasets.two_moons,
}
LOSSES: dict[str, Callable[[], maps.MapLoss]] = {
    "Lagrangian, self": maps.LagrangianLoss,
    "semigroup, self": maps.SemigroupLoss,
    "Eulerian, self": maps.EulerianLoss,
    "MeanFlow": maps.MeanFlowLoss,
    "shortcut": maps.ShortcutLoss,
    "consistency training": maps.ConsistencyLoss,
}
METHODS = ("field", "two phases", *LOSSES)
PEERS = {
    "MeanFlow, rectified-flow-pytorch": ("mean_flow", "MeanFlow"),
    "LsdFlow, rectified-flow-pytorch": ("lsd_flow", "LsdFlow"),
}
POINTS = 4_000


def drawn(task: str, n: int, seed: int) -> Tensor:
    """Points of a task, of deviation about 1."""
    many = LAWS[task](100_000, generator=torch.Generator().manual_seed(999))
    x = LAWS[task](n, generator=torch.Generator().manual_seed(seed))
    return (x - many.mean(0)) / many.std(0).mean()


def trainer(method: str, seed: int, field: tpf.Field | None = None) -> tpf.Trainer:
    """What trains a method, from its beginning."""
    draws = torch.Generator().manual_seed(seed)
    how = {"lr": 2e-3, "scheduler": "cosine", "ema": 0.999}
    if method == "field":
        net = tpf.networks.MLP(2, 128, 4, frequencies=2, generator=draws)
        return tpf.Trainer(tpf.Velocity(net, PROCESS), **how)  # type: ignore[arg-type]
    if field is not None:
        student = maps.two_times.student_network(field.net)
        assert student is not None
        loss: maps.MapLoss = maps.SemigroupLoss(field)
        return tpf.Trainer(maps.FlowMap(student, PROCESS), loss, **how)  # type: ignore[arg-type]
    loss = LOSSES[method]()
    net = tpf.networks.MLP(2, 128, 4, frequencies=2, vectors={"stop": 9}, generator=draws)
    flow_map = maps.FlowMap(maps.TwoTimes(net), PROCESS, to_data=loss.pairs.to_data)
    return tpf.Trainer(flow_map, loss, **how)  # type: ignore[arg-type]


def fitted(
    method: str, x: Tensor, seed: int, seconds: float, field: tpf.Field | None = None
) -> tuple[tpf.Field, int, float]:
    """A field or map, its steps and its time."""

    def run(steps: int) -> tuple[tpf.Trainer, float]:
        made, draws = trainer(method, seed, field), torch.Generator().manual_seed(seed)
        began = time.process_time()
        grows = [maps.DoublingLevels(steps)] if method == "consistency training" else []
        made.fit(x, steps=steps, batch_size=512, callbacks=grows, progress=False, generator=draws)
        return made, time.process_time() - began

    run(5)
    each = run(40)[1] / 40
    made, took = run(max(1, round(seconds / each)))
    return made.averaged_field(), made.step, took


class Turned(nn.Module):
    """A network as the peer calls it: for `MeanFlow` from noise at t = 1, with a width of time."""

    def __init__(self, net: nn.Module, turned: bool) -> None:
        super().__init__()
        self.net, self.turned = net, turned

    def forward(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """The prediction of the peer."""
        if self.turned:
            return -self.net(1 - first, 1 - first + second, x)
        return self.net(first, second, x)


def of_peer(
    method: str, x: Tensor, seed: int, seconds: float, folder: Path
) -> tuple[tpf.Field, int, float]:
    """The map of a peer's loss, as one of ours, so that it is sampled alike."""
    module, name = PEERS[method]
    where = folder / "rectified_flow_pytorch" / f"{module}.py"
    spec = importlib.util.spec_from_file_location(module, where)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)

    def run(steps: int) -> tuple[maps.FlowMap, float]:
        draws = torch.Generator().manual_seed(seed)
        net = tpf.networks.MLP(2, 128, 4, frequencies=2, vectors={"stop": 9}, generator=draws)
        two = maps.TwoTimes(net)
        loss = getattr(loaded, name)(Turned(two, name == "MeanFlow"), data_shape=(2,))
        parameters = list(two.parameters())
        optimizer = torch.optim.Adam(parameters, 2e-3, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        averages = [p.detach().clone() for p in parameters]
        torch.manual_seed(seed)
        began = time.process_time()
        for _ in range(steps):
            optimizer.zero_grad()
            loss(x[torch.randint(len(x), (512,))]).backward()
            optimizer.step()
            schedule.step()
            torch._foreach_lerp_(averages, parameters, 1e-3)
        took = time.process_time() - began
        with torch.no_grad():
            torch._foreach_copy_(parameters, averages)
        return maps.FlowMap(two, PROCESS), took

    run(5)
    each = run(40)[1] / 40
    steps = max(1, round(seconds / each))
    found, took = run(steps)
    return found, steps, took


def measure(
    task: str, method: str, seed: int, seconds: float, folder: Path | None
) -> list[list[object]]:
    """Rows of the file."""
    x = drawn(task, 10_000, seed)
    if method == "two phases":
        teacher, first, spent = fitted("field", x, seed, 0.4 * seconds)
        found, second, more = fitted(method, x, seed, 0.6 * seconds, teacher)
        steps, took = first + second, spent + more
    elif method in PEERS:
        assert folder is not None
        found, steps, took = of_peer(method, x, seed, seconds, folder)
    else:
        found, steps, took = fitted(method, x, seed, seconds)
    sets = [drawn(task, POINTS, 1_000 + 10 * seed + k) for k in range(4)]
    floor = statistics.mean(tpf.metrics.wasserstein2(sets[3], one) for one in sets[:3])
    rows: list[list[object]] = []
    for jumps in (100,) if method == "field" else (1, 2, 4):
        values = []
        for k, one in enumerate(sets[:3]):
            draws = torch.Generator().manual_seed(2_000 + k)
            end = tpf.sample(found, POINTS, steps=jumps, generator=draws).x
            values.append(tpf.metrics.wasserstein2(end, one))
        value = statistics.mean(values)
        rows.append(
            [task, method, seed, f"{took:.1f}", steps, jumps, f"{value:.5f}", f"{floor:.5f}"]
        )
    return rows


def report() -> str:
    """The tables of what is kept."""
    text, rows = [header(__doc__)], ROWS.rows()
    for task in LAWS:
        base = {
            row["seed"]: float(row["w2"])
            for row in rows if row["task"] == task and row["method"] == "field"
        }  # fmt: skip
        lines = []
        for method in (*METHODS, *PEERS):
            for jumps in ("100", "1", "2", "4"):
                own = [
                    row for row in rows
                    if (row["task"], row["method"], row["jumps"]) == (task, method, jumps)
                ]  # fmt: skip
                if not own:
                    continue
                values, floors = [[float(row[k]) for row in own] for k in ("w2", "floor")]
                ratios = [v / base[r["seed"]] for v, r in zip(values, own, strict=True)]
                excess = [max(v**2 - f**2, 0) ** 0.5 for v, f in zip(values, floors, strict=True)]
                mean = statistics.mean
                lines.append(
                    [
                        method, jumps, str(len(own)), f"{mean(int(r['steps']) for r in own):,.0f}",
                        f"{mean(values):.3f}", f"{mean(floors):.3f}",
                        f"{mean(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
                        f"{mean(excess):.3f}",
                    ]
                )  # fmt: skip
        head = ["method", "jumps", "seeds", "steps", "W2", "floor", "ratio", "excess"]
        text.append(f"## {task}\n\n{table(head, lines)}\n")
    return "\n".join(text)


def main() -> None:
    """Measure what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--report", action="store_true", help="make the tables anew, measure nothing"
    )
    parser.add_argument("--peer", type=Path, help="a folder with the wheels of the peer, unpacked")
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = list(METHODS)
    if options.peer:
        sys.path.insert(0, str(options.peer))
        methods += PEERS
    for seed in range(0 if options.report else 1 if options.quick else options.seeds):
        for task in LAWS:
            for method in methods:
                if not options.quick and ROWS.rows(task=task, method=method, seed=seed):
                    continue
                seconds = 1.0 if options.quick else options.seconds
                rows = measure(task, method, seed, seconds, options.peer)
                for row in rows:
                    print(*row, flush=True)
                if not options.quick:
                    ROWS.add(*rows)
    if not options.quick:
        (FOLDER / "flow_maps_data.md").write_text(report())


if __name__ == "__main__":
    main()
