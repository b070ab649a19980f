"""The pages of the studies say what the kept rows say."""

from __future__ import annotations

import importlib
import re
import statistics
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "studies"


@pytest.fixture(scope="module")
def study():
    """A study of benchmarks/ by its name."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def page(name: str) -> str:
    return re.sub(r"\s+", " ", (PAGES / f"{name}.md").read_text())


def said(text: str, *sentences: str) -> None:
    """Each of these stands on the page."""
    for sentence in sentences:
        assert sentence in text, sentence


def test_epsilon(study):
    made, text = study("study_epsilon"), page("epsilon")

    def mean(quantity, **of):
        return statistics.mean(made.values(quantity, **of))

    def kl(budget, epsilon, calls=400):
        return mean("KL", budget=budget, epsilon=epsilon, calls=calls)

    star = {b: mean("ε*, m = 0.001", budget=b) for b in made.budgets()}
    assert list(star) == [1_000, 4_000, 16_000]
    for b in star:
        best = made.best(b, 400)
        assert best not in (0.0, 16.0)  # interior
        said(
            text,
            f"| {b:,} | {kl(b, 0.0):.4f} | {kl(b, best):.4f} | {best:g} | {kl(b, 16.0):.4f} |"
            f" {star[b]:.2f} |",
        )
        assert made.best(b, 40) == best
        assert all(
            kl(b, e, calls) < kl(b, 0.0, calls) for e in (1.0, 2.0, 4.0, 8.0) for calls in (400, 40)
        )
    assert kl(1_000, 0.0) / kl(1_000, 2.0) == pytest.approx(9, abs=0.5)  # "a factor of nine"
    assert kl(4_000, 0.0) / kl(4_000, 8.0) == pytest.approx(7, abs=0.5)  # "a seventh of that"
    assert 0.5 < star[1_000] / made.best(1_000, 400) < 2
    assert all(star[b] < made.best(b, 400) / 2 for b in (4_000, 16_000))
    long = 16_000
    said(
        text,
        f"exact draws in place of samples have {mean('KL', budget=''):.4f}",
        f"the ODE is at {kl(1_000, 0.0):.4f} nats, ε = 2 at {kl(1_000, 2.0):.4f}, ε = 16 at"
        f" {kl(1_000, 16.0):.4f}",
        f"({kl(long, 4.0):.4f} and {kl(long, 16.0):.4f} for {kl(long, 8.0):.4f} after 16,000",
        f"{kl(long, 2.0):.4f} at 2",
        "from {:.1f} to {:.1f}, B from {:.1f} to {:.1f}".format(
            *(mean(f"{q}, m = 0.001", budget=b) for q in "SB" for b in (1_000, long))
        ),
        "{:.1f}, {:.1f} and {:.1f} nats at the best".format(
            *(min(mean("bound", budget=b, epsilon=e) for e in made.EPSILONS if e) for b in star)
        ),
        "off by {:.1f}, {:.1f} and {:.1f}".format(*(mean("whole KL", budget=b) for b in star)),
    )
    least = [
        min((e for e in made.EPSILONS if e), key=lambda e, b=b: mean("bound", budget=b, epsilon=e))
        for b in star
    ]
    assert least == [1.0, 2.0, 2.0]
    for b, wanted in ((1_000, 2.0), (4_000, 2.0), (16_000, 8.0)):
        energies = {e: mean("energy", budget=b, epsilon=e, calls=400) for e in made.EPSILONS}
        assert min(energies, key=energies.get) == wanted
    seeds = {len(made.values("whole KL", budget=b)) for b in star}
    assert seeds == {1}
    said(text, "These are of one seed so far.")


def test_inference(study):
    made, text = study("study_inference"), page("inference")
    from _common import interval

    rows = made.ROWS.rows(task="two_moons")
    seeds = sorted({row["seed"] for row in rows})
    means = [
        statistics.mean(float(row["c2st"]) for row in rows if row["seed"] == seed) for seed in seeds
    ]
    each = [float(row["c2st"]) for row in rows]
    said(
        text,
        f"| two moons | {len(seeds)} | {interval(means, 3)} | .57 |",
        f"from {min(each):.3f} to {max(each):.3f}",
    )
    assert statistics.mean(means) <= 0.55
    assert not made.ROWS.rows(task="slcp")  # "to be run"
