r"""Log-densities along the probability-flow ODE of a field.

Where :math:`\dot X_t = b(t, X_t)`, the density along a path obeys
:math:`\frac{d}{dt} \log \rho_t(X_t) = -\nabla \cdot b(t, X_t)`, so that

.. math:: \log \rho_1(x) = \log \rho_0(X_0) - \int_0^1 \nabla \cdot b(t, X_t)\, dt,
          \qquad X_1 = x,

and state and integral are solved together (Chen et al. 2018; Albergo, slides, "transport
equation"). The divergence is exact, from D directional derivatives, or Hutchinson's estimate
:math:`z^\top (\partial_x b) z` with :math:`E z z^\top = \mathrm{Id}`, for which a few suffice.
Probes are drawn once a solve, so that the integrand is a smooth function of time and an adaptive
solver sees no noise; each has its own integral, and from their spread comes the standard error.

Derivatives are in reverse mode, one product a direction through the graph of one call, whose size
bounds the chunk; where that does not see all of a network, and where the result is to be
differentiated, in forward mode, with rows repeated once for each direction
(:mod:`transportflows.likelihood.divergence`). A network with an operation that has no forward
derivative is served in reverse mode always. Any network of independent rows serves.

A chain of levels has a bound of the density instead, from regression losses alone, without a solve
(:func:`variational_bound`).

Trained by its own likelihood a velocity is a continuous normalising flow: the classical baseline
(:class:`LikelihoodLoss`, with the adjoint method of torchdiffeq).
"""

from .bound import VariationalBound, variational_bound
from .density import (
    LogLikelihood,
    SampledLikelihood,
    log_likelihood,
    sample_with_log_likelihood,
)
from .law import FieldDistribution
from .levels import bits_per_dimension, dequantise
from .loss import LikelihoodLoss

__all__ = [
    "FieldDistribution",
    "LikelihoodLoss",
    "LogLikelihood",
    "SampledLikelihood",
    "VariationalBound",
    "bits_per_dimension",
    "dequantise",
    "log_likelihood",
    "sample_with_log_likelihood",
    "variational_bound",
]
