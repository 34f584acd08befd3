"""Bundles for the engine tests; the engine itself is built once, by TensorRT's real builder."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmx.export.engine.build import Built, build_engine

sys.path.insert(0, str(Path(__file__).parent))  # for stand_ins
if find_spec("tensorrt_rtx") is None:  # mmx[tensorrt-rtx]
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def built(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The tiny bundle with its FP16 graph and an engine for the RTX 4090, one profile. Do not change it."""
    path = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("engine") / "tiny.mmx")
    return build_engine(path, "fp16", target="rtx4090", profiles=("short",), samples=8)


@pytest.fixture
def own(built: Built, tmp_path: Path) -> Path:
    """A copy of that bundle, engine included, for a test that changes it."""
    return shutil.copytree(built.bundle.path, tmp_path / "tiny.mmx")
