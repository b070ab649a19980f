r"""How far a learned bridge is from an exact one: the divergence of their paths.

Two diffusions of the same noise, ``dX = f dt + √a dW``, from the same start, have (Girsanov)

.. math:: \mathrm{KL}(P^* \,\|\, \hat P) = \frac{1}{2a} \int_0^1 E_{P^*} |f^* - \hat f|^2\, dt ,

which bounds the divergence of the laws of (x0, x1), and of every x_t, from above.

Of a field that learns the noise, ``f̂ = v̂ - √(a t/(1-t)) η̂``, so that an error of η̂ that is left at
t = 1 makes it infinite, like ``∫ dt/(1-t)``, and the estimate grows with the logarithm of n; a
:class:`BridgeDrift` predicts f itself, and has none of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._core.checks import integer
from .._core.random import draw_key, stream
from .._core.reprs import summary
from .._core.signatures import checked
from ..fields import Field
from .drifts import bridge_variance
from .exact import ExactBridge
from .pairs import GaussianPairs

__all__ = ["PathDivergence", "path_divergence"]

_STRETCHES = 20


@checked
@dataclass(frozen=True, eq=False)
class PathDivergence:
    """An estimate of the divergence of paths, in nats.

    Attributes:
        value: KL of the exact bridge from the found one.
        standard_error: of the estimate.
        by_time: its parts over equal stretches of time, ``(20,)``; their sum is the value.

    Example:
        >>> import transportflows as tpf
        >>> law = tpf.Gaussian((1,))
        >>> pairs = tpf.bridges.gaussian_bridge(law, law, variance=1.0)
        >>> exact = tpf.bridges.ExactBridge(pairs)
        >>> off = lambda t, x: exact.velocity(t, x) + 0.5 * exact.score(t, x) + 1  # 1 too large
        >>> field = tpf.bridges.BridgeDrift(forward=off, process=exact.process)
        >>> found = path_divergence(field, pairs, 40)
        >>> round(found.value, 4)  # 1²/(2a)
        0.5
    """

    value: float
    standard_error: float
    by_time: Tensor

    __repr__ = summary


@torch.no_grad()
@checked
def path_divergence(
    field: Field,
    pairs: GaussianPairs,
    n: int = 20_000,
    *,
    generator: torch.Generator | None = None,
) -> PathDivergence:
    """``KL(exact bridge ‖ the field's)``, forward in time from the exact law of x0.

    It is a bound for fields that predict the drift, :class:`BridgeDrift`. That of a pair of
    velocity and noise is infinite where the noise is off at t = 1; what is found then is the part
    up to about 1 - 1/n, most of it in the last entry of ``by_time``, and bounds nothing.

    Args:
        field: of a path ``Linear(Brownian(a))``, with a forward drift, or a velocity and a score.
        pairs: the exact bridge's, of variance a.
        n: draws, in equal numbers over time; at least 40, two for each stretch of time.
        generator: source of randomness.

    Raises:
        ConversionError: if the field has no forward drift.
        ValueError: if the variances differ, the pairs are of no bridge, or there are too few draws.

    Example:
        >>> import transportflows as tpf
        >>> pairs = tpf.bridges.gaussian_bridge(
        ...     tpf.Gaussian((2,)), tpf.Gaussian((2,), 1.0, 0.5), variance=1.0
        ... )
        >>> path_divergence(tpf.bridges.ExactBridge(pairs), pairs, 100).value < 1e-6
        True
    """
    n = integer("n", n, f"a number of draws, at least {2 * _STRETCHES}", least=2 * _STRETCHES)
    exact, a = ExactBridge(pairs), float(bridge_variance(field.process))
    if pairs.variance is None or not math.isclose(a, pairs.variance, rel_tol=1e-6):
        raise ValueError(
            f"the field is of a Brownian motion of variance {a:g}, and the pairs of"
            f" {pairs.variance}; a bridge is compared with one of the same variance"
        )
    key = draw_key(generator)
    dtype = field.reference().dtype if field.networks else torch.float64
    x0, x1 = pairs.sample(n, generator=stream(key, 0), dtype=dtype)
    draws = stream(key, 1)
    t = (torch.arange(n, dtype=torch.float64) + torch.rand(n, generator=draws).double()) / n
    t = t.clamp(1e-6, 1 - 1e-6)
    sample = exact.process.sample(x1, x0=x0, t=t.to(dtype), generator=draws)
    error = _forward(field, sample.t, sample.x, a) - _forward(exact, sample.t, sample.x, a)
    values = error.double().flatten(1).square().sum(1) / (2 * a)
    parts = torch.stack([part.sum() for part in values.tensor_split(_STRETCHES)]) / n
    # Neighbours in time differ little: the variance is that within the stretches.
    spread = sum(float(part.var()) * len(part) for part in values.tensor_split(_STRETCHES))
    return PathDivergence(float(values.mean()), math.sqrt(spread) / n, parts)


def _forward(field: Field, t: Tensor, x: Tensor, a: float) -> Tensor:
    """``b + (a/2) s``."""
    half = torch.full((len(t), 1), 0.5 * a, dtype=torch.float64)
    own = field.drift_weights(t.double(), half, torch.ones_like(half))
    if own is None:
        return field.velocity(t, x) + 0.5 * a * field.score(t, x)
    weights = own.map(lambda w: w[:, 0].to(x))
    return weights.of(x, None, field.predict(t, x, needed=list(weights.needed)))
