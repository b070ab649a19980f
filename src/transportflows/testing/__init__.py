r"""Checks for those who extend the library: is this interpolant, field or scheme right?

The library's own tests use them on everything it ships. Each check compares with something
independent: a derivative with finite differences, a row of a batch with the same row alone, the
order of a scheme with exact fields on a Gaussian mixture (a Gaussian, whose fields are linear,
hides errors), for laws by quadrature rather than by Monte Carlo.
"""

from .checks import check_interpolant
from .field_checks import check_field
from .orders import OrderEstimate, estimate_order, mixture_oracle, quadrature_moments
from .report import CheckError, Report

__all__ = [
    "CheckError",
    "OrderEstimate",
    "Report",
    "check_field",
    "check_interpolant",
    "estimate_order",
    "mixture_oracle",
    "quadrature_moments",
]
