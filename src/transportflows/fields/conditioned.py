"""What a field was trained with, and whether what it is given later fits that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._core.arrays import is_array
from .._core.condition import Condition
from .._core.conditions import NO_CONDITIONS, check_conditions
from .._core.signatures import checked
from .._core.tensor import first_floating
from .._core.trained import check_trained, filled
from ..process import Process
from .calls import Network
from .null_conditions import null_conditions

__all__ = ["Conditioned"]


@checked
class Conditioned(nn.Module):
    """A module that keeps what conditions it was trained with; :class:`Field` is one.

    Attributes:
        conditions: by name; ``{}`` for nothing, None where that is not known.
        process: the law of x_t, which may tell the network where a path starts.
    """

    conditions: Mapping[str, Condition] | None = None
    process: Process

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks, without repetition."""
        raise NotImplementedError

    def check_conditions(
        self,
        cond: Mapping[str, Any] | None,
        n: int,
        *,
        rows: str = "states",
        ranges: bool = True,
        device: torch.device | None = None,
    ) -> dict[str, Any]:
        """Conditions as they go to the network, if they fit n rows and what it was trained with.

        One number stands for all rows where training had one a row.

        Args:
            cond: by name; None for none.
            n: number of rows.
            rows: what the rows are, for messages.
            ranges: see that integers are among those of the training, which waits for a device.
            device: where tensors with rows must be; None for anywhere.

        Raises:
            TypeError: if it is no mapping of names, or holds lists.
            ValueError: if there is one that has other rows, was not trained with, or is missing.
        """
        if self.conditions and (cond is None or isinstance(cond, Mapping)):
            cond = filled(cond or {}, self.conditions, n, self.reference())
        arrays = isinstance(cond, Mapping) and any(map(is_array, cond.values()))
        like = self.reference() if arrays else None
        found = check_conditions(cond, n, rows=rows, device=device, like=like)
        whose = f"this {type(self).__name__}"
        start = {}
        if self.process.coupling.condition_on_start:  # which is given in training too
            if "x0" not in found:
                raise ValueError(
                    f"{whose} is told of the start of its path, and the condition 'x0' is missing:"
                    " sample(field, start=x0) gives it; elsewhere write cond={'x0': x0}, in the"
                    " units of the process"
                )
            start = {"x0": found.pop("x0")}
        trained = self.conditions
        known = check_trained(found, trained, n, whose=whose, ranges=ranges, device=device)
        return {**known, **start}

    def null_cond(self, n: int, like: Mapping[str, Any] = NO_CONDITIONS) -> dict[str, Any]:
        """Conditions that say none, for n rows: for ``sample``, and for guidance without a class.

        Args:
            n: number of rows.
            like: conditions of these rows. Those that were never dropped in training are taken
                from there, and the shape of one whose length is free.

        Raises:
            ValueError: if the field was never trained without its conditions (``drop_cond=`` of
                ``fit``), or one that cannot be left out is not in ``like``.

        Example:
            >>> import transportflows as tpf
            >>> net = tpf.networks.MLP(2, width=8, labels=3)
            >>> field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
            >>> field.null_cond(2)
            {'label': tensor([-1, -1])}
        """
        return null_conditions(self.networks, self.conditions, n, like, self.reference())

    def reference(self) -> Tensor:
        """A scalar of the dtype and device that the networks expect."""
        for net in self.networks:
            for kind in ("_parameters", "_buffers"):
                found = first_floating(net, kind)
                if found is not None:
                    return found.detach().new_zeros(())
        return torch.zeros((), device=self.process.device)
