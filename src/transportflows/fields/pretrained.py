"""Fields from folders, local ones and those of a model hub."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .._core.signatures import checked
from ..process import Process
from .base import Field
from .files import load_field
from .saving import FILE_NAME

__all__ = ["from_pretrained"]


@checked
def from_pretrained(
    folder: str | os.PathLike[str],
    net: Any | tuple[Any, Any] | None = None,
    *,
    process: Process | None = None,
    classes: Iterable[type] = (),
    device: torch.device | str = "cpu",
    revision: str | None = None,
) -> Field:
    """Read a field from a folder that ``field.save_pretrained(folder)`` wrote, in evaluation mode.

    What is no local folder is taken for the name of a repository of the Hugging Face hub,
    ``"owner/name"``, from which its one file is fetched by ``huggingface_hub``, if that is
    installed. No code of it is run: see :func:`load_field`.

    Args:
        folder: a folder, or the name of a repository.
        net: as in :func:`load_field`.
        process: as in :func:`load_field`.
        classes: as in :func:`load_field`.
        device: where to put the field.
        revision: branch, tag or commit of a repository.

    Raises:
        DamagedFileError: a ValueError; as :func:`load_field`.
        ValueError: for a revision of a local folder.
        FileNotFoundError: if the folder holds no field, or there is neither folder nor repository.
        ImportError: if it is no local folder and ``huggingface_hub`` is not installed.

    Example:
        >>> import tempfile, transportflows as tpf
        >>> net = tpf.networks.MLP(2, width=8, depth=1)
        >>> field = tpf.Velocity(net, tpf.Process(tpf.Linear(), base=tpf.Gaussian((2,))))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     field.save_pretrained(folder)
        ...     again = from_pretrained(folder)
        >>> type(again).__name__
        'Velocity'
    """
    place = Path(folder)
    if place.is_dir():
        if revision is not None:
            raise ValueError(f"{place} is a local folder, which has no revisions; leave it out")
        path = place / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"{place} holds no {FILE_NAME}; write field.save_pretrained(folder), or"
                " load_field(path) for a file of field.save(path)"
            )
    else:
        path = _fetched(os.fspath(folder), revision)
    return load_field(path, net, process=process, classes=classes, device=device)


def _fetched(name: str, revision: str | None) -> Path:
    """The file of a repository of the hub."""
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or not name:
        raise FileNotFoundError(
            f"there is no folder {name!r}, and a repository is named 'owner/name'"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError(
            f"there is no folder {name!r}; to fetch a repository of that name:"
            " pip install huggingface_hub"
        ) from error
    return Path(hf_hub_download(name, FILE_NAME, revision=revision))
