"""The pip command of a hint works from where this mmx was installed, and says what is wrong with a package."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from mmx.runtime import extras
from mmx.runtime.errors import missing_extra


@pytest.fixture
def came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install an mmx whose direct_url.json holds the given record (None: there is no such file)."""

    def put(record: dict | None) -> None:
        info = tmp_path / "mmx-1.0.dist-info"
        info.mkdir(exist_ok=True)
        if record is not None:
            (info / "direct_url.json").write_text(json.dumps(record))
        monkeypatch.setattr("importlib.metadata.distributions", lambda name: [PathDistribution(info)])
        extras._origin.cache_clear()

    yield put
    extras._origin.cache_clear()


def test_from_an_index(came_from) -> None:
    came_from(None)
    assert extras.install_command("serve,asr") == "pip install 'mmx[serve,asr]'"


def test_from_a_checkout(came_from, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "my mmx"
    checkout.mkdir()
    came_from({"url": checkout.as_uri(), "dir_info": {"editable": True}})
    assert extras.install_command("serve") == f"pip install -e '{checkout}[serve]'"
    monkeypatch.chdir(checkout)
    assert extras.install_command("serve") == "pip install -e '.[serve]'"
    monkeypatch.chdir(tmp_path)
    checkout.rmdir()
    assert extras.install_command("serve") == "pip install 'mmx[serve]'"


def test_from_a_wheel(came_from, tmp_path: Path) -> None:
    wheel = tmp_path / "mmx-1.0-py3-none-any.whl"
    wheel.touch()
    came_from({"url": wheel.as_uri(), "archive_info": {}})
    assert extras.install_command("serve") == f"pip install '{wheel}[serve]'"


def test_a_package_that_breaks_is_told_from_one_that_is_missing(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "faster_whisper.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    for absent, said in ((True, "faster-whisper is not installed"), (False, "imported: No module named 'no_such_pack")):
        monkeypatch.setitem(sys.modules, "faster_whisper", None)
        if not absent:
            del sys.modules["faster_whisper"]
        try:
            import faster_whisper  # noqa: F401
        except ImportError:
            error = missing_extra("faster-whisper", "asr")
        assert said in error.message and "[asr]" in error.hint
