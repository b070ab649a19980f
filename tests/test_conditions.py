"""What a field was trained with it asks for again; conditions that cannot be meant are refused."""

import copy

import pytest
import torch

import transportflows as tpf

FLOW = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
DIFFUSION = tpf.Process(tpf.OneSidedLinear(), shape=(2,))
X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 3


def labelled(process=FLOW, kind=tpf.Velocity):
    return kind(tpf.networks.MLP(2, 8, 1, labels=5), process)


def fitted(cond, field=None, data=X, **more):
    field = labelled() if field is None else field
    tpf.Trainer(field).fit(data, cond=cond, steps=2, batch_size=10, progress=False, **more)
    return field


def uses(field):
    """All that calls a network with conditions: of n rows, each a function of them."""
    x = torch.randn(4, 2)
    yield lambda cond: tpf.sample(field, 4, steps=2, cond=cond)
    yield lambda cond: tpf.sample(field, 4, scheme="dopri5", cond=cond)
    yield lambda cond: tpf.log_likelihood(field, x, cond=cond, scheme="heun", steps=2)
    yield lambda cond: tpf.likelihood.sample_with_log_likelihood(
        field, 4, cond=cond, scheme="heun", steps=2
    )
    yield lambda cond: field.velocity(torch.tensor(0.5), x, cond or {})
    yield lambda cond: field(torch.tensor(0.5), x, cond or {})
    score = tpf.langevin.score_at(field, 0.5)
    yield lambda cond: tpf.langevin.langevin(score, x, step_size=0.1, steps=1, cond=cond)
    if field.process is DIFFUSION:
        yield lambda cond: tpf.langevin.annealed_langevin(
            field, 4, levels=2, steps_per_level=1, cond=cond
        )
        yield lambda cond: tpf.likelihood.variational_bound(field, x, [0.9, 0.5], cond=cond)


@pytest.mark.parametrize("process", [FLOW, DIFFUSION], ids=["flow", "diffusion"])
def test_a_forgotten_condition_is_refused_wherever_a_network_is_called(process):
    field = fitted({"label": LABELS}, labelled(process))
    right = {"label": torch.tensor([0, 1, 2, 0])}
    for use in uses(field):
        use(right)
        for wrong in (None, {}):
            with pytest.raises(ValueError, match=r"'label' is missing.*integers 0 to 2, one a row"):
                use(wrong)
        with pytest.raises(ValueError, match=r"floating point.*integers 0 to 2"):
            use({"label": torch.zeros(4)})
        with pytest.raises(ValueError, match=r"shape \(4, 3\)"):
            use({"label": torch.zeros(4, 3, dtype=torch.int64)})
        with pytest.raises(ValueError, match="no condition 'colour'"):
            use({**right, "colour": torch.zeros(4)})
        with pytest.raises(ValueError, match="3 rows for 4"):
            use({"label": torch.zeros(3, dtype=torch.int64)})


@pytest.mark.parametrize("label", [3, 4, -1])
def test_labels_that_were_never_trained_are_refused(label):
    field = fitted({"label": LABELS})
    with pytest.raises(ValueError, match=f"'label' holds {label}: .*integers 0 to 2"):
        tpf.sample(field, 4, steps=2, cond={"label": torch.tensor([0, 1, 2, label])})
    field.conditions = None  # the way out
    tpf.sample(field, 4, steps=2, cond={"label": torch.tensor([0, 1, 2, label])})
    tpf.sample(field, 4, steps=2)


def test_one_number_stands_for_all_rows():
    field = fitted({"label": LABELS})

    def drawn(label):
        generator = torch.Generator().manual_seed(0)
        return tpf.sample(field, 4, steps=2, cond={"label": label}, generator=generator).x

    for one in (2, torch.tensor(2)):
        assert torch.equal(drawn(one), drawn(torch.full((4,), 2)))
    assert not torch.equal(drawn(2), drawn(1))


def test_a_field_trained_without_conditions_takes_none():
    field = fitted(None)
    assert field.conditions == {}
    tpf.sample(field, 4, steps=2)
    with pytest.raises(ValueError, match=r"no condition 'label': .*trained with no conditions"):
        tpf.sample(field, 4, steps=2, cond={"label": torch.zeros(4, dtype=torch.int64)})


def test_what_two_fits_saw_is_put_together():
    field = labelled()
    trainer = tpf.Trainer(field)

    def fit(cond):
        trainer.fit(X, cond=cond, steps=2, batch_size=10, progress=False)

    fit({"label": LABELS})
    fit({"label": LABELS + 1})
    known = field.conditions["label"]
    assert (known.low, known.high, known.optional) == (0, 3, False)
    fit(None)  # now the network was trained without a label too
    assert field.conditions["label"].optional
    assert tpf.sample(field, 4, steps=2).x.shape == (4, 2)
    field = fitted({"label": LABELS}, fitted(None))  # and the other way round
    assert tpf.sample(field, 4, steps=2).x.shape == (4, 2)


def test_a_fit_that_made_no_step_leaves_no_trace():
    field = tpf.Velocity(torch.nn.Linear(2, 2), FLOW)  # which takes no label, nor a time
    with pytest.raises(TypeError):
        fitted({"label": LABELS}, field)
    assert field.conditions is None


class Tokens(torch.nn.Module):
    """Conditions of any length, and a word."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, t, x, *, tokens, how):
        assert how in ("sum", "mean")
        return self.layer(x) + getattr(tokens, how)(1)

    def config(self):
        return {}


def stream(lengths):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            for length in lengths:
                yield {"x1": X[:10], "tokens": torch.ones(10, length, 2)}

    return torch.utils.data.DataLoader(Stream(), batch_size=None)


def test_lengths_that_varied_in_training_may_vary():
    net = Tokens()
    field = tpf.Velocity(lambda t, x, *, tokens: net(t, x, tokens=tokens, how="sum"), FLOW)
    trainer = tpf.Trainer(field, optimizer=torch.optim.SGD(net.parameters(), lr=0.01))
    trainer.fit(stream([3, 5, 4]), steps=3, progress=False)
    assert field.conditions["tokens"].shape == (None, 2)
    tpf.sample(field, 4, steps=2, cond={"tokens": torch.ones(4, 7, 2)})
    with pytest.raises(ValueError, match=r"shape \(4, 7, 3\).*\(any, 2\) a row"):
        tpf.sample(field, 4, steps=2, cond={"tokens": torch.ones(4, 7, 3)})
    trainer.fit(stream([3]), steps=1, progress=False)


def test_texts_and_numbers_train_as_they_sample():
    field = tpf.Velocity(Tokens(), FLOW)
    cond = {"tokens": torch.ones(40, 3, 2), "how": "sum"}
    fitted(cond, field, validation=tpf.Batch(X, cond=cond))
    assert field.conditions["how"].shape is None
    given = {"tokens": torch.ones(4, 3, 2), "how": "mean"}
    assert tpf.sample(field, 4, steps=2, cond=given, chunk=3).x.shape == (4, 2)
    with pytest.raises(ValueError, match="'how' is missing"):
        tpf.sample(field, 4, steps=2, cond={"tokens": torch.ones(4, 3, 2)})
    net = torch.nn.Linear(2, 2)
    scaled = tpf.Velocity(lambda t, x, *, scale: net(x) * scale, FLOW)
    trainer = tpf.Trainer(scaled, optimizer=torch.optim.SGD(net.parameters(), lr=0.01))
    for scale in (0.5, torch.tensor(0.5)):
        trainer.fit(X, cond={"scale": scale}, steps=1, batch_size=10, progress=False)
        assert tpf.sample(scaled, 4, steps=2, cond={"scale": scale}).x.shape == (4, 2)
    with pytest.raises(ValueError, match="condition 'scale' of data holds NaN"):
        trainer.fit(X, cond={"scale": torch.tensor(float("nan"))}, steps=1, progress=False)


@pytest.mark.parametrize(
    "value", [[0, 1, 2, 3], (0, 1, 2, 3), {"a": 1}], ids=lambda v: type(v).__name__
)
def test_what_might_be_rows_and_is_no_tensor_is_refused(value):
    field = labelled()
    for use in uses(field):
        with pytest.raises(TypeError, match="only a tensor or an array goes with its rows"):
            use({"label": value})
    with pytest.raises(TypeError, match="only a tensor or an array goes with its rows"):
        fitted({"label": value})
    with pytest.raises(TypeError, match="only a tensor or an array goes with its rows"):
        FLOW.sample(X, cond={"label": value})


def test_a_tensor_in_the_place_of_the_mapping():
    """It was shown whole, in 110,118 characters."""
    field = labelled()
    for call in (
        lambda: fitted(torch.arange(20_000)),
        *(lambda use=use: use(torch.arange(20_000)) for use in list(uses(field))[:4]),
    ):
        with pytest.raises(TypeError, match="cond") as caught:
            call()
        assert len(str(caught.value)) < 300


def test_conditions_of_another_device_are_refused():
    with pytest.raises(ValueError, match="is on meta and the samples are on cpu"):
        tpf.sample(labelled(), 4, cond={"label": torch.zeros(4, device="meta")})


def test_files_and_copies_keep_what_was_trained(tmp_path):
    field = labelled()
    trainer = tpf.Trainer(field)
    trainer.fit(X, cond={"label": LABELS}, steps=2, batch_size=10, progress=False)
    field.save(tmp_path / "a.tpf")
    loaded = tpf.load_field(tmp_path / "a.tpf")
    trainer.save(tmp_path / "a.ckpt")
    other = labelled()
    tpf.Trainer(other).load(tmp_path / "a.ckpt")
    for known in (loaded, other, copy.deepcopy(field)):
        assert known.conditions == field.conditions
        with pytest.raises(ValueError, match="'label' is missing"):
            tpf.sample(known, 4)
    unknown = labelled()
    unknown.save(tmp_path / "b.tpf")
    assert tpf.load_field(tmp_path / "b.tpf").conditions is None


def test_a_resumed_run_and_its_averages_know(tmp_path):
    def trainer():
        return tpf.Trainer(labelled(), ema=0.9)

    for steps in (2, 4):
        run = trainer()
        run.fit(
            X, cond={"label": LABELS}, steps=steps, batch_size=10, checkpoints=tmp_path,
            resume=True, progress=False,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        known = run.field.conditions["label"]
        assert (known.low, known.high, known.optional) == (0, 2, False)
        assert run.averaged_field().conditions == run.field.conditions


def test_a_pair_of_trained_fields_knows():
    process = tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((2,)))
    parts = {"velocity": tpf.Velocity, "noise": tpf.NoisePredictor}
    parts = {k: fitted({"label": LABELS}, labelled(process, kind)) for k, kind in parts.items()}
    pair = tpf.FieldPair(**parts)
    with pytest.raises(ValueError, match="'label' is missing"):
        tpf.sample(pair, 4)


def test_a_generator_of_conditions_samples():
    """It trained with conditions, and had no way to be given them again."""
    net = torch.nn.Linear(3, 2)
    maker = tpf.particles.OneStepGenerator(
        lambda xi, *, c: net(torch.cat([xi, c[:, None]], 1)), latent=2
    )
    loss = tpf.particles.MovedTargetLoss(sigma=1.0)
    trainer = tpf.Trainer(maker, loss, optimizer=torch.optim.SGD(net.parameters(), lr=0.01))
    trainer.fit(X, cond={"c": torch.rand(40)}, steps=2, batch_size=10, progress=False)
    assert maker.sample(5, cond={"c": torch.rand(5)}, chunk=2).shape == (5, 2)
    with pytest.raises(ValueError, match="'c' is missing"):
        maker.sample(5)


def test_a_state_dict_keeps_what_was_trained(tmp_path):
    """It holds tensors alone, in a module too, and one without the entry changes nothing."""
    field = fitted({"label": LABELS})
    torch.save(field.state_dict(), tmp_path / "a.pt")
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = labelled()
    assert "trained_conditions" not in other.state_dict()
    other.load_state_dict(state)
    assert other.conditions == field.conditions
    with pytest.raises(ValueError, match="'label' is missing"):
        tpf.sample(other, 4)
    whole, again = (torch.nn.ModuleDict({"a": f}) for f in (field, labelled()))
    again.load_state_dict(whole.state_dict())
    assert again["a"].conditions == field.conditions
    bare = {name: value for name, value in state.items() if name != "trained_conditions"}
    other.load_state_dict(bare)
    assert other.conditions == field.conditions


@pytest.mark.parametrize("told", [torch.arange(9), torch.zeros(3), b"{}"])
def test_a_state_dict_of_other_entries_is_refused(told):
    field = labelled()
    state = {**field.state_dict(), "trained_conditions": told}
    with pytest.raises(ValueError, match="is not what a trained field has written"):
        field.load_state_dict(state)
    assert field.conditions is None


@pytest.mark.parametrize("kind", ["coo", "csr"])
def test_a_sparse_condition_is_refused_by_its_name(kind):
    """The message spoke of the rows of a chunk."""
    cond = {"y": torch.eye(6).to_sparse() if kind == "coo" else torch.eye(6).to_sparse_csr()}
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    field = tpf.Velocity(lambda t, x, y: x, process)
    x = torch.zeros(6, 2)
    for call in (
        lambda: tpf.sample(field, 6, steps=2, cond=cond, chunk=4),
        lambda: tpf.integrate(lambda t, x, y: x, x, [0.0, 1.0], cond=cond),
        lambda: tpf.log_likelihood(field, x, scheme="heun", steps=2, cond=cond),
        lambda: tpf.langevin.langevin(lambda x, y: -x, x, step_size=0.1, steps=2, cond=cond),
        lambda: process.sample(x, cond=cond),
        lambda: field.velocity(torch.tensor(0.5), x, cond),
        lambda: tpf.Trainer(tpf.Velocity(tpf.networks.MLP(2, 8, 1), process)).fit(
            x, cond=cond, steps=1, progress=False
        ),
    ):
        with pytest.raises(TypeError, match=r"condition 'y' is a sparse .*write y.to_dense\(\)"):
            call()
