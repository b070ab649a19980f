"""What bridges, couplings and plans say of calls that cannot be: found by malformed calls."""

from __future__ import annotations

import pytest
import torch

import transportflows as tpf

X = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
SQUARE = X[:3].double()
THIRDS = torch.full((3,), 1 / 3, dtype=torch.float64)


def bridge() -> tpf.Process:
    path = tpf.Linear(tpf.Brownian(1.0))
    return tpf.Process(path, base=tpf.Gaussian((2,)), coupling=tpf.Paired())


def drifts() -> tpf.bridges.BridgeDrift:
    nets = [tpf.networks.MLP(2, 8, 1) for _ in range(2)]
    return tpf.bridges.BridgeDrift(forward=nets[0], backward=nets[1], process=bridge())


def pairs() -> tpf.bridges.GaussianPairs:
    ends = tpf.Gaussian((2,)), tpf.Gaussian((2,), 1.0, 0.5)
    return tpf.bridges.gaussian_bridge(*ends, variance=1.0)


def light() -> tpf.bridges.LightPotential:
    return tpf.bridges.LightPotential((2,), 1.0, 3)


def semidiscrete(draw):
    return tpf.plans.semidiscrete_plan(draw, SQUARE, THIRDS, tolerance=0.3)


def plan() -> tpf.couplings.TransportPlan:
    return tpf.couplings.TransportPlan(X + 1, X, regularisation=0.5)


def exact(**changed):
    given = {"distances": torch.cdist(SQUARE, SQUARE + 1), "p": THIRDS, "q": THIRDS, **changed}
    return tpf.plans.exact_plan(**given)


def fit(field, data):
    return tpf.Trainer(field).fit(data, **FIT)


def snapshots(data, count=3):
    process = tpf.bridges.Multimarginal([float(k) for k in range(count)])
    return fit(tpf.Velocity(tpf.networks.MLP(2, 8, 1), process), data)


def planned(data):
    process = tpf.Process(tpf.Linear(tpf.Brownian(0.5)), coupling=plan())
    nets = [tpf.networks.MLP(2, 8, 1) for _ in range(2)]
    return fit(tpf.FieldPair(mean_velocity=nets[0], noise=nets[1], process=process), data)


def light_and_network():
    field = tpf.bridges.BridgeDrift(
        forward=light(), backward=tpf.networks.MLP(2, 8, 1), process=bridge()
    )
    return fit(field, (X, X + 1))


FIT = {"steps": 1, "batch_size": 4, "progress": False}
CASES = {
    "few draws": (
        lambda: tpf.bridges.path_divergence(drifts(), pairs(), 8), ValueError, "at least 40",
    ),
    "times beyond": (
        lambda: tpf.bridges.ExactBridge(pairs()).velocity(torch.full((12,), 3.0), X),
        ValueError, r"times lie in \[0, 1\]",
    ),
    "infinite start": (
        lambda: light().end(X.index_fill(0, torch.tensor([1]), torch.inf)), ValueError, "x0",
    ),
    "far start": (lambda: light().end(X * 1e30), ValueError, "float32"),
    "no scale": (
        lambda: tpf.bridges.LightPotential((2,), 1.0, 3, scale=1e-320), ValueError, "scale",
    ),
    "variance of pairs": (
        lambda: tpf.bridges.GaussianPairs(
            torch.ones(1), X[:1], X[:1], torch.eye(4)[None], variance=-1.0
        ),
        ValueError, "variance",
    ),
    "states of no rows": (
        lambda: tpf.plans.cells(THIRDS, SQUARE, THIRDS, THIRDS), ValueError, r"\(N, D\)",
    ),
    "no rows": (lambda: tpf.bridges.LightLoss()(drifts(), torch.tensor(1.0)), ValueError, "x1"),
    "no pairs": (lambda: pairs().sample(0), ValueError, "n must be"),
    "no trainer": (
        lambda: tpf.bridges.iterate(
            drifts(), X, X + 1, rounds=1, steps=2, fit=FIT, trainer=lambda field: (1, 2)
        ),
        TypeError, "trainer.*Trainer",
    ),
    "rows too many": (
        lambda: tpf.bridges.iterate(drifts(), X, X + 1, rounds=1, steps=0, fit=FIT),
        ValueError, "steps",
    ),
    "a fit of other arguments": (
        lambda: tpf.bridges.iterate(drifts(), X, X + 1, rounds=1, fit={"step": 3}),
        ValueError, "fit holds 'step'",
    ),
    "a fit without steps": (
        lambda: tpf.bridges.iterate(drifts(), X, X + 1, rounds=1, fit={"batch_size": 3}),
        ValueError, "number of training steps",
    ),
    "points of no rows": (
        lambda: tpf.bridges.SnapshotPath([0.0, 1.0]).mean(torch.tensor(0.5), None, THIRDS[0]),
        ValueError, "2 points",
    ),
    "weights of other points": (
        lambda: tpf.plans.entropic_plan(SQUARE, SQUARE, THIRDS, X, epsilon=1.0),
        ValueError, "weights",
    ),
    "weights of unbalanced ones": (
        lambda: tpf.plans.unbalanced_plan(
            SQUARE, SQUARE, THIRDS, THIRDS[:2], epsilon=1.0, penalty=1.0
        ),
        ValueError, "weights",
    ),
    "a condition that is no number": (
        lambda: tpf.couplings.condition_weight(
            X, X.index_fill(0, torch.tensor([1]), torch.nan), tpf.Gaussian((2,)),
            batch_size=4, batches=2,
        ),
        ValueError, "c holds NaN",
    ),
    "sparse rows": (lambda: plan().row_places(X.to_sparse()), TypeError, "dense"),
    "negative epsilon": (
        lambda: tpf.plans.cells(SQUARE, SQUARE, THIRDS, THIRDS, -1.0), ValueError, "epsilon",
    ),
    "no matrix": (lambda: tpf.plans.best_permutation(torch.ones(3)), ValueError, r"\(N, N\)"),
    "no square": (lambda: tpf.plans.best_permutation(torch.ones(3, 2)), ValueError, r"\(N, N\)"),
    "power": (lambda: exact(power=0), ValueError, "power"),
    "pivots": (lambda: exact(max_iterations=-1), ValueError, "max_iterations"),
    "weights": (lambda: exact(p=torch.tensor(1.0)), ValueError, "weights"),
    "negative distances": (lambda: exact(distances=-torch.ones(3, 3)), ValueError, "distances"),
    "draws of nothing": (lambda: semidiscrete(lambda n: None), TypeError, "draw"),
    "draws of another size": (
        lambda: semidiscrete(lambda n: torch.zeros(n, 3, dtype=torch.float64)), ValueError, "draw",
    ),
    "a light potential beside a network": (
        light_and_network, ValueError, r"leave the backward one.*potential\.end",
    ),
    "three snapshots as a list": (
        lambda: snapshots([X, X, X]), TypeError, r"Trajectories\(snapshots\)",
    ),
    "two snapshots as a list": (
        lambda: snapshots([X, X], 2), ValueError, r"no x0.*Trajectories\(snapshots\)",
    ),
    "pairs for a plan": (
        lambda: planned((X + 1, X)), ValueError, "made of both samples, so fit x1 alone",
    ),
    "draws that are NaN": (
        lambda: semidiscrete(lambda n: SQUARE[:1].expand(n, 2) * torch.nan), ValueError, "draw",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused_in_words(name) -> None:
    call, kind, words = CASES[name]
    with pytest.raises(kind, match=words):
        call()
