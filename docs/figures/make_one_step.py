"""Write one_step.svg, the error of flow maps against the number of jumps, for every loss.

Run python docs/figures/make_one_step.py. The errors of the losses are those that
benchmarks/flow_maps.py has kept (means over seeds, d = 2, eight sharp modes); grey are Euler and
midpoint steps of the exact field, by network calls, measured here with the same starts.
"""

import math
import statistics
import sys
from pathlib import Path

import torch

import transportflows as tpf

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import flow_maps

CALLS = (1, 2, 4, 8, 16)
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 430, 52, 14, 400, 380
LEAST, MOST, APART = 0.005, 2.0, 17
TAUGHT, SELF = "#0f9d8a", "#8a5cd6"
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 4")
STYLE = """
    .one-step-picture text { font: 12px var(--font-stack, system-ui, Helvetica, Arial, sans-serif);
      fill: var(--color-foreground-primary, #1c1c1e); }
    .one-step-picture .grid { stroke: var(--color-foreground-muted, #6b6f76); stroke-opacity: 0.3; }
    .one-step-picture polyline { fill: none; stroke-width: 1.8; }
    .one-step-picture .end { stroke-width: 0.8; stroke-opacity: 0.6; }
    .one-step-picture .solver { stroke: var(--color-foreground-muted, #6b6f76); }
    @media (prefers-color-scheme: dark) { .one-step-picture:root { background: #131416; } }
"""
Line = tuple[str, str, list[float]]  # a name, a colour, errors by calls


def solvers() -> list[Line]:
    """Of the exact field itself."""
    x, end, _, scale = flow_maps.ends(2, torch.Generator().manual_seed(1_000))
    oracle, lines = flow_maps.problem(2)[2], []
    for scheme, calls in (("euler", 1), ("midpoint", 2)):
        errors = [math.nan] * (calls - 1)
        for k in CALLS[calls - 1 :]:
            found = tpf.sample(oracle, start=x.double(), steps=k // calls, scheme=scheme).x
            errors.append(flow_maps.rms(found - end) / scale)
        lines.append((f"exact field, {scheme}", "", errors))
    return lines


def losses() -> list[Line]:
    """Of the maps that were trained."""
    lines: list[Line] = []
    for name in flow_maps.LOSSES:
        rows = flow_maps.ROWS.rows(d=2, loss=name, budget=flow_maps.BUDGET)
        keys = ["rms", *(f"steps {k}" for k in CALLS[1:])]
        if rows:
            errors = [statistics.mean(float(row[key]) for row in rows) for key in keys]
            taught = "teacher" in name or "distillation" in name
            lines.append((name, TAUGHT if taught else SELF, errors))
    return lines


def place(call: float, error: float) -> tuple[float, float]:
    """Where a point of the plot is, both axes logarithmic."""
    x = LEFT + 12 + (RIGHT - LEFT - 24) * math.log(call) / math.log(CALLS[-1])
    height = math.log(error / LEAST) / math.log(MOST / LEAST)
    return x, BOTTOM - (BOTTOM - TOP) * height


def apart(heights: list[float]) -> list[float]:
    """Heights of labels that do not touch, in the order given, lowest line first."""
    found = sorted(heights)
    for _ in range(200):
        for i in range(len(found) - 1):
            if (short := APART - (found[i + 1] - found[i])) > 0:
                found[i] -= short / 2
                found[i + 1] += short / 2
        shift = min(0.0, BOTTOM + 30 - found[-1])
        found = [max(y + shift, TOP + 6) for y in found]
    return found


def picture() -> str:
    """The whole picture."""
    parts = []
    for error in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0):
        y = place(1, error)[1]
        parts.append(f'  <line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}"/>\n')
        parts.append(f'  <text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{error:g}</text>\n')
    for call in CALLS:
        x = place(call, 1)[0]
        parts.append(f'  <text x="{x:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{call}</text>\n')
    middle = (LEFT + RIGHT) / 2
    parts.append(
        f'  <text x="{middle}" y="{BOTTOM + 38}" text-anchor="middle">jumps, or calls of the'
        " field</text>\n"
    )
    lines, order = [*solvers(), *losses()], dict.fromkeys((TAUGHT, SELF, ""), 0)
    drawn = []
    for name, colour, errors in lines:
        points = [
            place(k, min(error, MOST))
            for k, error in zip(CALLS, errors, strict=True)
            if not math.isnan(error)
        ]
        dash, order[colour] = DASHES[order[colour]], order[colour] + 1
        drawn.append((points[-1][1], name, colour, dash, points))
    drawn.sort()
    for label, (_, name, colour, dash, points) in zip(
        apart([line[0] for line in drawn]), drawn, strict=True
    ):
        paint = f'stroke="{colour}"' if colour else 'class="solver"'
        (x, y), text = points[-1], RIGHT + 22
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'  <polyline {paint} stroke-dasharray="{dash}" points="{path}"/>\n')
        if len(points) == 1:
            parts.append(f'  <circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>\n')
        else:
            parts.append(
                f'  <line class="end{"" if colour else " solver"}" {paint if colour else ""}'
                f' x1="{x:.1f}" y1="{y:.1f}" x2="{text - 4}" y2="{label:.1f}"/>\n'
            )
        note = name if len(points) > 1 else f"• {name}"
        parts.append(f'  <text x="{text}" y="{label + 4:.1f}">{note}</text>\n')
    return (
        f'<svg class="one-step-picture" xmlns="http://www.w3.org/2000/svg" role="img"'
        f' aria-labelledby="one-step-title" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%">\n'
        '  <title id="one-step-title">Error of the end over the deviation of the data, against the'
        " number of jumps, for every loss and for solvers of the exact field</title>\n"
        f"  <style>{STYLE}  </style>\n" + "".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "one_step.svg").write_text(picture())
