"""Write pairs.svg, what becomes of pairs whose paths cross: python docs/figures/make_pairs.py.

The fields are exact, of pairs x1 = -x0 + 0.1 w with a standard normal x0, and the library moves
along them.
"""

from pathlib import Path

import torch
from torch import Tensor

import transportflows as tpf

SPREAD, A = 0.1, 0.3
WIDTH, HEIGHT, PANEL, TOP, GAP = 640, 236, 180, 40, 40
COLOURS = ("#2f6bff", "#0f9d8a", "#8a5cd6", "#d64f7f", "#d9822b")
STYLE = """
    .pairs-picture text { font: 14px var(--font-stack, system-ui, Helvetica, Arial, sans-serif);
      fill: var(--color-foreground-primary, #1c1c1e); text-anchor: middle; }
    .pairs-picture .what { font-size: 12px; fill: var(--color-foreground-secondary, #5a5c63); }
    .pairs-picture polyline { fill: none; stroke-width: 1.6; }
    .pairs-picture rect { fill: none; stroke: var(--color-foreground-muted, #6b6f76); }
    @media (prefers-color-scheme: dark) { .pairs-picture:root { background: #131416; } }
"""


def plain(t: Tensor, x: Tensor) -> Tensor:
    """E[x1 - x0 | x_t] of x_t = (1 - t) x0 + t x1."""
    t = t.reshape(-1, 1)
    return x * (4 * t - 2 + SPREAD**2 * t) / ((1 - 2 * t) ** 2 + SPREAD**2 * t**2)


def told(what: str):
    """E[x1 - x0 | x_t, x0], or E[z | x_t, x0], of the path with γ² = a t (1 - t)."""

    def net(t: Tensor, x: Tensor, *, x0: Tensor) -> Tensor:
        t = t.reshape(-1, 1)
        square = A * t * (1 - t)
        rest = (x - (1 - 2 * t) * x0) / (SPREAD**2 * t**2 + square).clamp(min=1e-30)
        return square.sqrt() * rest if what == "noise" else -2 * x0 + SPREAD**2 * t * rest

    return net


def panels() -> list[tuple[str, str, Tensor]]:
    """A title, what is under it, and paths (T, rows)."""
    x0 = torch.linspace(-1.6, 1.6, 5, dtype=torch.float64)[:, None]
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    straight = torch.stack([(1 - t) * x0 - t * x0 for t in times])
    velocity = tpf.Velocity(plain, tpf.Process(tpf.Linear(), coupling=tpf.Paired()))
    turned = tpf.sample(velocity, start=x0, steps=1000, scheme="rk4", save_at=times).trajectory
    coupling = tpf.Paired(condition_on_start=True)
    process = tpf.Process(tpf.Linear(tpf.Brownian(A)), coupling=coupling)
    pair = tpf.FieldPair(mean_velocity=told("velocity"), noise=told("noise"), process=process)
    moved = tpf.sample(
        pair, start=x0, steps=400, epsilon=tpf.solve.NoiseScaleEpsilon(0.3), save_at=times,
        generator=torch.Generator().manual_seed(1),
    ).trajectory  # fmt: skip
    return [
        ("the pairs", "x1 = -x0", straight[..., 0]),
        ("a plain velocity", "correlation +1", turned[..., 0]),
        ("told of the start, ε > 0", "correlation -1", moved[..., 0]),
    ]


def picture() -> str:
    """The whole picture."""
    parts = []
    for k, (title, what, paths) in enumerate(panels()):
        left, middle = 10 + k * (PANEL + GAP), 10 + k * (PANEL + GAP) + PANEL // 2
        parts.append(f'  <text x="{middle}" y="20">{title}</text>\n')
        parts.append(f'  <text class="what" x="{middle}" y="{HEIGHT - 6}">{what}</text>\n')
        parts.append(f'  <rect x="{left}" y="{TOP - 8}" width="{PANEL}" height="{PANEL - 6}"/>\n')
        for row, colour in enumerate(COLOURS):
            places = [
                f"{left + PANEL * i / (len(paths) - 1):.1f},{TOP + 79 - 40 * float(x):.1f}"
                for i, x in enumerate(paths[:, row])
            ]
            parts.append(f'  <polyline stroke="{colour}" points="{" ".join(places)}"/>\n')
    return (
        f'<svg class="pairs-picture" xmlns="http://www.w3.org/2000/svg" role="img"'
        f' aria-labelledby="pairs-title" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%">\n'
        '  <title id="pairs-title">Pairs whose paths cross: straight paths; a plain velocity turns'
        " back at the middle; a field told of the start does not</title>\n"
        f"  <style>{STYLE}  </style>\n" + "".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "pairs.svg").write_text(picture())
