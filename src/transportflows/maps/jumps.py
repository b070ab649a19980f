r"""Sampling by the jumps of a flow map: a call a step, with noise on the way if it is wanted.

*Jumps* go from time to time of a grid, ``x_t = X_{s,t}(x_s)``, forward or backward. With ε > 0 each
is joined to a relaxation at the noisier of its two times, which leaves the law of x_t as it is:
with the data d fixed, ``dx = ε s dt + √(2ε) dW`` is an Ornstein-Uhlenbeck process, so that over a
step of width h

.. math:: x \leftarrow x - (1 - e^{-\rho})\, \hat\sigma \hat\eta
          + \sqrt{1 - e^{-2\rho}}\, \hat\sigma z,
          \qquad \rho = \frac{\varepsilon |h|}{\hat\sigma^2},

a splitting of order 1 of the SDE of :func:`transportflows.sample`, with η̂ of the tangent (one more
call). For data of variance V - σ̂² it loses ``(1 - e^{-ρ})² (σ̂²/V)(1 - σ̂²/V)`` of V in a step; so
ρ is limited to .05, where the noise is too small for more, and ``Solution.limited`` tells it.

*Renoise* goes to t = 1 each time, and comes back to the next time by the process, ``α m + β X_{s,1}
+ σ̂ z`` (Song et al. 2023, "Consistency models", algorithm 1): the way of a map that was trained for
t = 1 alone. Where X_{s,1} is exact the law of x_t is only that of fresh noise on data: the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._core.signatures import checked
from ..samplers.stepper_scheme import StepperScheme
from ..solve.epsilon import EpsilonSchedule
from ..solve.stepper import Stepper
from .map_steppers import Jumping, Renoising

__all__ = ["Jumps", "Renoise"]


@checked
class Jumps(StepperScheme):
    """Steps ``X_{s,t}`` from time to time of the grid; the default for a :class:`FlowMap`.

    Takes ε ≥ 0 where the velocity gives the noise (one-sided, or a Gaussian base that is
    independent of the data), forward and backward.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)), coupling=tpf.Paired())
        >>> shift = tpf.maps.FlowMap(lambda s, t, x: 3 + 0 * x, process)  # x + 3 (t - s)
        >>> run = tpf.sample(shift, start=torch.ones(1, 1), scheme=Jumps(), steps=2, save_at=3)
        >>> run.trajectory.flatten(), run.nfe
        (tensor([1.0000, 2.5000, 4.0000]), 2)
    """

    name = "jumps"

    def stepper(
        self, field: Any, schedules: Sequence[EpsilonSchedule], saved: Sequence[float]
    ) -> Stepper:
        return Jumping(_as_map(field, self.name), schedules, saved)


@checked
class Renoise(StepperScheme):
    """To t = 1 each time, and back to the next time by fresh noise; forward in time only.

    Needs a process with a Gaussian part, and takes no ε: how much is drawn anew is decided by the
    grid.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
        >>> to_three = tpf.maps.FlowMap(
        ...     lambda s, t, x: 3 + 0 * x, process, prediction="data", to_data=True)
        >>> tpf.sample(to_three, 3, scheme=Renoise(), steps=2).x.flatten()
        tensor([3., 3., 3.])
    """

    name = "renoise"

    def check(self, schedules: Sequence[EpsilonSchedule]) -> None:
        if any(not schedule.is_zero for schedule in schedules):
            raise ValueError(
                "Renoise makes its own noise, and takes no epsilon; leave it out, or write"
                " scheme=tpf.maps.Jumps() for jumps with an epsilon"
            )

    def stepper(
        self, field: Any, schedules: Sequence[EpsilonSchedule], saved: Sequence[float]
    ) -> Stepper:
        return Renoising(_as_map(field, self.name), saved)


def _as_map(field: Any, name: str) -> Any:
    if not callable(getattr(field, "between", None)):
        raise TypeError(
            f"{name} are steps of a FlowMap, and this is a {type(field).__name__}; write"
            " scheme='heun', or make a map of it: maps.distill(field, data, ...)"
        )
    return field
