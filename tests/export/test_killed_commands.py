"""``kill -9``, two at once, a read-only bundle and a full disk, through the command line.

Always: the bundle opens and gives what it gave; results are complete after the same command again, with nothing twice;
and the next command removes what a killed one left.
"""

from __future__ import annotations

import csv
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mmx.export.precision.samples import utterances
from mmx.runtime.backends import open_backend
from mmx.runtime.bundle import Bundle

KILLS = 20
WAIT_S = 1800
GONE_S = 30
SOUNDS = 8
COMMANDS = {
    "export": ["export", "ckpt.pt", "--tokenizer", "words"],
    "calibrate": ["calibrate", "ckpt.mmx", "--noise", "--samples", "4", "--any-speed"],
    "build-engine": ["build-engine", "--fp16", "--target", "rtx4090", "--profiles", "short", "--samples", "2"],
}
GIVES = {"export": "fp32", "calibrate": "int8", "build-engine": "fp16"}
OURS = {"ckpt.pt", "ckpt.mmx", "words", "sounds", "tmp"}
needs_builder = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs mmx[tensorrt-rtx]")
EACH = [pytest.param(name, marks=[needs_builder] if name == "build-engine" else []) for name in COMMANDS]


@pytest.fixture
def folder(tiny_checkpoint: Path, tiny_bundle: Path, tokenizer_dir: Path, tmp_path: Path) -> Path:
    """A checkpoint, its tokenizer, and a bundle of it, which the commands change or replace; sounds; a TMPDIR."""
    shutil.copyfile(tiny_checkpoint, tmp_path / "ckpt.pt")
    shutil.copytree(tokenizer_dir, tmp_path / "words")
    shutil.copytree(tiny_bundle, tmp_path / "ckpt.mmx")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "sounds").mkdir()
    random = np.random.default_rng(0)
    for number in range(SOUNDS):
        with wave.open(str(tmp_path / "sounds" / f"{number}.wav"), "wb") as out:
            out.setparams((1, 2, 16000, 0, "NONE", ""))
            tone = np.sin(np.arange(16000 + 4000 * number) * random.uniform(0.02, 0.3))
            out.writeframes((9000 * tone).astype("<i2").tobytes())
    return tmp_path


def start(folder: Path, *command: str, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "TMPDIR": str(folder / "tmp")}
    return subprocess.Popen(
        [sys.executable, "-m", "mmx.cli", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """A command's exit code, and the lines of its error."""
    _, err = process.communicate(timeout=WAIT_S)
    assert "Traceback" not in err, err
    return process.returncode, [line for line in err.splitlines() if line.startswith("mmx: error:")]


def answers(path: Path) -> np.ndarray:
    """The FP32 graph's logits for a few seeded utterances; every hash in the bundle is checked."""
    bundle = Bundle.open(path, verify=True)
    (inputs,) = utterances(bundle.manifest, 2, 2)
    with open_backend(bundle, "onnxruntime", threads=1) as backend:
        return backend.run(inputs)["logits"]


def check(folder: Path, expected: np.ndarray) -> Bundle:
    """The bundle is right, and every graph in it that claims to be one can be loaded."""
    np.testing.assert_allclose(answers(folder / "ckpt.mmx"), expected, atol=1e-6)
    bundle = Bundle.open(folder / "ckpt.mmx", verify=True)
    assert not bundle.passed_over
    for precision in bundle.precisions:
        bundle.graph(precision)
    return bundle


def names(folder: Path) -> list[str]:
    """What is in a folder, but for the file with which Python tries whether it can write to TMPDIR."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() or path.read_bytes() != b"blat")


def left_over(folder: Path) -> list[str]:
    """What a finished command must not leave: in the bundle, beside it, and in TMPDIR."""
    hidden = [path.name for path in folder.glob("ckpt.mmx/variants/.*")]
    return hidden + sorted({path.name for path in folder.iterdir()} - OURS) + names(folder / "tmp")


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
    """Kill a process as soon as ``due``, or let it end before that; its exit code. Its children end with it."""
    while process.poll() is None and not due():
        time.sleep(0.0005)
    process.kill()
    _, err = process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0), err
    deadline = time.monotonic() + GONE_S
    with suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, 0)
            assert time.monotonic() < deadline, "a child lives on"
            time.sleep(0.01)
    return process.returncode


class Moments:
    """Seeded random moments of a command: half at any time, half just when something on the disk has changed, which is
    where a kill can hurt. The command runs through once to know how long that is.
    """

    def __init__(self, folder: Path, seed: int, run: Callable[[], subprocess.Popen[str]]) -> None:
        self._folder, self._random = folder, np.random.default_rng(seed)
        started, changes = time.monotonic(), Changes(folder)
        assert kill_when(run(), lambda: changes.look() < 0) == 0
        self._seconds, self._changes = time.monotonic() - started, max(changes.count, 1)

    def __iter__(self) -> Moments:
        self._number = -1
        return self

    def __next__(self) -> Callable[[], bool]:
        self._number += 1
        if self._number == KILLS:
            raise StopIteration
        if self._number % 2:
            moment = time.monotonic() + self._random.uniform(0, self._seconds)
            return lambda: time.monotonic() > moment
        changes, change = Changes(self._folder), int(self._random.integers(1, self._changes + 1))
        return lambda: changes.look() >= change


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_killed_at_random_moments(folder: Path, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    expected = answers(folder / "ckpt.mmx")
    original = shutil.copytree(folder / "ckpt.mmx", tmp_path_factory.mktemp("original") / "ckpt.mmx")
    moments = Moments(folder, KILLS, lambda: start(folder, *COMMANDS[name]))
    check(folder, expected)
    for number, due in enumerate(moments):
        if name != "export" and number % 2 == 0:  # there is less to do for a bundle that has it
            shutil.rmtree(folder / "ckpt.mmx")
            shutil.copytree(original, folder / "ckpt.mmx")
        kill_when(start(folder, *COMMANDS[name]), due)
        check(folder, expected)
    assert ended(start(folder, *COMMANDS[name])) == (0, [])
    assert GIVES[name] in check(folder, expected).precisions
    assert not left_over(folder)


def rows(out: Path) -> list[tuple[str, float, float]]:
    """The file, start and one probability of every segment in results, sorted."""
    if out.suffix == ".jsonl":
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        found = [(p["file"], p["start"], p["probabilities"]["hap"]) for line in lines for p in line["predictions"]]
    elif out.suffix == ".csv":
        with out.open(newline="") as file:
            found = [(r["file"], float(r["start"]), float(r["probabilities.hap"])) for r in csv.DictReader(file)]
    else:
        import pyarrow.parquet as pq

        plain = pq.read_table(out).to_pylist()
        found = [(r["file"], r["start"], r["probabilities"]["hap"]) for r in plain]
    return sorted(found)


def batch(folder: Path, out: str) -> subprocess.Popen[str]:
    options = ["--window", "0.5", "--backend", "onnxruntime", "--threads", "1", "--workers", "2"]
    if not Path(out).suffix:
        options += ["--shard-files", "2"]
    return start(folder, "batch", "ckpt.mmx", "sounds", "--out", out, *options)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".jsonl", ".csv"])
def test_batch_killed_at_random_moments(folder: Path, suffix: str) -> None:
    """Each of the results is killed once, or again until it is complete; the same command then completes it."""
    moments = Moments(folder, len(suffix), lambda: batch(folder, f"whole{suffix}"))
    expected = rows(folder / f"whole{suffix}")
    assert len({file for file, _, _ in expected}) == SOUNDS and not names(folder / "tmp")
    for number, due in enumerate(moments):
        out = f"out{number // 3}{suffix}"
        kill_when(batch(folder, out), due)
        if number % 3 == 2:
            assert ended(batch(folder, out)) == (0, [])
            found = rows(folder / out)
            assert [row[:2] for row in found] == [row[:2] for row in expected]
            np.testing.assert_allclose([row[2] for row in found], [row[2] for row in expected], atol=1e-5)
            beside = names(folder / out) if not suffix else []
            assert not names(folder / "tmp") and not [name for name in beside if name.startswith(".")]
    assert not list(folder.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("first", EACH)
@pytest.mark.parametrize("second", EACH)
def test_two_at_once(folder: Path, first: str, second: str) -> None:
    """Both succeed, or one says why not."""
    if list(COMMANDS).index(first) > list(COMMANDS).index(second):
        pytest.skip("the same pair the other way round")
    expected = answers(folder / "ckpt.mmx")
    both = [start(folder, *COMMANDS[name]) for name in (first, second)]
    done = [ended(process) for process in both]
    assert (0, []) in done and all(len(lines) == (code != 0) for code, lines in done), done
    bundle = check(folder, expected)
    if done == [(0, []), (0, [])] and "export" not in (first, second):
        assert {GIVES[first], GIVES[second]} <= set(bundle.precisions)
    assert not left_over(folder)


@pytest.mark.slow
def test_two_batches_at_once(folder: Path) -> None:
    """Into one place: the second says that the first is writing there. Into two: both are complete."""
    together = [batch(folder, out) for out in ("same.jsonl", "same.jsonl", "other")]
    codes = [ended(process) for process in together]
    assert codes[2] == (0, []) and sorted(code for code, _ in codes[:2])[0] == 0, codes
    for code, lines in codes[:2]:
        assert code in (0, 2) and len(lines) == (code == 2) and all("same.jsonl" in line for line in lines)
    assert [row[:2] for row in rows(folder / "same.jsonl")] == [row[:2] for row in rows(folder / "other")]
    assert not names(folder / "tmp")


def bound_by_permissions() -> None:
    """Also root may not write where the permissions do not say so (CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH go)."""
    for capability in (1, 2):
        _libc().prctl(24, capability)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def set_writable(folder: Path, writable: bool) -> None:
    for where, _, files in os.walk(folder):
        Path(where).chmod(0o755 if writable else 0o555)
        for name in files:
            Path(where, name).chmod(0o644 if writable else 0o444)


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_a_read_only_bundle(folder: Path, name: str) -> None:
    """It can be used; what would change it says in one line that it cannot be written, and changes nothing."""
    expected, before = answers(folder / "ckpt.mmx"), tree(folder / "ckpt.mmx")
    set_writable(folder / "ckpt.mmx", False)
    if name == "export":
        folder.chmod(0o555)
    try:
        process = start(folder, *COMMANDS[name], preexec_fn=bound_by_permissions)
        code, lines = ended(process)
        assert code == 2 and len(lines) == 1 and "cannot be written: Permission denied" in lines[0], (code, lines)
        check(folder, expected)
        assert tree(folder / "ckpt.mmx") == before and not left_over(folder)
        used = start(folder, "predict", "ckpt.mmx", "sounds/0.wav", preexec_fn=bound_by_permissions)
        assert ended(used) == (0, [])
    finally:
        folder.chmod(0o755)
        set_writable(folder / "ckpt.mmx", True)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100_000, 1_000_000])
@pytest.mark.parametrize("name", EACH)
def test_a_full_disk_is_one_line_with_exit_code_4(folder: Path, name: str, limit: int) -> None:
    """A limit on the size of files stands in for it: the write fails in the middle, as it does on a full disk."""
    expected = answers(folder / "ckpt.mmx")
    before = tree(folder)

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, lines = ended(start(folder, *COMMANDS[name], preexec_fn=full))
    assert code == 4 and len(lines) == 1 and "cannot be written: File too large" in lines[0], (code, lines)
    check(folder, expected)
    assert not left_over(folder)
    new = {path for path, _ in tree(folder)} - {path for path, _ in before}
    assert all(path.startswith("ckpt.mmx/variants") for path in new), new
