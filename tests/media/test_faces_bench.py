"""python studies/faces.py on the demo's clip: both detectors agree, and the report says what was timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmx.benchmarks.contenders.facenet import load_mtcnn
from mmx.export.assets import find_face_nets
from mmx.runtime.errors import EnvironmentMissing

STUDY = Path(__file__).parents[2] / "studies" / "faces.py"


def test_the_bench_agrees_and_reports(talking_face: tuple[Path, str], tmp_path: Path) -> None:
    try:
        find_face_nets()
        load_mtcnn(lambda boxes, scores, threshold: scores)
    except EnvironmentMissing as e:
        pytest.skip(str(e))
    out = tmp_path / "faces.json"
    command = [sys.executable, str(STUDY), str(talking_face[0]), "--frames", "3", "--passes", "2"]
    done = subprocess.run([*command, "--json", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 faces in 3 frames" in done.stdout and "times faster" in done.stdout
    (result,) = json.loads(out.read_text())["results"]
    assert result["disagreements"] == 0 and result["worst_pixel"] == 0 and result["worst_box_px"] < 1e-3
    assert result["ratio"]["low"] <= result["ratio"]["median"] <= result["ratio"]["high"]
    assert result["mmx_ms"]["count"] == result["facenet_ms"]["count"] == 6
