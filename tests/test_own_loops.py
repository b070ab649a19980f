"""Fields and losses need no Trainer: other loops reach as near to the exact fields as it does."""

import functools
import sys
from pathlib import Path

import accelerate
import pytest
import torch

import transportflows as tpf

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import own_loop
import own_loop_accelerate
import own_loop_lightning

STEPS = 600
LOOPS = {
    "torch": own_loop.train,
    "lightning": functools.partial(
        own_loop_lightning.train,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    ),
    "accelerate": own_loop_accelerate.train,
}


def trained(train) -> dict[str, float]:
    """What a loop leaves of E|f|² for each of the three learned quantities."""
    data = tpf.datasets.eight_gaussians(20_000, generator=torch.Generator().manual_seed(0))
    left = {}
    with torch.random.fork_rng():
        for k, (field, loss) in enumerate(own_loop.tasks()):
            torch.manual_seed(k)
            for net in field.networks:
                net.reset_parameters(torch.Generator().manual_seed(k))
            train(field, loss, data, steps=STEPS)
            left |= own_loop.excess(field, data, torch.Generator().manual_seed(1))
    return left


@pytest.fixture(scope="module")
def reference() -> dict[str, float]:
    def train(field, loss, data, *, steps):
        trainer = tpf.Trainer(field, loss, lr=2e-3)
        trainer.fit(data, steps=steps, batch_size=256, progress=False)

    return trained(train)


@pytest.mark.filterwarnings("ignore")  # of the loops' own, about workers and loggers
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_of_ones_own_reaches_what_the_trainer_reaches(name, reference):
    train = LOOPS[name]
    if name == "accelerate":
        train = functools.partial(train, accelerator=accelerate.Accelerator(cpu=True))
    left = trained(train)
    assert left.keys() == reference.keys() == {"velocity", "mean_velocity", "noise"}
    for quantity, share in left.items():
        # Five seeds of the Trainer and of the plain loop were within 20 % of their mean.
        assert share == pytest.approx(reference[quantity], rel=0.5), quantity
        assert share < 0.2, quantity  # a field that is zero leaves 1
