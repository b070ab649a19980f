r"""Fréchet and kernel distances on the features of any network.

Distances between pixels say little about images; those between features of a trained network say
more. The extractor is the user's: the library downloads no weights. The standard Inception network
of torchvision, for instance, is plugged in like this::

    from torchvision.models import Inception_V3_Weights, inception_v3
    net = inception_v3(weights=Inception_V3_Weights.DEFAULT).eval()   # downloads, once
    net.fc = torch.nn.Identity()                                      # 2,048 pooled features

    def extractor(x):                                                 # (B, 3, H, W) in [0, 1]
        x = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear", antialias=True)
        return net(2 * x - 1)

    frechet_distance(samples, data, extractor)

Published FIDs use the TensorFlow weights and resizing of Heusel et al.: a value from other weights
or another resizing compares with values of its own kind only, and only at equal sample sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._core.arrays import DataLike, as_rows
from .._core.checks import check_finite_rows
from .._core.shared import reading
from .._core.signatures import checked
from .gaussian import gaussian_wasserstein2
from .kernels import PolynomialKernel
from .mmd import KernelDistance, mmd2

__all__ = ["extract_features", "frechet_distance", "kernel_distance"]

Extractor = Callable[[Tensor], Tensor]


@checked
def extract_features(x: DataLike, extractor: Extractor, *, batch_size: int = 256) -> Tensor:
    """Return the features of samples, ``(N, F)``, without a graph, batch by batch.

    A module is put into evaluation mode and back.

    Args:
        x: samples, ``(N, *)``.
        extractor: maps ``(B, *)`` to ``(B, F)`` (or ``(B, *)``, which is flattened).
        batch_size: rows in a call.

    Raises:
        TypeError: if x is not a tensor or an array of a floating-point dtype.
        ValueError: if x or its features are not finite, or the rows of features are not one a
            sample.
    """
    x = as_rows("x", x)
    check_finite_rows(x, "x")
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    with reading([extractor]), torch.no_grad():
        parts = [extractor(rows) for rows in torch.split(x, batch_size)]
    if not all(isinstance(part, Tensor) and part.ndim >= 2 for part in parts):
        raise ValueError("the extractor must give a tensor (B, F) for a batch (B, *)")
    features = torch.cat(parts).flatten(1)
    if len(features) != len(x):
        raise ValueError(f"the extractor gave {len(features)} rows for {len(x)} samples")
    check_finite_rows(features, "the features")
    return features


@checked
def frechet_distance(
    x: DataLike, y: DataLike, extractor: Extractor | None = None, *, batch_size: int = 256
) -> float:
    r"""Return the Fréchet distance of features, as papers give it: squared.

    .. math:: |m - m'|^2 + \mathrm{tr}\bigl(C + C' - 2 (C C')^{1/2}\bigr)

    Bias: positive and large unless N is far above F (with F features of unit variance some
    ``F (F + 5) / 4 · (1/N + 1/M)``, see :func:`gaussian_wasserstein2`); it differs between models,
    so compare at equal N only, beside the floor between two halves of the data, or use
    :func:`kernel_distance`, which has no bias. ``O((N + M) F² + F³)``.

    Args:
        x: samples, ``(N, *)``, or their features if there is no extractor.
        y: samples, ``(M, *)``.
        extractor: maps ``(B, *)`` to ``(B, F)``.
        batch_size: rows in a call.

    Raises:
        TypeError: if a sample is not a tensor or an array of a floating-point dtype.
        ValueError: if a sample or its features are not finite or fewer than two rows.

    Source: Heusel et al. (2017).

    Example:
        >>> x = torch.randn(50, 3, 4, 4)
        >>> round(frechet_distance(x, x + 2, lambda x: x.mean((2, 3))), 4)  # 3 · 2²
        12.0
    """
    if extractor is not None:
        x = extract_features(x, extractor, batch_size=batch_size)
        y = extract_features(y, extractor, batch_size=batch_size)
    return gaussian_wasserstein2(x, y) ** 2


@checked
def kernel_distance(
    x: DataLike, y: DataLike, extractor: Extractor | None = None, *, batch_size: int = 256
) -> KernelDistance:
    r"""Return the kernel (Inception) distance: unbiased MMD² of features, cubic kernel.

    ``k(f, g) = (f·g / F + 1)³``. Unbiased at any N, over all pairs at once rather than blocks of
    1,000, with the jackknife's standard error. ``O((N + M)² F)``.

    Args:
        x: samples, ``(N, *)``, or their features if there is no extractor.
        y: samples, ``(M, *)``.
        extractor: maps ``(B, *)`` to ``(B, F)``.
        batch_size: rows in a call.

    Raises:
        TypeError: if a sample is not a tensor or an array of a floating-point dtype.
        ValueError: if a sample or its features are not finite or fewer than two rows.

    Source: Bińkowski et al., "Demystifying MMD GANs" (2018).

    Example:
        >>> x = torch.tensor([[1.0], [-1.0]])
        >>> kernel_distance(x, x).value
        -8.0
    """
    if extractor is not None:
        x = extract_features(x, extractor, batch_size=batch_size)
        y = extract_features(y, extractor, batch_size=batch_size)
    return mmd2(x, y, kernel=PolynomialKernel(3))
