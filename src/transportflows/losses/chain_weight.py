"""The weights that make a regression the variational bound of a chain of levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core.precision import as_wide, widest
from .._core.signatures import checked
from ..gaussian_part import GaussianPart
from ..noise_level import NoiseLevel
from ..times.base import Margin
from .weights import LossWeight

__all__ = ["VariationalWeight", "as_levels"]


@checked
class VariationalWeight(LossWeight):
    r"""The exact weights of DDPM, for a chain of levels of any one-sided process.

    At level k the squared error, so weighed, is a term of the variational bound,

    .. math:: \tfrac12 (\mathrm{SNR}_{k-1} - \mathrm{SNR}_k) |\hat d - x_1|^2
              = D_{KL}(q(x_{k-1} | x_k, x_0)\,\|\,p_\theta(x_{k-1} | x_k)),

    which is Chang's (2.10) in data form. In score form it is his (2.15), with the score of
    ``q(x_k | x_0)``: with that of ρ_t, as he writes it, it holds in the mean and up to a constant.
    At the first level the weight is ``1/std²``, of the reconstruction.

    Args:
        levels: times t_1 > t_2 > ... > t_T from the data to the base (or in the other order), as
            ``DDPMChain().training_times()``; the data itself, t = 1 with σ̂ = 0, is left out.
        reconstruction_std: of the Gaussian ``p(x_0 | x_1)``; ``σ̂/β`` at the first level if None.

    Source: Ho, Jain and Abbeel (2020); Chang, (2.10) and (2.15).

    Times between levels take the weight of the nearest one.

    Raises:
        ValueError: if the levels are not distinct times in [0, 1], in one order, or the std is not
            positive; when used, if the SNR does not fall from level to level.

    Example:
        >>> import transportflows as tpf
        >>> part = tpf.Process(tpf.OneSidedLinear(), shape=(2,)).part
        >>> weight = VariationalWeight([0.75, 0.5])  # of SNR 9 and 1
        >>> [round(w, 6) for w in weight.table(part).tolist()]  # 1/std² = 9, and 9 - 1
        [9.0, 8.0]
    """

    form = "data"

    def __init__(
        self, levels: Sequence[float] | Tensor, *, reconstruction_std: float | None = None
    ) -> None:
        self.levels = as_levels(levels)
        self._middles = 0.5 * (self.levels[1:] + self.levels[:-1])
        if reconstruction_std is not None and not 0 < reconstruction_std < float("inf"):
            raise ValueError(f"reconstruction_std must be positive, got {reconstruction_std}")
        self.reconstruction_std = reconstruction_std

    def index(self, t: Tensor) -> Tensor:
        """The level of each time, of the shape of t, 0 for t_1."""
        if self._middles.device != t.device:
            self._middles = self._middles.to(t.device)
        return torch.bucketize(-widest(t), -self._middles)

    def table(self, part: GaussianPart, dtype: torch.dtype = torch.float64) -> Tensor:
        """The weights of the levels in data form, ``(T,)``, float64.

        Args:
            part: of the process of which the chain is.
            dtype: of the times at which the field is evaluated: the levels are rounded to it.

        Raises:
            ValueError: if the SNR does not fall from level to level, or is infinite at the first.
        """
        level = NoiseLevel.at(part, self.levels.to(part.device, dtype))
        with torch.no_grad():
            snr, ratio = level.snr, level.log_ratio
            noiseless = float(part.scale_sq(self.levels[0].to(level.t))) < 1e-24
            if noiseless or not bool((ratio.diff() < 0).all()):
                raise ValueError(
                    "the signal-to-noise ratio must be finite at the first level and fall from"
                    f" level to level, but it is {[float(f'{v:.3g}') for v in snr[:5]]} ...;"
                    " leave out t = 1 where σ̂ = 0, and use a path on which it grows with t"
                )
            steps = -snr[:-1] * torch.expm1(2 * ratio.diff())
            first = snr[:1]
            if self.reconstruction_std is not None:
                first = torch.full_like(first, self.reconstruction_std**-2)
            return torch.cat([first, steps])

    def of_levels(self, part: GaussianPart, dtype: torch.dtype) -> Tensor:
        """:meth:`table`, made once a process."""
        table: Tensor = self.once(part, f"{dtype}", lambda: self.table(part, dtype))
        return table

    def value(self, level: NoiseLevel) -> Tensor:
        table: Tensor = self.once(
            level.part,
            f"{level.dtype}, {level.t.device}",
            lambda: self.of_levels(level.part, level.dtype).to(level.t.device),
        )
        return table[self.index(level.t)]

    def margin(self, part: GaussianPart, quantity: str) -> Margin:
        return (0.0, 0.0)


def as_levels(levels: Sequence[float] | Tensor) -> Tensor:
    """Levels of a chain as float64 times that fall from the data to the base."""
    times = as_wide(levels).detach().cpu()
    if times.ndim != 1 or times.numel() < 2:
        raise ValueError(
            f"levels must be a list of at least 2 times, got shape {tuple(times.shape)}"
        )
    if float(times[0]) < float(times[-1]):
        times = times.flip(0)
    if not bool((times.diff() < 0).all()) or not bool(((times >= 0) & (times <= 1)).all()):
        raise ValueError(
            f"levels must be distinct times in [0, 1], all in one order, got {times.tolist()[:8]}"
        )
    return times
