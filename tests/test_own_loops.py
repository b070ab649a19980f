"""Fields and losses need no Trainer: other loops reach as near to the exact fields as it does."""

import functools
import sys
from pathlib import Path

import pytest
import torch

import transportflows as tpf
from test_distributed import start

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import own_loop

accelerate = pytest.importorskip("accelerate", reason="the loop of Accelerate is to be run")
pytest.importorskip("lightning", reason="the loop of Lightning is to be run")
own_loop_accelerate = pytest.importorskip("own_loop_accelerate")
own_loop_lightning = pytest.importorskip("own_loop_lightning")

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


@pytest.mark.parametrize("name", ["accelerate", "lightning"])
def test_a_loop_of_ones_own_in_two_processes(name, tmp_path):
    """Weights are one, each process has its half of the rows and draws of its own."""
    code, text, _ = start(2, tmp_path, name, script=Path(__file__).parent / "loop_runs.py")
    assert code == 0, text
    one, two = (torch.load(tmp_path / f"{name}-{k}.pt", weights_only=False) for k in (0, 1))
    for a, b in zip(one["weights"], two["weights"], strict=True):
        assert torch.equal(a, b)
    assert one["seen"][0] == two["seen"][0] == 128
    assert not torch.equal(one["seen"][1], two["seen"][1])
    assert one["left"]["velocity"] < 0.2
