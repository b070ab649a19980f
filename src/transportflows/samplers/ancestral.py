r"""DDIM and ancestral sampling: the chain's own steps, in closed form.

With ``u = σ̂/β`` the noise-to-signal ratio, and a step from s to t (towards the data), the forward
chain adds the variance ``σ_s² τ`` to ``(β_s/β_t) x_t``, where ``τ = 1 - u_t²/u_s²``. Given x_s and
the data prediction d, the state at t is normal with variance ``σ_t² τ`` (the chain's posterior),
and Song, Meng & Ermon (2021) keep the marginals with any part of it:

.. math:: x'_t = \beta_t d + \sqrt{\sigma_t^2 - v}\; \hat\eta + \sqrt v\, z,
          \qquad v = \eta^2 \sigma_t^2 \tau, \quad \hat\eta = (x'_s - \beta_s d) / \sigma_s.

η = 1 is ancestral sampling: of DDPM (Ho, Jain & Abbeel 2020) on a VP process, of SMLD (Song et al.
2021, appendix F) on a VE process. It is the first-order exponential integrator of Anderson's ε, and
η = 0 is that of ε = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import names
from .._core.signatures import checked
from ..fields.base import Field
from ..solve.epsilon import EpsilonSchedule
from .exponential import ExponentialIntegrator
from .multistep import Multistep, Table

__all__ = ["DDIM", "FEW_STEP", "Ancestral", "ChainSteps", "chain_steps"]


class ChainSteps(NamedTuple):
    """The chain's steps between neighbouring times, s the noisier and t the cleaner one.

    Attributes:
        back: ``β_s/β_t``, by which noising multiplies ``x'_t``.
        forward: the variance ``σ_s² τ`` that it adds.
        state: what the step towards the data multiplies ``x'_s`` by.
        weight: and the data prediction.
        posterior: the variance ``σ_t² τ`` of x_t given x_s and x1, of which the step takes η².
    """

    back: Tensor
    forward: Tensor
    state: Tensor
    weight: Tensor
    posterior: Tensor


def chain_steps(beta: Tensor, sigma: Tensor, eta: float = 1.0) -> ChainSteps:
    """The steps of a grid from β and σ̂ at its times, ``(steps + 1,)``; see the module.

    Where σ̂/β grows there is no such chain, and τ is negative.
    """
    back = beta[:-1] / beta[1:]
    ratio = back * (sigma[1:] / sigma[:-1])  # u_t / u_s
    added = (1 - ratio) * (1 + ratio)
    posterior = sigma[1:].square() * added
    kept = (sigma[1:].square() - eta**2 * posterior).clamp(min=0).sqrt()
    state = kept / sigma[:-1]
    return ChainSteps(
        back, sigma[:-1].square() * added, state, beta[1:] - state * beta[:-1], posterior
    )


@checked
class _Chain(Multistep):
    """Steps of a chain towards the data, with a noise of their own."""

    order = 1
    eta: float

    def check(self, schedules: Sequence[EpsilonSchedule]) -> None:
        if not all(s.is_zero for s in schedules):
            raise ValueError(
                f"{self.name} has a noise of its own, and epsilon > 0 was given; leave epsilon out,"
                " or use ExponentialIntegrator(1), which takes any epsilon (AndersonEpsilon() for"
                " that of the chain)"
            )

    def _added(self, posterior: Tensor, forward: Tensor) -> Tensor:
        """The variance of the noise of each step, from ``σ_t² τ`` and ``σ_s² τ``."""
        return self.eta**2 * posterior

    @torch.no_grad()
    def tabulate(self, field: Field, schedules: Sequence[EpsilonSchedule], times: Tensor) -> Table:
        if self.eta == 0:
            return ExponentialIntegrator(1).tabulate(field, schedules, times)
        if bool(times[0] > times[-1]):
            raise ValueError(
                f"{self.name} goes towards the data, and t = ({float(times[0]):g},"
                f" {float(times[-1]):g}) goes towards the noise; use DDIM(eta=0), or"
                " ExponentialIntegrator(1) with an epsilon"
            )
        own = field.process.part
        beta, sigma = own.path.beta(times), own.scale(times)
        steps = chain_steps(beta, sigma, self.eta)
        grows = ~(steps.posterior >= 0)
        if bool(grows.any()):
            worst = int(grows.nonzero()[0])
            raise ValueError(
                f"{self.name} needs a forward chain, and σ̂/β of this process does not decrease"
                f" from t = {float(times[worst]):g} to {float(times[worst + 1]):g}; use"
                " ExponentialIntegrator(1) with an epsilon"
            )
        noise = self._added(steps.posterior, steps.forward).sqrt()
        groups = len(schedules)
        return Table(
            ["data"] * (len(times) - 1),
            list(steps.state[:, None].expand(-1, groups)),
            list(steps.weight[:, None, None].expand(-1, -1, groups)),
            list(noise[:, None].expand(-1, groups)),
        )


@checked
@dataclass(frozen=True)
class DDIM(_Chain):
    """DDIM with the part η of the chain's noise, for ``sample(field, n, scheme=DDIM(0.5))``.

    One network call a step. η = 0 is deterministic, of order 1, and runs backward too.

    Args:
        eta: from 0 to 1.

    Raises:
        ValueError: for an η outside.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> field = tpf.oracle(process, torch.tensor([[3.0]]))  # data in one point
        >>> tpf.sample(field, 3, scheme=DDIM(), steps=1).x.flatten()  # one step is exact
        tensor([3., 3., 3.])
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and 0 <= self.eta <= 1):
            raise ValueError(
                f"eta must be from 0 (no noise) to 1 (ancestral sampling), got {self.eta}; for more"
                " noise use ExponentialIntegrator(1) with epsilon=AndersonEpsilon(2.0)"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the scheme, as a :class:`Solution` tells it."""
        return f"DDIM({self.eta:g})"


@checked
@dataclass(frozen=True)
class Ancestral(_Chain):
    """Ancestral sampling of the chain that the grid makes of the forward process.

    The mean of a step is that of the posterior; its noise has the posterior's variance σ_t² τ
    (``"small"``, right where the data are one point), or the forward step's σ_s² τ (``"large"``,
    right where they are white noise of variance 1; none in a step that ends where σ̂ = 0). Both are
    choices of Ho et al. (2020, section 3.2), for steps that are small. Neither is right for data of
    another width, so the law has a bias of order 1 in the step, too narrow or too wide: for
    Gaussian data, exact fields and a uniform grid up to 31 % of the standard deviation at 25 steps.
    ``"dpm2m"`` with ``epsilon=AndersonEpsilon()``, the same noise, has a smaller one.

    Args:
        variance: ``"small"`` or ``"large"``.

    Raises:
        ValueError: for another one.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> field = tpf.oracle(process, torch.tensor([[3.0]]))  # x_t is N(3t, (1 - t)²)
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = tpf.sample(field, 10_000, scheme=Ancestral(), steps=4, t=(0.0, 0.5),
        ...                generator=generator).x
        >>> round(float(x.mean()), 1), round(float(x.std()), 1)
        (1.5, 0.5)
    """

    variance: str = "small"
    eta = 1.0

    def __post_init__(self) -> None:
        if self.variance not in ("small", "large"):
            raise ValueError(
                f"unknown variance {self.variance!r}; known: {names(('small', 'large'))}"
            )

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the scheme, as a :class:`Solution` tells it."""
        return "ancestral" if self.variance == "small" else "ancestral (large variance)"

    def _added(self, posterior: Tensor, forward: Tensor) -> Tensor:
        if self.variance == "small":
            return posterior
        return torch.where(posterior > 0, forward, 0.0)


FEW_STEP: dict[str, Multistep] = {
    "ddim": DDIM(),
    "ancestral": Ancestral(),
    "dpm2m": ExponentialIntegrator(2, rule="midpoint"),
    "dpm3m": ExponentialIntegrator(3),
    "deis2": ExponentialIntegrator(2, "noise", variable="t"),
    "deis3": ExponentialIntegrator(3, "noise", variable="t"),
    "ab2": ExponentialIntegrator(2, "velocity", variable="linear"),
    "ab3": ExponentialIntegrator(3, "velocity", variable="linear"),
    "unipc2": ExponentialIntegrator(2, corrector=True, rule="midpoint"),
    "unipc3": ExponentialIntegrator(3, corrector=True),
}
"""The few-step schemes by name."""
