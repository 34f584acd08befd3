"""A server on this machine that speaks as much of the Hugging Face Hub's protocol as its client needs."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON, BYTES = "application/json", "application/octet-stream"


@dataclass
class Repository:
    """The files of each commit, newest last, the licence that its card states, and branches."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    licence: str | None = None

    def add(self, files: Mapping[str, bytes]) -> str:
        """A commit that holds these files."""
        content = repr([sorted(files.items()), len(self.commits)]).encode()
        commit = hashlib.sha1(content).hexdigest()
        self.commits[commit] = dict(files)
        return commit

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit and its files; main is the newest."""
        if revision == "main" and self.commits:
            return list(self.commits.items())[-1]
        return (revision, self.commits[revision]) if revision in self.commits else None


class Hub:
    """The server.

    Attributes:
        address. repositories: by name. asked: method, path and Range of each request.
        breaks_off: a file by path that is sent in half, once; nothing is answered afterwards if ``goes_down``, and all
            other files are sent before.
        down: nothing is answered but 503.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.breaks_off: str | None = None
        self.goes_down = False
        self.down = False
        self._sent: set[str] = set()
        self._large: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_HEAD(self) -> None:
                hub._answer(self, b"")

            def do_GET(self) -> None:
                hub._answer(self, b"")

            def do_POST(self) -> None:
                hub._answer(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            do_PUT = do_POST

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def environment(self) -> dict[str, str]:
        """What points the Hub's client here."""
        return {"HF_ENDPOINT": self.address, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test"}

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path = request.path.partition("?")[0]
        wanted = request.headers.get("Range")
        self.asked.append((request.command, path, wanted))
        status, kind, content, headers = (503, JSON, b"{}", {}) if self.down else self._find(request, path, body)
        if status == 200 and wanted and kind == BYTES:
            first = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[first:]
        request.send_response(status)
        for name, value in {**headers, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        name = path.partition("/resolve/")[2].partition("/")[2]
        if name and name == self.breaks_off:
            self.breaks_off = None
            while self.goes_down and not self._all_others_sent():
                time.sleep(0.01)
            content, self.down = content[: len(content) // 2], self.goes_down
        request.wfile.write(content)
        if name:
            self._sent.add(name)

    def _all_others_sent(self) -> bool:
        commits = [each for repository in self.repositories.values() for each in repository.commits.values()]
        return len({name for files in commits for name in files if "/" in name} - self._sent) <= 1

    def _find(self, request: BaseHTTPRequestHandler, path: str, body: bytes) -> tuple[int, str, bytes, dict[str, str]]:
        if request.command in ("POST", "PUT"):
            return 200, JSON, json.dumps(self._write(request, path, body)).encode(), {}
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository = self.repositories.get("/".join(parts[2:4]))
            what, revision = [*parts[4:6], "", ""][:2]
            found = repository and repository.at(revision or "main")
            if not repository or not found:
                return self._missing("RevisionNotFound" if repository else "RepoNotFound")
            commit, files = found
            sizes = [(name, len(data)) for name, data in files.items()]
            if what == "tree":
                tree = [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in sizes]
                return 200, JSON, json.dumps(tree).encode(), {}
            siblings = [{"rfilename": name, "size": size} for name, size in sizes]
            card = {"license": repository.licence} if repository.licence else {}
            about = {"id": "/".join(parts[2:4]), "sha": commit, "siblings": siblings, "cardData": card}
            return 200, JSON, json.dumps(about).encode(), {}
        repository = self.repositories.get("/".join(parts[:2]))
        found = repository.at(parts[3]) if repository and parts[2:3] == ["resolve"] else None
        name = "/".join(parts[4:])
        if not found or name not in found[1]:
            return self._missing("EntryNotFound" if found else "RepoNotFound")
        digest = hashlib.sha256(found[1][name]).hexdigest()
        return 200, BYTES, found[1][name], {"X-Repo-Commit": found[0], "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}

    def _missing(self, code: str) -> tuple[int, str, bytes, dict[str, str]]:
        return 404, JSON, b"{}", {"X-Error-Code": code}

    def _write(self, request: BaseHTTPRequestHandler, path: str, body: bytes) -> Any:
        """What is asked of a repository's writer: made, told how to upload, given large files, committed."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            if name not in self.repositories:
                self.repositories[name] = Repository()
                self.repositories[name].add({".gitattributes": b""})
            return {"url": f"{self.address}/{name}", "name": name}
        if path == "/api/validate-yaml":  # of the card
            return {"errors": [], "warnings": []}
        if path.startswith("/large/"):
            self._large[path.rpartition("/")[2]] = body
            return {}
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = [
                {**each, "actions": {"upload": {"href": f"{self.address}/large/{each['oid']}"}}} for each in objects
            ]
            return {"transfer": "basic", "objects": upload}
        _, _, _, owner, name, what, revision = path.split("/", 6)
        repository = self.repositories[f"{owner}/{name}"]
        if what == "preupload":
            files = json.loads(body)["files"]
            mode = {each["path"]: "lfs" if each["path"].endswith(".onnx") else "regular" for each in files}
            return {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in mode.items()]}
        assert what == "commit", path
        now = repository.at(revision)
        files = dict(now[1]) if now else {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self._large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.add(files)
        return {"commitUrl": f"{self.address}/{owner}/{name}/commit/{commit}", "commitOid": commit, "success": True}
