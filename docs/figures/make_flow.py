"""Write flow.svg, the picture of how data flow: python docs/figures/make_flow.py.

The picture is put into the page as it is (not as an <img>), so its colours are those of the page,
light or dark; opened alone it follows the browser.
"""

from pathlib import Path

WIDTH, ROW, BOX_WIDTH, BOX_HEIGHT = 480, 96, 208, 60
LEFT, RIGHT, TOP = 4, WIDTH - 4 - 208, 44

STYLE = """
    .flow-picture { --ink: var(--color-foreground-primary, #1c1c1e);
      --soft: var(--color-foreground-secondary, #5a5c63);
      --line: var(--color-foreground-muted, #6b6f76);
      --train: var(--color-brand-primary, #0a4bff);
      --fill: var(--color-background-secondary, #f8f9fb); }
    @media (prefers-color-scheme: dark) { .flow-picture:root { --ink: #e6e6e6; --soft: #a8a8ad;
      --line: #8a8d93; --train: #6f9bff; --fill: #1a1c1e; background: #131416; } }
    .flow-picture text { font-family: var(--font-stack, system-ui, Helvetica, Arial, sans-serif);
      font-size: 15px; fill: var(--ink); text-anchor: middle; }
    .flow-picture .head { font-weight: 600; font-size: 17px; }
    .flow-picture .what { font-size: 13px; fill: var(--soft); }
    .flow-picture rect { fill: var(--fill); stroke: var(--line); stroke-width: 1.2; }
    .flow-picture .noun { font-weight: 600;
      font-family: var(--font-stack--monospace, Menlo, Consolas, monospace); }
    .flow-picture .shared { stroke: var(--train); stroke-width: 2.2; }
    .flow-picture path { fill: none; stroke: var(--line); stroke-width: 1.6;
      marker-end: url(#flow-tip); }
    .flow-picture .learn { stroke-dasharray: 5 4; }
    .flow-picture marker path { fill: var(--line); stroke: none; marker-end: none; }
"""

# column, row, title, is it a noun of the library?, what it is
BOXES = [
    (LEFT, 0, "data", False, "x1, rows of a tensor"),
    (LEFT, 1, "Process.sample", True, "interpolant, base, coupling"),
    (LEFT, 2, "PathSample", True, "t, x_t, and its targets"),
    (LEFT, 3, "Field", True, "a network with a meaning"),
    (LEFT, 4, "Loss", True, "one value a row"),
    (RIGHT, 0, "start", False, "the base, or states of yours"),
    (RIGHT, 1, "Dynamics", True, "drift b ± ε s, tabulated"),
    (RIGHT, 2, "integrate", True, "grid, scheme, noise"),
    (RIGHT, 3, "Solution", True, "x, trajectory, nfe"),
    (RIGHT, 4, "metric", False, "against data held out"),
]


def top(row: int) -> int:
    """The upper edge of a row of boxes."""
    return TOP + ROW * row


def box(x: int, row: int, title: str, noun: bool, what: str) -> str:
    """A box with its two lines of text."""
    middle, y = x + BOX_WIDTH // 2, top(row)
    kind = ' class="shared"' if title == "Field" else ""
    style = ' class="noun"' if noun else ' font-weight="600"'
    return (
        f'  <rect{kind} x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"/>\n'
        f'  <text{style} x="{middle}" y="{y + 26}">{title}</text>\n'
        f'  <text class="what" x="{middle}" y="{y + 46}">{what}</text>\n'
    )


def picture() -> str:
    """The SVG."""
    height = top(4) + BOX_HEIGHT + 6
    parts = [box(*entry) for entry in BOXES]
    for x in (LEFT, RIGHT):
        for row in range(4):
            middle = x + BOX_WIDTH // 2
            parts.append(f'  <path d="M{middle} {top(row) + BOX_HEIGHT}V{top(row + 1) - 3}"/>\n')
    left, right = LEFT + BOX_WIDTH, RIGHT
    gap = (left + right) // 2
    # the field drives the dynamics, and learns from the loss
    field, dynamics = top(3) + BOX_HEIGHT // 2, top(1) + BOX_HEIGHT // 2
    parts.append(f'  <path d="M{left} {field - 12}H{gap}V{dynamics}H{right - 3}"/>\n')
    loss = top(4) + BOX_HEIGHT // 2
    parts.append(f'  <path class="learn" d="M{left} {loss}H{gap}V{field + 12}H{left + 3}"/>\n')
    return (
        f'<svg class="flow-picture" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH}'
        f' {height}" role="img" aria-labelledby="flow-title flow-text">\n'
        '  <title id="flow-title">How data flow</title>\n'
        '  <desc id="flow-text">Training: data, Process.sample, PathSample, Field, Loss, and the'
        " gradient back to the field. Sampling: start, Dynamics, integrate, Solution, metric. The"
        " field that was trained gives the drift of the dynamics.</desc>\n"
        f"  <style>{STYLE}  </style>\n"
        '  <defs><marker id="flow-tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8Z"/></marker></defs>\n'
        f'  <text class="head" x="{LEFT + BOX_WIDTH // 2}" y="24">Training</text>\n'
        f'  <text class="head" x="{RIGHT + BOX_WIDTH // 2}" y="24">Sampling</text>\n'
        + "".join(parts)
        + f'  <text class="what" transform="translate({gap - 6} {(field + dynamics) // 2})'
        ' rotate(-90)">velocity, score</text>\n'
        f'  <text class="what" transform="translate({gap - 6} {(loss + field) // 2 + 6})'
        ' rotate(-90)">gradient</text>\n'
        "</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "flow.svg").write_text(picture())
