"""A field's law as one of torch's distributions: against the oracle, differences, its own parts."""

from __future__ import annotations

import pytest
import torch

import transportflows as tpf
from transportflows.likelihood import FieldDistribution

LAW = tpf.distributions.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), scale=0.5)
PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def labelled():
    net = tpf.networks.MLP(2, 8, 2, labels=3, generator=gen())
    field = tpf.Velocity(net, PROCESS)
    x = torch.randn(96, 2, generator=gen(1))
    label = torch.arange(96) % 3
    fit = {"steps": 30, "progress": False, "generator": gen(2)}
    tpf.Trainer(field, lr=1e-2).fit(x + label[:, None], cond={"label": label}, **fit)
    return field


def test_log_prob_is_that_of_the_law_and_broadcasts():
    law = tpf.oracle(PROCESS, LAW).distribution()
    x = LAW.sample(12, generator=gen(), dtype=torch.float64).view(3, 4, 2)
    found = law.log_prob(x)
    assert found.shape == (3, 4)
    assert torch.allclose(found, LAW.log_prob(x.view(-1, 2)).view(3, 4), atol=1e-4)
    assert law.log_prob(x[0, 0]).shape == ()
    independent = torch.distributions.Independent(law.expand((4,)), 1)
    assert torch.allclose(independent.log_prob(x), found.sum(1), atol=1e-5)


def test_samples_are_of_the_law():
    law = tpf.oracle(PROCESS, LAW).distribution(sampling={"steps": 30})
    torch.manual_seed(0)
    x = law.sample((2_000,))
    assert x.shape == (2_000, 2)
    assert not x.requires_grad
    assert tpf.metrics.energy_test(x, LAW.sample(2_000, generator=gen(5))).p_value > 1e-3
    own = tpf.oracle(PROCESS, LAW).distribution(sampling={"generator": gen(3), "steps": 5})
    again = tpf.oracle(PROCESS, LAW).distribution(sampling={"generator": gen(3), "steps": 5})
    assert torch.equal(own.sample((4,)), again.sample((4,)))


def test_a_batch_of_conditions():
    field, label = labelled(), torch.tensor([0, 2])
    options = {
        "sampling": {"steps": 6, "generator": gen(4)},
        "density": {"scheme": "rk4", "steps": 20},
    }
    law = field.distribution({"label": label}, **options)
    assert (law.batch_shape, law.event_shape) == ((2,), (2,))
    x = law.sample((5,))
    assert x.shape == (5, 2, 2)
    whole = tpf.sample(field, 10, cond={"label": label.repeat(5)}, steps=6, generator=gen(4)).x
    assert torch.equal(x.view(10, 2), whole)
    for k in (0, 1):
        one = field.distribution({"label": int(label[k])}, **options)
        assert one.batch_shape == ()
        assert torch.allclose(law.log_prob(x)[:, k], one.log_prob(x[:, k]), atol=1e-4)
    every = law.log_prob(x[:, :1])  # one event for the whole batch
    assert every.shape == (5, 2)
    assert torch.allclose(every[:, 0], law.log_prob(x)[:, 0], atol=1e-4)
    three = field.distribution({"label": torch.tensor([1])}, **options).expand((3,))
    assert three.sample().shape == (3, 2)
    with pytest.raises(ValueError, match="not expanded"):
        law.expand((3,))


def test_the_gradient_of_rsample_is_that_of_differences():
    net = tpf.networks.MLP(2, 8, 2, vectors={"y": 1}, generator=gen()).double()
    field = tpf.Velocity(net, PROCESS)

    def value(y):
        law = field.distribution({"y": y}, sampling={"steps": 8, "generator": gen(7)})
        return law.rsample((3,)).square().sum()

    y = torch.tensor([[0.3], [-0.4]], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(value(y), y)
    for k in range(2):
        h = torch.zeros_like(y)
        h[k] = 1e-5
        with torch.no_grad():
            difference = (value(y + h) - value(y - h)) / 2e-5
        assert torch.isclose(found[k, 0], difference, rtol=1e-3)
    loss = value(y)
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_it_is_a_base_of_another_process():
    law = tpf.oracle(PROCESS, LAW).distribution(sampling={"steps": 20})
    process = tpf.Process(tpf.Linear(), base=law)
    x1 = torch.zeros(2_000, 2)
    x0 = process.sample(x1, t=torch.zeros(2_000), generator=gen()).x
    assert tpf.metrics.energy_test(x0, LAW.sample(2_000, generator=gen(5))).p_value > 1e-3
    again = process.sample(x1, t=torch.zeros(2_000), generator=gen()).x
    assert torch.equal(x0, again)


PROCESSES = {
    "linear": PROCESS,
    "a latent": tpf.Process(tpf.Linear(tpf.Brownian(0.5)), base=tpf.Gaussian((2,))),
    "one-sided": tpf.Process(tpf.OneSidedLinear(), shape=(2,)),
}


@pytest.mark.parametrize("kind", PROCESSES)
def test_log_prob_is_that_of_the_oracle(kind):
    """Asked: 1e-4 nats; far out, where a log-density is itself large, 1e-5 of it. In float64."""
    exact = tpf.oracle(PROCESSES[kind], LAW)
    near = LAW.sample(40, generator=gen(8), dtype=torch.float64)
    x = torch.cat([near, 2.5 * torch.randn(40, 2, generator=gen(8), dtype=torch.float64)])
    found, true = exact.distribution().log_prob(x), LAW.log_prob(x)
    assert torch.allclose(found[:40], true[:40], rtol=0, atol=1e-4)
    assert torch.allclose(found, true, rtol=1e-5, atol=1e-4)
    at_one = exact.log_prob(torch.tensor(1.0, dtype=torch.float64), x)
    assert torch.allclose(true, at_one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_the_gradient_of_rsample_in_parameters_is_that_of_differences(epsilon):
    """Asked: 1e-3; by ODE and by SDE, in every parameter of the network."""
    net = tpf.networks.MLP(2, 4, 1, generator=gen()).double()
    field = tpf.Velocity(net, PROCESS)

    def value():
        options = {"steps": 6, "scheme": "heun", "epsilon": epsilon, "generator": gen(9)}
        return field.distribution(sampling=options).rsample((4,)).cos().sum()

    names, parameters = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(value(), parameters)
    for name, parameter, gradient in zip(names, parameters, found, strict=True):
        direction = torch.randn(parameter.shape, generator=gen(10), dtype=torch.float64)
        with torch.no_grad():
            parameter += 1e-5 * direction
            more = value()
            parameter -= 2e-5 * direction
            less = value()
            parameter += 1e-5 * direction
        slope = (gradient * direction).sum()
        assert torch.isclose(slope, (more - less) / 2e-5, rtol=1e-3, atol=1e-9), name


def test_a_field_may_start_from_the_law_of_another():
    """Its samples are those of the first, carried on, and so is its log-density."""
    shift = torch.tensor([2.0, -1.0])
    first = tpf.oracle(PROCESS, LAW).distribution(sampling={"steps": 30})
    second = tpf.Velocity(
        lambda t, x: shift.to(x).expand_as(x), tpf.Process(tpf.Linear(), base=first)
    )
    x = tpf.sample(second, 2_000, steps=4, generator=gen()).x
    fresh = LAW.sample(2_000, generator=gen(5)) + shift
    assert tpf.metrics.energy_test(x, fresh, generator=gen(6)).p_value > 1e-3
    points = LAW.sample(20, generator=gen(7), dtype=torch.float64)
    found = tpf.log_likelihood(second, points + shift).log_prob
    assert torch.allclose(found, LAW.log_prob(points), rtol=0, atol=1e-4)
    net = tpf.networks.MLP(2, 8, 1, generator=gen())
    trained = tpf.Velocity(net, second.process)
    history = tpf.Trainer(trained).fit(fresh, steps=5, progress=False, generator=gen())
    assert len(history) == 5
    assert trained.distribution(sampling={"steps": 3}).sample((4,)).shape == (4, 2)


def test_arrays_are_points_too():
    law = tpf.oracle(PROCESS, LAW).distribution(density={"scheme": "rk4", "steps": 10})
    x = LAW.sample(5, generator=gen())
    assert torch.equal(law.log_prob(x.double().numpy()), law.log_prob(x))


def test_refusals():
    field = labelled()
    with pytest.raises(ValueError, match="as many rows"):
        field.distribution({"label": torch.zeros(2), "other": torch.zeros(3)})
    with pytest.raises(ValueError, match="label"):
        field.distribution().sample()
    with pytest.raises(ValueError, match=r"values are \(\.\.\., 2\)"):
        field.distribution({"label": 1}).log_prob(torch.zeros(4, 3))
    open_ = tpf.Velocity(tpf.networks.MLP(2), tpf.Process(tpf.VP()))
    with pytest.raises(ValueError, match="no event shape"):
        open_.distribution()
    with pytest.raises(TypeError, match="Field"):
        FieldDistribution(torch.nn.Linear(2, 2))


def test_log_prob_has_the_gradient_that_was_asked_for():
    """In values and conditions that require grad, as every law of torch has it."""
    law = tpf.oracle(PROCESS, LAW).distribution()
    x = LAW.sample(4, generator=gen(), dtype=torch.float64).requires_grad_()
    (found,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    (right,) = torch.autograd.grad(LAW.log_prob(x).sum(), x)
    assert torch.allclose(found, right, atol=1e-3)
    assert not law.log_prob(x.detach()).requires_grad
    with torch.no_grad():
        assert not law.log_prob(x).requires_grad
    net = tpf.networks.MLP(2, 8, 1, vectors={"y": 3}, generator=gen())
    y = torch.randn(2, 3, generator=gen(1)).requires_grad_()
    short = {"scheme": "rk4", "steps": 4}
    told = tpf.Velocity(net, PROCESS).distribution({"y": y}, density=short)
    (slope,) = torch.autograd.grad(told.log_prob(torch.zeros(2)).sum(), y)
    assert bool((slope != 0).any())


def test_arrays_are_conditions_too():
    net = tpf.networks.MLP(2, 8, 1, vectors={"y": 3}, generator=gen())
    field, y = tpf.Velocity(net, PROCESS), torch.randn(4, 3, generator=gen(1))
    laws = [
        field.distribution(
            {"y": given}, sampling={"steps": 3}, density={"scheme": "rk4", "steps": 3}
        )
        for given in (y, y.double().numpy())
    ]
    assert laws[1].batch_shape == (4,)
    assert laws[1].sample((5,)).shape == (5, 4, 2)
    assert torch.equal(*[law.log_prob(torch.zeros(2)) for law in laws])
    assert repr(laws[1]) == "FieldDistribution(Velocity, batch_shape=(4,), event_shape=(2,))"


def test_no_rows_are_drawn_and_judged_as_torch_has_it():
    law = tpf.oracle(PROCESS, LAW).distribution()
    assert law.sample((0,)).shape == (0, 2)
    assert law.rsample((3, 0)).shape == (3, 0, 2)
    assert law.log_prob(torch.zeros(0, 2)).shape == (0,)
    with pytest.raises(ValueError, match="one epsilon"):
        tpf.oracle(PROCESS, LAW).distribution(sampling={"epsilon": [0.0, 1.0]})
