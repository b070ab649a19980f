"""Algorithm 2: gradient identities, with autograd; the trainer; GANs; what is refused."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import logsigmoid

import transportflows as tpf

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=DOUBLE)


def layers(*widths, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = []
        for a, b in itertools.pairwise(widths):
            parts += [nn.Linear(a, b), nn.Tanh()]
        return nn.Sequential(*parts[:-1]).double()


def maker(seed=0, latent=4, d=2, **kwargs):
    return tpf.particles.OneStepGenerator(
        layers(latent, 16, d, seed=seed), latent, shape=(d,), **kwargs
    )


def gradient(values, module):
    return torch.autograd.grad(values.mean(), list(module.parameters()))


def samples_of(field, n, seed):
    """The samples that a loss draws first from a generator."""
    return field(field.latents(n, generator=seeded(seed)))


def close(a, b, **kwargs):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12, **kwargs)


# ------------------------------------------------------------ a loss, split in two (17) to (25)


def energy(x):
    """Of each sample, not convex."""
    return torch.cos(2 * x).sum(1) + x.pow(4).sum(1) / 8


def spread(x):
    """Of the whole sample."""
    return (x.mT.cov() - 2).square().sum()


@pytest.mark.parametrize("loss", [energy, spread], ids=["of rows", "of the sample"])
@pytest.mark.parametrize("eta", [0.1, 3.0])
def test_the_regression_on_a_data_step_has_the_gradient_of_the_loss(loss, eta):
    """(25), exactly and whatever η: λ1 ∂L/∂θ."""
    field, data = maker(), normal(32, 2)
    split = tpf.particles.MovedTargetLoss(tpf.particles.LossGradient(loss), step=eta)
    found = gradient(split(field, data, generator=seeded(7)), field)
    value = loss(samples_of(field, 32, 7))
    close(found, [eta * g for g in torch.autograd.grad(value.mean(), list(field.parameters()))])


def test_training_on_moved_samples_is_training_on_the_loss():
    """Through the trainer: twenty steps of gradient descent, the same weights."""

    class Direct(tpf.losses.Loss):
        def __call__(self, field, batch, *, generator=None):
            n = len(batch)
            return energy(field(field.latents(n, generator=generator)))

    data, weights = normal(64, 2), []
    for loss, lr in (
        (Direct(), 0.05),
        (tpf.particles.MovedTargetLoss(tpf.particles.LossGradient(energy), step=0.25), 0.2),
    ):
        field = maker()
        trainer = tpf.Trainer(field, loss, optimizer=lambda p, lr=lr: torch.optim.SGD(p, lr=lr))
        trainer.fit(data, steps=20, batch_size=16, generator=seeded(), progress=False)
        weights.append([p.detach() for p in field.parameters()])
    close(*weights)
    assert not torch.equal(weights[0][0], next(maker().parameters()))


# ----------------------------------------------------------------------- adversarial, (28), (32)


def test_with_a_discriminator_it_is_a_gan_with_the_alternative_loss():
    """(32): η times the gradient of -E h(g(ξ))."""
    field, data, h = maker(), normal(32, 2), layers(2, 8, 1, seed=3)
    loss = tpf.particles.MovedTargetLoss(tpf.particles.DiscriminatorDifference(h), step=0.7)
    found = gradient(loss(field, data, generator=seeded(7)), field)
    close(found, [0.7 * g for g in gradient(-h(samples_of(field, 32, 7)), field)])


def test_the_non_saturating_loss_differs_by_the_factor_of_each_row():
    """(28): its gradient is the regression's, each row's move times 1 - f."""
    field, data, h = maker(), normal(32, 2), layers(2, 8, 1, seed=3)
    exact = gradient(-logsigmoid(h(samples_of(field, 32, 7))), field)
    direction = tpf.particles.DiscriminatorDifference(h, loss="non_saturating")
    loss = tpf.particles.MovedTargetLoss(direction, step=1.0)
    close(gradient(loss(field, data, generator=seeded(7)), field), exact)
    # By hand: the alternative's moves, weighed.
    y = samples_of(field, 32, 7)
    alternative = tpf.particles.DiscriminatorDifference(h)
    delta = alternative(y, tpf.particles.Swarm(y, y, None, 0.0))
    weighed = y.detach() + (1 - torch.sigmoid(h(y.detach()))) * delta
    close(gradient(0.5 * (y - weighed).square().sum(1), field), exact)
    y = samples_of(field, 32, 7)
    unweighed = gradient(0.5 * (y - y.detach() - delta).square().sum(1), field)
    assert float((unweighed[0] - exact[0]).abs().max()) > 1e-3


def gan(inner_steps=1, **kwargs):
    h = layers(2, 32, 1, seed=5)
    return tpf.particles.AdversarialLoss(
        h, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2), inner_steps=inner_steps, **kwargs
    )


def test_one_adversarial_step_is_that_of_a_gan():
    """The discriminator's step by hand, and then the generator's gradient under the new h."""
    field, data = maker(), normal(32, 2) + 1
    h = layers(2, 8, 1, seed=5)
    loss = tpf.particles.AdversarialLoss(h, optimizer=lambda p: torch.optim.SGD(p, lr=0.3))
    found = gradient(loss(field, data, generator=seeded(7)), field)

    by_hand = layers(2, 8, 1, seed=5)
    own = seeded(7)
    made = field(field.latents(32, generator=own)).detach()
    value = -logsigmoid(by_hand(data)).mean() - logsigmoid(-by_hand(made)).mean()
    with torch.no_grad():
        for p, g in zip(
            by_hand.parameters(),
            torch.autograd.grad(value, list(by_hand.parameters())),
            strict=True,
        ):
            p -= 0.3 * g
    close(h.parameters(), by_hand.parameters())
    y = field(field.latents(32, generator=own))
    close(found, gradient(-by_hand(y), field))


@pytest.mark.parametrize("loss", ["alternative", "non_saturating"])
def test_adversarial_training_reaches_the_data(loss):
    data = 0.4 * normal(2_000, 2) + torch.tensor([2.0, -1.0], dtype=DOUBLE)
    field = maker(latent=2)
    before = tpf.metrics.energy_distance(field.sample(1_000, generator=seeded(1)), data)
    step = 4.0 if loss == "alternative" else 8.0
    trainer = tpf.Trainer(
        field, gan(inner_steps=3, sigma=0.5, step=step, loss=loss), lr=2e-3, ema=0.99
    )
    trainer.fit(data, steps=500, batch_size=128, generator=seeded(), progress=False)
    with trainer.averaged():  # a GAN circles its solution
        made = field.sample(1_000, generator=seeded(1))
    assert tpf.metrics.energy_distance(made, data) < 0.05 * before


def test_a_resumed_gan_ends_with_the_same_bits(tmp_path):
    data = normal(200, 2)

    def run(folder, steps, resume=False):
        field, loss = maker(), gan()
        trainer = tpf.Trainer(field, loss)
        trainer.fit(
            data, steps=steps, batch_size=32, generator=seeded(), progress=False, resume=resume,
            checkpoints=tpf.training.Checkpoints(folder, every=6),
            callbacks=[tpf.particles.DiscriminatorState(loss)],
        )  # fmt: skip
        return [*field.parameters(), *loss.discriminator.parameters()]

    whole = run(tmp_path / "a", 12)
    run(tmp_path / "b", 6)
    again = run(tmp_path / "b", 12, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


# ----------------------------------------------------------------------------- moved samples


def test_the_target_is_the_moved_sample():
    """½|g - y'|², y' = y + η mean over σ of Δ_σ, with the noise of each."""
    field, data = maker(), normal(32, 2) + 1
    loss = tpf.particles.MovedTargetLoss(sigma=[0.5, 2.0], step=0.6)
    values = loss(field, data, generator=seeded(7))
    own = seeded(7)
    y = field(field.latents(32, generator=own)).detach()
    total = torch.zeros_like(y)
    for sigma in (0.5, 2.0):
        z = y + sigma * torch.randn(32, 2, generator=own, dtype=DOUBLE)
        total += tpf.particles.KernelDifference()(z, tpf.particles.Swarm(y, y, data, sigma))
    torch.testing.assert_close(values, 0.5 * (0.3 * total).square().sum(1))
    assert values.requires_grad


def test_more_references_give_a_better_direction_in_many_dimensions():
    """64 rows moved, with 64 or 2,048 for the estimate, against the law's own score."""
    d, sigma = 20, 2.0
    p = tpf.Gaussian((d,), 0.5)
    field = tpf.particles.OneStepGenerator(nn.Identity(), d)
    exact = tpf.particles.ScoreDifference(p, tpf.Gaussian((d,)))

    class Still(tpf.particles.KernelDifference):
        perturbed = False

    y = normal(64, d)
    what = exact(y, tpf.particles.Swarm(y, y, None, sigma))
    errors = {}
    for references in (64, 2_048):
        loss = tpf.particles.MovedTargetLoss(Still(), sigma=sigma, references=references, target=p)
        moved = loss.moved(field, y, y, generator=seeded())
        errors[references] = float((moved - y - what).norm() / what.norm())
    assert errors[2_048] < 0.5 * errors[64]


def test_a_data_prediction_trains_a_generator():
    """D_p exact, D_q of the generated samples: the moments of the generator become those of p."""
    p = tpf.Gaussian((2,), torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0]))
    net = nn.Linear(2, 2).double()
    field = tpf.particles.OneStepGenerator(net, 2)
    loss = tpf.particles.MovedTargetLoss(
        tpf.particles.DataDifference(p, of_source="sample"), sigma=1.0
    )
    trainer = tpf.Trainer(field, loss, optimizer=lambda q: torch.optim.SGD(q, lr=0.3))
    trainer.fit(normal(512, 2), steps=400, batch_size=512, generator=seeded(), progress=False)
    torch.testing.assert_close(net.bias.detach(), p.mean, atol=0.1, rtol=0)
    covariance = (net.weight @ net.weight.mT).detach()
    torch.testing.assert_close(covariance, p.covariance(), atol=0.15, rtol=0)


def test_samples_are_in_the_units_of_the_data():
    data = 30 * normal(400, 2) + 500
    field = maker(latent=2, transform=tpf.Standardize.fit(data))
    tpf.Trainer(field, tpf.particles.MovedTargetLoss(sigma=0.7), lr=1e-2).fit(
        data, steps=400, batch_size=128, generator=seeded(), progress=False
    )
    made = field.sample(1_000, generator=seeded())
    torch.testing.assert_close(made.mean(0), data.mean(0), atol=12.0, rtol=0)
    assert bool(((made.std(0) / data.std(0)) > 0.5).all())


def test_schedules_move_with_the_trainer_and_resume(tmp_path):
    sigma = tpf.particles.ExponentialSigma(4.0, 0.5)
    loss = tpf.particles.MovedTargetLoss(sigma=sigma)
    with pytest.raises(ValueError, match=r"callbacks=\[FlowClock\(loss, steps\)\]"):
        loss(maker(), normal(8, 2))
    field = maker()
    trainer = tpf.Trainer(field, loss)
    seen = []

    class Watch(tpf.training.Callback):
        every = 1

        def on_step(self, trainer):
            seen.append(loss.levels(loss.u)[0])

    trainer.fit(
        normal(64, 2), steps=5, batch_size=16, generator=seeded(), progress=False,
        callbacks=[tpf.particles.FlowClock(loss, 10), Watch()],
    )  # fmt: skip
    torch.testing.assert_close(torch.tensor(seen), sigma.table(10)[1:6].float())

    def run(folder, steps, resume=False):
        field, loss = maker(), tpf.particles.MovedTargetLoss(sigma=sigma)
        tpf.Trainer(field, loss).fit(
            normal(64, 2), steps=steps, batch_size=16, generator=seeded(), progress=False,
            callbacks=[tpf.particles.FlowClock(loss, 8)], resume=resume,
            checkpoints=tpf.training.Checkpoints(folder, every=4),
        )  # fmt: skip
        return list(field.parameters())

    whole = run(tmp_path / "a", 8)
    run(tmp_path / "b", 4)
    again = run(tmp_path / "b", 8, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


def test_a_generator_is_a_law():
    """It draws what its network makes of its latents, in chunks; and is a base for a process."""
    field = maker()
    made = field.sample(100, generator=seeded())
    assert torch.equal(made, field.sample(100, generator=seeded()))
    torch.testing.assert_close(field.sample(100, chunk=7, generator=seeded()), made)
    assert not made.requires_grad
    process = tpf.Process(tpf.Linear(tpf.Brownian()), base=field)
    assert process.sample(normal(10, 2), generator=seeded()).x.shape == (10, 2)
    flow = tpf.particle_flow(field, normal(50, 2), n=30, sigma=1.0, steps=3, generator=seeded())
    assert flow.x.shape == (30, 2)


def test_dropout_is_off_while_sampling_and_modes_come_back():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).double()
    net[0].eval()
    field = tpf.particles.OneStepGenerator(net, 2)
    assert torch.equal(field.sample(50, generator=seeded()), field.sample(50, generator=seeded()))
    assert net[1].training
    assert not net[0].training


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("run", "error", "match"),
    [
        (lambda: tpf.particles.MovedTargetLoss(), ValueError, "give sigma="),
        (lambda: tpf.particles.MovedTargetLoss(sigma=0.0), ValueError, "sigma must be positive"),
        (lambda: tpf.particles.MovedTargetLoss(sigma=[]), ValueError, "at least one"),
        (lambda: tpf.particles.MovedTargetLoss(sigma=lambda u: 1 - u), ValueError, "is 0 at u = 1"),
        (
            lambda: tpf.particles.MovedTargetLoss(sigma=1.0, step=None),
            ValueError,
            "give step= a size",
        ),
        (lambda: tpf.particles.MovedTargetLoss(sigma=1.0, references=64), ValueError, "target="),
        (
            lambda: tpf.particles.MovedTargetLoss(tpf.particles.KernelDifference),
            TypeError,
            "must be a Direction",
        ),
        (lambda: tpf.particles.AdversarialLoss(lambda x: x), TypeError, "nn.Module"),
        (lambda: tpf.particles.AdversarialLoss(nn.Identity()), ValueError, "nothing to train"),
        (
            lambda: tpf.particles.OneStepGenerator(3, 2),
            TypeError,
            r"OneStepGenerator\(net, latent\)",
        ),
        (lambda: maker().velocity(torch.tensor(0.5), normal(3, 2)), tpf.ConversionError, "sample"),
        (
            lambda: tpf.particles.OneStepGenerator(nn.Linear(4, 3).double(), 4, shape=(2,)).sample(
                5
            ),
            ValueError,
            r"must give \(5, 2\)",
        ),
        (lambda: maker().sample(0), ValueError, "positive integer"),
        (
            lambda: tpf.particles.MovedTargetLoss(sigma=1.0)(
                tpf.Velocity(tpf.networks.MLP(2, 8), tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))),
                normal(8, 2),
            ),
            TypeError,
            "OneStepGenerator",
        ),
        (
            lambda: tpf.Trainer(maker(), tpf.particles.MovedTargetLoss(sigma=1.0)).fit(
                normal(50, 3), steps=1, progress=False
            ),
            ValueError,
            "events of shape",
        ),
    ],
)
def test_refusals(run, error, match):
    with pytest.raises(error, match=match):
        run()


def test_the_mean_square_of_the_loss_is_finite_and_small_at_the_target():
    """Where q is p, what is left of Δ is the error of two samples, of order 1/√B."""
    p = tpf.Gaussian((2,))
    field = tpf.particles.OneStepGenerator(nn.Identity(), 2)
    sizes = []
    for n in (200, 3_200):
        loss = tpf.particles.MovedTargetLoss(sigma=1.0)
        values = loss(field, p.sample(n, generator=seeded(1)), generator=seeded(2))
        sizes.append(math.sqrt(float(values.mean())))
    assert sizes[0] / sizes[1] == pytest.approx(4.0, rel=0.4)
