"""The field of an estimator: trained with an early end, solved in fixed steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._core.checks import number, positive_integer
from .._core.tensor import expand_time
from ..distributions import Gaussian
from ..draws import Batch
from ..fields import Field, Velocity, register
from ..interpolants import Linear
from ..likelihood import log_likelihood
from ..networks import MLP
from ..process import Process
from ..samplers import sample
from ..training import CosineRate, EarlyStop, Trainer
from ..training.run import Run

__all__ = ["densities", "drawn", "learned"]

_CHUNK = 2_048  # rows of one network call, the directions of the exact trace counted
_HELD_OUT = 2_000  # rows of a validation, at least: held-out rows are repeated, with new noise


@register
class FromGaussian(nn.Module):
    r"""The velocity of rows N(0, 1), plus what a network adds, which is 0 at first.

    .. math:: v(t, x) = \frac{2 t - 1}{t^2 + (1 - t)^2} x + f(t, x)

    Rows of unit covariance have that velocity if they are Gaussian, so that the training begins at
    the Gaussian of their mean and covariance, and few rows are left there.

    Args:
        net: f.
    """

    takes_one_time = True

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.nulls = net.nulls

    def forward(self, t: Tensor, x: Tensor, **cond: Any) -> Tensor:
        """Of the shape of x, ``(B, D)``."""
        of_rows = expand_time(t.to(x.dtype), x)
        added: Tensor = self.net(t, x, **cond)
        return (2 * of_rows - 1) / (of_rows.square() + (1 - of_rows).square()) * x + added

    def config(self) -> dict[str, Any]:
        """Constructor arguments that rebuild this object."""
        return {"net": self.net}


class _Best(EarlyStop):
    """Ends a run, and keeps the averages of its best validation."""

    weights: list[Tensor] | None = None

    def on_validation(self, trainer: Run, loss: float) -> None:
        if loss < self.best or self.weights is None:
            self.weights = [p.detach().clone() for p in trainer.ema.averages]  # type: ignore[union-attr]
        super().on_validation(trainer, loss)


def _tensor(rows: np.ndarray) -> Tensor:
    return torch.as_tensor(rows, dtype=torch.float32)


def learned(
    z: np.ndarray, given: np.ndarray | None, settings: dict[str, Any], gen: torch.Generator
) -> tuple[Velocity, int]:
    """A velocity of rows of unit covariance, in float64 for its solves, and the steps it took.

    Args:
        z: rows ``(N, D)``.
        given: what they are conditioned on, ``(N, C)``, standardised; None for nothing.
        settings: the parameters of the estimator.
        gen: for the split, the weights and the steps.
    """
    whole = ("max_iter", "width", "depth", "batch_size", "n_iter_no_change", "solver_steps")
    steps, width, depth, size, patience, _ = (positive_integer(k, settings[k]) for k in whole)
    share = number(
        "validation_fraction", settings["validation_fraction"], "a share in (0, 1)", above=0
    )
    if share >= 1:
        raise ValueError(f"validation_fraction is a share in (0, 1), such as 0.1, got {share:g}")
    order = torch.randperm(len(z), generator=gen).numpy()
    held = min(max(1, round(share * len(z))), len(z) - 1)
    out, kept = order[:held], order[held:]
    out = np.tile(out, math.ceil(_HELD_OUT / held))
    vectors = None if given is None else {"given": given.shape[1]}
    net = MLP(z.shape[1], width, depth, residual=True, vectors=vectors, generator=gen)
    field = Velocity(FromGaussian(net), Process(Linear(), base=Gaussian((z.shape[1],))))

    def batch(rows: np.ndarray) -> Batch:
        cond = {} if given is None else {"given": _tensor(given[rows])}
        return Batch(_tensor(z[rows]), cond=cond)

    best, every = _Best(patience), max(1, min(100, steps // 10))
    trainer = Trainer(
        field, lr=number("learning_rate_init", settings["learning_rate_init"], above=0),
        scheduler=CosineRate(), ema=0.99, clip=1.0,
    )  # fmt: skip
    trainer.fit(
        batch(kept), steps=steps, batch_size=min(size, 4 * len(kept)),
        validation=batch(out), validation_every=every, callbacks=[best], generator=gen,
        progress=False,
    )  # fmt: skip
    with torch.no_grad():
        for parameter, value in zip(trainer.parameters, best.weights or (), strict=False):
            parameter.copy_(value)
    return field.double().eval().requires_grad_(False), trainer.step


def densities(field: Field, z: np.ndarray, given: np.ndarray | None, steps: int) -> np.ndarray:
    """Log-densities of rows, each by itself: fixed steps, the exact trace, float64."""
    x = torch.as_tensor(z)
    cond = None if given is None else {"given": torch.as_tensor(given)}
    found = log_likelihood(field, x, cond=cond, scheme="rk4", steps=steps, chunk=_CHUNK)
    return found.log_prob.numpy()


def drawn(
    field: Field, n: int, given: np.ndarray | None, steps: int, gen: torch.Generator
) -> np.ndarray:
    """Rows from the ODE, each of its own row of what is given."""
    cond = None if given is None else {"given": torch.as_tensor(given)}
    found = sample(
        field, n, cond=cond, scheme="rk4", steps=steps, dtype=torch.float64, generator=gen
    )
    return found.x.numpy()
