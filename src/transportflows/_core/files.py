"""Files as the system has them: read only where they are files, replaced whole, kept from others.

A file is written beside its place under a new name (a link planted there is never followed),
flushed to the disk and then moved, so that a reader sees the old file or the new one, whatever
happens to the writer. What only one run may write is held by a lock that the system takes back when
a process ends, however it ends.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]

__all__ = ["has_holes", "held", "no_file", "probe", "regular", "replacing", "temporary_name"]

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_HELD: set[tuple[int, int]] = set()  # by this process, whose own locks the system does not tell
_HOLDING = threading.Lock()


def temporary_name(name: str) -> str:
    """A new name under which the file ``name`` is written before it is moved there."""
    return f".{name}.{secrets.randbits(64)}.tmp"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of ``path`` at the end, or is removed.

    Raises:
        OSError: if it cannot be written; what was there is kept.
    """
    target = Path(path)
    if not target.name:
        raise ValueError(f"path must name a file, got {str(path)!r}")
    temporary = target.with_name(temporary_name(target.name))
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Have the new name of a file survive a power cut, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # not a system whose folders can be opened
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def probe(folder: Path) -> None:
    """See that a file can be written in a folder.

    Raises:
        OSError: if none can.
    """
    path = folder / temporary_name("probe")
    try:
        with open(path, "xb") as file:
            file.write(b"0")
    finally:
        path.unlink(missing_ok=True)


def no_file(path: str | os.PathLike[str]) -> str | None:
    """What is there where that is no file: a folder, a pipe, a device; None for a file."""
    mode = os.stat(path).st_mode
    kinds = {"folder": stat.S_ISDIR, "pipe": stat.S_ISFIFO, "socket": stat.S_ISSOCK}
    if stat.S_ISREG(mode):
        return None
    return next((f"a {kind}" for kind, is_one in kinds.items() if is_one(mode)), "a device")


def regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to be read; at a pipe put in its place meanwhile this does not wait.

    Raises:
        OSError: if it cannot be opened.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    return open(path, "rb", opener=opener)


def has_holes(file: BufferedReader) -> bool:
    """Whether the disk does not hold all of a file, where the system tells; it is read anew."""
    if not hasattr(os, "SEEK_HOLE"):
        return False
    try:
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) < os.lseek(file.fileno(), 0, os.SEEK_END)
    except OSError:  # an empty file, or a system that does not know
        return False
    finally:
        file.seek(0)


@contextmanager
def held(lock: Path, what: str) -> Iterator[None]:
    """Keep other runs, of this process and of others, from what a lock file stands for.

    Args:
        lock: the lock file; it is removed at the end.
        what: what it stands for, in words: ``"the checkpoints in runs/a"``.

    Raises:
        BlockingIOError: if another run holds it.
        OSError: if the lock file cannot be made.
    """
    if fcntl is None:
        yield
        return
    with _HOLDING:
        handle, key = _locked(lock, what)
        _HELD.add(key)
    try:
        yield
    finally:
        with _HOLDING:
            lock.unlink(missing_ok=True)
            os.close(handle)
            _HELD.discard(key)


def _locked(lock: Path, what: str) -> tuple[int, tuple[int, int]]:
    """The handle of the lock file, held, and which file it is."""
    while True:
        with suppress(FileNotFoundError):
            if _key(os.stat(lock)) in _HELD:  # to open and close it would give up our own
                raise _in_use(what, "of this process")
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        key = _key(os.fstat(handle))
        try:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    who = os.read(handle, 200).decode(errors="replace").strip()
                    raise _in_use(what, who or "of another process") from error
            with suppress(OSError):  # it is removed when it is given up, perhaps just before now
                found = os.stat(lock)
                if _key(found) == key:
                    if found.st_nlink == 1:  # otherwise it is somebody else's file too
                        _sign(handle)
                    return handle, key
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _sign(handle: int) -> None:
    """Write into a lock file who holds it, for people."""
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.write(handle, f"(process {os.getpid()} on {socket.gethostname()})".encode())


def _key(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _in_use(what: str, who: str) -> BlockingIOError:
    return BlockingIOError(
        f"another run {who} is writing {what}, and the two would mix; wait until it ends, or give"
        " this one a place of its own"
    )
