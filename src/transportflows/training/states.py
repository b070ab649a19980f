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
import torch
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


def check_memory(optimizer: Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse the memory of an optimizer that this one could not have.

    Returns:
        It, with numbers as settings (which a schedule may have moved), and the flags that are here.

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
    checked = []
    for group, mine in zip(groups, own, strict=True):
        told = {k: v for k, v in mine.items() if k != "params" and k in group and _moves(v)}
        for name, value in told.items():
            if not _alike(group[name], value):
                raise ValueError(f"{name} = {group[name]!r}")
        numbers_ = {name: group[name] for name in told}
        if not float(numbers_.get("lr", 0)) >= 0:
            raise ValueError(f"lr = {numbers_['lr']!r}")
        checked.append({**mine, **numbers_, "params": group["params"]})
    if not state.keys() <= set(places) or not all(type(m) is dict for m in state.values()):
        raise ValueError("the memory of other parameters")
    if type(optimizer).__module__.split(".")[0] in ("torch", __name__.split(".")[0]):
        _check_usual([p for group in own for p in group["params"]], state)
    return {"state": state, "param_groups": checked}


def _moves(value: Any) -> bool:
    """Whether a setting is a number, or some, that a schedule may move."""
    if isinstance(value, (tuple, list)):
        return all(map(_moves, value))
    return isinstance(value, (numbers.Real, Tensor)) and not isinstance(value, bool)


def _check_usual(parameters: Sequence[Tensor], state: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuse what no optimizer of torch remembers: for all parameters they remember the same."""
    forms: dict[tuple[bool, str], set[str]] = {}
    named: dict[bool, set[frozenset[str]]] = {}
    for place, memory in state.items():
        p = parameters[place]
        named.setdefault(p.ndim > 1, set()).add(frozenset(memory))
        for name, value in memory.items():
            form = _form(value, p, name)
            if form is None:
                raise ValueError(f"no proper {name} of parameter {place}")
            if p.numel() > 1:
                forms.setdefault((p.ndim > 1, name), set()).add(form)
    if any(len(s) > 1 for s in named.values()) or any(len(s) > 1 for s in forms.values()):
        raise ValueError("other things for one parameter than for another")


def _form(value: Any, p: Tensor, name: str) -> str | None:
    """What is remembered of a parameter, in a word; None where it cannot be."""
    if value is None:
        return "none"
    if name == "step":
        return "number" if _finite(value) and float(value) >= 0 else None
    if not isinstance(value, Tensor):
        return "number" if _finite(value) else None
    square = any(word in name for word in ("sq", "var", "sum"))
    if value.dtype not in _FLOATS and value.dtype != p.dtype:
        return None
    if bool(value.isnan().any()) or (square and not bool((value >= 0).all())):
        return None
    if value.shape == p.shape:
        return "whole"
    broad = len(value.shape) == p.ndim and all(
        n in (1, m) for n, m in zip(value.shape, p.shape, strict=True)
    )
    return "broad" if broad else "number" if value.numel() == 1 else None


_LARGE = 1e38  # beyond it float32 has no numbers
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and value.dtype in _FLOATS and math.isfinite(value)
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and abs(value) < _LARGE  # type: ignore[operator]


def check_schedule(kind: type, own: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse the state of a scheduler that is none of its kind.

    Args:
        kind: the class of the scheduler, none of whose methods a state replaces.
        own: the state of the one that takes it up.
        saved: the state.

    Returns:
        What the scheduler knows of it.

    Raises:
        ValueError: if a number is something else.
    """
    told = {k for k, v in own.items() if not isinstance(v, bool) and k != "verbose"}  # no flags
    for name in sorted(told - {"_last_lr"}):  # which some have only after a step
        if name not in saved or not _alike(saved[name], own[name]):
            raise ValueError(f"{name} = {saved[name]!r}" if name in saved else f"no {name}")
    if "_last_lr" in saved:
        rates = saved["_last_lr"]
        if type(rates) is not list or not rates or not _alike(rates, [0.0] * len(rates)):
            raise ValueError(f"_last_lr = {rates!r}")
        told = told | {"_last_lr"}
    known = told & saved.keys()
    return {name: saved[name] for name in known if not callable(getattr(kind, name, None))}


def _alike(value: Any, own: Any) -> bool:
    """Whether a setting is of the kind of the one that is here."""
    if own is None or isinstance(own, bool):
        return value is None or isinstance(value, (bool, str)) or _finite(value)
    if isinstance(own, str):
        return bool(type(value) is str and value == own)
    if isinstance(own, Tensor):
        return isinstance(value, Tensor) and value.shape == own.shape and _finite(value)
    if isinstance(own, (int, float)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        counted = not isinstance(own, int) or (type(value) is int and value >= min(own, 0))
        unbounded = not abs(own) < _LARGE and not math.isnan(value)
        return counted and (abs(value) < _LARGE or unbounded)
    if isinstance(own, (list, tuple)):
        same = type(value) is type(own) and (len(value) == len(own) or not own)
        return same and all(_alike(a, b) for a, b in zip(value, own, strict=False))
    if isinstance(own, dict):
        named = all(map(_word, own))
        return isinstance(value, dict) and (
            value.keys() == own.keys() and all(_alike(value[k], own[k]) for k in own)
            if named and own
            else all(_finite(x) for pair in value.items() for x in pair)
        )
    return type(value) is type(own)
