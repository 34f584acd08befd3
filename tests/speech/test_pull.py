"""``mmx asr pull`` against a server on this machine that speaks as much of the Hub's protocol as it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, Repository

REPOSITORY = "Systran/faster-whisper-tiny"


@pytest.fixture
def repository(hub: Hub, english_model: Path) -> str:
    """The commit of a repository with the model."""
    files = {path.name: path.read_bytes() for path in english_model.iterdir()} | {"other.msgpack": bytes(9_000_000)}
    hub.repositories[REPOSITORY] = Repository(licence="mit")
    return hub.repositories[REPOSITORY].add(files)


def asr(hub: dict[str, str], cache: Path, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MMX_ASR"}
    environment |= {**hub, "HF_HUB_CACHE": str(cache)}
    command = [sys.executable, "-m", "mmx.cli", "asr", *arguments]
    return subprocess.run(command, env=environment, input=said, capture_output=True, text=True)


def test_a_model_is_fetched_after_its_size_and_licence_are_shown(
    hub: Hub, repository: str, english_model: Path, tmp_path: Path
) -> None:
    here = hub.environment()
    declined = asr(here, tmp_path, "pull", "tiny", said="n\n")
    size = sum(path.stat().st_size for path in english_model.iterdir())
    assert declined.returncode != 0 and f": {size / 1e6:.0f} MB, licence: mit" in declined.stdout
    assert not [path for _, path, _ in hub.asked if "/resolve/" in path]
    done = asr(here, tmp_path, "pull", "tiny", "--yes")
    assert done.returncode == 0, done.stderr
    fetched = tmp_path / "models--Systran--faster-whisper-tiny" / "snapshots" / repository
    assert {path.name for path in fetched.iterdir()} == {path.name for path in english_model.iterdir()}
    assert (fetched / "model.bin").read_bytes() == (english_model / "model.bin").read_bytes()
    assert asr(here, tmp_path, "list").stdout == "tiny\n--asr auto takes tiny\n"


def test_what_cannot_be_fetched_is_one_line(hub: Hub, tmp_path: Path) -> None:
    missing = asr(hub.environment(), tmp_path, "pull", "nobody/nothing", "--yes")
    assert missing.returncode == 4 and "nobody/nothing cannot be downloaded" in missing.stderr
    assert "Traceback" not in missing.stderr
    offline = asr(hub.environment() | {"HF_ENDPOINT": "http://127.0.0.1:9"}, tmp_path, "pull", "tiny", "--yes")
    assert offline.returncode == 4 and "Traceback" not in offline.stderr
