"""Threads of one process: the numbers of one thread in any number of them, or a refusal."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import transportflows as tpf
from transportflows._core.autodiff import jvp, tracked
from transportflows._core.shared import GENERATORS, kept_generators

THREADS = 3


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def one_core_each():
    """One thread inside each operation, and many changes between threads."""
    threads, interval = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(1)
    sys.setswitchinterval(1e-4)
    yield
    torch.set_num_threads(threads)
    sys.setswitchinterval(interval)


class Curved(tpf.Interpolant):
    def mean(self, t, x0, x1):
        return (1 - t) * x0 + t * x1 + torch.sin(torch.pi * t) * torch.tanh(x0 - x1)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        with kept_generators(everywhere=False):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, t, x):
        return self.body(torch.cat([x, t.expand(len(x))[:, None]], 1))


PROCESS = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
DATA = torch.randn(64, 2, generator=gen(3))
NET = tpf.networks.MLP(2, 8, 2, generator=gen())
VELOCITY = tpf.Velocity(NET, PROCESS)
NOISE = tpf.NoisePredictor(NET, tpf.Process(tpf.VP(), shape=(2,)))


def fitted(net):
    trainer = tpf.Trainer(tpf.Velocity(net, PROCESS))
    trainer.fit(DATA, steps=12, batch_size=16, generator=gen(5), progress=False)
    return torch.cat([p.detach().flatten() for p in net.parameters()])


CALLS = {
    "log-likelihood": lambda: (
        tpf.log_likelihood(VELOCITY, DATA[:8], scheme="rk4", steps=2).log_prob
    ),
    "flow of VP": lambda: tpf.sample(NOISE, 32, steps=5, generator=gen()).x,
    "SDE": lambda: tpf.sample(VELOCITY, 32, steps=5, epsilon=0.5, generator=gen()).x,
    "curved path": lambda: (
        tpf.Process(Curved(), base=tpf.Gaussian((2,))).sample(DATA, generator=gen()).velocity
    ),
    "consistency": lambda: tpf.metrics.consistency(VELOCITY, DATA, times=2, generator=gen()).stein,
    "particles": lambda: (
        tpf.particles.flow_with_log_density(
            tpf.Gaussian((2,)), DATA, n=16, steps=2, sigma=0.5, step=0.5, generator=gen()
        ).log_prob
    ),
    "sliced score": lambda: tpf.losses.SlicedScoreLoss()(VELOCITY, DATA, generator=gen()).detach(),
    "fit": lambda: fitted(tpf.networks.MLP(2, 8, 2, generator=gen())),
    "fit with dropout": lambda: fitted(Dropping()),
    "a law without a generator": lambda: tpf.distributions.as_distribution(
        torch.distributions.Laplace(torch.zeros(2), torch.ones(2))
    ).sample(9, generator=gen()),
}


@pytest.mark.parametrize("name", CALLS)
def test_numbers_are_those_of_one_thread(name):
    call = CALLS[name]
    alone, before = call(), torch.get_rng_state()
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda _: call(), range(2 * THREADS)))
    assert all(torch.equal(value, alone) for value in found)
    assert torch.equal(torch.get_rng_state(), before)


def test_fits_of_other_kinds_side_by_side():
    names = ["fit", "fit with dropout", "a law without a generator", "log-likelihood"]
    alone = {name: CALLS[name]() for name in names}
    with ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(lambda name: (name, CALLS[name]()), 3 * names))
    assert all(torch.equal(value, alone[name]) for name, value in found)


def test_a_derivative_waits_for_that_of_another_thread():
    inside, done = threading.Event(), threading.Event()
    x = torch.ones(3, dtype=torch.float64)

    def slow(y):
        inside.set()
        assert not done.wait(0.2)  # the other one ends only after this one
        assert tracked(y)
        return y**2

    def other():
        inside.wait()
        assert not tracked(x)  # does not wait
        change = jvp(lambda y: jvp(lambda z: z**3, y, x)[1], x, x)[1]
        done.set()
        return change

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other)
        assert torch.equal(jvp(slow, x, x)[1], 2 * x)
        assert torch.equal(waiting.result(), 6 * x)


class Meeting(nn.Module):
    """A network that tells in which mode it is called."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.drop = nn.Dropout(0.5)

    def forward(self, t, x):
        self.seen.append(self.drop.training)
        return self.drop(x)


@pytest.mark.parametrize("first_leaves", [True, False])
def test_dropout_stays_off_until_the_last_solve_ends(first_leaves):
    field = tpf.Velocity(net := Meeting(), PROCESS)
    come, go = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def solve(k):
        def hook(moment):
            come[k].set()
            go[k].wait(10)

        return tpf.sample(field, 4, steps=2, hooks=[hook], generator=gen()).x

    with ThreadPoolExecutor(2) as pool:
        solves = []
        for k in range(2):
            solves.append(pool.submit(solve, k))
            come[k].wait(10)
        leaves, stays = (0, 1) if first_leaves else (1, 0)
        go[leaves].set()
        alone = solves[leaves].result()
        assert not net.drop.training
        go[stays].set()
        assert torch.equal(solves[stays].result(), alone)
    assert not any(net.seen)
    assert net.drop.training


@pytest.mark.parametrize("modes", [(True, False), (False, True)])
def test_modes_inside_a_use_of_their_own_come_back(modes):
    net = Meeting()
    field = tpf.Velocity(net, PROCESS)
    net.train(modes[0])
    net.drop.training = modes[1]
    seen = []

    def hook(moment):
        seen.append(net.drop.training)
        net.drop.train()
        tpf.sample(field, 2, steps=1, generator=gen())
        seen.append(net.drop.training)

    tpf.sample(field, 2, steps=1, hooks=[hook], generator=gen())
    assert seen == [False, True]
    assert (net.training, net.drop.training) == modes


def in_another_thread(call, during):
    """What ``during`` does while another thread is inside ``call(wait)``."""
    inside, leave = threading.Event(), threading.Event()

    def wait():
        inside.set()
        leave.wait(10)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(call, wait)
        inside.wait(10)
        try:
            return during()
        finally:
            leave.set()
            other.result()


class Waiting(tpf.training.Callback):
    every = 1

    def __init__(self, wait):
        self.wait = wait

    def on_step(self, run):
        self.wait()


def test_a_network_in_training_is_refused_to_other_threads():
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 2, generator=gen()), PROCESS)
    pair = tpf.FieldPair(mean_velocity=field.net, noise=NET, process=PROCESS)
    trainer = tpf.Trainer(field, ema=0.9)

    def fit(wait):
        trainer.fit(DATA, steps=1, generator=gen(), callbacks=[Waiting(wait)], progress=False)

    def refused():
        copied = tpf.sample(tpf.Velocity(NET, PROCESS), 2, steps=1, generator=gen())
        for use in (
            lambda: tpf.sample(field, 2, steps=1),
            lambda: tpf.sample(pair, 2, steps=1),
            lambda: tpf.log_likelihood(field, DATA[:2], scheme="rk4", steps=1),
            lambda: tpf.metrics.extract_features(torch.zeros(4, 8), field.net.body),
            lambda: tpf.Trainer(field).fit(DATA, steps=1, progress=False),
            lambda: trainer.averaged().__enter__(),
        ):
            with pytest.raises(RuntimeError, match="another thread"):
                use()
        return copied

    in_another_thread(fit, refused)
    tpf.sample(field, 2, steps=1)


def test_a_network_in_use_is_not_trained():
    field = tpf.Velocity(tpf.networks.MLP(2, 8, 2, generator=gen()), PROCESS)
    trainer = tpf.Trainer(field, ema=0.9)

    def solve(wait):
        return tpf.sample(field, 2, steps=1, hooks=[lambda moment: wait()])

    def refused():
        with pytest.raises(RuntimeError, match="another thread"):
            trainer.fit(DATA, steps=1, progress=False)
        with pytest.raises(RuntimeError, match="another thread"), trainer.averaged():
            pass

    in_another_thread(solve, refused)
    trainer.fit(DATA, steps=1, progress=False)
    with trainer.averaged():
        tpf.sample(field, 2, steps=1)


def test_global_generators_go_from_thread_to_thread_in_order():
    order = []

    def turn(k, here):
        here.set()
        with GENERATORS, GENERATORS:
            order.append(k)

    threads = []
    with GENERATORS:
        for k in range(4):
            here = threading.Event()
            threads.append(threading.Thread(target=turn, args=(k, here)))
            threads[-1].start()
            here.wait(10)
            while len(GENERATORS._waiting) <= k:
                pass
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3]
    assert not GENERATORS.wanted


def test_whoever_waits_too_long_for_the_global_generators_is_told(monkeypatch):
    monkeypatch.setattr("transportflows._core.shared._PATIENCE", 0.05)

    def other():
        with pytest.raises(RuntimeError, match="lent to a fit in another thread for 0"):
            tpf.networks.MLP(2, generator=gen())
        return True

    with ThreadPoolExecutor(1) as pool, GENERATORS:
        assert pool.submit(other).result()
    assert not GENERATORS.wanted
