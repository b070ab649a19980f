"""What makes a step cheap changes no number: blocks of draws, slopes by formula, one kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import transportflows as tpf
from transportflows.losses.blocks import draw_blocks, draws_in_blocks
from transportflows.losses.slopes import slopes_of
from transportflows.training import move as moves
from transportflows.training.move import Move

F64 = torch.float64


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(n, *shape, generator=gen(seed), dtype=F64)


def mlp() -> torch.nn.Module:
    return tpf.networks.MLP(2, width=8, generator=gen(1)).double()


def process(path, base=True, **given) -> tpf.Process:
    base = tpf.Gaussian((2,), mean=0.3, scale=2.0) if base else None
    return tpf.Process(path, base=base, shape=None if base else (2,), **given)


STRAIGHT, BROWNIAN = process(tpf.Linear()), process(tpf.Linear(gamma=tpf.Brownian()))
VP = process(tpf.VP(), base=False)
TIMES = tpf.times
CASES = {
    "velocity": (tpf.Velocity, STRAIGHT, tpf.VelocityLoss()),
    "velocity, latent": (tpf.Velocity, BROWNIAN, tpf.VelocityLoss()),
    "mean velocity, strata": (
        tpf.MeanVelocity,
        BROWNIAN,
        tpf.MeanVelocityLoss(times=TIMES.StratifiedTimes()),
    ),
    "noise, min-SNR": (tpf.NoisePredictor, VP, tpf.NoiseLoss(weight=tpf.losses.MinSNRWeight())),
    "score": (tpf.Score, VP, tpf.ScoreLoss(weight=tpf.losses.LikelihoodWeight())),
    "data, by noise level, importance": (
        tpf.DataPredictor,
        VP,
        tpf.DataLoss(times=TIMES.LogSNRTimes(), importance=True, constant=False),
    ),
    "a function of times": (tpf.Velocity, STRAIGHT, tpf.VelocityLoss(weight=lambda t: 1 + t)),
    "antithetic": (tpf.Velocity, BROWNIAN, tpf.VelocityLoss(antithetic=True)),
    "a conversion": (tpf.NoisePredictor, VP, tpf.DataLoss(times=TIMES.UniformTimes(margin=0.1))),
}


@pytest.mark.parametrize("case", CASES)
def test_blocks_draw_what_each_batch_draws(case):
    kind, law, loss = CASES[case]
    field, size, seeds = kind(mlp(), law), 12, [5, 9, 2**40]
    if loss.antithetic:
        assert not draws_in_blocks(loss, field)
        return
    assert draws_in_blocks(loss, field)
    x1, label = rows(3 * size, 2), torch.arange(3 * size)
    block = tpf.Batch(x1, None, {"label": label, "one": 3.0})
    found = draw_blocks(loss, field, block, seeds, gen())
    for k, seed in enumerate(seeds):
        own = slice(k * size, (k + 1) * size)
        alone = loss.draw(field, tpf.Batch(x1[own]), generator=gen(seed))
        for name in ("t", "x", "x0", "x1", "z", "density", loss.quantity.replace("score", "noise")):
            one, other = getattr(found[k], name), getattr(alone, name)
            assert (one is None) == (other is None)
            assert one is None or torch.allclose(one, other, rtol=1e-14, atol=1e-14)
        assert torch.equal(found[k].cond["label"], label[own])
        assert found[k].cond["one"] == 3.0
        plain = found[k].with_cond(lambda _: {})
        value, expected = loss.evaluate(field, plain), loss.evaluate(field, alone)
        assert torch.allclose(value, expected, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_slopes_are_those_of_autograd_to_the_last_bit(case):
    kind, law, loss = CASES[case]
    field = kind(mlp(), law)
    sample = loss.draw(field, tpf.Batch(rows(16, 2)), generator=gen(4))
    values = loss.evaluate(field, sample)
    share = torch.full_like(values, 1 / 16, requires_grad=False)
    parameters = list(field.parameters())
    expected = torch.autograd.grad(values, parameters, share)
    found = slopes_of(loss, field, sample, share)
    assert torch.equal(found.values, values)
    assert not found.values.requires_grad
    gradients = torch.autograd.grad(found.outputs, parameters, found.gradients)
    assert all(map(torch.equal, gradients, expected))


def test_slopes_of_a_sum_are_those_of_its_terms():
    field = tpf.FieldPair(velocity=mlp(), noise=mlp(), process=BROWNIAN)
    loss = tpf.losses.SumLoss(tpf.VelocityLoss(antithetic=True), tpf.NoiseLoss())
    sample = loss.draw(field, tpf.Batch(rows(16, 2)), generator=gen(4))
    values = loss.terms(field, sample)
    share = torch.full_like(values, 1 / 16, requires_grad=False)
    parameters = list(field.parameters())
    expected = torch.autograd.grad(values, parameters, share)
    found = slopes_of(loss, field, sample, share)
    assert torch.equal(found.values, values)
    gradients = torch.autograd.grad(found.outputs, parameters, found.gradients)
    assert all(map(torch.equal, gradients, expected))


class Huber(tpf.VelocityLoss):
    def distance(self, prediction, target):
        return torch.nn.functional.huber_loss(prediction, target, reduction="none").sum(1)


def test_autograd_goes_through_what_has_no_formula():
    field = tpf.Velocity(mlp(), STRAIGHT)
    learned = torch.tensor(1.0, dtype=F64, requires_grad=True)
    for loss in (Huber(), tpf.VelocityLoss(weight=lambda t: learned + t)):
        sample = loss.draw(field, tpf.Batch(rows(16, 2)), generator=gen(4))
        assert slopes_of(loss, field, sample, torch.ones(16, dtype=F64)) is None


@pytest.mark.parametrize("given", [{}, {"weight_decay": 0.1, "betas": (0.8, 0.9)}])
def test_the_parameters_move_as_torch_moves_them(given):
    nets = [mlp(), mlp()]
    optimizers = [torch.optim.Adam(net.parameters(), 1e-2, fused=True, **given) for net in nets]
    move = Move(optimizers[0])
    for step in range(6):
        for net in nets:
            net(torch.full((4,), 0.1 * step, dtype=F64), rows(4, 2)).square().sum().backward()
        optimizers[0].param_groups[0]["lr"] = optimizers[1].param_groups[0]["lr"] = 1e-2 / (
            1 + step
        )
        if step == 3:  # a parameter without a gradient stays where it is
            for net in nets:
                list(net.parameters())[1].grad = None
        move()
        optimizers[1].step()
        for optimizer in optimizers:
            optimizer.zero_grad()
    assert move._gathered is not None
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))
    states = [list(optimizer.state.values()) for optimizer in optimizers]
    for one, other in zip(*states, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)


def test_other_optimizers_and_hooks_move_for_themselves():
    called = []
    for make in (
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.Adam(p, foreach=True),
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.Adam(p, fused=True, amsgrad=True),
    ):
        net = mlp()
        move = Move(make(net.parameters()))
        net(torch.zeros(4, dtype=F64), rows(4, 2)).sum().backward()
        move()
        assert move._gathered is None
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    move = Move(optimizer)
    move()
    move()
    assert len(called) == 2


def moved(optimizer, net) -> Move:
    move = Move(optimizer)
    for _ in range(3):
        net(torch.zeros(4, dtype=F64), rows(4, 2)).square().sum().backward()
        move()
        optimizer.zero_grad()
    return move


@pytest.mark.parametrize("what", ["no kernel", "another step", "another setting"])
def test_torch_moves_where_what_its_kernel_takes_is_not_known(what, monkeypatch):
    nets = [mlp(), mlp()]
    optimizers = [torch.optim.Adam(net.parameters(), 1e-2, fused=True) for net in nets]
    assert moved(optimizers[1], nets[1])._gathered is not None
    if what == "no kernel":
        monkeypatch.setattr(moves, "_FUSED", None)
    elif what == "another step":
        step = torch.optim.Adam.step
        monkeypatch.setattr(torch.optim.Adam, "step", lambda *given: step(*given))
    else:
        optimizers[0].defaults["nesterov"] = False
    assert moved(optimizers[0], nets[0])._gathered is None
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))


@pytest.mark.parametrize("takes", ["as known", "another argument", "nothing"])
def test_a_kernel_is_used_only_by_the_arguments_that_are_known(takes, monkeypatch):
    if takes == "another argument":
        monkeypatch.setattr(moves, "_TAKES", [*moves._TAKES, "nesterov"])
    elif takes == "nothing":
        monkeypatch.delattr(torch, "_fused_adam_")
    assert (moves._kernel() is None) is (takes != "as known")


def test_latents_may_be_given():
    z = rows(16, 2, seed=7)
    sample = BROWNIAN.sample(rows(16, 2), z=z, generator=gen())
    assert torch.equal(sample.z, z)
    with pytest.raises(ValueError, match="has none; leave it out"):
        STRAIGHT.sample(rows(16, 2), z=z)
    with pytest.raises(ValueError, match="of one kind"):
        BROWNIAN.sample(rows(16, 2), z=z.float())


class Late(nn.Module):
    """A part of it is used from the seventh call on."""

    def __init__(self):
        super().__init__()
        self.first, self.later = nn.Linear(3, 2), nn.Linear(3, 2)
        self.calls = 0

    def forward(self, t, x):
        self.calls += 1
        told = torch.cat([t[:, None], x], 1)
        return self.first(told) + (self.later(told) if self.calls > 6 else 0)


def test_a_parameter_that_has_a_gradient_later_is_moved_too():
    """As by torch itself, which a hook asks for."""
    found = []
    for hooked in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = Late()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
        if hooked:
            optimizer.register_step_post_hook(lambda *_: None)
        field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
        before = net.later.weight.detach().clone()
        x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
        tpf.Trainer(field, optimizer=optimizer).fit(
            x, steps=20, batch_size=16, progress=False, generator=torch.Generator().manual_seed(2)
        )
        assert not torch.equal(net.later.weight, before)
        found.append([p.detach().clone() for p in net.parameters()])
    assert all(map(torch.equal, *found))
