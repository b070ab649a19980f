r"""Oracles: the exact fields of processes between known laws.

A network only approximates a velocity or a score, so a wrong sampler and a wrong network look
alike. An oracle is a field without a network: it computes what a perfect network would predict.
With it samplers, losses and metrics can be tested, and ``sample(oracle, n)`` works as with any
field.

Where both ends are Gaussian mixtures, independent of each other, and the path is affine, the law
of ``x_t`` is a Gaussian mixture too. A component i of the base ``N(m_i, C_i)`` with weight p_i and
a component j of the data ``N(μ_j, S_j)`` with weight q_j make one component

.. math:: N(M_{ij}, \Sigma_{ij}), \quad M_{ij} = \alpha m_i + \beta \mu_j, \quad
          \Sigma_{ij} = \alpha^2 C_i + \beta^2 S_j + \gamma^2 \mathrm{Id}

of weight ``p_i q_j``. Let ``u = Σ⁻¹ (x - M)`` in each, and ``w_ij(t, x)`` the probability that x
comes from it. Then, by the rules of Gaussian conditioning,

.. math:: s = -\sum w u, \quad b = \sum w (\dot M + \tfrac12 \dot\Sigma u), \\
          E[x_0 | x_t] = \sum w (m + \alpha C u), \quad
          E[x_1 | x_t] = \sum w (\mu + \beta S u).

The formula of b is ``v - γ γ̇ s`` written out. In it stand the derivatives of α², β² and γ², not
those of α and γ, so it is finite at both ends (Albergo, Boffi & Vanden-Eijnden 2023, appendix A,
has the case of ``β = 1 - α``). Weights are made from logarithms by a softmax, which keeps far tails
finite.

**Cost.** Σ has to be inverted at every time. Often it is diagonal in a basis that does not depend
on time: where ``C_i`` and ``S_j`` commute for all pairs (an isotropic base, a one-sided path,
diagonal covariances), and for any two where the path has no latent. Then a call costs ``O(B K d²)``
for B rows and K pairs, or ``O(B K d)`` where that basis is the given one. Otherwise Σ is factorised
at each distinct time.

Where ρ1 is the empirical law of some data, the same sum runs over the data, with S = 0. That is the
field which a network of unlimited capacity would learn from them, and it ends on the data
themselves.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from .._core.arrays import DataLike, is_array
from .._core.signatures import checked
from ..distributions.base import Distribution
from ..distributions.empirical import Empirical
from ..distributions.gaussian import Gaussian
from ..distributions.mixture import GaussianMixture
from ..process import Process
from .empirical import EmpiricalOracle
from .mixture import GaussianMixtureOracle

__all__ = ["EmpiricalOracle", "GaussianMixtureOracle", "oracle"]


@checked
def oracle(
    process: Process, data: Distribution | DataLike
) -> GaussianMixtureOracle | EmpiricalOracle:
    """Return the exact field of ``process`` for ``data``.

    Args:
        process: an affine process with an independent coupling.
        data: ρ1, a :class:`Gaussian`, a :class:`GaussianMixture`, or the rows of a tensor
            or an array ``(N, *)`` (or an :class:`Empirical` law of them, with its weights).

    Raises:
        TypeError: if no oracle is known for such data.

    Example:
        >>> import torch, transportflows as tpf
        >>> process = tpf.Process(tpf.OneSidedLinear(), shape=(1,))
        >>> exact = oracle(process, tpf.Gaussian((1,), mean=3.0))
        >>> exact.velocity(torch.tensor(0.0), torch.ones(1, 1))  # E[x1] - x
        tensor([[2.]])
    """
    if isinstance(data, (Gaussian, GaussianMixture)):
        return GaussianMixtureOracle(process, data)
    if isinstance(data, Empirical):
        return EmpiricalOracle(process, **data.config())
    if isinstance(data, Tensor) or is_array(data):
        return EmpiricalOracle(process, cast("DataLike", data))
    raise TypeError(
        f"no oracle is known for data of type {type(data).__name__}; give a Gaussian, a"
        " GaussianMixture, or a tensor of rows (N, *)"
    )
