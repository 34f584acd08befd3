"""mmx alone, installed in a new virtual environment: light to import, no torch, and able to predict."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("torch", "onnx", "onnxscript", "librosa", "tensorrt", "tensorrt_rtx", "openvino", "pandas", "pyarrow")
RUNS = 7


def best(command: list[str], **options) -> float:
    """Seconds of the quickest of several runs: what the command costs when the machine is not busy elsewhere."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, **options)
        times.append(time.perf_counter() - started)
    return min(times)


def test_prediction_imports_nothing_heavy(tiny_bundle: Path, tone: Path) -> None:
    """In this environment, where all of them are installed and may not be imported all the same."""
    code = f"""
import sys
from mmx.cli.main import main
code = main(["predict", {str(tiny_bundle)!r}, {str(tone)!r}, "--text", "glad", "--json", "--backend", "onnxruntime"])
heavy = set({FORBIDDEN}) & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["modalities"] == ["text", "audio"]


def test_importing_the_runtime_imports_no_dependency() -> None:
    code = "import sys, mmx.runtime; print([m for m in ('numpy', 'av', 'onnxruntime', 'click') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a virtual environment with mmx and its core dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    source = folder / "source"  # a copy: the build would leave its files in the repository, and take up old ones
    leave = shutil.ignore_patterns(".*", "build", "demo-out", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=leave)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    binaries = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    pip = [binaries / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", source / "constraints.txt", source], check=True, cwd=folder)
    return binaries


@pytest.mark.slow
def test_a_clean_environment_has_what_it_needs_and_no_more(
    clean: Path, tiny_bundle: Path, clip: tuple[Path, str], tmp_path: Path
) -> None:
    def python(code: str) -> str:
        return subprocess.run([clean / "python", "-c", code], capture_output=True, text=True, check=True).stdout

    code = f"from importlib.util import find_spec; print([m for m in {FORBIDDEN} if find_spec(m)])"
    assert python(code).strip() == "[]"
    code = "import time; t = time.perf_counter(); import mmx.runtime; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(RUNS)) < 0.3
    code = "import time; t = time.perf_counter(); from mmx.runtime import Predictor; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(RUNS)) < 1.0
    assert best([str(clean / "mmx"), "--help"], cwd=tmp_path) < 0.5

    predict = [clean / "mmx", "predict", tiny_bundle, clip[0], "--text", clip[1], "--json"]
    here = [sys.executable, "-m", "mmx.cli.main", *predict[1:]]
    answers = []
    for command in (predict, here):
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    assert answers[0]["modalities"] == ["text", "visual", "audio"]
    assert answers[0]["logits"] == pytest.approx(answers[1]["logits"], rel=1e-5, abs=1e-6)

    doctor = subprocess.run([clean / "mmx", "doctor", "--json"], capture_output=True, text=True, cwd=tmp_path)
    status = {finding["name"]: finding for finding in json.loads(doctor.stdout)["findings"]}
    command = f"pip install '{clean.parents[1] / 'source'}[export]'"  # where it came from
    assert doctor.returncode == 0 and status["torch"]["status"] == "missing"
    assert status["torch"]["install"] == command
    (tmp_path / "x.pt").touch()
    export = subprocess.run([clean / "mmx", "export", "x.pt"], capture_output=True, text=True, cwd=tmp_path)
    assert export.returncode == 4 and command in export.stderr and "Traceback" not in export.stderr
    listing = subprocess.run([clean / "mmx", "--help"], capture_output=True, text=True, cwd=tmp_path).stdout
    assert "export" in listing and "pip install" in listing


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_the_newest_releases_predict_on_every_python(
    version: str, tiny_bundle: Path, clip: tuple[Path, str], tmp_path: Path
) -> None:
    """``pip install .`` without the pinned versions, as a user does it, and one real prediction."""
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"there is no Python {version} here")
    source = tmp_path / "source"
    leave = shutil.ignore_patterns(".*", "build", "demo-out", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, source, ignore=leave)
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    binaries = tmp_path / "venv" / "bin"
    subprocess.run([binaries / "python", "-m", "pip", "install", "-q", source], check=True, cwd=tmp_path)
    predict = [binaries / "mmx", "predict", tiny_bundle, clip[0], "--text", clip[1], "--json"]
    done = subprocess.run(predict, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["modalities"] == ["text", "visual", "audio"]
