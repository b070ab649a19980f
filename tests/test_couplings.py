"""Minibatch transport: optimal at any scale, within a label, of the ε that it is asked for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import ndtri

import transportflows as tpf
from transportflows.plans import exact_potentials, log_plan


def normal(rows: int, columns: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def paired(x0: torch.Tensor, x1: torch.Tensor, **options) -> torch.Tensor:
    coupling = tpf.MinibatchOT(**options)
    return coupling.pair(x0, x1, generator=torch.Generator().manual_seed(7))[0]


def costs(x0: torch.Tensor, x1: torch.Tensor) -> torch.Tensor:
    """All squared distances, from exact differences."""
    return (x0[:, None] - x1).square().sum(-1)


def ratio(x0: torch.Tensor, x1: torch.Tensor, rows=slice(None), **options) -> float:
    """The cost of the pairs over that of the cheapest ones, on some of the rows."""
    taken, columns = linear_sum_assignment(costs(x0, x1).numpy())
    best = x0[torch.as_tensor(taken)[torch.as_tensor(columns).argsort()]]
    found = paired(x0, x1, **options)
    return float((found - x1)[rows].square().sum() / (best - x1)[rows].square().sum())


SMALL = {"method": "sinkhorn", "regularisation": 1e-5}


@pytest.mark.parametrize("options", [{}, SMALL], ids=["exact", "sinkhorn"])
class TestOptimal:
    @pytest.mark.parametrize("scale", [1e-170, 1e-8, 1e-7, 1e6, 1e170])
    def test_at_any_scale(self, options, scale) -> None:
        x0, x1 = normal(48), normal(48, seed=1)
        assert torch.equal(paired(scale * x0, scale * x1, **options), scale * paired(x0, x1))

    @pytest.mark.parametrize("offset", [1e6, 1e7, 1e8])
    @pytest.mark.parametrize("columns", [2, 100])
    def test_at_an_offset(self, options, offset, columns) -> None:
        x0, x1 = normal(48, columns) + offset, normal(48, columns, seed=1) + offset
        assert ratio(x0, x1, **options) == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("outlier", [1e4, 1e7, 1e8])
    def test_beside_an_outlier(self, options, outlier) -> None:
        x0, x1 = normal(48), normal(48, seed=1)
        x1[0] = outlier
        assert ratio(x0, x1, slice(1, None), **options) == pytest.approx(1, abs=1e-6)

    def test_in_two_clusters_far_from_each_other(self, options) -> None:
        x0, x1 = normal(48), normal(48, seed=1)
        x0[::2] += 1e7
        x1[::2] += 1e7
        assert ratio(x0, x1, **options) == pytest.approx(1, abs=1e-6)

    def test_on_a_line_and_with_ties(self, options) -> None:
        x0, x1 = normal(40, 1), normal(40, 1, seed=1)
        x0[5:9], x1[7:20] = x0[5], x1[7]
        assert ratio(x0, x1, **options) == pytest.approx(1, abs=1e-6)
        same = torch.zeros(6, 3)
        assert torch.equal(paired(same, same + 1, **options), same)


@pytest.mark.parametrize("outlier", [10.0, 100.0])
def test_an_outlier_does_not_loosen_the_other_rows(outlier: float) -> None:
    x0, x1 = normal(100), normal(100, seed=1)
    plain = ratio(x0, x1, slice(1, None), method="sinkhorn")
    x1[0] = outlier
    assert ratio(x0, x1, slice(1, None), method="sinkhorn") < 1.3 * plain


def log_iteration(cost: torch.Tensor, epsilon: float, sweeps: int = 4000) -> torch.Tensor:
    """The plan by potentials and logarithms alone."""
    n = len(cost)
    f = g = cost.new_zeros(n)
    for _ in range(sweeps):
        f = -epsilon * torch.logsumexp((g - cost) / epsilon, 1) - epsilon * math.log(n)
        g = -epsilon * torch.logsumexp((f[:, None] - cost) / epsilon, 0) - epsilon * math.log(n)
    return (f[:, None] + g - cost) / epsilon + 2 * math.log(n)


@pytest.mark.parametrize(
    ("epsilon", "tolerance"), [(10.0, 1e-3), (1.0, 1e-3), (0.3, 1e-3), (0.05, 2e-3), (0.01, 2e-2)]
)
@pytest.mark.parametrize("outlier", [None, 1e3])
def test_the_plan_is_that_of_the_iteration_on_logarithms(epsilon, tolerance, outlier) -> None:
    x0, x1 = normal(30), normal(30, seed=1)
    if outlier is not None:
        x1[0] = outlier
    cost = costs(x0, x1)
    found, expected = log_plan(cost, epsilon).exp() / 900, log_iteration(cost, epsilon).exp() / 900
    assert float((found - expected).abs().sum()) < tolerance
    for marginal in (found.sum(0), found.sum(1)):
        assert float((marginal - 1 / 30).abs().sum()) < tolerance


def test_a_small_epsilon_gives_the_exact_plan() -> None:
    """Exponents up to 1e300, and no NaN; it stops short of the marginals, at the right pairs."""
    x0, x1 = normal(30), normal(30, seed=1)
    rows, columns = linear_sum_assignment(costs(x0, x1).numpy())
    for epsilon in (1e-6, 1e-12, 1e-300):
        plan = log_plan(costs(x0, x1), epsilon)
        assert bool(torch.isfinite(plan).all())
        assert plan.argmax(1).tolist() == columns[rows.argsort()].tolist()


def test_exact_potentials_touch_the_cheapest_permutation_from_below() -> None:
    cost = costs(normal(40), normal(40, seed=1))
    rows, columns = linear_sum_assignment(cost.numpy())
    f, g = exact_potentials(cost, torch.as_tensor(rows[columns.argsort()]))
    slack = cost - f[:, None] - g
    assert int((slack < 1e-9).sum()) < 70  # at an extreme, 79 pairs or so touch
    assert float(slack.min()) > -1e-12
    assert float(slack[rows, columns].abs().max()) < 1e-12
    assert float(f.sum() + g.sum()) == pytest.approx(float(cost[rows, columns].sum()))


@pytest.mark.parametrize("a", [0.1, 0.5, 2.0])
def test_epsilon_is_that_of_the_bridge_between_gaussians(a: float) -> None:
    """In closed form: cov(x0, x1) = √(a²/4 + σ0² σ1²) - a/2 for the Brownian motion of variance a.

    The pairs have weights exp(-|x0 - x1|²/2a), so ε = 2a. Points are quantiles, of one number.
    """
    places = torch.linspace(0, 1, 401, dtype=torch.float64)[:-1] + 0.5 / 400
    x0 = torch.as_tensor(ndtri(places.numpy()))[:, None]
    x1 = 1.5 * x0 + 0.3
    s0, s1 = float(x0.var(correction=0).sqrt()), float(x1.var(correction=0).sqrt())
    exact = math.sqrt(a * a / 4 + (s0 * s1) ** 2) - a / 2
    plan = log_plan(costs(x0, x1), 2 * a).exp() / 400**2
    found = float((plan * x0 * (x1 - 0.3).T).sum())
    assert found == pytest.approx(exact, rel=5e-3)
    # and of pairs: rows that are drawn, as permutations
    drawn = [
        tpf.MinibatchOT("sinkhorn", epsilon=2 * a).pair(
            x0, x1, generator=torch.Generator().manual_seed(k)
        )[0]
        for k in range(4)
    ]
    moments = torch.stack([(x * (x1 - 0.3)).mean() for x in drawn])
    assert float(moments.mean()) == pytest.approx(exact, abs=0.12)


def test_epsilon_has_squared_units_and_regularisation_has_none() -> None:
    x0, x1 = normal(64), normal(64, seed=1)
    plain = paired(x0, x1, method="sinkhorn")
    assert torch.equal(paired(8 * x0, 8 * x1, method="sinkhorn"), 8 * plain)
    absolute = paired(x0, x1, method="sinkhorn", epsilon=0.5)
    assert torch.equal(paired(8 * x0, 8 * x1, method="sinkhorn", epsilon=32.0), 8 * absolute)
    assert not torch.equal(paired(8 * x0, 8 * x1, method="sinkhorn", epsilon=0.5), 8 * absolute)


class TestConditions:
    @pytest.mark.parametrize("options", [{}, {"method": "sinkhorn"}], ids=["exact", "sinkhorn"])
    def test_the_base_does_not_hang_on_the_label(self, options) -> None:
        """Exactly: the x0 of a label are the x0 that its rows came with."""
        label = torch.arange(60) % 3 == 0
        x0, x1 = normal(60), normal(60, seed=1) + 4.0 * label[:, None]
        process = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)), tpf.MinibatchOT(**options))
        generator = torch.Generator().manual_seed(7)
        s = process.sample(x1, x0=x0, cond={"label": label}, generator=generator)
        assert torch.equal(s.x1, x1)
        for value in (True, False):
            mine = label == value
            assert torch.equal(s.x0[mine].sort(0).values, x0[mine].sort(0).values)
            alone = float((s.x0 - x1)[mine].square().sum())
            assert alone < float((x0 - x1)[mine].square().sum())
            if not options:
                best = paired(x0[mine], x1[mine])
                torch.testing.assert_close(s.x0[mine], best)

    def test_several_labels_and_what_is_the_same_for_all(self) -> None:
        first, second = torch.arange(24) % 2, torch.arange(24)[:, None] % 3
        cond = {"a": first, "b": second, "scale": torch.tensor(0.5), "name": "c"}
        x0, x1 = normal(24), normal(24, seed=1)
        found = tpf.MinibatchOT().pair(x0, x1, cond)[0]
        for i, j in itertools.product(range(2), range(3)):
            mine = (first == i) & (second[:, 0] == j)
            torch.testing.assert_close(found[mine], paired(x0[mine], x1[mine]))
        whole = {"scale": torch.tensor(0.5), "name": "c"}
        assert torch.equal(tpf.MinibatchOT().pair(x0, x1, whole)[0], paired(x0, x1))

    def test_a_continuous_condition_is_refused(self) -> None:
        cond = {"angle": torch.rand(8)}
        with pytest.raises(ValueError, match=r"'angle' is torch.float32.*angle.long\(\)"):
            tpf.MinibatchOT().pair(normal(8), normal(8), cond)
        process = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)), tpf.MinibatchOT())
        with pytest.raises(ValueError, match="coupling=None"):
            process.sample(normal(8), cond=cond)


class TestConditionsOfNumbers:
    """A term of the cost, for conditions of which no two rows agree."""

    def test_the_plan_is_the_cheapest_of_both_terms(self) -> None:
        """By all permutations, with the conditions that each x0 was lent drawn again."""
        x0, x1, c = normal(6), normal(6, seed=1), normal(6, seed=2)[:, :1]
        coupling = tpf.MinibatchOT(condition_weight=0.7)
        found = coupling.pair(x0, x1, {"c": c}, generator=torch.Generator().manual_seed(5))[0]
        lent = c[torch.randperm(6, generator=torch.Generator().manual_seed(5))]
        cost, apart = torch.cdist(x0, x1).square(), torch.cdist(lent, c).square()
        whole = cost + 0.7 * cost.median() / apart[apart > 0].median() * apart
        best = min(
            itertools.permutations(range(6)),
            key=lambda order: float(sum(whole[i, j] for j, i in enumerate(order))),
        )
        assert torch.equal(found, x0[list(best)])

    def test_a_large_weight_is_independent_and_none_ignores_the_condition(self) -> None:
        x0, x1, c = normal(40), normal(40, seed=1), {"c": normal(40, seed=2)}
        far = tpf.MinibatchOT(condition_weight=math.inf).pair(x0, x1, c)[0]
        assert torch.equal(far, x0)
        none = tpf.MinibatchOT(condition_weight=0.0).pair(x0, x1, c)[0]
        assert torch.equal(none, paired(x0, x1))
        lent = torch.randperm(40, generator=torch.Generator().manual_seed(5))
        large = tpf.MinibatchOT(condition_weight=1e6)
        found = large.pair(x0, x1, c, generator=torch.Generator().manual_seed(5))[0]
        assert torch.equal(found, x0[lent.argsort()])  # each x0 goes to the c that it was lent

    def test_labels_still_divide_the_rows(self) -> None:
        label = torch.arange(24) % 2
        cond = {"label": label, "c": normal(24, seed=2)}
        x0, x1 = normal(24), normal(24, seed=1)
        found = tpf.MinibatchOT(condition_weight=0.0).pair(x0, x1, cond)[0]
        for k in range(2):
            torch.testing.assert_close(found[label == k], paired(x0[label == k], x1[label == k]))

    def test_the_bias_is_measured(self) -> None:
        """With x1 = c on a line and no weight, x0 is the quantile of c: a bias of the whole sd."""
        c = torch.randn(2_000, 1, generator=torch.Generator().manual_seed(0))
        tried = tpf.couplings.condition_weight(
            c, c, tpf.Gaussian((1,), mean=3.0, scale=2.0), weights=[0.0, 1e6], batch_size=100,
            batches=20, generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        assert tried.weights == (0.0, 1e6, math.inf)
        assert 0.95 < tried.bias[0] < 1.02
        # N rows in J cells: the estimate of the square has a spread of sqrt(2 J)/N = 4e-3.
        assert max(tried.bias[1:]) < 4 * math.sqrt(math.sqrt(2 * 32) / 2_000)
        assert tried.length[0] < 0.9
        assert tried.length[2] == 1
        assert tried.weight in tried.weights[1:]

    def test_what_cannot_be_measured(self) -> None:
        base, x = tpf.Gaussian((2,)), normal(40)
        with pytest.raises(ValueError, match="40 rows of x1 and 30 of c"):
            tpf.couplings.condition_weight(x, x[:30], base, batch_size=10)
        with pytest.raises(ValueError, match="at least one batch"):
            tpf.couplings.condition_weight(x, x, base, batch_size=100)
        for weight in (-1.0, math.nan):
            with pytest.raises(ValueError, match="condition_weight must be"):
                tpf.MinibatchOT(condition_weight=weight)
        with pytest.raises(ValueError, match="'c' holds NaN"):
            tpf.MinibatchOT(condition_weight=1.0).pair(x, x, {"c": x * math.nan})


def test_options_are_told_and_kept() -> None:
    for coupling in (
        tpf.MinibatchOT(condition_weight=10.0),
        tpf.MinibatchOT(),
        tpf.MinibatchOT("sinkhorn"),
        tpf.MinibatchOT("sinkhorn", regularisation=0.1),
        tpf.MinibatchOT("sinkhorn", epsilon=0.2),
    ):
        again = tpf.MinibatchOT(**coupling.config())
        assert repr(again) == repr(coupling)
        assert again.config() == coupling.config()
    with pytest.raises(ValueError, match=r"MinibatchOT\('sinkhorn', epsilon=...\)"):
        tpf.MinibatchOT(epsilon=0.5)
    with pytest.raises(ValueError, match="give one"):
        tpf.MinibatchOT("sinkhorn", epsilon=0.5, regularisation=0.5)
    for value in (0.0, -1.0, math.nan, math.inf):
        for name in ("epsilon", "regularisation"):
            with pytest.raises(ValueError, match=f"{name} must be"):
                tpf.MinibatchOT("sinkhorn", **{name: value})
