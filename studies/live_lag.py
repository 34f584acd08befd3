"""How late live answers are: a made-up camera over loopback, which plays a short recording again and again.

    python studies/live_lag.py BUNDLE VIDEO --minutes 30 --precision bf16 --out live_lag.json

VIDEO is encoded as a camera sends it (no B frames) and streamed over HTTP as MPEG-TS, each frame at its time. Reported:
the lag from a window's end to its answer, its drift (the median of the last fifth against that of the first), what was
dropped, and the memory of both processes over time.
"""

from __future__ import annotations

import argparse
import http.server
import io
import json
import os
import threading
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np

from mmx.evaluation.environment import describe
from mmx.runtime.errors import ConnectionLost
from mmx.runtime.live.live import Live

SPEED = {"preset": "ultrafast", "tune": "zerolatency"}
RSS_EVERY = 20  # answers


def recorded(video: Path) -> tuple[list[np.ndarray], float, np.ndarray]:
    """The frames of a video, frames a second, and its sound at 16 kHz [samples]."""
    with av.open(video) as source:
        rate = float(source.streams.video[0].average_rate or 25)
        frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    with av.open(video) as source:
        resampler = av.AudioResampler("fltp", "mono", 16000)
        parts = [part.to_ndarray()[0] for frame in source.decode(audio=0) for part in resampler.resample(frame)]
    return frames, rate, np.concatenate(parts)


class Out(io.RawIOBase):
    """What FFmpeg writes goes to a socket, without a seek."""

    def __init__(self, file: Any, copy: Any = None) -> None:
        self._file, self._copy = file, copy

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.write(bytes(data))
        self._file.flush()
        if self._copy:
            self._copy.write(bytes(data))
        return len(data)


def send(file: Any, video: Path, seconds: float, copy: Any = None) -> None:
    """The recording again and again, as MPEG-TS, each frame at its time."""
    frames, rate, sound = recorded(video)
    with av.open(Out(file, copy), "w", format="mpegts", options={"flush_packets": "1"}) as out:
        picture = out.add_stream("libx264", rate=round(rate), options=SPEED)
        picture.height, picture.width = frames[0].shape[:2]
        picture.pix_fmt, picture.gop_size = "yuv420p", round(rate)
        audio = out.add_stream("aac", rate=16000, layout="mono")
        began = time.monotonic()
        heard = 0
        for number in range(int(seconds * round(rate))):
            now = number / round(rate)
            time.sleep(max(0.0, began + now - time.monotonic()))
            frame = av.VideoFrame.from_ndarray(frames[number % len(frames)], format="rgb24")
            out.mux(picture.encode(frame))
            while heard + 1024 <= now * 16000:
                places = np.arange(heard, heard + 1024) % len(sound)
                part = av.AudioFrame.from_ndarray(sound[places][None], format="fltp", layout="mono")
                part.sample_rate, part.pts = 16000, heard
                out.mux(audio.encode(part))
                heard += 1024


def camera(video: Path, seconds: float, copy: Path | None = None) -> tuple[http.server.ThreadingHTTPServer, str]:
    """An HTTP server that is a camera, and its URL; ``copy``: what it sent is kept there."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with copy.open("wb") if copy else nullcontext() as kept:
                send(self.wfile, video, seconds, kept)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/"


def rss() -> dict[str, float]:
    """MB of this process and of its workers."""
    found = {"parent": _rss("self"), "worker": 0.0}
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            if b"workers.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                found["worker"] = _rss(child)
    return found


def _rss(pid: str) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def measured(live: Live) -> dict[str, Any]:
    """What the study reports of a run."""
    lags, memory = [], []
    with suppress(ConnectionLost):  # the camera's end
        for each in live:
            assert each.lag_s is not None
            lags.append(each.lag_s)
            if len(lags) % RSS_EVERY == 0:
                memory.append(rss())
    fifth = max(1, len(lags) // 5)
    return {
        "answers": len(lags),
        "lag_ms": {str(part): round(1000 * float(np.percentile(lags, part)), 1) for part in (50, 90, 95, 99, 100)},
        "drift_ms": round(1000 * (median(lags[-fifth:]) - median(lags[:fifth])), 1),
        "dropped": live.counts.dropped,
        "skipped": live.counts.skipped,
        "rss_mb": [{name: round(value, 1) for name, value in each.items()} for each in memory],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--faces", default="exact")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    server, url = camera(given.video, 60 * given.minutes)
    before = os.getloadavg()
    options = {"backend": given.backend, "precision": given.precision, "faces": given.faces, "threads": given.threads}
    with Live(given.bundle, url, reconnect_s=0, **options) as live:
        result = {
            "minutes": given.minutes,
            "backend": live.backend.name,
            "precision": live.backend.precision,
            "faces": given.faces,
            "load_before": before,
        }
        try:
            result |= measured(live)
        finally:
            server.shutdown()
    result |= {"load_after": os.getloadavg(), "environment": asdict(describe())}
    text = json.dumps(result, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
