# ruff: noqa: E501  (one call a line)
"""Valid calls of all that is public, one a line: what is called, and the arguments it is given.

Expressions, made anew for each call; the names in capitals are below. `OBJECTS` are those whose
public methods are called as well, with arguments by the names of their parameters, `BY_NAME`, or as
a line of `METHODS` says.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn

import transportflows as tpf


def G() -> torch.Generator:  # noqa: N802
    """A generator."""
    return torch.Generator().manual_seed(0)


def X(n: int = 12, *shape: int) -> Tensor:  # noqa: N802
    """Rows."""
    return torch.randn(n, *(shape or (2,)), generator=torch.Generator().manual_seed(1))


def Y(n: int = 12) -> Tensor:  # noqa: N802
    """Other rows."""
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(2)) + 0.5


def T(n: int = 4) -> Tensor:  # noqa: N802
    """Times of rows."""
    return torch.linspace(0.2, 0.8, n)


def P(path: Any = None, **how: Any) -> tpf.Process:  # noqa: N802
    """A process of the plane."""
    if path is None or path.uses_base:
        return tpf.Process(path or tpf.Linear(), base=tpf.Gaussian((2,)), **how)
    return tpf.Process(path, shape=(2,), **how)


def NET(**how: Any) -> nn.Module:  # noqa: N802
    """A small network."""
    return tpf.networks.MLP(2, 8, 1, generator=G(), **how)


def V() -> tpf.Velocity:  # noqa: N802
    """A field that flows."""
    return tpf.Velocity(NET(), P())


def FM(**how: Any) -> tpf.maps.FlowMap:  # noqa: N802
    """A flow map of the plane."""
    net = tpf.maps.TwoTimes(NET(vectors={"stop": 5}))
    return tpf.maps.FlowMap(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))), **how)


def OM() -> tpf.maps.SolvedMap:  # noqa: N802
    """An exact map of the plane."""
    return tpf.maps.oracle_map(P(), LAW())


def MS() -> tpf.maps.MapSample:  # noqa: N802
    """What a loss of maps draws."""
    return tpf.maps.SemigroupLoss().draw(FM(), X(4), generator=G())


def SEEN() -> tpf.inverse.LinearObservation:  # noqa: N802
    """An observation of the plane."""
    mask = tpf.inverse.Mask(torch.tensor([1, 0]))
    return tpf.inverse.LinearObservation(mask, torch.zeros(2), 0.1)


def N() -> tpf.NoisePredictor:  # noqa: N802
    """A noise predictor of a diffusion."""
    return tpf.NoisePredictor(NET(), P(tpf.VP()))


def LAW() -> Any:  # noqa: N802
    """A mixture."""
    return tpf.distributions.GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), scale=0.5)


def O(path: Any = None) -> Any:  # noqa: E743, N802
    """An exact field."""
    return tpf.oracle(P(path or tpf.Linear(tpf.Brownian())), LAW())


def S() -> tpf.Solution:  # noqa: N802
    """A solution."""
    return tpf.sample(O(), 3, steps=2, generator=G())


def TMP() -> str:  # noqa: N802
    """An empty folder."""
    return tempfile.mkdtemp(prefix="calls-")


def PICTURES() -> str:  # noqa: N802
    """A folder of two pictures."""
    from PIL import Image

    path = TMP()
    for k in range(2):
        Image.new("L", (4, 4), 60 * k).save(f"{path}/{k}.png")
    return path


def SAVED() -> str:  # noqa: N802
    """A field's file."""
    path = f"{TMP()}/field.safetensors"
    V().save(path)
    return path


def RUN() -> Any:  # noqa: N802
    """A trainer."""
    return tpf.Trainer(V(), tpf.VelocityLoss())


def CKPT() -> str:  # noqa: N802
    """A checkpoint's file."""
    path = f"{TMP()}/run.ckpt"
    trainer = RUN()
    trainer.fit(X(), steps=1, batch_size=4, progress=False)
    trainer.save(path)
    return path


def BIAS() -> Any:  # noqa: N802
    """A part of a result."""
    error = tpf.metrics.Estimate(1.0, 0.1, 4)
    return tpf.metrics.EndBias(T(), error, error)


def PATHS(n: int = 4, part: Any = None) -> Any:  # noqa: N802
    """Draws of a process."""
    return (part or P()).sample(X(n), generator=G())


def BP(**how: Any) -> tpf.Process:  # noqa: N802
    """A process of a bridge."""
    how = {"coupling": tpf.Paired(), **how}
    return tpf.Process(tpf.Linear(tpf.Brownian(1.0)), base=tpf.Gaussian((2,)), **how)


def BD() -> Any:  # noqa: N802
    """Both drifts of a bridge."""
    return tpf.bridges.BridgeDrift(forward=NET(), backward=NET(), process=BP())


def GP() -> Any:  # noqa: N802
    """Exact pairs of a bridge."""
    return tpf.bridges.gaussian_bridge(
        tpf.Gaussian((2,)), tpf.Gaussian((2,), 1.0, 0.5), variance=1.0
    )


def LIGHT() -> Any:  # noqa: N802
    """A potential of few components."""
    return tpf.bridges.LightPotential((2,), 1.0, 3, generator=G())


def MM(**how: Any) -> Any:  # noqa: N802
    """A process through three snapshots."""
    return tpf.bridges.Multimarginal([0.0, 1.0, 3.0], **how)


def TRAJ() -> Any:  # noqa: N802
    """Trajectories through three snapshots."""
    return tpf.bridges.Trajectories([X(4), Y(5), X(6)])


def LP() -> tpf.Velocity:  # noqa: N802
    """A field of a learned path."""
    path = tpf.bridges.LearnedPath(2, 4, 1, generator=G())
    return tpf.Velocity(NET(), tpf.Process(path, base=tpf.Gaussian((2,))))


def GEO() -> Any:  # noqa: N802
    """How straight a field is."""
    return tpf.metrics.path_geometry(V(), 4, steps=20, generator=G())


class DRIFT(tpf.solve.Stepper):
    """A stepper of its own: x halves."""

    name = "halves"

    def prepare(self, times: Tensor, like: Tensor) -> tpf.solve.Prepared:
        """Nothing to prepare."""
        return tpf.solve.Prepared()

    def step(
        self, prepared: Any, step: int, x: Tensor, memory: Any, rows: Any, draws: Any
    ) -> tuple[Tensor, Any]:
        """One step."""
        return x * 0.5, memory


def score(x: Tensor) -> Tensor:
    """Of the standard normal."""
    return -x


def log_prob(x: Tensor) -> Tensor:
    """Of the standard normal."""
    return -0.5 * x.flatten(1).square().sum(1)


def features(x: Tensor) -> Tensor:
    """Features for a distance."""
    return torch.cat([x, x.square()], 1)


CALLS = """
EDM | net=NET(), process=P()
SBDM |
VE |
VP |
Batch | x1=X(), x0=Y()
Brownian |
Combination | x=1.0, mean=0.0, outputs=(T(),)
DataLoss |
DataPredictor | net=NET(), process=P()
EncoderDecoder |
Field | net=NET(), process=P()
FieldPair | velocity=NET(), noise=NET(), process=P(tpf.Linear(tpf.Brownian()))
FieldPair | heads=NET(heads=2), process=P(tpf.Linear(tpf.Brownian()))
Gaussian | shape=(2,)
GaussianPart | path=tpf.Linear(), owner="a process"
Linear |
MeanVelocity | net=NET(), process=P()
MeanVelocityLoss |
MinibatchOT |
Mirror |
NoiseLoss |
NoisePredictor | net=NET(), process=P()
OneSidedLinear |
OneSidedTrigonometric |
Paired |
PathSample | noise_part=P().part, t=T(), x=X(4), x0=X(4), x1=X(4), z=None
Process | interpolant=tpf.Linear(), base=tpf.Gaussian((2,))
Process | interpolant=tpf.OneSidedLinear(), shape=(2,)
Score | net=NET(), process=P(tpf.VP())
ScoreLoss |
Solution | x=X(), t=T(3), nfe=2, scheme="euler"
Standardize | mean=0.5, scale=2.0
Standardize.fit | X()
SubVP |
Trainer | field=V(), loss=tpf.VelocityLoss()
Trigonometric |
Velocity | net=NET(), process=P()
VelocityLoss |
integrate | dynamics=lambda t, x: -x, x=X(), grid=[0.0, 0.5, 1.0], generator=G()
load_field | path=SAVED()
log_likelihood | field=V(), x=X(4), scheme="heun", steps=2, generator=G()
oracle | process=P(), data=LAW()
oracle | process=P(tpf.OneSidedLinear()), data=X()
particle_flow | source=X(), target=Y(), steps=2, sigma=0.5, generator=G()
sample | field=V(), n=3, steps=2, generator=G()
sample | field=O(), n=3, steps=2, epsilon=0.5, generator=G()
sample | field=N(), n=3, steps=2, scheme="dpm2m", generator=G()
couplings.Independent |
datasets.Digits | images=X(3, 1, 8, 8), labels=torch.arange(3)
datasets.checkerboard | n=5, generator=G()
datasets.digits |
datasets.eight_gaussians | n=5, generator=G()
datasets.swiss_roll | n=5, generator=G()
datasets.two_moons | n=5, generator=G()
distributions.Empirical | data=X()
distributions.GaussianMixture | means=X(3)
inverse.Blur | kernel=torch.ones(2), shape=(2,)
inverse.DPS | field=N(), observation=SEEN()
inverse.Downsample | factor=2, shape=(2,), dims=1
inverse.LikelihoodGuidance | field=N(), observation=SEEN()
inverse.LinearObservation | operator=tpf.inverse.Mask(torch.tensor([1, 0])), y=torch.zeros(2), noise=0.1
inverse.Mask | mask=torch.tensor([1, 0])
inverse.Matrix | matrix=torch.eye(2)
inverse.MomentMatched | field=N(), observation=SEEN()
inverse.Observation | log_likelihood=lambda x: -x.square().sum(1)
inverse.Operator | forward=lambda x: x, adjoint=lambda y: y
inverse.PseudoInverse | field=N(), observation=SEEN()
inverse.Replacement | field=N(), observation=SEEN()
maps.ChosenTimes | times=(0.0, 0.4, 1.0), error=0.1, uniform=0.2
maps.ConsistencyLoss | levels=10
maps.Distilled | flow_map=FM(), errors={"floor": 0.1}, distances={}, steps=4, loss=0.1
maps.DoublingLevels | 100, first=2, last=16
maps.DyadicPairs | 3
maps.EulerianLoss | normalise=0.1
maps.FlowMap | tpf.maps.TwoTimes(NET(vectors={"stop": 5})), P()
maps.GridPairs | [0.0, 0.4, 1.0]
maps.Jumps |
maps.LagrangianLoss | diagonal=0.5
maps.MeanFlowLoss | diagonal=0.5
maps.Renoise |
maps.SemigroupLoss | split="half"
maps.ShortcutLoss | 3
maps.SolvedMap | V()
maps.ToData |
maps.TwoTimes | NET(vectors={"stop": 5})
maps.UniformPairs | at_start=0.1, at_end=0.1
maps.check_map | FM(), data=X(), n=8
maps.choose_times | FM(), 2, candidates=4, n=8
maps.distill | V(), X(), steps=1, fit={"progress": False, "batch_size": 4}, measured=4
maps.log_density | FM(), X(4)
maps.map_errors | FM(), OM(), X(8), times=[0.0, 1.0]
maps.oracle_map | P(), LAW()
bridges.BackwardDriftLoss |
bridges.ForwardDriftLoss |
bridges.BridgeDrift | forward=NET(), backward=NET(), process=BP()
bridges.ExactBridge | GP()
bridges.GaussianPairs | weights=torch.ones(1), means0=torch.zeros(1, 2), means1=torch.ones(1, 2), covariances=torch.eye(4)[None]
bridges.LearnedPath | 2, width=4, depth=1
bridges.LeftOut | index=1, time=1.0, truth=X(), found=Y(), transported=Y()
bridges.LightLoss |
bridges.LightPotential | (2,), 1.0, components=3
bridges.Multimarginal | [0.0, 1.0, 3.0]
bridges.PathDivergence | value=0.1, standard_error=0.01, by_time=T(20)
bridges.PathOptimizer | LP()
bridges.PiecewiseGamma | gamma=tpf.interpolants.SineSquared(0.5), times=[0.0, 1.0, 3.0]
bridges.Reflow | fields=(V(),), geometry=(GEO(),)
bridges.Round | pairs="given", cost=1.0, loss=0.5
bridges.SnapshotPath | [0.0, 1.0, 3.0]
bridges.Trajectories | [X(4), Y(5), X(6)]
bridges.flow_pairs | V(), 4, steps=2
bridges.gaussian_bridge | tpf.Gaussian((2,)), tpf.Gaussian((2,), 1.0, 0.5), variance=1.0
bridges.iterate | field=BD(), x0=X(), x1=Y(), rounds=2, steps=2, fit={"steps": 1, "batch_size": 4, "progress": False}
bridges.leave_one_out | [X(4), Y(5), X(6)], [0.0, 1.0, 3.0], lambda process, law: tpf.Velocity(NET(), process), n=4, steps=2
bridges.path_divergence | BD(), GP(), 40
bridges.path_trainer | LP()
bridges.potential_bridge | LAW(), LAW(), 1.0
bridges.reflow | V(), 8, fit={"steps": 1, "progress": False}, steps=2, measured=4
couplings.Paired |
couplings.MinibatchOT |
couplings.ConditionWeight | weight=1.0, weights=(1.0,), bias=(0.0,), length=(1.0,)
couplings.PlanReport | kind="exact", regularisation=0.0, value=1.0, gap=0.0, violation=0.0, violation_error=0.0, x0_mass=T(), x1_mass=T()
couplings.TransportPlan | x0=Y(), x1=X(), regularisation=0.5
couplings.condition_weight | x1=X(), c=X(), base=tpf.Gaussian((2,)), batch_size=4, batches=2
guidance.AutoGuidance | good=(f := V()), bad=tpf.Velocity(NET(), f.process), scale=1.5
guidance.Classifier | field=V(), log_prob=lambda t, x: -x.square().sum(1)
guidance.ClassifierFree | field=(f := V()), scale=2.0, unconditional=tpf.Velocity(NET(), f.process)
guidance.Power | field=V(), power=2.0
guidance.Product | fields=[f := V(), tpf.Velocity(NET(), f.process)]
guidance.ProjectedClassifierFree | field=(f := V()), scale=2.0, unconditional=tpf.Velocity(NET(), f.process)
guidance.RescaledClassifierFree | field=(f := V()), scale=2.0, unconditional=tpf.Velocity(NET(), f.process)
guidance.Tilt | field=V(), reward=lambda x: x.sum(1)
guidance.sample_weighted | field=tpf.guidance.Power(V(), 2.0), n=4, steps=2, generator=G()
datasets.Images | pixels=torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
datasets.ImageLoader | dataset=tpf.datasets.Images(torch.zeros(3, 1, 4, 4, dtype=torch.uint8)), batch_size=2
datasets.mnist | split="train"
datasets.image_folder | path=PICTURES()
datasets.to_bytes | x=X(2, 1, 4, 4).tanh()
datasets.to_floats | pixels=torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
networks.UNet | shape=(1, 4, 4), width=8, multipliers=(1, 2), blocks=1, head_channels=8, generator=G()
networks.DiT | shape=(1, 4, 4), patch=2, width=8, depth=1, attention_heads=2, generator=G()
networks.SequenceDiT | features=2, width=8, depth=1, attention_heads=2, generator=G()
networks.from_sit | net=lambda x, t, y=None: -x, process=P()
networks.from_torchcfm | net=lambda t, x: -x, process=P()
networks.from_edm | net=lambda x, sigma: x / (1 + sigma.view(-1, 1) ** 2), process=P(tpf.VE())
plots.strip | x=X(3, 2, 1, 4, 4)
metrics.pair_error | x0=X(), x1=Y(), samples=Y()
plans.exact_potentials | cost=torch.cdist(X(), Y()), rows=torch.arange(12)
plans.log_plan | cost=torch.cdist(X(), Y()), epsilon=0.5
likelihood.FieldDistribution | field=V()
likelihood.dequantise | x=X().mul(10).round().div(10), level_width=0.1, generator=G()
networks.Nullable | net=NET(labels=3), label=3
samplers.sample_each | field=V(), conds=[{}, {}], n=3, steps=2, generator=G()
distributions.Uniform | shape=(2,)
distributions.as_distribution | law=torch.distributions.Normal(torch.zeros(2), torch.ones(2))
fields.EDMCoefficients | skip=T(), out=T(), scale=T(), noise=T()
fields.register | cls=type(NET())
gaussian_part.NoisePart | path=tpf.Linear(tpf.Brownian()), owner="a process"
interpolants.Quadratic |
interpolants.Sigmoid |
interpolants.SineSquared |
langevin.AscentSolution | x=X(), t=T(3), nfe=2, scheme="ascent"
langevin.LangevinCorrector |
langevin.LangevinSolution | x=X(), t=T(3), nfe=2, scheme="langevin"
langevin.LogProbScore | log_prob=log_prob
langevin.annealed_langevin | field=N(), n=3, levels=2, steps_per_level=2, generator=G()
langevin.ascend | score=score, x=X(), step_size=0.1, steps=2
langevin.geometric_levels | process=P(tpf.VE()), count=3
langevin.langevin | score=score, x=X(), step_size=0.1, steps=2, generator=G()
langevin.langevin | score=tpf.langevin.score_of(log_prob), x=X(), step_size=0.1, steps=2, metropolis=True, generator=G()
langevin.langevin_step | x=X(), score=X(), step_size=0.1, noise=Y()
langevin.score_at | field=N(), t=0.5
langevin.score_of | log_prob=log_prob
likelihood.LikelihoodLoss |
likelihood.LogLikelihood | log_prob=T(), standard_error=T(), latent=X(4), nfe=3, probes=0
likelihood.SampledLikelihood | x=X(4), log_prob=T(), standard_error=T(), nfe=3, probes=0
likelihood.VariationalBound | reconstruction=T(), denoising=T(), prior=T(), shape=torch.Size([2]), levels=T(3)
likelihood.bits_per_dimension | log_prob=T(), shape=(2,), level_width=0.1
likelihood.sample_with_log_likelihood | field=V(), n=3, scheme="heun", steps=2, generator=G()
likelihood.variational_bound | field=N(), x=X(4), levels=[0.9, 0.5, 0.1], generator=G()
losses.DenoisingAutoencoderLoss | sigma=0.5
losses.Directed | path=PATHS(), directions=None
losses.EDMWeight |
losses.FunctionLoss | function=lambda field, batch, generator=None: batch.x1.flatten(1).sum(1)
losses.ImplicitScoreLoss |
losses.LikelihoodWeight |
losses.MinSNRWeight |
losses.SlicedScoreLoss |
losses.SumLoss | tpf.VelocityLoss(), tpf.NoiseLoss()
losses.Undrawn | batch=tpf.Batch(X())
losses.UnitWeight | of="data"
losses.VariationalLoss | levels=[0.9, 0.5, 0.1]
losses.VariationalWeight | levels=[0.9, 0.5, 0.1]
losses.default_loss | V()
losses.squared_error | field=V(), oracle=O(tpf.Linear()), sample=PATHS()
metrics.CharacteristicDistance | value=1.0, standard_error=0.1, floor=0.0
metrics.ClassifierTest | accuracy=0.5, p_value=0.5, held_out=4
metrics.Consistency | t=T(), difference=T(), stein=T(), stein_error=T()
metrics.CorrectedDistance | squared=1.0, value=1.0, raw=1.0, floor=0.0
metrics.Coverage | precision=0.5, recall=0.5, density=0.5, coverage=0.5, expected_coverage=0.5, neighbours=5
metrics.EndBias | mean=T(), variance=tpf.metrics.Estimate(1.0, 0.1, 4), square_distance=tpf.metrics.Estimate(1.0, 0.1, 4)
metrics.Estimate | value=1.0, standard_error=0.1, terms=4
metrics.GaussianKernel | bandwidth=1.0
metrics.GaussianKernel.multiscale | 1.0
metrics.KLIdentity | kl=tpf.metrics.Estimate(1.0, 0.1, 4), integral=tpf.metrics.Estimate(1.0, 0.1, 4)
metrics.KernelDistance | value=1.0, standard_error=0.1, unbiased=True
metrics.LossByTime | t=T(), loss=T(), standard_error=T()
metrics.MaxSlicedDistance | value=1.0, direction=T(), steps=3
metrics.MetricRow | name="a", value=1.0, interval=None, floor=0.0, points=3, what="b"
metrics.MetricsReport | rows=(), level=0.9
metrics.ModeWeights | counts=T(), weights=T(), standard_error=T(), expected=T(), found=2, far=0.0
metrics.MomentError | value=1.0, floor=0.1
metrics.MomentSummary | mean=T(), std=T(), skewness=T(), kurtosis=T(), mean_z=T(), std_ratio=T()
metrics.NeighbourDistances | to_data=T(), within_data=T(), nearest=T(), ratio=1.0, copied=0.0
metrics.OracleErrors | t=T(), weights=T(), velocity=T(), score=T(), cross=T(), velocity_error=T(), score_error=T(), margin=0.1
metrics.PathGeometry | energy=1.0, displacement=1.0, straightness=0.0, normalised=0.0, standard_error=0.1
metrics.PermutationTest | statistic=1.0, p_value=0.5, permutations=9, null_mean=0.0, null_std=1.0
metrics.PolynomialKernel |
metrics.PriorBias | kl=tpf.metrics.Estimate(1.0, 0.1, 4), flow=BIAS(), reverse_sde=BIAS()
metrics.ProjectionTest | statistic=1.0, p_value=0.5, directions=X(), statistics=T(), p_values=T()
metrics.RationalQuadraticKernel |
metrics.SinkhornDivergence | value=1.0, epsilon=0.1, between=1.0, within_x=0.0, within_y=0.0, violation=0.0, converged=True
metrics.SlicedDistance | value=1.0, standard_error=0.1, projections=3
metrics.TwoSampleTest | statistic=1.0, p_value=0.5
metrics.bures_wasserstein2 | mean1=torch.zeros(2), covariance1=torch.eye(2), mean2=torch.ones(2), covariance2=torch.eye(2)
metrics.characteristic_distance | x=X(), y=Y(), frequencies=8, generator=G()
metrics.classifier_test | x=X(), y=Y(), classifier=lambda a, b, c: c.sum(1), generator=G()
metrics.consistency | field=N(), data=X(), times=2, generator=G()
metrics.corrected_wasserstein2 | x=X(), y=Y(), generator=G()
metrics.covariance_error | x=X(), reference=Y()
metrics.coverage | samples=X(), data=Y()
metrics.energy_distance | x=X(), y=Y()
metrics.energy_test | x=X(), y=Y(), permutations=9, generator=G()
metrics.entropic_wasserstein2 | x=X(), y=Y(), epsilon=0.5
metrics.error_by_nfe | field=V(), distance=lambda x: float(x.mean()), n=3, schemes=("euler",), steps=(2,), generator=G()
metrics.evaluate | samples=X(20), reference=Y(20), metrics=["mean error"], generator=G()
metrics.extract_features | x=X(), extractor=features
metrics.fisher_divergence | x=X(), score_p=score, score_q=lambda x: -2 * x
metrics.frechet_distance | x=X(), y=Y()
metrics.gaussian_wasserstein2 | x=X(), y=Y()
metrics.holm | p_values=[0.1, 0.2]
metrics.jensen_shannon_kernel_density | x=X(), y=Y()
metrics.kernel_distance | x=X(), y=Y()
metrics.kernel_stein_discrepancy | x=X(), score=score
metrics.kl_kernel_density | x=X(), y=Y()
metrics.kl_log_densities | log_p=-T(), log_q=-2 * T()
metrics.kl_nearest_neighbours | x=X(), y=Y()
metrics.loss_by_time | field=V(), loss=tpf.VelocityLoss(), data=X(), times=2, generator=G()
metrics.max_sliced_wasserstein2 | x=X(), y=Y(), starts=2, steps=2, generator=G()
metrics.mean_error | x=X(), reference=Y()
metrics.median_bandwidth | x=X(), y=Y()
metrics.mmd2 | x=X(), y=Y()
metrics.mode_weights | x=X(), mixture=LAW()
metrics.moment_summary | x=X(), reference=Y()
metrics.nearest_distances | x=X(), y=Y()
metrics.nearest_neighbours | samples=X(), data=Y()
metrics.ode_kl_identity | field=O(), oracle=O(), n=4, times=2, steps=2, generator=G()
metrics.optimal_pairs | x=X(), y=Y()
metrics.oracle_errors | field=O(), oracle=O(), n=4, times=2, generator=G()
metrics.path_geometry | field=V(), n=4, steps=4, generator=G()
metrics.prior_bias | oracle=O(tpf.VP()), n=4, steps=2, generator=G()
metrics.sinkhorn_divergence | x=X(), y=Y(), epsilon=0.5
metrics.sliced_kolmogorov_test | x=X(), y=Y(), projections=4, generator=G()
metrics.sliced_wasserstein2 | x=X(), y=Y(), projections=4, generator=G()
metrics.wasserstein1 | x=X(), y=Y()
metrics.wasserstein2 | x=X(), y=Y()
metrics.wasserstein2_error | x=X(), y=Y(), blocks=3, generator=G()
networks.MLP | shape=2, width=8, depth=1, generator=G()
networks.from_xt | net=lambda x, t: -x
noise_level.NoiseLevel | part=P().part, t=T()
noise_level.NoiseLevel.at | P().part, T()
oracles.EmpiricalOracle | process=P(), data=X()
oracles.GaussianMixtureOracle | process=P(), data=LAW()
particles.AdversarialLoss | discriminator=nn.Linear(2, 1)
particles.ConstantSigma | sigma=0.5
particles.ConstantStep |
particles.CosineSigma | sigma_max=1.0, sigma_min=0.1
particles.CosineStep |
particles.DataDifference | data=tpf.particles.SampleData(X())
particles.DiffusionStep |
particles.DiscriminatorDifference | logit=lambda x: x.sum(1)
particles.DiscriminatorState | loss=tpf.particles.AdversarialLoss(nn.Linear(2, 1))
particles.ExponentialSigma | sigma_max=1.0, sigma_min=0.1
particles.ExponentialStep |
particles.FieldData | field=tpf.DataPredictor(NET(), P(tpf.VE()))
particles.FlowClock | loss=tpf.particles.MovedTargetLoss(sigma=0.5), steps=3
particles.FlowDensity | solution=S(), log_prob=T(3)
particles.HamiltonianSolution | x=X(), t=T(3), nfe=2, scheme="hmc"
particles.KernelDifference |
particles.LossGradient | loss=lambda x: x.square().sum(1)
particles.MMDGradient |
particles.ModifiedCosineSigma | sigma_max=1.0, sigma_min=0.1
particles.MovedTargetLoss | sigma=0.5
particles.OneStepGenerator | net=nn.Linear(2, 2), latent=2
particles.SampleData | rows=X()
particles.ScoreDifference | target=score
particles.SmoothedLaw | law=LAW()
particles.SteinDirection | score=score
particles.Swarm | clean=X(), source=X(), target=Y(), sigma=0.5
particles.flow_with_log_density | source=tpf.Gaussian((2,)), target=Y(), steps=2, sigma=0.5, n=4, generator=G()
particles.hamiltonian | score=tpf.langevin.score_of(log_prob), x=X(), step_size=0.1, steps=2, leapfrog=2, generator=G()
particles.kernel_mean | z=X(), x=Y(), sigma=0.5
plans.EntropicPlan | value=1.0, epsilon=0.1, upper=1.0, violation=0.0, converged=True, steps=3, x_potential=T(), y_potential=T()
plans.ExactPlan | distance=1.0, rows=torch.arange(2), columns=torch.arange(2), mass=torch.ones(2) / 2
plans.SemidiscretePlan | value=1.0, value_error=0.1, epsilon=0.5, violation=0.0, violation_error=0.0, converged=True, draws=9, y_potential=T()
plans.UnbalancedPlan | value=1.0, upper=1.0, epsilon=0.5, penalty=1.0, violation=0.0, converged=True, steps=3, x_potential=T(), y_potential=T(), x_mass=T(), y_mass=T()
plans.best_permutation | scores=X(3, 3)
plans.entropic_plan | x=X(3), y=Y(3), p=torch.ones(3) / 3, q=torch.ones(3) / 3, epsilon=0.5
plans.entropic_self_plan | x=X(3), p=torch.ones(3) / 3, epsilon=0.5
plans.cells | x=X(3), y=Y(3), g=torch.zeros(3), q=torch.ones(3) / 3
plans.semidiscrete_plan | draw=lambda n: torch.rand(n, 2, generator=G(), dtype=torch.float64), y=Y(3).double(), q=torch.ones(3).double() / 3, tolerance=0.3
plans.unbalanced_plan | x=X(3).double(), y=Y(3).double(), p=torch.ones(3).double() / 3, q=torch.ones(3).double() / 3, epsilon=0.5, penalty=1.0
plans.exact_plan | distances=X(3, 3).double().abs(), p=torch.ones(3).double() / 3, q=torch.ones(3).double() / 3
estimators.TransportDensity | max_iter=2, width=4
estimators.TransportSampler | max_iter=2, width=4
plots.SamplePictures | folder=TMP()
plots.picture | x=X()
plots.samples | x=X(), reference=Y()
plots.images | x=X(3, 1, 4, 4)
plots.trajectories | x=X(3, 5, 2)
plots.animate | x=X(3, 5, 2)
plots.vector_field | field=V(), size=3
plots.density | of=V(), size=3, steps=2
plots.heat_map | values=X(3, 3).abs()
plots.history | of=tpf.Trainer(V()).fit(X(64), steps=3, progress=False, generator=G())
plots.quality_by_calls | of={"heun": {10: 0.1, 20: 0.05}}, floor=0.01
plots.epsilon_sweep | of={0.0: 0.1, 0.5: 0.05}, star=0.4
plots.interpolant | of=P(), size=5
plots.coupling | x0=X(), x1=Y()
plots.pairs | x=X(), reference=Y()
plots.calibration | ranks=torch.arange(12), draws=20
samplers.plan | field=V(), tolerance=0.5, n=100, generator=G()
samplers.Trial | scheme="heun", steps=3, spacing="uniform", calls=6, error=0.1
samplers.SolvePlan | scheme="heun", steps=3, spacing="uniform", times=None, epsilon=tpf.solve.ConstantEpsilon(0.0), tolerance=0.1, error=0.1, reference=0.01, trials=(), distances={}
samplers.FixedSolve | field=V(), steps=2
samplers.DDIM |
samplers.Ancestral |
samplers.ExponentialIntegrator |
samplers.FieldDynamics | field=V(), epsilons=[0.0]
samplers.FunctionDynamics | function=lambda t, x: -x
samplers.Scheme | name="a", step=tpf.samplers.SCHEMES["euler"].step, nodes=(0.0,), quadrature=(1.0,), order=1, weak_order=None, strong_order=None, nfe=1
samplers.Table | forms=["data"], state=[T()], weights=[T()]
sdes.DDPMChain |
sdes.InterpolantSDE | path=P(tpf.Linear())
sdes.OrnsteinUhlenbeck |
sdes.VEChain |
solve.AndersonEpsilon |
solve.BrownianPath |
solve.Chunks | x=X()
solve.ChurnEpsilon | churn=1.0
solve.ConstantEpsilon | epsilon=0.5
solve.Increments |
solve.Moment | step=1, steps=2, t=0.5, x=X()
solve.NoiseScaleEpsilon | epsilon=0.5
solve.NoiseVarianceEpsilon | epsilon=0.5
solve.UnlimitedEpsilon | epsilon=0.5
solve.NonFiniteStateError | message="a", solution=S()
solve.Prepared |
solve.Rows | index=torch.arange(4), n=4, groups=1, ndim=2, cond={}
solve.TooManyEvaluationsError | message="a", solution=S()
solve.march | stepper=DRIFT(), x=X(), times=tpf.solve.time_grid(2), generator=G()
solve.noise_grid | process=P(tpf.VP()), steps=3
solve.time_grid | steps=3
testing.OrderEstimate | order=2.0, steps=(2, 4), errors=(0.1, 0.02)
testing.Report | subject="a"
testing.check_field | field=V(), x=X()
testing.check_interpolant | interpolant=tpf.Linear()
testing.estimate_order | scheme="euler", steps=(2, 4), n=8
testing.mixture_oracle |
testing.quadrature_moments | dynamics=tpf.samplers.FieldDynamics(tpf.testing.mixture_oracle(), [0.0]), scheme="euler", grid=tpf.solve.time_grid(2), density=torch.ones(5).double(), moments=lambda x: x, x=torch.linspace(-1, 1, 5).double()
times.EDMTimes |
times.GridTimes | times=[0.2, 0.5]
times.LogSNRTimes |
times.LogitNormalTimes |
times.SigmaTimes | sigmas=[0.1, 0.2]
times.StratifiedTimes |
times.UniformTimes |
training.EMA | parameters=[torch.zeros(2)], decay=0.9
training.CSVLog | path=TMP() + "/log.csv"
training.Checkpoints | folder=TMP()
training.ConstantRate |
training.CosineRate |
training.Curve | step=T().numpy(), loss=T().numpy()
training.DataRows | x1=X()
training.EarlyStop |
training.Epochs | rows=tpf.training.DataRows(X()), batch_size=4
training.NonFiniteLossError | message="a", step=1, history=RUN().history
training.Pace | step=T().numpy(), seconds=T().numpy(), steps=T().numpy(), rows=T().numpy()
training.Run | field=V(), loss=tpf.VelocityLoss(), optimizer=torch.optim.SGD(NET().parameters(), 0.1)
training.Series | step=T().numpy(), value=T().numpy()
training.StepRate |
training.TensorBoardLog | folder=TMP()
training.TimeProfile | step=T().numpy(), edges=T().numpy(), loss=T().numpy(), rows=T().numpy()
training.World |
training.local_device |
training.read_checkpoint | path=CKPT()
"""

OBJECTS = """
tpf.Linear(tpf.Brownian())
tpf.Mirror(tpf.Brownian())
tpf.Trigonometric(tpf.interpolants.SineSquared(0.5), scaled=True)
tpf.OneSidedLinear()
tpf.EncoderDecoder()
tpf.SBDM()
tpf.VE()
tpf.VP()
tpf.sdes.DDPMChain()
tpf.sdes.VEChain()
tpf.sdes.InterpolantSDE(P(tpf.Linear()))
tpf.Brownian()
tpf.interpolants.Sigmoid()
tpf.Gaussian((2,))
tpf.Gaussian((2,), scale_tril=torch.eye(2))
LAW()
tpf.distributions.Uniform((2,))
tpf.distributions.Empirical(X())
tpf.distributions.as_distribution(torch.distributions.Normal(torch.zeros(2), torch.ones(2)))
P()
P(tpf.VP())
P().part
P(tpf.Linear(tpf.Brownian())).noise_part
PATHS()
tpf.Batch(X(), Y())
tpf.couplings.Independent()
tpf.MinibatchOT()
tpf.couplings.TransportPlan(Y(), X(), regularisation=0.5)
tpf.couplings.TransportPlan(tpf.Gaussian((2,)), X(), tolerance=0.5)
BD()
FM()
OM()
MS()
tpf.maps.TwoTimes(NET(vectors={"stop": 5}))
tpf.maps.SemigroupLoss()
tpf.maps.LagrangianLoss()
tpf.maps.MeanFlowLoss()
tpf.maps.UniformPairs()
tpf.maps.ToData()
tpf.maps.DyadicPairs(3)
tpf.maps.GridPairs([0.0, 0.4, 1.0])
tpf.maps.DoublingLevels(100)
tpf.bridges.ExactBridge(GP())
GP()
LIGHT()
tpf.bridges.BridgeDrift(forward=LIGHT(), process=BP())
tpf.bridges.LightLoss()
tpf.bridges.ForwardDriftLoss()
tpf.bridges.BackwardDriftLoss()
tpf.bridges.LearnedPath(2, 4, 1, generator=G())
tpf.bridges.PathOptimizer(LP())
MM()
tpf.bridges.PiecewiseGamma(tpf.interpolants.SineSquared(0.5), [0.0, 1.0, 3.0])
tpf.bridges.SnapshotPath([0.0, 1.0, 3.0])
TRAJ()
tpf.Paired()
V()
N()
tpf.Score(NET(), P(tpf.VP()))
tpf.DataPredictor(NET(), P())
tpf.EDM(NET(), P())
tpf.FieldPair(velocity=NET(), noise=NET(), process=P(tpf.Linear(tpf.Brownian())))
O()
O(tpf.VP())
tpf.oracle(P(tpf.OneSidedLinear()), X())
tpf.Standardize(0.5, 2.0)
tpf.VelocityLoss()
tpf.NoiseLoss()
tpf.losses.SumLoss(tpf.VelocityLoss(), tpf.NoiseLoss())
tpf.losses.ImplicitScoreLoss(at=0.5)
tpf.losses.SlicedScoreLoss()
tpf.losses.DenoisingAutoencoderLoss(0.5)
tpf.losses.VariationalLoss([0.9, 0.5, 0.1])
tpf.losses.EDMWeight()
tpf.losses.UnitWeight("data")
tpf.losses.MinSNRWeight()
tpf.likelihood.LikelihoodLoss(scheme="heun", steps=2)
tpf.likelihood.VariationalBound(T(), T(), T(), torch.Size([2]), T(3))
S()
RUN()
tpf.solve.ConstantEpsilon(0.5)
tpf.solve.NoiseScaleEpsilon(0.5)
tpf.solve.AndersonEpsilon()
tpf.solve.ChurnEpsilon(1.0)
tpf.solve.Increments()
tpf.solve.BrownianPath()
tpf.solve.Chunks(X())
tpf.langevin.LangevinCorrector()
tpf.guidance.ClassifierFree(f := V(), 2.0, unconditional=tpf.Velocity(NET(), f.process))
tpf.guidance.Power(V(), 2.0)
tpf.inverse.PseudoInverse(N(), SEEN())
SEEN()
tpf.inverse.Mask(torch.tensor([1, 0]))
tpf.inverse.Matrix(torch.eye(2))
tpf.datasets.Images(torch.zeros(3, 1, 4, 4, dtype=torch.uint8))
tpf.guidance.sample_weighted(tpf.guidance.Power(V(), 2.0), 4, steps=2, generator=G())
tpf.langevin.score_of(log_prob)
tpf.metrics.GaussianKernel(1.0)
tpf.metrics.PolynomialKernel()
tpf.metrics.RationalQuadraticKernel()
tpf.metrics.evaluate(X(20), Y(20), ["mean error"], generator=G())
tpf.metrics.optimal_pairs(X(), Y())
tpf.metrics.loss_by_time(V(), tpf.VelocityLoss(), X(), times=2, generator=G())
tpf.times.UniformTimes()
tpf.times.LogitNormalTimes()
tpf.times.GridTimes([0.2, 0.5])
tpf.times.EDMTimes().bind(P(tpf.VP()))
tpf.times.LogSNRTimes()
tpf.times.SigmaTimes([0.1, 0.2]).bind(P(tpf.VE()))
tpf.networks.MLP(2, 8, 1, labels=3)
tpf.networks.from_xt(lambda x, t: -x)
tpf.noise_level.NoiseLevel.at(P(tpf.VP()).part, T())
tpf.particles.ConstantSigma(0.5)
tpf.particles.CosineSigma(1.0, 0.1)
tpf.particles.ConstantStep()
tpf.particles.CosineStep()
tpf.particles.KernelDifference()
tpf.particles.MMDGradient()
tpf.particles.SteinDirection(score)
tpf.particles.DataDifference(tpf.particles.SampleData(Y()))
tpf.particles.SampleData(Y())
tpf.particles.SmoothedLaw(LAW())
tpf.particles.OneStepGenerator(nn.Linear(2, 2), 2)
tpf.particles.MovedTargetLoss(sigma=0.5)
tpf.samplers.DDIM()
tpf.samplers.Ancestral()
tpf.samplers.ExponentialIntegrator()
tpf.samplers.FieldDynamics(V(), [0.0])
tpf.samplers.FunctionDynamics(lambda t, x: -x)
tpf.training.CosineRate()
tpf.training.StepRate()
tpf.training.ConstantRate()
tpf.training.EMA([torch.zeros(2)], 0.9)
tpf.training.Checkpoints(TMP())
tpf.training.CSVLog(TMP() + "/log.csv")
tpf.training.EarlyStop()
tpf.training.DataRows(X())
tpf.training.Epochs(tpf.training.DataRows(X()), 4)
tpf.training.World()
tpf.testing.Report("a")
"""

METHODS = """
tpf.guidance.Power(V(), 2.0).quantity | target="velocity", t=T(), x=X(4)
tpf.guidance.Power(V(), 2.0).weights | target="velocity", t=T()
V().quantity | target="velocity", t=T(), x=X(4)
V().weights | target="velocity", t=T()
tpf.particles.KernelDifference().check | X(4), Y(4), T()
tpf.particles.MMDGradient().check | X(4), Y(4), T()
tpf.training.EarlyStop().restore | {}
RUN().fit | X(), steps=1, batch_size=4, progress=False
RUN().save | path=TMP() + "/a.ckpt"
RUN().load | path=CKPT()
V().save | path=TMP() + "/a.safetensors"
tpf.likelihood.LikelihoodLoss(scheme="heun", steps=2).evaluate | V(), tpf.losses.Undrawn(tpf.Batch(X(4)))
tpf.networks.MLP(2, 8, 1, labels=3) | t=T(), x=X(4), label=torch.arange(4) % 3
NET() | t=T(), x=X(4)
tpf.couplings.Independent().for_path | tpf.Linear()
tpf.couplings.TransportPlan(Y(), X()).for_path | tpf.Linear()
tpf.couplings.TransportPlan(Y(4), X(4), regularisation=0.5).pair | x0=X(4), x1=X(4)
tpf.couplings.TransportPlan(Y(4), X(4), regularisation=0.5).row_weights | x1=X(4)
tpf.couplings.TransportPlan(Y(4), X(4), regularisation=0.5).partners | rows=torch.arange(4)
tpf.couplings.TransportPlan(Y(4), X(4), regularisation=0.5).row_places | x1=X(4)
tpf.couplings.TransportPlan(Y(4), X(4), regularisation=0.5).pair_held_out | x1=Y(3)
tpf.maps.SemigroupLoss().evaluate | FM(), MS()
tpf.maps.LagrangianLoss().evaluate | FM(), MS()
tpf.maps.MeanFlowLoss().evaluate | FM(), MS()
tpf.maps.SemigroupLoss().draw | FM(), X(4)
tpf.maps.LagrangianLoss().draw | FM(), X(4)
tpf.maps.MeanFlowLoss().draw | FM(), X(4)
tpf.maps.SemigroupLoss().compared | FM(), MS()
tpf.maps.LagrangianLoss().compared | FM(), MS()
tpf.maps.MeanFlowLoss().compared | FM(), MS()
tpf.maps.SemigroupLoss().tangent_target | MS()
tpf.maps.SemigroupLoss().distance | error=X(4), sample=MS()
tpf.maps.LagrangianLoss().distance | error=X(4), sample=MS()
tpf.maps.MeanFlowLoss().distance | error=X(4), sample=MS()
tpf.maps.TwoTimes(NET(vectors={"stop": 5})).forward | s=T(), t=T(), x=X(4)
tpf.maps.DoublingLevels(100).levels | 5
BD().weights | target="velocity", t=T()
BD().drift_weights | T(), torch.full((4, 1), 0.5), torch.ones(4, 1)
tpf.bridges.LightLoss().evaluate | tpf.bridges.BridgeDrift(forward=LIGHT(), process=BP()), tpf.Batch(X(4), Y(4))
tpf.bridges.LightLoss().draw | tpf.bridges.BridgeDrift(forward=LIGHT(), process=BP()), tpf.Batch(X(4), Y(4))
tpf.bridges.ForwardDriftLoss().evaluate | BD(), BP().sample(X(4), x0=Y(4), generator=G())
tpf.bridges.ForwardDriftLoss().draw | BD(), tpf.Batch(X(4), Y(4))
tpf.bridges.SnapshotPath([0.0, 1.0, 3.0]).mean | t=T(), x0=None, x1=X(4, 3, 2)
tpf.bridges.SnapshotPath([0.0, 1.0, 3.0]).mean_dot | t=T(), x0=None, x1=X(4, 3, 2)
tpf.bridges.SnapshotPath([0.0, 1.0, 3.0]).weights | T()
tpf.bridges.SnapshotPath([0.0, 1.0, 3.0]).end_errors | x0=X(4, 3, 2), x1=X(4, 3, 2)
MM().sample | x1=X(4, 3, 2)
MM().at | 1.0
tpf.bridges.PathOptimizer(LP()).step |
tpf.particles.ConstantStep().table | torch.tensor([0.5, 0.2])
tpf.particles.MovedTargetLoss(sigma=0.5).levels | 0.5
tpf.particles.MovedTargetLoss(sigma=0.5).moved | tpf.particles.OneStepGenerator(nn.Linear(2, 2), 2), X(), Y()
tpf.training.Checkpoints(TMP()).write | 3, {}, {"a": T()}
"""

BY_NAME: dict[str, str] = {
    "batch_size": "2",
    "observation": "SEEN()", "transform": "tpf.Standardize()", "like_cond": "{}",
    "t": "T()", "tau": "T()", "x": "X(4)", "x0": "X(4)", "x1": "X(4)", "z": "X(4)", "n": "4",
    "generator": "G()", "key": "1", "cond": "{}", "y": "Y(4)", "u": "T()", "shape": "(4,)",
    "field": "V()", "process": "P()", "part": "P(tpf.VP()).part", "path": "PATHS()",
    "whose": "object()", "folder": "TMP()", "made_of": "object()", "batch": "tpf.Batch(X(4))", "step": "1", "steps": "4", "sample": "PATHS()", "start": "0",
    "stop": "2", "index": "torch.arange(2)", "device": "torch.device('cpu')", "sigma": "0.5",
    "h": "0.1", "dt": "0.1", "like": "X(4)", "data": "X(4)", "device_or_dtype": "torch.float64",
    "state": "X(4)", "level": "tpf.noise_level.NoiseLevel.at(P(tpf.VP()).part, T())",
    "directions": "None", "quantity": "'velocity'", "out": "X(4)", "size": "4", "rows": "X(4)",
    "grid": "torch.linspace(0, 1, 3).double()", "k": "0", "value": "T()", "times": "T()",
    "d": "X(4)", "swarm": "tpf.particles.Swarm(X(), X(), Y(), 0.5)", "draws": "PATHS()",
    "noise_part": "P(tpf.VP()).part", "taus": "[0.2, 0.5]", "wanted": "'noise'",
    "xi": "X(4)", "log_ratio": "T()", "function": "torch.abs", "target": "X(4)", "prediction": "X(4)",
    "stages": "torch.linspace(0, 1, 3)[:, None].double()", "noise_scale": "T()",
    "widths": "torch.ones(3, 1).double() / 3", "t0": "0.1", "t1": "0.2", "area": "False",
    "bandwidth": "1.0", "dtype": "torch.float32", "low": "-3.0", "high": "3.0", "source": "X(4)",
    "schedules": "[tpf.solve.ConstantEpsilon(0.0)]", "last": "9", "given": "TMP()",
    "trainer": "RUN()", "new": "RUN().history", "loss": "0.5", "error": "None",
    "tensors": "[T()]", "what": "'a'", "told": "{}", "gradients": "[T()]", "team": "tpf.training.World()",
    "noise": "tpf.solve.Increments()", "name": "'a'", "law": "tpf.Gaussian((2,))", "level_width": "0.1", "first": "1",
    "conditions": "{}", "scheme": "tpf.samplers.SCHEMES['heun']", "make": "dict",
    "base": "tpf.Gaussian((2,))", "places": "torch.arange(4)", "epsilon": "torch.full((4, 1), 0.5)",
    "sign": "torch.ones(4, 1)", "s": "0.3 * T()", "ds": "T()", "dx": "X(4)", "dcond": "{}",
    "margin": "(0.0, 0.0)", "weight": "None", "fresh": "True",
    "parameters": "[T()]",
}  # fmt: skip
"""Arguments of methods by the names of their parameters."""
