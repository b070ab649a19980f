"""What is half built says so: a forgotten ``super().__init__()``, math.cos of a tensor."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import transportflows as tpf

FLOW = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))


class Path(tpf.AffineInterpolant):
    def __init__(self, k):
        self.k = k

    def alpha(self, t):
        return 1 - t**self.k

    def beta(self, t):
        return t**self.k


class LearnedPath(Path):
    def __init__(self, k):
        self.k = nn.Parameter(torch.tensor(float(k)))


class Sided(tpf.OneSided):
    def __init__(self, k):
        nn.Module.__init__(self)  # not that of the path
        self.k = k

    def beta(self, t):
        return t

    def gamma_sq(self, t):
        return (1 - t).square()


class Diffusion(tpf.sdes.ForwardSDE):
    def __init__(self, k):
        self.k = k

    def a(self, tau):
        return 1 - tau

    def sigma_sq(self, tau):
        return tau**2


class Scale(tpf.interpolants.Gamma):
    def __init__(self, k):
        self.k = k

    def gamma_sq(self, t):
        return t * (1 - t)


class Law(tpf.distributions.Distribution):
    def __init__(self, k):
        self.k = k

    def sample(self, n, *, generator=None, dtype=None, device=None):
        return torch.zeros(n, 2)


class Flow(tpf.Velocity):
    def __init__(self, k):
        self.k = k


class HalfFlow(tpf.Velocity):
    def __init__(self, k):
        nn.Module.__init__(self)
        self.net, self.k = nn.Linear(2, 2), k


class Loss(tpf.VelocityLoss):
    def __init__(self, k):
        self.k = k


class Times(tpf.times.TimeSampler):
    def __init__(self, k):
        self.k = k

    def unit(self, n, *, generator, device, dtype):
        return torch.rand(n)


class Epsilon(tpf.solve.ConstantEpsilon):
    def __init__(self, k):
        self.k = k


class Step(tpf.particles.StepSchedule):
    def __init__(self, k):
        self.k = k

    def factor(self, u):
        return torch.ones_like(u)


class Rate(tpf.training.RateSchedule):
    def __init__(self, k):
        self.k = k

    def decay(self, step, last):
        return 1.0


class Towards(tpf.particles.Direction):
    def __init__(self, k):
        self.k = k

    def forward(self, z, swarm):
        return -z


class Early(Path):
    def __init__(self, k):
        self.k = self.latent


HALF = [
    Path, LearnedPath, Sided, Diffusion, Scale, Law, Flow, HalfFlow, Loss, Times, Epsilon, Step,
    Rate, Towards, Early,
]  # fmt: skip


@pytest.mark.parametrize("cls", HALF, ids=lambda c: c.__name__)
def test_a_forgotten_super_is_told_at_once(cls):
    with pytest.raises(TypeError, match=rf"{cls.__name__}.__init__ does not call super\(\)"):
        cls(2.0)


def test_subclasses_that_call_it_in_any_place_are_whole():
    class Late(Path):
        def __init__(self, k):
            nn.Module.__init__(self)
            self.k = k
            tpf.AffineInterpolant.__init__(self)
            self.k = k

    class Grand(Late):
        def __init__(self):
            super().__init__(2)

    for path in (Late(2), Grand(), type("None", (Grand,), {})()):
        assert float(path.alpha(torch.tensor(0.5))) == 0.75
    import inspect

    assert list(inspect.signature(Late).parameters) == ["k"]


class Cosine(tpf.AffineInterpolant):
    def alpha(self, t):
        return math.cos(0.5 * math.pi * t)

    def beta(self, t):
        return torch.sin(0.5 * math.pi * t)


class Branch(Cosine):
    def alpha(self, t):
        return 1 - 2 * t if t < 0.5 else 0 * t


class Detached(Cosine):
    def alpha(self, t):
        return torch.cos(0.5 * math.pi * t.detach())


class Numpy(Cosine):
    def alpha(self, t):
        return torch.from_numpy(np.cos(0.5 * math.pi * t.detach().cpu().double().numpy())).to(t)


class Root(tpf.OneSided):
    def beta(self, t):
        return t

    def gamma_sq(self, t):
        return torch.tensor([1 - float(s) for s in t.reshape(-1)]).reshape(t.shape).to(t)


class Constant(tpf.OneSided):
    def beta(self, t):
        return 1.0

    def gamma_sq(self, t):
        return (1 - t).square()


@pytest.mark.parametrize("path", [Cosine, Branch, Detached, Numpy, Root, Constant])
def test_coefficients_that_are_no_functions_of_tensors(path):
    where = {"base": tpf.Gaussian((2,))} if path.uses_base else {"shape": (2,)}
    with pytest.raises(TypeError, match=r"torch.cos\(t\) for math.cos\(t\)"):
        tpf.Process(path(), **where)


def test_a_gamma_whose_derivative_is_lost():
    class Lost(tpf.interpolants.Gamma):
        def gamma_sq(self, t):
            return (t * (1 - t)).detach()

    with pytest.raises(TypeError, match="derivative of gamma_sq"):
        tpf.Process(tpf.Linear(Lost()), base=tpf.Gaussian((2,)))


def test_a_mean_that_is_no_function_of_tensors():
    class Curved(tpf.Interpolant):
        def mean(self, t, x0, x1):
            return math.cos(0.5 * math.pi * t) * x0 + math.sin(0.5 * math.pi * t) * x1

    process = tpf.Process(Curved(), base=tpf.Gaussian((2,)))
    with pytest.raises(TypeError, match=r"mean\(t, x0, x1\) of Curved.*torch.cos"):
        process.sample(torch.randn(4, 2))


def test_a_path_that_stands_still_is_none_of_these():
    class Waiting(tpf.AffineInterpolant):
        """Flat at the times that are looked at: no derivative is lost."""

        breakpoints = (0.2, 0.3, 0.6, 0.7)

        def alpha(self, t):
            return 1 - self.beta(t)

        def beta(self, t):
            low = (t / 0.2).clamp(max=1) * 0.3
            return low + ((t - 0.3) / 0.3).clamp(0, 1) * 0.3 + ((t - 0.7) / 0.3).clamp(min=0) * 0.4

    tpf.Process(Waiting(), base=tpf.Gaussian((2,)))


def test_pairs_for_a_coupling_that_pairs_by_itself():
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), coupling=tpf.MinibatchOT())
    field = tpf.Velocity(nn.Linear(2, 2), process)
    with pytest.raises(ValueError, match=r"base=tpf.distributions.Empirical\(x0\)"):
        tpf.Trainer(field).fit((torch.randn(4, 2), torch.randn(4, 2)), steps=1, progress=False)


def test_a_checkpoint_is_no_field_and_a_field_no_checkpoint(tmp_path):
    field = tpf.Velocity(tpf.networks.MLP(2, 4, 1), FLOW)
    trainer = tpf.Trainer(field)
    trainer.save(tmp_path / "run.ckpt")
    field.save(tmp_path / "field.tpf")
    with pytest.raises(ValueError, match=r"trainer.load\(.*trainer.field"):
        tpf.load_field(tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match=r"tpf.load_field\("):
        trainer.load(tmp_path / "field.tpf")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("ddpm", "'ancestral'"), ("dpmpp_2m", "'dpm2m'"), ("DPM++ 2M", "'dpm2m'"),
        ("unipc", "'unipc3'"), ("euler_a", "'ancestral'"), ("euler_ancestral", "'ancestral'"),
        ("rk45", "'dopri5'"), ("em", "'euler_maruyama'"), ("dpm_solver", "'dpm"),
        ("heunn", "'heun'"),
        ("rk2", "'heun'"), ("deis", "'deis3'"), ("Heun", "'heun'"), ("euler-maruyama", "'euler_m"),
    ],
)  # fmt: skip
def test_names_of_schemes_in_other_libraries(name, ours):
    field = tpf.Velocity(nn.Linear(2, 2), FLOW)
    with pytest.raises(ValueError, match=f"write {ours}"):
        tpf.sample(field, 2, scheme=name)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compile", "parallel"])
def test_a_wrapped_field_is_told_to_wrap_its_network(wrap):
    field = tpf.Velocity(tpf.networks.MLP(2, 4, 1), FLOW)
    wrapped = wrap(field)
    for call in (
        lambda: tpf.sample(wrapped, 3),
        lambda: tpf.Trainer(wrapped),
        lambda: tpf.log_likelihood(wrapped, torch.randn(3, 2)),
        lambda: tpf.langevin.score_at(wrapped, 0.5),
        lambda: tpf.langevin.annealed_langevin(wrapped, 3),
        lambda: tpf.particles.DataDifference(wrapped),
        lambda: tpf.metrics.loss_by_time(wrapped, tpf.VelocityLoss(), torch.randn(3, 2)),
    ):
        with pytest.raises(TypeError, match="wrap its network"):
            call()
    right = tpf.Velocity(nn.DataParallel(field.net), FLOW)
    assert tpf.sample(right, 3, steps=2).x.shape == (3, 2)


def test_classes_in_the_place_of_objects():
    with pytest.raises(TypeError, match=r"write Gaussian\(\.\.\.\)"):
        tpf.Process(tpf.Linear(), base=tpf.Gaussian)
    with pytest.raises(TypeError, match=r"write Velocity\(net, process\)"):
        tpf.sample(tpf.Velocity, 3)


@pytest.mark.parametrize(
    ("call", "ours"),
    [
        (lambda f: f.quantity("eps", torch.tensor(0.5), torch.zeros(2, 2)), "'noise'"),
        (lambda f: f.quantity("x0", torch.tensor(0.5), torch.zeros(2, 2)), "'data'"),
        (lambda f: tpf.sample(f, 2, spacing="karras"), r"t=tpf.solve.noise_grid\("),
        (lambda f: tpf.sample(f, 2, spacing="unifrm"), "'uniform'"),
        (lambda f: tpf.networks.MLP(2, activation="swish"), "'silu'"),
        (lambda f: tpf.log_likelihood(f, torch.zeros(2, 2), scheme="dopri"), "'dopri5'"),
    ],
)
def test_other_names_in_other_libraries(call, ours):
    with pytest.raises(ValueError, match=f"write {ours}"):
        call(tpf.Velocity(nn.Linear(2, 2), FLOW))
