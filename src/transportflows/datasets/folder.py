"""Images of a folder: found, decoded, cropped and made small, with labels from folders or a table.

They are decoded once, by Pillow (the ``images`` extra brings it), and kept as bytes: 200,000 images
of 64 x 64 in colour take 2.5 GB.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core.checks import choice, integer, positive_integer
from .._core.signatures import checked
from .images import Images, stacked
from .tables import labels_of_folders, labels_of_table

__all__ = ["image_folder"]

_ENDINGS = {".jpg", ".jpeg", ".png"}
_COLOURS = {"RGB": 3, "L": 1}
_PLAIN = {"1": "L", "L": "L", "RGB": "RGB"}  # modes that lose nothing


@checked
def image_folder(
    path: str | os.PathLike[str],
    *,
    size: int | Sequence[int] | None = None,
    crop: int | Sequence[int] | None = None,
    colour: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    column: str | None = None,
    numbers: bool | None = None,
    flip: bool = False,
    limit: int | None = None,
    skip_broken: bool = False,
    workers: int = 0,
) -> Images:
    """Read the JPEG and PNG files of a folder and those below it, in the order of their names.

    Files and folders whose names begin with a dot are left out.

    CelebA, as it is unpacked: ``image_folder("celeba", crop=178, size=64)``, and with a label
    ``labels="celeba/list_attr_celeba.txt", column="Smiling"``.

    Args:
        path: the folder.
        size: to which images are made small or large, ``(height, width)`` or one number for both,
            by bicubic interpolation that averages over what falls together. What is cut off first,
            evenly at both sides, is what another shape has too much. None keeps sizes, which must
            then be the same.
        crop: what is cut out of the middle before that, in pixels; 178 is usual for CelebA.
        colour: ``"RGB"`` or ``"L"`` (grey): what all are made. None keeps what they are, which must
            then be the same, without transparency or palettes.
        labels: ``"folders"``, the names of the folders in ``path``; or the path of a table, a CSV
            with a first line of names and a first column of file names, or the text files of
            CelebA. Classes are numbered in the order of their names, or values.
        column: of the table, with the labels; its second if None.
        numbers: whether the column is kept as float32 numbers, ``Images.values``, the condition
            ``"value"``, or made classes, ``Images.labels``, the condition ``"label"``. None takes a
            column of numbers of which one is not whole for numbers, and all others for classes.
        flip: mirror every other image, by chance, whenever it is taken.
        limit: read the first so many files alone.
        skip_broken: leave out files that cannot be decoded, and tell them in ``Images.skipped``.
        workers: threads that decode beside this one; 0 for none.

    Returns:
        The images, in memory, as bytes.

    Raises:
        ImportError: if Pillow is not installed.
        OSError: if there is no such folder or table.
        ValueError: if there are no images in it; for broken files, all of them named; for files of
            several sizes or modes, unless ``size`` and ``colour`` make them alike; for files that
            are smaller than ``crop``, have no label, or two.

    Example:
        >>> import tempfile, PIL.Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     PIL.Image.new("L", (4, 2), 255).save(f"{folder}/white.png")
        ...     found = image_folder(folder, size=2)
        >>> found.pixels.tolist(), found.files
        ([[[[255, 255], [255, 255]]]], ('white.png',))
    """
    root = Path(path)
    if colour is not None:
        choice("colour", colour, _COLOURS, {"grey": "'L'", "gray": "'L'", "color": "'RGB'"})
    integer("workers", workers, "a number of threads, 0 or more", least=0)
    if numbers and (labels is None or str(labels) == "folders"):
        raise ValueError(
            "numbers=True is of a table: give its path, labels='table.csv', or leave numbers out"
        )
    target, cut = _pair("size", size), _pair("crop", crop)
    pillow = _pillow()
    files = _found(root, None if limit is None else positive_integer("limit", limit))

    def read(file: Path) -> Tensor | str:
        try:
            return _decoded(pillow, file, cut, target, colour)
        except _BrokenError as error:
            return str(error)

    if workers:
        with ThreadPoolExecutor(workers) as pool:
            decoded = list(pool.map(read, files))
    else:
        decoded = [read(file) for file in files]
    names, images, skipped = _sorted_out(root, files, decoded, skip_broken)
    del decoded  # which holds them too
    _check_alike(images, names)
    found: Tensor | None = None
    classes: tuple[str, ...] = ()
    if labels is not None and str(labels) == "folders":
        found, classes = labels_of_folders(names)
    elif labels is not None:
        found, classes = labels_of_table(Path(labels), column, names, numbers)
    whole = found is None or not found.is_floating_point()
    return Images(
        stacked(images),
        found if whole else None,
        values=None if whole else found,
        classes=classes,
        files=tuple(names),
        skipped=tuple(skipped),
        flip=flip,
    )


class _BrokenError(Exception):
    """A file that cannot be decoded, and why."""


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "images are decoded by Pillow, which is not installed; write pip install"
            " 'transportflows[images]'"
        ) from error
    return Image, ImageOps


def _pair(name: str, value: int | Sequence[int] | None) -> tuple[int, int] | None:
    """``(height, width)``, of one number or two."""
    if value is None:
        return None
    sides = [value, value] if isinstance(value, int) else list(value)
    if len(sides) != 2:
        raise ValueError(f"{name} is one number, or (height, width), got {value}")
    height, width = (positive_integer(name, side) for side in sides)
    return height, width


def _found(root: Path, limit: int | None) -> list[Path]:
    """The files with an ending of images, sorted."""
    if not root.exists():
        raise FileNotFoundError(f"there is no folder {root}; give the path of one with images")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; give the folder that it is in")
    seen = [file for file in root.rglob("*") if not _is_hidden(file.relative_to(root))]
    found = (file for file in seen if file.suffix.lower() in _ENDINGS)
    files = sorted(file for file in found if not _is_folder(file))
    if not files:
        others = sorted({file.suffix for file in seen if file.is_file()})
        told = f"; it has files that end in {', '.join(others[:5])}" if others else "; it is empty"
        raise ValueError(f"the folder {root} has no files .jpg, .jpeg or .png{told}")
    return files[:limit]


def _decoded(
    pillow: Any,
    file: Path,
    crop: tuple[int, int] | None,
    size: tuple[int, int] | None,
    colour: str | None,
) -> Tensor:
    """One image, uint8 ``(C, H, W)``."""
    images, ops = pillow
    try:
        with images.open(file) as opened:
            image = ops.exif_transpose(opened)  # upright, as the camera says
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, images.DecompressionBombError) as error:
        raise _BrokenError(_why(file, error)) from error
    mode = _PLAIN.get(image.mode)
    if mode is None and (colour is None or image.mode.startswith(("I", "F"))):
        cure = (
            "make it one of 8 bits"
            if image.mode.startswith(("I", "F"))
            else "write colour='RGB' or colour='L', which leaves transparency out"
        )
        raise ValueError(f"{file} has the mode {image.mode} of Pillow; {cure}")
    image = image.convert(colour or mode)
    if crop is not None:
        if image.height < crop[0] or image.width < crop[1]:
            raise ValueError(
                f"{file} is {image.height} x {image.width}, less than crop={crop[0]} x {crop[1]};"
                " take a smaller crop, or none"
            )
        image = _middle(image, *crop)
    if size is not None:
        ratio = min(image.height / size[0], image.width / size[1])
        image = _middle(image, round(ratio * size[0]), round(ratio * size[1]))
        if (image.height, image.width) != size:
            image = image.resize(size[::-1], images.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _is_hidden(file: Path) -> bool:
    """Whether a name on the way to a file begins with a dot: what other programs keep there."""
    return any(part.startswith(".") for part in file.parts)


def _is_folder(file: Path) -> bool:
    try:
        return file.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def _why(file: Path, error: Exception) -> str:
    """What is wrong with a file that was not decoded."""
    try:
        if file.stat().st_size == 0:
            return "it is empty"
    except OSError:
        if file.is_symlink():
            return f"it is a link to {os.readlink(file)}, which is not there"
    return str(error) or type(error).__name__


def _middle(image: Any, height: int, width: int) -> Any:
    """What is in the middle of an image; of an odd rest the smaller part is above and left."""
    height, width = max(height, 1), max(width, 1)
    if (height, width) == (image.height, image.width):
        return image
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))


def _sorted_out(
    root: Path, files: Sequence[Path], decoded: Iterable[Tensor | str], skip: bool
) -> tuple[list[str], list[Tensor], list[str]]:
    """Names of files, their images, and the broken ones with what is wrong with them."""
    kept, images, broken = [], list[Tensor](), []
    for file, image in zip(files, decoded, strict=True):
        name = file.relative_to(root).as_posix()
        if isinstance(image, Tensor):
            kept.append(name)
            images.append(image)
        else:
            broken.append(f"{name}: {image}")
    if broken and not skip:
        more = f"\n  and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise ValueError(
            f"{len(broken)} of {len(files)} files in {root} cannot be decoded; mend or remove them,"
            " or write skip_broken=True:\n  " + "\n  ".join(broken[:10]) + more
        )
    if not kept:
        raise ValueError(f"all {len(files)} files in {root} are broken, the first: {broken[0]}")
    return kept, images, broken


def _check_alike(images: Sequence[Tensor], names: Sequence[str]) -> None:
    """Refuse images of several shapes."""
    first = images[0].shape
    for image, name in zip(images, names, strict=True):
        if image.shape == first:
            continue
        if image.shape[0] != first[0]:
            kinds = {1: "grey", 3: "in colour"}
            raise ValueError(
                f"{names[0]} is {kinds[first[0]]} and {name} is {kinds[image.shape[0]]}; write"
                " colour='RGB' or colour='L'"
            )
        raise ValueError(
            f"{names[0]} is {first[1]} x {first[2]} and {name} is {image.shape[1]} x"
            f" {image.shape[2]}; write size=(height, width), to which all are made"
        )
