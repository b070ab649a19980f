"""Sweeps over conditions: the solves of each, with common starts and noise."""

import pytest
import torch

import transportflows as tpf

FLOW = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))


def key(seed=0):
    return torch.Generator().manual_seed(seed)


def shifted():
    """A field whose samples are those of N(c, Id), exactly: b = c for x0 + t c."""
    return tpf.Velocity(lambda t, x, *, c: c.expand_as(x), FLOW)


@pytest.mark.parametrize("how", [{}, {"epsilon": 0.5, "scheme": "heun"}, {"save_at": 3}])
def test_rows_share_their_starts_and_noise(how):
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1, labels=3, generator=key()), FLOW)
    conds = [{"label": torch.full((6,), k)} for k in (0, 1, 0)]
    found = tpf.samplers.sample_each(field, conds, 6, steps=4, generator=key(), **how)
    assert found.x.shape == (3, 6, 2)
    assert torch.equal(found.x[0], found.x[2])
    assert not torch.equal(found.x[0], found.x[1])
    if "save_at" in how:
        assert found.trajectory.shape == (3, 3, 6, 2)
        assert torch.equal(found.trajectory[-1], found.x)
        assert torch.equal(found.trajectory[0, 0], found.trajectory[0, 1])


def test_what_differs_is_the_condition_alone():
    conds = [{"c": torch.tensor([[0.0, 0.0]]).expand(5, 2)}, {"c": torch.ones(5, 2)}]
    x = tpf.samplers.sample_each(shifted(), conds, 5, steps=3, generator=key()).x
    assert torch.allclose(x[1] - x[0], torch.ones(5, 2), atol=1e-6)


def test_sweeps_that_cannot_be():
    field, c = shifted(), {"c": torch.ones(5, 2)}
    with pytest.raises(TypeError, match="conds must be a sequence"):
        tpf.samplers.sample_each(field, c, 5)
    with pytest.raises(ValueError, match="conds is empty"):
        tpf.samplers.sample_each(field, [], 5)
    with pytest.raises(ValueError, match="takes one epsilon"):
        tpf.samplers.sample_each(field, [c], 5, epsilon=[0.0, 1.0])
    with pytest.raises(ValueError, match="no cond="):
        tpf.samplers.sample_each(field, [c], 5, cond=c)
