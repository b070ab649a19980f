"""Measured orders of the schemes, beside the declared ones.

``tpf.testing.estimate_order`` with its default step counts, on the default oracle: two mixtures in
one dimension, linear with a Brownian latent (a Gaussian hides errors). *ode*: ε = 0, against a much
finer solution. *weak*: moments by quadrature, no Monte Carlo. *strong*: medians over 2,000 paths
that follow the same Brownian motion. Forward (0 to 1) and backward (1 to 0); ε = 0.5, and a user's
own ε(t) = 0.3 (1 + t). The order is the slope over all step counts; the last slope, between the two
finest, is beside it. Within 0.25 of the declared order is the aim.

Run ``python benchmarks/orders.py``.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table


def growing(t: Tensor) -> Tensor:
    """An ε(t) of the user's own."""
    return 0.3 * (1 + t)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--paths", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(header(__doc__))
    kinds = (
        ("ode", 0.0, "0"),
        ("weak", 0.5, "0.5"),
        ("weak", growing, "0.3 (1 + t)"),
        ("strong", 0.5, "0.5"),
        ("strong", growing, "0.3 (1 + t)"),
    )
    rows, worst = [], 0.0
    for kind, epsilon, shown in kinds:
        for scheme in tpf.samplers.SCHEMES.values():
            declared = scheme.order if kind == "ode" else getattr(scheme, f"{kind}_order")
            if declared is None:
                continue
            for backward in (False, True):
                found = tpf.testing.estimate_order(
                    scheme, kind=kind, epsilon=epsilon, backward=backward, n=options.paths
                )
                off = found.order - declared
                worst = max(worst, abs(off))
                direction = "backward" if backward else "forward"
                slopes = f"{found.order:.2f}", f"{found.slopes[-1]:.2f}"
                steps = f"{found.steps[0]} to {found.steps[-1]}"
                errors = f"{found.errors[0]:.1e} to {found.errors[-1]:.1e}"
                beyond = "" if abs(off) <= 0.25 else f"{off:+.2f}"
                case = kind, shown, scheme.name, direction, declared
                rows.append((*case, *slopes, steps, errors, beyond))
    head = ("kind", "ε", "scheme", "direction", "declared", "measured", "last slope", "steps")
    print(table((*head, "error", "beyond 0.25"), rows))
    print(f"Largest distance from a declared order: {worst:.2f}.")


if __name__ == "__main__":
    main()
