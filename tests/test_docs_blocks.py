"""The plain blocks of Python of the pages, run on small things; doctest runs the others."""

import re
import textwrap
from pathlib import Path

import pytest
import torch

import transportflows as tpf

DOCS = Path(__file__).parent.parent / "docs"
PLANE = """
generator = torch.Generator().manual_seed(0)
process = tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,)))
net = tpf.networks.MLP(2, 16, 2, generator=generator)
field = tpf.Velocity(net, process)
data = torch.randn(40, 2, generator=generator)
trainer = tpf.Trainer(field, ema=0.9)
a = 0.5
"""
FORECAST = """
class Net(torch.nn.Linear):
    def forward(self, t, x, *, x0, past):
        return super().forward(torch.cat([t[:, None], x, x0, past], 1))

net = Net(4, 1)
now, following, past = torch.randn(3, 40, 1)
here, before, a = torch.zeros(5, 1), torch.zeros(5, 1), 0.3
"""
MASK = """
from transportflows.inverse import LinearObservation, Mask, MomentMatched
gen = torch.Generator().manual_seed(0)
images = torch.randn(2, 1, 28, 28, generator=gen)
law = tpf.Gaussian((1, 28, 28))
field = tpf.oracle(tpf.Process(tpf.OneSidedLinear(), shape=(1, 28, 28)), law)
"""
DIFFUSERS = """
import diffusers
widths = {"block_out_channels": (8,), "norm_num_groups": 4, "layers_per_block": 1}
blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
unet = diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **widths, **blocks)
scheduler = diffusers.DDIMScheduler(clip_sample=False)
z = torch.randn(2, 1, 8, 8)
"""
FOLDER = """
import os
from PIL import Image
os.mkdir("celeba")
names = [f"{k}.png" for k in range(8)]
for name in names:
    Image.new("RGB", (178, 218), (90, 20, 160)).save(f"celeba/{name}")
rows = [f"{name} {(-1) ** k}" for k, name in enumerate(names)]
with open("celeba/list_attr_celeba.txt", "w") as file:
    file.write("\\n".join(["8", "Smiling", *rows]))
gen = torch.Generator().manual_seed(0)
net = tpf.networks.UNet((3, 64, 64), width=8, multipliers=(1,), blocks=1, labels=2)
field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((3, 64, 64))))
"""
IMAGES = """
law = tpf.Gaussian((1, 8, 8), scale=0.5)
field = tpf.oracle(tpf.Process(tpf.Linear(), base=tpf.Gaussian((1, 8, 8))), law)
"""
SNAPSHOTS = PLANE + "snapshots = [data[k : k + 10] + k for k in range(4)]\n"

SHORT_FOLDER = {"100_000": "1", "128": "2", "cuda": "cpu", "workers=4": "workers=0", "0.05": "0.5"}
BLOCKS = {  # what stands before each block of a page, and what is shorter in it
    "bridges": [
        (PLANE, {"100_000": "40", "20_000": "2", '"batch_size": 512': '"batch_size": 8'}),
        (PLANE, {"1_000": "8"}),
        (FORECAST, {"4_000": "2"}),
        (SNAPSHOTS, {"3_000": "2"}),
        (PLANE, {"3_000": "2", "1_500": "2", "512": "16"}),
    ],
    "inverse": [(MASK, {"steps=50": "steps=2"})],
    "networks": [
        (DIFFUSERS, {"50": "4", "16": "2", "steps=10": "steps=3"}),
        (
            FOLDER,
            {"100_000": "1", "128": "2", "cuda": "cpu", "workers=4": "workers=0", "0.05": "0.5"},
        ),
        (IMAGES, {}),
    ],
    "scale": [(PLANE, {"100_000": "2", "4_096": "16", "50_000": "10"}), None, None],
    "coming_from": [None],
}
WHY_NOT = {  # those that are None
    "scale": "a group of processes, and shards: tests/test_distributed.py and tests/test_shards.py",
    "coming_from": "the program of another library",
}


def blocks(page: str) -> list[str]:
    """The plain blocks of a page."""
    text = (DOCS / f"{page}.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_every_plain_block_is_in_the_list():
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert {page for page in pages if blocks(page)} == set(BLOCKS)
    for page, entries in BLOCKS.items():
        assert len(blocks(page)) == len(entries), page
        assert (None in entries) == (page in WHY_NOT)


@pytest.mark.parametrize(
    ("page", "k"), [(p, k) for p, entries in BLOCKS.items() for k, e in enumerate(entries) if e]
)
def test_a_plain_block_runs(page, k, tmp_path, monkeypatch):
    if page == "networks":
        pytest.importorskip("diffusers" if k == 0 else "PIL" if k == 1 else "matplotlib")
    monkeypatch.chdir(tmp_path)
    before, shorter = BLOCKS[page][k]
    code = textwrap.dedent(blocks(page)[k])
    for long, short in shorter.items():
        assert long in code, long
        code = code.replace(long, short)
    exec(compile(before + code, f"{page}.md", "exec"), {"torch": torch, "tpf": tpf})
