"""Networks ``net(t, x, **cond)``, and adapters for those that are called otherwise."""

from .adapters import from_edm, from_sit, from_torchcfm, from_xt
from .conditioned import ConditionedNetwork
from .diffusers_models import diffusers_times, from_diffusers
from .mlp import MLP
from .transformer import DiT, SequenceDiT
from .unet import UNet

__all__ = [
    "MLP",
    "ConditionedNetwork",
    "DiT",
    "SequenceDiT",
    "UNet",
    "diffusers_times",
    "from_diffusers",
    "from_edm",
    "from_sit",
    "from_torchcfm",
    "from_xt",
]
