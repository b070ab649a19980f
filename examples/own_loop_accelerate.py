"""The training of own_loop.py with Accelerate, in one process or in many.

Run: python examples/own_loop_accelerate.py     (pip install accelerate; a few seconds)
or:  torchrun --nproc_per_node 2 examples/own_loop_accelerate.py
"""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader

import transportflows as tpf
from own_loop import excess, tasks


class Objective(nn.Module):
    """A field with its loss in one forward pass, which Accelerate wraps and synchronises."""

    def __init__(self, field, loss):
        super().__init__()
        self.field = field
        self.loss = loss

    def forward(self, batch):
        """The mean of the loss over the rows of a batch."""
        return self.loss(self.field, batch).mean()


def train(field, loss, data, *, steps=1_000, batch_size=256, lr=2e-3, accelerator=None):
    """Minimise the mean of a loss; ``batch_size`` rows a step, shared by the processes."""
    accelerator = accelerator or Accelerator()
    share = batch_size // accelerator.num_processes
    objective, optimizer, loader = accelerator.prepare(
        Objective(field, loss),
        torch.optim.Adam(field.parameters(), lr=lr),
        DataLoader(data, batch_size=share, shuffle=True, drop_last=True),
    )
    done = 0
    while done < steps:
        for batch in loader:
            optimizer.zero_grad()
            accelerator.backward(objective(batch))
            optimizer.step()
            done += 1
            if done == steps:
                break


def main() -> None:
    """Train both and print what is left."""
    accelerator = Accelerator()
    data = tpf.datasets.eight_gaussians(20_000, generator=torch.Generator().manual_seed(0))
    set_seed(0, device_specific=True)  # times and noise of its own in each process
    for field, loss in tasks():  # whose networks are those of the first
        train(field, loss, data, accelerator=accelerator)
        accelerator.print(excess(field, data.to(accelerator.device)))


if __name__ == "__main__":
    main()
