"""The forward SDE of a one-sided interpolant or process."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._core.signatures import checked
from ..distributions.adapters import class_of
from ..interpolants import Interpolant
from ..process import Process
from .base import ForwardSDE

__all__ = ["InterpolantSDE"]


@checked
class InterpolantSDE(ForwardSDE):
    r"""The forward SDE whose marginals are those of a one-sided path, read backward in time.

    ``a(τ) = β(1 - τ)``, ``σ²(τ) = σ̂²(1 - τ)``, and so ``f = -β̇/β`` and
    ``g² = 2 (σ̂² β̇/β - σ̂ σ̂̇)`` at t = 1 - τ. Where β(0) = 0, as for the linear path, f and g are
    infinite at τ = 1: the noise is reached at a finite time.

    Args:
        path: a one-sided interpolant, or a one-sided :class:`Process` (with a Gaussian base of mean
            zero) whose σ̂ holds the base and the latent.

    Raises:
        ValueError: if the path is not one-sided, or σ̂/β does not fall as t grows: then no forward
            SDE has its marginals.

    Example:
        >>> import torch
        >>> import transportflows as tpf
        >>> sde, half = InterpolantSDE(tpf.OneSidedLinear()), torch.tensor(0.5)
        >>> sde.drift_rate(half), sde.diffusion_sq(half)  # f = -1/(1 - τ), g² = 2 τ/(1 - τ)
        (tensor(-2.), tensor(2.))
    """

    def __init__(self, path: Interpolant | Process) -> None:
        super().__init__()
        process = path if isinstance(path, Process) else Process(path)
        if process.part.base_mean is not None:
            raise ValueError(
                f"{type(process.interpolant).__name__} with base {class_of(process.base)} is"
                " not one-sided about zero, so it is not a forward SDE read backward: give a"
                " one-sided path such as OneSidedLinear(), or Process(Linear(),"
                " base=Gaussian(shape))"
            )
        self.path = process
        self.tau_breakpoints = tuple(1 - t for t in process.interpolant.breakpoints)
        self.check()

    def a(self, tau: Tensor) -> Tensor:
        return self.path.part.path.beta(1 - tau)

    def a_dot(self, tau: Tensor) -> Tensor:
        return -self.path.part.path.beta_dot(1 - tau)

    def sigma_sq(self, tau: Tensor) -> Tensor:
        return self.path.part.scale_sq(1 - tau)

    def sigma(self, tau: Tensor) -> Tensor:
        return self.path.part.scale(1 - tau)

    def sigma_sq_dot(self, tau: Tensor) -> Tensor:
        return -self.path.part.scale_sq_dot(1 - tau)

    def config(self) -> dict[str, Any]:
        return {"path": self.path}
