"""Runs for test_distributed.py: the same script for one process, and under torchrun for several.

``shared_runs.py FOLDER CASE...`` trains each case and leaves what came out in
``FOLDER/CASE-RANK.pt``; other words make the run fail in one way or another.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import transportflows as tpf
from transportflows._core.distributed import world
from transportflows._core.patience import Patience

STEPS = 200


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


ROWS = torch.randn(500, 2, generator=gen(1))


class Items(Dataset):
    def __len__(self):
        return len(ROWS)

    def __getitem__(self, k):
        return ROWS[k] + 0.1 * torch.randn(2), k % 3


class Stream(IterableDataset):
    def __iter__(self):
        for k in torch.randperm(90).tolist():
            yield ROWS[k] + 0.1 * torch.randn(2)


def velocity(labels=None):
    net = tpf.networks.MLP(2, 32, 3, labels=labels, generator=gen(7))
    return tpf.Velocity(net, tpf.Process(tpf.Linear(), tpf.Gaussian((2,))))


def pair():
    process = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((2,)), tpf.MinibatchOT())
    nets = [tpf.networks.MLP(2, 32, 3, generator=gen(seed)) for seed in (7, 8)]
    return tpf.FieldPair(velocity=nets[0], noise=nets[1], process=process)


class Odd(torch.nn.Module):
    """A frozen part, one that is never used, and running statistics that stay as they are."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.first, self.last = torch.nn.Linear(3, 7), torch.nn.Linear(7, 2)
            self.frozen = torch.nn.Linear(7, 7).requires_grad_(False)
            self.unused = torch.nn.Linear(3, 3)
            self.norm = torch.nn.BatchNorm1d(7).eval()

    def forward(self, t, x):
        h = self.first(torch.cat([t[:, None], x], 1)).tanh()
        return self.last(self.norm(self.frozen(h)))


def odd():
    return tpf.Velocity(Odd().eval(), tpf.Process(tpf.Linear(), tpf.Gaussian((2,))))


class Bent(tpf.AffineInterpolant):
    """A path with a parameter, which its own field leaves alone."""

    def __init__(self):
        super().__init__()
        self.bend = torch.nn.Parameter(torch.tensor(0.3))

    def alpha(self, t):
        return (1 - t) * (1 + self.bend * t)

    def beta(self, t):
        return t * (1 + self.bend * (1 - t))


def bent():
    net = tpf.networks.MLP(2, 32, 3, generator=gen(7))
    return tpf.Velocity(net, tpf.Process(Bent(), tpf.Gaussian((2,))))


class Own(tpf.losses.Loss):
    """A loss that does not split into drawing and evaluating."""

    def __call__(self, field, batch, *, generator=None):
        return tpf.VelocityLoss()(field, batch, generator=generator)


TWO = [tpf.VelocityLoss(antithetic=True, times=tpf.times.StratifiedTimes()), tpf.NoiseLoss()]
LAW = tpf.distributions.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 1.0]]), 0.5)
CASES = {
    "tensor": (velocity, tpf.VelocityLoss(), lambda: ROWS, {"batch_size": 64}),
    "uneven": (velocity, tpf.VelocityLoss(), lambda: ROWS, {"batch_size": 33}),
    "pair": (pair, TWO, lambda: ROWS, {"batch_size": 32}),
    "dataset": (
        lambda: velocity(labels=3),
        tpf.VelocityLoss(),
        Items,
        {"batch_size": 32, "cond": ("label",)},
    ),
    "stream": (velocity, tpf.VelocityLoss(), Stream, {"batch_size": 32}),
    "loader": (
        velocity,
        tpf.VelocityLoss(),
        lambda: DataLoader(TensorDataset(ROWS[:65]), batch_size=16, shuffle=True),
        {},
    ),
    "law": (velocity, tpf.VelocityLoss(), lambda: LAW, {"batch_size": 64}),
    "odd": (odd, tpf.VelocityLoss(), lambda: ROWS, {"batch_size": 33}),
    "bent": (bent, tpf.VelocityLoss(), lambda: ROWS, {"batch_size": 33}),
    "own": (velocity, Own(), lambda: ROWS, {"batch_size": 64}),
}


class Fails(tpf.VelocityLoss):
    """A loss that fails on one process, at step 8."""

    def __init__(self, how, rank=1):
        super().__init__()
        self.how, self.rank, self.calls = how, rank, 0

    def evaluate(self, field, sample):
        self.calls += 1
        if self.calls == 8 and world().rank == self.rank:
            if self.how == "sleeps":
                time.sleep(600)
            if self.how == "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            if self.how == "killed":
                os.kill(os.getpid(), 9)
            if self.how == "raises":
                raise ArithmeticError("row 17 is odd")
            return super().evaluate(field, sample) * torch.nan
        return super().evaluate(field, sample)


def train(case, folder):
    make, loss, data, options = CASES[case]
    field = make()
    team = world()
    if team.rank > 0:  # weights begin as those of process 0
        with torch.no_grad():
            for parameter in field.parameters():
                parameter.add_(1.0)
    trainer = tpf.Trainer(field, loss, ema=0.99, clip=1.0, scheduler="cosine", accumulate=2)
    held_out = tpf.Batch(ROWS[:77], cond={"label": torch.arange(77) % 3})
    trainer.fit(
        data(),
        steps=STEPS,
        validation=held_out if case == "dataset" else ROWS[:77],
        validation_every=50,
        checkpoints=tpf.training.Checkpoints(folder / case, every=100),
        callbacks=[tpf.training.CSVLog(folder / f"{case}.csv")],
        generator=gen(3),
        progress=False,
        **options,
    )
    with trainer.averaged():
        cond = {"label": torch.arange(101) % 3} if case == "dataset" else None
        solution = tpf.sample(
            field,
            101,
            epsilon=[0.0, 0.3],
            steps=10,
            save_at=[0.5],
            cond=cond,
            distributed=True,
            generator=gen(5),
        )
        corrected = tpf.sample(
            field,
            33,
            epsilon=[0.0, 0.3],
            steps=5,
            corrector=tpf.langevin.LangevinCorrector(steps=2),
            cond={"label": torch.arange(33) % 3} if case == "dataset" else None,
            distributed=True,
            generator=gen(6),
        )
    history = trainer.history
    torch.save(
        {
            "loss": history.loss,
            "validation": history.validation.loss,
            "norm": history.gradient_norm.value,
            "weights": [p.detach() for p in trainer.parameters],
            "averages": trainer.ema.averages,
            "by_time": None if history.by_time is None else history.by_time.loss,
            "samples": solution.x,
            "path": solution.trajectory,
            "corrected": corrected.x,
            "key": trainer.key,
        },
        folder / f"{case}-{team.rank}.pt",
    )


class Sharded(IterableDataset):
    """What many write for torch's own data-parallel training: a part for each process."""

    def __iter__(self):
        yield from ROWS[world().rank :: 2]


class Skips(torch.nn.Module):
    """A network that leaves a part of itself out at every other call."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.calls = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), 0

    def forward(self, t, x):
        self.calls += 1
        return self.a(x) + self.b(x) if self.calls % 2 else self.a(x)


class Typed(Dataset):
    """Conditions of every dtype, also of those that gloo does not send."""

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, k):
        return {
            "x1": ROWS[k],
            "short": torch.tensor(k % 300, dtype=torch.int16),
            "flag": torch.tensor(k % 2 == 0),
            "half": torch.tensor(k / 7, dtype=torch.bfloat16),
        }


class StopOnOne(tpf.training.Callback):
    every = 7

    def on_step(self, trainer):
        if trainer.world.rank == 1:
            trainer.stop("process 1 has had enough")


class Leave(tpf.training.Callback):
    """Process 1 leaves, or does not come any more."""

    every = 3

    def __init__(self, how):
        self.how = how

    def on_step(self, trainer):
        if trainer.world.rank == 1 and trainer.step == 6:
            if self.how == "leaves with 0":
                os._exit(0)
            time.sleep(20)


class Watched(tpf.VelocityLoss):
    """Sees that the conditions of a row are its own."""

    def draw(self, field, batch, *, generator=None):
        k = (batch.cond["half"].float() * 7).round()
        assert (batch.cond["flag"] == (batch.cond["short"] % 2 == 0)).all()
        assert (k / 7).bfloat16().eq(batch.cond["half"]).all()
        batch = tpf.Batch(batch.x1)
        return super().draw(field, batch, generator=generator)


def peaceful(folder):
    """What must go well: odd dtypes, a refusal that is not the end, a stop by one process."""
    trainer = tpf.Trainer(velocity(), Watched())
    trainer.fit(Typed(), steps=5, batch_size=9, progress=False)
    try:
        trainer.fit(ROWS, steps=5, batch_size=1, progress=False)
    except ValueError as error:
        if "leaves some of 2 processes" not in str(error):
            raise
    trainer = tpf.Trainer(velocity(), tpf.VelocityLoss())
    trainer.fit(ROWS, steps=50, callbacks=[StopOnOne()], progress=False)
    assert trainer.step == 7, trainer.step
    assert trainer.stopped == "process 1 has had enough"
    (folder / f"peace-{world().rank}").write_text("")


def main(folder, *words):
    torch.set_num_threads(1)
    for word in words:
        if word in CASES:
            train(word, folder)
        elif word == "resume":
            field = velocity()
            trainer = tpf.Trainer(
                field, tpf.VelocityLoss(), ema=0.99, clip=1.0, scheduler="cosine", accumulate=2
            )
            trainer.fit(
                ROWS, steps=STEPS, batch_size=64, checkpoints=folder / "tensor", resume=True,
                generator=gen(3), progress=False,
            )  # fmt: skip
        elif word.startswith("sample "):
            what = word.split()[1]
            start = ROWS[:20].clone()
            if world().rank == 1 and what == "start":
                start[3] = torch.nan
            if world().rank == 1 and what == "n":
                start = start[:19]
            tpf.sample(velocity(), start=start, steps=3, distributed=True)
        elif word == "validation of one":
            trainer = tpf.Trainer(velocity(), tpf.VelocityLoss())
            held_out = ROWS[:30] if world().rank == 0 else None
            trainer.fit(ROWS, steps=5, validation=held_out, progress=False)
        elif word == "sharded":
            trainer = tpf.Trainer(velocity(), tpf.VelocityLoss())
            trainer.fit(Sharded(), steps=5, batch_size=8, progress=False)
        elif word == "branches":
            net = Skips()
            field = tpf.Velocity(net, tpf.Process(tpf.Linear(), tpf.Gaussian((2,))))
            tpf.Trainer(field, tpf.VelocityLoss()).fit(ROWS, steps=5, progress=False)
        elif word == "peaceful":
            peaceful(folder)
        elif word in ("leaves with 0", "does not come"):
            Patience.limit = timedelta(seconds=4)
            trainer = tpf.Trainer(velocity(), tpf.VelocityLoss())
            trainer.fit(ROWS, steps=9, callbacks=[Leave(word)], progress=False)
        elif word == "never joins":
            Patience.limit = timedelta(seconds=4)
            if os.environ["RANK"] == "1":
                os._exit(0)
            world()
        elif word == "differ":
            trainer = tpf.Trainer(velocity(), tpf.VelocityLoss())
            rows = ROWS[: 500 - world().rank]
            trainer.fit(rows, steps=5, progress=False)
        else:
            how, rank = [*word.split(), "1"][:2]
            if how in ("sleeps", "stops"):
                Patience.limit = timedelta(seconds=4)
            trainer = tpf.Trainer(velocity(), Fails(how, int(rank)))
            trainer.fit(
                ROWS, steps=100, generator=gen(3), checkpoints=folder / word, progress=False
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
