"""Linear operators on events, with their adjoints: masks, blurs, coarser grids, matrices.

An operator maps rows ``(n, *shape)`` to rows ``(n, *seen)`` and its adjoint maps them back, with
``⟨A x, y⟩ = ⟨x, A* y⟩``. Any object with methods ``A(x)`` and ``A_adjoint(y)`` is taken as it is
(deepinv's are such), and so is a pair of functions.

(A little longer than other files: each operator stands beside its adjoint and its example.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_tensor, is_array
from .._core.checks import event_shape, positive_integer, shown
from .._core.signatures import as_is, checked

__all__ = ["Blur", "Downsample", "LinearOperator", "Mask", "Matrix", "Operator", "as_operator"]


@checked
class LinearOperator(ABC):
    """A linear map of events, row by row.

    Attributes:
        shape: of the events that it takes; None where it takes any.

    Example:
        >>> class Half(LinearOperator):
        ...     def apply(self, x):
        ...         return x / 2
        ...     adjoint = apply
        >>> Half().apply(torch.tensor([[4.0, 6.0]]))
        tensor([[2., 3.]])
    """

    shape: torch.Size | None = None

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """``A x``, ``(n, *seen)``, for x ``(n, *shape)``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """``A* y``, ``(n, *shape)``, for y ``(n, *seen)``."""

    def __repr__(self) -> str:
        shape = "" if self.shape is None else str(tuple(self.shape))
        return f"{type(self).__name__}({shape})"


@checked
class Mask(LinearOperator):
    """Keeps what the mask is 1 at, and puts 0 elsewhere: ``A x = m x = A* x``.

    Args:
        mask: of the shape of an event, or one that broadcasts to ``shape``; booleans, or 0 and 1.
        shape: of an event, where the mask is smaller.

    Raises:
        ValueError: if the mask holds other numbers, keeps nothing, or does not fit the shape.

    Example:
        >>> Mask(torch.tensor([True, False])).apply(torch.tensor([[3.0, 4.0]]))
        tensor([[3., 0.]])
    """

    def __init__(self, mask: DataLike, shape: Sequence[int] | None = None) -> None:
        mask = as_tensor("mask", mask)
        if not bool(((mask == 0) | (mask == 1)).all()):
            bad = mask[(mask != 0) & (mask != 1)].flatten()[0]
            raise ValueError(
                f"a mask is 1 where something is seen and 0 elsewhere, and this one holds"
                f" {float(bad):g}; write mask > 0.5"
            )
        whole = torch.Size(shape) if shape is not None else mask.shape
        try:
            self.mask = mask.bool().expand(whole).clone()
        except RuntimeError as error:
            raise ValueError(
                f"the mask has shape {tuple(mask.shape)}, which does not broadcast to events of"
                f" shape {tuple(whole)}; give one of that shape"
            ) from error
        if not bool(self.mask.any()):
            raise ValueError("the mask is 0 everywhere, so nothing is seen; sample without it")
        self.shape = event_shape("shape", tuple(whole))

    def apply(self, x: Tensor) -> Tensor:
        return torch.where(self.mask.to(x.device), x, 0.0)

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.where(self.mask.to(y.device), y, 0.0)


@checked
class Matrix(LinearOperator):
    """A matrix times the flattened event.

    Args:
        matrix: ``(m, d)``.
        shape: of an event, of d numbers; ``(d,)`` by default.

    Raises:
        ValueError: if it is not ``(m, d)`` of finite floating-point numbers, or the shape has other
            than d numbers.

    Example:
        >>> Matrix(torch.tensor([[1.0, 1.0]])).apply(torch.tensor([[3.0, 4.0]]))
        tensor([[7.]])
    """

    def __init__(self, matrix: DataLike, shape: int | Sequence[int] | None = None) -> None:
        matrix = as_tensor("matrix", matrix)
        if matrix.ndim != 2 or not matrix.is_floating_point():
            raise ValueError(
                f"a matrix is (m, d) of floating-point numbers, got {tuple(matrix.shape)} of"
                f" {matrix.dtype}"
            )
        _check_numbers("matrix", matrix)
        self.matrix = matrix.detach()
        self.shape = event_shape("shape", matrix.shape[1] if shape is None else shape)
        if self.shape.numel() != matrix.shape[1]:
            given = f"events of shape {tuple(self.shape)} have {self.shape.numel()} numbers"
            raise ValueError(f"the matrix has {matrix.shape[1]} columns, and {given}")

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        back: Tensor = y @ self.matrix.to(y)
        return back.reshape(len(y), *(self.shape or ()))


@checked
class Blur(LinearOperator):
    """Circular convolution with a kernel over the last dimensions of an event.

    It is a product of Fourier coefficients, so its adjoint, the correlation, is one with their
    conjugates.

    Args:
        kernel: ``(k,)``, ``(k, k)``, ...: as many dimensions as it goes over; its middle, at
            ``k // 2``, is what a point itself is multiplied by.
        shape: of an event, at least as large.

    Raises:
        ValueError: if the kernel is larger, not finite, or 0 everywhere.

    Example:
        >>> blur = Blur(torch.tensor([0.25, 0.5, 0.25]), (4,))
        >>> [round(v, 6) for v in blur.apply(torch.eye(4)[:1])[0].tolist()]
        [0.5, 0.25, 0.0, 0.25]
    """

    def __init__(self, kernel: DataLike, shape: int | Sequence[int]) -> None:
        self.shape, kernel = event_shape("shape", shape), as_tensor("kernel", kernel)
        self.sizes = tuple(self.shape[len(self.shape) - kernel.ndim :])
        fits = 0 < kernel.ndim <= len(self.shape)
        if not fits or any(k > n for k, n in zip(kernel.shape, self.sizes, strict=True)):
            raise ValueError(
                f"the kernel has shape {tuple(kernel.shape)} and events have"
                f" {tuple(self.shape)}; give one that is not larger"
            )
        _check_numbers("kernel", kernel)
        self.kernel = kernel.detach()
        self.dims = tuple(range(-kernel.ndim, 0))

    def _times(self, x: Tensor, back: bool) -> Tensor:
        whole = x.new_zeros(self.sizes)
        whole[tuple(slice(k) for k in self.kernel.shape)] = self.kernel.to(x)
        middle = tuple(-(k // 2) for k in self.kernel.shape)
        response = torch.fft.rfftn(torch.roll(whole, middle, self.dims))
        response = response.conj() if back else response
        spectrum = torch.fft.rfftn(x, dim=self.dims) * response
        blurred: Tensor = torch.fft.irfftn(spectrum, s=self.sizes, dim=self.dims)
        return blurred

    def apply(self, x: Tensor) -> Tensor:
        return self._times(x, back=False)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._times(y, back=True)


@checked
class Downsample(LinearOperator):
    """Means over blocks of a coarser grid, over the last dimensions of an event.

    Args:
        factor: sides of a block, in numbers of points.
        shape: of an event; the last ``dims`` sizes are multiples of the factor.
        dims: how many of the last dimensions are made coarser.

    Raises:
        ValueError: if sizes are no multiples of the factor, or there are fewer dimensions.

    Example:
        >>> Downsample(2, (4,), dims=1).apply(torch.tensor([[1.0, 3.0, 5.0, 9.0]]))
        tensor([[2., 7.]])
    """

    def __init__(self, factor: int, shape: int | Sequence[int], *, dims: int = 2) -> None:
        self.factor = positive_integer("factor", factor)
        self.shape = event_shape("shape", shape)
        if not 0 < dims <= len(self.shape):
            raise ValueError(f"dims is 1 to {len(self.shape)} for {tuple(self.shape)}, got {dims}")
        self.dims, self.lead = dims, self.shape[: len(self.shape) - dims]
        self.fine = self.shape[len(self.shape) - dims :]
        if any(size % factor for size in self.fine):
            raise ValueError(
                f"the sizes {tuple(self.fine)} are no multiples of factor={factor}; crop or pad the"
                " events, or give another factor"
            )
        self.share = 1 / factor**dims

    def apply(self, x: Tensor) -> Tensor:
        blocks = [part for size in self.fine for part in (size // self.factor, self.factor)]
        first = 1 + len(self.lead)
        inner = tuple(first + 2 * k + 1 for k in range(self.dims))
        coarse: Tensor = x.reshape(len(x), *self.lead, *blocks).mean(inner)
        return coarse

    def adjoint(self, y: Tensor) -> Tensor:
        for dim in range(-self.dims, 0):
            y = y.repeat_interleave(self.factor, dim)
        spread: Tensor = y * self.share
        return spread


@checked
class Operator(LinearOperator):
    """An operator of the user's own, by two functions of rows.

    Args:
        forward: ``A``.
        adjoint: ``A*``.
        shape: of an event.

    Example:
        >>> last = Operator(lambda x: x[:, 1:], lambda y: torch.nn.functional.pad(y, (1, 0)), 2)
        >>> last.apply(torch.tensor([[3.0, 4.0]])), last.adjoint(torch.tensor([[4.0]]))
        (tensor([[4.]]), tensor([[0., 4.]]))
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
        shape: int | Sequence[int] | None = None,
    ) -> None:
        self.forward, self.back = forward, adjoint
        self.shape = None if shape is None else event_shape("shape", shape)

    @as_is
    def apply(self, x: Tensor) -> Tensor:
        return self._made(self.forward(x), "operator")

    @as_is
    def adjoint(self, y: Tensor) -> Tensor:
        return self._made(self.back(y), "adjoint")

    def _made(self, value: Any, what: str) -> Tensor:
        if not isinstance(value, Tensor):
            raise TypeError(f"the {what} must give a tensor of rows, and it gave {shown(value)}")
        return value


def as_operator(given: Any, shape: Sequence[int] | None = None) -> LinearOperator:
    """An operator: one of ours, a matrix, a pair of functions, or anything with A and A_adjoint.

    Args:
        given: the operator.
        shape: of an event, where it does not say.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(given, LinearOperator):
        return given
    if isinstance(given, Tensor) or is_array(given):
        return Matrix(given, shape)
    if isinstance(given, (tuple, list)) and len(given) == 2 and all(map(callable, given)):
        return Operator(given[0], given[1], shape)
    forward, adjoint = (getattr(given, name, None) for name in ("A", "A_adjoint"))
    if callable(forward) and callable(adjoint):
        return Operator(forward, adjoint, shape)
    raise TypeError(
        "an operator is a Mask, Blur, Downsample or Matrix, a matrix (m, d), a pair of functions"
        f" (A, A_adjoint), or an object with methods A and A_adjoint, got {shown(given)}"
    )


def _check_numbers(name: str, value: Tensor) -> None:
    """Refuse a kernel or matrix that is not finite, not real, or sees nothing."""
    if value.is_complex() or not bool(value.isfinite().all()):
        what = "complex numbers" if value.is_complex() else "NaN or infinite values"
        raise ValueError(f"the {name} holds {what}; mend what it was computed from")
    if not bool((value != 0).any()):
        raise ValueError(f"the {name} is 0 everywhere, so nothing is seen; sample without it")


def adjoint_error(operator: LinearOperator, shape: torch.Size, like: Tensor) -> float:
    """``|⟨A x, y⟩ − ⟨x, A* y⟩|`` over the size of the two, for random x and y.

    Args:
        operator: A.
        shape: of an event.
        like: of the dtype and device to try it in.

    Raises:
        ValueError: if the adjoint gives another shape than that of x.
    """
    generator = torch.Generator(like.device).manual_seed(0)

    def draw(size: Sequence[int]) -> Tensor:
        return torch.randn(size, generator=generator, dtype=like.dtype, device=like.device)

    with torch.no_grad():
        x = draw((2, *shape))
        seen = operator.apply(x)
        y = draw(tuple(seen.shape))
        back = operator.adjoint(y)
    if back.shape != x.shape:
        raise ValueError(
            f"the adjoint gives {tuple(back.shape)} for y of {tuple(y.shape)}, and x is"
            f" {tuple(x.shape)}; A* maps what is seen back to events"
        )
    left, right = (seen * y).sum().double(), (x * back).sum().double()
    size = math.sqrt(float(seen.square().sum() * y.square().sum()))
    size = max(size, math.sqrt(float(x.square().sum() * back.square().sum())), 1e-300)
    return float((left - right).abs()) / size
