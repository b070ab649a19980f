"""Labels: conditions within whose rows plans are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["is_label", "labels_of", "of_one_label"]


def is_label(value: Tensor) -> bool:
    """Whether a condition is of integers or booleans, of which rows agree."""
    return not (value.is_floating_point() or value.is_complex())


def labels_of(cond: Mapping[str, Any]) -> dict[str, Tensor]:
    """The labels among conditions, by name, in the order of their names.

    Raises:
        ValueError: for a condition with rows that is no label.
    """
    found = {}
    for name in sorted(cond):
        value = cond[name]
        if not isinstance(value, Tensor) or value.ndim == 0:
            continue  # the same for all rows
        if not is_label(value):
            raise ValueError(
                f"a plan of whole data is made within the rows of one label, and the condition"
                f" {name!r} is {value.dtype}, of which no two rows need agree: a plan across them"
                " would make the base depend on the condition, and sampling starts from the base."
                f" Give labels as integers ({name}.long()), or use the independent coupling,"
                " coupling=None, or MinibatchOT(condition_weight=...)"
            )
        found[name] = value.detach()
    return found


def of_one_label(labels: Sequence[Tensor], n: int) -> list[Tensor]:
    """The rows of each label, or combination of labels, in their order; all rows without any."""
    if not labels:
        return [torch.arange(n)]
    _, which, counts = torch.unique(
        torch.cat([label.reshape(n, -1) for label in labels], 1),
        dim=0,
        return_inverse=True,
        return_counts=True,
    )
    return list(torch.split(which.argsort(stable=True), counts.tolist()))
