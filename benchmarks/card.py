"""What a card shows: the tests of CUDA, then the costs of sampling, training, particles, metrics.

One script for a machine with a card, at most eight minutes from Python with torch, scipy, POT,
torchdiffeq and pytest. Each part is a process of its own with a time limit, the most valuable
first; what fails or takes too long is told, and the others go on. Every row is written at once:

- *tests*: tests/test_cuda.py;
- *sampling*: 50 Euler steps, of an MLP of 4 x 256 with 100,000 rows and of a U-Net on 1 x 32 x 32
  with 256, over as many calls of the network replayed from a CUDA graph, all rows in each (asked:
  at most 1.05), and over the same calls made by Python; whether anything waited for the card
  (``torch.cuda.set_sync_debug_mode``); peak memory;
- *training*: a step of `Trainer.fit` (MLP of 4 x 256, 4,096 rows; U-Net, 128; averages, history)
  over a captured graph of forward, backward and fused Adam (asked: at most 1.10), and over the same
  made by Python;
- *particles*: a step of the SD flow, 100,000 on 100,000 in two dimensions (asked: at most .3 s);
- *entropic*: W2 at 10,000 + 10,000 points, ε = .001, d = 2, 10 (asked: at most 1 s), and exact W2;
- *peers*: the MLP's solve by torchdiffeq, and by flow_matching where it is there;
- *half*: the MLP and the U-Net in bfloat16 with states in float32, over float32.

Times are medians of rounds in which all take turns. Run ``python benchmarks/card.py``;
``--dry-run`` tries all of it on the CPU at tiny sizes, in some seconds a part; ``--part NAME`` one
part in this process. Results: results/card.md, or card.md in the folder of ``--out``.

(A script of the name cuda.py would hide the package cuda, which torch imports, from all scripts of
this folder.)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import transportflows as tpf
from _common import table

ROOT = Path(__file__).parents[1]
LIMITS = {  # seconds of each part, in the order in which they run
    "tests": 180,
    "sampling": 75,
    "training": 75,
    "particles": 30,
    "entropic": 60,
    "peers": 45,
    "half": 45,
}
Row = tuple[str, str, str]  # what, the figure, what is asked


class Card:
    """A card, or the CPU in its place."""

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda")

    def size(self, full: int, small: int) -> int:
        """A size, or a tiny one."""
        return small if self.dry else full

    def wait(self) -> None:
        """Until the work given is done."""
        if not self.dry:
            torch.cuda.synchronize()

    def seconds(self, blocks: dict[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
        """Median of each block, all taking turns after one warm-up each."""
        for block in blocks.values():
            block()
        found: dict[str, list[float]] = {name: [] for name in blocks}
        for _ in range(2 if self.dry else rounds):
            for name, block in blocks.items():
                self.wait()
                began = time.perf_counter()
                block()
                self.wait()
                found[name].append(time.perf_counter() - began)
        return {name: statistics.median(values) for name, values in found.items()}

    def replayed(self, work: Callable[[], object], times: int) -> Callable[[], None]:
        """Some work captured in a CUDA graph and replayed; on the CPU, made again."""
        if self.dry:
            return lambda: [work() for _ in range(times)] and None
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()

        def replay() -> None:
            for _ in range(times):
                graph.replay()

        return replay

    def seeded(self) -> torch.Generator:
        """Of the device."""
        return torch.Generator(self.device).manual_seed(0)


def cases(card: Card) -> dict[str, tuple[torch.nn.Module, tuple[int, ...], int, int]]:
    """By name: a network, its event, rows to sample and rows of a training step."""
    draws = torch.Generator().manual_seed(0)
    mlp = tpf.networks.MLP(2, card.size(256, 16), 4, generator=draws)
    side = card.size(32, 8)
    unet = tpf.networks.UNet(
        (1, side, side), width=card.size(64, 8), multipliers=(1, 2), blocks=1, generator=draws
    )
    return {
        "MLP 4 x 256": (
            mlp.to(card.device), (2,), card.size(100_000, 200), card.size(4_096, 64)
        ),
        "U-Net 32 x 32": (
            unet.to(card.device), (1, side, side), card.size(256, 4), card.size(128, 4)
        ),
    }  # fmt: skip


def field_of(net: torch.nn.Module, event: tuple[int, ...]) -> tpf.Velocity:
    """On the linear path."""
    return tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian(event)))


def sampling(card: Card) -> list[Row]:
    """A solve over its calls."""
    rows: list[Row] = []
    steps = card.size(50, 3)
    for name, (net, event, n, _) in cases(card).items():
        field = field_of(net.eval(), event)
        x = torch.randn(n, *event, device=card.device, generator=card.seeded())
        t = torch.full((), 0.5, device=card.device)

        def solve(field: tpf.Field = field, x: torch.Tensor = x, **how: object) -> torch.Tensor:
            return tpf.sample(field, start=x, scheme="euler", steps=steps, **how).x  # type: ignore[arg-type]

        def call(net: torch.nn.Module = net, t: torch.Tensor = t, x: torch.Tensor = x) -> object:
            with torch.no_grad():
                return net(t, x)

        def calls(call: Callable[[], object] = call) -> None:
            for _ in range(steps):
                call()

        if not card.dry:
            torch.cuda.reset_peak_memory_stats()
        found = card.seconds({"ours": solve, "replay": card.replayed(call, steps), "calls": calls})
        each = 1e3 * found["ours"] / steps
        over = found["ours"] / found["replay"]
        rows += [
            (f"{name}, {n:,} rows: a step", f"{each:.3f} ms", ""),
            (f"{name}: over a graph's replay", f"{over:.3f}", "1.05"),
            (f"{name}: over the calls", f"{found['ours'] / found['calls']:.3f}", ""),
        ]
        if card.dry:
            continue
        rows.append(
            (f"{name}: peak memory", f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB", "")
        )
        for epsilon in (0.0, 0.5):
            told = "none"
            torch.cuda.set_sync_debug_mode("error")
            try:
                tpf.sample(
                    field, start=x, epsilon=epsilon, scheme="heun", steps=4, generator=card.seeded()
                )
            except RuntimeError as error:
                told = str(error).splitlines()[0]
            finally:
                torch.cuda.set_sync_debug_mode("default")
            rows.append((f"{name}, ε = {epsilon:g}: first wait in a whole call", told, "none"))
    return rows


def training(card: Card) -> list[Row]:
    """A step over its floor."""
    rows: list[Row] = []
    steps = card.size(200, 3)
    for name, (net, event, _, batch) in cases(card).items():
        field = field_of(net.train(), event)
        data = torch.randn(card.size(20_000, 200), *event, device=card.device)
        trainer = tpf.Trainer(field, lr=1e-3, ema=0.999)

        def fit(
            trainer: tpf.Trainer = trainer, data: torch.Tensor = data, batch: int = batch
        ) -> None:
            trainer.fit(
                data, steps=steps, batch_size=batch, progress=False, generator=card.seeded()
            )

        twin = cases(card)[name][0].train()
        fused = {} if card.dry else {"fused": True, "capturable": True}
        optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, **fused)  # type: ignore[arg-type]
        x = torch.randn(batch, *event, device=card.device)
        t, target = torch.rand(batch, device=card.device), torch.randn_like(x)

        def step(
            twin: torch.nn.Module = twin, optimizer: torch.optim.Optimizer = optimizer,
            x: torch.Tensor = x, t: torch.Tensor = t, target: torch.Tensor = target,
        ) -> None:  # fmt: skip
            optimizer.zero_grad(set_to_none=False)
            (twin(t, x) - target).square().mean().backward()
            optimizer.step()

        def by_python(step: Callable[[], None] = step) -> None:
            for _ in range(steps):
                step()

        found = card.seconds(
            {"ours": fit, "replay": card.replayed(step, steps), "calls": by_python}, rounds=3
        )
        rows += [
            (f"{name}, {batch:,} rows: a step", f"{1e3 * found['ours'] / steps:.3f} ms", ""),
            (f"{name}: over a graph's replay", f"{found['ours'] / found['replay']:.3f}", "1.10"),
            (f"{name}: over the same by Python", f"{found['ours'] / found['calls']:.3f}", ""),
        ]
    return rows


def particles(card: Card) -> list[Row]:
    """A step of the SD flow."""
    n, steps = card.size(100_000, 300), card.size(4, 2)
    draws = card.seeded()
    y = torch.randn(n, 2, device=card.device, generator=draws)
    x = y + 1

    def move() -> object:
        return tpf.particle_flow(y, x, steps=steps, sigma=0.5, step=0.1, generator=draws)

    each = card.seconds({"ours": move}, rounds=3)["ours"] / steps
    return [(f"SD flow, {n:,} on {n:,}: a step", f"{each:.3f} s", "0.3")]


def entropic(card: Card) -> list[Row]:
    """W2 between samples that are on the card."""
    rows: list[Row] = []
    n = card.size(10_000, 100)
    for d in (2, 10):
        draws = card.seeded()
        x = torch.randn(n, d, device=card.device, generator=draws)
        y = torch.randn(n, d, device=card.device, generator=draws) + 0.1
        for name, work in {
            "entropic W2": lambda x, y: tpf.metrics.entropic_wasserstein2(x, y, epsilon=1e-3),
            "exact W2": tpf.metrics.wasserstein2,
            "energy distance": tpf.metrics.energy_distance,
        }.items():
            work(x[:50], y[:50])  # what is imported and built at the first call
            card.wait()
            began = time.perf_counter()
            work(x, y)
            card.wait()
            took = time.perf_counter() - began
            asked = "1" if name == "entropic W2" else ""
            rows.append((f"{name}, {n:,} points, d = {d}", f"{took:.2f} s", asked))
    return rows


def peers(card: Card) -> list[Row]:
    """The same solve by others."""
    from torchdiffeq import odeint

    name = "MLP 4 x 256"
    net, event, n, _ = cases(card)[name]
    net.eval()
    steps = card.size(50, 3)
    x = torch.randn(n, *event, device=card.device, generator=card.seeded())
    grid = torch.linspace(0, 1, steps + 1, device=card.device)
    field = field_of(net, event)

    @torch.no_grad()
    def by_torchdiffeq() -> object:
        return odeint(lambda t, x: net(t, x), x, grid, method="euler")[-1]

    blocks: dict[str, Callable[[], object]] = {
        "ours": lambda: tpf.sample(field, start=x, scheme="euler", steps=steps),
        "torchdiffeq": by_torchdiffeq,
    }
    try:
        from flow_matching.solver import ODESolver
        from flow_matching.utils import ModelWrapper
    except ImportError:
        pass
    else:

        class Wrapped(ModelWrapper):
            def forward(self, x: torch.Tensor, t: torch.Tensor, **extras: object) -> torch.Tensor:
                """The network."""
                return net(t, x)

        solver = ODESolver(velocity_model=Wrapped(net))
        blocks["flow_matching"] = lambda: solver.sample(
            x_init=x, method="euler", step_size=1 / steps, time_grid=grid[[0, -1]]
        )
    found = card.seconds(blocks)
    return [
        (f"{name}, {n:,} rows, {steps} steps: {who}", f"{1e3 * value:.2f} ms", "")
        for who, value in found.items()
    ]


def half(card: Card) -> list[Row]:
    """Networks in bfloat16."""
    rows: list[Row] = []
    steps = card.size(50, 3)
    for name, (net, event, n, _) in cases(card).items():
        low = cases(card)[name][0].to(torch.bfloat16).eval()
        whole, other = field_of(net.eval(), event), field_of(low, event)
        x = torch.randn(n, *event, device=card.device, generator=card.seeded())
        found = card.seconds(
            {
                "float32": lambda f=whole, x=x: tpf.sample(f, start=x, steps=steps, scheme="euler"),
                "bfloat16": lambda f=other, x=x: tpf.sample(
                    f, start=x, steps=steps, scheme="euler"
                ),
            }
        )
        rows.append(
            (f"{name}: bfloat16 over float32", f"{found['bfloat16'] / found['float32']:.3f}", "")
        )
    return rows


def tests(card: Card) -> list[Row]:
    """The tests of CUDA, in a process of their own."""
    if card.dry:
        return [("tests/test_cuda.py", "not run without a card", "passed")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_cuda.py"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
    return [
        ("tests/test_cuda.py", " / ".join([lines[-1] if lines else done.stderr, *failed]), "passed")
    ]


PARTS: dict[str, Callable[[Card], list[Row]]] = {
    "tests": tests,
    "sampling": sampling,
    "training": training,
    "particles": particles,
    "entropic": entropic,
    "peers": peers,
    "half": half,
}


def in_a_process(part: str, dry: bool) -> list[Row]:
    """The rows of a part, or why there are none."""
    command = [sys.executable, __file__, "--part", part, *(["--dry-run"] if dry else [])]
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=LIMITS[part],
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [(part, f"was not done in {LIMITS[part]} s", "")]
    if done.returncode:
        last = done.stderr.strip().splitlines()[-3:]
        return [(part, f"failed: {' / '.join(last)}", "")]
    return [tuple(row) for row in json.loads(done.stdout.splitlines()[-1])]  # type: ignore[misc]


def main() -> None:
    """All parts, each row written as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at tiny sizes")
    parser.add_argument("--part", choices=PARTS, help="in this process")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](Card(options.dry_run))))
        return
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("no card on this machine; --dry-run tries the script without one")
    name = "the CPU, tiny sizes" if options.dry_run else torch.cuda.get_device_name()
    head = f"# On a card\n\n{name}; torch {torch.__version__}, transportflows {tpf.__version__}.\n"
    options.out.mkdir(parents=True, exist_ok=True)
    lines: list[list[str]] = []
    for part in PARTS:
        began = time.perf_counter()
        for row in in_a_process(part, options.dry_run):
            lines.append([part, *row])
            print(" | ".join(lines[-1]), flush=True)
        text = f"{head}\n{table(['part', 'what', 'measured', 'asked'], lines)}\n\n{__doc__}"
        (options.out / "card.md").write_text(text)
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
