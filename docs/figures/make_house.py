"""Write house.svg, the picture of which room has which formula: python docs/figures/make_house.py.

What stands on what is read from the imports of the source: a room is drawn below all that it
imports from. Rooms that import from each other are drawn side by side.
"""

import ast
from html import escape
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "transportflows"
COLUMNS, BOX_WIDTH, GAP, TOP, LINE = 3, 264, 10, 8, 17
WIDTH = COLUMNS * (BOX_WIDTH + GAP) - GAP + 4

STYLE = """
    .house-picture { --ink: var(--color-foreground-primary, #1c1c1e);
      --soft: var(--color-foreground-secondary, #5a5c63);
      --line: var(--color-foreground-muted, #6b6f76);
      --fill: var(--color-background-secondary, #f8f9fb); }
    @media (prefers-color-scheme: dark) { .house-picture:root { --ink: #e6e6e6; --soft: #a8a8ad;
      --line: #8a8d93; --fill: #1a1c1e; background: #131416; } }
    .house-picture text { font-family: var(--font-stack, system-ui, Helvetica, Arial, sans-serif);
      font-size: 12px; fill: var(--soft); text-anchor: middle; }
    .house-picture rect { fill: var(--fill); stroke: var(--line); stroke-width: 1.2; }
    .house-picture .room { font-weight: 600; font-size: 14px; fill: var(--ink);
      font-family: var(--font-stack--monospace, Menlo, Consolas, monospace); }
    .house-picture path { stroke: var(--line); stroke-dasharray: 2 4; }
"""

# What is in a room: two lines at most.
ROOMS = {
    "_core": ["shapes, random streams, derivatives in", "time, refusals, file format, processes"],
    "combination": ["w_x x + w_m m + Σ w_k f_k"],
    "conversions": ["b, v, s, η̂, d, each from the others"],
    "couplings": ["the joint law of (x0, x1)"],
    "datasets": ["planar laws, digits,", "images of a folder"],
    "distributions": ["base and starting laws: sample, log ρ0"],
    "draws": ["batches; draws x_t with ẋ_t and ẑ"],
    "estimators": ["fit, sample, score_samples of tables,", "as scikit-learn has them"],
    "fields": [
        "a network for b, v, s, η̂ or d = E[ · | x_t]",
        "EDM: c_skip x + c_out F; saved fields",
    ],
    "gaussian_part": [
        "x_t = α m + β x1 + σ̂ ẑ: σ̂², σ̂σ̂̇, Δ, λ,",
        "g²/2 = σ̂² λ̇, Tweedie, t of a noise level",
    ],
    "bridges": ["π = f e^{−|x1 − x0|²/2a} g; b ± (a/2) s:", "exact, light, iterated bridges"],
    "guidance": ["Σ w_i f_i, s + ∇r as fields;", "weights of Π p_i^{w_i} e^r along the SDE"],
    "interpolants": ["x_t = I(t, x0, x1) + γ(t) z", "α, β, γ² and their derivatives"],
    "inverse": [
        "d + Cov Aᵀ (σ² + A Cov Aᵀ)⁻¹ (y − A d),",
        "its methods; weights for p(x | y)",
    ],
    "langevin": ["x + h s + √(2h) z: chains, MALA,", "annealed, correctors; ascent to modes"],
    "likelihood": [
        "log ρ1 = log ρ0 − ∫ ∇ · b dt, Hutchinson;",
        "the bound of a chain, in nats and bits",
    ],
    "losses": ["½ w |f̂ − T|², weights w(λ),", "score matching, the variational bound"],
    "maps": ["X_{s,t}(x) = x + (t − s) v_{s,t}(x):", "one call, few calls, log |det ∇X|"],
    "metrics": ["W2, MMD², energy, KL, Fisher, Fréchet,", "with floors and errors; diagnostics"],
    "networks": ["net(t, x, **cond): MLP, U-Net, DiT;", "those of other libraries as fields"],
    "noise_level": ["λ, σ, SNR at given times, for weights"],
    "observations": ["y = A x + σ n: masks, blurs, adjoints"],
    "oracles": ["b, s, d, log ρ_t of Gaussian mixtures", "and of data, exactly"],
    "particles": [
        "y + η (E_p[K x]/E_p[K] − E_q[K y]/E_q[K])",
        "MMD flow, SVGD; generators of one call",
    ],
    "plans": ["min ⟨P, C⟩ and min ⟨P, C⟩ + ε KL,", "with certificates"],
    "plots": ["pictures of samples, ways,", "fields, runs, pairs, errors"],
    "process": ["interpolant + base + coupling: ρ_t"],
    "samplers": [
        "x + h b + |h| ε s + noise: Heun, RK4;",
        "DDIM, DPM-Solver++, DEIS, UniPC; sample",
    ],
    "sdes": ["dX = f X dτ + g dW, τ = 1 − t:", "VP, VE, sub-VP, chains ᾱ_k"],
    "solve": ["grids, ε(t), increments √(2ε) ΔW,", "steppers, hooks, the one step loop"],
    "exam": ["the exam of testing as a command"],
    "testing": ["is this path, field, scheme right?", "the exam of a trained field"],
    "times": ["laws of the training times, by t, λ or σ"],
    "training": ["minimise the mean loss; averages,", "schedules, checkpoints, callbacks"],
    "transforms": ["(x − mean) / scale"],
}


def imports() -> dict[str, set[str]]:
    """The rooms that each room imports from, under TYPE_CHECKING and in functions too."""
    found: dict[str, set[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        *folder, file = path.relative_to(SOURCE).parts
        room = folder[0] if folder else file.removesuffix(".py")
        if room == "__init__":
            continue
        needs = found.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                start = folder[: len(folder) - node.level + 1]
                needs.update(start[:1] or [name.split(".")[0] for name in names])
    return {room: needs & found.keys() - {room} for room, needs in found.items()}


def layers() -> list[list[str]]:
    """Rooms by layers, each layer below all that it imports from."""
    left, found = imports(), []
    while left:
        reach = {room: _reachable(room, left) for room in left}
        ready = [room for room in left if all(room in reach[other] for other in reach[room])]
        found.append(sorted(ready))
        left = {room: needs - set(ready) for room, needs in left.items() if room not in ready}
    return found


def _reachable(room: str, needs: dict[str, set[str]]) -> set[str]:
    found, new = set[str](), {room}
    while new:
        found |= new
        new = {other for name in new for other in needs[name]} - found
    return found


def picture() -> str:
    """The SVG."""
    y, parts = TOP, []
    for layer in layers():
        if parts:
            parts.append(f'  <path d="M0 {y - GAP / 2:.0f}H{WIDTH}"/>\n')
            y += GAP // 2
        for start in range(0, len(layer), COLUMNS):
            row = layer[start : start + COLUMNS]
            height = 30 + LINE * max(len(ROOMS[room]) for room in row)
            left = (WIDTH - len(row) * (BOX_WIDTH + GAP) + GAP) // 2
            for room in row:
                middle = left + BOX_WIDTH // 2
                parts.append(
                    f'  <rect x="{left}" y="{y}" width="{BOX_WIDTH}" height="{height}" rx="6"/>\n'
                    f'  <text class="room" x="{middle}" y="{y + 19}">{room}</text>\n'
                )
                parts += [
                    f'  <text x="{middle}" y="{y + 19 + LINE * k}">{escape(line)}</text>\n'
                    for k, line in enumerate(ROOMS[room], 1)
                ]
                left += BOX_WIDTH + GAP
            y += height + GAP
    return (
        f'<svg class="house-picture" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}"'
        ' role="img" aria-labelledby="house-title house-text">\n'
        '  <title id="house-title">The house: which room has which formula</title>\n'
        '  <desc id="house-text">The folders and files of the package, in layers: each imports'
        " only from the layers above it.</desc>\n"
        f"  <style>{STYLE}  </style>\n" + "".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "house.svg").write_text(picture())
