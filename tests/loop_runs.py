"""Runs for test_own_loops.py: the loops of examples/, in each process of torchrun.

``loop_runs.py FOLDER NAME`` trains a velocity and leaves its weights, its loss by closed forms and
what the process drew, in ``FOLDER/NAME-RANK.pt``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

import transportflows as tpf

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import own_loop

STEPS = 300


class Seen(tpf.VelocityLoss):
    """Remembers what was drawn at the last step, and how many rows it had."""

    def evaluate(self, field, sample):
        self.seen = sample.x1.shape[0], sample.t.clone()
        return super().evaluate(field, sample)


def main(folder, name):
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    data = tpf.datasets.eight_gaussians(20_000, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(rank)  # weights become those of the first
    (field, _), loss = next(iter(own_loop.tasks())), Seen()
    for net in field.networks:
        net.reset_parameters(torch.Generator().manual_seed(rank))
    if name == "accelerate":
        from accelerate import Accelerator
        from accelerate.utils import set_seed

        import own_loop_accelerate

        train, options = own_loop_accelerate.train, {"accelerator": Accelerator(cpu=True)}
        set_seed(0, device_specific=True)
    else:
        import lightning

        import own_loop_lightning

        lightning.seed_everything(0)
        train = own_loop_lightning.train
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        options = {"accelerator": "cpu", "devices": size, "batch_size": 256 // size, **quiet}
    train(field, loss, data, steps=STEPS, **options)
    left = own_loop.excess(field, data, torch.Generator().manual_seed(1))
    weights = [p.detach() for p in field.parameters()]
    torch.save({"weights": weights, "left": left, "seen": loss.seen}, folder / f"{name}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
