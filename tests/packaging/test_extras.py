"""Every extra has a try in .ci/extras.py, which CI runs on each Python; some of them run here, on this one."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mmx.cli.main import ENTRIES

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "extras.py"


def test_every_extra_is_tried_or_left_out_with_a_reason() -> None:
    spec = importlib.util.spec_from_file_location("extras", SCRIPT)
    assert spec and spec.loader
    extras = sys.modules["extras"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extras)
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(offered) == (set(extras.TRIES) - {""}) | set(extras.LEFT_OUT)
    assert set(extras.ARGUMENTS) == {name for name, entry in ENTRIES.items() if entry.needs}
    workflow = (ROOT / ".github" / "workflows" / "extras.yml").read_text("utf-8")
    assert "python .ci/extras.py inputs" in workflow


@pytest.mark.slow
def test_the_core_and_some_extras_alone_with_the_oldest_and_the_newest_versions(
    tiny_checkpoint: Path, tiny_bundle: Path, tokenizer_dir: Path, clip: tuple[Path, str], tmp_path: Path
) -> None:
    shutil.copyfile(tiny_checkpoint, tmp_path / "ckpt.pt")
    shutil.copytree(tiny_bundle, tmp_path / "ckpt.mmx")
    shutil.copytree(tokenizer_dir, tmp_path / "tokenizer")
    shutil.copyfile(clip[0], tmp_path / "talk.mp4")
    command = [sys.executable, SCRIPT, tmp_path, "core", "pandas", "render", "serve", "batch"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("ok  ") == 10, done.stdout + done.stderr
