"""Write film.gif, the front page's film: python docs/figures/make_film.py.

The exact field from a Gaussian to five spiral arms, a mixture of 120 narrow Gaussians, moves the
same starts by an ODE and by an SDE. Colours tell the direction of the start: the ODE keeps them in
order, the SDE mixes them, and both have the same law at every time. The ground is the film's own,
so that it is legible on light and dark pages.
"""

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageColor, ImageDraw, ImageFont

import transportflows as tpf

ARMS, EPSILONS, ROWS, FRAMES = 5, (0.0, 1.0), 480, 36
PANEL, HEAD, HEIGHT, TIMES = 300, 24, 350, 3  # pixels, of which so many are drawn for each
REACH, RADIUS, PACE, HOLD = 3.4, 1.8, 70, 1_800  # of the plane; of a point; milliseconds
SHADES = (0.4, 0.75, 1.0)  # of a colour on the ground, which is what a small point has
GROUND, INK, LINE = "#131a26", "#e8ecf2", "#3b4658"
COLOURS = ("#56b4e9", "#e69f00", "#2fc99b", "#f0729f", "#f0e442")
WORDS = ("ε = 0: an ODE", "ε = 1: an SDE")


def law() -> tpf.distributions.GaussianMixture:
    """Five spiral arms."""
    radius = torch.linspace(0.5, 3.1, 24).repeat(ARMS)
    arm = torch.arange(ARMS).repeat_interleave(24) * (2 * math.pi / ARMS)
    angle = arm + 0.55 * radius
    means = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return tpf.distributions.GaussianMixture(means, scale=0.09, weights=radius / radius.sum())


def states() -> tuple[torch.Tensor, torch.Tensor]:
    """States ``(T, 2, n, 2)`` of both solves, and their times."""
    field = tpf.oracle(tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))), law())
    generator = torch.Generator().manual_seed(0)
    how = {"scheme": "heun", "steps": 400, "save_at": FRAMES, "generator": generator}
    solution = tpf.sample(field, ROWS, epsilon=EPSILONS, **how)
    return solution.trajectory, solution.saved_at


def picture(x: torch.Tensor, t: float, colours: list[str]) -> Image.Image:
    """One frame."""
    size = (2 * PANEL * TIMES, HEIGHT * TIMES)
    image = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 15 * TIMES)
    scale, r = PANEL * TIMES / (2 * REACH), RADIUS * TIMES
    for k, words in enumerate(WORDS):
        left = k * PANEL * TIMES
        draw.text((left + PANEL * TIMES / 2, 8 * TIMES), words, INK, font, anchor="mt")
        for (a, b), colour in zip(x[k].tolist(), colours, strict=True):
            i, j = left + (a + REACH) * scale, (REACH - b) * scale + HEAD * TIMES
            if left + r < i < left + PANEL * TIMES - r and j > (HEAD + 3) * TIMES:
                draw.ellipse((i - r, j - r, i + r, j + r), fill=colour)
    begin, end, y = 40 * TIMES, size[0] - 110 * TIMES, size[1] - 16 * TIMES
    draw.line((begin, y, end, y), LINE, 3 * TIMES)
    draw.line((begin, y, begin + t * (end - begin), y), INK, 3 * TIMES)
    draw.text((end + 14 * TIMES, y), f"t = {t:.2f}", INK, font, anchor="lm")
    return image.resize((2 * PANEL, HEIGHT), Image.Resampling.LANCZOS)


def palette() -> np.ndarray:
    """Ground, words and the shades of each colour, ``(colours, 3)``."""
    ground = np.array(ImageColor.getrgb(GROUND))
    full = np.array([ImageColor.getrgb(colour) for colour in (INK, LINE, *COLOURS)])
    shades = [ground + s * (full - ground) for s in SHADES]
    return np.concatenate([ground[None], *shades]).round().astype(np.uint8)


def flat(image: Image.Image, colours: np.ndarray) -> Image.Image:
    """A frame in the nearest of the colours, so that all frames have one palette."""
    pixels, place = np.unique(np.array(image).reshape(-1, 3), axis=0, return_inverse=True)
    distance = np.square(pixels[:, None].astype(int) - colours[None].astype(int)).sum(2)
    index = distance.argmin(1).astype(np.uint8)[place.reshape(-1)]
    found = Image.fromarray(index.reshape(image.height, image.width), mode="P")
    found.putpalette(colours.reshape(-1).tolist())
    return found


def main() -> None:
    """Write the film, with one palette for all frames."""
    x, times = states()
    angle = torch.atan2(x[0, 0, :, 1], x[0, 0, :, 0])
    arm = ((angle / (2 * math.pi) + 0.5) * ARMS).long().clamp(0, ARMS - 1)
    colours = [COLOURS[k] for k in arm.tolist()]
    frames = [
        flat(picture(at, float(t), colours), palette()) for at, t in zip(x, times, strict=True)
    ]
    path = Path(__file__).parent / "film.gif"
    how = {"duration": [PACE] * (FRAMES - 1) + [HOLD], "loop": 0}
    frames[0].save(path, save_all=True, append_images=frames[1:], **how)


if __name__ == "__main__":
    main()
