"""The tables and the picture of ``mask_to_image.py``, of what its cells have made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from _common import table

__all__ = ["write"]

Cell = tuple[str, str, bool]
Statistic = Callable[[Tensor], Tensor]
_At = tuple[Cell, float]

LEGEND = """
- *seen*: rms error of pixels outside the hole (they are in [-1, 1]); *border*: of those of them
  within two pixels of the hole; *background*: of those of them that are black; *level*: their mean
  signed error; *seam*: rms jump across the edge of the hole over that of the digits themselves (1
  for a filling that no one sees).
- *hole*: rms error in the hole, and *spread*: rms distance of two fillings of one hole. For exact
  draws of p(x1 | seen) they are equal, *spread/hole* = 1; below it fillings vary too little.
- *reader*: a small convolutional network, trained on the same {train} digits, says the true label:
  of the image with what is seen put back (*filled*), and of the sample as it is (*whole*).
- *energy*: energy distance of the images with what is seen put back to {others} other held-out
  digits, without bias, over that of the true digits (its floor, {floor}), and
  *energy, whole* that of the samples as they are; *nearest*: mean distance of the samples to the
  nearest of those digits.
- *rough*: squared differences of neighbouring pixels in the hole over those of the true digits;
  below 1 the filling is smoother than digits are.
- *off the ODE*: rms distance of a sample from that of ε = 0 from the same start.
- *first tenth*, *middle fifth*, *last tenth* of time: how far states of ε = 0 go in the hole there,
  as a share of the sum over all tenths of the rms (0.1, 0.2 and 0.1 for an even pace). *ε limited*:
  where a step of RK4 follows less ε than was asked for, since γ is small.
"""


class Figures:
    """What is measured of the samples of a cell at one ε, as statistics of weights of images."""

    def __init__(self, ex: Any, given: Any, reader: Any, x: Tensor, ode: Tensor | None) -> None:
        mask, x1 = given.mask, given.x1
        near = torch.nn.functional.max_pool2d((~mask).float(), 5, 1, 2).bool() & mask
        error, filled = (x - x1).square(), torch.where(mask, x1, x)
        got = ex.measure(x, x1, mask)

        def agrees(y: Tensor) -> Tensor:
            return torch.stack([(reader(one) == given.labels).float() for one in y]).mean(0)

        def closest(y: Tensor) -> Tensor:
            others = given.others.flatten(1)
            return torch.stack([torch.cdist(o, others).amin(1) for o in y.flatten(2)]).mean(0)

        def over(y: Tensor) -> Statistic:
            made, floor = ex.energy(y, given.others), ex.energy(x1[None], given.others)
            return lambda w: made(w) - floor(w)

        self.of: dict[str, Statistic] = {
            "seen": ex.mean(got["seen"], root=True),
            "border": ex.mean(ex.inside(error, near), root=True),
            "background": ex.mean(ex.inside(error, mask & (x1 < -0.99)), root=True),
            "level": ex.mean(ex.inside(x - x1, mask)),
            "seam": ex.ratio(jumps(filled, mask), jumps(x1[None], mask), root=True),
            "hole": ex.mean(got["hole"], root=True),
            "spread": ex.mean(got["spread"], root=True),
            "spread/hole": ex.ratio(got["spread"], got["hole"], root=True),
            "reader, filled": ex.mean(agrees(filled)),
            "reader, whole": ex.mean(agrees(x)),
            "energy": over(filled),
            "energy, whole": over(x),
            "nearest": ex.mean(closest(x)),
            "rough": ex.ratio(roughness(x, mask), roughness(x1[None], mask)),
        }
        if ode is not None:
            away = (x - ode).square()
            self.of["off the ODE, seen"] = ex.mean(ex.inside(away, mask), root=True)
            self.of["off the ODE, hole"] = ex.mean(ex.inside(away, ~mask), root=True)


def jumps(x: Tensor, mask: Tensor) -> Tensor:
    """Squared differences of neighbours of which one is seen and one is not, ``(n,)``."""
    return _differences(x, lambda a, b: a != b, mask)


def roughness(x: Tensor, mask: Tensor) -> Tensor:
    """Squared differences of neighbours that are both in the hole, ``(n,)``."""
    return _differences(x, lambda a, b: ~a & ~b, mask)


def _differences(x: Tensor, where: Callable[[Tensor, Tensor], Tensor], mask: Tensor) -> Tensor:
    total = torch.zeros(x.shape[1])
    for axis in (-1, -2):
        n = x.shape[axis]
        low, high = (m.narrow(axis, k, n - 1) for k in (0, 1) for m in (mask,))
        step = (x.narrow(axis, 1, n - 1) - x.narrow(axis, 0, n - 1)).square()
        total += (step * where(low, high)).sum((2, 3, 4)).mean(0)
    return total


def write(
    results: Path,
    head: str,
    ex: SimpleNamespace,
    given: SimpleNamespace,
    found: Mapping[Cell, dict[str, Any]],
    args: Any,
) -> None:
    """The report and the picture beside it."""
    reader = ex.Reader(given.train)
    n = len(given.x1)

    def shown(statistic: Statistic) -> str:
        value, low, high = ex.bootstrap(statistic, n)
        if value != value or low == high:  # of the true digits themselves
            return "" if value != value else f"{value:.3f}"
        return f"{value:.3f} ({low:.3f}, {high:.3f})"

    figures: dict[Cell, dict[float, Figures | str]] = {}
    for cell, one in found.items():
        figures[cell] = {}
        ode = None
        for epsilon, solution in one.get("solutions", {}).items():
            if isinstance(solution, str):
                figures[cell][epsilon] = solution
                continue
            figures[cell][epsilon] = Figures(ex, given, reader, solution["x"], ode)
            ode = solution["x"] if epsilon == 0 else ode
    truth = Figures(ex, given, reader, given.x1.expand(2, *given.x1.shape), None)
    read = float((reader(given.others) == given.other_labels).float().mean())
    used = [one for one in found.values() if "solutions" in one]
    parts = [
        head,
        _set_up(given, used, args, read),
        "",
        LEGEND.format(
            train=len(given.train),
            others=len(given.others),
            floor=shown(ex.energy(given.x1[None], given.others)),
        ),
    ]
    sheets = {
        "Outside the hole": ["seen", "border", "background", "level", "seam"],
        "Inside it": ["hole", "spread", "spread/hole", "reader, filled", "energy"],
        "The whole sample": ["reader, whole", "energy, whole", "nearest", "rough"],
        "Drift with ε": ["off the ODE, seen", "off the ODE, hole"],
    }
    for title, columns in sheets.items():
        rows = []
        if "Drift" not in title:
            rows.append(["the digits themselves", "", *(shown(truth.of[c]) for c in columns)])
        for cell, by_epsilon in figures.items():
            for epsilon, fig in by_epsilon.items():
                if isinstance(fig, Figures) and columns[0] in fig.of:
                    rows.append([_name(cell), f"{epsilon:g}", *(shown(fig.of[c]) for c in columns)])
        parts += [f"\n## {title}\n", table(["path, latent", "ε", *columns], rows)]
    parts += ["\n## The schedule at the ends\n", _schedule(ex, found, shown)]
    parts += ["\n## What the library refuses\n", _refusals(found, figures)]
    parts += ["\n## Comparisons\n", _comparisons(ex, figures, n)]
    picture = results.with_suffix(".png")
    _draw(picture, given, found)
    parts += [f"\n![Fillings]({picture.name})\n"]
    results.write_text("\n".join(parts))
    print("\n".join(parts))


def _name(cell: Cell) -> str:
    return f"{cell[0]}, {cell[1]}" + (", told what is seen" if cell[2] else "")


def _set_up(given: Any, used: list[dict[str, Any]], args: Any, read: float) -> str:
    train = sorted(one["seconds"][0] for one in used)
    sample = sorted(one["seconds"][1] for one in used)
    sizes = sorted({one["parameters"] for one in used})
    return (
        f"{len(given.train):,} digits to train on, {len(given.x1)} held-out digits with a hole"
        f" each, two fillings of each; networks of {sizes[0]:,} to {sizes[-1]:,} parameters,"
        f" {args.steps:,} steps of {args.batch_size} rows, {train[0]:.0f} to {train[-1]:.0f} s of"
        f" one core each, and {sample[0]:.0f} to {sample[-1]:.0f} s to fill. The reader is right"
        f" on {read:.3f} of the other held-out digits."
    )


def _schedule(ex: Any, found: Mapping[Cell, dict[str, Any]], shown: Any) -> str:
    rows = []
    for cell, one in found.items():
        made = {e: s for e, s in one.get("solutions", {}).items() if not isinstance(s, str)}
        if made:
            moved = made[0.0]["moved"]
            shares = [moved[0], moved[4] + moved[5], moved[9]]
            limited = [
                f"ε = {e:g}: {', '.join(f'{a:.2g} to {b:.2g}' for a, b in s['limited'])}"
                for e, s in made.items()
                if s["limited"]
            ]
            rows.append(
                [
                    _name(cell),
                    *(shown(ex.ratio(share, moved.sum(0))) for share in shares),
                    f"{float(moved.sum(0).mean()):.2f}",
                    "; ".join(limited),
                ]
            )
    head = ["path, latent", "first tenth", "middle fifth", "last tenth", "sum", "ε limited in"]
    return table(head, rows)


def _refusals(
    found: Mapping[Cell, dict[str, Any]], figures: Mapping[Cell, Mapping[float, Any]]
) -> str:
    rows = [[_name(cell), "any", one["refused"]] for cell, one in found.items() if "refused" in one]
    for cell, by_epsilon in figures.items():
        texts = {e: why for e, why in by_epsilon.items() if isinstance(why, str)}
        if texts:
            why = next(iter(texts.values()))
            rows.append([_name(cell), ", ".join(f"{e:g}" for e in texts), why])
    return table(["path, latent", "ε", "what it says"], rows)


def _comparisons(ex: Any, figures: Mapping[Cell, Mapping[float, Any]], n: int) -> str:
    """Differences of two rows, of the same images."""

    def sheet(title: str, columns: list[str], pairs: list[tuple[str, _At, _At]]) -> str:
        rows = []
        for name, (cell, epsilon), (other, less) in pairs:
            one, two = figures.get(cell, {}).get(epsilon), figures.get(other, {}).get(less)
            if isinstance(one, Figures) and isinstance(two, Figures):
                rows.append([name, *(difference(one.of[c], two.of[c]) for c in columns)])
        return f"\n### {title}\n\n{table(['', *columns], rows)}"

    def difference(one: Statistic, two: Statistic) -> str:
        value, low, high = ex.bootstrap(lambda w: one(w) - two(w), n)
        text = f"{value:+.3f} ({low:+.3f}, {high:+.3f})"
        return text if low <= 0 <= high else f"**{text}**"

    latents = [cell for cell in figures if cell[1] != "none"]
    whole = ["seen", "background", "level", "reader, whole", "rough", "energy, whole", "nearest"]
    parts = ["Bold where the interval is without 0; each is one of 95 %, whatever their number."]
    for more, less in ((0.5, 0.0), (0.25, 0.0), (0.5, 0.25)):
        pairs = [(_name(cell), (cell, more), (cell, less)) for cell in latents]
        parts.append(sheet(f"ε = {more:g} less ε = {less:g}", whole, pairs))
    pairs = []
    for cell in figures:
        if cell[0] == "trigonometric":
            for epsilon in figures[cell]:
                other = ("linear", *cell[1:])
                pairs.append((f"{cell[1]}, ε = {epsilon:g}", (cell, epsilon), (other, epsilon)))
    ends = ["seen", "border", "seam", "hole", "spread/hole", "reader, filled", "energy"]
    parts.append(sheet("Trigonometric less linear", ends, pairs))
    pairs = []
    for cell in (cell for cell in figures if cell[2]):
        for epsilon in figures[cell]:
            other = (*cell[:2], False)
            pairs.append((f"{_name(cell)}, ε = {epsilon:g}", (cell, epsilon), (other, epsilon)))
    told = ["seen", "hole", "spread/hole", "reader, filled", "reader, whole", "energy"]
    parts.append(sheet("Told what is seen, less not told", told, pairs))
    return "\n".join(parts)


def _draw(path: Path, given: Any, found: Mapping[Cell, dict[str, Any]]) -> None:
    """A block of columns for each path: the same digits, filled at each ε."""
    from matplotlib.figure import Figure
    from PIL import Image

    few = slice(0, 8)
    x1, mask = given.x1[few], given.mask[few]
    blocks: list[tuple[str, list[Tensor]]] = [
        ("digit,\nseen", [x1, torch.where(mask, x1, torch.full_like(x1, 0.3))])
    ]
    for cell, one in found.items():
        made = [s for s in one.get("solutions", {}).values() if not isinstance(s, str)]
        if made:
            title = f"{cell[0]},\n{cell[1]}" + ("\ntold" if cell[2] else "")
            blocks.append((title, [s["x"][0, few] for s in made]))
    half = (len(blocks) + 1) // 2
    figure = Figure(figsize=(15, 12), layout="constrained")
    for row, some in enumerate((blocks[:half], [blocks[0], *blocks[half:]])):
        axes = figure.add_subplot(2, 1, row + 1)
        sheet, places, left = [], [], 0
        for title, images in some:
            columns = [torch.nn.functional.pad(x, (1, 1, 1, 1), value=0.3) for x in images]
            block = torch.cat([x.permute(1, 0, 2, 3).flatten(1, 2)[0] for x in columns], 1)
            sheet.append(torch.nn.functional.pad(block, (6, 6, 0, 0), value=1.0))
            places.append((left + sheet[-1].shape[1] / 2, title))
            left += sheet[-1].shape[1]
        axes.imshow(torch.cat(sheet, 1).clamp(-1, 1).numpy(), cmap="gray", vmin=-1, vmax=1)
        axes.set_yticks([])
        axes.set_xticks([at for at, _ in places], [title for _, title in places], fontsize=9)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_frame_on(False)
    figure.suptitle(
        "Held-out digits, filled from the same starts; columns of a block: ε = 0, 0.25, 0.5"
    )
    figure.savefig(path, dpi=90)
    Image.open(path).convert("L").quantize(32).save(path, optimize=True)  # a fifth of the bytes
