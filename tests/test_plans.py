"""Optimal transport plans against other solvers, and what the couplings make of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import optimize
from torch import Tensor

import transportflows as tpf
from transportflows.plans import (
    best_permutation,
    entropic_plan,
    entropic_self_plan,
    exact_plan,
)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(n: int, seed: int) -> Tensor:
    drawn = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    return drawn / drawn.sum()


class TestExact:
    @pytest.mark.parametrize("power", [1, 2])
    def test_is_the_solution_of_the_linear_programme(self, power: int) -> None:
        x, y, p, q = normal(7, 3, seed=0), normal(9, 3, seed=1), weights(7, 2), weights(9, 3)
        distances = torch.cdist(x, y)
        cost = distances.pow(power)
        constraints = [torch.kron(torch.eye(7), torch.ones(9)), torch.eye(9).repeat(1, 7)]
        expected = optimize.linprog(
            cost.flatten().numpy(),
            A_eq=torch.cat(constraints).numpy(),
            b_eq=torch.cat([p, q]).numpy(),
        ).fun
        plan = exact_plan(distances.clone(), p, q, power=power)
        assert plan.distance**power == pytest.approx(expected, rel=1e-9)
        matrix = plan.matrix()
        torch.testing.assert_close(matrix.sum(1), p)
        torch.testing.assert_close(matrix.sum(0), q)
        assert float((matrix * cost).sum()) == pytest.approx(expected, rel=1e-9)
        assert len(plan.mass) <= 7 + 9 - 1

    @pytest.mark.parametrize("scale", [1e-150, 1e-8, 1e8])
    def test_scales_with_the_distances(self, scale: float) -> None:
        distances = torch.cdist(normal(30, 2, seed=0), normal(30, 2, seed=1))
        equal = torch.full((30,), 1 / 30, dtype=torch.float64)
        plan = exact_plan(distances.clone(), equal, equal)
        scaled = exact_plan(scale * distances, equal, equal)
        assert scaled.distance == pytest.approx(scale * plan.distance, rel=1e-12)
        assert torch.equal(scaled.columns, plan.columns)

    def test_refuses_what_it_cannot_certify(self) -> None:
        x = torch.cat([torch.zeros(50, 2), torch.full((50, 2), 1e9)]).double()
        x, y = x + normal(100, 2, seed=0), x + normal(100, 2, seed=1)
        distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        equal = torch.full((100,), 0.01, dtype=torch.float64)
        with pytest.raises(RuntimeError, match=r"lies between .* drop outliers"):
            exact_plan(distances, equal, equal)
        with pytest.raises(RuntimeError, match="larger max_iterations"):
            exact_plan(
                torch.cdist(normal(50, 2, seed=0), normal(50, 2, seed=1)),
                *2 * [torch.full((50,), 1 / 50, dtype=torch.float64)],
                max_iterations=3,
            )


def test_best_permutation_is_the_best_of_all() -> None:
    for seed in range(20):
        scores = normal(5, 5, seed=seed)
        best = max(
            float(scores[list(rows), range(5)].sum()) for rows in itertools.permutations(range(5))
        )
        rows = best_permutation(scores)
        assert sorted(rows.tolist()) == list(range(5))
        assert float(scores[rows, torch.arange(5)].sum()) == pytest.approx(best, rel=1e-12)


def test_a_plan_of_points_with_themselves_is_that_between_two_copies() -> None:
    x, p = normal(40, 2, seed=0), weights(40, 1)
    options = {"epsilon": 0.3, "tolerance": 1e-9}
    alone = entropic_self_plan(x, p, **options)
    between = entropic_plan(x, x, p, p, **options)
    assert alone.value == pytest.approx(between.value, rel=1e-9)
    assert 0 <= alone.gap < 1e-6
    torch.testing.assert_close(alone.x_potential, alone.y_potential, rtol=0, atol=1e-6)


class TestMinibatchOT:
    @pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
    def test_pairs_are_optimal_at_any_scale(self, scale: float) -> None:
        """At 1e-9 POT on the costs as they are returns a plan that is not optimal."""
        x0, x1 = scale * normal(64, 2, seed=0), scale * normal(64, 2, seed=1)
        paired, kept = tpf.MinibatchOT().pair(x0, x1)
        assert torch.equal(kept, x1)
        cost = torch.cdist(x0, x1).square()
        rows, columns = optimize.linear_sum_assignment(cost.numpy() / scale**2)
        expected = float(cost[rows, columns].sum())
        assert float((paired - x1).square().sum()) == pytest.approx(expected, rel=1e-9)

    def test_equal_points_and_ties_give_a_permutation(self) -> None:
        same = torch.zeros(6, 2)
        assert torch.equal(tpf.MinibatchOT().pair(same, same + 1)[0], same)
        grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
        shuffled = grid[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
        paired, _ = tpf.MinibatchOT().pair(shuffled, grid.roll(1, 1) + 0.5)
        assert sorted(map(tuple, paired.tolist())) == sorted(map(tuple, grid.tolist()))

    def test_sinkhorn_pairs_have_the_law_of_the_matching(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of three rows: the permutation that is best for log π + Gumbel noise, by enumeration."""
        plan = (torch.ones(3, 3) + 2 * torch.eye(3)).double() / 15

        monkeypatch.setattr("transportflows.couplings.transport.log_plan", lambda *_: plan.log())
        draws, orders = 4_000, list(itertools.permutations(range(3)))
        uniform = torch.rand(200_000, 3, 3, generator=torch.Generator().manual_seed(1)).double()
        scores = plan.log() - torch.log(-torch.log(uniform))
        totals = torch.stack([scores[:, list(rows), range(3)].sum(1) for rows in orders], 1)
        expected = torch.bincount(totals.argmax(1), minlength=6) / len(uniform)

        coupling, generator = tpf.MinibatchOT("sinkhorn"), torch.Generator().manual_seed(0)
        x = torch.arange(3.0).unsqueeze(1)
        found = torch.zeros(6)
        for _ in range(draws):
            paired, _ = coupling.pair(x, x, generator=generator)
            found[orders.index(tuple(paired.flatten().int().tolist()))] += 1 / draws
        error = (expected * (1 - expected) * (1 / draws + 1 / len(uniform))).sqrt()
        assert bool(((found - expected).abs() < 4.5 * error).all())  # a wrong sign: 9 and more
