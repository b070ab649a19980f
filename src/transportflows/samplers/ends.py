r"""Ends of time at which coefficients of the drift are infinite, and what a step does there.

*A root* is integrable: γ̇ of a Brownian latent grows like ``1/√t``, and what it multiplies is
finite. So it is integrated, not evaluated. In the step that touches a root end,

.. math:: t = t_{end} \pm h \theta^2,

the nodes of the scheme are read as θ, and at node i the coefficient c of an output is

.. math:: \tilde c_i = \frac{1}{w_i h} \int c(t) \, \ell_i(\theta) \, dt,

ℓ_i the Lagrange basis through the nodes and w_i the scheme's own quadrature: the scheme then adds
up ``∫ c f dt`` for every f that is a polynomial in θ, which is how a noise prediction or a velocity
looks there. In θ all is smooth, so the order is kept, and a learned f is multiplied by the mean of
c over the step. (A node of weight 0 only serves to reach the next one: it has the mean of c up to
there.) A scheme of one node looks half a step away instead.

*A pole* is not integrable: a data prediction where σ̂ = 0, a noise prediction where β = 0. A step
that ends there leaves the node out, and its slope is extrapolated from the others'. A solve that
starts there looks half a step away: what it would divide by zero does not tell anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .._core.precision import wide
from ..combination import Combination
from .schemes import Scheme

__all__ = ["BOUND", "extrapolation", "integration", "kind_of_end", "looks", "rooted"]

BOUND = 1e4
"""Weights above this are singular: float32 carries seven digits, and 1/σ̂ at 1e-4 takes four."""

_NEAR = 1e-6  # where the growth of a coefficient is looked at
_POLE = 0.75  # exponents of growth above this are a pole's, below a root's
_POINTS = 24


def kind_of_end(weights_at: Callable[[Tensor], Combination], end: float) -> str:
    """What weights have at an end of time: ``"regular"``, ``"root"`` or ``"pole"``.

    Args:
        weights_at: the weights at times, ``(T,)``.
        end: 0 or 1.
    """
    inward = 1.0 - 2.0 * end
    near = [end, end + inward * _NEAR, end + inward * 4 * _NEAR]
    weights = weights_at(torch.tensor(near, dtype=torch.float64))
    sizes = torch.stack([wide(w).reshape(3, -1).abs().amax(1) for w in weights.tensors()])
    # A large weight is no singular one unless it grows; NaN is not <=.
    if bool((sizes[:, 0] <= (4 * sizes[:, 1]).clamp(BOUND, torch.finfo(sizes.dtype).max)).all()):
        return "regular"
    near_by, farther = sizes[:, 1:].amax(0).tolist()
    growth = math.log(near_by / farther) / math.log(4) if farther > 0 else 0.0
    return "root" if growth < _POLE else "pole"


def rooted(theta: Tensor, *, first: bool, last: bool) -> tuple[Tensor, Tensor]:
    """Where in a step θ lies, and the derivative of that.

    ``θ²`` from a root at its start, ``1 - (1 - θ)²`` towards one; ``θ² (3 - 2θ)`` between two.
    """
    if first and last:
        return theta.square() * (3 - 2 * theta), 6 * theta * (1 - theta)
    if first:
        return theta.square(), 2 * theta
    return 1 - (1 - theta).square(), 2 * (1 - theta)


def looks(scheme: Scheme) -> tuple[float, ...]:
    """The θ at which a scheme looks in such a step: its nodes; Gauss's where they are 0 and 1.

    A noise prediction is zero at the end itself, but for its error, and a trapezoid would give that
    half of the weight. With equal weights what the states at 0 and 1 are too early and too late
    cancels.
    """
    if scheme.nodes == (0.0, 1.0) and scheme.quadrature == (0.5, 0.5):
        return 0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12)
    return scheme.nodes


def integration(scheme: Scheme, *, first: bool, last: bool) -> tuple[Tensor, Tensor]:
    """How coefficients are integrated over a step with a root at its start, its end or both.

    Returns:
        Points for each of the K nodes, as fractions of the step, and weights by which the values of
        c there add up to the node's, both ``(K, Q)``.
    """
    unit, gauss = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(_POINTS))
    unit, gauss = 0.5 * (unit + 1), 0.5 * gauss
    nodes = looks(scheme)
    total: dict[float, float] = {}  # by node, of those that count
    for node, weight in zip(nodes, scheme.quadrature, strict=True):
        if weight != 0:
            total[node] = total.get(node, 0.0) + weight
    places, weights = [], []
    for node in nodes:
        reach = 1.0 if node in total else min((c for c in nodes if c > node), default=1.0)
        place, slope = rooted(reach * unit, first=first, last=last)
        basis = gauss * slope
        for other in total if node in total else ():
            if other != node:
                basis = basis * (unit - other) / (node - other)
        places.append(place)
        weights.append(basis / total.get(node, 1.0))
    return torch.stack(places), torch.stack(weights)


def extrapolation(nodes: Sequence[float], dropped: Sequence[int], node: int) -> dict[int, float]:
    """With which weights values at the other nodes make that at one that is dropped."""
    kept = [k for k in range(len(nodes)) if k not in dropped]
    return {
        k: math.prod(
            (nodes[node] - nodes[j]) / (nodes[k] - nodes[j]) for j in kept if nodes[j] != nodes[k]
        )
        for k in kept
    }
