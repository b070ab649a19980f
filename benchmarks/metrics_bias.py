"""Bias of estimates from finite samples: what a user may conclude.

p = N(0, Id) against q = N(½ e_1, 1.2² Id), and against itself; n points of each. Means over
repetitions with their standard errors. *W2*: the exact distance (raw), ``corrected_wasserstein2``
(the floor of halves taken off its square), and the root of ``sinkhorn_divergence`` at ε = 0.1 d.
*Gaussian*: ``gaussian_wasserstein2``. *KL*: ``kl_nearest_neighbours(x, y)``, k = 5. *C2ST*:
``classifier_test``, against the Bayes accuracy (Monte Carlo, 10⁶ points). For equal laws a signed
root is averaged where a square is negative.

Run ``python benchmarks/metrics_bias.py``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table

SHIFT, SCALE = 0.5, 1.2


def pair(d: int, n: int, seed: int, *, equal: bool) -> tuple[Tensor, Tensor]:
    """Samples of p and of q (or of p again)."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    if not equal:
        y = SCALE * y
        y[:, 0] += SHIFT
    return x, y


def bayes(d: int) -> float:
    """The best accuracy, ½ (1 + TV), by Monte Carlo."""
    p, q = tpf.Gaussian((d,)), tpf.Gaussian((d,), 0.0, SCALE)
    generator = torch.Generator().manual_seed(9)
    x, y = torch.randn(2, 1_000_000, d, generator=generator, dtype=torch.float64)
    move = torch.zeros(d, dtype=torch.float64)
    move[0] = SHIFT
    y = SCALE * y + move
    right = (p.log_prob(x) > q.log_prob(x - move)).double().mean()
    return 0.5 * float(right + (p.log_prob(y) < q.log_prob(y - move)).double().mean())


def signed_root(square: float) -> float:
    """Root with the sign of the square."""
    return math.copysign(math.sqrt(abs(square)), square)


def sinkhorn(x: Tensor, y: Tensor) -> float:
    """Signed root of the debiased divergence."""
    found = tpf.metrics.sinkhorn_divergence(x, y, epsilon=0.1 * x.shape[1])
    return signed_root(found.value)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", type=int, default=20, help="repetitions at n = 1,000")
    parser.add_argument("--large", type=int, default=2, help="repetitions at n = 10,000")
    parser.add_argument("--dimensions", type=int, nargs="*", default=[2, 10])
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("error", tpf.plans.ConvergenceWarning)
    print(header(__doc__, "POT"))
    rows = []
    for d in options.dimensions:
        w2 = math.sqrt(SHIFT**2 + d * (SCALE - 1) ** 2)
        kl = d * (math.log(SCALE) + 0.5 / SCALE**2 - 0.5) + 0.5 * SHIFT**2 / SCALE**2
        best = bayes(d)
        metrics: dict[str, tuple[Callable[[Tensor, Tensor, int], float], float, float]] = {
            "Gaussian W2": (lambda x, y, k: tpf.metrics.gaussian_wasserstein2(x, y), 0.0, w2),
            "KL, neighbours": (lambda x, y, k: tpf.metrics.kl_nearest_neighbours(x, y), 0.0, kl),
            "C2ST accuracy": (
                lambda x, y, k: (
                    tpf.metrics.classifier_test(
                        x, y, generator=torch.Generator().manual_seed(k)
                    ).accuracy
                ),
                0.5,
                best,
            ),
            "W2, debiased (Sinkhorn)": (lambda x, y, k: sinkhorn(x, y), 0.0, w2),
            "W2, raw": (lambda x, y, k: tpf.metrics.wasserstein2(x, y), 0.0, w2),
            "W2, floor-corrected": (
                lambda x, y, k: signed_root(
                    tpf.metrics.corrected_wasserstein2(
                        x, y, generator=torch.Generator().manual_seed(k)
                    ).squared
                ),
                0.0,
                w2,
            ),
        }
        for n in options.sizes:
            repetitions = options.small if n <= 1_000 else options.large
            for name, (metric, *truths) in metrics.items():
                for equal, truth in zip((True, False), truths, strict=True):
                    values = [metric(*pair(d, n, k, equal=equal), k) for k in range(repetitions)]
                    mean = statistics.mean(values)
                    error = statistics.stdev(values) / math.sqrt(repetitions)
                    laws = "equal" if equal else "p, q"
                    measured = f"{mean:.4f} ± {error:.4f}"
                    rows.append((d, n, name, laws, truth, measured, f"{mean - truth:+.4f}"))
                    print(*rows[-1], repetitions, sep=" | ", flush=True)
    print()
    print(table(("d", "n", "what", "laws", "truth", "measured", "bias"), rows))


if __name__ == "__main__":
    main()
