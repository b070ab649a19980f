"""Move a Swiss roll onto two moons with no network, and then train a generator of one call on them.

The first is Weber's score-difference flow (algorithm 1), beside the gradient flow of MMD with the
same schedule; the second a network that regresses on where its own samples are moved
(algorithm 2). What is printed is the energy distance to held-out moons, and its floor.

Run: python examples/particles.py     (about 10 seconds)
"""

import torch

import transportflows as tpf


def main(points: int = 1_000, steps: int = 300, training: int = 1_500) -> dict[str, float]:
    """Run all three; return the energy distances."""
    gen = torch.Generator().manual_seed(0)
    source = tpf.datasets.swiss_roll(points, generator=gen) + 6
    target = tpf.datasets.two_moons(points, generator=gen)
    held_out = tpf.datasets.two_moons(points, generator=gen)
    found = {"training moons (floor)": tpf.metrics.energy_distance(target, held_out)}

    sigma = tpf.particles.ExponentialSigma(4.0, 0.2)
    for name, direction, step in (
        ("score-difference flow", tpf.particles.KernelDifference(), 1.0),
        ("MMD flow", tpf.particles.MMDGradient(), None),  # the first step of norm 0.5
    ):
        flow = tpf.particle_flow(
            source, target, direction=direction, sigma=sigma, step=step, steps=steps, generator=gen
        )
        found[name] = tpf.metrics.energy_distance(flow.x, held_out)

    net = torch.nn.Sequential(
        torch.nn.Linear(2, 128), torch.nn.SiLU(),
        torch.nn.Linear(128, 128), torch.nn.SiLU(),
        torch.nn.Linear(128, 2),
    )  # fmt: skip
    generator = tpf.particles.OneStepGenerator(net, latent=2)
    loss = tpf.particles.MovedTargetLoss(sigma=[0.2, 0.5, 1.5])
    trainer = tpf.Trainer(generator, loss, scheduler="cosine")
    trainer.fit(target, steps=training, batch_size=256, generator=gen, progress=False)
    made = generator.sample(points, generator=gen)
    found["generator, one call a sample"] = tpf.metrics.energy_distance(made, held_out)

    for name, distance in found.items():
        print(f"{name:30} {distance:.4f}")
    return found


if __name__ == "__main__":
    main()
