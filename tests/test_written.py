"""What a process remembers follows its numbers, also where they are written to in place."""

from __future__ import annotations

import copy

import pytest
import torch

import transportflows as tpf
from transportflows._core.written import Written


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Bent(tpf.AffineInterpolant):
    """β = t + c sin 2πt, γ² = (t (1 - t))^p, with c and p among the tensors of a state."""

    def __init__(self, c, p):
        super().__init__()
        self.register_buffer("c", torch.tensor(float(c), dtype=torch.float64))
        self.register_buffer("p", torch.tensor(float(p), dtype=torch.float64))

    def alpha(self, t):
        return 1 - t

    def beta(self, t):
        return t + self.c.to(t) * torch.sin(2 * torch.pi * t)

    def gamma_sq(self, t):
        return (t * (1 - t)) ** self.p.to(t)


def linear(mean=0.0, scale=1.0):
    return tpf.Process(tpf.Linear(), tpf.Gaussian((2,), mean, scale))


class Asked:
    """Times and weights that remember a process, and all that is asked of it."""

    def __init__(self):
        self.times = [tpf.times.EDMTimes(), tpf.times.LogSNRTimes(), tpf.times.SigmaTimes([0.5, 1])]
        self.bound = tpf.losses.VariationalLoss([0.9, 0.5, 0.1])
        self.likelihood = tpf.losses.LikelihoodWeight()

    def __call__(self, process):
        part, t, found = process.part, torch.linspace(0.1, 0.9, 5, dtype=torch.float64), {}
        found["scale"] = part.scale(t)
        found["shift"] = part.shift(t[:, None], torch.zeros(5, 2))
        found["monotone"], found["degenerate"] = part.monotone, part.degenerate_times
        found["margin"] = process.target_margin
        found["base"] = process.base.sample(4, generator=seeded())
        found["zero"] = process.base.zero_mean
        found["x"] = process.sample(torch.ones(4, 2), t=0.3, generator=seeded()).x
        if part.monotone:
            for times in self.times:
                found[type(times).__name__] = times.bind(process).sample(6, generator=seeded())
            found["table"] = self.bound.bound.of_levels(part, torch.float64)
            found["likelihood"] = self.likelihood.margin(part, "score")
        if part.monotone and isinstance(process.interpolant, tpf.Linear):
            net = tpf.networks.MLP(2, 4, 1, generator=seeded())
            field = tpf.DataPredictor(net, process)
            batch = tpf.Batch(torch.ones(4, 2))
            found["bound"] = self.bound(field, batch, generator=seeded()).detach()
            found["sample"] = tpf.sample(field, 4, steps=3, generator=seeded()).x
        return found


def alike(a, b):
    assert a.keys() == b.keys()
    for name in a:
        same = torch.equal(a[name], b[name]) if torch.is_tensor(a[name]) else a[name] == b[name]
        assert same, f"{name}: {a[name]} and {b[name]}"


WAYS = {
    "load_state_dict": lambda one, other: one.load_state_dict(other.state_dict()),
    "of the parts": lambda one, other: [
        a.load_state_dict(b.state_dict())
        for a, b in zip(one.children(), other.children(), strict=True)
    ],
    "a broadcast": lambda one, other: [
        a.copy_(b) for a, b in zip(one.buffers(), other.buffers(), strict=True)
    ],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (linear, lambda: linear(2.0, 3.0)),
        (lambda: linear(2.0, 3.0), linear),
        (lambda: linear(2.0, 3.0), lambda: linear(-1.0, 3.0)),
        (
            lambda: tpf.Process(Bent(0.0, 2.0), tpf.Gaussian((2,))),
            lambda: tpf.Process(Bent(0.6, 1.0), tpf.Gaussian((2,), 0.0, 2.0)),
        ),
    ],
)
def test_what_is_remembered_follows_numbers_written_in_place(way, before, after):
    one, fresh, asked = before(), after(), Asked()
    first = asked(one)
    assert asked(one).keys() == first.keys()  # remembered by now
    WAYS[way](one, fresh)
    alike(asked(one), Asked()(fresh))
    with pytest.raises(AssertionError):
        alike(first, asked(one))  # not blind
    alike(Asked()(copy.deepcopy(one)), Asked()(fresh))


def test_what_did_not_change_is_made_once():
    process, times = linear(), tpf.times.EDMTimes()
    part, bound = process.part, times.bind(process)
    process.base.sample(3)
    assert process.part is part
    assert times.bind(process) is bound


def test_written_sees_writes_and_replacements_and_trusts_no_inference_tensor():
    x, y = torch.zeros(2), torch.zeros(2)
    seen = Written([x])
    assert seen.same(Written([x]))
    assert not seen.same(Written([y]))
    assert not seen.same(Written([x, y]))
    assert not Written([x], "a").same(Written([x], "b"))
    x.add_(1)
    assert not seen.same(Written([x]))
    with torch.inference_mode():
        made = torch.zeros(2)
    assert not Written([made]).same(Written([made]))
