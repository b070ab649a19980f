"""The exam: known errors are found at their size, in any units, and what has no answer is told."""

import csv
import math

import pytest
import torch

import transportflows as tpf
from transportflows import exam as command
from transportflows.testing import exam

LAW = tpf.distributions.GaussianMixture(torch.tensor([[-1.5, 0.0], [1.5, 0.5]]), 0.4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def process(**options) -> tpf.Process:
    return tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), **options)


class Scaled(torch.nn.Module):
    """An exact velocity, and a multiple of it."""

    def __init__(self, law, factor: float = 1.0) -> None:
        super().__init__()
        self.exact, self.factor = tpf.oracle(process(), law), factor

    def forward(self, t, x):
        return self.factor * self.exact.velocity(t, x)


def test_an_exact_field_shows_its_floors():
    report = exam(tpf.oracle(process(), LAW), LAW, n=400, densities=50, generator=seeded())
    assert report["velocity"].value == report["score"].value == 0
    assert report["ends"].value == report["ends"].floor < 1e-3
    assert report["log-density"].value == pytest.approx(report["log-density"].floor, abs=1e-6)
    for quantity in ("mean error", "covariance error", "energy distance", "W2"):
        for way in ("ODE", "SDE"):
            row = report[f"{quantity}, {way}"]
            assert 0.3 < row.value / row.floor < 3, row
    assert report["calls"].value == 200


@pytest.mark.parametrize("factor", [0.9, 1.2])
def test_an_error_of_the_velocity_is_found_at_its_size(factor):
    report = exam(
        tpf.Velocity(Scaled(LAW, factor), process()), LAW, n=400, densities=50, generator=seeded()
    )
    assert report["velocity"].value == pytest.approx(abs(factor - 1), rel=1e-4)
    assert torch.allclose(report.velocity, torch.full_like(report.velocity, abs(factor - 1)))
    assert report["ends"].value > 50 * report["ends"].floor
    assert report["log-density"].value > 100 * report["log-density"].floor


def test_the_density_of_another_law_has_the_divergence_between_them():
    ours, theirs = tpf.Gaussian((1,), 0.0, 1.0), tpf.Gaussian((1,), 0.5, 1.5)
    other = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1,)))
    report = exam(tpf.oracle(other, theirs), ours, n=400, densities=1_000, generator=seeded())
    row = report["KL"]
    exact = math.log(1.5) + (1 + 0.25) / (2 * 1.5**2) - 0.5
    error = float(row.note.rpartition(" ")[2])
    assert abs(row.value - exact) < 4 * error, (row, exact)
    assert row.floor < 1e-4


def test_errors_are_in_the_units_of_the_network_and_laws_in_those_of_the_data():
    to = tpf.Standardize(torch.tensor([3.0, -200.0]), torch.tensor([2.0, 50.0]))
    inner = tpf.distributions.GaussianMixture(LAW.means, 0.4)
    scale = to.scale.double()
    outer = tpf.distributions.GaussianMixture(
        to.invert(LAW.means), covariances=inner.covariances * scale[:, None] * scale
    )
    field = tpf.Velocity(Scaled(inner), process(), transform=to)
    report = exam(field, outer, n=400, densities=50, generator=seeded())
    assert report["velocity"].value < 1e-5
    assert report["ends"].value == pytest.approx(report["ends"].floor, rel=0.05)
    assert report["log-density"].value < 1e-3
    assert report["log-density"].floor < 1e-3
    row = report["covariance error, ODE"]
    assert 0.2 < row.value / row.floor < 4


def test_what_has_no_answer_is_told_and_the_rest_is_there():
    pairs = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), coupling=tpf.MinibatchOT())
    net = tpf.networks.MLP(2, 16, 2, generator=seeded())
    report = exam(tpf.Velocity(net, pairs), LAW, n=100, densities=20, generator=seeded())
    assert "no closed form" in report["velocity"].note
    assert math.isnan(report["velocity"].value)
    assert "not sampled" in report["SDE"].note
    assert report["W2, ODE"].value > report["W2, ODE"].floor
    assert math.isnan(report["log-density"].floor)
    assert report["KL"].value > 0
    assert len(report.velocity) == len(report.score) == 0
    with pytest.raises(KeyError, match="W2, ODE"):
        report["W2"]
    assert "no closed form" in str(report)


def test_conditions_are_those_under_which_the_law_is_that():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.exact = Scaled(LAW)

        def forward(self, t, x, shift):
            return self.exact(t, x) + shift

    field = tpf.Velocity(Net(), process())
    for shift, error in ((0.0, 0.0), (1.0, 0.3)):
        cond = {"shift": torch.tensor(shift)}
        report = exam(field, LAW, n=200, densities=0, cond=cond, generator=seeded())
        assert (report["velocity"].value > error) if error else (report["velocity"].value < 1e-6)


def test_a_field_is_examined_in_evaluation_mode_and_left_as_it_was():
    class Net(Scaled):
        def forward(self, t, x):
            return super().forward(t, x) + float(self.training)

    field = tpf.Velocity(Net(LAW), process()).train()
    report = exam(field, LAW, n=100, densities=0, generator=seeded())
    assert report["velocity"].value < 1e-6
    assert field.training


def test_what_starts_in_one_point_has_no_ode_and_the_report_says_so():
    at = tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.distributions.Point((2,)))
    report = exam(tpf.oracle(at, LAW), LAW, n=100, densities=20, generator=seeded())
    assert "not sampled" in report["ODE"].note
    assert report["W2, SDE"].value < 3 * report["W2, SDE"].floor
    assert math.isnan(report["log-density"].value)


def test_bad_calls_are_refused():
    field = tpf.oracle(process(), LAW)
    for words, how in (
        ("event", {"law": tpf.Gaussian((3,))}),
        ("n must", {"n": 10}),
        ("epsilon", {"epsilon": 0.0}),
        ("margin", {"margin": 0.6}),
        ("densities", {"densities": -1}),
    ):
        with pytest.raises(ValueError, match=words):
            exam(field, **{"law": LAW, **how})
    with pytest.raises(TypeError, match="law"):
        exam(field, torch.zeros(5, 2))
    with pytest.raises(TypeError, match="Velocity"):
        exam(torch.nn.Linear(2, 2), LAW)


def test_the_picture_has_a_line_for_each_field():
    pytest.importorskip("matplotlib")
    report = exam(tpf.oracle(process(), LAW), LAW, n=100, densities=0, generator=seeded())
    assert len(report.plot().lines) == 2
    with pytest.raises(TypeError, match="axes"):
        report.plot(3)


def test_the_command_examines_a_file_and_a_method(tmp_path, monkeypatch, capsys):
    net = tpf.networks.MLP(2, 16, 2, generator=seeded())
    path, out = tmp_path / "field.safetensors", tmp_path / "out"
    tpf.Velocity(net, process()).save(path)
    few = ["--laws", "uneven", "--n", "60", "--rows", "200", "--densities", "20", "--out", str(out)]
    command.main(["--field", str(path), *few])
    told = capsys.readouterr().out
    assert told.startswith(f"uneven: {path}")
    assert "log-density" in told
    with (out / "exam.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["part"] for row in rows} >= {"fields", "law, ODE", "density", "ends", "cost"}
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_method.py").write_text(
        "import transportflows as tpf\n"
        "def train(data, generator):\n"
        "    assert data.shape == (200, 2)\n"
        "    return tpf.oracle(tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))),\n"
        "                      tpf.exam.LAWS['uneven']())\n"
    )
    command.main(["--method", "own_method:train", *few])
    assert "velocity               0" in capsys.readouterr().out
    for wrong, words in (
        (["--method", "own_method"], "module:function"),
        (["--method", "own_method:other"], "was not found"),
        (["--method", "a:b", "--field", "c"], "not both"),
        (["--field", "c"], "needs --laws"),
    ):
        with pytest.raises(SystemExit):
            command.main(wrong)
        assert words in capsys.readouterr().err


def test_methods_of_the_library_are_trained_by_default(capsys):
    command.main(
        ["--laws", "modes", "--n", "60", "--rows", "300", "--steps", "2", "--densities", "0"]
    )
    told = capsys.readouterr().out
    assert all(f"modes: {name}\n" in told for name in command.METHODS)
