"""Moment matching by trained networks: how many iterations, and by what.

8 x 8 digits (1,500 of scikit-learn's), the velocity of the linear path, learned by an MLP of
3 x 256 (1,500 steps of 64) and by a U-Net of width 16 (400 steps); held-out digits without their
middle of 4 x 4 pixels, 16 digits with 4 draws each, by the ancestral scheme. The Jacobian of such a
field is not symmetric, and early on it is mostly error.

- *least residuals* are what `MomentMatched` goes by; *conjugate gradients* what it went by before;
- *score*: energy score of the hole, the mean of |x_i - x*| less half that of |x_i - x_j|;
- *largest*: the largest |x| of all pixels and draws, in [-1, 1] for a digit;
- *misfit*: root mean square of the seen pixels less what was seen.

Means over seeds of network and data, but for the largest |x|, which is that of all of them.

Not in the tables: with (J + Jᵀ)/2 in the place of Jᵀ, at twice the cost, conjugate gradients still
have a largest |x| of 2 to 136 (MLP, seeds 0 and 1, 1 to 5 iterations), and least residuals a score
that is larger by 0.01 to 0.04.

Run ``python benchmarks/inverse_trained.py``: some ten minutes of one thread; ``--seeds 0`` is one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

import transportflows as tpf
from _common import header, table
from transportflows.inverse import LinearObservation, Mask, MomentMatched, PseudoInverse
from transportflows.inverse import guided as where

OUT = Path(__file__).parent / "results" / "inverse_trained.md"
EVENT, DIGITS, DRAWS = (1, 8, 8), 16, 4
ITERATIONS = (1, 2, 3, 5, 10)


def conjugate_gradients(
    first: Callable[[Tensor], Tensor],
    second: Callable[[Tensor], Tensor],
    right: Tensor,
    ridge: Tensor,
    iterations: int,
) -> Tensor:
    """What ``MomentMatched`` went by, which takes ``P M`` for symmetric and positive."""

    def rows(value: Tensor) -> Tensor:
        return value.reshape(-1, *(1,) * (right.ndim - 1))

    over = ridge.clamp(min=1.0)
    residual = right * rows(1 / over)
    direction, found = residual, torch.zeros_like(right)
    length = residual.square().flatten(1).sum(1)
    least = length * torch.finfo(right.dtype).eps ** 2
    for _ in range(iterations):
        mapped = first(direction)
        image = rows(ridge / over) * direction + rows(1 / over) * second(mapped)
        curvature = (direction * image).flatten(1).sum(1)
        going = (length > least) & (curvature > 0)
        size = torch.where(going, length / torch.where(going, curvature, 1.0), 0.0)
        found = found + rows(size) * mapped
        residual = residual - rows(size) * image
        new = residual.square().flatten(1).sum(1)
        ratio = torch.where(going, new / torch.where(going, length, 1.0), 0.0)
        direction = residual + rows(ratio) * direction
        length = torch.where(going, new, 0.0)
    return found


def trained(kind: str, seed: int) -> tuple[tpf.Field, Tensor]:
    """A field and digits that it has not seen."""
    generator = torch.Generator().manual_seed(seed)
    images = tpf.datasets.digits().images.float()
    images = images[torch.randperm(len(images), generator=generator)]
    net: torch.nn.Module
    if kind == "MLP":
        net, steps = tpf.networks.MLP(EVENT, width=256, depth=3, generator=generator), 1_500
    else:
        shape = {"width": 16, "multipliers": (1, 2), "blocks": 1}
        net, steps = tpf.networks.UNet(EVENT, **shape, generator=generator), 400
    field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian(EVENT)))
    how = {"steps": steps, "batch_size": 64, "progress": False, "generator": generator}
    tpf.Trainer(field, lr=2e-3).fit(images[:1_500], **how)
    field.eval()
    field.requires_grad_(False)
    return field, images[1_500 : 1_500 + DIGITS]


def judged(guided: tpf.Field, seen: LinearObservation, truth: Tensor, steps: int) -> list[float]:
    """Score, largest and misfit; not finite where the solve was not."""
    how = {"scheme": "ancestral", "steps": steps, "generator": torch.Generator().manual_seed(11)}
    try:
        x = tpf.sample(guided, len(seen.y), **how).x
    except ArithmeticError:
        return [float("inf")] * 3
    mask = seen.operator.mask
    hole = x[:, ~mask].view(DIGITS, DRAWS, -1)
    off = (hole - truth[:, ~mask].unsqueeze(1)).norm(dim=2).mean()
    apart = torch.cdist(hole, hole).sum((1, 2)).mean() / (DRAWS * (DRAWS - 1))
    misfit = (x - seen.y)[:, mask].square().mean().sqrt()
    return [float(off - apart / 2), float(x.abs().max()), float(misfit)]


def measured(kind: str, seed: int) -> dict[tuple[float, int, str, int], list[float]]:
    """By noise, steps, method and iterations."""
    field, truth = trained(kind, seed)
    mask = torch.ones(EVENT, dtype=torch.bool)
    mask[:, 2:6, 2:6] = False
    found = {}
    for noise in (0.05, 0.0):
        z = torch.randn(truth.shape, generator=torch.Generator().manual_seed(7))
        y = ((truth + noise * z) * mask).repeat_interleave(DRAWS, 0)
        seen = LinearObservation(Mask(mask), y, noise)
        for steps in (10, 50):
            pseudo = PseudoInverse(field, seen, variance=0.57)
            found[noise, steps, "pseudo-inverse", 0] = judged(pseudo, seen, truth, steps)
            for k in ITERATIONS:
                guided = MomentMatched(field, seen, iterations=k)
                found[noise, steps, "least residuals", k] = judged(guided, seen, truth, steps)
                with mock.patch.object(where, "least_residual", conjugate_gradients):
                    old = judged(guided, seen, truth, steps)
                found[noise, steps, "conjugate gradients", k] = old
        print(kind, seed, noise, flush=True)
    return found


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = [header(__doc__, "scikit-learn"), f"Seeds {', '.join(map(str, options.seeds))}.\n"]
    for kind in ("MLP", "U-Net"):
        runs = [measured(kind, seed) for seed in options.seeds]
        for noise in (0.05, 0.0):
            rows = []
            for key in (k for k in runs[0] if k[0] == noise):
                score, largest, misfit = zip(*(run[key] for run in runs), strict=True)
                told = [sum(score) / len(runs), max(largest), sum(misfit) / len(runs)]
                _, steps, method, k = key
                name = f"{method}, {k}" if k else method
                rows.append([str(steps), name, *(f"{v:.3f}" for v in told)])
            head = ["steps", "method, iterations", "score", "largest", "misfit"]
            parts.append(f"## {kind}, σ = {noise:g}\n\n{table(head, rows)}")
            OUT.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
