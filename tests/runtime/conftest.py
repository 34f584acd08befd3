"""Media and bundles for the runtime's tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest


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
