"""The pages of the studies say what the kept rows say."""

from __future__ import annotations

import importlib
import re
import statistics
import sys
from pathlib import Path

import pytest
import torch

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


def test_ve_linear(study):
    made, text = study("study_ve_linear"), page("ve_linear")

    def mean(key, part, d, method="", nt=0):
        of = {"part": part, "d": d} | ({"method": method, "nt": nt} if method else {})
        return statistics.mean(made.column(key, **of))

    linear, heun, few = "linear, Euler", "linear, Heun", "VE, unipc3"
    prior, unit = "VE, reverse SDE from prior", "VE, reverse SDE from N(0, Id)"
    steps = made.STEPS

    # 1: not uniformly
    for nt in steps[1:]:
        assert mean("cov", "written", 2, prior, nt) < mean("cov", "written", 2, linear, nt)
        for ve in (prior, unit):
            assert mean("w2", "written", 10, ve, nt) > mean("w2", "written", 10, linear, nt)
            assert mean("cov", "written", 10, ve, nt) > mean("cov", "written", 10, linear, nt)
    for nt in steps[2:]:
        assert mean("w2", "written", 2, prior, nt) > mean("w2", "written", 2, linear, nt)
    floors = {d: mean("w2", "floor", d) for d in (2, 10)}
    best = min(mean("w2", "written", 10, ve, nt) for ve in (prior, unit) for nt in steps)
    said(
        text,
        "{:.3f} for {:.3f} at 160".format(
            *(mean("cov", "written", 2, m, 160) for m in (prior, linear))
        ),
        "{:.4f} for {:.4f}".format(*(mean("w2", "written", 2, m, 160) for m in (linear, prior))),
        f"at best W2² = {best:.1f} for a floor of {floors[10]:.2f}",
    )
    # 2: trained fairly they are equal
    for d in (2, 10):
        limits = dict(zip(("mean", "cov"), made.limits(d), strict=True))
        for method in (heun, few):
            for nt in steps[1:]:
                assert all(mean(k, "fair", d, method, nt) < limits[k] for k in limits)
    said(
        text,
        "{:.4f} and {:.4f} for a floor of {:.4f}".format(
            *(mean("w2", "fair", 2, m, 160) for m in (heun, few)), floors[2]
        ),
        "{:.3f} and {:.3f} for {:.3f}".format(
            *(mean("w2", "fair", 10, m, 160) for m in (heun, few)), floors[10]
        ),
    )
    # 3: more steps
    fall = [mean("w2", "written", 10, unit, nt) for nt in steps]
    assert fall[:6] == sorted(fall[:6], reverse=True)
    said(
        text,
        f"from {fall[0]:,.0f} at 10 steps to {fall[5]:.1f} at 320, and then stays",
        f"({fall[6]:.1f}, {fall[7]:.1f})",
        "{:.2f}, {:.2f}, {:.2f} at 10, 40, 160 steps".format(
            *(mean("cov", "exact", 2, prior, nt) for nt in (10, 40, 160))
        ),
    )
    # 4: the start
    flow = "VE, unipc3 from N(0, Id)"
    said(
        text,
        "{:.4f} and {:.4f}".format(*(mean("w2", "exact", 2, m, 160) for m in (unit, prior))),
        f"W2² = {mean('w2', 'exact', 2, flow, 160):.2f}",
        "off by {:.1f} and {:.1f}".format(
            *(mean("cov", "written", 10, m, 1280) for m in (unit, prior))
        ),
    )
    # 5: both in closed form
    for d in (2, 10):
        for method in (heun, few, prior):
            assert mean("cov", "exact", d, method, 160) < made.limits(d)[1]
    # 6: B
    b = mean("b", "fair", 2, heun, 160)
    over = mean("w2", "fair", 2, heun, 160) - floors[2]
    first = mean("w2", "written", 2, linear, 10) - floors[2]
    assert 0 < over < b
    ratio = first / mean("b", "written", 2, linear, 10)
    said(text, f"{over:.4f} for a B of {b:.4f}", f"{ratio:.0f} times B")
    for nt in steps[3:]:
        assert mean("w2", "written", 2, linear, nt) - floors[2] < mean(
            "b", "written", 2, linear, nt
        )
    # 7: too narrow
    said(
        text,
        f"{mean('w2', 'exact', 10, linear, 10):.2f}, below the floor of {floors[10]:.2f}",
        f"off by {mean('cov', 'exact', 10, linear, 10):.2f}",
    )
    seeds = {row["seed"] for row in made.ROWS.rows(part="written")}
    said(text, {1: "one seed", 2: "two seeds", 3: "three seeds", 5: "five seeds"}[len(seeds)])


def test_mirror(study):
    made, text = study("study_mirror"), page("mirror")

    def learned(key, a, epsilon, steps, field="learned"):
        rows = made.ROWS.rows(a=a, field=field, epsilon=epsilon, steps=steps)
        return statistics.mean(float(row[key]) for row in rows)

    floors = [float(row["energy"]) for row in made.ROWS.rows(field="draws")]
    floor, scatter = statistics.mean(floors), statistics.stdev(floors)
    wild = learned("energy", 16.0, 32.0, 10, "exact")
    for n in made.STEPS:
        cells = [
            f"{learned('moved', a, 32.0, n):.2f}, {learned('energy', a, 32.0, n):.0f}"
            for a in made.VARIANCES
        ]
        said(text, f"| {n:,} | {' | '.join(cells)} |")
    said(
        text,
        f"whose floor is {floor:.0f} ± {scatter:.0f}",
        f"moves points by {max(learned('moved', a, 0.0, 10) for a in (1.0, 4.0)):.2f} of",
        f"leaves {min(learned('same', a, 0.0, 10) for a in (1.0, 4.0)):.2f} per cent",
        f"a sample by {learned('moved', 4.0, 32.0, 100):.2f}",
        f"{learned('same', 4.0, 32.0, 100):.1f} per cent end in",
        f"(an energy of {wild:,.0f} for a floor of {floor:.0f})",
        f"{learned('energy', 16.0, 32.0, 1000):.0f} at 1,000 steps",
    )
    assert learned("moved", 1.0, 32.0, 300) < 0.98 < learned("moved", 1.0, 32.0, 1000)
    for a in (1.0, 4.0):
        for epsilon in made.EPSILONS[1:]:
            for n in made.STEPS[1:]:
                assert learned("energy", a, epsilon, n) < floor + 2 * scatter
    for n in (10, 30):
        assert learned("moved", 1.0, 8.0, n) == learned("moved", 1.0, 32.0, n)
    assert learned("moved", 1.0, 32.0, 10) < 0.4  # few steps copy


def test_checkerboard(study):
    made, text = study("study_checkerboard"), page("checkerboard")
    from _common import spread

    def value(key, gamma, pair, epsilon):
        return statistics.mean(made.column(key, gamma=gamma, pair=pair, epsilon=epsilon))

    fields = [(g, p) for g in made.GAMMAS for p in made.PAIRS if g != "none"] + [("none", "b")]
    for g, p in fields:
        energies = [f"{value('energy', g, p, e):.1f}" for e in made.EPSILONS]
        outside = [f"{value('outside', g, p, e):.1f} %" for e in (0.0, 0.5)]
        said(text, f"| {g} | {p} | {' | '.join(energies + outside)} |")

    def less(key, epsilon, by=0.0):
        return sum(value(key, *f, epsilon) < value(key, *f, 0.0) - by for f in fields)

    said(
        text,
        f"floor of {spread(made.column('energy', gamma='floor'), 2)}",
        f"falls for {less('energy', 0.5)} of the {len(fields)} fields",
        f"outside the squares for {less('outside', 0.5)}",
        f"only {less('energy', 2.5, 1.0)} of the {len(fields)} are better",
        f"up to {value('energy', 't(1-t)', 'b, s', 2.5):.1f} for"
        f" {value('energy', 't(1-t)', 'b, s', 0.0):.1f} of the ODE",
        f"same velocity stays at {value('energy', 't(1-t)', 'b, η', 2.5):.1f}",
    )
    latents = [g for g in made.GAMMAS if g != "none"]
    for g in latents[1:]:
        worse = [value("energy", g, "b, s", e) for e in made.EPSILONS[1:]]
        assert worse == sorted(worse)
    said(
        text,
        ", ".join(
            f"{value('energy', g, 'v, η', 0.0):.1f} for {value('energy', g, 'b, η', 0.0):.1f}"
            for g in latents
        ),
    )
    for g in latents:
        assert value("energy", g, "v, η", 0.0) < value("energy", g, "b, η", 0.0)
        for p in ("b, η", "v, η"):
            assert value("energy", g, p, 0.5) < value("energy", "none", "b", 0.5)
    assert {row["seed"] for row in made.ROWS.rows(gamma="none")} == {"0"}
    said(text, "One seed so far")


def test_zoo(study):
    made, text = study("study_zoo"), page("zoo")

    def value(problem, method, calls, budget="15.0"):
        rows = made.ROWS.rows(problem=problem, method=method)
        kept = [row for row in rows if row["calls"] == str(calls) and row["budget"] == budget]
        return statistics.mean(float(row["energy"]) for row in kept) if kept else None

    def cell(found):
        return "" if found is None else f"{found:.1f}" if found < 100 else f"{found:,.0f}"

    names = [n for n in dict.fromkeys(row["method"] for row in made.ROWS.rows()) if n != "floor"]
    for name in names:
        cells = [cell(value(p, name, c)) for p in ("modes", "digits") for c in (1, 4, 20, 100)]
        said(text, re.sub(r"\s+", " ", f"| {name} | {' | '.join(cells)} |"))
    floor = {
        p: statistics.mean(float(r["energy"]) for r in made.ROWS.rows(problem=p, method="floor"))
        for p in ("modes", "digits")
    }
    said(text, f"is {floor['modes']:.2f} for the modes and {floor['digits']:.1f} for the digits")
    # 1
    plain = [value("modes", f"velocity, {k}", 100) for k in ("linear", "trigonometric")]
    plain.append(value("modes", "velocity, one-sided linear", 100))
    said(text, f"{min(plain):.1f} to {max(plain):.1f} in the plane with 100 calls")
    best = value("digits", "velocity, trigonometric", 20)
    assert best == min(v for n in names if (v := value("digits", n, 20)))
    said(text, f"{best:.1f} with 20 calls")
    # 2
    maps = [
        n for n in names if n.startswith("flow map") or n in ("MeanFlow", "consistency training")
    ]
    others = {p: min(v for n in names if n not in maps and (v := value(p, n, 1))) for p in floor}
    lagrangian, semigroup, distilled = (
        [value(p, f"flow map, {name}", c) for c in (1, 4)]
        for p, name in (("modes", "Lagrangian"), ("modes", "semigroup"), ("digits", "distilled"))
    )
    linear = value("digits", "velocity, linear", 4)
    said(
        text,
        f"has {lagrangian[0]:.1f} in one call and {lagrangian[1]:.1f} in four",
        f"map {semigroup[0]:.1f} and {semigroup[1]:.1f}; of all else none is below"
        f" {others['modes']:.1f}",
        f"has {distilled[0]:.1f} in one call, where no field that is solved is below"
        f" {others['digits']:.1f}",
        f"the linear velocity, {linear:.1f}, is as good as any map ({distilled[1]:.1f})",
    )
    assert linear < min(value("digits", n, 4) for n in maps)
    # 3
    early = [value("modes", n, 100, "4.0") for n in names if "particles" not in n]
    assert min(v for v in early if v) > 7.5
    late = {
        "minibatch transport": "velocity, minibatch transport",
        "(b, η) by the ODE": "(b, η), linear with latent: ODE",
        "the noise prediction of VP by the ODE": "noise, VP",
        "DDPM": "DDPM, ancestral",
        "distilled map": "flow map, distilled",
    }
    for name, method in late.items():
        said(text, f"{name} ({value('modes', method, 100):.1f})")
    draws = torch.Generator().manual_seed(3)
    angle = 2 * torch.pi * torch.rand(5_000, generator=draws)
    ring = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    ring += 0.2 * torch.randn(ring.shape, generator=draws)
    assert made.energy(made.modes(), ring) == pytest.approx(8.1, abs=0.15)
    # 4
    noise, reverse = "noise, VP", "noise, VP: reverse SDE"
    ode = [value("digits", noise, calls) for calls in (50, 100)]
    said(
        text,
        f"{ode[0]:,.0f} (50 calls) and {ode[1]:,.0f} (100)",
        f"{value('digits', reverse, 50):.1f} with 50 calls",
    )
    # 5
    particles = [value(p, "SD flow (particles)", 100) for p in ("modes", "digits")]
    said(text, f"at {particles[0]:.1f} in the plane", f"still at {particles[1]:.0f}")
    said(text, "One seed.")
