"""Algorithm 2 with a discriminator: a GAN, as moved samples and a regression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer

from .._core.checks import positive_integer, shown
from .._core.distributed import world
from .._core.random import local
from .._core.signatures import checked
from ..draws import Batch
from ..fields.base import Field
from ..losses import Undrawn
from ..training.callbacks import Callback
from .gradients import DiscriminatorDifference
from .losses import MovedTargetLoss, _generator
from .schedules import SigmaSchedule
from .step_schedules import StepSchedule

__all__ = ["AdversarialLoss", "DiscriminatorState"]


@checked
class AdversarialLoss(MovedTargetLoss):
    r"""A discriminator's gradient as the direction, and the training of it, in turns.

    Each call first makes some steps of the discriminator on ``-log f(z_x) - log(1 - f(z_y))``, with
    ``z_x`` data and ``z_y`` generated samples at the noise level σ (none if it is None), and then
    gives the regression on ``y + η ∇h`` for the generator. With ``loss="alternative"`` its gradient
    is η times that of a GAN with the loss ``-h(g(ξ))``, equation 32; with ``"non_saturating"`` of
    one with ``-log f(g(ξ))``, equation 28, whose rows differ by the factor ``1 - f``.

    The discriminator is called in train mode, moves with its own optimizer, and is not part of the
    field: for exact resumes add ``callbacks=[DiscriminatorState(loss)]``.

    Args:
        discriminator: the logit h, ``(B, *)`` to ``(B,)`` or ``(B, 1)``, on the device of the
            generator.
        optimizer: its optimizer, or a function that makes one of its parameters.
        inner_steps: steps of the discriminator for each of the generator.
        loss: ``"alternative"`` or ``"non_saturating"``.
        sigma: σ at which both are smoothed; None for none. With it the direction is ``σ² ∇h``.
        step: η.

    Raises:
        TypeError: if the discriminator is no module, or the optimizer none.
        ValueError: in a run of several processes, whose discriminators would part.

    Source: Weber (2023), sections 4.2 and 4.3; Goodfellow et al. (2014).

    Example:
        >>> import transportflows as tpf
        >>> maker = tpf.particles.OneStepGenerator(nn.Linear(2, 2), latent=2)
        >>> loss = AdversarialLoss(nn.Linear(2, 1))
        >>> history = tpf.Trainer(maker, loss).fit(
        ...     torch.randn(50, 2), steps=3, batch_size=8, callbacks=[DiscriminatorState(loss)],
        ...     progress=False)
        >>> len(history)
        3
    """

    direction: DiscriminatorDifference

    def __init__(
        self,
        discriminator: nn.Module,
        *,
        optimizer: Optimizer | Callable[[list[nn.Parameter]], Optimizer] = torch.optim.Adam,
        inner_steps: int = 1,
        loss: str = "alternative",
        sigma: float | SigmaSchedule | None = None,
        step: float | StepSchedule = 1.0,
    ) -> None:
        if not isinstance(discriminator, nn.Module):
            raise TypeError(
                f"discriminator must be an nn.Module, got {type(discriminator).__name__}"
            )
        super().__init__(DiscriminatorDifference(discriminator, loss=loss), sigma=sigma, step=step)
        positive_integer("inner_steps", inner_steps)
        self.discriminator, self.inner_steps = discriminator, inner_steps
        parameters = [p for p in discriminator.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(
                "the discriminator has nothing to train; for a fixed one use"
                " MovedTargetLoss(DiscriminatorDifference(h))"
            )
        self.optimizer = optimizer if isinstance(optimizer, Optimizer) else optimizer(parameters)
        if not isinstance(self.optimizer, Optimizer):
            raise TypeError(f"optimizer must make an Optimizer, got {shown(self.optimizer)}")
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if not any(id(p) in held for p in parameters):
            raise ValueError(
                "the optimizer holds no parameter of the discriminator, which would never learn;"
                " make it from discriminator.parameters(), or give a function:"
                " optimizer=torch.optim.Adam"
            )

    def evaluate(self, field: Field, sample: Undrawn) -> Tensor:
        batch = sample.batch
        if torch.is_grad_enabled() and field.training:
            if world().size > 1:
                raise ValueError(
                    "an AdversarialLoss steps its discriminator by itself, and those of several"
                    " processes would part; train it in one process"
                )
            for _ in range(self.inner_steps):
                self._train(field, batch, local(sample.generator, batch.x1.device))
        return super().evaluate(field, sample)

    def _train(self, field: Field, batch: Batch, generator: torch.Generator | None) -> None:
        maker = _generator(field)
        with torch.no_grad():
            y = maker(maker.latents(len(batch), generator=generator), **batch.cond)
            real, made = batch.x1, y
            for sigma in self.levels(self._clock()):
                if sigma > 0:
                    real = real + sigma * _normal(real, generator)
                    made = made + sigma * _normal(made, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss = discriminator_loss(self.discriminator(real), self.discriminator(made))
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


@checked
class DiscriminatorState(Callback):
    """Puts the discriminator of a loss and its optimizer into the checkpoints of a run.

    Args:
        loss: the loss.

    Example:
        >>> kept = DiscriminatorState(AdversarialLoss(nn.Linear(2, 1)))
        >>> sorted(kept.state())  # what a checkpoint holds of it, beside the generator
        ['discriminator', 'optimizer']
    """

    def __init__(self, loss: AdversarialLoss) -> None:
        self.loss = loss

    def state(self) -> dict[str, Any]:
        return {
            "discriminator": dict(self.loss.discriminator.state_dict()),
            "optimizer": self.loss.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.loss.discriminator.load_state_dict(state["discriminator"])
        self.loss.optimizer.load_state_dict(state["optimizer"])


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """``-log f(real) - log(1 - f(made))`` in the mean, from logits, ``()``."""
    return softplus(-real).mean() + softplus(made).mean()


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
