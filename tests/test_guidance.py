"""Guided fields against exact class fields, autodiff of exact log-densities, and each other."""

import math

import pytest
import torch

import transportflows as tpf

G = tpf.guidance
Mixture = tpf.distributions.GaussianMixture
KINDS = {
    "velocity": tpf.Velocity,
    "score": tpf.Score,
    "noise": tpf.NoisePredictor,
    "data": tpf.DataPredictor,
}
PROCESSES = {
    "linear": tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))),
    "off centre": tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,), 0.5, 1.5)),
    "VP": tpf.Process(tpf.VP(), shape=(2,)),
    "latent": tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((2,))),
    "trigonometric": tpf.Process(tpf.OneSidedTrigonometric(), shape=(2,)),
}
FIRST = Mixture(torch.tensor([[-1.0, 0.0], [0.0, 1.0]]), 0.5, weights=torch.tensor([0.3, 0.7]))
SECOND = Mixture(torch.tensor([[1.0, 0.0], [0.3, -1.0]]), 0.4)
BOTH = Mixture(
    torch.cat([FIRST.means, SECOND.means]),
    torch.tensor([0.5, 0.5, 0.4, 0.4]),
    weights=0.5 * torch.cat([FIRST.weights, SECOND.weights]),
)
LABEL = torch.tensor([0, 1, 0, 1, 0, 1])
X = torch.randn(6, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
NULL = {"label": 2}
TIMES = [0.0, 1e-3, 0.2, 0.5, 0.9, 0.99, 1.0]


def oracles(process):
    return [tpf.oracle(process, law) for law in (FIRST, SECOND, BOTH)]


def network(process, kind):
    """An exact conditional network: labels 0 and 1 are the classes, 2 is no label."""
    exact = oracles(process)

    def net(t, x, label):
        out = torch.zeros_like(x)
        for k, field in enumerate(exact):
            out = torch.where((label == k)[:, None], getattr(field, kind)(t, x), out)
        return out

    return net


def conditional(process, kind):
    return KINDS[kind](network(process, kind), process)


def at(t):
    return torch.tensor(t, dtype=torch.float64)


def log_densities(process, t, x):
    """Of the class of each row, and of both together."""
    first, second, both = (field.log_prob(t, x) for field in oracles(process))
    return torch.where(LABEL == 0, first, second), both


def gradient(function, x):
    y = x.clone().requires_grad_()
    return torch.autograd.grad(function(y).sum(), y)[0]


# ----------------------------------------------------------------------------- classifier-free


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROCESSES)
def test_classifier_free_guidance_has_the_score_of_the_geometric_average(name, kind):
    """∇ log(ρ_t^{1-w} ρ_t(.|c)^w) by autodiff of exact log-densities, for every prediction."""
    process, w = PROCESSES[name], 2.5
    guided = G.ClassifierFree(conditional(process, kind), w, null=NULL)
    seen = 0
    for time in TIMES:
        t = at(time)

        def log_q(y, t=t):
            of_class, of_both = log_densities(process, t, y)
            return (1 - w) * of_both + w * of_class

        try:
            found = guided.score(at(time), X, {"label": LABEL})
        except tpf.ConversionError:  # where a conversion of the network itself is singular
            assert time in (0.0, 1.0)
            continue
        exact = gradient(log_q, X)
        seen += 1
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)
    assert seen >= 5


@pytest.mark.parametrize("target", ["velocity", "data", "noise"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROCESSES)
def test_every_prediction_kind_gives_the_same_guided_quantities(name, kind, target):
    process, w = PROCESSES[name], 3.0
    guided = G.ClassifierFree(conditional(process, kind), w, null=NULL)
    first, second, both = oracles(process)
    for time in (1e-2, 0.2, 0.5, 0.9, 0.99):
        t = at(time)
        of = [getattr(field, target)(t, X) for field in (first, second, both)]
        of_class = torch.where((LABEL == 0)[:, None], of[0], of[1])
        exact = of[2] + w * (of_class - of[2])
        found = getattr(guided, target)(t, X, {"label": LABEL})
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-10)


def test_ho_and_salimans_strength_is_one_less():
    """The likely slip: their (1 + w) f_c - w f_u is our w + 1, and not our w."""
    process = PROCESSES["linear"]
    field, t, cond = conditional(process, "velocity"), at(0.4), {"label": LABEL}
    given = field.velocity(t, X, cond)
    without = field.velocity(t, X, {"label": torch.full_like(LABEL, 2)})
    guided = G.ClassifierFree(field, 3.0, null=NULL).velocity(t, X, cond)
    torch.testing.assert_close(guided, (1 + 2.0) * given - 2.0 * without)
    assert not torch.allclose(guided, (1 + 3.0) * given - 3.0 * without)


def test_a_two_sided_pair_is_guided_too():
    base = tpf.distributions.Uniform((2,), low=-1.0, high=1.0)
    process = tpf.Process(tpf.Linear(tpf.Brownian()), base=base)

    def b(t, x, label):
        return -x * (1 + label[:, None])

    def eta(t, x, label):
        return x + label[:, None]

    pair = tpf.FieldPair(velocity=b, noise=eta, process=process)
    guided = G.ClassifierFree(pair, 2.0, null=NULL)
    t, cond = at(0.3), {"label": LABEL}
    null = torch.full_like(LABEL, 2)
    torch.testing.assert_close(
        guided.velocity(t, X, cond), 2 * b(t, X, LABEL) - b(t, X, null), rtol=1e-12, atol=1e-12
    )
    scale = process.noise_part.scale(t)
    torch.testing.assert_close(
        guided.score(t, X, cond), -(2 * eta(t, X, LABEL) - eta(t, X, null)) / scale
    )
    x = tpf.sample(guided, cond={"label": LABEL}, start=X, epsilon=0.3, steps=20).x
    assert x.shape == X.shape


def test_a_separate_unconditional_field_and_null_are_one():
    process = PROCESSES["linear"]
    field = conditional(process, "data")
    one = G.ClassifierFree(field, 2.0, null=NULL)
    other = G.ClassifierFree(field, 2.0, unconditional=tpf.oracle(process, BOTH))
    t, cond = at(0.6), {"label": LABEL}
    torch.testing.assert_close(one.score(t, X, cond), other.score(t, X, cond))


def test_the_scale_may_be_one_a_row_in_any_chunk_and_a_function_of_time():
    process = PROCESSES["linear"]
    field = conditional(process, "velocity")
    w = torch.tensor([0.0, 1.0, 2.0, 3.0, 1.5, 4.0], dtype=torch.float64)
    by_row = G.ClassifierFree(field, "guidance", null=NULL)
    run = tpf.sample(
        by_row, start=X, cond={"label": LABEL, "guidance": w}, steps=10, chunk=4, scheme="heun"
    ).x
    for k in range(6):
        alone = G.ClassifierFree(field, float(w[k]), null=NULL)
        one = tpf.sample(alone, start=X[k : k + 1], cond={"label": LABEL[k : k + 1]}, steps=10).x
        torch.testing.assert_close(run[k : k + 1], one, rtol=1e-10, atol=1e-10)

    rising = G.ClassifierFree(field, lambda t: 1 + 2 * t, null=NULL)
    times, cond = torch.linspace(0.1, 0.9, 6, dtype=torch.float64), {"label": LABEL}
    found = rising.velocity(times, X, cond)
    for k in range(6):
        fixed = G.ClassifierFree(field, 1 + 2 * float(times[k]), null=NULL)
        torch.testing.assert_close(found[k], fixed.velocity(times, X, cond)[k])

    inside = G.ClassifierFree(field, 3.0, null=NULL, interval=(0.2, 0.6))
    for time, strength in ((0.1, 1.0), (0.2, 3.0), (0.4, 3.0), (0.6, 3.0), (0.7, 1.0)):
        fixed = G.ClassifierFree(field, strength, null=NULL)
        torch.testing.assert_close(
            inside.velocity(at(time), X, cond), fixed.velocity(at(time), X, cond)
        )


def test_a_strength_of_one_calls_the_network_once():
    calls = []

    def net(t, x, label):
        calls.append(label)
        return x

    field = tpf.Velocity(net, PROCESSES["linear"])
    G.ClassifierFree(field, 1.0, null=NULL).velocity(at(0.5), X, {"label": LABEL})
    assert len(calls) == 1
    assert bool((calls[0] == LABEL).all())


def test_an_interval_is_met_by_every_grid_and_spares_calls_outside():
    """Kinks at its ends: with them on the grid Heun is of order two, of any number of steps."""
    process, cond = PROCESSES["linear"], {"label": LABEL}
    field = conditional(process, "velocity")
    guided = G.ClassifierFree(field, 4.0, null=NULL, interval=(0.23, 0.61))
    assert guided.breakpoints == (0.23, 0.61)
    assert G.Power(guided, 2.0).breakpoints == (0.23, 0.61)
    assert G.ClassifierFree(field, 4.0, null=NULL, interval=(0.0, 0.5)).breakpoints == (0.5,)
    run = tpf.sample(guided, start=X, cond=cond, steps=10)
    assert {0.23, 0.61} <= set(run.t.tolist())

    def made(steps, **how):
        return tpf.sample(guided, start=X, cond=cond, steps=steps, scheme="heun", **how).x

    exact = made(640)
    errors = [float((made(steps) - exact).abs().max()) for steps in (20, 40, 80)]
    assert 1.6 < math.log2(errors[0] / errors[1]) < 2.6
    assert 1.6 < math.log2(errors[1] / errors[2]) < 2.6
    close = tpf.sample(guided, start=X, cond=cond, scheme="dopri5", atol=1e-8, rtol=1e-8).x
    torch.testing.assert_close(close, exact, rtol=0, atol=5 * errors[2])
    several = tpf.sample(guided, start=X, cond=cond, steps=160, scheme="dpm2m").x
    torch.testing.assert_close(several, exact, rtol=0, atol=20 * errors[2])


@pytest.mark.parametrize(
    "form", [G.ClassifierFree, G.RescaledClassifierFree, G.ProjectedClassifierFree]
)
def test_the_null_is_not_called_outside_of_the_interval(form):
    calls = []

    def net(t, x, label):
        calls.append((float(t[0]), bool((label == NULL["label"]).all())))
        return x

    field = tpf.Velocity(net, PROCESSES["linear"])
    guided = form(field, 2.0, null=NULL, interval=(0.3, 0.5))
    tpf.sample(guided, start=X, cond={"label": LABEL}, steps=20, scheme="euler")
    nulls = [t for t, null in calls if null]
    assert len(calls) - len(nulls) == 20
    assert len(nulls) == 4
    assert all(0.3 <= t <= 0.5 for t in nulls)


# ------------------------------------------------------------------------- rescaled, projected


@pytest.mark.parametrize("kind", KINDS)
def test_rescaled_and_projected_forms_are_of_the_data_prediction(kind):
    process, w = PROCESSES["linear"], 3.0
    field, t, cond = conditional(process, kind), at(0.4), {"label": LABEL}
    given = field.data(t, X, cond)
    plain = G.ClassifierFree(field, w, null=NULL).data(t, X, cond)

    none = G.RescaledClassifierFree(field, w, rescale=0.0, null=NULL).data(t, X, cond)
    torch.testing.assert_close(none, plain, rtol=1e-10, atol=1e-10)
    whole = G.RescaledClassifierFree(field, w, rescale=1.0, null=NULL).data(t, X, cond)
    torch.testing.assert_close(whole.std(1), given.std(1), rtol=1e-10, atol=1e-10)
    half = G.RescaledClassifierFree(field, w, rescale=0.5, null=NULL).data(t, X, cond)
    torch.testing.assert_close(half, 0.5 * (whole + plain), rtol=1e-10, atol=1e-10)

    same = G.ProjectedClassifierFree(field, w, parallel=1.0, null=NULL).data(t, X, cond)
    torch.testing.assert_close(same, plain, rtol=1e-10, atol=1e-10)
    across = G.ProjectedClassifierFree(field, w, null=NULL).data(t, X, cond) - given
    assert float((across * given).sum(1).abs().max()) < 1e-10
    rest = plain - given - across  # along d_c
    cosine = (rest * given).sum(1).abs() / (rest.norm(dim=1) * given.norm(dim=1))
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    near = G.ProjectedClassifierFree(field, w, parallel=1.0, threshold=0.05, null=NULL)
    moved = (near.data(t, X, cond) - given).norm(dim=1)
    assert float(moved.max()) <= (w - 1) * 0.05 + 1e-10


@pytest.mark.parametrize("kind", ["velocity", "noise"])
@pytest.mark.parametrize("scheme", ["heun", "dpm2m"])
def test_data_forms_are_sampled_from_every_prediction_alike(kind, scheme):
    """Even where the data prediction is singular at the start, as of noise at β = 0."""
    process, cond = PROCESSES["linear"], {"label": LABEL}

    def made(kind, scheme):
        field = G.ProjectedClassifierFree(conditional(process, kind), 2.0, null=NULL)
        return tpf.sample(field, start=X, cond=cond, steps=30, scheme=scheme).x

    torch.testing.assert_close(made(kind, scheme), made("data", "heun"), rtol=0, atol=0.1)


# ------------------------------------------------------------------ products, powers, bad models


def test_autoguidance_is_the_combination():
    process = PROCESSES["VP"]
    good, bad, _ = oracles(process)
    t = at(0.3)
    for name in ("velocity", "score", "data"):
        f, g = getattr(good, name)(t, X), getattr(bad, name)(t, X)
        found = getattr(G.AutoGuidance(good, bad, 1.7), name)(t, X)
        torch.testing.assert_close(found, g + 1.7 * (f - g), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "kinds", [("velocity", "velocity"), ("noise", "velocity"), ("score", "score")]
)
def test_a_product_has_the_sum_of_the_scores_and_of_the_velocities(kinds):
    process = PROCESSES["off centre"]  # where the base's mean has a weight of its own
    first, second, _ = oracles(process)
    fields = [
        KINDS[kind](lambda t, x, f=f, k=kind: getattr(f, k)(t, x), process)
        for f, kind in zip((first, second), kinds, strict=True)
    ]
    product = G.Product(fields, [0.5, 2.0])
    t = at(0.4)
    for name in ("velocity", "score", "noise"):
        exact = 0.5 * getattr(first, name)(t, X) + 2.0 * getattr(second, name)(t, X)
        torch.testing.assert_close(getattr(product, name)(t, X), exact, rtol=1e-9, atol=1e-9)
    with pytest.raises(tpf.ConversionError, match="no data prediction"):
        product.data(t, X)
    with pytest.raises(tpf.ConversionError, match="scheme='heun'"):
        tpf.sample(product, 2, scheme="dpm2m")


def test_a_power_starts_from_the_power_of_the_base_and_nests():
    process = PROCESSES["off centre"]
    first, second, _ = oracles(process)
    power = G.Power(first, 4.0)
    assert float(power.start.scale) == pytest.approx(0.75)
    assert float(power.start.mean[0]) == 0.5
    x = tpf.sample(power, 20_000, steps=1, t=(0.0, 1e-6), dtype=torch.float64).x
    assert float(x.std()) == pytest.approx(0.75, rel=0.03)  # 6 standard errors
    nested = G.Product([G.Power(first, 2.0), second])
    assert nested.power == 3
    t = at(0.7)
    exact = 2 * first.velocity(t, X) + second.velocity(t, X)
    torch.testing.assert_close(nested.velocity(t, X), exact, rtol=1e-10, atol=1e-10)
    assert G.Power(G.ClassifierFree(first, 2.0, unconditional=second), 2.0).power == 2


def test_an_annealed_gaussian_flows_to_the_law_of_its_own_flow():
    """dx = β b dt of N(0, s²): b = (σ̇/σ) x of its x_t, so that σ(1)/σ(0) is raised to β."""
    process = PROCESSES["linear"]
    field = tpf.oracle(process, tpf.Gaussian((2,), scale=0.5))
    x = tpf.sample(G.Power(field, 2.0), start=X, steps=100, scheme="rk4").x
    torch.testing.assert_close(x, X * 0.5**2, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------- tilts


def classifier(process):
    first, second, both = oracles(process)

    def log_prob(t, x, label):
        of_class = torch.where(label == 0, first.log_prob(t, x), second.log_prob(t, x))
        return of_class - both.log_prob(t, x)

    return log_prob


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PROCESSES)
def test_an_exact_classifier_makes_the_conditional_field(name, kind):
    process = PROCESSES[name]
    first, second, both = oracles(process)
    field = KINDS[kind](lambda t, x: getattr(both, kind)(t, x), process)
    guided = G.Classifier(field, classifier(process))
    for time in (0.01, 0.2, 0.5, 0.9, 0.99):
        t = at(time)
        for target in ("velocity", "score", "data", "noise"):
            exact = torch.where(
                (LABEL == 0)[:, None], getattr(first, target)(t, X), getattr(second, target)(t, X)
            )
            found = getattr(guided, target)(t, X, {"label": LABEL})
            torch.testing.assert_close(found, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("scheme", ["heun", "rk4", "dpm2m", "dopri5"])
def test_a_classifier_samples_what_the_conditional_field_samples(scheme):
    """From t = 0 on, where Δ/β is infinite and the gradient vanishes."""
    process = PROCESSES["linear"]
    first, _, both = oracles(process)
    guided = G.Classifier(both, classifier(process))
    more = {} if scheme == "dopri5" else {"steps": 100}
    one = tpf.sample(guided, start=X, cond={"label": 0 * LABEL}, scheme=scheme, **more).x
    other = tpf.sample(first, start=X, scheme=scheme, **more).x
    torch.testing.assert_close(one, other, rtol=0, atol=1e-2)


def test_the_log_density_of_a_guided_field_is_that_of_its_flow():
    process = PROCESSES["linear"]
    first, _, both = oracles(process)
    guided = G.Classifier(both, lambda t, x: classifier(process)(t, x, torch.zeros(())))
    found = tpf.log_likelihood(guided, X, scheme="rk4", steps=12).log_prob
    torch.testing.assert_close(found, FIRST.log_prob(X), rtol=0, atol=0.02)
    plain = G.ClassifierFree(first, 1.0, unconditional=both)
    found = tpf.log_likelihood(plain, X, scheme="rk4", steps=25).log_prob
    torch.testing.assert_close(found, FIRST.log_prob(X), rtol=0, atol=1e-3)


def test_a_tilt_shifts_the_score_in_the_units_of_the_data():
    """∇ of r(invert(x)) is the scale times the gradient in the data's units."""
    process = PROCESSES["linear"]
    transform = tpf.Standardize(1.0, 3.0)
    field = tpf.Velocity(lambda t, x: -x, process, transform=transform)
    slope = torch.tensor([1.0, -2.0], dtype=torch.float64)
    tilt = G.Tilt(field, lambda t, x: t * (x @ slope), 2.0)
    shift = tilt.score(at(0.5), X) - field.score(at(0.5), X)
    torch.testing.assert_close(shift, (0.5 * 2.0 * 3.0 * slope).expand_as(X))


def test_a_reward_of_the_data_prediction_goes_through_the_network():
    process = PROCESSES["linear"]
    first = oracles(process)[0]
    t = at(0.5)
    tilt = G.Tilt(first, lambda t, x: x[:, 0].square(), of="data")
    exact = gradient(lambda y: first.data(t, y)[:, 0].square(), X)
    torch.testing.assert_close(tilt.score(t, X) - first.score(t, X), exact, rtol=1e-9, atol=1e-9)


def test_a_tilt_of_a_two_sided_pair_is_refused_where_a_velocity_is_asked_for():
    base = tpf.distributions.Uniform((2,), low=-1.0, high=1.0)
    process = tpf.Process(tpf.Linear(tpf.Brownian()), base=base)
    pair = tpf.FieldPair(velocity=lambda t, x: -x, noise=lambda t, x: x, process=process)
    tilt = G.Tilt(pair, lambda t, x: t * x[:, 0])
    with pytest.raises(tpf.ConversionError, match=r"ClassifierFree, Product.*sample_weighted"):
        tpf.sample(tilt, 4)
    shift = tilt.score(at(0.5), X) - pair.score(at(0.5), X)
    torch.testing.assert_close(shift, torch.tensor([[0.5, 0.0]]).double().expand_as(X))


# ---------------------------------------------------------------------- conditions and refusals


def trained(drop):
    """A field that a Trainer trained, with the null 3 among its labels or not."""
    labels = torch.arange(40) % (4 if drop else 3)
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1, labels=4), PROCESSES["linear"])
    data = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    tpf.Trainer(field).fit(data, cond={"label": labels}, steps=2, batch_size=10, progress=False)
    return field


def test_a_null_that_was_not_trained_is_refused():
    G_null = {"label": 3}
    good = G.ClassifierFree(trained(True), 2.0, null=G_null)
    assert tpf.sample(good, 4, steps=2, cond={"label": 1}).x.shape == (4, 2)
    for guide in (G.ClassifierFree, G.RescaledClassifierFree, G.ProjectedClassifierFree):
        with pytest.raises(ValueError, match=r"null=.*nothing that the field was trained with"):
            guide(trained(False), 2.0, null=G_null)
    later = trained(False)
    known, later.conditions = later.conditions, None
    bad = G.ClassifierFree(later, 2.0, null=G_null)
    later.conditions = known
    with pytest.raises(ValueError, match=r"null=.*nothing that the field was trained with"):
        tpf.sample(bad, 4, steps=2, cond={"label": 1})
    with pytest.raises(ValueError, match="holds 7"):
        tpf.sample(good, 4, steps=2, cond={"label": 7})
    with pytest.raises(ValueError, match="condition 'label' is missing"):
        tpf.sample(good, 4, steps=2)
    with pytest.raises(ValueError, match="condition 'colour'"):
        tpf.sample(good, 4, steps=2, cond={"label": 1, "colour": 2})
    with pytest.raises(ValueError, match="null has 'colour'"):
        G.ClassifierFree(trained(True), 2.0, null={"colour": 0})


@pytest.mark.parametrize("known", [True, False], ids=["trained", "not trained"])
def test_nulls_of_another_kind_are_refused_where_they_are_given(known):
    field = trained(True)
    field = field if known else tpf.Velocity(field.net, field.process)
    for null, error, words in (
        ({"label": float("nan")}, ValueError, r"null\['label'\] is nan.*is integers; write"),
        ({"label": 0.5}, ValueError, r"null\['label'\] is 0.5.*is integers; write"),
        ({"label": [-1]}, TypeError, r"null\['label'\] is one value for all rows.*got \[-1\]"),
        ({"label": {}}, TypeError, r"null\['label'\] is one value for all rows"),
    ):
        with pytest.raises(error, match=words):
            G.ClassifierFree(field, 2.0, null=null)
    assert G.ClassifierFree(field, 2.0, null={"label": torch.tensor(3)})


def test_a_null_of_numbers_is_nan_or_of_the_shape_of_a_row():
    process, c = PROCESSES["linear"], torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1, vectors={"c": 3}), process)
    how = {"steps": 2, "batch_size": 10, "drop_cond": 0.2, "progress": False}
    tpf.Trainer(field).fit(torch.randn(20, 2), cond={"c": c}, **how)
    for null in (float("nan"), 0.0, torch.zeros(3)):
        guided = G.ClassifierFree(field, 2.0, null={"c": null})
        assert tpf.sample(guided, 4, steps=2, cond={"c": c[:4]}).x.shape == (4, 2)
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        G.ClassifierFree(field, 2.0, null={"c": torch.zeros(2)})


class OfMask(torch.nn.Module):
    """Of states and a mask with a flag."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(5, 2)

    def forward(self, t, x, m):
        return self.layer(torch.cat([x, m], 1))


@pytest.mark.parametrize("null", [None, {"m": float("nan")}])
def test_the_null_of_a_mask_of_booleans_is_none_and_not_true_everywhere(null):
    """NaN is True as a boolean: the unconditional field was given a mask of ones."""
    mask = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)) > 0.5
    net = tpf.networks.Nullable(OfMask(), m="flag")
    field = tpf.Velocity(net, PROCESSES["linear"])
    how = {"steps": 2, "batch_size": 10, "drop_cond": 0.3, "progress": False}
    tpf.Trainer(field).fit(torch.randn(20, 2), cond={"m": mask}, **how)
    t, x, cond = torch.full((4,), 0.5), torch.randn(4, 2), {"m": mask[:4]}
    without = G.ClassifierFree(field, 0.0, null=null).velocity(t, x, cond)
    assert torch.equal(without, field.velocity(t, x))
    both = G.ClassifierFree(field, 2.0, null=null).velocity(t, x, cond)
    assert torch.allclose(both, 2 * field.velocity(t, x, cond) - field.velocity(t, x))
    drawn = tpf.sample(G.ClassifierFree(field, 0.0, null=null), start=x, steps=3, cond=cond).x
    assert torch.equal(drawn, tpf.sample(field, start=x, steps=3).x)


def test_a_strength_is_not_a_condition_of_the_field():
    """``scale="label"`` guided class 2 twice as much as class 1."""
    field = trained(True)
    plain = tpf.Velocity(lambda t, x, label: x, field.process)
    exact = tpf.oracle(field.process, FIRST)
    null = {"null": {"label": 3}}
    for make in (
        lambda: G.ClassifierFree(field, "label", **null),
        lambda: G.ClassifierFree(tpf.Velocity(field.net, field.process), "label"),
        lambda: G.ClassifierFree(plain, "label", **null),
        lambda: G.RescaledClassifierFree(field, "label", **null),
        lambda: G.AutoGuidance(field, field, "label"),
        lambda: G.Tilt(field, lambda t, x: x[:, 0], "label"),
        lambda: G.Classifier(exact, lambda t, x, label: x[:, 0], "label"),
    ):
        with pytest.raises(ValueError, match=r"scale='label'.*a name of its own, scale='guidance'"):
            make()


def test_scales_that_cannot_be_are_refused():
    process = PROCESSES["linear"]
    field = conditional(process, "velocity")

    def guided(scale, **more):
        return G.ClassifierFree(field, scale, null=NULL, **more)

    with pytest.raises(ValueError, match="nan"):
        guided(float("nan"))
    with pytest.raises(ValueError, match="must be finite"):
        guided(float("inf"))
    with pytest.raises(ValueError, match="must be finite"):
        guided(lambda t: 1 / (t - 0.5))
    with pytest.raises(ValueError, match=r"scale='guidance'.*cond="):
        guided(torch.ones(6))
    with pytest.raises(TypeError, match="a number, a function of time"):
        guided([1.0])
    with pytest.raises(ValueError, match="0 <= low < high <= 1"):
        guided(1.0, interval=(0.6, 0.2))
    by_row = guided("guidance")
    with pytest.raises(ValueError, match="'guidance', which is missing"):
        tpf.sample(by_row, start=X, cond={"label": LABEL})
    with pytest.raises(ValueError, match="must be finite"):
        tpf.sample(by_row, start=X, cond={"label": LABEL, "guidance": torch.full((6,), torch.nan)})
    with pytest.raises(TypeError, match=r"'guidance' is scale.*got '3'; write cond=.*2\.0"):
        tpf.sample(by_row, start=X, cond={"label": LABEL, "guidance": "3"})
    with pytest.raises(ValueError, match=r"one real number, or one a row"):
        tpf.sample(by_row, start=X, cond={"label": LABEL, "guidance": torch.ones(6, 2)})


def test_what_cannot_be_combined_is_refused():
    process = PROCESSES["linear"]
    first, second, both = oracles(process)
    elsewhere = tpf.oracle(PROCESSES["VP"], FIRST)
    with pytest.raises(ValueError, match="one process object"):
        G.Product([first, elsewhere])
    scaled = tpf.Velocity(lambda t, x: x, process, transform=tpf.Standardize(0.0, 2.0))
    with pytest.raises(ValueError, match="one transform object"):
        G.AutoGuidance(first, scaled, 2.0)
    mixed = [conditional(process, kind) for kind in ("data", "score")]
    with pytest.raises(tpf.ConversionError, match="predict different things"):
        G.Product(mixed)
    with pytest.raises(ValueError, match="needs fields"):
        G.Product([])
    with pytest.raises(ValueError, match="3 weights for 2 fields"):
        G.Product([first, second], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="nan"):
        G.Product([first, second], [1.0, float("nan")])
    with pytest.raises(ValueError, match="above 0"):
        G.Power(first, 0.0)
    with pytest.raises(ValueError, match="never trained without"):
        G.ClassifierFree(first, 2.0)
    with pytest.raises(ValueError, match="both ways"):
        G.ClassifierFree(first, 2.0, null=NULL, unconditional=both)
    with pytest.raises(TypeError, match="mapping of names"):
        G.ClassifierFree(first, 2.0, null=3)
    with pytest.raises(ValueError, match="powers add up to 2"):
        G.Tilt(G.Power(first, 2.0), lambda t, x: x[:, 0])
    with pytest.raises(ValueError, match="compared only where"):
        G.AutoGuidance(G.Power(first, 2.0), second, 2.0)
    with pytest.raises(ValueError, match="save the fields"):
        G.Power(first, 2.0).save("nowhere")
    with pytest.raises(ValueError, match="add up to -1"):
        tpf.sample(G.Product([first, second], [-2.0, 1.0]), 4)


def test_rewards_that_cannot_be_are_refused():
    first = oracles(PROCESSES["linear"])[0]
    t = at(0.5)
    with pytest.raises(ValueError, match="operations that autograd follows"):
        G.Tilt(first, lambda t, x: x.detach()[:, 0]).score(t, X)
    judge = torch.nn.Linear(2, 1).double()  # its parameters require a gradient, and x has none
    for blind in (
        lambda t, x: judge(x.detach())[:, 0],
        torch.no_grad()(lambda t, x: x[:, 0]),
        torch.no_grad()(lambda t, x: judge(x)[:, 0]),
    ):
        with pytest.raises(ValueError, match=r"autograd follows.*torch.no_grad\(\)"):
            G.Classifier(first, blind).score(t, X)
    with pytest.raises(ValueError, match=r"must return shape \(1,\), got \(1, 2\)"):
        G.Tilt(first, lambda t, x: x).score(t, X)
    with pytest.raises(ValueError, match="unknown of"):
        G.Tilt(first, lambda t, x: x[:, 0], of="noise")
    for reward in (lambda x: x[:, 0], lambda: 0.0, torch.nn.Linear(2, 1)):
        with pytest.raises(TypeError, match=r"reward must be a function of \(t, x\), got .*write"):
            G.Tilt(first, reward)
    with pytest.raises(TypeError, match=r"log_prob must be a function of \(t, x\), got"):
        G.Classifier(first, lambda x: x[:, 0])
    for reward in (lambda t, x, *rest: x[:, 0], lambda *both: both[1][:, 0]):
        assert torch.isfinite(G.Tilt(first, reward).score(t, X)).all()
    labelled = G.Tilt(first, lambda t, x, label: x[:, 0] * label)
    assert torch.isfinite(labelled.score(t, X, {"label": LABEL})).all()


@pytest.mark.parametrize("of", ["state", "data"])
def test_a_reward_that_gives_nan_is_named(of):
    first = oracles(PROCESSES["linear"])[0]
    for reward, what in (
        (lambda t, x: x[:, 0] * float("nan"), "reward is NaN in 6 of 6 rows"),
        (lambda t, x: (x[:, 0].abs() + 1.0).neg().log(), "reward is NaN"),
        (lambda t, x: (0 * x[:, 0]).square().sqrt(), "gradient of the reward is NaN in 6 of 6"),
    ):
        tilt = G.Tilt(first, reward, of=of)
        for _ in range(2):  # a second call is no more than the first
            with pytest.raises(ValueError, match=rf"the .*{what}.*write x\.clamp"):
                tpf.sample(tilt, start=X, steps=2)


@pytest.mark.parametrize("infinity", [torch.inf, -torch.inf])
def test_a_reward_that_is_infinite_is_named(infinity):
    """It has no gradient there: three quarters of the mass stayed where the density is zero."""
    first = oracles(PROCESSES["linear"])[0]
    tilt = G.Tilt(first, lambda t, x: torch.where(x[:, 0] > X[2, 0], 0 * x[:, 0], infinity))
    rows = int((X[:, 0] <= X[2, 0]).sum())
    message = rf"the reward is {infinity:g} in {rows} of 6 rows.*write a smooth one"
    for _ in range(2):  # a second call is no more than the first
        with pytest.raises(ValueError, match=message):
            tpf.sample(tilt, start=X, steps=2)


def test_a_reward_that_is_infinite_is_named_by_weights_too():
    first = oracles(PROCESSES["linear"])[0]
    tilt = G.Tilt(first, lambda t, x: torch.where(x[:, 0] > 0, 0 * x[:, 0], -torch.inf))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"the reward is -inf in .*write a smooth one"):
            G.sample_weighted(tilt, 50, steps=2, generator=torch.Generator().manual_seed(0))


def test_the_repr_tells_what_it_is_made_of():
    field = conditional(PROCESSES["linear"], "velocity")
    text = repr(G.ClassifierFree(field, 2.0, null=NULL))
    assert text.startswith("ClassifierFree(Velocity, scale=2, null={'label': 2}")
    assert "Process(Linear()" in text
    assert "power=2" in repr(G.Power(field, 2.0))
    assert len(G.Product([field, field]).networks) == 1


def test_float32_and_inference_mode_serve():
    process = PROCESSES["linear"]
    field, cond = conditional(process, "data"), {"label": LABEL}
    x = X.float()
    guided = G.ClassifierFree(field, 2.0, null=NULL)
    tilt = G.Classifier(oracles(process)[2], classifier(process))
    for one in (guided, tilt):
        wide = one.velocity(at(0.4), X, cond)
        with torch.inference_mode():
            narrow = one.velocity(torch.tensor(0.4), x, cond)
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-4)


def test_the_null_of_a_training_is_the_default():
    """By ``drop_cond``, and by what an untrained network says; without one it is refused."""
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    label = torch.arange(90) % 3
    x1 = torch.randn(90, 2, generator=torch.Generator().manual_seed(0)) + label[:, None]
    told = {"label": torch.tensor([0, 1, 2])}

    def field(labels):
        net = tpf.networks.MLP(2, 16, labels=labels, generator=torch.Generator().manual_seed(0))
        return tpf.Velocity(net, process)

    trained = field(3)
    tpf.Trainer(trained).fit(
        x1,
        steps=5,
        cond={"label": label},
        drop_cond=0.2,
        generator=torch.Generator().manual_seed(0),
        progress=False,
    )
    t, x = torch.full((3,), 0.4), torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    for one in (trained, field(3)):
        guided, same = (
            tpf.guidance.ClassifierFree(one, 3.0, null=null) for null in (None, {"label": -1})
        )
        assert torch.equal(guided.velocity(t, x, told), same.velocity(t, x, told))
        free = one.velocity(t, x, one.null_cond(3))
        wanted = free + 3.0 * (one.velocity(t, x, told) - free)
        torch.testing.assert_close(guided.velocity(t, x, told), wanted)
    never = field(3)
    tpf.Trainer(never).fit(x1, steps=1, cond={"label": label}, progress=False)
    with pytest.raises(ValueError, match="drop_cond"):
        tpf.guidance.ClassifierFree(never, 2.0)


def test_what_is_made_of_fields_is_not_trained():
    """``conditions`` has no setter, said a raw AttributeError after the fit."""
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1), process)
    seen = tpf.inverse.LinearObservation(torch.eye(2), torch.zeros(2), 0.1)
    for made in (
        tpf.guidance.Power(field, 2.0),
        tpf.guidance.Tilt(field, lambda t, x: x[:, 0]),
        tpf.inverse.PseudoInverse(field, seen),
    ):
        with pytest.raises(TypeError, match=r"made of fields .*train those, Trainer\(field\)"):
            tpf.Trainer(made)
    assert tpf.Trainer(field).field is field
