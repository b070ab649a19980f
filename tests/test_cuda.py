"""What must hold on a card as on the CPU; these tests need one."""

import dataclasses

import pytest
import torch

import transportflows as tpf
from families import mixture

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device on this machine"
)


def seeded(device="cpu"):
    return torch.Generator(device).manual_seed(0)


def field(dtype=torch.float64):
    net = tpf.networks.MLP(2, 32, 2, generator=seeded()).to(dtype)
    return tpf.Velocity(net, tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((2,), 0.3, 2.0)))


@pytest.mark.parametrize("scheme", ["euler", "midpoint", "heun", "rk4", "dopri5"])
def test_the_ode_is_that_of_the_cpu(scheme):
    x = torch.randn(100, 2, generator=seeded(), dtype=torch.float64)
    cpu = tpf.sample(field(), start=x, scheme=scheme, steps=10).x
    card = tpf.sample(field().cuda(), start=x.cuda(), scheme=scheme, steps=10, chunk=33).x
    torch.testing.assert_close(card.cpu(), cpu, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("generator", ["cpu", "cuda"])
def test_the_sde_is_seeded_by_a_generator_of_any_device(generator):
    runs = [
        tpf.sample(
            field(torch.float32).cuda(), 64, epsilon=[0.0, 0.5], generator=seeded(generator)
        ).x
        for _ in range(2)
    ]
    assert runs[0].is_cuda
    assert torch.equal(runs[0], runs[1])


def test_training_and_oracles_on_the_card():
    data = mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5)
    law = tpf.Process(tpf.Linear(), tpf.Gaussian((2,))).cuda()
    learned = tpf.Velocity(tpf.networks.MLP(2, 64, 3, generator=seeded()).cuda(), law)
    x1 = data.sample(20_000, generator=seeded()).cuda()
    trainer = tpf.Trainer(learned, tpf.VelocityLoss(), ema=0.99)
    trainer.fit(x1, steps=500, batch_size=1024, generator=seeded(), progress=False)
    oracle = tpf.oracles.GaussianMixtureOracle(law, data).cuda()
    sample = law.sample(x1, generator=seeded())
    error = tpf.losses.squared_error(learned, oracle, sample).mean()
    assert float(error) < 0.1 * float(oracle.velocity(sample.t, sample.x).square().sum(1).mean())


@pytest.mark.parametrize("form", ["on the host", "on the card", "too large for the card"])
def test_rows_reach_the_card_wherever_they_are(form, monkeypatch):
    x1 = torch.randn(5_000, 2, generator=seeded())
    runs = []
    for place in (form, "on the card"):
        if place == "too large for the card":
            monkeypatch.setattr("transportflows.training.data_rows._SHARE_OF_CARD", 0.0)
        trainer = tpf.Trainer(field(torch.float32).cuda(), tpf.VelocityLoss(), ema=0.9)
        given = x1.cuda() if place == "on the card" else x1
        # One batch of all rows, so that the order, which is made where the rows are, is no matter.
        trainer.fit(given, steps=20, batch_size=5_000, generator=seeded(), progress=False)
        monkeypatch.undo()
        runs.append(trainer.history.loss)
    assert abs(runs[0] - runs[1]).max() < 0.2 * runs[1].mean()


def test_a_run_on_the_card_resumes_to_the_same_bits(tmp_path):
    class Stop(tpf.training.Callback):
        every = 26

        def on_step(self, trainer):
            raise KeyboardInterrupt

    def trainer():
        return tpf.Trainer(field(torch.float32).cuda(), tpf.VelocityLoss(), ema=0.9)

    def fit(mine, **kwargs):
        x1 = torch.randn(500, 2, generator=seeded()).cuda()
        mine.fit(x1, steps=40, batch_size=64, generator=seeded(), progress=False, **kwargs)
        return mine

    whole = fit(trainer())
    folder = tpf.training.Checkpoints(tmp_path, every=10)
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(), checkpoints=folder, callbacks=[Stop()])
    again = fit(trainer(), checkpoints=folder, resume=True)
    for a, b in zip(whole.parameters, again.parameters, strict=True):
        assert a.is_cuda
        assert torch.equal(a, b)
    assert tpf.training.local_device().type == "cuda"


def test_no_synchronisation_in_the_step_loop():
    """CUDA itself reports any wait for the device while the network runs for the second time."""
    states = field(torch.float32).cuda()
    calls = []
    inner = states.net

    def watched(t, x):
        calls.append(1)
        torch.cuda.set_sync_debug_mode("error" if 1 < len(calls) < 20 else "default")
        return inner(t, x)

    states.net = None
    del states.net
    states.net = watched
    try:
        x = torch.randn(64, 2, device="cuda")
        tpf.sample(states, start=x, epsilon=[0.3, 0.5], steps=30, chunk=50)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(calls) == 180


METRICS = {
    "entropic": lambda x, y: tpf.metrics.entropic_wasserstein2(x, y, epsilon=0.05).value,
    "sinkhorn": lambda x, y: tpf.metrics.sinkhorn_divergence(x, y, epsilon=0.5).value,
    "w2": tpf.metrics.wasserstein2,
    "gaussian": tpf.metrics.gaussian_wasserstein2,
    "sliced": lambda x, y: tpf.metrics.sliced_wasserstein2(x, y, projections=4_000).value,
    "mmd2": lambda x, y: tpf.metrics.mmd2(x, y).value,
    "energy": tpf.metrics.energy_distance,
    "stein": lambda x, y: tpf.metrics.kernel_stein_discrepancy(x, lambda z: -z).value,
    "characteristic": lambda x, y: (
        tpf.metrics.characteristic_distance(x, y, frequencies=4_000).value
    ),
    "kl": lambda x, y: tpf.metrics.kl_nearest_neighbours(x, y),
    "coverage": lambda x, y: tpf.metrics.coverage(x, y).coverage,
    "mean": lambda x, y: tpf.metrics.mean_error(x, y).value,
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_those_of_the_cpu(name):
    x, y = torch.randn(2, 600, 3, generator=seeded(), dtype=torch.float64)
    y = 1.3 * y + 0.4
    tolerance = 0.05 if name in ("sliced", "characteristic") else 1e-5  # directions of its own
    cpu, card = METRICS[name](x, y), METRICS[name](x.cuda(), y.cuda())
    assert card == pytest.approx(cpu, rel=tolerance)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_log_densities_are_those_of_the_cpu(divergence):
    x = torch.randn(50, 2, generator=seeded(), dtype=torch.float64)
    options = {"divergence": divergence, "scheme": "rk4", "steps": 20, "probes": 400}
    cpu = tpf.log_likelihood(field(), x, **options)
    card = tpf.log_likelihood(field().cuda(), x.cuda(), **options)
    error = (card.log_prob.cpu() - cpu.log_prob).abs()
    assert bool((error < 1e-9 + 8 * cpu.standard_error).all())


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        (
            tpf.NoisePredictor,
            tpf.NoiseLoss(
                weight=tpf.losses.LikelihoodWeight(), times=tpf.times.LogSNRTimes(), importance=True
            ),
        ),
        (tpf.DataPredictor, tpf.losses.VariationalLoss([0.9, 0.5, 0.2])),
        (tpf.EDM, tpf.DataLoss(weight=tpf.losses.EDMWeight(), times=tpf.times.EDMTimes())),
        (tpf.DataPredictor, tpf.losses.DenoisingAutoencoderLoss([0.3, 1.0])),
        (tpf.Score, tpf.losses.ImplicitScoreLoss(weight=tpf.losses.UnitWeight("noise"))),
    ],
)
def test_losses_of_diffusion_are_those_of_the_cpu(kind, loss):
    law = tpf.Process(tpf.Linear(), tpf.Gaussian((2,), 0.3, 2.0))
    net = tpf.networks.MLP(2, 32, 2, generator=seeded()).double()
    x1 = torch.randn(64, 2, generator=seeded(), dtype=torch.float64)
    field = kind(net, law)
    sample = loss.draw(field, x1, generator=seeded())
    expected = loss.evaluate(field, sample).detach()
    field.cuda()
    names = ("t", "x", "x0", "x1", "density")
    moved = {n: getattr(sample, n).cuda() for n in names if getattr(sample, n) is not None}
    given = loss.evaluate(field, dataclasses.replace(sample, **moved)).detach()
    torch.testing.assert_close(given.cpu(), expected, rtol=1e-9, atol=1e-9)
    drawn = loss(field, x1.cuda(), generator=seeded())
    assert drawn.is_cuda
    assert bool(torch.isfinite(drawn).all())


@pytest.mark.parametrize("regularisation", [0.0, 0.5])
@pytest.mark.parametrize("solved_on", ["cpu", "cuda"])
def test_plans_of_whole_data_on_the_card(regularisation, solved_on):
    x0 = torch.randn(60, 2, generator=seeded())
    x1 = torch.randn(80, 2, generator=seeded()) + 2
    plan = tpf.couplings.TransportPlan(
        x0.to(solved_on), x1.to(solved_on), regularisation=regularisation
    )
    a, b = plan.pair(x1.cuda(), x1.cuda(), generator=seeded("cuda"))
    assert a.device.type == b.device.type == "cuda"
    assert bool((a.cpu()[:, None] == x0).all(-1).any(1).all())
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), coupling=plan)
    own = tpf.Velocity(tpf.networks.MLP(2, 16, 2, generator=seeded()), process).cuda()
    data = x1.to(solved_on)
    tpf.Trainer(own).fit(data, steps=5, batch_size=16, generator=seeded(), progress=False)


def flow_map(prediction="velocity", to_data=False):
    net = tpf.networks.MLP(2, 32, 2, frequencies=1, vectors={"stop": 5}, generator=seeded())
    process = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))
    return tpf.maps.FlowMap(tpf.maps.TwoTimes(net), process, prediction=prediction, to_data=to_data)


@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_jumps_are_those_of_the_cpu_and_wait_for_nothing(prediction):
    x = torch.randn(100, 2, generator=seeded(), dtype=torch.float64)
    on_card = flow_map(prediction).cuda()
    for how in ({}, {"steps": 4}, {"steps": 3, "save_at": [0.0, 0.4, 1.0]}):
        cpu = tpf.sample(flow_map(prediction), start=x, **how).x
        card = tpf.sample(on_card, start=x.cuda(), **how).x
        torch.testing.assert_close(card.cpu(), cpu, rtol=1e-10, atol=1e-10)
    noisy = [
        tpf.sample(on_card, start=x.cuda(), steps=4, epsilon=0.2, generator=seeded()).x
        for _ in range(2)
    ]
    assert torch.equal(*noisy)


@pytest.mark.parametrize(
    "loss", [tpf.maps.LagrangianLoss, tpf.maps.MeanFlowLoss, tpf.maps.SemigroupLoss]
)
def test_a_map_is_trained_on_the_card(loss):
    x1 = torch.randn(5_000, 2, generator=seeded()) * 0.4
    learned = flow_map().float().cuda()
    trainer = tpf.Trainer(learned, loss(), lr=3e-3, ema=0.99)
    trainer.fit(x1.cuda(), steps=400, batch_size=512, generator=seeded(), progress=False)
    start = torch.randn(500, 2, generator=seeded()).cuda()
    error = tpf.sample(trainer.averaged_field(), start=start).x - 0.4 * start
    assert float(error.square().mean().sqrt()) < 0.2  # the identity is off by .6


def test_the_density_of_a_map_is_that_of_the_cpu():
    x = torch.randn(40, 2, generator=seeded(), dtype=torch.float64)
    cpu, card = (
        tpf.maps.log_density(of, given).log_prob
        for of, given in ((flow_map(), x), (flow_map().cuda(), x.cuda()))
    )
    torch.testing.assert_close(card.cpu(), cpu, rtol=1e-9, atol=1e-9)
