"""Distillation from all that fit takes; what is wrong is told before anything is trained."""

import sys

import pytest
import torch

import transportflows as tpf
from transportflows import maps

PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
QUIET = {"progress": False, "batch_size": 16}
X = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
LABEL = torch.arange(60) % 3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def teacher(process=PROCESS, data=X, labels=None, **how):
    net = tpf.networks.MLP(2, 16, 1, labels=labels, generator=seeded())
    field = tpf.Velocity(net, process)
    tpf.Trainer(field).fit(data, steps=4, batch_size=16, progress=False, generator=seeded(), **how)
    return field


LABELLED = teacher(labels=3, cond={"label": LABEL})


class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, k):
        return X[k], LABEL[k]


@pytest.mark.parametrize(
    "given",
    [
        {"data": X, "cond": {"label": LABEL}},
        {"data": tpf.Batch(X, cond={"label": LABEL})},
        {"data": torch.utils.data.TensorDataset(X, LABEL), "cond": ("label",)},
        {"data": Items(), "cond": ("label",)},
        {
            "data": torch.utils.data.DataLoader(Items(), batch_size=16),
            "cond": ("label",),
            "fit": {"progress": False},
        },
    ],
    ids=["tensors", "batch", "tensor data set", "data set", "loader"],
)
def test_conditions_are_those_of_the_data(given):
    found = maps.distill(
        LABELLED, steps=3, measured=20, generator=seeded(), **{"fit": QUIET, **given}
    )
    assert found.steps == 3
    assert found.errors["floor"] < found.errors["teacher, 1 step"]


@pytest.mark.parametrize("scale", [None, 2.0])
@pytest.mark.parametrize("pack", [lambda x0, x1: (x0, x1), lambda x0, x1: tpf.Batch(x1, x0)])
def test_a_field_of_pairs_starts_in_their_x0(pack, scale):
    """The process knows no law at t = 0; the training was lost, and then refused."""
    process = tpf.Process(tpf.Linear(), coupling=tpf.Paired(), shape=(2,))
    x0 = 3 + 0.1 * torch.randn(60, 2, generator=seeded(1))
    x1 = x0 @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    field = teacher(process, pack(x0, x1))
    if scale is not None:
        field.transform = tpf.Standardize(0.0, scale)
    found = maps.distill(field, pack(x0, x1), steps=3, measured=20, fit=QUIET, generator=seeded())
    ends = tpf.sample(field, start=x0, steps=128, scheme="heun").x
    one = tpf.sample(field, start=x0, steps=1, scheme="heun").x
    wanted = float((one - ends).square().mean().sqrt() / ends.var(0).mean().sqrt())
    assert found.errors["teacher, 1 step"] == pytest.approx(wanted, rel=0.6)


def test_consistency_models_are_distilled():
    field = teacher()
    net = maps.TwoTimes(tpf.networks.MLP(2, 16, 1, vectors={"stop": 5}, generator=seeded()))
    for given in (None, net):
        found = maps.distill(
            field, X, steps=10, loss=maps.ConsistencyLoss(field), net=given, measured=20,
            fit=QUIET, generator=seeded(),
        )  # fmt: skip
        assert found.flow_map.to_data
        assert "map, 1 step" in found.errors
        assert "map, 2 steps" not in found.errors


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"measured": 0}, "measured"),
        ({"cond": None}, "label"),
        ({"distance": lambda x, y: x.mean(0)}, "one number"),
        ({"fit": {**QUIET, "checkpoints": "runs"}}, "no checkpoints"),
        ({"data": tpf.Gaussian((2,)), "cond": {"label": LABEL}}, "data that are tensors"),
        (
            {"data": Items(), "cond": ("label",), "distance": tpf.metrics.energy_distance},
            "tensors or a law",
        ),
    ],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_mistakes_are_told_before_the_training(how, words, monkeypatch):
    def trained(*_, **__):
        raise AssertionError("it was trained first")

    field = teacher(labels=3, cond={"label": LABEL})
    monkeypatch.setattr(sys.modules["transportflows.maps.distill"]._Run, "train", trained)
    with pytest.raises((TypeError, ValueError), match=words):
        maps.distill(
            field, **{"data": X, "cond": {"label": LABEL}, "steps": 5, "fit": QUIET, **how}
        )
