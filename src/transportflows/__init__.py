"""Generative transport in PyTorch: stochastic interpolants, flow matching, score-based diffusion.

The nouns that most programs need are here; all else is in the namespaces that the folders are,
such as ``transportflows.samplers.ExponentialIntegrator``. Namespaces that nothing else stands on,
``metrics`` for one, are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import (
    couplings,
    distributions,
    fields,
    gaussian_part,
    interpolants,
    likelihood,
    losses,
    networks,
    noise_level,
    oracles,
    particles,
    plans,
    samplers,
    sdes,
    solve,
    times,
    training,
)
from ._core.version import __version__ as __version__
from .combination import Combination
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
from .gaussian_part import ConversionError, GaussianPart
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
    "EDM",
    "SBDM",
    "VE",
    "VP",
    "AffineInterpolant",
    "Batch",
    "Brownian",
    "Combination",
    "ConversionError",
    "DataLoss",
    "DataPredictor",
    "EncoderDecoder",
    "Field",
    "FieldPair",
    "Gaussian",
    "GaussianPart",
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
    "Score",
    "ScoreLoss",
    "Solution",
    "Standardize",
    "SubVP",
    "Trainer",
    "Trigonometric",
    "Velocity",
    "VelocityLoss",
    "bridges",
    "couplings",
    "datasets",
    "distributions",
    "estimators",
    "fields",
    "gaussian_part",
    "guidance",
    "integrate",
    "interpolants",
    "inverse",
    "langevin",
    "likelihood",
    "load_field",
    "log_likelihood",
    "losses",
    "maps",
    "metrics",
    "networks",
    "noise_level",
    "oracle",
    "oracles",
    "particle_flow",
    "particles",
    "plans",
    "plots",
    "sample",
    "samplers",
    "sdes",
    "solve",
    "testing",
    "times",
    "training",
]

if TYPE_CHECKING:
    from . import (
        bridges,
        datasets,
        estimators,
        guidance,
        inverse,
        langevin,
        maps,
        metrics,
        plots,
        testing,
    )
else:  # hidden from type checkers, which would take any name for one that is there
    _LEAVES = (
        "bridges",
        "datasets",
        "estimators",
        "guidance",
        "inverse",
        "langevin",
        "maps",
        "metrics",
        "plots",
        "testing",
    )

    def __getattr__(name):
        if name in _LEAVES:
            return import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *_LEAVES})
