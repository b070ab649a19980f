"""Where weighted particles start, and with which weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.precision import wide
from ..distributions import Gaussian
from ..fields.base import Field
from ..gaussian_part import GaussianPart
from ..solve.rows import Chunks
from .target import Target

__all__ = ["check_start", "starting", "starting_weights"]


class _From:
    """What :func:`starting_states` asks of a field, of one that starts from a power of the base."""

    def __init__(self, field: Field, start: Any) -> None:
        self.process, self.transform = field.process, field.transform
        self.networks, self.own_start = field.networks, start
        self.reference = field.reference


def starting(field: Field, target: Target) -> Any:
    """Where the states start: a Gaussian base to the power W, any other base as it is."""
    law, total = field.process.start, target.total
    if total == 1 or not isinstance(law, Gaussian):
        return _From(field, law)
    told = law.config()
    key = "scale_tril" if "scale_tril" in told else "scale"
    return _From(field, Gaussian(**{**told, key: law.scale * total**-0.5}))


def check_start(field: Field, target: Target) -> None:
    """Refuse a target whose density at t = 0 is not that of the base to some power."""
    if target.total <= 0:
        raise ValueError(
            f"the powers of the target add up to {target.total:g}, and a density to that power is"
            " no law to start from; they must add up to more than 0"
        )
    if field.process.coupling.condition_on_start:
        raise ValueError(
            "the field is told of the start of its path, so its density at t = 0 is that one point,"
            " and no weights are known; use sample(field, start=x0)"
        )
    part = field.process.noise_part
    if isinstance(part, GaussianPart):
        zero = torch.zeros((), dtype=torch.float64, device=part.device)
        if float(part.path.beta(zero).abs()) > 0.5 * float(part.scale(zero)):
            raise ValueError(
                f"under {type(part.path).__name__} x_0 holds the data themselves, so the density at"
                " t = 0 is another for each field, and is not known; use a path that starts from"
                " its base, such as Linear()"
            )


def starting_weights(
    field: Field, target: Target, x: Tensor, cond: Mapping[str, Any], chunk: int
) -> tuple[Tensor, float]:
    """``log q_0 / ρ`` of states from ρ, ``(n,)``, up to a number, and that number.

    For a Gaussian base ρ ∝ ρ0^W, and that number is
    ``log ∫ ρ0^W = (1 - W) (½ d log 2π + ½ log |Σ0|) - ½ d log W``.
    """
    law, total, log_start = field.process.start, target.total, 0.0
    logs = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    if total != 1 and isinstance(law, Gaussian):
        d = x[0].numel()
        half = 0.5 * float(torch.linalg.slogdet(wide(law.covariance())).logabsdet)
        log_start = (1 - total) * (0.5 * d * math.log(2 * math.pi) + half)
        log_start -= 0.5 * d * math.log(total)
    elif total != 1:
        try:
            logs = (total - 1) * law.log_prob(x)
        except NotImplementedError as error:
            raise ValueError(
                f"the powers of the target add up to {total:g}, so the weights begin with the"
                f" base's log-density, and that of the {type(law).__name__} is not known; use a"
                " Gaussian base, or powers that add up to 1"
            ) from error
    if target.rewards:
        chunks, zero = Chunks(x, chunk, cond), torch.zeros((), dtype=x.dtype, device=x.device)

        def at_start(y: Tensor, **own: Any) -> Tensor:
            total = y.new_zeros(len(y))
            for one in target.rewards:
                total = total + one.value(zero, y, own)
            return total

        logs = logs + chunks.map(at_start, x)
    return logs, log_start
