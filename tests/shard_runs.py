"""Runs for test_shards.py: networks in shards on two processes, and the same on one.

``shard_runs.py FOLDER CASE...`` trains each case and leaves what came out in
``FOLDER/CASE-RANK.pt``. Under torchrun the networks are in shards, alone they are whole.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import transportflows as tpf
from transportflows._core.distributed import world
from transportflows._core.shards import whole

STEPS = 12
ROWS = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def process(coupling=None):
    path = tpf.Linear(tpf.Brownian())
    return tpf.Process(path, tpf.Gaussian((2,)), *([] if coupling is None else [coupling]))


def net(seed=7, labels=None):
    return tpf.networks.MLP(2, 24, 3, labels=labels, generator=gen(seed))


class Odd(nn.Module):
    """A frozen part, a part that is never used, buffers, and rows of an odd number."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.first, self.last = nn.Linear(3, 7), nn.Linear(7, 2)
            self.frozen, self.unused = nn.Linear(7, 7).requires_grad_(False), nn.Linear(3, 3)
            self.norm = nn.BatchNorm1d(7, affine=False).eval()

    def forward(self, t, x):
        h = self.first(torch.cat([t[:, None], x], 1)).tanh()
        return self.last(self.norm(self.frozen(h)))


def single():
    field = tpf.Velocity(net(), process())
    return field, list(field.networks)


def labelled():
    field = tpf.Velocity(net(labels=3), process(tpf.MinibatchOT()))
    return field, list(field.networks)


def half():
    """A pair of which one network is in shards and the other is whole on every process."""
    field = tpf.FieldPair(velocity=net(7), noise=net(8), process=process())
    return field, [field.networks[0]]


def odd():
    field = tpf.Velocity(Odd(), process())
    return field, list(field.networks)


TWO = [tpf.VelocityLoss(antithetic=True), tpf.NoiseLoss()]
LABELS = torch.arange(200) % 3
CASES = {
    "single": (single, tpf.VelocityLoss(), lambda: ROWS, {"batch_size": 64}),
    "labelled": (
        labelled,
        tpf.VelocityLoss(),
        lambda: ROWS,
        {"batch_size": 33, "cond": {"label": LABELS}},
    ),
    "half": (half, TWO, lambda: ROWS, {"batch_size": 33}),
    "odd": (odd, tpf.VelocityLoss(), lambda: ROWS, {"batch_size": 32}),
    "loader": (  # whose last batch has one row
        single,
        tpf.VelocityLoss(),
        lambda: DataLoader(TensorDataset(ROWS[:65]), batch_size=16),
        {},
    ),
}


def made(case):
    make, loss, data, options = CASES[case]
    field, networks = make()
    if world().size > 1:
        from torch.distributed.fsdp import fully_shard

        for network in networks:
            linear = [part for part in network.modules() if isinstance(part, nn.Linear)]
            fully_shard(linear[0])
            fully_shard(network)
    trainer = tpf.Trainer(field, loss, ema=0.9, clip=0.5, scheduler="cosine", accumulate=2)
    return trainer, data(), options


def fit(case, folder, **more):
    trainer, data, options = made(case)
    cond = {} if "cond" not in options else {"label": LABELS[:65]}
    trainer.fit(
        data,
        steps=STEPS,
        validation=tpf.Batch(ROWS[:65], cond=cond),  # whose last rows are of one process only
        validation_every=5,
        checkpoints=tpf.training.Checkpoints(folder / case, every=6),
        generator=gen(3),
        progress=False,
        **options,
        **more,
    )
    return trainer, cond


def tell(trainer, cond, file):
    cond = {"cond": {"label": LABELS[:10]}} if cond else {}
    x = tpf.sample(trainer.field, 10, steps=5, generator=gen(5), **cond).x
    with trainer.averaged():
        averaged = tpf.sample(trainer.field, 10, steps=5, generator=gen(5), **cond).x
    after = tpf.sample(trainer.field, 10, steps=5, generator=gen(5), **cond).x
    history = trainer.history
    torch.save(
        {
            "loss": history.loss,
            "norm": history.gradient_norm.value,
            "validation": history.validation.loss,
            "weights": [whole(p.detach()) for p in trainer.parameters],
            "averages": [whole(p) for p in trainer.ema.averages],
            "samples": x,
            "averaged": averaged,
            "after": after,
        },
        file,
    )


def refused(folder):
    """What cannot be is refused in words."""
    trainer, _, _ = made("single")
    words = [
        (lambda: trainer.averaged_field(), "in shards, of which there is no copy"),
        (lambda: trainer.field.save(folder / "a.tpf"), "in shards"),
        (
            lambda: tpf.sample(trainer.field, 11, steps=2, distributed=True),
            "11 rows do not divide into 2",
        ),
    ]
    for call, message in words:
        with pytest.raises(ValueError, match=message):
            call()
    assert tpf.sample(trainer.field, 12, steps=2, distributed=True).x.shape == (12, 2)
    field, networks = single()
    late = tpf.Trainer(field, tpf.VelocityLoss())
    from torch.distributed.fsdp import fully_shard

    fully_shard(networks[0])
    with pytest.raises(ValueError, match="before the Trainer is made"):
        late.fit(ROWS, steps=1, progress=False)
    # One process alone has numbers that are none.
    with torch.no_grad():
        if world().rank == 1:
            trainer.parameters[2].to_local().fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        trainer.save(folder / "bad.ckpt")
    (folder / f"refused-{world().rank}").write_text("")


def main(folder, *words):
    torch.set_num_threads(1)
    rank = world().rank
    for word in words:
        if word == "refused":
            refused(folder)
        elif word == "resume":
            trainer, cond = fit("single", folder, resume=True)
            tell(trainer, cond, folder / f"resumed-{rank}.pt")
        elif word == "anyway":
            trainer, cond = fit("single", folder, resume="anyway")
            tell(trainer, cond, folder / "anyway-0.pt")
        else:
            trainer, cond = fit(word, folder)
            tell(trainer, cond, folder / f"{word}-{rank}.pt")
            trainer.save(folder / f"{word}.ckpt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
