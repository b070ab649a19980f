"""Fields on disk: weights, process and transform, read without running code from the file.

A file holds tensors, numbers and strings only. Objects of the library are written as a class name
and constructor arguments, and rebuilt from the library's own classes. Objects of the user's own
(a network, an interpolant, a base) are named in the file and must be handed to the loader.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from typing import Any

import torch
from torch import Tensor

from .._core.registry import encode, library_class
from ..process import Process
from .base import Field
from .pair import FieldPair

__all__ = ["load_field", "save_field"]

_FORMAT = 1


def save_field(field: Field, path: str | os.PathLike[str]) -> None:
    """Write a field for inference; see :func:`load_field`. The file is replaced atomically."""
    heads = field.networks
    if not heads or library_class(type(field).__name__) is not type(field):
        raise ValueError(
            f"a {type(field).__name__} cannot be saved: files hold the fields of the library that"
            " have networks; save its parts, or use torch.save(field.state_dict(), path)"
        )
    content = {
        "format": _FORMAT,
        "library": "transportflows",
        "field": type(field).__name__,
        "outputs": list(field.outputs),
        "arguments": field.config(),
        "networks": [encode(net) for net in heads],
        "process": encode(field.process),
        "transform": encode(field.transform),
        "state": {name: value.detach().cpu() for name, value in field.state_dict().items()},
    }
    target = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(target))
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def load_field(
    path: str | os.PathLike[str],
    net: Any | tuple[Any, Any] | None = None,
    *,
    process: Process | None = None,
    device: torch.device | str = "cpu",
) -> Field:
    """Read a field written by ``field.save(path)``, in evaluation mode.

    Args:
        path: the file.
        net: the network, of the architecture that was saved; a pair for a FieldPair of two. May
            be left out where it is an :class:`MLP` of the library.
        process: the process, where it holds classes of your own.
        device: where to put the field.

    Raises:
        ValueError: if the file is not a field, is of a newer format, or does not fit ``net``
            (which entries differ).
    """
    content = _read(path)
    version = content["format"]
    if version > _FORMAT:
        raise ValueError(
            f"{os.fspath(path)} has format {version} and this version of transportflows reads up"
            f" to {_FORMAT}; upgrade transportflows"
        )
    saved = content["networks"]
    if net is None:
        nets = [_decode(spec, "network", "load_field(path, net=...)") for spec in saved]
    else:
        nets = list(net) if isinstance(net, (tuple, list)) else [net]
    if len(nets) != len(saved):
        raise ValueError(f"the file holds {len(saved)} networks, got {len(nets)}")
    if process is None:
        process = _decode(content["process"], "process", "load_field(path, process=...)")
    transform = _decode(content["transform"], "transform", "a transform of the library")
    outputs = tuple(content["outputs"])
    cls = library_class(content["field"])
    if not (isinstance(cls, type) and issubclass(cls, Field)):
        raise ValueError(
            f"the file holds a {content['field']}, which is no field of this library; build it and"
            " use field.load_state_dict(torch.load(path, weights_only=True)['state'])"
        )
    field: Field
    if issubclass(cls, FieldPair):
        shared = {"process": process, "transform": transform}
        if len(nets) == 1:
            field = cls(heads=nets[0], outputs=outputs, **shared)
        else:
            field = cls(**dict(zip(outputs, nets, strict=True)), **shared)
    else:
        field = cls(nets[0], process, transform=transform, **content.get("arguments", {}))
    _load_state(field, content["state"])
    return field.to(device).eval()


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    with open(path, "rb"):  # a file that is not there, or not ours to read, says so itself
        pass
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, OSError) as error:
        raise ValueError(
            f"{os.fspath(path)} is not a readable field file: it is damaged, or holds more than"
            " tensors, numbers and strings, which is refused because it could run code"
        ) from error
    if not (isinstance(content, dict) and content.get("library") == "transportflows"):
        raise ValueError(f"{os.fspath(path)} was not written by field.save")
    return content


def _load_state(field: Field, state: dict[str, Tensor]) -> None:
    own = field.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{k} {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} here"
        for k in own.keys() & state.keys()
        if own[k].shape != state[k].shape
    ]
    if missing or extra or shapes:
        raise ValueError(
            "the network is not of the architecture that was saved:"
            + (f" not in the file: {', '.join(missing[:5])};" if missing else "")
            + (f" only in the file: {', '.join(extra[:5])};" if extra else "")
            + (f" other shapes: {'; '.join(sorted(shapes)[:5])};" if shapes else "")
            + " build it with the arguments it was trained with"
        )
    for name, tensor in (*field.named_parameters(), *field.named_buffers()):
        if name in state:  # the file decides the dtype
            tensor.data = tensor.data.to(state[name].dtype)
    field.load_state_dict(state)


def _decode(value: Any, what: str, cure: str) -> Any:
    if isinstance(value, list):
        return [_decode(item, what, cure) for item in value]
    if not isinstance(value, dict):
        return value
    if "custom" in value:
        raise ValueError(
            f"the {what} of this file holds a {value['custom']}, which is not stored in files;"
            f" build it and give {cure}"
        )
    cls = library_class(value["class"])
    if cls is None:
        raise ValueError(f"the {what} of this file holds an unknown class {value['class']!r}")
    return cls(**{k: _decode(v, what, cure) for k, v in value["arguments"].items()})
