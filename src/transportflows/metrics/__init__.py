r"""How good samples are: distances with floors and error bars, tests, likelihoods' companions.

Each takes samples ``(N, *)`` of any event shape, and works in float64 whatever their dtype. What
to use:

- **Moments** (:func:`mean_error`, :func:`covariance_error`, :func:`moment_summary`): a wrong mean
  or scale, with its floor.
- **Optimal transport**: :func:`wasserstein2` and :func:`wasserstein1`, exact, up to 20,000 points,
  upward biased in high dimension (:func:`corrected_wasserstein2`, :func:`wasserstein2_error`);
  :func:`entropic_wasserstein2`, with a certificate, and :func:`sinkhorn_divergence`;
  :func:`sliced_wasserstein2` and :func:`max_sliced_wasserstein2` for large samples;
  :func:`gaussian_wasserstein2` between fitted Gaussians; :func:`optimal_pairs`.
- **Kernels**: :func:`mmd2` and its interval, :func:`energy_distance`,
  :func:`characteristic_distance`, :func:`kernel_stein_discrepancy` where the score is known.
- **Tests** of equal laws: :func:`energy_test`, :func:`sliced_kolmogorov_test`,
  :func:`classifier_test`.
- **Divergences**: :func:`kl_log_densities`, :func:`kl_kernel_density`,
  :func:`jensen_shannon_kernel_density`, :func:`kl_nearest_neighbours`, :func:`fisher_divergence`.
- **Coverage and copying**: :func:`nearest_neighbours`, :func:`coverage`, :func:`mode_weights`.
- **Pairs**: :func:`pair_error`, whether samples end where the pairs of their starts say.
- **Features**: :func:`frechet_distance` and :func:`kernel_distance` with an extractor of yours.
- **Trained fields**: :func:`loss_by_time`, :func:`consistency`, :func:`path_geometry`,
  :func:`error_by_nfe`; with an oracle :func:`oracle_errors` (the bound and the optimal ε of the
  SDE), :func:`ode_kl_identity`, and :func:`prior_bias` of a diffusion's finite horizon.
- All at once, with floors: :func:`evaluate`.
"""

from ..samplers.geometry import PathGeometry, path_geometry
from .characteristic import CharacteristicDistance, characteristic_distance
from .classifier import ClassifierTest, classifier_test
from .diagnostics import Consistency, LossByTime, consistency, loss_by_time
from .divergences import (
    fisher_divergence,
    jensen_shannon_kernel_density,
    kl_kernel_density,
    kl_log_densities,
)
from .energy import PermutationTest, TwoSampleTest, energy_distance, energy_test
from .entropic import (
    SinkhornDivergence,
    entropic_wasserstein2,
    sinkhorn_divergence,
)
from .estimates import Estimate
from .features import extract_features, frechet_distance, kernel_distance
from .gaussian import bures_wasserstein2, gaussian_wasserstein2
from .kernels import (
    GaussianKernel,
    Kernel,
    PolynomialKernel,
    RationalQuadraticKernel,
    median_bandwidth,
)
from .kolmogorov import ProjectionTest, holm, sliced_kolmogorov_test
from .mmd import KernelDistance, mmd2
from .modes import ModeWeights, mode_weights
from .moments import MomentError, MomentSummary, covariance_error, mean_error, moment_summary
from .neighbours import (
    Coverage,
    NeighbourDistances,
    coverage,
    kl_nearest_neighbours,
    nearest_distances,
    nearest_neighbours,
)
from .oracle_diagnostics import KLIdentity, OracleErrors, ode_kl_identity, oracle_errors
from .pairs import PairError, pair_error
from .paths import error_by_nfe
from .report import METRICS, MetricRow, MetricsReport, evaluate
from .sliced import (
    MaxSlicedDistance,
    SlicedDistance,
    max_sliced_wasserstein2,
    sliced_wasserstein2,
)
from .starts import EndBias, PriorBias, prior_bias
from .stein import kernel_stein_discrepancy
from .wasserstein import optimal_pairs, wasserstein1, wasserstein2
from .wasserstein_error import CorrectedDistance, corrected_wasserstein2, wasserstein2_error

__all__ = [
    "METRICS",
    "CharacteristicDistance",
    "ClassifierTest",
    "Consistency",
    "CorrectedDistance",
    "Coverage",
    "EndBias",
    "Estimate",
    "GaussianKernel",
    "KLIdentity",
    "Kernel",
    "KernelDistance",
    "LossByTime",
    "MaxSlicedDistance",
    "MetricRow",
    "MetricsReport",
    "ModeWeights",
    "MomentError",
    "MomentSummary",
    "NeighbourDistances",
    "OracleErrors",
    "PairError",
    "PathGeometry",
    "PermutationTest",
    "PolynomialKernel",
    "PriorBias",
    "ProjectionTest",
    "RationalQuadraticKernel",
    "SinkhornDivergence",
    "SlicedDistance",
    "TwoSampleTest",
    "bures_wasserstein2",
    "characteristic_distance",
    "classifier_test",
    "consistency",
    "corrected_wasserstein2",
    "covariance_error",
    "coverage",
    "energy_distance",
    "energy_test",
    "entropic_wasserstein2",
    "error_by_nfe",
    "evaluate",
    "extract_features",
    "fisher_divergence",
    "frechet_distance",
    "gaussian_wasserstein2",
    "holm",
    "jensen_shannon_kernel_density",
    "kernel_distance",
    "kernel_stein_discrepancy",
    "kl_kernel_density",
    "kl_log_densities",
    "kl_nearest_neighbours",
    "loss_by_time",
    "max_sliced_wasserstein2",
    "mean_error",
    "median_bandwidth",
    "mmd2",
    "mode_weights",
    "moment_summary",
    "nearest_distances",
    "nearest_neighbours",
    "ode_kl_identity",
    "optimal_pairs",
    "oracle_errors",
    "pair_error",
    "path_geometry",
    "prior_bias",
    "sinkhorn_divergence",
    "sliced_kolmogorov_test",
    "sliced_wasserstein2",
    "wasserstein1",
    "wasserstein2",
    "wasserstein2_error",
]
