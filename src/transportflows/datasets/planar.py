r"""Four planar laws.

They lie around the origin in a square of half-side 4, up to their noise, so that one
network and one base N(0, I) serve all. They are drawn in float64 on the CPU and moved
once, so a seed gives the same points on every device and, up to rounding, in every dtype.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core.random import draw_key, stream
from .._core.signatures import checked
from .._core.tensor import state_dtype

__all__ = ["checkerboard", "eight_gaussians", "swiss_roll", "two_moons"]


@checked
def checkerboard(
    n: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Draw from the uniform law on 8 of the 16 squares, of side 2, of :math:`[-4, 4]^2`.

    Those where :math:`\lfloor x/2 \rfloor + \lfloor y/2 \rfloor` is even; the density is 1/32 on
    them, the covariance :math:`\mathrm{diag}(16/3, 16/3)` with off-diagonal entries 1.

    Args:
        n: number of points, at least 1.
        generator: source of randomness, on any device; torch's default one if None.
        dtype: of the result; torch's default one if None.
        device: of the result; the CPU if None.

    Returns:
        Points ``(n, 2)``.

    Raises:
        ValueError: if ``n`` is less than 1.

    Source: the law is that of Grathwohl et al., "FFJORD" (2019), in other units.

    Example:
        >>> checkerboard(5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
    """
    generator = _source(n, generator)
    column = torch.randint(-2, 2, (n,), generator=generator)
    row = 2 * torch.randint(-1, 1, (n,), generator=generator) + column.remainder(2)
    corner = torch.stack([column, row], 1).double()
    return _cast(2 * (corner + _uniform(n, 2, generator)), dtype, device)


@checked
def two_moons(
    n: int,
    *,
    noise: float = 0.1,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Draw from two interlaced half circles of radius 2, with Gaussian noise.

    The upper one, :math:`(2\cos\theta - 1, 2\sin\theta - 1/2)`, and its reflection through the
    origin, each with probability 1/2, :math:`\theta` uniform on :math:`[0, \pi]`: the moons of
    scikit-learn, centred and doubled.

    Args:
        n: number of points, at least 1.
        noise: standard deviation of the noise in each coordinate, not negative.
        generator: source of randomness, on any device; torch's default one if None.
        dtype: of the result; torch's default one if None.
        device: of the result; the CPU if None.

    Returns:
        Points ``(n, 2)``.

    Raises:
        ValueError: if ``n`` is less than 1 or ``noise`` is negative.

    Source: ``make_moons`` of scikit-learn (Pedregosa et al. 2011).

    Example:
        >>> two_moons(5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
    """
    _check_scale(noise, "noise")
    generator = _source(n, generator)
    angle = math.pi * _uniform(n, 1, generator)
    upper = torch.cat([2 * angle.cos() - 1, 2 * angle.sin() - 0.5], 1)
    sign = 2.0 * torch.randint(0, 2, (n, 1), generator=generator) - 1
    return _cast(sign * upper + noise * _normal(n, generator), dtype, device)


@checked
def eight_gaussians(
    n: int,
    *,
    radius: float = 4.0,
    std: float = 0.4,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Draw from the mixture of eight Gaussians at :math:`r(\cos k\pi/4, \sin k\pi/4)`.

    Equal weights, covariance ``std**2`` times the identity in each; the mixture has mean 0 and
    covariance :math:`r^2/2 + \mathrm{std}^2` times the identity.

    Args:
        n: number of points, at least 1.
        radius: distance r of the centres from the origin, not negative.
        std: standard deviation of each Gaussian, not negative.
        generator: source of randomness, on any device; torch's default one if None.
        dtype: of the result; torch's default one if None.
        device: of the result; the CPU if None.

    Returns:
        Points ``(n, 2)``.

    Raises:
        ValueError: if ``n`` is less than 1, or ``radius`` or ``std`` is negative.

    Source: the law is that of Metz et al., "Unrolled generative adversarial networks" (2017).

    Example:
        >>> eight_gaussians(5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
    """
    _check_scale(radius, "radius")
    _check_scale(std, "std")
    generator = _source(n, generator)
    angle = math.pi / 4 * torch.randint(0, 8, (n, 1), generator=generator).double()
    centre = radius * torch.cat([angle.cos(), angle.sin()], 1)
    return _cast(centre + std * _normal(n, generator), dtype, device)


@checked
def swiss_roll(
    n: int,
    *,
    noise: float = 0.1,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Draw from the spiral :math:`r = 4\theta/(4.5\pi)`, with Gaussian noise.

    The angle :math:`\theta` is uniform on :math:`[1.5\pi, 4.5\pi]`: one and a half turns, from
    radius 4/3 to radius 4, neighbouring arms 16/9 apart. It is the roll of scikit-learn without its
    flat axis. Its mean is :math:`(16/(9\pi), 16/(27\pi^2)) \approx (0.57, 0.06)`.

    Args:
        n: number of points, at least 1.
        noise: standard deviation of the noise in each coordinate, not negative.
        generator: source of randomness, on any device; torch's default one if None.
        dtype: of the result; torch's default one if None.
        device: of the result; the CPU if None.

    Returns:
        Points ``(n, 2)``.

    Raises:
        ValueError: if ``n`` is less than 1 or ``noise`` is negative.

    Source: ``make_swiss_roll`` of scikit-learn (Marsland 2009).

    Example:
        >>> swiss_roll(5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
    """
    _check_scale(noise, "noise")
    generator = _source(n, generator)
    angle = 1.5 * math.pi * (1 + 2 * _uniform(n, 1, generator))
    curve = 4 * angle / (4.5 * math.pi) * torch.cat([angle.cos(), angle.sin()], 1)
    return _cast(curve + noise * _normal(n, generator), dtype, device)


def _source(n: int, generator: torch.Generator | None) -> torch.Generator:
    """Check the number of points and return a fresh generator on the CPU."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return stream(draw_key(generator))


def _check_scale(value: float, name: str) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")


def _uniform(n: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, columns, generator=generator, dtype=torch.float64)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def _cast(x: Tensor, dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor:
    return x.to(device=device, dtype=state_dtype(dtype))
