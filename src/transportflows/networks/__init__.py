"""Networks ``net(t, x, **cond)``, and adapters for those that are called otherwise."""

from .conditioned import ConditionedNetwork
from .mlp import MLP, from_xt
from .unet import UNet

__all__ = ["MLP", "ConditionedNetwork", "UNet", "from_xt"]
