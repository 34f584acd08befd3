"""A real server, as a user starts it, on a loopback port; and small media to send it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import av
import httpx
import jsonschema
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside the tests

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


@pytest.fixture(scope="session")
def server(tiny_bundle: Path) -> Iterator[Server]:
    """A server with the default settings, one worker. Leave it as you found it."""
    with running(tiny_bundle, "--workers", "1") as started:
        yield started


@pytest.fixture(scope="session")
def start(tiny_bundle: Path) -> Start:
    """start(options...): a server of the test's own, as a context manager."""
    return partial(running, tiny_bundle)


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds: a drawn face that MTCNN finds, on a moving ground, and a tone; MP4."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with av.open(path, "w") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt, video.bit_rate = 160, 120, "yuv420p", 400_000
        audio = out.add_stream("aac", rate=16000, layout="mono")
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(_picture(number), format="rgb24")
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        seconds = np.arange(48000) / 16000
        sound = (0.3 * np.sin(2 * np.pi * (200 + 60 * seconds) * seconds)).astype(np.float32)
        for first in range(0, len(sound), 1024):
            part = av.AudioFrame.from_ndarray(sound[None, first : first + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts = 16000, first
            out.mux(audio.encode(part))
        out.mux(audio.encode(None))
    return path


def _picture(number: int) -> np.ndarray:
    image = Image.new("RGB", (160, 120), (90 + number, 110, 140))
    draw = ImageDraw.Draw(image)
    draw.ellipse((45, 10, 115, 110), fill=(224, 172, 140))
    draw.pieslice((43, 4, 117, 70), 180, 360, fill=(60, 40, 30))
    for x in (63, 97):
        draw.ellipse((x - 9, 45, x + 9, 56), fill=(250, 250, 250))
        draw.ellipse((x - 4, 46, x + 4, 55), fill=(40, 30, 20))
        draw.line((x - 11, 40, x + 11, 38), fill=(50, 30, 20), width=3)
    draw.polygon([(80, 52), (74, 74), (86, 74)], fill=(200, 145, 115))
    draw.ellipse((64, 84, 96, 94), fill=(170, 60, 60))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)))
