r"""Regressions: losses whose minimisers are the fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from .._core.signatures import as_is, check_call, checked
from .._core.tensor import expand_time, half_square
from ..draws import Batch, PathSample
from ..fields.base import Field
from ..times.base import TimeSampler
from .base import BatchLike, Loss
from .paths import draw_path, weight_at
from .weights import LossWeight

__all__ = [
    "DataLoss",
    "MeanVelocityLoss",
    "NoiseLoss",
    "Regression",
    "ScoreLoss",
    "VelocityLoss",
]

_OWN = LossWeight.__module__


@checked
class Regression(Loss):
    r"""``½ w(t) |f̂(t, x_t) - T|²`` for a quantity f and its target T, summed over the event.

    Args:
        times: sampler of t; uniform by default, off an end where the target is infinite.
        weight: w, a :class:`LossWeight`, which knows the process and what is regressed, or a
            function of times ``(B,)``; None for 1.
        antithetic: draw each latent with both signs and average.
        constant: keep the constant ``½ w |T|²``, the distance of a prediction 0. Without it the
            loss is ``w (½|f̂|² - T · f̂)``, with the same gradient and without the part that no
            field can change.
        importance: divide by the density of ``times``, so that the mean loss is the integral of
            ``½ w E|f̂ - T|²`` over time whatever the sampler, which then only decides its variance.

    Raises:
        TypeError: if ``weight`` is neither a :class:`LossWeight` nor a function.

    Example:
        >>> import transportflows as tpf
        >>> class L1(tpf.DataLoss):  # with another distance, whose minimiser is a median
        ...     def distance(self, prediction, target):
        ...         return (prediction - target).abs().flatten(1).sum(1)
        >>> field = tpf.DataPredictor(lambda t, x: 0 * x, tpf.Process(tpf.SBDM(), shape=(2,)))
        >>> seed = torch.Generator().manual_seed(0)
        >>> L1()(field, torch.tensor([[3.0, 4.0]]), generator=seed)  # 3 + 4
        tensor([7.])
    """

    _sets: ClassVar[tuple[str, ...]] = ("times", "weight", "importance")
    quantity: ClassVar[str] = ""

    def __init__(
        self,
        *,
        times: TimeSampler | None = None,
        weight: LossWeight | Callable[[Tensor], Tensor] | None = None,
        antithetic: bool = False,
        constant: bool = True,
        importance: bool = False,
    ) -> None:
        if weight is not None and not callable(weight):
            raise TypeError(
                "weight must be a LossWeight such as LikelihoodWeight(), or a function of times,"
                f" got {type(weight).__name__}; for a number c write weight=lambda t: c"
            )
        self.times = times
        self.weight = weight
        self.antithetic = antithetic
        self.constant = constant
        self.importance = importance

    @property
    def quantities(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.quantity,)

    @property
    def form(self) -> str:
        """The quantity in whose form the distance is when it is weighed."""
        return self.quantity

    def draw(
        self, field: Field, batch: BatchLike, *, generator: torch.Generator | None = None
    ) -> PathSample:
        return draw_path(
            field.process,
            Batch.of(batch),
            times=self.times,
            weight=self.weight,
            form=self.form,
            antithetic=self.antithetic,
            importance=self.importance,
            generator=generator,
        )

    @as_is
    def evaluate(self, field: Field, sample: PathSample) -> Tensor:
        if not isinstance(sample, PathSample) or not isinstance(field, Field):
            check_call(Regression.evaluate, locals())
        return self.weighed(self.predicted(field, sample), sample)

    @as_is
    def predicted(self, field: Field, sample: PathSample) -> Tensor:
        """What a field predicts of the quantity at the states of a sample, ``(B, *)``."""
        outputs = field.outputs
        if self.quantity not in outputs:
            return field.quantity(self.quantity, sample.t, sample.x, sample.cond, checked=False)
        needed = tuple(o == self.quantity for o in outputs)
        predictions = field.predict(sample.t, sample.x, sample.cond, needed)
        return predictions[outputs.index(self.quantity)]  # type: ignore[return-value]

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """How far a prediction is from its target, ``½|f̂ - T|²``, ``(B,)``.

        What a subclass overrides for another distance; weights, importance, antithetic pairs and
        ``constant=False`` go on working. The minimiser of another one is not the conditional mean.
        """
        return half_square((prediction - target).flatten(1))

    def compare(self, prediction: Tensor, sample: PathSample) -> Tensor:
        """How far a prediction is off in each row, ``(B,)``: the distance, not yet weighed.

        What a subclass overrides that compares with other things of the sample than the target.
        """
        return self.distance(*self._compared(prediction, sample))

    def weighed(self, prediction: Tensor, sample: PathSample) -> Tensor:
        """The loss of each row of the batch for a prediction already made, ``(B,)``.

        Raises:
            ValueError: if a distance of one's own gives other than one value a row.
        """
        value = self.compare(prediction, sample)
        if value.shape != prediction.shape[:1]:
            raise ValueError(
                f"compare, or distance, of {type(self).__name__} must give one value a row,"
                f" {tuple(prediction.shape[:1])}, and it gave {tuple(value.shape)}; sum over"
                " events: .flatten(1).sum(1)"
            )
        return self.scaled(value, prediction, sample)

    def scaled(self, value: Tensor, prediction: Tensor, sample: PathSample) -> Tensor:
        """The loss of each row of the batch for distances ``(B,)``, the weight last."""
        if not self.constant:
            value = value - self.compare(torch.zeros_like(prediction), sample)
        if (weight := self.row_weights(sample)) is not None:
            value = value * weight
        if sample.density is not None:
            value = value / sample.density
        return value.view(2, -1).mean(0) if sample.antithetic else value

    def row_weights(self, sample: PathSample) -> Tensor | None:
        """The weight of each row, ``(B,)``, as it was prepared or as it is now; None for 1."""
        if self.weight is None:
            return None
        weight: Tensor | None = sample.kept(self, self.weight)
        return self._weight(sample) if weight is None else weight

    def prepare(self, sample: PathSample) -> None:
        """Have a sample keep what the loss needs of it, whatever the field: target and weight.

        A weight of the user's own is left for when it is asked for, since what it says may change.
        """
        if sample.kept(self, self) is not None:
            return
        self._compared(sample.x, sample)
        sample.keep(self, self, sample.t)
        if isinstance(self.weight, LossWeight) and type(self.weight).__module__ == _OWN:
            sample.keep(self, self.weight, self._weight(sample))

    def _compared(self, prediction: Tensor, sample: PathSample) -> tuple[Tensor, Tensor]:
        """The two members of the distance."""
        return prediction, getattr(sample, self.quantity)

    def _weight(self, sample: PathSample) -> Tensor:
        return weight_at(self.weight, sample.noise_part, sample.t, self.form)


@checked
class VelocityLoss(Regression):
    """``½|b̂(t, x_t) - ẋ_t|²``, ``ẋ_t = ∂t I + γ̇ z``: flow matching, the velocity b.

    With a Brownian γ the variance of γ̇ z diverges at the ends; ``antithetic=True`` removes it
    (Albergo, Boffi & Vanden-Eijnden 2023, section 6.1).

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), coupling=tpf.Paired(), shape=(2,))
        >>> field = tpf.Velocity(lambda t, x: torch.zeros_like(x), process)
        >>> x1, seed = torch.tensor([[3.0, 4.0]]), torch.Generator().manual_seed(0)
        >>> VelocityLoss()(field, (torch.zeros(1, 2), x1), generator=seed)  # ½|x1 - x0|²
        tensor([12.5000])
    """

    quantity = "velocity"


@checked
class MeanVelocityLoss(Regression):
    """``½|v̂(t, x_t) - ∂t I|²``: the mean velocity v, whose target has no γ̇.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(tpf.Brownian()), coupling=tpf.Paired(), shape=(2,))
        >>> field = tpf.fields.MeanVelocity(lambda t, x: torch.zeros_like(x), process)
        >>> x1, seed = torch.tensor([[3.0, 4.0]]), torch.Generator().manual_seed(0)
        >>> MeanVelocityLoss()(field, (torch.zeros(1, 2), x1), generator=seed)
        tensor([12.5000])
    """

    quantity = "mean_velocity"


@checked
class NoiseLoss(Regression):
    """``½|η̂(t, x_t) - ẑ|²``: noise prediction, positive sign.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
        >>> field = tpf.NoisePredictor(lambda t, x: x / (1 - t[:, None]), process)  # all data 0
        >>> seed = torch.Generator().manual_seed(0)
        >>> bool((NoiseLoss()(field, torch.zeros(9, 2), generator=seed) < 1e-9).all())
        True
    """

    quantity = "noise"


@checked
class DataLoss(Regression):
    """``½|d̂(t, x_t) - x1|²``: data prediction.

    Example:
        >>> import transportflows as tpf
        >>> field = tpf.DataPredictor(lambda t, x: 0 * x, tpf.Process(tpf.SBDM(), shape=(2,)))
        >>> seed = torch.Generator().manual_seed(0)
        >>> DataLoss()(field, torch.tensor([[3.0, 4.0]]), generator=seed)  # ½ (3² + 4²), at any t
        tensor([12.5000])
    """

    quantity = "data"


@checked
class ScoreLoss(Regression):
    r"""Denoising score matching, ``½ λ(t) |ŝ(t, x_t) + ẑ / σ̂|²`` (Vincent 2011).

    Args:
        weight: λ, a :class:`LossWeight` or a function of t; None for ``σ̂²``, with which the loss is
            ``½|σ̂ ŝ + ẑ|²`` and finite at the ends, of the size of a noise regression. Another
            function λ needs margins where λ/σ̂² is infinite.
        times: see :class:`Regression`.
        antithetic: see :class:`Regression`.
        constant: see :class:`Regression`.
        importance: see :class:`Regression`.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
        >>> field = tpf.Score(lambda t, x: -x / (1 - t[:, None]) ** 2, process)  # all data 0
        >>> seed = torch.Generator().manual_seed(0)
        >>> bool((ScoreLoss()(field, torch.zeros(9, 2), generator=seed) < 1e-9).all())
        True
    """

    quantity = "score"

    @property
    def form(self) -> str:
        return "noise"

    def _compared(self, prediction: Tensor, sample: PathSample) -> tuple[Tensor, Tensor]:
        return expand_time(sample.scale, prediction) * prediction, -sample.noise

    def _weight(self, sample: PathSample) -> Tensor:
        weight = super()._weight(sample)
        if isinstance(self.weight, LossWeight):
            return weight
        return weight / sample.scale.square()
