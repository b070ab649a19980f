"""Iterated Markovian fitting: towards the exact bridge, in rounds that can be taken up again."""

import warnings

import pytest
import torch

import transportflows as tpf
from transportflows.bridges import BridgeDrift, gaussian_bridge, iterate

A = 1.0
BASE, DATA = tpf.Gaussian((2,)), tpf.Gaussian((2,), 1.0, 0.7)
PAIRS = gaussian_bridge(BASE, DATA, A)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def process(**options):
    given = {"base": BASE, "coupling": tpf.Paired(), **options}
    return tpf.Process(tpf.Linear(tpf.Brownian(A)), **given)


def nets(seed=0, width=32, depth=2, count=2):
    draws = seeded(seed)
    return [tpf.networks.MLP(2, width=width, depth=depth, generator=draws) for _ in range(count)]


def drifts(seed=0, **size):
    first, second = nets(seed, **size)
    return BridgeDrift(forward=first, backward=second, process=process())


def ends(n=4000, seed=1):
    draws = seeded(seed)
    return BASE.sample(n, generator=draws), DATA.sample(n + 7, generator=draws)


def small(field):
    return tpf.Trainer(field, lr=3e-3, ema=0.98)


KINDS = {
    "drifts": drifts,
    "pair": lambda: tpf.FieldPair(
        mean_velocity=nets()[0], noise=nets(5)[1], process=process()
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_come_to_the_bridge(kind):
    """The plan's cost and cross covariance, forward and backward, from independent pairs."""
    field, (x0, x1) = KINDS[kind](), ends()
    done = iterate(
        field, x0, x1, rounds=5, steps=20, trainer=small, generator=seeded(3),
        fit={"steps": 400, "batch_size": 256, "progress": False},
    )  # fmt: skip
    assert [one.pairs for one in done] == ["given", "backward", "forward", "backward", "forward"]
    cross = PAIRS.blocks()[2][0]
    exact = float(2 + 2 * 0.49 - 2 * cross.trace()) + 2.0
    assert done[0].cost > exact + 1.2
    assert abs(done[-1].cost - exact) < 0.3
    for way, start, law in (((0.0, 1.0), x0, DATA), ((1.0, 0.0), x1, BASE)):
        x = tpf.sample(field, start=start, epsilon=A / 2, t=way, steps=40, generator=seeded(4)).x
        both = torch.cov(torch.cat([start, x], 1).mT)
        found = both[:2, 2:] if way[0] == 0 else both[:2, 2:].mT
        assert float((found - cross.float()).abs().max()) < 0.12
        assert float((x.mean(0) - law.mean.float()).abs().max()) < 0.15
        assert float((both[2:, 2:] - law.covariance().float()).abs().max()) < 0.2


def test_rounds_are_taken_up_where_they_stopped(tmp_path):
    x0, x1 = ends(200)
    how = {
        "steps": 5, "trainer": small, "fit": {"steps": 10, "batch_size": 32, "progress": False},
    }  # fmt: skip
    whole = drifts(width=8, depth=1)
    asked = iterate(whole, x0, x1, rounds=4, generator=seeded(2), **how)
    first = drifts(width=8, depth=1)
    iterate(first, x0, x1, rounds=2, folder=tmp_path, generator=seeded(2), **how)
    other = drifts(seed=9, width=8, depth=1)
    found = iterate(other, x0, x1, rounds=4, folder=tmp_path, generator=seeded(2), **how)
    assert found == asked
    for one, two in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(ValueError, match="another seed"):
        iterate(other, x0, x1, rounds=4, folder=tmp_path, generator=seeded(3), **how)


def test_first_pairs_may_be_given():
    field = drifts(width=8, depth=1)
    pairs = PAIRS.sample(100, generator=seeded(1))
    done = iterate(
        field, *ends(200), rounds=1, pairs=pairs,
        fit={"steps": 2, "batch_size": 32, "progress": False},
    )  # fmt: skip
    assert done[0].cost == pytest.approx(float((pairs[1] - pairs[0]).square().sum(1).mean()))


def test_units_are_those_of_the_data():
    """With a Standardize the pairs of a round are in the data's units, and so is their cost."""
    x0, x1 = (100 * rows for rows in ends(500))
    first, second = nets(width=8, depth=1)
    transform = tpf.Standardize.fit(x1)
    base = tpf.distributions.Transformed(tpf.distributions.Empirical(x0), transform)
    field = BridgeDrift(
        forward=first, backward=second, process=process(base=base), transform=transform
    )
    done = iterate(
        field, x0, x1, rounds=2, steps=5, generator=seeded(),
        fit={"steps": 2, "batch_size": 32, "progress": False},
    )  # fmt: skip
    assert done[0].cost > 1e4


def test_what_cannot_be_iterated_is_refused():
    x0, x1 = ends(50)
    fit = {"steps": 1, "batch_size": 8, "progress": False}
    one = BridgeDrift(forward=nets()[0], process=process())
    cases = [
        (one, "backward drift|forward drift"),
        (tpf.Velocity(nets()[0], tpf.Process(tpf.Linear(), base=BASE)), "Brownian motion"),
        (
            tpf.FieldPair(mean_velocity=nets()[0], noise=nets()[1], process=process(coupling=None)),
            "Paired",
        ),
    ]
    for field, words in cases:
        with pytest.raises(ValueError, match=words):
            iterate(field, x0, x1, rounds=1, fit=fit)
    field = drifts()
    for bad in (x0[:, :1], x0 * torch.nan):
        with pytest.raises(ValueError, match="x0"):
            iterate(field, bad, x1, rounds=1, fit=fit)
    with pytest.raises(ValueError, match="rounds"):
        iterate(field, x0, x1, rounds=0, fit=fit)


def test_rounds_of_another_run_are_not_taken_up(tmp_path):
    """Other data, first pairs, steps, processes and networks are told, and the field left alone."""
    x0, x1 = ends(100)
    fit = {"steps": 2, "batch_size": 16, "progress": False}

    def go(field=None, x0=x0, x1=x1, rounds=2, **changed):
        given = {"steps": 3, "fit": fit, "folder": tmp_path, "generator": seeded(2), **changed}
        return iterate(field or drifts(width=8, depth=1), x0, x1, rounds=rounds, **given)

    go()
    first, second = nets(width=8, depth=1)
    wide = process(base=tpf.Gaussian((2,), 0.0, 2.0))
    cases = {
        "x0": {"x0": x0 + 1},
        "x1": {"x1": x1 + 1},
        "pairs": {"pairs": (x0, x0)},
        "fit.steps": {"fit": {**fit, "steps": 3}},
        "steps": {"steps": 4},
        "process": {"field": BridgeDrift(forward=first, backward=second, process=wide)},
        "field.": {"field": drifts(width=4, depth=1)},
        "kind": {"field": tpf.FieldPair(mean_velocity=first, noise=second, process=process())},
    }
    for name, changed in cases.items():
        field = changed.get("field", drifts(width=8, depth=1))
        before = [p.clone() for p in field.parameters()]
        with pytest.raises(ValueError, match=rf"of another run: {name}.* another folder"):
            go(**{"field": field, **changed}, rounds=3)
        assert all(map(torch.equal, before, field.parameters()))
    more = {**fit, "progress": True, "workers": 0}  # which change no numbers
    assert len(go(rounds=3, fit=more)) == 3


def test_what_a_later_round_needs_is_asked_for_at_once():
    """A velocity has no score: known before anything is trained."""
    field = tpf.Velocity(nets(width=8, depth=1)[0], process())
    before = [p.clone() for p in field.parameters()]
    fit = {"steps": 2, "batch_size": 16, "progress": False}
    with pytest.raises(tpf.ConversionError, match="FieldPair"):
        iterate(field, *ends(50), rounds=2, fit=fit)
    assert all(map(torch.equal, before, field.parameters()))


def test_another_epsilon_is_told_of_a_pair_that_was_iterated(tmp_path):
    """Of a pair too, which knows nothing of bridges, and of one that was saved."""
    field, (x0, x1) = KINDS["pair"](), ends(60)
    iterate(field, x0, x1, rounds=2, steps=2, fit={"steps": 2, "batch_size": 16, "progress": False})
    field.save(tmp_path / "field")
    for each in (field, tpf.load_field(tmp_path / "field")):
        with pytest.warns(tpf.bridges.PathLawWarning, match=r"a/2 = 0\.5"):
            tpf.sample(each, 4, steps=3, epsilon=2.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", tpf.bridges.PathLawWarning)
            tpf.sample(each, 4, steps=3, epsilon=A / 2)
            tpf.sample(each, 4, steps=3)
