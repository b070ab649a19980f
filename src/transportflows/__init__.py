"""Generative transport in PyTorch: stochastic interpolants, flow matching, score-based diffusion.

The nouns that most programs need are here; all else is in the namespaces that the folders are,
such as ``transportflows.samplers.ExponentialIntegrator``.
"""

from . import (
    couplings,
    datasets,
    distributions,
    fields,
    interpolants,
    langevin,
    likelihood,
    losses,
    metrics,
    networks,
    oracles,
    particles,
    plots,
    samplers,
    sdes,
    solve,
    testing,
    times,
    training,
)
from ._core.version import __version__ as __version__
from .conversions import ConversionError
from .couplings import MinibatchOT, Paired
from .distributions import Gaussian
from .draws import Batch, PathSample
from .fields import (
    EDM,
    DataPredictor,
    Field,
    FieldPair,
    MeanVelocity,
    NoisePredictor,
    Score,
    Velocity,
    load_field,
)
from .interpolants import (
    SBDM,
    AffineInterpolant,
    Brownian,
    EncoderDecoder,
    Interpolant,
    Linear,
    Mirror,
    OneSided,
    OneSidedLinear,
    OneSidedTrigonometric,
    Trigonometric,
)
from .likelihood import log_likelihood
from .losses import DataLoss, MeanVelocityLoss, NoiseLoss, ScoreLoss, VelocityLoss
from .oracles import oracle
from .particles import particle_flow
from .process import Process
from .samplers import integrate, sample
from .sdes import VE, VP, SubVP
from .solve import Solution
from .training import Trainer
from .transforms import Standardize

__all__ = [
    "AffineInterpolant",
    "Batch",
    "Brownian",
    "ConversionError",
    "DataLoss",
    "DataPredictor",
    "EDM",
    "EncoderDecoder",
    "Field",
    "FieldPair",
    "Gaussian",
    "Interpolant",
    "Linear",
    "MeanVelocity",
    "MeanVelocityLoss",
    "MinibatchOT",
    "Mirror",
    "NoiseLoss",
    "NoisePredictor",
    "OneSided",
    "OneSidedLinear",
    "OneSidedTrigonometric",
    "Paired",
    "PathSample",
    "Process",
    "SBDM",
    "Score",
    "ScoreLoss",
    "Solution",
    "Standardize",
    "SubVP",
    "Trainer",
    "Trigonometric",
    "VE",
    "VP",
    "Velocity",
    "VelocityLoss",
    "couplings",
    "datasets",
    "distributions",
    "fields",
    "integrate",
    "interpolants",
    "langevin",
    "likelihood",
    "load_field",
    "log_likelihood",
    "losses",
    "metrics",
    "networks",
    "oracle",
    "oracles",
    "particle_flow",
    "particles",
    "plots",
    "sample",
    "samplers",
    "sdes",
    "solve",
    "testing",
    "times",
    "training",
]

