"""Optimal transport plans against other solvers, and what the couplings make of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import optimize
from torch import Tensor

import transportflows as tpf
from transportflows.plans import (
    ConvergenceWarning,
    SemidiscretePlan,
    best_permutation,
    cells,
    entropic_plan,
    entropic_self_plan,
    exact_plan,
    semidiscrete_plan,
    unbalanced_plan,
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


class TestLargePermutations:
    """From 256 rows on the network simplex finds them, where the dual certifies it."""

    N = 700

    def cost(self, outlier: float = 0.0) -> Tensor:
        x, y = normal(self.N, 2, seed=0), 2 * normal(self.N, 2, seed=1)
        if outlier:
            y[0] = outlier
        return torch.cdist(x, y).square()

    def test_they_are_those_of_the_assignment_problem(self, monkeypatch) -> None:
        cost = self.cost()
        taken = best_permutation(-cost)
        assert taken.sort().values.tolist() == list(range(self.N))
        monkeypatch.setattr("scipy.optimize.linear_sum_assignment", None)
        assert torch.equal(best_permutation(-cost), taken)  # scipy was not asked
        monkeypatch.undo()
        rows, columns = optimize.linear_sum_assignment(cost.numpy())
        assert torch.equal(taken[columns], torch.as_tensor(rows))

    @pytest.mark.parametrize("outlier", [1e5, 1e8])
    def test_beside_an_outlier_they_are_still_the_best(self, outlier: float) -> None:
        """Small costs are rounded away beside a cost of 1e16, so scipy is asked."""
        cost = self.cost(outlier)
        taken = best_permutation(-cost)
        rows, columns = optimize.linear_sum_assignment((cost - cost.amin(0)).numpy())
        best = torch.empty_like(taken)
        best[torch.as_tensor(columns)] = torch.as_tensor(rows)
        plain = self.cost()
        at = torch.arange(1, self.N)
        assert float(plain[taken[1:], at].sum()) == pytest.approx(
            float(plain[best[1:], at].sum()), rel=1e-6
        )

    def test_ties_are_a_permutation(self) -> None:
        scores = -torch.randint(3, (self.N, self.N), generator=torch.Generator().manual_seed(0))
        taken = best_permutation(scores.double())
        assert taken.sort().values.tolist() == list(range(self.N))
        assert float(scores[taken, torch.arange(self.N)].sum()) == 0


class TestUnbalanced:
    def test_the_minimum_lies_between_value_and_upper_and_no_step_lowers_it(self) -> None:
        x, y, p, q = normal(7, 2, seed=0), normal(9, 2, seed=1), weights(7, 2), weights(9, 3)
        epsilon, rho = 0.4, 1.5
        plan = unbalanced_plan(x, y, p, q, epsilon=epsilon, penalty=rho, tolerance=1e-10)
        cost = torch.cdist(x, y).square()

        def kl(a: Tensor, b: Tensor) -> Tensor:
            return (a * (a / b).log() - a + b).sum()

        def objective(pi: Tensor) -> float:
            fit = kl(pi.sum(1), p) + kl(pi.sum(0), q)
            return float((pi * cost).sum() + epsilon * kl(pi, p[:, None] * q) + rho * fit)

        pi = (
            p[:, None] * q * ((plan.x_potential[:, None] + plan.y_potential - cost) / epsilon).exp()
        )
        assert objective(pi) == pytest.approx(plan.value, rel=1e-9)
        assert plan.upper == pytest.approx(plan.value, rel=1e-9)
        for seed in range(20):
            assert objective(pi * (0.02 * normal(7, 9, seed=seed)).exp()) > plan.value
        loose = unbalanced_plan(x, y, p, q, epsilon=epsilon, penalty=rho, tolerance=0.1)
        assert loose.value <= plan.value <= loose.upper

    def test_a_large_penalty_is_the_balanced_plan(self) -> None:
        x, y, p, q = normal(7, 2, seed=0), normal(9, 2, seed=1), weights(7, 2), weights(9, 3)
        far = unbalanced_plan(x, y, p, q, epsilon=1.0, penalty=1e3, tolerance=1e-5, max_steps=10**5)
        assert far.value == pytest.approx(
            entropic_plan(x, y, p, q, epsilon=1.0, tolerance=1e-9).value, rel=5e-3
        )

    def test_what_did_not_converge_says_so(self) -> None:
        x, p = normal(9, 2, seed=0), weights(9, 2)
        with pytest.warns(ConvergenceWarning, match="give more max_steps"):
            plan = unbalanced_plan(x, x + 1, p, p, epsilon=0.01, penalty=10.0, max_steps=2)
        assert not plan.converged
        for wrong in ({"epsilon": 0.0}, {"penalty": -1.0}, {"tolerance": 0.0}, {"epsilon": 1e-18}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                unbalanced_plan(x, x, p, p, **{"epsilon": 1.0, "penalty": 1.0, **wrong})


class TestSemidiscrete:
    @staticmethod
    def gaussian(n: int, random: torch.Generator) -> Tensor:
        return torch.randn(n, 2, generator=random, dtype=torch.float64)

    def plan(self, y: Tensor, q: Tensor, **options: float) -> SemidiscretePlan:
        random = torch.Generator().manual_seed(0)
        return semidiscrete_plan(lambda n: self.gaussian(n, random), y, q, **options)

    @pytest.mark.parametrize("epsilon", [0.0, 0.7])
    def test_masses_of_fresh_draws(self, epsilon: float) -> None:
        """The certificate against a count of one's own, of ten times the draws."""
        y, q = 1.5 * normal(30, 2, seed=1), weights(30, 3)
        plan = self.plan(y, q, epsilon=epsilon, tolerance=0.04)
        assert plan.converged
        random = torch.Generator().manual_seed(9)
        x = self.gaussian(400_000, random)
        goes = cells(x, y, plan.y_potential, q, epsilon, generator=random)
        share = torch.bincount(goes, minlength=30) / len(x)
        off = float((share - q).abs().sum())
        assert off < plan.violation + plan.violation_error + 0.01
        assert float((share - q.roll(1)).abs().sum()) > 0.2

    def test_the_value_is_that_of_a_large_pool(self) -> None:
        y, q = 1.5 * normal(20, 2, seed=1), weights(20, 3)
        plan = self.plan(y, q, tolerance=0.03)
        x = self.gaussian(4_000, torch.Generator().manual_seed(5))
        p = torch.full((4_000,), 1 / 4_000, dtype=torch.float64)
        pooled = exact_plan(torch.cdist(x, y), p, q).distance ** 2
        assert plan.value == pytest.approx(pooled, abs=4 * plan.value_error + 0.1)

    def test_a_bound_that_is_not_reached_is_told(self) -> None:
        y, q = normal(200, 2, seed=1), weights(200, 3)
        with pytest.warns(ConvergenceWarning, match="max_draws"):
            plan = self.plan(y, q, tolerance=0.02, max_draws=1)
        assert not plan.converged
        assert plan.violation > 0.02


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
