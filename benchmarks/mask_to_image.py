r"""From a masked image to images: interpolants, latents and ε on digits.

The experiment of `examples/mask_to_image.py`, for three interpolants, four latents γ and three ε: a
path from the image with standard noise in a hole of 14 x 14 pixels to the image, 28 x 28; pairs
(x0, x1), the mask a condition, RK4 with 50 steps. One small U-Net for each path, trained alike:
the same first weights (but for the second head), the same holes, noise and steps. The last rows are
of networks that are told what is seen, beside the mask.

Images, holes and starts are the same in all rows, and none was trained on. Intervals are 95 %,
percentiles of 1,000 bootstrap resamples of the images, in comparisons of the same images in both
rows; the draws of an image stay together. *They say nothing of another training.* Seeds: 0 of the
split, the weights, the training, the starts and the SDE's noise; 1 of the holes.

Run ``python benchmarks/mask_to_image.py --work FOLDER``; what is in the folder is not made again.
"""

from __future__ import annotations

import argparse
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import transportflows as tpf
from _common import header
from _mask_report import write

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "mask_to_image.md"
EPSILONS = (0.0, 0.25, 0.5)
TOLD = [("linear", "none"), ("linear", "brownian"), ("encoder-decoder", "sine-squared")]


def example() -> SimpleNamespace:
    """What the example defines."""
    path = HERE.parent / "examples" / "mask_to_image.py"
    return SimpleNamespace(**runpy.run_path(str(path)))


def cells(ex: SimpleNamespace) -> list[tuple[str, str, bool]]:
    """Path, latent, and whether the network is told what is seen."""
    crossed = [(path, gamma, False) for gamma in ex.GAMMAS for path in ex.PATHS]
    return crossed + [(*cell, True) for cell in TOLD]


def data(ex: SimpleNamespace, n: int) -> SimpleNamespace:
    """Digits to train on, n to fill, their holes, and 500 others to compare with."""
    train, held_out = tpf.datasets.mnist().split(0.2, generator=torch.Generator().manual_seed(0))
    x = held_out.floats()
    return SimpleNamespace(
        train=train,
        x1=x[:n],
        labels=held_out.labels[:n],
        mask=ex.masks(n, x.shape, torch.Generator().manual_seed(1)),
        others=x[n : n + 500],
        other_labels=held_out.labels[n : n + 500],
    )


def made(
    ex: SimpleNamespace, given: SimpleNamespace, cell: tuple[str, str, bool], args: Any, kept: Path
) -> dict[str, Any]:
    """Train one cell, keep its field, and fill the holes at each ε."""
    path, gamma, told = cell
    try:
        field = ex.make_field(path, gamma, given.x1.shape[1:], args.width, told=told)
    except ValueError as error:
        return {"refused": str(error)}
    began = time.process_time()
    field = ex.train(field, ex.MaskedPairs(given.train, told), args.steps, args.batch_size)
    field.save(kept)
    trained = time.process_time()
    found = ex.fill(field, given.x1, given.mask, EPSILONS, told=told)
    solutions: dict[float, Any] = {}
    for epsilon, one in found.items():
        if isinstance(one, str):
            solutions[epsilon] = one
            continue
        solutions[epsilon] = {
            "x": one.x.view(-1, *given.x1.shape),
            "moved": moved(one.trajectory.view(11, -1, *given.x1.shape), given.mask, ex.inside),
            "nfe": one.nfe,
            "limited": one.limited,
        }
    return {
        "solutions": solutions,
        "parameters": sum(p.numel() for p in field.parameters()),
        "seconds": (trained - began, time.process_time() - trained),
    }


def moved(path: Tensor, mask: Tensor, inside: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """How far states go in each tenth of time, root mean square in the hole, ``(10, n)``."""
    steps = path.diff(dim=0).square()
    return torch.stack([inside(step, ~mask).sqrt() for step in steps])


def main() -> None:
    """Make what is not there, then write the table and the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="a folder for what was made")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--only", nargs="+", help="these cells, linear_brownian_told; no report")
    parser.add_argument("--report", action="store_true", help="of what is there, make nothing")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    head = header(__doc__, "mlxtend")
    ex = example()
    given = data(ex, args.images)
    found = {}
    for cell in cells(ex):
        name = "_".join([*cell[:2], *(["told"] if cell[2] else [])])
        file = args.work / f"{name}.pt"
        if not file.exists() and not args.report and name in (args.only or [name]):
            began = time.perf_counter()
            torch.save(made(ex, given, cell, args, file.with_suffix(".tpf")), file)
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        if file.exists():
            found[cell] = torch.load(file, weights_only=True)
    if not args.only:
        write(RESULTS, head, ex, given, found, args)


if __name__ == "__main__":
    main()
