"""A bundle is there whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmx.export.bundle_writer import bundle_folder
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import EnvironmentMissing, MmxError, ParityError, UsageError


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, tiny_bundle: Path) -> None:
    shutil.copytree(tiny_bundle, folder, dirs_exist_ok=True)


def test_the_bundle_appears_when_the_block_ends(tmp_path: Path, tiny_bundle: Path):
    out = tmp_path / "new" / "ckpt.mmx"
    with bundle_folder(out) as folder:
        fill(folder, tiny_bundle)
        assert not out.exists()
        with pytest.raises(MmxError):
            Bundle.open(folder)
    Bundle.open(out)
    assert names_in(out.parent) == ["ckpt.mmx"]


@pytest.mark.parametrize("error", [ParityError("no"), KeyboardInterrupt(), RuntimeError("bug")])
def test_an_error_leaves_nothing_new_and_the_old_bundle(tmp_path: Path, tiny_bundle: Path, error: BaseException):
    out = tmp_path / "ckpt.mmx"
    fill(out, tiny_bundle)
    with pytest.raises(type(error)), bundle_folder(out) as folder:
        (folder / "model.onnx").write_bytes(b"half")
        raise error
    Bundle.open(out)
    assert names_in(tmp_path) == ["ckpt.mmx"]


def test_an_old_bundle_of_schema_version_1_is_replaced_with_all_it_held(tmp_path: Path, tiny_bundle: Path):
    out = tmp_path / "ckpt.mmx"
    fill(out, tiny_bundle)
    content = json.loads((out / "manifest.json").read_text()) | {"schema_version": 1}
    (out / "manifest.json").write_text(json.dumps(content))
    for name in ("engines/x.engine", "engines/x.json", "model.int8-fp16.onnx", "trials.json"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"of the old graph")
    with bundle_folder(out) as folder:
        fill(folder, tiny_bundle)
    Bundle.open(out)
    assert not (out / "engines").exists()
    assert names_in(tmp_path) == ["ckpt.mmx"]


def test_what_is_not_a_bundle_is_never_replaced(tmp_path: Path, tiny_bundle: Path):
    out = tmp_path / "ckpt.mmx"
    fill(out, tiny_bundle)
    (out / "notes.txt").write_text("mine")
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(b"mine")
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    link = tmp_path / "link.mmx"
    link.symlink_to(videos)
    for target, words in [(out, "notes.txt"), (videos, "not an mmx bundle"), (file, "not a bundle"), (link, "not a b")]:
        with pytest.raises(UsageError, match=words), bundle_folder(target):
            raise AssertionError("must not be reached")
    assert (out / "notes.txt").read_text() == "mine" and (videos / "a.mp4").exists() and link.is_symlink()
    assert len(names_in(tmp_path)) == 4


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"), bundle_folder(tmp_path / "file" / "ckpt.mmx"):
        raise AssertionError("must not be reached")


def test_a_full_disk_is_one_clear_line(tmp_path: Path):
    with pytest.raises(EnvironmentMissing, match="No space left"), bundle_folder(tmp_path / "a.mmx", needs=2**60):
        raise AssertionError("must not be reached")
    with pytest.raises(EnvironmentMissing, match="No space left"), bundle_folder(tmp_path / "a.mmx"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names_in(tmp_path) == []


HOLD = """
import sys, time, shutil
from pathlib import Path
from mmx.export.bundle_writer import bundle_folder
with bundle_folder(Path(sys.argv[1])) as folder:
    shutil.copytree(sys.argv[2], folder, dirs_exist_ok=True)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_export_left_goes_with_the_next_one(tmp_path: Path, tiny_bundle: Path):
    out = tmp_path / "ckpt[1].mmx"
    writers = []
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", HOLD, out, tiny_bundle], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        writers.append(writer)
    dead, alive = writers
    dead.kill()
    dead.wait()
    leftovers = names_in(tmp_path)
    assert len(leftovers) == 2 and not out.exists()
    for name in leftovers:  # complete folders, and still no bundles
        with pytest.raises(MmxError, match="interrupted"):
            Bundle.open(tmp_path / name)
    try:
        with bundle_folder(out) as folder:
            fill(folder, tiny_bundle)
        assert len(names_in(tmp_path)) == 2  # the new bundle, and the folder of the writer that is still at work
        Bundle.open(out)
    finally:
        alive.kill()
        alive.wait()


KILL = """
import os, signal, sys, shutil
from pathlib import Path
from mmx.export import bundle_writer, folders
step, after = sys.argv[3], int(sys.argv[4])
def dying(call):
    def wrapped(*args, **kwargs):
        global after
        if after == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        after -= 1
        return call(*args, **kwargs)
    return wrapped
if step == "rename":  # as where folders cannot be exchanged
    folders.exchange = lambda one, other: False
    Path.rename = dying(Path.rename)
elif step == "exchange":
    folders.exchange = dying(folders.exchange)
else:
    shutil.rmtree = dying(shutil.rmtree)
with bundle_writer.bundle_folder(Path(sys.argv[1])) as folder:
    shutil.copytree(sys.argv[2], folder, dirs_exist_ok=True)
"""


@pytest.mark.parametrize(("step", "after"), [("rename", n) for n in (0, 2, 3)] + [("exchange", 0), ("rmtree", 0)])
def test_a_kill_while_the_old_bundle_is_replaced(tmp_path: Path, tiny_bundle: Path, step: str, after: int):
    """The old bundle or the new one, whole; where folders cannot be exchanged maybe none. The next export succeeds."""
    out = tmp_path / "ckpt.mmx"
    fill(out, tiny_bundle)
    killed = subprocess.run([sys.executable, "-c", KILL, out, tiny_bundle, step, str(after)], check=False)
    assert killed.returncode == -signal.SIGKILL
    if out.exists() or step != "rename":
        Bundle.open(out)
    with bundle_folder(out) as folder:
        fill(folder, tiny_bundle)
    Bundle.open(out)
    assert names_in(tmp_path) == ["ckpt.mmx"]


def test_the_manifest_of_the_old_bundle_may_be_broken(tmp_path: Path, tiny_bundle: Path):
    out = tmp_path / "ckpt.mmx"
    fill(out, tiny_bundle)
    content = json.loads((out / "manifest.json").read_text())
    content["schema_version"] = 99
    (out / "manifest.json").write_text(json.dumps(content))
    with bundle_folder(out) as folder:
        fill(folder, tiny_bundle)
    Bundle.open(out)
