"""Kernel sums and directions: each against its definition, differentiated or summed plainly."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import transportflows as tpf
from transportflows.particles import kernels
from transportflows.particles.kernels import kernel_mean, kernel_sums

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def plain_weights(z, x, sigma):
    square = (z.flatten(1)[:, None] - x.flatten(1)).square().sum(2)
    return torch.softmax(-square / (2 * sigma**2), 1)


def plain_mean(z, x, sigma):
    return (plain_weights(z, x, sigma) @ x.flatten(1)).view_as(z)


def log_density(z, x, sigma):
    """Up to a constant: the smoothed sample."""
    square = (z.flatten(1)[:, None] - x.flatten(1)).square().sum(2)
    return torch.logsumexp(-square / (2 * sigma**2), 1) - math.log(len(x))


def swarm(y, x, sigma, clean=None):
    return tpf.particles.Swarm(y if clean is None else clean, y, x, sigma)


def mixture():
    means = torch.tensor([[-2.0, 0.0], [1.0, 1.0], [2.0, -1.5]])
    return tpf.distributions.GaussianMixture(
        means, torch.tensor([0.3, 0.5, 0.8]), weights=[0.2, 0.5, 0.3]
    )


# -------------------------------------------------------------------------------- kernel sums


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shape", [(1,), (3,), (50,), (2, 3)])
@pytest.mark.parametrize("sigma", [0.05, 0.7, 30.0])
def test_kernel_mean_is_the_mean_under_the_weights(shape, sigma, fused):
    z, x = normal(60, *shape), normal(80, *shape, seed=1) + 4.0
    found = kernel_mean(z, x, sigma, fused=fused)
    torch.testing.assert_close(found, plain_mean(z, x, sigma), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("fused", [True, False])
def test_tiles_do_not_matter(fused, monkeypatch):
    z, x = normal(700, 3), normal(2_500, 3, seed=1)
    whole = kernel_mean(z, x, 0.4, fused=fused)
    monkeypatch.setattr(kernels, "_TILE_CPU", 1 << 12)
    torch.testing.assert_close(kernel_mean(z, x, 0.4, fused=False), whole, rtol=1e-12, atol=1e-12)


def test_sums_and_their_largest_weights(monkeypatch):
    monkeypatch.setattr(kernels, "_TILE_CPU", 1 << 11)
    z, x, values = normal(50, 2), normal(300, 2, seed=1), normal(300, 4, seed=2)
    top, sums = kernel_sums(z, x, values, 0.5)
    weights = torch.exp(-(z[:, None] - x).square().sum(2) / (2 * 0.25))
    torch.testing.assert_close(top, weights.amax(1).log(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(top.exp()[:, None] * sums, weights @ values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_float32_is_safe_at_small_sigma(shift, fused):
    """R/σ = 1e3: the product |z|² - 2 z·x + |x|² in float32 would be off by whole units."""
    x = (3 * normal(2_000, 2)).float() + shift
    z = x[:200] + 0.003 * normal(200, 2, seed=1).float()
    exact = plain_mean(z.double(), x.double(), 0.01)
    error = (kernel_mean(z, x, 0.01, fused=fused).double() - exact).abs().max()
    assert float(error) < 2e-6 * (6 + shift)  # rounding of the result, and not more


def test_no_weight_that_matters_underflows():
    """At 300 σ every weight is 0 in float32, and their ratios are not."""
    x = torch.tensor([[-1.0], [0.0], [1.0]])
    z = torch.tensor([[300.0], [-0.5]])
    assert float(torch.exp(torch.tensor(-0.5 * 299**2))) == 0
    exact = plain_mean(z.double(), x.double(), 1.0)
    torch.testing.assert_close(kernel_mean(z, x, 1.0).double(), exact, atol=1e-6, rtol=1e-6)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, torch.Tensor):
                self.most = max(self.most, one.numel())
        return out


@pytest.mark.parametrize("fused", [True, False])
def test_no_matrix_of_all_pairs_is_held(fused):
    z = x = normal(4_000, 3, dtype=torch.float32)
    with Largest() as seen:
        kernel_mean(z, x, 0.5, radius=10.0, fused=fused)
    assert seen.most <= kernels._TILE_CPU
    assert seen.most < 4_000**2 / 10


def test_the_slope_of_a_kernel_mean_is_a_covariance():
    """∂D/∂z = Cov(x | z)/σ², in forward and in reverse mode."""
    z, x, sigma = normal(5, 2), normal(40, 2, seed=1), 0.6
    weights, mean = plain_weights(z, x, sigma), plain_mean(z, x, sigma)
    centred = x - mean[:, None]
    slope = torch.einsum("bn,bnd,bne->bde", weights, centred, centred) / sigma**2
    direction = torch.tensor([0.3, -1.1], dtype=DOUBLE)
    forward = torch.func.jvp(
        lambda y: kernel_mean(y, x, sigma, fused=False), (z,), (direction.expand(5, 2),)
    )[1]
    torch.testing.assert_close(forward, slope @ direction, rtol=1e-9, atol=1e-10)
    z.requires_grad_()
    (reverse,) = torch.autograd.grad((kernel_mean(z, x, sigma) @ direction).sum(), z)
    torch.testing.assert_close(reverse, slope @ direction, rtol=1e-9, atol=1e-10)


# ------------------------------------------------------------------- the family of differences


@pytest.mark.parametrize("shape", [(2,), (2, 2)])
def test_kernel_difference_is_the_score_difference_of_smoothed_samples(shape):
    """(12): σ² times the gradient of the log-ratio of the two kernel densities."""
    z, y, x = normal(30, *shape), normal(40, *shape, seed=1), normal(50, *shape, seed=2) + 1
    z.requires_grad_()
    ratio = log_density(z, x, 0.8) - log_density(z, y, 0.8)
    (gradient,) = torch.autograd.grad(ratio.sum(), z)
    found = tpf.particles.KernelDifference()(z.detach(), swarm(y, x, 0.8))
    torch.testing.assert_close(found, 0.64 * gradient, rtol=1e-9, atol=1e-10)


def test_smoothed_laws_are_their_own_convolutions():
    """The density integrates (by quadrature), the score is its gradient, data is Tweedie's."""
    law = mixture()
    smoothed = tpf.particles.SmoothedLaw(law)
    z = normal(50, 2).requires_grad_()
    for sigma in (0.0, 0.4, 3.0):
        logs = smoothed.log_prob(z, sigma)
        (gradient,) = torch.autograd.grad(logs.sum(), z)
        torch.testing.assert_close(smoothed.score(z, sigma), gradient, rtol=1e-9, atol=1e-9)
        exact = torch.eye(2, dtype=DOUBLE) * sigma**2 + law.covariances
        other = tpf.distributions.GaussianMixture(law.means, weights=law.weights, covariances=exact)
        torch.testing.assert_close(logs, other.log_prob(z), rtol=1e-9, atol=1e-9)
        expected = z + sigma**2 * gradient
        torch.testing.assert_close(smoothed.data(z, sigma), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "process",
    [
        tpf.Process(tpf.OneSidedLinear(), shape=(2,)),
        tpf.Process(tpf.OneSidedTrigonometric(), shape=(2,)),
        tpf.Process(tpf.Linear(), tpf.Gaussian((2,), torch.tensor([3.0, -1.0]), 1.5)),
        tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((2,))),
    ],
    ids=["linear", "trigonometric", "shifted base", "with a latent"],
)
def test_a_field_is_a_data_prediction_at_any_level(process):
    """The oracle of any one-sided process gives E[x | x + σε] of the data's law."""
    law = mixture()
    data = tpf.particles.FieldData(tpf.oracle(process, law))
    z = 2 * normal(40, 2)
    for sigma in (0.05, 0.5, 4.0):
        exact = tpf.particles.SmoothedLaw(law).data(z, sigma)
        torch.testing.assert_close(data(z, sigma), exact, rtol=1e-7, atol=1e-7)


def test_a_field_with_a_transform_predicts_in_the_units_of_the_data():
    law = mixture()
    mean, scale = torch.tensor([0.5, -2.0], dtype=DOUBLE), 3.0
    inner = tpf.distributions.GaussianMixture(
        (law.means - mean) / scale, weights=law.weights, covariances=law.covariances / scale**2
    )
    field = tpf.oracle(tpf.Process(tpf.OneSidedLinear(), shape=(2,)), inner)
    field.transform = tpf.Standardize(mean, scale)
    z = 2 * normal(40, 2)
    exact = tpf.particles.SmoothedLaw(law).data(z, 0.7)
    torch.testing.assert_close(tpf.particles.FieldData(field)(z, 0.7), exact, rtol=1e-7, atol=1e-7)


def test_data_difference_with_the_sample_itself_is_the_kernel_difference():
    z, y, x = normal(30, 2), normal(40, 2, seed=1), normal(50, 2, seed=2)
    both = tpf.particles.DataDifference(x, of_source=y)(z, swarm(y, x, 0.6))
    torch.testing.assert_close(both, tpf.particles.KernelDifference()(z, swarm(y, x, 0.6)))


def test_a_sample_of_the_particles_serves_for_their_data_prediction():
    law = mixture()
    z, y = normal(30, 2), normal(40, 2, seed=1)
    found = tpf.particles.DataDifference(law, of_source="sample")(z, swarm(y, None, 0.6))
    expected = tpf.particles.SmoothedLaw(law).data(z, 0.6) - kernel_mean(z, y, 0.6)
    torch.testing.assert_close(found, expected)


def test_with_y_itself_a_step_is_an_average():
    """(16): y + η Δ = (1 - η) y + η D(z)."""
    law = mixture()
    y, z = normal(30, 2), normal(30, 2, seed=1)
    delta = tpf.particles.DataDifference(law)(z, swarm(y, None, 0.6))
    expected = 0.7 * y + 0.3 * tpf.particles.SmoothedLaw(law).data(z, 0.6)
    torch.testing.assert_close(y + 0.3 * delta, expected)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_the_logit_of_an_optimal_discriminator_moves_as_the_scores_do(sigma):
    """(31), and (28): the non-saturating loss moves less, by 1 - f."""
    p, q = mixture(), tpf.Gaussian((2,), 0.5, 1.3)
    level = sigma or 0.0

    def logit(z):
        return tpf.particles.SmoothedLaw(p).log_prob(z, level) - tpf.particles.SmoothedLaw(
            q
        ).log_prob(z, level)

    y = normal(40, 2)
    what = swarm(y, None, level)
    exact = tpf.particles.ScoreDifference(p, q)(y, what)
    found = tpf.particles.DiscriminatorDifference(logit)(y, what)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)
    less = tpf.particles.DiscriminatorDifference(logit, loss="non_saturating")(y, what)
    f = torch.sigmoid(logit(y))
    torch.testing.assert_close(less, (1 - f)[:, None] * found, rtol=1e-9, atol=1e-10)
    if level == 0:
        loss = tpf.particles.LossGradient(lambda x: -torch.nn.functional.logsigmoid(logit(x)))
        torch.testing.assert_close(loss(y, what), less, rtol=1e-9, atol=1e-10)


def test_a_loss_of_the_whole_sample_and_one_of_its_rows_move_alike():
    y = normal(20, 3)
    rows = tpf.particles.LossGradient(lambda x: x.pow(4).sum(1))(y, swarm(y, None, 0.0))
    whole = tpf.particles.LossGradient(lambda x: x.pow(4).sum(1).mean())(y, swarm(y, None, 0.0))
    torch.testing.assert_close(rows, -4 * y**3)
    torch.testing.assert_close(whole, rows)


def test_a_gaussian_fitted_to_the_particles_has_their_score():
    y = normal(2_000, 2) @ torch.tensor([[1.0, 0.4], [0.0, 0.5]], dtype=DOUBLE) + 3
    what = swarm(y, None, 0.3)
    moments = tpf.Gaussian(
        (2,), y.mean(0), scale_tril=torch.linalg.cholesky(y.mT.cov(correction=0))
    )
    p = tpf.Gaussian((2,))
    fitted, exact = (
        tpf.particles.ScoreDifference(p)(y, what),
        tpf.particles.ScoreDifference(p, moments)(y, what),
    )
    torch.testing.assert_close(fitted, exact, rtol=1e-9, atol=1e-10)


# --------------------------------------------------------------------------- kernels' own flows


def test_mmd_moves_down_the_witness_function():
    """(42), differentiated."""
    z, y, x = normal(30, 2), normal(40, 2, seed=1), normal(50, 2, seed=2) + 1
    z.requires_grad_()

    def weights(sample):
        return torch.exp(-(z[:, None] - sample).square().sum(2) / (2 * 0.8**2)).mean(1)

    (gradient,) = torch.autograd.grad((weights(y) - weights(x)).sum(), z)
    found = tpf.particles.MMDGradient()(z.detach(), swarm(y, x, 0.8))
    torch.testing.assert_close(found, -gradient, rtol=1e-9, atol=1e-11)


def test_mmd_descends():
    """The particles' own MMD² falls along the flow, at the rate ∂MMD² = 2 E[∇W · Δ] = -2 E|Δ|²."""
    y, x = normal(60, 2), normal(80, 2, seed=1) + 1.5
    kernel = tpf.metrics.GaussianKernel(1.0)

    def mmd2(a):
        return float(kernel(a, a).mean() - 2 * kernel(a, x).mean() + kernel(x, x).mean())

    delta = tpf.particles.MMDGradient()(y, swarm(y, x, 1.0))
    rate = (mmd2(y + 1e-5 * delta) - mmd2(y - 1e-5 * delta)) / 2e-5
    assert rate == pytest.approx(-2 * float(delta.square().sum(1).mean()), rel=1e-6)


def test_normalised_mmd_is_the_score_difference():
    z, y, x = normal(30, 2), normal(40, 2, seed=1), normal(50, 2, seed=2) + 9
    found = tpf.particles.MMDGradient(normalized=True)(z, swarm(y, x, 0.8))
    exact = tpf.particles.KernelDifference()(z, swarm(y, x, 0.8))
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)


def test_far_from_the_target_mmd_feels_its_own_kind_only():
    """Weber's remark 1: without normalised weights the pull of p is gone."""
    y, x = normal(40, 2, seed=1), normal(50, 2, seed=2) + 30
    z = y + 0.5 * normal(40, 2)
    alone = tpf.particles.MMDGradient()(z, swarm(y, x + 1e6, 0.5))
    torch.testing.assert_close(tpf.particles.MMDGradient()(z, swarm(y, x, 0.5)), alone)
    pull = tpf.particles.KernelDifference()(z, swarm(y, x, 0.5))
    assert bool((pull @ torch.ones(2, dtype=DOUBLE) > 50).all())


@pytest.mark.parametrize("bandwidth", [None, "median"])
def test_svgd_is_its_double_sum(bandwidth):
    """Liu & Wang's (8) with the kernel differentiated."""
    law, y = mixture(), normal(25, 2)
    sigma = 0.9
    if bandwidth == "median":
        sigma = float(torch.pdist(y).median()) / math.sqrt(2 * math.log(25))
    total = torch.zeros_like(y)
    score = tpf.particles.SmoothedLaw(law).score(y)
    for i, j in itertools.product(range(25), repeat=2):
        other = y[j].clone().requires_grad_()
        weight = torch.exp(-(other - y[i]).square().sum() / (2 * sigma**2))
        total[i] += weight.detach() * score[j] + torch.autograd.grad(weight, other)[0]
    found = tpf.particles.SteinDirection(law, bandwidth=bandwidth)(y, swarm(y, None, 0.9))
    torch.testing.assert_close(found, total / 25, rtol=1e-9, atol=1e-10)


def test_svgd_finds_a_gaussian():
    """Its fixed points match the mean exactly and, with enough particles, the covariance."""
    law = tpf.Gaussian((2,), torch.tensor([3.0, -1.0]), torch.tensor([0.5, 1.5]))
    moved = tpf.particle_flow(
        normal(200, 2), direction=tpf.particles.SteinDirection(law), steps=600, step=0.3
    ).x
    torch.testing.assert_close(moved.mean(0), law.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(moved.std(0), law.scale, atol=0.1, rtol=0.1)


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: tpf.particles.DataDifference("p"), TypeError, "data prediction is a Field"),
        (
            lambda: tpf.particles.ScoreDifference(tpf.distributions.Uniform((2,))),
            TypeError,
            "KernelDifference",
        ),
        (
            lambda: tpf.particles.SmoothedLaw(tpf.distributions.Uniform((2,))),
            TypeError,
            "no smoothed law",
        ),
        (lambda: tpf.particles.SteinDirection(3), TypeError, "law with a log-density"),
        (
            lambda: tpf.particles.SteinDirection(mixture(), bandwidth=0.3),
            ValueError,
            "bandwidth=None",
        ),
        (lambda: tpf.particles.MMDGradient(injection=-1.0), ValueError, "at least 0"),
        (
            lambda: tpf.particles.DiscriminatorDifference(lambda x: x, loss="hinge"),
            ValueError,
            "hinge",
        ),
    ],
)
def test_directions_refuse(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_directions_refuse_what_they_meet():
    y = normal(10, 2)
    with pytest.raises(ValueError, match="one logit a row"):
        tpf.particles.DiscriminatorDifference(lambda x: x)(y, swarm(y, None, 0.0))
    with pytest.raises(ValueError, match="one value"):
        tpf.particles.LossGradient(lambda x: x)(y, swarm(y, None, 0.0))
    with pytest.raises(ValueError, match="takes the flow's sigma"):
        tpf.particles.SteinDirection(mixture(), bandwidth=None)(y, swarm(y, None, 0.0))
    two_sided = tpf.Velocity(
        tpf.networks.MLP(2, 8),
        tpf.Process(tpf.Linear(), tpf.distributions.Uniform((2,), -1.0, 1.0)),
    )
    with pytest.raises(ValueError, match="isotropic Gaussian base"):
        tpf.particles.DataDifference(two_sided)
    field = tpf.oracle(tpf.Process(tpf.OneSidedLinear(), shape=(2,)), mixture())
    field.transform = tpf.Standardize(0.0, torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="shared='all'"):
        tpf.particles.FieldData(field)


@pytest.mark.parametrize(
    "law", [tpf.Gaussian((2,), 1.0, 0.5), tpf.distributions.GaussianMixture(torch.eye(2), 0.5)]
)
def test_a_law_in_closed_form_stands_for_the_source(law):
    """D_p - D_q of two laws, the second one given as a law too: it could not be assigned."""
    direction = tpf.particles.DataDifference(tpf.Gaussian((2,)), of_source=law)
    z = torch.randn(5, 2, dtype=torch.float64)
    swarm = tpf.particles.Swarm(z, z, None, 0.7)
    ahead = tpf.particles.DataDifference(tpf.Gaussian((2,)))(z, swarm) + z
    behind = tpf.particles.DataDifference(law)(z, swarm) + z
    torch.testing.assert_close(direction(z, swarm), ahead - behind)
    assert len(list(direction.buffers())) > 0  # both move to a device with it
    with pytest.raises(TypeError, match=r"write Gaussian\(\.\.\.\)"):
        tpf.particles.DataDifference(tpf.Gaussian)
