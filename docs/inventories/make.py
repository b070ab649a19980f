"""Write the small inventories of names that intersphinx falls back on without a network.

    python docs/inventories/make.py              write them
    python docs/inventories/make.py --check      compare them with the projects' own, by network
    python docs/inventories/make.py --check python=path/to/objects.inv ...     or with files

Each holds only the names that these pages use, with the addresses that the project's own inventory
gives them. Add a name here when a strict build without a network asks for it.
"""

from __future__ import annotations

import re
import sys
import urllib.request
import zlib
from pathlib import Path

HERE = Path(__file__).parent
Entries = dict[tuple[str, str], str]

SITES = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}

# address: (role, names); "$" at the end of an address stands for the name.
TABLES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "python": {
        "library/abc.html#$": [("class", "abc.ABC")],
        "library/collections.abc.html#$": [
            ("class", f"collections.abc.{name}")
            for name in ("Callable", "Iterable", "Iterator", "Mapping", "Sequence", "Sized")
        ],
        "library/contextlib.html#$": [("class", "contextlib.AbstractContextManager")],
        "library/exceptions.html#$": [
            ("exception", name)
            for name in (
                "ArithmeticError",
                "AssertionError",
                "FileNotFoundError",
                "ImportError",
                "KeyboardInterrupt",
                "KeyError",
                "NotImplementedError",
                "OSError",
                "PermissionError",
                "RuntimeError",
                "TypeError",
                "ValueError",
            )
        ],
        "library/functions.html#$": [
            ("class", "bool"),
            ("class", "float"),
            ("class", "int"),
            ("class", "object"),
            ("class", "type"),
        ],
        "library/os.html#$": [("class", "os.PathLike")],
        "library/pathlib.html#$": [("class", "pathlib.Path")],
        "library/stdtypes.html#$": [
            ("class", "dict"),
            ("class", "list"),
            ("class", "str"),
            ("class", "tuple"),
        ],
        "library/typing.html#$": [("class", "typing.NamedTuple"), ("data", "typing.Any")],
    },
    "numpy": {
        "reference/generated/numpy.dtype.html#$": [("class", "numpy.dtype")],
        "reference/generated/numpy.ndarray.html#$": [("class", "numpy.ndarray")],
    },
    "scipy": {
        f"reference/generated/{name}.html#$": [("function", name)]
        for name in ("scipy.stats.energy_distance", "scipy.stats.ks_2samp")
    },
    "torch": {
        "amp.html#$": [("class", "torch.autocast")],
        "data.html#$": [
            ("class", f"torch.utils.data.{name}")
            for name in ("DataLoader", "Dataset", "IterableDataset", "TensorDataset")
        ],
        "distributions.html#$": [("class", "torch.distributions.distribution.Distribution")],
        "distributions.html#module-$": [("module", "torch.distributions")],
        "optim.html#$": [("class", "torch.optim.Optimizer")],
        "size.html#$": [("class", "torch.Size")],
        "tensor_attributes.html#$": [("class", "torch.device"), ("class", "torch.dtype")],
        "tensors.html#$": [("class", "torch.Tensor")],
        **{
            f"generated/{name}.html#$": [(role, name)]
            for role, name in (
                ("class", "torch.Generator"),
                ("class", "torch.nn.Module"),
                ("class", "torch.nn.parallel.DistributedDataParallel"),
                ("class", "torch.nn.parameter.Parameter"),
                ("class", "torch.optim.Adam"),
                ("class", "torch.optim.lr_scheduler.CosineAnnealingLR"),
                ("class", "torch.optim.lr_scheduler.LRScheduler"),
                ("class", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
                ("function", "torch.compile"),
            )
        },
    },
}


def entries(project: str) -> Entries:
    """(role, name) to address, in full."""
    return {
        (role, name): address.replace("$", name)
        for address, names in TABLES[project].items()
        for role, name in names
    }


def encode(project: str) -> bytes:
    """An inventory in Sphinx's format, version 2."""
    lines = [f"{name} py:{role} 1 {at} -\n" for (role, name), at in entries(project).items()]
    header = (
        "# Sphinx inventory version 2\n"
        f"# Project: {project}\n"
        "# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    return header.encode() + zlib.compress("".join(sorted(lines)).encode(), 9)


def decode(content: bytes) -> Entries:
    """The Python names of an inventory in Sphinx's format, version 2."""
    *_, body = content.split(b"\n", 4)
    found = {}
    for line in zlib.decompress(body).decode().splitlines():
        parts = re.fullmatch(r"(\S+)\s+py:(\S+)\s+-?\d+\s+(\S*)\s+.*", line)
        if parts:
            name, role, address = parts.groups()
            found[role, name] = re.sub(r"\$$", lambda _, name=name: name, address)
    return found


def check(project: str, source: str) -> list[str]:
    """What the project's own inventory says otherwise."""
    if "://" in source:
        with urllib.request.urlopen(source, timeout=20) as answer:
            content = answer.read()
    else:
        content = Path(source).read_bytes()
    theirs = decode(content)
    return [
        f"{project}: {name} ({role}) is at {theirs.get((role, name))}, not at {at}"
        for (role, name), at in entries(project).items()
        if theirs.get((role, name)) != at
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        sources = dict(argument.split("=", 1) for argument in sys.argv[2:])
        sources = sources or {name: site + "objects.inv" for name, site in SITES.items()}
        differences = [line for pair in sources.items() for line in check(*pair)]
        sys.exit("\n".join(differences) or 0)
    for name in TABLES:
        (HERE / f"{name}.inv").write_bytes(encode(name))
