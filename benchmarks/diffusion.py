"""Diffusion with exact scores: laws of samples and of whole paths.

Chang's mixtures of four unit Gaussians (d = 2 about a cross, d = 10 at e_1 .. e_4), the exact
score, float64.

*Laws*: W2 of 4,000 samples to 4,000 draws of the data, over the sampling floor (W2 of two sets of
draws), each the mean over repetitions against the same draws; asked: at most 1.05.

*Paths*: the mean product of the states of the reverse SDE at two times, ε = c g²/2, less that of
the forward SDE (which is ``a(τ) (E|x1|² + σ(0)²)``, and is simulated beside it), in standard
errors;
asked: inside 3 at c = 1, outside for other c.

*Marginals*: 20,000 simulated paths of the forward SDE against draws of its marginal, p-values of a
two-sample test over 64 directions.

Run ``python benchmarks/diffusion.py`` (about 20 minutes on one core); ``--part laws``, ``paths`` or
``marginals`` for one of them.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch

import transportflows as tpf
from _common import header, table
from transportflows.metrics import holm, sliced_kolmogorov_test, wasserstein2

POINTS, REPETITIONS = 4_000, {2: 10, 10: 3}


def generator(*seed: int) -> torch.Generator:
    """A generator of its own for each purpose."""
    return torch.Generator().manual_seed(sum(s * 1_000_003**k for k, s in enumerate(seed)) + 1)


def chang(d: int) -> tpf.distributions.GaussianMixture:
    """Chang's mixture in d = 2 or 10 dimensions."""
    cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    return tpf.distributions.GaussianMixture(
        cross if d == 2 else torch.eye(d, dtype=torch.float64)[:4], 1.0
    )


def samplers(name: str, sde: tpf.sdes.ForwardSDE) -> dict[str, dict]:
    """Arguments of ``sample`` by name: 100 steps of order 2, 250 steps of order 1."""

    def grid(steps: int) -> dict:
        if isinstance(sde, tpf.sdes.Chain):
            return {"t": sde.times(steps)}
        if name.startswith("VE"):  # its noise spans three decades
            return {
                "t": tpf.solve.noise_grid(tpf.Process(sde, shape=(2,)), steps, spacing="karras")
            }
        return {"steps": steps}

    return {
        "probability flow, Heun": {"scheme": "heun", **grid(100)},
        "reverse SDE, Heun": {
            "scheme": "heun",
            "epsilon": tpf.solve.AndersonEpsilon(),
            **grid(100),
        },
        "DDIM": {"scheme": "ddim", **grid(250)},
        "DDIM, η = 0.5": {"scheme": tpf.samplers.DDIM(eta=0.5), **grid(250)},
        "ancestral": {"scheme": tpf.samplers.Ancestral(), **grid(250)},
    }


def laws() -> str:
    """W2 over its floor."""
    rows = []
    for d in (2, 10):
        law = chang(d)
        held_out = [
            law.sample(POINTS, generator=generator(d, r), dtype=torch.float64)
            for r in range(REPETITIONS[d])
        ]
        fresh = [
            law.sample(POINTS, generator=generator(d, r, 7), dtype=torch.float64)
            for r in range(REPETITIONS[d])
        ]
        floors = [wasserstein2(x, y) for x, y in zip(fresh, held_out, strict=True)]
        floor = statistics.mean(floors)
        for name, sde in {
            "VE(0.01, 10)": tpf.VE(0.01, 10.0),
            "VP(0.1, 20)": tpf.VP(),
            "sub-VP(0.1, 20)": tpf.SubVP(),
            "DDPM chain, T = 1,000": tpf.sdes.DDPMChain(),
            "linear": tpf.OneSidedLinear(),
        }.items():
            exact = tpf.oracle(tpf.Process(sde, shape=(d,)), law)
            for sampler, kwargs in samplers(name, sde).items():
                values, nfe = [], 0
                for r in range(REPETITIONS[d]):
                    solution = tpf.sample(
                        exact, POINTS, dtype=torch.float64, generator=generator(d, r, 13), **kwargs
                    )
                    values.append(wasserstein2(solution.x, held_out[r]))
                    nfe = solution.nfe
                mean = statistics.mean(values)
                spread = statistics.stdev([v / f for v, f in zip(values, floors, strict=True)])
                ratio = mean / floor
                rows.append(
                    [
                        d,
                        name,
                        sampler,
                        nfe,
                        mean,
                        floor,
                        f"{ratio:.3f}",
                        f"{spread / math.sqrt(REPETITIONS[d]):.3f}",
                        "yes" if ratio <= 1.05 else "no",
                    ]
                )
                print(rows[-1], flush=True)
    head = ["d", "process", "sampler", "NFE", "W2", "floor", "over the floor", "± s.e.", "≤ 1.05"]
    return "## Laws\n\n" + table(head, rows)


def paths() -> str:
    """Two-time products of the reverse SDE."""
    n, rows = 100_000, []
    means = torch.tensor([[-2.0], [1.0]], dtype=torch.float64)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    law = tpf.distributions.GaussianMixture(means, 0.5, weights=weights)
    second = float((weights * (means[:, 0] ** 2 + 0.25)).sum())
    cases = {
        "OU(6)": (tpf.sdes.OrnsteinUhlenbeck(6.0), 0.25),
        "VP(0.1, 20)": (tpf.VP(), 0.25),
        "VE(0.01, 10)": (tpf.VE(0.01, 10.0), 0.7),
        "sub-VP(0.1, 20)": (tpf.SubVP(), 0.3),
        "linear": (tpf.sdes.InterpolantSDE(tpf.OneSidedLinear()), 0.5),
    }
    for case, (name, (sde, tau)) in enumerate(cases.items()):
        exact = tpf.oracle(tpf.Process(sde, shape=(1,)), law)
        ends = torch.tensor([0.0, tau], dtype=torch.float64)
        expected = float(sde.a(ends)[1] * (second + sde.sigma_sq(ends)[0]))

        def deviation(path: torch.Tensor, expected: float = expected) -> str:
            products = path[0] * path[1]
            return f"{float((products.mean() - expected) / products.std() * n**0.5):+.1f}"

        x1 = law.sample(n, generator=generator(case, 1), dtype=torch.float64)
        forward = sde.sample_path(x1, [0.0, tau], generator=generator(case, 2))
        line: list[object] = [name, f"{1 - tau:g}, 1", deviation(forward)]
        for factor in (0.0, 0.5, 1.0, 2.0, 4.0):
            start = exact.sample(0.0, n, generator=generator(case, 3, int(2 * factor))).double()
            reverse = tpf.sample(
                exact,
                start=start,
                epsilon=tpf.solve.AndersonEpsilon(factor),
                steps=200,
                scheme="heun",
                save_at=[1 - tau, 1.0],
                generator=generator(case, 4, int(2 * factor)),
            ).trajectory
            line.append(deviation(reverse))
        rows.append(line)
        print(line, flush=True)
    head = ["process", "times t", "forward SDE", "c = 0", "0.5", "1", "2", "4"]
    return "## Paths\n\n" + table(head, rows)


def marginals() -> str:
    """Simulated forward paths against their marginals."""
    n, rows, values = 20_000, [], []
    for d in (2, 10):
        law = chang(d)
        for name, sde in {
            "VE(0.01, 10)": tpf.VE(0.01, 10.0),
            "VP(0.1, 20)": tpf.VP(),
            "sub-VP(0.1, 20)": tpf.SubVP(),
        }.items():
            at = [0.0, 0.1, 0.5, 1.0]
            x1 = law.sample(n, generator=generator(d, 1), dtype=torch.float64)
            exact = sde.sample_path(x1, at, generator=generator(d, 2))
            heun = tpf.integrate(
                sde.drift,
                exact[0],
                torch.linspace(0, 1, 401, dtype=torch.float64),
                scheme="heun",
                epsilon=lambda tau, sde=sde: sde.diffusion_sq(tau) / 2,
                save_at=at,
                generator=generator(d, 3),
            ).trajectory
            for how, path in {"transitions": exact, "Heun, 400 steps": heun}.items():
                p_values = []
                for k, tau in enumerate(at):
                    fresh = law.sample(n, generator=generator(d, 4, k), dtype=torch.float64)
                    mean, scale = sde.marginal(torch.tensor(tau, dtype=torch.float64), fresh)
                    z = torch.randn(n, d, generator=generator(d, 5, k), dtype=torch.float64)
                    test = sliced_kolmogorov_test(path[k], mean + scale * z, generator=generator(6))
                    p_values.append(test.p_value)
                values += p_values
                rows.append([d, name, how, *[f"{p:.3f}" for p in p_values]])
    least = float(holm(values).min())
    head = ["d", "SDE", "paths by", *[f"p at τ = {tau:g}" for tau in (0.0, 0.1, 0.5, 1.0)]]
    return "## Marginals\n\n" + table(head, rows) + f"\nLeast p-value after Holm: {least:.3f}.\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=["laws", "paths", "marginals", "all"], default="all")
    part = parser.parse_args().part
    out = [header(__doc__, "pot")]
    for name, function in {"laws": laws, "paths": paths, "marginals": marginals}.items():
        if part in (name, "all"):
            out.append(function())
    print("\n".join(out))


if __name__ == "__main__":
    main()
