"""Digits of 28 x 28 for two benchmarks: data, networks, training for so many seconds of a CPU."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import transportflows as tpf
from transportflows.datasets import Images
from transportflows.training import Callback

__all__ = ["CHANNELS", "EVENT", "SPLIT", "fold", "halves", "mlp", "trained", "unet", "unfold"]

EVENT = (4, 14, 14)
CHANNELS = 24
SPLIT = 0.2  # the share that is held out


def halves(limit: int | None = None) -> tuple[Images, Images]:
    """Digits to train on, 4,000, and to judge by, 1,000, or as many as the limit."""
    train, held = tpf.datasets.mnist().split(SPLIT, generator=seeded(0))
    return train.take(slice(limit)), held.take(slice(limit))


def seeded(seed: int) -> torch.Generator:
    """A source of randomness."""
    return torch.Generator().manual_seed(seed)


def fold(x: Tensor) -> Tensor:
    """Images ``(n, 1, 28, 28)`` as ``(n, 4, 14, 14)``: the same numbers, four pixels a place."""
    return nn.functional.pixel_unshuffle(x, 2)


def unfold(x: Tensor) -> Tensor:
    """Back to ``(n, 1, 28, 28)``."""
    return nn.functional.pixel_shuffle(x, 2)


def unet(channels: int = CHANNELS) -> tpf.networks.UNet:
    """The U-Net: two levels, of 14 x 14 and 7 x 7."""
    return tpf.networks.UNet(
        EVENT, width=channels, multipliers=(1, 2), blocks=1, labels=10, generator=seeded(1)
    )


def mlp(width: int = 512) -> tpf.networks.MLP:
    """The multilayer perceptron beside it, with residual blocks."""
    return tpf.networks.MLP(
        EVENT, width=width, depth=4, labels=10, residual=True, generator=seeded(1)
    )


class _Budget(Callback):
    """Ends a fit after so many seconds of the CPU, and takes the rate down a cosine until then."""

    every = 1

    def __init__(self, seconds: float, lr: float, warmup: int) -> None:
        self.seconds, self.lr, self.warmup = seconds, lr, warmup
        self.began = 0.0

    def on_start(self, trainer: tpf.training.Run) -> None:
        """Look at the clock."""
        self.began = time.process_time()

    def on_step(self, trainer: tpf.training.Run) -> None:
        """Set the rate of the next step."""
        share = min((time.process_time() - self.began) / self.seconds, 1.0)
        rising = min(1.0, (trainer.step + 1) / self.warmup)
        for group in trainer.optimizer.param_groups:
            group["lr"] = self.lr * rising * (0.5 + 0.5 * math.cos(math.pi * share))
        if share >= 1:
            trainer.stop("the seconds are over")


def trained(
    net: nn.Module, data: Images, seconds: float, path: Path | None = None, **how: float
) -> tuple[tpf.Field, int, float]:
    """A class-conditional velocity: the field, the steps done, and the CPU seconds that they took.

    Args:
        net: on folded images, with labels.
        data: to train on.
        seconds: of the CPU, all threads together.
        path: where the field with its averaged weights is kept; None for nowhere.
        how: ``lr`` and ``batch`` for other values than 3e-3 and 32.
    """
    field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian(EVENT)))
    lr = how.get("lr", 3e-3)
    trainer = tpf.Trainer(field, tpf.VelocityLoss(), lr=lr, ema=0.998, clip=1.0)
    began = time.process_time()
    trainer.fit(
        fold(data.floats()),
        cond=data.cond,
        drop_cond=0.2,
        steps=1_000_000,
        batch_size=int(how.get("batch", 32)),
        callbacks=[_Budget(seconds, lr, warmup=100)],
        progress=False,
        generator=seeded(2),
    )
    taken = time.process_time() - began
    with torch.no_grad(), trainer.averaged():
        averages = [p.clone() for p in trainer.parameters]
    with torch.no_grad():
        for p, average in zip(trainer.parameters, averages, strict=True):
            p.copy_(average)
    field.eval()
    if path is not None:
        field.save(path)
    return field, trainer.step, taken
