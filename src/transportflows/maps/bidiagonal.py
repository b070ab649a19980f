r"""``log |det J|`` of a matrix that is known by its products alone, by random probes.

With the singular values σ of J, ``log |det J| = Σ log σ = E zᵀ (½ log JᵀJ) z`` over probes z with
``E z zᵀ = Id``. A probe starts a bidiagonalisation (Golub and Kahan 1965), ``J V = U B``, with one
product by J and one by Jᵀ a step, whose singular values and vectors, ``B = P diag(θ) Wᵀ``, are the
nodes and weights of a quadrature,

.. math:: \tfrac12 z^\top \log(J^\top J)\, z \approx |z|^2 \sum_i W_{1i}^2 \log \theta_i .

It is stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017) without forming JᵀJ, which would
square the condition of J. The probes are unbiased; the quadrature errs to above, by less with
every step, and by nothing after d steps. Where singular values are spread over decades it falls as
slowly as one over the steps, so each estimate tells by how much it fell in the second half of them,
which is then about what is left. (The d columns of J cost less up to a thousand numbers, and do not
err.) A Taylor series of the logarithm is not offered: it converges for
``|Id - J| < 1`` only, which does not hold for a map that contracts to sharp modes, and its
remainder is a bias that no probe shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._core.autodiff import jvp, pullback
from .derivatives import no_forward_mode

__all__ = ["log_det_estimates"]

_SMALL = 0.2  # of the standard error
_DEAD = 1e-10  # of the largest singular value seen: there is nothing left in a probe's subspace


def log_det_estimates(
    f: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``f(x)``, estimates of ``log |det ∇f(x)|``, and by how much they fell in their second half.

    Steps end where the mean over the probes fell by less than a fifth of its standard error, in
    every row, or at d, where there is no error of the quadrature.

    Args:
        f: maps ``(k b, *)``, x repeated k times, to the same shape; of independent rows.
        x: where, ``(b, *)``.
        probes: z, ``(k, b, *)``, each with ``|z|² = d``.
        most: steps.

    Returns:
        Values ``(b, *)``, estimates ``(k, b)``, falls ``(b,)``.
    """
    k, b, d = len(probes), len(x), x.shape[1:].numel()
    many = x.repeat(k, *(1,) * (x.ndim - 1))
    value, pull = pullback(f, many)

    def push(v: Tensor) -> Tensor:
        try:
            return jvp(f, many, v.view(many.shape))[1].flatten(1)
        except (NotImplementedError, RuntimeError) as error:
            way = 'write method="exact", which can do without'
            raise no_forward_mode(error, "the estimate of a determinant", way) from error

    def back(u: Tensor) -> Tensor:
        return pull(u.view(many.shape)).flatten(1)

    v = probes.reshape(k * b, d) / math.sqrt(d)
    u, alpha = _unit(push(v))
    largest = alpha
    left, right, diagonal = [u], [v], [alpha]
    above: list[Tensor] = []
    steps, found = min(most, d), {1: _estimates(diagonal, above, d).view(k, b)}
    marks = {m for power in range(steps.bit_length()) for m in (2**power, 3 * 2**power)} | {steps}
    for step in range(1, steps):
        w, beta = _unit(_apart(back(u), right))
        beta, v = _alive(beta, w, largest)
        p, alpha = _unit(_apart(push(v), left))
        here = beta > 0
        alpha = torch.where(here, alpha, 1.0)
        largest = torch.maximum(largest, torch.where(here, alpha, 0.0))
        u = torch.where(here[:, None], p, 0.0)
        for kept, new in ((left, u), (right, v), (diagonal, alpha), (above, beta)):
            kept.append(new)
        if step + 1 in marks:
            found[step + 1] = now = _estimates(diagonal, above, d).view(k, b)
            error = now.std(0) / math.sqrt(k) if k > 1 else now.new_zeros(b)
            if bool((_fall(found, d) < _SMALL * error).all()):
                break
    return value[:b], found[max(found)], _fall(found, d)


def _fall(found: dict[int, Tensor], d: int) -> Tensor:
    """By how much estimates fell in the second half of the steps; infinite of a single one."""
    last = max(found)
    half = max((m for m in found if 2 * m <= last), default=None)
    if last == d:
        return torch.zeros_like(found[last][0])
    if half is None:
        return torch.full_like(found[last][0], math.inf)
    return (found[half] - found[last]).mean(0).abs()


def _unit(w: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors, and the lengths."""
    length = torch.linalg.vector_norm(w, dim=1)
    return w / torch.where(length > 0, length, 1.0)[:, None], length


def _apart(w: Tensor, others: list[Tensor]) -> Tensor:
    """Take the parts along orthonormal vectors out of w, twice, as rounding asks for."""
    basis = torch.stack(others, 1)
    for _ in range(2):
        w = w - torch.einsum("rm,rmd->rd", torch.einsum("rmd,rd->rm", basis, w), basis)
    return w


def _alive(beta: Tensor, w: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """β and the next vector, both 0 in rows whose subspace is invariant already."""
    here = beta > _DEAD * largest
    return torch.where(here, beta, 0.0), torch.where(here[:, None], w, 0.0)


def _estimates(diagonal: list[Tensor], above: list[Tensor], d: int) -> Tensor:
    """``d Σ W_{1i}² log θ_i``, ``(rows,)``; what is beyond an invariant subspace weighs nothing."""
    bidiagonal = torch.diag_embed(torch.stack(diagonal, 1))
    if above:
        bidiagonal = bidiagonal + torch.diag_embed(torch.stack(above, 1), offset=1)
    _, theta, turned = torch.linalg.svd(bidiagonal)
    logs = torch.where(turned[:, :, 0] == 0, 0.0, theta.log())
    total: Tensor = d * (turned[:, :, 0].square() * logs).sum(1)
    return total
