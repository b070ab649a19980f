"""Hooks: what acts after a step looks, ends, changes or is refused, the same way in every solve."""

from __future__ import annotations

import inspect

import pytest
import torch

import transportflows as tpf
from transportflows.samplers.sweep import stops_together

DOUBLE = torch.float64
P, L = tpf.particles, tpf.langevin
STEPS, N = 12, 30


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=DOUBLE)


def standard_log_prob(x):
    return -0.5 * x.square().sum(1)


def pull(x):
    return -x


def to_origin(z, sigma):
    return torch.zeros_like(z)


X, TARGET = normal(N, 2), normal(40, 2, seed=1) + 2
LAW = tpf.Gaussian((2,), 1.0, 0.5)
ORACLE = tpf.oracle(tpf.Process(tpf.OneSidedLinear(), shape=(2,)), LAW)


def chain(steps=STEPS, **options):
    return L.langevin(pull, X, **{"step_size": 0.2, "generator": seeded(), **options}, steps=steps)


def adjusted(steps=STEPS, **options):
    given = {"step_size": 0.9, "metropolis": True, "generator": seeded(), **options}
    return L.langevin(L.score_of(standard_log_prob), X, steps=steps, **given)


def climb(steps=STEPS, **options):
    return L.ascend(pull, X, step_size=0.2, steps=steps, **options)


def annealed(steps=STEPS, **options):
    given = {"levels": 3, "denoise": False, "start": X, "dtype": DOUBLE, "generator": seeded()}
    return L.annealed_langevin(ORACLE, steps_per_level=steps // 3, **{**given, **options})


def flow(steps=STEPS, **options):
    given = {"sigma": 1.0, "step": 0.4, "generator": seeded(), **options}
    return tpf.particle_flow(X, TARGET, steps=steps, **given)


def batches(steps=STEPS, **options):
    return flow(steps, batch_size=7, **options)


def moved_target(steps=STEPS, **options):
    return tpf.particle_flow(
        TARGET, X, sigma=1.0, step=0.4, moves="target", steps=steps, generator=seeded(), **options
    )


def carried(steps=STEPS, **options):
    return flow(steps, direction=P.DataDifference(TARGET), noise="carried", **options)


def with_density(steps=STEPS, **options):
    given = {"log_prob": tpf.Gaussian((2,)), "generator": seeded(), **options}
    return P.flow_with_log_density(X, TARGET, sigma=1.0, step=0.4, steps=steps, **given)


def flow_of_density(steps=STEPS, **options):
    return with_density(steps, **options).solution


def hamiltonian(steps=STEPS, **options):
    return P.hamiltonian(
        tpf.Gaussian((2,)), X, step_size=0.3, leapfrog=3, steps=steps, generator=seeded(), **options
    )


def unadjusted_hamiltonian(steps=STEPS, **options):
    return hamiltonian(steps, metropolis=False, **options)


def sampled(steps=STEPS, **options):
    given = {"start": X, "epsilon": 0.3, "scheme": "heun", "generator": seeded(), **options}
    return tpf.sample(ORACLE, steps=steps, **given)


def multistep(steps=STEPS, **options):
    return sampled(steps, epsilon=0.0, scheme="dpm2m", **options)


def first_order(steps=STEPS, **options):
    return sampled(steps, epsilon=0.0, scheme="ddim", **options)


def integrated(steps=STEPS, **options):
    grid = torch.linspace(0, 1, steps + 1, dtype=DOUBLE)
    return tpf.integrate(lambda t, x: -x, X, grid, **{"generator": seeded(), **options})


FREE = [
    chain, climb, annealed, flow, batches, moved_target, carried, sampled, first_order, integrated,
]  # fmt: skip
REMEMBERING = [adjusted, flow_of_density, hamiltonian, unadjusted_hamiltonian, multistep]
ALL = [*FREE, *REMEMBERING]
# Those whose first steps do not depend on how many come after.
OPEN = [chain, climb, adjusted, hamiltonian, unadjusted_hamiltonian, flow, batches, flow_of_density]


def every(solves):
    return pytest.mark.parametrize("solve", solves, ids=lambda solve: solve.__name__)


@every(ALL)
def test_a_hook_that_looks_changes_nothing(solve):
    seen = []

    def look(moment):
        seen.append((moment.step, moment.steps, moment.t, moment.x.clone()))

    run = solve(hooks=[look])
    assert torch.equal(run.x, solve().x)
    assert [(step, steps) for step, steps, _, _ in seen] == [
        (k, STEPS) for k in range(1, STEPS + 1)
    ]
    assert torch.equal(seen[-1][3].reshape(run.x.shape), run.x)
    assert not torch.equal(seen[0][3], seen[-1][3])
    if solve is not annealed:  # which returns its levels
        assert [t for _, _, t, _ in seen] == run.t[1:].tolist()


@every(ALL)
def test_a_hook_ends_the_solve(solve):
    seen = []

    def stop(moment):
        seen.append(moment.x.clone())
        if moment.step == 5:
            moment.stop()

    run = solve(hooks=[stop])
    assert len(seen) == 5
    assert torch.equal(run.x, seen[-1])
    assert run.first_bad_step is None
    if solve is annealed:
        assert run.t.tolist() == annealed().t[:2].tolist()
        assert run.nfe == 5
    else:
        assert torch.equal(run.t, solve().t[:6])
        calls, before = solve().nfe - solve(STEPS - 1).nfe, solve(1).nfe
        assert run.nfe == before + 4 * calls


@every(OPEN)
def test_what_was_ended_is_what_was_asked_to_be_short(solve):
    def stop(moment):
        if moment.step == 5:
            moment.stop()

    ended, short = solve(hooks=[stop]), solve(5)
    assert torch.equal(ended.x, short.x)
    assert ended.nfe == short.nfe
    for name in ("acceptance", "residual", "step_size"):
        assert torch.equal(getattr(ended, name, X), getattr(short, name, X))


def test_states_saved_before_the_end_are_kept():
    def stop(moment):
        if moment.step == 5:
            moment.stop()

    run = chain(save_at=[0, 2, 5, 9], hooks=[stop])
    assert run.saved_at.tolist() == [0, 2, 5]
    assert torch.equal(run.trajectory, chain(save_at=[0, 2, 5]).trajectory)


@every(FREE)
def test_a_hook_gives_the_states_to_go_on_with(solve):
    def pin(moment):
        return torch.cat([torch.full_like(moment.x[:, :1], 0.25), moment.x[:, 1:]], 1)

    run = solve(hooks=[pin])
    assert bool((run.x[:, 0] == 0.25).all())
    assert not bool((run.x[:, 1] == 0.25).any())
    same = solve(hooks=[lambda moment: moment.x.clone()])
    torch.testing.assert_close(same.x, solve().x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("solve", "factor"),
    [
        (chain, 0.8),
        (climb, 0.8),
        (lambda **options: flow(direction=P.DataDifference(to_origin), **options), 0.6),
        (
            lambda **options: flow(
                direction=P.DataDifference(to_origin), noise="carried", **options
            ),
            0.6,
        ),
    ],
    ids=["chain", "climb", "flow", "carried"],
)
def test_steps_go_on_from_what_a_hook_gave(solve, factor):
    """Steps x -> (1 - h) x + noise: a shift after step 8 of 12 is (1 - h)^4 of it at the end."""
    shifted = solve(hooks=[lambda moment: moment.x + 3.0 if moment.step == 8 else None])
    expected = torch.full_like(X, 3.0 * factor**4)
    torch.testing.assert_close(shifted.x - solve().x, expected, rtol=1e-10, atol=1e-12)


@every(REMEMBERING)
def test_a_hook_that_changes_states_is_refused_where_memories_would_not_fit(solve):
    with pytest.raises(ValueError, match=r"a hook returned states, and .* remembers"):
        solve(hooks=[lambda moment: moment.x.clone()])


@every(FREE)
@pytest.mark.parametrize("given", [lambda x: x[:-1], lambda x: x.flatten(), lambda x: 1.0])
def test_states_of_another_shape_are_refused(solve, given):
    with pytest.raises(ValueError, match="a hook must return None, or states of shape"):
        solve(hooks=[lambda moment: given(moment.x)])


def test_hooks_act_one_after_another_and_see_each_other():
    seen = []
    run = climb(
        hooks=[
            lambda moment: torch.ones_like(moment.x),
            lambda moment: 2 * moment.x,
            lambda moment: seen.append(moment.x),
        ]
    )
    assert all(bool((x == 2).all()) for x in seen)
    assert bool((run.x == 2).all())


def test_conditions_are_shown():
    seen = []
    cond = {"c": normal(N, 2, seed=3)}
    L.ascend(
        lambda x, c: c - x, X, step_size=0.2, steps=2, cond=cond,
        hooks=[lambda moment: seen.append(moment.cond["c"])],
    )  # fmt: skip
    assert torch.equal(seen[0], cond["c"])


# --------------------------------------------------------------------------------------- chains


def test_a_chain_that_ends_in_its_warmup_has_no_acceptance():
    def stop(moment):
        if moment.step == 5:
            moment.stop()

    run = adjusted(warmup=8, hooks=[stop])
    assert bool(run.acceptance.isnan().all())
    after = adjusted(warmup=3, hooks=[stop])
    assert bool(((after.acceptance >= 0) & (after.acceptance <= 1)).all())
    assert torch.equal(after.acceptance, adjusted(5, warmup=3).acceptance)


def test_annealing_is_shown_in_the_units_of_the_data_with_the_level_as_the_time():
    data = LAW.sample(200, generator=seeded(), dtype=DOUBLE) * 3 + 5
    transform = tpf.Standardize.fit(data)
    process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
    field = tpf.DataPredictor(tpf.networks.MLP(2, width=8, depth=1), process, transform=transform)
    options = {"levels": [0.2, 0.5, 0.8], "steps_per_level": 2, "denoise": False}
    seen = []

    def look(moment):
        seen.append((moment.t, moment.x))

    run = L.annealed_langevin(field, 20, hooks=[look], generator=seeded(), **options)
    assert [t for t, _ in seen] == [0.2, 0.2, 0.5, 0.5, 0.8, 0.8]
    torch.testing.assert_close(seen[-1][1], run.x)
    middle = float(run.x.mean())

    def clip(moment):
        return moment.x.clamp(max=middle) if moment.step == moment.steps else None

    clipped = L.annealed_langevin(field, 20, hooks=[clip], generator=seeded(), **options)
    torch.testing.assert_close(clipped.x, run.x.clamp(max=middle))


def test_annealing_that_is_ended_is_denoised_at_its_level():
    def stop(moment):
        if moment.step == 6:  # in the second of three levels
            moment.stop()

    noisy = annealed(hooks=[stop])
    clean = annealed(hooks=[stop], denoise=True)
    assert clean.nfe == noisy.nfe + 1
    torch.testing.assert_close(clean.x, ORACLE.data(noisy.t[1], noisy.x))


# ----------------------------------------------------------------------------------------- flows


def test_a_flow_that_a_hook_throws_out_is_told_of():
    with pytest.raises(tpf.solve.NonFiniteStateError, match="diverged at step 3") as caught:
        flow(hooks=[lambda moment: moment.x * 1e9 if moment.step == 4 else None])
    assert caught.value.solution.first_bad_step == 3


def test_a_density_that_is_ended_is_that_of_the_steps_made():
    def stop(moment):
        if moment.step == 5:
            moment.stop()

    assert torch.equal(with_density(hooks=[stop]).log_prob, with_density(5).log_prob)


# ---------------------------------------------------------------------------------------- sample


@pytest.mark.parametrize("chunk", [None, 7, 100])
def test_all_rows_of_all_epsilons_are_shown_whatever_the_chunks(chunk):
    seen = []
    run = sampled(
        epsilon=[0.2, 0.5, 0.9], chunk=chunk, hooks=[lambda moment: seen.append(moment.x.clone())]
    )
    assert [tuple(x.shape) for x in seen] == [(3, N, 2)] * STEPS
    assert torch.equal(seen[-1], run.x)
    torch.testing.assert_close(run.x, sampled(epsilon=[0.2, 0.5, 0.9]).x)
    pinned = sampled(
        epsilon=[0.2, 0.5],
        chunk=chunk,
        hooks=[lambda moment: moment.x + torch.tensor([[[0.0]], [[1.0]]], dtype=DOUBLE)],
    )
    alone = sampled(epsilon=0.5, chunk=chunk, hooks=[lambda moment: moment.x + 1.0])
    torch.testing.assert_close(pinned.x[1], alone.x)
    torch.testing.assert_close(pinned.x[0], sampled(epsilon=0.2, chunk=chunk).x)


def test_an_epsilon_of_0_is_shown_apart():
    shapes = []
    sampled(epsilon=[0.5, 0.0, 0.9], hooks=[lambda moment: shapes.append(tuple(moment.x.shape))])
    assert shapes == [(N, 2)] * STEPS + [(2, N, 2)] * STEPS


def test_samples_are_shown_and_clipped_in_the_units_of_the_data():
    transform = tpf.Standardize.fit(LAW.sample(200, generator=seeded()) * 3 + 5)
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    field = tpf.Velocity(tpf.networks.MLP(2, width=8, depth=1), process, transform=transform)
    seen = []
    hooks = [lambda moment: seen.append(moment.x)]
    run = tpf.sample(field, 20, steps=4, hooks=hooks, generator=seeded())
    torch.testing.assert_close(seen[-1], run.x)
    middle = float(run.x.mean())

    def clip(moment):
        return moment.x.clamp(max=middle) if moment.step == moment.steps else None

    clipped = tpf.sample(field, 20, steps=4, hooks=[clip], generator=seeded())
    torch.testing.assert_close(clipped.x, run.x.clamp(max=middle))


def test_inpainting_keeps_what_is_known():
    """Known coordinates are set to x_t of the known data, and end at the data themselves."""
    known, mask = torch.tensor([0.7, 0.0], dtype=DOUBLE), torch.tensor([True, False])
    base = normal(N, 2, seed=8)

    def inpaint(moment):
        there = (1 - moment.t) * base + moment.t * known
        return torch.where(mask, there, moment.x)

    run = sampled(epsilon=0.0, steps=40, hooks=[inpaint])
    assert torch.equal(run.x[:, 0], torch.full((N,), 0.7, dtype=DOUBLE))
    # LAW has independent coordinates: the other one is sampled as if nothing was known.
    torch.testing.assert_close(run.x[:, 1], sampled(epsilon=0.0, steps=40).x[:, 1])


def test_adaptive_schemes_have_no_steps_to_act_after():
    with pytest.raises(ValueError, match="no steps of its own"):
        sampled(epsilon=0.0, scheme="dopri5", hooks=[lambda moment: None])
    with pytest.raises(ValueError, match="no steps of its own"):
        tpf.log_likelihood(ORACLE, X, hooks=[lambda moment: None])


# ------------------------------------------------------------------------------------ likelihood


def likelihood(**options):
    return tpf.log_likelihood(ORACLE, X, scheme="rk4", steps=8, **options)


def test_a_log_density_shows_its_states():
    seen = []
    found = likelihood(hooks=[lambda moment: seen.append((moment.t, moment.x))])
    assert len(seen) == 8
    assert seen[-1][0] == 0.0
    assert torch.equal(seen[-1][1], found.latent)
    assert torch.equal(found.log_prob, likelihood().log_prob)


def test_a_log_density_shows_its_states_in_the_units_of_the_data():
    transform = tpf.Standardize.fit(LAW.sample(200, generator=seeded()) * 3 + 5)
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    field = tpf.Velocity(tpf.networks.MLP(2, width=8, depth=1), process, transform=transform)
    seen = []
    drawn = tpf.likelihood.sample_with_log_likelihood(
        field, 5, scheme="heun", steps=4, generator=seeded(),
        hooks=[lambda moment: seen.append(moment.x)],
    )  # fmt: skip
    torch.testing.assert_close(seen[-1], drawn.x)


def test_a_log_density_needs_the_whole_way():
    for hook in (lambda moment: moment.x, lambda moment: moment.stop()):
        with pytest.raises(ValueError, match="may look at the states only"):
            likelihood(hooks=[hook])


# -------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(
    "make", [chain, adjusted, climb, hamiltonian, with_density], ids=lambda make: make.__name__
)
def test_results_are_shown_in_three_lines(make):
    shown = repr(make())
    assert shown.count("\n") < 3
    assert len(shown) < 320
    assert "tensor([" not in shown


def test_a_sweep_that_a_hook_ends_at_different_steps_is_refused():
    """Its members would be at different times."""
    field = tpf.oracle(tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))), tpf.Gaussian((2,), 3.0))

    def stop(moment):
        if moment.step == (3 if moment.x.ndim == 2 else 5):
            moment.stop()

    with pytest.raises(ValueError, match="no common time"):
        tpf.sample(field, 5, epsilon=[0.0, 0.5, 1.0], steps=8, hooks=[stop])


def test_what_a_hook_returns_stays_as_it_is():
    """The loop goes on with a copy, of expanded tensors too."""
    field = tpf.oracle(tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))), tpf.Gaussian((2,), 3.0))
    known, one = torch.full((4, 2), 7.0), torch.zeros(1, 2)
    tpf.sample(field, 4, steps=3, hooks=[lambda m: known if m.step == 1 else None])
    assert bool((known == 7).all())
    tpf.sample(field, 4, steps=3, hooks=[lambda m: one.expand(4, 2)])
    assert bool((one == 0).all())


def test_the_bound_counts_the_corrector():
    field = tpf.oracle(tpf.Process(tpf.VE(0.01, 10.0), shape=(2,)), tpf.Gaussian((2,)))
    rule = tpf.langevin.LangevinCorrector(steps=5)
    with pytest.raises(ValueError, match="max_nfe is 6"):
        tpf.sample(field, 8, steps=5, scheme="euler", corrector=rule, max_nfe=6)


def test_a_plain_function_is_given_the_conditions():
    x, c = torch.zeros(6, 2), torch.arange(6.0)
    drift = lambda t, x, c: c[:, None].expand_as(x)  # noqa: E731
    for chunk in (None, 4):
        end = tpf.integrate(drift, x, [0.0, 1.0], cond={"c": c}, chunk=chunk).x
        torch.testing.assert_close(end, c[:, None].expand(6, 2))


@pytest.mark.parametrize(("reasons", "stopped"), [([False, True], True), ([False, False], False)])
def test_processes_that_share_a_solve_stop_together(reasons, stopped):
    """Where a hook of another process ended its solve, this one ends too."""

    class Team:
        def all_values(self, own):
            assert own is False
            return reasons

    moment = tpf.solve.Moment(1, 4, 0.25, torch.zeros(2, 2))
    stops_together(Team())(moment)
    assert moment.stopped is stopped


def test_a_hook_may_name_its_argument_as_it_likes():
    """A type checker takes ``def look(m)`` for a hook only if the name is no part of it."""
    (_, moment) = inspect.signature(tpf.solve.Hook.__call__).parameters.values()
    assert moment.kind is inspect.Parameter.POSITIONAL_ONLY


@pytest.mark.parametrize("transform", [None, tpf.Standardize(1.0, 2.0)], ids=["plain", "units"])
@pytest.mark.parametrize("scheme", ["heun", "dpm2m"])
def test_a_hook_that_writes_into_the_states_is_refused(scheme, transform):
    """It escaped the refusal of schemes that remember, and was lost behind a transform."""
    law = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
    field = tpf.NoisePredictor(lambda t, x: x, law, transform=transform)

    def looks(moment):
        moment.x.clamp(-1, 1)

    def writes(moment):
        moment.x.clamp_(-1, 1)

    def writes_and_returns(moment):
        return moment.x.mul_(2)

    def writes_a_row(moment):
        moment.x[0] = 0

    tpf.sample(field, 3, scheme=scheme, steps=2, hooks=[looks])
    for hook in (writes, writes_and_returns, writes_a_row):
        with pytest.raises(ValueError, match=f"the hook {hook.__name__} writes into moment.x"):
            tpf.sample(field, 3, scheme=scheme, steps=2, hooks=[hook])
        with pytest.raises(ValueError, match=r"writes into moment\.x"):
            tpf.log_likelihood(field, torch.randn(3, 2), scheme="rk4", steps=2, hooks=[hook])
        with pytest.raises(ValueError, match=r"writes into moment\.x"):
            tpf.langevin.langevin(
                lambda x: -x, torch.ones(3, 2), step_size=0.1, steps=2, hooks=[hook]
            )


@every([*FREE, likelihood])
@pytest.mark.parametrize("given", [3, "clip"])
def test_what_cannot_be_called_after_a_step_is_no_hook(solve, given):
    with pytest.raises(TypeError, match=r"a hook is a function of a Moment, .*got"):
        solve(hooks=[given])


def test_a_log_density_refuses_hooks_that_are_made_to_change_states():
    seen = tpf.inverse.LinearObservation(torch.eye(2), torch.zeros(2), 0.1)
    with pytest.raises(ValueError, match=r"DPS changes the states.* use it with sample"):
        likelihood(hooks=[tpf.inverse.DPS(ORACLE, seen)])


class Walk(tpf.solve.SolveHook):
    """Adds noise that the seed of the solve determines."""

    def begin(self, times, x, chunks, noise, key):
        noise.begin(key, x, 0.0)
        return Walking(noise)


class Walking(tpf.solve.BegunHook):
    name, most = "walk", 0

    def __init__(self, noise):
        self.noise = noise

    def __call__(self, moment):
        z = self.noise.normal(moment.step)
        return moment.x + 0.1 * z.expand_as(moment.x)


@every([chain, annealed, flow, sampled, first_order, integrated])
def test_the_seed_of_every_solve_is_that_of_its_hooks(solve):
    hook = Walk()
    first = solve(hooks=[hook])
    assert torch.equal(solve(hooks=[hook]).x, first.x)
    assert torch.equal(solve(hooks=[lambda moment: None, Walk()]).x, first.x)
    assert not torch.equal(solve(hooks=[Walk()], generator=seeded(1)).x, first.x)
    assert not torch.equal(solve(hooks=[]).x, first.x)
    assert first.scheme.endswith("+ walk")


@every(FREE)
def test_a_moment_is_not_written_to(solve):
    """It changed nothing, silently."""

    def assigns(moment):
        moment.x = moment.x.clamp(-0.1, 0.1)

    def ends(moment):
        moment.stopped = True

    with pytest.raises(AttributeError, match=r"moment\.x = .* return the states to go on with"):
        solve(hooks=[assigns])
    with pytest.raises(AttributeError, match=r"moment\.stopped = .* call moment\.stop\(\)"):
        solve(hooks=[ends])


def test_a_moment_is_short():
    moment = tpf.solve.Moment(1, 4, 0.25, normal(100, 3), {"label": torch.arange(100)})
    assert repr(moment).startswith("Moment(step=1, steps=4, t=0.25, x=<")
    assert len(repr(moment)) < 200


@every(FREE)
@pytest.mark.parametrize("transform", [False, True])
def test_a_hook_that_returns_nan_is_named(solve, transform):
    """The step was blamed, and more steps were the cure."""

    def looks(moment):
        return moment.x.clone()

    def spoils(moment):
        return moment.x * (float("nan") if moment.step == 4 else 1.0)

    if transform and solve is not sampled:
        pytest.skip("in the units of the field")
    if transform:
        process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
        field = tpf.NoisePredictor(lambda t, x: x, process, transform=tpf.Standardize(1.0, 2.0))
        solve = lambda hooks: tpf.sample(field, 5, epsilon=[0.5, 0.0], steps=9, hooks=hooks)  # noqa: E731
    if solve is integrated:
        assert solve(hooks=[looks, spoils, looks]).bad_hook == "spoils"
        assert solve(hooks=[looks]).bad_hook is None
        return
    with pytest.raises(
        tpf.solve.NonFiniteStateError, match="the hook spoils returned states that are not finite"
    ) as caught:
        solve(hooks=[looks, spoils, looks])
    assert "after step 4," in str(caught.value)
    assert caught.value.solution.bad_hook == "spoils"


def test_a_step_that_spoils_the_states_is_told_as_before():
    with pytest.raises(tpf.solve.NonFiniteStateError, match="gradient ascent diverged"):
        L.ascend(
            lambda x: x.square() * 1e300, X, step_size=1.0, steps=9,
            hooks=[lambda moment: moment.x.clone()],
        )  # fmt: skip
