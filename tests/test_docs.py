"""The documentation as a site: every link and every name of the API reference is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    subprocess.run(["make", "-s", "types"], cwd=ROOT, check=True)
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert "mmx.runtime.predictor.Predictor.predict" in reference
    options = (tmp_path / "site" / "options" / "index.html").read_text(encoding="utf-8")
    assert "--min-confidence" in options and "MMX_PREDICT_BACKEND" in options
