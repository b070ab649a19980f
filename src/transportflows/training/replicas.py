"""Whole copies of the networks on several processes, whose gradients are one sum.

Torch's DistributedDataParallel sends a bucket of gradients as soon as the backward pass has them,
while that pass goes on, and sends them from the memory in which they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["Replicas"]


class Replicas:
    """The evaluation of a loss after whose backward pass gradients are those of all processes.

    All processes make it at the same step, and have rows at every step in which they use it.

    Args:
        evaluate: gives losses ``(b,)`` of a sample of b rows.
        trained: what gets a gradient, at every step and on every process.
    """

    def __init__(self, evaluate: Callable[[Any], Tensor], trained: Sequence[nn.Parameter]) -> None:
        loss = nn.Module()  # with what gets a gradient; the field's other parts stay out of it
        loss.trained = nn.ParameterList(trained)
        loss.forward = evaluate
        self.engine = DistributedDataParallel(loss, gradient_as_bucket_view=True)
        self.engine.register_comm_hook(
            None,  # where the engine would take a mean
            lambda _, bucket: (
                dist.all_reduce(bucket.buffer(), async_op=True)
                .get_future()
                .then(lambda done: done.value()[0])
            ),
        )

    def __call__(self, sample: Any, last: bool) -> Tensor:
        """The losses of a sample.

        Args:
            sample: rows of this process.
            last: whether it is the last part of a batch, with whose gradients those of the parts
                before are sent.
        """
        with nullcontext() if last else self.engine.no_sync():
            return self.engine(sample)  # type: ignore[no-any-return]
