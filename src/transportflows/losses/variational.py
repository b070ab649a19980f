r"""The variational bound of a chain of levels: its terms, and the loss that trains on them.

A chain visits the levels t_1 > t_2 > ... > t_T of a one-sided process, from the data x_0 = x1 to
noise; x_k = x_{t_k}. Its posterior is Gaussian,

.. math:: q(x_{k-1} | x_k, x_0) = N\Big(
          \tfrac{a_k \hat\sigma_{k-1}^2}{\hat\sigma_k^2} x_k
          + \tfrac{\beta_{k-1} v_k}{\hat\sigma_k^2} x_0, \;
          \tfrac{\hat\sigma_{k-1}^2 v_k}{\hat\sigma_k^2} \mathrm{Id}\Big), \quad
          a_k = \tfrac{\beta_k}{\beta_{k-1}}, \;
          v_k = \hat\sigma_k^2 - a_k^2 \hat\sigma_{k-1}^2,

and the model puts its data prediction in the place of x_0. Then (Ho et al. 2020; Chang,
(2.3)-(2.4))

.. math:: -\log p(x_0) \le \underbrace{-E \log p(x_0 | x_1)}_{L_0}
          + \sum_{k=2}^T \underbrace{E\,D_{KL}(q(x_{k-1} | x_k, x_0) \| p(x_{k-1} | x_k))}_{L_{k-1}}
          + \underbrace{D_{KL}(q(x_T | x_0) \| p(x_T))}_{L_T},

with ``L_{k-1} = ½ (SNR_{k-1} - SNR_k) E|d̂ - x_0|²``, Chang's (2.10). L_0 is that of a Gaussian
``N(d̂, std²)`` for continuous data, by default with the std ``σ̂/β`` of the noise in x_1; p(x_T) is
the law from which sampling starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.precision import wide
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..distributions.gaussian import Gaussian
from ..draws import PathSample
from ..fields import Field
from ..gaussian_part import GaussianPart
from ..process import Process
from ..times.base import GridTimes
from .chain_weight import VariationalWeight
from .regressions import Regression

__all__ = ["VariationalLoss", "prior_matching", "reconstruction_constant"]


@checked
class VariationalLoss(Regression):
    r"""The variational bound in nats, from one random level a row.

    ``T`` times the squared error of the level drawn, weighed, plus what no field can change (the
    constant of the reconstruction and the prior-matching term): its mean over levels and noise is
    ``L_0 + ... + L_T``, a bound of ``-log p`` of the row in the field's units.
    :func:`variational_bound` evaluates all levels.

    Args:
        levels: times of the chain, as for :class:`VariationalWeight`.
        reconstruction_std: of ``p(x_0 | x_1)``; ``σ̂/β`` at the first level if None.
        antithetic: draw each latent with both signs and average.

    Raises:
        ValueError: if the levels are not distinct times in [0, 1]; when used, if the SNR does not
            fall from level to level, or the process is not one-sided.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.SBDM(), shape=(1,))
        >>> field = tpf.DataPredictor(lambda t, x: torch.zeros_like(x), process)  # all data are 0
        >>> loss, seed = VariationalLoss([0.5, 0.0], reconstruction_std=1.0), torch.Generator()
        >>> loss(field, torch.zeros(1, 1), generator=seed.manual_seed(0))  # ½ log 2π, and no more
        tensor([0.9189])
    """

    quantity = "data"

    def __init__(
        self,
        levels: Sequence[float] | Tensor,
        *,
        reconstruction_std: float | None = None,
        antithetic: bool = False,
    ) -> None:
        weight = VariationalWeight(levels, reconstruction_std=reconstruction_std)
        super().__init__(times=GridTimes(weight.levels), weight=weight, antithetic=antithetic)
        self.bound, self.levels = weight, weight.levels
        self.reconstruction_std = reconstruction_std

    def evaluate(self, field: Field, sample: PathSample) -> Tensor:
        terms = len(self.bound.levels) * super().evaluate(field, sample)
        x1 = sample.x1[: len(sample)]
        constant = reconstruction_constant(self.bound, field.process.part, x1)
        return terms + constant + prior_matching(self.bound, field.process, x1)


def reconstruction_constant(weight: VariationalWeight, part: GaussianPart, x1: Tensor) -> float:
    """``½ D log(2π std²)`` of the reconstruction."""

    def make() -> float:
        first = float(weight.of_levels(part, x1.dtype)[0])
        return 0.5 * (math.log(2 * math.pi) - math.log(first))

    each: float = weight.once(part, f"constant, {x1.dtype}", make)
    return x1[0].numel() * each


@dataclass(frozen=True)
class _Prior:
    """``KL = D spread + Σ (β x1 + offset)² / 2 variance``."""

    beta: float
    spread: float
    variance: float
    offset: Tensor | None


def prior_matching(weight: VariationalWeight, process: Process, x1: Tensor) -> Tensor:
    """``KL(N(αm + βx1, σ̂²) || p)`` at the last level, ``(B,)``; p is where sampling starts.

    Raises:
        ValueError: if that law is not an isotropic Gaussian.
    """
    name = f"prior, {x1.dtype}, {x1.device}, {tuple(x1.shape[1:])}"
    known: _Prior = weight.once(process.part, name, lambda: _prior(weight, process, x1))
    shift = known.beta * x1 if known.offset is None else known.beta * x1 + known.offset
    return sum_events(shift.square()) * (0.5 / known.variance) + x1[0].numel() * known.spread


def _prior(weight: VariationalWeight, process: Process, x1: Tensor) -> _Prior:
    law = process.start if process.shape is not None else _start_of(process, x1)
    if not (isinstance(law, Gaussian) and law.isotropic):
        raise ValueError(
            "the prior-matching term needs an isotropic Gaussian at t = 0, and the process starts"
            f" from {type(law).__name__}"
        )
    with torch.no_grad():
        t = wide(weight.levels[-1].to(process.device, x1.dtype))
        variance = float(law.scale) ** 2
        part = process.part
        ratio = float(part.scale_sq(t)) / variance
        offset = -law.mean.to(x1)
        if part.base_mean is not None:
            offset = offset + float(part.path.alpha(t)) * part.base_mean.to(x1)
        return _Prior(
            beta=float(part.path.beta(t)),
            spread=0.5 * (ratio - 1 - math.log(ratio)),
            variance=variance,
            offset=offset if bool(offset.any()) else None,
        )


def _start_of(process: Process, x1: Tensor) -> Gaussian:
    return Process(process.interpolant, shape=x1.shape[1:]).start  # type: ignore[return-value]
