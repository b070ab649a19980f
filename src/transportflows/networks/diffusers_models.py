r"""Models of diffusers as fields, with the tables of their schedulers.

A scheduler says what its model was trained on, and three sorts of them are told apart by what they
have:

- ``alphas_cumprod``, ᾱ of timesteps i = 0 .. T - 1: the chain
  :class:`~transportflows.sdes.DDPMChain` with ᾱ_{i+1} at its level k = i + 1, so that
  ``i = (1 - t) T - 1``. Its model predicts the noise
  (``"epsilon"``), the data (``"sample"``), or ``v = √ᾱ η̂ - √(1-ᾱ) d`` (``"v_prediction"``), of
  which the data are ``d = √ᾱ x - √(1-ᾱ) v``;
- ``sigma_data``: an :class:`~transportflows.EDM` field, whose model is told ¼ log σ;
- ``shift``: flow matching, ``x_t = t x1 + (1-t) x0`` with timestep ``(1 - t) T``, whose model
  predicts ``x0 - x1``, minus the velocity.

Nothing of diffusers is imported: what a model and a scheduler are is read from their attributes.
Clipping and thresholding are of a scheduler's steps, and no part of a field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._core.checks import positive_integer
from .._core.precision import widest
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..distributions import Gaussian
from ..fields import EDM, DataPredictor, Field, NoisePredictor, Velocity
from ..interpolants import Linear
from ..process import Process
from ..sdes import VE, DDPMChain
from .adapters import first_half
from .foreign import Foreign

__all__ = ["diffusers_times", "from_diffusers"]

_NEAR = 1e-3  # of a timestep: what rounding of (1 - t) T makes of an integer


class _Diffusers(Foreign):
    """``net(x, timestep, class_labels=...)`` with timesteps ``(1 - t) T - first``.

    Args:
        net: the model.
        levels: T; None where it is given t itself, by :class:`EDM`.
        first: 1 where timestep 0 is a level of noise, 0 where it is the data.
        sign: of the prediction.
        chain: gives the data of ``v``; None for other predictions.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        levels: int | None,
        *,
        first: int = 0,
        sign: int = 1,
        chain: DDPMChain | None = None,
    ) -> None:
        super().__init__(net, *_classes_and_null(net))
        self.levels, self.first, self.sign, self.chain = levels, first, sign, chain

    def forward(self, t: Tensor, x: Tensor, *, label: Any = None, **cond: Any) -> Any:
        """The prediction, of the shape of x."""
        t = t.expand(x.shape[0])
        label = self.label(label, x)
        if label is not None:
            cond = {"class_labels": label, **cond}
        found = self.call(label, x, self._timestep(t), return_dict=False, **cond)
        found = first_half(found[0] if isinstance(found, tuple) else found, x)
        if self.chain is not None:
            tau = 1 - widest(t)
            signal, noise = self.chain.a(tau), self.chain.sigma(tau)
            return expand_time(signal, x).to(x) * x - expand_time(noise, x).to(x) * found
        return found if self.sign == 1 else -found

    def _timestep(self, t: Tensor) -> Tensor:
        """Timesteps as they were in training: whole ones where t is that of a level."""
        if self.levels is None:
            return t
        place = ((1 - t) * self.levels - self.first).clamp(min=0)
        near = place.detach().round()
        moved = torch.where((place.detach() - near).abs() < _NEAR, near - place.detach(), 0.0)
        return place + moved


@checked
def from_diffusers(net: Callable[..., Any], scheduler: Any) -> Field:
    """A field of a model of diffusers and its scheduler.

    ``UNet2DModel``, ``DiTTransformer2DModel`` and others that are called alike.

    Labels are given as ``cond={"label": labels}``, one a row, or one number for all; for a DiT -1,
    or none, is the class that it was trained with for no class. Other conditions go to the model by
    name.

    The table is the scheduler's own, float32 as diffusers makes it, and is computed with in
    float64. Samples by DDIM are those of the scheduler to 1e-9 in float64 if its
    ``alphas_cumprod`` is made float64; as it is, it takes its roots in float32 whatever the dtype
    of the states, and 1e-8 to 5e-7 of their size is between the two.

    Args:
        net: a model that is called ``net(sample, timestep, class_labels=..., return_dict=False)``.
        scheduler: of any kind that has ``alphas_cumprod``, or of flow matching, or of EDM; of its
            numbers only those are used with which the model was trained.

    Raises:
        TypeError: if net is no such model, or scheduler is the class of one, or of another library.
        ValueError: for a table that ends without any signal, or a prediction that is not known.

    Example:
        >>> from types import SimpleNamespace as Made
        >>> alphas = torch.linspace(0.999, 0.001, 100)
        >>> made = Made(alphas_cumprod=alphas, config=Made(prediction_type="epsilon"))
        >>> from_diffusers(lambda x, timestep, return_dict: (x,), made).outputs
        ('noise',)
    """
    config = _config(scheduler)
    shape = _shape(net)
    prediction = str(config.get("prediction_type", "epsilon"))
    if hasattr(scheduler, "alphas_cumprod"):
        chain = _chain(scheduler)
        process = Process(chain, shape=shape)
        kinds: dict[str, type[Field]] = {
            "epsilon": NoisePredictor,
            "sample": DataPredictor,
            "v_prediction": DataPredictor,
        }
        if prediction not in kinds:
            raise ValueError(
                f"the scheduler says that its model predicts {prediction!r}, and known are"
                f" {', '.join(map(repr, kinds))}"
            )
        own = chain if prediction == "v_prediction" else None
        return kinds[prediction](_Diffusers(net, chain.levels, first=1, chain=own), process)
    if config.get("sigma_data") is not None:
        process = Process(VE(float(config["sigma_min"]), float(config["sigma_max"])), shape=shape)
        sign = -1 if prediction == "v_prediction" else 1
        return EDM(
            _Diffusers(net, None, sign=sign), process, sigma_data=float(config["sigma_data"])
        )
    if "shift" in config:
        levels = int(config.get("num_train_timesteps", 1000))
        if shape is None:
            raise ValueError(
                "the model does not tell its size, so its process is not known; give it a config"
                " with in_channels and sample_size, or write Velocity(net, process)"
            )
        base = Process(Linear(), base=Gaussian(shape))
        return Velocity(_Diffusers(net, levels, sign=-1), base)
    raise TypeError(
        f"a {type(scheduler).__name__} has none of alphas_cumprod, sigma_data and shift, so what"
        " its model was trained on is not known; write NoisePredictor(tpf.networks.from_xt(net),"
        " process) with a process of your own"
    )


@checked
def diffusers_times(scheduler: Any, steps: int) -> Tensor:
    """The times t of a scheduler's own timesteps: ``sample(field, start=z, t=times)``.

    For the step of DDIM, whose timesteps are ``steps`` of equal length: ``timestep_spacing``
    ``"leading"`` and ``"trailing"``. A ``"leading"`` grid does not begin at t = 0, but at the level
    that the scheduler begins at. Of flow matching, whose step is that of ``scheme="euler"``, the
    times are ``1 - σ`` of its ``sigmas``, with its shift.

    Args:
        scheduler: with ``set_timesteps``, which is called, and ``alphas_cumprod``, or of flow
            matching.
        steps: number of steps.

    Returns:
        ``(steps + 1,)``, float64, growing, the last of them 1, or one level before it where the
        scheduler ends there (``set_alpha_to_one=False``).

    Raises:
        TypeError: for a scheduler of another kind, whose clock is not that of levels.
        ValueError: for a spacing of unequal lengths, after which DDIM's own steps do not land on
            its timesteps; for a last step of no length, from timestep 0 to the level that it is
            at already (``set_alpha_to_one=False`` with ``steps_offset=0``); for times outside
            [0, 1].

    Example:
        >>> from types import SimpleNamespace as Made
        >>> made = Made(alphas_cumprod=torch.ones(100), config={"timestep_spacing": "trailing"})
        >>> made.timesteps, made.set_timesteps = [99, 74, 49, 24], lambda steps: None
        >>> diffusers_times(made, 4)
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000], dtype=torch.float64)
    """
    config = _config(scheduler)
    positive_integer("steps", steps)
    flow = "shift" in config and config.get("sigma_data") is None
    if not hasattr(scheduler, "set_timesteps") or not (
        flow or hasattr(scheduler, "alphas_cumprod")
    ):
        raise TypeError(
            f"a {type(scheduler).__name__} has no alphas_cumprod and is not of flow matching, or"
            f" has no set_timesteps; leave times out: tpf.sample(field, n, steps={steps})"
        )
    scheduler.set_timesteps(steps)
    if not hasattr(scheduler, "alphas_cumprod"):
        return _growing(1 - torch.as_tensor(scheduler.sigmas).cpu().double(), config)
    levels = len(scheduler.alphas_cumprod)
    k = torch.as_tensor(scheduler.timesteps).cpu().double() + 1
    if k.numel() != steps or bool((k[:-1] - k[1:] != levels // steps).any()):
        spacing = config.get("timestep_spacing")
        cure = f"steps that divide {levels}"
        if spacing not in _EVEN:
            cure = f"write 'leading' or 'trailing', and {cure}"
        elif levels % steps == 0:
            cure = (
                f"the steps of a {type(scheduler).__name__} are others than DDIM's; make a"
                " DDIMScheduler of its config, DDIMScheduler.from_config(scheduler.config)"
            )
        else:
            cure = f"write {cure}"
        raise ValueError(
            f"{steps} steps with timestep_spacing={spacing!r} are not of equal length; {cure}"
        )
    final = getattr(scheduler, "final_alpha_cumprod", None)
    last = 0.0 if final is None or float(final) == 1 else 1.0
    return _growing(1 - torch.cat([k, k.new_tensor([last])]) / levels, config)


_EVEN = ("leading", "trailing")


def _growing(times: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Times of a scheduler, if a solve can go along them."""
    if bool((times[1:] <= times[:-1]).any()):
        cure = "make it without invert_sigmas"
        if "set_alpha_to_one" in config:
            cure = "its last step is of no length: make it with steps_offset=1 or with"
            cure += " set_alpha_to_one=True"
        raise ValueError(
            f"the times of this scheduler do not grow, the last are {times[-2]:g} and"
            f" {times[-1]:g}; {cure}"
        )
    if float(times[0]) < 0 or float(times[-1]) > 1:
        raise ValueError(
            f"the times of this scheduler go from {times[0]:g} to {times[-1]:g}, and those of its"
            f" model from 0 to 1; make it with a smaller steps_offset than"
            f" {config.get('steps_offset')}"
        )
    return times


def _config(scheduler: Any) -> dict[str, Any]:
    """What a scheduler was made with, by name."""
    config = getattr(scheduler, "config", None)
    if isinstance(scheduler, type) or config is None:
        what = f"the class {scheduler.__name__}" if isinstance(scheduler, type) else "no scheduler"
        raise TypeError(
            f"scheduler must be a scheduler of diffusers, got {what}"
            f" ({type(scheduler).__name__}); write DDIMScheduler(...), an object"
        )
    return dict(config) if hasattr(config, "keys") else dict(vars(config))


def _chain(scheduler: Any) -> DDPMChain:
    """The chain of ᾱ_1 .. ᾱ_T: ``β_k = 1 - ᾱ_k/ᾱ_{k-1}``, ᾱ_0 = 1."""
    bars = torch.as_tensor(scheduler.alphas_cumprod).detach().cpu().double()
    if not float(bars[-1]) > 0:
        raise ValueError(
            "the scheduler's last ᾱ is 0 (rescale_betas_zero_snr): at that level nothing of the"
            " data is left, and a noise prediction tells nothing; make it with"
            " rescale_betas_zero_snr=False"
        )
    return DDPMChain(1 - bars / torch.cat([bars.new_ones(1), bars[:-1]]))


def _shape(net: Any) -> tuple[int, ...] | None:
    """The event shape that a model tells: ``(C, H, W)``."""
    config = getattr(net, "config", None)
    channels, size = getattr(config, "in_channels", None), getattr(config, "sample_size", None)
    if channels is None or size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    return (int(channels), *(int(side) for side in sides))


def _classes_and_null(net: Any) -> tuple[int | None, int | None]:
    """How many classes a model has, where it is told of classes; and which a DiT keeps for none."""
    config = getattr(net, "config", None)
    null = getattr(config, "num_embeds_ada_norm", None)
    if null is not None:
        return int(null), int(null)
    classes = getattr(config, "num_class_embeds", None)
    if classes is None or getattr(config, "class_embed_type", None) is not None:
        return None, None  # it is told of none, or of numbers
    return int(classes), None
