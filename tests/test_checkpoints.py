"""Runs that stop and go on: the same bits, or a refusal that says why not."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import transportflows as tpf
from test_training import gen, mlp, rows, same, velocity, weights
from transportflows._core import container, files
from transportflows.training.snapshots import snapshot

ROOT = Path(__file__).parent.parent


class Stop(tpf.training.Callback):
    """Ends the process of a run, as far as a run can tell."""

    def __init__(self, at):
        self.every = self.at = at

    def on_step(self, trainer):
        if trainer.step == self.at:
            raise KeyboardInterrupt


class Noisy(Dataset):
    """Items with an augmentation that draws from all three ambient generators."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, k):
        import random

        return self.x[k] + 0.1 * (torch.rand(2) + np.random.rand() + random.random())  # noqa: NPY002


class Stream(IterableDataset):
    """A stream that shuffles, and makes its items anew in each epoch."""

    def __iter__(self):
        for k in torch.randperm(90).tolist():
            yield rows(90)[k] + 0.1 * torch.randn(2)


class StatefulLoader:
    """A loader that knows its place, as torchdata's does."""

    batch_size = 20

    def __init__(self, dataset):
        self.dataset, self.place, self.order = dataset, 0, None

    def __len__(self):
        return 5

    def __iter__(self):
        if self.place in (0, 5):
            self.place, self.order = 0, torch.randperm(100).tolist()
        while self.place < 5:
            self.place += 1
            some = self.order[20 * (self.place - 1) : 20 * self.place]
            yield self.dataset[some] + 0.1 * torch.randn(2)

    def state_dict(self):
        return {"place": self.place, "order": self.order}

    def load_state_dict(self, state):
        self.place, self.order = state["place"], state["order"]


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(3, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Dropout(0.3), nn.Linear(16, 2)
        )
        with torch.no_grad():
            for k, p in enumerate(self.parameters()):
                p.copy_(0.3 * torch.randn(p.shape, generator=gen(k)))

    def forward(self, t, x):
        return self.body(torch.cat([x, t.unsqueeze(-1)], dim=-1))


def pair():
    process = tpf.Process(tpf.Linear(tpf.Brownian()), tpf.Gaussian((2,)), tpf.MinibatchOT())
    return tpf.FieldPair(velocity=mlp(), noise=mlp(), process=process)


def outside():
    """A field whose network is no module, so that only the optimizer holds its parameters."""
    net = mlp()
    return tpf.Velocity(lambda t, x: net(t, x), velocity().process), net


def trainer_of_function():
    field, net = outside()
    return tpf.Trainer(
        field, tpf.VelocityLoss(), optimizer=torch.optim.AdamW(net.parameters()), ema=0.9
    )


def trainer(field=None, loss=None, **kwargs):
    return tpf.Trainer(field or velocity(), loss or tpf.VelocityLoss(), **{"ema": 0.9, **kwargs})


schedulers = torch.optim.lr_scheduler
law = tpf.distributions.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 1.0]]), 0.5)
two = [tpf.VelocityLoss(antithetic=True), tpf.NoiseLoss()]
CASES = {
    "tensor": (trainer, rows, {}),
    "uneven batches": (trainer, rows, {"batch_size": 37}),
    "pairs": (
        lambda: trainer(velocity(coupling=tpf.Paired())),
        lambda: (rows(), rows(seed=4)),
        {},
    ),
    "labels": (
        lambda: trainer(velocity(mlp(labels=3))),
        lambda: tpf.Batch(rows(), cond={"label": torch.arange(300) % 3}),
        {},
    ),
    "dataset": (trainer, lambda: Noisy(rows()), {}),
    "dataset and workers": (trainer, lambda: Noisy(rows()), {"workers": 2}),
    "tensor dataset": (trainer, lambda: TensorDataset(rows()), {}),
    "stream": (trainer, Stream, {}),
    "stateful loader": (trainer, lambda: StatefulLoader(rows(100)), {"batch_size": None}),
    "law": (trainer, lambda: law, {}),
    "pair of fields, transport": (lambda: trainer(pair(), two), rows, {}),
    "dropout and statistics": (lambda: trainer(velocity(Dropping())), rows, {}),
    "a network that is no module": (trainer_of_function, rows, {}),
    "clip, parts, cosine": (
        lambda: trainer(clip=0.5, accumulate=3, scheduler="cosine", warmup=5),
        rows,
        {},
    ),
    "bfloat16": (lambda: trainer(autocast=torch.bfloat16), rows, {}),
    "milestones": (
        lambda: trainer(scheduler=lambda o: schedulers.MultiStepLR(o, [5, 25, 30])),
        rows,
        {},
    ),
    "one cycle": (
        lambda: trainer(scheduler=lambda o: schedulers.OneCycleLR(o, 0.01, total_steps=40)),
        rows,
        {},
    ),
    "plateau": (
        lambda: trainer(scheduler=lambda o: schedulers.ReduceLROnPlateau(o, patience=0)),
        rows,
        {"validation": rows(40), "validation_every": 4},
    ),
    "momentum": (
        lambda: trainer(optimizer=lambda ps: torch.optim.SGD(ps, 1e-2, momentum=0.9), ema=None),
        rows,
        {},
    ),
}


def state(trainer):
    """All that must come out the same, without what seconds things took."""
    _, saved = snapshot(trainer, None, ())
    del saved["begun"]
    columns = saved["history"]["columns"]
    for name in [name for name in columns if name.startswith("pace")]:
        del columns[name]
    return saved


def alike(a, b, place=""):
    """Where two trees differ."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), place
        return [d for k in a for d in alike(a[k], b[k], f"{place}.{k}")]
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b), place
        return [
            d
            for k, (x, y) in enumerate(zip(a, b, strict=True))
            for d in alike(x, y, f"{place}.{k}")
        ]
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [place]
    if isinstance(a, np.ndarray):
        return [] if np.array_equal(a, b, equal_nan=True) else [place]
    return [] if a == b else [place]


def fit(trainer, data, folder=None, every=10, seed=3, **kwargs):
    options = {"steps": 40, "batch_size": 32, "progress": False, **kwargs}
    if folder is not None:
        options["checkpoints"] = tpf.training.Checkpoints(folder, every=every)
    trainer.fit(data, generator=gen(seed), **options)
    return trainer


def broken_off(trainer, data, folder, at=26, **kwargs):
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, data, folder, callbacks=[Stop(at)], **kwargs)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_with_the_same_bits(case, tmp_path):
    make, data, options = CASES[case]
    whole = fit(make(), data(), **options)
    broken_off(make(), data(), tmp_path, **options)
    assert tpf.training.Checkpoints(tmp_path).files()[-1].name == "step-000000020.ckpt"
    torch.rand(7)  # the ambient stream must not matter
    again = fit(make(), data(), tmp_path, resume=True, **options)
    assert again.step == 40
    assert alike(state(whole), state(again)) == []
    # Not blind: weights moved after the checkpoint, and another seed gives others.
    early = make()
    early.load(tmp_path / "step-000000020.ckpt")
    assert not same(weights(early), weights(again))
    assert alike(state(fit(make(), data(), seed=4, **options)), state(whole)) != []


def test_runs_killed_at_random_moments(tmp_path):
    """The script of the benchmark, with fewer kills: real processes, real SIGKILLs."""
    run = subprocess.run(
        [sys.executable, "survival.py", "--kills", "12", "--seed", "5"],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("| 1 of 1 |") == 12


def test_without_a_place_a_loader_resumes_at_its_epoch(tmp_path):
    def loader():
        return DataLoader(TensorDataset(rows(100)), batch_size=20, shuffle=True)

    options = {"batch_size": None}
    broken_off(trainer(), loader(), tmp_path, at=13, every=6, **options)  # 12 = 2 epochs and 2
    again = trainer()
    with pytest.warns(UserWarning, match="no state_dict.*epoch 2 is lost.*StatefulDataLoader"):
        fit(again, loader(), tmp_path, resume=True, **options)
    assert again.step == 40
    whole, other = fit(trainer(), loader(), **options), trainer()
    broken_off(other, loader(), tmp_path / "b", at=13, every=5, **options)  # 10: at an end
    exact = fit(trainer(), loader(), tmp_path / "b", resume=True, **options)
    assert alike(state(whole), state(exact)) == []
    assert alike(state(whole), state(again)) != []


def test_resume_begins_where_there_is_nothing_and_ends_where_all_is_done(tmp_path):
    first = fit(trainer(), rows(), tmp_path, resume=True)
    assert alike(state(first), state(fit(trainer(), rows()))) == []
    generator = gen(3)
    done = trainer()
    history = done.fit(
        rows(),
        steps=40,
        batch_size=32,
        checkpoints=tmp_path,
        resume=True,
        generator=generator,
        progress=False,
    )
    assert len(history) == 40
    assert alike(state(first), state(done)) == []
    used = gen(3)
    torch.randint(2**63 - 1, (), generator=used)
    assert torch.equal(generator.get_state(), used.get_state())  # as in the run that trained
    longer = fit(trainer(), rows(), tmp_path, resume=True, steps=55)
    assert alike(state(longer), state(fit(trainer(), rows(), steps=55))) == []


def test_the_newest_few_are_kept(tmp_path):
    fit(trainer(), rows(), tmp_path / "new" / "folder", every=6)
    names = sorted(p.name for p in (tmp_path / "new" / "folder").iterdir())
    assert names == [f"step-{step:09d}.ckpt" for step in (30, 36, 40)]


def test_the_header_is_for_people(tmp_path):
    field = velocity(transform=tpf.Standardize.fit(rows()))
    path = tmp_path / "a.ckpt"
    fit(trainer(field), rows(), validation=rows(30)).save(path)
    text, _ = json.JSONDecoder().raw_decode(path.read_bytes()[8:].decode(errors="replace"))
    header = json.loads(text["__metadata__"]["header"])
    assert header == tpf.training.read_checkpoint(path)[0]
    assert header["step"] == 40
    assert header["transportflows"] == tpf.__version__
    assert header["torch"] == torch.__version__
    assert header["field"]["class"] == "Velocity"
    assert header["field"]["networks"] == [
        "MLP(shape=[2], width=16, depth=2, frequencies=8, labels=None, heads=1, activation='silu')"
    ]
    assert header["process"].startswith("Process(interpolant=Linear(), base=Gaussian(shape=[2]")
    assert header["run"]["data"]["rows"] == 300
    assert math.isclose(
        header["loss"], float(fit(trainer(field), rows()).history.loss.mean()), rel_tol=0.5
    )


# ------------------------------------------------------------------------------------ refusals


@pytest.fixture
def folder(tmp_path):
    fit(trainer(), rows(), tmp_path, steps=20)
    return tmp_path


def wide(width, depth):
    return trainer(velocity(tpf.networks.MLP(2, width, depth)))


@pytest.mark.parametrize(
    ("make", "data", "options", "message"),
    [
        (trainer, lambda: rows(seed=9), {}, r"data\.sum was '\w{16}' and is '\w{16}' now"),
        (trainer, lambda: rows(299), {}, r"data\.rows was 300 and is 299 now"),
        (trainer, rows, {"batch_size": 16}, r"batch_size was 32 and is 16 now"),
        (trainer, lambda: law, {}, r"data\.kind was 'rows' and is 'law' now"),
        (lambda: trainer(ema=0.99), rows, {}, r"ema was 0\.9 and is 0\.99 now"),
        (lambda: trainer(ema=None), rows, {}, r"ema was 0\.9 and is None now"),
        (lambda: trainer(accumulate=2), rows, {}, r"accumulate was 1 and is 2 now"),
        (lambda: trainer(optimizer=torch.optim.AdamW), rows, {}, r"'Adam' and is 'AdamW'"),
        (
            lambda: trainer(scheduler="step"),
            rows,
            {},
            r"scheduler was None and is 'StepRate\(\)' now",
        ),
        (
            lambda: wide(24, 2),
            rows,
            {},
            r"architecture.*\(16,\) float32 in the file, \(24,\) float32 here",
        ),
        (lambda: wide(16, 3), rows, {}, r"not in the file: net\.body\.5\.bias"),
        (lambda: wide(16, 1), rows, {}, r"only in the file: net\.body\.3\.bias"),
    ],
)
def test_another_run_is_refused_and_told(make, data, options, message, folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(tpf.training.ResumeError, match=message):
        fit(make(), data(), folder, resume=True, **options)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_another_run_goes_on_anyway(folder):
    other = trainer(ema=0.99, clip=1.0)
    with pytest.warns(
        tpf.training.CheckpointWarning, match="batch_size was 32 and is 16 now.*anyway"
    ):
        fit(other, rows(), folder, resume="anyway", batch_size=16)
    assert other.step == 40
    with (
        pytest.raises(tpf.training.ResumeError, match="another architecture"),
        pytest.warns(tpf.training.CheckpointWarning),
    ):
        fit(trainer(velocity(tpf.networks.MLP(2, 24, 2))), rows(5), folder, resume="anyway")


def rewritten(folder, change):
    path = tpf.training.Checkpoints(folder).files()[-1]
    header, tree = container.read(path)
    change(header)
    container.write(path, header, tree)


def test_another_number_of_processes_is_refused(folder):
    rewritten(folder, lambda header: header["run"].update(world_size=4))
    with pytest.raises(
        tpf.training.ResumeError, match=r"world_size was 4 and is 1 now.*resume='anyway'"
    ):
        fit(trainer(), rows(), folder, resume=True)


def test_a_newer_version_is_refused(folder):
    rewritten(folder, lambda header: header.update(format=2, transportflows="9.1"))
    with pytest.raises(
        container.NewerFileError, match=r"by transportflows 9\.1 in format 2.*up to 1"
    ):
        fit(trainer(), rows(), folder, resume=True)


def test_a_field_file_is_no_checkpoint(tmp_path):
    velocity().save(tmp_path / "field.pt")
    with pytest.raises(ValueError, match=r"is a .transportflows field., not a .* checkpoint"):
        trainer().load(tmp_path / "field.pt")
    container.write(tmp_path / "other", {"kind": "a letter"}, {})
    with pytest.raises(ValueError, match="is a 'a letter', not a transportflows training"):
        trainer().load(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        trainer().load(tmp_path / "nothing")


def test_the_one_before_is_taken_where_the_newest_is_damaged(folder):
    files = tpf.training.Checkpoints(folder).files()
    assert [p.name[-7:-5] for p in files] == ["10", "20"]
    files[1].write_bytes(files[1].read_bytes()[:-100])
    again = trainer()
    message = r"20\.ckpt is damaged.*ckpt\.damaged now, and step-000000010\.ckpt is taken"
    with pytest.warns(tpf.training.CheckpointWarning, match=message):
        fit(again, rows(), folder, resume=True)
    assert alike(state(again), state(fit(trainer(), rows()))) == []
    assert (folder / "step-000000020.ckpt.damaged").exists()


def test_where_none_can_be_read_the_run_does_not_begin_anew(folder):
    for path in tpf.training.Checkpoints(folder).files():
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(
            tpf.training.ResumeError, match=r"none of the 2 checkpoints.*another folder"
        ):
            fit(trainer(), rows(), folder, resume=True)


def test_a_damaged_newer_file_does_not_push_good_ones_out(folder):
    (folder / "step-000000030.ckpt").write_bytes(b"transportflows")
    written = []

    class Watch(tpf.training.Callback):
        def on_checkpoint(self, trainer, path):
            written.append(path.exists())

    with pytest.warns(tpf.training.CheckpointWarning):
        trainer().fit(
            rows(),
            steps=29,
            batch_size=32,
            checkpoints=tpf.training.Checkpoints(folder, every=4, keep=1),
            resume=True,
            callbacks=[Watch()],
            generator=gen(3),
            progress=False,
        )
    assert written == [True] * 3
    assert [p.name for p in tpf.training.Checkpoints(folder).files()] == ["step-000000029.ckpt"]


def test_a_folder_of_another_run_is_left_alone(folder):
    with pytest.raises(ValueError, match="checkpoints of another run, the newest of step 20"):
        fit(trainer(), rows(), folder, seed=4)
    with pytest.raises(ValueError, match="another run"):  # nor is this one begun anew by mistake
        fit(trainer(), rows(), folder)
    mine = trainer()
    fit(mine, rows(), folder / "mine", steps=12)
    mine.fit(rows(), steps=5, batch_size=32, checkpoints=folder / "mine", progress=False)
    assert mine.step == 17


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="resume needs a folder"):
        fit(trainer(), rows(), resume=True)
    with pytest.raises(ValueError, match="resume is True, False or 'anyway', got 'yes'"):
        fit(trainer(), rows(), tmp_path, resume="yes")
    for name in ("every", "keep"):
        with pytest.raises(ValueError, match=rf"{name} must be a positive integer, got 0"):
            tpf.training.Checkpoints(tmp_path, **{name: 0})

    class Odd(torch.optim.lr_scheduler.LambdaLR):
        def __init__(self, optimizer):
            super().__init__(optimizer, lambda n: 1.0)
            self.of_ones_own = {1, 2}

    odd = trainer(scheduler=Odd)
    with pytest.raises(TypeError, match=r"the state of the scheduler\.of_ones_own is a .*set"):
        fit(odd, rows(), tmp_path)
    assert odd.step == 0
    fit(odd, rows())  # without checkpoints it may be anything


# ------------------------------------------------------------------- what the world does to a run


def test_nan_names_the_step_and_the_last_good_checkpoint(tmp_path):
    class Bad(tpf.VelocityLoss):
        def evaluate(self, field, sample):
            values = super().evaluate(field, sample)
            self.calls = getattr(self, "calls", 0) + 1
            return values * math.nan if self.calls == 33 else values

    bad = trainer(loss=Bad())
    message = r"NaN or infinite at step 33, .*go on from .*step-000000030\.ckpt, the last good"
    with pytest.raises(tpf.training.NonFiniteLossError, match=message):
        fit(bad, rows(), tmp_path, every=5, steps=100)
    files = tpf.training.Checkpoints(tmp_path).files()
    assert files[-1].name == "step-000000030.ckpt"
    again = trainer()
    again.load(files[-1])
    assert all(p.isfinite().all() for p in again.parameters)
    assert again.step == 30


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    """The loss of a step is that of the weights before it: these can be NaN and it cannot know."""

    class Spoil(tpf.training.Callback):
        every = 10

        def on_step(self, trainer):
            if trainer.step == 20:
                with torch.no_grad():
                    trainer.parameters[0].fill_(math.nan)

    with pytest.raises(
        tpf.training.NonFiniteLossError, match=r"parameters became NaN.* at step 20,"
    ):
        fit(trainer(), rows(), tmp_path, callbacks=[Spoil()])
    assert [p.name for p in tpf.training.Checkpoints(tmp_path).files()] == ["step-000000010.ckpt"]


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    mine = trainer()
    with pytest.raises(OSError, match=r"cannot be written to .*the run did not begin"):
        fit(mine, rows(), tmp_path / "file" / "runs")
    assert mine.step == 0


LOCKED = """
import os, sys, torch, transportflows as tpf
field = tpf.Velocity(tpf.networks.MLP(2, 16, 2), tpf.Process(tpf.Linear(), tpf.Gaussian((2,))))
trainer = tpf.Trainer(field, tpf.VelocityLoss())
trainer.fit(torch.randn(99, 2), steps=1, progress=False)  # imports all that it needs
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    trainer.fit(torch.randn(99, 2), steps=3, checkpoints=sys.argv[1], progress=False)
except PermissionError as error:
    print(trainer.step, error)
"""


def test_a_folder_without_rights(tmp_path):
    for parent in tmp_path.parents[:-1]:
        if parent.owner() == "root" and os.getuid() == 0:
            parent.chmod(parent.stat().st_mode | 0o055)
    tmp_path.chmod(0o555)
    try:
        run = subprocess.run(
            [sys.executable, "-c", LOCKED, str(tmp_path)], capture_output=True, text=True
        )
    finally:
        tmp_path.chmod(0o755)
    assert run.stdout.startswith("1 "), run.stderr
    assert "cannot be written" in run.stdout


FULL = """
import resource, sys, warnings, torch, transportflows as tpf
sys.path.insert(0, sys.argv[2])
from test_checkpoints import fit, gen, rows, trainer, state, alike

class Fill(tpf.training.Callback):
    every = 5
    def on_step(self, trainer):
        if trainer.step == 15:  # from here on no file can grow beyond a few kB
            resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, resource.RLIM_INFINITY))
        if trainer.step == 35:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    mine = fit(trainer(), rows(), sys.argv[1], callbacks=[Fill()])
for one in told:
    if issubclass(one.category, tpf.training.CheckpointWarning):
        print(one.message)
print("same", alike(state(mine), state(fit(trainer(), rows()))))
"""


def test_a_full_disk_is_told_and_the_run_goes_on(tmp_path):
    """A limit on the size of files stands in for the disk: writes fail half way, as there."""
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(ROOT / "tests")],
        capture_output=True,
        text=True,
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 3, run.stdout + run.stderr
    for line, step in zip(lines, (20, 30), strict=False):
        assert f"the checkpoint of step {step} was not written" in line
        assert "step-000000010.ckpt is still the last one" in line
    assert lines[2] == "same []"
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["step-000000010.ckpt", "step-000000040.ckpt"]


def test_a_file_left_by_a_killed_writer_is_removed(folder):
    left = folder / files.temporary_name("step-000000030.ckpt")
    other = folder / ".a file of somebody else's.tmp"
    left.write_bytes(b"half of a check")
    other.write_bytes(b"")
    fit(trainer(), rows(), folder, resume=True)
    assert not left.exists()
    assert other.exists()


def test_the_files_of_a_hostile_folder_run_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it_ran"),)

    torch.save(Bomb(), tmp_path / "step-000000010.ckpt")
    with pytest.raises(tpf.training.ResumeError, match="none of the 1"):
        fit(trainer(), rows(), tmp_path, resume=True)
    assert not (tmp_path / "it_ran").exists()
