"""What callbacks change during a fit is what a loop written by hand goes on with.

The loop draws what the fit draws, in float64, with torch's own autograd and an Adam that is not
fused; parameters and averages agree after what one does to a run: parts frozen and unfrozen, groups
added, optimizers and losses replaced, hooks registered.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import transportflows as tpf
from transportflows._core.random import mix
from transportflows.training import Callback
from transportflows.training.epochs import Order
from transportflows.training.objective import LAYERS

F64 = torch.float64
QUICK = {"backend": "aot_eager"}
AT, STEPS, SIZE, DECAY = 40, 52, 16, 0.9
HOWS = {"every step": (1, False), "blocks": (AT, False), "compiled": (AT, QUICK)}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int = 96, *shape: int) -> Tensor:
    return torch.randn(n, *(shape or (2,)), generator=gen(1), dtype=F64)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


class Net(nn.Module):
    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.middle = nn.Identity() if middle is None else middle
        self.extra, self.whole = nn.Linear(3, 2), False

    def forward(self, t, x):
        told = torch.cat([t[:, None], x], 1)
        y = self.c(self.middle(self.b(self.a(told).tanh())).tanh())
        return y + self.extra(told) if self.whole else y


def straight() -> tpf.Process:
    return tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))


def velocity(make=Net) -> tpf.Velocity:
    return tpf.Velocity(seeded(make), straight())


class Does(Callback):
    def __init__(self, what, every: int) -> None:
        self.what, self.every = what, every

    def on_step(self, trainer):
        if trainer.step == AT:
            self.what(trainer)


class ByHand:
    """What a change is given in a loop by hand: the names that a Trainer has."""


def trained(optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


def by_hand(field, loss, change, optimizer, clip, key) -> ByHand:
    run = ByHand()
    run.field, run.loss, run.optimizer = field, loss, optimizer
    averages = {p: p.detach().clone() for p in trained(optimizer)}
    data, order = rows(), Order(96, SIZE, key)
    with torch.random.fork_rng():
        for step in range(STEPS):
            seed = mix(key, 0, step)
            torch.manual_seed(mix(seed, LAYERS))
            run.optimizer.zero_grad()
            batch = tpf.Batch(data[order.index(step)])
            sample = run.loss.draw(field, batch, generator=gen(seed))
            run.loss.evaluate(field, sample).mean().backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(trained(run.optimizer), clip)
            run.optimizer.step()
            for p in trained(run.optimizer):
                averages.setdefault(p, p.detach().clone())
            weight = 1 - min(DECAY, (2 + step) / (11 + step))
            for p, average in averages.items():
                average += weight * (p.detach() - average)
            if step + 1 == AT:
                change(run)
                for p in trained(run.optimizer):
                    averages.setdefault(p, p.detach().clone())
    run.averages = averages
    return run


def adam(parameters, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2, fused=fused, foreach=False)


def compare(
    change,
    how,
    make=velocity,
    loss=tpf.VelocityLoss,
    held=lambda field: field.parameters(),
    clip=None,
):
    every, compiled = HOWS[how]
    field = make()
    trainer = tpf.Trainer(
        field, loss(), optimizer=adam(held(field), True), ema=DECAY, clip=clip, compile=compiled
    )
    trainer.fit(
        rows(),
        steps=STEPS,
        batch_size=SIZE,
        callbacks=[Does(change, every)],
        progress=False,
        generator=gen(3),
    )
    other = make()
    run = by_hand(other, loss(), change, adam(held(other), False), clip, trainer.key)
    close = {"rtol": 1e-9, "atol": 1e-9}
    own = dict(field.named_parameters())
    averages = dict(zip(map(id, trainer.ema.parameters), trainer.ema.averages, strict=True))
    for name, p in other.named_parameters():
        torch.testing.assert_close(own[name], p, **close, msg=lambda m, name=name: f"{name}: {m}")
        if p in run.averages:
            torch.testing.assert_close(averages[id(own[name])], run.averages[p], **close)
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(field.get_buffer(name), buffer, **close)
    return trainer


def freezes(run):
    run.field.net.b.requires_grad_(False)


def unfreezes(run):
    run.field.net.b.requires_grad_(True)


def adds(run):
    net = run.field.net
    run.optimizer.add_param_group({"params": [*net.a.parameters(), *net.b.parameters()]})


def uses(run):
    run.field.net.whole = True


def half_frozen():
    field = velocity()
    field.net.b.requires_grad_(False)
    return field


def replaces_optimizer(run):
    run.optimizer = torch.optim.SGD(run.field.parameters(), lr=0.05, momentum=0.9)


def replaces_loss(run):
    run.loss = tpf.VelocityLoss(times=tpf.times.LogitNormalTimes(), weight=lambda t: 1 + 5 * t)


def replaces_distance(run):
    run.loss.distance = lambda prediction, target: (prediction - target).abs().sum(1)


def replaces_parameter(run):
    net, old = run.field.net, run.field.net.b.weight
    net.b.weight = nn.Parameter(torch.full_like(old, 0.1))
    for group in run.optimizer.param_groups:
        group["params"] = [net.b.weight if p is old else p for p in group["params"]]


def adds_module(run):
    net = run.field.net
    net.middle = nn.Linear(8, 8, dtype=F64)
    for p in net.middle.parameters():
        nn.init.constant_(p, 0.1)
    run.optimizer.add_param_group({"params": [*net.middle.parameters()], "lr": 3e-3})


def hooks_forward(run):
    run.field.net.b.register_forward_hook(lambda module, given, made: 0.5 * made)


def hooks_backward(run):
    run.field.net.b.register_full_backward_hook(lambda module, to, of: (0.5 * to[0],))


def hooks_gradient(run):
    run.field.net.b.weight.register_hook(lambda gradient: 0.5 * gradient)


def clears(run):
    run.optimizer.state.clear()


def settings(run):
    for group in run.optimizer.param_groups:
        group.update(lr=3e-3, betas=(0.5, 0.8), eps=1e-3, weight_decay=0.1)


def amsgrad(run):
    run.optimizer.state.clear()
    for group in run.optimizer.param_groups:
        group["amsgrad"] = True


def loads(run):
    run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    for state in run.optimizer.state.values():
        state["exp_avg"].zero_()


CHANGES = {
    "nothing": (lambda run: None, {}),
    "freezes": (freezes, {"clip": 0.5}),
    "unfreezes": (unfreezes, {"make": half_frozen}),
    "unfreezes, clipped": (unfreezes, {"make": half_frozen, "clip": 0.05}),
    "adds a group": (adds, {"held": lambda field: field.net.c.parameters()}),
    "uses a part": (uses, {}),
    "another optimizer": (replaces_optimizer, {}),
    "another loss": (replaces_loss, {}),
    "another distance": (replaces_distance, {}),
    "another parameter": (replaces_parameter, {}),
    "another module": (adds_module, {}),
    "a forward hook": (hooks_forward, {}),
    "a backward hook": (hooks_backward, {}),
    "a hook on a gradient": (hooks_gradient, {}),
    "a new memory": (clears, {}),
    "other settings": (settings, {}),
    "amsgrad": (amsgrad, {}),
    "a loaded memory": (loads, {}),
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_what_it_is_in_a_loop_by_hand(change, how):
    what, given = CHANGES[change]
    with warnings.catch_warnings():
        if how == "compiled":  # what makes no graph is told
            warnings.simplefilter("ignore", UserWarning)
        compare(what, how, **given)


# -------------------------------------------------------------------------- between fits, and told


def fitted(trainer, steps=8, key=3):
    trainer.fit(rows(), steps=steps, batch_size=SIZE, progress=False, generator=gen(key))
    return trainer


@pytest.mark.parametrize("compiled", [False, QUICK])
def test_what_is_frozen_stays_whatever_gradient_was_left_in_it(compiled):
    field = velocity()
    field.net(torch.zeros(4, dtype=F64), rows(4)).square().sum().backward()
    field.net.b.requires_grad_(False)
    trainer = tpf.Trainer(field, optimizer=adam(field.parameters(), True), compile=compiled)
    before = field.net.b.weight.clone()
    fitted(trainer)
    assert torch.equal(field.net.b.weight, before)
    field.net.b.requires_grad_(True)
    fitted(trainer)
    assert not torch.equal(field.net.b.weight, before)
    field.net.b.requires_grad_(False)
    before = field.net.b.weight.clone()
    fitted(trainer)
    assert torch.equal(field.net.b.weight, before)
    assert all(p.grad is None for p in field.parameters())


@pytest.mark.parametrize("compiled", [False, QUICK])
def test_a_group_that_comes_between_fits_is_trained_and_averaged(compiled):
    field = velocity()
    trainer = tpf.Trainer(
        field, optimizer=adam(field.net.c.parameters(), True), ema=DECAY, compile=compiled
    )
    fitted(trainer)
    before = field.net.a.weight.clone()
    trainer.optimizer.add_param_group({"params": [*field.net.a.parameters()]})
    fitted(trainer)
    assert not torch.equal(field.net.a.weight, before)
    assert any(p is field.net.a.weight for p in trainer.ema.parameters)


class Starts(Callback):
    def on_start(self, trainer):
        trainer.field.net.b.requires_grad_(True)


def test_what_is_changed_as_a_fit_starts_is_trained_from_its_first_step():
    field = half_frozen()
    before = field.net.b.weight.clone()
    trainer = tpf.Trainer(field, optimizer=adam(field.parameters(), True), ema=DECAY)
    trainer.fit(rows(), steps=3, batch_size=SIZE, callbacks=[Starts()], progress=False)
    assert not torch.equal(field.net.b.weight, before)
    assert any(p is field.net.b.weight for p in trainer.ema.parameters)


def test_parameters_that_came_later_and_are_trained_by_nobody_are_told_once():
    field = half_frozen()
    trainer = tpf.Trainer(field)  # whose optimizer was given what required a gradient then
    fitted(trainer)
    field.net.b.requires_grad_(True)
    with pytest.warns(UserWarning, match=r"2 parameters .* 'net.b.weight' among them, .*add_param"):
        fitted(trainer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(trainer)
        aside = velocity()  # what the user's optimizer never held is left out on purpose
        fitted(tpf.Trainer(aside, optimizer=adam(aside.net.c.parameters(), True)))


def test_a_run_in_which_all_is_frozen_ends_with_the_reason():
    field = velocity()
    trainer = tpf.Trainer(field)
    with pytest.raises(ValueError, match="nothing is left to train"):
        trainer.fit(
            rows(),
            steps=STEPS,
            batch_size=SIZE,
            callbacks=[Does(lambda run: run.field.requires_grad_(False), 1)],
            progress=False,
        )
    assert trainer.step == AT


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_schedule_takes_groups_that_come_later(schedule):
    field = velocity()
    optimizer = adam(field.net.c.parameters(), True)
    trainer = tpf.Trainer(field, optimizer=optimizer, scheduler=schedule)
    trainer.fit(
        rows(),
        steps=STEPS,
        batch_size=SIZE,
        callbacks=[Does(adds, 1)],
        progress=False,
        generator=gen(3),
    )
    first, second = (group["lr"] for group in trainer.optimizer.param_groups)
    assert first == second  # with the same rate of their own, and one factor


@pytest.mark.parametrize("weight", ["random", "counts"])
def test_a_weight_of_the_user_s_own_is_asked_once_a_step(weight):
    class Weight:
        calls = 0

        def __call__(self, t):
            self.calls += 1
            return torch.rand_like(t) if weight == "random" else 1 + 0.1 * self.calls * t

    own = Weight()
    trainer = fitted(tpf.Trainer(velocity(), tpf.VelocityLoss(weight=own)), steps=12)
    assert own.calls == 12
    assert len(trainer.history) == 12


# ------------------------------------------------------------ networks and losses of others


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.told, self.last = (
            nn.Embedding(5, 8, sparse=True),
            nn.Linear(3, 8),
            nn.Linear(8, 2),
        )

    def forward(self, t, x, label):
        h = self.told(torch.cat([t[:, None], x], 1)) + self.table(label)
        return self.last(h.tanh())


def test_sparse_gradients_have_a_norm_like_others():
    label, made = torch.arange(96) % 5, []
    for sparse in (True, False):
        field = velocity(Sparse)
        field.net.table.sparse = sparse
        optimizer = torch.optim.SGD(field.parameters(), lr=0.05)
        trainer = tpf.Trainer(field, optimizer=optimizer, ema=DECAY)
        trainer.fit(
            rows(),
            steps=24,
            batch_size=SIZE,
            cond={"label": label},
            progress=False,
            generator=gen(3),
        )
        made.append(trainer)
    assert made[0].history.gradient_norm.value == pytest.approx(made[1].history.gradient_norm.value)
    for one, other in zip(made[0].parameters, made[1].parameters, strict=True):
        torch.testing.assert_close(one, other)


def test_an_optimizer_of_what_the_loss_does_not_depend_on_is_refused():
    field = velocity()
    trainer = tpf.Trainer(field, optimizer=adam(field.net.extra.parameters(), True))
    with pytest.raises(ValueError, match="no parameter of the optimizer got a gradient"):
        fitted(trainer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traced_networks_are_trained_as_they_were_written():
    def traced():
        net = seeded(Net)
        return torch.jit.trace(net, (torch.zeros(3, dtype=F64), torch.zeros(3, 2, dtype=F64)))

    one, other = (
        fitted(tpf.Trainer(tpf.Velocity(make(), straight())))
        for make in (traced, lambda: seeded(Net))
    )
    for a, b in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["distance", "evaluate", "draw"])
@pytest.mark.parametrize("every", [1, AT])
def test_a_method_that_is_put_into_a_loss_is_the_one_that_is_called(name, every):
    """Were it overlooked, the run would be that of the loss as it is."""
    own = {
        "distance": lambda prediction, target: (prediction - target).abs().sum(1),
        "evaluate": lambda field, sample: 3 * tpf.VelocityLoss.evaluate(loss, field, sample),
        "draw": lambda field, batch, generator=None: tpf.VelocityLoss.draw(
            loss, field, tpf.Batch(2 * batch.x1), generator=generator
        ),
    }
    subclass = type("Own", (tpf.VelocityLoss,), {name: lambda self, *a, **k: own[name](*a, **k)})
    losses = []
    for loss in (tpf.VelocityLoss(), subclass()):
        if type(loss) is tpf.VelocityLoss:
            setattr(loss, name, own[name])
        trainer = tpf.Trainer(velocity(), loss)
        trainer.fit(
            rows(),
            steps=8,
            batch_size=SIZE,
            callbacks=[Does(lambda run: None, every)],
            progress=False,
            generator=gen(3),
        )
        losses.append(trainer.history.loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    plain = fitted(tpf.Trainer(velocity(), tpf.VelocityLoss()))
    assert losses[0] != pytest.approx(plain.history.loss, rel=1e-3)
