"""Where the tokenizer and the face nets are looked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmx.export.assets import check_tokenizer, find_face_nets, find_tokenizer
from mmx.runtime.errors import BadDataError, EnvironmentMissing, UsageError
from mmx.runtime.extras import install_command


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_the_given_folder_is_the_only_one_that_counts(tmp_path: Path):
    put(tmp_path / "spiece.model")
    given = tmp_path / "given"
    given.mkdir()
    with pytest.raises(UsageError, match=r"has no spiece\.model or tokenizer\.json"):
        find_tokenizer(tmp_path / "ckpt.pt", given)
    json = put(given / "tokenizer.json")
    assert find_tokenizer(tmp_path / "ckpt.pt", given) == json
    model = put(given / "spiece.model")
    assert find_tokenizer(tmp_path / "ckpt.pt", given) == model
    assert find_tokenizer(tmp_path / "ckpt.pt", json) == json


def test_beside_the_checkpoint_comes_before_the_cache(tmp_path: Path, empty_cache: Path):
    assert find_tokenizer(tmp_path / "ckpt.pt") is None
    cached = put(empty_cache / "models--albert-base-v2" / "snapshots" / "aa" / "spiece.model")
    assert find_tokenizer(tmp_path / "ckpt.pt") == cached
    beside = put(tmp_path / "tokenizer.json")
    assert find_tokenizer(tmp_path / "ckpt.pt") == beside


def test_of_several_snapshots_the_one_that_main_names(tmp_path: Path, empty_cache: Path):
    repository = empty_cache / "models--albert--albert-base-v2"
    named = put(repository / "snapshots" / "aa" / "tokenizer.json")
    newer = put(repository / "snapshots" / "bb" / "tokenizer.json")
    os.utime(newer.parent, (2e9, 2e9))
    assert find_tokenizer(tmp_path / "ckpt.pt") == newer
    put(repository / "refs" / "main").write_text("aa\n")
    assert find_tokenizer(tmp_path / "ckpt.pt") == named


def test_a_cache_with_links_and_without_snapshots(tmp_path: Path, empty_cache: Path):
    blob = put(empty_cache / "models--albert-base-v2" / "blobs" / "123")
    assert find_tokenizer(tmp_path / "ckpt.pt") is None
    link = empty_cache / "models--albert-base-v2" / "snapshots" / "aa" / "spiece.model"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert find_tokenizer(tmp_path / "ckpt.pt") == link


def test_a_tokenizer_that_does_not_fit_is_rejected(tokenizer_dir: Path, tmp_path: Path):
    check_tokenizer(tokenizer_dir / "spiece.model", 2000)
    with pytest.raises(BadDataError, match="has 2,000 pieces, the checkpoint has embeddings for 1,999"):
        check_tokenizer(tokenizer_dir / "spiece.model", 1999)
    with pytest.raises(BadDataError, match="spiece"):
        check_tokenizer(put(tmp_path / "spiece.model"), 30000)
    with pytest.raises(BadDataError, match="tokenizer"):
        check_tokenizer(put(tmp_path / "json" / "tokenizer.json"), 30000)


def test_the_face_nets_are_found_without_importing_their_package():
    code = (
        "import sys; from mmx.export.assets import find_face_nets; nets = find_face_nets();"
        "assert sorted(nets) == ['onet', 'pnet', 'rnet'] and all(net.is_file() for net in nets.values());"
        "assert 'cv2' not in sys.modules and 'mtcnnruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mtcnnruntime", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissing) as missing:
        find_face_nets()
    assert missing.value.hint == install_command("export")
