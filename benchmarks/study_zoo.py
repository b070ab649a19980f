"""The whole zoo: every method of the library, same data, same size of network, same time.

Two problems: *modes*, eight of deviation .2 on a circle of radius 2 (20,000 draws to train on), and
*digits*, 8 x 8 as 64 numbers (1,438 to train on, 359 held out). Every method has an MLP of 4 x 128
(4 x 256 for digits), Adam at 1e-3 with a cosine, averages of .999, batches of 256, and the same
processor time of one thread (``--seconds``, of which the number of steps follows); pairs of fields
have two networks in that time, a bridge and minibatch transport their plans. Particle flows are not
trained: they move noise to the training data themselves.

Quality is the energy distance to held-out draws (digits: twice as many samples as are held out),
times 1e3, for several numbers of calls of the network (steps, for particles); floor: of
training data. One-sided fields are solved by dpm2m, VE on Karras's grid; those with other ends or a
latent by Heun (Euler in one call), pairs also by the SDE, ε = 1; chains by ancestral sampling;
NCSN by annealed Langevin, 10 levels. The mirror starts at the training data, and so has their law
before it moves.

Run ``python benchmarks/study_zoo.py [--seconds 4 15 60] [--seeds 1]``, for a minute with
``--quick``. What was measured is kept in results/study_zoo.csv, and a run goes on from there;
results/study_zoo.md and .png are made of it (``--report`` alone).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import Kept, header, seeded, table
from transportflows import exam, maps, particles

FOLDER = Path(__file__).parent / "results"
ROWS = Kept(
    FOLDER / "study_zoo.csv",
    ("problem", "method", "budget", "seed", "calls", "energy", "steps", "seconds"),
)
CALLS = (1, 2, 4, 10, 20, 50, 100)
Sampler = Callable[[int, int, torch.Generator], "Tensor | None"]


@dataclass
class Problem:
    """Data to train on and held-out ones, in units of 1, and the size of a network."""

    train: Tensor
    held: Tensor
    width: int

    @property
    def d(self) -> int:
        """Numbers of an event."""
        return self.train.shape[1]

    def net(self, seed: int, **how: Any) -> tpf.networks.MLP:
        """A network."""
        return tpf.networks.MLP(self.d, self.width, 4, generator=seeded(seed, 1), **how)


def modes() -> Problem:
    """Eight modes."""
    law = exam.LAWS["modes"]()
    parts = [law.sample(n, generator=seeded(n), dtype=torch.float32) for n in (20_000, 5_000)]
    return Problem(parts[0], parts[1], 128)


def digits() -> Problem:
    """Digits of 8 x 8, in [-1, 1] times the square root of 2."""
    small, left = tpf.datasets.digits(flatten=True).split(generator=seeded(0))
    return Problem(small.images, left.images, 256)


PROBLEMS = {"modes": modes, "digits": digits}


class Training:
    """Fits for a given processor time."""

    def __init__(self, problem: Problem, seconds: float, seed: int) -> None:
        self.problem, self.seconds, self.seed, self.steps = problem, seconds, seed, 0

    def fit(
        self, make: Callable[[], tuple[tpf.Field, Any]], share: float = 1.0, data: Any = None
    ) -> tpf.Field:
        """The field of averages."""

        def run(steps: int) -> tuple[tpf.Field, float]:
            field, loss = make()
            trainer = tpf.Trainer(field, loss, lr=1e-3, scheduler="cosine", ema=0.999)
            began = time.process_time()
            trainer.fit(
                self.problem.train if data is None else data, steps=steps, batch_size=256,
                progress=False, generator=seeded(self.seed, 2),
            )  # fmt: skip
            return trainer.averaged_field(), time.process_time() - began

        run(3)
        each = run(12)[1] / 12
        steps = max(1, round(share * self.seconds / each))
        self.steps += steps
        return run(steps)[0]


def few_steps(field: tpf.Field, grid: bool = False) -> Sampler:
    """By dpm2m, one call a step."""

    def draw(calls: int, n: int, draws: torch.Generator) -> Tensor:
        how: dict[str, Any] = {"steps": calls}
        if grid and calls > 1:
            how = {"t": tpf.solve.noise_grid(field.process, calls, spacing="karras")}
        return tpf.sample(field, n, scheme="dpm2m", generator=draws, **how).x

    return draw


def one_step_schemes(field: tpf.Field, epsilon: float = 0.0, start: Any = None) -> Sampler:
    """By Heun, Euler in one call."""

    def draw(calls: int, n: int, draws: torch.Generator) -> Tensor | None:
        if (epsilon and calls < 2) or (field.breakpoints and calls < 4):
            return None
        scheme, steps = ("euler", 1) if calls == 1 else ("heun", calls // 2)
        first = None if start is None else start(n, draws)
        return tpf.sample(
            field, n, start=first, epsilon=epsilon, scheme=scheme, steps=steps, generator=draws
        ).x

    return draw


def process_of(path: Any, d: int, **how: Any) -> tpf.Process:
    """With a Gaussian base where the path has one."""
    if isinstance(path, (tpf.OneSided, tpf.Mirror)):
        return tpf.Process(path, shape=(d,))
    return tpf.Process(path, base=tpf.Gaussian((d,)), **how)


def velocity(path: Any, **how: Any) -> Callable[[Training], dict[str, Sampler]]:
    """A velocity on a path."""

    def make(training: Training) -> dict[str, Sampler]:
        p = training.problem
        process = process_of(path(), p.d, **how)
        field = training.fit(lambda: (tpf.Velocity(p.net(training.seed), process), None))
        plain = process.coupling.independent and not isinstance(path(), tpf.EncoderDecoder)
        return {"": few_steps(field) if plain else one_step_schemes(field)}

    return make


def noise(path: Any) -> Callable[[Training], dict[str, Sampler]]:
    """A noise prediction on a diffusion."""

    def make(training: Training) -> dict[str, Sampler]:
        p = training.problem
        process = process_of(path(), p.d)
        field = training.fit(lambda: (tpf.NoisePredictor(p.net(training.seed), process), None))
        reverse = tpf.solve.AndersonEpsilon()

        def by_sde(calls: int, n: int, draws: torch.Generator) -> Tensor | None:
            if calls < 4:
                return None
            return tpf.sample(
                field, n, epsilon=reverse, scheme="heun", steps=calls // 2, generator=draws
            ).x

        return {"": few_steps(field), "reverse SDE": by_sde}

    return make


def edm(training: Training) -> dict[str, Sampler]:
    """The preconditioned data prediction on VE."""
    p = training.problem
    process = process_of(tpf.VE(0.01, 20.0), p.d)
    scale = float(p.train.std(0).mean())

    def make() -> tuple[tpf.Field, Any]:
        field = tpf.EDM(p.net(training.seed), process, sigma_data=scale)
        weight = tpf.losses.EDMWeight(scale)
        return field, tpf.DataLoss(weight=weight, times=tpf.times.EDMTimes())

    return {"": few_steps(training.fit(make), grid=True)}


def chain(training: Training) -> dict[str, Sampler]:
    """DDPM."""
    p = training.problem
    process = process_of(tpf.sdes.DDPMChain(), p.d)
    field = training.fit(lambda: (tpf.NoisePredictor(p.net(training.seed), process), None))

    def draw(calls: int, n: int, draws: torch.Generator) -> Tensor | None:
        if calls < 2:
            return None
        times = process.interpolant.times(calls)
        return tpf.sample(field, n, scheme=tpf.samplers.Ancestral(), t=times, generator=draws).x

    return {"": draw}


def ncsn(training: Training) -> dict[str, Sampler]:
    """Noise-conditional scores, and annealed Langevin."""
    p = training.problem
    process = process_of(tpf.sdes.VEChain(0.02, 10.0), p.d)
    field = training.fit(lambda: (tpf.NoisePredictor(p.net(training.seed), process), None))

    def draw(calls: int, n: int, draws: torch.Generator) -> Tensor | None:
        if calls < 20:
            return None
        return tpf.langevin.annealed_langevin(
            field, n, levels=10, steps_per_level=calls // 10, step_size=0.3, generator=draws
        ).x

    return {"": draw}


def pair(path: Any) -> Callable[[Training], dict[str, Sampler]]:
    """Velocity and noise."""

    def make(training: Training) -> dict[str, Sampler]:
        p = training.problem
        process = process_of(path(), p.d)
        field = training.fit(
            lambda: (
                tpf.FieldPair(
                    velocity=p.net(training.seed), noise=p.net(training.seed + 1), process=process
                ),
                None,
            )
        )
        return {"ODE": one_step_schemes(field), "SDE": one_step_schemes(field, 1.0)}

    return make


def mirror(training: Training) -> dict[str, Sampler]:
    """From the data to the data."""
    p = training.problem
    process = process_of(tpf.Mirror(tpf.Brownian(4.0)), p.d)
    field = training.fit(lambda: (tpf.NoisePredictor(p.net(training.seed), process), None))

    def start(n: int, draws: torch.Generator) -> Tensor:
        return p.train[torch.randint(len(p.train), (n,), generator=draws)]

    return {"SDE, ε = 4": one_step_schemes(field, 4.0, start)}


def bridge(training: Training) -> dict[str, Sampler]:
    """Both drifts of the bridge on the entropic plan."""
    p, draws = training.problem, seeded(training.seed, 3)
    few = p.train[:5_000]
    began = time.process_time()
    x0 = torch.randn(len(few), p.d, generator=draws)
    plan = tpf.couplings.TransportPlan(x0, few, regularisation=1.0)
    pairs = plan.sample(20_000, generator=draws)
    training.seconds -= time.process_time() - began
    process = process_of(tpf.Linear(tpf.Brownian(0.5)), p.d, coupling=tpf.Paired())
    field = training.fit(
        lambda: (
            tpf.bridges.BridgeDrift(
                forward=p.net(training.seed), backward=p.net(training.seed + 1), process=process
            ),
            None,
        ),
        data=pairs,
    )
    return {"ODE": one_step_schemes(field), "SDE": one_step_schemes(field, 0.25)}


def flow(
    direction: Callable[[], particles.Direction] | None,
) -> Callable[[Training], dict[str, Sampler]]:
    """Particles that move to the training data."""

    def make(training: Training) -> dict[str, Sampler]:
        p = training.problem
        near = float(tpf.metrics.nearest_distances(p.train[:2_000], p.train[:2_000],
                                                   exclude_self=True)[0].median())  # fmt: skip
        low = max(near, 0.1)
        sigma = particles.CosineSigma(max(2.0, 5 * low), low)

        def draw(calls: int, n: int, draws: torch.Generator) -> Tensor:
            x0 = torch.randn(n, p.d, generator=draws)
            made = None if direction is None else direction()
            return tpf.particle_flow(
                x0, p.train[:5_000], direction=made, steps=calls, sigma=sigma, generator=draws
            ).x

        return {"": draw}

    return make


class AtZero(nn.Module):
    """A network of (t, x) at t = 0."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """The sample."""
        return self.net(torch.zeros((), dtype=x.dtype), x)


def generator(training: Training) -> dict[str, Sampler]:
    """A generator of one call, moved by the SD flow."""
    p = training.problem
    few = p.train[:2_000]
    near = float(tpf.metrics.nearest_distances(few, few, exclude_self=True)[0].median())

    def make() -> tuple[tpf.Field, Any]:
        loss = particles.MovedTargetLoss(
            sigma=[near, 3 * near, 10 * near], references=1_024, target=p.train
        )
        return particles.OneStepGenerator(AtZero(p.net(training.seed)), p.d), loss

    made = training.fit(make)

    def draw(calls: int, n: int, draws: torch.Generator) -> Tensor | None:
        return made.sample(n, generator=draws) if calls == 1 else None  # type: ignore[attr-defined]

    return {"": draw}


def likelihood(training: Training) -> dict[str, Sampler]:
    """A continuous normalising flow by maximum likelihood: four RK4 steps, one probe."""
    p = training.problem
    process = process_of(tpf.Linear(), p.d)

    def loss(field: tpf.Field, batch: Any, draws: torch.Generator) -> Tensor:
        x = batch.x1 if isinstance(batch, tpf.Batch) else batch
        found = tpf.log_likelihood(
            field, x, divergence="hutchinson", probes=1, scheme="rk4", steps=4, gradients=True,
            adjoint=False, generator=draws,
        )  # fmt: skip
        return -found.log_prob

    field = training.fit(lambda: (tpf.Velocity(p.net(training.seed), process), loss))
    return {"": one_step_schemes(field)}


def flow_map(loss: Callable[[], Any]) -> Callable[[Training], dict[str, Sampler]]:
    """A flow map from the data alone."""

    def make(training: Training) -> dict[str, Sampler]:
        p, one = training.problem, loss()
        process = process_of(tpf.Linear(), p.d)

        def fresh() -> tuple[tpf.Field, Any]:
            net = maps.TwoTimes(p.net(training.seed, frequencies=2, vectors={"stop": 9}))
            to_data = isinstance(one, maps.ConsistencyLoss)
            return maps.FlowMap(net, process, to_data=to_data), one

        made = training.fit(fresh)

        def draw(calls: int, n: int, draws: torch.Generator) -> Tensor:
            return tpf.sample(made, n, steps=calls, generator=draws).x

        return {"": draw}

    return make


def distilled(training: Training) -> dict[str, Sampler]:
    """A velocity for two fifths of the time, and a map taught by it."""
    p = training.problem
    process = process_of(tpf.Linear(), p.d)
    field = training.fit(
        lambda: (tpf.Velocity(p.net(training.seed, frequencies=2), process), None), 0.4
    )

    def fresh() -> tuple[tpf.Field, Any]:
        student = maps.two_times.student_network(field.net)  # type: ignore[attr-defined]
        return maps.FlowMap(student, process), maps.SemigroupLoss(field)

    made = training.fit(fresh, 0.6)

    def draw(calls: int, n: int, draws: torch.Generator) -> Tensor:
        return tpf.sample(made, n, steps=calls, generator=draws).x

    return {"": draw}


METHODS: dict[str, Callable[[Training], dict[str, Sampler]]] = {
    "velocity, linear": velocity(tpf.Linear),
    "velocity, trigonometric": velocity(tpf.Trigonometric),
    "velocity, encoder-decoder": velocity(tpf.EncoderDecoder),
    "velocity, one-sided linear": velocity(tpf.OneSidedLinear),
    "velocity, minibatch transport": velocity(tpf.Linear, coupling=tpf.MinibatchOT()),
    "(b, η), linear with latent": pair(lambda: tpf.Linear(tpf.Brownian())),
    "bridge, two drifts": bridge,
    "mirror": mirror,
    "noise, VP": noise(tpf.VP),
    "noise, sub-VP": noise(tpf.SubVP),
    "EDM, VE": edm,
    "DDPM, ancestral": chain,
    "NCSN, annealed Langevin": ncsn,
    "CNF, maximum likelihood": likelihood,
    "flow map, semigroup": flow_map(maps.SemigroupLoss),
    "flow map, Lagrangian": flow_map(maps.LagrangianLoss),
    "MeanFlow": flow_map(maps.MeanFlowLoss),
    "consistency training": flow_map(maps.ConsistencyLoss),
    "flow map, distilled": distilled,
    "SD flow (particles)": flow(None),
    "MMD flow (particles)": flow(particles.MMDGradient),
    "SD generator": generator,
}


def energy(problem: Problem, x: Tensor) -> float:
    """To held-out data."""
    return 1e3 * tpf.metrics.energy_distance(x, problem.held)


def rows_of(name: str, problem: str, seconds: float, seed: int, n: int) -> list[tuple[Any, ...]]:
    """One method: trained once, sampled in all ways."""
    of = PROBLEMS[problem]()
    began = time.process_time()
    training = Training(of, seconds, seed)
    samplers, rows = METHODS[name](training), []
    took = time.process_time() - began
    for way, draw in samplers.items():
        told = f"{name}: {way}" if way else name
        for calls in CALLS:
            with torch.no_grad():
                x = draw(calls, n, seeded(seed, 5))
            if x is None:
                continue
            value = energy(of, x) if bool(x.isfinite().all()) else float("inf")
            rows.append((problem, told, seconds, seed, calls, value, training.steps, f"{took:.1f}"))
    return rows


def samples_of(problem: str) -> int:
    """How many are drawn."""
    return 5_000 if problem == "modes" else 2 * 359


def report() -> str:
    """The tables of what is kept."""
    text = [header(__doc__)]
    for problem in PROBLEMS:
        floor = [float(row["energy"]) for row in ROWS.rows(problem=problem, method="floor")]
        if not floor:
            continue
        text.append(f"## {problem}\n\nFloor: {statistics.mean(floor):.2f}.\n")
        for budget in dict.fromkeys(row["budget"] for row in ROWS.rows(problem=problem)):
            kept = ROWS.rows(problem=problem, budget=budget)
            lines = []
            for name in dict.fromkeys(row["method"] for row in kept):
                own = [row for row in kept if row["method"] == name]
                if name == "floor":
                    continue
                cells = []
                for calls in CALLS:
                    found = [float(row["energy"]) for row in own if row["calls"] == str(calls)]
                    cells.append(f"{statistics.mean(found):.2f}" if found else "")
                lines.append([name, f"{int(own[0]['steps']):,}", *cells])
            if lines:
                head = ["method", "training steps", *(f"{calls} calls" for calls in CALLS)]
                text.append(f"### {budget} s of training\n\n{table(head, lines)}\n")
    return "\n".join(text)


def draw_all(path: Path) -> None:
    """Quality against calls, and the best of each method against training time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    panels = figure.subplots(2, 2)
    names = list(dict.fromkeys(r["method"] for r in ROWS.rows() if r["method"] != "floor"))
    handles = {}
    for i, problem in enumerate(PROBLEMS):
        kept = [row for row in ROWS.rows(problem=problem) if row["method"] != "floor"]
        if not kept:
            continue
        budgets = sorted({float(row["budget"]) for row in kept})
        floor = [float(row["energy"]) for row in ROWS.rows(problem=problem, method="floor")]
        for name in dict.fromkeys(row["method"] for row in kept):
            k = names.index(name)
            colour, mark = f"C{k % 10}", "os^vDP*X"[k // 10]
            own = [row for row in kept if row["method"] == name]
            most = [row for row in own if float(row["budget"]) == budgets[-1]]
            calls = sorted({int(row["calls"]) for row in most})
            values = [
                statistics.mean(float(row["energy"]) for row in most if int(row["calls"]) == c)
                for c in calls
            ]
            (handles[name],) = panels[i][0].plot(calls, values, marker=mark, color=colour, lw=1)
            best = [
                min(float(row["energy"]) for row in own if float(row["budget"]) == b)
                for b in budgets
                if any(float(row["budget"]) == b for row in own)
            ]
            panels[i][1].plot(budgets[: len(best)], best, marker=mark, color=colour, lw=1)
        for ax, what in zip(panels[i], ("calls", "seconds of training"), strict=True):
            ax.set(xscale="log", yscale="log", xlabel=what, title=f"{problem}: energy x 1e3")
            ax.axhline(statistics.mean(floor), color="0.5", lw=1)
    figure.legend(handles.values(), handles.keys(), loc="outside right", fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure what is missing, and write tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    parser.add_argument("--seconds", type=float, nargs="+", default=[4.0, 15.0, 60.0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--report", action="store_true", help="tables and figure alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        for name in options.methods:
            rows = rows_of(name, "modes", 0.1, 0, 100)
            print(f"{name}: {len(rows)} rows", flush=True)
        return
    for problem in () if options.report else options.problems:
        if not ROWS.rows(problem=problem, method="floor"):
            of = PROBLEMS[problem]()
            for k in range(4):
                rows = torch.randperm(len(of.train), generator=seeded(6, k))
                few = of.train[rows[: min(samples_of(problem), len(rows) // 2)]]
                ROWS.add((problem, "floor", "", k, "", energy(of, few), "", ""))
        for seed in range(options.seeds):
            for seconds in options.seconds:
                for name in options.methods:
                    of_this = ROWS.rows(problem=problem, budget=seconds, seed=seed)
                    if any(row["method"].startswith(name) for row in of_this):
                        continue
                    rows = rows_of(name, problem, seconds, seed, samples_of(problem))
                    ROWS.add(*rows)
                    print(problem, name, seconds, rows[-1][5], flush=True)
                    (FOLDER / "study_zoo.md").write_text(report())
    (FOLDER / "study_zoo.md").write_text(report())
    draw_all(FOLDER / "study_zoo.png")


if __name__ == "__main__":
    main()
