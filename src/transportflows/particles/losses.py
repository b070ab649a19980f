r"""Algorithm 2: a generator trained by regression on its own moved samples.

Draw latents ξ, move the samples ``y = g(ξ)`` by a direction, and regress on where they went:

.. math:: y' = y + \eta\, \Delta(y + \sigma \epsilon), \qquad
          J = \tfrac12 |g(\xi) - y'|^2, \qquad
          \frac{\partial J}{\partial \theta} = -\eta \left(\frac{\partial g}{\partial \theta}
          \right)^{\!\top} \Delta

with y' held. So *any* loss L of the samples is a data step, ``Δ = -∂L/∂x``
(:class:`~transportflows.particles.LossGradient`), and a regression, whose gradient is η times
``∂L/∂θ``: a gradient step on L itself (Weber 2023, equations 17 to 25). With a discriminator's
gradient for Δ this is a GAN; with :class:`KernelDifference` nothing is trained but the generator.

In many dimensions a kernel estimate from a batch of a few hundred is poor, and one σ sees one scale
only. Therefore ``references`` takes more samples for the estimate than rows are regressed on, and
``sigma`` may be several levels, whose directions are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.arrays import DataLike, if_array
from .._core.checks import positive_integer
from .._core.random import local
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..distributions.adapters import as_distribution
from ..distributions.base import Distribution
from ..distributions.empirical import Empirical
from ..fields.base import Field
from ..losses import Loss, Undrawn
from ..training.callbacks import Callback
from .directions import Direction, KernelDifference, Swarm
from .generator import OneStepGenerator
from .kernels import radius_of
from .schedules import SigmaSchedule, as_sigmas
from .step_schedules import StepSchedule, as_step

__all__ = ["FlowClock", "MovedTargetLoss"]


@checked
class MovedTargetLoss(Loss):
    r"""``½ |g(ξ) - y'|²`` of each row, with y' the moved sample, held.

    A trainer minimises the mean over rows. A regression *summed* over a batch of B at the rate λ,
    as in the paper, is plain gradient descent here at the rate ``λ B``.

    Args:
        direction: Δ; :class:`KernelDifference` by default, with the batch of data for p and the
            generated samples for q.
        sigma: σ: a number, several of them, or schedules of the clock, which a :class:`FlowClock`
            must then move; None for directions that smooth nothing.
        step: η, a number, or a :class:`StepSchedule` with a size.
        references: rows that stand for p and q in the direction; those of the batch if None.
        target: whence the rows for p come where ``references`` is given: a tensor ``(N, *)`` or a
            law, in the units of the network (after the field's transform).

    Raises:
        TypeError: if the direction is none.
        ValueError: if the direction needs a σ, a step has no size, or ``target`` and ``references``
            do not go together.

    Source: Weber (2023), algorithm 2.

    Example:
        >>> import transportflows as tpf
        >>> generator = OneStepGenerator(torch.nn.Linear(2, 2), latent=2)
        >>> data = 0.5 * torch.randn(500, 2) + 3
        >>> trainer = tpf.Trainer(generator, MovedTargetLoss(sigma=1.0), lr=0.1)
        >>> history = trainer.fit(data, steps=200, batch_size=128, progress=False)
        >>> bool(((generator.sample(500) - 3).mean(0).abs() < 0.5).all())
        True
    """

    def __init__(
        self,
        direction: Direction | None = None,
        *,
        sigma: float | Sequence[float] | Callable[[Tensor], Tensor] | SigmaSchedule | None = None,
        step: float | StepSchedule = 1.0,
        references: int | None = None,
        target: DataLike | Distribution | Any | None = None,
    ) -> None:
        self.direction = KernelDifference() if direction is None else direction
        if not isinstance(self.direction, Direction):
            given = getattr(direction, "__name__", type(direction).__name__)
            raise TypeError(
                f"direction must be a Direction such as KernelDifference(), got {given}"
            )
        if sigma is None and self.direction.needs_sigma:
            raise ValueError(
                f"{type(self.direction).__name__} smooths the samples; give sigma=, near the"
                " distance of nearest neighbours of the data or above, or several of them"
            )
        self.sigmas = [] if sigma is None else as_sigmas(sigma)
        for one in self.sigmas:
            one.table(2)  # refuses a level that is not positive
        self.schedule = as_step(step)
        if self.schedule.size is None:
            raise ValueError("a loss has no first step to take its size from; give step= a size")
        if references is not None:
            positive_integer("references", references)
            if target is None and self.direction.needs_target:
                raise ValueError(
                    f"references = {references} rows for p come from a sample or a law; give"
                    " target=, in the units of the network"
                )
        elif target is not None:
            raise ValueError(
                "target= is whence references= rows for p come, and none were asked for, so that it"
                " would be ignored; write references=512, say, or leave target out: then the batch"
                " of data stands for p"
            )
        if target is not None and not self.direction.needs_target:
            raise ValueError(
                f"{type(self.direction).__name__} has a p of its own, so that target= would be"
                " ignored; leave it out"
            )
        self.references = references
        self.target: Distribution | None = None
        if target is not None:
            rows = if_array("target", target)
            self.target = Empirical(rows) if isinstance(rows, Tensor) else as_distribution(rows)
        self.u: float | None = None
        self._radius: float | None = None

    def evaluate(self, field: Field, sample: Undrawn) -> Tensor:
        batch = sample.batch
        maker = _generator(field)
        own = local(sample.generator, batch.x1.device)
        xi = maker.latents(len(batch), generator=own)
        y = maker(xi, **batch.cond)
        with torch.no_grad():
            moved = self.moved(maker, y.detach(), batch.x1, generator=own)
        return 0.5 * sum_events((y - moved).square())

    def moved(
        self,
        maker: OneStepGenerator,
        y: Tensor,
        x: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Where the samples are to go, ``(B, *)``.

        Args:
            maker: the generator, for samples of q where ``references`` is given.
            y: its samples, ``(B, *)``.
            x: a batch of data.
            generator: source of the noise.

        Raises:
            ValueError: if the target is of other events than the generator gives.
        """
        if self.target is not None and self.target.shape != y.shape[1:]:
            raise ValueError(
                f"target has events of shape {tuple(self.target.shape)}, and the generator gives"
                f" {tuple(y.shape[1:])}; give a target in the units of the network"
            )
        source, target = y, x
        if self.references is not None:
            source = maker(maker.latents(self.references, generator=generator)).detach()
            if self.target is not None:
                target = self.target.sample(
                    self.references, generator=generator, dtype=y.dtype, device=y.device
                )
        u = self._clock()
        eta = float(self.schedule.size or 0.0) * float(
            self.schedule.factor(torch.tensor(u, dtype=torch.float64))
        )
        if self._radius is None:  # once: it reads the device
            self._radius = 2 * radius_of(source, target)
        total = torch.zeros_like(y)
        sigmas = self.levels(u)
        for sigma in sigmas:
            level = float(self.direction.levels(torch.tensor(sigma, dtype=torch.float64)))
            z = y
            if level > 0:
                z = y + level * torch.randn(
                    y.shape, generator=generator, dtype=y.dtype, device=y.device
                )
            swarm = Swarm(y, source, target, sigma, u, radius=self._radius)
            total = total + self.direction(z, swarm)
        return y + (eta / len(sigmas)) * total

    def levels(self, u: float) -> list[float]:
        """The noise levels at u; 0 where nothing is smoothed."""
        clock = torch.tensor(u, dtype=torch.float64)
        return [float(sigma.value(clock)) for sigma in self.sigmas] or [0.0]

    def _clock(self) -> float:
        if self.u is not None:
            return self.u
        at = torch.tensor([0.0, 1.0], dtype=torch.float64)
        steady = all(sigma.constant for sigma in self.sigmas)
        factors = self.schedule.factor(at)
        if steady and bool(factors[0] == factors[1]):
            return 0.0
        raise ValueError(
            "sigma or step is a schedule, and nothing moves its clock; add"
            " callbacks=[FlowClock(loss, steps)] to fit"
        )


@checked
class FlowClock(Callback):
    """Moves the clock of a :class:`MovedTargetLoss`: u is ``trainer.step / (steps - 1)``, up to 1.

    It is a function of the trainer's step alone, so a resumed run goes on where it was.

    Args:
        loss: the loss.
        steps: how many steps its schedules span.

    Example:
        >>> import transportflows as tpf
        >>> maker = OneStepGenerator(torch.nn.Linear(2, 2), latent=2)
        >>> loss = MovedTargetLoss(sigma=tpf.particles.ExponentialSigma(4.0, 1.0))
        >>> history = tpf.Trainer(maker, loss).fit(
        ...     torch.randn(50, 2), steps=2, batch_size=8, callbacks=[FlowClock(loss, steps=5)],
        ...     progress=False)
        >>> loss.u, round(loss.levels(loss.u)[0], 4)  # u = 2/(5 - 1)
        (0.5, 2.0)
    """

    every = 1

    def __init__(self, loss: MovedTargetLoss, steps: int) -> None:
        positive_integer("steps", steps)
        self.loss, self.steps = loss, steps

    def on_start(self, trainer: Any) -> None:
        self._set(trainer.step)

    def on_step(self, trainer: Any) -> None:
        self._set(trainer.step)

    def _set(self, step: int) -> None:
        self.loss.u = min(1.0, step / max(1, self.steps - 1))


def _generator(field: Any) -> OneStepGenerator:
    if isinstance(field, OneStepGenerator):
        return field
    raise TypeError(
        f"this loss trains a generator, and the field is a {type(field).__name__}; write"
        " Trainer(OneStepGenerator(net, latent=(16,), shape=...), loss)"
    )
