"""Train fields in a loop of your own, in plain PyTorch: no Trainer.

A field is an ``nn.Module`` and a loss gives one value a row, so any loop serves. The one here
learns a velocity, and then a pair of mean velocity and noise, of paths to eight Gaussians. Their
exact fields are known, so what is printed is how far the learned ones are from them.

Run: python examples/own_loop.py     (a few seconds)
"""

import torch

import transportflows as tpf


def train(field, loss, data, *, steps=1_000, batch_size=256, lr=2e-3, generator=None):
    """Minimise the mean of a loss over the networks of a field."""
    optimizer = torch.optim.Adam(field.parameters(), lr=lr)
    for _ in range(steps):
        rows = torch.randint(len(data), (batch_size,), generator=generator)
        optimizer.zero_grad()
        loss(field, data[rows], generator=generator).mean().backward()
        optimizer.step()


def tasks():
    """A velocity with its loss, and a pair with a loss for each of its outputs."""
    process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
    yield tpf.Velocity(tpf.networks.MLP(2, width=64, depth=3), process), tpf.VelocityLoss()

    process = tpf.Process(tpf.Linear(tpf.Brownian()), base=tpf.Gaussian((2,)))
    v, eta = (tpf.networks.MLP(2, width=64, depth=3) for _ in range(2))
    pair = tpf.FieldPair(mean_velocity=v, noise=eta, process=process)
    yield pair, tpf.losses.SumLoss(tpf.MeanVelocityLoss(), tpf.NoiseLoss())


@torch.no_grad()
def excess(field, data, generator=None):
    """``E|f̂ - f|²`` of each output against the exact field, over ``E|f|²``."""
    angles = torch.arange(8) * torch.pi / 4
    means = 4 * torch.stack([angles.cos(), angles.sin()], dim=1)
    exact = tpf.oracle(field.process, tpf.distributions.GaussianMixture(means, scale=0.4))
    sample = field.process.sample(data, generator=generator)
    found = {}
    for quantity in field.outputs:
        size = getattr(exact, quantity)(sample.t, sample.x).square().flatten(1).sum(1).mean()
        found[quantity] = float(
            tpf.losses.squared_error(field, exact, sample, quantity).mean() / size
        )
    return found


def main() -> None:
    """Train both and print what is left."""
    torch.manual_seed(0)
    data = tpf.datasets.eight_gaussians(20_000)
    for field, loss in tasks():
        train(field, loss, data)
        print(excess(field, data))


if __name__ == "__main__":
    main()
