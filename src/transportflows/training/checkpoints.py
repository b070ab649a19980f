"""Checkpoints: where a run leaves what it needs to go on, and how it finds it again.

A checkpoint is one file: no pickle, a readable header, sums of all of it, written beside its place
and moved there. A run has a folder of them,
``step-000012000.ckpt``, of which the newest few are kept.

Where a file cannot be written (a full disk) the run warns and goes on, with the checkpoint before
it intact, and tries again at the next one. Where the folder cannot be written at all the run does
not begin.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from .._core import container, files
from .._core.checks import positive_integer
from .._core.signatures import checked
from ..fields.saving import FILE_KIND
from .differences import differences
from .states import check_state

__all__ = [
    "CheckpointWarning",
    "Checkpoints",
    "ResumeError",
    "check_architecture",
    "check_header",
    "check_run",
    "read_checkpoint",
]

_NAME = re.compile(r"step-(\d{9,})\.ckpt")
_LEFT = re.compile(r"\.(step-\d{9,}\.ckpt|probe)\.\d+\.tmp")
KIND = "transportflows training checkpoint"
FORMAT = 1


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written or read, and the run goes on without it."""


class ResumeError(container.DamagedFileError):
    """A run cannot be resumed from what is there; the message says what differs."""


@checked
class Checkpoints:
    """The folder of a run's checkpoints.

    Args:
        folder: where they are; it is made if it is not there. One folder for each run.
        every: steps between checkpoints, as counted by ``trainer.step``; there is one at the end
            of a fit too.
        keep: how many of the newest are kept.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, every: int = 1_000, keep: int = 3
    ) -> None:
        self.folder = Path(folder)
        self.every, self.keep = positive_integer("every", every), positive_integer("keep", keep)

    def __repr__(self) -> str:
        files = self.files()
        newest = f", newest {files[-1].name}" if files else ""
        return f"Checkpoints({str(self.folder)!r}, every={self.every}, keep={self.keep}{newest})"

    @classmethod
    def of(cls, given: Checkpoints | str | os.PathLike[str]) -> Checkpoints:
        """The checkpoints of a folder, or those given."""
        return given if isinstance(given, Checkpoints) else cls(given)

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"step-{step:09d}.ckpt"

    def files(self) -> list[Path]:
        """The checkpoints that are there, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [(int(m[1]), p) for p in self.folder.iterdir() if (m := _NAME.fullmatch(p.name))]
        return [path for _, path in sorted(found)]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder, keep other runs out of it, and remove what a killed writer left there.

        Raises:
            BlockingIOError: if another run is writing in it.
            OSError: if the folder cannot be made or written.
        """
        with ExitStack() as ends:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                files.probe(self.folder)
                lock = self.folder / ".checkpoints.lock"
                ends.enter_context(files.held(lock, f"the checkpoints in {self.folder}"))
            except BlockingIOError:
                raise
            except OSError as error:
                raise type(error)(
                    error.errno,
                    f"checkpoints cannot be written to {self.folder} ({error.strerror}), so the run"
                    " did not begin; give a folder that can be written, or none",
                ) from error
            for path in self.folder.iterdir():
                if _LEFT.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            yield

    def write(self, step: int, header: Mapping[str, Any], state: Any) -> Path | None:
        """Write the checkpoint of a step, and remove those that are too many.

        Returns:
            The file; None, with a warning, if it could not be written.
        """
        path = self.path(step)
        try:
            container.write(path, {"kind": KIND, "format": FORMAT, **header}, state)
            written = [file for file in self.files() if file.name <= path.name]
            for old in written[: -self.keep]:
                with suppress(OSError):  # something else of that name
                    old.unlink()
        except OSError as error:
            last = self.files()
            warnings.warn(
                f"the checkpoint of step {step} was not written ({error}); the run goes on, and"
                + (f" {last[-1]} is still the last one" if last else " there is none yet"),
                CheckpointWarning,
                stacklevel=2,
            )
            return None
        return path

    def newest(self) -> tuple[Path, dict[str, Any], Any] | None:
        """The newest checkpoint that can be read, with its header and state.

        Returns:
            None if there are none. A file that is damaged is renamed, with a warning.

        Raises:
            ResumeError: if there are some and none can be read.
        """
        files = self.files()
        damaged: list[tuple[Path, str]] = []
        for path in reversed(files):
            try:
                found = read_checkpoint(path)
            except container.NewerFileError:
                raise
            except (container.DamagedFileError, OSError) as error:
                damaged.append((path, str(error)))
                continue
            for bad, problem in damaged:
                aside = bad.with_name(f"{bad.name}.damaged")
                with suppress(OSError):  # out of the way of the files that are kept
                    os.replace(bad, aside)
                warnings.warn(
                    f"{problem}; it is {aside.name} now, and {path.name} is taken",
                    CheckpointWarning,
                    stacklevel=2,
                )
            return (path, *found)
        if files:
            raise ResumeError(
                f"none of the {len(files)} checkpoints in {self.folder} can be read:"
                f" {'; '.join(problem for _, problem in damaged)}. To begin anew give another"
                " folder"
            )
        return None


@checked
def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Any]:
    """The header and the state of a checkpoint; tensors on the CPU.

    Raises:
        DamagedFileError: if it is damaged, something else, or of a newer version.
        OSError: if it cannot be opened.
    """
    header, state = container.read(path)
    check_header(path, header)
    try:
        check_state(header, state)
    except Exception as error:
        raise container.DamagedFileError(
            f"{os.fspath(path)} is no checkpoint of a run: it has {error}. Nothing of it was used"
        ) from error
    return header, state


def check_header(path: str | os.PathLike[str], header: Mapping[str, Any]) -> None:
    """Refuse the header of something that is no checkpoint, or is of a newer version.

    Raises:
        DamagedFileError: if it is one.
    """
    if header.get("kind") != KIND:
        raise container.DamagedFileError(
            f"{os.fspath(path)} is a {header.get('kind')!r}, not a {KIND}"
            + ("; write tpf.load_field(path)" if header.get("kind") == FILE_KIND else "")
        )
    needed = {"format": int, "step": int, "run": dict, "transportflows": str, "key": str}
    if wrong := [k for k, kind in needed.items() if type(header.get(k)) is not kind]:
        raise container.DamagedFileError(f"{os.fspath(path)} has no proper {wrong} in its header")
    if header["format"] > FORMAT:
        raise container.NewerFileError(
            f"{os.fspath(path)} was written by transportflows {header['transportflows']} in format"
            f" {header['format']}, and this version reads up to {FORMAT}; upgrade transportflows"
        )


def check_architecture(
    path: str | os.PathLike[str], own: Mapping[str, Any], saved: Mapping[str, Any]
) -> None:
    """Refuse the ``state_dict`` of another architecture.

    Raises:
        ResumeError: if they are of another architecture; which entries differ.
    """
    shapes = [
        f"{name} {_kind(saved[name])} in the file, {_kind(own[name])} here"
        for name in own.keys() & saved.keys()
        if _kind(saved[name]) != _kind(own[name])
    ]
    parts = {
        "not in the file": sorted(own.keys() - saved.keys()),
        "only in the file": sorted(saved.keys() - own.keys()),
        "different": sorted(shapes),
    }
    told = [
        f"{what}: {', '.join(some[:5])}{f' and {len(some) - 5} more' if len(some) > 5 else ''}"
        for what, some in parts.items()
        if some
    ]
    if told:
        raise ResumeError(
            f"{os.fspath(path)} is of another architecture; {'; '.join(told)}. Build the field"
            " with the arguments it was trained with"
        )


def _kind(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return "(no tensor)"
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def check_run(
    path: str | os.PathLike[str], saved: Mapping[str, Any], own: Mapping[str, Any], anyway: bool
) -> None:
    """Refuse to go on with another run; warn if it is to go on anyway.

    Raises:
        ResumeError: if the runs differ; in what.
    """
    told = [f"{name} was {a!r} and is {b!r} now" for name, a, b in differences(saved, own)]
    if not told:
        return
    message = f"{os.fspath(path)} is of another run: {'; '.join(told)}"
    if not anyway:
        raise ResumeError(
            f"{message}. Give what it was begun with, or resume='anyway' to go on with what is"
            " given now (the result is then that of no single run)"
        )
    warnings.warn(f"{message}; it goes on anyway", CheckpointWarning, stacklevel=2)
