"""What a run remembers, which of its fits goes on, and what an interruption leaves."""

from __future__ import annotations

import signal
from collections import deque

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import transportflows as tpf
from test_checkpoints import Noisy, Stop, Stream, alike, broken_off, fit, state, trainer
from test_training import mlp, rows, velocity, weights

DATA = [rows, Stream, lambda: Noisy(rows())]


@pytest.mark.parametrize("data", DATA)
def test_save_and_load_go_on_exactly(data, tmp_path):
    path = tmp_path / "mine.ckpt"
    whole = fit(trainer(), data())
    half = fit(trainer(), data(), steps=17)
    half.save(path)
    other = trainer()
    assert other.load(path)["step"] == other.step == 17
    assert other.key == half.key
    other.fit(data(), steps=23, batch_size=32, progress=False)
    assert alike(state(whole), state(other)) == []
    half.fit(data(), steps=5, batch_size=32, progress=False)
    half.load(path)  # back again, in the trainer that went on
    half.fit(data(), steps=23, batch_size=32, progress=False)
    assert alike(state(whole), state(half)) == []


def test_averages_are_not_saved_for_weights(tmp_path):
    mine = fit(trainer(), rows())
    with mine.averaged():
        with pytest.raises(ValueError, match="save would take the averages for weights"):
            mine.save(tmp_path / "a")
        with pytest.raises(ValueError, match="load would put weights under the averages"):
            mine.load(tmp_path / "a")


# ----------------------------------------------------------- which fit, and how much of it is left


def script(folder, *, stop=None, steps=(20, 20)):
    """A script with several fits, as it is started again after it was killed."""
    mine = trainer()
    for n in steps:
        callbacks = [] if stop is None else [Stop(stop)]
        fit(mine, rows(), folder, steps=n, resume=True, callbacks=callbacks)
    return mine


@pytest.mark.parametrize("stop", [13, 20, 33])
def test_a_script_of_two_fits_ends_where_it_would_have(stop, tmp_path):
    whole = script(tmp_path / "whole")
    assert whole.step == 40
    with pytest.raises(KeyboardInterrupt):
        script(tmp_path / "broken", stop=stop)
    again = script(tmp_path / "broken")
    assert again.step == 40
    assert alike(state(whole), state(again)) == []
    assert script(tmp_path / "broken").step == 40


def test_a_cell_that_is_run_again_after_an_interruption(tmp_path):
    mine = trainer()
    broken_off(mine, rows(), tmp_path, at=13, steps=20, resume=True)
    fit(mine, rows(), tmp_path, steps=20, resume=True)
    assert mine.step == 20
    assert alike(state(mine), state(fit(trainer(), rows(), steps=20))) == []


def test_a_run_that_ended_early_says_so(tmp_path):
    class End(tpf.training.Callback):
        every = 12

        def on_step(self, trainer):
            trainer.stop("it is enough")

    first = fit(trainer(), rows(), tmp_path, callbacks=[End()])
    assert first.step == 12
    again = trainer()
    with pytest.warns(tpf.training.CheckpointWarning, match="ended at step 12: it is enough"):
        fit(again, rows(), tmp_path, resume=True)
    assert again.step == 12
    assert again.stopped == "it is enough"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("at", "every"), [(26, 10), (13, 6)])  # at the end of an epoch, and within
def test_the_loader_of_torchdata_resumes_exactly(workers, at, every, tmp_path):
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader():
        torch.manual_seed(0)  # its sampler draws a seed when it is made
        data = TensorDataset(rows(100))
        return StatefulDataLoader(data, batch_size=20, shuffle=True, num_workers=workers)

    options = {"batch_size": None}
    whole = fit(trainer(), loader(), **options)
    broken_off(trainer(), loader(), tmp_path, at=at, every=every, **options)
    again = fit(trainer(), loader(), tmp_path, resume=True, **options)
    assert alike(state(whole), state(again)) == []


# ------------------------------------------------------------------------------- interruptions


class Once(tpf.VelocityLoss):
    """Ctrl-C in the loss, when the batch has been read and the step is not made."""

    calls = 0

    def evaluate(self, field, sample):
        self.calls += 1
        if self.calls == 9:
            raise KeyboardInterrupt
        return super().evaluate(field, sample)


@pytest.mark.parametrize("data", DATA)
def test_an_interrupted_step_is_made_with_its_own_rows(data):
    given, mine = data(), trainer(loss=Once())
    with pytest.raises(KeyboardInterrupt):
        fit(mine, given)
    assert mine.step == 8
    mine.fit(given, steps=32, batch_size=32, progress=False)
    assert alike(weights(mine), weights(fit(trainer(), data()))) == []


def test_an_interruption_within_the_data_loses_no_rows():
    class Breaks(Stream):
        asked = 0

        def __iter__(self):
            for item in super().__iter__():
                Breaks.asked += 1
                if Breaks.asked == 140:  # in the fifth batch, in the second epoch
                    raise KeyboardInterrupt
                yield item

    given, mine = Breaks(), trainer()
    with pytest.raises(KeyboardInterrupt):
        fit(mine, given)
    assert mine.step == 4
    mine.fit(given, steps=36, batch_size=32, progress=False)
    assert alike(weights(mine), weights(fit(trainer(), Stream()))) == []


def test_an_interruption_waits_for_the_end_of_a_step():
    """The signal comes within the optimizer; the step is whole when it is heard."""
    mine = trainer(optimizer=torch.optim.Adam)

    def hook(optimizer, args, kwargs):
        if mine.step == 7:
            signal.raise_signal(signal.SIGINT)

    handle = mine.optimizer.register_step_post_hook(hook)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(mine, rows())
    handle.remove()
    assert signal.getsignal(signal.SIGINT) is before
    assert mine.step == len(mine.history) == mine.ema.updates == 8
    mine.fit(rows(), steps=32, batch_size=32, progress=False)
    whole = fit(trainer(optimizer=torch.optim.Adam), rows())
    assert alike(weights(mine), weights(whole)) == []


# ------------------------------------------------------------------ what else a trainer remembers


class Counting(nn.Module):
    """A buffer that is in no state_dict, and decides the output."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()
        self.register_buffer("count", torch.zeros(()), persistent=False)

    def forward(self, t, x):
        if self.training:
            self.count += 1
        return self.inner(t, x) * (1 + 0.01 * self.count)


def nadam():
    field = velocity(mlp().to(torch.float64))
    return trainer(field, optimizer=lambda ps: torch.optim.NAdam(ps, 1e-2))


@pytest.mark.parametrize("make", [lambda: trainer(velocity(Counting())), nadam])
def test_odd_memories(make, tmp_path):
    data = rows(dtype=make().field.reference().dtype)
    whole = fit(make(), data)
    broken_off(make(), data, tmp_path)
    again = fit(make(), data, tmp_path, resume=True)
    assert alike(state(whole), state(again)) == []


def test_a_smaller_rate_is_taken_after_loading(tmp_path):
    path = tmp_path / "a.ckpt"
    fit(trainer(lr=1e-2), rows(), steps=10).save(path)
    careful = trainer(lr=1e-5)
    careful.load(path)
    history = careful.fit(rows(), steps=10, batch_size=32, progress=False)
    assert history.learning_rate.tolist() == [1e-2] * 10 + [1e-5] * 10
    assert careful.optimizer.state[careful.parameters[0]]["step"] == 20  # its memory is kept


def test_another_optimizer_begins_anew_and_says_so(tmp_path):
    path = tmp_path / "a.ckpt"
    fit(trainer(), rows(), steps=10).save(path)
    other = trainer(optimizer=lambda ps: torch.optim.SGD(ps, 1e-3, momentum=0.9))
    with pytest.warns(
        tpf.training.CheckpointWarning, match="state of Adam, and the optimizer is SGD"
    ):
        other.load(path)
    assert other.step == 10
    assert not other.optimizer.state


def test_nothing_is_changed_where_the_averages_do_not_fit(tmp_path):
    path = tmp_path / "a.ckpt"
    fit(trainer(), rows(), steps=10).save(path)
    field = velocity()
    field.net.embed_x.requires_grad_(False)
    frozen = trainer(field)
    before = [p.detach().clone() for p in field.parameters()]
    with pytest.raises(tpf.training.ResumeError, match="average"):
        frozen.load(path)
    assert all(map(torch.equal, before, field.parameters()))


def test_memory_that_cannot_be_written_is_told_after_the_first_step(tmp_path):
    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            self.state[self.param_groups[0]["params"][0]]["recent"] = deque([1.0])

    odd = trainer(optimizer=lambda ps: Odd(ps, 1e-3))
    with pytest.raises(TypeError, match=r"the state of the optimizer.*deque"):
        fit(odd, rows(), tmp_path, every=30)
    assert odd.step == 1


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, base_lr=1e-4, max_lr=1e-3),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [
                torch.optim.lr_scheduler.ConstantLR(o, 0.1, 5),
                torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
            ],
            [5],
        ),
    ],
)
@pytest.mark.parametrize("tensor", [False, True])
def test_torchs_schedulers_are_left_alone(scheduler, tensor):
    """The rates of a run are those that the scheduler gives by itself."""
    rate = torch.tensor(1e-3) if tensor else 1e-3
    net = nn.Linear(2, 2)
    alone = torch.optim.Adam(net.parameters(), rate.clone() if tensor else rate)
    steps = scheduler(alone)
    expected = []
    for _ in range(12):
        expected.append(float(alone.param_groups[0]["lr"]))
        alone.step()
        steps.step()
    mine = trainer(
        optimizer=lambda ps: torch.optim.Adam(ps, rate.clone() if tensor else rate),
        scheduler=scheduler,
        ema=None,
    )
    fit(mine, rows(), steps=12)
    assert mine.history.learning_rate.tolist() == pytest.approx(expected, rel=1e-6)


def test_a_run_goes_on_with_the_process_that_it_was_begun_with(tmp_path):
    """A latent of another size would be overwritten by the file's, or its network trained on."""

    def run(a, folder, **options):
        process = tpf.Process(tpf.Linear(tpf.Brownian(a)), base=tpf.Gaussian((2,)))
        mine = tpf.Trainer(tpf.MeanVelocity(mlp(), process))
        mine.fit(rows(), batch_size=32, progress=False, checkpoints=folder, **options)
        return mine

    run(0.5, tmp_path, steps=2)
    with pytest.raises(ValueError, match=r"process was .*a=0\.5.* and is .*a=2\.0"):
        run(2.0, tmp_path, steps=4, resume=True)
    with pytest.warns(UserWarning, match="goes on anyway"):
        gone_on = run(2.0, tmp_path, steps=4, resume="anyway")
    assert float(gone_on.field.process.interpolant.latent.a) == 2.0
    assert run(2.0, tmp_path, steps=6, resume=True).step == 6
