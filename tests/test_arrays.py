"""Arrays and data frames wherever a tensor is taken as data: the same numbers, and what is refused.

Each entry of the table is a call that takes data, made with tensors and with arrays of the same
numbers: float64, that cannot be written to, with negative strides.
"""

from __future__ import annotations

import inspect
from dataclasses import fields, is_dataclass
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

import transportflows as tpf
from transportflows._core import arrays
from transportflows.datasets import DataLike

M, B, PT = tpf.metrics, tpf.bridges, tpf.particles


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


X, Y = torch.randn(40, 2, generator=gen(1)), torch.randn(40, 2, generator=gen(2)) + 0.5
V = torch.randn(40, generator=gen(3))
LABEL = torch.arange(40) % 3
ONES = torch.full((40,), 1 / 40)
EYE = torch.eye(2)
FLOW = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
PAIRED = tpf.Process(tpf.Linear(tpf.Brownian(1.0)), coupling=tpf.Paired())
MIXTURE = tpf.distributions.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.6)
EXACT = tpf.oracle(FLOW, tpf.Gaussian((2,), 1.0, 0.5))
QUICK = {"steps": 3, "batch_size": 8, "progress": False}


def field(process=FLOW, kind=tpf.Velocity, **more):
    return kind(tpf.networks.MLP(2, 8, 1, generator=gen(), **more), process)


def fitted(made, *data, loss=None, **more):
    """The losses of three steps, and the weights after them."""
    history = tpf.Trainer(made, loss).fit(*data, generator=gen(), **QUICK, **more)
    return [*history.loss, *made.parameters(), *(v for v in [history.validation.loss])]


def drift_pair():
    nets = [tpf.networks.MLP(2, 8, 1, generator=gen(k)) for k in range(2)]
    return B.BridgeDrift(forward=nets[0], backward=nets[1], process=PAIRED)


def iterated(a):
    made = drift_pair()
    done = B.iterate(made, a(X), a(Y), rounds=2, fit=QUICK, steps=3, generator=gen())
    return [*(one.loss for one in done), *made.parameters()]


def generator():
    net = torch.nn.Linear(2, 2)
    torch.nn.init.eye_(net.weight)
    torch.nn.init.zeros_(net.bias)
    return PT.OneStepGenerator(net, 2)


def two(function, seed=None):
    return lambda a: function(a(X), a(Y), **({} if seed is None else {"generator": gen(seed)}))


def weighted(function, **more):
    return lambda a: function(a(X), a(Y), x_weights=a(ONES), y_weights=a(ONES), **more)


def drawn(law, n=5):
    return law.sample(n, generator=gen(), dtype=torch.float32)


TWO = [
    "characteristic_distance", "classifier_test", "corrected_wasserstein2", "energy_test",
    "max_sliced_wasserstein2", "sliced_kolmogorov_test", "sliced_wasserstein2",
]  # fmt: skip
PLAIN = [
    "coverage", "covariance_error", "energy_distance", "frechet_distance", "gaussian_wasserstein2",
    "jensen_shannon_kernel_density", "kernel_distance", "kl_kernel_density",
    "kl_nearest_neighbours", "mean_error", "median_bandwidth", "mmd2", "moment_summary",
    "nearest_distances", "nearest_neighbours",
]  # fmt: skip
ENTRIES = {
    **{name: two(getattr(M, name), seed=0) for name in TWO},
    **{name: two(getattr(M, name)) for name in PLAIN},
    **{name: weighted(getattr(M, name)) for name in ("wasserstein1", "wasserstein2")},
    "optimal_pairs": weighted(M.optimal_pairs),
    "entropic_wasserstein2": weighted(M.entropic_wasserstein2, epsilon=1.0),
    "sinkhorn_divergence": weighted(M.sinkhorn_divergence, epsilon=1.0),
    "wasserstein2_error": lambda a: M.wasserstein2_error(a(X), a(Y), blocks=3, generator=gen()),
    "evaluate": lambda a: M.evaluate(a(X), a(Y), ["W2", "coverage"], generator=gen()),
    "kl_log_densities": lambda a: M.kl_log_densities(a(V), a(V + 0.1)),
    "fisher_divergence": lambda a: M.fisher_divergence(a(X), lambda x: -x, lambda x: 1 - x),
    "extract_features": lambda a: M.extract_features(a(X), lambda x: x.sin()),
    "bures_wasserstein2": lambda a: M.bures_wasserstein2(a(X[0]), a(EYE), a(Y[0]), a(2 * EYE)),
    "holm": lambda a: M.holm(a(V.sigmoid())),
    "mode_weights": lambda a: M.mode_weights(a(X), MIXTURE),
    "kernel_stein_discrepancy": lambda a: M.kernel_stein_discrepancy(a(X), lambda x: -x),
    "pair_error": lambda a: M.pair_error(a(X), a(Y), a(X + Y)),
    "loss_by_time": lambda a: M.loss_by_time(
        field(), tpf.VelocityLoss(), a(X), times=2, generator=gen()
    ),
    "consistency": lambda a: M.consistency(EXACT, a(X), times=2, generator=gen()),
    "Trainer.fit": lambda a: [
        *fitted(field(), a(X), validation=a(Y), validation_every=1),
        *fitted(field(PAIRED), (a(X), a(Y))),
        *fitted(
            field(labels=3, vectors={"v": 1}), a(X), cond={"label": a(LABEL), "v": a(V[:, None])}
        ),
        *fitted(field(labels=3), tpf.Batch(a(X), cond={"label": a(LABEL)})),
    ],
    "Batch.of": lambda a: [
        tpf.Batch.of(a(X)),
        tpf.Batch.of((a(X), a(Y))),
        tpf.VelocityLoss()(field(), a(X), generator=gen()),
    ],
    "DataRows.of": lambda a: tpf.training.DataRows.of(a(X), field()),
    "Process.sample": lambda a: FLOW.sample(
        a(X), x0=a(Y), t=0.5, cond={"label": a(LABEL)}, generator=gen()
    ),
    "sample": lambda a: tpf.sample(
        field(labels=3), start=a(X), cond={"label": a(LABEL)}, steps=3
    ).x,
    "integrate": lambda a: tpf.integrate(lambda t, x: -x, a(X), [0.0, 0.5, 1.0]).x,
    "plan": lambda a: tpf.samplers.plan(
        field(), 0.1, start=a(X.repeat(3, 1)), data=a(Y.repeat(8, 1)),
        distance=M.energy_distance, generator=gen(),
    ).error,
    "annealed_langevin": lambda a: tpf.langevin.annealed_langevin(
        EXACT, levels=2, steps_per_level=2, step_size=0.1, start=a(X), generator=gen()
    ).x,
    "langevin": lambda a: tpf.langevin.langevin(
        lambda x: -x, a(X), step_size=0.1, steps=2, generator=gen()
    ).x,
    "ascend": lambda a: tpf.langevin.ascend(lambda x: -x, a(X), step_size=0.1, steps=2).x,
    "hamiltonian": lambda a: PT.hamiltonian(
        tpf.Gaussian((2,)), a(X), step_size=0.1, steps=2, generator=gen()
    ).x,
    "particle_flow": lambda a: tpf.particle_flow(
        a(X), a(Y), sigma=1.0, steps=3, generator=gen()
    ).x,
    "flow_with_log_density": lambda a: PT.flow_with_log_density(
        a(X), a(Y), log_prob=a(V), sigma=1.0, steps=2, generator=gen()
    ),
    "MovedTargetLoss": lambda a: fitted(
        generator(), X, loss=PT.MovedTargetLoss(sigma=1.0, step=0.1, target=a(Y), references=8)
    ),
    "SampleData": lambda a: PT.SampleData(a(X))(Y, 1.0),
    "log_likelihood": lambda a: tpf.log_likelihood(
        field(vectors={"v": 1}), a(X), cond={"v": a(V[:, None])}, scheme="rk4", steps=3
    ),
    "variational_bound": lambda a: tpf.likelihood.variational_bound(
        EXACT, a(X), [0.1, 0.5, 0.9], generator=gen()
    ).nats,
    "dequantise": lambda a: tpf.likelihood.dequantise(a(X.round()), 1.0, generator=gen()),
    "bits_per_dimension": lambda a: tpf.likelihood.bits_per_dimension(a(V), 2, level_width=0.1),
    "FieldDistribution.log_prob": lambda a: EXACT.distribution(
        density={"steps": 3, "scheme": "rk4"}
    ).log_prob(a(X)),
    "oracle": lambda a: tpf.oracle(FLOW, a(X)).data(torch.tensor(0.5), Y),
    "EmpiricalOracle": lambda a: tpf.oracles.EmpiricalOracle(FLOW, a(X), weights=a(ONES)).data(
        torch.tensor(0.5), Y
    ),
    "oracle_map": lambda a: tpf.maps.oracle_map(FLOW, a(X), rtol=1e-4, atol=1e-4).jump(
        0.0, 0.5, Y
    ),
    "log_density": lambda a: tpf.maps.log_density(
        tpf.maps.SolvedMap(EXACT, rtol=1e-4, atol=1e-4), a(X[:5])
    ).log_prob,
    "check_map": lambda a: tpf.maps.check_map(
        tpf.maps.SolvedMap(EXACT, rtol=1e-4, atol=1e-4), a(X), generator=gen()
    ).scale,
    "map_errors": lambda a: tpf.maps.map_errors(
        *[tpf.maps.SolvedMap(EXACT, rtol=r, atol=r) for r in (1e-3, 1e-5)], a(X), times=2,
        generator=gen(),
    ),
    "choose_times": lambda a: tpf.maps.choose_times(
        tpf.maps.SolvedMap(EXACT, rtol=1e-4, atol=1e-4), 1, field=EXACT, candidates=2, start=a(X)
    ),
    "distill": None,  # below
    "Empirical": lambda a: drawn(tpf.distributions.Empirical(a(X), weights=a(ONES))),
    "Gaussian": lambda a: [
        drawn(tpf.Gaussian((2,), a(X[0]), a(X[1].exp()))),
        drawn(tpf.Gaussian((2,), scale_tril=a(EYE))),
    ],
    "Gaussian.fit": lambda a: drawn(tpf.Gaussian.fit(a(X), covariance="full")),
    "GaussianMixture": lambda a: drawn(
        tpf.distributions.GaussianMixture(a(X), a(V.exp()), weights=a(ONES))
    ),
    "Uniform": lambda a: drawn(tpf.distributions.Uniform((2,), a(X[0]), a(X[0] + 1))),
    "Point": lambda a: drawn(tpf.distributions.Point((2,), a(X[0]))),
    "Standardize": lambda a: tpf.Standardize(a(X[0]), a(X[1].exp()))(Y),
    "Standardize.fit": lambda a: tpf.Standardize.fit(a(X))(Y),
    "TransportPlan": lambda a: tpf.couplings.TransportPlan(
        a(X), a(Y), cond={"label": a(LABEL)}, x0_weights=a(ONES), regularisation=1.0
    ).pair(X, Y, {"label": LABEL}, generator=gen()),
    "condition_weight": lambda a: tpf.couplings.condition_weight(
        a(X), a(V[:, None]), tpf.Gaussian((2,)), batch_size=10, batches=2, generator=gen()
    ),
    "iterate": iterated,
    "LightPotential": lambda a: B.LightPotential(
        (2,), 1.0, 3, data=a(X), generator=gen()
    ).centres,
    "Trajectories": lambda a: B.Trajectories([a(X), a(Y), a(X + 1)], weights=[a(ONES)] * 3).sample(
        5, generator=gen()
    ),
    "leave_one_out": lambda a: B.leave_one_out(
        [a(X), a(Y), a(X + 1)], [0.0, 0.5, 1.0],
        lambda process, law: tpf.Velocity(lambda t, x: 0 * x + 1, process),
        n=5, steps=2, generator=gen(),
    )[0].found,
    "GaussianPairs": lambda a: B.GaussianPairs(
        a(torch.ones(1)), a(X[:1]), a(Y[:1]), a(torch.eye(4)[None])
    ).sample(5, generator=gen()),
    "LinearObservation": lambda a: tpf.inverse.LinearObservation(
        tpf.inverse.Mask(torch.tensor([1, 0])), a(X), 0.1
    ).residual(Y),
    "Mask": lambda a: tpf.inverse.Mask(a(EYE[0])).apply(X),
    "Matrix": lambda a: tpf.inverse.Matrix(a(EYE + 1)).apply(X),
    "Blur": lambda a: tpf.inverse.Blur(a(torch.tensor([0.5, 1.0])), (2,)).apply(X),
    "sample_posterior": lambda a: tpf.inverse.sample_posterior(
        EXACT, tpf.inverse.LinearObservation(tpf.inverse.Mask(torch.tensor([1, 0])), X[0], 0.1),
        5, law=a(Y), steps=2, generator=gen(),
    ).x,
    "ForwardSDE.sample_path": lambda a: tpf.VP().sample_path(a(X), [0.1, 0.5], generator=gen()),
    "to_floats": lambda a: tpf.datasets.to_floats(a((X * 20).to(torch.uint8))),
}  # fmt: skip
"""A call of each name that takes data, of what makes tensors into what it is given."""
WITHOUT_ROWS = {
    # of integers alone, or several forms, none of which is refused for what an array holds
    "to_floats",
    "distill",
}


def distilled(a):
    net = tpf.networks.MLP(4, 8, 1, generator=gen())
    made = tpf.maps.distill(
        EXACT, data=a(X), fit={**QUICK}, generator=gen(),
    )  # fmt: skip
    return [*made.map.parameters(), net.weight] if hasattr(made, "map") else made


def as_array(x):
    """An array that torch does not take: it cannot be written to, and its strides are negative."""
    floats = x.double() if x.is_floating_point() else x
    made = np.ascontiguousarray(floats.numpy()[::-1])[::-1]
    made.flags.writeable = False
    return made


def numbers(found):
    """All numbers of a result, as one list of float64 tensors."""
    if isinstance(found, (Tensor, np.ndarray, float, int)):
        return [torch.as_tensor(found).detach().double().flatten()]
    if isinstance(found, (list, tuple)):
        return [one for part in found for one in numbers(part)]
    if is_dataclass(found):
        return numbers([getattr(found, one.name) for one in fields(found)])
    return numbers(list(found.values())) if isinstance(found, dict) else []


def same(one, other, atol=0.0):
    first, second = numbers(one), numbers(other)
    assert first, "nothing to compare"
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=atol, equal_nan=True)


@pytest.mark.filterwarnings("error:.*NumPy.*")
@pytest.mark.parametrize("name", [name for name, call in ENTRIES.items() if call])
def test_an_array_gives_the_numbers_of_the_tensor(name):
    same(ENTRIES[name](lambda x: x), ENTRIES[name](as_array), atol=1e-7)


@pytest.mark.parametrize(
    "name", [n for n, call in ENTRIES.items() if call and n not in WITHOUT_ROWS]
)
def test_an_array_of_no_numbers_is_refused(name):
    with pytest.raises(TypeError, match=r"an array of object; if all of them are numbers"):
        ENTRIES[name](lambda x: x.numpy().astype(object))
    with pytest.raises(ValueError, match="masked entries, which are no numbers"):
        ENTRIES[name](lambda x: np.ma.masked_less(x.numpy(), float(x.max())))


def taking_data():
    """The names of what has data among its public parameters."""
    spaces = [
        tpf,
        *(v for v in (getattr(tpf, n) for n in tpf.__all__) if isinstance(v, ModuleType)),
    ]
    found = set()
    for space in spaces:
        for value in (getattr(space, name) for name in space.__all__):
            members = [value]
            if isinstance(value, type):
                members = [inspect.getattr_static(value, name) for name in dir(value)]
            for member in (getattr(one, "__func__", one) for one in members):
                if inspect.isfunction(member) and member.__module__.startswith("transportflows"):
                    notes = map(str, inspect.unwrap(member).__annotations__.values())
                    if any("DataLike" in note for note in notes):
                        found.add(member.__qualname__.removesuffix(".__init__"))
    return found


def test_the_table_has_all_that_takes_data():
    assert taking_data() == ENTRIES.keys()


# ------------------------------------------------------------------------------- what is an array


class Lazy:
    """What is no array, and gives one."""

    def __array__(self, dtype=None, copy=None):
        return X.numpy()


@pytest.mark.parametrize(
    "value",
    [
        X.numpy(),
        X.double().numpy(),
        X.double().numpy().astype(">f8"),
        X.numpy().astype(np.longdouble),
        np.asfortranarray(X.numpy()),
        np.ma.masked_array(X.numpy(), mask=False),
        Lazy(),
    ],
    ids=["float32", "float64", "big-endian", "long", "fortran", "unmasked", "lazy"],
)
def test_what_numpy_takes_for_an_array_is_one(value):
    made = arrays.as_rows("x", value)
    assert made.dtype == torch.float32
    assert made.is_contiguous()
    assert torch.equal(made, X)
    assert torch.equal(arrays.as_rows("x", value, torch.float64), X.double())


def test_numbers_that_a_dtype_does_not_hold_are_refused():
    with pytest.raises(ValueError, match=r"up to 1e\+300, more than torch.float32 does"):
        tpf.distributions.Empirical(np.full((2, 2), 1e300))
    assert tpf.Standardize.fit(np.full((2, 2), 1e100)).mean[0] == 1e100


def test_an_array_is_copied():
    array = X.clone().numpy()
    law = tpf.distributions.Empirical(array)
    array += 1
    assert torch.equal(law.data, X)


def test_half_precision_is_exact():
    assert torch.equal(arrays.as_rows("x", X.half().numpy()), X.half().float())


def test_data_have_the_dtype_of_what_they_are_for():
    array = X.double().numpy()
    assert tpf.distributions.Empirical(array).data.dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert tpf.distributions.Empirical(array).data.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    double = field().double()
    assert tpf.sample(double, start=array, steps=2).x.dtype == torch.float64
    assert tpf.training.DataRows.of(array, double).x1.dtype == torch.float64
    assert tpf.sample(field().bfloat16(), start=array, steps=2).x.dtype == torch.float32
    assert tpf.particle_flow(array, Y.double(), sigma=1.0, steps=2).x.dtype == torch.float64
    assert tpf.Standardize.fit(array).mean.equal(tpf.Standardize.fit(X.double()).mean)
    far = np.array([[1e9], [1e9 + 1e-3]])  # digits that float32 does not hold
    assert M.wasserstein2(far, far[::-1] + 1e-3) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([[1.0, 2.0]], TypeError, r"x must be a tensor or an array.*; write torch.as_tensor\(x\)"),
        (LABEL[:, None].numpy(), TypeError, r"got an array of int64; write x.astype\(float\)"),
        ((X > 0).numpy(), TypeError, r"got an array of bool; write x.astype\(float\)"),
        (X.numpy() + 1j, TypeError, r"numpy.stack\(\[x.real, x.imag\], -1\)"),
        (np.array([["a"], ["b"]]), TypeError, r"numpy.unique\(x, return_inverse=True\)\[1\]"),
        (np.array([["2020-01-01"]], "datetime64[D]"), TypeError, "timedelta64"),
        (np.array([[{}]]), TypeError, r"an array of object.*write x.astype\(float\)"),
        (np.zeros(3, [("a", "f4")]), TypeError, "structured_to_unstructured"),
        (X[:, 0].numpy(), ValueError, r"x.reshape\(-1, 1\) for scalar data"),
        (np.float64(2.0), ValueError, "at least 2 dimensions"),
        (np.where(X > 2, np.nan, X), ValueError, r"in \d of 40 rows.*numpy.isfinite\(x\)"),
        (np.empty((0, 2)), ValueError, "empty"),
        (np.ma.masked_greater(X.numpy(), 1.0), ValueError, r"masked entries.*x.mask.reshape"),
    ],
)
def test_what_is_refused(value, error, message):
    with pytest.raises(error, match=message):
        M.mode_weights(value, MIXTURE)


@pytest.mark.parametrize("cure", ["rows of NaN", "masked rows", "texts", "complex"])
def test_the_cure_that_is_named_works(cure):
    import numpy

    if cure == "rows of NaN":
        x = np.where(X > 1, np.nan, X)
        x = eval("x[numpy.isfinite(x).reshape(len(x), -1).all(axis=1)]")
    elif cure == "masked rows":
        x = np.ma.masked_greater(X.numpy(), 1.0)
        x = eval("x[~x.mask.reshape(len(x), -1).any(axis=1)]")
    elif cure == "complex":
        x = X.numpy() + 1j
        x = eval("numpy.stack([x.real, x.imag], -1)")
    else:
        x = np.array(["a", "b", "a"])
        label = eval("numpy.unique(x, return_inverse=True)[1]")
        x = np.repeat(tpf.sample(field(labels=2), 3, cond={"label": label}, steps=2).x, 9, 0)
    assert numpy is np
    assert len(tpf.distributions.Empirical(x).data) > 10


def test_a_condition_may_be_an_array():
    made, texts = field(labels=3), np.array(["a", "b"] * 20)
    fitted(made, X, cond={"label": LABEL.numpy().astype(np.uint16)})
    found = tpf.sample(made, 40, cond={"label": LABEL.numpy()}, steps=2, generator=gen())
    assert torch.equal(
        found.x, tpf.sample(made, 40, cond={"label": LABEL}, steps=2, generator=gen()).x
    )
    one = tpf.sample(made, 4, cond={"label": np.int64(1)}, steps=2, generator=gen())
    assert torch.equal(one.x, tpf.sample(made, 4, cond={"label": 1}, steps=2, generator=gen()).x)
    with pytest.raises(TypeError, match=r"numpy.unique\(cond\['label'\], return_inverse=True\)"):
        tpf.sample(made, 40, cond={"label": texts}, steps=2)
    with pytest.raises(ValueError, match="39 rows for 40"):
        tpf.sample(made, 40, cond={"label": LABEL[1:].numpy()}, steps=2)
    with pytest.raises(TypeError, match="the condition 'label' is a list"):
        tpf.sample(made, 40, cond={"label": LABEL.tolist()}, steps=2)


# --------------------------------------------------------------------------------- data frames


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.double().numpy(), columns=["a", "b"])
    other = pandas.DataFrame(Y.double().numpy(), columns=["a", "b"])
    assert M.wasserstein2(frame, other) == M.wasserstein2(X, Y)
    same(fitted(field(), frame), fitted(field(), X))
    same(tpf.Standardize.fit(frame).mean, tpf.Standardize.fit(X).mean)
    how = {"scheme": "rk4", "steps": 2}
    same(tpf.log_likelihood(field(), frame, **how), tpf.log_likelihood(field(), X, **how))
    same(tpf.particle_flow(frame, other, sigma=1.0, steps=2, generator=gen()).x,
         tpf.particle_flow(X, Y, sigma=1.0, steps=2, generator=gen()).x)  # fmt: skip
    label = pandas.Series(LABEL.numpy())
    same(fitted(field(labels=3), frame, cond={"label": label}),
         fitted(field(labels=3), X, cond={"label": LABEL}))  # fmt: skip
    whole = frame.assign(a=np.arange(40))  # an integer and a float column are numbers
    assert arrays.as_rows("x", whole)[3, 0] == 3
    nullable = frame.convert_dtypes()
    assert torch.equal(arrays.as_rows("x", nullable), X)


def test_columns_that_are_no_numbers_are_named():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.double().numpy(), columns=["a", "b"])
    mixed = frame.assign(name="x", kind=pandas.Categorical(["u", "v"] * 20), flag=True)
    for call in (lambda x: tpf.Standardize.fit(x), lambda x: fitted(field(), x)):
        with pytest.raises(TypeError, match=r"columns of .* not numbers: 'name', 'kind', 'flag'"):
            call(mixed)
        with pytest.raises(ValueError, match=r"in 1 of 40 rows \(the first is row 3\).*dropna\(\)"):
            call(frame.where(np.repeat(np.arange(40)[:, None] != 3, 2, 1)))
    gap = frame.convert_dtypes()
    gap.loc[3, "a"] = pandas.NA
    with pytest.raises(ValueError, match=r"\.dropna\(\)"):
        tpf.Standardize.fit(gap)


def test_the_alias_is_for_type_checkers():
    assert isinstance(X, DataLike.__args__[0])
    assert arrays.is_array(X.numpy())
    assert not arrays.is_array(X)
    assert not arrays.is_array([1.0])
    assert not arrays.is_array(np.ndarray)
