r"""Distances and tests between two samples: has the flow reached the data?

Each takes two samples ``x`` ``(N, *)`` and ``y`` ``(M, *)`` of any event shape, and works in
float64 whatever their dtype.

- :func:`wasserstein2`: how far mass must move, in the units of the data. Exact, on the CPU, for up
  to 20,000 points on each side. Even for equal laws it is of order :math:`N^{-1/D}` in ``D > 2``
  dimensions: read it against its value between two samples of the data.
- :func:`energy_distance` and :func:`energy_test`: zero if and only if the laws agree, for any
  difference; the test says whether what is left is more than chance. Any device, bounded memory.
- :func:`sliced_kolmogorov_test`: :math:`N \log N`, for very large samples, and it names the
  direction in which the samples differ.
"""

from transportflows.metrics.energy import (
    PermutationTest,
    TwoSampleTest,
    energy_distance,
    energy_test,
)
from transportflows.metrics.kolmogorov import ProjectionTest, holm, sliced_kolmogorov_test
from transportflows.metrics.wasserstein import wasserstein2

__all__ = [
    "PermutationTest",
    "ProjectionTest",
    "TwoSampleTest",
    "energy_distance",
    "energy_test",
    "holm",
    "sliced_kolmogorov_test",
    "wasserstein2",
]
