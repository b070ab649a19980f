"""azula's and diffusers' samplers on a grid of noise levels of the caller's, with a given field.

Both work on ``y = x'/β``, noise of scale u on data: azula as a schedule with α = 1 and σ = u,
diffusers by setting the σ of a scheduler after ``set_timesteps``. Nothing else of theirs is changed
but for ``lower_order_final`` and its like, off, so that every step has the order asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Denoise, Tensor, Tensor], Tensor]

__all__ = ["AZULA", "DIFFUSERS", "Sampler"]


def _azula(kind: str, **options: object) -> Sampler:
    def run(denoise: Denoise, y: Tensor, levels: Tensor) -> Tensor:
        from azula import sample as samplers
        from azula.denoise import Denoiser, DiracPosterior
        from azula.noise import Schedule

        class Levels(Schedule):
            """Time is the place in the list of levels."""

            def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
                u = levels[t.long()]
                return torch.ones_like(u), u

        class Given(Denoiser):
            def __init__(self) -> None:
                super().__init__()
                self.schedule = Levels()

            def forward(self, x_t: Tensor, t: Tensor, **kwargs: object) -> DiracPosterior:
                return DiracPosterior(mean=denoise(x_t, levels[t.long()]))

        base = getattr(samplers, kind)

        class OnLevels(base):  # type: ignore[misc, valid-type]
            @property
            def timesteps(self) -> Tensor:
                return torch.arange(len(levels), dtype=levels.dtype)

        return OnLevels(Given(), silent=True, **options)(y)

    return run


def _diffusers(kind: str, *, preserving: bool, heun: bool = False, **options: object) -> Sampler:
    def run(denoise: Denoise, y: Tensor, levels: Tensor) -> Tensor:
        import diffusers

        steps = len(levels) - 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = getattr(diffusers, kind)(prediction_type="sample", **options)
            scheduler.set_timesteps(steps)
        sigmas = levels
        if heun:
            sigmas = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
        scheduler.sigmas = sigmas if not heun else torch.cat([sigmas, sigmas[-1:]])
        scheduler.timesteps = torch.arange(len(sigmas) - 1, dtype=torch.float64)
        scheduler.num_inference_steps = len(scheduler.timesteps)
        scheduler.set_begin_index(0)
        scheduler.is_scale_input_called = True
        x = y / (1 + levels[0] ** 2).sqrt() if preserving else y
        for k, t in enumerate(scheduler.timesteps):
            u = sigmas[k]
            state = x * (1 + u**2).sqrt() if preserving else x
            x = scheduler.step(denoise(state, u), t, x, return_dict=False)[0]
        return x * (1 + levels[-1] ** 2).sqrt() if preserving else x

    return run


_FULL = {"lower_order_final": False}
_DPM = {**_FULL, "final_sigmas_type": "sigma_min", "euler_at_final": False}

AZULA: dict[str, tuple[Sampler, int]] = {
    "azula DDIM": (_azula("DDIMSampler"), 1),
    "azula Euler": (_azula("EulerSampler"), 1),
    "azula Heun": (_azula("HeunSampler"), 2),
    **{f"azula zAB {n}": (_azula("zABSampler", order=n), 1) for n in (2, 3)},
    **{f"azula vAB {n}": (_azula("vABSampler", order=n), 1) for n in (2, 3)},
    **{f"azula zEAB {n}": (_azula("zEABSampler", order=n), 1) for n in (2, 3, 4)},
    **{f"azula xEAB {n}": (_azula("xEABSampler", order=n), 1) for n in (2, 3, 4)},
    **{f"azula REAB {n}": (_azula("REABSampler", order=n), 1) for n in (2, 3)},
}
"""Samplers of azula, and their calls a step."""

DIFFUSERS: dict[str, tuple[Sampler, int]] = {
    "diffusers Euler": (_diffusers("EulerDiscreteScheduler", preserving=False), 1),
    "diffusers Heun": (_diffusers("HeunDiscreteScheduler", preserving=False, heun=True), 2),
    **{
        f"diffusers DPM++ {n}M": (
            _diffusers("DPMSolverMultistepScheduler", preserving=True, solver_order=n, **_DPM),
            1,
        )
        for n in (2, 3)
    },
    **{
        f"diffusers DEIS {n}": (
            _diffusers("DEISMultistepScheduler", preserving=True, solver_order=n, **_FULL),
            1,
        )
        for n in (2, 3)
    },
    **{
        f"diffusers UniPC {n}": (
            _diffusers("UniPCMultistepScheduler", preserving=True, solver_order=n, **_FULL),
            1,
        )
        for n in (2, 3)
    },
}
"""Schedulers of diffusers, and their calls a step."""
