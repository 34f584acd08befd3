"""``mmx asr pull`` against a server on this machine that speaks as much of the Hub's protocol as it needs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REPOSITORY, COMMIT = "Systran/faster-whisper-tiny", "a" * 40


@pytest.fixture
def hub(english_model: Path) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that were asked for."""
    files = {path.name: path.read_bytes() for path in english_model.iterdir()} | {"other.msgpack": bytes(9_000_000)}
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            headers = {}
            if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
                tree = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files.items()]
                content, kind, status = json.dumps(tree).encode(), "application/json", 200
            elif path.startswith(f"/api/models/{REPOSITORY}"):
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                about = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}}
                content, kind, status = json.dumps(about).encode(), "application/json", 200
            elif path.startswith(f"/{REPOSITORY}/resolve/") and path.rpartition("/")[2] in files:
                content, kind, status = files[path.rpartition("/")[2]], "application/octet-stream", 200
                headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            else:
                content, kind, status = b"{}", "application/json", 404
                headers = {"X-Error-Code": "RepoNotFound"}
            self.send_response(status)
            for name, value in {**headers, "Content-Type": kind, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def asr(address: str, cache: Path, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MMX_ASR"}
    environment |= {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "mmx.cli", "asr", *arguments]
    return subprocess.run(command, env=environment, input=said, capture_output=True, text=True)


def test_a_model_is_fetched_after_its_size_and_licence_are_shown(
    hub: tuple[str, list[str]], english_model: Path, tmp_path: Path
) -> None:
    address, asked = hub
    declined = asr(address, tmp_path, "pull", "tiny", said="n\n")
    size = sum(path.stat().st_size for path in english_model.iterdir())
    assert declined.returncode != 0 and f": {size / 1e6:.0f} MB, licence: mit" in declined.stdout
    assert not [path for path in asked if "/resolve/" in path]
    done = asr(address, tmp_path, "pull", "tiny", "--yes")
    assert done.returncode == 0, done.stderr
    fetched = tmp_path / "models--Systran--faster-whisper-tiny" / "snapshots" / COMMIT
    assert {path.name for path in fetched.iterdir()} == {path.name for path in english_model.iterdir()}
    assert (fetched / "model.bin").read_bytes() == (english_model / "model.bin").read_bytes()
    assert asr(address, tmp_path, "list").stdout == "tiny\n--asr auto takes tiny\n"


def test_what_cannot_be_fetched_is_one_line(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, _ = hub
    missing = asr(address, tmp_path, "pull", "nobody/nothing", "--yes")
    assert missing.returncode == 4 and "nobody/nothing cannot be downloaded" in missing.stderr
    assert "Traceback" not in missing.stderr
    offline = asr("http://127.0.0.1:9", tmp_path, "pull", "tiny", "--yes")
    assert offline.returncode == 4 and "Traceback" not in offline.stderr
