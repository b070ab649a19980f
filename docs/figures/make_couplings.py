"""Write couplings.svg, pairs of three couplings and what they ask of a field.

Run python docs/figures/make_couplings.py. Above, 40 pairs between a Gaussian and eight Gaussians,
of 1,000 points each; below, where their paths are at t = 1/4, and whither they move. Under them the
mean of |x1 - x0|² over that of the optimal pairs, and how much of the velocity at t = 1/4 its mean
at a place does not tell, which no field can learn.
"""

from pathlib import Path

import torch
from torch import Tensor

from transportflows.couplings import TransportPlan

N, SHOWN, TIME = 1_000, 40, 0.25
WIDTH, PANEL, TOP, GAP = 640, 190, 34, 25
BASE, DATA = "#8a5cd6", "#0f9d8a"
STYLE = """
    .couplings-picture text { font: 14px var(--font-stack, system-ui, Helvetica, Arial, sans-serif);
      fill: var(--color-foreground-primary, #1c1c1e); text-anchor: middle; }
    .couplings-picture .what { font-size: 12px;
      fill: var(--color-foreground-secondary, #5a5c63); }
    .couplings-picture line { stroke: #2f6bff; stroke-width: 1; stroke-opacity: 0.75; }
    .couplings-picture rect { fill: none; stroke: var(--color-foreground-muted, #6b6f76); }
    @media (prefers-color-scheme: dark) { .couplings-picture:root { background: #131416; } }
"""


def samples() -> tuple[Tensor, Tensor]:
    """A Gaussian, and eight on a circle."""
    generator = torch.Generator().manual_seed(3)
    x0 = torch.randn(N, 2, generator=generator, dtype=torch.float64)
    angle = torch.arange(N) % 8 * (torch.pi / 4)
    centres = 4 * torch.stack([angle.cos(), angle.sin()], 1).double()
    return x0, centres + 0.25 * torch.randn(N, 2, generator=generator, dtype=torch.float64)


def couplings() -> list[tuple[str, Tensor, Tensor]]:
    """A title and pairs, one for each row of x1."""
    x0, x1 = samples()
    generator = torch.Generator().manual_seed(4)
    pairs = [("independent", x0[torch.randperm(N, generator=generator)], x1)]
    for title, regularisation in (("optimal", 0.0), ("entropic, ε = 2", 2.0)):
        plan = TransportPlan(x0, x1, regularisation=regularisation)
        pairs.append((title, *plan.pair(x1, x1, generator=generator)))
    return pairs


def unexplained(x0: Tensor, x1: Tensor, k: int = 12) -> float:
    """The part of the variance of x1 - x0 that neighbours at that time do not share."""
    middle, velocity = torch.lerp(x0, x1, TIME), x1 - x0
    near = torch.cdist(middle, middle).topk(k, largest=False).indices
    inside = velocity[near].var(1).sum(1).mean()
    return float(inside / velocity.var(0).sum())


def picture() -> str:
    """The whole picture."""
    parts, height = [], TOP + 2 * PANEL + GAP + 44
    made = couplings()
    least = float((made[1][1] - made[1][2]).square().sum(1).mean())
    for k, (title, x0, x1) in enumerate(made):
        left = 10 + k * (PANEL + GAP)
        middle = left + PANEL // 2
        cost = float((x0 - x1).square().sum(1).mean()) / least
        parts.append(f'  <text x="{middle}" y="20">{title}</text>\n')
        told = f"cost {cost:.2f}, unlearnable {100 * unexplained(x0, x1):.0f} %"
        parts.append(f'  <text class="what" x="{middle}" y="{height - 10}">{told}</text>\n')

        def place(x: Tensor, top: int, row: int, left: int = left) -> tuple[float, float]:
            scale = PANEL / (2 * (3.0 if row else 5.2))
            return left + PANEL / 2 + scale * float(x[0]), top + PANEL / 2 - scale * float(x[1])

        rows = range(0, N, N // SHOWN)
        for row, top in ((0, TOP), (1, TOP + PANEL + GAP)):
            parts.append(f'  <rect x="{left}" y="{top}" width="{PANEL}" height="{PANEL}"/>\n')
            for i in rows:
                a, b = x0[i], x1[i]
                if row == 1:  # a short stretch of the path
                    a, b = (torch.lerp(a, b, TIME + h) for h in (-0.07, 0.07))
                (ax, ay), (bx, by) = place(a, top, row), place(b, top, row)
                parts.append(f'  <line x1="{ax:.1f}" y1="{ay:.1f}" x2="{bx:.1f}" y2="{by:.1f}"/>\n')
                ends = [(DATA, bx, by)] if row else [(BASE, ax, ay), (DATA, bx, by)]
                for colour, x, y in ends:
                    radius = 2.2 if row == 0 else 1.6
                    parts.append(
                        f'  <circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>\n'
                    )
    return (
        f'<svg class="couplings-picture" xmlns="http://www.w3.org/2000/svg" role="img"'
        f' aria-labelledby="couplings-title" viewBox="0 0 {WIDTH} {height}" width="100%">\n'
        '  <title id="couplings-title">Pairs of the independent coupling cross everywhere; optimal'
        " pairs do not; entropic ones cross a little</title>\n"
        f"  <style>{STYLE}  </style>\n" + "".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "couplings.svg").write_text(picture())
