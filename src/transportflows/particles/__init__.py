r"""Particle flows: samples, or a generator's samples, that move by their own law.

To bring a law q to a law p one can move along the difference of their scores,

.. math:: dy = \tfrac{\gamma}{2} \bigl(\nabla \log p(y) - \nabla \log q_t(y)\bigr)\, dt :

the probability flow of Langevin dynamics, and the direction in which the Kullback-Leibler
divergence from q to p falls fastest, at the rate of the Fisher divergence (Weber 2023, equations 4
and 9). Neither score is known. But samples of both are, and smoothed by noise of level σ both have
scores in closed form, as kernel means; and the smoothed laws are equal if and only if the laws are.
So :func:`particle_flow` (Algorithm 1) moves any samples toward any others with no network, and
:class:`MovedTargetLoss` (Algorithm 2) trains a :class:`OneStepGenerator` on its own moved samples.

What moves them is a :class:`Direction`, in either: :class:`KernelDifference` and others of the
score-difference family, :class:`DataDifference` for a learned or exact data prediction (a field of
this library, say), a discriminator's gradient, any loss's, or the flows that are set beside them:
:class:`MMDGradient`, :class:`SteinDirection`, and, on a known score,
:func:`~transportflows.langevin.langevin` and :func:`hamiltonian`. GANs and denoising diffusion are
special cases; ``docs/particles.md`` says which.

The clock of a flow runs from 0 to 1 too, but it is the share of the steps that are done, and not
the time of an interpolant: the laws in between are the flow's own.
"""

from .adversarial import AdversarialLoss, DiscriminatorState
from .density import FlowDensity, flow_with_log_density
from .directions import (
    DataDifference,
    Direction,
    KernelDifference,
    ScoreDifference,
    Swarm,
)
from .flow import particle_flow
from .generator import OneStepGenerator
from .gradients import DiscriminatorDifference, LossGradient
from .hamiltonian import HamiltonianSolution, hamiltonian
from .kernels import kernel_mean
from .losses import FlowClock, MovedTargetLoss
from .mmd import MMDGradient, SteinDirection
from .predictions import FieldData, SampleData, SmoothedLaw
from .schedules import (
    ConstantSigma,
    CosineSigma,
    ExponentialSigma,
    ModifiedCosineSigma,
    SigmaSchedule,
)
from .step_schedules import (
    ConstantStep,
    CosineStep,
    DiffusionStep,
    ExponentialStep,
    StepSchedule,
)

__all__ = [
    "AdversarialLoss",
    "ConstantSigma",
    "ConstantStep",
    "CosineSigma",
    "CosineStep",
    "DataDifference",
    "DiffusionStep",
    "Direction",
    "DiscriminatorDifference",
    "DiscriminatorState",
    "ExponentialSigma",
    "ExponentialStep",
    "FieldData",
    "FlowClock",
    "FlowDensity",
    "HamiltonianSolution",
    "KernelDifference",
    "LossGradient",
    "MMDGradient",
    "ModifiedCosineSigma",
    "MovedTargetLoss",
    "OneStepGenerator",
    "SampleData",
    "ScoreDifference",
    "SigmaSchedule",
    "SmoothedLaw",
    "SteinDirection",
    "StepSchedule",
    "Swarm",
    "flow_with_log_density",
    "hamiltonian",
    "kernel_mean",
    "particle_flow",
]
