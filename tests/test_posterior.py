"""Posteriors by weighted particles, against Gaussians exactly and mixtures within their errors."""

import math
import warnings

import pytest
import torch

import transportflows as tpf
from transportflows.inverse import (
    Blur,
    LikelihoodGuidance,
    LinearObservation,
    Mask,
    MomentMatched,
    Observation,
    PseudoInverse,
    sample_posterior,
)
from transportflows.inverse.gaussian_chain import Model
from transportflows.inverse.posterior_stepper import PosteriorStepper
from transportflows.solve.rows import Chunks

D = torch.float64
DIM = 3
PROCESSES = {
    "linear": tpf.Process(tpf.Linear(), base=tpf.Gaussian((DIM,))),
    "off centre": tpf.Process(tpf.Linear(), base=tpf.Gaussian((DIM,), 0.5, 1.3)),
    "trigonometric": tpf.Process(tpf.Trigonometric(tpf.Brownian()), base=tpf.Gaussian((DIM,))),
    "VP": tpf.Process(tpf.VP(), shape=(DIM,)),
    "VE": tpf.Process(tpf.VE(), shape=(DIM,)),
}
ROOT = torch.tensor([[0.9, 0.0, 0.0], [0.5, 0.6, 0.0], [-0.3, 0.2, 0.4]], dtype=D)
NORMAL = tpf.Gaussian((DIM,), torch.tensor([0.6, -0.4, 0.2], dtype=D), scale_tril=ROOT)
ONE = tpf.distributions.GaussianMixture(NORMAL.mean[None], covariances=(ROOT @ ROOT.mT)[None])
MATRIX = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.0, 1.0]], dtype=D)
MASK = Mask(torch.tensor([1, 0, 1]))
SEEN = torch.tensor([1.2, 0.0, -0.5], dtype=D)
OBSERVATIONS = {
    "matrix": LinearObservation(MATRIX, torch.tensor([0.9, -0.2], dtype=D), 0.3),
    "matrix without noise": LinearObservation(MATRIX, torch.tensor([0.9, -0.2], dtype=D)),
    "noisy mask": LinearObservation(MASK, SEEN, 0.05),
    "mask": LinearObservation(MASK, SEEN),
    "blur": LinearObservation(Blur(torch.tensor([0.3, 0.6, 0.1]), 3), SEEN, 0.2),
}
LAW = tpf.distributions.GaussianMixture(
    torch.tensor([[-1.1, 1.2, 0.0], [1.1, -0.8, 0.4]], dtype=D),
    covariances=torch.stack([0.5 * ROOT @ ROOT.mT, 0.4 * torch.eye(3, dtype=D)]) + 0.1,
    weights=[0.45, 0.55],
)
MIDDLE = torch.tensor([0.1, 0.0, 0.3], dtype=D)


def key(seed=0):
    return torch.Generator().manual_seed(seed)


def moments(law):
    mean = law.weights @ law.means
    apart = law.means - mean
    within = torch.einsum("k,kij->ij", law.weights, law.covariances)
    return mean, within + torch.einsum("k,ki,kj->ij", law.weights, apart, apart)


# --------------------------------------------------------------------------- the evidence, exactly


@pytest.mark.parametrize("name", ["matrix", "noisy mask", "blur"])
def test_the_evidence_of_a_mixture_is_the_mean_likelihood(name):
    seen = OBSERVATIONS[name]
    x = LAW.sample(400_000, generator=key(), dtype=D)
    reached = len(seen.reached()[1])
    logs = seen.log_likelihood(x) - 0.5 * reached * math.log(2 * math.pi * seen.noise**2)
    found = torch.logsumexp(logs, 0) - math.log(len(x))
    error = float(torch.softmax(logs, 0).square().sum().sqrt())
    assert LAW.log_evidence(seen) == pytest.approx(float(found), abs=5 * error + 1e-4)


# ------------------------------------------------------------------------------- Gaussians, exactly


@pytest.mark.parametrize("steps", [3, 20])
@pytest.mark.parametrize("name", OBSERVATIONS)
@pytest.mark.parametrize("process", PROCESSES)
def test_gaussian_data_are_exact_with_any_steps(process, name, steps):
    """Weights are all equal, for σ = 0 too, and the evidence is right to 1e-3."""
    seen = OBSERVATIONS[name]
    field = tpf.oracle(PROCESSES[process], NORMAL)
    run = sample_posterior(field, seen, 2_000, steps=steps, dtype=D, generator=key())
    # VP and VE start from a law that keeps e⁻⁵ of the data, so there the evidence does too.
    most = {"VP": 0.03, "VE": 0.03}.get(process, 1e-3)
    post = ONE.posterior(seen)
    assert run.log_evidence == pytest.approx(ONE.log_evidence(seen), abs=most)
    if process not in ("VP", "VE"):
        assert run.log_evidence_error < 1e-4
        assert run.least_ess > 1_999
    sizes = post.covariances[0].diagonal().clamp(min=0).sqrt()
    assert bool(((run.mean() - post.means[0]).abs() < 5 * sizes / 2_000**0.5 + 1e-3).all())
    cov = torch.cov(run.x.mT, aweights=run.weights)
    most = 6 * sizes[:, None] * sizes / 2_000**0.5 + 1e-3
    assert bool(((cov - post.covariances[0]).abs() < most).all())
    if seen.noise == 0:
        assert float(seen.residual(run.x).abs().max()) < 1e-12


def test_a_step_of_the_chain_has_the_law_of_the_path():
    """Given x1, both ends of a step are of the path: mean and covariance, with those of x1."""
    process = PROCESSES["off centre"]
    times = torch.tensor([0.0, 0.3, 0.55, 1.0], dtype=D)
    model = Model.of(process.part, times, ROOT @ ROOT.mT, OBSERVATIONS["matrix"].reached(), 0.3)
    s, t = 0.3, 0.55
    link = model.link(1)
    v, w = (1.3 * (1 - s)) ** 2, (1.3 * (1 - t)) ** 2
    assert link.keep * s + link.weight == pytest.approx(t)
    assert link.keep**2 * v + link.fresh == pytest.approx(w)
    # The reverse chain is the forward one by Bayes: Cov(x_s, x_t | x1) = a v = (s/t) w.
    assert link.keep * v == pytest.approx(s / t * w)
    assert (model.link(2).keep, model.link(2).weight, model.link(2).fresh) == (0.0, 1.0, 0.0)


# --------------------------------------------------------------------------------------- mixtures


def proposals(field, seen):
    found = {"conjugate": None, "pseudo-inverse": PseudoInverse(field, seen)}
    found["moments"] = MomentMatched(field, seen)
    return found


@pytest.mark.parametrize("way", ["conjugate", "pseudo-inverse", "moments"])
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_weighted_particles_have_the_posterior_of_a_mixture(noise, way):
    """Within 4 standard errors: evidence, both modes' shares, means."""
    seen = LinearObservation(MASK, torch.tensor([0.1, 0.0, 0.3], dtype=D), noise)
    post, log = LAW.posterior(seen), LAW.log_evidence(seen)
    assert float(post.weights.min()) > 0.1
    field = tpf.oracle(PROCESSES["linear"], LAW)
    proposal = proposals(field, seen)[way]
    with warnings.catch_warnings():
        warnings.simplefilter("error", tpf.guidance.CollapsedWeightsWarning)
        run = sample_posterior(
            field, seen, 2_000, steps=50, dtype=D, proposal=proposal, generator=key(2)
        )
    error = run.log_evidence_error + 2_000**-0.5
    assert abs(run.log_evidence - log) < 4 * run.log_evidence_error + 0.02
    assert run.log_evidence_error < 0.1
    mean, cov = moments(post)
    sizes = cov.diagonal().sqrt()
    assert bool(((run.mean() - mean).abs() < 4 * error * sizes + 0.02 * sizes + 1e-9).all())


def test_a_step_has_the_covariance_that_it_should_to_third_order():
    """``f Id + c² Cov(x1 | x_s)``; the mean is right by the prediction. Without k: to second."""
    process, seen, x = PROCESSES["off centre"], OBSERVATIONS["matrix"], MIDDLE[None]
    field = tpf.oracle(process, LAW)
    s, errors = 0.4, []
    step = torch.tensor(s, dtype=D)

    def data(y):
        return field.quantity("data", step, y)

    square = (1.3 * (1 - s)) ** 2
    inner = torch.autograd.functional.jacobian(data, x)[0, :, 0] * square / s  # Tweedie
    for h in (0.02, 0.01):
        stepper = PosteriorStepper(
            field, seen.reached(), 0.3, moments(LAW)[1], proposal=None, threshold=0.5, key=0
        )
        tables = stepper.prepare(torch.tensor([0.0, s, s + h, 1.0], dtype=D), x)
        link, basis = tables.model.link(1), tables.model.basis
        n = torch.diag(link.total.sqrt())  # rows of a root of Q, in its basis
        d = (data(x) @ basis).expand(3, -1)
        rows = Chunks(x.expand(3, -1))
        moved = stepper._moved(tables, 1, link, x.expand(3, -1), d, n, rows)
        mean = link.keep * (x - 0.5 * (1 - s)) + link.weight * data(x) + 0.5 * (1 - s - h)
        root = moved - mean
        errors.append(root.mT @ root - link.fresh * torch.eye(3) - link.weight**2 * inner)
    first, second = (float(error.abs().max()) for error in errors)
    assert 6 < first / second < 10
    assert first < 1e-4


def test_units_shapes_and_dtypes_do_not_matter():
    """A standardised field of images, float32: evidence and means in the units of the data."""
    shape, scale = (1, 1, 3), torch.tensor([2.0, 0.5, 1.5], dtype=D)
    shift = torch.tensor([0.3, -0.2, 0.0], dtype=D)
    inner = tpf.distributions.GaussianMixture(
        (LAW.means - shift) / scale,
        covariances=LAW.covariances / (scale[:, None] * scale),
        weights=LAW.weights,
    )
    exact = tpf.oracle(PROCESSES["linear"], inner)

    def velocity(t, x):
        return exact.velocity(t, x.flatten(1)).view_as(x)

    transform = tpf.Standardize(shift.view(shape), scale.view(shape))
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian(shape))
    field = tpf.Velocity(velocity, process, transform=transform)
    seen = LinearObservation(
        Mask(torch.tensor([1, 0, 1]).view(shape)), torch.tensor([0.1, 0.0, 0.3]).view(shape), 0.2
    )
    flat = LinearObservation(MASK, torch.tensor([0.1, 0.0, 0.3], dtype=D), 0.2)
    rows = LAW.sample(5_000, generator=key(5), dtype=torch.float32).view(-1, *shape)
    run = sample_posterior(field, seen, 2_000, steps=40, law=rows, chunk=600, generator=key())
    assert run.x.shape == (2_000, *shape)
    assert run.x.dtype == torch.float32
    assert abs(run.log_evidence - LAW.log_evidence(flat)) < 4 * run.log_evidence_error + 0.02
    mean, cov = moments(LAW.posterior(flat))
    off = (run.mean().flatten() - mean).abs() / cov.diagonal().sqrt()
    assert float(off.max()) < 4 * (run.log_evidence_error + 2_000**-0.5) + 0.02
    again = sample_posterior(field, seen, 2_000, steps=40, law=rows, generator=key())
    torch.testing.assert_close(again.x, run.x, rtol=1e-3, atol=1e-3)


# --------------------------------------------------------------------------- told, and refused


def test_likelihood_guidance_as_a_proposal_collapses_and_is_told():
    """Diffusion posterior sampling goes far off where σ is small; the weights say so."""
    field = tpf.oracle(PROCESSES["linear"], LAW)
    seen = LinearObservation(MASK, MIDDLE, 0.05)
    with pytest.warns(tpf.guidance.CollapsedWeightsWarning, match="start rows are left"):
        run = sample_posterior(
            field, seen, 1_000, steps=60, dtype=D, generator=key(),
            proposal=LikelihoodGuidance(field, seen, 0.3),
        )  # fmt: skip
    assert run.split == "LikelihoodGuidance"
    assert run.least_ess < 50


def test_hooks_and_evaluations():
    field = tpf.oracle(PROCESSES["linear"], LAW)
    seen, times = OBSERVATIONS["mask"], []
    run = sample_posterior(
        field, seen, 50, steps=4, hooks=[lambda m: times.append(m.t)], generator=key()
    )
    assert times == [0.25, 0.5, 0.75, 1.0]
    assert (run.nfe, run.scheme, run.split) == (8, "twisted chain", "conjugate")
    assert run.ess.shape == (5,)
    with pytest.raises(ValueError, match="a hook returned states"):
        sample_posterior(field, seen, 50, steps=4, hooks=[lambda m: m.x + 1])


def test_what_has_no_weights_is_refused():
    process = PROCESSES["linear"]
    field, seen = tpf.oracle(process, LAW), OBSERVATIONS["mask"]
    other = tpf.oracle(process, NORMAL)
    with pytest.raises(TypeError, match="sample_weighted"):
        sample_posterior(field, Observation(lambda x: -x.square().sum(1)), 10)
    with pytest.raises(ValueError, match="another field"):
        sample_posterior(field, seen, 10, proposal=PseudoInverse(other, seen))
    with pytest.raises(TypeError, match="law"):
        sample_posterior(field, seen, 10, law="data")
    rows = torch.randn(20, 3, generator=key())
    with pytest.raises(ValueError, match="NaN or infinite values in 20 of 20 rows"):
        sample_posterior(field, seen, 10, law=rows / 0 * 0)
    with pytest.raises(ValueError, match="all equal"):
        sample_posterior(field, seen, 10, law=torch.ones(20, 3))
    with pytest.raises(ValueError, match="needs more rows"):
        sample_posterior(field, seen, 10, law=rows[:2])
    with pytest.raises(TypeError, match="proposal must be a GuidedField"):
        sample_posterior(field, seen, 10, proposal=field)
    with pytest.raises(tpf.ConversionError, match="no data prediction"):
        sample_posterior(tpf.guidance.Power(field, 2.0), seen, 10)
    with pytest.raises(ValueError, match="states of 2 numbers"):
        sample_posterior(field, seen, 10, law=tpf.Gaussian((2,)))
    with pytest.raises(ValueError, match="law, a variance,"):
        sample_posterior(field, seen, 10, law=0.0)
    with pytest.raises(ValueError, match="each has a posterior of its own"):
        sample_posterior(field, LinearObservation(MASK, SEEN.expand(10, 3), 0.1), 10)
    twice = LinearObservation(MATRIX[[0, 0]], torch.tensor([0.0, 1.0], dtype=D))
    with pytest.raises(ValueError, match="no x gives this y"):
        sample_posterior(field, twice, 10)
    with pytest.raises(ValueError, match="events of shape"):
        sample_posterior(field, LinearObservation(Mask(torch.ones(2)), torch.zeros(2)), 10)
    with pytest.raises(ValueError, match="threshold"):
        sample_posterior(field, seen, 10, threshold=2.0)
    pair = tpf.oracle(tpf.Process(tpf.Linear(tpf.Brownian()), base=LAW), LAW)
    with pytest.raises(tpf.ConversionError, match="Gaussian"):
        sample_posterior(pair, seen, 10)
