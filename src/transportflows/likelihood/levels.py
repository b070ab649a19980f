r"""Data of levels, such as the bytes of an image: made continuous, and counted in bits.

A density says nothing of a law on levels. With noise uniform over a level's width h the levels
become a density, ``log P(level) ≥ E log ρ(level + u)``, whose negative bounds the code length of
the levels from above (Theis, van den Oord and Bethge 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows, as_tensor
from .._core.checks import check_finite_rows, integer, positive_number
from .._core.precision import wide
from .._core.random import local
from .._core.signatures import checked

__all__ = ["bits_per_dimension", "dequantise"]


@checked
def dequantise(
    x: DataLike, level_width: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return ``x + u`` with u uniform on ``[0, level_width)``: levels made continuous, ``(n, *)``.

    Draw it anew for every epoch of training, and for the data whose likelihood is measured.

    Args:
        x: data whose values lie on levels, ``(n, *)``.
        level_width: how far the levels are apart, in the units of the data: 1/255 for bytes scaled
            by 255 to [0, 1], 2/255 to [-1, 1], 1/8 for the 17 levels of the digits in [-1, 1].
        generator: source of the noise.

    Raises:
        ValueError: if the values of x are not levels of this width.

    Example:
        >>> x = torch.tensor([[0.0, 0.5], [1.0, 0.5]])
        >>> bool((dequantise(x, 0.5) - x < 0.5).all())
        True
    """
    x = as_rows("x", x)
    check_finite_rows(x, "x")
    width = positive_number("level_width", level_width)
    levels = torch.unique(wide(x.detach()))
    gaps = levels.diff() / width
    slack = 4 * torch.finfo(x.dtype).eps * float(levels.abs().max()) / width + 1e-6
    if gaps.numel() > 0 and bool(((gaps - gaps.round().clamp(min=1)).abs() > slack).any()):
        raise ValueError(
            f"the values of x do not lie on levels that are {width:g} apart: the nearest two are"
            f" {float(gaps.min()) * width:g} apart; give that width, or data not yet dequantised"
        )
    if gaps.numel() > 0 and float(gaps.min()) > 1.5:
        raise ValueError(
            f"level_width = {width:g}, and no two levels of x are nearer than"
            f" {float(gaps.min()) * width:g}; give that width"
        )
    noise = torch.rand(
        x.shape, generator=local(generator, x.device), dtype=x.dtype, device=x.device
    )
    return x + width * noise


@checked
def bits_per_dimension(
    log_prob: DataLike, shape: int | Sequence[int], *, level_width: float
) -> Tensor:
    r"""Return ``-log2 p`` for each number of an event of levels, ``(n,)``.

    .. math:: -\frac{\log \rho(x)}{D \log 2} - \log_2 h

    for data that were made continuous by uniform noise over their levels of width h
    (:func:`dequantise`).

    Args:
        log_prob: log-densities in nats, ``(n,)``, of the data *with* that noise.
        shape: event shape, of D numbers.
        level_width: h in the units of the data: 1/255 for bytes scaled by 255 to [0, 1], 2/255 to
            [-1, 1], 1/8 for the 17 levels of the digits in [-1, 1]. A wrong one shifts all bits.

    Raises:
        ValueError: if ``level_width`` is not positive, or the shape is none.

    Source: Theis, van den Oord and Bethge (2016).

    Example:
        >>> bits_per_dimension(torch.zeros(1), (3, 8, 8), level_width=1 / 256)  # uniform on [0, 1]
        tensor([8.])
    """
    width = positive_number("level_width", level_width)
    log_prob = as_tensor("log_prob", log_prob, torch.float64)
    if bool(log_prob.isnan().any()):
        raise ValueError("log_prob holds NaN, which is no log-density")
    sizes = [shape] if isinstance(shape, int) else list(shape)
    d = math.prod(integer("shape", size, "positive in each place", least=1) for size in sizes)
    if not sizes:
        raise ValueError("the event shape is empty; write shape=(1,) for scalars")
    return -log_prob / (d * math.log(2)) - math.log2(width)
