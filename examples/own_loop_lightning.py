"""The training of own_loop.py as a LightningModule.

Run: python examples/own_loop_lightning.py     (pip install lightning; a few seconds)
or:  torchrun --nproc_per_node 2 examples/own_loop_lightning.py --devices 2
"""

import argparse

import lightning
import torch
from torch.utils.data import DataLoader

import transportflows as tpf
from own_loop import excess, tasks


class FieldModule(lightning.LightningModule):
    """A field, its loss and its optimizer."""

    def __init__(self, field, loss, lr=2e-3):
        super().__init__()
        self.field = field
        self.loss = loss
        self.lr = lr

    def on_train_start(self):
        """Times and noise of its own in each process."""
        torch.manual_seed(torch.initial_seed() + self.global_rank)

    def training_step(self, batch, index):
        """The mean of the loss over the rows of a batch."""
        loss = self.loss(self.field, batch).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        """Adam over the networks."""
        return torch.optim.Adam(self.field.parameters(), lr=self.lr)


def train(field, loss, data, *, steps=1_000, batch_size=256, lr=2e-3, **options):
    """Minimise the mean of a loss over the networks of a field; options are of the Trainer.

    ``batch_size`` rows a step in each process.
    """
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(
        max_steps=steps, logger=False, enable_checkpointing=False, **options
    )
    trainer.fit(FieldModule(field, loss, lr), loader)


def main() -> None:
    """Train both and print what is left."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=1)
    devices = parser.parse_args().devices
    lightning.seed_everything(0)
    data = tpf.datasets.eight_gaussians(20_000)
    for field, loss in tasks():
        train(field, loss, data, batch_size=256 // devices, devices=devices)
        print(excess(field, data))


if __name__ == "__main__":
    main()
