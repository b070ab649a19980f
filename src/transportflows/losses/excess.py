"""How far one field is from another, at draws of a process."""

from __future__ import annotations

from torch import Tensor

from .._core.checks import choice
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..conversions import QUANTITIES
from ..draws import PathSample
from ..fields.base import Field

__all__ = ["squared_error"]


@checked
def squared_error(
    field: Field, oracle: Field, sample: PathSample, quantity: str = "velocity"
) -> Tensor:
    """``|f̂ - f|²`` of each row, ``(B,)``: twice what a regression is above its minimum.

    Half its mean is the excess of the loss of ``quantity``; as one difference of two fields it
    has none of the noise of a difference of two losses.

    Args:
        field: f̂.
        oracle: the exact field f.
        sample: where to look, from ``process.sample(...)``.
        quantity: ``"velocity"``, ``"score"``, ``"noise"``, ``"data"`` or ``"mean_velocity"``.

    Raises:
        ValueError: for another quantity.
        ConversionError: if a field does not determine it.

    Example:
        >>> import torch, transportflows as tpf
        >>> process, seed = tpf.Process(tpf.SBDM(), shape=(2,)), torch.Generator().manual_seed(0)
        >>> exact = tpf.oracles.oracle(process, tpf.Gaussian((2,)))
        >>> off = tpf.Velocity(lambda t, x: exact.velocity(t, x) + 1, process)
        >>> sample = process.sample(torch.zeros(3, 2), t=0.5, generator=seed)
        >>> torch.allclose(squared_error(off, exact, sample), torch.tensor(2.0))  # 1 + 1
        True
    """
    choice("quantity", quantity, QUANTITIES)
    f_hat = getattr(field, quantity)(sample.t, sample.x, sample.cond)
    f = getattr(oracle, quantity)(sample.t, sample.x)
    return sum_events((f_hat - f).square())
