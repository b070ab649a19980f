r"""The interpolant that transports best: a path with a network in it, learned for its path energy.

Of all paths between the same two laws those of least energy ``E ∫ |b|² dt`` make the flow of
optimal transport, whose energy is W2² (Benamou and Brenier 2000). The velocity minimises the
regression loss, of which the minimum is *minus* that energy, so the path of least energy solves

.. math:: \max_{I} \min_{\hat b} \; E \int_0^1
          \tfrac12 |\hat b(t, x_t)|^2 - \hat b(t, x_t) \cdot \dot x_t \; dt
          = \max_I \; - \tfrac12 E \int_0^1 |b|^2 \, dt

(Albergo and Vanden-Eijnden 2022, "Building normalizing flows with stochastic interpolants",
section 3). A regression loss minimised over both would collapse the path. Here both take steps on
one loss, the field down and the path up, and since what the path sees is only right where the field
has followed it, it takes a step once in a few: two groups of one optimizer. For a fixed field the
loss is linear in ``ẋ``; up is where ``∂t b + (∇b) b``, the acceleration along the flow, leads, and
at the optimum there is none.

The path is ``I = (1 - t) x0 + t x1 + t (1 - t) N(t, x0, x1)``, which has the right ends whatever N
is, and is the straight one at first. With N of both points it can give x_t any law between ρ0 and
ρ1, so that the pairs need not be those of a plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .._core.arguments import check_callable, positive_integer, positive_number
from .._core.checks import event_shape
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..fields import Field, Velocity
from ..interpolants import Gamma, Interpolant
from ..losses import VelocityLoss
from ..training import Trainer

__all__ = ["LearnedPath", "PathOptimizer", "path_trainer"]


@checked
class LearnedPath(Interpolant):
    """``x_t = (1 - t) x0 + t x1 + t (1 - t) N(t, x0, x1) + γ(t) z`` with a small network N.

    N is zero at first. It is trained by :func:`path_trainer`, beside the field.

    Args:
        shape: event shape, or its one dimension as an integer.
        width: of the hidden layers of N.
        depth: number of these.
        gamma: latent scale, or None for none.
        generator: source of its weights; torch's default one if None.

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> import transportflows as tpf
        >>> path = LearnedPath(2, width=8)
        >>> x0, x1 = torch.zeros(3, 2), torch.ones(3, 2)
        >>> path.mean(torch.tensor(0.5), x0, x1)[0]
        tensor([0.5000, 0.5000], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        width: int = 64,
        depth: int = 2,
        *,
        gamma: Gamma | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(gamma)
        self.shape = event_shape("shape", shape)
        self.width = positive_integer("width", width)
        self.depth = positive_integer("depth", depth)
        d = self.shape.numel()
        sizes = [2 * d + 1, *[width] * depth, d]
        layers: list[nn.Module] = []
        for one, two in pairwise(sizes):
            layers += [nn.Linear(one, two), nn.SiLU()]
        self.net = nn.Sequential(*layers[:-1])
        with torch.no_grad():
            for layer in layers[:-2:2]:
                for tensor in layer.parameters():
                    bound = layer.in_features**-0.5  # type: ignore[operator]
                    tensor.uniform_(-bound, bound, generator=generator)  # type: ignore[arg-type]
            for tensor in layers[-2].parameters():
                tensor.zero_()

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        if x1.shape[1:] != self.shape:
            raise ValueError(
                f"this path is of events of shape {tuple(self.shape)}, got {tuple(x1.shape[1:])};"
                f" write LearnedPath({tuple(x1.shape[1:])})"
            )
        own = next(self.net.parameters())
        s = (t if t.ndim == 0 else t.flatten()).expand(len(x1))
        rows = torch.cat([s[:, None].to(x1), x0.flatten(1), x1.flatten(1)], 1)
        bend: Tensor = self.net(rows.to(own)).to(x1).view_as(x1)
        s = expand_time(s.to(x1), x1)
        return torch.lerp(x0, x1, s) + s * (1 - s) * bend

    def config(self) -> dict[str, Any]:
        sizes = {"shape": list(self.shape), "width": self.width, "depth": self.depth}
        return {**sizes, "gamma": self.latent}


@checked
class PathOptimizer(torch.optim.Adam):
    """Adam that takes the networks of a field down a loss and its path up, in turn.

    :func:`path_trainer` gives it the loss that it is for, ``½ |b̂|² - b̂ · ẋ``. Any other is taken
    down and up too, and means something else.

    Args:
        field: a field whose path has parameters, such as :class:`LearnedPath`.
        lr: rate of the networks.
        path_lr: rate of the path; lower, since the field must follow.
        every: the path takes a step once in so many.

    Raises:
        ValueError: if the path has nothing to learn, or a rate or count is not positive.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(LearnedPath(2), base=tpf.Gaussian((2,)))
        >>> both = PathOptimizer(tpf.Velocity(tpf.networks.MLP(2, 16, 1), process))
        >>> [(group["maximize"], group["lr"]) for group in both.param_groups]  # networks, path
        [(False, 0.002), (True, 0.001)]
    """

    def __init__(
        self, field: Field, *, lr: float = 2e-3, path_lr: float = 1e-3, every: int = 2
    ) -> None:
        lr, path_lr = positive_number("lr", lr), positive_number("path_lr", path_lr)
        of_path = [p for p in field.process.interpolant.parameters() if p.requires_grad]
        if not of_path:
            path = type(field.process.interpolant).__name__
            raise ValueError(
                f"the path of this field, {path}, has nothing to learn; write"
                " Process(LearnedPath(shape), base=...)"
            )
        known = {id(p) for p in field.process.parameters()}
        nets = [p for p in field.parameters() if p.requires_grad and id(p) not in known]
        groups = [
            {"params": nets, "lr": lr, "maximize": False},
            {"params": of_path, "lr": path_lr, "maximize": True},
        ]
        super().__init__([group for group in groups if group["params"]])
        self.param_groups[-1]["every"] = positive_integer("every", every)
        self.param_groups[-1]["seen"] = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """A step of the networks, and every so often one of the path."""
        if closure is not None:
            check_callable("closure", closure, ())
        path = self.param_groups[-1]
        path["seen"] += 1
        if path["seen"] % path["every"]:
            for parameter in path["params"]:
                parameter.grad = None
        return super().step(closure)


@checked
def path_trainer(
    field: Velocity,
    *,
    lr: float = 2e-3,
    path_lr: float = 1e-3,
    every: int = 2,
    **settings: Any,
) -> Trainer:
    """A Trainer of a field and of its path, for the path energy: the max-min problem above.

    Its loss is ``½ |b̂|² - b̂ · ẋ``, whose minimum over fields is minus half of the path energy; its
    averages (``ema=``) are of both. The field follows the path by a lag, so give it some steps
    more on the path that was found: ``Trainer(trainer.averaged_field()).fit(...)``.

    Args:
        field: a velocity whose path has parameters, such as :class:`LearnedPath`.
        lr: rate of the networks.
        path_lr: rate of the path; not above that of the networks, since the field must follow.
        every: the path takes a step once in so many.
        settings: more arguments of the :class:`~transportflows.Trainer`, such as ``ema=0.995``.

    Raises:
        TypeError: for a loss or an optimizer of your own.
        ValueError: if the path has nothing to learn, or a rate or count is not positive.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(LearnedPath(2), base=tpf.Gaussian((2,)))
        >>> field = tpf.Velocity(tpf.networks.MLP(2, 16, 1), process)
        >>> trainer = path_trainer(field)
        >>> len(trainer.fit(torch.randn(50, 2), steps=3, batch_size=8, progress=False))
        3
    """
    for name in ("loss", "optimizer"):
        if name in settings:
            raise TypeError(
                f"path_trainer has a {name} of its own, of which one group goes down and the other"
                f" up; leave {name}= out"
            )
    optimizer = PathOptimizer(field, lr=lr, path_lr=path_lr, every=every)
    return Trainer(field, VelocityLoss(constant=False), optimizer=optimizer, **settings)
