"""Pictures of every kind: what is drawn is what was given, or computed of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import transportflows as tpf
from transportflows import plots

LAW = tpf.distributions.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), scale=0.4)
PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
ORACLE = tpf.oracle(PROCESS, LAW)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=gen(seed))


def offsets(axes):
    return [np.asarray(cloud.get_offsets()) for cloud in axes.collections]


def curves(axes):
    return [np.asarray(line.get_xydata()) for line in axes.lines]


def test_a_solution_a_tensor_and_an_array_are_drawn_alike():
    solution = tpf.sample(ORACLE, 30, steps=4, generator=gen())
    for x in (solution, solution.x, solution.x.numpy()):
        (axes,) = plots.samples(x).axes
        assert np.array_equal(offsets(axes)[0], solution.x.float().numpy())


def test_several_by_name_share_one_scale():
    x, y = rows(50, 2), 3 * rows(40, 2, seed=2)
    figure = plots.samples({"narrow": x, "wide": y}, title="both")
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert [axes.get_title() for axes in figure.axes] == ["narrow", "wide"]
    assert np.array_equal(offsets(second)[0], y.numpy())
    with pytest.raises(ValueError, match="differ in shape"):
        plots.samples({"a": x, "b": rows(5, 3)})
    with pytest.raises(ValueError, match="empty mapping"):
        plots.samples({})


def test_a_strip_of_points_has_a_panel_for_each_time():
    solution = tpf.sample(ORACLE, 30, steps=4, save_at=[0.0, 0.5, 1.0], generator=gen())
    figure = plots.strip(solution, reference=LAW.sample(20, generator=gen(1)))
    assert [axes.get_title() for axes in figure.axes] == ["t = 0", "t = 0.5", "t = 1"]
    for k, axes in enumerate(figure.axes):
        assert np.array_equal(offsets(axes)[1], solution.trajectory[k].float().numpy())
    with pytest.raises(ValueError, match=r"save_at=8"):
        plots.strip(tpf.sample(ORACLE, 3, steps=2, generator=gen()))
    with pytest.raises(ValueError, match=r"\(T, n, \*\)"):
        plots.strip(rows(3, 2))


def test_trajectories_are_lines_through_the_saved_states():
    states, t = rows(5, 7, 2), torch.linspace(0, 1, 5)
    (axes,) = plots.trajectories(states, t, n=3).axes
    found = curves(axes)
    assert len(found) == 3
    for k in range(3):
        assert np.array_equal(found[k], states[:, k].numpy())
    (axes,) = plots.trajectories(states[..., :1], t).axes  # of one number: against time
    assert np.allclose(curves(axes)[2][:, 0], t)
    assert np.array_equal(curves(axes)[2][:, 1], states[:, 2, 0].numpy())


@pytest.mark.parametrize("shape", [(4, 6, 2), (4, 6, 1), (4, 6, 1, 5, 5)])
def test_a_film_has_a_frame_for_each_time_and_holds_the_last(shape, tmp_path):
    path = tmp_path / "film.gif"
    plots.animate(rows(*shape), torch.linspace(0, 1, 4), path=path, fps=10, hold=0.3)
    with Image.open(path) as film:
        seen = []
        for k in range(film.n_frames):
            film.seek(k)
            seen.append((np.asarray(film.convert("RGB")), film.info["duration"]))
    assert sum(duration for _, duration in seen) == 700  # four frames and three held
    assert np.abs(seen[0][0].astype(int) - seen[3][0]).max() > 50
    with pytest.raises(ValueError, match=r"a \.gif or a \.mp4"):
        plots.animate(rows(*shape), path=tmp_path / "film.avi")


@pytest.mark.parametrize("quantity", ["velocity", "score", "data"])
def test_arrows_are_those_of_the_field(quantity):
    figure = plots.vector_field(ORACLE, [0.3, 0.7], quantity=quantity, limits=(-1, 1), size=3)
    assert len(figure.axes) == 2
    for time, axes in zip((0.3, 0.7), figure.axes, strict=True):
        (arrows,) = axes.collections
        x = torch.from_numpy(np.asarray(arrows.get_offsets()))
        assert x.unique(dim=0).shape == (9, 2)
        wanted = getattr(ORACLE, quantity)(torch.tensor(time), x)
        wanted = wanted - x if quantity == "data" else wanted
        assert np.allclose(np.stack([arrows.U, arrows.V], 1), wanted, atol=1e-5)
    field = tpf.Velocity(tpf.networks.MLP(3), tpf.Process(tpf.VP(), shape=(3,)))
    with pytest.raises(ValueError, match=r"\(2,\)"):
        plots.vector_field(field)


def test_densities_of_a_law_a_function_and_a_field():
    exact = None
    for of, how in ((LAW, {}), (LAW.log_prob, {}), (ORACLE, {"scheme": "rk4", "steps": 40})):
        axes = plots.density(of, limits=(-2, 2), size=9, **how).axes[0]
        (image,) = axes.images
        table = np.asarray(image.get_array())
        if exact is None:  # rows are the second coordinate, from below
            x = torch.tensor([[-1.0, 0.5]], dtype=torch.float64)
            assert np.isclose(table[5, 2], float(LAW.log_prob(x).exp()))
            exact = table
        assert np.allclose(table, exact, atol=2e-3)
    assert image.origin == "lower"
    with pytest.raises(TypeError, match=r"log_prob\(x\)"):
        plots.density(3.0)
    with pytest.raises(ValueError, match="log-densities are"):
        plots.density(lambda x: x)


def test_a_density_of_one_class():
    net = tpf.networks.MLP(2, 8, 1, labels=3, generator=gen())
    field = tpf.Velocity(net, PROCESS)
    tpf.Trainer(field).fit(
        rows(64, 2), cond={"label": torch.arange(64) % 3}, steps=1, progress=False, generator=gen()
    )
    figures = [plots.density(field, size=5, cond={"label": k}, steps=4) for k in (0, 2)]
    tables = [np.asarray(figure.axes[0].images[0].get_array()) for figure in figures]
    assert not np.allclose(*tables)
    assert plots.vector_field(field, size=3, cond={"label": 1}).axes


def test_a_history_shows_losses_their_mean_validation_and_the_loss_by_time():
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1, generator=gen()), PROCESS)
    trainer = tpf.Trainer(field)
    trainer.fit(
        rows(200, 2), steps=200, validation=rows(50, 2, seed=2), validation_every=100,
        progress=False, generator=gen(),
    )  # fmt: skip
    left, right = plots.history(trainer.history, window=10).axes
    each, mean, validation = curves(left)
    assert np.array_equal(each[:, 1], trainer.history.loss)
    assert np.isclose(mean[0, 1], trainer.history.loss[:10].mean())
    assert mean[0, 0] == 10
    assert np.array_equal(validation[:, 0], trainer.history.validation.step)
    assert len(right.patches) == 2  # windows of 100 steps
    with pytest.raises(ValueError, match="fit first"):
        plots.history(tpf.Trainer(field).history)


def test_quality_by_calls_takes_what_error_by_nfe_gives():
    found = tpf.metrics.error_by_nfe(
        ORACLE, lambda x: float(x.square().mean()), n=50, schemes=("euler", "heun"), steps=(2, 4),
        generator=gen(),
    )  # fmt: skip
    axes = plots.quality_by_calls(found, floor=0.5).axes[0]
    told = {line.get_label(): line for line in axes.get_legend().get_lines()}
    assert {"euler", "heun", "floor"} <= set(told)
    lines = [c for c in curves(axes) if len(c) == 2]  # of two numbers of steps, and the floor
    wanted = [(row["nfe"], row["distance"]) for row in found if row["scheme"] == "heun"]
    assert any(np.allclose(line, wanted) for line in lines)
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.quality_by_calls({})


def test_the_calls_are_the_ticks_and_none_overlap():
    axes = plots.quality_by_calls({"a": {4: 0.2, 24: 0.1, 48: 0.1}, "b": {1_000: 0.1}}).axes[0]
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert ticks == ["4", "24", "48", "1000"]
    assert len(axes.get_xticks(minor=True)) == 0
    many = plots.quality_by_calls({"a": {k: 1 / k for k in range(1, 101)}}).axes[0]
    assert 5 <= len(many.get_xticks()) <= 11


def test_an_epsilon_of_zero_stands_at_the_left_of_its_axis():
    values = {0.0: (0.2, 0.01), 0.5: (0.1, 0.01), 2.0: (0.3, 0.02)}
    axes = plots.epsilon_sweep(values, star=0.7).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.5", "2"]
    line = np.asarray(axes.containers[0].lines[0].get_xydata())
    assert np.allclose(line[:, 1], [0.2, 0.1, 0.3])
    assert 0 < line[0, 0] < 0.5
    with pytest.raises(ValueError, match="at least 0"):
        plots.epsilon_sweep({-1.0: 0.2, 1.0: 0.3})


def test_the_coefficients_of_a_path():
    process = tpf.Process(tpf.Linear(tpf.Brownian(0.5)), base=tpf.Gaussian((2,), scale=2.0))
    left, right = plots.interpolant(process, size=11).axes
    alpha, beta, gamma = curves(left)
    t = alpha[:, 0]
    assert np.allclose(alpha[:, 1], 1 - t)
    assert np.allclose(beta[:, 1], t)
    assert np.allclose(gamma[:, 1] ** 2, 0.5 * t * (1 - t))
    (ratio,) = curves(right)
    inside = slice(1, -1)
    t = t[inside]
    wanted = t**2 / (4 * (1 - t) ** 2 + 0.5 * t * (1 - t))
    assert np.allclose(ratio[inside, 1], np.log10(wanted))
    (ratio,) = curves(plots.interpolant(tpf.Linear(), size=11).axes[1])
    assert np.isclose(ratio[5, 1], 0.0)


def test_pairs_are_joined():
    x0, x1 = rows(9, 2), rows(9, 2, seed=2)
    (axes,) = plots.coupling(x0, x1, n=4).axes
    found = curves(axes)
    assert len(found) == 4
    assert np.allclose(found[2], torch.stack([x0[2], x1[2]]))
    (axes,) = plots.coupling(x0[:, :1], x1[:, :1]).axes
    assert np.allclose(curves(axes)[0], [[0, x0[0, 0]], [1, x1[0, 0]]])
    with pytest.raises(ValueError, match="a pair is a row"):
        plots.coupling(x0, x1[:3])


def test_all_pairs_of_coordinates():
    x, truth = rows(60, 3), torch.tensor([[0.5, -1.0, 2.0]])
    figure = plots.pairs(x, truth, names=["a", "b", "c"])
    panels = np.array(figure.axes).reshape(3, 3)
    assert [[axes.get_visible() for axes in row] for row in panels] == [
        [True, False, False], [True, True, False], [True, True, True],
    ]  # fmt: skip
    assert np.allclose(offsets(panels[2, 1])[0], x[:, [1, 2]])
    marks = [float(line.get_xdata()[0]) for line in panels[2, 1].lines]
    assert -1.0 in marks
    assert panels[2, 0].get_xlabel() == "a"
    assert panels[2, 0].get_ylabel() == "c"
    with pytest.raises(ValueError, match="2 names for 3"):
        plots.pairs(x, names=["a", "b"])


def test_ranks_of_a_right_posterior_stay_in_the_band_and_of_a_narrow_one_do_not():
    draws, n = 200, 400
    ranks = []
    for scale in (1.0, 0.5):  # x is N(0, 1), of which a posterior may claim less
        truth, claimed = rows(n, 1, seed=3), scale * rows(n, draws, seed=4)
        ranks.append((claimed < truth).sum(1))
    (axes,) = plots.calibration(torch.stack(ranks, 1), draws, names=["right", "narrow"]).axes
    right, narrow = (c[:, 1] for c in curves(axes)[1:])
    band = axes.collections[0].get_paths()[0].vertices[:, 1].max()
    assert np.isclose(band, 1.358 / n**0.5)
    assert np.abs(right).max() < band < np.abs(narrow).max()
    assert narrow[: draws // 4].min() >= 0 >= narrow[-draws // 4 :].max()
    with pytest.raises(ValueError, match="ranks are 0 to 10"):
        plots.calibration([3, 11], 10)


def test_a_heat_map_of_any_table():
    axes = plots.heat_map([[1.0, 0.0], [4.0, 2.0]], ["a", "b"], [10, 20]).axes[0]
    drawn = axes.images[0].get_array().filled(np.nan)
    assert np.allclose(drawn, [[1, np.nan], [4, 2]], equal_nan=True)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    assert len(axes.texts) == 3
    axes = plots.heat_map(-torch.eye(2), logarithmic=False).axes[0]
    assert np.allclose(axes.images[0].get_array(), -np.eye(2))
    with pytest.raises(ValueError, match="3 rows and 2 columns"):
        plots.heat_map(torch.eye(2), ["a", "b", "c"])
    with pytest.raises(ValueError, match="a table"):
        plots.heat_map(torch.ones(3))


def test_images_need_the_shape_of_images():
    with pytest.raises(ValueError, match=r"unflatten\(1, \(1, 8, 8\)\)"):
        plots.images(rows(5, 64))
    assert plots.images(rows(5, 1, 8, 8), columns=5).axes[0].images


@pytest.mark.parametrize("ground", [1.0, 0.08])
def test_inks_are_legible_on_light_and_on_dark(ground):
    """A contrast of at least 3 to 1 of words and lines, as the WCAG ask of graphics."""
    from matplotlib.colors import to_rgb

    from transportflows.plots.canvas import INK, PALETTE

    def luminance(colour):
        c = np.array(to_rgb(colour))
        linear = np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    behind = luminance((ground,) * 3)
    for colour in (INK, *PALETTE[:5]):
        high, low = sorted((luminance(colour), behind), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 3, colour
    figure = plots.samples(rows(5, 2))
    assert figure.get_facecolor()[3] == 0


def test_a_solution_of_several_epsilons_is_no_batch_of_them():
    """Its rows (K, n, 2) were drawn as K points, or as K images of n x 2 pixels."""
    solution = tpf.sample(ORACLE, 30, epsilon=[0.0, 0.5], steps=4, save_at=3, generator=gen())
    for draw in (plots.samples, plots.picture, plots.pairs, plots.images):
        with pytest.raises(ValueError, match=r"of 2 epsilons.*solution.x\[0\]"):
            draw(solution)
    for draw in (plots.strip, plots.trajectories, plots.animate):
        with pytest.raises(ValueError, match=r"of 2 epsilons.*solution.trajectory\[:, 0\]"):
            draw(solution)
    assert len(plots.samples({"0": solution.x[0], "1": solution.x[1]}).axes) == 2
    assert len(plots.strip(solution.trajectory[:, 0], solution.saved_at).axes) == 3


@pytest.mark.parametrize(("dtype", "most"), [("uint8", 255), ("bool", 1)])
def test_images_of_bytes_and_booleans_are_not_white(dtype, most):
    x = np.random.default_rng(0).integers(0, most, (4, 8, 8), endpoint=True).astype(dtype)
    for given in (x, torch.from_numpy(x)):
        (axes,) = plots.images(given).axes
        shown = np.asarray(axes.images[0].get_array())
        assert np.allclose(shown[1:9, 1:9], x[0].astype(float) / most)


def test_a_reference_is_of_the_events_that_are_drawn():
    path, other = rows(4, 20, 2), rows(10, 1)
    draws = (
        lambda: plots.strip(path, reference=other),
        lambda: plots.trajectories(path, reference=other),
        lambda: plots.animate(path, reference=other),
        lambda: plots.vector_field(ORACLE, reference=other),
    )
    for draw in draws:
        with pytest.raises(ValueError, match=r"reference must be data .* \(2,\)"):
            draw()
    with pytest.raises(ValueError, match="samples must be data"):
        plots.density(LAW, samples=other)
    (axes,) = plots.trajectories(path[..., :1], reference=other).axes
    assert np.allclose(offsets(axes)[0], np.column_stack([np.ones(10), other[:, 0]]))


def test_a_density_of_a_function_of_numpy():
    (axes, _) = plots.density(lambda x: -(x.numpy() ** 2).sum(1), size=5).axes
    assert float(np.asarray(axes.images[0].get_array())[2, 2]) == 1.0
    with pytest.raises(ValueError, match="steps: of the density of a field"):
        plots.density(LAW, steps=5)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: plots.images(rows(4, 8, 8), columns=0), ValueError, "columns must be a positive"),
        (lambda: plots.images(rows(4, 8, 8, 3)), ValueError, r"permute\(0, 3, 1, 2\)"),
        (lambda: plots.samples(rows(4)), ValueError, r"x\[:, None\]"),
        (lambda: plots.samples(rows(4, 0)), ValueError, r"samples \(n, \*\)"),
        (lambda: plots.strip(rows(200, 5, 2)), ValueError, "200 times, and at most 60"),
        (lambda: plots.vector_field(ORACLE, []), ValueError, "got none"),
        (lambda: plots.quality_by_calls({"a": {0: 1.0, 4: 0.5}}), ValueError, "calls are above 0"),
        (lambda: plots.quality_by_calls({4: 0.5}), TypeError, "a line is a mapping"),
        (lambda: plots.quality_by_calls([{"nfe": 4}]), ValueError, r"\['distance', 'scheme'\]"),
        (lambda: plots.epsilon_sweep({"a": 0.5}), TypeError, "ε is a number"),
        (lambda: plots.epsilon_sweep({float("nan"): 0.5}), ValueError, "ε is at least 0"),
        (lambda: plots.calibration([0.5, 2], 10), ValueError, "whole numbers"),
        (lambda: plots.heat_map([[1.0]], labels=("a", "b")), ValueError, "labels are three"),
    ],
)
def test_what_cannot_be_drawn_is_told(draw, error, message):
    with pytest.raises(error, match=message):
        draw()


def test_curves_of_tensors_with_a_graph_and_ranks_of_many_parameters():
    line = {4: torch.ones((), requires_grad=True), 8: torch.tensor(0.5)}
    (axes,) = plots.quality_by_calls({"a": line}).axes
    assert np.allclose(curves(axes)[0], [[4, 1.0], [8, 0.5]])
    assert len(plots.calibration(np.zeros((5, 120)), 10).axes[0].lines) == 121
