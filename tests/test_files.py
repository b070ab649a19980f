"""Files as the system has them: planted links, pipes, locks, two writers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from transportflows._core import files

TAKES = """
import sys
from pathlib import Path
from transportflows._core import files
try:
    with files.held(Path(sys.argv[1]), "the log a.csv"):
        print("held")
        if len(sys.argv) > 2:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
except BlockingIOError as error:
    print(error)
"""


def taken_by_another(lock, *more):
    command = [sys.executable, "-c", TAKES, str(lock), *more]
    return subprocess.run(command, capture_output=True, text=True).stdout


def test_one_run_holds_a_lock_and_another_is_told(tmp_path):
    lock = tmp_path / ".lock"
    with files.held(lock, "the log a.csv"):
        for _ in range(2):  # what was refused gave nothing up
            with (
                pytest.raises(BlockingIOError, match=r"run of this process is writing the log a"),
                files.held(lock, "the log a.csv"),
            ):
                pass
            said = taken_by_another(lock)
            assert f"another run (process {os.getpid()} on" in said
            assert "is writing the log a.csv, and the two would mix" in said
    assert not lock.exists()
    assert taken_by_another(lock, "killed") in ("held\n", "")
    assert lock.exists()  # left by the killed one, and held by nobody
    with files.held(lock, "the log a.csv"):
        pass
    assert taken_by_another(lock) == "held\n"


def test_a_lock_writes_through_no_planted_link(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "soft").symlink_to(mine)
    with pytest.raises(OSError), files.held(tmp_path / "soft", "it"):  # noqa: PT011
        pass
    os.link(mine, tmp_path / "hard")
    with files.held(tmp_path / "hard", "it"):
        pass
    assert mine.read_text() == "mine"


def test_a_file_is_replaced_whole_or_kept(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    with files.replacing(path) as file:
        file.write(b"after")
    assert path.read_text() == "after"
    assert os.listdir(tmp_path) == ["a"]


def test_what_is_no_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    found = [files.no_file(tmp_path / name) for name in ("file", "pipe", "null", ".")]
    assert found == [None, "a pipe", "a device", "a folder"]
    with files.regular(tmp_path / "pipe") as file:  # does not wait for a writer
        assert file.read() == b""
