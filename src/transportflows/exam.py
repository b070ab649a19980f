"""The exam as a command: ``python -m transportflows.exam``, see :func:`testing.exam`.

Without arguments some methods of this library are trained on laws that are known, and examined. A
file of a field, or a method of your own, is examined instead where one is named::

    python -m transportflows.exam --laws modes --steps 4000 --out exam
    python -m transportflows.exam --field field.safetensors --laws modes
    python -m transportflows.exam --method package.module:train

A method is a function ``train(data, generator) -> Field`` of rows ``(N, d)``; a peer's network
becomes a field by what it predicts, such as ``Velocity(net, process)``. ``--out`` names a folder
for exam.csv and, where matplotlib is there, a picture of the errors by time.
"""

from __future__ import annotations

import argparse
import csv
import importlib
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from .distributions import Gaussian, GaussianMixture
from .fields import Field, FieldPair, NoisePredictor, Velocity, load_field
from .interpolants import Brownian, Linear, Trigonometric
from .networks import MLP
from .process import Process
from .sdes import VE, VP
from .testing import ExamReport, exam
from .training import Trainer
from .transforms import Standardize

__all__ = ["LAWS", "METHODS", "Method", "main", "methods"]

_ROWS = 20_000  # of data

Method = Callable[[Tensor, torch.Generator], Field]


def _modes() -> GaussianMixture:
    angle = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    return GaussianMixture(2 * torch.stack([angle.cos(), angle.sin()], 1), 0.2)


def _uneven() -> GaussianMixture:
    means = torch.tensor([[-2.0, 0.0], [2.0, 1.0], [2.0, -1.5]], dtype=torch.float64)
    scale = torch.tensor([0.8, 0.15, 0.4], dtype=torch.float64)
    return GaussianMixture(means, scale, weights=[0.7, 0.1, 0.2])


def _correlated() -> GaussianMixture:
    draws = torch.Generator().manual_seed(10)
    means = 1.5 * torch.randn(4, 10, generator=draws, dtype=torch.float64)
    mix = torch.randn(4, 10, 10, generator=draws, dtype=torch.float64) / 10**0.5
    return GaussianMixture(means, covariances=0.5 * mix @ mix.mT + 0.05 * torch.eye(10))


LAWS: dict[str, Callable[[], GaussianMixture]] = {
    "modes": _modes,  # eight sharp ones on a circle
    "uneven": _uneven,  # three of other sizes and weights
    "correlated": _correlated,  # four with full covariances in ten dimensions
}
"""Laws of the exam, by name."""


def _trained(field: Field, data: Tensor, steps: int, draws: torch.Generator) -> Field:
    trainer = Trainer(field, lr=2e-3, scheduler="cosine", ema=0.999)
    trainer.fit(data, steps=steps, batch_size=512, progress=False, generator=draws)
    return trainer.averaged_field()


def methods(steps: int) -> dict[str, Method]:
    """Fields of this library, each with networks of 4 x 128."""

    def method(make: Callable[..., Field]) -> Method:
        def train(data: Tensor, draws: torch.Generator) -> Field:
            d = data.shape[1]

            def net() -> MLP:
                return MLP(d, 128, 4, frequencies=8, generator=draws)

            field = make(net, Gaussian((d,)), Standardize.fit(data))
            return _trained(field, data, steps, draws)

        return train

    return {
        "velocity, linear": method(
            lambda net, base, to: Velocity(net(), Process(Linear(), base=base), transform=to)
        ),
        "velocity, trigonometric": method(
            lambda net, base, to: Velocity(net(), Process(Trigonometric(), base=base), transform=to)
        ),
        "velocity and noise, linear with latent": method(
            lambda net, base, to: FieldPair(
                velocity=net(), noise=net(), process=Process(Linear(Brownian()), base=base),
                transform=to,
            )
        ),
        "noise, VP": method(
            lambda net, base, to: NoisePredictor(net(), Process(VP(), base=base), transform=to)
        ),
        "noise, VE": method(
            lambda net, base, to: NoisePredictor(
                net(), Process(VE(0.01, 20.0), shape=tuple(base.shape)), transform=to
            )
        ),
    }  # fmt: skip


METHODS = tuple(methods(1))
"""Names of the methods that are examined by default."""


def main(arguments: list[str] | None = None) -> None:
    """Examine what the command line names, and print the reports."""
    parser = argparse.ArgumentParser(
        prog="python -m transportflows.exam", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--laws", nargs="+", choices=LAWS, help="all by default")
    parser.add_argument("--field", type=Path, help="a file of a field, trained on draws of a law")
    parser.add_argument("--method", help="module:function, of data and a generator")
    parser.add_argument("--steps", type=int, default=4_000, help="of training, of our methods")
    parser.add_argument("--rows", type=int, default=_ROWS, help="of data")
    parser.add_argument("--n", type=int, default=4_000, help="samples")
    parser.add_argument("--densities", type=int, default=500, help="draws for log-densities")
    parser.add_argument("--epsilon", type=float, default=0.5, help="of the SDE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder for the table and the picture")
    options = parser.parse_args(arguments)
    if options.field and options.method:
        parser.error("give --field or --method, not both")
    if options.field and not options.laws:
        parser.error("--field needs --laws, the one of whose draws the field was trained")
    chosen = methods(options.steps)
    if options.method:
        chosen = {options.method: _imported(options.method, parser)}
    elif options.field:
        known = load_field(options.field)
        chosen = {str(options.field): lambda data, draws: known}
    lines, curves = [], []
    for name in options.laws or LAWS:
        law = LAWS[name]()
        for method, train in chosen.items():
            draws = torch.Generator().manual_seed(options.seed)
            data = law.sample(options.rows, generator=draws, dtype=torch.float32)
            report = exam(
                train(data, draws), law, n=options.n, epsilon=options.epsilon,
                densities=options.densities, generator=draws,
            )  # fmt: skip
            print(f"{name}: {method}\n{report}\n", flush=True)
            lines += [
                (name, method, row.part, row.quantity, row.value, row.floor, row.note)
                for row in report.rows
            ]
            curves.append((name, method, report))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        with (options.out / "exam.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("law", "method", "part", "quantity", "value", "floor", "note"))
            writer.writerows(lines)
        _draw(curves, options.out / "exam.png")


def _imported(name: str, parser: argparse.ArgumentParser) -> Method:
    """A method by its module and name."""
    module, _, function = name.partition(":")
    if not module or not function:
        parser.error(f"--method is module:function, got {name!r}")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        parser.error(f"--method {name!r} was not found: {error}")
    return found  # type: ignore[no-any-return]


def _draw(curves: list[tuple[str, str, ExamReport]], path: Path) -> None:
    """One panel for each law and quantity, if matplotlib is there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"no {path.name}: matplotlib is not installed")
        return
    laws = list(dict.fromkeys(law for law, _, _ in curves))
    figure = Figure(figsize=(9, 3.2 * len(laws)), layout="constrained")
    panels = figure.subplots(len(laws), 2, squeeze=False)
    for (row, law), (column, kind) in product(enumerate(laws), enumerate(("velocity", "score"))):
        ax = panels[row][column]
        for of, method, report in curves:
            values = getattr(report, kind)
            if of == law and len(values):
                ax.plot(report.t.tolist(), values.tolist(), "-o", markersize=3, label=method)
                if bool((values > 0).all()):
                    ax.set_yscale("log")
        ax.set_title(f"{law}: error of the {kind} over its size")
        ax.set_xlabel("t")
    if panels[0][0].lines:
        panels[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
