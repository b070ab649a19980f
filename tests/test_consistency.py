"""Maps to t = 1 only, consistency models: what they have, and what is refused of them."""

import pytest
import torch

import transportflows as tpf
from transportflows import maps

PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
LAW = tpf.Gaussian((2,), mean=1.0, scale=0.4)
ORACLE = tpf.oracle(PROCESS, LAW)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def net(s, t, x):
    return 0.5 * x + (t - s)[:, None]


MAP = maps.FlowMap(net, PROCESS, to_data=True)
WHOLE = maps.FlowMap(net, PROCESS)
X = torch.randn(6, 2, generator=seeded())


@pytest.mark.parametrize(
    "use",
    [
        lambda: MAP.velocity(torch.tensor(0.3), X),
        lambda: tpf.sample(MAP, 5, scheme="heun", steps=5),
        lambda: tpf.sample(MAP, 5, scheme=maps.Jumps(), steps=1, epsilon=0.5),
        lambda: tpf.log_likelihood(MAP, X),
        lambda: MAP.average(0.3, 0.3, X),
    ],
)
def test_it_has_no_tangent(use):
    """No loss to t = 1 trains ``v_{t,t}``, so that what it gives is of no field."""
    with pytest.raises(ValueError, match=r"t = 1 only.*(tangent|end)"):
        use()


@pytest.mark.parametrize(
    "use",
    [
        lambda: MAP.jump(0.2, 0.5, X),
        lambda: MAP.average(0.2, 0.5, X),
        lambda: tpf.sample(MAP, 5, scheme=maps.Jumps(), steps=1, save_at=[0.5, 1.0]),
        lambda: tpf.sample(MAP, 5, steps=2, save_at=[0.25, 1.0]),
    ],
)
def test_it_goes_nowhere_else(use):
    with pytest.raises(ValueError, match="t = 1 only"):
        use()


def test_states_on_the_grid_are_saved():
    found = tpf.sample(MAP, 5, t=[0.0, 0.25, 0.5, 1.0], save_at=[0.25, 1.0], generator=seeded())
    assert found.trajectory.shape == (2, 5, 2)
    assert found.nfe == 3


@pytest.mark.parametrize(
    "use",
    [
        lambda: maps.LagrangianLoss(MAP)(WHOLE, X),
        lambda: maps.SemigroupLoss(MAP)(WHOLE, X),
        lambda: maps.check_map(WHOLE, LAW, n=20, field=MAP),
        lambda: maps.choose_times(WHOLE, 2, field=MAP, n=20, candidates=4),
        lambda: maps.distill(MAP, X, steps=3, net=maps.TwoTimes(
            tpf.networks.MLP(2, 8, 1, vectors={"stop": 3})), fit={"progress": False}),
    ],
)  # fmt: skip
def test_it_teaches_nothing(use):
    with pytest.raises(ValueError, match="t = 1 only"):
        use()


def test_it_is_trained_as_before():
    for loss in (maps.ConsistencyLoss(ORACLE), maps.EulerianLoss(ORACLE, pairs=maps.ToData())):
        assert loss(MAP, X, generator=seeded()).shape == (6,)


# ----------------------------------------------------------------------- predictions with poles


@pytest.mark.parametrize(("prediction", "pole"), [("data", 1.0), ("noise", 0.0)])
def test_a_pole_is_told_and_the_identity_is_kept(prediction, pole):
    flow = maps.FlowMap(net, PROCESS, prediction=prediction)
    assert torch.equal(flow.jump(pole, pole, X), X)
    where = torch.tensor([pole, 0.5, 0.5, pole, 0.2, 0.2])
    assert torch.equal(flow.jump(where, where, X), X)
    for call in (flow.jump, flow.average):
        with pytest.raises(ValueError, match=f"does not leave t = {pole:g}"):
            call(pole, 0.5, X)
    with pytest.raises(ValueError, match=f"does not leave t = {pole:g}"):
        flow.average(pole, pole, X)


@pytest.mark.parametrize("prediction", ["velocity", "data", "noise"])
def test_a_number_goes_with_times_of_rows(prediction):
    flow = maps.FlowMap(net, PROCESS, prediction=prediction)
    rows = torch.linspace(0.1, 0.9, 6)
    for s, t in ((0.2, rows), (rows, 0.2), (torch.tensor(0.2), rows), (0.2, torch.tensor(0.6))):
        found = flow.jump(s, t, X)
        wide = (torch.as_tensor(u).expand(6) for u in (s, t))
        assert torch.allclose(found, flow.jump(*wide, X))


def test_reports_of_maps_with_a_pole():
    """An x-prediction cannot go back from t = 1, so that it has no inverse, and says so."""
    report = maps.check_map(maps.FlowMap(net, PROCESS, prediction="data"), LAW, n=50)
    assert report.identity == 0
    assert report.inverse is None
    assert "does not leave t = 1" in str(report)
    to_data = maps.FlowMap(net, PROCESS, prediction="data", to_data=True)
    assert maps.check_map(to_data, LAW, n=50).identity == 0
    noise = maps.FlowMap(net, PROCESS, prediction="noise")
    for call in (
        lambda: maps.check_map(noise, LAW, n=50),
        lambda: tpf.sample(noise, 5, scheme=maps.Renoise()),
        lambda: maps.log_density(maps.FlowMap(net, PROCESS, prediction="data"), X),
    ):
        with pytest.raises(ValueError, match="does not leave t = "):
            call()


def test_ends_are_compared_in_the_units_of_the_data():
    """``ends=True`` is ``½ |X_{s,1} - X*|²``, whatever the network predicts."""
    loss = maps.ConsistencyLoss(ORACLE, ends=True, levels=4)
    for prediction in ("velocity", "data"):
        flow = maps.FlowMap(net, PROCESS, prediction=prediction, to_data=True)
        sample = loss.draw(flow, LAW.sample(40, generator=seeded(1)), generator=seeded(2))
        s, t, x = sample.t, sample.stop, sample.path.x
        u = torch.minimum(s + 0.25, t)
        middle = x + (u - s)[:, None] * maps.teachers.heun_step(ORACLE, s, u, x, {})
        inner = torch.where(u < t, u, 0.5)
        end = torch.where((u < t)[:, None], flow.jump(inner, t, middle), middle)
        wanted = 0.5 * (flow.jump(s, t, x) - end).square().sum(1)
        found = loss.evaluate(flow, sample)
        # the last rows of a data prediction stop short of t = 1 by its margin, as their jumps do
        assert torch.allclose(found, wanted, rtol=2e-3, atol=1e-6), prediction
