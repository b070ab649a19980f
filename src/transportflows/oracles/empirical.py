"""The exact field from Gaussian noise to the rows of a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows, as_tensor
from .._core.conditions import NO_CONDITIONS
from .._core.precision import widest, widest_dtype
from .._core.random import local
from .._core.signatures import checked
from .._core.tensor import expand_time, sum_events
from ..distributions.empirical import Empirical
from ..process import Process
from .base import ExactField

__all__ = ["EmpiricalOracle"]

_LOG_2PI = math.log(2 * math.pi)


@checked
class EmpiricalOracle(ExactField):
    r"""The exact field where ρ1 is the empirical law of the rows ``y_i`` of a tensor.

    For a one-sided process, ``x_t = α m + β x1 + σ̂ ẑ``, the data prediction is the average of
    the data under the posterior weights

    .. math:: E[x_1 | x_t = x] = \sum_i w_i y_i, \quad
              w_i \propto p_i \exp\bigl(-|x - \alpha m - \beta y_i|^2 / 2 \hat\sigma^2\bigr),

    with the weights p_i of the rows, equal ones by default, and the nearest data point where σ̂ = 0
    (the average of those that tie). It is streamed over blocks of data with a running maximum, in
    float64, so that no B x N matrix is held. Rows are taken from the data's mean: exponents are off
    by 1e-16 R²/σ̂² for data within R of it. The other fields follow by conversion, and are refused
    at the times where it is singular.

    Args:
        process: a one-sided process: a :class:`OneSided` or mirror path, or an affine path from an
            isotropic Gaussian base with the independent coupling.
        data: ``(N, *)``, finite.
        weights: p_i, ``(N,)``, not negative, of positive sum; equal by default.
        block: rows of data at a time.

    Raises:
        ValueError: if the process is not one-sided, the data are not finite rows, or the
            weights are none.

    Source: Karras et al. (2022), appendix B.3, of one-sided processes.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
        >>> exact = EmpiricalOracle(process, torch.tensor([[-1.0], [1.0]]))
        >>> t, x = torch.tensor(0.5), torch.tensor([[0.0], [1.0]])
        >>> torch.allclose(exact.data(t, x), torch.tanh(0.5 * x / 0.25))  # tanh(β x/σ̂²)
        True
    """

    outputs = ("data",)

    shares: Tensor | None

    def __init__(
        self,
        process: Process,
        data: DataLike,
        *,
        weights: DataLike | None = None,
        block: int = 4096,
    ) -> None:
        data = as_rows("data", data)
        weights = (
            None if weights is None else as_tensor("weights", weights, torch.float64, like=data)
        )
        law = Empirical(data, weights=weights)
        super().__init__(process, law.shape)
        process.part  # noqa: B018 (it refuses a process that has none)
        if block < 1:
            raise ValueError(f"block must be at least 1, got {block}")
        self.block = block
        shares = None if weights is None else widest(weights.detach().to(data.device))
        if shares is not None:  # a row of weight 0 is none, and the nearest to nothing
            shares, there = shares / shares.sum(), shares > 0
            law, shares = Empirical(data[there], weights=shares[there]), shares[there]
        self.law = law
        self.register_buffer("shares", shares, persistent=False)

    @property
    def rows(self) -> Tensor:
        """The data, ``(N, *)``, without those of weight 0."""
        return self.law.data

    def _told(self) -> dict[str, Any]:
        shares = self.shares
        return {"data": self.rows, **({} if shares is None else {"weights": shares})}

    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """``(d,)``, with d ``(B, *)``; conditions are ignored."""
        if needed == (False,):
            return (None,)
        return (self._in_rows(t, x, self._mean).reshape(x.shape),)

    def log_prob(self, t: Tensor, x: Tensor) -> Tensor:
        """``log ρ_t(x)`` in nats, ``(B,)``, for t ``()`` or ``(B,)`` and x ``(B, *)``.

        Raises:
            ValueError: where σ̂(t) = 0: there ρ_t is the data points and has no density.
        """
        self._check(t, x)
        if bool((self.process.part.scale(widest(t)) <= 1e-12).any()):
            raise ValueError(
                "the law of empirical data has no density where the noise scale vanishes; evaluate"
                " log_prob at times inside (0, 1)"
            )
        return self._in_rows(t, x, self._log_density)

    def sample(
        self, t: float | Tensor, n: int, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw ``(n, *)`` from ρ_t, of the kind of the data; t is one time, or ``(n,)``."""
        home = self.rows.device
        generator = local(generator, home)
        x1 = self.law.sample(n, generator=generator)
        t = widest(expand_time(self._times(t, n, x1), x1))
        z = torch.randn(x1.shape, generator=generator, dtype=x1.dtype, device=home)
        part = self.process.part
        x, shift = part.path.beta(t).to(x1) * x1 + part.scale(t).to(x1) * z, part.shift(t, x1)
        return x if shift is None else x + shift

    def _in_rows(
        self, t: Tensor, x: Tensor, value: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Apply ``value(x - α m, β, σ̂²)``, with columns of coefficients, to blocks of rows."""
        self._check(t, x)
        t = t.to(x.device, widest_dtype(x.device))
        part, flat = self.process.part, widest(x)
        shift = part.shift(expand_time(t, x), flat)
        flat = flat if shift is None else flat - shift
        flat = flat.reshape(x.shape[0], -1)
        beta = part.path.beta(t).expand(len(x))[:, None]
        variance = part.scale_sq(t).clamp(min=0).expand(len(x))[:, None]
        pieces = zip(*(torch.split(c, 1024) for c in (flat, beta, variance)), strict=True)
        return torch.cat([value(*piece) for piece in pieces]).to(x.dtype)

    def _stream(
        self, x: Tensor, beta: Tensor, variance: Tensor, *, mean: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``(low, total, sum)``: the least cost, ``Σ e_i`` and ``Σ e_i y_i`` (if ``mean``).

        The cost of y is ``½ β² |y|² - β x·y`` and ``e_i = p_i exp((low - cost_i) / σ̂²)``, with 1
        for p_i where no weights were given, so at σ̂ = 0 the least cost alone counts. All are taken
        from the mean of the data.
        """
        x = x - beta * self._centre(x)
        rate = 1 / variance.clamp(min=max(1e-290, torch.finfo(variance.dtype).tiny))
        low, total, summed = None, torch.zeros_like(x[:, :1]), torch.zeros_like(x)
        shares = x.new_ones(len(self.rows)) if self.shares is None else self.shares.to(x)
        blocks = (torch.split(each, self.block) for each in (self.rows.flatten(1), shares))
        for block, share in zip(*blocks, strict=True):
            y = block.to(x) - self._centre(x)
            cost = 0.5 * beta.square() * y.square().sum(1) - beta * (x @ y.mT)
            lower = cost.detach().amin(1, keepdim=True)
            if low is not None:
                lower = torch.minimum(low, lower)
                keep = torch.exp((lower - low) * rate)
                total, summed = keep * total, keep * summed
            e = torch.exp((lower - cost) * rate) * share
            total = total + e.sum(1, keepdim=True)
            summed = summed + e @ y if mean else summed
            low = lower
        return torch.zeros_like(total) if low is None else low, total, summed

    def _centre(self, x: Tensor) -> Tensor:
        return self.rows.flatten(1).mean(0, dtype=x.dtype)

    def _mean(self, x: Tensor, beta: Tensor, variance: Tensor) -> Tensor:
        _, total, summed = self._stream(x, beta, variance, mean=True)
        return summed / total + self._centre(x)

    def _log_density(self, x: Tensor, beta: Tensor, variance: Tensor) -> Tensor:
        low, total, _ = self._stream(x, beta, variance, mean=False)
        x = x - beta * self._centre(x)
        exponent = -(0.5 * sum_events(x.square())[:, None] + low) / variance
        constant = -0.5 * x.shape[1] * (variance.log() + _LOG_2PI)
        count = len(self.rows) if self.shares is None else 1
        return (exponent + total.log() + constant - math.log(count))[:, 0]
