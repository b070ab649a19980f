"""The log-density of a flow map: against oracles, affine maps, and its own Jacobian in full."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

import transportflows as tpf
from transportflows import maps
from transportflows.distributions import Empirical, GaussianMixture
from transportflows.maps.bidiagonal import log_det_estimates
from transportflows.maps.jacobians import all_columns

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=gen(seed), dtype=F64)


LAW = GaussianMixture(torch.tensor([[-1.5, 0.0], [1.5, 0.5]], dtype=F64), scale=0.5)


@pytest.mark.parametrize(
    ("path", "tolerance"), [(tpf.Linear(), 1e-10), (tpf.SBDM(), 1e-8)], ids=["Linear", "SBDM"]
)
def test_of_the_exact_map_it_is_that_of_the_oracle(path, tolerance):
    how = {"base": tpf.Gaussian((2,))} if path.uses_base else {"shape": (2,)}
    exact = maps.oracle_map(tpf.Process(path, **how), LAW, rtol=tolerance, atol=tolerance)
    x = LAW.sample(10, generator=gen(), dtype=F64)
    known = exact.field.log_prob(torch.ones((), dtype=F64), x)
    found = maps.log_density(exact, x, times=[1.0, 0.7, 0.0] if path.uses_base else None)
    assert (found.log_prob - known).abs().max() < 100 * tolerance
    assert float(found.inverse_residual.max()) < 100 * tolerance
    assert float(found.log_det_residual.abs().max()) < 100 * tolerance
    assert found.folds == 0
    assert bool((found.standard_error == 0).all())
    assert bool((found.quadrature_error == 0).all())


def test_a_base_that_is_not_gaussian():
    base = GaussianMixture(torch.tensor([[-2.0], [3.0]]), scale=0.5)
    law = GaussianMixture(torch.tensor([[0.0], [2.0]]), scale=0.6)
    exact = maps.oracle_map(tpf.Process(tpf.Linear(), base=base), law, rtol=1e-8, atol=1e-8)
    x = law.sample(10, generator=gen(), dtype=F64)
    found = maps.log_density(exact, x)
    assert (found.log_prob - law.log_prob(x)).abs().max() < 1e-6


class Affine(nn.Module):
    """X_{s,t} = the exact map between N(0, Id) and N(m, A Aᵀ) along straight lines.

    On the way x_t = (1 - t) x_0 + t (m + A x_0), so that v = (A - Id) x_0 + m at all times.
    """

    def __init__(self, a, m):
        super().__init__()
        self.a, self.m = nn.Parameter(a), nn.Parameter(m)

    def forward(self, s, t, x, move=None):
        eye = torch.eye(len(self.a), dtype=self.a.dtype)
        way = (1 - s)[:, None, None] * eye + s[:, None, None] * self.a
        x0 = torch.linalg.solve(way, x - s[:, None] * self.m)
        v = x0 @ (self.a - eye).T + self.m
        return v if move is None else v + move[:, None]


def matrix(d, seed=2):
    """Of singular values between about .3 and 2, with a positive determinant along the way."""
    turn = torch.linalg.qr(rows(d, d, seed=seed)).Q
    size = torch.linspace(0.3, 2.0, d, dtype=F64)
    skew = 0.2 * torch.triu(rows(d, d, seed=seed + 1), 1) / math.sqrt(d)
    return turn @ (torch.diag(size) + skew) @ turn.T


def affine_map(d, **how):
    net = Affine(matrix(d), rows(d, seed=5))
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((d,)))
    flow_map = maps.FlowMap(net, process, **how)
    covariance = net.a.detach() @ net.a.detach().T
    law = torch.distributions.MultivariateNormal(net.m.detach(), covariance)
    return flow_map, law


def inverse(a, x):
    return torch.linalg.solve(a, x.mT).mT


@pytest.mark.parametrize(("d", "steps"), [(2, 1), (2, 3), (5, 1), (5, 2)])
def test_of_an_affine_map_it_is_a_gaussian(d, steps):
    flow_map, law = affine_map(d)
    x = law.mean + 2 * rows(30, d)
    found = maps.log_density(flow_map, x, steps=steps)
    assert (found.log_prob - law.log_prob(x)).abs().max() < 1e-10
    assert (found.latent - inverse(flow_map.net.a, x - law.mean)).abs().max() < 1e-10
    assert float(found.inverse_residual.max()) < 1e-10
    assert float(found.log_det_residual.abs().max()) < 1e-10
    assert found.folds == 0
    chunked = maps.log_density(flow_map, x, steps=steps, chunk=7)
    assert (chunked.log_prob - found.log_prob).abs().max() < 1e-12
    assert not found.log_prob.requires_grad


@pytest.mark.filterwarnings("ignore::transportflows.maps.InverseMapWarning")  # moved both ways
def test_units_of_the_data_and_conditions():
    transform = tpf.Standardize(torch.tensor([10.0, -5.0]), torch.tensor([2.0, 3.0]))
    flow_map, law = affine_map(2, transform=transform)
    x = transform.invert(law.mean + rows(30, 2))
    found = maps.log_density(flow_map, x)
    assert (found.log_prob - law.log_prob(transform(x)) + math.log(6.0)).abs().max() < 1e-10
    latent = transform.invert(inverse(flow_map.net.a, transform(x) - law.mean))
    assert (found.latent - latent).abs().max() < 1e-10
    ode = tpf.log_likelihood(flow_map, x[:5], rtol=1e-8, atol=1e-8)
    assert (ode.log_prob - found.log_prob[:5]).abs().max() < 1e-6
    flow_map, law = affine_map(2)
    x, move = law.mean + rows(30, 2), rows(30, seed=8)
    found = maps.log_density(flow_map, x, cond={"move": move}, chunk=8)
    latent = inverse(flow_map.net.a, x - law.mean) - move[:, None]
    known = tpf.Gaussian((2,)).log_prob(latent) - flow_map.net.a.det().log()
    assert (found.log_prob - known).abs().max() < 1e-10


def test_a_base_of_the_callers():
    flow_map, law = affine_map(2)
    x = law.mean + rows(30, 2)
    base = tpf.Gaussian((2,), 1.0, 3.0)
    shift = base.log_prob(maps.log_density(flow_map, x).latent)
    found = maps.log_density(flow_map, x, base=base)
    assert (found.log_prob - (shift - flow_map.net.a.det().log())).abs().max() < 1e-10


# ---------------------------------------------------------------------------------- the estimate


def curved(d, seed=0):
    """A map that is not affine, and its Jacobian is of no structure."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = (
                nn.Parameter(1.5 * rows(d, d, seed=seed + k) / math.sqrt(d)) for k in (0, 1)
            )

        def forward(self, s, t, x):
            return torch.tanh(x @ self.first) @ self.last * (1 + s[:, None] * t[:, None])

    return maps.FlowMap(Net(), tpf.Process(tpf.Linear(), base=tpf.Gaussian((d,))))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.filterwarnings("ignore::transportflows.maps.InverseMapWarning")
@pytest.mark.filterwarnings("ignore::transportflows.maps.FoldedMapWarning")
def test_the_estimate_is_within_its_errors(steps):
    """d = 12: errors over the standard errors have the size of a normal, and the mean is right."""
    flow_map, x = curved(12), rows(60, 12, seed=9)
    exact = maps.log_density(flow_map, x, steps=steps)
    found = maps.log_density(
        flow_map, x, steps=steps, method="lanczos", probes=64, chunk=999, generator=gen()
    )
    gap = found.log_prob - exact.log_prob
    ratio = gap / found.standard_error
    assert float(ratio.abs().max()) < 4.5
    assert 0.7 < float(ratio.square().mean().sqrt()) < 1.4
    assert abs(float(gap.mean())) < 3 * float(found.standard_error.square().mean().sqrt()) / 60**0.5
    assert float((found.quadrature_error / found.standard_error).max()) < 0.2 * steps
    assert found.folded is None
    assert math.isnan(found.folds)
    assert found.log_det_residual.isnan().all()
    assert (found.latent - exact.latent).abs().max() < 1e-12
    assert (found.inverse_residual - exact.inverse_residual).abs().max() < 1e-12


def linear(matrix):
    return lambda x: x @ matrix.T


def test_the_quadrature_is_exact_after_d_steps():
    """Averaged over all sign vectors, E zᵀ A z is the trace: to rounding, for any J."""
    d = 4
    j = rows(d, d, seed=3)
    signs = torch.tensor([[1 - 2 * (k >> i & 1) for i in range(d)] for k in range(16)], dtype=F64)
    value, found, fall = log_det_estimates(
        linear(j), rows(3, d), signs[:, None].expand(16, 3, d), d
    )
    assert (found.mean(0) - torch.linalg.slogdet(j).logabsdet).abs().max() < 1e-10
    assert (value - rows(3, d) @ j.T).abs().max() < 1e-12
    assert bool((fall == 0).all())


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_what_leaves_nothing_for_the_next_step(scale):
    """Multiples of a rotation, and a matrix of two singular values, end after one and two."""
    turn = torch.linalg.qr(rows(6, 6)).Q
    z = torch.ones(4, 2, 6, dtype=F64)
    z[1:, :, ::2] = -1
    for sizes in ([scale] * 6, [scale] * 3 + [3.0] * 3):
        j = turn @ torch.diag(torch.tensor(sizes, dtype=F64))
        _, found, _ = log_det_estimates(linear(j), rows(2, 6), z, 6)
        log = torch.tensor(sizes, dtype=F64).log().sum()  # signs: z² = 1 on the diagonal
        assert (found - log).abs().max() < 1e-9


def test_the_quadrature_errs_to_above_and_says_by_how_much():
    d = 200
    sizes = torch.logspace(-2, 1, d, dtype=F64)
    turn = torch.linalg.qr(rows(d, d)).Q
    j = turn @ torch.diag(sizes) @ torch.linalg.qr(rows(d, d, seed=2)).Q
    z = torch.randint(0, 2, (8, 1, d), generator=gen()).to(F64) * 2 - 1
    exact = log_det_estimates(linear(j), rows(1, d), z, d)[1].mean()
    last = math.inf
    for most in (8, 16, 32, 64):
        _, found, fall = log_det_estimates(linear(j), rows(1, d), z, most)
        over = float(found.mean() - exact)
        assert 0 < over < min(last, 4 * float(fall))
        last = over


@pytest.mark.filterwarnings("ignore::transportflows.maps.InverseMapWarning")
def test_many_numbers_take_the_estimate_by_default(monkeypatch):
    flow_map, x = curved(300), rows(2, 300, seed=4)
    exact = maps.log_density(flow_map, x)
    monkeypatch.setattr("transportflows.maps.density._COLUMNS", 256)
    found = maps.log_density(flow_map, x.float(), probes=4, generator=gen())
    assert found.folded is None
    assert exact.folded is not None
    assert ((found.log_prob - exact.log_prob) / found.standard_error).abs().max() < 6
    again = maps.log_density(flow_map, x.float(), probes=4, generator=gen())
    assert torch.equal(again.log_prob, found.log_prob)
    one = maps.log_density(flow_map, x.float(), probes=1, generator=gen())
    assert one.standard_error.isnan().all()
    with pytest.warns(maps.CoarseEstimateWarning, match='method="exact"') as told:
        maps.log_density(flow_map, x, probes=64, most=4, generator=gen())
    assert told[0].filename == __file__


class NoForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def test_a_network_without_forward_mode():
    """All columns are taken in reverse mode; an estimate is refused, with the cure."""
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((3,)))
    turned = torch.linalg.qr(rows(3, 3)).Q

    def net(s, t, x):
        return NoForward.apply(0.1 * x @ turned)

    flow_map = maps.FlowMap(net, process)
    x = rows(20, 3)
    found = maps.log_density(flow_map, x)
    j = torch.eye(3, dtype=F64) - 0.2 * turned.T
    known = process.base.log_prob(x @ j.T) + torch.linalg.slogdet(j).logabsdet
    assert (found.log_prob - known).abs().max() < 1e-10
    with pytest.raises(RuntimeError):
        maps.log_density(flow_map, x, method="lanczos")


@pytest.mark.parametrize("function", [lambda x: 2 * x, NoForward.apply], ids=["forward", "reverse"])
def test_columns_are_columns(function):
    """Column k is the derivative along the k-th number, in both modes, of any event shape."""
    j = rows(4, 4)
    value, found = all_columns(lambda x: function(x.flatten(1) @ j.T).view(x.shape), rows(3, 2, 2))
    assert (found - 2 * j).abs().max() < 1e-12
    assert (value.flatten(1) - 2 * rows(3, 4) @ j.T).abs().max() < 1e-12


def test_attention_that_has_no_forward_mode_is_named():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, s, t, x):
            y = x.view(-1, 3, 4)
            return self.inner(y, y, y, need_weights=False)[0].flatten(1)

    flow_map = maps.FlowMap(Attending(), tpf.Process(tpf.Linear(), base=tpf.Gaussian((12,))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert maps.log_density(flow_map, rows(3, 12).float()).log_prob.isfinite().all()
        with pytest.raises(RuntimeError, match=r'method="exact"'):
            maps.log_density(flow_map, rows(3, 12).float(), method="lanczos")


# ------------------------------------------------------------------------------ what is told of it


def test_folds_are_counted_and_told():
    class Fold(nn.Module):
        """X_{1,0} = (|x_1|, x_2), smoothly; X_{0,1} = x."""

        def forward(self, s, t, x):
            back = x[:, 0] - x[:, 0].square().add(1e-9).sqrt()
            return torch.stack([torch.where(s > t, back, 0.0), 0 * x[:, 1]], 1)

    flow_map = maps.FlowMap(Fold(), tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
    x = rows(200, 2)
    with pytest.warns(maps.FoldedMapWarning, match="steps=4") as told:
        found = maps.log_density(flow_map, x)
    assert told[0].filename == __file__
    assert torch.equal(found.folded, x[:, 0] < 0)
    assert found.folds == pytest.approx(float((x[:, 0] < 0).double().mean()))
    assert (found.inverse_residual - (2 * -x[:, 0]).clamp(min=0)).abs().max() < 1e-4


def test_one_row_that_the_map_leaves_where_it_is_is_no_fault():
    law = tpf.Gaussian((2,))
    exact = maps.oracle_map(tpf.Process(tpf.Linear(), base=law), law)  # the identity at 0
    for x in (torch.zeros(1, 2, dtype=F64), torch.ones(3, 2, dtype=F64)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = maps.log_density(exact, x)
        assert (found.log_prob - law.log_prob(x)).abs().max() < 1e-7


def test_a_map_that_was_not_trained_backward_is_told():
    def forward_only(s, t, x):
        return torch.where((t > s)[:, None], 2.0 + x, 0 * x)

    flow_map = maps.FlowMap(forward_only, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
    for n in (50, 1):
        with pytest.warns(maps.InverseMapWarning, match="both=True") as told:
            found = maps.log_density(flow_map, rows(n, 2))
        assert told[0].filename == __file__
        assert found.inverse_residual.min() > 0.1
        assert (found.log_det_residual - 2 * math.log(2)).abs().max() < 1e-12
    flow_map, law = affine_map(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps.log_density(flow_map, law.mean + rows(1, 2))


# ------------------------------------------------------------------------------------- bad input


def still(**how):
    process = tpf.Process(tpf.Linear(), base=how.pop("base", tpf.Gaussian((2,))))
    return maps.FlowMap(lambda s, t, x: 0 * x, process, **how)


def broken():
    return maps.FlowMap(lambda s, t, x: x * math.nan, still().process)


X = rows(4, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: maps.log_density(still(to_data=True), X), ValueError, r"to_data=True"),
        (lambda: maps.log_density(still(base=Empirical(X)), X), ValueError, "Gaussian.fit"),
        (lambda: maps.log_density(still(), X * math.nan), ValueError, "NaN or infinite"),
        (lambda: maps.log_density(broken(), X), ValueError, "what the map gives"),
        (lambda: maps.log_density(still(), X[:0]), ValueError, "empty"),
        (lambda: maps.log_density(still(), rows(4, 3)), ValueError, "events of the process"),
        (lambda: maps.log_density(still(), X, steps=0), ValueError, "positive integer"),
        (lambda: maps.log_density(still(), X, times=[0.0, 1.0]), ValueError, "begins at 1"),
        (lambda: maps.log_density(still(), X, times=[1.0, 0.1]), ValueError, "ends at 0"),
        (lambda: maps.log_density(still(), X, times=[1.0, 0.0], steps=3), ValueError, "ignored"),
        (lambda: maps.log_density(still(), X, method="slq"), ValueError, "write 'lanczos'"),
        (lambda: maps.log_density(still(), X, method="taylor"), ValueError, "unknown method"),
        (lambda: maps.log_density(still(), X, probes=0), ValueError, "probes must be a positive"),
        (lambda: maps.log_density(still(), X, most=0), ValueError, "most must be a positive"),
        (lambda: maps.log_density(still(), X, generator=0), TypeError, "manual_seed"),
        (
            lambda: maps.log_density(tpf.Velocity(lambda t, x: x, still().process), X),
            TypeError,
            "must be a FlowMap",
        ),
        (
            lambda: maps.log_density(maps.oracle_map(still().process, LAW), X, method="lanczos"),
            ValueError,
            "divergence='hutchinson'",
        ),
        (lambda: maps.log_density(still(), X, cond=[1]), TypeError, "cond must be a dict"),
    ],
)
def test_refused_with_the_cure(call, error, message):
    with pytest.raises(error, match=message):
        call()
