"""What must hold on a device without float64, such as an Apple GPU; here on a stand-in for one.

Collected by tests/test_without_float64.py, in a process of its own.
"""

import copy

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
    "euler": {"scheme": "euler", "steps": 5},
    "heun": {"scheme": "heun", "steps": 5},
    "rk4": {"scheme": "rk4", "steps": 5},
    **{name: {"scheme": name, "steps": 5} for name in ("dpm2m", "deis3", "ab2", "unipc3")},
    "ddim": {"scheme": "ddim", "steps": 5},
    "ancestral": {"scheme": "ancestral", "steps": 5},
    "epsilon": {"epsilon": 0.5, "steps": 5},
    "epsilons": {"epsilon": [0.0, 0.5], "steps": 5},
    "adaptive": {"scheme": "dopri5"},
    "saved": {"scheme": "heun", "steps": 4, "save_at": [0.3, 0.6]},
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
    here = tpf.log_likelihood(one, x, scheme="rk4", steps=8)
    there = tpf.log_likelihood(one.to(lean), x.to(lean), scheme="rk4", steps=8)
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


METRICS = {
    "mmd2": lambda x, y: tpf.metrics.mmd2(x, y),
    "energy": lambda x, y: tpf.metrics.energy_distance(x, y),
    "energy test": lambda x, y: tpf.metrics.energy_test(x, y, generator=seeded()),
    "sliced": lambda x, y: tpf.metrics.sliced_wasserstein2(x, y, generator=seeded()),
    "max-sliced": lambda x, y: tpf.metrics.max_sliced_wasserstein2(x, y, generator=seeded()),
    "wasserstein1": lambda x, y: tpf.metrics.wasserstein1(x, y),
    "wasserstein2": lambda x, y: tpf.metrics.wasserstein2(x, y),
    "entropic": lambda x, y: tpf.metrics.entropic_wasserstein2(x, y, epsilon=0.5),
    "sinkhorn": lambda x, y: tpf.metrics.sinkhorn_divergence(x, y, epsilon=0.5),
    "characteristic": lambda x, y: tpf.metrics.characteristic_distance(x, y, generator=seeded()),
    "kernel": lambda x, y: tpf.metrics.kernel_distance(x, y),
    "kl": lambda x, y: tpf.metrics.kl_nearest_neighbours(x, y),
    "kernel density": lambda x, y: tpf.metrics.kl_kernel_density(x, y),
    "jensen-shannon": lambda x, y: tpf.metrics.jensen_shannon_kernel_density(x, y),
    "frechet": lambda x, y: tpf.metrics.frechet_distance(x, y),
    "neighbours": lambda x, y: tpf.metrics.nearest_distances(x, y),
    "coverage": lambda x, y: tpf.metrics.coverage(x, y),
    "kolmogorov": lambda x, y: tpf.metrics.sliced_kolmogorov_test(x, y, generator=seeded()),
    "classifier": lambda x, y: tpf.metrics.classifier_test(x, y, generator=seeded()),
    "pairs": lambda x, y: tpf.metrics.optimal_pairs(x, y),
    "pair error": lambda x, y: tpf.metrics.pair_error(x, y.flip(1), y),
    "moments": lambda x, y: tpf.metrics.moment_summary(x, y),
    "report": lambda x, y: tpf.metrics.evaluate(x, y, generator=seeded()),
    "modes": lambda x, y: tpf.metrics.mode_weights(x, mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5)),
    "bandwidth": lambda x, y: tpf.metrics.median_bandwidth(x, y),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics(name, lean):  # noqa: F811
    x = torch.randn(40, 2, generator=seeded())
    y = x[:30].flip(0) + torch.randn(30, 2, generator=seeded())
    if name == "pair error":
        x = x[:30]
    here, there = METRICS[name](x, y), METRICS[name](x.to(lean), y.to(lean))
    numbers = [
        [
            v.cpu()
            for v in (vars(m).values() if hasattr(m, "__dict__") else [m])
            if isinstance(v, torch.Tensor)
        ]
        for m in (here, there)
    ]
    assert len(numbers[0]) == len(numbers[1])
    for a, b in zip(*numbers, strict=True):
        torch.testing.assert_close(b.double(), a.double(), rtol=1e-4, atol=1e-4)
    if isinstance(here, float):
        assert there == pytest.approx(here, rel=1e-4, abs=1e-6)


DIAGNOSTICS = {
    "loss": lambda f, x: tpf.metrics.loss_by_time(
        f, tpf.VelocityLoss(), x, times=4, generator=seeded()
    ),
    "fisher": lambda f, x: tpf.metrics.consistency(f, x, times=3, generator=seeded()),
    "geometry": lambda f, x: tpf.metrics.path_geometry(f, n=6, steps=20, generator=seeded()),
    "prior": lambda f, x: tpf.metrics.prior_bias(
        exact_for(f), 20, steps=5, dtype=torch.float32, generator=seeded()
    ),
    "oracle": lambda f, x: tpf.metrics.oracle_errors(
        f, exact_for(f), n=20, times=3, generator=seeded()
    ),
    "identity": lambda f, x: tpf.metrics.ode_kl_identity(
        f, exact_for(f), n=4, times=1, steps=2, dtype=torch.float32, generator=seeded()
    ),
    "nfe": lambda f, x: tpf.metrics.error_by_nfe(
        f, lambda y: float(y.mean()), n=8, schemes=["heun"], steps=[2], generator=seeded()
    ),
    "bound": lambda f, x: tpf.likelihood.variational_bound(
        f, x, [0.9, 0.5, 0.1], generator=seeded()
    ),
    "sampled": lambda f, x: tpf.likelihood.sample_with_log_likelihood(
        f, 4, scheme="rk4", steps=2, generator=seeded()
    ),
    "likelihood": lambda f, x: tpf.log_likelihood(f, x[:2], rtol=1e-2, atol=1e-2),
    "likelihood, rk4": lambda f, x: tpf.log_likelihood(f, x[:4], scheme="rk4", steps=4),
    "dequantise": lambda f, x: [tpf.likelihood.dequantise(x.round(), 1.0)],
    "ascent": lambda f, x: tpf.langevin.ascend(
        tpf.langevin.score_at(f, 0.5), x, steps=3, step_size=0.01
    ),
    "mala": lambda f, x: tpf.langevin.langevin(
        tpf.langevin.score_of(lambda y: -y.square().sum(1) / 2),
        x,
        steps=3,
        step_size=0.1,
        metropolis=True,
        generator=seeded(),
    ),
    "corrector": lambda f, x: tpf.sample(
        f, 5, steps=3, corrector=tpf.langevin.LangevinCorrector(snr=0.1)
    ),
    "hamiltonian": lambda f, x: tpf.particles.hamiltonian(
        tpf.Gaussian((2,)), x, steps=3, step_size=0.1, generator=seeded()
    ),
    "smoothed": lambda f, x: tpf.particle_flow(
        x[:5] + 1,
        steps=4,
        sigma=0.5,
        direction=tpf.particles.DataDifference(
            mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5).to(x.device)
        ),
        generator=seeded(),
    ),
    "stein": lambda f, x: tpf.particle_flow(
        x,
        direction=tpf.particles.SteinDirection(lambda y: -y),
        steps=3,
        step=0.1,
        generator=seeded(),
    ),
    "noise, churn": lambda f, x: tpf.sample(
        f, 5, steps=4, epsilon=tpf.solve.ChurnEpsilon(1.0), generator=seeded()
    ),
    "noise, scale": lambda f, x: tpf.sample(
        f, 5, steps=4, epsilon=tpf.solve.NoiseScaleEpsilon(1.0), generator=seeded()
    ),
    "noise, Brownian": lambda f, x: tpf.sample(
        f, 5, steps=4, epsilon=0.5, noise=tpf.solve.BrownianPath(), generator=seeded()
    ),
    "chunks": lambda f, x: tpf.sample(f, 5, steps=4, chunk=2),
    "noise grid": lambda f, x: tpf.sample(
        f, 5, t=tpf.solve.noise_grid(f.process, 4), scheme="heun"
    ),
    "integrate": lambda f, x: tpf.integrate(lambda t, y: -y * t, x, [0.0, 0.5, 1.0]),
    "integrate adaptively": lambda f, x: tpf.integrate(
        lambda t, y: -y * t, x, [0.0, 1.0], scheme="rk4", save_at=[0.3]
    ),
}


def exact_for(one):
    return tpf.oracle(one.process, mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5)).to(
        one.reference().device
    )


@pytest.mark.parametrize("process", ["latent", "diffusion"])
@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_what_is_asked_of_a_field(name, process, lean):  # noqa: F811
    one, x = field("velocity", process), torch.randn(20, 2, generator=seeded())
    here = DIAGNOSTICS[name](one, x)
    there = DIAGNOSTICS[name](one.to(lean), x.to(lean))
    assert type(here) is type(there)


LOSSES = {
    "implicit": lambda: tpf.losses.ImplicitScoreLoss(),
    "sliced": lambda: tpf.losses.SlicedScoreLoss(),
    "autoencoder": lambda: tpf.losses.DenoisingAutoencoderLoss(0.5),
    "likelihood weight": lambda: tpf.ScoreLoss(weight=tpf.losses.LikelihoodWeight()),
    "min snr": lambda: tpf.NoiseLoss(weight=tpf.losses.MinSNRWeight()),
    "log snr times": lambda: tpf.VelocityLoss(times=tpf.times.LogSNRTimes()),
    "logit normal": lambda: tpf.VelocityLoss(times=tpf.times.LogitNormalTimes()),
    "stratified": lambda: tpf.VelocityLoss(times=tpf.times.StratifiedTimes()),
    "sigma times": lambda: tpf.NoiseLoss(times=tpf.times.SigmaTimes([0.1, 0.5, 1.0])),
    "antithetic": lambda: tpf.VelocityLoss(antithetic=True),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("process", ["latent", "diffusion", "chain"])
def test_losses(name, process, lean, tmp_path):  # noqa: F811
    kinds = {
        "implicit": "score",
        "sliced": "score",
        "autoencoder": "data",
        "likelihood weight": "score",
        "min snr": "noise",
        "sigma times": "noise",
    }
    x1 = torch.randn(64, 2, generator=seeded())

    def trained(device):
        one = field(kinds.get(name, "velocity"), process).to(device)
        trainer = tpf.Trainer(one, LOSSES[name]())
        trainer.fit(x1.to(device), steps=3, batch_size=16, generator=seeded(), progress=False)
        return trainer.history.loss

    try:
        here = trained("cpu")
    except ValueError as error:  # a process that this loss is not for
        pytest.skip(str(error)[:60])
    there = trained(lean)
    if name == "log snr times":  # its times are drawn in float32, so they are others
        assert len(there) == 3
        assert bool((there > 0).all())
    else:
        assert there == pytest.approx(here, rel=1e-3)


def test_a_run_resumes(lean, tmp_path):  # noqa: F811
    x1 = torch.randn(64, 2, generator=seeded())
    runs = []
    for stops in ((8,), (4, 8)):
        for k, stop in enumerate(stops):
            trainer = tpf.Trainer(field().to(lean), tpf.VelocityLoss(), ema=0.9)
            trainer.fit(
                x1,
                steps=stop,
                batch_size=16,
                generator=seeded(),
                progress=False,
                checkpoints=tmp_path / str(len(stops)),
                resume=k > 0,
            )
        runs.append([p.cpu() for p in trainer.field.parameters()])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


class Written(Learned):
    """With its derivatives: the stand-in takes no forward derivatives by tensors of the CPU."""

    def beta_dot(self, t):
        return 1 + self.c.to(t) * (1 - 2 * t)

    def alpha_dot(self, t):
        return -self.beta_dot(t)


def test_learned_paths_and_couplings(lean):  # noqa: F811
    law = tpf.Process(Written(), tpf.Gaussian((2,)), tpf.MinibatchOT())
    one = tpf.Velocity(net(), law).to(lean)
    x1 = torch.randn(64, 2, generator=seeded())
    tpf.Trainer(one, tpf.VelocityLoss()).fit(
        x1, steps=3, batch_size=16, generator=seeded(), progress=False
    )
    assert law.interpolant.c.dtype == torch.float32
    assert tpf.sample(one, 4, steps=3).x.device.type == "lean"


def test_transform_and_laws(lean):  # noqa: F811
    x = torch.randn(40, 2, generator=seeded()) * 3 + 1
    one = tpf.Velocity(net(), PROCESSES["latent"](), transform=tpf.Standardize.fit(x.to(lean)))
    assert tpf.sample(one.to(lean), 4, steps=3).x.device.type == "lean"
    for law in (
        tpf.Gaussian.fit(x.to(lean)),
        tpf.Gaussian((2,), x[0].to(lean)),
        mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5),
        tpf.distributions.Empirical(x.to(lean)),
        tpf.distributions.Uniform((2,), 0.0, 1.0),
    ):
        assert law.to(lean).sample(3, device=lean).device.type == "lean"


def test_transforms(lean):  # noqa: F811
    x = torch.randn(40, 2, generator=seeded()) * 3 + 1
    there = tpf.Standardize.fit(x.to(lean))
    same(there(x.to(lean)), tpf.Standardize.fit(x)(x))


@pytest.mark.parametrize("regularisation", [0.0, 0.5])
@pytest.mark.parametrize("solved_on", ["cpu", "lean"])
def test_plans_of_whole_data(regularisation, solved_on, lean):  # noqa: F811
    """Solved on the CPU, drawn from for rows of the device."""
    x0, x1 = torch.randn(30, 2, generator=seeded()), torch.randn(40, 2, generator=seeded()) + 2
    home = "cpu" if solved_on == "cpu" else lean
    given = {"regularisation": regularisation, "cond": {"label": (torch.arange(40) % 2).to(home)}}
    for law in (x0.to(home), tpf.Gaussian((2,))):
        options = given if isinstance(law, torch.Tensor) else {**given, "tolerance": 0.2}
        plan = tpf.couplings.TransportPlan(law, x1.to(home), **options)
        cond = {"label": (torch.arange(40) % 2).to(lean)}
        a, b = plan.pair(x0[:1].repeat(40, 1).to(lean), x1.to(lean), cond, generator=seeded(lean))
        assert a.device.type == b.device.type == "lean"
        rows = b.cpu()[:, None] == x1
        assert bool(rows.all(-1).any(1).all())
