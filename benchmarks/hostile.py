"""Files that were damaged or made to do harm, and what reading them does.

A real checkpoint (MLP, averages, optimizer, history) and a real saved field are cut short at 100
offsets, have one of their bits flipped at each of 2,000 random places and at every place of the
first 300 bytes, and are replaced by pickles that make a folder when they are loaded (alone, by
torch.save in both of its formats, behind and inside the real file). Each is given to `Trainer.load`
or `load_field`. A file counts as refused if that raises a DamagedFileError that names the file, and
leaves the trainer as it was.

Run ``python benchmarks/hostile.py``; prints a table in Markdown.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import transportflows as tpf
from _common import header, table

FLIPS = 2_000


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


def variants(whole: bytes, bomb: Bomb) -> Iterator[tuple[str, bytes]]:
    """Kinds of damage, and files that have it."""
    for k in range(100):
        yield "cut short", whole[: k * len(whole) // 100]
    draw = random.Random(0)
    places = [*range(8 * 300), *(draw.randrange(8 * len(whole)) for _ in range(FLIPS))]
    for place in places:
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        yield "a flipped bit", bytes(changed)
    pickled = pickle.dumps(bomb)
    yield "a pickle that runs code", pickled
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"state": bomb}, buffer, _use_new_zipfile_serialization=zipped)
        yield "a pickle that runs code", buffer.getvalue()
    yield "a pickle that runs code", whole + pickled
    middle = len(whole) // 2
    yield "a pickle that runs code", whole[:middle] + pickled + whole[middle + len(pickled) :]


def main() -> None:
    """Try them all and print."""
    torch.set_num_threads(1)
    print(header(__doc__))
    law = tpf.Process(tpf.Linear(), tpf.Gaussian((2,)))
    field = tpf.Velocity(tpf.networks.MLP(2, 32, 3), law)
    trainer = tpf.Trainer(field, tpf.VelocityLoss(), ema=0.99)
    trainer.fit(torch.randn(500, 2), steps=50, progress=False)
    before = [p.detach().clone() for p in trainer.parameters]
    counts: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path, mark = Path(scratch) / "a.file", Path(scratch) / "it_ran"
        for what, write, read in (
            ("checkpoint", trainer.save, trainer.load),
            ("field", field.save, tpf.load_field),
        ):
            write(path)
            whole = path.read_bytes()
            for damage, content in variants(whole, Bomb(str(mark))):
                path.write_bytes(content)
                refused = False
                try:
                    read(path)
                except tpf.fields.DamagedFileError as error:
                    refused = str(path) in str(error)
                same = all(map(torch.equal, before, trainer.parameters))
                count = counts.setdefault(f"{what}: {damage}", [0, 0, 0])
                count[0] += 1
                count[1] += refused and same
                count[2] += mark.exists()
    rows = [(kind, n, f"{refused} of {n}", ran) for kind, (n, refused, ran) in counts.items()]
    print(table(("damage", "files", "refused, trainer unchanged", "ran code"), rows))
    sys.exit(0 if all(n == refused and not ran for n, refused, ran in counts.values()) else 1)


if __name__ == "__main__":
    main()
