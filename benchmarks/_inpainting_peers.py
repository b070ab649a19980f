"""Inpainting by azula's and deepinv's methods, with a field of this library as their denoiser.

Of a state ``x = α x1 + σ z`` of either, ``x/(α + σ)`` is a state of the linear path at
``t = α/(α + σ)``, whatever their schedule; so the data prediction there is their denoiser's.
deepinv has ``α = 1`` at its denoisers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import transportflows as tpf

__all__ = ["azula_methods", "deepinv_methods", "same_sampler"]

Draw = Callable[[], Tensor]
_LEAST = 1e-2  # noise that is told to what cannot take none


def _data(field: tpf.Field, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The data prediction of ``x = α x1 + σ z``, rows ``(n, *shape)``."""
    total = alpha + sigma
    t = (alpha / total).to(x.dtype).flatten()
    t = t.expand(len(x)) if t.numel() == 1 else t
    scaled = x / total.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
    return field.data(t, scaled)


def _azula_denoiser(field: tpf.Field) -> Any:
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import RectifiedSchedule

    shape = field.process.shape

    class Wrapped(Denoiser):  # type: ignore[misc]
        """States are flat: azula's solvers work along the last axis."""

        def __init__(self) -> None:
            super().__init__()
            self.schedule = RectifiedSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            alpha, sigma = self.schedule(t)
            d = _data(field, x_t.unflatten(1, shape), alpha, sigma)
            return DiracPosterior(mean=d.flatten(1))

    return Wrapped()


def azula_methods(
    field: tpf.Field, y: Tensor, mask: Tensor, noise: float, steps: int
) -> dict[str, Draw]:
    """Each method as a function that draws one state a row of y, ``(n, *shape)``."""
    from azula.guidance import (
        DiffPIRDenoiser,
        DPSSampler,
        MMPSDenoiser,
        PGDMSampler,
        RePaintSampler,
        TMPDenoiser,
    )
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDPMSampler

    denoiser, how = _azula_denoiser(field), {"steps": steps, "silent": True}
    kept = mask.flatten()
    flat = y.flatten(1)
    seen, n = flat[:, kept], len(y)

    def a(x: Tensor) -> Tensor:
        return x[:, kept]

    def a_inv(u: Tensor) -> Tensor:
        return torch.zeros_like(flat).to(u).index_copy(1, kept.nonzero()[:, 0], u)

    def run(sampler: Any) -> Tensor:
        found: Tensor = sampler(sampler.init((n, flat.shape[1]), var=1.0))
        return found.unflatten(1, y.shape[1:])

    def guided(kind: Any, *more: Any, **options: Any) -> Draw:
        return lambda: run(DDPMSampler(kind(denoiser, seen, a, *more, **options), **how))

    variance, root = max(noise, _LEAST) ** 2, n**0.5  # its DPS takes the norm of all rows at once
    cov = IsotropicCovariance(torch.tensor(noise**2))
    return {
        "RePaint, 3 calls a step": lambda: run(
            RePaintSampler(denoiser, flat, kept, iterations=3, eta=1.0, **how)
        ),
        "DPS, ζ = 1": lambda: run(DPSSampler(denoiser, seen, a, zeta=root, **how)),
        "PGDM": lambda: run(PGDMSampler(denoiser, seen, a, a_inv, eta=1.0, **how)),
        "MMPS, 3 iterations": guided(MMPSDenoiser, cov, iterations=3),
        "TMPD": guided(TMPDenoiser, noise**2),
        "DiffPIR": guided(DiffPIRDenoiser, variance),
    }


def _deepinv_denoiser(field: tpf.Field, *, unit: bool) -> Any:
    """Of images in [-1, 1], or in [0, 1] where ``unit``."""
    from deepinv.models import Denoiser

    class Wrapped(Denoiser):  # type: ignore[misc]
        def forward(self, x: Tensor, sigma: Any, *_: Any, **__: Any) -> Tensor:
            sigma = torch.as_tensor(sigma, dtype=x.dtype)
            one = torch.ones_like(sigma)
            if not unit:
                return _data(field, x, one, sigma)
            return (_data(field, 2 * x - 1, one, 2 * sigma) + 1) / 2

    return Wrapped()


def deepinv_methods(
    field: tpf.Field, y: Tensor, mask: Tensor, noise: float, steps: int
) -> dict[str, Draw]:
    """As :func:`azula_methods`."""
    from deepinv.optim.data_fidelity import L2
    from deepinv.physics import GaussianNoise, Inpainting
    from deepinv.sampling import (
        DDRM,
        DPS,
        DDPMSolver,
        DiffPIR,
        MomentMatchingDataFidelity,
        PiGDMDataFidelity,
        PosteriorDiffusion,
        VariancePreservingDiffusion,
    )

    shape = tuple(y.shape[1:])
    own, unit = (_deepinv_denoiser(field, unit=u) for u in (False, True))
    own_noise, unit_noise = max(noise, 1e-3), max(noise, _LEAST) / 2
    physics = Inpainting(shape, mask=mask.to(y), noise_model=GaussianNoise(own_noise))
    halved = Inpainting(shape, mask=mask.to(y), noise_model=GaussianNoise(unit_noise))
    y_unit = torch.where(mask, (y + 1) / 2, 0.0)

    def solver() -> Any:
        return DDPMSolver(torch.linspace(1, 0, steps + 1, dtype=torch.float64))

    def posterior(fidelity: Any) -> Draw:
        sde = VariancePreservingDiffusion(alpha=1.0, minus_one_one=False, denoiser=own)
        model = PosteriorDiffusion(
            data_fidelity=fidelity, denoiser=own, sde=sde, solver=solver(), minus_one_one=False
        )
        return lambda: model(y, physics).float()

    def dps(guidance: str) -> Draw:
        model = DPS(own, solver=solver(), guidance=guidance, minus_one_one=False)
        return lambda: model(y, physics).float()

    ddrm = DDRM(unit, sigmas=torch.linspace(1, 0, steps + 1).numpy())
    pir = DiffPIR(unit, L2(), sigma=unit_noise, max_iter=steps)
    return {
        "DPS": dps("norm"),
        "DPS, annealed": dps("annealed"),
        "ΠGDM": posterior(PiGDMDataFidelity()),
        "moment matching, 3 iterations": posterior(MomentMatchingDataFidelity()),
        "DDRM": lambda: 2 * ddrm(y_unit.clone(), halved) - 1,
        "DiffPIR": lambda: 2 * pir(y_unit, halved) - 1,
    }


def same_sampler(field: tpf.Field, n: int, steps: int) -> dict[str, float]:
    """The largest difference of DDIM from common starts here and there, without an observation."""
    from azula.sample import DDIMSampler
    from deepinv.sampling import DDIMSolver, FlowMatching, PosteriorDiffusion

    generator = torch.Generator().manual_seed(3)
    shape = field.process.shape
    z = torch.randn(n, *shape, generator=generator)
    sampler = DDIMSampler(_azula_denoiser(field), steps=steps, silent=True)
    alpha, sigma = sampler.denoiser.schedule(sampler.timesteps.double())
    t, ends = alpha / (alpha + sigma), (alpha + sigma)[[0, -1]].float()
    here = tpf.sample(field, start=z, scheme="ddim", t=t).x
    there = sampler((z * ends[0]).flatten(1)).unflatten(1, shape) / ends[1]
    found = {"azula": float((here - there).abs().max())}
    times = torch.linspace(0.99, 0.01, steps + 1, dtype=torch.float64)
    own = _deepinv_denoiser(field, unit=False)
    sde = FlowMatching(denoiser=own, minus_one_one=False)
    model = PosteriorDiffusion(denoiser=own, sde=sde, solver=DDIMSolver(times), minus_one_one=False)
    there = model(None, None, x_init=z.double(), denoise_output=False).float()
    here = tpf.sample(field, start=z, scheme="ddim", t=1 - times).x
    found["deepinv"] = float((here - there).abs().max())
    return found
