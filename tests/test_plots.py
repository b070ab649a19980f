"""Pictures: what is drawn is what was given, and drawing disturbs no training."""

from __future__ import annotations

import io
import math
import pickle
import re
import sys

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import nn

import transportflows as tpf
from transportflows._core.random import stream
from transportflows.plots import SamplePictures, picture


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=gen(seed))


def only(items):
    (item,) = items
    return item


# ------------------------------------------------------------------------------------------ images


def sheet(figure):
    return np.asarray(only(only(figure.axes).images).get_array())


@pytest.mark.parametrize("event", [(4, 6), (1, 4, 6), (3, 4, 6)])
@pytest.mark.parametrize("n", [1, 5, 9])
def test_images_are_laid_in_rows_of_a_square_pixel_for_pixel(event, n):
    x = torch.rand(n, *event, generator=gen())
    drawn = sheet(picture(x, limits=(-0.5, 1.5)))
    across = {1: 1, 5: 3, 9: 3}[n]
    down = -(-n // across)
    colours = (3,) if event[0] == 3 else ()
    assert drawn.shape == (5 * down + 1, 7 * across + 1, *colours)
    expected = np.zeros_like(drawn)  # black between images and in empty places
    for k in range(n):
        image = (x[k].reshape(-1, 4, 6).permute(1, 2, 0).numpy() + 0.5) / 2
        top, left = 5 * (k // across) + 1, 7 * (k % across) + 1
        expected[top : top + 4, left : left + 6] = image if colours else image[..., 0]
    assert np.allclose(drawn, expected, atol=1e-6)
    assert only(only(picture(x).axes).images).get_clim() == (0, 1)  # as they are, not rescaled


def test_images_outside_the_limits_are_black_and_white():
    x = torch.tensor([[[-3.0, 0.25], [1.0, 7.0]]])
    assert np.allclose(sheet(picture(x, limits=(0, 1)))[1:3, 1:3], [[0, 0.25], [1, 1]])


def test_the_reference_sets_the_scale_of_images():
    x = torch.rand(4, 1, 5, 5, generator=gen())
    reference = torch.cat([torch.full((50, 1, 5, 5), -1.0), torch.full((50, 1, 5, 5), 3.0)])
    drawn = sheet(picture(x, reference))[1:6, 1:6]  # -1 to 3 and a twentieth on both sides
    assert np.allclose(drawn, (x[0, 0] + 1.2) / 4.4, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 2.0, math.nan])
def test_images_of_one_value_are_no_division_by_zero(value):
    drawn = sheet(picture(torch.full((4, 3, 3), value)))[1:4, 1:4]
    assert np.isnan(drawn).all() if math.isnan(value) else np.allclose(drawn, 0.5)


def test_images_in_another_layout_of_memory():
    x = torch.rand(4, 5, 6, 3, generator=gen())
    moved = x.permute(0, 3, 1, 2)
    assert np.array_equal(sheet(picture(moved)), sheet(picture(moved.contiguous())))


# ------------------------------------------------------------------------------ points, histograms


def clouds(figure):
    return [np.asarray(cloud.get_offsets()) for cloud in only(figure.axes).collections]


@pytest.mark.parametrize("event", [(2,), (5,), (2, 1), (2, 4, 3)])
def test_points_are_in_their_first_two_coordinates(event):
    x, reference = rows(30, *event), rows(50, *event, seed=2)
    first = lambda x: x.reshape(len(x), -1)[:, :2].numpy()  # noqa: E731
    assert np.array_equal(only(clouds(picture(x))), first(x))
    figure = picture(x, reference, title="after 5 steps", limits=(-2, 3))
    behind, front = clouds(figure)
    assert np.array_equal(behind, first(reference))
    assert np.array_equal(front, first(x))
    axes = only(figure.axes)
    assert (axes.get_xlim(), axes.get_ylim()) == ((-2, 3), (-2, 3))
    assert axes.get_aspect() == 1
    assert axes.get_title() == "after 5 steps"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["reference", "samples"]


def test_axes_hold_99_percent_of_the_reference_and_no_stray_sample():
    reference = torch.linspace(0, 100, 20_002).view(-1, 2)
    x = torch.tensor([[1e6, math.nan], [math.inf, 3.0]])
    low, high = only(picture(x, reference).axes).get_xlim()
    assert math.isclose(low, 0.5 - 0.05 * 99, rel_tol=1e-3)
    assert math.isclose(high, 99.5 + 0.05 * 99, rel_tol=1e-3)


def test_a_line_is_drawn_as_densities():
    x, reference = rows(500, 1), rows(2000, 1, seed=2)
    axes = only(picture(x, reference, limits=(-2, 2)).axes)
    edges = np.linspace(-2, 2, 81)
    bars = [patch for patch in axes.patches if hasattr(patch, "get_height")]
    assert len(bars) == 80
    expected = np.histogram(reference.numpy(), edges, density=True)[0]
    assert np.allclose([bar.get_height() for bar in bars], expected, atol=1e-5)
    outline = only(p for p in axes.patches if not hasattr(p, "get_height")).get_xy()
    expected = np.histogram(x.numpy(), edges, density=True)[0]
    assert np.allclose(outline[1:-1:2, 1], expected, atol=1e-5)
    assert only(picture(x).axes).get_legend() is None


def test_a_picture_leaves_its_samples_alone():
    x = rows(10, 2).double().requires_grad_()
    before = x.detach().clone()
    picture(x, x)
    assert torch.equal(x, before)
    assert x.requires_grad


@pytest.mark.parametrize("x", [torch.zeros(5), torch.zeros(0, 2), torch.tensor(1.0)])
def test_refuses_what_are_no_samples(x):
    with pytest.raises(
        ValueError, match=rf"samples \(n, \*\).*got {re.escape(str(tuple(x.shape)))}"
    ):
        picture(x)
    with pytest.raises(TypeError, match=r"write torch.as_tensor\(x\)"):
        picture([[1.0, 2.0]])


@pytest.mark.parametrize("reference", [[[0.0, 1.0]], torch.zeros(5, 1), torch.zeros(0, 2)])
def test_refuses_a_reference_that_does_not_fit(reference):
    with pytest.raises((TypeError, ValueError), match="reference"):
        picture(torch.zeros(5, 2), reference)


# ------------------------------------------------------------------------------------ during a fit


class Net(nn.Module):
    """Notes in which mode and with which weights it is called; draws, and keeps statistics."""

    def __init__(self):
        super().__init__()
        self.body = tpf.networks.MLP(2, width=16, depth=2, generator=gen(7))
        self.norm, self.drop = nn.BatchNorm1d(2), nn.Dropout(0.3)
        self.judged = []

    def forward(self, t, x):
        if not self.training:
            self.judged.append(next(self.body.parameters()).detach().clone())
        return self.norm(self.drop(self.body(t, x)))


def untrained(**kwargs):
    process = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))
    return tpf.Trainer(tpf.Velocity(Net(), process), tpf.VelocityLoss(), lr=0.01, **kwargs)


def fit(trainer, *callbacks, steps=20):
    given = {"batch_size": 16, "generator": gen(3), "progress": False, "callbacks": callbacks}
    trainer.fit(rows(100, 2), steps=steps, **given)
    return trainer


@pytest.mark.parametrize("ema", [None, 0.9])
def test_pictures_during_a_fit_disturb_nothing(ema, tmp_path):
    noted = []

    def draw(x):
        noted.append(x)
        return picture(x)

    folder = tmp_path / "new" / "pictures"
    options = {"steps": 4, "epsilon": 0.5}
    quiet = fit(untrained(ema=ema))
    shown = SamplePictures(folder, every=6, n=9, options=options, draw=draw)
    loud = fit(untrained(ema=ema), shown)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"samples-{step:09d}.png" for step in (6, 12, 18)]
    assert imread(folder / names[0]).shape[2] == 4
    assert [tuple(x.shape) for x in noted] == [(9, 2)] * 3
    a, b = quiet.field.state_dict(), loud.field.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    if ema:
        pairs = zip(quiet.ema.averages, loud.ema.averages, strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)
    assert np.array_equal(quiet.history.loss, loud.history.loss)
    assert loud.field.training == quiet.field.training


@pytest.mark.parametrize("ema", [None, 0.9])
def test_pictures_are_of_the_field_as_it_is_evaluated(ema, tmp_path):
    """In eval mode, with the averages if there are any, and with one seed."""
    noted = []
    shown = SamplePictures(
        tmp_path, every=20, n=9, options={"steps": 4}, draw=lambda x: noted.append(x) or picture(x)
    )
    trainer = fit(untrained(ema=ema), shown)
    weights = trainer.ema.averages if ema else trainer.parameters
    net = trainer.field.net
    assert net.judged
    assert all(torch.equal(w, weights[0]) for w in net.judged)
    assert ema is None or not torch.equal(trainer.parameters[0], weights[0])
    with trainer.evaluating() as field:
        expected = tpf.sample(field, 9, steps=4, generator=stream(0)).x
    assert torch.equal(only(noted), expected)


def test_the_title_and_the_reference_are_drawn(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "transportflows.plots.callback.picture",
        lambda *a, **k: made.append((a, k)) or picture(*a, **k),
    )
    reference = rows(40, 2)
    shown = SamplePictures(tmp_path, every=15, n=3, reference=reference, options={"steps": 2})
    fit(untrained(), shown)
    (x, behind), given = only(made)
    assert x.shape == (3, 2)
    assert torch.equal(behind, reference)
    assert given == {"title": "step 15"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 0}, "every must be a positive integer, got 0"),
        ({"every": 2.5}, r"every must be an? (positive )?integer, got 2.5"),
        ({"n": 0}, "n must be a positive integer, got 0"),
        ({"n": "9"}, r"n must be an? (positive )?integer, got '9'; write it without quotes"),
    ],
)
def test_refuses_bad_numbers(given, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        SamplePictures(tmp_path / "unmade", **given)
    assert not (tmp_path / "unmade").exists()


@pytest.mark.parametrize("options", [{"step": 50}, {"n": 5}, {"generator": None}])
def test_refuses_options_of_no_sampler_before_the_first_step(options, tmp_path):
    """Not after a thousand steps."""
    trainer = untrained()
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        fit(trainer, SamplePictures(tmp_path, every=3, options=options))
    assert trainer.step == 0


def test_a_notebook_shows_a_figure_without_pyplot():
    """Its formatters know Matplotlib's own figures only once pyplot was imported."""
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, _ = formatters.DisplayFormatter().format(picture(rows(5, 2)))
    assert imread(io.BytesIO(shown["image/png"])).shape[2] == 4
    again = pickle.loads(pickle.dumps(picture(rows(5, 2))))
    assert again.axes[0].get_xlim() == picture(rows(5, 2)).axes[0].get_xlim()


def test_without_matplotlib_it_says_what_to_install_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'transportflows\[plot\]'"):
        picture(rows(5, 2))
    with pytest.raises(ImportError, match="pip install"):
        fit(untrained(), SamplePictures(tmp_path, every=1000))
