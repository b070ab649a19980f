r"""Weights for a likelihood along the reverse chain: twisted sequential Monte Carlo.

The chain ``x_t = a x_s + c d(s, x_s) + n + k``, ``n ~ N(0, Q)``, of :mod:`.gaussian_chain`, samples
the law of the field. It has the right mean over each step, and with

.. math:: k = \tfrac12 c^2 (C(x_s) - C_s) Q^{-1} n, \qquad
          C(x_s) = \mathrm{Cov}(x_1 | x_s) = \frac{\hat\sigma_s^2}{\beta_s} \nabla d,

the right covariance up to third order: it is of weak order 2. (Without k, or without C_s, it is of
order 1, and the evidence with it.) k is one derivative of the prediction along ``Q⁻¹ n``.

With a *twist* r_s, a guess of ``log p(y | x_s)``, and n drawn from a proposal, a step adds

.. math:: r_t(x_t) - r_s(x_s) + \log N(n; 0, Q) - \log \mathrm{proposal}(n)

to the log-weights, and the last one has ``log p(y | x_1)`` in the place of r. So the weighted law
is that of the chain times the likelihood, whatever twist and proposal are (Wu et al. 2023). Here r
is the model's, ``log N(y; A d, S)``. The *conjugate* proposal is its n given y; then, by the rule
of Bayes, the step adds ``r_t(x_t) - log p(y | x_s, n)``, which is 0 for Gaussian data. The last
step is conjugate always, without k: it adds nothing, and is right without noise too, where a
likelihood would be 0 almost everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import pullback
from .._core.precision import table_device, widest
from .._core.random import stream
from ..fields.base import Field
from ..guidance.cloud import Cloud
from ..guidance.left_out import MOST_AMPLIFIED, amplification
from ..solve.rows import Chunks
from ..solve.stepper import Prepared, Stepper
from .gaussian_chain import Link, Model

__all__ = ["PosteriorStepper"]

_FIRST = 1e-3  # times before it are looked at there: at β = 0 nothing is known of x1


@dataclass(frozen=True, eq=False)
class _Memory:
    """The weights, and the part of them that the next step takes away again, ``(n,)``."""

    cloud: Cloud
    owed: Tensor


class PosteriorStepper(Stepper):
    """Steps of the chain, with weights.

    Args:
        field: whose law is the prior.
        seen: A and y of :meth:`LinearObservation.reached`, in the units of the field.
        noise: σ.
        covariance: Cov of the data, ``(d, d)``, in these units.
        proposal: a field whose data prediction takes the place of the mean of x1; None for the
            conjugate one.
        threshold: share of the effective size below which rows are drawn again.
        key: for all that is drawn.
    """

    name = "twisted chain"
    whole = True
    remembers = True

    def __init__(
        self,
        field: Field,
        seen: tuple[Tensor, Tensor],
        noise: float,
        covariance: Tensor,
        *,
        proposal: Field | None,
        threshold: float,
        key: int,
    ) -> None:
        self.field, self.seen, self.noise, self.covariance = field, seen, noise, covariance
        self.proposal, self.threshold, self.key = proposal, threshold, key

    @torch.no_grad()
    def prepare(self, times: Tensor, like: Tensor) -> _Tables:
        part, on_device = self.field.process.part, times.to(table_device(like.device))
        model = Model.of(part, on_device, self.covariance, self.seen, self.noise)
        looks = on_device[:-1].clamp(min=_FIRST)
        seen = amplification(self.field, "data", looks) <= MOST_AMPLIFIED
        ratio = part.scale_sq(looks) / part.path.beta(looks)
        shifts = [part.shift(time, like) for time in on_device.unbind()]
        return _Tables(
            calls=2 + (self.proposal is not None),
            model=_moved(model, like),
            times=looks.to(like),
            seen=[*seen[:-1].tolist(), True],
            ratio=ratio.tolist(),
            shifts=[0.0 if shift is None else shift for shift in shifts],
        )

    def memory(self, prepared: Any, x: Tensor, rows: Any) -> _Memory:
        nothing = widest(x.new_zeros(len(x)))
        return _Memory(Cloud.new(nothing), nothing)

    def step(
        self,
        prepared: _Tables,
        step: int,
        x: Tensor,
        memory: _Memory,
        rows: Chunks,
        draws: tuple[Tensor, ...],
    ) -> tuple[Tensor, _Memory]:
        model, link = prepared.model, prepared.model.link(step)
        last = step == len(prepared.times) - 1
        generator = stream(self.key, step, device=x.device)
        d = widest(rows.map(partial(self._data, self.field, prepared.times[step]), x)).flatten(1)
        d = d @ model.basis
        seen = prepared.seen[step]  # whether d tells more than the errors in it
        value = link.log_likelihood(d) if seen else torch.zeros_like(memory.owed)
        cloud = memory.cloud.weighed(value - memory.owed)
        u = torch.rand((), generator=generator, device=x.device)
        there = torch.arange(len(x), device=x.device)
        index, cloud = cloud.resampled(there, self.threshold, u)
        x, d, value = x[index], d[index], value[index]

        def normal(width: int) -> Tensor:
            size = (len(x), width)
            return torch.randn(size, generator=generator, dtype=d.dtype, device=d.device)

        z, fresh, noise = normal(d.shape[1]), normal(d.shape[1]), normal(len(model.y))
        if not seen:
            n, owed = z * link.total.sqrt(), value
        elif last or self.proposal is None:
            n = link.given_y(d, z, noise, fresh)
            owed = value if last else link.later(d, n)
        else:
            other = rows.map(partial(self._data, self.proposal, prepared.times[step]), x)
            ahead = widest(other).flatten(1) @ model.basis - d
            n = link.weight * ahead + z * link.total.sqrt()
            owed = value - link.log_ratio(n, z)
        if last:
            return ((d + n) @ model.basis.mT).to(x).view_as(x), _Memory(cloud, owed)
        moved = self._moved(prepared, step, link, x, d, n, rows)
        return moved, _Memory(cloud, owed)

    def _moved(
        self,
        prepared: _Tables,
        step: int,
        link: Link,
        x: Tensor,
        d: Tensor,
        n: Tensor,
        rows: Chunks,
    ) -> Tensor:
        """``a x + c d + n + k``."""
        basis, half = prepared.model.basis, 0.5 * link.weight**2
        along = n / link.total  # Q⁻¹ n
        both = torch.stack([x, (along @ basis.mT).to(x).view_as(x)], 1)
        pulled = rows.map(partial(self._pulled, prepared.times[step]), both)
        made = link.weight * d + n - half * link.spread * along
        new = (made @ basis.mT).to(x).view_as(x) + half * prepared.ratio[step] * pulled
        shifts = prepared.shifts
        found: Tensor = link.keep * (x - shifts[step]) + new + shifts[step + 1]
        return found

    def _data(self, field: Field, t: Tensor, x: Tensor, **cond: Any) -> Tensor:
        return field.quantity("data", t, x, cond, checked=False)

    def _pulled(self, t: Tensor, both: Tensor, **cond: Any) -> Tensor:
        """``(∇d)ᵀ v`` at x, for rows of both."""
        x, v = both.unbind(1)
        return pullback(lambda y: self._data(self.field, t, y, **cond), x)[1](v)


def _moved(model: Model, like: Tensor) -> Model:
    """The model on the device of the states, in its widest dtype."""
    own: Mapping[str, Tensor] = {
        name: widest(getattr(model, name).to(like.device))
        for name in ("basis", "variances", "matrix", "y")
    }
    return Model(**own, noise=model.noise, beta=model.beta, square=model.square)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Tables(Prepared):
    """Of a grid."""

    model: Model
    times: Tensor
    seen: list[bool]
    ratio: list[float]
    shifts: list[Any]
