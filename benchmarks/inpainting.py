"""Inpainting of held-out digits: our methods, azula's and deepinv's with the same network.

The U-Net of `digits.py`, without a label, is the prior. A held-out digit is seen through a mask,
whose hole is the square of 14 x 14 in the middle or the lower half, with noise 0 or 0.05 (pixels in
[-1, 1]); each method draws several answers for each digit.

- *score*: energy score of the hole's pixels, mean of |x_i - x*| less half the mean of |x_i - x_j|
  over different draws, mean over digits (a mean error would reward the mean; this is least, in the
  mean, for draws of the posterior), with a 95 % interval by 2,000 bootstraps over digits;
- *less best*: score less that of the best method of azula and deepinv on this problem, paired by
  digits, with its interval: below 0 is better than all of them;
- *misfit*: root mean square of the seen pixels less what was seen;
- *calls*: forward evaluations of the network for a draw (a derivative in forward mode counts as one
  more; what autograd does backward is not in it, but in the time);
- *CPU s*: processor seconds of one thread for all draws.

All take the same number of steps; ours are ``scheme="ancestral"`` (DDPM's, as theirs are). azula
runs its rectified schedule, deepinv its VP or, DDRM and DiffPIR, their own. A state ``α x1 + σ z``
of theirs is ours over ``α + σ`` at ``t = α/(α + σ)``: DDIM from common starts ends at the same
digits (first lines). azula's DPS takes one norm of all rows, and is given ζ √n to make up for it.
deepinv is told 0.001 in the place of no noise, and what divides by the noise (both DiffPIR, DDRM)
0.01.

Run ``python benchmarks/inpainting.py --field u-net.tpf``, the file that ``digits.py --folder .``
leaves; ``--quick`` is a version that shows nothing but that it runs. Needs azula and deepinv (left
out where they are not installed).
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table
from _digits import fold, halves, seeded, trained, unet, unfold
from _inpainting_peers import azula_methods, deepinv_methods, same_sampler
from transportflows.inverse import (
    DPS,
    LinearObservation,
    Mask,
    MomentMatched,
    PseudoInverse,
    Replacement,
)

OUT = Path(__file__).parent / "results"
VARIANCE = 0.38  # of the pixels of the training digits
Draw = Callable[[], Tensor]


@dataclass(frozen=True)
class Problem:
    """Digits, what is seen of them, and how many answers each gets.

    Attributes:
        name: as it is told.
        truth: folded digits, ``(images, 4, 14, 14)``.
        mask: true where they are seen.
        noise: σ.
        draws: answers for each.
    """

    name: str
    truth: Tensor
    mask: Tensor
    noise: float
    draws: int

    def seen(self) -> Tensor:
        """y, a row for each draw."""
        z = torch.randn(self.truth.shape, generator=seeded(7))
        y = torch.where(self.mask, self.truth + self.noise * z, 0.0)
        return y.repeat_interleave(self.draws, 0)

    def scores(self, x: Tensor) -> Tensor:
        """The energy score of each digit, ``(images,)``."""
        hole = x[:, ~self.mask].view(len(self.truth), self.draws, -1)
        off = (hole - self.truth[:, ~self.mask].unsqueeze(1)).norm(dim=2).mean(1)
        pairs = torch.cdist(hole, hole).sum((1, 2)) / (self.draws * (self.draws - 1))
        return off - pairs / 2

    def misfit(self, x: Tensor) -> float:
        """Root mean square of ``y - A x``."""
        return float((x - self.seen())[:, self.mask].square().mean().sqrt())


def masks() -> dict[str, Tensor]:
    """Where the digits are seen, folded."""
    centre = torch.ones(1, 1, 28, 28)
    centre[..., 7:21, 7:21] = 0
    lower = torch.ones(1, 1, 28, 28)
    lower[..., 14:, :] = 0
    return {"centre": fold(centre)[0] > 0.5, "lower half": fold(lower)[0] > 0.5}


def ours(field: tpf.Field, problem: Problem, steps: int) -> dict[str, Draw]:
    """The library's methods."""
    seen = LinearObservation(Mask(problem.mask), problem.seen(), problem.noise)
    n = len(seen.y)

    def solve(guided: tpf.Field, *hooks: Any) -> Tensor:
        how: dict[str, Any] = {"scheme": "ancestral", "steps": steps, "generator": seeded(11)}
        x: Tensor = tpf.sample(guided, n, hooks=hooks, **how).x
        return x

    def put(repeats: int) -> Draw:
        return lambda: solve(field, Replacement(field, seen, repeats=repeats, generator=seeded(12)))

    return {
        "replacement": put(0),
        "replacement, 2 repaints": put(2),
        "DPS, ζ = 0.5": lambda: solve(field, DPS(field, seen, 0.5)),
        "pseudo-inverse": lambda: solve(PseudoInverse(field, seen, variance=VARIANCE)),
        "moment matching, 3 iterations": lambda: solve(MomentMatched(field, seen, iterations=3)),
    }


def all_methods(
    field: tpf.Field, problem: Problem, steps: int, leave: Sequence[str] = ()
) -> dict[tuple[str, str], Draw]:
    """Ours and theirs, but for those whose names begin as those to leave out."""
    found = {("ours", k): draw for k, draw in ours(field, problem, steps).items()}
    for name, methods in (("azula", azula_methods), ("deepinv", deepinv_methods)):
        if importlib.util.find_spec(name) is not None:
            own = methods(field, problem.seen(), problem.mask, problem.noise, steps)
            found |= {(name, k): draw for k, draw in own.items()}
    return {key: d for key, d in found.items() if not " ".join(key).startswith(tuple(leave))}


class Counted:
    """Counts the rows that go through the network of a field."""

    def __init__(self, field: tpf.Field) -> None:
        self.rows = 0
        field.networks[0].register_forward_hook(self._count)

    def _count(self, net: Any, arguments: tuple[Any, ...], out: Tensor) -> None:
        self.rows += len(arguments[1])


def interval(values: Tensor) -> str:
    """Mean and a bootstrapped 95 % interval."""
    rows = torch.randint(len(values), (2_000, len(values)), generator=seeded(5))
    low, high = values[rows].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{float(values.mean()):.3f} ({low:.3f} to {high:.3f})"


def solved(
    field: tpf.Field, problem: Problem, options: argparse.Namespace, counted: Counted
) -> tuple[list[list[str]], dict[tuple[str, str], Tensor]]:
    """The rows of a table, and the draws."""
    told, scores, drawn = {}, {}, {}
    for key, draw in all_methods(field, problem, options.steps, options.leave).items():
        torch.manual_seed(13)
        counted.rows, began = 0, time.process_time()
        x = draw().detach()
        seconds, calls = time.process_time() - began, counted.rows / len(x)
        drawn[key], scores[key] = x, problem.scores(x)
        told[key] = [f"{problem.misfit(x):.3f}", f"{calls:.0f}", f"{seconds:.1f}"]
        print(problem.name, *key, interval(scores[key]), *told[key], flush=True)
    theirs = [key for key in scores if key[0] != "ours"]
    best = min(theirs, key=lambda key: float(scores[key].mean()), default=None)
    rows = []
    for key in sorted(scores, key=lambda key: float(scores[key].mean())):
        less = "" if best is None else interval(scores[key] - scores[best])
        rows.append([*key, interval(scores[key]), "best" if key == best else less, *told[key]])
    return rows, drawn


def picture(
    problem: Problem, drawn: dict[tuple[str, str], Tensor], path: Path, digits: int = 5
) -> None:
    """Truth, what is seen, and two draws of each method, in rows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    digits = min(digits, len(problem.truth))
    names = ["truth", "seen", *(f"{a}: {b}" for a, b in drawn)]
    first = torch.arange(digits) * problem.draws
    rows = [problem.truth[:digits], problem.seen()[first]]
    pairs = [torch.stack([x[first], x[first + 1]], 1).flatten(0, 1) for x in drawn.values()]
    rows = [x.repeat_interleave(2, 0) for x in rows] + pairs
    figure, axes = plt.subplots(len(rows), 1, figsize=(7, 0.62 * len(rows)))
    for axis, name, x in zip(axes, names, rows, strict=True):
        axis.imshow(torch.cat(list(unfold(x)[:, 0]), 1), cmap="gray", vmin=-1, vmax=1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout(h_pad=0.1)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables and the pictures, one problem after another."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--field", type=Path, help="the U-Net of digits.py; trained if none")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--noises", type=float, nargs="+", default=[0.05, 0.0])
    parser.add_argument("--leave", nargs="*", default=[], help="beginnings, as 'azula DPS'")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    if options.quick:
        options.images, options.draws, options.steps = 3, 2, 3
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    train, held = halves()
    field = (
        tpf.load_field(options.field)
        if options.field
        else trained(unet(), train, 2.0 if options.quick else 440.0)[0]
    )
    peers = [name for name in ("azula", "deepinv") if importlib.util.find_spec(name) is not None]
    parts = [header(__doc__, *peers)]
    parts.append(f"{options.images} digits, {options.draws} draws each, {options.steps} steps.\n")
    if options.leave:
        parts.append(f"Left out: {', '.join(options.leave)}.\n")
    if len(peers) == 2:
        told = same_sampler(field, 4, 10).items()
        parts += [f"DDIM in {name}, largest difference of a pixel: {v:.1e}.\n" for name, v in told]
    truth = fold(held.floats())[: options.images]
    for noise in options.noises:
        for name, mask in masks().items():
            problem = Problem(f"{name}, σ = {noise:g}", truth, mask, noise, options.draws)
            rows, drawn = solved(field, problem, options, Counted(field))
            head = ["", "method", "score", "less best", "misfit", "calls", "CPU s"]
            parts.append(f"## {problem.name}\n\n{table(head, rows)}")
            if noise == options.noises[0]:
                file = f"inpainting_{name.split()[0]}.png"
                picture(problem, drawn, options.out / file)
                parts.append(f"![Draws]({file})\n")
            (options.out / "inpainting.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
