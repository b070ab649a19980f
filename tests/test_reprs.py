"""What a notebook shows of nouns and results, and that they can be copied."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

import transportflows as tpf
from families import GAMMAS, INTERPOLANTS, SDES, mixture, name, process

M, D = tpf.metrics, tpf.distributions
N = 1_000


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, *shape, generator=generator, dtype=torch.float64)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


X, Y = rows(3), rows(3, seed=1) + 1
LAW = mixture([[1.0, 0.0], [-1.0, 0.5]], 0.5)
LABELS = torch.arange(N) % 10


def oracle() -> tpf.oracles.GaussianMixtureOracle:
    return tpf.oracle(process(tpf.Linear(tpf.Brownian())), LAW)


LAWS: dict[str, Callable[[], Any]] = {
    "Gaussian": lambda: tpf.Gaussian((N,), mean=torch.randn(N, generator=seeded())),
    "Gaussian diagonal": lambda: tpf.Gaussian((3, 28, 28), scale=torch.rand(3, 28, 28) + 0.1),
    "Gaussian full": lambda: tpf.Gaussian((100,), scale_tril=torch.eye(100)),
    "GaussianMixture": lambda: D.GaussianMixture(X),
    "Uniform": lambda: D.Uniform((N,), low=-1 - rows().float().abs()),
    "Empirical": lambda: D.Empirical(X),
    "Transformed": lambda: D.Transformed(D.Empirical(X), tpf.Standardize(1.0, 2.0)),
    "adapted": lambda: D.as_distribution(torch.distributions.Normal(torch.zeros(N), torch.ones(N))),
    "MinibatchOT": tpf.MinibatchOT,
    "MinibatchOT of an absolute epsilon": lambda: tpf.MinibatchOT("sinkhorn", epsilon=0.5),
    "Independent": tpf.couplings.Independent,
    "Paired": tpf.Paired,
    "Paired, told": lambda: tpf.Paired(condition_on_start=True, is_map=True),
    "GaussianKernel": lambda: M.GaussianKernel.multiscale(1.0),
    "RationalQuadraticKernel": M.RationalQuadraticKernel,
    "PolynomialKernel": M.PolynomialKernel,
}
RESULTS: dict[str, Callable[[], Any]] = {
    "CharacteristicDistance": lambda: M.characteristic_distance(X, Y, generator=seeded()),
    "ClassifierTest": lambda: M.classifier_test(X, Y, generator=seeded()),
    "Consistency": lambda: M.consistency(oracle(), LAW.sample(N), times=[0.3] * 3),
    "CorrectedDistance": lambda: M.corrected_wasserstein2(X, Y, generator=seeded()),
    "Coverage": lambda: M.coverage(X, Y),
    "EndBias": lambda: diffusion_bias().flow,
    "EntropicPlan": lambda: M.entropic_wasserstein2(X, Y, epsilon=0.5),
    "Estimate": lambda: M.wasserstein2_error(X, Y, generator=seeded()),
    "KLIdentity": lambda: M.ode_kl_identity(oracle(), oracle(), n=8, times=2, steps=4),
    "KernelDistance": lambda: M.mmd2(X, Y),
    "LossByTime": lambda: M.loss_by_time(oracle(), tpf.VelocityLoss(), LAW.sample(N)),
    "MaxSlicedDistance": lambda: M.max_sliced_wasserstein2(rows(N), rows(N), generator=seeded()),
    "MetricRow": lambda: M.evaluate(X, Y, ["mean error"]).rows[0],
    "MetricsReport": lambda: M.evaluate(X[:200], Y, generator=seeded()),
    "ModeWeights": lambda: M.mode_weights(X, D.GaussianMixture(X[:100])),
    "MomentError": lambda: M.mean_error(X, Y),
    "MomentSummary": lambda: M.moment_summary(rows(200), rows(200)),
    "NeighbourDistances": lambda: M.nearest_neighbours(X, Y),
    "OracleErrors": lambda: M.oracle_errors(oracle(), oracle(), n=8),
    "PairError": lambda: M.pair_error(X, Y, Y),
    "PathGeometry": lambda: M.path_geometry(oracle(), 8, steps=20),
    "PermutationTest": lambda: M.energy_test(X, Y, permutations=19, generator=seeded()),
    "PriorBias": lambda: diffusion_bias(),
    "ProjectionTest": lambda: M.sliced_kolmogorov_test(X, Y, generator=seeded()),
    "SinkhornDivergence": lambda: M.sinkhorn_divergence(X, Y, epsilon=0.5),
    "SlicedDistance": lambda: M.sliced_wasserstein2(X, Y, generator=seeded()),
    "ExactPlan": lambda: M.optimal_pairs(X, Y),
    "SemidiscretePlan": lambda: tpf.plans.semidiscrete_plan(
        lambda n: torch.randn(n, 2, generator=seeded(), dtype=torch.float64),
        torch.eye(2).double(),
        torch.full((2,), 0.5).double(),
    ),
    "UnbalancedPlan": lambda: tpf.plans.unbalanced_plan(
        torch.eye(2).double(),
        torch.eye(2).double() + 1,
        *[torch.full((2,), 0.5).double()] * 2,
        epsilon=1.0,
        penalty=1.0,
    ),
    "PlanReport": lambda: tpf.couplings.TransportPlan(X, Y, regularisation=1.0).report,
    "TwoSampleTest": lambda: M.energy.TwoSampleTest(1.0, 0.5),
    "Images": lambda: tpf.datasets.Images(torch.zeros(N, 1, 8, 8, dtype=torch.uint8), LABELS),
    "Digits": lambda: tpf.datasets.Digits(rows(1, 8, 8), LABELS),
    "Batch": lambda: tpf.Batch(X, Y, {"label": LABELS}),
    "LogLikelihood": lambda: tpf.log_likelihood(oracle(), X[:, :2], scheme="heun", steps=2),
    "PathSample": lambda: oracle().process.sample(
        X[:, :2], cond={"label": LABELS}, generator=seeded()
    ),
    "SampledLikelihood": lambda: tpf.likelihood.sample_with_log_likelihood(
        oracle(), N, scheme="heun", steps=2, generator=seeded()
    ),
    "Solution": lambda: tpf.sample(oracle(), N, epsilon=0.5, steps=9, generator=seeded()),
    "LangevinSolution": lambda: tpf.langevin.langevin(
        lambda x: -x, X, step_size=0.1, steps=3, save_at=[1, 3], generator=seeded()
    ),
    "VariationalBound": lambda: tpf.likelihood.variational_bound(
        denoiser(), X, torch.linspace(0.9, 0.1, 5), generator=seeded()
    ),
}
PLAIN = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
IMAGES = tpf.Process(
    tpf.Linear(tpf.Brownian()), tpf.Gaussian((3, 8, 8), scale=torch.rand(3, 8, 8) + 0.1),
    tpf.MinibatchOT("sinkhorn"),
)  # fmt: skip


def mlp(**how: int) -> tpf.networks.MLP:
    return tpf.networks.MLP(2, 8, 1, **how)


def log_prob(x: torch.Tensor) -> torch.Tensor:
    return -x.square().sum(1)


def pull(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return -x


class Items(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, k: int) -> torch.Tensor:
        return X[k, :2].float()


def oracle_of_vp() -> tpf.oracles.GaussianMixtureOracle:
    return tpf.oracle(tpf.Process(tpf.VP(), shape=(2,)), LAW)


def seen() -> tpf.inverse.LinearObservation:
    return tpf.inverse.LinearObservation(tpf.inverse.Mask(torch.ones(2)), torch.zeros(2), 0.1)


class Swapped(torch.nn.Linear):
    """A network of another library's order of arguments."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) * t[:, None]


def denoiser() -> tpf.oracles.EmpiricalOracle:
    return tpf.oracle(tpf.Process(tpf.OneSidedLinear(), shape=(3,)), X)


def scale() -> tpf.Standardize:
    return tpf.Standardize(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0]))


NOUNS: dict[str, Callable[[], Any]] = {
    **{f"path {k} {name(path)}": lambda p=path: p for k, path in enumerate(INTERPOLANTS)},
    **{f"gamma {k} {name(gamma)}": lambda g=gamma: g for k, gamma in enumerate(GAMMAS)},
    "chain with a table": lambda: tpf.sdes.DDPMChain(torch.full((1_000,), 0.01)),
    **{f"process {k} {name(sde)}": lambda s=sde: process(s) for k, sde in enumerate(SDES)},
    "process": lambda: PLAIN,
    "process of pairs": lambda: tpf.Process(tpf.Linear(), coupling=tpf.Paired()),
    "process of images": lambda: IMAGES,
    "GaussianPart": lambda: PLAIN.part,
    "NoisePart": lambda: IMAGES.noise_part,
    "NoiseLevel": lambda: tpf.noise_level.NoiseLevel.at(PLAIN.part, torch.rand(N)),
    "Combination": lambda: oracle().weights("noise", torch.rand(N)),
    "Velocity": lambda: tpf.Velocity(mlp(), PLAIN, transform=scale()),
    "Velocity of images": lambda: tpf.Velocity(tpf.networks.MLP((3, 8, 8), 8, 1), IMAGES),
    "FieldPair": lambda: tpf.FieldPair(
        velocity=mlp(), noise=mlp(), process=PLAIN, transform=scale()
    ),
    "two heads": lambda: tpf.FieldPair(heads=mlp(heads=2), process=PLAIN, transform=scale()),
    "EDM": lambda: tpf.EDM(mlp(), PLAIN),
    "adapted network": lambda: tpf.Velocity(tpf.networks.from_xt(Swapped(2, 2)), PLAIN),
    "oracle": oracle,
    "empirical oracle": denoiser,
    "Standardize": scale,
    "Standardize of images": lambda: tpf.Standardize.fit(rows(3, 8, 8)),
    "ConstantEpsilon": lambda: tpf.solve.ConstantEpsilon(0.5),
    "NoiseScaleEpsilon": lambda: tpf.solve.NoiseScaleEpsilon(0.5),
    "NoiseVarianceEpsilon": lambda: tpf.solve.NoiseVarianceEpsilon(0.5),
    "UnlimitedEpsilon": lambda: tpf.solve.UnlimitedEpsilon(0.5),
    "AndersonEpsilon": lambda: tpf.solve.AndersonEpsilon(0.5),
    "ChurnEpsilon": lambda: tpf.solve.ChurnEpsilon(40.0, sigma_range=(0.05, 50.0)),
    "CosineSigma": lambda: tpf.particles.CosineSigma(2.0, 0.5),
    "ConstantStep": lambda: tpf.particles.ConstantStep(None),
    "ExponentialStep": lambda: tpf.particles.ExponentialStep(0.5, ratio=1e-4),
    "Increments": tpf.solve.Increments,
    "BrownianPath": tpf.solve.BrownianPath,
    **{f"scheme {k}": lambda s=scheme: s for k, scheme in tpf.samplers.SCHEMES.items()},
    **{f"scheme {k}": lambda s=scheme: s for k, scheme in tpf.samplers.FEW_STEP.items()},
    "UniformTimes": tpf.times.UniformTimes,
    "StratifiedTimes": lambda: tpf.times.StratifiedTimes(margin=0.1),
    "LogitNormalTimes": tpf.times.LogitNormalTimes,
    "GridTimes": lambda: tpf.times.GridTimes(torch.rand(N)),
    "EDMTimes": tpf.times.EDMTimes,
    "LogSNRTimes": tpf.times.LogSNRTimes,
    "SigmaTimes": lambda: tpf.times.SigmaTimes([0.1, 0.2]),
    "EarlyStop": lambda: tpf.training.EarlyStop(3),
    "Callback": tpf.training.Callback,
    "TensorBoardLog": lambda: tpf.training.TensorBoardLog("runs"),
    "DataRows": lambda: tpf.training.DataRows(X, Y, {"label": LABELS}),
    "Moment": lambda: tpf.solve.Moment(1, 4, 0.25, X, {"label": LABELS}),
    "LogProbScore": lambda: tpf.langevin.score_of(log_prob),
    "FunctionDynamics": lambda: tpf.samplers.FunctionDynamics(pull, 0.5),
    "DataDifference": lambda: tpf.particles.DataDifference(X),
    "DataDifference of fields": lambda: tpf.particles.DataDifference(denoiser(), "sample"),
    "DataDifference of laws": lambda: tpf.particles.DataDifference(LAW, LAW),
    "ScoreDifference": lambda: tpf.particles.ScoreDifference(LAW),
    "LangevinCorrector": lambda: tpf.langevin.LangevinCorrector(snr=0.2),
    "DPS": lambda: tpf.inverse.DPS(oracle_of_vp(), seen(), 0.3),
    "Replacement": lambda: tpf.inverse.Replacement(oracle_of_vp(), seen(), repeats=2),
    "EMA": lambda: tpf.training.EMA([torch.ones(2)], 0.9),
    "bound times": lambda: tpf.times.EDMTimes().bind(PLAIN),
}


def diffusion_bias() -> Any:
    law = D.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), scale=0.5)
    return M.prior_bias(tpf.oracle(tpf.Process(tpf.VP(), shape=(2,)), law), 16, steps=4)


def test_every_result_is_shown() -> None:
    public = {"Batch", "PathSample", "Solution"} | {
        name
        for space in (M, tpf.plans, tpf.likelihood)
        for name in space.__all__
        if isinstance(getattr(space, name), type) and dataclasses.is_dataclass(getattr(space, name))
    }
    assert public <= set(RESULTS)


def content(value: Any) -> Any:
    """All that an object holds, as something that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, torch.nn.Module):
        return {name: tensor.tolist() for name, tensor in value.named_buffers()}
    if isinstance(value, (tuple, list)):
        return [content(one) for one in value]
    if isinstance(value, Mapping):
        return {key: content(one) for key, one in value.items()}
    if isinstance(value, (float, int, str, torch.dtype, type(None))):
        return repr(value)
    return {name: content(part) for name, part in vars(value).items()}


@pytest.mark.parametrize("name", [*LAWS, *RESULTS])
def test_is_short_and_can_be_copied(name: str) -> None:
    value = (LAWS | RESULTS)[name]()
    text = repr(value)
    assert text.count("\n") <= 2, text
    assert len(text) <= 300, text
    assert " object at 0x" not in text
    if name in RESULTS:
        assert text.startswith(f"{name}(")
    for again in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert type(again) is type(value)
        assert content(again) == content(value)
        assert repr(again) == text


@pytest.mark.parametrize("name", NOUNS)
def test_a_noun_is_short_and_can_be_copied(name: str) -> None:
    noun = NOUNS[name]()
    text = repr(noun)
    assert text.count("\n") <= 3, text
    assert len(text) <= 400, text
    assert " object at 0x" not in text
    assert text.startswith(f"{type(noun).__name__}(")
    for again in (copy.deepcopy(noun), pickle.loads(pickle.dumps(noun))):
        assert type(again) is type(noun)
        assert repr(again) == text
        assert drawn(again) == drawn(noun)


def drawn(noun: Any) -> Any:
    """What an object does, as something that can be compared."""
    t, x = torch.tensor([0.25, 0.75], dtype=torch.float64), rows(3)[:2, :2]
    if isinstance(noun, tpf.Field):
        shape = noun.process.shape
        x = rows(*shape)[:2].float()
        return noun.predict(t.float(), x)[0].tolist()
    if isinstance(noun, tpf.Process):
        x = rows(*(noun.shape or (2,)))[:8]
        x0 = x if isinstance(noun.coupling, tpf.Paired) else None
        return noun.sample(x, x0=x0, generator=seeded()).x.tolist()
    if isinstance(noun, (tpf.Interpolant, tpf.interpolants.Gamma)):
        return noun.gamma_sq(t).tolist(), noun.gamma_sq_dot(t).tolist()
    if isinstance(noun, tpf.Standardize):
        return noun(rows(*noun.mean.shape)).tolist()
    if isinstance(noun, tpf.gaussian_part.NoisePart):
        return noun.scale(t).tolist(), noun.signal(t).tolist()
    if isinstance(noun, tpf.times.TimeSampler):
        bound = noun.bind(PLAIN)
        return bound.sample(9, margin=(0.01, 0.01), generator=seeded()).tolist()
    if isinstance(noun, tpf.solve.EpsilonSchedule):
        step = torch.tensor([0.5], dtype=torch.float64)
        return noun.bound(PLAIN.part, t[None], step).value(t, PLAIN.part.scale(t)).tolist()
    if isinstance(noun, tpf.solve.NoiseSource):
        noun.begin(7, x, 0.0)
        return [one.tolist() for one in noun.increment(0, 0.0, 0.3, area=True)]
    if isinstance(noun, (tpf.samplers.Scheme, tpf.samplers.Multistep)):
        field = tpf.oracle(PLAIN, tpf.Gaussian((2,), 1.0, 0.5))
        return tpf.sample(field, scheme=noun, steps=3, start=x, generator=seeded()).x.tolist()
    return content(noun)


def test_what_a_run_is_made_of_is_shown() -> None:
    trainer = tpf.Trainer(tpf.Velocity(mlp(), PLAIN))
    trainer.fit(X[:, :2].float(), steps=2, batch_size=8, generator=seeded(), progress=False)
    assert repr(trainer.source) == "Epochs(1000 rows, batch_size=8)"
    assert repr(trainer.recorder) == "Recorder(2 steps read, 0 waiting)"
    trainer.fit(Items(), steps=1, batch_size=8, generator=seeded(), progress=False)
    assert repr(trainer.source).startswith("MapStyle(")
    assert " at 0x" not in repr(trainer.source)


def test_what_is_written_by_hand_is_shown_by_its_class() -> None:
    """A bound method by its object, an object of no repr by its class: never by an address."""

    class Silent:
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 0]

        def score(self, z: torch.Tensor, sigma: float) -> torch.Tensor:
            return -z

    direction = tpf.particles.ScoreDifference(Silent().score, Silent().score)
    assert repr(direction) == "ScoreDifference(target=<Silent>.score, source=<Silent>.score)"
    score = tpf.langevin.LogProbScore(Silent())
    assert repr(score) == "LogProbScore(log_prob=<Silent>)"
    assert repr(tpf.training.CSVLog("runs/log.csv")) == "CSVLog(path=PosixPath('runs/log.csv'))"


@pytest.mark.parametrize("kind", [tpf.guidance.Geometric, tpf.guidance.Guided])
def test_what_guided_fields_share_is_not_made_itself(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"is not made itself; write Power\(field, w\)"):
        kind(mlp(), PLAIN)


def test_what_a_notebook_shows() -> None:
    assert repr(tpf.Linear(tpf.Brownian())) == "Linear(gamma=Brownian(a=1))"
    assert repr(PLAIN) == (
        "Process(Linear(), base=Gaussian((2,), mean=0, scale=1), coupling=Independent())"
    )
    assert repr(tpf.Process(tpf.VP(), shape=(3, 32, 32))) == (
        "Process(VP(beta_min=0.1, beta_max=20), coupling=Independent(), shape=(3, 32, 32))"
    )
    assert repr(tpf.Velocity(mlp(), PLAIN)) == (
        f"Velocity(net=<MLP, {sum(p.numel() for p in mlp().parameters())} parameters>,\n"
        f"    process={PLAIN!r})"
    )
    assert repr(tpf.solve.AndersonEpsilon(2.0)) == "AndersonEpsilon(factor=2)"
    assert repr(tpf.times.UniformTimes(margin=0.1)) == "UniformTimes(margin=(0.1, 0.1))"


def test_the_event_shape_comes_first() -> None:
    assert repr(tpf.Gaussian((2,))) == "Gaussian((2,), mean=0, scale=1)"
    scale = torch.tensor([1.0, 2.0])
    assert repr(tpf.Gaussian((2,), 1.5, scale)) == "Gaussian((2,), mean=1.5, scale=[1, 2])"
    assert repr(D.Uniform((3,), -1.0)) == "Uniform((3,), low=-1, high=1)"
    assert repr(tpf.MinibatchOT()) == "MinibatchOT(method='exact')"
    sinkhorn = tpf.MinibatchOT("sinkhorn", regularisation=0.1)
    assert repr(sinkhorn) == "MinibatchOT(method='sinkhorn', regularisation=0.1)"


def test_rows_and_chunks_are_counted() -> None:
    chunks = tpf.solve.Chunks(torch.zeros(10, 2), 4, {"label": torch.arange(10)})
    assert repr(chunks) == "Chunks(10 rows of 1 groups in 3 x 4)"
    assert repr(chunks.parts[2][1]) == "Rows(2 from 8 of 4, cond ['label'])"


def test_a_result_shows_its_numbers() -> None:
    assert repr(M.Estimate(1.23456, 0.01, 10)) == (
        "Estimate(value=1.235, standard_error=0.01, terms=10)"
    )
    plan = M.optimal_pairs(torch.zeros(1, 2), torch.ones(1, 2) * 3)
    assert repr(plan) == "ExactPlan(distance=4.243, rows=0, columns=0, mass=1)"
