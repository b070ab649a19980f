"""The exact flow map and what is measured against it: identities in float64."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn

import transportflows as tpf
from transportflows import maps, plots
from transportflows.distributions import GaussianMixture, Point
from transportflows.solve import TooManyEvaluationsError

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=gen(seed), dtype=F64)


MODES = torch.tensor([[-1.5, 0.0], [1.5, 0.5]], dtype=F64)
LAW = GaussianMixture(MODES, scale=0.9)
BASE = tpf.Gaussian((2,))
WHERE = rows(12, 2)


def exact(path=None, law=LAW, **how):
    path = path or tpf.Linear()
    one_sided = not path.uses_base
    process = tpf.Process(path, shape=(2,)) if one_sided else tpf.Process(path, base=BASE)
    return maps.oracle_map(process, law, **how)


PATHS = [
    tpf.Linear(),
    tpf.Linear(tpf.Brownian(1.0)),
    tpf.Trigonometric(),
    tpf.EncoderDecoder(),
    tpf.SBDM(),
    tpf.VP(),
]


# ------------------------------------------------------------------------------------ identities


START = torch.tensor([0.0, 1.0, 0.2, 0.9, 0.0, 0.7, 1.0, 0.5, 0.1, 0.6, 0.3, 0.8], dtype=F64)
STOP = torch.tensor([1.0, 0.0, 0.7, 0.4, 0.5, 0.9, 0.5, 0.2, 0.8, 0.3, 0.4, 0.1], dtype=F64)
"""Times of the rows: forward and backward, from ends, across the middle and not."""


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_semigroup_inverse_and_identity(path):
    solved = exact(path)
    between = torch.lerp(START, STOP, torch.linspace(0.1, 0.9, 12, dtype=F64))
    end = solved.jump(START, STOP, WHERE)
    parts = solved.jump(between, STOP, solved.jump(START, between, WHERE))
    assert (parts - end).abs().max() < 1e-9
    assert (solved.jump(STOP, START, end) - WHERE).abs().max() < 1e-9
    b = solved.field.velocity(START, WHERE)
    assert (solved.average(START, START, WHERE) - b).abs().max() < 1e-10
    assert torch.equal(solved.jump(START, START, WHERE), WHERE)
    assert torch.equal(solved.velocity(START, WHERE), b)


@pytest.mark.parametrize("path", [PATHS[4]], ids=lambda p: type(p).__name__)
def test_the_equations_of_a_flow_map(path):
    """By central differences, whose own error is of the third power of the step."""
    solved, h = exact(path), 1e-4
    s, t = START.clamp(0.05, 0.95), STOP.clamp(0.05, 0.95)
    b = solved.field.velocity(s, WHERE)
    starts = torch.cat([s, s, s + h, s - h, s, s + h, s - h])
    stops = torch.cat([t + h, t - h, t, t, t, t, t])
    states = torch.cat([WHERE] * 5 + [WHERE + h * b, WHERE - h * b])
    v = solved.average(starts, stops, states).view(7, 12, 2)
    ends = states.view(7, 12, 2) + (stops - starts).view(7, 12, 1) * v
    change = (ends[0] - ends[1]) / (2 * h)  # Lagrangian
    assert (change - solved.field.velocity(t, ends[4])).abs().max() < 1e-5
    change = (ends[2] - ends[3]) / (2 * h)  # Eulerian
    carried = torch.einsum("bij,bj->bi", solved.jacobian(s, t, WHERE), b)
    assert (change + carried).abs().max() < 1e-5
    change = (v[5] - v[6]) / (2 * h)  # MeanFlow: the derivative in the start, along b
    assert (v[4] - b - (t - s)[:, None] * change).abs().max() < 1e-5


@pytest.mark.parametrize("path", PATHS[1:2], ids=lambda p: type(p).__name__)
def test_jacobian_by_differences_and_its_determinant(path):
    solved, h = exact(path, rtol=1e-8, atol=1e-8), 1e-5
    found = solved.jacobian(START, STOP, WHERE)
    steps = h * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=F64)
    near = (WHERE + steps[:, None]).flatten(0, 1)
    ends = solved.jump(START.repeat(4), STOP.repeat(4), near).view(2, 2, 12, 2)
    differences = ((ends[:, 0] - ends[:, 1]) / (2 * h)).permute(1, 2, 0)
    assert (found - differences).abs().max() < 1e-5 * found.abs().max()
    sign, log_det = torch.linalg.slogdet(found)
    assert bool((sign > 0).all())
    assert (solved.log_det(START, STOP, WHERE) - log_det).abs().max() < 1e-6


def test_a_gaussian_is_moved_by_an_affine_map():
    """From N(0, 1) to N(m, s²): m + s x, whatever the path; and back."""
    for path in (tpf.Linear(), tpf.Trigonometric()):
        solved = exact(path, law=tpf.Gaussian((2,), 1.5, 0.3))
        s, t = torch.tensor([0.0, 1.0], dtype=F64).repeat_interleave(12).view(2, 12)
        ends = solved.jump(torch.cat([s, t]), torch.cat([t, s]), WHERE.repeat(2, 1))
        known = torch.cat([1.5 + 0.3 * WHERE, (WHERE - 1.5) / 0.3])
        assert (ends - known).abs().max() < 1e-8
    solved = exact(law=tpf.Gaussian((2,), 1.5, 0.3))
    assert (solved.log_det(0.0, 1.0, WHERE) - 2 * math.log(0.3)).abs().max() < 1e-9
    assert (solved.jacobian(1.0, 0.0, WHERE) - torch.eye(2, dtype=F64) / 0.3).abs().max() < 1e-8


def test_rows_have_times_of_their_own():
    """Forward, backward and at rest, across a breakpoint, and in chunks."""
    solved, chunked = exact(PATHS[3]), exact(PATHS[3])
    chunked.chunk = 7
    s, t = START.clone(), STOP.clone()
    s[5] = t[5] = 0.5
    together = solved.jump(s, t, WHERE)
    for k in (0, 4, 5):
        alone = solved.jump(float(s[k]), float(t[k]), WHERE[k : k + 1])
        assert (together[k : k + 1] - alone).abs().max() < 1e-9
    assert (chunked.jump(s, t, WHERE) - together).abs().max() < 1e-9


def test_any_event_shape_and_dtype():
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1, 2, 2)))
    law = tpf.Gaussian((1, 2, 2), 0.5, 0.25)
    solved = maps.oracle_map(process, law)
    x = rows(3, 1, 2, 2)
    assert (solved.jump(0.0, 1.0, x) - (0.5 + 0.25 * x)).abs().max() < 1e-9
    assert solved.jacobian(0.0, 1.0, x).shape == (3, 4, 4)
    narrow = solved.jump(0.0, 1.0, x.float())
    assert narrow.dtype == torch.float32
    assert (narrow - (0.5 + 0.25 * x)).abs().max() < 1e-6
    assert solved.jump(0.0, 1.0, x[:0]).shape == (0, 1, 2, 2)
    assert solved.jacobian(0.0, 1.0, x[:0]).shape == (0, 4, 4)
    assert solved.log_det(0.0, 1.0, x[:0]).shape == (0,)


def test_a_full_covariance_whose_spread_is_factorised_at_each_time():
    cov = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=F64)
    law = GaussianMixture(MODES[:2], covariances=torch.stack([cov, cov.flip(0, 1)]))
    process = tpf.Process(tpf.Linear(tpf.Brownian(1.0)), base=tpf.Gaussian((2,), 0.0, 1.0))
    solved = maps.oracle_map(process, law)
    end = solved.jump(0.0, 1.0, WHERE)
    density = BASE.log_prob(WHERE) - solved.log_det(0.0, 1.0, WHERE)
    assert (density - law.log_prob(end)).abs().max() < 1e-7


# -------------------------------------------------------------------- wherever a FlowMap is


def test_it_is_a_flow_map_and_the_field_that_it_is_of():
    solved = exact(tpf.Linear(tpf.Brownian(1.0)))
    assert isinstance(solved, maps.FlowMap)
    assert not solved.trainable
    t = torch.full((12,), 0.4, dtype=F64)
    for name in ("velocity", "mean_velocity", "score", "noise", "data"):
        of_field = getattr(solved.field, name)(t, WHERE)
        assert torch.equal(getattr(solved, name)(t, WHERE), of_field)
        assert torch.equal(solved.quantity(name, t, WHERE), of_field)
    found = tpf.sample(solved, 4_000, dtype=F64, generator=gen())
    assert found.nfe == 1
    assert (found.x.mean(0) - MODES.mean(0)).norm() < 0.2
    start = rows(40, 2, seed=3)
    one = tpf.sample(solved, start=start).x
    assert (tpf.sample(solved, start=start, steps=4).x - one).abs().max() < 1e-9
    ode = tpf.sample(solved, start=start, scheme="dopri5", rtol=1e-9, atol=1e-9).x
    assert (ode - one).abs().max() < 1e-7
    assert tpf.sample(solved, 5, epsilon=0.5, steps=4).x.isfinite().all()
    back = tpf.sample(solved, start=one, t=(1.0, 0.0)).x
    assert (back - start).abs().max() < 1e-9


def test_it_teaches_a_map():
    """The semigroup loss of a map against the exact one is 0 for the exact one itself."""
    solved = exact()
    student = exact()
    student.field = copy.deepcopy(solved.field)
    data = LAW.sample(64, generator=gen(), dtype=F64)
    loss = maps.SemigroupLoss(solved)
    sample = loss.draw(student, data, generator=gen(1))
    assert float(loss.evaluate(student, sample).max()) < 1e-16


def test_gradients_in_x_go_through_the_steps():
    solved = exact(rtol=1e-8, atol=1e-8)
    x = WHERE.clone().requires_grad_()
    solved.jump(0.0, 1.0, x)[:, 0].sum().backward()
    assert (x.grad - solved.jacobian(0.0, 1.0, WHERE)[:, 0]).abs().max() < 1e-6
    assert not solved.jump(0.0, 1.0, WHERE).requires_grad
    with torch.inference_mode():
        assert (solved.jump(0.0, 1.0, WHERE) - solved.jump(0.0, 1.0, x.detach())).abs().max() == 0
    with pytest.raises(RuntimeError, match=r"exact\.jacobian\(s, t, x\)"):
        torch.func.jvp(lambda y: solved.jump(0.0, 1.0, y), (WHERE,), (WHERE,))


class Affine(nn.Module):
    """b = A x + a label: its map is the exponential of A."""

    def __init__(self):
        super().__init__()
        self.register_buffer("a", torch.tensor([[0.2, -0.9], [0.7, -0.4]], dtype=F64))
        self.unused = nn.Parameter(torch.ones(()))

    def forward(self, t, x, push=None):
        return x @ self.a.T + (0 if push is None else push[:, None])


def test_the_map_of_a_learned_field_and_its_conditions():
    field = tpf.Velocity(Affine(), tpf.Process(tpf.Linear(), base=BASE))
    solved = maps.SolvedMap(field)
    assert solved.options.rtol == 1e-6  # it says that it computes in float32
    solved = maps.SolvedMap(field.double())
    assert solved.options.rtol == 1e-10
    for s, t in ((0.0, 1.0), (0.8, 0.3)):
        power = torch.linalg.matrix_exp((t - s) * field.net.a)
        assert (solved.jump(s, t, WHERE) - WHERE @ power.T).abs().max() < 1e-9
        assert (solved.jacobian(s, t, WHERE) - power).abs().max() < 1e-9
    push = rows(12, seed=4)
    power = torch.linalg.matrix_exp(field.net.a)
    shift = torch.linalg.solve(field.net.a, power - torch.eye(2, dtype=F64))
    found = solved.jump(0.0, 1.0, WHERE, {"push": push}) - solved.jump(0.0, 1.0, WHERE)
    assert (found - push[:, None] * shift.sum(1)).abs().max() < 1e-9
    solved.chunk = 5
    again = solved.jump(0.0, 1.0, WHERE, {"push": push}) - solved.jump(0.0, 1.0, WHERE)
    assert (again - found).abs().max() < 1e-9
    trace = (STOP - START) * torch.trace(field.net.a)
    assert (solved.log_det(START, STOP, WHERE) - trace).abs().max() < 1e-9


def test_units_of_the_data():
    """A field with a transform: jumps are in the units of the process, samples in the data's."""
    transform = tpf.Standardize(torch.tensor([10.0, -5.0]), torch.tensor([2.0, 3.0]))
    field = tpf.Velocity(Affine(), tpf.Process(tpf.Linear(), base=BASE), transform=transform)
    solved = maps.SolvedMap(field.double())
    start = rows(5, 2)
    end = tpf.sample(solved, start=transform.invert(start)).x
    assert (end - transform.invert(solved.jump(0.0, 1.0, start))).abs().max() < 1e-9


def test_ends_at_which_a_velocity_is_infinite_are_kept_off():
    process = tpf.Process(tpf.Linear(), base=BASE)

    def net(t, x):
        return 0.5 * x

    assert maps.SolvedMap(tpf.Velocity(net, process)).margin == (0.0, 0.0)
    noise = maps.SolvedMap(tpf.NoisePredictor(net, process), rtol=1e-6, atol=1e-6)
    assert noise.margin == (1e-4, 0.0)
    starts = torch.tensor([0.0, 1e-4], dtype=F64)
    ends = noise.jump(starts, torch.full((2,), 0.5, dtype=F64), WHERE[:1].expand(2, 2))
    assert torch.equal(ends[0], ends[1])
    assert maps.SolvedMap(tpf.DataPredictor(net, process)).margin == (0.0, 1e-4)
    for path in PATHS:
        assert exact(path).margin == (0.0, 0.0)
    rows_of_data = exact(law=rows(6, 2), margin=(0.0, 0.05), rtol=1e-5, atol=1e-5)
    assert rows_of_data.log_det(0.0, 1.0, WHERE[:4]).isfinite().all()


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: maps.SolvedMap(tpf.Linear()), TypeError, "the ODE of a Field, got a Linear"),
        (lambda: exact(rtol=0.0), ValueError, "rtol must be finite and above 0"),
        (lambda: exact(scheme="rk4"), ValueError, "unknown scheme 'rk4'"),
        (lambda: exact(margin=0.7), ValueError, "sum to less than 1"),
        (lambda: exact().jump(0.0, 1.5, WHERE), ValueError, r"times are in \[0, 1\], got 1.5"),
        (lambda: exact().jump(0.0, 1.0, rows(3, 5)), ValueError, "events of the process"),
        (lambda: exact().jump(0.0, 1.0, WHERE, {"label": WHERE}), ValueError, "no conditions"),
        (lambda: exact().jacobian(torch.zeros(3), 1.0, WHERE), ValueError, "for 12 rows"),
        (lambda: exact().save("never"), ValueError, "SolvedMap cannot be saved"),
        (lambda: tpf.Trainer(exact(), maps.SemigroupLoss()), TypeError, "nothing of its own"),
        (lambda: maps.SolvedMap(learned(to_data=True)), ValueError, r"to_data=True"),
        (lambda: from_point(), ValueError, "base is one point"),
    ],
)
def test_refused_with_the_cure(call, error, message):
    with pytest.raises(error, match=message):
        call()


def from_point():
    process = tpf.Process(tpf.Linear(tpf.Brownian(1.0)), base=Point((2,)))
    return maps.oracle_map(process, LAW)


def test_a_tolerance_that_cannot_be_met_says_why():
    def rough(t, x):
        return torch.sin(1e4 * x)

    solved = maps.SolvedMap(tpf.Velocity(rough, tpf.Process(tpf.Linear(), base=BASE)), max_nfe=50)
    with pytest.raises(TooManyEvaluationsError, match="max_nfe = 50") as told:
        solved.jump(0.0, 1.0, WHERE)
    assert told.value.solution.x.shape == WHERE.shape


# ---------------------------------------------------------------------------------------- checks


class Between(nn.Module):
    """A network of two times, small and smooth."""

    def __init__(self, seed=0, d=2):
        super().__init__()
        self.first = nn.Linear(d + 2, 16, dtype=F64)
        self.last = nn.Linear(16, d, dtype=F64)
        for k, p in enumerate(self.parameters()):
            p.data = 0.5 * torch.randn(p.shape, generator=gen(seed + k), dtype=F64)

    def forward(self, s, t, x):
        return self.last(torch.tanh(self.first(torch.cat([s[:, None], t[:, None], x], 1))))


def learned(**how):
    return maps.FlowMap(Between(), tpf.Process(tpf.Linear(), base=BASE), **how)


def test_the_report_of_the_exact_map():
    solved = exact()
    data = LAW.sample(100, generator=gen(), dtype=F64)
    other = exact(rtol=1e-8, atol=1e-8)
    report = maps.check_map(solved, data, field=other.field, reference=other, generator=gen(1))
    assert report.identity == 0
    assert max(report.semigroup, report.semigroup_back, report.inverse) < 1e-9
    assert report.tangent < 1e-12
    assert 0.7 < report.spread < 1.3
    assert report.folds == 0
    assert max(report.error, report.median_error) < 1e-7
    assert report.scale == pytest.approx(float((data - data.mean(0)).square().mean().sqrt()))
    lines = str(report).splitlines()
    assert len(lines) == 9
    assert "should" not in str(report)
    assert lines[5].split()[0] == "spread"


def test_a_report_is_of_the_sizes_of_what_is_wrong():
    """Each figure of a map X = x + (t - s)(b + c): known, since b = 0 of equal laws is."""

    class Off(nn.Module):
        def forward(self, s, t, x):
            return 0.1 * torch.ones_like(x) * (1 + t[:, None])

    process = tpf.Process(tpf.Trigonometric(), base=BASE)
    law = tpf.Gaussian((2,))
    flow_map, oracle = maps.FlowMap(Off(), process), tpf.oracle(process, law)
    data = law.sample(500, generator=gen(), dtype=F64)
    report = maps.check_map(
        flow_map, data, field=oracle, reference=maps.SolvedMap(oracle), generator=gen(1)
    )
    assert report.error * report.scale == pytest.approx(0.2)
    assert report.median_error * report.scale == pytest.approx(0.2)
    # (u - s)(1 + u) + (t - u)(1 + t) - (t - s)(1 + t) = (u - s)(u - t); E of its square 1/180
    assert report.semigroup * report.scale == pytest.approx(0.1 / 180**0.5, rel=0.15)
    assert report.semigroup_back * report.scale == pytest.approx(0.1 / 180**0.5, rel=0.15)
    assert report.tangent * report.scale == pytest.approx(0.1 * (7 / 3) ** 0.5, rel=0.05)
    assert report.inverse == pytest.approx(0.1, rel=0.1)  # 0.2 forth and 0.1 back, over about 1


def test_a_fold_is_counted():
    class Fold(nn.Module):
        """X_{0,1} = (|x_1|, x_2), smoothly: folded where x_1 < 0."""

        def forward(self, s, t, x):
            return torch.stack([x[:, 0].square().add(1e-6).sqrt() - x[:, 0], 0 * x[:, 1]], 1)

    flow_map = maps.FlowMap(Fold(), tpf.Process(tpf.Linear(), base=BASE))
    report = maps.check_map(flow_map, rows(400, 2), generator=gen())
    assert abs(report.folds - 0.5) < 0.08


def test_a_map_that_has_collapsed_is_told():
    class Constant(nn.Module):
        """X_{s,t} = (1 - (t - s)) x: all of the base goes to 0."""

        def forward(self, s, t, x):
            return -x

    process = tpf.Process(tpf.Linear(), base=BASE)
    with pytest.warns(maps.CollapsedMapWarning, match="diagonal=0.75") as told:
        report = maps.check_map(maps.FlowMap(Constant(), process), rows(100, 2), generator=gen())
    assert report.spread < 1e-20
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # untrained, of wide data, but not collapsed
        maps.check_map(maps.FlowMap(lambda s, t, x: 0 * x, process), 9 * rows(100, 2))


def test_a_map_to_the_data_has_only_what_it_has():
    flow_map, solved = learned(to_data=True), exact()
    report = maps.check_map(
        flow_map, LAW, field=solved.field, reference=solved, n=100, generator=gen()
    )
    assert report.tangent is report.inverse is report.semigroup_back is None
    assert report.semigroup > 0.01
    assert report.error > 0.01
    assert "a map to t = 1 only has none" in str(report)
    assert maps.check_map(flow_map, LAW, n=50).semigroup is None
    errors = maps.map_errors(flow_map, solved, LAW, times=3, n=50, generator=gen())
    assert errors.rms[:, :2].isnan().all()
    assert errors.rms[:, 2].isfinite().all()


def test_errors_by_times():
    """Against itself 0; of an error that is known the known one, at each (s, t), both ways."""
    solved = exact()
    data = LAW.sample(300, generator=gen(), dtype=F64)
    near = exact(rtol=1e-7, atol=1e-7)
    errors = maps.map_errors(near, solved, data, times=3, generator=gen())
    assert float(errors.rms.max()) < 1e-5
    process = tpf.Process(tpf.Trigonometric(), base=BASE)
    still = maps.oracle_map(process, tpf.Gaussian((2,)))
    flow_map = maps.FlowMap(lambda s, t, x: 0.3 + 0 * x, process)
    for from_base in (False, True):
        grid = [0.0, 0.25, 1.0]
        found = maps.map_errors(
            flow_map, still, rows(200, 2), times=grid, from_base=from_base, generator=gen()
        )
        t = torch.tensor(grid, dtype=F64)
        known = 0.3 * (t - t[:, None]).abs() / found.scale
        assert (found.rms - known).abs().max() < 1e-9
        assert (found.median - known).abs().max() < 1e-9
    table = str(found).splitlines()
    assert len(table) == 4
    assert table[1].split()[0] == "0"


def test_a_learned_reference_is_not_composed():
    """X_{0,1} = 2 x is one jump of it, not what two jumps of 1.5 x make."""
    process = tpf.Process(tpf.Linear(), base=BASE)
    still, other = (maps.FlowMap(lambda s, t, x, k=k: k * x, process) for k in (0, 1))
    found = maps.map_errors(still, other, rows(50, 2), times=3, generator=gen())
    assert found.rms[0, 2] == pytest.approx(2 * float(found.rms[0, 1]))
    assert found.rms[2, 0] == pytest.approx(2 * float(found.rms[2, 1]))


def test_the_heat_map_shows_the_errors():
    errors = maps.map_errors(learned(), exact(), LAW, times=4, n=50, generator=gen())
    figure = plots.heat_map(errors, title="a map")
    axes = figure.axes[0]
    drawn = torch.as_tensor(axes.images[0].get_array().filled(math.nan))
    off = ~torch.eye(4, dtype=torch.bool)
    assert torch.equal(drawn[off], errors.rms[off])
    assert drawn.diagonal().isnan().all()
    assert axes.get_xlabel().startswith("t")
    assert axes.get_ylabel().startswith("s")
    assert axes.get_title() == "a map"
    assert len(axes.texts) == 12
    plots.heat_map(errors, which="median").savefig("/dev/null", format="png")
    with pytest.raises(ValueError, match="unknown which"):
        plots.heat_map(errors, which="mean")


OTHER = tpf.Process(tpf.Trigonometric(), base=BASE)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: maps.check_map(learned(), rows(9, 3)), ValueError, "events of the process"),
        (lambda: maps.check_map(learned(), torch.zeros(9, 2)), ValueError, "all the same"),
        (
            lambda: maps.check_map(learned(), LAW, field=tpf.oracle(OTHER, LAW)),
            ValueError,
            "another process",
        ),
        (
            lambda: maps.check_map(learned(), LAW, reference=tpf.oracle(OTHER, LAW)),
            TypeError,
            "reference must be a FlowMap",
        ),
        (lambda: maps.check_map(learned(), LAW, field=1), TypeError, "field must be a Field"),
        (lambda: maps.map_errors(learned(), exact(), LAW, times=1), ValueError, "at least 2"),
        (
            lambda: maps.map_errors(learned(), exact(), LAW, times=[1.0, 0.0]),
            ValueError,
            "increasing",
        ),
        (
            lambda: maps.map_errors(learned(), learned(to_data=True), LAW),
            ValueError,
            "SolvedMap",
        ),
        (
            lambda: maps.map_errors(learned(), exact(tpf.Trigonometric()), LAW),
            ValueError,
            "another process",
        ),
        (lambda: maps.check_map(broken(), LAW, n=9), ValueError, "what the map gives"),
    ],
)
def test_checks_refuse_with_the_cure(call, error, message):
    with pytest.raises(error, match=message):
        call()


def broken():
    return maps.FlowMap(lambda s, t, x: x * math.nan, tpf.Process(tpf.Linear(), base=BASE))


def test_a_map_is_no_reference_of_itself():
    one = learned()
    with pytest.raises(ValueError, match="itself"):
        maps.check_map(one, LAW, reference=one)
