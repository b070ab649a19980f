"""Networks ``net(t, x, **cond)``, and adapters for those that are called otherwise.

A network that can do without a condition says which value stands for none by an attribute
``nulls``: ``{"label": -1}``. Training with ``drop_cond`` gives it that value in some rows.
"""

from .adapters import from_edm, from_sit, from_torchcfm, from_xt
from .conditioned import ConditionedNetwork
from .diffusers_models import diffusers_times, from_diffusers
from .mlp import MLP
from .nullable import Nullable
from .transformer import DiT, SequenceDiT
from .unet import UNet

__all__ = [
    "MLP",
    "ConditionedNetwork",
    "DiT",
    "Nullable",
    "SequenceDiT",
    "UNet",
    "diffusers_times",
    "from_diffusers",
    "from_edm",
    "from_sit",
    "from_torchcfm",
    "from_xt",
]
