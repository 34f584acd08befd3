"""A real server in a process of its own, as a user starts it, on a loopback port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jsonschema
from waiting import PATIENCE_S, until

Start = Callable[..., Any]


@dataclass
class Server:
    """A running ``mmx serve``. ``log`` fills with what it prints."""

    process: subprocess.Popen[str]
    url: str
    log: list[str]
    document: dict[str, Any] = field(default_factory=dict)
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=PATIENCE_S, verify=False, trust_env=False))

    @property
    def pid(self) -> int:
        return self.process.pid

    def workers(self) -> list[int]:
        """The numbers of its workers."""
        found = []
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with suppress(OSError):  # it has ended meanwhile
                if b"mmx.runtime.workers.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        return found

    def metric(self, name: str) -> float:
        """A metric's value, 0 where it has none yet."""
        lines = self.http.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def at_rest(self) -> None:
        """Wait until no request is at hand: an answer is there a moment before the server is done with its request."""
        until(lambda: self.metric('mmx_queue{queue="requests"}') == 0, "the server to come to rest")

    def post(self, **options: Any) -> httpx.Response:
        """POST /v1/predict; the answer is checked against the server's own OpenAPI document."""
        response = self.http.post(f"{self.url}/v1/predict", **options)
        self.check(response, "/v1/predict", "post")
        return response

    def check(self, response: httpx.Response, path: str, method: str = "get") -> None:
        """Fail where the OpenAPI document does not allow this response."""
        document = self.document or self.http.get(f"{self.url}/openapi.json").json()
        self.document = document
        allowed = document["paths"][path][method]["responses"]
        assert str(response.status_code) in allowed, (response.status_code, sorted(allowed))
        kind = response.headers["content-type"].split(";")[0]
        schema = allowed[str(response.status_code)]["content"][kind]["schema"]
        whole = {**schema, "components": document["components"]}
        values = [response.text]
        if kind == "application/json":
            values = [response.json()]
        elif kind == "application/x-ndjson":
            values = [json.loads(line) for line in response.text.splitlines()]
        for value in values:
            jsonschema.validate(value, whole, jsonschema.Draft202012Validator)
        for header in allowed[str(response.status_code)].get("headers", {}):
            assert header in response.headers


@contextmanager
def running(bundle: Path, *options: str, scratch: Path | None = None, faulty: bool = False) -> Iterator[Server]:
    """``mmx serve`` in a process of its own, stopped in the end; it must end without a traceback.

    scratch: its temporary folder. faulty: whether a traceback is what the test is about.
    """
    command = [sys.executable, "-m", "mmx.cli.main", "serve", str(bundle), "--port", "0", "--threads", "1", *options]
    command += ["--backend", "onnxruntime"]
    env = os.environ | ({"TMPDIR": str(scratch)} if scratch else {})
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    assert process.stdout is not None
    log: list[str] = []
    url = ""
    for line in process.stdout:
        log.append(line)
        if line.startswith("listening on "):
            url = line.split()[-1]
            break
    reader = threading.Thread(target=lambda: log.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        assert url, "".join(log)
        yield Server(process, url, log)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        reader.join(PATIENCE_S)
    assert faulty or "Traceback" not in "".join(log), "".join(log)
