r"""Checks for those who extend the library: is this interpolant, field or scheme right?

The library's own tests use them on everything it ships. Each check compares with something
independent: a derivative with finite differences, a row of a batch with the same row alone, the
order of a scheme with exact fields on a Gaussian mixture (a Gaussian, whose fields are linear,
hides errors), for laws by quadrature rather than by Monte Carlo. :func:`exam` examines a trained
field, or a peer's, against the closed forms of a law that is known.
"""

from .checks import check_interpolant
from .exam import exam
from .exam_report import ExamReport, ExamRow
from .field_checks import check_field
from .orders import OrderEstimate, estimate_order, mixture_oracle, quadrature_moments
from .report import CheckError, Report

__all__ = [
    "CheckError",
    "ExamReport",
    "ExamRow",
    "OrderEstimate",
    "Report",
    "check_field",
    "check_interpolant",
    "estimate_order",
    "exam",
    "mixture_oracle",
    "quadrature_moments",
]
