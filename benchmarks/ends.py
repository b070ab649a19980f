"""The error that the ends of time cost.

E x² at the last time, by quadrature (no Monte Carlo), of 256 Heun steps at ε = 1 between the two
mixtures of ``tpf.testing.mixture_oracle()`` with a Brownian latent, with exact fields:

- *oracle*: it gives its score, finite on all of [0, 1], so no step needs care: the yardstick;
- *(b, η)*: ``FieldPair(velocity, noise)``, whose score -η/γ is singular at both ends, where the
  library sets ε = 0 for a step (the window);
- *(v, η)*: ``FieldPair(mean_velocity, noise)``, whose velocity v + γ̇ η is singular there too, so
  that the grid keeps a margin as well;
- both with a margin of 1e-3 at both ends, which is what one does without a window.

All start from the exact law at the end of time where they start, as a user does.

Run ``python benchmarks/ends.py``.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table
from transportflows.samplers.dynamics import singular_margin


def second_moment(
    field: tpf.Field, steps: int, backward: bool, margin: tuple[float, float], scheme: str
) -> float:
    """E X² at the end of a solve from the exact law at its start."""
    oracle = tpf.testing.mixture_oracle()
    x = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    first = 1.0 if backward else 0.0
    density = oracle.log_prob(torch.tensor(first, dtype=torch.float64), x[:, None]).exp()
    low, high = margin[0], 1 - margin[1]
    grid = tpf.time_grid(steps, start=high if backward else low, stop=low if backward else high)
    dynamics = tpf.FieldDynamics(field, [tpf.ConstantEpsilon(1.0)])

    def square(y: Tensor) -> Tensor:
        return y[:, None] ** 2

    return float(
        tpf.testing.quadrature_moments(dynamics, scheme, grid, density, square, x).squeeze()
    )


def exact(oracle: tpf.GaussianMixtureOracle, t: float) -> float:
    """E x_t² from the density, with the same points."""
    x = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    density = oracle.log_prob(torch.tensor(t, dtype=torch.float64), x[:, None]).exp()
    return float((x[1] - x[0]) * (density * x**2).sum())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--scheme", default="heun")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(header(__doc__))

    oracle = tpf.testing.mixture_oracle()
    process = oracle.process
    fields: dict[str, tpf.Field] = {
        "oracle": oracle,
        "(b, η)": tpf.FieldPair(velocity=oracle.velocity, noise=oracle.noise, process=process),
        "(v, η)": tpf.FieldPair(
            mean_velocity=oracle.mean_velocity, noise=oracle.noise, process=process
        ),
    }
    like = torch.zeros((), dtype=torch.float64)
    runs = [(name, field, singular_margin(field, like)) for name, field in fields.items()]
    runs += [(f"{name}, margin 1e-3", fields[name], (1e-3, 1e-3)) for name in list(fields)[:2]]

    rows = []
    for backward in (False, True):
        truth = exact(oracle, 0.0 if backward else 1.0)
        bare = None
        for name, field, margin in runs:
            value = second_moment(field, options.steps, backward, margin, options.scheme)
            error = abs(value - truth)
            bare = error if bare is None else bare
            used = "none" if margin == (0.0, 0.0) else f"{margin[0]:g}, {margin[1]:g}"
            x = torch.zeros(1, 1, dtype=torch.float64)
            span = [1 - margin[1], margin[0]] if backward else [margin[0], 1 - margin[1]]
            times = tpf.time_grid(options.steps, start=span[0], stop=span[1])
            window = tpf.integrate(
                tpf.FieldDynamics(field, [tpf.ConstantEpsilon(1.0)]), x, times, key=0
            ).window
            ends = "none" if window is None else ", ".join(f"{a:.4g} to {b:.4g}" for a, b in window)
            direction = "backward" if backward else "forward"
            rows.append((direction, name, used, ends, f"{error:.1e}", f"{error / bare:.2f}"))
    head = ("direction", "field", "margin", "window", "error in E x²", "over the oracle's")
    print(table(head, rows))


if __name__ == "__main__":
    main()
