r"""The light Schrödinger bridge: one potential as a mixture, and all else in closed form.

A Schrödinger bridge has the plan ``π(x0, x1) ∝ f(x0) exp(-|x1 - x0|²/2a) g(x1)``. With

.. math:: v(x_1) = g(x_1) e^{-|x_1|^2/2a} = \sum_k w_k\, N(x_1; r_k, a S_k)

(Korotin, Gushchin and Burnaev 2024, "Light Schrödinger bridge", section 3) the law of x1 given x0
is ``v(x1) e^{x0·x1/a} / c(x0)``, the mixture

.. math:: \sum_k \frac{w_k e^{(x_0^\top S_k x_0 + 2 r_k^\top x_0)/2a}}{c(x_0)}\,
          N(x_1; r_k + S_k x_0, a S_k) ,

and of x1 given x_t likewise, so that the forward drift is, with the weights of the components
given x_t = x,

.. math:: f(t, x) = \sum_k w_k(t, x)\, \big( (1-t) S_k^{-1} + t \big)^{-1}
          \big( S_k^{-1} (r_k - x) + x \big) ,

finite on all of [0, 1]. Where π* is the plan between ρ0 and ρ1,

.. math:: \mathrm{KL}(\pi^* \,\|\, \pi) = E_{\rho_0} \log c(x_0) - E_{\rho_1} \log v(x_1)
          + \mathrm{const}

needs draws of the two ends only, in any pairing, and no simulation: :class:`LightLoss`. The law of
x0 enters nowhere else, so that neither the score nor the backward drift is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core.arguments import number, positive_number
from .._core.arrays import DataLike, as_rows
from .._core.checks import check_events, check_finite_rows, event_shape, positive_integer
from .._core.random import local
from .._core.registry import register
from .._core.signatures import checked
from .._core.tensor import as_time
from ..draws import Batch
from ..fields import Field
from ..losses import Loss
from ..losses.base import BatchLike
from .drifts import BridgeDrift

__all__ = ["LightLoss", "LightPotential"]

_LOG_2PI = math.log(2 * math.pi)
_LOOKED_AT = 20_000  # rows of data among which centres are chosen


def _first_centres(rows: Tensor, k: int, draws: torch.Generator | None) -> Tensor:
    """Some k of the rows, spread over them, drawn to their mean by √(2/d).

    Two draws of noise are √(2d) deviations apart in d dimensions. Of centres as far as that from
    each other those nearest to the data take all of it within the first steps, and modes that they
    share stay shared.
    """
    few = rows[torch.randperm(len(rows), generator=draws)[:_LOOKED_AT]]
    chosen = [few[0]]
    near = (few - few[0]).square().sum(1)
    for _ in range(k - 1):
        chance = near if bool((near > 0).any()) else torch.ones_like(near)
        chosen.append(few[int(torch.multinomial(chance, 1, generator=draws))])
        near = torch.minimum(near, (few - chosen[-1]).square().sum(1))
    middle = few.mean(0)
    return middle + min(1.0, math.sqrt(2 / few.shape[1])) * (torch.stack(chosen) - middle)


@register
@checked
class LightPotential(nn.Module):
    """The forward drift of a bridge whose end potential is a mixture of Gaussians: a network.

    ``BridgeDrift(forward=LightPotential(...), process=process)`` is its field, which
    ``Trainer(field, LightLoss())`` fits to draws of both ends.

    Args:
        shape: event shape.
        variance: a, as in ``Linear(Brownian(a))``.
        components: K. Too few fail silently: 30 or more.
        data: rows of data ``(N, *)``, of which K are the first centres, each drawn with a chance of
            its squared distance from those before it (Arthur and Vassilvitskii 2007, "k-means++"),
            so that a small part of the data far from all else has one, and all drawn to the mean of
            the data by √(2/d) where d > 2; centres are standard normal without.
        scale: the first deviation of a component, in units of the data's.
        generator: source of randomness.

    Attributes:
        logits: of the weights, ``(K,)``.
        centres: r, ``(K, d)``.
        log_spreads: logarithms of the diagonals of S, ``(K, d)``.

    Example:
        >>> net = LightPotential((1,), variance=1.0, components=1)
        >>> with torch.no_grad():
        ...     found = net.centres.fill_(2.0), net.log_spreads.fill_(0.0)  # r = 2 and S = 1
        >>> weights, means, variances = net.given_start(torch.tensor([[1.0]]))
        >>> means.item(), variances.item()  # r + S x0, and a S
        (3.0, 1.0)
    """

    def __init__(
        self,
        shape: Sequence[int],
        variance: float,
        components: int = 50,
        *,
        data: DataLike | None = None,
        scale: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.shape = event_shape("shape", shape)
        self.variance = positive_number("variance", variance)
        k, d = positive_integer("components", components), self.shape.numel()
        draws = local(generator, "cpu")
        deviation = 1.0
        if data is None:
            centres = torch.randn(k, d, generator=draws)
        else:
            data = as_rows("data", data)
            check_events(data, self.shape, "data", "the potential")
            check_finite_rows(data, "data")
            centres = _first_centres(data.detach().cpu().flatten(1), k, draws)
            deviation = float(data.detach().flatten(1).std(0).mean()) if len(data) > 1 else 1.0
        scale = number(
            "scale", scale, "of 1e-6 to 1e6 deviations of the data", least=1e-6, most=1e6
        )
        spread = (scale * max(deviation, 1e-6)) ** 2 / self.variance
        self.logits = nn.Parameter(torch.zeros(k))
        self.centres = nn.Parameter(centres.to(torch.get_default_dtype()))
        self.log_spreads = nn.Parameter(torch.full((k, d), math.log(spread)))

    @property
    def bridge_variance(self) -> float:
        """a, which the process of a field must have too."""
        return self.variance

    def extra_repr(self) -> str:
        size = f"variance={self.variance:g}, components={len(self.logits)}"
        return f"{tuple(self.shape)}, {size}"

    def config(self) -> dict[str, Any]:
        """Arguments that make one of the same size, for files."""
        return {
            "shape": list(self.shape),
            "variance": self.variance,
            "components": len(self.logits),
        }

    # ------------------------------------------------------------------------------- the plan

    def _given_start(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unnormalised log-weights ``(B, K)``, means ``(B, K, d)`` and variances ``(K, d)``."""
        y, spread = x0.flatten(1), self.log_spreads.exp()
        square = y.square() @ spread.mT + 2 * y @ self.centres.mT
        logs = self.logits.log_softmax(0) + square / (2 * self.variance)
        return logs, self.centres + spread * y[:, None], self.variance * spread

    def given_start(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The law of x1 given x0: weights ``(B, K)``, means ``(B, K, d)``, variances ``(K, d)``.

        Args:
            x0: ``(B, *)``.
        """
        check_events(x0, self.shape, "x0", "the potential")
        logs, means, variances = self._given_start(x0)
        return logs.softmax(1), means, variances

    def end(self, x0: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw x1 given each x0, in one step, ``(B, *)``.

        Args:
            x0: ``(B, *)``.
            generator: source of randomness.

        Raises:
            ValueError: if x0 is not finite rows of this shape, or so large that its square is not.
        """
        check_finite_rows(x0, "x0")
        draws = local(generator, x0.device)
        with torch.no_grad():
            weights, means, variances = self.given_start(x0)
            if not bool(weights.isfinite().all()):
                raise ValueError(
                    f"x0 reaches {float(x0.abs().max()):.3g}, whose square over the variance"
                    f" {self.variance:g} is too large for {x0.dtype}; rescale the data"
                )
            which = torch.multinomial(weights, 1, generator=draws)[:, 0]
            z = torch.randn(means[:, 0].shape, generator=draws, dtype=x0.dtype, device=x0.device)
            rows = torch.arange(len(x0), device=x0.device)
            return (means[rows, which] + variances[which].sqrt() * z).view_as(x0)

    def log_normaliser(self, x0: Tensor) -> Tensor:
        """The logarithm of c(x0), ``(B,)``."""
        return self._given_start(x0)[0].logsumexp(1)

    def log_potential(self, x1: Tensor) -> Tensor:
        """The logarithm of the potential v(x1), ``(B,)``."""
        logs, half = self.log_spreads, 0.5 * self.centres.shape[1]
        apart = (x1.flatten(1)[:, None] - self.centres) * (-0.5 * logs).exp()
        density = -0.5 * apart.square().sum(2) / self.variance - 0.5 * logs.sum(1)
        total = self.logits.log_softmax(0) + density
        return total.logsumexp(1) - half * (_LOG_2PI + math.log(self.variance))

    # ------------------------------------------------------------------------------ the drift

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """``f(t, x) = (E[x1 | x_t = x] - x)/(1 - t)``, ``(B, *)``.

        Args:
            t: times, ``()`` or ``(B,)``.
            x: states, ``(B, *)``.
        """
        y = x.flatten(1)[:, None]
        u = 1 - as_time(t, x).expand(len(x))[:, None, None]
        spread, r = self.log_spreads.exp(), self.centres
        blend = u + (1 - u) * spread  # (B, K, d), of the covariance a (1-t) S / blend given x_t
        # ∫ N(x1; x, a(1-t)) e^{|x1|²/2a} N(x1; r, aS) dx1, with what cancels cancelled.
        square = (spread * y.square() - (y - r).square() + u * r.square()) / blend
        logs = 0.5 * (square.sum(2) / self.variance - blend.log().sum(2))
        weights = (self.logits.log_softmax(0) + logs).softmax(1)[..., None]
        return (weights * (r - y + spread * y) / blend).sum(1).view_as(x)


@checked
class LightLoss(Loss):
    """``log c(x0) - log v(x1)`` a row: the divergence KL(π* ‖ π), up to a constant, of the plan.

    The rows of x0 and x1 need not be paired: of a batch without x0, the base of the process gives
    them. It is for ``BridgeDrift(forward=LightPotential(...))``, whose minimum over all potentials
    is the Schrödinger bridge.

    Example:
        >>> import transportflows as tpf
        >>> base, a = tpf.Gaussian((1,)), 1.0
        >>> process = tpf.Process(tpf.Linear(tpf.Brownian(a)), base=base)
        >>> net = tpf.bridges.LightPotential((1,), a, components=2)
        >>> field = tpf.bridges.BridgeDrift(forward=net, process=process)
        >>> LightLoss()(field, torch.zeros(4, 1)).shape
        torch.Size([4])
    """

    def draw(
        self, field: Field, batch: BatchLike, *, generator: torch.Generator | None = None
    ) -> Batch:
        given = Batch.of(batch)
        check_events(given.x1, field.process.shape, "x1", "the process")
        if given.x0 is not None:
            return given
        base = field.process.base
        if base is None:
            raise ValueError(
                "a light bridge is fitted to draws of both ends: give the process a base, or fit"
                " pairs, fit((x0, x1))"
            )
        x1 = given.x1
        x0 = base.sample(len(x1), generator=local(generator, x1.device), dtype=x1.dtype)
        return Batch(x1, x0.to(x1.device), given.cond)

    def evaluate(self, field: Field, sample: Batch) -> Tensor:
        net = field.forward_net if isinstance(field, BridgeDrift) else None
        if not isinstance(net, LightPotential):
            raise TypeError(
                "LightLoss fits a BridgeDrift(forward=LightPotential(...), process=process), got a"
                f" {type(field).__name__}"
            )
        if len(field.networks) > 1:
            raise ValueError(
                "LightLoss fits the forward drift alone, and would leave the backward one as it is;"
                " fit BridgeDrift(forward=potential, process=process), then"
                " BridgeDrift(backward=net, process=process) by its pairs, (x0, potential.end(x0)),"
                " and put both into one field to sample it"
            )
        return net.log_normaliser(sample.x0) - net.log_potential(sample.x1)  # type: ignore[arg-type]
