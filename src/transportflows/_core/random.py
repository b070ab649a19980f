"""Random streams: one key from the user's generator, every inner stream a function of it.

A user's :class:`torch.Generator`, on any device, is asked for one integer, the *key*. Loops
(sampling, training) then seed a generator on the device of their tensors from ``(key, step)``,
so that the same seed gives the same result, noise does not depend on chunking, and a run can be
resumed from ``(key, step)`` alone. ``generator=None`` means torch's default generator, as it does
everywhere in torch.
"""

from __future__ import annotations

import torch

from .arguments import generator_of

__all__ = ["draw_key", "local", "mix", "stream"]

_MASK = (1 << 64) - 1


def draw_key(generator: torch.Generator | None) -> int:
    """Draw one 63-bit integer from ``generator`` (torch's default one if it is None)."""
    device = "cpu"
    if generator is not None:
        device = generator_of("generator", generator).device  # type: ignore[union-attr, assignment]
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device, dtype=torch.int64))


def mix(key: int, *path: int) -> int:
    """Hash ``key`` and the integers of ``path`` into one 63-bit seed (splitmix64 finaliser)."""
    state = key & _MASK
    for word in path:
        state = (state + 0x9E3779B97F4A7C15 * ((word & _MASK) + 1)) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def stream(key: int, *path: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on ``device`` whose state is a function of ``key`` and ``path``."""
    return torch.Generator(device).manual_seed(mix(key, *path))


def local(generator: torch.Generator | None, device: torch.device | str) -> torch.Generator | None:
    """Return a generator that can draw on ``device``.

    ``generator`` itself where it lives on that kind of device (or is None), otherwise a new one
    seeded by one key drawn from it.
    """
    if generator is None:
        return None
    if not isinstance(generator, torch.Generator):
        generator_of("generator", generator)
    if generator.device == device or generator.device.type == torch.device(device).type:
        return generator
    return stream(draw_key(generator), device=device)
