"""Samplers: schemes of one step and of several, adaptive solvers, and ``sample``."""

from .adaptive import ADAPTIVE
from .ancestral import DDIM, FEW_STEP, Ancestral
from .dynamics import Drift, Dynamics, FieldDynamics, FunctionDynamics
from .each import sample_each
from .exponential import ExponentialIntegrator
from .fixed_solve import FixedSolve
from .integrate import integrate
from .multistep import Multistep, Table
from .multistep_table import Row
from .planned import plan
from .sample import sample
from .schemes import SCHEMES, Scheme
from .solve_plan import SolvePlan, Trial
from .stepper_scheme import StepperScheme

__all__ = [
    "ADAPTIVE",
    "DDIM",
    "FEW_STEP",
    "SCHEMES",
    "Ancestral",
    "Drift",
    "Dynamics",
    "ExponentialIntegrator",
    "FieldDynamics",
    "FixedSolve",
    "FunctionDynamics",
    "Multistep",
    "Row",
    "Scheme",
    "SolvePlan",
    "StepperScheme",
    "Table",
    "Trial",
    "integrate",
    "plan",
    "sample",
    "sample_each",
]
