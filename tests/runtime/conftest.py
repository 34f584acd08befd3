"""Media and bundles for the runtime's tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from mmx.runtime.errors import EnvironmentMissing

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Ten seconds of a talking face with real speech, and the transcript (see demo/clip.py)."""
    path = tmp_path_factory.mktemp("clip") / "talk.mp4"
    built = subprocess.run([sys.executable, ROOT / "demo" / "clip.py", path], capture_output=True, text=True)
    if built.returncode == EnvironmentMissing.exit_code:
        pytest.skip(f"the clip's media can't be had here: {built.stderr}")
    assert built.returncode == 0, built.stderr
    return path, path.with_suffix(".txt").read_text(encoding="utf-8").strip()


@pytest.fixture(scope="session")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a 300 Hz tone with some noise, 16 kHz mono WAV."""
    path = tmp_path_factory.mktemp("tone") / "tone.wav"
    time = np.arange(48000) / 16000
    sound = 0.3 * np.sin(2 * np.pi * 300 * time) + 0.01 * np.random.default_rng(0).standard_normal(48000)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes((sound * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="session")
def black(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of black picture, no sound track."""
    path = tmp_path_factory.mktemp("black") / "black.mp4"
    with av.open(path, "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(20):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.fixture
def altered(tiny_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the bundle without some of its folders, with the manifest (a dict) changed by a function."""

    def alter(change: Callable[[dict], None] = lambda manifest: None, without: str | None = None) -> Path:
        copy = Path(shutil.copytree(tiny_bundle, tmp_path / "altered.mmx"))
        manifest = json.loads((copy / "manifest.json").read_text())
        if without is not None:
            shutil.rmtree(copy / without)
            manifest["files"] = {name: sha for name, sha in manifest["files"].items() if not name.startswith(without)}
        change(manifest)
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    return alter
