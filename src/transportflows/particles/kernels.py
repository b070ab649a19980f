r"""Gaussian kernel sums over two samples, stable and without the matrix of all pairs.

With :math:`K_\sigma(z, x) = \exp(-|z - x|^2 / 2\sigma^2)` the posterior mean of a sample is

.. math:: D(z; \sigma) = \frac{\sum_j K_\sigma(z, x_j)\, x_j}{\sum_j K_\sigma(z, x_j)}
          = E[x \mid x + \sigma \epsilon = z],

the optimal data prediction at noise level σ for the empirical law of the rows (Weber 2023,
equations 11 and 38). The logarithms of the weights are one product of matrices,
:math:`[u, 1] \cdot [v, -|v|^2/2]` with u and v the centred rows over σ (what depends on z alone
cancels), and each row has its running maximum taken off before it is exponentiated, so no weight
that matters underflows, however far z is. On the CPU the product, the weights and the mean are
torch's fused attention, whose softmax this is; elsewhere, and where the sums themselves are wanted
or differentiated, tiles of rows and columns. In neither are more than a few MB held.

The product cancels: in float32 a log-weight is off by about 6e-8 R²/σ², with R the radius of the
data. Where that exceeds 1e-3 the product is made in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._core.checks import number
from .._core.precision import wide, widest, widest_dtype
from .._core.signatures import checked

__all__ = ["check_bandwidth", "kernel_mean", "kernel_sums", "radius_of", "spacing"]

_TILE_CPU, _TILE_CARD = 1 << 18, 1 << 25  # weights held at a time: they fit a cache, or fill a card
_ROWS = 256
_ERROR = 1e-3  # of a log-weight
_PROBES = 1024


@checked
def kernel_mean(
    z: Tensor, x: Tensor, sigma: float, *, radius: float | None = None, fused: bool = True
) -> Tensor:
    r"""Return the mean of the rows x under the weights ``K_σ(z, x_j)``, ``(B, *)``.

    Args:
        z: where, ``(B, *)``.
        x: the sample, ``(N, *)``.
        sigma: σ > 0, in units of the data.
        radius: a bound on the distance of all rows from the mean of x, which decides the precision
            of the weights; measured if None (which reads a value from the device), and infinite
            for float64 in any case.
        fused: use fused attention where there is one; it cannot be differentiated in forward mode.

    Source: Weber (2023), equations 12 and 38.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> kernel_mean(torch.tensor([[0.0], [50.0]]), x, 1.0)  # exp(-50²/2) is 0 in float32
        tensor([[0.],
                [1.]])
    """
    number("sigma", sigma, "a scale between 1e-30 and 1e30", least=1e-30, most=1e30)
    if radius is not None:
        number("radius", radius, "a distance, or None", least=0, finite=False)
    rows, points = z.flatten(1), x.flatten(1)
    centre = points.detach().mean(0)
    u, v, dtype = _scaled(rows - centre, points - centre, sigma, radius)
    plain = not (torch.is_grad_enabled() and (z.requires_grad or x.requires_grad))
    if fused and plain and u.device.type == "cpu":
        return _attention(u, v, dtype).mul(sigma).to(z.dtype).add(centre).view_as(z)
    ones = torch.cat([v, v.new_ones(len(v), 1)], 1)
    sums = _tiled(u, v, ones, dtype)[1]
    return (sums[:, :-1] / sums[:, -1:]).mul(sigma).to(z.dtype).add(centre).reshape(z.shape)


def kernel_sums(
    z: Tensor, x: Tensor, values: Tensor, sigma: float, *, radius: float | None = None
) -> tuple[Tensor, Tensor]:
    r"""Return ``(m, S)`` with :math:`\sum_j K_\sigma(z_i, x_j) v_j = e^{m_i} S_i`.

    Args:
        z: where, ``(B, *)``.
        x: the sample, ``(N, *)``.
        values: v, ``(N, k)``.
        sigma: σ > 0.
        radius: as in :func:`kernel_mean`.

    Returns:
        The largest log-weight of each row, ``(B,)``, and sums ``(B, k)``.
    """
    rows, points = z.flatten(1), x.flatten(1)
    centre = points.detach().mean(0)
    u, v, dtype = _scaled(rows - centre, points - centre, sigma, radius)
    top, sums = _tiled(u, v, values, dtype)
    return (top[:, 0] - 0.5 * u.to(top).square().sum(1)).to(z.dtype), sums.to(z.dtype)


def radius_of(*samples: Tensor | None) -> float:
    """The largest distance of any row from the common centre of some samples, doubled."""
    rows = [x.detach().flatten(1) for x in samples if x is not None]
    centre = torch.stack([x.mean(0) for x in rows]).mean(0)
    return 2.0 * max(float((x - centre).square().sum(1).amax().sqrt()) for x in rows)


def spacing(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Distance to the nearest row of y, or to the nearest other row of x, for up to 1,024 rows.

    Returns:
        Positive distances, float64; none where all points coincide.
    """
    rows = wide(x.detach().flatten(1))
    points = rows if y is None else wide(y.detach().flatten(1))
    index = torch.linspace(0, len(rows) - 1, min(len(rows), _PROBES)).long().to(rows.device)
    chosen = rows[index]
    nearest = torch.full((len(chosen),), math.inf, dtype=torch.float64, device=rows.device)
    width = max(1, (_TILE_CPU if x.device.type == "cpu" else _TILE_CARD) // len(chosen))
    for start in range(0, len(points), width):
        tile = torch.cdist(
            chosen, points[start : start + width], compute_mode="donot_use_mm_for_euclid_dist"
        )
        if y is None:
            tile = tile.where(tile > 0, math.inf)
        nearest = torch.minimum(nearest, tile.amin(1))
    return nearest[nearest.isfinite()]


def check_bandwidth(target: Tensor, sigma: float) -> None:
    """Refuse a σ at which no target weighs on any other, so that nothing is smoothed.

    Raises:
        ValueError: if ``K_σ`` between a target and its nearest neighbour underflows for all.
    """
    distances = spacing(target)
    if distances.numel() == 0:
        return
    reach = math.sqrt(-2 * math.log(torch.finfo(target.dtype).tiny))
    near, middle = float(distances.min()), float(distances.median())
    if near > reach * sigma:
        raise ValueError(
            f"sigma = {sigma:.3g} is so small that every kernel weight between two targets"
            f" underflows: the nearest two are {near:.3g} apart, and exp(-d²/2σ²) is 0 in"
            f" {target.dtype} beyond {reach:.1f} σ. Such a flow can only copy the targets; let"
            f" sigma end near the distance of nearest neighbours, {middle:.3g} here (median)"
        )


def _scaled(
    rows: Tensor, points: Tensor, sigma: float, radius: float | None
) -> tuple[Tensor, Tensor, torch.dtype]:
    """Rows over σ, and the dtype in which their products are precise enough."""
    dtype = rows.dtype
    if dtype not in (torch.float32, torch.float64):
        dtype = torch.float32
    if dtype == torch.float32 and radius == math.inf:
        return widest(rows) / sigma, widest(points) / sigma, widest_dtype(rows.device)
    if dtype == torch.float32:
        if radius is None:
            top = torch.stack([rows.detach().square().sum(1).amax(), points.square().sum(1).amax()])
            radius = float(top.amax().sqrt())
        if torch.finfo(dtype).eps / 2 * (radius / sigma) ** 2 > _ERROR:
            dtype = widest_dtype(rows.device)
            rows, points = widest(rows), widest(points)
    return rows / sigma, points / sigma, dtype


def _attention(u: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
    """The softmax of ``u·v - |v|²/2`` times v, by torch's blockwise kernel for the CPU."""
    query = torch.cat([u, u.new_ones(len(u), 1)], 1).to(dtype)
    key = torch.cat([v, v.square().sum(1, keepdim=True).mul_(-0.5)], 1).to(dtype)
    value = torch.cat([v, v.new_zeros(len(v), 1)], 1).to(dtype)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # and no other: one holds all pairs
        mean = torch.nn.functional.scaled_dot_product_attention(
            query[None, None], key[None, None], value[None, None], scale=1.0
        )
    return mean[0, 0, :, :-1]


def _tiled(u: Tensor, v: Tensor, values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Row maxima ``(B, 1)`` of ``u·v - |v|²/2`` and sums of their exponentials times values."""
    if u.dtype != dtype:
        u, v = u.to(dtype), v.to(dtype)
    query = torch.cat([u, u.new_ones(len(u), 1)], 1)
    key = torch.cat([v, -0.5 * v.square().sum(1, keepdim=True)], 1).mT
    values = values.to(dtype)
    budget = _TILE_CPU if u.device.type == "cpu" else _TILE_CARD
    height = max(1, min(len(u), max(_ROWS, budget // max(len(v), 1))))
    width = max(1, budget // height)
    tops, sums = [], []
    for block in torch.split(query, height):
        top = total = None
        for start in range(0, len(v), width):
            tile = block @ key[:, start : start + width]
            part = values[start : start + width]
            high = tile.detach().amax(1, keepdim=True)
            if top is None or total is None:
                top, total = high, _exp(tile.sub_(high)) @ part
                continue
            high = torch.maximum(top, high)
            total = torch.addmm(total * _exp(top - high), _exp(tile.sub_(high)), part)
            top = high
        tops.append(top)
        sums.append(total)
    return torch.cat(tops), torch.cat(sums)  # type: ignore[arg-type]


def _exp(logs: Tensor) -> Tensor:
    """``e^x`` in place, of numbers up to 0, at least e^-60: subnormal ones are 50 times as slow."""
    return logs.clamp_(min=-60.0 if logs.dtype == torch.float32 else -600.0).exp_()
