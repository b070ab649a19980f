"""Default networks ``net(t, x, **cond)``, and an adapter for ``net(x, t)``."""

from .mlp import MLP, from_xt

__all__ = ["MLP", "from_xt"]
