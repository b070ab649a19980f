"""Whether tensors are still those, with the values, that something was computed from.

What is remembered of tensors goes stale where they are replaced (``module.to``) or written to in
place (``load_state_dict``, a broadcast). torch counts the writes to a tensor, so a memo is kept
with the tensors it was made from and their counts, and looking costs no value from the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

from torch import Tensor, nn

__all__ = ["Written", "buffers_of"]


class Written:
    """Tensors, and how often each has been written to by now.

    Writes that torch does not count are not seen: those through ``tensor.data``. Tensors made in
    inference mode have no count, and are never the same as before.

    Args:
        tensors: the tensors; they are kept, so that no other takes their place in memory.
        others: objects that must be the same ones too.
    """

    __slots__ = ("counts", "objects")

    def __init__(self, tensors: Sequence[Tensor], *others: Any) -> None:
        self.objects = (*tensors, *others)
        self.counts = [object() if x.is_inference() else x._version for x in tensors]

    def same(self, other: Written) -> bool:
        """Whether the other was made of the same objects with the same values."""
        if self.counts != other.counts or len(self.objects) != len(other.objects):
            return False
        return all(map(is_, self.objects, other.objects))


def buffers_of(*modules: nn.Module | None) -> list[Tensor]:
    """The buffers of modules; ``module.buffers()`` takes ten times as long."""
    found: list[Tensor] = []
    for module in modules:
        if module is not None:
            found += [buffer for buffer in module._buffers.values() if buffer is not None]
            found += buffers_of(*module._modules.values())
    return found
