"""Few-step sampling: orders, calls until a path is right, and peers on the same grids.

The exact field of 25 narrow modes (5 x 5, spacing 5, standard deviation 0.25) in float64, on VP
(β from 0.1 to 20), VE (σ from 0.01 to 50) and linear (`OneSidedLinear`) processes. The exact flow
map is that of dopri5 at rtol = atol = 1e-9. The distance of a run is the root mean square over
paths and coordinates, and the target 1e-2 of the data's standard deviation, 7.08. A path that ends
in a neighbouring mode is 5 off, so that the target allows for two in 10,000 of them. The starts are
equally likely quantiles.

*Orders* are measured on a mixture of three modes in one dimension, from the distances at 24 to 192
steps (the median over paths), on grids that are uniform in time, dense at both ends
(`spacing="cosine"`), and even in the noise level (`spacing="asinh"`). *Calls* are the fewest
network calls from which on the target is met by every count tried, up to the largest; empty where
it is not met by the largest. *Peers* run on the same noise levels with the same field; theirs end
at u = 0.005 in place of 0 and start, where u is infinite at t = 0, from exact states at u = 80
(1,000 where the next level is not below 80).

Run ``python benchmarks/few_steps.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

import transportflows as tpf
from _common import header, in_turns, table
from _few_step_peers import AZULA, DIFFUSERS, Sampler

MODES, WIDTH = 5.0 * torch.arange(-2.0, 3.0, dtype=torch.float64), 0.25
SCALE = math.sqrt(50 + WIDTH**2)
TARGET = 1e-2
PATHS = {"VP": tpf.VP(), "VE": tpf.VE(0.01, 50.0), "linear": tpf.OneSidedLinear()}
LAST = 0.005  # the last noise level of the peers, where ours is 0

Grid = Callable[[int], Tensor]


class Modes:
    """The exact fields of the grid of modes, coordinate by coordinate."""

    def __init__(self, path: tpf.Interpolant) -> None:
        self.process = tpf.Process(path, shape=(2,))
        one = tpf.Process(path, shape=(1,))
        self.oracle = tpf.oracles.GaussianMixtureOracle(
            one, tpf.distributions.GaussianMixture(MODES[:, None], WIDTH)
        )
        self.velocity = tpf.Velocity(self._by_coordinate(self.oracle.velocity), self.process)
        self.data = tpf.DataPredictor(self._posterior_mean, self.process)
        self.known: dict[tuple[int, float], tuple[Tensor, Tensor]] = {}

    def _by_coordinate(self, function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        return lambda t, x: function(t, x.reshape(-1, 1)).reshape(x.shape)

    def _posterior_mean(self, t: Tensor, x: Tensor) -> Tensor:
        path = self.process.affine
        return self.denoised(x, path.beta(t), self.process.noise_part.scale_sq(t))

    @staticmethod
    def denoised(x: Tensor, beta: Tensor | float, square: Tensor) -> Tensor:
        """``E[x1 | β x1 + noise = x]``."""
        variance = beta * beta * WIDTH**2 + square
        off = x[..., None] - beta * MODES
        weight = torch.softmax(-off.square() / (2 * variance), -1)
        return (weight * (MODES + (beta * WIDTH**2 / variance) * off)).sum(-1)

    def start(self, n: int) -> Tensor:
        """States at t = 0: 2 n equally likely values, shuffled, so that rare paths have a share.

        They are quantiles of the normal law of the variance of x_0, which has no other moment
        for a linear process, and is wider than the data by far for the others.
        """
        t = torch.zeros((), dtype=torch.float64)
        beta = self.process.affine.beta(t)
        spread = (beta.square() * SCALE**2 + self.process.noise_part.scale_sq(t)).sqrt()
        share = (torch.arange(2 * n, dtype=torch.float64) + 0.5) / (2 * n)
        order = torch.randperm(2 * n, generator=torch.Generator().manual_seed(0))
        return (spread * torch.special.ndtri(share))[order].reshape(n, 2)

    def moved(self, x: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """States moved exactly from t = 0 to a noise level, and its time."""
        key = (id(x), level)
        if key not in self.known:
            low, high = 0.0, 1.0
            for _ in range(60):
                t = 0.5 * (low + high)
                now = torch.tensor(t, dtype=torch.float64)
                u = float(self.process.noise_part.scale(now) / self.process.affine.beta(now))
                low, high = (t, high) if u > level else (low, t)
            exact = tpf.sample(
                self.velocity, start=x, scheme="dopri5", rtol=1e-9, atol=1e-9, t=(0.0, high)
            )
            self.known[key] = exact.x, torch.tensor(high, dtype=torch.float64)
        return self.known[key]

    def levels(self, grid: Tensor) -> Tensor:
        """The noise levels of a grid, the last one above 0."""
        u = self.process.noise_part.scale(grid) / self.process.affine.beta(grid)
        return torch.cat([u[:-1], u[-1:].clamp(min=min(LAST, 0.5 * float(u[-2])))])


def grids(process: tpf.Process) -> dict[str, Grid]:
    """The grids of the table."""
    to_zero = float(process.noise_part.scale(torch.ones((), dtype=torch.float64))) == 0
    low = {"sigma_min": 0.02} if to_zero else {}
    return {
        "uniform": tpf.solve.time_grid,
        "quadratic": lambda n: tpf.solve.noise_grid(process, n, spacing="quadratic"),
        "Karras 7": lambda n: tpf.solve.noise_grid(process, n, **low),
        "log SNR": lambda n: tpf.solve.noise_grid(process, n, spacing="logsnr", **low),
        "asinh 0.25": lambda n: tpf.solve.noise_grid(process, n, spacing="asinh", scale=0.25),
        "asinh 1": lambda n: tpf.solve.noise_grid(process, n, spacing="asinh", scale=1.0),
    }


E_ = tpf.samplers.ExponentialIntegrator
OURS: dict[str, str | tpf.samplers.Multistep] = {
    "euler": "euler",
    "heun": "heun",
    "rk4": "rk4",
    **{name: name for name in tpf.samplers.FEW_STEP if name != "ancestral"},
    "data 3, u": E_(3, variable="u"),
    "data 4, u": E_(4, variable="u"),
    "data 2c, u": E_(2, corrector=True, variable="u"),
    "data 3c, u": E_(3, corrector=True, variable="u"),
    "noise 3, λ": E_(3, "noise"),
    "noise 3, asinh": E_(3, "noise", variable="asinh"),
    "noise 4, asinh": E_(4, "noise", variable="asinh"),
    "noise 3c, asinh": E_(3, "noise", corrector=True, variable="asinh"),
    "velocity 2c, asinh": E_(2, "velocity", corrector=True, variable="asinh"),
    "velocity 3c, asinh": E_(3, "velocity", corrector=True, variable="asinh"),
    "velocity 3c, linear": E_(3, "velocity", corrector=True, variable="linear"),
}
ONE_STEP = ("euler", "heun", "rk4")
ORDERED: dict[str, tpf.samplers.Multistep] = {
    "ddim": tpf.samplers.DDIM(),
    **{f"velocity {p}": E_(p, "velocity", variable="linear") for p in (2, 3)},
    "velocity 2c": E_(2, "velocity", corrector=True, variable="linear"),
    **{f"data {p}, t": E_(p, variable="t") for p in (2, 3)},
    **{f"data {p}, λ": E_(p) for p in (2, 3)},
    "data 2c, λ": E_(2, corrector=True),
    **{f"noise {p}, u": E_(p, "noise", variable="u") for p in (2, 3)},
}
PAIRS: dict[str, tuple[tpf.samplers.Multistep, Sampler]] = {
    "DDIM (azula)": (tpf.samplers.DDIM(), AZULA["azula DDIM"][0]),
    "Euler (diffusers)": (tpf.samplers.DDIM(), DIFFUSERS["diffusers Euler"][0]),
    **{
        f"zAB {p} (azula)": (E_(p, "noise", variable="u"), AZULA[f"azula zAB {p}"][0])
        for p in (2, 3)
    },
    **{
        f"vAB {p} (azula)": (E_(p, "velocity", variable="linear"), AZULA[f"azula vAB {p}"][0])
        for p in (2, 3)
    },
    **{f"zEAB {p} (azula)": (E_(p, "noise"), AZULA[f"azula zEAB {p}"][0]) for p in (2, 3)},
    **{f"xEAB {p} (azula)": (E_(p), AZULA[f"azula xEAB {p}"][0]) for p in (2, 3)},
    "DPM++ 2M (diffusers)": (E_(2, rule="midpoint"), DIFFUSERS["diffusers DPM++ 2M"][0]),
    "DPM++ 3M (diffusers)": (E_(3), DIFFUSERS["diffusers DPM++ 3M"][0]),
    **{
        f"DEIS {p} (diffusers)": (E_(p, "noise"), DIFFUSERS[f"diffusers DEIS {p}"][0])
        for p in (2, 3)
    },
    "UniPC 2 (diffusers)": (
        E_(2, corrector=True, rule="midpoint"),
        DIFFUSERS["diffusers UniPC 2"][0],
    ),
    "UniPC 3 (diffusers)": (E_(3, corrector=True), DIFFUSERS["diffusers UniPC 3"][0]),
}
PEERS = all(importlib.util.find_spec(name) for name in ("azula", "diffusers"))


def counts(most: int) -> list[int]:
    """Step counts to try, from the largest down."""
    fine, coarse = range(4, min(most, 40) + 1), range(40, most + 1, 5)
    return sorted({*fine, *coarse}, reverse=True)


def fewest(distance: Callable[[int], float], most: int) -> int | None:
    """The step count from which on the target is met."""
    found = None
    for n in counts(most):
        if not distance(n) <= TARGET:
            break
        found = n
    return found


def off(x: Tensor, exact: Tensor) -> float:
    """Root mean square distance over the data's scale; infinity where it is none."""
    value = float((x.double() - exact).square().mean().sqrt()) / SCALE
    return value if math.isfinite(value) else math.inf


def calls(label: str, n: int, budget: int) -> dict[str, list[int | None]]:
    """The fewest calls of each scheme on each grid, for one process."""
    modes = Modes(PATHS[label])
    x = modes.start(n)
    exact = tpf.sample(modes.velocity, start=x, scheme="dopri5", rtol=1e-9, atol=1e-9).x
    ways = grids(modes.process)
    found: dict[str, list[int | None]] = {}

    def measure(name: str, each: int, run: Callable[[Tensor], Tensor]) -> None:
        found[name] = []
        for grid in ways.values():
            least = fewest(lambda steps: off(run(grid(steps)), exact), budget // each)  # noqa: B023
            found[name].append(None if least is None else each * least)
        print(label, name, found[name], file=sys.stderr, flush=True)

    for name, scheme in OURS.items():
        field = modes.velocity if name in ONE_STEP else modes.data
        each = tpf.samplers.SCHEMES[name].nfe if name in ONE_STEP else 1
        measure(name, each, lambda grid: ours(field, x, scheme, grid))  # noqa: B023
    own: list[int | None] = [None] * len(ways)
    for tolerance in [10 ** (-k / 4) for k in range(24, 3, -1)]:
        adaptive = {"scheme": "dopri5", "rtol": tolerance, "atol": tolerance}
        solution = tpf.sample(modes.velocity, start=x, **adaptive)
        if off(solution.x, exact) > TARGET:
            break
        own[0] = solution.nfe
    found["dopri5, its own steps"] = own
    if PEERS:
        for name, (run, each) in {**AZULA, **DIFFUSERS}.items():
            measure(name, each, lambda grid: theirs(run, modes, x, grid))  # noqa: B023
    return found


def ours(field: tpf.Field, x: Tensor, scheme: str | tpf.samplers.Multistep, grid: Tensor) -> Tensor:
    """Final states; NaN where they are not finite."""
    try:
        return tpf.sample(field, start=x, scheme=scheme, t=grid).x
    except tpf.solve.NonFiniteStateError:
        return torch.full_like(x, math.nan)


def theirs(run: Sampler, modes: Modes, x: Tensor, grid: Tensor) -> Tensor:
    """Final states of a peer on the noise levels of a grid."""
    levels, process = modes.levels(grid), modes.process
    if not math.isfinite(levels[0]):
        levels[0] = 80.0 if float(levels[1]) < 80 else 1e3
        x, t = modes.moved(x, float(levels[0]))
        y = x / process.affine.beta(t)
    else:
        y = x / process.affine.beta(grid[0])
    return run(lambda state, u: modes.denoised(state, 1.0, u * u), y, levels)


def orders(n: int) -> str:
    """Declared and measured orders."""
    data = tpf.distributions.GaussianMixture(
        torch.tensor([[-1.3], [0.2], [1.5]], dtype=torch.float64), 0.5, weights=[0.3, 0.3, 0.4]
    )
    rows = []
    steps = (24, 48, 96, 192)
    paths = {"VP": tpf.VP(), "VE": tpf.VE(0.05, 20.0), "linear": tpf.OneSidedLinear()}
    for label, path in paths.items():
        process = tpf.Process(path, shape=(1,))
        oracle = tpf.oracles.GaussianMixtureOracle(process, data)
        ways: dict[str, Grid] = {
            "uniform": tpf.solve.time_grid,
            "cosine": lambda k: tpf.solve.time_grid(k, spacing="cosine"),
            "asinh": lambda k: tpf.solve.noise_grid(process, k, spacing="asinh", scale=0.5),  # noqa: B023
        }
        x = oracle.sample(0.0, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        exact = tpf.sample(oracle, start=x, scheme="dopri5", rtol=1e-11, atol=1e-11).x
        for name, scheme in ORDERED.items():
            declared = scheme.order + getattr(scheme, "corrector", False)
            for way, grid in ways.items():
                errors = [
                    float((ours(oracle, x, scheme, grid(k)) - exact).abs().median()) for k in steps
                ]
                slope = -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
                last = math.log2(errors[-2] / errors[-1])
                beyond = "" if abs(last - declared) <= 0.25 else f"{last - declared:+.2f}"
                cells = f"{slope:.2f}", f"{last:.2f}", f"{errors[0]:.1e} to {errors[-1]:.1e}"
                rows.append((label, name, way, declared, *cells, beyond))
    head = ("process", "scheme", "grid", "declared", "slope", "last slope", "error", "beyond 0.25")
    return table(head, rows)


def side_by_side(n: int, rounds: int, patience: float) -> str:
    """Errors and times of the same scheme, here and there."""
    rows = []
    for label, path in PATHS.items():
        modes = Modes(path)
        process = modes.process
        start, first = modes.start(n), torch.zeros((), dtype=torch.float64)
        if label == "linear":
            start, first = modes.moved(start, 100.0)
        last = 1.0 if label == "VE" else float(modes.moved(modes.start(1), 0.01)[1])
        ends = {"rtol": 1e-9, "atol": 1e-9, "t": (float(first), last)}
        exact = tpf.sample(modes.velocity, start=start, scheme="dopri5", **ends).x
        for steps in (20, 40):
            grid = tpf.solve.noise_grid(
                process, steps, spacing="asinh", scale=0.25, start=float(first), stop=last
            )
            levels = modes.process.noise_part.scale(grid) / modes.process.affine.beta(grid)
            beta = modes.process.affine.beta(grid[[0, -1]])
            for name, (own, run) in PAIRS.items():
                here = off(ours(modes.data, start, own, grid), exact)
                y = run(lambda s, u: modes.denoised(s, 1.0, u * u), start / beta[0], levels)  # noqa: B023
                there = off(y * beta[1], exact)
                rows.append((label, steps, name, here, there, here / there))
    text = table(("process", "steps", "scheme", "ours", "theirs", "ours over theirs"), rows)
    return text + "\n" + times(rounds, patience)


def times(rounds: int, patience: float) -> str:
    """Seconds of 20 steps with networks, in float32, on VE."""
    process = tpf.Process(tpf.VE(0.01, 50.0), shape=(2,))
    grid = tpf.solve.noise_grid(process, 20)
    levels = process.noise_part.scale(grid).float()
    rows = []
    for width, n in ((64, 1_000), (64, 10_000), (256, 10_000)):
        net = tpf.networks.MLP(2, width, depth=4, generator=torch.Generator().manual_seed(0)).eval()
        field = tpf.DataPredictor(net, process)
        x = 50 * torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
        moments = {float(u): t for u, t in zip(levels, grid.float(), strict=True)}
        for name, (own, run) in PAIRS.items():

            def peer(run: Sampler = run) -> Tensor:
                with torch.no_grad():
                    return run(lambda s, u: net(moments[float(u)], s.float()), x, levels)  # noqa: B023

            blocks = {
                "ours": partial(tpf.sample, field, start=x, scheme=own, t=grid),
                "theirs": peer,
            }
            found = in_turns(blocks, rounds, patience)
            cells = f"{1e3 * found.median('ours'):.1f}", f"{1e3 * found.median('theirs'):.1f}"
            rows.append((f"4 x {width}", f"{n:,}", name, *cells, found.spread("ours", "theirs")))
    return table(("MLP", "rows", "scheme", "ours, ms", "theirs, ms", "ours over theirs"), rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("orders", "calls", "peers"), help="only one part")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--budget", type=int, default=100, help="most calls tried")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(header(__doc__, *(("azula", "diffusers") if PEERS else ())), flush=True)
    if options.part in (None, "orders"):
        print("## Orders\n")
        print(orders(200), flush=True)
    if options.part in (None, "calls"):
        for label in PATHS:
            print(f"## Calls: {label}\n")
            found = calls(label, options.rows, options.budget)
            ways = list(grids(tpf.Process(PATHS[label], shape=(2,))))
            best = {name: min((c for c in row if c), default=None) for name, row in found.items()}
            rows = [
                (name, *("" if c is None else c for c in row), best[name] or "")
                for name, row in found.items()
            ]
            print(table(("scheme", *ways, "best"), rows))
            for whose in ("azula", "diffusers"):
                group = {k: v for k, v in best.items() if k.startswith(whose) and v}
                if group:
                    print(f"Best of {whose}: {min(group, key=group.get)}, {min(group.values())}.")  # type: ignore[arg-type]
            own = {k: v for k, v in best.items() if v and not k.startswith(("azula", "diff"))}
            print(f"Best of ours: {min(own, key=own.get)}, {min(own.values())}.\n", flush=True)  # type: ignore[arg-type]
    if PEERS and options.part in (None, "peers"):
        print("## The same scheme, here and there\n")
        print(side_by_side(options.rows, options.rounds, options.patience))


if __name__ == "__main__":
    main()
