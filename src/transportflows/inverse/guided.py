r"""Fields that are guided by an observation: each is a model of ``p(y | x_t)``.

The score of x_t given y is ``s + ∇ log p(y | x_t)``, and so, by ``d = (x - α m + σ̂² s) / β``,
the data prediction given y is

.. math:: d' = d + \frac{\hat\sigma^2}{\beta} \nabla_x \log p(y | x_t).

With J the Jacobian of ``d(t, x)`` in x, ``Cov(x_1 | x_t) = (σ̂²/β) J`` (Tweedie's formula of second
order), symmetric for an exact d. What the methods differ in is the law of x1 given x_t that they
put into ``p(y | x_t) = ∫ p(y | x_1) p(x_1 | x_t) dx_1``:

- :class:`LikelihoodGuidance`: a point at d, ``d' = d + (σ̂²/β) Jᵀ ∇ log p(y | x_1 = d)``;
- :class:`PseudoInverse`: a Gaussian around d of one variance, ``r² = v σ̂² / (σ̂² + β² v)``, that of
  data of variance v, so ``d' = d + (σ̂²/β) Jᵀ Aᵀ (σ² Id + r² A Aᵀ)⁻¹ (y - A d)``;
- :class:`MomentMatched`: a Gaussian around d with the covariance that it has,
  ``d' = d + Cov Aᵀ (σ² Id + A Cov Aᵀ)⁻¹ (y - A d)`` with ``Cov = (σ̂²/β) Jᵀ``.

Where an error of a learned prediction is multiplied by more than 20 in d, as that of a noise
prediction by σ̂/β early on, d is not shifted: what y says of it is less than what the field has
wrong in it. The second is exact for data ``N(μ, v Id)``, the third for any Gaussian data; others
have a bias.
Over 300 lines, most of them docstrings: three models of one sum, which are read side by side.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core.autodiff import differentiable_gradient, pullback
from .._core.checks import check_gradient, number, positive_integer, positive_number
from .._core.conditions import NO_CONDITIONS
from .._core.precision import widest
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..fields.base import Field, check_field
from ..fields.calls import Network
from ..gaussian_part import tweedie
from ..guidance.left_out import MOST_AMPLIFIED, amplification
from ..observations import LinearObservation, Observation
from .conjugate import conjugate_gradients
from .residuals import least_residual

__all__ = ["GuidedField", "LikelihoodGuidance", "MomentMatched", "PseudoInverse"]

_FIRST = 1e-3  # times before it are looked at there: at β = 0 nothing is known of x1
_WEAK = 1e-3  # β² v/σ̂² where half of a J is the field's
_MOST = 1e12  # of σ² β / σ̂², which is infinite at the end, where nothing is left to correct
_FARTHEST, _SOLVES = 10.0, 20  # of a learned shift, in lengths of the shortest that would do
_ROWS = "observed"  # the condition by which observations of each row go with their rows


@checked
class GuidedField(Field):
    """A field whose data prediction is shifted towards an observation.

    ``sample`` takes it with any scheme, any ε and the field's conditions.

    Args:
        field: of a process with a Gaussian part whose signal grows with t.
        observation: in the units of the data.

    Raises:
        ConversionError: if the process has no Gaussian part.
        ValueError: if its signal does not always grow, or the observation is of other events.
    """

    outputs, trainable = ("data",), False

    def __init__(self, field: Field, observation: Observation) -> None:
        nn.Module.__init__(self)
        check_field(field, f"{type(self).__name__} guides")
        field.process.part.check_monotone()
        shape = field.process.shape
        if isinstance(observation, LinearObservation) and shape not in (None, observation.shape):
            raise ValueError(
                f"the observation is of events of shape {tuple(observation.shape)}, and the process"
                f" has {tuple(shape or ())}"
            )
        self.field, self.observation, self.conditions = field, observation, field.conditions
        self.process, self.transform = field.process, field.transform
        self._inside = observation
        if isinstance(observation, LinearObservation):
            self._inside = observation.in_units_of(field.transform)

    @property
    def breakpoints(self) -> tuple[float, ...]:
        return self.field.breakpoints

    @property
    def networks(self) -> tuple[Network, ...]:
        return self.field.networks

    def reference(self) -> Tensor:
        return self.field.reference()

    def config(self) -> dict[str, Any]:
        raise NotImplementedError("a guided field is made from a field and an observation")

    def check_conditions(
        self, cond: Mapping[str, Any] | None, n: int, **how: Any
    ) -> dict[str, Any]:
        own = dict(cond or {}) if cond is None or isinstance(cond, Mapping) else cond
        rows = own.pop(_ROWS, None) if isinstance(own, dict) else None
        found = self.field.check_conditions(own, n, **how)
        inside = self._inside
        if rows is None and isinstance(inside, LinearObservation) and len(inside.y) > 1:
            if len(inside.y) != n:
                raise ValueError(
                    f"there are {len(inside.y)} observations for {n} samples; give one for all, or"
                    " one a row"
                )
            rows = inside.y.to(self.reference().device)
        return found if rows is None else {**found, _ROWS: rows}

    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """The data prediction given the observation, ``(B, *)``."""
        t = t.to(x.device).clamp(min=_FIRST)
        part, time = self.process.part, widest(t)
        beta, square = part.path.beta(time), part.scale_sq(time)
        seen = amplification(self.field, "data", time) <= MOST_AMPLIFIED
        own = {name: value for name, value in cond.items() if name != _ROWS}

        def data(z: Tensor) -> Tensor:
            return self.field.quantity("data", t, z, own, checked=False)

        d, shift = self._shifted(data, x, beta, square, cond.get(_ROWS))
        return (torch.where(expand_time(seen, x), d + shift, d),)

    def _residual(self, d: Tensor, rows: Tensor | None) -> Tensor:
        """``y − A d``, of the observations of these rows."""
        inside = self._inside
        assert isinstance(inside, LinearObservation)
        return inside.residual(d) if rows is None else rows.to(d) - inside.operator.apply(d)

    def _normal(self, u: Tensor) -> Tensor:
        """``A Aᵀ u``."""
        inside = self._inside
        assert isinstance(inside, LinearObservation)
        return inside.operator.apply(inside.operator.adjoint(u))

    @abstractmethod
    def _shifted(
        self,
        data: Callable[[Tensor], Tensor],
        x: Tensor,
        beta: Tensor,
        square: Tensor,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The prediction at x and its shift, with β and σ̂² of the times, ``()`` or ``(B,)``.

        Args:
            data: the data prediction as a function of x.
            x: states.
            beta: β.
            square: σ̂².
            rows: the observation of each row, or None for one in all.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.field).__name__}, {self.observation!r})"


@checked
class LikelihoodGuidance(GuidedField):
    r"""Guided by the likelihood at the prediction: ``d' = d + w (σ̂²/β) ∇_x log p(y | d(t, x))``.

    The law of x1 given x_t is a point, as for :class:`DPS`: too sure of y early, and stiff.

    Args:
        field: see :class:`GuidedField`.
        observation: any, with a likelihood that autograd follows.
        scale: w ≥ 0; 1 is the likelihood's own.

    Raises:
        ValueError: at the first call, if the likelihood or its gradient is NaN.

    Source: Chung et al. (2023), section 3.2.

    Example:
        >>> import torch, transportflows as tpf
        >>> law = tpf.Gaussian((2,))
        >>> field = tpf.oracle(tpf.Process(tpf.Linear(), base=law), law)
        >>> mask = tpf.inverse.Mask(torch.tensor([1, 0]))
        >>> seen = LinearObservation(mask, torch.tensor([1.0, 0.0]), 1.0)
        >>> guided = LikelihoodGuidance(field, seen)  # the exact one is (1/3, 0): MomentMatched
        >>> guided.data(torch.tensor(0.5), torch.zeros(1, 2)).round(decimals=4)
        tensor([[0.5000, 0.0000]])
    """

    def __init__(self, field: Field, observation: Observation, scale: float = 1.0) -> None:
        super().__init__(field, observation)
        if isinstance(observation, LinearObservation) and observation.noise == 0:
            observation.log_likelihood(observation.y.new_zeros(1, *observation.shape))
        self.scale = number("scale", scale, "a weight, 0 or positive", least=0)
        self._seen = False

    def _shifted(
        self,
        data: Callable[[Tensor], Tensor],
        x: Tensor,
        beta: Tensor,
        square: Tensor,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        d, pull = pullback(data, x)
        if isinstance(self._inside, LinearObservation):
            residual = self._residual(d, rows)
            slope = self._inside.operator.adjoint(residual) / self._inside.noise**2
        else:
            value, slope = differentiable_gradient(self._of_standardised, d)
            if not self._seen:
                check_gradient("log_likelihood", value, slope)
                self._seen = True
        return d, expand_time((self.scale * tweedie(beta, square)).to(x), x) * pull(slope)

    def _of_standardised(self, d: Tensor) -> Tensor:
        transform = self.transform
        return self.observation.log_likelihood(d if transform is None else transform.invert(d))


@checked
class PseudoInverse(GuidedField):
    """Pseudo-inverse guidance: x1 given x_t as a Gaussian of one variance around the prediction.

    Early on J is small, as β, and is divided by β, with all that a learned field has wrong in it.
    So J is the field's and that of data ``N(μ, v Id)``, ``β v/(σ̂² + β² v) Id``, in the parts
    ``a/(a + c)`` and ``c/(a + c)``, where ``a = β² v/σ̂²`` and c = 0.001. It takes observations
    without noise too.

    Args:
        field: see :class:`GuidedField`.
        observation: a linear one.
        variance: v, of the data in the field's units, of all and not of one of their modes; 1 where
            the field standardises them.
        iterations: of conjugate gradients for ``(σ² Id + r² A Aᵀ)⁻¹``, which call no network; one
            is enough for a mask.

    Source: Song, Vahdat, Mardani & Kautz (2023), equations 7 and 8.

    Example:
        >>> import torch, transportflows as tpf
        >>> law = tpf.Gaussian((2,))
        >>> field = tpf.oracle(tpf.Process(tpf.Linear(), base=law), law)
        >>> mask = tpf.inverse.Mask(torch.tensor([1, 0]))
        >>> seen = LinearObservation(mask, torch.tensor([1.0, 0.0]), 1.0)
        >>> guided = PseudoInverse(field, seen)  # given x_t = 0 and y, x1 is N(1/3, 1/3) where seen
        >>> guided.data(torch.tensor(0.5), torch.zeros(1, 2)).round(decimals=4)
        tensor([[0.3333, 0.0000]])
    """

    def __init__(
        self,
        field: Field,
        observation: LinearObservation,
        *,
        variance: float = 1.0,
        iterations: int = 20,
    ) -> None:
        super().__init__(field, observation)
        self.variance = positive_number("variance", variance)
        self.iterations = _enough(iterations, observation)

    def _shifted(
        self,
        data: Callable[[Tensor], Tensor],
        x: Tensor,
        beta: Tensor,
        square: Tensor,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        (d, pull), inside, v = pullback(data, x), self._inside, self.variance
        assert isinstance(inside, LinearObservation)
        operator, total = inside.operator, square + beta.square() * v
        ridge = (inside.noise**2 * total / (v * square)).nan_to_num(0.0).clamp(max=_MOST)
        weight = expand_time((total / (beta * v)).to(x), x)

        residual = self._residual(d, rows)
        back = operator.adjoint(
            conjugate_gradients(self._normal, residual, ridge.to(x), self.iterations)
        )
        learned = beta.square() * v / (beta.square() * v + _WEAK * square)
        isotropic = (1 - learned) * beta * v / total
        pulled = expand_time(learned.to(x), x) * pull(back)
        return d, weight * (pulled + expand_time(isotropic.to(x), x) * back)


@checked
class MomentMatched(GuidedField):
    r"""x1 given x_t as a Gaussian with the mean and covariance that it has.

    ``(λ Id + A Jᵀ Aᵀ) u = y - A d`` with ``λ = σ² β/σ̂²`` is solved by least residuals, and
    ``d' = d + Jᵀ Aᵀ u``. The network is called once, and its graph is gone back ``iterations``
    times. It takes observations without noise too.

    The J of a learned field is not quite symmetric, and early on no more than its errors, which
    conjugate gradients multiply without bound; the residual that is left here is never longer than
    ``y - A d``, however many iterations are made. Nor is the shift of a learned field longer than
    ten times the shortest with that residual, ``A⁺ (y - A d)``.

    Args:
        field: see :class:`GuidedField`.
        observation: a linear one.
        iterations: of conjugate residuals. As many as there are numbers in y are exact for an exact
            field; 3 do nearly as well (``benchmarks/results/inverse.md``,
            ``benchmarks/results/inverse_trained.md``).

    Source: Boys et al. (2023), equation 9; Rozet et al. (2024), section 4.2, by conjugate
        gradients.

    Example:
        >>> import torch, transportflows as tpf
        >>> process, law = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))), tpf.Gaussian((2,))
        >>> mask = tpf.inverse.Mask(torch.tensor([1, 0]))
        >>> seen = LinearObservation(mask, torch.tensor([1.0, 0.0]), 1.0)
        >>> guided = MomentMatched(tpf.oracle(process, law), seen)
        >>> x = tpf.sample(guided, start=torch.zeros(1, 2), steps=50).x  # the middle of N(1/2, 1/2)
        >>> bool((x - torch.tensor([[0.5, 0.0]])).abs().max() < 1e-2)
        True
    """

    def __init__(
        self, field: Field, observation: LinearObservation, *, iterations: int = 3
    ) -> None:
        super().__init__(field, observation)
        self.iterations = _enough(iterations, observation)

    def _shifted(
        self,
        data: Callable[[Tensor], Tensor],
        x: Tensor,
        beta: Tensor,
        square: Tensor,
        rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        inside = self._inside
        assert isinstance(inside, LinearObservation)
        operator, (d, pull) = inside.operator, pullback(data, x)
        ridge = (inside.noise**2 * beta / square).nan_to_num(0.0, posinf=_MOST).clamp(0, _MOST)

        def back(u: Tensor) -> Tensor:
            return pull(operator.adjoint(u))

        residual = self._residual(d, rows)
        shift = least_residual(back, operator.apply, residual, ridge.to(x), self.iterations)
        return d, shift if not self.field.networks else self._near(shift, residual)

    def _near(self, shift: Tensor, residual: Tensor) -> Tensor:
        """The shift, made shorter where it is many times the shortest that would do."""
        inside = self._inside
        assert isinstance(inside, LinearObservation)
        operator = inside.operator

        none = residual.new_zeros(())
        shortest = operator.adjoint(conjugate_gradients(self._normal, residual, none, _SOLVES))
        least, own = (part.flatten(1).norm(dim=1) for part in (shortest, shift))
        share = (_FARTHEST * least / own.clamp(min=1e-12)).clamp(max=1.0)
        return expand_time(share, shift) * shift


def _enough(iterations: int, observation: LinearObservation) -> int:
    """The iterations that are made: as many as there are numbers in y are exact."""
    return min(positive_integer("iterations", iterations), observation.seen.numel())
