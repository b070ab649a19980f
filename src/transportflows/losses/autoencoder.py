"""The denoising autoencoder, which is data regression at given noise levels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .._core.signatures import checked
from ..times.levels import SigmaTimes
from .regressions import DataLoss

__all__ = ["DenoisingAutoencoderLoss"]


@checked
class DenoisingAutoencoderLoss(DataLoss):
    r"""Vincent's denoising autoencoder (2011), ``½|r(x̃) - x|²`` with ``x̃ = x + σ z``.

    The reconstruction r is the data prediction at the time at which the noise level ``σ̂/β`` of the
    process is σ, and ``x̃ = x_t/β``: on a variance-exploding path x̃ is x_t itself. By Tweedie's
    formula the minimiser gives the score of the data blurred by N(0, σ² Id),

    .. math:: s(\tilde x) = (r(\tilde x) - \tilde x) / \sigma^2,

    which is what ``field.score`` returns where β = 1, and the loss is ``σ⁴`` times denoising score
    matching with λ = 1 on x̃ (Vincent 2011, section 4.3). Of many levels, each row draws one.

    A network that knows no time is ``DataPredictor(lambda t, x: r(x), process)``.

    Args:
        sigma: noise levels in units of the data, one or several.
        antithetic: draw each latent with both signs and average.

    Raises:
        ValueError: if a level is not positive, or, when drawn from, not one of the process.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
        >>> field = tpf.DataPredictor(lambda t, x: torch.zeros_like(x), process)
        >>> DenoisingAutoencoderLoss(sigma=[0.1, 1.0])(field, torch.ones(3, 2))
        tensor([1., 1., 1.])
    """

    def __init__(
        self, sigma: float | Sequence[float] | Tensor, *, antithetic: bool = False
    ) -> None:
        self.sigma = sigma
        super().__init__(times=SigmaTimes(sigma), antithetic=antithetic)
