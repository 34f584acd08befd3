"""Two processes train as one does: the same batches, gradients and weights; one of them writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmx.cli.main import main
from mmx.models.checkpoint import load_checkpoint
from mmx.training.parallel import ALONE, Group, joined


def test_shares_of_a_batch_make_its_mean() -> None:
    values = np.random.default_rng(0).normal(size=7)
    for size in (1, 2, 3, 9):
        total = 0.0
        for rank in range(size):
            mine, weight = Group(rank, size).share(range(7))
            total += weight * float(np.mean([values[i] for i in mine])) / size
        assert total == pytest.approx(values.mean()), size


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as (group, device):
        assert (group, device) == (ALONE, "cpu")


@pytest.mark.slow
def test_two_processes_train_as_one_does(drawn: Path, tmp_path: Path) -> None:
    """Text and sound alone, because BatchNorm's statistics are of each process's own samples."""
    train = ["train", str(drawn), "--preset", "tiny", "--epochs", "1", "--modalities", "text,audio", "--threads", "1"]
    train += ["--cache", str(tmp_path / "cache"), "--batch-size", "6"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmx.cli"]
    assert main([*train, "--out", str(tmp_path / "one")]) == 0
    done = subprocess.run(
        [*command, *train, "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation F1") == 1  # one process reports
    (one,), (two,) = (json.loads((tmp_path / name / "training.json").read_text())["epochs"] for name in ("one", "two"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    first, second = (load_checkpoint(tmp_path / name / "ckpt.pt").module.state_dict() for name in ("one", "two"))
    # Biases whose gradient is nothing but rounding (those of attention's keys) are moved by Adam all the same.
    parts = [name for name in first if name.startswith(("T.", "A.", "a_", "t_")) and not name.endswith("bias")]
    apart = sum(float((second[name] - first[name]).pow(2).sum()) for name in parts)
    whole = sum(float(first[name].pow(2).sum()) for name in parts)
    assert apart < 1e-5 * whole  # an epoch moves them by about 1e-2 of it
