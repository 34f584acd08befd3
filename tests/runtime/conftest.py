"""Media and bundles for the runtime's tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


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
