"""The variational bound of a chain of levels, in nats and bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.checks import check_finite_rows, positive_integer
from .._core.random import draw_key, stream
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..fields.base import Field
from ..fields.units import log_scale
from ..losses.chain_weight import VariationalWeight
from ..losses.variational import prior_matching, reconstruction_constant
from .levels import bits_per_dimension
from .solver import check_field, recording

__all__ = ["VariationalBound", "variational_bound"]


@checked
@dataclass(frozen=True)
class VariationalBound:
    """The terms of the variational bound of ``-log p(x)``, of each row, in nats.

    Attributes:
        reconstruction: ``L_0 = -E log p(x_0 | x_1)``, ``(n,)``, a density in the data's units.
        denoising: ``L_1, ..., L_{T-1}`` from the data to the base, ``(T - 1, n)``.
        prior: ``L_T = KL(q(x_T | x_0) || p(x_T))``, ``(n,)``.
        shape: event shape.
        levels: times t_1 > ... > t_T, ``(T,)``, float64.
    """

    reconstruction: Tensor
    denoising: Tensor
    prior: Tensor
    shape: torch.Size
    levels: Tensor

    @property
    def nats(self) -> Tensor:
        """The sum, an upper bound of ``-log p``, ``(n,)``."""
        return self.reconstruction + self.denoising.sum(0) + self.prior

    @property
    def log_prob(self) -> Tensor:
        """The lower bound of ``log p``, ``(n,)``."""
        return -self.nats

    def bits(self, *, level_width: float) -> Tensor:
        """Bits per dimension of data with noise uniform over their levels, ``(n,)``.

        Args:
            level_width: in the units of the data; see :func:`bits_per_dimension`.
        """
        return bits_per_dimension(self.log_prob, self.shape, level_width=level_width)

    __repr__ = summary


@checked
def variational_bound(
    field: Field,
    x: DataLike,
    levels: Sequence[float] | Tensor,
    *,
    reconstruction_std: float | None = None,
    draws: int = 1,
    cond: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> VariationalBound:
    r"""Return the terms of the variational bound of ``-log p(x)`` for a chain of levels.

    One call of the field at each level and draw, without gradients. The expectations over x_k are
    estimated from ``draws`` independent draws a level (:mod:`transportflows.losses.variational` has
    the formulas).

    Args:
        field: any field of a one-sided process that determines the data prediction at the levels.
        x: data, ``(n, *)``, in their own units: a transform of the field is accounted for.
        levels: times of the chain, in one order, as ``DDPMChain().training_times()``. The SNR must
            be finite at the level nearest to the data.
        reconstruction_std: of ``p(x_0 | x_1)`` in the field's units; ``σ̂/β`` at the first level
            if None.
        draws: of each x_k.
        cond: conditions for the network; tensors have n rows.
        generator: source of randomness.

    Raises:
        ValueError: if the levels do not make a chain, or x is not finite data.
        ConversionError: if the field does not determine the data at a level, such as a noise
            prediction where β = 0.

    Source: Ho, Jain and Abbeel (2020), equation 5; Chang, (2.3)-(2.4), (2.10).

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.SBDM(), shape=(2,))
        >>> law, generator = tpf.Gaussian((2,)), torch.Generator().manual_seed(0)
        >>> exact, x = tpf.oracle(process, law), law.sample(4_000, generator=generator)
        >>> times = process.part.time_of_sigma(torch.logspace(-2, 3, 200))
        >>> found = variational_bound(exact, x, times, generator=generator)
        >>> gap = (found.nats + law.log_prob(x)).mean()  # it falls as 1/T with more levels
        >>> 0 < gap.item() < 0.7
        True
    """
    check_field(field)
    x = as_rows("x", x, like=field.reference())
    check_finite_rows(x, "x")
    draws = positive_integer("draws", draws)
    weight = VariationalWeight(levels, reconstruction_std=reconstruction_std)
    process, cond = field.process, field.check_conditions(cond, len(x), device=x.device)
    table = weight.of_levels(process.part, x.dtype)
    key = draw_key(generator)
    with recording(field, False):
        x1 = x if field.transform is None else field.transform(x)
        terms = []
        for k, time in enumerate(weight.levels):
            t = time.to(x1)
            total = x1.new_zeros(len(x1))
            for draw in range(draws):
                drawn = process.sample(
                    x1, t=t, cond=cond, generator=stream(key, k, draw, device=x1.device)
                )
                error = field.data(t, drawn.x, drawn.cond) - x1
                total = total + sum_events(error.square())
            terms.append(0.5 * table[k].to(total) * total / draws)
        constant = reconstruction_constant(weight, process.part, x1) + log_scale(field, x1)
        prior = prior_matching(weight, process, x1)
    return VariationalBound(
        reconstruction=terms[0] + constant,
        denoising=torch.stack(terms[1:]),
        prior=prior,
        shape=x.shape[1:],
        levels=weight.levels,
    )
