"""Snapshots in time: paths through points, trajectories of plans, and fields with K marginals."""

import math

import pytest
import torch
from scipy.interpolate import CubicSpline
from torch import nn

import transportflows as tpf
from transportflows.bridges import (
    Multimarginal,
    PiecewiseGamma,
    SnapshotPath,
    Trajectories,
    leave_one_out,
)
from transportflows.interpolants import SineSquared

F64 = torch.float64
TIMES = [2.0, 2.5, 4.0, 5.0]


def seeded(k=0):
    return torch.Generator().manual_seed(k)


class Net(nn.Module):
    def __init__(self, heads=1, seed=0):
        super().__init__()
        self.heads = heads
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner = nn.Sequential(
                nn.Linear(3, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 2 * heads)
            )

    def forward(self, t, x):
        made = self.inner(torch.cat([x, t[:, None]], 1))
        return made if self.heads == 1 else made.view(-1, 2, 2)


# ------------------------------------------------------------------------------------- the path


@pytest.mark.parametrize("shape", [(2,), (3, 2)])
def test_the_spline_is_scipys_natural_one(shape):
    path, points = SnapshotPath(TIMES), torch.randn(5, 4, *shape, generator=seeded(), dtype=F64)
    unit = [(s - 2) / 3 for s in TIMES]
    spline = CubicSpline(unit, points.numpy(), axis=1, bc_type="natural")
    for time in (0.0, 0.1, 1 / 6, 0.4, 2 / 3, 0.9, 1.0):
        t = torch.full((5,), time, dtype=F64)
        asked, slope = (torch.as_tensor(spline(time, k)) for k in (0, 1))
        torch.testing.assert_close(path.mean(t, None, points), asked, rtol=0, atol=1e-12)
        torch.testing.assert_close(path.mean_dot(t, None, points), slope, rtol=0, atol=1e-11)
        wide = t.view(-1, *(1,) * len(shape))
        assert torch.equal(path.mean(wide, None, points), path.mean(t, None, points))


@pytest.mark.parametrize("smooth", [False, True])
def test_the_path_meets_its_points_and_its_derivative_is_right(smooth):
    path = SnapshotPath(TIMES, smooth=smooth, gamma=SineSquared(0.7))
    points = torch.randn(6, 4, 2, generator=seeded(), dtype=F64)
    for k, time in enumerate(TIMES):
        t = torch.full((6,), (time - 2) / 3, dtype=F64)
        torch.testing.assert_close(path.mean(t, None, points), points[:, k], rtol=0, atol=1e-12)
        assert float(path.gamma(t).abs().max()) < 1e-12
    t = torch.tensor([0.05, 0.2, 0.3, 0.7, 0.8, 0.99], dtype=F64)
    h = 1e-6
    difference = (path.mean(t + h, None, points) - path.mean(t - h, None, points)) / (2 * h)
    torch.testing.assert_close(path.mean_dot(t, None, points), difference, rtol=0, atol=1e-7)
    slope = (path.gamma_sq(t + h) - path.gamma_sq(t - h)) / (2 * h)
    torch.testing.assert_close(path.gamma_sq_dot(t), slope, rtol=0, atol=1e-7)
    torch.testing.assert_close(
        path.gamma_dot(t), 0.5 * path.gamma_sq_dot(t) / path.gamma(t), rtol=1e-9, atol=1e-9
    )
    if not smooth:
        middle = path.mean(torch.full((6,), 1 / 12, dtype=F64), None, points)
        torch.testing.assert_close(middle, 0.5 * (points[:, 0] + points[:, 1]))
    assert path.breakpoints == pytest.approx((1 / 6, 2 / 3))
    assert max(path.end_errors(points, points).values()) < 1e-12


def test_two_snapshots_are_a_line():
    points = torch.randn(3, 2, 2, generator=seeded(), dtype=F64)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    for smooth in (False, True):
        path = SnapshotPath([0, 7], smooth=smooth)
        line = torch.lerp(points[:, 0], points[:, 1], t[:, None])
        torch.testing.assert_close(path.mean(t, None, points), line)


# ---------------------------------------------------------------------------------- trajectories


@pytest.mark.parametrize("regularisation", [None, 0.5])
def test_each_state_of_a_trajectory_has_the_law_of_its_snapshot(regularisation):
    """Sizes differ, so that plans split points: how often each row is drawn, to 5 sigma."""
    rows = [torch.randn(n, 2, generator=seeded(n)) for n in (6, 9, 4)]
    law = Trajectories(rows, regularisation=regularisation)
    n = 40_000
    drawn = law.sample(n, generator=seeded())
    assert drawn.shape == (n, 3, 2)
    for k, points in enumerate(rows):
        same = (drawn[:, k, None] == points).all(-1)
        assert bool(same.any(1).all())
        share, p = same.float().mean(0), 1 / len(points)
        spread = math.sqrt(p * (1 - p) / n) + (0 if regularisation is None else 1e-3)
        assert float((share - p).abs().max()) < 5 * spread


def test_neighbours_are_joined_by_the_plans():
    x, y = torch.randn(30, 2, generator=seeded(1)), torch.randn(30, 2, generator=seeded(2))
    pairs = Trajectories([x, y]).sample(20_000, generator=seeded())
    cost = (pairs[:, 0] - pairs[:, 1]).square().sum(1).mean().sqrt()
    assert float(cost) == pytest.approx(tpf.metrics.wasserstein2(x, y), rel=0.03)
    wider = Trajectories([x, y], regularisation=3.0).sample(20_000, generator=seeded())
    assert float((wider[:, 0] - wider[:, 1]).square().sum(1).mean().sqrt()) > 1.1 * float(cost)


def test_plans_of_snapshots_are_those_of_the_couplings():
    """One mechanism: regularisation, weights, certificates and refusals of TransportPlan."""
    sizes = (7, 5, 6)
    rows = [torch.randn(n, 2, generator=seeded(n), dtype=F64) for n in sizes]
    weights = [torch.rand(n, generator=seeded(10 + n), dtype=F64) + 0.1 for n in sizes]
    weights = [w / w.sum() for w in weights]
    law = Trajectories(rows, regularisation=0.8, weights=[*weights[:2], None])
    assert all(type(plan) is tpf.couplings.TransportPlan for plan in law.plans)
    for plan, w in zip(law.plans, weights[:2], strict=True):
        report = plan.report
        assert (report.kind, report.regularisation) == ("entropic", 0.8)
        assert report.violation <= 1e-3
        assert report.gap >= 0
        torch.testing.assert_close(report.x0_mass, w)
    assert Trajectories(rows).plans[0].report.kind == "exact"
    assert Trajectories(rows, regularisation=0).plans[0].report.kind == "exact"
    n = 40_000
    drawn = law.sample(n, generator=seeded())
    at = [(drawn[:, k, None] == points).all(-1).int().argmax(1) for k, points in enumerate(rows)]
    shares = [
        torch.bincount(where, minlength=len(x)) / n for where, x in zip(at, rows, strict=True)
    ]
    for share, w in zip(shares, [*weights[:2], torch.full((6,), 1 / 6, dtype=F64)], strict=True):
        assert float((share - w).abs().max()) < 5 * math.sqrt(0.25 / n) + 1e-3
    # A chain: the first and the last are independent given the one between.
    for middle in range(sizes[1]):
        here = at[1] == middle
        joint = torch.zeros(sizes[0], sizes[2]).index_put_(
            (at[0][here], at[2][here]), torch.ones(()), accumulate=True
        ) / int(here.sum())
        apart = joint - joint.sum(1, keepdim=True) * joint.sum(0)
        assert float(apart.abs().max()) < 5 * math.sqrt(0.25 / int(here.sum()))


def test_a_plan_of_snapshots_that_cannot_be_had_is_told_with_its_place():
    rows = [torch.randn(n, 2, generator=seeded(n)) for n in (6, 9, 4)]
    with pytest.raises(ValueError, match=r"snapshots 0 and 1.*regularisation=1e-20 is too small"):
        Trajectories(rows, regularisation=1e-20)
    with pytest.raises(RuntimeError, match=r"snapshots 0 and 1.*did not converge"):
        Trajectories(rows, regularisation=1e-6, max_steps=1)
    with pytest.raises(ValueError, match=r"weights\[1\].*sum to 1"):
        Trajectories(rows, weights=[None, torch.ones(9), None])
    with pytest.raises(ValueError, match="3 snapshots and 2 weights"):
        Trajectories(rows, weights=[None, None])


def test_snapshots_of_any_kind(tmp_path):
    for shape, dtype in (((), torch.float32), ((1, 3, 3), F64), ((2,), torch.float16)):
        rows = [torch.randn(n, *(shape or (1,)), generator=seeded(n)).to(dtype) for n in (5, 8, 6)]
        rows[1][3] = rows[1][2]  # twice the same
        drawn = Trajectories(rows).sample(50, generator=seeded(), dtype=F64)
        assert drawn.shape == (50, 3, *rows[0].shape[1:])
        same = (drawn[:, 1, None].flatten(2) == rows[1].to(F64).flatten(1)).all(-1)
        assert bool(same.any(1).all())


# --------------------------------------------------------------------------------- the process


def curve(time):
    return torch.tensor([time, math.sin(time)])


def moving(counts=(700, 400, 500, 600, 450)):
    times = [0.0, 0.8, 1.6, 2.4, 3.2]
    rows = [
        curve(time) + 0.3 * torch.randn(n, 2, generator=seeded(n))
        for n, time in zip(counts, times, strict=True)
    ]
    return rows, times


def test_the_times_of_a_sample_fit_its_rows():
    process, points = Multimarginal([0.0, 1.0, 2.0]), torch.zeros(4, 3, 2)
    for t in (torch.full((3,), 0.5), torch.full((4, 1), 0.5)):
        with pytest.raises(ValueError, match=r"it must be \(\) or \(4,\)"):
            process.sample(points, t=t)
    assert Multimarginal.sample is tpf.Process.sample  # one draw of x_t, whatever the path takes


def test_a_field_has_the_marginals_of_the_snapshots_and_follows_the_curve():
    rows, times = moving()
    process = Multimarginal(times)
    field = tpf.Velocity(Net(), process)
    law = Trajectories(rows)
    tpf.Trainer(field, lr=5e-3, scheduler="cosine").fit(
        law, steps=1000, batch_size=256, progress=False, generator=seeded(1)
    )
    for first in (0, 2):
        for k in range(5):
            if k == first:
                continue
            span = process.at(times[first]), process.at(times[k])
            x = tpf.sample(field, start=rows[first], t=span, steps=40).x
            torch.testing.assert_close(x.mean(0), curve(times[k]), rtol=0, atol=0.1)
            torch.testing.assert_close(x.std(0), torch.full((2,), 0.3), rtol=0, atol=0.08)
            fresh = curve(times[k]) + 0.3 * torch.randn(len(x), 2, generator=seeded(99))
            floor = tpf.metrics.wasserstein2(fresh[: len(rows[k])], rows[k])
            assert tpf.metrics.wasserstein2(x, rows[k]) < 3 * floor
    middle = tpf.sample(field, start=rows[0], t=(0.0, process.at(1.2)), steps=20).x
    straight = 0.5 * (curve(0.8) + curve(1.6))
    asked = curve(1.2)
    assert (middle.mean(0) - asked).norm() < (straight - asked).norm()


def test_a_latent_gives_a_score_between_snapshots():
    """Against the closed form of one trajectory with noise: x_t is N(x(t), γ²)."""
    times = [0.0, 1.0, 3.0]
    process = Multimarginal(times, gamma=SineSquared(0.5))
    points = torch.tensor([[[0.0, 0.0], [1.0, -1.0], [2.0, 1.0]]]).expand(4000, -1, -1)
    sample = process.sample(points, t=0.5, generator=seeded())
    t = torch.full((4000,), 0.5)
    gamma = process.interpolant.gamma(t[:1])
    centred = sample.x - process.interpolant.mean(t, None, points)
    torch.testing.assert_close(centred.std(0), gamma.expand(2), rtol=0.05, atol=0)
    torch.testing.assert_close(centred / gamma, sample.z, rtol=0, atol=1e-5)
    assert sample.velocity.shape == (4000, 2)

    def velocity(t, x):
        own, like = t[:1], points[:1]
        path = process.interpolant
        rate = 0.5 * path.gamma_sq_dot(own) / path.gamma_sq(own).clamp(min=1e-12)
        return path.mean_dot(own, None, like) + rate * (x - path.mean(own, None, like))

    def noise(t, x):
        own, path = t[:1], process.interpolant
        return (x - path.mean(own, None, points[:1])) / path.gamma(own).clamp(min=1e-6)

    field = tpf.FieldPair(velocity=velocity, noise=noise, process=process)
    start = process.sample(points, t=0.45, generator=seeded(1)).x
    for epsilon in (0.0, 0.05):
        x = tpf.sample(field, start=start, t=(0.45, 0.8), epsilon=epsilon, steps=100,
                       generator=seeded(2)).x  # fmt: skip
        late = torch.tensor([0.8])
        path = process.interpolant
        torch.testing.assert_close(
            x.mean(0), path.mean(late, None, points[:1])[0], rtol=0, atol=0.03
        )
        torch.testing.assert_close(x.std(0), path.gamma(late).expand(2), rtol=0.08, atol=0)
    mirrored = process.sample(points[:5], antithetic=True, generator=seeded())
    assert torch.equal(mirrored.z[:5], -mirrored.z[5:])


def test_a_pair_of_velocity_and_noise_is_trained_and_saved(tmp_path):
    rows, times = moving((40, 30, 50, 20, 30))
    process = Multimarginal(times, smooth=False, gamma=SineSquared(0.2))
    field = tpf.FieldPair(heads=Net(heads=2), process=process)
    transform = tpf.Standardize.fit(torch.cat(rows))
    plain = tpf.Velocity(Net(), Multimarginal(times), transform=transform)
    for one in (field, plain):
        tpf.Trainer(one).fit(
            Trajectories(rows), steps=5, batch_size=16, progress=False, generator=seeded()
        )
    x = tpf.sample(field, start=rows[1], t=(process.at(0.8), 0.9), epsilon=0.1, steps=12,
                   generator=seeded()).x  # fmt: skip
    assert x.shape == (30, 2)
    assert x.isfinite().all()
    plain.net = tpf.networks.MLP(2, 8, 1)
    plain.save(tmp_path / "field.pt")
    other = tpf.load_field(tmp_path / "field.pt")
    assert other.process.times == times
    assert other.process.interpolant.smooth
    torch.testing.assert_close(
        tpf.sample(other, start=rows[0], steps=5).x, tpf.sample(plain, start=rows[0], steps=5).x
    )


def test_leave_one_out_trains_without_the_snapshot():
    rows, times = moving((200, 150, 180, 160, 170))
    seen = []

    def train(process, law):
        seen.append((process.times, [len(x) for x in law.snapshots]))
        field = tpf.Velocity(Net(), process)
        tpf.Trainer(field, lr=5e-3, scheduler="cosine").fit(
            law, steps=700, batch_size=128, progress=False, generator=seeded(1)
        )
        return field

    (one,) = leave_one_out(rows, times, train, left=[2], n=300, steps=30, generator=seeded(2))
    assert seen == [([0.0, 0.8, 2.4, 3.2], [200, 150, 160, 170])]
    assert one.index == 2
    assert one.truth is rows[2]
    assert one.found.shape == one.transported.shape == (300, 2)
    half = 0.5 * (rows[1].mean(0) + rows[3].mean(0))
    torch.testing.assert_close(one.transported.mean(0), half, rtol=0, atol=0.08)
    assert tpf.metrics.wasserstein1(one.found, one.truth) < tpf.metrics.wasserstein1(
        one.transported, one.truth
    )


# ------------------------------------------------------------------------------ what is refused


def test_bad_snapshots_are_refused():
    rows, times = moving((20, 15, 18, 16, 17))
    bad = [*rows[:2], torch.full((3, 2), math.nan)]
    process = Multimarginal(times)
    field = tpf.Velocity(Net(), process)
    one_time = {"steps": 2, "batch_size": 4, "progress": False}
    cases = [
        (ValueError, r"times\[1\] = 3 is followed by 2", lambda: Multimarginal([0.0, 3.0, 2.0])),
        (ValueError, "must increase", lambda: Multimarginal([0.0, 1.0, 1.0])),
        (ValueError, "two at least", lambda: Multimarginal([0.0])),
        (ValueError, "finite", lambda: Multimarginal([0.0, math.nan])),
        (ValueError, "γ̇", lambda: Multimarginal(times, gamma=tpf.Brownian())),
        (ValueError, "γ̇", lambda: PiecewiseGamma(tpf.Brownian(), times)),
        (ValueError, "two snapshots", lambda: Trajectories(rows[:1])),
        (ValueError, r"snapshots\[1\] has events", lambda: Trajectories([rows[0], rows[1][:, :1]])),
        (ValueError, "NaN", lambda: Trajectories(bad)),
        (TypeError, "list of tensors", lambda: Trajectories(torch.zeros(3, 4, 2))),
        (ValueError, "float64", lambda: Trajectories([rows[0], rows[1].double()])),
        (ValueError, "regularisation", lambda: Trajectories(rows, regularisation=-1.0)),
        (ValueError, "snapshots 0 and 1.*takes 16 GB",
         lambda: Trajectories([torch.arange(20_000.0)[:, None]] * 2)),
        (ValueError, "from 0 to 3.2", lambda: process.at(4.0)),
        (ValueError, "5 points", lambda: tpf.Trainer(field).fit(rows[0], **one_time)),
        (ValueError, "5 points", 
         lambda: tpf.Trainer(field).fit(Trajectories(rows[:3]), **one_time)),
        (ValueError, "start", lambda: tpf.sample(field, 5)),
        (ValueError, "only inner", lambda: leave_one_out(rows, times, Net, left=[0])),
        (ValueError, "only inner", lambda: leave_one_out(rows[:2], times[:2], Net)),
        (ValueError, "5 snapshots and 3 times", lambda: leave_one_out(rows, times[:3], Net)),
        (ValueError, "antithetic", lambda: process.sample(torch.zeros(2, 5, 2), antithetic=True)),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words):
            call()
