"""The example from a masked image to images: the law of its pairs, its figures, its runs."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import transportflows as tpf

ROOT = Path(__file__).parent.parent
EX = SimpleNamespace(**runpy.run_path(str(ROOT / "examples" / "mask_to_image.py")))
SHAPE = (1, 28, 28)
WEIGHTS = {  # α + β, and its derivative
    "linear": (lambda t: torch.ones_like(t), lambda t: torch.zeros_like(t)),
    "trigonometric": (
        lambda t: math.sqrt(2) * torch.cos(math.pi / 2 * (t - 0.5)),
        lambda t: -math.pi / math.sqrt(2) * torch.sin(math.pi / 2 * (t - 0.5)),
    ),
    "encoder-decoder": (
        lambda t: 0.5 * (1 + torch.cos(2 * math.pi * t)),
        lambda t: -math.pi * torch.sin(2 * math.pi * t),
    ),
}
LATENTS = {
    "none": lambda t: torch.zeros_like(t),
    "brownian": lambda t: (t * (1 - t)).sqrt(),
    "quadratic": lambda t: t * (1 - t),
    "sine-squared": lambda t: 0.5 * (1 - torch.cos(2 * math.pi * t)),
}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def cells():
    return [(p, g) for p in WEIGHTS for g in LATENTS if (p, g) != ("encoder-decoder", "none")]


def test_holes_are_half_as_wide_as_images_and_in_their_middle():
    seen = EX.masks(3_000, SHAPE, gen())
    holes = ~seen
    assert bool((holes.sum((1, 2, 3)) == 14 * 14).all())
    rows, columns = holes.any(3).squeeze(1), holes.any(2).squeeze(1)
    for lines in (rows, columns):  # each hole is a square, within the box of 4 to 24
        assert bool((lines.sum(1) == 14).all())
        first = lines.float().argmax(1)
        share = torch.bincount(first, minlength=28) / len(first)
        assert share.nonzero().flatten().tolist() == list(range(4, 11))
        assert float((share[4:11] - 1 / 7).abs().max()) < 4 * math.sqrt(6 / 49 / 3_000)


@pytest.mark.parametrize(("path", "gamma"), cells())
def test_outside_the_hole_a_path_is_a_multiple_of_the_image_and_the_latent(path, gamma):
    """x0 = x1 there, so x_t = (α + β) x1 + γ z: for trigonometric paths not x1 even without z."""
    process = EX.make_field(path, gamma, SHAPE, 8).process
    x1 = torch.randn(200, *SHAPE, generator=gen(1), dtype=torch.float64)
    mask = EX.masks(200, SHAPE, gen(2))
    x0 = torch.where(mask, x1, torch.randn(x1.shape, generator=gen(3), dtype=torch.float64))
    assert torch.equal(x0[mask], x1[mask])
    t = torch.linspace(0.01, 0.99, 200, dtype=torch.float64)
    sample = process.sample(x1, x0=x0, t=t, cond={"mask": mask}, generator=gen(4))
    wide = t.view(-1, 1, 1, 1)
    weight, rate = (f(wide) for f in WEIGHTS[path])
    noise = 0 if gamma == "none" else sample.z
    expected = weight * x1 + LATENTS[gamma](wide) * noise
    where = mask.expand_as(x1)
    torch.testing.assert_close(sample.x[where], expected[where], atol=1e-12, rtol=1e-12)
    told = (rate * x1)[where]
    torch.testing.assert_close(sample.mean_velocity[where], told, atol=1e-11, rtol=1e-11)
    assert torch.equal(sample.cond["mask"], mask)


def test_the_noise_in_the_hole_is_standard_and_independent_of_what_is_under_it():
    x1 = 0.5 + torch.randn(400, *SHAPE, generator=gen(1))
    mask = EX.masks(400, SHAPE, gen(2))
    x0 = EX.masked(x1, mask, gen(3))
    assert torch.equal(x0[mask], x1[mask])
    a, b = x0[~mask], x1[~mask]
    n = len(a)
    assert abs(float(a.mean())) < 4 / n**0.5
    assert abs(float(a.var()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float((a * (b - 0.5)).mean())) < 4 / n**0.5


@pytest.mark.parametrize("path", WEIGHTS)
@pytest.mark.parametrize("gamma", ["brownian", "sine-squared"])
def test_by_the_mask_alone_what_is_seen_is_forgotten_as_epsilon_grows(path, gamma):
    r"""A seen pixel of law N(0, 1), with the exact fields: a closed form, and no learning.

    x_t = c k + γ z has variance S = c² + γ², c = α + β. All is Gaussian, so that v = c ċ x / S and
    η = γ x / S, and y = X/√S solves dy = -(ε/S) y dt + √(2ε/S) dW: the correlation of what comes
    out with what was seen is exp(-ε ∫ dt/S). At ε = 0 it is 1. (Where γ² < ε h the step h of RK4 is
    made with γ²/h in the place of ε: ``Solution.limited``.)
    """
    (c, c_dot), latent = WEIGHTS[path], LATENTS[gamma]

    def exact(t, x, mask):
        t = t.view(-1, 1, 1, 1)
        variance = c(t) ** 2 + latent(t) ** 2
        return c(t) * c_dot(t) * x / variance, latent(t) * x / variance

    process = EX.make_field(path, gamma, (1, 1, 1), 8).process
    field = tpf.FieldPair(heads=exact, outputs=("mean_velocity", "noise"), process=process)
    n = 4_000
    seen = torch.randn(n, 1, 1, 1, generator=gen(5), dtype=torch.float64)
    mask = torch.ones_like(seen, dtype=torch.bool)
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    scale_sq = latent(grid) ** 2
    for epsilon in (0.0, 0.25, 0.5):
        solution = tpf.sample(
            field,
            start=seen,
            cond={"mask": mask},
            epsilon=epsilon,
            scheme="rk4",
            steps=200,
            generator=gen(6),
        )
        rate = (scale_sq * 200).clamp(max=epsilon) / (c(grid) ** 2 + scale_sq)
        expected = math.exp(-float(torch.trapezoid(rate, grid)))
        found = float((solution.x * seen).mean() / seen.square().mean())
        bound = 4 * math.sqrt((1 - expected**2) / n) + 1e-3
        assert abs(found - expected) < bound
        assert abs(float(solution.x.var()) - 1) < 4 * math.sqrt(2 / n) + 1e-3


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"at t = 1/2.*takes a latent"):
        EX.make_field("encoder-decoder", "none", SHAPE, 8)
    field = EX.make_field("linear", "none", SHAPE, 8)
    x1, mask = torch.zeros(2, *SHAPE), EX.masks(2, SHAPE, gen())
    found = EX.fill(field, x1, mask, (0.0, 0.25, 0.5), steps=2)
    assert found[0.0].x.shape == (4, *SHAPE)
    for epsilon in (0.25, 0.5):
        assert re.search(r"no Gaussian part.*latent.*FieldPair", found[epsilon])
    with pytest.raises(ValueError, match="start="):  # the process knows no law at t = 0
        tpf.sample(field, 3, cond={"mask": mask[:1]})

    # Told of the whole start, noise and all: one x1 for each copy of it at ε = 0, and no latent.
    told = tpf.Paired(condition_on_start=True)
    with pytest.raises(ValueError, match="latent"):
        tpf.Process(tpf.Linear(), coupling=told)
    process = tpf.Process(tpf.Linear(tpf.Brownian()), coupling=told, shape=SHAPE)
    net = tpf.networks.UNet(SHAPE, 8, (1, 2), 1, heads=2, images={"mask": 1, "x0": 1})
    pair = tpf.FieldPair(heads=net, outputs=("mean_velocity", "noise"), process=process)
    with pytest.raises(ValueError, match="all copies of an x0 go to one x1"):
        tpf.sample(pair, start=EX.masked(x1, mask), cond={"mask": mask}, steps=2)


@pytest.mark.parametrize("told", [False, True])
def test_a_training_item_is_a_pair_with_its_conditions(told):
    pixels = torch.randint(0, 256, (5, *SHAPE), generator=gen(), dtype=torch.uint8)
    images = tpf.datasets.Images(pixels, torch.arange(5))
    pairs = EX.MaskedPairs(images, told)
    item = pairs[3]
    assert len(pairs) == 5
    assert sorted(item) == (["mask", "seen", "x0", "x1"] if told else ["mask", "x0", "x1"])
    assert torch.equal(item["x1"], images[3]["x1"])
    where = item["mask"]
    assert torch.equal(item["x0"][where], item["x1"][where])
    if told:
        assert torch.equal(item["seen"], torch.where(where, item["x1"], torch.tensor(0.0)))
    assert not torch.equal(pairs[3]["x0"], item["x0"])
    for path, gamma in (("linear", "none"), ("encoder-decoder", "brownian")):
        field = EX.make_field(path, gamma, SHAPE, 8, told=told)
        trained = EX.train(field, pairs, 2, 4)
        assert sorted(trained.conditions) == (["mask", "seen"] if told else ["mask"])


def test_exact_draws_have_a_spread_of_their_error():
    """x1 and two fillings, all three exact draws given what is seen: the ratio is 1."""
    n = 2_000
    mean = torch.randn(n, 1, 6, 6, generator=gen(1))
    x1, *draws = (mean + torch.randn(3, n, 1, 6, 6, generator=gen(2))).unbind(0)
    mask = EX.masks(n, (1, 6, 6), gen(3))
    x = torch.stack([torch.where(mask, x1 + 0.1, draw) for draw in draws])
    got = EX.measure(x, x1, mask)
    torch.testing.assert_close(got["seen"], torch.full((n,), 0.01), atol=1e-5, rtol=1e-4)
    value, low, high = EX.bootstrap(EX.ratio(got["spread"], got["hole"], root=True), n)
    assert abs(value - 1) < 4 * (high - low) / 3.92
    blurred = EX.measure(torch.where(mask, x1, mean).expand(2, *x1.shape), x1, mask)
    assert float(blurred["spread"].max()) == 0


def test_intervals_and_energies_are_those_of_closed_forms():
    x = torch.randn(400, 3, generator=gen(1))
    value, low, high = EX.bootstrap(EX.mean(x[:, 0]), 400)
    assert value == pytest.approx(float(x[:, 0].mean()), abs=1e-6)
    width = 3.92 * float(x[:, 0].std()) / 20
    assert high - low == pytest.approx(width, rel=0.12)  # 1,000 resamples: 4 % for one deviation
    others = 0.3 + torch.randn(300, 3, generator=gen(2))
    energy = EX.energy(x[None], others)
    plain = tpf.metrics.energy_distance(x, others, unbiased=True)
    assert float(energy(torch.ones(1, 400))) == pytest.approx(plain, abs=1e-4)
    # Draws of one image are no pair: by hand, over all pairs of images and of draws.
    few, w = torch.randn(2, 5, 3, generator=gen(3)), torch.tensor([[2.0, 0.0, 1.0, 1.0, 1.0]])
    pairs, total = 0.0, 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                apart = [float((few[r, i] - few[s, j]).norm()) for r in (0, 1) for s in (0, 1)]
                weight = float(w[0, i] * w[0, j])
                pairs, total = pairs + weight, total + weight * sum(apart) / 4
    away = torch.cdist(few, others.expand(2, -1, -1)).mean((0, 2))
    theirs = torch.cdist(others, others).sum() / (300 * 299)
    by_hand = 2 * float((w @ away)[0]) / 5 - total / pairs - float(theirs)
    assert float(EX.energy(few, others)(w)) == pytest.approx(by_hand, abs=1e-4)


@pytest.mark.timeout(280)
def test_the_quick_run_on_digits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    EX.main(["--quick"])
    printed = capsys.readouterr().out
    assert (tmp_path / "mask_to_image.png").stat().st_size > 10_000
    rows = dict(re.findall(r"^ +(\(truth\)|0\.0|0\.25|0\.5) +(.*)$", printed, re.MULTILINE))
    assert sorted(rows) == ["(truth)", "0.0", "0.25", "0.5"]
    figures = [float(n) for n in re.findall(r"([\d.]+) \(", rows["0.0"])]
    assert len(figures) == 6
    seen, hole = figures[:2]
    assert seen < 0.5 * hole


@pytest.mark.timeout(280)
def test_the_quick_run_on_a_folder_without_a_latent(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(40):
        bytes_ = torch.randint(0, 256, (20, 24, 3), generator=gen(k), dtype=torch.uint8)
        Image.fromarray(bytes_.numpy()).save(folder / f"{k}.png")
    how = ["--data", str(folder), "--size", "16", "--gamma", "none", "--told", "--out", "faces.png"]
    EX.main([*how, "--quick"])
    printed = capsys.readouterr().out
    assert (tmp_path / "faces.png").stat().st_size > 5_000
    assert (
        len(re.findall(r"^ +0\.(?:25|5) refused: .*no Gaussian part", printed, re.MULTILINE)) == 2
    )
    assert "reader" not in printed.replace("reader agrees", "")


def test_a_network_for_faces_has_ten_million_parameters():
    width = EX.arguments(["--data", "x"]).width
    field = EX.make_field("linear", "brownian", (3, 64, 64), width)
    assert 9e6 < sum(p.numel() for p in field.parameters()) < 11e6
