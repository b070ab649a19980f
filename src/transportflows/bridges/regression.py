"""The regression of the drifts of a bridge."""

from __future__ import annotations

from torch import Tensor

from .._core.signatures import checked
from .._core.tensor import expand_time
from ..draws import PathSample
from ..losses import Loss, SumLoss
from ..losses.defaults import default_loss
from ..losses.regressions import Regression
from .drifts import BridgeDrift
from .light import LightLoss, LightPotential

__all__ = ["BackwardDriftLoss", "ForwardDriftLoss"]


class _DriftLoss(Regression):
    """A regression on ``x1 - x0 ∓ √(variance/share) z``, multiplied by ``√share``."""

    @property
    def form(self) -> str:
        return "velocity"

    def _compared(self, prediction: Tensor, sample: PathSample) -> tuple[Tensor, Tensor]:
        if sample.z is None:
            raise ValueError("this sample was drawn without a latent z, which a bridge has")
        forward = self.quantity == "forward_drift"
        ahead = 1 - sample.t if forward else sample.t
        gamma_sq = sample.noise_part.path.gamma_sq(sample.t)
        share, root = ahead.sqrt(), (gamma_sq / ahead).sqrt()  # √(a · behind)
        noise = expand_time(-root if forward else root, prediction) * sample.z
        share = expand_time(share, prediction)
        return share * prediction, share * sample.mean_velocity + noise


@checked
class ForwardDriftLoss(_DriftLoss):
    r"""``½(1-t)|f̂(t, x_t) - (x1 - x_t)/(1-t)|²``: bridge matching, the forward drift of a bridge.

    The weight 1 - t keeps the target ``√(1-t) (x1 - x0) - √(a t) z`` finite up to t = 1, and of one
    size; a further ``weight`` multiplies it.

    Source: Peluchetti (2023); Shi et al., "Diffusion Schrödinger bridge matching" (2023).

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(tpf.Brownian(1.0)), base=tpf.Gaussian((1,)))
        >>> to_three = lambda t, x: (3 - x) / (1 - t[:, None])  # the bridge of data in one point
        >>> field = BridgeDrift(forward=to_three, process=process)
        >>> loss = ForwardDriftLoss()(field, torch.full((8, 1), 3.0))
        >>> torch.allclose(loss, torch.zeros(8), atol=1e-4)
        True
    """

    quantity = "forward_drift"


@checked
class BackwardDriftLoss(_DriftLoss):
    r"""``½ t |ĝ(t, x_t) - (x_t - x0)/t|²``: the backward drift of a bridge, in forward time.

    Source: Shi et al., "Diffusion Schrödinger bridge matching" (2023).

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(
        ...     tpf.Linear(tpf.Brownian(1.0)), base=tpf.Gaussian((1,)), coupling=tpf.Paired()
        ... )
        >>> from_zero = lambda t, x: x / t[:, None]  # of a start in 0
        >>> field = BridgeDrift(backward=from_zero, process=process)
        >>> pairs = tpf.Batch(x1=torch.ones(8, 1), x0=torch.zeros(8, 1))
        >>> torch.allclose(BackwardDriftLoss()(field, pairs), torch.zeros(8), atol=1e-4)
        True
    """

    quantity = "backward_drift"


_LOSSES: dict[str, type[Regression]] = {
    "forward_drift": ForwardDriftLoss,
    "backward_drift": BackwardDriftLoss,
}


@default_loss.register
def _(field: BridgeDrift) -> Loss:
    if isinstance(field.forward_net, LightPotential):
        return LightLoss()
    losses = [_LOSSES[output]() for output in field.outputs]
    return losses[0] if len(losses) == 1 else SumLoss(*losses)
