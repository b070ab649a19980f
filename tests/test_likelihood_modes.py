"""The mode of the derivatives changes what a log-density costs, not what it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import transportflows as tpf
from families import process
from transportflows.likelihood import divergence as modes


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Plain(nn.Module):
    """A network of a user, with a condition, on events of any shape."""

    def __init__(self, shape: tuple[int, ...], *, dropout: bool = False) -> None:
        super().__init__()
        d = torch.Size(shape).numel()
        self.first, self.last = nn.Linear(d + 2, 24), nn.Linear(24, d)
        self.norm, self.drop = nn.BatchNorm1d(24), nn.Dropout(0.5 if dropout else 0.0)
        self.calls = 0

    def forward(self, t, x, c=None):
        self.calls += 1
        c = torch.zeros_like(t) if c is None else c
        h = self.first(torch.cat([x.flatten(1), t[:, None], c[:, None]], 1))
        return self.last(self.drop(self.norm(h).tanh())).view(x.shape)


class HalfHidden(nn.Module):
    """A network of which reverse mode sees a part only."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t, x):
        with torch.no_grad():
            hidden = self.net(t, x)
        return hidden + 0.1 * x


def field_of(net: nn.Module, shape: tuple[int, ...]) -> tpf.Velocity:
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=seeded(5), dtype=torch.float64))
    law = tpf.Process(tpf.Linear(), base=tpf.Gaussian(shape))
    return tpf.Velocity(net.double(), law)


def forward_only(monkeypatch) -> None:
    found = modes._Found(False, 0)
    monkeypatch.setattr(modes.Divergence, "_known", lambda self, f, x, kind, place: found)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
@pytest.mark.parametrize("scheme", ["midpoint", "rk4", "dopri5"])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_both_modes_give_the_same(shape, scheme, divergence, monkeypatch) -> None:
    field = field_of(Plain(shape, dropout=True), shape)
    x = torch.randn(7, *shape, generator=seeded(), dtype=torch.float64)
    how = {
        "divergence": divergence, "scheme": scheme, "steps": 4, "probes": 3,
        "cond": {"c": torch.linspace(-1, 1, 7, dtype=torch.float64)},
    }  # fmt: skip
    found = tpf.log_likelihood(field, x, generator=seeded(1), **how)
    with torch.inference_mode():
        inside = tpf.log_likelihood(field, x, generator=seeded(1), **how)
    chunked = tpf.log_likelihood(field, x, chunk=2, generator=seeded(1), **how)
    forward_only(monkeypatch)
    before = tpf.log_likelihood(field, x, generator=seeded(1), **how)
    close = {"rtol": 0, "atol": 1e-12 if scheme != "dopri5" else 1e-9}
    for other in (inside, chunked, before):
        torch.testing.assert_close(other.log_prob, found.log_prob, **close)
        torch.testing.assert_close(other.latent, found.latent, **close)
        torch.testing.assert_close(other.standard_error, found.standard_error, **close)
    assert before.nfe == found.nfe
    assert all(p.grad is None for p in field.parameters())


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_one_row_and_many_directions(divergence, monkeypatch) -> None:
    field = field_of(Plain((40,)), (40,))
    x = torch.randn(1, 40, generator=seeded(), dtype=torch.float64)
    how = {"divergence": divergence, "scheme": "midpoint", "steps": 3, "probes": 7}
    for chunk in (None, 3):
        found = tpf.log_likelihood(field, x, chunk=chunk, generator=seeded(1), **how)
        with monkeypatch.context() as patch:
            forward_only(patch)
            before = tpf.log_likelihood(field, x, generator=seeded(1), **how)
        torch.testing.assert_close(found.log_prob, before.log_prob, rtol=0, atol=1e-12)


def test_what_reverse_mode_does_not_see_is_done_forward(monkeypatch) -> None:
    inner = Plain((2,)).eval()  # a function of a network is in the mode that it is in
    field = field_of(inner, (2,))
    hidden = tpf.Velocity(HalfHidden(inner), field.process)
    none = tpf.Velocity(lambda t, x: HalfHidden(inner)(t, x).detach() * 0 + inner.first.bias[:2],
                        field.process)  # fmt: skip
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    how = {"scheme": "rk4", "steps": 4}
    found = [tpf.log_likelihood(f, x, **how).log_prob for f in (hidden, none)]
    forward_only(monkeypatch)
    for one, f in zip(found, (hidden, none), strict=True):
        assert torch.equal(one, tpf.log_likelihood(f, x, **how).log_prob)


def test_kernels_without_a_forward_derivative_are_served() -> None:
    class Attending(nn.Module):
        def forward(self, t, x):
            h = torch.stack([x, x.sin(), x + t[:, None]], 1)
            return nn.functional.scaled_dot_product_attention(h, h, h).sum(1)

    field = tpf.Velocity(Attending(), process(tpf.Linear()))
    x = torch.randn(6, 2, generator=seeded())
    fast = tpf.log_likelihood(field, x, scheme="midpoint", steps=5).log_prob
    field64 = tpf.log_likelihood(field, x.double(), scheme="midpoint", steps=5).log_prob
    torch.testing.assert_close(fast.double(), field64, rtol=0, atol=1e-5)


def test_the_divergence_is_taken_where_it_has_a_weight() -> None:
    net = Plain((2,))
    field = field_of(net, (2,))
    x = torch.randn(600, 2, generator=seeded(), dtype=torch.float64)
    rows = []

    def notes(module, given):
        if len(given[1]) == 600:  # and not a few, at which the modes are compared
            rows.append(torch.is_grad_enabled())

    net.register_forward_pre_hook(notes)
    tpf.log_likelihood(field, x, scheme="midpoint", steps=5)
    rows.clear()
    found = tpf.log_likelihood(field, x, scheme="midpoint", steps=5)
    assert found.nfe == 10
    assert rows == [False, True] * 5


def test_gradients_go_as_they_went() -> None:
    field = field_of(Plain((2,)).eval(), (2,)).eval()
    x = torch.randn(4, 2, generator=seeded(), dtype=torch.float64).requires_grad_()
    plain = tpf.log_likelihood(field, x.detach(), scheme="midpoint", steps=4).log_prob
    found = tpf.log_likelihood(field, x, scheme="midpoint", steps=4, gradients=True).log_prob
    torch.testing.assert_close(found.detach(), plain, rtol=0, atol=1e-12)
    weight = field.net.first.weight
    by_x, by_weight = torch.autograd.grad(found.sum(), [x, weight])
    step = 1e-6
    moved = x.detach().clone()
    moved[1, 0] += step
    after = tpf.log_likelihood(field, moved, scheme="midpoint", steps=4).log_prob
    assert float((after - plain).sum()) / step == pytest.approx(float(by_x[1, 0]), rel=1e-3)
    with torch.no_grad():
        weight[3, 1] += step
    after = tpf.log_likelihood(field, x.detach(), scheme="midpoint", steps=4).log_prob
    assert float((after - plain).sum()) / step == pytest.approx(float(by_weight[3, 1]), rel=1e-3)


class Within(nn.Module):
    """A network that does something else in the middle of time."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.one, self.other, self.kind = Plain((2,)), Plain((2,)), kind

    def forward(self, t, x):
        value, inside = self.one(t, x), 0.3 < float(t[0]) < 0.7
        if self.kind == "weighed":
            with torch.no_grad():
                hidden = self.other(t, x)
            return value + (1.0 if inside else 0.0) * hidden
        if self.kind == "hidden" and inside:
            with torch.no_grad():
                return value + self.other(t, x)
        if self.kind == "constant" and inside:
            return torch.ones_like(x)
        return value


@pytest.mark.parametrize("kind", ["hidden", "weighed", "constant"])
@pytest.mark.parametrize("scheme", ["midpoint", "rk4"])
def test_a_network_is_looked_at_wherever_it_is_another(kind, scheme, monkeypatch) -> None:
    field = field_of(Within(kind), (2,))
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    found = [tpf.log_likelihood(field, x, scheme=scheme, steps=10, chunk=c).log_prob
             for c in (None, 2)]  # fmt: skip
    forward_only(monkeypatch)
    right = tpf.log_likelihood(field, x, scheme=scheme, steps=10).log_prob
    for one in found:
        torch.testing.assert_close(one, right, rtol=0, atol=1e-9)


def test_a_network_that_changed_since_is_looked_at_again(monkeypatch) -> None:
    net = Plain((2,))
    field = field_of(net, (2,))
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    tpf.log_likelihood(field, x, scheme="rk4", steps=4)

    def hides(module, given):
        (h,) = given
        with torch.no_grad():
            hidden = h.sin()
        return (h + hidden,)

    net.last.register_forward_pre_hook(hides)
    found = tpf.log_likelihood(field, x, scheme="rk4", steps=4).log_prob
    forward_only(monkeypatch)
    right = tpf.log_likelihood(field, x, scheme="rk4", steps=4).log_prob
    torch.testing.assert_close(found, right, rtol=0, atol=1e-12)


def test_conditions_decide_what_is_hidden(monkeypatch) -> None:
    class Strength(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = Plain((2,)), Plain((2,))

        def forward(self, t, x, w):
            with torch.no_grad():
                hidden = self.other(t, x)
            return self.one(t, x) + w[:, None] * hidden

    field = field_of(Strength(), (2,))
    x = torch.randn(30, 2, generator=seeded(), dtype=torch.float64)
    none, late = torch.zeros(30, dtype=torch.float64), torch.linspace(-1, 1, 30).clamp(min=0)
    given = [{"w": w.double()} for w in (none, late, torch.ones(30))]
    found = [tpf.log_likelihood(field, x, scheme="rk4", steps=4, cond=c).log_prob for c in given]
    forward_only(monkeypatch)
    for one, cond in zip(found, given, strict=True):
        right = tpf.log_likelihood(field, x, scheme="rk4", steps=4, cond=cond).log_prob
        torch.testing.assert_close(one, right, rtol=0, atol=1e-12)


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Plain((2,))

    def forward(self, t, x):
        return self.net(t, x - x.mean(0))


def test_networks_that_mix_rows_are_refused() -> None:
    normed = Plain((2,))
    normed.norm = nn.BatchNorm1d(24, track_running_stats=False)
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    for net in (Centred(), normed):
        field = field_of(net, (2,))
        for divergence in ("exact", "hutchinson"):
            with pytest.raises(ValueError, match="mixes the rows of a batch"):
                tpf.log_likelihood(field, x, scheme="rk4", steps=4, divergence=divergence)
