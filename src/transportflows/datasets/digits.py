"""The handwritten digits of scikit-learn, 8 x 8."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._core.checks import number
from .._core.precision import as_wide
from .._core.random import local
from .._core.signatures import checked
from .._core.tensor import state_dtype

__all__ = ["Digits", "digits"]


@checked
class Digits(NamedTuple):
    """Images and their labels.

    Attributes:
        images: ``(N, 1, 8, 8)``, or ``(N, 64)`` if they were asked for flat.
        labels: the digits 0 to 9, ``(N,)``, int64.

    Example:
        >>> found = digits()
        >>> found.images[found.labels == 3].shape  # all threes
        torch.Size([183, 1, 8, 8])
    """

    images: Tensor
    labels: Tensor

    def __repr__(self) -> str:
        images, labels = tuple(self.images.shape), tuple(self.labels.shape)
        return f"Digits(images=<tensor {images}>, labels=<tensor {labels}>)"

    def split(
        self, test_fraction: float = 0.2, *, generator: torch.Generator | None = None
    ) -> tuple[Digits, Digits]:
        """Shuffle and cut into a training and a test set that share no image.

        Args:
            test_fraction: the share of the test set, in (0, 1); rounded to whole images.
            generator: source of the shuffle, on any device; torch's default one if None.

        Raises:
            ValueError: if either part would be empty.
        """
        count = self.images.shape[0]
        test = round(test_fraction * count)
        if not 0 < test < count:
            raise ValueError(
                f"test_fraction {test_fraction} of {count} images leaves a part empty;"
                " give a fraction between 0 and 1, as 0.2"
            )
        order = torch.randperm(count, generator=local(generator, "cpu")).to(self.images.device)
        train, held = order[test:], order[:test]
        return (
            Digits(self.images[train], self.labels[train]),
            Digits(self.images[held], self.labels[held]),
        )


@checked
def digits(
    *,
    flatten: bool = False,
    value_range: tuple[float, float] = (-1.0, 1.0),
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Digits:
    """Load the 1,797 handwritten digits, 8 x 8 pixels, that come with scikit-learn.

    Their 17 grey levels 0, 1, ..., 16 are mapped linearly to ``value_range``, background to its
    lower end. No download is made. They are ``(high - low) / 16`` apart, the ``level_width`` of
    :func:`transportflows.likelihood.bits_per_dimension`.

    Args:
        flatten: whether to return the images as ``(1797, 64)`` instead of ``(1797, 1, 8, 8)``.
        value_range: the values of level 0 and of level 16; ``(0.0, 1.0)`` is the other usual one.
        dtype: of the images; torch's default one if None.
        device: of the result; the CPU if None.

    Raises:
        ImportError: if scikit-learn is not installed.
        ValueError: if ``value_range`` is not increasing.

    Source: Alpaydin and Kaynak (1998), UCI "Optical recognition of handwritten digits", test set.

    Example:
        >>> images, labels = digits()
        >>> images.shape, labels[:4].tolist()
        (torch.Size([1797, 1, 8, 8]), [0, 1, 2, 3])
    """
    low, high = (number("value_range", end, "two finite numbers") for end in value_range)
    if not low < high:
        raise ValueError(f"value_range must increase, got {value_range}; write (-1.0, 1.0)")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed;"
            " write pip install 'transportflows[examples]'"
        ) from error
    bunch = load_digits()
    levels = as_wide(bunch.data)
    images = low + (high - low) * levels / 16
    labels = torch.as_tensor(bunch.target, dtype=torch.int64, device=device)
    shaped = images if flatten else images.reshape(-1, 1, 8, 8)
    return Digits(shaped.to(device=device, dtype=state_dtype(dtype)), labels)
