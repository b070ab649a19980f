"""Labels of classes, as adapted networks take them: one for all rows, or one a row."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import transportflows as tpf

N, G = tpf.networks, tpf.guidance
CLASSES = 4
LINEAR = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
ONE_SIDED = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
X, HALF = torch.randn(3, 2, generator=torch.Generator().manual_seed(1)), torch.tensor(0.5)


class Table(nn.Module):
    """What is common to the networks: a table of classes, which they look up without a check."""

    def __init__(self, rows=CLASSES):
        super().__init__()
        self.table = nn.Embedding(rows, 2)

    def look_up(self, y, x):
        if y is None:
            return torch.zeros_like(x)
        assert y.shape == (len(x),)  # as in torchcfm's U-Net
        return self.table(y).to(x.dtype)


class Cfm(Table):
    def __init__(self):
        super().__init__()
        self.label_emb = self.table

    def forward(self, t, x, y=None):
        return self.look_up(y, x) - x


class Hidden(Table):
    """Nothing tells how many classes it has."""

    def forward(self, t, x, y=None):
        return self.look_up(y, x) - x


class SiT(Table):
    def __init__(self, share=0.1):
        super().__init__(CLASSES + (share > 0))
        self.y_embedder = SimpleNamespace(num_classes=CLASSES, dropout_prob=share)

    def forward(self, x, t, y):
        return self.look_up(y, x) - x


class Model(Table):
    """As a UNet2DModel, or a DiT, of diffusers."""

    def __init__(self, null):
        super().__init__(CLASSES + null)
        name = "num_embeds_ada_norm" if null else "num_class_embeds"
        self.config = SimpleNamespace(**{name: CLASSES})

    def forward(self, x, timestep, class_labels=None, return_dict=True):
        return (self.look_up(class_labels, x) - x,)


class Karras(nn.Module):
    label_dim = CLASSES

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(CLASSES, 2)

    def forward(self, y, sigma, class_labels=None):
        return self.linear(class_labels) + y / (1 + sigma.view(-1, 1) ** 2)


class XT(Table):
    def forward(self, x, t, label=None):
        return self.look_up(label, x) - x


def diffusers(net):
    bars = torch.linspace(0.999, 0.01, 20)
    return N.from_diffusers(net, SimpleNamespace(alphas_cumprod=bars, config=SimpleNamespace()))


FIELDS = {
    "torchcfm": lambda: N.from_torchcfm(Cfm(), LINEAR),
    "hidden": lambda: N.from_torchcfm(Hidden(), LINEAR),
    "sit": lambda: N.from_sit(SiT(), ONE_SIDED),
    "sit without none": lambda: N.from_sit(SiT(0.0), ONE_SIDED),
    "unet": lambda: diffusers(Model(0)),
    "dit": lambda: diffusers(Model(1)),
    "edm": lambda: N.from_edm(Karras(), tpf.Process(tpf.VE(0.002, 80.0), shape=(2,))),
    "mlp": lambda: tpf.Velocity(N.MLP(2, 8, 1, labels=CLASSES), LINEAR),
    "xt": lambda: tpf.Velocity(N.from_xt(XT()), LINEAR),
}
WITH_NONE = {"sit", "dit", "edm", "mlp"}
KNOWN = sorted(FIELDS.keys() - {"hidden", "xt"})


def called(field, label):
    return field.net(HALF, X, label=label)


@pytest.mark.parametrize("name", FIELDS)
def test_one_label_for_all_is_that_label_in_each_row(name):
    field = FIELDS[name]()
    rows = called(field, torch.full((3,), 2))
    assert not torch.equal(rows, called(field, torch.tensor([2, 1, 0])))
    for one in (2, torch.tensor(2), torch.tensor(2, dtype=torch.int32)):
        assert torch.equal(called(field, one), rows)
    for kind in (torch.uint8, torch.int32) if name in KNOWN else ():
        assert torch.equal(called(field, torch.full((3,), 2, dtype=kind)), rows)
    kwargs = {"steps": 2, "start": X}
    one = tpf.sample(field, cond={"label": 2}, **kwargs).x
    assert torch.equal(one, tpf.sample(field, cond={"label": torch.full((3,), 2)}, **kwargs).x)


@pytest.mark.parametrize("name", sorted(WITH_NONE))
def test_one_label_for_all_is_guided_from_none(name):
    field = FIELDS[name]()
    guided = G.ClassifierFree(field, 2.0)
    found = guided.predict(HALF, X, {"label": 1})[0]
    expected = 2 * called(field, 1) - called(field, torch.full((3,), -1))
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(called(field, -1), called(field, torch.full((3,), -1)))


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("label", [9, -2, torch.tensor([0, 9, 1]), torch.tensor([0, -2, 1])])
def test_labels_out_of_range_are_refused(name, label):
    number = 9 if torch.as_tensor(label).max() == 9 else -2
    with pytest.raises(ValueError, match=rf"holds {number}, .* classes 0 to {CLASSES - 1}"):
        called(FIELDS[name](), label)


@pytest.mark.parametrize("name", sorted(set(KNOWN) - WITH_NONE))
@pytest.mark.parametrize("label", [-1, torch.tensor([0, -1, 1])])
def test_none_is_refused_by_a_network_that_knows_no_such_class(name, label):
    with pytest.raises(ValueError, match=r"holds -1, .* no number for none"):
        called(FIELDS[name](), label)


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("label", [1.0, True, torch.tensor([0.0, 1.0, 2.0]), torch.ones(3) > 0])
def test_what_is_no_integer_is_refused(name, label):
    with pytest.raises(TypeError, match=r"label holds integers, got .*label.long\(\)"):
        called(FIELDS[name](), label)


@pytest.mark.parametrize("name", KNOWN)
def test_other_shapes_and_words_are_refused(name):
    field = FIELDS[name]()
    for label in (torch.zeros(3, 1).long(), torch.tensor([0, 1])):
        with pytest.raises(ValueError, match=r"label is \(3,\), one a row of x, or \(\)"):
            called(field, label)
    with pytest.raises(TypeError, match="label holds integers, got 'cat'"):
        called(field, "cat")


@pytest.mark.parametrize("label", [7, torch.tensor([0, 7, 1])])
def test_a_network_that_does_not_tell_its_classes_is_heard(label):
    with pytest.raises(ValueError, match=r"no class for one of the labels .* to 7"):
        called(FIELDS["hidden"](), label)
    with pytest.raises(TypeError, match=r"by int64, .* torch\.float32; write label.long\(\)"):
        called(FIELDS["hidden"](), torch.ones(3))


def test_numbers_go_on_to_a_network_that_does_not_tell_its_classes():
    """It may be told of a number under y; of diffusers, ``class_embed_type`` says that it is."""
    seen = []

    def net(t, x, y=None):
        seen.append(y)
        return x

    field = N.from_torchcfm(net, LINEAR)
    for value, expected in ((0.25, torch.full((3,), 0.25)), (X, X), ("word", "word")):
        called(field, value)
        assert seen[-1] is expected or torch.equal(seen[-1], expected)
    model = Model(0)
    model.config.class_embed_type = "timestep"
    model.forward = lambda x, timestep, class_labels, return_dict: (seen.append(class_labels) or x,)
    called(diffusers(model), torch.tensor([0.5, 9.0, 1.0]))
    assert torch.equal(seen[-1], torch.tensor([0.5, 9.0, 1.0]))


def test_the_number_that_a_dit_keeps_for_none_may_be_given_itself():
    field = FIELDS["dit"]()
    assert torch.equal(called(field, CLASSES), called(field, -1))
    with pytest.raises(ValueError, match="holds 5"):
        called(field, CLASSES + 1)


@pytest.mark.parametrize("name", ["torchcfm", "sit", "unet", "edm"])
def test_labels_are_mapped_over(name):
    """Under ``vmap`` a label has no value to be checked by."""
    field, label = FIELDS[name](), torch.tensor([2, 0, 3])

    def one(x, y):
        return field.net(HALF, x[None], label=y)[0]

    found = torch.func.vmap(one)(X, label)
    assert torch.allclose(found, called(field, label), atol=1e-6)


@pytest.mark.parametrize("name", ["torchcfm", "hidden", "sit", "mlp", "xt"])
def test_labels_are_compiled_without_a_break(name):
    net, label = FIELDS[name]().net, torch.tensor([2, 0, 3])
    made = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.allclose(made(HALF, X, label=label), net(HALF, X, label=label))
    assert torch.allclose(made(HALF, X, label=2), net(HALF, X, label=2))


def test_the_cure_for_a_negative_label_is_not_more_classes():
    unet = N.UNet((1, 4, 4), 8, (1,), 1, labels=3, head_channels=4)
    for label in (-2, torch.tensor([0, -2])):
        with pytest.raises(ValueError, match=r"holds -2.*-1 for none") as caught:
            unet(HALF, torch.zeros(2, 1, 4, 4), label=label)
        assert "labels=" not in str(caught.value)
        assert "from 0" in str(caught.value)


def test_models_of_diffusers_themselves():
    models = pytest.importorskip("diffusers", reason="diffusers is not installed")
    made = models.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=5,
    ).eval()
    field = N.from_diffusers(made, models.DDIMScheduler(clip_sample=False))
    x = torch.zeros(2, 1, 8, 8)
    one = tpf.sample(field, start=x, steps=2, cond={"label": 3}).x
    assert torch.equal(
        one, tpf.sample(field, start=x, steps=2, cond={"label": torch.tensor([3, 3])}).x
    )
    with pytest.raises(ValueError, match=r"holds 5, .* classes 0 to 4"):
        tpf.sample(field, start=x, steps=2, cond={"label": torch.tensor([1, 5])})
