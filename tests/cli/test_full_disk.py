"""A full disk, or a place that cannot be written: one line and nothing left, for every kind of package."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest


def package(bundle: Path, kind: str, out: Path, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    command = [sys.executable, "-m", "mmx.cli", "package", str(bundle), kind, str(out)]
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)


@pytest.mark.parametrize("kind", ["--triton", "--docker"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tiny_bundle: Path, tmp_path: Path, kind: str) -> None:
    done = package(tiny_bundle, kind, tmp_path / "out", largest_file=100_000)
    assert done.returncode == 4
    assert (
        done.stderr.startswith(f"mmx: error: {tmp_path / 'out'} cannot be written: ") and "Traceback" not in done.stderr
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["--triton", "--docker"])
def test_a_place_that_cannot_be_written_is_a_usage_error(tiny_bundle: Path, kind: str) -> None:
    done = package(tiny_bundle, kind, Path("/proc/nowhere"))
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_calibrating_on_a_full_disk_is_one_line_and_adds_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    """Its temporary graphs do not fit either."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy.mmx")
    command = [sys.executable, "-m", "mmx.cli", "calibrate", str(copy), "--noise", "--samples", "4"]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert "cannot be written: File too large" in done.stderr and "Traceback" not in done.stderr
    assert not [path for path in copy.rglob("*int8*") if path.is_file()]
