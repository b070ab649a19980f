"""The Gaussian law, with an isotropic, diagonal or full covariance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.checks import check_events, check_finite_rows, integer
from .._core.precision import as_wide, wide
from .._core.random import local
from .._core.reprs import brief
from .._core.signatures import checked
from .._core.tensor import state_dtype, sum_events
from .._core.written import Written
from .base import _LOG_2PI, Distribution

__all__ = ["Gaussian"]


@checked
class Gaussian(Distribution):
    r"""``N(m, S)`` with S isotropic, diagonal or full.

    Args:
        shape: event shape.
        mean: m, a number or a tensor that broadcasts to ``shape``.
        scale: standard deviation, a positive number (isotropic) or a tensor that broadcasts to
            ``shape`` (diagonal).
        scale_tril: lower-triangular factor ``(d, d)`` of the covariance of the flattened event,
            instead of ``scale``.

    Raises:
        ValueError: if a scale is not positive and finite, ``scale_tril`` is not lower triangular
            ``(d, d)``, or the mean is not finite.

    Example:
        >>> round(float(Gaussian((2,), scale=3.0).log_prob(torch.zeros(1, 2))), 4)  # -log(2π · 3²)
        -4.0351
        >>> Gaussian((2,), scale_tril=torch.tensor([[1.0, 0.0], [2.0, 1.0]])).covariance().tolist()
        [[1.0, 2.0], [2.0, 5.0]]
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        mean: float | DataLike = 0.0,
        scale: float | DataLike = 1.0,
        *,
        scale_tril: DataLike | None = None,
    ) -> None:
        super().__init__(shape)
        full = as_wide(mean, "mean").expand(self.shape).clone()
        self.register_buffer("mean", full)
        if scale_tril is not None:
            d, scale_tril = self.shape.numel(), as_wide(scale_tril, "scale_tril")
            if scale_tril.shape != (d, d):
                raise ValueError(
                    f"scale_tril is {tuple(scale_tril.shape)}; for shape {tuple(self.shape)}"
                    f" it must be ({d}, {d})"
                )
            spread = scale_tril
            if bool(spread.triu(1).any()):
                raise ValueError(
                    "scale_tril must be lower triangular; for a covariance S write"
                    " scale_tril=torch.linalg.cholesky(S)"
                )
            if not bool(spread.isfinite().all()):
                raise ValueError("scale_tril must be finite, and holds NaN or infinite numbers")
            positive = spread.diagonal()
        else:
            spread = as_wide(scale, "scale")
            if spread.ndim > 0:
                spread = spread.expand(self.shape)
            positive = spread
        if not bool(((positive > 0) & torch.isfinite(positive)).all()):
            raise ValueError(
                f"scale must be positive and finite, got between {float(positive.min())} and"
                f" {float(positive.max())}"
            )
        if not bool(torch.isfinite(full).all()):
            raise ValueError("mean must be finite")
        self.register_buffer("scale", spread.clone())
        self._full = scale_tril is not None
        self.isotropic = spread.ndim == 0

    _known: tuple[Written, bool, bool] | None = None

    def _standard(self) -> tuple[bool, bool]:
        """Whether the mean is 0, and whether the scale is 1, as they are now."""
        now = Written((self.mean, self.scale))
        if self._known is None or not now.same(self._known[0]):
            unit = self.isotropic and float(self.scale) == 1.0
            self._known = now, not bool(self.mean.any()), unit
        return self._known[1:]

    @property
    def zero_mean(self) -> bool:
        """Whether the mean is 0."""
        return self._standard()[0]

    @classmethod
    def fit(cls, x: DataLike, *, covariance: str = "diagonal") -> Gaussian:
        """Fit mean and covariance to rows ``x`` ``(N, *)`` by moments.

        Args:
            x: at least two rows.
            covariance: ``"isotropic"``, ``"diagonal"`` or ``"full"`` (``(d, d)`` for d numbers in
                an event; needs more rows than d).

        Raises:
            TypeError: if x is neither a tensor nor an array of floating-point numbers.
            ValueError: if x is not finite rows, has fewer of them than the covariance takes, or a
                coordinate that does not vary, or the kind of covariance is unknown.
        """
        x = as_rows("x", x, torch.float64)
        check_finite_rows(x, "x")
        if x.shape[0] < 2:
            raise ValueError("fitting a Gaussian needs at least 2 rows, got 1")
        shape, x = x.shape[1:], wide(x.detach())
        mean = x.mean(0)
        if covariance == "isotropic":
            return cls(shape, mean, float(x.var(0).mean().sqrt()))
        if covariance == "diagonal":
            scale = x.std(0)
            still = int((scale <= 0).sum())
            if still:
                raise ValueError(
                    f"{still} of {scale.numel()} coordinates do not vary, so no diagonal Gaussian"
                    " fits; use covariance='isotropic', or drop them"
                )
            return cls(shape, mean, scale)
        if covariance == "full":
            centred = (x - mean).flatten(1)
            if x.shape[0] <= centred.shape[1]:
                raise ValueError(
                    f"a full covariance of {centred.shape[1]} numbers needs more rows than that,"
                    f" got {x.shape[0]}; use covariance='diagonal'"
                )
            factor = torch.linalg.cholesky(centred.mT @ centred / (x.shape[0] - 1))
            return cls(shape, mean, scale_tril=factor)
        raise ValueError(
            f"unknown covariance {covariance!r}; known: 'isotropic', 'diagonal', 'full'"
        )

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        device = self.mean.device if device is None else torch.device(device)
        n = integer("n", n, "a number of draws", least=0)
        dtype = state_dtype(dtype)
        z = torch.randn(
            n, *self.shape, generator=local(generator, device), dtype=dtype, device=device
        )
        zero_mean, unit = self._standard()
        if self._full:
            z = (z.flatten(1) @ self.scale.to(z).mT).view_as(z)
        elif not unit:
            z = z.mul_(self.scale.to(z))
        return z if zero_mean else z.add_(self.mean.to(z))

    def log_prob(self, x: Tensor) -> Tensor:
        check_events(x, self.shape, "x", f"this {type(self).__name__}")
        centred = x - self.mean.to(x)
        d = self.shape.numel()
        if self._full:
            factor = self.scale.to(x)
            white = torch.linalg.solve_triangular(factor, centred.flatten(1).mT, upper=False).mT
            log_det = factor.diagonal().log().sum()
        else:
            white = centred / self.scale.to(x)
            log_det = self.scale.to(x).log().expand(self.shape).sum()
        return -0.5 * sum_events(white.square()) - log_det - 0.5 * d * _LOG_2PI

    def extra_repr(self) -> str:
        spread = f"covariance={'x'.join(map(str, self.scale.shape))}" if self._full else ""
        spread = spread or f"scale={brief(self.scale, shapes=False)}"
        return f"{tuple(self.shape)}, mean={brief(self.mean, shapes=False)}, {spread}"

    def covariance(self) -> Tensor:
        """The covariance ``(d, d)`` of the flattened event, float64."""
        if self._full:
            return self.scale @ self.scale.mT
        return torch.diag(self.scale.square().expand(self.shape).flatten())

    def config(self) -> dict[str, Any]:
        spread = {"scale_tril" if self._full else "scale": self.scale}
        return {"shape": list(self.shape), "mean": self.mean, **spread}
