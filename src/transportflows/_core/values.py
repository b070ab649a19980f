"""Values as JSON and tensors: what a file without code can hold, and back.

JSON has numbers, strings, lists and dicts with strings as keys. The rest is a dict with a key
``$``: a tensor (its name; a complex one is stored as pairs of real numbers, an array is marked as
one), bytes, a tuple, a dict with other keys, a counter. Integers are exact, and so are floats,
infinities and NaN among them.
"""

from __future__ import annotations

import base64
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["NAMES", "pack", "unpack"]

_PLAIN = (str, int, float, bool)
NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
}
"""What safetensors calls the dtypes."""


def pack(value: Any, place: str, found: dict[str, Tensor] | None) -> Any:
    """A value as JSON, with its tensors moved out to ``found``.

    Args:
        value: dicts, lists and tuples of tensors, arrays, numbers, strings, bytes, None.
        place: the names on the way to it; tensors are named by it.
        found: where tensors go, dense and on the CPU; None to only look at them.

    Raises:
        TypeError: if there is something else; it names the place.
    """

    def inside(item: Any, name: Any) -> Any:
        return pack(item, f"{place}.{name}" if place else str(name), found)

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, (Tensor, np.ndarray)) and (tensor := _storable(value)) is not None:
        if found is None:
            return None
        name = place or "tensor"
        while name in found or name == "__metadata__":
            name += "~"
        found[name] = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).contiguous()
        marks = {"numpy": isinstance(value, np.ndarray), "complex": tensor.is_complex()}
        return {"$": "tensor", "name": name, **{k: True for k, given in marks.items() if given}}
    if isinstance(value, bytes):
        return {"$": "bytes", "of": base64.b64encode(value).decode()}
    if type(value) is list:
        return [inside(item, k) for k, item in enumerate(value)]
    if type(value) is tuple:
        return {"$": "tuple", "of": [inside(item, k) for k, item in enumerate(value)]}
    if type(value) in (dict, OrderedDict, Counter):
        if type(value) is not Counter and all(type(k) is str and k != "$" for k in value):
            return {key: inside(item, key) for key, item in value.items()}
        pairs = [[inside(key, "key"), inside(item, key)] for key, item in value.items()]
        return {"$": "counter" if type(value) is Counter else "dict", "of": pairs}
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, (Tensor, np.ndarray)):
        kind = f"{kind} of {value.dtype}{', sparse' if getattr(value, 'is_sparse', False) else ''}"
    raise TypeError(
        f"{place or 'the value'} is a {kind}, which a file without code cannot hold; it holds dense"
        " tensors, arrays, numbers, strings, bytes, and dicts, lists and tuples of them"
    )


def _storable(value: Tensor | np.ndarray[Any, Any]) -> Tensor | None:
    """As a plain tensor on the CPU, if the layout can hold it."""
    if isinstance(value, np.ndarray):
        try:
            value = torch.from_numpy(np.array(value, order="C"))
        except (TypeError, ValueError):  # of objects, strings, or in another order of bytes
            return None
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return None
    real = value.dtype.to_real() if value.is_complex() else value.dtype
    return value.detach().cpu().resolve_conj().resolve_neg() if real in NAMES else None


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What was packed; lists and dicts are changed in place, so that there are none twice.

    Each tensor has one place, and is taken out of ``tensors``.

    Raises:
        ValueError: if a key comes twice; anything, for what was never packed.
    """
    if isinstance(value, list):
        for k, item in enumerate(value):
            if isinstance(item, (list, dict)):
                value[k] = unpack(item, tensors)
        return value
    if not isinstance(value, dict):
        return value
    kind = value.get("$")
    if kind is None:
        for key, item in value.items():
            if isinstance(item, (list, dict)):
                value[key] = unpack(item, tensors)
        return value
    if kind == "tensor":
        tensor = tensors.pop(value["name"])
        tensor = torch.view_as_complex(tensor) if value.get("complex") else tensor
        return tensor.numpy() if value.get("numpy") else tensor
    if kind == "bytes":
        return base64.b64decode(value["of"], validate=True)
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in value["of"])
    pairs = {unpack(key, tensors): unpack(item, tensors) for key, item in value["of"]}
    if len(pairs) < len(value["of"]):
        raise ValueError("a key comes twice")
    return {"counter": Counter, "dict": dict}[kind](pairs)
