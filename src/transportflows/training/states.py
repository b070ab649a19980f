"""What a checkpoint must hold, seen before any of it is taken up.

Whoever made a file chose what is in it, so a state is first held against what every run writes
(:func:`check_state`: kinds, ranges, lengths, no NaN), and then against the run that takes it up
(:func:`check_memory`, :func:`check_schedule`: what its own optimizer and scheduler hold).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from .global_random import from_storable, preserved_states, set_states
from .recorder import COLUMNS, TOGETHER

__all__ = ["check_memory", "check_schedule", "check_state"]


def check_state(header: Mapping[str, Any], state: Any) -> None:
    """Refuse what no run writes.

    Raises:
        ValueError: if something is missing, of another kind, out of its range, or NaN.
    """
    kinds: dict[str, Callable[[Any], bool]] = {
        "step": _count,
        "key": _count,
        "begun": _count,
        "stopped": lambda x: x is None or type(x) is str,
        "field": _tensors_by_name,
        "parameters": _tensors,
        "buffers": _tensors,
        "averages": lambda x: x is None or _tensors(x),
        "updates": lambda x: x is None or _count(x),
        "optimizer": lambda x: type(x) is dict and {"state", "param_groups"} <= x.keys(),
        "scheduler": lambda x: x is None or (type(x) is dict and all(map(_word, x))),
        "source": _position,
        "history": lambda x: type(x) is dict,
        "callbacks": lambda x: type(x) is list and all(map(_memory, x)),
    }
    if type(state) is not dict:
        raise ValueError("no state of a run")
    for name, fits in kinds.items():
        if name not in state or not fits(state[name]):
            raise ValueError(f"no proper {name}" if name in state else f"no {name}")
    if state["step"] != header["step"] or str(state["key"]) != header["key"]:
        raise ValueError("another step or key than its header says")
    if state["begun"] > state["step"]:
        raise ValueError("a step before that at which its fit began")
    if (state["averages"] is None) != (state["updates"] is None):
        raise ValueError("averages without the number of their updates, or that without them")
    for name in ("field", "parameters", "averages"):
        held = state[name] or {}
        pairs = held.items() if isinstance(held, dict) else enumerate(held)
        if nan := [key for key, tensor in pairs if bool(tensor.isnan().any())]:
            raise ValueError(f"NaN among its {name}, at {nan[0]}")
    _check_history(state["history"], state["step"])


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _word(value: Any) -> bool:
    return type(value) is str


def _tensors(value: Any) -> bool:
    return type(value) is list and all(isinstance(x, Tensor) for x in value)


def _tensors_by_name(value: Any) -> bool:
    return type(value) is dict and _tensors(list(value.values())) and all(map(_word, value))


def _memory(value: Any) -> bool:
    """Whether it is the state of a callback: its class and what it remembers."""
    return type(value) is list and len(value) == 2 and _word(value[0]) and type(value[1]) is dict


def _position(value: Any) -> bool:
    """Whether it is the place of a source in its data."""
    if value is None:
        return True
    if type(value) is not dict or not {"epoch", "used", "whole", "inner", "random"} <= value.keys():
        return False
    if value["random"] is not None:
        with preserved_states():
            set_states(from_storable(value["random"]))
    return _count(value["epoch"]) and _count(value["used"]) and type(value["whole"]) is bool


def _check_history(history: Mapping[str, Any], step: int) -> None:
    columns, terms = history["columns"], history["terms"]
    if not all(_column(columns[name], kind) for name, kind in COLUMNS.items()):
        raise ValueError("a history of other columns")
    if type(terms) is not dict or not all(_column(x, "d") for x in terms.values()):
        raise ValueError("a history of other terms")
    together = [[columns[name] for name in names] for names in TOGETHER]
    together[0] += list(terms.values())
    if any(len({len(x) for x in some}) > 1 for some in together):
        raise ValueError("a history whose columns are not of one length")
    profile, ends = history["profile"], history["profile_step"]
    sums = isinstance(profile, np.ndarray) and profile.dtype == float and profile.ndim == 3
    if not sums or not _column(ends, "q") or profile.shape[:2] != (len(ends), 2):
        raise ValueError("a history with other losses by time")
    for steps in (*(some[0] for some in together), ends):
        if len(steps) and not (steps[0] >= 0 and steps[-1] <= step and (np.diff(steps) >= 0).all()):
            raise ValueError("a history of other steps")


def _column(value: Any, kind: str) -> bool:
    dtype = np.int64 if kind == "q" else np.float64
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == dtype


# ------------------------------------------------------------------------ held against the run


def check_memory(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Refuse the memory of an optimizer that this one could not have.

    Raises:
        ValueError: if it is of other parameters, or of other kinds of numbers.
    """
    own, groups, state = optimizer.param_groups, saved["param_groups"], saved["state"]
    if type(groups) is not list or [type(g) for g in groups] != [dict] * len(own):
        raise ValueError(f"another number of groups than {len(own)}")
    places = [place for group in groups for place in group["params"]]
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in own]:
        raise ValueError("other numbers of parameters in its groups")
    if places != list(range(len(places))) or type(state) is not dict:
        raise ValueError("other parameters")
    for group, mine in zip(groups, own, strict=True):
        for name, value in group.items():
            if not _word(name) or (name != "params" and not _alike(value, mine.get(name))):
                raise ValueError(f"{name} = {value!r}")
            if name in ("lr", "initial_lr") and not float(value) >= 0:
                raise ValueError(f"{name} = {value!r}")
    parameters = [p for group in own for p in group["params"]]
    usual = type(optimizer).__module__.split(".")[0] in ("torch", __name__.split(".")[0])
    known = {frozenset(memory) for memory in state.values()}
    if not state.keys() <= set(places) or len(known) > 1:
        raise ValueError("other things for one parameter than for another")
    for place, memory in state.items():
        p = parameters[place]
        if mine := optimizer.state.get(p):
            if mine.keys() != memory.keys():
                raise ValueError(f"other things for parameter {place}")
        for name, value in memory.items():
            if isinstance(value, Tensor):
                broad = value.numel() == 1 or _broadcasts(value.shape, p.shape)
                real = value.is_floating_point() or (p.is_complex() and value.is_complex())
                if bool(value.isnan().any()) or (usual and not (broad and real)):
                    raise ValueError(f"{name} of parameter {place}")
            elif usual and value is not None and not _finite(value):
                raise ValueError(f"{name} of parameter {place}")
            if name == "step" and not (_finite(value) and float(value) >= 0):
                raise ValueError(f"step of parameter {place}")


def _broadcasts(shape: Sequence[int], wide: Sequence[int]) -> bool:
    return len(shape) == len(wide) and all(n in (1, m) for n, m in zip(shape, wide, strict=True))


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and math.isfinite(value)
    return isinstance(value, numbers.Real) and math.isfinite(value)


def check_schedule(kind: type, own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse the state of a scheduler that is none of its kind.

    Args:
        kind: the class of the scheduler, none of whose methods a state replaces.
        own: the state of the one that takes it up.
        saved: the state.

    Raises:
        ValueError: if a number is something else.
    """
    for name in own.keys() - saved.keys() - {"_last_lr"}:  # which some have only after a step
        raise ValueError(f"no {name}")
    for name, value in saved.items():
        if callable(getattr(kind, name, None)) or not _alike(value, own.get(name)):
            raise ValueError(f"{name} = {value!r}")


def _alike(value: Any, own: Any) -> bool:
    """Whether a setting is of the kind of the one that is here, or of any where that is None."""
    if own is None or value is None or isinstance(own, bool) or isinstance(value, bool):
        return not isinstance(value, numbers.Real) or math.isfinite(value)
    if isinstance(own, str):
        return bool(type(value) is str and value == own)
    if isinstance(own, (numbers.Real, Tensor)):
        whole = type(own) is not int or type(value) is int
        unbounded = not isinstance(own, Tensor) and not math.isfinite(own)
        is_number = isinstance(value, (numbers.Real, Tensor))
        return is_number and whole and (_finite(value) or (unbounded and not math.isnan(value)))
    if isinstance(own, (list, tuple)):
        same = type(value) is type(own) and (len(value) == len(own) or not own)
        return same and all(_alike(a, b) for a, b in zip(value, own, strict=False))
    if isinstance(own, dict):
        return isinstance(value, dict) and all(
            _alike(item, own[key]) for key, item in value.items() if key in own
        )
    return True
