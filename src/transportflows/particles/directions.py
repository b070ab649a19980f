r"""Directions: where particles go. They are modules, interchangeable in both algorithms.

A direction is evaluated at ``z = y + σ ε`` and moves y. One rule holds for all score differences:

.. math:: \Delta = \sigma^2 \bigl(\nabla \log p_\sigma(z) - \nabla \log q_\sigma(z)\bigr)
          = D_p(z; \sigma) - D_q(z; \sigma),

a displacement from one posterior mean to the other (Weber 2023, equations 12 to 15), and the score
difference itself where nothing is smoothed (``sigma=None``). The factor ½ of the paper's (13) is in
the step: η = ½ dt.

==================================  ==============================================================
:class:`KernelDifference`           both posterior means from samples, (12) and (13)
:class:`DataDifference`             a data prediction for p; y itself (16) or another one for q (15)
:class:`ScoreDifference`            scores of laws or functions: oracles
:class:`DiscriminatorDifference`    the gradient of a discriminator, (31)
:class:`LossGradient`               ``-∂L/∂x`` for any loss of the samples, (19)
:class:`MMDGradient`                gradient flow of the maximum mean discrepancy, (42)
:class:`SteinDirection`             SVGD (Liu & Wang 2016)
==================================  ==============================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._core.built import Built
from .._core.precision import Movable
from .._core.reprs import brief, call, call_lines
from .._core.signatures import checked
from ..distributions.base import Distribution
from ..distributions.gaussian import Gaussian
from ..distributions.mixture import GaussianMixture
from .kernels import check_bandwidth, kernel_mean
from .predictions import FieldData, SmoothedLaw, as_data

__all__ = [
    "DataDifference",
    "Direction",
    "KernelDifference",
    "ScoreDifference",
    "Swarm",
]


@checked
@dataclass(frozen=True)
class Swarm:
    """What a direction may look at.

    Attributes:
        clean: y, the rows that move, without noise, ``(B, *)``.
        source: a sample of q_t, ``(M, *)``.
        target: a sample of p, ``(N, *)``; None where there is none.
        sigma: σ; 0 where nothing is smoothed.
        u: the flow's clock, 0 at the first step and 1 at the last.
        step: number of the step, from 0.
        radius: a bound on the size of the samples, for the precision of kernel sums; None: unknown.
        fused: whether kernel sums may be made by what forward mode cannot differentiate.

    Example:
        >>> y, x = torch.zeros(2, 1), torch.ones(2, 1)  # particles, and a sample of p
        >>> swarm = Swarm(clean=y, source=y, target=x, sigma=1.0)
        >>> KernelDifference()(y, swarm).flatten()  # from the mean of q to that of p
        tensor([1., 1.])
    """

    clean: Tensor
    source: Tensor
    target: Tensor | None
    sigma: float
    u: float = 0.0
    step: int = 0
    radius: float | None = None
    fused: bool = True

    def at(self, clean: Tensor) -> Swarm:
        """The same swarm for other rows that move, ``(B, *)``."""
        return replace(self, clean=clean, fused=False)


@checked
class Direction(Built, Movable, nn.Module, ABC):
    """Where particles go; a subclass writes ``forward``.

    Attributes:
        needs_target: whether it looks at a sample of p.
        needs_sigma: whether it has no meaning without a σ.
        perturbed: whether it is evaluated at ``y + σ ε``, and at y otherwise.

    Example:
        >>> import transportflows as tpf
        >>> class Shrink(Direction):
        ...     needs_sigma = False
        ...     def forward(self, z, swarm):
        ...         return -z
        >>> y = torch.ones(2, 1)
        >>> tpf.particle_flow(y, direction=Shrink(), steps=2, step=0.5, noise="none").x.flatten()
        tensor([0.2500, 0.2500])
    """

    _sets: ClassVar[tuple[str, ...]] = ("_parameters",)
    needs_target: ClassVar[bool] = False
    needs_sigma: ClassVar[bool] = True
    perturbed: bool = True

    @abstractmethod
    def forward(self, z: Tensor, swarm: Swarm) -> Tensor:
        """Δ at ``z``, ``(B, *)``."""

    def levels(self, sigma: Tensor) -> Tensor:
        """The level of the noise added to y, for each σ of a table ``(steps,)``, float64."""
        return sigma if self.perturbed else torch.zeros_like(sigma)

    def check(self, source: Tensor, target: Tensor | None, sigma: Tensor) -> None:
        """Refuse samples ``(N, *)`` and levels that do not do for it; called before the steps."""


@checked
class KernelDifference(Direction):
    r"""Both posterior means from samples: the score difference of the smoothed samples.

    .. math:: \Delta = \frac{E_{x \sim p}[K_\sigma(z, x)\, x]}{E_{x \sim p}[K_\sigma(z, x)]}
              - \frac{E_{y \sim q}[K_\sigma(z, y)\, y]}{E_{y \sim q}[K_\sigma(z, y)]}

    Source: Weber (2023), equations 12 and 13.

    Example:
        >>> z, x = torch.tensor([[0.0]]), torch.tensor([[-1.0], [1.0]])
        >>> KernelDifference()(z, Swarm(z, source=z, target=x, sigma=1.0)).item()  # midway
        0.0
        >>> z = torch.tensor([[0.5]])  # weights exp(-(x - 1/2)²/2): x has the mean tanh(1/2)
        >>> round(KernelDifference()(z, Swarm(z, source=0 * z, target=x, sigma=1.0)).item(), 4)
        0.4621
    """

    needs_target = True

    def forward(self, z: Tensor, swarm: Swarm) -> Tensor:
        target = _target(swarm)
        sigma, options = swarm.sigma, {"radius": swarm.radius, "fused": swarm.fused}
        ahead = kernel_mean(z, target, sigma, **options)  # type: ignore[arg-type]
        return ahead - kernel_mean(z, swarm.source, sigma, **options)  # type: ignore[arg-type]

    def check(self, source: Tensor, target: Tensor | None, sigma: Tensor) -> None:
        if target is not None:
            check_bandwidth(target, float(sigma.min()))


@checked
class DataDifference(Direction):
    r""":math:`\Delta = D_p(z; \sigma) - y`, or :math:`D_p(z; \sigma) - D_q(z; \sigma)`.

    With y itself for the data prediction of q, ``y + η Δ = (1 - η) y + η D_p(z)``; its limit of
    small steps is ``dy = (D_p(z) - y) dt``. (The paper writes that limit without ``- y``.) Nothing
    then keeps the particles apart: on N(0, s²), where ``D_p(z) = k z``, a constant σ and η lead to
    the variance ``η k² σ² / (1 - k) (2 - η (1 - k))``, which vanishes with η. It is for a σ that
    falls as η asks, as in a diffusion (:class:`DiffusionStep`); elsewhere estimate D_q too.

    Args:
        data: D_p: a field of a one-sided process (learned or exact), a Gaussian or a mixture of
            them, a tensor of rows, or a function ``(z, sigma)``.
        of_source: D_q, likewise; ``"sample"`` for the particles' kernel mean, None for y itself.

    Source: Weber (2023), equations 15 and 16.

    Example:
        >>> z = torch.tensor([[2.0]])
        >>> to_normal = DataDifference(Gaussian((1,)))  # D_p(z) = z/(1 + σ²)
        >>> to_normal(z, Swarm(z, source=z, target=None, sigma=1.0))  # 1 - 2
        tensor([[-1.]])
    """

    def __init__(self, data: Any, of_source: Any = None) -> None:
        super().__init__()
        self.data = as_data(data)
        self.of_sample = isinstance(of_source, str) and of_source == "sample"
        plain = of_source is None or self.of_sample
        self.of_source: Any = of_source if plain else as_data(of_source)
        self._parts = _modules(self.data, self.of_source)

    __repr__ = call

    def forward(self, z: Tensor, swarm: Swarm) -> Tensor:
        return self.data(z, swarm.sigma) - self._behind(z, swarm)

    def _behind(self, z: Tensor, swarm: Swarm) -> Tensor:
        if self.of_source is None:
            return swarm.clean
        if self.of_sample:
            return kernel_mean(z, swarm.source, swarm.sigma, radius=swarm.radius, fused=swarm.fused)
        predicted: Tensor = self.of_source(z, swarm.sigma)
        return predicted

    def check(self, source: Tensor, target: Tensor | None, sigma: Tensor) -> None:
        for part in (self.data, self.of_source):
            if isinstance(part, FieldData):  # the times are found here, not in the loop
                for level in sigma.tolist():
                    part.time(level / part.scale)


@checked
class ScoreDifference(Direction):
    r""":math:`\sigma^2 (s_p(z; \sigma) - s_q(z; \sigma))`; :math:`s_p - s_q` where σ is None.

    Args:
        target: p: a Gaussian or a mixture of them, whose smoothed score is known, or a function
            ``(z, sigma)`` that gives the score at noise level σ.
        source: q, likewise; or ``"gaussian"`` for the Gaussian of the particles' own moments, which
            is exact as long as they are Gaussian.

    Source: Weber (2023), equations 4 and 12.

    Example:
        >>> z = torch.tensor([[1.0]])
        >>> both = ScoreDifference(Gaussian((1,), 3.0), Gaussian((1,)))  # of equal variance
        >>> both(z, Swarm(z, source=z, target=None, sigma=1.0))  # σ² (3 - 0)/(1 + σ²)
        tensor([[1.5000]])
    """

    needs_sigma = False

    def __init__(self, target: Any, source: Any = "gaussian") -> None:
        super().__init__()
        self.of_target = _score(target)
        self.of_source = None if source == "gaussian" else _score(source)
        self._parts = _modules(self.of_target, self.of_source)

    def __repr__(self) -> str:
        source = "'gaussian'" if self.of_source is None else brief(self.of_source)
        return call_lines(
            "ScoreDifference", [f"target={brief(self.of_target)}", f"source={source}"]
        )

    def forward(self, z: Tensor, swarm: Swarm) -> Tensor:
        sigma = swarm.sigma
        ahead = self.of_target(z, sigma)
        if self.of_source is None:
            behind = _gaussian_score(z, swarm.source, sigma)
        else:
            behind = self.of_source(z, sigma)
        return (sigma**2 if sigma > 0 else 1.0) * (ahead - behind)


def _target(swarm: Swarm) -> Tensor:
    if swarm.target is None:
        raise ValueError("this direction looks at a sample of p; give a target")
    return swarm.target


def _score(given: Any) -> Callable[[Tensor, float], Tensor]:
    if isinstance(given, (Gaussian, GaussianMixture)):
        return SmoothedLaw(given).score
    if callable(given) and not isinstance(given, (type, Distribution)):
        return given  # type: ignore[no-any-return]
    raise TypeError(
        "a score is of a Gaussian or a mixture of them, or a function (z, sigma), got"
        f" {type(given).__name__}; for samples use KernelDifference()"
    )


def _modules(*functions: Any) -> nn.ModuleList:
    """The modules that predictions are, or are methods of, so that they move to a device too."""
    owners = [getattr(function, "__self__", function) for function in functions]
    return nn.ModuleList(owner for owner in owners if isinstance(owner, nn.Module))


def _gaussian_score(z: Tensor, sample: Tensor, sigma: float) -> Tensor:
    rows, points = z.flatten(1), sample.flatten(1)
    mean = points.mean(0)
    centred = points - mean
    covariance = centred.mT @ centred / len(points)
    covariance = covariance + sigma**2 * torch.eye(len(mean), dtype=z.dtype, device=z.device)
    pulled: Tensor = torch.linalg.solve_ex(covariance, (rows - mean).mT)[0].mT
    return -pulled.reshape(z.shape)
