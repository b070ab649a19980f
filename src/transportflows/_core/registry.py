"""Objects of the library as names and constructor arguments: for files, and for people."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ..interpolants import Gamma

__all__ = ["encode", "library_class", "told"]


def encode(value: Any) -> Any:
    """A value as tensors, numbers, strings, lists and dicts; what is not the library's, by name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    name = type(value).__name__
    learned = isinstance(value, nn.Module) and any(True for _ in value.parameters(recurse=False))
    known = library_class(name) is type(value) and hasattr(value, "config")
    known = known and not (learned and isinstance(value, Gamma))
    if known:
        try:
            arguments = {k: encode(v) for k, v in value.config().items()}
        except NotImplementedError:
            known = False
    if not known:
        return {"custom": f"{type(value).__module__}.{type(value).__qualname__}"}
    return {"class": name, "arguments": arguments}


def told(value: Any) -> str:
    """An object for a person to read: ``Linear(gamma=Brownian(a=1.0))``."""
    return _told(encode(value))


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.numel() <= 4:
            return str(value.tolist())
        return f"<{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}>"
    if isinstance(value, list):
        return f"[{', '.join(_told(item) for item in value)}]"
    if not isinstance(value, dict):
        return repr(value)
    if "custom" in value:
        return str(value["custom"])
    given = ", ".join(f"{k}={_told(v)}" for k, v in value["arguments"].items())
    return f"{value['class']}({given})"


def library_class(name: str) -> type | None:
    """A public class of the library by its name."""
    import transportflows

    spaces = [getattr(transportflows, space) for space in transportflows.__all__]
    for namespace in (
        transportflows,
        *(space for space in spaces if isinstance(space, ModuleType)),
    ):
        cls = getattr(namespace, name, None)
        if isinstance(cls, type) and name in namespace.__all__:
            return cls
    return None
