r"""Guidance by a gradient: a reward, or a classifier of noisy states.

The path :math:`q_t \propto p_t\, e^{r_t}` has the score ``s + ∇r``. Where all of x_t but x1 is
Gaussian, ``b = A x + C m + (Δ/β) s`` with ``Δ/β = g²/2``, so that score and velocity
shift together,

.. math:: s' = s + \nabla r, \quad \hat\eta' = \hat\eta - \hat\sigma \nabla r, \quad
          d' = d + \frac{\hat\sigma^2}{\beta} \nabla r, \quad
          b' = b + \frac{\Delta}{\beta} \nabla r ,

and the drift ``b' + ε s'`` of a solve shifts by ``(Δ/β + ε) ∇r``. For ``r_t = log p(c | x_t)`` it
is the field of ``p(·|c)``, exactly (Dhariwal & Nichol 2021; Song et al. 2021, appendix I). For any
other r the solve samples another law than ``p e^{r_1}``, and :func:`sample_weighted` mends it.

With any other base or coupling the score alone says nothing about the velocity: such fields are
refused where a velocity is asked for, but not by :func:`sample_weighted`, which needs b and s only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._core.autodiff import jvp, ordinary, value_and_gradient
from .._core.checks import check_callable, check_gradient, choice, returned
from .._core.conditions import NO_CONDITIONS, check_conditions
from .._core.precision import widest
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..combination import Combination
from ..fields.base import Field
from ..gaussian_part import ConversionError, GaussianPart, tweedie
from .combinations import Strength
from .geometric import Guided
from .parts import Part, check_scale, conditions_of
from .scales import Scale

__all__ = ["Classifier", "Tilt"]

_FARTHEST = 1e4  # the most that a gradient is multiplied by
_BESIDE = 1e-3  # where it is taken for times nearer to one at which β vanishes


@checked
class Tilt(Guided):
    """The field of ``p_t e^{r_t}``, whose score is ``s + ∇r``: steering by a reward.

    Args:
        field: any field.
        reward: r, called as ``reward(t, x, **cond)`` with t ``(B,)`` and x ``(B, *)`` in the units
            of the data, gives ``(B,)``; of the conditions those that it names. It should be of the
            states x_t for all t: the wanted reward at t = 1, and little at t = 0, where x_t tells
            nothing of x1. It must be finite and differentiable in x, since it is known by its
            gradient alone, in the weights too: at a jump (``x > 1``, or ``torch.where`` with two
            values) nothing is led or weighed, and another law comes out. Autograd and, for
            :func:`sample_weighted`, forward mode must follow it.
        scale: a factor w of r, as in :class:`ClassifierFree`.
        of: ``"state"``, or ``"data"`` for a reward of the data prediction, ``r(t, d(t, x))``, whose
            gradient goes through the network.
        interval: times within which to guide.

    Raises:
        TypeError: if the reward does not take (t, x).
        ValueError: if a scale is not finite or ``of`` unknown; at the first call if autograd does
            not follow the reward, or it, or its gradient, is NaN there, or it is infinite.
        ConversionError: where a velocity is asked for and the process has no Gaussian part.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> field = tpf.oracle(process, tpf.Gaussian((2,)))
        >>> right = Tilt(field, lambda t, x: t * x[:, 0])
        >>> tpf.sample(right, 5, epsilon=0.5, steps=10).x.shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        field: Field,
        reward: Callable[..., Tensor],
        scale: Strength = 1.0,
        *,
        of: str = "state",
        interval: tuple[float, float] | None = None,
    ) -> None:
        choice("of", of, ("state", "data"))
        _check_function("reward", reward)
        factor = Scale(scale, interval, neutral=0.0)
        check_scale(factor, [Part(field)], conditions_of(reward) or ())
        self._build([Part(field)], (factor,))
        self.reward, self.of = reward, of
        self.outputs, self.power = field.outputs, field.power
        self._named = conditions_of(reward)
        self._seen = False
        if self.power != 1:
            raise ValueError(
                "a Tilt is of a field of x_t itself, and this one is of a product of densities"
                f" whose powers add up to {self.power:g}: its score says nothing about its"
                " velocity. Tilt the fields of the product instead"
            )
        if of == "data":
            field.weights("data", torch.full((1,), 0.5, dtype=torch.float64))

    def check_conditions(
        self, cond: Mapping[str, Any] | None, n: int, **how: Any
    ) -> dict[str, Any]:
        where = {key: how[key] for key in ("rows", "device") if key in how}
        given = check_conditions(cond, n, **where)
        own = {name: value for name, value in given.items() if self._for_reward(name)}
        known = self._own_names()
        rest = {
            k: v for k, v in given.items() if k not in own or k in known or self._parts[0].takes(k)
        }
        return {**own, **super().check_conditions(rest, n, **how)}

    def takes(self, name: str) -> bool:
        return self._for_reward(name) or super().takes(name)

    def _for_reward(self, name: str) -> bool:
        scales = self._own_names()
        return name not in scales and (self._named is None or name in self._named)

    # ------------------------------------------------------------------------------ the reward

    def value(self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor:
        """``w r_t(x)``, ``(B,)``, of states in the units of the field."""
        times = t.expand(len(x))
        own = {name: value for name, value in cond.items() if self._for_reward(name)}
        if self.of == "data":
            part, near = self._parts[0], t.clamp(min=_BESIDE)
            x = part.field.quantity("data", near, x, part.given(cond, len(x), x), checked=False)
        seen = x if self.transform is None else self.transform.invert(x)
        found = returned("reward(t, x)", self.reward(times, seen, **own), (len(x),))
        w = self._scales[0].at(t, cond)
        return found * w

    def gradient(self, t: Tensor, x: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS) -> Tensor:
        """``w ∇r_t``, ``(B, *)``, in the units of the field; differentiable in forward mode."""
        first = not self._seen
        if first:
            self._look(x, cond)
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():
                return self.gradient(ordinary(t), ordinary(x), cond)

        def summed(y: Tensor) -> tuple[Tensor, Tensor]:
            value = self.value(t, y, cond)
            return value.sum(), value

        _, pull, value = torch.func.vjp(summed, x, has_aux=True)  # type: ignore[misc]
        found: Tensor = pull(torch.ones((), dtype=x.dtype, device=x.device))[0]
        if first:
            check_gradient("reward", value, found)
            self._seen = True  # not before: a refusal is one for each call
        return found

    def rate(
        self, t: Tensor, x: Tensor, v: Tensor, cond: Mapping[str, Any] = NO_CONDITIONS
    ) -> Tensor:
        """``w (∂t r + v · ∇r)``, ``(B,)``: how fast r changes along v.

        Args:
            t: one time, ``()``.
            x: states, ``(B, *)``.
            v: velocities, ``(B, *)``.
            cond: conditions by name.
        """
        if self.of == "data":  # at an end the conversion has a value, and may have no derivative
            t = t.clamp(_BESIDE, 1 - 0.1 * _BESIDE)
        zero = torch.zeros((), dtype=x.dtype, device=x.device)
        return jvp(lambda h: self.value(t + h, x + h * v, cond), zero, torch.ones_like(zero))[1]

    def _look(self, x: Tensor, cond: Mapping[str, Any]) -> None:
        """Refuse a reward that autograd does not follow: its gradient would silently be zero."""
        row = torch.zeros(1, *x.shape[1:], dtype=x.dtype, device=x.device)
        one = {k: v[:1] if isinstance(v, Tensor) and v.ndim else v for k, v in cond.items()}
        value_and_gradient(
            lambda y: self.value(torch.full_like(row.flatten()[0], 0.5), y, one), row
        )

    # -------------------------------------------------------------------------------- the field

    def predict(
        self,
        t: Tensor,
        x: Tensor,
        cond: Mapping[str, Any] = NO_CONDITIONS,
        needed: Sequence[bool] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """The predictions of the field, ``(B, *)``, each shifted by its multiple of ∇r."""
        part = self._parts[0]
        found = part.predict(self.outputs, t, x, cond, needed)
        if all(value is None for value in found):
            return found
        near = t if self.of == "data" else self._near(t)
        gradient = self.gradient(near, x, cond)
        return tuple(
            None if value is None else value + self._shift(name, near, x) * gradient
            for name, value in zip(self.outputs, found, strict=True)
        )

    def _near(self, t: Tensor) -> Tensor:
        """Times off an end at which β vanishes: there ∇r vanishes too, and Δ/β has a pole."""
        part = self.process.noise_part
        if not isinstance(part, GaussianPart):
            return t
        if not hasattr(self, "_floor"):
            zero = torch.zeros((), dtype=torch.float64, device=part.device)
            self._floor = _BESIDE if bool(part.path.beta(zero).abs() < 1e-9) else 0.0
        return t.clamp(min=self._floor)

    def _shift(self, name: str, t: Tensor, x: Tensor) -> Tensor:
        """By how much of ∇r a prediction shifts; 0 where β vanishes for a while."""
        time, noise = widest(t), self.process.noise_part
        if name in ("score", "noise"):
            shift = torch.ones_like(time) if name == "score" else -noise.scale(time)
        else:
            part = self._part()
            if name == "data":
                shift = tweedie(part.path.beta(time), part.scale_sq(time))
            else:
                shift = part.half_diffusion_sq(time)
            if name == "mean_velocity":
                shift = shift + 0.5 * part.path.gamma_sq_dot(time)
        shift = torch.where(shift.abs() <= _FARTHEST, shift, 0.0)  # NaN is not <=
        return expand_time(shift.to(x), x)

    def _part(self) -> GaussianPart:
        part = self.process.noise_part
        if not isinstance(part, GaussianPart):
            raise ConversionError(
                f"guidance by a gradient shifts the score, and the velocity shifts with it only"
                f" where all of x_t but x1 is Gaussian; this process has no such part"
                f" ({part.owner}). Combine fields instead (ClassifierFree, Product), use a Gaussian"
                " base with the independent coupling, or guidance.sample_weighted(tilt, n,"
                " epsilon=1.0), which needs no shift of the velocity"
            )
        return part

    def weights(self, target: str, t: Tensor) -> Combination:
        if target in ("velocity", "mean_velocity", "data"):
            self._part()
        return super().weights(target, t)

    def _settings(self) -> dict[str, Any]:
        name = getattr(self.reward, "__name__", type(self.reward).__name__)
        return {"reward": name, "scale": self._scales[0], "of": self.of}


@checked
class Classifier(Tilt):
    """Classifier guidance: the field of ``p_t(x) p(c | x_t)^w``.

    Its score is ``s + w ∇ log p(c | x_t)``: with w = 1 and the exact classifier of noisy states it
    is the conditional field, exactly.

    Args:
        field: the unconditional field.
        log_prob: ``log p(c | x_t)``, called as ``log_prob(t, x, **cond)`` like a reward, gives
            ``(B,)``: the ``log_softmax`` of the logits, at the label of each row.
        scale: w.
        interval: times within which to guide.

    Example:
        >>> import transportflows as tpf
        >>> law = tpf.distributions.GaussianMixture(torch.tensor([[-2.0], [2.0]]))  # unit variances
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> def right(t, x):  # log p(mode at 2 | x_t)
        ...     return torch.nn.functional.logsigmoid(4 * t * x[:, 0] / ((1 - t) ** 2 + t**2))
        >>> t, x = torch.tensor(0.7), torch.tensor([[-1.0], [0.5]])
        >>> guided = Classifier(tpf.oracle(process, law), right)
        >>> exact = tpf.oracle(process, tpf.Gaussian((1,), 2.0))
        >>> torch.allclose(guided.score(t, x), exact.score(t, x), atol=1e-5)
        True
    """

    def __init__(
        self,
        field: Field,
        log_prob: Callable[..., Tensor],
        scale: Strength = 1.0,
        *,
        interval: tuple[float, float] | None = None,
    ) -> None:
        _check_function("log_prob", log_prob)
        super().__init__(field, log_prob, scale, interval=interval)


def _check_function(name: str, function: Any) -> None:
    """Refuse what cannot be called with (t, x) and the conditions that it names."""
    check_callable(name, function, ("t", "x"), sorted(conditions_of(function) or ()))
