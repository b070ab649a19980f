"""Reflow: the pairs of a flow, and flows trained again on them."""

import pytest
import torch
from torch import nn

import transportflows as tpf
from transportflows.bridges import BridgeDrift, ExactBridge, GaussianPairs, flow_pairs, reflow
from transportflows.samplers.geometry import path_geometry

F64 = torch.float64


def seeded(k=0):
    return torch.Generator().manual_seed(k)


class Affine(nn.Module):
    """``b = c(t) x + d`` with c = (s1 - s0)/((1 - t) s0 + t s1): the map of optimal transport."""

    def __init__(self, s0, s1, shift):
        super().__init__()
        self.register_buffer("s0", torch.tensor(s0))
        self.s1 = nn.Parameter(torch.tensor(s1))
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, t, x):
        t = t[:, None]
        scale = (1 - t) * self.s0 + t * self.s1
        return (self.s1 - self.s0) * (x - t * self.shift) / scale + self.shift


def crossing():
    """A flow of two Gaussians whose paths of constant speed do not go straight."""
    base = tpf.Gaussian((2,), scale=torch.tensor([1.0, 0.3]))
    data = tpf.Gaussian((2,), 2.0, torch.tensor([0.2, 1.5]))
    return tpf.Process(tpf.Linear(), base=base), data


def test_pairs_are_those_of_the_ode_in_the_units_of_the_data():
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
    transform = tpf.Standardize(torch.tensor([3.0]), torch.tensor([2.0]))
    net = Affine([1.0], [0.5], [1.0])
    field = tpf.Velocity(net, process, transform=transform)
    x0, x1 = flow_pairs(field, 500, steps=50, generator=seeded())
    inside = transform(x0)
    torch.testing.assert_close(transform(x1), 0.5 * inside + 1.0, rtol=0, atol=1e-4)
    again = flow_pairs(field, 500, steps=50, generator=seeded())
    assert torch.equal(again[0], x0)
    assert torch.equal(again[1], x1)


def test_optimal_transport_between_gaussians_is_straight_and_stays():
    """The exact field of the pairs of commuting covariances; and a network that begins there."""
    s0, s1, shift = [1.0, 0.5], [0.4, 1.5], [2.0, -1.0]
    a, b = torch.tensor(s0, dtype=F64), torch.tensor(s1, dtype=F64)
    whole = torch.cat(
        [
            torch.cat([torch.diag(a * a), torch.diag(a * b)], 1),
            torch.cat([torch.diag(a * b), torch.diag(b * b)], 1),
        ]
    ) + 1e-9 * torch.eye(4, dtype=F64)
    pairs = GaussianPairs(torch.ones(1), torch.zeros(1, 2), torch.tensor([shift]), whole[None])
    least = float(((a - b) ** 2).sum()) + 5.0
    path = tpf.Process(tpf.Linear(), base=pairs.base, coupling=tpf.Paired())
    exact = path_geometry(ExactBridge(pairs, path), 4000, steps=20, generator=seeded(1))
    assert abs(exact.straightness) < 1e-3 * least
    assert abs(exact.energy - least) < 4 * exact.standard_error

    base = tpf.Gaussian((2,), scale=torch.tensor(s0))
    field = tpf.Velocity(Affine(s0, s1, shift), tpf.Process(tpf.Linear(), base=base))
    fit = {"steps": 100, "batch_size": 256, "lr": 1e-3, "progress": False}
    found = reflow(field, 2_000, fit=fit, steps=20, generator=seeded(2))
    for geometry in found.geometry:
        assert abs(geometry.straightness) < 1e-3 * least
    moved = [float((p - q).abs().max()) for p, q in zip(
        found.field.net.parameters(), field.net.parameters(), strict=True
    )]  # fmt: skip
    assert max(moved) < 0.02
    assert found.fields[0] is field


class Hidden(nn.Module):
    def __init__(self, seed=0, labels=0, heads=1):
        super().__init__()
        self.heads = heads
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner = nn.Sequential(
                nn.Linear(3 + labels, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(),
                nn.Linear(48, 2 * heads),
            )  # fmt: skip

    def forward(self, t, x, label=None):
        parts = [x, t[:, None]]
        if label is not None:
            parts.append(nn.functional.one_hot(label, 2).to(x))
        made = self.inner(torch.cat(parts, 1))
        return made if self.heads == 1 else made.view(-1, 2, 2)


def test_reflow_straightens_and_keeps_the_laws():
    """Between Gaussians of which one coordinate shrinks and the other grows."""
    process, data = crossing()
    field = tpf.Velocity(Hidden(), process)
    trainer = tpf.Trainer(field, lr=4e-3, scheduler="cosine")
    trainer.fit(data, steps=800, batch_size=512, progress=False, generator=seeded(1))
    fit = {"steps": 800, "batch_size": 512, "lr": 2e-3, "scheduler": "cosine", "progress": False}
    given = [p.clone() for p in field.parameters()]
    found = reflow(field, 20_000, fit=fit, steps=30, generator=seeded(2))
    assert all(torch.equal(p, q) for p, q in zip(given, field.parameters(), strict=True))
    before, after = found.geometry
    assert after.straightness < 0.3 * before.straightness
    assert after.energy < before.energy
    x1 = data.sample(2_000, generator=seeded(3)).float()
    floor = tpf.metrics.wasserstein2(x1, data.sample(2_000, generator=seeded(4)).float())
    for field in found.fields:
        x = tpf.sample(field, 2_000, steps=50, generator=seeded(5)).x
        assert tpf.metrics.wasserstein2(x, x1) < 3 * floor
    coupling = found.field.process.coupling
    assert isinstance(coupling, tpf.Paired)
    assert not coupling.condition_on_start
    # one step is now nearly the whole flow
    whole, one = (
        tpf.sample(found.field, 2_000, steps=k, scheme="euler", generator=seeded(6)).x
        for k in (100, 1)
    )
    off = (one - whole).square().sum(1).mean().sqrt()
    first, worse = (
        tpf.sample(found.fields[0], 2_000, steps=k, scheme="euler", generator=seeded(6)).x
        for k in (100, 1)
    )
    assert off < 0.4 * (worse - first).square().sum(1).mean().sqrt()


def test_labels_transform_and_averages_are_kept():
    base = tpf.Gaussian((2,))
    transform = tpf.Standardize(1.0, 4.0)
    field = tpf.Velocity(
        Hidden(labels=2), tpf.Process(tpf.Linear(), base=base), transform=transform
    )
    label = torch.arange(3_000) % 2
    centre = torch.where(label == 0, -7.0, 9.0)[:, None].expand(-1, 2)
    data = centre + torch.randn(3_000, 2, generator=seeded(1))
    fit = {"steps": 500, "batch_size": 256, "lr": 4e-3, "progress": False}
    tpf.Trainer(field, lr=4e-3).fit(
        data, steps=500, batch_size=256, progress=False, cond={"label": label}, generator=seeded(2)
    )
    found = reflow(
        field, 3_000, fit={**fit, "ema": 0.99}, steps=20, cond={"label": label},
        generator=seeded(3), measured=500,
    )  # fmt: skip
    assert found.field.transform.scale == 4.0
    assert found.field.conditions.keys() == {"label"}
    for k, asked in ((0, -7.0), (1, 9.0)):
        some = torch.full((800,), k)
        x = tpf.sample(found.field, 800, steps=30, cond={"label": some}, generator=seeded(4)).x
        assert abs(float(x.mean()) - asked) < 0.5
    with pytest.raises(ValueError, match="label"):
        reflow(field, 100, fit=fit, steps=5)


def test_pairs_of_networks_keep_both_and_drifts_too():
    process = tpf.Process(tpf.Linear(tpf.Brownian(0.5)), base=tpf.Gaussian((2,)))
    pair = tpf.FieldPair(velocity=Hidden(0), noise=Hidden(1), process=process)
    drift = BridgeDrift(
        forward=Hidden(0), backward=Hidden(1),
        process=tpf.Process(process.interpolant, base=process.base, coupling=tpf.Paired()),
    )  # fmt: skip
    fit = {"steps": 3, "batch_size": 16, "progress": False}
    for field in (pair, drift):
        found = reflow(field, 32, fit=fit, times=2, steps=6, measured=16, generator=seeded(1))
        assert [type(f) for f in found.fields] == [type(field)] * 3
        assert found.field.outputs == field.outputs
        x = tpf.sample(found.field, 8, epsilon=0.25, steps=5, generator=seeded()).x
        assert x.isfinite().all()


def test_a_one_sided_field_is_given_a_path():
    field = tpf.Velocity(Hidden(), tpf.Process(tpf.OneSidedLinear(), shape=(2,)))
    fit = {"steps": 2, "batch_size": 8, "progress": False}
    found = reflow(field, 16, fit=fit, path=tpf.Linear(), steps=4, measured=8, generator=seeded())
    assert isinstance(found.field.process.interpolant, tpf.Linear)
    assert isinstance(found.field.process.base, tpf.Gaussian)
    with pytest.raises(ValueError, match=r"path=Linear\(\)"):
        reflow(field, 16, fit=fit)


def test_the_same_seed_gives_the_same_fields():
    process, _ = crossing()
    fit = {"steps": 3, "batch_size": 8, "progress": False}
    ends = [
        reflow(tpf.Velocity(Hidden(), process), 16, fit=fit, steps=4, measured=8,
               generator=seeded(7)).field
        for _ in range(2)
    ]  # fmt: skip
    for p, q in zip(*(field.parameters() for field in ends), strict=True):
        assert torch.equal(p, q)


def test_what_cannot_be_reflowed_is_refused():
    process, data = crossing()
    round_process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    half = tpf.Process(
        tpf.Linear(tpf.Brownian(1.0)), base=tpf.Gaussian((2,)), coupling=tpf.Paired()
    )
    field = tpf.Velocity(Hidden(), process)
    fit = {"steps": 2, "batch_size": 8, "progress": False}
    adam = torch.optim.Adam(field.parameters())
    cases = [
        (tpf.ConversionError, "reflow a Velocity",
         lambda: reflow(tpf.NoisePredictor(Hidden(), round_process), 9, fit=fit)),
        (tpf.ConversionError, "reflow a Velocity",
         lambda: reflow(BridgeDrift(forward=Hidden(), process=half), 9, fit=fit)),
        (TypeError, "flow_pairs", lambda: reflow(tpf.oracle(process, data), 9, fit=fit)),
        (TypeError, "function that makes one",
         lambda: reflow(field, 9, fit={**fit, "optimizer": adam})),
        (ValueError, "lacks the number", lambda: reflow(field, 9, fit={"lr": 1e-3})),
        (ValueError, "'cond'", lambda: reflow(field, 9, fit={**fit, "cond": {}})),
        (ValueError, "n must be", lambda: reflow(field, 0, fit=fit)),
        (ValueError, "times must be", lambda: reflow(field, 9, fit=fit, times=0)),
        (TypeError, "field must be", lambda: reflow(Hidden(), 9, fit=fit)),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words):
            call()
