"""The error that the ends of time cost.

E x² at the last time, by quadrature (no Monte Carlo), of 256 Heun steps at ε = 1 between the two
mixtures of ``tpf.testing.mixture_oracle()`` with a Brownian latent, with exact fields:

- *oracle*: it gives its score, finite on all of [0, 1], so no step needs care: the yardstick;
- *(b, η)*: ``FieldPair(velocity, noise)``, whose score -η/γ is singular at both ends;
- *(v, η)*: ``FieldPair(mean_velocity, noise)``, whose velocity v + γ̇ η is singular there too: the
  library integrates these coefficients over the step that touches an end;
- *cut grid*: what one does without either, a grid from 1e-3 to 1 - 1e-3.

All start from the exact law at the end of time where they start, as a user does.

Run ``python benchmarks/ends.py``.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table

POINTS = torch.linspace(-7, 7, 1401, dtype=torch.float64)
Margin = tuple[float, float] | None  # None: what the library keeps


def density(t: float) -> Tensor:
    """The exact density of x_t at the points."""
    oracle = tpf.testing.mixture_oracle()
    return oracle.log_prob(torch.tensor(t, dtype=torch.float64), POINTS[:, None]).exp()


def error(field: tpf.Field, grid: Tensor, backward: bool, scheme: str, margin: Margin) -> float:
    """Error of E X² at the end of a grid, for a start from the exact law at t = 0 or 1."""
    dynamics = tpf.samplers.FieldDynamics(field, [tpf.solve.ConstantEpsilon(1.0)], margin=margin)
    first = 1.0 if backward else 0.0
    square = tpf.testing.quadrature_moments(
        dynamics, scheme, grid, density(first), lambda y: y[:, None] ** 2, POINTS
    )
    exact = (POINTS[1] - POINTS[0]) * (density(1 - first) * POINTS**2).sum()
    return abs(float(square.squeeze() - exact))


def kept(field: tpf.Field, grid: Tensor, margin: Margin) -> tuple[str, str]:
    """Where the library limits ε on this grid, and the margins it keeps."""
    dynamics = tpf.samplers.FieldDynamics(field, [tpf.solve.ConstantEpsilon(1.0)], margin=margin)
    solution = tpf.integrate(dynamics, torch.zeros(1, 1, dtype=torch.float64), grid, key=0)
    stretches = solution.limited or ()
    shown = ", ".join(f"{a:.4f} to {b:.4f}" for a, b in stretches) or "none"
    margins = "none" if max(solution.margin) == 0 else ", ".join(f"{m:g}" for m in solution.margin)
    return shown, margins


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--scheme", default="heun")
    parser.add_argument("--cut", type=float, default=1e-3)
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
    cases: list[tuple[str, str, Margin, float]] = [(name, name, None, 0.0) for name in fields]
    cases += [(f"{name}, cut grid", name, (0.0, 0.0), options.cut) for name in fields]

    rows = []
    for backward in (False, True):
        yardstick = None
        for shown, name, margin, cut in cases:
            ends = (1 - cut, cut) if backward else (cut, 1 - cut)
            grid = tpf.solve.time_grid(options.steps, start=ends[0], stop=ends[1])
            found = error(fields[name], grid, backward, options.scheme, margin)
            yardstick = found if yardstick is None else yardstick
            direction = "backward" if backward else "forward"
            care = kept(fields[name], grid, margin)
            rows.append((direction, shown, *care, f"{found:.1e}", f"{found / yardstick:.2f}"))
    head = ("direction", "field", "ε limited", "margin", "error in E x²", "over the oracle's")
    print(table(head, rows))


if __name__ == "__main__":
    main()
