"""Interpolants: ends, derivatives, hooks, and that the checks see what is wrong."""

import inspect

import pytest
import torch

import transportflows as tpf
from families import GAMMAS, INTERPOLANTS, OWN, Learned, Power, name
from transportflows._core.autodiff import time_derivative

ALL = INTERPOLANTS + OWN
T = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


def test_every_exported_family_is_in_the_registry():
    listed = {type(i) for i in INTERPOLANTS} | {type(g) for g in GAMMAS}
    for label in tpf.__all__:
        cls = getattr(tpf, label)
        if inspect.isclass(cls) and issubclass(cls, (tpf.Interpolant, tpf.interpolants.Gamma)):
            base = (
                inspect.isabstract(cls)
                or cls.__dict__.get("_generic")
                or cls is tpf.interpolants.Gamma
            )
            assert base or cls in listed, label


@pytest.mark.parametrize("interpolant", ALL, ids=name)
def test_check_interpolant_accepts(interpolant):
    assert tpf.testing.check_interpolant(interpolant).problems == []


@pytest.mark.parametrize("interpolant", INTERPOLANTS, ids=name)
def test_closed_derivatives_equal_autodiff(interpolant):
    t = T[(T - 0.5).abs() > 1e-6]
    pairs = [
        (interpolant.alpha, interpolant.alpha_dot),
        (interpolant.beta, interpolant.beta_dot),
        (interpolant.gamma_sq, interpolant.gamma_sq_dot),
        (interpolant.gamma, interpolant.gamma_dot),
    ]
    for value, derivative in pairs:
        torch.testing.assert_close(derivative(t), time_derivative(value, t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gamma", GAMMAS, ids=lambda g: type(g).__name__)
def test_gammas_are_what_they_say(gamma):
    closed = {
        "Brownian": lambda t: (gamma.a * t * (1 - t)).sqrt(),
        "Quadratic": lambda t: t * (1 - t),
        "SineSquared": lambda t: 0.8 * torch.sin(torch.pi * t) ** 2,
        "Sigmoid": lambda t: (
            torch.sigmoid(10 * (t - 0.5) + 1)
            - torch.sigmoid(10 * (t - 0.5) - 1)
            - torch.sigmoid(torch.tensor(1 - 5.0, dtype=torch.float64))
            + torch.sigmoid(torch.tensor(-1 - 5.0, dtype=torch.float64))
        ),
    }[type(gamma).__name__]
    torch.testing.assert_close(gamma.gamma(T), closed(T), rtol=1e-12, atol=1e-14)
    ends = gamma.gamma_sq(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert float(ends.abs().max()) < 1e-28


def test_the_table_of_the_design():
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    half = torch.pi / 2
    rows = {
        tpf.Linear(): (1 - t, t, 0 * t),
        tpf.Trigonometric(): (torch.cos(half * t), torch.sin(half * t), 0 * t),
        tpf.EncoderDecoder(): (
            torch.stack([torch.cos(torch.pi * t[0]) ** 2, 0 * t[1]]),
            torch.stack([0 * t[0], torch.cos(torch.pi * t[1]) ** 2]),
            torch.sin(torch.pi * t) ** 2,
        ),
        tpf.Mirror(): (0 * t, 1 + 0 * t, (t * (1 - t)).sqrt()),
        tpf.OneSidedLinear(): (0 * t, t, 1 - t),
        tpf.OneSidedTrigonometric(): (0 * t, torch.sin(half * t), torch.cos(half * t)),
        tpf.SBDM(): (0 * t, t, (1 - t * t).sqrt()),
    }
    for interpolant, (alpha, beta, gamma) in rows.items():
        for given, exact in (
            (interpolant.alpha(t), alpha),
            (interpolant.beta(t), beta),
            (interpolant.gamma(t), gamma),
        ):
            torch.testing.assert_close(given, exact, rtol=1e-12, atol=1e-12)


def test_scaled_trigonometric_keeps_the_variance_and_needs_a_small_gamma():
    path = tpf.Trigonometric(tpf.Brownian(), scaled=True)
    total = path.alpha(T) ** 2 + path.beta(T) ** 2 + path.gamma_sq(T)
    torch.testing.assert_close(total, torch.ones_like(T), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="γ < 1"):
        tpf.Trigonometric(tpf.interpolants.SineSquared(), scaled=True)


def test_the_encoder_decoder_takes_other_latents_that_do_not_vanish_in_the_middle():
    path = tpf.EncoderDecoder(tpf.Brownian(2.0))
    torch.testing.assert_close(path.gamma_sq(T), 2 * T * (1 - T))
    half = torch.tensor([0.5], dtype=torch.float64)
    assert float(path.alpha(half)) < 1e-30
    assert float(path.beta(half)) == 0
    assert isinstance(tpf.EncoderDecoder().latent, tpf.interpolants.SineSquared)
    assert tpf.EncoderDecoder().latent is not tpf.EncoderDecoder().latent

    class Twice(tpf.interpolants.Gamma):  # back at 0 in the middle
        def gamma(self, t):
            return torch.sin(2 * torch.pi * t)

    for gamma in (None, Twice()):
        with pytest.raises(ValueError, match=r"at t = 1/2.*EncoderDecoder\(Brownian\(\)\)"):
            tpf.EncoderDecoder(gamma)
    with pytest.raises(TypeError):
        tpf.EncoderDecoder(0.5)


@pytest.mark.parametrize("interpolant", ALL, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_without_grad_and_in_inference_mode(interpolant, dtype):
    x0, x1 = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for t in (torch.tensor(0.3, dtype=dtype), torch.linspace(0.2, 0.8, 4, dtype=dtype)):
        plain = interpolant.mean_dot(t, x0, x1), interpolant.gamma_sq_dot(t)
        with torch.no_grad():
            quiet = interpolant.mean_dot(t, x0, x1), interpolant.gamma_sq_dot(t)
        with torch.inference_mode():
            s = t.clone()
            silent = interpolant.mean_dot(s, x0, x1), interpolant.gamma_sq_dot(s)
        for a, b, c in zip(plain, quiet, silent, strict=True):
            assert a.dtype == dtype
            assert torch.equal(a.detach(), b.detach())
            assert torch.equal(b.detach(), c.detach())


def test_parameters_receive_gradients_through_path_and_derivative():
    path = Learned()
    x0, x1 = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.full((6,), 0.3, dtype=torch.float64)
    # β̇ = 1 + c (1 - 2t): d/dc of sum(∂t I) is (1 - 2t) sum(x1 - x0)
    path.mean_dot(t, x0, x1).sum().backward()
    expected = (0.4 * (x1 - x0)).sum()
    torch.testing.assert_close(path.c.grad, expected)


def test_squares_are_hooks_where_a_root_has_no_derivative():
    class Root(tpf.AffineInterpolant):
        def alpha(self, t):
            return (1 - t).sqrt()

        def alpha_sq(self, t):
            return 1 - t

        def beta(self, t):
            return t

    one = torch.ones((), dtype=torch.float64)
    assert float(Root().alpha_sq_dot(one)) == -1.0
    process = tpf.Process(Root(), tpf.Gaussian((1,)))
    assert float(process.noise_part.scale_sq_dot(one)) == -1.0
    with pytest.raises(ValueError, match="α̇ of Root is infinite"):
        tpf.Process(Root(), tpf.Gaussian((1,), mean=1.0))


def _broken(**methods):
    return type("Broken", (Power,), methods)(2.0)


@pytest.mark.parametrize(
    ("interpolant", "message"),
    [
        (_broken(alpha_dot=lambda self, t: 2 * t), "wrong derivative: alpha_dot"),
        (_broken(beta=lambda self, t: t**2 * float(t.mean())), "derivative|broadcast|end"),
        (_broken(beta=lambda self, t: t.new_tensor(t.detach().numpy() ** 2)), "raised|zero often"),
        (_broken(alpha=lambda self, t: 1.1 - t), "wrong end: α"),
        (_broken(gamma_sq=lambda self, t: t * (t - 1)), "negative γ²"),
        (_broken(gamma_sq=lambda self, t: t * (1 - t) + 0.1), r"γ²\(0\) is 0.1"),
        (_broken(alpha=lambda self, t: (1 - t**2).reshape(-1)), "broken broadcast: alpha"),
        (_broken(gamma_sq=lambda self, t: (t * (1 - t)).double()), "dtype not kept"),
        (
            type(
                "ByRoot",
                (tpf.AffineInterpolant,),
                {
                    "alpha": lambda self, t: 1 - t,
                    "beta": lambda self, t: t,
                    "gamma": lambda self, t: (t * (1 - t)).sqrt(),
                },
            )(),
            "write gamma_sq",
        ),
    ],
)
def test_check_interpolant_says_what_is_wrong(interpolant, message):
    with pytest.raises(tpf.testing.CheckError, match=message):
        tpf.testing.check_interpolant(interpolant)


def test_a_slip_in_a_derivative_is_not_taken_for_one_that_was_cut():
    cut, slip = _broken(beta=lambda self, t: t.detach() ** 2), _broken(beta_dot=lambda self, t: t)
    told = []
    for path in (cut, slip):
        with pytest.raises(tpf.testing.CheckError) as found:
            tpf.testing.check_interpolant(path)
        told += [line for line in str(found.value).splitlines() if ": beta_dot" in line]
    assert ["cuts the derivative" in line for line in told] == [True, False]


def test_check_interpolant_finds_singular_conversions():
    notes = tpf.testing.check_interpolant(tpf.Mirror()).notes
    assert len(notes) == 1
    assert "t = 0.5" in notes[0]
    assert tpf.testing.check_interpolant(tpf.EncoderDecoder()).notes == []


def test_wrong_ends_are_refused_when_the_process_is_made():
    with pytest.raises(ValueError, match=r"β\(1\) - 1 = 0.5"):
        tpf.Process(_broken(beta=lambda self, t: 0.5 * t**2), tpf.Gaussian((2,)))
    wrong = type("Wrong", (tpf.Interpolant,), {"mean": lambda self, t, x0, x1: x0 + t * x1})()
    process = tpf.Process(wrong, tpf.Gaussian((2,)))
    with pytest.raises(ValueError, match=r"I\(1, x0, x1\) - x1"):
        process.sample(torch.randn(4, 2))


def test_a_subclass_of_a_built_in_keeps_no_stale_formula():
    class Squared(tpf.Linear):
        def alpha(self, t):
            return 1 - t**2

        def beta(self, t):
            return t**2

    class Wide(tpf.Brownian):
        def gamma_sq(self, t):
            return 3 * t**2 * (1 - t)

    class Late(tpf.OneSidedLinear):
        def gamma_sq(self, t):
            return (1 - t) ** 3

    for path in (Squared(), Squared(Wide()), tpf.Linear(Wide()), Late()):
        assert tpf.testing.check_interpolant(path).problems == []
    x0, x1 = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(0.5)
    torch.testing.assert_close(Squared().mean(t, x0, x1), 0.75 * x0 + 0.25 * x1)
    torch.testing.assert_close(Squared().mean_dot(t, x0, x1), x1 - x0)


def central(f, t):
    return (f(t + 1e-5) - f(t - 1e-5)) / 2e-5


def test_a_subclass_keeps_the_derivative_of_a_base_class_without_a_path():
    """Such as one by differences, for paths that autograd cannot follow."""

    class ByDifferences(tpf.Interpolant):
        def mean_dot(self, t, x0, x1):
            return central(lambda s: self.mean(s, x0, x1), t)

    class Affine(tpf.AffineInterpolant):
        def beta_dot(self, t):
            return central(self.beta, t)

        def gamma_sq_dot(self, t):
            return central(self.gamma_sq, t)

    class Mixin:
        def gamma_sq_dot(self, t):
            return central(self.gamma_sq, t)

    class Bent(ByDifferences):
        def mean(self, t, x0, x1):
            return (1 - t) * x0 + t * x1 + (t * (1 - t)).detach() * x0 * x1

    class Power(Affine):
        def alpha(self, t):
            return 1 - t**2

        def beta(self, t):
            return (t**2).detach()

        def gamma_sq(self, t):
            return (t * (1 - t)).detach()

    class Scale(Mixin, tpf.interpolants.Gamma):
        def gamma_sq(self, t):
            return (t * (1 - t)).detach()

    class Closed(Power):
        def beta_dot(self, t):
            return 2 * t

    class Steeper(Closed):
        """A closed form is taken back, to that of the class without a path."""

        def beta(self, t):
            return (t**3).detach()

    x0, x1 = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    t = torch.full((4, 1), 0.3, dtype=torch.float64)
    for path in (Bent(), Power(), Closed(), Steeper(), tpf.Linear(Scale())):
        torch.testing.assert_close(
            path.mean_dot(t, x0, x1), central(lambda s, p=path: p.mean(s, x0, x1), t)
        )
        torch.testing.assert_close(path.gamma_sq_dot(t), central(path.gamma_sq, t))
    assert Steeper.beta_dot is Affine.beta_dot
    assert Steeper.gamma_sq_dot is Affine.gamma_sq_dot


def test_a_negative_square_at_an_end_is_refused():
    with pytest.raises(ValueError, match=r"γ²\(0\) = 0.1"):
        tpf.Process(_broken(gamma_sq=lambda self, t: t * (1 - t) - 0.1), tpf.Gaussian((2,)))


class Neural(tpf.Interpolant):
    """A valid path with a network in it: of one event shape, its parameters in float32."""

    def __init__(self, cut=False, frozen=False):
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)
        )
        self.cut = cut
        self.held = [torch.full((2, 2), 0.3)] if frozen else []  # follows no .double()

    def mean(self, t, x0, x1):
        times = t.expand(len(x1), 1)
        bend = self.net(torch.cat([times.detach() if self.cut else times, x0, x1], 1))
        for matrix in self.held:
            bend = bend + x1 @ matrix
        return (1 - t) * x0 + t * x1 + t * (1 - t) * bend


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_neural_path_is_checked_in_its_own_dtype_and_shape(dtype, frozen):
    torch.manual_seed(0)
    if frozen and dtype == torch.float64:
        pytest.skip("a matrix in float32 does not go with a network in float64")
    path = Neural(frozen=frozen).to(dtype)
    before = [p.clone() for p in path.parameters()]
    law = tpf.Process(path, base=tpf.Gaussian((2,)))
    assert not tpf.testing.check_interpolant(law).problems
    assert not tpf.testing.check_interpolant(path, shape=(2,)).problems
    assert all(
        p.dtype == dtype and torch.equal(p, q)
        for p, q in zip(path.parameters(), before, strict=True)
    )
    with pytest.raises(tpf.testing.CheckError, match="give shape="):
        tpf.testing.check_interpolant(path)
    with pytest.raises(tpf.testing.CheckError, match="wrong derivative: mean_dot"):
        tpf.testing.check_interpolant(Neural(cut=True, frozen=frozen).to(dtype), shape=(2,))
