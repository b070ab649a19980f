"""Networks of other libraries as fields: against closed forms, and against their own samplers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import transportflows as tpf

N = tpf.networks
SHAPE, MEAN, STD = (2, 3, 3), 0.7, 0.6
T = 50


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n=5, seed=1, shape=SHAPE):
    return torch.randn(n, *shape, generator=gen(seed), dtype=torch.float64)


def law():
    mean = torch.full((1, *SHAPE), MEAN, dtype=torch.float64)
    return tpf.distributions.GaussianMixture(mean, scale=STD)


def column(value, x):
    return value.reshape(-1, 1, 1, 1) if value.ndim else value


def data_given(x, a, s):
    """E[x1 | a x1 + s z = x] for x1 ~ N(MEAN, STD²)."""
    a, s = column(a, x), column(s, x)
    return MEAN + STD**2 * a / (a**2 * STD**2 + s**2) * (x - a * MEAN)


# ---------------------------------------------------------------------------------------- diffusers


BARS = torch.linspace(0.9995, 0.002, T, dtype=torch.float64)


def scheduler(prediction="epsilon", **more):
    config = {"prediction_type": prediction, "timestep_spacing": "leading"}
    return SimpleNamespace(alphas_cumprod=BARS, config=SimpleNamespace(**config), **more)


def model(prediction):
    """What a perfectly trained model of diffusers would say, from its own table."""

    def net(x, timestep, class_labels=None, return_dict=True):
        assert not return_dict
        assert timestep.shape == (len(x),)
        assert torch.equal(timestep, timestep.round())
        bars = BARS[timestep.long()]
        a, s = bars.sqrt(), (1 - bars).sqrt()
        d = data_given(x, a, s)
        a, s = column(a, x), column(s, x)
        noise = (x - a * d) / s
        return ({"epsilon": noise, "sample": d, "v_prediction": a * noise - s * d}[prediction],)

    net.config = SimpleNamespace(in_channels=SHAPE[0], sample_size=SHAPE[1])
    return net


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_model_of_diffusers_is_the_oracle_at_every_level(prediction):
    field = N.from_diffusers(model(prediction), scheduler(prediction))
    exact = tpf.oracle(field.process, law())
    t, x = 1 - torch.arange(1, T + 1, dtype=torch.float64) / T, rows(T)
    for quantity in ("data", "noise", "score", "velocity"):
        found, expected = getattr(field, quantity)(t, x), getattr(exact, quantity)(t, x)
        assert torch.allclose(found, expected, rtol=0, atol=1e-9 * expected.abs().max().item())


def test_float32_times_are_those_of_whole_timesteps():
    """(1 - t) T is not whole in float32, and a model was trained on whole timesteps."""
    seen = []

    def net(x, timestep, return_dict):
        seen.append(timestep)
        return (x,)

    chain = SimpleNamespace(
        alphas_cumprod=torch.linspace(0.9999, 0.001, 1000), config=SimpleNamespace()
    )
    field = N.from_diffusers(net, chain)
    t = (1 - torch.arange(1, 1001, dtype=torch.float64) / 1000).float()
    field.net(t, torch.zeros(1000, 2))
    assert torch.equal(seen[0], torch.arange(1000.0))
    field.net(torch.tensor(1.0), torch.zeros(3, 2))
    assert torch.equal(seen[1], torch.zeros(3))
    field.net(torch.tensor([0.50049]), torch.zeros(1, 2))  # between levels it is between them
    assert abs(float(seen[2]) - 498.51) < 1e-3


def test_flow_matching_of_diffusers_has_its_sign_and_clock():
    def net(x, timestep, return_dict):
        sigma = timestep / 1000
        d = data_given(x, 1 - sigma, sigma)
        return ((x - column(1 - sigma, x) * d) / column(sigma, x) - d,)

    net.config = SimpleNamespace(in_channels=SHAPE[0], sample_size=SHAPE[1:])
    flow = SimpleNamespace(config={"shift": 3.0, "num_train_timesteps": 1000})
    field = N.from_diffusers(net, flow)
    exact = tpf.oracle(field.process, law())
    t, x = torch.linspace(0, 0.99, 12, dtype=torch.float64), rows(12)
    assert torch.allclose(field.velocity(t, x), exact.velocity(t, x), atol=1e-9)
    assert torch.allclose(field.score(t, x), exact.score(t, x), atol=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_of_diffusers_has_its_preconditioning(prediction):
    """F of the scheduler's formulas, solved for what it should be."""
    own = 0.5
    sign = -1 if prediction == "v_prediction" else 1

    def net(x, timestep, return_dict):
        sigma = (4 * timestep).exp()
        y = x * column((sigma**2 + own**2).sqrt(), x)
        skip = column(own**2 / (sigma**2 + own**2), x)
        out = column(sign * sigma * own / (sigma**2 + own**2).sqrt(), x)
        return ((data_given(y, torch.ones_like(sigma), sigma) - skip * y) / out,)

    net.config = SimpleNamespace(in_channels=SHAPE[0], sample_size=SHAPE[1])
    config = {"sigma_data": own, "sigma_min": 0.01, "sigma_max": 40.0}
    made = SimpleNamespace(config={**config, "prediction_type": prediction})
    field = N.from_diffusers(net, made)
    exact = tpf.oracle(field.process, law())
    t, x = torch.linspace(0, 1, 12, dtype=torch.float64), 3 * rows(12)
    assert torch.allclose(field.data(t, x), exact.data(t, x), atol=1e-9)


def _unet(diffusers, classes=None):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    ).eval()


def _dit(diffusers, classes=5):
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        out_channels=6,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=classes,
    ).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    return net


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip(
        "diffusers", reason="the adapter is compared with diffusers, which is in the test extra"
    )


@torch.no_grad()
def _sampled(net, made, steps, x, label=None):
    """diffusers' own loop."""
    made.set_timesteps(steps)
    given = {} if label is None else {"class_labels": label}
    for i in made.timesteps:
        out = net(x, i.expand(len(x)), return_dict=False, **given)[0][:, :3]
        x = made.step(out, i, x, return_dict=False)[0]
    return x


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("unet", {}),
        ("unet", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
        ("unet", {"prediction_type": "sample", "set_alpha_to_one": False, "steps_offset": 1}),
        ("labelled", {"beta_schedule": "squaredcos_cap_v2"}),
        ("dit", {}),
    ],
)
def test_diffusers_ddim_and_ours_give_the_same_samples(diffusers, kind, options, dtype):
    """1e-9 in float64 and 1e-4 in float32, of the size of the samples.

    A scheduler as it is made has float32 roots in its steps in float64 too: 1e-8 to 5e-7.
    """
    make = {"unet": _unet, "labelled": lambda d: _unet(d, 4), "dit": _dit}[kind]
    net = make(diffusers).to(dtype)
    made = diffusers.DDIMScheduler(clip_sample=False, **options)
    z = torch.randn(2, 3, 8, 8, generator=gen(), dtype=torch.float64).to(dtype)
    label = None if kind == "unet" else torch.tensor([0, 3])
    rounded = _sampled(net, made, 20, z, label)
    if dtype == torch.float64:  # its table is float32: both take the same one in full
        made.alphas_cumprod = made.alphas_cumprod.double()
        made.final_alpha_cumprod = made.final_alpha_cumprod.double()
        if not made.config.set_alpha_to_one:
            made.final_alpha_cumprod = made.alphas_cumprod[0]
    theirs = _sampled(net, made, 20, z, label)
    field = N.from_diffusers(net, made)
    assert field.process.shape == (3, 8, 8)
    cond = {} if label is None else {"label": label}
    times = N.diffusers_times(made, 20)
    ours = tpf.sample(field, start=z, t=times, scheme="ddim", cond=cond, dtype=dtype).x
    size = theirs.abs().max().item()
    assert theirs.std() > 0.1
    error = (ours - theirs).abs().max().item()
    assert error <= (1e-9 if dtype == torch.float64 else 1e-4) * max(size, 1.0)
    if dtype == torch.float64:
        left = (ours - rounded).abs().max().item() / max(size, 1.0)
        assert 1e-9 < left < 2e-6


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_of_diffusers_gives_the_same_samples(diffusers, shift):
    """Their Euler steps, which are in float32, at times 1 - σ."""
    net = _unet(diffusers)
    made = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    z = torch.randn(2, 3, 8, 8, generator=gen())
    field = N.from_diffusers(net, made)
    times = N.diffusers_times(made, 10)
    assert float(times[0]) == 0
    assert float(times[-1]) == 1
    ours = tpf.sample(field, start=z, t=times, scheme="euler").x
    theirs = _sampled(net, made, 10, z)
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_times_of_flow_matching_are_one_less_sigma():
    made = SimpleNamespace(
        config={"shift": 2.0}, set_timesteps=lambda n: None, sigmas=torch.tensor([1.0, 0.4, 0.0])
    )
    assert torch.allclose(N.diffusers_times(made, 2), torch.tensor([0, 0.6, 1.0]).double())
    other = SimpleNamespace(config={"sigma_data": 0.5}, set_timesteps=lambda n: None)
    with pytest.raises(TypeError, match=r"no alphas_cumprod.*write|leave times out"):
        N.diffusers_times(other, 2)


def test_a_dit_of_diffusers_knows_no_class(diffusers):
    net = _dit(diffusers).double()
    field = N.from_diffusers(net, diffusers.DDIMScheduler())
    t, x = torch.tensor(0.5, dtype=torch.float64), rows(2, shape=(3, 8, 8))
    none = field.noise(t, x)
    assert torch.equal(field.noise(t, x, {"label": torch.tensor([-1, -1])}), none)
    assert torch.equal(field.noise(t, x, {"label": torch.tensor([5, 5])}), none)
    assert (field.noise(t, x, {"label": torch.tensor([1, 2])}) - none).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: N.from_diffusers(model("epsilon"), None), "scheduler must be"),
        (lambda: N.from_diffusers(model("epsilon"), SimpleNamespace), "the class"),
        (lambda: N.from_diffusers(model("epsilon"), scheduler("flow")), "'flow'.*'epsilon'"),
        (
            lambda: N.from_diffusers(
                model("epsilon"),
                SimpleNamespace(alphas_cumprod=torch.tensor([0.5, 0.0]), config={}),
            ),
            "rescale_betas_zero_snr",
        ),
        (lambda: N.from_diffusers(model("epsilon"), SimpleNamespace(config={})), "none of alphas"),
        (lambda: N.from_diffusers(nn.Linear, scheduler()), "net must be"),
        (lambda: N.from_diffusers(nn.Linear(2, 2), SimpleNamespace(config={"shift": 1})), "size"),
        (lambda: N.diffusers_times(scheduler(), 10), "set_timesteps"),
        (lambda: N.diffusers_times(spaced([40, 25, 3]), 3), "length; write steps that divide 50"),
        (lambda: N.diffusers_times(spaced([40, 25, 3], "linspace"), 3), "write 'leading' or"),
        (lambda: N.diffusers_times(spaced([25, 25, 0]), 2), "from_config"),
        (
            lambda: N.diffusers_times(spaced([25, 0], final=0.9995), 2),
            "do not grow.*steps_offset=1 or with set_alpha_to_one=True",
        ),
        (lambda: N.diffusers_times(spaced([60, 35]), 2), "from -0.22 to 1.*smaller steps_offset"),
        (lambda: N.diffusers_times(flowing([0.0, 0.5, 1.0]), 2), "do not grow.*invert_sigmas"),
    ],
)
def test_what_is_no_scheduler_is_refused(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def spaced(timesteps, spacing="leading", final=1.0):
    made = scheduler(
        set_timesteps=lambda n: None, timesteps=torch.tensor(timesteps), final_alpha_cumprod=final
    )
    made.config.timestep_spacing, made.config.set_alpha_to_one = spacing, final == 1
    return made


def flowing(sigmas):
    return SimpleNamespace(
        config={"shift": 1.0}, set_timesteps=lambda n: None, sigmas=torch.tensor(sigmas)
    )


def test_schedulers_whose_times_are_not_those_of_equal_steps_are_told_so(diffusers):
    pndm = diffusers.PNDMScheduler(timestep_spacing="leading")
    with pytest.raises(ValueError, match=r"of a PNDMScheduler.*DDIMScheduler\.from_config"):
        N.diffusers_times(pndm, 10)
    for offset, last in ((1, 0.999), (0, None)):
        made = diffusers.DDIMScheduler(
            timestep_spacing="leading", set_alpha_to_one=False, steps_offset=offset
        )
        if last is None:
            with pytest.raises(ValueError, match="steps_offset=1"):
                N.diffusers_times(made, 10)
        else:
            assert float(N.diffusers_times(made, 10)[-1]) == last


# ----------------------------------------------------------------------- torchcfm, SiT, EDM, (x, t)

FLOW = tpf.Process(tpf.Linear(), base=tpf.Gaussian(SHAPE))


def exact_velocity(t, x):
    d = data_given(x, t, 1 - t)
    return d - (x - column(t, x) * d) / column(1 - t, x)


class Labelled(nn.Module):
    """Records how it was called."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.seen = answer, None

    def forward(self, t, x, y=None):
        self.seen = y
        return self.answer(t, x)


def test_torchcfm_is_called_with_time_first_and_labels_as_y():
    net = Labelled(exact_velocity)
    field = N.from_torchcfm(net, FLOW)
    exact = tpf.oracle(FLOW, law())
    t, x = torch.linspace(0, 0.95, 5, dtype=torch.float64), rows()
    assert torch.allclose(field.velocity(t, x), exact.velocity(t, x), atol=1e-9)
    assert net.seen is None
    label = torch.arange(5)
    field.velocity(t, x, {"label": label})
    assert torch.equal(net.seen, label)


def test_torchcfm_is_called_with_time_as_last_feature():
    seen = []

    def net(joined):
        seen.append(joined)
        return joined[:, :2]

    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    field = N.from_torchcfm(net, process)
    t, x = torch.rand(4), torch.randn(4, 2)
    assert torch.equal(field.velocity(t, x), x)
    assert torch.equal(seen[0], torch.cat([x, t[:, None]], 1))
    with pytest.raises(ValueError, match="takes no conditions"):
        field.velocity(t, x, {"label": torch.arange(4)})
    with pytest.raises(TypeError, match="from_xt"):
        N.from_torchcfm(lambda x, t: x, process)


def test_torchcfm_itself():
    models = pytest.importorskip(
        "torchcfm.models", reason="torchcfm, which is in the bench extra, is not installed"
    )
    net = models.MLP(dim=2, w=16, time_varying=True)
    field = N.from_torchcfm(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
    x = torch.randn(3, 2, generator=gen())
    expected = net(torch.cat([x, torch.full((3, 1), 0.25)], 1))
    assert torch.equal(field.velocity(torch.tensor(0.25), x), expected)
    assert tpf.sample(field, 4, steps=3, generator=gen()).x.shape == (4, 2)


class SiT(nn.Module):
    """Its call: (x, t, y), labels of 7 classes and one for none, twice the channels."""

    def __init__(self, prediction, twice=True):
        super().__init__()
        self.prediction, self.twice, self.seen = prediction, twice, None
        self.y_embedder = SimpleNamespace(num_classes=7, dropout_prob=0.1)

    def forward(self, x, t, y):
        self.seen = y
        d = data_given(x, t, 1 - t)
        noise = (x - column(t, x) * d) / column(1 - t, x)
        kinds = {"velocity": d - noise, "noise": noise, "score": -noise / column(1 - t, x)}
        out = kinds[self.prediction]
        return torch.cat([out, out + 5], 1) if self.twice else out


@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
@pytest.mark.parametrize("twice", [True, False])
def test_sit_is_called_with_x_first(prediction, twice):
    process = tpf.Process(tpf.OneSidedLinear(), shape=SHAPE)
    net = SiT(prediction, twice)
    field = N.from_sit(net, process, prediction=prediction)
    exact = tpf.oracle(process, law())
    t, x = torch.linspace(0.05, 0.95, 5, dtype=torch.float64), rows()
    for quantity in ("velocity", "data"):
        found = getattr(field, quantity)(t, x)
        assert torch.allclose(found, getattr(exact, quantity)(t, x), atol=1e-8)
    assert torch.equal(net.seen, torch.full((5,), 7))
    field.velocity(t, x, {"label": torch.tensor([0, 1, -1, 3, 6])})
    assert torch.equal(net.seen, torch.tensor([0, 1, 7, 3, 6]))
    with pytest.raises(ValueError, match="unknown prediction"):
        N.from_sit(net, process, prediction="data")


class Preconditioned(nn.Module):
    """Karras's: D(y, sigma, class_labels), told of labels by vectors."""

    label_dim = 3

    def __init__(self):
        super().__init__()
        self.sigma = self.labels = None

    def forward(self, y, sigma, class_labels=None):
        self.sigma, self.labels = sigma, class_labels
        return data_given(y, torch.ones_like(sigma), sigma).float()


@pytest.mark.parametrize(
    "path", [tpf.VE(0.01, 40.0), tpf.VP(), tpf.OneSidedLinear(), tpf.OneSidedTrigonometric()]
)
def test_an_edm_network_serves_every_process(path):
    process, net = tpf.Process(path, shape=SHAPE), Preconditioned()
    field = N.from_edm(net, process, sigma_min=1e-3, sigma_max=80.0)
    exact = tpf.oracle(process, law())
    t, x = torch.linspace(0, 1, 9, dtype=torch.float64), rows(9)
    inside = t >= 0.05  # before it a level above 80 is taken for 80
    found, expected = field.data(t, x), exact.data(t, x)
    assert found.dtype == torch.float64
    assert torch.allclose(found[inside], expected[inside], atol=1e-3)
    assert torch.allclose(found, expected, atol=0.05)
    assert net.sigma.min() >= 1e-3
    assert net.sigma.max() <= 80.0 * (1 + 1e-6)
    assert torch.equal(net.labels, torch.zeros(1, 3).double())
    field.data(t[:3], x[:3], {"label": torch.tensor([2, -1, 0])})
    assert torch.equal(net.labels, torch.tensor([[0, 0, 1], [0, 0, 0], [1, 0, 0]]).double())


def test_levels_of_an_edm_network_are_ordered():
    with pytest.raises(ValueError, match="below sigma_max"):
        N.from_edm(Preconditioned(), tpf.Process(tpf.VE(), shape=SHAPE), sigma_min=90.0)
    told = tpf.Process(tpf.Linear(), base=tpf.distributions.Uniform(SHAPE))
    with pytest.raises(tpf.ConversionError):
        N.from_edm(Preconditioned(), told)


def test_the_inner_network_of_edm_and_the_outer_one_are_the_same_field():
    process, own = tpf.Process(tpf.VE(0.01, 40.0), shape=SHAPE), 0.5
    inner = nn.Conv2d(2, 2, 3, padding=1).double()

    def outer(y, sigma):
        s = column(sigma, y)
        noise = 0.25 * sigma.log()
        f = inner(y / (s**2 + own**2).sqrt()) * column(noise, y)
        return own**2 / (s**2 + own**2) * y + s * own / (s**2 + own**2).sqrt() * f

    one = tpf.EDM(N.from_xt(lambda x, t: inner(x) * column(t, x)), process, sigma_data=own)
    two = N.from_edm(outer, process)
    t, x = torch.linspace(0, 1, 6, dtype=torch.float64), rows(6)
    assert torch.allclose(one.data(t, x), two.data(t, x), atol=1e-10)


def test_adapted_fields_train_and_sample_as_others_do():
    net = Labelled(lambda t, x: x)
    net.scale = nn.Parameter(torch.ones(()))
    net.answer = lambda t, x: net.scale * x
    field = N.from_torchcfm(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
    tpf.Trainer(field).fit(torch.randn(16, 2), steps=3, batch_size=4, progress=False)
    assert float(net.scale) != 1
    assert tpf.sample(field, 3, steps=2, epsilon=0.1, generator=gen()).x.shape == (3, 2)
