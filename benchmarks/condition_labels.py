"""Transport within labels: what it does to the law of each class.

Two classes of two modes each, at (-2, ±1) and (2, ±1) with a spread of 0.4, from N(0, Id): a plan
that did not see the labels would send the left half of the base to the left class, and a field of
a class that starts from all of the base would be wrong. `MinibatchOT` plans within each label. One
MLP of 3 times 64 with a label, 3,000 steps of 256, for each coupling and each of two seeds; 2,000
draws of each class by 25 steps of RK4.

- *W2*: mean over classes and seeds of W2 to 2,000 draws of the class, and its ratio to that of the
  independent coupling; *floor* is W2 between two sets of draws;
- *length*: root mean square of `|x(1) - x(0)|` of the trained flows.

Run ``python benchmarks/condition_labels.py``: two minutes of one thread.
"""

from __future__ import annotations

from pathlib import Path

import torch

import transportflows as tpf
from _common import header, table

OUT = Path(__file__).parent / "results" / "condition_labels.md"
CLASSES = [
    tpf.distributions.GaussianMixture(torch.tensor([[x, -1.0], [x, 1.0]]), scale=0.4)
    for x in (-2.0, 2.0)
]


def trained(coupling: tpf.couplings.Coupling | None, seed: int) -> tpf.Field:
    """A velocity with a label."""
    gen = torch.Generator().manual_seed(seed)
    data = torch.cat([law.sample(10_000, generator=gen) for law in CLASSES])
    label = torch.arange(2).repeat_interleave(10_000)
    more = {} if coupling is None else {"coupling": coupling}
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)), **more)
    field = tpf.Velocity(tpf.networks.MLP(2, 64, 3, labels=2, generator=gen), process)
    tpf.Trainer(field).fit(
        data, cond={"label": label}, steps=3_000, batch_size=256, generator=gen, progress=False
    )
    return field


def main() -> None:
    """Train, measure, and write the table."""
    torch.set_num_threads(1)
    gen = torch.Generator().manual_seed(9)
    exact = [[law.sample(2_000, generator=gen) for law in CLASSES] for _ in range(2)]
    floors = [
        tpf.metrics.wasserstein2(law.sample(2_000, generator=gen), x)
        for x, law in zip(exact[0], CLASSES, strict=True)
    ]
    found = {}
    for name, coupling in (("independent", None), ("within labels", tpf.MinibatchOT())):
        errors, lengths = [], []
        for seed in range(2):
            field = trained(coupling, seed)
            for k in range(2):
                start = torch.randn(2_000, 2, generator=gen)
                x = tpf.sample(
                    field, start=start, cond={"label": k}, scheme="rk4", steps=25
                ).x  # fmt: skip
                errors.append(tpf.metrics.wasserstein2(x, exact[seed][k]))
                lengths.append(float((x - start).square().sum(1).mean().sqrt()))
        found[name] = (sum(errors) / len(errors), sum(lengths) / len(lengths))
        print(name, errors, lengths, flush=True)
    base = found["independent"][0]
    rows = [
        [name, f"{w:.3f}", f"{w / base:.2f}", f"{length:.2f}"]
        for name, (w, length) in found.items()
    ]
    rows.append(["floor", f"{sum(floors) / 2:.3f}", f"{sum(floors) / 2 / base:.2f}", ""])
    head = ["coupling", "W2", "over the independent", "length"]
    OUT.write_text("\n".join([header(__doc__), table(head, rows)]))
    print(table(head, rows))


if __name__ == "__main__":
    main()
