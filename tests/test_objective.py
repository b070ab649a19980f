"""A step in parts, in half precision, compiled: the same step, or as near as it should be."""

from __future__ import annotations

import pytest
import torch

import transportflows as tpf
from test_training import gen, mlp, rows, run, same, velocity, weights
from transportflows.losses.base import as_loss
from transportflows.training.objective import Objective


def pair():
    process = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((2,)), tpf.MinibatchOT())
    return tpf.FieldPair(velocity=mlp(), noise=mlp(), process=process)


class Own(tpf.losses.Loss):
    def __call__(self, field, batch, *, generator=None):
        return tpf.VelocityLoss()(field, batch, generator=generator)


class Overridden(tpf.VelocityLoss):
    """A regression that says itself what a call is."""

    def __call__(self, field, batch, *, generator=None):
        return 2 * super().__call__(field, batch, generator=generator)


TWO = [tpf.VelocityLoss(antithetic=True, times=tpf.times.StratifiedTimes()), tpf.NoiseLoss()]
FIELDS = {
    "velocity": (velocity, tpf.VelocityLoss()),
    "pair, transport, antithetic, strata": (pair, TWO),
    "score": (
        lambda: tpf.Score(mlp(), tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))),
        tpf.ScoreLoss(weight=lambda t: (1 - t).square() + 0.1),
    ),
    "without the constant": (velocity, tpf.VelocityLoss(constant=False)),
}


@pytest.mark.parametrize("parts", [2, 3, 32])
@pytest.mark.parametrize("case", FIELDS)
def test_parts_make_the_same_step(case, parts):
    make, loss = FIELDS[case]
    whole = run(make(), steps=60, loss=loss)
    parted = run(make(), steps=60, loss=loss, accumulate=parts)
    for a, b in zip(weights(whole), weights(parted), strict=True):
        assert (a - b).norm() <= 2e-6 * a.norm()
    assert abs(whole.history.loss - parted.history.loss).max() < 1e-6
    assert not same(weights(whole), weights(run(make(), steps=60, loss=loss, key=4)))


def doubled(field, batch, generator):
    return 2 * tpf.VelocityLoss()(field, batch, generator=generator)


@pytest.mark.parametrize("loss", [Own(), Overridden(), doubled])
def test_parts_of_a_loss_that_does_not_split_are_its_own_draws(loss):
    """The first part draws what a batch of its rows would; the parts together are a mean."""
    field, batch = velocity(), tpf.Batch(rows(12))
    objective = Objective(as_loss(loss), field, accumulate=3)
    generator = gen(5)
    values, times = zip(*objective.values(batch, generator, 0), strict=True)
    assert [len(v) for v in values] == [4, 4, 4]
    assert times == (None, None, None)
    again = gen(5)
    for k, value in enumerate(values):
        assert torch.equal(value, loss(field, batch.rows(4 * k, 4 * k + 4), generator=again))
    given = as_loss(Overridden())(field, batch, generator=gen(5))
    assert torch.equal(given, doubled(field, batch, gen(5)))


def test_times_go_with_their_rows():
    field, batch = pair(), tpf.Batch(rows(12))
    objective = Objective(tpf.losses.SumLoss(*TWO), field, accumulate=5)
    parts = objective.values(batch, gen(5), 0)
    times = torch.cat([t for _, t in parts])
    values = torch.cat([v for v, _ in parts], dim=1)
    sample = TWO[0].draw(field, batch, generator=gen(5))
    assert torch.equal(times, sample.t[:12])
    expected = tpf.losses.SumLoss(*TWO).terms(field, sample)
    assert torch.allclose(values, expected, atol=1e-6)


# --------------------------------------------------------------------------------- bfloat16


@pytest.mark.parametrize("case", FIELDS)
def test_bfloat16_is_for_the_network_alone(case):
    """The products of the network are halves; the loss, gradients and weights are not."""
    make, loss = FIELDS[case]
    field, batch = make(), tpf.Batch(rows(64))
    loss = tpf.losses.SumLoss(*loss) if isinstance(loss, list) else loss
    kinds = []
    layer = next(m for m in field.networks[0].modules() if isinstance(m, torch.nn.Linear))
    layer.register_forward_hook(lambda module, given, out: kinds.append(out.dtype))
    found = {}
    for dtype in (None, torch.bfloat16):
        objective = Objective(loss, field, autocast=dtype)
        ((values, _),) = objective.values(batch, gen(5), 0)
        assert values.dtype == torch.float32
        values.mean().backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in field.parameters()])
        assert gradient.dtype == torch.float32
        found[dtype] = (values.detach(), gradient)
        field.zero_grad()
    assert kinds == [torch.float32, torch.bfloat16]
    (exact, slope), (half, half_slope) = found.values()
    assert 0 < (exact - half).norm() < 0.02 * exact.norm()
    assert 0 < (slope - half_slope).norm() < 0.05 * slope.norm()
    # Were the sum over events made in halves too, values would have 8 bits.
    assert not torch.equal(half, half.bfloat16().float())


def test_bfloat16_trains_as_well():
    data = tpf.datasets.eight_gaussians(4_000, generator=gen(1))
    kwargs = {"data": data, "steps": 400, "batch_size": 256, "lr": 3e-3}
    held_out = {"fit": {"validation": data[:500]}}
    exact, half = (run(autocast=dtype, **kwargs, **held_out) for dtype in (None, torch.bfloat16))
    start = float(run(data=data, steps=1, **held_out).history.validation.loss[0])
    losses = [float(t.history.validation.loss[-1]) for t in (exact, half)]
    assert losses[0] < 0.8 * start
    assert abs(losses[0] - losses[1]) < 0.02 * losses[0]
    assert all(p.dtype == torch.float32 for p in half.parameters)


# ------------------------------------------------------------------------------------ compiled


OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)


@pytest.mark.skipif(OLD, reason="an older torch traces less of a step, which is eager there")
def test_compiled_networks_train_the_same():
    plain = run(steps=20)
    compiled = run(steps=20, compile={"backend": "aot_eager"})
    assert compiled.compiled.reason is None
    for a, b in zip(weights(plain), weights(compiled), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert list(compiled.field.state_dict()) == list(plain.field.state_dict())
    with torch.no_grad():
        t, x = torch.tensor(0.3), rows(9)
        assert torch.allclose(compiled.field(t, x), plain.field(t, x), atol=1e-5)


@pytest.mark.skipif(OLD, reason="an older torch traces less of a step, which is eager there")
def test_compile_is_called_once_for_the_whole_step_with_its_arguments():
    seen = []

    def backend(graph, example):
        seen.append(graph)
        return graph.forward

    field = pair()
    run(field, loss=TWO, steps=2, compile={"backend": backend})
    assert len(seen) <= 2  # one graph of the forward and the backward pass
    assert all(net._compiled_call_impl is None for net in field.networks)


def test_networks_are_compiled_alone_where_the_step_is_no_graph():
    """EDM converts what its network gives."""
    process = tpf.Process(tpf.VE(), shape=(2,))
    fields = [tpf.EDM(mlp(), process, sigma_data=1.0) for _ in range(2)]
    with pytest.warns(UserWarning, match="the networks alone are compiled"):
        compiled = run(fields[0], loss=tpf.DataLoss(), steps=9, compile={"backend": "aot_eager"})
    plain = run(fields[1], loss=tpf.DataLoss(), steps=9)
    assert all(net._compiled_call_impl is not None for net in fields[0].networks)
    for a, b in zip(weights(plain), weights(compiled), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"accumulate": 0}, ValueError, "accumulate must be a positive integer, got 0"),
        ({"accumulate": 1.5}, ValueError, r"accumulate must be an? (positive )?integer, got 1.5"),
        ({"autocast": torch.float16}, ValueError, "gradients scaled.*use torch.bfloat16"),
        ({"autocast": "bf16"}, ValueError, "torch.bfloat16 or None, got 'bf16'"),
        ({"compile": "max"}, TypeError, "arguments of torch.compile.*got 'max'"),
    ],
)
def test_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        tpf.Trainer(velocity(), tpf.VelocityLoss(), **arguments)


def test_refuses_to_compile_what_is_no_module():
    net = mlp()
    field = tpf.Velocity(lambda t, x: net(t, x), velocity().process)
    optimizer = torch.optim.Adam(net.parameters())
    with pytest.raises(TypeError, match=r"give torch\.compile"):
        tpf.Trainer(field, tpf.VelocityLoss(), optimizer=optimizer, compile=True)
