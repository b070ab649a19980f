"""Data of every kind reach the loss as they are, in an order that the key decides."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

import transportflows as tpf
from test_training import gen, mlp, rows, run, same, velocity, weights
from transportflows._core.distributed import World
from transportflows.training.arguments import as_source
from transportflows.training.epochs import Order


class Numbered(Dataset):
    """Row k is (k, k), of class k % 3."""

    def __init__(self, n=50, form=tuple):
        self.n, self.form = n, form

    def __len__(self):
        return self.n

    def __getitem__(self, k):
        x = torch.full((2,), float(k))
        if self.form is dict:
            return {"x1": x, "label": k % 3}
        if self.form == "pair":
            return x - 1, x, k % 3
        return (x, k % 3) if self.form is tuple else x


class Augmented(Numbered):
    """Noise from each of the three ambient generators."""

    def __getitem__(self, k):
        noise = [float(torch.rand(())), np.random.rand(), random.random()]  # noqa: NPY002
        return torch.tensor([k + 0.1 * noise[0], noise[1] + noise[2]], dtype=torch.float32)


class Stream(IterableDataset):
    def __init__(self, n=23):
        self.n = n

    def __iter__(self):
        for k in torch.randperm(self.n).tolist():
            yield torch.full((2,), float(k)), k % 3


def batches(data, steps=12, batch_size=8, key=5, field=None, start=0, **kwargs):
    """What a source gives."""
    field = field or velocity(mlp(labels=3))
    cond, workers = kwargs.pop("cond", ("label",)), kwargs.pop("workers", 0)
    source = as_source(data, field, batch_size, cond, workers, World())
    source.open(key, start)
    some = [source.batch(step, start + steps) for step in range(start, start + steps)]
    source.close()
    return some


def numbers(some):
    return torch.cat([batch.x1[:, 0] for batch in some]).round().long()


def labelled(some):
    return all(torch.equal(b.cond["label"], b.x1[:, 0].long() % 3) for b in some)


@pytest.mark.parametrize("form", [tuple, dict])
@pytest.mark.parametrize("workers", [0, 2])
def test_items_come_once_an_epoch_with_their_labels(form, workers):
    cond = ("label",) if form is tuple else None
    some = batches(Numbered(form=form), 13, cond=cond, workers=workers)
    assert labelled(some)
    drawn = numbers(some)
    assert torch.equal(drawn, Order(50, 8, 5).index(0, 13))
    assert torch.equal(drawn[:100].view(2, 50).sort(1).values, torch.arange(50).expand(2, 50))
    later = batches(Numbered(form=form), 4, cond=cond, workers=workers, start=9)
    assert torch.equal(numbers(later), drawn[72:])


def test_a_dataset_trains_as_its_tensor_does():
    data = torch.stack([Numbered(form=None)[k] for k in range(50)])
    forms = (data, Numbered(form=None), TensorDataset(data), _Items(data))
    trained = [run(data=x, steps=30) for x in forms]
    assert all(same(weights(trained[0]), weights(other)) for other in trained[1:])


def test_augmentations_are_a_function_of_the_place():
    def made(workers=0, **kwargs):
        return torch.cat(
            [
                b.x1
                for b in batches(
                    Augmented(), cond=None, workers=workers, field=velocity(), **kwargs
                )
            ]
        )

    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first = made()
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()
    assert torch.equal(first, made(workers=2))
    assert torch.equal(first[40:], made(start=5, steps=7))
    assert not torch.equal(first, made(key=6))
    assert len(first[:, 1].unique()) == len(first)  # no two items share their noise
    # With other sizes of batches the same place has the same noise.
    wide = made(steps=6, batch_size=16)
    assert torch.equal(first, wide)


def test_pairs_of_a_dataset():
    field = velocity(mlp(labels=3), coupling=tpf.Paired())
    some = batches(Numbered(form="pair"), field=field)
    assert all(torch.equal(b.x1 - b.x0, torch.ones(8, 2)) for b in some)
    assert labelled(some)


def test_a_stream_is_read_epoch_after_epoch():
    some = batches(Stream(), 23)  # 184 items: 8 epochs
    assert labelled(some)
    epochs = numbers(some).view(8, 23)
    assert torch.equal(epochs.sort(1).values, torch.arange(23).expand(8, 23))
    assert len(epochs.unique(dim=0)) == 8  # shuffled anew
    assert torch.equal(numbers(batches(Stream(), 23)).view(8, 23), epochs)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_is_taken_as_it_is(workers):
    def loader():
        return DataLoader(Numbered(), batch_size=12, shuffle=True, num_workers=workers)

    some = batches(loader(), 10, batch_size=None)
    assert [len(b) for b in some] == [12, 12, 12, 12, 2] * 2
    assert labelled(some)
    epochs = numbers(some).view(2, 50)
    assert torch.equal(epochs.sort(1).values, torch.arange(50).expand(2, 50))
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(numbers(batches(loader(), 10, batch_size=None)).view(2, 50), epochs)


def test_the_loss_of_an_uneven_batch_is_the_mean_over_its_rows():
    loader = DataLoader(TensorDataset(rows(20)), batch_size=16)
    seen = []

    class Watch(tpf.losses.Loss):
        def __call__(self, field, batch, *, generator=None):
            values = tpf.VelocityLoss()(field, batch, generator=generator)
            seen.append(float(values.detach().double().mean()))
            return values

    trainer = tpf.Trainer(velocity(), Watch())
    history = trainer.fit(loader, steps=6, generator=gen(), progress=False)
    assert np.allclose(history.loss, seen, rtol=1e-12)


def test_a_later_fit_goes_on_in_the_stream():
    seen = []

    class Watch(tpf.VelocityLoss):
        def draw(self, field, batch, *, generator=None):
            seen.append(batch.x1[:, 0].long())
            return super().draw(field, batch, generator=generator)

    data = Stream()
    trainer = tpf.Trainer(velocity(mlp(labels=3)), Watch())
    for steps in (3, 4):
        trainer.fit(
            data, steps=steps, batch_size=8, cond=("label",), generator=None, progress=False
        )
    whole = numbers(batches(Stream(), 7, key=trainer.key))
    assert torch.equal(torch.cat(seen), whole)


def test_a_law_gives_fresh_rows():
    law = tpf.distributions.GaussianMixture(torch.tensor([[-3.0, 0.0], [3.0, 1.0]]), 0.1)
    some = batches(law, 40, 64, cond=None, field=velocity())
    x = torch.cat([b.x1 for b in some])
    assert len(x.unique(dim=0)) == len(x)
    assert (x.mean(0) - law.means.mean(0)).abs().max() < 0.3
    later = batches(law, 3, 64, cond=None, field=velocity(), start=37)
    assert torch.equal(torch.cat([b.x1 for b in later]), x[37 * 64 :])

    class Own:
        def sample(self, n):
            return torch.randn(n, 2)

    states = torch.get_rng_state()
    first, again = (batches(Own(), 2, cond=None, field=velocity()) for _ in range(2))
    assert torch.equal(first[1].x1, again[1].x1)
    assert torch.equal(states, torch.get_rng_state())


def test_what_is_read_is_standardised():
    data = 5 + 3 * rows()
    transform = tpf.Standardize.fit(data)
    field = velocity(transform=transform)
    for given in (_Items(data), DataLoader(TensorDataset(data), batch_size=300)):
        size = None if isinstance(given, DataLoader) else 300
        x = batches(given, 1, size, cond=None, field=field)[0].x1
        assert x.mean(0).abs().max() < 1e-5
        assert (x.std(0, unbiased=False) - 1).abs().max() < 1e-5


@pytest.mark.parametrize(
    "form", ["tensor", "dataset", "loader", "stream", "tensor dataset", "batch"]
)
def test_validation_of_every_form_is_one_number(form):
    held_out = rows(70, seed=9)
    forms = {
        "tensor": held_out,
        "batch": tpf.Batch(held_out),
        "dataset": _Items(held_out),
        "tensor dataset": TensorDataset(held_out),
        "loader": DataLoader(TensorDataset(held_out), batch_size=32),
        "stream": _Plain(held_out),
    }
    histories = [
        run(steps=10, fit={"validation": forms[name], "validation_every": 5}).history
        for name in ("tensor", form)
    ]
    assert histories[0].validation.step.tolist() == [5, 10]
    assert np.allclose(histories[0].validation.loss, histories[1].validation.loss, rtol=1e-12)


class _Plain(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


class _Items(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, k):
        return self.x[k]


class _Empty(IterableDataset):
    def __iter__(self):
        return iter(())


class _Spoilt(Numbered):
    def __getitem__(self, k):
        return torch.full((2,), float("nan") if k == 3 else 1.0)


def loader(data=None, **kwargs):
    return DataLoader(TensorDataset(rows()) if data is None else data, batch_size=8, **kwargs)


def distributed():
    data = TensorDataset(rows())
    return loader(data, sampler=DistributedSampler(data, num_replicas=2, rank=0))


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (Numbered(), {}, ValueError, r"gives 2 things an item, where \(x1\) is.*cond=\('label',\)"),
        (
            Numbered(form=None),
            {"cond": ("label",)},
            ValueError,
            r"1 things an item, where \(x1, label\)",
        ),
        (
            _Items([{"image": 1}]),
            {},
            ValueError,
            r"keys \['image'\]; the data must be under \"x1\"",
        ),
        (Numbered(0), {}, ValueError, "data is empty: the Numbered has no items"),
        (_Empty(), {}, ValueError, "data is empty: the _Empty gave nothing in epoch 0"),
        (_Spoilt(), {}, ValueError, "NaN or infinite values in 1 of 50 rows"),
        (_Items(rows().double()), {}, ValueError, r"float64.*write x\.to\(torch\.float32\)"),
        (_Items(rows().long()), {}, TypeError, "floating-point"),
        (_Items(torch.randn(9, 3)), {}, ValueError, r"shape \(3,\).*base has \(2,\)"),
        (loader(), {"batch_size": 8}, ValueError, "a DataLoader, which makes the batches"),
        (
            loader(),
            {"workers": 2},
            ValueError,
            r"DataLoader has workers of its own \(num_workers\)",
        ),
        (rows(), {"workers": 2}, ValueError, "workers=2 load a map-style Dataset"),
        (distributed(), {}, ValueError, "DistributedSampler.*slices each batch"),
        (Numbered(), {"cond": {"label": torch.arange(50)}}, ValueError, r"cond=\('label',\)"),
        (rows(), {"cond": ("label",)}, ValueError, "with a tensor of N rows each"),
        (TensorDataset(rows(), torch.arange(300)), {}, ValueError, r"2 tensors.*cond=\('label',\)"),
        (tpf.Gaussian((2,)), {"cond": ("label",)}, ValueError, "a law of x1 alone"),
        (tpf.Gaussian((3,)), {}, ValueError, r"shape \(3,\).*base has \(2,\)"),
        (iter(rows()), {}, TypeError, "can be read only once; give an IterableDataset"),
        ("rows", {}, TypeError, "torch.as_tensor"),
        ("digits.pt", {}, TypeError, "a DataLoader, or a law with sample, got str"),
        ({"x1": rows()}, {}, TypeError, "got dict"),
        (None, {}, TypeError, "got NoneType"),
    ],
)
def test_refuses(data, options, error, message):
    trainer = tpf.Trainer(velocity(), tpf.VelocityLoss())
    state = torch.get_rng_state()
    size = {} if isinstance(data, DataLoader) else {"batch_size": 50}
    with pytest.raises(error, match=message):
        trainer.fit(data, steps=20, progress=False, generator=gen(), **size, **options)
    assert torch.equal(state, torch.get_rng_state())


def test_refuses_a_law_as_validation():
    trainer = tpf.Trainer(velocity(), tpf.VelocityLoss())
    with pytest.raises(ValueError, match=re.escape("validation=law.sample(2_000, generator=...)")):
        trainer.fit(rows(), steps=5, validation=tpf.Gaussian((2,)), progress=False)
    assert trainer.step == 0
