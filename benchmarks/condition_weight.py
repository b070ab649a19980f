"""Transport with a condition of numbers: what a term of the cost does to E[x0 | c].

Data on a ring of radius 5, ``x1 = 5 (cos 2πc, sin 2πc)`` with a spread of 0.3, and on a line,
``x1 = (10 c, 0)``, with c uniform on [0, 1]; the base is N(0, Id), batches have 256 rows, and the
plan is exact. ``MinibatchOT(condition_weight=λ)`` lends each x0 a condition c0 and plans for
``|x0 - x1|² + λ |c0 - c1|²``, λ relative to the median squared distances of both.

- *bias*: root mean square of ``E[x0 | c] - E[x0]``, over the standard deviation of the base; of
  15,000 rows, which show up to 0.03 where there is none;
- *length*: root mean square of ``|x1 - x0|``, over that of the independent coupling, λ = ∞.

Sampling starts from the whole base, so a bias is an error of the law that is sampled given c. The
default of a process is the independent coupling, and MinibatchOT refuses conditions of numbers
unless it is given a weight; ``couplings.condition_weight`` gives the smallest within a budget.

Run ``python benchmarks/condition_weight.py``: half a minute of one thread.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

import transportflows as tpf
from _common import header, table

OUT = Path(__file__).parent / "results" / "condition_weight.md"
WEIGHTS = (0.0, 1.0, 10.0, 100.0, 1e3, 1e4)


def main() -> None:
    """Write the tables."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    c = torch.rand(20_000, 1, generator=generator, dtype=torch.float64)
    spread = 0.3 * torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
    ring = 5 * torch.cat([(2 * math.pi * c).cos(), (2 * math.pi * c).sin()], 1)
    line = torch.cat([10 * c, 0 * c], 1)
    parts = [header(__doc__)]
    for name, x1 in (("ring", ring + spread), ("line", line + spread)):
        tried = tpf.couplings.condition_weight(
            x1, c, tpf.Gaussian((2,)), weights=WEIGHTS, batches=60, generator=generator
        )
        rows = zip(tried.weights, tried.bias, tried.length, strict=True)
        parts.append(f"## {name}\n\nSmallest weight of a bias up to 0.05: {tried.weight:g}.\n")
        head = ["λ", "bias", "length"]
        lines = [[f"{w:g}", f"{b:.3f}", f"{length:.3f}"] for w, b, length in rows]
        parts.append(table(head, lines))
    OUT.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
