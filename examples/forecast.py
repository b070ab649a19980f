"""Forecast the law of the next state of a stochastic flow, and see whether it is calibrated.

A particle in a double well, pushed by noise, dq = p dt, dp = (4 q - 4 q³ - p) dt + 0.8 √2 dW, is
seen at times 0.6 apart, and only its place q. Given where it is now and where it was before (which
tells about p), the next place has a law of its own, of two peaks where it may or may not get over
the hill. The library learns it as pairs: x0 the place now, x1 the next one, the past a condition.
One network predicts the drift (E[x1 | x_t] - x)/(1 - t) of a Brownian bridge between them, and is
told of x0; sampling starts each path at its own x0, with the bridge's ε = a/2, and takes short
steps late, where the noise of a step, √(a h), would be seen in the forecast.

Printed are, on states that no training saw, the share of truths within the central 50 % and 90 %
intervals of the forecasts, how far the truths' ranks in them (the probability integral transform)
are from uniform, and the mean continuous ranked probability score, E|X - y| - ½ E|X - X'|, beside
those of persistence (the place now) and of a Gaussian about a linear forecast.

Run: python examples/forecast.py     (about a minute on two cores)
"""

import math
import time

import torch
from torch import Tensor, nn

import transportflows as tpf

A = 0.4  # variance of the bridge: of the size of what is not known of the next place
LAG, STEP = 0.6, 0.01


class Net(nn.Module):
    """The drift, of the time, the state, where it started and where it was before."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(4, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(),
            nn.Linear(96, 1),
        )  # fmt: skip

    def forward(self, t: Tensor, x: Tensor, *, x0: Tensor, past: Tensor) -> Tensor:
        return self.inner(torch.cat([t[:, None], x, x0, past], 1))


def simulate(n: int, generator: torch.Generator) -> Tensor:
    """Three places of n particles in equilibrium, 0.6 apart, ``(n, 3)``."""
    q, p = torch.randn(n, generator=generator).sign(), torch.randn(n, generator=generator)
    seen, every = [], round(LAG / STEP)
    for k in range(13 * every + 1):
        if k >= 11 * every and k % every == 0:
            seen.append(q)
        noise = torch.randn(n, generator=generator)
        p = p + STEP * (4 * q - 4 * q**3 - p) + 0.8 * math.sqrt(2 * STEP) * noise
        q = q + STEP * p
    return torch.stack(seen, 1)


def crps(draws: Tensor, truth: Tensor) -> Tensor:
    """The score of each forecast, of draws ``(n, m)``, ``(n,)``; draws of a row are sorted."""
    m = draws.shape[1]
    place = 2 * torch.arange(1, m + 1) - m - 1
    spread = (draws * place).sum(1) / (m * (m - 1))  # half the mean distance of two of them
    return (draws - truth[:, None]).abs().mean(1) - spread


def main(steps: int = 4_000, rows: int = 20_000, states: int = 1_500, draws: int = 100) -> None:
    """Simulate, train, forecast, and hold the forecasts against what came."""
    started = time.perf_counter()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    past, now, following = simulate(rows, generator).split(1, 1)

    process = tpf.Process(
        tpf.Linear(tpf.Brownian(A)), coupling=tpf.Paired(condition_on_start=True), shape=(1,)
    )
    field = tpf.bridges.BridgeDrift(forward=Net(), process=process)
    trainer = tpf.Trainer(field, lr=2e-3, scheduler="cosine", ema=0.999)
    trainer.fit(
        (now, following), cond={"past": past}, steps=steps, batch_size=512, generator=generator
    )

    before, here, truth = simulate(states, generator).split(1, 1)
    truth = truth[:, 0]
    many = {"past": before.repeat_interleave(draws, 0)}
    start = here.repeat_interleave(draws, 0)
    with trainer.averaged():
        solved = tpf.sample(
            field,
            start=start,
            epsilon=A / 2,
            steps=40,
            spacing="late",
            cond=many,
            generator=generator,
        )
    forecast = solved.x.view(states, draws).sort(1).values

    print(f"\n{'interval':<10} {'covers':>8} {'error':>8}")
    for share in (0.5, 0.9):
        low, high = (torch.quantile(forecast, (1 + s * share) / 2, dim=1) for s in (-1, 1))
        inside = ((truth >= low) & (truth <= high)).float().mean()
        print(f"{share:<10.0%} {inside:>8.1%} {math.sqrt(share * (1 - share) / states):>8.1%}")
    rank = (forecast < truth[:, None]).float().mean(1).sort().values
    off = float((rank - (torch.arange(states) + 0.5) / states).abs().max())
    most = 1.36 / math.sqrt(states)
    print(f"ranks from uniform: {off:.3f}; of right forecasts 95 % are below {most:.3f}")

    design = torch.cat([now, past, torch.ones_like(now)], 1)
    line = torch.linalg.lstsq(design, following).solution
    sd = float((following - design @ line).std())
    centre = (torch.cat([here, before, torch.ones_like(here)], 1) @ line)[:, 0]
    normal = centre[:, None] + sd * torch.randn(states, draws, generator=generator)
    scores = {
        "transport": crps(forecast, truth),
        "Gaussian about a line": crps(normal.sort(1).values, truth),
        "persistence": (here[:, 0] - truth).abs(),
    }
    print(f"\n{'score (lower is better)':<26} {'CRPS':>7} {'error':>7}")
    for name, score in scores.items():
        print(f"{name:<26} {float(score.mean()):>7.4f} {float(score.std()) / states**0.5:>7.4f}")
    print(f"\n{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
