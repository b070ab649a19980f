r"""Schemes: one step of ``dX = f(t, X) dt + √(2ε) dW``, and what order it has.

The noise is additive, so Itô and Stratonovich agree, and few stages go far. A scheme weighs the
noise by the quadrature with which it weighs ``ε s``: the increment of a step is
``n = √(2 Σ_k w_k ε(t_k)) ΔW`` with the scheme's own weights (left point, trapezoid, Simpson). The
exact ``∫ε dt``, or ε frozen at the left, would lower the order.

Orders are declared here and measured in the tests on mixtures (a Gaussian hides errors): ``order``
for ε = 0, ``weak_order`` for laws, ``strong_order`` for paths.

Euler-Maruyama is of order 1 in the step, and its noise is made to fit data in one point and of unit
variance (:mod:`transportflows.samplers.one_step`). For widths between, 0.2 say, two errors of some
percent at 25 and 50 steps have opposite signs, and what is left may be smaller at 25 steps than at
50; at 200 it is at most about 2 % of the standard deviation with ε > 0. A smaller limit makes few
steps worse and many better.

The noisy RK4: the stages of the classical method see what a Brownian path would have done by then.
With ``H ~ N(0, |h|/12)``, scaled like n, stages 2 and 3 see ``n/2 + ((3 ± √3)/2) H`` and stage 4
and the end see n. Then the stages average to ``∫W/h`` and their squares to ``∫W²/h``, which is
what weak order 2 and strong order 1.5 need. With n itself as a constant forcing it is weak order 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._core.checks import choice, names
from .._core.reprs import summary
from .._core.signatures import checked

__all__ = ["SCHEMES", "Scheme", "get_scheme"]

Drift = Callable[[int, Tensor], Tensor]
Step = Callable[[Drift, Tensor, float, Tensor | None, Tensor | None], Tensor]


@checked
@dataclass(frozen=True)
class Scheme:
    """One step, and what is known of it.

    Attributes:
        name: as ``sample(..., scheme=name)``.
        step: ``step(drift, x, h, n, area) -> x``, where ``drift(k, x)`` is f at node k, ``h`` the
            signed step, ``n`` the noise increment (None for an ODE) and ``area`` its H, scaled
            like n.
        nodes: where in the step f is evaluated, as fractions of h.
        quadrature: weights of the nodes, sum 1: those of ``∫ε dt``.
        order: order for ε = 0.
        weak_order: order of laws for ε > 0; None if the scheme takes no noise.
        strong_order: order of paths for ε > 0; None likewise.
        nfe: evaluations of f per step.
        area: whether it needs H.
        limit: how much of the noise a step may renew, the most of ``|h| ε/σ̂²`` (see
            :mod:`transportflows.solve.limit`).

    Example:
        >>> import torch, transportflows as tpf
        >>> def ralston(drift, x, h, n, area):
        ...     first = drift(0, x)
        ...     return x + h / 4 * (first + 3 * drift(1, x + 2 / 3 * h * first))
        >>> own = Scheme("ralston", ralston, (0.0, 2 / 3), (0.25, 0.75), 2, None, None, 2)
        >>> run = tpf.integrate(lambda t, x: -x, torch.ones(1, 1), [0.0, 0.5], scheme=own)
        >>> run.x, run.nfe  # 1 - h + h²/2 with h = 1/2
        (tensor([[0.6250]]), 2)
    """

    name: str
    step: Step = field(repr=False)
    nodes: tuple[float, ...]
    quadrature: tuple[float, ...]
    order: float
    weak_order: float | None
    strong_order: float | None
    nfe: int
    area: bool = False
    limit: float = 0.25

    @property
    def noisy(self) -> bool:
        """Whether the scheme takes noise."""
        return self.weak_order is not None

    __repr__ = summary


def _add(x: Tensor, slope: Tensor, h: float, n: Tensor | None = None) -> Tensor:
    moved = torch.add(x, slope, alpha=h)
    return moved if n is None else moved.add_(n) if not moved.requires_grad else moved + n


def _euler(drift: Drift, x: Tensor, h: float, n: Tensor | None, area: Tensor | None) -> Tensor:
    return _add(x, drift(0, x), h, n)


def _midpoint(drift: Drift, x: Tensor, h: float, n: Tensor | None, area: Tensor | None) -> Tensor:
    return _add(x, drift(1, _add(x, drift(0, x), 0.5 * h)), h)


def _heun(drift: Drift, x: Tensor, h: float, n: Tensor | None, area: Tensor | None) -> Tensor:
    first = drift(0, x)
    second = drift(1, _add(x, first, h, n))
    return _add(x, first + second, 0.5 * h, n)


_PLUS, _MINUS = (3 + math.sqrt(3)) / 2, (3 - math.sqrt(3)) / 2


def _rk4(drift: Drift, x: Tensor, h: float, n: Tensor | None, area: Tensor | None) -> Tensor:
    seen_2 = seen_3 = None
    if n is not None and area is not None:
        half = 0.5 * n
        seen_2 = torch.add(half, area, alpha=_PLUS)
        seen_3 = torch.add(half, area, alpha=_MINUS)
    k1 = drift(0, x)
    k2 = drift(1, _add(x, k1, 0.5 * h, seen_2))
    k3 = drift(1, _add(x, k2, 0.5 * h, seen_3))
    k4 = drift(2, _add(x, k3, h, n))
    return _add(x, k1 + 2 * (k2 + k3) + k4, h / 6, n)


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("euler", _euler, (0.0,), (1.0,), 1, None, None, 1),
        Scheme("euler_maruyama", _euler, (0.0,), (1.0,), 1, 1, 1, 1),
        Scheme("midpoint", _midpoint, (0.0, 0.5), (0.0, 1.0), 2, None, None, 2),
        Scheme("heun", _heun, (0.0, 1.0), (0.5, 0.5), 2, 2, 1, 2),
        Scheme(
            "rk4", _rk4, (0.0, 0.5, 1.0), (1 / 6, 4 / 6, 1 / 6), 4, 2, 1.5, 4, area=True, limit=1.0
        ),
    )
}
"""The fixed-step schemes by name."""


ELSEWHERE = {
    **dict.fromkeys(("ddpm", "euler_a", "euler_ancestral", "ddpm_solver"), "'ancestral'"),
    **dict.fromkeys(("dpmpp_2m", "dpm++_2m", "dpm++", "dpmpp", "dpm_solver++"), "'dpm2m'"),
    **dict.fromkeys(("dpm", "dpm_solver", "dpm2", "dpm_solver_multistep", "dpm_2m"), "'dpm2m'"),
    **dict.fromkeys(("dpmpp_3m", "dpm++_3m", "dpm3", "dpm_3m"), "'dpm3m'"),
    **dict.fromkeys(("unipc", "uni_pc", "unipc_multistep"), "'unipc3'"),
    **dict.fromkeys(("deis", "deis_multistep"), "'deis3'"),
    **dict.fromkeys(("pndm", "plms", "lms", "ipndm", "explicit_adams"), "'ab3'"),
    **dict.fromkeys(("rk2", "heun2", "heun3", "edm", "karras", "trapezoid"), "'heun'"),
    **dict.fromkeys(("rk45", "ode45", "dopri", "tsit5", "dormand_prince"), "'dopri5'"),
    **dict.fromkeys(("rk23", "bosh"), "'bosh3'"),
    **dict.fromkeys(("em", "sde", "euler_maruyama_sde", "reverse_diffusion"), "'euler_maruyama'"),
    **dict.fromkeys(("ode", "forward_euler"), "'euler'"),
    **dict.fromkeys(("pc", "predictor_corrector"), "'heun' with corrector=LangevinCorrector(...)"),
}
"""What schemes are called elsewhere, and here."""


def get_scheme(scheme: str | Scheme, *, noisy: bool) -> Scheme:
    """Return a scheme by name, or refuse it, listing the known ones."""
    if isinstance(scheme, str):
        scheme = SCHEMES[choice("scheme", scheme, SCHEMES, ELSEWHERE)]
    if noisy and not scheme.noisy:
        able = names(name for name, s in SCHEMES.items() if s.noisy)
        raise ValueError(
            f"epsilon > 0 was given to the deterministic scheme {scheme.name!r}; use one of {able},"
            " or epsilon=0"
        )
    return scheme
