"""Generative transport in PyTorch: stochastic interpolants, flow matching, score-based diffusion.

Everything public is here, flat; ``networks``, ``metrics``, ``datasets`` and ``testing`` are
namespaces of their own.
"""

from . import datasets, metrics, networks
from ._files import load_field
from .conversions import ConversionError
from .couplings import Coupling, Independent, MinibatchOT, Paired
from .distributions import (
    Distribution,
    Empirical,
    Gaussian,
    GaussianMixture,
    Uniform,
    as_distribution,
)
from .fields import DataPredictor, Field, FieldPair, MeanVelocity, NoisePredictor, Score, Velocity
from .interpolants import (
    SBDM,
    AffineInterpolant,
    Brownian,
    EncoderDecoder,
    Gamma,
    Interpolant,
    Linear,
    Mirror,
    OneSided,
    OneSidedLinear,
    OneSidedTrigonometric,
    Quadratic,
    Sigmoid,
    SineSquared,
    Trigonometric,
)
from .losses import (
    DataLoss,
    Loss,
    MeanVelocityLoss,
    NoiseLoss,
    Regression,
    ScoreLoss,
    SumLoss,
    VelocityLoss,
    excess,
)
from .process import Batch, PathSample, Process
from .samplers import (
    ADAPTIVE,
    SCHEMES,
    BrownianPath,
    ConstantEpsilon,
    Dynamics,
    EpsilonSchedule,
    FieldDynamics,
    FunctionDynamics,
    Increments,
    NoiseScaleEpsilon,
    NoiseSource,
    NoiseVarianceEpsilon,
    NonFiniteStateError,
    Scheme,
    Solution,
    integrate,
    sample,
    time_grid,
)
from .times import GridTimes, LogitNormalTimes, StratifiedTimes, TimeSampler, UniformTimes
from .transforms import Standardize

__version__ = "0.1.0"
