"""Whether a field can be trained on a batch, and the batch in the field's units."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._core.arrays import as_rows, is_array
from .._core.checks import check_finite_rows, check_same_kind
from .._core.conditions import check_conditions
from .._core.tensor import solving_dtype
from ..couplings.base import Paired
from ..draws import Batch
from ..fields.base import Field

__all__ = ["as_tensors", "checked_batch", "standardised", "target_device"]


def checked_batch(batch: Batch, field: Field, name: str) -> Batch:
    """A batch, detached, if it is one that a field can be trained on; see :meth:`DataRows.of`."""
    x1_name = name if batch.x0 is None else f"x1 of {name}"
    _check_kind(batch.x1, field, x1_name)
    check_finite_rows(batch.x1, x1_name)
    if batch.x0 is not None:
        check_finite_rows(batch.x0, f"x0 of {name}")
        check_same_kind(batch.x0, batch.x1, "x0", "x1")
    _check_pairs(batch, field, name)
    _check_shape(batch, field, name)
    rows = "rows of data" if name == "data" else f"rows of {name}"
    cond = check_conditions(
        batch.cond, len(batch), rows=rows, device=batch.x1.device, like=batch.x1
    )
    for key, value in cond.items():
        _check_finite_condition(key, value, batch.x1, name)
    return Batch(batch.x1, batch.x0, cond).map(Tensor.detach)


def as_tensors(data: Any, field: Field, name: str) -> Any:
    """Data with tensors for arrays, in the dtype that a field is trained in."""
    dtype = solving_dtype(None, field.reference().dtype)

    def made(value: Any, what: str) -> Any:
        return as_rows(what, value, dtype) if is_array(value) else value

    if isinstance(data, (tuple, list)) and len(data) == 2:
        return made(data[0], f"x0 of {name}"), made(data[1], f"x1 of {name}")
    if isinstance(data, Batch):
        return replace(data, x1=made(data.x1, f"x1 of {name}"), x0=made(data.x0, f"x0 of {name}"))
    return made(data, name)


def standardised(batch: Batch, field: Field) -> Batch:
    """Both members of a batch in the field's units."""
    if field.transform is None:
        return batch
    with torch.no_grad():
        x0 = None if batch.x0 is None else field.transform(batch.x0)
        return Batch(field.transform(batch.x1), x0, batch.cond)


def target_device(field: Field, x: Tensor) -> torch.device:
    """Where batches go: to the networks' device, where they have one, else where x is."""
    modules = [net for net in field.networks if isinstance(net, nn.Module)]
    known = any(True for net in modules for _ in (*net.parameters(), *net.buffers()))
    return field.reference().device if known else x.device


def _check_kind(x: Tensor, field: Field, name: str) -> None:
    """Refuse data of another dtype or device than the networks, where these have one."""
    modules = [net for net in field.networks if isinstance(net, nn.Module)]
    tensors = [t for net in modules for t in (*net.parameters(), *net.buffers())]
    known = any(t.is_floating_point() for t in tensors)
    if not known or not isinstance(x, Tensor) or not x.is_floating_point():
        return
    reference = field.reference()
    if x.dtype != reference.dtype and not (is_half(reference) and not is_half(x)):
        raise ValueError(
            f"{name} is {x.dtype} and the field's network {reference.dtype}; write"
            f" x.to({reference.dtype}), or field.to({x.dtype}) before making the Trainer"
        )
    if x.device not in (reference.device, torch.device("cpu")):  # from the host, rows are sent
        raise ValueError(
            f"{name} is on {x.device} and the field on {reference.device}; write"
            f" x.to({str(reference.device)!r}), or field.to({str(x.device)!r}) before making the"
            " Trainer"
        )


def is_half(x: Tensor) -> bool:
    """Whether a network of this dtype is given states of a wider one."""
    return x.dtype.itemsize == 2


def _check_pairs(batch: Batch, field: Field, name: str) -> None:
    coupling = field.process.coupling
    if batch.x0 is None and isinstance(coupling, Paired) and field.process.interpolant.uses_base:
        raise ValueError(
            f"the coupling is Paired, and {name} has no x0; give pairs (x0, x1), or a process"
            " without coupling=Paired(), which draws x0 from its base"
        )
    if batch.x0 is not None and not isinstance(coupling, Paired):
        cure = "for rows that belong together write Process(interpolant, coupling=Paired())"
        if not field.process.interpolant.uses_base:
            cure = (
                f"paths of {type(field.process.interpolant).__name__} have no x0, so give x1 alone;"
                " snapshots at several times go in as tpf.bridges.Trajectories(snapshots)"
            )
        elif coupling.brings_start or coupling.base is not None:
            cure = "it was made of both samples, so fit x1 alone; for pairs coupling=Paired()"
        elif not coupling.independent:
            cure = (
                "for two samples that do not belong together write Process(interpolant,"
                f" base=tpf.distributions.Empirical(x0), coupling={type(coupling).__name__}()) and"
                " fit x1 alone; for pairs coupling=Paired()"
            )
        raise ValueError(
            f"{name} is a pair (x0, x1), but the coupling is {type(coupling).__name__}, which"
            f" pairs by itself; {cure}"
        )


def _check_shape(batch: Batch, field: Field, name: str) -> None:
    if batch.x0 is not None and batch.x0.shape != batch.x1.shape:
        raise ValueError(
            f"x0 of {name} is {tuple(batch.x0.shape)} and x1 is {tuple(batch.x1.shape)}; the rows"
            " of a pair belong together and have one shape"
        )
    shape, event = field.process.shape, batch.x1.shape[1:]
    if shape is not None and shape != event:
        whose = "base" if field.process.base is not None else "process"
        raise ValueError(
            f"{name} has events of shape {tuple(event)}, and the {whose} has {tuple(shape)}; write"
            f" base=Gaussian({tuple(event)}), or reshape the data"
        )


def _check_finite_condition(key: str, value: Any, x1: Tensor, name: str) -> None:
    if not isinstance(value, Tensor):
        return
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        bad = (~value.isfinite()).reshape(len(value) if value.ndim else 1, -1).any(1)
        raise ValueError(
            f"condition {key!r} of {name} holds NaN or infinite values in {int(bad.sum())} of"
            f" {x1.shape[0]} rows (first row {int(bad.nonzero()[0, 0])}); drop them"
        )
