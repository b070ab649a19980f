"""A gradient as a whole, over parameters and processes: its norm, clipped, finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .._core.distributed import World
from .._core.precision import widest
from .._core.shards import in_shards, local
from .._core.shards import norm as shards_norm

__all__ = ["all_finite", "check_some", "clip_", "norm_of"]


def check_some(parameters: Sequence[Tensor]) -> None:
    """Refuse a gradient in none of the parameters, by which nothing would ever move.

    Raises:
        ValueError: if no parameter has a gradient.
    """
    if all(parameter.grad is None for parameter in parameters):
        raise ValueError(
            "no parameter of the optimizer got a gradient: the loss depends on others only, such as"
            " those of another network; make the optimizer from the parameters that it depends on"
        )


def norm_of(gradients: list[Tensor]) -> Tensor:
    """Euclidean norm of the whole gradient, ``()``."""
    if any(map(in_shards, gradients)):
        return shards_norm(gradients)
    gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    norms = list(torch._foreach_norm(gradients))
    if len({norm.dtype for norm in norms}) > 1:
        norms = [widest(norm) for norm in norms]
    return torch.linalg.vector_norm(torch.stack(norms))  # type: ignore[no-any-return]


def clip_(parameters: Sequence[nn.Parameter], most: float, foreach: bool | None) -> Tensor:
    """Shorten the whole gradient to a norm of at most ``most``; what it was before, ``()``."""
    if not any(map(in_shards, parameters)):
        return nn.utils.clip_grad_norm_(parameters, most, foreach=foreach)
    norm = shards_norm([p.grad for p in parameters if p.grad is not None])
    for kind in (True, False):
        nn.utils.clip_grads_with_norm_([p for p in parameters if in_shards(p) is kind], most, norm)
    return norm


def all_finite(parameters: Sequence[Tensor], world: World) -> bool:
    """Whether parameters are finite, those in shards on every process."""
    fine = bool(torch.stack([local(p).isfinite().all() for p in parameters]).all())
    return all(world.all_values(fine)) if any(map(in_shards, parameters)) else fine
