"""Nothing leaves the machine, and nothing is written outside mmx's own folders."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]
CALLS = "open,openat,creat,/^mkdir,/^rename,/link,connect,/^send"
WRITES = re.compile(r"(?:O_CREAT|O_WRONLY|O_RDWR|\b(?:mkdir|rename|link|symlink|creat)\w*\()")
PATH = re.compile(r'"([^"]*)"')


def alone(home: Path) -> dict[str, str]:
    """The environment of a user who has never used any of this; the home is empty."""
    home.mkdir()
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "LANG", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    }
    scratch = home.parent / "scratch"
    scratch.mkdir()
    return {**kept, "HOME": str(home), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}


def run_alone(command: list[str], home: Path, **options) -> subprocess.CompletedProcess[str]:
    """Run a command in that environment."""
    done = subprocess.run(command, env=alone(home), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done


def serve_alone(traced: list[str], home: Path, video: Path) -> None:
    """Run ``mmx serve`` in that environment, under strace, send it one request, and end it."""
    with subprocess.Popen(traced, env=alone(home), stdout=subprocess.PIPE, text=True) as strace:
        assert strace.stdout is not None
        url = next(line.split()[-1] for line in strace.stdout if line.startswith("listening on "))
        try:
            answer = httpx.post(f"{url}/v1/predict", files={"video": video.read_bytes()}, timeout=300, trust_env=False)
            assert answer.status_code == 200, answer.text
        finally:
            (server,) = Path(f"/proc/{strace.pid}/task/{strace.pid}/children").read_text().split()
            os.kill(int(server), signal.SIGTERM)
    assert strace.returncode == 0


def in_home(home: Path) -> list[str]:
    """What a command left in the home, but for mmx's own cache."""
    return [str(p) for p in home.rglob("*") if not p.is_dir() and not p.is_relative_to(home / ".cache" / "mmx")]


@pytest.mark.parametrize("package", sorted(p.parent.name for p in ROOT.glob("*/__init__.py")))
def test_every_package_turns_telemetry_off_first(package: str) -> None:
    """Before any of its modules can import a library that reports."""
    first = "mmx; mmx.Predictor; import mmx" if package == "api" else f"mmx.{package}"  # it imports nothing by itself
    code = f"import {first}, os, sys; print(os.environ['ORT_DISABLE_TELEMETRY'], sys.modules['openvino_telemetry'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "None"], done.stderr


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_predict_leaves_nothing_in_the_home(
    tiny_bundle: Path, clip: tuple[Path, str], backend: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "mmx.cli.main", "predict", str(tiny_bundle), str(clip[0]), "--backend", backend]
    done = run_alone(command, tmp_path / "home")
    assert in_home(tmp_path / "home") == []
    assert done.stdout


def test_openvino_converts_a_model_without_reporting_it(tmp_path: Path) -> None:
    """Its converter is what reports, and mmx bench uses it."""
    code = """
import mmx.benchmarks, torch, openvino
openvino.convert_model(torch.nn.Linear(2, 2), example_input=torch.zeros(1, 2))
"""
    run_alone([sys.executable, "-c", code], tmp_path / "home")
    assert in_home(tmp_path / "home") == []


def test_without_a_home_nothing_is_said(tiny_bundle: Path, tone: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmx.cli.main", "predict", str(tiny_bundle), str(tone)]
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("verb", ["predict", "export", "serve"])
def test_no_name_is_looked_up_and_no_foreign_file_written(
    verb: str, tiny_bundle: Path, tiny_checkpoint: Path, tokenizer_dir: Path, clip: tuple[Path, str], tmp_path: Path
) -> None:
    """Every system call that could do either, of the command and all its processes."""
    arguments = {
        "predict": [str(tiny_bundle), str(clip[0]), "--text", "glad"],
        "export": [str(tiny_checkpoint), "--out", str(tmp_path / "out.mmx"), "--tokenizer", str(tokenizer_dir)],
        "serve": [str(tiny_bundle), "--port", "0", "--workers", "1", "--backend", "onnxruntime"],
    }[verb]
    log = tmp_path / "calls"
    trace = ["strace", "-f", "-qq", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(log)]
    command = [*trace, sys.executable, "-m", "mmx.cli.main", verb, *arguments]
    if verb == "serve":
        serve_alone(command, tmp_path / "home", clip[0])
    else:
        run_alone(command, tmp_path / "home")
    calls = log.read_text(errors="replace").splitlines()
    assert any("manifest.json" in call for call in calls)  # it sees what the command does
    assert [call for call in calls if "AF_INET" in call] == []  # DNS would be one, too
    written = {path for call in calls if WRITES.search(call) and "= -1" not in call for path in PATH.findall(call)}
    foreign = {
        path for path in written if path.startswith("/") and not path.startswith((str(tmp_path), "/dev/", "/proc/"))
    }
    assert foreign == set()
