"""`samplers.plan`: does its promise hold on fresh starts, and what do its solves cost?

Twelve oracles in float64: eight modes of deviation .14 and .4 on a circle of radius √2, and three
modes of deviation .5 in eight dimensions, each for the linear path from a Gaussian, the same with a
Brownian latent, VP, and a trigonometric path between mixtures; and the velocity of the first with
an error of .2 and waves in it, as a network has. *Over* is the rms error of 4,000 fresh starts over
the tolerance (the reference dopri5 at 1e-9): the promise is that it is at most 1.2. *Heun* is how
many calls Heun on equal steps takes for the same, of doublings from 8. Seconds are of one thread.

Run ``python benchmarks/plan.py``.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, seeded, table

TOLERANCES = (1e-1, 1e-2, 1e-3)


def ring(deviation: float) -> tpf.distributions.GaussianMixture:
    """Eight modes on a circle."""
    angle = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    means = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1)
    return tpf.distributions.GaussianMixture(means, deviation)


def fields() -> dict[str, tpf.Field]:
    """What is solved, by name."""
    three = torch.randn(3, 8, generator=seeded(5), dtype=torch.float64)
    laws = {
        "ring .14": ring(0.14),
        "ring .4": ring(0.4),
        "three, d = 8": tpf.distributions.GaussianMixture(three, 0.5),
    }
    found: dict[str, tpf.Field] = {}
    for name, law in laws.items():
        d = law.shape[0]
        base = tpf.distributions.GaussianMixture(torch.eye(2, d, dtype=torch.float64) * 2, 0.5)
        processes = {
            "linear": tpf.Process(tpf.Linear(), base=tpf.Gaussian((d,))),
            "latent": tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((d,))),
            "VP": tpf.Process(tpf.VP(), shape=(d,)),
            "mixtures": tpf.Process(tpf.Trigonometric(), base=base),
        }
        for path, process in processes.items():
            found[f"{name}, {path}"] = tpf.oracle(process, law)
    exact = found["ring .14, linear"]

    def off(t: Tensor, x: Tensor) -> Tensor:
        return exact.velocity(t, x) + 0.2 * torch.sin(6 * x.flip(1) + 9 * t[:, None])

    found["ring .14, linear, with an error"] = tpf.Velocity(off, exact.process)
    return found


def error(field: tpf.Field, x: Tensor, exact: Tensor, **told: object) -> float:
    """The rms of a solve."""
    end = tpf.sample(field, start=x, **told).x  # type: ignore[arg-type]
    return float((end - exact).square().mean().sqrt())


def main() -> None:
    """Measure, and write the table."""
    torch.set_num_threads(1)
    rows = []
    for name, field in fields().items():
        x = field.start.sample(4_000, generator=seeded(77), dtype=torch.float64)
        exact = tpf.sample(field, start=x, scheme="dopri5", rtol=1e-9, atol=1e-9).x
        heun = {k: error(field, x, exact, scheme="heun", steps=k // 2) for k in (8, 16, 32, 64)}
        heun |= {k: error(field, x, exact, scheme="heun", steps=k // 2) for k in (128, 256, 512)}
        for tolerance in TOLERANCES:
            began = time.process_time()
            start = field.start.sample(2_000, generator=seeded(1), dtype=torch.float64)
            plan = tpf.samplers.plan(field, tolerance, start=start, generator=seeded(2))
            took = time.process_time() - began
            over = error(field, x, exact, **plan.arguments) / tolerance
            need = next((str(k) for k, e in heun.items() if e <= tolerance), "over 512")
            rows.append(
                [
                    name, f"{tolerance:g}", plan.scheme, plan.spacing, str(plan.calls),
                    f"{over:.2f}", need, f"{took:.1f}",
                ]
            )  # fmt: skip
            print(*rows[-1], flush=True)
    head = ["field", "tolerance", "scheme", "grid", "calls", "over", "Heun", "s"]
    text = f"{header(__doc__)}\n{table(head, rows)}\n"
    (Path(__file__).parent / "results" / "plan.md").write_text(text)


if __name__ == "__main__":
    main()
