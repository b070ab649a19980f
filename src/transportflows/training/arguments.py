"""What a Trainer is given, made into what it works with, or refused."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, TensorDataset

from .._core.arrays import is_array
from .._core.checks import names, positive_number, shown
from .._core.distributed import World
from .._core.shards import check_whole, in_shards
from ..couplings.base import Paired
from ..distributions.adapters import as_distribution
from ..distributions.base import Distribution
from ..draws import Batch
from ..fields.base import Field
from ..losses import Loss, SumLoss, default_loss
from ..losses.base import as_loss
from .data_rows import DataRows
from .epochs import Epochs
from .from_law import FromLaw
from .iterable import FromIterable, FromLoader
from .map_style import MapStyle
from .schedules import RateSchedule, as_schedule, first_rate
from .source import Source

__all__ = [
    "BATCH_SIZE",
    "DEFAULT_LR",
    "as_autocast",
    "as_optimizer",
    "as_scheduler",
    "as_source",
    "compile_options",
    "loss_of",
    "trainable",
]

DEFAULT_LR = 1e-3
BATCH_SIZE = 256


def loss_of(given: Any, field: Field) -> Loss:
    """The loss to train a field with: given, the sum of a list of regressions, or its default.

    Raises:
        ValueError: if it is a regression of other quantities than a pair predicts.
    """
    if given is None:
        return default_loss(field)
    loss = as_loss(SumLoss(*given) if isinstance(given, (tuple, list)) else given)
    if loss.quantities and len(field.outputs) > 1 and set(loss.quantities) != set(field.outputs):
        raise ValueError(
            f"{type(field).__name__} predicts {names(field.outputs)} and the loss is for"
            f" {names(loss.quantities)}; give one for each: Trainer(field, [VelocityLoss(),"
            " NoiseLoss()]), or train a network alone: Velocity(net, process)"
        )
    return loss


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient."""
    return [p for p in module.parameters() if p.requires_grad]


def as_optimizer(given: Any, field: Field, lr: float) -> Optimizer:
    """An optimizer of the networks' parameters: the one given, one made, or the default."""
    if not field.trainable:
        raise TypeError(
            f"a {type(field).__name__} is made of fields and has nothing of its own to train; train"
            " those, Trainer(field).fit(...), and make it of what was trained"
        )
    check_whole(field)
    in_process = {id(p) for p in field.process.parameters()}
    parameters = [p for p in trainable(field) if id(p) not in in_process]
    if isinstance(given, Optimizer):
        held = {id(p) for group in given.param_groups for p in group["params"]}
        if parameters and not any(id(p) in held for p in trainable(field)):
            raise ValueError(
                "the optimizer holds no parameter of the field; make it from"
                " field.parameters(), or give a function: optimizer=torch.optim.AdamW"
            )
        optimizer = given
    else:
        if not parameters:
            raise ValueError(
                "there is nothing to train: the networks of the field have no parameters that"
                " require a gradient. A network that is no nn.Module needs"
                " optimizer=torch.optim.Adam(its_parameters)"
            )
        optimizer = _adam(parameters, lr) if given is None else given(parameters)
    if given is not None and lr != DEFAULT_LR:
        raise ValueError(f"lr={lr} is for the default optimizer; set it in the one that you give")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer must be a torch optimizer, or make one, got {type(optimizer).__name__}"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError("LBFGS evaluates the loss many times a step; write a loop of your own")
    return optimizer


def _adam(parameters: list[nn.Parameter], lr: float) -> Optimizer:
    lr = positive_number("lr", lr)
    if len(set(map(in_shards, parameters))) > 1:  # which no fused kernel takes together
        return torch.optim.Adam(parameters, lr=lr, foreach=False)
    try:
        return torch.optim.Adam(parameters, lr=lr, fused=True)
    except RuntimeError:  # a dtype or device without fused kernels
        return torch.optim.Adam(parameters, lr=lr)


def as_scheduler(
    given: Any, optimizer: Optimizer, warmup: int
) -> LRScheduler | RateSchedule | None:
    """A schedule, by name or itself; or a torch scheduler of the optimizer, given or made."""
    if isinstance(warmup, bool) or not isinstance(warmup, numbers.Integral) or warmup < 0:
        raise ValueError(f"warmup is a number of steps, got {warmup!r}")
    if given is None and not warmup:
        return None
    if given is None or isinstance(given, str):
        given = as_schedule("constant" if given is None else given, int(warmup))
        warmup = 0
    if warmup:
        raise ValueError(
            f"warmup={warmup} goes with a scheduler's name; write CosineRate(warmup={warmup}), or"
            " warm up in the torch scheduler (LinearLR in a SequentialLR)"
        )
    if isinstance(given, RateSchedule):
        for group in optimizer.param_groups:
            first_rate(group)
        return given
    if isinstance(given, type) and issubclass(given, RateSchedule):
        raise TypeError(f"scheduler is the class {given.__name__}; write {given.__name__}()")
    if not isinstance(given, LRScheduler) and not callable(given):
        raise TypeError(
            "scheduler must be a name such as 'cosine', a RateSchedule, a torch scheduler, or make"
            f" one, got {given!r}"
        )
    scheduler = given if isinstance(given, LRScheduler) else given(optimizer)
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(
            "scheduler must be a name such as 'cosine', a RateSchedule, a torch scheduler, or make"
            f" one, got {type(scheduler).__name__}"
        )
    if scheduler.optimizer is not optimizer:
        raise ValueError(
            "the scheduler is of another optimizer; give both, or a function:"
            " scheduler=lambda optimizer: CosineAnnealingLR(optimizer, steps)"
        )
    return scheduler


def as_autocast(given: Any) -> torch.dtype | None:
    """The dtype of the network's matrix products, if it is one that can be trained in."""
    if given in (None, torch.bfloat16):
        return given  # type: ignore[no-any-return]
    if given is torch.float16:
        raise ValueError(
            "autocast=torch.float16 needs its gradients scaled, which this trainer does not do;"
            " use torch.bfloat16, or a loop of your own with torch.amp.GradScaler"
        )
    raise ValueError(f"autocast is torch.bfloat16 or None, got {given!r}")


def compile_options(given: Any, field: Field) -> Mapping[str, Any] | None:
    """The arguments of torch.compile for the step; None where it is not to be compiled."""
    if given is False or given is None:
        return None
    options = {} if given is True else given
    if not isinstance(options, Mapping):
        raise TypeError(
            "compile is True, False, or the arguments of torch.compile, such as"
            f" {{'mode': 'max-autotune'}}, got {given!r}"
        )
    for net in field.networks:
        if not isinstance(net, nn.Module):
            raise TypeError(
                f"compile=True needs networks that are nn.Modules, got a {type(net).__name__};"
                " give torch.compile(net) as the network"
            )
    return options


def as_source(
    given: Any,
    field: Field,
    batch_size: int | None,
    cond: Any,
    workers: int,
    world: World,
    name: str = "data",
) -> Source:
    """Where batches come from: tensors, a law, a dataset or a loader."""
    _check_cond(cond)
    rows, size = cond if isinstance(cond, Mapping) else None, batch_size or BATCH_SIZE
    names = () if cond is None or rows is not None else tuple(cond)
    if isinstance(given, TensorDataset):  # its rows are here already: workers have nothing to load
        given, names, workers = _tensors(given, names, field), (), 0
    if isinstance(given, (Tensor, tuple, list, Batch)) or is_array(given):
        if names:
            raise ValueError(
                f"{name} is made of tensors, and cond={names!r} names the members of a dataset's"
                " items; write cond={'label': labels}, with a tensor of N rows each"
            )
        _no_workers(workers, "set of tensors", name)
        made = DataRows.of(given, field, rows, name=name)
        return Epochs.for_process(field.process, made, size, name == "data")
    kind = type(given).__name__
    _no_weights(field, kind, name)
    if rows is not None:
        raise ValueError(
            f"cond= with tensors goes with data that are tensors, and {name} is a {kind}; name the"
            f" members of its items: cond={tuple(rows)!r}"
        )
    odd = isinstance(given, (str, Mapping)) or hasattr(given, "dtype")
    if isinstance(given, DataLoader) or _is_loader(given):
        if batch_size is not None:
            what = f"{name} is a {kind}, which makes the batches"
            raise ValueError(f"{what}; leave batch_size out, or give its dataset")
        _no_workers(workers, kind, name)
        return FromLoader(given, field, names, world, name)
    if isinstance(given, Distribution) or callable(getattr(given, "sample", None)):
        if names or isinstance(field.process.coupling, Paired):
            what = f"{name} is a law of x1 alone, a {kind}"
            raise ValueError(f"{what}; for pairs or conditions give a dataset")
        _no_workers(workers, kind, name)
        return FromLaw(as_distribution(given), size, field, name)
    if not odd and hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        if len(given) == 0:
            raise ValueError(f"{name} is empty: the {kind} has no items")
        return MapStyle(given, size, field, names, workers, world, name)
    if isinstance(given, Iterator):
        raise TypeError(
            f"{name} is a {kind}, which can be read only once; give an IterableDataset, whose"
            " __iter__ makes a new one for each epoch"
        )
    if not odd and isinstance(given, Iterable):
        _no_workers(workers, kind, name)
        return FromIterable(given, size, field, names, world, name)
    raise TypeError(
        f"{name} must be a tensor or an array x1, a pair of them (x0, x1), a Batch, a Dataset, a"
        f" DataLoader, or a law with sample, got {kind}; write torch.as_tensor(...,"
        " dtype=torch.float32)"
    )


def _no_weights(field: Field, kind: str, name: str) -> None:
    if field.process.coupling.weighted:
        what = f"weights of x1, by which rows of tensors are drawn, and {name} is a {kind}"
        raise ValueError(f"the coupling has {what}; give x1 as a tensor")


def _check_cond(cond: Any) -> None:
    """Refuse conditions that are neither tensors by name nor a list of names."""
    if isinstance(cond, str):
        raise TypeError(f"cond is a list of names, got the text {cond!r}; write cond=({cond!r},)")
    if not (cond is None or isinstance(cond, Mapping)) and not (
        isinstance(cond, (list, tuple)) and all(isinstance(name, str) for name in cond)
    ):
        raise TypeError(
            f"cond is a dict of tensors with a row each, got {shown(cond)}; write cond={{'label':"
            " labels}, or, for a dataset, the names of what its items hold: cond=('label',)"
        )


def _is_loader(given: Any) -> bool:
    return hasattr(given, "dataset") and hasattr(given, "batch_size") and hasattr(given, "__iter__")


def _no_workers(workers: int, kind: str, name: str) -> None:
    if workers:
        raise ValueError(
            f"workers={workers} load a map-style Dataset, and {name} is a {kind}; a DataLoader has"
            " workers of its own (num_workers)"
        )


def _tensors(given: TensorDataset, names: tuple[str, ...], field: Field) -> Batch:
    """The tensors of a TensorDataset, whose rows need no fetching one by one."""
    data = 1 + isinstance(field.process.coupling, Paired)
    if len(given.tensors) != data + len(names):
        raise ValueError(
            f"the TensorDataset has {len(given.tensors)} tensors, {data} of which are data; name"
            " the others, as in cond=('label',)"
        )
    x1 = given.tensors[data - 1]
    x0 = given.tensors[0] if data == 2 else None
    return Batch(x1, x0, dict(zip(names, given.tensors[data:], strict=True)))
