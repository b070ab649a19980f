r"""Scores: what Langevin steps move along.

A score here is any callable ``s(x, **cond)`` that gives ``∇ log p`` row by row. Two helpers make
one: :func:`score_at` from a field at a fixed time, with the conversion's weights formed once and
no value read from the device at each call, and :func:`score_of` from an unnormalised log-density,
by autograd. Rows go through a score in equal chunks, as they go through a solve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.arguments import check_callable
from .._core.autodiff import differentiable_gradient, value_and_gradient
from .._core.checks import returned
from .._core.conditions import NO_CONDITIONS
from .._core.precision import table_device, wide
from .._core.reprs import call
from .._core.signatures import checked
from ..fields.base import Field
from ..gaussian_part import ConversionError

__all__ = [
    "FieldTable",
    "LogProbScore",
    "ScoreFunction",
    "check_callable_score",
    "score_at",
    "score_of",
]

ScoreFunction = Callable[..., Tensor]


def check_callable_score(score: ScoreFunction, cond: Mapping[str, Any] | None) -> None:
    """Refuse a score that cannot be called as ``s(x, **cond)``: a field, a function of (t, x).

    Raises:
        TypeError: what it takes, and what to write instead.
    """
    if isinstance(score, Field):
        raise TypeError(
            f"a score is a function of states alone, and this {type(score).__name__} is one of"
            " times too; write score_at(field, t), with a time t before the end"
        )
    check_callable("score", score, ("x",), tuple(cond or ()))


@checked
class LogProbScore:
    """The score of a log-density, by autograd; see :func:`score_of`.

    Args:
        log_prob: ``log_prob(x, **cond)``, ``(B, *)`` to ``(B,)``.

    Example:
        >>> LogProbScore(lambda x: -x.square().sum(1) / 2)(torch.tensor([[1.0, 2.0]]))  # -x
        tensor([[-1., -2.]])
    """

    def __init__(self, log_prob: Callable[..., Tensor]) -> None:
        self.log_prob = log_prob

    __repr__ = call

    def with_value(self, x: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """Log-density ``(B,)`` and score ``(B, *)``, from one evaluation.

        While gradients are recorded, both can be differentiated in x and in what ``log_prob``
        learns, as in a score of an energy that is trained.
        """
        found = differentiable_gradient if torch.is_grad_enabled() else value_and_gradient
        return found(lambda y: check_log_prob(self.log_prob(y, **cond), y), x)

    def __call__(self, x: Tensor, **cond: Any) -> Tensor:
        """The score, ``(B, *)``."""
        return self.with_value(x, **cond)[1]


@checked
def score_of(log_prob: Callable[..., Tensor] | Any) -> LogProbScore:
    """Return the score ``x -> ∇ log p(x)`` of a log-density, by autograd.

    Args:
        log_prob: ``log_prob(x, **cond)``, from ``(B, *)`` to ``(B,)``, up to a constant. Each of
            its rows must depend on the same row of x only: one backward pass serves all rows.

    Raises:
        TypeError: if it is no function of x.

    Example:
        >>> score = score_of(lambda x: -x.square().sum(1) / 8)  # N(0, 4 Id)
        >>> score(torch.tensor([[4.0, -8.0]]))
        tensor([[-1.,  2.]])
    """
    if hasattr(log_prob, "log_prob"):
        raise TypeError(
            f"log_prob is a function, got a {type(log_prob).__name__}; write score_of(law.log_prob)"
        )
    if not callable(log_prob):
        raise TypeError(f"log_prob must be a callable log_prob(x), got {type(log_prob).__name__}")
    return LogProbScore(log_prob)


@checked
def score_at(field: Field, t: float, cond: Mapping[str, Any] = NO_CONDITIONS) -> ScoreFunction:
    """Return the score ``x -> s(t, x)`` of a field at one time, in the field's units.

    Args:
        field: any field that determines a score at ``t``; an oracle is one.
        t: the time, in [0, 1].
        cond: conditions for the network, the same for all rows; those that go with the rows are
            given to the sampler instead.

    Raises:
        ValueError: if the time is not one in [0, 1].
        TypeError: if it is no field.
        ConversionError: if the field has no score, or not at this time.

    Example:
        >>> import transportflows as tpf
        >>> exact = tpf.oracle(tpf.Process(tpf.OneSidedLinear()), tpf.Gaussian((1,), scale=2.0))
        >>> score_at(exact, 0.5)(torch.tensor([[1.0]]))  # of N(0, (0.5 · 2)² + 0.5²)
        tensor([[-0.8000]])
    """
    if not isinstance(field, Field):
        raise TypeError(f"score_at needs a Field, got {type(field).__name__}")
    if not 0 <= float(t) <= 1:
        raise ValueError(f"t must lie in [0, 1], got {t}")
    table = FieldTable(field, "score", torch.tensor([float(t)], dtype=torch.float64))
    if not table.finite[0]:
        raise ConversionError(
            f"the score of this {type(field).__name__} is singular at t = {t:g}: there is no noise"
            " left there; take an earlier time"
        )

    def score(x: Tensor, **more: Any) -> Tensor:
        given = field.check_conditions({**cond, **more}, len(x), ranges=False, device=x.device)
        return table(0, x, **given)

    return score


class FieldTable:
    """A quantity of a field at several times, its weights tabulated in float64.

    Args:
        field: the field.
        target: ``"score"``, ``"data"`` or another of the quantities.
        times: float64, ``(K,)``.

    Attributes:
        finite: whether the weights are finite, for each time.
        largest: the largest of the weights' absolute values, ``(K,)``; NaN or inf where singular.
    """

    @torch.no_grad()
    def __init__(self, field: Field, target: str, times: Tensor) -> None:
        like = field.reference()
        self.field, self.times = field, times.to(table_device(like.device))
        weights = field.weights(target, self.times)
        self.mean = field.process.noise_part.base_mean
        sizes = torch.stack([w.expand_as(self.times).abs() for w in weights.tensors()])
        self.largest = sizes.amax(0).cpu()
        self.finite: list[bool] = torch.isfinite(self.largest).tolist()
        table = weights.map(lambda w: wide(w).expand_as(self.times))
        self.combinations = table.tabulated(len(times), 1, like)

    def __call__(self, k: int, x: Tensor, /, **cond: Any) -> Tensor:
        """The quantity at time k, ``(B, *)``."""
        combination = self.combinations[k]
        predictions = self.field.predict(self.times[k].to(x), x, cond, combination.needed)
        mean = None if self.mean is None else self.mean.to(x)
        return combination.of(x, mean, predictions)


def check_log_prob(value: Tensor, x: Tensor) -> Tensor:
    """Refuse a log-density that does not give one number a row."""
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"log_prob must give one number a row, shape ({x.shape[0]},), and it gave {got}; sum"
            " over the event dimensions: .flatten(1).sum(1)"
        )
    return value


def check_score(s: Any, x: Tensor) -> Tensor:
    """Refuse a score that has not the shape of its states."""
    if not isinstance(s, Tensor) or s.shape != x.shape:
        got = tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__
        raise ValueError(
            f"the score must have the shape of x, {tuple(x.shape)}, and it gave {got}; a field is"
            " given as score_at(field, t), a log-density as score_of(log_prob)"
        )
    return returned("score(x)", s, None)
