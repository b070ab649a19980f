"""The graph of a call: recorded, gone back through, weighed, and told from another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._core.autodiff import ordinary
from .._core.precision import widest

__all__ = ["Meter", "mixes", "operations", "pulled_back", "recorded"]


class Meter:
    """Counts the bytes that a graph keeps, those of parameters left out."""

    def __init__(self, modules: list[nn.Module]) -> None:
        own = (t for m in modules for t in (*m._parameters.values(), *m._buffers.values()))
        self.seen = {_place(t) for t in own if t is not None}
        self.kept: list[Any] = []
        self.total = 0

    def pack(self, t: Tensor) -> Tensor:
        """Count a tensor, once."""
        place = _place(t)
        if place not in self.seen:
            self.seen.add(place)
            self.kept.append(t)  # so that its place is not taken by another
            self.total += t.numel() * t.element_size()
        return t


def _place(t: Tensor) -> int:
    """Where the numbers of a tensor lie, or the tensor itself where that is not told."""
    try:
        return t.untyped_storage().data_ptr()
    except RuntimeError:  # of a device that is none of torch's own
        return id(t)


def recorded(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """``f(x)`` with its graph, and the x that it goes back to."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = ordinary(x).detach().requires_grad_()
        return f(leaf), leaf


def pulled_back(value: Tensor, leaf: Tensor, along: Tensor, keep: bool) -> Tensor:
    """``(∂f)ᵀ along``, of the shape of x."""
    with torch.inference_mode(False):
        (found,) = torch.autograd.grad(value, leaf, along, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else found


def operations(value: Tensor) -> int:
    """A number for the operations in the graph of a value, in their order."""
    told: list[Any] = []
    seen: dict[Any, int] = {}
    todo: list[Any] = [value.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            told.append(seen.get(node))
            continue
        seen[node] = len(seen)
        told.append(node.name())
        todo += [following for following, _ in node.next_functions]
    return hash(tuple(told))


def mixes(value: Tensor, leaf: Tensor, z: Tensor, pulled: Tensor) -> bool:
    """Whether a row of the value depends on other rows of x."""
    along = z.clone()
    along[1:] = 0
    others = pulled_back(value, leaf, along, True)[1:]
    size, found = (torch.linalg.vector_norm(widest(g)) for g in (pulled, others))
    return bool((found > torch.finfo(z.dtype).eps ** 0.5 * size) & found.isfinite())
