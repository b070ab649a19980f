"""One list of everything that is exported in families, for tests over all of it."""

import torch

import transportflows as tpf

GAMMAS = [
    tpf.Brownian(),
    tpf.Brownian(0.5),
    tpf.interpolants.Quadratic(),
    tpf.interpolants.SineSquared(0.8),
    tpf.interpolants.Sigmoid(),
]

SDES = [
    tpf.VE(0.02, 5.0),
    tpf.VP(),
    tpf.sdes.OrnsteinUhlenbeck(),
    tpf.SubVP(),
    tpf.sdes.DDPMChain(),
    tpf.sdes.VEChain(0.02, 5.0, levels=50),
    tpf.sdes.InterpolantSDE(tpf.OneSidedLinear()),
]

INTERPOLANTS = [
    tpf.Linear(),
    *[tpf.Linear(gamma) for gamma in GAMMAS],
    tpf.Trigonometric(),
    tpf.Trigonometric(tpf.interpolants.Quadratic()),
    tpf.Trigonometric(tpf.Brownian(), scaled=True),
    tpf.EncoderDecoder(),
    tpf.EncoderDecoder(tpf.Brownian(0.7)),
    tpf.Mirror(),
    tpf.Mirror(tpf.interpolants.SineSquared()),
    tpf.OneSidedLinear(),
    tpf.OneSidedTrigonometric(),
    tpf.SBDM(),
    *SDES,
]


class Power(tpf.AffineInterpolant):
    """The design's example of a user's own interpolant."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def alpha(self, t):
        return 1 - t**self.k

    def beta(self, t):
        return t**self.k

    def gamma_sq(self, t):
        return t * (1 - t)


class PowerByGamma(Power):
    """The same, with γ in place of γ²; smooth at the ends, so that this is allowed."""

    def gamma_sq(self, t):
        return self.gamma(t) ** 2

    def gamma(self, t):
        return t * (1 - t)


class Curved(tpf.Interpolant):
    """Not affine: writes ``mean`` alone, and takes a composable γ."""

    def mean(self, t, x0, x1):
        return (1 - t) * x0 + t * x1 + torch.sin(torch.pi * t) * torch.tanh(x0 - x1)


class Learned(tpf.AffineInterpolant):
    """A learnable path: ``β = t + c t (1 - t)``."""

    def __init__(self) -> None:
        super().__init__(tpf.Brownian())
        self.c = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def alpha(self, t):
        return 1 - self.beta(t)

    def beta(self, t):
        return t + self.c.to(t.dtype) * t * (1 - t)


OWN = [Power(2.0), PowerByGamma(2.0), Curved(tpf.Brownian()), Curved(), Learned()]


def name(item: object) -> str:
    latent = getattr(item, "latent", None)
    scaled = "-scaled" if getattr(item, "scaled", False) else ""
    return type(item).__name__ + (f"-{type(latent).__name__}" if latent else "") + scaled


def process(interpolant: tpf.Interpolant, shape=(2,), base=None) -> tpf.Process:
    """A process on an interpolant, with the base it needs."""
    if not interpolant.uses_base:
        return tpf.Process(interpolant, shape=shape)
    return tpf.Process(interpolant, tpf.Gaussian(shape) if base is None else base)


def mixture(means, scale=0.5, weights=None) -> tpf.distributions.GaussianMixture:
    return tpf.distributions.GaussianMixture(
        torch.tensor(means, dtype=torch.float64), scale, weights=weights
    )
