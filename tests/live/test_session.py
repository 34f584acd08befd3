"""A source from its first packet to its last answer: through the worker and the network, lost and found again."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
import live_lag
import numpy as np
import pytest

from mmx.cli.main import main
from mmx.runtime.errors import BadDataError, ConnectionLost, MissingPath, MmxError, UsageError
from mmx.runtime.live.live import Live, LiveCounts
from mmx.runtime.live.session import Session, _Waiting
from mmx.runtime.prediction import Prediction
from mmx.runtime.predictor import Predictor
from mmx.runtime.preprocess import Segment
from mmx.runtime.streaming.segments import LiveSegment, LiveTask
from mmx.runtime.streaming.sources import LiveSource
from mmx.runtime.types import Sample, Span
from mmx.runtime.workers.task import Rejected


@pytest.fixture(scope="module")
def clip(make_video: Callable[..., Path]) -> Path:
    return make_video("clip.mp4", 4.0)


@pytest.fixture(scope="module")
def webm(make_video: Callable[..., Path]) -> bytes:
    """As a browser's MediaRecorder sends it: no length, no index."""
    path = make_video("live.webm", 3.0, codec="libvpx", sound="libopus", rate=48000)
    out = path.with_name("stream.webm")
    with av.open(path) as source, av.open(out, "w", options={"live": "1"}) as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return out.read_bytes()


def test_answers_are_those_of_predict(tiny_bundle: Path, clip: Path) -> None:
    with Live(tiny_bundle, str(clip), window=2.0, hop=1.0, pace="none", backend="onnxruntime") as live:
        found = [each.prediction for each in live]
        assert live.counts.answered == len(found) == 3 and live.counts.dropped == live.counts.skipped == 0
    spans = [Span(each.start, each.start + 2.0) for each in found]
    with Predictor(tiny_bundle, backend="onnxruntime", batch_size=1, asr="none") as predictor:
        there = list(predictor.predict(str(clip), transcript=spans))
    for one, other in zip(found, there, strict=True):
        assert same(one) == same(other)


def same(prediction: Prediction) -> dict[str, Any]:
    plain = prediction.to_dict()
    cue = ("transcript_covers_part",)  # spans that overlap cover more than the file
    flags = [flag for flag in plain["flags"] if flag not in cue]
    return {**plain, "timings_ms": None, "end": round(plain["end"], 9), "flags": flags}


@contextmanager
def served(*bodies: bytes | int) -> Iterator[tuple[str, list[str]]]:
    """A server that sends one body (or status) after another, then 404; and the paths that were asked for."""
    waiting, asked = list(bodies), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = waiting.pop(0) if waiting else 404
            self.send_response(body if isinstance(body, int) else 200)
            self.send_header("connection", "close")
            self.end_headers()
            if isinstance(body, bytes):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://user:hunter2@127.0.0.1:{server.server_port}/cam?token=hunter3", asked
        finally:
            server.shutdown()


def run_camera(bundle: Path, video: Path, seconds: float, copy: Path) -> tuple[LiveCounts, list[Prediction]]:
    """The counts and answers of a camera that sends each frame at its time; what it sent goes to ``copy``."""
    server, url = live_lag.camera(video, seconds, copy)
    found = []
    options: dict[str, Any] = {"window": 2.0, "hop": 0.5, "reconnect_s": 0.0, "max_lag": 60.0}
    with Live(bundle, url, backend="onnxruntime", threads=1, **options) as live, suppress(ConnectionLost):
        for each in live:
            found.append(each.prediction)
    server.shutdown()
    return live.counts, found


def test_a_camera_at_its_own_speed_is_answered_as_its_recording_is(
    tiny_bundle: Path, clip: Path, tmp_path: Path
) -> None:
    """How late answers are is for studies/live_lag.py: this machine may be busy."""
    counts, found = run_camera(tiny_bundle, clip, 4.0, tmp_path / "sent.ts")
    assert counts.dropped == 0 and len(found) == counts.answered > 0
    spans = [Span(each.start, each.start + 2.0) for each in found]
    with Predictor(tiny_bundle, backend="onnxruntime", batch_size=1, asr="none") as predictor:
        for one, other in zip(found, predictor.predict(tmp_path / "sent.ts", transcript=spans), strict=True):
            assert one.logits == pytest.approx(other.logits, abs=1e-5)
            assert (one.frames_seen, one.faces) == (other.frames_seen, other.faces)


@pytest.mark.slow
def test_half_an_hour_of_a_camera(tiny_bundle: Path, clip: Path, tmp_path: Path) -> None:
    """No lag adds up, and no memory; times are those of the stream."""
    server, url = live_lag.camera(clip, 1800.0)
    with Live(tiny_bundle, url, backend="onnxruntime", threads=1, reconnect_s=0.0) as live:
        result = live_lag.measured(live)
    server.shutdown()
    assert result["answers"] + result["skipped"] >= 3590 and abs(result["drift_ms"]) < 200
    memory = result["rss_mb"]
    for process in ("parent", "worker"):
        early = max(each[process] for each in memory[len(memory) // 10 : len(memory) // 4])
        assert memory[-1][process] < early + 32


def test_a_stream_that_is_lost_is_opened_again(tiny_bundle: Path, webm: bytes) -> None:
    lost: list[str] = []
    with served(webm, webm) as (url, asked):
        live = Live(
            tiny_bundle, url, window=1.0, hop=0.5, backend="onnxruntime", reconnect_s=0.5, on_lost=lost.append,
            max_lag=60.0,
        )  # fmt: skip
        found = []
        with live, pytest.raises(ConnectionLost) as error:
            for each in live:
                found.append(each)
        counts = live.counts
    assert len(asked) >= 3 and counts.reconnects >= 1 and len(lost) == counts.reconnects
    assert found[-1].reconnects >= 1  # there were answers after it came back
    starts = [each.prediction.start for each in found]
    assert starts == sorted(starts) and len(set(starts)) == len(starts)
    assert "hunter" not in " ".join([*lost, str(error.value), *(each.prediction.file for each in found)])
    assert all(each.prediction.file.startswith("http://***@127.0.0.1") for each in found)


def test_a_stream_that_was_never_there_is_an_error_at_once(tiny_bundle: Path) -> None:
    with served(404) as (url, asked), Live(tiny_bundle, url, backend="onnxruntime") as live:
        with pytest.raises(ConnectionLost, match=r"http://\*\*\*@.* cannot be opened"):
            next(iter(live))
        assert len(asked) == 1


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("body", [PLAYLIST, b"ffconcat version 1.0\nfile /etc/passwd\n", b"hello" * 100])
def test_what_points_elsewhere_is_not_followed(body: bytes, tiny_bundle: Path) -> None:
    with served(body) as (url, asked), Live(tiny_bundle, url, backend="onnxruntime") as live:
        with pytest.raises(BadDataError, match=r"cannot be read as media|cannot be opened"):
            next(iter(live))
        assert len(asked) == 1


def test_words_for_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    kinds = {"rtsp://h/x": "url", "https://h/x": "url", "0": "camera", "/dev/null": "camera"}
    kinds |= {"7": "file", "pipe": "pipe", "-": "pipe"}
    assert {word: LiveSource.of(word).kind for word in kinds} == kinds
    for word in ("file:///etc/passwd", "concat://x", "hls+http://h"):
        with pytest.raises(UsageError, match="not taken"):
            LiveSource.of(word)
    with pytest.raises(MissingPath):
        LiveSource.of("no.mp4")


@pytest.mark.skipif(Path("/dev/video0").exists(), reason="this machine has a camera")
def test_a_camera_that_is_not_there(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As far as a machine without one can go: FFmpeg's camera input is there, and says that the device is not."""
    assert main(["live", str(tiny_bundle), "0", "--backend", "onnxruntime"]) == BadDataError.exit_code
    assert "camera 0 cannot be opened: No such file or directory" in capsys.readouterr().err


def segment(start: float, person: str = "") -> LiveSegment:
    sample = Sample(None, np.empty((0, 3, 48, 48), np.float32), np.empty((0, 128, 32), np.float32))
    return LiveSegment(Segment(person, Span(start, start + 1), sample, {}, (), 0, (), {}), 0.0, 0, 0)


def test_only_the_newest_window_waits() -> None:
    async def run() -> None:
        waiting = _Waiting()
        assert waiting.put(segment(0), 1.0, keep=False) == 0
        assert waiting.put(segment(0, "another person"), 1.0, keep=False) == 0
        assert waiting.put(segment(1), 2.0, keep=False) == 1  # the window, with both
        newest = await waiting.take()
        assert newest is not None and newest.came == 2.0 and len(newest.segments) == 1
        waiting.put(segment(2), 3.0, keep=True)
        assert waiting.put(segment(3), 4.0, keep=True) == 0
        waiting.end()
        assert [window.came for window in (await waiting.take(), await waiting.take()) if window] == [3.0, 4.0]
        assert await waiting.take() is None

    asyncio.run(run())


def test_the_command_on_a_file(
    tiny_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "new" / "answers.jsonl"
    options = ["--window", "2", "--hop", "1", "--pace", "none", "--backend", "onnxruntime", "--record", str(kept)]
    assert main(["live", str(tiny_bundle), str(clip), "--json", *options]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["start"] for line in lines] == [0.0, 1.0, 2.0]
    assert lines[0].pop("live") == {"lag_s": None, "dropped": 0, "skipped": 0, "reconnects": 0}
    recorded = [Prediction.from_dict(json.loads(line)) for line in kept.read_text().splitlines()]
    assert [each.start for each in recorded] == [0.0, 1.0, 2.0] and recorded[0] == Prediction.from_dict(lines[0])
    assert "3 answers" in err and "0 frames dropped, 0 windows skipped" in err
    assert main(["live", str(tiny_bundle), str(clip), *options]) == UsageError.exit_code  # it holds answers
    assert "holds something" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["no.mp4"], "no.mp4 cannot be read"),
        (["ftp://h/x"], "ftp:// is not taken"),
        (["0", "--window", "utterance"], "a stream has no utterances yet"),
        (["0", "--hop", "5"], "leaves gaps"),
    ],
)
def test_mistakes(arguments: list[str], says: str, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", str(tiny_bundle), *arguments, "--backend", "onnxruntime"]) == UsageError.exit_code
    assert says in capsys.readouterr().err


def test_ctrl_c_ends_it_with_a_summary(tiny_bundle: Path, webm: bytes, tmp_path: Path) -> None:
    """The source is a pipe that is written to once and stays open, as of a camera that goes on."""
    pipe = tmp_path / "camera"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "mmx.cli.main", "live", str(tiny_bundle), str(pipe), "--window", "1"]
    command += ["--backend", "onnxruntime", "--max-lag", "60"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    feeder = pipe.open("wb")
    try:
        feeder.write(webm)
        feeder.flush()
        assert running.stdout is not None
        assert "0.00-1.00 s" in running.stdout.readline()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
        feeder.close()
    assert running.returncode == 0 and "Traceback" not in err
    assert "answers" in err and "behind (median)" in err


def test_a_worker_that_dies_is_an_error(tiny_bundle: Path, webm: bytes, tmp_path: Path) -> None:
    pipe = tmp_path / "camera"
    os.mkfifo(pipe)
    feeder = os.open(pipe, os.O_RDWR)  # which does not wait for a reader
    writing = threading.Thread(target=os.write, args=(feeder, webm), daemon=True)
    with Live(tiny_bundle, str(pipe), window=1.0, backend="onnxruntime", max_lag=60.0) as live:
        writing.start()
        answers = iter(live)
        next(answers)
        children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        for child in " ".join(each.read_text() for each in children).split():
            if b"workers.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
        with pytest.raises(MmxError, match="crashes the decoder"):
            for _ in answers:
                pass
    os.close(feeder)


def test_a_worker_that_has_grown_too_large_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(None, LiveTask(LiveSource("url", "http://h/x", "x")), None, first_retry_s=0.0)  # type: ignore[arg-type]
    opened = []

    async def read_once(waiting: _Waiting) -> bool:
        opened.append(1)
        session.counts.answered += len(opened) < 3
        if len(opened) < 4:
            raise Rejected("too_much_memory", "x takes too much memory to decode")
        return True

    monkeypatch.setattr(session, "_read_once", read_once)
    with pytest.raises(Rejected):  # the third time nothing was answered
        asyncio.run(session._read(_Waiting()))
    assert len(opened) == 3 and session.counts.reconnects == 2
