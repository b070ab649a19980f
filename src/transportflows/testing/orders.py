"""What order does this scheme have?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from .._core.signatures import checked
from ..distributions.mixture import GaussianMixture
from ..fields.base import Field
from ..interpolants import Brownian, Linear
from ..oracles import GaussianMixtureOracle
from ..process import Process
from ..samplers import Dynamics, FieldDynamics, Scheme, integrate
from ..samplers.schemes import get_scheme
from ..solve.epsilon import EpsilonSchedule, as_epsilon
from ..solve.grid import time_grid
from ..solve.noise import BrownianPath, NoiseSource

__all__ = ["OrderEstimate", "estimate_order", "mixture_oracle", "quadrature_moments"]


@checked
@dataclass(frozen=True)
class OrderEstimate:
    """A measured order.

    Attributes:
        order: slope of log error against log steps, by least squares.
        steps: step counts.
        errors: error at each.

    Example:
        >>> found = OrderEstimate(2.0, steps=(8, 16), errors=(0.04, 0.01))
        >>> [round(slope, 4) for slope in found.slopes]  # half the step, a quarter of the error
        [2.0]
    """

    order: float
    steps: tuple[int, ...]
    errors: tuple[float, ...]

    @property
    def slopes(self) -> tuple[float, ...]:
        """The order between successive step counts."""
        pairs = zip(self.steps, self.errors, strict=True)
        logs = [(math.log(n), math.log(e)) for n, e in pairs]
        return tuple((e0 - e1) / (n1 - n0) for (n0, e0), (n1, e1) in itertools.pairwise(logs))


@checked
def mixture_oracle() -> GaussianMixtureOracle:
    """A one-dimensional oracle between two mixtures, linear with a Brownian latent.

    Example:
        >>> x = torch.linspace(-7, 7, 1401)[:, None]
        >>> density = mixture_oracle().log_prob(torch.tensor(0.5), x).exp()
        >>> mass, mean = 0.01 * float(density.sum()), 0.01 * float(density @ x)
        >>> round(mass, 3), round(mean, 3)  # of means 0.08 and 0.27 at the ends
        (1.0, 0.175)
    """
    base = GaussianMixture(torch.tensor([[-1.0], [0.8]]), 0.6, weights=[0.4, 0.6])
    data = GaussianMixture(torch.tensor([[-1.3], [0.2], [1.5]]), 0.5, weights=[0.3, 0.3, 0.4])
    return GaussianMixtureOracle(Process(Linear(Brownian()), base), data)


_STEPS = {"ode": (16, 32, 64, 128), "weak": (8, 16, 32, 64), "strong": (32, 64, 128, 256, 512)}


@checked
def estimate_order(
    scheme: str | Scheme,
    field: Field | None = None,
    *,
    kind: str = "ode",
    epsilon: float | Callable[[Tensor], Tensor] | EpsilonSchedule = 0.5,
    steps: Sequence[int] | None = None,
    backward: bool = False,
    n: int = 2000,
) -> OrderEstimate:
    """Measure the order of a scheme against exact fields.

    ``"ode"``: ε = 0, the median over samples of the distance to a much finer solution.
    ``"weak"``: the largest error of ``E f(X)``, f in {x, x², x³, cos 2x, sin 3x}, at the last time,
    with no Monte Carlo: ``u_i(x) = E u_{i+1}(step(x))`` is carried backward by Gauss-Hermite
    quadrature over the noise and cubic splines over x, and integrated against the exact law.
    ``"strong"``: the median over paths of the distance between solutions with n and 2n steps that
    follow the same Brownian paths (the median, since a few paths choose another mode).

    Args:
        scheme: name or :class:`Scheme`.
        field: an exact field of dimension 1 with ``log_prob`` and ``sample``; by default
            :func:`mixture_oracle`.
        kind: ``"ode"``, ``"weak"`` or ``"strong"``.
        epsilon: for weak and strong.
        steps: increasing step counts; each twice the one before for ``"strong"``.
        backward: run from t = 1 to t = 0.
        n: samples, for ode and strong.

    Raises:
        ValueError: if the kind is unknown.

    Example:
        >>> round(estimate_order("heun", steps=(4, 8, 16), n=20).order)
        2
    """
    if kind not in _STEPS:
        raise ValueError(f"unknown kind {kind!r}; known: 'ode', 'weak', 'strong'")
    oracle: Any = mixture_oracle() if field is None else field
    counts = tuple(_STEPS[kind] if steps is None else steps)
    start, stop = (1.0, 0.0) if backward else (0.0, 1.0)
    schedule = as_epsilon(0.0 if kind == "ode" else epsilon)
    dynamics = FieldDynamics(oracle, [schedule])

    def grid(count: int) -> Tensor:
        return time_grid(count, start=start, stop=stop)

    if kind == "weak":
        errors = [_weak_error(oracle, dynamics, scheme, grid(count)) for count in counts]
    else:
        generator = torch.Generator().manual_seed(0)
        x = oracle.sample(start, n, generator=generator, dtype=torch.float64)

        def solve(count: int, used: str | Scheme) -> Tensor:
            with torch.no_grad():
                return integrate(
                    dynamics, x, grid(count), scheme=used, noise=BrownianPath(), key=1
                ).x

        if kind == "ode":
            reference = solve(16 * counts[-1], "rk4")
            solutions = [solve(count, scheme) for count in counts]
            distances = [(s - reference).abs() for s in solutions]
        else:
            solutions = [solve(count, scheme) for count in (*counts, 2 * counts[-1])]
            pairs = itertools.pairwise(solutions)
            distances = [(coarse - fine).abs() for coarse, fine in pairs]
        errors = [float(distance.median()) for distance in distances]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    return OrderEstimate(-float(slope), counts, tuple(errors))


class _Given(NoiseSource):
    """Increments that the caller gives."""

    def __init__(self, dw: Tensor, area: Tensor) -> None:
        self.dw, self.levy = dw, area

    def increment(
        self, step: int, t0: float, t1: float, *, area: bool
    ) -> tuple[Tensor, Tensor | None]:
        h = abs(t1 - t0)
        return self.dw * math.sqrt(h), self.levy * math.sqrt(h / 12) if area else None


@checked
def quadrature_moments(
    dynamics: Dynamics,
    scheme: str | Scheme,
    grid: Tensor,
    density: Tensor,
    moments: Callable[[Tensor], Tensor],
    x: Tensor,
) -> Tensor:
    """``E f(X)`` at the end of a grid for a start of given density, in one dimension.

    ``u_i(x) = E u_{i+1}(step(x))`` is carried backward, by Gauss-Hermite quadrature over the noise
    of a step and cubic splines over x: the error of the scheme without that of Monte Carlo.

    Args:
        dynamics: of states ``(B, 1)``.
        scheme: name or :class:`Scheme`.
        grid: times.
        density: of the start at ``x``, ``(P,)``.
        moments: f, from states ``(P,)`` to ``(P, F)``.
        x: equally spaced points ``(P,)`` that carry the laws at all times.

    Example:
        >>> from transportflows.samplers import FunctionDynamics
        >>> x = torch.linspace(-4, 6, 501, dtype=torch.float64)
        >>> density = (-2 * (x - 1).square()).exp() * (2 / torch.pi) ** 0.5  # N(1, 1/4)
        >>> fall, grid = FunctionDynamics(lambda t, x: -x), torch.tensor([0.0, 0.5])
        >>> moments = lambda y: torch.stack([y, y.square()], 1)
        >>> quadrature_moments(fall, "euler", grid, density, moments, x)  # of x/2
        tensor([0.5000, 0.3125], dtype=torch.float64)
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    node, weight = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    if get_scheme(scheme, noisy=False).area:
        dw, levy = (v.reshape(-1) for v in torch.meshgrid(node, node, indexing="ij"))
        joint = (weight[:, None] * weight).reshape(-1)
        keep = joint > 1e-13
        dw, levy, joint = dw[keep], levy[keep], joint[keep]
    else:
        dw, levy, joint = node, torch.zeros_like(node), weight
    states = x.repeat_interleave(len(dw)).unsqueeze(1)
    noise = _Given(dw.repeat(len(x)).unsqueeze(1), levy.repeat(len(x)).unsqueeze(1))
    low, high = float(x[0]) - 1, float(x[-1]) + 1
    u = moments(x)
    for i in range(len(grid) - 2, -1, -1):
        with torch.no_grad():
            step = integrate(dynamics, states, grid[i : i + 2], scheme=scheme, noise=noise, key=0)
        moved = step.x.flatten().clamp(low, high).numpy()
        values = torch.from_numpy(CubicSpline(x.numpy(), u.numpy())(moved))
        u = torch.einsum("pqf,q->pf", values.view(len(x), len(dw), -1), joint)
    return float(x[1] - x[0]) * (density[:, None] * u).sum(0)


def _weak_error(oracle: Any, dynamics: FieldDynamics, scheme: str | Scheme, grid: Tensor) -> float:
    """The largest error of some moments at the last time, by quadrature."""
    x = torch.linspace(-7, 7, 1401, dtype=torch.float64)

    def moments(y: Tensor) -> Tensor:
        return torch.stack([y, y**2, y**3, torch.cos(2 * y), torch.sin(3 * y)], -1)

    first, last = (oracle.log_prob(t, x[:, None]).exp() for t in grid[[0, -1]])
    result = quadrature_moments(dynamics, scheme, grid, first, moments, x)
    exact = float(x[1] - x[0]) * (last[:, None] * moments(x)).sum(0)
    return float((result - exact).abs().max())
