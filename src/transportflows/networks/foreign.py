"""A network of another library: how it is called, and what it calls its labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._core.tensor import integer_ends
from ..fields import Field
from ..process import Process
from .labels import as_labels, check_labels, in_rows, without_value

__all__ = ["Foreign"]

_CURE = "give the number of a class that it was trained with"


class Foreign(nn.Module):
    """A network that is called otherwise, with labels under another name.

    Args:
        net: the network.
        classes: how many it has; None where that is not known, and labels go on as they are, but
            for one for all rows, which is spread over them.
        null: what it takes for "no class" in the place of -1, which may be -1; None if it knows no
            such thing.
    """

    def __init__(
        self, net: Callable[..., Any], classes: int | None = None, null: int | None = None
    ) -> None:
        super().__init__()
        if not callable(net) or isinstance(net, (type, Field, Process)):
            raise TypeError(f"net must be a network, got {_shown(net)}")
        self.net, self.classes, self.null = net, classes, null
        self.nulls: dict[str, float] = {} if null is None else {"label": -1}

    def label(self, label: Any, x: Tensor) -> Any:
        """Labels with the network's own number for none, ``(B,)``; None if there are none."""
        if label is None:
            null = self.null
            return None if null is None else torch.full((len(x),), null, device=x.device)
        if self.classes is None:
            return in_rows(label, x)
        label = as_labels(label, x)
        check_labels(label, self.classes, self.null, type(self.net).__name__, _CURE)
        label = label.to(x.device).expand(len(x))
        return label if self.null in (None, -1) else torch.where(label == -1, self.null, label)

    def call(self, label: Any, *args: Any, **cond: Any) -> Any:
        """The network; labels that its embedding does not have are refused in words."""
        if not isinstance(label, Tensor) or without_value(label):
            return self.net(*args, **cond)
        try:
            return self.net(*args, **cond)
        except (IndexError, RuntimeError) as error:
            if "index out of range" in str(error) and not label.is_floating_point():
                low, high = integer_ends(label)
                raise ValueError(
                    f"this {type(self.net).__name__} has no class for one of the labels {low} to"
                    f" {high} ({error}); {_CURE}"
                ) from error
            if "'indices'" in str(error):
                raise TypeError(
                    f"this {type(self.net).__name__} looks labels up in a table, by int64, and was"
                    f" given {label.dtype}; write label.long()"
                ) from error
            raise


def _shown(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
