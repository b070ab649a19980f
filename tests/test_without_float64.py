"""What must hold on a device without float64, such as an Apple GPU; here on a stand-in for one."""

import pytest
import torch

import transportflows as tpf
from families import INTERPOLANTS, Learned, mixture
from lean import lean  # noqa: F401


def seeded(device="cpu"):
    return torch.Generator(device).manual_seed(0)


PROCESSES = {
    "latent": lambda: tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((2,), 0.3, 2.0)),
    "one-sided": lambda: tpf.Process(tpf.OneSidedLinear(), shape=(2,)),
    "diffusion": lambda: tpf.Process(tpf.VP(), shape=(2,)),
    "variance exploding": lambda: tpf.Process(tpf.VE(0.02, 5.0), shape=(2,)),
    "chain": lambda: tpf.Process(tpf.sdes.DDPMChain(), shape=(2,)),
}


def net(out=2):
    return tpf.networks.MLP(2, 16, 2, generator=seeded())


FIELDS = {
    "velocity": tpf.Velocity,
    "score": tpf.Score,
    "noise": tpf.NoisePredictor,
    "data": tpf.DataPredictor,
    "edm": tpf.EDM,
}


def field(kind="velocity", process="latent"):
    law = PROCESSES[process]()
    if kind == "edm":
        return tpf.EDM(net(), law, sigma_data=1.0)
    return FIELDS[kind](net(), law)


def same(there, here, tolerance=1e-4):
    assert there.device.type == "lean"
    assert there.dtype == torch.float32
    torch.testing.assert_close(there.cpu(), here.to(torch.float32), rtol=tolerance, atol=tolerance)


def test_the_stand_in_refuses_float64(lean):  # noqa: F811
    x = torch.ones(3, device=lean)
    for wrong in (
        x.double,
        lambda: torch.zeros(3, dtype=torch.float64, device=lean),
        lambda: torch.tensor([1.0], dtype=torch.float64, device=lean),
        lambda: torch.ones(3).double().to(lean),
        lambda: x.sum(dtype=torch.float64),
    ):
        with pytest.raises(TypeError, match="doesn't support float64"):
            wrong()
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(3)


@pytest.mark.parametrize("path", INTERPOLANTS, ids=repr)
def test_every_path_moves_and_is_that_of_the_cpu(path, lean):  # noqa: F811
    import copy

    law = tpf.Process(
        copy.deepcopy(path), tpf.Gaussian((2,)) if path.uses_base else None, shape=(2,)
    )
    x1 = torch.randn(5, 2, generator=seeded())
    x0 = torch.randn(5, 2, generator=seeded()) if path.uses_base else None
    t = torch.linspace(0.1, 0.9, 5)
    here = law.noise_part.scale(t), law.interpolant.beta(t)
    law.to(lean)
    drawn = law.sample(x1.to(lean), t=t.to(lean), x0=None if x0 is None else x0.to(lean))
    assert drawn.x.device.type == "lean"
    for there, value in zip(
        (law.noise_part.scale(t.to(lean)), law.interpolant.beta(t.to(lean))), here, strict=True
    ):
        same(there, value, 1e-5)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kind", FIELDS)
def test_conversions_are_those_of_the_cpu(kind, process, lean):  # noqa: F811
    one = field(kind, process)
    x, t = torch.randn(4, 2, generator=seeded()), torch.linspace(0.2, 0.8, 4)
    wanted = [one.quantity(q, t, x).detach() for q in ("velocity", "score", "noise", "data")]
    one.to(lean)
    for q, value in zip(("velocity", "score", "noise", "data"), wanted, strict=True):
        same(one.quantity(q, t.to(lean), x.to(lean)).detach(), value, 1e-3)


SAMPLERS = {
    "euler": dict(scheme="euler", steps=5),
    "heun": dict(scheme="heun", steps=5),
    "rk4": dict(scheme="rk4", steps=5),
    "multistep": dict(scheme="dpm++2m", steps=5),
    "ddim": dict(scheme="ddim", steps=5),
    "ancestral": dict(scheme="ancestral", steps=5),
    "epsilon": dict(epsilon=0.5, steps=5),
    "epsilons": dict(epsilon=[0.0, 0.5], steps=5),
    "adaptive": dict(scheme="dopri5"),
    "saved": dict(scheme="heun", steps=4, save_at=[0.3, 0.6]),
}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name, process, lean):  # noqa: F811
    one, start = field("velocity", process), torch.randn(6, 2, generator=seeded())
    try:
        here = tpf.sample(one, start=start, generator=seeded(), **SAMPLERS[name])
    except Exception as error:
        with pytest.raises(type(error)):
            tpf.sample(one.to(lean), start=start.to(lean), generator=seeded(), **SAMPLERS[name])
        return
    there = tpf.sample(one.to(lean), start=start.to(lean), generator=seeded(lean), **SAMPLERS[name])
    same(there.x, here.x, 1e-3)
    if here.trajectory is not None:
        same(there.trajectory, here.trajectory, 1e-3)


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("process", ["latent", "diffusion", "chain"])
def test_training(kind, process, lean, tmp_path):  # noqa: F811
    one = field(kind, process)
    loss = {
        "velocity": tpf.VelocityLoss,
        "score": tpf.ScoreLoss,
        "noise": tpf.NoiseLoss,
        "data": tpf.DataLoss,
        "edm": lambda: None,
    }[kind]
    x1 = torch.randn(64, 2, generator=seeded())
    one.to(lean)
    trainer = tpf.Trainer(one, loss(), ema=0.9)
    trainer.fit(
        x1,
        steps=6,
        batch_size=16,
        validation=x1[:20],
        validation_every=3,
        generator=seeded(),
        progress=False,
    )
    assert all(p.device.type == "lean" for p in one.parameters())
    assert torch.isfinite(torch.as_tensor(trainer.history.loss)).all()
    x = tpf.sample(trainer.ema_field if hasattr(trainer, "ema_field") else one, 4, steps=3).x
    assert x.device.type == "lean"
    one.save(tmp_path / "field.tpf")
    again = tpf.load_field(tmp_path / "field.tpf")
    for a, b in zip(again.parameters(), one.parameters(), strict=True):
        assert torch.equal(a, b.cpu())


def test_log_likelihood(lean):  # noqa: F811
    one, x = field(), torch.randn(4, 2, generator=seeded())
    here = tpf.log_likelihood(one, x, steps=8)
    there = tpf.log_likelihood(one.to(lean), x.to(lean), steps=8)
    assert torch.allclose(there.log_prob.cpu().float(), here.log_prob.float(), atol=1e-3)


def test_oracles(lean):  # noqa: F811
    data = mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5)
    law = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))
    exact = tpf.oracles.GaussianMixtureOracle(law, data)
    rows = tpf.oracles.EmpiricalOracle(law, torch.randn(9, 2, generator=seeded()))
    x, t = torch.randn(5, 2, generator=seeded()), torch.tensor(0.4)
    for oracle in (exact, rows):
        here = [oracle.velocity(t, x), oracle.score(t, x)]
        oracle.to(lean)
        same(oracle.velocity(t.to(lean), x.to(lean)), here[0])
        same(oracle.score(t.to(lean), x.to(lean)), here[1])


def test_langevin(lean):  # noqa: F811
    one, x = field("score").to(lean), torch.randn(6, 2, generator=seeded()).to(lean)
    made = tpf.langevin.langevin(
        tpf.langevin.score_at(one, 0.5), x, steps=4, step_size=0.01, generator=seeded()
    )
    assert made.x.device.type == "lean"
    made = tpf.langevin.annealed_langevin(one, 6, levels=3, steps_per_level=2, generator=seeded())
    assert made.x.device.type == "lean"


def test_particle_flow(lean):  # noqa: F811
    x = torch.randn(20, 2, generator=seeded()).to(lean)
    one = tpf.particle_flow(x[:5] + 1, x, steps=4, sigma=0.5, generator=seeded())
    assert one.x.device.type == "lean"


def test_metrics(lean):  # noqa: F811
    x, y = torch.randn(40, 2, generator=seeded()), torch.randn(30, 2, generator=seeded()) + 1
    for metric in (
        tpf.metrics.mmd,
        tpf.metrics.energy_distance,
        tpf.metrics.sliced_wasserstein2,
        tpf.metrics.wasserstein2,
    ):
        here, there = (metric(*pair) for pair in ((x, y), (x.to(lean), y.to(lean))))
        assert float(there) == pytest.approx(float(here), rel=1e-4)


def test_transforms(lean):  # noqa: F811
    x = torch.randn(40, 2, generator=seeded()) * 3 + 1
    there = tpf.Standardize.fit(x.to(lean))
    same(there(x.to(lean)), tpf.Standardize.fit(x)(x))
