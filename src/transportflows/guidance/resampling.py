r"""Weights of particles: how many count, which to draw again, how sure their mean is.

With normalised weights W_i the *effective sample size* is ``1/Σ W_i²``. *Systematic resampling*
draws particle i ``⌊N W_i⌋`` or one more times, by one uniform number for all (Douc, Cappé &
Moulines 2005): unbiased, and of less variance than independent draws.

*The one-run standard error* of a log-evidence. Let W_e be the weight that descends from start row
e. To first order the rows' contributions are independent, and

.. math:: \mathrm{var}(\log \hat Z) \approx \sum_e (W_e - 1/N)^2

(Chan & Lai 2013; Lee & Whiteley 2018). Once all weight descends from a few rows it is no estimate
any more, only a sign of collapse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.precision import widest

__all__ = ["effective_size", "log_mean", "standard_error", "systematic"]


def log_mean(log_weights: Tensor) -> Tensor:
    """``log (Σ w / N)``, ``()``."""
    count = torch.tensor(float(len(log_weights)), dtype=log_weights.dtype)
    return torch.logsumexp(log_weights, 0) - count.log().to(log_weights)


def effective_size(log_weights: Tensor) -> Tensor:
    """``1/Σ W²`` of weights given by their logarithms, ``()``."""
    return 1 / torch.softmax(log_weights, 0).square().sum()


def systematic(log_weights: Tensor, u: Tensor, n: int | None = None) -> Tensor:
    """Which particles are drawn, ``(n,)``, in order; no value is read from the device.

    Args:
        log_weights: ``(N,)``.
        u: one uniform number, ``()``.
        n: how many to draw; N if None.
    """
    n = len(log_weights) if n is None else n
    reach = torch.softmax(widest(log_weights), 0).cumsum(0)
    places = (torch.arange(n, dtype=reach.dtype, device=reach.device) + u.to(reach)) / n
    found = torch.searchsorted(reach / reach[-1], places)
    return found.clamp(max=len(log_weights) - 1)


def standard_error(log_weights: Tensor, ancestors: Tensor) -> Tensor:
    """``√Σ_e (W_e - 1/N)²``, ``()``: that of a log-evidence, from one run.

    Args:
        log_weights: at the end, ``(N,)``.
        ancestors: the start row of each particle, ``(N,)``.
    """
    weights = torch.softmax(widest(log_weights), 0)
    of_rows = torch.zeros_like(weights).scatter_add_(0, ancestors, weights)
    return (of_rows - 1 / len(weights)).square().sum().sqrt()
