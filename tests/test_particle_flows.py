"""Algorithm 1: its steps, its schedules, what it returns, what it refuses."""

import math

import pytest
import torch

import transportflows as tpf
from transportflows._core.random import draw_key, mix, stream

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


SIGMAS = [
    tpf.particles.CosineSigma(2.0, 0.5),
    tpf.particles.ModifiedCosineSigma(2.0, 0.5),
    tpf.particles.ExponentialSigma(2.0, 0.5),
]


# ----------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("sigma", SIGMAS, ids=lambda s: type(s).__name__)
def test_sigma_falls_from_end_to_end(sigma):
    table = sigma.table(101)
    assert float(table[0]) == pytest.approx(2.0, rel=1e-12)
    assert float(table[-1]) == pytest.approx(0.5, rel=1e-12)
    assert bool((table.diff() < 0).all())


def test_schedules_are_their_formulas():
    u = torch.tensor([0.25], dtype=DOUBLE)
    t = 0.25 * (2 / math.pi) * math.acos(0.25 / 4)
    modified = tpf.particles.ModifiedCosineSigma(2.0, 0.5).value(u)
    assert float(modified**2) == pytest.approx(4 * math.cos(math.pi * t / 2))
    cosine = tpf.particles.CosineSigma(2.0, 0.5).value(u)
    assert float(cosine**2) == pytest.approx(0.25 + 3.75 * (1 + math.cos(math.pi / 4)) / 2)
    assert float(tpf.particles.ExponentialSigma(2.0, 0.5).value(u)) == pytest.approx(2 * 0.25**0.25)
    assert float(tpf.particles.CosineStep(3.0, floor=0.2).factor(u)) == pytest.approx(
        0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2
    )
    assert float(tpf.particles.ExponentialStep(ratio=0.01).factor(u)) == pytest.approx(0.01**0.25)


def test_the_steps_of_a_diffusion_telescope():
    sigma = tpf.particles.ExponentialSigma(10.0, 0.1).table(30)
    rho = tpf.particles.DiffusionStep().table(sigma)
    kept = torch.cumprod(1 - rho, 0)[:-1]
    torch.testing.assert_close(kept, (sigma[1:] / sigma[0]).square())
    assert float(rho[-1]) == 1.0


# --------------------------------------------------------------------------------------- steps


def test_two_steps_of_algorithm_1_by_hand():
    """z = y + σ ε, y <- y + η Δ(z), with the noise of (key, step)."""
    y, x = normal(20, 2), normal(30, 2, seed=1) + 2
    key = draw_key(seeded(5))
    expected = y
    for i, (sigma, eta) in enumerate([(2.0, 0.6), (0.5, 0.3)]):
        epsilon = torch.randn(20, 2, generator=stream(key, 0, i), dtype=DOUBLE)
        z = expected + sigma * epsilon
        swarm = tpf.particles.Swarm(expected, expected, x, sigma)
        expected = expected + eta * tpf.particles.KernelDifference()(z, swarm)
    found = tpf.particle_flow(
        y,
        x,
        steps=2,
        sigma=tpf.particles.ModifiedCosineSigma(2.0, 0.5),
        step=tpf.particles.CosineStep(0.6, floor=0.5),
        generator=seeded(5),
    )
    torch.testing.assert_close(found.x, expected)
    assert found.nfe == 2
    assert found.t.tolist() == [0.0, 0.5, 1.0]
    assert found.scheme == "KernelDifference"


@pytest.mark.parametrize("norm", [0.5, 2.0])
def test_the_automatic_first_step_has_a_mean_norm(norm):
    y, x = normal(200, 3), normal(300, 3, seed=1) + 4
    schedule = None if norm == 0.5 else tpf.particles.CosineStep(norm=norm)
    moved = tpf.particle_flow(y, x, steps=5, sigma=1.0, step=schedule, save_at=[0.0, 0.2])
    first = (moved.trajectory[1] - moved.trajectory[0]).norm(dim=1).mean()
    assert float(first) == pytest.approx(norm, rel=1e-10)


def test_moving_the_target_is_the_flow_with_ends_swapped():
    """dx = -dz (Weber 2023, below 13)."""
    y, x = normal(40, 2), normal(40, 2, seed=1) + 3
    options = {"steps": 20, "sigma": 0.8, "step": 0.5}
    moved = tpf.particle_flow(y, x, moves="target", generator=seeded(), **options)
    swapped = tpf.particle_flow(x, y, generator=seeded(), **options)
    torch.testing.assert_close(moved.x, swapped.x)
    assert float((moved.x.mean(0) - y.mean(0)).norm()) < 0.5


def test_a_batch_moves_its_own_rows_and_sees_no_others():
    y, x = normal(50, 2), normal(60, 2, seed=1) + 3
    moved = tpf.particle_flow(y, x, steps=1, sigma=0.8, step=0.5, batch_size=8, generator=seeded())
    changed = (moved.x != y).any(1)
    assert int(changed.sum()) == 8
    key = draw_key(seeded())
    rows = torch.randperm(50, generator=stream(key, 1, 0))[:8]
    seen = x[torch.randperm(60, generator=stream(key, 2, 0))[:8]]
    epsilon = torch.randn(8, 2, generator=stream(key, 0, 0), dtype=DOUBLE)
    swarm = tpf.particles.Swarm(y[rows], y[rows], seen, 0.8)
    delta = tpf.particles.KernelDifference()(y[rows] + 0.8 * epsilon, swarm)
    torch.testing.assert_close(moved.x[rows], y[rows] + 0.5 * delta)
    every = tpf.particle_flow(
        y, x, steps=1, sigma=0.8, step=0.5, batch_size=8, move_all=True, generator=seeded()
    )
    assert bool((every.x != y).any(1).all())


def test_mmd_has_noise_of_its_own():
    """Noise injection β is not the bandwidth: with β = 0 the flow is the same for any seed."""
    y, x = normal(30, 2), normal(30, 2, seed=1) + 1
    options = {"steps": 3, "sigma": 1.0, "step": 0.5}
    still = [
        tpf.particle_flow(
            y, x, direction=tpf.particles.MMDGradient(injection=0.0), generator=seeded(s), **options
        ).x
        for s in (0, 1)
    ]
    assert torch.equal(*still)
    first = tpf.particle_flow(
        y, x, direction=tpf.particles.MMDGradient(injection=3.0), generator=seeded(),
        steps=1, sigma=1.0, step=0.5,
    ).x  # fmt: skip
    epsilon = torch.randn(30, 2, generator=stream(draw_key(seeded()), 0, 0), dtype=DOUBLE)
    delta = tpf.particles.MMDGradient()(y + 3 * epsilon, tpf.particles.Swarm(y, y, x, 1.0))
    torch.testing.assert_close(first, y + 0.5 * delta)


def test_the_flow_reaches_the_target():
    """From 14 away: the law of the particles is that of the target, for the energy test."""
    law = tpf.distributions.GaussianMixture(torch.tensor([[0.0, 0.0], [3.0, 1.0]]), scale=0.5)
    x = law.sample(500, generator=seeded(), dtype=DOUBLE)
    held_out = law.sample(500, generator=seeded(1), dtype=DOUBLE)
    y = normal(400, 2, seed=2) - 10
    moved = tpf.particle_flow(
        y,
        x,
        sigma=tpf.particles.ExponentialSigma(4.0, 0.4),
        step=1.0,
        steps=200,
        generator=seeded(),
    ).x
    assert tpf.metrics.energy_test(moved, held_out, generator=seeded()).p_value > 0.01


def test_a_law_as_the_target_is_drawn_afresh_and_one_as_the_source_once():
    law = tpf.Gaussian((2,), 4.0, 0.5)
    runs = [
        tpf.particle_flow(
            tpf.Gaussian((2,)), law, n=300, steps=60, sigma=1.0, step=0.7, generator=seeded()
        ).x
        for _ in range(2)
    ]
    assert torch.equal(*runs)
    assert float((runs[0].mean(0) - 4).norm()) < 0.3


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("shape", [(1,), (2, 3)])
def test_any_event_shape_and_dtype_and_the_same_seed_the_same_bits(shape, dtype):
    y, x = normal(30, *shape).to(dtype), normal(40, *shape, seed=1).to(dtype) + 2
    runs = [
        tpf.particle_flow(y, x, steps=40, sigma=1.0, step=1.0, generator=seeded()) for _ in range(2)
    ]
    assert torch.equal(runs[0].x, runs[1].x)
    flat = tpf.particle_flow(
        y.flatten(1), x.flatten(1), steps=40, sigma=1.0, step=1.0, generator=seeded()
    )
    torch.testing.assert_close(runs[0].x, flat.x.view_as(y), rtol=1e-4, atol=1e-4)
    assert float((runs[0].x.mean(0) - x.mean(0)).abs().max()) < 0.6
    assert torch.equal(y, normal(30, *shape).to(dtype))  # left as it was


# --------------------------------------------------------------------------- what it returns


def test_trajectories_hooks_and_early_stops():
    y, x = normal(50, 2), normal(60, 2, seed=1) + 3
    options = {"steps": 100, "sigma": 0.8, "step": 0.5}
    whole = tpf.particle_flow(y, x, save_at=[0.0, 0.3, 1.0], generator=seeded(), **options)
    torch.testing.assert_close(whole.saved_at, torch.tensor([0.0, 0.3, 1.0], dtype=DOUBLE))
    assert torch.equal(whole.trajectory[0], y)
    assert torch.equal(whole.trajectory[2], whole.x)
    seen = []

    def watch(moment):
        seen.append(moment.step)
        if moment.step == 30:
            moment.stop()

    short = tpf.particle_flow(y, x, hooks=[watch], generator=seeded(), **options)
    assert seen == list(range(1, 31))
    assert short.nfe == 30
    assert float(short.t[-1]) == pytest.approx(0.3)
    assert torch.equal(short.x, whole.trajectory[1])
    settled = tpf.particle_flow(
        y, x, steps=400, sigma=0.8, step=tpf.particles.ExponentialStep(0.5, ratio=1e-4),
        tolerance=1e-2, generator=seeded(),
    )  # fmt: skip
    assert 50 < settled.nfe < 400
    assert settled.nfe % 50 == 0
    last = tpf.particle_flow(
        y, x, steps=400, sigma=0.8, step=tpf.particles.ExponentialStep(0.5, ratio=1e-4),
        save_at=[(settled.nfe - 51) / 400, (settled.nfe - 50) / 400, (settled.nfe - 1) / 400],
        generator=seeded(),
    ).trajectory  # fmt: skip
    moved = [(last[1] - last[0]), (settled.x - last[2])]
    before, now = (float(m.norm(dim=1).mean()) for m in moved)
    assert now <= 1e-2 < before


def test_the_tolerance_is_on_the_rows_that_move():
    """With a still direction of length 1 every step moves its batch by η."""
    y = normal(50, 2)
    ahead = tpf.particles.ScoreDifference(lambda z, s: torch.ones_like(z) / 2**0.5, lambda z, s: 0)
    options = {"direction": ahead, "steps": 200, "step": 0.1, "batch_size": 5}
    for tolerance, steps in ((0.09, 200), (0.11, 50)):
        for whole in (False, True):
            run = tpf.particle_flow(y, tolerance=tolerance, move_all=whole, **options)
            assert run.nfe == steps


def test_nothing_is_read_from_the_device_in_a_step(monkeypatch):
    """Tensors are made into Python numbers before the loop and every 50 steps only."""
    y, x = normal(50, 2), normal(60, 2, seed=1) + 3
    reads = []
    for name in ("item", "__bool__", "__float__", "__int__", "tolist"):
        true = getattr(torch.Tensor, name)

        def counted(self, *args, _true=true):
            reads.append(1)
            return _true(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    counts = []
    for steps in (50, 100):
        reads.clear()
        tpf.particle_flow(y, x, steps=steps, sigma=2.0, generator=seeded(), batch_size=20)
        counts.append(len(reads))
    assert counts[1] - counts[0] <= 6  # one look at the health of the flow


# ------------------------------------------------------------------------------------ refusals


def flow(y=None, x=None, **options):
    y = normal(20, 2) if y is None else y
    x = normal(30, 2, seed=1) if x is None else x
    return tpf.particle_flow(y, x, **{"sigma": 1.0, "steps": 5, **options})


BAD = torch.tensor([[0.0, math.nan]], dtype=DOUBLE)


@pytest.mark.parametrize(
    ("run", "error", "match"),
    [
        (lambda: flow(x=normal(30, 3)), ValueError, r"events of shape \(2,\) and target \(3,\)"),
        (lambda: flow(x=tpf.Gaussian((3,))), ValueError, r"events of shape \(2,\) and target"),
        (lambda: flow(y=normal(0, 2)), ValueError, "source is empty"),
        (lambda: flow(x=normal(0, 2)), ValueError, "target is empty"),
        (lambda: flow(x=BAD), ValueError, "target holds NaN"),
        (lambda: flow(x=normal(30, 2).float()), ValueError, "target is torch.float32"),
        (lambda: flow(sigma=0.0), ValueError, "sigma must be positive"),
        (lambda: flow(sigma=-1.0), ValueError, "sigma must be positive"),
        (lambda: flow(sigma=lambda u: 1 - u), ValueError, "is 0 at u = 1"),
        (lambda: flow(sigma=None), ValueError, "give sigma="),
        (
            lambda: flow(sigma=tpf.particles.CosineSigma),
            TypeError,
            r"sigma must be.*write CosineSigma\(\.\.\.\)",
        ),
        (lambda: tpf.particles.CosineSigma(0.5, 2.0), ValueError, "swap them"),
        (lambda: flow(sigma=1e-4), ValueError, "underflows.*nearest neighbours, 0.[0-9]+ here"),
        (lambda: flow(batch_size=25), ValueError, "use at most 20"),
        (lambda: flow(batch_size=0), ValueError, "positive integer"),
        (lambda: flow(steps=0), ValueError, "positive integer"),
        (lambda: flow(step=-0.1), ValueError, "size of a step"),
        (lambda: flow(step=lambda u: -u), ValueError, "not negative"),
        (lambda: flow(noise="white"), ValueError, "'fresh', 'carried' or 'none'"),
        (lambda: flow(moves="both"), ValueError, "moves is 'source' or 'target'"),
        (lambda: flow(noise="carried", batch_size=5), ValueError, "move_all=True"),
        (
            lambda: flow(noise="carried", sigma=lambda u: 1 + u),
            ValueError,
            "does not rise",
        ),
        (lambda: flow(direction=tpf.particles.KernelDifference), TypeError, "must be a Direction"),
        (lambda: flow(y=tpf.Gaussian((2,))), ValueError, "n="),
        (lambda: flow(n=5), ValueError, "own rows"),
        (lambda: tpf.particle_flow(normal(5, 2), sigma=1.0), ValueError, "give a target"),
        (
            lambda: flow(moves="target", direction=tpf.particles.DataDifference(normal(9, 2))),
            ValueError,
            "of_source",
        ),
        (
            lambda: flow(moves="target", x=tpf.Gaussian((2,))),
            ValueError,
            "rows of a tensor",
        ),
        (lambda: flow(save_at=[0.5, 0.2]), ValueError, "must increase"),
        (lambda: flow(save_at=[0.45, 0.5]), ValueError, "tell apart"),
    ],
)
def test_flows_refuse(run, error, match):
    with pytest.raises(error, match=match):
        run()


def test_mmd_names_the_scale_at_which_targets_are_felt():
    y, x = normal(20, 2), normal(30, 2, seed=1) + 100
    with pytest.raises(ValueError, match="underflows at the source: the nearest are 13"):
        tpf.particle_flow(y, x, direction=tpf.particles.MMDGradient(), sigma=1.0)
    tpf.particle_flow(y, x, direction=tpf.particles.KernelDifference(), sigma=1.0, steps=2)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_steps_that_diverge_are_named(dtype):
    y, x = normal(50, 2).to(dtype), normal(60, 2, seed=1).to(dtype)
    with pytest.raises(tpf.solve.NonFiniteStateError, match="smaller step") as caught:
        tpf.particle_flow(y, x, sigma=1.0, step=30.0, steps=200, generator=seeded())
    solution = caught.value.solution
    assert solution.first_bad_step is not None
    assert solution.nfe < 200


def test_copies_are_not_taken_for_targets_that_are_apart():
    """Duplicates have a neighbour at distance 0, and say nothing of the spacing."""
    x = normal(30, 2).repeat(2, 1)
    with pytest.raises(ValueError, match="underflows"):
        flow(x=x, sigma=1e-4)
    flow(x=x[:1].repeat(5, 1), sigma=1e-4)  # one place only: nothing to smooth


# -------------------------------------------------------------------------------- on a card


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize(
    "direction", [tpf.particles.KernelDifference(), tpf.particles.MMDGradient()]
)
def test_the_flow_on_a_card_is_that_of_the_cpu(direction):
    y, x = normal(300, 3), normal(400, 3, seed=1) + 2
    options = {"sigma": 1.0, "step": 0.5, "steps": 20, "noise": "none", "direction": direction}
    cpu = tpf.particle_flow(y, x, **options).x
    card = tpf.particle_flow(y.cuda(), x.cuda(), **options).x
    torch.testing.assert_close(card.cpu(), cpu, rtol=1e-9, atol=1e-9)


def test_mixed_seeds_are_not_shared_between_steps():
    """The stream of a step is a function of (key, step), not of what was drawn before."""
    key = draw_key(seeded())
    assert len({mix(key, branch, i) for branch in range(4) for i in range(50)}) == 200


def test_particles_that_all_start_at_the_origin_may_move():
    """They have no size, of which too far would be a multiple."""
    to_three = tpf.particles.LossGradient(lambda x: (x - 3).square().sum(1) / 2)
    start = torch.zeros(2, 1, dtype=DOUBLE)
    found = tpf.particles.particle_flow(start, direction=to_three, steps=2, step=0.5)
    torch.testing.assert_close(found.x, torch.full_like(start, 2.25))
    away = tpf.particles.LossGradient(lambda x: -((x + 1).square().square()).sum(1))
    with pytest.raises(tpf.solve.NonFiniteStateError, match="are not finite"):
        tpf.particles.particle_flow(start, direction=away, steps=60, step=1.0)
