"""Networks whose parameters lie in shards on several processes (``fully_shard``), and the whole.

A parameter of such a network is a ``DTensor``: each process holds a part of its rows. What is done
here with a tensor that is no shard is nothing. To make a shard whole is an operation of all
processes, which they do in the same order.

After a call without a backward pass torch leaves the outermost part of a network gathered, so that
parameters that are written then would not be seen by the next call: :func:`put_back` before and
after.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "check_shares",
    "check_trained",
    "check_whole",
    "holds_shards",
    "in_shards",
    "like",
    "local",
    "map_tree",
    "norm",
    "put_back",
    "whole",
    "written",
]


def in_shards(tensor: Any) -> bool:
    """Whether a tensor is one of which this process holds a part."""
    made = sys.modules.get("torch.distributed.tensor")  # without it there is none
    return made is not None and isinstance(tensor, made.DTensor)


def local(tensor: Any) -> Tensor:
    """The part that this process holds."""
    return tensor.to_local() if in_shards(tensor) else tensor  # type: ignore[no-any-return]


def whole(tensor: Any) -> Tensor:
    """All of it, on every process."""
    return tensor.full_tensor() if in_shards(tensor) else tensor  # type: ignore[no-any-return]


def like(tensor: Tensor, own: Any) -> Tensor:
    """A whole tensor, which every process has, in shards as another of its shape is."""
    if not in_shards(own) or tensor.shape != own.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements)


def map_tree(change: Callable[[Tensor], Any], tree: Any) -> Any:
    """A tree of dicts and lists with its tensors changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, dict):
        return {key: map_tree(change, value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [map_tree(change, value) for value in tree]
    return tree


def holds_shards(module: nn.Module) -> bool:
    """Whether a network has parameters in shards, be they gathered for now or not."""
    return any(_engines(module)) or any(map(in_shards, module.parameters()))


def put_back(module: nn.Module) -> None:
    """Have parameters that a call gathered in shards again."""
    for part in _engines(module):
        part.reshard()


def _engines(module: nn.Module) -> Iterator[Any]:
    kind: Any = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", ())
    return (part for part in module.modules() if isinstance(part, kind))


@contextmanager
def written(module: nn.Module) -> Iterator[None]:
    """While its parameters are written: calls before and after it see those of their time."""
    put_back(module)
    try:
        yield
    finally:
        put_back(module)


def check_whole(module: nn.Module) -> None:
    """Refuse networks in wrappers that share gradients in ways of their own.

    Raises:
        TypeError: if there is one.
    """
    from torch.nn.parallel import DistributedDataParallel

    for part in module.modules():
        name = type(part).__name__
        if isinstance(part, DistributedDataParallel) or name == "FullyShardedDataParallel":
            raise TypeError(
                f"a network of the field is a {name}; give it as it is, since fit sums the"
                " gradients of processes itself, or, where it does not fit into one process, in"
                " shards: torch.distributed.fsdp.fully_shard(net) before the Trainer is made"
            )


def check_trained(parameters: Iterable[Tensor], module: nn.Module) -> None:
    """Refuse to train parameters that a network had before it was put in shards.

    Raises:
        ValueError: if they are such.
    """
    held = {id(p) for p in module.parameters()}
    if holds_shards(module) and any(id(p) not in held and not in_shards(p) for p in parameters):
        raise ValueError(
            "the optimizer has parameters from before the network was put in shards; call"
            " fully_shard before the Trainer is made, and before an optimizer of your own is"
        )


def check_shares(module: nn.Module, n: int, size: int, adaptive: bool) -> None:
    """Refuse a solve shared by processes that would not call a network in shards together.

    Raises:
        ValueError: if they have different numbers of rows, or choose their own steps.
    """
    if not holds_shards(module):
        return
    if adaptive:
        raise ValueError(
            "processes that share an adaptive solve make different steps, and a network in shards"
            " must be called equally often by all; sample with a fixed scheme such as 'heun'"
        )
    if n % size:
        raise ValueError(
            f"{n} rows do not divide into {size} equal parts, and a network in shards must be"
            f" called equally often by all processes; sample {-(-n // size) * size}"
        )


def norm(gradients: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of gradients of which some are in shards, ``()``, on every process."""
    kinds: dict[bool, list[Tensor]] = {False: [], True: []}
    for gradient in gradients:
        kinds[in_shards(gradient)].append(gradient)
    norms = [whole(nn.utils.get_total_norm(some, foreach=None)) for some in kinds.values() if some]
    return torch.linalg.vector_norm(torch.stack(norms))  # type: ignore[no-any-return]
