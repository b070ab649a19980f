"""The cells of benchmarks/peers.py: what is said of each library, and what its source must show."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CLAIMS", "PEERS", "Claim"]

PEERS = ("transportflows", "torchcfm", "flow_matching", "azula", "diffusers")


@dataclass(frozen=True)
class Claim:
    """What a cell says, and by what it is checked.

    Attributes:
        answer: what is written.
        has: classes, functions and methods that must be there.
        takes: arguments that must be there, ``name(argument)``.
        says: texts that the source must hold.
        none: a pattern that no name and no argument may match.
        licence: what the metadata must say of the licence.
    """

    answer: str
    has: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    none: str = ""
    licence: str = ""

    @property
    def checked(self) -> bool:
        """Whether anything is checked."""
        return bool(self.has or self.takes or self.says or self.none or self.licence)


def no(pattern: str) -> Claim:
    """Nothing of a name like this."""
    return Claim("–", none=pattern)


def read(answer: str = "–") -> Claim:
    """What names cannot tell."""
    return Claim(answer)


SDE = r"SDE(?!n)|[Ee]uler_?[Mm]aruyama|[Ll]angevin|(^|[._(])sde|stochastic|\(eta\)"
PLAN = r"(?i)sinkhorn|optimal_?transport|OTPlan|MinibatchOT|\bemd"
DENSITY = r"(?i)likelihood|log_?prob\b|log_?density"
ORACLE = r"(?i)oracle|GaussianMixture|\bGMM"
RESUME = r"(?i)(^|\.)fit$|resume"
METRIC = r"(?i)wasserstein|energy_distance|\bmmd2?\b|c2st|two_sample"
CHECK = r"(?i)check_(interpolant|field|scheme|path|schedule)|\bexam\b"
MAPS = r"(?i)mean_?flow|flow_?map|consistency|shortcut|distill"
GUIDE = r"(?i)guid(er|ance)|ClassifierFree|CFG"
INVERSE = r"(?i)inpaint|posterior_?sampl|\bDPS|inverse_?problem|MMPS|DiffPIR"
BRIDGE = r"(?i)bridge"

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "licence": (
        Claim("MIT", licence="MIT"),
        Claim("MIT", licence="MIT"),
        Claim("CC BY-NC", licence="CC"),
        Claim("MIT", licence="MIT"),
        Claim("Apache 2.0", licence="Apache"),
    ),
    "paths between any two laws": (
        Claim("yes, with any latent γ(t)", has=("Linear", "Mirror", "Gamma")),
        Claim("yes, σ constant or a bridge's", has=("ConditionalFlowMatcher",)),
        Claim("yes, no latent", has=("AffineProbPath",), none=r"(?i)latent|gamma"),
        Claim("from a Gaussian: five schedules", has=("RectifiedSchedule", "VPSchedule")),
        read("from a Gaussian"),
    ),
    "solves the ODE": (
        Claim("yes", has=("sample",)),
        no(r"(?i)solver|ODESampler|odeint"),
        Claim("yes", has=("ODESolver.sample",)),
        Claim("yes", has=("DDIMSampler",)),
        Claim("yes", has=("FlowMatchEulerDiscreteScheduler.step",)),
    ),
    "an SDE with any ε of a learned velocity": (
        Claim("yes, several in one call", takes=("sample(epsilon)",)),
        no(SDE),
        no(SDE),
        Claim("of a denoiser, by η, one at a time", takes=("ItoSampler.__init__(eta)",)),
        Claim(
            "in part: noise of a fixed kind, or by η",
            takes=(
                "FlowMatchEulerDiscreteScheduler.__init__(stochastic_sampling)",
                "LTXEulerAncestralRFScheduler.__init__(eta)",
            ),
        ),
    ),
    "velocity, score, noise and data from each other": (
        Claim("yes, or refused with the cure", has=("conversion", "ConversionError")),
        no(r"(?i)_to_(velocity|score|noise|epsilon|target)"),
        Claim(
            "velocity, target, ε; no score",
            has=("AffineProbPath.velocity_to_epsilon",),
            none=r"(?i)score",
        ),
        Claim("from a denoiser's mean", has=("DiracPosterior", "KarrasDenoiser")),
        Claim("by `prediction_type`", takes=("DDIMScheduler.__init__(prediction_type)",)),
    ),
    "pairs by optimal transport": (
        Claim(
            "in batches, and of whole data with a certificate",
            has=("MinibatchOT", "TransportPlan"),
        ),
        Claim("in batches", has=("OTPlanSampler",), says=("np.random.choice",)),
        no(PLAN),
        no(PLAN),
        no(PLAN),
    ),
    "Schrödinger bridges": (
        Claim("exact and learned", has=("ExactBridge", "LightPotential", "iterate")),
        Claim("on minibatch plans", has=("SchrodingerBridgeConditionalFlowMatcher",)),
        no(BRIDGE),
        no(BRIDGE),
        read("–"),
    ),
    "log-densities": (
        Claim("exact, Hutchinson, with errors", has=("log_likelihood",)),
        no(DENSITY),
        Claim("exact, one Hutchinson probe", has=("ODESolver.compute_likelihood",)),
        no(r"(?i)likelihood|log_?density"),  # log_prob is a Gaussian's
        read("–"),
    ),
    "one or few steps by flow maps": (
        Claim("distilled or from data", has=("FlowMap", "MeanFlowLoss", "distill")),
        no(MAPS),
        no(MAPS),
        no(MAPS),
        Claim(
            "samples those trained elsewhere",
            has=("CMStochasticIterativeScheduler", "FlowMapEulerDiscreteScheduler"),
        ),
    ),
    "guidance": (
        Claim(
            "eight forms, with weights for the law asked for",
            has=(
                *("ClassifierFree", "AutoGuidance", "Product", "Power", "Classifier", "Tilt"),
                *("RescaledClassifierFree", "ProjectedClassifierFree", "sample_weighted"),
            ),
        ),
        no(GUIDE),
        no(GUIDE),
        Claim("classifier-free", has=("CFGDenoiser",)),
        Claim("many forms", has=("ClassifierFreeGuidance", "AutoGuidance")),
    ),
    "inverse problems": (
        Claim("five methods, and the posterior itself", has=("sample_posterior", "MomentMatched")),
        no(INVERSE),
        no(INVERSE),
        Claim(
            "eight methods",
            has=(
                *("DPSSampler", "DiffPIRDenoiser", "JFPSDenoiser", "MMPSDenoiser"),
                *("PGDMSampler", "RePaintSampler", "TDSSampler", "TMPDenoiser"),
            ),
        ),
        Claim("RePaint, inpainting pipelines", has=("RePaintScheduler",)),
    ),
    "exact fields to test against": (
        Claim("of every affine path on mixtures", has=("oracle",)),
        no(ORACLE),
        no(ORACLE),
        Claim("a Gaussian's denoiser", has=("GaussianDenoiser",), none=ORACLE),
        read("–"),
    ),
    "training loop, resumed to the same bits": (
        Claim("yes", has=("Trainer.fit", "Checkpoints")),
        no(RESUME),
        no(RESUME),
        no(RESUME),
        read("scripts, not bitwise"),
    ),
    "distances beside their floors, tests": (
        Claim("yes", has=("evaluate", "wasserstein2", "energy_test")),
        Claim("W1, W2 of batches, no floor", has=("wasserstein",)),
        no(METRIC),
        no(METRIC),
        no(METRIC),
    ),
    "checks for parts of your own": (
        Claim("yes, and an exam", has=("check_interpolant", "check_field", "exam")),
        no(CHECK),
        no(CHECK),
        no(CHECK),
        no(CHECK),
    ),
    "randomness by a generator that is given": (
        Claim("everywhere", takes=("sample(generator)",)),
        no(r"\(generator\)"),
        no(r"\(generator\)"),
        no(r"\(generator\)"),
        Claim("yes", takes=("DDPMScheduler.step(generator)",)),
    ),
    "discrete data; manifolds": (
        no(r"(?i)riemann|manifold|MixtureDiscrete"),
        no(r"(?i)riemann|manifold|MixtureDiscrete"),
        Claim("both", has=("MixtureDiscreteProbPath", "RiemannianODESolver")),
        no(r"(?i)riemann|manifold|MixtureDiscrete"),
        read("discrete"),
    ),
    "pretrained models of images": (
        Claim("takes them: diffusers, SiT, EDM", has=("from_diffusers", "from_sit", "from_edm")),
        read(),
        read(),
        Claim("plugins", says=("azula.plugins",)),
        Claim("its purpose", has=("DiffusionPipeline.from_pretrained",)),
    ),
}
