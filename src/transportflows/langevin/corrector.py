r"""Correctors: Langevin steps at a time of the solve, after each step of a scheme.

A step of a scheme, the *predictor*, carries the law of x_t from one time to the next, with an
error. Langevin steps along ``s(t, ·)`` at the new time leave the law of x_t where it is and draw
towards it what is off it: the *corrector* (Song et al. 2021, section 4.2, algorithms 2, 4 and 5).

*The step size* comes from a signal-to-noise ratio r, that of the lengths of its two parts,
``r = |h s| / |√(2h) z|``, so that

.. math:: h = 2 r^2 \left(\frac{|z|}{|s|}\right)^2, \qquad
          x' = x + h\, s(t, x) + \sqrt{2h}\, z.

This is the step of algorithms 4 and 5, whose ``ε_i = 2 α_i (r |z| / |g|)²`` is our h, with
α_i = 1 for VE. For VP they have ``α_i = 1 - β_i``, which tends to 1 as the steps become many and
is left out here.

*Which lengths.* ``"batch"``: the mean of ``|s|`` over all rows (of one ε, over all processes of a
shared solve), as in Song et al.; for ``|z|`` its expectation, so that h does not depend on the
noise that it scales. ``"nominal"``: ``|s|`` is what pure noise has, ``E|ẑ|/σ̂``, so that
``h = 2 r² σ̂²`` and no row depends on another. An exact score's curvature is at most ``1/σ̂²``, so
these steps are stable for r < 1. The batch rule takes larger steps where the law is smooth beside
σ̂, ``E|s|² << d/σ̂²``; but where ``|s|`` is small because only k of d directions are narrow, h is
about ``2 r² σ̂² d/k``, which is unstable beyond ``2 σ̂²``.

*Bias.* A correction is unadjusted, so it has the bias of its h. On N(0, v Id) the batch rule makes
``h = 2 r² v²/V`` of the variance V that it finds, and so ``V = v (1 + r²)``, at the last time too:
r = 0.16 adds 2.6 % to the variance, r = 0.5 a quarter. The nominal rule adds ``r² σ̂²/V`` or so at
each time, and corrections that weaken with σ̂² take part of it back (r = 0.4, 60 steps of VE: 4.5 %
are left, where the batch rule leaves 16 %).

*Never row by row.* With a step size h(x) that depends on its own row the chain is an Euler step of
the generator ``h(x) (s · ∇ + Δ)``, which leaves ``p/h`` invariant, up to a constant, and not p. The
mean over n rows has this fault divided by n; for one row it is refused.

*With which predictor.* Any one-step scheme and any ε. A multistep scheme extrapolates predictions
made at states that corrections have moved since, and takes their jumps for a trend: with
``"dpm2m"``, r = 0.2 and 60 steps the variance of VE was 5 % too large, that of VP 52 %. It is
refused.

*Where.* At each time of the grid but the first at which σ̂ > 0 and the score's weights are bounded
(1e4): at t = 1 only where noise is left there, as for VE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .._core.checks import names, positive_integer
from .._core.distributed import World
from .._core.precision import table_device, widest
from .._core.signatures import checked
from .._core.tensor import sum_events
from ..fields.base import Field
from ..gaussian_part import ConversionError
from ..samplers.ends import BOUND
from ..solve.hooks import BegunHook, Corrector, Moment, SolveHook
from ..solve.noise import NoiseSource
from ..solve.rows import Chunks
from .scores import FieldTable
from .steps import langevin_step

__all__ = ["LangevinCorrection", "LangevinCorrector"]

_NORMS = ("batch", "nominal")


@checked
@dataclass(frozen=True)
class LangevinCorrector(Corrector):
    """Langevin corrections after each step of a solve: ``sample(field, n, corrector=...)``.

    Args:
        snr: the signal-to-noise ratio r of a correction, in (0, 1).
        steps: corrections after each step.
        norm: ``"batch"`` or ``"nominal"``: how long the score is taken to be; see the module.

    Raises:
        ValueError: if ``snr`` is not in (0, 1), the norm is unknown, or there are no steps.

    Source: Song et al. (2021), algorithms 2, 4 and 5; r = 0.16 is theirs for VE and images.

    Example:
        >>> import transportflows as tpf
        >>> exact = tpf.oracle(tpf.Process(tpf.VE(0.01, 10.0), shape=(2,)), tpf.Gaussian((2,)))
        >>> run = tpf.sample(exact, 100, steps=50, corrector=LangevinCorrector(snr=0.16))
        >>> run.nfe, run.scheme
        (150, 'heun + langevin')
    """

    snr: float = 0.16
    steps: int = 1
    norm: str = "batch"

    def __post_init__(self) -> None:
        if not 0 < self.snr < 1:
            raise ValueError(
                f"snr must lie in (0, 1), got {self.snr}: with h = 2 snr² σ̂² on pure noise, steps"
                " are stable below 1 only; Song et al. take 0.16"
            )
        positive_integer("steps", self.steps)
        if self.norm not in _NORMS:
            raise ValueError(f"unknown norm {self.norm!r}; known: {names(_NORMS)}")

    def bound(self, field: Field, noise: NoiseSource, key: int, team: World) -> SolveHook:
        return LangevinCorrection(self, field, noise, key, team)


@dataclass(frozen=True, eq=False, repr=False)
class LangevinCorrection(SolveHook):
    """The corrections of one call of ``sample``.

    Args:
        rule: what the user asked for.
        field: the field that is sampled.
        normals: source of standard normals: of increments over times of length 1.
        seed: its key.
        team: the processes that share the solve.
    """

    rule: LangevinCorrector
    field: Field
    normals: NoiseSource
    seed: int
    team: World

    @torch.no_grad()
    def begin(
        self, times: Tensor, x: Tensor, chunks: Chunks, noise: NoiseSource, key: int
    ) -> BegunHook:
        part, after, rule = self.field.process.noise_part, times[1:], self.rule
        part.check("score")
        table = FieldTable(self.field, "score", after)
        scale = part.scale(after.to(part.device)).cpu()
        active = (scale > 0) & (table.largest <= BOUND)  # NaN is not <=
        if not bool(active.any()):
            raise ConversionError(
                "the score is singular at every time of this grid but the first, so there is"
                " nothing to correct by; take more steps, or leave the corrector out"
            )
        if rule.norm == "batch":
            everywhere = torch.tensor([len(x)], dtype=torch.float64, device=table_device(x.device))
            self.team.sum_(everywhere)
            if int(everywhere) == 1:
                raise ValueError(
                    "norm='batch' averages the length of the score over the rows, and with one row"
                    " the step would depend on that row's own state, which spoils the law; write"
                    " LangevinCorrector(norm='nominal')"
                )
        size = x[0].numel()
        length = math.sqrt(2) * math.exp(math.lgamma((size + 1) / 2) - math.lgamma(size / 2))
        self.normals.begin(self.seed, x, 0.0)
        return _Corrections(
            rule, table, self.normals, self.team, chunks,
            events=x.shape[1:], length=length, active=active.tolist(),
            nominal=(2 * rule.snr**2 * scale.square()).tolist(),
        )  # fmt: skip


class _Corrections(BegunHook):
    """The corrections of one solve.

    Args:
        rule: what the user asked for.
        table: the score at each time of the grid but the first.
        normals: begun.
        team: the processes that share the solve.
        chunks: how the rows are divided.
        events: shape of an event.
        length: ``E|z|`` of standard normals of that shape.
        active: at which steps to correct.
        nominal: their step sizes by ``norm="nominal"``.
    """

    name = "langevin"

    def __init__(
        self,
        rule: LangevinCorrector,
        table: FieldTable,
        normals: NoiseSource,
        team: World,
        chunks: Chunks,
        *,
        events: torch.Size,
        length: float,
        active: list[bool],
        nominal: list[float],
    ) -> None:
        self.rule, self.table, self.normals, self.team = rule, table, normals, team
        self.chunks, self.events, self.length = chunks, events, length
        self.active, self.nominal = active, nominal
        self.most = rule.steps * sum(active)

    def __call__(self, moment: Moment, /) -> Tensor | None:
        step, chunks = moment.step - 1, self.chunks
        if not self.active[step]:
            return None
        state = moment.x.reshape(chunks.total, *self.events)
        for k in range(self.rule.steps):
            z, _ = self.normals.increment(step * self.rule.steps + k, 0.0, 1.0, area=False)
            # All scores before any step: the step size must not depend on the chunks.
            s = chunks.map(partial(self.table, step), state)
            h = self._step_size(step, s)
            if chunks.groups > 1:
                z = z.repeat(chunks.groups, *(1,) * (z.ndim - 1))
                h = h.repeat_interleave(chunks.n) if h.ndim else h
            state = langevin_step(state, s, h, z)
        self.nfe += self.rule.steps
        return state.view(moment.x.shape)

    def _step_size(self, step: int, scores: Tensor) -> Tensor:
        """H, ``()`` or one a group, ``(groups,)``, on the device."""
        like = scores
        if self.rule.norm == "nominal":
            return torch.full((), self.nominal[step], dtype=like.dtype, device=like.device)
        lengths = sum_events(widest(scores.detach()).square()).sqrt().view(-1, self.chunks.n)
        there = torch.isfinite(lengths)  # a row that is lost must not take the others along
        total = torch.where(there, lengths, 0.0).sum(1)
        count = there.sum(1).to(total)
        self.team.sum_(total, count)
        mean = total / count
        return (2 * (self.rule.snr * self.length / mean).square()).to(like)
