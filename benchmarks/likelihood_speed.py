"""Log-likelihoods beside flow_matching's: the same network, states and probes' law.

20 steps of the midpoint rule from t = 1 to 0 in float32, one thread: ``tpf.log_likelihood`` and
``ODESolver.compute_likelihood``, with the exact trace and with one Hutchinson probe. Three
networks: our MLP of 4 x 64 and of 4 x 256, and a plain ``nn.Sequential`` of 4 x 64 that neither
knows. Medians of rounds in which both take turns; *ours over theirs* below 1 means that ours is
faster. *apart* is the largest difference of the two log-densities with the exact trace (the probes
of an estimate differ).

Run ``python benchmarks/likelihood_speed.py [--rounds 20] [--quick]``; flow_matching is asked for
where it is installed, or unpacked in a folder given by ``--peer``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import transportflows as tpf
from _common import header, in_turns, table

STEPS = 20


class Plain(nn.Module):
    """A network of a user: states and time through linear layers."""

    def __init__(self, d: int, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(d + 1, width)]
        for _ in range(depth - 1):
            layers += [nn.SiLU(), nn.Linear(width, width)]
        self.body = nn.Sequential(*layers, nn.SiLU(), nn.Linear(width, d))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Of the shape of x."""
        return self.body(torch.cat([x, t.expand(len(x)).unsqueeze(1)], 1))  # type: ignore


def networks(d: int) -> dict[str, nn.Module]:
    """By name."""
    torch.manual_seed(0)
    return {
        "MLP 4 x 64": tpf.networks.MLP(d, 64, 4).eval(),
        "MLP 4 x 256": tpf.networks.MLP(d, 256, 4).eval(),
        "plain 4 x 64": Plain(d, 64, 4).eval(),
    }


def pair(net: nn.Module, x: Tensor, divergence: str) -> dict[str, Callable[[], Tensor]]:
    """Our log-densities and theirs."""
    from flow_matching.solver import ODESolver
    from flow_matching.utils import ModelWrapper

    class Wrapped(ModelWrapper):  # type: ignore[misc]
        def forward(self, x: Tensor, t: Tensor, **extras: object) -> Tensor:
            return self.model(t, x)  # type: ignore[no-any-return]

    base = tpf.Gaussian((x.shape[1],))
    field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=base))
    solver = ODESolver(velocity_model=Wrapped(net))
    exact = divergence == "exact"
    return {
        "ours": lambda: (
            tpf.log_likelihood(
                field, x, divergence=divergence, probes=1, scheme="midpoint", steps=STEPS
            ).log_prob
        ),
        "flow_matching": lambda: solver.compute_likelihood(
            x, base.log_prob, 1 / STEPS, method="midpoint", exact_divergence=exact
        )[1],
    }


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--points", type=int, nargs="*", default=(1_000, 10_000))
    parser.add_argument("--patience", type=float, default=30.0, help="seconds to wait for quiet")
    parser.add_argument("--quick", action="store_true", help="one size, few rounds, no file")
    parser.add_argument("--peer", nargs="*", default=())
    given = parser.parse_args()
    sys.path += given.peer
    torch.set_num_threads(1)
    sizes = given.points[:1] if given.quick else given.points
    rounds, patience = (5, 0.0) if given.quick else (given.rounds, given.patience)
    rows = []
    for n in sizes:
        for d in (2, 16):
            x = torch.randn(n, d, generator=torch.Generator().manual_seed(1))
            for name, net in networks(d).items():
                for divergence in ("exact", "hutchinson"):
                    blocks = pair(net, x, divergence)
                    apart = (blocks["ours"]() - blocks["flow_matching"]()).abs().max()
                    found = in_turns(blocks, rounds if n < 5_000 else min(rounds, 5), patience)
                    what = "exact trace" if divergence == "exact" else "one probe"
                    rows.append(
                        [
                            name, f"{n:,}", d, what, f"{1e3 * found.median('ours'):.1f}",
                            f"{1e3 * found.median('flow_matching'):.1f}",
                            found.spread("ours", "flow_matching"),
                            f"{float(apart):.1e}" if divergence == "exact" else "",
                        ]
                    )  # fmt: skip
                    print(*rows[-1], sep=" | ", flush=True)
    head = ["network", "rows", "d", "divergence", "ms, ours", "ms, theirs"]
    text = table([*head, "ours over theirs", "apart"], rows)
    if not given.quick:
        text = header(__doc__, "torchdiffeq", *given_packages()) + text
        (Path(__file__).parent / "results" / "likelihood_speed.md").write_text(text)


def given_packages() -> tuple[str, ...]:
    """Peers whose version is known."""
    return ("flow_matching",)


if __name__ == "__main__":
    main()
