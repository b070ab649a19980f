"""Losses of flow maps: what they refuse, their times, and what they keep from run to run."""

import copy
import pickle

import pytest
import torch
from torch import nn

import transportflows as tpf
from transportflows import maps

PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
LAW = tpf.Gaussian((2,), mean=1.0, scale=0.4)
X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def net(s, t, x):
    return 0.5 * x + (t - s)[:, None]


@pytest.mark.parametrize("loss", [maps.EulerianLoss, maps.SemigroupLoss])
def test_a_target_of_one_path_is_held_fixed(loss):
    """With the gradient through it, the scatter of ẋ would be minimised too."""
    with pytest.raises(ValueError, match="held fixed"):
        loss(source="path", detach=False)
    loss(source="own", detach=False)
    loss(tpf.oracle(PROCESS, LAW), detach=False)


def test_a_loss_looks_at_each_map_that_it_is_given():
    """Also where a new one has the place in memory of one that is gone."""
    loss = maps.SemigroupLoss()
    told = 0
    for _ in range(20):
        flow = maps.FlowMap(net, PROCESS)
        loss.as_map(flow)
        del flow
        flow = maps.FlowMap(net, PROCESS, to_data=True)
        try:
            loss.as_map(flow)
        except ValueError:
            told += 1
        del flow
    assert told == 20
    flow = maps.FlowMap(net, PROCESS)
    loss.as_map(flow)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other(flow, X, generator=seeded()).shape == (64,)


class Partly(nn.Module):
    """One of two ways of s into the network has no derivative."""

    def __init__(self, cut):
        super().__init__()
        self.cut, self.mix = cut, nn.Linear(3, 2)

    def forward(self, s, t, x):
        out = self.mix(torch.cat([x, (t - s)[:, None]], 1))
        s, t = (u.detach() if self.cut else u for u in (s, t))
        return out + torch.sin(6 * s + 4 * t)[:, None]


@pytest.mark.parametrize("loss", [maps.MeanFlowLoss(), maps.LagrangianLoss()], ids=["s", "t"])
def test_a_derivative_of_which_a_part_is_missing_is_told(loss):
    with pytest.raises(ValueError, match="detached"):
        loss(maps.FlowMap(Partly(True), PROCESS), X, generator=seeded())
    whole = type(loss)()
    whole(maps.FlowMap(Partly(False), PROCESS), X, generator=seeded())


@pytest.mark.parametrize("frequencies", [1, 8])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_a_right_derivative_is_not_refused(frequencies, activation):
    for seed in range(5):
        made = maps.TwoTimes(
            tpf.networks.MLP(
                2, 16, 2, frequencies=frequencies, activation=activation, vectors={"stop": 9},
                generator=seeded(seed),
            )
        )  # fmt: skip
        for loss in (maps.MeanFlowLoss(), maps.LagrangianLoss()):
            loss(maps.FlowMap(made, PROCESS), X, generator=seeded(seed))


@pytest.mark.parametrize("pairs", [maps.ToData, lambda times: maps.UniformPairs(times=times)])
def test_times_by_noise_level_and_their_margins(pairs):
    """Consistency models draw times by noise level; a law's own margin is kept."""
    loss = maps.SemigroupLoss(pairs=pairs(tpf.times.EDMTimes()))
    flow = maps.FlowMap(net, PROCESS, to_data=loss.pairs.to_data)
    sample = loss.draw(flow, LAW.sample(4_000, generator=seeded(1)), generator=seeded(2))
    s = sample.t[sample.diagonal :]
    if loss.pairs.to_data:
        wanted = tpf.times.EDMTimes().bind(PROCESS).sample(4_000, generator=seeded(3))
        assert float(s.median()) == pytest.approx(float(wanted.median()), abs=0.03)
    made = pairs(tpf.times.UniformTimes(margin=0.2))
    if not made.to_data:
        made = maps.UniformPairs(times=made.times, at_start=0.0, at_end=0.0)
    first, _ = made.sample(1_000, generator=seeded())
    assert float(first.min()) >= 0.2
    assert float(first.max()) <= 0.8


def test_a_teacher_of_another_coupling_is_of_another_process():
    """Its velocity has no score, and one of independent pairs has."""
    other = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), coupling=tpf.MinibatchOT())
    teacher = tpf.Velocity(tpf.networks.MLP(2, 8, 1, generator=seeded()), other)
    with pytest.raises(ValueError, match="coupling"):
        maps.SemigroupLoss(teacher)(maps.FlowMap(net, PROCESS), X)
    with pytest.raises(ValueError, match="coupling"):
        maps.check_map(maps.FlowMap(net, other), LAW, n=20, field=tpf.oracle(PROCESS, LAW))
    stored = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), coupling=tpf.Paired())
    maps.SemigroupLoss(teacher)(maps.FlowMap(net, stored), tpf.Batch(X, X))


def test_a_guided_map_is_not_saved(tmp_path):
    made = maps.TwoTimes(tpf.networks.MLP(2, 8, 1, labels=3, vectors={"stop": 3}))
    flow = maps.FlowMap(made, PROCESS)
    guided = maps.GuidedMap(flow, 2.0)
    with pytest.raises(ValueError, match="cannot be saved"):
        guided.save(tmp_path / "guided.tpf")
    assert "scale=2" in repr(guided)
    exact = maps.oracle_map(PROCESS, LAW)
    with pytest.raises(TypeError, match="ClassifierFree"):
        maps.GuidedMap(exact, 2.0)


def test_a_weight_that_divides_by_the_way_is_told():
    loss = maps.SemigroupLoss(weight=lambda s, t: 1 / (t - s) ** 2)
    with pytest.raises(ValueError, match="rows of the tangent have t = s"):
        loss(maps.FlowMap(net, PROCESS), X, generator=seeded())
    for weight in (lambda s, t: 1 / (t - s).square().clamp(min=0.01), lambda s, t: 2.0):
        loss = maps.SemigroupLoss(weight=weight)
        assert bool(loss(maps.FlowMap(net, PROCESS), X, generator=seeded()).isfinite().all())


def flow_between_gaussians(s, t, x):
    """The mean velocity of the flow of LAW: ``X = m_t + (σ_t/σ_s)(x - m_s)``."""
    s, t = s[:, None], t[:, None]
    p, q = (((1 - u) ** 2 + 0.16 * u**2).sqrt() for u in (s, t))
    return 1 + (-2 + 1.16 * (s + t)) / (p + q) / p * (x - s)


@pytest.mark.parametrize("normalise", [0.0, 0.1])
@pytest.mark.parametrize("pairs", [maps.ToData(), maps.UniformPairs()], ids=["to data", "all"])
def test_the_exact_map_is_least_with_a_normalised_tangent(normalise, pairs):
    """What Lu and Song divide is the whole tangent of the map, which of the exact one is 0."""
    loss = maps.EulerianLoss(tpf.oracle(PROCESS, LAW), pairs=pairs, normalise=normalise)
    flow = maps.FlowMap(flow_between_gaussians, PROCESS, to_data=pairs.to_data)
    data = LAW.sample(64, generator=seeded(1), dtype=torch.float64)
    assert float(loss(flow, data, generator=seeded(2)).max()) < 1e-20
    other = maps.FlowMap(
        lambda s, t, x: 1.5 * flow_between_gaussians(s, t, x), PROCESS, to_data=pairs.to_data
    )
    value = loss(other, data, generator=seeded(2))
    assert float(value.mean()) > 1e-2
    if normalise > 0:  # a row's is of unit size at most
        assert float(value.max()) <= 0.5 * 2


def test_a_map_that_is_its_own_teacher_has_a_bounded_tangent():
    """Its gain on its own errors has no bound: long runs diverged. Least is the same."""
    assert maps.EulerianLoss().normalise == 1
    plain = (maps.EulerianLoss(tpf.oracle(PROCESS, LAW)), maps.EulerianLoss(source="path"))
    assert all(loss.normalise == 0 for loss in (*plain, maps.MeanFlowLoss()))
    loss = maps.EulerianLoss(pairs=maps.UniformPairs(), diagonal=0.01)
    data = LAW.sample(64, generator=seeded(1), dtype=torch.float64)
    exact = maps.FlowMap(flow_between_gaussians, PROCESS)
    sample = loss.draw(exact, data, generator=seeded(2))
    v, target, _ = loss.compared(exact, sample)
    assert float((v - target).abs().max()) < 1e-10
    steep = maps.FlowMap(lambda s, t, x: 50 * torch.sin(20 * x), PROCESS)
    v, target, _ = loss.compared(steep, sample)
    assert float((v - target).square().mean(1).max()) < 1


@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_a_normalised_tangent_is_of_unit_size_and_points_as_the_whole(prediction):
    flow = maps.FlowMap(net, PROCESS, prediction=prediction)
    plain, bounded = (
        maps.EulerianLoss(tpf.oracle(PROCESS, LAW), normalise=c, pairs=maps.UniformPairs())
        for c in (0.0, 0.1)
    )
    sample = plain.draw(flow, LAW.sample(64, generator=seeded(1)), generator=seeded(2))
    (v, whole, weight), (_, short, _) = (loss.compared(flow, sample) for loss in (plain, bounded))
    scale = 1 if weight is None else weight[:, None]
    r, bound = (whole - v) / scale, (short - v) / scale
    size = r.square().mean(1, keepdim=True).sqrt()
    assert torch.allclose(bound, r / (size + 0.1), atol=1e-4)


def test_a_weight_of_times_does_not_enter_that_of_the_row():
    """``w (|r|² + c)^-p ½|r|²``, as the docstring has it."""
    flow, data = maps.FlowMap(net, PROCESS), LAW.sample(64, generator=seeded(1))
    how = {"diagonal": 0.5, "floor": 0.3}

    def value(**more):
        return maps.MeanFlowLoss(**how, **more)(flow, data, generator=seeded(2))

    plain = value()
    assert torch.allclose(value(adaptive=1.0), plain / (2 * plain + 0.3), rtol=1e-4)
    both = value(adaptive=1.0, weight=lambda s, t: 10.0)
    assert torch.allclose(both, 10 * plain / (2 * plain + 0.3), rtol=1e-4)


@pytest.mark.parametrize(("rows", "share"), [(1, 0.5), (1, 0.75), (2, 0.25), (2, 0.8), (10, 0.3)])
def test_small_batches_have_both_kinds_of_rows_on_average(rows, share):
    """Of one row half was rounded to none, always, so that the tangent was never trained."""
    loss, flow, draws = maps.SemigroupLoss(diagonal=share), maps.FlowMap(net, PROCESS), seeded(3)
    counts = [loss.draw(flow, X[:rows], generator=draws).diagonal for _ in range(600)]
    found = sum(counts) / (rows * len(counts))
    assert found == pytest.approx(share, abs=0.08)


def test_a_shortcut_asks_for_no_width_that_it_never_trains():
    """Halves of its least width are known by the tangent (Frans et al. 2024, section 3.2)."""
    asked = []

    def net(s, t, x):
        asked.append((t - s).abs())
        return torch.zeros_like(x)

    loss = maps.ShortcutLoss(3, diagonal=0.25)
    value = loss(maps.FlowMap(net, PROCESS), X, generator=seeded())
    widths = torch.cat(asked)
    assert set(widths.tolist()) <= {0.0, 1 / 8, 1 / 4, 1 / 2, 1.0}
    assert torch.equal(value[16:], torch.zeros(48))
    assert float(value[:16].min()) > 0


@pytest.mark.parametrize("names", ["img, times, delta", "x, s, t", "t, s, x", "z, t, r"])
def test_a_network_that_takes_the_states_first_is_refused(names):
    own = {}
    exec(f"def net({names}):\n    return 0", own)
    with pytest.raises(TypeError, match=r"net\(s, t, x"):
        maps.FlowMap(own["net"], PROCESS)


@pytest.mark.parametrize("names", ["s, t, x", "r, t, x", "start, stop, z", "t0, t1, x", "a, b, c"])
def test_a_network_of_two_times_and_states_is_taken(names):
    own = {}
    exec(f"def net({names}):\n    return 0", own)
    maps.FlowMap(own["net"], PROCESS)
