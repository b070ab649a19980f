r"""Networks of other libraries as fields: their order of arguments, their clock, their labels.

Whatever a network is called by, what it has learned is one of the quantities of a
:class:`~transportflows.Field` under a process, and once that is said it is sampled, scored and
guided like any other. Conditions go by the names of this library: integers ``label``, -1 for none
where the network knows that, become what the other one calls them; all others go on by name.

=====================================  =================================================  ========
function                               called as                                          predicts
=====================================  =================================================  ========
:func:`from_xt`                        ``net(x, t, **cond)``                              any
:func:`from_torchcfm`                  ``net(t, x, y=None)``, or ``net(cat([x, t]))``      b
:func:`from_sit`                       ``net(x, t, y)``                                   b, s, η̂
:func:`from_edm`                       ``net(y, sigma, class_labels)``                    d
:func:`from_diffusers`                 ``net(x, timestep, class_labels=...)``             any
=====================================  =================================================  ========
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._core.checks import choice, positive_number
from .._core.precision import widest
from .._core.signatures import checked
from .._core.tensor import expand_time
from ..fields import DataPredictor, Field, NoisePredictor, Score, Velocity
from ..process import Process
from .foreign import Foreign
from .labels import in_rows
from .layers import check_states

__all__ = ["from_edm", "from_sit", "from_torchcfm", "from_xt"]

_KINDS: dict[str, type[Field]] = {"velocity": Velocity, "score": Score, "noise": NoisePredictor}


class _FromXT(nn.Module):
    def __init__(self, net: Callable[..., Any]) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, x: Tensor, **cond: Any) -> Any:
        """The network, its arguments in the other order."""
        check_states(x)
        if "label" in cond:
            cond["label"] = in_rows(cond["label"], x)
        return self.net(x, t.expand(x.shape[0]), **cond)


@checked
def from_xt(net: Callable[..., Any]) -> nn.Module:
    """Adapt ``net(x, t, **cond)``, with t of shape ``(B,)``, to ``net(t, x, **cond)``.

    A condition ``label`` that is one number is spread over the rows, ``(B,)``; all others go on as
    they are.

    Raises:
        TypeError: if it cannot be called.

    Example:
        >>> net = from_xt(lambda x, t: x * t[:, None])
        >>> net(torch.tensor(0.5), torch.ones(2, 1)).T
        tensor([[0.5000, 0.5000]])
    """
    if not callable(net):
        raise TypeError(f"net must be a callable net(x, t, **cond), got {type(net).__name__}")
    return _FromXT(net)


class _Torchcfm(Foreign):
    def __init__(self, net: Callable[..., Any], joined: bool) -> None:
        super().__init__(net, _rows_of(getattr(net, "label_emb", None)))
        self.joined = joined

    def forward(self, t: Tensor, x: Tensor, *, label: Any = None, **cond: Any) -> Any:
        """The network on (t, x), or on x with t as its last feature."""
        if self.joined:
            if label is not None or cond:
                raise ValueError("a network of cat([x, t]) takes no conditions; leave them out")
            return self.net(torch.cat([x, t.expand(x.shape[0]).unsqueeze(-1)], dim=-1))
        label = self.label(label, x)
        return self.call(label, t, x, **({} if label is None else {"y": label}), **cond)


@checked
def from_torchcfm(net: Callable[..., Any], process: Process) -> Velocity:
    """A field of a network of torchcfm: ``net(t, x, y=None)``, or its MLP ``net(cat([x, t]))``.

    Its clock, from noise at 0 to data at 1, and its target, the velocity, are ours: those of
    ``ConditionalFlowMatcher`` and its kin belong to ``Process(Linear(), base=Gaussian(shape))``.

    Args:
        net: called as the one or the other, which its signature tells: a network of one argument
            is given x ``(B, D)`` with the time as a last feature.
        process: what it was trained on.

    Raises:
        TypeError: if it takes (x, t), for which :func:`from_xt` is.

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
        >>> field = from_torchcfm(lambda xt: 2 * xt[:, 2:] + 0 * xt[:, :2], process)  # cat([x, t])
        >>> field.velocity(torch.tensor(0.5), torch.ones(1, 2))
        tensor([[1., 1.]])
    """
    takes = _required(net)
    if len(takes) > 1 and takes[0] in ("x", "sample"):
        raise TypeError(
            f"net takes ({', '.join(takes)}), x first; write Velocity(from_xt(net), ...)"
        )
    return Velocity(_Torchcfm(net, joined=len(takes) == 1), process)


class _SiT(Foreign):
    def forward(self, t: Tensor, x: Tensor, *, label: Any = None, **cond: Any) -> Any:
        """The network on (x, t, y), without what it says of a variance."""
        label = self.label(label, x)
        given = {} if label is None else {"y": label}
        return first_half(self.call(label, x, t.expand(x.shape[0]), **given, **cond), x)


@checked
def from_sit(net: Callable[..., Any], process: Process, *, prediction: str = "velocity") -> Field:
    """A field of a network that is called as SiT is, ``net(x, t, y)``, t = 1 at the data.

    SiT's ``"Linear"`` path is ``Process(OneSidedLinear(), shape=shape)``, its ``"GVP"``
    ``OneSidedTrigonometric()``. The label -1, or none, is the class that its ``y_embedder`` keeps
    for that. Of twice as many channels as x has the first half is the prediction.

    Args:
        net: a network of (x, t, y).
        process: what it was trained on.
        prediction: ``"velocity"``, ``"score"`` or ``"noise"``, which it learned.

    Raises:
        ValueError: for another prediction.

    Source: Ma et al. (2024), "SiT".

    Example:
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(2, 4, 4))
        >>> field = from_sit(lambda x, t: torch.cat([-x, 0 * x], 1), process, prediction="score")
        >>> field.score(torch.tensor(0.5), torch.ones(1, 2, 4, 4)).shape  # no variances
        torch.Size([1, 2, 4, 4])
    """
    choice("prediction", prediction, _KINDS, {"epsilon": "'noise'", "v": "'velocity'"})
    table = getattr(net, "y_embedder", None)
    classes, share = getattr(table, "num_classes", None), getattr(table, "dropout_prob", 0)
    known = int(classes) if classes else None
    return _KINDS[prediction](_SiT(net, known, known if share else None), process)


class _OfSigma(Foreign):
    """``D(x'/β, σ̂/β)`` of a network that is told the noise level, held between two levels."""

    def __init__(self, net: Callable[..., Any], process: Process, low: float, high: float) -> None:
        classes = int(getattr(net, "label_dim", 0) or 0) or None
        super().__init__(net, classes, None if classes is None else -1)
        self.process, self.low, self.high = process, low, high

    def forward(self, t: Tensor, x: Tensor, *, label: Any = None, **cond: Any) -> Any:
        """What it predicts of the data, in the dtype of x."""
        part, time = self.process.part, widest(t.expand(x.shape[0]))
        scale = part.scale(time)
        beta = torch.maximum(part.path.beta(time), scale / self.high)
        sigma = (scale / beta).clamp(min=self.low)
        shift = part.shift(expand_time(time, x), x)
        centred = x if shift is None else x - shift
        y = centred / expand_time(beta, x).to(x.dtype)
        if self.classes is None or label is not None:
            label = self.label(label, x)
        else:
            label = torch.full((1,), -1, device=x.device)  # one row for all, as EDM's own is
        if self.classes is not None:
            known = torch.arange(self.classes, device=x.device)
            label = (label.unsqueeze(-1) == known).to(x.dtype)
        if label is not None:
            cond = {"class_labels": label, **cond}
        return self.call(label, y, sigma.to(x.dtype), **cond).to(x.dtype)


@checked
def from_edm(
    net: Callable[..., Any],
    process: Process,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> DataPredictor:
    r"""A field of a preconditioned network ``D(y, σ)`` that predicts the data of ``y = x1 + σ z``.

    Such are the networks of EDM (Karras et al. 2022), ``net(y, sigma, class_labels)``. With
    ``x' = x_t - α m`` every process with a Gaussian part has :math:`y = x'/\beta` and
    :math:`\sigma = \hat\sigma/\beta`, so one network serves for all of them. Levels are held in
    ``[sigma_min, sigma_max]``: near β = 0 the network is given
    :math:`\sigma_{max} x'/\hat\sigma`. (For the inner network F, which is told
    ¼ log σ, there is :class:`~transportflows.EDM`.)

    Args:
        net: D. Where it has a ``label_dim``, labels become vectors with a 1, and -1 a zero vector.
        process: any with a Gaussian part, such as ``Process(VE(0.002, 80.0), shape=shape)``.
        sigma_min: lowest level that it knows.
        sigma_max: highest level.

    Raises:
        ConversionError: if the process has no Gaussian part.
        ValueError: unless ``0 < sigma_min < sigma_max``.

    Example:
        >>> import transportflows as tpf
        >>> def net(y, sigma): return y / (1 + sigma[:, None] ** 2)  # D for data N(0, 1)
        >>> field = from_edm(net, tpf.Process(tpf.SBDM(), shape=(1,)))
        >>> x = torch.tensor([[1.0], [-2.0]])
        >>> torch.allclose(field.score(torch.tensor(0.6), x), -x)  # of N(0, 1), which SBDM keeps
        True
    """
    low, high = positive_number("sigma_min", sigma_min), positive_number("sigma_max", sigma_max)
    if not low < high:
        raise ValueError(f"sigma_min must be below sigma_max, got {low:g} and {high:g}")
    process.part  # noqa: B018 (it refuses a process that has none)
    return DataPredictor(_OfSigma(net, process, low, high), process)


def first_half(prediction: Any, x: Tensor) -> Any:
    """A prediction without the variances that follow it, where it has twice the channels of x."""
    alike = isinstance(prediction, Tensor) and prediction.ndim == x.ndim
    twice = alike and prediction.shape[1] == 2 * x.shape[1]
    return prediction[:, : x.shape[1]] if twice else prediction


def _rows_of(table: Any) -> int | None:
    """How many classes an embedding has; None if it is none."""
    return table.num_embeddings if isinstance(table, nn.Embedding) else None


def _required(net: Any) -> list[str]:
    """The names of the arguments that a network must be given."""
    try:
        found = inspect.signature(net.forward if isinstance(net, nn.Module) else net).parameters
    except (TypeError, ValueError):
        return ["t", "x"]
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in found.values() if p.kind in places and p.default is p.empty]
