"""What an evaluation of networks changes beside its result, and how it is taken back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

__all__ = ["TakenBack"]


class TakenBack:
    """The generator of a device, and the buffers of networks, as they are now.

    Layers that draw move the one, running statistics and estimates of a norm are the others.

    Args:
        device: from whose generator layers draw.
        networks: what is to be evaluated.
    """

    def __init__(self, device: torch.device, networks: Iterable[Any]) -> None:
        self.device = device
        card = device.type == "cuda"
        self._drawn = torch.cuda.get_rng_state(device) if card else torch.get_rng_state()
        modules = (net for net in networks if isinstance(net, nn.Module))
        self._buffers = [(b, b.clone()) for module in modules for b in module.buffers()]

    @torch.no_grad()
    def __call__(self) -> None:
        """Have all as it was."""
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self._drawn, self.device)
        else:
            torch.set_rng_state(self._drawn)
        for buffer, value in self._buffers:
            buffer.copy_(value)
