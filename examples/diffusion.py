"""Train a diffusion on real handwritten digits, and sample it in as many calls as you can afford.

The data are scikit-learn's 1,797 images of 8 x 8 pixels. One network with EDM's preconditioning
learns the data prediction of the variance-preserving process; it is a one-sided process like any
other, so the probability flow, the reverse SDE, DDIM, ancestral steps, few-step integrators and the
predictor-corrector are choices made when sampling. The table compares the samples with digits that
were held out of the training.

Run: python examples/diffusion.py     (about a minute on two cores; writes diffusion.png)
"""

import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import transportflows as tpf


def main(steps: int = 6_000) -> None:
    """Train, sample, compare and draw."""
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(0)

    train, test = tpf.datasets.digits().split(0.3, generator=generator)

    process = tpf.Process(tpf.VP(beta_min=0.1, beta_max=20.0), shape=(1, 8, 8))
    net = tpf.networks.MLP((1, 8, 8), width=256, depth=4, generator=generator)
    transform = tpf.Standardize.fit(train.images, shared="all")
    field = tpf.EDM(net, process, sigma_data=1.0, transform=transform)

    loss = tpf.DataLoss(
        weight=tpf.losses.EDMWeight(sigma_data=1.0), times=tpf.times.EDMTimes(mean=-0.4)
    )
    trainer = tpf.Trainer(field, loss, ema=0.999)
    history = trainer.fit(
        train.images, steps=steps, batch_size=256, validation=test.images, generator=generator
    )

    karras = tpf.solve.noise_grid(process, 50, spacing="karras")
    few = tpf.solve.noise_grid(process, 10, spacing="quadratic")
    ways = {
        "probability flow, Heun": {"t": karras},
        "reverse SDE, Heun": {"t": karras, "epsilon": tpf.solve.AndersonEpsilon()},
        "churn 10, Heun": {"t": karras, "epsilon": tpf.solve.ChurnEpsilon(10.0)},
        "ancestral steps": {"t": karras, "scheme": "ancestral"},
        "predictor-corrector": {
            "t": karras,
            "scheme": "ancestral",
            "corrector": tpf.langevin.LangevinCorrector(snr=0.16, norm="nominal"),
        },
        "DDIM": {"t": few, "scheme": "ddim"},
        "DPM-Solver++(2M)": {"t": few, "scheme": "dpm2m"},
        "UniPC-2": {"t": few, "scheme": "unipc2"},
    }
    solutions = {}
    with trainer.averaged():
        for name, how in ways.items():
            solutions[name] = tpf.sample(field, len(test.images), generator=generator, **how)

    report(solutions, train.images, test.images)
    draw(solutions, test.images)
    print(f"loss {history.loss[-100:].mean():.2f}; {time.perf_counter() - started:.0f} s in all")


def report(solutions: dict[str, tpf.Solution], train: torch.Tensor, test: torch.Tensor) -> None:
    """Print distances to the held-out digits, beside the floor: training digits against them."""
    rows = {"training digits (floor)": ("", train[: len(test)])}
    rows |= {name: (solution.nfe, solution.x) for name, solution in solutions.items()}
    print(f"\n{'against held-out digits':<30} {'calls':>6} {'W2':>8} {'energy distance':>16}")
    for name, (nfe, x) in rows.items():
        w2 = tpf.metrics.wasserstein2(x, test)
        energy = tpf.metrics.energy_distance(x, test, unbiased=True)
        print(f"{name:<30} {nfe:>6} {w2:>8.3f} {energy:>16.4f}")


def draw(solutions: dict[str, tpf.Solution], test: torch.Tensor) -> None:
    """Write diffusion.png: a row of held-out digits, then one of samples for each way."""
    rows = {"held-out digits": test}
    rows |= {f"{name} ({s.nfe} calls)": s.x for name, s in solutions.items()}
    figure, axes = plt.subplots(len(rows), 1, figsize=(8, 6.6))
    for axis, (title, images) in zip(axes, rows.items(), strict=True):
        tiles = torch.nn.functional.pad(images[:25], (1, 1, 1, 1), value=-1.0)
        axis.imshow(tiles.permute(1, 2, 0, 3).reshape(10, 250), cmap="gray_r", vmin=-1, vmax=1)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig("diffusion.png", dpi=120)
    print("wrote diffusion.png")


if __name__ == "__main__":
    main()
