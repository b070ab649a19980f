"""From a masked image to images: one hole, several ways to fill it, at several ε.

A path starts at the masked image with noise in the hole, ends at the image, and is paired: x0 and
x1 agree outside the hole. The mask is a condition of the network. Without a latent (γ = 0) a
velocity is learned, which has no score here, since x0 depends on x1; with one the mean velocity and
the noise are, by one U-Net with two heads, and every ε is sampled from it. The table says how well
what was seen is kept, what the hole is filled with, and how much two fillings differ.

Run: python examples/mask_to_image.py          (5,000 digits; some six minutes of one core)
     python examples/mask_to_image.py --quick  (half a minute, and it looks like that)
     python examples/mask_to_image.py --data celeba --crop 178 --size 64 --width 64 --batch-size 128

``--interpolant``, ``--gamma`` and ``--epsilon`` choose the path and the diffusion, and ``--told``
gives the network what is seen beside the mask. It writes mask_to_image.png.
"""

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import transportflows as tpf

PATHS = {
    "linear": tpf.Linear,
    "trigonometric": tpf.Trigonometric,
    "encoder-decoder": tpf.EncoderDecoder,
}
GAMMAS = {
    "none": lambda: None,
    "brownian": tpf.Brownian,
    "quadratic": tpf.interpolants.Quadratic,
    "sine-squared": tpf.interpolants.SineSquared,
}


def masks(n: int, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Booleans ``(n, 1, H, W)``, true where the image is seen.

    The hole is half as wide and half as high as the image, at a random place within its middle 5/7
    (of a digit of 28 x 28 that is the box of 20 x 20 which it fills).
    """
    seen = torch.ones(n, 1, *shape[-2:], dtype=torch.bool)
    for k in range(n):
        place = []
        for length in shape[-2:]:
            first, last = length // 7, length - length // 7 - length // 2
            place.append(int(torch.randint(first, last + 1, (), generator=generator)))
        top, left = place
        seen[k, 0, top : top + shape[-2] // 2, left : left + shape[-1] // 2] = False
    return seen


def masked(x1: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The start x0 of a path: the image where it is seen, and standard noise in the hole."""
    return torch.where(mask, x1, torch.randn(x1.shape, generator=generator))


class MaskedPairs(torch.utils.data.Dataset):
    """Pairs (x0, x1) and masks: a new hole and new noise whenever an image is taken.

    Args:
        images: the images.
        told: give what is seen, ``mask * x1``, as a condition beside the mask.
    """

    def __init__(self, images: tpf.datasets.Images, told: bool = False) -> None:
        self.images, self.told = images, told

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Draw from torch's generator, which ``fit`` seeds for each item."""
        x1 = self.images[i]["x1"]
        mask = masks(1, x1.shape)[0]
        return {"x1": x1, "x0": masked(x1, mask), **conditions(x1, mask, self.told)}


def conditions(x1: Tensor, mask: Tensor, told: bool) -> dict[str, Tensor]:
    """What the network is given beside t and x_t."""
    return {"mask": mask, "seen": x1 * mask} if told else {"mask": mask}


def make_field(
    path: str, gamma: str, shape: Sequence[int], width: int, *, told: bool = False, seed: int = 0
) -> tpf.Field:
    """The field of a path and a latent, untrained.

    One network with two heads, not two networks: both see the same states and conditions, every
    step of sampling needs both (b = v + γ̇ η even at ε = 0), and so a call costs half. The mean
    velocity is learned rather than b: its target has no γ̇, which is infinite at the ends of a
    Brownian latent.
    """
    process = tpf.Process(PATHS[path](GAMMAS[gamma]()), coupling=tpf.Paired(), shape=shape)
    latent = process.interpolant.has_latent
    small = {"multipliers": (1, 2), "blocks": 1} if max(shape[-2:]) <= 32 else {}
    if small and shape[-1] % 2 == shape[-2] % 2 == 0:
        small["patch"] = 2  # a quarter of the time
    net = tpf.networks.UNet(
        shape,
        width,
        **small,
        images={"mask": 1, "seen": shape[0]} if told else {"mask": 1},
        heads=2 if latent else 1,
        generator=torch.Generator().manual_seed(seed),
    )
    if latent:
        return tpf.FieldPair(heads=net, outputs=("mean_velocity", "noise"), process=process)
    return tpf.Velocity(net, process)


def train(
    field: tpf.Field, pairs: MaskedPairs, steps: int, batch_size: int, *, seed: int = 0
) -> tpf.Field:
    """Regress on the default losses; return the field with the average of its weights."""
    trainer = tpf.Trainer(field, lr=2e-3, scheduler="cosine", warmup=50, ema=0.99)
    generator = torch.Generator().manual_seed(seed)
    trainer.fit(pairs, steps=steps, batch_size=batch_size, generator=generator)
    return trainer.averaged_field()


def fill(
    field: tpf.Field,
    x1: Tensor,
    mask: Tensor,
    epsilons: Sequence[float],
    *,
    draws: int = 2,
    steps: int = 50,
    told: bool = False,
    seed: int = 0,
) -> dict[float, tpf.Solution | str]:
    """Fill each hole ``draws`` times: by ε the solution, or why the library refuses it.

    States are ``(draws * n, C, H, W)``, draw by draw. Starts are the same for all ε, and differ
    between draws by the noise in the hole.
    """
    generator = torch.Generator().manual_seed(seed)
    x1, mask = x1.repeat(draws, 1, 1, 1), mask.repeat(draws, 1, 1, 1)
    start, found = masked(x1, mask, generator), {}
    device = field.reference().device
    cond = {name: c.to(device) for name, c in conditions(x1, mask, told).items()}
    for epsilon in epsilons:
        try:
            found[epsilon] = tpf.sample(
                field,
                start=start.to(device),
                cond=cond,
                epsilon=epsilon,
                scheme="rk4",
                steps=steps,
                save_at=11,
                progress=True,
                generator=torch.Generator().manual_seed(seed),
            )
        except tpf.ConversionError as error:
            found[epsilon] = str(error)
    return found


# ------------------------------------------------------------------------------- what came of it


class Reader(nn.Module):
    """A small convolutional network that says which digit an image is."""

    def __init__(self, images: tpf.datasets.Images, epochs: int = 5, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(images.shape[0], 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(10),
        )
        x, y = images.floats(), images.labels
        self.layers(x[:2])
        with torch.no_grad():
            for p in self.parameters():
                bound = p[0].numel() ** -0.5 if p.ndim > 1 else 0.0
                p.uniform_(-bound, bound, generator=generator)
        optimizer = torch.optim.Adam(self.parameters(), 2e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(x), generator=generator).split(64):
                moved = x[rows].roll(tuple(torch.randint(-1, 2, (2,), generator=generator)), (2, 3))
                optimizer.zero_grad()
                nn.functional.cross_entropy(self.layers(moved), y[rows]).backward()
                optimizer.step()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The digit of each image."""
        return self.layers(x.clamp(-1, 1)).argmax(1)


def bootstrap(
    statistic, n: int, *, resamples: int = 1_000, seed: int = 0
) -> tuple[float, float, float]:
    """A statistic of n images and its 95 % interval: percentiles over resampled images.

    Args:
        statistic: of weights ``(W, n)`` that add up to n in each row, one value a row.
        n: number of images.
        resamples: how many times they are drawn anew.
        seed: of these draws.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (resamples, n), generator=generator)
    weights = torch.zeros(resamples, n).scatter_add_(1, drawn, torch.ones(resamples, n))
    found = statistic(weights)
    low, high = torch.nanquantile(found, torch.tensor([0.025, 0.975])).tolist()
    return float(statistic(torch.ones(1, n))), low, high


def inside(error: Tensor, where: Tensor) -> Tensor:
    """Mean of pixels of a place, ``(n,)``, over draws ``(R, n, C, H, W)``."""
    where = where.expand_as(error).to(error)
    return (error * where).sum((0, 2, 3, 4)) / where.sum((0, 2, 3, 4))


def measure(x: Tensor, x1: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What two draws or more ``(R, n, C, H, W)`` for each of n images are like, image by image.

    Squares of: the error where the image is seen; that in the hole; and half the distance of two
    draws in the hole, as a spread. If the draws are from p(x1 | seen), a draw is as far from the
    truth as from another draw, so that *the ratio of spread to error is 1*; below it draws vary too
    little.
    """
    error = (x - x1).square()
    apart = torch.stack([(x[0] - x[k]).square() for k in range(1, len(x))])
    return {
        "seen": inside(error, mask),
        "hole": inside(error, ~mask),
        "spread": inside(apart, ~mask),
    }


def energy(x: Tensor, others: Tensor):
    """The energy distance of n images, with draws ``(R, n, *)``, to others: of weights, a value.

    Without bias: two draws for one image, and an image resampled twice, are no pair.
    """
    x, others = x.flatten(2), others.flatten(1)
    n = x.shape[1]
    away = torch.stack([torch.cdist(one, others).mean(1) for one in x]).mean(0)
    within = torch.stack([torch.cdist(a, b) for a in x for b in x]).mean(0).fill_diagonal_(0)
    theirs = torch.cdist(others, others).sum() / (len(others) * (len(others) - 1))

    def statistic(w: Tensor) -> Tensor:
        pairs = w.sum(1).square() - w.square().sum(1)
        return 2 * (w @ away) / n - ((w @ within) * w).sum(1) / pairs - theirs

    return statistic


def report(
    found: dict[float, tpf.Solution | str],
    x1: Tensor,
    mask: Tensor,
    labels: Tensor | None,
    others: Tensor,
    reader: Reader | None,
) -> None:
    """Print what each ε comes to, with 95 % intervals over images."""
    n, names = len(x1), ["rms, seen", "rms, hole", "spread, hole", "spread/rms", "energy"]
    print(f"\n{'ε':>8} " + " ".join(f"{name:>22}" for name in [*names, "reader agrees"]))
    truth = bootstrap(energy(x1[None], others), n)
    agrees = [] if reader is None else [(reader(x1) == labels).float()]
    rows = [_cells([None] * 4 + [truth] + [bootstrap(mean(a), n) for a in agrees])]
    print(f"{'(truth)':>8} {rows[0]}")
    for epsilon, solution in found.items():
        if isinstance(solution, str):
            print(f"{epsilon:>8} refused: {solution}")
            continue
        x = solution.x.cpu().view(-1, *x1.shape)
        got = measure(x, x1, mask)
        filled = torch.where(mask, x1, x)
        values = [bootstrap(mean(got[name], root=True), n) for name in ("seen", "hole", "spread")]
        values.append(bootstrap(ratio(got["spread"], got["hole"], root=True), n))
        values.append(bootstrap(energy(filled, others), n))
        if reader is not None:
            same = torch.stack([(reader(one) == labels).float() for one in filled]).mean(0)
            values.append(bootstrap(mean(same), n))
        print(f"{epsilon:>8} {_cells(values)}")


def mean(values: Tensor, root: bool = False):
    """The mean over images, or its root, of weights."""
    return lambda w: ((w @ values) / w.sum(1)).pow(0.5 if root else 1.0)


def ratio(a: Tensor, b: Tensor, root: bool = False):
    """The ratio of two means over images, or its root, of weights."""
    return lambda w: ((w @ a) / (w @ b)).pow(0.5 if root else 1.0)


def _cells(values: Sequence[tuple[float, float, float] | None]) -> str:
    texts = ["" if v is None else f"{v[0]:.3f} ({v[1]:.3f}, {v[2]:.3f})" for v in values]
    return " ".join(f"{text:>22}" for text in texts)


def draw(found: dict[float, tpf.Solution | str], x1: Tensor, mask: Tensor, path: str) -> None:
    """Write a picture: the image, what is seen of it, and two fillings at each ε."""
    columns = {"image": x1, "seen": torch.where(mask, x1, torch.zeros_like(x1))}
    for epsilon, solution in found.items():
        if not isinstance(solution, str):
            one, two = solution.x.cpu().view(-1, *x1.shape)[:2]
            columns |= {f"ε = {epsilon:g}": one, f"again, {epsilon:g}": two}
    rows = torch.stack([x[:10] for x in columns.values()])
    figure = tpf.plots.strip(rows, torch.arange(len(columns)), limits=(-1, 1))
    figure.axes[0].set_xticklabels(list(columns), fontsize=6)
    figure.savefig(path, dpi=140)
    print(f"wrote {path}")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, fill holes, compare and draw."""
    args = arguments(argv)
    started = time.perf_counter()
    split = torch.Generator().manual_seed(0)
    if args.data is None:
        images = tpf.datasets.mnist()
    else:
        images = tpf.datasets.image_folder(args.data, size=args.size, crop=args.crop, flip=True)
    train_images, held_out = images.split(0.2, generator=split)
    n = min(args.images, len(held_out) // 2)
    x1, others = held_out.floats()[:n], held_out.floats()[n:][:500]
    mask = masks(n, x1.shape, torch.Generator().manual_seed(1))

    digits = args.data is None
    reader = Reader(train_images, 1 if args.quick else 5) if digits else None
    field = make_field(args.interpolant, args.gamma, images.shape, args.width, told=args.told)
    size = sum(p.numel() for p in field.parameters())
    print(f"{args.interpolant}, latent {args.gamma}, U-Net of {size:,}, {len(images):,} images")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    field = train(
        field.to(device), MaskedPairs(train_images, args.told), args.steps, args.batch_size
    )
    found = fill(field, x1, mask, args.epsilon, steps=args.sampling_steps, told=args.told)
    report(found, x1, mask, held_out.labels[:n] if digits else None, others, reader)
    draw(found, x1, mask, args.out)
    print(f"{time.perf_counter() - started:.0f} s in all")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--interpolant", choices=PATHS, default="linear")
    parser.add_argument("--gamma", choices=GAMMAS, help="default: brownian, or the path's own")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.0, 0.25, 0.5])
    parser.add_argument("--told", action="store_true", help="give the network what is seen, too")
    parser.add_argument("--data", help="a folder of images; without one, digits")
    parser.add_argument("--size", type=int, default=64, help="to which they are made")
    parser.add_argument("--crop", type=int, help="pixels cut out of the middle before; CelebA: 178")
    parser.add_argument("--width", type=int, help="of the U-Net: 24 for digits, 64 (10 M) else")
    parser.add_argument("--steps", type=int, help="of training: 1,000 for digits, 50,000 else")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--sampling-steps", type=int, default=50, help="of RK4")
    parser.add_argument("--images", type=int, default=64, help="held-out images to fill")
    parser.add_argument("--out", default="mask_to_image.png")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see it run")
    args = parser.parse_args(argv)
    digits = args.data is None
    args.gamma = args.gamma or {"encoder-decoder": "sine-squared"}.get(args.interpolant, "brownian")
    args.width = args.width or (24 if digits else 64)
    args.steps = args.steps or (1_000 if digits else 50_000)
    if args.quick:
        args.steps, args.batch_size, args.sampling_steps, args.images = 40, 32, 10, 8
        args.width = args.width if digits else min(args.width, 8)
    return args


if __name__ == "__main__":
    main()
