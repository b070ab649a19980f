"""Train a stochastic interpolant on real handwritten digits, and sample it at four values of ε.

The data are scikit-learn's 1,797 images of 8 x 8 pixels. One network learns the velocity of the
path x_t = (1 - t) x0 + t x1 from Gaussian noise to digits; because the base is Gaussian, the same
network gives the score, so ε is chosen when sampling: ε = 0 is an ODE, ε > 0 an SDE, all with the
same marginals. The table compares the samples with digits that were held out of the training.

Run: python examples/quickstart.py     (about a minute on two cores; writes quickstart.png)
"""

import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import transportflows as tpf

EPSILONS = [0.0, 0.25, 0.5, 1.0]


def main(steps: int = 6_000) -> None:
    """Train, sample, compare and draw."""
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(0)

    train, test = tpf.datasets.digits().split(0.3, generator=generator)

    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((1, 8, 8)))
    net = tpf.networks.MLP((1, 8, 8), width=256, depth=4, generator=generator)
    transform = tpf.Standardize.fit(train.images, shared="all")
    field = tpf.Velocity(net, process, transform=transform)

    trainer = tpf.Trainer(field, tpf.VelocityLoss(), ema=0.999)
    history = trainer.fit(
        train.images, steps=steps, batch_size=256, validation=test.images, generator=generator
    )
    with trainer.averaged():
        n = len(test.images)
        samples = tpf.sample(field, n, epsilon=EPSILONS, steps=100, generator=generator).x

    report(samples, train.images, test.images)
    draw(samples, test.images)
    print(f"loss {history.loss[-100:].mean():.2f}; {time.perf_counter() - started:.0f} s in all")


def report(samples: torch.Tensor, train: torch.Tensor, test: torch.Tensor) -> None:
    """Print distances to the held-out digits, beside the floor: training digits against them."""
    rows = {"training digits (floor)": train[: len(test)]}
    rows |= {f"samples, epsilon = {e:g}": x for e, x in zip(EPSILONS, samples, strict=True)}
    rows["pixels shuffled between digits"] = shuffle_pixels(train[: len(test)])
    print(f"\n{'against held-out digits':<30} {'W2':>8} {'energy distance':>16}")
    for name, x in rows.items():
        w2 = tpf.metrics.wasserstein2(x, test)
        energy = tpf.metrics.energy_distance(x, test, unbiased=True)
        print(f"{name:<30} {w2:>8.3f} {energy:>16.4f}")


def shuffle_pixels(x: torch.Tensor) -> torch.Tensor:
    """Give each pixel the value it has in some other digit: right marginals, no digits."""
    generator = torch.Generator().manual_seed(1)
    order = torch.rand(x.flatten(1).shape, generator=generator).argsort(0)
    return x.flatten(1).gather(0, order).view_as(x)


def draw(samples: torch.Tensor, test: torch.Tensor) -> None:
    """Write quickstart.png: two rows of held-out digits, then two of samples for each ε."""
    titles = ["held-out digits", *(f"samples, ε = {e:g}" for e in EPSILONS)]
    figure, axes = plt.subplots(len(titles), 1, figsize=(8, 5.6))
    for axis, title, images in zip(axes, titles, [test, *samples], strict=True):
        tiles = images[:40].reshape(2, 20, 8, 8)
        tiles = torch.nn.functional.pad(tiles, (1, 1, 1, 1), value=-1.0)
        axis.imshow(tiles.permute(0, 2, 1, 3).reshape(20, 200), cmap="gray_r", vmin=-1, vmax=1)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig("quickstart.png", dpi=120)
    print("wrote quickstart.png")


if __name__ == "__main__":
    main()
