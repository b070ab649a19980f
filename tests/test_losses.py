"""What a loss is: two halves, a distance of one's own, functions, defaults, how it is written."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import transportflows as tpf
from transportflows.losses.base import as_loss

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n=12):
    return torch.randn(n, 2, generator=gen(1), dtype=F64)


def net(labels=None):
    return tpf.networks.MLP(2, 8, 1, labels=labels, generator=gen(2)).double()


def two_sided(gamma=None):
    return tpf.Process(tpf.Linear(gamma), tpf.Gaussian((2,)))


def one_sided():
    return tpf.Process(tpf.OneSidedLinear(), shape=(2,))


# ------------------------------------------------------------------------- a distance of one's own


def absolute(prediction, target):
    return (prediction - target).abs().flatten(1).sum(1)


class Absolute(tpf.VelocityLoss):
    def distance(self, prediction, target):
        return absolute(prediction, target)


class AbsoluteScore(tpf.ScoreLoss):
    def distance(self, prediction, target):
        return absolute(prediction, target)


OPTIONS = {
    "plain": {},
    "weight": {"weight": lambda t: 1 + 5 * t},
    "weight of the process": {"weight": tpf.losses.UnitWeight("noise")},
    "importance": {"times": tpf.times.LogitNormalTimes(1.0, margin=0.01), "importance": True},
    "antithetic": {"antithetic": True},
    "all": {
        "times": tpf.times.LogitNormalTimes(1.0, margin=0.01),
        "importance": True,
        "antithetic": True,
        "weight": lambda t: 2 - t,
        "constant": False,
    },
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_distance_keeps_weight_importance_and_antithetic_pairs(option):
    given = OPTIONS[option]
    field = tpf.Velocity(net(), two_sided(tpf.Brownian()))
    loss = Absolute(**given)
    values = loss(field, rows(), generator=gen(3))
    sample = tpf.VelocityLoss(**given).draw(field, rows(), generator=gen(3))
    expected = absolute(field.velocity(sample.t, sample.x), sample.velocity)
    if not given.get("constant", True):
        expected = expected - absolute(torch.zeros_like(sample.x), sample.velocity)
    weight = given.get("weight", torch.ones_like)
    if isinstance(weight, tpf.losses.LossWeight):
        expected = expected * weight(field.process.part, sample.t, "velocity")
    else:
        expected = expected * weight(sample.t)
    if given.get("importance"):
        expected = expected / given["times"].density(sample.t)
    if given.get("antithetic"):
        assert len(expected) == 2 * len(rows())
        expected = 0.5 * (expected[: len(rows())] + expected[len(rows()) :])
    assert values.shape == (len(rows()),)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)


def test_a_distance_of_scores_is_in_units_of_the_noise():
    field = tpf.Score(net(), one_sided())
    loss = AbsoluteScore(weight=tpf.losses.UnitWeight("score"))
    sample = loss.draw(field, rows(), generator=gen(3))
    sigma = field.process.noise_part.scale(sample.t)
    residual = sigma[:, None] * field.score(sample.t, sample.x) + sample.noise
    expected = residual.abs().sum(1) / sigma.square()
    torch.testing.assert_close(loss.evaluate(field, sample), expected, rtol=1e-10, atol=1e-10)


def test_without_the_constant_the_gradient_is_the_same():
    field = tpf.Velocity(net(), two_sided())
    found = []
    for constant in (True, False):
        loss = tpf.VelocityLoss(constant=constant, weight=lambda t: 1 + t)
        value = loss(field, rows(), generator=gen(3))
        found.append((value, torch.autograd.grad(value.sum(), list(field.net.parameters()))))
    (a, slopes), (b, others) = found
    sample = tpf.VelocityLoss().draw(field, rows(), generator=gen(3))
    constant = 0.5 * (1 + sample.t) * sample.velocity.square().sum(1)
    torch.testing.assert_close(a - b, constant, rtol=1e-12, atol=1e-12)
    for slope, other in zip(slopes, others, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-12, atol=1e-14)


# ---------------------------------------------------------------------------- margins found once


@pytest.mark.parametrize("shared", [False, True])
def test_margins_of_the_draw_are_those_of_the_density(shared):
    """Also where the sampler of times was bound to the process before, without the weight."""
    process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
    field = tpf.Score(net(), process)
    times = tpf.times.EDMTimes(std=4.0, margin=None)
    if shared:
        tpf.ScoreLoss(times=times)(field, rows(), generator=gen())
    loss = tpf.ScoreLoss(weight=tpf.losses.LikelihoodWeight(), times=times, importance=True)
    sample = loss.draw(field, rows(4_000), generator=gen(3))
    low, high = loss.weight.margin(process.part, "noise")
    assert max(low, high) == 1e-4
    bound = tpf.times.EDMTimes(std=4.0, margin=(low, high)).bind(process)
    drawn = bound.sample(4_000, generator=gen(3), dtype=F64)
    torch.testing.assert_close(sample.t, drawn, rtol=0, atol=1e-12)
    torch.testing.assert_close(sample.density, bound.density(drawn), rtol=1e-9, atol=0)


def test_directions_go_with_their_rows():
    """Sliced score matching in parts is that of the whole batch."""
    field = tpf.Score(net(), two_sided(tpf.Brownian()))
    loss = tpf.losses.SlicedScoreLoss(probes=3, times=tpf.times.UniformTimes(margin=0.05))
    sample = loss.draw(field, rows(), generator=gen(3))
    whole = loss.evaluate(field, sample)
    parts = [loss.evaluate(field, sample.rows(*ends)) for ends in ((0, 5), (5, 12))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(whole, loss(field, rows(), generator=gen(3)))


# -------------------------------------------------------------------------------- functions


def by_name(field, batch, generator):
    return tpf.VelocityLoss()(field, batch, generator=generator)


class Called(tpf.losses.Loss):
    def __call__(self, field, batch, *, generator=None):
        return by_name(field, tpf.Batch.of(batch), generator)


class Doubled(tpf.VelocityLoss):
    def __call__(self, field, batch, *, generator=None):
        return 2 * super().__call__(field, batch, generator=generator)


@pytest.mark.parametrize(
    ("given", "factor", "shown"),
    [
        (by_name, 1, "by_name"),
        (lambda f, b, g: by_name(f, b, g), 1, "<lambda>"),
        (Called(), 1, "Called()"),
        (Doubled(), 2, "Doubled()"),
    ],
)
def test_what_can_be_called_is_a_loss(given, factor, shown):
    field = tpf.Velocity(net(), two_sided())
    trainer = tpf.Trainer(field, given)
    expected = factor * tpf.VelocityLoss()(field, rows(), generator=gen(3))
    values = trainer.loss(field, rows(), generator=gen(3))
    torch.testing.assert_close(values, expected, rtol=0, atol=0)
    split = as_loss(given)
    sample = split.draw(field, rows(), generator=gen(3))
    assert torch.equal(split.evaluate(field, sample.rows(0, 12)), values)
    assert repr(trainer.loss) == shown
    assert len(trainer.fit(rows(), steps=2, batch_size=4, progress=False)) == 2


def test_a_loss_that_says_nothing_is_refused():
    class Nothing(tpf.losses.Loss):
        pass

    field = tpf.Velocity(net(), two_sided())
    with pytest.raises(TypeError, match=r"Nothing says nothing.*write evaluate"):
        Nothing()(field, rows())
    for wrong in (3, "velocity", tpf.VelocityLoss):
        with pytest.raises(TypeError, match=r"loss must be a Loss.*a function"):
            tpf.Trainer(field, wrong)


# --------------------------------------------------------------------------------- defaults

DEFAULTS = {
    "VelocityLoss()": lambda: tpf.Velocity(net(), two_sided()),
    "MeanVelocityLoss()": lambda: tpf.MeanVelocity(net(), two_sided(tpf.Brownian())),
    "ScoreLoss()": lambda: tpf.Score(net(), one_sided()),
    "NoiseLoss()": lambda: tpf.NoisePredictor(net(), one_sided()),
    "DataLoss()": lambda: tpf.DataPredictor(net(), one_sided()),
    (
        "DataLoss(times=EDMTimes(mean=-1.2, std=1.2, margin=(1e-06, 1e-06)),"
        " weight=EDMWeight(sigma_data=2.0))"
    ): lambda: tpf.EDM(net(), one_sided(), sigma_data=2.0),
    "SumLoss(MeanVelocityLoss(), ScoreLoss())": lambda: tpf.FieldPair(
        mean_velocity=net(), score=net(), process=two_sided(tpf.Brownian())
    ),
}


@pytest.mark.parametrize("written", DEFAULTS)
def test_each_kind_of_field_has_a_default_loss(written):
    trainer = tpf.Trainer(DEFAULTS[written]())
    assert repr(trainer.loss) == written
    assert len(trainer.fit(rows(), steps=3, batch_size=8, progress=False)) == 3


def test_a_subclass_of_a_field_has_the_default_of_its_parent():
    class Mine(tpf.EDM):
        pass

    found = tpf.losses.default_loss(Mine(net(), one_sided(), sigma_data=3.0))
    assert found.weight.sigma_data == 3.0


def test_a_field_of_no_known_regression_is_told_so():
    generator = tpf.particles.OneStepGenerator(torch.nn.Linear(2, 2), latent=2)
    with pytest.raises(TypeError, match=r"OneStepGenerator predicts sample, for which"):
        tpf.Trainer(generator)


# ------------------------------------------------------------------------------ how it is written

WRITTEN = {
    "VelocityLoss()": tpf.VelocityLoss(),
    "VelocityLoss(times=UniformTimes(margin=(0.1, 0.1)), antithetic=True)": tpf.VelocityLoss(
        times=tpf.times.UniformTimes(margin=0.1), antithetic=True
    ),
    (
        "ScoreLoss(times=LogSNRTimes(margin=(0.001, 0.001)),"
        " weight=LikelihoodWeight(), importance=True)"
    ): tpf.ScoreLoss(
        times=tpf.times.LogSNRTimes(margin=1e-3),
        weight=tpf.losses.LikelihoodWeight(),
        importance=True,
    ),
    "SumLoss(VelocityLoss(), NoiseLoss(constant=False))": tpf.losses.SumLoss(
        tpf.VelocityLoss(), tpf.NoiseLoss(constant=False)
    ),
    "SlicedScoreLoss(probes=2)": tpf.losses.SlicedScoreLoss(probes=2),
    "DenoisingAutoencoderLoss(sigma=[0.1, 1.0])": tpf.losses.DenoisingAutoencoderLoss([0.1, 1.0]),
    "VariationalLoss(levels=<float64 (9,)>)": tpf.losses.VariationalLoss(
        torch.linspace(0.1, 0.9, 9)
    ),
    "LikelihoodLoss(scheme='rk4', steps=5)": tpf.likelihood.LikelihoodLoss(scheme="rk4", steps=5),
    "CosineRate(floor=0.1)": tpf.training.CosineRate(floor=0.1),
    "StepRate(every=[3, 9], factor=0.1, warmup=2)": tpf.training.StepRate([3, 9], 0.1, warmup=2),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_what_is_written_is_what_was_given(written):
    value = WRITTEN[written]
    assert repr(value) == written
    for again in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert repr(again) == repr(value)


def test_a_used_loss_is_copied_and_pickled():
    field = tpf.Score(net(), one_sided())
    loss = tpf.ScoreLoss(times=tpf.times.EDMTimes(), weight=tpf.losses.MinSNRWeight())
    values = loss(field, rows(), generator=gen(3))
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(again(field, rows(), generator=gen(3)), values)


def test_a_trainer_is_written_in_three_lines(tmp_path):
    field = tpf.Velocity(net(), two_sided())
    trainer = tpf.Trainer(field, ema=0.9, scheduler="cosine", lr=2e-3)
    size = sum(p.numel() for p in field.net.parameters())
    assert repr(trainer) == (
        f"Trainer(Velocity of {size} parameters, VelocityLoss(),\n"
        "  Adam at lr 0.002, ema 0.9, CosineRate(),\n"
        "  step 0)"
    )
    kept = tpf.training.Checkpoints(tmp_path, every=2)
    assert repr(kept) == f"Checkpoints({str(tmp_path)!r}, every=2, keep=3)"
    trainer.fit(rows(), steps=2, batch_size=4, checkpoints=kept, progress=False)
    assert "step 2)" in repr(trainer)
    assert "newest step-000000002.ckpt" in repr(kept)


class ByCompare(tpf.VelocityLoss):
    """Compares with more of the sample than the target: each of its rows, not yet weighed."""

    def compare(self, prediction, sample):
        return (prediction - sample.velocity).abs().flatten(1).sum(1)


class ByDistance(tpf.VelocityLoss):
    def distance(self, prediction, target):
        return (prediction - target).abs().flatten(1).sum(1)


@pytest.mark.parametrize("kind", [ByCompare, ByDistance])
def test_an_overridden_comparison_keeps_weight_importance_signs_and_constant(kind):
    law = tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((2,)))
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1), law)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))

    def losses(**options):
        return kind(**options)(field, x, generator=torch.Generator().manual_seed(0)).detach()

    sample = kind().draw(field, x, generator=torch.Generator().manual_seed(0))
    plain = (field(sample.t, sample.x) - sample.velocity).abs().sum(1).detach()
    torch.testing.assert_close(losses(), plain)
    assert float(losses(weight=lambda t: 0 * t).sum()) == 0
    torch.testing.assert_close(losses(weight=lambda t: 2 + t), (2 + sample.t) * plain)
    torch.testing.assert_close(losses(constant=False), plain - sample.velocity.abs().sum(1))
    times = tpf.times.LogitNormalTimes(1.0)
    drawn = kind(times=times, importance=True).draw(
        field, x, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(
        losses(times=times, importance=True), losses(times=times) / drawn.density
    )
    both = kind(antithetic=True).draw(field, x, generator=torch.Generator().manual_seed(0))
    each = (field(both.t, both.x) - both.velocity).abs().sum(1).detach()
    torch.testing.assert_close(losses(antithetic=True), 0.5 * (each[:6] + each[6:]))
    tpf.Trainer(field, kind(antithetic=True)).fit(x, steps=1, batch_size=6, progress=False)
    pair = tpf.FieldPair(
        velocity=tpf.networks.MLP(2, 8, 1), noise=tpf.networks.MLP(2, 8, 1), process=law
    )
    none = [kind(weight=lambda t: 0 * t), tpf.NoiseLoss(weight=lambda t: 0 * t)]
    total = tpf.losses.SumLoss(*none)(pair, x, generator=torch.Generator().manual_seed(0))
    assert float(total.detach().sum()) == 0


def test_a_comparison_that_sums_over_rows_is_refused():
    class Summed(tpf.VelocityLoss):
        def compare(self, prediction, sample):
            return (prediction - sample.velocity).square().sum()

    law = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1), law)
    with pytest.raises(ValueError, match="one value a row"):
        Summed()(field, torch.randn(6, 2))
