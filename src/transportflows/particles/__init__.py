r"""Particle flows: samples, or a generator's samples, that move by their own law."""

from .directions import (
    DataDifference,
    Direction,
    DiscriminatorDifference,
    KernelDifference,
    LossGradient,
    ScoreDifference,
    Swarm,
)
from .flow import particle_flow
from .kernels import kernel_mean
from .mmd import MMDGradient, SteinDirection
from .predictions import FieldData, SampleData, SmoothedLaw
from .schedules import (
    ConstantSigma,
    ConstantStep,
    CosineSigma,
    CosineStep,
    DiffusionStep,
    ExponentialSigma,
    ExponentialStep,
    ModifiedCosineSigma,
    SigmaSchedule,
    StepSchedule,
)
