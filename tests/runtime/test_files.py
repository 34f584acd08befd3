"""Files and folders are whole or not there, and a full disk is one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmx.runtime.errors import EnvironmentMissing, UsageError
from mmx.runtime.files import whole_file, whole_folder, write_bytes, write_text


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_text(path, "é\n")
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert [each.name for each in path.parent.iterdir()] == ["a.json"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("first")
    with pytest.raises(KeyError), whole_file(path) as part:
        part.write_text("half")
        raise KeyError
    with pytest.raises(KeyError), whole_folder(tmp_path / "folder") as part:
        (part / "one").write_text("half")
        raise KeyError
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "first"


def test_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("first")
    code = (
        "import os, signal, sys; from pathlib import Path; from mmx.runtime.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert path.read_text() == "first"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_full_disk_is_of_the_environment(tmp_path: Path, number: int, whole) -> None:
    path = tmp_path / "a"
    with pytest.raises(EnvironmentMissing) as caught, whole(path):
        raise OSError(number, os.strerror(number), "elsewhere")
    assert caught.value.message == f"{path} cannot be written: {os.strerror(number)}"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size")
def test_a_write_that_does_not_fit_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from mmx.runtime.errors import MmxError\n"
        "from mmx.runtime.files import write_bytes\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_bytes(Path(sys.argv[1]), b'x' * 5000)\n"
        "except MmxError as e: print(e.message); sys.exit(e.exit_code)\n"
    )
    path = tmp_path / "a.bin"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (4, f"{path} cannot be written: {os.strerror(errno.EFBIG)}\n"), done.stderr
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/a\.json cannot be written"):
        write_text(tmp_path / "file" / "a.json", "")


def test_of_two_that_make_a_folder_the_second_hears_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(FileExistsError), whole_folder(path) as late:
        (late / "a").write_text("late")
        with whole_folder(path) as first:
            (first / "a").write_text("first")
    assert (path / "a").read_text() == "first"
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
