r"""The one file format: tensors by name in the safetensors layout, with sums, read without code.

A file is 8 bytes with the length of a JSON text, that text, and the bytes of the tensors one after
another, as the safetensors format has it, so that every reader of that format opens it. The text
names each tensor with its dtype, shape and place, and under ``__metadata__`` holds strings:

- ``transportflows``: the number of this format;
- ``sha256``: the sum of all bytes before the tensors, with zeros in the place of these 64 digits;
- ``data_sha256``: the sum of the bytes of the tensors;
- ``header``: JSON for people, what the file is and of what;
- ``tree``: JSON of the values, with a name in the place of each tensor.

Both sums are checked before anything is used, so no bit of a file can change unnoticed; nothing in
it is code. Whoever makes a file can make its sums right, so all that it says of sizes is held
against what is there before anything is built, and a text that would grow far beyond the file where
it is read is refused (:data:`_MOST`). Tensors that share memory are written one by one.

The layout is written and read here and not by the library ``safetensors``, whose writer refuses
tensors that share memory, whose dtypes depend on its version, and which copies all that it writes
and reads. Here tensors go to the file from where they lie.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from typing import Any

import torch
from torch import Tensor

from . import files
from .values import NAMES, pack, unpack

__all__ = [
    "FORMAT",
    "DamagedFileError",
    "NewerFileError",
    "check",
    "read",
    "read_header",
    "write",
]

FORMAT = 1
_START = re.compile(
    rb'\{"__metadata__":\{"transportflows":"(\d{1,9})","sha256":"([0-9a-f]{64})","data_sha256"'
)
_OLD = b"transportflows container "
_ALIGNED = 64
_DTYPES = {name: dtype for dtype, name in NAMES.items()}
_DIMENSIONS = 64
_OBJECTS = {b"{": 250, b"[": 80}  # bytes that the objects of a text take beside what is in them
_MOST = 2, 2**25  # that they may take in all: so many times the file, and so many bytes
_HOLES = 10, 2**26  # a file with holes is read up to so many times what the disk holds of it


class DamagedFileError(ValueError):
    """A file is not whole, is not one of ours, or holds what cannot be; nothing of it was used."""


class NewerFileError(DamagedFileError):
    """A file is whole, and of a newer version of this library."""


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
    found: dict[str, Tensor] = {}
    packed = pack(tree, "", found)
    # The widest numbers first, so that each tensor is aligned to its own.
    tensors = sorted(found.items(), key=lambda item: -item[1].element_size())
    entries, data, end = {}, hashlib.sha256(), 0
    for name, tensor in tensors:
        begin, end = end, end + tensor.nbytes
        dtype, shape = NAMES[tensor.dtype], list(tensor.shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        data.update(_bytes(tensor))
    metadata = {
        "transportflows": str(FORMAT),
        "sha256": "0" * 64,
        "data_sha256": data.hexdigest(),
        "header": json.dumps(header, indent=1),
        "tree": json.dumps(packed, separators=(",", ":")),
    }
    text = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    if _objects(text) > _MOST[0] * (len(text) + end) + _MOST[1]:
        raise TypeError(
            "the value has too many small lists and dicts for a file without code; hold their"
            " numbers in arrays"
        )
    with files.replacing(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        begin, end = _START.match(text).span(2)  # type: ignore[union-attr]
        file.write(text[:begin] + _sum(text, begin, end).encode() + text[end:])
        for _, tensor in tensors:
            file.write(_bytes(tensor))


def check(tree: Any, place: str = "") -> None:
    """Refuse a tree that a file cannot hold.

    Raises:
        TypeError: if there is one; it names the place.
    """
    pack(tree, place, None)


def _sum(text: bytes, begin: int, end: int) -> str:
    """The sum of all before the tensors, with zeros in the place of its own digits."""
    digest = hashlib.sha256(len(text).to_bytes(8, "little"))
    for part in (memoryview(text)[:begin], b"0" * (end - begin), memoryview(text)[end:]):
        digest.update(part)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    row = tensor.reshape(-1)
    if row.numel() < 2:  # which may have any stride
        row = torch.empty(row.numel(), dtype=row.dtype).copy_(row)
    return row.view(torch.uint8).numpy().data


# ------------------------------------------------------------------------------------- reading


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header of a file, checked against its sum; the bytes of tensors are not looked at.

    Raises:
        DamagedFileError: if it is not whole, or not such a file.
        OSError: if it cannot be opened.
    """
    with _opened(path) as file:
        return _top(path, file)[0]


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Any]:
    """The header and the tree of a file, tensors on the CPU.

    Raises:
        DamagedFileError: if it is not whole, or not such a file.
        OSError: if it cannot be opened.
    """
    with _opened(path) as file:
        header, tree, digest, entries = _top(path, file)
        size = sum(_size(entry) for entry in entries.values())
        left = os.fstat(file.fileno()).st_size - file.tell()
        if left != size:
            raise _damaged(path, f"{size} bytes of tensors were written and {left} are there")
        data = bytearray(size)
        if file.readinto(data) != size or hashlib.sha256(data).hexdigest() != digest:
            raise _damaged(path, "its tensors are not those that were written")
    try:
        tensors = _tensors(entries, data)
        values = unpack(_parsed(tree), tensors)
    except Exception as error:
        raise _damaged(path, f"its tree makes no sense ({type(error).__name__})") from error
    if tensors:
        raise _damaged(path, f"its tree has no place for {sorted(tensors)[:5]}")
    return header, values


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[BufferedReader]:
    """A file to read from, which is one, and of whose bytes the disk holds most."""
    other = files.no_file(path)
    if other is not None:
        raise _damaged(path, f"it is {other} and no file")
    with files.regular(path) as file:
        try:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _damaged(path, "it is no file")
            times, spare = _HOLES
            if files.has_holes(file) and found.st_size > times * 512 * found.st_blocks + spare:
                raise _damaged(path, f"it has holes in {found.st_size} bytes")
            yield file
        except (OSError, MemoryError) as error:  # a bad sector, or a file larger than the memory
            raise _damaged(path, f"it cannot be read ({error})") from error


def _top(
    path: str | os.PathLike[str], file: BufferedReader
) -> tuple[dict[str, Any], str, str, dict[str, dict[str, Any]]]:
    """Header, text of the tree, sum of the tensors, and what they are; the file stands at them."""
    start = file.read(512)
    found = _START.match(start, 8)
    if found is None:
        what = "is not a file of transportflows, or its beginning is damaged"
        if start.startswith(_OLD):
            what = (
                "is a file of a development version of transportflows, which is not read any more"
            )
        raise DamagedFileError(
            f"{os.fspath(path)} {what}. Nothing of it was used; other formats (pickles among them)"
            " are not read, because they could run code"
        )
    length = int.from_bytes(start[:8], "little")
    file.seek(8)
    size = os.fstat(file.fileno()).st_size
    text = file.read(length) if length <= size - 8 else b""  # it must ask for no memory
    begin, end = (place - 8 for place in found.span(2))
    if len(text) != length or _sum(text, begin, end) != found[2].decode():
        raise _damaged(path, "its description is not the one that was written")
    if int(found[1]) > FORMAT:
        raise NewerFileError(
            f"{os.fspath(path)} has format {int(found[1])} and this version of transportflows reads"
            f" up to {FORMAT}; upgrade transportflows"
        )
    try:
        if _objects(text) > _MOST[0] * size + _MOST[1]:
            raise MemoryError
        entries = _parsed(text.decode("ascii"))
        metadata = entries.pop("__metadata__")
        header, tree, digest = (metadata[key] for key in ("header", "tree", "data_sha256"))
        header, sizes = _parsed(header), [_size(entry) for entry in entries.values()]
        if int(found[1]) < FORMAT or not isinstance(header, dict) or sum(sizes) > size:
            raise ValueError
    except Exception as error:
        raise _damaged(path, f"its description makes no sense ({type(error).__name__})") from error
    return header, tree, digest, entries


def _objects(text: bytes) -> int:
    """Bytes that lists and dicts of a text take when it is read, beside what is in them."""
    return sum(size * text.count(bracket) for bracket, size in _OBJECTS.items())


def _parsed(text: str) -> Any:
    """JSON in ASCII, in which no key comes twice."""
    return json.loads(text.encode("ascii"), object_pairs_hook=_distinct)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _size(entry: dict[str, Any]) -> int:
    """Bytes of a tensor by its description.

    Raises:
        ValueError: if it is not one.
    """
    dtype, shape, place = (entry[key] for key in ("dtype", "shape", "data_offsets"))
    numbers = all(type(n) is int and 0 <= n < 2**63 for n in (*shape, *place))
    if len(entry) > 3 or len(shape) > _DIMENSIONS or not numbers:
        raise ValueError(entry)
    count: int = math.prod(shape)
    return count * _DTYPES[dtype].itemsize


def _tensors(entries: dict[str, dict[str, Any]], data: bytearray) -> dict[str, Tensor]:
    """The tensors, on the memory of ``data``; they lie one after another, without gaps."""
    tensors, end = {}, 0
    for name, entry in entries.items():
        begin, end = end, end + _size(entry)
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        if entry["data_offsets"] != [begin, end] or begin % dtype.itemsize:
            raise ValueError(name)
        if begin == end:
            tensors[name] = torch.empty(shape, dtype=dtype)
            continue
        raw = torch.frombuffer(data, dtype=torch.uint8, count=end - begin, offset=begin)
        if dtype is torch.bool and int(raw.max()) > 1:
            raise ValueError(name)
        tensors[name] = raw.view(dtype).view(shape)
    return tensors


def _damaged(path: str | os.PathLike[str], why: str) -> DamagedFileError:
    return DamagedFileError(
        f"{os.fspath(path)} is damaged or was never whole: {why}. Nothing of it was used"
    )
