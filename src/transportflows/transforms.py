"""The standardising transform that a field carries: data's units outside, unit scale inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ._core.arrays import DataLike, as_rows
from ._core.checks import check_finite_rows, integer
from ._core.precision import as_wide, wide
from ._core.registry import Storable
from ._core.reprs import call
from ._core.signatures import checked

__all__ = ["Standardize"]


@checked
class Standardize(Storable, nn.Module):
    r"""The affine map ``y = (x - mean) / scale`` and its inverse.

    Networks train best on numbers of unit size, while people think in the units of their data. A
    field with a transform takes and gives data in their own units at its surface (``sample``,
    ``log_likelihood``), and works in standardised ones inside.

    Args:
        mean: a number, or a tensor that broadcasts to the event shape.
        scale: likewise; positive.

    Raises:
        ValueError: if the mean is not finite, or a scale not positive and finite.

    Example:
        >>> x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
        >>> transform = Standardize.fit(x)
        >>> bool(torch.allclose(transform.invert(transform(x)), x))
        True
    """

    _sets: ClassVar[tuple[str, ...]] = ("mean", "scale")
    mean: Tensor
    scale: Tensor

    def __init__(self, mean: float | DataLike = 0.0, scale: float | DataLike = 1.0) -> None:
        super().__init__()
        self.register_buffer("mean", as_wide(mean, "mean").clone())
        self.register_buffer("scale", as_wide(scale, "scale").clone())
        finite = bool(self.scale.isfinite().all() & self.mean.isfinite().all())
        if not finite or not bool((self.scale > 0).all()):
            raise ValueError(
                f"mean must be finite and scale positive, got {self.mean.tolist()} and"
                f" {self.scale.tolist()}"
            )

    @classmethod
    def fit(cls, x: DataLike, *, shared: Sequence[int] | str = ()) -> Standardize:
        """Fit mean and standard deviation to rows ``x`` ``(N, *)``.

        A coordinate that does not vary is centred and keeps scale 1.

        Args:
            x: finite data, a tensor or an array.
            shared: event dimensions, counted from 0 after the batch, over which one mean and one
                scale are shared: ``(1, 2)`` for one a channel of ``(C, H, W)`` images, ``"all"``
                for one in all. By default every coordinate has its own.

        Raises:
            TypeError: if the data are neither a tensor nor an array of floating-point numbers.
            ValueError: if they are not finite rows, or ``shared`` names other than event
                dimensions.
        """
        x = as_rows("x", x, torch.float64)
        check_finite_rows(x, "x")
        if isinstance(shared, str) and shared != "all":
            raise ValueError(f"shared is 'all', or event dimensions such as (1, 2), got {shared!r}")
        most = x.ndim - 2
        what = f"event dimensions, counted from 0 to {most}"
        events = range(x.ndim - 1) if shared == "all" else shared
        events = tuple(integer("shared", d, what, least=0, most=most) for d in events)
        dims = (0, *(d + 1 for d in events))
        rows = wide(x.detach())
        mean = rows.mean(dims, keepdim=True)
        scale = (rows - mean).square().mean(dims, keepdim=True).sqrt()
        scale = torch.where(scale > 1e-12 * (1 + mean.abs()), scale, 1.0)
        return cls(mean[0], scale[0])

    def forward(self, x: Tensor) -> Tensor:
        """From the data's units to standardised ones, ``(B, *)`` both."""
        y: Tensor = (x - self.mean.to(x)) / self.scale.to(x)
        return self._of_its_shape(y, x)

    def _of_its_shape(self, value: Tensor, given: Tensor) -> Tensor:
        """What came out, if the scales did not widen the events by broadcasting."""
        if value.shape != given.shape:
            raise ValueError(
                f"this Standardize has scales of shape {tuple(self.scale.shape)}, and was given"
                f" events of shape {tuple(given.shape[1:])}; fit it to data of that shape"
            )
        return value

    def invert(self, y: Tensor) -> Tensor:
        """From standardised units back to the data's, ``(B, *)`` both."""
        return self._of_its_shape(torch.addcmul(self.mean.to(y), y, self.scale.to(y)), y)

    def log_abs_det(self, shape: Sequence[int]) -> float:
        """``log |dy/dx|`` for events of ``shape``: what a log-density in data units gains."""
        return -float(self.scale.log().expand(torch.Size(shape)).sum()) if math.prod(shape) else 0.0

    def config(self) -> dict[str, Any]:
        return {"mean": self.mean, "scale": self.scale}

    def __repr__(self) -> str:
        return call(self)
