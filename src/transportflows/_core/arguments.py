"""Bad input is refused here: what was given, why it cannot be, what to write instead.

Of single values: numbers, words, dtypes, devices, generators, functions. Each check returns the
value as it is used. What an annotation says is checked by :mod:`transportflows._core.signatures`;
ranges are asked for where a function begins.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "check_callable",
    "choice",
    "device_of",
    "dtype_of",
    "floating_dtype",
    "generator_of",
    "integer",
    "names",
    "number",
    "positive_integer",
    "positive_number",
    "shown",
]

_LONGEST = 60  # characters of a value in a message


def names(options: object) -> str:
    """Spell a collection of names for a message: ``'a', 'b', 'c'``."""
    return ", ".join(repr(option) for option in options)  # type: ignore[attr-defined]


def shown(value: Any) -> str:
    """A value in a message: itself where it is short, else its type; of a tensor, its kind."""
    if isinstance(value, (Tensor, np.ndarray)):
        if value.size == 1 if isinstance(value, np.ndarray) else _is_one_number(value):
            return f"{value.item()!r} ({type(value).__name__} of {value.dtype})"
        return f"a {type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    if type(value) not in (int, float, complex, str, bool, type(None), list, tuple, dict, range):
        return f"a {type(value).__name__}"
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 200 else "a huge int"
    return text if len(text) <= _LONGEST else f"a {type(value).__name__} of {len(value)}"


def _is_one_number(value: Tensor) -> bool:
    return value.ndim == 0 and value.device.type == "cpu" and not value.is_quantized


def _real(name: str, value: Any, what: str) -> float:
    """A real number as a float, NaN refused."""
    if isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) == 1 and value.ndim == 0:
        if isinstance(value, Tensor) and value.is_meta:
            raise TypeError(f"{name} must be {what}, got a tensor on meta, which holds no number")
        value = value.item()
    if isinstance(value, str):
        raise TypeError(f"{name} must be {what}, got {shown(value)}; write it without quotes")
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {what}, got {shown(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if math.isnan(found):
        raise ValueError(f"{name} must be {what}, got nan")
    return found


def number(
    name: str,
    value: Any,
    what: str = "a number",
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float | None = None,
    below: float | None = None,
    finite: bool = True,
) -> float:
    """The value as a float within bounds, which ``what`` says in words; NaN is never one.

    Args:
        name: of the argument.
        value: what was given: an int, a float, one of numpy's, a tensor ``()``.
        what: what is asked for, for the message.
        least: smallest that may be.
        most: largest that may be.
        above: an open lower bound.
        below: an open upper bound.
        finite: whether infinity is refused.

    Raises:
        TypeError: of another type; of text, a boolean or a complex number.
        ValueError: if it lies outside.
    """
    found = _real(name, value, what)
    if (
        not least <= found <= most
        or (finite and math.isinf(found))
        or (above is not None and found <= above)
        or (below is not None and found >= below)
    ):
        raise ValueError(f"{name} must be {what}, got {found:g}")
    return found


def positive_number(name: str, value: Any) -> float:
    """The value as a float; refuse what is not positive and finite."""
    return number(name, value, "positive and finite", above=0)


def integer(
    name: str, value: Any, what: str = "an integer", *, least: int | None = None,
    most: int | None = None,
) -> int:  # fmt: skip
    """The value as an integer within bounds, which ``what`` says in words.

    Raises:
        TypeError: of another type.
        ValueError: if it is not whole, or lies outside.
    """
    if type(value) is not int:
        found = _real(name, value, what)
        if not found.is_integer():
            raise ValueError(f"{name} must be {what}, got {shown(value)}")
        value = int(value) if not isinstance(value, Tensor) else int(found)
    if (least is not None and value < least) or not (value <= (_HUGE if most is None else most)):
        raise ValueError(f"{name} must be {what}, got {shown(value)}")
    return int(value)


_HUGE = 2**63 - 1  # the largest that a size or a count of torch can be


def positive_integer(name: str, value: Any) -> int:
    """A count: the value as an integer of at least 1, and of less than 2³⁶, which no memory has."""
    count = integer(name, value, "a positive integer", least=1)
    if count > _MOST:
        raise ValueError(f"{name} must be a positive integer that memory can hold, got {count:.3g}")
    return count


_MOST = 2**36


def choice(
    name: str, value: Any, options: Collection[str], known: Mapping[str, str] | None = None
) -> str:
    """One of some words; near ones are suggested, and those by which others call them.

    Args:
        name: of the argument.
        value: what was given.
        options: the words there are.
        known: words of other libraries, and what they are here.

    Raises:
        TypeError: if it is no text.
        ValueError: if it is none of them.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is one of {names(options)}, got {shown(value)}")
    if value in options:
        return value
    plain = value.lower().replace("-", "_").replace(" ", "_")
    found = (known or {}).get(plain) or (known or {}).get(plain.replace("_", ""))
    near = difflib.get_close_matches(plain, list(options), 1, 0.6)
    cure = f"; write {found or repr(near[0])}" if found or near else ""
    raise ValueError(f"unknown {name} {shown(value)}; known: {names(options)}{cure}")


def generator_of(name: str, value: Any) -> torch.Generator | None:
    """A generator of torch, or None."""
    if value is None or isinstance(value, torch.Generator):
        return value
    cure = "torch.Generator().manual_seed(0)"
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        cure = f"torch.Generator().manual_seed({int(value)})"
    raise TypeError(f"{name} must be a torch.Generator or None, got {shown(value)}; write {cure}")


_DTYPES = {
    "float": "float32", "double": "float64", "half": "float16", "single": "float32",
    "bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64",
}  # fmt: skip


def dtype_of(name: str, value: Any) -> torch.dtype:
    """A dtype of torch."""
    if isinstance(value, torch.dtype):
        return value
    text = value if isinstance(value, str) else getattr(value, "__name__", str(value))
    text = _DTYPES.get(text.removeprefix("torch."), text.removeprefix("torch."))
    known = isinstance(getattr(torch, text, None) if text.isidentifier() else None, torch.dtype)
    cure = f"torch.{text}" if known else "torch.float32"
    raise TypeError(f"{name} must be a torch.dtype, got {shown(value)}; write {cure}")


def floating_dtype(name: str, value: Any) -> torch.dtype:
    """A dtype of real floating-point numbers in which states can be held."""
    found = dtype_of(name, value)
    if not found.is_floating_point or found.itemsize < 2:
        raise ValueError(
            f"{name} must be a floating-point dtype, got {found}; write torch.float32 or"
            " torch.float64"
        )
    return found


def device_of(name: str, value: Any) -> torch.device:
    """A device that is here."""
    if not isinstance(value, (str, torch.device)):
        raise TypeError(f"{name} must be a device such as 'cpu' or 'cuda', got {shown(value)}")
    try:
        found = torch.device(value)
    except RuntimeError:
        near = "; write 'cuda'" if isinstance(value, str) and value.startswith("gpu") else ""
        raise ValueError(
            f"{name} must be a device such as 'cpu' or 'cuda:0', got {shown(value)}{near}"
        ) from None
    count = torch.cuda.device_count() if found.type == "cuda" else 1
    if found.type == "meta":
        raise ValueError(f"{name} is meta, which holds no numbers; write 'cpu'")
    if (found.index or 0) >= count:
        raise ValueError(f"{name} is {found}, and there are {count} such devices; write 'cpu'")
    return found


def check_callable(
    name: str, value: Any, arguments: Sequence[str] | None = None, keywords: Sequence[str] = ()
) -> None:
    """Refuse what cannot be called, or not with so many arguments (their names, for the message).

    What a function takes is read from its signature, where it has one.
    """
    like = f"{name} must be a function{'' if arguments is None else _of(arguments)}"
    if not callable(value):
        raise TypeError(f"{like}, got {shown(value)}")
    if _is_plain_module(value) and getattr(type(value), "forward", None) is torch.nn.Module.forward:
        raise TypeError(f"{like}, got {shown(value)}, which has no forward")
    if arguments is None:
        return
    try:
        takes = (_class_signature if isinstance(value, type) else _signature)(value)
    except (TypeError, ValueError):  # of a builtin
        return
    try:
        takes.bind(*arguments, **dict.fromkeys(keywords))
    except TypeError:
        raise TypeError(
            f"{like}, got {shown(value)}, which takes {takes}; write lambda"
            f" {', '.join((*arguments, *keywords))}: ..."
        ) from None


def _signature(value: Any) -> inspect.Signature:
    return inspect.signature(value.forward if _is_plain_module(value) else value)


_class_signature = functools.lru_cache(maxsize=64)(_signature)
"""That of a class, such as a default that is looked at in each call."""


def _of(arguments: Sequence[str]) -> str:
    return f" of ({', '.join(arguments)})"


def _is_plain_module(value: Any) -> bool:
    return isinstance(value, torch.nn.Module) and type(value).__call__ is torch.nn.Module.__call__
