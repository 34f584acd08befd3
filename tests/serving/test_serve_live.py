"""A camera over a WebSocket: answers as offline, several at once, limits, back-pressure, and its end."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import websocket
from pictures import picture
from real_server import Server, Start
from waiting import PATIENCE_S, until

from mmx.runtime.media.arrays import MediaArrays
from mmx.runtime.predictor import Predictor
from mmx.runtime.types import Span

CHUNK = 16 * 1024
START = {"type": "start", "window": 1.0, "hop": 0.5, "max_lag": 60}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """recording(n): three seconds as a browser's MediaRecorder sends them; each n with another ground and tone."""
    made: dict[int, Path] = {}

    def make(number: int) -> Path:
        if number in made:
            return made[number]
        path = tmp_path_factory.mktemp("webm") / f"{number}.webm"
        with av.open(path, "w", options={"live": "1"}) as out:
            video = out.add_stream("libvpx", rate=10, options={"deadline": "realtime"})
            video.width, video.height, video.pix_fmt, video.bit_rate = 160, 120, "yuv420p", 400_000
            audio = out.add_stream("libopus", rate=48000, layout="mono")
            seconds = np.arange(3 * 48000) / 48000
            sound = (0.3 * np.sin(2 * np.pi * (200 + 100 * number + 60 * seconds) * seconds)).astype(np.float32)
            for frame in range(30):
                pixels = np.roll(picture(frame), 9 * number, axis=1)
                out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
                for first in range(4800 * frame, 4800 * (frame + 1), 960):
                    part = av.AudioFrame.from_ndarray(sound[None, first : first + 960], format="fltp", layout="mono")
                    part.sample_rate, part.pts = 48000, first
                    out.mux(audio.encode(part))
            for stream in (video, audio):
                out.mux(stream.encode(None))
        made[number] = path
        return path

    return make


class Camera:
    """A client."""

    def __init__(self, server: Server, start: Any = START, **options: Any) -> None:
        self.socket = websocket.create_connection(
            server.url.replace("http", "ws") + "/v1/live", timeout=PATIENCE_S, suppress_origin=True, **options
        )
        self.socket.send(start if isinstance(start, str) else json.dumps(start))

    def send(self, data: bytes) -> None:
        for first in range(0, len(data), CHUNK):
            self.socket.send_binary(data[first : first + CHUNK])

    def end(self) -> None:
        self.socket.send(json.dumps({"type": "end"}))

    def messages(self) -> Iterator[dict[str, Any]]:
        """Until the server closes."""
        while text := self.socket.recv():
            yield json.loads(text)


def offline(bundle: Path, file: Path, found: list[dict[str, Any]]) -> list[dict[str, float]]:
    spans = [Span(each["start"], each["start"] + 1.0) for each in found]
    with Predictor(bundle, backend="onnxruntime", threads=1, batch_size=1, asr="none") as predictor:
        return [prediction.logits for prediction in predictor.predict(file, transcript=spans)]


def test_two_cameras_at_once_get_their_own_answers(
    server: Server, tiny_bundle: Path, recording: Callable[[int], Path]
) -> None:
    """Their chunks are sent in turns; each one's answers are those of its own recording, offline."""
    cameras = [Camera(server), Camera(server)]
    assert [next(camera.messages())["type"] for camera in cameras] == ["ready", "ready"]
    third = list(Camera(server).messages())
    assert [each["type"] for each in third] == ["error"] and third[0]["error"]["code"] == "busy"
    data = [recording(number).read_bytes() for number in range(2)]
    for first in range(0, max(map(len, data)), CHUNK):
        for camera, each in zip(cameras, data, strict=True):
            if part := each[first : first + CHUNK]:
                camera.send(part)
    for camera in cameras:
        camera.end()
    for number, camera in enumerate(cameras):
        *answers, end = camera.messages()
        found = [each["prediction"] for each in answers]
        assert {each["type"] for each in answers} == {"prediction"} and end["type"] == "end"
        assert end["predictions"] == len(found) >= 1 and end["predictions"] + end["skipped"] >= 5 and not end["dropped"]
        assert all(each["modalities"] == ["visual", "audio"] and each["faces_found"] for each in found)
        for each, there in zip(found, offline(tiny_bundle, recording(number), found), strict=True):
            assert each["logits"] == pytest.approx(there, abs=1e-5)
    until(lambda: server.metric('mmx_queue{queue="live"}') == 0, "the cameras to be gone")
    assert len(server.workers()) == 1  # the one for uploads


def test_raw_frames_and_samples_are_answered_as_arrays_are(server: Server, tiny_bundle: Path) -> None:
    frames = np.stack([picture(number) for number in range(30)])
    times = np.arange(30) / 10
    sound = (0.3 * np.sin(np.arange(48000) / 9)).astype(np.float32)
    camera = Camera(server, {**START, "raw": {"width": 160, "height": 120, "sample_rate": 16000}})
    for time_s, frame in zip(times, frames, strict=True):
        camera.socket.send_binary(struct.pack("<cd", b"v", time_s) + frame.tobytes())
        part = sound[round(16000 * time_s) :][:1600]
        camera.socket.send_binary(struct.pack("<cd", b"a", time_s) + part.tobytes())
    camera.end()
    ready, *answers, end = camera.messages()
    assert ready["type"] == "ready" and end["type"] == "end"
    found = [each["prediction"] for each in answers]
    assert found and found[0]["faces_found"] == 2
    media = MediaArrays(frames, times, sound, 16000)
    spans = [Span(each["start"], each["start"] + 1.0) for each in found]
    with Predictor(tiny_bundle, backend="onnxruntime", threads=1, batch_size=1, asr="none") as predictor:
        there = list(predictor.predict(media, transcript=spans))
    for one, other in zip(found, there, strict=True):
        assert one["logits"] == pytest.approx(other.logits, abs=1e-5), one["start"]
    liar = Camera(server, {**START, "raw": {"width": 160, "height": 120}})
    liar.socket.send_binary(struct.pack("<cd", b"v", 0.0) + bytes(100))
    *_, last = liar.messages()
    assert last["error"]["code"] == "bad_media"


@pytest.mark.parametrize(
    ("start", "code"),
    [
        ("hello", "bad_request"),
        ({"type": "begin"}, "bad_request"),
        ({**START, "window": "3"}, "bad_request"),
        ({**START, "hop": 0.001}, "bad_request"),
        ({**START, "max_lag": 1e9}, "bad_request"),
        ({**START, "raw": {"depth": 1}}, "bad_request"),
        ({**START, "raw": {"width": 10**6, "height": 10**6}}, "bad_media"),
        ("[" * 100_000, "bad_request"),
    ],
)
def test_a_start_that_makes_no_sense(server: Server, start: Any, code: str) -> None:
    (only,) = Camera(server, start).messages()
    assert only["type"] == "error" and only["error"]["code"] == code


def test_what_is_no_media_is_said(server: Server) -> None:
    camera = Camera(server)
    camera.send(b"no video" * 1000)
    camera.end()
    *_, last = camera.messages()
    assert last["type"] == "error" and last["error"]["code"] == "bad_media"
    assert "/" not in last["error"]["message"]  # no path of the server


def test_pages_of_others_may_not_connect(server: Server) -> None:
    """A browser lets any page open a WebSocket; what it sends says which page it was."""
    address = server.url.partition("://")[2]
    for origin in ("http://elsewhere.example", "null", f"http://{address}0"):
        with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
            websocket.create_connection(f"ws://{address}/v1/live", origin=origin)
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        websocket.create_connection(f"ws://{address}/v1/live", host="rebound.example", suppress_origin=True)
    websocket.create_connection(f"ws://{address}/v1/live", origin=f"http://{address}").close()


def test_a_client_that_goes_away_leaves_nothing(server: Server, recording: Callable[[int], Path]) -> None:
    camera = Camera(server)
    assert next(camera.messages())["type"] == "ready"
    camera.send(recording(0).read_bytes())
    assert next(camera.messages())["type"] == "prediction"
    camera.socket.close()
    until(lambda: server.metric('mmx_queue{queue="live"}') == 0, "the camera to be gone")
    until(lambda: len(server.workers()) == 1, "its worker to be gone")


def test_limits(start: Start) -> None:
    with start("--workers", "1", "--idle", "3") as server:
        check_that_a_client_waits_for_its_worker(server)
        *_, last = Camera(server).messages()
        assert last["error"]["code"] == "slow_upload"


def check_that_a_client_waits_for_its_worker(server: Server) -> None:
    """Of what it sends no more is kept than fits in the pipe and the sockets."""
    before = server.workers()
    camera = Camera(server)
    assert next(camera.messages())["type"] == "ready"
    until(lambda: len(server.workers()) == 2, "its worker")
    (worker,) = {*server.workers()} - {*before}
    os.kill(worker, signal.SIGSTOP)
    camera.socket.settimeout(1.0)
    sent = 0
    with pytest.raises((websocket.WebSocketTimeoutException, BlockingIOError, TimeoutError)):
        while sent < 256 * 2**20:
            camera.socket.send_binary(bytes(2**20))
            sent += 2**20
    assert sent < 64 * 2**20
    camera.socket.sock.close()
    until(lambda: server.metric('mmx_queue{queue="live"}') == 0, "the camera to be gone")
    until(lambda: server.workers() == before, "its worker to be gone")


def test_a_key_and_the_end_of_the_server(start: Start, recording: Callable[[int], Path], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("open-sesame-open-sesame")
    with start("--workers", "1", "--api-key-file", str(tmp_path / "key"), "--drain", "60") as server:
        (only,) = Camera(server).messages()
        assert only["error"]["code"] == "no_key"
        camera = Camera(server, {**START, "key": "open-sesame-open-sesame"})
        messages = camera.messages()
        assert next(messages)["type"] == "ready"
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        *_, last = messages
        assert last["error"]["code"] == "shutting_down"
        server.process.wait(PATIENCE_S)
        assert time.monotonic() - began < 60  # cameras are not waited for


def test_a_camera_may_not_go_on_for_ever(start: Start) -> None:
    with start("--workers", "1", "--live-seconds", "1") as server:
        *_, last = Camera(server).messages()
        assert last["error"]["code"] == "too_long"
