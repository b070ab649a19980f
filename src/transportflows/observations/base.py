"""What is known of a state: ``y = A x + σ n``, or any log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_tensor
from .._core.checks import check_finite_rows, event_shape, number
from .._core.precision import wide, widest_dtype
from .._core.signatures import checked
from .operators import LinearOperator, Mask, Operator, adjoint_error, as_operator

__all__ = ["LinearObservation", "Observation"]

_RANK = 1e-10  # of the largest singular value: below it a direction is not reached


@checked
class Observation:
    """What is known of an event, by the log-likelihood of it.

    Args:
        log_likelihood: maps events ``(n, *)`` to ``log p(y | x)``, ``(n,)``, by operations that
            autograd follows; constants do not matter.

    Example:
        >>> seen = Observation(lambda x: -((x[:, 0] - 1.0) ** 2))
        >>> seen.log_likelihood(torch.zeros(2, 2))
        tensor([-1., -1.])
    """

    def __init__(self, log_likelihood: Callable[[Tensor], Tensor]) -> None:
        self._log_likelihood = log_likelihood

    def log_likelihood(self, x: Tensor) -> Tensor:
        """``log p(y | x)``, ``(n,)``, up to a constant.

        Raises:
            ValueError: if the function gave another shape.
        """
        value = self._log_likelihood(x)
        if not isinstance(value, Tensor) or value.shape != (len(x),):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"log_likelihood must give one value a row, ({len(x)},), and it gave {got}; sum"
                " over the event, not over rows"
            )
        return value

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@checked
class LinearObservation(Observation):
    r"""``y = A x + σ n``: a linear observation with Gaussian noise, or with none.

    The adjoint of A is tried when it is made, ``⟨A x, y⟩ = ⟨x, A* y⟩`` for random x and y.

    Args:
        operator: A: a :class:`Mask`, :class:`Blur`, :class:`Downsample` or :class:`Matrix`; a
            matrix ``(m, d)``; a pair of functions ``(A, A*)`` of rows; or an object with methods
            ``A`` and ``A_adjoint``, such as deepinv's.
        y: what was seen, of the shape that A gives for one event, the same for all rows; or one a
            row, ``(n, *)``. Numbers that a mask hides do not matter.
        noise: σ ≥ 0; 0 for none.
        shape: of an event, where the operator does not tell.

    Raises:
        TypeError: if y is not of floating-point numbers.
        ValueError: if the adjoint is wrong, y does not have the shape that A gives or is not
            finite, or the noise is negative.

    Example:
        >>> seen = LinearObservation(Mask(torch.tensor([1, 0])), torch.tensor([2.0, 0.0]))
        >>> seen.residual(torch.zeros(1, 2))
        tensor([[2., 0.]])
    """

    operator: LinearOperator

    def __init__(
        self,
        operator: Any,
        y: DataLike,
        noise: float = 0.0,
        *,
        shape: int | Sequence[int] | None = None,
    ) -> None:
        self.noise = number("noise", noise, "a standard deviation, 0 or positive", least=0)
        own = None if shape is None else event_shape("shape", shape)
        self.operator = as_operator(operator, own)
        known = self.operator.shape
        if own is not None and known is not None and own != known:
            raise ValueError(
                f"shape is {tuple(own)}, and the operator takes events of shape {tuple(known)}"
            )
        if known is None and own is None:
            raise ValueError(
                "the operator does not say which events it takes; write LinearObservation(operator,"
                " y, noise, shape=(1, 28, 28))"
            )
        self.shape = torch.Size(known or own or ())
        y = as_tensor("y", y)
        if not y.is_floating_point():
            raise TypeError(f"y must be of floating-point numbers, got {y.dtype}; write y.float()")
        with torch.no_grad():
            self.seen = self.operator.apply(y.new_zeros(1, *self.shape)).shape[1:]
        rows = y[None] if y.shape == self.seen else y
        if rows.shape[1:] != self.seen:
            raise ValueError(
                f"y has shape {tuple(y.shape)}, and the operator gives {tuple(self.seen)} for an"
                f" event of shape {tuple(self.shape)}; give y of that shape, or one a row"
            )
        if isinstance(self.operator, Mask):  # what it hides may be NaN
            rows = self.operator.apply(rows)
        check_finite_rows(rows, "y")
        self.y = rows.detach()
        self._check_adjoint()

    def _check_adjoint(self) -> None:
        error = adjoint_error(self.operator, self.shape, self.y)
        if not math.isfinite(error):
            raise ValueError(
                "the operator, or its adjoint, gives NaN or infinite values for finite states; look"
                " at the numbers of its matrix, kernel or function"
            )
        if not error < 50 * math.sqrt(self.shape.numel()) * torch.finfo(self.y.dtype).eps:
            raise ValueError(
                "the adjoint is not that of the operator: ⟨A x, y⟩ and ⟨x, A* y⟩ differ by"
                f" {error:.1e} of their size for random x and y. For a matrix it is the transpose,"
                " for a convolution the correlation, for a mean over k points a k-th at each"
            )

    def residual(self, x: Tensor) -> Tensor:
        """``y − A x``, ``(n, *seen)``.

        Raises:
            ValueError: if there are several y, and not one a row.
        """
        y = self.y.to(x)
        if len(y) not in (1, len(x)):
            raise ValueError(
                f"there are {len(y)} observations for {len(x)} rows; give one for all, or one a row"
            )
        return y - self.operator.apply(x)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """``−|y − A x|² / 2σ²``, ``(n,)``.

        Raises:
            ValueError: if there is no noise.
        """
        if self.noise == 0:
            raise ValueError(
                "an observation without noise has no likelihood: it is 0 almost everywhere; give"
                " noise=0.01, or use what takes σ = 0 (Replacement, PseudoInverse, MomentMatched,"
                " GaussianMixture.posterior)"
            )
        return -0.5 * (self.residual(x) / self.noise).square().flatten(1).sum(1)

    def matrix(self) -> Tensor:
        """A as a matrix ``(m, d)`` of the widest dtype, by its values on all unit vectors."""
        d = self.shape.numel()
        eye = torch.eye(d, dtype=widest_dtype(self.y.device), device=self.y.device)
        try:
            columns = self.operator.apply(eye.view(d, *self.shape))
        except RuntimeError:  # an operator that holds tensors of its own dtype
            columns = self.operator.apply(eye.view(d, *self.shape).to(self.y))
        return wide(columns.flatten(1).mT.contiguous())

    def reached(self) -> tuple[Tensor, Tensor]:
        """A as ``(r, d)`` and y as ``(r,)`` in a basis of what A reaches, of rank r, float64.

        What A does not reach of y is noise alone, and says nothing of x.

        Raises:
            ValueError: if there are several y, or a y without noise that no x gives.
        """
        if len(self.y) != 1:
            raise ValueError(
                f"the observation has {len(self.y)} rows of y, and each has a posterior of its"
                " own; make one of each row"
            )
        a = self.matrix()
        y = wide(self.y).to(a).flatten()
        u, s, _ = torch.linalg.svd(a, full_matrices=False)
        basis = u[:, s > _RANK * s[:1].clamp(min=1e-300)]
        rest = y - basis @ (basis.mT @ y)
        if self.noise == 0 and float(rest.norm()) > 1e-5 * max(float(y.norm()), 1e-300):
            raise ValueError(
                "no x gives this y without noise: a part of it lies outside of what the operator"
                f" reaches ({float(rest.norm()):.2g} of {float(y.norm()):.2g}); give noise > 0, or"
                " a y that is A x"
            )
        return basis.mT @ a, basis.mT @ y

    def in_units_of(self, transform: Any) -> LinearObservation:
        """The same observation of a standardised state, ``x = mean + scale z``; None for no change.

        Args:
            transform: a :class:`Standardize`, or None.
        """
        if transform is None:
            return self
        own = self.operator

        def forward(z: Tensor) -> Tensor:
            return own.apply(z * transform.scale.to(z))

        def adjoint(y: Tensor) -> Tensor:
            back: Tensor = own.adjoint(y) * transform.scale.to(y)
            return back

        mean = transform.mean.to(self.y).expand(self.shape)
        operator = Operator(forward, adjoint, self.shape)
        return LinearObservation(operator, self.y - own.apply(mean[None]), self.noise)

    def __repr__(self) -> str:
        rows = "" if len(self.y) == 1 else f", y of {len(self.y)} rows"
        return f"{type(self).__name__}({self.operator!r}, noise={self.noise:g}{rows})"
