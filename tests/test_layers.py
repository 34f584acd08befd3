"""Imports point one way: cli -> calibration -> training -> benchmarks -> export -> models -> runtime <- serving."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {
    "runtime": set(),
    "serving": {"runtime"},
    "models": {"runtime"},
    "export": {"runtime", "models"},
    "calibration": {"runtime", "models", "export", "benchmarks", "training"},
    "training": {"runtime", "models", "export", "benchmarks"},
    "benchmarks": {"runtime", "models", "export"},
    "cli": {"runtime", "models", "export", "calibration", "training", "benchmarks", "serving"},
}
FOLDERS = [name for name in BELOW if (ROOT / name).is_dir()]


def imported(path: Path) -> set[str]:
    """The mmx packages and the foreign packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_one_way(folder: str) -> None:
    allowed = BELOW[folder] | {folder}
    for path in (ROOT / folder).rglob("*.py"):
        ours = {name.split(".")[1] for name in imported(path) if name.startswith("mmx.")}
        assert ours <= allowed, f"{path.relative_to(ROOT)} imports mmx.{', mmx.'.join(sorted(ours - allowed))}"


def test_the_runtime_imports_no_torch_and_no_onnx() -> None:
    heavy = {"torch", "onnx", "onnxscript", "onnx_ir", "librosa"}
    for path in (ROOT / "runtime").rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & heavy, path.relative_to(ROOT)
