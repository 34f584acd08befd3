"""``kill -9`` in the middle of an epoch, through the command line: the training resumes to the same weights."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch


def command(data: Path, out: Path, *options: str) -> list[str]:
    recipe = ["--preset", "tiny", "--epochs", "3", "--batch-size", "1", "--save-every", "5", "--seed", "4"]
    where = ["--threads", "1", "--cache", str(data.parent / "cache"), "--out", str(out)]
    return [sys.executable, "-m", "mmx.cli.main", "train", str(data), *recipe, *where, *options]


def kill_inside_a_later_epoch(started: list[str], state: Path) -> None:
    """Start a training and kill it as soon as its state is one from inside the second epoch or a later one."""
    running = subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        seen = written = None
        while written == seen or not inside_a_later_epoch(read(state)):
            assert running.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
            seen, written = written, state.stat().st_mtime_ns if state.exists() else None
    finally:
        running.kill()
    assert running.wait() == -signal.SIGKILL


def inside_a_later_epoch(state: dict[str, Any]) -> bool:
    return bool(state["epoch"] and state["step"])


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def same(first: Any, second: Any) -> bool:
    """Bit for bit, however deep."""
    if isinstance(first, torch.Tensor):
        return bool(first.dtype == second.dtype and torch.equal(first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def test_killed_in_the_middle_of_an_epoch(drawn: Path, tmp_path: Path) -> None:
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    subprocess.run(command(drawn, unbroken), check=True, capture_output=True)
    kill_inside_a_later_epoch(command(drawn, killed), killed / "training.pt")
    assert inside_a_later_epoch(read(killed / "training.pt"))
    (killed / "ckpt.pt").unlink()  # as if it had died between its state and its checkpoint
    subprocess.run(command(drawn, killed, "--resume"), check=True, capture_output=True)
    for name in ("ckpt.pt", "training.pt"):
        assert same(read(unbroken / name), read(killed / name)), name
    assert (unbroken / "ckpt.pt").read_bytes() == (killed / "ckpt.pt").read_bytes()
    histories = [json.loads((out / "training.json").read_text())["epochs"] for out in (unbroken, killed)]
    assert histories[0] == histories[1] and len(histories[0]) == 3
