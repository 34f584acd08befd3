"""``kill -9`` and a full disk, through the command line: the bundle opens and is right, and nothing stays behind."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mmx.export.precision.samples import utterances
from mmx.runtime.backends import open_backend
from mmx.runtime.bundle import Bundle

KILLS = 20
WAIT_S = 900
COMMANDS = {
    "export": ["export", "ckpt.pt", "--tokenizer", "words"],
    "calibrate": ["calibrate", "ckpt.mmx", "--noise", "--samples", "4", "--any-speed"],
    "build-engine": ["build-engine", "--fp16", "--target", "rtx4090", "--profiles", "short", "--samples", "2"],
}
needs_builder = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs mmx[tensorrt-rtx]")
EACH = [pytest.param(name, marks=[needs_builder] if name == "build-engine" else []) for name in COMMANDS]


@pytest.fixture
def folder(tiny_checkpoint: Path, tiny_bundle: Path, tokenizer_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint, its tokenizer, and a bundle of it, which the commands change or replace."""
    shutil.copyfile(tiny_checkpoint, tmp_path / "ckpt.pt")
    shutil.copytree(tokenizer_dir, tmp_path / "words")
    shutil.copytree(tiny_bundle, tmp_path / "ckpt.mmx")
    return tmp_path


def start(name: str, folder: Path, **options: object) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-m", "mmx.cli.main", *COMMANDS[name]],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )


def finish(name: str, folder: Path) -> None:
    """Run a command to its end."""
    process = start(name, folder)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err


def answers(path: Path) -> np.ndarray:
    """The FP32 graph's logits for a few seeded utterances; every hash in the bundle is checked."""
    bundle = Bundle.open(path, verify=True)
    (inputs,) = utterances(bundle.manifest, 2, 2)
    with open_backend(bundle, "onnxruntime", threads=1) as backend:
        return backend.run(inputs)["logits"]


def check(folder: Path, expected: np.ndarray) -> None:
    """The bundle is right, and every graph in it that claims to be one can be loaded."""
    np.testing.assert_allclose(answers(folder / "ckpt.mmx"), expected, atol=1e-6)
    bundle = Bundle.open(folder / "ckpt.mmx", verify=True)
    assert not bundle.passed_over
    for precision in bundle.precisions:
        bundle.graph(precision)


def left_over(folder: Path) -> list[str]:
    hidden = [path.name for path in folder.glob("ckpt.mmx/variants/.*")]
    return hidden + sorted({path.name for path in folder.iterdir()} - {"ckpt.pt", "ckpt.mmx", "words"})


def tree(folder: Path) -> frozenset[tuple[str, int]]:
    """The files and folders under a folder with their sizes, as far as they hold still."""
    found = set()
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                path = Path(where, name)
                found.add((str(path.relative_to(folder)), path.stat().st_size))
    return frozenset(found)


class Changes:
    """Counts how often something under a folder has changed, as seen by looking again and again."""

    def __init__(self, folder: Path) -> None:
        self.count, self._folder, self._last = 0, folder, tree(folder)

    def look(self) -> int:
        now = tree(self._folder)
        self.count += now != self._last
        self._last = now
        return self.count


def kill_when(process: subprocess.Popen[str], due: Callable[[], bool]) -> int:
    """Kill a process as soon as ``due``, or let it end before that; its exit code."""
    while process.poll() is None and not due():
        time.sleep(0.0005)
    process.kill()
    _, err = process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0), err
    return process.returncode


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_killed_at_random_moments(folder: Path, name: str) -> None:
    """Half of them at any time, half just when something on the disk has changed: that is where a kill can hurt."""
    expected = answers(folder / "ckpt.mmx")
    original = shutil.copytree(folder / "ckpt.mmx", folder.with_name(f"{folder.name}-original"))
    started, unbroken = time.monotonic(), Changes(folder)
    assert kill_when(start(name, folder), lambda: unbroken.look() < 0) == 0
    seconds = time.monotonic() - started
    check(folder, expected)
    random = np.random.default_rng(KILLS)
    for number in range(KILLS):
        if name != "export":  # there is nothing to do for a bundle that has it
            shutil.rmtree(folder / "ckpt.mmx")
            shutil.copytree(original, folder / "ckpt.mmx")
        changes, moment = Changes(folder), time.monotonic() + random.uniform(0, seconds)
        change = int(random.integers(1, unbroken.count + 1))
        if number % 2:
            kill_when(start(name, folder), lambda moment=moment: time.monotonic() > moment)  # type: ignore[misc]
        else:
            kill_when(start(name, folder), lambda seen=changes, n=change: seen.look() >= n)  # type: ignore[misc]
        check(folder, expected)
    finish(name, folder)
    check(folder, expected)
    assert not left_over(folder)
    wanted = {"export": "fp32", "calibrate": "int8", "build-engine": "fp16"}[name]
    assert wanted in Bundle.open(folder / "ckpt.mmx").precisions


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_a_full_disk_is_one_line_with_exit_code_4(folder: Path, name: str) -> None:
    """A limit on the size of files stands in for it: the write fails in the middle, as it does on a full disk."""
    expected = answers(folder / "ckpt.mmx")
    before = tree(folder)
    limit = 200_000

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start(name, folder, preexec_fn=full)
    _, err = process.communicate(timeout=WAIT_S)
    lines = [line for line in err.splitlines() if line.strip()]
    assert process.returncode == 4, err
    assert "Traceback" not in err and "cannot be written: File too large" in lines[-2], err
    check(folder, expected)
    assert not left_over(folder)
    new = {path for path, _ in tree(folder)} - {path for path, _ in before}
    assert all(path.startswith("ckpt.mmx/variants") for path in new), new
