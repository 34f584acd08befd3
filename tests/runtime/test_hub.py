"""Bundles to and from a server that speaks the Hub's protocol, and their signatures: whole, pinned, unchanged."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hub_server import Hub, Repository

from mmx.cli.main import main
from mmx.runtime.bundle import Bundle
from mmx.runtime.errors import BadDataError, UsageError
from mmx.runtime.hub import Remote, parse

NAME = "somebody/emotions"


@pytest.fixture
def here(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose Hub is this one."""
    return {**os.environ, **hub.environment(), "MMX_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf")}


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return copytree(tiny_bundle, tmp_path / "tiny.mmx")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key."""
    return key_pair(tmp_path / "mine")


def key_pair(name: Path) -> tuple[Path, Path]:
    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    private, public = name.with_suffix(".pem"), name.with_suffix(".pub")
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def mmx(here: dict[str, str], *arguments: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mmx.cli", *map(str, arguments)]
    done = subprocess.run(command, env=here, cwd=folder, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def uploaded(bundle: Path) -> dict[str, bytes]:
    """A bundle's files as a repository holds them."""
    return {f"{bundle.name}/{name}": data for name, data in contents(bundle).items()}


def test_what_is_pushed_is_what_is_pulled_and_used_by_its_name(
    hub: Hub, here: dict[str, str], bundle: Path, tmp_path: Path
) -> None:
    pushed = mmx(here, "push", bundle, NAME)
    assert pushed.returncode == 0, pushed.stderr
    first, files = list(hub.repositories[NAME].commits.items())[-1]
    assert {name: data for name, data in files.items() if "/" in name} == uploaded(bundle)
    assert files["README.md"].startswith(b"---\nlibrary_name: mmx") and f"{NAME}@{first}" in pushed.stdout

    (bundle / "variants").mkdir()  # no variant yet, and a file that goes away with the next version
    hub.repositories[NAME].commits[first]["tiny.mmx/variants/old/record.json"] = b"{}"
    assert mmx(here, "push", bundle, NAME).returncode == 0
    last, files = list(hub.repositories[NAME].commits.items())[-1]
    assert "tiny.mmx/variants/old/record.json" not in files and last != first

    out = tmp_path / "mine.mmx"
    pulled = mmx(here, "pull", NAME, "--out", out, "--yes")
    assert pulled.returncode == 0, pulled.stderr
    assert contents(out) == contents(bundle) and f"{NAME} at {last}: tiny.mmx" in pulled.stdout
    again = mmx(here, "pull", NAME, "--out", out, "--yes")
    assert again.returncode == 2 and "mine.mmx exists" in again.stderr
    assert [path.name for path in tmp_path.glob(".*")] == []

    shown = mmx(here, "inspect", f"hf://{NAME}@{last}", "--json")
    assert shown.returncode == 0, shown.stderr
    hub.down = True  # a whole commit asks nobody once it is there
    assert mmx(here, "inspect", f"hf://{NAME}@{last}", "--json").stdout == shown.stdout
    offline = mmx(here, "inspect", f"hf://{NAME}")
    assert offline.returncode == 4 and f"{NAME} cannot be reached on the Hub" in offline.stderr


@pytest.fixture
def large(bundle: Path) -> Path:
    """The bundle with 25 MB more: the client keeps what it has in parts of 10 MB."""
    padding = np.random.default_rng(0).bytes(25 * 2**20)
    (bundle / "padding.bin").write_bytes(padding)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["padding.bin"] = hashlib.sha256(padding).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.mark.slow
def test_a_connection_that_broke_is_taken_up_in_the_middle_of_a_file(
    hub: Hub, here: dict[str, str], large: Path, tmp_path: Path
) -> None:
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].add(uploaded(large))
    hub.breaks_off = "tiny.mmx/padding.bin"
    out = tmp_path / "mine.mmx"
    done = mmx(here, "pull", NAME, "--out", out, "--yes")
    assert done.returncode == 0, done.stderr
    wanted = [part for method, path, part in hub.asked if method == "GET" and path.endswith("/padding.bin")]
    assert wanted[0] is None and int((wanted[1] or "").removeprefix("bytes=").rstrip("-")) >= 10_000_000
    assert contents(out) == contents(large)


@pytest.mark.slow
def test_a_pull_that_failed_goes_on_with_what_it_lacks_of_the_same_commit(
    hub: Hub, here: dict[str, str], large: Path, tmp_path: Path
) -> None:
    hub.repositories[NAME] = Repository()
    first = hub.repositories[NAME].add(uploaded(large))
    hub.breaks_off, hub.goes_down = "tiny.mmx/padding.bin", True
    out = tmp_path / "mine.mmx"
    broken = mmx(here, "pull", f"{NAME}@{first}", "--out", out, "--yes")
    assert broken.returncode == 4 and f"{NAME} cannot be reached" in broken.stderr and not out.exists()
    (part,) = tmp_path.glob(".mine.mmx.*.part")
    there = {path.relative_to(part).as_posix() for path in (part / "tiny.mmx").rglob("*") if path.is_file()}
    assert there and "tiny.mmx/padding.bin" not in there

    hub.down = False
    hub.asked.clear()
    hub.repositories[NAME].add({"README.md": b"something else by now"})
    assert mmx(here, "pull", f"{NAME}@{first}", "--out", out, "--yes").returncode == 0
    got = {path.partition(f"/resolve/{first}/")[2] for method, path, _ in hub.asked if method == "GET"} - {""}
    assert got == set(uploaded(large)) - there
    assert contents(out) == contents(large) and not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_what_is_no_whole_bundle_does_not_appear(hub: Hub, here: dict[str, str], bundle: Path, tmp_path: Path) -> None:
    hub.repositories[NAME] = Repository()
    good, out = uploaded(bundle), tmp_path / "mine.mmx"
    graph = bytearray(good["tiny.mmx/model.onnx"])
    graph[len(graph) // 2] ^= 1
    for files, said in (
        ({**good, "tiny.mmx/model.onnx": bytes(graph)}, "model.onnx was changed"),
        ({**good, "tiny.mmx/extra.py": b""}, "extra.py is not in the manifest"),
        ({**good, "other.mmx/manifest.json": b"{}"}, "holds 2 bundles"),
        ({"README.md": b""}, "holds no bundle"),
        ({**good, "tiny.mmx/../../evil": b""}, "does not stay inside"),
    ):
        hub.repositories[NAME].add(files)
        done = mmx(here, "pull", NAME, "--out", out, "--yes")
        assert done.returncode == 5 and said in done.stderr, (said, done.stderr)
        assert not out.exists() and not (tmp_path / "evil").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["nobody", "hf://a/b/c", "hf://a/../b", "hf://a b/c", "a/b@"])
def test_what_is_no_name_of_a_repository(name: str) -> None:
    assert parse("hf://a/b.c@v1") == Remote("a/b.c", "v1") and parse("a/b") == Remote("a/b")
    with pytest.raises(UsageError, match="is no repository"):
        parse(name)


def test_a_signed_bundle_is_refused_after_any_change(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("model_signing")
    private, public = keys
    assert main(["verify", str(bundle), "--key", str(public)]) == 5
    assert "is not signed" in capsys.readouterr().err
    assert main(["sign", str(bundle), "--key", str(private)]) == 0
    assert main(["verify", str(bundle), "--key", str(public)]) == 0
    _, other = key_pair(tmp_path / "other")
    assert main(["verify", str(bundle), "--key", str(other)]) == 5
    assert main(["verify", str(bundle), "--key", str(private)]) == 2
    capsys.readouterr()
    for path in sorted(each for each in bundle.rglob("*") if each.is_file()):
        before = path.read_bytes()
        place = len(before) // 2
        path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
        assert main(["verify", str(bundle), "--key", str(public)]) == 5
        said = capsys.readouterr().err
        assert "is not what was signed" in said and "Traceback" not in said
        path.write_bytes(before)
    for added in ("variants/x/record.json", ".gitattributes"):
        path = bundle / added
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        assert main(["verify", str(bundle), "--key", str(public)]) == 5
        path.unlink()
    assert main(["verify", str(bundle), "--key", str(public)]) == 0


def test_a_configured_key_is_asked_for_at_every_load(
    bundle: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("model_signing")
    private, public = keys
    monkeypatch.setenv("MMX_VERIFY_KEY", str(public))
    with pytest.raises(BadDataError, match="is not signed"):
        Bundle.open(bundle)
    monkeypatch.delenv("MMX_VERIFY_KEY")
    assert main(["sign", str(bundle), "--key", str(private)]) == 0
    monkeypatch.setenv("MMX_VERIFY_KEY", str(public))
    opened = Bundle.open(bundle, verify=False)
    graph = bundle / "model.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BadDataError, match=r"is not what was signed.*model\.onnx"):
        Bundle.open(bundle, verify=False)
    assert Bundle.open(bundle, verify=False, expect=opened.identity)  # a worker's, which was verified before
    monkeypatch.setenv("MMX_VERIFY_KEY", str(public.with_name("nothing.pub")))
    with pytest.raises(UsageError, match="does not exist"):
        Bundle.open(bundle, verify=False)


@pytest.mark.slow
def test_a_signature_travels_with_its_bundle(
    hub: Hub, here: dict[str, str], bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("model_signing")
    private, public = keys
    assert main(["sign", str(bundle), "--key", str(private)]) == 0
    assert mmx(here, "push", bundle, NAME).returncode == 0
    out = tmp_path / "mine.mmx"
    done = mmx(here | {"MMX_VERIFY_KEY": str(public)}, "pull", NAME, "--out", out, "--yes")
    assert done.returncode == 0, done.stderr
    assert main(["verify", str(out), "--key", str(public)]) == 0
