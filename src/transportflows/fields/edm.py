r"""EDM preconditioning: a data prediction whose network has inputs and targets of unit size.

Karras et al. (2022) write the data prediction of :math:`y = x_1 + \sigma z` as

.. math:: D(\sigma, y) = c_{skip}(\sigma)\, y
          + c_{out}(\sigma)\, F(c_{noise}(\sigma),\, c_{in}(\sigma)\, y),

and choose the four functions so that, for data of standard deviation σ_d, the input of F and the
target that it is in effect trained on have variance 1, and its errors are amplified least. For any
one-sided process, with ``x' = x_t - α m``, take ``y = x'/β`` and ``σ = σ̂/β``:

.. math:: c_{skip}\, y = \frac{\beta \sigma_d^2}{N} x', \quad
          c_{in}\, y = \frac{x'}{\sqrt N}, \quad
          c_{out} = \frac{\hat\sigma \sigma_d}{\sqrt N}, \quad
          c_{noise} = \tfrac14 \log \sigma, \qquad N = \hat\sigma^2 + \beta^2 \sigma_d^2.

β cancels, so all but c_noise are finite on the whole of [0, 1]: where there is no data in x_t
(β = 0) the prediction is ``σ_d F``, and where there is no noise it is x'/β itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core.checks import positive_number
from .._core.conditions import NO_CONDITIONS
from .._core.precision import widest
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..noise_level import NoiseLevel
from ..process import Process
from ..transforms import Standardize
from .calls import Network, called
from .kinds import DataPredictor

__all__ = ["EDM", "EDMCoefficients"]

_FARTHEST = 1e3


@checked
class EDMCoefficients(NamedTuple):
    """What :class:`EDM` does at a time: weights of x' and of the network, of the shape of t.

    Attributes:
        skip: of x' in the prediction, ``c_skip/β = β σ_d² / N``.
        out: of the network's output, ``c_out = σ̂ σ_d / √N``.
        scale: of x' in the network's input, ``c_in/β = 1/√N``.
        noise: the network's time, ``c_noise = ¼ log σ``.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
        >>> field = tpf.EDM(lambda t, x: x, process, sigma_data=1.0)
        >>> [round(float(c), 4) for c in field.coefficients(torch.tensor(0.5))]  # σ = σ_d = 1
        [1.0, 0.7071, 1.4142, 0.0]
    """

    skip: Tensor
    out: Tensor
    scale: Tensor
    noise: Tensor


@checked
class EDM(DataPredictor):
    r"""A data predictor with Karras's preconditioning around its network (2022, table 1).

    ``net(t, x, **cond)`` is given ``c_noise = ¼ log σ`` in the place of t, with ``σ = σ̂/β`` held
    within a factor of 1,000 of σ_d either way (it is infinite or zero at the ends), and ``c_in y``
    in the place of x. Train it by ``DataLoss(times=EDMTimes(), weight=EDMWeight(sigma_data))``.

    Args:
        net: F, of the shape of x.
        process: one-sided: all of x_t but x1 is Gaussian.
        sigma_data: σ_d, the standard deviation of the data in the field's units; 1 with a
            :class:`Standardize`. The default is Karras's, for images in [-1, 1].
        transform: see :class:`Field`.
        cond_transforms: see :class:`Field`.

    Raises:
        ValueError: if ``sigma_data`` is not positive or the process not one-sided.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
        >>> field = EDM(lambda t, x: torch.zeros_like(x), process, sigma_data=1.0)
        >>> field.data(torch.tensor([0.0, 0.5, 1.0]), torch.ones(3, 2))[:, 0]
        tensor([0., 1., 1.])
    """

    def __init__(
        self,
        net: Network,
        process: Process,
        *,
        sigma_data: float = 0.5,
        transform: Standardize | None = None,
        cond_transforms: Mapping[str, Standardize] | None = None,
    ) -> None:
        super().__init__(net, process, transform=transform, cond_transforms=cond_transforms)
        process.part  # noqa: B018 (it refuses a process that has none)
        self.sigma_data = positive_number("sigma_data", sigma_data)

    def coefficients(self, t: Tensor) -> EDMCoefficients:
        """The weights, of the shape of t, in float64 where the device of t has it."""
        part, time, square = self.process.part, widest(t), self.sigma_data**2
        beta, sigma_sq = part.path.beta(time), part.scale_sq(time)
        total = sigma_sq + square * beta.square()
        sigma = NoiseLevel.at(part, time).sigma.clamp(
            self.sigma_data / _FARTHEST, self.sigma_data * _FARTHEST
        )
        return EDMCoefficients(
            skip=beta * square / total,
            out=self.sigma_data * (sigma_sq / total).sqrt(),
            scale=total.rsqrt(),
            noise=0.25 * sigma.log(),
        )

    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        skip, out, scale, noise = (c.to(x.dtype) for c in self.coefficients(t.to(x.device)))
        shift = self.process.part.shift(expand_time(widest(t), x), x)
        centred = x if shift is None else x - shift
        raw = called(self, self.net, noise, expand_time(scale, x) * centred, cond)
        return (torch.addcmul(expand_time(skip, x) * centred, expand_time(out, x), raw),)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "sigma_data": self.sigma_data}
