"""The law of a field's samples as one of torch's distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .._core.arrays import DataLike, as_tensor, is_array
from .._core.signatures import checked
from ..fields import Field
from ..fields.base import check_field
from ..fields.offers import offered
from ..samplers import sample
from .density import log_likelihood

__all__ = ["FieldDistribution"]


@offered("distribution")
@checked
class FieldDistribution(Distribution):
    """What ``sample`` draws, with the methods of :class:`torch.distributions.Distribution`.

    ``sample`` and ``rsample`` solve the ODE or SDE of the field, ``log_prob`` is the density of its
    probability flow: for ε > 0 that of the same law where the field is exact. So a field goes where
    such laws are taken, as a base of another process among them.

    Args:
        field: whose law; also a guided one.
        cond: conditions by name. The first dimension of tensors and arrays is the batch, ``(B,)``;
            numbers and tensors ``()`` are of all.
        sampling: options of :func:`transportflows.sample`, such as ``{"steps": 50}``.
        density: options of :func:`transportflows.log_likelihood`, such as ``{"scheme": "rk4"}``.
        validate_args: as torch has it; off, since it would look at all values.

    Raises:
        ValueError: if the process tells no event shape, conditions differ in rows, or several
            epsilons are given.

    Example:
        >>> import torch, transportflows as tpf
        >>> exact = tpf.oracle(
        ...     tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))), tpf.Gaussian((2,), mean=3.0)
        ... )
        >>> law = exact.distribution()
        >>> law.event_shape, law.batch_shape, law.sample((4,)).shape
        (torch.Size([2]), torch.Size([]), torch.Size([4, 2]))
        >>> round(float(law.log_prob(torch.full((2,), 3.0, dtype=torch.float64))), 3)  # -log 2π
        -1.838
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (as in torch)
    has_rsample = True

    def __init__(
        self,
        field: Field,
        cond: Mapping[str, Any] | None = None,
        *,
        sampling: Mapping[str, Any] | None = None,
        density: Mapping[str, Any] | None = None,
        validate_args: bool = False,
    ) -> None:
        check_field(field, "a distribution is that of")
        if field.process.shape is None:
            raise ValueError(
                "the process of this field tells no event shape; write Process(..., shape=(2,))"
            )
        self.field = field
        self.cond = {
            name: as_tensor(name, c, like=field.reference()) if is_array(c) else c
            for name, c in (cond or {}).items()
        }
        if isinstance((sampling or {}).get("epsilon"), Sequence):
            raise ValueError("a law has one epsilon, got several; write a distribution for each")
        self.sampling, self.density = dict(sampling or {}), dict(density or {})
        batches = {len(c) for c in self.cond.values() if isinstance(c, Tensor) and c.ndim > 0}
        if len(batches) > 1:
            raise ValueError(
                f"conditions of one batch have as many rows, got {sorted(batches)}; write numbers,"
                " or tensors (), for what is of all"
            )
        super().__init__(torch.Size(batches), field.process.shape, validate_args=validate_args)

    def __repr__(self) -> str:
        kind, batch, event = type(self.field).__name__, self.batch_shape, self.event_shape
        return f"FieldDistribution({kind}, batch_shape={tuple(batch)}, event_shape={tuple(event)})"

    @property
    def support(self) -> Any:
        """All of space, where every event has a density."""
        return constraints.independent(constraints.real, len(self.event_shape))  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Any, _instance: Any = None) -> FieldDistribution:
        """The same law for a batch ``(B,)``, as torch has it.

        Raises:
            ValueError: if there is a batch of another size already, or the new one is not ``(B,)``.
        """
        shape = torch.Size(batch_shape)
        if shape == self.batch_shape:
            return self
        if len(shape) != 1 or self.batch_shape not in (torch.Size(), torch.Size([1])):
            raise ValueError(
                f"a batch {tuple(self.batch_shape)} of conditions is not expanded to"
                f" {tuple(shape)}; the batch of a field is (B,)"
            )
        found = FieldDistribution(self.field, sampling=self.sampling, density=self.density)
        found.cond = {
            name: c.expand(shape[0], *c.shape[1:]) if isinstance(c, Tensor) and c.ndim > 0 else c
            for name, c in self.cond.items()
        }
        found._batch_shape = shape
        return found

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws ``(*sample_shape, *batch_shape, *event_shape)``; no gradient goes through them."""
        return self._drawn(sample_shape, gradients=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The same, differentiable in conditions and parameters, with memory for states alone."""
        return self._drawn(sample_shape, gradients=True)

    def _drawn(self, sample_shape: Any, *, gradients: bool) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        n = shape.numel()
        if n == 0:
            return self.field.reference().new_empty(shape + self.event_shape)
        cond = self._rows(n // self.batch_shape.numel())
        options = {"gradients": gradients, **self.sampling}
        x = sample(self.field, n, cond=cond, **options).x
        return x.reshape(shape + self.event_shape)

    def log_prob(self, value: DataLike) -> Tensor:
        """Log-densities of values that broadcast with ``batch_shape + event_shape``, in nats.

        They can be differentiated where the values or conditions require grad; for a gradient in
        the parameters alone write ``distribution(density={"gradients": True})``.

        Raises:
            ValueError: if the last dimensions of the values are not those of an event.
        """
        event, value = len(self.event_shape), as_tensor("value", value, like=self.field.reference())
        if value.shape[value.ndim - event :] != self.event_shape:
            raise ValueError(
                f"values are (..., {', '.join(map(str, self.event_shape))}), got"
                f" {tuple(value.shape)}"
            )
        rows = value.shape[: value.ndim - event]
        shape = torch.broadcast_shapes(rows, self.batch_shape)  # type: ignore[no-untyped-call]
        if shape.numel() == 0:
            return value.new_zeros(shape)
        x = value.expand(shape + self.event_shape).reshape(-1, *self.event_shape)
        cond = self._rows(len(x) // self.batch_shape.numel())
        asked = any(isinstance(c, Tensor) and c.requires_grad for c in (value, *self.cond.values()))
        options = {"gradients": asked and torch.is_grad_enabled(), **self.density}
        found = log_likelihood(self.field, x, cond=cond, **options).log_prob
        return found.reshape(shape)

    def _rows(self, times: int) -> dict[str, Any] | None:
        """The conditions, of the whole batch so many times over."""
        if not self.cond:
            return None
        n = times * self.batch_shape.numel()
        found = {}
        for name, c in self.cond.items():
            if isinstance(c, Tensor) and c.ndim > 0:
                found[name] = c.repeat(times, *[1] * (c.ndim - 1))
            elif isinstance(c, (int, float, Tensor)):
                found[name] = torch.as_tensor(c).expand(n)
            else:
                found[name] = c
        return found
