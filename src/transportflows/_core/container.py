r"""Files of tensors, numbers and strings: read without an unpickler, whole or not at all.

A file is a line that names the format and gives the lengths and SHA-256 sums of what follows; a
header in indented JSON, for people (``head -c 2000 file`` shows it); an index in JSON, which is the
tree of values with a number in the place of each tensor; and the bytes of the tensors. Nothing in
it is code, and nothing of it is used before its sum is checked, so a file that was cut short,
damaged or made by somebody else is refused.

A file is written beside its place, flushed to the disk and then moved there, so that a reader sees
the old file or the new one, whatever happens to the writer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

__all__ = ["FORMAT", "DamagedFileError", "check", "read", "read_header", "temporary_name", "write"]

FORMAT = 1
_LINE = re.compile(
    rb"transportflows container (\d{1,9}) header (\d{1,18}) ([0-9a-f]{64})"
    rb" index (\d{1,18}) ([0-9a-f]{64}) data (\d{1,18}) ([0-9a-f]{64})\n"
)
_LONGEST_LINE = 400
_ALIGNED = 64
_PLAIN = (str, int, float, bool)
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
}


class DamagedFileError(ValueError):
    """The file is not whole, or is not one of ours."""


# ------------------------------------------------------------------------------------- writing


def write(path: str | os.PathLike[str], header: Mapping[str, Any], tree: Any) -> None:
    """Write a tree of values atomically.

    Args:
        path: where to; a file that is there is replaced, or kept if writing fails.
        header: what a person should read first; JSON values.
        tree: dicts, lists and tuples of tensors, arrays, numbers, strings, bytes, None.

    Raises:
        TypeError: if the tree holds something else (it names the place).
        OSError: if the file cannot be written; nothing is left behind.
    """
    tensors: list[np.ndarray[Any, Any]] = []
    entries: list[dict[str, Any]] = []
    skeleton = _pack(tree, "", tensors, entries)
    head = json.dumps(header, indent=1, ensure_ascii=True).encode()
    index = json.dumps({"tree": skeleton, "tensors": entries}, separators=(",", ":")).encode()
    data = hashlib.sha256()
    for part in _padded(tensors):
        data.update(part)
    size = sum(entry["padded"] for entry in entries)
    line = (
        f"transportflows container {FORMAT}"
        f" header {len(head)} {hashlib.sha256(head).hexdigest()}"
        f" index {len(index)} {hashlib.sha256(index).hexdigest()}"
        f" data {size} {data.hexdigest()}\n"
    )
    target = Path(path)
    temporary = target.with_name(temporary_name(target.name))
    try:
        with open(temporary, "wb") as file:
            for part in (line.encode(), head, index, *_padded(tensors)):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def check(tree: Any, place: str = "") -> None:
    """Refuse a tree that a file cannot hold.

    Raises:
        TypeError: if there is one; it names the place.
    """
    _pack(tree, place, None, [])


def temporary_name(name: str) -> str:
    """The name under which this process writes the file ``name`` before it is moved there."""
    return f".{name}.{os.getpid()}.tmp"


def _sync_folder(folder: Path) -> None:
    """Have the new name of a file survive a power cut, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # not a system whose folders can be opened
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _padded(tensors: list[np.ndarray[Any, Any]]) -> Iterator[Any]:
    for tensor in tensors:
        yield tensor.data
        if rest := -tensor.nbytes % _ALIGNED:
            yield bytes(rest)


def _pack(
    value: Any,
    place: str,
    tensors: list[np.ndarray[Any, Any]] | None,
    entries: list[dict[str, Any]],
) -> Any:
    """As JSON, with tensors moved out to a list; without a list they are only looked at."""

    def inside(item: Any, name: Any) -> Any:
        return _pack(item, f"{place}.{name}" if place else str(name), tensors, entries)

    if value is None or type(value) in _PLAIN:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (Tensor, np.ndarray)):
        if tensors is None:
            return None
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        row = tensor.reshape(-1)
        if row.numel() < 2:  # which may have any stride
            row = torch.empty(row.numel(), dtype=row.dtype).copy_(row)
        flat = row.view(torch.uint8).numpy()
        entry = {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "padded": flat.nbytes + -flat.nbytes % _ALIGNED,
        }
        if isinstance(value, np.ndarray):
            entry["numpy"] = True
        tensors.append(flat)
        entries.append(entry)
        return {"$": "tensor", "at": len(entries) - 1}
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
    raise TypeError(
        f"{place or 'the value'} is a {type(value).__module__}.{type(value).__qualname__}, which a"
        " file without code cannot hold; it holds tensors, arrays, numbers, strings, bytes, and"
        " dicts, lists and tuples of them"
    )


# ------------------------------------------------------------------------------------- reading


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header of a file, checked against its sum; the rest is not looked at.

    Raises:
        DamagedFileError: if it is not whole, or not such a file.
        OSError: if it cannot be opened.
    """
    with open(path, "rb") as file:
        header, _, _ = _first_line(path, file)
        text: dict[str, Any] = _json(path, file, *header)
    return text


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Any]:
    """The header and the tree of a file, tensors on the CPU.

    Raises:
        DamagedFileError: if it is not whole, or not such a file.
        OSError: if it cannot be opened.
    """
    with open(path, "rb") as file:
        header, description, (size, digest) = _first_line(path, file)
        head = _json(path, file, *header)
        index = _json(path, file, *description)
        left = os.fstat(file.fileno()).st_size - file.tell()
        if left != size:
            raise _damaged(path, f"{size} bytes of tensors were written and {left} are there")
        data = bytearray(size)
        if file.readinto(data) != size or hashlib.sha256(data).hexdigest() != digest:
            raise _damaged(path, "its tensors are not those that were written")
    try:
        return head, _unpack(index["tree"], _tensors(index["tensors"], data))
    except (KeyError, TypeError, IndexError, ValueError, RuntimeError, RecursionError) as error:
        raise _damaged(path, f"its index makes no sense ({type(error).__name__})") from error


def _tensors(entries: list[dict[str, Any]], data: bytearray) -> list[Any]:
    """The tensors, on the memory of ``data``."""
    tensors: list[Any] = []
    offset = 0
    for entry in entries:
        dtype, shape = _DTYPES[entry["dtype"]], [int(n) for n in entry["shape"]]
        count = math.prod(shape)
        if count:
            tensor = torch.frombuffer(data, dtype=dtype, count=count, offset=offset).view(shape)
        else:
            tensor = torch.empty(shape, dtype=dtype)
        tensors.append(tensor.numpy() if entry.get("numpy") else tensor)
        offset += entry["padded"]
    return tensors


def _damaged(path: str | os.PathLike[str], why: str) -> DamagedFileError:
    return DamagedFileError(
        f"{os.fspath(path)} is damaged or was never whole: {why}. Nothing of it was used"
    )


def _first_line(path: str | os.PathLike[str], file: BinaryIO) -> list[tuple[int, str]]:
    """Lengths and sums of the header, the index and the tensors."""
    line = file.readline(_LONGEST_LINE)
    found = _LINE.fullmatch(line)
    if found is None:
        raise DamagedFileError(
            f"{os.fspath(path)} is not a file of transportflows, or its first line is damaged."
            " Nothing of it was used; other formats (pickles among them) are not read, because"
            " they could run code"
        )
    version, *rest = (part.decode() for part in found.groups())
    if int(version) > FORMAT:
        raise ValueError(
            f"{os.fspath(path)} has format {version} and this version of transportflows reads up"
            f" to {FORMAT}; upgrade transportflows"
        )
    if int(version) < FORMAT:
        raise _damaged(path, f"there never was a format {version}")
    return [(int(size), digest) for size, digest in zip(rest[::2], rest[1::2], strict=True)]


def _json(path: str | os.PathLike[str], file: BinaryIO, size: int, digest: str) -> Any:
    left = os.fstat(file.fileno()).st_size - file.tell()
    text = file.read(size) if size <= left else b""  # a damaged length must not ask for memory
    if len(text) != size or hashlib.sha256(text).hexdigest() != digest:
        raise _damaged(path, "its description is not the one that was written")
    return json.loads(text)


def _unpack(value: Any, tensors: list[Any]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("$")
    if kind is None:
        return {key: _unpack(item, tensors) for key, item in value.items()}
    if kind == "tensor":
        return tensors[value["at"]]
    if kind == "bytes":
        return base64.b64decode(value["of"])
    if kind == "tuple":
        return tuple(_unpack(item, tensors) for item in value["of"])
    pairs = {_unpack(key, tensors): _unpack(item, tensors) for key, item in value["of"]}
    return Counter(pairs) if kind == "counter" else pairs
