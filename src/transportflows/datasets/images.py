r"""Images in memory as bytes, a quarter of float32, and made numbers where they are used.

A byte v in 0 .. 255 stands for the number :math:`v/127.5 - 1`, so that black is -1 and white is 1;
they are 2/255 apart, the ``level_width`` of
:func:`transportflows.likelihood.dequantise`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_tensor
from .._core.checks import check_finite_rows, positive_integer, shown
from .._core.random import local
from .._core.reprs import summary
from .._core.signatures import checked
from .._core.tensor import state_dtype
from ..draws import Batch

__all__ = ["ImageLoader", "Images", "to_bytes", "to_floats"]


@checked
def to_floats(pixels: DataLike, dtype: torch.dtype | None = None) -> Tensor:
    """``v/127.5 - 1`` of bytes of any shape, on their device.

    Args:
        pixels: uint8.
        dtype: of the result; torch's default one if None.

    Raises:
        TypeError: if they are no bytes.

    Example:
        >>> to_floats(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([-1.0000, -0.6000,  1.0000])
    """
    return _bytes(as_tensor("pixels", pixels)).to(state_dtype(dtype)).mul_(1 / 127.5).sub_(1.0)


@checked
def to_bytes(x: Tensor) -> Tensor:
    """``127.5 (x + 1)``, rounded, of numbers in [-1, 1]; what lies outside is black or white.

    Args:
        x: floating-point numbers of any shape.

    Returns:
        uint8, of the shape of x.

    Raises:
        TypeError: if they are no floating-point numbers.

    Example:
        >>> to_bytes(torch.tensor([-1.0, 0.1, 1.0, 7.0]))
        tensor([  0, 140, 255, 255], dtype=torch.uint8)
    """
    if not x.is_floating_point():
        raise TypeError(f"x holds floating-point numbers, got {x.dtype}; write to_floats(x) first")
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@checked
@dataclass(frozen=True, eq=False)
class Images:
    """N images as bytes, with labels where there are any: a dataset for ``Trainer.fit``.

    ``images[i]`` is ``{"x1": image}`` with an image ``(C, H, W)`` in [-1, 1], and ``"label"`` or
    ``"value"`` where there are any, so that ``fit(images, steps=..., workers=2)`` takes it as it
    is. With :meth:`loader` bytes are sent to the device, and made numbers there.

    Attributes:
        pixels: uint8, ``(N, C, H, W)``.
        labels: int64, ``(N,)``, the condition ``"label"``; None for none.
        values: floating-point numbers, ``(N,)``, the condition ``"value"``; None for none.
        classes: names of the classes 0, 1, ...
        files: where each image is from.
        skipped: broken files that were left out, with what is wrong with them.
        flip: mirror every other image, by chance, whenever it is taken.

    Raises:
        TypeError: if the pixels are no bytes.
        ValueError: if pixels are not ``(N, C, H, W)``, or labels or values not one an image, or out
            of range.

    Example:
        >>> black, white = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> images = Images(torch.stack([black, white]), labels=torch.tensor([0, 1]))
        >>> images[1]
        {'x1': tensor([[[1.]]]), 'label': tensor(1)}
    """

    pixels: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    flip: bool = False
    values: Tensor | None = None

    def __post_init__(self) -> None:
        _bytes(self.pixels)
        if self.pixels.ndim != 4 or self.pixels.numel() == 0:
            raise ValueError(
                f"pixels are (N, C, H, W), got {tuple(self.pixels.shape)}; write"
                " pixels.unsqueeze(1) for grey images (N, H, W)"
            )
        if self.values is not None:
            if self.values.shape != self.pixels.shape[:1] or not self.values.is_floating_point():
                raise ValueError(
                    f"values are floating-point numbers ({len(self.pixels)},), got"
                    f" {shown(self.values)}; write values.float()"
                )
            check_finite_rows(self.values.unsqueeze(1), "values")
        if self.labels is None:
            return
        if self.labels.shape != self.pixels.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels are int64 ({len(self.pixels)},), got {shown(self.labels)}; write"
                " labels.long()"
            )
        low, high = (int(end) for end in torch.aminmax(self.labels))
        if low < 0 or (self.classes and high >= len(self.classes)):
            most = len(self.classes) - 1 if self.classes else "..."
            raise ValueError(f"labels are 0 to {most}, got {low if low < 0 else high}")

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        x = to_floats(self.pixels[i])
        if self.flip and bool(torch.rand(()) < 0.5):
            x = x.flip(-1)
        return {"x1": x, **{name: rows[i] for name, rows in self.cond.items()}}

    @property
    def shape(self) -> torch.Size:
        """The event shape, ``(C, H, W)``."""
        return self.pixels.shape[1:]

    @property
    def cond(self) -> dict[str, Tensor]:
        """Conditions for ``fit``, ``"label"`` and ``"value"``, those that there are."""
        both = {"label": self.labels, "value": self.values}
        return {name: rows for name, rows in both.items() if rows is not None}

    def floats(self, dtype: torch.dtype | None = None) -> Tensor:
        """All images in [-1, 1], ``(N, C, H, W)``, for data sets that are small."""
        return to_floats(self.pixels, dtype)

    def take(self, index: Tensor | slice) -> Images:
        """Some of the images: those of an index ``(B,)``, or of a slice."""
        found = torch.arange(len(self))[index].tolist()
        return replace(
            self,
            pixels=self.pixels[index],
            labels=None if self.labels is None else self.labels[index],
            values=None if self.values is None else self.values[index],
            files=tuple(self.files[k] for k in found) if self.files else (),
        )

    def to(self, device: torch.device | str) -> Images:
        """The same with bytes and labels on a device, where they are few enough to stay."""
        labels, values = (None if v is None else v.to(device) for v in (self.labels, self.values))
        return replace(self, pixels=self.pixels.to(device), labels=labels, values=values)

    def split(
        self, test_fraction: float = 0.2, *, generator: torch.Generator | None = None
    ) -> tuple[Images, Images]:
        """Shuffle and cut into a training and a test set that share no image.

        Args:
            test_fraction: the share of the test set, in (0, 1); rounded to whole images. It is
                never flipped.
            generator: source of the shuffle, on any device; torch's default one if None.

        Raises:
            ValueError: if either part would be empty.
        """
        test = round(test_fraction * len(self))
        if not 0 < test < len(self):
            raise ValueError(
                f"test_fraction {test_fraction} of {len(self)} images leaves a part empty; give a"
                " fraction between 0 and 1, as 0.2"
            )
        order = torch.randperm(len(self), generator=local(generator, "cpu"))
        return self.take(order[test:]), replace(self.take(order[:test]), flip=False)

    def loader(
        self,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> ImageLoader:
        """Shuffled batches that go to a device as bytes and are made numbers there."""
        return ImageLoader(self, batch_size, device=device, dtype=dtype)

    __repr__ = summary


@checked
class ImageLoader:
    """Shuffled batches of images, ``fit(images.loader(128, device="cuda"), steps=...)``.

    Each epoch has every image once; the last batch has those that are left. The order and what is
    mirrored are drawn at the start of an epoch, from a generator that ``fit`` seeds by its key, so
    that a run that goes on from a checkpoint sees what it would have seen.

    Args:
        dataset: the images.
        batch_size: B.
        device: where batches go.
        dtype: of the numbers; torch's default one if None.

    Example:
        >>> images = Images(torch.zeros(5, 1, 2, 2, dtype=torch.uint8))
        >>> [len(batch.x1) for batch in ImageLoader(images, 2)]
        [2, 2, 1]
    """

    def __init__(
        self,
        dataset: Images,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dataset, self.batch_size = dataset, positive_integer("batch_size", batch_size)
        self.device, self.dtype = torch.device(device), dtype
        self.generator = torch.Generator()
        self._first = self._given = 0

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.dataset)
        order = torch.randperm(count, generator=self.generator)
        mirrored = torch.rand(count, generator=self.generator) < 0.5 * self.dataset.flip
        first, self._first = self._first, 0
        for k in range(first, len(self)):
            self._given = k + 1
            rows = order[k * self.batch_size : (k + 1) * self.batch_size]
            yield self._batch(rows, mirrored[rows])

    def _batch(self, rows: Tensor, mirrored: Tensor) -> Batch:
        data = self.dataset
        rows = rows.to(data.pixels.device)
        pixels = data.pixels.index_select(0, rows).to(self.device, non_blocking=True)
        x = to_floats(pixels, self.dtype)
        if data.flip:
            x = torch.where(mirrored.to(self.device).view(-1, 1, 1, 1), x.flip(-1), x)
        cond = {
            name: of_all.index_select(0, rows).to(self.device, non_blocking=True)
            for name, of_all in data.cond.items()
        }
        return Batch(x, None, cond)

    def state_dict(self) -> dict[str, int]:
        """Where it is in an epoch: how many batches it has given."""
        return {"given": self._given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next epoch where another one was."""
        self._first = int(state["given"])

    def __repr__(self) -> str:
        return f"ImageLoader({self.dataset!r}, batch_size={self.batch_size}, device={self.device})"


def _bytes(pixels: Tensor) -> Tensor:
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8:
        raise TypeError(f"pixels are bytes, torch.uint8, got {shown(pixels)}")
    return pixels


def stacked(images: list[Tensor]) -> Tensor:
    """Images of one shape in one tensor; the list is empty afterwards, each freed as it is copied.

    So that not all of them are held twice.
    """
    count = len(images)
    pixels = torch.empty((count, *images[0].shape), dtype=torch.uint8)
    for k in reversed(range(count)):
        pixels[k] = images.pop()
    return pixels
