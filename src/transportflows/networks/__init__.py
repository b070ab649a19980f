"""Default networks ``net(t, x, **cond)``, and adapters for ``net(x, t)`` and for nulls.

A network that can do without a condition says which value stands for none by an attribute
``nulls``: ``{"label": -1}``. Training with ``drop_cond`` gives it that value in some rows.
"""

from .mlp import MLP, from_xt
from .nullable import Nullable

__all__ = ["MLP", "Nullable", "from_xt"]
