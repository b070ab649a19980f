"""The kinds of fields that predict one quantity."""

from __future__ import annotations

from .._core.signatures import checked
from .base import Field

__all__ = ["DataPredictor", "MeanVelocity", "NoisePredictor", "Score", "Velocity"]


@checked
class Velocity(Field):
    """The network predicts the velocity ``b = E[ẋ_t | x_t]``.

    Example:
        >>> import torch
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.SBDM(), shape=(1,))  # keeps data of law N(0, 1) as they are
        >>> field = Velocity(lambda t, x: torch.zeros_like(x), process)
        >>> field.score(torch.tensor(0.6), torch.ones(1, 1))  # -x, that of N(0, 1)
        tensor([[-1.]])
    """

    outputs = ("velocity",)


@checked
class MeanVelocity(Field):
    """The network predicts the mean velocity ``v = E[∂t I | x_t]``.

    Unlike ẋ, its target has no γ̇, so it is finite at the ends. A velocity needs the noise beside
    it: :class:`FieldPair` with ``mean_velocity`` and ``noise``.

    Example:
        >>> import torch
        >>> import transportflows as tpf
        >>> base = tpf.distributions.Uniform((1,))
        >>> process = tpf.Process(tpf.Linear(gamma=tpf.Brownian()), base=base)
        >>> field = MeanVelocity(lambda t, x: torch.zeros_like(x), process)
        >>> field.velocity(torch.tensor(0.2), torch.ones(1, 1))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        transportflows.gaussian_part.ConversionError: ...FieldPair(...
    """

    outputs = ("mean_velocity",)


@checked
class Score(Field):
    """The network predicts the score ``s = ∇ log ρ_t``.

    Example:
        >>> import torch
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.SBDM(), shape=(1,))
        >>> field = Score(lambda t, x: -x, process)  # of N(0, 1), the law of data and x_t
        >>> field.data(torch.tensor(0.6), torch.ones(1, 1))  # E[x1 | x_t = x] = t x
        tensor([[0.6000]])
    """

    outputs = ("score",)


@checked
class NoisePredictor(Field):
    """The network predicts the noise ``η̂ = E[ẑ | x_t]``, positive sign: ``s = -η̂ / σ̂``.

    Example:
        >>> import torch
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
        >>> field = NoisePredictor(lambda t, x: x / (1 - t[:, None]), process)  # all data are 0
        >>> field.score(torch.tensor(0.5), torch.ones(1, 1))  # -x/(1 - t)², that of N(0, (1 - t)²)
        tensor([[-4.]])
    """

    outputs = ("noise",)


@checked
class DataPredictor(Field):
    """The network predicts the data ``d = E[x1 | x_t]``.

    Example:
        >>> import torch
        >>> import transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
        >>> field = DataPredictor(lambda t, x: torch.full_like(x, 3.0), process)  # all data are 3
        >>> field.velocity(torch.tensor(0.5), torch.ones(1, 1))  # straight to 3, in the time left
        tensor([[4.]])
    """

    outputs = ("data",)
