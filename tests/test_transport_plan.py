"""Plans of whole data: the law of the pairs is the plan's, and the marginals are kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import ot
import pytest
import torch
from torch import Tensor

import transportflows as tpf
from transportflows.couplings import MinibatchOT, TransportPlan
from transportflows.couplings.known_rows import KnownRows
from transportflows.couplings.partners import partner_count
from transportflows.distributions import Empirical, Transformed, Uniform

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(rows: int, *shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(rows, *shape, generator=seeded(seed), dtype=dtype)


def simplex(rows: int, seed: int) -> Tensor:
    weights = torch.rand(rows, generator=seeded(seed), dtype=F64) + 0.2
    return weights / weights.sum()


def costs(x0: Tensor, x1: Tensor) -> Tensor:
    return (x0.flatten(1)[:, None] - x1.flatten(1)).square().sum(-1)


def dense(x0: Tensor, x1: Tensor, p: Tensor, q: Tensor, epsilon: float) -> Tensor:
    """The entropic plan by plain Sinkhorn steps on logarithms, to rounding."""
    cost, f, g = costs(x0, x1), torch.zeros_like(p), torch.zeros_like(q)
    for _ in range(1_500):
        f = -epsilon * torch.logsumexp((g - cost) / epsilon + q.log(), 1)
        g = -epsilon * torch.logsumexp((f[:, None] - cost) / epsilon + p.log()[:, None], 0)
    return p[:, None] * q * ((f[:, None] + g - cost) / epsilon).exp()


def places(rows: Tensor, among: Tensor) -> Tensor:
    """Where each row stands among others."""
    same = (rows.flatten(1)[:, None] == among.flatten(1)).all(-1)
    assert bool(same.any(1).all())
    return same.double().argmax(1)


def joint(plan: TransportPlan, x0: Tensor, x1: Tensor, n: int, seed: int = 5) -> Tensor:
    """Frequencies of n pairs."""
    a, b = plan.sample(n, generator=seeded(seed))
    where = places(a, x0) * len(x1) + places(b, x1)
    return torch.bincount(where, minlength=len(x0) * len(x1)).view(len(x0), len(x1)) / n


def chi(found: Tensor, law: Tensor, n: int) -> float:
    """Mean square of the deviations in standard errors, of entries that are expected 5 times."""
    often = law * n > 5
    z = (found - law)[often] / (law * (1 - law) / n).sqrt()[often]
    return float(z.square().mean())


SIZES = [(12, 12), (9, 14), (15, 8)]
N = 100_000


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_pairs_have_the_law_of_the_entropic_plan(sizes, weighted, epsilon) -> None:
    x0, x1 = normal(sizes[0], 2), normal(sizes[1], 2, seed=1) + 1
    p, q = (simplex(n, k) if weighted else torch.full((n,), 1 / n, dtype=F64)
            for k, n in enumerate(sizes))  # fmt: skip
    weights = {"x0_weights": p, "x1_weights": q} if weighted else {}
    plan = TransportPlan(x0, x1, regularisation=epsilon, tolerance=1e-6, **weights)
    found, law = joint(plan, x0, x1, N), dense(x0, x1, p, q, epsilon)
    assert chi(found, law, N) < 2
    assert plan.report.violation < 1e-6
    assert 0 <= plan.report.gap < 1e-4
    # The bugs that this would let through otherwise.
    wrong = {
        "half the regularisation": dense(x0, x1, p, q, epsilon / 2),
        "twice the regularisation": dense(x0, x1, p, q, 2 * epsilon),
        "independent": p[:, None] * q,
        "other places": law.roll(1, 0),
    }
    if weighted:
        flat = (torch.full_like(p, 1 / len(p)), torch.full_like(q, 1 / len(q)))
        wrong["no weights"] = dense(x0, x1, *flat, epsilon)
    if sizes[0] == sizes[1]:
        wrong["transposed"] = law.T
    for what, other in wrong.items():
        assert chi(found, other, N) > 4, what


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_pairs_have_the_law_of_the_exact_plan(sizes, weighted) -> None:
    x0, x1 = normal(sizes[0], 2), normal(sizes[1], 2, seed=1) + 1
    p, q = (simplex(n, k) if weighted else torch.full((n,), 1 / n, dtype=F64)
            for k, n in enumerate(sizes))  # fmt: skip
    weights = {"x0_weights": p, "x1_weights": q} if weighted else {}
    plan = TransportPlan(x0, x1, regularisation=0, **weights)
    law = torch.as_tensor(ot.emd(p.numpy(), q.numpy(), costs(x0, x1).numpy()))
    found = joint(plan, x0, x1, N)
    assert bool((found[law < 1e-12] == 0).all())
    assert chi(found, law, N) < 3
    assert plan.report.value == pytest.approx(float((law * costs(x0, x1)).sum()), rel=1e-6)


def test_equal_numbers_make_a_permutation() -> None:
    x0, x1 = normal(40, 3), normal(40, 3, seed=1)
    plan = TransportPlan(x0, x1, regularisation=0)
    paired, kept = plan.pair(x1, x1)
    assert torch.equal(kept, x1)
    assert places(paired, x0).sort().values.tolist() == list(range(40))


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_events_of_any_shape(shape, dtype) -> None:
    x0, x1 = normal(20, *shape, dtype=dtype), normal(30, *shape, seed=1, dtype=dtype)
    for epsilon in (0.0, 1.0):
        a, b = TransportPlan(x0, x1, regularisation=epsilon).pair(x1[:7], x1[:7])
        assert a.shape == (7, *shape)
        assert a.dtype == dtype
        assert torch.equal(b, x1[:7])
        places(a, x0)


def test_marginals_of_an_epoch() -> None:
    """Over the partners of all rows each x0 has its weight, within the rounding of K strata."""
    x0, x1 = normal(300, 2), normal(200, 2, seed=1) * 2
    p = simplex(300, 2)
    plan = TransportPlan(x0, x1, regularisation=0.5, x0_weights=p, tolerance=1e-6)
    table = plan._plan().partners.table
    assert table.shape == (200, partner_count(200, 300))
    share = torch.bincount(table.flatten().long(), minlength=300) / table.numel()
    assert float((share - p).abs().sum()) < 5e-3
    assert plan.report.left == pytest.approx((0.0, 0.0), abs=1e-12)


def test_few_rows_go_with_all_of_a_large_pool() -> None:
    """The marginal of x0 is that of the pool, where 4,096 partners a row were 40 % short of it."""
    x0, x1 = normal(40_000, 2), normal(8, 2, seed=1)
    plan = TransportPlan(x0, x1, regularisation=2.0)
    table = plan._plan().partners.table
    share = torch.bincount(table.flatten().long(), minlength=len(x0)) / table.numel()
    assert float((share * len(x0) - 1).abs().mean()) < 0.05


def test_equal_rows_are_one_row_with_both_weights() -> None:
    x0 = normal(10, 2)
    x1 = torch.cat([normal(5, 2, seed=1), normal(5, 2, seed=1)[:3]])
    plan = TransportPlan(x0, x1, regularisation=0)
    assert len(plan.data.rows) == 5
    a, _ = plan.sample(N, generator=seeded())
    assert chi(torch.bincount(places(a, x0)) / N, torch.full((10,), 0.1, dtype=F64), N) < 3
    assert plan.row_weights(x1) is None


def test_known_rows_find_bits_and_labels() -> None:
    for shape, dtype in (((2,), torch.float32), ((3,), torch.float32), ((3,), F64)):
        x = normal(500, *shape, dtype=dtype)
        label = torch.arange(500) % 7
        rows = KnownRows(x, [label], torch.full((500,), 1 / 500))
        at, unknown = rows.find(x[100:200], [label[100:200]])
        assert unknown is None
        assert torch.equal(rows.first[at], torch.arange(100, 200))
        apart = torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x)  # not aligned to a word
        assert rows.find(apart, [label])[1] is None
        assert rows.find(x.flip(1).flip(1).expand_as(x), [label])[1] is None
        for other, labels in (
            (x.nextafter(x + 1), label),
            (-x, label),
            (x, label + 1),
            (x.flip(1), label),
        ):
            assert not bool(rows.find(other, [labels])[1].any())


# --------------------------------------------------------------------------------------- labels


def labelled() -> tuple[Tensor, Tensor, Tensor]:
    label = (torch.arange(60) % 3 == 0).long()
    x1 = normal(60, 2, seed=1) + 6 * label[:, None]
    return normal(50, 2), x1, label


@pytest.mark.parametrize("epsilon", [0.0, 0.7])
def test_each_label_has_all_of_the_pool(epsilon) -> None:
    x0, x1, label = labelled()
    plan = TransportPlan(x0, x1, regularisation=epsilon, cond={"label": label}, tolerance=1e-6)
    for k in (0, 1):
        rows = (label == k).nonzero()[:, 0].repeat(2_000)
        cond = {"label": label[rows]}
        a, _ = plan.pair(x1[rows], x1[rows], cond, generator=seeded())
        share = torch.bincount(places(a, x0), minlength=50) / len(rows)
        assert float((share - 1 / 50).abs().sum()) < 0.05
        want = dense(x0, x1[label == k], torch.full((50,), 0.02, dtype=F64),
                     torch.full((int((label == k).sum()),), 1 / int((label == k).sum()), dtype=F64),
                     max(epsilon, 0.02))  # fmt: skip
        cost = float((want * costs(x0, x1[label == k])).sum())
        assert float((a - x1[rows]).square().sum(1).mean()) == pytest.approx(cost, rel=0.02)
    blind = TransportPlan(x0, x1, regularisation=epsilon)
    a, _ = blind.pair(x1, x1, generator=seeded())
    apart = a[label == 1].mean(0) - a[label == 0].mean(0)
    assert float(apart.norm()) > 0.5  # what a plan that does not see the label does to the base


def test_labels_must_be_those_of_the_plan() -> None:
    x0, x1, label = labelled()
    plan = TransportPlan(x0, x1, regularisation=1.0, cond={"label": label, "one": 3})
    with pytest.raises(ValueError, match=r"made with the labels \['label'\] and is asked .* \[\]"):
        plan.pair(x1, x1)
    with pytest.raises(ValueError, match="60 of 60 rows are none of the plan's x1 with their"):
        plan.pair(x1, x1, {"label": 1 - label})
    with pytest.raises(ValueError, match="TransportPlan\\(x0, x1, cond="):
        TransportPlan(x0, x1, regularisation=1.0).pair(x1, x1, {"label": label})
    for c in (x1[:, :1], x1[:, 0]):
        with pytest.raises(ValueError, match="of which no two rows need agree"):
            TransportPlan(x0, x1, cond={"c": c})
        with pytest.raises(ValueError, match="of which no two rows need agree"):
            plan.pair(x1, x1, {"c": c})


# ----------------------------------------------------------------------------------- in a process


def test_the_regularisation_is_that_of_the_latent() -> None:
    x0, x1 = normal(8, 2), normal(9, 2, seed=1)
    given = TransportPlan(x0, x1)
    bridge = tpf.Process(tpf.Linear(tpf.Brownian(0.5)), coupling=given)
    straight = tpf.Process(tpf.Linear(), coupling=given)
    turned = tpf.Process(tpf.Trigonometric(), coupling=given)
    assert bridge.coupling.regularisation == 1.0
    assert straight.coupling.regularisation == turned.coupling.regularisation == 0
    assert given.regularisation is None
    kinds = [process.coupling.report.kind for process in (bridge, straight, turned)]
    assert kinds == ["entropic", "exact", "exact"]
    own = TransportPlan(x0, x1, regularisation=3.0)
    assert tpf.Process(tpf.Linear(tpf.interpolants.SineSquared()), coupling=own).coupling is own
    for path in (
        tpf.Linear(tpf.interpolants.Quadratic()),
        tpf.Trigonometric(tpf.Brownian()),
        tpf.EncoderDecoder(),
        tpf.Linear(tpf.Brownian(torch.nn.Parameter(torch.tensor(1.0)))),
    ):
        with pytest.raises(ValueError, match="give it as a number"):
            tpf.Process(path, coupling=given)


def test_the_pool_is_the_base_of_a_process_without_one() -> None:
    x0, x1, p = normal(30, 2), normal(9, 2, seed=1), simplex(30, 3)
    plan = TransportPlan(x0, x1, x0_weights=p)
    process = tpf.Process(tpf.Linear(), coupling=plan)
    assert isinstance(process.base, Empirical)
    drawn = process.start.sample(N, generator=seeded(), dtype=F64)
    assert chi(torch.bincount(places(drawn, x0), minlength=30) / N, p, N) < 3
    field = tpf.Velocity(lambda t, x: torch.zeros_like(x), process)
    places(tpf.sample(field, 5, steps=2, generator=seeded(), dtype=F64).x, x0)
    law = tpf.Gaussian((2,))
    assert tpf.Process(tpf.Linear(), base=law, coupling=plan).base is law
    with pytest.raises(ValueError, match="brings the x0 of each row itself"):
        process.sample(x1, x0=x1)
    with pytest.raises(ValueError, match="events of shape"):
        tpf.Process(tpf.Linear(), base=tpf.Gaussian((3,)), coupling=plan)


def test_a_process_draws_pairs_of_the_plan() -> None:
    x0, x1 = normal(30, 2), normal(40, 2, seed=1)
    process = tpf.Process(tpf.Linear(tpf.Brownian(0.1)), coupling=TransportPlan(x0, x1))
    drawn = process.sample(x1, generator=seeded())
    again = process.sample(x1, generator=seeded())
    assert torch.equal(drawn.x, again.x)
    places(drawn.x0, x0)
    with pytest.raises(tpf.ConversionError):
        _ = process.part


# ------------------------------------------------------------------------------------ in training


def trained(coupling: Any, x1: Any, *, steps: int = 12, seed: int = 3, **options: Any) -> Any:
    process = tpf.Process(tpf.Linear(), base=options.pop("base", None), coupling=coupling)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = tpf.networks.MLP(2, width=8, labels=options.pop("labels", None))
    field = tpf.Velocity(
        net.to(getattr(x1, "dtype", F64)), process, transform=options.pop("transform", None)
    )
    trainer = tpf.Trainer(field)
    trainer.fit(x1, steps=steps, batch_size=16, generator=seeded(seed), progress=False, **options)
    return trainer


def test_fit_and_sample_with_a_plan() -> None:
    x0, x1 = normal(200, 2, dtype=torch.float32), normal(300, 2, seed=1, dtype=torch.float32) + 3
    trainer = trained(TransportPlan(x0, x1), x1, steps=300)
    moved = tpf.sample(trainer.field, 400, steps=10, generator=seeded()).x
    assert float((moved.mean(0) - 3).abs().max()) < 0.5


def test_fit_refuses_other_rows() -> None:
    x0, x1 = normal(20, 2), normal(30, 2, seed=1)
    plan = TransportPlan(x0, x1)
    with pytest.raises(ValueError, match="30 of 30 rows are none of the plan's x1"):
        trained(plan, x1 + 1)
    with pytest.raises(ValueError, match="lack 1 of the 30 different rows"):
        trained(plan, x1[1:])
    with pytest.raises(ValueError, match="transform"):
        trained(plan, x1, transform=tpf.Standardize.fit(x1), base=tpf.Gaussian((2,)))
    with pytest.raises(ValueError, match="float32"):
        trained(plan, x1.float())
    trained(plan, torch.cat([x1, x1]))


def test_standardised_units() -> None:
    x0, x1 = normal(20, 2) * 50, normal(30, 2, seed=1) * 40 + 10
    transform = tpf.Standardize.fit(x1)
    plan = TransportPlan(transform(x0), transform(x1))
    base = Transformed(Empirical(x0), transform)
    trainer = trained(plan, x1, transform=transform, base=base)
    assert trainer.step == 12


def test_rows_of_data_come_by_their_weights() -> None:
    """Weights of x1, of which fit makes the order: each row rounded down or up every epoch."""
    x0, x1, q = normal(20, 2), normal(32, 2, seed=1), simplex(32, 4)
    plan = TransportPlan(x0, x1, x1_weights=q, regularisation=1.0)
    counts, law = torch.zeros(32, dtype=F64), []

    class Seen(tpf.VelocityLoss):
        def draw(self, field: Any, batch: Any, *, generator: Any = None) -> Any:
            drawn = super().draw(field, batch, generator=generator)
            counts.add_(torch.bincount(places(drawn.x1, x1), minlength=32))
            law.append(places(drawn.x0, x0))
            return drawn

    process = tpf.Process(tpf.Linear(), coupling=plan)
    field = tpf.Velocity(tpf.networks.MLP(2, width=8).double(), process)
    tpf.Trainer(field, Seen()).fit(x1, steps=200, batch_size=16, generator=seeded(), progress=False)
    assert float((counts / 100 - 32 * q).abs().max()) < 0.25  # over 100 epochs
    share = torch.bincount(torch.cat(law), minlength=20) / 3200
    assert chi(share, torch.full((20,), 0.05, dtype=F64), 3200) < 3
    with pytest.raises(ValueError, match="give x1 as a tensor"):
        trained(plan, Items(x1))


def test_rows_of_a_dataset_are_known_too() -> None:
    x0, x1 = normal(20, 2), normal(30, 2, seed=1)
    assert trained(TransportPlan(x0, x1), Items(x1)).step == 12
    with pytest.raises(ValueError, match="rows are none of the plan's x1"):
        trained(TransportPlan(x0, x1), Items(x1 + 1))


class Items(torch.utils.data.Dataset):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> Tensor:
        return self.x[row]


def test_resumed_runs_have_the_same_bits(tmp_path) -> None:
    x0, x1 = normal(50, 2), normal(40, 2, seed=1)
    for regularisation, law in ((0.5, x0), (0.0, tpf.Gaussian((2,))), (0.3, tpf.Gaussian((2,)))):

        def plan(law: Any = law, regularisation: float = regularisation) -> TransportPlan:
            return TransportPlan(law, x1, regularisation=regularisation, tolerance=0.1)

        whole = trained(plan(), x1, steps=20)
        folder = tmp_path / f"{regularisation}"
        trained(plan(), x1, steps=9, checkpoints=folder)
        rest = trained(plan(), x1, steps=20, checkpoints=folder, resume=True)
        for one, other in zip(whole.parameters, rest.parameters, strict=True):
            assert torch.equal(one, other)


def test_labels_in_training() -> None:
    x0, x1, label = labelled()
    plan = TransportPlan(x0, x1, cond={"label": label})
    trained(plan, x1, cond={"label": label}, labels=2)
    with pytest.raises(ValueError, match="made with the labels"):
        trained(plan, x1)
    with pytest.raises(ValueError, match="none of the plan's x1 with their labels"):
        trained(plan, x1, cond={"label": 1 - label}, labels=2)


# ------------------------------------------------------------------------------------- unbalanced


@pytest.mark.parametrize(("epsilon", "rho"), [(0.5, 1.0), (0.2, 5.0), (2.0, 0.4)])
@pytest.mark.filterwarnings("ignore::UserWarning:ot")
def test_unbalanced_plans_are_those_of_pot(epsilon, rho) -> None:
    x0, x1 = normal(12, 2), normal(15, 2, seed=1) * 2 + 1
    p, q = simplex(12, 2), simplex(15, 3)
    weights = {"x0_weights": p, "x1_weights": q}
    plan = TransportPlan(x0, x1, regularisation=epsilon, unbalanced=rho, tolerance=1e-8, **weights)
    want = torch.as_tensor(
        ot.unbalanced.sinkhorn_unbalanced(
            p.numpy(), q.numpy(), costs(x0, x1).numpy(), epsilon, rho,
            reg_type="kl", numItermax=100_000, stopThr=1e-13,
        )
    )  # fmt: skip
    report = plan.report
    assert float((report.x0_mass - want.sum(1)).abs().max()) < 1e-7
    assert float((report.x1_mass - want.sum(0)).abs().max()) < 1e-7
    assert report.left[0] == pytest.approx(1 - float(want.sum()), abs=1e-7)
    assert report.left[1] == pytest.approx(1 - float(want.sum()), abs=1e-7)
    assert 0.05 < report.left[0] < 0.95
    found, law = joint(plan, x0, x1, N), want / want.sum()
    assert chi(found, law, N) < 2
    assert chi(found, dense(x0, x1, p, q, epsilon), N) > 10
    # A primal of its own: the value is what the objective of the plan is.
    flat = p[:, None] * q
    kl = [float((torch.special.xlogy(a, a / b) - a + b).sum())
          for a, b in ((want, flat), (want.sum(1), p), (want.sum(0), q))]  # fmt: skip
    primal = float((want * costs(x0, x1)).sum()) + epsilon * kl[0] + rho * (kl[1] + kl[2])
    assert report.value == pytest.approx(primal, rel=1e-6)
    assert 0 <= report.gap < 1e-6


def test_what_is_left_is_not_trained_on() -> None:
    """An outlier of x1 beyond √(2ρ) is left; the base is what the plan takes."""
    x0 = torch.cat([normal(50, 2), normal(5, 2, seed=9) - 30])
    x1 = torch.cat([normal(50, 2, seed=1), normal(3, 2, seed=8) + 30])
    plan = TransportPlan(x0, x1, regularisation=0.5, unbalanced=5.0)
    assert plan.report.left[0] > 0.08
    a, b = plan.sample(5_000, generator=seeded())
    assert float(a.min()) > -10
    assert float(b.max()) < 10
    process = tpf.Process(tpf.Linear(), coupling=plan)
    assert float(process.base.sample(2_000, generator=seeded()).min()) > -10
    assert float(plan.row_weights(x1)[50:].max()) < 1e-6
    with pytest.raises(ValueError, match="leave base out"):
        tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), coupling=plan)
    with pytest.raises(ValueError, match="asks for an exact one"):
        tpf.Process(tpf.Linear(), coupling=TransportPlan(x0, x1, unbalanced=1.0))


# ------------------------------------------------------------------------------ a law on one side


def test_each_draw_of_a_law_goes_to_its_cell() -> None:
    """Uniform on [0, 1] to two points: the boundary of the cells is at the first mass."""
    law = tpf.distributions.Uniform((1,), 0.0, 1.0)
    x1 = torch.tensor([[0.2], [0.9]], dtype=F64)
    q = torch.tensor([0.3, 0.7], dtype=F64)
    plan = TransportPlan(law, x1, x1_weights=q, tolerance=0.01)
    process = tpf.Process(tpf.Linear(), base=law, coupling=plan)
    x0, paired = process.pairs(x1.repeat(20_000, 1), generator=seeded())
    assert float((x0 - torch.rand(20_000 * 2, 1, generator=seeded(), dtype=F64)).mean()) < 0.01
    first = paired[:, 0] == 0.2
    assert float(first.double().mean()) == pytest.approx(0.3, abs=0.015)
    assert float(x0[first].max()) <= float(x0[~first].min())
    # |x - .2|² + |x - .9|² over the halves, from the quantiles of the law.
    cost = sum(((b - y) ** 3 - (a - y) ** 3) / 3 for a, b, y in ((0, 0.3, 0.2), (0.3, 1, 0.9)))
    assert plan.report.value == pytest.approx(cost, abs=0.004)
    assert plan.report.violation + plan.report.violation_error <= 0.01


def test_a_gaussian_to_two_points_in_the_plane() -> None:
    """The boundary is the line on which the mass of the half plane is the weight."""
    y = torch.tensor([[-1.0, 0.5], [2.0, -0.7]], dtype=F64)
    q = torch.tensor([0.25, 0.75], dtype=F64)
    plan = TransportPlan(tpf.Gaussian((2,)), y, x1_weights=q, tolerance=0.01)
    part = plan._plan().cells[0]
    first, second = part.g[plan.data.rows.first[part.rows].argsort()]
    # <x, y2 - y1> has deviation |y2 - y1|, and is below c with probability 1/4.
    c = float((y[1] - y[0]).norm()) * math.sqrt(2) * float(torch.erfinv(torch.tensor(-0.5)))
    want = float(y[1].square().sum() - y[0].square().sum()) - 2 * c
    assert float(second - first) == pytest.approx(want, abs=0.12)


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_masses_of_cells_on_draws_of_ones_own(epsilon) -> None:
    x1, q = normal(40, 2, seed=1) * 2, simplex(40, 4)
    plan = TransportPlan(tpf.Gaussian((2,)), x1, x1_weights=q, regularisation=epsilon)
    _, b = plan.sample(100_000, generator=seeded(11))
    share = torch.bincount(places(b, x1), minlength=40) / 100_000
    assert float((share - q).abs().sum()) < 0.05 + 0.02


def test_a_law_keeps_its_draws_and_labels_their_rows() -> None:
    _, x1, label = labelled()
    law = tpf.Gaussian((2,))
    plan = TransportPlan(law, x1, cond={"label": label}, tolerance=0.05)
    x0 = normal(60, 2, seed=4)
    a, b = plan.pair(x0, x1, {"label": label})
    assert a is x0
    assert torch.equal(label[places(b, x1)], label)
    with pytest.raises(ValueError, match="rows are none"):
        plan.pair(x0, x1 + 1, {"label": label})


def test_the_base_is_the_law_of_the_plan() -> None:
    law, x1 = tpf.Gaussian((2,)), normal(10, 2)
    plan = TransportPlan(law, x1)
    assert tpf.Process(tpf.Linear(), coupling=plan).base is law
    tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), coupling=plan)
    theirs = torch.distributions.Normal(torch.zeros(2), 1.0)
    tpf.Process(tpf.Linear(), base=theirs, coupling=TransportPlan(theirs, x1))
    for other in (tpf.Gaussian((2,), scale=2.0), tpf.Gaussian((2,), mean=1.0), theirs):
        with pytest.raises(ValueError, match="give the same object to both"):
            tpf.Process(tpf.Linear(), base=other, coupling=plan)
    of_rows = TransportPlan(Empirical(x1), x1)
    tpf.Process(tpf.Linear(), base=Empirical(x1.clone()), coupling=of_rows)
    with pytest.raises(ValueError, match="give the same object to both"):
        tpf.Process(tpf.Linear(), base=Empirical(2 * x1), coupling=of_rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_base_of_which_the_pool_is_no_sample_is_refused(weighted, scale) -> None:
    """Training would start from x0, and sampling from elsewhere."""
    shape, x1 = (2, 2), normal(50, 2, 2)
    law = tpf.distributions.GaussianMixture(
        scale * torch.tensor([-3.0, 3.0])[:, None, None].expand(2, *shape), scale * 0.5
    )
    x0 = law.sample(2_000, generator=seeded(3), dtype=F64)
    weights = simplex(2_000, 4) if weighted else None
    plan = TransportPlan(x0, x1, x0_weights=weights)
    assert tpf.Process(tpf.Linear(), base=law, coupling=plan).base is law
    pool = Empirical(x0, weights=weights)
    assert tpf.Process(tpf.Linear(), base=pool, coupling=plan).base is pool
    for other in (tpf.Gaussian(shape, 0.0, 3 * scale), tpf.Gaussian(shape, 9.0), Uniform(shape)):
        with pytest.raises(ValueError, match=r"are no sample of it.* leave base out"):
            tpf.Process(tpf.Linear(), base=other, coupling=plan)
    steps = TransportPlan(
        (4 * x0 / scale).round() * scale / 3, x1, x0_weights=weights
    )  # many are equal, and off by rounding

    class Rounded:
        def sample(self, n, *, generator=None):
            return (4 * law.sample(n, generator=generator, dtype=F64) / scale).round() / 3 * scale

    tpf.Process(tpf.Linear(), base=Rounded(), coupling=steps, shape=shape)
    few = TransportPlan(x0[:20], x1)  # which cannot tell
    assert tpf.Process(tpf.Linear(), base=law, coupling=few).base is law


# -------------------------------------------------------------------------------------- bad input

X0, X1 = normal(10, 2), normal(12, 2, seed=1)
HALF = torch.full((12,), 1 / 12, dtype=F64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TransportPlan(X0, X1, regularisation=-1.0), "0 (exact) or positive"),
        (lambda: TransportPlan(X0, X1, regularisation=math.nan), "got nan"),
        (lambda: TransportPlan(X0, X1, unbalanced=0.0), "a positive penalty"),
        (lambda: TransportPlan(X0, X1, unbalanced=1.0, regularisation=0), "is entropic"),
        (lambda: TransportPlan(X0, X1, x1_weights=HALF * 3), "sum to 1, got a sum of 3"),
        (lambda: TransportPlan(X0, X1, x1_weights=HALF[:-1]), "one a row, got (11,)"),
        (lambda: TransportPlan(X0, X1, x1_weights=HALF * math.nan), "must sum to 1"),
        (lambda: TransportPlan(X0, X1, x1_weights=HALF - torch.eye(12)[0] / 5), "not be negative"),
        (lambda: TransportPlan(X0, X1[:, :1]), "a plan is between rows of one shape"),
        (lambda: TransportPlan(X0, X1.float()), "x0.to(torch.float32)"),
        (lambda: TransportPlan(X0 * math.nan, X1), "NaN or infinite values in 10 of 10 rows"),
        (lambda: TransportPlan(X0, X1[:0]), "x1 is empty"),
        (lambda: TransportPlan(X0, X1[:, 0]), "at least 2 dimensions"),
        (lambda: TransportPlan(X0, X1, cond={"label": torch.arange(3)}), "3 rows for 12 rows"),
        (lambda: TransportPlan(X0, X1, tolerance=0.0), "in (0, 2)"),
        (lambda: TransportPlan(X0, X1, regularisation=1e-18).report, "is too small for these"),
        (lambda: TransportPlan(tpf.Gaussian((3,)), X1), "a law of the shape of the data"),
        (lambda: TransportPlan(tpf.Gaussian((2,)), X1, unbalanced=1.0), "from a pool"),
        (lambda: TransportPlan(tpf.Gaussian((2,)), X1, x0_weights=HALF), "of a pool"),
        (lambda: TransportPlan(X0, X1, regularisation=1.0).pair(X1.float(), X1.float()), "float32"),
    ],
)  # fmt: skip
def test_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert message in str(caught.value)


def test_a_plan_that_did_not_converge_is_never_used() -> None:
    plans = [
        TransportPlan(normal(300, 2), normal(300, 2, seed=1), regularisation=1e-3, max_steps=1),
        TransportPlan(X0, X1, regularisation=0.01, unbalanced=50.0, max_steps=3),
        TransportPlan(tpf.Gaussian((2,)), normal(50, 2), tolerance=0.02, max_steps=1),
    ]
    for plan in plans:
        x1 = plan.data.x1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for ask in (lambda p=plan: p.report, lambda p=plan, x=x1: p.pair(x, x)):
                with pytest.raises(RuntimeError, match=r"did not converge.*is not used"):
                    ask()


def test_exact_plans_too_large_for_memory_are_refused() -> None:
    plan = TransportPlan(normal(15_000, 1), normal(15_000, 1, seed=1), regularisation=0)
    with pytest.raises(ValueError, match="takes 9 GB; give a regularisation"):
        plan._plan()


def test_exact_plans_of_pools() -> None:
    """At 1,500 points POT alone meets the limit of its iterations, which it only warns of."""
    x0, x1 = normal(1500, 2), normal(1500, 2, seed=1) * 2
    plan = TransportPlan(x0, x1, regularisation=0)
    assert plan.report.gap <= 1e-6 * plan.report.value
    a, _ = plan.pair(x1, x1)
    assert len(a.unique(dim=0)) == 1500


# --------------------------------------------------------------------------- rows that are held out


def held_out_pairs(plan: TransportPlan, x1: Tensor, cond: Any = None, seed: int = 0) -> Any:
    return plan.pair_held_out(x1, cond or {}, generator=seeded(seed))


def test_held_out_rows_have_the_conditional_of_the_plan() -> None:
    """π(i given y) ∝ p_i exp((f_i - |x_i - y|²)/ε) at a new y, as at an old one; chi-squared."""
    x0, x1, p, q = normal(7, 2), normal(9, 2, seed=1), simplex(7, 2), simplex(9, 3)
    plan = TransportPlan(x0, x1, regularisation=0.7, x0_weights=p, x1_weights=q, tolerance=1e-9)
    whole = dense(x0, x1, p, q, 0.7)
    f = 0.7 * (whole.log() - (p[:, None] * q).log() + costs(x0, x1) / 0.7)[:, 0]  # up to a constant
    n = 40_000
    for y in (x1[4], torch.tensor([0.3, -0.2], dtype=F64)):
        law = (p.log() + (f - costs(x0, y[None])[:, 0]) / 0.7).softmax(0)
        a, b = held_out_pairs(plan, y.expand(n, 2))
        assert torch.equal(b, y.expand(n, 2))
        found = torch.bincount(places(a, x0), minlength=7) / n
        assert n * float(((found - law).square() / law).sum()) < 6 + 5 * math.sqrt(12)


def test_held_out_rows_of_an_exact_plan_go_where_the_map_does() -> None:
    """Between a law and a shift of it the map is the shift, of which N points know the rest."""
    n = 1500
    x0, x1 = normal(n, 2), normal(n, 2, seed=1) + 5
    y = normal(1000, 2, seed=2) + 5
    for regularisation, noise in ((0.0, 0.0), (0.5, 1.0)):
        plan = TransportPlan(x0, x1, regularisation=regularisation)
        a, _ = held_out_pairs(plan, y)
        old, _ = plan.pair(x1, x1, generator=seeded())
        spread = [float((one - two + 5).square().sum(1).mean()) for one, two in ((a, y), (old, x1))]
        assert spread[0] == pytest.approx(spread[1], rel=0.25)
        assert spread[0] < 0.1 + noise
        assert float(a.mean(0).abs().max()) < 0.1
        assert float((a.var(0) - 1).abs().max()) < 0.15
    plan = TransportPlan(x0, x1, regularisation=0)
    a, _ = held_out_pairs(plan, x1)  # on its own rows the plan, up to ties
    cost = float((a - x1).square().sum(1).mean())
    assert cost == pytest.approx(plan.report.value, rel=0.01)


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_held_out_rows_of_a_plan_from_a_law(epsilon) -> None:
    x1 = normal(300, 2, seed=1) + 5
    plan = TransportPlan(tpf.Gaussian((2,)), x1, regularisation=epsilon, tolerance=0.1)
    y = normal(1000, 2, seed=2) + 5
    a, b = held_out_pairs(plan, y)
    assert torch.equal(b, y)
    assert float((a - y + 5).square().sum(1).mean()) < 0.15 + epsilon
    assert float(a.mean(0).abs().max()) < 0.15


def test_held_out_rows_keep_to_their_label() -> None:
    x0, x1, y = labelled()
    plan = TransportPlan(x0, x1, regularisation=0.3, cond={"label": y})
    new = x1[y == 0][:50] + 0.05
    label = torch.zeros(len(new), dtype=y.dtype)
    one = TransportPlan(x0, x1[y == 0], regularisation=0.3)
    a, _ = held_out_pairs(plan, new, {"label": label})
    b, _ = held_out_pairs(one, new)
    assert float((a - b).abs().mean()) < 0.1
    with pytest.raises(ValueError, match="label"):
        held_out_pairs(plan, new, {"label": label + 7})
    with pytest.raises(ValueError, match="labels"):
        held_out_pairs(plan, new)


def test_validation_with_plans() -> None:
    x1, new = normal(60, 2, seed=1), normal(20, 2, seed=2)
    one = {"steps": 3, "validation_every": 2}
    for x0 in (normal(50, 2), tpf.Gaussian((2,))):
        for regularisation in (0.0, 0.5):
            plan = TransportPlan(x0, x1, regularisation=regularisation, tolerance=0.2)
            history = trained(plan, x1, validation=new, **one).history
            again = trained(plan, x1, validation=new, **one).history
            assert len(history.validation) == 2
            scores = history.validation.loss.tolist()
            assert scores == again.validation.loss.tolist()
            assert max(scores) < 10
    plan = TransportPlan(normal(50, 2), x1, regularisation=0.5, unbalanced=1.0)
    with pytest.raises(ValueError, match=r"unbalanced.*leave validation out"):
        trained(plan, x1, validation=new, **one)


def test_held_out_rows_of_a_pool_are_paired_as_a_pool(monkeypatch) -> None:
    """By one plan of as many rows as a pool has, or of all there are."""
    seen: list[tuple[Tensor, Tensor, bool]] = []
    sample = tpf.Process.sample

    def watched(self: Any, x1: Tensor, **kwargs: Any) -> Any:
        seen.append((kwargs.get("x0"), x1, kwargs.get("paired", False)))
        return sample(self, x1, **kwargs)

    monkeypatch.setattr(tpf.Process, "sample", watched)
    x1, new = normal(160, 2, seed=1), normal(100, 2, seed=2)
    trained(MinibatchOT(pool=80), x1, base=tpf.Gaussian((2,)), validation=new, steps=1)
    held_out = [each for each in seen if bool((each[1][0] == new).all(-1).any())]
    assert [len(x) for _, x, _ in held_out] == [16] * 5 + [16, 4]
    assert all(paired for *_, paired in held_out)
    assert torch.equal(torch.cat([x for _, x, _ in held_out]), new)
    for first, last in ((0, 5), (5, 7)):
        x0, y = (torch.cat([each[k] for each in held_out[first:last]]) for k in (0, 1))
        best = MinibatchOT().pair(x0, y)[0]
        assert torch.equal(best, x0)


def test_it_is_told() -> None:
    plan = TransportPlan(X0, X1, regularisation=1.0)
    assert repr(plan) == "TransportPlan(<10 rows>, <12 rows of (2,)>, regularisation=1)"


def plans_to_save() -> dict[str, Callable[[], tpf.Process]]:
    transform = tpf.Standardize(1.0, 2.0)
    pool = Transformed(Empirical(X0), transform)
    line = tpf.Linear()
    return {
        "pool": lambda: tpf.Process(line, coupling=TransportPlan(X0, X1)),
        "sample of a law": lambda: tpf.Process(
            line, base=tpf.Gaussian((2,)), coupling=TransportPlan(X0, X1)
        ),
        "law": lambda: tpf.Process(
            line, coupling=TransportPlan(tpf.Gaussian((2,)), X1, tolerance=0.5)
        ),
        "weights": lambda: tpf.Process(
            line, coupling=TransportPlan(X0, X1, x0_weights=simplex(10, 1), regularisation=1.0)
        ),
        "unbalanced": lambda: tpf.Process(
            line, coupling=TransportPlan(X0, X1, regularisation=1.0, unbalanced=2.0)
        ),
        "bridge": lambda: tpf.Process(
            tpf.Linear(tpf.Brownian(1.0)), coupling=TransportPlan(X0, X1)
        ),
        "units": lambda: tpf.Process(
            line, pool, TransportPlan(transform(X0), transform(X1), regularisation=0)
        ),
    }


@pytest.mark.parametrize("name", plans_to_save())
def test_a_field_of_a_plan_is_saved_and_samples_the_same(name, tmp_path) -> None:
    """The plan is training data, and stays behind; the rows of a pool that is the base do not."""
    process = plans_to_save()[name]()
    transform = process.base.transform if name == "units" else None
    field = tpf.Velocity(tpf.networks.MLP(2, width=8).double(), process, transform=transform)
    tpf.Trainer(field).fit(X1, steps=2, batch_size=4, generator=seeded(), progress=False)
    field.save(tmp_path / "field")
    loaded = tpf.load_field(tmp_path / "field")
    told = {"bridge": "path_epsilon=0.5", "weights": "path_epsilon=0.25"}.get(name, "")
    assert repr(loaded.process.coupling) == f"Paired({told})"
    one, other = (
        tpf.sample(each, 50, steps=3, dtype=F64, generator=seeded(1)).x for each in (field, loaded)
    )
    assert torch.equal(one, other)
    given = tpf.load_field(tmp_path / "field", process=process)
    assert given.process.coupling is process.coupling
    with pytest.raises(ValueError, match="Paired"):  # trained on it needs the plan, or its pairs
        tpf.Trainer(loaded).fit(X1, steps=1, progress=False)
    pairs = process.coupling.sample(20, generator=seeded())
    if name != "units":
        tpf.Trainer(loaded).fit(pairs, steps=1, progress=False)


def test_a_run_goes_on_with_the_pool_that_it_was_begun_with(tmp_path) -> None:
    def run(x0: Tensor, **options: Any) -> tpf.Trainer:
        plan = TransportPlan(x0, X1, regularisation=0)
        process = tpf.Process(tpf.Linear(), coupling=plan)
        trainer = tpf.Trainer(tpf.Velocity(tpf.networks.MLP(2, width=8).double(), process))
        trainer.fit(
            X1, batch_size=4, generator=seeded(), progress=False, checkpoints=tmp_path, **options
        )
        return trainer

    run(X0, steps=2)
    assert run(X0.clone(), steps=4, resume=True).step == 4
    other = X0 * 3
    kept = other.clone()
    with pytest.raises(ValueError, match="of another run: process"):
        run(other, steps=5, resume=True)
    with pytest.warns(UserWarning, match="goes on anyway"):
        assert run(other, steps=5, resume="anyway").step == 5
    assert torch.equal(other, kept)  # the rows are the user's


def test_minibatch_plans_of_a_pool_of_the_whole_are_the_plan() -> None:
    x0, x1 = normal(40, 2), normal(40, 2, seed=1)
    a, _ = TransportPlan(x0, x1, regularisation=0).pair(x1, x1)
    assert torch.equal(a, MinibatchOT().pair(x0, x1)[0])
