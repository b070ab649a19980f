r"""Weber's mean distance of characteristic functions.

.. math:: D_{CF}(p, q) = \frac1K \sum_{k=1}^K \Bigl| E_p e^{i \omega_k \cdot x}
          - E_q e^{i \omega_k \cdot y} \Bigr|, \qquad \omega_k \sim N(0, \sigma^2 \mathrm{Id})

the empirical characteristic functions at K random frequencies. Linear in the samples, of at most 2,
and zero for equal laws up to sampling noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.arrays import DataLike
from .._core.random import draw_key, stream
from .._core.reprs import summary
from .._core.samples import check_at_least, event_rows
from .._core.signatures import checked

__all__ = ["CharacteristicDistance", "characteristic_distance"]

_CHUNK = 1 << 21  # phases held at a time


@checked
@dataclass(frozen=True)
class CharacteristicDistance:
    """A mean over random frequencies, and what belongs to it.

    Attributes:
        value: the mean distance.
        standard_error: from the choice of frequencies alone, the samples held fixed.
        floor: its mean for equal laws with this many samples, estimated from the samples.
    """

    value: float
    standard_error: float
    floor: float

    __repr__ = summary


@checked
def characteristic_distance(
    x: DataLike,
    y: DataLike,
    *,
    frequencies: int = 256,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> CharacteristicDistance:
    r"""Return the mean distance of the characteristic functions of two samples.

    Bias: for equal laws with :math:`\phi` their characteristic function each difference is nearly
    a complex normal, of total variance :math:`(1 - |\phi|^2)(1/N + 1/M)`, so that the mean is
    between √(2/π) (all of the variance in one component) and √π/2 (equal parts) times its root;
    ``floor`` uses the two variances of each difference as estimated. With ``scale`` far above 1
    over the spread of the data :math:`\phi` is 0 at every frequency: it sees nothing.
    ``O(K (N + M) d)``.

    Args:
        x: first sample, ``(N, *)``, at least two rows.
        y: second sample, ``(M, *)``.
        frequencies: K, at least 2; Weber takes 256.
        scale: σ, in inverse units of the data; Weber takes standard normal frequencies.
        generator: source of the frequencies, on any device; torch's default one if None.

    Raises:
        TypeError: if either is not a tensor or an array of a floating-point dtype.
        ValueError: if the samples are not finite, of different events or of fewer than two rows,
            there are fewer than two frequencies, or ``scale`` is not positive.

    Source: Weber, "The score-difference flow for implicit generative modeling" (2023), appendix E.

    Example:
        >>> x = torch.randn(1_000, 2)
        >>> characteristic_distance(x, x).value
        0.0
    """
    if frequencies < 2:
        raise ValueError(f"frequencies must be at least 2, got {frequencies}; 256 is usual")
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale must be positive and finite, got {scale}; 1.0 is usual")
    x, y = event_rows(x, y)
    check_at_least(2, "a distance with its floor", x=x, y=y)
    centre = x.mean(0)  # a common shift turns both by the same phase
    x, y = x - centre, y - centre
    draws = stream(draw_key(generator), device=x.device)
    omega = scale * torch.randn(
        frequencies, x.shape[1], generator=draws, device=x.device, dtype=torch.float64
    )
    mean_x, square_x = _characteristic(x, omega)
    mean_y, square_y = _characteristic(y, omega)
    distances = (mean_x - mean_y).square().sum(0).sqrt()
    spread = (square_x - mean_x.square()) / len(x) + (square_y - mean_y.square()) / len(y)
    return CharacteristicDistance(
        value=float(distances.mean()),
        standard_error=float(distances.std()) / math.sqrt(frequencies),
        floor=float(_mean_length(spread.clamp(min=0)).mean()),
    )


def _characteristic(x: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """Means of cos and sin of the phases, ``(2, K)``, and of their squares."""
    size = max(1, _CHUNK // len(omega))
    means = torch.zeros(2, len(omega), dtype=x.dtype, device=x.device)
    squares = torch.zeros(len(omega), dtype=x.dtype, device=x.device)
    for rows in torch.split(x, size):
        phase = rows @ omega.mT
        cosine = phase.cos()
        squares += torch.linalg.vecdot(cosine, cosine, dim=0)
        means[0] += cosine.sum(0)
        means[1] += phase.sin_().sum(0)
    n = len(x)
    return means / n, torch.stack([squares / n, 1 - squares / n])


def _mean_length(variances: Tensor) -> Tensor:
    """``E|z|`` for z a centred normal in the plane of the given variances, ``(2, K)`` to ``(K,)``.

    It is ``√(2/π) a E(1 - b²/a²)`` with a ≥ b the deviations and E the complete elliptic integral.
    """
    from scipy import special

    large, small = variances.amax(0), variances.amin(0)
    ratio = torch.where(large > 0, small / large.clamp(min=1e-300), 1.0)
    integral = torch.as_tensor(special.ellipe((1 - ratio).cpu().numpy())).to(large)
    return math.sqrt(2 / math.pi) * large.sqrt() * integral
