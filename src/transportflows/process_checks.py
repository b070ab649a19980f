"""What a process refuses: data, paths and bases that do not fit together."""

from __future__ import annotations

import torch
from torch import Tensor

from ._core.checks import check_same_kind
from .distributions import Distribution, Gaussian
from .gaussian_part import GaussianPart, NoisePart
from .interpolants import AffineInterpolant, Interpolant

__all__ = ["check_base", "check_data", "check_ends"]

_END_TOLERANCE = 1e-5


def check_data(x1: Tensor, x0: Tensor | None, shape: torch.Size | None, whose: str) -> None:
    """Refuse data that are no floating-point rows, of another event shape, or of other pairs.

    Args:
        x1: data.
        x0: base samples given with them, or None.
        shape: event shape of the process, if it is known.
        whose: what it is the shape of, for the message.
    """
    if not isinstance(x1, Tensor) or not x1.is_floating_point() or x1.ndim < 2:
        given = f"{tuple(x1.shape)} {x1.dtype}" if isinstance(x1, Tensor) else type(x1).__name__
        raise ValueError(
            f"x1 must be a floating-point tensor (B, *) with at least 2 dimensions, got {given}"
        )
    if shape is not None and x1.shape[1:] != shape:
        raise ValueError(
            f"the data have event shape {tuple(x1.shape[1:])} and the {whose} has"
            f" {tuple(shape)}; write base=Gaussian({tuple(x1.shape[1:])}), or reshape x1"
        )
    if x0 is not None:
        if x0.shape != x1.shape:
            raise ValueError(
                f"x0 is {tuple(x0.shape)} and x1 is {tuple(x1.shape)}; pairs have one shape"
            )
        check_same_kind(x0, x1, "x0", "x1")


def check_ends(interpolant: Interpolant, x0: Tensor, x1: Tensor) -> None:
    """Refuse a path that does not start at x0 and end at x1."""
    with torch.no_grad():
        errors = interpolant.end_errors(x0, x1)
    wrong = {name: e for name, e in errors.items() if not e <= _END_TOLERANCE}
    if wrong:
        spelled = ", ".join(f"{name} = {error:.3g}" for name, error in wrong.items())
        raise ValueError(
            f"the ends of {type(interpolant).__name__} are wrong: {spelled}, where 0 is"
            " needed. The path must start at x0 (t = 0), end at x1 (t = 1) and have γ = 0 at"
            " both; tpf.testing.check_interpolant says more"
        )


def check_base(part: NoisePart, base: Distribution | None, scale: float) -> None:
    """Refuse a base that does not fit its path.

    Args:
        part: the noise in x_t.
        base: ρ0, or None.
        scale: of the Gaussian that a path without x0 starts from; 0 where it starts from none.
    """
    interpolant = part.path
    if interpolant.uses_base and isinstance(interpolant, AffineInterpolant):
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=part.device)
        with torch.no_grad():
            bounded = bool(torch.isfinite(interpolant.alpha_dot(ends)).all())
        base_fits = isinstance(part, GaussianPart) and part.base_mean is None
        if not bounded and not base_fits:
            raise ValueError(
                f"α̇ of {type(interpolant).__name__} is infinite at an end, so the velocity"
                " diverges unless the base is Gaussian with mean zero, isotropic and"
                " independent; use Gaussian(shape), or an α with a finite derivative"
            )
    if scale > 0 and base is not None:
        if not (
            isinstance(base, Gaussian)
            and base.isotropic
            and base.zero_mean
            and abs(float(base.scale) - scale) <= 0.01 * scale
        ):
            raise ValueError(
                f"{type(interpolant).__name__} makes its own base, N(0, {scale:g}² Id); give"
                f" that (Gaussian(shape, scale={scale:g})) or none (shape=...). Another base"
                " needs a two-sided path such as Linear(gamma=Brownian()); another start for"
                " the sampler is sample(..., start=...)"
            )
