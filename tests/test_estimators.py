"""Estimators: the checks of scikit-learn, rows by themselves, and what its users do with them."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import transportflows as tpf

sklearn = pytest.importorskip("sklearn")
Density, Sampler = tpf.estimators.TransportDensity, tpf.estimators.TransportSampler
SMALL = {"max_iter": 5, "width": 4, "depth": 1, "solver_steps": 2, "random_state": 0}
CHOL = np.array([[1.0, 0.9, 0.0], [0.0, 0.3, 0.2], [0.0, 0.0, 2.0]])


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3)) @ CHOL + [5.0, -1.0, 100.0]


@pytest.fixture(scope="module")
def density():
    return Density(max_iter=150, width=16, solver_steps=8, random_state=0).fit(rows(400))


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 6), reason="tags are of 1.6"
)
@pytest.mark.parametrize("kind", [Density, Sampler])
def test_scikit_learns_own_checks(kind):
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its small integer tables; that it has no base class
        check_estimator(kind(**SMALL))


def test_a_row_has_its_density_whatever_else_is_asked(density):
    x = rows(60, 1)
    together = density.score_samples(x)
    alone = np.concatenate([density.score_samples(x[k : k + 1]) for k in (0, 17, 59)])
    np.testing.assert_allclose(alone, together[[0, 17, 59]], rtol=0, atol=1e-10)
    np.testing.assert_allclose(density.score_samples(x[::-1]), together[::-1], rtol=0, atol=1e-10)


def test_the_density_of_a_gaussian_in_its_own_units(density):
    """The training begins at it, and 150 steps of a small network do not lead far away."""
    x = rows(200, 1)
    z = (x - [5.0, -1.0, 100.0]) @ np.linalg.inv(CHOL)
    exact = -0.5 * (z**2).sum(1) - 1.5 * np.log(2 * np.pi) - np.log(0.6)
    found = density.score_samples(x)
    assert abs((found - exact).mean()) < 0.1
    assert density.score(x) == found.mean()
    drawn = density.sample(2_000, random_state=1)
    spread = rows(400).std(0)
    assert (np.abs(drawn.mean(0) - rows(400).mean(0)) < 0.2 * spread).all()
    np.testing.assert_allclose(drawn.std(0) / spread, 1.0, atol=0.15)
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.corrcoef(rows(400).T), atol=0.15)


def test_the_training_begins_at_the_gaussian_of_the_rows():
    """Of one step with a rate of 1e-9: mean and covariance by maximum likelihood, exactly."""
    x = rows(50)
    model = Density(**{**SMALL, "max_iter": 1, "learning_rate_init": 1e-9, "solver_steps": 20})
    found = model.fit(x).score_samples(x[:5])
    law = torch.distributions.MultivariateNormal(
        torch.tensor(x.mean(0)), torch.tensor(np.cov(x.T, ddof=0))
    )
    np.testing.assert_allclose(found, law.log_prob(torch.tensor(x[:5])), atol=1e-4)


def test_the_field_is_a_field_of_the_library(density, tmp_path):
    density.field_.save_pretrained(tmp_path)
    again = tpf.fields.from_pretrained(tmp_path)
    x = torch.ones(1, 3, dtype=torch.float64)
    t = torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(again.velocity(t, x), density.field_.velocity(t, x))


def test_the_density_integrates_to_one():
    """In one dimension, of two modes, by quadrature."""
    gen = np.random.default_rng(3)
    x = np.concatenate([gen.normal(-2, 0.5, 300), gen.normal(2, 0.5, 300)])[:, None]
    model = Density(max_iter=200, width=16, solver_steps=10, random_state=0).fit(x)
    grid = np.linspace(-8, 8, 401)
    total = np.exp(model.score_samples(grid[:, None])).sum() * (grid[1] - grid[0])
    assert abs(total - 1) < 5e-3


def test_seeds_are_those_of_scikit_learn(density):
    again = Density(max_iter=150, width=16, solver_steps=8, random_state=0).fit(rows(400))
    assert np.array_equal(again.sample(4), density.sample(4))
    assert not np.array_equal(density.sample(4), density.sample(4, random_state=5))
    state = torch.get_rng_state()
    drawn = [density.sample(4, random_state=kind(7)) for kind in (
        np.random.RandomState, np.random.default_rng)]  # fmt: skip
    assert drawn[0].shape == (4, 3)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="random_state=0"):
        density.sample(4, random_state="a")


def test_copies_give_the_same(density):
    from sklearn.base import clone

    again = pickle.loads(pickle.dumps(density))
    assert np.array_equal(again.score_samples(rows(5, 2)), density.score_samples(rows(5, 2)))
    fresh = clone(density)
    assert fresh.get_params() == density.get_params()
    assert not hasattr(fresh, "n_features_in_")
    assert repr(fresh) == "TransportDensity(max_iter=150, width=16, solver_steps=8, random_state=0)"


def test_frames_pipelines_and_searches():
    pandas = pytest.importorskip("pandas")
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    frame = pandas.DataFrame(rows(60), columns=["a", "b", "c"])
    model = Density(**SMALL).fit(frame)
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    assert np.array_equal(model.score_samples(frame), Density(**SMALL).fit(
        frame.to_numpy()).score_samples(frame.to_numpy()))  # fmt: skip
    with pytest.raises(ValueError, match="same order"):
        model.score_samples(frame[["b", "a", "c"]])
    with pytest.warns(UserWarning, match="valid feature names"):
        model.score_samples(frame.to_numpy())
    pipe = make_pipeline(StandardScaler(), Density(**SMALL)).fit(frame)
    shift = np.log(frame.std(ddof=0)).sum()
    np.testing.assert_allclose(
        pipe.score_samples(frame) - shift, model.score_samples(frame), atol=1e-6
    )
    search = GridSearchCV(Density(**SMALL), {"width": [4, 8]}, cv=2).fit(frame)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x: np.where(x > 5, "a", "b"), ValueError, "columns of X that are not numbers"),
        (lambda x: x > 5, ValueError, "OneHotEncoder"),
        (lambda x: np.column_stack([x[:, 0].astype(object), ["a"] * len(x)]), ValueError, ": 1 "),
        (lambda x: np.column_stack([x.astype(object), x[:, 0] > 5]), ValueError, "booleans"),
        (lambda x: np.where(x > 101, np.nan, x), ValueError, "contains NaN in .*SimpleImputer"),
        (lambda x: np.where(x > 101, np.inf, x), ValueError, "contains inf"),
        (lambda x: x[:1], ValueError, "1 sample"),
        (lambda x: x[0], ValueError, "Reshape your data"),
        (lambda x: np.column_stack([x, np.ones(len(x))]), ValueError, "column 3 of X is constant"),
    ],
)
def test_tables_that_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        Density(**SMALL).fit(make(rows(40)))


def test_columns_of_a_frame_that_are_no_numbers_are_named():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows(40), columns=["a", "b", "c"])
    frame["kind"], frame["flag"] = ["x", "y"] * 20, [True, False] * 20
    frame["class"] = pandas.Categorical(["u", "v"] * 20)
    with pytest.raises(ValueError, match=r"'kind', 'flag', 'class'.*drop them, encode them"):
        Density(**SMALL).fit(frame)
    with pytest.raises(ValueError, match=r"columns of y that are not numbers: '?flag"):
        Sampler(**SMALL).fit(rows(40), frame["flag"])


def test_columns_that_only_look_like_numbers_are_named():
    """Categories whose names are numbers, and dates beside numbers: NumPy makes numbers of both."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows(60), columns=["a", "b", "c"])
    days = pandas.date_range("2020", periods=60)
    for other in (pandas.Categorical([1, 2, 3] * 20), days, days - days[0], list(days.date)):
        with pytest.raises(ValueError, match=r"not numbers: 'k' \("):
            Density(**SMALL).fit(frame.assign(k=other))
    with pytest.raises(ValueError, match=r"columns of y that are not numbers: 'k'"):
        Sampler(**SMALL).fit(frame, pandas.Series(pandas.Categorical([1, 2, 3] * 20), name="k"))


def test_what_is_missing_is_told_also_of_nullable_columns_and_masks():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows(60), columns=["a", "b", "c"]).convert_dtypes()
    Density(**SMALL).fit(frame)
    frame.iloc[0, 0] = pandas.NA
    with pytest.raises(ValueError, match="NaN in 1 of 60 rows"):
        Density(**SMALL).fit(frame)
    hidden = np.ma.masked_array(rows(60), mask=rows(60) > 100)
    with pytest.raises(ValueError, match=r"X has \d+ masked entries"):
        Density(**SMALL).fit(hidden)
    with pytest.raises(ValueError, match=r"y has \d+ masked entries"):
        Sampler(**SMALL).fit(rows(60), hidden[:, 2])
    Density(**SMALL).fit(np.ma.masked_array(rows(60)))  # a mask that hides nothing


def test_tensors_are_tables_too():
    X = torch.as_tensor(rows(60)).requires_grad_()
    assert Density(**SMALL).fit(X).score_samples(X).shape == (60,)
    assert Sampler(**SMALL).fit(X, X[:, 0]).log_density(X, X[:, 0]).shape == (60,)


def test_the_cure_of_a_constant_column_leaves_it_out():
    """Of 0.1, whose deviation as NumPy computes it is not 0; and of a frame, by its name."""
    pandas = pytest.importorskip("pandas")
    X = np.column_stack([rows(60), np.full(60, 0.1)])
    tables = {"X": X, "frame": pandas.DataFrame(X, columns=["a", "b", "c", "k"])}
    for table in tables.values():
        with pytest.raises(ValueError, match="is constant") as refused:
            Density(**SMALL).fit(table)
        cure = str(refused.value).partition("X = ")[2]
        assert eval(cure, {"numpy": np, "X": table}).shape == (60, 3)


def test_a_large_share_held_out_of_few_rows_leaves_one_to_learn():
    Density(**SMALL | {"validation_fraction": 0.9}).fit(rows(3))


def test_numbers_whose_squares_overflow_are_told():
    with pytest.raises(ValueError, match="rescale them"):
        Density(**SMALL).fit(rows(60) * 1e200)


@pytest.mark.parametrize("kind", [Density, Sampler])
def test_numbers_out_of_range_are_refused_by_fit(kind):
    for name, value in {
        "max_iter": 0, "width": "a", "learning_rate_init": -1.0, "validation_fraction": 1.5,
        "n_iter_no_change": 0, "solver_steps": 0, "batch_size": 0,
    }.items():  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=name):
            kind(**{**SMALL, name: value}).fit(rows(40), rows(40)[:, 0])


def test_ties_are_told_and_spread():
    x = np.random.default_rng(0).poisson(3.0, size=(300, 2)).astype(float)
    x[:, 1] = 0.5 * x[:, 1] + np.random.default_rng(1).normal(size=300)
    with pytest.warns(UserWarning, match="columns 0 of X hold few values.*dequantise=True"):
        Density(**SMALL).fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Density(dequantise=True, **SMALL).fit(x)
    drawn = model.sample(50)
    assert np.array_equal(drawn[:, 0], drawn[:, 0].round())
    assert not np.array_equal(drawn[:, 1], drawn[:, 1].round())


def test_columns_that_others_give_are_told():
    x = rows(100)
    with pytest.warns(UserWarning, match="depend on each other linearly"):
        Density(**SMALL).fit(np.column_stack([x, x[:, 0] + x[:, 1]]))


def test_wide_outliers_leave_finite_numbers():
    x = rows(200)
    x[0] = 1e6
    model = Density(**SMALL).fit(x)
    assert np.isfinite(model.score_samples(x)).all()
    assert np.isfinite(model.sample(20)).all()


def test_conditional_draws_follow_their_rows():
    gen = np.random.default_rng(0)
    X = gen.normal(size=(500, 2))
    y = 3 * X[:, 0] + gen.choice([-1.0, 1.0], 500) + 0.1 * gen.normal(size=500)
    model = Sampler(max_iter=300, width=32, solver_steps=10, random_state=0).fit(X, y)
    drawn = model.sample(X[:100], n_draws=50)
    assert drawn.shape == (50, 100)
    assert np.corrcoef(drawn.mean(0), X[:100, 0])[0, 1] > 0.95
    assert np.abs(drawn.mean(0) - 3 * X[:100, 0]).mean() < 0.5
    assert model.sample(X[:1]).shape == (1,)
    found = model.log_density(X, y)
    np.testing.assert_allclose(model.log_density(X[3:4], y[3:4]), found[3:4], rtol=0, atol=1e-10)
    assert model.score(X, y) > model.score(X, y[::-1])


def test_targets_of_several_columns_and_names():
    x = rows(60)
    model = Sampler(**SMALL).fit(x[:, :1], x[:, 1:])
    assert model.sample(x[:5, :1]).shape == (5, 2)
    assert model.sample(x[:5, :1], n_draws=3).shape == (3, 5, 2)
    with pytest.raises(ValueError, match="requires y to be passed"):
        model.fit(x, None)
    with pytest.raises(ValueError, match="inconsistent"):
        model.fit(x, x[:5, 0])
    with pytest.raises(ValueError, match="y has 1 columns, and 2"):
        model.log_density(x[:, :1], x[:, 0])


def test_nothing_of_scikit_learn_is_needed():
    code = (
        "import sys; sys.modules['sklearn'] = None; import numpy as np, transportflows as tpf;"
        "x = np.random.default_rng(0).normal(size=(40, 2));"
        "m = tpf.estimators.TransportDensity(max_iter=2, width=4, solver_steps=2);\n"
        "try: m.score_samples(x)\n"
        "except ValueError as e: assert 'not fitted' in str(e)\n"
        "assert m.fit(x).sample(3).shape == (3, 2)\n"
        "try: m.__sklearn_tags__()\n"
        "except ImportError as e: assert 'transportflows[estimators]' in str(e)\n"
        "else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
