"""Conditions that are dropped in training: which rows, what is learned, what is asked for after."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

import transportflows as tpf
from transportflows._core.nulls import is_null, with_nulls

FLOW = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
GEN = torch.Generator().manual_seed(0)
X = torch.randn(60, 2, generator=GEN)
LABELS = torch.arange(60) % 3
C = 100 + 5 * torch.randn(60, 3, generator=GEN)
MASK = torch.rand(60, 4, generator=GEN) > 0.5
NAN = math.nan


def key(seed=0):
    return torch.Generator().manual_seed(seed)


class Watched(torch.nn.Module):
    """Takes any conditions and keeps what it was given in training."""

    def __init__(self, **nulls):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.nulls, self.seen = nulls, []

    def forward(self, t, x, **cond):
        if self.training:
            self.seen.append({"x": x, "t": t, **cond})
        return self.layer(x)

    def of(self, name):
        return torch.cat([one[name] for one in self.seen])


class Sums(torch.nn.Module):
    """Adds a vector and a flagged mask, as a plain network that was written with neither null."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2 + 3 + 5, 2)

    def forward(self, t, x, *, c, m):
        return self.layer(torch.cat([x, c, m], 1))

    def config(self):
        return {}


tpf.fields.register(Sums)


def fit(field, cond, steps=2, data=X, batch_size=20, loss=None, **more):
    trainer = tpf.Trainer(field, loss)
    trainer.fit(data, cond=cond, steps=steps, batch_size=batch_size, progress=False, **more)
    return trainer


def watched(cond, drop, steps=200, process=FLOW, loss=None, **more):
    net = Watched(label=-1, c=NAN)
    fit(tpf.Velocity(net, process), cond, steps, drop_cond=drop, generator=key(), loss=loss, **more)
    return net


# ------------------------------------------------------------------------------- which rows


def test_all_conditions_of_a_row_are_dropped_at_the_rate_that_was_asked():
    net = watched({"label": LABELS, "c": C}, 0.3)
    label, c = net.of("label") == -1, net.of("c").isnan().all(1)
    assert torch.equal(label, c)
    n = len(label)
    assert abs(float(label.float().mean()) - 0.3) < 4 * math.sqrt(0.21 / n)


def test_each_condition_is_dropped_by_itself():
    net = watched({"label": LABELS, "c": C}, {"label": 0.5, "c": 0.2})
    label, c = net.of("label") == -1, net.of("c").isnan().all(1)
    n = len(label)
    for rows, p in ((label, 0.5), (c, 0.2), (label & c, 0.1)):
        assert abs(float(rows.float().mean()) - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_rows_are_dropped_after_the_coupling_saw_their_labels():
    """So that the field without a class is the mean over the classes of the field with one."""
    process = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)), tpf.MinibatchOT())
    with_drop = watched({"label": LABELS}, 0.5, 3, process)
    without = watched({"label": LABELS}, 0.0, 3, process)
    assert torch.equal(with_drop.of("x"), without.of("x"))
    kept = with_drop.of("label") != -1
    assert 0 < int(kept.sum()) < len(kept)
    assert torch.equal(with_drop.of("label")[kept], without.of("label")[kept])


def test_both_signs_of_an_antithetic_row_are_dropped():
    process = tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((2,)))
    net = watched({"label": LABELS}, 0.5, 4, process, tpf.VelocityLoss(antithetic=True))
    for one in net.seen:
        first, second = one["label"].chunk(2)
        assert torch.equal(first, second)
        assert len(first) == 20


def test_parts_of_a_batch_drop_the_rows_that_the_whole_drops():
    whole = watched({"label": LABELS}, 0.5, 3)
    net = Watched(label=-1)
    trainer = tpf.Trainer(tpf.Velocity(net, FLOW), accumulate=3)
    trainer.fit(
        X, cond={"label": LABELS}, steps=3, batch_size=20, drop_cond=0.5, progress=False,
        generator=key(),
    )  # fmt: skip
    assert len(net.seen) == 9
    assert torch.equal(net.of("label"), whole.of("label"))


def test_validations_drop_nothing():
    net = Watched(label=-1)
    field = tpf.Velocity(net, FLOW)
    rows = tpf.Batch(X, cond={"label": LABELS})
    seen = []
    net.forward = lambda t, x, **cond: seen.append((net.training, cond)) or net.layer(x)
    fit(field, {"label": LABELS}, 1, validation=rows, drop_cond=0.9)
    held_out = [cond["label"] for training, cond in seen if not training]
    assert held_out
    assert all(bool((label >= 0).all()) for label in held_out)


@pytest.mark.parametrize("drop", [0.5, {"label": 0.5}])
def test_a_resumed_run_drops_the_same_rows_and_ends_with_the_same_bits(tmp_path, drop):
    def run(folder, steps):
        net = tpf.networks.MLP(2, 8, 1, labels=3, generator=key())
        field = tpf.Velocity(net, FLOW)
        fit(
            field, {"label": LABELS}, steps, drop_cond=drop, generator=key(),
            checkpoints=tpf.training.Checkpoints(tmp_path / folder, every=3), resume=True,
        )  # fmt: skip
        return field

    whole = run("a", 10)
    run("b", 6)
    resumed = run("b", 10)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.conditions == whole.conditions
    with pytest.raises(tpf.training.ResumeError, match="drop_cond"):
        fit(
            tpf.Velocity(tpf.networks.MLP(2, 8, 1, labels=3), FLOW), {"label": LABELS}, 12,
            drop_cond=0.25, generator=key(), checkpoints=tmp_path / "b", resume=True,
        )  # fmt: skip


def test_other_losses_drop_too():
    """A function, and score matching, whose draws are other objects."""
    net = Watched(label=-1)

    def loss(field, batch, generator):
        sample = field.process.sample(batch.x1, cond=batch.cond, generator=generator)
        error = field.velocity(sample.t, sample.x, sample.cond) - sample.velocity
        return error.square().sum(1)

    fit(tpf.Velocity(net, FLOW), {"label": LABELS}, 5, drop_cond=0.5, loss=loss)
    assert 0 < int((net.of("label") == -1).sum()) < 100
    net = Watched(label=-1)
    process = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
    loss = tpf.losses.SlicedScoreLoss()
    fit(tpf.Score(net, process), {"label": LABELS}, 5, drop_cond=0.5, loss=loss)
    assert (net.of("label") == -1).any()


# -------------------------------------------------------------------------- what is learned


class Table(torch.nn.Module):
    """A velocity that depends on the class alone, with a row for none."""

    def __init__(self):
        super().__init__()
        self.rows = torch.nn.Embedding(4, 2)

    def forward(self, t, x, *, label):
        return self.rows(label)


def test_the_row_for_none_learns_the_mean_over_the_classes():
    """E[x1 - x0 given the class] is the class's mean, and without a class the weighted mean."""
    means = torch.tensor([[4.0, 0.0], [0.0, -4.0], [-2.0, 2.0]])
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 30)
    field = tpf.Velocity(tpf.networks.Nullable(Table(), label=3), FLOW)
    trainer = tpf.Trainer(field, scheduler="cosine", lr=0.05)
    trainer.fit(
        means[labels], cond={"label": labels}, steps=1_500, batch_size=240, drop_cond=0.3,
        progress=False, generator=key(),
    )  # fmt: skip
    learned = field.net.net.rows.weight.detach()
    wanted = torch.cat([means, means[labels].mean(0, keepdim=True)])
    # The last 500 steps or so average the noise of x0: about 36,000 rows of none, 8,000 of class 0.
    assert torch.allclose(learned, wanted, atol=0.12)


# ------------------------------------------------------------------- what is asked for after


def dropped(drop=0.3, **more):
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1, labels=3), FLOW)
    fit(field, {"label": LABELS}, drop_cond=drop, **more)
    return field


def test_what_was_dropped_may_be_left_out():
    field = dropped()
    free = tpf.sample(field, 4, steps=2, generator=key()).x
    for none in ({"label": -1}, field.null_cond(4), {"label": torch.full((4,), -1)}):
        assert torch.equal(tpf.sample(field, 4, steps=2, cond=none, generator=key()).x, free)
    mixed = {"label": torch.tensor([-1, -1, 0, 1])}
    x = tpf.sample(field, 4, steps=2, cond=mixed, generator=key()).x
    assert torch.allclose(x[:2], free[:2])
    assert not torch.allclose(x[2:], free[2:])
    velocity = field.velocity(torch.tensor(0.5), X[:4])
    assert torch.equal(velocity, field.velocity(torch.tensor(0.5), X[:4], field.null_cond(4)))


def test_a_null_that_was_not_trained_is_refused():
    field = dropped(0.0)
    with pytest.raises(ValueError, match=r"'label' is missing"):
        tpf.sample(field, 4, steps=2)
    with pytest.raises(ValueError, match=r"'label' holds -1"):
        tpf.sample(field, 4, steps=2, cond={"label": -1})
    with pytest.raises(ValueError, match=r"never trained without the condition 'label'.*drop_cond"):
        field.null_cond(4)
    free = tpf.Velocity(tpf.networks.MLP(2, 8, 1), FLOW)
    fit(free, None)
    with pytest.raises(ValueError, match=r"no conditions at all, and never without"):
        free.null_cond(4)
    numbers = tpf.Velocity(Watched(), FLOW)
    fit(numbers, {"c": C})
    with pytest.raises(ValueError, match=r"'c' holds NaN"):
        tpf.sample(numbers, 2, steps=2, cond={"c": torch.tensor([[1.0, 2, NAN], [1, 2, 3]])})


def pair_of(drop, **kinds):
    field = tpf.Velocity(
        tpf.networks.Nullable(Sums(), c=(3,), m="flag"), FLOW,
        cond_transforms={"c": tpf.Standardize.fit(C)},
    )  # fmt: skip
    fit(field, {"c": C, "m": MASK}, drop_cond=drop)
    return field


def test_conditions_dropped_together_are_null_together():
    field = pair_of(0.3)
    tpf.sample(field, 4, steps=2)
    tpf.sample(field, 4, steps=2, cond={"c": C[:4], "m": MASK[:4]})
    tpf.sample(field, 4, steps=2, cond=field.null_cond(4))
    with pytest.raises(ValueError, match=r"'c', 'm' are null in different rows.*drop_cond="):
        tpf.sample(field, 4, steps=2, cond={"c": C[:4]})
    each = pair_of({"c": 0.3, "m": 0.3})
    tpf.sample(each, 4, steps=2, cond={"c": C[:4]})
    one = pair_of({"c": 0.3})
    with pytest.raises(ValueError, match=r"'m' is missing"):
        tpf.sample(one, 4, steps=2)
    with pytest.raises(ValueError, match=r"never trained without the condition 'm'"):
        one.null_cond(4)
    none = one.null_cond(4, {"c": C[:4], "m": MASK[:4]})
    assert torch.equal(none["m"], MASK[:4])
    assert bool(none["c"].isnan().all())
    tpf.sample(one, 4, steps=2, cond=none)


def test_masks_are_zeros_and_ones():
    field = pair_of(0.3)
    as_numbers = {"c": C[:2], "m": MASK[:2].float()}
    tpf.sample(field, 2, steps=2, cond=as_numbers)
    with pytest.raises(ValueError, match="not 0 or 1"):
        tpf.sample(field, 2, steps=2, cond={"c": C[:2], "m": MASK[:2] * 0.5})
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        tpf.sample(field, 2, steps=2, cond={"c": C[:2], "m": MASK[:2, :3]})
    part = MASK[:2].float()
    part[0, 0] = NAN
    with pytest.raises(ValueError, match="NaN in parts of a row"):
        tpf.sample(field, 2, steps=2, cond={"c": C[:2], "m": part})


def test_one_vector_or_mask_stands_for_all_rows():
    field = pair_of(0.3)
    one = tpf.sample(field, 3, steps=2, cond={"c": C[0], "m": MASK[0]}, generator=key()).x
    rows = {"c": C[:1].expand(3, 3), "m": MASK[:1].expand(3, 4)}
    assert torch.equal(one, tpf.sample(field, 3, steps=2, cond=rows, generator=key()).x)


def test_a_field_of_another_training_tells_its_null():
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 1, labels=3), FLOW)
    assert field.null_cond(2)["label"].tolist() == [-1, -1]
    plain = tpf.Velocity(Sums(), FLOW)
    with pytest.raises(ValueError, match="nothing is known of a null"):
        plain.null_cond(2)
    wrapped = tpf.Velocity(tpf.networks.Nullable(Sums(), c=(3,), m="flag"), FLOW)
    with pytest.raises(ValueError, match="shape of the condition 'c' is not known"):
        wrapped.null_cond(2)
    none = wrapped.null_cond(2, {"c": C[:2], "m": MASK[:2]})
    assert none["c"].shape == (2, 3)
    assert none["m"].shape == (2, 4)
    assert torch.isfinite(wrapped.velocity(torch.tensor(0.5), X[:2], none)).all()


def test_files_and_checkpoints_keep_nulls_and_transforms(tmp_path):
    field = tpf.Velocity(
        tpf.networks.Nullable(Sums(), c=(3,), m="flag"), FLOW,
        cond_transforms={"c": tpf.Standardize.fit(C)},
    )  # fmt: skip
    trainer = fit(field, {"c": C, "m": MASK}, drop_cond=0.3)
    field.save(tmp_path / "a.tpf")
    trainer.save(tmp_path / "a.ckpt")
    other = tpf.Velocity(
        tpf.networks.Nullable(Sums(), c=(3,), m="flag"), FLOW,
        cond_transforms={"c": tpf.Standardize(torch.zeros(3), torch.ones(3))},
    )  # fmt: skip
    tpf.Trainer(other).load(tmp_path / "a.ckpt")
    given = {"c": C[:4], "m": MASK[:4]}
    x = tpf.sample(field, 4, steps=2, cond=given, generator=key()).x
    for known in (tpf.load_field(tmp_path / "a.tpf"), other, copy.deepcopy(field)):
        assert known.conditions == field.conditions
        assert torch.equal(tpf.sample(known, 4, steps=2, cond=given, generator=key()).x, x)
        tpf.sample(known, 4, steps=2)


# ----------------------------------------------------------------------------------- units


def test_networks_see_standardised_conditions():
    net = Watched(c=NAN)
    transform = tpf.Standardize.fit(C)
    field = tpf.Velocity(net, FLOW, cond_transforms={"c": transform})
    fit(field, {"c": C}, 3, batch_size=60, drop_cond=0.0)
    c = net.seen[0]["c"]
    assert torch.allclose(c.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(c.square().mean(0), torch.ones(3), atol=1e-5)
    pair = tpf.FieldPair(
        velocity=field, noise=tpf.NoisePredictor(Watched(c=NAN), FLOW), process=FLOW
    )
    assert pair.cond_transforms.given()["c"] is transform
    edm = tpf.EDM(net, FLOW, sigma_data=1.0, cond_transforms={"c": transform})
    edm.data(torch.tensor(0.5), X[:4], {"c": C[:4]})
    assert torch.allclose(net.seen[-1]["c"], transform(C[:4]))
    column = tpf.Standardize(C[:, 0].mean(), C[:, 0].std())  # one number a row
    scalar = tpf.Velocity(net, FLOW, cond_transforms={"c": column})
    fit(scalar, {"c": C[:, 0]})
    assert abs(float(net.seen[-1]["c"].mean())) < 1


def test_transforms_that_cannot_be_are_refused():
    with pytest.raises(TypeError, match="cond_transforms"):
        tpf.Velocity(Watched(), FLOW, cond_transforms=tpf.Standardize())
    with pytest.raises(TypeError, match=r"must be a Standardize.*Standardize.fit"):
        tpf.Velocity(Watched(), FLOW, cond_transforms={"c": lambda c: c})
    field = tpf.Velocity(Watched(), FLOW, cond_transforms={"label": tpf.Standardize(1.0, 2.0)})
    with pytest.raises(TypeError, match=r"'label' has a Standardize.*label.float\(\)"):
        fit(field, {"label": LABELS})
    with pytest.raises(ValueError, match="cond_transforms of 'label', and the conditions"):
        fit(field, {"c": C})
    a, b = (tpf.Standardize.fit(C) for _ in range(2))
    with pytest.raises(ValueError, match="share one Standardize"):
        tpf.FieldPair(
            velocity=tpf.Velocity(Watched(), FLOW, cond_transforms={"c": a}),
            noise=tpf.NoisePredictor(Watched(), FLOW, cond_transforms={"c": b}),
            process=FLOW,
        )


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (1.0, "drop_cond must be a probability"),
        (-0.1, "drop_cond must be a probability"),
        (NAN, "drop_cond must be a number, got nan"),
        ({"label": 1.5}, r"drop_cond\['label'\] must be a probability"),
        ({"colour": 0.1}, "names 'colour', and the conditions are 'label'"),
    ],
)
def test_probabilities_and_names(drop, message):
    with pytest.raises(ValueError, match=message):
        dropped(drop)


def test_what_cannot_be_dropped_is_refused():
    with pytest.raises(ValueError, match=r"no conditions to drop; give cond="):
        fit(tpf.Velocity(Watched(), FLOW), None, drop_cond=0.1)
    with pytest.raises(ValueError, match=r"does not say which value.*Nullable\(net, c="):
        fit(tpf.Velocity(Watched(label=-1), FLOW), {"label": LABELS, "c": C}, drop_cond=0.1)
    with pytest.raises(ValueError, match=r"'label' is integer, and the null.*nan"):
        fit(tpf.Velocity(Watched(label=NAN), FLOW), {"label": LABELS}, drop_cond=0.1)
    with pytest.raises(ValueError, match=r"holds 0 to 2, and the network takes 2 for none"):
        fit(tpf.Velocity(Watched(label=2), FLOW), {"label": LABELS}, drop_cond=0.1)
    with pytest.raises(ValueError, match=r"'how' is one for all rows"):
        fit(
            tpf.Velocity(Watched(label=-1, how=0), FLOW), {"label": LABELS, "how": 1},
            drop_cond=0.1,
        )  # fmt: skip
    with pytest.raises(TypeError, match=r"'none' stands for no 'label'; a null is an integer"):
        fit(tpf.Velocity(Watched(label="none"), FLOW), {"label": LABELS}, drop_cond=0.1)
    with pytest.raises(TypeError, match="drop_cond"):
        dropped("often")


def test_forms_of_a_null_that_cannot_be():
    with pytest.raises(ValueError, match="told of no condition"):
        tpf.networks.Nullable(Sums())
    with pytest.raises(TypeError, match="the null of 'c' is an integer"):
        tpf.networks.Nullable(Sums(), c="zero")
    with pytest.raises(TypeError, match="net"):
        tpf.networks.Nullable(3, c=(3,))
    net = tpf.networks.Nullable(Sums(), c=(3,), m="flag")
    with pytest.raises(TypeError, match=r"'c' is torch.int64, which has no NaN.*Nullable\(net, c="):
        net(torch.zeros(2), X[:2], c=torch.ones(2, 3).long(), m=MASK[:2])


def test_the_flag_tells_zeros_from_none():
    net = tpf.networks.Nullable(lambda t, x, image: image, image="flag")
    image = torch.zeros(2, 1, 3, 3)
    image[1] = NAN
    out = net(torch.zeros(2), torch.zeros(2, 1, 3, 3), image=image)
    assert out.shape == (2, 2, 3, 3)
    assert out[0, 1].eq(1).all()
    assert out[1].eq(0).all()
    column = tpf.networks.Nullable(lambda t, x, c: c, c="flag")
    c = torch.tensor([5.0, NAN])
    assert column(torch.zeros(2), torch.zeros(2, 1), c=c).tolist() == [[5.0, 1.0], [0.0, 0.0]]


# ------------------------------------------------------------------------- labels of any integers

INTEGERS = [
    getattr(torch, name)
    for name in ("uint8", "int8", "int16", "int32", "uint16", "uint32", "uint64")
    if hasattr(torch, name)
]


def draws_of(dtype, source="rows", process=FLOW):
    """Samples by guidance, with labels and without, of a field trained on labels of a dtype."""
    net = tpf.networks.MLP(2, 8, 1, labels=3, generator=key())
    field, labels = tpf.Velocity(net, process), LABELS.to(dtype)
    how = {"steps": 5, "batch_size": 20, "drop_cond": 0.3, "generator": key(1), "progress": False}
    if source == "rows":
        tpf.Trainer(field).fit(X, cond={"label": labels}, **how)
    else:
        items = torch.utils.data.TensorDataset(X, labels)
        tpf.Trainer(field).fit(items, cond=("label",), **how)
    asked = {"label": (torch.arange(6) % 3).to(dtype)}
    told = [(tpf.guidance.ClassifierFree(field, 2.0), asked), (field, asked), (field, {})]
    told.append((tpf.guidance.ClassifierFree(field, 2.0, null={"label": -1}), asked))
    return [tpf.sample(f, 6, steps=3, cond=cond, generator=key(2)).x for f, cond in told]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("source", ["rows", "items"])
def test_labels_of_every_integer_dtype_are_those_of_int64(dtype, source):
    """-1 is no uint8, where it was written as the class 255, and torch has no least uint16."""
    for found, wanted in zip(draws_of(dtype, source), draws_of(torch.int64, source), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_transport_within_labels_takes_every_integer_dtype(dtype):
    process = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)), tpf.MinibatchOT())
    both = draws_of(dtype, process=process), draws_of(torch.int64, process=process)
    for found, wanted in zip(*both, strict=True):
        assert torch.equal(found, wanted)


def test_a_class_is_not_none_because_its_bits_are():
    """255 in uint8 has the bits of -1, and 200 those of -56 in int8."""
    labels = torch.tensor([255, 0], dtype=torch.uint8)
    assert not is_null(labels, -1).any()
    rows = torch.tensor([False, True])
    assert with_nulls(labels, rows, -1, torch.float32).tolist() == [255, -1]
    small = torch.tensor([-56, 3], dtype=torch.int8)
    assert not is_null(small, 200).any()
    assert with_nulls(small, rows, 200, torch.float32).tolist() == [-56, 200]
    net = tpf.networks.from_sit(
        OfTwoHundredClasses(), tpf.Process(tpf.OneSidedLinear(), shape=(2,))
    )
    x, t = torch.zeros(2, 2), torch.full((2,), 0.5)
    assert net.velocity(t, x, {"label": labels})[:, 0].tolist() == [255, 0]
    with pytest.raises(ValueError, match=r"'label' holds \d+, which no int64 does"):
        tpf.sample(net, 2, cond={"label": torch.tensor([2**63, 0], dtype=torch.uint64)}, steps=2)


class OfTwoHundredClasses(torch.nn.Module):
    """A network as SiT's are called, that gives the label it was told."""

    def __init__(self):
        super().__init__()
        self.y_embedder = SimpleNamespace(num_classes=300, dropout_prob=0.1)

    def forward(self, x, t, y):
        return y[:, None].to(x).expand_as(x)
