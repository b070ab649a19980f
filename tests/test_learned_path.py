"""Paths that are learned for their energy."""

import pytest
import torch
from torch import nn

import transportflows as tpf
from transportflows.bridges import LearnedPath, PathOptimizer, path_trainer
from transportflows.samplers.geometry import path_geometry

F64 = torch.float64


def seeded(k=0):
    return torch.Generator().manual_seed(k)


def bent(shape=(2,), gamma=None):
    """A path whose network is no longer zero."""
    path = LearnedPath(shape, 16, 2, gamma=gamma, generator=seeded()).double()
    with torch.no_grad():
        for tensor in path.net[-1].parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=seeded(1), dtype=F64))
    return path


class Affine(nn.Module):
    """``b = A(t) x`` with a small network for A, which the velocity between Gaussians is."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 4))

    def forward(self, t, x):
        return (self.inner(t[:, None]).view(-1, 2, 2) @ x[..., None])[..., 0]


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_it_begins_straight_and_has_its_ends_whatever_the_network(shape):
    x0, x1 = (torch.randn(5, *shape, generator=seeded(k), dtype=F64) for k in (1, 2))
    t = torch.linspace(0, 1, 5, dtype=F64)
    wide = t.view(-1, *(1,) * len(shape))
    straight = LearnedPath(shape, 16).double()
    torch.testing.assert_close(straight.mean(wide, x0, x1), torch.lerp(x0, x1, wide))
    torch.testing.assert_close(straight.mean_dot(t, x0, x1), x1 - x0)
    path = bent(shape)
    with torch.no_grad():
        assert max(path.end_errors(x0, x1).values()) < 1e-12
    assert float((path.mean(wide, x0, x1) - torch.lerp(x0, x1, wide)).abs().max()) > 0.01


def test_its_derivative_is_right_and_takes_gradients():
    path = bent()
    x0, x1 = (torch.randn(5, 2, generator=seeded(k), dtype=F64) for k in (1, 2))
    t = torch.linspace(0.1, 0.9, 5, dtype=F64)
    h = 1e-6
    difference = (
        path.mean(t[:, None] + h, x0, x1) - path.mean(t[:, None] - h, x0, x1)
    ) / (2 * h)  # fmt: skip
    found = path.mean_dot(t, x0, x1)
    torch.testing.assert_close(found, difference, rtol=0, atol=1e-7)
    tensor = path.net[0].weight
    (gradient,) = torch.autograd.grad(found.square().sum(), tensor)
    way = torch.randn(tensor.shape, generator=seeded(3), dtype=F64)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            tensor += sign * h * way
        ends.append(float(path.mean_dot(t, x0, x1).square().sum()))
        with torch.no_grad():
            tensor -= sign * h * way
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(float((gradient * way).sum()), rel=1e-5)


def test_the_loss_is_minus_half_the_energy_at_the_exact_field():
    """Between Gaussians on a straight path: ½ E|b|² - E b·ẋ = -½ E|b|², by the oracle."""
    base, data = tpf.Gaussian((2,)), tpf.Gaussian((2,), scale=torch.tensor([3.0, 1 / 3]))
    exact = tpf.oracle(tpf.Process(tpf.Linear(), base=base), data)
    loss = tpf.VelocityLoss(constant=False)
    x1 = data.sample(200_000, generator=seeded(1)).float()
    values = loss(exact, x1, generator=seeded(2))
    energy = path_geometry(exact, 20_000, steps=40, generator=seeded(3)).energy
    error = 5 * float(values.std()) / len(values) ** 0.5
    assert float(values.mean()) == pytest.approx(-0.5 * energy, abs=error + 0.03 * energy)


def test_networks_go_down_and_the_path_goes_up_in_turn():
    base = tpf.Gaussian((2,))
    field = tpf.Velocity(Affine(), tpf.Process(LearnedPath(2, 8), base=base))
    optimizer = PathOptimizer(field, lr=1e-3, path_lr=1e-3, every=3)
    nets, path = (group["params"] for group in optimizer.param_groups)
    assert {id(p) for p in nets} == {id(p) for p in field.net.parameters()}
    assert {id(p) for p in path} == {id(p) for p in field.process.interpolant.parameters()}
    moved = []
    for _ in range(6):
        before = [p.detach().clone() for p in (*nets, *path)]
        for p in (*nets, *path):
            p.grad = torch.ones_like(p)
        optimizer.step()
        change = [after.detach() - old for after, old in zip((*nets, *path), before, strict=True)]
        assert all(bool((d < 0).all()) for d in change[: len(nets)])
        assert all(bool((d >= 0).all()) for d in change[len(nets) :])
        moved.append(bool(change[-1].any()))
    assert moved == [False, False, True, False, False, True]


@pytest.mark.parametrize("learned", ["path", "scale"])
def test_a_batch_in_parts_learns_as_a_whole_one(learned):
    """With accumulate= the path, drawn once for all parts, has the gradients of all of them."""
    found = []
    for parts in (1, 3):
        draws = torch.Generator().manual_seed(2)
        path = LearnedPath(2, 8, 1, generator=draws)
        if learned == "scale":
            path = tpf.Linear(tpf.Brownian(torch.nn.Parameter(torch.tensor(0.7))))
        net = tpf.networks.MLP(2, 8, 1, generator=draws).double()
        field = tpf.Velocity(net, tpf.Process(path.double(), base=tpf.Gaussian((2,))))
        if learned == "path":
            trainer = path_trainer(field, every=1, accumulate=parts)
        else:
            optimizer = torch.optim.SGD(field.parameters(), 1e-3)
            trainer = tpf.Trainer(field, optimizer=optimizer, accumulate=parts)
        data = torch.randn(60, 2, generator=draws, dtype=torch.float64)
        trainer.fit(data, steps=4, batch_size=20, progress=False, generator=draws)
        found.append([p.detach() for p in field.parameters()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-8)


def test_the_path_of_least_energy_is_found():
    """Deviations 3 and 1/3: the straight path has 1.30 of the least energy, W2² = 4.44."""
    base, data = tpf.Gaussian((2,)), tpf.Gaussian((2,), scale=torch.tensor([3.0, 1 / 3]))
    least = 4.0 + 4 / 9
    straight = tpf.oracle(tpf.Process(tpf.Linear(), base=base), data)
    linear = path_geometry(straight, 20_000, steps=40, generator=seeded(3))
    assert 1.25 < linear.energy / least < 1.35
    process = tpf.Process(LearnedPath(2, 32, 1, generator=seeded(1)), base=base)
    field = tpf.Velocity(Affine(), process)
    trainer = path_trainer(field, lr=5e-3, path_lr=3e-3, ema=0.98, scheduler="cosine")
    trainer.fit(data, steps=700, batch_size=256, progress=False, generator=seeded(2))
    follower = tpf.Trainer(trainer.averaged_field(), lr=3e-3, scheduler="cosine")
    follower.fit(data, steps=200, batch_size=512, progress=False, generator=seeded(3))
    with torch.no_grad():
        x = tpf.sample(follower.field, 20_000, steps=20, generator=seeded(4)).x
    ends = tpf.metrics.bures_wasserstein2(
        x.mean(0), torch.cov(x.mT), base.mean, base.covariance()
    ) ** 2  # fmt: skip
    found = path_geometry(follower.field, 20_000, steps=20, generator=seeded(4))
    assert found.energy / ends < 1.1
    assert 0.8 < ends / least < 1.2


def test_a_learned_path_is_saved_with_its_field(tmp_path):
    process = tpf.Process(bent().float(), base=tpf.Gaussian((2,)))
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1), process)
    field.save(tmp_path / "field.pt")
    other = tpf.load_field(tmp_path / "field.pt")
    x0, x1, half = torch.randn(3, 2), torch.randn(3, 2), torch.tensor(0.5)
    paths = (field.process.interpolant, other.process.interpolant)
    assert torch.equal(*(path.mean(half, x0, x1) for path in paths))


def test_what_cannot_be_learned_is_refused():
    base = tpf.Gaussian((2,))
    plain = tpf.Velocity(Affine(), tpf.Process(tpf.Linear(), base=base))
    field = tpf.Velocity(Affine(), tpf.Process(LearnedPath(2), base=base))
    three = torch.zeros(2, 3)
    cases = [
        (ValueError, "nothing to learn", lambda: path_trainer(plain)),
        (ValueError, "path_lr", lambda: path_trainer(field, path_lr=0.0)),
        (ValueError, "every", lambda: path_trainer(field, every=0)),
        (TypeError, "loss of its own", lambda: path_trainer(field, loss=tpf.VelocityLoss())),
        (ValueError, r"LearnedPath\(\(3,\)\)",
         lambda: LearnedPath(2).mean(torch.tensor(0.5), three, three)),
        (ValueError, "width", lambda: LearnedPath(2, width=0)),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words):
            call()
