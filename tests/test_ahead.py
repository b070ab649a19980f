"""Draws ahead of the step: the same numbers, no thread left, errors where they belong; pools."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import transportflows as tpf
from transportflows.couplings import MinibatchOT, TransportPlan
from transportflows.training import Callback
from transportflows.training.ahead import Ahead, ahead_of

F64 = torch.float64
STEPS = 13


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(rows: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, *shape, generator=seeded(seed), dtype=F64)


DATA = normal(96, 2, seed=1) + 2


class Items(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return len(DATA)

    def __getitem__(self, row: int) -> Tensor:
        return DATA[row] + 0.01 * torch.randn(2, dtype=F64)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter(DATA)


def made(coupling: Any, base: Any = None, *, loss: Any = None, path: Any = None) -> tpf.Trainer:
    base = tpf.Gaussian((2,)) if base is None else base
    process = tpf.Process(path or tpf.Linear(), base=base, coupling=coupling)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = tpf.networks.MLP(2, width=8, labels=3).double()
    return tpf.Trainer(tpf.Velocity(net, process), loss)


def fitted(trainer: tpf.Trainer, data: Any = DATA, **options: Any) -> list[Tensor]:
    settings = {"steps": STEPS, "batch_size": 16, "progress": False, "generator": seeded(3)}
    if isinstance(data, Tensor) and "cond" not in options:
        options["cond"] = {"label": torch.arange(len(data)) % 3}
    trainer.fit(data, **{**settings, **options})
    return [p.detach().clone() for p in trainer.parameters]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def workers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("transportflows-ahead")]


@pytest.fixture
def used(monkeypatch) -> list[str]:
    """Names of the threads in which pairs were made."""
    seen: list[str] = []
    pair = MinibatchOT.pair

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(threading.current_thread().name)
        return pair(self, *args, **kwargs)

    monkeypatch.setattr(MinibatchOT, "pair", watched)
    return seen


@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_the_same_bits_however_far_ahead(used, method) -> None:
    first = fitted(made(MinibatchOT(method, ahead=0)))
    assert set(used) == {"MainThread"}
    for ahead in (1, 2, 5, 100):
        used.clear()
        assert same(first, fitted(made(MinibatchOT(method, ahead=ahead))))
        assert set(used) == {"transportflows-ahead_0"}
        assert len(used) == STEPS
    assert not workers()


@pytest.mark.parametrize("what", ["law", "items", "torch's law", "pieces", "antithetic"])
def test_the_same_bits_from_other_data_and_bases(used, what) -> None:
    def run(ahead: int) -> list[Tensor]:
        base, data, options, loss = tpf.Gaussian((2,)), DATA, {}, None
        if what == "law":
            data = tpf.distributions.Empirical(DATA)
        elif what == "items":
            data = Items()
        elif what == "torch's law":  # it draws from the generators of the process
            base = torch.distributions.Normal(torch.zeros(2).double(), 2.0)
        elif what == "antithetic":
            loss = tpf.VelocityLoss(antithetic=True)
        path = tpf.Linear(tpf.Brownian()) if what == "antithetic" else None
        trainer = made(MinibatchOT(ahead=ahead), base, loss=loss, path=path)
        if what == "pieces":
            trainer.accumulate = 3
        return fitted(trainer, data, **options)

    first = run(0)
    used.clear()
    assert same(first, run(2))
    assert set(used) == {"transportflows-ahead_0"}


def test_what_cannot_be_drawn_ahead_is_drawn_in_its_step(used) -> None:
    class Own(tpf.VelocityLoss):
        def draw(self, *args: Any, **kwargs: Any) -> Any:
            return super().draw(*args, **kwargs)

    class Law(tpf.distributions.Distribution):
        def sample(self, n: int, *, generator=None, dtype=None, device=None) -> Tensor:
            return torch.randn(n, 2, dtype=F64)

    learned = tpf.Linear(tpf.Brownian(torch.nn.Parameter(torch.tensor(0.5, dtype=F64))))
    for trainer in (
        made(MinibatchOT(), loss=Own()),
        made(MinibatchOT(), loss=lambda field, batch, generator: tpf.VelocityLoss()(
            field, batch, generator=generator)),
        made(MinibatchOT(), Law((2,))),
        made(MinibatchOT(), path=learned),
    ):  # fmt: skip
        fitted(trainer)
    fitted(made(MinibatchOT()), Stream())
    assert set(used) == {"MainThread"}


def test_resumed_with_the_same_bits(tmp_path) -> None:
    for k, coupling in enumerate((MinibatchOT(), MinibatchOT(pool=48, reuse=2))):
        whole = fitted(made(coupling))
        folder = tmp_path / str(k)
        fitted(made(coupling), steps=8, checkpoints=folder)
        assert same(whole, fitted(made(coupling), checkpoints=folder, resume=True))


def test_two_fits_are_one() -> None:
    trainer = made(MinibatchOT())
    fitted(trainer, steps=5)
    assert same(fitted(made(MinibatchOT())), fitted(trainer, steps=STEPS - 5, generator=None))


def test_an_error_of_the_thread_is_raised_in_its_step(monkeypatch) -> None:
    pair, made_so_far = MinibatchOT.pair, []

    def failing(self: Any, x0: Tensor, x1: Tensor, *args: Any, **kwargs: Any) -> Any:
        made_so_far.append(1)
        if len(made_so_far) == 6:
            raise RuntimeError("no plan")
        return pair(self, x0, x1, *args, **kwargs)

    monkeypatch.setattr(MinibatchOT, "pair", failing)
    trainer = made(MinibatchOT(ahead=3))
    with pytest.raises(RuntimeError, match="no plan"):
        fitted(trainer)
    assert trainer.step == 5
    assert not workers()


def test_an_interruption_leaves_no_thread() -> None:
    class Interrupt(Callback):
        every = 4

        def on_step(self, run: Any) -> None:
            raise KeyboardInterrupt

    trainer = made(MinibatchOT())
    with pytest.raises(KeyboardInterrupt):
        fitted(trainer, callbacks=[Interrupt()])
    assert trainer.step == 4
    assert not workers()
    rest = fitted(trainer, steps=STEPS - 4, generator=None)
    assert same(rest, fitted(made(MinibatchOT())))


@pytest.mark.timeout(60)
def test_an_interruption_waits_for_no_thread_that_waits_for_it() -> None:
    """The thread draws from the generators of the process, whose turn is the fit's."""

    class Interrupt(Callback):
        every = 1

        def on_step(self, run: Any) -> None:
            raise KeyboardInterrupt

    base = torch.distributions.Normal(torch.zeros(2).double(), 2.0)
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            fitted(made(MinibatchOT(ahead=5), base), callbacks=[Interrupt()])
    assert not workers()


def test_numbers_do_not_hang_on_a_slow_thread(monkeypatch) -> None:
    import time

    pair = MinibatchOT.pair

    def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.01)
        return pair(self, *args, **kwargs)

    first = fitted(made(MinibatchOT(ahead=0)))
    monkeypatch.setattr(MinibatchOT, "pair", slow)
    assert same(first, fitted(made(MinibatchOT(ahead=2))))


# ------------------------------------------------------------------------------------------ pools


@pytest.fixture
def batches(monkeypatch) -> list[tuple[Tensor, Tensor]]:
    """The pairs of each step."""
    seen: list[tuple[Tensor, Tensor]] = []
    sample = tpf.Process.sample

    def watched(self: Any, x1: Tensor, **kwargs: Any) -> Any:
        drawn = sample(self, x1, **kwargs)
        seen.append((drawn.x0, drawn.x1))
        return drawn

    monkeypatch.setattr(tpf.Process, "sample", watched)
    return seen


@pytest.mark.parametrize("labelled", [False, True])
def test_each_pair_of_a_pool_is_used_as_often_as_is_said(batches, labelled) -> None:
    """Two pools of 48, three times each: 18 steps of 16."""
    cond = {"label": torch.arange(96) % 3} if labelled else {}
    fitted(made(MinibatchOT(pool=48, reuse=3)), steps=18, cond=cond)
    for pool in (batches[:9], batches[9:]):
        x0, x1 = (torch.cat(each) for each in zip(*pool, strict=True))
        pairs, times = torch.cat([x0, x1], 1).unique(dim=0, return_counts=True)
        assert len(pairs) == 48
        assert set(times.tolist()) == {3}
        for turn in range(3):
            rows = torch.cat([b for _, b in pool[3 * turn : 3 * turn + 3]])
            assert len(rows.unique(dim=0)) == 48
        if not labelled:
            a, b = pairs[:, :2], pairs[:, 2:]
            best, _ = MinibatchOT().pair(a, b)
            assert torch.equal(best, a)  # the plan of the whole pool
    x1 = torch.cat([b for _, b in batches])
    assert len(x1.unique(dim=0)) == 96  # an epoch in two pools
    orders = {tuple(b[:, 0].tolist()) for _, b in batches}
    assert len(orders) == 18


def test_pools_have_the_same_bits_however_far_ahead() -> None:
    first = fitted(made(MinibatchOT(pool=32, reuse=2, ahead=0)))
    assert same(first, fitted(made(MinibatchOT(pool=32, reuse=2, ahead=1))))
    assert not same(first, fitted(made(MinibatchOT())))


def test_pools_are_refused_where_they_cannot_be() -> None:
    for pool in (8, 40):
        with pytest.raises(ValueError, match=f"pool={pool} is no multiple of batch_size=16"):
            fitted(made(MinibatchOT(pool=pool)))
    with pytest.raises(ValueError, match="leave pool out"):
        fitted(made(MinibatchOT(pool=32)), Stream())
    with pytest.raises(ValueError, match="leave pool out"):
        fitted(made(MinibatchOT(pool=32), loss=lambda field, batch, generator: None))
    with pytest.raises(ValueError, match="pool=1024, reuse=3"):
        MinibatchOT(reuse=3)
    for wrong in ({"pool": 0}, {"pool": 2.5}, {"reuse": 0, "pool": 4}, {"ahead": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MinibatchOT(**wrong)


def test_it_is_told() -> None:
    coupling = MinibatchOT(pool=64, reuse=4)
    assert repr(coupling) == "MinibatchOT(method='exact', pool=64, reuse=4)"
    assert MinibatchOT(**coupling.config()).config() == coupling.config()


def test_a_law_is_cut_into_cells_ahead() -> None:
    plan = TransportPlan(tpf.Gaussian((2,)), DATA, tolerance=0.2)
    assert plan.ahead == 2
    first = fitted(made(plan, plan.base), cond={})
    plan.ahead = 0
    assert same(first, fitted(made(plan, plan.base), cond={}))


def test_the_thread_is_that_of_ahead() -> None:
    """What decides it, by itself."""
    from contextlib import ExitStack

    from transportflows.training.arguments import as_source

    trainer = made(MinibatchOT())
    source = as_source(DATA, trainer.field, 16, None, 0, trainer.world)
    with ExitStack() as ends:
        assert type(ahead_of(trainer, source, None, ends)) is Ahead  # type: ignore[arg-type]
        trainer.field.process.coupling.ahead = 0
        assert ahead_of(trainer, source, None, ends) is None  # type: ignore[arg-type]
