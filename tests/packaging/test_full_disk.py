"""A full disk, or a place that cannot be written: one line and nothing left, for every kind of package."""

from __future__ import annotations

import resource
import subprocess
import sys
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
