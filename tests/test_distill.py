"""Maps made of fields: students begin as teachers, errors are told, times are chosen, guidance."""

import pytest
import torch

import transportflows as tpf
from transportflows import maps

PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def taught(kind=tpf.Velocity, labels=None, process=PROCESS, seed=0):
    """A field that has learned two modes a little."""
    generator = seeded(seed)
    net = tpf.networks.MLP(2, 32, 2, frequencies=1, labels=labels, generator=generator)
    field = kind(net, process)
    x, label = rows()
    cond = {} if labels is None else {"cond": {"label": label}, "drop_cond": 0.3}
    tpf.Trainer(field, lr=5e-3).fit(
        x, steps=300, batch_size=256, progress=False, generator=generator, **cond
    )
    return field


def rows(n=2_000):
    label = torch.randint(2, (n,), generator=seeded(1))
    x = 0.3 * torch.randn(n, 2, generator=seeded(2))
    x[:, 0] += 2.0 * label - 1
    return x, label


QUIET = {"progress": False, "batch_size": 256, "lr": 2e-3, "ema": 0.99}


@pytest.mark.parametrize("kind", [tpf.Velocity, tpf.DataPredictor])
def test_a_student_begins_as_an_euler_step_of_its_teacher(kind):
    field = taught(kind)
    student = maps.FlowMap(
        maps.two_times.student_network(field.net), PROCESS, prediction=field.outputs[0]
    )
    x = torch.randn(50, 2, generator=seeded(3))
    now = torch.tensor(0.3)
    assert torch.allclose(student.velocity(now, x), field.velocity(now, x), atol=1e-6)
    scheme = "euler" if kind is tpf.Velocity else "ddim"  # a step with d held fixed
    ahead = tpf.sample(field, start=x, t=(0.3, 0.8), steps=1, scheme=scheme).x
    assert torch.allclose(student.jump(0.3, 0.8, x), ahead, atol=1e-5)


@pytest.mark.parametrize("kind", [tpf.Velocity, tpf.DataPredictor])
def test_distillation_tells_what_it_is_worth(kind):
    field = taught(kind)
    before = [p.clone() for p in field.parameters()]
    found = maps.distill(
        field, rows()[0], steps=500, fit=QUIET, measured=500, generator=seeded(4),
        distance=tpf.metrics.energy_distance,
    )  # fmt: skip
    assert all(map(torch.equal, before, field.parameters()))
    errors = found.errors
    assert errors["map, 1 step"] < 0.5 * errors["teacher, 1 step"]
    if kind is tpf.Velocity:  # a learned data prediction is divided by 1 - t, so is its error
        assert errors["map, 4 steps"] < errors["map, 1 step"] < 0.2
        assert errors["floor"] < 1e-3
    assert found.steps == 500
    start = torch.randn(2_000, 2, generator=seeded(5))
    ends = tpf.sample(found.flow_map, start=start).x, tpf.sample(field, start=start).x
    off = float((ends[0] - ends[1]).square().mean().sqrt() / ends[1].std())
    assert off == pytest.approx(errors["map, 1 step"], rel=0.3)
    assert set(found.distances) == {"teacher", *errors}


def test_two_phases_for_a_network_of_ones_own():
    field = taught(tpf.NoisePredictor)
    with pytest.raises(TypeError, match="TwoTimes"):
        maps.distill(field, rows()[0], steps=5)
    net = maps.TwoTimes(
        tpf.networks.MLP(2, 32, 2, frequencies=1, vectors={"stop": 9}, generator=seeded(6))
    )
    found = maps.distill(
        field, rows()[0], steps=1_000, net=net, fit=QUIET, measured=500, generator=seeded(4)
    )
    assert found.steps == 1_000
    assert found.errors["map, 1 step"] < 0.5


def test_minutes_are_kept():
    found = maps.distill(
        taught(), rows()[0], minutes=0.02, fit=QUIET, measured=50, generator=seeded(4)
    )
    assert found.steps > 22


def test_guidance_is_distilled_or_applied():
    field = taught(labels=2)
    label = torch.ones(500, dtype=torch.long)
    guided = tpf.guidance.ClassifierFree(field, 2.0)
    x, labels = rows()
    net = maps.TwoTimes(
        tpf.networks.MLP(
            2, 32, 2, frequencies=1, labels=2, vectors={"stop": 9}, generator=seeded(6)
        )
    )
    found = maps.distill(
        guided, x, steps=1_500, net=net, fit=QUIET, cond={"label": labels}, measured=500,
        generator=seeded(4),
    )  # fmt: skip
    start = torch.randn(500, 2, generator=seeded(7))
    wanted = tpf.sample(guided, start=start, cond={"label": label}).x
    one = tpf.sample(found.flow_map, start=start, cond={"label": label}).x
    assert float((one - wanted).square().mean().sqrt()) < 0.25

    plain = maps.distill(
        field, x, steps=300, fit={**QUIET, "drop_cond": 0.3}, cond={"label": labels}, measured=100,
        generator=seeded(4),
    ).flow_map  # fmt: skip
    applied = maps.GuidedMap(plain, 2.0)
    none = tpf.sample(maps.GuidedMap(plain, 1.0), start=start, cond={"label": label}, steps=4).x
    assert torch.equal(none, tpf.sample(plain, start=start, cond={"label": label}, steps=4).x)
    many = tpf.sample(applied, start=start, cond={"label": label}, steps=32).x
    assert float((many - wanted).square().mean().sqrt()) < 0.3
    now = torch.tensor(0.4)
    cond = {"label": label}
    tangents = [of.velocity(now, start, cond) for of in (applied, maps.GuidedMap(plain, 1.0))]
    assert not torch.allclose(*tangents)
    with pytest.raises(ValueError, match="drop_cond"):
        maps.GuidedMap(found.flow_map, 2.0)


def test_times_are_chosen_where_jumps_are_bad():
    """A map that is exact but for ways that end between .4 and .6 avoids them."""
    law = tpf.Gaussian((2,), scale=0.4)
    oracle = tpf.oracle(PROCESS, law)

    def net(s, t, x):
        p, q = (((1 - u) ** 2 + 0.16 * u**2).sqrt()[:, None] for u in (s, t))
        gap = (t - s)[:, None]
        v = torch.where(gap.abs() > 1e-9, (q / p - 1) / gap, oracle.velocity(s, x) / x) * x
        return v + ((t - 0.5).abs() < 0.1)[:, None].to(x)

    flow = maps.FlowMap(net, PROCESS)
    found = maps.choose_times(flow, 2, field=oracle, n=200, candidates=8, generator=seeded())
    assert found.times[0] == 0
    assert abs(found.times[1] - 0.5) > 0.1
    assert found.error < 0.02 < found.uniform


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: maps.distill(f, rows()[0]), "minutes=5"),
        (lambda f: maps.distill(f, rows()[0], steps=5, minutes=1.0), "one of them"),
        (lambda f: maps.distill(f, rows()[0], steps=5, fit={"steps": 5}), "distill's own"),
        (lambda f: maps.distill(f, rows()[0], steps=5, fit={"nonsense": 5}), "nonsense"),
        (lambda f: maps.distill(torch.nn.Linear(2, 2), rows()[0], steps=5), "Field"),
        (
            lambda f: maps.choose_times(
                maps.FlowMap(lambda s, t, x: x, PROCESS, to_data=True), 2, generator=seeded()
            ),
            "t = 1 only",
        ),
        (
            lambda f: maps.choose_times(maps.FlowMap(lambda s, t, x: x, PROCESS), 20),
            "candidates",
        ),
    ],
)
def test_mistakes_are_told(make, words):
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1), PROCESS)
    with pytest.raises((TypeError, ValueError), match=words):
        make(field)
