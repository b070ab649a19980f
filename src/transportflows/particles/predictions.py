r"""Data predictions and scores at a noise level σ: of laws, of samples, of learned fields.

For ``z = x + σ ε`` with x from p, the data prediction and the score of the smoothed law
``p_σ = p * N(0, σ² Id)`` are one thing (Tweedie's formula, Weber 2023, footnote 4):

.. math:: D_p(z; \sigma) = E[x \mid z] = z + \sigma^2 \nabla \log p_\sigma(z).

A one-sided process of the library, ``x_t = α m + β x1 + σ̂ ẑ``, is this at the noise level
``σ = σ̂/β``: any of its fields, learned or exact, gives a data prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._core.arrays import DataLike, as_rows, is_array
from .._core.autodiff import value_and_gradient
from .._core.checks import check_finite_rows
from .._core.precision import Movable
from .._core.reprs import call
from .._core.signatures import checked
from ..distributions.base import Distribution
from ..distributions.gaussian import Gaussian
from ..distributions.mixture import GaussianMixture
from ..fields.base import Field, check_field
from .kernels import kernel_mean

__all__ = ["FieldData", "SampleData", "SmoothedLaw", "as_data", "as_score"]

_LOG_2PI = math.log(2 * math.pi)
Prediction = Callable[[Tensor, float], Tensor]


@checked
class SmoothedLaw(Movable, nn.Module):
    r"""``p * N(0, σ² Id)`` for a Gaussian or a mixture of Gaussians p, in closed form.

    :math:`\log p_\sigma`, its score :math:`-\sum_k r_k (S_k + \sigma^2)^{-1} (z - m_k)` with r the
    responsibilities, and the optimal data prediction. Differentiable in z.

    Args:
        law: p.

    Raises:
        TypeError: if it is of another kind.

    Source: Tweedie's formula, Efron (2011); Weber (2023), footnote 4.

    Example:
        >>> law = SmoothedLaw(Gaussian((1,)))
        >>> z = torch.tensor([[2.0]])
        >>> law.score(z, sigma=1.0), law.data(z, sigma=1.0)  # of N(0, 2): -z/2, and z/2
        (tensor([[-1.]]), tensor([[1.]]))
    """

    log_weight: Tensor
    means: Tensor
    basis: Tensor
    spread: Tensor

    def __init__(self, law: Gaussian | GaussianMixture) -> None:
        super().__init__()
        if isinstance(law, Gaussian):
            weights, covariances = torch.ones(1).double(), law.covariance()[None]
            means = law.mean[None]
        elif isinstance(law, GaussianMixture):
            weights, covariances, means = law.weights, law.covariances, law.means
        else:
            raise TypeError(
                f"a {type(law).__name__} has no smoothed law in closed form; give a Gaussian, a"
                " GaussianMixture, or a function (z, sigma) of your own"
            )
        self.shape = law.shape
        spread, basis = torch.linalg.eigh(covariances)
        self.register_buffer("log_weight", weights.to(means.device).log(), persistent=False)
        self.register_buffer("means", means.flatten(1), persistent=False)
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("spread", spread.clamp(min=0), persistent=False)

    def _terms(self, z: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-densities of the components ``(B, K)``, centred rows in their bases, variances."""
        if not math.isfinite(sigma):
            raise ValueError(f"sigma must be finite, got {sigma}")
        if not z.is_floating_point():
            raise TypeError(f"z must be of a floating-point dtype, got {z.dtype}; write z.float()")
        rows = z.flatten(1)
        basis, spread = self.basis.to(rows), self.spread.to(rows) + sigma**2
        centred = torch.einsum("bkd,kde->bke", rows[:, None] - self.means.to(rows), basis)
        d = rows.shape[1]
        exponent = -0.5 * (centred.square() / spread).sum(2)
        constant = -0.5 * (spread.log().sum(1) + d * _LOG_2PI) + self.log_weight.to(rows)
        return exponent + constant, centred, basis, spread

    def log_prob(self, z: Tensor, sigma: float = 0.0) -> Tensor:
        """``log p_σ(z)`` in nats, ``(B,)``."""
        return torch.logsumexp(self._terms(z, sigma)[0], 1)

    def score(self, z: Tensor, sigma: float = 0.0) -> Tensor:
        """``∇ log p_σ(z)``, ``(B, *)``."""
        logs, centred, basis, spread = self._terms(z, sigma)
        share = torch.softmax(logs, 1)
        pull = torch.einsum("bk,bke,kde->bd", share, centred / spread, basis)
        return -pull.reshape(z.shape)

    def data(self, z: Tensor, sigma: float) -> Tensor:
        """``E[x | x + σ ε = z]``, ``(B, *)``."""
        return z + sigma**2 * self.score(z, sigma)


@checked
class SampleData(Movable, nn.Module):
    """The optimal data prediction for the empirical law of some rows, a kernel mean.

    Args:
        rows: ``(N, *)``.

    Example:
        >>> two = SampleData(torch.tensor([[-1.0], [1.0]]))
        >>> round(two(torch.tensor([[0.5]]), 1.0).item(), 4)  # tanh(z/σ²)
        0.4621
    """

    rows: Tensor

    def __init__(self, rows: DataLike) -> None:
        super().__init__()
        rows = as_rows("rows", rows)
        check_finite_rows(rows, "data")
        self.register_buffer("rows", rows.detach(), persistent=False)

    __repr__ = call

    def forward(self, z: Tensor, sigma: float) -> Tensor:
        """``E[x | x + σ ε = z]``, ``(B, *)``."""
        return kernel_mean(z, self.rows, sigma)


@checked
class FieldData(nn.Module):
    r"""The data prediction of a field, at the time at which its process has the noise level σ.

    :math:`D(z; \sigma) = d(t, \alpha m + \beta z)` where :math:`\hat\sigma(t) / \beta(t) = \sigma`.
    So a velocity learned by flow matching, or an oracle, serves as a data prediction for p.

    Args:
        field: of a one-sided process.

    Raises:
        ValueError: if the process is not one-sided, or the field's transform has another scale in
            each coordinate (under which the noise is not isotropic).

    Source: Weber (2023), footnote 4; Karras et al. (2022), section 2.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear())
        >>> d = FieldData(tpf.oracle(process, tpf.Gaussian((1,))))
        >>> d.time(1.0).item()  # where (1 - t)/t = 1
        0.5
        >>> d(torch.tensor([[2.0]]), 1.0)  # E[x | x + ε = 2] of N(0, 1)
        tensor([[1.]])
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        field.process.part  # noqa: B018 (it refuses a process that has none)
        self.field = field
        transform = field.transform
        self.scale = 1.0
        if transform is not None:
            scales = transform.scale.flatten()
            if bool((scales != scales[0]).any()):
                raise ValueError(
                    "the transform of the field scales coordinates differently, so isotropic noise"
                    " in the data's units is not isotropic in the field's; fit it with"
                    " Standardize.fit(x, shared='all')"
                )
            self.scale = float(scales[0])
        self._times: dict[float, Tensor] = {}

    def time(self, sigma: float) -> Tensor:
        """The t with ``σ̂(t)/β(t) = σ``, in the field's units; float64 ``()``.

        Raises:
            ValueError: if the process has no such level.
        """
        if sigma not in self._times:
            self._times[sigma] = self.field.process.part.time_of_sigma(sigma)
        return self._times[sigma]

    def forward(self, z: Tensor, sigma: float) -> Tensor:
        """``E[x | x + σ ε = z]``, ``(B, *)``, in the units of the data."""
        field, part = self.field, self.field.process.part
        t = self.time(sigma / self.scale)
        x = z if field.transform is None else field.transform(z)
        x = part.path.beta(t).to(x) * x
        shift = part.shift(t, x)
        x = x if shift is None else x + shift
        d = field.data(t.to(x), x)
        return d if field.transform is None else field.transform.invert(d)


def as_data(given: Any) -> Prediction:
    """A data prediction ``D(z, σ)`` from a field, a law in closed form, rows, or a function."""
    if isinstance(given, Field):
        return FieldData(given)
    if isinstance(given, (Gaussian, GaussianMixture)):
        return SmoothedLaw(given).data
    if isinstance(getattr(given, "_orig_mod", getattr(given, "module", None)), Field):
        check_field(given, "a data prediction is that of")
    if isinstance(given, type):
        raise TypeError(f"a data prediction is an object; write {given.__name__}(...)")
    if isinstance(given, Tensor) or is_array(given):
        return SampleData(given)
    if callable(given) and not isinstance(given, (type, Distribution)):
        return given  # type: ignore[no-any-return]
    raise TypeError(
        "a data prediction is a Field, a Gaussian or a mixture of them, a tensor of rows, or a"
        f" function (z, sigma), got {type(given).__name__}"
    )


def as_score(given: Any) -> Callable[[Tensor], Tensor]:
    """A score ``x -> ∇ log p(x)`` from a law with a log-density, or a function."""
    if isinstance(given, (Gaussian, GaussianMixture)):
        return SmoothedLaw(given).score
    if isinstance(given, Distribution):
        return lambda x: value_and_gradient(given.log_prob, x)[1]
    if callable(given):
        return given  # type: ignore[no-any-return]
    raise TypeError(
        "a score is a law with a log-density, such as Gaussian((2,)), or a function of x, got"
        f" {type(given).__name__}"
    )
